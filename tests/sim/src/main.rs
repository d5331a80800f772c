//! Runs seeds: one, many, or fresh ones until time is up.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a tool, not a machine: threads, time and output are how it is used"
)]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::Mutex,
    thread::ThreadId,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use twofold_datanode::mutation::Mutation;
use twofold_sim::{run::run, scenario::Scenario};

/// Where each thread panicked last.
static PLACES: Mutex<Vec<(ThreadId, String)>> = Mutex::new(Vec::new());

/// Simulates whole clusters.
#[derive(Parser, Debug)]
struct Arguments {
    /// The seed to run.
    #[arg(long)]
    seed: Option<u64>,
    /// So many seeds from the first on.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Tell all that happens.
    #[arg(long)]
    trace: bool,
    /// Fresh seeds for so many minutes.
    #[arg(long)]
    soak: Option<u64>,
    /// With this deliberate fault in all workers.
    #[arg(long)]
    mutation: Option<String>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn scenario(arguments: &Arguments, seed: u64) -> Scenario {
    let Some(name) = &arguments.mutation else { return Scenario::generate(seed) };
    let named = Mutation::ALL.iter().find(|mutation| format!("{mutation:?}") == *name);
    let Some(&mutation) = named else { panic!("no mutation «{name}»; there are {:?}", Mutation::ALL) };
    Scenario::for_mutation(seed, mutation)
}

/// Runs a seed; whether all was well.
fn one(arguments: &Arguments, seed: u64) -> bool {
    let scenario = scenario(arguments, seed);
    let sink = || arguments.trace.then(|| Box::new(|line: &str| println!("{line}")) as _);
    let started = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| run(&scenario, sink())));
    let problem = match result {
        Ok(Ok(report)) => {
            println!(
                "seed {seed}: {:?}, {} transactions, {} faults, {} steps in {:.1?} (true {:.1?}), digest {:016x}",
                scenario.profile,
                report.transactions,
                report.faults,
                report.steps,
                started.elapsed(),
                report.took,
                report.digest
            );
            if arguments.count == 1 && arguments.soak.is_none() {
                report.marks.iter().for_each(|(name, count)| println!("  {count:8} {name}"));
            }
            return true;
        }
        Ok(Err(violation)) => violation.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            let places = PLACES.lock().expect("no thread panics with it");
            let here = |(thread, _): &&(ThreadId, String)| *thread == std::thread::current().id();
            let place = places.iter().rfind(here).map_or("", |(_, place)| place);
            format!("{place}: {}", text.unwrap_or_default())
        }
    };
    let with = arguments.mutation.as_ref().map(|name| format!(" --mutation {name}")).unwrap_or_default();
    println!(
        "FAILED seed {seed} after {:.1?}: {problem}\n  cargo run -p twofold-sim -- --seed {seed}{with} --trace",
        started.elapsed()
    );
    false
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What a run panics with is told with its seed.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        PLACES.lock().expect("no thread panics with it").push((std::thread::current().id(), place));
    }));
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64);
    let first = arguments.seed.unwrap_or(fresh);
    let started = Instant::now();
    let next = Mutex::new((first, Vec::new()));
    let is_over = |seed: u64| match arguments.soak {
        Some(minutes) => started.elapsed().as_secs() >= minutes * 60,
        None => seed >= first.saturating_add(arguments.count),
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = {
                        let mut next = next.lock().expect("no thread panics with it");
                        if is_over(next.0) {
                            return;
                        }
                        next.0 += 1;
                        next.0 - 1
                    };
                    if !one(&arguments, seed) {
                        next.lock().expect("no thread panics with it").1.push(seed);
                    }
                }
            });
        }
    });
    let (end, failed) = next.into_inner().expect("no thread panics with it");
    println!("{} seeds in {:.1?}, {} failed: {failed:?}", end - first, started.elapsed(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
