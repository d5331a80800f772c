//! What a client asks, and the values of a prepared statement's placeholders.

use super::{
    packet::{Payload, malformed},
    result::Kind,
};
use crate::sql::{
    error::{SqlError, codes},
    temporal,
    value::Datum,
};

/// A command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Ends the connection, without an answer.
    Quit,
    /// Uses this database.
    InitDb(&'a [u8]),
    /// Runs one or more statements.
    Query(&'a [u8]),
    /// Asks whether the server is there.
    Ping,
    /// Asks for figures in one line of text.
    Statistics,
    /// Begins anew as another user: the rest of it.
    ChangeUser(&'a [u8]),
    /// Begins anew as the same user.
    ResetConnection,
    /// Allows several statements in a query (0), or not (1).
    SetOption(u16),
    /// Prepares a statement.
    Prepare(&'a [u8]),
    /// Runs a prepared statement with these values, for [`Parameters::read`].
    Execute {
        /// The statement.
        statement: u32,
        /// Kind of cursor; 0 for none.
        cursor: u8,
        /// The values.
        values: &'a [u8],
    },
    /// Adds to the value of a placeholder.
    SendLongData {
        /// The statement.
        statement: u32,
        /// The placeholder.
        parameter: u16,
        /// What to add.
        data: &'a [u8],
    },
    /// Forgets a prepared statement, without an answer.
    CloseStatement(u32),
    /// Forgets the values that were added to.
    ResetStatement(u32),
}

impl<'a> Command<'a> {
    /// Reads a payload.
    ///
    /// # Errors
    /// 1235 for commands that are not supported, by their names; 1047 for those that there are not; 1835 for what is cut short.
    pub fn parse(payload: &'a [u8]) -> Result<Command<'a>, SqlError> {
        let mut rest = Payload(payload);
        let refused = |name: &str| Err(SqlError::not_supported(format_args!("command {name}")));
        Ok(match rest.u8()? {
            0x01 => Command::Quit,
            0x02 => Command::InitDb(rest.rest()),
            0x03 => Command::Query(rest.rest()),
            0x04 => return refused("COM_FIELD_LIST"),
            0x09 => Command::Statistics,
            0x0a => return refused("COM_PROCESS_INFO"),
            0x0c => return refused("COM_PROCESS_KILL"),
            0x0d => return refused("COM_DEBUG"),
            0x0e => Command::Ping,
            0x11 => Command::ChangeUser(rest.rest()),
            0x12 => return refused("COM_BINLOG_DUMP"),
            0x16 => Command::Prepare(rest.rest()),
            0x17 => {
                let (statement, cursor, _once) = (rest.u32()?, rest.u8()?, rest.u32()?);
                Command::Execute { statement, cursor, values: rest.rest() }
            }
            0x18 => {
                let (statement, parameter) = (rest.u32()?, rest.u16()?);
                Command::SendLongData { statement, parameter, data: rest.rest() }
            }
            0x19 => Command::CloseStatement(rest.u32()?),
            0x1a => Command::ResetStatement(rest.u32()?),
            0x1b => Command::SetOption(rest.u16()?),
            0x1c => return refused("COM_STMT_FETCH"),
            0x1f => Command::ResetConnection,
            other => {
                let text = format!("Unknown command 0x{other:02x}");
                return Err(SqlError::new(codes::UNKNOWN_COMMAND, text));
            }
        })
    }
}

/// What is known of a prepared statement's placeholders between its executions.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    /// Their types as they were sent last: a client may leave them out when they stay.
    types: Vec<(u8, bool)>,
    /// Values that were sent ahead, by placeholder.
    long: Vec<Option<Vec<u8>>>,
    long_bytes: usize,
}

impl Parameters {
    /// Of so many placeholders.
    pub fn new(count: usize) -> Parameters {
        Parameters { types: Vec::new(), long: vec![None; count], long_bytes: 0 }
    }

    /// Adds to a value. All of a statement's may have `most` bytes.
    ///
    /// # Errors
    /// 1210 for a placeholder that there is not, 1153 for too many bytes.
    pub fn append(&mut self, parameter: u16, data: &[u8], most: usize) -> Result<(), SqlError> {
        let Some(long) = self.long.get_mut(usize::from(parameter)) else {
            let text = format!("Incorrect arguments to mysqld_stmt_send_long_data: placeholder {parameter}");
            return Err(SqlError::new(codes::WRONG_ARGUMENTS, text));
        };
        if self.long_bytes + data.len() > most {
            let text = format!("Values sent ahead are bigger than 'max_allowed_packet' bytes ({most})");
            return Err(SqlError::new(codes::PACKET_TOO_LARGE, text));
        }
        self.long_bytes += data.len();
        long.get_or_insert_default().extend_from_slice(data);
        Ok(())
    }

    /// Bytes that were sent ahead.
    pub fn bytes(&self) -> usize {
        self.long_bytes
    }

    /// Forgets the values that were sent ahead.
    pub fn reset(&mut self) {
        self.long.fill(None);
        self.long_bytes = 0;
    }

    /// Reads the values of an execution; those sent ahead are used up.
    ///
    /// # Errors
    /// 1835 for bytes that make no sense, 1300 for text that is not UTF-8, 1210 where types were never sent.
    pub fn read(&mut self, values: &[u8]) -> Result<Vec<Datum>, SqlError> {
        let count = self.long.len();
        let long = std::mem::replace(&mut self.long, vec![None; count]);
        self.long_bytes = 0;
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut payload = Payload(values);
        let nulls = payload.bytes(count.div_ceil(8))?;
        if payload.u8()? == 1 {
            let types = payload.bytes(2 * count)?;
            self.types =
                types.as_chunks::<2>().0.iter().map(|&[kind, flags]| (kind, flags & 0x80 != 0)).collect();
        }
        if self.types.len() != count {
            let text = "Incorrect arguments to mysqld_stmt_execute: types have never been sent";
            return Err(SqlError::new(codes::WRONG_ARGUMENTS, text));
        }
        let mut datums = Vec::with_capacity(count);
        for (index, (&(kind, unsigned), long)) in self.types.iter().zip(long).enumerate() {
            let null = nulls[index / 8] & 1 << (index % 8) != 0;
            datums.push(match long {
                Some(bytes) => string(kind, &bytes)?,
                None if null => Datum::Null,
                None => value(kind, unsigned, &mut payload)?,
            });
        }
        Ok(datums)
    }
}

fn value(kind: u8, unsigned: bool, payload: &mut Payload<'_>) -> Result<Datum, SqlError> {
    let integer = |signed: i64, bits: u32| {
        let mask = u64::MAX >> (64 - bits);
        if unsigned { Datum::UInt(signed as u64 & mask) } else { Datum::Int(signed) }
    };
    Ok(match Kind::from_wire(kind).ok_or_else(|| unknown(kind))? {
        Kind::Null => Datum::Null,
        Kind::Tiny => integer(i8::from_le_bytes(payload.array()?).into(), 8),
        Kind::Short | Kind::Year => integer(i16::from_le_bytes(payload.array()?).into(), 16),
        Kind::Long | Kind::Int24 => integer(i32::from_le_bytes(payload.array()?).into(), 32),
        Kind::LongLong => integer(i64::from_le_bytes(payload.array()?), 64),
        Kind::Float => finite(f32::from_le_bytes(payload.array()?).into())?,
        Kind::Double => finite(f64::from_le_bytes(payload.array()?))?,
        Kind::Date | Kind::DateTime | Kind::Timestamp => date_time(kind, payload)?,
        Kind::Time => return Err(SqlError::not_supported("values of type TIME")),
        Kind::NewDecimal | Kind::VarString | Kind::String | Kind::Blob => string(kind, payload.string()?)?,
    })
}

fn finite(value: f64) -> Result<Datum, SqlError> {
    let text = "Incorrect arguments to mysqld_stmt_execute: a float is not finite";
    value
        .is_finite()
        .then_some(Datum::Double(value))
        .ok_or_else(|| SqlError::new(codes::WRONG_ARGUMENTS, text))
}

fn unknown(kind: u8) -> SqlError {
    SqlError::new(codes::WRONG_ARGUMENTS, format!("Incorrect arguments to mysqld_stmt_execute: type {kind}"))
}

fn date_time(kind: u8, payload: &mut Payload<'_>) -> Result<Datum, SqlError> {
    let length = payload.u8()?;
    let mut parts = Payload(payload.bytes(length.into())?);
    if !matches!(length, 0 | 4 | 7 | 11) {
        return Err(malformed());
    }
    let (mut date, mut time, mut micros) = ((0, 0, 0), (0, 0, 0), 0);
    if length >= 4 {
        date = (parts.u16()?, parts.u8()?, parts.u8()?);
    }
    if length >= 7 {
        time = (parts.u8()?, parts.u8()?, parts.u8()?);
    }
    if length == 11 {
        micros = parts.u32()?;
    }
    let days = temporal::days(date.0.into(), date.1.into(), date.2.into());
    let micros = temporal::micros_of_day(time.0.into(), time.1.into(), time.2.into(), micros);
    match (days, micros) {
        (Some(days), Some(_)) if Kind::from_wire(kind) == Some(Kind::Date) => Ok(Datum::Date(days)),
        (Some(days), Some(micros)) => Ok(Datum::DateTime(temporal::date_time(days, micros))),
        _ => Err(SqlError::new(codes::WRONG_VALUE, "Incorrect datetime value in a placeholder")),
    }
}

fn string(kind: u8, bytes: &[u8]) -> Result<Datum, SqlError> {
    // Clients send text and binary alike by the types of blobs and of strings: what is UTF-8 serves as both.
    match str::from_utf8(bytes) {
        Ok(text) => Ok(Datum::Text(text.to_owned())),
        Err(_) if Kind::from_wire(kind) == Some(Kind::NewDecimal) => Err(malformed()),
        Err(_) => Ok(Datum::Binary(bytes.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_commands() {
        assert_eq!(Command::parse(b"\x03SELECT 1"), Ok(Command::Query(b"SELECT 1")));
        assert_eq!(Command::parse(b"\x01"), Ok(Command::Quit));
        assert_eq!(Command::parse(b"\x1b\x01\x00"), Ok(Command::SetOption(1)));
        let execute = Command::Execute { statement: 1, cursor: 0, values: b"\0\x01\x03\0\x05\0\0\0" };
        assert_eq!(Command::parse(b"\x17\x01\0\0\0\0\x01\0\0\0\0\x01\x03\0\x05\0\0\0"), Ok(execute));
        let long = Command::SendLongData { statement: 2, parameter: 1, data: b"xy" };
        assert_eq!(Command::parse(b"\x18\x02\0\0\0\x01\0xy"), Ok(long));
        let number = |payload: &[u8]| Command::parse(payload).unwrap_err().number();
        assert_eq!(
            [number(b"\x04t\0"), number(b"\xee"), number(b""), number(b"\x19\x01")],
            [1235, 1047, 1835, 1835]
        );
    }

    #[test]
    fn values_keep_the_types_that_were_sent_last() {
        let mut parameters = Parameters::new(3);
        assert_eq!(parameters.read(b"\0\0").unwrap_err().number(), 1210);
        let first = b"\x02\x01\x01\x80\x06\0\xfd\0\xff\x02hi";
        let read = [Datum::UInt(255), Datum::Null, Datum::Text("hi".into())];
        assert_eq!(parameters.read(first).unwrap(), read);
        let again = [Datum::UInt(7), Datum::Null, Datum::Binary(vec![0xff])];
        assert_eq!(parameters.read(b"\0\0\x07\x01\xff").unwrap(), again);
        parameters.append(2, b"lo", 100).unwrap();
        parameters.append(2, b"ng", 100).unwrap();
        assert_eq!(parameters.append(2, &[0; 97], 100).unwrap_err().number(), 1153);
        assert_eq!(parameters.append(3, b"", 100).unwrap_err().number(), 1210);
        assert_eq!(parameters.read(b"\0\0\x07").unwrap()[2], Datum::Text("long".into()));
        assert_eq!(parameters.bytes(), 0);
        assert_eq!(parameters.read(b"\x04\0\x07").unwrap()[2], Datum::Null, "what was sent ahead is used up");
    }

    #[test]
    fn dates_come_in_four_lengths() {
        let read = |kind: u8, bytes: &[u8]| {
            Parameters::new(1).read(&[&[0, 1, kind, 0], bytes].concat()).map(|values| values[0].clone())
        };
        let (day, micros) = (temporal::days(2024, 2, 29).unwrap(), 1_500_000);
        assert_eq!(read(10, &[4, 232, 7, 2, 29]), Ok(Datum::Date(day)));
        assert_eq!(read(12, &[4, 232, 7, 2, 29]), Ok(Datum::DateTime(temporal::date_time(day, 0))));
        let long = [11, 232, 7, 2, 29, 0, 0, 1, 0x20, 0xa1, 7, 0];
        assert_eq!(read(7, &long), Ok(Datum::DateTime(temporal::date_time(day, micros))));
        assert_eq!(read(10, &[0]).unwrap_err().number(), 1292, "there is no day 0");
        assert_eq!(read(10, &[4, 231, 7, 2, 29]).unwrap_err().number(), 1292);
        assert_eq!(read(10, &[5, 231, 7, 2, 29, 1]).unwrap_err().number(), 1835);
        assert_eq!(read(11, &[0]).unwrap_err().number(), 1235);
        assert_eq!(read(4, &[0, 0, 192, 127]).unwrap_err().number(), 1210);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(count in 0usize..20, bytes: Vec<u8>) {
            let _ = Command::parse(&bytes);
            let mut parameters = Parameters::new(count);
            let _ = parameters.read(&bytes);
            let _ = parameters.read(&bytes);
        }
    }
}
