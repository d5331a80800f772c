//! Ids: a transaction raises a counter and stores what it got as a row that must not be there.

use std::collections::BTreeSet;

use twofold_apinode::request::{self, Answer, Begin, End, Isolation as Asked, Options, Request};
use twofold_proto::{
    error::{ErrorClass, ErrorCode},
    message::TransactionState,
    operation::Change,
    schema::{ColumnType, Schema, Table},
    time::Time,
    value::ValueRef,
};

use super::{Context, Recorder, Rows, Step, Workload, outcome_of, rows};
use crate::{
    checkers::{self, Verdict, unique_ids::Handout},
    history::{FinalRows, Handle, Isolation, Outcome, SystemRestart},
};

const COUNTERS: &str = "counters";
const IDS: &str = "ids";

#[derive(Debug)]
enum Waits {
    Nothing,
    /// The counter is being put; it may be there.
    Creating,
    /// The counter is being raised in this transaction.
    Drawing {
        handle: u64,
        transaction: Handle,
    },
    /// What was drawn is being stored.
    Storing {
        place: usize,
    },
    Rolling,
    Question,
}

/// The workload.
#[derive(Debug)]
pub struct Ids {
    record: Recorder,
    users: Vec<Waits>,
    handouts: Vec<(Handle, Handout)>,
    created: bool,
}

impl Ids {
    /// So many users.
    pub fn new(users: usize) -> Ids {
        let waits = (0..users).map(|_| Waits::Nothing).collect();
        Ids { record: Recorder::new(users), users: waits, handouts: Vec::new(), created: false }
    }

    fn create(&mut self, user: usize, schema: &Schema) -> Step {
        self.users[user] = Waits::Creating;
        let insert = rows::insert(schema, 0, ValueRef::UInt(0));
        let operations = rows::operations(&[insert]);
        Step::Ask(Request::Independent { operations, options: Options::default() })
    }

    fn draw(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        let transaction = self.record.begin(user, Isolation::ReadCommitted, context);
        let handle = context.fresh();
        self.users[user] = Waits::Drawing { handle, transaction };
        let raise = rows::update(schema, 0, Change::Add(ValueRef::UInt(1)));
        Step::Ask(Request::Statement(request::Statement {
            handle,
            begin: Some(Begin { isolation: Asked::ReadCommitted, timestamp: None }),
            number: 1,
            undo: false,
            operations: rows::operations(&[raise]),
            end: End::Stay,
            options: Options::default(),
        }))
    }

    fn store(
        &mut self,
        user: usize,
        handle: u64,
        transaction: Handle,
        id: u64,
        context: &Context<'_>,
    ) -> Step {
        let by = self.record.history.transaction(transaction).id;
        self.handouts.push((transaction, Handout { id, by, outcome: Outcome::Unknown }));
        self.users[user] = Waits::Storing { place: self.handouts.len() - 1 };
        let insert = rows::insert(&context.schema(IDS), id, ValueRef::UInt(id));
        Step::Ask(Request::Statement(request::Statement {
            handle,
            number: 2,
            operations: rows::operations(&[insert]),
            end: End::Commit,
            ..request::Statement::default()
        }))
    }

    fn roll_back(&mut self, user: usize, handle: u64) -> Step {
        self.users[user] = Waits::Rolling;
        Step::Ask(Request::Statement(request::Statement {
            handle,
            number: 3,
            end: End::Rollback,
            ..request::Statement::default()
        }))
    }

    fn stored(&mut self, user: usize, place: usize, answer: &Answer, context: &Context<'_>) {
        match answer {
            Answer::Statement { epoch, .. } => {
                let outcome = Outcome::Committed { epoch: Some(*epoch) };
                self.handouts[place].1.outcome = outcome;
                self.record.end(user, outcome, context);
            }
            Answer::Failed(failure) => {
                let code = failure.error.code;
                assert!(code != ErrorCode::DuplicateKey, "{:?} was stored before", self.handouts[place].1);
                assert!(code.class() != ErrorClass::Permanent, "{failure:?}");
                self.handouts[place].1.outcome = outcome_of(failure);
                self.record.fail(user, failure, context);
            }
            other => panic!("{other:?} answers no statement"),
        }
    }
}

impl Workload for Ids {
    fn tables(&self) -> Vec<Table> {
        vec![rows::table(COUNTERS, ColumnType::U64), rows::table(IDS, ColumnType::U64)]
    }

    fn next(&mut self, user: usize, context: &mut Context<'_>) -> Step {
        if let Some(question) = self.record.question(user) {
            self.users[user] = Waits::Question;
            return Step::Ask(question);
        }
        if context.ending {
            return Step::Rest;
        }
        let schema = context.schema(COUNTERS);
        if self.created { self.draw(user, &schema, context) } else { self.create(user, &schema) }
    }

    fn answered(&mut self, user: usize, answer: Answer, context: &mut Context<'_>) -> Step {
        match std::mem::replace(&mut self.users[user], Waits::Nothing) {
            Waits::Nothing => panic!("user {user} asked nothing: {answer:?}"),
            Waits::Creating => {
                // That it is there already is as good.
                if let Answer::Operations(results) = &answer {
                    self.created |= results.get(0).is_ok();
                }
            }
            Waits::Question => {
                if let Some((handle, outcome)) = self.record.learn(user, &answer, context) {
                    let of = self.handouts.iter_mut().filter(|(transaction, _)| *transaction == handle);
                    of.for_each(|(_, handout)| handout.outcome = outcome);
                }
            }
            Waits::Drawing { handle, transaction } => match &answer {
                Answer::Statement { results, .. } => {
                    let bytes = results.get(0).expect("what an open transaction read is there");
                    let after = rows::result(&context.schema(COUNTERS), bytes).after;
                    let id = rows::number(&after.expect("the row was asked for"));
                    return self.store(user, handle, transaction, id, context);
                }
                Answer::Failed(failure) if failure.state == TransactionState::Open => {
                    return self.roll_back(user, handle);
                }
                Answer::Failed(failure) => self.record.fail(user, failure, context),
                other => panic!("{other:?} answers no statement"),
            },
            Waits::Rolling => self.record.end(user, Outcome::Aborted, context),
            Waits::Storing { place } => {
                if let Answer::Failed(failure) = &answer
                    && failure.state == TransactionState::Open
                {
                    let code = failure.error.code;
                    assert!(
                        code != ErrorCode::DuplicateKey,
                        "{:?} was stored before",
                        self.handouts[place].1
                    );
                }
                self.stored(user, place, &answer, context);
            }
        }
        Step::Rest
    }

    fn died(&mut self, user: usize, context: &mut Context<'_>) {
        self.users[user] = Waits::Nothing;
        self.record.died(user, context);
    }

    fn restarted(&mut self, restart: SystemRestart) {
        self.users.fill_with(|| Waits::Nothing);
        self.created = false;
        // What was drawn and lost is drawn again.
        self.handouts.retain(|(_, handout)| match handout.outcome {
            Outcome::Committed { epoch: Some(epoch) } => !restart.lost(epoch),
            _ => true,
        });
        self.record.restarted(restart);
    }

    fn is_settled(&self, user: usize) -> bool {
        self.record.is_settled(user) && matches!(self.users[user], Waits::Nothing)
    }

    fn finished(&self) -> u64 {
        self.record.finished
    }

    fn judge(&mut self, rows: &Rows, _: Time) -> Verdict {
        checkers::outcomes::check(&self.record.judge_restarts(&FinalRows::new())?)?;
        let handouts: Vec<Handout> = self.handouts.iter().map(|(_, handout)| *handout).collect();
        let stored: BTreeSet<u64> = rows[IDS].keys().copied().collect();
        checkers::unique_ids::check(&handouts, &stored)
    }
}
