//! Many connections.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use twofold_cluster_tests::{Cluster, PATIENCE};
use twofold_runtime::descriptors;

/// As many as an API node takes.
const CONNECTIONS: usize = 10_000;
/// What its process may take with all of them, in KiB.
const RESIDENT_KIB_MAX: u64 = 200 << 10;
/// Items that each connection sets and gets, in one go.
const BURST: usize = 20;

fn resident_kib(pid: u64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn hear(stream: &mut TcpStream, end: &str) {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        let mut piece = [0; 4096];
        let bytes = stream.read(&mut piece).unwrap();
        assert!(bytes > 0, "closed after {:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&piece[..bytes]);
    }
}

#[test]
fn ten_thousand_connections_that_have_been_busy_take_little_when_they_are_idle() {
    descriptors::allow(CONNECTIONS as u64 + 1000).unwrap();
    let cluster = Cluster::start(&[]);
    let (pid, port) = (cluster.pid("api1").unwrap(), cluster.port("api1", "memcached_port"));
    let value = "x".repeat(100);
    let mut connections: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|number| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
            let item = |place: usize| {
                let key = number % 100 * BURST + place;
                format!("set key{key} 0 0 100\r\n{value}\r\nget key{key}\r\n")
            };
            let said: String = (0..BURST).map(item).collect();
            stream.write_all(said.as_bytes()).unwrap();
            stream.write_all(b"mn\r\n").unwrap();
            hear(&mut stream, "MN\r\n");
            stream
        })
        .collect();
    let resident = resident_kib(pid);
    assert!(resident < RESIDENT_KIB_MAX, "{resident} KiB with {CONNECTIONS} connections");
    for stream in connections.iter_mut().step_by(1000) {
        stream.write_all(b"get key0\r\n").unwrap();
        hear(stream, "\r\nEND\r\n");
    }
}
