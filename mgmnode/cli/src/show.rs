//! The cluster as text.

use prost_types::Timestamp;
use serde_json::{Value, json};
use twofold_grpc::management::{Node, NodeKind, NodeState, ShowResponse, SystemRestart};
use twofold_proto::{error::counted, ids::ViewNumber};

/// How the cluster is; also an exit code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Health {
    /// All nodes of the config serve.
    Good = 0,
    /// All groups serve, but something is missing.
    Degraded = 1,
    /// Some data cannot be reached, or no API node is there to reach it by, or nobody leads.
    Bad = 2,
}

fn kind_name(node: &Node) -> &'static str {
    match node.kind() {
        NodeKind::Management => "management",
        NodeKind::Data => "data",
        NodeKind::Api => "api",
        NodeKind::Unspecified => "unknown",
    }
}

/// The word for how a node is.
pub fn state_name(node: &Node) -> &'static str {
    match (node.state(), node.kind()) {
        (NodeState::Up, NodeKind::Management) => "leader",
        (NodeState::Up, _) => "up",
        (NodeState::Follower, _) => "follower",
        (NodeState::Ready, _) => "ready",
        (NodeState::Syncing, _) => "syncing",
        (NodeState::Starting, _) => "starting",
        (NodeState::Silent, _) => "silent",
        (NodeState::Down, _) => "down",
        (NodeState::Unspecified, _) => "unknown",
    }
}

fn address(node: &Node) -> String {
    if node.host.contains(':') {
        format!("[{}]:{}", node.host, node.port)
    } else {
        format!("{}:{}", node.host, node.port)
    }
}

/// The data nodes.
pub fn data_nodes(shown: &ShowResponse) -> impl Iterator<Item = &Node> {
    shown.nodes.iter().filter(|node| node.kind() == NodeKind::Data)
}

/// Nodes with their states, in words.
pub fn states<'n>(nodes: impl Iterator<Item = &'n Node>) -> String {
    nodes.map(|node| format!("{} is {}", node.name, state_name(node))).collect::<Vec<_>>().join(", ")
}

fn is_good(node: &Node) -> bool {
    let follows = node.kind() == NodeKind::Management && node.state() == NodeState::Follower;
    node.state() == NodeState::Up || follows
}

/// How the cluster is.
pub fn health(shown: &ShowResponse) -> Health {
    let groups = data_nodes(shown).filter_map(|node| node.group).max().map_or(0, |last| last + 1);
    let serves =
        |group: u32| data_nodes(shown).any(|node| node.group == Some(group) && node.state() == NodeState::Up);
    let mut api_nodes = shown.nodes.iter().filter(|node| node.kind() == NodeKind::Api);
    if shown.leader == 0 || !shown.trouble.is_empty() || !(0..groups).all(serves) || !api_nodes.any(is_good) {
        Health::Bad
    } else if shown.nodes.iter().all(is_good) {
        Health::Good
    } else {
        Health::Degraded
    }
}

/// All nodes, a line each.
pub fn table(shown: &ShowResponse) -> String {
    let head = ["NODE", "ID", "KIND", "GROUP", "STATE", "ADDRESS", "WORKERS"].map(String::from);
    let mut rows = vec![head];
    for node in &shown.nodes {
        rows.push([
            node.name.clone(),
            node.id.to_string(),
            kind_name(node).into(),
            node.group.map_or("-".into(), |group| group.to_string()),
            if node.leaving { format!("{}, leaving", state_name(node)) } else { state_name(node).into() },
            address(node),
            if node.workers == 0 { "-".into() } else { node.workers.to_string() },
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = headline(shown) + "\n";
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        text += &format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

fn headline(shown: &ShowResponse) -> String {
    let leader = shown.nodes.iter().find(|node| node.id == shown.leader);
    let leader =
        leader.map_or("nobody leads".into(), |node| format!("{} leads in term {}", node.name, shown.term));
    let (replicas, tables) =
        (counted(shown.replicas as usize, "replica"), counted(shown.tables as usize, "table"));
    format!(
        "cluster «{}»: view {}, {replicas}, {tables}; {leader}; version {}\n{}",
        shown.cluster,
        ViewNumber(shown.view),
        shown.version,
        notes(shown)
    )
}

/// What people have to know beside how the nodes are, a line each: what stands still, and the last system restart.
pub fn notes(shown: &ShowResponse) -> String {
    let restart = shown.system_restart.as_ref().map(restarted);
    let trouble = Some(&shown.trouble).filter(|trouble| !trouble.is_empty());
    trouble.into_iter().chain(&restart).map(|note| format!("{note}\n")).collect()
}

/// That the cluster was restarted as a whole, which stays true for all of its present run.
fn restarted(restart: &SystemRestart) -> String {
    let when = match i64::try_from(restart.at_ms / 1000) {
        Ok(seconds) if seconds > 0 => format!(" ({})", Timestamp { seconds, nanos: 0 }),
        _ => String::new(),
    };
    format!("{}{when}", restart.text)
}

/// One node as JSON.
fn node_json(node: &Node) -> Value {
    json!({
        "name": node.name,
        "id": node.id,
        "kind": kind_name(node),
        "group": node.group,
        "state": state_name(node),
        "host": node.host,
        "port": node.port,
        "workers": node.workers,
        "age_ms": node.age_ms,
        "incarnation": node.incarnation.to_string(),
        "leaving": node.leaving,
    })
}

fn cluster_json(shown: &ShowResponse) -> Value {
    json!({
        "cluster": shown.cluster,
        "leader": (shown.leader != 0).then_some(shown.leader),
        "term": shown.term,
        "view": shown.view,
        "restart": shown.restart,
        "catalog": shown.catalog,
        "tables": shown.tables,
        "replicas": shown.replicas,
        "version": shown.version,
        "trouble": (!shown.trouble.is_empty()).then_some(&shown.trouble),
        "system_restart": shown.system_restart.as_ref().map(|restart| json!({
            "at_ms": restart.at_ms,
            "restart": restart.restart,
            "epoch": restart.epoch,
        })),
    })
}

/// All nodes as JSON.
pub fn json(shown: &ShowResponse) -> String {
    let mut value = cluster_json(shown);
    value["nodes"] = shown.nodes.iter().map(node_json).collect();
    format!("{value:#}\n")
}

fn words(shown: &ShowResponse) -> String {
    let up = data_nodes(shown).filter(|node| node.state() == NodeState::Up).count();
    let missing = shown.nodes.iter().filter(|node| !is_good(node));
    let missing = states(missing);
    let how = match health(shown) {
        Health::Good => "all serves",
        Health::Degraded => "it serves, but something is missing",
        Health::Bad => "it does not serve",
    };
    let missing = if missing.is_empty() { missing } else { format!("; {missing}") };
    format!("{how}: {up} of {} data nodes are up{missing}", data_nodes(shown).count())
}

/// How the cluster is, in a line or two.
pub fn status(shown: &ShowResponse) -> String {
    format!("{}{}\n", headline(shown), words(shown))
}

/// The same as JSON.
pub fn status_json(shown: &ShowResponse) -> String {
    let mut value = cluster_json(shown);
    value["health"] = match health(shown) {
        Health::Good => "good",
        Health::Degraded => "degraded",
        Health::Bad => "bad",
    }
    .into();
    value["text"] = words(shown).into();
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u32, name: &str, kind: NodeKind, state: NodeState, group: Option<u32>) -> Node {
        let workers = if kind == NodeKind::Data && state == NodeState::Up { 2 } else { 0 };
        Node {
            id,
            name: name.into(),
            kind: kind.into(),
            state: state.into(),
            group,
            host: "127.0.0.1".into(),
            port: 2000 + id,
            workers,
            age_ms: None,
            incarnation: 0,
            leaving: false,
        }
    }

    fn shown() -> ShowResponse {
        ShowResponse {
            cluster: "local".into(),
            node: 1,
            leader: 1,
            leader_address: "127.0.0.1:1186".into(),
            term: 3,
            view: 7,
            restart: 1,
            catalog: 4,
            tables: 2,
            replicas: 2,
            version: "0.1.0".into(),
            nodes: vec![
                node(1, "mgm1", NodeKind::Management, NodeState::Up, None),
                node(11, "data1", NodeKind::Data, NodeState::Up, Some(0)),
                node(12, "data2", NodeKind::Data, NodeState::Up, Some(0)),
                node(21, "api1", NodeKind::Api, NodeState::Up, None),
            ],
            trouble: String::new(),
            system_restart: None,
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let mut shown = shown();
        shown.nodes[2].state = NodeState::Syncing.into();
        shown.nodes[1].leaving = true;
        let expected = "\
cluster «local»: view 7, 2 replicas, 2 tables; mgm1 leads in term 3; version 0.1.0

NODE   ID  KIND        GROUP  STATE        ADDRESS         WORKERS
mgm1   1   management  -      leader       127.0.0.1:2001  -
data1  11  data        0      up, leaving  127.0.0.1:2011  2
data2  12  data        0      syncing      127.0.0.1:2012  2
api1   21  api         -      up           127.0.0.1:2021  -
";
        assert_eq!(table(&shown), expected);
    }

    #[test]
    fn health_is_that_of_the_worst_group() {
        let mut shown = shown();
        assert_eq!(health(&shown), Health::Good);
        assert!(status(&shown).ends_with("\nall serves: 2 of 2 data nodes are up\n"));
        shown.nodes[2].state = NodeState::Silent.into();
        assert_eq!(health(&shown), Health::Degraded);
        assert!(
            status(&shown).ends_with("but something is missing: 1 of 2 data nodes are up; data2 is silent\n")
        );
        shown.nodes[1].state = NodeState::Down.into();
        assert_eq!(health(&shown), Health::Bad);
        shown = self::shown();
        shown.leader = 0;
        assert_eq!(health(&shown), Health::Bad);
        assert!(status(&shown).contains("nobody leads"));
    }

    #[test]
    fn api_nodes_count() {
        let mut shown = shown();
        shown.nodes.push(node(22, "api2", NodeKind::Api, NodeState::Down, None));
        assert_eq!(health(&shown), Health::Degraded);
        assert!(status(&shown).ends_with("2 of 2 data nodes are up; api2 is down\n"), "{}", status(&shown));
        shown.nodes[3].state = NodeState::Down.into();
        assert_eq!(health(&shown), Health::Bad);
    }

    #[test]
    fn a_system_restart_is_told_for_all_of_the_run() {
        let text = "restart 3: the cluster went back".to_string();
        let restart = SystemRestart { at_ms: 1_792_000_000_123, restart: 3, epoch: "2.7".into(), text };
        let shown = ShowResponse { system_restart: Some(restart), tables: 1, ..shown() };
        let line = "restart 3: the cluster went back (2026-10-14T17:46:40Z)";
        assert_eq!(table(&shown).lines().nth(1), Some(line));
        assert_eq!(status(&shown).lines().nth(1), Some(line));
        assert!(status(&shown).starts_with("cluster «local»: view 7, 2 replicas, 1 table; "));
        assert_eq!(health(&shown), Health::Good, "it serves");
        let value: Value = serde_json::from_str(&status_json(&shown)).unwrap();
        assert_eq!(value["system_restart"]["at_ms"], 1_792_000_000_123u64);
    }

    #[test]
    fn what_keeps_the_leader_from_deciding_comes_first() {
        let shown = ShowResponse { trouble: "TF-5006: lost".into(), ..shown() };
        assert_eq!(table(&shown).lines().nth(1), Some("TF-5006: lost"));
        assert!(status(&shown).contains("\nTF-5006: lost\n") && health(&shown) == Health::Bad);
        assert!(json(&shown).contains("\"trouble\": \"TF-5006: lost\""));
    }

    #[test]
    fn json_has_all_nodes() {
        let value: Value = serde_json::from_str(&json(&shown())).unwrap();
        assert_eq!(value["nodes"].as_array().unwrap().len(), 4);
        assert_eq!((&value["leader"], &value["nodes"][1]["state"]), (&json!(1), &json!("up")));
        let value: Value = serde_json::from_str(&status_json(&shown())).unwrap();
        assert_eq!(value["health"], "good");
    }
}
