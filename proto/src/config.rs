//! The config of the whole cluster, as the management nodes publish it. Reading it from `twofold.toml` is theirs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{GroupId, NodeId},
    time::Duration,
};

/// The port of a management node, where none is said.
pub const MANAGEMENT_PORT: u16 = 1186;
/// The port of an API node's gRPC, where none is said.
pub const GRPC_PORT: u16 = 50051;

/// Where a process listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Address {
    /// Name or address of the host; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// Reads what [`Address`] displays: HOST:PORT, or HOST alone, whose port then is `default`. An IPv6 address is in
    /// brackets.
    ///
    /// # Errors
    /// With what would be right.
    pub fn parse(text: &str, default: u16) -> Result<Address, String> {
        let wrong = || {
            format!(
                "«{text}» is no address; say HOST or HOST:PORT, like 127.0.0.1:{default} or [::1]:{default}"
            )
        };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(wrong)?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|&port| port > 0).ok_or_else(wrong)?,
            None if port.is_empty() => default,
            None => return Err(wrong()),
        };
        match host.is_empty() || host.contains(|c: char| c.is_whitespace() || "/@[]".contains(c)) {
            true => Err(wrong()),
            false => Ok(Address { host: host.into(), port }),
        }
    }

    /// A management node's address from the command line, in full.
    ///
    /// # Errors
    /// As [`Address::parse`].
    pub fn of_management(text: &str) -> Result<String, String> {
        Ok(Address::parse(text, MANAGEMENT_PORT)?.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A data node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DataNodeConfig {
    /// Its id.
    pub id: NodeId,
    /// Where other nodes and clients reach it.
    pub address: Address,
    /// Its workers; 0 means one for each core of its machine.
    pub workers: u16,
}

/// A management node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ManagementNodeConfig {
    /// Its id.
    pub id: NodeId,
    /// Where nodes and the command line reach it.
    pub address: Address,
    /// Port of the metrics, and of the web console once there is one.
    pub web_port: u16,
}

/// An API node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApiNodeConfig {
    /// Its id.
    pub id: NodeId,
    /// The address that its frontends listen on.
    pub host: String,
    /// gRPC.
    pub grpc_port: u16,
    /// memcached.
    pub memcached_port: u16,
    /// The MySQL wire protocol.
    pub sql_port: u16,
    /// Prometheus.
    pub metrics_port: u16,
    /// Its threads; 0 means one for each core of its machine.
    pub threads: u16,
}

/// Where items live whose keys have a prefix, instead of in the table `memcached`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemcachedPrefix {
    /// What the keys begin with; the rest is the value of the key's column.
    pub prefix: String,
    /// The table.
    pub table: String,
    /// The column of the key, alone the table's primary key.
    pub key: String,
    /// The columns of the value: one at least; between the values of several stands `|`.
    pub values: Vec<String>,
    /// The column of the flags.
    pub flags: Option<String>,
}

/// The config of a cluster. Complete: defaults have been filled in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Name of the cluster; nodes of another name are refused.
    pub name: String,
    /// Copies of each row, 1–4; the number of data nodes is a multiple of it.
    pub replicas: u8,
    /// Number of partitions: [`crate::limits::PARTITIONS`], fewer in the simulator.
    pub partitions: u16,
    /// Bytes of rows and indexes per data node.
    pub data_memory: u64,
    /// Bytes of redo per data node, past which writes are refused until a checkpoint has made some of it superfluous.
    pub redo_bytes: u64,
    /// How long a commit waits for its flush to disk at most, in milliseconds, where nobody waits for that.
    pub flush_ms: u32,
    /// How often data nodes send each other heartbeats, and report to the management nodes, in milliseconds.
    pub heartbeat_ms: u32,
    /// How long an acknowledged heartbeat lets a node serve as primary, in milliseconds.
    pub lease_ms: u32,
    /// After how many silent milliseconds a node is given up.
    pub failure_ms: u32,
    /// How often the president ends an epoch, in milliseconds.
    pub epoch_ms: u32,
    /// How long an operation waits for a lock, in milliseconds.
    pub lock_wait_timeout_ms: u32,
    /// How long an interactive transaction may be idle, in milliseconds.
    pub idle_transaction_ms: u32,
    /// The management nodes, by ascending id: 1, 3 or 5.
    pub management_nodes: Vec<ManagementNodeConfig>,
    /// The data nodes, by ascending id. Groups are taken in this order.
    pub data_nodes: Vec<DataNodeConfig>,
    /// The API nodes, by ascending id.
    pub api_nodes: Vec<ApiNodeConfig>,
    /// Tables of memcached's items beside `memcached`, in the order of the file.
    pub memcached: Vec<MemcachedPrefix>,
}

impl ClusterConfig {
    /// [`ClusterConfig::heartbeat_ms`] as a duration.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.into())
    }

    /// [`ClusterConfig::lease_ms`] as a duration.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.into())
    }

    /// [`ClusterConfig::failure_ms`] as a duration.
    pub fn failure(&self) -> Duration {
        Duration::from_millis(self.failure_ms.into())
    }

    /// [`ClusterConfig::epoch_ms`] as a duration.
    pub fn epoch(&self) -> Duration {
        Duration::from_millis(self.epoch_ms.into())
    }

    /// [`ClusterConfig::flush_ms`] as a duration.
    pub fn flush(&self) -> Duration {
        Duration::from_millis(self.flush_ms.into())
    }

    /// The data node with this id.
    pub fn data_node(&self, id: NodeId) -> Option<&DataNodeConfig> {
        self.data_nodes.iter().find(|node| node.id == id)
    }

    /// How many node groups there are.
    pub fn groups(&self) -> usize {
        self.data_nodes.len() / usize::from(self.replicas)
    }

    /// The nodes of a group, by ascending id.
    pub fn group_nodes(&self, group: GroupId) -> impl Iterator<Item = NodeId> + '_ {
        let replicas = usize::from(self.replicas);
        self.data_nodes.iter().skip(usize::from(group.0) * replicas).take(replicas).map(|node| node.id)
    }

    /// The group of a data node.
    pub fn group_of(&self, node: NodeId) -> Option<GroupId> {
        let place = self.data_nodes.iter().position(|data_node| data_node.id == node)?;
        Some(GroupId((place / usize::from(self.replicas)) as u16))
    }

    /// The other nodes of the node's group.
    pub fn buddies(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.group_of(node)
            .into_iter()
            .flat_map(|group| self.group_nodes(group))
            .filter(move |&other| other != node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_usual_port() {
        for (text, whole) in [
            ("db1", "db1:1186"),
            ("db1:99", "db1:99"),
            ("10.0.0.1", "10.0.0.1:1186"),
            ("[::1]", "[::1]:1186"),
            ("[::1]:99", "[::1]:99"),
        ] {
            assert_eq!(Address::of_management(text).as_deref(), Ok(whole));
        }
        for text in [
            "",
            ":",
            ":99",
            "db1:",
            "db1:0",
            "db1:x",
            "db1:70000",
            "::1",
            "[]",
            "[]:99",
            "[::1",
            "[::1]x:99",
            "a b",
            "http://a",
        ] {
            let refused = Address::parse(text, GRPC_PORT).unwrap_err();
            assert!(refused.contains("127.0.0.1:50051"), "{refused}");
        }
    }
}
