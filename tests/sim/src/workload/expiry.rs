//! Rows that expire. By every clock that there is, a row is there before its time and not after it; and what was seen to
//! have expired is not seen again.

use std::collections::BTreeMap;

use twofold_apinode::request::{Answer, Options, Request};
use twofold_proto::{
    operation::{LockMode, ResultCode},
    schema::{ColumnType, Table},
    time::{ClusterTime, Time},
    value::ValueRef,
};

use super::{Context, Recorder, Rows, Step, WINDOW, Workload, rows};
use crate::{
    checkers::{self, Verdict, Violation},
    history::{Condition, FinalRows, Isolation, Operation, Outcome, SystemRestart},
};

const TABLE: &str = "expiring";
/// True time in milliseconds since 1970 at the world's time 0; hosts' clocks are ahead of it by up to some seconds, if
/// somebody sets them.
const WALL: u64 = 1_700_000_000_000;

#[derive(Debug)]
enum Waits {
    Nothing,
    Write { row: u64, value: u64, expiry: u64 },
    Read { row: u64, asked: Time },
    Question,
}

/// A row of one writer: nobody writes it twice.
#[derive(Clone, Copy, Debug)]
struct Written {
    value: u64,
    /// In milliseconds since 1970.
    expiry: u64,
    answered: Time,
    /// When a read that did not find it was answered first.
    gone: Option<Time>,
}

/// The workload.
#[derive(Debug)]
pub struct Expiry {
    record: Recorder,
    users: Vec<Waits>,
    written: BTreeMap<u64, Written>,
    /// Milliseconds by which cluster time may be ahead of true time.
    ahead: u64,
    wrong: Option<Violation>,
    /// Reads of rows that had expired.
    pub expired: u64,
}

impl Expiry {
    /// So many users; wall clocks are up to so many milliseconds ahead.
    pub fn new(users: usize, ahead: u64) -> Expiry {
        Expiry {
            record: Recorder::new(users),
            users: (0..users).map(|_| Waits::Nothing).collect(),
            written: BTreeMap::new(),
            ahead,
            wrong: None,
            expired: 0,
        }
    }

    fn read_answered(&mut self, row: u64, asked: Time, found: Option<u64>, context: &Context<'_>) {
        let Some(written) = self.written.get_mut(&row) else { return };
        let millis = |time: Time| WALL + time.0 / 1_000_000;
        let explanation = match found {
            Some(value) if value != written.value => {
                format!("row {row} is {value}, not {}", written.value)
            }
            Some(_) if written.gone.is_some_and(|gone| gone < asked) => {
                format!(
                    "row {row} had expired by {:?}, and was there again at {:?}",
                    written.gone, context.now
                )
            }
            None if millis(context.now) + self.ahead < written.expiry && written.answered < asked => {
                let at = context.now;
                format!("row {row} is not there at {at:?}, but expires only at {} ms", written.expiry)
            }
            _ => {
                if found.is_none() && written.answered < asked {
                    written.gone.get_or_insert(context.now);
                    self.expired += 1;
                }
                return;
            }
        };
        self.wrong.get_or_insert(Violation { anomaly: "expiry", explanation });
    }
}

impl Workload for Expiry {
    fn tables(&self) -> Vec<Table> {
        vec![rows::table(TABLE, ColumnType::U64)]
    }

    fn next(&mut self, user: usize, context: &mut Context<'_>) -> Step {
        if let Some(question) = self.record.question(user) {
            self.users[user] = Waits::Question;
            return Step::Ask(question);
        }
        if context.ending {
            return Step::Rest;
        }
        let schema = context.schema(TABLE);
        let recent = self.written.keys().rev().take(12).copied().collect::<Vec<_>>();
        if !recent.is_empty() && context.random.below(3) > 0 {
            let row = *context.random.pick(&recent);
            self.users[user] = Waits::Read { row, asked: context.now };
            let read = rows::read(&schema, row, LockMode::None);
            return Step::Operate(read.to_bytes());
        }
        let (row, value) = (context.fresh(), context.fresh());
        let soon = [context.random.between(1, 300), context.random.between(200, 4000), 3_600_000];
        let expiry = WALL + context.now.0 / 1_000_000 + *context.random.pick(&soon);
        let handle = self.record.begin(user, Isolation::ReadCommitted, context);
        let operation = Operation::write_if(rows::key(&schema, row), Condition::Always, Some(value));
        self.record.history.push(handle, operation);
        self.users[user] = Waits::Write { row, value, expiry };
        let write = rows::write_until(&schema, row, ValueRef::UInt(value), ClusterTime(expiry));
        Step::Ask(Request::Independent {
            operations: rows::operations(&[write]),
            options: Options::default(),
        })
    }

    fn answered(&mut self, user: usize, answer: Answer, context: &mut Context<'_>) -> Step {
        match std::mem::replace(&mut self.users[user], Waits::Nothing) {
            Waits::Nothing => panic!("user {user} asked nothing: {answer:?}"),
            Waits::Question => _ = self.record.learn(user, &answer, context),
            Waits::Write { row, value, expiry } => {
                let Answer::Operations(results) = &answer else { panic!("{answer:?} answers no operation") };
                match results.get(0) {
                    Ok(_) => {
                        let written = Written { value, expiry, answered: context.now, gone: None };
                        self.written.insert(row, written);
                        self.record.end(user, Outcome::Committed { epoch: None }, context);
                    }
                    Err(failure) => self.record.fail(user, failure, context),
                }
            }
            Waits::Read { row, asked } => {
                let Answer::Operations(results) = &answer else { panic!("{answer:?} answers no operation") };
                if let Ok(bytes) = results.get(0) {
                    let result = rows::result(&context.schema(TABLE), bytes);
                    let found = (result.code == ResultCode::Ok)
                        .then(|| rows::number(&result.before.expect("whole rows were asked for")));
                    self.read_answered(row, asked, found, context);
                }
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
        // What was written a moment ago may be lost.
        let last_write = self.written.values().map(|written| written.answered).max().unwrap_or_default();
        let crashed = restart.after(last_write).crashed;
        self.written.retain(|_, written| crashed.since(written.answered) > WINDOW);
        self.record.restarted(restart);
    }

    fn is_settled(&self, user: usize) -> bool {
        self.record.is_settled(user) && matches!(self.users[user], Waits::Nothing)
    }

    fn finished(&self) -> u64 {
        self.record.finished
    }

    fn judge(&mut self, rows: &Rows, now: Time) -> Verdict {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        checkers::outcomes::check(&self.record.judge_restarts(&FinalRows::new())?)?;
        let found = &rows[TABLE];
        let last = WALL + now.0 / 1_000_000 + self.ahead;
        let lost =
            self.written.iter().find(|(row, written)| written.expiry > last && !found.contains_key(row));
        if let Some((row, written)) = lost {
            let explanation = format!("row {row} is not there in the end: {written:?}");
            return Err(Violation { anomaly: "lost row", explanation });
        }
        Ok(())
    }
}
