//! The API node's program.

mod arguments;

use std::{io, process::ExitCode, sync::Arc, thread::available_parallelism, time::Duration};

use clap::Parser;
use tokio::{
    net::{TcpListener, TcpSocket, lookup_host},
    sync::mpsc,
    task::spawn_local,
    time,
};
use tonic::transport::{Server, server::TcpIncoming};
use twofold_apinode::sql::wire::password::StoredPassword;
use twofold_apinode_server::{cluster, grpc, memcached, sql};
use twofold_client::{
    admission::Admission,
    connect::{Connect, Message, connect},
    find::publish,
    handle::SharedTables,
};
use twofold_proto::{
    config::{ApiNodeConfig, ClusterConfig},
    ids::{Endpoint, NodeId, WorkerId},
};
use twofold_runtime::{
    Directory, EXIT_DO_NOT_RESTART, Mailbox, Metrics, bootstrap, descriptors, listener, logging,
    metrics::DriverMetrics, recorder, signals::StopRequests, thread,
};

use arguments::Arguments;

/// Connections that the system keeps for a thread until they are accepted.
const BACKLOG: u32 = 1024;
/// Descriptors of the process beside those of memcached's and SQL's clients: of gRPC's, of data nodes, of files.
const OTHER_DESCRIPTORS: u64 = 2048;
/// How long a node that was asked to stop waits for its answers.
const STOP_TIME: Duration = Duration::from_secs(10);
/// How often a gRPC client is asked whether it is still there, and how long it may take to say so.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a gRPC client may send ahead, in bytes: on a stream that is not read from, and on all of a connection. A connection
/// with many small frames that are not read is closed for abuse once they take half of the latter, each counted as some
/// hundred bytes; so that a session which is not read from just has to wait, its stream is full long before.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Why the process cannot go on.
#[derive(Debug)]
enum Failure {
    /// A wrong setting, which no restart mends.
    Setting(String),
    /// The system did not give what was needed.
    System(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::System(error.to_string())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = logging::init(arguments.log_format, &arguments.log) {
        let hint = "say a level (info), or levels per module (twofold_runtime=debug)";
        eprintln!("--log «{}»: {error}; {hint}", arguments.log);
        return ExitCode::from(EXIT_DO_NOT_RESTART);
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Setting(text)) => {
            tracing::error!("{text}");
            ExitCode::from(EXIT_DO_NOT_RESTART)
        }
        Err(Failure::System(text)) => {
            tracing::error!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    recorder::install();
    let config = Arc::new(bootstrap::learn_config(&arguments.mgm));
    let section = arguments.section(&config)?;
    thread::runtime()?.block_on(live(arguments, &config, &section))
}

/// The sockets of one thread: bound, not listening yet.
struct Sockets {
    grpc: TcpSocket,
    memcached: TcpSocket,
    sql: TcpSocket,
}

/// What all threads serve with.
#[derive(Clone)]
struct Servers {
    memcached: Arc<memcached::Server>,
    sql: Arc<sql::Server>,
}

/// What a thread tells the process.
enum Report {
    Serves,
    Ended(Result<(), String>),
}

async fn live(
    arguments: &Arguments,
    config: &Arc<ClusterConfig>,
    section: &ApiNodeConfig,
) -> Result<(), Failure> {
    let mut stops = StopRequests::catch()?;
    let metrics = Metrics::new();
    let address = format!("{}:{}", section.host, section.metrics_port);
    spawn_local(metrics.clone().serve(listener::bind(&address).await.map_err(setting)?));
    let (mailboxes, mut reports) = start(arguments, config, section, &metrics).await?;
    let threads = mailboxes.len();
    let (mut serving, mut running) = (0, threads);
    let mut deadline = None;
    while running > 0 {
        let stop_time = async {
            match deadline {
                Some(deadline) => time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(report) = reports.recv() => match report {
                Report::Serves => {
                    serving += 1;
                    if serving == threads {
                        let ApiNodeConfig { id, host, grpc_port, memcached_port, sql_port, .. } = section;
                        let ports =
                            format!("gRPC on {host}:{grpc_port}, memcached on {host}:{memcached_port}, SQL on {host}:{sql_port}");
                        tracing::info!("node {id} of cluster «{}» serves {ports}, with {threads} threads", config.name);
                    }
                }
                Report::Ended(Ok(())) => running -= 1,
                Report::Ended(Err(text)) => return Err(Failure::System(text)),
            },
            () = stops.next() => {
                if deadline.replace(time::Instant::now() + STOP_TIME).is_some() {
                    return Err(Failure::System("asked to stop twice: ends without its answers".into()));
                }
                tracing::info!("stops: answers what is under way first");
                for mailbox in &mailboxes {
                    // One that has ended needs not be told.
                    let _ = mailbox.send(Message::Stop);
                }
            }
            () = stop_time => {
                let text = format!("there are answers missing after {STOP_TIME:?}: ends without them");
                return Err(Failure::System(text));
            }
        }
    }
    Ok(())
}

type Started = (Vec<Mailbox<Message>>, mpsc::UnboundedReceiver<Report>);

/// Starts the threads.
async fn start(
    arguments: &Arguments,
    config: &Arc<ClusterConfig>,
    section: &ApiNodeConfig,
    metrics: &Metrics,
) -> Result<Started, Failure> {
    let cores = || available_parallelism().map_or(1, |cores| cores.get() as u16);
    let threads = if section.threads > 0 { section.threads } else { cores() };
    let host = &section.host;
    for port in [section.grpc_port, section.memcached_port, section.sql_port] {
        // A socket that shares its port with nobody finds out whether another process has it.
        let alone = bind(host, port, false).await.map_err(setting)?;
        drop(
            alone
                .listen(1)
                .map_err(|error| Failure::Setting(format!("cannot listen on {host}:{port}: {error}")))?,
        );
    }
    let of = |protocols: u64| protocols * arguments.max_connections as u64 + OTHER_DESCRIPTORS;
    // Hardly ever has either protocol all of its connections: half of them will do where there cannot be more.
    if let Err(error) = descriptors::allow(of(2)).or_else(|_| descriptors::allow(of(1))) {
        let needed = of(1);
        tracing::warn!(
            "the system allows fewer than {needed} open descriptors ({error}); see ulimit -n, --max-connections"
        );
    }
    let memcached = memcached::Server::new(section.memcached_port, threads.into(), arguments.max_connections);
    let sql = sql::Server::new(threads.into(), arguments.max_connections, arguments.password()?);
    let servers = Servers { memcached, sql };
    let (items, statements) = (servers.memcached.clone(), servers.sql.clone());
    metrics.ask(move |tell| items.figures(tell));
    metrics.ask(move |tell| statements.figures(tell));
    let (directory, tables, admission) = (Directory::new(), SharedTables::new(), Admission::default());
    let door = admission.clone();
    metrics.ask(move |tell| door.figures(tell));
    publish(config, &directory);
    tables.map_keys(&config.memcached);
    let (report, reports) = mpsc::unbounded_channel();
    let mut mailboxes = Vec::new();
    for place in 0..threads {
        let sockets = Sockets {
            grpc: bind(host, section.grpc_port, true).await.map_err(setting)?,
            memcached: bind(host, section.memcached_port, true).await.map_err(setting)?,
            sql: bind(host, section.sql_port, true).await.map_err(setting)?,
        };
        let mailbox = Mailbox::new();
        mailboxes.push(mailbox.clone());
        let connect = Connect {
            own: Endpoint::new(section.id, WorkerId(place)),
            config: config.clone(),
            directory: directory.clone(),
            tables: tables.clone(),
            mailbox,
        };
        let name = format!("api{place}");
        let (metrics, servers, report) = (metrics.driver(&name), servers.clone(), report.clone());
        let admission = admission.of_another_thread();
        thread::spawn(&name, move || async move {
            let ended = serve(connect, metrics, sockets, servers, admission, &report).await;
            // The process that does not listen any more is about to end.
            let _ = report.send(Report::Ended(ended.map_err(|error| error.to_string())));
        })?;
    }
    Ok((mailboxes, reports))
}

fn setting(error: io::Error) -> Failure {
    Failure::Setting(error.to_string())
}

async fn bind(host: &str, port: u16, shared: bool) -> io::Result<TcpSocket> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {host}:{port}: {error}"));
    let address = lookup_host((host, port)).await.map_err(named)?.next();
    let address = address.ok_or_else(|| named(io::Error::other("no such host")))?;
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(shared)?;
        // Connections have this from their listener: one whose client's host is gone ends.
        socket.set_keepalive(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    open().map_err(named)
}

/// What a thread does: its client, and, once the cluster serves, its listeners.
async fn serve(
    own: Connect,
    metrics: DriverMetrics,
    sockets: Sockets,
    servers: Servers,
    admission: Admission,
    report: &mpsc::UnboundedSender<Report>,
) -> Result<(), Box<dyn std::error::Error>> {
    let place = own.own.worker.0.into();
    let (driver, handle) = connect(own, metrics);
    let handle = handle.with_admission(admission);
    let listen = async {
        cluster::prepare(&handle).await;
        let items = sockets.memcached.listen(BACKLOG)?;
        spawn_local(servers.memcached.serve(place, items, handle.clone()));
        let statements = sockets.sql.listen(BACKLOG)?;
        spawn_local(servers.sql.serve(place, statements, handle.clone()));
        let calls: TcpListener = sockets.grpc.listen(BACKLOG)?;
        let services = grpc::services(handle.clone()).await?;
        // The process that does not listen any more is about to end.
        let _ = report.send(Report::Serves);
        // Without the delay of small writes, or HTTP/2 stalls for 40 ms at a time.
        let calls = TcpIncoming::from(calls).with_nodelay(Some(true));
        // A client whose host is gone must not keep its transactions open.
        let mut server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
        Ok(server.add_routes(services).serve_with_incoming(calls).await?)
    };
    tokio::select! {
        () = driver.run() => Ok(()),
        result = listen => result,
    }
}

impl Arguments {
    /// The password of SQL's user, if it has one.
    fn password(&self) -> Result<Option<StoredPassword>, Failure> {
        let Some(file) = &self.sql_password_file else { return Ok(None) };
        let refused =
            |what: String| Failure::Setting(format!("--sql-password-file {}: {what}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
        match text.lines().next().unwrap_or_default() {
            "" => Err(refused("its first line is empty; it has to be the password".into())),
            password => Ok(Some(StoredPassword::new(password.as_bytes()))),
        }
    }

    /// This node's section of the config, with what the command line says instead.
    fn section(&self, config: &ClusterConfig) -> Result<ApiNodeConfig, Failure> {
        let section = config.api_nodes.iter().find(|node| node.id == NodeId(self.id));
        let Some(mut section) = section.cloned() else {
            let ids: Vec<String> = config.api_nodes.iter().map(|node| node.id.to_string()).collect();
            let (id, name) = (self.id, &config.name);
            let known = ids.join(", ");
            return Err(Failure::Setting(format!(
                "node {id} is no API node of cluster «{name}»; its API nodes are {known}"
            )));
        };
        section.host = self.bind.clone().unwrap_or(section.host);
        section.grpc_port = self.grpc_port.unwrap_or(section.grpc_port);
        section.memcached_port = self.memcached_port.unwrap_or(section.memcached_port);
        section.sql_port = self.sql_port.unwrap_or(section.sql_port);
        section.metrics_port = self.metrics_port.unwrap_or(section.metrics_port);
        section.threads = self.threads.unwrap_or(section.threads);
        Ok(section)
    }
}
