//! Commands → the operations of one batch, and what their answers will be about.

use std::ops::Range;

use hashbrown::HashTable;
use twofold_proto::{limits::ROW_BYTES_MAX, placement::KeyHash, time::ClusterTime};

use super::{
    answer::Entry,
    command::{Command, Keys, Verb},
    item::{Keyspace, expiry},
    mark::Mark,
    meta::{Meta, MetaVerb, Mode},
    meta_answer::{Held, Memo, MetaEntry, Phase, first_phase},
    operations::{Builder, Conditions, Item, Row, Told},
};

/// Operations of a batch, at most; fewer after answers that were large.
const OPERATIONS_MAX: usize = 128;
/// Bytes of the results of a batch, at most.
pub const RESULT_BYTES_MAX: usize = OPERATIONS_MAX * (ROW_BYTES_MAX + 64);
/// Answers of a batch.
const ENTRIES_MAX: usize = 1024;
/// A batch that is larger than this in bytes takes no more commands.
const BYTES_FULL: usize = 1 << 20;
/// Results of a batch should not be larger than this.
const RESULT_BYTES: usize = 4 << 20;

const VERSION: &str = concat!("VERSION 1.6.18-twofold-", env!("CARGO_PKG_VERSION"));

/// A get of which some keys have been put into batches already.
#[derive(Clone, PartialEq, Eq, Debug)]
struct OpenGet {
    /// The rest of the keys, in the input.
    keys: Range<usize>,
    cas: bool,
    touch: Option<ClusterTime>,
    /// All keys, if they are yet to be read once all have been touched.
    again: Option<Range<usize>>,
}

/// A key of a batch.
#[derive(Clone, Copy, Debug)]
struct Used {
    hash: KeyHash,
    written: bool,
}

/// Whether a command became part of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    Yes,
    /// The batch has to run first.
    No,
    /// It is none that runs in a batch.
    NeverInBatch,
}

/// Commands that run together.
#[derive(Debug)]
pub(super) struct Batch {
    pub builder: Builder,
    pub entries: Vec<Entry>,
    used: HashTable<Used>,
    get: Option<OpenGet>,
    limit: usize,
    // Kept for their capacity.
    decoded: Vec<u8>,
    encoded: Vec<u8>,
}

impl Batch {
    pub(super) fn new() -> Batch {
        Batch {
            builder: Builder::default(),
            entries: Vec::new(),
            used: HashTable::new(),
            get: None,
            limit: OPERATIONS_MAX,
            decoded: Vec::new(),
            encoded: Vec::new(),
        }
    }

    /// It has run, and its results had so many bytes.
    pub(super) fn ran(&mut self, result_bytes: usize) {
        self.is_over();
        self.limit = match result_bytes > RESULT_BYTES {
            true => (self.limit / 2).max(1),
            false => (self.limit * 2).min(OPERATIONS_MAX),
        };
    }

    /// What comes next is another one.
    pub(super) fn is_over(&mut self) {
        self.used.clear();
    }

    /// Whether nothing of it is left. That its answers were large of late is forgotten.
    pub(super) fn is_at_rest(&self) -> bool {
        self.get.is_none() && self.entries.is_empty() && self.builder.operations.count == 0
    }

    pub(super) fn is_full(&self) -> bool {
        usize::from(self.builder.operations.count) >= self.limit
            || self.builder.operations.bytes.len() >= BYTES_FULL
            || self.entries.len() >= ENTRIES_MAX
    }

    /// Takes a command that was read from `input`.
    pub(super) fn take(
        &mut self,
        command: Command<'_>,
        input: &[u8],
        now: ClusterTime,
        items: &Keyspace,
    ) -> Taken {
        match command {
            Command::Say(text) => self.entries.push(Entry::Say(text)),
            Command::Version => self.entries.push(Entry::Say(VERSION)),
            Command::Close(_) | Command::Stats(_) | Command::FlushAll { .. } => return Taken::NeverInBatch,
            Command::Get { keys, cas, touch } => {
                self.open_get(keys, cas, touch, input, now);
                self.entries.push(Entry::BeginGet);
            }
            Command::TooLarge { verb, key, noreply } => {
                // The old value must not outlive one that was to replace it.
                if verb == Verb::Set {
                    match self.write(items, key, discard) {
                        None => return Taken::No,
                        Some(Ok(())) => self.entries.push(Entry::Discard),
                        // There is no old value.
                        Some(Err(_)) => {}
                    }
                }
                self.entries.push(Entry::TooLarge { noreply });
            }
            Command::Store { verb, key, flags, exptime, value, noreply } => {
                let appends = matches!(verb, Verb::Append | Verb::Prepend);
                // What is added to an item does not change how long it lives.
                let expiry = (!appends).then(|| expiry(exptime, now));
                let item = Item { flags, expiry, value, mark: Mark::default() };
                let only = match verb {
                    Verb::Cas(unique) => Conditions::unique(unique),
                    _ => Conditions::default(),
                };
                let store =
                    |builder: &mut Builder, row: Row<'_>| builder.store(row, verb, item, only, Told::Nothing);
                return self.classic(items, key, noreply, store, Entry::Store { verb, noreply });
            }
            Command::Count { key, delta, down, noreply } => {
                let count = |builder: &mut Builder, row: Row<'_>| {
                    let (mark, only) = (Mark::default(), Conditions::default());
                    builder.count(row, (delta, down), None, mark, only, Told::NewValue)
                };
                return self.classic(items, key, noreply, count, Entry::Count { down, noreply });
            }
            Command::Delete { key, noreply } => {
                return self.classic(items, key, noreply, discard, Entry::Delete { noreply });
            }
            Command::Touch { key, exptime, noreply } => {
                let touch = |builder: &mut Builder, row: Row<'_>| {
                    builder.touch(row, expiry(exptime, now), Told::Nothing);
                    Ok(())
                };
                return self.classic(items, key, noreply, touch, Entry::Touch { noreply });
            }
            Command::Meta { verb, line, value } => return self.meta(verb, line, value, input, now, items),
        }
        Taken::Yes
    }

    /// Takes a command that writes one row.
    fn classic(
        &mut self,
        items: &Keyspace,
        key: &[u8],
        noreply: bool,
        build: impl FnOnce(&mut Builder, Row<'_>) -> Result<(), Box<str>>,
        entry: Entry,
    ) -> Taken {
        let entry = match self.write(items, key, build) {
            None => return Taken::No,
            Some(Ok(())) => entry,
            Some(Err(_)) if noreply => Entry::Say(""),
            Some(Err(text)) => Entry::Refused(text),
        };
        self.entries.push(entry);
        Taken::Yes
    }

    /// Builds an operation that writes a row; `None`: the batch has to run first.
    fn write(
        &mut self,
        items: &Keyspace,
        key: &[u8],
        build: impl FnOnce(&mut Builder, Row<'_>) -> Result<(), Box<str>>,
    ) -> Option<Result<(), Box<str>>> {
        let row = match find(items, key, &mut self.encoded) {
            Ok(row) => row,
            Err(text) => return Some(Err(text)),
        };
        claim(&mut self.used, row.hash, true).then(|| build(&mut self.builder, row))
    }

    fn meta(
        &mut self,
        verb: MetaVerb,
        line: &[u8],
        value: Option<&[u8]>,
        input: &[u8],
        now: ClusterTime,
        items: &Keyspace,
    ) -> Taken {
        let meta = match Meta::parse(verb, line) {
            Ok(meta) => meta,
            Err(text) => {
                self.entries.push(Entry::Say(text));
                return Taken::Yes;
            }
        };
        let mut decoded = std::mem::take(&mut self.decoded);
        let row = find(items, meta.plain_key(&mut decoded), &mut self.encoded);
        let phase = first_phase(verb, &meta);
        let built = row.map(|row| {
            let writes = phase != Phase::Read || meta.recache.is_some();
            if !claim(&mut self.used, row.hash, writes) {
                return None;
            }
            let Some(value) = value else {
                self.builder.delete(row, Conditions::default());
                self.entries.push(Entry::Discard);
                return Some(Ok(Entry::TooLarge { noreply: false }));
            };
            let (line, place) = (range_of(line, input), range_of(value, input));
            let entry = MetaEntry::new(verb, phase, row.items.shape(true), line, place);
            let built = build_meta(&mut self.builder, row, &entry, &meta, value, &Memo::default(), now);
            Some(built.map(|()| Entry::Meta(entry)))
        });
        self.decoded = decoded;
        self.entries.push(match built {
            Ok(None) => return Taken::No,
            Ok(Some(Ok(entry))) => entry,
            Ok(Some(Err(text))) | Err(text) => Entry::Refused(text),
        });
        Taken::Yes
    }

    /// Goes on with commands that have run already, each with its next operation, as far as they can run side by side.
    /// One that is refused has its answer for an error.
    pub(super) fn resume(
        &mut self,
        held: &mut Held,
        input: &[u8],
        now: ClusterTime,
        items: &Keyspace,
    ) -> Result<(), Box<str>> {
        if self.is_full() {
            return Ok(());
        }
        let meta = held.entry.meta(input);
        let mut decoded = std::mem::take(&mut self.decoded);
        let row = find(items, meta.plain_key(&mut decoded), &mut self.encoded);
        let built = row.and_then(|row| {
            if !claim(&mut self.used, row.hash, true) {
                return Ok(());
            }
            held.runs = true;
            held.entry.shape = row.items.shape(true);
            held.entry.operations += 1;
            let value = held.entry.value(input);
            build_meta(&mut self.builder, row, &held.entry, &meta, value, &held.memo, now)
        });
        self.decoded = decoded;
        built
    }

    fn open_get(&mut self, keys: Keys<'_>, cas: bool, touch: Option<i64>, input: &[u8], now: ClusterTime) {
        let keys = range_of(keys.0, input);
        // The touch gives the item a new version, which is known only when it is read again. One that makes it expire
        // leaves nothing to read.
        let again = (cas && touch.is_some_and(|exptime| exptime >= 0)).then(|| keys.clone());
        self.get = Some(OpenGet { keys, cas, touch: touch.map(|exptime| expiry(exptime, now)), again });
    }

    /// Goes on with a get, if one is open. `false`: the batch has to run before it can go on further.
    pub(super) fn continue_get(&mut self, input: &[u8], items: &Keyspace) -> bool {
        let Some(mut get) = self.get.take() else { return true };
        loop {
            for key in Keys(&input[get.keys.clone()]).iter() {
                if self.is_full() || !self.get_key(&get, key, input, items) {
                    get.keys.start = range_of(key, input).start;
                    self.get = Some(get);
                    return false;
                }
            }
            match get.again.take() {
                Some(keys) => get = OpenGet { keys, touch: None, again: None, ..get },
                None => break,
            }
        }
        self.entries.push(Entry::EndOfGet);
        true
    }

    /// `false`: the batch has to run before this key can be read.
    fn get_key(&mut self, get: &OpenGet, key: &[u8], input: &[u8], items: &Keyspace) -> bool {
        let row = match find(items, key, &mut self.encoded) {
            Ok(row) => row,
            Err(text) => {
                self.entries.push(Entry::RefusedKey(text));
                return true;
            }
        };
        if !claim(&mut self.used, row.hash, get.touch.is_some()) {
            return false;
        }
        // An item may have a «cas unique» of its own, in its mark.
        let told = if get.cas { Told::Before { value: true } } else { Told::Item };
        let value = |touched| Entry::Value {
            key: range_of(key, input),
            cas: get.cas,
            touched,
            shape: row.items.shape(get.cas),
        };
        let entry = match (get.touch, &get.again) {
            (Some(expiry), Some(_)) => {
                self.builder.touch(row, expiry, Told::Nothing);
                Entry::TouchFirst
            }
            (Some(expiry), None) => {
                self.builder.touch(row, expiry, told);
                value(true)
            }
            (None, _) => {
                self.builder.get(row, told);
                value(false)
            }
        };
        self.entries.push(entry);
        true
    }
}

fn discard(builder: &mut Builder, row: Row<'_>) -> Result<(), Box<str>> {
    builder.delete(row, Conditions::default());
    Ok(())
}

/// The row of a key. `encoded` is where the row's key goes if it is not the client's.
#[inline]
fn find<'k>(items: &'k Keyspace, key: &'k [u8], encoded: &'k mut Vec<u8>) -> Result<Row<'k>, Box<str>> {
    let items = items.items(key)?;
    let (hash, key) = items.row_key(key, encoded)?;
    Ok(Row { items, hash, key })
}

/// Whether a row can be used beside all else in the batch, which it then is.
#[inline]
fn claim(used: &mut HashTable<Used>, hash: KeyHash, written: bool) -> bool {
    let seed = |used: &Used| used.hash.index_seed();
    match used.find(hash.index_seed(), |used| used.hash == hash) {
        Some(used) => !written && !used.written,
        None => {
            used.insert_unique(hash.index_seed(), Used { hash, written }, seed);
            true
        }
    }
}

/// Builds the operation of a meta command's phase.
fn build_meta(
    builder: &mut Builder,
    row: Row<'_>,
    entry: &MetaEntry,
    meta: &Meta<'_>,
    value: &[u8],
    memo: &Memo,
    now: ClusterTime,
) -> Result<(), Box<str>> {
    if row.items.mark.is_none() && meta.needs_mark(entry.verb) {
        let table = &row.items.schema().name;
        let text = format!("SERVER_ERROR table `{table}` has no marks, which N and R of mg, I and E need");
        return Err(text.into());
    }
    let at = |exptime: i64| expiry(exptime, now);
    let lives = meta.exptime.map(at);
    let mark = Mark { unique: meta.new_unique, ..memo.mark };
    let seen = Conditions { version: Some(memo.version), ..Conditions::default() };
    let compared = Conditions { unique: meta.compare, ..Conditions::default() };
    let told = Told::Before { value: meta.value || meta.size || entry.verb == MetaVerb::Debug };
    match entry.phase {
        Phase::Read => builder.get(row, told),
        Phase::ReadBack => builder.get(row, Told::Before { value: true }),
        Phase::Touch => builder.touch(row, lives.unwrap_or_default(), told),
        Phase::Win => builder.mark(row, memo.mark, None, seen),
        Phase::Vivify => {
            let item = Item {
                expiry: Some(at(meta.made_exptime())),
                mark: Mark { won: true, ..mark },
                ..Item::default()
            };
            return builder.store(row, Verb::Add, item, Conditions::default(), told);
        }
        Phase::Store => return build_meta_store(builder, row, meta, value, lives.unwrap_or_default()),
        Phase::StoreStale => {
            let item = Item { flags: meta.client_flags, expiry: None, value, mark };
            return builder.store(row, Verb::Replace, item, seen, Told::Nothing);
        }
        Phase::StoreNew => {
            let expiry = meta.vivify.map(at);
            let item = Item { flags: meta.client_flags, expiry, value, mark };
            return builder.store(row, Verb::Add, item, Conditions::default(), Told::Nothing);
        }
        Phase::Delete => {
            let mark = Mark { stale: meta.invalidate, ..mark };
            match (meta.remove_value, meta.invalidate) {
                (true, _) => {
                    let expiry = Some(lives.unwrap_or_default());
                    let item = Item { flags: meta.client_flags, expiry, value: b"", mark };
                    return builder.store(row, Verb::Replace, item, compared, Told::Nothing);
                }
                (false, true) => builder.mark(row, mark, lives, compared),
                (false, false) => builder.delete(row, compared),
            }
        }
        Phase::Count => {
            // 0 is none, here.
            let only = Conditions { unique: meta.compare.filter(|&unique| unique != 0), ..compared };
            return builder.count(row, (meta.delta, meta.down), lives, mark, only, Told::After);
        }
        Phase::CountNew => {
            let value = meta.initial.to_string();
            let item =
                Item { expiry: Some(at(meta.made_exptime())), value: value.as_bytes(), mark, flags: 0 };
            return builder.store(row, Verb::Add, item, Conditions::default(), Told::Nothing);
        }
    }
    Ok(())
}

fn build_meta_store(
    builder: &mut Builder,
    row: Row<'_>,
    meta: &Meta<'_>,
    value: &[u8],
    lives: ClusterTime,
) -> Result<(), Box<str>> {
    let appends = matches!(meta.mode, Mode::Append | Mode::Prepend);
    let verb = match meta.mode {
        Mode::Set if meta.compare.is_some() => Verb::Replace,
        Mode::Set => Verb::Set,
        Mode::Add => Verb::Add,
        Mode::Replace => Verb::Replace,
        Mode::Append => Verb::Append,
        Mode::Prepend => Verb::Prepend,
    };
    let unique = match meta.mode {
        Mode::Add => None,
        // 0 is none, here.
        Mode::Append | Mode::Prepend => meta.compare.filter(|&unique| unique != 0),
        Mode::Set | Mode::Replace => meta.compare,
    };
    let told = match meta.invalidate {
        _ if appends && (meta.unique || meta.size) => Told::After,
        true if !appends && unique.is_some() => Told::Before { value: false },
        _ => Told::Nothing,
    };
    let mark = Mark { unique: meta.new_unique, ..Mark::default() };
    let item = Item { flags: meta.client_flags, expiry: (!appends).then_some(lives), value, mark };
    builder.store(row, verb, item, Conditions { unique, ..Conditions::default() }, told)
}

/// Where a part of the input is in it; one of another place is nowhere.
fn range_of(part: &[u8], input: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).wrapping_sub(input.as_ptr() as usize);
    if part.is_empty() { 0..0 } else { start..start + part.len() }
}
