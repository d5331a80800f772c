//! What memcached's clients say and hear. The answers in the table are those of memcached 1.6.18, but for its version.

mod common;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use common::Fake;
use twofold_apinode::{
    memcached::{Connection, Step, item::Items},
    request::{Answer, Options, Request},
};
use twofold_apinode_server::{handle::Handle, memcached::Server};
use twofold_proto::error::{Error, ErrorCode};

/// What is said on a new connection to an empty cache, and what is heard. `V` stands for the version.
const TABLE: &[(&str, &str)] = &[
    ("get a\r\n", "END\r\n"),
    ("set a 5 0 3\r\nabc\r\nget a\r\n", "STORED\r\nVALUE a 5 3\r\nabc\r\nEND\r\n"),
    ("set a 5 0 0\r\n\r\nget a b a\r\n", "STORED\r\nVALUE a 5 0\r\n\r\nVALUE a 5 0\r\n\r\nEND\r\n"),
    (
        "set a 4294967295 0 4\r\n\r\n\r\n\r\nget a\r\n",
        "STORED\r\nVALUE a 4294967295 4\r\n\r\n\r\n\r\nEND\r\n",
    ),
    ("set a 0 0 1\nx\r\nget a\nget b\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\nEND\r\n"),
    ("set a 0 -1 1\r\nx\r\nget a\r\n", "STORED\r\nEND\r\n"),
    ("set a 0 1 1\r\nx\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n"),
    ("set a 0 2000000000 1\r\nx\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n"),
    ("set a 0 3000000 1\r\nx\r\nget a\r\n", "STORED\r\nEND\r\n"),
    ("set a 0 0 1 noreply\r\nx\r\nget a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n"),
    ("set a 0 0 1 norepl\r\nx\r\n", "STORED\r\n"),
    ("set a 0 0 4\r\nbadvalue\r\nget a\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\nEND\r\n"),
    ("set a 0 0 4 noreply\r\nbadvalue\r\n", "ERROR\r\n"),
    ("set a -1 0 1\r\nx\r\n", "CLIENT_ERROR bad command line format\r\nERROR\r\n"),
    ("set a 0 0 -1\r\n", "CLIENT_ERROR bad command line format\r\n"),
    ("set a 0 0\r\nset a 0 0 1 noreply x\r\n", "ERROR\r\nERROR\r\n"),
    (
        "add a 1 0 1\r\nx\r\nadd a 2 0 1\r\ny\r\nget a\r\n",
        "STORED\r\nNOT_STORED\r\nVALUE a 1 1\r\nx\r\nEND\r\n",
    ),
    ("set a 0 -1 1\r\nx\r\nadd a 2 0 1\r\ny\r\n", "STORED\r\nSTORED\r\n"),
    (
        "replace a 1 0 1\r\nx\r\nset a 1 0 1\r\nx\r\nreplace a 2 0 1\r\ny\r\nget a\r\n",
        "NOT_STORED\r\nSTORED\r\nSTORED\r\nVALUE a 2 1\r\ny\r\nEND\r\n",
    ),
    ("append a 0 0 1\r\nx\r\nprepend a 0 0 1\r\nx\r\n", "NOT_STORED\r\nNOT_STORED\r\n"),
    (
        "set a 5 0 1\r\nm\r\nappend a 7 -1 1\r\nn\r\nprepend a 0 0 1\r\nl\r\nget a\r\n",
        "STORED\r\nSTORED\r\nSTORED\r\nVALUE a 5 3\r\nlmn\r\nEND\r\n",
    ),
    ("cas a 0 0 1 5\r\nx\r\n", "NOT_FOUND\r\n"),
    (
        "set a 0 0 1\r\nx\r\ncas a 0 0 1 0\r\ny\r\ncas a 0 0 1 x\r\ny\r\nget a\r\n",
        "STORED\r\nEXISTS\r\nCLIENT_ERROR bad command line format\r\nERROR\r\nVALUE a 0 1\r\nx\r\nEND\r\n",
    ),
    ("delete a\r\nset a 0 0 1\r\nx\r\ndelete a\r\nget a\r\n", "NOT_FOUND\r\nSTORED\r\nDELETED\r\nEND\r\n"),
    (
        "set a 0 0 1\r\nx\r\ndelete a 0\r\ndelete a 5\r\ndelete a 0 noreply\r\ndelete a b c d\r\n",
        "STORED\r\nDELETED\r\nCLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\nERROR\r\n",
    ),
    (
        "incr a 1\r\nset a 0 0 2\r\n18\r\nincr a 5\r\nincr a x\r\ndecr a 100\r\nget a\r\n",
        "NOT_FOUND\r\nSTORED\r\n23\r\nCLIENT_ERROR invalid numeric delta argument\r\n0\r\nVALUE a 0 2\r\n0 \r\nEND\r\n",
    ),
    (
        "set a 3 0 2\r\n10\r\ndecr a 1\r\nget a\r\nincr a 99\r\nget a\r\n",
        "STORED\r\n9\r\nVALUE a 3 2\r\n9 \r\nEND\r\n108\r\nVALUE a 3 3\r\n108\r\nEND\r\n",
    ),
    (
        "set a 0 0 20\r\n18446744073709551615\r\nincr a 1\r\nget a\r\n",
        "STORED\r\n0\r\nVALUE a 0 20\r\n0                   \r\nEND\r\n",
    ),
    (
        "set a 0 0 3\r\nabc\r\nincr a 1\r\n",
        "STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
    ),
    (
        "set a 0 0 0\r\n\r\ndecr a 1\r\n",
        "STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
    ),
    ("set a 0 0 1\r\n1\r\nincr a 1 noreply\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\n2\r\nEND\r\n"),
    (
        "touch a 0\r\nset a 0 0 1\r\nx\r\ntouch a -1\r\nget a\r\ntouch a 0\r\n",
        "NOT_FOUND\r\nSTORED\r\nTOUCHED\r\nEND\r\nNOT_FOUND\r\n",
    ),
    (
        "set a 1 0 1\r\nx\r\ngat 10 a b a\r\ngat -1 a\r\nget a\r\n",
        "STORED\r\nVALUE a 1 1\r\nx\r\nVALUE a 1 1\r\nx\r\nEND\r\nVALUE a 1 1\r\nx\r\nEND\r\nEND\r\n",
    ),
    ("gat 10\r\ngat x a\r\ngats\r\n", "END\r\nCLIENT_ERROR invalid exptime argument\r\nERROR\r\n"),
    (
        "set a 0 0 1\r\nx\r\nset b 0 0 1\r\ny\r\nflush_all\r\nget a b\r\nadd a 0 0 1\r\nz\r\n",
        "STORED\r\nSTORED\r\nOK\r\nEND\r\nSTORED\r\n",
    ),
    (
        "set a 0 0 1\r\nx\r\nflush_all 100\r\nflush_all x\r\nflush_all noreply\r\nget a\r\n",
        "STORED\r\nOK\r\nCLIENT_ERROR invalid exptime argument\r\nEND\r\n",
    ),
    (
        "verbosity 1\r\nverbosity\r\nverbosity x\r\nversion\r\n",
        "OK\r\nERROR\r\nCLIENT_ERROR bad command line format\r\nVERSION V\r\n",
    ),
    ("stats reset\r\nstats items\r\nstats foo\r\n", "RESET\r\nEND\r\nERROR\r\n"),
    ("\r\n\n \r\na\r\nfoo bar\r\nGET a\r\n", "ERROR\r\nERROR\r\nERROR\r\nERROR\r\nERROR\r\nERROR\r\n"),
    ("quit\r\nget a\r\n", ""),
    ("get a\r\nGET / HTTP/1.1\r\nget a\r\n", "END\r\n"),
    // What was said before half a request is answered.
    ("set a 0 0 1\r\nx\r\nset b 0 0 10\r\nhalf", "STORED\r\n"),
    ("set a 0 0 1\r\nx\r\nget a", "STORED\r\n"),
];

fn version() -> String {
    concat!("1.6.18-twofold-", env!("CARGO_PKG_VERSION")).into()
}

/// The conversation without sockets: the input in these pieces.
fn converse(pieces: &[&[u8]]) -> String {
    let mut fake = Fake::new();
    let mut connection = Connection::new();
    let mut heard = Vec::new();
    for piece in pieces {
        connection.input().extend_from_slice(piece);
        loop {
            let items =
                fake.tables().newest().table("memcached").and_then(|schema| Items::new(schema.clone()));
            let step = connection.step(Handle::now(), items.as_ref());
            heard.extend_from_slice(connection.output());
            connection.sent(connection.output().len());
            match step {
                Step::Read => break,
                Step::Close => return String::from_utf8(heard).unwrap(),
                Step::Execute(operations) => {
                    let options = Options::default();
                    let Answer::Operations(results) =
                        fake.answer(Request::Independent { operations, options })
                    else {
                        panic!("no results");
                    };
                    connection.executed(&results);
                }
                Step::FlushAll { at } => {
                    if at <= Handle::now() {
                        fake.answer(Request::DropTable("memcached".into()));
                        fake.answer(Request::CreateTable(twofold_apinode::memcached::item::table()));
                    }
                    connection.said(Ok("OK"));
                }
                Step::Stats { kind } => match &kind[..] {
                    b"items" => connection.said(Ok("END")),
                    b"reset" => connection.said(Ok("RESET")),
                    _ => connection.said(Ok("ERROR")),
                },
            }
        }
    }
    String::from_utf8(heard).unwrap()
}

#[test]
fn conversations_cut_anywhere_are_the_same() {
    for (said, heard) in TABLE {
        let (said, heard) = (said.as_bytes(), heard.replace("VERSION V", &format!("VERSION {}", version())));
        assert_eq!(converse(&[said]), heard, "to {:?}", String::from_utf8_lossy(said));
        for cut in 1..said.len() {
            let (first, second) = said.split_at(cut);
            assert_eq!(
                converse(&[first, second]),
                heard,
                "to {:?}, {:?}",
                String::from_utf8_lossy(first),
                second
            );
        }
        let bytes: Vec<&[u8]> = said.chunks(1).collect();
        assert_eq!(converse(&bytes), heard, "to {:?}, byte by byte", String::from_utf8_lossy(said));
    }
}

/// Serves in a thread of its own for the time of the test.
fn serve(fake: Fake) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        twofold_runtime::thread::runtime().unwrap().block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            sender.send(address).unwrap();
            Server::new(address.port(), 1, 4).serve(listener, fake.start()).await;
        });
    });
    receiver.recv().unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Says this, and hears what comes until the server has nothing more to say.
fn say(address: SocketAddr, said: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(said).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    String::from_utf8(heard).unwrap()
}

#[test]
fn conversations_over_sockets() {
    for (said, heard) in TABLE {
        let address = serve(Fake::new());
        assert_eq!(say(address, said.as_bytes()).replace(&version(), "V"), *heard, "to {said:?}");
    }
}

/// The table against the real one, memcached 1.6.18:
/// `memcached -p 11299 & TWOFOLD_MEMCACHED=127.0.0.1:11299 cargo test --features real-memcached`.
#[cfg(feature = "real-memcached")]
#[test]
fn memcached_says_the_same() {
    let address =
        std::env::var("TWOFOLD_MEMCACHED").expect("TWOFOLD_MEMCACHED is host:port").parse().unwrap();
    // It hangs up at once on one that hangs up in the middle of a request, and says nothing more.
    let whole = TABLE.iter().filter(|(said, _)| said.ends_with('\n'));
    for (said, heard) in whole {
        say(address, b"delete a noreply\r\ndelete b noreply\r\nquit\r\n");
        let answer = say(address, format!("{said}quit\r\n").as_bytes());
        assert_eq!(answer.replace(&version(), "V").replace("1.6.18", "V"), *heard, "to {said:?}");
    }
}

#[test]
fn a_unique_is_good_for_one_change() {
    let address = serve(Fake::new());
    let unique = |heard: &str| heard.lines().next().unwrap().rsplit(' ').next().unwrap().to_string();
    let first = unique(&say(address, b"set a 0 0 1 noreply\r\nx\r\ngets a\r\n"));
    assert_eq!(say(address, format!("cas a 1 0 1 {first}\r\ny\r\n").as_bytes()), "STORED\r\n");
    assert_eq!(say(address, format!("cas a 1 0 1 {first}\r\nz\r\n").as_bytes()), "EXISTS\r\n");
    let heard = say(address, b"gats 100 a\r\n");
    assert!(heard.starts_with("VALUE a 1 1 ") && heard.ends_with("\r\ny\r\nEND\r\n"), "{heard}");
    let touched = unique(&heard);
    assert_eq!(
        say(address, format!("cas a 1 0 1 {touched} noreply\r\nz\r\nget a\r\n").as_bytes()),
        "VALUE a 1 1\r\nz\r\nEND\r\n"
    );
}

#[test]
fn large_values() {
    let address = serve(Fake::new());
    let value = "x".repeat(1 << 20);
    let heard = say(address, format!("set a 0 0 1048576\r\n{value}\r\nget a\r\n").as_bytes());
    assert_eq!(heard, format!("STORED\r\nVALUE a 0 1048576\r\n{value}\r\nEND\r\n"));
    assert_eq!(say(address, b"append a 0 0 1\r\nx\r\n"), "NOT_STORED\r\n");
    let heard = say(address, format!("set a 0 0 1048577\r\n{value}x\r\nget a\r\n").as_bytes());
    assert_eq!(heard, "SERVER_ERROR object too large for cache\r\nEND\r\n");
    let key = "k".repeat(250);
    assert_eq!(
        say(address, format!("set {key} 0 0 1\r\nx\r\nget {key}k\r\n").as_bytes()),
        "STORED\r\nCLIENT_ERROR bad command line format\r\n"
    );
}

#[test]
fn a_slow_reader_is_waited_for() {
    let address = serve(Fake::new());
    let value = "x".repeat(1 << 20);
    say(address, format!("set a 0 0 1048576\r\n{value}\r\n").as_bytes());
    let mut slow = connect(address);
    // 200 MiB of answers; the server stops reading when nobody takes them, so not all of this can be said at once.
    for _ in 0..200 {
        slow.write_all(b"get a\r\n").unwrap();
    }
    assert_eq!(say(address, b"get b\r\n"), "END\r\n", "others are served meanwhile");
    slow.write_all(b"quit\r\n").unwrap();
    let mut heard = Vec::new();
    slow.read_to_end(&mut heard).unwrap();
    assert_eq!(heard.len(), 200 * ("VALUE a 0 1048576\r\n".len() + (1 << 20) + "\r\nEND\r\n".len()));
}

#[test]
fn a_flush_with_delay_comes_later() {
    let address = serve(Fake::new());
    let keys: String = (0..100).map(|n| format!("set k{n} 0 0 1 noreply\r\nx\r\n")).collect();
    assert_eq!(say(address, keys.as_bytes()), "");
    assert_eq!(say(address, b"flush_all 1\r\nget k7\r\n"), "OK\r\nVALUE k7 0 1\r\nx\r\nEND\r\n");
    let deadline = Instant::now() + Duration::from_secs(30);
    while say(address, b"get k7\r\n") != "END\r\n" {
        assert!(Instant::now() < deadline, "the flush has not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn of_flushes_with_delay_one_waits() {
    twofold_runtime::thread::runtime().unwrap().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(Server::new(address.port(), 1, 4).serve(listener, Fake::new().start()));
        let said =
            format!("set a 0 0 1\r\nx\r\n{}flush_all 2000000\r\n", "flush_all 1 noreply\r\n".repeat(500));
        let heard = tokio::task::spawn_blocking(move || say(address, said.as_bytes())).await.unwrap();
        assert_eq!(heard, "STORED\r\nOK\r\n");
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        // The listener, the cluster, the flush, the connection perhaps.
        let deadline = Instant::now() + Duration::from_secs(30);
        while tasks() > 4 {
            assert!(Instant::now() < deadline, "{} tasks", tasks());
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(tasks() < 100, "{} tasks", tasks());
        }
        // The last one counts: it is far away.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let heard = tokio::task::spawn_blocking(move || say(address, b"get a\r\n")).await.unwrap();
        assert_eq!(heard, "VALUE a 0 1\r\nx\r\nEND\r\n");
    });
}

#[test]
fn errors_of_the_cluster_are_told() {
    let fake = Fake::new();
    let faults = fake.faults();
    let address = serve(fake);
    let fail = |code| faults.lock().unwrap().push(Error::new(code, "no luck"));
    fail(ErrorCode::TableFull);
    assert_eq!(say(address, b"set a 0 0 1\r\nx\r\n"), "SERVER_ERROR out of memory storing object\r\n");
    fail(ErrorCode::NotServing);
    let error = "SERVER_ERROR TF-3001: no luck; try again in a moment\r\n";
    assert_eq!(say(address, b"get a b\r\n"), error);
    fail(ErrorCode::NotServing);
    assert_eq!(say(address, b"flush_all\r\n"), error);
}

#[test]
fn connections_and_commands_are_counted() {
    let address = serve(Fake::new());
    let open: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
    let heard = say(address, b"set a 0 0 1\r\nx\r\nget a b\r\nstats\r\nstats settings\r\n");
    for line in [
        "STAT curr_connections 4",
        "STAT cmd_get 2",
        "STAT cmd_set 1",
        "STAT get_hits 1",
        "STAT item_size_max 1048576",
    ] {
        assert!(heard.contains(&format!("{line}\r\n")), "{line} in {heard}");
    }
    let fourth = connect(address);
    let mut fifth = connect(address);
    let mut heard = String::new();
    fifth.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "ERROR Too many open connections\r\n");
    drop((open, fourth));
}
