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
            let alone = |these: &[String], others: &[String]| {
                let alone: Vec<&str> =
                    these.iter().filter(|row| !others.contains(row)).take(5).map(String::as_str).collect();
                format!("{} in all, alone: {}", these.len(), alone.join(" "))
            };
            self.differences.push(format!(
                "{text}\n    ours: {}\n    real: {}",
                alone(&a, &b),
                alone(&b, &a)
            ));
        }
    }

    fn finish(self, least: usize, seed: &str) {
        let (count, shown) = (self.differences.len(), self.differences.iter().take(40));
        let shown = shown.cloned().collect::<Vec<_>>().join("\n");
        assert!(count == 0, "{count} of {} differ{seed}:\n{shown}", self.compared);
        assert!(self.compared >= least, "only {} were compared", self.compared);
    }
}

/// What has to be the same.
fn comparable(heard: &Heard, ordered: bool) -> Vec<String> {
    match heard {
        Heard::Done { affected, .. } => vec![format!("{affected} rows")],
        Heard::Failed { number, .. } => vec![format!("error {number}")],
        Heard::Rows { .. } => {
            let mut texts = heard.texts();
            if !ordered {
                texts.sort();
            }
            texts.iter().map(|row| format!("{row:?}")).collect()
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

/// Tables that are joined.
const OTHERS: [&str; 5] = [
    "CREATE TABLE a (id INT PRIMARY KEY, k INT, s VARCHAR(10), d DECIMAL(8,2), KEY (k), KEY sd (s, d))",
    "CREATE TABLE b (k INT, n INT, v VARCHAR(10), e DECIMAL(6,3), PRIMARY KEY (k, n), KEY (n))",
    "CREATE TABLE c (id BIGINT PRIMARY KEY, a_id INT, s VARCHAR(20))",
    "INSERT INTO a VALUES (1, 1, 'x', 1.5), (2, 1, 'y', NULL), (3, NULL, 'x', 2), (4, 7, NULL, 0.25), (5, 2, '3', 3)",
    "INSERT INTO b VALUES (1, 1, 'x', 1.5), (1, 2, 'y', 2), (2, 1, NULL, NULL), (3, 3, '3', 0.125), (9, 9, 'z', 9)",
];

/// A condition that ties `x` and `y`, which are of the tables a and b.
fn tie(random: &mut Random, x: &str, y: &str) -> String {
    let text = random.pick(&[
        "@.k = #.k",
        "@.id = #.n",
        "#.k = @.id",
        "@.k = #.k AND @.id = #.n",
        "@.s = #.v",
        "@.d = #.e",
        "@.id < #.n",
        "@.k = #.k AND #.n = 1",
        "@.d > #.e OR @.s = #.v",
        "@.id = #.k AND @.d > 1",
        "@.k <=> #.n",
        "@.id + 1 = #.k",
        "@.s = #.n",
        "@.id IN (#.k, #.n)",
        "1",
    ]);
    text.replace('@', x).replace('#', y)
}

fn filter_of(random: &mut Random, x: &str) -> String {
    let text = random.pick(&[
        "@.k = 1",
        "@.k IS NULL",
        "@.k IN (1, 2)",
        "@.k > 1",
        "@.k < 3 OR @.k IS NULL",
        "@.k BETWEEN 1 AND 7",
        "1",
        "@.k <> 7",
        "NOT @.k = 1",
    ]);
    text.replace('@', x)
}

/// A query in another one, whose tables are `x` of a and `y` of b, as a condition.
fn subquery(random: &mut Random, x: &str) -> String {
    let not = random.pick(&["", "NOT "]);
    let inner = filter_of(random, "q");
    let tie = tie(random, x, "q");
    match random.below(9) {
        0 => format!("{x}.k {not}IN (SELECT q.k FROM b q WHERE {inner})"),
        1 => format!("{x}.id {not}IN (SELECT q.n FROM b q WHERE {tie})"),
        2 => format!("{not}EXISTS (SELECT 1 FROM b q WHERE {tie})"),
        3 => format!("{x}.k = (SELECT MAX(q.n) FROM b q WHERE {inner})"),
        4 => format!("{x}.d < (SELECT AVG(q.e) FROM b q WHERE {tie})"),
        5 => {
            format!("{x}.id {} ANY (SELECT q.n FROM b q WHERE {inner})", random.pick(&["=", "<", ">=", "<>"]))
        }
        6 => format!("{x}.k {} ALL (SELECT q.n FROM b q WHERE {tie})", random.pick(&["=", "<", ">=", "<>"])),
        7 => format!("{x}.s {not}IN (SELECT q.v FROM b q)"),
        _ => format!("(SELECT COUNT(*) FROM b q JOIN c r ON r.id = q.n WHERE {tie}) > 0"),
    }
}

/// A query of a number of columns, without an order.
fn query_of(random: &mut Random) -> String {
    let how = random.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "JOIN", "LEFT JOIN"]);
    let tie = tie(random, "x", "y");
    let filter = match random.below(4) {
        0 => filter_of(random, "x"),
        1 => filter_of(random, "y"),
        2 => subquery(random, "x"),
        _ => format!("{} AND {}", filter_of(random, "x"), subquery(random, "x")),
    };
    let columns = "x.id, x.s, x.d, y.k, y.n, y.v";
    match random.below(13) {
        0 => format!("SELECT {columns} FROM a x, b y WHERE {tie} AND {filter}"),
        1 => format!(
            "SELECT {columns} FROM a x {how} b y ON {tie} LEFT JOIN c z ON z.a_id = x.id WHERE {filter}"
        ),
        2 => format!(
            "SELECT {columns} FROM a x LEFT JOIN (b y JOIN c z ON z.id = y.n) ON {tie} WHERE {filter}"
        ),
        3 => "SELECT * FROM a NATURAL JOIN b".into(),
        4 => format!("SELECT * FROM a x {how} b y USING (k) WHERE {filter}"),
        5 => format!(
            "SELECT y.k, COUNT(*), SUM(x.d), MIN(x.s), COUNT(DISTINCT x.k), 1 FROM a x {how} b y ON {tie} WHERE {filter} GROUP BY y.k"
        ),
        6 => format!("SELECT DISTINCT x.s, y.v, x.k FROM a x {how} b y ON {tie} WHERE {filter}"),
        7 => format!(
            "SELECT x.id, o.m, o.c FROM a x {how} (SELECT k, MAX(n) AS m, COUNT(*) AS c, AVG(e) AS k2 FROM b GROUP BY k) o \
             ON x.k = o.k WHERE {}",
            subquery(random, "x")
        ),
        8 => format!(
            "SELECT x.id, y.id, z.id FROM a x {how} a y ON x.k = y.id JOIN a z ON z.k = x.k WHERE {}",
            filter_of(random, "x")
        ),
        9 => format!(
            "SELECT x.id, (SELECT MAX(q.n) FROM b q WHERE {}), {} FROM a x",
            self::tie(random, "x", "q"),
            subquery(random, "x")
        ),
        10 => format!(
            "SELECT x.id, x.s FROM a x WHERE {filter} UNION {} SELECT n, v FROM b y",
            random.pick(&["ALL", "DISTINCT", ""])
        )
        .replace("y.k", "x.k"),
        11 => format!("SELECT x.id FROM a x WHERE {} AND {}", subquery(random, "x"), subquery(random, "x")),
        _ => format!(
            "SELECT {columns} FROM a x {how} b y ON {tie} AND {} WHERE {filter}",
            filter_of(random, "y")
        ),
    }
}

#[test]
fn queries_of_several_tables_agree() {
    let seed = std::env::var("TWOFOLD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let mut both = Both::start();
    OTHERS.iter().for_each(|text| both.say(text));
    for round in 0..MADE_UP {
        let (n, m) = (random.below(12), random.below(9));
        // In what changes rows a string that is compared with a number may be an error: the real one's plan decides.
        match round % 16 {
            0 => both.say(&format!(
                "REPLACE INTO a VALUES ({n}, {m}, '{}', {m}.25)",
                random.pick(&["x", "y", "3"])
            )),
            1 => both.say(&format!(
                "REPLACE INTO b VALUES ({m}, {n}, '{}', {n}.5)",
                random.pick(&["x", "y", "3"])
            )),
            2 => both.say(&format!("DELETE FROM b WHERE n = {n} AND k > {m}")),
            3 => both.say(&format!(
                "UPDATE a x SET s = (SELECT MIN(v) FROM b q WHERE q.k = x.id) WHERE {}",
                subquery(&mut random, "x").replace("x.s = q.n", "x.s = q.v")
            )),
            4 => {
                both.say(&format!("DELETE FROM c WHERE id = {m} OR a_id IN (SELECT id FROM a WHERE k = {m})"))
            }
            5 => both.say(&format!(
                "{} INTO c SELECT x.id + {m}, MAX(y.k), MIN(x.s) FROM a x LEFT JOIN b y ON {} GROUP BY x.id",
                random.pick(&["REPLACE", "INSERT IGNORE"]),
                tie(&mut random, "x", "y").replace("x.s = y.n", "x.s = y.v")
            )),
            6 => both.say(&format!("DELETE FROM a WHERE id = {n} AND id NOT IN (SELECT k FROM b)")),
            7 => both.say(&format!(
                "SELECT * FROM ({}) q0 ORDER BY 1, 2, 3 LIMIT 0",
                query_of(&mut random).replace('*', "x.id, y.n, 1")
            )),
            _ => {
                let query = query_of(&mut random);
                both.say(&query);
            }
        }
    }
    both.finish(MADE_UP / 2, &format!(" (TWOFOLD_SEED={seed})"));
}

/// A table with unique keys, of NULLs, several columns and floats, too.
const UNIQUE: &str = "CREATE TABLE q (id INT PRIMARY KEY, a INT UNIQUE, b INT, s VARCHAR(6), f DOUBLE, n INT NOT NULL DEFAULT 0, \
                      UNIQUE KEY bs (b, s), UNIQUE f (f), KEY (n))";

#[test]
fn unique_keys_agree() {
    let seed = std::env::var("TWOFOLD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let mut both = Both::start();
    both.say(UNIQUE);
    for text in [
        "SELECT index_name, non_unique, seq_in_index, column_name FROM information_schema.statistics WHERE table_name = 'q'",
        "SELECT constraint_name, constraint_type FROM information_schema.table_constraints WHERE table_name = 'q'",
        "SELECT constraint_name, column_name, ordinal_position FROM information_schema.key_column_usage WHERE table_name = 'q'",
        "SELECT column_name, column_key FROM information_schema.columns WHERE table_name = 'q'",
    ] {
        both.say(text);
    }
    let mut in_transaction = false;
    for round in 0..2 * MADE_UP {
        let mut number = |bound: usize| match random.below(8) {
            0 => "NULL".to_owned(),
            _ => random.below(bound).to_string(),
        };
        let (a, b, f) = (number(9), number(4), number(9));
        let (id, other) = (random.below(10), random.below(10));
        let s = random.pick(&["'x'", "'X'", "'y'", "''", "NULL"]);
        let row = format!("({id}, {a}, {b}, {s}, {f})");
        let more = format!("{row}, ({other}, {}, {b}, 'z', NULL)", random.below(9));
        let into = "INTO q (id, a, b, s, f) VALUES";
        match random.below(18) {
            0..2 => both.say(&format!("INSERT {into} {row}")),
            2 => both.say(&format!("INSERT {into} {more}")),
            3 => both.say(&format!("INSERT IGNORE {into} {more}")),
            4 => both.say(&format!("REPLACE {into} {more}")),
            // Rows that meet two others are changed in an order that no standard says.
            5 => both.say(&format!("INSERT {into} {row} ON DUPLICATE KEY UPDATE n = n + 1")),
            6 => both.say(&format!("INSERT {into} {row} ON DUPLICATE KEY UPDATE a = VALUES(a), n = q.id")),
            7 => both.say(&format!("UPDATE q SET a = {a} WHERE id = {id}")),
            8 => both.say(&format!("UPDATE q SET b = {b}, s = {s}, n = n + 1 WHERE id = {id}")),
            9 => both.say(&format!("UPDATE q SET f = {f} WHERE a = {a}")),
            10 => both.say(&format!("UPDATE q SET a = NULL, n = 5 WHERE b = {b} AND s = {s}")),
            11 => both.say(&format!("DELETE FROM q WHERE {}", random.pick(&["a = 3", "f = 2", "id = 4"]))),
            12 => both.say(&format!("SELECT * FROM q WHERE a = {a}")),
            13 => both.say(&format!("SELECT id FROM q WHERE a IN ({id}, {other}) ORDER BY id")),
            14 => both.say(&format!("SELECT n, id FROM q WHERE s = {s} AND b = {b}")),
            15 => both.say(&format!(
                "SELECT x.id, y.id FROM q x JOIN q y ON {} ORDER BY x.id, y.id",
                random.pick(&["y.a = x.n", "y.b = x.b AND y.s = x.s", "y.f = x.a"])
            )),
            16 => {
                let text = match (in_transaction, random.below(3)) {
                    (false, _) => "BEGIN",
                    (true, 0) => "ROLLBACK",
                    (true, _) => "COMMIT",
                };
                in_transaction = !in_transaction;
                both.say(text);
            }
            _ => both.say("SELECT * FROM q ORDER BY id"),
        }
        if round % 300 == 299 {
            both.say("DELETE FROM q WHERE id > 2");
        }
    }
    both.finish(2 * MADE_UP - 10, &format!(" (TWOFOLD_SEED={seed})"));
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
