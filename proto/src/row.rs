//! Rows: the same bytes in memory and on the wire.
//!
//! ```text
//! key    the primary key's columns (crate::key); its length travels beside it
//! body   null bitmap of the other columns, in column order, lowest bit first; unused bits 0
//!        the fixed-width ones, in column order, little-endian, 0 if NULL
//!        the variable-width ones, in column order: LEB128 length and the bytes, length 0 if NULL
//! ```
//!
//! A row has exactly one encoding, so equal rows have equal bytes. One that was written under an older version of
//! the schema lacks the columns added since: they read as their defaults.

use std::{borrow::Cow, ops::Range};

use crate::{
    key::{check_key, encode_key, key_column},
    limits::ROW_BYTES_MAX,
    result::{Refusal, ResultCode},
    schema::{ColumnType, Family, Layout, Place, Schema},
    value::{Value, ValueRef},
    wire::{Malformed, Reader, Writer},
};

/// A row, read in place. Bytes that make no sense give [`Malformed`] where they are read.
#[derive(Clone, Copy, Debug)]
pub struct RowRef<'a> {
    schema: &'a Schema,
    layout: &'a Layout,
    key: &'a [u8],
    body: &'a [u8],
}

impl<'a> RowRef<'a> {
    /// The row of this key and body, laid out by this version of the schema.
    ///
    /// # Errors
    /// If the schema has no such version (yet), or the body is too short for it.
    #[inline]
    pub fn new(
        schema: &'a Schema,
        version: u32,
        key: &'a [u8],
        body: &'a [u8],
    ) -> Result<RowRef<'a>, Malformed> {
        let layout = schema.layout(version).ok_or(Malformed("row: unknown version of the schema"))?;
        if body.len() < layout.variable_start {
            return Err(Malformed("row: too short"));
        }
        Ok(RowRef { schema, layout, key, body })
    }

    /// The schema.
    pub fn schema(&self) -> &'a Schema {
        self.schema
    }

    /// The encoded key.
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The encoded body.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The value of a column.
    ///
    /// # Errors
    /// If the bytes, or the index, make no sense.
    #[inline]
    pub fn get(&self, column: u16) -> Result<ValueRef<'a>, Malformed> {
        let Some(&place) = self.layout.places.get(usize::from(column)) else {
            let added = self.schema.columns.get(usize::from(column));
            return added.map(|column| column.default_value()).ok_or(Malformed("column index"));
        };
        match place {
            Place::Key(position) => key_column(self.schema, self.key, position),
            Place::Fixed { bit, .. } | Place::Variable { bit, .. } if is_null(self.body, bit) => {
                Ok(ValueRef::Null)
            }
            Place::Fixed { offset, width, .. } => {
                self.column_type(column).read_fixed(&self.body[offset..offset + width])
            }
            Place::Variable { rank, .. } => {
                let bytes = &self.body[variable_range(self.layout, self.body, rank)?.content];
                if self.column_type(column).family() == Family::Binary {
                    return Ok(ValueRef::Binary(Cow::Borrowed(bytes)));
                }
                let text = std::str::from_utf8(bytes).map_err(|_| Malformed("row: text is not UTF-8"))?;
                Ok(ValueRef::Text(Cow::Borrowed(text)))
            }
        }
    }

    /// The values of all columns.
    ///
    /// # Errors
    /// As [`RowRef::get`].
    pub fn values(&self) -> Result<Vec<Value>, Malformed> {
        (0..self.schema.columns.len() as u16)
            .map(|column| self.get(column).map(ValueRef::into_owned))
            .collect()
    }

    fn column_type(&self, column: u16) -> ColumnType {
        self.schema.columns[usize::from(column)].column_type
    }
}

fn is_null(body: &[u8], bit: usize) -> bool {
    body[bit / 8] & (1 << (bit % 8)) != 0
}

fn set_null(body: &mut [u8], bit: usize, null: bool) {
    let mask = 1 << (bit % 8);
    if null {
        body[bit / 8] |= mask;
    } else {
        body[bit / 8] &= !mask;
    }
}

/// Where a variable-width value is.
struct VariableRange {
    /// Where its length begins.
    start: usize,
    content: Range<usize>,
}

fn variable_range(layout: &Layout, body: &[u8], rank: usize) -> Result<VariableRange, Malformed> {
    let mut reader = Reader::new(&body[layout.variable_start..], "row");
    for _ in 0..rank {
        let length = reader.varint()?;
        reader.bytes(length as usize)?;
    }
    let start = body.len() - reader.rest().len();
    let length = reader.varint()? as usize;
    let content = body.len() - reader.rest().len();
    reader.bytes(length)?;
    Ok(VariableRange { start, content: content..content + length })
}

/// Bytes of a number as LEB128.
fn varint_length(value: usize) -> usize {
    (value | 1).ilog2() as usize / 7 + 1
}

/// Whether key and body are a row of the table under its newest version, exactly as [`encode_row`] would write it.
///
/// # Errors
/// The column at fault, [`ResultCode::RowTooBig`], or [`ResultCode::Malformed`].
pub fn check_row(schema: &Schema, key: &[u8], body: &[u8]) -> Result<(), Refusal> {
    check_key(schema, key)?;
    check_body(schema, key.len(), body)
}

/// What [`check_row`] checks of the body, for a key that is known to be good.
///
/// # Errors
/// As [`check_row`].
pub fn check_body(schema: &Schema, key_length: usize, body: &[u8]) -> Result<(), Refusal> {
    if key_length + body.len() > ROW_BYTES_MAX {
        return Err(ResultCode::RowTooBig.into());
    }
    let layout = schema.newest_layout();
    let fixed = body.get(..layout.variable_start).ok_or(Malformed("row: too short"))?;
    let (nulls, _) = fixed.split_at(layout.bitmap);
    let mut variable = Reader::new(&body[layout.variable_start..], "row");
    if nulls.iter().all(|&byte| byte == 0) {
        // Nothing can be wrong with an integer that is no NULL.
        for &column in &layout.restricted {
            check_column(schema, layout, column, fixed, &mut variable)?;
        }
    } else {
        if (layout.bits..layout.bitmap * 8).any(|bit| is_null(fixed, bit)) {
            return Err(Malformed("row: unused bits of the null bitmap are set").into());
        }
        for column in 0..layout.places.len() as u16 {
            check_column(schema, layout, column, fixed, &mut variable)?;
        }
    }
    variable.finish().map_err(Refusal::from)
}

/// Checks one column of a row: its fixed-width part is `fixed`, its variable-width values from this column's on are
/// what `variable` has left.
fn check_column(
    schema: &Schema,
    layout: &Layout,
    index: u16,
    fixed: &[u8],
    variable: &mut Reader<'_>,
) -> Result<(), Refusal> {
    let column = &schema.columns[usize::from(index)];
    let refuse = Refusal::of_column(index);
    let null = match layout.places[usize::from(index)] {
        Place::Key(_) => return Ok(()),
        Place::Fixed { bit, offset, width } => {
            let bytes = &fixed[offset..offset + width];
            let null = is_null(fixed, bit);
            if null && bytes.iter().any(|&byte| byte != 0) {
                return Err(refuse(ResultCode::Malformed));
            }
            column.column_type.read_fixed(bytes).map_err(|_| refuse(ResultCode::Malformed))?;
            null
        }
        Place::Variable { bit, .. } => {
            let before = variable.rest().len();
            let length = variable.varint()? as usize;
            let canonical = before - variable.rest().len() == varint_length(length);
            let bytes = variable.bytes(length)?;
            let null = is_null(fixed, bit);
            let text = column.column_type.family() == Family::Text;
            if !canonical || null && length != 0 || text && std::str::from_utf8(bytes).is_err() {
                return Err(refuse(ResultCode::Malformed));
            }
            column.column_type.fit_length(bytes).map_err(&refuse)?;
            null
        }
    };
    if null && !column.nullable {
        return Err(refuse(ResultCode::NullValue));
    }
    Ok(())
}

/// The key and the body of the row whose columns have these values, one for each column.
///
/// # Errors
/// The column that does not take its value; [`ResultCode::WrongType`] for another number of values,
/// [`ResultCode::RowTooBig`].
pub fn encode_row(schema: &Schema, values: &[ValueRef<'_>]) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
    let (mut key, mut body) = (Vec::new(), Vec::new());
    encode_body(schema, values, &mut body)?;
    let columns = schema.primary_key.iter();
    let key_values: Vec<ValueRef<'_>> = columns.map(|&index| values[usize::from(index)].borrowed()).collect();
    encode_key(schema, &key_values, &mut key)?;
    if key.len() + body.len() > ROW_BYTES_MAX {
        return Err(ResultCode::RowTooBig.into());
    }
    Ok((key, body))
}

/// Appends the body of the row whose columns have these values, one for each column; those of the key are skipped.
///
/// # Errors
/// As [`encode_row`], but for the row's size. `out` is then as it was.
pub fn encode_body(schema: &Schema, values: &[ValueRef<'_>], out: &mut Vec<u8>) -> Result<(), Refusal> {
    if values.len() != schema.columns.len() {
        return Err(ResultCode::WrongType.into());
    }
    encode_body_with(schema, |column| Ok(values[usize::from(column)].borrowed()), out)
}

/// Appends the body of the row whose columns have the values that `value_of` gives: for those outside the key, in
/// their order.
///
/// # Errors
/// As [`encode_body`], and those of `value_of`.
pub fn encode_body_with<'v>(
    schema: &Schema,
    mut value_of: impl FnMut(u16) -> Result<ValueRef<'v>, Refusal>,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let layout = schema.newest_layout();
    let start = out.len();
    out.resize(start + layout.variable_start, 0);
    for (index, (column, place)) in schema.columns.iter().zip(&layout.places).enumerate() {
        if let Place::Key(_) = place {
            continue;
        }
        let index = index as u16;
        let fitted = value_of(index).and_then(|value| column.fit(value).map_err(Refusal::of_column(index)));
        let value = match fitted {
            Ok(value) => value,
            Err(refusal) => {
                out.truncate(start);
                return Err(refusal);
            }
        };
        if let Place::Fixed { bit, .. } | Place::Variable { bit, .. } = *place {
            set_null(&mut out[start..], bit, value.is_null());
        }
        match *place {
            Place::Fixed { offset, width, .. } if !value.is_null() => {
                column.column_type.write_fixed(&value, &mut out[start + offset..start + offset + width]);
            }
            Place::Variable { .. } => {
                let bytes = value.as_bytes().unwrap_or_default();
                out.put_varint(u32::try_from(bytes.len()).expect("lengths of values fit 32 bits"));
                out.put(bytes);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Changes the columns of a row, one after the other, in a buffer of the caller.
#[derive(Debug)]
pub struct RowEditor<'a> {
    schema: &'a Schema,
    key: &'a [u8],
    body: &'a mut Vec<u8>,
}

impl<'a> RowEditor<'a> {
    /// Puts the body of `row`, brought to the newest version of the schema, into `body`.
    ///
    /// # Errors
    /// If the row is malformed.
    pub fn new(row: &RowRef<'a>, body: &'a mut Vec<u8>) -> Result<RowEditor<'a>, Refusal> {
        body.clear();
        if row.layout.places.len() == row.schema.columns.len() {
            body.extend_from_slice(row.body);
        } else {
            encode_body_with(row.schema, |column| row.get(column).map_err(Refusal::from), body)?;
        }
        Ok(RowEditor { schema: row.schema, key: row.key, body })
    }

    /// The row as it is now.
    pub fn row(&self) -> RowRef<'_> {
        RowRef { schema: self.schema, layout: self.schema.newest_layout(), key: self.key, body: self.body }
    }

    /// Sets a column.
    ///
    /// # Errors
    /// What the column has against the value; a column of the key, or none, is [`ResultCode::Malformed`].
    pub fn set(&mut self, index: u16, value: ValueRef<'_>) -> Result<(), Refusal> {
        let schema = self.schema;
        let refuse = Refusal::of_column(index);
        let layout = schema.newest_layout();
        let place = *layout.places.get(usize::from(index)).ok_or_else(|| refuse(ResultCode::Malformed))?;
        let column = &schema.columns[usize::from(index)];
        let value = column.fit(value).map_err(&refuse)?;
        match place {
            Place::Key(_) => return Err(refuse(ResultCode::Malformed)),
            Place::Fixed { bit, offset, width } => {
                set_null(self.body, bit, value.is_null());
                let bytes = &mut self.body[offset..offset + width];
                if value.is_null() {
                    bytes.fill(0);
                } else {
                    column.column_type.write_fixed(&value, bytes);
                }
            }
            Place::Variable { bit, rank } => {
                let bytes = value.as_bytes().unwrap_or_default();
                let range = variable_range(layout, self.body, rank)?;
                let mut length = Vec::with_capacity(5);
                length.put_varint(u32::try_from(bytes.len()).expect("lengths of values fit 32 bits"));
                // Editing in several steps must not grow a row without bound before its size is checked.
                let size = self.body.len() - (range.content.end - range.start) + length.len() + bytes.len();
                if self.key.len() + size > ROW_BYTES_MAX {
                    return Err(refuse(ResultCode::RowTooBig));
                }
                self.body.splice(range.start..range.content.end, length.iter().chain(bytes).copied());
                set_null(self.body, bit, value.is_null());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "row_tests.rs"]
pub(crate) mod tests;
