use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use twofold_proto::{
    ids::{TableId, Version},
    key::encode_key,
    schema::{Column, ColumnType, Table},
    time::ClusterTime,
    value::Value,
};

use super::*;
use crate::arena::{NewRow, PAGE_BYTES};

fn new_row<'a>(key: &'a [u8], body: &'a [u8]) -> NewRow<'a> {
    NewRow { version: Version::default(), schema_version: 1, expiry: ClusterTime(0), key, body }
}

/// A fragment, and what should be in it.
struct Tested {
    arena: Arena,
    fragment: Fragment,
    model: BTreeMap<(u32, u32), RowId>,
}

impl Tested {
    fn new() -> Tested {
        Tested { arena: Arena::new(1 << 30), fragment: Fragment::new(), model: BTreeMap::new() }
    }

    /// Inserts, replaces or removes the row with this key, of which the tag is a function.
    fn change(&mut self, tag: u32, key: u32, remove: bool) {
        let bytes = key.to_be_bytes();
        let found = self.fragment.find(tag, &bytes, &self.arena);
        assert_eq!(found, self.model.get(&(tag, key)).copied());
        match found {
            Some(old) if remove => {
                self.fragment.remove(tag, old, &mut self.arena);
                self.arena.free(old);
                self.model.remove(&(tag, key));
            }
            Some(old) => {
                let new = self.arena.store(&new_row(&bytes, b"again")).unwrap();
                self.fragment.replace(tag, old, new);
                self.arena.free(old);
                self.model.insert((tag, key), new);
            }
            None if remove => {}
            None => {
                let row = self.arena.store(&new_row(&bytes, b"")).unwrap();
                self.fragment.insert(tag, row, &mut self.arena);
                self.model.insert((tag, key), row);
            }
        }
    }

    /// Everything is found, a scan gives it all in order, and the arena knows the index's size.
    fn check(&self) {
        self.fragment.check();
        self.arena.check();
        assert_eq!(self.fragment.len(), self.model.len());
        for (&(tag, key), &row) in &self.model {
            assert_eq!(self.fragment.find(tag, &key.to_be_bytes(), &self.arena), Some(row));
            let candidate = self.fragment.candidate(tag);
            assert!(self.model.range((tag, 0)..=(tag, u32::MAX)).any(|(_, &row)| Some(row) == candidate));
        }
        let scanned: Vec<(u32, RowId)> = self
            .fragment
            .groups(0)
            .flat_map(|group| group.rows.iter().map(move |e| (group.tag, e.row())))
            .collect();
        assert!(scanned.is_sorted_by_key(|&(tag, _)| tag));
        let expected: BTreeSet<(u32, RowId)> =
            self.model.iter().map(|(&(tag, _), &row)| (tag, row)).collect();
        assert_eq!(scanned.len(), expected.len());
        assert_eq!(scanned.into_iter().collect::<BTreeSet<_>>(), expected);
        let pages = self.arena.used_bytes() - self.fragment.bytes() as u64;
        assert!(
            pages.is_multiple_of(PAGE_BYTES as u64),
            "the arena knows the index's {} bytes",
            self.fragment.bytes()
        );
    }
}

/// Spreads keys over tags, so that some tags are shared and both ends are crowded.
fn tag_of(key: u32) -> u32 {
    match key % 4 {
        0 => u32::MAX - key / 4 % 3,
        1 => key / 4 % 3,
        2 => (key / 4 % 8) << 29,
        _ => key.wrapping_mul(0x9e37_79b9),
    }
}

proptest! {
    #[test]
    fn a_fragment_is_a_map(changes in proptest::collection::vec((0u32..300, proptest::bool::weighted(0.4)), 1..600)) {
        let mut tested = Tested::new();
        for (key, remove) in changes {
            tested.change(tag_of(key), key, remove);
            tested.fragment.check();
        }
        tested.check();
    }

    #[test]
    fn a_scan_gets_what_stays_exactly_once(
        kept in proptest::collection::btree_set(0u32..1000, 1..200),
        changes in proptest::collection::vec((1000u32..2000, proptest::bool::weighted(0.5)), 0..800),
        pace in 1usize..20, churn in 0usize..60,
    ) {
        let mut tested = Tested::new();
        kept.iter().for_each(|&key| tested.change(tag_of(key), key, false));
        let mut changes = changes.into_iter();
        let (mut seen, mut cursor, mut done) = (BTreeMap::new(), 0, false);
        while !done {
            done = true;
            let mut rows = 0;
            for group in tested.fragment.groups(cursor) {
                for entry in group.rows {
                    *seen.entry(tested.arena.row(entry.row()).key().to_vec()).or_insert(0) += 1;
                }
                cursor = group.next_cursor();
                rows += group.rows.len();
                if rows >= pace {
                    done = false;
                    break;
                }
            }
            // Kept rows get other bytes, others come and go, and the index grows and shrinks.
            for (key, remove) in changes.by_ref().take(churn) {
                tested.change(tag_of(key), key, remove);
                let kept = kept.iter().nth(key as usize % kept.len()).unwrap();
                tested.change(tag_of(*kept), *kept, false);
            }
        }
        for key in kept {
            prop_assert_eq!(seen.get(&key.to_be_bytes()[..]), Some(&1));
        }
        prop_assert!(seen.values().all(|&times| times == 1), "tags only grow");
        tested.check();
    }
}

#[test]
fn it_grows_and_shrinks_in_small_steps() {
    let mut tested = Tested::new();
    let mut largest = 0;
    for key in 0..20_000u32 {
        tested.change(key.wrapping_mul(0x9e37_79b9), key, false);
        assert!(
            key < 100 || tested.fragment.bytes() < key as usize * 14,
            "{} at {key}",
            tested.fragment.bytes()
        );
        largest = tested.fragment.bytes();
    }
    tested.check();
    for key in 0..19_000u32 {
        tested.change(key.wrapping_mul(0x9e37_79b9), key, true);
    }
    tested.check();
    assert!(tested.fragment.bytes() < largest / 5);
    for key in 19_000..20_000u32 {
        tested.change(key.wrapping_mul(0x9e37_79b9), key, true);
    }
    tested.check();
    assert_eq!((tested.fragment.bytes(), tested.arena.used_bytes()), (0, 0));
}

#[test]
fn any_number_of_rows_may_share_a_tag() {
    for tag in [0, 7 << 28, u32::MAX] {
        let mut tested = Tested::new();
        (0..500).for_each(|key| tested.change(tag, key, false));
        tested.check();
        assert_eq!(tested.fragment.groups(0).map(|group| group.rows.len()).collect::<Vec<_>>(), [500]);
        let beyond = Group { tag, rows: &[] }.next_cursor();
        assert_eq!(tested.fragment.groups(beyond).count(), 0);
        (0..499).for_each(|key| tested.change(tag, key * 7 % 500, true));
        tested.check();
    }
}

#[test]
fn clearing_gives_the_memory_back() {
    let mut tested = Tested::new();
    (0..500).for_each(|key| tested.change(tag_of(key), key, false));
    let pages = tested.arena.used_bytes() - tested.fragment.bytes() as u64;
    tested.fragment.clear(&mut tested.arena);
    assert_eq!((tested.arena.used_bytes(), tested.fragment.len()), (pages, 0));
}

fn schema(columns: usize, distribution_key: Vec<u16>) -> Schema {
    let primary_key: Vec<u16> = (0..columns as u16).collect();
    let columns = primary_key.iter().map(|i| Column::new(format!("k{i}"), ColumnType::U64)).collect();
    let (id, name, indexes) = (TableId(1), "t".into(), Vec::new());
    let table = Table { id, name, version: 1, columns, primary_key, distribution_key, indexes };
    Schema::new(table).unwrap()
}

fn key(schema: &Schema, columns: &[u64]) -> Vec<u8> {
    let values: Vec<Value> = columns.iter().map(|&column| Value::UInt(column)).collect();
    let mut key = Vec::new();
    encode_key(schema, &values, &mut key).unwrap();
    key
}

#[test]
fn tags_of_one_distribution_key_are_spread() {
    let schema = schema(2, vec![0]);
    let hash = KeyHash::of(&1u64.to_be_bytes());
    let mut tags: Vec<u32> = (0..10_000).map(|i| row_tag(&schema, &hash, &key(&schema, &[1, i]))).collect();
    let mut buckets = [0; 16];
    tags.iter().for_each(|tag| buckets[(tag >> 28) as usize] += 1);
    assert!(buckets.iter().all(|count| (500..750).contains(count)), "{buckets:?}");
    tags.sort_unstable();
    tags.dedup();
    assert!(tags.len() > 9_980, "{} tags", tags.len());
}

#[test]
fn tags_are_the_same_everywhere() {
    let hash = KeyHash(std::array::from_fn(|i| i as u8));
    assert_eq!(row_tag(&schema(1, vec![0]), &hash, &[1, 2, 3]), 0x0809_0a0b);
    assert_eq!(row_tag(&schema(2, vec![0]), &hash, b"twofold: 13 b"), 0x9984_46af);
}

/// A worker that has all partitions of a table of 8-byte keys, with bodies of 100 bytes.
struct Loaded {
    arena: Arena,
    fragments: Vec<Fragment>,
    places: Vec<(u16, u32, [u8; 8])>,
}

fn load(rows: u64) -> Loaded {
    let schema = schema(1, vec![0]);
    let mut arena = Arena::new(1 << 30);
    let mut fragments = vec![Fragment::new(); 3840];
    let mut places = Vec::new();
    for i in 0..rows {
        let key = key(&schema, &[i]);
        let hash = KeyHash::of(&key);
        let (partition, tag) = (hash.partition(3840).0, row_tag(&schema, &hash, &key));
        let row = arena.store(&new_row(&key, &[i as u8; 100])).unwrap();
        fragments[usize::from(partition)].insert(tag, row, &mut arena);
        places.push((partition, tag, i.to_be_bytes()));
    }
    Loaded { arena, fragments, places }
}

#[test]
fn a_row_takes_at_most_40_bytes_beyond_its_data() {
    const ROWS: u64 = 1_000_000;
    let loaded = load(ROWS);
    let bytes = loaded.arena.used_bytes() + (loaded.fragments.len() * size_of::<Fragment>()) as u64;
    let beyond = bytes as f64 / ROWS as f64 - 108.0;
    println!("{beyond:.1} bytes beyond key and body");
    assert!(beyond <= 40.0, "{beyond} bytes");
    let found = |(partition, tag, key): &(u16, u32, [u8; 8])| {
        loaded.fragments[usize::from(*partition)].find(*tag, key, &loaded.arena).is_some()
    };
    assert!(loaded.places.iter().all(found));
}

/// Prints how long lookups take: `cargo test --release -p twofold-storage -- --nocapture lookups`.
#[cfg(not(debug_assertions))]
#[test]
#[expect(clippy::disallowed_types, reason = "a measurement needs a clock")]
fn lookups() {
    let mut loaded = load(1_000_000);
    twofold_proto::random::Random::new(1).shuffle(&mut loaded.places);
    let Loaded { arena, fragments, places } = &loaded;
    for _ in 0..5 {
        let start = std::time::Instant::now();
        let find = |(partition, tag, key): &(u16, u32, [u8; 8])| {
            fragments[usize::from(*partition)].find(*tag, key, arena).is_some()
        };
        let found = places.iter().filter(|place| find(place)).count();
        let one_by_one = start.elapsed();
        let start = std::time::Instant::now();
        let mut touched = 0;
        let mut rows = Vec::new();
        let mut found_in_batches = 0;
        for batch in places.chunks(64) {
            for (partition, tag, _) in batch {
                fragments[usize::from(*partition)].prefetch(*tag);
            }
            let candidate = |(partition, tag, _): &(u16, u32, [u8; 8])| {
                fragments[usize::from(*partition)].candidate(*tag)
            };
            rows.clear();
            rows.extend(batch.iter().filter_map(candidate));
            rows.iter().for_each(|&row| twofold_proto::prefetch::lines(arena.cell(row)));
            touched += rows.len();
            found_in_batches += batch.iter().filter(|place| find(place)).count();
        }
        let in_batches = start.elapsed();
        assert_eq!((found, found_in_batches, touched), (places.len(), places.len(), places.len()));
        println!(
            "{:.0} ns a lookup, {:.0} in batches of 64",
            one_by_one.as_nanos() as f64 / found as f64,
            in_batches.as_nanos() as f64 / found as f64
        );
    }
}
