//! Whole clusters under faults: a fixed set of seeds, those that found something once, some fresh ones, and the
//! deliberate faults, each of which has to be found.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it drives simulations, and is none: cores, and a fresh seed"
)]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env,
    rc::Rc,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use twofold_datanode::mutation::Mutation;
use twofold_sim::{
    many::{find, run_many, try_run},
    scenario::{FAULTS_MIN, Profile, Scenario, TRANSACTIONS_MIN},
};

/// The fixed set.
const SEEDS: u64 = 500;
/// Fresh ones, besides.
const FRESH: u64 = 20;
/// A deliberate fault has to be found with one of so many.
const MUTATION_SEEDS: u64 = 100;

/// Rare paths: the fixed set has to take each of them.
const RARE: &[&str] = &[
    "locks were taken from a younger transaction",
    "a lock was waited for in vain",
    "a request was given up at its worker",
    "a row was copied to a joining node",
    "a row was kept by a joining node",
    "a row was removed from a joining node",
    "a partition was taken over",
    "a transaction was in doubt",
    "a refusal was planted",
    "an index was built",
    "a request came to a worker that did not serve",
    "an expired row was purged",
    "an outcome was asked for",
    "an outcome was reported as pending",
    "an outcome was learned late",
    "a read was sent again",
    "a link was given up by a worker",
    "a transaction was tried again after a deadlock",
    "a transaction was tried again after its primary changed",
    "a connection replaced another",
    "a TC had nothing of a transaction that it was asked about",
    "a question was answered as finished",
    "an outcome was asked for by its own session",
    "an outcome above its session's mark was asked for",
    "an outcome was asked for by another session",
    "an outcome was asked for after its session's end",
    "an outcome was asked for 10 s after its session's end",
    "an outcome was asked for 60 s after its session's end",
    "an outcome was asked for of a partition that its TC has no replica of",
    "node group dies",
    "all data nodes die",
    "power is lost",
    "data node dies and its disk is damaged",
    "disk is full",
    "disk is broken",
    "cluster is stopped",
    "a part of a checkpoint was written",
    "redo was cut off",
    "the register was rebuilt",
];

fn threads() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

fn kept() -> Vec<u64> {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().next().expect("a seed").parse().expect("a number")).collect()
}

/// What a set of seeds has gone through.
#[derive(Default, Debug)]
struct Covered {
    marks: BTreeMap<String, u64>,
    replicas: BTreeSet<u8>,
    groups: BTreeSet<usize>,
    workers: BTreeSet<u16>,
    failed: Vec<String>,
}

fn run_all(seeds: impl Iterator<Item = u64> + Send) -> Covered {
    let mut covered = Covered::default();
    run_many(threads(), seeds.map(Scenario::generate), |scenario, result| {
        covered.replicas.insert(scenario.config.replicas);
        covered.groups.insert(scenario.config.groups());
        covered.workers.extend(&scenario.workers);
        match result {
            Err(problem) => covered.failed.push(problem),
            Ok(report) => {
                let seed = scenario.seed;
                assert!(report.transactions >= TRANSACTIONS_MIN, "seed {seed}: {report:?}");
                let faultless = scenario.profile == Profile::Calm;
                assert!(faultless || report.faults >= FAULTS_MIN, "seed {seed}: {report:?}");
                for (name, count) in report.marks {
                    *covered.marks.entry(name).or_default() += count;
                }
            }
        }
        true
    });
    covered
}

#[test]
fn the_fixed_set_of_seeds() {
    let covered = run_all((1..=SEEDS).chain(kept()));
    assert!(covered.failed.is_empty(), "{}", covered.failed.join("\n"));
    covered.marks.iter().for_each(|(name, count)| println!("{count:9} {name}"));
    let missed: Vec<_> =
        RARE.iter().filter(|&&name| covered.marks.get(name).copied().unwrap_or(0) == 0).collect();
    assert!(missed.is_empty(), "never happened: {missed:?}");
    assert_eq!(covered.replicas, (1..=4).collect());
    assert_eq!(covered.groups, (1..=3).collect());
    assert_eq!(covered.workers, (1..=4).collect());
}

/// `SIM_SEEDS` says how many, else there are some.
#[test]
fn fresh_seeds() {
    let count = env::var("SIM_SEEDS").map_or(FRESH, |count| count.parse().expect("SIM_SEEDS is a number"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    let first = now.as_micros() as u64;
    let failed = run_all(first..first + count).failed;
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_deliberate_fault_is_found() {
    let mut missed = Vec::new();
    for &mutation in Mutation::ALL {
        match find(mutation, threads(), 1..=MUTATION_SEEDS) {
            Some((seed, problem)) => println!("{mutation:?} is found with seed {seed}: {problem}"),
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "not found with {MUTATION_SEEDS} seeds: {missed:?}");
}

#[test]
fn a_seed_always_runs_the_same_way() {
    for seed in [11, 14, 21, 29] {
        let trace = || {
            let lines = Rc::new(RefCell::new(Vec::new()));
            let sink = lines.clone();
            let report = try_run(
                &Scenario::generate(seed),
                Some(Box::new(move |line: &str| sink.borrow_mut().push(line.to_string()))),
            );
            (report.expect("it passes"), lines.take())
        };
        let ((first, lines), (second, again)) = (trace(), trace());
        let different = lines.iter().zip(&again).find(|(a, b)| a != b);
        assert_eq!(different, None, "seed {seed}");
        assert_eq!((lines.len(), first.digest), (again.len(), second.digest), "seed {seed}");
        // Whether anybody looks makes no difference.
        let unread = try_run(&Scenario::generate(seed), None).expect("it passes");
        assert_eq!(unread.digest, first.digest, "seed {seed}");
    }
}
