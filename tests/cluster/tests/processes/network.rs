//! Connections between data nodes that are cut, late, half closed and silent, with load running.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command},
    thread::sleep,
    time::Duration,
};

use twofold_cluster_tests::{Cluster, Journal, Load, Proxy, binary, eventually, run};

/// Where others look for the first data node, and where it listens.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const BEHIND: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The first data node, which its angel starts again; and the proxy through which alone the others and clients reach it.
struct Proxied {
    angel: Child,
    proxy: Proxy,
}

impl Proxied {
    fn start(cluster: &Cluster) -> Proxied {
        let host = format!("host = \"{ADDRESS}\"");
        cluster.reconfigure(|config| config.replacen("host = \"127.0.0.1\"", &host, 1));
        let view = cluster.status()["view"].as_u64();
        cluster.done(&["kill", "data1", "--host"]);
        let port = cluster.port("data1", "port");
        let proxy = Proxy::start(SocketAddr::from((ADDRESS, port)), SocketAddr::from((BEHIND, port)));
        let log = File::create(cluster.file("data1-proxied.log")).expect("a log can be written");
        let angel = Command::new(binary("twofold-datanode"))
            .args(["--mgm", &cluster.management(), "--id", "11", "--bind", &BEHIND.to_string(), "--dir"])
            .arg(cluster.file("data1"))
            .stderr(log)
            .spawn()
            .expect("the node starts");
        let proxied = Proxied { angel, proxy };
        next_view(cluster, view);
        proxied.wait(cluster);
        proxied
    }

    /// Waits until all serve. The command that starts clusters does not know this node's process.
    fn wait(&self, cluster: &Cluster) {
        eventually(|| {
            let shown = cluster.twofold(&["status"]);
            (!shown.status.success()).then(|| String::from_utf8_lossy(&shown.stdout).into_owned())
        });
    }
}

/// Waits for a view after this one.
fn next_view(cluster: &Cluster, view: Option<u64>) {
    eventually(|| {
        let now = cluster.status()["view"].as_u64();
        (now <= view).then(|| format!("no view after {view:?}"))
    });
}

impl Drop for Proxied {
    fn drop(&mut self) {
        let _ = run(Command::new("kill").arg(self.angel.id().to_string()));
        let _ = self.angel.wait();
    }
}

#[test]
fn connections_that_are_cut_late_and_half_closed_cost_no_write() {
    let cluster = Cluster::start(&[]);
    let proxied = Proxied::start(&cluster);
    let proxy = &proxied.proxy;
    let load = Load { seconds: 10, ..Load::default() };
    let mut journal = Journal::with_load(&cluster, "network", load);
    let view = cluster.status()["view"].clone();
    let mut ended = 0;
    for round in 0..30 {
        ended += if round % 3 == 2 { proxy.half_close() } else { proxy.cut() };
        sleep(Duration::from_millis(50));
    }
    assert!(ended >= 30, "{ended} connections have ended");
    proxy.delay(Duration::from_millis(10));
    let lines = journal.lines();
    journal.wait_for_more(lines);
    proxy.delay(Duration::ZERO);
    // For less than `failure_ms`: nobody is given up.
    for _ in 0..3 {
        proxy.stall(true);
        sleep(Duration::from_millis(150));
        proxy.stall(false);
        let lines = journal.lines();
        journal.wait_for_more(lines);
    }
    assert_eq!(journal.finish(&cluster).failed(), 0);
    assert_eq!(cluster.status()["view"], view, "nobody was given up");
}

#[test]
fn of_two_that_do_not_hear_each_other_one_goes_on() {
    let cluster = Cluster::start(&[]);
    let proxied = Proxied::start(&cluster);
    let proxy = &proxied.proxy;
    let mut journal = Journal::start(&cluster, "silence");
    let view = cluster.status()["view"].as_u64();
    proxy.stall(true);
    next_view(&cluster, view);
    let lines = journal.lines();
    journal.wait_for_more(lines);
    proxy.stall(false);
    let journaled = journal.finish(&cluster);
    proxied.wait(&cluster);
    // What was acknowledged is on either. From now on they need no proxy.
    drop(proxied);
    cluster.done(&["restart", "data1"]);
    cluster.wait();
    for node in ["data1", "data2"] {
        cluster.done(&["kill", node, "--host"]);
        journaled.verify(&cluster);
        cluster.done(&["restart", node]);
        cluster.wait();
    }
}
