//! Whether a cluster's ports are free, and who has them if not.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    net::TcpListener,
};

use twofold_mgmnode::status;
use twofold_proto::{config::ClusterConfig, ids::NodeId};

use super::process;

/// `0A` in `/proc/net/tcp`: the socket listens.
const LISTENS: &str = "0A";

/// One port of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// The node's name.
    pub node: String,
    /// What it is for: the name of its setting.
    pub key: &'static str,
    /// Where it listens.
    pub host: String,
    /// Its number.
    pub number: u16,
}

/// The ports of a node that serve something.
pub fn of_node(config: &ClusterConfig, id: NodeId) -> Vec<(&'static str, u16)> {
    if let Some(node) = config.management_nodes.iter().find(|node| node.id == id) {
        return vec![("port", node.address.port), ("web_port", node.web_port)];
    }
    if let Some(node) = config.data_nodes.iter().find(|node| node.id == id) {
        return vec![("port", node.address.port)];
    }
    let node = config.api_nodes.iter().find(|node| node.id == id);
    node.map_or(vec![], |node| {
        vec![
            ("grpc_port", node.grpc_port),
            ("memcached_port", node.memcached_port),
            ("sql_port", node.sql_port),
            ("metrics_port", node.metrics_port),
        ]
    })
}

fn host(config: &ClusterConfig, id: NodeId) -> &str {
    let management = config.management_nodes.iter().map(|node| (node.id, &node.address.host));
    let data = config.data_nodes.iter().map(|node| (node.id, &node.address.host));
    let api = config.api_nodes.iter().map(|node| (node.id, &node.host));
    management.chain(data).chain(api).find(|(other, _)| *other == id).map_or("", |(_, host)| host)
}

/// All ports of these nodes.
pub fn all(config: &ClusterConfig, ids: &[NodeId]) -> Vec<Port> {
    let nodes = status::nodes(config).filter(|(id, ..)| ids.contains(id));
    let ports = |(id, _, name): (NodeId, _, String)| {
        let host = host(config, id).to_string();
        of_node(config, id).into_iter().map(move |(key, number)| Port {
            node: name.clone(),
            key,
            host: host.clone(),
            number,
        })
    };
    nodes.flat_map(ports).collect()
}

/// Why a port cannot be used.
#[derive(Debug)]
pub struct Fault {
    port: Port,
    error: io::Error,
    /// Who listens there.
    holder: Option<u32>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Port { node, key, host, number } = &self.port;
        write!(f, "{host}:{number} ({key} of {node}) ")?;
        match (self.error.kind(), self.holder) {
            (ErrorKind::AddrInUse, Some(pid)) => {
                let name = process::name(pid).unwrap_or_default();
                write!(f, "is in use by process {pid} ({name})")
            }
            (ErrorKind::AddrInUse, None) => write!(f, "is in use"),
            _ => write!(f, "cannot be listened on: {}", self.error),
        }
    }
}

/// Those that cannot be listened on.
pub fn faults(ports: Vec<Port>) -> Vec<Fault> {
    let fault = |port: Port| {
        let error = TcpListener::bind((port.host.as_str(), port.number)).err()?;
        let holder = match error.kind() {
            ErrorKind::AddrInUse => listener(port.number).and_then(process::holder),
            _ => None,
        };
        Some(Fault { port, error, holder })
    };
    ports.into_iter().filter_map(fault).collect()
}

/// The inode of a socket that listens on this port.
fn listener(port: u16) -> Option<u64> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables.iter().find_map(|table| find_listener(&fs::read_to_string(table).ok()?, port))
}

/// In a table of proc_pid_net_tcp(5): address:port in hexadecimal, the state, the inode.
fn find_listener(table: &str, port: u16) -> Option<u64> {
    let port = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&port) && *fields.get(3)? == LISTENS;
        is_it.then(|| fields.get(9)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use twofold_ports::ReservedPort;

    use super::*;

    fn port(number: u16) -> Port {
        Port { node: "data1".into(), key: "port", host: "127.0.0.1".into(), number }
    }

    #[test]
    fn a_port_in_use_is_named_with_the_one_who_has_it() {
        let reserved = ReservedPort::new();
        let (listener, number) = (TcpListener::bind(reserved.address()).unwrap(), reserved.number());
        let faults = faults(vec![port(number)]);
        let own = std::process::id();
        let name = process::name(own).unwrap();
        assert_eq!(
            faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [format!("127.0.0.1:{number} (port of data1) is in use by process {own} ({name})")]
        );
        drop(listener);
        assert!(super::faults(vec![port(number)]).is_empty());
    }

    #[test]
    fn an_address_of_another_machine_is_a_fault() {
        // TEST-NET-1, RFC 5737.
        let port = Port { host: "192.0.2.1".into(), ..port(2202) };
        let text = faults(vec![port])[0].to_string();
        assert!(text.starts_with("192.0.2.1:2202 (port of data1) cannot be listened on: "), "{text}");
    }

    #[test]
    fn only_sockets_that_listen_are_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:089A 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0\n\
             1: 0100007F:089A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0\n";
        assert_eq!(find_listener(table, 2202), Some(12));
        assert_eq!(find_listener(table, 2203), None);
    }
}
