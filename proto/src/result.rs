//! What an operation answers.
//!
//! ```text
//! u8 code, u8 flags
//! if flags say so: u64 epoch, u64 number of the version; u64 expiry; u16 column at fault;
//!                  u16 length of the key, the key; the row before; the row after
//! row:             u16 schema version, 0 for projected values; u32 bytes; the body, or the values
//! ```

use std::fmt;

use crate::{
    error::{Error, ErrorCode, counted},
    ids::{Epoch, Version},
    key::key_text,
    schema::Schema,
    time::ClusterTime,
    value::ValueRef,
    wire::{Malformed, Reader, Writer, put_block_with},
};

/// How the evaluation of an operation ended. Stable on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ResultCode {
    /// Done.
    Ok = 0,
    /// There is no such row.
    NotFound = 1,
    /// There is such a row already.
    AlreadyExists = 2,
    /// A condition of the operation does not hold.
    ConditionFalse = 3,
    /// A number does not fit its column.
    OutOfRange = 4,
    /// Bytes to count with are no decimal number.
    NotANumber = 5,
    /// A text or binary value is longer than its column allows.
    ValueTooLong = 6,
    /// NULL for a column that allows none.
    NullValue = 7,
    /// A value of another type than its column's.
    WrongType = 8,
    /// The operation's bytes make no sense.
    Malformed = 9,
    /// The row would exceed [`crate::limits::ROW_BYTES_MAX`], or its key [`crate::limits::KEY_BYTES_MAX`].
    RowTooBig = 10,
    /// The operation was made for another version of the schema; refresh and retry.
    SchemaChanged = 11,
}

impl ResultCode {
    fn from_wire(code: u8) -> Option<ResultCode> {
        use ResultCode::*;
        const ALL: [ResultCode; 12] = [
            Ok,
            NotFound,
            AlreadyExists,
            ConditionFalse,
            OutOfRange,
            NotANumber,
            ValueTooLong,
            NullValue,
            WrongType,
            Malformed,
            RowTooBig,
            SchemaChanged,
        ];
        ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResultCode::Ok => "done",
            ResultCode::NotFound => "there is no such row",
            ResultCode::AlreadyExists => "there is such a row already",
            ResultCode::ConditionFalse => "a condition of the operation does not hold",
            ResultCode::OutOfRange => "the number does not fit the column",
            ResultCode::NotANumber => "the value is not a decimal number",
            ResultCode::ValueTooLong => "the value is longer than the column",
            ResultCode::NullValue => "the column does not allow NULL",
            ResultCode::WrongType => "the value has another type than the column",
            ResultCode::Malformed => "the operation is malformed",
            ResultCode::RowTooBig => "the row is too big",
            ResultCode::SchemaChanged => "the schema has changed; refresh and retry",
        })
    }
}

/// Why an operation is refused, and the column at fault where there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What is wrong; never [`ResultCode::Ok`].
    pub code: ResultCode,
    /// The index of the column that it is wrong with.
    pub column: Option<u16>,
}

impl Refusal {
    /// A refusal on account of a column.
    pub fn of_column(column: u16) -> impl Fn(ResultCode) -> Refusal {
        move |code| Refusal { code, column: Some(column) }
    }
}

impl Refusal {
    /// What it means to those who know the table by its columns' names. `key`: that of the row, where it is known.
    pub fn error(&self, schema: &Schema, key: Option<&[u8]>) -> Error {
        let code = match self.code {
            ResultCode::NotFound => ErrorCode::NoSuchRow,
            ResultCode::AlreadyExists => ErrorCode::DuplicateKey,
            ResultCode::ConditionFalse => ErrorCode::ConditionFalse,
            ResultCode::OutOfRange
            | ResultCode::NotANumber
            | ResultCode::ValueTooLong
            | ResultCode::NullValue
            | ResultCode::WrongType => ErrorCode::BadValue,
            ResultCode::RowTooBig => ErrorCode::RowTooLarge,
            ResultCode::SchemaChanged => ErrorCode::StaleSchema,
            ResultCode::Malformed | ResultCode::Ok => ErrorCode::Malformed,
        };
        let mut text = format!("table `{}`", schema.name);
        if let Some(key) = key {
            text += &format!(", key {}", key_text(schema, key));
        }
        let column = self.column.and_then(|index| schema.columns.get(usize::from(index)));
        if let Some(column) = column {
            text += &format!(", column `{}`", column.name);
        }
        text += &format!(": {}", self.code);
        let by_type = [ResultCode::OutOfRange, ResultCode::ValueTooLong, ResultCode::WrongType];
        if let Some(column) = column.filter(|_| by_type.contains(&self.code)) {
            text += &format!(", which takes {}", column.column_type.domain());
        }
        Error::new(code, text)
    }

    /// The same to those who gave the value that is refused.
    pub fn error_of_value(&self, schema: &Schema, value: &ValueRef<'_>) -> Error {
        let Error { code, text } = self.error(schema, None);
        let length = match value {
            ValueRef::Null => return Error { code, text },
            ValueRef::Text(text) => format!(", {},", counted(text.chars().count(), "character")),
            ValueRef::Binary(bytes) => format!(", {},", counted(bytes.len(), "byte")),
            _ => String::new(),
        };
        Error { code, text: format!("{text}; {}{length} was given", value.excerpt()) }
    }
}

impl From<ResultCode> for Refusal {
    fn from(code: ResultCode) -> Refusal {
        Refusal { code, column: None }
    }
}

impl From<Malformed> for Refusal {
    fn from(_: Malformed) -> Refusal {
        ResultCode::Malformed.into()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(f, "column {column}: {}", self.code),
            None => self.code.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

const EXISTED: u8 = 1;
const CHANGED: u8 = 1 << 1;
const VERSION: u8 = 1 << 2;
const EXPIRY: u8 = 1 << 3;
const COLUMN: u8 = 1 << 4;
const BEFORE: u8 = 1 << 5;
const AFTER: u8 = 1 << 6;
const KEY: u8 = 1 << 7;

/// A result but for its rows. On the wire those follow: first `before`, then `after`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResultHead<'a> {
    /// How it ended.
    pub code: ResultCode,
    /// Whether there was a row when the operation began.
    pub existed: bool,
    /// Whether the operation makes the row another one: SQL's affected rows count these.
    pub changed: bool,
    /// The version of the row when the operation began, if it was asked for and there was a row.
    pub version: Option<Version>,
    /// When the row was to expire when the operation began, if that was asked for; 0: never.
    pub expiry: ClusterTime,
    /// The column at fault.
    pub column: Option<u16>,
    /// The row's key: in answers to scans.
    pub key: Option<&'a [u8]>,
    /// Whether the row as it was follows.
    pub before: bool,
    /// Whether the row as it is now follows.
    pub after: bool,
}

impl<'a> ResultHead<'a> {
    /// A result that says no more than this.
    pub fn new(code: ResultCode) -> ResultHead<'a> {
        ResultHead {
            code,
            existed: false,
            changed: false,
            version: None,
            expiry: ClusterTime(0),
            column: None,
            key: None,
            before: false,
            after: false,
        }
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.put_u8(self.code as u8);
        out.put_u8(
            flag(self.existed, EXISTED)
                | flag(self.changed, CHANGED)
                | flag(self.version.is_some(), VERSION)
                | flag(self.expiry.0 != 0, EXPIRY)
                | flag(self.column.is_some(), COLUMN)
                | flag(self.key.is_some(), KEY)
                | flag(self.before, BEFORE)
                | flag(self.after, AFTER),
        );
        if let Some(version) = self.version {
            out.put_u64(version.epoch.0);
            out.put_u64(version.number);
        }
        if self.expiry.0 != 0 {
            out.put_u64(self.expiry.0);
        }
        if let Some(column) = self.column {
            out.put_u16(column);
        }
        if let Some(key) = self.key {
            out.put_u16(u16::try_from(key.len()).expect("keys are shorter than 64 KiB"));
            out.put(key);
        }
    }

    fn parse(reader: &mut Reader<'a>) -> Result<ResultHead<'a>, Malformed> {
        let code = ResultCode::from_wire(reader.u8()?).ok_or(Malformed("result: unknown code"))?;
        let flags = reader.u8()?;
        let has = |flag: u8| flags & flag != 0;
        let version = match has(VERSION) {
            true => Some(Version { epoch: Epoch(reader.u64()?), number: reader.u64()? }),
            false => None,
        };
        let expiry = ClusterTime(if has(EXPIRY) { reader.u64()? } else { 0 });
        let column = if has(COLUMN) { Some(reader.u16()?) } else { None };
        let key = match has(KEY) {
            true => {
                let length = reader.u16()?;
                Some(reader.bytes(length.into())?)
            }
            false => None,
        };
        let (existed, changed, before, after) = (has(EXISTED), has(CHANGED), has(BEFORE), has(AFTER));
        Ok(ResultHead { code, existed, changed, version, expiry, column, key, before, after })
    }
}

/// A row in a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReturnedRow<'a> {
    /// The body of the whole row. Its key is the operation's, or stands in the head.
    Whole {
        /// The version of the schema that the body is laid out by.
        schema_version: u32,
        /// The body.
        body: &'a [u8],
    },
    /// The values of the columns asked for, one after the other, as [`ValueRef::parse`] reads them.
    Values(&'a [u8]),
}

impl<'a> ReturnedRow<'a> {
    /// Appends a whole row.
    ///
    /// # Panics
    /// Panics if the version is 0 or does not fit 16 bits, which a checked table excludes.
    pub fn encode_whole(schema_version: u32, body: &[u8], out: &mut Vec<u8>) {
        let version = u16::try_from(schema_version).expect("schema versions fit 16 bits");
        assert!(version != 0, "schema versions begin with 1");
        out.put_u16(version);
        out.put_block(body);
    }

    /// Appends the values that `append` appends. Where that fails, what was appended is taken back.
    pub fn encode_values<E>(
        out: &mut Vec<u8>,
        append: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = out.len();
        out.put_u16(0);
        let appended = put_block_with(out, append);
        if appended.is_err() {
            out.truncate(start);
        }
        appended
    }

    /// Reads a row in place.
    pub fn parse(reader: &mut Reader<'a>) -> Result<ReturnedRow<'a>, Malformed> {
        let schema_version = u32::from(reader.u16()?);
        let bytes = reader.block()?;
        Ok(match schema_version {
            0 => ReturnedRow::Values(bytes),
            _ => ReturnedRow::Whole { schema_version, body: bytes },
        })
    }

    /// The values of a projection; none of a whole row.
    pub fn values(&self) -> impl Iterator<Item = Result<ValueRef<'a>, Malformed>> + use<'a> {
        let mut reader = match self {
            ReturnedRow::Values(bytes) => Reader::new(bytes, "projected values"),
            ReturnedRow::Whole { .. } => Reader::new(&[], "projected values"),
        };
        std::iter::from_fn(move || {
            let value = if reader.is_empty() { return None } else { ValueRef::parse(&mut reader) };
            if value.is_err() {
                reader = Reader::new(&[], "projected values");
            }
            Some(value)
        })
    }
}

/// A result, read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResultRef<'a> {
    /// All but the rows.
    pub head: ResultHead<'a>,
    /// The row as it was when the operation began, if it was asked for and there was one.
    pub before: Option<ReturnedRow<'a>>,
    /// The row as the operation leaves it, if it was asked for and there is one.
    pub after: Option<ReturnedRow<'a>>,
}

impl<'a> ResultRef<'a> {
    /// Reads one result.
    pub fn parse(reader: &mut Reader<'a>) -> Result<ResultRef<'a>, Malformed> {
        let head = ResultHead::parse(reader)?;
        let before = if head.before { Some(ReturnedRow::parse(reader)?) } else { None };
        let after = if head.after { Some(ReturnedRow::parse(reader)?) } else { None };
        Ok(ResultRef { head, before, after })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::{Value, tests::any_value};

    #[test]
    fn a_result_without_rows_is_two_bytes() {
        let mut out = Vec::new();
        ResultHead { existed: true, changed: true, ..ResultHead::new(ResultCode::Ok) }.encode(&mut out);
        assert_eq!(out, [0, EXISTED | CHANGED]);
    }

    #[test]
    fn codes_are_stable() {
        for code in 0..=ResultCode::SchemaChanged as u8 {
            assert_eq!(ResultCode::from_wire(code).map(|code| code as u8), Some(code));
        }
        assert_eq!(ResultCode::from_wire(12), None);
    }

    #[test]
    fn a_projection_that_fails_leaves_nothing() {
        let mut out = vec![7];
        let failed = ReturnedRow::encode_values(&mut out, |out| {
            out.put_u64(1);
            Err(ResultCode::Malformed)
        });
        assert_eq!((failed, out), (Err(ResultCode::Malformed), vec![7]));
    }

    proptest! {
        #[test]
        fn results_survive_the_wire(
            code in 0u8..12, flags: [bool; 2], version: Option<(u64, u64)>, expiry: u64, column: Option<u16>,
            key: Option<Vec<u8>>,
            body: Option<(u16, Vec<u8>)>, values in proptest::option::of(proptest::collection::vec(any_value(), 0..5)),
        ) {
            let head = ResultHead {
                code: ResultCode::from_wire(code).unwrap(),
                existed: flags[0],
                changed: flags[1],
                version: version.map(|(epoch, number)| Version { epoch: Epoch(epoch), number }),
                expiry: ClusterTime(expiry),
                column,
                key: key.as_deref(),
                before: body.is_some(),
                after: values.is_some(),
            };
            let mut out = Vec::new();
            head.encode(&mut out);
            if let Some((version, body)) = &body {
                ReturnedRow::encode_whole(u32::from(*version).max(1), body, &mut out);
            }
            if let Some(values) = &values {
                let done: Result<(), ()> = ReturnedRow::encode_values(&mut out, |out| {
                    values.iter().for_each(|value| value.encode(out));
                    Ok(())
                });
                prop_assert_eq!(done, Ok(()));
            }
            let mut reader = Reader::new(&out, "result");
            let result = ResultRef::parse(&mut reader).unwrap();
            prop_assert!(reader.is_empty());
            prop_assert_eq!(result.head, head);
            let whole = body.as_ref().map(|(version, body)| {
                ReturnedRow::Whole { schema_version: u32::from(*version).max(1), body }
            });
            prop_assert_eq!(result.before, whole);
            let read: Option<Vec<Value>> =
                result.after.map(|row| row.values().map(|value| value.unwrap().into_owned()).collect());
            prop_assert_eq!(read, values);
            for cut in 0..out.len() {
                prop_assert!(ResultRef::parse(&mut Reader::new(&out[..cut], "result")).is_err());
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(result) = ResultRef::parse(&mut Reader::new(&bytes, "result")) {
                for row in [result.before, result.after].into_iter().flatten() {
                    prop_assert!(row.values().count() <= bytes.len());
                }
            }
        }
    }
}
