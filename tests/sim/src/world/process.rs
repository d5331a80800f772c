//! Processes: how they start, stand still, and die.

use std::collections::{BTreeMap, VecDeque};

use twofold_apinode::client::{Bounds, Client, Setup};
use twofold_datanode::{
    disk::{self, Disk, Lane, Request, simulated::Files},
    node::{Node, Settings},
    worker::{Counters, Worker},
};
use twofold_mgmnode::{
    log::{LogWrite, Stored},
    node::ManagementNode,
};
use twofold_proto::{
    ids::{Endpoint, Incarnation, NodeId, WorkerId},
    links::Links,
    message::Life,
    time::{Duration, Time},
};

use super::{
    Event, MachineId, Output, World,
    angel::Angel,
    clock::Clock,
    driver::{Driver, Failed},
    machine::{Actor, Message},
    network::End,
};

/// Bytes of a segment of redo: few, so that there are many, and more than a worker hands over at a time.
const SEGMENT_BYTES: usize = 320 << 10;
/// How often the wall clock is shown to a node.
const WALL_CLOCK_EVERY: Duration = Duration::from_millis(500);

/// What kind of process it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A management node.
    Management,
    /// A data node.
    Data,
    /// A client.
    Client,
    /// The angel of the data node whose place in the list of processes this is.
    Angel(usize),
}

/// How a process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It does not run.
    Down,
    /// It runs.
    Running,
    /// It is stopped, as by SIGSTOP, until somebody lets it go on.
    Paused,
}

/// At which moment a process is to die.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// The next time that it writes to a connection.
    Write,
    /// When a worker has sent another write set.
    WriteSet,
    /// When a worker has taken over a partition.
    Takeover,
    /// When a worker has found a transaction in doubt.
    Doubt,
    /// When a worker has planted a refusal.
    Planted,
    /// When a worker has copied rows to another node.
    Copy,
    /// When a worker has adopted a view.
    View,
    /// When a worker has got a write set as a replica.
    Replicated,
}

impl Trigger {
    fn count(self, counters: &Counters) -> u64 {
        match self {
            Trigger::Write => 0,
            Trigger::WriteSet => counters.write_sets,
            Trigger::Takeover => counters.takeovers,
            Trigger::Doubt => counters.in_doubt,
            Trigger::Planted => counters.planted,
            Trigger::Copy => counters.rows_copied,
            Trigger::View => counters.views,
            Trigger::Replicated => counters.replicated,
        }
    }
}

/// A death to come.
#[derive(Clone, Debug)]
struct Armed {
    trigger: Trigger,
    host: bool,
    /// What each machine had counted when this was decided.
    before: Vec<u64>,
    serial: u64,
}

/// One process.
#[derive(Debug)]
pub struct Process {
    /// What it is.
    pub kind: Kind,
    /// Its id in the config.
    pub node: NodeId,
    /// Counts its lives.
    pub life: u32,
    /// The name of this life.
    pub incarnation: Incarnation,
    /// How it is.
    pub state: State,
    /// Since when it has been as it is.
    pub since: Time,
    /// Of its host.
    pub(super) clock: Clock,
    pub(super) host: usize,
    pub(super) machines: Vec<Option<Driver>>,
    /// It has asked to end.
    pub(super) exit: Option<bool>,
    /// What it was asked to end for.
    stopping: bool,
    dying: bool,
    armed: Option<Armed>,
    pause_in_turn: Option<Duration>,
    pausing: Option<Duration>,
    deferred: Vec<Event>,
    /// A management node's disk.
    disk: Stored,
    writes: VecDeque<(u64, LogWrite)>,
    written_by: Time,
    /// A data node's files, and what is asked for of them, by lane: when the last one is done.
    pub(super) files: Files,
    requests: BTreeMap<Lane, (VecDeque<Request>, Time)>,
    /// How many workers it runs.
    pub workers: u16,
}

impl Process {
    /// Its machines that run in this process now.
    pub fn actors(&self) -> impl Iterator<Item = &Actor> {
        self.machines.iter().flatten().map(|driver| &driver.actor)
    }

    /// Its workers.
    pub fn worker_machines(&self) -> impl Iterator<Item = &Worker> {
        self.actors().filter_map(|actor| match actor {
            Actor::Worker(worker) => Some(&**worker),
            _ => None,
        })
    }

    /// The machine of a data node that is no worker.
    pub fn node_machine(&self) -> Option<&Node> {
        match self.actors().next() {
            Some(Actor::Node(node)) => Some(node),
            _ => None,
        }
    }

    /// The machine of a management node.
    pub fn management_machine(&self) -> Option<&ManagementNode> {
        match self.actors().next() {
            Some(Actor::Management(node)) => Some(node),
            _ => None,
        }
    }

    /// The machine of a client.
    pub fn client_machine(&self) -> Option<&Client> {
        match self.actors().next() {
            Some(Actor::Client(client)) => Some(client),
            _ => None,
        }
    }
}

impl World {
    pub(super) fn add_process(&mut self, kind: Kind, node: NodeId, workers: u16) -> usize {
        let place = self.processes.len();
        let (host, clock) = match kind {
            Kind::Angel(host) => (host, self.processes[host].clock.clone()),
            _ => (place, Clock::new(&mut self.random, self.now)),
        };
        self.processes.push(Process {
            kind,
            node,
            life: 0,
            incarnation: Incarnation(0),
            state: if matches!(kind, Kind::Angel(_)) { State::Running } else { State::Down },
            since: self.now,
            clock,
            host,
            machines: Vec::new(),
            exit: None,
            stopping: false,
            dying: false,
            armed: None,
            pause_in_turn: None,
            pausing: None,
            deferred: Vec::new(),
            disk: Stored::default(),
            writes: VecDeque::new(),
            written_by: Time(0),
            files: Files::default(),
            requests: BTreeMap::new(),
            workers,
        });
        place
    }

    /// Starts a process that is down, as a new life.
    pub fn start(&mut self, place: usize) {
        if self.processes[place].state != State::Down {
            return;
        }
        let incarnation = Incarnation(self.random.next_u64() | 1);
        // Now and then with another number of workers.
        let workers = self.random.one_in(8).then(|| self.random.between(1, 3) as u16);
        let now = self.now;
        let process = &mut self.processes[place];
        if process.kind == Kind::Data && process.life > 0 {
            process.workers = workers.unwrap_or(process.workers);
        }
        process.life += 1;
        process.incarnation = incarnation;
        (process.state, process.since) = (State::Running, now);
        (process.exit, process.stopping, process.dying) = (None, false, false);
        let actors = self.actors_of(place);
        let process = &mut self.processes[place];
        let (life, node, senders) = (process.life, process.node, actors.len());
        process.machines = actors.into_iter().map(|actor| Some(Driver::new(actor, senders))).collect();
        self.trace.say(now, || format!("{node:?} starts life {life}"));
        if self.processes[place].kind == Kind::Data {
            // Before the first timer.
            let millis = self.processes[place].clock.wall(now);
            let id = MachineId { process: place, life, index: 0, node };
            self.with_driver(id, |_, driver| driver.post(senders, now, Message::WallClock(millis)));
            self.schedule(now + WALL_CLOCK_EVERY, Event::WallClock(place, life));
        }
        for index in 0..senders {
            let id = MachineId { process: place, life, index, node };
            self.with_driver(id, |world, driver| world.wake(id, driver, now));
        }
    }

    fn actors_of(&mut self, place: usize) -> Vec<Actor> {
        let process = &self.processes[place];
        let (node, incarnation, workers) = (process.node, process.incarnation, process.workers);
        let local = process.clock.local(self.now);
        let config = self.config.clone();
        match process.kind {
            Kind::Management => {
                let machine = ManagementNode::new((*config).clone(), node, incarnation, &process.disk);
                let machine = machine.unwrap_or_else(|error| panic!("{node:?} cannot start: {error}"));
                vec![Actor::Management(Box::new(machine))]
            }
            Kind::Data => {
                let settings = Settings { config: config.clone(), id: node, incarnation, workers };
                let mut actors = vec![Actor::Node(Box::new(Node::new(local, settings)))];
                for number in 0..workers {
                    let own = Endpoint::new(node, WorkerId(number));
                    let memory = config.data_memory / u64::from(workers);
                    let mut worker = Worker::new(config.clone(), own, incarnation, memory);
                    worker.set_mutation(self.mutation);
                    actors.push(Actor::Worker(Box::new(worker)));
                }
                let settings = disk::Settings {
                    cluster: config.name.clone(),
                    node,
                    life: incarnation,
                    workers,
                    segment_bytes: SEGMENT_BYTES,
                    redo_bytes: config.redo_bytes,
                    flush: config.flush(),
                };
                let links = Links::new(Endpoint::node(node), incarnation, &config.name);
                actors.push(Actor::Disk(Box::new(Disk::new(settings)), Box::new(links)));
                actors
            }
            Kind::Client => {
                let management = config.management_nodes.iter().map(|node| Endpoint::node(node.id)).collect();
                let setup = Setup {
                    own: Endpoint::new(node, WorkerId(0)),
                    incarnation,
                    cluster: config.name.clone(),
                    management,
                    wall_clock_offset: process.clock.wall_at_zero(self.now),
                    seed: incarnation.0,
                    bounds: Bounds::default(),
                };
                vec![Actor::Client(Box::new(Client::new(setup)))]
            }
            Kind::Angel(_) => Vec::new(),
        }
    }

    /// The process dies at once; with its host, so that nobody hears of it, if that is said.
    pub fn kill(&mut self, place: usize, host: bool) {
        if self.processes[place].state == State::Down {
            return;
        }
        let (node, life) = (self.processes[place].node, self.processes[place].life);
        self.trace.say(self.now, || {
            format!("{node:?} dies in life {life}{}", if host { ", with its host" } else { "" })
        });
        let restart = self.restart_delay(place);
        self.bury(place, host, restart);
        if host && let Some(angel) = self.angel_of(place) {
            self.processes[angel].life += 1;
            self.bury(angel, true, restart);
            self.processes[angel].state = State::Running;
        }
        self.schedule(self.now + restart, Event::Start(place));
        if !host {
            self.send_angel(place);
        }
    }

    /// A byte of what a data node has written changes.
    pub fn damage(&mut self, place: usize) {
        let files = &mut self.processes[place].files;
        let written = |name: &String| files.written(name) > 0;
        let names: Vec<String> = files.names().into_iter().filter(written).collect();
        if names.is_empty() {
            return;
        }
        let name = self.random.pick(&names);
        let at = self.random.below(files.written(name) as u64) as usize;
        files.damage(name, at);
        self.trace.say(self.now, || format!("byte {at} of {name} of process {place} changes"));
    }

    /// The disk of a data node has no more room, or fails, until all heals or the time is up.
    pub fn break_disk(&mut self, place: usize, full: bool, span: Duration) {
        let files = &mut self.processes[place].files;
        match full {
            true => files.limit(Some(files.used())),
            false => files.fail(true),
        }
        self.trace.say(self.now, || {
            format!("the disk of process {place} is {}", if full { "full" } else { "broken" })
        });
        self.schedule(self.now + span, Event::MendDisk(place));
    }

    pub(super) fn mend_disk(&mut self, place: usize) {
        let files = &mut self.processes[place].files;
        files.limit(None);
        files.fail(false);
    }

    /// A management node dies, and what it has written with it.
    pub fn lose_disk(&mut self, place: usize) {
        self.kill(place, false);
        let process = &mut self.processes[place];
        process.disk = Stored::default();
    }

    fn restart_delay(&mut self, place: usize) -> Duration {
        let millis = match self.processes[place].kind {
            Kind::Data if self.random.one_in(4) => self.random.between(700, 3000),
            Kind::Data => self.random.between(20, 400),
            Kind::Management => self.random.between(50, 2500),
            Kind::Client | Kind::Angel(_) => self.random.between(20, 800),
        };
        Duration::from_millis(millis)
    }

    fn angel_of(&self, place: usize) -> Option<usize> {
        self.processes.iter().position(|process| process.kind == Kind::Angel(place))
    }

    /// The angel of a process that has ended tells the others.
    fn send_angel(&mut self, place: usize) {
        let process = &self.processes[place];
        if process.kind != Kind::Data {
            return;
        }
        let gone = Life { node: process.node, incarnation: process.incarnation };
        let delay = match self.random.below(8) {
            0 => self.random.between(1_000, 900_000),
            _ => self.random.between(100, 3_000),
        };
        self.schedule(self.now + Duration::from_micros(delay), Event::Angel(place, gone));
    }

    pub(super) fn start_angel(&mut self, place: usize, gone: Life) {
        let Some(angel) = self.angel_of(place) else { return };
        let management = self.config.management_nodes.iter().map(|node| Endpoint::node(node.id)).collect();
        let incarnation = Incarnation(self.random.next_u64() | 1);
        let machine = Angel::new(&self.config.name, incarnation, gone, management);
        let process = &mut self.processes[angel];
        process.machines.push(Some(Driver::new(Actor::Angel(Box::new(machine)), 0)));
        let index = process.machines.len() - 1;
        let id = MachineId { process: angel, life: process.life, index, node: process.node };
        let now = self.now;
        self.with_driver(id, |world, driver| world.wake(id, driver, now));
    }

    /// What is left when a process has ended.
    fn bury(&mut self, place: usize, host: bool, restart: Duration) {
        let now = self.now;
        let process = &mut self.processes[place];
        (process.state, process.since) = (State::Down, now);
        (process.armed, process.pause_in_turn, process.pausing) = (None, None, None);
        (process.exit, process.dying) = (None, false);
        process.deferred.clear();
        let machines = std::mem::take(&mut process.machines);
        // What was being written may or may not be there.
        let writes = std::mem::take(&mut process.writes);
        let done = self.random.below(writes.len() as u64 + 1) as usize;
        for (_, write) in writes.into_iter().take(done) {
            self.processes[place].disk.write(&write);
        }
        let requests = std::mem::take(&mut self.processes[place].requests);
        let under_way: Vec<Request> =
            requests.into_values().filter_map(|(queue, _)| queue.into_iter().next()).collect();
        let files = &mut self.processes[place].files;
        if host {
            files.lose_power(&under_way, &mut self.random);
        } else {
            files.interrupt(&under_way, &mut self.random);
        }
        for driver in machines.into_iter().flatten() {
            if let Actor::Worker(worker) = &driver.actor {
                self.totals.add(worker.counters());
            }
            for end in driver.ends().collect::<Vec<_>>() {
                if host {
                    self.network.lose_in_flight(&mut self.random, end.other());
                    self.network.close(end);
                    let silence = restart.min(Duration::from_secs(5));
                    let later = Duration::from_millis(self.random.below(300));
                    self.schedule(now + silence + later, Event::Break(end.other()));
                } else {
                    self.close(end, true);
                }
            }
        }
        let process = &self.processes[place];
        if process.kind == Kind::Client {
            self.outputs.push(Output::Died { process: place, session: process.incarnation });
        }
    }

    /// The process stands still for a while.
    pub fn pause(&mut self, place: usize, span: Duration) {
        if self.processes[place].state != State::Running {
            return;
        }
        let node = self.processes[place].node;
        self.trace.say(self.now, || format!("{node:?} stands still for {span:?}"));
        let now = self.now;
        let process = &mut self.processes[place];
        (process.state, process.since) = (State::Paused, now);
        let life = process.life;
        self.schedule(now + span, Event::Resume(place, life));
    }

    /// The process stands still in the middle of its next turn, after it has decided and before it has written.
    pub fn pause_in_turn(&mut self, place: usize, span: Duration) {
        self.processes[place].pause_in_turn = Some(span);
    }

    pub(super) fn resume(&mut self, place: usize, life: u32) {
        let now = self.now;
        let process = &mut self.processes[place];
        if process.life != life || process.state != State::Paused {
            return;
        }
        (process.state, process.since) = (State::Running, now);
        let (node, count) = (process.node, process.machines.len());
        self.trace.say(now, || format!("{node:?} goes on"));
        for event in std::mem::take(&mut self.processes[place].deferred) {
            self.schedule(now, event);
        }
        for index in 0..count {
            let id = MachineId { process: place, life, index, node };
            self.with_driver(id, |world, driver| {
                driver.turn_at = None;
                if driver.flush_at.is_some() {
                    let at = now + Duration::from_nanos(1_000 * (1 + index as u64));
                    driver.flush_at = Some(at);
                    world.schedule(at, Event::Flush(id));
                } else {
                    world.wake(id, driver, now);
                }
            });
        }
    }

    /// The process is to die at such a moment; some time later in any case.
    pub fn arm(&mut self, place: usize, trigger: Trigger, host: bool) {
        self.serial += 1;
        let serial = self.serial;
        let process = &mut self.processes[place];
        let count = |driver: &Option<Driver>| match driver.as_ref().map(|driver| &driver.actor) {
            Some(Actor::Worker(worker)) => trigger.count(worker.counters()),
            _ => 0,
        };
        let before = process.machines.iter().map(count).collect();
        process.armed = Some(Armed { trigger, host, before, serial });
        let patience = Duration::from_millis(self.random.between(5, 300));
        self.schedule(self.now + patience, Event::Overdue(place, serial));
    }

    /// The moment has not come in time.
    pub(super) fn overdue(&mut self, place: usize, serial: u64) {
        let armed = self.processes[place].armed.as_ref().filter(|armed| armed.serial == serial);
        if let Some(host) = armed.map(|armed| armed.host) {
            self.kill(place, host);
        }
    }

    /// No process dies or stands still that has not done so yet.
    pub(super) fn call_off(&mut self) {
        for process in &mut self.processes {
            (process.armed, process.pause_in_turn) = (None, None);
        }
    }

    /// Whether a death is to come for the process.
    pub fn is_armed(&self, place: usize) -> bool {
        self.processes[place].armed.is_some()
    }

    /// Whether the process will not stay: a death is to come for it, or it was asked to end, which may take it long.
    pub fn is_to_end(&self, place: usize) -> bool {
        self.is_armed(place) || self.processes[place].stopping
    }

    /// Whether this is the moment at which the process is to die.
    pub(super) fn dies_here(
        &mut self,
        id: MachineId,
        driver: &mut Driver,
        dirty: &[twofold_proto::links::LinkId],
    ) -> bool {
        let Some(armed) = &self.processes[id.process].armed else { return false };
        match (armed.trigger, &mut driver.actor) {
            (Trigger::Write, actor) => {
                let mut writes =
                    |&link: &_| actor.links().get(link).is_some_and(|link| link.unwritten().next().is_some());
                dirty.iter().any(&mut writes)
            }
            (trigger, Actor::Worker(worker)) => trigger.count(worker.counters()) > armed.before[id.index],
            _ => false,
        }
    }

    pub(super) fn died_here(&mut self, id: MachineId) {
        self.processes[id.process].dying = true;
    }

    /// Whether the process is to stand still before the turn's writes.
    pub(super) fn holds_back(&mut self, id: MachineId) -> bool {
        let process = &mut self.processes[id.process];
        process.pausing = process.pausing.or(process.pause_in_turn.take());
        process.pausing.is_some()
    }

    /// After each turn: what has become of the process in it.
    pub(super) fn settle(&mut self, place: usize) {
        let process = &mut self.processes[place];
        if process.state == State::Down {
            return;
        }
        if let Some(restart) = process.exit {
            assert!(
                restart || process.stopping,
                "{:?} ends for good though nobody asked it to",
                process.node
            );
            let delay = self.restart_delay(place);
            self.bury(place, false, delay);
            self.schedule(self.now + delay, Event::Start(place));
            self.send_angel(place);
        } else if process.dying {
            let host = process.armed.take().is_some_and(|armed| armed.host);
            self.kill(place, host);
        } else if let Some(span) = process.pausing.take() {
            self.pause(place, span);
        }
    }

    /// A data node is asked to end in order; it is started again after a while. A client is asked to end its session; it
    /// stays.
    pub fn stop(&mut self, place: usize) {
        let process = &mut self.processes[place];
        if matches!(process.kind, Kind::Data | Kind::Client) && process.state == State::Running {
            process.stopping = process.kind == Kind::Data;
            let id = MachineId { process: place, life: process.life, index: 0, node: process.node };
            self.post(id, Message::Stop);
        }
    }

    /// A management node writes.
    pub(super) fn persist(&mut self, id: MachineId, number: u64, write: LogWrite) {
        let micros = match self.random.below(20) {
            0 => self.random.between(1_000, 60_000),
            _ => self.random.between(50, 1_500),
        };
        let process = &mut self.processes[id.process];
        process.writes.push_back((number, write));
        let at = process.written_by.max(self.now + Duration::from_micros(micros));
        process.written_by = at;
        self.schedule(at, Event::Persisted(id));
    }

    /// A data node's disk wants something done.
    pub(super) fn request(&mut self, id: MachineId, lane: Lane, request: Request) {
        let is_long = matches!(request, Request::Create(..));
        let is_slow = self.redo_is_slow && lane == Lane::Log && !is_long;
        let micros = match self.random.below(400) {
            _ if is_slow => self.random.between(20_000, 150_000),
            0 => self.random.between(50_000, 900_000),
            1..100 if is_long => self.random.between(30_000, 400_000),
            1..10 => self.random.between(1_000, 30_000),
            _ => self.random.between(20, 1_000),
        };
        let (queue, done) = self.processes[id.process].requests.entry(lane).or_default();
        queue.push_back(request);
        *done = (*done).max(self.now) + Duration::from_micros(micros);
        let at = *done;
        self.schedule(at, Event::File(id, lane));
    }

    pub(super) fn carry_out_file(&mut self, id: MachineId, lane: Lane) {
        let process = &mut self.processes[id.process];
        if process.life != id.life {
            return;
        }
        let Some((queue, _)) = process.requests.get_mut(&lane) else { return };
        if let Some(request) = queue.pop_front() {
            let result = process.files.carry_out(&request);
            match &request {
                Request::Replace(name, _) if name.starts_with("part-") => {
                    self.mark("a part of a checkpoint was written");
                }
                Request::Remove(name) if name.starts_with("redo-") => self.mark("redo was cut off"),
                _ => {}
            }
            self.post(id, Message::File(lane, result));
        }
    }

    pub(super) fn persisted(&mut self, id: MachineId) {
        let process = &mut self.processes[id.process];
        if process.life != id.life {
            return;
        }
        if let Some((number, write)) = process.writes.pop_front() {
            process.disk.write(&write);
            self.post(id, Message::Persisted(number));
        }
    }

    pub(super) fn show_wall_clock(&mut self, place: usize, life: u32) {
        let process = &self.processes[place];
        if process.life != life || process.state == State::Down {
            return;
        }
        let millis = process.clock.wall(self.now);
        let id = MachineId { process: place, life, index: 0, node: process.node };
        self.post(id, Message::WallClock(millis));
        self.schedule(self.now + WALL_CLOCK_EVERY, Event::WallClock(place, life));
    }

    /// Someone sets the wall clock of a host.
    pub fn set_wall_clock(&mut self, place: usize, back: bool, by: Duration) {
        self.processes[place].clock.set_wall(back, by);
    }

    /// An attempt to connect goes out.
    pub(super) fn dial(&mut self, id: MachineId, failed: Failed) {
        let process = &mut self.processes[id.process];
        if process.state == State::Paused && process.life == id.life {
            process.deferred.push(Event::Dial(id, failed));
            return;
        }
        let from = process.host;
        let wanted = self.with_driver(id, |_, driver| driver.dialing(failed)).flatten();
        let Some((to, hello)) = wanted else { return };
        let is_target =
            |process: &Process| process.node == to.node && !matches!(process.kind, Kind::Angel(_));
        let Some(place) = self.processes.iter().position(is_target) else { panic!("{to:?} is nobody") };
        let target = &self.processes[place];
        let (host, life) = (target.host, target.life);
        let index = if to.worker == WorkerId::NODE { 0 } else { 1 + usize::from(to.worker.0) };
        // A data node's disk listens to nobody.
        let machines = match target.kind {
            Kind::Data => 1 + usize::from(target.workers),
            _ => target.machines.len(),
        };
        let listens = target.state != State::Down && index < machines;
        let fails_after = if !self.network.is_open(from, host) {
            Some(Duration::from_secs(1))
        } else if !listens {
            Some(self.network.latency(&mut self.random, from, host) * 2)
        } else {
            None
        };
        if let Some(after) = fails_after {
            return self.schedule(self.now + after, Event::DialFailed(id, failed));
        }
        let acceptor = MachineId { process: place, life, index, node: to.node };
        let end = self.network.open((id, from), (acceptor, host));
        self.with_driver(acceptor, |_, driver| driver.accepted(end.other()));
        self.with_driver(id, |_, driver| driver.dialed(end, failed));
        let due = self.network.send(&mut self.random, self.now, end, super::network::Item::Hello(hello));
        if let Some(due) = due {
            self.schedule(due, Event::Arrive(end.other()));
        }
        self.schedule(self.now + Duration::from_secs(2), Event::DialTimeout(id, end));
    }

    /// A handshake has taken too long.
    pub(super) fn dial_timeout(&mut self, id: MachineId, end: End) {
        let process = &mut self.processes[id.process];
        if process.state == State::Paused && process.life == id.life {
            process.deferred.push(Event::DialTimeout(id, end));
            return;
        }
        self.with_driver(id, |world, driver| {
            if driver.awaits_answer(end).is_some() {
                world.ended(id, driver, end);
                world.plan_turn(id, driver);
            }
        });
    }
}
