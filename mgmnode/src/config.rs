//! Reading `twofold.toml`: one file for the whole cluster, complete with defaults, every fault with its line.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use twofold_proto::{
    config::{Address, ApiNodeConfig, ClusterConfig, DataNodeConfig, ManagementNodeConfig, MemcachedPrefix},
    ids::NodeId,
    limits::{DATA_NODES_MAX, PARTITIONS, REPLICAS_MAX, WORKERS_MAX},
    schema::NAME_BYTES_MAX,
};

/// The largest id of a listed node.
pub const NODE_ID_MAX: u16 = 255;
/// The least that a data node can work with, in bytes.
const DATA_MEMORY_MIN: u64 = 16 << 20;
/// Least [`ClusterConfig::redo_bytes`]: some segments, and room for checkpoints to keep pace.
const REDO_MIN: u64 = 256 << 20;
const LOOPBACK: &str = "127.0.0.1";

/// What `twofold.toml` can say: one key of one section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The section: `cluster`, `mgm`, `data`, `api` or `memcached`.
    pub section: &'static str,
    /// The key.
    pub key: &'static str,
    /// The default as it would be written; empty where there is none.
    pub default: &'static str,
    /// What it means and what it may be.
    pub meaning: &'static str,
}

macro_rules! settings {
    ($($section:literal: $key:literal = $default:literal, $meaning:literal;)*) => {
        /// All settings, in the order in which they are explained.
        pub const SETTINGS: &[Setting] =
            &[$(Setting { section: $section, key: $key, default: $default, meaning: $meaning }),*];
    };
}

settings! {
    "cluster": "name" = "\"local\"", "name of the cluster, 1 to 63 letters, digits, '-', '_', '.'; nodes of another are refused";
    "cluster": "replicas" = "2", "copies of each row, 1 to 4; the number of data nodes is a multiple of it";
    "cluster": "data_memory" = "\"1GiB\"", "memory for rows and indexes of each data node, 16MiB or more";
    "cluster": "redo_bytes" = "\"1GiB\"", "redo log of each data node, 256MiB or more; when it is full writes are refused";
    "cluster": "flush_ms" = "100", "within what time commits are on disk, 1 to 1000";
    "cluster": "heartbeat_ms" = "50", "how often data nodes tell each other and the management nodes that they live, 1 to 10000";
    "cluster": "lease_ms" = "250", "how long an acknowledged heartbeat lets a node serve, at least 3 heartbeats, to 60000";
    "cluster": "failure_ms" = "500", "after how much silence a node is given up, at least the lease, to 600000";
    "cluster": "epoch_ms" = "20", "how often an epoch ends, 1 to 10000";
    "cluster": "lock_wait_timeout_ms" = "5000", "how long an operation waits for a lock, 1 to 3600000";
    "cluster": "idle_transaction_ms" = "60000", "after how much idleness a transaction is rolled back, 1 to 86400000";
    "mgm": "id" = "1", "id of the management node, 1 to 255; without any [[mgm]] section there is node 1";
    "mgm": "host" = "\"127.0.0.1\"", "name or address that the others reach it at";
    "mgm": "port" = "1186", "port for nodes, the command line and gRPC";
    "mgm": "web_port" = "1188", "port of the Prometheus metrics; the web console, which is not there yet, is to have it too";
    "data": "id" = "", "id of the data node, 1 to 255; groups are taken in the order of ids";
    "data": "host" = "", "name or address that the others reach it at";
    "data": "port" = "2202 + place", "its port; the place counts the data nodes by id, from 0";
    "data": "workers" = "0", "its worker threads, to 64; 0: one for each core";
    "api": "id" = "21", "id of the API node, 1 to 255; without any [[api]] section there is node 21";
    "api": "host" = "\"127.0.0.1\"", "address that its frontends listen on";
    "api": "grpc_port" = "50051", "port of gRPC";
    "api": "memcached_port" = "11211", "port of the memcached protocol";
    "api": "sql_port" = "3306", "port of SQL, by the MySQL protocol";
    "api": "metrics_port" = "9464", "port of the Prometheus metrics";
    "api": "threads" = "0", "its threads, to 64; 0: one for each core";
    "memcached": "prefix" = "", "memcached keys that begin with this, 1 to 100 printable characters, live in another table";
    "memcached": "table" = "", "that table; it is looked for when such a key is used";
    "memcached": "key" = "", "its primary key, one column: takes what follows the prefix";
    "memcached": "value" = "", "the column of the value; or several with | between them, as between their values";
    "memcached": "flags" = "\"\"", "the column of the flags; none: they have to be 0";
}

/// A line of text for each setting, grouped by section.
pub fn explain() -> String {
    let mut text = String::new();
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            section = setting.section;
            text += &match section {
                "cluster" => format!("{gap}[cluster]\n"),
                _ => format!("{gap}[[{section}]]\n"),
            };
        }
        let default = if setting.default.is_empty() { "no default" } else { setting.default };
        text += &format!("{:<21} {:<13} {}\n", setting.key, default, setting.meaning);
    }
    text
}

/// One fault.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub text: String,
}

/// Why a config is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// What is wrong with it, by line; never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{}: {}", self.file, problem.line, problem.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Reads a config. `file` is its name for error texts.
///
/// # Errors
/// All faults that can be told from each other; those between settings only once each setting for itself is right.
pub fn read(file: &str, text: &str) -> Result<ClusterConfig, ConfigError> {
    let parsed = DeTable::parse(text);
    let mut reader = Reader { text, problems: Vec::new() };
    let config = match &parsed {
        Ok(table) => reader.config(table.get_ref()),
        Err(error) => {
            let line = error.span().map_or(1, |span| reader.line_at(span.start));
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            reader.fault(line, format!("this is not TOML: {message}"));
            None
        }
    };
    reader.problems.sort();
    match config {
        Some(config) if reader.problems.is_empty() => Ok(config),
        _ => Err(ConfigError { file: file.into(), problems: reader.problems }),
    }
}

/// The config as a file that says everything. [`read`] gives the same config again.
pub fn write(config: &ClusterConfig) -> String {
    let mut text = String::new();
    let mut section = |head: &str, settings: &[(&str, String)]| {
        let gap = if text.is_empty() { "" } else { "\n" };
        text += &format!("{gap}{head}\n");
        for (key, value) in settings {
            text += &format!("{key} = {value}\n");
        }
    };
    // Names and hosts are of characters that need no escape.
    let quoted = |text: &str| format!("\"{text}\"");
    section(
        "[cluster]",
        &[
            ("name", quoted(&config.name)),
            ("replicas", config.replicas.to_string()),
            ("data_memory", quoted(&size_text(config.data_memory))),
            ("redo_bytes", quoted(&size_text(config.redo_bytes))),
            ("flush_ms", config.flush_ms.to_string()),
            ("heartbeat_ms", config.heartbeat_ms.to_string()),
            ("lease_ms", config.lease_ms.to_string()),
            ("failure_ms", config.failure_ms.to_string()),
            ("epoch_ms", config.epoch_ms.to_string()),
            ("lock_wait_timeout_ms", config.lock_wait_timeout_ms.to_string()),
            ("idle_transaction_ms", config.idle_transaction_ms.to_string()),
        ],
    );
    for node in &config.management_nodes {
        let settings = [
            ("id", node.id.to_string()),
            ("host", quoted(&node.address.host)),
            ("port", node.address.port.to_string()),
            ("web_port", node.web_port.to_string()),
        ];
        section("[[mgm]]", &settings);
    }
    for node in &config.data_nodes {
        let settings = [
            ("id", node.id.to_string()),
            ("host", quoted(&node.address.host)),
            ("port", node.address.port.to_string()),
            ("workers", node.workers.to_string()),
        ];
        section("[[data]]", &settings);
    }
    for node in &config.api_nodes {
        let settings = [
            ("id", node.id.to_string()),
            ("host", quoted(&node.host)),
            ("grpc_port", node.grpc_port.to_string()),
            ("memcached_port", node.memcached_port.to_string()),
            ("sql_port", node.sql_port.to_string()),
            ("metrics_port", node.metrics_port.to_string()),
            ("threads", node.threads.to_string()),
        ];
        section("[[api]]", &settings);
    }
    for mapping in &config.memcached {
        let quoted = |text: &str| format!("{text:?}");
        let mut settings = vec![
            ("prefix", quoted(&mapping.prefix)),
            ("table", quoted(&mapping.table)),
            ("key", quoted(&mapping.key)),
            ("value", quoted(&mapping.values.join("|"))),
        ];
        settings.extend(mapping.flags.as_deref().map(|flags| ("flags", quoted(flags))));
        section("[[memcached]]", &settings);
    }
    text
}

/// A size in the largest unit that tells it exactly; [`read`] takes whole KiB only.
fn size_text(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB")];
    let exact = units.into_iter().find(|(shift, _)| bytes.is_multiple_of(1 << shift));
    let (shift, unit) = exact.unwrap_or((10, "KiB"));
    format!("{}{unit}", bytes >> shift)
}

/// A table of the file that holds settings; without one, all are defaults.
#[derive(Clone, Copy)]
struct Section<'a> {
    kind: &'static str,
    line: usize,
    table: Option<&'a DeTable<'a>>,
}

impl fmt::Display for Section<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == "cluster" { f.write_str("[cluster]") } else { write!(f, "[[{}]]", self.kind) }
    }
}

/// Where each setting stands, for faults that are found later.
#[derive(Default)]
struct Lines {
    cluster: BTreeMap<&'static str, usize>,
    nodes: BTreeMap<NodeId, usize>,
    data: usize,
    mgm: usize,
}

struct Reader<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn line_at(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
    }

    fn fault(&mut self, line: usize, text: String) {
        self.problems.push(Problem { line, text });
    }

    fn config(&mut self, root: &'a DeTable<'a>) -> Option<ClusterConfig> {
        const KINDS: [&str; 5] = ["cluster", "mgm", "data", "api", "memcached"];
        for (name, _) in root {
            if !KINDS.contains(&&**name.get_ref()) {
                let line = self.line_at(name.span().start);
                let wanted = suggestion(
                    name.get_ref(),
                    KINDS.into_iter(),
                    "the sections are [cluster], [[mgm]], [[data]], [[api]], [[memcached]]",
                );
                self.fault(line, format!("unknown section `{}`; {wanted}", name.get_ref()));
            }
        }
        let cluster = self.cluster_section(root);
        let (mgm, data, api) =
            (self.sections(root, "mgm"), self.sections(root, "data"), self.sections(root, "api"));
        let prefixes = self.sections(root, "memcached");
        let mut lines = Lines {
            mgm: mgm.first().map_or(1, |section| section.line),
            data: data.first().map_or(1, |section| section.line),
            ..Lines::default()
        };
        if let Some(table) = cluster.table {
            for setting in SETTINGS.iter().filter(|setting| setting.section == "cluster") {
                let line = table.get_key_value(setting.key).map(|(key, _)| self.line_at(key.span().start));
                lines.cluster.insert(setting.key, line.unwrap_or(cluster.line));
            }
        }
        if data.is_empty() && self.problems.is_empty() {
            self.fault(1, "there is no data node; add a [[data]] section with id and host".into());
        }
        let management_nodes = self.management_nodes(&mgm, &mut lines);
        let data_nodes = self.data_nodes(&data, &mut lines);
        let api_nodes = self.api_nodes(&api, &mut lines);
        let config = ClusterConfig {
            name: self.cluster_name(&cluster),
            replicas: self.integer(&cluster, "replicas", 1..=REPLICAS_MAX.into(), Some(2)) as u8,
            partitions: PARTITIONS,
            data_memory: self.size(&cluster, "data_memory", DATA_MEMORY_MIN, 1 << 30),
            redo_bytes: self.size(&cluster, "redo_bytes", REDO_MIN, 1 << 30),
            flush_ms: self.integer(&cluster, "flush_ms", 1..=1000, Some(100)) as u32,
            heartbeat_ms: self.integer(&cluster, "heartbeat_ms", 1..=10_000, Some(50)) as u32,
            lease_ms: self.integer(&cluster, "lease_ms", 3..=60_000, Some(250)) as u32,
            failure_ms: self.integer(&cluster, "failure_ms", 3..=600_000, Some(500)) as u32,
            epoch_ms: self.integer(&cluster, "epoch_ms", 1..=10_000, Some(20)) as u32,
            lock_wait_timeout_ms: self.integer(&cluster, "lock_wait_timeout_ms", 1..=3_600_000, Some(5000))
                as u32,
            idle_transaction_ms: self.integer(&cluster, "idle_transaction_ms", 1..=86_400_000, Some(60_000))
                as u32,
            management_nodes,
            data_nodes,
            api_nodes,
            memcached: self.prefixes(&prefixes),
        };
        if self.problems.is_empty() {
            self.relations(&config, &lines);
            self.addresses(&config, &lines);
        }
        self.problems.is_empty().then_some(config)
    }

    fn cluster_section(&mut self, root: &'a DeTable<'a>) -> Section<'a> {
        let mut section = Section { kind: "cluster", line: 1, table: None };
        if let Some(value) = root.get("cluster") {
            section.line = self.line_at(value.span().start);
            match value.get_ref() {
                DeValue::Table(table) => section.table = Some(table),
                _ => self.fault(section.line, "`cluster` is one section; write [cluster]".into()),
            }
        }
        self.unknown_keys(&section);
        section
    }

    fn sections(&mut self, root: &'a DeTable<'a>, kind: &'static str) -> Vec<Section<'a>> {
        let Some(value) = root.get(kind) else { return Vec::new() };
        let line = self.line_at(value.span().start);
        let DeValue::Array(array) = value.get_ref() else {
            self.fault(line, format!("`{kind}` may be there many times; write [[{kind}]]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for element in array.iter() {
            let line = self.line_at(element.span().start);
            match element.get_ref() {
                DeValue::Table(table) => {
                    let section = Section { kind, line, table: Some(table) };
                    self.unknown_keys(&section);
                    sections.push(section);
                }
                _ => self.fault(line, format!("`{kind}` holds sections; write [[{kind}]]")),
            }
        }
        sections
    }

    fn unknown_keys(&mut self, section: &Section<'a>) {
        for (key, _) in section.table.into_iter().flatten() {
            let known =
                SETTINGS.iter().filter(|setting| setting.section == section.kind).map(|setting| setting.key);
            if known.clone().any(|name| name == key.get_ref()) {
                continue;
            }
            let line = self.line_at(key.span().start);
            let all = format!("{section} knows {}", known.clone().collect::<Vec<_>>().join(", "));
            let wanted = suggestion(key.get_ref(), known, &all);
            self.fault(line, format!("unknown key `{}` in {section}; {wanted}", key.get_ref()));
        }
    }

    /// The value of a key with its line; a fault if it is missing and has to be there.
    fn value(
        &mut self,
        section: &Section<'a>,
        key: &str,
        optional: bool,
    ) -> Option<(&'a DeValue<'a>, usize)> {
        if let Some(value) = section.table.and_then(|table| table.get(key)) {
            let value: &'a Spanned<DeValue<'a>> = value;
            return Some((value.get_ref(), self.line_at(value.span().start)));
        }
        if !optional {
            self.fault(section.line, format!("{section} lacks `{key}`"));
        }
        None
    }

    fn integer(
        &mut self,
        section: &Section<'a>,
        key: &str,
        range: RangeInclusive<u64>,
        default: Option<u64>,
    ) -> u64 {
        let (low, high) = (*range.start(), *range.end());
        let Some((value, line)) = self.value(section, key, default.is_some()) else {
            return default.unwrap_or(low);
        };
        let number = value.as_integer().and_then(|number| {
            let digits = number.as_str().replace('_', "");
            u64::from_str_radix(digits.trim_start_matches('+'), number.radix()).ok()
        });
        match number {
            Some(number) if range.contains(&number) => number,
            _ => {
                self.fault(
                    line,
                    format!("`{key}` is {}; it has to be a number from {low} to {high}", shown(value)),
                );
                low
            }
        }
    }

    fn port(&mut self, section: &Section<'a>, key: &str, default: u64) -> u16 {
        self.integer(section, key, 1..=u16::MAX.into(), Some(default)) as u16
    }

    fn string(&mut self, section: &Section<'a>, key: &str, default: Option<&str>) -> Option<(String, usize)> {
        let Some((value, line)) = self.value(section, key, default.is_some()) else {
            return default.map(|text| (text.into(), section.line));
        };
        if value.as_str().is_none() {
            self.fault(line, format!("`{key}` is {}; it has to be text in quotes", shown(value)));
        }
        Some((value.as_str()?.into(), line))
    }

    fn cluster_name(&mut self, section: &Section<'a>) -> String {
        let Some((name, line)) = self.string(section, "name", Some("local")) else { return String::new() };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 63 || !name.chars().all(fits) {
            self.fault(
                line,
                format!("`name` is \"{name}\"; it has to be 1 to 63 letters, digits, '-', '_' or '.'"),
            );
        }
        name
    }

    fn host(&mut self, section: &Section<'a>, default: Option<&str>) -> String {
        let Some((host, line)) = self.string(section, "host", default) else { return String::new() };
        let address = host.parse::<std::net::IpAddr>().is_ok();
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !address && (host.is_empty() || host.len() > 253 || !host.chars().all(fits)) {
            self.fault(
                line,
                format!("`host` is \"{host}\"; it has to be a name or an IP address, without port"),
            );
        }
        host
    }

    fn size(&mut self, section: &Section<'a>, key: &str, least: u64, default: u64) -> u64 {
        let Some((value, line)) = self.value(section, key, true) else { return default };
        match value.as_str().and_then(bytes) {
            Some(size) if size >= least => return size,
            Some(_) => {
                let least = size_text(least);
                self.fault(line, format!("`{key}` is {}; the least is \"{least}\"", shown(value)));
            }
            None => self.fault(
                line,
                format!(
                    "`{key}` is {}; write a number and one of KiB, MiB, GiB, TiB, as in \"1GiB\"",
                    shown(value)
                ),
            ),
        }
        default
    }

    /// The id of a node's section, unique.
    fn id(&mut self, section: &Section<'a>, lines: &mut Lines) -> NodeId {
        let before = self.problems.len();
        let id = NodeId(self.integer(section, "id", 1..=NODE_ID_MAX.into(), None) as u16);
        if self.problems.len() == before
            && let Some(other) = lines.nodes.insert(id, section.line)
        {
            self.fault(
                section.line,
                format!("id {id} is taken by the node at line {other}; each node has its own"),
            );
        }
        id
    }

    fn management_nodes(&mut self, sections: &[Section<'a>], lines: &mut Lines) -> Vec<ManagementNodeConfig> {
        let mut nodes: Vec<ManagementNodeConfig> = sections
            .iter()
            .map(|section| ManagementNodeConfig {
                id: self.id(section, lines),
                address: Address {
                    host: self.host(section, Some(LOOPBACK)),
                    port: self.port(section, "port", 1186),
                },
                web_port: self.port(section, "web_port", 1188),
            })
            .collect();
        if nodes.is_empty() {
            let section = Section { kind: "mgm", line: 1, table: None };
            lines.nodes.insert(NodeId(1), section.line);
            let address = Address { host: LOOPBACK.into(), port: 1186 };
            nodes.push(ManagementNodeConfig { id: NodeId(1), address, web_port: 1188 });
        }
        nodes.sort_by_key(|node| node.id);
        nodes
    }

    fn data_nodes(&mut self, sections: &[Section<'a>], lines: &mut Lines) -> Vec<DataNodeConfig> {
        let mut ids: Vec<(NodeId, Section<'a>)> =
            sections.iter().map(|section| (self.id(section, lines), *section)).collect();
        ids.sort_by_key(|(id, _)| *id);
        let node = |(place, (id, section)): (usize, &(NodeId, Section<'a>))| DataNodeConfig {
            id: *id,
            address: Address {
                host: self.host(section, None),
                port: self.port(section, "port", 2202 + place as u64),
            },
            workers: self.integer(section, "workers", 0..=WORKERS_MAX.into(), Some(0)) as u16,
        };
        ids.iter().enumerate().map(node).collect()
    }

    fn api_nodes(&mut self, sections: &[Section<'a>], lines: &mut Lines) -> Vec<ApiNodeConfig> {
        let default = [Section { kind: "api", line: 1, table: None }];
        let sections = if sections.is_empty() { &default } else { sections };
        let mut nodes: Vec<ApiNodeConfig> = sections
            .iter()
            .map(|section| ApiNodeConfig {
                id: match section.table {
                    Some(_) => self.id(section, lines),
                    None => *lines.nodes.entry(NodeId(21)).insert_entry(section.line).key(),
                },
                host: self.host(section, Some(LOOPBACK)),
                grpc_port: self.port(section, "grpc_port", 50051),
                memcached_port: self.port(section, "memcached_port", 11211),
                sql_port: self.port(section, "sql_port", 3306),
                metrics_port: self.port(section, "metrics_port", 9464),
                threads: self.integer(section, "threads", 0..=WORKERS_MAX.into(), Some(0)) as u16,
            })
            .collect();
        nodes.sort_by_key(|node| node.id);
        nodes
    }

    fn prefixes(&mut self, sections: &[Section<'a>]) -> Vec<MemcachedPrefix> {
        let mut taken: BTreeMap<String, usize> = BTreeMap::new();
        let mut prefixes = Vec::new();
        for section in sections {
            let (prefix, line) = self.string(section, "prefix", None).unwrap_or_default();
            if line > 0 && !(1..=100).contains(&prefix.len()) || !prefix.bytes().all(|b| b.is_ascii_graphic())
            {
                let wanted = "it has to be 1 to 100 printable ASCII characters, without spaces";
                self.fault(line, format!("`prefix` is {prefix:?}; {wanted}"));
            } else if let Some(other) = taken.insert(prefix.clone(), line).filter(|_| line > 0) {
                self.fault(line, format!("`prefix` is {prefix:?}, as at line {other}; each has its own"));
            }
            let (table, key) = (self.name(section, "table"), self.name(section, "key"));
            let flags = section.table.is_some_and(|table| table.contains_key("flags"));
            let flags = flags.then(|| self.name(section, "flags"));
            let (values, line) = self.string(section, "value", None).unwrap_or_default();
            let values: Vec<String> = values.split('|').map(str::to_owned).collect();
            let mut seen = vec![&key];
            seen.extend(&flags);
            for value in values.iter().filter(|_| line > 0) {
                if value.is_empty() || value.len() > NAME_BYTES_MAX {
                    let wanted =
                        "it has to be the names of columns, with | between them, as in \"name|city\"";
                    self.fault(line, format!("`value` is {:?}; {wanted}", values.join("|")));
                    break;
                }
                if seen.contains(&value) {
                    self.fault(
                        line,
                        format!("`value` has column `{value}`, which is there already; name it once"),
                    );
                    break;
                }
                seen.push(value);
            }
            prefixes.push(MemcachedPrefix { prefix, table, key, values, flags });
        }
        prefixes
    }

    /// The name of a table or a column.
    fn name(&mut self, section: &Section<'a>, key: &str) -> String {
        let (name, line) = self.string(section, key, None).unwrap_or_default();
        if line > 0 && !(1..=NAME_BYTES_MAX).contains(&name.len()) {
            self.fault(line, format!("`{key}` is {name:?}; a name has 1 to {NAME_BYTES_MAX} bytes"));
        }
        name
    }

    /// What must hold between settings.
    fn relations(&mut self, config: &ClusterConfig, lines: &Lines) {
        let line = |key: &str| lines.cluster.get(key).copied().unwrap_or(1);
        let (count, replicas) = (config.data_nodes.len(), usize::from(config.replicas));
        if count > DATA_NODES_MAX {
            self.fault(lines.data, format!("there are {count} data nodes; the most is {DATA_NODES_MAX}"));
        } else if count % replicas != 0 {
            let (fewer, more) = (count / replicas * replicas, count.next_multiple_of(replicas));
            let right = if fewer == 0 { more.to_string() } else { format!("{fewer} or {more}") };
            self.fault(
                line("replicas"),
                format!("{count} data nodes cannot keep {replicas} replicas each in groups of {replicas}; have {right} data nodes, or other replicas"),
            );
        }
        let count = config.management_nodes.len();
        if ![1, 3, 5].contains(&count) {
            self.fault(
                lines.mgm,
                format!("there are {count} management nodes; have 1, 3 or 5, so that one side of a split has the majority"),
            );
        }
        if config.lease_ms < 3 * config.heartbeat_ms {
            let (lease, heartbeat) = (config.lease_ms, config.heartbeat_ms);
            self.fault(
                line("lease_ms"),
                format!("`lease_ms` is {lease}; it has to be at least 3 times heartbeat_ms = {heartbeat}: {} or more", 3 * heartbeat),
            );
        }
        if config.failure_ms < config.lease_ms {
            let (failure, lease) = (config.failure_ms, config.lease_ms);
            self.fault(
                line("failure_ms"),
                format!("`failure_ms` is {failure}; it has to be at least lease_ms = {lease}"),
            );
        }
    }

    /// No two listeners on one host and port.
    fn addresses(&mut self, config: &ClusterConfig, lines: &Lines) {
        let mut taken: BTreeMap<(String, u16), (NodeId, &str)> = BTreeMap::new();
        let mut listen = |node: NodeId, host: &str, key: &'static str, port: u16| {
            let host = if host.eq_ignore_ascii_case("localhost") {
                LOOPBACK.into()
            } else {
                host.to_ascii_lowercase()
            };
            let Some((other, other_key)) = taken.insert((host.clone(), port), (node, key)) else { return };
            let line = lines.nodes.get(&node).copied().unwrap_or(1);
            self.fault(
                line,
                format!("`{key}` of node {node} and `{other_key}` of node {other} are both {host}:{port}; give one of them another"),
            );
        };
        for node in &config.management_nodes {
            listen(node.id, &node.address.host, "port", node.address.port);
            listen(node.id, &node.address.host, "web_port", node.web_port);
        }
        for node in &config.data_nodes {
            listen(node.id, &node.address.host, "port", node.address.port);
        }
        for node in &config.api_nodes {
            listen(node.id, &node.host, "grpc_port", node.grpc_port);
            listen(node.id, &node.host, "memcached_port", node.memcached_port);
            listen(node.id, &node.host, "sql_port", node.sql_port);
            listen(node.id, &node.host, "metrics_port", node.metrics_port);
        }
    }
}

/// A size such as `1GiB`, in bytes.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A value as an error text shows it.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        other => format!("a {}", other.type_str()),
    }
}

/// «Did you mean», if a known name is near; else what is known.
fn suggestion<'k>(name: &str, known: impl Iterator<Item = &'k str>, otherwise: &str) -> String {
    let nearest = known.map(|known| (distance(name, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= 1 + known.len() / 4 => format!("did you mean `{known}`?"),
        _ => otherwise.into(),
    }
}

/// Edits between two words (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
