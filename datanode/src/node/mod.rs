//! The data node's machine that is no worker: membership, leases, fencing, epochs, reports, and its end.
//!
//! It talks to the management nodes, to the same machine of the other data nodes, and to its own workers. What it keeps
//! is described in `docs/membership.md`. Three rules are its own:
//!
//! - *A lease is taken back for sure.* A worker holds its lease until it has read that it is shorter, so wherever
//!   somebody else relies on that (a new buddy that is to be counted, a goodbye) the node first has every worker's
//!   answer to a question that it asked after it told them (`Workers::all_answered`).
//! - *A node is level before it serves.* Epochs are complete when the `up` members say so; members that are not `up`
//!   coordinate nothing and are primary of nothing, so nobody waits for them. A node that becomes `up` may
//!   therefore know an older epoch than one that is complete, and must stamp nothing with it: it serves once it has had
//!   an epoch from the president of a view in which it is `up`. As president itself it first hears all other `up`
//!   members under that view; one of them was `up` before it.
//! - *A node whose worker hangs falls silent*: no heartbeats, no acknowledgements of them, no reports. So its buddies
//!   and the leader agree on who is to go.

mod connections;
mod departure;

mod epochs;
mod event;
mod membership;
mod storage;
mod workers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use twofold_proto::{
    config::ClusterConfig,
    figure::Figure,
    ids::{Endpoint, Epoch, Incarnation, NodeId, ViewNumber, WorkerId},
    limits::with_drift,
    links::{LinkEffect, LinkId, LinkInput, Linked, Links},
    machine::Machine,
    message::{Catalog, Life, ReportOrd},
    time::{Duration, Time},
    view::{MemberState, View},
};

pub use self::event::Event;
use self::{
    connections::Register,
    departure::{Exit, Stage},
    epochs::Epochs,
    membership::Peer,
    storage::Storage,
    workers::Workers,
};
use crate::{
    disk::ToDisk,
    local::{FromWorker, ToWorker, Word},
};

/// What happens to a node.
#[derive(Clone, PartialEq, Debug)]
pub enum Input<'a> {
    /// Something happened to a link.
    Link(LinkInput<'a>),
    /// A worker says something.
    Worker(FromWorker),
    /// The disk says something.
    Disk(crate::disk::Word),
    /// The wall clock, in milliseconds since 1970: now and then, and before the first timer.
    WallClock(u64),
    /// The process is asked to end. Gracefully: once a view without it has been written, or after some time, or when
    /// it is asked again.
    Stop {
        /// Whether to wait for that view.
        graceful: bool,
    },
    /// [`Machine::next_timeout`] has passed.
    Timer,
}

/// What a node wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// For its links.
    Link(LinkEffect),
    /// Tell a worker.
    Worker {
        /// Which.
        worker: WorkerId,
        /// What.
        message: ToWorker,
    },
    /// Tell the disk.
    Disk(ToDisk),
    /// End the process. The last effect.
    Exit {
        /// Whether its angel is to start it again.
        restart: bool,
        /// Whether the leader did not let it in.
        refused: bool,
        /// Why, for people.
        reason: String,
    },
    /// For the log.
    Event(Event),
}

/// What a node is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster's config, as a management node published it.
    pub config: Arc<ClusterConfig>,
    /// Its id there.
    pub id: NodeId,
    /// This life.
    pub incarnation: Incarnation,
    /// How many workers run.
    pub workers: u16,
}

/// The machine. Its driver steps it with [`Input::Timer`] at once; it then connects to the management nodes.
#[derive(Debug)]
pub struct Node {
    config: Arc<ClusterConfig>,
    life: Life,
    started: Time,
    links: Links,
    /// The newest view that was sent on each link.
    announced: BTreeMap<LinkId, ViewNumber>,
    /// Links to lives that a view dropped: they still carry that view, nothing is read from them.
    closing: Vec<LinkId>,
    /// The link to each management node.
    management: BTreeMap<NodeId, LinkId>,
    /// What was told on each of these links.
    registers: BTreeMap<LinkId, Register>,
    view: Arc<View>,
    /// Whether some adopted view had this life.
    was_member: bool,
    /// Whether it was said that no view has it.
    told_to_wait: bool,
    catalog: Option<Arc<Catalog>>,
    /// The other members of the view.
    peers: BTreeMap<Life, Peer>,
    /// Lives that are provably gone and still in the view, or not yet.
    gone: BTreeSet<Life>,
    /// When the lives that a view dropped are fenced.
    fences: BTreeMap<Life, Time>,
    /// What the workers were told.
    lease: Time,
    /// The question that was asked when the lease was last made shorter.
    lease_question: u64,
    /// Whether this node, `up`, knows an epoch later than every complete one.
    level: bool,
    workers: Workers,
    epochs: Epochs,
    storage: Storage,
    stage: Stage,
    reported: Option<ReportOrd>,
    /// Whether something has happened in this turn that others are to be told.
    news: bool,
    next_tick: Time,
}

impl Node {
    /// A node that starts now.
    ///
    /// # Panics
    /// Panics if there are no workers.
    pub fn new(now: Time, settings: Settings) -> Node {
        let Settings { config, id, incarnation, workers } = settings;
        Node {
            links: Links::new(Endpoint::node(id), incarnation, &config.name),
            life: Life { node: id, incarnation },
            config,
            started: now,
            announced: BTreeMap::new(),
            closing: Vec::new(),
            management: BTreeMap::new(),
            registers: BTreeMap::new(),
            view: Arc::default(),
            was_member: false,
            told_to_wait: false,
            catalog: None,
            peers: BTreeMap::new(),
            gone: BTreeSet::new(),
            fences: BTreeMap::new(),
            lease: Time(0),
            lease_question: 0,
            level: false,
            workers: Workers::new(workers),
            epochs: Epochs::default(),
            storage: Storage::default(),
            stage: Stage::Running,
            reported: None,
            news: false,
            next_tick: now,
        }
    }

    /// The newest view that it has adopted.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Before when its workers may serve.
    pub fn lease(&self) -> Time {
        self.lease
    }

    /// The newest epoch that it knows.
    pub fn epoch(&self) -> Epoch {
        self.epochs.epoch
    }

    /// The newest complete epoch that it knows.
    pub fn complete(&self) -> Epoch {
        self.epochs.complete
    }

    /// Its state in its view.
    pub fn state(&self) -> Option<MemberState> {
        self.view.state(self.life.node, self.life.incarnation)
    }

    fn tell(&self, message: &ToWorker, effects: &mut Vec<Effect>) {
        effects.extend(self.workers.ids().map(|worker| Effect::Worker { worker, message: message.clone() }));
    }

    /// Asks every worker; the number of the question.
    fn ask(&mut self, effects: &mut Vec<Effect>) -> u64 {
        let question = self.workers.ask();
        self.tell(&ToWorker::AreYouThere(question), effects);
        question
    }

    /// Whether a worker has not answered for `failure_ms`.
    fn suspended(&self) -> bool {
        self.workers.silence() >= self.ticks(self.config.failure())
    }

    /// Whether it alone serves its group's partitions: while rows are in memory only they would be lost with it, so it is
    /// better silent than gone.
    fn is_last_of_group(&self) -> bool {
        let own = self.life.node;
        self.view.is_up(own) && !self.config.buddies(own).any(|buddy| self.view.is_up(buddy))
    }

    /// How many ticks fit into the span.
    fn ticks(&self, span: Duration) -> u32 {
        u32::try_from(span.as_nanos().div_ceil(self.config.heartbeat().as_nanos().max(1))).unwrap_or(u32::MAX)
    }

    fn on_timer(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if now >= self.next_tick {
            self.tick(now, effects);
        }
        if self.has_ended() {
            return;
        }
        if self.epochs.due.is_some_and(|due| now >= due) {
            self.end_epoch(now, effects);
        }
        self.release_fences(now, effects);
    }

    /// What is done every `heartbeat_ms`. Ticks that were missed are not made up for.
    fn tick(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.next_tick = now + self.config.heartbeat();
        self.connect_management(effects);
        self.close_dropped(effects);
        self.workers.tick();
        if self.workers.silence() == self.ticks(self.config.failure()) {
            effects.push(Effect::Event(Event::Hangs { worker: self.workers.most_silent() }));
        }
        if self.workers.silence() >= self.ticks(self.config.failure() * 4) && !self.is_last_of_group() {
            let reason = format!("worker {} does not answer", self.workers.most_silent());
            return self.exit(Exit { restart: true, refused: false, reason }, effects);
        }
        self.ask(effects);
        self.send_heartbeats(now);
        self.refresh_lease(now, effects);
        self.send_report(now, true);
        self.note_wait(now, effects);
        self.leave_disk(now, effects);
    }

    /// Says once for whom it waits, if it is not let in.
    fn note_wait(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let late = now.since(self.started) >= self.config.failure() * 4;
        if self.was_member || self.told_to_wait || !late || self.registers.is_empty() {
            return;
        }
        self.told_to_wait = true;
        let up = self.config.buddies(self.life.node).filter(|&buddy| self.view.is_up(buddy)).collect();
        effects.push(Effect::Event(Event::Waits { view: self.view.number, up }));
    }

    fn on_worker(&mut self, now: Time, FromWorker { worker, word }: FromWorker, effects: &mut Vec<Effect>) {
        match word {
            Word::View(view) => self.learn(now, view, effects),
            Word::Catalog(version) => self.workers.has_catalog(worker, version),
            Word::Indexes { built, full } => self.workers.has_indexes(worker, built, full),
            Word::Copied(view, epoch) if view == self.view.number => {
                self.workers.has_copied(worker);
                self.on_copied(epoch, effects);
            }
            Word::Durable(epoch) => {
                self.workers.has_on_disk(worker, epoch);
                self.tell_durable(effects);
            }
            Word::Wanted(epoch) => self.is_wanted(epoch),
            Word::Counts(view, life) if view == self.view.number => self.workers.counts(worker, life),
            Word::Done(view, epoch) if view == self.view.number => self.workers.is_done(worker, epoch),
            // Of an older view: the worker says it again under this one.
            Word::Copied(..) | Word::Counts(..) | Word::Done(..) => {}
            Word::Alive(question) => self.workers.answered(worker, question),
            Word::Lost(_) => self.part(now, "too many views behind to go on", effects),
        }
        self.news = true;
    }
}

impl Machine for Node {
    type Input<'a> = Input<'a>;
    type Effect = Effect;

    fn step(&mut self, now: Time, input: Input<'_>, effects: &mut Vec<Effect>) {
        if self.has_ended() {
            return;
        }
        match input {
            Input::Link(input) => self.on_link(now, input, effects),
            Input::Worker(said) => self.on_worker(now, said, effects),
            Input::Disk(word) => self.on_disk(now, word, effects),
            Input::WallClock(millis) => self.epochs.set_wall_clock(now, millis),
            Input::Stop { graceful } => self.on_stop(now, graceful, effects),
            Input::Timer => self.on_timer(now, effects),
        }
        self.hasten(now, effects);
        self.go_on_leaving(now, effects);
    }

    fn next_timeout(&self) -> Option<Time> {
        if self.has_ended() {
            return None;
        }
        let fence = self.fences.values().min().copied();
        [Some(self.next_tick), self.epochs.due, fence, self.stage.until()].into_iter().flatten().min()
    }

    fn figures(&self, tell: &mut dyn FnMut(Figure)) {
        let mut gauge = |name, help, value| tell(Figure::gauge("node", name, help, value));
        let state = self.state();
        gauge("up", "1: in the view and up", u64::from(state == Some(MemberState::Up)));
        gauge("member", "1: in the view: up, ready or syncing", u64::from(state.is_some()));
        gauge("president", "1: ends the epochs", u64::from(self.is_president()));
        gauge("view", "Number of its view", self.view.number.0);
        gauge("view_members", "Data nodes in its view", self.view.members.len() as u64);
        gauge("epoch", "Its epoch", self.epochs.epoch.counter());
        gauge("complete_epoch", "The newest complete epoch it knows", self.epochs.complete.counter());
        gauge("silent_ticks", "Heartbeats since all workers have answered", self.workers.silence().into());
    }

    fn check(&self) {
        let up = self.state() == Some(MemberState::Up);
        assert!(
            self.lease == Time(0) || (up && self.level && self.stage.serves()),
            "{:?} has a lease until {:?}: state {:?}, level {}, {:?}",
            self.life,
            self.lease,
            self.state(),
            self.level,
            self.stage
        );
        assert!(!self.level || up, "{:?} is level in state {:?}", self.life, self.state());
        for life in self.counted_buddies() {
            let confirmed = self.peers[&life].confirmed;
            let bound = confirmed.map_or(Time(0), |sent| sent + self.config.lease());
            assert!(
                self.lease <= bound,
                "{:?}: lease {:?}, but {life:?} confirmed {confirmed:?}",
                self.life,
                self.lease
            );
        }
        for life in self.fences.keys() {
            assert!(
                !self.view.contains(life.node, life.incarnation),
                "{life:?} is fenced in {:?}",
                self.view
            );
        }
        for (life, peer) in &self.peers {
            assert!(
                self.view.contains(life.node, life.incarnation),
                "{life:?} is a peer, not in {:?}",
                self.view
            );
            assert!(
                peer.link.is_none_or(|link| self.links.get(link).is_some()),
                "{life:?}: its link is gone"
            );
        }
        self.epochs.check();
    }
}

impl Linked for Node {
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

    fn end_turn(&mut self, now: Time, _effects: &mut Vec<Effect>) {
        if self.news {
            self.send_report(now, false);
            self.send_done();
        }
        let ended = std::mem::take(&mut self.epochs.ended);
        self.links.seal(self.epochs.epoch, ended);
    }
}

#[cfg(test)]
mod tests;
