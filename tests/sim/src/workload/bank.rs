//! Transfers between accounts: with balances read under locks in any order, so that there are deadlocks, or in one
//! request with a condition. Audits read all accounts at once.

use twofold_apinode::request::{self, Answer, Begin, End, Isolation as Asked, Options, Request, Results};
use twofold_proto::{
    error::{ErrorClass, ErrorCode},
    filter::Comparison,
    message::TransactionState,
    operation::{Change, LockMode},
    schema::{ColumnType, Schema, Table},
    time::{Duration, Time},
    value::ValueRef,
};

use super::{Context, Recorder, Rows, Step, Workload, rows};
use crate::{
    checkers::{
        self, Verdict,
        bank::{Audit, Bank},
    },
    history::{FinalRows, Isolation, Key, Outcome, SystemRestart},
};

const TABLE: &str = "accounts";
const OPENING: i64 = 100;

#[derive(Debug)]
enum Waits {
    Nothing,
    /// All accounts are being put, in one transaction.
    Opening,
    /// A transfer in one request.
    Transfer,
    Audit,
    /// The balances are being read under locks: how much, in which transaction.
    Reading {
        handle: u64,
        from: u64,
        to: u64,
        amount: i64,
    },
    /// They are being written.
    Writing,
    Question,
}

#[derive(Debug)]
struct User {
    waits: Waits,
    retry: Option<u64>,
}

/// The workload.
#[derive(Debug)]
pub struct Banking {
    record: Recorder,
    users: Vec<User>,
    accounts: u64,
    impatient: bool,
    opened: bool,
    audits: Vec<Audit>,
    /// The table, once it is known.
    keys: Vec<Key>,
}

impl Banking {
    /// So many users of so many accounts.
    pub fn new(users: usize, accounts: u64, impatient: bool) -> Banking {
        Banking {
            record: Recorder::new(users),
            users: (0..users).map(|_| User { waits: Waits::Nothing, retry: None }).collect(),
            accounts,
            impatient,
            opened: false,
            audits: Vec::new(),
            keys: Vec::new(),
        }
    }

    fn options(&mut self, user: usize, context: &mut Context<'_>) -> Options {
        let deadline = (self.impatient && context.random.one_in(3))
            .then(|| Duration::from_millis(context.random.between(2, 60)));
        self.record.options(user, deadline, context)
    }

    /// Puts all accounts, again and again until that is known to have succeeded; nobody transfers before.
    fn open(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        self.keys = (0..self.accounts).map(|row| rows::key(schema, row)).collect();
        self.record.begin(user, Isolation::ReadCommitted, context);
        // Inserted, so that one that comes late overwrites nothing.
        let put = |row| rows::insert(schema, row, ValueRef::Int(OPENING));
        let all: Vec<_> = (0..self.accounts).map(put).collect();
        self.users[user].waits = Waits::Opening;
        Step::Ask(Request::Transaction {
            operations: rows::operations(&all),
            isolation: Asked::ReadCommitted,
            options: Options::default(),
        })
    }

    fn pick(&self, context: &mut Context<'_>) -> (u64, u64, i64) {
        let from = context.random.below(self.accounts);
        let to = (from + context.random.between(1, self.accounts - 1)) % self.accounts;
        (from, to, context.random.between(1, 60) as i64)
    }

    fn transfer(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        let (from, to, amount) = self.pick(context);
        self.record.begin(user, Isolation::ReadCommitted, context);
        let (enough, less) = (ValueRef::Int(amount), Change::Add(ValueRef::Int(-amount)));
        let take = rows::update_if(schema, from, Comparison::GreaterOrEqual, enough, less);
        let give = rows::update(schema, to, Change::Add(ValueRef::Int(amount)));
        let mut both = [take, give];
        context.random.shuffle(&mut both);
        self.users[user].waits = Waits::Transfer;
        let (isolation, options) = (Asked::ReadCommitted, self.options(user, context));
        Step::Ask(Request::Transaction { operations: rows::operations(&both), isolation, options })
    }

    fn read(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        let (from, to, amount) = self.pick(context);
        self.record.begin(user, Isolation::ReadCommitted, context);
        let handle = context.fresh();
        self.users[user].waits = Waits::Reading { handle, from, to, amount };
        let lock = |row| rows::read(schema, row, LockMode::Exclusive);
        let begin = Begin { isolation: Asked::ReadCommitted, timestamp: self.users[user].retry.take() };
        Step::Ask(Request::Statement(request::Statement {
            handle,
            begin: Some(begin),
            number: 1,
            undo: false,
            operations: rows::operations(&[lock(from), lock(to)]),
            end: End::Stay,
            options: self.options(user, context),
        }))
    }

    /// The balances are known: writes the new ones, or ends without.
    fn write(
        &mut self,
        user: usize,
        (handle, from, to, amount): (u64, u64, u64, i64),
        results: &Results,
        context: &mut Context<'_>,
    ) -> Step {
        let schema = context.schema(TABLE);
        let balance = |place: usize| {
            let bytes = results.get(place).expect("what an open transaction read is there");
            rows::signed(&rows::result(&schema, bytes).before.expect("accounts stay"))
        };
        let (rich, poor) = (balance(0), balance(1));
        let enough = rich >= amount;
        let set = |row, value| rows::update(&schema, row, Change::Set(ValueRef::Int(value)));
        let writes = if enough { vec![set(from, rich - amount), set(to, poor + amount)] } else { Vec::new() };
        self.users[user].waits = Waits::Writing;
        Step::Ask(Request::Statement(request::Statement {
            handle,
            begin: None,
            number: 2,
            undo: false,
            operations: rows::operations(&writes),
            end: if enough { End::Commit } else { End::Rollback },
            options: self.options(user, context),
        }))
    }

    fn audit(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        self.record.begin(user, Isolation::Serializable, context);
        let mut all: Vec<u64> = (0..self.accounts).collect();
        context.random.shuffle(&mut all);
        all.sort_unstable();
        let all: Vec<_> = all.into_iter().map(|row| rows::read(schema, row, LockMode::None)).collect();
        self.users[user].waits = Waits::Audit;
        let (isolation, options) = (Asked::Serializable, self.options(user, context));
        Step::Ask(Request::Transaction { operations: rows::operations(&all), isolation, options })
    }

    fn audited(&mut self, user: usize, results: &Results, context: &Context<'_>) {
        let schema = context.schema(TABLE);
        let balance = |(row, result): (usize, Result<&[u8], &request::Failure>)| {
            let value = rows::result(&schema, result.ok()?).before;
            Some((self.keys[row], value.as_ref().map(rows::signed)))
        };
        // What was read may be lost with the TC.
        if let Some(balances) = results.iter().enumerate().map(balance).collect() {
            let by = self.record.current(user);
            self.audits.push(Audit { by, at: context.now, balances });
        }
    }

    fn whole_answered(&mut self, user: usize, waits: &Waits, answer: &Answer, context: &mut Context<'_>) {
        match answer {
            Answer::Statement { state, epoch, results, .. } => {
                let outcome = match state {
                    TransactionState::Committed => Outcome::Committed { epoch: Some(*epoch) },
                    _ => Outcome::Aborted,
                };
                if outcome != Outcome::Aborted {
                    match waits {
                        Waits::Audit => self.audited(user, results, context),
                        Waits::Opening => self.opened = true,
                        _ => {}
                    }
                }
                self.record.end(user, outcome, context);
            }
            Answer::Failed(failure) => {
                let code = failure.error.code;
                let poor = code == ErrorCode::ConditionFalse && matches!(waits, Waits::Transfer);
                let again = code == ErrorCode::DuplicateKey && matches!(waits, Waits::Opening);
                self.opened |= again;
                assert!(
                    poor || again || code.class() != ErrorClass::Permanent,
                    "{failure:?} while {waits:?}"
                );
                if code.class() == ErrorClass::Temporary && failure.timestamp > 0 {
                    self.users[user].retry = Some(failure.timestamp);
                }
                self.record.fail(user, failure, context);
            }
            other => panic!("{other:?} answers no transaction"),
        }
    }
}

impl Workload for Banking {
    fn tables(&self) -> Vec<Table> {
        vec![rows::table(TABLE, ColumnType::I64)]
    }

    fn next(&mut self, user: usize, context: &mut Context<'_>) -> Step {
        if let Some(question) =
            self.record.question(user).filter(|_| context.ending || context.random.one_in(3))
        {
            self.users[user].waits = Waits::Question;
            return Step::Ask(question);
        }
        if context.ending {
            return Step::Rest;
        }
        let schema = context.schema(TABLE);
        if !self.opened {
            let opening = self.users.iter().any(|user| matches!(user.waits, Waits::Opening));
            let unknown = (0..self.users.len()).any(|user| !self.record.is_settled(user));
            return if opening || unknown { Step::Rest } else { self.open(user, &schema, context) };
        }
        match context.random.below(8) {
            0 => self.audit(user, &schema, context),
            1..4 => self.transfer(user, &schema, context),
            _ => self.read(user, &schema, context),
        }
    }

    fn answered(&mut self, user: usize, answer: Answer, context: &mut Context<'_>) -> Step {
        let waits = std::mem::replace(&mut self.users[user].waits, Waits::Nothing);
        match (&waits, &answer) {
            (Waits::Nothing, _) => panic!("user {user} asked nothing: {answer:?}"),
            (Waits::Question, _) => {
                // Before the accounts are open nothing else can be unknown.
                let learned = self.record.learn(user, &answer, context);
                self.opened |= matches!(learned, Some((_, Outcome::Committed { .. })));
            }
            (Waits::Reading { handle, from, to, amount }, Answer::Statement { results, .. }) => {
                let transfer = (*handle, *from, *to, *amount);
                return self.write(user, transfer, results, context);
            }
            (Waits::Reading { handle, .. }, Answer::Failed(failure))
                if failure.state == TransactionState::Open =>
            {
                self.users[user].waits = Waits::Writing;
                return Step::Ask(Request::Statement(request::Statement {
                    handle: *handle,
                    number: 2,
                    end: End::Rollback,
                    ..request::Statement::default()
                }));
            }
            (Waits::Writing, Answer::Failed(failure)) if failure.state == TransactionState::Open => {
                panic!("a write under locks fails: {failure:?}")
            }
            _ => self.whole_answered(user, &waits, &answer, context),
        }
        Step::Rest
    }

    fn died(&mut self, user: usize, context: &mut Context<'_>) {
        self.users[user] = User { waits: Waits::Nothing, retry: None };
        self.record.died(user, context);
    }

    fn restarted(&mut self, restart: SystemRestart) {
        self.users.fill_with(|| User { waits: Waits::Nothing, retry: None });
        // It may be that they have never been opened.
        self.opened = false;
        self.record.restarted(restart);
    }

    fn is_settled(&self, user: usize) -> bool {
        self.record.is_settled(user) && matches!(self.users[user].waits, Waits::Nothing)
    }

    fn finished(&self) -> u64 {
        self.record.finished
    }

    fn judge(&mut self, rows: &Rows, now: Time) -> Verdict {
        checkers::outcomes::check(&self.record.judge_restarts(&FinalRows::new())?)?;
        if self.opened {
            let balances = self.keys.iter().map(|&key| {
                let row = rows[TABLE].get(&key.row);
                (key, row.map(|row| rows::signed(&row.value)))
            });
            self.audits.push(Audit { by: Default::default(), at: now, balances: balances.collect() });
        }
        let opening = self.keys.iter().map(|&key| (key, OPENING)).collect();
        Bank { opening, overdraft: false }.check(&self.audits)
    }
}
