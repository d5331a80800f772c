//! Every acknowledged write is noted while nodes fail, and looked for afterwards.

mod keeper;
mod standing;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use twofold_client::{embed::Thread, find::wall_clock_offset};
use twofold_proto::{message::Catalog, schema::Schema, time::Time};
use twofold_runtime::{Clock, clock};

use crate::{
    Failure, Verdict,
    lookup::seconds,
    native::{self, Cluster, ClusterArguments},
    report::{self, PROGRESS_EVERY, median},
};

use keeper::{Calls, Keeper, Note, Outcome, Task};
use standing::{Journal, Standing};

/// The table, if none is named.
const TABLE: &str = "bench_journal";
/// How long reading back may take beyond the end, in all.
const LATE_MAX: Duration = Duration::from_secs(90);

/// Writes and reads while nodes fail: notes every acknowledged write in a file, and says how long keys were out of
/// reach.
///
/// Each key is written and read by turns, one call at a time. A write whose outcome nobody can tell is noted as pending:
/// it may show or not, but once it has shown it has to stay. In the end all keys are read back. A write that was
/// acknowledged and is gone, one that was called not applied and is there, and one that was applied twice: each is told,
/// and the exit code is 3.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    cluster: ClusterArguments,

    /// How long, in seconds
    #[arg(long, env = "TWOFOLD_BENCH_SECONDS", default_value = "10", value_parser = seconds)]
    seconds: Duration,

    /// Where to note the writes; an existing file is replaced
    #[arg(long, env = "TWOFOLD_BENCH_FILE")]
    file: PathBuf,

    /// How many keys, over all threads
    #[arg(long, env = "TWOFOLD_BENCH_JOURNAL_KEYS", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000))]
    keys: u64,

    /// How long a key rests after each call, in seconds
    #[arg(long, env = "TWOFOLD_BENCH_PAUSE", value_name = "SECONDS", default_value = "0.005", value_parser = seconds)]
    pause: Duration,

    /// Name of the table, which is created anew
    #[arg(long, env = "TWOFOLD_BENCH_TABLE", default_value = TABLE)]
    table: String,

    /// Write the results to this file
    #[arg(long, env = "TWOFOLD_BENCH_JSON", value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Looks whether every write that a journal has as acknowledged is there.
#[derive(Args, Clone, Debug)]
pub struct VerifyArguments {
    #[command(flatten)]
    cluster: ClusterArguments,

    /// The journal
    #[arg(long, env = "TWOFOLD_BENCH_FILE")]
    file: PathBuf,

    /// Write the results to this file
    #[arg(long, env = "TWOFOLD_BENCH_JSON", value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Calls of one kind, of all threads.
#[derive(Clone, Debug, Serialize)]
struct CallsResult {
    done: u64,
    failed: BTreeMap<String, u64>,
    /// The longest time between two successes of a key: the median and the largest of all keys, in milliseconds.
    longest_gap_ms_median: Option<f64>,
    longest_gap_ms_max: Option<f64>,
}

impl CallsResult {
    fn new(calls: Calls) -> CallsResult {
        let millis = || calls.longest.iter().map(|gap| gap.as_secs_f64() * 1000.0);
        CallsResult {
            longest_gap_ms_median: median(millis()),
            longest_gap_ms_max: millis().max_by(f64::total_cmp),
            done: calls.done,
            failed: calls.failed,
        }
    }

    fn print(&self, what: &str) {
        let gap = |millis: Option<f64>| millis.map_or_else(|| "-".into(), |millis| format!("{millis:.1} ms"));
        println!(
            "{what:<7} {:>9} done   longest time between two of a key: median {}, max {}",
            self.done,
            gap(self.longest_gap_ms_median),
            gap(self.longest_gap_ms_max)
        );
        for (why, count) in &self.failed {
            println!("        {count:>9} failed: {why}");
        }
    }
}

/// All results.
#[derive(Clone, Debug, Serialize)]
struct Summary {
    benchmark: &'static str,
    version: &'static str,
    keys: usize,
    writes: CallsResult,
    reads: CallsResult,
    read_back: u64,
    violation_count: u64,
    violations: Vec<String>,
}

/// Threads with keepers.
struct Keepers {
    threads: Vec<Thread<Task>>,
    notes: Receiver<Note>,
}

impl Keepers {
    fn start(cluster: &Cluster, threads: usize) -> Result<Keepers, Failure> {
        let (sender, notes) = channel();
        let start = |number| {
            let sender = sender.clone();
            cluster.start(number as u16, move || Keeper::new(sender))
        };
        let threads = (0..threads).map(start).collect::<Result<_, _>>()?;
        Ok(Keepers { threads, notes })
    }

    /// The schema of a table in this version of the catalog, which all threads know then.
    fn schema(&self, table: &str, catalog: &Catalog) -> Result<Schema, Failure> {
        for thread in &self.threads {
            thread.catalog(catalog.version)?;
        }
        let schema = native::schema(catalog, table)?;
        if schema.columns != keeper::table(table).columns {
            return Err(format!("table `{table}` is not one of a journal").into());
        }
        Ok(schema)
    }

    /// Gives each thread its keys, and waits for the outcome. What is to be noted goes to `lines`.
    fn run(
        &self,
        keys: BTreeMap<u64, Standing>,
        task: impl Fn(Vec<(u64, Standing)>) -> Task,
        end: Time,
        mut lines: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<Outcome, Failure> {
        let mut shares = vec![Vec::new(); self.threads.len()];
        for (place, key) in keys.into_iter().enumerate() {
            shares[place % self.threads.len()].push(key);
        }
        for (thread, share) in self.threads.iter().zip(shares) {
            thread.tell(task(share));
        }
        let start = Clock.now();
        let bar = report::progress_bar("journal".into(), end.since(start).as_millis().max(1) as u64);
        let (mut outcome, mut waiting) = (Outcome::default(), self.threads.len());
        while waiting > 0 {
            match self.notes.recv_timeout(PROGRESS_EVERY) {
                Ok(Note::Lines(text)) => lines(&text)?,
                Ok(Note::Done(of_thread)) => {
                    waiting -= 1;
                    merge(&mut outcome, of_thread);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("the threads of the clients have ended".into());
                }
            }
            let now = Clock.now();
            bar.set_position(now.min(end).since(start).as_millis() as u64);
            if now > end + LATE_MAX {
                return Err("the cluster does not answer".into());
            }
        }
        bar.finish_and_clear();
        Ok(outcome)
    }
}

fn merge(into: &mut Outcome, from: Outcome) {
    for (into, from) in [(&mut into.writes, from.writes), (&mut into.reads, from.reads)] {
        into.done += from.done;
        into.longest.extend(from.longest);
        for (why, count) in from.failed {
            *into.failed.entry(why).or_default() += count;
        }
    }
    into.read_back += from.read_back;
    into.violations.extend(from.violations);
    into.violation_count += from.violation_count;
}

/// Runs the journal.
pub fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let cluster = Cluster::find(&arguments.cluster)?;
    let keepers = Keepers::start(&cluster, arguments.cluster.threads().min(arguments.keys as usize))?;
    let first = &keepers.threads[0];
    first.catalog(0)?;
    let version = native::create_anew(first, keeper::table(&arguments.table))?;
    let schema = keepers.schema(&arguments.table, &*first.catalog(version)?)?;
    let named = |error: std::io::Error| format!("--file {}: {error}", arguments.file.display());
    let mut file = BufWriter::new(File::create(&arguments.file).map_err(named)?);
    let run = clock::random_seed();
    standing::write_title(&mut file, &arguments.table, run).map_err(named)?;
    let start = Clock.now();
    let end = start + arguments.seconds;
    let task = |keys| Task {
        schema: schema.clone(),
        run,
        keys,
        lenient: false,
        start,
        end,
        pause: arguments.pause,
        wall_clock_offset: wall_clock_offset(),
    };
    let keys = (0..arguments.keys).map(|key| (key, Standing::default())).collect();
    let outcome = keepers.run(keys, task, end, |text| {
        // Flushed at once: what is in the file is there, however this process ends.
        file.write_all(text.as_bytes()).and_then(|()| file.flush()).map_err(|error| named(error).into())
    })?;
    standing::write_end(&mut file).and_then(|()| file.flush()).map_err(named)?;
    conclude("journal", arguments.keys as usize, outcome, arguments.json.as_deref())
}

/// Looks for what a journal has.
pub fn verify(arguments: &VerifyArguments) -> Result<Verdict, Failure> {
    let named = |error: &dyn std::fmt::Display| format!("--file {}: {error}", arguments.file.display());
    let file = File::open(&arguments.file).map_err(|error| named(&error))?;
    let journal = Journal::read(BufReader::new(file)).map_err(|error| named(&error))?;
    if !journal.complete {
        println!("the journal was cut short: newer writes than it tells of may be there");
    }
    let cluster = Cluster::find(&arguments.cluster)?;
    let keepers = Keepers::start(&cluster, arguments.cluster.threads())?;
    let catalog = keepers.threads[0].catalog(0)?;
    let schema = keepers.schema(&journal.table, &catalog)?;
    let start = Clock.now();
    let task = |keys| Task {
        schema: schema.clone(),
        run: journal.run,
        keys,
        lenient: !journal.complete,
        start,
        end: start,
        pause: Duration::ZERO,
        wall_clock_offset: wall_clock_offset(),
    };
    let keys = journal.keys.len();
    let outcome = keepers.run(journal.keys.clone(), task, start, |_| Ok(()))?;
    conclude("verify", keys, outcome, arguments.json.as_deref())
}

fn conclude(
    benchmark: &'static str,
    keys: usize,
    outcome: Outcome,
    json: Option<&Path>,
) -> Result<Verdict, Failure> {
    let summary = Summary {
        benchmark,
        version: env!("CARGO_PKG_VERSION"),
        keys,
        writes: CallsResult::new(outcome.writes),
        reads: CallsResult::new(outcome.reads),
        read_back: outcome.read_back,
        violation_count: outcome.violation_count,
        violations: outcome.violations,
    };
    if benchmark == "journal" {
        summary.writes.print("writes");
        summary.reads.print("reads");
    }
    println!("{} of {keys} keys read back, {} violations", summary.read_back, summary.violation_count);
    summary.violations.iter().for_each(|violation| println!("  {violation}"));
    json.map_or(Ok(()), |path| report::write_json(path, &summary))?;
    Ok(if summary.violation_count == 0 { Verdict::Fine } else { Verdict::CheckFailed })
}
