//! What a connection remembers from one statement to the next, but for its transaction.

use std::collections::BTreeMap;

use super::{
    error::{SqlError, codes},
    expression::Warnings,
    value::Datum,
};

/// The version that clients are told. They take what begins with 8 for a server of MySQL's dialect with all that is new in it.
pub const VERSION: &str = concat!("8.0.36-twofold-", env!("CARGO_PKG_VERSION"));
/// Bytes of a packet.
pub const PACKET_MAX: usize = 16 << 20;
/// The database of tables whose names in the catalog have no database.
pub const OWN_DATABASE: &str = "twofold";

/// What a transaction's reads are protected from, as MySQL names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isolation {
    /// Plain reads take no locks. READ UNCOMMITTED is raised to it.
    ReadCommitted,
    /// Every read is a locking read. REPEATABLE READ is raised to it.
    Serializable,
}

impl Isolation {
    /// As `@@transaction_isolation` has it.
    pub fn name(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "READ-COMMITTED",
            Isolation::Serializable => "SERIALIZABLE",
        }
    }

    /// By the name of a level, which may be raised.
    pub fn from_name(name: &str) -> Option<Isolation> {
        match name.to_uppercase().replace(' ', "-").as_str() {
            "READ-UNCOMMITTED" | "READ-COMMITTED" => Some(Isolation::ReadCommitted),
            "REPEATABLE-READ" | "SERIALIZABLE" => Some(Isolation::Serializable),
            _ => None,
        }
    }
}

/// A connection's state.
#[derive(Clone, Debug)]
pub struct Session {
    /// The connection's number.
    pub connection: u32,
    /// The database that names without one mean.
    pub database: Option<String>,
    /// Whether each statement is a transaction of its own unless one was begun.
    pub autocommit: bool,
    /// Of transactions to come.
    pub isolation: Isolation,
    /// Of the next transaction alone.
    pub next_isolation: Option<Isolation>,
    /// Whether transactions to come may only read.
    pub read_only: bool,
    /// Of the next transaction alone.
    pub next_read_only: Option<bool>,
    /// The first number that AUTO_INCREMENT chose in the last statement for which it chose one.
    pub last_insert_id: u64,
    /// Rows that the last statement changed; -1 of one that gave rows.
    pub row_count: i64,
    /// What the last statement has warned of.
    pub warnings: Warnings,
    /// Variables that were set and have no meaning of their own here.
    variables: BTreeMap<&'static str, Datum>,
}

/// How a variable may be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Settable {
    /// Not at all.
    No,
    /// To what it is: what another value would change is not supported.
    Same,
    /// To anything: it changes nothing here.
    Free,
    /// To one of these words.
    Words(&'static [&'static str]),
}

#[derive(Clone, Copy)]
enum Initial {
    Text(&'static str),
    Number(i64),
}

use Initial::{Number, Text};
use Settable::{Free, No, Same, Words};

const CHARSETS: Settable = Words(&["utf8mb4", "utf8", "utf8mb3", "binary", "null"]);
const COLLATIONS: Settable = Words(&["utf8mb4_0900_bin", "utf8mb4_bin", "utf8mb4_nopad_bin", "binary"]);
/// What is always so, and what makes no difference here.
const SQL_MODE: &str = "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,\
                        ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION";
const SQL_MODES: [&str; 11] = [
    "ONLY_FULL_GROUP_BY",
    "STRICT_TRANS_TABLES",
    "STRICT_ALL_TABLES",
    "NO_ZERO_IN_DATE",
    "NO_ZERO_DATE",
    "ERROR_FOR_DIVISION_BY_ZERO",
    "NO_ENGINE_SUBSTITUTION",
    "NO_AUTO_CREATE_USER",
    "TRADITIONAL",
    "NO_AUTO_VALUE_ON_ZERO",
    "",
];

/// Those that drivers and tools ask for, by name, ascending.
const VARIABLES: [(&str, Initial, Settable); 48] = [
    ("auto_increment_increment", Number(1), Same),
    ("auto_increment_offset", Number(1), Same),
    ("character_set_client", Text("utf8mb4"), CHARSETS),
    ("character_set_connection", Text("utf8mb4"), CHARSETS),
    ("character_set_database", Text("utf8mb4"), Same),
    ("character_set_results", Text("utf8mb4"), CHARSETS),
    ("character_set_server", Text("utf8mb4"), Same),
    ("character_set_system", Text("utf8mb3"), No),
    ("collation_connection", Text("utf8mb4_0900_bin"), COLLATIONS),
    ("collation_database", Text("utf8mb4_0900_bin"), Same),
    ("collation_server", Text("utf8mb4_0900_bin"), Same),
    ("default_storage_engine", Text("twofold"), Same),
    ("div_precision_increment", Number(4), Same),
    ("foreign_key_checks", Number(1), Free),
    ("have_openssl", Text("DISABLED"), No),
    ("have_ssl", Text("DISABLED"), No),
    ("init_connect", Text(""), Same),
    ("innodb_lock_wait_timeout", Number(50), Same),
    ("interactive_timeout", Number(28800), Free),
    ("license", Text("Apache-2.0"), No),
    ("lower_case_table_names", Number(0), No),
    ("max_allowed_packet", Number(PACKET_MAX as i64), Same),
    ("max_execution_time", Number(0), Same),
    ("net_buffer_length", Number(16384), Same),
    ("net_read_timeout", Number(30), Free),
    ("net_write_timeout", Number(60), Free),
    ("performance_schema", Number(0), No),
    ("protocol_version", Number(10), No),
    ("query_cache_size", Number(0), Same),
    ("query_cache_type", Text("OFF"), Same),
    ("sql_auto_is_null", Number(0), Same),
    ("sql_log_bin", Number(1), Same),
    ("sql_mode", Text(SQL_MODE), Same),
    ("sql_notes", Number(1), Free),
    ("sql_quote_show_create", Number(1), Free),
    ("sql_safe_updates", Number(0), Same),
    ("sql_select_limit", Text("18446744073709551615"), Same),
    ("sql_warnings", Number(0), Free),
    ("system_time_zone", Text("UTC"), No),
    ("time_zone", Text("SYSTEM"), Words(&["system", "utc", "+00:00", "-00:00", "+0:00"])),
    ("transaction_allow_batching", Number(0), Free),
    ("unique_checks", Number(1), Free),
    ("version", Text(VERSION), No),
    ("version_comment", Text("Twofold"), No),
    ("version_compile_machine", Text("x86_64"), No),
    ("version_compile_os", Text("Linux"), No),
    ("wait_timeout", Number(28800), Free),
    ("warning_count", Number(0), No),
];

impl Session {
    /// A new one.
    pub fn new(connection: u32) -> Session {
        Session {
            connection,
            database: None,
            autocommit: true,
            isolation: Isolation::ReadCommitted,
            next_isolation: None,
            read_only: false,
            next_read_only: None,
            last_insert_id: 0,
            row_count: -1,
            warnings: Warnings::default(),
            variables: BTreeMap::new(),
        }
    }

    /// The value of a variable of the system.
    ///
    /// # Errors
    /// 1193 if there is no such variable.
    pub fn variable(&self, name: &str) -> Result<Datum, SqlError> {
        let name = name.to_lowercase();
        Ok(match name.as_str() {
            "autocommit" => self.autocommit.into(),
            "transaction_isolation" | "tx_isolation" => self.isolation.name().into(),
            "transaction_read_only" | "tx_read_only" => self.read_only.into(),
            "last_insert_id" | "identity" => Datum::UInt(self.last_insert_id),
            "pseudo_thread_id" => Datum::UInt(self.connection.into()),
            "warning_count" => Datum::UInt(self.warnings.count as u64),
            "error_count" => Datum::UInt(0),
            _ => {
                let (known, default, _) = known(&name)?;
                match (self.variables.get(known), default) {
                    (Some(set), _) => set.clone(),
                    (None, Text(text)) => text.into(),
                    (None, Number(number)) => Datum::Int(number),
                }
            }
        })
    }

    /// All that have a name like that of SHOW VARIABLES, ascending.
    pub fn variables(&self) -> Vec<(&'static str, Datum)> {
        let own = ["autocommit", "transaction_isolation", "transaction_read_only"];
        let mut names: Vec<&str> = VARIABLES.iter().map(|(name, ..)| *name).chain(own).collect();
        names.sort_unstable();
        names.into_iter().filter_map(|name| Some((name, self.variable(name).ok()?))).collect()
    }

    /// Sets a variable of the session; `None`: to its default.
    ///
    /// # Errors
    /// 1193 for one that there is not, 1238 for one that cannot be set, 1231 for a value that makes no sense, 1235 for one that
    /// is not supported.
    pub fn set(&mut self, name: &str, value: Option<&Datum>) -> Result<(), SqlError> {
        let name = name.to_lowercase();
        let wrong = |value: &Datum| {
            let text = format!("Variable '{name}' can't be set to the value of '{}'", value.text());
            SqlError::new(codes::WRONG_VARIABLE_VALUE, text)
        };
        let flag = |value: Option<&Datum>, default: bool| match value {
            None => Ok(default),
            Some(value) => switch(value).ok_or_else(|| wrong(value)),
        };
        match name.as_str() {
            "autocommit" => self.autocommit = flag(value, true)?,
            "transaction_read_only" | "tx_read_only" => self.read_only = flag(value, false)?,
            "transaction_isolation" | "tx_isolation" => {
                let level = value.map_or("READ-COMMITTED".into(), Datum::text);
                self.isolation = Isolation::from_name(&level).ok_or_else(|| wrong(&Datum::Text(level)))?;
            }
            _ => {
                let (known, _, settable) = known(&name)?;
                let Some(value) = value else {
                    self.variables.remove(known);
                    return Ok(());
                };
                self.check(known, settable, value)?;
                self.variables.insert(known, value.clone());
            }
        }
        Ok(())
    }

    fn check(&self, name: &'static str, settable: Settable, value: &Datum) -> Result<(), SqlError> {
        let text = value.text();
        let unsupported = || Err(SqlError::not_supported(format_args!("{name} = '{text}'")));
        match settable {
            Free => Ok(()),
            No => Err(SqlError::new(
                codes::READ_ONLY_VARIABLE,
                format!("Variable '{name}' is a read only variable"),
            )),
            _ if name == "sql_mode" => {
                let modes: Vec<String> = text.split(',').map(|mode| mode.trim().to_uppercase()).collect();
                let strict = ["STRICT_TRANS_TABLES", "STRICT_ALL_TABLES", "TRADITIONAL"];
                let known = modes.iter().all(|mode| SQL_MODES.contains(&mode.as_str()));
                match known && modes.iter().any(|mode| strict.contains(&mode.as_str())) {
                    true => Ok(()),
                    false => unsupported(),
                }
            }
            Words(words) if words.contains(&text.to_lowercase().as_str()) => Ok(()),
            Same if switch(&self.variable(name)?).is_some()
                && switch(value) == switch(&self.variable(name)?) =>
            {
                Ok(())
            }
            Same if self.variable(name)?.text().eq_ignore_ascii_case(&text) => Ok(()),
            Words(_) | Same => unsupported(),
        }
    }

    /// SET NAMES.
    ///
    /// # Errors
    /// 1235 for character sets that are not supported.
    pub fn set_names(&mut self, charset: &str, collation: Option<&str>) -> Result<(), SqlError> {
        for name in ["character_set_client", "character_set_connection", "character_set_results"] {
            self.set(name, Some(&charset.into()))?;
        }
        match collation {
            Some(collation) => self.set("collation_connection", Some(&collation.into())),
            None => Ok(()),
        }
    }
}

fn known(name: &str) -> Result<(&'static str, Initial, Settable), SqlError> {
    let found = VARIABLES.binary_search_by_key(&name, |(known, ..)| known);
    found
        .map(|index| VARIABLES[index])
        .map_err(|_| SqlError::new(codes::UNKNOWN_VARIABLE, format!("Unknown system variable '{name}'")))
}

/// ON or OFF.
fn switch(value: &Datum) -> Option<bool> {
    match value.text().to_lowercase().as_str() {
        "1" | "on" | "true" => Some(true),
        "0" | "off" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_and_set() {
        assert!(VARIABLES.is_sorted_by_key(|(name, ..)| *name));
        let mut session = Session::new(7);
        assert_eq!(session.variable("VERSION_COMMENT"), Ok("Twofold".into()));
        assert_eq!(session.variable("nothing").unwrap_err().number(), 1193);
        let number = |session: &mut Session, name: &str, value: &str| {
            session.set(name, Some(&value.into())).map_err(|error| error.number())
        };
        assert_eq!(number(&mut session, "version", "9"), Err(1238));
        assert_eq!(number(&mut session, "autocommit", "maybe"), Err(1231));
        assert_eq!(number(&mut session, "autocommit", "OFF"), Ok(()));
        assert!(!session.autocommit);
        assert_eq!(number(&mut session, "time_zone", "Europe/Berlin"), Err(1235));
        assert_eq!(number(&mut session, "time_zone", "+00:00"), Ok(()));
        assert_eq!(session.variable("time_zone"), Ok("+00:00".into()));
        assert_eq!(number(&mut session, "sql_mode", "ANSI_QUOTES,STRICT_TRANS_TABLES"), Err(1235));
        assert_eq!(number(&mut session, "sql_mode", "strict_trans_tables"), Ok(()));
        assert_eq!(number(&mut session, "sql_mode", ""), Err(1235));
        assert_eq!(session.set("sql_mode", None), Ok(()));
        assert_eq!(session.variable("sql_mode"), Ok(SQL_MODE.into()));
        assert_eq!(number(&mut session, "transaction_isolation", "REPEATABLE READ"), Ok(()));
        assert_eq!(session.isolation, Isolation::Serializable);
        assert_eq!(session.set_names("latin1", None).unwrap_err().number(), 1235);
        assert_eq!(session.set_names("utf8mb4", Some("utf8mb4_bin")), Ok(()));
        assert!(session.variables().is_sorted_by_key(|(name, _)| *name));
    }
}
