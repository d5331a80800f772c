//! What `status` shows.

use std::path::Path;

use serde_json::{Value, json};
use twofold_grpc::management::ShowResponse;
use twofold_mgmnode::status::{self, NodeKind};
use twofold_proto::{
    config::{Address, ClusterConfig, GRPC_PORT, MANAGEMENT_PORT},
    ids::NodeId,
};

use crate::{client::Failure, show};

use super::{
    directory::Directory,
    health, ports,
    process::{Activity, Process},
};

/// How a cluster is as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Every node does what it is for.
    AllServe,
    /// Some do not.
    NotAllServe,
    /// There is no process of any.
    NoneRuns,
}

/// A node as it is now.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: NodeId,
    /// What it is.
    pub kind: NodeKind,
    /// `stopped`, `paused`, or what the management nodes say.
    pub state: &'static str,
    /// Its own process.
    pub process: Option<Process>,
    /// The parent of a data node's process.
    pub angel: Option<Process>,
    /// By the name of their setting.
    pub ports: Vec<(&'static str, u16)>,
}

impl Node {
    /// Whether it does what it is for.
    pub fn serves(&self) -> bool {
        matches!(self.state, "up" | "leader" | "follower")
    }

    fn kind_name(&self) -> &'static str {
        match self.kind {
            NodeKind::Management => "management",
            NodeKind::Data => "data",
            NodeKind::Api => "api",
        }
    }

    fn to_json(&self) -> Value {
        let ports: serde_json::Map<String, Value> =
            self.ports.iter().map(|(key, port)| (key.to_string(), json!(port))).collect();
        json!({
            "name": self.name,
            "id": self.id.0,
            "kind": self.kind_name(),
            "state": self.state,
            "pid": self.process.map(|process| process.pid),
            "angel_pid": self.angel.map(|process| process.pid),
            "ports": ports,
        })
    }
}

/// The process of a node and its angel, as far as they run. An angel has one child, its node.
pub fn processes(directory: &Directory, name: &str, kind: NodeKind) -> (Option<Process>, Option<Process>) {
    let started = directory.process(name);
    match kind {
        NodeKind::Data => (started.and_then(|angel| angel.children().first().copied()), started),
        _ => (started, None),
    }
}

/// All nodes, with what a management node says about them, if one answered.
pub fn nodes(directory: &Directory, config: &ClusterConfig, shown: Option<&ShowResponse>) -> Vec<Node> {
    let node = |(id, kind, name): (NodeId, NodeKind, String)| {
        let (process, angel) = processes(directory, &name, kind);
        let said = shown.and_then(|shown| shown.nodes.iter().find(|node| node.id == u32::from(id.0)));
        let state = match process.map(|process| process.activity()) {
            // What is said may be of its former life, for as long as the management nodes do not know that this has ended.
            Some(Activity::Runs) if said.is_some_and(|said| is_of_another_life(said, process.as_ref())) => {
                "starting"
            }
            Some(Activity::Runs) => said.map_or("unknown", show::state_name),
            Some(Activity::Paused) => "paused",
            Some(Activity::Gone) | None if angel.is_some() => "starting",
            Some(Activity::Gone) | None => "stopped",
        };
        let ports = ports::of_node(config, id);
        Node { name, id, kind, state, process, angel, ports }
    };
    status::nodes(config).map(node).collect()
}

/// Whether a management node speaks of another life of a data node than that which is this process. One that was
/// forked a moment ago has its angel's command line, in which no life is named.
fn is_of_another_life(said: &twofold_grpc::management::Node, process: Option<&Process>) -> bool {
    let own = || process.and_then(|process| process.option("--incarnation"));
    said.incarnation != 0 && own() != Some(said.incarnation.to_string())
}

/// Prints all nodes; says how they are as a whole.
///
/// # Errors
/// If the directory cannot be read, or has a config with faults.
pub async fn status(path: &Path, as_json: bool) -> Result<Health, Failure> {
    if !Directory::is_there(path) {
        eprintln!("there is no cluster in {}; `cluster start` makes one", path.display());
        return Ok(Health::NoneRuns);
    }
    let directory = Directory::look(path)?;
    let config = directory.config()?;
    let none_runs = directory.running().is_empty();
    let shown = if none_runs { None } else { health::show(&config).await };
    let nodes = nodes(&directory, &config, shown.as_ref());
    let all_serve = nodes.iter().all(Node::serves);
    if as_json {
        let status = json!({
            "cluster": config.name,
            "dir": directory.path(),
            "view": shown.as_ref().map(|shown| shown.view),
            "leader": shown.as_ref().map(|shown| shown.leader),
            "all_serve": all_serve,
            "nodes": nodes.iter().map(Node::to_json).collect::<Vec<_>>(),
        });
        println!("{status:#}");
    } else {
        print!("{}{}", table(&nodes), shown.as_ref().map(show::notes).unwrap_or_default());
    }
    Ok(match (all_serve, none_runs) {
        (true, _) => Health::AllServe,
        (false, false) => Health::NotAllServe,
        (false, true) => Health::NoneRuns,
    })
}

/// The line that tells this machine's programs where the nodes are; none if they find them by themselves.
pub fn addresses(config: &ClusterConfig) -> Option<String> {
    let list = |addresses: &[Address]| addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(",");
    let management: Vec<Address> = config.management_nodes.iter().map(|node| node.address.clone()).collect();
    let api = config.api_nodes.iter().map(|node| Address { host: node.host.clone(), port: node.grpc_port });
    let api: Vec<Address> = api.collect();
    let usual = |addresses: &[Address], port: u16| list(addresses) == format!("127.0.0.1:{port}");
    let known = usual(&management, MANAGEMENT_PORT) && usual(&api, GRPC_PORT);
    (!known).then(|| format!("export TWOFOLD_MGM={} TWOFOLD_API={}", list(&management), list(&api)))
}

/// The nodes as a table.
pub fn table(nodes: &[Node]) -> String {
    let pid = |process: Option<Process>| process.map_or("-".into(), |process| process.pid.to_string());
    let mut text = format!("{:<7} {:<10} {:>8} {:>8}  {}\n", "NODE", "STATE", "PID", "ANGEL", "PORTS");
    for node in nodes {
        let ports: Vec<String> = node
            .ports
            .iter()
            .map(|(key, port)| match key.strip_suffix("_port") {
                Some(protocol) => format!("{protocol} {port}"),
                None => port.to_string(),
            })
            .collect();
        let (process, angel) = (pid(node.process), pid(node.angel));
        text += &format!(
            "{:<7} {:<10} {:>8} {:>8}  {}\n",
            node.name,
            node.state,
            process,
            angel,
            ports.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use twofold_mgmnode::config;

    use super::*;

    #[test]
    fn addresses_are_told_where_they_are_not_the_usual_ones() {
        let data = "[[data]]\nid = 11\nhost = '127.0.0.1'\n[[data]]\nid = 12\nhost = '127.0.0.1'\n";
        let told = |more: &str| addresses(&config::read("", &format!("{data}{more}")).unwrap());
        assert_eq!(told(""), None);
        let other = "[[mgm]]\nid = 1\nport = 1286\nweb_port = 1288\n";
        let line = "export TWOFOLD_MGM=127.0.0.1:1286 TWOFOLD_API=127.0.0.1:50051";
        assert_eq!(told(other).as_deref(), Some(line));
        let two = "[[api]]\nid = 21\n[[api]]\nid = 22\nhost = '::1'\n";
        let line = "export TWOFOLD_MGM=127.0.0.1:1186 TWOFOLD_API=127.0.0.1:50051,[::1]:50051";
        assert_eq!(told(two).as_deref(), Some(line));
    }
}
