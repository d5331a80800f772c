//! Transactions, variables, and what is told about the server.

use sqlparser::ast::{self, ShowStatementFilter};

use super::{Binder, Statement, TableName, expr::Names, identifier, refuse};
use crate::sql::{
    error::{SqlError, codes},
    expression::Expr,
    session::Isolation,
    value::Datum,
};

/// Begins or ends a transaction, or a part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transaction {
    /// BEGIN, START TRANSACTION.
    Begin {
        /// Whether it may only read, if that is said.
        read_only: Option<bool>,
    },
    /// COMMIT.
    Commit {
        /// Another one begins at once.
        chain: bool,
    },
    /// ROLLBACK.
    Rollback {
        /// Another one begins at once.
        chain: bool,
    },
    /// SAVEPOINT.
    Savepoint(String),
    /// ROLLBACK TO SAVEPOINT.
    RollbackTo(String),
    /// RELEASE SAVEPOINT.
    Release(String),
}

/// What SET sets.
#[derive(Clone, PartialEq, Debug)]
pub enum Setting {
    /// A variable of the session; `None`: its default.
    Variable(String, Option<Expr>),
    /// SET NAMES.
    Names(String, Option<String>),
    /// SET TRANSACTION.
    Transaction {
        /// The isolation level, if it is said.
        isolation: Option<Isolation>,
        /// Whether it may only read, if that is said.
        read_only: Option<bool>,
        /// Of all transactions to come, not of the next alone.
        session: bool,
    },
}

/// What SHOW and DESCRIBE tell.
#[derive(Clone, PartialEq, Debug)]
pub enum Show {
    /// The databases.
    Databases(Option<String>),
    /// The tables of a database, like a pattern; with their kind.
    Tables(String, Option<String>, bool),
    /// The columns of a table, like a pattern.
    Columns(TableName, Option<String>),
    /// How a table would be made.
    CreateTable(TableName),
    /// How a database would be made.
    CreateDatabase(String),
    /// The keys of a table.
    Index(TableName),
    /// The session's variables, like a pattern.
    Variables(Option<String>),
    /// Figures; there are none.
    Status,
    /// What the last statement has warned of.
    Warnings,
    /// The collations, like a pattern.
    Collations(Option<String>),
    /// The character sets.
    Charsets(Option<String>),
    /// The storage engines.
    Engines,
}

impl Binder<'_> {
    /// `None` for statements of other kinds.
    pub(super) fn command(&self, statement: &ast::Statement) -> Result<Option<Statement>, SqlError> {
        use ast::Statement as Ast;
        let transaction = |transaction| Ok(Some(Statement::Transaction(transaction)));
        match statement {
            Ast::StartTransaction {
                modes,
                transaction: kind,
                modifier: None,
                statements,
                exception: None,
                ..
            } => {
                refuse([(!statements.is_empty(), "BEGIN … END")])?;
                let _ = kind;
                let (isolation, read_only) = modes_of(modes)?;
                refuse([(isolation.is_some(), "an isolation level in START TRANSACTION")])?;
                transaction(Transaction::Begin { read_only })
            }
            Ast::Commit { chain, end: false, modifier: None } => {
                transaction(Transaction::Commit { chain: *chain })
            }
            Ast::Rollback { chain, savepoint: None } => transaction(Transaction::Rollback { chain: *chain }),
            Ast::Rollback { chain: false, savepoint: Some(name) } => {
                transaction(Transaction::RollbackTo(name.value.clone()))
            }
            Ast::Savepoint { name } => transaction(Transaction::Savepoint(name.value.clone())),
            Ast::ReleaseSavepoint { name } => transaction(Transaction::Release(name.value.clone())),
            Ast::Use(ast::Use::Object(name)) => Ok(Some(Statement::Use(identifier(name)?))),
            Ast::Set(set) => self.set(set).map(|settings| Some(Statement::Set(settings))),
            other => Ok(self.show(other)?.map(|show| Statement::Show(Box::new(show)))),
        }
    }

    fn set(&self, set: &ast::Set) -> Result<Vec<Setting>, SqlError> {
        match set {
            ast::Set::SingleAssignment { scope, hivevar: false, variable, values } => match &values[..] {
                [value] => Ok(vec![self.setting(scope.as_ref(), variable, value)?]),
                _ => Err(SqlError::not_supported("such a SET")),
            },
            ast::Set::MultipleAssignments { assignments } => assignments
                .iter()
                .map(|assignment| {
                    self.setting(assignment.scope.as_ref(), &assignment.name, &assignment.value)
                })
                .collect(),
            ast::Set::SetNames { charset_name, collation_name } => {
                Ok(vec![Setting::Names(charset_name.value.clone(), collation_name.clone())])
            }
            ast::Set::SetNamesDefault {} => Ok(vec![Setting::Names("utf8mb4".into(), None)]),
            ast::Set::SetTimeZone { local: false, value } => {
                Ok(vec![Setting::Variable("time_zone".into(), Some(self.setting_value(value)?))])
            }
            ast::Set::SetTransaction { modes, snapshot: None, session } => {
                let (isolation, read_only) = modes_of(modes)?;
                Ok(vec![Setting::Transaction { isolation, read_only, session: *session }])
            }
            other => Err(SqlError::not_supported(other)),
        }
    }

    fn setting(
        &self,
        scope: Option<&ast::ContextModifier>,
        name: &ast::ObjectName,
        value: &ast::Expr,
    ) -> Result<Setting, SqlError> {
        let parts: Vec<String> = super::identifiers(name)?.iter().map(|part| part.to_lowercase()).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let name = match parts[..] {
            ["@@session" | "@@local", name] => name,
            ["@@global" | "@@persist", _] => return Err(SqlError::not_supported("SET GLOBAL")),
            [name] if name.starts_with("@@") => &name[2..],
            [name] if name.starts_with('@') => return Err(SqlError::not_supported("user variables")),
            [name] => name,
            _ => return Err(SqlError::not_supported("such a SET")),
        };
        if scope == Some(&ast::ContextModifier::Global) {
            return Err(SqlError::not_supported("SET GLOBAL"));
        }
        if matches!(value, ast::Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
        {
            return Ok(Setting::Variable(name.to_owned(), None));
        }
        Ok(Setting::Variable(name.to_owned(), Some(self.setting_value(value)?)))
    }

    /// A word stands for itself.
    fn setting_value(&self, value: &ast::Expr) -> Result<Expr, SqlError> {
        match value {
            ast::Expr::Identifier(ident) if !ident.value.starts_with('@') => {
                Ok(super::constant(&Datum::Text(ident.value.clone())))
            }
            other => self.expr(other, &Names::none("field list")),
        }
    }

    fn show(&self, statement: &ast::Statement) -> Result<Option<Show>, SqlError> {
        use ast::Statement as Ast;
        Ok(Some(match statement {
            Ast::ShowDatabases { terse: false, history: false, show_options }
            | Ast::ShowSchemas { terse: false, history: false, show_options } => {
                Show::Databases(options(show_options)?.1)
            }
            Ast::ShowTables {
                terse: false,
                history: false,
                extended: false,
                external: false,
                full,
                show_options,
            } => {
                let (of, like) = options(show_options)?;
                let database = match of {
                    None => self.database()?,
                    Some(name) => identifier(name)?,
                };
                Show::Tables(database, like, *full)
            }
            Ast::ShowColumns { extended: false, full: false, show_options } => {
                let (of, like) = options(show_options)?;
                let of = of.ok_or_else(|| SqlError::not_supported("SHOW COLUMNS without a table"))?;
                Show::Columns(self.table_name(of)?, like)
            }
            Ast::ExplainTable { hive_format: None, table_name, .. } => {
                Show::Columns(self.table_name(table_name)?, None)
            }
            Ast::ShowCreate { obj_type: ast::ShowCreateObject::Table, obj_name } => {
                Show::CreateTable(self.table_name(obj_name)?)
            }
            Ast::ShowVariables { filter, global: false, .. } => Show::Variables(like(filter.as_ref())?),
            Ast::ShowVariables { .. } => return Err(SqlError::not_supported("SHOW GLOBAL VARIABLES")),
            Ast::ShowStatus { .. } => Show::Status,
            Ast::ShowCollation { filter } => Show::Collations(like(filter.as_ref())?),
            Ast::ShowCharset(ast::ShowCharset { filter, .. }) => Show::Charsets(like(filter.as_ref())?),
            Ast::ShowVariable { variable } => return self.show_other(variable).map(Some),
            _ => return Ok(None),
        }))
    }

    /// What the parser has no words for.
    fn show_other(&self, words: &[ast::Ident]) -> Result<Show, SqlError> {
        let words: Vec<&str> = words.iter().map(|word| word.value.as_str()).collect();
        let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
        let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
        match lower[..] {
            ["warnings"] => Ok(Show::Warnings),
            ["engines"] | ["storage", "engines"] => Ok(Show::Engines),
            ["create", "database" | "schema", _] => Ok(Show::CreateDatabase(words[2].to_owned())),
            ["index" | "indexes" | "keys", "from" | "in", _] => {
                Ok(Show::Index(TableName { database: self.database()?, table: words[2].to_owned() }))
            }
            _ => Err(SqlError::not_supported(format_args!("SHOW {}", words.join(" ").to_uppercase()))),
        }
    }
}

type ShowOptions<'o> = (Option<&'o ast::ObjectName>, Option<String>);

fn options(options: &ast::ShowStatementOptions) -> Result<ShowOptions<'_>, SqlError> {
    let ast::ShowStatementOptions { show_in, starts_with, limit, limit_from, filter_position } = options;
    refuse([(starts_with.is_some() || limit.is_some() || limit_from.is_some(), "such a SHOW")])?;
    let filter = match filter_position {
        None => None,
        Some(
            ast::ShowStatementFilterPosition::Infix(filter)
            | ast::ShowStatementFilterPosition::Suffix(filter),
        ) => Some(filter),
    };
    let of = show_in.as_ref().and_then(|show_in| show_in.parent_name.as_ref());
    Ok((of, like(filter)?))
}

fn like(filter: Option<&ShowStatementFilter>) -> Result<Option<String>, SqlError> {
    match filter {
        None => Ok(None),
        Some(ShowStatementFilter::Like(pattern)) => Ok(Some(pattern.clone())),
        Some(ShowStatementFilter::Where(ast::Expr::BinaryOp {
            left,
            op: ast::BinaryOperator::Eq,
            right,
        })) => {
            // As drivers ask for one variable.
            match (&**left, &**right) {
                (ast::Expr::Identifier(name), ast::Expr::Value(value))
                    if name.value.eq_ignore_ascii_case("variable_name") =>
                {
                    let text = value.value.clone().into_string();
                    Ok(text.map(|text| text.replace('%', "\\%")))
                }
                _ => Err(SqlError::not_supported("SHOW … WHERE")),
            }
        }
        Some(_) => Err(SqlError::not_supported("SHOW … WHERE")),
    }
}

fn modes_of(modes: &[ast::TransactionMode]) -> Result<(Option<Isolation>, Option<bool>), SqlError> {
    use ast::TransactionIsolationLevel as Level;
    let (mut isolation, mut read_only) = (None, None);
    for mode in modes {
        match mode {
            ast::TransactionMode::AccessMode(ast::TransactionAccessMode::ReadOnly) => read_only = Some(true),
            ast::TransactionMode::AccessMode(ast::TransactionAccessMode::ReadWrite) => {
                read_only = Some(false)
            }
            ast::TransactionMode::IsolationLevel(level) => {
                isolation = Some(match level {
                    Level::ReadUncommitted | Level::ReadCommitted => Isolation::ReadCommitted,
                    Level::RepeatableRead | Level::Serializable => Isolation::Serializable,
                    Level::Snapshot => {
                        return Err(SqlError::new(
                            codes::SYNTAX,
                            "You have an error in your SQL syntax: SNAPSHOT",
                        ));
                    }
                });
            }
        }
    }
    Ok((isolation, read_only))
}
