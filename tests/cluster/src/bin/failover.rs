//! `twofold-failover`: how long clients wait when a node fails.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use twofold_cluster_tests::{Cluster, Gap, Journal, Load, eventually};

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
    at_fault: f64,
    later: f64,
    failed: u64,
}

/// Load before the fault, and between a fault that does not end by itself and its end.
const STEADY: Duration = Duration::from_secs(1);
const OUTAGE: Duration = Duration::from_millis(1500);

fn main() {
    let arguments = Arguments::parse();
    let faults = match arguments.fault.is_empty() {
        true => Fault::value_variants().to_vec(),
        false => arguments.fault.clone(),
    };
    if cfg!(debug_assertions) {
        println!("this is a development build: its figures mean nothing");
    }
    let cluster = Cluster::start(&[]);
    for fault in faults {
        let rounds: Vec<Round> =
            (0..arguments.rounds).map(|number| round(&cluster, fault, number, &arguments)).collect();
        let column = |of: fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[values.len() - 1])
        };
        let (at_fault, later) = (column(|round| round.at_fault), column(|round| round.later));
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
    }
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
    let longest = |chosen: &dyn Fn(&Gap) -> bool| {
        gaps.iter().filter(|gap| chosen(gap)).map(Gap::millis).fold(0.0, f64::max)
    };
    let round = Round {
        at_fault: longest(&|gap| gap.begin <= after && gap.end >= before),
        later: longest(&|gap| gap.begin > after),
        failed: journaled.failed(),
    };
    println!(
        "{fault:?} {node}: at the fault {:.1} ms, later {:.1} ms, {} failed calls; all served after {:.1} s",
        round.at_fault,
        round.later,
        round.failed,
        (served_again - before) as f64 / 1e6
    );
    round
}
