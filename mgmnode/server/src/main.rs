//! The management node's process.

mod owner;
mod service;
mod store;

use std::{fmt::Display, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use tokio::{net::TcpListener, time};
use twofold_grpc::management::management_server::ManagementServer;
use twofold_mgmnode::{config, node::ManagementNode};
use twofold_proto::{
    config::{Address, ClusterConfig, ManagementNodeConfig},
    ids::{NodeId, WorkerId},
};
use twofold_runtime::{
    Directory, Driver, EXIT_DO_NOT_RESTART, Listener, Mailbox, Metrics, clock, listener, logging, recorder,
    signals, thread,
};

use crate::{
    owner::{Administration, Message, Process},
    service::Service,
    store::Store,
};

/// A management node of Twofold: keeps the cluster's config, views and catalog, and decides who is in.
///
/// Run 1, 3 or 5 of them, each with the same config file and a directory of its own, which has to survive restarts.
/// The first start needs all of them.
/// Data nodes, API nodes and the `twofold` command find the cluster by their addresses.
#[derive(Parser)]
#[command(name = "twofold-mgmnode", version)]
struct Arguments {
    /// The config of the cluster; `twofold config explain` tells what it can say.
    #[arg(long, env = "TWOFOLD_CONFIG", default_value = "twofold.toml")]
    config: PathBuf,
    /// Which of the config's management nodes this is.
    #[arg(long, env = "TWOFOLD_ID", default_value_t = 1)]
    id: u16,
    /// Where it keeps the register. Never let two nodes share it. A node that had another and is given an
    /// empty one takes no part before all other management nodes have told it what it may have promised.
    #[arg(long, env = "TWOFOLD_DIR")]
    dir: PathBuf,
    /// How log lines look: text or json.
    #[arg(long, env = "TWOFOLD_LOG_FORMAT", default_value_t)]
    log_format: logging::Format,
    /// What is logged: error, warn, info, debug, trace, or levels per module.
    #[arg(long, env = "TWOFOLD_LOG", default_value = "info")]
    log: String,
}

/// How often the machine is told what the wall clock says.
const WALL_CLOCK_EVERY: Duration = Duration::from_secs(1);

/// Why the process ends.
struct Failure {
    code: u8,
    text: String,
}

/// A failure that starting again would not mend.
fn setting(error: impl Display) -> Failure {
    Failure { code: EXIT_DO_NOT_RESTART, text: error.to_string() }
}

fn failure(error: impl Display) -> Failure {
    Failure { code: 1, text: error.to_string() }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = logging::init(arguments.log_format, &arguments.log) {
        eprintln!("--log {}: {error}", arguments.log);
        return ExitCode::from(EXIT_DO_NOT_RESTART);
    }
    recorder::install();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            tracing::error!("{text}");
            ExitCode::from(code)
        }
    }
}

/// The config, and the part of it that is this node's.
fn read_config(arguments: &Arguments) -> Result<(ClusterConfig, ManagementNodeConfig), Failure> {
    let file = arguments.config.display().to_string();
    let text =
        std::fs::read_to_string(&arguments.config).map_err(|error| setting(format!("{file}: {error}")))?;
    let config = config::read(&file, &text).map_err(setting)?;
    let own = config.management_nodes.iter().find(|node| node.id == NodeId(arguments.id));
    let ids: Vec<String> = config.management_nodes.iter().map(|node| node.id.to_string()).collect();
    let missing =
        || setting(format!("{file} has no [[mgm]] with id = {}; it has {}", arguments.id, ids.join(", ")));
    let own = own.cloned().ok_or_else(missing)?;
    Ok((config, own))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (config, own) = read_config(arguments)?;
    let address = own.address.to_string();
    let web = Address { port: own.web_port, ..own.address }.to_string();
    let runtime = thread::runtime().map_err(failure)?;
    // First of all: a second process for this id must not vote.
    let socket = runtime.block_on(listener::bind(&address)).map_err(setting)?;
    let web = runtime.block_on(listener::bind(&web)).map_err(setting)?;
    let (store, stored) = Store::open(&arguments.dir).map_err(failure)?;
    let machine = ManagementNode::new(config.clone(), NodeId(arguments.id), clock::incarnation(), &stored)
        .map_err(failure)?;
    let directory = Directory::new();
    for node in &config.management_nodes {
        directory.set(node.id, node.address.to_string());
    }
    let mailbox = Mailbox::new();
    let administration = Administration::new(mailbox.clone());
    let process = Process::new(store, mailbox.clone(), &administration).map_err(failure)?;
    let metrics = Metrics::new();
    let register = metrics.driver("register");
    let door = mailbox.door();
    let machine_mailbox = mailbox.clone();
    let machine = thread::spawn("register", move || {
        Driver::new(machine, process, machine_mailbox, directory, register).run()
    })
    .map_err(failure)?;
    tracing::info!("listening on {address}");
    let beside = async {
        tokio::select! {
            () = metrics.serve(web) => (),
            () = tell_time(&mailbox) => (),
        }
    };
    runtime.block_on(serve(socket, door, Service::new(config, administration), beside))?;
    mailbox.stop();
    match machine.join() {
        Ok(ended) => ended.map_err(failure),
        Err(_) => Err(failure("the machine of the register has panicked")),
    }
}

/// Tells the machine what the wall clock says.
async fn tell_time(mailbox: &Mailbox<Message>) {
    let mut ticks = time::interval(WALL_CLOCK_EVERY);
    loop {
        ticks.tick().await;
        // A machine that has ended needs it no more.
        let _ = mailbox.send(Message::WallClock(clock::wall_clock_ms()));
    }
}

/// Lets nodes and people in until the system asks to stop.
async fn serve(
    socket: TcpListener,
    door: twofold_runtime::mailbox::Door,
    service: Service,
    beside: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let mut stop = signals::StopRequests::catch().map_err(failure)?;
    let mut listener = Listener::new([(WorkerId::NODE, door)]);
    let others = listener.others();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(twofold_grpc::DESCRIPTORS)
        .build_v1()
        .map_err(failure)?;
    let people = tonic::transport::Server::builder()
        .add_service(reflection)
        .add_service(ManagementServer::new(service))
        .serve_with_incoming(others);
    tokio::select! {
        () = listener.serve(socket) => Err(failure("the listener has ended")),
        ended = people => Err(failure(format!("the gRPC server has ended: {ended:?}"))),
        () = beside => Err(failure("the server of the metrics or the clock has ended")),
        () = stop.next() => Ok(()),
    }
}
