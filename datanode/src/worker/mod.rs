//! A worker: the machine of one thread of a data node. It alone owns its fragments and their locks, coordinates
//! transactions, and is primary or replica of its partitions. How its parts play together is in
//! `docs/transactions.md` and `docs/membership.md`.
//!
//! | module | what it does |
//! |---|---|
//! | `peers` | what comes over the links |
//! | `ahead` | the rows that the next reads are about, brought into the cache |
//! | `client` | requests of clients: reads, independent writes, questions about outcomes |
//! | `scan` | steps of scans, by partition or by index |
//! | `coordinator` | the TC: statements, Prepare, decision |
//! | `local` | what a transaction has here |
//! | `query` | the local handler: operations under locks, pending versions |
//! | `participant` | Prepare and decision at the primary of a partition |
//! | `replication` | write sets and decisions on their way to the replicas, and there |
//! | `outcome` | what became of whom, and questions of those in doubt |
//! | `takeover` | a new view: who serves what, reconciling |
//! | `copy` | partitions copied to a joining node |
//! | `redo` | what it logs, its checkpoint, loading |
//! | `epoch` | what the worker is done with; housekeeping |

mod ahead;
mod client;
mod coordinator;
mod copy;
mod entries;
mod epoch;
mod local;
mod outcome;
mod participant;
mod partition;
mod peers;
mod query;
mod redo;
mod replication;
mod scan;
mod slab;
mod takeover;
#[cfg(test)]
mod tests;
mod waits;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use twofold_proto::{
    config::ClusterConfig,
    counters,
    error::{Error, ErrorCode},
    figure::Figure,
    ids::{Endpoint, Epoch, Incarnation, NodeId, PartitionId, TableId, TransactionId, WorkerId},
    links::{LinkEffect, LinkId, LinkInput, Linked, Links},
    machine::Machine,
    message::{self, Coordinator, Kind, Life, put_control},
    placement::PartitionMap,
    schema::Schema,
    time::{ClusterTime, Time},
    view::{MemberState, View},
};
use twofold_storage::{
    lock::{LockId, LockTable, Woken},
    store::Store,
};

use crate::{
    disk::ToDisk,
    local::{FromWorker, ToWorker, Word},
};
use coordinator::Coordinated;
use local::Local;
use outcome::{Disowned, Outcomes};
use partition::Partition;
use peers::{DataPeer, Peer, Said};
use replication::WriteSet;
use slab::Slab;
use waits::Waits;

/// What happens to a worker.
#[derive(Clone, PartialEq, Debug)]
pub enum Input<'a> {
    /// To one of its links.
    Link(LinkInput<'a>),
    /// Its node tells it something.
    Node(ToWorker),
    /// The time it asked for has come.
    Timer,
}

/// What a worker wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// About its links.
    Link(LinkEffect),
    /// Tell its node this.
    Node(FromWorker),
    /// Tell the disk this.
    Disk(ToDisk),
}

counters! {
    /// What a worker has done since its start.
    "worker":
    /// Committed reads answered.
    reads;
    /// Independent writes that were tried.
    writes;
    /// Statements of transactions that were coordinated here.
    statements;
    /// Transactions committed that were coordinated here, independent writes included.
    commits;
    /// Transactions aborted that were coordinated here.
    aborts;
    /// Transactions that lost their locks to an older one.
    wounds;
    /// Operations that had to wait for a lock.
    lock_waits;
    /// Operations that waited too long.
    lock_timeouts;
    /// Statements and writes that were given up by their clients before they were done.
    cancelled;
    /// Steps of scans answered.
    scans;
    /// Rows that they returned
    scanned_rows;
    /// Indexes, all of a table's that came together as one, built on rows that were there.
    index_builds;
    /// Write sets sent to replicas.
    write_sets;
    /// Write sets received as a replica.
    replicated;
    /// Rows copied to joining nodes.
    rows_copied;
    /// Rows that joining nodes had kept.
    rows_kept;
    /// Rows removed at a joining node that had been deleted while it was away.
    strays;
    /// Partitions copied as a whole to a joining node that lacked rows which it was taken to have.
    holes;
    /// Views adopted.
    views;
    /// Partitions taken over.
    takeovers;
    /// Transactions found in doubt.
    in_doubt;
    /// Refusals planted.
    planted;
    /// Requests refused because the partition was not served here.
    not_serving;
    /// Writes refused because some disk could not keep up.
    disk_busy;
    /// Writes refused because what was committed 2 s before was not on all disks.
    not_durable;
    /// Rows freed because they had expired.
    purged;
    /// Clients given up because they did not read their answers.
    clients_dropped;
    /// Acknowledgements that came when their write set was decided, and its slot another partition's with its number.
    strayed;
}

/// What remains to be done in this step, so that handlers need not call each other in circles.
#[derive(Debug)]
enum Task {
    /// A lock was granted, or something else changed: go on with the local transaction's statement.
    Resume { slot: u32, transaction: TransactionId, lock: LockId },
    /// For the TC here: a part of a statement is done.
    Executed { transaction: TransactionId, statement: u32, results: query::Results, entries: Vec<u8> },
    /// For the TC here: a part of a statement failed.
    ExecuteFailed(message::ExecuteRef),
    /// For the TC here.
    Wounded(message::WoundOrd),
    /// For the TC here.
    Prepared(message::PrepareConf),
    /// For the TC here.
    PrepareRefused(message::PrepareRef),
    /// For the TC here.
    DecideConfirmed(message::DecideConf),
    /// For the local handler: the TC here has operations of a statement.
    Execute { request: message::ExecuteReq, operations: Vec<u8> },
    /// For the local handler.
    Undo(Coordinator, message::UndoOrd),
    /// For the local handler.
    End(Coordinator, TransactionId),
    /// For the participants here.
    Prepare(message::PrepareReq),
    /// For the participants here.
    Decide(message::DecideReq),
    /// Write sets that have nobody to wait for any more.
    Done(waits::Action),
    /// A question that was put aside until the partition is served.
    Outcome { link: Option<LinkId>, request: message::OutcomeReq },
    /// An answer from another partition here.
    OutcomeKnown(message::OutcomeConf),
    /// An observer of a lock or of write sets can go on.
    Observer(u64),
}

/// The machine of one thread of a data node.
#[derive(Debug)]
pub struct Worker {
    config: Arc<ClusterConfig>,
    own: Endpoint,
    life: Life,
    links: Links,
    peers: BTreeMap<LinkId, Peer>,
    /// Links to the workers of other members of the view.
    data_links: BTreeMap<Endpoint, LinkId>,
    view: Arc<View>,
    map: PartitionMap,
    state: Option<MemberState>,
    partitions: Vec<Partition>,
    /// Whether it serves each partition of which it is the primary, if that was asked since it changed.
    all_served: Option<bool>,
    store: Store,
    schemas: BTreeMap<TableId, Arc<Schema>>,
    catalog_version: u64,
    /// What the node was told of indexes: of which version they are built, and whether memory is short.
    indexes_told: (u64, bool),
    next_table: u32,
    locks: LockTable,
    woken: Woken,
    locals: Slab<Local>,
    local_ids: BTreeMap<TransactionId, u32>,
    /// Of all pending versions.
    pending_bytes: usize,
    /// Held for statements under way: for those that wait here, what they have yet to run and have found; the results of
    /// those of which it is the TC.
    statement_bytes: usize,
    refused: BTreeMap<TransactionId, Coordinator>,
    lock_waits: VecDeque<(Time, u32, TransactionId)>,
    /// Those of them that are independent writes, so that they can be given up.
    waiting_writes: BTreeMap<TransactionId, u32>,
    write_sets: Slab<WriteSet>,
    coordinated: BTreeMap<TransactionId, Coordinated>,
    /// Transactions that ended without their client's wish; it hears why with its next request.
    failed: BTreeMap<TransactionId, (Time, Error)>,
    disowned: Disowned,
    /// Clients that have too much to read; they go at the end of the step.
    unread: BTreeSet<LinkId>,
    waits: Waits,
    outcomes: Outcomes,
    observers: BTreeMap<u64, client::Observer>,
    next_ticket: u64,
    copies: Vec<copy::CopyOut>,
    copy_in: copy::CopyIn,
    redo: redo::Redo,
    tasks: VecDeque<Task>,
    epoch: Epoch,
    complete: Epoch,
    time: ClusterTime,
    /// Open transactions, as TC or as primary, by the epoch in which Prepare was sent.
    open_epochs: BTreeMap<Epoch, u32>,
    marker: epoch::Marker,
    /// When the last tick was.
    ticked: Time,
    lease_until: Time,
    now: Time,
    /// Lives that a view has dropped from the group and that may still hold a lease; those that hold none.
    unfenced: BTreeSet<Life>,
    fenced: BTreeSet<Life>,
    /// The lives of the view that the partitions' primaries were chosen by.
    known_lives: BTreeMap<NodeId, Incarnation>,
    seal_all: bool,
    scratch: Vec<u8>,
    purge: epoch::Purge,
    /// For the simulator: how many write sets it has confirmed; by partition, the last one's number, and under which view.
    #[cfg(feature = "mutations")]
    confirmed: (u64, BTreeMap<PartitionId, (u64, twofold_proto::ids::ViewNumber)>),
    effects: Vec<Effect>,
    counters: Counters,
    #[cfg(feature = "mutations")]
    mutation: Option<crate::mutation::Mutation>,
}

impl Worker {
    /// The worker of this endpoint, in this life of its node. `data_memory`: bytes for its rows and indexes.
    pub fn new(
        config: Arc<ClusterConfig>,
        own: Endpoint,
        incarnation: Incarnation,
        data_memory: u64,
    ) -> Worker {
        let life = Life { node: own.node, incarnation };
        let partitions = usize::from(config.partitions);
        Worker {
            links: Links::new(own, incarnation, &config.name),
            own,
            life,
            peers: BTreeMap::new(),
            data_links: BTreeMap::new(),
            view: Arc::default(),
            map: PartitionMap::default(),
            state: None,
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            all_served: None,
            store: Store::new(config.partitions, data_memory),
            schemas: BTreeMap::new(),
            catalog_version: 0,
            indexes_told: (0, false),
            next_table: 0,
            locks: LockTable::new(),
            woken: Woken::default(),
            locals: Slab::default(),
            local_ids: BTreeMap::new(),
            pending_bytes: 0,
            statement_bytes: 0,
            refused: BTreeMap::new(),
            lock_waits: VecDeque::new(),
            waiting_writes: BTreeMap::new(),
            write_sets: Slab::default(),
            coordinated: BTreeMap::new(),
            failed: BTreeMap::new(),
            disowned: Disowned::default(),
            unread: BTreeSet::new(),
            waits: Waits::default(),
            outcomes: Outcomes::default(),
            observers: BTreeMap::new(),
            next_ticket: 1,
            copies: Vec::new(),
            copy_in: copy::CopyIn::default(),
            redo: redo::Redo::default(),
            tasks: VecDeque::new(),
            epoch: Epoch::default(),
            complete: Epoch::default(),
            time: ClusterTime::default(),
            open_epochs: BTreeMap::new(),
            marker: epoch::Marker::default(),
            ticked: Time::default(),
            lease_until: Time::default(),
            now: Time::default(),
            unfenced: BTreeSet::new(),
            fenced: BTreeSet::new(),
            known_lives: BTreeMap::new(),
            seal_all: false,
            scratch: Vec::new(),
            purge: epoch::Purge::default(),
            #[cfg(feature = "mutations")]
            confirmed: Default::default(),
            effects: Vec::new(),
            counters: Counters::default(),
            #[cfg(feature = "mutations")]
            mutation: None,
            config,
        }
    }

    /// What it has done.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Its rows.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The view that it has adopted.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The newest epoch that it knows to be complete.
    pub fn complete_epoch(&self) -> Epoch {
        self.complete
    }

    /// Whether nothing is under way: no loading, transaction, write set, question, copy. For the simulator.
    pub fn is_idle(&self) -> bool {
        self.redo.loaded
            && self.locals.is_empty()
            && self.write_sets.is_empty()
            && self.coordinated.is_empty()
            && self.copies.is_empty()
            && self.copy_in.is_idle()
            && self.tasks.is_empty()
    }

    /// Whether it serves this partition as its primary, but for the lease. For the simulator.
    pub fn serves(&self, partition: PartitionId) -> bool {
        self.partitions[usize::from(partition.0)].serving
    }

    /// Whether it would serve this partition at this time, if nothing else came before. For the simulator.
    pub fn would_serve(&self, partition: PartitionId, now: Time) -> bool {
        self.serves(partition) && self.has_lease_at(now)
    }

    /// How many write sets it has confirmed. For the simulator.
    #[cfg(feature = "mutations")]
    pub fn confirmations(&self) -> u64 {
        self.confirmed.0
    }

    /// The number of the newest write set of a partition that this worker has seen. For the simulator.
    pub fn newest_number(&self, partition: PartitionId) -> u64 {
        self.partitions[usize::from(partition.0)].number
    }

    /// The write set of a partition that was confirmed here last, if that was under the newest view, and who has to have
    /// it. For the simulator.
    #[cfg(feature = "mutations")]
    pub fn confirmed_at(
        &self,
        partition: PartitionId,
    ) -> Option<(u64, impl Iterator<Item = (Endpoint, Incarnation)>)> {
        let state = &self.partitions[usize::from(partition.0)];
        let &(number, view) = self.confirmed.1.get(&partition)?;
        let links = state.replicas(partition::Part::Counts).filter_map(|link| self.links.get(link));
        let replicas = links.map(|link| (link.peer(), link.incarnation()));
        (view == self.view.number && state.serving).then_some((number, replicas))
    }

    /// Switches a deliberate fault on, for the tests of the checkers.
    #[cfg(feature = "mutations")]
    pub fn set_mutation(&mut self, mutation: Option<crate::mutation::Mutation>) {
        self.mutation = mutation;
        if self.mutated(crate::mutation::Mutation::SkipIndexAtUpdate) {
            self.store.skip_index_at_update();
        }
        if self.mutated(crate::mutation::Mutation::AskUnbuiltIndex) {
            self.store.answer_by_unbuilt_indexes();
        }
    }

    /// Whether a deliberate fault is at work.
    #[cfg(feature = "mutations")]
    fn mutated(&self, mutation: crate::mutation::Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    fn partition(&mut self, partition: PartitionId) -> &mut Partition {
        &mut self.partitions[usize::from(partition.0)]
    }

    fn tell_node(&mut self, word: Word) {
        self.effects.push(Effect::Node(FromWorker { worker: self.own.worker, word }));
    }

    fn link_effect(&mut self, effect: LinkEffect) {
        self.effects.push(Effect::Link(effect));
    }

    /// Sends a control message to an endpoint of the view; to itself it is a task.
    fn send_control<T: serde::Serialize>(&mut self, link: LinkId, kind: Kind, value: &T) {
        if let Some(link) = self.links.get_mut(link) {
            link.send(kind as u8, 0, |out| put_control(out, value));
        }
    }

    fn has_lease(&self) -> bool {
        self.has_lease_at(self.now)
    }

    fn has_lease_at(&self, now: Time) -> bool {
        #[cfg(feature = "mutations")]
        if self.mutated(crate::mutation::Mutation::IgnoreLease) {
            return true;
        }
        now < self.lease_until
    }

    /// Whether operations on the partition may be served now, or why not.
    fn check_serving(&mut self, partition: PartitionId) -> Result<(), Error> {
        let serving = self.partitions.get(usize::from(partition.0)).is_some_and(|state| state.serving);
        if serving && self.has_lease() {
            return Ok(());
        }
        self.counters.not_serving += 1;
        let text = match self.map.primary(partition) {
            Some(primary) if primary != self.own => {
                format!(
                    "partition {partition} is served by node {}, not by node {}",
                    primary.node, self.own.node
                )
            }
            Some(_) if serving => format!("node {} has no lease", self.own.node),
            Some(_) => format!("node {} is taking partition {partition} over", self.own.node),
            None => format!("partition {partition} has no node that serves it"),
        };
        Err(Error::new(ErrorCode::NotServing, text))
    }

    fn step_node(&mut self, input: ToWorker) {
        match input {
            ToWorker::View(view) => self.adopt_view(view),
            ToWorker::Catalog(catalog) => self.adopt_catalog(&catalog),
            ToWorker::Lease(until) => self.lease_until = until,
            ToWorker::Fenced(life) => {
                self.fenced.insert(life);
                if self.unfenced.remove(&life) {
                    self.try_serve_all();
                }
            }
            ToWorker::Epoch { epoch, complete, durable, wanted, congested, time } => {
                self.written(durable, wanted, congested);
                self.on_epoch(epoch, complete, time);
            }
            ToWorker::Disk(message) => self.on_disk(message),
            ToWorker::AreYouThere(question) => {
                self.tell_node(Word::Alive(question));
                if self.now.since(self.ticked) > self.config.epoch() * TICKS_MISSED {
                    self.tick();
                }
            }
        }
    }

    /// Does what handlers left to do, until nothing is left.
    fn run_tasks(&mut self) {
        let mut done = 0;
        while !self.tasks.is_empty() {
            if done % ahead::GROUP == 0 {
                self.look_ahead_in_tasks(done == 0);
            }
            done += 1;
            let Some(task) = self.tasks.pop_front() else { break };
            match task {
                Task::Resume { slot, transaction, lock } => {
                    self.resume(slot, transaction, local::Wait::Lock(lock))
                }
                Task::Executed { transaction, statement, results, entries } => {
                    self.on_executed(self.own, transaction, statement, results, &entries)
                        .expect("written here");
                }
                Task::ExecuteFailed(failure) => self.on_execute_ref(self.own, failure),
                Task::Wounded(wound) => self.on_wounded(wound),
                Task::Prepared(conf) => self.on_prepare_conf(None, conf),
                Task::PrepareRefused(refusal) => self.on_prepare_ref(None, refusal),
                Task::DecideConfirmed(conf) => self.on_decide_conf(None, conf),
                Task::Execute { request, operations } => {
                    self.execute(self.coordinator_here(), &request, &operations);
                }
                Task::Undo(coordinator, undo) => self.on_undo(coordinator, undo),
                Task::End(coordinator, transaction) => self.on_end(coordinator, transaction),
                Task::Prepare(request) => self.on_prepare(self.coordinator_here(), request),
                Task::Decide(request) => self.on_decide(self.coordinator_here(), request),
                Task::Done(action) => self.on_done(action),
                Task::Outcome { link, request } => self.on_outcome_req(link, request),
                Task::OutcomeKnown(conf) => self.on_outcome_conf(conf),
                Task::Observer(ticket) => self.on_observed(ticket),
            }
        }
    }

    fn coordinator_here(&self) -> Coordinator {
        Coordinator { endpoint: self.own, incarnation: self.life.incarnation }
    }

    /// Whether the life that coordinates a transaction is in the view.
    fn is_coordinator_alive(&self, coordinator: &Coordinator) -> bool {
        self.view.contains(coordinator.endpoint.node, coordinator.incarnation)
    }
}

/// After so many epochs without the president's word a worker ticks by itself.
const TICKS_MISSED: u32 = 5;

impl Machine for Worker {
    type Input<'a> = Input<'a>;
    type Effect = Effect;

    fn step(&mut self, now: Time, input: Input<'_>, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        std::mem::swap(&mut self.effects, effects);
        match input {
            Input::Link(input) => self.step_link(input),
            Input::Node(input) => self.step_node(input),
            Input::Timer => self.on_timer(),
        }
        self.run_tasks();
        while let Some(client) = self.unread.pop_first() {
            self.counters.clients_dropped += 1;
            self.drop_client(client);
            self.run_tasks();
        }
        self.hasten();
        std::mem::swap(&mut self.effects, effects);
    }

    fn next_timeout(&self) -> Option<Time> {
        self.lock_waits.front().map(|(deadline, ..)| *deadline)
    }

    fn figures(&self, tell: &mut dyn FnMut(Figure)) {
        self.counters.figures().into_iter().for_each(&mut *tell);
        let mut gauge = |name, help, value| tell(Figure::gauge("worker", name, help, value));
        let serves = self.partitions.iter().filter(|partition| partition.serving).count();
        gauge("rows", "Rows of all tables, as primary or replica", self.store.rows());
        gauge("used_bytes", "Memory that rows and indexes take", self.store.used_bytes());
        gauge("data_memory_bytes", "Memory that rows and indexes may take", self.store.data_memory());
        gauge("pending_bytes", "What open transactions would write", self.pending_bytes as u64);
        gauge("statement_bytes", "What is held for statements under way", self.statement_bytes as u64);
        gauge("partitions_served", "Partitions of which it is the primary", serves as u64);
        gauge("coordinated", "Open transactions of which it is the TC", self.coordinated.len() as u64);
        gauge("transactions", "Open transactions that have something here", self.locals.len() as u64);
        gauge("write_sets", "Prepared and not decided, as primary or replica", self.write_sets.len() as u64);
        gauge("locks", "Keys that are locked", self.locks.len() as u64);
        gauge("waiting_reads", "Reads that wait for a decision", self.observers.len() as u64);
        gauge("outcomes", "Outcomes that somebody may yet ask for", self.outcomes.len() as u64);
        gauge("view", "Number of its view", self.view.number.0);
        gauge("epoch", "Its epoch", self.epoch.counter());
        gauge("complete_epoch", "The newest complete epoch it knows", self.complete.counter());
    }

    fn check(&self) {
        self.locks.check();
        assert!(self.tasks.is_empty(), "tasks are left: {:?}", self.tasks);
        assert!(self.complete <= self.epoch, "complete {:?} is ahead of {:?}", self.complete, self.epoch);
        for (slot, write_set) in self.write_sets.iter() {
            let open = &self.partitions[usize::from(write_set.header.partition.0)].open;
            assert!(open.contains(&slot), "a write set is not in its partition's list: {write_set:?}");
        }
        let waiting = self.locals.iter().filter_map(|(_, local)| local.statement.as_ref());
        let held = waiting.map(local::Statement::held).sum::<usize>() + self.coordinated_bytes();
        assert_eq!(held, self.statement_bytes, "bytes held for statements");
        let nothing_open = self.locals.is_empty() && self.observers.is_empty() && self.coordinated.is_empty();
        for peer in self.peers.values() {
            if let Peer::Client(client) = peer {
                assert!(client.open == 0 || !nothing_open, "open of {:?}: {}", client.session, client.open);
            }
        }
        for (transaction, slot) in &self.local_ids {
            assert!(self.locals.get(*slot).is_some_and(|local| local.id == *transaction), "{transaction:?}");
        }
    }
}

impl Linked for Worker {
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

    fn end_turn(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        std::mem::swap(&mut self.effects, effects);
        let all = std::mem::take(&mut self.seal_all);
        self.links.seal(self.epoch, all);
        std::mem::swap(&mut self.effects, effects);
    }
}

/// The endpoint of worker `worker` of this life's node.
fn worker_of(life: Life, worker: u16) -> Endpoint {
    Endpoint::new(life.node, WorkerId(worker))
}
