//! The benchmark's load from several processes, and more of it than an API node can bear.

use std::{fs, process::Command};

use serde_json::Value;
use twofold_cluster_tests::{Cluster, binary, run};

const ROWS: u64 = 5000;

#[test]
fn processes_share_the_load() {
    let cluster = Cluster::start(&[]);
    let file = cluster.file("lookup.json");
    let output = run(Command::new(binary("twofold-bench"))
        .args(["lookup", "--mgm", &cluster.management(), "--rows", &ROWS.to_string()])
        .args(["--threads", "3", "--processes", "2", "--definers", "6", "--in-flight", "60"])
        .args(["--warm-up", "0.1", "--measure", "0.3", "--cool-down", "0.1", "--json"])
        .arg(&file));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let phases = report["results"].as_array().unwrap();
    assert_eq!(phases.len(), 4, "{report}");
    for phase in phases {
        let (name, operations) = (phase["phase"].as_str().unwrap(), phase["operations"].as_u64().unwrap());
        // A row that two processes had, or none, would be there already, or not there.
        match name {
            "insert" | "delete" => assert_eq!(operations, ROWS, "{phase}"),
            _ => assert!(operations > 0, "{phase}"),
        }
        assert_eq!(phase["failed"].as_object().map(|failed| failed.len()), Some(0), "{phase}");
    }
    let one_too_many = ["lookup", "--mgm", &cluster.management(), "--threads", "1", "--processes", "2"];
    let output = run(Command::new(binary("twofold-bench")).args(one_too_many));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--processes"), "{output:?}");
    assert!(!output.status.success());
}

/// What is done of three times the peak, by the peak: hardly anything is asked of it, as what the load takes of the machine is lost
/// to the servers. How much has to be done is tested with a cluster of known capacity.
const GOODPUT_MIN: &str = "0.05";
/// What the API node's process may take then.
const RESIDENT_MAX: u64 = 600 << 20;

#[test]
fn more_than_an_api_node_can_bear_does_not_break_it() {
    let cluster = Cluster::start(&[]);
    for (door, port) in [("memcached", "memcached_port"), ("grpc", "grpc_port")] {
        let (file, server) =
            (cluster.file("overload.json"), format!("127.0.0.1:{}", cluster.port("api1", port)));
        let output = run(Command::new(binary("twofold-bench"))
            .args(["overload", door, "--server", &server, "--least", GOODPUT_MIN, "--connections", "50"])
            .args(["--operations", "20", "--warm-up", "0.5", "--measure", "1.5", "--json"])
            .arg(&file));
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        for round in report["runs"].as_array().unwrap() {
            let overload = &round["overload"];
            assert!(overload["resident_bytes"].as_u64().unwrap() < RESIDENT_MAX, "{report}");
            let why = overload["refusal"].as_str().unwrap_or("TF-3003");
            assert!(why.contains("TF-3003"), "{report}");
        }
        // It serves on as before, and at once.
        let calm = run(Command::new(binary("twofold-bench"))
            .args(["overload", door, "--server", &server, "--factor", "0", "--least", "0"])
            .args(["--connections", "2", "--operations", "1", "--warm-up", "0.1", "--measure", "0.5"])
            .arg("--json")
            .arg(&file));
        assert!(calm.status.success(), "{calm:?}");
        let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let peak = &report["runs"][0]["peak"];
        assert_eq!(peak["refused_per_second"].as_f64(), Some(0.0), "{report}");
        assert!(peak["latency_us"]["p50"].as_f64().unwrap() < 100_000.0, "{report}");
    }
}
