//! Short notation for tests: `12b` is the life with incarnation 2 of node 12, `5 r1: 11a=up 12b=syncing` a view.

use twofold_proto::{
    config::{Address, ClusterConfig, DataNodeConfig, ManagementNodeConfig},
    ids::{Incarnation, NodeId, TableId, ViewNumber},
    message::Life,
    schema::{Column, ColumnType, Table},
    view::{Member, MemberState, View},
};

/// A config of these data nodes and management node 1.
pub fn config(replicas: u8, nodes: &[u16]) -> ClusterConfig {
    let address = |port: u16| Address { host: "127.0.0.1".into(), port };
    let mut config =
        crate::config::read("test", "[[data]]\nid = 11\nhost = 'a'\n[[data]]\nid = 12\nhost = 'a'\n")
            .expect("the config is good");
    config.replicas = replicas;
    let node = |&id: &u16| DataNodeConfig { id: NodeId(id), address: address(2000 + id), workers: 1 };
    config.data_nodes = nodes.iter().map(node).collect();
    config
}

/// The same with so many management nodes, from id 1.
pub fn with_management_nodes(mut config: ClusterConfig, count: u16) -> ClusterConfig {
    let node = |id| ManagementNodeConfig {
        id: NodeId(id),
        address: Address { host: "127.0.0.1".into(), port: 1000 + id },
        web_port: 1100 + id,
    };
    config.management_nodes = (1..=count).map(node).collect();
    config
}

/// Reads a life.
pub fn life(text: &str) -> Life {
    let (node, letter) = text.split_at(text.len() - 1);
    let incarnation = letter.as_bytes()[0] - b'a' + 1;
    Life { node: NodeId(node.parse().expect(text)), incarnation: Incarnation(incarnation.into()) }
}

/// Writes a life.
pub fn show_life(life: Life) -> String {
    format!("{}{}", life.node, (b'a' - 1 + life.incarnation.0 as u8) as char)
}

/// Reads a view.
pub fn view(text: &str) -> View {
    let (head, members) = text.split_once(':').expect(text);
    let (number, restart) = head.trim().split_once(" r").expect(text);
    let member = |text: &str| {
        let (name, state) = text.split_once('=').expect(text);
        let life = life(name);
        let state = match state {
            "up" => MemberState::Up,
            "ready" => MemberState::Ready,
            "syncing" => MemberState::Syncing,
            other => panic!("{other} is no state"),
        };
        Member { node: life.node, incarnation: life.incarnation, state, workers: 1 }
    };
    View {
        number: ViewNumber(number.parse().expect(text)),
        restart: restart.parse().expect(text),
        members: members.split_whitespace().filter(|text| *text != "-").map(member).collect(),
        history: Vec::new(),
    }
}

/// Writes a view.
pub fn show_view(view: &View) -> String {
    let mut text = format!("{} r{}:", view.number, view.restart);
    for member in &view.members {
        let life = Life { node: member.node, incarnation: member.incarnation };
        text += &format!(" {}={}", show_life(life), format!("{:?}", member.state).to_lowercase());
    }
    if view.members.is_empty() { text + " -" } else { text }
}

/// A table with a key and a value.
pub fn table(name: &str) -> Table {
    Table {
        id: TableId(0),
        name: name.into(),
        version: 1,
        columns: vec![
            Column::new("key", ColumnType::I64),
            Column::new("value", ColumnType::Text { max_chars: 100 }).nullable(),
        ],
        primary_key: vec![0],
        distribution_key: vec![0],
    }
}
