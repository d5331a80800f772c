//! All rows of one worker: its arena, and the fragments in it by partition and table. It knows nothing of transactions:
//! what it has is committed.

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc};

use smallvec::SmallVec;
use twofold_proto::{
    ids::{Epoch, IndexId, PartitionId, TableId, Version},
    index::EntryRange,
    message::{CopyRow, Image},
    operation::{BodyRef, OperationKind, Refusal, ResultCode},
    placement::KeyHash,
    prefetch,
    schema::Schema,
    time::ClusterTime,
    wire::put_block_with,
};

use crate::{
    arena::{Arena, NewRow, StoredRow, compare_versions},
    evaluate::{CurrentRow, append_scanned, holds},
    fragment::{Fragment, Group},
    ordered::{BuildProgress, Indexes},
};

/// The rows of one worker.
#[derive(Debug)]
pub struct Store {
    arena: Arena,
    /// By partition: its fragments, by table. The first is in place: one step less from pointer to pointer.
    partitions: Vec<SmallVec<[(TableId, Fragment); 1]>>,
    indexes: Indexes,
    /// Rows that expire.
    expiring: u64,
    /// Of dropped tables and partitions: freed bit by bit, so that nobody waits for it.
    doomed: Vec<Fragment>,
    doomed_rows: u64,
}

/// Keys of equal tag in a fragment past which there is no other. Tags are 32 bits of hash: even a fragment of 2^31 rows
/// has no such groups, unless somebody makes them, to whom each is a row that others wait for.
pub const TAG_ROWS_MAX: usize = 16;

/// Bytes that entering a row in an index takes, about: an entry in a leaf that has just been split.
const BUILT_BYTES_MAX: usize = 64;

/// Rows that are brought into the cache before they are copied.
const COPIED_AHEAD: usize = 16;

/// Where copying a partition goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CopyCursor {
    /// The table.
    pub table: TableId,
    /// From this tag on.
    pub tag: u64,
    /// So many rows of this tag are copied. It must go on before anything changes.
    pub skip: usize,
}

impl CopyCursor {
    /// Behind all rows.
    pub const END: CopyCursor = CopyCursor { table: TableId(u32::MAX), tag: u64::MAX, skip: 0 };
}

/// A row that a replica has, and should not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stray {
    /// The table.
    pub table: TableId,
    /// The tag in the hash index.
    pub tag: u32,
    /// The row's version.
    pub version: Version,
    /// The encoded primary key.
    pub key: Box<[u8]>,
}

/// What tells a version of a row from all others of its partition, but for one in 2^64.
pub fn fingerprint(table: TableId, key: &[u8], version: Version) -> u64 {
    let number = u64::from(version.number as u32) << 32 | u64::from(table.0);
    let mixed = version.epoch.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) ^ number;
    KeyHash::of(key).index_seed() ^ mixed.wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// How much a step of a scan gives out at most. One group of rows of equal tag is given out whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanLimit {
    /// Rows.
    pub rows: u32,
    /// Bytes of their results.
    pub bytes: usize,
    /// Rows looked at, matching or not.
    pub visited: u32,
}

/// Bytes of rows of one tag in an answer to a scan.
const SCAN_TAG_BYTES_MAX: usize = 16 << 20;
/// A program counts as looking at one row more for each so many bytes of it.
const PROGRAM_UNIT: usize = 64;

/// One step of a scan over a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanStep<'a> {
    /// The partition.
    pub partition: PartitionId,
    /// Where to begin.
    pub cursor: u64,
    /// Filter and projection: the body of a Read.
    pub program: &'a [u8],
    /// Where to stop.
    pub limit: ScanLimit,
}

/// One step of a scan of an ordered index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeStep<'a> {
    /// The index.
    pub index: IndexId,
    /// What of it.
    pub range: &'a EntryRange,
    /// Whether the last entry comes first.
    pub descending: bool,
    /// Filter and projection: the body of a Read.
    pub program: &'a [u8],
    /// Where to stop.
    pub limit: ScanLimit,
}

/// Where a row is, if it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Its table.
    pub table: TableId,
    /// The partition.
    pub partition: PartitionId,
    /// Its tag.
    pub tag: u32,
}

/// A row as it is, for comparing replicas.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RowContent {
    /// Its table.
    pub table: TableId,
    /// Its encoded key.
    pub key: Vec<u8>,
    /// Its version, of the number the low 32 bits.
    pub version: Version,
    /// When it expires; 0: never.
    pub expiry: ClusterTime,
    /// Its encoded body.
    pub body: Vec<u8>,
}

/// An expired row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expired {
    /// Its table.
    pub table: TableId,
    /// Its tag.
    pub tag: u32,
    /// Its key.
    pub key: Vec<u8>,
}

/// What a search for expired rows has found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The rows.
    pub rows: Vec<Expired>,
    /// Where to go on, if the partition is not through.
    pub next: Option<(TableId, u64)>,
}

impl Store {
    /// No rows, of a cluster with so many partitions. `data_memory`: bytes for rows and indexes.
    pub fn new(partitions: u16, data_memory: u64) -> Store {
        Store {
            arena: Arena::new(data_memory),
            partitions: (0..partitions).map(|_| SmallVec::new()).collect(),
            indexes: Indexes::default(),
            expiring: 0,
            doomed: Vec::new(),
            doomed_rows: 0,
        }
    }

    /// Bytes of rows and indexes in use.
    pub fn used_bytes(&self) -> u64 {
        self.arena.used_bytes()
    }

    /// Bytes for rows and indexes.
    pub fn data_memory(&self) -> u64 {
        self.arena.data_memory()
    }

    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.arena.rows() - self.doomed_rows
    }

    /// Whether a fragment has so many keys of this tag that no other may come.
    pub fn is_crowded(&self, table: TableId, partition: PartitionId, tag: u32) -> bool {
        self.fragment(table, partition).is_some_and(|fragment| fragment.count(tag) >= TAG_ROWS_MAX)
    }

    /// Rows of a table in a partition.
    pub fn rows_of(&self, table: TableId, partition: PartitionId) -> usize {
        self.fragment(table, partition).map_or(0, Fragment::len)
    }

    /// Whether an ordinary write of so many bytes may go on.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.arena.has_room(bytes)
    }

    fn fragment(&self, table: TableId, partition: PartitionId) -> Option<&Fragment> {
        let fragments = &self.partitions[usize::from(partition.0)];
        fragments.iter().find(|(id, _)| *id == table).map(|(_, fragment)| fragment)
    }

    /// The row of a key.
    #[inline]
    pub fn row(&self, table: TableId, partition: PartitionId, tag: u32, key: &[u8]) -> Option<StoredRow<'_>> {
        let row = self.fragment(table, partition)?.find(tag, key, &self.arena)?;
        Some(self.arena.row(row))
    }

    /// Has the index entries of these places brought into the cache. Nothing depends on it.
    pub fn prefetch_entries(&self, places: impl Iterator<Item = Place>) {
        for place in places {
            if let Some(fragment) = self.fragment(place.table, place.partition) {
                fragment.prefetch(place.tag);
            }
        }
    }

    /// Likewise the rows, by entries that have come meanwhile.
    pub fn prefetch_rows(&self, places: impl Iterator<Item = Place>) {
        for place in places {
            let fragment = self.fragment(place.table, place.partition);
            if let Some(row) = fragment.and_then(|fragment| fragment.candidate(place.tag)) {
                prefetch::lines(self.arena.cell(row));
            }
        }
    }

    /// Makes a committed image the row of its key, unless a newer one is there. Never refuses: memory was found when the
    /// write was admitted.
    pub fn apply(&mut self, partition: PartitionId, version: Version, image: &Image<'_>) {
        let &Image { table, schema_version, tag, key, row: content } = image;
        let fragments = &mut self.partitions[usize::from(partition.0)];
        let place = fragments.iter().position(|(id, _)| *id == table);
        let place = match (place, content) {
            (Some(place), _) => place,
            (None, None) => return,
            (None, Some(_)) => {
                fragments.push((table, Fragment::new()));
                fragments.len() - 1
            }
        };
        let fragment = &mut fragments[place].1;
        let old = fragment.find(tag, key, &self.arena);
        if let Some(old) = old {
            let stored = self.arena.row(old);
            if compare_versions(stored.version(), version) != Ordering::Less {
                return;
            }
            self.expiring -= u64::from(stored.expiry().0 != 0);
        }
        let row = content.map(|(expiry, body)| {
            let schema_version = schema_version.into();
            NewRow { version, schema_version, expiry, key, body }
        });
        self.indexes.leave(table, old, row.as_ref(), &mut self.arena);
        let Some(row) = row else {
            if let Some(old) = old {
                fragment.remove(tag, old, &mut self.arena);
                self.arena.free(old);
            }
            return;
        };
        self.expiring += u64::from(row.expiry.0 != 0);
        if let Some(old) = old.filter(|&old| self.arena.overwrite(old, &row)) {
            return self.indexes.enter(table, partition, old, Some(old), &mut self.arena);
        }
        let new = self.arena.store_always(&row);
        self.indexes.enter(table, partition, new, old, &mut self.arena);
        match old {
            Some(old) => {
                fragment.replace(tag, old, new);
                self.arena.free(old);
            }
            None => fragment.insert(tag, new, &mut self.arena),
        }
    }

    /// Takes all rows of a table away. Their memory is in use until [`Store::free_doomed`] has come to them.
    pub fn drop_table(&mut self, table: TableId) {
        self.indexes.drop_table(table);
        for partition in 0..self.partitions.len() {
            let fragments = &mut self.partitions[partition];
            if let Some(place) = fragments.iter().position(|(id, _)| *id == table) {
                let (_, fragment) = fragments.swap_remove(place);
                self.doom(fragment);
            }
        }
    }

    fn doom(&mut self, fragment: Fragment) {
        self.doomed_rows += fragment.len() as u64;
        self.doomed.push(fragment);
    }

    /// Takes a table's definition: keeps the ordered indexes that it has from now on. Where there are rows already they are built bit by bit.
    pub fn define(&mut self, schema: &Arc<Schema>) {
        let has_rows = (0..self.partitions.len())
            .any(|partition| self.rows_of(schema.id, PartitionId(partition as u16)) > 0);
        self.indexes.define(schema, has_rows);
    }

    /// Puts a deliberate fault in: from now on updates change no entry of an index.
    #[cfg(feature = "mutations")]
    pub fn skip_index_at_update(&mut self) {
        self.indexes.skip_updates = true;
    }

    /// Puts a deliberate fault in: from now on indexes are asked that are not built yet.
    #[cfg(feature = "mutations")]
    pub fn answer_by_unbuilt_indexes(&mut self) {
        self.indexes.answer_unbuilt = true;
    }

    /// Enters so many rows at most into indexes that are being built. What it takes must fit beside the rows, but for indexes
    /// that are public; it waits for what dropped tables and indexes still take.
    pub fn build_indexes(&mut self, rows: u32) -> BuildProgress {
        let mut left = rows;
        let has_room = self.arena.has_room(BUILT_BYTES_MAX * rows as usize);
        let is_freeing = !self.doomed.is_empty() || self.indexes.is_freeing();
        for table in self.indexes.unbuilt() {
            for index in self.indexes.of_mut(table) {
                while let Some((partition, tag)) = index.building {
                    if !has_room && index.is_optional() {
                        return if is_freeing { BuildProgress::Unfinished } else { BuildProgress::Full };
                    }
                    if left == 0 {
                        return BuildProgress::Unfinished;
                    }
                    let Some(fragments) = self.partitions.get(usize::from(partition.0)) else {
                        index.building = None;
                        break;
                    };
                    // A partition counts as a row, so that empty ones come to an end, too.
                    left -= 1;
                    index.building = Some((PartitionId(partition.0 + 1), 0));
                    let fragment =
                        fragments.iter().find(|(id, _)| *id == table).map(|(_, fragment)| fragment);
                    for group in fragment.into_iter().flat_map(|fragment| fragment.groups(tag)) {
                        if left == 0 {
                            index.building = Some((partition, u64::from(group.tag)));
                            break;
                        }
                        for entry in group.rows {
                            index.enter(entry.row(), partition, &mut self.arena);
                            left = left.saturating_sub(1);
                        }
                    }
                }
            }
        }
        BuildProgress::Done
    }

    /// Whether the ordered indexes have exactly the rows of their tables. Walks them all: for tests and samples.
    ///
    /// # Panics
    /// Panics where they have not.
    pub fn check_indexes(&self) {
        let rows_of = |table| {
            let fragments = self.partitions.iter().enumerate().flat_map(|(partition, fragments)| {
                fragments.iter().map(move |(id, fragment)| (PartitionId(partition as u16), *id, fragment))
            });
            let of_table = fragments.filter(|(_, id, _)| *id == table);
            let entries = of_table.flat_map(|(partition, _, fragment)| {
                let rows = fragment.groups(0).flat_map(|group| group.rows);
                rows.map(move |entry| (partition, entry.row()))
            });
            entries.collect()
        };
        self.indexes.check(rows_of, &self.arena);
    }

    /// Frees so many rows of dropped tables at most.
    pub fn free_doomed(&mut self, rows: usize) {
        self.indexes.free_doomed(rows / 8 + 1, &mut self.arena);
        let mut left = rows;
        while let Some(fragment) = self.doomed.last_mut() {
            while let Some(row) = if left > 0 { fragment.pop() } else { None } {
                self.expiring -= u64::from(self.arena.row(row).expiry().0 != 0);
                self.arena.free(row);
                self.doomed_rows -= 1;
                left -= 1;
            }
            if left == 0 {
                return;
            }
            fragment.clear(&mut self.arena);
            self.doomed.pop();
        }
    }

    /// One step of a scan over a fragment: appends the results of the rows that the program lets through, each with
    /// its length. Returns where to go on, and how many.
    ///
    /// # Errors
    /// If the program is no Read's body, or does not fit the table.
    pub fn scan(
        &self,
        schema: &Schema,
        step: &ScanStep<'_>,
        now: ClusterTime,
        out: &mut Vec<u8>,
    ) -> Result<(Option<u64>, u32), Refusal> {
        let &ScanStep { partition, cursor, program, limit } = step;
        let body = BodyRef::parse(OperationKind::Read, program)?;
        let (mut rows, mut visited, start) = (0, 0, out.len());
        let effort = 1 + (program.len() / PROGRAM_UNIT) as u32;
        let Some(fragment) = self.fragment(schema.id, partition) else { return Ok((None, 0)) };
        for group in fragment.groups(cursor) {
            if rows >= limit.rows || visited >= limit.visited || out.len() - start >= limit.bytes {
                return Ok((Some(u64::from(group.tag)), rows));
            }
            for entry in group.rows {
                visited += effort;
                // They are given out together, so they are too many for any answer.
                if out.len() - start > limit.bytes + SCAN_TAG_BYTES_MAX {
                    return Err(ResultCode::RowTooBig.into());
                }
                let current = CurrentRow::stored(schema, self.arena.row(entry.row()));
                if !current.is_live(now) || !holds(&body.conditions, Some(&current))? {
                    continue;
                }
                put_block_with(out, |out| append_scanned(&current, &body, out))?;
                rows += 1;
            }
        }
        Ok((None, rows))
    }

    /// One step of a scan of an ordered index over the partitions that `serves` names: appends, in the index's order, of each row
    /// that the program lets through its entry and its result, each with its length. Returns what is left of the range,
    /// and how many.
    ///
    /// # Errors
    /// `None` if there is no such index here, or it is not built yet; else as [`Store::scan`].
    pub fn scan_range(
        &self,
        schema: &Schema,
        step: &RangeStep<'_>,
        serves: impl Fn(PartitionId) -> bool,
        now: ClusterTime,
        out: &mut Vec<u8>,
    ) -> Result<(Option<EntryRange>, u32), Option<Refusal>> {
        let &RangeStep { index, range, descending, program, limit } = step;
        let index = self.indexes.get_built(schema.id, index).ok_or(None)?;
        let body = BodyRef::parse(OperationKind::Read, program).map_err(Refusal::from)?;
        let effort = 1 + (program.len() / PROGRAM_UNIT) as u32;
        let (mut rows, mut visited, start) = (0, 0, out.len());
        let mut entries = index.entries(range, &self.arena);
        while let Some(entry) = if descending { entries.next_back() } else { entries.next() } {
            if rows >= limit.rows || visited >= limit.visited || out.len() - start >= limit.bytes {
                let mut key = Vec::new();
                index.key(entry, &self.arena, &mut key);
                return Ok((Some(range.rest(key, descending)), rows));
            }
            visited += 1;
            if !serves(entry.partition) {
                continue;
            }
            visited += effort;
            let current = CurrentRow::stored(schema, self.arena.row(entry.row));
            if !current.is_live(now) || !holds(&body.conditions, Some(&current))? {
                continue;
            }
            put_block_with(out, |out| index.key(entry, &self.arena, out));
            put_block_with(out, |out| append_scanned(&current, &body, out))?;
            rows += 1;
        }
        Ok((None, rows))
    }

    /// Appends rows of a partition, from a cursor on, until `out` is as long as the first limit. Stops behind a whole tag, but
    /// where that would make it longer than the second. Of rows that are not newer than `since` only the fingerprints are
    /// appended, to `kept`. Returns where to go on, and how many rows it appended.
    pub fn copy_out(
        &self,
        partition: PartitionId,
        from: CopyCursor,
        since: Epoch,
        limits: (usize, usize),
        out: &mut Vec<u8>,
        kept: &mut Vec<u64>,
    ) -> (Option<CopyCursor>, u64) {
        let mut rows = 0;
        for (table, fragment) in self.tables_from(partition, from.table) {
            let first = if table == from.table { from } else { CopyCursor { table, tag: 0, skip: 0 } };
            // Rows of neighbouring tags are anywhere in memory.
            let prefetch = |group: Group<'_>| {
                group.rows.iter().for_each(|entry| prefetch::lines(self.arena.cell(entry.row())));
            };
            let mut ahead = fragment.groups(first.tag);
            ahead.by_ref().take(COPIED_AHEAD).for_each(prefetch);
            for group in fragment.groups(first.tag) {
                ahead.next().into_iter().for_each(prefetch);
                let tag = u64::from(group.tag);
                let length = |out: &Vec<u8>, kept: &Vec<u64>| out.len() + size_of::<u64>() * kept.len();
                if length(out, kept) >= limits.0 {
                    return (Some(CopyCursor { table, tag, skip: 0 }), rows);
                }
                let done = if tag == first.tag { first.skip } else { 0 };
                for (skip, entry) in group.rows.iter().enumerate().skip(done) {
                    if length(out, kept) >= limits.1 {
                        return (Some(CopyCursor { table, tag, skip }), rows);
                    }
                    let row = self.arena.row(entry.row());
                    if row.version().epoch <= since {
                        kept.push(fingerprint(table, row.key(), row.version()));
                        continue;
                    }
                    CopyRow {
                        table,
                        schema_version: row.schema_version() as u16,
                        tag: group.tag,
                        epoch: row.version().epoch,
                        number: row.version().number as u32,
                        expiry: row.expiry(),
                        key: row.key(),
                        body: row.body(),
                    }
                    .encode(out);
                    rows += 1;
                }
            }
        }
        (None, rows)
    }

    /// The rows of a partition from one cursor to before another that are not among those `told`. What is met is taken out
    /// of these: what is left in the end is missing here.
    pub fn strays(
        &self,
        partition: PartitionId,
        from: CopyCursor,
        to: CopyCursor,
        told: &mut BTreeSet<u64>,
    ) -> Vec<Stray> {
        let mut strays = Vec::new();
        for (table, fragment) in self.tables_from(partition, from.table) {
            let first = if table == from.table { from.tag } else { 0 };
            let is_before = |group: &Group<'_>| (table, u64::from(group.tag)) < (to.table, to.tag);
            for group in fragment.groups(first).take_while(is_before) {
                for entry in group.rows {
                    let row = self.arena.row(entry.row());
                    if !told.remove(&fingerprint(table, row.key(), row.version())) {
                        let (tag, version) = (group.tag, row.version());
                        strays.push(Stray { table, tag, version, key: row.key().into() });
                    }
                }
            }
        }
        strays
    }

    /// Whether the partition has no rows.
    pub fn is_empty(&self, partition: PartitionId) -> bool {
        self.partitions[usize::from(partition.0)].iter().all(|(_, fragment)| fragment.len() == 0)
    }

    /// The fragments of a partition from a table on, by table.
    fn tables_from(&self, partition: PartitionId, table: TableId) -> Vec<(TableId, &Fragment)> {
        let fragments = &self.partitions[usize::from(partition.0)];
        let mut tables: Vec<_> =
            fragments.iter().filter(|(id, _)| *id >= table).map(|(id, fragment)| (*id, fragment)).collect();
        tables.sort_by_key(|(id, _)| *id);
        tables
    }

    /// Looks at some rows of a partition, from a table and a cursor on, for those that have expired.
    pub fn find_expired(
        &self,
        partition: PartitionId,
        table: TableId,
        cursor: u64,
        now: ClusterTime,
        visited: u32,
    ) -> Found {
        let mut found = Found::default();
        if self.expiring == 0 {
            return found;
        }
        let mut left = visited;
        for (id, fragment) in self.tables_from(partition, table) {
            for group in fragment.groups(if id == table { cursor } else { 0 }) {
                if left == 0 {
                    found.next = Some((id, u64::from(group.tag)));
                    return found;
                }
                for entry in group.rows {
                    left = left.saturating_sub(1);
                    let row = self.arena.row(entry.row());
                    if row.expiry().0 != 0 && row.expiry() <= now {
                        found.rows.push(Expired { table: id, tag: group.tag, key: row.key().to_vec() });
                    }
                }
            }
        }
        found
    }

    /// Every row of a partition, by table and key.
    pub fn contents(&self, partition: PartitionId) -> Vec<RowContent> {
        let fragments = self.tables_from(partition, TableId(0)).into_iter();
        let entries = fragments.flat_map(|(table, fragment)| {
            fragment.groups(0).flat_map(|group| group.rows).map(move |entry| (table, entry.row()))
        });
        let mut rows: Vec<RowContent> = entries
            .map(|(table, row)| (table, self.arena.row(row)))
            .map(|(table, row)| RowContent {
                table,
                key: row.key().to_vec(),
                version: row.version(),
                expiry: row.expiry(),
                body: row.body().to_vec(),
            })
            .collect();
        rows.sort();
        rows
    }
}

#[cfg(test)]
mod tests {
    use twofold_proto::{
        ids::Epoch,
        operation::Projection,
        row::encode_row,
        schema::{Column, ColumnType, Table},
        value::ValueRef,
    };

    use super::*;

    const TABLE: TableId = TableId(3);
    const PARTITION: PartitionId = PartitionId(1);

    fn image<'a>(table: TableId, tag: u32, key: &'a [u8], row: Option<(ClusterTime, &'a [u8])>) -> Image<'a> {
        Image { table, schema_version: 1, tag, key, row }
    }

    fn version(epoch: u64, number: u64) -> Version {
        Version { epoch: Epoch::new(1, epoch), number }
    }

    #[test]
    fn an_older_image_changes_nothing() {
        let mut store = Store::new(2, 1 << 20);
        let image = |row| image(TABLE, 7, b"k", row);
        store.apply(PARTITION, version(5, 2), &image(Some((ClusterTime(0), b"new"))));
        store.apply(PARTITION, version(5, 1), &image(Some((ClusterTime(0), b"old"))));
        store.apply(PARTITION, version(4, 9), &image(None));
        assert_eq!(store.row(TABLE, PARTITION, 7, b"k").unwrap().body(), b"new");
        store.apply(PARTITION, version(6, 1), &image(None));
        assert!(store.row(TABLE, PARTITION, 7, b"k").is_none());
        assert_eq!(store.rows(), 0);
    }

    #[test]
    fn a_copy_in_small_chunks_is_whole() {
        // Tags of a few rows, and one of all rows of a table.
        for mask in [0xffff_fff0, 0] {
            let (mut from, mut to) = (Store::new(2, 1 << 20), Store::new(2, 1 << 20));
            for n in 0..500u32 {
                let table = TableId(1 + n % 3);
                let key = n.to_be_bytes();
                let tag = n.wrapping_mul(0x9e37_79b9) & mask;
                let row = Some((ClusterTime(n.into()), &key[..]));
                from.apply(PARTITION, version(1, n.into()), &image(table, tag, &key, row));
            }
            let (mut next, mut copied) = (Some(CopyCursor::default()), 0);
            while let Some(cursor) = next {
                let mut out = Vec::new();
                let rows;
                (next, rows) =
                    from.copy_out(PARTITION, cursor, Epoch(0), (300, 600), &mut out, &mut Vec::new());
                assert!(out.len() < 700, "{} bytes", out.len());
                copied += rows;
                let mut reader = twofold_proto::wire::Reader::new(&out, "test");
                while !reader.is_empty() {
                    let row = CopyRow::parse(&mut reader).unwrap();
                    let version = Version { epoch: row.epoch, number: row.number.into() };
                    to.apply(PARTITION, version, &row.image());
                }
            }
            assert_eq!(copied, 500);
            assert_eq!(from.contents(PARTITION), to.contents(PARTITION));
            assert_eq!(from.expiring, to.expiring);
        }
    }

    /// The other has the state of an older epoch, and lacks a row of it if `hole`: what is sent, the fingerprints of the rest and
    /// the removal of strays make both equal, or the hole is noticed.
    #[test]
    fn a_copy_of_what_is_newer_makes_both_equal() {
        for hole in [false, true] {
            let (mut from, mut to) = (Store::new(2, 1 << 20), Store::new(2, 1 << 20));
            let key = |n: u32| n.to_be_bytes();
            let tag = |n: u32| n.wrapping_mul(0x9e37_79b9) & 0xffff_ff00;
            for n in 0..900u32 {
                let row = Some((ClusterTime(n.into()), &b"old"[..]));
                for store in [&mut from, &mut to] {
                    store.apply(
                        PARTITION,
                        version(1, n.into()),
                        &image(TableId(1 + n % 2), tag(n), &key(n), row),
                    );
                }
            }
            for n in (0..900u32).step_by(7) {
                // Changed, deleted, or made again after that.
                let row = Some((ClusterTime(0), &b"new"[..]));
                let table = TableId(1 + n % 2);
                if n % 3 > 0 {
                    from.apply(PARTITION, version(2, n.into()), &image(table, tag(n), &key(n), None));
                }
                if n % 3 < 2 {
                    from.apply(PARTITION, version(2, u64::from(n) + 1), &image(table, tag(n), &key(n), row));
                }
            }
            if hole {
                to.apply(PARTITION, version(1, 5000), &image(TableId(2), tag(5), &key(5), None));
            }
            let (mut told, mut at, mut next) =
                (BTreeSet::new(), CopyCursor::default(), Some(CopyCursor::default()));
            while let Some(cursor) = next {
                let (mut rows, mut kept) = (Vec::new(), Vec::new());
                (next, _) =
                    from.copy_out(PARTITION, cursor, version(1, 0).epoch, (300, 600), &mut rows, &mut kept);
                told.extend(kept);
                let mut reader = twofold_proto::wire::Reader::new(&rows, "test");
                while !reader.is_empty() {
                    let row = CopyRow::parse(&mut reader).unwrap();
                    let version = Version { epoch: row.epoch, number: row.number.into() };
                    to.apply(PARTITION, version, &row.image());
                    told.insert(fingerprint(row.table, row.key, version));
                }
                let end = next.unwrap_or(CopyCursor::END);
                for Stray { table, tag, version, key } in to.strays(PARTITION, at, end, &mut told) {
                    let version = Version { number: version.number + 1, ..version };
                    to.apply(PARTITION, version, &image(table, tag, &key, None));
                }
                at = end;
            }
            assert_eq!(told.len(), usize::from(hole));
            assert_eq!(from.contents(PARTITION) == to.contents(PARTITION), !hole);
        }
    }

    #[test]
    fn what_is_dropped_is_gone_at_once_and_freed_bit_by_bit() {
        let mut store = Store::new(2, 1 << 20);
        for n in 0..500u32 {
            let table = TableId(1 + n % 2);
            let partition = PartitionId((n % 4 / 2) as u16);
            let content = Some((ClusterTime(n.into()), &b"x"[..]));
            store.apply(partition, version(1, n.into()), &image(table, n << 20, &n.to_be_bytes(), content));
        }
        let used = store.used_bytes();
        store.drop_table(TableId(1));
        assert_eq!((store.rows(), store.used_bytes()), (250, used));
        assert_eq!(store.contents(PartitionId(0)).len(), 125);
        // The table may be made again meanwhile.
        let again = Some((ClusterTime(0), &b"again"[..]));
        store.apply(PARTITION, version(2, 1), &image(TableId(2), 7, b"k", again));
        for left in (0..250usize).step_by(25).rev() {
            store.free_doomed(25);
            assert_eq!(store.arena.rows(), 251 + left as u64);
        }
        store.free_doomed(1);
        assert!(store.doomed.is_empty() && store.doomed_rows == 0 && store.expiring == 250);
        assert_eq!(store.rows(), 251);
        store.drop_table(TableId(2));
        store.free_doomed(1000);
        assert_eq!((store.rows(), store.expiring, store.used_bytes()), (0, 0, 0));
    }

    #[test]
    fn rows_of_one_tag_are_bounded() {
        let mut store = Store::new(2, 1 << 30);
        let table = Table {
            id: TABLE,
            name: "t".into(),
            version: 1,
            columns: vec![
                Column::new("k", ColumnType::U32),
                Column::new("d", ColumnType::Binary { max_bytes: 1 << 20 }),
            ],
            primary_key: vec![0],
            distribution_key: vec![0],
            indexes: Vec::new(),
        };
        let schema = Schema::new(table).unwrap();
        let data = vec![1; 1 << 20];
        let mut scanned = Vec::new();
        let limit = ScanLimit { rows: 1, bytes: 1, visited: 1 };
        let mut program = Vec::new();
        BodyRef { before: Projection::All, ..BodyRef::default() }.encode(&mut program);
        for n in 0..20u32 {
            assert_eq!(store.is_crowded(TABLE, PARTITION, 7), n as usize >= TAG_ROWS_MAX);
            assert!(!store.is_crowded(TABLE, PARTITION, 8));
            let row = [ValueRef::UInt(n.into()), ValueRef::Binary(data.as_slice().into())];
            let (key, body) = encode_row(&schema, &row).unwrap();
            let content = Some((ClusterTime(0), &body[..]));
            store.apply(PARTITION, version(1, n.into()), &image(TABLE, 7, &key, content));
            scanned.clear();
            let step = ScanStep { partition: PARTITION, cursor: 0, program: &program, limit };
            let result = store.scan(&schema, &step, ClusterTime(0), &mut scanned);
            match n {
                0..16 => assert_eq!(result, Ok((None, n + 1))),
                _ => assert_eq!(result.unwrap_err().code, ResultCode::RowTooBig),
            }
        }
    }

    #[test]
    fn expired_rows_are_found_step_by_step() {
        let mut store = Store::new(2, 1 << 20);
        for n in 1..=100u32 {
            let content = Some((ClusterTime(n.into()), &b"x"[..]));
            store.apply(PARTITION, version(1, n.into()), &image(TABLE, n << 20, &n.to_be_bytes(), content));
        }
        let (mut at, mut found) = ((TableId(0), 0), 0);
        loop {
            let step = store.find_expired(PARTITION, at.0, at.1, ClusterTime(40), 16);
            found += step.rows.len();
            match step.next {
                Some(next) => at = next,
                None => break,
            }
        }
        assert_eq!(found, 40);
    }
}
