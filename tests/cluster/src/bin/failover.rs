//! `twofold-failover`: how long clients wait when a node fails.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use twofold_cluster_tests::{Cluster, Gap, Journal, Load, Output, Plot, eventually, median_and_worst};

/// Starts a cluster, has data nodes fail under load, and says how long keys were out of reach.
///
/// Each round is one fault, of the data nodes by turns. A gap is the time between two acknowledged writes of one key; it
/// includes the rest after each call and a read. «at the fault» is the longest that any key had when the node failed,
/// «later» the longest after it, while the node comes back. That every acknowledged write is there is checked, too.
#[derive(Parser)]
#[command(name = "twofold-failover", version)]
struct Arguments {
    /// What happens to the node; all of them, if none is said
    #[arg(long, value_enum)]
    fault: Vec<Fault>,
    /// How often each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many keys are written and read, one call at a time each
    #[arg(long, default_value_t = 64)]
    keys: u64,
    /// How long a key rests after each call, in seconds
    #[arg(long, default_value_t = 0.002)]
    pause: f64,
    /// How long the load runs in each round, in seconds
    #[arg(long, default_value_t = 6)]
    seconds: u32,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Fault {
    /// The process is killed; its angel tells of it, and starts it again
    Kill,
    /// The angel is killed, too: nobody tells
    Host,
    /// It hangs
    Pause,
}

/// What clients saw in one round.
struct Round {
    /// The gap of each key that it had when the node failed, in milliseconds.
    gaps: Vec<f64>,
    later: f64,
    failed: u64,
    /// Seconds until all nodes served again.
    all_serve: f64,
}

/// Load before the fault, and between a fault that does not end by itself and its end.
const STEADY: Duration = Duration::from_secs(1);
const OUTAGE: Duration = Duration::from_millis(1500);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let faults = match arguments.fault.is_empty() {
        true => Fault::value_variants().to_vec(),
        false => arguments.fault.clone(),
    };
    if cfg!(debug_assertions) {
        println!("this is a development build: its figures mean nothing");
    }
    let cluster = Cluster::start(&[]);
    let (mut lines, mut results) = (Vec::new(), Vec::new());
    for fault in faults {
        let rounds: Vec<Round> =
            (0..arguments.rounds).map(|number| round(&cluster, fault, number, &arguments)).collect();
        let column = |of: fn(&Round) -> f64| median_and_worst(rounds.iter().map(of));
        let (at_fault, later) = (column(Round::at_fault), column(|round| round.later));
        let failed = column(|round| round.failed as f64);
        println!(
            "{fault:?}, {} rounds: at the fault median {:.1} ms, worst {:.1} ms; later median {:.1} ms, worst {:.1} ms; \
             failed calls median {}, worst {}",
            rounds.len(),
            at_fault.0,
            at_fault.1,
            later.0,
            later.1,
            failed.0,
            failed.1
        );
        lines.push((format!("{fault:?}").to_lowercase(), distribution(&rounds)));
        results.extend(rounds.iter().map(|round| {
            json!({
                "fault": format!("{fault:?}").to_lowercase(),
                "gaps_ms": round.gaps,
                "later_ms": round.later,
                "failed_calls": round.failed,
                "all_serve_s": round.all_serve,
            })
        }));
    }
    let title = "How long keys were out of reach when a data node failed";
    let plot = Plot { title, x: "longest wait of a key, ms", y: "% of the keys", lines: &lines };
    match arguments.output.write(&Value::Array(results), &plot) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

impl Round {
    fn at_fault(&self) -> f64 {
        self.gaps.iter().copied().fold(0.0, f64::max)
    }
}

/// Which share of the keys, in percent, waited no longer.
fn distribution(rounds: &[Round]) -> Vec<(f64, f64)> {
    let mut gaps: Vec<f64> = rounds.iter().flat_map(|round| &round.gaps).copied().collect();
    gaps.sort_by(f64::total_cmp);
    let all = gaps.len() as f64;
    gaps.into_iter().enumerate().map(|(place, gap)| (gap, 100.0 * (place + 1) as f64 / all)).collect()
}

fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    since.as_micros() as u64
}

fn round(cluster: &Cluster, fault: Fault, number: u32, arguments: &Arguments) -> Round {
    let node = ["data1", "data2"][number as usize % 2];
    let load = Load { seconds: arguments.seconds, keys: arguments.keys, pause: arguments.pause };
    let journal = Journal::with_load(cluster, &format!("{fault:?}_{number}").to_lowercase(), load);
    std::thread::sleep(STEADY);
    let former = cluster.pid(node);
    let before = micros();
    match fault {
        Fault::Kill => cluster.done(&["kill", node]),
        Fault::Host => cluster.done(&["kill", node, "--host"]),
        Fault::Pause => cluster.done(&["pause", node]),
    }
    let after = micros();
    match fault {
        Fault::Kill => cluster.wait_for_new_life(node, former),
        Fault::Host => {
            std::thread::sleep(OUTAGE);
            cluster.done(&["restart", node]);
        }
        Fault::Pause => {
            std::thread::sleep(OUTAGE);
            let view = cluster.status()["view"].as_u64();
            cluster.done(&["resume", node]);
            eventually(|| (cluster.status()["view"].as_u64() <= view).then(|| "it joins again".into()));
        }
    }
    cluster.wait();
    let served_again = micros();
    let journaled = journal.finish(cluster);
    let gaps = journaled.gaps();
    let at_fault = gaps.iter().filter(|gap| gap.begin <= after && gap.end >= before);
    let round = Round {
        gaps: at_fault.map(Gap::millis).collect(),
        later: gaps.iter().filter(|gap| gap.begin > after).map(Gap::millis).fold(0.0, f64::max),
        failed: journaled.failed(),
        all_serve: (served_again - before) as f64 / 1e6,
    };
    println!(
        "{fault:?} {node}: at the fault {:.1} ms, later {:.1} ms, {} failed calls; all served after {:.1} s",
        round.at_fault(),
        round.later,
        round.failed,
        round.all_serve
    );
    round
}
