//! Rows as workloads use them: an unsigned number as the key, and one column more.

use twofold_apinode::request::Operations;
use twofold_proto::{
    filter::Comparison,
    ids::{TableId, Version},
    key::encode_key,
    operation::{
        BodyRef, Change, Columns, LockMode, Operation, OperationKind, Projection, ResultCode, ResultRef,
        ReturnedRow,
    },
    row::{RowRef, encode_row},
    schema::{Column, ColumnType, Index, Schema, Table},
    time::ClusterTime,
    value::{Value, ValueRef},
    wire::Reader,
};

use crate::history::Key;

/// The place of the index of the primary key among a table's.
pub const BY_KEY: usize = 0;
/// The place of the index of the value.
pub const BY_VALUE: usize = 1;

/// A row that was read.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// The column that is not the key.
    pub value: Value,
    /// Its version.
    pub version: Version,
}

/// A table of such rows. Where the column may be part of a key, both are ordered: [`BY_KEY`] and [`BY_VALUE`].
pub fn table(name: &str, column: ColumnType) -> Table {
    let indexes = match column.width() {
        Some(_) => vec![Index::new("by key", vec![]), Index::new("by value", vec![1])],
        None => Vec::new(),
    };
    Table {
        id: TableId(0),
        name: name.into(),
        version: 1,
        columns: vec![Column::new("id", ColumnType::U64), Column::new("value", column)],
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes,
    }
}

/// The name of a row in the record.
pub fn key(schema: &Schema, row: u64) -> Key {
    Key { table: schema.table().id, row }
}

fn operation(kind: OperationKind, schema: &Schema, row: u64) -> Operation {
    let mut key = Vec::new();
    encode_key(schema, &[ValueRef::UInt(row)], &mut key).expect("the key is a number");
    Operation::new(kind, schema, key).expect("the key is the table's")
}

fn body(schema: &Schema, row: u64, value: ValueRef<'_>) -> Vec<u8> {
    encode_row(schema, &[ValueRef::UInt(row), value]).expect("the value fits").1
}

/// Reads a row and its version.
pub fn read(schema: &Schema, row: u64, lock: LockMode) -> Operation {
    let mut operation = operation(OperationKind::Read, schema, row);
    (operation.lock, operation.version, operation.before) = (lock, true, Columns::All);
    operation
}

/// Puts a row, there be one or not.
pub fn write(schema: &Schema, row: u64, value: ValueRef<'_>) -> Operation {
    let mut operation = operation(OperationKind::Write, schema, row);
    operation.row = Some(body(schema, row, value));
    operation
}

/// Puts a row that expires.
pub fn write_until(schema: &Schema, row: u64, value: ValueRef<'_>, expiry: ClusterTime) -> Operation {
    let mut operation = write(schema, row, value);
    operation.expiry = Some(expiry);
    operation
}

/// Puts a row where there is none.
pub fn insert(schema: &Schema, row: u64, value: ValueRef<'_>) -> Operation {
    let mut operation = operation(OperationKind::Insert, schema, row);
    operation.row = Some(body(schema, row, value));
    operation
}

/// Changes a row that is there; returns it as it becomes.
pub fn update(schema: &Schema, row: u64, change: Change<'_>) -> Operation {
    let mut operation = operation(OperationKind::Update, schema, row);
    operation.assign(1, change);
    operation.after = Columns::All;
    operation
}

/// Changes a row whose value compares so with another.
pub fn update_if(
    schema: &Schema,
    row: u64,
    comparison: Comparison,
    value: ValueRef<'_>,
    change: Change<'_>,
) -> Operation {
    let mut operation = update(schema, row, change);
    operation.conditions.compare(1, comparison, &value);
    operation
}

/// Appends bytes to a row's, or puts them where there is no row.
pub fn append(schema: &Schema, row: u64, bytes: &[u8]) -> Operation {
    let mut operation = write(schema, row, ValueRef::Binary(bytes.into()));
    operation.assign(1, Change::Append(ValueRef::Binary(bytes.into())));
    operation
}

/// Deletes a row.
pub fn delete(schema: &Schema, row: u64) -> Operation {
    operation(OperationKind::Delete, schema, row)
}

/// Filter and projection of a scan of whole rows.
pub fn whole() -> Vec<u8> {
    let mut program = Vec::new();
    BodyRef { before: Projection::All, version: true, ..BodyRef::default() }.encode(&mut program);
    program
}

/// Operations as a request takes them.
pub fn operations(list: &[Operation]) -> Operations {
    let mut bytes = Vec::new();
    list.iter().for_each(|operation| operation.encode(&mut bytes));
    Operations { bytes, count: list.len() as u16 }
}

/// A result, read.
#[derive(Clone, PartialEq, Debug)]
pub struct Read {
    /// How the operation ended.
    pub code: ResultCode,
    /// The row as it was, if it was asked for and there was one.
    pub before: Option<Value>,
    /// The row as it becomes.
    pub after: Option<Value>,
    /// The version of the row as it was, or the zero version.
    pub version: Version,
    /// The number of the row, in answers to scans.
    pub row: Option<u64>,
}

/// Reads a result.
pub fn result(schema: &Schema, bytes: &[u8]) -> Read {
    let result = ResultRef::parse(&mut Reader::new(bytes, "result")).expect("workers answer results");
    let value = |row: Option<ReturnedRow<'_>>| {
        let ReturnedRow::Whole { schema_version, body } = row? else { panic!("whole rows were asked for") };
        let row = RowRef::new(schema, schema_version, &[], body).expect("the version is known");
        Some(row.get(1).expect("the column is there").into_owned())
    };
    let number = result.head.key.map(|key| {
        let values = twofold_proto::key::decode_key(schema, key).expect("the key is the table's");
        match values[..] {
            [Value::UInt(number)] => number,
            ref other => panic!("{other:?} is no key here"),
        }
    });
    Read {
        code: result.head.code,
        before: value(result.before),
        after: value(result.after),
        version: result.head.version.unwrap_or_default(),
        row: number,
    }
}

/// An unsigned value.
pub fn number(value: &Value) -> u64 {
    match value {
        Value::UInt(number) => *number,
        other => panic!("{other:?} is no unsigned number"),
    }
}

/// A signed value.
pub fn signed(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        other => panic!("{other:?} is no signed number"),
    }
}

/// The elements of a list, of eight bytes each.
pub fn list(value: &Value) -> Vec<u64> {
    match value {
        Value::Binary(bytes) => {
            let (elements, rest) = bytes.as_chunks::<8>();
            assert!(rest.is_empty(), "a list of {} bytes", bytes.len());
            elements.iter().map(|element| u64::from_be_bytes(*element)).collect()
        }
        other => panic!("{other:?} is no list"),
    }
}
