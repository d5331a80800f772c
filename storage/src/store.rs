//! All rows of one worker: its arena, and the fragments in it by partition and table. It knows nothing of transactions:
//! what it has is committed.

use std::cmp::Ordering;

use twofold_proto::{
    ids::{PartitionId, TableId, Version},
    message::{CopyRow, Image},
    operation::{BodyRef, OperationKind, Refusal},
    schema::Schema,
    time::ClusterTime,
    wire::Writer,
};

use crate::{
    arena::{Arena, NewRow, StoredRow, compare_versions},
    evaluate::{CurrentRow, append_scanned, holds},
    fragment::Fragment,
};

/// The rows of one worker.
#[derive(Debug)]
pub struct Store {
    arena: Arena,
    /// By partition: its fragments, by table.
    partitions: Vec<Vec<(TableId, Fragment)>>,
    /// Rows that expire.
    expiring: u64,
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
            partitions: (0..partitions).map(|_| Vec::new()).collect(),
            expiring: 0,
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
        self.arena.rows()
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

    /// Brings the place of a tag in its index into the cache. For a batch of keys: this for all, then
    /// [`Store::touch_row`] for all, so that their cache misses overlap.
    #[inline]
    pub fn touch_index(&self, table: TableId, partition: PartitionId, tag: u32) {
        if let Some(fragment) = self.fragment(table, partition) {
            fragment.touch(tag);
        }
    }

    /// Brings the first row of a tag into the cache.
    #[inline]
    pub fn touch_row(&self, table: TableId, partition: PartitionId, tag: u32) {
        if let Some(row) = self.fragment(table, partition).and_then(|fragment| fragment.candidate(tag)) {
            self.arena.touch(row);
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
        let Some((expiry, body)) = content else {
            if let Some(old) = old {
                fragment.remove(tag, old, &mut self.arena);
                self.arena.free(old);
            }
            return;
        };
        self.expiring += u64::from(expiry.0 != 0);
        let row = NewRow { version, schema_version: schema_version.into(), expiry, key, body };
        if old.is_some_and(|old| self.arena.overwrite(old, &row)) {
            return;
        }
        let new = self.arena.store_always(&row);
        match old {
            Some(old) => {
                fragment.replace(tag, old, new);
                self.arena.free(old);
            }
            None => fragment.insert(tag, new, &mut self.arena),
        }
    }

    /// Frees all rows of a table.
    pub fn drop_table(&mut self, table: TableId) {
        for fragments in &mut self.partitions {
            if let Some(place) = fragments.iter().position(|(id, _)| *id == table) {
                let (_, fragment) = fragments.swap_remove(place);
                Self::free(fragment, &mut self.arena, &mut self.expiring);
            }
        }
    }

    /// Frees all rows of a partition.
    pub fn drop_partition(&mut self, partition: PartitionId) {
        for (_, fragment) in std::mem::take(&mut self.partitions[usize::from(partition.0)]) {
            Self::free(fragment, &mut self.arena, &mut self.expiring);
        }
    }

    fn free(mut fragment: Fragment, arena: &mut Arena, expiring: &mut u64) {
        let rows: Vec<_> = fragment.groups(0).flat_map(|group| group.rows).map(|entry| entry.row()).collect();
        for row in rows {
            *expiring -= u64::from(arena.row(row).expiry().0 != 0);
            arena.free(row);
        }
        fragment.clear(arena);
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
        let Some(fragment) = self.fragment(schema.id, partition) else { return Ok((None, 0)) };
        for group in fragment.groups(cursor) {
            if rows >= limit.rows || visited >= limit.visited || out.len() - start >= limit.bytes {
                return Ok((Some(u64::from(group.tag)), rows));
            }
            for entry in group.rows {
                visited += 1;
                let current = CurrentRow::stored(schema, self.arena.row(entry.row()));
                if !current.is_live(now) || !holds(&body.conditions, Some(&current))? {
                    continue;
                }
                let frame = out.len();
                out.put_u32(0);
                append_scanned(&current, &body, out)?;
                let length = (out.len() - frame - 4) as u32;
                out[frame..frame + 4].copy_from_slice(&length.to_le_bytes());
                rows += 1;
            }
        }
        Ok((None, rows))
    }

    /// Appends rows of a partition, from a table and a cursor on, until `out` is as long as `limit`. Returns where to
    /// go on, and how many.
    pub fn copy_out(
        &self,
        partition: PartitionId,
        table: TableId,
        mut cursor: u64,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> (Option<(TableId, u64)>, u64) {
        let mut rows = 0;
        for (id, fragment) in self.tables_from(partition, table) {
            for group in fragment.groups(if id == table { cursor } else { 0 }) {
                if out.len() >= limit {
                    return (Some((id, u64::from(group.tag))), rows);
                }
                for entry in group.rows {
                    let row = self.arena.row(entry.row());
                    CopyRow {
                        table: id,
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
            cursor = 0;
        }
        (None, rows)
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
    use twofold_proto::ids::Epoch;

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
        let (mut from, mut to) = (Store::new(2, 1 << 20), Store::new(2, 1 << 20));
        for n in 0..500u32 {
            let table = TableId(1 + n % 3);
            let key = n.to_be_bytes();
            let tag = n.wrapping_mul(0x9e37_79b9) & 0xffff_fff0;
            let row = Some((ClusterTime(n.into()), &key[..]));
            from.apply(PARTITION, version(1, n.into()), &image(table, tag, &key, row));
        }
        let (mut next, mut copied) = (Some((TableId(0), 0)), 0);
        while let Some((table, cursor)) = next {
            let mut out = Vec::new();
            let rows;
            (next, rows) = from.copy_out(PARTITION, table, cursor, 300, &mut out);
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
        from.drop_partition(PARTITION);
        assert_eq!((from.rows(), from.expiring), (0, 0));
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
