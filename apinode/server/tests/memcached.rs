//! What memcached's clients say and hear. The answers in the table are those of memcached 1.6.18, but for its version.

mod common;
#[cfg(feature = "real-memcached")]
mod real_memcached;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use common::{Fake, conversation::Conversation};
use twofold_apinode_server::memcached::Server;
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
    ("stats reset\r\nstats foo\r\n", "RESET\r\nERROR\r\n"),
    ("\r\n\n \r\na\r\nfoo bar\r\nGET a\r\n", "ERROR\r\nERROR\r\nERROR\r\nERROR\r\nERROR\r\nERROR\r\n"),
    ("mn\r\nmg a v\r\nmg a v k Oxy q\r\nmg a Oxy k\r\nmn\r\n", "MN\r\nEN\r\nEN Oxy ka\r\nMN\r\n"),
    (
        "ms a 3 F5 T0 k Oxy\r\nabc\r\nmg a k v s f t Oxy\r\nmg a\r\nget a\r\n",
        "HD ka Oxy\r\nVA 3 ka s3 f5 t-1 Oxy\r\nabc\r\nHD\r\nVALUE a 5 3\r\nabc\r\nEND\r\n",
    ),
    (
        "ms YWI= 1 b k\r\nx\r\nmg YWI= k b v\r\nget ab\r\nmd YWI= b k\r\nmg YWI= b k\r\nmg YWI b\r\n",
        "HD kYWI= b\r\nVA 1 kYWI= b\r\nx\r\nVALUE ab 0 1\r\nx\r\nEND\r\nHD kYWI= b\r\nEN kYWI= b\r\n\
         CLIENT_ERROR error decoding key\r\n",
    ),
    (
        "ms a 1 MA\r\nx\r\nms a 1 MR\r\nx\r\nms a 1 ME\r\nm\r\nms a 1 ME\r\nx\r\nms a 1 MA\r\nn\r\nms a 1 MP F7\r\nl\r\nmg a v f\r\n",
        "NS\r\nNS\r\nHD\r\nNS\r\nHD\r\nHD\r\nVA 3 f0\r\nlmn\r\n",
    ),
    (
        "ms a 1 C5\r\nx\r\nms a 1 q\r\nx\r\nms a 1 C0 k\r\ny\r\nmd a C0\r\nmg a v C0\r\nmd a q\r\nmd a q k\r\n",
        "NF\r\nEX ka\r\nEX\r\nVA 1\r\nx\r\nNF ka\r\n",
    ),
    (
        "ms a 4\r\nbadvalue\r\nms a 3 q\r\nabcd\r\nms a 3 y\r\nabc\r\nms a x\r\nms a 1 MX\r\nx\r\nmg a\r\n",
        "CLIENT_ERROR bad data chunk\r\nERROR\r\nCLIENT_ERROR bad data chunk\r\nERROR\r\nCLIENT_ERROR invalid flag\r\n\
         CLIENT_ERROR bad command line format\r\nCLIENT_ERROR invalid mode for ms M token\r\nEN\r\n",
    ),
    (
        "ma a\r\nma a q k\r\nma a N0 J18446744073709551615 v t\r\nma a v\r\nma a MD D5 v\r\nma a D7 q\r\nma a M+ T100 t\r\n",
        "NF\r\nNF ka\r\nVA 20 t-1\r\n18446744073709551615\r\nVA 1\r\n0\r\nVA 1\r\n0\r\nHD t100\r\n",
    ),
    (
        "ms a 1\r\nx\r\nma a\r\nma a q\r\nms a 0\r\n\r\nma a\r\n",
        "HD\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n\
         CLIENT_ERROR cannot increment or decrement non-numeric value\r\nHD\r\n\
         CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
    ),
    (
        "mg a N100 v t\r\nmg a N100 v t\r\nms a 1 T0\r\nx\r\nmg a N100 v t\r\n",
        "VA 0 t100 W\r\n\r\nVA 0 t100 Z\r\n\r\nHD\r\nVA 1 t-1\r\nx\r\n",
    ),
    (
        "ms a 1 T100\r\nx\r\nmg a R50\r\nmg a R200\r\nmg a R200\r\nmg a T300 t R200\r\nms a 1 T100\r\nx\r\nmg a t T300 t\r\n",
        "HD\r\nHD\r\nHD W\r\nHD Z\r\nHD t300 Z\r\nHD\r\nCLIENT_ERROR duplicate flag\r\n",
    ),
    (
        "ms a 1 T100\r\nx\r\nmd a I T200\r\nmg a v t\r\nmg a v\r\nmd a I q\r\nmg a\r\nms a 1\r\ny\r\nmg a v t\r\nmd b I\r\n",
        "HD\r\nHD\r\nVA 1 t200 X W\r\nx\r\nVA 1 Z X\r\nx\r\nHD X W\r\nHD\r\nVA 1 t-1\r\ny\r\nNF\r\n",
    ),
    ("ms a 1\r\nx\r\nmg a T-1 v\r\nmg a v\r\nmg a T5\r\n", "HD\r\nVA 1\r\nx\r\nEN\r\nEN\r\n"),
    (
        "me a\r\nme\r\nmg\r\nms\r\nmx a\r\n",
        "EN\r\nCLIENT_ERROR bad command line format\r\nERROR\r\nERROR\r\nERROR\r\n",
    ),
    (
        "shutdown\r\nwatch\r\nlru_crawler crawl 1\r\nslabs reassign 1 2\r\ncache_memlimit 1\r\nlru x\r\nextstore x y\r\n",
        "ERROR: shutdown not enabled\r\nCLIENT_ERROR watch commands not allowed\r\nCLIENT_ERROR lru crawler disabled\r\n\
         CLIENT_ERROR slab reassignment disabled\r\nMEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\nERROR\r\nERROR\r\n",
    ),
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
    let mut conversation = Conversation::new(vec![]);
    let heard = pieces.iter().flat_map(|piece| conversation.say(piece)).collect();
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
            Server::new(address.port(), 1, 4).serve(0, listener, fake.start()).await;
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

/// The table against the real one, memcached 1.6.18: `cargo test --features real-memcached`.
#[cfg(feature = "real-memcached")]
#[test]
fn memcached_says_the_same() {
    let real = real_memcached::RealMemcached::start();
    let address = real.address();
    // It hangs up at once on one that hangs up in the middle of a request, and says nothing more.
    let whole = TABLE.iter().filter(|(said, _)| said.ends_with('\n'));
    for (said, heard) in whole {
        say(address, b"delete a noreply\r\ndelete b noreply\r\nmd YWI= b q\r\nquit\r\n");
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

/// What a meta command tells of «cas unique».
fn told(heard: &str) -> u64 {
    let unique = heard.split_ascii_whitespace().find_map(|word| word.strip_prefix('c')?.parse().ok());
    unique.unwrap_or_else(|| panic!("{heard:?} tells none"))
}

#[test]
fn a_unique_that_a_meta_command_tells_is_good_for_one_change() {
    let address = serve(Fake::new());
    let say = |said: String| say(address, said.as_bytes());
    let writes = [
        "ms a 1 c\r\nx\r\n",
        "ms a 1 c MA\r\ny\r\n",
        "ms a 1 c MR T100 F5\r\nz\r\n",
        "mg a c T50\r\n",
        "mg a c v R100\r\n",
        "mg b c N5\r\nmg a c\r\n",
        "md a\r\nma a c N0 J5\r\n",
        "ma a c v D7\r\n",
        "mg a c\r\n",
        "ms a 1 ME\r\nx\r\nmd a\r\nms a 1 ME c\r\n7\r\n",
    ];
    for write in writes {
        let heard = say(write.into());
        let last = heard.rfind(" c").unwrap();
        let unique = told(&heard[last..]);
        assert_ne!(unique, 0, "{write}");
        assert_eq!(say(format!("ms a 1 C{}\r\n0\r\n", unique + 1)), "EX\r\n", "{write}");
        assert_eq!(say(format!("cas a 0 0 1 {unique}\r\n1\r\n")), "STORED\r\n", "{write}");
        assert_eq!(say(format!("md a C{unique}\r\n")), "EX\r\n", "{write}");
    }
    let unique = told(&say("mg a c\r\n".into()));
    assert_eq!(
        say(format!("mg a v C{unique}\r\nma a v C{unique}\r\nma a C{unique}\r\n")),
        "HD\r\nVA 1\r\n2\r\nEX\r\n"
    );
    let heard = say("gets a\r\nmg a c\r\nme a\r\n".into());
    let unique = told(&heard);
    assert!(heard.starts_with(&format!("VALUE a 0 1 {unique}\r\n")), "{heard}");
    let debug = format!("ME a exp=-1 la=0 cas={unique} fetch=no cls=0 size=2\r\n");
    assert!(heard.ends_with(&debug), "{heard}");
    // What is left of its life counts below 0, as memcached has it.
    let lives = say("set e 0 100 1\r\n1\r\nme e\r\n".into());
    assert!(
        lives.starts_with("STORED\r\nME e exp=-100 ") || lives.starts_with("STORED\r\nME e exp=-99 "),
        "{lives}"
    );
    assert_eq!(say(format!("md a C{unique}\r\n")), "HD\r\n");
}

#[test]
fn an_item_may_have_a_unique_of_the_clients() {
    let address = serve(Fake::new());
    let heard = say(
        address,
        b"ms a 1 E7 c\r\nx\r\ngets a\r\nms a 1 C7 E18446744073709551615 c\r\ny\r\nma a E1\r\nmg a c\r\n\
          ma n N0 E9 c\r\nma n C9 E10 c\r\nmg v N0 E11 c\r\nmd v C11 x E12\r\nmg v c\r\nmd v I E13\r\nmg v c\r\nmg v c\r\n\
          set a 0 0 1\r\nx\r\nms a 1 C1\r\nx\r\n",
    );
    let expected = "HD c7\r\nVALUE a 0 1 7\r\nx\r\nEND\r\nHD c18446744073709551615\r\n\
        CLIENT_ERROR cannot increment or decrement non-numeric value\r\nHD c18446744073709551615\r\n\
        HD c9\r\nHD c10\r\nHD c11 W\r\nHD\r\nHD c12\r\nHD\r\nHD c13 X W\r\nHD c13 Z X\r\nSTORED\r\nEX\r\n";
    assert_eq!(heard, expected);
}

#[test]
fn an_older_unique_may_store_what_is_stale() {
    let address = serve(Fake::new());
    let heard = say(
        address,
        b"ms a 1 E100 T500\r\nx\r\nms a 1 C99\r\ny\r\nms a 1 C101 I\r\ny\r\nms a 1 C99 I T9 F3\r\ny\r\nmg a v t f\r\nmg a v\r\n\
          ms a 1 C0 I\r\nz\r\n",
    );
    let expected = "HD\r\nEX\r\nEX\r\nHD\r\nVA 1 t500 f3 X W\r\ny\r\nVA 1 Z X\r\ny\r\nEX\r\n";
    assert_eq!(heard, expected);
}

/// What 1.6.18 has not yet.
#[test]
fn newer_flags() {
    let address = serve(Fake::new());
    let heard = say(
        address,
        b"ms a 1 MA N100 s k\r\nx\r\nms a 2 MP N100 s\r\nyz\r\nmg a v t\r\nmd a x\r\nmg a v\r\nms a 2 s F3\r\nzz\r\n\
          md a x I\r\nmg a v f\r\nmd b x\r\nma c N0 q\r\nmg c v\r\n",
    );
    let expected = "HD s1 ka\r\nHD s3\r\nVA 3 t100\r\nyzx\r\nHD\r\nVA 0\r\n\r\nHD s2\r\nHD\r\nVA 0 f0 X W\r\n\r\nNF\r\n\
        VA 1\r\n0\r\n";
    assert_eq!(heard, expected);
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
        tokio::task::spawn_local(Server::new(address.port(), 1, 4).serve(0, listener, Fake::new().start()));
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
    let none =
        "STAT active_slabs 0\r\nSTAT total_malloced 0\r\nEND\r\nEND\r\nSTAT sizes_status disabled\r\nEND\r\n";
    let refused = "CLIENT_ERROR stats cachedump not allowed\r\nCLIENT_ERROR stats detail not allowed\r\n";
    let said = b"stats slabs\r\nstats items\r\nstats sizes\r\nstats cachedump 1 1\r\nstats detail on\r\n";
    assert_eq!(say(address, said), format!("{none}{refused}"));
    let fourth = connect(address);
    let mut fifth = connect(address);
    let mut heard = String::new();
    fifth.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "ERROR Too many open connections\r\n");
    drop((open, fourth));
}
