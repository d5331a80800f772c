//! Ordered indexes: of a table's rows in one worker, by the bytes of [`twofold_proto::index`].
//!
//! An index is a B+ tree: leaves of many entries, each the first bytes of its key and where the row is, and above them the standard
//! library's tree of the leaves' lower bounds. Keys are not kept: where the first bytes do not tell, they are made from the row. So an
//! entry takes some 18 bytes whatever its columns, and an index is right as long as every change of a row passes by here *before*
//! the row's bytes change. NDB's ordered indexes are made likewise, of addresses and key prefixes
//! (storage/ndb/src/kernel/blocks/dbtux).
//!
//! An index that comes to a table with rows is *built* bit by bit: every write is entered from the beginning on, and a walk through the fragments
//! enters the rows that are there. Nobody may ask it before the walk is through.

use std::{cmp::Ordering, collections::BTreeMap, ops::Bound, sync::Arc};

use twofold_proto::{
    ids::{IndexId, PartitionId, TableId},
    index::{EntryRange, encode_entry},
    row::RowRef,
    schema::{Index, Schema},
};

use crate::arena::{Arena, NewRow, RowId, StoredRow};

/// Entries of a leaf, past which it is split. Few in tests, so that small tables have many leaves.
const LEAF_MAX: usize = if cfg!(test) { 8 } else { 256 };
/// Entries of a leaf, below which it is joined with a neighbour that has room for them.
const LEAF_MIN: usize = LEAF_MAX / 4;
/// What a leaf takes in the tree above beyond the bytes of its bound, about: a half full node's share.
const LEAF_OVERHEAD: usize = 96;

/// A row's place in an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// The first bytes of its key.
    prefix: u64,
    pub row: RowId,
    pub partition: PartitionId,
}

const _: () = assert!(size_of::<Entry>() == 16);

fn prefix(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = key.len().min(8);
    bytes[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(bytes)
}

/// What makes keys of rows.
#[derive(Clone, Debug)]
struct Keys {
    schema: Arc<Schema>,
    index: Index,
}

impl Keys {
    fn encode(&self, schema_version: u32, key: &[u8], body: &[u8], out: &mut Vec<u8>) {
        let row = RowRef::new(&self.schema, schema_version, key, body);
        row.and_then(|row| encode_entry(&self.schema, &self.index, &row, out)).unwrap_or_else(|error| {
            panic!("table {}, index {}: {error} in a stored row", self.schema.name, self.index.name)
        });
    }

    fn encode_stored(&self, row: &StoredRow<'_>, out: &mut Vec<u8>) {
        self.encode(row.schema_version(), row.key(), row.body(), out);
    }

    fn compare(&self, entry: &Entry, key: &[u8], arena: &Arena, scratch: &mut Vec<u8>) -> Ordering {
        entry.prefix.cmp(&prefix(key)).then_with(|| {
            let row = arena.row(entry.row);
            if self.index.columns.is_empty() {
                return row.key().cmp(key);
            }
            scratch.clear();
            self.encode_stored(&row, scratch);
            scratch[..].cmp(key)
        })
    }

    /// Where the key is, or would be.
    fn search(&self, leaf: &[Entry], key: &[u8], arena: &Arena) -> Result<usize, usize> {
        let mut scratch = Vec::new();
        leaf.binary_search_by(|entry| self.compare(entry, key, arena, &mut scratch))
    }
}

/// An ordered index of a table in one worker.
#[derive(Debug)]
pub(crate) struct OrderedIndex {
    keys: Keys,
    /// By lower bound: a leaf's keys are not less than it, and less than the next one's. The first one's is empty.
    leaves: BTreeMap<Box<[u8]>, Vec<Entry>>,
    /// How the arena has it.
    bytes: usize,
    /// Where the walk goes on that builds it: partition and tag.
    pub building: Option<(PartitionId, u64)>,
}

/// How far building indexes has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BuildProgress {
    /// There is nothing to build.
    Done,
    /// There is more to build.
    Unfinished,
    /// There is more to build, and no memory for it.
    Full,
}

impl OrderedIndex {
    fn new(schema: &Arc<Schema>, index: &Index, building: bool) -> OrderedIndex {
        OrderedIndex {
            keys: Keys { schema: schema.clone(), index: index.clone() },
            leaves: BTreeMap::new(),
            bytes: 0,
            building: building.then_some((PartitionId(0), 0)),
        }
    }

    /// Whether its build may be given up where memory is short: nobody counts on it yet.
    pub fn is_optional(&self) -> bool {
        !self.keys.index.is_public()
    }

    /// The key of a row that is stored.
    pub fn key(&self, entry: &Entry, arena: &Arena, out: &mut Vec<u8>) {
        self.keys.encode_stored(&arena.row(entry.row), out);
    }

    fn count(bound: &[u8], leaf: &Vec<Entry>) -> usize {
        LEAF_OVERHEAD + bound.len() + leaf.capacity() * size_of::<Entry>()
    }

    /// Tells the arena what has changed.
    fn account(&mut self, taken: usize, given: usize, arena: &mut Arena) {
        arena.index_grew(given);
        arena.index_shrank(taken);
        self.bytes = self.bytes + given - taken;
    }

    /// Enters a row that is stored.
    pub fn enter(&mut self, row: RowId, partition: PartitionId, arena: &mut Arena) {
        let mut key = Vec::new();
        self.keys.encode_stored(&arena.row(row), &mut key);
        self.put(&key, row, partition, arena);
    }

    /// Enters a row, or enters it anew in the place of the one with this key.
    fn put(&mut self, key: &[u8], row: RowId, partition: PartitionId, arena: &mut Arena) {
        if self.leaves.is_empty() {
            self.leaves.insert(Box::default(), Vec::new());
            self.account(0, LEAF_OVERHEAD, arena);
        }
        let (bound, leaf) = leaf_of(&mut self.leaves, key);
        let at = match self.keys.search(leaf, key, arena) {
            Ok(at) => return leaf[at] = Entry { row, ..leaf[at] },
            Err(at) => at,
        };
        let taken = Self::count(bound, leaf);
        if leaf.len() == leaf.capacity() {
            leaf.reserve_exact(leaf.len() / 8 + 4);
        }
        leaf.insert(at, Entry { prefix: prefix(key), row, partition });
        let mut given = Self::count(bound, leaf);
        if leaf.len() > LEAF_MAX {
            let upper = leaf.split_off(LEAF_MAX / 2);
            leaf.shrink_to_fit();
            given = Self::count(bound, leaf);
            let (mut below, mut above) = (Vec::new(), Vec::new());
            // The new row is in its place before it is entered, so that its key can be made as any other.
            self.keys.encode_stored(&arena.row(leaf[leaf.len() - 1].row), &mut below);
            self.keys.encode_stored(&arena.row(upper[0].row), &mut above);
            let common = below.iter().zip(&above).take_while(|(a, b)| a == b).count();
            let bound: Box<[u8]> = above[..=common].into();
            given += Self::count(&bound, &upper);
            self.leaves.insert(bound, upper);
        }
        self.account(taken, given, arena);
    }

    /// Takes a key out. Returns whether it was there.
    fn remove(&mut self, key: &[u8], arena: &mut Arena) -> bool {
        if self.leaves.is_empty() {
            return false;
        }
        let (bound, leaf) = leaf_of(&mut self.leaves, key);
        let Ok(at) = self.keys.search(leaf, key, arena) else { return false };
        leaf.remove(at);
        if leaf.len() < LEAF_MIN {
            let bound = bound.into();
            self.join(bound, arena);
        }
        true
    }

    /// A leaf has few entries: joins it with the one before or behind it, where they fit in one.
    fn join(&mut self, bound: Box<[u8]>, arena: &mut Arena) {
        let length = |leaf: &Vec<Entry>| leaf.len();
        let own = self.leaves[&bound].len();
        let before = (Bound::Unbounded, Bound::Excluded(&*bound));
        let behind = (Bound::Excluded(&*bound), Bound::Unbounded);
        let before = self.leaves.range::<[u8], _>(before).next_back().map(|(key, leaf)| (key, length(leaf)));
        let behind = self.leaves.range::<[u8], _>(behind).next().map(|(key, leaf)| (key, length(leaf)));
        let (left, right) = match (before, behind) {
            (Some((left, length)), _) if own + length <= LEAF_MAX => (left.clone(), bound),
            (_, Some((right, length))) if own + length <= LEAF_MAX => {
                let right = right.clone();
                (bound, right)
            }
            (None, None) if own == 0 => {
                self.leaves.clear();
                let taken = self.bytes;
                return self.account(taken, 0, arena);
            }
            _ => return,
        };
        let upper = self.leaves.remove(&right).expect("just found");
        let lower = self.leaves.get_mut(&left).expect("just found");
        let taken = Self::count(&left, lower) + Self::count(&right, &upper);
        lower.reserve_exact(upper.len());
        lower.extend_from_slice(&upper);
        let given = Self::count(&left, lower);
        self.account(taken, given, arena);
    }

    /// The entries of a range, in order.
    pub fn entries<'a>(
        &'a self,
        range: &'a EntryRange,
        arena: &'a Arena,
    ) -> impl DoubleEndedIterator<Item = &'a Entry> {
        let from = &range.from[..];
        let to = range.to.as_deref();
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        let first = self.leaves.range::<[u8], _>((Bound::Unbounded, Bound::Included(from))).next_back();
        let first = first.map(|(bound, _)| &**bound).filter(|_| !range.is_empty());
        let leaves = first.map(|first| self.leaves.range::<[u8], _>((Bound::Included(first), end)));
        let last =
            self.leaves.range::<[u8], _>((Bound::Unbounded, end)).next_back().map(|(bound, _)| &**bound);
        let place = |leaf: &[Entry], key: &[u8]| self.keys.search(leaf, key, arena).unwrap_or_else(|at| at);
        leaves.into_iter().flatten().flat_map(move |(bound, leaf)| {
            let start = if Some(&**bound) == first { place(leaf, from) } else { 0 };
            let stop = to.filter(|_| Some(&**bound) == last).map_or(leaf.len(), |to| place(leaf, to));
            leaf[start..stop].iter()
        })
    }

    /// Panics where an invariant is broken. Walks the whole index: for tests and samples.
    fn check(&self, arena: &Arena) {
        let mut previous: Option<Vec<u8>> = None;
        let mut bounds = self.leaves.keys().skip(1);
        let mut bytes = 0;
        for (bound, leaf) in &self.leaves {
            let next = bounds.next();
            bytes += Self::count(bound, leaf);
            assert!(previous.is_some() || bound.is_empty(), "the first leaf begins with {bound:?}");
            assert!(leaf.len() <= LEAF_MAX, "a leaf of {} entries", leaf.len());
            for entry in leaf {
                let mut key = Vec::new();
                self.key(entry, arena, &mut key);
                assert_eq!(entry.prefix, prefix(&key), "the prefix of {key:?}");
                assert!(previous.as_ref().is_none_or(|previous| *previous < key), "{key:?} is out of place");
                assert!(key[..] >= **bound, "{key:?} is below its leaf's bound {bound:?}");
                assert!(
                    next.is_none_or(|next| key[..] < **next),
                    "{key:?} belongs to the leaf from {next:?}"
                );
                previous = Some(key);
            }
        }
        assert_eq!(bytes, self.bytes, "bytes of the index");
    }
}

fn leaf_of<'l>(
    leaves: &'l mut BTreeMap<Box<[u8]>, Vec<Entry>>,
    key: &[u8],
) -> (&'l [u8], &'l mut Vec<Entry>) {
    let below = leaves.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
    let (bound, leaf) = { below }.next_back().expect("the first leaf's bound is less than any key");
    (&**bound, leaf)
}

/// What a write makes of a row's entry in one index.
#[derive(Debug, Default)]
struct Change {
    old: Vec<u8>,
    new: Vec<u8>,
}

/// All ordered indexes of a worker.
#[derive(Debug, Default)]
pub(crate) struct Indexes {
    /// By table, in the order of its definition; only tables with indexes.
    tables: BTreeMap<TableId, Vec<OrderedIndex>>,
    /// What was dropped: freed bit by bit.
    doomed: Vec<OrderedIndex>,
    /// Of the write under way, by index; kept for their memory.
    changes: Vec<Change>,
    /// A deliberate fault: updates change no entry.
    #[cfg(feature = "mutations")]
    pub skip_updates: bool,
    /// A deliberate fault: what is not built yet is asked.
    #[cfg(feature = "mutations")]
    pub answer_unbuilt: bool,
}

impl Indexes {
    /// Takes a table's definition: makes indexes that are new, to be built if there may be rows, and drops those that are gone.
    pub fn define(&mut self, schema: &Arc<Schema>, has_rows: bool) {
        let mut known = self.tables.remove(&schema.id).unwrap_or_default();
        let mut indexes = Vec::with_capacity(schema.indexes.len());
        for index in &schema.indexes {
            let place = known.iter().position(|known| known.keys.index.id == index.id);
            indexes.push(match place.map(|place| known.swap_remove(place)) {
                Some(known) => {
                    OrderedIndex { keys: Keys { schema: schema.clone(), index: index.clone() }, ..known }
                }
                None => OrderedIndex::new(schema, index, has_rows),
            });
        }
        self.doomed.extend(known);
        if !indexes.is_empty() {
            self.tables.insert(schema.id, indexes);
        }
    }

    /// Takes all indexes of a table away.
    pub fn drop_table(&mut self, table: TableId) {
        self.doomed.extend(self.tables.remove(&table).unwrap_or_default());
    }

    /// Whether something that was dropped still takes memory.
    pub fn is_freeing(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// Frees so many leaves at most of what was dropped.
    pub fn free_doomed(&mut self, leaves: usize, arena: &mut Arena) {
        let mut left = leaves;
        while let Some(index) = self.doomed.last_mut() {
            while let Some((bound, leaf)) = if left > 0 { index.leaves.pop_last() } else { None } {
                index.account(OrderedIndex::count(&bound, &leaf), 0, arena);
                left -= 1;
            }
            if left == 0 {
                return;
            }
            self.doomed.pop();
        }
    }

    fn get(&self, table: TableId, index: IndexId) -> Option<&OrderedIndex> {
        self.tables.get(&table)?.iter().find(|known| known.keys.index.id == index)
    }

    /// The index of this id, if all of its rows are in it.
    pub fn get_built(&self, table: TableId, index: IndexId) -> Option<&OrderedIndex> {
        #[cfg(feature = "mutations")]
        if self.answer_unbuilt {
            return self.get(table, index);
        }
        self.get(table, index).filter(|index| index.building.is_none())
    }

    /// All of a table.
    pub fn of_mut(&mut self, table: TableId) -> &mut [OrderedIndex] {
        self.tables.get_mut(&table).map_or(&mut [], Vec::as_mut_slice)
    }

    /// The tables of which indexes are being built.
    pub fn unbuilt(&self) -> Vec<TableId> {
        let unbuilt = |indexes: &Vec<OrderedIndex>| indexes.iter().any(|index| index.building.is_some());
        self.tables.iter().filter(|(_, indexes)| unbuilt(indexes)).map(|(&table, _)| table).collect()
    }

    /// A row is about to change: takes the entries out that it does not keep. [`Indexes::enter`] follows if there is a new one.
    #[inline]
    pub fn leave(&mut self, table: TableId, old: Option<RowId>, new: Option<&NewRow<'_>>, arena: &mut Arena) {
        if self.tables.is_empty() {
            return;
        }
        let Some(indexes) = self.tables.get_mut(&table) else { return };
        self.changes.resize_with(indexes.len(), Change::default);
        for (index, change) in indexes.iter_mut().zip(&mut self.changes) {
            change.old.clear();
            change.new.clear();
            if let Some(new) = new {
                index.keys.encode(new.schema_version, new.key, new.body, &mut change.new);
            }
            let Some(old) = old else { continue };
            #[cfg(feature = "mutations")]
            if self.skip_updates && new.is_some() {
                change.new.clear();
                index.keys.encode_stored(&arena.row(old), &mut change.new);
            }
            index.keys.encode_stored(&arena.row(old), &mut change.old);
            if new.is_none() || change.old != change.new {
                let was_there = index.remove(&change.old, arena) || index.building.is_some();
                assert!(was_there, "index {} lacks {:?}", index.keys.index.name, change.old);
            }
        }
    }

    /// The row is as it becomes, at this place; that of before, if another, is still there.
    #[inline]
    pub fn enter(
        &mut self,
        table: TableId,
        partition: PartitionId,
        row: RowId,
        old: Option<RowId>,
        arena: &mut Arena,
    ) {
        if self.tables.is_empty() {
            return;
        }
        for (index, change) in self.tables.get_mut(&table).into_iter().flatten().zip(&self.changes) {
            if old != Some(row) || change.old != change.new {
                index.put(&change.new, row, partition, arena);
            }
        }
    }

    /// Whether each index has the entries of these rows of a table, and no others; those that are being built aside.
    ///
    /// # Panics
    /// Panics where not, or where an invariant is broken.
    pub fn check(&self, mut rows: impl FnMut(TableId) -> Vec<(PartitionId, RowId)>, arena: &Arena) {
        for (&table, indexes) in &self.tables {
            let mut expected = rows(table);
            expected.sort_unstable();
            for index in indexes {
                index.check(arena);
                let all = EntryRange::default();
                let mut entries: Vec<(PartitionId, RowId)> =
                    index.entries(&all, arena).map(|entry| (entry.partition, entry.row)).collect();
                entries.sort_unstable();
                let name = &index.keys.index.name;
                assert!(
                    index.building.is_some() || entries == expected,
                    "index {name}: {entries:?}, not {expected:?}"
                );
            }
        }
    }
}

#[cfg(test)]
#[path = "ordered_tests.rs"]
mod tests;
