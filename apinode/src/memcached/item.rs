//! Items as rows of an ordinary table: commands → operations.

use std::sync::Arc;

use twofold_proto::{
    error::{Error, ErrorCode},
    filter::FilterBuilder,
    ids::TableId,
    key::distribution_hash,
    operation::{
        Assignment, Assignments, BodyRef, Change, LockMode, OperationKind, OperationRef, Projection,
    },
    placement::KeyHash,
    row::encode_body_with,
    schema::{Column, ColumnType, Schema, Table},
    time::ClusterTime,
    value::ValueRef,
};

use super::command::{KEY_MAX, VALUE_MAX, Verb};
use crate::request::Operations;

/// Name of the table.
pub const TABLE: &str = "memcached";
/// An exptime above this, in seconds, is a date: 30 days.
const RELATIVE_MAX: i64 = 60 * 60 * 24 * 30;

/// The table of items, to be created where it is missing.
pub fn table() -> Table {
    Table {
        id: TableId(0),
        name: TABLE.into(),
        version: 1,
        columns: vec![
            Column::new("key", ColumnType::Binary { max_bytes: KEY_MAX as u32 }),
            Column::new("flags", ColumnType::U32).with_default(ValueRef::UInt(0)),
            Column::new("value", ColumnType::Binary { max_bytes: VALUE_MAX as u32 }),
        ],
        primary_key: vec![0],
        distribution_key: vec![0],
    }
}

/// When an item of this exptime expires.
///
/// 0 is never; what is negative has expired already; up to 30 days it counts from now, beyond that from 1970.
pub fn expiry(exptime: i64, now: ClusterTime) -> ClusterTime {
    match exptime {
        0 => ClusterTime(0),
        ..0 => ClusterTime(1),
        1..=RELATIVE_MAX => ClusterTime(now.0.saturating_add(exptime as u64 * 1000)),
        date => ClusterTime((date as u64).saturating_mul(1000)),
    }
}

/// A table that holds items: how operations on it are written.
#[derive(Clone, Debug)]
pub struct Items {
    schema: Arc<Schema>,
    flags: u16,
    value: u16,
    /// Flags and value, as a projection lists them.
    columns: [u8; 4],
}

impl Items {
    /// The table, if it can hold items.
    ///
    /// # Errors
    /// [`ErrorCode::BadTable`], and what is wrong with it.
    pub fn new(schema: Arc<Schema>) -> Result<Items, Error> {
        let wrong = |what: &str| Error::new(ErrorCode::BadTable, format!("table `{}` {what}", schema.name));
        let column =
            |name: &str| schema.column_index(name).ok_or_else(|| wrong(&format!("has no column `{name}`")));
        let (key, flags, value) = (column("key")?, column("flags")?, column("value")?);
        let column_type = |index: u16| schema.columns[usize::from(index)].column_type;
        if schema.primary_key != [key]
            || !matches!(column_type(key), ColumnType::Binary { max_bytes } if max_bytes as usize >= KEY_MAX)
        {
            return Err(wrong("needs the primary key `key`, binary, of 250 bytes or more"));
        }
        if column_type(flags) != ColumnType::U32 {
            return Err(wrong("needs `flags` to be an unsigned integer of 32 bits"));
        }
        if !matches!(column_type(value), ColumnType::Binary { max_bytes } if max_bytes as usize >= VALUE_MAX)
        {
            return Err(wrong("needs `value` to be binary, of 1 MiB or more"));
        }
        if let Some(column) = schema.columns.iter().enumerate().find_map(|(index, column)| {
            let ours = [key, flags, value].contains(&(index as u16));
            (!ours && !column.nullable && column.default.is_none()).then_some(column)
        }) {
            return Err(wrong(&format!("needs a default for column `{}`", column.name)));
        }
        let ([a, b], [c, d]) = (flags.to_le_bytes(), value.to_le_bytes());
        Ok(Items { schema, flags, value, columns: [a, b, c, d] })
    }

    /// The schema.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The hash of a key.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        distribution_hash(&self.schema, key).expect("any bytes are a key of one binary column")
    }
}

/// Writes operations on items, one after the other.
#[derive(Debug, Default)]
pub struct Builder {
    /// What was written.
    pub operations: Operations,
    // Kept for their capacity.
    row: Vec<u8>,
    body: Vec<u8>,
}

impl Builder {
    /// Reads an item, with its version if `cas`.
    pub fn get(&mut self, items: &Items, hash: KeyHash, key: &[u8], cas: bool) {
        let body =
            BodyRef { before: Projection::Columns(&items.columns), version: cas, ..BodyRef::default() };
        self.put(items, OperationKind::Read, hash, key, &body);
    }

    /// Gives an item another expiry. `get`: reads it too, with the version that it had if so.
    pub fn touch(
        &mut self,
        items: &Items,
        hash: KeyHash,
        key: &[u8],
        expiry: ClusterTime,
        get: Option<bool>,
    ) {
        let before = if get.is_some() { Projection::Columns(&items.columns) } else { Projection::None };
        let version = get.unwrap_or(false);
        let body = BodyRef { expiry: Some(expiry), before, version, ..BodyRef::default() };
        self.put(items, OperationKind::Update, hash, key, &body);
    }

    /// Deletes an item.
    pub fn delete(&mut self, items: &Items, hash: KeyHash, key: &[u8]) {
        self.put(items, OperationKind::Delete, hash, key, &BodyRef::default());
    }

    /// Counts an item's value up or down; the answer has the new one.
    pub fn count(&mut self, items: &Items, hash: KeyHash, key: &[u8], delta: u64, down: bool) {
        let change = if down { Change::Decrement(delta) } else { Change::Increment(delta) };
        self.row.clear();
        Assignment { column: items.value, change }.encode(&mut self.row);
        let row = std::mem::take(&mut self.row);
        let value = items.value.to_le_bytes();
        let after = Projection::Columns(&value);
        let body = BodyRef { assignments: Some(Assignments(&row)), after, ..BodyRef::default() };
        self.put(items, OperationKind::Update, hash, key, &body);
        self.row = row;
    }

    /// Stores an item.
    pub fn store(&mut self, items: &Items, verb: Verb, hash: KeyHash, key: &[u8], item: Item<'_>) {
        let mut conditions = FilterBuilder::new();
        let mut row = std::mem::take(&mut self.row);
        row.clear();
        let kind = match verb {
            Verb::Set | Verb::Add => {
                item.encode_row(items, &mut row);
                if verb == Verb::Set { OperationKind::Write } else { OperationKind::Insert }
            }
            Verb::Replace | Verb::Cas(_) | Verb::Append | Verb::Prepend => {
                item.encode_assignments(items, verb, &mut row);
                OperationKind::Update
            }
        };
        if let Verb::Cas(unique) = verb {
            conditions.token(unique);
        }
        // What is added to an item does not change how long it lives.
        let expiry = (!matches!(verb, Verb::Append | Verb::Prepend)).then_some(item.expiry);
        let mut body = BodyRef { conditions: conditions.filter(), expiry, ..BodyRef::default() };
        match kind {
            OperationKind::Update => body.assignments = Some(Assignments(&row)),
            _ => body.row = Some(&row),
        }
        self.put(items, kind, hash, key, &body);
        self.row = row;
    }

    fn put(&mut self, items: &Items, kind: OperationKind, hash: KeyHash, key: &[u8], body: &BodyRef<'_>) {
        self.body.clear();
        body.encode(&mut self.body);
        let operation = OperationRef {
            kind,
            lock: if kind == OperationKind::Read { LockMode::None } else { LockMode::Exclusive },
            table: items.schema.id,
            schema_version: items.schema.version,
            hash,
            key,
            body: &self.body,
        };
        operation.encode(&mut self.operations.bytes);
        self.operations.count += 1;
    }
}

/// What is stored under a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item<'a> {
    /// What the client keeps beside the value.
    pub flags: u32,
    /// When it expires; 0: never.
    pub expiry: ClusterTime,
    /// The value, no longer than [`VALUE_MAX`].
    pub value: &'a [u8],
}

impl Item<'_> {
    fn encode_row(&self, items: &Items, out: &mut Vec<u8>) {
        let value_of = |column: u16| {
            Ok(match column {
                _ if column == items.flags => ValueRef::UInt(self.flags.into()),
                _ if column == items.value => ValueRef::from(self.value),
                other => items.schema.columns[usize::from(other)].default_value(),
            })
        };
        encode_body_with(&items.schema, value_of, out)
            .expect("an item fits the table that was checked for it");
    }

    fn encode_assignments(&self, items: &Items, verb: Verb, out: &mut Vec<u8>) {
        let value = ValueRef::from(self.value);
        let change = match verb {
            Verb::Append => Change::Append(value),
            Verb::Prepend => Change::Prepend(value),
            _ => {
                let flags = Change::Set(ValueRef::UInt(self.flags.into()));
                Assignment { column: items.flags, change: flags }.encode(out);
                Change::Set(value)
            }
        };
        Assignment { column: items.value, change }.encode(out);
    }
}

#[cfg(test)]
mod tests {
    use twofold_proto::wire::Reader;

    use super::*;

    fn items() -> Items {
        Items::new(Arc::new(Schema::new(table()).unwrap())).unwrap()
    }

    #[test]
    fn exptime_has_three_forms() {
        let now = ClusterTime(1_700_000_000_000);
        assert_eq!(expiry(0, now), ClusterTime(0));
        assert_eq!(expiry(-1, now), ClusterTime(1));
        assert_eq!(expiry(i64::MIN, now), ClusterTime(1));
        assert_eq!(expiry(1, now), ClusterTime(1_700_000_001_000));
        assert_eq!(expiry(2_592_000, now), ClusterTime(1_702_592_000_000));
        assert_eq!(expiry(2_592_001, now), ClusterTime(2_592_001_000));
        assert_eq!(expiry(i64::MAX, now), ClusterTime(u64::MAX));
    }

    #[test]
    fn a_set_puts_a_whole_row() {
        let (items, mut builder) = (items(), Builder::default());
        let item = Item { flags: 5, expiry: ClusterTime(9), value: b"v" };
        builder.store(&items, Verb::Set, items.hash(b"k"), b"k", item);
        let mut reader = Reader::new(&builder.operations.bytes, "operation");
        let operation = OperationRef::parse(&mut reader).unwrap();
        assert!(reader.is_empty());
        assert_eq!((operation.kind, operation.key), (OperationKind::Write, &b"k"[..]));
        assert_eq!(operation.hash, KeyHash::of(b"k"));
        let body = operation.parse_body().unwrap();
        assert_eq!(body.expiry, Some(ClusterTime(9)));
        assert_eq!(body.row, Some(&[0, 5, 0, 0, 0, 1, b'v'][..]));
    }

    #[test]
    fn an_append_leaves_flags_and_expiry() {
        let (items, mut builder) = (items(), Builder::default());
        let item = Item { flags: 5, expiry: ClusterTime(9), value: b"v" };
        builder.store(&items, Verb::Append, items.hash(b"k"), b"k", item);
        let mut reader = Reader::new(&builder.operations.bytes, "operation");
        let body = OperationRef::parse(&mut reader).unwrap().parse_body().unwrap();
        let assignments: Vec<_> = body.assignments.unwrap().iter().map(Result::unwrap).collect();
        assert_eq!(body.expiry, None);
        assert_eq!(
            assignments,
            [Assignment { column: 2, change: Change::Append(ValueRef::from(&b"v"[..])) }]
        );
    }

    #[test]
    fn a_table_that_cannot_hold_items_is_refused_in_words() {
        let refused = |change: fn(&mut Table)| {
            let mut table = table();
            change(&mut table);
            Items::new(Arc::new(Schema::new(table).unwrap())).unwrap_err().text
        };
        assert_eq!(refused(|t| t.columns[1].name = "f".into()), "table `memcached` has no column `flags`");
        assert_eq!(
            refused(|t| t.columns[2].column_type = ColumnType::Binary { max_bytes: 9 }),
            "table `memcached` needs `value` to be binary, of 1 MiB or more"
        );
        assert_eq!(
            refused(|t| t.columns.push(Column::new("more", ColumnType::Bool))),
            "table `memcached` needs a default for column `more`"
        );
    }
}
