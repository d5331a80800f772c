//! The benchmark's load from several processes.

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
