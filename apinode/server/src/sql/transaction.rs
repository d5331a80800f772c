//! A connection's transaction.

use std::collections::{BTreeMap, BTreeSet};

use twofold_apinode::{
    request::{Answer, Begin, End, Failure, Isolation, Operations, Options, Request, Results, Statement},
    sql::error::{SqlError, codes},
};
use twofold_client::handle::{Handle, Held, Transaction};
use twofold_proto::{
    error::{Error, ErrorCode},
    ids::TableId,
    message::TransactionState,
    operation::Operation,
};

/// Savepoints of a transaction.
const SAVEPOINTS_MAX: usize = 256;
/// Keys that a transaction remembers to have written, and their bytes.
const WRITTEN_MAX: usize = 65_536;
const WRITTEN_BYTES_MAX: usize = 8 << 20;

/// An open transaction. To drop it rolls it back.
#[derive(Debug)]
pub(super) struct Open {
    name: Option<Transaction>,
    begin: Option<Begin>,
    /// The next statement's.
    number: u32,
    pub isolation: Isolation,
    pub read_only: bool,
    /// Their names, and the number of the first statement after each; in their order.
    savepoints: Vec<(String, u32)>,
    /// The keys that it has written: a scan does not see what is not committed. `None`: too many to know.
    written: Option<BTreeMap<TableId, BTreeSet<Vec<u8>>>>,
    written_count: usize,
    written_bytes: usize,
}

impl Open {
    /// Begins one; the cluster hears of it with the first statement.
    pub fn new(handle: &Handle, isolation: Isolation, read_only: bool) -> Open {
        Open {
            name: Some(handle.new_transaction()),
            begin: Some(Begin { isolation, timestamp: None }),
            number: 1,
            isolation,
            read_only,
            savepoints: Vec::new(),
            written: Some(BTreeMap::new()),
            written_count: 0,
            written_bytes: 0,
        }
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        self.name.is_none()
    }

    /// The number that the next statement will have.
    pub fn next(&self) -> u32 {
        self.number
    }

    /// Runs operations as one statement.
    pub async fn run(
        &mut self,
        handle: &Handle,
        operations: &[Operation],
        end: End,
    ) -> Result<(Results, Option<Held>), Failure> {
        for operation in operations {
            if operation.kind != twofold_proto::operation::OperationKind::Read {
                self.remember(operation.table, &operation.key);
            }
        }
        let mut encoded = Operations::default();
        for operation in operations {
            operation.encode(&mut encoded.bytes);
            encoded.count += 1;
        }
        self.send(handle, encoded, end, None).await
    }

    /// Undoes all statements from this number on.
    pub async fn undo(&mut self, handle: &Handle, from: u32) -> Result<(), Failure> {
        if from >= self.number || self.begin.is_some() {
            return Ok(());
        }
        self.send(handle, Operations::default(), End::Stay, Some(from)).await.map(drop)
    }

    /// Ends it.
    pub async fn end(mut self, handle: &Handle, end: End) -> Result<(), Failure> {
        if self.begin.is_some() || self.has_ended() {
            // The cluster has never heard of it.
            if let Some(name) = self.name.take() {
                name.ended();
            }
            return Ok(());
        }
        self.send(handle, Operations::default(), end, None).await.map(drop)
    }

    async fn send(
        &mut self,
        handle: &Handle,
        operations: Operations,
        end: End,
        undo: Option<u32>,
    ) -> Result<(Results, Option<Held>), Failure> {
        let Some(name) = &self.name else {
            return Err(Error::new(ErrorCode::NoSuchTransaction, "the transaction has ended").into());
        };
        let number = undo.unwrap_or(self.number);
        self.number = number + 1;
        let statement = Statement {
            handle: name.handle(),
            begin: self.begin.take(),
            number,
            undo: undo.is_some(),
            operations,
            end,
            options: Options::default(),
        };
        match handle.begin(Request::Statement(statement)).await.delivery().await {
            (Answer::Statement { state, results, .. }, held) => {
                self.now(state);
                Ok((results, held))
            }
            (Answer::Failed(failure), _) => {
                self.now(failure.state);
                Err(failure)
            }
            (other, _) => {
                let text = format!("a statement was answered with {other:?}");
                Err(Error::new(ErrorCode::Internal, text).into())
            }
        }
    }

    fn now(&mut self, state: TransactionState) {
        if state != TransactionState::Open
            && let Some(name) = self.name.take()
        {
            name.ended();
        }
    }

    fn remember(&mut self, table: TableId, key: &[u8]) {
        let Some(written) = &mut self.written else { return };
        if written.entry(table).or_default().insert(key.to_vec()) {
            self.written_count += 1;
            self.written_bytes += key.len();
        }
        if self.written_count > WRITTEN_MAX || self.written_bytes > WRITTEN_BYTES_MAX {
            self.written = None;
        }
    }

    /// The keys of a table that it has written.
    ///
    /// # Errors
    /// 1235 if they are too many to be known.
    pub fn written(&self, table: TableId) -> Result<BTreeSet<Vec<u8>>, SqlError> {
        Ok(self.written_in(table)?.cloned().unwrap_or_default())
    }

    /// Whether it has written rows of a table.
    ///
    /// # Errors
    /// As [`Self::written`].
    pub fn has_written(&self, table: TableId) -> Result<bool, SqlError> {
        Ok(self.written_in(table)?.is_some_and(|written| !written.is_empty()))
    }

    fn written_in(&self, table: TableId) -> Result<Option<&BTreeSet<Vec<u8>>>, SqlError> {
        match &self.written {
            Some(written) => Ok(written.get(&table)),
            None => {
                let what = format!("a scan in a transaction that has written more than {WRITTEN_MAX} rows");
                Err(SqlError::not_supported(what))
            }
        }
    }

    /// Sets a savepoint behind all statements so far.
    ///
    /// # Errors
    /// 1105 if there are too many.
    pub fn savepoint(&mut self, name: String) -> Result<(), SqlError> {
        self.savepoints.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        if self.savepoints.len() == SAVEPOINTS_MAX {
            let text = format!("A transaction has at most {SAVEPOINTS_MAX} savepoints");
            return Err(SqlError::new(codes::UNKNOWN_ERROR, text));
        }
        self.savepoints.push((name, self.number));
        Ok(())
    }

    /// Forgets a savepoint and all later ones, the savepoint itself only if it is said so. Gives the statement behind it.
    ///
    /// # Errors
    /// 1305 if there is none of this name.
    pub fn take_savepoint(&mut self, name: &str, itself: bool) -> Result<u32, SqlError> {
        let place = self.savepoints.iter().position(|(known, _)| known.eq_ignore_ascii_case(name));
        let Some(place) = place else { return Err(unknown_savepoint(name)) };
        let number = self.savepoints[place].1;
        self.savepoints.truncate(place + usize::from(!itself));
        Ok(number)
    }
}

/// There is none of this name.
pub(super) fn unknown_savepoint(name: &str) -> SqlError {
    SqlError::new(codes::UNKNOWN_SAVEPOINT, format!("SAVEPOINT {name} does not exist"))
}
