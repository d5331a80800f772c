//! Items as rows: the tables that hold them, and what their values look like in columns.

use std::{borrow::Cow, io::Write, sync::Arc};

use twofold_proto::{
    config::MemcachedPrefix,
    error::{Error, ErrorCode},
    ids::TableId,
    key::{distribution_hash, encode_key},
    operation::ResultCode,
    placement::KeyHash,
    schema::{Column, ColumnType, Schema, Table},
    time::ClusterTime,
    value::ValueRef,
    wire::Malformed,
};

use super::{
    command::{KEY_MAX, VALUE_MAX, signed, unsigned},
    mark::MARK_MAX,
};

/// Name of the table that holds items whose keys have no prefix of the config.
pub const TABLE: &str = "memcached";
/// What stands between the columns of a value.
const SEPARATOR: u8 = b'|';
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
            Column::new("mark", ColumnType::Binary { max_bytes: MARK_MAX as u32 }).nullable(),
        ],
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
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

/// Which columns before the value's a row that was asked for has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Flags.
    pub flags: bool,
    /// The mark.
    pub mark: bool,
}

/// A table that holds items.
#[derive(Clone, Debug)]
pub struct Items {
    schema: Arc<Schema>,
    /// Bytes of a key that are not in the table.
    prefix: usize,
    /// Whether keys and values are in the table byte for byte.
    plain: bool,
    /// The column of the flags.
    pub(super) flags: Option<u16>,
    /// The column of the marks.
    pub(super) mark: Option<u16>,
    /// The columns of the value.
    pub(super) values: Vec<u16>,
    /// Flags, mark and value, as a projection lists them.
    columns: Vec<u8>,
    /// Flags and value.
    without_mark: Vec<u8>,
}

impl Items {
    /// The table of keys without a prefix, if it can hold items.
    ///
    /// # Errors
    /// [`ErrorCode::BadTable`], and what is wrong with it.
    pub fn new(schema: Arc<Schema>) -> Result<Items, Error> {
        let wrong = |what: &str| Error::new(ErrorCode::BadTable, format!("table `{}` {what}", schema.name));
        let column =
            |name: &str| schema.column_index(name).ok_or_else(|| wrong(&format!("has no column `{name}`")));
        let (key, flags, value) = (column("key")?, column("flags")?, column("value")?);
        // A table that was made without it does without what it is for.
        let mark = schema.column_index("mark");
        let holds = |index: u16, bytes: usize| {
            let column_type = schema.columns[usize::from(index)].column_type;
            matches!(column_type, ColumnType::Binary { max_bytes } if max_bytes as usize >= bytes)
        };
        if schema.primary_key != [key] || !holds(key, KEY_MAX) {
            return Err(wrong("needs the primary key `key`, binary, of 250 bytes or more"));
        }
        if !holds(value, VALUE_MAX) {
            return Err(wrong("needs `value` to be binary, of 1 MiB or more"));
        }
        if mark.is_some_and(|mark| !holds(mark, MARK_MAX) || !schema.columns[usize::from(mark)].nullable) {
            return Err(wrong("needs `mark` to be binary, of 10 bytes or more, and nullable"));
        }
        Items::checked(schema, 0, key, Some(flags), mark, vec![value])
    }

    /// The table of keys with a prefix, if it can hold what the config says.
    ///
    /// # Errors
    /// [`ErrorCode::BadTable`], and what is wrong with it.
    pub fn mapped(schema: Arc<Schema>, config: &MemcachedPrefix) -> Result<Items, Error> {
        let wrong = |what: String| Error::new(ErrorCode::BadTable, format!("table `{}` {what}", schema.name));
        let column =
            |name: &str| schema.column_index(name).ok_or_else(|| wrong(format!("has no column `{name}`")));
        let key = column(&config.key)?;
        if schema.primary_key != [key] {
            return Err(wrong(format!("needs `{}` to be its primary key, alone", config.key)));
        }
        let flags = config.flags.as_deref().map(column).transpose()?;
        let values = config.values.iter().map(|name| column(name)).collect::<Result<Vec<u16>, Error>>()?;
        if let Some(&index) = values.iter().chain([&key]).find(|&&index| {
            let column_type = schema.columns[usize::from(index)].column_type;
            matches!(column_type, ColumnType::Date | ColumnType::DateTime | ColumnType::Timestamp)
        }) {
            let column = &schema.columns[usize::from(index)].name;
            return Err(wrong(format!("needs `{column}` to be a number, a truth value, text or binary")));
        }
        Items::checked(schema.clone(), config.prefix.len(), key, flags, None, values)
    }

    fn checked(
        schema: Arc<Schema>,
        prefix: usize,
        key: u16,
        flags: Option<u16>,
        mark: Option<u16>,
        values: Vec<u16>,
    ) -> Result<Items, Error> {
        let wrong = |what: String| Error::new(ErrorCode::BadTable, format!("table `{}` {what}", schema.name));
        let column_type = |index: u16| schema.columns[usize::from(index)].column_type;
        if let Some(flags) = flags.filter(|&flags| column_type(flags) != ColumnType::U32) {
            let name = &schema.columns[usize::from(flags)].name;
            return Err(wrong(format!("needs `{name}` to be an unsigned integer of 32 bits")));
        }
        let ours =
            |index: u16| index == key || [flags, mark].contains(&Some(index)) || values.contains(&index);
        let without_default = schema
            .columns
            .iter()
            .enumerate()
            .find(|(index, column)| !ours(*index as u16) && !column.nullable && column.default.is_none());
        if let Some((_, column)) = without_default {
            return Err(wrong(format!("needs a default for column `{}`", column.name)));
        }
        let binary = |index| matches!(column_type(index), ColumnType::Binary { .. });
        let plain = prefix == 0 && binary(key) && values.len() == 1 && binary(values[0]);
        let list = |mark: Option<u16>| {
            let columns = flags.iter().chain(mark.as_slice()).chain(&values);
            columns.flat_map(|index| index.to_le_bytes()).collect::<Vec<u8>>()
        };
        let (columns, without_mark) = (list(mark), list(None));
        Ok(Items { prefix, plain, flags, mark, columns, without_mark, schema, values })
    }

    /// The schema.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The columns of an item, for a projection: with its mark if asked for, with its value if asked for.
    pub(super) fn columns(&self, mark: bool, value: bool) -> &[u8] {
        let columns = if mark { &self.columns } else { &self.without_mark };
        let values = if value { 0 } else { self.values.len() * 2 };
        &columns[..columns.len() - values]
    }

    /// The columns of a value, for a projection.
    pub(super) fn value_columns(&self) -> &[u8] {
        &self.columns[self.columns.len() - self.values.len() * 2..]
    }

    /// Whether there are columns that items have nothing to do with.
    pub(super) fn has_other_columns(&self) -> bool {
        self.schema.columns.len() > self.columns.len() / 2 + 1
    }

    /// What [`Items::columns`] are.
    pub(super) fn shape(&self, mark: bool) -> Shape {
        Shape { flags: self.flags.is_some(), mark: mark && self.mark.is_some() }
    }

    /// The key of a row, encoded, and its hash. `encoded` is where it goes unless it is there as the client says it.
    ///
    /// # Errors
    /// That no row can have such a key.
    #[inline]
    pub(super) fn row_key<'k>(
        &self,
        key: &'k [u8],
        encoded: &'k mut Vec<u8>,
    ) -> Result<(KeyHash, &'k [u8]), Box<str>> {
        let key = if self.plain { key } else { self.encode_key(&key[self.prefix..], encoded)? };
        let hash = distribution_hash(&self.schema, key);
        Ok((hash.map_err(|malformed| format!("SERVER_ERROR {malformed}"))?, key))
    }

    fn encode_key<'k>(&self, text: &[u8], encoded: &'k mut Vec<u8>) -> Result<&'k [u8], Box<str>> {
        let index = self.schema.primary_key[0];
        let value = self.parse(index, text)?;
        encoded.clear();
        encode_key(&self.schema, &[value], encoded)
            .map_err(|refusal| self.unfit(index, text, refusal.code))?;
        Ok(encoded)
    }

    /// Whether an item may have this value and these flags.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self, value: &[u8], flags: u32) -> Result<(), Box<str>> {
        if self.plain {
            return Ok(());
        }
        let (table, count) = (&self.schema.name, self.values.len());
        if flags != 0 && self.flags.is_none() {
            return Err(format!("SERVER_ERROR table `{table}` keeps no flags; say 0").into());
        }
        let parts = value.split(|&byte| byte == SEPARATOR).count();
        if count > 1 && parts != count {
            let text = format!(
                "SERVER_ERROR a value of table `{table}` has {count} parts with | between them, not {parts}"
            );
            return Err(text.into());
        }
        (0..count).try_for_each(|place| {
            let part = self.part(value, place);
            let column = &self.schema.columns[usize::from(self.values[place])];
            let fits = column.fit(self.parse(self.values[place], part)?).map(|_| ());
            fits.map_err(|code| self.unfit(self.values[place], part, code))
        })
    }

    /// What of a value goes into a column; `None`: the column is none of a value's. The value has been checked.
    pub(super) fn column_value<'v>(&self, index: u16, value: &'v [u8]) -> Option<ValueRef<'v>> {
        if self.plain {
            return (index == self.values[0]).then(|| ValueRef::from(value));
        }
        let place = self.values.iter().position(|&column| column == index)?;
        Some(self.parse(index, self.part(value, place)).expect("the value was checked"))
    }

    /// The one column that text can be added to, or that can be counted.
    ///
    /// # Errors
    /// That there is none.
    pub(super) fn single(&self) -> Result<(u16, ColumnType), Box<str>> {
        match self.values[..] {
            [index] => Ok((index, self.schema.columns[usize::from(index)].column_type)),
            _ => {
                let (table, count) = (&self.schema.name, self.values.len());
                Err(format!(
                    "SERVER_ERROR a value of table `{table}` has {count} parts: nothing can be added to it"
                )
                .into())
            }
        }
    }

    fn part<'v>(&self, value: &'v [u8], place: usize) -> &'v [u8] {
        match self.values.len() {
            1 => value,
            _ => value.split(|&byte| byte == SEPARATOR).nth(place).unwrap_or_default(),
        }
    }

    fn parse<'v>(&self, index: u16, text: &'v [u8]) -> Result<ValueRef<'v>, Box<str>> {
        use ColumnType::*;
        let column = &self.schema.columns[usize::from(index)];
        if text.is_empty() && column.nullable {
            return Ok(ValueRef::Null);
        }
        let value = match column.column_type {
            Binary { .. } => Some(ValueRef::from(text)),
            Text { .. } => std::str::from_utf8(text).ok().map(ValueRef::from),
            Bool => [&b"0"[..], b"1"].iter().position(|bit| *bit == text).map(|bit| ValueRef::Bool(bit == 1)),
            F32 | F64 => {
                let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                number.filter(|number: &f64| number.is_finite()).map(ValueRef::Float)
            }
            _ => unsigned(text).map(ValueRef::UInt).or_else(|| signed(text).map(ValueRef::Int)),
        };
        value.ok_or_else(|| self.unfit(index, text, ResultCode::WrongType))
    }

    fn unfit(&self, index: u16, text: &[u8], code: ResultCode) -> Box<str> {
        let (table, column) = (&self.schema.name, &self.schema.columns[usize::from(index)]);
        let text = String::from_utf8_lossy(&text[..text.len().min(40)]).replace(['\r', '\n'], " ");
        let (name, domain) = (&column.name, column.column_type.domain());
        format!("CLIENT_ERROR table `{table}`, column `{name}`, «{text}»: {code}, which takes {domain}")
            .into()
    }
}

/// The values of a row's columns as the value of an item. `joined` is where it is put together, if it has to be.
///
/// # Errors
/// The first of the values.
// On the way of every get.
#[inline(always)]
pub(super) fn join<'a>(
    mut values: impl Iterator<Item = Result<ValueRef<'a>, Malformed>>,
    joined: &'a mut Vec<u8>,
) -> Result<Cow<'a, [u8]>, Malformed> {
    match (values.next().transpose()?, values.next()) {
        (None, _) => Ok(Cow::Borrowed(b"")),
        (Some(ValueRef::Binary(bytes)), None) => Ok(bytes),
        (Some(first), second) => {
            join_texts(&first, second.into_iter().chain(values), joined)?;
            Ok(Cow::Borrowed(joined))
        }
    }
}

fn join_texts<'a>(
    first: &ValueRef<'a>,
    others: impl Iterator<Item = Result<ValueRef<'a>, Malformed>>,
    joined: &mut Vec<u8>,
) -> Result<(), Malformed> {
    joined.clear();
    print(first, joined);
    for other in others {
        joined.push(SEPARATOR);
        print(&other?, joined);
    }
    Ok(())
}

fn print(value: &ValueRef<'_>, out: &mut Vec<u8>) {
    match value {
        ValueRef::Null => Ok(()),
        ValueRef::Bool(value) => write!(out, "{}", u8::from(*value)),
        ValueRef::Int(number) => write!(out, "{number}"),
        ValueRef::UInt(number) => write!(out, "{number}"),
        ValueRef::Float(number) => write!(out, "{number}"),
        ValueRef::Text(text) => out.write_all(text.as_bytes()),
        ValueRef::Binary(bytes) => out.write_all(bytes),
    }
    .expect("writing to memory succeeds");
}

/// All tables that hold items, by what their keys begin with.
#[derive(Clone, Debug)]
pub struct Keyspace {
    own: Items,
    /// Longer prefixes first.
    mapped: Vec<(String, Result<Items, Box<str>>)>,
}

impl Keyspace {
    /// Finds the tables, by `table`.
    ///
    /// # Errors
    /// What is wrong with the table of keys without a prefix. What is wrong with others is told to who uses them.
    pub fn new<'s>(
        prefixes: &[MemcachedPrefix],
        table: impl Fn(&str) -> Result<&'s Arc<Schema>, Error>,
    ) -> Result<Keyspace, Error> {
        let own = Items::new(table(TABLE)?.clone())?;
        let mut mapped: Vec<_> = prefixes
            .iter()
            .map(|config| {
                let items = table(&config.table).and_then(|schema| Items::mapped(schema.clone(), config));
                let told = |error: Error| format!("SERVER_ERROR keys `{}*`: {error}", config.prefix).into();
                (config.prefix.clone(), items.map_err(told))
            })
            .collect();
        mapped.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(Keyspace { own, mapped })
    }

    /// The table of keys without a prefix.
    pub fn own(&self) -> &Items {
        &self.own
    }

    /// The table of a key.
    #[inline]
    pub(super) fn items(&self, key: &[u8]) -> Result<&Items, &str> {
        let mapped = self.mapped.iter().find(|(prefix, _)| key.starts_with(prefix.as_bytes()));
        mapped.map_or(Ok(&self.own), |(_, items)| items.as_ref().map_err(|text| &**text))
    }
}

#[cfg(test)]
#[path = "item_tests.rs"]
mod tests;
