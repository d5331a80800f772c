//! Lists that are appended to and read, several in one transaction: in one request or statement by statement, with
//! statements that fail or are taken back. The whole of a transaction takes effect, or nothing.

use std::collections::BTreeSet;

use twofold_apinode::request::{
    self, Answer, Begin, End, Failure, Isolation as Asked, Options, Request, Results,
};
use twofold_proto::{
    error::{ErrorClass, ErrorCode},
    message::TransactionState,
    operation::{LockMode, Operation as Wire},
    schema::{ColumnType, Schema, Table},
    time::{Duration, Time},
    value::ValueRef,
};

use super::{Context, Recorder, Rows, Step, Workload, registers::final_rows, rows};
use crate::{
    checkers::{self, Verdict, serializability},
    history::{Action, FinalContent, Handle, Isolation, Operation, Outcome, SystemRestart},
};

/// An interactive transaction of a user.
#[derive(Debug)]
struct Interactive {
    transaction: Handle,
    handle: u64,
    /// The next statement's number.
    number: u32,
    /// How many statements are to come.
    left: u32,
    /// Whether the first statement was answered.
    begun: bool,
    /// The age that a retry keeps.
    timestamp: Option<u64>,
    /// Where the operations of each statement begin in the record.
    starts: Vec<(u32, usize)>,
    /// How the statement under way is expected to end.
    doomed: bool,
    ends: bool,
}

#[derive(Debug)]
enum Waits {
    Nothing,
    Whole(Handle),
    Statement(Interactive),
    Question,
}

#[derive(Debug)]
struct User {
    waits: Waits,
    /// The age of the transaction that is to be tried again.
    retry: Option<u64>,
    /// Lists that this user has created, or seen.
    opened: bool,
}

/// The workload.
#[derive(Debug)]
pub struct Lists {
    record: Recorder,
    users: Vec<User>,
    name: &'static str,
    lists: u64,
    isolation: Isolation,
    impatient: bool,
    /// Lists that are there for sure.
    present: BTreeSet<u64>,
    /// Statements that failed as they had to, and statements taken back.
    pub undone: u64,
}

impl Lists {
    /// So many users of so many lists.
    pub fn new(users: usize, lists: u64, isolation: Isolation, impatient: bool) -> Lists {
        let name = match isolation {
            Isolation::Serializable => "lists",
            Isolation::ReadCommitted => "lists_read_committed",
        };
        let user = |_| User { waits: Waits::Nothing, retry: None, opened: false };
        Lists {
            record: Recorder::new(users),
            users: (0..users).map(user).collect(),
            name,
            lists,
            isolation,
            impatient,
            present: BTreeSet::new(),
            undone: 0,
        }
    }

    fn asked(&self) -> Asked {
        match self.isolation {
            Isolation::Serializable => Asked::Serializable,
            Isolation::ReadCommitted => Asked::ReadCommitted,
        }
    }

    fn options(&mut self, user: usize, context: &mut Context<'_>) -> Options {
        let deadline = (self.impatient && context.random.one_in(3))
            .then(|| Duration::from_millis(context.random.between(2, 60)));
        self.record.options(user, deadline, context)
    }

    /// A few reads and appends. Only lists that are there are read: to read what is not fails a statement.
    fn operations(&self, schema: &Schema, context: &mut Context<'_>) -> (Vec<Wire>, Vec<Operation>) {
        let (mut wires, mut recorded) = (Vec::new(), Vec::new());
        for _ in 0..context.random.between(1, 4) {
            let row = context.random.below(self.lists);
            let key = rows::key(schema, row);
            if context.random.one_in(2) && self.present.contains(&row) {
                let lock = match context.random.below(3) {
                    0 => LockMode::Shared,
                    1 => LockMode::Exclusive,
                    _ => LockMode::None,
                };
                let read = Operation::read_list(key);
                let locks = lock != LockMode::None || self.isolation == Isolation::Serializable;
                recorded.push(if locks { read.locking() } else { read });
                wires.push(rows::read(schema, row, lock));
            } else {
                let value = context.fresh();
                recorded.push(Operation::append(key, value));
                wires.push(rows::append(schema, row, &value.to_be_bytes()));
            }
        }
        (wires, recorded)
    }

    fn whole(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        let handle = self.record.begin(user, self.isolation, context);
        let (wires, recorded) = self.operations(schema, context);
        for operation in recorded {
            self.record.history.push(handle, operation);
        }
        self.users[user].waits = Waits::Whole(handle);
        let (isolation, options) = (self.asked(), self.options(user, context));
        Step::Ask(Request::Transaction { operations: rows::operations(&wires), isolation, options })
    }

    fn interactive(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        let interactive = Interactive {
            transaction: self.record.begin(user, self.isolation, context),
            handle: context.fresh(),
            number: 1,
            left: context.random.between(1, 4) as u32,
            begun: false,
            timestamp: self.users[user].retry.take(),
            starts: Vec::new(),
            doomed: false,
            ends: false,
        };
        self.statement(user, interactive, schema, context)
    }

    /// The next statement of the user's transaction.
    fn statement(
        &mut self,
        user: usize,
        mut interactive: Interactive,
        schema: &Schema,
        context: &mut Context<'_>,
    ) -> Step {
        let first = interactive.number == 1;
        let operations = &mut self.record.history.transaction(interactive.transaction).operations;
        // A savepoint: takes back some of the last statements, and goes on from there.
        let undo = !first && context.random.one_in(5);
        if undo {
            let back = context.random.below(interactive.starts.len() as u64) as usize;
            let (number, start) = interactive.starts[back];
            operations.truncate(start);
            interactive.starts.truncate(back);
            interactive.number = number;
            self.undone += 1;
        }
        let start = operations.len();
        let (mut wires, recorded) = self.operations(schema, context);
        let ends = interactive.left == 0;
        let rolls_back = ends && context.random.one_in(12);
        // An insert of a row that is there fails the statement, and only it.
        let doomed = !ends && !self.present.is_empty() && context.random.one_in(6);
        if doomed {
            let row = *self.present.iter().next().expect("some list is there");
            let place = context.random.below(wires.len() as u64 + 1) as usize;
            wires.insert(place, rows::insert(schema, row, ValueRef::Binary(Vec::new().into())));
        } else if !rolls_back {
            for operation in recorded {
                self.record.history.push(interactive.transaction, operation);
            }
        }
        interactive.starts.push((interactive.number, start));
        let statement = request::Statement {
            handle: interactive.handle,
            begin: first
                .then_some(Begin { isolation: self.asked(), timestamp: interactive.timestamp })
                .filter(|_| !interactive.begun),
            number: interactive.number,
            undo,
            operations: rows::operations(&wires),
            end: match (ends, rolls_back) {
                (false, _) => End::Stay,
                (true, false) => End::Commit,
                (true, true) => End::Rollback,
            },
            options: self.options(user, context),
        };
        interactive.number += 1;
        interactive.left = interactive.left.saturating_sub(1);
        (interactive.doomed, interactive.ends, interactive.begun) = (doomed, ends, true);
        self.users[user].waits = Waits::Statement(interactive);
        Step::Ask(Request::Statement(statement))
    }

    /// Records what the statement's operations returned, from this one of the record on.
    fn note(&mut self, transaction: Handle, start: usize, results: &Results, schema: &Schema) {
        let operations = &mut self.record.history.transaction(transaction).operations[start..];
        for (operation, result) in operations.iter_mut().zip(results.iter()) {
            let Ok(bytes) = result else { continue };
            let result = rows::result(schema, bytes);
            if let Action::ReadList { .. } = operation.action {
                let content = result.before.as_ref().map(rows::list).unwrap_or_default();
                operation.saw_list(content, result.version);
            }
        }
    }

    fn committed(&mut self, user: usize, transaction: Handle, context: &Context<'_>, outcome: Outcome) {
        if matches!(outcome, Outcome::Committed { .. }) {
            let operations = &self.record.history.transaction(transaction).operations;
            let appended = operations.iter().filter(|operation| operation.changes());
            let keys: Vec<u64> = appended.map(|operation| operation.key.row).collect();
            self.present.extend(keys);
        }
        self.record.end(user, outcome, context);
    }

    fn statement_answered(
        &mut self,
        user: usize,
        interactive: Interactive,
        answer: &Answer,
        context: &mut Context<'_>,
    ) -> Step {
        let schema = context.schema(self.name);
        match answer {
            Answer::Statement { state, epoch, results, .. } => {
                let start = interactive.starts.last().expect("it has a statement").1;
                assert!(!interactive.doomed, "an insert of a row that is there succeeded: {answer:?}");
                match state {
                    TransactionState::Open => {
                        self.note(interactive.transaction, start, results, &schema);
                        if context.random.one_in(30) {
                            // The user thinks, and may be too slow.
                            self.users[user].waits = Waits::Statement(interactive);
                            return Step::Rest;
                        }
                        return self.statement(user, interactive, &schema, context);
                    }
                    TransactionState::Committed => {
                        self.note(interactive.transaction, start, results, &schema);
                        let outcome = Outcome::Committed { epoch: Some(*epoch) };
                        self.committed(user, interactive.transaction, context, outcome);
                    }
                    TransactionState::Aborted => self.record.end(user, Outcome::Aborted, context),
                }
            }
            Answer::Failed(failure) => return self.statement_failed(user, interactive, failure, context),
            other => panic!("{other:?} answers no statement"),
        }
        Step::Rest
    }

    fn statement_failed(
        &mut self,
        user: usize,
        mut interactive: Interactive,
        failure: &Failure,
        context: &mut Context<'_>,
    ) -> Step {
        let schema = context.schema(self.name);
        if failure.state == TransactionState::Open {
            // The statement is undone; the transaction goes on.
            let (number, start) = interactive.starts.pop().expect("it has a statement");
            let operations = &mut self.record.history.transaction(interactive.transaction).operations;
            operations.truncate(start);
            let expected = interactive.doomed && failure.error.code == ErrorCode::DuplicateKey;
            let temporary = failure.error.code.class() == ErrorClass::Temporary;
            assert!(expected || temporary, "a statement fails for no reason: {failure:?}");
            self.undone += 1;
            interactive.number = number + 1;
            interactive.starts.push((number, start));
            interactive.left = interactive.left.max(u32::from(interactive.ends && context.random.one_in(2)));
            return self.statement(user, interactive, &schema, context);
        }
        if failure.error.code.class() == ErrorClass::Temporary && context.random.one_in(2) {
            self.users[user].retry = Some(failure.timestamp).filter(|&timestamp| timestamp > 0);
        }
        self.record.fail(user, failure, context);
        Step::Rest
    }
}

impl Workload for Lists {
    fn tables(&self) -> Vec<Table> {
        vec![rows::table(self.name, ColumnType::Binary { max_bytes: 1 << 20 })]
    }

    fn next(&mut self, user: usize, context: &mut Context<'_>) -> Step {
        let schema = context.schema(self.name);
        if let Waits::Statement(_) = self.users[user].waits {
            let waits = std::mem::replace(&mut self.users[user].waits, Waits::Nothing);
            let Waits::Statement(mut interactive) = waits else { unreachable!("just seen") };
            if context.ending {
                interactive.left = 0;
            }
            return self.statement(user, interactive, &schema, context);
        }
        if let Some(question) =
            self.record.question(user).filter(|_| context.ending || context.random.one_in(3))
        {
            self.users[user].waits = Waits::Question;
            return Step::Ask(question);
        }
        if context.ending {
            return Step::Rest;
        }
        self.users[user].opened = true;
        match context.random.below(2) {
            0 => self.whole(user, &schema, context),
            _ => self.interactive(user, &schema, context),
        }
    }

    fn answered(&mut self, user: usize, answer: Answer, context: &mut Context<'_>) -> Step {
        let schema = context.schema(self.name);
        match std::mem::replace(&mut self.users[user].waits, Waits::Nothing) {
            Waits::Nothing => panic!("user {user} asked nothing: {answer:?}"),
            Waits::Question => _ = self.record.learn(user, &answer, context),
            Waits::Statement(interactive) => {
                return self.statement_answered(user, interactive, &answer, context);
            }
            Waits::Whole(handle) => match &answer {
                Answer::Statement { epoch, results, .. } => {
                    self.note(handle, 0, results, &schema);
                    let outcome = Outcome::Committed { epoch: Some(*epoch) };
                    self.committed(user, handle, context, outcome);
                }
                Answer::Failed(failure) => self.record.fail(user, failure, context),
                other => panic!("{other:?} answers no transaction"),
            },
        }
        Step::Rest
    }

    fn died(&mut self, user: usize, context: &mut Context<'_>) {
        self.users[user] = User { waits: Waits::Nothing, retry: None, opened: false };
        self.record.died(user, context);
    }

    fn restarted(&mut self, restart: SystemRestart) {
        self.users.fill_with(|| User { waits: Waits::Nothing, retry: None, opened: false });
        self.present.clear();
        self.record.restarted(restart);
    }

    fn is_settled(&self, user: usize) -> bool {
        self.record.is_settled(user) && matches!(self.users[user].waits, Waits::Nothing)
    }

    fn finished(&self) -> u64 {
        self.record.finished
    }

    fn judge(&mut self, rows: &Rows, now: Time) -> Verdict {
        let found = &rows[self.name];
        let finals = final_rows(&self.record.history, found, |value| FinalContent::List(rows::list(value)));
        let mut history = self.record.judge_restarts(&finals)?;
        checkers::outcomes::check(&history)?;
        // What is there in the end is one more read of everything.
        if !finals.is_empty() {
            let id = twofold_proto::ids::TransactionId::default();
            let last = history.begin(id, self.isolation, now);
            for (key, row) in &finals {
                let FinalContent::List(content) = &row.content else { panic!("{row:?} is no list") };
                let mut read = Operation::read_list(*key).locking();
                read.saw_list(content.clone(), row.version);
                history.push(last, read);
            }
            history.answer(last, Time(now.0 + 1), Outcome::Committed { epoch: None });
        }
        checkers::lost_writes::check(&history, &finals)?;
        let options = serializability::Options { isolation: self.isolation, strict: true };
        serializability::check(&history, options)?;
        checkers::epochs::check(&history)
    }
}
