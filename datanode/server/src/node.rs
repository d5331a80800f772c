//! The child process: the node's machine and its workers, a thread each, and the port.

use std::{path::Path, sync::Arc, thread::available_parallelism, time::Duration};

use tokio::{sync::mpsc, task::spawn_local, time};
use twofold_datanode::{
    disk::{self, Disk},
    local::{FromWorker, ToWorker},
    node::{self, Event, Node, Settings},
    worker::{self, Worker},
};
use twofold_proto::{
    config::{ClusterConfig, DataNodeConfig},
    ids::{Endpoint, Incarnation, NodeId, WorkerId},
    limits::WORKERS_MAX,
};
use twofold_runtime::{
    Clock, Directory, Driver, EXIT_RESTART, Listener, Mailbox, Metrics, Owner, angel, bootstrap,
    clock::wall_clock_ms, listener, recorder, signals::StopRequests, thread,
};

use crate::{
    Failure,
    arguments::Arguments,
    directory,
    disk::{DiskMailbox, mailbox as disk_mailbox, start as start_disk},
};

/// Bytes of a segment of redo.
const SEGMENT_BYTES: usize = 16 << 20;
/// How often the node is told what the wall clock says.
const WALL_CLOCK_EVERY: Duration = Duration::from_secs(1);

/// What the node's machine is told by this process.
#[derive(Debug)]
enum ToNode {
    Worker(FromWorker),
    Disk(disk::Word),
    WallClock(u64),
    Stop,
}

/// How the node wants to end.
#[derive(Debug)]
struct Exit {
    restart: bool,
    refused: bool,
    reason: String,
}

/// Runs this life of the node; returns the exit code.
pub fn run(arguments: &Arguments, incarnation: Incarnation) -> Result<u8, Failure> {
    angel::die_with_parent()?;
    recorder::install();
    let _lock = directory::lock(&arguments.dir, "node.lock")?;
    let config = Arc::new(bootstrap::learn_config(&arguments.mgm));
    let section = arguments.section(&config)?;
    let exit = thread::runtime()?.block_on(live(arguments, &config, section, incarnation))?;
    if exit.restart {
        tracing::info!("this life ends, the next one begins: {}", exit.reason);
        Ok(EXIT_RESTART)
    } else if exit.refused {
        Err(Failure::Setting(exit.reason))
    } else {
        tracing::info!("ends: {}", exit.reason);
        Ok(0)
    }
}

/// Starts everything, and waits for the end.
async fn live(
    arguments: &Arguments,
    config: &Arc<ClusterConfig>,
    section: &DataNodeConfig,
    incarnation: Incarnation,
) -> Result<Exit, Failure> {
    let host = arguments.bind.as_ref().unwrap_or(&section.address.host);
    let setting = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::PortTaken(error.to_string()),
        _ => Failure::Setting(error.to_string()),
    };
    let port = listener::bind(&format!("{host}:{}", section.address.port)).await.map_err(setting)?;
    let metrics = Metrics::new();
    let mut stops = StopRequests::catch()?;
    let workers = workers(arguments, section);
    let (mailbox, mut exits) =
        start(config, section.id, incarnation, workers, &arguments.dir, &metrics, port)?;
    tracing::info!(
        "node {} of cluster «{}» listens on {host}:{} with {workers} workers",
        section.id,
        config.name,
        section.address.port
    );
    let mut clock = time::interval(WALL_CLOCK_EVERY);
    loop {
        let message = tokio::select! {
            exit = exits.recv() => {
                return exit.ok_or_else(|| Failure::System("the node's thread has ended".into()));
            }
            () = stops.next() => ToNode::Stop,
            _ = clock.tick() => ToNode::WallClock(wall_clock_ms()),
        };
        if mailbox.send(message).is_err() {
            return Err(Failure::System("the node's thread has ended".into()));
        }
    }
}

fn workers(arguments: &Arguments, section: &DataNodeConfig) -> u16 {
    let cores =
        || available_parallelism().map_or(1, |cores| cores.get().min(usize::from(WORKERS_MAX)) as u16);
    let configured = Some(section.workers).filter(|&workers| workers > 0);
    arguments.workers.or(configured).unwrap_or_else(cores)
}

/// Where the nodes of the config listen.
fn directory(config: &ClusterConfig) -> Directory {
    let directory = Directory::new();
    let management = config.management_nodes.iter().map(|node| (node.id, &node.address));
    for (id, address) in management.chain(config.data_nodes.iter().map(|node| (node.id, &node.address))) {
        directory.set(id, address.to_string());
    }
    directory
}

/// Starts the threads of the machines, and opens the port.
fn start(
    config: &Arc<ClusterConfig>,
    id: NodeId,
    incarnation: Incarnation,
    workers: u16,
    dir: &Path,
    metrics: &Metrics,
    port: tokio::net::TcpListener,
) -> Result<(Mailbox<ToNode>, mpsc::UnboundedReceiver<Exit>), Failure> {
    let directory = directory(config);
    let node = Mailbox::<ToNode>::new();
    let mailboxes: Vec<Mailbox<ToWorker>> = (0..workers).map(|_| Mailbox::new()).collect();
    let (exit, exits) = mpsc::unbounded_channel();
    let (disk, inputs) = disk_mailbox();
    // It knows the time before its first step.
    let _ = node.send(ToNode::WallClock(wall_clock_ms()));
    for (place, mailbox) in mailboxes.iter().enumerate() {
        let (config, mailbox, directory) = (config.clone(), mailbox.clone(), directory.clone());
        let name = format!("worker{place}");
        let (metrics, owner) =
            (metrics.driver(&name), WorkerOwner { node: node.clone(), disk: disk.clone() });
        let own = Endpoint::new(id, WorkerId(place as u16));
        let memory = config.data_memory / u64::from(workers);
        thread::spawn(&name, move || {
            let worker = Worker::new(config, own, incarnation, memory);
            Driver::new(worker, owner, mailbox, directory, metrics).run()
        })?;
    }
    let mut doors = vec![(WorkerId::NODE, node.door())];
    doors.extend((0..).map(WorkerId).zip(mailboxes.iter().map(Mailbox::door)));
    let mut listener = Listener::new(doors);
    spawn_local(metrics.clone().serve(listener.others()));
    let settings = disk::Settings {
        cluster: config.name.clone(),
        node: id,
        life: incarnation,
        workers,
        segment_bytes: SEGMENT_BYTES,
        redo_bytes: config.redo_bytes,
        flush: config.flush(),
    };
    let (to_workers, to_node) = (mailboxes.clone(), node.clone());
    start_disk(
        Disk::new(settings),
        dir,
        (disk.clone(), inputs),
        move |worker, message| _ = to_workers[usize::from(worker.0)].send(message),
        move |word| _ = to_node.send(ToNode::Disk(word)),
    )?;
    let settings = Settings { config: config.clone(), id, incarnation, workers };
    let (mailbox, metrics) = (node.clone(), metrics.driver("node"));
    thread::spawn("node", move || {
        let machine = Node::new(Clock.now(), settings);
        let owner = NodeOwner { workers: mailboxes, disk, exit };
        Driver::new(machine, owner, mailbox, directory, metrics).run()
    })?;
    spawn_local(listener.serve(port));
    Ok((node, exits))
}

struct NodeOwner {
    workers: Vec<Mailbox<ToWorker>>,
    disk: DiskMailbox,
    exit: mpsc::UnboundedSender<Exit>,
}

impl Owner<Node> for NodeOwner {
    type Message = ToNode;

    fn input(message: ToNode) -> node::Input<'static> {
        match message {
            ToNode::Worker(said) => node::Input::Worker(said),
            ToNode::Disk(word) => node::Input::Disk(word),
            ToNode::WallClock(millis) => node::Input::WallClock(millis),
            ToNode::Stop => node::Input::Stop { graceful: true },
        }
    }

    fn timer() -> node::Input<'static> {
        node::Input::Timer
    }

    fn effect(&mut self, effect: node::Effect) {
        match effect {
            node::Effect::Worker { worker, message } => {
                // A worker that has ended does not answer, which the node notices.
                let _ = self.workers[usize::from(worker.0)].send(message);
            }
            node::Effect::Disk(message) => self.disk.send(message),
            node::Effect::Exit { restart, refused, reason } => {
                // Who waits for it ends the process.
                let _ = self.exit.send(Exit { restart, refused, reason });
            }
            node::Effect::Event(event) => log(&event),
            node::Effect::Link(effect) => unreachable!("the driver carries out {effect:?}"),
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::Damaged(_) | Event::DiskFailed(_) => tracing::error!("{event}"),
        Event::Malformed { .. } | Event::Hangs { .. } | Event::StopsServing => tracing::warn!("{event}"),
        _ => tracing::info!("{event}"),
    }
}

struct WorkerOwner {
    node: Mailbox<ToNode>,
    disk: DiskMailbox,
}

impl Owner<Worker> for WorkerOwner {
    type Message = ToWorker;

    fn input(message: ToWorker) -> worker::Input<'static> {
        worker::Input::Node(message)
    }

    fn timer() -> worker::Input<'static> {
        worker::Input::Timer
    }

    fn effect(&mut self, effect: worker::Effect) {
        match effect {
            worker::Effect::Node(said) => {
                // Without the node's thread the process is about to end.
                let _ = self.node.send(ToNode::Worker(said));
            }
            worker::Effect::Disk(message) => self.disk.send(message),
            worker::Effect::Link(effect) => unreachable!("the driver carries out {effect:?}"),
        }
    }
}
