//! Few rows, read, written, deleted and compared-and-set: alone, in batches of independent operations, and in
//! transactions.

use twofold_apinode::request::{Answer, Isolation as Asked, Options, Request, Results};
use twofold_proto::{
    filter::Comparison,
    operation::{Change, LockMode, Operation as Wire, ResultCode},
    schema::{ColumnType, Schema, Table},
    time::{Duration, Time},
    value::ValueRef,
};

use super::{Context, Recorder, Rows, Step, Workload, rows};
use crate::{
    checkers::{self, Verdict},
    history::{
        Condition, FinalContent, FinalRow, FinalRows, Handle, Isolation, Operation, Outcome, SystemRestart,
    },
};

const TABLE: &str = "registers";

/// What a user waits for.
#[derive(Debug)]
enum Waits {
    Nothing,
    /// Each operation is a transaction.
    Independent(Vec<Handle>),
    /// All operations are one.
    Transaction(Handle),
    Question,
}

/// The workload.
#[derive(Debug)]
pub struct Registers {
    record: Recorder,
    users: Vec<Waits>,
    rows: u64,
    /// Whether requests are given little time, so that outcomes have to be asked for.
    impatient: bool,
    /// One in so many requests is of independent operations, of which no epoch is told.
    lone: u64,
    /// Outcomes that were learned by asking.
    pub learned: u64,
}

impl Registers {
    /// So many users of so many rows; `restarts`: the cluster may lose what was committed last.
    pub fn new(users: usize, rows: u64, impatient: bool, restarts: bool) -> Registers {
        let waits = (0..users).map(|_| Waits::Nothing).collect();
        Registers {
            record: Recorder::new(users),
            users: waits,
            rows,
            impatient,
            lone: if restarts { 12 } else { 1 },
            learned: 0,
        }
    }

    fn options(&mut self, user: usize, context: &mut Context<'_>) -> Options {
        let deadline = (self.impatient && context.random.one_in(2))
            .then(|| Duration::from_millis(context.random.between(1, 40)));
        self.record.options(user, deadline, context)
    }

    /// One operation, for the wire and for the record. `lone`: it is a transaction of its own.
    fn operation(
        &self,
        row: u64,
        lone: bool,
        schema: &Schema,
        context: &mut Context<'_>,
    ) -> (Wire, Operation) {
        let key = rows::key(schema, row);
        let value = context.fresh();
        let random = &mut *context.random;
        match random.below(if lone { 10 } else { 6 }) {
            0..3 => {
                let lock = match random.below(3) {
                    _ if lone => LockMode::None,
                    0 => LockMode::None,
                    1 => LockMode::Shared,
                    _ => LockMode::Exclusive,
                };
                let read = Operation::read(key);
                let read = if lock == LockMode::None { read } else { read.locking() };
                (rows::read(schema, row, lock), read)
            }
            3..6 => (rows::write(schema, row, ValueRef::UInt(value)), Operation::write(key, value)),
            6 => {
                let recorded = Operation::write_if(key, Condition::Absent, Some(value));
                (rows::insert(schema, row, ValueRef::UInt(value)), recorded)
            }
            7 => (rows::delete(schema, row), Operation::delete(key)),
            _ => {
                // A value that may be there: one of the last that were handed out.
                let expected = value.saturating_sub(random.below(40));
                let change = Change::Set(ValueRef::UInt(value));
                let wire = rows::update_if(schema, row, Comparison::Equal, ValueRef::UInt(expected), change);
                (wire, Operation::write_if(key, Condition::Is(expected), Some(value)))
            }
        }
    }

    fn independent(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        let count = if context.random.one_in(4) { context.random.between(2, 4) } else { 1 };
        let first = context.random.below(self.rows);
        let (mut wires, mut handles) = (Vec::new(), Vec::new());
        for place in 0..count.min(self.rows) {
            let row = (first + place) % self.rows;
            let (wire, operation) = self.operation(row, true, schema, context);
            let handle = self.record.begin(user, Isolation::ReadCommitted, context);
            self.record.history.push(handle, operation);
            wires.push(wire);
            handles.push(handle);
        }
        let single = wires.len() == 1 && context.random.one_in(2);
        self.users[user] = Waits::Independent(handles);
        if single {
            self.record.durable[user] = false;
            return Step::Operate(wires[0].to_bytes());
        }
        let options = self.options(user, context);
        Step::Ask(Request::Independent { operations: rows::operations(&wires), options })
    }

    fn transaction(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        let serializable = context.random.one_in(2);
        let (isolation, asked) = match serializable {
            true => (Isolation::Serializable, Asked::Serializable),
            false => (Isolation::ReadCommitted, Asked::ReadCommitted),
        };
        let handle = self.record.begin(user, isolation, context);
        let mut wires = Vec::new();
        for _ in 0..context.random.between(1, 4) {
            let row = context.random.below(self.rows);
            let (wire, operation) = self.operation(row, false, schema, context);
            self.record.history.push(handle, operation);
            wires.push(wire);
        }
        self.users[user] = Waits::Transaction(handle);
        let options = self.options(user, context);
        Step::Ask(Request::Transaction { operations: rows::operations(&wires), isolation: asked, options })
    }

    fn independent_answered(
        &mut self,
        user: usize,
        handles: Vec<Handle>,
        results: &Results,
        context: &mut Context<'_>,
    ) {
        let schema = context.schema(TABLE);
        for (handle, result) in handles.into_iter().zip(results.iter()) {
            match result {
                Ok(bytes) => {
                    let operation = &mut self.record.history.transaction(handle).operations[0];
                    note(operation, &rows::result(&schema, bytes));
                    self.record.end_one(user, handle, Outcome::Committed { epoch: None }, context);
                }
                Err(failure) => self.record.fail_one(user, handle, failure, context),
            }
        }
    }

    fn transaction_answered(
        &mut self,
        user: usize,
        handle: Handle,
        answer: &Answer,
        context: &mut Context<'_>,
    ) {
        let schema = context.schema(TABLE);
        match answer {
            Answer::Statement { epoch, results, .. } => {
                let operations = &mut self.record.history.transaction(handle).operations;
                for (operation, result) in operations.iter_mut().zip(results.iter()) {
                    // What was read may be lost with the TC.
                    if let Ok(bytes) = result {
                        note(operation, &rows::result(&schema, bytes));
                    }
                }
                self.record.end(user, Outcome::Committed { epoch: Some(*epoch) }, context);
            }
            Answer::Failed(failure) => self.record.fail(user, failure, context),
            other => panic!("{other:?} answers no transaction"),
        }
    }
}

/// Records what an operation answered.
fn note(operation: &mut Operation, result: &rows::Read) {
    use crate::history::Action;
    match operation.action {
        Action::Read { .. } => {
            operation.saw(result.before.as_ref().map(rows::number), result.version);
        }
        _ => operation.was_applied(result.code == ResultCode::Ok),
    }
}

impl Workload for Registers {
    fn tables(&self) -> Vec<Table> {
        vec![rows::table(TABLE, ColumnType::U64)]
    }

    fn next(&mut self, user: usize, context: &mut Context<'_>) -> Step {
        if let Some(question) =
            self.record.question(user).filter(|_| context.ending || context.random.one_in(3))
        {
            self.users[user] = Waits::Question;
            return Step::Ask(question);
        }
        if context.ending {
            return Step::Rest;
        }
        let schema = context.schema(TABLE);
        match context.random.below(3) {
            1.. if context.random.one_in(self.lone) => self.independent(user, &schema, context),
            _ => self.transaction(user, &schema, context),
        }
    }

    fn answered(&mut self, user: usize, answer: Answer, context: &mut Context<'_>) -> Step {
        match std::mem::replace(&mut self.users[user], Waits::Nothing) {
            Waits::Nothing => panic!("user {user} asked nothing: {answer:?}"),
            Waits::Question => {
                self.learned += u64::from(self.record.learn(user, &answer, context).is_some());
            }
            Waits::Transaction(handle) => self.transaction_answered(user, handle, &answer, context),
            Waits::Independent(handles) => match &answer {
                Answer::Operations(results) => self.independent_answered(user, handles, results, context),
                Answer::Failed(failure) => {
                    handles
                        .into_iter()
                        .for_each(|handle| self.record.fail_one(user, handle, failure, context));
                }
                other => panic!("{other:?} answers no operations"),
            },
        }
        Step::Rest
    }

    fn died(&mut self, user: usize, context: &mut Context<'_>) {
        self.users[user] = Waits::Nothing;
        self.record.died(user, context);
    }

    fn restarted(&mut self, restart: SystemRestart) {
        self.users.fill_with(|| Waits::Nothing);
        self.record.restarted(restart);
    }

    fn is_settled(&self, user: usize) -> bool {
        self.record.is_settled(user) && matches!(self.users[user], Waits::Nothing)
    }

    fn finished(&self) -> u64 {
        self.record.finished
    }

    fn judge(&mut self, rows: &Rows, _: Time) -> Verdict {
        let number = |value: &_| FinalContent::Value(rows::number(value));
        let finals = final_rows(&self.record.history, &rows[TABLE], number);
        let history = self.record.judge_restarts(&finals)?;
        checkers::outcomes::check(&history)?;
        checkers::lost_writes::check(&history, &finals)?;
        checkers::registers::check(&history)?;
        checkers::epochs::check(&history)
    }
}

/// What is there in the end, as the checkers take it. The table's number is that of the history's keys.
pub(super) fn final_rows(
    history: &crate::history::History,
    rows: &std::collections::BTreeMap<u64, rows::Row>,
    content: impl Fn(&twofold_proto::value::Value) -> FinalContent,
) -> FinalRows {
    let table = history.transactions().iter().flat_map(|t| &t.operations).map(|o| o.key.table).next();
    let Some(table) = table else { return FinalRows::new() };
    let key = |row| crate::history::Key { table, row };
    rows.iter()
        .map(|(&row, found)| (key(row), FinalRow { content: content(&found.value), version: found.version }))
        .collect()
}
