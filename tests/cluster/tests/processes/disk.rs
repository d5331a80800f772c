//! What is on disk: all nodes end, in order or not, and come back; files are damaged; a disk is full.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    thread::sleep,
    time::Duration,
};

use twofold_cluster_tests::{Cluster, Journal, Load, eventually};

use crate::{bad_input::text, told::told};

/// For how long an acknowledged write may be on no disk.
const WINDOW: Duration = Duration::from_millis(2500);

/// The segments of redo of a data node, in order.
fn segments(cluster: &Cluster, node: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(cluster.file(node)).expect("the node has a directory");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    let is_redo =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("redo-"));
    let mut segments: Vec<PathBuf> = paths.filter(is_redo).collect();
    segments.sort();
    segments
}

/// Changes a byte of the first frame of redo.
fn damage(cluster: &Cluster, node: &str) {
    let first = &segments(cluster, node)[0];
    let file = File::options().read(true).write(true).open(first).expect("it is ours");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 50).expect("it is long enough");
    file.write_all_at(&[byte[0] ^ 1], 50).expect("it is ours");
}

#[test]
fn a_cluster_that_is_stopped_loses_nothing() {
    let cluster = Cluster::start(&["--data-nodes", "4"]);
    let journaled =
        Journal::with_load(&cluster, "stopped", Load { seconds: 3, ..Load::default() }).finish(&cluster);
    for round in 2..4 {
        cluster.done(&["stop"]);
        cluster.done(&["start"]);
        journaled.verify(&cluster);
        told(&cluster, 0, &["all serves", &format!("restart {round}: the cluster went back to epoch ")]);
    }
    // Nobody had to copy: each had all on disk.
    let log = fs::read_to_string(cluster.file("data1.log")).expect("it has one");
    assert!(!log.contains("this node is syncing"), "{log}");
}

/// The power goes: all processes are killed in the middle of everything.
#[test]
fn a_cluster_that_is_killed_loses_no_more_than_it_may() {
    let cluster = Cluster::start(&["--data-nodes", "4"]);
    for round in 0..2 {
        let load = Load { seconds: 60, keys: 400, pause: 0.002 };
        let mut journal = Journal::with_load(&cluster, &format!("killed{round}"), load);
        sleep(WINDOW * 2);
        let lines = journal.lines();
        journal.wait_for_more(lines);
        let nodes = ["data1", "data2", "data3", "data4"];
        let order: Vec<&str> = if round == 0 { nodes.to_vec() } else { nodes.into_iter().rev().collect() };
        let journaled = journal.cut(WINDOW);
        for node in order {
            cluster.done(&["kill", node, "--host"]);
        }
        cluster.done(&["kill", "mgm1"]);
        cluster.done(&["kill", "api1"]);
        cluster.done(&["start"]);
        journaled.verify(&cluster);
    }
}

/// Both nodes of a group are lost one after the other: only who was left has everything.
#[test]
fn the_last_of_a_group_has_the_rows() {
    let cluster = Cluster::start(&[]);
    for (first, last) in [("data1", "data2"), ("data2", "data1")] {
        cluster.done(&["kill", first, "--host"]);
        let name = format!("after_{first}");
        let journaled =
            Journal::with_load(&cluster, &name, Load { seconds: 2, ..Load::default() }).finish(&cluster);
        sleep(WINDOW);
        cluster.done(&["kill", last, "--host"]);
        let output = cluster.command(&["restart", first, "--timeout", "2"]);
        assert!(text(&output).contains("does not serve"), "{}", text(&output));
        cluster.done(&["restart", last]);
        cluster.wait();
        journaled.verify(&cluster);
    }
}

#[test]
fn damaged_redo_is_named_and_made_good_by_the_buddy() {
    let cluster = Cluster::start(&[]);
    let journaled =
        Journal::with_load(&cluster, "damaged", Load { seconds: 2, ..Load::default() }).finish(&cluster);
    cluster.done(&["stop"]);
    damage(&cluster, "data1");
    cluster.done(&["start"]);
    let log = fs::read_to_string(cluster.file("data1.log")).expect("it has one");
    assert!(
        log.contains("redo is damaged from redo-") && log.contains("all is copied from the buddies"),
        "{log}"
    );
    journaled.verify(&cluster);
    // It is whole again.
    cluster.done(&["stop"]);
    damage(&cluster, "data2");
    cluster.done(&["start"]);
    journaled.verify(&cluster);
    // Where nobody has it any more nothing is made up.
    cluster.done(&["stop"]);
    damage(&cluster, "data1");
    damage(&cluster, "data2");
    let output = cluster.command(&["start", "--timeout", "3"]);
    assert!(!output.status.success());
    let said = text(&output);
    assert!(said.contains("came back without what the cluster had") && said.contains("--initial"), "{said}");
    cluster.done(&["start", "--initial"]);
    told(&cluster, 0, &["all serves", "began with its tables and without rows"]);
}

#[test]
fn a_full_disk_stops_nobody() {
    let cluster = Cluster::prepare();
    let Some(_small) = Small::mount(&cluster, "data1", 80) else {
        // It takes the right to mount. Who has none sees the simulator fill disks.
        eprintln!("NOT RUN: this user may not mount a file system");
        return;
    };
    let output = cluster.try_start(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let mut journal = Journal::start(&cluster, "full");
    fs::write(cluster.file("data1").join("fill"), vec![1; 70 << 20]).unwrap_err();
    // Its redo needs the next segment before long.
    let load = ["table", "create", "big", "id:int32", "value:text:30000", "--key", "id"];
    assert!(cluster.twofold(&load).status.success());
    let value = "x".repeat(29_000);
    for id in 0..3000 {
        cluster.twofold(&["set", "big", &format!("id={id}"), &format!("value={value}")]);
        let log = fs::read_to_string(cluster.file("data1.log")).unwrap_or_default();
        if log.contains("No space left on device") {
            break;
        }
    }
    let lines = journal.lines();
    journal.wait_for_more(lines);
    fs::remove_file(cluster.file("data1").join("fill")).expect("it is there");
    eventually(|| {
        let node = cluster.node("data1");
        (node["state"] != "up").then(|| format!("data1 is not back: {node}"))
    });
    journal.finish(&cluster);
}

/// A file system of its own in a node's directory.
struct Small(PathBuf);

impl Small {
    fn mount(cluster: &Cluster, node: &str, mebibytes: u32) -> Option<Small> {
        let path = cluster.file(node);
        fs::create_dir_all(&path).expect("a directory");
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(&path);
        let done = command.output().is_ok_and(|output| output.status.success());
        done.then_some(Small(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: the node's files may be open still.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
