//! A fragment: one table's rows in one partition, by key hash.
//!
//! The index is one array of (tag, row id), where the tag is 32 bits of hash. An entry's home is its tag scaled to
//! the capacity, and entries stand in the order of their tags, each at its home or behind it without a gap: linear
//! probing with the order of Robin Hood hashing (Celis, 1986), which for a monotone hash is the order of a sorted
//! array. Entries that would go past the end go to overflow slots behind it, not around. So
//!
//! - growing and shrinking are one pass over the array, and touch no row,
//! - a scan goes by hash: its cursor is a tag, which stays good however the index changes in between,
//! - entries of equal tag stand side by side; scans give them out together.

use twofold_proto::{placement::KeyHash, prefetch, schema::Schema};

use crate::arena::{Arena, RowId};

/// The tag of a row: its place in the order of its fragment. The same on all replicas.
///
/// Where all rows of a distribution key share its hash, the key's own bytes are mixed in.
pub fn row_tag(schema: &Schema, hash: &KeyHash, key: &[u8]) -> u32 {
    let seed = hash.index_seed();
    let hash = if schema.groups_rows() { mix_in(seed, key) } else { seed };
    (hash >> 32) as u32
}

/// Folded multiplication, 8 bytes at a time, as wyhash has it (<https://github.com/wangyi-fudan/wyhash>).
fn mix_in(seed: u64, key: &[u8]) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product >> 64) as u64 ^ product as u64
    };
    let mut hash = seed ^ 0xa076_1d64_78bd_642f;
    let (words, rest) = key.as_chunks::<8>();
    for word in words {
        hash = fold(hash ^ u64::from_le_bytes(*word), 0xe703_7ed1_a0b4_28db);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    hash = fold(hash ^ u64::from_le_bytes(last), 0x8ebc_6af0_9c88_c6e3);
    fold(hash ^ key.len() as u64, 0x5899_65cc_7537_4cc3)
}

/// Capacity of the first index.
const CAPACITY_MIN: usize = 8;

/// A slot of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    tag: u32,
    row: RowId,
}

impl Entry {
    const EMPTY: Entry = Entry { tag: 0, row: RowId::NONE };

    fn is_empty(&self) -> bool {
        self.row == RowId::NONE
    }

    /// The tag of the row.
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// The row.
    pub fn row(&self) -> RowId {
        self.row
    }
}

/// Rows of equal tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group<'a> {
    /// Their tag.
    pub tag: u32,
    /// The rows, one at least.
    pub rows: &'a [Entry],
}

impl Group<'_> {
    /// The cursor of a scan that goes on behind them.
    pub fn next_cursor(&self) -> u64 {
        u64::from(self.tag) + 1
    }
}

/// One table's rows in one partition. The rows are in the worker's arena, which is told of the index's size.
#[derive(Clone, Debug, Default)]
pub struct Fragment {
    /// `capacity` slots, and overflow slots.
    slots: Vec<Entry>,
    capacity: u32,
    rows: u32,
}

impl Fragment {
    /// A fragment without rows, and without memory.
    pub fn new() -> Fragment {
        Fragment::default()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes of the index.
    pub fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Entry>()
    }

    /// The first row of this tag, of whatever key.
    #[inline]
    pub(crate) fn candidate(&self, tag: u32) -> Option<RowId> {
        let first = self.first_at_least(tag);
        self.slots.get(first).filter(|entry| entry.tag == tag && !entry.is_empty()).map(|entry| entry.row)
    }

    /// Has the tag's slot of the index brought into the cache.
    #[inline]
    pub(crate) fn prefetch(&self, tag: u32) {
        prefetch::element(&self.slots, self.home(tag));
    }

    /// The row with this key.
    #[inline]
    pub fn find(&self, tag: u32, key: &[u8], arena: &Arena) -> Option<RowId> {
        self.position(tag, key, arena).map(|at| self.slots[at].row)
    }

    /// Adds a row; its key is not there yet.
    ///
    /// # Panics
    /// Panics past 2^31 rows.
    pub fn insert(&mut self, tag: u32, row: RowId, arena: &mut Arena) {
        debug_assert!(
            self.find(tag, arena.row(row).key(), arena).is_none(),
            "{row:?} is a second row of its key"
        );
        assert!(self.rows < 1 << 31, "a fragment of {} rows", self.rows);
        if self.len() >= max_rows(self.capacity as usize) {
            self.resize((self.capacity as usize + self.capacity as usize / 4).max(CAPACITY_MIN), arena);
        }
        let at = self.first_greater(tag);
        let gap = self.slots[at..].iter().position(Entry::is_empty);
        let gap = gap.map_or(self.slots.len(), |distance| at + distance);
        if gap == self.slots.len() {
            self.extend(arena);
        }
        self.slots.copy_within(at..gap, at + 1);
        self.slots[at] = Entry { tag, row };
        self.rows += 1;
    }

    /// Puts another row of the same key in the place of `old`.
    ///
    /// # Panics
    /// Panics if `old` is not there.
    pub fn replace(&mut self, tag: u32, old: RowId, new: RowId) {
        let at = self.position_of(tag, old);
        self.slots[at].row = new;
    }

    /// Takes a row out; it is not freed.
    ///
    /// # Panics
    /// Panics if it is not there.
    pub fn remove(&mut self, tag: u32, row: RowId, arena: &mut Arena) {
        let at = self.position_of(tag, row);
        // Those behind it move up to the first that is at its home already.
        let stays = |(position, entry): (usize, &Entry)| entry.is_empty() || self.home(entry.tag) == position;
        let mut behind = self.slots.iter().enumerate().skip(at + 1);
        let end = behind.position(stays).map_or(self.slots.len(), |distance| at + 1 + distance);
        self.slots.copy_within(at + 1..end, at);
        self.slots[end - 1] = Entry::EMPTY;
        self.rows -= 1;
        if self.len() < max_rows(self.capacity as usize) / 3 {
            // Small enough that many more have to go before the next time, or to come before it grows.
            let capacity = if self.rows == 0 { 0 } else { (self.len() * 3 / 2).max(CAPACITY_MIN) };
            if capacity < self.capacity as usize {
                self.resize(capacity, arena);
            }
        }
    }

    /// The rows from a cursor on, in groups of equal tag, by ascending tag. A scan begins with cursor 0 and goes on
    /// with the last group's [`Group::next_cursor`]: whatever happens in between, it gets every row that is there
    /// throughout exactly once.
    pub fn groups(&self, cursor: u64) -> impl Iterator<Item = Group<'_>> {
        let mut at = u32::try_from(cursor).map_or(self.slots.len(), |tag| self.first_at_least(tag));
        std::iter::from_fn(move || {
            at += self.slots.get(at..)?.iter().position(|entry| !entry.is_empty())?;
            let tag = self.slots[at].tag;
            let differs = |entry: &Entry| entry.is_empty() || entry.tag != tag;
            let length = self.slots[at..].iter().position(differs).unwrap_or(self.slots.len() - at);
            let rows = &self.slots[at..at + length];
            at += length;
            Some(Group { tag, rows })
        })
    }

    /// How many rows have this tag.
    pub fn count(&self, tag: u32) -> usize {
        let behind = &self.slots[self.first_at_least(tag).min(self.slots.len())..];
        behind.iter().take_while(|entry| !entry.is_empty() && entry.tag == tag).count()
    }

    /// Takes any row out, of a fragment that is to go: from now on nothing can be found in it. It is not freed.
    pub fn pop(&mut self) -> Option<RowId> {
        while let Some(entry) = self.slots.pop() {
            if !entry.is_empty() {
                self.rows -= 1;
                return Some(entry.row);
            }
        }
        None
    }

    /// Gives the index's memory back. The rows have been freed, or will be.
    pub fn clear(&mut self, arena: &mut Arena) {
        arena.index_shrank(self.bytes());
        *self = Fragment::new();
    }

    fn home(&self, tag: u32) -> usize {
        home(tag, self.capacity)
    }

    /// The first slot from the tag's home on that is empty or has this tag or a greater one.
    #[inline]
    fn first_at_least(&self, tag: u32) -> usize {
        let mut at = self.home(tag);
        while self.slots.get(at).is_some_and(|entry| !entry.is_empty() && entry.tag < tag) {
            at += 1;
        }
        at
    }

    /// The first slot from the tag's home on that is empty or has a greater tag.
    fn first_greater(&self, tag: u32) -> usize {
        let mut at = self.home(tag);
        while self.slots.get(at).is_some_and(|entry| !entry.is_empty() && entry.tag <= tag) {
            at += 1;
        }
        at
    }

    #[inline]
    fn position(&self, tag: u32, key: &[u8], arena: &Arena) -> Option<usize> {
        let mut at = self.first_at_least(tag);
        loop {
            let entry = self.slots.get(at).filter(|entry| entry.tag == tag && !entry.is_empty())?;
            if arena.row(entry.row).key() == key {
                return Some(at);
            }
            at += 1;
        }
    }

    fn position_of(&self, tag: u32, row: RowId) -> usize {
        let mut at = self.first_at_least(tag);
        loop {
            match self.slots.get(at) {
                Some(entry) if entry.row == row => return at,
                Some(entry) if entry.tag == tag && !entry.is_empty() => at += 1,
                _ => panic!("{row:?} with tag {tag:08x} is not among the {} rows of the fragment", self.rows),
            }
        }
    }

    /// One more overflow slot at least.
    fn extend(&mut self, arena: &mut Arena) {
        let before = self.bytes();
        push_overflow(&mut self.slots);
        arena.index_grew(self.bytes() - before);
    }

    /// Builds the index anew, in one pass: entries go where they belong in the order that they have.
    fn resize(&mut self, capacity: usize, arena: &mut Arena) {
        let scale = u32::try_from(capacity).expect("an index has fewer than 2^32 slots");
        let mut slots = vec![Entry::EMPTY; capacity];
        let mut next = 0;
        for &entry in self.slots.iter().filter(|entry| !entry.is_empty()) {
            let at = home(entry.tag, scale).max(next);
            if at == slots.len() {
                push_overflow(&mut slots);
            }
            slots[at] = entry;
            next = at + 1;
        }
        arena.index_shrank(self.bytes());
        self.slots = slots;
        self.capacity = scale;
        arena.index_grew(self.bytes());
    }

    /// Panics where an invariant is broken. Walks the whole index: for tests and samples.
    pub fn check(&self) {
        let (mut rows, mut previous) = (0, 0);
        for (at, entry) in self.slots.iter().enumerate().filter(|(_, entry)| !entry.is_empty()) {
            let home = self.home(entry.tag);
            assert!(entry.tag >= previous, "tag {:08x} behind {previous:08x}", entry.tag);
            assert!(home <= at, "tag {:08x} at {at}, before its home {home}", entry.tag);
            assert!(self.slots[home..at].iter().all(|entry| !entry.is_empty()), "a gap from {home} to {at}");
            (rows, previous) = (rows + 1, entry.tag);
        }
        assert_eq!(rows, self.rows, "rows of the fragment");
        assert!(
            self.slots.len() >= self.capacity as usize,
            "{} slots of {}",
            self.slots.len(),
            self.capacity
        );
        assert!(self.len() <= max_rows(self.capacity as usize), "{rows} rows in {} slots", self.capacity);
    }
}

/// One more overflow slot; more will be needed before long.
fn push_overflow(slots: &mut Vec<Entry>) {
    if slots.len() == slots.capacity() {
        slots.reserve_exact(8 + slots.len() / 32);
    }
    slots.push(Entry::EMPTY);
}

/// Rows that fill an index of this capacity: 85 %.
fn max_rows(capacity: usize) -> usize {
    capacity * 85 / 100
}

/// Monotone in the tag.
#[inline]
fn home(tag: u32, capacity: u32) -> usize {
    ((u64::from(tag) * u64::from(capacity)) >> 32) as usize
}

#[cfg(test)]
#[path = "fragment_tests.rs"]
mod tests;
