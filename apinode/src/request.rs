//! What a frontend asks of the cluster client, and what it is told.
//!
//! Each request is submitted with a token that its frontend chose, and is answered exactly once under that token.

use std::fmt;

use serde::{Deserialize, Serialize};
use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Epoch, IndexId, PartitionId, TableId, TransactionId},
    index::EntryRange,
    limits::PARTITIONS,
    message::{CatalogChange, Coordinator, Status, TransactionState, control, put_control},
    placement::KeyHash,
    time::Duration,
};

/// Operations, encoded one after the other as `proto::operation` lays them out, each with its hash.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Operations {
    /// The encoded operations.
    pub bytes: Vec<u8>,
    /// How many they are.
    pub count: u16,
}

/// Which commits count as answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Durability {
    /// Every replica has it in memory.
    #[default]
    Memory,
    /// Its epoch is durable.
    Disk,
}

/// What a transaction's reads are protected from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Isolation {
    /// Plain reads take no locks.
    #[default]
    ReadCommitted,
    /// Every read is a locking read.
    Serializable,
}

/// What goes for every kind of request that runs operations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Options {
    /// When a commit is answered.
    pub durability: Durability,
    /// How long to try; `None`: the client's default.
    pub deadline: Option<Duration>,
    /// Coordinate where this distribution key lives; `None`: where the first operation's does.
    pub hint: Option<KeyHash>,
    /// Bytes that the results of [`Request::Independent`] may have; `None`: `TRANSACTION_BYTES_MAX`. Past them reads
    /// fail as too large, and writes are answered without their rows.
    pub result_bytes: Option<usize>,
}

/// What an interactive transaction begins with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Begin {
    /// What its reads are protected from.
    pub isolation: Isolation,
    /// Age for wound-wait, of the transaction that this one is a retry of: [`Answer::Statement`] tells it.
    pub timestamp: Option<u64>,
}

/// What follows the operations of a statement.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum End {
    /// The transaction stays open.
    #[default]
    Stay,
    /// Commit.
    Commit,
    /// Roll back. Operations and undo are not sent.
    Rollback,
}

/// A step of an interactive transaction. Its requests are answered in order; several may be under way.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Statement {
    /// The frontend's name for the transaction. Free for another one once an answer says that it has ended.
    pub handle: u64,
    /// With the first statement of a transaction, and only there.
    pub begin: Option<Begin>,
    /// The statement's number: ascending within the transaction, from 1.
    pub number: u32,
    /// First undo all statements from this number on: back to a savepoint.
    pub undo: bool,
    /// What to run; may be empty.
    pub operations: Operations,
    /// What then.
    pub end: End,
    /// Durability counts with [`End::Commit`], the hint with `begin`.
    pub options: Options,
}

/// A step of a scan by index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeStep {
    /// The table.
    pub table: TableId,
    /// The version of its schema that the program was made for.
    pub schema_version: u32,
    /// Its index.
    pub index: IndexId,
    /// Of the rows of this partition alone.
    pub partition: Option<PartitionId>,
    /// What of the index; then what the last answer has left of it.
    pub range: EntryRange,
    /// Whether the last row comes first.
    pub descending: bool,
    /// At most so many rows; 0: as many as fit the answers of those who have them.
    pub rows: u32,
    /// Filter and projection: the body of a Read operation.
    pub program: Vec<u8>,
    /// How long to try; `None`: the client's default.
    pub deadline: Option<Duration>,
}

/// What a frontend asks.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    /// Run each operation as a transaction of its own, in any order. [`Answer::Operations`].
    Independent {
        /// What to run.
        operations: Operations,
        /// How.
        options: Options,
    },
    /// Run all operations as one transaction and commit it. [`Answer::Statement`] or [`Answer::Failed`].
    Transaction {
        /// What to run.
        operations: Operations,
        /// What its reads are protected from.
        isolation: Isolation,
        /// How.
        options: Options,
    },
    /// A step of an interactive transaction. [`Answer::Statement`] or [`Answer::Failed`].
    Statement(Statement),
    /// Committed rows of one partition, from a cursor on. [`Answer::Scan`] or [`Answer::Failed`].
    ScanStep {
        /// The table.
        table: TableId,
        /// The version of its schema that the program was made for.
        schema_version: u32,
        /// The partition.
        partition: PartitionId,
        /// 0 at the start, then the last answer's.
        cursor: u64,
        /// At most so many rows; 0: as many as fit an answer.
        rows: u32,
        /// Filter and projection: the body of a Read operation.
        program: Vec<u8>,
        /// How long to try; `None`: the client's default.
        deadline: Option<Duration>,
    },
    /// The next committed rows of a range of an ordered index, in its order. [`Answer::Range`] or [`Answer::Failed`].
    RangeStep(RangeStep),
    /// What became of a transaction? [`Answer::Status`] or [`Answer::Failed`].
    Status(TransactionToken),
    /// Change the catalog. [`Answer::Catalog`] or [`Answer::Failed`].
    Change(CatalogChange),
}

/// What a frontend is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A result or a failure for each operation of [`Request::Independent`].
    Operations(Results),
    /// A transaction or a statement of it has run.
    Statement {
        /// Whether it is open or has ended.
        state: TransactionState,
        /// The epoch of the commit, if committed.
        epoch: Epoch,
        /// Names the transaction in [`Request::Status`]; once it has tried to commit, unless it has only read.
        token: Option<TransactionToken>,
        /// Its age, for [`Begin::timestamp`] of a retry.
        timestamp: u64,
        /// A result for each operation.
        results: Results,
    },
    /// Rows.
    Scan {
        /// Where to go on; `None` when the partition is through.
        cursor: Option<u64>,
        /// A result for each row.
        rows: Results,
    },
    /// Rows in the index's order, and no others are between them.
    Range {
        /// What is left of the range; `None`: nothing.
        rest: Option<EntryRange>,
        /// A result for each row.
        rows: Results,
    },
    /// What became of the transaction: never `AskElsewhere`.
    Status(Status),
    /// The change is in this version of the catalog, which the client knows by now.
    Catalog(u64),
    /// The request failed as a whole.
    Failed(Failure),
}

impl Answer {
    /// How much memory its results take, about.
    pub fn result_bytes(&self) -> usize {
        let results = match self {
            Answer::Operations(results) | Answer::Statement { results, .. } => results,
            Answer::Scan { rows, .. } | Answer::Range { rows, .. } => rows,
            _ => return 0,
        };
        results.bytes() + results.len() * RESULT_OVERHEAD
    }
}

/// What a result takes beside its bytes, about.
const RESULT_OVERHEAD: usize = 64;

/// Knows how many bytes of results a client's frontends have been handed and have not written yet.
pub trait HandedOut: fmt::Debug + Send {
    /// So many.
    fn bytes(&self) -> usize;
}

/// Why a request, or one of its independent operations, failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What went wrong.
    pub error: Error,
    /// The operation that it went wrong with, where it is one of many.
    pub operation: Option<u16>,
    /// Of a statement: `Open` if it is undone and its transaction can go on.
    pub state: TransactionState,
    /// If the outcome is unknown: what to ask with.
    pub token: Option<TransactionToken>,
    /// Of a transaction: its age, for [`Begin::timestamp`] of a retry; else 0.
    pub timestamp: u64,
}

impl From<Error> for Failure {
    /// A failure that left nothing.
    fn from(error: Error) -> Failure {
        Failure { error, operation: None, state: TransactionState::Aborted, token: None, timestamp: 0 }
    }
}

/// Names a transaction whose outcome may be asked for. Opaque to users, as bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct TransactionToken {
    /// The transaction.
    pub transaction: TransactionId,
    /// Its session's commit number.
    pub commit_number: u64,
    /// Its TC.
    pub coordinator: Coordinator,
    /// A partition that it may have locked.
    pub partition: PartitionId,
    /// The client's epoch when it asked for the commit.
    pub epoch: Epoch,
    /// Whether it counts as committed only once it is on all disks.
    pub durable: bool,
}

impl TransactionToken {
    /// The bytes that [`TransactionToken::decode`] reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_control(&mut bytes, self);
        bytes.extend_from_slice(&check(&bytes));
        bytes
    }

    /// Reads what [`TransactionToken::encode`] wrote.
    ///
    /// # Errors
    /// [`ErrorCode::Malformed`] for any other bytes.
    pub fn decode(bytes: &[u8]) -> Result<TransactionToken, Error> {
        let token = bytes.split_last_chunk().filter(|(body, sum)| check(body) == **sum);
        let token = token.and_then(|(body, _)| control::<TransactionToken>(body).ok());
        token.filter(|token| token.partition.0 < PARTITIONS).ok_or_else(|| {
            let text = format!("{} bytes that are no token of a transaction", bytes.len());
            Error::new(ErrorCode::Malformed, text)
        })
    }
}

/// So that other bytes are not taken for a token: a transaction that never was would be «pending» for ever. FNV-1a.
fn check(bytes: &[u8]) -> [u8; 4] {
    let mix = |hash: u32, &byte: &u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    bytes.iter().fold(0x811c_9dc5, mix).to_le_bytes()
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Slot {
    Missing,
    Done { start: usize, length: usize },
    Failed(Box<Failure>),
}

/// The results of operations, by the operations' order; filled in any order. One buffer holds all.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Results {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

impl Results {
    /// Nothing yet, of so many operations.
    pub fn new(operations: usize) -> Results {
        Results { bytes: Vec::new(), slots: vec![Slot::Missing; operations] }
    }

    /// This failure, of so many operations.
    pub fn failed(operations: usize, failure: &Failure) -> Results {
        let slots = vec![Slot::Failed(Box::new(failure.clone())); operations];
        Results { bytes: Vec::new(), slots }
    }

    /// The operation answered this (`proto::result`).
    ///
    /// # Panics
    /// Panics if there is no such operation, or it was answered before.
    pub fn set(&mut self, operation: usize, result: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(result);
        self.fill(operation, Slot::Done { start, length: result.len() });
    }

    /// The operation was not run, or its outcome is unknown.
    ///
    /// # Panics
    /// As [`Results::set`].
    pub fn fail(&mut self, operation: usize, failure: Failure) {
        self.fill(operation, Slot::Failed(Box::new(failure)));
    }

    /// Appends a result behind the last one.
    pub fn push(&mut self, result: &[u8]) {
        self.slots.push(Slot::Missing);
        self.set(self.slots.len() - 1, result);
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of all results.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What the operation answered.
    ///
    /// # Panics
    /// Panics if there is no such operation, or it has not been answered.
    pub fn get(&self, operation: usize) -> Result<&[u8], &Failure> {
        match &self.slots[operation] {
            Slot::Done { start, length } => Ok(&self.bytes[*start..][..*length]),
            Slot::Failed(failure) => Err(failure),
            Slot::Missing => panic!("operation {operation} of {} has not been answered", self.slots.len()),
        }
    }

    /// What each operation answered, in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<&[u8], &Failure>> {
        (0..self.slots.len()).map(|operation| self.get(operation))
    }

    fn fill(&mut self, operation: usize, slot: Slot) {
        let place = &mut self.slots[operation];
        assert_eq!(*place, Slot::Missing, "operation {operation} is answered twice: now {slot:?}");
        *place = slot;
    }
}

impl fmt::Debug for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Results of {} in {} bytes", self.slots.len(), self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_operations_order() {
        let mut results = Results::new(3);
        results.set(2, b"two");
        let failure = Failure::from(Error::new(ErrorCode::TableFull, "no memory for table t"));
        results.fail(1, failure.clone());
        results.set(0, b"");
        results.push(b"three");
        let all: Vec<_> = results.iter().collect();
        assert_eq!(all, [Ok(&b""[..]), Err(&failure), Ok(b"two"), Ok(b"three")]);
    }

    #[test]
    #[should_panic(expected = "answered twice")]
    fn an_operation_is_answered_once() {
        let mut results = Results::new(1);
        results.set(0, b"a");
        results.set(0, b"b");
    }

    #[test]
    fn tokens_survive_and_others_are_refused() {
        let token = TransactionToken {
            transaction: TransactionId::default(),
            commit_number: 300,
            coordinator: Coordinator::default(),
            partition: PartitionId(7),
            epoch: Epoch::new(1, 9),
            durable: true,
        };
        assert_eq!(TransactionToken::decode(&token.encode()), Ok(token));
        let error = TransactionToken::decode(b"\xff").unwrap_err();
        assert_eq!(
            error.to_string(),
            "TF-1001: 1 bytes that are no token of a transaction; correct the request"
        );
        // As many bytes as a token may have, each a number as tokens hold them.
        for length in 0..40 {
            assert!(TransactionToken::decode(&vec![b'n'; length]).is_err(), "{length}");
        }
        let mut changed = token.encode();
        changed[0] ^= 1;
        assert!(TransactionToken::decode(&changed).is_err());
        let nowhere = TransactionToken { partition: PartitionId(u16::MAX), ..token };
        assert!(TransactionToken::decode(&nowhere.encode()).is_err());
    }
}
