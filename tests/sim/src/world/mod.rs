//! A simulated world: hosts, their clocks, processes on them, the network between. One thread, one seed, one order of
//! events; true time is known here and to no machine.

pub mod angel;
pub mod clock;
mod describe;
pub mod driver;
pub mod machine;
pub mod network;
mod operator;
pub mod process;
pub mod trace;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt,
    sync::Arc,
};

use twofold_apinode::request::{Answer, Request, Statement};
use twofold_datanode::{
    disk::Lane,
    mutation::Mutation,
    worker::{Counters, Worker},
};
use twofold_proto::{
    config::ClusterConfig,
    ids::{Incarnation, NodeId, PartitionId, ViewNumber},
    links::LinkInput,
    message::Life,
    random::Random,
    time::{Duration, Time},
};

use self::{
    describe::describe,
    driver::{Driver, Failed},
    machine::{Actor, Input, Message},
    network::{End, Item, Network},
    process::{Kind, Process, State},
    trace::{Sink, Trace},
};

/// One of so many interactive transactions is given up by its user, within so many milliseconds.
const ABANDONED_EVERY: u64 = 12;
const ABANDONED_MILLIS: u64 = 20;

/// A machine of a life of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MachineId {
    /// The process's place in the world.
    pub process: usize,
    /// Which life of it.
    pub life: u32,
    /// Its place in the process: of a data node, 0 is the node's, the workers' follow.
    pub index: usize,
    /// The process's name, for people.
    pub node: NodeId,
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            0 => write!(f, "{:?}/{}", self.node, self.life),
            index => write!(f, "{:?}/{}w{}", self.node, self.life, index - 1),
        }
    }
}

/// What is to happen at some time.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Event {
    /// A machine's turn.
    Turn(MachineId),
    /// What it wrote leaves.
    Flush(MachineId),
    /// Something is due at an end of a connection.
    Arrive(End),
    /// The other end of this one is found to be gone.
    Break(End),
    /// The connection breaks.
    Cut(End),
    Dial(MachineId, Failed),
    DialFailed(MachineId, Failed),
    DialTimeout(MachineId, End),
    Persisted(MachineId),
    /// The oldest request of a lane of a data node's disk is carried out.
    File(MachineId, Lane),
    WallClock(usize, u32),
    MendDisk(usize),
    /// The operator looks at the register.
    Operate,
    Start(usize),
    Resume(usize, u32),
    Overdue(usize, u64),
    Angel(usize, Life),
    /// These directions work again.
    Unblock(BTreeSet<(usize, usize)>),
    /// A client's user does not wait for the transaction of this handle any more.
    Abandon(MachineId, u64),
    /// For whoever runs the world.
    Wake(u64),
}

/// What comes out of the world.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// A client answers a request.
    Answer {
        /// The client's process.
        process: usize,
        /// The request's.
        token: u64,
        /// The answer.
        answer: Answer,
    },
    /// A client has died.
    Died {
        /// Its process.
        process: usize,
        /// Its session.
        session: Incarnation,
    },
    /// The time asked for with [`World::wake_me`].
    Wake(u64),
}

/// Counters of all workers that there have been.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals(pub Counters);

impl Totals {
    /// Adds a worker's.
    pub fn add(&mut self, counters: &Counters) {
        let sum = &mut self.0;
        sum.reads += counters.reads;
        sum.writes += counters.writes;
        sum.statements += counters.statements;
        sum.commits += counters.commits;
        sum.aborts += counters.aborts;
        sum.wounds += counters.wounds;
        sum.lock_waits += counters.lock_waits;
        sum.lock_timeouts += counters.lock_timeouts;
        sum.cancelled += counters.cancelled;
        sum.scans += counters.scans;
        sum.scanned_rows += counters.scanned_rows;
        sum.index_builds += counters.index_builds;
        sum.write_sets += counters.write_sets;
        sum.replicated += counters.replicated;
        sum.rows_copied += counters.rows_copied;
        sum.rows_kept += counters.rows_kept;
        sum.strays += counters.strays;
        sum.holes += counters.holes;
        sum.views += counters.views;
        sum.takeovers += counters.takeovers;
        sum.in_doubt += counters.in_doubt;
        sum.planted += counters.planted;
        sum.not_serving += counters.not_serving;
        sum.purged += counters.purged;
        sum.strayed += counters.strayed;
    }
}

/// The world.
pub struct World {
    now: Time,
    random: Random,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    serial: u64,
    pub(crate) network: Network,
    processes: Vec<Process>,
    config: Arc<ClusterConfig>,
    mutation: Option<Mutation>,
    /// Redo is written slowly.
    pub redo_is_slow: bool,
    check_every: u64,
    outputs: Vec<Output>,
    totals: Totals,
    /// The newest view of the register that was lost, until another one is rebuilt.
    lost_view: Option<ViewNumber>,
    /// Rare things that happened, and how often.
    pub marks: BTreeMap<&'static str, u64>,
    /// What happened.
    pub trace: Trace,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World at {:?}, {:?}", self.now, self.trace)
    }
}

impl World {
    /// A world with the processes of this config, none of which runs; and as many workers per data node.
    pub fn new(
        config: ClusterConfig,
        workers: &[u16],
        random: Random,
        mutation: Option<Mutation>,
        sink: Option<Sink>,
    ) -> World {
        let config = Arc::new(config);
        let mut world = World {
            now: Time(1_000_000_000),
            random,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            serial: 0,
            network: Network::default(),
            processes: Vec::new(),
            config: config.clone(),
            mutation,
            redo_is_slow: false,
            check_every: 1,
            outputs: Vec::new(),
            totals: Totals::default(),
            lost_view: None,
            marks: BTreeMap::new(),
            trace: Trace::to(sink),
        };
        for node in &config.management_nodes {
            world.add_process(Kind::Management, node.id, 0);
        }
        for (node, &workers) in config.data_nodes.iter().zip(workers) {
            world.add_process(Kind::Data, node.id, workers);
        }
        for node in &config.api_nodes {
            world.add_process(Kind::Client, node.id, 0);
        }
        for place in 0..world.processes.len() {
            if world.processes[place].kind == Kind::Data {
                let node = world.processes[place].node;
                world.add_process(Kind::Angel(place), node, 0);
            }
        }
        world
    }

    /// True time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// All processes.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// The places of the processes of a kind.
    pub fn places(&self, kind: Kind) -> Vec<usize> {
        (0..self.processes.len()).filter(|&place| self.processes[place].kind == kind).collect()
    }

    /// The config.
    pub fn config(&self) -> &Arc<ClusterConfig> {
        &self.config
    }

    /// Counters of all workers that live and that have died.
    pub fn totals(&self) -> Counters {
        let mut totals = self.totals;
        for worker in self.processes.iter().flat_map(Process::worker_machines) {
            totals.add(worker.counters());
        }
        totals.0
    }

    pub(crate) fn schedule(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at.max(self.now), self.sequence)));
        self.events.insert(self.sequence, event);
    }

    /// A rare path was taken.
    pub(super) fn mark(&mut self, name: &'static str) {
        *self.marks.entry(name).or_default() += 1;
    }

    /// Has [`Output::Wake`] come out at this time.
    pub fn wake_me(&mut self, at: Time, name: u64) {
        self.schedule(at, Event::Wake(name));
    }

    /// Heals these directions after a while.
    pub fn unblock_after(&mut self, span: Duration, directions: BTreeSet<(usize, usize)>) {
        self.schedule(self.now + span, Event::Unblock(directions));
    }

    /// Lets the next thing happen. What comes out is appended to `outputs`. False if it would be after `until`, which
    /// is then now.
    pub fn advance(&mut self, until: Time, outputs: &mut Vec<Output>) -> bool {
        match self.queue.peek() {
            Some(Reverse((at, _))) if *at <= until => {}
            _ => {
                self.now = self.now.max(until);
                return false;
            }
        }
        let Reverse((at, number)) = self.queue.pop().expect("just seen");
        self.now = self.now.max(at);
        let event = self.events.remove(&number).expect("events are in both");
        self.happen(event);
        outputs.append(&mut self.outputs);
        true
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Turn(id) => {
                if self.processes[id.process].state == State::Running {
                    self.with_driver(id, |world, driver| {
                        if driver.turn_at == Some(now) {
                            driver.turn_at = None;
                            // Else the end of the last turn plans the next.
                            if driver.flush_at.is_none() {
                                world.turn(id, driver);
                            }
                        }
                    });
                    self.settle(id.process);
                }
            }
            Event::Flush(id) => {
                if self.processes[id.process].state == State::Running {
                    self.with_driver(id, |world, driver| {
                        if driver.flush_at == Some(now) {
                            world.flush(id, driver);
                        }
                    });
                    self.settle(id.process);
                }
            }
            Event::Arrive(end) => self.arrive(end),
            Event::Break(end) => self.transmit(end.other(), Item::End),
            Event::Cut(end) => self.cut(end),
            Event::Dial(id, failed) => self.dial(id, failed),
            Event::DialFailed(id, failed) => {
                _ = self.with_driver(id, |world, driver| {
                    driver.dial_failed(failed);
                    world.wake(id, driver, now);
                })
            }
            Event::DialTimeout(id, end) => self.dial_timeout(id, end),
            Event::Persisted(id) => self.persisted(id),
            Event::File(id, lane) => self.carry_out_file(id, lane),
            Event::WallClock(place, life) => self.show_wall_clock(place, life),
            Event::Start(place) => self.start(place),
            Event::MendDisk(place) => self.mend_disk(place),
            Event::Operate => self.look_after(),
            Event::Resume(place, life) => self.resume(place, life),
            Event::Overdue(place, serial) => self.overdue(place, serial),
            Event::Angel(place, gone) => self.start_angel(place, gone),
            Event::Unblock(directions) => {
                self.trace.say(now, || format!("the network heals between {directions:?}"));
                let waiting = self.network.unblock(&directions);
                self.deliver_stalled(waiting);
            }
            Event::Abandon(id, handle) => self.post(id, Message::Abandon(handle)),
            Event::Wake(name) => self.outputs.push(Output::Wake(name)),
        }
    }

    /// Everything gets through again.
    pub fn heal(&mut self) {
        self.call_off();
        (0..self.processes.len()).for_each(|place| self.mend_disk(place));
        let waiting = self.network.heal();
        self.deliver_stalled(waiting);
    }

    /// What waited is sent again sooner or later.
    fn deliver_stalled(&mut self, waiting: Vec<End>) {
        for end in waiting {
            let later = Duration::from_micros(self.random.between(100, 200_000));
            self.schedule(self.now + later, Event::Arrive(end));
        }
    }

    fn arrive(&mut self, end: End) {
        let Some(id) = self.network.arrive(self.now, end) else { return };
        let now = self.now;
        self.with_driver(id, |world, driver| {
            driver.has_arrived(end);
            world.wake(id, driver, now);
        });
    }

    /// This end has room to write again.
    fn tell_room(&mut self, id: MachineId, end: End) {
        let now = self.now;
        self.with_driver(id, |world, driver| {
            driver.has_room(end);
            world.wake(id, driver, now);
        });
    }

    /// Cuts a connection: what is on its way is lost from anywhere on, and each end notices in its time.
    pub fn cut(&mut self, end: End) {
        for end in [end, end.other()] {
            self.network.lose_in_flight(&mut self.random, end);
            let later = match self.random.below(6) {
                0 => self.random.between(100_000, 3_000_000),
                _ => self.random.between(10, 2_000),
            };
            self.schedule(self.now + Duration::from_micros(later), Event::Break(end));
        }
    }

    /// Starts a process after a while.
    pub fn start_after(&mut self, place: usize, span: Duration) {
        if !matches!(self.processes[place].kind, Kind::Angel(_)) {
            self.schedule(self.now + span, Event::Start(place));
        }
    }

    /// Cuts it after a while.
    pub fn cut_after(&mut self, span: Duration, end: End) {
        self.schedule(self.now + span, Event::Cut(end));
    }

    /// Does something with a machine's driver, if the machine lives.
    fn with_driver<R>(&mut self, id: MachineId, act: impl FnOnce(&mut World, &mut Driver) -> R) -> Option<R> {
        let process = &mut self.processes[id.process];
        if process.life != id.life || process.state == State::Down {
            return None;
        }
        let mut driver = process.machines.get_mut(id.index)?.take()?;
        let result = act(self, &mut driver);
        self.processes[id.process].machines[id.index] = Some(driver);
        Some(result)
    }

    fn local(&self, id: MachineId) -> Time {
        self.processes[id.process].clock.local(self.now)
    }

    fn when(&self, id: MachineId, local: Time) -> Time {
        self.processes[id.process].clock.when(local, self.now)
    }

    /// From one machine of a process to another.
    fn post_to(&mut self, from: MachineId, index: usize, message: Message) {
        let nanos = match self.random.below(32) {
            0 => self.random.between(1_000, 600_000),
            _ => self.random.between(200, 12_000),
        };
        let due = self.now + Duration::from_nanos(nanos);
        let id = MachineId { index, ..from };
        self.with_driver(id, |world, driver| {
            let due = driver.post(from.index, due, message);
            world.wake(id, driver, due);
        });
    }

    /// From outside.
    fn post(&mut self, id: MachineId, message: Message) {
        let due = self.now;
        let sender = self.processes[id.process].machines.len();
        self.with_driver(id, |world, driver| {
            driver.post(sender, due, message);
            world.wake(id, driver, due);
        });
    }

    /// Asks a client. No answer comes if it dies before. Some users do not wait for the end of their transactions.
    pub fn submit(&mut self, place: usize, token: u64, request: Request) {
        let id = self.client(place);
        if let Request::Statement(Statement { handle, begin: Some(_), .. }) = &request
            && handle % ABANDONED_EVERY == 0
        {
            let wait = Duration::from_millis(handle / ABANDONED_EVERY % ABANDONED_MILLIS);
            self.schedule(self.now + wait, Event::Abandon(id, *handle));
        }
        self.post(id, Message::Submit(token, Box::new(request)));
    }

    /// Asks a client to run one encoded operation as a transaction of its own.
    pub fn operate(&mut self, place: usize, token: u64, operation: Vec<u8>) {
        self.post(self.client(place), Message::Operation(token, operation));
    }

    fn client(&self, place: usize) -> MachineId {
        let process = &self.processes[place];
        assert_eq!(process.kind, Kind::Client, "{:?} takes no requests", process.node);
        MachineId { process: place, life: process.life, index: 0, node: process.node }
    }

    fn record(&mut self, id: MachineId, input: &Input<'_>) {
        self.trace.steps += 1;
        let digest = &mut self.trace.digest;
        digest.add(self.now.0);
        digest.add((id.process as u64) << 32 | id.index as u64);
        match input {
            Input::Timer => digest.add(1),
            Input::Link(LinkInput::Frame { header, payload, .. }) => {
                digest.add(header.number);
                digest.add_bytes(payload);
            }
            Input::Link(_) => digest.add(2),
            Input::Message(_) => digest.add(3),
        }
        if self.trace.is_read() {
            let what = match input {
                Input::Link(LinkInput::Frame { link, header, payload }) => {
                    let messages = twofold_proto::link::Messages::new(payload).filter_map(Result::ok);
                    let kinds: Vec<String> = messages.map(|message| describe(&message)).collect();
                    format!(
                        "{link:?} frame {} ack {}: {}",
                        header.number,
                        header.acknowledged,
                        kinds.join(", ")
                    )
                }
                other => format!("{other:?}"),
            };
            self.trace.say(self.now, || format!("{id} < {what}"));
        }
    }

    /// Panics if a worker took a write set for confirmed that a replica does not have that its view counts. A replica under
    /// a newer view may have dropped it since.
    pub(crate) fn check_confirmed(&self, id: MachineId, worker: &Worker) {
        for partition in (0..self.config.partitions).map(PartitionId) {
            let Some((number, replicas)) = worker.confirmed_at(partition) else { continue };
            for (endpoint, incarnation) in replicas {
                let is = |process: &&Process| process.node == endpoint.node && process.kind == Kind::Data;
                let process = self.processes.iter().find(is).filter(|other| other.incarnation == incarnation);
                let Some(replica) =
                    process.and_then(|process| process.worker_machines().nth(endpoint.worker.0.into()))
                else {
                    continue;
                };
                assert!(
                    replica.newest_number(partition) >= number
                        || replica.view().number > worker.view().number,
                    "write set {number} of {partition:?} is confirmed at {id} and has not reached {endpoint:?}"
                );
            }
        }
    }

    /// Panics if two workers believe at this moment that they may serve one partition.
    pub fn check_primaries(&self) {
        let mut serving: BTreeMap<PartitionId, MachineId> = BTreeMap::new();
        for (place, process) in self.processes.iter().enumerate() {
            let local = process.clock.local(self.now);
            for (index, driver) in process.machines.iter().enumerate() {
                let Some(Driver { actor: Actor::Worker(worker), .. }) = driver else { continue };
                for partition in (0..self.config.partitions).map(PartitionId) {
                    if !worker.would_serve(partition, local) {
                        continue;
                    }
                    let id = MachineId { process: place, life: process.life, index, node: process.node };
                    if let Some(other) = serving.insert(partition, id) {
                        panic!("{partition:?} is served by {other} and by {id}");
                    }
                }
            }
        }
    }
}
