//! Unique indexes: each has a table of its own, from the values of its columns to the primary key of the row that has them. An entry
//! is a row of that table, so it is placed, locked, replicated, logged and copied as every other row; what the table looks like
//! follows from the index, and it stands in no catalog.
//!
//! The key of an entry is the values as an ordered index has them (`crate::index`). A row with NULL in one of the columns has none.
//! Data nodes keep the entries, whoever writes rows: the primary of a row says which entries its operation changes
//! ([`EntryChange`]), and the transaction's coordinator has these changed before it answers.

use crate::{
    ids::TableId,
    index::encode_column,
    key::split_value,
    limits::KEY_BYTES_MAX,
    result::{Refusal, ResultCode},
    row::RowRef,
    schema::{Column, ColumnType, Index, Schema, Table},
    value::ValueRef,
    wire::{Malformed, Reader, Writer},
};

/// The column of an entry that has the primary key of the row.
pub const ROW_COLUMN: u16 = 1;

/// The table of a unique index's entries; `None` for other indexes.
pub fn entries_table(index: &Index) -> Option<Table> {
    let binary = ColumnType::Binary { max_bytes: KEY_BYTES_MAX as u32 };
    index.entries.map(|id| Table {
        id,
        name: format!("entries of unique index number {}", index.id),
        version: 1,
        columns: vec![Column::new("values", binary), Column::new("row", binary)],
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
    })
}

/// Appends the key of the entry that has these values, given in the index's order; `false` if one is NULL, so that there is none.
///
/// # Errors
/// The column that does not take its value; [`ResultCode::RowTooBig`] past [`KEY_BYTES_MAX`]. What is in `out` then means nothing.
pub fn encode_entry_key<'v>(
    schema: &Schema,
    index: &Index,
    values: impl IntoIterator<Item = ValueRef<'v>>,
    out: &mut Vec<u8>,
) -> Result<bool, Refusal> {
    let start = out.len();
    for (&column, value) in index.columns.iter().zip(values) {
        if value.is_null() {
            return Ok(false);
        }
        let definition = &schema.columns[usize::from(column)];
        let fault = Refusal::of_column(column);
        let value = definition.column_type.fit(value).map_err(&fault)?;
        encode_column(definition, &value, out);
        if out.len() - start > KEY_BYTES_MAX {
            return Err(fault(ResultCode::RowTooBig));
        }
    }
    Ok(true)
}

/// The values of an entry for people, in brackets.
pub fn entry_text(schema: &Schema, index: &Index, entry: &[u8]) -> String {
    let mut rest = entry;
    let mut texts = Vec::new();
    for &column in &index.columns {
        let column = &schema.columns[usize::from(column)];
        let value = rest.get(usize::from(column.nullable)..).ok_or(Malformed("entry"));
        match value.and_then(|value| split_value(column.column_type, value)) {
            Ok((value, behind)) => {
                texts.push(value.excerpt());
                rest = behind;
            }
            Err(malformed) => {
                texts.push(malformed.to_string());
                break;
            }
        }
    }
    format!("({})", texts.join(", "))
}

/// An entry that comes or goes with a row.
///
/// ```text
/// u16 index of the operation in its statement, u32 table of the entries, u8 1 if it comes, 0 if it goes,
/// u32 bytes, key of the entry, u32 bytes, primary key of the row
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryChange<'a> {
    /// The operation that changes the row.
    pub operation: u16,
    /// The table of the index's entries.
    pub table: TableId,
    /// Whether it comes.
    pub comes: bool,
    /// Its key.
    pub entry: &'a [u8],
    /// The primary key of the row.
    pub row: &'a [u8],
}

impl<'a> EntryChange<'a> {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.operation);
        out.put_u32(self.table.0);
        out.put_u8(self.comes.into());
        out.put_block(self.entry);
        out.put_block(self.row);
    }

    /// Reads one.
    pub fn parse(reader: &mut Reader<'a>) -> Result<EntryChange<'a>, Malformed> {
        Ok(EntryChange {
            operation: reader.u16()?,
            table: TableId(reader.u32()?),
            comes: reader.u8()? != 0,
            entry: reader.block()?,
            row: reader.block()?,
        })
    }
}

/// Appends the [`EntryChange`]s of an operation that makes `after` of `before`.
///
/// # Errors
/// The first column of an index whose values are too long together.
pub fn entry_changes(
    schema: &Schema,
    operation: u16,
    before: Option<&RowRef<'_>>,
    after: Option<&RowRef<'_>>,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let Some(row) = before.or(after).map(RowRef::key) else { return Ok(()) };
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for index in &schema.indexes {
        let Some(table) = index.entries else { continue };
        let key = |row: Option<&RowRef<'_>>, key: &mut Vec<u8>| -> Result<bool, Refusal> {
            key.clear();
            let Some(row) = row else { return Ok(false) };
            let values = index.columns.iter().map(|&column| row.get(column));
            encode_entry_key(schema, index, values.collect::<Result<Vec<_>, _>>()?, key)
        };
        let (was, is) = (key(before, &mut old)?, key(after, &mut new)?);
        if was && is && old == new {
            continue;
        }
        for (changes, comes, entry) in [(was, false, &old), (is, true, &new)] {
            if changes {
                EntryChange { operation, table, comes, entry, row }.encode(out);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::IndexId, row::encode_row};

    fn schema() -> Schema {
        let unique = |number: u32, columns: Vec<u16>| Index {
            id: IndexId(number),
            entries: Some(TableId(number + 1)),
            ..Index::unique(format!("i{number}"), columns)
        };
        let text = ColumnType::Text { max_chars: 9 };
        let table = Table {
            id: TableId(1),
            name: "t".into(),
            version: 1,
            columns: vec![
                Column::new("k", ColumnType::U32),
                Column::new("a", text).nullable(),
                Column::new("b", ColumnType::F64),
            ],
            primary_key: vec![0],
            distribution_key: vec![0],
            indexes: vec![Index::new("o", vec![1]), unique(2, vec![1]), unique(4, vec![2, 1])],
        };
        Schema::new(table).unwrap()
    }

    /// What the change of a row does to the entries, as text.
    fn changes(before: Option<[ValueRef<'_>; 3]>, after: Option<[ValueRef<'_>; 3]>) -> Vec<String> {
        let schema = schema();
        let row =
            |values: Option<[ValueRef<'_>; 3]>| values.map(|values| encode_row(&schema, &values).unwrap());
        let (before, after) = (row(before), row(after));
        let as_row = |row: &Option<(Vec<u8>, Vec<u8>)>| {
            row.clone()
                .map(|(key, body)| (key.leak(), body.leak()))
                .map(|(key, body)| RowRef::new(&schema, 1, key, body).unwrap())
        };
        let mut out = Vec::new();
        entry_changes(&schema, 7, as_row(&before).as_ref(), as_row(&after).as_ref(), &mut out).unwrap();
        let mut reader = Reader::new(&out, "changes");
        let mut texts = Vec::new();
        while !reader.is_empty() {
            let change = EntryChange::parse(&mut reader).unwrap();
            assert_eq!((change.operation, change.row), (7, &[0, 0, 0, 5][..]));
            let index = schema.indexes.iter().find(|index| index.entries == Some(change.table)).unwrap();
            let sign = if change.comes { '+' } else { '-' };
            texts.push(format!("{sign}{}{}", index.name, entry_text(&schema, index, change.entry)));
        }
        texts
    }

    #[test]
    fn entries_follow_the_row() {
        let row = |a: Option<&'static str>, b: f64| {
            Some([ValueRef::UInt(5), a.map_or(ValueRef::Null, ValueRef::from), ValueRef::Float(b)])
        };
        assert_eq!(changes(None, row(Some("x"), 1.5)), ["+i2(\"x\")", "+i4(1.5, \"x\")"]);
        assert_eq!(changes(row(Some("x\0"), -2.0), None), ["-i2(\"x\\0\")", "-i4(-2, \"x\\0\")"]);
        assert_eq!(changes(row(Some("x"), 0.0), row(Some("x"), 2.0)), ["-i4(0, \"x\")", "+i4(2, \"x\")"]);
        assert_eq!(changes(row(Some("x"), 0.0), row(Some("x"), -0.0)), [""; 0]);
        assert_eq!(changes(row(Some("x"), 0.0), row(None, 0.0)), ["-i2(\"x\")", "-i4(0, \"x\")"]);
        assert_eq!(changes(None, row(None, 0.0)), [""; 0]);
    }
}
