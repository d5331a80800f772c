//! What is printed, and written as JSON.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::{Failure, cpu::Usage, measure::Tally};

/// How one phase of one run went.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PhaseResult {
    /// The phase.
    pub phase: String,
    /// The run, from 1.
    pub run: u32,
    /// Operations that were done in the time that counts.
    pub operations: u64,
    /// That time.
    pub seconds: f64,
    /// Operations a second.
    pub per_second: f64,
    /// From when an operation was defined until its answer was there.
    pub latency_us: LatencyResult,
    /// User and system time for each operation that was done.
    pub cpu_us_per_operation: CpuResult,
    /// Operations of the whole phase that were answered otherwise, by what was said.
    pub failed: BTreeMap<String, u64>,
    /// Messages of the whole phase that the client tried again, by the error.
    pub retried: BTreeMap<String, u64>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say all")]
pub struct LatencyResult {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl LatencyResult {
    /// From nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> LatencyResult {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        LatencyResult {
            mean: histogram.mean() / 1000.0,
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

/// CPU time in microseconds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CpuResult {
    /// Of this process.
    pub client: f64,
    /// Of all servers; none if none was seen.
    pub servers: Option<f64>,
    /// Of each server.
    pub by_server: BTreeMap<String, f64>,
}

impl CpuResult {
    /// What was used, by each of so many operations a second.
    pub fn of(usage: &Usage, per_second: f64) -> CpuResult {
        let each = |rate: f64| if per_second > 0.0 { rate / per_second * 1e6 } else { 0.0 };
        let by_server: BTreeMap<String, f64> =
            usage.servers.iter().map(|(name, &rate)| (name.clone(), each(rate))).collect();
        let servers = (!by_server.is_empty()).then(|| by_server.values().sum());
        CpuResult { client: each(usage.own), servers, by_server }
    }
}

impl PhaseResult {
    /// From what was counted in so many seconds.
    pub fn new(phase: &str, run: u32, seconds: f64, mut tally: Tally, usage: &Usage) -> PhaseResult {
        let per_second = tally.done as f64 / seconds.max(1e-9);
        PhaseResult {
            phase: phase.into(),
            run,
            operations: tally.done,
            seconds,
            per_second,
            latency_us: LatencyResult::of(tally.latencies.histogram()),
            cpu_us_per_operation: CpuResult::of(usage, per_second),
            failed: tally.failed,
            retried: tally.retried,
        }
    }
}

/// Medians of a phase over all runs.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[allow(missing_docs, reason = "as in the results")]
pub struct Median {
    pub phase: String,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub client_cpu_us: f64,
    pub servers_cpu_us: Option<f64>,
}

/// A benchmark's results.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report<S> {
    /// The subcommand.
    pub benchmark: &'static str,
    /// Of this program.
    pub version: &'static str,
    /// What it was run with.
    pub settings: S,
    /// In the order in which they were had.
    pub results: Vec<PhaseResult>,
    /// Of each phase, in the order of its first result.
    pub medians: Vec<Median>,
}

impl<S: Serialize> Report<S> {
    /// With the medians of these results.
    pub fn new(benchmark: &'static str, settings: S, results: Vec<PhaseResult>) -> Report<S> {
        let medians = medians(&results);
        Report { benchmark, version: env!("CARGO_PKG_VERSION"), settings, results, medians }
    }

    /// Prints the medians if there was more than one run, and writes the file if one is named.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(&self, json: Option<&Path>) -> Result<(), Failure> {
        if self.results.len() > self.medians.len() {
            println!("\nmedians of the runs");
            for median in &self.medians {
                println!("{}", median_line(median));
            }
        }
        json.map_or(Ok(()), |path| write_json(path, self))
    }
}

/// Writes something as JSON.
///
/// # Errors
/// If the file cannot be written.
pub fn write_json(path: &Path, what: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(what).expect("reports have text keys only");
    fs::write(path, text + "\n").map_err(|error| format!("--json {}: {error}", path.display()).into())
}

/// The middle one; of an even number, the mean of the two.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some((values[low] + values[high]) / 2.0)
}

fn medians(results: &[PhaseResult]) -> Vec<Median> {
    let mut phases: Vec<&str> = Vec::new();
    for result in results {
        if !phases.contains(&result.phase.as_str()) {
            phases.push(&result.phase);
        }
    }
    let of = |phase: &str, value: &dyn Fn(&PhaseResult) -> Option<f64>| {
        median(results.iter().filter(|result| result.phase == phase).filter_map(value))
    };
    let median_of = |phase: &str| Median {
        phase: phase.into(),
        per_second: of(phase, &|result| Some(result.per_second)).unwrap_or_default(),
        p50_us: of(phase, &|result| Some(result.latency_us.p50)).unwrap_or_default(),
        p99_us: of(phase, &|result| Some(result.latency_us.p99)).unwrap_or_default(),
        client_cpu_us: of(phase, &|result| Some(result.cpu_us_per_operation.client)).unwrap_or_default(),
        servers_cpu_us: of(phase, &|result| result.cpu_us_per_operation.servers),
    };
    phases.into_iter().map(median_of).collect()
}

/// The heading of what [`line()`] says.
pub fn heading() -> String {
    format!(
        "{:<8} {:>3} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10}   CPU µs per operation",
        "phase", "run", "per second", "p50 µs", "p95 µs", "p99 µs", "p99.9 µs", "max µs"
    )
}

fn cpu(client: f64, servers: Option<f64>) -> String {
    match servers {
        Some(servers) => format!("{:.2}: servers {servers:.2} + client {client:.2}", servers + client),
        None => format!("client {client:.2}, servers not seen"),
    }
}

/// A result for people: a line, and one more for each kind of failure.
pub fn line(result: &PhaseResult) -> String {
    let latency = &result.latency_us;
    let of_cpu = &result.cpu_us_per_operation;
    let mut text = format!(
        "{:<8} {:>3} {:>12.0} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1}   {}",
        result.phase,
        result.run,
        result.per_second,
        latency.p50,
        latency.p95,
        latency.p99,
        latency.p999,
        latency.max,
        cpu(of_cpu.client, of_cpu.servers)
    );
    for (what, counts) in [("failed", &result.failed), ("tried again", &result.retried)] {
        for (why, count) in counts {
            write!(text, "\n         {count} {what}: {why}").expect("a text takes all");
        }
    }
    text
}

fn median_line(median: &Median) -> String {
    format!(
        "{:<12} {:>12.0} /s   p50 {:.1} µs   p99 {:.1} µs   CPU µs {}",
        median.phase,
        median.per_second,
        median.p50_us,
        median.p99_us,
        cpu(median.client_cpu_us, median.servers_cpu_us)
    )
}

/// How often a progress bar is drawn anew.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// A bar on stderr, if that is a terminal.
pub fn progress_bar(label: String, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<10} [{bar:40}] {percent:>3}% {msg}");
    let style = style.expect("the template is sound").progress_chars("=> ");
    ProgressBar::new(length).with_style(style).with_prefix(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(phase: &str, run: u32, millis: u64) -> PhaseResult {
        let mut tally = Tally { done: 1000, ..Tally::default() };
        tally.latencies.add(millis * 1_000_000);
        tally.fail("TF-3005");
        let servers = BTreeMap::from([("a[1]".into(), 0.25), ("b[2]".into(), 0.25)]);
        PhaseResult::new(phase, run, 2.0, tally, &Usage { own: 0.1, servers })
    }

    #[test]
    fn cpu_time_is_shared_among_the_operations() {
        let result = result("read", 1, 10);
        assert_eq!(result.per_second, 500.0);
        assert_eq!(
            (result.cpu_us_per_operation.client, result.cpu_us_per_operation.servers),
            (200.0, Some(1000.0))
        );
        let text = line(&result);
        assert!(text.contains("1200.00: servers 1000.00 + client 200.00"), "{text}");
        assert!(text.ends_with("1 failed: TF-3005"), "{text}");
    }

    #[test]
    fn nothing_done_divides_nothing() {
        let usage = Usage { own: 0.1, servers: BTreeMap::new() };
        let result = PhaseResult::new("read", 1, 0.0, Tally::default(), &usage);
        assert_eq!((result.per_second, result.cpu_us_per_operation.client), (0.0, 0.0));
        assert_eq!(result.cpu_us_per_operation.servers, None);
    }

    #[test]
    fn medians_are_by_phase() {
        let results =
            [result("read", 1, 30), result("update", 1, 5), result("read", 2, 10), result("read", 3, 20)];
        let medians = medians(&results);
        let of = |place: usize| (medians[place].phase.as_str(), medians[place].p50_us.round());
        assert_eq!((of(0).0, of(1).0), ("read", "update"));
        assert!((of(0).1 - 20_000.0).abs() < 20.0, "{medians:?}");
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
