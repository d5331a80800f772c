//! What is compared, and what is to be reached.

/// Who is put load on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Server {
    /// The data nodes, by the native client.
    Native,
    /// The API node, in memcached's words.
    Frontend,
    /// memcached.
    Memcached,
    /// Redis, without a replica and without files.
    Redis,
    /// Redis with a replica, both with an append-only file.
    ReplicatedRedis,
}

/// One side of a comparison: a server, and what `twofold-bench` is told to do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Side {
    /// The server.
    pub server: Server,
    /// Words of the command line, behind those that say where the server is and how long to measure.
    pub words: &'static str,
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quantity {
    /// Operations a second: the ratio should be no less than the target.
    PerSecond,
    /// Median latency: the ratio should be no more than the target.
    Median,
}

/// Which of the targets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Part {
    /// Single rows by their key, through the native client
    Lookup,
    /// The API node's memcached frontend
    Memcached,
}

/// The same work on two servers, and what is to be reached.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Work {
    /// The target that it belongs to.
    pub part: Part,
    /// What is done.
    pub name: &'static str,
    /// Twofold's side.
    pub ours: Side,
    /// The other's.
    pub theirs: Side,
    /// Who that is.
    pub versus: &'static str,
    /// What counts.
    pub quantity: Quantity,
    /// Ours by theirs has to reach that.
    pub target: f64,
    /// What theirs has been measured at on such a machine, alone: operations a second, or microseconds. None where the
    /// other side is ours, too.
    pub reference: Option<f64>,
    /// CPU time of ours in all, in microseconds, at most.
    pub cpu_most: Option<f64>,
}

const fn native(words: &'static str) -> Side {
    Side { server: Server::Native, words }
}

const fn frontend(words: &'static str) -> Side {
    Side { server: Server::Frontend, words }
}

const fn memcached(words: &'static str) -> Side {
    Side { server: Server::Memcached, words }
}

const fn redis(words: &'static str) -> Side {
    Side { server: Server::Redis, words }
}

const SETS_BY_50: &str = "--connections 50 --phases set";
const GETS_BY_50: &str = "--connections 50 --phases get";

const LOOKUP: Work = Work {
    part: Part::Lookup,
    name: "",
    ours: native(""),
    theirs: redis(""),
    versus: "",
    quantity: Quantity::PerSecond,
    target: 1.0,
    reference: None,
    cpu_most: None,
};

const MEMCACHED: Work = Work { part: Part::Memcached, versus: "memcached", ..LOOKUP };

/// All of them, in an order in which each finds the rows and items that it needs.
pub const WORKS: [Work; 14] = [
    Work {
        name: "inserts in batches",
        ours: native("--definers 16 --in-flight 1600 --batch-limit 400 --phases insert"),
        theirs: redis("--connections 16 --pipeline 100 --phases fill"),
        versus: "Redis SET, new keys, pipelined",
        reference: Some(655e3),
        ..LOOKUP
    },
    Work {
        name: "updates in batches",
        ours: native("--definers 16 --in-flight 1600 --batch-limit 400 --phases update"),
        theirs: redis("--connections 16 --pipeline 100 --phases set"),
        versus: "Redis SET pipelined",
        target: 1.3,
        reference: Some(489e3),
        cpu_most: Some(3.0),
        ..LOOKUP
    },
    Work {
        name: "reads in batches",
        ours: native("--definers 16 --in-flight 1600 --phases read"),
        theirs: redis("--connections 16 --multi-get 100 --phases get"),
        versus: "Redis MGET",
        target: 3.0,
        reference: Some(722e3),
        cpu_most: Some(0.9),
        ..LOOKUP
    },
    Work {
        name: "reads, 50 callers",
        ours: native("--mode callers --callers 50 --phases read"),
        theirs: redis(GETS_BY_50),
        versus: "Redis GET, 50 connections",
        target: 3.0,
        reference: Some(99e3),
        ..LOOKUP
    },
    Work {
        name: "updates, 50 callers",
        ours: native("--mode callers --callers 50 --phases update"),
        theirs: redis(SETS_BY_50),
        versus: "Redis SET, 50 connections",
        target: 2.0,
        reference: Some(94e3),
        ..LOOKUP
    },
    Work {
        name: "read, one caller: median",
        ours: native("--mode single --phases read"),
        theirs: memcached("--connections 1 --phases get"),
        versus: "memcached get",
        quantity: Quantity::Median,
        target: 1.1,
        reference: Some(70.0),
        ..LOOKUP
    },
    Work {
        name: "update, one caller: median",
        ours: native("--mode single --phases update"),
        theirs: memcached("--connections 1 --phases get"),
        versus: "memcached get",
        quantity: Quantity::Median,
        target: 2.3,
        reference: Some(70.0),
        ..LOOKUP
    },
    Work {
        name: "get, 50 connections",
        ours: frontend(GETS_BY_50),
        theirs: memcached(GETS_BY_50),
        target: 0.75,
        reference: Some(98e3),
        ..MEMCACHED
    },
    Work {
        name: "set, 50 connections",
        ours: frontend(SETS_BY_50),
        theirs: memcached(SETS_BY_50),
        target: 0.6,
        reference: Some(102e3),
        ..MEMCACHED
    },
    Work {
        name: "set, 50 connections",
        ours: frontend(SETS_BY_50),
        theirs: Side { server: Server::ReplicatedRedis, words: "--connections 50 --replicas 1 --phases set" },
        versus: "Redis SET and WAIT 1",
        target: 1.4,
        reference: Some(44e3),
        ..MEMCACHED
    },
    Work {
        name: "get pipelined by 100",
        ours: frontend("--connections 16 --pipeline 100 --protocol meta --phases get"),
        theirs: memcached("--connections 16 --pipeline 100 --protocol meta --phases get"),
        target: 0.6,
        reference: Some(952e3),
        ..MEMCACHED
    },
    Work {
        name: "set pipelined by 100",
        ours: frontend("--connections 16 --pipeline 100 --protocol meta --phases set"),
        theirs: memcached("--connections 16 --pipeline 100 --protocol meta --phases set"),
        target: 0.35,
        reference: Some(610e3),
        ..MEMCACHED
    },
    Work {
        name: "get of 100 keys",
        ours: frontend("--connections 16 --multi-get 100 --phases get"),
        theirs: memcached("--connections 16 --multi-get 100 --phases get"),
        target: 0.4,
        reference: Some(1498e3),
        ..MEMCACHED
    },
    Work {
        name: "get, 8192 connections",
        ours: frontend("--connections 8192 --phases get"),
        theirs: frontend("--connections 64 --phases get"),
        versus: "its own 64",
        target: 0.8,
        ..MEMCACHED
    },
];

/// How items are put where they are to be there: not measured.
pub const FILL: &str = "--connections 16 --pipeline 100 --phases fill";

/// What benchmarks ask for and this does not measure.
pub const NOT_MEASURED: [(&str, &str); 2] = [
    (
        "durability `disk`, 64 callers: 10,000 commits/s",
        "twofold-bench lookup --mode callers --callers 64 --phases update --durability disk",
    ),
    ("memory beyond the data, per row of 100 bytes: 40 bytes", "scripts/bench memory"),
];
