//! Commands → the operations of one batch, and what their answers will be about.

use std::ops::Range;

use hashbrown::HashTable;
use twofold_proto::{limits::ROW_BYTES_MAX, placement::KeyHash, time::ClusterTime};

use super::{
    answer::Entry,
    command::{Command, Keys, Verb},
    item::{Builder, Item, Items, expiry},
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
}

impl Batch {
    pub(super) fn new() -> Batch {
        Batch {
            builder: Builder::default(),
            entries: Vec::new(),
            used: HashTable::new(),
            get: None,
            limit: OPERATIONS_MAX,
        }
    }

    /// It has run, and its results had so many bytes.
    pub(super) fn ran(&mut self, result_bytes: usize) {
        self.used.clear();
        self.limit = match result_bytes > RESULT_BYTES {
            true => (self.limit / 2).max(1),
            false => (self.limit * 2).min(OPERATIONS_MAX),
        };
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
        items: &Items,
    ) -> Taken {
        let entry = match command {
            Command::Say(text) => Entry::Say(text),
            Command::Version => Entry::Say(VERSION),
            Command::Close(_) | Command::Stats(_) | Command::FlushAll { .. } => return Taken::NeverInBatch,
            Command::Get { keys, cas, touch } => {
                self.open_get(keys, cas, touch, input, now);
                Entry::BeginGet
            }
            Command::TooLarge { verb, key, noreply } => {
                // The old value must not outlive one that was to replace it.
                if verb == Verb::Set {
                    let Some(hash) = self.use_key(items, key, true) else { return Taken::No };
                    self.builder.delete(items, hash, key);
                    self.entries.push(Entry::Discard);
                }
                Entry::TooLarge { noreply }
            }
            Command::Store { verb, key, flags, exptime, value, noreply } => {
                let Some(hash) = self.use_key(items, key, true) else { return Taken::No };
                let item = Item { flags, expiry: expiry(exptime, now), value };
                self.builder.store(items, verb, hash, key, item);
                Entry::Store { verb, noreply }
            }
            Command::Count { key, delta, down, noreply } => {
                let Some(hash) = self.use_key(items, key, true) else { return Taken::No };
                self.builder.count(items, hash, key, delta, down);
                Entry::Count { down, noreply }
            }
            Command::Delete { key, noreply } => {
                let Some(hash) = self.use_key(items, key, true) else { return Taken::No };
                self.builder.delete(items, hash, key);
                Entry::Delete { noreply }
            }
            Command::Touch { key, exptime, noreply } => {
                let Some(hash) = self.use_key(items, key, true) else { return Taken::No };
                self.builder.touch(items, hash, key, expiry(exptime, now), None);
                Entry::Touch { noreply }
            }
        };
        self.entries.push(entry);
        Taken::Yes
    }

    fn open_get(&mut self, keys: Keys<'_>, cas: bool, touch: Option<i64>, input: &[u8], now: ClusterTime) {
        let keys = range_of(keys.0, input);
        // The touch gives the item a new version, which is known only when it is read again. One that makes it expire
        // leaves nothing to read.
        let again = (cas && touch.is_some_and(|exptime| exptime >= 0)).then(|| keys.clone());
        self.get = Some(OpenGet { keys, cas, touch: touch.map(|exptime| expiry(exptime, now)), again });
    }

    /// Goes on with a get, if one is open. `false`: the batch has to run before it can go on further.
    pub(super) fn continue_get(&mut self, input: &[u8], items: &Items) -> bool {
        let Some(mut get) = self.get.take() else { return true };
        loop {
            for key in Keys(&input[get.keys.clone()]).iter() {
                let place = range_of(key, input);
                let hash = if self.is_full() { None } else { self.use_key(items, key, get.touch.is_some()) };
                let Some(hash) = hash else {
                    get.keys.start = place.start;
                    self.get = Some(get);
                    return false;
                };
                self.entries.push(match (get.touch, &get.again) {
                    (Some(expiry), Some(_)) => {
                        self.builder.touch(items, hash, key, expiry, None);
                        Entry::TouchFirst
                    }
                    (Some(expiry), None) => {
                        self.builder.touch(items, hash, key, expiry, Some(get.cas));
                        Entry::Value { key: place, cas: get.cas, touched: true }
                    }
                    (None, _) => {
                        self.builder.get(items, hash, key, get.cas);
                        Entry::Value { key: place, cas: get.cas, touched: false }
                    }
                });
            }
            match get.again.take() {
                Some(keys) => get = OpenGet { keys, touch: None, again: None, ..get },
                None => break,
            }
        }
        self.entries.push(Entry::EndOfGet);
        true
    }

    /// The hash of a key, unless something else in the batch uses it so that they cannot run side by side.
    fn use_key(&mut self, items: &Items, key: &[u8], written: bool) -> Option<KeyHash> {
        let hash = items.hash(key);
        let seed = |used: &Used| used.hash.index_seed();
        match self.used.find(hash.index_seed(), |used| used.hash == hash) {
            Some(used) => (!written && !used.written).then_some(hash),
            None => {
                self.used.insert_unique(hash.index_seed(), Used { hash, written }, seed);
                Some(hash)
            }
        }
    }
}

/// Where a part of the input is in it.
fn range_of(part: &[u8], input: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - input.as_ptr() as usize;
    start..start + part.len()
}
