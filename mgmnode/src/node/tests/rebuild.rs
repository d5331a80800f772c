//! Registers that are lost, and rebuilt from what the data nodes know.

use twofold_proto::{message::Catalog, view::View};

use super::*;
use crate::testing::view;

fn rebuild(without: &[u16]) -> AdminCommand {
    AdminCommand::Rebuild { without: without.iter().copied().map(NodeId).collect() }
}

fn refusal(reply: AdminReply) -> String {
    match reply {
        AdminReply::Refused(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// All management nodes lose their directories, and start again.
fn lose_all(driver: &mut Driver, config: &ClusterConfig) {
    for node in &config.management_nodes {
        driver.kill(node.id.0);
        driver.stored.remove(&node.id);
    }
    for node in &config.management_nodes {
        driver.start(config, node.id);
    }
    driver.until("a leader", |driver| driver.leader().is_some());
    driver.run(2500);
}

fn create(driver: &mut Driver, process: usize, request: u32, name: &str) -> Result<u64, ErrorCode> {
    driver.change(process, request, CatalogChange::CreateTable(table(name)));
    for _ in 0..200 {
        let answers = driver.probe_ref(process).answers();
        let results =
            answers.into_iter().filter(|answer| answer.request == request).map(|answer| answer.result);
        let mut results = results.map(|result| result.map_err(|error| error.code));
        // The followers refuse.
        if let Some(result) = results.find(|result| *result != Err(ErrorCode::NoLeader)) {
            return result;
        }
        driver.run(50);
    }
    panic!("no answer");
}

/// A cluster at view 2 with one table, whose register is lost. `b` is `syncing`.
fn lost(management: u16) -> (Driver, ClusterConfig, [usize; 2]) {
    let (mut driver, config, [a, b]) = running(management);
    assert_eq!(create(&mut driver, a, 1, "t"), Ok(1));
    driver.end(b);
    driver.until("a view without node 12", |driver| newest(driver, a) == "2 r1: 11a=up");
    let b = driver.data_node(life("12b"), 1..=management);
    driver.probe_mut(b).report.as_mut().unwrap().copied = None;
    driver.until("it is back", |driver| newest(driver, a) == "5 r1: 11a=up 12b=up");
    driver.run(200);
    lose_all(&mut driver, &config);
    (driver, config, [a, b])
}

#[test]
fn the_register_goes_on_from_what_the_data_nodes_know() {
    for management in [1, 3] {
        let (mut driver, _, [a, b]) = lost(management);
        let leader = driver.leader().unwrap();
        assert_eq!(driver.ask(leader, rebuild(&[])), AdminReply::Done);
        driver.until("the next generation", |driver| newest(driver, b) == "1.1 r1: 11a=up 12b=up");
        let catalog = driver.node(leader).register().catalog().clone();
        assert_eq!((catalog.version, catalog.tables.len()), (1 << 48 | 1, 1));
        // A table that nobody knows who is left may have had the next number.
        assert_eq!(create(&mut driver, a, 2, "u"), Ok(1 << 48 | 2));
        assert!(driver.node(leader).register().catalog().table("u").unwrap().id.0 > 2);
        driver.end(b);
        driver.until("decisions again", |driver| newest(driver, a) == "1.2 r1: 11a=up");
        assert!(refusal(driver.ask(leader, rebuild(&[12]))).starts_with(
            "TF-5008: the management nodes know view 1.2 and catalog 281474976710658, and no data node knows more"
        ));
        let statuses: Vec<_> = (1..=management).map(|id| driver.node(id).register().clone()).collect();
        assert!(statuses.iter().all(|register| *register == statuses[0]));
    }
}

#[test]
fn all_data_nodes_are_asked_but_those_that_are_given_up() {
    let (mut driver, _, [a, b]) = lost(3);
    let leader = driver.leader().unwrap();
    let follower = leader % 3 + 1;
    assert!(refusal(driver.ask(follower, rebuild(&[]))).starts_with("TF-5003: ask the leader"));
    assert!(refusal(driver.ask(leader, rebuild(&[21]))).contains("api1 (21) is no data node"));
    assert!(refusal(driver.ask(leader, rebuild(&[12]))).contains("data2 (12) cannot be given up: it runs"));
    driver.end(b);
    driver.run(1000);
    let said = refusal(driver.ask(leader, rebuild(&[])));
    assert!(said.contains("nothing is heard of data2 (12)") && said.contains("--without 12`"), "{said}");
    // It hangs, and does not answer.
    driver.probe_mut(a).is_good = false;
    let said = refusal(driver.ask(leader, rebuild(&[12])));
    assert!(said.contains("node 11 did not say in time what it knows"), "{said}");
    driver.probe_mut(a).is_good = true;
    assert_eq!(driver.ask(leader, rebuild(&[12])), AdminReply::Done);
    driver.until("it is dropped", |driver| newest(driver, a) == "1.2 r1: 11a=up");
    // Its next life may join.
    driver.data_node(life("12c"), 1..=3);
    driver.until("it is back", |driver| newest(driver, a).contains("12c=up"));
}

/// Its directory was lost as well: what it alone knew is gone, and somebody has to say so.
#[test]
fn a_data_node_that_remembers_nothing_is_given_up_by_name() {
    let (mut driver, _, [a, b]) = lost(3);
    let leader = driver.leader().unwrap();
    driver.end(b);
    driver.data_node(life("12c"), 1..=3);
    driver.run(1000);
    let said = refusal(driver.ask(leader, rebuild(&[])));
    assert!(
        said.contains("data2 (12) runs and remembers nothing") && said.contains("--without 12`"),
        "{said}"
    );
    assert!(
        refusal(driver.ask(leader, rebuild(&[11, 12]))).contains("data1 (11) cannot be given up: it runs")
    );
    assert_eq!(driver.ask(leader, rebuild(&[12])), AdminReply::Done);
    driver.until("it joins", |driver| newest(driver, a).contains("12c=up"));
    // All are blank.
    let (mut driver, _, nodes) = lost(1);
    nodes.into_iter().for_each(|node| driver.end(node));
    for name in ["11c", "12c"] {
        driver.data_node(life(name), 1..=1);
    }
    driver.run(1000);
    let said = refusal(driver.ask(1, rebuild(&[])));
    assert!(said.contains("no data node remembers anything"), "{said}");
}

/// It does not get through to the management nodes, and serves on.
#[test]
fn who_is_heard_by_others_is_not_given_up() {
    let (mut driver, _, [a, b]) = lost(1);
    driver.probe_mut(b).report = None;
    driver.run(3000);
    let said = refusal(driver.ask(1, rebuild(&[12])));
    assert!(
        said.contains("data2 (12) cannot be given up: it does not report here, but data1 (11) has"),
        "{said}"
    );
    driver.probe_mut(a).deaf_to.push(life("12b"));
    driver.run(1000);
    assert_eq!(driver.ask(1, rebuild(&[12])), AdminReply::Done);
}

#[test]
fn a_new_leader_gives_nobody_up() {
    let (mut driver, config, [_, b]) = lost(1);
    driver.end(b);
    driver.kill(1);
    driver.start(&config, NodeId(1));
    driver.run(1000);
    assert!(refusal(driver.ask(1, rebuild(&[12]))).contains("this leader is new"));
}

#[test]
fn where_nothing_was_lost_nothing_is_rebuilt() {
    let (mut driver, _, [a, _]) = running(3);
    driver.run(200);
    let said = refusal(driver.ask(1, rebuild(&[])));
    assert!(said.contains("there is nothing to rebuild"), "{said}");
    assert_eq!(newest(&driver, a), "1 r1: 11a=up 12a=up");
}

#[test]
fn a_directory_from_before_the_loss_is_not_listened_to() {
    let (mut driver, config, [a, b]) = running(3);
    driver.run(200);
    let old = driver.stored.clone();
    lose_all(&mut driver, &config);
    let leader = driver.leader().unwrap();
    assert_eq!(driver.ask(leader, rebuild(&[])), AdminReply::Done);
    driver.run(200);
    let victim = leader % 3 + 1;
    driver.kill(victim);
    driver.stored.insert(NodeId(victim), old[&NodeId(victim)].clone());
    driver.start(&config, NodeId(victim));
    driver.run(3000);
    let stranger = |of: u16, told: u16| (NodeId(of), Notice::OtherLog { node: NodeId(told) });
    assert!(driver.notices.contains(&stranger(leader, victim)), "{:#?}", driver.notices);
    assert!(driver.notices.contains(&stranger(victim, leader)), "{:#?}", driver.notices);
    assert_eq!((driver.leader(), driver.node(victim).leader()), (Some(leader), None));
    assert_eq!(driver.node(victim).register().view().number.generation(), 0);
    driver.end(b);
    driver.until("decisions", |driver| newest(driver, a) == "1.2 r1: 11a=up");
    // The other one that is left forgets: it cannot tell which of the two logs is the right one.
    let third = 6 - leader - victim;
    driver.kill(third);
    driver.stored.remove(&NodeId(third));
    driver.start(&config, NodeId(third));
    driver.run(4000);
    assert!(driver.notices.contains(&(NodeId(third), Notice::SeveralLogs)), "{:#?}", driver.notices);
    driver.kill(third);
    driver.kill(victim);
    // Put right, it follows.
    driver.stored.remove(&NodeId(victim));
    driver.start(&config, NodeId(victim));
    driver.run(4000);
    assert_eq!(driver.node(victim).leader(), None, "of three, two have lost their directories");
}

#[test]
fn a_cluster_that_was_stopped_as_a_whole_goes_on_from_its_disks() {
    let (mut driver, config, nodes) = running(1);
    driver.run(200);
    let known: View = driver.probe_ref(nodes[0]).view().unwrap();
    nodes.into_iter().for_each(|node| driver.end(node));
    lose_all(&mut driver, &config);
    let tables = vec![twofold_proto::schema::Table { id: twofold_proto::ids::TableId(1), ..table("t") }];
    let catalog = Catalog { version: 4, tables, next_table: 2 };
    let nodes = ["11b", "12b"].map(|name| {
        let node = driver.data_node_with(life(name), 1, Epoch::new(1, 70));
        let probe = driver.probe_mut(node);
        probe.known = Some((known.clone(), catalog.clone()));
        let restorable = probe.report.as_mut().unwrap().restorable.as_mut().unwrap();
        (restorable.view, restorable.catalog) = (known.number, catalog.version);
        node
    });
    driver.run(20_000);
    let said = |notice: &Notice| matches!(notice, Notice::RegisterLost(text) if text.contains("view 1 and catalog 4"));
    assert!(driver.notices.iter().any(|(_, notice)| said(notice)), "{:#?}", driver.notices);
    assert_eq!(driver.node(1).register().view(), &view("0 r0: -"));
    assert_eq!(driver.ask(1, rebuild(&[])), AdminReply::Done);
    driver.until("it has restarted", |driver| {
        newest(driver, nodes[0]).ends_with("r2: 11b=up 12b=up back to 1.70")
    });
    assert_eq!(driver.node(1).register().catalog().tables[0].name, "t");
}

#[test]
fn a_config_of_another_cluster_is_refused() {
    let (mut driver, config, [a, b]) = running(1);
    driver.run(200);
    driver.kill(1);
    driver.stored.clear();
    let other = ClusterConfig { replicas: 1, ..config.clone() };
    driver.start(&other, NodeId(1));
    driver.run(200);
    for node in [a, b] {
        let probe = driver.probe_mut(node);
        probe.received.retain(|(_, kind, _)| *kind != Kind::ConfigOrd);
        let mut body = Vec::new();
        twofold_proto::message::put_control(&mut body, &config);
        probe.received.push((NodeId(1), Kind::ConfigOrd, body));
    }
    let said = refusal(driver.ask(1, rebuild(&[])));
    assert!(said.contains("goes by another config than the management nodes"), "{said}");
}
