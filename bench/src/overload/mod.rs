//! More than an API node can bear, by memcached's protocol or gRPC: first what it can do, then some times as much.
//!
//! | module | what it does |
//! |---|---|
//! | `memcached`, `grpc` | connections that send messages, and say what became of them |
//!
//! The peak is had in a closed loop: each connection has some messages under way, and sends another when one is answered.
//! The overload is an open loop: messages are sent when they are due, whatever became of those before. The time that an
//! answer takes counts from when its message was due.

mod grpc;
mod memcached;

use std::{
    cell::{Cell, RefCell},
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    rc::Rc,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{JoinHandle, sleep},
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};
use twofold_proto::{config::Address, random::Random, time::Time};
use twofold_runtime::{Clock, clock, thread};

use crate::{
    Failure, Verdict,
    cpu::{Processes, resident_bytes},
    keys::{Distribution, Keys},
    lookup::seconds,
    measure::{Latencies, Window},
    memcached::protocol::Protocol,
    report::{self, LatencyResult},
};

/// How gets are worded.
const WORDS: Protocol = Protocol::Classic;
/// How long all connections of a thread have to be made, and answers may take after a phase's end.
const CONNECT_TIME: Duration = Duration::from_secs(60);
const LATE_MAX: Duration = Duration::from_secs(10);
/// How often what is due is sent.
const TICK: Duration = Duration::from_millis(1);
/// Messages that each connection has under way in the closed loop.
const CLOSED_MESSAGES: usize = 2;
/// How often the servers' memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Door {
    /// memcached's get
    Memcached,
    /// gRPC's Execute, of reads that stand alone
    Grpc,
}

/// Asks for more than an API node can do, and says what becomes of what it can.
///
/// First the peak is measured: connections with some messages under way. Then so many times the peak is sent, whether
/// it is answered or not. Goodput is what is done of it a second; it has to stay close to the peak, and the rest has to be
/// refused soon. Items are those of `twofold-bench memcached --phases fill`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// How to ask
    #[arg(value_enum)]
    door: Door,

    /// The API node's port of that protocol [default: 127.0.0.1, and the protocol's port]
    #[arg(long, env = "TWOFOLD_BENCH_SERVER", value_name = "HOST:PORT")]
    server: Option<String>,

    /// How many times the peak to send
    #[arg(long, default_value_t = 3.0)]
    factor: f64,

    /// What part of the peak has to be done then
    #[arg(long, value_name = "RATIO", default_value_t = 0.9)]
    least: f64,

    /// Connections, over all threads
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,

    /// Operations of a message: commands that are sent together, or a request's operations
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    operations: u32,

    /// Messages that a connection may have unanswered in the open loop: more are given up before they are sent
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    unanswered: u32,

    /// Items
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    items: u64,

    /// Threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,

    /// Seconds of load before what counts
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    warm_up: Duration,

    /// Seconds that count
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    measure: Duration,

    /// Rounds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Write the results to this file
    #[arg(long, env = "TWOFOLD_BENCH_JSON", value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What became of messages whose answers came in the window.
#[derive(Default, Debug)]
struct Counts {
    /// Operations that were sent, that were done, that were refused; of messages that were not sent.
    sent: u64,
    done: u64,
    refused: u64,
    unsent: u64,
    /// Of messages that were done in all or in part, and of those that were refused as a whole.
    latencies: Latencies,
    refusals: Latencies,
    /// Why, of some refusal.
    why: Option<String>,
}

impl Counts {
    fn merge(&mut self, other: Counts) {
        self.sent += other.sent;
        self.done += other.done;
        self.refused += other.refused;
        self.unsent += other.unsent;
        self.latencies.merge(other.latencies);
        self.refusals.merge(other.refusals);
        self.why = self.why.take().or(other.why);
    }
}

/// How a message was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Answered {
    due: Time,
    done: u64,
    refused: u64,
}

/// What the connections of a thread share.
#[derive(Debug)]
struct Common {
    window: Window,
    operations: usize,
    /// Messages that are sent as soon as others are answered, if so.
    closed: bool,
    keys: RefCell<Keys>,
    counts: RefCell<Counts>,
    /// Messages that are not answered, over all connections.
    open: Cell<usize>,
}

impl Common {
    fn draw(&self) -> Vec<u64> {
        let mut keys = self.keys.borrow_mut();
        (0..self.operations).map(|_| keys.next()).collect()
    }

    /// Something was refused, and why.
    fn note_refusal(&self, why: &str) {
        self.counts.borrow_mut().why.get_or_insert_with(|| why.into());
    }

    /// A message was answered. Returns when another one is due in its place, if one is.
    fn answered(&self, answered: Answered) -> Option<Time> {
        self.open.set(self.open.get() - 1);
        let now = Clock.now();
        if self.window.counts(now) {
            let mut counts = self.counts.borrow_mut();
            counts.done += answered.done;
            counts.refused += answered.refused;
            let latencies = if answered.done > 0 { &mut counts.latencies } else { &mut counts.refusals };
            latencies.add(now.0.saturating_sub(answered.due.0));
        }
        (self.closed && now < self.window.end).then_some(now)
    }

    /// A message is sent.
    fn sent(&self) {
        self.open.set(self.open.get() + 1);
        if self.window.counts(Clock.now()) {
            self.counts.borrow_mut().sent += self.operations as u64;
        }
    }
}

/// A connection.
trait Connection {
    /// How many of its messages are not answered.
    fn unanswered(&self) -> usize;

    /// Sends one that is due at this time, without waiting for anything.
    fn send(self: Rc<Self>, due: Time);
}

/// What was measured.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct PhaseFigures {
    /// Operations a second.
    sent_per_second: f64,
    done_per_second: f64,
    refused_per_second: f64,
    unsent_per_second: f64,
    /// Until messages were answered that were done, and that were refused.
    latency_us: LatencyResult,
    refusal_us: LatencyResult,
    /// The most that the server's process had resident, in bytes.
    resident_bytes: u64,
    /// Why some operation was refused.
    refusal: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
struct RunFigures {
    peak: PhaseFigures,
    overload: PhaseFigures,
    /// What was done a second under overload, by the peak.
    goodput: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Figures {
    door: String,
    runs: Vec<RunFigures>,
    goodput_median: f64,
}

struct Bench<'a> {
    arguments: &'a Arguments,
    server: SocketAddr,
    processes: Processes,
    seed: u64,
}

struct Running {
    ready: Receiver<Result<(), String>>,
    window: Sender<Window>,
    ended: JoinHandle<std::io::Result<Counts>>,
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let named = arguments.server.clone().unwrap_or_else(|| match arguments.door {
        Door::Memcached => "127.0.0.1:11211".into(),
        Door::Grpc => "127.0.0.1:50051".into(),
    });
    let unknown = |error: &dyn std::fmt::Display| format!("--server {named}: {error}");
    let server = named.to_socket_addrs().map_err(|error| unknown(&error))?.next();
    let server = server.ok_or_else(|| unknown(&"no address"))?;
    let address = Address { host: server.ip().to_string(), port: server.port() };
    let processes = Processes::find(&[], [address].iter())?;
    let bench = Bench { arguments, server, processes, seed: clock::random_seed() };
    println!(
        "{:?} at {server}: {} connections, messages of {} operations, {} times the peak",
        arguments.door, arguments.connections, arguments.operations, arguments.factor
    );
    println!(
        "{:<10} {:>10} {:>10} {:>10} {:>10}   {:>20}   {:>20}   resident",
        "phase", "sent/s", "done/s", "refused/s", "not sent/s", "done: p50, p99 ms", "refused: p50, p99 ms"
    );
    let mut runs = Vec::new();
    for _ in 0..arguments.runs {
        let peak = bench.phase("peak", None)?;
        let rate = peak.done_per_second * arguments.factor;
        let overload = bench.phase("overload", Some(rate))?;
        let goodput = overload.done_per_second / peak.done_per_second.max(1.0);
        println!("goodput {goodput:.2} of the peak");
        runs.push(RunFigures { peak, overload, goodput });
    }
    let goodput_median = report::median(runs.iter().map(|run| run.goodput)).unwrap_or_default();
    println!("goodput {goodput_median:.2} of the peak (median); it has to be {:.2}", arguments.least);
    let figures = Figures { door: format!("{:?}", arguments.door).to_lowercase(), runs, goodput_median };
    if let Some(path) = &arguments.json {
        report::write_json(path, &figures)?;
    }
    Ok(if goodput_median < arguments.least { Verdict::CheckFailed } else { Verdict::Fine })
}

impl Bench<'_> {
    /// The peak, or so many operations a second.
    fn phase(&self, name: &str, rate: Option<f64>) -> Result<PhaseFigures, Failure> {
        self.processes.rest();
        let threads = usize::from(self.arguments.threads).min(self.arguments.connections as usize);
        let mut random = Random::new(self.seed);
        let running = (0..threads).map(|place| self.start(place, threads, rate, random.fork()));
        let running = running.collect::<Result<Vec<_>, Failure>>()?;
        for thread in &running {
            let ready = thread.ready.recv_timeout(CONNECT_TIME);
            ready.map_err(|_| format!("{} took no connections in time", self.server))??;
        }
        let (warm_up, measure) = (self.arguments.warm_up, self.arguments.measure);
        let window = Window::timed(Clock.now(), warm_up, measure, Duration::from_millis(100));
        for thread in &running {
            // One that has ended says why below.
            let _ = thread.window.send(window);
        }
        let mut resident = 0;
        while running.iter().any(|thread| !thread.ended.is_finished()) {
            let now: u64 = self.processes.servers.iter().map(|server| resident_bytes(server.pid)).sum();
            resident = resident.max(now);
            sleep(LOOK_EVERY);
        }
        let mut counts = Counts::default();
        for thread in running {
            let ended = thread.ended.join().map_err(|_| "a thread has panicked")?;
            counts.merge(ended.map_err(|error| error.to_string())?);
        }
        let each = |operations: u64| operations as f64 / measure.as_secs_f64();
        let figures = PhaseFigures {
            sent_per_second: each(counts.sent),
            done_per_second: each(counts.done),
            refused_per_second: each(counts.refused),
            unsent_per_second: each(counts.unsent),
            latency_us: LatencyResult::of(counts.latencies.histogram()),
            refusal_us: LatencyResult::of(counts.refusals.histogram()),
            resident_bytes: resident,
            refusal: counts.why,
        };
        println!("{}", line(name, &figures));
        Ok(figures)
    }

    fn start(
        &self,
        place: usize,
        threads: usize,
        rate: Option<f64>,
        random: Random,
    ) -> Result<Running, Failure> {
        let Arguments { door, connections, operations, unanswered, items, .. } = *self.arguments;
        let (ready_sender, ready) = channel();
        let (window, window_receiver) = channel();
        let server = self.server;
        let share = connections as usize / threads + usize::from(place < connections as usize % threads);
        // Messages a second.
        let rate = rate.map(|rate| rate / threads as f64 / f64::from(operations));
        let main = move || async move {
            let connected = match door {
                Door::Memcached => memcached::connect(server, share).await,
                Door::Grpc => grpc::connect(server, share).await,
            };
            let made = match connected {
                Ok(made) => made,
                Err(error) => {
                    let _ = ready_sender.send(Err(error));
                    return Counts::default();
                }
            };
            let _ = ready_sender.send(Ok(()));
            // Nothing else runs in this thread yet.
            let Ok(window) = window_receiver.recv() else { return Counts::default() };
            let keys = Keys::new(Distribution::Uniform, items, 0.99, 0, random);
            let common = Rc::new(Common {
                window,
                operations: operations as usize,
                closed: rate.is_none(),
                keys: RefCell::new(keys),
                counts: RefCell::default(),
                open: Cell::new(0),
            });
            let connections: Vec<Rc<dyn Connection>> =
                made.into_iter().map(|make| make(common.clone())).collect();
            match rate {
                None => {
                    for connection in &connections {
                        (0..CLOSED_MESSAGES).for_each(|_| connection.clone().send(Clock.now()));
                    }
                    tokio::time::sleep(window.end.since(Clock.now())).await;
                }
                Some(rate) => send_when_due(&connections, &common, rate, unanswered as usize).await,
            }
            let last = Clock.now() + LATE_MAX;
            while common.open.get() > 0 && Clock.now() < last {
                tokio::time::sleep(TICK).await;
            }
            common.counts.take()
        };
        let ended = thread::spawn(&format!("client{place}"), main).map_err(|error| error.to_string())?;
        Ok(Running { ready, window, ended })
    }
}

/// Makes a connection, once it is known what it does.
type Make = Box<dyn FnOnce(Rc<Common>) -> Rc<dyn Connection>>;

/// Sends so many messages a second over all connections by turns, until the window ends.
async fn send_when_due(connections: &[Rc<dyn Connection>], common: &Common, rate: f64, unanswered: usize) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start = Clock.now();
    let mut begun = 0_u64;
    loop {
        ticks.tick().await;
        let now = Clock.now();
        if now >= common.window.end {
            return;
        }
        let due = (now.since(start).as_secs_f64() * rate) as u64;
        for message in begun..due {
            let connection = &connections[(message % connections.len() as u64) as usize];
            if connection.unanswered() < unanswered {
                connection.clone().send(start + Duration::from_secs_f64(message as f64 / rate));
            } else if common.window.counts(now) {
                common.counts.borrow_mut().unsent += common.operations as u64;
            }
        }
        begun = due;
    }
}

fn line(name: &str, figures: &PhaseFigures) -> String {
    let times = |latency: &LatencyResult| format!("{:.1}, {:.1}", latency.p50 / 1e3, latency.p99 / 1e3);
    let mut line = format!(
        "{name:<10} {:>10.0} {:>10.0} {:>10.0} {:>10.0}   {:>20}   {:>20}   {} MiB",
        figures.sent_per_second,
        figures.done_per_second,
        figures.refused_per_second,
        figures.unsent_per_second,
        times(&figures.latency_us),
        times(&figures.refusal_us),
        figures.resident_bytes >> 20
    );
    if let Some(why) = &figures.refusal {
        line += &format!("\n           refused: {why}");
    }
    line
}
