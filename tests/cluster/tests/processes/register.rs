//! The management nodes lose their directories, and the register is rebuilt from what the data nodes know.

use std::fs;

use twofold_cluster_tests::{Cluster, Journal};

use crate::{
    bad_input::{refused, text},
    told::told,
};

/// These management nodes die, and start again with empty directories.
fn lose(cluster: &Cluster, nodes: &[&str]) {
    for node in nodes {
        cluster.done(&["kill", node]);
        fs::remove_dir_all(cluster.file(node)).expect("it has a directory");
    }
    for node in nodes {
        cluster.done(&["restart", node]);
    }
}

fn rebuild(cluster: &Cluster, options: &[&str]) -> std::process::Output {
    let management = cluster.management();
    cluster.twofold(&[&["mgm", "rebuild", "--mgm", &management], options].concat())
}

fn rebuilt(cluster: &Cluster, options: &[&str], tables: &str) {
    let output = rebuild(cluster, options);
    let said = text(&output);
    let words = ["the register was rebuilt: view 1.", tables];
    assert!(output.status.success() && words.iter().all(|word| said.contains(word)), "{said}");
}

fn create(cluster: &Cluster, table: &str) {
    let output = cluster.twofold(&["table", "create", table, "id:int32", "--key", "id"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn all_directories_of_management_nodes_are_lost_under_load() {
    let cluster = Cluster::start(&["--mgm-nodes", "3"]);
    create(&cluster, "fruit");
    refused(&rebuild(&cluster, &[]), 1, &["TF-5008", "there is nothing to rebuild"]);
    let mut journal = Journal::start(&cluster, "register");
    lose(&cluster, &["mgm1", "mgm2", "mgm3"]);
    let words = ["TF-5006: the management nodes have lost their register", "twofold mgm rebuild"];
    told(&cluster, 2, &words);
    let output = cluster.twofold(&["table", "create", "refused", "id:int32", "--key", "id"]);
    refused(&output, 1, &["TF-5006"]);
    refused(&rebuild(&cluster, &["--without", "data2"]), 1, &["data2 (12) cannot be given up: it runs"]);
    refused(&rebuild(&cluster, &["--without", "data7"]), 1, &["there is no node «data7»"]);
    let lines = journal.lines();
    rebuilt(&cluster, &[], ", 3 tables");
    told(&cluster, 0, &["all serves"]);
    create(&cluster, "vegetables");
    // Whoever dies is replaced, and copies.
    let former = cluster.pid("data1");
    cluster.done(&["kill", "data1"]);
    cluster.wait_for_new_life("data1", former);
    journal.wait_for_more(lines);
    let journaled = journal.finish(&cluster);
    cluster.done(&["kill", "data2", "--host"]);
    journaled.verify(&cluster);
    let output = cluster.twofold(&["table", "list"]);
    assert!(["fruit", "vegetables"].iter().all(|name| text(&output).contains(name)), "{}", text(&output));
}

#[test]
fn a_stopped_cluster_goes_on_without_the_directories_of_its_management_nodes() {
    let cluster = Cluster::start(&["--mgm-nodes", "3"]);
    let journaled = Journal::start(&cluster, "stopped").finish(&cluster);
    cluster.done(&["stop"]);
    for node in ["mgm1", "mgm2", "mgm3"] {
        fs::remove_dir_all(cluster.file(node)).expect("it has a directory");
    }
    refused(&cluster.command(&["start"]), 1, &["TF-5006", "twofold mgm rebuild", "go on running"]);
    rebuilt(&cluster, &[], ", 2 tables");
    cluster.wait();
    journaled.verify(&cluster);
    told(&cluster, 0, &["all serves", "restart 2: the cluster went back to epoch 1."]);
}

#[test]
fn a_data_node_that_is_gone_is_given_up() {
    let cluster = Cluster::start(&[]);
    let journal = Journal::start(&cluster, "given_up");
    let journaled = journal.finish(&cluster);
    cluster.done(&["kill", "data2", "--host"]);
    lose(&cluster, &["mgm1"]);
    told(&cluster, 2, &["TF-5006"]);
    refused(&rebuild(&cluster, &[]), 1, &["nothing is heard of data2 (12)", "--without 12"]);
    // Another disk, on which there is nothing, does not speak for it.
    fs::remove_dir_all(cluster.file("data2")).expect("it has a directory");
    cluster.command(&["restart", "data2", "--timeout", "2"]);
    refused(&rebuild(&cluster, &[]), 1, &["data2 (12) runs and remembers nothing", "--without 12"]);
    rebuilt(&cluster, &["--without", "12"], ", 2 tables");
    journaled.verify(&cluster);
    cluster.wait();
    cluster.done(&["kill", "data1", "--host"]);
    journaled.verify(&cluster);
}
