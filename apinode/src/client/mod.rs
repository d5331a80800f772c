//! The cluster client: the machine of one thread of an API node, or of a native client. It knows where every row is,
//! sends requests there, and does not rest until it can answer each truthfully.
//!
//! | module | what it does |
//! |---|---|
//! | `cluster` | config, views, catalog; links to the workers, and which of them serves which partition |
//! | `calls` | messages that await an answer |
//! | `dispatch` | calls on their way: sending, trying again, deadlines |
//! | `operations` | independent operations and steps of scans |
//! | `ranges` | steps of scans by index, over all workers |
//! | `transactions` | transactions in one request, and interactive ones |
//! | `outcome` | what became of a commit whose answer was lost |
//! | `durable` | commits that are answered once they are on all disks |
//! | `session` | numbers of transactions and commits, and the mark |
//! | `catalog` | changes of the catalog |
//!
//! What fails without having been applied is tried again until the request's deadline, but for the statements
//! of an interactive transaction after its first, which only its user can repeat. A transaction that is tried again has
//! a new id and keeps its timestamp. If a commit's answer is lost with its TC, the client asks for the outcome. By
//! then results are lost: a commit that is found so is answered with plain results (done, no rows, and whether
//! there was a row only where the kind of operation says so), and its reads with failures of their own. An outcome
//! that cannot be learned by the deadline is [`ErrorCode::OutcomePending`]; the client goes on asking for
//! [`Request::Status`] and for the session's mark.
//!
//! At its deadline a request is given up at its worker, too (`CancelOrd`): it waits for no lock any more and holds none,
//! unless it is being committed. A commit is answered some milliseconds later, so that its worker can say that nothing came of
//! it. [`Input::Abandon`] gives a transaction up before that.
//!
//! Nothing is allocated for an operation in the steady state: its bytes are kept in the reused slot of its call, and
//! those of all answers in a frame come in one [`Replies`].

mod calls;
mod catalog;
mod cluster;
mod dispatch;
mod durable;
mod operations;
mod outcome;
mod ranges;
mod replies;
mod session;
#[cfg(test)]
mod tests;
mod transactions;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use twofold_proto::{
    config::ClusterConfig,
    counters,
    error::{Error, ErrorCode},
    figure::{Figure, FigureKind},
    ids::{Endpoint, Epoch, Incarnation, PartitionId, TransactionId},
    limits::{CLIENT_LINK_BYTES_MAX, TRANSACTION_BYTES_MAX},
    links::{LinkEffect, LinkId, LinkInput, Linked, Links},
    machine::Machine,
    message::{Catalog, Outcome},
    operation::OperationRef,
    placement::PartitionMap,
    random::Random,
    time::{Duration, Time},
    view::View,
};

use crate::request::{Answer, Durability, HandedOut, Request};
use calls::Calls;
use catalog::Change;
use cluster::Peer;
use durable::Held;
use operations::{Batches, UnsentReads};
use ranges::Ranges;
use session::Session;
use transactions::Interactive;

pub use replies::Replies;

/// How long a request is tried if it does not say.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// A time that never comes.
const NEVER: Time = Time(u64::MAX);

/// What bounds a client's memory. Past any of these a request is refused as [`ErrorCode::Overloaded`] or
/// [`ErrorCode::TooMany`] at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Messages that await an answer.
    pub calls: usize,
    /// Bytes of their operations, kept to send them again.
    pub bytes: usize,
    /// Bytes in the link to one worker that it has not acknowledged, connected or not.
    pub link_bytes: usize,
    /// Interactive transactions.
    pub transactions: usize,
    /// Statements of one interactive transaction that wait for the one before.
    pub queued_statements: usize,
    /// Bytes of results that wait for the rest of their batch, or for frontends to write them. Past them reads fail, and
    /// writes are answered without their rows.
    pub result_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            calls: 1 << 18,
            bytes: 256 << 20,
            link_bytes: 32 << 20,
            transactions: 1 << 16,
            queued_statements: 64,
            result_bytes: 256 << 20,
        }
    }
}

const _: () = assert!(TRANSACTION_BYTES_MAX < 32 << 20 && 32 << 20 <= CLIENT_LINK_BYTES_MAX);

/// What a client is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setup {
    /// The API node and its thread; node 0 for a native client.
    pub own: Endpoint,
    /// This life of the thread: the session of its transactions.
    pub incarnation: Incarnation,
    /// Name of the cluster.
    pub cluster: String,
    /// The management nodes.
    pub management: Vec<Endpoint>,
    /// Microseconds since 1970 at the [`Time`] 0 of this process: transactions are as old as their timestamps say.
    pub wall_clock_offset: u64,
    /// For the jitter of what is tried again.
    pub seed: u64,
    /// What bounds its memory.
    pub bounds: Bounds,
}

/// What happens to a client.
#[derive(Clone, PartialEq, Debug)]
pub enum Input<'a> {
    /// To one of its links.
    Link(LinkInput<'a>),
    /// A frontend asks; answered with one [`Effect::Answer`].
    Submit {
        /// Comes back with the answer.
        token: u64,
        /// What it asks.
        request: Request,
    },
    /// One operation as a transaction of its own, in the default deadline; answered in one of [`Effect::Replies`].
    /// What is asked so costs no allocation.
    Operation {
        /// Comes back with the answer.
        token: u64,
        /// When it counts as done.
        durability: Durability,
        /// The operation.
        operation: OperationRef<'a>,
    },
    /// Nobody waits for the transaction of this handle any more. It ends at once, and its locks are freed, unless it is
    /// being committed. What of it was submitted is answered all the same.
    Abandon {
        /// As in [`Statement`](crate::request::Statement). If no transaction has it, nothing happens.
        handle: u64,
    },
    /// The time it asked for has come.
    Timer,
    /// No more requests come: answer those that are there, end the session.
    Stop,
}

/// What a client wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// About its links.
    Link(LinkEffect),
    /// The answer to a request.
    Answer {
        /// The request's.
        token: u64,
        /// The answer.
        answer: Answer,
    },
    /// Answers to [`Input::Operation`]s, in the order in which they came.
    Replies(Replies),
    /// A config was adopted: it says where the nodes are that [`LinkEffect::Connect`] names from now on.
    Config(Arc<ClusterConfig>),
    /// Requests can be made, and these are the tables now.
    Catalog(Arc<Catalog>),
    /// Whether every partition has a primary that this client is connected to; once it changes, from `false` on.
    Serves(bool),
    /// After [`Input::Stop`]: all is answered. The client may go once its links are written.
    Ended,
}

counters! {
    /// What a client has done since its start.
    "client":
    /// Requests and single operations that were submitted
    submitted;
    /// Those that were answered
    answered;
    /// Reads that were answered with the answer to an equal one
    shared;
    /// Reads and steps of scans sent again because their worker was gone
    resent;
    /// Questions for the outcome of a transaction
    asked;
    /// Those answered by a TC that has nothing of the transaction: the partition's primary is asked
    disowned;
    /// Those given up at their worker, at their deadline or because nobody waited any more
    cancelled;
    /// Commits reported as pending
    pending;
    /// Commits whose outcome was learned after they had been reported as pending
    learned;
    /// Views adopted
    views;
    /// Links that a worker gave up, and that were made anew
    links_renewed;
}

/// Answers that came too late, kept for [`Request::Status`].
const LEARNED_MAX: usize = 1 << 14;

/// The machine. See the module.
#[derive(Debug)]
pub struct Client {
    setup: Setup,
    links: Links,
    peers: BTreeMap<LinkId, Peer>,
    config: Option<Arc<ClusterConfig>>,
    catalog: Arc<Catalog>,
    has_catalog: bool,
    /// The version of the last [`Effect::Catalog`].
    told_catalog: Option<u64>,
    view: Arc<View>,
    map: PartitionMap,
    /// The link to each partition's primary; [`LinkId::NONE`] where there is none.
    routes: Vec<LinkId>,
    /// Each link of `routes`, once.
    primaries: BTreeSet<LinkId>,
    /// A partition of each primary, and one that has none if there is such a one.
    spread: Vec<PartitionId>,
    /// The last [`Effect::Serves`].
    serves: bool,
    /// The newest that was seen in any frame.
    epoch: Epoch,
    now: Time,
    random: Random,
    session: Session,
    calls: Calls,
    batches: Batches,
    ranges: Ranges,
    unsent_reads: UnsentReads,
    held: Held,
    /// By the frontend's handle.
    transactions: BTreeMap<u64, Interactive>,
    changes: BTreeMap<u32, Change>,
    next_change: u32,
    /// Calls that wait for a moment to be sent.
    timers: BTreeSet<(Time, u32)>,
    /// When deadlines are looked at next.
    next_sweep: Time,
    /// When transactions are looked for that are idle.
    idle_at: Time,
    /// When workers are told of the mark next; when that leaves at the latest.
    mark_at: Time,
    flush_at: Time,
    seal_all: bool,
    /// Outcomes learned after they were reported as pending.
    learned: BTreeMap<TransactionId, Outcome>,
    handed_out: Option<Box<dyn HandedOut>>,
    replies: Replies,
    effects: Vec<Effect>,
    counters: Counters,
    /// Messages tried again, by the error that they had failed with.
    retried: BTreeMap<ErrorCode, u64>,
    stopping: bool,
    ended: bool,
}

impl Client {
    /// A client that connects to the management nodes with its first step.
    ///
    /// # Panics
    /// Panics if the incarnation is 0, or there are no management nodes.
    pub fn new(setup: Setup) -> Client {
        assert!(!setup.management.is_empty(), "a client learns of the cluster from its management nodes");
        assert_ne!(setup.incarnation, Incarnation(0), "an incarnation is not 0");
        Client {
            links: Links::new(setup.own, setup.incarnation, &setup.cluster),
            peers: BTreeMap::new(),
            config: None,
            catalog: Arc::default(),
            has_catalog: false,
            told_catalog: None,
            view: Arc::default(),
            map: PartitionMap::default(),
            routes: Vec::new(),
            primaries: BTreeSet::new(),
            spread: Vec::new(),
            serves: false,
            epoch: Epoch::default(),
            now: Time::default(),
            random: Random::new(setup.seed),
            session: Session::default(),
            calls: Calls::default(),
            batches: Batches::default(),
            ranges: Ranges::default(),
            unsent_reads: UnsentReads::default(),
            held: Held::default(),
            transactions: BTreeMap::new(),
            changes: BTreeMap::new(),
            next_change: 0,
            timers: BTreeSet::new(),
            next_sweep: NEVER,
            idle_at: NEVER,
            mark_at: NEVER,
            flush_at: NEVER,
            seal_all: false,
            learned: BTreeMap::new(),
            handed_out: None,
            replies: Replies::default(),
            effects: Vec::new(),
            counters: Counters::default(),
            retried: BTreeMap::new(),
            stopping: false,
            ended: false,
            setup,
        }
    }

    /// The config, once a management node has sent it.
    pub fn config(&self) -> Option<&Arc<ClusterConfig>> {
        self.config.as_ref()
    }

    /// The tables; version 0 before a management node has sent them.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The view that it has adopted; number 0 before the first.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The newest epoch that it has heard of.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether it knows config, view and catalog, so that requests can be made.
    pub fn is_ready(&self) -> bool {
        self.config.is_some() && self.view.number.0 > 0 && self.has_catalog
    }

    /// What it has done.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Messages tried again, by the error that they had failed with.
    pub fn retried(&self) -> &BTreeMap<ErrorCode, u64> {
        &self.retried
    }

    /// The number of its commits up to which it has all answers.
    pub fn mark(&self) -> u64 {
        self.session.mark()
    }

    /// From now on the results that frontends hold count for [`Bounds::result_bytes`].
    pub fn count_handed_out(&mut self, handed_out: Box<dyn HandedOut>) {
        self.handed_out = Some(handed_out);
    }

    /// Messages that await an answer, or wait to be sent again.
    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// Whether nothing is under way: no request, no question, no open transaction.
    pub fn is_idle(&self) -> bool {
        self.calls.len() == 0 && self.changes.is_empty() && self.transactions.is_empty()
    }

    /// Microseconds since 1970.
    fn timestamp(&self) -> u64 {
        self.setup.wall_clock_offset + self.now.0 / 1000
    }

    fn deadline(&self, deadline: Option<Duration>) -> Time {
        self.now + deadline.unwrap_or(DEFAULT_DEADLINE)
    }

    fn push_link_effect(&mut self, effect: LinkEffect) {
        self.effects.push(Effect::Link(effect));
    }

    fn answer(&mut self, token: u64, answer: Answer) {
        self.counters.answered += 1;
        self.effects.push(Effect::Answer { token, answer });
    }

    fn answer_error(&mut self, token: u64, error: Error) {
        self.answer(token, Answer::Failed(error.into()));
    }

    fn submit(&mut self, token: u64, request: Request) {
        self.counters.submitted += 1;
        if self.stopping {
            return self.answer_error(token, Error::new(ErrorCode::Stopping, "this client is stopping"));
        }
        match request {
            Request::Independent { operations, options } => {
                self.submit_independent(token, &operations, &options)
            }
            Request::Transaction { operations, isolation, options } => {
                self.submit_transaction(token, operations, isolation, &options);
            }
            Request::Statement(statement) => self.submit_statement(token, statement),
            Request::ScanStep { .. } => self.submit_scan(token, request),
            Request::RangeStep(step) => self.submit_range(token, step),
            Request::Status(question) => self.submit_question(token, question),
            Request::Change(change) => self.submit_change(token, change),
        }
    }

    fn submit_single(&mut self, token: u64, durability: Durability, operation: &OperationRef<'_>) {
        self.counters.submitted += 1;
        let deadline = self.now + DEFAULT_DEADLINE;
        if let Err(error) = self.operate(calls::Owner::Operation(token), deadline, durability, operation) {
            self.counters.answered += 1;
            self.replies.push_error(token, error);
        }
    }

    fn on_timer(&mut self) {
        while let Some(&(at, slot)) = self.timers.first()
            && at <= self.now
        {
            self.run_waiting(slot);
        }
        if self.next_sweep <= self.now {
            self.sweep();
        }
        if self.idle_at <= self.now {
            self.forget_idle();
        }
        self.tick_mark();
        self.ask_durable();
        self.tick_changes();
    }

    /// After [`Input::Stop`]: ends the session when everything is answered.
    fn try_end(&mut self) {
        if self.ended || self.calls.has_owned() || !self.changes.is_empty() {
            return;
        }
        self.ended = true;
        // Somebody may yet ask for the outcome of what was reported as pending.
        if self.session.open() == 0 {
            self.send_session_end();
        }
        self.effects.push(Effect::Ended);
    }
}

impl Machine for Client {
    type Input<'a> = Input<'a>;
    type Effect = Effect;

    fn step(&mut self, now: Time, input: Input<'_>, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        std::mem::swap(&mut self.effects, effects);
        if self.peers.is_empty() {
            self.connect_management();
        }
        match input {
            Input::Link(input) => self.step_link(input),
            Input::Submit { token, request } => self.submit(token, request),
            Input::Operation { token, durability, operation } => {
                self.submit_single(token, durability, &operation)
            }
            Input::Abandon { handle } => self.abandon(handle),
            Input::Timer => self.on_timer(),
            Input::Stop => {
                self.stopping = true;
                self.tell_serves();
            }
        }
        if !self.replies.is_empty() {
            let empty = Replies::like(&self.replies);
            let replies = std::mem::replace(&mut self.replies, empty);
            self.effects.push(Effect::Replies(replies));
        }
        if self.stopping {
            self.try_end();
        }
        std::mem::swap(&mut self.effects, effects);
    }

    fn next_timeout(&self) -> Option<Time> {
        if self.peers.is_empty() {
            return Some(self.now);
        }
        let waiting = self.timers.first().map_or(NEVER, |(at, _)| *at);
        let changes = self.changes.values().map(Change::due).min().unwrap_or(NEVER);
        let due =
            waiting.min(changes).min(self.next_sweep).min(self.idle_at).min(self.mark_at).min(self.flush_at);
        let due = due.min(self.held.due());
        (due != NEVER).then_some(due)
    }

    fn figures(&self, tell: &mut dyn FnMut(Figure)) {
        self.counters.figures().into_iter().for_each(&mut *tell);
        tell(Figure {
            kind: FigureKind::Counter,
            ..Figure::gauge("client", "retried", "Messages tried again", self.retried.values().sum())
        });
        let mut gauge = |name, help, value| tell(Figure::gauge("client", name, help, value));
        gauge("calls", "Requests under way", self.calls.iter().count() as u64);
        gauge("transactions", "Interactive transactions that are open", self.transactions.len() as u64);
        gauge("result_bytes", "Bytes of results that are not written yet", self.result_bytes() as u64);
        gauge("view", "Number of its view", self.view.number.0);
        gauge("epoch", "Its epoch", self.epoch.counter());
    }

    fn check(&self) {
        self.check_calls();
        self.check_held();
        self.check_transactions();
        for (id, link) in self.routes.iter().map(|&id| (id, self.links.get(id))) {
            assert_eq!(link.is_none(), id == LinkId::NONE, "a route over {id:?}, which is gone");
        }
    }
}

impl Linked for Client {
    fn link_input(input: LinkInput<'_>) -> Input<'_> {
        Input::Link(input)
    }

    fn link_effect(effect: Effect) -> Result<LinkEffect, Effect> {
        match effect {
            Effect::Link(effect) => Ok(effect),
            other => Err(other),
        }
    }

    fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    fn end_turn(&mut self, now: Time, _: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        self.unsent_reads.clear();
        let all = std::mem::take(&mut self.seal_all);
        self.links.seal(self.epoch, all);
    }
}
