//! Entries of ordered indexes: bytes that compare as the index's columns do, one after the other, and then the primary key's.
//!
//! ```text
//! entry  each column of the index: where it is nullable 00 for NULL, else 01; then the value as keys have it
//!        (crate::key), text and binary always escaped
//!        the primary key
//! ```
//!
//! NULL comes first, and both zeros of floats are one. So what a range of columns selects is a range of bytes, and whoever looks
//! through an index needs to know of bytes alone.

use std::ops::Bound;

use crate::{
    key::encode_value,
    limits::ENTRY_BYTES_MAX,
    result::{Refusal, ResultCode},
    row::RowRef,
    schema::{Column, Index, Schema},
    value::ValueRef,
    wire::{Malformed, Reader, Writer},
};

const NULL: u8 = 0;
const NOT_NULL: u8 = 1;

/// Appends the entry of a row.
///
/// # Errors
/// If the row's bytes make no sense.
pub fn encode_entry(
    schema: &Schema,
    index: &Index,
    row: &RowRef<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    for &column in &index.columns {
        encode_column(&schema.columns[usize::from(column)], &row.get(column)?, out);
    }
    out.extend_from_slice(row.key());
    Ok(())
}

/// Appends a value that the column has given, or has taken.
pub(crate) fn encode_column(column: &Column, value: &ValueRef<'_>, out: &mut Vec<u8>) {
    if column.nullable {
        out.push(if value.is_null() { NULL } else { NOT_NULL });
    }
    match *value {
        ValueRef::Null => {}
        // Adding zero makes a negative zero positive.
        ValueRef::Float(float) => {
            encode_value(column.column_type, &ValueRef::Float(float + 0.0), false, out);
        }
        ref value => encode_value(column.column_type, value, false, out),
    }
}

/// The entries of an index that are not less than `from` and less than `to`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct EntryRange {
    /// Where it begins.
    pub from: Vec<u8>,
    /// Where it ends; `None`: with the last entry.
    pub to: Option<Vec<u8>>,
}

impl EntryRange {
    /// The rows whose first columns, in the index's order and then the primary key's, have these values, and whose next column is
    /// within the bounds. `equal` may have NULL; where there is a bound, NULL is not within it.
    ///
    /// # Errors
    /// The column that does not take its value; [`ResultCode::WrongType`] for more values than there are columns.
    pub fn new(
        schema: &Schema,
        index: &Index,
        equal: &[ValueRef<'_>],
        lower: Bound<&ValueRef<'_>>,
        upper: Bound<&ValueRef<'_>>,
    ) -> Result<EntryRange, Refusal> {
        let mut prefix = Vec::new();
        let mut columns = Columns { schema, index, position: 0 };
        for value in equal {
            columns.encode(value, &mut prefix)?;
        }
        if matches!((lower, upper), (Bound::Unbounded, Bound::Unbounded)) {
            let to = columns.behind(&prefix);
            return Ok(EntryRange { from: prefix, to });
        }
        let (column, _) = columns.next().ok_or(ResultCode::WrongType)?;
        let mut values = prefix.clone();
        if columns.has_mark() {
            values.push(NOT_NULL);
        }
        let bound = |value: &ValueRef<'_>| {
            let (mut columns, mut bytes) = (columns, prefix.clone());
            match value.is_null() {
                true => Err(Refusal { code: ResultCode::NullValue, column: Some(column) }),
                false => columns.encode(value, &mut bytes).map(|()| (columns, bytes)),
            }
        };
        let from = match lower {
            Bound::Unbounded => values.clone(),
            Bound::Included(value) => bound(value)?.1,
            Bound::Excluded(value) => {
                let (columns, bytes) = bound(value)?;
                match columns.behind(&bytes) {
                    Some(behind) => behind,
                    None => return Ok(EntryRange::nothing()),
                }
            }
        };
        let to = match upper {
            Bound::Unbounded => successor(&values),
            Bound::Included(value) => {
                let (columns, bytes) = bound(value)?;
                columns.behind(&bytes)
            }
            Bound::Excluded(value) => Some(bound(value)?.1),
        };
        Ok(EntryRange { from, to })
    }

    /// What is left of it from this entry on; of a range that is gone through from its end, up to this entry.
    pub fn rest(&self, entry: Vec<u8>, descending: bool) -> EntryRange {
        if !descending {
            return EntryRange { from: entry, to: self.to.clone() };
        }
        let mut to = entry;
        to.push(0);
        EntryRange { from: self.from.clone(), to: Some(to) }
    }

    /// What is left of it behind this entry; of a range that is gone through from its end, before it.
    pub fn after(&self, entry: &[u8], descending: bool) -> EntryRange {
        if descending {
            return EntryRange { from: self.from.clone(), to: Some(entry.to_vec()) };
        }
        self.rest([entry, &[0]].concat(), false)
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_block(&self.from);
        out.put_u8(u8::from(self.to.is_some()));
        out.put_block(self.to.as_deref().unwrap_or_default());
    }

    /// Reads it.
    pub fn parse(reader: &mut Reader<'_>) -> Result<EntryRange, Malformed> {
        let from = reader.block()?.to_vec();
        let ends = reader.u8()? != 0;
        let to = reader.block()?.to_vec();
        let range = EntryRange { from, to: ends.then_some(to) };
        if range.fits() { Ok(range) } else { Err(Malformed("range of an index: too long")) }
    }

    /// No entries.
    pub fn nothing() -> EntryRange {
        EntryRange { from: Vec::new(), to: Some(Vec::new()) }
    }

    /// Whether there can be no entry in it.
    pub fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }

    /// Whether its bounds are no longer than those of any entry.
    pub fn fits(&self) -> bool {
        // A bound may be one byte longer than an entry: what is behind it.
        let fits = |bytes: &[u8]| bytes.len() <= ENTRY_BYTES_MAX + 1;
        fits(&self.from) && self.to.as_ref().is_none_or(|to| fits(to))
    }
}

/// The columns of an index and then of the primary key, from a position on.
#[derive(Clone, Copy)]
struct Columns<'a> {
    schema: &'a Schema,
    index: &'a Index,
    position: usize,
}

impl Columns<'_> {
    /// The next column, and whether its value ends the entry without an end mark.
    fn next(&self) -> Option<(u16, bool)> {
        let of_index = self.index.columns.get(self.position).map(|&column| (column, false));
        of_index.or_else(|| {
            let key = &self.schema.primary_key;
            let position = self.position - self.index.columns.len();
            key.get(position).map(|&column| (column, position + 1 == key.len()))
        })
    }

    /// Whether the next column's value begins with a mark that it is none.
    fn has_mark(&self) -> bool {
        let of_index = self.index.columns.get(self.position);
        of_index.is_some_and(|&column| self.schema.columns[usize::from(column)].nullable)
    }

    /// Appends a value of the next column.
    fn encode(&mut self, value: &ValueRef<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (index, raw) = self.next().ok_or(ResultCode::WrongType)?;
        let column = &self.schema.columns[usize::from(index)];
        let value = column.fit(value.borrowed()).map_err(Refusal::of_column(index))?;
        if raw {
            encode_value(column.column_type, &value, true, out);
        } else {
            encode_column(column, &value, out);
        }
        self.position += 1;
        Ok(())
    }

    /// What is behind all entries that begin with these bytes, which end before the next column; `None`: nothing is.
    fn behind(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.next().is_some() {
            return successor(bytes);
        }
        // The whole entry: it may be the beginning of another one, as its last value has no end mark.
        let mut behind = bytes.to_vec();
        behind.push(0);
        Some(behind)
    }
}

/// The least bytes that are greater than all that begin with these; `None`: there are none.
fn successor(bytes: &[u8]) -> Option<Vec<u8>> {
    let last = bytes.iter().rposition(|&byte| byte != 0xff)?;
    let mut successor = bytes[..=last].to_vec();
    successor[last] += 1;
    Some(successor)
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        ids::TableId,
        row::encode_row,
        schema::{ColumnType, Table, tests::fitting_value},
        value::Value,
    };

    const TYPES: [ColumnType; 12] = [
        ColumnType::Bool,
        ColumnType::I8,
        ColumnType::I64,
        ColumnType::U16,
        ColumnType::U64,
        ColumnType::F32,
        ColumnType::F64,
        ColumnType::Date,
        ColumnType::DateTime,
        ColumnType::Timestamp,
        ColumnType::Text { max_chars: 12 },
        ColumnType::Binary { max_bytes: 12 },
    ];

    /// Columns of these types, of which some may be NULL, and behind them a key of two columns, the last of which is text.
    fn table(types: &[(ColumnType, bool)]) -> Schema {
        let mut columns: Vec<Column> = types
            .iter()
            .enumerate()
            .map(|(i, &(column_type, nullable))| Column {
                nullable,
                ..Column::new(format!("c{i}"), column_type)
            })
            .collect();
        columns.push(Column::new("k", ColumnType::U8));
        columns.push(Column::new("l", ColumnType::Text { max_chars: 12 }));
        let places = 0..types.len() as u16;
        let primary_key = vec![places.end, places.end + 1];
        Schema::new(Table {
            id: TableId(1),
            name: "t".into(),
            version: 1,
            columns,
            distribution_key: primary_key.clone(),
            primary_key,
            indexes: vec![Index::new("i", places.collect())],
        })
        .unwrap()
    }

    fn value(column: &Column) -> BoxedStrategy<Value> {
        let value = fitting_value(column.column_type);
        // Few, so that they are often equal.
        let float = prop_oneof![Just(0.0), Just(-0.0), Just(-1.5), Just(1.5)].prop_map(Value::Float);
        let value = match column.column_type {
            ColumnType::F32 | ColumnType::F64 => prop_oneof![value, float].boxed(),
            _ => value,
        };
        if column.nullable { prop_oneof![1 => Just(Value::Null), 4 => value].boxed() } else { value }
    }

    fn schema_and_rows() -> impl Strategy<Value = (Schema, Vec<Value>, Vec<Value>)> {
        let column = (proptest::sample::select(TYPES.to_vec()), any::<bool>());
        proptest::collection::vec(column, 0..3).prop_flat_map(|types| {
            let schema = table(&types);
            let row = || schema.columns.iter().map(value).collect::<Vec<_>>();
            let (a, b, columns) = (row(), row(), schema.columns.len());
            (Just(schema), a, b, 0..=columns).prop_map(|(schema, a, mut b, same)| {
                b[..same].clone_from_slice(&a[..same]);
                (schema, a, b)
            })
        })
    }

    fn entry(schema: &Schema, values: &[Value]) -> Vec<u8> {
        let borrowed: Vec<ValueRef<'_>> = values.iter().map(ValueRef::borrowed).collect();
        let (key, body) = encode_row(schema, &borrowed).unwrap();
        let mut out = Vec::new();
        let row = RowRef::new(schema, 1, &key, &body).unwrap();
        encode_entry(schema, &schema.indexes[0], &row, &mut out).unwrap();
        out
    }

    /// NULL is least here.
    fn compare(a: &Value, b: &Value) -> Ordering {
        match (a.is_null(), b.is_null()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => a.compare(b).unwrap().unwrap(),
        }
    }

    fn within(value: &Value, lower: Bound<&Value>, upper: Bound<&Value>) -> bool {
        if matches!((lower, upper), (Bound::Unbounded, Bound::Unbounded)) {
            return true;
        }
        let above = match lower {
            Bound::Unbounded => true,
            Bound::Included(bound) => compare(value, bound).is_ge(),
            Bound::Excluded(bound) => compare(value, bound).is_gt(),
        };
        let below = match upper {
            Bound::Unbounded => true,
            Bound::Included(bound) => compare(value, bound).is_le(),
            Bound::Excluded(bound) => compare(value, bound).is_lt(),
        };
        above && below && !value.is_null()
    }

    proptest! {
        #[test]
        fn entries_compare_as_their_columns((schema, a, b) in schema_and_rows()) {
            let columns = a.iter().zip(&b).map(|(a, b)| compare(a, b));
            let expected = columns.fold(Ordering::Equal, Ordering::then);
            prop_assert_eq!(entry(&schema, &a).cmp(&entry(&schema, &b)), expected);
            prop_assert!(entry(&schema, &a).len() <= ENTRY_BYTES_MAX);
        }

        #[test]
        fn a_range_has_the_rows_whose_columns_are_within(
            (schema, row, bounds) in schema_and_rows(), equal in 0usize..6, kinds in (0..3, 0..3), swap: bool,
        ) {
            let equal = equal.min(row.len() - 1);
            let (a, b) = (&bounds[equal], &row[equal]);
            let bound = |kind: i32, value| match kind {
                0 => Bound::Unbounded,
                1 => Bound::Included(value),
                _ => Bound::Excluded(value),
            };
            let (low, high) = if swap { (b, a) } else { (a, b) };
            let (lower, upper) = (bound(kinds.0, low), bound(kinds.1, high));
            let range = EntryRange::new(&schema, &schema.indexes[0], &bounds[..equal], lower, upper);
            let null = |bound: Bound<&Value>| {
                matches!(bound, Bound::Included(value) | Bound::Excluded(value) if value.is_null())
            };
            prop_assert_eq!(range.is_err(), null(lower) || null(upper));
            let Ok(range) = range else { return Ok(()) };
            let mut bytes = Vec::new();
            range.encode(&mut bytes);
            prop_assert_eq!(EntryRange::parse(&mut Reader::new(&bytes, "range")), Ok(range.clone()));
            for row in [&row, &bounds] {
                let entry = entry(&schema, row);
                let has = range.from <= entry && range.to.as_ref().is_none_or(|to| entry < *to);
                let same = row.iter().zip(&bounds).take(equal).all(|(a, b)| compare(a, b).is_eq());
                prop_assert_eq!(has, same && within(&row[equal], lower, upper), "{:?} {:?}", range, entry);
                prop_assert!(!has || !range.is_empty());
            }
        }
    }

    #[test]
    fn a_whole_entry_is_a_range_of_one() {
        let schema = table(&[(ColumnType::U8, true)]);
        let row = [Value::Null, Value::UInt(255), Value::from("a".to_owned())];
        let range =
            EntryRange::new(&schema, &schema.indexes[0], &row, Bound::Unbounded, Bound::Unbounded).unwrap();
        assert_eq!(range.from, [0, 255, b'a']);
        assert_eq!(range.to.as_deref(), Some(&[0, 255, b'a', 0][..]));
        assert_eq!(entry(&schema, &row), range.from);
        let all =
            EntryRange::new(&schema, &schema.indexes[0], &[], Bound::Unbounded, Bound::Unbounded).unwrap();
        assert_eq!(all, EntryRange::default());
        let too_many = [Value::Null, Value::UInt(1), Value::from("a".to_owned()), Value::UInt(1)];
        let refused =
            EntryRange::new(&schema, &schema.indexes[0], &too_many, Bound::Unbounded, Bound::Unbounded);
        assert_eq!(refused.unwrap_err().code, ResultCode::WrongType);
        // Nothing is behind the last value of a column that all bytes may begin.
        let schema = table(&[(ColumnType::U8, false)]);
        let last = Value::UInt(255);
        let above =
            EntryRange::new(&schema, &schema.indexes[0], &[], Bound::Excluded(&last), Bound::Unbounded);
        assert!(above.unwrap().is_empty());
    }
}
