//! Runs statements: the session, its transaction, and the cluster.

use std::{rc::Rc, sync::Arc};

use twofold_apinode::{
    request::{self, End, Failure, Operations, Options, Results},
    sql::{
        bind::{Binder, BoundTable, Setting, Statement, Transaction},
        error::{SqlError, codes},
        expression::{Context, Level, Warnings},
        parse::Parsed,
        plan::rows,
        session::{Isolation, OWN_DATABASE, Session},
        types::SqlType,
        value::Datum,
        wire::{result::Done, status},
    },
};
use twofold_client::handle::{Handle, Held};
use twofold_proto::{
    error::{Error, ErrorCode},
    operation::{Change, Operation, OperationKind, OperationRef, Refusal, ResultCode, ResultRef},
    schema::Schema,
    wire::Reader,
};

use super::{
    Stop, Thread, define,
    output::Output,
    transaction::{Open, unknown_savepoint},
};

/// What a statement has come to.
pub(super) enum Outcome {
    /// It gave rows, which have been sent but for their end.
    Rows,
    /// It gave none.
    Done(Done),
}

/// A connection's session and transaction.
pub(super) struct Runner {
    pub thread: Rc<Thread>,
    pub session: Session,
    pub open: Option<Open>,
    /// Affected rows are those that were found.
    pub found_rows: bool,
}

/// The transaction of a statement.
pub(super) struct Entered {
    /// It is of this statement alone.
    own: bool,
    /// The statement's first number in it.
    from: u32,
}

impl Runner {
    pub fn new(thread: Rc<Thread>, connection: u32) -> Runner {
        Runner { thread, session: Session::new(connection), open: None, found_rows: false }
    }

    pub fn handle(&self) -> &Handle {
        &self.thread.handle
    }

    /// The session's state as answers have it.
    pub fn status(&self) -> u16 {
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        flag(self.open.is_some(), status::IN_TRANSACTION) | flag(self.session.autocommit, status::AUTOCOMMIT)
    }

    /// Begins anew, as a connection that has just come.
    pub async fn reset(&mut self) {
        if let Some(open) = self.open.take() {
            // Nobody waits for what becomes of it.
            let _ = open.end(&self.thread.handle, End::Rollback).await;
        }
        self.session = Session::new(self.session.connection);
    }

    /// Microseconds since 1970, by this machine's clock.
    fn now() -> i64 {
        i64::try_from(Handle::now().0.saturating_mul(1000)).unwrap_or(i64::MAX)
    }

    /// The catalog's version.
    pub fn version(&self) -> u64 {
        self.handle().tables().newest().version
    }

    /// Resolves a statement's names. Whether it may be kept for others says the second.
    pub fn bind(&self, parsed: &Parsed) -> Result<(Rc<Statement>, bool), SqlError> {
        let tables = self.handle().tables().newest();
        let find = |name: &str| -> Option<Arc<Schema>> { tables.table(name).ok().cloned() };
        let binder = Binder::new(&find, &self.session, Runner::now(), parsed);
        let statement = Rc::new(binder.bind()?);
        Ok((statement, !binder.volatile.get()))
    }

    /// Runs a bound statement with these values of placeholders.
    pub async fn run(
        &mut self,
        statement: &Statement,
        parameters: &[Datum],
        output: &mut Output<'_>,
    ) -> Result<Outcome, Stop> {
        self.thread.server.statements.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let context = Context::new(parameters);
        let told = matches!(statement, Statement::Show(show) if **show == twofold_apinode::sql::bind::Show::Warnings);
        let result = self.dispatch(statement, &context, output).await;
        let mut warnings = context.warnings.into_inner();
        if let Err(Stop::Failed(error)) = &result {
            self.thread.server.errors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            warnings.push(Level::Error, error.clone());
            self.session.row_count = -1;
        }
        if let Ok(outcome) = &result {
            self.session.row_count = match outcome {
                Outcome::Rows => -1,
                Outcome::Done(done) => done.affected as i64,
            };
        }
        if !told {
            self.session.warnings = warnings;
        }
        output.answers.status = self.status();
        output.answers.warnings = if told { 0 } else { self.session.warnings.told() };
        if self.open.as_ref().is_some_and(Open::has_ended) {
            self.open = None;
            output.answers.status = self.status();
        }
        result
    }

    async fn dispatch(
        &mut self,
        statement: &Statement,
        context: &Context<'_>,
        output: &mut Output<'_>,
    ) -> Result<Outcome, Stop> {
        match statement {
            Statement::Select(select) => self.select(select, context, output).await.map(|()| Outcome::Rows),
            Statement::Insert(insert) => self.insert(insert, Runner::now(), context).await.map(Outcome::Done),
            Statement::Update(update) => self.update(update, Runner::now(), context).await.map(Outcome::Done),
            Statement::Delete(delete) => self.delete(delete, context).await.map(Outcome::Done),
            Statement::Define(define) => {
                self.commit().await?;
                let affected = self.define(define, context).await?;
                Ok(Outcome::Done(Done { affected, ..Done::default() }))
            }
            Statement::Transaction(transaction) => {
                self.transaction(transaction).await?;
                Ok(Outcome::Done(Done::default()))
            }
            Statement::Set(settings) => {
                for setting in settings {
                    self.set(setting, context).await?;
                }
                Ok(Outcome::Done(Done::default()))
            }
            Statement::Use(name) => {
                self.use_database(name).await?;
                Ok(Outcome::Done(Done::default()))
            }
            Statement::Show(show) => self.show(show, output).await.map(|()| Outcome::Rows),
            Statement::Explain(statement) => {
                self.explain(statement, context, output).await.map(|()| Outcome::Rows)
            }
        }
    }

    /// USE, and COM_INIT_DB.
    pub async fn use_database(&mut self, name: &str) -> Result<(), SqlError> {
        match define::database_exists(self.handle(), name).await? {
            true => self.session.database = Some(name.to_owned()),
            false => {
                return Err(SqlError::new(codes::UNKNOWN_DATABASE, format!("Unknown database '{name}'")));
            }
        }
        Ok(())
    }

    async fn transaction(&mut self, transaction: &Transaction) -> Result<(), SqlError> {
        match transaction {
            Transaction::Begin { read_only } => {
                self.commit().await?;
                self.begin(*read_only);
            }
            Transaction::Commit { chain } => {
                self.commit().await?;
                if *chain {
                    self.begin(None);
                }
            }
            Transaction::Rollback { chain } => {
                if let Some(open) = self.open.take() {
                    open.end(&self.thread.handle, End::Rollback).await.map_err(|failure| failure.error)?;
                }
                if *chain {
                    self.begin(None);
                }
            }
            Transaction::Savepoint(name) => {
                if !self.session.autocommit && self.open.is_none() {
                    self.begin(None);
                }
                if let Some(open) = &mut self.open {
                    open.savepoint(name.clone())?;
                }
            }
            Transaction::RollbackTo(name) => {
                let Some(open) = &mut self.open else { return Err(unknown_savepoint(name)) };
                let from = open.take_savepoint(name, false)?;
                open.undo(&self.thread.handle, from).await.map_err(|failure| failure.error)?;
            }
            Transaction::Release(name) => match &mut self.open {
                Some(open) => drop(open.take_savepoint(name, true)?),
                None => return Err(unknown_savepoint(name)),
            },
        }
        Ok(())
    }

    fn isolation(&mut self) -> request::Isolation {
        match self.session.next_isolation.take().unwrap_or(self.session.isolation) {
            Isolation::ReadCommitted => request::Isolation::ReadCommitted,
            Isolation::Serializable => request::Isolation::Serializable,
        }
    }

    fn begin(&mut self, read_only: Option<bool>) {
        let next = self.session.next_read_only.take();
        let read_only = read_only.or(next).unwrap_or(self.session.read_only);
        let isolation = self.isolation();
        self.open = Some(Open::new(&self.thread.handle, isolation, read_only));
    }

    /// Commits what is open.
    pub async fn commit(&mut self) -> Result<(), SqlError> {
        match self.open.take() {
            Some(open) => {
                Ok(open.end(&self.thread.handle, End::Commit).await.map_err(|failure| failure.error)?)
            }
            None => Ok(()),
        }
    }

    async fn set(&mut self, setting: &Setting, context: &Context<'_>) -> Result<(), SqlError> {
        match setting {
            Setting::Variable(name, value) => {
                let value = value.as_ref().map(|value| value.evaluate(&[], context)).transpose()?;
                let before = self.session.autocommit;
                self.session.set(name, value.as_ref())?;
                if self.session.autocommit && !before {
                    self.commit().await?;
                }
                Ok(())
            }
            Setting::Names(charset, collation) => self.session.set_names(charset, collation.as_deref()),
            Setting::Transaction { isolation, read_only, session: true } => {
                self.session.isolation = isolation.unwrap_or(self.session.isolation);
                self.session.read_only = read_only.unwrap_or(self.session.read_only);
                Ok(())
            }
            Setting::Transaction { .. } if self.open.is_some() => {
                let text = "Transaction characteristics can't be changed while a transaction is in progress";
                Err(SqlError::new(codes::TRANSACTION_IN_PROGRESS, text))
            }
            Setting::Transaction { isolation, read_only, session: false } => {
                self.session.next_isolation = isolation.or(self.session.next_isolation);
                self.session.next_read_only = read_only.or(self.session.next_read_only);
                Ok(())
            }
        }
    }

    /// A statement uses tables: where statements are no transactions of their own, one begins with the first.
    pub fn touch(&mut self, writes: bool) -> Result<(), SqlError> {
        if self.open.is_none() && !self.session.autocommit {
            self.begin(None);
        }
        let read_only = self.open.as_ref().map_or(self.session.read_only, |open| open.read_only);
        if writes && read_only {
            let text = "Cannot execute statement in a READ ONLY transaction.";
            return Err(SqlError::new(codes::READ_ONLY_TRANSACTION, text));
        }
        Ok(())
    }

    /// A statement of several steps: where no transaction is open it has one of its own. To be followed by `leave`.
    pub fn enter(&mut self) -> Entered {
        match &self.open {
            Some(open) => Entered { own: false, from: open.next() },
            None => {
                let isolation = self.isolation();
                self.open = Some(Open::new(&self.thread.handle, isolation, false));
                Entered { own: true, from: 1 }
            }
        }
    }

    /// The statement has come to its end: what is its own is committed; what has failed is undone.
    pub async fn leave<T>(&mut self, entered: Entered, result: Result<T, Stop>) -> Result<T, Stop> {
        let over = self.open.as_ref().is_none_or(Open::has_ended);
        match &result {
            _ if over => self.open = None,
            Ok(_) if entered.own => self.commit().await?,
            // To drop it rolls it back.
            Err(_) if entered.own => self.open = None,
            Ok(_) => {}
            Err(_) => {
                if let Some(open) = &mut self.open {
                    let undone = open.undo(&self.thread.handle, entered.from).await;
                    if open.has_ended() {
                        self.open = None;
                    }
                    undone.map_err(|failure| failure.error)?;
                }
            }
        }
        result
    }

    /// Whether the statement that has entered may commit with its last operations.
    pub fn end_of(&self, entered: &Entered) -> End {
        if entered.own { End::Commit } else { End::Stay }
    }

    /// Runs operations of the open transaction as one statement of it.
    pub async fn in_open(
        &mut self,
        operations: &[Operation],
        end: End,
    ) -> Result<(Results, Option<Held>), Failure> {
        match &mut self.open {
            Some(open) => open.run(&self.thread.handle, operations, end).await,
            None => Err(Error::new(ErrorCode::Internal, "there is no open transaction").into()),
        }
    }

    /// Runs operations each as a transaction of its own.
    pub async fn alone(&self, operations: &[Operation]) -> (Results, Option<Held>) {
        let mut encoded = Operations::default();
        for operation in operations {
            operation.encode(&mut encoded.bytes);
            encoded.count += 1;
        }
        self.handle().execute(encoded, Options::default()).await
    }

    /// Runs one write: in the transaction if there is one, else as one of its own. What it refuses is `Ok` of its code.
    pub async fn one(&mut self, operation: Operation) -> Result<(ResultCode, bool, bool), SqlError> {
        if self.open.is_none() {
            let (results, _held) = self.alone(std::slice::from_ref(&operation)).await;
            let result = results.get(0).map_err(|failure| failure.error.clone())?;
            return head(result);
        }
        match self.in_open(std::slice::from_ref(&operation), End::Stay).await {
            Ok((results, _held)) => head(results.get(0).map_err(|failure| failure.error.clone())?),
            Err(failure) if self.open.as_ref().is_some_and(|open| !open.has_ended()) => {
                match failure.error.code {
                    ErrorCode::NoSuchRow => Ok((ResultCode::NotFound, false, false)),
                    ErrorCode::ConditionFalse => Ok((ResultCode::ConditionFalse, true, false)),
                    ErrorCode::DuplicateKey => Ok((ResultCode::AlreadyExists, true, false)),
                    _ => Err(failure.error.into()),
                }
            }
            Err(failure) => Err(failure.error.into()),
        }
    }
}

/// How an operation ended, whether there was a row, and whether it has become another one.
pub(super) fn head(result: &[u8]) -> Result<(ResultCode, bool, bool), SqlError> {
    let head = ResultRef::parse(&mut Reader::new(result, "result")).map_err(Error::from)?.head;
    Ok((head.code, head.existed, head.changed))
}

/// A write that the cluster refuses.
pub(super) fn refused(table: &BoundTable, operation: &Operation, code: ResultCode) -> SqlError {
    match code {
        ResultCode::AlreadyExists => duplicate(table, &operation.key),
        ResultCode::OutOfRange => out_of_range(table, operation),
        code => Refusal::from(code).error(&table.schema, Some(&operation.key)).into(),
    }
}

/// A sum does not fit its column: as MySQL has it, either it does not fit the type that sums have, or not the column.
fn out_of_range(table: &BoundTable, operation: &Operation) -> SqlError {
    let bytes = operation.to_bytes();
    let parsed = OperationRef::parse(&mut Reader::new(&bytes, "operation"));
    let body = parsed.as_ref().ok().and_then(|parsed| parsed.parse_body().ok());
    let mut changes = body.and_then(|body| body.assignments).unwrap_or_default().iter().flatten();
    let sum = changes.find_map(|assignment| match assignment.change {
        Change::Add(number) => Some((usize::from(assignment.column), number)),
        _ => None,
    });
    let Some((column, number)) = sum else {
        let text = format!("Out of range value in an update of table '{}'", table.name.table);
        return SqlError::new(codes::OUT_OF_RANGE, text);
    };
    let (name, sql_type) = (&table.schema.columns[column].name, table.sql_type(column));
    let below_zero = sql_type.is_unsigned() && number.as_integer().is_some_and(|number| number < 0);
    if below_zero || sql_type == SqlType::BIGINT || sql_type == SqlType::UNSIGNED {
        let kind = if sql_type.is_unsigned() { "BIGINT UNSIGNED" } else { "BIGINT" };
        let text = format!("{kind} value is out of range in '(`{name}` + {})'", number.excerpt());
        return SqlError::new(codes::NUMBER_OUT_OF_RANGE, text);
    }
    SqlError::new(codes::OUT_OF_RANGE, format!("Out of range value for column '{name}' at row 1"))
}

/// The key is there already.
pub(super) fn duplicate(table: &BoundTable, key: &[u8]) -> SqlError {
    SqlError::duplicate_entry(&rows::key_text(table, key), &table.name.table, "PRIMARY")
}

/// A statement of these operations that has failed.
pub(super) fn failed(table: &BoundTable, operations: &[Operation], failure: Failure) -> SqlError {
    let operation = failure.operation.and_then(|index| operations.get(usize::from(index)));
    match (failure.error.code, operation) {
        (ErrorCode::DuplicateKey, Some(operation)) => duplicate(table, &operation.key),
        (ErrorCode::BadValue, Some(operation)) if operation.kind != OperationKind::Read => {
            out_of_range(table, operation)
        }
        _ => failure.error.into(),
    }
}

/// Where tables of the catalog without a point are.
pub(super) fn is_own(database: &str) -> bool {
    database == OWN_DATABASE
}

/// Warnings of a statement that has only been parsed.
pub(super) fn error_warnings(error: &SqlError) -> Warnings {
    let mut warnings = Warnings::default();
    warnings.push(Level::Error, error.clone());
    warnings
}
