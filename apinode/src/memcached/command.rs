//! memcached's ASCII protocol: bytes → commands.
//!
//! It takes and refuses what memcached 1.6.18 does, in its words (`proto_text.c`), with these exceptions: numbers
//! are decimal digits, maybe after a sign, and are refused rather than truncated where they do not fit; a NUL does
//! not end the line; a `gat` may be as long as a `get`.

use std::ops::Range;

use super::meta::{self, Meta, MetaVerb};

/// Bytes of a key.
pub const KEY_MAX: usize = 250;
/// Bytes of a value.
pub const VALUE_MAX: usize = 1 << 20;
/// Bytes of a line without an end, past which it has to be one that asks for many keys.
pub const LINE_SHORT: usize = 2048;
/// Bytes of any line.
pub const LINE_MAX: usize = 1 << 20;

/// What is said to a line that makes no sense.
pub const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
const ERROR: &str = "ERROR";
const OK: &str = "OK";
const BAD_EXPTIME: &str = "CLIENT_ERROR invalid exptime argument";
const BAD_DELTA: &str = "CLIENT_ERROR invalid numeric delta argument";
const BAD_DELETE: &str = "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]";
const BAD_CHUNK: &str = "CLIENT_ERROR bad data chunk";
const LINE_TOO_LONG: &str = "CLIENT_ERROR line too long";

/// How a value is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verb {
    /// Whether there is one or not.
    Set,
    /// Only where there is none.
    Add,
    /// Only where there is one.
    Replace,
    /// Behind the one that is there.
    Append,
    /// Before the one that is there.
    Prepend,
    /// Only if the one there has this «cas unique».
    Cas(u64),
}

/// A command; it borrows the bytes that it was read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// get, gets, gat, gats.
    Get {
        /// None longer than [`KEY_MAX`].
        keys: Keys<'a>,
        /// Whether the «cas unique» is asked for.
        cas: bool,
        /// The new exptime.
        touch: Option<i64>,
    },
    /// set, add, replace, append, prepend, cas.
    Store {
        /// Which of them.
        verb: Verb,
        /// The key.
        key: &'a [u8],
        /// What the client keeps beside the value.
        flags: u32,
        /// When it expires, in one of three forms.
        exptime: i64,
        /// The value.
        value: &'a [u8],
        /// Whether not to answer.
        noreply: bool,
    },
    /// The same, with a value over [`VALUE_MAX`], which is going to be skipped.
    TooLarge {
        /// Which of them.
        verb: Verb,
        /// The key.
        key: &'a [u8],
        /// Whether not to answer.
        noreply: bool,
    },
    /// incr, decr.
    Count {
        /// The key.
        key: &'a [u8],
        /// By how much.
        delta: u64,
        /// Whether it is decr.
        down: bool,
        /// Whether not to answer.
        noreply: bool,
    },
    /// delete.
    Delete {
        /// The key.
        key: &'a [u8],
        /// Whether not to answer.
        noreply: bool,
    },
    /// touch.
    Touch {
        /// The key.
        key: &'a [u8],
        /// When it expires.
        exptime: i64,
        /// Whether not to answer.
        noreply: bool,
    },
    /// flush_all.
    FlushAll {
        /// In so many seconds, or at that time.
        delay: i64,
        /// Whether not to answer.
        noreply: bool,
    },
    /// mg, ms, md, ma, me: a line for [`Meta::parse`], which may yet refuse it.
    Meta {
        /// Which of them.
        verb: MetaVerb,
        /// What stands behind the name.
        line: &'a [u8],
        /// The value; none: over [`VALUE_MAX`], and going to be skipped.
        value: Option<&'a [u8]>,
    },
    /// stats, and of what.
    Stats(&'a [u8]),
    /// version.
    Version,
    /// What calls for this answer and nothing else; none if it is empty.
    Say(&'static str),
    /// What calls for this answer, and the end of the connection: quit, or bytes that cannot be of this protocol.
    Close(&'static str),
}

/// The keys of a get, with spaces between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keys<'a>(pub &'a [u8]);

impl<'a> Keys<'a> {
    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.0.split(|&byte| byte == b' ').filter(|key| !key.is_empty())
    }

    fn any_too_long(&self) -> bool {
        self.0.len() > KEY_MAX && self.iter().any(|key| key.len() > KEY_MAX)
    }
}

/// A storage command whose line is read but whose value is not, as offsets from the line's start.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Pending {
    command: Storage,
    /// Bytes of the line and its end.
    line: usize,
    /// Bytes of the value.
    value: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Storage {
    Classic {
        verb: Verb,
        key: Range<usize>,
        flags: u32,
        exptime: i64,
        noreply: bool,
    },
    /// What stands behind the name.
    Meta(Range<usize>),
}

/// What a line, in itself, is.
enum Line<'a> {
    Command(Command<'a>),
    Value(Pending),
}

/// Where reading has come to. A byte is looked for an end of line only once, however the bytes come in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parser {
    /// So many bytes of an unfinished line hold no end of it.
    scanned: usize,
    pending: Option<Pending>,
    /// So many bytes of a value that is too large are still to come.
    skip: usize,
    /// Whether anything was read.
    started: bool,
}

impl Parser {
    /// One that has read some commands, and is between two.
    pub fn between_commands() -> Parser {
        Parser { started: true, ..Parser::default() }
    }

    /// The next command, and `rest` moved behind it. `None`: more bytes are needed. The next call then has to be given
    /// the same bytes again, with more behind them; `rest` may have moved a little even so.
    pub fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Option<Command<'a>> {
        if self.skip > 0 {
            let skipped = self.skip.min(rest.len());
            self.skip -= skipped;
            *rest = &rest[skipped..];
        }
        if !self.started {
            // The binary protocol begins with this byte, and is not spoken here.
            if *rest.first()? == 0x80 {
                return Some(Command::Close(""));
            }
            self.started = true;
        }
        if self.pending.is_none() {
            let bytes: &'a [u8] = rest;
            let Some(end) = bytes[self.scanned..].iter().position(|&byte| byte == b'\n') else {
                self.scanned = bytes.len();
                return unfinished(bytes);
            };
            let end = self.scanned + end;
            self.scanned = 0;
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            match parse_line(line, end + 1) {
                Line::Value(pending) => self.pending = Some(pending),
                Line::Command(command) => {
                    *rest = &bytes[end + 1..];
                    return Some(command);
                }
            }
        }
        self.value(rest)
    }

    /// The command whose line is pending, once its value is there.
    fn value<'a>(&mut self, rest: &mut &'a [u8]) -> Option<Command<'a>> {
        let bytes: &'a [u8] = rest;
        let Pending { command, line, value } = self.pending.as_ref()?.clone();
        if value > VALUE_MAX {
            self.pending = None;
            self.skip = value + 2;
            *rest = &bytes[line..];
            return Some(match command {
                Storage::Classic { verb, key, noreply, .. } => {
                    Command::TooLarge { verb, key: &bytes[key], noreply }
                }
                Storage::Meta(range) => {
                    Command::Meta { verb: MetaVerb::Set, line: &bytes[range], value: None }
                }
            });
        }
        let end = line + value;
        let whole = bytes.get(end..end + 2)? == b"\r\n";
        self.pending = None;
        *rest = &bytes[end + 2..];
        let value = &bytes[line..end];
        Some(match command {
            Storage::Classic { verb, key, flags, exptime, noreply } if whole => {
                Command::Store { verb, key: &bytes[key], flags, exptime, value, noreply }
            }
            Storage::Classic { noreply, .. } => Command::Say(if noreply { "" } else { BAD_CHUNK }),
            Storage::Meta(range) => {
                let line = &bytes[range];
                match Meta::parse(MetaVerb::Set, line) {
                    Ok(_) if !whole => Command::Say(BAD_CHUNK),
                    _ => Command::Meta { verb: MetaVerb::Set, line, value: Some(value) },
                }
            }
        })
    }
}

/// Whether so long a line without an end can still become a command.
fn unfinished(bytes: &[u8]) -> Option<Command<'static>> {
    if bytes.len() <= LINE_SHORT {
        return None;
    }
    let spaces = bytes.iter().take_while(|&&byte| byte == b' ').count();
    let asks = [&b"get "[..], b"gets ", b"gat ", b"gats "];
    if spaces > 100 || !asks.iter().any(|verb| bytes[spaces..].starts_with(verb)) {
        return Some(Command::Close(""));
    }
    (bytes.len() > LINE_MAX).then_some(Command::Close(LINE_TOO_LONG))
}

/// The tokens of a line: the first few, and how many there are.
struct Tokens<'a> {
    all: [&'a [u8]; Tokens::KEPT],
    count: usize,
}

impl<'a> Tokens<'a> {
    /// No command that is not a get has more.
    const KEPT: usize = 8;

    /// Stops counting once there are too many.
    fn of(line: &'a [u8]) -> Tokens<'a> {
        let mut tokens = Tokens { all: [b""; Tokens::KEPT], count: 0 };
        for token in Keys(line).iter().take(Tokens::KEPT) {
            tokens.all[tokens.count] = token;
            tokens.count += 1;
        }
        tokens
    }

    fn last_is(&self, word: &[u8]) -> bool {
        self.count > 0 && self.all[self.count - 1] == word
    }
}

fn parse_line(line: &[u8], length: usize) -> Line<'_> {
    let spaces = line.iter().take_while(|&&byte| byte == b' ').count();
    let line_start = &line[spaces..];
    let name_end = line_start.iter().position(|&byte| byte == b' ').unwrap_or(line_start.len());
    let (name, arguments) = line_start.split_at(name_end);
    let meta = |verb| Ok(Command::Meta { verb, line: arguments, value: Some(b"") });
    let command = match name {
        b"get" | b"bget" => get(arguments, false, false),
        b"gets" => get(arguments, true, false),
        b"gat" => get(arguments, false, true),
        b"gats" => get(arguments, true, true),
        b"mg" => meta(MetaVerb::Get),
        b"md" => meta(MetaVerb::Delete),
        b"ma" => meta(MetaVerb::Count),
        b"me" => meta(MetaVerb::Debug),
        b"mn" => Ok(Command::Say("MN")),
        b"ms" => match meta_set(arguments) {
            Ok(value) => {
                let command = Storage::Meta(spaces + name_end..line.len());
                return Line::Value(Pending { command, line: length, value });
            }
            Err(text) => Err(text),
        },
        _ => return parse_short_line(name, line, length),
    };
    Line::Command(command.unwrap_or_else(Command::Say))
}

fn get(arguments: &[u8], cas: bool, touch: bool) -> Result<Command<'_>, &'static str> {
    let first = Keys(arguments).iter().next().ok_or(ERROR)?;
    let mut keys = Keys(arguments);
    let mut exptime = None;
    if touch {
        exptime = Some(signed(first).ok_or(BAD_EXPTIME)?);
        let start = arguments.iter().take_while(|&&byte| byte == b' ').count() + first.len();
        keys = Keys(&arguments[start..]);
    }
    if keys.any_too_long() {
        return Err(BAD_FORMAT);
    }
    Ok(Command::Get { keys, cas, touch: exptime })
}

/// How long the value of an ms is. What is wrong with the rest of its line is told once the value is there.
fn meta_set(line: &[u8]) -> Result<usize, &'static str> {
    let (_, words) = meta::split(MetaVerb::Set, line)?;
    value_length(Keys(words).iter().next().unwrap_or_default()).ok_or(BAD_FORMAT)
}

/// A line whose tokens are few.
fn parse_short_line<'a>(name: &[u8], line: &'a [u8], length: usize) -> Line<'a> {
    let tokens = Tokens::of(line);
    let noreply = tokens.last_is(b"noreply");
    let verb = match name {
        b"set" => Some(Verb::Set),
        b"add" => Some(Verb::Add),
        b"replace" => Some(Verb::Replace),
        b"append" => Some(Verb::Append),
        b"prepend" => Some(Verb::Prepend),
        b"cas" => Some(Verb::Cas(0)),
        _ => None,
    };
    if let Some(verb) = verb {
        return match store(verb, &tokens, line, length, noreply) {
            Ok(pending) => Line::Value(pending),
            Err(text) => Line::Command(Command::Say(text)),
        };
    }
    let command = match name {
        b"incr" | b"decr" => count(&tokens, name == b"decr", noreply),
        b"delete" => delete(&tokens, noreply),
        b"touch" => touch(&tokens, noreply),
        b"flush_all" => flush_all(&tokens, noreply),
        b"verbosity" => verbosity(&tokens, noreply),
        b"version" => Ok(Command::Version),
        b"stats" => Ok(Command::Stats(tokens.all[1])),
        b"quit" => Ok(Command::Close("")),
        b"cache_memlimit" => memory_limit(&tokens, noreply),
        b"shutdown" => Err("ERROR: shutdown not enabled"),
        b"watch" => refuse(noreply, "CLIENT_ERROR watch commands not allowed"),
        b"lru_crawler" => lru_crawler(&tokens),
        b"slabs" => slabs(&tokens, noreply),
        _ => Ok(unknown(name, line)),
    };
    Line::Command(command.unwrap_or_else(Command::Say))
}

/// What is said, or silence.
fn refuse<T>(noreply: bool, text: &'static str) -> Result<T, &'static str> {
    Err(if noreply { "" } else { text })
}

fn key<'a>(tokens: &Tokens<'a>, noreply: bool) -> Result<&'a [u8], &'static str> {
    let key = tokens.all[1];
    if key.len() > KEY_MAX { refuse(noreply, BAD_FORMAT) } else { Ok(key) }
}

fn store(
    verb: Verb,
    tokens: &Tokens<'_>,
    line: &[u8],
    length: usize,
    noreply: bool,
) -> Result<Pending, &'static str> {
    let cas = matches!(verb, Verb::Cas(_));
    let fewest = if cas { 6 } else { 5 };
    if tokens.count != fewest && tokens.count != fewest + 1 {
        return Err(ERROR);
    }
    let key = key(tokens, noreply)?;
    let numbers = || {
        let flags = u32::try_from(unsigned(tokens.all[2])?).ok()?;
        let exptime = signed(tokens.all[3])?;
        let value = value_length(tokens.all[4])?;
        let verb = if cas { Verb::Cas(unsigned(tokens.all[5])?) } else { verb };
        Some((flags, exptime, value, verb))
    };
    let Some((flags, exptime, value, verb)) = numbers() else { return refuse(noreply, BAD_FORMAT) };
    // The key is a part of the line.
    let start = key.as_ptr() as usize - line.as_ptr() as usize;
    let key = start..start + key.len();
    Ok(Pending { command: Storage::Classic { verb, key, flags, exptime, noreply }, line: length, value })
}

fn value_length(token: &[u8]) -> Option<usize> {
    // memcached reads the length and the line's end into one int.
    usize::try_from(signed(token)?).ok().filter(|&length| length <= i32::MAX as usize - 2)
}

fn count<'a>(tokens: &Tokens<'a>, down: bool, noreply: bool) -> Result<Command<'a>, &'static str> {
    if tokens.count != 3 && tokens.count != 4 {
        return Err(ERROR);
    }
    let key = key(tokens, noreply)?;
    match unsigned(tokens.all[2]) {
        Some(delta) => Ok(Command::Count { key, delta, down, noreply }),
        None => refuse(noreply, BAD_DELTA),
    }
}

fn delete<'a>(tokens: &Tokens<'a>, noreply: bool) -> Result<Command<'a>, &'static str> {
    // Old clients send a 0, which once was a delay.
    let zero = tokens.all[2] == b"0";
    match tokens.count {
        2 => Ok(Command::Delete { key: key(tokens, false)?, noreply: false }),
        3 if zero || noreply => Ok(Command::Delete { key: key(tokens, noreply)?, noreply }),
        4 if zero && noreply => Ok(Command::Delete { key: key(tokens, noreply)?, noreply }),
        3 | 4 => refuse(noreply, BAD_DELETE),
        _ => Err(ERROR),
    }
}

fn touch<'a>(tokens: &Tokens<'a>, noreply: bool) -> Result<Command<'a>, &'static str> {
    if tokens.count != 3 && tokens.count != 4 {
        return Err(ERROR);
    }
    let key = key(tokens, noreply)?;
    match signed(tokens.all[2]) {
        Some(exptime) => Ok(Command::Touch { key, exptime, noreply }),
        None => refuse(noreply, BAD_EXPTIME),
    }
}

fn flush_all<'a>(tokens: &Tokens<'a>, noreply: bool) -> Result<Command<'a>, &'static str> {
    match tokens.count {
        1 => Ok(Command::FlushAll { delay: 0, noreply }),
        2 if noreply => Ok(Command::FlushAll { delay: 0, noreply }),
        2 | 3 => match signed(tokens.all[1]) {
            Some(delay) => Ok(Command::FlushAll { delay, noreply }),
            None => refuse(noreply, BAD_EXPTIME),
        },
        _ => Err(ERROR),
    }
}

/// There is no log on the terminal to be more or less talkative: it is checked, and that is all.
fn verbosity<'a>(tokens: &Tokens<'a>, noreply: bool) -> Result<Command<'a>, &'static str> {
    if tokens.count != 2 && tokens.count != 3 {
        return Err(ERROR);
    }
    match unsigned(tokens.all[1]).and_then(|level| u32::try_from(level).ok()) {
        Some(_) => refuse(noreply, OK),
        None => refuse(noreply, BAD_FORMAT),
    }
}

/// How much memory there is says the cluster's config.
fn memory_limit<'a>(tokens: &Tokens<'a>, noreply: bool) -> Result<Command<'a>, &'static str> {
    if tokens.count != 2 && tokens.count != 3 {
        return Err(ERROR);
    }
    refuse(
        noreply,
        match unsigned(tokens.all[1]) {
            None => ERROR,
            Some(0..8) => "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m",
            Some(1_000_000_001..) => "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes",
            Some(_) => "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust",
        },
    )
}

/// As memcached without it (`-o no_lru_crawler`) has it: there is nothing to crawl through.
fn lru_crawler<'a>(tokens: &Tokens<'a>) -> Result<Command<'a>, &'static str> {
    let number = || unsigned(tokens.all[2]).and_then(|number| u32::try_from(number).ok());
    Err(match (tokens.all[1], tokens.count) {
        (b"crawl" | b"metadump", 3) => "CLIENT_ERROR lru crawler disabled",
        (b"tocrawl" | b"sleep", 3) if number().is_none() => BAD_FORMAT,
        (b"sleep", 3) if number() > Some(1_000_000) => "CLIENT_ERROR sleep must be one second or less",
        (b"tocrawl" | b"sleep", 3) | (b"disable", 2) => OK,
        (b"enable", 2) => "ERROR failed to start lru crawler thread",
        _ => ERROR,
    })
}

/// As memcached has it that cannot move them (`-o no_slab_reassign`): there are none.
fn slabs<'a>(tokens: &Tokens<'a>, noreply: bool) -> Result<Command<'a>, &'static str> {
    match (tokens.all[1], tokens.count) {
        (b"reassign", 4) => Err("CLIENT_ERROR slab reassignment disabled"),
        (b"automove", 3..) => match unsigned(tokens.all[2]) {
            Some(0..=2) => refuse(noreply, OK),
            Some(_) => refuse(noreply, ERROR),
            None => refuse(noreply, BAD_FORMAT),
        },
        _ => Err(ERROR),
    }
}

/// Browsers are hung up on, lest a page make them send commands in the body of a request.
fn unknown<'a>(name: &[u8], line: &[u8]) -> Command<'a> {
    let last = line.rsplit(|&byte| byte == b' ').find(|token| !token.is_empty()).unwrap_or_default();
    let first = name.first().unwrap_or(&b' ');
    if name.len() > 1 && !b"gsacidt".contains(first) && last.starts_with(b"HTTP/") {
        return Command::Close("");
    }
    Command::Say(ERROR)
}

pub(super) fn unsigned(token: &[u8]) -> Option<u64> {
    let digits = token.strip_prefix(b"+").unwrap_or(token);
    let sum = |sum: u64, byte: &u8| match byte {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, sum) }
}

pub(super) fn signed(token: &[u8]) -> Option<i64> {
    match token.strip_prefix(b"-") {
        Some(digits) if digits.first() != Some(&b'+') => 0i64.checked_sub_unsigned(unsigned(digits)?),
        Some(_) => None,
        None => i64::try_from(unsigned(token)?).ok(),
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
