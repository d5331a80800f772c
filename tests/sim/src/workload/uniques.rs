//! Uniques: rows come, go and change their value, of which a unique index has each once; there are fewer values than rows. In the
//! end every run compares the index with the rows.

use twofold_apinode::request::{self, Answer, Begin, End, Isolation, Options, Request};
use twofold_proto::{
    error::{ErrorClass, ErrorCode},
    message::TransactionState,
    operation::{Change, Operation},
    schema::{ColumnType, Index, Schema, Table},
    time::Time,
    value::ValueRef,
};

use super::{Context, Rows, Step, Workload, rows};
use crate::{checkers::Verdict, history::SystemRestart};

const TABLE: &str = "uniques";
const ROWS: u64 = 8;
const VALUES: u64 = 6;

/// What a user waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waits {
    Nothing,
    Answer,
    /// The first statement of a transaction.
    First {
        handle: u64,
    },
    /// The second one.
    Second {
        handle: u64,
    },
}

/// The workload.
#[derive(Debug)]
pub struct Uniques {
    users: Vec<Waits>,
    finished: u64,
}

impl Uniques {
    /// So many users.
    pub fn new(users: usize) -> Uniques {
        Uniques { users: vec![Waits::Nothing; users], finished: 0 }
    }

    fn write(schema: &Schema, context: &mut Context<'_>) -> Operation {
        let (row, value) = (context.random.below(ROWS), ValueRef::UInt(context.random.below(VALUES)));
        match context.random.below(8) {
            0..2 => rows::insert(schema, row, value),
            2..4 => rows::write(schema, row, value),
            4 => rows::update(schema, row, Change::Set(value)),
            5 => rows::update(schema, row, Change::Add(ValueRef::UInt(1))),
            _ => rows::delete(schema, row),
        }
    }

    fn writes(schema: &Schema, count: u64, context: &mut Context<'_>) -> request::Operations {
        let list: Vec<Operation> = (0..count).map(|_| Uniques::write(schema, context)).collect();
        rows::operations(&list)
    }
}

impl Workload for Uniques {
    fn tables(&self) -> Vec<Table> {
        let mut table = rows::table(TABLE, ColumnType::U64);
        table.indexes.push(Index::unique("each once", vec![1]));
        vec![table]
    }

    fn next(&mut self, user: usize, context: &mut Context<'_>) -> Step {
        if context.ending {
            return Step::Rest;
        }
        let schema = context.schema(TABLE);
        if context.random.one_in(2) {
            self.users[user] = Waits::Answer;
            let operations = Uniques::writes(&schema, 1, context);
            return Step::Ask(Request::Independent { operations, options: Options::default() });
        }
        let handle = context.fresh();
        let end = if context.random.one_in(2) { End::Commit } else { End::Stay };
        self.users[user] = if end == End::Commit { Waits::Answer } else { Waits::First { handle } };
        let count = context.random.between(1, 4);
        Step::Ask(Request::Statement(request::Statement {
            handle,
            begin: Some(Begin { isolation: Isolation::ReadCommitted, timestamp: None }),
            number: 1,
            undo: false,
            operations: Uniques::writes(&schema, count, context),
            end,
            options: Options::default(),
        }))
    }

    fn answered(&mut self, user: usize, answer: Answer, context: &mut Context<'_>) -> Step {
        let waited = std::mem::replace(&mut self.users[user], Waits::Nothing);
        let failure = match &answer {
            Answer::Failed(failure) => Some(failure.clone()),
            Answer::Operations(results) => results.get(0).err().cloned(),
            _ => None,
        };
        if let Some(failure) = &failure {
            let code = failure.error.code;
            let expected =
                [ErrorCode::DuplicateEntry, ErrorCode::DuplicateKey, ErrorCode::NoSuchRow].contains(&code);
            assert!(expected || code.class() != ErrorClass::Permanent, "{failure:?}");
        }
        self.finished += u64::from(failure.is_none());
        let has_failed = failure.is_some();
        let is_open = failure.is_none_or(|failure| failure.state == TransactionState::Open);
        match waited {
            // What has failed leaves nothing, and the transaction goes on.
            Waits::First { handle } if is_open => {
                self.users[user] = Waits::Second { handle };
                let count = context.random.below(3);
                let schema = context.schema(TABLE);
                let end = if context.random.one_in(4) { End::Rollback } else { End::Commit };
                let operations = match end {
                    End::Commit => Uniques::writes(&schema, count, context),
                    _ => request::Operations::default(),
                };
                Step::Ask(Request::Statement(request::Statement {
                    handle,
                    number: 2,
                    operations,
                    end,
                    ..request::Statement::default()
                }))
            }
            Waits::Second { handle } if has_failed && is_open => {
                self.users[user] = Waits::Answer;
                Step::Ask(Request::Statement(request::Statement {
                    handle,
                    number: 3,
                    end: End::Rollback,
                    ..request::Statement::default()
                }))
            }
            _ => Step::Rest,
        }
    }

    fn died(&mut self, user: usize, _: &mut Context<'_>) {
        self.users[user] = Waits::Nothing;
    }

    fn restarted(&mut self, _: SystemRestart) {
        self.users.fill(Waits::Nothing);
    }

    fn is_settled(&self, user: usize) -> bool {
        self.users[user] == Waits::Nothing
    }

    fn finished(&self) -> u64 {
        self.finished
    }

    fn judge(&mut self, _: &Rows, _: Time) -> Verdict {
        Ok(())
    }
}
