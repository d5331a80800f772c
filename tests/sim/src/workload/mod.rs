//! What clients do. A workload is a set of users who each do one thing after the other; it records what they saw, and
//! judges it in the end.
//!
//! | module | what its users do | judged by |
//! |---|---|---|
//! | [`registers`] | read, write, delete, compare-and-set few rows, alone and in transactions | linearizability |
//! | [`lists`] | append to and read lists over many partitions, with savepoints and failing statements | serializability |
//! | [`bank`] | move money under locks | the total |
//! | [`ids`] | draw ids from a counter and store them | uniqueness |
//! | [`scans`] | insert and delete rows that others scan | each row once |
//! | [`uniques`] | give rows values of which a unique index has each once | index = table |
//! | [`expiry`] | write rows that expire | none comes back |

pub mod bank;
pub mod expiry;
pub mod ids;
pub mod lists;
pub mod registers;
pub mod rows;
pub mod scans;
pub mod uniques;

use std::collections::{BTreeMap, VecDeque};

use twofold_apinode::request::{Answer, Durability, Failure, Options, Request, TransactionToken};
use twofold_proto::{
    error::ErrorClass,
    ids::{Incarnation, TransactionId},
    message::{self, Catalog, Status},
    random::Random,
    schema::{Schema, Table},
    time::{Duration, Time},
};

use crate::{
    checkers::{Verdict, Violation, epochs},
    history::{FinalRows, Handle, History, Isolation, Outcome, SystemRestart, Transaction},
};

/// For how long an answered commit may be on no disk: writes are refused when that takes 2 s, and what is answered then takes
/// its time.
pub(crate) const WINDOW: Duration = Duration::from_millis(2500);

/// What a user wants.
#[derive(Debug)]
pub enum Step {
    /// An answer to this.
    Ask(Request),
    /// An answer to this single encoded operation.
    Operate(Vec<u8>),
    /// To go on at once, or after a while: its transaction is over.
    Rest,
}

/// What a user knows.
#[derive(Debug)]
pub struct Context<'a> {
    /// True time, for the record.
    pub now: Time,
    /// True while the run draws to its end: nothing new, only questions.
    pub ending: bool,
    /// For choices.
    pub random: &'a mut Random,
    /// The user's client.
    pub session: Incarnation,
    /// What the client knows of the tables.
    pub catalog: &'a Catalog,
    /// Grows; no number is used twice in a run.
    pub number: &'a mut u64,
}

impl Context<'_> {
    /// A number that was not used before.
    pub fn fresh(&mut self) -> u64 {
        *self.number += 1;
        *self.number
    }

    /// The table of this name, which was created at the beginning.
    pub fn schema(&self, name: &str) -> Schema {
        let table =
            self.catalog.table(name).unwrap_or_else(|| panic!("no table {name} in {:?}", self.catalog));
        Schema::new(table.clone()).expect("the register checks tables")
    }
}

/// What a table holds in the end, by the number of the row: version, and the columns but the key.
pub type Rows = BTreeMap<String, BTreeMap<u64, rows::Row>>;

/// Users with something to do.
pub trait Workload: std::fmt::Debug {
    /// The tables it needs.
    fn tables(&self) -> Vec<Table>;
    /// What an idle user does next.
    fn next(&mut self, user: usize, context: &mut Context<'_>) -> Step;
    /// What the user asked is answered; what it does then.
    fn answered(&mut self, user: usize, answer: Answer, context: &mut Context<'_>) -> Step;
    /// The user's client died: no answer comes.
    fn died(&mut self, user: usize, context: &mut Context<'_>);
    /// Whether the user owes nothing: no outcome is unknown to it.
    fn is_settled(&self, user: usize) -> bool;
    /// The cluster died as a whole and came back: what users wait for is forgotten, what they know may not be so any more.
    fn restarted(&mut self, restart: SystemRestart);
    /// How many transactions were committed.
    fn finished(&self) -> u64;
    /// Judges what was seen, with what is there in the end.
    fn judge(&mut self, rows: &Rows, now: Time) -> Verdict;
}

/// What of a failure matters to the record.
pub fn outcome_of(failure: &Failure) -> Outcome {
    if failure.error.code.class() == ErrorClass::Unknown { Outcome::Unknown } else { Outcome::Aborted }
}

/// A record of transactions, with the outcomes that are yet to be learned.
#[derive(Debug, Default)]
pub struct Recorder {
    /// What was seen.
    pub history: History,
    /// By user: what to ask.
    questions: Vec<VecDeque<(Handle, TransactionToken)>>,
    /// By user: the transaction under way.
    open: Vec<Option<Handle>>,
    /// By user: whether what it asked last is to be on disk when it is answered.
    durable: Vec<bool>,
    restarts: Vec<SystemRestart>,
    /// Transactions that the user was told to be committed.
    pub finished: u64,
}

impl Recorder {
    /// For so many users.
    pub fn new(users: usize) -> Recorder {
        Recorder {
            history: History::default(),
            questions: vec![VecDeque::new(); users],
            open: vec![None; users],
            durable: vec![false; users],
            restarts: Vec::new(),
            finished: 0,
        }
    }

    /// A user begins a transaction.
    pub fn begin(&mut self, user: usize, isolation: Isolation, context: &mut Context<'_>) -> Handle {
        let id = TransactionId { session: context.session, number: context.fresh() };
        let handle = self.history.begin(id, isolation, context.now);
        self.open[user] = Some(handle);
        handle
    }

    /// The name of the user's transaction.
    pub fn current(&mut self, user: usize) -> TransactionId {
        let handle = self.open[user].expect("it has begun one");
        self.history.transaction(handle).id
    }

    /// How the user's next request is to be run.
    pub fn options(&mut self, user: usize, deadline: Option<Duration>, context: &mut Context<'_>) -> Options {
        let durable = context.random.one_in(4);
        self.durable[user] = durable;
        let durability = if durable { Durability::Disk } else { Durability::Memory };
        Options { deadline, durability, ..Options::default() }
    }

    /// The user's transaction is answered.
    pub fn end(&mut self, user: usize, outcome: Outcome, context: &Context<'_>) {
        if let Some(handle) = self.open[user].take() {
            if matches!(outcome, Outcome::Committed { .. }) {
                self.history.transaction(handle).durable = self.durable[user];
            }
            self.history.answer(handle, context.now, outcome);
            self.finished += u64::from(matches!(outcome, Outcome::Committed { .. }));
        }
    }

    /// The user's transaction has failed; what is not known will be asked.
    pub fn fail(&mut self, user: usize, failure: &Failure, context: &Context<'_>) {
        let outcome = outcome_of(failure);
        if outcome == Outcome::Unknown
            && let Some(handle) = self.open[user]
        {
            let token = failure.token.unwrap_or_else(|| panic!("no token with {failure:?}"));
            self.questions[user].push_back((handle, token));
        }
        self.end(user, outcome, context);
    }

    /// A transaction of several that the user began at once.
    pub fn fail_one(&mut self, user: usize, handle: Handle, failure: &Failure, context: &Context<'_>) {
        self.open[user] = Some(handle);
        self.fail(user, failure, context);
    }

    /// A transaction of several that the user began at once.
    pub fn end_one(&mut self, user: usize, handle: Handle, outcome: Outcome, context: &Context<'_>) {
        self.open[user] = Some(handle);
        self.end(user, outcome, context);
    }

    /// What the user has to ask, if anything.
    pub fn question(&self, user: usize) -> Option<Request> {
        let (_, token) = self.questions[user].front()?;
        Some(Request::Status(*token))
    }

    /// The answer to the user's question. Returns what became of the transaction, if it is known now.
    pub fn learn(
        &mut self,
        user: usize,
        answer: &Answer,
        context: &Context<'_>,
    ) -> Option<(Handle, Outcome)> {
        let outcome = match answer {
            Answer::Status(Status::Decided(message::Outcome::Committed(epoch))) => {
                Outcome::Committed { epoch: Some(*epoch) }
            }
            Answer::Status(Status::Decided(message::Outcome::Aborted)) => Outcome::Aborted,
            // Its own client knows what others are told to be finished.
            Answer::Status(Status::Pending | Status::Finished) | Answer::Failed(_) => {
                // Another one may be known sooner.
                self.questions[user].rotate_left(1);
                return None;
            }
            other => panic!("an outcome is lost: {other:?}"),
        };
        let (handle, _) = self.questions[user].pop_front()?;
        self.history.answer(handle, context.now, outcome);
        Some((handle, outcome))
    }

    /// The user's client has died.
    pub fn died(&mut self, user: usize, context: &Context<'_>) {
        self.history.client_died(context.session, context.now);
        self.questions[user].clear();
        self.open[user] = None;
    }

    /// The cluster died as a whole and came back.
    pub fn restarted(&mut self, restart: SystemRestart) {
        self.history.cluster_died();
        let writes = self.history.transactions().iter().filter(|transaction| transaction.changes());
        let answered = writes.filter(|write| write.is_committed()).map(Transaction::completed);
        self.restarts.push(restart.after(answered.max().unwrap_or_default()));
        self.questions.iter_mut().for_each(VecDeque::clear);
        self.open.fill(None);
    }

    /// What survived all restarts, with which the rest has to agree: they lost no more than they may.
    ///
    /// # Errors
    /// What was lost that had to be kept, or is still there of what was lost.
    pub fn judge_restarts(&self, finals: &FinalRows) -> Result<History, Violation> {
        let mut history = self.history.clone();
        for restart in &self.restarts {
            epochs::check_restart(&history, restart, WINDOW)?;
            history = history.surviving(restart, WINDOW);
        }
        epochs::check_discarded(finals, &self.restarts)?;
        Ok(history)
    }

    /// Whether the user knows all its outcomes.
    pub fn is_settled(&self, user: usize) -> bool {
        self.questions[user].is_empty() && self.open[user].is_none()
    }
}
