//! What happened in a run.

use std::collections::BTreeMap;

use twofold_proto::time::{Duration, Time};

use super::transactions::{Done, Fault, FaultClass, Kind};
use crate::measure::{Latencies, Window};

/// Under what it is kept what was said with an error of this name.
pub fn told_as(kind: &str, name: &str) -> String {
    format!("{kind}: {name}")
}

/// What became of the transactions of a kind.
#[derive(Clone, Default, Debug)]
pub struct OfKind {
    /// In the window: committed.
    pub committed: u64,
    /// In the window: rolled back as the specification wants it.
    pub rolled_back: u64,
    /// In the window: from when it was sent until it was answered, with all attempts.
    pub latencies: Latencies,
    /// In the whole run: attempts that were begun anew, by what was said.
    pub retried: BTreeMap<String, u64>,
    /// In the whole run: those of which nobody knows whether they were done.
    pub unknown: BTreeMap<String, u64>,
    /// In the whole run: those that were not done.
    pub failed: BTreeMap<String, u64>,
}

/// What became of all.
#[derive(Clone, Debug)]
pub struct Counts {
    /// By kind.
    pub kinds: [OfKind; 5],
    /// Commits by kind in each interval of the whole run.
    pub timeline: Vec<[u64; 5]>,
    window: Window,
    interval: Duration,
    /// What was said first, by transaction and name.
    pub told: BTreeMap<String, String>,
}

impl Counts {
    /// Nothing yet.
    pub fn new(window: Window, interval: Duration) -> Counts {
        let all = window.end.since(window.start).as_nanos();
        let intervals = all.div_ceil(interval.as_nanos()) as usize;
        let timeline = vec![[0; 5]; intervals];
        Counts { kinds: Default::default(), timeline, window, interval, told: BTreeMap::new() }
    }

    /// A transaction was done.
    pub fn done(&mut self, kind: Kind, done: Done, begun: Time, now: Time) {
        let place = (now.since(self.window.start).as_nanos() / self.interval.as_nanos()) as usize;
        if done == Done::Committed
            && let Some(interval) = self.timeline.get_mut(place)
        {
            interval[kind as usize] += 1;
        }
        if !self.window.counts(now) {
            return;
        }
        let of_kind = &mut self.kinds[kind as usize];
        match done {
            Done::Committed => of_kind.committed += 1,
            Done::RolledBack => of_kind.rolled_back += 1,
        }
        of_kind.latencies.add(now.since(begun).as_nanos() as u64);
    }

    /// An attempt has failed; `again`: there will be another one.
    pub fn fault(&mut self, kind: Kind, fault: Fault, again: bool) {
        let of_kind = &mut self.kinds[kind as usize];
        let counts = match (fault.class, again) {
            (_, true) => &mut of_kind.retried,
            (FaultClass::Unknown, false) => &mut of_kind.unknown,
            _ => &mut of_kind.failed,
        };
        self.told.entry(told_as(kind.name(), &fault.name)).or_insert(fault.text);
        *counts.entry(fault.name).or_default() += 1;
    }

    /// Adds those of another thread, of the same run.
    pub fn merge(&mut self, other: Counts) {
        for (into, from) in self.kinds.iter_mut().zip(other.kinds) {
            into.committed += from.committed;
            into.rolled_back += from.rolled_back;
            into.latencies.merge(from.latencies);
            let maps = [
                (&mut into.retried, from.retried),
                (&mut into.unknown, from.unknown),
                (&mut into.failed, from.failed),
            ];
            for (into, from) in maps {
                from.into_iter().for_each(|(name, count)| *into.entry(name).or_default() += count);
            }
        }
        for (into, from) in self.timeline.iter_mut().zip(other.timeline) {
            into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
        }
        for (name, text) in other.told {
            self.told.entry(name).or_insert(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_counts_where_it_belongs() {
        let second = Duration::from_secs(1);
        let window = Window::timed(Time::from_millis(1000), second, second, second);
        let mut counts = Counts::new(window, Duration::from_millis(500));
        assert_eq!(counts.timeline.len(), 6);
        let at = Time::from_millis;
        counts.done(Kind::Payment, Done::Committed, at(1000), at(1600));
        counts.done(Kind::Payment, Done::Committed, at(2000), at(2100));
        counts.done(Kind::NewOrder, Done::RolledBack, at(2000), at(2200));
        counts.done(Kind::NewOrder, Done::Committed, at(3000), at(9200));
        let fault = Fault { class: FaultClass::Retry, name: "1213".into(), text: "deadlock".into() };
        counts.fault(Kind::NewOrder, fault.clone(), true);
        counts.fault(Kind::NewOrder, fault, false);
        let mut all = counts.clone();
        all.merge(counts);
        let [new_order, payment, ..] = &mut all.kinds;
        assert_eq!((payment.committed, new_order.committed, new_order.rolled_back), (2, 0, 2));
        assert_eq!((new_order.retried["1213"], new_order.failed["1213"]), (2, 2));
        assert_eq!(payment.latencies.histogram().len(), 2);
        assert_eq!(all.timeline.iter().map(|interval| interval[1]).collect::<Vec<_>>(), [0, 2, 2, 0, 0, 0]);
        assert_eq!(all.told["New-Order: 1213"], "deadlock");
    }
}
