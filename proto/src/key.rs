//! Keys: the canonical encoding of key columns, whose bytes compare as the columns do, one after the other.
//!
//! Integers are big-endian, signed ones with the sign bit flipped. Text and binary are escaped (00 becomes 00 FF)
//! and end with 00 00, except in the last column of the encoded list, which is raw. Text compares by its bytes.
//! Float columns and NULL do not occur in primary keys; entries of indexes have both (crate::index).

use std::borrow::Cow;

use crate::{
    limits::KEY_BYTES_MAX,
    placement::KeyHash,
    result::{Refusal, ResultCode},
    schema::{ColumnType, Distribution, Family, Schema},
    value::{Value, ValueRef},
    wire::Malformed,
};

const BAD_KEY: Malformed = Malformed("key");

/// Appends the key whose columns have these values, given in the primary key's order.
///
/// # Errors
/// The column that does not take its value; [`ResultCode::WrongType`] for another number of values,
/// [`ResultCode::RowTooBig`] past [`KEY_BYTES_MAX`]. `out` is then as it was.
pub fn encode_key(schema: &Schema, values: &[ValueRef<'_>], out: &mut Vec<u8>) -> Result<(), Refusal> {
    if values.len() != schema.primary_key.len() {
        return Err(ResultCode::WrongType.into());
    }
    encode_columns(schema, &schema.primary_key, values, true, out)
}

/// Appends what all keys begin with whose first columns have these values: for scans of a key prefix.
///
/// # Errors
/// As [`encode_key`].
pub fn encode_key_prefix(schema: &Schema, values: &[ValueRef<'_>], out: &mut Vec<u8>) -> Result<(), Refusal> {
    let Some(columns) = schema.primary_key.get(..values.len()) else {
        return Err(ResultCode::WrongType.into());
    };
    encode_columns(schema, columns, values, values.len() == schema.primary_key.len(), out)
}

/// The hash of the distribution key whose columns have these values, given in its order.
///
/// # Errors
/// As [`encode_key`].
pub fn hash_distribution_key(schema: &Schema, values: &[ValueRef<'_>]) -> Result<KeyHash, Refusal> {
    if values.len() != schema.distribution_key.len() {
        return Err(ResultCode::WrongType.into());
    }
    let mut bytes = Vec::new();
    encode_columns(schema, &schema.distribution_key, values, true, &mut bytes)?;
    Ok(KeyHash::of(&bytes))
}

/// The hash of the key's distribution key: it places the row.
pub fn distribution_hash(schema: &Schema, key: &[u8]) -> Result<KeyHash, Malformed> {
    match schema.distribution {
        Distribution::WholeKey => Ok(KeyHash::of(key)),
        Distribution::Prefix(bytes) => Ok(KeyHash::of(key.get(..bytes).ok_or(BAD_KEY)?)),
        Distribution::Columns => {
            let mut values = Vec::with_capacity(schema.distribution_key.len());
            for (index, value) in schema.primary_key.iter().zip(KeyReader::new(schema, key)) {
                let value = value?;
                if schema.distribution_key.contains(index) {
                    values.push(value);
                }
            }
            hash_distribution_key(schema, &values).map_err(|_| BAD_KEY)
        }
    }
}

/// The values of the key's columns, in the primary key's order.
pub fn decode_key(schema: &Schema, key: &[u8]) -> Result<Vec<Value>, Malformed> {
    KeyReader::new(schema, key).map(|value| value.map(ValueRef::into_owned)).collect()
}

/// A key for people: its values in brackets, of long ones the beginning.
pub fn key_text(schema: &Schema, key: &[u8]) -> String {
    let part = |value: Result<ValueRef<'_>, Malformed>| match value {
        Ok(value) => value.excerpt(),
        Err(malformed) => malformed.to_string(),
    };
    let parts: Vec<String> = KeyReader::new(schema, key).map(part).collect();
    format!("({})", parts.join(", "))
}

/// The value of the column at this position of the primary key.
pub fn key_column<'a>(schema: &'a Schema, key: &'a [u8], position: usize) -> Result<ValueRef<'a>, Malformed> {
    let mut reader = KeyReader::new(schema, key);
    for _ in 0..position {
        reader.take_column()?;
    }
    reader.next().ok_or(BAD_KEY)?
}

/// Whether the bytes are a key of the table, exactly as [`encode_key`] would write it.
///
/// # Errors
/// The column at fault, or [`ResultCode::Malformed`].
pub fn check_key(schema: &Schema, key: &[u8]) -> Result<(), Refusal> {
    if key.len() > KEY_BYTES_MAX {
        return Err(ResultCode::RowTooBig.into());
    }
    for (&index, value) in schema.primary_key.iter().zip(KeyReader::new(schema, key)) {
        let value = value?;
        if let Some(bytes) = value.as_bytes() {
            let column_type = schema.columns[usize::from(index)].column_type;
            column_type.fit_length(bytes).map_err(Refusal::of_column(index))?;
        }
    }
    Ok(())
}

fn encode_columns(
    schema: &Schema,
    columns: &[u16],
    values: &[ValueRef<'_>],
    last_is_raw: bool,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let start = out.len();
    for (position, (&index, value)) in columns.iter().zip(values).enumerate() {
        let column = &schema.columns[usize::from(index)];
        let raw = last_is_raw && position + 1 == columns.len();
        match column.fit(value.borrowed()) {
            Ok(value) => encode_value(column.column_type, &value, raw, out),
            Err(code) => {
                out.truncate(start);
                return Err(Refusal { code, column: Some(index) });
            }
        }
        if out.len() - start > KEY_BYTES_MAX {
            out.truncate(start);
            return Err(Refusal { code: ResultCode::RowTooBig, column: Some(index) });
        }
    }
    Ok(())
}

/// Appends one value, no NULL, which [`ColumnType::fit`] gave: bytes that compare as the values do.
pub(crate) fn encode_value(column_type: ColumnType, value: &ValueRef<'_>, raw: bool, out: &mut Vec<u8>) {
    let Some(width) = column_type.width() else {
        let bytes =
            value.as_bytes().unwrap_or_else(|| panic!("{value:?} is no value of a {column_type:?} column"));
        if raw {
            out.extend_from_slice(bytes);
            return;
        }
        for &byte in bytes {
            out.push(byte);
            if byte == 0 {
                out.push(0xff);
            }
        }
        out.extend_from_slice(&[0, 0]);
        return;
    };
    let start = out.len();
    out.resize(start + width, 0);
    column_type.write_fixed(value, &mut out[start..]);
    out[start..].reverse();
    match column_type.family() {
        Family::Int => out[start] ^= 0x80,
        // The smaller of two negative floats has the larger bits.
        Family::F32 | Family::F64 if out[start] & 0x80 != 0 => {
            out[start..].iter_mut().for_each(|byte| *byte = !*byte);
        }
        Family::F32 | Family::F64 => out[start] ^= 0x80,
        _ => {}
    }
}

/// Reads the values of a key, in the primary key's order. Ends after the first error.
struct KeyReader<'a> {
    schema: &'a Schema,
    rest: &'a [u8],
    position: usize,
}

impl<'a> KeyReader<'a> {
    fn new(schema: &'a Schema, key: &'a [u8]) -> KeyReader<'a> {
        KeyReader { schema, rest: key, position: 0 }
    }

    /// The type and the encoded bytes of the next column.
    #[inline]
    fn take_column(&mut self) -> Result<(ColumnType, &'a [u8]), Malformed> {
        let index = *self.schema.primary_key.get(self.position).ok_or(BAD_KEY)?;
        let column_type = self.schema.columns[usize::from(index)].column_type;
        self.position += 1;
        let last = self.position == self.schema.primary_key.len();
        let length = match column_type.width() {
            Some(width) => width,
            None if last => self.rest.len(),
            None => escaped_length(self.rest)?,
        };
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(BAD_KEY)?;
        if last && !rest.is_empty() {
            return Err(Malformed("key: too long"));
        }
        self.rest = rest;
        Ok((column_type, bytes))
    }

    fn read(&mut self) -> Result<ValueRef<'a>, Malformed> {
        let (column_type, bytes) = self.take_column()?;
        let last = self.position == self.schema.primary_key.len();
        if column_type.width().is_some() {
            return decode_fixed(column_type, bytes);
        }
        let bytes = if last { Cow::Borrowed(bytes) } else { unescape(bytes) };
        decode_bytes(column_type, bytes)
    }
}

impl<'a> Iterator for KeyReader<'a> {
    type Item = Result<ValueRef<'a>, Malformed>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.position >= self.schema.primary_key.len() {
            return None;
        }
        let value = self.read();
        if value.is_err() {
            self.position = self.schema.primary_key.len();
        }
        Some(value)
    }
}

/// The value of a column that stands escaped at the beginning, and what is behind it.
pub(crate) fn split_value(column_type: ColumnType, bytes: &[u8]) -> Result<(ValueRef<'_>, &[u8]), Malformed> {
    let length = column_type.width().map_or_else(|| escaped_length(bytes), Ok)?;
    let (value, rest) = bytes.split_at_checked(length).ok_or(BAD_KEY)?;
    let value = match column_type.width() {
        Some(_) => decode_fixed(column_type, value)?,
        None => decode_bytes(column_type, unescape(value))?,
    };
    Ok((value, rest))
}

fn decode_bytes(column_type: ColumnType, bytes: Cow<'_, [u8]>) -> Result<ValueRef<'_>, Malformed> {
    if column_type.family() == Family::Binary {
        return Ok(ValueRef::Binary(bytes));
    }
    let not_text = Malformed("key: text is not UTF-8");
    Ok(ValueRef::Text(match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(std::str::from_utf8(bytes).map_err(|_| not_text)?),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).map_err(|_| not_text)?),
    }))
}

fn decode_fixed<'a>(column_type: ColumnType, bytes: &[u8]) -> Result<ValueRef<'a>, Malformed> {
    let mut little_endian = [0; 8];
    let little_endian = &mut little_endian[..bytes.len()];
    little_endian.copy_from_slice(bytes);
    little_endian.reverse();
    let top = bytes.len() - 1;
    match column_type.family() {
        Family::Int => little_endian[top] ^= 0x80,
        Family::F32 | Family::F64 if little_endian[top] & 0x80 == 0 => {
            little_endian.iter_mut().for_each(|byte| *byte = !*byte);
        }
        Family::F32 | Family::F64 => little_endian[top] ^= 0x80,
        _ => {}
    }
    column_type.read_fixed(little_endian)
}

/// Bytes of the escaped value that `bytes` begins with, its end mark included.
fn escaped_length(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut at = 0;
    loop {
        at += bytes[at..].iter().position(|&byte| byte == 0).ok_or(BAD_KEY)?;
        match bytes.get(at + 1) {
            Some(0) => return Ok(at + 2),
            Some(0xff) => at += 2,
            _ => return Err(BAD_KEY),
        }
    }
}

/// The value of a whole escaped one. Values without a 00 need no copy.
fn unescape(escaped: &[u8]) -> Cow<'_, [u8]> {
    let content = &escaped[..escaped.len() - 2];
    if !content.contains(&0) {
        return Cow::Borrowed(content);
    }
    let mut value = Vec::with_capacity(content.len());
    let mut bytes = content.iter();
    while let Some(&byte) = bytes.next() {
        value.push(byte);
        if byte == 0 {
            bytes.next();
        }
    }
    Cow::Owned(value)
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;
    use crate::schema::tests::{fitting_value, key_table};

    fn key(schema: &Schema, values: &[Value]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_key(schema, values, &mut out).unwrap();
        out
    }

    fn key_types() -> impl Strategy<Value = Vec<ColumnType>> {
        use ColumnType::*;
        let types = [Bool, I8, I32, I64, U8, U16, U64, Date, Timestamp, TEXT, BINARY];
        proptest::collection::vec(proptest::sample::select(types.to_vec()), 1..5)
    }

    const TEXT: ColumnType = ColumnType::Text { max_chars: 12 };
    const BINARY: ColumnType = ColumnType::Binary { max_bytes: 12 };

    /// A table and two keys of it that often agree in their first columns.
    fn table_and_keys() -> impl Strategy<Value = (Schema, Vec<Value>, Vec<Value>)> {
        key_types().prop_flat_map(|types| {
            let schema = key_table(&types, None);
            let values = || types.iter().map(|&t| fitting_value(t)).collect::<Vec<_>>();
            (Just(schema), values(), values(), 0..=types.len()).prop_map(|(schema, a, mut b, same)| {
                b[..same].clone_from_slice(&a[..same]);
                (schema, a, b)
            })
        })
    }

    proptest! {
        #[test]
        fn keys_compare_as_their_columns((schema, a, b) in table_and_keys()) {
            let columns = a.iter().zip(&b).map(|(a, b)| a.compare(b).unwrap().unwrap());
            let expected = columns.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then);
            prop_assert_eq!(key(&schema, &a).cmp(&key(&schema, &b)), expected);
        }

        #[test]
        fn keys_round_trip((schema, values, _) in table_and_keys()) {
            let key = key(&schema, &values);
            prop_assert_eq!(check_key(&schema, &key), Ok(()));
            prop_assert_eq!(decode_key(&schema, &key), Ok(values.clone()));
            for (position, value) in values.iter().enumerate() {
                prop_assert_eq!(key_column(&schema, &key, position), Ok(value.borrowed()));
                let mut prefix = Vec::new();
                encode_key_prefix(&schema, &values[..=position], &mut prefix).unwrap();
                prop_assert!(key.starts_with(&prefix));
            }
        }

        #[test]
        fn hostile_keys_are_refused_or_canonical((schema, _, _) in table_and_keys(), bytes: Vec<u8>) {
            let _ = distribution_hash(&schema, &bytes);
            if check_key(&schema, &bytes).is_ok() {
                let values = decode_key(&schema, &bytes).unwrap();
                prop_assert_eq!(key(&schema, &values), bytes);
            }
        }

        #[test]
        fn the_distribution_key_alone_places(
            (schema, a, b) in table_and_keys(), columns in proptest::collection::vec(any::<bool>(), 4), always: Index,
        ) {
            let types: Vec<ColumnType> = schema.columns.iter().map(|column| column.column_type).collect();
            let always = always.index(types.len());
            let chosen = (0..types.len()).filter(|&i| i == always || columns[i]);
            let chosen: Vec<u16> = chosen.map(|i| i as u16).collect();
            let schema = key_table(&types, Some(chosen.clone()));
            let pick = |values: &[Value]| chosen.iter().map(|&i| values[usize::from(i)].clone()).collect::<Vec<_>>();
            let hash = distribution_hash(&schema, &key(&schema, &a)).unwrap();
            prop_assert_eq!(hash_distribution_key(&schema, &pick(&a)), Ok(hash));
            prop_assert_eq!(distribution_hash(&schema, &key(&schema, &b)).unwrap() == hash, pick(&a) == pick(&b));
            let alone: Vec<ColumnType> = chosen.iter().map(|&i| types[usize::from(i)]).collect();
            let alone = key_table(&alone, None);
            prop_assert_eq!(distribution_hash(&alone, &key(&alone, &pick(&a))).unwrap(), hash);
        }
    }

    #[test]
    fn golden_keys() {
        use ColumnType::*;
        let schema = key_table(&[I16, TEXT, BINARY], None);
        let values = [Value::Int(-2), Value::from("a\0b".to_owned()), Value::from(vec![0, 1])];
        let bytes = [0x7f, 0xfe, b'a', 0, 0xff, b'b', 0, 0, 0, 1];
        assert_eq!(key(&schema, &values), bytes);
        let schema = key_table(&[U32, I8], Some(vec![0]));
        let bytes = key(&schema, &[Value::UInt(7), Value::Int(1)]);
        assert_eq!(bytes, [0, 0, 0, 7, 0x81]);
        assert_eq!(distribution_hash(&schema, &bytes), Ok(KeyHash::of(&[0, 0, 0, 7])));
    }

    #[test]
    fn bad_values_name_their_column() {
        let schema = key_table(&[ColumnType::U8, TEXT], None);
        let refused = |values: &[Value]| {
            let mut out = vec![9];
            let refusal = encode_key(&schema, values, &mut out).unwrap_err();
            assert_eq!(out, [9]);
            (refusal.code, refusal.column)
        };
        let text = |text: &str| Value::from(text.to_owned());
        assert_eq!(refused(&[Value::UInt(256), text("")]), (ResultCode::OutOfRange, Some(0)));
        assert_eq!(refused(&[Value::UInt(0), Value::Null]), (ResultCode::NullValue, Some(1)));
        assert_eq!(refused(&[Value::UInt(0), text("thirteen char")]), (ResultCode::ValueTooLong, Some(1)));
        assert_eq!(refused(&[Value::UInt(0)]), (ResultCode::WrongType, None));
    }

    #[test]
    fn keys_for_people_are_short_and_in_brackets() {
        let schema = key_table(&[ColumnType::U8, TEXT, ColumnType::Binary { max_bytes: 100 }], None);
        let text = |name: &str, bytes: Vec<u8>| {
            let mut key = Vec::new();
            let values = [ValueRef::UInt(7), ValueRef::from(name), ValueRef::Binary(bytes.into())];
            encode_key(&schema, &values, &mut key).unwrap();
            key_text(&schema, &key)
        };
        assert_eq!(text("a \"pear\"", b"\x00x".to_vec()), r#"(7, "a \"pear\"", "\x00x")"#);
        assert_eq!(text("", vec![b'x'; 100]), format!("(7, \"\", \"{}…)", "x".repeat(39)));
        assert_eq!(key_text(&schema, &[]), "(malformed key)");
    }
}
