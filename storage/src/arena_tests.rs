use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::pages::BLOCK_PAGES;

const PLENTY: u64 = 1 << 30;

/// A row that owns its bytes.
#[derive(Clone, PartialEq, Debug)]
struct Owned {
    version: Version,
    schema_version: u16,
    expiry: u64,
    key: Vec<u8>,
    body: Vec<u8>,
}

impl Owned {
    fn row(&self) -> NewRow<'_> {
        NewRow {
            version: self.version,
            schema_version: self.schema_version.into(),
            expiry: ClusterTime(self.expiry),
            key: &self.key,
            body: &self.body,
        }
    }
}

fn any_row() -> impl Strategy<Value = Owned> {
    let length = prop_oneof![8 => 0usize..60, 4 => 200usize..9000, 1 => 8000usize..40_000];
    let expiry = prop_oneof![Just(0), any::<u64>()];
    (any::<(u64, u32)>(), any::<u16>(), expiry, proptest::collection::vec(any::<u8>(), 0..20), length)
        .prop_map(|((epoch, number), schema_version, expiry, key, length)| {
            let body = (0..length).map(|i| (i as u8) ^ (epoch as u8)).collect();
            let version = Version { epoch: Epoch(epoch), number: number.into() };
            Owned { version, schema_version, expiry, key, body }
        })
}

#[derive(Clone, Debug)]
enum Step {
    Store(Owned),
    Overwrite(proptest::sample::Index, Owned),
    Free(proptest::sample::Index),
    Stamp(proptest::sample::Index, u64, u32),
    Flag(proptest::sample::Index, bool, bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    let index = any::<proptest::sample::Index>;
    prop_oneof![
        5 => any_row().prop_map(Step::Store),
        3 => (index(), any_row()).prop_map(|(at, row)| Step::Overwrite(at, row)),
        3 => index().prop_map(Step::Free),
        1 => (index(), any::<u64>(), any::<u32>()).prop_map(|(at, epoch, number)| Step::Stamp(at, epoch, number)),
        1 => (index(), any::<bool>(), any::<bool>()).prop_map(|(at, locked, set)| Step::Flag(at, locked, set)),
    ]
}

fn pick<V>(model: &BTreeMap<RowId, V>, index: &proptest::sample::Index) -> Option<RowId> {
    (!model.is_empty()).then(|| *model.keys().nth(index.index(model.len())).unwrap())
}

proptest! {
    #[test]
    fn an_arena_keeps_what_it_is_given(steps in proptest::collection::vec(any_step(), 1..300)) {
        let mut arena = Arena::new(PLENTY);
        let mut model: BTreeMap<RowId, (Owned, bool, bool)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Store(row) => {
                    let id = arena.store(&row.row()).unwrap();
                    prop_assert!(model.insert(id, (row, false, false)).is_none());
                }
                Step::Overwrite(index, row) => if let Some(id) = pick(&model, &index) {
                    let before = model[&id].0.row().length();
                    let length = row.row().length();
                    let same_cell = before.max(length) <= CELL_MAX && class_of(before) == class_of(length);
                    prop_assert_eq!(arena.overwrite(id, &row.row()), same_cell);
                    if same_cell {
                        model.insert(id, (row, false, false));
                    }
                },
                Step::Free(index) => if let Some(id) = pick(&model, &index) {
                    arena.free(id);
                    model.remove(&id);
                },
                Step::Stamp(index, epoch, number) => if let Some(id) = pick(&model, &index) {
                    let version = Version { epoch: Epoch(epoch), number: number.into() };
                    arena.set_version(id, version);
                    model.get_mut(&id).unwrap().0.version = version;
                },
                Step::Flag(index, locked, set) => if let Some(id) = pick(&model, &index) {
                    let row = model.get_mut(&id).unwrap();
                    if locked {
                        arena.set_locked(id, set);
                        row.1 = set;
                    } else {
                        arena.set_marked(id, set);
                        row.2 = set;
                    }
                },
            }
        }
        arena.check();
        prop_assert_eq!(arena.rows(), model.len() as u64);
        for (&id, (row, locked, marked)) in &model {
            let stored = arena.row(id);
            prop_assert_eq!(stored.to_new(), row.row());
            prop_assert_eq!((stored.is_locked(), stored.is_marked()), (*locked, *marked));
        }
        for &id in model.keys() {
            arena.free(id);
        }
        arena.check();
        prop_assert_eq!(arena.used_bytes(), 0);
    }
}

fn row_of(bytes: usize) -> Owned {
    let version = Version::default();
    Owned { version, schema_version: 1, expiry: 0, key: vec![], body: vec![7; bytes - ROW_HEADER] }
}

#[test]
fn classes_fit_closely() {
    for length in 1..=CELL_MAX {
        let class = class_of(length);
        assert!(class < CLASSES && class_bytes(class) >= length, "{length}");
        assert!(class == 0 || class_bytes(class - 1) < length, "{length}");
        assert!(class_bytes(class).is_multiple_of(8));
        assert!(length <= FINE_CELL_MAX || class_bytes(class) - length < length / 8 + 1, "{length}");
    }
    assert_eq!(class_of(CELL_MAX), CLASSES - 1);
}

#[test]
fn ordinary_writes_stop_at_95_percent() {
    let budget = 100 * PAGE_BYTES as u64;
    let mut arena = Arena::new(budget);
    let row = row_of(1024);
    let mut ids = Vec::new();
    while let Some(id) = arena.store(&row.row()) {
        ids.push(id);
    }
    assert_eq!((ids.len(), arena.used_bytes()), (95 * 64, 95 * PAGE_BYTES as u64));
    assert_eq!(arena.store(&row_of(9000).row()), None);
    arena.free(ids[17]);
    assert_eq!(arena.store(&row.row()), Some(ids[17]), "room that was had before");
    arena.store_always(&row_of(9000).row());
    for _ in 0..20 * 64 {
        arena.store_always(&row.row());
    }
    assert!(arena.used_bytes() > budget);
    arena.check();
}

#[test]
fn indexes_count() {
    let mut arena = Arena::new(100 * PAGE_BYTES as u64);
    arena.index_grew(95 * PAGE_BYTES);
    assert_eq!(arena.store(&row_of(100).row()), None);
    arena.index_shrank(PAGE_BYTES);
    assert!(arena.store(&row_of(100).row()).is_some());
    assert_eq!(arena.store(&row_of(200).row()), None);
}

#[test]
fn an_emptied_page_serves_other_sizes() {
    let mut arena = Arena::new(PLENTY);
    let small: Vec<RowId> = (0..10_000).map(|_| arena.store(&row_of(100).row()).unwrap()).collect();
    let before = arena.used_bytes();
    small.iter().for_each(|&id| arena.free(id));
    assert_eq!((arena.used_bytes(), arena.rows()), (0, 0));
    let large: Vec<RowId> = (0..100).map(|_| arena.store(&row_of(8000).row()).unwrap()).collect();
    assert!(arena.used_bytes() <= before);
    let pages = large.iter().map(|id| id.page()).max().unwrap();
    assert!(pages < before as usize / PAGE_BYTES, "page {pages} is a new one");
    arena.check();
}

#[test]
#[should_panic(expected = "RowId(0) is free")]
fn a_row_is_freed_once() {
    let mut arena = Arena::new(PLENTY);
    let id = arena.store(&row_of(100).row()).unwrap();
    arena.store(&row_of(100).row()).unwrap();
    arena.free(id);
    arena.free(id);
}

#[test]
fn the_biggest_row_fits() {
    let mut arena = Arena::new(PLENTY);
    let mut row = row_of(ROW_HEADER + ROW_BYTES_MAX);
    row.expiry = 1;
    let id = arena.store(&row.row()).unwrap();
    assert_eq!(arena.row(id).to_new(), row.row());
    assert_eq!(arena.used_bytes(), (ROW_BYTES_MAX as u64 + 28).next_multiple_of(4096));
}

#[test]
fn versions_compare_across_wrapping() {
    let version = |epoch: u64, number: u64| Version { epoch: Epoch(epoch), number };
    let full = (1 << 32) + 5;
    assert_eq!(compare_versions(version(1, 5), version(1, full)), Ordering::Equal);
    assert_eq!(compare_versions(version(1, u64::from(u32::MAX)), version(1, full)), Ordering::Less);
    assert_eq!(compare_versions(version(2, 0), version(1, full)), Ordering::Greater);
}

#[test]
fn where_row_ids_run_out_the_table_is_full_before() {
    let mut arena = Arena::new(PLENTY);
    arena.pages_max = 200 * BLOCK_PAGES;
    // As much of the ids as a page each, in blocks.
    let mut rows = 0;
    while arena.has_room(9000) {
        arena.store(&row_of(9000).row()).unwrap();
        rows += 1;
    }
    assert_eq!(rows, 189 * BLOCK_PAGES + 1);
    // What was admitted before still has its place.
    for _ in 0..11 * BLOCK_PAGES - 1 {
        arena.store_always(&row_of(9000).row());
    }
}
