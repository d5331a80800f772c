//! Results of operations → what memcached would have said.

use std::{io::Write, ops::Range};

use twofold_proto::{
    error::{Error, ErrorCode},
    operation::{ResultCode, ResultRef},
    value::ValueRef,
    wire::{Malformed, Reader},
};

use super::{command::Verb, counters::Counters};
use crate::request::Failure;

/// What one answer of a batch is about. Those with an operation take the next result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// No operation.
    Say(&'static str),
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
}

impl Entry {
    pub(super) fn has_operation(&self) -> bool {
        !matches!(self, Entry::Say(_) | Entry::TooLarge { .. } | Entry::BeginGet | Entry::EndOfGet)
    }
}

const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";

type Outcome<'a> = Result<&'a [u8], &'a Failure>;

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
}

impl Answers {
    /// `out` was sent, so a get that begins in it cannot be taken back any more.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.out.drain(..bytes);
        self.get = self.get.saturating_sub(bytes);
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
            Entry::Value { key, cas, touched } => self.value(&input[key.clone()], *cas, *touched, outcome),
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

    fn touched(&mut self, hit: bool) {
        self.counters.cmd_touch += 1;
        self.counters.touch_hits += u64::from(hit);
        self.counters.touch_misses += u64::from(!hit);
    }

    fn fail_get(&mut self, text: String) {
        self.out.truncate(self.get);
        self.failed.get_or_insert(text);
    }

    fn value(&mut self, key: &[u8], cas: bool, touched: bool, outcome: Outcome<'_>) {
        let result = match parse(outcome) {
            Ok(result) => result,
            Err(text) => return self.fail_get(text),
        };
        let hit = match result.head.code {
            ResultCode::Ok => true,
            ResultCode::NotFound => false,
            code => return self.fail_get(refused(code)),
        };
        if touched {
            self.touched(hit);
        } else {
            self.counters.cmd_get += 1;
        }
        self.counters.get_hits += u64::from(hit);
        self.counters.get_misses += u64::from(!hit);
        if !hit || self.failed.is_some() {
            return;
        }
        let start = self.out.len();
        if self.append_value(key, cas, &result).is_err() {
            self.out.truncate(start);
            self.fail_get(server_error(&Error::new(
                ErrorCode::Internal,
                "an item that makes no sense was read",
            )));
        }
    }

    fn append_value(&mut self, key: &[u8], cas: bool, result: &ResultRef<'_>) -> Result<(), Malformed> {
        let nonsense = Malformed("item");
        let mut values = result.before.ok_or(nonsense)?.values();
        let (Some(ValueRef::UInt(flags)), Some(ValueRef::Binary(value))) =
            (values.next().transpose()?, values.next().transpose()?)
        else {
            return Err(nonsense);
        };
        self.out.extend_from_slice(b"VALUE ");
        self.out.extend_from_slice(key);
        write(&mut self.out, format_args!(" {flags} {}", value.len()));
        if cas {
            let version = result.head.version.ok_or(nonsense)?;
            write(&mut self.out, format_args!(" {}", version.token()));
        }
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(&value);
        self.out.extend_from_slice(b"\r\n");
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
        let counters = &mut self.counters;
        let (hits, misses) = match down {
            true => (&mut counters.decr_hits, &mut counters.decr_misses),
            false => (&mut counters.incr_hits, &mut counters.incr_misses),
        };
        let number = |result: &ResultRef<'_>| match result.after?.values().next()?.ok()? {
            ValueRef::Binary(digits) => Some(String::from_utf8_lossy(digits.trim_ascii_end()).into_owned()),
            _ => None,
        };
        let text = match parse(outcome) {
            Err(text) => text,
            Ok(result) => match result.head.code {
                ResultCode::Ok => {
                    *hits += 1;
                    number(&result).unwrap_or_else(|| refused(ResultCode::Malformed))
                }
                ResultCode::NotFound => {
                    *misses += 1;
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

fn parse(outcome: Outcome<'_>) -> Result<ResultRef<'_>, String> {
    let bytes = outcome.map_err(|failure| server_error(&failure.error))?;
    ResultRef::parse(&mut Reader::new(bytes, "result")).map_err(|malformed| server_error(&malformed.into()))
}

fn refused(code: ResultCode) -> String {
    format!("SERVER_ERROR {code}")
}

fn server_error(error: &Error) -> String {
    // An answer is one line.
    format!("SERVER_ERROR {error}").replace(['\r', '\n'], " ")
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory succeeds");
}
