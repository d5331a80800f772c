//! The requests and answers of memcached's ASCII protocol, and of Redis', as far as get and set need them.
//!
//! Sources: memcached's `doc/protocol.txt`; Redis' serialization protocol, version 2.

use std::ops::ControlFlow;

/// Bytes of a key: `key:` and digits.
pub const KEY_BYTES: usize = 16;
/// Keys are below this.
pub const KEYS_MAX: u64 = 1_000_000_000_000;
const PREFIX: &[u8; 4] = b"key:";
/// A line of an answer is no longer than that: a VALUE line has a key of 250 bytes and three numbers.
const LINE_MAX: usize = 512;

/// Appends the key of this number.
#[inline]
pub fn put_key(number: u64, out: &mut Vec<u8>) {
    let mut key = [b'0'; KEY_BYTES];
    key[..PREFIX.len()].copy_from_slice(PREFIX);
    let (mut rest, mut place) = (number, KEY_BYTES);
    while rest > 0 {
        place -= 1;
        key[place] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&key);
}

fn key_number(key: &[u8]) -> Option<u64> {
    let digits = key.strip_prefix(PREFIX).filter(|digits| digits.len() == KEY_BYTES - PREFIX.len())?;
    digits
        .iter()
        .try_fold(0, |number, &digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// memcached's classic commands.
    Classic,
    /// memcached's meta commands.
    Meta,
    /// Redis' GET, MGET and SET; after each SET a WAIT for so many replicas, if there are any to wait for.
    Redis {
        /// How many.
        replicas: u32,
    },
}

/// How long Redis may wait for its replicas, in milliseconds.
const WAIT_MS: u32 = 1000;

impl Protocol {
    /// Appends a get of these keys; a meta get takes one.
    pub fn put_get(self, keys: &[u64], out: &mut Vec<u8>) {
        match self {
            Protocol::Classic => {
                out.extend_from_slice(b"get");
                for &key in keys {
                    out.push(b' ');
                    put_key(key, out);
                }
                out.extend_from_slice(b"\r\n");
            }
            Protocol::Meta => {
                out.extend_from_slice(b"mg ");
                put_key(keys[0], out);
                out.extend_from_slice(b" k v\r\n");
            }
            Protocol::Redis { .. } => {
                let command = if keys.len() == 1 { "$3\r\nGET" } else { "$4\r\nMGET" };
                out.extend_from_slice(format!("*{}\r\n{command}\r\n", keys.len() + 1).as_bytes());
                for &key in keys {
                    put_bulk_key(key, out);
                }
            }
        }
    }

    /// Appends a set of this key. `rest` is what [`Protocol::set_rest`] gave.
    pub fn put_set(self, key: u64, rest: &[u8], out: &mut Vec<u8>) {
        match self {
            Protocol::Classic => out.extend_from_slice(b"set "),
            Protocol::Meta => out.extend_from_slice(b"ms "),
            Protocol::Redis { .. } => {
                out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
                put_bulk_key(key, out);
                return out.extend_from_slice(rest);
            }
        }
        put_key(key, out);
        out.extend_from_slice(rest);
    }

    /// What follows the key in every set of a value of so many bytes.
    pub fn set_rest(self, size: usize) -> Vec<u8> {
        let head = match self {
            Protocol::Classic => format!(" 0 0 {size}\r\n"),
            Protocol::Meta => format!(" {size}\r\n"),
            Protocol::Redis { .. } => format!("${size}\r\n"),
        };
        let mut rest = head.into_bytes();
        rest.extend((0..size).map(|place| b'a' + (place % 26) as u8));
        rest.extend_from_slice(b"\r\n");
        if let Protocol::Redis { replicas: replicas @ 1.. } = self {
            let (replicas, wait) = (replicas.to_string(), WAIT_MS.to_string());
            let wait = format!(
                "*3\r\n$4\r\nWAIT\r\n${}\r\n{replicas}\r\n${}\r\n{wait}\r\n",
                replicas.len(),
                wait.len()
            );
            rest.extend_from_slice(wait.as_bytes());
        }
        rest
    }

    /// What a line of an answer says; `None`: nothing by itself.
    fn parse(self, line: &[u8]) -> Option<Piece> {
        let other = || Piece::Other(String::from_utf8_lossy(line).into_owned());
        Some(match (self, line) {
            (Protocol::Redis { replicas }, _) => {
                return parse_redis(replicas, line).unwrap_or_else(|| Some(other()));
            }
            (_, b"END" | b"EN") => Piece::End,
            (_, b"STORED" | b"HD") => Piece::Stored,
            _ => parse_value(line).or_else(|| parse_meta_value(line)).unwrap_or_else(other),
        })
    }
}

fn put_bulk_key(key: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"$16\r\n");
    put_key(key, out);
    out.extend_from_slice(b"\r\n");
}

const _: () = assert!(KEY_BYTES == 16);

/// A piece of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// An item's head; its bytes are passed over.
    Value {
        /// The number of its key; none if it is no key of ours.
        key: Option<u64>,
        /// How long it says that it is.
        bytes: usize,
        /// Whether the answer ends with it, as a meta get's does.
        last: bool,
    },
    /// The end of a get's answer, or a meta get that found nothing.
    End,
    /// The item of the next key that was asked for; its bytes are passed over.
    Next {
        /// How long it says that it is.
        bytes: usize,
    },
    /// The next key that was asked for has none.
    Missing,
    /// The answer to a set.
    Stored,
    /// Any other line.
    Other(String),
}

/// Reads answers as they arrive, in pieces of any size.
#[derive(Clone, Debug)]
pub struct Answers {
    protocol: Protocol,
    /// Bytes of an item, its line end included, that are yet to be passed over.
    skip: usize,
}

impl Answers {
    /// Of a connection that has not said anything.
    pub fn new(protocol: Protocol) -> Answers {
        Answers { protocol, skip: 0 }
    }

    /// Reads what is whole in `bytes`; returns how many bytes of them that was. `take` may end it early.
    ///
    /// # Errors
    /// If a line is longer than any answer.
    pub fn read(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Piece) -> ControlFlow<()>,
    ) -> Result<usize, String> {
        let mut rest = bytes;
        loop {
            let skipped = self.skip.min(rest.len());
            self.skip -= skipped;
            rest = &rest[skipped..];
            let Some(end) = rest.iter().take(LINE_MAX).position(|&byte| byte == b'\n') else {
                if rest.len() >= LINE_MAX {
                    return Err("the server's answer is none of this protocol's".into());
                }
                return Ok(bytes.len() - rest.len());
            };
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            rest = &rest[end + 1..];
            let Some(piece) = self.protocol.parse(line) else { continue };
            if let Piece::Value { bytes, .. } | Piece::Next { bytes } = piece {
                self.skip = bytes + 2;
            }
            if take(piece).is_break() {
                return Ok(bytes.len() - rest.len());
            }
        }
    }
}

/// `None`: this is no answer to what is asked here.
fn parse_redis(replicas: u32, line: &[u8]) -> Option<Option<Piece>> {
    let (kind, rest) = line.split_first()?;
    let number = std::str::from_utf8(rest).ok().and_then(|text| text.parse::<i64>().ok());
    Some(match (kind, number) {
        // A SET counts as done when the WAIT behind it is.
        (b'+', _) if rest == b"OK" => (replicas == 0).then_some(Piece::Stored),
        (b':', Some(acknowledged)) if acknowledged >= i64::from(replicas) => Some(Piece::Stored),
        (b'$', Some(-1)) => Some(Piece::Missing),
        (b'$', Some(bytes)) => Some(Piece::Next { bytes: usize::try_from(bytes).ok()? }),
        (b'*', Some(_)) => None,
        _ => return None,
    })
}

fn parse_value(line: &[u8]) -> Option<Piece> {
    let mut words = line.strip_prefix(b"VALUE ")?.split(|&byte| byte == b' ');
    let (key, _flags, bytes) = (words.next()?, words.next()?, words.next()?);
    let bytes = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    Some(Piece::Value { key: key_number(key), bytes, last: false })
}

fn parse_meta_value(line: &[u8]) -> Option<Piece> {
    let mut words = line.strip_prefix(b"VA ")?.split(|&byte| byte == b' ');
    let bytes = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let key = words.find_map(|word| word.strip_prefix(b"k")).and_then(key_number);
    Some(Piece::Value { key, bytes, last: true })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(protocol: Protocol, bytes: &[u8], cuts: usize) -> Vec<Piece> {
        let (mut answers, mut found, mut buffer) = (Answers::new(protocol), Vec::new(), Vec::new());
        for chunk in bytes.chunks(cuts) {
            buffer.extend_from_slice(chunk);
            let take = |piece| {
                found.push(piece);
                ControlFlow::Continue(())
            };
            let used = answers.read(&buffer, take).unwrap();
            buffer.drain(..used);
        }
        assert!(buffer.is_empty());
        found
    }

    fn request(protocol: Protocol, gets: &[u64], sets: u64) -> String {
        let mut out = Vec::new();
        protocol.put_get(gets, &mut out);
        protocol.put_set(sets, &protocol.set_rest(3), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn requests_are_those_of_the_protocols() {
        assert_eq!(
            request(Protocol::Classic, &[0, 123_456_789_012], 42) + &request(Protocol::Meta, &[7], 42),
            "get key:000000000000 key:123456789012\r\nset key:000000000042 0 0 3\r\nabc\r\n\
             mg key:000000000007 k v\r\nms key:000000000042 3\r\nabc\r\n"
        );
        assert_eq!(
            request(Protocol::Redis { replicas: 0 }, &[7], 42),
            "*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000007\r\n\
             *3\r\n$3\r\nSET\r\n$16\r\nkey:000000000042\r\n$3\r\nabc\r\n"
        );
        assert_eq!(
            request(Protocol::Redis { replicas: 1 }, &[7, 8], 42),
            "*3\r\n$4\r\nMGET\r\n$16\r\nkey:000000000007\r\n$16\r\nkey:000000000008\r\n\
             *3\r\n$3\r\nSET\r\n$16\r\nkey:000000000042\r\n$3\r\nabc\r\n\
             *3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$4\r\n1000\r\n"
        );
    }

    #[test]
    fn redis_answers_are_read_however_they_are_cut() {
        let bytes = b"$3\r\nabc\r\n$-1\r\n+OK\r\n*2\r\n$0\r\n\r\n$-1\r\n-ERR no\r\n";
        let (three, none) = (Piece::Next { bytes: 3 }, Piece::Next { bytes: 0 });
        let error = Piece::Other("-ERR no".into());
        let expected = [three, Piece::Missing, Piece::Stored, none, Piece::Missing, error];
        for cuts in 1..=bytes.len() {
            assert_eq!(pieces(Protocol::Redis { replicas: 0 }, bytes, cuts), expected, "in pieces of {cuts}");
        }
        let waited = pieces(Protocol::Redis { replicas: 1 }, b"+OK\r\n:1\r\n+OK\r\n:0\r\n", 5);
        assert_eq!(waited, [Piece::Stored, Piece::Other(":0".into())]);
    }

    #[test]
    fn answers_are_read_however_they_are_cut() {
        let bytes = b"VALUE key:000000000007 0 9\r\nEND\r\nEND\n\r\nVALUE x 0 0\r\n\r\nEND\r\nSTORED\r\n\
            VA 3 kkey:000000000008\r\nabc\r\nEN\r\nHD\r\nSERVER_ERROR out of memory\r\n";
        let expected = [
            Piece::Value { key: Some(7), bytes: 9, last: false },
            Piece::Value { key: None, bytes: 0, last: false },
            Piece::End,
            Piece::Stored,
            Piece::Value { key: Some(8), bytes: 3, last: true },
            Piece::End,
            Piece::Stored,
            Piece::Other("SERVER_ERROR out of memory".into()),
        ];
        for cuts in 1..=bytes.len() {
            assert_eq!(pieces(Protocol::Classic, bytes, cuts), expected, "in pieces of {cuts}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let mut answers = Answers::new(Protocol::Classic);
        assert!(answers.read(&[b'x'; 600], |_| ControlFlow::Continue(())).is_err());
        assert_eq!(pieces(Protocol::Classic, b"VALUE a\r\n", 9), [Piece::Other("VALUE a".into())]);
    }

    #[test]
    fn reading_can_end_early() {
        let mut count = 0;
        let used = Answers::new(Protocol::Classic).read(b"STORED\r\nSTORED\r\n", |_| {
            count += 1;
            ControlFlow::Break(())
        });
        assert_eq!((used, count), (Ok(8), 1));
    }

    proptest! {
        #[test]
        fn keys_are_read_as_they_are_written(number in 0..KEYS_MAX) {
            let mut key = Vec::new();
            put_key(number, &mut key);
            prop_assert_eq!((key.len(), key_number(&key)), (KEY_BYTES, Some(number)));
        }
    }
}
