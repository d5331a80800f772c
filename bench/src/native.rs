//! The native client: threads, each with a machine that is a cluster client and a workload (`twofold_client::embed`).

use std::{thread::available_parallelism, time::Duration};

use clap::Args;
use twofold_apinode::request::{Answer, Request};
use twofold_client::{
    embed::{self, Thread, Workload},
    find::Found,
};
use twofold_proto::{
    config::Address,
    error::ErrorCode,
    message::{Catalog, CatalogChange},
    schema::{Schema, Table},
};

use crate::Failure;

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
    /// Its config, and where its nodes are.
    pub found: Found,
    patience: Duration,
}

impl Cluster {
    /// Asks the management nodes for the config.
    ///
    /// # Errors
    /// If none answers in time, or the cluster has another name.
    pub fn find(arguments: &ClusterArguments) -> Result<Cluster, Failure> {
        let patience = Duration::from_secs(arguments.connect_seconds);
        let found = Found::find_blocking(&arguments.mgm, patience)
            .map_err(|error| format!("{}; is the cluster up? see --mgm", error.text))?;
        let name = &found.config.name;
        if let Some(other) = arguments.cluster.as_ref().filter(|other| *other != name) {
            return Err(format!("this is cluster «{name}», not «{other}»; see --cluster").into());
        }
        Ok(Cluster { found, patience })
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
        embed::start(&self.found, number, self.patience, make)
            .map_err(|error| format!("client{number}: {error}").into())
    }
}

/// Runs a change of the catalog; returns its version with the change, or the code of the error that is allowed.
fn change<M>(thread: &Thread<M>, request: Request, allowed: Option<ErrorCode>) -> Result<u64, Failure> {
    match thread.request(request, CATALOG_TIME)? {
        Answer::Catalog(version) => Ok(version),
        Answer::Failed(failure) if Some(failure.error.code) == allowed => Ok(0),
        Answer::Failed(failure) => Err(failure.error.into()),
        other => panic!("a change of the catalog was answered with {other:?}"),
    }
}

/// Drops the table if it is there, and creates it; returns the catalog's version with it.
///
/// # Errors
/// If that cannot be done.
pub fn create_anew<M>(thread: &Thread<M>, table: Table) -> Result<u64, Failure> {
    change(
        thread,
        Request::Change(CatalogChange::DropTable(table.name.clone())),
        Some(ErrorCode::NoSuchTable),
    )?;
    change(thread, Request::Change(CatalogChange::CreateTable(table)), None)
}

/// The schema of a table of this name.
///
/// # Errors
/// If there is none.
pub fn schema(catalog: &Catalog, name: &str) -> Result<Schema, Failure> {
    let table = catalog.table(name).ok_or_else(|| format!("there is no table `{name}`; insert first"))?;
    Schema::new(table.clone()).map_err(|error| error.to_string().into())
}
