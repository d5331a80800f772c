//! Runs seeds: one, many, or fresh ones until time is up.
#![expect(
    clippy::disallowed_types,
    reason = "a tool, not a machine: fresh seeds and time are how it is used"
)]

use std::{
    process::ExitCode,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use twofold_datanode::mutation::Mutation;
use twofold_sim::{
    many::{find, run_many, try_run},
    scenario::{Profile, Scenario},
};

/// Simulates whole clusters.
#[derive(Parser, Debug)]
struct Arguments {
    /// The seed to run; a fresh one otherwise.
    #[arg(long)]
    seed: Option<u64>,
    /// So many seeds from the first on.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Tell all that happens, of one seed.
    #[arg(long, conflicts_with_all = ["count", "soak"])]
    trace: bool,
    /// Seeds from the first on for so many minutes.
    #[arg(long, conflicts_with = "count")]
    soak: Option<u64>,
    /// With this deliberate fault in all workers; `all`: each in turn, until it is found.
    #[arg(long)]
    mutation: Option<String>,
    /// With faults of this profile, whatever the seed.
    #[arg(long, value_enum, ignore_case = true, conflicts_with = "mutation")]
    profile: Option<Profile>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn mutation(name: &str) -> Result<Mutation, String> {
    let named = Mutation::ALL.iter().find(|mutation| format!("{mutation:?}") == *name);
    named.copied().ok_or_else(|| format!("no mutation «{name}»; there are {:?}", Mutation::ALL))
}

/// Looks for each deliberate fault; whether all were found.
fn find_all(threads: usize, first: u64, count: u64) -> bool {
    let mut all = true;
    for &mutation in Mutation::ALL {
        let started = Instant::now();
        match find(mutation, threads, first..=first.saturating_add(count - 1)) {
            Some((seed, problem)) => println!(
                "{mutation:?}: {problem}\n  after {} seeds, {:.1?}",
                seed - first + 1,
                started.elapsed()
            ),
            None => {
                println!("{mutation:?}: NOT FOUND in {count} seeds, {:.1?}", started.elapsed());
                all = false;
            }
        }
    }
    all
}

fn trace(scenario: &Scenario) -> bool {
    match try_run(scenario, Some(Box::new(|line: &str| println!("{line}")))) {
        Ok(_) => true,
        Err(problem) => {
            println!("FAILED {problem}");
            false
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64);
    let first = arguments.seed.unwrap_or(fresh);
    let count = arguments.count.max(1);
    let named = match arguments.mutation.as_deref() {
        Some("all") => {
            return if find_all(arguments.threads, first, count) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            };
        }
        Some(name) => match mutation(name) {
            Ok(mutation) => Some(mutation),
            Err(error) => {
                eprintln!("twofold-sim: {error}");
                return ExitCode::from(2);
            }
        },
        None => None,
    };
    let scenario = |seed| match named {
        Some(mutation) => Scenario::for_mutation(seed, mutation),
        None => {
            arguments.profile.map_or_else(|| Scenario::generate(seed), |profile| Scenario::of(seed, profile))
        }
    };
    if arguments.trace {
        return if trace(&scenario(first)) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let started = Instant::now();
    let seeds = (first..).zip(0u64..).take_while(|&(_, done)| match arguments.soak {
        Some(minutes) => started.elapsed().as_secs() < minutes * 60,
        None => done < count,
    });
    let (mut run, mut failed) = (0u64, Vec::new());
    run_many(arguments.threads, seeds.map(|(seed, _)| scenario(seed)), |scenario, result| {
        run += 1;
        match result {
            Ok(report) => {
                println!(
                    "seed {}: {:?}, {} transactions, {} faults, {} steps, {:.1?} of true time, digest {:016x}",
                    scenario.seed,
                    scenario.profile,
                    report.transactions,
                    report.faults,
                    report.steps,
                    report.took,
                    report.digest
                );
                if count == 1 && arguments.soak.is_none() {
                    report.marks.iter().for_each(|(name, count)| println!("  {count:8} {name}"));
                }
            }
            Err(problem) => {
                println!("FAILED {problem}");
                failed.push(scenario.seed);
            }
        }
        true
    });
    println!("{run} seeds in {:.1?}, {} failed: {failed:?}", started.elapsed(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
