//! What people are told of a cluster that is not as it should be, and by the commands that change it.

use std::{fs, process::Command, thread};

use twofold_cluster_tests::{Cluster, binary, eventually, run};

use crate::bad_input::{refused, text};

/// Waits until `twofold status` ends with this code and says all of this.
pub fn told(cluster: &Cluster, code: i32, words: &[&str]) -> String {
    let mut last = String::new();
    eventually(|| {
        let output = cluster.twofold(&["status"]);
        last = text(&output);
        let is_so = output.status.code() == Some(code) && words.iter().all(|word| last.contains(word));
        (!is_so).then(|| format!("not {code} with {words:?}, but {:?}: {last}", output.status.code()))
    });
    last
}

#[test]
fn a_system_restart_is_told_for_good() {
    let cluster = Cluster::start(&[]);
    let fine = told(&cluster, 0, &["all serves", "1 table;"]);
    assert!(!fine.contains("restart"), "{fine}");
    cluster.done(&["kill", "data1", "--host"]);
    told(&cluster, 1, &["data1 is down"]);
    cluster.done(&["kill", "data2", "--host"]);
    told(
        &cluster,
        2,
        &["group 0 does not serve: nothing is heard of data2 (12)", "goes on when it can", "what is on disk"],
    );
    let output = cluster.command(&["restart", "data1", "--timeout", "1"]);
    refused(&output, 1, &["after 1 s data1 is starting", "start data2 (12), and the cluster goes on from"]);
    cluster.done(&["restart", "data2"]);
    cluster.wait();
    let words = ["all serves", "restart 2: the cluster went back to epoch 1."];
    told(&cluster, 0, &words);
    // It is in the register.
    cluster.done(&["restart", "mgm1"]);
    told(&cluster, 0, &words);
    assert!(text(&cluster.twofold(&["show"])).contains(words[1]));
    assert!(text(&cluster.command(&["status"])).contains(words[1]));
    let json: serde_json::Value =
        serde_json::from_slice(&cluster.twofold(&["show", "--json"]).stdout).unwrap();
    assert_eq!(json["system_restart"]["restart"], 2, "{json:#}");
    // The management node's log says it once, though it has been started anew since.
    let log = fs::read_to_string(cluster.file("mgm1.log")).unwrap();
    assert_eq!(log.matches("the cluster went back to epoch").count(), 1, "{log}");
    assert!(log.contains("the register was read: view "), "{log}");
}

/// Until the management nodes know that a life has ended they speak of it as `up`.
#[test]
fn a_node_that_is_said_to_be_back_has_the_rows() {
    let cluster = Cluster::start(&[]);
    let done = |arguments: &[&str]| {
        let output = cluster.twofold(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        text(&output)
    };
    done(&["table", "create", "fruit", "name:text:30", "price:int32", "--key", "name"]);
    done(&["set", "fruit", "name=fig", "price=4"]);
    for node in ["data1", "data2", "data1", "data2"] {
        cluster.done(&["kill", node, "--host"]);
        cluster.done(&["restart", node]);
    }
    eventually(|| {
        let output = cluster.twofold(&["get", "fruit", "fig"]);
        assert!(!text(&output).contains("no such row"), "{}", text(&output));
        (!output.status.success()).then(|| text(&output))
    });
    told(&cluster, 0, &["all serves"]);
}

#[test]
fn the_last_that_was_forced_to_stop_is_down_and_waited_for() {
    let cluster = Cluster::start(&[]);
    assert!(cluster.twofold(&["node", "stop", "data2"]).status.success());
    told(&cluster, 1, &["something is missing", "data2 is down"]);
    refused(
        &cluster.twofold(&["node", "stop", "data2"]),
        1,
        &["TF-5007", "data2 (12) does not run; start it first"],
    );
    refused(&cluster.twofold(&["node", "stop", "data1"]), 1, &["TF-5004", "--force"]);
    assert!(cluster.twofold(&["node", "stop", "data1", "--force"]).status.success());
    let down = told(&cluster, 2, &["data1 (11), which was up in it last, has ended", "data1 is down"]);
    assert!(!down.contains("leaving") && !down.contains("silent"), "{down}");
    let log = fs::read_to_string(cluster.file("data1.log")).unwrap();
    assert!(log.contains("an administrator forced it") && !log.contains("TF-5004"), "{log}");
    let output = cluster.command(&["restart", "data2", "--timeout", "4"]);
    refused(&output, 1, &["start data1 (11)", "Until then data2 (12) can only wait"]);
    told(&cluster, 2, &["data2 is starting"]);
    let log = fs::read_to_string(cluster.file("data2.log")).unwrap();
    assert!(log.contains("it is node 11 that has the rows of its group"), "{log}");
    cluster.done(&["restart", "data1"]);
    cluster.wait();
}

#[test]
fn api_nodes_that_do_not_run_count() {
    let cluster = Cluster::start(&["--api-nodes", "2"]);
    told(&cluster, 0, &["all serves"]);
    cluster.done(&["kill", "api2"]);
    told(&cluster, 1, &["something is missing", "api2 is down"]);
    cluster.done(&["kill", "api1"]);
    told(&cluster, 2, &["it does not serve", "api1 is down, api2 is down"]);
}

#[test]
fn a_wrong_address_is_named_with_the_cause_and_what_to_look_at() {
    let cluster = Cluster::start(&[]);
    let address = |name: &str, key: &str| format!("127.0.0.1:{}", cluster.port(name, key));
    let twofold = |arguments: &[&str]| run(Command::new(binary("twofold")).args(arguments));
    let (management, api) = (address("mgm1", "port"), address("api1", "grpc_port"));
    let others = [
        ("127.0.0.1:1".to_string(), "nothing listens there"),
        (address("mgm1", "web_port"), "gRPC"),
        (address("data1", "port"), "gRPC"),
        (address("api1", "memcached_port"), "gRPC"),
        (address("api1", "metrics_port"), "gRPC"),
    ];
    for (wrong, cause) in
        others.iter().map(|(wrong, cause)| (wrong, *cause)).chain([(&api, "is not a management node")])
    {
        let words =
            [&format!("no management node answers at {wrong}: "), cause, "1186", "--mgm or TWOFOLD_MGM"];
        let output = twofold(&["show", "--mgm", wrong]);
        refused(&output, 1, &words);
        assert!(!text(&output).contains("transport error"), "{}", text(&output));
    }
    for (wrong, cause) in
        others.iter().map(|(wrong, cause)| (wrong, *cause)).chain([(&management, "is not an API node")])
    {
        let words = [&format!("no API node answers at {wrong}: "), cause, "50051", "--api or TWOFOLD_API"];
        refused(&twofold(&["get", "--api", wrong, "memcached", "a"]), 1, &words);
    }
    // One that is dead does no harm where there is another.
    let both = format!("127.0.0.1:1,{management}");
    assert!(twofold(&["status", "--mgm", &both]).status.success());
    assert!(twofold(&["table", "list", "--api", &format!("127.0.0.1:1,{api}")]).status.success());
    refused(&twofold(&["get", "--mgm", &management, "memcached", "a"]), 2, &["unexpected argument '--mgm'"]);
    refused(&twofold(&["stop", "data1"]), 2, &["there is no `twofold stop`", "`twofold node stop NODE`"]);
}

#[test]
fn commands_say_what_they_did_and_leave_nothing_where_they_refuse() {
    let cluster = Cluster::prepare();
    let dir = cluster.file("new");
    let place = dir.display().to_string();
    let output =
        run(Command::new(binary("twofold")).args(["cluster", "--dir", &place, "start", "--data-nodes", "3"]));
    refused(&output, 1, &["3 data nodes cannot keep 2 replicas", "--data-nodes"]);
    assert!(!text(&output).contains("twofold.toml") && !dir.exists(), "{}", text(&output));
    let output = cluster.try_start(&["--mgm-nodes", "3"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let line =
        said.lines().find(|line| line.starts_with("export TWOFOLD_MGM=")).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(
        line.split_once(" TWOFOLD_API=").unwrap().0,
        format!("export TWOFOLD_MGM={}", cluster.management())
    );
    let script = format!("{line}; {} show", binary("twofold").display());
    let shown = text(&run(Command::new("sh").arg("-c").arg(script)));
    // The two ways to look agree on who leads.
    let leader = cluster.status()["leader"].as_u64().unwrap();
    assert_eq!(cluster.node(&format!("mgm{leader}"))["state"], "leader");
    assert!(
        shown.lines().any(|line| line.starts_with(&format!("mgm{leader} ")) && line.contains("leader")),
        "{shown}"
    );
    // Two at the same time wait for each other.
    thread::scope(|scope| {
        for node in ["data1", "mgm1"] {
            let cluster = &cluster;
            scope.spawn(move || {
                let said = text(&cluster.command(&["kill", node]));
                assert!(said.starts_with(&format!("{node} has been killed; ")), "{said}");
            });
        }
    });
    let said = |arguments: &[&str]| text(&cluster.command(arguments));
    assert_eq!(said(&["restart", "mgm1"]), "mgm1 has been started anew and serves\n");
    cluster.wait();
    assert_eq!(said(&["pause", "api1"]), "api1 is paused; `cluster resume api1` lets it go on\n");
    assert_eq!(said(&["resume", "api1"]), "api1 goes on\n");
    assert!(said(&["stop"]).starts_with("stopped 6 nodes\n"));
    assert!(said(&["wipe"]).starts_with("the cluster in "));
}
