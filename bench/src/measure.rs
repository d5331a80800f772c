//! What counts: the window of a phase, and what happened in it.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use twofold_proto::time::{Duration, Time};

/// Latencies are told apart from about this many nanoseconds on, to three digits.
const LATENCY_MIN: u64 = 100;
/// Longer ones count as this.
const LATENCY_MAX: u64 = 120_000_000_000;

/// When a phase begins and ends, and which part of it counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// When load begins.
    pub start: Time,
    /// What is answered from here on counts.
    pub from: Time,
    /// What is answered from here on does not count any more.
    pub until: Time,
    /// When load ends.
    pub end: Time,
}

impl Window {
    /// Warm-up, measure and cool-down from a time on.
    pub fn timed(start: Time, warm_up: Duration, measure: Duration, cool_down: Duration) -> Window {
        let from = start + warm_up;
        let until = from + measure;
        Window { start, from, until, end: until + cool_down }
    }

    /// From a time on until all is done; all of it counts.
    pub fn unbounded(start: Time) -> Window {
        let never = Time(u64::MAX);
        Window { start, from: start, until: never, end: never }
    }

    /// Whether what is answered at this time counts.
    #[inline]
    pub fn counts(&self, now: Time) -> bool {
        self.from <= now && now < self.until
    }
}

/// Latencies, in nanoseconds. Equal ones in a row, as answers of one frame have them, cost little.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
    run: (u64, u64),
}

impl Default for Latencies {
    fn default() -> Latencies {
        let histogram =
            Histogram::new_with_bounds(LATENCY_MIN, LATENCY_MAX, 3).expect("the bounds are sound");
        Latencies { histogram, run: (0, 0) }
    }
}

impl Latencies {
    /// Adds one, in nanoseconds.
    #[inline]
    pub fn add(&mut self, latency: u64) {
        if latency != self.run.0 {
            self.flush();
            self.run.0 = latency;
        }
        self.run.1 += 1;
    }

    fn flush(&mut self) {
        let (latency, count) = self.run;
        self.histogram.saturating_record_n(latency.min(LATENCY_MAX), count);
        self.run.1 = 0;
    }

    /// Adds those of another thread.
    pub fn merge(&mut self, mut other: Latencies) {
        other.flush();
        self.flush();
        self.histogram.add(&other.histogram).expect("both have the same bounds");
    }

    /// The histogram.
    pub fn histogram(&mut self) -> &Histogram<u64> {
        self.flush();
        &self.histogram
    }
}

/// A tally on its way from one process to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TallyRecord {
    done: u64,
    /// Latencies, and how many.
    latencies: Vec<(u64, u64)>,
    failed: BTreeMap<String, u64>,
    retried: BTreeMap<String, u64>,
}

impl From<Tally> for TallyRecord {
    fn from(mut tally: Tally) -> TallyRecord {
        let recorded = tally.latencies.histogram().iter_recorded();
        let latencies = recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
        TallyRecord { done: tally.done, latencies, failed: tally.failed, retried: tally.retried }
    }
}

impl From<TallyRecord> for Tally {
    fn from(record: TallyRecord) -> Tally {
        let mut latencies = Latencies::default();
        for (latency, count) in record.latencies {
            latencies.histogram.saturating_record_n(latency, count);
        }
        Tally { done: record.done, latencies, failed: record.failed, retried: record.retried }
    }
}

/// What happened in the window, or in the whole phase where it says so.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// Operations that were done.
    pub done: u64,
    /// Of those.
    pub latencies: Latencies,
    /// In the whole phase: operations that were answered otherwise, by what was said.
    pub failed: BTreeMap<String, u64>,
    /// In the whole phase: messages that the client tried again, by the error.
    pub retried: BTreeMap<String, u64>,
}

impl Tally {
    /// Notes an operation that failed.
    pub fn fail(&mut self, why: impl Into<String>) {
        *self.failed.entry(why.into()).or_default() += 1;
    }

    /// Adds that of another thread.
    pub fn merge(&mut self, other: Tally) {
        self.done += other.done;
        self.latencies.merge(other.latencies);
        for (into, from) in [(&mut self.failed, other.failed), (&mut self.retried, other.retried)] {
            for (what, count) in from {
                *into.entry(what).or_default() += count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_in_the_window_counts() {
        let second = Duration::from_secs(1);
        let window = Window::timed(Time::from_millis(500), second, 2 * second, second);
        let counts = |millis| window.counts(Time::from_millis(millis));
        assert_eq!([1499, 1500, 3499, 3500].map(counts), [false, true, true, false]);
        assert_eq!(window.end, Time::from_millis(4500));
    }

    #[test]
    fn latencies_of_threads_are_merged_with_their_runs() {
        let mut all = Latencies::default();
        let mut other = Latencies::default();
        (0..3).for_each(|_| all.add(10_000));
        (0..2).for_each(|_| other.add(500_000));
        other.add(1_000_000_000_000);
        all.merge(other);
        let histogram = all.histogram();
        assert_eq!(histogram.len(), 6);
        assert!((9_900..=10_100).contains(&histogram.value_at_quantile(0.5)));
        assert!(histogram.max() >= LATENCY_MAX, "{}", histogram.max());
        // As another process hears of them.
        let mut tally = Tally { done: 6, latencies: all.clone(), ..Tally::default() };
        tally.fail("why");
        let record = TallyRecord::from(tally);
        let told: TallyRecord = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        let mut heard = Tally::from(told);
        assert_eq!((heard.done, heard.failed["why"]), (6, 1));
        assert_eq!(heard.latencies.histogram(), all.histogram());
    }
}
