use proptest::prelude::*;

use super::*;

/// All commands in the input, in words, and what is left of it.
fn read(parser: &mut Parser, mut rest: &[u8]) -> (Vec<String>, usize) {
    let mut commands = Vec::new();
    while let Some(command) = parser.next(&mut rest) {
        commands.push(format!("{command:?}"));
        if matches!(command, Command::Close(_)) {
            return (commands, 0);
        }
    }
    (commands, rest.len())
}

fn only(line: &str) -> Command<'_> {
    let mut rest = line.as_bytes();
    let command = Parser::default().next(&mut rest).expect("a whole command");
    assert_eq!(rest, b"", "{line:?} is read to its end");
    command
}

fn says(line: &str) -> &'static str {
    match only(line) {
        Command::Say(text) => text,
        other => panic!("{line:?} is {other:?}"),
    }
}

#[test]
fn gets() {
    let keys = |keys: &'static str| Keys(keys.as_bytes());
    assert_eq!(only("get a\r\n"), Command::Get { keys: keys(" a"), cas: false, touch: None });
    assert_eq!(only("  gets a  b\n"), Command::Get { keys: keys(" a  b"), cas: true, touch: None });
    assert_eq!(only("gat -3 a b\r\n"), Command::Get { keys: keys(" a b"), cas: false, touch: Some(-3) });
    assert_eq!(only("gats  9  a\r\n"), Command::Get { keys: keys("  a"), cas: true, touch: Some(9) });
    assert_eq!(only("gat 10\r\n"), Command::Get { keys: keys(""), cas: false, touch: Some(10) });
    assert_eq!(keys(" a  b ").iter().collect::<Vec<_>>(), [b"a", b"b"]);
    let long = "k".repeat(250);
    assert!(matches!(only(&format!("get a {long} b\r\n")), Command::Get { .. }));
    assert_eq!(says(&format!("get a {long}k b\r\n")), BAD_FORMAT);
}

#[test]
fn stores() {
    let stored = Command::Store {
        verb: Verb::Set,
        key: b"a",
        flags: u32::MAX,
        exptime: -1,
        value: b"x\r\ny",
        noreply: false,
    };
    assert_eq!(only("set a 4294967295 -1 4\r\nx\r\ny\r\n"), stored);
    let unique = Command::Store {
        verb: Verb::Cas(u64::MAX),
        key: b"a",
        flags: 0,
        exptime: 0,
        value: b"",
        noreply: true,
    };
    assert_eq!(only("cas a 0 0 0 18446744073709551615 noreply\r\n\r\n"), unique);
    let verbs = [
        ("add", Verb::Add),
        ("replace", Verb::Replace),
        ("append", Verb::Append),
        ("prepend", Verb::Prepend),
    ];
    for (name, expected) in verbs {
        // What stands where noreply may stand is not looked at.
        let line = format!("{name} a 1 2 1 norepl\r\nv\r\n");
        assert!(matches!(only(&line), Command::Store { verb, noreply: false, .. } if verb == expected));
    }
}

#[test]
fn a_value_that_is_too_large_is_skipped() {
    let mut parser = Parser::default();
    let mut rest = &b"set a 0 0 1048577 noreply\r\n"[..];
    let refused = Command::TooLarge { verb: Verb::Set, key: b"a", noreply: true };
    assert_eq!((parser.next(&mut rest), rest), (Some(refused), &b""[..]));
    let value = [&vec![b'\n'; 1_048_577][..], b"\r\nversion\r\n"].concat();
    let (first, second) = value.split_at(1000);
    assert_eq!(read(&mut parser, first), (vec![], 0));
    assert_eq!(read(&mut parser, second), (vec!["Version".to_string()], 0));
    assert!(matches!(
        only(&format!("set a 0 0 1048576\r\n{}\r\n", "x".repeat(1 << 20))),
        Command::Store { .. }
    ));
}

/// As memcached 1.6.18 answers.
#[test]
fn what_makes_no_sense_is_refused_in_memcacheds_words() {
    let long = "k".repeat(251);
    let table = [
        ("get\r\n", "ERROR"),
        ("gats\r\n", "ERROR"),
        ("gat x a\r\n", "CLIENT_ERROR invalid exptime argument"),
        ("\r\n", "ERROR"),
        ("\n", "ERROR"),
        (" \r\n", "ERROR"),
        ("a\r\n", "ERROR"),
        ("foo bar\r\n", "ERROR"),
        ("SET a 0 0 1\r\n", "ERROR"),
        ("mn\r\n", "MN"),
        ("mn x y\r\n", "MN"),
        ("mx a\r\n", "ERROR"),
        ("ms\r\n", "ERROR"),
        ("ms a\r\n", "CLIENT_ERROR bad command line format"),
        ("ms a x\r\n", "CLIENT_ERROR bad command line format"),
        ("ms a -1\r\n", "CLIENT_ERROR bad command line format"),
        ("ms a 1 q\r\nxyz", "CLIENT_ERROR bad data chunk"),
        ("cache_memlimit\r\n", "ERROR"),
        ("cache_memlimit x\r\n", "ERROR"),
        ("cache_memlimit 1\r\n", "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m"),
        ("cache_memlimit 2000000000\r\n", "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes"),
        ("cache_memlimit 64\r\n", "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust"),
        ("shutdown graceful\r\n", "ERROR: shutdown not enabled"),
        ("watch mutations\r\n", "CLIENT_ERROR watch commands not allowed"),
        ("lru_crawler metadump all\r\n", "CLIENT_ERROR lru crawler disabled"),
        ("lru_crawler enable\r\n", "ERROR failed to start lru crawler thread"),
        ("lru_crawler sleep 2000000\r\n", "CLIENT_ERROR sleep must be one second or less"),
        ("lru_crawler sleep x\r\n", "CLIENT_ERROR bad command line format"),
        ("lru_crawler sleep 5\r\n", "OK"),
        ("lru_crawler\r\n", "ERROR"),
        ("slabs reassign 1 2\r\n", "CLIENT_ERROR slab reassignment disabled"),
        ("slabs automove 1\r\n", "OK"),
        ("slabs automove 3\r\n", "ERROR"),
        ("slabs automove x\r\n", "CLIENT_ERROR bad command line format"),
        ("slabs\r\n", "ERROR"),
        ("extstore x\r\n", "ERROR"),
        ("set a -1 0 1\r\n", "CLIENT_ERROR bad command line format"),
        ("set a 4294967296 0 1\r\n", "CLIENT_ERROR bad command line format"),
        ("set a 0 0 -1\r\n", "CLIENT_ERROR bad command line format"),
        ("set a 0 0 2147483646\r\n", "CLIENT_ERROR bad command line format"),
        ("set a 0 x 1\r\n", "CLIENT_ERROR bad command line format"),
        ("set a 0 0 +-1\r\n", "CLIENT_ERROR bad command line format"),
        ("set a 0 0 x noreply\r\n", ""),
        ("set a 0 0\r\n", "ERROR"),
        ("set a 0 0 noreply\r\n", ""),
        ("set a 0 0 1 noreply x\r\n", "ERROR"),
        ("cas a 0 0 1\r\n", "ERROR"),
        ("cas a 0 0 1 x\r\n", "CLIENT_ERROR bad command line format"),
        ("set a 0 0 4\r\nbadv\r\t", "CLIENT_ERROR bad data chunk"),
        ("set a 0 0 4 noreply\r\nbadv\t\n", ""),
        ("delete\r\n", "ERROR"),
        ("delete a 5\r\n", "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"),
        ("delete a 5 noreply\r\n", ""),
        ("delete a 0 0\r\n", "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"),
        ("delete a b c d\r\n", "ERROR"),
        ("touch a\r\n", "ERROR"),
        ("touch a x\r\n", "CLIENT_ERROR invalid exptime argument"),
        ("touch a noreply\r\n", ""),
        ("incr a\r\n", "ERROR"),
        ("incr a 1 2 3\r\n", "ERROR"),
        ("incr a x\r\n", "CLIENT_ERROR invalid numeric delta argument"),
        ("decr a -1\r\n", "CLIENT_ERROR invalid numeric delta argument"),
        ("incr a 18446744073709551616\r\n", "CLIENT_ERROR invalid numeric delta argument"),
        ("flush_all x\r\n", "CLIENT_ERROR invalid exptime argument"),
        ("flush_all 1 2 3\r\n", "ERROR"),
        ("verbosity\r\n", "ERROR"),
        ("verbosity 1\r\n", "OK"),
        ("verbosity 1 noreply\r\n", ""),
        ("verbosity noreply\r\n", ""),
        ("verbosity x\r\n", "CLIENT_ERROR bad command line format"),
        ("verbosity 1 2 3\r\n", "ERROR"),
    ];
    for (line, text) in table {
        assert_eq!(says(line), text, "to {line:?}");
    }
    for line in ["set K 0 0 1\r\n", "incr K 1\r\n", "delete K\r\n", "touch K 0\r\n"] {
        assert_eq!(says(&line.replace('K', &long)), BAD_FORMAT, "to {line:?}");
    }
}

#[test]
fn the_rest() {
    assert_eq!(only("delete a 0 noreply\r\n"), Command::Delete { key: b"a", noreply: true });
    assert_eq!(only("delete noreply\r\n"), Command::Delete { key: b"noreply", noreply: false });
    assert_eq!(only("delete a 0\r\n"), Command::Delete { key: b"a", noreply: false });
    assert_eq!(only("touch a 5\r\n"), Command::Touch { key: b"a", exptime: 5, noreply: false });
    assert_eq!(
        only("decr a 5 noreply\r\n"),
        Command::Count { key: b"a", delta: 5, down: true, noreply: true }
    );
    assert_eq!(only("flush_all\r\n"), Command::FlushAll { delay: 0, noreply: false });
    assert_eq!(only("flush_all noreply\r\n"), Command::FlushAll { delay: 0, noreply: true });
    assert_eq!(only("flush_all 10 noreply\r\n"), Command::FlushAll { delay: 10, noreply: true });
    assert_eq!(only("flush_all 1 2\r\n"), Command::FlushAll { delay: 1, noreply: false });
    assert_eq!(only("stats\r\n"), Command::Stats(b""));
    assert_eq!(only("stats items x\r\n"), Command::Stats(b"items"));
    assert_eq!(only("version x\r\n"), Command::Version);
    assert_eq!(only("quit\r\n"), Command::Close(""));
}

#[test]
fn other_protocols_are_hung_up_on() {
    assert_eq!(Parser::default().next(&mut &b"\x80"[..]), Some(Command::Close("")));
    assert_eq!(only("GET / HTTP/1.1\r\n"), Command::Close(""));
    assert_eq!(only("POST /x HTTP/1.1\r\n"), Command::Close(""));
    assert!(matches!(only("get / HTTP/1.1\r\n"), Command::Get { .. }));
    let endless = |start: &str, length| {
        let line = [start.as_bytes(), &vec![b'k'; length]].concat();
        Parser::default().next(&mut &line[..]).map(|command| format!("{command:?}"))
    };
    let close = |text: &'static str| Some(format!("{:?}", Command::Close(text)));
    assert_eq!(endless("set ", 2040), None);
    assert_eq!(endless("set ", 2050), close(""));
    assert_eq!(endless("get ", 2050), None);
    assert_eq!(endless("get ", LINE_MAX), close("CLIENT_ERROR line too long"));
}

/// Bytes that are almost commands.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "get ",
        "gets ",
        "gat 0 ",
        "set ",
        "cas ",
        "incr ",
        "delete ",
        "touch ",
        "flush_all",
        "stats",
        "mg ",
        "ms ",
        "md ",
        "ma ",
        "me ",
        "mn",
        "b ",
        "T30 ",
        "C5 ",
        "MA ",
        "Oxy ",
        "noreply",
        "a ",
        "b ",
        "0 ",
        "1 ",
        "3 ",
        "-1 ",
        "99999999 ",
        "\r\n",
        "\n",
        "\r",
        "xyz",
        " ",
        "\u{80}",
    ];
    let word = prop_oneof![
        9 => proptest::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn it_is_the_same_however_it_comes_in(bytes in noise(), cuts in proptest::collection::vec(1usize..9, 1..9)) {
        let whole = read(&mut Parser::default(), &bytes);
        let (mut parser, mut held, mut commands, mut left) = (Parser::default(), Vec::new(), Vec::new(), 0);
        let mut bytes = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (now, later) = bytes.split_at((*cut).min(bytes.len()));
            bytes = later;
            held.extend_from_slice(now);
            let (more, rest) = read(&mut parser, &held);
            held.drain(..held.len() - rest);
            commands.extend(more);
            left = rest;
            if bytes.is_empty() || commands.last().is_some_and(|last| last.starts_with("Close")) {
                break;
            }
        }
        prop_assert_eq!((commands, left), whole);
    }
}
