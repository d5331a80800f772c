//! DBT2 by SQL: any server that speaks MySQL's protocol and takes these statements, which are MySQL's.

use std::{fmt::Write as _, time::Duration};

use mysql_async::{
    Conn, Error, Opts, OptsBuilder, Params, Row as Found, Value as Sql,
    prelude::{Query as _, Queryable as _},
};
use tokio::time::timeout;
use twofold_apinode::sql::types::SqlType;
use twofold_proto::{config::Address, value::Value};

use super::{
    driver::{Database, Numbers, Session, Target},
    population::Row,
    schema::{Definition, LOADED, TABLES},
    transactions::{Done, Fault, FaultClass, Transaction},
};

/// Statements that a connection keeps prepared: more than the transactions have.
const STATEMENTS: usize = 128;
/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long a statement may take before its connection counts as broken.
const STATEMENT_TIME: Duration = Duration::from_secs(60);

/// MySQL's error numbers.
const LOCK_WAIT_TIMEOUT: u16 = 1205;
const DEADLOCK: u16 = 1213;
const TEMPORARY: u16 = 1297;
const ERROR_DURING_COMMIT: u16 = 1180;

/// A server, and how to get in.
#[derive(Clone, Debug)]
pub struct Server {
    opts: Opts,
    database: String,
    version: String,
}

impl Server {
    /// Asks a server what it is.
    ///
    /// # Errors
    /// If there is none, or it lets nobody in.
    pub async fn find(
        address: &Address,
        user: &str,
        password: Option<String>,
        database: &str,
    ) -> Result<Server, Fault> {
        let opts = OptsBuilder::default()
            .ip_or_hostname(address.host.clone())
            .tcp_port(address.port)
            .user(Some(user))
            .pass(password)
            .prefer_socket(false)
            .stmt_cache_size(STATEMENTS);
        let mut server = Server { opts: opts.into(), database: database.into(), version: String::new() };
        let mut session = server.session().await?;
        let row = session.first("SELECT @@version_comment, @@version", ()).await?;
        server.version = match row {
            Some(row) => format!("{} {}", text(&row, 0)?, text(&row, 1)?),
            None => return Err(failed("the server has no version")),
        };
        Ok(server)
    }

    async fn session(&self) -> Result<SqlSession, Fault> {
        let mut session = SqlSession { server: self.clone(), conn: None, committing: false };
        session.conn().await?;
        Ok(session)
    }
}

impl Target for Server {
    type Database = Server;

    fn told(&self) -> String {
        self.version.clone()
    }

    async fn open(&self, _: u16) -> Result<Server, Fault> {
        Ok(self.clone())
    }
}

impl Database for Server {
    type Session = SqlSession;

    async fn create_tables(&self) -> Result<(), Fault> {
        let mut session = self.session().await?;
        session.run_text(&format!("CREATE DATABASE IF NOT EXISTS {}", self.database)).await?;
        session.run_text(&format!("USE {}", self.database)).await?;
        for table in TABLES {
            session.run_text(&format!("DROP TABLE IF EXISTS {}", table.name)).await?;
            // Elsewhere it would only split a single server's tables.
            let partitioned = self.version.contains("Twofold") && table.placed_by().is_some();
            session.run_text(&table.create(partitioned)).await?;
        }
        Ok(())
    }

    async fn connect(&self) -> Result<SqlSession, Fault> {
        let mut session = self.session().await?;
        session.run_text(&format!("USE {}", self.database)).await?;
        Ok(session)
    }
}

/// A connection. One that has broken is made anew when it is needed.
#[derive(Debug)]
pub struct SqlSession {
    server: Server,
    conn: Option<Conn>,
    /// Whether a COMMIT is under way, so that a lost answer leaves it open what happened.
    committing: bool,
}

/// Something that will never work.
pub(super) fn failed(text: impl Into<String>) -> Fault {
    let text = text.into();
    Fault { class: FaultClass::Failed, name: text.clone(), text }
}

impl SqlSession {
    async fn conn(&mut self) -> Result<&mut Conn, Fault> {
        if self.conn.is_none() {
            let connecting = timeout(CONNECT_TIME, Conn::new(self.server.opts.clone())).await;
            let mut conn = match connecting {
                Ok(Ok(conn)) => conn,
                Ok(Err(error)) => return Err(fault(&error, false)),
                Err(_) => return Err(broken("the server does not answer", false)),
            };
            // The same on all servers: transactions lock what they rely on.
            let level = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".ignore(&mut conn).await;
            level.map_err(|error| fault(&error, false))?;
            if !self.server.database.is_empty() && !self.server.version.is_empty() {
                let used = format!("USE {}", self.server.database);
                // It is not there before the first load.
                let _ = used.ignore(&mut conn).await;
            }
            self.conn = Some(conn);
        }
        self.conn.as_mut().ok_or_else(|| failed("there is no connection"))
    }

    /// What a statement's result is, as all see it: a connection that has failed is dropped.
    fn settle<T>(
        &mut self,
        result: Result<Result<T, Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, Fault> {
        let fault = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => {
                if error.is_fatal() {
                    self.conn = None;
                }
                fault(&error, self.committing)
            }
            Err(_) => {
                self.conn = None;
                broken("a statement was not answered in time", self.committing)
            }
        };
        Err(fault)
    }

    pub(super) async fn run_text(&mut self, statement: &str) -> Result<(), Fault> {
        let conn = self.conn().await?;
        let result = timeout(STATEMENT_TIME, statement.ignore(conn)).await;
        self.settle(result)
    }

    /// Runs a prepared statement; how many rows it has changed.
    pub(super) async fn change(&mut self, statement: &str, values: impl Into<Params>) -> Result<u64, Fault> {
        let conn = self.conn().await?;
        let values = values.into();
        let result = timeout(STATEMENT_TIME, async {
            conn.exec_drop(statement, values).await?;
            Ok(conn.affected_rows())
        });
        let result = result.await;
        self.settle(result)
    }

    /// Runs a prepared query.
    pub(super) async fn rows(&mut self, query: &str, values: impl Into<Params>) -> Result<Vec<Found>, Fault> {
        let conn = self.conn().await?;
        let result = timeout(STATEMENT_TIME, conn.exec(query, values.into())).await;
        self.settle(result)
    }

    pub(super) async fn first(
        &mut self,
        query: &str,
        values: impl Into<Params>,
    ) -> Result<Option<Found>, Fault> {
        Ok(self.rows(query, values).await?.into_iter().next())
    }

    /// Runs one that must have a row.
    pub(super) async fn one(&mut self, query: &str, values: impl Into<Params>) -> Result<Found, Fault> {
        let missing = || failed(format!("there is no row: {query}"));
        self.first(query, values).await?.ok_or_else(missing)
    }

    pub(super) async fn commit(&mut self) -> Result<(), Fault> {
        self.committing = true;
        let result = self.run_text("COMMIT").await;
        self.committing = false;
        result
    }
}

impl Session for SqlSession {
    async fn insert(&mut self, table: &'static Definition, rows: &[Row]) -> Result<(), Fault> {
        let mut statement = format!("INSERT INTO {} VALUES ", table.name);
        for (place, row) in rows.iter().enumerate() {
            statement += if place == 0 { "(" } else { ", (" };
            for (place, (value, (_, sql_type))) in row.iter().zip(table.columns).enumerate() {
                if place > 0 {
                    statement.push(',');
                }
                write_literal(&mut statement, value, *sql_type);
            }
            statement.push(')');
        }
        self.run_text(&statement).await
    }

    async fn note(&mut self, name: &str, value: i64) -> Result<(), Fault> {
        let statement = format!("REPLACE INTO {} VALUES ('{name}', {value})", LOADED.name);
        self.run_text(&statement).await
    }

    async fn notes(&mut self) -> Result<Vec<(String, i64)>, Fault> {
        let query = format!("SELECT name, value FROM {}", LOADED.name);
        let rows = self.rows(&query, ()).await?;
        rows.iter().map(|row| Ok((text(row, 0)?, number(row, 1)?))).collect()
    }

    async fn run(&mut self, transaction: &Transaction) -> Result<Done, Fault> {
        let result = match transaction {
            Transaction::NewOrder(order) => self.new_order(order).await,
            Transaction::Payment(payment) => self.payment(payment).await,
            Transaction::OrderStatus(status) => self.order_status(status).await,
            Transaction::Delivery(delivery) => self.delivery(delivery).await,
            Transaction::StockLevel(level) => self.stock_level(level).await,
        };
        if result.is_err() && self.conn.is_some() && self.run_text("ROLLBACK").await.is_err() {
            self.conn = None;
        }
        result
    }

    async fn scan(
        &mut self,
        table: &'static Definition,
        columns: &[&str],
        each: &mut dyn FnMut(&Numbers),
    ) -> Result<(), Fault> {
        let query = format!("SELECT {} FROM {}", columns.join(", "), table.name);
        let conn = self.conn().await?;
        let mut numbers = Numbers::new();
        let mut wrong = None;
        let scan = async {
            let mut result = conn.query_iter(query).await?;
            result
                .for_each(|row| {
                    numbers.clear();
                    for place in 0..row.len() {
                        match row.as_ref(place).map(of_value) {
                            Some(Some(number)) => numbers.push(number),
                            _ => wrong = Some(place),
                        }
                    }
                    if numbers.len() == row.len() {
                        each(&numbers);
                    }
                })
                .await?;
            Ok(())
        };
        let result = Ok(scan.await);
        self.settle(result)?;
        match wrong {
            Some(place) => Err(failed(format!("column {} of {} is no number", columns[place], table.name))),
            None => Ok(()),
        }
    }
}

fn fault(error: &Error, committing: bool) -> Fault {
    let Error::Server(server) = error else { return broken(&error.to_string(), committing) };
    let class = match server.code {
        LOCK_WAIT_TIMEOUT | DEADLOCK | TEMPORARY => FaultClass::Retry,
        ERROR_DURING_COMMIT => FaultClass::Unknown,
        _ => FaultClass::Failed,
    };
    let text = format!("{} ({}): {}", server.code, server.state, server.message);
    Fault { class, name: server.code.to_string(), text }
}

/// What a broken connection leaves: nothing but an open COMMIT outlives it.
fn broken(text: &str, committing: bool) -> Fault {
    let class = if committing { FaultClass::Unknown } else { FaultClass::Retry };
    Fault { class, name: "connection".into(), text: text.into() }
}

fn write_literal(out: &mut String, value: &Value, sql_type: SqlType) {
    let written = match (value, sql_type) {
        (Value::Null, _) => write!(out, "NULL"),
        (Value::Int(micros), SqlType::DateTime(_)) => write!(out, "'{}'", date_time(*micros)),
        (Value::Int(number), SqlType::Decimal { scale, .. }) => {
            write!(out, "{}", decimal(*number, u32::from(scale)))
        }
        (Value::Int(number), _) => write!(out, "{number}"),
        // The benchmark's texts are letters, digits and spaces.
        (other, _) => write!(out, "'{}'", String::from_utf8_lossy(other.as_bytes().unwrap_or_default())),
    };
    written.expect("a text takes all");
}

/// A decimal by its last digit.
fn decimal(number: i64, scale: u32) -> String {
    let (sign, unit) = (if number < 0 { "-" } else { "" }, 10u64.pow(scale));
    let width = scale as usize;
    format!("{sign}{}.{:0width$}", number.unsigned_abs() / unit, number.unsigned_abs() % unit)
}

/// An amount of money, by its hundredths.
pub(super) fn money(hundredths: i64) -> String {
    decimal(hundredths, 2)
}

/// A time of the calendar, from microseconds since 1970 (Hinnant, «chrono-compatible low-level date algorithms»).
pub(super) fn date_time(micros: i64) -> String {
    let seconds = micros.div_euclid(1_000_000);
    let (days, second) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// A number, of which decimals come as their digits, and of a time only that there is one; `None`: it is none of these.
fn of_value(value: &Sql) -> Option<Option<i64>> {
    let number = match value {
        Sql::NULL => return Some(None),
        Sql::Int(number) => *number,
        Sql::UInt(number) => i64::try_from(*number).ok()?,
        Sql::Date(..) => 0,
        // 2024-02-29 12:00:00, as text has it.
        Sql::Bytes(bytes) if bytes.iter().skip(1).any(|byte| *byte == b'-') => 0,
        Sql::Bytes(bytes) => {
            let digits: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'.').collect();
            std::str::from_utf8(&digits).ok()?.parse().ok()?
        }
        _ => return None,
    };
    Some(Some(number))
}

/// A number of a row: of a decimal by its last digit.
pub(super) fn number(row: &Found, place: usize) -> Result<i64, Fault> {
    match row.as_ref(place).and_then(of_value) {
        Some(Some(number)) => Ok(number),
        _ => Err(failed(format!("column {} of a result is no number", place + 1))),
    }
}

/// A text of a row.
pub(super) fn text(row: &Found, place: usize) -> Result<String, Fault> {
    match row.as_ref(place) {
        Some(Sql::Bytes(bytes)) => Ok(String::from_utf8_lossy(bytes).into_owned()),
        _ => Err(failed(format!("column {} of a result is no text", place + 1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_as_sql_has_them() {
        let literal = |value: Value, sql_type| {
            let mut text = String::new();
            write_literal(&mut text, &value, sql_type);
            text
        };
        let money = SqlType::Decimal { precision: 12, scale: 2 };
        assert_eq!(
            [-1000, -5, 7, 12_345].map(|number| literal(number.into(), money)),
            ["-10.00", "-0.05", "0.07", "123.45"]
        );
        assert_eq!(literal(Value::Null, money), "NULL");
        assert_eq!(literal("OE".into(), SqlType::Char(2)), "'OE'");
        let time = |micros: i64| literal(micros.into(), SqlType::DateTime(0));
        assert_eq!(time(0), "'1970-01-01 00:00:00'");
        assert_eq!(time(1_709_251_199_999_999), "'2024-02-29 23:59:59'");
    }

    #[test]
    fn numbers_are_read_by_their_last_digit() {
        let read = |text: &str| of_value(&Sql::Bytes(text.into()));
        assert_eq!(
            ["-10.00", "0.07", "42", "2024-02-29 12:00:00"].map(read),
            [-1000, 7, 42, 0].map(|n| Some(Some(n)))
        );
        assert_eq!((read("abc"), of_value(&Sql::NULL)), (None, Some(None)));
    }
}
