//! What a run has brought, as text and as JSON; `page` makes HTML of it.

use std::{collections::BTreeMap, fmt::Write as _};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    counts::{OfKind, told_as},
    run::{Plan, Ran},
    schema::Sizes,
    transactions::Kind,
};
use crate::{
    cpu::Usage,
    report::{CpuResult, LatencyResult},
};

/// What the run was.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say all")]
pub struct Settings {
    pub driver: String,
    pub database: String,
    pub warehouses: u64,
    pub scale: u64,
    pub terminals: u64,
    pub threads: u16,
    pub think_times: bool,
    pub warm_up_s: f64,
    pub measure_s: f64,
    pub cool_down_s: f64,
    pub seed: u64,
}

/// What became of the transactions of a kind.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct KindResult {
    /// Which.
    pub transaction: &'static str,
    /// In the time that counts.
    pub committed: u64,
    /// The same for each second.
    pub per_second: f64,
    /// Of all that were committed in that time.
    pub share_percent: f64,
    /// New-Orders with an unused item, in that time.
    pub rolled_back: u64,
    /// From when it was sent until it was answered, with all attempts.
    pub latency_us: LatencyResult,
    /// Latencies, and what share of all, in percent, was no longer.
    pub latency_distribution_us: Vec<(f64, f64)>,
    /// In the whole run: attempts that were begun anew, by the error.
    pub retried: BTreeMap<String, u64>,
    /// In the whole run: outcomes that nobody told.
    pub unknown: BTreeMap<String, u64>,
    /// In the whole run: transactions that were not done.
    pub failed: BTreeMap<String, u64>,
}

/// Commits over time.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Timeline {
    /// How long an interval is.
    pub interval_s: f64,
    /// When the time that counts begins, from the start of the run.
    pub from_s: f64,
    /// When it ends.
    pub until_s: f64,
    /// Commits of each interval: New-Order, Payment, Order-Status, Delivery, Stock-Level.
    pub committed: Vec<[u64; 5]>,
}

/// Something that was done in the course of the run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EventResult {
    /// From the start of the run.
    pub at_s: f64,
    /// The command.
    pub command: String,
}

/// All of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// `dbt2`.
    pub benchmark: &'static str,
    /// Of this program.
    pub version: &'static str,
    /// What the run was.
    pub settings: Settings,
    /// Whether the tables have their full sizes.
    pub comparable: bool,
    /// New-Orders that were committed in a minute.
    pub notpm: f64,
    /// Transactions of all kinds that were committed in a second.
    pub per_second: f64,
    /// CPU time of a transaction of any kind.
    pub cpu_us_per_transaction: CpuResult,
    /// By kind.
    pub transactions: Vec<KindResult>,
    /// Commits over time.
    pub timeline: Timeline,
    /// What was done meanwhile.
    pub events: Vec<EventResult>,
    /// What errors mean: what was said with the first of each transaction and name.
    pub errors: BTreeMap<String, String>,
}

/// Points of a latency distribution, at most.
const STEPS_PER_HALF: u32 = 8;

fn distribution(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let steps = histogram.iter_quantiles(STEPS_PER_HALF);
    steps.map(|step| (step.value_iterated_to() as f64 / 1000.0, 100.0 * step.quantile())).collect()
}

impl Report {
    /// Of what a run has brought.
    pub fn new(driver: &str, database: String, sizes: Sizes, plan: &Plan, ran: Ran, usage: &Usage) -> Report {
        let [warm_up, measure, cool_down] = plan.times.map(|time| time.as_secs_f64());
        let settings = Settings {
            driver: driver.into(),
            database,
            warehouses: sizes.warehouses,
            scale: sizes.scale,
            terminals: plan.terminals,
            threads: plan.threads,
            think_times: plan.think,
            warm_up_s: warm_up,
            measure_s: measure,
            cool_down_s: cool_down,
            seed: plan.seed,
        };
        let all: u64 = ran.counts.kinds.iter().map(|of_kind| of_kind.committed).sum();
        let rate = |count: u64| count as f64 / measure.max(1e-9);
        let result = |(kind, of_kind): (Kind, OfKind)| {
            let mut latencies = of_kind.latencies;
            KindResult {
                transaction: kind.name(),
                committed: of_kind.committed,
                per_second: rate(of_kind.committed),
                share_percent: 100.0 * of_kind.committed as f64 / all.max(1) as f64,
                rolled_back: of_kind.rolled_back,
                latency_us: LatencyResult::of(latencies.histogram()),
                latency_distribution_us: distribution(latencies.histogram()),
                retried: of_kind.retried,
                unknown: of_kind.unknown,
                failed: of_kind.failed,
            }
        };
        let transactions: Vec<KindResult> = Kind::ALL.into_iter().zip(ran.counts.kinds).map(result).collect();
        let event =
            |event: &super::run::Event| EventResult { at_s: event.at, command: event.command.clone() };
        Report {
            benchmark: "dbt2",
            version: env!("CARGO_PKG_VERSION"),
            settings,
            comparable: sizes.scale == 1,
            notpm: transactions[Kind::NewOrder as usize].per_second * 60.0,
            per_second: rate(all),
            cpu_us_per_transaction: CpuResult::of(usage, rate(all)),
            transactions,
            timeline: Timeline {
                interval_s: ran.interval.as_secs_f64(),
                from_s: warm_up,
                until_s: warm_up + measure,
                committed: ran.counts.timeline,
            },
            events: plan.events.iter().map(event).collect(),
            errors: ran.counts.told,
        }
    }

    /// What it was run on, in a line.
    pub fn setting(&self) -> String {
        let Settings { driver, database, warehouses, terminals, think_times, .. } = &self.settings;
        let think = if *think_times { "with think times" } else { "no think times" };
        let warehouses = twofold_proto::error::counted(*warehouses as usize, "warehouse");
        let terminals = twofold_proto::error::counted(*terminals as usize, "terminal");
        format!("{driver} driver, {database}: {warehouses}, {terminals}, {think}")
    }

    /// What is said where the tables are smaller than they should be.
    pub fn warning(&self) -> Option<String> {
        let scale = self.settings.scale;
        let text = "times fewer items and customers than TPC-C has: not comparable with anything";
        (!self.comparable).then(|| format!("{scale} {text}"))
    }

    /// The results of each kind: what has its own heading, and its lines.
    pub fn table(&self) -> (String, Vec<String>) {
        let heading = format!(
            "{:<13} {:>10} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}",
            "",
            "per second",
            "committed",
            "share",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
            "roll-backs",
            "retries",
            "failed"
        );
        let ms = |us: f64| us / 1000.0;
        let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
        let line = |kind: &KindResult| {
            let latency = &kind.latency_us;
            format!(
                "{:<13} {:>10.1} {:>9} {:>6.1}% {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>10} {:>7} {:>7}",
                kind.transaction,
                kind.per_second,
                kind.committed,
                kind.share_percent,
                ms(latency.p50),
                ms(latency.p95),
                ms(latency.p99),
                ms(latency.p999),
                ms(latency.max),
                kind.rolled_back,
                sum(&kind.retried),
                sum(&kind.failed) + sum(&kind.unknown)
            )
        };
        (heading, self.transactions.iter().map(line).collect())
    }

    /// Errors, a line for each kind and name.
    pub fn errors(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for kind in &self.transactions {
            let counts = [
                ("tried again", &kind.retried),
                ("outcome unknown", &kind.unknown),
                ("failed", &kind.failed),
            ];
            for (what, counts) in counts {
                for (name, count) in counts {
                    let text = self
                        .errors
                        .get(&told_as(kind.transaction, name))
                        .map_or(name.as_str(), String::as_str);
                    lines.push(format!("{} {count} × {what}: {text}", kind.transaction));
                }
            }
        }
        lines
    }

    /// All of it for people.
    pub fn text(&self) -> String {
        let mut text = format!("\nDBT2, {}\n", self.setting());
        if let Some(warning) = self.warning() {
            writeln!(text, "{warning}").expect("a text takes all");
        }
        let cpu = &self.cpu_us_per_transaction;
        let servers = match cpu.servers {
            Some(servers) => format!("servers {servers:.0} + client {:.0}", cpu.client),
            None => format!("client {:.0}, servers not seen", cpu.client),
        };
        let (heading, lines) = self.table();
        writeln!(
            text,
            "\n{:.0} NOTPM (New-Order transactions per minute), {:.0} transactions of all kinds per second, CPU µs each: \
             {servers}\n\n{heading}",
            self.notpm, self.per_second
        )
        .expect("a text takes all");
        for line in lines.into_iter().chain(self.errors()) {
            writeln!(text, "{line}").expect("a text takes all");
        }
        text
    }
}
