//! Short notation for tests: `12b` is the life with incarnation 2 of node 12, `5 r1: 11a=up 12b=syncing` a view.

use twofold_proto::{
    config::{Address, ClusterConfig, DataNodeConfig, ManagementNodeConfig},
    ids::{Epoch, Incarnation, NodeId, TableId, ViewNumber},
    message::Life,
    schema::{Column, ColumnType, Table},
    view::{Cut, Member, MemberState, View},
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

/// Reads a view. `11b=up<a`: with the rows of a former life; `back to 1.50` at the end: what its restart began with.
pub fn view(text: &str) -> View {
    let (head, members) = text.split_once(':').expect(text);
    let (number, restart) = head.trim().split_once(" r").expect(text);
    let restart = restart.parse().expect(text);
    let (members, cut) = members.split_once(" back to ").unwrap_or((members, ""));
    let cut = cut.split_once('.').map(|(restarts, count)| {
        let epoch = Epoch::new(restarts.parse().expect(cut), count.parse().expect(cut));
        Cut { restart, epoch }
    });
    let member = |text: &str| {
        let (name, state) = text.split_once('=').expect(text);
        let life = life(name);
        let (state, former) = state.split_once('<').unwrap_or((state, ""));
        let restored =
            former.bytes().next().map(|letter| Incarnation((letter.to_ascii_uppercase() - b'@').into()));
        let state = match state {
            "up" => MemberState::Up,
            "ready" => MemberState::Ready,
            "syncing" => MemberState::Syncing,
            other => panic!("{other} is no state"),
        };
        Member { node: life.node, incarnation: life.incarnation, state, workers: 1, restored }
    };
    View {
        number: ViewNumber(number.parse().expect(text)),
        restart,
        cuts: cut.into_iter().collect(),
        members: members.split_whitespace().filter(|text| *text != "-").map(member).collect(),
        ..View::default()
    }
}

/// Writes a view.
pub fn show_view(view: &View) -> String {
    let mut text = format!("{} r{}:", view.number, view.restart);
    for member in &view.members {
        let life = Life { node: member.node, incarnation: member.incarnation };
        text += &format!(" {}={}", show_life(life), format!("{:?}", member.state).to_lowercase());
    }
    if view.members.is_empty() {
        text += " -";
    }
    let cut = view.cuts.last().filter(|cut| cut.restart == view.restart && cut.epoch.0 > 0);
    cut.map_or(text.clone(), |cut| format!("{text} back to {}", cut.epoch))
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
        indexes: Vec::new(),
    }
}
