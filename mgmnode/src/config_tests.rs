use super::*;

const TWO: &str = "[[data]]\nid = 11\nhost = \"127.0.0.1\"\n[[data]]\nid = 12\nhost = \"127.0.0.1\"\n";

/// Reads `text` and compares what is said about it, without the file's name.
#[track_caller]
fn check(text: &str, expect: &[&str]) {
    let problems = match read("t.toml", text) {
        Ok(config) => panic!("{config:?} was accepted"),
        Err(error) => error.problems,
    };
    let said: Vec<String> =
        problems.iter().map(|problem| format!("{}: {}", problem.line, problem.text)).collect();
    assert_eq!(said, expect);
}

#[test]
fn the_example_is_complete_with_defaults() {
    let text = format!("[cluster]\nname = \"local\"\nreplicas = 2\ndata_memory = \"1GiB\"\n{TWO}");
    let config = read("twofold.toml", &text).unwrap();
    let data = |id, port| DataNodeConfig {
        id: NodeId(id),
        address: Address { host: "127.0.0.1".into(), port },
        workers: 0,
    };
    let expected = ClusterConfig {
        name: "local".into(),
        replicas: 2,
        partitions: 3840,
        data_memory: 1 << 30,
        redo_bytes: 1 << 30,
        flush_ms: 100,
        heartbeat_ms: 50,
        lease_ms: 250,
        failure_ms: 500,
        epoch_ms: 20,
        lock_wait_timeout_ms: 5000,
        idle_transaction_ms: 60_000,
        management_nodes: vec![ManagementNodeConfig {
            id: NodeId(1),
            address: Address { host: "127.0.0.1".into(), port: 1186 },
            web_port: 1188,
        }],
        data_nodes: vec![data(11, 2202), data(12, 2203)],
        memcached: vec![],
        api_nodes: vec![ApiNodeConfig {
            id: NodeId(21),
            host: "127.0.0.1".into(),
            grpc_port: 50051,
            memcached_port: 11211,
            sql_port: 3306,
            metrics_port: 9464,
            threads: 0,
        }],
    };
    assert_eq!(config, expected);
    assert_eq!(read("twofold.toml", TWO).unwrap(), expected);
}

#[test]
fn the_defaults_that_are_explained_are_those_that_are_taken() {
    let section = |name: &str| {
        let of_section = SETTINGS.iter().filter(|setting| setting.section == name);
        of_section.map(|setting| format!("{} = {}\n", setting.key, setting.default)).collect::<String>()
    };
    let (cluster, mgm, api) = (section("cluster"), section("mgm"), section("api"));
    let text = format!("[cluster]\n{cluster}[[mgm]]\n{mgm}[[api]]\n{api}{TWO}");
    assert_eq!(read("t.toml", &text), read("t.toml", TWO));
}

#[test]
fn every_setting_is_taken_from_the_file() {
    let text = r#"
[cluster]
name = "prod.eu-1"
replicas = 1
data_memory = "2 TiB"
redo_bytes = "256MiB"
flush_ms = 9
heartbeat_ms = 100
lease_ms = 300
failure_ms = 1_000
epoch_ms = 0x10
lock_wait_timeout_ms = 1
idle_transaction_ms = 2
[[data]]
id = 2
host = "::1"
port = 7
workers = 3
[[mgm]]
id = 255
host = "m"
port = 8
web_port = 9
[[api]]
id = 3
host = "a"
grpc_port = 1
memcached_port = 2
sql_port = 3
metrics_port = 4
threads = 5
"#;
    let config = read("t.toml", text).unwrap();
    assert_eq!((&*config.name, config.replicas, config.data_memory), ("prod.eu-1", 1, 2 << 40));
    assert_eq!(
        (config.heartbeat_ms, config.lease_ms, config.failure_ms, config.epoch_ms),
        (100, 300, 1000, 16)
    );
    assert_eq!((config.lock_wait_timeout_ms, config.idle_transaction_ms), (1, 2));
    let data = &config.data_nodes[0];
    assert_eq!((data.id, &*data.address.host, data.address.port, data.workers), (NodeId(2), "::1", 7, 3));
    let mgm = &config.management_nodes[0];
    assert_eq!((mgm.id, &*mgm.address.host, mgm.address.port, mgm.web_port), (NodeId(255), "m", 8, 9));
    let api = &config.api_nodes[0];
    assert_eq!((api.id, &*api.host, api.threads), (NodeId(3), "a", 5));
    assert_eq!((api.grpc_port, api.memcached_port, api.sql_port, api.metrics_port), (1, 2, 3, 4));
}

#[test]
fn what_is_written_reads_the_same() {
    let three = (1..=3).map(|id| format!("[[mgm]]\nid = {id}\nhost = \"m{id}\"\n")).collect::<String>();
    let size =
        |size: &str| format!("[cluster]\ndata_memory = \"{size}\"\nepoch_ms = 7\n{three}{TWO}workers = 3\n");
    for text in [TWO.to_string(), size("2TiB"), size("1025GiB"), size("16MiB"), size("20000KiB")] {
        let config = read("t.toml", &text).unwrap();
        let written = write(&config);
        assert_eq!(read("t.toml", &written), Ok(config), "{written}");
        assert_eq!(written.matches('=').count(), 11 + 4 * written.matches("[[mgm]]").count() + 2 * 4 + 7);
    }
    assert_eq!(size_text(3 << 29), "1536MiB");
}

#[test]
fn unknown_names_are_refused_with_the_nearest_known_one() {
    check(
        &format!("[cluster]\nreplicsa = 2\nfoo = 1\n[cluser]\n[other]\n{TWO}prt = 1\n"),
        &[
            "2: unknown key `replicsa` in [cluster]; did you mean `replicas`?",
            "3: unknown key `foo` in [cluster]; [cluster] knows name, replicas, data_memory, redo_bytes, flush_ms, heartbeat_ms, lease_ms, \
             failure_ms, epoch_ms, lock_wait_timeout_ms, idle_transaction_ms",
            "4: unknown section `cluser`; did you mean `cluster`?",
            "5: unknown section `other`; the sections are [cluster], [[mgm]], [[data]], [[api]], [[memcached]]",
            "12: unknown key `prt` in [[data]]; did you mean `port`?",
        ],
    );
    check(&format!("[mgm]\nid = 1\n{TWO}"), &["1: `mgm` may be there many times; write [[mgm]]"]);
    check(&format!("[[cluster]]\n{TWO}"), &["1: `cluster` is one section; write [cluster]"]);
    check("data = [1]\n", &["1: `data` holds sections; write [[data]]"]);
}

#[test]
fn values_of_the_wrong_kind_or_size_are_refused() {
    check(
        &format!(
            "[cluster]\nname = \"a b\"\nreplicas = 5\ndata_memory = \"1GB\"\nheartbeat_ms = -1\nlease_ms = \"250\"\n\
             failure_ms = 1.5\nepoch_ms = 0\nlock_wait_timeout_ms = true\nidle_transaction_ms = 99999999999999999999\n{TWO}"
        ),
        &[
            "2: `name` is \"a b\"; it has to be 1 to 63 letters, digits, '-', '_' or '.'",
            "3: `replicas` is 5; it has to be a number from 1 to 4",
            "4: `data_memory` is \"1GB\"; write a number and one of KiB, MiB, GiB, TiB, as in \"1GiB\"",
            "5: `heartbeat_ms` is -1; it has to be a number from 1 to 10000",
            "6: `lease_ms` is \"250\"; it has to be a number from 3 to 60000",
            "7: `failure_ms` is 1.5; it has to be a number from 3 to 600000",
            "8: `epoch_ms` is 0; it has to be a number from 1 to 10000",
            "9: `lock_wait_timeout_ms` is true; it has to be a number from 1 to 3600000",
            "10: `idle_transaction_ms` is 99999999999999999999; it has to be a number from 1 to 86400000",
        ],
    );
    check(
        &format!("[cluster]\nname = 1\ndata_memory = \"15MiB\"\n{TWO}"),
        &[
            "2: `name` is 1; it has to be text in quotes",
            "3: `data_memory` is \"15MiB\"; the least is \"16MiB\"",
        ],
    );
    check(
        "[[data]]\nid = 0\nhost = \"a:1\"\n[[data]]\nid = 256\n[[data]]\nhost = \"a\"\nport = 65536\nworkers = 65\n",
        &[
            "2: `id` is 0; it has to be a number from 1 to 255",
            "3: `host` is \"a:1\"; it has to be a name or an IP address, without port",
            "4: [[data]] lacks `host`",
            "5: `id` is 256; it has to be a number from 1 to 255",
            "6: [[data]] lacks `id`",
            "8: `port` is 65536; it has to be a number from 1 to 65535",
            "9: `workers` is 65; it has to be a number from 0 to 64",
        ],
    );
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    check("", &["1: there is no data node; add a [[data]] section with id and host"]);
    check(
        &format!("[cluster]\nreplicas = 3\nlease_ms = 149\nfailure_ms = 148\n{TWO}"),
        &[
            "2: 2 data nodes cannot keep 3 replicas each in groups of 3; have 3 data nodes, or other replicas",
            "3: `lease_ms` is 149; it has to be at least 3 times heartbeat_ms = 50: 150 or more",
            "4: `failure_ms` is 148; it has to be at least lease_ms = 149",
        ],
    );
    check(
        &format!("{TWO}[[data]]\nid = 13\nhost = \"a\"\n"),
        &[
            "1: 3 data nodes cannot keep 2 replicas each in groups of 2; have 2 or 4 data nodes, or other replicas",
        ],
    );
    for count in [2, 4] {
        let mgm: String = (1..=count).map(|id| format!("[[mgm]]\nid = {id}\nhost = \"m{id}\"\n")).collect();
        check(
            &format!("{TWO}{mgm}"),
            &[&format!(
                "7: there are {count} management nodes; have 1, 3 or 5, so that one side of a split has the majority"
            )],
        );
    }
    let many: String = (1..=146).map(|id| format!("[[data]]\nid = {id}\nhost = \"h\"\n")).collect();
    check(
        &format!("[[mgm]]\nid = 200\n[[api]]\nid = 201\n{many}"),
        &["5: there are 146 data nodes; the most is 144"],
    );
}

#[test]
fn ids_and_addresses_are_unique() {
    check(
        &format!("{TWO}[[api]]\nid = 12\n[[mgm]]\nid = 11\n"),
        &[
            "1: id 11 is taken by the node at line 9; each node has its own",
            "7: id 12 is taken by the node at line 4; each node has its own",
        ],
    );
    check(
        &format!("{TWO}port = 2202\n[[mgm]]\nid = 1\nhost = \"localhost\"\nport = 11211\n"),
        &[
            "1: `memcached_port` of node 21 and `port` of node 1 are both 127.0.0.1:11211; give one of them another",
            "4: `port` of node 12 and `port` of node 11 are both 127.0.0.1:2202; give one of them another",
        ],
    );
    let three =
        "[[mgm]]\nid = 1\n[[mgm]]\nid = 2\nport = 1286\n[[mgm]]\nid = 3\nport = 1386\nweb_port = 1388\n";
    check(
        &format!("{TWO}{three}"),
        &[
            "9: `web_port` of node 2 and `web_port` of node 1 are both 127.0.0.1:1188; give one of them another",
        ],
    );
}

#[test]
fn prefixes_of_memcacheds_keys_name_tables_and_columns() {
    let text = format!(
        "{TWO}[[memcached]]\nprefix = \"user:\"\ntable = \"users\"\nkey = \"id\"\nvalue = \"name|city\"\n\
         [[memcached]]\nprefix = \"s\\\"\"\ntable = \"sessions\"\nkey = \"key\"\nvalue = \"data\"\nflags = \"f\"\n"
    );
    let config = read("t.toml", &text).unwrap();
    let prefix =
        |prefix: &str, table: &str, key: &str, values: &[&str], flags: Option<&str>| MemcachedPrefix {
            prefix: prefix.into(),
            table: table.into(),
            key: key.into(),
            values: values.iter().map(|&value| value.into()).collect(),
            flags: flags.map(String::from),
        };
    let expected = [
        prefix("user:", "users", "id", &["name", "city"], None),
        prefix("s\"", "sessions", "key", &["data"], Some("f")),
    ];
    assert_eq!(config.memcached, expected);
    assert_eq!(read("t.toml", &write(&config)), Ok(config));
}

#[test]
fn prefixes_that_make_no_sense_are_refused() {
    let section = |prefix: &str, rest: &str| {
        format!("[[memcached]]\nprefix = \"{prefix}\"\ntable = \"t\"\nkey = \"k\"\n{rest}")
    };
    check(
        &format!(
            "{TWO}{}{}",
            section("a:", "value = \"v\"\n"),
            section("a:", "value = \"k\"\nflags = \"\"\n")
        ),
        &[
            "13: `prefix` is \"a:\", as at line 8; each has its own",
            "16: `value` has column `k`, which is there already; name it once",
            "17: `flags` is \"\"; a name has 1 to 255 bytes",
        ],
    );
    check(
        &format!(
            "{TWO}{}{}",
            section("", "value = \"v|\"\n"),
            section("a b", "value = \"v|f\"\nflags = \"f\"\nfoo = 1\n")
        ),
        &[
            "8: `prefix` is \"\"; it has to be 1 to 100 printable ASCII characters, without spaces",
            "11: `value` is \"v|\"; it has to be the names of columns, with | between them, as in \"name|city\"",
            "13: `prefix` is \"a b\"; it has to be 1 to 100 printable ASCII characters, without spaces",
            "16: `value` has column `f`, which is there already; name it once",
            "18: unknown key `foo` in [[memcached]]; [[memcached]] knows prefix, table, key, value, flags",
        ],
    );
    check(
        &format!("{TWO}[[memcached]]\n[memcache]\n"),
        &[
            "7: [[memcached]] lacks `key`",
            "7: [[memcached]] lacks `prefix`",
            "7: [[memcached]] lacks `table`",
            "7: [[memcached]] lacks `value`",
            "8: unknown section `memcache`; did you mean `memcached`?",
        ],
    );
}

#[test]
fn what_is_no_toml_is_refused_with_its_line() {
    check(
        "[cluster]\nname = local\n",
        &["2: this is not TOML: string values must be quoted, expected literal string"],
    );
    check("[cluster]\nname = 'a'\nname = 'b'\n", &["3: this is not TOML: duplicate key"]);
    let error = read("dir/twofold.toml", "").unwrap_err();
    assert_eq!(
        error.to_string(),
        "dir/twofold.toml:1: there is no data node; add a [[data]] section with id and host"
    );
}

#[test]
fn each_setting_has_a_line_of_explanation() {
    let text = explain();
    assert_eq!(text.lines().count(), SETTINGS.len() + 5 + 4);
    for section in ["[cluster]", "[[mgm]]", "[[data]]", "[[api]]", "[[memcached]]"] {
        assert!(text.lines().any(|line| line == section), "{section}");
    }
    assert!(text.contains("\nlease_ms              250           how long an acknowledged heartbeat"));
}

#[test]
fn distances_are_counted_in_edits() {
    for (a, b, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("port", "prt", 1)] {
        assert_eq!(distance(a, b), expected, "{a} {b}");
    }
}
