//! What a client is answered: OK, an error, or columns and rows.

use super::{
    capability,
    packet::{Packets, Put},
    status,
};
use crate::sql::{error::SqlError, temporal, types::SqlType, value::Datum};

/// Types of columns and placeholders on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Integers of one byte.
    Tiny = 1,
    /// Of two.
    Short = 2,
    /// Of four.
    Long = 3,
    /// Floats of four bytes.
    Float = 4,
    /// Of eight.
    Double = 5,
    /// NULL.
    Null = 6,
    /// Points in time.
    Timestamp = 7,
    /// Integers of eight bytes.
    LongLong = 8,
    /// Of three; four on the wire.
    Int24 = 9,
    /// Days.
    Date = 10,
    /// Spans and times of day.
    Time = 11,
    /// Days with the time of day.
    DateTime = 12,
    /// Years; two bytes on the wire.
    Year = 13,
    /// Decimals, as text.
    NewDecimal = 246,
    /// Long text and binary.
    Blob = 252,
    /// Text and binary.
    VarString = 253,
    /// Text and binary of a fixed length.
    String = 254,
}

impl Kind {
    /// Reads one; the kinds of text and binary are many.
    pub fn from_wire(byte: u8) -> Option<Kind> {
        use Kind::*;
        let all = [
            Tiny, Short, Long, Float, Double, Null, Timestamp, LongLong, Int24, Date, Time, DateTime, Year,
            NewDecimal, VarString, String,
        ];
        match byte {
            0 => Some(NewDecimal),
            15 | 16 | 245 | 247 | 248 | 255 => Some(VarString),
            249..=252 => Some(Blob),
            _ => all.into_iter().find(|kind| *kind as u8 == byte),
        }
    }
}

/// A column of a result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResultColumn {
    /// Its name.
    pub name: String,
    /// The column of a table that it shows, if it is one: database, table, column.
    pub origin: Option<Origin>,
    /// The name under which the statement has the table.
    pub alias: String,
    /// Its type.
    pub sql_type: SqlType,
    /// Whether it may be NULL.
    pub nullable: bool,
}

/// The column of a table that a result's column shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The database.
    pub database: String,
    /// The table.
    pub table: String,
    /// The column.
    pub column: String,
    /// It is in the primary key.
    pub in_key: bool,
    /// It counts by itself.
    pub auto_increment: bool,
}

impl ResultColumn {
    /// One that shows no table's column.
    pub fn computed(name: impl Into<String>, sql_type: SqlType) -> ResultColumn {
        ResultColumn { name: name.into(), origin: None, alias: String::new(), sql_type, nullable: true }
    }
}

const NOT_NULL: u16 = 1;
const PRIMARY_KEY: u16 = 1 << 1;
const BLOB: u16 = 1 << 4;
const UNSIGNED: u16 = 1 << 5;
const BINARY: u16 = 1 << 7;
const AUTO_INCREMENT: u16 = 1 << 9;
const NUMBER: u16 = 1 << 15;

/// What a statement that gives no rows has done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Rows that it changed, or found, if the client wants that.
    pub affected: u64,
    /// The first number that AUTO_INCREMENT chose; 0 if it chose none.
    pub insert_id: u64,
    /// For people.
    pub info: String,
}

/// Writes answers as this client understands them.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// What the client can do.
    pub capabilities: u32,
    /// The state of the session.
    pub status: u16,
    /// How many warnings the statement has given.
    pub warnings: u16,
}

impl Answers {
    fn deprecates_eof(&self) -> bool {
        self.capabilities & capability::DEPRECATE_EOF != 0
    }

    /// It is done.
    pub fn put_ok(&self, packets: &mut Packets, done: &Done) {
        self.put_ok_as(0, packets, done);
    }

    fn put_ok_as(&self, first: u8, packets: &mut Packets, done: &Done) {
        packets.put(|out| {
            out.push(first);
            out.put_number(done.affected);
            out.put_number(done.insert_id);
            out.put_u16(self.status);
            out.put_u16(self.warnings);
            // Though the description says otherwise, it has its length before it; nothing at all stands for none.
            if !done.info.is_empty() {
                out.put_string(done.info.as_bytes());
            }
        });
    }

    fn put_eof(&self, packets: &mut Packets) {
        packets.put(|out| {
            out.push(0xfe);
            out.put_u16(self.warnings);
            out.put_u16(self.status);
        });
    }

    /// The columns of a result; rows follow.
    pub fn put_columns(&self, packets: &mut Packets, columns: &[ResultColumn]) {
        packets.put(|out| out.put_number(columns.len() as u64));
        self.put_definitions(packets, columns);
    }

    fn put_definitions(&self, packets: &mut Packets, columns: &[ResultColumn]) {
        for column in columns {
            packets.put(|out| put_definition(out, column));
        }
        if !columns.is_empty() && !self.deprecates_eof() {
            self.put_eof(packets);
        }
    }

    /// There are no more rows.
    pub fn put_end(&self, packets: &mut Packets) {
        match self.deprecates_eof() {
            true => self.put_ok_as(0xfe, packets, &Done::default()),
            false => self.put_eof(packets),
        }
    }

    /// A statement is prepared under this number.
    pub fn put_prepared(
        &self,
        packets: &mut Packets,
        statement: u32,
        parameters: u16,
        columns: &[ResultColumn],
    ) {
        packets.put(|out| {
            out.push(0);
            out.put_u32(statement);
            out.put_u16(columns.len() as u16);
            out.put_u16(parameters);
            out.push(0);
            out.put_u16(self.warnings);
        });
        let text = SqlType::Varchar(0);
        let placeholders: Vec<ResultColumn> =
            (0..parameters).map(|_| ResultColumn::computed("?", text)).collect();
        self.put_definitions(packets, &placeholders);
        self.put_definitions(packets, columns);
    }

    /// Whether another result follows.
    pub fn with_more(self, more: bool) -> Answers {
        Answers { status: self.status | if more { status::MORE_RESULTS } else { 0 }, ..self }
    }
}

/// It has failed.
pub fn put_error(packets: &mut Packets, error: &SqlError) {
    packets.put(|out| {
        out.push(0xff);
        out.put_u16(error.code.number);
        out.push(b'#');
        out.extend_from_slice(error.code.state.as_bytes());
        // MySQL's own messages are shorter, and clients have buffers for them.
        out.extend_from_slice(excerpt(&error.text, 500).as_bytes());
    });
}

/// So many bytes of a text at most.
fn excerpt(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

fn put_definition(out: &mut Vec<u8>, column: &ResultColumn) {
    let origin = column.origin.as_ref();
    let of = |part: fn(&Origin) -> &str| origin.map_or("", part);
    out.put_string(b"def");
    out.put_string(of(|origin| &origin.database).as_bytes());
    out.put_string(column.alias.as_bytes());
    out.put_string(of(|origin| &origin.table).as_bytes());
    out.put_string(column.name.as_bytes());
    out.put_string(of(|origin| &origin.column).as_bytes());
    let sql_type = column.sql_type;
    let flag = |set: bool, flag: u16| if set { flag } else { 0 };
    let flags = flag(!column.nullable, NOT_NULL)
        | flag(origin.is_some_and(|origin| origin.in_key), PRIMARY_KEY)
        | flag(sql_type.is_long(), BLOB)
        | flag(sql_type.is_unsigned(), UNSIGNED)
        | flag(!sql_type.is_text(), BINARY)
        | flag(origin.is_some_and(|origin| origin.auto_increment), AUTO_INCREMENT)
        | flag(sql_type.is_number(), NUMBER);
    out.push(0x0c);
    out.put_u16(if sql_type.is_text() {
        super::collation::UTF8MB4_0900_BIN
    } else {
        super::collation::BINARY
    });
    out.put_u32(sql_type.display_width());
    out.push(sql_type.kind() as u8);
    out.put_u16(flags);
    out.push(sql_type.decimals());
    out.put_u16(0);
}

/// A row of a query's result.
pub fn put_text_row(packets: &mut Packets, columns: &[ResultColumn], row: &[Datum]) {
    packets.put(|out| {
        for (column, datum) in columns.iter().zip(row) {
            match datum {
                Datum::Null => out.push(0xfb),
                Datum::Text(text) => out.put_string(text.as_bytes()),
                Datum::Binary(bytes) => out.put_string(bytes),
                other => out.put_string(other.render(column.sql_type).as_bytes()),
            }
        }
    });
}

/// A row of a prepared statement's result.
pub fn put_binary_row(packets: &mut Packets, columns: &[ResultColumn], row: &[Datum]) {
    packets.put(|out| {
        out.push(0);
        let nulls = out.len();
        out.resize(nulls + (columns.len() + 2).div_ceil(8), 0);
        for (index, (column, datum)) in columns.iter().zip(row).enumerate() {
            if *datum == Datum::Null {
                out[nulls + (index + 2) / 8] |= 1 << ((index + 2) % 8);
            } else {
                put_binary(out, column.sql_type, datum);
            }
        }
    });
}

/// What the column's type says, whatever the value is.
fn put_binary(out: &mut Vec<u8>, sql_type: SqlType, datum: &Datum) {
    let integer = || datum.to_i128().unwrap_or(0) as u64;
    match sql_type.kind() {
        Kind::Tiny => out.push(integer() as u8),
        Kind::Short | Kind::Year => out.put_u16(integer() as u16),
        Kind::Long | Kind::Int24 => out.put_u32(integer() as u32),
        Kind::LongLong => out.extend_from_slice(&integer().to_le_bytes()),
        Kind::Float => out.extend_from_slice(&(datum.to_f64() as f32).to_le_bytes()),
        Kind::Double => out.extend_from_slice(&datum.to_f64().to_le_bytes()),
        Kind::Date | Kind::DateTime | Kind::Timestamp | Kind::Time => put_binary_time(out, datum),
        _ => match datum {
            Datum::Text(text) => out.put_string(text.as_bytes()),
            Datum::Binary(bytes) => out.put_string(bytes),
            other => out.put_string(other.render(sql_type).as_bytes()),
        },
    }
}

fn put_binary_time(out: &mut Vec<u8>, datum: &Datum) {
    let (days, micros) = match datum {
        Datum::Date(days) => (*days, 0),
        Datum::DateTime(at) => temporal::split(*at),
        _ => return out.push(0),
    };
    let (year, month, day) = temporal::civil(days);
    let seconds = micros / 1_000_000;
    let micros = (micros % 1_000_000) as u32;
    let length = match (seconds, micros) {
        (0, 0) => 4,
        (_, 0) => 7,
        _ => 11,
    };
    out.push(length);
    out.put_u16(year as u16);
    out.extend_from_slice(&[month as u8, day as u8]);
    if length > 4 {
        out.extend_from_slice(&[(seconds / 3600) as u8, (seconds / 60 % 60) as u8, (seconds % 60) as u8]);
    }
    if length > 7 {
        out.put_u32(micros);
    }
}

#[cfg(test)]
#[path = "result_tests.rs"]
mod tests;
