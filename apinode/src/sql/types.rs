//! SQL's types, and how columns of them are kept by the cluster.

use std::fmt;

use twofold_proto::{
    limits::ROW_BYTES_MAX,
    schema::{Column, ColumnType},
};

use super::{decimal, wire::result::Kind};

/// Digits of a DECIMAL column: it is kept as an integer of 64 bits.
pub const COLUMN_DIGITS_MAX: u8 = 18;
/// The number of decimals by which a float is told to have none that are fixed.
pub const NOT_FIXED: u8 = 31;

/// A type of columns, or of an expression's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SqlType {
    /// Of NULL alone.
    Null,
    /// BOOL, which is TINYINT(1).
    Bool,
    /// Whole numbers of 1, 2, 3, 4 or 8 bytes.
    Integer {
        /// How many bytes.
        bytes: u8,
        /// No negative ones.
        unsigned: bool,
    },
    /// Exact numbers.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits behind the point.
        scale: u8,
    },
    /// IEEE 754, 32 bits.
    Float,
    /// IEEE 754, 64 bits.
    Double,
    /// So many characters at most; spaces at the end are not kept.
    Char(u32),
    /// So many characters at most.
    Varchar(u32),
    /// TINYTEXT, TEXT, MEDIUMTEXT or LONGTEXT, by the bytes that it may have there.
    Text(u32),
    /// So many bytes; shorter ones end with zeros.
    Binary(u32),
    /// So many bytes at most.
    Varbinary(u32),
    /// TINYBLOB, BLOB, MEDIUMBLOB or LONGBLOB, by the bytes that it may have there.
    Blob(u32),
    /// Days.
    Date,
    /// Days with the time, of so many digits behind the second.
    DateTime(u8),
    /// Points in time, of so many digits behind the second.
    Timestamp(u8),
}

use SqlType::*;

impl SqlType {
    /// BIGINT.
    pub const BIGINT: SqlType = Integer { bytes: 8, unsigned: false };
    /// BIGINT UNSIGNED.
    pub const UNSIGNED: SqlType = Integer { bytes: 8, unsigned: true };

    /// The type of a column of the cluster; what SQL has declared of it says more than the cluster knows.
    pub fn of_column(column: &Column) -> SqlType {
        if let Some(declared) = Declared::parse(&column.declared) {
            return declared.sql_type;
        }
        let integer = |bytes, unsigned| Integer { bytes, unsigned };
        match column.column_type {
            ColumnType::Bool => Bool,
            ColumnType::I8 => integer(1, false),
            ColumnType::I16 => integer(2, false),
            ColumnType::I32 => integer(4, false),
            ColumnType::I64 => integer(8, false),
            ColumnType::U8 => integer(1, true),
            ColumnType::U16 => integer(2, true),
            ColumnType::U32 => integer(4, true),
            ColumnType::U64 => integer(8, true),
            ColumnType::F32 => Float,
            ColumnType::F64 => Double,
            ColumnType::Date => Date,
            ColumnType::DateTime => DateTime(6),
            ColumnType::Timestamp => Timestamp(6),
            ColumnType::Text { max_chars } => Varchar(max_chars),
            ColumnType::Binary { max_bytes } => Varbinary(max_bytes),
        }
    }

    /// How the cluster keeps columns of this type.
    pub fn column_type(self) -> ColumnType {
        let most = |count: u32| count.min(ROW_BYTES_MAX as u32);
        match self {
            Null | Bool | Integer { bytes: 1, unsigned: false } => ColumnType::I8,
            Integer { bytes: 1, unsigned: true } => ColumnType::U8,
            Integer { bytes: 2, unsigned: false } => ColumnType::I16,
            Integer { bytes: 2, unsigned: true } => ColumnType::U16,
            Integer { bytes: 3 | 4, unsigned: false } => ColumnType::I32,
            Integer { bytes: 3 | 4, unsigned: true } => ColumnType::U32,
            Integer { unsigned: false, .. } | Decimal { .. } => ColumnType::I64,
            Integer { unsigned: true, .. } => ColumnType::U64,
            Float => ColumnType::F32,
            Double => ColumnType::F64,
            Char(chars) | Varchar(chars) | Text(chars) => ColumnType::Text { max_chars: most(chars) },
            Binary(bytes) | Varbinary(bytes) | Blob(bytes) => ColumnType::Binary { max_bytes: most(bytes) },
            Date => ColumnType::Date,
            DateTime(_) => ColumnType::DateTime,
            Timestamp(_) => ColumnType::Timestamp,
        }
    }

    /// The least and the most that an integer type holds.
    pub fn integer_range(self) -> Option<(i128, i128)> {
        let (bytes, unsigned) = match self {
            Bool => (1, false),
            Integer { bytes, unsigned } => (bytes, unsigned),
            _ => return None,
        };
        let values = 1i128 << (8 * u32::from(bytes));
        Some(if unsigned { (0, values - 1) } else { (-values / 2, values / 2 - 1) })
    }

    /// The most digits, without the point, that a DECIMAL holds.
    pub fn decimal_bound(self) -> Option<decimal::Decimal> {
        let Decimal { precision, scale } = self else { return None };
        let digits = 10i128.checked_pow(precision.into())? - 1;
        Some(decimal::Decimal { digits, scale })
    }

    /// Its kind on the wire.
    pub fn kind(self) -> Kind {
        match self {
            Null => Kind::Null,
            Bool | Integer { bytes: 1, .. } => Kind::Tiny,
            Integer { bytes: 2, .. } => Kind::Short,
            Integer { bytes: 3, .. } => Kind::Int24,
            Integer { bytes: 4, .. } => Kind::Long,
            Integer { .. } => Kind::LongLong,
            Decimal { .. } => Kind::NewDecimal,
            Float => Kind::Float,
            Double => Kind::Double,
            Char(_) | Binary(_) => Kind::String,
            Varchar(_) | Varbinary(_) => Kind::VarString,
            Text(_) | Blob(_) => Kind::Blob,
            Date => Kind::Date,
            DateTime(_) => Kind::DateTime,
            Timestamp(_) => Kind::Timestamp,
        }
    }

    /// Bytes or characters that a value takes when it is shown, at most.
    pub fn display_width(self) -> u32 {
        let fraction = |digits: u8| if digits > 0 { u32::from(digits) + 1 } else { 0 };
        match self {
            Null => 0,
            Bool => 1,
            Integer { bytes: 1, unsigned } => 4 - u32::from(unsigned),
            Integer { bytes: 2, unsigned } => 6 - u32::from(unsigned),
            Integer { bytes: 3, unsigned } => 9 - u32::from(unsigned),
            Integer { bytes: 4, unsigned } => 11 - u32::from(unsigned),
            Integer { .. } => 20,
            Decimal { precision, scale } => u32::from(precision) + 1 + u32::from(scale > 0),
            Float => 12,
            Double => 22,
            Char(chars) | Varchar(chars) => chars.saturating_mul(4),
            Text(bytes) | Blob(bytes) | Binary(bytes) | Varbinary(bytes) => bytes,
            Date => 10,
            DateTime(digits) | Timestamp(digits) => 19 + fraction(digits),
        }
    }

    /// Digits behind the point; [`NOT_FIXED`] for floats.
    pub fn decimals(self) -> u8 {
        match self {
            Decimal { scale, .. } => scale,
            Float | Double => NOT_FIXED,
            DateTime(digits) | Timestamp(digits) => digits,
            _ => 0,
        }
    }

    /// Text of characters.
    pub fn is_text(self) -> bool {
        matches!(self, Char(_) | Varchar(_) | Text(_))
    }

    /// Text of bytes.
    pub fn is_binary(self) -> bool {
        matches!(self, Binary(_) | Varbinary(_) | Blob(_))
    }

    /// One of the TEXT and BLOB types.
    pub fn is_long(self) -> bool {
        matches!(self, Text(_) | Blob(_))
    }

    /// Numbers.
    pub fn is_number(self) -> bool {
        self.is_integer() || matches!(self, Decimal { .. } | Float | Double)
    }

    /// Whole numbers.
    pub fn is_integer(self) -> bool {
        matches!(self, Bool | Integer { .. })
    }

    /// Days and times.
    pub fn is_temporal(self) -> bool {
        matches!(self, Date | DateTime(_) | Timestamp(_))
    }

    /// Numbers that are not negative.
    pub fn is_unsigned(self) -> bool {
        matches!(self, Integer { unsigned: true, .. })
    }
}

/// As SHOW CREATE TABLE writes it.
impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_digits = |f: &mut fmt::Formatter<'_>, name: &str, digits: u8| match digits {
            0 => f.write_str(name),
            _ => write!(f, "{name}({digits})"),
        };
        let by_size = |f: &mut fmt::Formatter<'_>, name: &str, bytes: u32| {
            let size = match bytes {
                0..=0xff => "tiny",
                0x100..=0xffff => "",
                0x1_0000..=0xff_ffff => "medium",
                _ => "long",
            };
            write!(f, "{size}{name}")
        };
        match *self {
            Null => f.write_str("null"),
            Bool => f.write_str("tinyint(1)"),
            Integer { bytes, unsigned } => {
                let name = match bytes {
                    1 => "tinyint",
                    2 => "smallint",
                    3 => "mediumint",
                    4 => "int",
                    _ => "bigint",
                };
                write!(f, "{name}{}", if unsigned { " unsigned" } else { "" })
            }
            Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Float => f.write_str("float"),
            Double => f.write_str("double"),
            Char(chars) => write!(f, "char({chars})"),
            Varchar(chars) => write!(f, "varchar({chars})"),
            Text(bytes) => by_size(f, "text", bytes),
            Binary(bytes) => write!(f, "binary({bytes})"),
            Varbinary(bytes) => write!(f, "varbinary({bytes})"),
            Blob(bytes) => by_size(f, "blob", bytes),
            Date => f.write_str("date"),
            DateTime(digits) => with_digits(f, "datetime", digits),
            Timestamp(digits) => with_digits(f, "timestamp", digits),
        }
    }
}

/// What SQL has declared of a column, as the catalog keeps it with the column: a type, and what it does by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Declared {
    /// The type.
    pub sql_type: SqlType,
    /// It counts by itself.
    pub auto_increment: bool,
    /// It is now where nothing is said.
    pub default_now: bool,
    /// It is now after each change of its row.
    pub update_now: bool,
}

const AUTO_INCREMENT: &str = " auto_increment";
const DEFAULT_NOW: &str = " default now";
const UPDATE_NOW: &str = " on update now";

impl Declared {
    /// A column of this type that does nothing by itself.
    pub fn new(sql_type: SqlType) -> Declared {
        Declared { sql_type, auto_increment: false, default_now: false, update_now: false }
    }

    /// Of a column of the cluster, by whomever it was made.
    pub fn of_column(column: &Column) -> Declared {
        Declared::parse(&column.declared).unwrap_or_else(|| Declared::new(SqlType::of_column(column)))
    }

    /// Reads what [`Declared`] writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Declared> {
        let mut rest = text;
        let mut ends_with = |part: &str| match rest.strip_suffix(part) {
            Some(before) => {
                rest = before;
                true
            }
            None => false,
        };
        let update_now = ends_with(UPDATE_NOW);
        let default_now = ends_with(DEFAULT_NOW);
        let auto_increment = ends_with(AUTO_INCREMENT);
        Some(Declared { sql_type: parse_type(rest)?, auto_increment, default_now, update_now })
    }
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |said: bool, part: &'static str| if said { part } else { "" };
        let auto_increment = part(self.auto_increment, AUTO_INCREMENT);
        let (default, update) = (part(self.default_now, DEFAULT_NOW), part(self.update_now, UPDATE_NOW));
        write!(f, "{}{auto_increment}{default}{update}", self.sql_type)
    }
}

fn parse_type(text: &str) -> Option<SqlType> {
    let (text, unsigned) = match text.strip_suffix(" unsigned") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (name, arguments) = match text.strip_suffix(')') {
        Some(open) => open.split_once('(')?,
        None => (text, ""),
    };
    let one = || arguments.parse::<u32>().ok();
    let digits = || if arguments.is_empty() { Some(0) } else { arguments.parse::<u8>().ok() };
    let integer = |bytes| Some(Integer { bytes, unsigned });
    match name {
        "tinyint" if arguments == "1" => Some(Bool),
        "tinyint" => integer(1),
        "smallint" => integer(2),
        "mediumint" => integer(3),
        "int" => integer(4),
        "bigint" => integer(8),
        "decimal" => {
            let (precision, scale) = arguments.split_once(',')?;
            Some(Decimal { precision: precision.parse().ok()?, scale: scale.parse().ok()? })
        }
        "float" => Some(Float),
        "double" => Some(Double),
        "char" => Some(Char(one()?)),
        "varchar" => Some(Varchar(one()?)),
        "binary" => Some(Binary(one()?)),
        "varbinary" => Some(Varbinary(one()?)),
        "tinytext" => Some(Text(0xff)),
        "text" => Some(Text(0xffff)),
        "mediumtext" => Some(Text(0xff_ffff)),
        "longtext" => Some(Text(u32::MAX)),
        "tinyblob" => Some(Blob(0xff)),
        "blob" => Some(Blob(0xffff)),
        "mediumblob" => Some(Blob(0xff_ffff)),
        "longblob" => Some(Blob(u32::MAX)),
        "date" => Some(Date),
        "datetime" => Some(DateTime(digits()?)),
        "timestamp" => Some(Timestamp(digits()?)),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One of each kind.
    pub(crate) fn all() -> Vec<SqlType> {
        let mut all = vec![Bool, Float, Double, Char(3), Varchar(300), Binary(16), Varbinary(20), Date];
        for bytes in [1, 2, 3, 4, 8] {
            all.extend([Integer { bytes, unsigned: false }, Integer { bytes, unsigned: true }]);
        }
        for bytes in [0xff, 0xffff, 0xff_ffff, u32::MAX] {
            all.extend([Text(bytes), Blob(bytes)]);
        }
        all.extend([
            DateTime(0),
            DateTime(3),
            Timestamp(0),
            Timestamp(6),
            Decimal { precision: 10, scale: 2 },
        ]);
        all
    }

    #[test]
    fn what_is_declared_survives_the_catalog() {
        for sql_type in all() {
            for bits in 0..8 {
                let flag = |bit: u8| bits & bit != 0;
                let declared =
                    Declared { sql_type, auto_increment: flag(1), default_now: flag(2), update_now: flag(4) };
                assert_eq!(Declared::parse(&declared.to_string()), Some(declared));
            }
            let column = Column::new("c", sql_type.column_type());
            let column = Column { declared: Declared::new(sql_type).to_string(), ..column };
            assert_eq!(SqlType::of_column(&column), sql_type);
        }
        assert_eq!(Declared::parse(""), None);
        assert_eq!(Declared::parse("point"), None);
    }

    #[test]
    fn columns_of_other_frontends_have_types_too() {
        let of = |column_type| SqlType::of_column(&Column::new("c", column_type)).to_string();
        assert_eq!(of(ColumnType::U32), "int unsigned");
        assert_eq!(of(ColumnType::Text { max_chars: 7 }), "varchar(7)");
        assert_eq!(of(ColumnType::Timestamp), "timestamp(6)");
        assert_eq!(of(ColumnType::Bool), "tinyint(1)");
    }

    #[test]
    fn ranges() {
        assert_eq!(Integer { bytes: 3, unsigned: false }.integer_range(), Some((-8_388_608, 8_388_607)));
        assert_eq!(SqlType::UNSIGNED.integer_range(), Some((0, u64::MAX.into())));
        assert_eq!(Decimal { precision: 4, scale: 2 }.decimal_bound().unwrap().to_string(), "99.99");
    }
}
