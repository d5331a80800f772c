//! Prepared statements of a connection.

use std::{collections::BTreeMap, rc::Rc};

use twofold_apinode::sql::{
    bind::Statement,
    error::{SqlError, codes},
    parse::{Parsed, parse, text},
    session::PACKET_MAX,
    wire::command::Parameters,
};

/// Prepared statements of a connection, and bytes of their texts and of values that were sent ahead.
const STATEMENTS_MAX: usize = 16_382;
const BYTES_MAX: usize = 2 * PACKET_MAX;

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Prepared {
    pub parsed: Rc<Parsed>,
    pub parameters: Parameters,
    /// The database that was used, and the catalog's version, when it was bound last; the result, unless it holds once only.
    pub bound: Option<(Option<String>, u64, Rc<Statement>)>,
    text_bytes: usize,
}

/// All of a connection.
#[derive(Debug, Default)]
pub(super) struct PreparedStatements {
    by_number: BTreeMap<u32, Prepared>,
    last: u32,
    bytes: usize,
}

impl PreparedStatements {
    /// Prepares a statement, and gives its number.
    pub fn add(&mut self, query: &[u8]) -> Result<u32, SqlError> {
        let statements = text::split(query)?;
        let statement = match &statements[..] {
            [statement] => statement,
            [] => return Err(SqlError::new(codes::EMPTY_QUERY, "Query was empty")),
            _ => {
                let text = "You have an error in your SQL syntax: a prepared statement is one statement";
                return Err(SqlError::new(codes::SYNTAX, text));
            }
        };
        if self.by_number.len() == STATEMENTS_MAX || self.bytes + statement.len() > BYTES_MAX {
            let text = format!(
                "Can't create more than {STATEMENTS_MAX} prepared statements, or {BYTES_MAX} bytes of them"
            );
            return Err(SqlError::new(codes::TOO_MANY_PREPARED, text));
        }
        let parsed = Rc::new(parse(statement)?);
        let parameters = Parameters::new(parsed.placeholders());
        self.bytes += statement.len();
        // Numbers that are in use are passed over when they come round again.
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            if !self.by_number.contains_key(&self.last) {
                break;
            }
        }
        let prepared = Prepared { parsed, parameters, bound: None, text_bytes: statement.len() };
        self.by_number.insert(self.last, prepared);
        Ok(self.last)
    }

    /// The statement of this number.
    pub fn get(&mut self, number: u32, what: &str) -> Result<&mut Prepared, SqlError> {
        self.by_number.get_mut(&number).ok_or_else(|| {
            let text = format!("Unknown prepared statement handler ({number}) given to {what}");
            SqlError::new(codes::UNKNOWN_PREPARED, text)
        })
    }

    /// Adds to a value of a statement.
    pub fn append(&mut self, number: u32, parameter: u16, data: &[u8]) -> Result<(), SqlError> {
        let others: usize = self.by_number.values().map(|prepared| prepared.parameters.bytes()).sum();
        let room = BYTES_MAX.saturating_sub(others);
        let prepared = self.get(number, "mysqld_stmt_send_long_data")?;
        let own = prepared.parameters.bytes();
        prepared.parameters.append(parameter, data, room.saturating_add(own).min(PACKET_MAX))
    }

    /// Forgets a statement.
    pub fn close(&mut self, number: u32) {
        if let Some(prepared) = self.by_number.remove(&number) {
            self.bytes -= prepared.text_bytes;
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.by_number.clear();
        self.bytes = 0;
    }
}
