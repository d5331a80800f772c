//! The same statements to us and to a real MariaDB: the same rows, counts and error numbers.
//!
//! What we refuse as not supported (1235) is not compared. By `TWOFOLD_SEED` a run begins with other statements: the seed of one
//! that fails is told.

#![cfg(feature = "real-mariadb")]

mod common;
mod real_mariadb;

use std::{net::SocketAddr, time::Duration};

use common::{
    Fake,
    mysql::{Client, Heard},
};
use real_mariadb::RealMariadb;
use twofold_apinode_server::sql::Server;

/// Statements made up.
const MADE_UP: usize = 1500;

/// Pseudorandom numbers: splitmix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

fn ours() -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = twofold_runtime::thread::runtime().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            Server::new(1, 10, None).serve(0, listener, Fake::new().start()).await;
        });
    });
    receiver.recv_timeout(Duration::from_secs(60)).unwrap()
}

struct Both {
    ours: Client,
    real: Client,
    _server: RealMariadb,
    compared: usize,
    differences: Vec<String>,
}

impl Both {
    fn start() -> Both {
        let server = RealMariadb::start();
        let mut both = Both {
            ours: Client::connect(ours()),
            real: Client::connect(server.address()),
            _server: server,
            compared: 0,
            differences: Vec::new(),
        };
        both.real.done("SET NAMES utf8mb4 COLLATE utf8mb4_nopad_bin");
        for text in ["CREATE DATABASE d", "USE d"] {
            both.ours.done(text);
            both.real.done(text);
        }
        both
    }

    /// Says it to both. Rows are compared in their order only where the statement has one.
    fn say(&mut self, text: &str) {
        let ours = self.ours.query(text);
        if ours.number() == 1235 {
            return;
        }
        let real = self.real.query(text);
        self.compared += 1;
        let ordered = text.contains("ORDER BY");
        let (a, b) = (comparable(&ours, ordered), comparable(&real, ordered));
        if a != b {
            self.differences.push(format!("{text}\n    ours: {a}\n    real: {b}"));
        }
    }

    fn finish(self, least: usize, seed: &str) {
        let (count, shown) = (self.differences.len(), self.differences.iter().take(40));
        let shown = shown.cloned().collect::<Vec<_>>().join("\n");
        assert!(count == 0, "{count} of {} differ{seed}:\n{shown}", self.compared);
        assert!(self.compared >= least, "only {} were compared", self.compared);
    }
}

fn comparable(heard: &Heard, ordered: bool) -> String {
    match heard {
        Heard::Done { affected, .. } => format!("{affected} rows"),
        Heard::Failed { number, .. } => format!("error {number}"),
        Heard::Rows { .. } => {
            let mut texts = heard.texts();
            if !ordered {
                texts.sort();
            }
            format!("{texts:?}")
        }
    }
}

const TABLE: &str = "CREATE TABLE t (id INT PRIMARY KEY, i INT, u BIGINT UNSIGNED, d DECIMAL(10,2), f DOUBLE, s VARCHAR(10), \
                     b VARBINARY(10), day DATE, at DATETIME(3), KEY (i), KEY ud (u, d), INDEX (d), KEY (s, i), KEY (f), \
                     KEY (b), KEY (day), KEY (at, id))";
const ROWS: &str = "INSERT INTO t VALUES (1, 1, 1, 1.5, 0.5, 'a', 'a', '2024-02-29', '2024-02-29 12:00:00.5'), \
                    (2, -5, 18446744073709551615, -2.25, 1e20, 'B', X'00FF', '1970-01-01', '1970-01-01 00:00:00'), \
                    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), \
                    (4, 2147483647, 0, 99999999.99, -0.1, '12abc', '', '9999-12-31', '9999-12-31 23:59:59.999'), \
                    (5, 0, 7, 0, 0, '', 'ab', '2000-01-01', '2000-01-01 01:02:03')";

#[test]
fn picked_statements_agree() {
    let mut both = Both::start();
    both.say(TABLE);
    both.say(ROWS);
    for text in
        include_str!("sql_statements.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        both.say(text);
    }
    both.finish(120, "");
}

/// An expression over the table's columns, of some depth.
fn expression(random: &mut Random, depth: usize) -> String {
    if depth == 0 || random.below(6) == 0 {
        return match random.below(3) {
            0 => random
                .pick(&[
                    "0", "1", "-3", "2.5", "NULL", "'a'", "'12'", "7", "100", "1e2", "0.01", "'B'", "''",
                    "10",
                ])
                .into(),
            _ => random.pick(&["id", "i", "d", "f", "s", "i", "d", "u"]).into(),
        };
    }
    let mut inner = || expression(random, depth - 1);
    let (a, b, c) = (inner(), inner(), inner());
    match random.below(20) {
        0..5 => format!("({a} {} {b})", random.pick(&["+", "-", "*"])),
        5 => format!("({a} {} {b})", random.pick(&["/", "DIV", "%"])),
        6..10 => format!("({a} {} {b})", random.pick(&["=", "<>", "<", "<=", ">", ">=", "<=>"])),
        10..12 => format!("({a} {} {b})", random.pick(&["AND", "OR", "XOR"])),
        12 => format!("(NOT {a})"),
        13 => format!("({a} IS {}NULL)", random.pick(&["", "NOT "])),
        14 => format!("({a} IN ({b}, {c}))"),
        15 => format!("({a} BETWEEN {b} AND {c})"),
        16 => format!("COALESCE({a}, {b})"),
        17 => format!("IF({a}, {b}, {c})"),
        18 => format!("CASE WHEN {a} THEN {b} ELSE {c} END"),
        _ => format!("ABS({a})"),
    }
}

#[test]
fn statements_made_up_agree() {
    let seed = std::env::var("TWOFOLD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let mut both = Both::start();
    both.say(TABLE);
    both.say(ROWS);
    for round in 0..MADE_UP {
        let filter = match random.below(3) {
            0 => format!(
                "{} {} {}",
                random.pick(&["id", "i", "d", "u"]),
                random.pick(&["=", "<", ">=", "<>"]),
                random.below(8)
            ),
            _ => expression(&mut random, 2),
        };
        match round % 14 {
            0 => {
                let (id, i) = (random.below(12), random.below(200) as i64 - 100);
                both.say(&format!("REPLACE INTO t (id, i, d, s) VALUES ({id}, {i}, {i}.5, '{i}')"));
            }
            1 => both.say(&format!("UPDATE t SET i = i + 1 WHERE id = {}", random.below(8))),
            2 => both.say(&format!("DELETE FROM t WHERE id = {}", 6 + random.below(6))),
            3 => both.say(&format!("SELECT COUNT(*), SUM(i), MIN(d), MAX(u), AVG(i) FROM t WHERE {filter}")),
            10 => both.say(&format!(
                "SELECT id, i FROM t WHERE {filter} ORDER BY {} LIMIT {}",
                random.pick(&[
                    "i, id",
                    "i DESC, id DESC",
                    "s, i, id",
                    "at DESC, id DESC",
                    "u, d, id",
                    "f, id DESC"
                ]),
                random.below(6)
            )),
            11 => both.say(&format!(
                "SELECT {}({}) FROM t WHERE {filter}",
                random.pick(&["MIN", "MAX"]),
                random.pick(&["i", "u", "d", "s", "at", "id"])
            )),
            12 => both.say(&format!(
                "UPDATE t SET d = d + 1 WHERE i {} {}",
                random.pick(&["=", "<", ">=", "IN (1, 5) OR i ="]),
                random.below(8)
            )),
            13 => both.say(&format!("DELETE FROM t WHERE id > 5 AND i BETWEEN {} AND 3", random.below(3))),
            _ => both.say(&format!(
                "SELECT id, {} AS x FROM t WHERE {filter} ORDER BY id",
                expression(&mut random, 2)
            )),
        }
    }
    both.finish(MADE_UP / 2, &format!(" (TWOFOLD_SEED={seed})"));
}
