//! The native client: threads, each with a machine that is a cluster client and a workload.

mod load;

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::{self, JoinHandle, available_parallelism},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use twofold_apinode::{
    client::{Bounds, Client, Setup},
    request::{Answer, Request},
};
use twofold_proto::{
    config::{Address, ClusterConfig},
    error::ErrorCode,
    ids::{Endpoint, NodeId, WorkerId},
    message::Catalog,
    schema::{Schema, Table},
};
use twofold_runtime::{Clock, Directory, Driver, Mailbox, Metrics, Owner, bootstrap, clock};

use crate::Failure;

pub use load::{Effect, Input, Load, Say, Turn, Workload};

/// How long a change of the catalog may take.
const CATALOG_TIME: Duration = Duration::from_secs(40);
/// More threads than that no machine has any use for.
const THREADS_MAX: u16 = 256;

/// Which cluster, and with how many threads.
#[derive(Args, Clone, Debug)]
pub struct ClusterArguments {
    /// Management nodes, any of them: HOST or HOST:PORT, separated by commas
    #[arg(long, env = "TWOFOLD_MGM", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:1186", value_parser = Address::of_management)]
    pub mgm: Vec<String>,

    /// The name that the cluster has to have [default: any]
    #[arg(long, env = "TWOFOLD_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,

    /// Threads, each with a client of its own [default: one for each core]
    #[arg(long, env = "TWOFOLD_BENCH_THREADS", value_name = "COUNT")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(THREADS_MAX)))]
    pub threads: Option<u16>,

    /// How long to wait for the cluster to answer, in seconds
    #[arg(long, env = "TWOFOLD_BENCH_CONNECT_SECONDS", value_name = "SECONDS", default_value_t = 10)]
    pub connect_seconds: u64,
}

impl ClusterArguments {
    /// How many threads.
    pub fn threads(&self) -> usize {
        let cores = || available_parallelism().map_or(1, |cores| cores.get().min(usize::from(THREADS_MAX)));
        self.threads.map_or_else(cores, usize::from)
    }
}

/// A cluster whose config is known.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The config, as a management node gave it.
    pub config: Arc<ClusterConfig>,
    directory: Directory,
    patience: Duration,
}

impl Cluster {
    /// Asks the management nodes for the config.
    ///
    /// # Errors
    /// If none answers in time, or the cluster has another name.
    pub fn find(arguments: &ClusterArguments) -> Result<Cluster, Failure> {
        let addresses = arguments.mgm.clone();
        let patience = Duration::from_secs(arguments.connect_seconds);
        let (sender, receiver) = channel();
        let asked = addresses.clone();
        // It goes on asking after the time is up; the process ends then.
        thread::spawn(move || drop(sender.send(bootstrap::learn_config(&asked))));
        let config = receiver.recv_timeout(patience).map_err(|_| {
            let (addresses, seconds) = (addresses.join(", "), patience.as_secs());
            format!("no management node at {addresses} has given a config for {seconds} s; is the cluster up? see --mgm")
        })?;
        if let Some(name) = arguments.cluster.as_ref().filter(|name| **name != config.name) {
            return Err(format!("this is cluster «{}», not «{name}»; see --cluster", config.name).into());
        }
        let directory = Directory::new();
        publish(&config, &directory);
        Ok(Cluster { config: Arc::new(config), directory, patience })
    }

    /// The addresses of its management and data nodes: what serves the native client.
    pub fn servers(&self) -> impl Iterator<Item = &Address> {
        let management = self.config.management_nodes.iter().map(|node| &node.address);
        management.chain(self.config.data_nodes.iter().map(|node| &node.address))
    }

    /// Starts a thread with a client and the workload that `make` makes in it.
    ///
    /// # Errors
    /// If the system has no thread for it.
    pub fn start<W: Workload + 'static>(
        &self,
        number: u16,
        make: impl FnOnce() -> W + Send + 'static,
    ) -> Result<Thread<W::Message>, Failure> {
        let mailbox = Mailbox::new();
        let setup = Setup {
            own: Endpoint::new(NodeId(0), WorkerId(number)),
            incarnation: clock::incarnation(),
            cluster: self.config.name.clone(),
            management: self.config.management_nodes.iter().map(|node| Endpoint::node(node.id)).collect(),
            wall_clock_offset: wall_clock_offset(),
            seed: clock::random_seed(),
            bounds: Bounds::default(),
        };
        let name = format!("client{number}");
        let (directory, metrics, own) =
            (self.directory.clone(), Metrics::new().driver(&name), mailbox.clone());
        let run = move || {
            let owner = DirectoryOwner { directory: directory.clone() };
            let machine = Load::new(Client::new(setup), make());
            Driver::<_, DirectoryOwner>::new(machine, owner, own, directory, metrics).run()
        };
        let ended = twofold_runtime::thread::spawn(&name, run).map_err(|error| format!("{name}: {error}"))?;
        Ok(Thread { mailbox, patience: self.patience, ended: Some(ended) })
    }
}

/// A thread with a client. Dropping it ends the client's session, and waits until the thread has ended.
#[derive(Debug)]
pub struct Thread<M> {
    mailbox: Mailbox<Say<M>>,
    patience: Duration,
    ended: Option<JoinHandle<io::Result<()>>>,
}

impl<M> Drop for Thread<M> {
    fn drop(&mut self) {
        // A thread that has panicked has said so.
        let _ = self.mailbox.send(Say::Stop);
        self.mailbox.stop();
        let _ = self.ended.take().map(JoinHandle::join);
    }
}

impl<M> Thread<M> {
    /// Tells the workload something.
    pub fn tell(&self, message: M) {
        self.say(Say::Workload(message));
    }

    fn say(&self, say: Say<M>) {
        if self.mailbox.send(say).is_err() {
            panic!("the thread of a client has ended");
        }
    }

    /// Waits until the client knows the cluster, and this version of its catalog.
    ///
    /// # Errors
    /// If that takes too long.
    pub fn catalog(&self, version: u64) -> Result<Arc<Catalog>, Failure> {
        let (sender, receiver) = channel();
        self.say(Say::Await(version, sender));
        let seconds = self.patience.as_secs();
        receive(&receiver, self.patience, &format!("the cluster has no view or catalog for {seconds} s"))
    }

    /// Runs a change of the catalog; returns its version with the change.
    fn change(&self, request: Request) -> Result<u64, ChangeError> {
        let (sender, receiver) = channel();
        self.say(Say::Request(request, sender));
        let late = "the cluster has not answered a change of the catalog";
        match receive(&receiver, CATALOG_TIME, late).map_err(ChangeError::Other)? {
            Answer::Catalog(version) => Ok(version),
            Answer::Failed(failure) if failure.error.code == ErrorCode::NoSuchTable => {
                Err(ChangeError::NoSuchTable)
            }
            Answer::Failed(failure) => Err(ChangeError::Other(failure.error.to_string().into())),
            other => panic!("a change of the catalog was answered with {other:?}"),
        }
    }

    /// Drops the table if it is there, and creates it; returns the catalog's version with it.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn create_anew(&self, table: Table) -> Result<u64, Failure> {
        match self.change(Request::DropTable(table.name.clone())) {
            Ok(_) | Err(ChangeError::NoSuchTable) => {}
            Err(ChangeError::Other(failure)) => return Err(failure),
        }
        let name = table.name.clone();
        self.change(Request::CreateTable(table)).map_err(|error| match error {
            ChangeError::Other(failure) => failure,
            ChangeError::NoSuchTable => format!("table {name} was dropped while it was created").into(),
        })
    }
}

enum ChangeError {
    NoSuchTable,
    Other(Failure),
}

/// The schema of a table of this name.
///
/// # Errors
/// If there is none.
pub fn schema(catalog: &Catalog, name: &str) -> Result<Schema, Failure> {
    let table = catalog.table(name).ok_or_else(|| format!("there is no table `{name}`; insert first"))?;
    Schema::new(table.clone()).map_err(|error| error.to_string().into())
}

fn receive<T>(receiver: &Receiver<T>, patience: Duration, late: &str) -> Result<T, Failure> {
    receiver.recv_timeout(patience).map_err(|error| match error {
        RecvTimeoutError::Timeout => late.into(),
        RecvTimeoutError::Disconnected => panic!("the thread of a client has ended"),
    })
}

fn publish(config: &ClusterConfig, directory: &Directory) {
    let management = config.management_nodes.iter().map(|node| (node.id, &node.address));
    for (id, address) in management.chain(config.data_nodes.iter().map(|node| (node.id, &node.address))) {
        directory.set(id, address.to_string());
    }
}

/// Microseconds since 1970 when the machines' clock was 0.
pub fn wall_clock_offset() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX).saturating_sub(Clock.now().0 / 1000)
}

struct DirectoryOwner {
    directory: Directory,
}

impl<W: Workload> Owner<Load<W>> for DirectoryOwner {
    type Message = Say<W::Message>;

    fn input(message: Self::Message) -> Input<'static, W::Message> {
        Input::Say(message)
    }

    fn timer() -> Input<'static, W::Message> {
        Input::Timer
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Config(config) => publish(&config, &self.directory),
            Effect::Link(effect) => unreachable!("the driver carries out {effect:?}"),
        }
    }
}
