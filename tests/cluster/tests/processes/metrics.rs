//! Every process says what it counts, in the text format of Prometheus.

use std::io::{Read, Write};

use twofold_cluster_tests::{Cluster, eventually};

const ITEMS: u64 = 100;

/// The sum of a figure over the threads of a process.
pub fn figure(cluster: &Cluster, node: &str, port: &str, name: &str) -> Option<u64> {
    let mut stream = cluster.connect(node, port);
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("# EOF\n"), "{answer}");
    let lines = answer.lines().filter(|line| !line.starts_with('#'));
    let values = lines.filter_map(|line| {
        let (told, value) = line.rsplit_once(' ')?;
        (told.split('{').next() == Some(name)).then(|| value.parse::<u64>().unwrap())
    });
    values.reduce(|sum, value| sum + value)
}

#[test]
fn every_process_tells_what_it_has_done() {
    let cluster = Cluster::start(&[]);
    let mut items = cluster.connect("api1", "memcached_port");
    for number in 0..ITEMS {
        items.write_all(format!("set key{number} 0 0 1\r\nx\r\nget key{number}\r\n").as_bytes()).unwrap();
    }
    items.write_all(b"quit\r\n").unwrap();
    let mut answers = String::new();
    items.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("STORED").count() as u64, ITEMS);
    // Machines tell about once a second. The node has a look at its table, too, and may have to try again.
    const OTHERS: u64 = 9;
    let expected = [
        (["data1", "data2"].as_slice(), "port", "twofold_worker_reads_total", ITEMS..=ITEMS + OTHERS),
        (&["data1", "data2"], "port", "twofold_worker_writes_total", ITEMS..=ITEMS + OTHERS),
        (&["data1"], "port", "twofold_worker_rows", ITEMS..=ITEMS),
        (&["data2"], "port", "twofold_worker_rows", ITEMS..=ITEMS),
        (&["data1", "data2"], "port", "twofold_node_up", 2..=2),
        (&["data1", "data2"], "port", "twofold_node_president", 1..=1),
        (&["mgm1"], "web_port", "twofold_register_members_up", 2..=2),
        (&["mgm1"], "web_port", "twofold_register_tables", 1..=1),
        // Reads that come together are one request.
        (&["api1"], "metrics_port", "twofold_client_answered_total", ITEMS + 1..=2 * ITEMS + OTHERS),
        (&["api1"], "metrics_port", "twofold_memcached_cmd_set_total", ITEMS..=ITEMS),
        (&["api1"], "metrics_port", "twofold_memcached_get_hits_total", ITEMS..=ITEMS),
    ];
    eventually(|| {
        expected.iter().find_map(|(nodes, port, name, values)| {
            let told: Option<u64> = nodes.iter().map(|node| figure(&cluster, node, port, name)).sum();
            let right = told.is_some_and(|told| values.contains(&told));
            (!right).then(|| format!("{name} of {nodes:?}: {told:?}, not {values:?}"))
        })
    });
}
