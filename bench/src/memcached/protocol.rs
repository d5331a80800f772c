//! The requests and answers of memcached's ASCII protocol, as far as get and set need them.
//!
//! Source: memcached's `doc/protocol.txt`.

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
fn put_key(number: u64, out: &mut Vec<u8>) {
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

/// Appends a get of these keys.
pub fn put_get(keys: &[u64], out: &mut Vec<u8>) {
    out.extend_from_slice(b"get");
    for &key in keys {
        out.push(b' ');
        put_key(key, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a meta get of this key.
pub fn put_meta_get(key: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"mg ");
    put_key(key, out);
    out.extend_from_slice(b" k v\r\n");
}

/// Appends a set of this key, or a meta set. `rest` is what [`set_rest`] gave for the same.
pub fn put_set(meta: bool, key: u64, rest: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(if meta { b"ms " } else { b"set " });
    put_key(key, out);
    out.extend_from_slice(rest);
}

/// What follows the key in every set, or meta set, of a value of so many bytes.
pub fn set_rest(meta: bool, size: usize) -> Vec<u8> {
    let head = if meta { format!(" {size}\r\n") } else { format!(" 0 0 {size}\r\n") };
    let mut rest = head.into_bytes();
    rest.extend((0..size).map(|place| b'a' + (place % 26) as u8));
    rest.extend_from_slice(b"\r\n");
    rest
}

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
    /// The answer to a set.
    Stored,
    /// Any other line.
    Other(String),
}

/// Reads answers as they arrive, in pieces of any size.
#[derive(Clone, Default, Debug)]
pub struct Answers {
    /// Bytes of an item, its line end included, that are yet to be passed over.
    skip: usize,
}

impl Answers {
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
                    return Err("the server's answer is not memcached's".into());
                }
                return Ok(bytes.len() - rest.len());
            };
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            rest = &rest[end + 1..];
            let piece = parse(line);
            if let Piece::Value { bytes, .. } = piece {
                self.skip = bytes + 2;
            }
            if take(piece).is_break() {
                return Ok(bytes.len() - rest.len());
            }
        }
    }
}

fn parse(line: &[u8]) -> Piece {
    match line {
        b"END" | b"EN" => Piece::End,
        b"STORED" | b"HD" => Piece::Stored,
        _ => parse_value(line)
            .or_else(|| parse_meta_value(line))
            .unwrap_or_else(|| Piece::Other(String::from_utf8_lossy(line).into_owned())),
    }
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

    fn pieces(bytes: &[u8], cuts: usize) -> Vec<Piece> {
        let (mut answers, mut found, mut buffer) = (Answers::default(), Vec::new(), Vec::new());
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

    #[test]
    fn requests_are_memcached_s() {
        let mut out = Vec::new();
        put_get(&[0, 123_456_789_012], &mut out);
        put_set(false, 42, &set_rest(false, 3), &mut out);
        put_meta_get(7, &mut out);
        put_set(true, 42, &set_rest(true, 3), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "get key:000000000000 key:123456789012\r\nset key:000000000042 0 0 3\r\nabc\r\n\
             mg key:000000000007 k v\r\nms key:000000000042 3\r\nabc\r\n"
        );
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
            assert_eq!(pieces(bytes, cuts), expected, "in pieces of {cuts}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let mut answers = Answers::default();
        assert!(answers.read(&[b'x'; 600], |_| ControlFlow::Continue(())).is_err());
        assert_eq!(pieces(b"VALUE a\r\n", 9), [Piece::Other("VALUE a".into())]);
    }

    #[test]
    fn reading_can_end_early() {
        let mut count = 0;
        let used = Answers::default().read(b"STORED\r\nSTORED\r\n", |_| {
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
