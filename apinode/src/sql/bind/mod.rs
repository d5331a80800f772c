//! Syntax tree → statement: names are resolved against the catalog, expressions against columns, and what is not supported
//! is refused by name.

mod aggregate;
mod command;
mod define;
mod expr;
mod from;
pub mod index;
mod select;
mod subquery;
#[cfg(test)]
pub(crate) mod tests;
mod union;
mod write;

use std::{cell::Cell, fmt, sync::Arc};

use sqlparser::ast;
use twofold_proto::schema::Schema;

pub use self::{
    aggregate::{Aggregate, AggregateKind},
    command::{Setting, Show, Transaction},
    define::{Define, PRIMARY, describe, show_create},
    from::{From, Item, Made, Part, Rows, Source, What},
    select::{Group, Lock, Order, Output, Select},
    subquery::{Answer, Apply, Given, Quantified, Subquery},
    write::{Conflict, Delete, Insert, NewRows, Update},
};
use super::{
    error::{SqlError, codes},
    parse::Parsed,
    session::{OWN_DATABASE, Session},
    types::{Declared, SqlType},
    value::Datum,
};

/// Characters of a name.
pub const NAME_MAX: usize = 64;

/// The name of a table. In the catalog it is `database.table`; a name there without a point is that of a table of the database
/// `twofold`, as other frontends make them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TableName {
    /// The database.
    pub database: String,
    /// The table.
    pub table: String,
}

impl TableName {
    /// By its name in the catalog.
    pub fn from_catalog(name: &str) -> TableName {
        let (database, table) = name.split_once('.').unwrap_or((OWN_DATABASE, name));
        TableName { database: database.to_owned(), table: table.to_owned() }
    }

    /// Its name in the catalog.
    pub fn catalog(&self) -> String {
        match self.database.as_str() {
            OWN_DATABASE => self.table.clone(),
            database => format!("{database}.{}", self.table),
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

/// A table that a statement uses.
#[derive(Clone, PartialEq, Debug)]
pub struct BoundTable {
    /// Its name.
    pub name: TableName,
    /// The name that it has in the statement.
    pub alias: String,
    /// Its columns and keys.
    pub schema: Arc<Schema>,
    /// What SQL knows of its columns.
    pub columns: Vec<Declared>,
}

impl BoundTable {
    /// The table of this name.
    pub fn new(name: TableName, alias: Option<String>, schema: Arc<Schema>) -> BoundTable {
        let columns = schema.columns.iter().map(Declared::of_column).collect();
        BoundTable { alias: alias.unwrap_or_else(|| name.table.clone()), name, schema, columns }
    }

    /// The type of a column.
    pub fn sql_type(&self, column: usize) -> SqlType {
        self.columns[column].sql_type
    }

    /// The column that counts by itself.
    pub fn auto_increment(&self) -> Option<usize> {
        self.columns.iter().position(|column| column.auto_increment)
    }
}

/// A statement, its names resolved.
#[derive(Clone, PartialEq, Debug)]
pub enum Statement {
    /// Gives rows.
    Select(Box<Select>),
    /// Adds rows.
    Insert(Box<Insert>),
    /// Changes rows.
    Update(Box<Update>),
    /// Removes rows.
    Delete(Box<Delete>),
    /// Changes the catalog.
    Define(Box<Define>),
    /// Begins or ends a transaction, or a part of it.
    Transaction(Transaction),
    /// Sets variables.
    Set(Vec<Setting>),
    /// Uses this database from now on.
    Use(String),
    /// Tells about the server.
    Show(Box<Show>),
    /// Tells how the statement would be carried out.
    Explain(Box<Statement>),
}

/// Resolves the names of one statement.
pub struct Binder<'a> {
    /// The tables, by their names in the catalog.
    pub tables: &'a dyn Fn(&str) -> Option<Arc<Schema>>,
    /// The connection's state.
    pub session: &'a Session,
    /// What NOW() is: microseconds since 1970, UTC.
    pub now: i64,
    /// The statement as it was written.
    pub parsed: &'a Parsed,
    /// Whether what was bound holds for this moment of this session alone, and not for all that use the same database.
    pub volatile: Cell<bool>,
    copied: Cell<usize>,
}

impl<'a> Binder<'a> {
    /// A binder for this statement.
    pub fn new(
        tables: &'a dyn Fn(&str) -> Option<Arc<Schema>>,
        session: &'a Session,
        now: i64,
        parsed: &'a Parsed,
    ) -> Binder<'a> {
        Binder { tables, session, now, parsed, volatile: Cell::new(false), copied: Cell::new(0) }
    }

    /// Resolves it.
    ///
    /// # Errors
    /// What the statement does not have right, or 1235 for what is not supported.
    pub fn bind(&self) -> Result<Statement, SqlError> {
        self.statement(&self.parsed.statement)
    }

    fn statement(&self, statement: &ast::Statement) -> Result<Statement, SqlError> {
        use ast::Statement as Ast;
        match statement {
            Ast::Query(query) => Ok(Statement::Select(Box::new(self.query(query, true, None)?))),
            Ast::Insert(insert) => self.insert(insert),
            Ast::Update(update) => self.update(update),
            Ast::Delete(delete) => self.delete(delete),
            Ast::Explain {
                statement,
                analyze: false,
                verbose: false,
                query_plan: false,
                estimate: false,
                format: None,
                options: None,
                ..
            } => match self.statement(statement)? {
                bound @ (Statement::Select(_)
                | Statement::Insert(_)
                | Statement::Update(_)
                | Statement::Delete(_)) => Ok(Statement::Explain(Box::new(bound))),
                _ => Err(SqlError::not_supported("EXPLAIN of such a statement")),
            },
            other => match self.command(other)? {
                Some(command) => Ok(command),
                None => self.define(other).map(|define| Statement::Define(Box::new(define))),
            },
        }
    }

    /// The name of a table, with the database that is used where it has none.
    fn table_name(&self, name: &ast::ObjectName) -> Result<TableName, SqlError> {
        let (database, table) = match &identifiers(name)?[..] {
            [table] => (self.database()?, (*table).to_owned()),
            [database, table] => ((*database).to_owned(), (*table).to_owned()),
            _ => {
                return Err(SqlError::new(
                    codes::SYNTAX,
                    format!("You have an error in your SQL syntax: `{name}` is no name of a table"),
                ));
            }
        };
        Ok(TableName { database, table })
    }

    fn database(&self) -> Result<String, SqlError> {
        let none = || SqlError::new(codes::NO_DATABASE, "No database selected");
        self.session.database.clone().ok_or_else(none)
    }

    fn table_of(&self, name: TableName, alias: Option<String>) -> Result<BoundTable, SqlError> {
        if name.database.eq_ignore_ascii_case(super::information::DATABASE) {
            let text = format!("Access denied for user 'root'@'%' to database '{}'", name.database);
            return Err(SqlError::new(codes::DATABASE_DENIED, text));
        }
        match (self.tables)(&name.catalog()) {
            Some(schema) => Ok(BoundTable::new(name, alias, schema)),
            None => Err(SqlError::new(codes::NO_SUCH_TABLE, format!("Table '{name}' doesn't exist"))),
        }
    }
}

/// The parts of a name.
fn identifiers(name: &ast::ObjectName) -> Result<Vec<&str>, SqlError> {
    name.0
        .iter()
        .map(|part| match part {
            ast::ObjectNamePart::Identifier(ident) => Ok(ident.value.as_str()),
            ast::ObjectNamePart::Function(_) => Err(SqlError::not_supported("names that are computed")),
        })
        .collect()
}

/// A name of one part.
fn identifier(name: &ast::ObjectName) -> Result<String, SqlError> {
    match &identifiers(name)?[..] {
        [name] => Ok((*name).to_owned()),
        _ => Err(SqlError::new(
            codes::SYNTAX,
            format!("You have an error in your SQL syntax: `{name}` has too many parts"),
        )),
    }
}

/// Refuses the first of these that is there, by its name.
fn refuse<const N: usize>(parts: [(bool, &str); N]) -> Result<(), SqlError> {
    match parts.into_iter().find(|(there, _)| *there) {
        Some((_, name)) => Err(SqlError::not_supported(name)),
        None => Ok(()),
    }
}

/// The constant value of a default or a setting.
fn constant(datum: &Datum) -> super::expression::Expr {
    super::expression::Expr::Constant(datum.clone(), super::expression::datum_type(datum))
}
