//! SQL over the MySQL protocol, with a cluster in memory.

mod common;

use std::{net::SocketAddr, time::Duration};

use common::{
    Fake, Faults,
    mysql::{Client, Heard},
};
use twofold_apinode_server::sql::Server;
use twofold_proto::error::{Error, ErrorCode};

/// Serves from a thread of its own, which ends with the test's process.
fn serve(fake: Fake, connections_max: usize) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = twofold_runtime::thread::runtime().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            Server::new(1, connections_max, None).serve(0, listener, fake.start()).await;
        });
    });
    receiver.recv_timeout(Duration::from_secs(60)).unwrap()
}

fn client() -> (Client, Faults) {
    let fake = Fake::new();
    let faults = fake.faults();
    let mut client = Client::connect(serve(fake, 10));
    for text in ["CREATE DATABASE d", "USE d", "CREATE TABLE t (id INT PRIMARY KEY, s VARCHAR(10), n INT)"] {
        client.done(text);
    }
    (client, faults)
}

/// Rows as text: columns by commas, rows by blanks.
fn rows(client: &mut Client, text: &str) -> String {
    let heard = client.done(text);
    heard.texts().iter().map(|row| row.join(",")).collect::<Vec<_>>().join(" ")
}

fn affected(client: &mut Client, text: &str) -> u64 {
    match client.done(text) {
        Heard::Done { affected, .. } => affected,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn indexes_are_declared_told_and_used() {
    let (mut client, _) = client();
    client.done("CREATE TABLE u (id INT PRIMARY KEY, a INT, s VARCHAR(10) NOT NULL, KEY sa (s, a), INDEX (a), KEY (a))");
    let created = rows(&mut client, "SHOW CREATE TABLE u");
    for key in ["KEY `sa` (`s`,`a`)", "KEY `a` (`a`)", "KEY `a_2` (`a`)"] {
        assert!(created.contains(key), "{created}");
    }
    assert_eq!(
        rows(&mut client, "SHOW INDEX FROM u"),
        "u,0,PRIMARY,1,id,A,NULL,NULL,NULL,,BTREE,, u,1,sa,1,s,A,NULL,NULL,NULL,,BTREE,, \
         u,1,sa,2,a,A,NULL,NULL,NULL,YES,BTREE,, u,1,a,1,a,A,NULL,NULL,NULL,YES,BTREE,, u,1,a_2,1,a,A,NULL,NULL,NULL,YES,BTREE,,"
    );
    let values: Vec<String> = (0..40).map(|id| format!("({id}, {}, 's{}')", id % 7, id % 3)).collect();
    client.done(&format!("INSERT INTO u VALUES {}, (40, NULL, 's1')", values.join(", ")));
    assert_eq!(rows(&mut client, "SELECT id FROM u WHERE a = 3 ORDER BY id DESC LIMIT 2"), "38 31");
    assert_eq!(rows(&mut client, "SELECT id FROM u WHERE s = 's1' ORDER BY a LIMIT 3"), "40 7 28");
    assert_eq!(rows(&mut client, "SELECT id FROM u WHERE id BETWEEN 5 AND 7"), "5 6 7");
    assert_eq!(rows(&mut client, "SELECT MIN(a), COUNT(*) FROM u"), "0,41");
    assert_eq!(rows(&mut client, "SELECT MIN(a) FROM u"), "0", "NULL does not count");
    assert_eq!(rows(&mut client, "SELECT MAX(id) FROM u WHERE a = 6"), "34");
    assert_eq!(affected(&mut client, "UPDATE u SET a = 100 WHERE a >= 5 AND a < 6"), 5);
    assert_eq!(affected(&mut client, "DELETE FROM u WHERE a = 100"), 5);
    assert_eq!(rows(&mut client, "SELECT COUNT(*) FROM u WHERE a > 4"), "5");
    // What a transaction has written itself is among them.
    client.done("BEGIN");
    client.done("UPDATE u SET a = -1 WHERE id = 20");
    client.done("INSERT INTO u VALUES (50, -2, 's2')");
    assert_eq!(rows(&mut client, "SELECT id FROM u ORDER BY a DESC, id LIMIT 1"), "6");
    assert_eq!(rows(&mut client, "SELECT MIN(a) FROM u"), "-2");
    client.done("ROLLBACK");
    let explained = |client: &mut Client, text: &str| rows(client, &format!("EXPLAIN {text}"));
    assert_eq!(
        explained(&mut client, "SELECT id FROM u WHERE s IN ('s1', 's2') ORDER BY s"),
        "SELECT,d.u,2 ranges of index sa at every worker, in order,at the data nodes,2"
    );
}

#[test]
fn tables_are_joined() {
    let (mut client, faults) = client();
    client.done("CREATE TABLE u (id INT PRIMARY KEY, t_id INT, v INT, KEY (t_id))");
    // More than go to the next step at a time.
    let values: Vec<String> = (0..2000).map(|id| format!("({id}, 's{}', {})", id % 7, id % 100)).collect();
    client.done(&format!("INSERT INTO t VALUES {}", values.join(", ")));
    let values: Vec<String> = (0..1500).map(|id| format!("({id}, {}, {id})", id * 2)).collect();
    client.done(&format!("INSERT INTO u VALUES {}", values.join(", ")));
    let asked = |client: &mut Client, text: &str| rows(client, text);
    assert_eq!(asked(&mut client, "SELECT COUNT(*), SUM(u.v) FROM u JOIN t ON t.id = u.t_id"), "1000,499500");
    assert_eq!(
        asked(&mut client, "SELECT COUNT(*), COUNT(t.id) FROM u LEFT JOIN t ON t.id = u.t_id"),
        "1500,1000"
    );
    assert_eq!(
        asked(&mut client, "SELECT COUNT(*), COUNT(u.id) FROM t LEFT JOIN u ON u.t_id = t.id"),
        "2000,1000"
    );
    assert_eq!(asked(&mut client, "SELECT COUNT(*) FROM t x JOIN t y ON x.n = y.n"), "40000");
    assert_eq!(asked(&mut client, "SELECT COUNT(*) FROM u JOIN t ON t.id < 3 AND u.id > 1498"), "3");
    assert_eq!(
        asked(&mut client, "SELECT COUNT(*) FROM t WHERE id IN (SELECT t_id FROM u WHERE v < 10)"),
        "10"
    );
    assert_eq!(
        asked(&mut client, "SELECT COUNT(*) FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.t_id = t.id)"),
        "1000"
    );
    assert_eq!(
        asked(&mut client, "SELECT u.id FROM u JOIN t ON t.id = u.t_id ORDER BY u.id DESC LIMIT 2"),
        "999 998"
    );
    assert_eq!(
        asked(
            &mut client,
            "EXPLAIN SELECT 1 FROM t JOIN u ON u.t_id = t.id LEFT JOIN t y ON y.id = u.v WHERE t.n = 3"
        ),
        "SELECT,d.t,scan of all partitions,at the data nodes,4 SELECT,d.u,by index t_id, for all rows so far,,NULL \
         SELECT,d.t y,by primary key, for all rows so far, or NULLs,,NULL"
    );
    // What the transaction has written is joined, too.
    client.done("BEGIN");
    client.done("UPDATE u SET t_id = 1 WHERE id < 3");
    assert_eq!(
        asked(&mut client, "SELECT t.id, u.id FROM t JOIN u ON u.t_id = t.id WHERE t.id < 5 ORDER BY u.id"),
        "1,0 1,1 1,2"
    );
    assert_eq!(
        asked(&mut client, "SELECT u.id FROM t JOIN u ON u.t_id = t.id WHERE t.id = 1 ORDER BY 1 FOR UPDATE"),
        "0 1 2"
    );
    client.done("ROLLBACK");
    faults.lock().unwrap().push(Error::new(ErrorCode::Overloaded, "x"));
    assert_eq!(client.query("SELECT 1 FROM u JOIN t ON t.id = u.t_id").number(), 1297);
    client.done("CREATE TABLE w (id INT PRIMARY KEY, s TEXT)");
    let values: Vec<String> = (0..40).map(|id| format!("({id}, '{}')", "x".repeat(30_000))).collect();
    client.done(&format!("INSERT INTO w VALUES {}", values.join(", ")));
    let heard = client.query("SELECT COUNT(*) FROM (SELECT x.s FROM w x, w y) z");
    assert_eq!(heard.number(), 1038, "what is made is bounded");
    assert_eq!(
        asked(&mut client, "SELECT (SELECT MAX(id) FROM u) FROM t WHERE id = (SELECT MIN(v) FROM u)"),
        "1499"
    );
    assert_eq!(client.query("SELECT (SELECT id FROM u)").number(), 1242);
}

#[test]
fn queries_as_deep_as_they_may_be_fit_the_stack() {
    let (mut client, _) = client();
    client.done("INSERT INTO t VALUES (1, 'a', 1)");
    let nested = |depth: usize, begin: &str, end: &str| {
        format!("{}SELECT id FROM t{}", begin.repeat(depth), end.repeat(depth))
    };
    for (begin, end) in [
        ("SELECT (", ")"),
        ("SELECT id FROM t WHERE id IN (", ")"),
        ("SELECT x.id FROM t x WHERE EXISTS (SELECT 1 FROM t WHERE t.id = x.id) AND x.id IN (", ")"),
        ("SELECT * FROM (", ") q"),
    ] {
        let numbers: Vec<u16> =
            (1..50).map(|depth| client.query(&nested(depth, begin, end)).number()).collect();
        let done = numbers.iter().take_while(|&&number| number == 0).count();
        assert!(done == 8 && numbers[done..].iter().all(|&number| number == 1436), "{begin}: {numbers:?}");
    }
}

#[test]
fn rows_are_written_and_read() {
    let (mut client, _) = client();
    assert_eq!(affected(&mut client, "INSERT INTO t VALUES (1, 'a', 10), (2, 'b', NULL), (3, 'c', 30)"), 3);
    assert_eq!(rows(&mut client, "SELECT * FROM t WHERE id = 2"), "2,b,NULL");
    assert_eq!(rows(&mut client, "SELECT s FROM t WHERE id IN (3, 1, 7) ORDER BY id"), "a c");
    assert_eq!(rows(&mut client, "SELECT COUNT(*), SUM(n), AVG(n), MIN(s) FROM t"), "3,40,20.0000,a");
    assert_eq!(rows(&mut client, "SELECT n IS NULL AS x, COUNT(*) FROM t GROUP BY x ORDER BY x"), "0,2 1,1");
    assert_eq!(rows(&mut client, "SELECT id FROM t WHERE n > 5 ORDER BY n DESC LIMIT 1, 5"), "1");
    assert_eq!(affected(&mut client, "UPDATE t SET n = n + 1 WHERE id = 1"), 1);
    assert_eq!(affected(&mut client, "UPDATE t SET n = 11 WHERE id = 1"), 0, "it is so already");
    assert_eq!(affected(&mut client, "UPDATE t SET n = n * 2, s = CONCAT(s, n)"), 3);
    assert_eq!(rows(&mut client, "SELECT * FROM t ORDER BY id"), "1,a22,22 2,NULL,NULL 3,c60,60");
    assert_eq!(affected(&mut client, "DELETE FROM t ORDER BY id DESC LIMIT 2"), 2);
    assert_eq!(rows(&mut client, "SELECT DISTINCT id FROM t"), "1");
    assert_eq!(affected(&mut client, "TRUNCATE TABLE t"), 0);
    assert_eq!(rows(&mut client, "SELECT * FROM t"), "");
}

#[test]
fn a_transaction_sees_itself_and_goes_back() {
    let (mut client, _) = client();
    client.done("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)");
    client.done("BEGIN");
    client.done("UPDATE t SET n = 5 WHERE id = 1");
    client.done("DELETE FROM t WHERE id = 2");
    client.done("INSERT INTO t VALUES (3, 'c', 3)");
    assert_eq!(rows(&mut client, "SELECT id, n FROM t WHERE n > 2 ORDER BY id"), "1,5 3,3");
    client.done("SAVEPOINT x");
    client.done("UPDATE t SET n = n + 100");
    assert_eq!(rows(&mut client, "SELECT SUM(n) FROM t"), "208");
    client.done("ROLLBACK TO x");
    assert_eq!(rows(&mut client, "SELECT SUM(n) FROM t"), "8");
    assert_eq!(client.query("INSERT INTO t VALUES (9, 'z', 9), (3, 'x', 0)").number(), 1062);
    assert_eq!(
        rows(&mut client, "SELECT COUNT(*) FROM t WHERE id = 9"),
        "0",
        "a statement that fails is undone"
    );
    client.done("COMMIT");
    assert_eq!(rows(&mut client, "SELECT id, n FROM t ORDER BY id"), "1,5 3,3");
    client.done("START TRANSACTION READ ONLY");
    assert_eq!(client.query("DELETE FROM t").number(), 1792);
    client.done("ROLLBACK");
    client.done("SET autocommit = 0");
    client.done("DELETE FROM t");
    client.done("ROLLBACK");
    assert_eq!(rows(&mut client, "SELECT COUNT(*) FROM t"), "2");
    assert_eq!(client.query("SET TRANSACTION READ ONLY").number(), 1568, "a SELECT began one");
    client.done("COMMIT");
    client.done("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(client.query("SELECT * FROM t").number(), 1235);
}

#[test]
fn what_the_cluster_says_has_numbers_that_drivers_know() {
    let (mut client, faults) = client();
    let cases = [
        (ErrorCode::Deadlock, 1213),
        (ErrorCode::LockWaitTimeout, 1205),
        (ErrorCode::TableFull, 1114),
        (ErrorCode::NotServing, 1297),
    ];
    for (code, number) in cases {
        faults.lock().unwrap().push(Error::new(code, "x"));
        assert_eq!(client.query("INSERT INTO t VALUES (1, 'a', 1)").number(), number);
        faults.lock().unwrap().push(Error::new(code, "x"));
        assert_eq!(client.query("SELECT * FROM t WHERE id = 1").number(), number);
        faults.lock().unwrap().push(Error::new(code, "x"));
        assert_eq!(client.query("SELECT * FROM t").number(), number, "after the columns");
    }
    assert_eq!(rows(&mut client, "SELECT COUNT(*) FROM t"), "0");
}

#[test]
fn prepared_statements() {
    let (mut client, _) = client();
    client.done("INSERT INTO t VALUES (1, 'a', 10), (2, 'b', 20)");
    client.command(0x16, b"SELECT s, n FROM t WHERE id = ?");
    let prepared = client.payload();
    assert_eq!(&prepared[..9], [0, 1, 0, 0, 0, 2, 0, 1, 0], "statement 1, two columns, one placeholder");
    // The placeholder, the columns, and an end behind either.
    (0..5).for_each(|_| drop(client.payload()));
    let execute = |client: &mut Client, rest: &[u8]| {
        client.command(0x17, &[&[1, 0, 0, 0, 0, 1, 0, 0, 0], rest].concat());
        let first = client.payload();
        if first[0] == 0xff {
            return vec![first];
        }
        (0..3).for_each(|_| drop(client.payload()));
        let row = client.payload();
        if row[0] == 0xfe {
            return Vec::new();
        }
        assert_eq!(client.payload()[0], 0xfe);
        vec![row]
    };
    let row = |text: &[u8], n: u8| vec![[b"\0\0\x01".as_slice(), text, &[n, 0, 0, 0]].concat()];
    assert_eq!(execute(&mut client, &[0, 1, 3, 0, 2, 0, 0, 0]), row(b"b", 20));
    assert_eq!(execute(&mut client, &[0, 0, 1, 0, 0, 0]), row(b"a", 10), "without types");
    assert_eq!(execute(&mut client, &[1, 0]), Vec::<Vec<u8>>::new(), "NULL");
    // A value that is sent ahead, as text; it is used up.
    client.command(0x18, &[1, 0, 0, 0, 0, 0, b'2']);
    assert_eq!(execute(&mut client, &[0, 1, 253, 0]), row(b"b", 20));
    assert_eq!(execute(&mut client, &[0, 0])[0][0], 0xff, "no value");
    client.command(0x19, &[1, 0, 0, 0]);
    assert_eq!(u16::from_le_bytes(execute(&mut client, &[0, 0])[0][1..3].try_into().unwrap()), 1243);
}

#[test]
fn the_protocol_is_kept() {
    let (mut client, _) = client();
    client.command(0x0e, b"");
    assert_eq!(client.payload()[0], 0, "PING");
    client.command(3, b"SELECT 1; SELECT nothing; SELECT 2");
    assert_eq!(client.heard().texts(), [["1"]]);
    assert_eq!(client.heard().number(), 1054, "the rest is not run");
    client.command(2, b"nowhere");
    assert_eq!(client.heard().number(), 1049);
    client.command(4, b"t\0");
    assert_eq!(client.heard().number(), 1235);
    client.command(0x77, b"");
    assert_eq!(client.heard().number(), 1047);
    client.command(3, b"SELECT \xff");
    assert_eq!(client.heard().number(), 1300);
    assert_eq!(rows(&mut client, "SELECT 1"), "1", "it is usable all the while");
    client.command(0x1f, b"");
    assert_eq!(client.payload()[0], 0, "RESET_CONNECTION");
    assert_eq!(rows(&mut client, "SELECT DATABASE()"), "NULL");
    // A packet out of turn ends it.
    client.send_raw(&[1, 0, 0, 9, 0x0e]);
    assert_eq!(client.heard().number(), 1156);
    assert_eq!(client.payload(), b"");
}

#[test]
fn there_are_so_many_connections_and_no_more() {
    let address = serve(Fake::new(), 2);
    let first = Client::connect(address);
    let _second = Client::connect(address);
    let refused = || {
        use std::io::Read;
        let mut answer = [0; 7];
        std::net::TcpStream::connect(address).unwrap().read_exact(&mut answer).unwrap();
        answer[4] == 0xff && answer[5..] == 1040u16.to_le_bytes()
    };
    assert!(refused());
    drop(first);
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while refused() {
        assert!(std::time::Instant::now() < end, "the seat is not free");
    }
}

#[test]
fn numbers_count_by_themselves() {
    let (mut client, _) = client();
    client.done("CREATE TABLE a (id BIGINT AUTO_INCREMENT PRIMARY KEY, s VARCHAR(5))");
    let insert_id = |heard: Heard| match heard {
        Heard::Done { insert_id, .. } => insert_id,
        other => panic!("{other:?}"),
    };
    assert_eq!(insert_id(client.done("INSERT INTO a (s) VALUES ('x'), ('y')")), 1);
    assert_eq!(insert_id(client.done("INSERT INTO a VALUES (NULL, 'z')")), 3);
    assert_eq!(insert_id(client.done("INSERT INTO a VALUES (50, 'z')")), 50);
    assert_eq!(insert_id(client.done("INSERT INTO a VALUES (0, 'z')")), 51);
    client.done("INSERT INTO a VALUES (1000, 'far')");
    assert_eq!(insert_id(client.done("INSERT INTO a (s) VALUES ('z')")), 1001);
    assert_eq!(rows(&mut client, "SELECT LAST_INSERT_ID(), COUNT(*) FROM a"), "1001,7");
}
