//! What a driver does: the ways to a database that the benchmark can take.

use super::{
    population::Row,
    schema::Definition,
    transactions::{Done, Fault, Transaction},
};

/// Numbers of a row that is looked at: decimals by their last digit, of times whether there is one; `None`: NULL.
pub type Numbers = Vec<Option<i64>>;

/// A database that the benchmark is run on, as any thread may know it.
pub trait Target: Clone + Send + 'static {
    /// What a thread has of it.
    type Database: Database;

    /// Which it is, in a line.
    fn told(&self) -> String;

    /// Opens it for a thread, numbered from 0.
    async fn open(&self, thread: u16) -> Result<Self::Database, Fault>;
}

/// A database, opened by a thread.
pub trait Database {
    /// A connection of its own for each terminal.
    type Session: Session + 'static;

    /// Drops the benchmark's tables if they are there, and creates them.
    async fn create_tables(&self) -> Result<(), Fault>;

    /// Another connection to the tables.
    async fn connect(&self) -> Result<Self::Session, Fault>;
}

/// A connection, which does one thing at a time.
pub trait Session {
    /// Inserts rows, in transactions of its own choice.
    async fn insert(&mut self, table: &'static Definition, rows: &[Row]) -> Result<(), Fault>;

    /// Sets a number of the table `loaded`.
    async fn note(&mut self, name: &str, value: i64) -> Result<(), Fault>;

    /// The numbers of the table `loaded`.
    async fn notes(&mut self) -> Result<Vec<(String, i64)>, Fault>;

    /// Runs a transaction, once. It is over when this returns, whatever it returns.
    async fn run(&mut self, transaction: &Transaction) -> Result<Done, Fault>;

    /// Reads columns of all rows of a table, in any order.
    async fn scan(
        &mut self,
        table: &'static Definition,
        columns: &[&str],
        each: &mut dyn FnMut(&Numbers),
    ) -> Result<(), Fault>;
}
