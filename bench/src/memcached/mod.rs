//! Get and set at any server that speaks memcached's ASCII protocol, or Redis'.

mod connection;
pub mod protocol;

use std::{
    cell::RefCell,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    rc::Rc,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{JoinHandle, available_parallelism, sleep},
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::{net::TcpStream, task::spawn_local, time::timeout};
use twofold_proto::{config::Address, random::Random, time::Time};
use twofold_runtime::{Clock, clock, descriptors, thread};

use crate::{
    Failure, Verdict,
    cpu::{Processes, Sample},
    keys::{Distribution, Keys},
    lookup::seconds,
    measure::{Tally, Window},
    native::{Cluster, ClusterArguments},
    report::{self, PROGRESS_EVERY, PhaseResult, Report},
};

use connection::{Asks, Common, READ_BYTES};
use protocol::{KEYS_MAX, Protocol};

/// How long all connections of a thread have to be made.
const CONNECT_TIME: Duration = Duration::from_secs(60);
/// How long answers may take after a phase's end, or a fill in all.
const LATE_MAX: Duration = Duration::from_secs(30);
const FILL_MAX: Duration = Duration::from_secs(3600);
/// Bytes of a value, as memcached takes it by default.
const VALUE_SIZE_MAX: i64 = 1 << 20;
/// Descriptors of the process beside its connections.
const OTHER_DESCRIPTORS: u64 = 64;

/// What is done with items.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Phase {
    /// Sets each item once
    Fill,
    /// Sets items
    Set,
    /// Gets items
    Get,
}

/// What a server speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Spoken {
    /// memcached's get and set
    Memcached,
    /// memcached's mg and ms
    Meta,
    /// Redis' GET, MGET and SET
    Redis,
}

/// Gets and sets items of any memcached server, Twofold's frontend among them, or of Redis.
///
/// Each connection sends its pipeline of commands, waits for all answers, and begins anew. A get of many keys counts
/// each key as an operation.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// The server
    #[arg(long, env = "TWOFOLD_BENCH_SERVER", value_name = "HOST:PORT", default_value = "127.0.0.1:11211")]
    server: String,

    /// Phases, in this order
    #[arg(long, env = "TWOFOLD_BENCH_PHASES", value_enum, value_delimiter = ',')]
    #[arg(default_values_t = [Phase::Fill, Phase::Set, Phase::Get])]
    phases: Vec<Phase>,

    /// Connections, over all threads
    #[arg(long, env = "TWOFOLD_BENCH_CONNECTIONS", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,

    /// Commands that a connection has under way
    #[arg(long, env = "TWOFOLD_BENCH_PIPELINE", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pipeline: u32,

    /// Keys of each get
    #[arg(long, env = "TWOFOLD_BENCH_MULTI_GET", value_name = "KEYS", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    multi_get: u32,

    /// What the server speaks
    #[arg(long, env = "TWOFOLD_BENCH_PROTOCOL", value_enum, default_value_t = Spoken::Memcached)]
    protocol: Spoken,

    /// Replicas that have to have each set before it counts (Redis: WAIT)
    #[arg(long, env = "TWOFOLD_BENCH_REPLICAS", value_name = "COUNT", default_value_t = 0)]
    replicas: u32,

    /// Bytes of a value
    #[arg(long, env = "TWOFOLD_BENCH_VALUE_SIZE", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=VALUE_SIZE_MAX))]
    value_size: u32,

    /// Items
    #[arg(long, env = "TWOFOLD_BENCH_ITEMS", default_value_t = 500_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..KEYS_MAX))]
    items: u64,

    /// Which keys set and get draw
    #[arg(long, env = "TWOFOLD_BENCH_KEYS", value_enum, default_value_t = Distribution::Uniform)]
    keys: Distribution,

    /// Threads [default: one for each core]
    #[arg(long, env = "TWOFOLD_BENCH_THREADS", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,

    /// Seconds of load before what counts (set and get)
    #[arg(long, env = "TWOFOLD_BENCH_WARM_UP", value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    warm_up: Duration,

    /// Seconds that count (set and get)
    #[arg(long, env = "TWOFOLD_BENCH_MEASURE", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    measure: Duration,

    /// Seconds of load after what counts (set and get)
    #[arg(long, env = "TWOFOLD_BENCH_COOL_DOWN", value_name = "SECONDS", default_value = "0.5")]
    #[arg(value_parser = seconds)]
    cool_down: Duration,

    /// How often to go through all phases
    #[arg(long, env = "TWOFOLD_BENCH_RUNS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Seed of the keys [default: random]
    #[arg(long, env = "TWOFOLD_BENCH_SEED")]
    seed: Option<u64>,

    /// Server processes whose CPU time counts [default: those that listen at the server's port on this machine]
    #[arg(long, env = "TWOFOLD_BENCH_SERVER_PIDS", value_name = "PID", value_delimiter = ',')]
    server_pids: Vec<u32>,

    /// Management nodes of the Twofold cluster behind the server: its processes' CPU time counts, too
    #[arg(long, env = "TWOFOLD_MGM", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(value_parser = Address::of_management)]
    mgm: Vec<String>,

    /// Write the results to this file
    #[arg(long, env = "TWOFOLD_BENCH_JSON", value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What the results were had with.
#[derive(Clone, Debug, Serialize)]
struct Settings {
    server: String,
    connections: usize,
    threads: usize,
    pipeline: u32,
    multi_get: u32,
    protocol: String,
    value_size: u32,
    items: u64,
    keys: String,
    seed: u64,
}

struct Bench<'a> {
    arguments: &'a Arguments,
    server: SocketAddr,
    protocol: Protocol,
    threads: usize,
    connections: usize,
    seed: u64,
    processes: Processes,
}

/// A thread of a phase: gets the window when its connections are made, and ends with what happened.
struct Running {
    ready: Receiver<Result<(), String>>,
    window: Sender<Window>,
    ended: JoinHandle<std::io::Result<(Tally, Time)>>,
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let connections = arguments.connections as usize;
    let cores = || available_parallelism().map_or(1, usize::from);
    let threads = arguments.threads.map_or_else(cores, usize::from).min(connections);
    let needed = connections as u64 + OTHER_DESCRIPTORS;
    descriptors::allow(needed)
        .map_err(|error| format!("{needed} descriptors are needed ({error}); see ulimit -n"))?;
    let unknown = |error: &dyn std::fmt::Display| format!("--server {}: {error}", arguments.server);
    let server = arguments.server.to_socket_addrs().map_err(|error| unknown(&error))?.next();
    let server = server.ok_or_else(|| unknown(&"no address"))?;
    let mut addresses = vec![Address { host: server.ip().to_string(), port: server.port() }];
    if !arguments.mgm.is_empty() {
        let cluster = ClusterArguments {
            mgm: arguments.mgm.clone(),
            cluster: None,
            threads: None,
            connect_seconds: 10,
        };
        addresses.extend(Cluster::find(&cluster)?.found.servers().cloned());
    }
    let processes = Processes::find(&arguments.server_pids, addresses.iter())?;
    let seed = arguments.seed.unwrap_or_else(clock::random_seed);
    let protocol = arguments.protocol()?;
    let bench = Bench { arguments, server, protocol, threads, connections, seed, processes };
    let results = bench.run()?;
    let settings = Settings {
        server: arguments.server.clone(),
        connections,
        threads,
        pipeline: arguments.pipeline,
        multi_get: arguments.multi_get,
        protocol: format!("{protocol:?}"),
        value_size: arguments.value_size,
        items: arguments.items,
        keys: format!("{:?}", arguments.keys).to_lowercase(),
        seed,
    };
    Report::new("memcached", settings, results).finish(arguments.json.as_deref())?;
    Ok(Verdict::Fine)
}

impl Arguments {
    fn protocol(&self) -> Result<Protocol, Failure> {
        match self.protocol {
            Spoken::Redis => Ok(Protocol::Redis { replicas: self.replicas }),
            _ if self.replicas > 0 => Err("--replicas is for --protocol redis".into()),
            Spoken::Meta if self.multi_get > 1 => Err("--multi-get: a meta get has one key".into()),
            Spoken::Meta => Ok(Protocol::Meta),
            Spoken::Memcached => Ok(Protocol::Classic),
        }
    }
}

impl Bench<'_> {
    fn run(&self) -> Result<Vec<PhaseResult>, Failure> {
        let Arguments { pipeline, multi_get, value_size, items, keys, .. } = self.arguments;
        println!(
            "{:?} at {}: {items} items of {value_size} bytes, {} connections in {} threads, pipelines of {pipeline}, \
             gets of {multi_get}, keys {keys:?}, seed {}",
            self.arguments.protocol, self.server, self.connections, self.threads, self.seed
        );
        println!("{}", report::heading());
        let mut results = Vec::new();
        for run in 1..=self.arguments.runs {
            for &phase in &self.arguments.phases {
                let result = self.run_phase(phase, run)?;
                println!("{}", report::line(&result));
                results.push(result);
            }
        }
        Ok(results)
    }

    fn run_phase(&self, phase: Phase, run: u32) -> Result<PhaseResult, Failure> {
        let name = format!("{phase:?}").to_lowercase();
        let mut random = Random::new(self.seed);
        let running = (0..self.threads).map(|thread| self.start(thread, phase, &mut random));
        let running = running.collect::<Result<Vec<_>, Failure>>()?;
        for thread in &running {
            let ready = thread.ready.recv_timeout(CONNECT_TIME);
            ready.map_err(|_| format!("{} took no connections in time", self.server))??;
        }
        let arguments = self.arguments;
        let window = match phase {
            Phase::Fill => Window::unbounded(Clock.now()),
            _ => Window::timed(Clock.now(), arguments.warm_up, arguments.measure, arguments.cool_down),
        };
        for thread in &running {
            // One that has ended says why below.
            let _ = thread.window.send(window);
        }
        let (before, after) = self.watch(&name, run, window, &running);
        let (mut tally, mut finished) = (Tally::default(), window.start);
        for thread in running {
            let ended = thread.ended.join().map_err(|_| "a thread has panicked")?;
            let (of_thread, at) = ended.map_err(|error| error.to_string())?;
            tally.merge(of_thread);
            finished = finished.max(at);
        }
        let last = self.processes.sample();
        let seconds = finished.min(window.until).since(window.from).as_secs_f64();
        let usage = self.processes.between(&before, &after.unwrap_or(last));
        Ok(PhaseResult::new(&name, run, seconds, tally, &usage))
    }

    /// Starts a thread with its share of connections, and of keys.
    fn start(&self, thread: usize, phase: Phase, random: &mut Random) -> Result<Running, Failure> {
        let Arguments { pipeline, value_size, items, .. } = *self.arguments;
        let protocol = self.protocol;
        let bound = |place: usize| (u128::from(items) * place as u128 / self.connections as u128) as u64;
        let keys = |first, random| Keys::new(self.arguments.keys, items, 0.99, first, random);
        let asks: Vec<Asks> = (thread..self.connections)
            .step_by(self.threads)
            .map(|place| match phase {
                Phase::Fill => Asks::Fill(bound(place)..bound(place + 1)),
                Phase::Set => Asks::Set(keys(bound(place), random.fork())),
                Phase::Get => Asks::Get {
                    keys: keys(bound(place), random.fork()),
                    per_command: self.arguments.multi_get as usize,
                },
            })
            .collect();
        let (ready_sender, ready) = channel();
        let (window, window_receiver) = channel();
        let server = self.server;
        let common = move |window| Common {
            window,
            protocol,
            pipeline: pipeline as usize,
            value_size: value_size as usize,
            set_rest: protocol.set_rest(value_size as usize),
            buffer: RefCell::new(vec![0; READ_BYTES]),
            tally: RefCell::default(),
            finished: std::cell::Cell::new(Time(0)),
        };
        let main = move || async move {
            let connected = connect(server, asks.len()).await;
            let streams = match connected {
                Ok(streams) => streams,
                Err(error) => {
                    let _ = ready_sender.send(Err(error));
                    return (Tally::default(), Time(0));
                }
            };
            let _ = ready_sender.send(Ok(()));
            // Nothing else runs in this thread yet.
            let Ok(window) = window_receiver.recv() else { return (Tally::default(), Time(0)) };
            run_connections(streams, asks, common(window)).await
        };
        let ended = thread::spawn(&format!("client{thread}"), main).map_err(|error| error.to_string())?;
        Ok(Running { ready, window, ended })
    }

    /// Waits for the end of a phase; takes samples of CPU time where the window begins and ends.
    fn watch(&self, name: &str, run: u32, window: Window, running: &[Running]) -> (Sample, Option<Sample>) {
        let timed = window.end != Time(u64::MAX);
        let bar =
            report::progress_bar(format!("{name} {run}"), window.end.since(window.start).as_millis() as u64);
        let (mut before, mut after) = (None, None);
        while running.iter().any(|thread| !thread.ended.is_finished()) {
            let now = Clock.now();
            if before.is_none() && now >= window.from {
                before = Some(self.processes.sample());
            }
            if after.is_none() && now >= window.until {
                after = Some(self.processes.sample());
            }
            let next = [window.from, window.until].into_iter().find(|&at| at > now).unwrap_or(Time(u64::MAX));
            let longest = if timed { PROGRESS_EVERY } else { PROGRESS_EVERY / 20 };
            sleep(next.since(now).min(longest));
            if timed {
                bar.set_position(Clock.now().since(window.start).as_millis() as u64);
            }
        }
        bar.finish_and_clear();
        (before.unwrap_or_else(|| self.processes.sample()), after)
    }
}

async fn connect(server: SocketAddr, count: usize) -> Result<Vec<TcpStream>, String> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = timeout(CONNECT_TIME, TcpStream::connect(server)).await;
        let stream = stream
            .map_err(|_| format!("{server}: no answer"))?
            .map_err(|error| format!("{server}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| format!("{server}: {error}"))?;
        streams.push(stream);
    }
    Ok(streams)
}

async fn run_connections(streams: Vec<TcpStream>, asks: Vec<Asks>, common: Common) -> (Tally, Time) {
    let common = Rc::new(common);
    let left = common.window.end.since(Clock.now()).min(FILL_MAX) + LATE_MAX;
    let tasks: Vec<_> = streams
        .into_iter()
        .zip(asks)
        .map(|(stream, asks)| spawn_local(connection::run(stream, asks, common.clone())))
        .collect();
    let all = async {
        for task in tasks {
            if let Err(error) = task.await
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    };
    if timeout(left, all).await.is_err() {
        common.tally.borrow_mut().fail("connections that were not answered at the end");
    }
    (common.tally.take(), common.finished.get())
}
