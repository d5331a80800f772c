//! Ordered indexes beside a model of the table: whatever happens, an index has what the table has.

use std::{collections::BTreeMap, ops::Bound};

use proptest::prelude::*;
use twofold_proto::{
    ids::{Epoch, Version},
    message::Image,
    operation::{BodyRef, Projection, ResultRef},
    row::encode_row,
    schema::{Column, ColumnType, IndexState, Table},
    time::ClusterTime,
    value::{Value, ValueRef},
    wire::Reader,
};

use super::*;
use crate::store::{RangeStep, ScanLimit, Store};

const TABLE: TableId = TableId(3);
const PARTITIONS: u16 = 4;

/// A key of two columns, and columns that indexes are of.
fn schema(indexes: &[u32]) -> Arc<Schema> {
    let columns = |id| match id {
        1 => vec![],
        2 => vec![2],
        3 => vec![3, 0],
        _ => vec![4, 2],
    };
    let index = |&id: &u32| Index { id: IndexId(id), ..Index::new(format!("i{id}"), columns(id)) };
    let table = Table {
        id: TABLE,
        name: "t".into(),
        version: 1,
        columns: vec![
            Column::new("a", ColumnType::I32),
            Column::new("b", ColumnType::Text { max_chars: 8 }),
            Column::new("n", ColumnType::I16).nullable(),
            Column::new("t", ColumnType::Text { max_chars: 24 }).nullable(),
            Column::new("f", ColumnType::F64),
        ],
        primary_key: vec![0, 1],
        distribution_key: vec![0],
        indexes: indexes.iter().map(index).collect(),
    };
    Arc::new(Schema::new(table).unwrap())
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        row: u8,
        number: Option<i16>,
        text: Option<String>,
        float: f64,
        expires: bool,
    },
    Delete(u8),
    /// The definition has these indexes from now on.
    Define(Vec<u32>),
    Build(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let text = "(common prefix of all)?[ab]{0,2}";
    let put =
        (any::<u8>(), proptest::option::of(-3i16..3), proptest::option::of(text), -2i8..2, any::<bool>());
    prop_oneof![
        20 => put.prop_map(|(row, number, text, float, expires)| {
            Step::Put { row, number, text, float: f64::from(float), expires }
        }),
        12 => any::<u8>().prop_map(Step::Delete),
        1 => proptest::sample::subsequence(vec![1, 2, 3, 4], 0..4).prop_map(Step::Define),
        2 => (0u32..20).prop_map(Step::Build),
    ]
}

type Row = (PartitionId, Vec<Value>, Vec<u8>, Vec<u8>);

struct Tested {
    store: Store,
    schema: Arc<Schema>,
    /// By number.
    model: BTreeMap<u8, Row>,
    version: u64,
}

fn limit(rows: u32) -> ScanLimit {
    ScanLimit { rows, bytes: 1 << 20, visited: 1 << 20 }
}

impl Tested {
    fn new(indexes: &[u32]) -> Tested {
        let schema = schema(indexes);
        let mut store = Store::new(PARTITIONS, 1 << 30);
        store.define(&schema);
        Tested { store, schema, model: BTreeMap::new(), version: 0 }
    }

    fn apply(&mut self, step: &Step) {
        self.version += 1;
        let version = Version { epoch: Epoch::new(1, 1), number: self.version };
        let place = |row: u8| (PartitionId(u16::from(row) % PARTITIONS), u32::from(row / 2));
        match step {
            &Step::Put { row, number, ref text, float, expires } => {
                let values = vec![
                    Value::Int(i64::from(row / 4) - 20),
                    Value::from(format!("{}", row % 4)),
                    number.map_or(Value::Null, |number| Value::Int(number.into())),
                    text.clone().map_or(Value::Null, Value::from),
                    Value::Float(float),
                ];
                let borrowed: Vec<ValueRef<'_>> = values.iter().map(ValueRef::borrowed).collect();
                let (key, body) = encode_row(&self.schema, &borrowed).unwrap();
                let (partition, tag) = place(row);
                let expiry = ClusterTime(if expires { 9 } else { 0 });
                let image =
                    Image { table: TABLE, schema_version: 1, tag, key: &key, row: Some((expiry, &body)) };
                self.store.apply(partition, version, &image);
                // One that is older changes nothing.
                let old = Version { epoch: Epoch::new(1, 0), number: self.version };
                self.store.apply(partition, old, &Image { row: None, ..image });
                self.model.insert(row, (partition, values, key, body));
            }
            Step::Delete(row) => {
                if let Some((partition, _, key, _)) = self.model.remove(row) {
                    let tag = place(*row).1;
                    let image = Image { table: TABLE, schema_version: 1, tag, key: &key, row: None };
                    self.store.apply(partition, version, &image);
                }
            }
            Step::Define(indexes) => {
                self.schema = schema(indexes);
                self.store.define(&self.schema);
            }
            Step::Build(rows) => _ = self.store.build_indexes(*rows),
        }
    }

    /// The entries that a scan in steps of so many rows finds, and their keys.
    fn scan(
        &self,
        index: &Index,
        range: &EntryRange,
        descending: bool,
        rows: u32,
        serves: impl Fn(PartitionId) -> bool,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut program = Vec::new();
        BodyRef { before: Projection::All, ..BodyRef::default() }.encode(&mut program);
        let (mut found, mut left) = (Vec::new(), Some(range.clone()));
        while let Some(range) = left {
            let mut out = Vec::new();
            let step = RangeStep {
                index: index.id,
                range: &range,
                descending,
                program: &program,
                limit: limit(rows),
            };
            let count;
            (left, count) =
                self.store.scan_range(&self.schema, &step, &serves, ClusterTime(8), &mut out).unwrap();
            assert!(count == rows || left.is_none() && count < rows, "{count} of {rows}");
            let mut reader = Reader::new(&out, "rows");
            for _ in 0..count {
                let entry = reader.block().unwrap().to_vec();
                let result = ResultRef::parse(&mut Reader::new(reader.block().unwrap(), "row")).unwrap();
                found.push((entry, result.head.key.unwrap().to_vec()));
            }
            reader.finish().unwrap();
        }
        found
    }

    fn expected(
        &self,
        index: &Index,
        range: &EntryRange,
        serves: impl Fn(PartitionId) -> bool,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let entry = |(_, _, key, body): &Row| {
            let mut entry = Vec::new();
            let row = RowRef::new(&self.schema, 1, key, body).unwrap();
            encode_entry(&self.schema, index, &row, &mut entry).unwrap();
            (entry, key.clone())
        };
        let rows = self.model.values().filter(|(partition, ..)| serves(*partition));
        let mut rows: Vec<_> = rows.map(entry).collect();
        rows.sort();
        rows.retain(|(entry, _)| *entry >= range.from && range.to.as_ref().is_none_or(|to| entry < to));
        rows
    }
}

proptest! {
    #[test]
    fn an_index_has_what_the_table_has(
        begin in proptest::sample::subsequence(vec![1, 2, 3, 4], 0..4),
        steps in proptest::collection::vec(step(), 0..400),
        bounds in (-22i64..46, -22i64..46), rows in 1u32..40,
    ) {
        let mut tested = Tested::new(&begin);
        for (number, step) in steps.iter().enumerate() {
            tested.apply(step);
            if number % 16 == 0 {
                tested.store.check_indexes();
            }
        }
        tested.store.build_indexes(1000);
        tested.store.check_indexes();
        let schema = tested.schema.clone();
        for index in &schema.indexes {
            let (a, b) = (Value::Int(bounds.0), Value::Int(bounds.1));
            let text = Value::from("common prefix of all".to_owned());
            let (a, b) = match index.columns.first() {
                Some(3) => (text, Value::from("common prefix of allab".to_owned())),
                _ => (a, b),
            };
            for range in [
                EntryRange::default(),
                EntryRange::new(&schema, index, &[], Bound::Included(&a), Bound::Excluded(&b)).unwrap(),
                EntryRange::new(&schema, index, &[], Bound::Excluded(&a), Bound::Unbounded).unwrap(),
                EntryRange::new(&schema, index, &[], Bound::Unbounded, Bound::Included(&b)).unwrap(),
                EntryRange::new(&schema, index, std::slice::from_ref(&a), Bound::Unbounded, Bound::Unbounded).unwrap(),
            ] {
                let serves = |partition: PartitionId| partition.0 != 2;
                let mut expected = tested.expected(index, &range, serves);
                prop_assert_eq!(&tested.scan(index, &range, false, rows, serves), &expected);
                expected.reverse();
                prop_assert_eq!(&tested.scan(index, &range, true, rows, serves), &expected);
            }
        }
        // Memory is given back, whatever is dropped while.
        tested.store.drop_table(TABLE);
        for _ in 0..60 {
            tested.store.free_doomed(16);
        }
        prop_assert_eq!((tested.store.rows(), tested.store.used_bytes()), (0, 0));
    }
}

#[test]
fn an_index_that_is_being_built_is_not_asked() {
    let mut tested = Tested::new(&[]);
    let put = |row| Step::Put { row, number: Some(1), text: None, float: 0.0, expires: false };
    (0..100).for_each(|row| tested.apply(&put(row)));
    tested.apply(&Step::Define(vec![2]));
    let schema = tested.schema.clone();
    let mut program = Vec::new();
    BodyRef::default().encode(&mut program);
    let range = EntryRange::default();
    let step =
        RangeStep { index: IndexId(2), range: &range, descending: false, program: &program, limit: limit(9) };
    let mut steps = 0;
    while let Err(refusal) =
        tested.store.scan_range(&schema, &step, |_| true, ClusterTime(0), &mut Vec::new())
    {
        assert_eq!(refusal, None);
        tested.store.build_indexes(10);
        steps += 1;
    }
    assert!((10..=12).contains(&steps), "built in {steps} steps");
    tested.store.check_indexes();
    let unknown = RangeStep { index: IndexId(1), ..step };
    let refused = tested.store.scan_range(&schema, &unknown, |_| true, ClusterTime(0), &mut Vec::new());
    assert_eq!(refused, Err(None));
}

#[test]
fn what_does_not_fit_is_built_only_if_it_is_public() {
    let mut tested = Tested::new(&[]);
    let put = |row| Step::Put { row, number: Some(1), text: None, float: 0.0, expires: false };
    (0..40).for_each(|row| tested.apply(&put(row)));
    let mut table = schema(&[2]).table().clone();
    table.indexes[0].state = IndexState::Building { since: 1 };
    tested.store.define(&Arc::new(Schema::new(table.clone()).unwrap()));
    // So many rows at once may take more than there is.
    assert_eq!(tested.store.build_indexes(u32::MAX), BuildProgress::Full);
    // Until what was dropped is freed, nobody knows.
    let other = TableId(TABLE.0 + 1);
    let image =
        Image { table: other, schema_version: 1, tag: 1, key: b"k", row: Some((ClusterTime(0), b"row")) };
    tested.store.apply(PartitionId(0), Version { epoch: Epoch::new(1, 1), number: 1 }, &image);
    tested.store.drop_table(other);
    assert_eq!(tested.store.build_indexes(u32::MAX), BuildProgress::Unfinished);
    tested.store.free_doomed(16);
    assert_eq!(tested.store.build_indexes(u32::MAX), BuildProgress::Full);
    assert_eq!(tested.store.build_indexes(0), BuildProgress::Unfinished);
    assert_eq!(tested.store.build_indexes(5), BuildProgress::Unfinished);
    table.indexes[0].state = IndexState::Public;
    tested.store.define(&Arc::new(Schema::new(table).unwrap()));
    assert_eq!(tested.store.build_indexes(u32::MAX), BuildProgress::Done);
    tested.store.check_indexes();
}
