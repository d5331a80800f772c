//! The cluster as a management node sees it, for people; and how people name nodes.

use std::time::Duration;

use twofold_proto::{
    config::{Address, ClusterConfig},
    error::{Error, ErrorCode},
    ids::{GroupId, Incarnation, NodeId, ViewNumber},
};

use crate::register::SystemRestart;

/// What kind of process a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NodeKind {
    /// `twofold-mgmnode`.
    Management,
    /// `twofold-datanode`.
    Data,
    /// `twofold-apinode`.
    Api,
}

/// How a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NodeState {
    /// It serves: an `up` data node, a management leader, a connected API node.
    Up,
    /// A management node that follows the leader.
    Follower,
    /// A data node that is about to be `up`.
    Ready,
    /// A data node that copies its partitions.
    Syncing,
    /// A data node that reports and is in no view yet.
    Starting,
    /// A data node of the view that has reported, and does not any more: it may run.
    Silent,
    /// It has ended, or nothing was ever heard of it here.
    Down,
}

impl NodeState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Up => "up",
            NodeState::Follower => "follower",
            NodeState::Ready => "ready",
            NodeState::Syncing => "syncing",
            NodeState::Starting => "starting",
            NodeState::Silent => "silent",
            NodeState::Down => "down",
        }
    }
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStatus {
    /// Its id.
    pub id: NodeId,
    /// Its name, such as `data1`.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// A data node's group.
    pub group: Option<GroupId>,
    /// Where it listens.
    pub address: Address,
    /// How it is.
    pub state: NodeState,
    /// A data node's life, or 0.
    pub incarnation: Incarnation,
    /// A data node's workers, or 0.
    pub workers: u16,
    /// How long ago a data node reported last.
    pub age: Option<Duration>,
    /// Whether a data node wants to leave.
    pub leaving: bool,
}

/// The cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Its name.
    pub cluster: String,
    /// Who says so.
    pub node: NodeId,
    /// The management leader, if one is known; it knows best.
    pub leader: Option<NodeId>,
    /// Raft's term.
    pub term: u64,
    /// The newest view.
    pub view: ViewNumber,
    /// How often the cluster was started.
    pub restart: u16,
    /// The catalog's version.
    pub catalog: u64,
    /// How many tables there are.
    pub tables: usize,
    /// Copies of each row.
    pub replicas: u8,
    /// What keeps the leader from deciding or a group from serving, and what to do about it.
    pub trouble: Option<String>,
    /// The last system restart.
    pub system_restart: Option<SystemRestart>,
    /// All nodes: management, data, API, each by id.
    pub nodes: Vec<NodeStatus>,
}

/// All nodes of a config with their kinds and names: `mgm1`, `data1`, `api1` and so on, numbered in the order of ids.
pub fn nodes(config: &ClusterConfig) -> impl Iterator<Item = (NodeId, NodeKind, String)> + '_ {
    let management = config.management_nodes.iter().zip(1..);
    let data = config.data_nodes.iter().zip(1..);
    let api = config.api_nodes.iter().zip(1..);
    management
        .map(|(node, place)| (node.id, NodeKind::Management, format!("mgm{place}")))
        .chain(data.map(|(node, place)| (node.id, NodeKind::Data, format!("data{place}"))))
        .chain(api.map(|(node, place)| (node.id, NodeKind::Api, format!("api{place}"))))
}

/// The node of this name or id.
///
/// # Errors
/// [`ErrorCode::NoSuchNode`] with the names that there are.
pub fn find(config: &ClusterConfig, text: &str) -> Result<NodeId, Error> {
    let found = nodes(config).find(|(id, _, name)| name == text || id.to_string() == text);
    found.map(|(id, ..)| id).ok_or_else(|| {
        let names: Vec<String> = nodes(config).map(|(id, _, name)| format!("{name} ({id})")).collect();
        Error::new(
            ErrorCode::NoSuchNode,
            format!("there is no node «{text}»; there are {}", names.join(", ")),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;

    #[test]
    fn nodes_are_found_by_name_and_id() {
        let config = config(2, &[11, 15]);
        for (text, id) in [("mgm1", 1), ("data1", 11), ("data2", 15), ("15", 15), ("api1", 21)] {
            assert_eq!(find(&config, text), Ok(NodeId(id)), "{text}");
        }
        for text in ["data3", "12", "", "DATA1"] {
            let error = find(&config, text).unwrap_err();
            assert_eq!(error.code, ErrorCode::NoSuchNode);
            assert_eq!(
                error.text,
                format!("there is no node «{text}»; there are mgm1 (1), data1 (11), data2 (15), api1 (21)")
            );
        }
    }
}
