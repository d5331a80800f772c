//! Finding a cluster: its config, where its nodes listen, and what a client of it is made of.

use std::{
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::oneshot;
use twofold_apinode::client::{Bounds, Setup};
use twofold_proto::{
    config::{Address, ClusterConfig},
    error::{Error, ErrorCode},
    ids::Endpoint,
};
use twofold_runtime::{Clock, Directory, bootstrap, clock};

/// A cluster whose config is known.
#[derive(Clone, Debug)]
pub struct Found {
    /// The config, as a management node gave it.
    pub config: Arc<ClusterConfig>,
    /// Where its nodes listen.
    pub directory: Directory,
}

impl Found {
    /// Asks management nodes, `host` or `host:port` each, again and again until one has given the config.
    ///
    /// # Errors
    /// If none has in time, or an address is none.
    pub async fn find(management: &[String], patience: Duration) -> Result<Found, Error> {
        let (sender, receiver) = oneshot::channel();
        let addresses = management.to_vec();
        let ask = move || drop(sender.send(find_blocking(&addresses, patience)));
        let started = thread::Builder::new().name("twofold-find".into()).spawn(ask);
        started.map_err(|error| Error::new(ErrorCode::Internal, format!("no thread: {error}")))?;
        receiver
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorCode::Internal, "the thread that asks has died")))
    }

    /// The same, for a thread that may wait.
    ///
    /// # Errors
    /// As [`Found::find`].
    pub fn find_blocking(management: &[String], patience: Duration) -> Result<Found, Error> {
        find_blocking(management, patience)
    }

    /// The addresses of its management and data nodes: those that serve its clients.
    pub fn servers(&self) -> impl Iterator<Item = &Address> {
        let management = self.config.management_nodes.iter().map(|node| &node.address);
        management.chain(self.config.data_nodes.iter().map(|node| &node.address))
    }
}

fn find_blocking(management: &[String], patience: Duration) -> Result<Found, Error> {
    let address = |text: &String| {
        Address::of_management(text)
            .map_err(|error| Error::new(ErrorCode::BadConfig, format!("`{text}`: {error}")))
    };
    let addresses = management.iter().map(address).collect::<Result<Vec<_>, _>>()?;
    let config = bootstrap::try_learn_config(&addresses, patience).map_err(|failures| {
        let seconds = patience.as_secs_f64();
        let text = format!("no management node has given the config for {seconds} s: {failures}");
        Error::new(ErrorCode::NoLeader, text)
    })?;
    let directory = Directory::new();
    publish(&config, &directory);
    Ok(Found { config: Arc::new(config), directory })
}

/// Says where the config's nodes listen.
pub fn publish(config: &ClusterConfig, directory: &Directory) {
    let management = config.management_nodes.iter().map(|node| (node.id, &node.address));
    for (id, address) in management.chain(config.data_nodes.iter().map(|node| (node.id, &node.address))) {
        directory.set(id, address.to_string());
    }
}

/// What the machine of a client is made of. `own`: the API node and its thread; node 0, and a number of its own in its
/// process, for any other client.
pub fn setup(own: Endpoint, config: &ClusterConfig) -> Setup {
    Setup {
        own,
        incarnation: clock::incarnation(),
        cluster: config.name.clone(),
        management: config.management_nodes.iter().map(|node| Endpoint::node(node.id)).collect(),
        wall_clock_offset: wall_clock_offset(),
        seed: clock::random_seed(),
        bounds: Bounds::default(),
    }
}

/// Microseconds since 1970 when the machines' clock was 0.
pub fn wall_clock_offset() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX).saturating_sub(Clock.now().0 / 1000)
}
