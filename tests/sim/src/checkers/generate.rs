//! Histories of a real execution, for the checkers' tests: clients whose messages overlap at random, and a database
//! that does each transaction at one instant.

use std::collections::{BTreeMap, VecDeque};

use twofold_proto::{
    ids::{Epoch, Incarnation, TableId, TransactionId, Version},
    random::Random,
    time::Time,
};

use crate::history::{
    Action, Condition, FinalContent, FinalRow, FinalRows, Handle, History, Isolation, Key, Operation,
    Outcome, Value,
};

/// The workload.
#[derive(Clone, Debug)]
pub struct Shape {
    pub clients: usize,
    pub keys: u64,
    pub transactions: usize,
    /// The most operations of a transaction.
    pub operations: u64,
    /// Lists, or registers.
    pub lists: bool,
    /// Whether registers are also deleted, inserted and compared.
    pub conditions: bool,
    pub isolation: Isolation,
    /// One in so many transactions fails in some way; 0 for none.
    pub failures: u64,
}

impl Shape {
    pub fn registers(operations: u64) -> Shape {
        Shape {
            clients: 5,
            keys: 3,
            transactions: 120,
            operations,
            lists: false,
            conditions: true,
            isolation: Isolation::Serializable,
            failures: 8,
        }
    }

    pub fn lists() -> Shape {
        Shape { lists: true, conditions: false, ..Shape::registers(4) }
    }
}

/// What came of it.
pub struct Run {
    pub history: History,
    pub rows: FinalRows,
}

pub fn key(row: u64) -> Key {
    Key { table: TableId(1), row }
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Committed,
    Aborted,
    /// The answer is lost; whether it took effect, and whether the client learns at least that it does not know.
    Unknown {
        applied: bool,
        told: bool,
    },
}

/// A transaction under way: its plain reads that are still to do one by one, then all the rest at once.
struct Open {
    handle: Handle,
    early_reads: VecDeque<usize>,
    late: Vec<usize>,
    fate: Fate,
    /// The epoch in which it was executed.
    executed: Option<u64>,
}

struct Generator {
    random: Random,
    shape: Shape,
    now: u64,
    epoch: u64,
    commits: u64,
    last_value: Value,
    begun: u64,
    rows: FinalRows,
    history: History,
}

/// Runs the workload, and a last transaction that reads every key.
pub fn run(seed: u64, shape: &Shape) -> Run {
    let mut it = Generator {
        random: Random::new(seed),
        shape: shape.clone(),
        now: 0,
        epoch: 1,
        commits: 0,
        last_value: 0,
        begun: 0,
        rows: FinalRows::new(),
        history: History::default(),
    };
    let mut clients: Vec<Option<Open>> = (0..shape.clients).map(|_| None).collect();
    while (it.begun as usize) < shape.transactions || clients.iter().any(Option::is_some) {
        it.now += 1000 * it.random.below(3);
        it.epoch += u64::from(it.random.one_in(6));
        let client = it.random.below(shape.clients as u64) as usize;
        clients[client] = match clients[client].take() {
            Some(open) => it.advance(open),
            None if (it.begun as usize) < shape.transactions => Some(it.begin(client)),
            None => None,
        };
    }
    it.now += 10_000;
    let operations = (0..shape.keys).map(|n| read_of(shape.lists, key(n))).collect();
    let mut open = it.open(u64::MAX, operations, Isolation::Serializable);
    open.fate = Fate::Committed;
    it.now += 10_000;
    let open = it.advance(open).expect("it is to be answered");
    it.advance(open);
    Run { history: it.history, rows: it.rows }
}

fn read_of(lists: bool, key: Key) -> Operation {
    if lists { Operation::read_list(key) } else { Operation::read(key) }
}

impl Generator {
    fn begin(&mut self, client: usize) -> Open {
        let count = self.random.between(1, self.shape.operations);
        let operations = (0..count).map(|_| self.operation()).collect();
        self.open(client as u64 + 1, operations, self.shape.isolation)
    }

    fn open(&mut self, session: u64, operations: Vec<Operation>, isolation: Isolation) -> Open {
        self.begun += 1;
        let id = TransactionId { session: Incarnation(session), number: self.begun };
        let handle = self.history.begin(id, isolation, Time(self.now));
        let (mut early_reads, mut late) = (VecDeque::new(), Vec::new());
        for operation in operations {
            let plain = matches!(
                operation.action,
                Action::Read { locking: false, .. } | Action::ReadList { locking: false, .. }
            );
            let place = self.history.push(handle, operation);
            if plain && isolation == Isolation::ReadCommitted && late.is_empty() {
                early_reads.push_back(place);
            } else {
                late.push(place);
            }
        }
        let fate = match self.shape.failures {
            0 => Fate::Committed,
            n if !self.random.one_in(n) => Fate::Committed,
            _ if self.random.one_in(2) => Fate::Aborted,
            _ => Fate::Unknown { applied: self.random.one_in(2), told: self.random.one_in(2) },
        };
        Open { handle, early_reads, late, fate, executed: None }
    }

    fn operation(&mut self) -> Operation {
        let key = key(self.random.below(self.shape.keys));
        let reads = self.random.one_in(2);
        let locking = self.random.one_in(3);
        self.last_value += 1;
        let value = self.last_value;
        let operation = match (reads, self.shape.lists) {
            (true, lists) => read_of(lists, key),
            (false, true) => Operation::append(key, value),
            (false, false) => self.write(key, value),
        };
        if locking { operation.locking() } else { operation }
    }

    fn write(&mut self, key: Key, value: Value) -> Operation {
        if !self.shape.conditions {
            return Operation::write(key, value);
        }
        match self.random.below(6) {
            0 => Operation::delete(key),
            1 => Operation::write_if(key, Condition::Absent, Some(value)),
            2 => Operation::write_if(key, Condition::Present, Some(value)),
            3 => match self.rows.get(&key) {
                Some(FinalRow { content: FinalContent::Value(now), .. }) => {
                    Operation::write_if(key, Condition::Is(*now), Some(value))
                }
                _ => Operation::write(key, value),
            },
            _ => Operation::write(key, value),
        }
    }

    /// The next thing that happens to a transaction; `None` when nothing will any more.
    fn advance(&mut self, mut open: Open) -> Option<Open> {
        if let Some(place) = open.early_reads.pop_front() {
            self.execute(open.handle, &[place]);
            return Some(open);
        }
        let Some(epoch) = open.executed else {
            open.executed = Some(self.epoch);
            let before = match open.fate {
                Fate::Committed | Fate::Unknown { applied: true, .. } => None,
                Fate::Aborted | Fate::Unknown { applied: false, .. } => Some(self.rows.clone()),
            };
            self.commits += 1;
            self.execute(open.handle, &open.late);
            if let Some(before) = before {
                self.rows = before;
            }
            return Some(open);
        };
        let epoch = Some(Epoch(epoch));
        let now = Time(self.now);
        match open.fate {
            Fate::Committed => self.history.answer(open.handle, now, Outcome::Committed { epoch }),
            Fate::Aborted => self.history.answer(open.handle, now, Outcome::Aborted),
            Fate::Unknown { told, .. } => {
                if told {
                    self.history.answer(open.handle, now, Outcome::Unknown);
                }
                if self.random.one_in(2) {
                    self.forget_results(open.handle);
                }
            }
        }
        None
    }

    fn forget_results(&mut self, handle: Handle) {
        for operation in &mut self.history.transaction(handle).operations {
            match &mut operation.action {
                Action::Read { seen, .. } => *seen = None,
                Action::Write { applied, .. } => *applied = None,
                Action::ReadList { seen, .. } => *seen = None,
                Action::Append { .. } => {}
            }
        }
    }

    fn execute(&mut self, handle: Handle, places: &[usize]) {
        let version = Version { epoch: Epoch(self.epoch), number: self.commits };
        for &place in places {
            execute(&mut self.rows, &mut self.history.transaction(handle).operations[place], version);
        }
    }
}

/// Does one operation, and notes what it returned.
pub fn execute(rows: &mut FinalRows, operation: &mut Operation, version: Version) {
    let key = operation.key;
    let row = rows.get(&key).cloned();
    let before = row.as_ref().map_or(Version::default(), |row| row.version);
    match (&operation.action, row.map(|row| row.content)) {
        (Action::Read { .. }, None) => operation.saw(None, before),
        (Action::Read { .. }, Some(FinalContent::Value(value))) => operation.saw(Some(value), before),
        (Action::ReadList { .. }, None) => operation.saw_list(Vec::new(), before),
        (Action::ReadList { .. }, Some(FinalContent::List(list))) => operation.saw_list(list, before),
        (&Action::Append { value }, Some(FinalContent::List(mut list))) => {
            list.push(value);
            rows.insert(key, FinalRow { content: FinalContent::List(list), version });
        }
        (&Action::Append { value }, None) => {
            rows.insert(key, FinalRow { content: FinalContent::List(vec![value]), version });
        }
        (&Action::Write { condition, value, .. }, content) => {
            let holds = match condition {
                Condition::Always => true,
                Condition::Present => content.is_some(),
                Condition::Absent => content.is_none(),
                Condition::Is(expected) => content == Some(FinalContent::Value(expected)),
            };
            operation.was_applied(holds);
            match value {
                _ if !holds => {}
                None => drop(rows.remove(&key)),
                Some(value) => {
                    rows.insert(key, FinalRow { content: FinalContent::Value(value), version });
                }
            }
        }
        (action, content) => panic!("{action:?} of {content:?}: a key is a register or a list"),
    }
}

/// The history with each transaction's operations changed.
pub fn changed(history: &History, mut change: impl FnMut(usize, &mut Operation)) -> History {
    let mut copy = History::default();
    for (n, transaction) in history.transactions().iter().enumerate() {
        let handle = copy.begin(transaction.id, transaction.isolation, transaction.invoked);
        let mut transaction = transaction.clone();
        transaction.operations.iter_mut().for_each(|operation| change(n, operation));
        *copy.transaction(handle) = transaction;
    }
    copy
}

/// Builds a history by hand.
#[derive(Default)]
pub struct Script {
    pub history: History,
    pub numbers: BTreeMap<u64, u64>,
    pub isolation: Option<Isolation>,
}

impl Script {
    pub fn transaction(
        &mut self,
        session: u64,
        from: u64,
        answer: Option<(u64, Outcome)>,
        operations: impl IntoIterator<Item = Operation>,
    ) -> &mut Script {
        let number = self.numbers.entry(session).or_default();
        *number += 1;
        let id = TransactionId { session: Incarnation(session), number: *number };
        let isolation = self.isolation.unwrap_or(Isolation::Serializable);
        let handle = self.history.begin(id, isolation, Time(from));
        for operation in operations {
            self.history.push(handle, operation);
        }
        if let Some((to, outcome)) = answer {
            self.history.answer(handle, Time(to), outcome);
        }
        self
    }

    /// A committed transaction.
    pub fn x(
        &mut self,
        session: u64,
        from: u64,
        to: u64,
        operations: impl IntoIterator<Item = Operation>,
    ) -> &mut Script {
        self.transaction(session, from, Some((to, Outcome::Committed { epoch: None })), operations)
    }
}

/// A read of a register that returned this.
pub fn saw(row: u64, content: Option<Value>) -> Operation {
    let mut operation = Operation::read(key(row));
    operation.saw(content, Version::default());
    operation
}

/// A read of a list that returned this.
pub fn saw_list(row: u64, content: &[Value]) -> Operation {
    let mut operation = Operation::read_list(key(row));
    operation.saw_list(content.to_vec(), Version::default());
    operation
}

/// A conditional write with its result.
pub fn wrote_if(row: u64, condition: Condition, value: Option<Value>, applied: bool) -> Operation {
    let mut operation = Operation::write_if(key(row), condition, value);
    operation.was_applied(applied);
    operation
}

/// An unconditional write.
pub fn wrote(row: u64, value: Value) -> Operation {
    Operation::write(key(row), value)
}

/// An append.
pub fn append(row: u64, value: Value) -> Operation {
    Operation::append(key(row), value)
}
