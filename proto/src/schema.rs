//! Tables: their columns, keys, and how their rows are laid out.
//!
//! A [`Table`] is a definition, as the catalog keeps it and as it travels. A [`Schema`] is a table that was checked,
//! with the layout of its rows worked out: keys, rows and operations are read and written by it.

use std::{collections::BTreeSet, fmt, ops};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{IndexId, TableId},
    limits::{COLUMNS_MAX, INDEXES_MAX, KEY_BYTES_MAX},
    result::ResultCode,
    value::{Value, ValueRef},
    wire::Malformed,
};

/// Bytes of the name of a table or a column.
pub const NAME_BYTES_MAX: usize = 255;
/// Versions of a table's schema: rows in memory keep theirs in 16 bits.
pub const SCHEMA_VERSIONS_MAX: u32 = u16::MAX as u32;

/// The type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum ColumnType {
    /// True or false.
    Bool,
    /// Signed, 8 bits.
    I8,
    /// Signed, 16 bits.
    I16,
    /// Signed, 32 bits.
    I32,
    /// Signed, 64 bits.
    I64,
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
    /// IEEE 754, 32 bits, finite.
    F32,
    /// IEEE 754, 64 bits, finite.
    F64,
    /// Days since 1970-01-01, 32 bits, signed.
    Date,
    /// Microseconds since 1970-01-01 00:00 on a wall clock of no zone, 64 bits, signed.
    DateTime,
    /// Microseconds since 1970-01-01 00:00 UTC, 64 bits, signed.
    Timestamp,
    /// UTF-8.
    Text {
        /// Most characters.
        max_chars: u32,
    },
    /// Bytes.
    Binary {
        /// Most bytes.
        max_bytes: u32,
    },
}

/// What a column's values are, apart from their width.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    Bool,
    Int,
    UInt,
    F32,
    F64,
    Text,
    Binary,
}

impl ColumnType {
    pub(crate) fn family(self) -> Family {
        use ColumnType::*;
        match self {
            Bool => Family::Bool,
            I8 | I16 | I32 | I64 | Date | DateTime | Timestamp => Family::Int,
            U8 | U16 | U32 | U64 => Family::UInt,
            F32 => Family::F32,
            F64 => Family::F64,
            Text { .. } => Family::Text,
            Binary { .. } => Family::Binary,
        }
    }

    /// Bytes of a value in a row; none where values differ in length.
    pub fn width(self) -> Option<usize> {
        use ColumnType::*;
        match self {
            Bool | I8 | U8 => Some(1),
            I16 | U16 => Some(2),
            I32 | U32 | F32 | Date => Some(4),
            I64 | U64 | F64 | DateTime | Timestamp => Some(8),
            Text { .. } | Binary { .. } => None,
        }
    }

    /// What values count in the length of a key: their bytes, of text its characters.
    fn bytes_max(self) -> usize {
        match self {
            ColumnType::Text { max_chars: max } | ColumnType::Binary { max_bytes: max } => max as usize,
            fixed => fixed.width().unwrap_or(0),
        }
    }

    /// What values may take in an index: of text four bytes a character. Unlike a key's length that is not looked at when a row is put.
    pub fn index_bytes_max(self) -> usize {
        match self {
            ColumnType::Text { max_chars } => 4 * max_chars as usize,
            other => other.bytes_max(),
        }
    }

    /// The values that a column of this type takes, for people.
    pub fn domain(self) -> String {
        match self {
            ColumnType::Bool => "true or false".into(),
            ColumnType::F32 => format!("numbers from {:e} to {:e}", f32::MIN, f32::MAX),
            ColumnType::F64 => "finite numbers".into(),
            ColumnType::Text { max_chars } => format!("text of at most {max_chars} characters"),
            ColumnType::Binary { max_bytes } => format!("at most {max_bytes} bytes"),
            integer => {
                let values = 1i128 << integer.width().map_or(0, |width| width * 8);
                let least = if integer.family() == Family::Int { -values / 2 } else { 0 };
                let most = least + values - 1;
                format!("whole numbers from {least} to {most}")
            }
        }
    }

    /// The value as a column of this type holds it: integers take the column's signedness, floats its precision,
    /// integers become floats, and text becomes binary. NULL passes.
    ///
    /// # Errors
    /// [`ResultCode::WrongType`], [`ResultCode::OutOfRange`] or [`ResultCode::ValueTooLong`].
    pub fn fit<'a>(self, value: ValueRef<'a>) -> Result<ValueRef<'a>, ResultCode> {
        match (self.family(), value) {
            (_, ValueRef::Null) => Ok(ValueRef::Null),
            (Family::Bool, ValueRef::Bool(value)) => Ok(ValueRef::Bool(value)),
            (Family::Int | Family::UInt, value) => {
                self.fit_integer(value.as_integer().ok_or(ResultCode::WrongType)?)
            }
            (Family::F32 | Family::F64, ValueRef::Float(value)) => self.fit_float(value),
            (Family::F32 | Family::F64, value) => {
                self.fit_float(value.as_integer().ok_or(ResultCode::WrongType)? as f64)
            }
            (Family::Text, ValueRef::Text(text)) => {
                self.fit_length(text.as_bytes())?;
                Ok(ValueRef::Text(text))
            }
            (Family::Binary, value @ (ValueRef::Text(_) | ValueRef::Binary(_))) => {
                self.fit_length(value.as_bytes().unwrap_or_default())?;
                Ok(match value {
                    ValueRef::Text(text) => ValueRef::binary_of_text(text),
                    value => value,
                })
            }
            _ => Err(ResultCode::WrongType),
        }
    }

    pub(crate) fn fit_integer(self, value: i128) -> Result<Value, ResultCode> {
        let bits = self.width().map_or(0, |width| width as u32 * 8);
        match self.family() {
            Family::Int => {
                let bound = 1i128 << (bits - 1);
                let fits = (-bound..bound).contains(&value);
                if fits { Ok(ValueRef::Int(value as i64)) } else { Err(ResultCode::OutOfRange) }
            }
            Family::UInt => {
                let fits = (0..1i128 << bits).contains(&value);
                if fits { Ok(ValueRef::UInt(value as u64)) } else { Err(ResultCode::OutOfRange) }
            }
            _ => Err(ResultCode::WrongType),
        }
    }

    fn fit_float(self, value: f64) -> Result<Value, ResultCode> {
        let value = if self == ColumnType::F32 { f64::from(value as f32) } else { value };
        if value.is_finite() { Ok(ValueRef::Float(value)) } else { Err(ResultCode::OutOfRange) }
    }

    /// Whether text (which is UTF-8) or binary is short enough. Characters are counted only where there are more
    /// bytes than characters allowed.
    pub(crate) fn fit_length(self, bytes: &[u8]) -> Result<(), ResultCode> {
        let fits = match self {
            ColumnType::Text { max_chars } => {
                let max = max_chars as usize;
                let starts_character = |byte: &&u8| **byte & 0xc0 != 0x80;
                bytes.len() <= max || bytes.iter().filter(starts_character).count() <= max
            }
            ColumnType::Binary { max_bytes } => bytes.len() <= max_bytes as usize,
            _ => return Err(ResultCode::WrongType),
        };
        if fits { Ok(()) } else { Err(ResultCode::ValueTooLong) }
    }

    /// Reads a fixed-width value from its place in a row.
    pub(crate) fn read_fixed(self, bytes: &[u8]) -> Result<Value, Malformed> {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        let unused = 64 - 8 * bytes.len() as u32;
        let float = match self.family() {
            Family::Bool if bits <= 1 => return Ok(ValueRef::Bool(bits == 1)),
            Family::Int => return Ok(ValueRef::Int((bits << unused) as i64 >> unused)),
            Family::UInt => return Ok(ValueRef::UInt(bits)),
            Family::F32 => f64::from(f32::from_bits(bits as u32)),
            Family::F64 => f64::from_bits(bits),
            Family::Bool | Family::Text | Family::Binary => return Err(Malformed("row: bad value")),
        };
        if float.is_finite() {
            Ok(ValueRef::Float(float))
        } else {
            Err(Malformed("row: a float is not finite"))
        }
    }

    /// Writes a fixed-width value to its place in a row. The value is one that [`ColumnType::fit`] gave, no NULL.
    pub(crate) fn write_fixed(self, value: &ValueRef<'_>, bytes: &mut [u8]) {
        let bits = match *value {
            ValueRef::Bool(value) => u64::from(value),
            ValueRef::Int(value) => value as u64,
            ValueRef::UInt(value) => value,
            ValueRef::Float(value) if self == ColumnType::F32 => u64::from((value as f32).to_bits()),
            ValueRef::Float(value) => value.to_bits(),
            ref value => panic!("{value:?} is no value of a {self:?} column"),
        };
        bytes.copy_from_slice(&bits.to_le_bytes()[..bytes.len()]);
    }
}

/// A column of a table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Column {
    /// Its name, unique in the table whatever the case of its letters.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// What it holds where nothing is said, in rows from before it was added too; without one, NULL if that is allowed.
    pub default: Option<Value>,
    /// The first version of the schema that has it.
    pub since: u32,
    /// What SQL has declared of it beyond its type, in SQL's own words; empty for columns that were made otherwise. Only the
    /// SQL frontend reads it.
    pub declared: String,
}

impl Column {
    /// A column of the first version, without a default.
    pub fn new(name: impl Into<String>, column_type: ColumnType) -> Column {
        Column {
            name: name.into(),
            column_type,
            nullable: false,
            default: None,
            since: 1,
            declared: String::new(),
        }
    }

    /// The same column, nullable.
    pub fn nullable(self) -> Column {
        Column { nullable: true, ..self }
    }

    /// The same column, with a default.
    pub fn with_default(self, default: impl Into<Value>) -> Column {
        Column { default: Some(default.into()), ..self }
    }

    /// The value for this column, if it takes it.
    ///
    /// # Errors
    /// [`ResultCode::NullValue`], and those of [`ColumnType::fit`].
    pub fn fit<'a>(&self, value: ValueRef<'a>) -> Result<ValueRef<'a>, ResultCode> {
        if value.is_null() && !self.nullable {
            return Err(ResultCode::NullValue);
        }
        self.column_type.fit(value)
    }

    /// What the column holds where nothing is said.
    pub fn default_value(&self) -> ValueRef<'_> {
        self.default.as_ref().map_or(ValueRef::Null, Value::borrowed)
    }
}

/// The definition of a table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    /// Its id.
    pub id: TableId,
    /// Its name, unique in the cluster.
    pub name: String,
    /// The version of its schema, from 1; raised by each change of its columns. Indexes come and go without: whoever reads and
    /// writes rows need not know of them.
    pub version: u32,
    /// Its columns. Later versions add to the end alone.
    pub columns: Vec<Column>,
    /// The columns of the primary key, by index, in the key's order.
    pub primary_key: Vec<u16>,
    /// The columns that place a row: some of the primary key's, in its order. Two tables whose distribution keys
    /// have the same types place equal ones together.
    pub distribution_key: Vec<u16>,
    /// Its ordered indexes, by ascending id.
    pub indexes: Vec<Index>,
}

/// An index. It is ordered: it has an entry for each row, in the order of some columns and then of the primary key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Index {
    /// Its id.
    pub id: IndexId,
    /// Its name, unique in the table whatever the case of its letters.
    pub name: String,
    /// The columns before the primary key, in the index's order: none where the primary key itself is ordered.
    pub columns: Vec<u16>,
    /// Whether it may be asked.
    pub state: IndexState,
    /// Of a unique index, in which no two rows have the same values: the table of its entries ([`crate::unique`]).
    pub entries: Option<TableId>,
}

/// Whether an index may be asked. Data nodes enter every write from the moment that they know of it, whatever its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum IndexState {
    /// Data nodes enter the rows that were there before it.
    Building {
        /// The version of the catalog that brought it.
        since: u64,
    },
    /// All that were `up` have entered all rows.
    Public,
}

impl Index {
    /// An index of a table that is to be created.
    pub fn new(name: impl Into<String>, columns: Vec<u16>) -> Index {
        Index { id: IndexId(0), name: name.into(), columns, state: IndexState::Public, entries: None }
    }

    /// A unique index of a table that is to be created: no two rows have the same values in its columns, NULL apart.
    pub fn unique(name: impl Into<String>, columns: Vec<u16>) -> Index {
        Index { entries: Some(TableId(0)), ..Index::new(name, columns) }
    }

    /// Whether no two rows may have the same values.
    pub fn is_unique(&self) -> bool {
        self.entries.is_some()
    }

    /// Whether it may be asked.
    pub fn is_public(&self) -> bool {
        self.state == IndexState::Public
    }
}

/// Why a table's definition is refused, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvalidTable(pub String);

impl fmt::Display for InvalidTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidTable {}

impl Table {
    /// The place of the index of this name, whatever the case of its letters.
    pub fn index_named(&self, name: &str) -> Option<usize> {
        let name = name.to_lowercase();
        self.indexes.iter().position(|index| index.name.to_lowercase() == name)
    }

    /// Whether the definition makes sense.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn check(&self) -> Result<(), InvalidTable> {
        let fail = |what: String| Err(InvalidTable(format!("table `{}`: {what}", self.name)));
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return fail(format!("a name has 1 to {NAME_BYTES_MAX} bytes, not {}", self.name.len()));
        }
        if self.version == 0 || self.version > SCHEMA_VERSIONS_MAX {
            return fail(format!("schema versions are 1 to {SCHEMA_VERSIONS_MAX}, not {}", self.version));
        }
        if self.columns.is_empty() || self.columns.len() > COLUMNS_MAX {
            return fail(format!("a table has 1 to {COLUMNS_MAX} columns, not {}", self.columns.len()));
        }
        let mut names = BTreeSet::new();
        let mut since = 1;
        for column in &self.columns {
            if !names.insert(column.name.to_lowercase()) {
                return fail(format!("there are two columns `{}`; name one of them otherwise", column.name));
            }
            if column.since < since || column.since > self.version {
                return fail(format!(
                    "column `{}` is of schema version {}; it has to be {since} (its predecessor's) to {} (the table's)",
                    column.name, column.since, self.version
                ));
            }
            since = column.since;
            if let Err(what) = check_column(column) {
                return fail(format!("column `{}`: {what}", column.name));
            }
        }
        self.check_keys().and_then(|()| self.check_indexes()).or_else(fail)
    }

    fn check_indexes(&self) -> Result<(), String> {
        if self.indexes.len() > INDEXES_MAX {
            return Err(format!("{} indexes; {INDEXES_MAX} are allowed", self.indexes.len()));
        }
        let mut names = BTreeSet::new();
        for index in &self.indexes {
            let fault = |what: String| Err(format!("index `{}`: {what}", index.name));
            if index.name.is_empty() || index.name.len() > NAME_BYTES_MAX {
                return fault(format!("a name has 1 to {NAME_BYTES_MAX} bytes, not {}", index.name.len()));
            }
            if !names.insert(index.name.to_lowercase()) {
                return fault("there is another one of this name; name one of them otherwise".to_owned());
            }
            if index.is_unique() && index.columns.is_empty() {
                return fault("it is unique, and has no columns; name at least one".to_owned());
            }
            let mut bytes = 0;
            for (position, &column) in index.columns.iter().enumerate() {
                let Some(found) = self.columns.get(usize::from(column)) else {
                    return fault(format!("it names column {column} of {}", self.columns.len()));
                };
                if index.columns[..position].contains(&column) {
                    return fault(format!("column `{}` is named twice; name it once", found.name));
                }
                bytes += found.column_type.index_bytes_max();
            }
            if bytes > KEY_BYTES_MAX {
                return fault(format!("its columns may be {bytes} bytes long; the most is {KEY_BYTES_MAX}"));
            }
        }
        Ok(())
    }

    fn check_keys(&self) -> Result<(), String> {
        if self.primary_key.is_empty() {
            return Err("it has no primary key; name at least one column".to_owned());
        }
        let mut bytes = 0;
        for (position, &index) in self.primary_key.iter().enumerate() {
            let Some(column) = self.columns.get(usize::from(index)) else {
                return Err(format!("the primary key names column {index} of {}", self.columns.len()));
            };
            let fault = if self.primary_key[..position].contains(&index) {
                "is named twice; name it once"
            } else if column.nullable {
                "is nullable; declare it NOT NULL"
            } else if column.since > 1 {
                "was added later; only columns that the table began with can be part of it"
            } else if matches!(column.column_type, ColumnType::F32 | ColumnType::F64) {
                "is a float, and equality of floats is not what it seems; take an integer, text or binary"
            } else {
                bytes += column.column_type.bytes_max();
                continue;
            };
            return Err(format!("primary key: column `{}` {fault}", column.name));
        }
        if bytes > KEY_BYTES_MAX {
            return Err(format!(
                "the columns of the primary key may be {bytes} bytes long; the most is {KEY_BYTES_MAX}"
            ));
        }
        if self.distribution_key.is_empty() {
            return Err(
                "it has no distribution key; name a column of the primary key, or all of them".to_owned()
            );
        }
        let mut rest = self.primary_key.iter();
        for &index in &self.distribution_key {
            if !rest.any(|&column| column == index) {
                return Err(format!(
                    "the distribution key has to name columns of the primary key, each once and in its order, but \
                     names column {index} out of place"
                ));
            }
        }
        Ok(())
    }
}

fn check_column(column: &Column) -> Result<(), String> {
    if column.name.is_empty() || column.name.len() > NAME_BYTES_MAX {
        return Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes, not {}", column.name.len()));
    }
    if let Some(default) = &column.default {
        match column.fit(default.borrowed()) {
            Ok(fitted) if fitted == *default => {}
            Ok(fitted) => return Err(format!("the default {default:?} has to be given as {fitted:?}")),
            Err(code) => return Err(format!("the default {default:?}: {code}")),
        }
    }
    if column.since > 1 && column.default.is_none() && !column.nullable {
        return Err("a column that is added later needs a default, or has to be nullable".to_owned());
    }
    Ok(())
}

/// Where a column's value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the key, at this position of it.
    Key(usize),
    /// In the body, at this offset, with this width; NULL if this bit of the bitmap is set.
    Fixed { bit: usize, offset: usize, width: usize },
    /// In the body, behind so many other variable-width columns.
    Variable { bit: usize, rank: usize },
}

/// How rows of one or more versions of the schema are laid out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    /// The first version of the schema that has it.
    since: u32,
    /// Of each column; later versions may have more.
    pub places: Vec<Place>,
    /// Bytes of the null bitmap.
    pub bitmap: usize,
    /// How many bits of it are used.
    pub bits: usize,
    /// Where the variable-width columns begin.
    pub variable_start: usize,
    /// How many of them there are.
    pub variables: usize,
    /// The columns outside the key whose bytes may be wrong though they are no NULL: not those of integers.
    pub restricted: Vec<u16>,
}

impl Layout {
    fn new(table: &Table, since: u32) -> Layout {
        let columns = table.columns.iter().take_while(|column| column.since <= since);
        let bits = columns.clone().count() - table.primary_key.len();
        let bitmap = bits.div_ceil(8);
        let mut layout = Layout {
            since,
            places: vec![],
            bitmap,
            bits,
            variable_start: bitmap,
            variables: 0,
            restricted: vec![],
        };
        let mut bit = 0;
        for (index, column) in columns.enumerate() {
            if let Some(position) = table.primary_key.iter().position(|&key| usize::from(key) == index) {
                layout.places.push(Place::Key(position));
                continue;
            }
            if !matches!(column.column_type.family(), Family::Int | Family::UInt) {
                layout.restricted.push(index as u16);
            }
            layout.places.push(match column.column_type.width() {
                Some(width) => {
                    let offset = layout.variable_start;
                    layout.variable_start += width;
                    Place::Fixed { bit, offset, width }
                }
                None => {
                    layout.variables += 1;
                    Place::Variable { bit, rank: layout.variables - 1 }
                }
            });
            bit += 1;
        }
        layout
    }
}

/// How the distribution key is got from the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Distribution {
    /// It is the key.
    WholeKey,
    /// It is so many leading bytes of the key.
    Prefix(usize),
    /// Its columns have to be encoded anew.
    Columns,
}

/// A table that was checked, and the layout of its rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schema {
    table: Table,
    /// By ascending `since`.
    layouts: Vec<Layout>,
    has_unique: bool,
    pub(crate) distribution: Distribution,
}

impl Schema {
    /// Checks the table and lays out its rows.
    ///
    /// # Errors
    /// Those of [`Table::check`].
    pub fn new(table: Table) -> Result<Schema, InvalidTable> {
        table.check()?;
        let versions: BTreeSet<u32> = table.columns.iter().map(|column| column.since.max(1)).collect();
        let layouts = versions.into_iter().map(|version| Layout::new(&table, version)).collect();
        let distribution = distribution(&table);
        let has_unique = table.indexes.iter().any(Index::is_unique);
        Ok(Schema { table, layouts, has_unique, distribution })
    }

    /// Whether the table has a unique index, built or not.
    pub fn has_unique(&self) -> bool {
        self.has_unique
    }

    /// The definition.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The index of the column of this name, whatever the case of its letters.
    pub fn column_index(&self, name: &str) -> Option<u16> {
        let name = name.to_lowercase();
        self.columns.iter().position(|column| column.name.to_lowercase() == name).map(|index| index as u16)
    }

    /// The ordered index of this id.
    pub fn index(&self, id: IndexId) -> Option<&Index> {
        self.indexes.iter().find(|index| index.id == id)
    }

    /// Whether rows of equal distribution key may differ in their primary keys.
    pub fn groups_rows(&self) -> bool {
        self.distribution != Distribution::WholeKey
    }

    /// The layout of rows of this version of the schema; none of a version that is yet to come.
    #[inline]
    pub(crate) fn layout(&self, version: u32) -> Option<&Layout> {
        if version == 0 || version > self.version {
            return None;
        }
        self.layouts.iter().rev().find(|layout| layout.since <= version)
    }

    /// The layout of rows that are written now.
    pub(crate) fn newest_layout(&self) -> &Layout {
        self.layouts.last().expect("a schema has a layout")
    }
}

impl ops::Deref for Schema {
    type Target = Table;
    fn deref(&self) -> &Table {
        &self.table
    }
}

fn distribution(table: &Table) -> Distribution {
    let columns = table.distribution_key.len();
    if columns == table.primary_key.len() {
        return Distribution::WholeKey;
    }
    let width = |&index: &u16| table.columns[usize::from(index)].column_type.width();
    match table.distribution_key.iter().map(width).sum::<Option<usize>>() {
        Some(bytes) if table.primary_key[..columns] == table.distribution_key[..] => {
            Distribution::Prefix(bytes)
        }
        _ => Distribution::Columns,
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
pub(crate) mod tests;
