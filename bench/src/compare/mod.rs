//! The same work on Twofold and on memcached or Redis, by turns.
//!
//! | module | what it does |
//! |---|---|
//! | `works` | what is compared, and what is to be reached |
//! | `servers` | memcached and Redis: starts them, ends them |
//! | `outcome` | ratios, which rounds count, the table |
//!
//! Each measurement is a run of this program with `lookup` or `memcached`, whose JSON is read, so that one leaves nothing
//! behind for the next, and can be had again by hand.

mod outcome;
mod servers;
mod works;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::available_parallelism,
};

use clap::Args;
use serde::Deserialize;
use twofold_proto::config::Address;

use crate::{
    Failure, Verdict,
    report::{self, PhaseResult},
};

use outcome::{Outcome, Round};
use servers::Competitor;
use works::{FILL, NOT_MEASURED, Part, Server, Side, WORKS, Work};

/// Runs the same work on a Twofold cluster and on memcached or Redis, by turns, and ends in a table of targets and results.
///
/// memcached and Redis are started here, from the system's packages; the cluster runs already (scripts/compare starts
/// one). All are on this machine. A round in which another server falls more than 30 % below what it was measured at
/// alone on such a machine does not count; a work without a round that counts is void.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Management nodes of the cluster: HOST or HOST:PORT, separated by commas
    #[arg(long, env = "TWOFOLD_MGM", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:1186", value_parser = Address::of_management)]
    mgm: Vec<String>,

    /// The memcached port of its API node
    #[arg(long, env = "TWOFOLD_BENCH_SERVER", value_name = "HOST:PORT", default_value = "127.0.0.1:11211")]
    server: String,

    /// What to compare
    #[arg(value_enum, default_values_t = [Part::Lookup, Part::Memcached])]
    parts: Vec<Part>,

    /// Only works whose names contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,

    /// Rounds: each is once the one and once the other
    #[arg(long, env = "TWOFOLD_BENCH_ROUNDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Rows, and items
    #[arg(long, env = "TWOFOLD_BENCH_ROWS", default_value_t = 500_000)]
    rows: u64,

    /// Seconds that count, of each measurement
    #[arg(long, env = "TWOFOLD_BENCH_MEASURE", value_name = "SECONDS", default_value = "2")]
    measure: String,

    /// Threads of each client
    #[arg(long, env = "TWOFOLD_BENCH_THREADS", default_value_t = 1)]
    threads: u16,

    /// Added to the ports of memcached (11311) and Redis (6379, and 6380 and 6381 for the replicated one)
    #[arg(long, env = "TWOFOLD_BENCH_OFFSET", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..40_000))]
    offset: u16,

    /// Write the results to this file
    #[arg(long, env = "TWOFOLD_BENCH_JSON", value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What a measurement writes.
#[derive(Deserialize)]
struct Measured {
    results: Vec<PhaseResult>,
}

struct Comparison<'a> {
    arguments: &'a Arguments,
    memcached: Competitor,
    redis: Competitor,
    /// The one that is written to, and its replica.
    replicated: [Competitor; 2],
    files: tempfile::TempDir,
}

/// Runs the comparison.
pub fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let comparison = Comparison::start(arguments)?;
    comparison.tell_setup();
    let works: Vec<&Work> = WORKS
        .iter()
        .filter(|work| arguments.parts.contains(&work.part) && work.name.contains(&arguments.only))
        .collect();
    comparison.fill(&works)?;
    let mut outcomes = Vec::new();
    for &work in &works {
        let outcome = comparison.compare(work)?;
        outcome.lines(work).iter().for_each(|line| println!("{line}"));
        outcomes.push(outcome);
    }
    println!("\n{}", load());
    println!(
        "targets and results: ratios are medians of the rounds that count; per second, medians in µs; CPU µs of servers + client\n"
    );
    println!("{}", outcome::heading());
    for (work, outcome) in works.iter().zip(&outcomes) {
        outcome.lines(work).iter().for_each(|line| println!("{line}"));
    }
    for (target, how) in NOT_MEASURED.iter().filter(|_| arguments.parts.contains(&Part::Lookup)) {
        println!("not measured here: {target}: {how}");
    }
    if let Some(path) = &arguments.json {
        report::write_json(path, &outcomes)?;
    }
    Ok(Verdict::Fine)
}

/// How busy the machine is.
fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!("load of this machine in the last 1, 5 and 15 minutes: {}", load.join(" "))
}

fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

impl Comparison<'_> {
    fn start(arguments: &Arguments) -> Result<Comparison<'_>, Failure> {
        let files = tempfile::tempdir().map_err(|error| format!("a directory for Redis' files: {error}"))?;
        let dir = |name: &str| {
            let dir = files.path().join(name);
            fs::create_dir(&dir)
                .map(|()| dir)
                .map_err(|error| format!("a directory for Redis' files: {error}"))
        };
        let port = |usual: u16| usual + arguments.offset;
        let first = Competitor::redis(port(6380), Some(&dir("first")?), None)?;
        let second = Competitor::redis(port(6381), Some(&dir("second")?), Some(port(6380)))?;
        first.await_replica()?;
        Ok(Comparison {
            arguments,
            memcached: Competitor::memcached(port(11311), cores())?,
            redis: Competitor::redis(port(6379), None, None)?,
            replicated: [first, second],
            files,
        })
    }

    fn tell_setup(&self) {
        let Arguments { mgm, server, rows, rounds, measure, threads, .. } = self.arguments;
        println!("Twofold {} at {}, memcached's words at {server}", env!("CARGO_PKG_VERSION"), mgm.join(","));
        let [first, second] = &self.replicated;
        [&self.memcached, &self.redis, first, second].iter().for_each(|server| println!("{}", server.told));
        println!(
            "{rows} rows and items of 100 bytes; {rounds} rounds of {measure} s each; clients of {threads} threads; {} cores",
            cores()
        );
        println!("{}\n", load());
    }

    /// Puts items where they are asked for later.
    fn fill(&self, works: &[&Work]) -> Result<(), Failure> {
        let of = |server| works.iter().any(|work| work.theirs.server == server || work.ours.server == server);
        for server in
            [Server::Frontend, Server::Memcached, Server::Redis].into_iter().filter(|&server| of(server))
        {
            self.measure(Side { server, words: FILL })?;
        }
        if of(Server::Native) {
            self.measure(Side { server: Server::Native, words: "--phases insert" })?;
        }
        Ok(())
    }

    fn compare(&self, work: &Work) -> Result<Outcome, Failure> {
        println!("{}: {} | {}: {}", work.name, self.line(work.ours), work.versus, self.line(work.theirs));
        println!("{}", report::heading());
        let mut rounds = Vec::new();
        for _ in 0..self.arguments.rounds {
            let ours = self.measure(work.ours)?;
            println!("{}  Twofold", report::line(&ours));
            let theirs = self.measure(work.theirs)?;
            println!("{}  {}", report::line(&theirs), work.versus);
            rounds.push(Round { ours, theirs });
        }
        Ok(Outcome::new(work, rounds))
    }

    /// What this program is run with.
    fn words(&self, side: Side) -> Vec<String> {
        let Arguments { mgm, server, rows, measure, threads, .. } = self.arguments;
        let mgm = mgm.join(",");
        let where_and_what = match side.server {
            Server::Native => format!("lookup --mgm {mgm} --rows {rows}"),
            Server::Frontend => format!("memcached --mgm {mgm} --server {server} --items {rows}"),
            Server::Memcached => format!("memcached --server {} --items {rows}", self.memcached.address()),
            Server::Redis => {
                format!("memcached --server {} --protocol redis --items {rows}", self.redis.address())
            }
            Server::ReplicatedRedis => {
                let [first, second] = &self.replicated;
                let (address, pids) = (first.address(), format!("{},{}", first.pid(), second.pid()));
                format!("memcached --server {address} --protocol redis --server-pids {pids} --items {rows}")
            }
        };
        let common = format!("--threads {threads} --warm-up 0.5 --measure {measure} --cool-down 0.2");
        let words = where_and_what.split(' ').chain(side.words.split(' ')).chain(common.split(' '));
        words.map(str::to_owned).collect()
    }

    fn line(&self, side: Side) -> String {
        format!("twofold-bench {}", self.words(side).join(" "))
    }

    fn measure(&self, side: Side) -> Result<PhaseResult, Failure> {
        if side.server == Server::Redis && side.words.contains("fill") {
            self.redis.flush()?;
        }
        let json = self.files.path().join("measured.json");
        self.run(side, &json).map_err(|why| format!("{}: {why}", self.line(side)).into())
    }

    fn run(&self, side: Side, json: &Path) -> Result<PhaseResult, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        // Settings of the environment are meant for this process.
        let settings = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("TWOFOLD_"));
        let mut command = Command::new(program);
        for name in settings {
            command.env_remove(name);
        }
        let command = command.args(self.words(side)).arg("--json").arg(json);
        let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        let text = fs::read_to_string(json).map_err(|error| error.to_string())?;
        let measured: Measured = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        measured.results.into_iter().last().ok_or_else(|| "no phase was run".into())
    }
}
