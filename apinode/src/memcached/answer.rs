//! Results of operations → what memcached would have said.

use std::{borrow::Cow, ops::Range};

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::Version,
    operation::{ResultCode, ResultRef, ReturnedRow},
    time::ClusterTime,
    value::ValueRef,
    wire::{Malformed, Reader},
};

use super::{
    command::Verb,
    counters::Counters,
    item::{Shape, join},
    mark::Mark,
    meta_answer::{Held, MetaEntry},
};
use crate::request::Failure;

/// What one answer of a batch is about. Those with an operation take the next result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// No operation.
    Say(&'static str),
    /// No operation: why there is none.
    Refused(Box<str>),
    /// No operation: why there is none for a key of a get.
    RefusedKey(Box<str>),
    /// No operation: a get begins.
    BeginGet,
    /// No operation.
    TooLarge {
        noreply: bool,
    },
    /// An item of a get: where its key is in the input.
    Value {
        key: Range<usize>,
        cas: bool,
        touched: bool,
        shape: Shape,
    },
    /// The touch of an item whose new version is read next.
    TouchFirst,
    /// No operation: the get ends.
    EndOfGet,
    Store {
        verb: Verb,
        noreply: bool,
    },
    Count {
        down: bool,
        noreply: bool,
    },
    Delete {
        noreply: bool,
    },
    Touch {
        noreply: bool,
    },
    /// What was there before a value that is too large.
    Discard,
    Meta(MetaEntry),
}

impl Entry {
    pub(super) fn has_operation(&self) -> bool {
        use Entry::*;
        !matches!(self, Say(_) | Refused(_) | RefusedKey(_) | TooLarge { .. } | BeginGet | EndOfGet)
    }
}

const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";

pub(super) type Outcome<'a> = Result<&'a [u8], &'a Failure>;

/// Writes answers.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// What is to be sent.
    pub out: Vec<u8>,
    pub counters: Counters,
    /// Where in `out` the get that is being answered begins.
    get: usize,
    /// Why that get fails; its items are then held back.
    failed: Option<String>,
    /// Answers that are not final yet. What stands behind the first of them is held back.
    pub held: Vec<Held>,
    /// Where values of more than one column are put together.
    joined: Vec<u8>,
}

impl Answers {
    /// `out` was sent, so a get that begins in it cannot be taken back any more.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.out.drain(..bytes);
        self.get = self.get.saturating_sub(bytes);
        for held in &mut self.held {
            held.place = held.place.start - bytes..held.place.end - bytes;
        }
    }

    /// What can be sent.
    pub(super) fn ready(&self) -> &[u8] {
        &self.out[..self.held.first().map_or(self.out.len(), |held| held.place.start)]
    }

    /// Puts what stands behind `from` where `place` is, which is before it and before those held from `later` on.
    /// Returns where it is then.
    pub(super) fn replace(&mut self, place: Range<usize>, from: usize, later: usize) -> Range<usize> {
        let text = self.out.split_off(from);
        let (old, new) = (place.end, place.start + text.len());
        self.out.splice(place.clone(), text);
        let moved = |at: usize| if at >= old { at - old + new } else { at };
        self.get = moved(self.get);
        for held in &mut self.held[later..] {
            held.place = moved(held.place.start)..moved(held.place.end);
        }
        place.start..new
    }

    /// A line.
    pub(super) fn say(&mut self, text: &str) {
        if !text.is_empty() {
            self.out.extend_from_slice(text.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        }
    }

    /// An error of ours.
    pub(super) fn server_error(&mut self, error: &Error) {
        self.say(&server_error(error));
    }

    /// Answers an entry that has no operation.
    pub(super) fn plain(&mut self, entry: &Entry) {
        match entry {
            Entry::Say(text) => self.say(text),
            Entry::Refused(text) => self.say(text),
            Entry::RefusedKey(text) => self.fail_get(text.to_string()),
            Entry::TooLarge { noreply } => {
                self.counters.store_too_large += 1;
                self.say(if *noreply { "" } else { TOO_LARGE });
            }
            Entry::BeginGet => {
                self.get = self.out.len();
                self.failed = None;
            }
            Entry::EndOfGet => {
                let failed = self.failed.take();
                self.say(failed.as_deref().unwrap_or("END"));
            }
            other => panic!("{other:?} is answered by a result"),
        }
    }

    /// Answers an entry by the result of its operation. `input` is what the keys are in.
    pub(super) fn result(&mut self, entry: &Entry, outcome: Outcome<'_>, input: &[u8]) {
        match entry {
            Entry::Value { key, cas, touched, shape } => {
                self.value(&input[key.clone()], *cas, *touched, *shape, outcome);
            }
            Entry::TouchFirst => match parse(outcome) {
                Ok(result) => self.touched(result.head.code == ResultCode::Ok),
                Err(text) => self.fail_get(text),
            },
            Entry::Store { verb, noreply } => {
                let text = self.stored(*verb, outcome);
                self.say(if *noreply { "" } else { &text });
            }
            Entry::Count { down, noreply } => self.counted(*down, *noreply, outcome),
            Entry::Delete { noreply } => {
                let counters = &mut self.counters;
                let (hits, misses) = (&mut counters.delete_hits, &mut counters.delete_misses);
                let text = done(outcome, ["DELETED", "NOT_FOUND"], hits, misses);
                self.say(if *noreply { "" } else { &text });
            }
            Entry::Touch { noreply } => {
                let counters = &mut self.counters;
                counters.cmd_touch += 1;
                let (hits, misses) = (&mut counters.touch_hits, &mut counters.touch_misses);
                let text = done(outcome, ["TOUCHED", "NOT_FOUND"], hits, misses);
                self.say(if *noreply { "" } else { &text });
            }
            Entry::Discard => {}
            _ => panic!("{entry:?} has no operation"),
        }
    }

    pub(super) fn touched(&mut self, hit: bool) {
        self.counters.cmd_touch += 1;
        self.counters.touch_hits += u64::from(hit);
        self.counters.touch_misses += u64::from(!hit);
    }

    fn fail_get(&mut self, text: String) {
        self.out.truncate(self.get);
        self.failed.get_or_insert(text);
    }

    /// Counts a key that was asked for.
    pub(super) fn asked(&mut self, touched: bool, hit: bool) {
        if touched {
            self.touched(hit);
        } else {
            self.counters.cmd_get += 1;
        }
        self.counters.get_hits += u64::from(hit);
        self.counters.get_misses += u64::from(!hit);
    }

    fn value(&mut self, key: &[u8], cas: bool, touched: bool, shape: Shape, outcome: Outcome<'_>) {
        let result = match parse(outcome) {
            Ok(result) => result,
            Err(text) => return self.fail_get(text),
        };
        let hit = match result.head.code {
            ResultCode::Ok => true,
            ResultCode::NotFound => false,
            code => return self.fail_get(refused(code)),
        };
        self.asked(touched, hit);
        if !hit || self.failed.is_some() {
            return;
        }
        let start = self.out.len();
        if self.append_value(key, cas, shape, &result).is_err() {
            self.out.truncate(start);
            self.fail_get(server_error(&Error::new(
                ErrorCode::Internal,
                "an item that makes no sense was read",
            )));
        }
    }

    fn append_value(
        &mut self,
        key: &[u8],
        cas: bool,
        shape: Shape,
        result: &ResultRef<'_>,
    ) -> Result<(), Malformed> {
        let mut joined = std::mem::take(&mut self.joined);
        let found = Found::read(result, result.before, shape, &mut joined)?;
        self.out.extend_from_slice(b"VALUE ");
        self.out.extend_from_slice(key);
        number(&mut self.out, b" ", found.flags.into());
        number(&mut self.out, b" ", found.value.len() as u64);
        if cas {
            number(&mut self.out, b" ", found.unique());
        }
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(&found.value);
        self.out.extend_from_slice(b"\r\n");
        self.joined = joined;
        Ok(())
    }

    fn stored(&mut self, verb: Verb, outcome: Outcome<'_>) -> String {
        self.counters.cmd_set += 1;
        let result = match parse(outcome) {
            Ok(result) => result,
            Err(text) => {
                let full = outcome.is_err_and(|failure| failure.error.code == ErrorCode::TableFull);
                self.counters.store_no_memory += u64::from(full);
                return if full { "SERVER_ERROR out of memory storing object".into() } else { text };
            }
        };
        let cas = matches!(verb, Verb::Cas(_));
        let text = match result.head.code {
            ResultCode::Ok => {
                self.counters.cas_hits += u64::from(cas);
                "STORED"
            }
            ResultCode::NotFound if cas => {
                self.counters.cas_misses += 1;
                "NOT_FOUND"
            }
            ResultCode::ConditionFalse => {
                self.counters.cas_badval += 1;
                "EXISTS"
            }
            ResultCode::NotFound | ResultCode::AlreadyExists => "NOT_STORED",
            // What memcached says where the parts together are too large.
            ResultCode::ValueTooLong | ResultCode::RowTooBig => "NOT_STORED",
            code => return refused(code),
        };
        text.into()
    }

    fn counted(&mut self, down: bool, noreply: bool, outcome: Outcome<'_>) {
        let number = |result: &ResultRef<'_>| {
            let mut joined = Vec::new();
            let digits = join(result.after?.values(), &mut joined).ok()?;
            Some(String::from_utf8_lossy(digits.trim_ascii_end()).into_owned())
        };
        let text = match parse(outcome) {
            Err(text) => text,
            Ok(result) => match result.head.code {
                ResultCode::Ok => {
                    *self.counters.counted(down, true) += 1;
                    number(&result).unwrap_or_else(|| refused(ResultCode::Malformed))
                }
                ResultCode::NotFound => {
                    *self.counters.counted(down, false) += 1;
                    "NOT_FOUND".into()
                }
                ResultCode::NotANumber => {
                    "CLIENT_ERROR cannot increment or decrement non-numeric value".into()
                }
                code => refused(code),
            },
        };
        self.say(if noreply { "" } else { &text });
    }
}

/// A row as an item.
#[derive(Clone, Debug, Default)]
pub(super) struct Found<'a> {
    pub flags: u32,
    pub mark: Mark,
    pub value: Cow<'a, [u8]>,
    pub version: Version,
    pub expiry: ClusterTime,
}

impl<'a> Found<'a> {
    /// One of a result's rows.
    // On the way of every get.
    #[inline(always)]
    pub(super) fn read(
        result: &ResultRef<'a>,
        row: Option<ReturnedRow<'a>>,
        shape: Shape,
        joined: &'a mut Vec<u8>,
    ) -> Result<Found<'a>, Malformed> {
        let nonsense = Malformed("item");
        let mut values = row.ok_or(nonsense)?.values();
        let mut found = Found {
            version: result.head.version.unwrap_or_default(),
            expiry: result.head.expiry,
            ..Found::default()
        };
        if shape.flags {
            let Some(ValueRef::UInt(flags)) = values.next().transpose()? else { return Err(nonsense) };
            found.flags = flags as u32;
        }
        if shape.mark {
            found.mark = Mark::read(&values.next().ok_or(nonsense)??);
        }
        found.value = join(values, joined)?;
        Ok(found)
    }

    /// Its «cas unique».
    pub(super) fn unique(&self) -> u64 {
        self.mark.unique(self.version)
    }
}

/// What is said where a row was there, and where not.
fn done(outcome: Outcome<'_>, texts: [&str; 2], hits: &mut u64, misses: &mut u64) -> String {
    match parse(outcome) {
        Err(text) => text,
        Ok(result) => match result.head.code {
            ResultCode::Ok => {
                *hits += 1;
                texts[0].into()
            }
            ResultCode::NotFound => {
                *misses += 1;
                texts[1].into()
            }
            code => refused(code),
        },
    }
}

pub(super) fn parse(outcome: Outcome<'_>) -> Result<ResultRef<'_>, String> {
    let bytes = outcome.map_err(|failure| server_error(&failure.error))?;
    ResultRef::parse(&mut Reader::new(bytes, "result")).map_err(|malformed| server_error(&malformed.into()))
}

pub(super) fn refused(code: ResultCode) -> String {
    format!("SERVER_ERROR {code}")
}

pub(super) fn server_error(error: &Error) -> String {
    // An answer is one line.
    format!("SERVER_ERROR {error}").replace(['\r', '\n'], " ")
}

/// Writes a decimal number, without what formatting it would cost.
pub(super) fn number(out: &mut Vec<u8>, before: &[u8], number: u64) {
    out.extend_from_slice(before);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
