//! Nodes are killed, cut from their hosts and paused under load: every acknowledged write is there, service goes on, and
//! the node comes back by itself with its data.

use twofold_cluster_tests::{Cluster, Journal, Load, eventually};

/// A node is killed under load, and comes back by itself. That it has copied its data is shown by the loss of its buddy:
/// from then on it alone has the rows.
fn killed_under_load(cluster: &Cluster, node: &str, buddy: &str, name: &'static str) {
    let journal = Journal::start(cluster, name);
    let former = cluster.pid(node);
    cluster.done(&["kill", node]);
    cluster.wait_for_new_life(node, former);
    let journaled = journal.finish(cluster);
    cluster.done(&["kill", buddy, "--host"]);
    journaled.verify(cluster);
    cluster.done(&["restart", buddy]);
    cluster.wait();
    journaled.verify(cluster);
}

#[test]
fn each_data_node_killed_under_load() {
    let cluster = Cluster::start(&[]);
    killed_under_load(&cluster, "data1", "data2", "kill_data1");
    killed_under_load(&cluster, "data2", "data1", "kill_data2");
}

#[test]
fn each_host_lost_under_load() {
    let cluster = Cluster::start(&[]);
    for (node, buddy, name) in [("data1", "data2", "host1"), ("data2", "data1", "host2")] {
        let mut journal = Journal::start(&cluster, name);
        cluster.done(&["kill", node, "--host"]);
        assert_eq!(cluster.node(node)["state"], "stopped");
        // Service goes on without it.
        let lines = journal.lines();
        journal.wait_for_more(lines);
        let journaled = journal.finish(&cluster);
        cluster.done(&["restart", node]);
        cluster.wait();
        cluster.done(&["kill", buddy, "--host"]);
        journaled.verify(&cluster);
        cluster.done(&["restart", buddy, "--initial"]);
        cluster.wait();
    }
}

#[test]
fn a_rolling_restart_under_load() {
    let cluster = Cluster::start(&["--data-nodes", "4"]);
    let lives = || ["data1", "data2", "data3", "data4"].map(|node| cluster.pid(node));
    let former = lives();
    let load = Load { seconds: 20, ..Load::default() };
    let journal = Journal::with_load(&cluster, "rolling", load);
    let output = cluster.twofold(&["node", "restart", "--rolling", "--mgm", &cluster.management()]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.matches("is up again after").count(), 4, "{said}");
    assert!(lives().iter().zip(former).all(|(now, former)| *now != former), "{:?} as before", lives());
    let journaled = journal.finish(&cluster);
    assert_eq!(journaled.failed(), 0, "what fails for a moment is tried again");
    // Not while one of them is away.
    cluster.done(&["kill", "data3", "--host"]);
    eventually(|| {
        let status = cluster.twofold(&["status", "--mgm", &cluster.management()]);
        status.status.success().then(|| "data3 is missed by nobody".into())
    });
    let output = cluster.twofold(&["node", "restart", "--rolling", "--mgm", &cluster.management()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("data3 is "), "{said}");
}

#[test]
fn each_data_node_paused_under_load() {
    let cluster = Cluster::start(&[]);
    for (node, buddy, name) in [("data1", "data2", "pause1"), ("data2", "data1", "pause2")] {
        let mut journal = Journal::start(&cluster, name);
        cluster.done(&["pause", node]);
        assert_eq!(cluster.node(node)["state"], "paused");
        // Service goes on without it.
        let lines = journal.lines();
        journal.wait_for_more(lines);
        let journaled = journal.finish(&cluster);
        let view = cluster.status()["view"].as_u64();
        cluster.done(&["resume", node]);
        // It finds itself out of the view, and joins again.
        eventually(|| {
            let now = cluster.status()["view"].as_u64();
            (now <= view).then(|| format!("no view after {view:?}"))
        });
        cluster.wait();
        cluster.done(&["kill", buddy, "--host"]);
        journaled.verify(&cluster);
        cluster.done(&["restart", buddy]);
        cluster.wait();
    }
}

#[test]
fn each_management_node_killed_under_load() {
    let cluster = Cluster::start(&["--mgm-nodes", "3"]);
    let journal = Journal::start(&cluster, "management");
    for node in ["mgm1", "mgm2", "mgm3"] {
        cluster.done(&["kill", node]);
        // The other two still decide: a table is an entry of their register.
        let table = format!("without_{node}");
        let mut refusal = String::new();
        eventually(|| {
            let output =
                cluster.twofold(&["table", "create", &table, "id:int32", "--key", "id", "--if-not-exists"]);
            refusal = String::from_utf8_lossy(&output.stderr).into();
            (!output.status.success()).then(|| refusal.clone())
        });
        cluster.done(&["restart", node]);
    }
    cluster.wait();
    let journaled = journal.finish(&cluster);
    // And they give a dead data node a successor without the leader that there was.
    let leader = cluster.status()["leader"].as_u64();
    let leader = leader.map(|id| format!("mgm{id}")).expect("somebody leads");
    let journal = Journal::start(&cluster, "leader_and_data");
    cluster.done(&["kill", &leader]);
    let former = cluster.pid("data1");
    cluster.done(&["kill", "data1"]);
    eventually(|| {
        let node = cluster.node("data1");
        let is_back = node["state"] == "up" && node["pid"].as_u64() != former;
        (!is_back).then(|| format!("data1 is not back: {node}"))
    });
    cluster.done(&["restart", &leader]);
    cluster.wait();
    journal.finish(&cluster).verify(&cluster);
    journaled.verify(&cluster);
}

#[test]
fn one_node_of_each_of_two_groups_killed_under_load() {
    let cluster = Cluster::start(&["--data-nodes", "4"]);
    let journal = Journal::start(&cluster, "two_groups");
    let (first, third) = (cluster.pid("data1"), cluster.pid("data3"));
    cluster.done(&["kill", "data1"]);
    cluster.done(&["kill", "data3"]);
    cluster.wait_for_new_life("data1", first);
    cluster.wait_for_new_life("data3", third);
    let journaled = journal.finish(&cluster);
    cluster.done(&["kill", "data2", "--host"]);
    cluster.done(&["kill", "data4", "--host"]);
    journaled.verify(&cluster);
    cluster.done(&["restart", "data2"]);
    cluster.done(&["restart", "data4"]);
    cluster.wait();
    journaled.verify(&cluster);
}
