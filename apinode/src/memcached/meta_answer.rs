//! Results of meta commands → answers, or what is to be done before there can be one.
//!
//! Most take one operation. Where what to do depends on what is there, they take another, on the condition that the row
//! is as it was seen; if it no longer is, they begin anew.

use std::ops::Range;

use twofold_proto::{
    error::ErrorCode,
    ids::Version,
    operation::{ResultCode, ResultRef},
    time::ClusterTime,
};

use super::{
    answer::{Answers, Found, Outcome, number, parse, refused},
    item::{Shape, expiry},
    mark::Mark,
    meta::{Meta, MetaVerb, Mode},
};

/// Operations of a command, at most.
const OPERATIONS_MAX: u8 = 100;

/// What an operation of a command is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// mg, me: what is there.
    Read,
    /// mg: what is there, and how long it lives.
    Touch,
    /// mg: what is there, or an item without a value.
    Vivify,
    /// mg: that this client has won.
    Win,
    /// ms.
    Store,
    /// ms: over an item that is newer.
    StoreStale,
    /// ms, which found nothing to add to.
    StoreNew,
    /// md.
    Delete,
    /// ma.
    Count,
    /// ma, which found nothing to count.
    CountNew,
    /// What was written is read for its «cas unique».
    ReadBack,
}

/// What is known of a command from its operations so far.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Memo {
    /// The version that the row has to have yet.
    pub version: Version,
    /// The mark that it gets.
    pub mark: Mark,
    /// Whether there was no item, and it was made.
    pub created: bool,
    /// The flags and the value that were written, where they are not those of the command.
    written: Option<(u32, Box<[u8]>)>,
    /// When the item was to expire.
    expiry: ClusterTime,
    /// Before mg touched it: when it was to expire, and its «cas unique».
    touched: Option<(ClusterTime, u64)>,
}

/// A meta command in a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MetaEntry {
    pub verb: MetaVerb,
    pub phase: Phase,
    /// Operations so far.
    pub operations: u8,
    pub shape: Shape,
    /// What stands behind its name, in the input.
    line: (u32, u32),
    /// Its value, in the input.
    value: (u32, u32),
}

impl MetaEntry {
    pub fn new(
        verb: MetaVerb,
        phase: Phase,
        shape: Shape,
        line: Range<usize>,
        value: Range<usize>,
    ) -> MetaEntry {
        // The input is a line and a value, no more.
        let narrow = |range: Range<usize>| (range.start as u32, range.end as u32);
        MetaEntry { verb, phase, operations: 0, shape, line: narrow(line), value: narrow(value) }
    }

    pub fn meta<'a>(&self, input: &'a [u8]) -> Meta<'a> {
        let line = &input[self.line.0 as usize..self.line.1 as usize];
        Meta::parse(self.verb, line).expect("it was parsed when it came in")
    }

    pub fn value<'a>(&self, input: &'a [u8]) -> &'a [u8] {
        &input[self.value.0 as usize..self.value.1 as usize]
    }
}

/// A command whose answer is not final.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub entry: MetaEntry,
    pub memo: Memo,
    /// Where its answer is, or will be.
    pub place: Range<usize>,
    /// Whether its operation is under way.
    pub runs: bool,
}

/// What a result comes to.
#[derive(Debug)]
pub(super) enum Then {
    /// The answer is written.
    Done,
    /// The answer that was written before is right.
    Stands,
    /// This is to be done; the answer, if one is written, is right if it can be.
    Next(Phase, Memo),
    /// From the beginning.
    Again,
}

/// The first thing that a command does.
pub(super) fn first_phase(verb: MetaVerb, meta: &Meta<'_>) -> Phase {
    match verb {
        MetaVerb::Get if meta.vivify.is_some() => Phase::Vivify,
        MetaVerb::Get if meta.exptime.is_some() => Phase::Touch,
        MetaVerb::Get | MetaVerb::Debug => Phase::Read,
        MetaVerb::Set => Phase::Store,
        MetaVerb::Delete => Phase::Delete,
        MetaVerb::Count => Phase::Count,
    }
}

/// A command, and what its answer is made from.
struct Asked<'a> {
    entry: &'a MetaEntry,
    meta: Meta<'a>,
    value: &'a [u8],
    now: ClusterTime,
}

impl Answers {
    /// Answers a meta command by the result of its operation, or says what is to be done next.
    pub(super) fn meta(
        &mut self,
        entry: &MetaEntry,
        memo: &Memo,
        outcome: Outcome<'_>,
        input: &[u8],
        now: ClusterTime,
    ) -> Then {
        let full = outcome.is_err_and(|failure| failure.error.code == ErrorCode::TableFull);
        let result = match parse(outcome) {
            Ok(result) => result,
            Err(_) if full => {
                self.counters.store_no_memory += 1;
                return self.last_word("SERVER_ERROR out of memory storing object");
            }
            Err(text) => return self.last_word(&text),
        };
        let asked = Asked { entry, meta: entry.meta(input), value: entry.value(input), now };
        let mut joined = Vec::new();
        let row = result.before.or(result.after);
        let found = row.map(|row| Found::read(&result, Some(row), entry.shape, &mut joined)).transpose();
        let Ok(found) = found else {
            return self.last_word("SERVER_ERROR an item that makes no sense was read");
        };
        let then = match entry.verb {
            MetaVerb::Get => self.meta_get(&asked, memo, &result, found),
            MetaVerb::Set => self.meta_set(&asked, memo, &result, found),
            MetaVerb::Delete => self.meta_delete(&asked, &result),
            MetaVerb::Count => self.meta_count(&asked, memo, &result, found),
            MetaVerb::Debug => self.meta_debug(&asked, found),
        };
        match then {
            Then::Next(..) | Then::Again if entry.operations >= OPERATIONS_MAX => {
                self.last_word("SERVER_ERROR others change the item all the time; try again")
            }
            then => then,
        }
    }

    fn last_word(&mut self, text: &str) -> Then {
        self.say(text);
        Then::Done
    }

    fn meta_get(
        &mut self,
        asked: &Asked<'_>,
        memo: &Memo,
        result: &ResultRef<'_>,
        found: Option<Found<'_>>,
    ) -> Then {
        use {Phase::*, ResultCode::*};
        let meta = &asked.meta;
        let made = || Found { mark: asked.own_mark(), ..Found::default() };
        match (asked.entry.phase, result.head.code, found) {
            (Win, Ok, _) => {
                self.asked(meta.exptime.is_some(), true);
                return Then::Stands;
            }
            (Win, ConditionFalse | NotFound, _) | (Read | Touch, NotFound, _) if meta.vivify.is_some() => {
                return Then::Again;
            }
            (Win, ConditionFalse | NotFound, _) => {
                return Then::Next(Read, Memo { touched: memo.touched, ..Memo::default() });
            }
            (Vivify, Ok, _) if meta.unique => {
                let written = Some((0, Box::default()));
                return Then::Next(ReadBack, Memo { created: true, written, ..Memo::default() });
            }
            (Vivify, Ok, _) => {
                self.get_line(asked, &Memo { created: true, ..Memo::default() }, &made(), 0);
            }
            (Vivify, AlreadyExists, Some(_)) if meta.exptime.is_some() => {
                return Then::Next(Touch, Memo::default());
            }
            (Touch, Ok, Some(found)) => {
                let lives = meta.exptime.is_none_or(|exptime| exptime >= 0);
                let start = self.out.len();
                let won = self.get_line(asked, memo, &found, found.unique());
                if lives && (won || meta.unique) {
                    // The touch has given it another version.
                    self.out.truncate(start);
                    let touched = Some((found.expiry, found.unique()));
                    return Then::Next(Read, Memo { touched, ..Memo::default() });
                }
            }
            (Vivify, AlreadyExists, Some(found)) | (Read, Ok, Some(found)) => {
                if self.get_line(asked, memo, &found, found.unique()) {
                    let mark = Mark { won: true, unique: Some(found.unique()), ..found.mark };
                    let (version, touched) = (found.version, memo.touched);
                    return Then::Next(Win, Memo { version, mark, touched, ..Memo::default() });
                }
            }
            (ReadBack, Ok | NotFound, found) => {
                let unique = memo.unique_of(asked, found);
                self.get_line(asked, memo, &made(), unique);
            }
            (_, NotFound, _) => {
                self.asked(meta.exptime.is_some(), false);
                if !meta.quiet {
                    self.line("EN", None, meta, |_, _| {});
                }
                return Then::Done;
            }
            (_, code, _) => return self.last_word(&refused(code)),
        }
        self.asked(meta.exptime.is_some(), true);
        Then::Done
    }

    /// The answer with an item; whether it tells that the client has won.
    fn get_line(&mut self, asked: &Asked<'_>, memo: &Memo, found: &Found<'_>, unique: u64) -> bool {
        let (Asked { meta, now, .. }, created) = (asked, memo.created);
        let (mut lives, was) = memo.touched.unwrap_or((found.expiry, unique));
        let mut won = false;
        // 0 is none.
        let value = meta.value && (was == 0 || meta.compare != Some(was));
        let size = value.then_some(found.value.len());
        self.line("HD", size, meta, |out, flag| match flag[0] {
            b'T' => lives = expiry(meta.exptime.unwrap_or_default(), *now),
            b'N' if created => {
                lives = expiry(meta.vivify.unwrap_or_default(), *now);
                won = true;
            }
            b'R' => {
                let recache = expiry(meta.recache.unwrap_or_default(), *now);
                won |= !found.mark.won && !created && lives.0 != 0 && ttl(lives, *now) < ttl(recache, *now);
            }
            b's' => number(out, b" s", found.value.len() as u64),
            b't' => write_ttl(out, lives, *now),
            b'c' => number(out, b" c", unique),
            b'f' => number(out, b" f", found.flags.into()),
            // Neither is kept.
            b'l' | b'h' => out.extend_from_slice(&[b' ', flag[0], b'0']),
            _ => {}
        });
        let seen = if created { Mark::default() } else { found.mark };
        won |= seen.stale && !seen.won;
        self.out.truncate(self.out.len() - 2);
        for (letter, told) in [(" Z", seen.won), (" X", seen.stale), (" W", won)] {
            self.out.extend_from_slice(if told { letter.as_bytes() } else { b"" });
        }
        self.out.extend_from_slice(b"\r\n");
        if value {
            self.out.extend_from_slice(&found.value);
            self.out.extend_from_slice(b"\r\n");
        }
        won
    }

    fn meta_set(
        &mut self,
        asked: &Asked<'_>,
        memo: &Memo,
        result: &ResultRef<'_>,
        found: Option<Found<'_>>,
    ) -> Then {
        use {Phase::*, ResultCode::*};
        let meta = &asked.meta;
        let compares = meta.compare.is_some() && matches!(meta.mode, Mode::Set | Mode::Replace);
        let mut size = asked.value.len();
        let mut unique = 0;
        let status = match (asked.entry.phase, result.head.code, found) {
            (ReadBack, Ok | NotFound, found) => {
                size = memo.written.as_ref().map_or(size, |(_, value)| value.len());
                unique = memo.unique_of(asked, found);
                "HD"
            }
            (Store | StoreStale | StoreNew, Ok, found) => {
                let after = found.filter(|_| result.after.is_some());
                self.counters.cmd_set += 1;
                self.counters.cas_hits += u64::from(compares);
                size = after.as_ref().map_or(size, |after| after.value.len());
                if meta.unique {
                    let written = after.map(|after| (after.flags, after.value.into()));
                    return Then::Next(ReadBack, Memo { written, mark: memo.mark, ..Memo::default() });
                }
                "HD"
            }
            (Store, ConditionFalse, Some(found))
                if meta.invalidate
                    && compares
                    && (1..found.unique()).contains(&meta.compare.unwrap_or(0)) =>
            {
                let mark = Mark { stale: true, won: found.mark.won, unique: meta.new_unique };
                return Then::Next(StoreStale, Memo { version: found.version, mark, ..Memo::default() });
            }
            (StoreStale, ConditionFalse, _) | (StoreNew, AlreadyExists, _) => return Then::Again,
            (Store, NotFound, _)
                if meta.vivify.is_some() && matches!(meta.mode, Mode::Append | Mode::Prepend) =>
            {
                return Then::Next(StoreNew, Memo::default());
            }
            (_, ConditionFalse, _) => {
                self.counters.cas_badval += 1;
                "EX"
            }
            (_, NotFound, _) if compares => {
                self.counters.cas_misses += 1;
                "NF"
            }
            (_, NotFound | AlreadyExists | ValueTooLong | RowTooBig, _) => "NS",
            (_, code, _) => return self.last_word(&refused(code)),
        };
        if !(meta.quiet && status == "HD") {
            self.line(status, None, meta, |out, flag| match flag[0] {
                b'c' => number(out, b" c", unique),
                b's' => number(out, b" s", size as u64),
                _ => {}
            });
        }
        Then::Done
    }

    fn meta_delete(&mut self, asked: &Asked<'_>, result: &ResultRef<'_>) -> Then {
        let Asked { meta, .. } = asked;
        let status = match result.head.code {
            ResultCode::Ok => "HD",
            ResultCode::NotFound => "NF",
            ResultCode::ConditionFalse => "EX",
            code => return self.last_word(&refused(code)),
        };
        match status {
            "HD" if meta.invalidate => {}
            "HD" => self.counters.delete_hits += 1,
            _ => self.counters.delete_misses += 1,
        }
        if !(meta.quiet && status == "HD") {
            self.line(status, None, meta, |_, _| {});
        }
        Then::Done
    }

    fn meta_count(
        &mut self,
        asked: &Asked<'_>,
        memo: &Memo,
        result: &ResultRef<'_>,
        found: Option<Found<'_>>,
    ) -> Then {
        use {Phase::*, ResultCode::*};
        let meta = &asked.meta;
        match (asked.entry.phase, result.head.code, found) {
            (Count | CountNew, Ok, after) => {
                let created = asked.entry.phase == CountNew;
                if after.is_none() && !created {
                    return self.last_word(&refused(Malformed));
                }
                *self.counters.counted(meta.down, true) += u64::from(!created);
                let Found { flags, value, expiry, .. } = after.unwrap_or_default();
                let value = if created { meta.initial.to_string().into_bytes() } else { value.into_owned() };
                let memo = Memo { created, written: Some((flags, value.into())), expiry, ..Memo::default() };
                if meta.unique {
                    return Then::Next(ReadBack, memo);
                }
                self.count_line(asked, &memo, 0);
                Then::Done
            }
            (ReadBack, Ok | NotFound, found) => {
                let unique = memo.unique_of(asked, found);
                self.count_line(asked, memo, unique);
                Then::Done
            }
            (CountNew, AlreadyExists, _) => Then::Again,
            (Count, NotFound, _) if meta.vivify.is_some() => Then::Next(CountNew, Memo::default()),
            (Count, NotFound | ConditionFalse, _) => {
                let status = if result.head.code == NotFound { "NF" } else { "EX" };
                *self.counters.counted(meta.down, false) += u64::from(status == "NF");
                self.line(status, None, meta, |_, _| {});
                Then::Done
            }
            (_, NotANumber, _) => {
                self.last_word("CLIENT_ERROR cannot increment or decrement non-numeric value")
            }
            (_, code, _) => self.last_word(&refused(code)),
        }
    }

    fn count_line(&mut self, asked: &Asked<'_>, memo: &Memo, unique: u64) {
        let Asked { meta, now, .. } = asked;
        if meta.quiet {
            return;
        }
        // A number that got shorter is padded.
        let digits = memo.written.as_ref().map_or(&b""[..], |(_, value)| value.trim_ascii_end());
        let size = meta.value.then_some(digits.len());
        let mut lives = memo.expiry;
        self.line("HD", size, meta, |out, flag| match flag[0] {
            b'T' => lives = expiry(meta.exptime.unwrap_or_default(), *now),
            b'N' if memo.created => lives = expiry(meta.vivify.unwrap_or_default(), *now),
            b't' => write_ttl(out, lives, *now),
            b'c' => number(out, b" c", unique),
            _ => {}
        });
        if meta.value {
            self.out.extend_from_slice(digits);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    fn meta_debug(&mut self, asked: &Asked<'_>, found: Option<Found<'_>>) -> Then {
        let Asked { meta, now, .. } = asked;
        self.counters.cmd_meta += 1;
        let Some(found) = found else { return self.last_word("EN") };
        self.out.extend_from_slice(b"ME ");
        self.out.extend_from_slice(meta.key);
        // memcached says by how much it has outlived its time.
        let outlived = if found.expiry.0 == 0 { -1 } else { -(ttl(found.expiry, *now) as i64) };
        let (unique, size) = (found.unique(), meta.key.len() + found.value.len());
        self.last_word(&format!(" exp={outlived} la=0 cas={unique} fetch=no cls=0 size={size}"))
    }

    /// A line: the status, or VA and the size of the value that follows; then what the flags ask for, in their order. All have
    /// `O` and `k`; `more` writes the others.
    fn line(
        &mut self,
        status: &str,
        size: Option<usize>,
        meta: &Meta<'_>,
        mut more: impl FnMut(&mut Vec<u8>, &[u8]),
    ) {
        let out = &mut self.out;
        match size {
            Some(size) => number(out, b"VA ", size as u64),
            None => out.extend_from_slice(status.as_bytes()),
        }
        for flag in meta.flags() {
            match flag[0] {
                b'O' => {
                    out.push(b' ');
                    out.extend_from_slice(flag);
                }
                b'k' => {
                    out.extend_from_slice(b" k");
                    out.extend_from_slice(meta.key);
                    out.extend_from_slice(if meta.binary { b" b" } else { b"" });
                }
                _ => more(out, flag),
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl Asked<'_> {
    /// The mark of an item that mg made.
    fn own_mark(&self) -> Mark {
        Mark { won: true, unique: self.meta.new_unique, stale: false }
    }
}

impl Memo {
    /// The «cas unique» of what was written, by what is there now; 0, which no item has, if that is something else.
    /// What is the same in all that a client could see counts as written later by this command.
    fn unique_of(&self, asked: &Asked<'_>, found: Option<Found<'_>>) -> u64 {
        let Some(found) = found else { return 0 };
        let own = (asked.meta.client_flags, asked.value);
        let written = self.written.as_ref().map_or(own, |(flags, value)| (*flags, &**value));
        let mark = match asked.entry.verb {
            MetaVerb::Get => asked.own_mark(),
            _ => Mark { unique: asked.meta.new_unique, ..self.mark },
        };
        match (found.flags, &*found.value) == written && found.mark == mark {
            true => found.unique(),
            false => 0,
        }
    }
}

/// Seconds until then, as memcached counts them, which lives from second to second.
fn ttl(expiry: ClusterTime, now: ClusterTime) -> u64 {
    expiry.0.saturating_sub(now.0).div_ceil(1000)
}

fn write_ttl(out: &mut Vec<u8>, expiry: ClusterTime, now: ClusterTime) {
    match expiry.0 {
        0 => out.extend_from_slice(b" t-1"),
        _ => number(out, b" t", ttl(expiry, now)),
    }
}
