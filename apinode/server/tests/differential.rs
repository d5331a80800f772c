//! Generated conversations: the same bytes to us and to memcached, the same bytes back.
//!
//! What must differ is made the same first: numbers of «cas unique» and times to live are not compared as they are, and what
//! `h`, `l` and `me` tell is not kept here. By `TWOFOLD_SEED` a run begins with another conversation: the seed of one that
//! fails is told.

mod common;
#[cfg(feature = "real-memcached")]
mod real_memcached;

use common::conversation::Conversation;

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

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// A command; a `\0` stands for the «cas unique» that its place among those heard so far says.
#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    uniques: Vec<usize>,
}

/// Makes commands up.
struct Generator {
    random: Random,
    /// Of each «cas unique» that was heard: its key, and whether it is as good as one that memcached tells.
    uniques: Vec<(String, bool)>,
    /// Whether it has sent all answers. While it is yet to send one with an item memcached puts a new one in its place where
    /// it counts: that is not padded, and `T` is forgotten.
    first: bool,
    /// The real one's version is at least that by which meta commands are meant.
    newest: bool,
}

/// Of numbers, which are counted; of other values, which are not, and may be stale; and of those, some in base 64.
const COUNTERS: [&str; 3] = ["n1", "n2", "counter"];
const OTHERS: [&str; 4] = ["a", "b", "key-of-some-length", "k!§$%"];
const BINARY: [&str; 3] = ["AAECAw==", "IAog", "/////w=="];
const FAR: [&str; 7] = ["0", "0", "0", "3000", "2000000", "-1", "2100000000"];

/// What makes no sense, or does nothing here.
const ODD: [&str; 37] = [
    "foo bar",
    "GET a",
    "gat x a",
    "set a 0 0 -1",
    "incr n1 x",
    "decr n1 -1",
    "delete a 0",
    "touch a x",
    "touch a noreply",
    "flush_all x",
    "verbosity x",
    "verbosity 1",
    "verbosity 1 noreply",
    "stats foo",
    "stats reset",
    "cache_memlimit",
    "cache_memlimit x",
    "cache_memlimit 1",
    "cache_memlimit 1 noreply",
    "watch",
    "watch foo",
    "lru_crawler",
    "lru_crawler crawl 1",
    "lru_crawler metadump all",
    "lru_crawler tocrawl x",
    "lru_crawler sleep 9999999",
    "slabs",
    "slabs reassign 1 2",
    "slabs automove x",
    "slabs automove 0",
    "mn",
    "mn x",
    "me",
    "mx a",
    "ms a",
    "ms a x",
    "ms a -1",
];
/// Likewise, in the words of before 1.6.40.
const ODD_BEFORE: [&str; 25] = [
    "",
    " ",
    "x",
    "get",
    "gets",
    "gat 10",
    "set a 0 0",
    "set a 0 0 1 noreply x",
    "set a -1 0 1",
    "set a 0 x 1",
    "set a x 0 x noreply",
    "cas a 0 0 1",
    "incr n1",
    "incr n1 1 2 3",
    "delete",
    "delete a 5",
    "delete a b c d",
    "touch a",
    "verbosity",
    "shutdown",
    "shutdown graceful",
    "mg",
    "ms",
    "md",
    "ma",
];
/// By how much counters are moved; how they go round at their ends is in the table of `memcached.rs`.
const DELTAS: [&str; 5] = ["0", "1", "5", "90", "99999999999"];
/// Flags that make no sense.
const ODD_FLAGS: [&str; 15] =
    ["y", "1", "v v", "T", "Tx", "N", "R", "C", "Cx", "C-1", "F-1", "Fx", "Dx", "Jx", "P P"];
/// Likewise, in the words of before 1.6.40.
const ODD_FLAGS_BEFORE: [&str; 3] = ["M", "MXX", "MX"];

impl Generator {
    fn key(&mut self) -> String {
        let random = &mut self.random;
        if random.one_in(60) {
            // What follows a key that is too long was not skipped before 1.6.40.
            return "k".repeat(249 + random.below(if self.newest { 2 } else { 4 }));
        }
        let all: Vec<&str> = COUNTERS.into_iter().chain(OTHERS).collect();
        random.pick(&all).into()
    }

    fn value(&mut self, key: &str) -> Vec<u8> {
        let random = &mut self.random;
        if COUNTERS.contains(&key) {
            // From 2^63 on memcached looks for a minus behind the number too, in what an older item left there.
            let numbers = ["0", "1", "9", "10", "99", "100", "4611686018427387904", "12x", "-1"];
            return random.pick(&numbers).into();
        }
        let length = match random.below(40) {
            0 => 600_000,
            1 => 5_000,
            _ => random.below(40),
        };
        // No number, and with everything that ends a line.
        let mut value = b"v\r\nEND\r\n VA 3 \0\xff".repeat(length / 16 + 1);
        value.truncate(length);
        value
    }

    fn noreply(&mut self) -> &'static str {
        if self.random.one_in(6) { " noreply" } else { "" }
    }

    /// A «cas unique» of this key: the place of one that was heard, else a number that none has.
    fn unique(&mut self, key: &str, said: &mut Said) -> String {
        let known = self.uniques.iter().rposition(|(of, good)| of == key && *good);
        match known {
            Some(place) if !self.random.one_in(5) => {
                said.uniques.push(place);
                "\0".into()
            }
            _ => self.random.pick(&["1", "0"]).into(),
        }
    }

    /// With us a touch gives an item another «cas unique», so one that was heard before says nothing.
    fn forget(&mut self, key: &str) {
        self.uniques.iter_mut().filter(|(of, _)| of == key).for_each(|(_, good)| *good = false);
    }

    /// What is said before the answers are waited for.
    fn commands(&mut self) -> Vec<Said> {
        let many = if self.random.one_in(4) { 60 } else { 8 };
        let count = 1 + self.random.below(many);
        let command = |place| {
            self.first = place == 0;
            self.command()
        };
        (0..count).map(command).collect()
    }

    fn command(&mut self) -> Said {
        let mut said = Said::default();
        match self.random.below(100) {
            0..24 => self.get(&mut said),
            24..44 => self.store(&mut said),
            44..52 => self.count(&mut said),
            52..58 => {
                let (key, noreply) = (self.key(), self.noreply());
                said.bytes = format!("delete {key}{noreply}\r\n").into();
            }
            58..61 => {
                let (key, noreply) = (self.key(), self.noreply());
                self.forget(&key);
                said.bytes = format!("touch {key} {}{noreply}\r\n", self.random.pick(&FAR)).into();
            }
            61..65 => {
                let before = !self.newest && self.random.one_in(2);
                let odd = if before { self.random.pick(&ODD_BEFORE) } else { self.random.pick(&ODD) };
                said.bytes = format!("{odd}\r\n").into();
            }
            65..66 => said.bytes = format!("flush_all{}\r\n", self.noreply()).into(),
            66..99 => self.meta(&mut said),
            _ => self.broken(&mut said),
        }
        said
    }

    fn get(&mut self, said: &mut Said) {
        let verb = self.random.pick(&["get", "get", "gets", "gets", "gat", "gats"]);
        let mut line = verb.to_string();
        if verb.starts_with("gat") {
            line += &format!(" {}", self.random.pick(&FAR));
        }
        // Only a get may be longer than 2048 bytes.
        let keys = if verb.starts_with("get") && self.random.one_in(20) { 200 } else { 3 };
        for _ in 0..=self.random.below(keys) {
            let mut key = self.key();
            // With one that is too long memcached forgets answers that it has not sent yet.
            key.truncate(250);
            if verb.starts_with("gat") {
                self.forget(&key);
            }
            line += &format!(" {key}");
        }
        said.bytes = format!("{line}{}", self.random.pick(&["\r\n", "\n"])).into();
    }

    fn store(&mut self, said: &mut Said) {
        let (key, noreply) = (self.key(), self.noreply());
        // Numbers with zeros before them get shorter.
        let verbs = ["set", "set", "set", "add", "replace", "cas", "append", "prepend"];
        let verb = self.random.pick(&verbs[..if COUNTERS.contains(&&*key) { 6 } else { 8 }]);
        let (flags, exptime) = (self.random.pick(&["0", "7", "4294967295"]), self.random.pick(&FAR));
        let value = self.value(&key);
        let unique = if verb == "cas" { format!(" {}", self.unique(&key, said)) } else { String::new() };
        let line = format!("{verb} {key} {flags} {exptime} {}{unique}{noreply}\r\n", value.len());
        said.bytes = [line.as_bytes(), &value, b"\r\n"].concat();
    }

    fn count(&mut self, said: &mut Said) {
        let (key, noreply) = (self.key(), self.noreply());
        let verb = if self.first { self.random.pick(&["incr", "decr"]) } else { "incr" };
        let delta = self.random.pick(&DELTAS);
        said.bytes = format!("{verb} {key} {delta}{noreply}\r\n").into();
    }

    /// A value that is too large, or whose end is missing.
    fn broken(&mut self, said: &mut Said) {
        let (mut key, noreply) = (self.key(), self.noreply());
        // One that is too long would have the value taken for a line that is.
        key.truncate(250);
        let large = "x".repeat(1_048_577 + self.random.below(3));
        // What follows an end that is missing is worded otherwise since 1.6.40.
        said.bytes = match self.random.below(if self.newest { 2 } else { 4 }) {
            0 => format!("set {key} 0 0 {}{noreply}\r\n{large}\r\n", large.len()),
            1 => format!("ms {key} {} c\r\n{large}\r\n", large.len()),
            2 => format!("set {key} 0 0 3{noreply}\r\nabcde\r\n"),
            _ => format!("ms {key} 3 q\r\nabcde\r\n"),
        }
        .into();
    }

    fn meta(&mut self, said: &mut Said) {
        let binary = self.random.one_in(5);
        let key = if binary { self.random.pick(&BINARY).to_string() } else { self.key() };
        let counter = COUNTERS.contains(&&*key);
        let mut flags: Vec<String> = if binary { vec!["b".into()] } else { vec![] };
        for flag in ["k", "Oq7", "q", "c"] {
            if self.random.one_in(3) {
                flags.push(flag.into());
            }
        }
        let mut value = Vec::new();
        let line = match self.random.below(20) {
            0..8 => {
                self.meta_get(&key, counter, &mut flags, said);
                format!("mg {key}")
            }
            8..13 => {
                self.meta_set(&key, counter, &mut flags, said);
                value = self.value(&key);
                format!("ms {key} {}", value.len())
            }
            13..16 => {
                self.meta_delete(&key, counter, &mut flags, said);
                format!("md {key}")
            }
            16..19 => {
                self.meta_count(&key, counter, &mut flags, said);
                format!("ma {key}")
            }
            // 1.6.45 does not decode a key of this.
            _ if binary => return self.count(said),
            _ => {
                said.bytes = format!("me {key}\r\n").into();
                return;
            }
        };
        // Order counts, but for what stands in `uniques`: one at most.
        for place in (1..flags.len()).rev() {
            let other = self.random.below(place + 1);
            flags.swap(place, other);
        }
        if self.random.one_in(25) && !(self.newest && line.starts_with("md")) {
            // Nothing else that could be done before the fault is found.
            flags.retain(|flag| flag == "b" || flag == "k");
            let before = !self.newest && self.random.one_in(5);
            let odd = if before { self.random.pick(&ODD_FLAGS_BEFORE) } else { self.random.pick(&ODD_FLAGS) };
            flags.push(odd.into());
            said.uniques.clear();
        }
        said.bytes = format!("{line} {}\r\n", flags.join(" ")).into_bytes();
        if line.starts_with("ms") {
            said.bytes.extend_from_slice(&[&value, &b"\r\n"[..]].concat());
        }
    }

    fn meta_get(&mut self, key: &str, counter: bool, flags: &mut Vec<String>, said: &mut Said) {
        // Numbers may be padded.
        let size = if counter { "v" } else { "s" };
        for flag in ["v", size, "t", "f", "h", "l", "u"] {
            if self.random.one_in(2) && !flags.iter().any(|known| known == flag) {
                flags.push(flag.into());
            }
        }
        // What mg makes, what md leaves without its value, and what has been added to tells its key as if it were not in
        // base 64. That nothing is no number is found out before «cas unique» is looked at, by memcached.
        if !counter && !flags.iter().any(|flag| flag == "b") && self.random.one_in(8) {
            flags.push(format!("N{}", self.random.pick(&FAR[..5])));
        }
        let mut touches = false;
        if self.random.one_in(8) {
            flags.push(format!("T{}", self.random.pick(&FAR)));
            without_what_is_gone(flags);
            touches = true;
        }
        if self.random.one_in(4) && self.newest {
            flags.push(format!("C{}", self.unique(key, said)));
        }
        if touches {
            self.forget(key);
        }
        if !counter && self.random.one_in(8) {
            flags.push(format!("R{}", self.random.pick(&["0", "30", "9000"])));
        }
    }

    fn meta_set(&mut self, key: &str, counter: bool, flags: &mut Vec<String>, said: &mut Said) {
        if self.random.one_in(2) {
            flags.push(format!("T{}", self.random.pick(&FAR)));
        }
        without_what_is_gone(flags);
        if self.random.one_in(2) {
            flags.push(format!("F{}", self.random.pick(&["0", "7", "4294967295"])));
        }
        if self.random.one_in(2) {
            let modes = ["S", "E", "R", "A", "P"];
            let binary = flags.iter().any(|flag| flag == "b");
            flags.push(format!("M{}", self.random.pick(&modes[..if binary || counter { 3 } else { 5 }])));
        }
        if self.random.one_in(3) {
            flags.push(format!("C{}", self.unique(key, said)));
            if !counter && self.random.one_in(2) {
                flags.push("I".into());
            }
        }
        if self.newest && self.random.one_in(4) {
            flags.push(self.random.pick(&["s", "N0", "N3000", "E5000000000000000000"]).into());
        }
    }

    fn meta_delete(&mut self, key: &str, counter: bool, flags: &mut Vec<String>, said: &mut Said) {
        if self.random.one_in(4) {
            flags.push(format!("C{}", self.unique(key, said)));
        }
        if !counter && self.random.one_in(2) {
            flags.push("I".into());
            if self.random.one_in(2) {
                flags.push(format!("T{}", self.random.pick(&FAR)));
            }
        }
        if self.newest && !counter && !flags.iter().any(|flag| flag == "b") && self.random.one_in(4) {
            flags.push("x".into());
            self.forget(key);
        }
    }

    fn meta_count(&mut self, key: &str, counter: bool, flags: &mut Vec<String>, said: &mut Said) {
        let downs: &[&str] = if self.first { &["MD", "M-"] } else { &[] };
        let delta = format!("D{}", self.random.pick(&DELTAS));
        for &flag in downs.iter().chain(&["v", "t", &delta, "J7", "MI", "M+"]) {
            if self.random.one_in(3) && !flags.iter().any(|known| known[..1] == flag[..1]) {
                flags.push(flag.into());
            }
        }
        let quiet = flags.iter().any(|flag| flag == "q");
        // 1.6.18 tells of what it made even when it is to be quiet. A number that is not one of the counters may be stale.
        if counter && (self.newest || !quiet) && self.random.one_in(3) {
            flags.push(format!("N{}", self.random.pick(&FAR[..5])));
        }
        if self.first && self.random.one_in(4) {
            flags.push(format!("T{}", self.random.pick(&FAR[..5])));
        }
        if counter && self.random.one_in(4) {
            flags.push(format!("C{}", self.unique(key, said)));
        }
    }
}

/// With us what is gone has no «cas unique»; memcached has 2^32 seconds and some for the time that it has to live.
fn without_what_is_gone(flags: &mut Vec<String>) {
    if flags.iter().any(|flag| flag == "T-1") {
        flags.retain(|flag| flag != "c" && flag != "t");
    }
}

/// An answer made comparable, with what it told of «cas unique»: each with the key, where one stands beside it.
fn compared(answer: &[u8]) -> (String, Vec<String>) {
    let (mut text, mut uniques, mut rest) = (String::new(), Vec::new(), answer);
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1);
        let (line, behind) = rest.split_at(end);
        let line = String::from_utf8_lossy(line).into_owned();
        let mut words: Vec<String> = line.split(' ').map(String::from).collect();
        if let Some(last) = words.last_mut() {
            last.truncate(last.trim_end().len());
        }
        let value = match &*words[0] {
            "VALUE" => words.get(3).and_then(|length| length.parse::<usize>().ok()),
            "VA" => words.get(1).and_then(|length| length.parse().ok()),
            _ => None,
        };
        match &*words[0] {
            "VALUE" if words.len() == 5 => uniques.push(std::mem::replace(&mut words[4], "C".into())),
            "ME" => words.truncate(2),
            "VERSION" => words.truncate(1),
            "HD" | "VA" | "EX" | "NS" | "NF" => {
                words[1..].iter_mut().for_each(|word| compare_flag(word, &mut uniques));
            }
            _ => {}
        }
        let (value, behind) = behind.split_at(value.map_or(0, |length| length + 2).min(behind.len()));
        let number = value.trim_ascii_end();
        let value = match !number.is_empty() && number.iter().all(u8::is_ascii_digit) {
            // Whether a number is padded depends on what else is under way.
            true => {
                let length = if words[0] == "VA" { 1 } else { 3 };
                words[length] = number.len().to_string();
                number
            }
            false => value,
        };
        text += &format!("{}\n{}", words.join(" "), String::from_utf8_lossy(value));
        text += if value.is_empty() { "" } else { "\n" };
        rest = behind;
    }
    (text, uniques)
}

fn compare_flag(word: &mut String, uniques: &mut Vec<String>) {
    let (Some(letter), Ok(number)) = (word.chars().next(), word.get(1..).unwrap_or("").parse::<u64>()) else {
        return;
    };
    match letter {
        'c' if number > 0 => {
            uniques.push(number.to_string());
            *word = "c".into();
        }
        'h' | 'l' => *word = letter.into(),
        // Seconds may have passed.
        't' => *word = format!("t{}", (number + 500) / 1000),
        _ => {}
    }
}

/// Commands, with what one side has told put in.
fn filled(commands: &[Said], uniques: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for said in commands {
        let mut places = said.uniques.iter();
        match places.next() {
            // It stands in the line; a value may have any byte.
            Some(&place) => {
                let at = said.bytes.iter().position(|&byte| byte == 0).expect("a place for it");
                bytes.extend_from_slice(&said.bytes[..at]);
                bytes.extend_from_slice(uniques[place].as_bytes());
                bytes.extend_from_slice(&said.bytes[at + 1..]);
            }
            None => bytes.extend_from_slice(&said.bytes),
        }
    }
    bytes.extend_from_slice(b"mn end\r\n");
    bytes
}

/// Cut at random.
fn pieces<'a>(random: &mut Random, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let cuts = if bytes.len() > 10_000 { bytes.len() } else { 200 };
    while !bytes.is_empty() && !random.one_in(8) {
        let (piece, rest) = bytes.split_at((1 + random.below(cuts)).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces.push(bytes);
    pieces
}

#[cfg(feature = "real-memcached")]
mod real {
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpStream},
        time::Duration,
    };

    use super::{real_memcached::RealMemcached, *};

    const CONVERSATIONS: u64 = 1000;

    struct Real(TcpStream);

    impl Real {
        fn connect(address: SocketAddr) -> Real {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            Real(stream)
        }

        /// Says this, which ends with an `mn`, and hears all up to the answer to that.
        fn say(&mut self, pieces: &[&[u8]], ends: usize) -> Vec<u8> {
            let mut reader = self.0.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| pieces.iter().try_for_each(|piece| self.0.write_all(piece)));
                let (mut heard, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
                while !(heard.ends_with(b"MN\r\n")
                    && heard.windows(4).filter(|end| end == b"MN\r\n").count() >= ends)
                {
                    let bytes = reader.read(&mut buffer).unwrap_or_default();
                    assert!(bytes > 0, "it says no more to {}", pieces.concat().escape_ascii());
                    heard.extend_from_slice(&buffer[..bytes]);
                }
                heard
            })
        }
    }

    fn is_newest(address: SocketAddr) -> bool {
        let mut real = Real::connect(address);
        let heard = String::from_utf8(real.say(&[b"version\r\nmn\r\n"], 1)).unwrap();
        let numbers: Vec<u32> =
            heard["VERSION ".len()..].split(['.', '\r']).map_while(|n| n.parse().ok()).collect();
        numbers >= vec![1, 6, 40]
    }

    #[test]
    fn memcached_says_the_same_to_conversations_made_up() {
        let server = RealMemcached::start();
        let newest = is_newest(server.address());
        let first =
            std::env::var("TWOFOLD_SEED").map_or(1, |seed| seed.parse().expect("TWOFOLD_SEED is a number"));
        for seed in first..first + CONVERSATIONS {
            converse(server.address(), seed, newest);
        }
    }

    fn converse(address: SocketAddr, seed: u64, newest: bool) {
        let mut generator = Generator { random: Random(seed), uniques: Vec::new(), first: true, newest };
        let (mut ours, mut real) = (Conversation::new(vec![]), Real::connect(address));
        real.say(&[b"flush_all\r\nmn\r\n"], 1);
        let mut known = [Vec::new(), Vec::new()];
        let mut before = Vec::new();
        for _ in 0..=generator.random.below(10) {
            let commands = generator.commands();
            let ends = 1 + commands.iter().filter(|said| said.bytes.starts_with(b"mn")).count();
            let [to_us, to_it] = [filled(&commands, &known[0]), filled(&commands, &known[1])];
            let heard_of_us: Vec<u8> =
                pieces(&mut generator.random, &to_us).iter().flat_map(|piece| ours.say(piece)).collect();
            let heard_of_it = real.say(&pieces(&mut generator.random, &to_it), ends);
            let (us, it) = (compared(&heard_of_us), compared(&heard_of_it));
            before.extend(commands.iter().map(|said| short(&said.bytes)));
            if us.0 != it.0 {
                let line = us.0.lines().zip(it.0.lines()).position(|(a, b)| a != b);
                let version = if newest { "1.6.40 or newer" } else { "before 1.6.40" };
                let [us, it] = [us.0, it.0]
                    .map(|text| text.lines().map(|line| short(line.as_bytes())).collect::<Vec<_>>());
                panic!(
                    "seed {seed}, memcached {version}, line {line:?}\n--- said\n{}\n--- we answer\n{}\n--- it answers\n{}",
                    before.join("\n"),
                    us.join("\n"),
                    it.join("\n"),
                );
            }
            before.push("--- answered".into());
            learn(&mut generator, &mut ours, &mut real, &mut known, &before);
        }
    }

    /// The beginning, to be shown.
    fn short(bytes: &[u8]) -> String {
        bytes[..bytes.len().min(100)].escape_ascii().to_string()
    }

    /// Asks for all «cas unique» there are.
    fn learn(
        generator: &mut Generator,
        ours: &mut Conversation,
        real: &mut Real,
        known: &mut [Vec<String>; 2],
        before: &[String],
    ) {
        let mut all = format!("gets {}\r\n", [&COUNTERS[..], &OTHERS].concat().join(" "));
        all += &BINARY.map(|key| format!("mg {key} b k c\r\n")).concat();
        all += "mn\r\n";
        let us = compared(&ours.say(all.as_bytes()));
        let it = compared(&real.say(&[all.as_bytes()], 1));
        assert_eq!(us.0, it.0, "{}", before.join("\n"));
        let keys = us.0.lines().filter_map(|line| match line.strip_prefix("VALUE ") {
            Some(rest) => rest.split(' ').next(),
            None => line.strip_prefix("HD k").and_then(|rest| rest.split(' ').next()),
        });
        generator.uniques.extend(keys.map(|key| (key.to_string(), true)));
        known[0].extend(us.1);
        known[1].extend(it.1);
        assert_eq!((known[0].len(), known[1].len()), (generator.uniques.len(), generator.uniques.len()));
    }
}

/// Without a memcached beside us: what is said counts, and not how it is cut.
#[test]
fn conversations_made_up_are_the_same_however_they_are_cut() {
    for seed in 0..200 {
        let mut generator =
            Generator { random: Random(seed), uniques: Vec::new(), first: true, newest: true };
        let commands = generator.commands();
        let said = filled(&commands, &[]);
        let whole = compared(&Conversation::new(vec![]).say(&said)).0;
        let mut cut = Conversation::new(vec![]);
        let heard: Vec<u8> =
            pieces(&mut generator.random, &said).iter().flat_map(|piece| cut.say(piece)).collect();
        assert_eq!(compared(&heard).0, whole, "seed {seed}");
    }
}
