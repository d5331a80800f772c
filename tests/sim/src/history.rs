//! What clients saw: the only evidence that the checkers judge by.
//!
//! A workload fills a [`History`] while it runs: [`History::begin`] when a client begins a transaction,
//! [`History::push`] for each operation, the result when it arrives, [`History::answer`] when the client is told how
//! the transaction ended. Times are the simulator's own, the same for all; no node ever sees them.

use std::{collections::BTreeMap, fmt};

use twofold_proto::{
    ids::{Epoch, Incarnation, TableId, TransactionId, Version},
    time::{Duration, Time},
};

/// What a workload writes. Within a key every write has a value of its own, so that a read names its writer.
pub type Value = u64;

/// A row, as workloads number them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its table.
    pub table: TableId,
    /// Its number in the table.
    pub row: u64,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}", self.table, self.row)
    }
}

/// What a read returned, and the version of the row; the zero version if there was no row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen<T> {
    /// The row.
    pub content: T,
    /// Its version.
    pub version: Version,
}

/// When a write takes place. A comparison with a version is recorded as one with the value that had this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Whatever the row holds.
    Always,
    /// If there is a row: an update, or a delete.
    Present,
    /// If there is none: an insert.
    Absent,
    /// If the row holds this value: compare-and-set.
    Is(Value),
}

/// What was done to a row.
///
/// A row is used either as a register (`Read`, `Write`) or as a list (`ReadList`, `Append`). A statement that was
/// undone, by an error or a savepoint, is not recorded, or as a write that was not applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Reads a register; `None` inside if there is no row.
    Read {
        /// Whether it locks the row until the transaction ends.
        locking: bool,
        /// What was returned, if it was.
        seen: Option<Seen<Option<Value>>>,
    },
    /// Writes a register.
    Write {
        /// When.
        condition: Condition,
        /// The new value; `None` deletes the row.
        value: Option<Value>,
        /// Whether the condition held, if the client was told.
        applied: Option<bool>,
    },
    /// Reads a list; empty if there is no row.
    ReadList {
        /// Whether it locks the row until the transaction ends.
        locking: bool,
        /// What was returned, if it was.
        seen: Option<Seen<Vec<Value>>>,
    },
    /// Appends to a list: by an interpreted operation, or by a locking read (a `ReadList` before it) and a write.
    Append {
        /// The new last element.
        value: Value,
    },
}

/// One operation on one row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// The row.
    pub key: Key,
    /// What was done.
    pub action: Action,
}

impl Operation {
    /// A committed read of a register; its result is to come.
    pub fn read(key: Key) -> Operation {
        Operation { key, action: Action::Read { locking: false, seen: None } }
    }

    /// An unconditional write of a register.
    pub fn write(key: Key, value: Value) -> Operation {
        Operation::write_if(key, Condition::Always, Some(value))
    }

    /// A delete; whether there was a row is to come.
    pub fn delete(key: Key) -> Operation {
        Operation::write_if(key, Condition::Present, None)
    }

    /// A conditional write; whether it was applied is to come.
    pub fn write_if(key: Key, condition: Condition, value: Option<Value>) -> Operation {
        Operation { key, action: Action::Write { condition, value, applied: None } }
    }

    /// A committed read of a list; its result is to come.
    pub fn read_list(key: Key) -> Operation {
        Operation { key, action: Action::ReadList { locking: false, seen: None } }
    }

    /// An append to a list.
    pub fn append(key: Key, value: Value) -> Operation {
        Operation { key, action: Action::Append { value } }
    }

    /// The same, locking the row if it is a read.
    pub fn locking(mut self) -> Operation {
        if let Action::Read { locking, .. } | Action::ReadList { locking, .. } = &mut self.action {
            *locking = true;
        }
        self
    }

    /// Records what a read of a register returned.
    ///
    /// # Panics
    /// Panics if this is no read of a register.
    pub fn saw(&mut self, content: Option<Value>, version: Version) {
        match &mut self.action {
            Action::Read { seen, .. } => *seen = Some(Seen { content, version }),
            other => panic!("{other:?} is no read of a register"),
        }
    }

    /// Records what a read of a list returned.
    ///
    /// # Panics
    /// Panics if this is no read of a list.
    pub fn saw_list(&mut self, content: Vec<Value>, version: Version) {
        match &mut self.action {
            Action::ReadList { seen, .. } => *seen = Some(Seen { content, version }),
            other => panic!("{other:?} is no read of a list"),
        }
    }

    /// Records whether a conditional write was applied.
    ///
    /// # Panics
    /// Panics if this is no write of a register.
    pub fn was_applied(&mut self, yes: bool) {
        match &mut self.action {
            Action::Write { applied, .. } => *applied = Some(yes),
            other => panic!("{other:?} is no write of a register"),
        }
    }

    /// What a write of a register writes; `None` if it deletes, or is none.
    pub fn written(&self) -> Option<Value> {
        match &self.action {
            Action::Write { value, .. } => *value,
            _ => None,
        }
    }

    /// The version that a read returned.
    pub fn version_seen(&self) -> Option<Version> {
        match &self.action {
            Action::Read { seen, .. } => seen.as_ref().map(|seen| seen.version),
            Action::ReadList { seen, .. } => seen.as_ref().map(|seen| seen.version),
            Action::Write { .. } | Action::Append { .. } => None,
        }
    }

    /// Whether it changes its row, if the transaction commits: false for a write known not to have been applied.
    pub fn changes(&self) -> bool {
        match self.action {
            Action::Write { applied, .. } => applied != Some(false),
            Action::Append { .. } => true,
            Action::Read { .. } | Action::ReadList { .. } => false,
        }
    }
}

/// The isolation that a transaction asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Isolation {
    /// Plain reads see the last committed version.
    ReadCommitted,
    /// Every read locks.
    Serializable,
}

/// What a client was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It took effect.
    Committed {
        /// The epoch of the commit, if the answer said.
        epoch: Option<Epoch>,
    },
    /// It never will.
    Aborted,
    /// Either.
    Unknown,
}

/// One transaction, as its client saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// The client session, and its number there.
    pub id: TransactionId,
    /// The isolation asked for.
    pub isolation: Isolation,
    /// Whether the commit was to be answered only once its epoch was on disk.
    pub durable: bool,
    /// When the client sent its first message.
    pub invoked: Time,
    /// When the client was told how it ended, and what; `None` if it is still open.
    pub answer: Option<(Time, Outcome)>,
    /// Whether the cluster died before its outcome was known: nobody may ever learn it.
    pub forgotten: bool,
    /// In the client's order.
    pub operations: Vec<Operation>,
}

impl Transaction {
    /// What became of it: an open transaction is as unknown as one of which the client was told so.
    pub fn outcome(&self) -> Outcome {
        self.answer.map_or(Outcome::Unknown, |(_, outcome)| outcome)
    }

    /// Whether the client was told that it committed.
    pub fn is_committed(&self) -> bool {
        matches!(self.outcome(), Outcome::Committed { .. })
    }

    /// Whether the client was told that it aborted.
    pub fn is_aborted(&self) -> bool {
        self.outcome() == Outcome::Aborted
    }

    /// By when its effects had taken place, if they ever do: when the client was told; never while that is unknown.
    pub fn completed(&self) -> Time {
        match self.answer {
            Some((at, Outcome::Committed { .. } | Outcome::Aborted)) => at,
            Some((_, Outcome::Unknown)) | None => Time(u64::MAX),
        }
    }

    /// Whether it ended before the other began, for every observer.
    pub fn precedes(&self, later: &Transaction) -> bool {
        self.completed() < later.invoked
    }

    /// The epoch of its commit, if it committed and the answer said. What only reads has none.
    pub fn epoch(&self) -> Option<Epoch> {
        match self.outcome() {
            Outcome::Committed { epoch } => epoch.filter(|epoch| *epoch > Epoch::default()),
            Outcome::Aborted | Outcome::Unknown => None,
        }
    }

    /// Whether it may have changed something.
    pub fn changes(&self) -> bool {
        self.operations.iter().any(Operation::changes)
    }
}

/// A restart of the whole cluster: what was committed in an epoch after the cut is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SystemRestart {
    /// When the last data node died, or somewhat before. In the future if nothing may be lost.
    pub crashed: Time,
    /// When its users learned that it was back.
    pub back: Time,
    /// The restart number of the epochs after it.
    pub number: u16,
    /// The newest epoch that survived.
    pub cut: Epoch,
}

impl SystemRestart {
    /// The same for users whose last write was answered then. While a disk cannot keep up none is, so that what is lost is
    /// not more than a certain time of writing, however long ago that was.
    pub fn after(self, last_write: Time) -> SystemRestart {
        let crashed = if self.crashed > self.back { self.crashed } else { self.crashed.min(last_write) };
        SystemRestart { crashed, ..self }
    }

    /// Whether commits of this epoch were lost in it.
    pub fn lost(&self, epoch: Epoch) -> bool {
        epoch > self.cut && epoch.restart() < self.number
    }
}

/// A transaction's place in its history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Handle(usize);

/// What all clients of a run saw.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct History {
    transactions: Vec<Transaction>,
    dead: BTreeMap<Incarnation, Time>,
    contradictions: Vec<(TransactionId, Outcome, Outcome)>,
}

impl History {
    /// A client begins a transaction.
    pub fn begin(&mut self, id: TransactionId, isolation: Isolation, now: Time) -> Handle {
        self.transactions.push(Transaction {
            id,
            isolation,
            durable: false,
            invoked: now,
            answer: None,
            forgotten: false,
            operations: Vec::new(),
        });
        Handle(self.transactions.len() - 1)
    }

    /// It sends an operation; its place in the transaction, for the result.
    pub fn push(&mut self, transaction: Handle, operation: Operation) -> usize {
        let operations = &mut self.transactions[transaction.0].operations;
        operations.push(operation);
        operations.len() - 1
    }

    /// To record a result, or that the transaction waits for disk.
    pub fn transaction(&mut self, transaction: Handle) -> &mut Transaction {
        &mut self.transactions[transaction.0]
    }

    /// The client is told how it ended. What was unknown may become known later; anything else is a contradiction,
    /// which is kept for the checkers.
    pub fn answer(&mut self, transaction: Handle, now: Time, outcome: Outcome) {
        let transaction = &mut self.transactions[transaction.0];
        match transaction.outcome() {
            Outcome::Unknown => transaction.answer = Some((now, outcome)),
            before if outcome != Outcome::Unknown && before != outcome => {
                self.contradictions.push((transaction.id, before, outcome));
            }
            _ => {}
        }
    }

    /// A client died with its session: nobody is left to learn the outcome of what it has open.
    pub fn client_died(&mut self, session: Incarnation, now: Time) {
        self.dead.entry(session).or_insert(now);
    }

    /// The cluster has died as a whole: what is unknown now may stay so.
    pub fn cluster_died(&mut self) {
        let unknown = |transaction: &&mut Transaction| transaction.outcome() == Outcome::Unknown;
        self.transactions.iter_mut().filter(unknown).for_each(|transaction| transaction.forgotten = true);
    }

    /// All transactions, in the order in which they began.
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// When this session's client died, if it did.
    pub fn died(&self, session: Incarnation) -> Option<Time> {
        self.dead.get(&session).copied()
    }

    /// Transactions whose client was told first one thing, then another.
    pub fn contradictions(&self) -> &[(TransactionId, Outcome, Outcome)] {
        &self.contradictions
    }

    /// The history of what survived a system restart, which can be checked as if there had been none.
    ///
    /// Drops what was committed in a lost epoch, and what only read and saw something of a lost epoch, or may have: who found no
    /// row within the `window` before the crash may have seen a delete that was lost. What was answered in that time without
    /// an epoch may have survived or not, if it was not to be on disk.
    pub fn surviving(&self, restart: &SystemRestart, window: Duration) -> History {
        let in_window = |transaction: &Transaction| {
            transaction.invoked < restart.back && restart.crashed.since(transaction.completed()) <= window
        };
        let saw_lost = |operation: &Operation| {
            operation.version_seen().is_some_and(|version| restart.lost(version.epoch))
        };
        let gone = |transaction: &Transaction| match transaction.epoch() {
            Some(epoch) => restart.lost(epoch),
            None if transaction.changes() => false,
            None => in_window(transaction) || transaction.operations.iter().any(saw_lost),
        };
        let mut surviving = self.clone();
        surviving.transactions.retain(|transaction| !gone(transaction));
        for transaction in &mut surviving.transactions {
            let may_be_lost = !transaction.durable && transaction.epoch().is_none();
            if transaction.is_committed() && may_be_lost && in_window(transaction) {
                (transaction.answer, transaction.forgotten) = (None, true);
            }
        }
        surviving
    }
}

/// What the database holds in the end, read when all is quiet: rows that are not there are not named.
pub type FinalRows = BTreeMap<Key, FinalRow>;

/// One row of the final state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FinalRow {
    /// What it holds.
    pub content: FinalContent,
    /// Its version.
    pub version: Version,
}

/// What a row of the final state holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FinalContent {
    /// A register's value.
    Value(Value),
    /// A list's elements.
    List(Vec<Value>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> TransactionId {
        TransactionId { session: Incarnation(1), number }
    }

    fn committed(epoch: Epoch) -> Outcome {
        Outcome::Committed { epoch: Some(epoch) }
    }

    #[test]
    fn what_was_unknown_may_become_known_but_not_change() {
        let mut history = History::default();
        let x = history.begin(id(1), Isolation::Serializable, Time(1));
        assert_eq!(history.transactions()[0].outcome(), Outcome::Unknown);
        history.answer(x, Time(5), Outcome::Unknown);
        assert_eq!(history.transactions()[0].completed(), Time(u64::MAX));
        history.answer(x, Time(9), Outcome::Aborted);
        history.answer(x, Time(10), Outcome::Aborted);
        assert_eq!(history.transactions()[0].completed(), Time(9));
        assert!(history.contradictions().is_empty());
        history.answer(x, Time(11), committed(Epoch(3)));
        assert_eq!(history.contradictions(), [(id(1), Outcome::Aborted, committed(Epoch(3)))]);
        assert!(history.transactions()[0].is_aborted());
    }

    #[test]
    fn epochs_after_the_cut_do_not_survive_a_restart() {
        let key = Key { table: TableId(1), row: 1 };
        let restart = SystemRestart { crashed: Time(50), back: Time(60), number: 3, cut: Epoch::new(2, 5) };
        let mut history = History::default();
        for (n, epoch) in [Epoch::new(2, 5), Epoch::new(2, 6), Epoch::new(3, 7)].into_iter().enumerate() {
            let x = history.begin(id(n as u64), Isolation::ReadCommitted, Time(n as u64));
            history.answer(x, Time(n as u64 + 1), committed(epoch));
        }
        for (n, counter) in [(10, 5), (11, 6)] {
            let x = history.begin(id(n), Isolation::ReadCommitted, Time(n));
            let read = history.push(x, Operation::read(key));
            let version = Version { epoch: Epoch::new(2, counter), number: 1 };
            history.transaction(x).operations[read].saw(Some(1), version);
            history.answer(x, Time(20), Outcome::Committed { epoch: None });
        }
        // Lone writes, of which no epoch is known: one old enough, one that may be lost.
        for (n, at) in [(20, 38), (21, 41)] {
            let x = history.begin(id(n), Isolation::ReadCommitted, Time(n));
            history.push(x, Operation::write(key, n));
            history.answer(x, Time(at), Outcome::Committed { epoch: None });
        }
        let surviving = history.surviving(&restart, Duration::from_nanos(10));
        let left: Vec<u64> = surviving.transactions().iter().map(|t| t.id.number).collect();
        assert_eq!(left, [0, 2, 10, 20, 21]);
        let committed: Vec<bool> = surviving.transactions().iter().map(Transaction::is_committed).collect();
        assert_eq!(committed, [true, true, true, true, false]);
    }
}
