//! What is wrong gets an error that names it; nothing ends, and no other client notices.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Command, Output},
};

use twofold_cluster_tests::{Cluster, Neighbour, PATIENCE, binary, eventually, run};
use twofold_ports::ReservedPort;
use twofold_proto::{
    ids::{Endpoint, Incarnation, NodeId, WorkerId},
    limits::FRAME_BYTES_MAX,
    link::{HANDSHAKE_BYTES_MAX, Hello, HelloReply, MAGIC, PROTOCOL_VERSION},
};

/// A process that would fail again in the same way (`twofold_runtime::EXIT_DO_NOT_RESTART`).
const WRONG_SETTING: i32 = 78;
/// A data node that finds its port taken (`twofold_runtime::EXIT_PORT_TAKEN`).
const PORT_TAKEN: i32 = 69;

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
pub fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "«{word}» is missing: {said}");
    }
}

/// Runs a node until it ends by itself.
fn node(program: &str, dir: &Path, arguments: &[&str]) -> Output {
    run(Command::new("timeout")
        .arg(PATIENCE.as_secs().to_string())
        .arg(binary(program))
        .arg("--dir")
        .arg(dir)
        .args(arguments))
}

#[test]
fn ports_in_use_are_named_with_the_one_who_has_them() {
    let cluster = Cluster::prepare();
    // Found by starting once: the offset is the harness's.
    assert!(cluster.try_start(&[]).status.success());
    let port = cluster.port("data2", "port");
    cluster.done(&["stop"]);
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let own = std::process::id().to_string();
    let in_use = format!("127.0.0.1:{port} (port of data2) is in use by process {own} ");
    refused(&cluster.try_start(&[]), 1, &[&in_use, "--offset"]);
    assert_eq!(cluster.command(&["status"]).status.code(), Some(4), "nothing has been left running");
    drop(listener);
    assert!(cluster.try_start(&[]).status.success());
    // It runs already, and a second one of the same ports does not start.
    refused(&cluster.try_start(&[]), 1, &["it runs already: api1, data1, data2, mgm1"]);
}

#[test]
fn commands_for_nodes_that_are_not_there() {
    let cluster = Cluster::prepare();
    refused(&cluster.command(&["stop"]), 1, &["there is no cluster in", "cluster start"]);
    assert_eq!(cluster.command(&["status"]).status.code(), Some(4));
    refused(&cluster.try_start(&["--data-nodes", "3"]), 1, &["3 data nodes cannot keep 2 replicas"]);
    refused(&cluster.try_start(&["--mgm-nodes", "2"]), 1, &["2 management nodes"]);
    refused(&cluster.try_start(&["--mgm-nodes", "60000"]), 2, &["--mgm-nodes", "60000", "1..=5"]);
    assert!(cluster.try_start(&["--data-nodes", "1", "--replicas", "1"]).status.success());
    refused(&cluster.command(&["kill", "data2"]), 1, &["there is no node «data2»", "data1"]);
    refused(&cluster.command(&["resume", "data1"]), 1, &["data1 is not paused"]);
    refused(&cluster.command(&["wipe"]), 1, &["data1", "still run"]);
    refused(&cluster.command(&["restart", "mgm1", "--initial"]), 1, &["mgm1 is no data node"]);
    refused(&cluster.command(&["restart", "data1"]), 1, &["data1 is the last of its group"]);
    cluster.done(&["kill", "api1"]);
    refused(&cluster.command(&["kill", "api1"]), 1, &["api1 does not run"]);
    assert_eq!(cluster.command(&["status"]).status.code(), Some(3));
    cluster.done(&["restart", "api1"]);
    cluster.wait();
    cluster.done(&["stop"]);
    refused(&cluster.try_start(&["--replicas", "2"]), 1, &["--replicas 2, but it has 1", "wipe"]);
    cluster.done(&["wipe"]);
    assert_eq!(fs::read_dir(cluster.dir()).map_or(0, Iterator::count), 0);
}

#[test]
fn directories_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    // Below a file there is no directory, whoever asks.
    let below = file.join("dir");
    let named = below.display().to_string();
    let config = folder.path().join("twofold.toml");
    let port = ReservedPort::new();
    let nodes = format!("[[mgm]]\nid = 1\nhost = \"127.0.0.1\"\nport = {}\n", port.number())
        + "[[data]]\nid = 11\nhost = \"127.0.0.1\"\n[[data]]\nid = 12\nhost = \"127.0.0.1\"\n";
    fs::write(&config, nodes).unwrap();
    let output = node("twofold-mgmnode", &below, &["--config", &config.display().to_string()]);
    assert!(!output.status.success() && text(&output).contains(&named), "{}", text(&output));
    let output = node("twofold-datanode", &below, &["--mgm", "127.0.0.1:1", "--id", "11"]);
    assert!(!output.status.success() && text(&output).contains(&named), "{}", text(&output));
    let output = run(Command::new(binary("twofold")).args(["cluster", "--dir", &named, "start"]));
    refused(&output, 1, &[&named]);
}

#[test]
fn configs_with_faults() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("twofold.toml");
    let faults = "[cluster]\nreplicas = 9\nlaese_ms = 3\n\n[[data]]\nid = 11\nhost = \"127.0.0.1\"\n\n[[data]]\nid = 11\nhost = \"a b\"\n";
    fs::write(&config, faults).unwrap();
    let name = config.display().to_string();
    let words = [
        format!("{name}:2: `replicas` is 9; it has to be a number from 1 to 4"),
        format!("{name}:3: unknown key `laese_ms` in [cluster]; did you mean `lease_ms`?"),
        format!("{name}:9: id 11 is taken by the node at line 5"),
        format!("{name}:11: `host` is \"a b\""),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    refused(
        &node("twofold-mgmnode", &folder.path().join("mgm1"), &["--config", &name]),
        WRONG_SETTING,
        &words,
    );
    refused(&run(Command::new(binary("twofold")).args(["config", "check", &name])), 1, &words);
    let output = node("twofold-mgmnode", &folder.path().join("mgm1"), &["--config", "/nowhere/twofold.toml"]);
    refused(&output, WRONG_SETTING, &["/nowhere/twofold.toml"]);
}

#[test]
fn strangers_and_doubles_are_refused() {
    let cluster = Cluster::start(&[]);
    let management = cluster.management();
    let pids = pids(&cluster);
    let neighbour = Neighbour::start(&cluster);
    let folder = tempfile::tempdir().unwrap();
    let dir = |name: &str| folder.path().join(name);
    // The port is the first one's.
    let port = cluster.port("data1", "port");
    let output = node("twofold-datanode", &dir("a"), &["--mgm", &management, "--id", "11"]);
    refused(&output, PORT_TAKEN, &[&format!("127.0.0.1:{port}"), "in use"]);
    // From another address it could listen: the cluster has a node of that id already.
    let other = ["--mgm", &management, "--id", "11", "--bind", "127.0.0.2"];
    let output = node("twofold-datanode", &dir("b"), &other);
    refused(&output, WRONG_SETTING, &["TF-5002", "11"]);
    // The first one's directory is locked.
    let output = node("twofold-datanode", &cluster.file("data1"), &other);
    assert!(!output.status.success() && text(&output).contains("data1"), "{}", text(&output));
    let output = node("twofold-datanode", &dir("c"), &["--mgm", &management, "--id", "77"]);
    refused(&output, WRONG_SETTING, &["node 77 is no data node of cluster «local»", "11, 12"]);
    // The other kinds of nodes.
    let api = |id: &str| {
        let program = binary("twofold-apinode");
        let patience = PATIENCE.as_secs().to_string();
        run(Command::new("timeout").arg(patience).arg(program).args(["--mgm", &management, "--id", id]))
    };
    let port = cluster.port("api1", "metrics_port");
    refused(&api("21"), WRONG_SETTING, &[&format!("127.0.0.1:{port}"), "in use"]);
    refused(&api("77"), WRONG_SETTING, &["node 77 is no API node of cluster «local»", "21"]);
    let config = cluster.file("twofold.toml").display().to_string();
    let port = cluster.port("mgm1", "port");
    let output = node("twofold-mgmnode", &dir("d"), &["--config", &config, "--id", "1"]);
    refused(&output, WRONG_SETTING, &[&format!("127.0.0.1:{port}"), "in use"]);
    let output = node("twofold-mgmnode", &dir("d"), &["--config", &config, "--id", "77"]);
    refused(&output, WRONG_SETTING, &["has no [[mgm]] with id = 77; it has 1"]);
    // Another cluster's nodes, benchmark and threads that are not there.
    let bench = ["lookup", "--mgm", &management, "--cluster", "other", "--rows", "1"];
    let output = run(Command::new(binary("twofold-bench")).args(bench));
    assert!(!output.status.success() && text(&output).contains("other"), "{}", text(&output));
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: "other".into(),
        from: Endpoint::new(NodeId(12), WorkerId(0)),
        incarnation: Incarnation(7),
        to: Endpoint::new(NodeId(11), WorkerId(0)),
        to_incarnation: Incarnation(0),
        received: 0,
    };
    let reason = refusal(&cluster, &hello);
    assert!(reason.contains("other") && reason.contains("local"), "{reason}");
    let reason = refusal(&cluster, &Hello { cluster: "local".into(), version: 999, ..hello.clone() });
    assert!(reason.contains("999"), "{reason}");
    let nobody = Endpoint::new(NodeId(11), WorkerId(60));
    let reason = refusal(&cluster, &Hello { cluster: "local".into(), to: nobody, ..hello });
    assert!(reason.contains("60"), "{reason}");
    assert_eq!(pids, self::pids(&cluster));
    neighbour.has_noticed_nothing();
    cluster.wait();
}

/// What data1 says to this hello.
fn refusal(cluster: &Cluster, hello: &Hello) -> String {
    let mut stream = cluster.connect("data1", "port");
    stream.write_all(&MAGIC).unwrap();
    stream.write_all(&hello.encode()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    match HelloReply::decode(&answer[4..]).unwrap() {
        HelloReply::Refused { reason, .. } => reason,
        accepted => panic!("{hello:?}: {accepted:?}"),
    }
}

#[test]
fn the_last_of_a_group_does_not_stop() {
    let cluster = Cluster::start(&[]);
    let former = cluster.pid("data1");
    cluster.done(&["kill", "data2", "--host"]);
    assert!(cluster.twofold(&["set", "memcached", "key=a", "value=kept"]).status.success());
    refused(&cluster.twofold(&["node", "stop", "data1"]), 1, &["TF-5004", "data1"]);
    refused(&cluster.command(&["restart", "data1"]), 1, &["data1 is the last of its group"]);
    assert_eq!(cluster.pid("data1"), former);
    assert!(text(&cluster.twofold(&["get", "memcached", "a"])).contains("value=kept"));
    cluster.done(&["restart", "data2"]);
    cluster.wait();
    // Now there is one that has its rows.
    cluster.done(&["restart", "data1"]);
    cluster.wait();
    assert!(text(&cluster.twofold(&["get", "memcached", "a"])).contains("value=kept"));
}

fn pids(cluster: &Cluster) -> Vec<Option<u64>> {
    ["mgm1", "data1", "data2", "api1"].map(|name| cluster.pid(name)).to_vec()
}

/// All that the other side says until it hangs up, or a part of it.
fn answer(stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = stream.take(1 << 20).read_to_end(&mut bytes) {
        // A connection that is reset has been hung up too.
        assert_ne!(error.kind(), ErrorKind::WouldBlock, "it has not hung up in {PATIENCE:?}");
    }
    bytes
}

/// Bytes that are no request of any protocol here.
fn nonsense() -> Vec<Vec<u8>> {
    let framed = |length: u32, body: &[u8]| [&MAGIC[..], &length.to_le_bytes(), body].concat();
    vec![
        b"\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0; 1000],
        (0..10_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
        MAGIC[..5].to_vec(),
        MAGIC.to_vec(),
        framed(u32::MAX, b""),
        framed(HANDSHAKE_BYTES_MAX as u32 + 1, &[1; 100]),
        framed(8, b"nonsense"),
        framed(1000, b"half of it"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        // An HTTP/2 frame of the largest length that there is.
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0xff; 100]].concat(),
    ]
}

#[test]
fn nonsense_at_every_port_disturbs_nobody() {
    let cluster = Cluster::start(&[]);
    let pids = pids(&cluster);
    let neighbour = Neighbour::start(&cluster);
    let nodes = ["mgm1", "data1", "data2", "api1"];
    let former = nodes.map(|name| cluster.descriptors(name));
    let ports = [
        ("mgm1", "port"),
        ("mgm1", "web_port"),
        ("data1", "port"),
        ("data2", "port"),
        ("api1", "grpc_port"),
        ("api1", "memcached_port"),
        ("api1", "metrics_port"),
    ];
    for (name, key) in ports {
        for bytes in nonsense() {
            // Hung up after half of a request.
            let mut stream = cluster.connect(name, key);
            let _ = stream.write_all(&bytes);
            drop(stream);
            // Or waited for: the other side answers or hangs up, and does not wait for ever.
            let mut stream = cluster.connect(name, key);
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            answer(stream);
        }
    }
    // Half of a handshake, and then nothing: not waited for.
    for (name, bytes) in [("mgm1", &MAGIC[..5]), ("data1", &MAGIC[..5]), ("data1", &MAGIC[..])] {
        let mut stream = cluster.connect(name, "port");
        stream.write_all(bytes).unwrap();
        answer(stream);
    }
    // As a client that is let in and then talks nonsense: an oversized frame, and one that means nothing.
    for bytes in [vec![0xff; 100], (FRAME_BYTES_MAX as u32 + 1).to_le_bytes().repeat(20), vec![0; 4096]] {
        let mut stream = cluster.connect("data1", "port");
        let hello = Hello {
            version: PROTOCOL_VERSION,
            cluster: "local".into(),
            from: Endpoint::new(NodeId(0), WorkerId(9)),
            incarnation: Incarnation(99),
            to: Endpoint::new(NodeId(11), WorkerId(0)),
            to_incarnation: Incarnation(0),
            received: 0,
        };
        stream.write_all(&MAGIC).unwrap();
        stream.write_all(&hello.encode()).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; u32::from_le_bytes(length) as usize];
        stream.read_exact(&mut reply).unwrap();
        assert!(matches!(HelloReply::decode(&reply), Ok(HelloReply::Accepted { .. })));
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        answer(stream);
    }
    assert_eq!(pids, self::pids(&cluster), "a node has ended");
    neighbour.has_noticed_nothing();
    // Each kind of nonsense came more often than that.
    let spare = 5;
    for (name, former) in nodes.into_iter().zip(former) {
        eventually(|| {
            let now = cluster.descriptors(name);
            (now > former + spare)
                .then(|| format!("{name} has {now} descriptors open, before it had {former}"))
        });
    }
    cluster.wait();
}

#[test]
fn memcached_requests_that_are_wrong() {
    let cluster = Cluster::start(&[]);
    let pids = pids(&cluster);
    let neighbour = Neighbour::start(&cluster);
    let ask = |request: &[u8]| {
        let mut stream = cluster.connect("api1", "memcached_port");
        let _ = stream.write_all(request);
        let _ = stream.shutdown(Shutdown::Write);
        String::from_utf8_lossy(&answer(stream)).into_owned()
    };
    let long_key = "k".repeat(251);
    assert_eq!(ask(b"bogus\r\n"), "ERROR\r\n");
    assert_eq!(ask(b"get\r\n"), "ERROR\r\n");
    assert_eq!(ask(format!("get {long_key}\r\n").as_bytes()), "CLIENT_ERROR bad command line format\r\n");
    assert_eq!(ask(b"set a 0 0 x\r\n"), "CLIENT_ERROR bad command line format\r\n");
    assert_eq!(ask(b"set a 0 0 -1\r\n"), "CLIENT_ERROR bad command line format\r\n");
    let bad_chunk = ask(b"set a 0 0 1\r\nxyz\r\nversion\r\n");
    assert!(bad_chunk.starts_with("CLIENT_ERROR bad data chunk\r\n"), "{bad_chunk}");
    let mut too_large = format!("set a 0 0 {}\r\n", (1 << 20) + 1).into_bytes();
    too_large.extend(vec![b'x'; (1 << 20) + 1]);
    too_large.extend(b"\r\nget a\r\n");
    assert_eq!(ask(&too_large), "SERVER_ERROR object too large for cache\r\nEND\r\n");
    // A length that nobody will send, a line without an end, half of a value.
    ask(b"set a 0 0 2147483647\r\nx");
    ask(&vec![b'g'; 1 << 20]);
    assert_eq!(ask(b"set half 0 0 10\r\nhalf"), "");
    assert_eq!(ask(b"get half a\r\n"), "END\r\n");
    neighbour.has_noticed_nothing();
    assert_eq!(pids, self::pids(&cluster), "a node has ended");
    cluster.wait();
}
