//! Single rows by their key, as NDB's flexAsynch does it.

mod definers;
mod rows;
mod shares;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::Duration,
};

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde::Serialize;
use twofold_apinode::request;
use twofold_client::embed::Thread;
use twofold_proto::{message::Catalog, random::Random, schema::Schema, time::Time};
use twofold_runtime::{Clock, clock};

use crate::{
    Failure, Verdict,
    cpu::{Processes, Sample},
    keys::{Distribution, Keys},
    measure::{Tally, Window},
    native::{self, Cluster, ClusterArguments},
    report::{self, PROGRESS_EVERY, PhaseResult, Report},
};

use definers::{DEFINERS_MAX, Definers, Draw, KEYS_MAX, Outcome, Plan};
use rows::{COLUMN_BYTES, Operations, Phase};
use shares::{Order, Share};

/// The table, if none is named.
const TABLE: &str = "bench_lookup";
/// How long threads have to hear of a phase before it begins.
const HEAD_START: Duration = Duration::from_millis(20);
/// How long a phase may stand still: longer than the deadline of any operation.
const STILL_MAX: Duration = Duration::from_secs(60);
/// Rows are at most so long: the body of an operation has to hold one, and the table the columns.
const ROW_SIZE_MAX: u16 = 4000;
/// More processes than that no machine has any use for.
const PROCESSES_MAX: u16 = 64;
/// Operations under way that one client takes.
const IN_FLIGHT_MAX: u32 = 1 << 17;

/// How operations are put.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Mode {
    /// Definers with a batch of operations under way each
    Batch,
    /// Callers with one operation under way each
    Callers,
    /// One caller
    Single,
}

/// When a write counts as done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Durability {
    /// All replicas have it in memory
    Memory,
    /// It is on all disks
    Disk,
}

impl From<Durability> for request::Durability {
    fn from(durability: Durability) -> request::Durability {
        match durability {
            Durability::Memory => request::Durability::Memory,
            Durability::Disk => request::Durability::Disk,
        }
    }
}

/// Inserts, updates, reads and deletes single rows by their key, through the native client: NDB's flexAsynch.
///
/// Each row is an 8-byte key and columns of four bytes; each operation is a transaction of its own. Definers prepare a
/// batch of operations for any node, hand them to the client, which sends what goes to one worker in one frame, and
/// wait for all answers. Insert and delete have to do with each row once; update and read go on for a time.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    cluster: ClusterArguments,

    /// How operations are put
    #[arg(long, env = "TWOFOLD_BENCH_MODE", value_enum, default_value_t = Mode::Batch)]
    mode: Mode,

    /// Phases, in this order; if one is insert, the table is created anew
    #[arg(long, env = "TWOFOLD_BENCH_PHASES", value_enum, value_delimiter = ',')]
    #[arg(default_values_t = [Phase::Insert, Phase::Update, Phase::Read, Phase::Delete])]
    phases: Vec<Phase>,

    /// Rows of the table
    #[arg(long, env = "TWOFOLD_BENCH_ROWS", default_value_t = 500_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..KEYS_MAX))]
    rows: u64,

    /// Bytes of a row beyond its key: four for each column
    #[arg(long, env = "TWOFOLD_BENCH_ROW_SIZE", default_value_t = 100, value_parser = row_size)]
    row_size: u16,

    /// Which keys update and read draw
    #[arg(long, env = "TWOFOLD_BENCH_KEYS", value_enum, default_value_t = Distribution::Uniform)]
    keys: Distribution,

    /// Exponent of Zipf's law, above 0 and below 1
    #[arg(long, env = "TWOFOLD_BENCH_ZIPF", default_value_t = 0.99, value_parser = zipf)]
    zipf: f64,

    /// Definers, over all threads (mode batch)
    #[arg(long, env = "TWOFOLD_BENCH_DEFINERS", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=DEFINERS_MAX as i64))]
    definers: u32,

    /// Operations under way at most, over all definers (mode batch)
    #[arg(long, env = "TWOFOLD_BENCH_IN_FLIGHT", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(IN_FLIGHT_MAX)))]
    in_flight: u32,

    /// Processes over which the threads are spread
    #[arg(long, env = "TWOFOLD_BENCH_PROCESSES", value_name = "COUNT", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(PROCESSES_MAX)))]
    processes: u16,

    /// Which process this is, told by the first
    #[arg(long, hide = true, default_value_t = 0)]
    share: u16,

    /// Operations that a thread hands to its client in one turn at most [default: no limit]
    #[arg(long, env = "TWOFOLD_BENCH_BATCH_LIMIT", value_parser = clap::value_parser!(u32).range(1..))]
    batch_limit: Option<u32>,

    /// Callers, over all threads (mode callers)
    #[arg(long, env = "TWOFOLD_BENCH_CALLERS", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(IN_FLIGHT_MAX)))]
    callers: u32,

    /// When a write counts as done
    #[arg(long, env = "TWOFOLD_BENCH_DURABILITY", value_enum, default_value_t = Durability::Memory)]
    durability: Durability,

    /// Update by assigning so many columns, in place of putting a whole row
    #[arg(long, env = "TWOFOLD_BENCH_ASSIGN", value_name = "COLUMNS", default_value_t = 0)]
    assign: u16,

    /// Seconds of load before what counts (update and read)
    #[arg(long, env = "TWOFOLD_BENCH_WARM_UP", value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    warm_up: Duration,

    /// Seconds that count (update and read)
    #[arg(long, env = "TWOFOLD_BENCH_MEASURE", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    measure: Duration,

    /// Seconds of load after what counts (update and read)
    #[arg(long, env = "TWOFOLD_BENCH_COOL_DOWN", value_name = "SECONDS", default_value = "0.5")]
    #[arg(value_parser = seconds)]
    cool_down: Duration,

    /// How often to go through all phases
    #[arg(long, env = "TWOFOLD_BENCH_RUNS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Seed of the keys [default: random]
    #[arg(long, env = "TWOFOLD_BENCH_SEED")]
    seed: Option<u64>,

    /// Name of the table
    #[arg(long, env = "TWOFOLD_BENCH_TABLE", default_value = TABLE)]
    table: String,

    /// Server processes whose CPU time counts [default: those that listen at the cluster's ports on this machine]
    #[arg(long, env = "TWOFOLD_BENCH_SERVER_PIDS", value_name = "PID", value_delimiter = ',')]
    server_pids: Vec<u32>,

    /// Write the results to this file
    #[arg(long, env = "TWOFOLD_BENCH_JSON", value_name = "FILE")]
    json: Option<PathBuf>,
}

fn row_size(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(size) if size > 0 && size <= ROW_SIZE_MAX && usize::from(size) % COLUMN_BYTES == 0 => Ok(size),
        _ => Err(format!("a multiple of {COLUMN_BYTES}, up to {ROW_SIZE_MAX}")),
    }
}

fn zipf(text: &str) -> Result<f64, String> {
    let exponent = text.parse().ok().filter(|exponent| *exponent > 0.0 && *exponent < 1.0);
    exponent.ok_or_else(|| "a number above 0 and below 1".into())
}

/// Reads a duration in seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|seconds| seconds.as_secs() < 1_000_000).ok_or_else(|| "a number of seconds".into())
}

/// What the results were had with.
#[derive(Clone, Debug, Serialize)]
struct Settings {
    mode: String,
    rows: u64,
    row_size: u16,
    keys: String,
    processes: u16,
    threads: usize,
    definers: usize,
    batch: u32,
    durability: String,
    assigned_columns: u16,
    seed: u64,
    cluster: String,
    data_nodes: usize,
    replicas: u8,
}

/// How much is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Load {
    threads: usize,
    /// Over all threads.
    definers: usize,
    /// Of each definer.
    batch: u32,
}

impl Load {
    fn new(arguments: &Arguments) -> Load {
        let (definers, batch) = match arguments.mode {
            Mode::Batch => {
                let definers = arguments.definers.min(arguments.in_flight);
                (definers, arguments.in_flight / definers)
            }
            Mode::Callers => (arguments.callers, 1),
            Mode::Single => (1, 1),
        };
        let definers = definers as usize;
        Load { threads: arguments.cluster.threads().min(definers), definers, batch }
    }

    /// Definers of this thread.
    fn definers_of(&self, thread: usize) -> usize {
        self.definers / self.threads + usize::from(thread < self.definers % self.threads)
    }

    /// Keys of this thread in a pass over so many rows.
    fn keys_of(&self, thread: usize, rows: u64) -> std::ops::Range<u64> {
        let bound = |place: usize| (u128::from(rows) * place as u128 / self.threads as u128) as u64;
        bound(thread)..bound(thread + 1)
    }
}

/// The threads of a process, of so many.
fn share_of(threads: usize, share: u16, processes: u16) -> std::ops::Range<usize> {
    let bound = |share: u16| threads * usize::from(share) / usize::from(processes);
    bound(share)..bound(share + 1)
}

struct Bench<'a> {
    arguments: &'a Arguments,
    load: Load,
    seed: u64,
    /// The number of this process's first thread.
    first: usize,
    threads: Vec<Thread<Plan>>,
    /// The other processes, in the first.
    shares: Vec<Share>,
    outcomes: Receiver<Outcome>,
    progress: Vec<Arc<AtomicU64>>,
    processes: Processes,
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let load = Load::new(arguments);
    if usize::from(arguments.assign) >= usize::from(arguments.row_size) / COLUMN_BYTES {
        return Err("--assign: at most all columns of a row but its first".into());
    }
    if usize::from(arguments.processes) > load.threads {
        return Err(format!("--processes: each has a thread at least, and there are {}", load.threads).into());
    }
    let cluster = Cluster::find(&arguments.cluster)?;
    let mut processes = Processes::find(&arguments.server_pids, cluster.found.servers())?;
    let (sender, outcomes) = channel();
    let own = share_of(load.threads, arguments.share, arguments.processes);
    let progress: Vec<Arc<AtomicU64>> = own.clone().map(|_| Arc::default()).collect();
    let start = |(number, progress): (usize, &Arc<AtomicU64>)| {
        let (sender, progress) = (sender.clone(), progress.clone());
        cluster.start(number as u16, move || Definers::new(sender, progress))
    };
    let threads = own.clone().zip(&progress).map(start).collect::<Result<Vec<_>, _>>()?;
    let others = if arguments.share == 0 { 1..arguments.processes } else { 0..0 };
    let shares = others.map(|number| Share::start(number, sender.clone())).collect::<Result<Vec<_>, _>>()?;
    processes.clients = shares.iter().map(Share::pid).collect();
    let seed = arguments.seed.unwrap_or_else(clock::random_seed);
    let mut bench =
        Bench { arguments, load, seed, first: own.start, threads, shares, outcomes, progress, processes };
    if arguments.share > 0 {
        shares::serve(|order| bench.run_share(&order))?;
        return Ok(Verdict::Fine);
    }
    let results = bench.run()?;
    let settings = Settings {
        mode: format!("{:?}", arguments.mode).to_lowercase(),
        rows: arguments.rows,
        row_size: arguments.row_size,
        keys: format!("{:?}", arguments.keys).to_lowercase(),
        processes: arguments.processes,
        threads: load.threads,
        definers: load.definers,
        batch: load.batch,
        durability: format!("{:?}", arguments.durability).to_lowercase(),
        assigned_columns: arguments.assign,
        seed,
        cluster: cluster.found.config.name.clone(),
        data_nodes: cluster.found.config.data_nodes.len(),
        replicas: cluster.found.config.replicas,
    };
    Report::new("lookup", settings, results).finish(arguments.json.as_deref())?;
    Ok(Verdict::Fine)
}

impl Bench<'_> {
    fn run(&mut self) -> Result<Vec<PhaseResult>, Failure> {
        let Load { threads, definers, batch } = self.load;
        println!(
            "lookup: {} rows of 8 + {} bytes, {definers} definers × {batch} operations in {threads} threads of {} \
             processes, keys {:?}, seed {}",
            self.arguments.rows,
            self.arguments.row_size,
            self.arguments.processes,
            self.arguments.keys,
            self.seed
        );
        println!("{}", report::heading());
        let mut results = Vec::new();
        for run in 1..=self.arguments.runs {
            let (catalog, schema) = self.prepare_table()?;
            for &phase in &self.arguments.phases {
                let result = self.run_phase(phase, run, catalog, &schema)?;
                println!("{}", report::line(&result));
                results.push(result);
            }
        }
        Ok(results)
    }

    /// Creates the table where it is to be filled, and has all threads know it.
    fn prepare_table(&self) -> Result<(u64, Schema), Failure> {
        let name = &self.arguments.table;
        let first = &self.threads[0];
        let mut catalog = first.catalog(0)?;
        if self.arguments.phases.contains(&Phase::Insert) {
            let columns = usize::from(self.arguments.row_size) / COLUMN_BYTES;
            let version = native::create_anew(first, rows::table(name, columns))?;
            catalog = first.catalog(version)?;
            // The rows of the former table are freed bit by bit.
            self.processes.rest();
        }
        for thread in &self.threads[1..] {
            thread.catalog(catalog.version)?;
        }
        Ok((catalog.version, self.schema(&catalog)?))
    }

    /// The table as the catalog has it.
    fn schema(&self, catalog: &Catalog) -> Result<Schema, Failure> {
        let name = &self.arguments.table;
        let schema = native::schema(catalog, name)?;
        let columns = schema.columns.len() - 1;
        let expected = rows::table(name, columns);
        if columns == 0 || schema.columns != expected.columns || schema.primary_key != expected.primary_key {
            return Err(
                format!("table `{name}` is not one of this benchmark; insert first, or see --table").into()
            );
        }
        if usize::from(self.arguments.assign) >= columns {
            return Err(
                format!("--assign: table `{name}` has {columns} columns, and the first one stays").into()
            );
        }
        Ok(schema)
    }

    fn run_phase(
        &mut self,
        phase: Phase,
        run: u32,
        catalog: u64,
        schema: &Schema,
    ) -> Result<PhaseResult, Failure> {
        let arguments = self.arguments;
        let start = Clock.now() + HEAD_START;
        let window = match phase.is_pass() {
            true => Window::unbounded(start),
            false => Window::timed(start, arguments.warm_up, arguments.measure, arguments.cool_down),
        };
        let order = Order::new(phase, catalog, self.seed, window);
        self.shares.iter_mut().try_for_each(|share| share.tell(&order))?;
        self.tell_threads(phase, window, self.seed, schema);
        let (tally, _, seconds, before, after) = self.watch(phase, run, window)?;
        let usage = self.processes.between(&before, &after);
        Ok(PhaseResult::new(phase.name(), run, seconds, tally, &usage))
    }

    /// As one of the other processes: its share of a phase.
    fn run_share(&mut self, order: &Order) -> Result<Outcome, Failure> {
        let mut catalogs = self.threads.iter().map(|thread| thread.catalog(order.catalog));
        let catalog = catalogs.next_back().expect("each process has a thread")?;
        catalogs.try_for_each(|catalog| catalog.map(drop))?;
        let (schema, window) = (self.schema(&catalog)?, order.window());
        self.tell_threads(order.phase, window, order.seed, &schema);
        let (tally, finished, ..) = self.watch(order.phase, 1, window)?;
        Ok(Outcome { tally, finished })
    }

    fn tell_threads(&self, phase: Phase, window: Window, seed: u64, schema: &Schema) {
        let arguments = self.arguments;
        let mut random = Random::new(seed);
        (0..self.first).for_each(|_| _ = random.fork());
        for (number, thread) in (self.first..).zip(&self.threads) {
            let share = self.load.keys_of(number, arguments.rows);
            let draw = match phase.is_pass() {
                true => Draw::Pass(share),
                false => {
                    let (keys, first) = (arguments.rows, share.start);
                    Draw::Drawn(Keys::new(arguments.keys, keys, arguments.zipf, first, random.fork()))
                }
            };
            thread.tell(Plan {
                operations: Operations::new(phase, schema, usize::from(arguments.assign)),
                durability: arguments.durability.into(),
                draw,
                window,
                definers: self.load.definers_of(number),
                batch: self.load.batch,
                turn_limit: arguments.batch_limit.unwrap_or(u32::MAX),
            });
        }
    }

    /// Waits for the end of a phase, with a progress bar; takes samples of CPU time where the window begins and ends.
    fn watch(
        &mut self,
        phase: Phase,
        run: u32,
        window: Window,
    ) -> Result<(Tally, Time, f64, Sample, Sample), Failure> {
        let timed = window.end != Time(u64::MAX);
        let length =
            if timed { window.end.since(window.start).as_millis() as u64 } else { self.arguments.rows };
        let bar = match self.arguments.share {
            0 => report::progress_bar(format!("{} {run}", phase.name()), length),
            _ => ProgressBar::hidden(),
        };
        let mut tally = Tally::default();
        let (mut before, mut after): (Option<Sample>, Option<Sample>) = (None, None);
        let (mut waiting, mut finished) = (self.threads.len() + self.shares.len(), window.start);
        let (mut seen, mut moved) = (0, window.start);
        while waiting > 0 {
            let now = Clock.now();
            if before.is_none() && now >= window.from {
                before = Some(self.processes.sample());
            }
            if after.is_none() && now >= window.until {
                after = Some(self.processes.sample());
            }
            let next = [window.from, window.until].into_iter().find(|&at| at > now).unwrap_or(Time(u64::MAX));
            match self.outcomes.recv_timeout(next.since(now).min(PROGRESS_EVERY)) {
                Ok(outcome) => {
                    waiting -= 1;
                    finished = finished.max(outcome.finished);
                    tally.merge(outcome.tally);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("the threads of the clients have ended".into());
                }
            }
            if self.shares.iter_mut().any(Share::has_ended) {
                return Err("a process with a share of the load has ended".into());
            }
            let answered: u64 = self.progress.iter().map(|progress| progress.load(Ordering::Relaxed)).sum();
            let now = Clock.now();
            if answered != seen || now < window.start {
                (seen, moved) = (answered, now);
            } else if now.since(moved) > STILL_MAX {
                return Err(format!(
                    "nothing was answered for {} s in phase {}",
                    STILL_MAX.as_secs(),
                    phase.name()
                )
                .into());
            }
            bar.set_position(if timed { now.since(window.start).as_millis() as u64 } else { answered });
            let elapsed = now.since(window.start).as_secs_f64().max(1e-3);
            bar.set_message(format!("{:.0} /s", answered as f64 / elapsed));
        }
        bar.finish_and_clear();
        let last = self.processes.sample();
        let seconds = finished.min(window.until).since(window.from).as_secs_f64();
        Ok((tally, finished, seconds, before.unwrap_or_else(|| last.clone()), after.unwrap_or(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_definers_and_keys() {
        let load = Load { threads: 3, definers: 8, batch: 1 };
        assert_eq!((0..3).map(|thread| load.definers_of(thread)).collect::<Vec<_>>(), [3, 3, 2]);
        let shares: Vec<_> = (0..3).map(|thread| load.keys_of(thread, 10)).collect();
        assert_eq!(shares, [0..3, 3..6, 6..10]);
        assert_eq!((0..3).map(|share| share_of(8, share, 3)).collect::<Vec<_>>(), [0..2, 2..5, 5..8]);
    }

    #[test]
    fn sizes_and_times_are_checked() {
        assert_eq!(row_size("100"), Ok(100));
        for wrong in ["0", "99", "4004", "x"] {
            assert!(row_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("-1").is_err() && seconds("1e300").is_err() && seconds("nan").is_err());
        assert!(zipf("1").is_err() && zipf("0").is_err() && zipf("0.5").is_ok());
    }
}
