//! What drives one machine: its turns, its mail, and the connections of its links. It does what the real one does, but
//! leaves more to chance: what comes together, how much is written at once, where it stops.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use twofold_proto::{
    link::{FRAME_HEADER, FrameHeader, Hello, HelloReply},
    links::{LinkEffect, LinkId, LinkInput},
    time::{Duration, Time},
};

use super::{
    Event, MachineId, Output, World,
    machine::{Actor, Effect, Input, Message},
    network::{End, Item},
    process::State,
};

/// The first wait before a connection is tried again; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// The wait after a refusal that is not temporary.
const BACKOFF_REFUSED: Duration = Duration::from_secs(5);

/// What an end of a connection is to the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// Dialed here; the answer is awaited, to this attempt of the link.
    Dialed(LinkId, u64),
    /// Accepted here; the hello is awaited.
    Accepted,
    /// The machine has the hello under this name.
    Greeted(u64),
    /// The link's connection.
    Of(LinkId),
}

#[derive(Debug)]
struct Socket {
    role: Role,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// A frame has come.
    proven: bool,
    /// The other end takes no more for now.
    blocked: bool,
}

#[derive(Debug)]
struct Dialing {
    to: twofold_proto::ids::Endpoint,
    serial: u64,
    failures: u32,
    refused: bool,
}

#[derive(Debug, Default)]
struct Peer {
    end: Option<End>,
    dialing: Option<Dialing>,
}

/// How an attempt to connect ended without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failed {
    /// The link.
    pub link: LinkId,
    /// Which attempt.
    pub serial: u64,
}

/// Drives one machine.
#[derive(Debug)]
pub struct Driver {
    /// The machine.
    pub actor: Actor,
    /// By sender: what is due when.
    mail: Vec<VecDeque<(Time, Message)>>,
    sockets: BTreeMap<End, Socket>,
    readable: BTreeSet<End>,
    peers: BTreeMap<LinkId, Peer>,
    hellos: BTreeMap<u64, End>,
    next_name: u64,
    failed: VecDeque<Failed>,
    broken: VecDeque<LinkId>,
    unwritten: Vec<LinkId>,
    /// Of a worker: how many confirmed write sets were looked at.
    confirmations: u64,
    /// When its next turn is.
    pub turn_at: Option<Time>,
    /// When what it did in the last turn leaves.
    pub flush_at: Option<Time>,
}

impl Driver {
    /// The driver of a machine of a process with so many machines.
    pub fn new(actor: Actor, senders: usize) -> Driver {
        Driver {
            actor,
            mail: (0..=senders).map(|_| VecDeque::new()).collect(),
            sockets: BTreeMap::new(),
            readable: BTreeSet::new(),
            peers: BTreeMap::new(),
            hellos: BTreeMap::new(),
            next_name: 1,
            failed: VecDeque::new(),
            broken: VecDeque::new(),
            unwritten: Vec::new(),
            confirmations: 0,
            turn_at: None,
            flush_at: None,
        }
    }

    /// Puts a message into the box for this sender; it is read after those before it.
    pub fn post(&mut self, sender: usize, due: Time, message: Message) -> Time {
        let queue = &mut self.mail[sender];
        let due = queue.back().map_or(due, |(last, _)| due.max(*last));
        queue.push_back((due, message));
        due
    }

    /// Something has arrived at this end.
    pub fn has_arrived(&mut self, end: End) {
        self.readable.insert(end);
    }

    /// Somebody has connected.
    pub fn accepted(&mut self, end: End) {
        let socket = Socket { role: Role::Accepted, partial: Vec::new(), proven: false, blocked: false };
        self.sockets.insert(end, socket);
    }

    /// There is room again behind this end.
    pub fn has_room(&mut self, end: End) {
        if let Some(socket) = self.sockets.get_mut(&end)
            && std::mem::take(&mut socket.blocked)
            && let Role::Of(link) = socket.role
        {
            self.unwritten.push(link);
        }
    }

    /// An attempt to connect has come to nothing.
    pub fn dial_failed(&mut self, failed: Failed) {
        self.failed.push_back(failed);
    }

    /// All its ends of connections.
    pub fn ends(&self) -> impl Iterator<Item = End> + '_ {
        self.sockets.keys().copied()
    }

    /// Whom this attempt of the link wants, if it is still wanted, and what to say.
    pub fn dialing(&mut self, failed: Failed) -> Option<(twofold_proto::ids::Endpoint, Hello)> {
        let dialing = self.peers.get(&failed.link)?.dialing.as_ref()?;
        let wanted = dialing.serial == failed.serial && self.peers[&failed.link].end.is_none();
        let to = dialing.to;
        let hello = self.actor.links().hello(failed.link)?;
        wanted.then_some((to, hello))
    }

    /// The attempt has a connection, on which the answer is awaited.
    pub fn dialed(&mut self, end: End, Failed { link, serial }: Failed) {
        let role = Role::Dialed(link, serial);
        self.sockets.insert(end, Socket { role, partial: Vec::new(), proven: false, blocked: false });
    }

    /// Whether the answer on this end is still awaited.
    pub fn awaits_answer(&self, end: End) -> Option<Failed> {
        match self.sockets.get(&end)?.role {
            Role::Dialed(link, serial) => Some(Failed { link, serial }),
            _ => None,
        }
    }

    fn next_mail(&self) -> Option<Time> {
        self.mail.iter().filter_map(|queue| queue.front()).map(|(due, _)| *due).min()
    }
}

/// Where a turn takes inputs from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Mail(usize),
    End(End),
    Failed,
}

impl World {
    /// One turn of a machine: steps it with what is there. What it wrote leaves now or a little later.
    pub(super) fn turn(&mut self, id: MachineId, driver: &mut Driver) {
        self.take_broken(id, driver);
        let mut sources: Vec<Source> = (0..driver.mail.len())
            .filter(|&sender| driver.mail[sender].front().is_some_and(|(due, _)| *due <= self.now))
            .map(Source::Mail)
            .collect();
        sources.extend(driver.readable.iter().copied().map(Source::End));
        if !driver.failed.is_empty() {
            sources.push(Source::Failed);
        }
        self.random.shuffle(&mut sources);
        for source in sources {
            match source {
                Source::Mail(sender) => {
                    while let Some((_, message)) =
                        driver.mail[sender].pop_front_if(|(due, _)| *due <= self.now)
                    {
                        self.step(id, driver, Input::Message(message));
                        if self.has_ended(id) {
                            return;
                        }
                    }
                }
                Source::End(end) => {
                    driver.readable.remove(&end);
                    self.read(id, driver, end);
                }
                Source::Failed => {
                    while let Some(failed) = driver.failed.pop_front() {
                        self.redial_failed(id, driver, failed, false);
                    }
                }
            }
            if self.has_ended(id) {
                return;
            }
        }
        self.take_broken(id, driver);
        let local = self.local(id);
        if driver.actor.next_timeout().is_some_and(|due| due <= local) {
            self.step(id, driver, Input::Timer);
            if self.has_ended(id) {
                return;
            }
        }
        let later = match self.random.below(12) {
            0 => self.random.between(1_000, 60_000),
            1 if self.random.one_in(40) => self.random.between(1_000, 5_000_000),
            _ => 0,
        };
        if later == 0 && !self.holds_back(id) {
            self.flush(id, driver);
        } else {
            let at = self.now + Duration::from_nanos(later);
            driver.flush_at = Some(at);
            self.schedule(at, Event::Flush(id));
        }
    }

    /// The turn is over: what was written leaves, unless the process dies at this moment.
    pub(super) fn flush(&mut self, id: MachineId, driver: &mut Driver) {
        driver.flush_at = None;
        let local = self.local(id);
        let mut effects = Vec::new();
        driver.actor.end_turn(local, &mut effects);
        self.carry_out(id, driver, effects);
        driver.actor.check();
        let mut dirty = Vec::new();
        driver.actor.links().take_dirty(&mut dirty);
        dirty.append(&mut driver.unwritten);
        if self.dies_here(id, driver, &dirty) {
            let whole = self.random.below(dirty.len() as u64 + 1) as usize;
            for (place, &link) in dirty.iter().take(whole + 1).enumerate() {
                let part = (place == whole).then(|| self.random.below(400) as usize);
                self.write(driver, link, part);
            }
            self.mark("died between or in the middle of writes");
            return self.died_here(id);
        }
        for link in dirty {
            self.write(driver, link, None);
        }
        self.plan_turn(id, driver);
    }

    /// Sees that the next turn comes when there is something for it.
    pub(super) fn plan_turn(&mut self, id: MachineId, driver: &mut Driver) {
        if driver.flush_at.is_some() {
            return;
        }
        let ready = !driver.broken.is_empty()
            || !driver.failed.is_empty()
            || !driver.readable.is_empty()
            || !driver.unwritten.is_empty();
        let timer = driver.actor.next_timeout().map(|due| self.when(id, due));
        let due = [timer, driver.next_mail(), ready.then_some(self.now)].into_iter().flatten().min();
        if let Some(due) = due {
            self.wake(id, driver, due);
        }
    }

    /// Has the machine's next turn come at this time at the latest, or soon after.
    pub(super) fn wake(&mut self, id: MachineId, driver: &mut Driver, due: Time) {
        let wait = match self.random.below(16) {
            0 => self.random.between(1_000, 200_000),
            1..6 => self.random.between(1_000, 15_000),
            _ => 1_000,
        };
        let at = due.max(self.now) + Duration::from_nanos(wait);
        if driver.turn_at.is_none_or(|turn| at < turn) {
            driver.turn_at = Some(at);
            self.schedule(at, Event::Turn(id));
        }
    }

    fn step(&mut self, id: MachineId, driver: &mut Driver, input: Input<'_>) {
        let local = self.local(id);
        self.record(id, &input);
        let mut effects = Vec::new();
        driver.actor.step(local, input, &mut effects);
        if let Actor::Worker(worker) = &driver.actor
            && worker.confirmations() > driver.confirmations
        {
            driver.confirmations = worker.confirmations();
            self.check_confirmed(id, worker);
        }
        self.carry_out(id, driver, effects);
        if self.trace.steps.is_multiple_of(self.check_every) {
            driver.actor.check();
        }
    }

    fn carry_out(&mut self, id: MachineId, driver: &mut Driver, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Link(effect) => self.carry_out_link(id, driver, effect),
                Effect::ToWorker(worker, message) => {
                    self.post_to(id, 1 + usize::from(worker.0), Message::ToWorker(message));
                }
                Effect::FromWorker(word) => self.post_to(id, 0, Message::FromWorker(word)),
                Effect::FromDisk(word) => self.post_to(id, 0, Message::FromDisk(word)),
                Effect::ToDisk(message) => {
                    let disk = 1 + usize::from(self.processes[id.process].workers);
                    self.post_to(id, disk, Message::ToDisk(message));
                }
                Effect::File(lane, request) => self.request(id, lane, request),
                Effect::Exit { restart, reason } => {
                    self.trace.say(self.now, || format!("{id} ends: {reason}"));
                    self.processes[id.process].exit = Some(restart);
                }
                Effect::Persist(number, write) => self.persist(id, number, write),
                Effect::Administered(reply) => self.hear(&reply),
                Effect::Answer(token, answer) => {
                    self.outputs.push(Output::Answer { process: id.process, token, answer });
                }
                Effect::Note(text) => self.trace.say(self.now, || format!("{id} says: {text}")),
            }
        }
    }

    fn carry_out_link(&mut self, id: MachineId, driver: &mut Driver, effect: LinkEffect) {
        match effect {
            LinkEffect::Connect { link, to } => {
                let peer = driver.peers.entry(link).or_default();
                if peer.dialing.is_none() {
                    peer.dialing = Some(Dialing { to, serial: 0, failures: 0, refused: false });
                    self.redial(id, driver, link);
                }
            }
            LinkEffect::Answer { connection, link, reply } => {
                let Some(end) = driver.hellos.remove(&connection) else { return };
                let accepted = matches!(reply, HelloReply::Accepted { .. });
                self.transmit(end, Item::Reply(reply));
                match link.filter(|_| accepted) {
                    Some(link) => self.attach(driver, link, end),
                    None => {
                        driver.sockets.remove(&end);
                        self.close(end, false);
                    }
                }
            }
            LinkEffect::Close { link } => {
                if let Some(Peer { end: Some(end), .. }) = driver.peers.remove(&link) {
                    driver.sockets.remove(&end);
                    self.close(end, true);
                }
                driver.broken.retain(|other| *other != link);
            }
            LinkEffect::Disconnect { link } => {
                if let Some(end) = driver.peers.get(&link).and_then(|peer| peer.end) {
                    self.lose(driver, end);
                }
            }
        }
    }

    /// Makes this the link's connection; an older one is closed.
    fn attach(&mut self, driver: &mut Driver, link: LinkId, end: End) {
        let peer = driver.peers.entry(link).or_default();
        if let Some(old) = peer.end.replace(end) {
            driver.sockets.remove(&old);
            self.close(old, true);
            self.mark("a connection replaced another");
        }
        driver.broken.retain(|other| *other != link);
        if let Some(socket) = driver.sockets.get_mut(&end) {
            socket.role = Role::Of(link);
        }
        driver.unwritten.push(link);
    }

    /// Closes a connection that is of no use any more; the machine is told.
    fn lose(&mut self, driver: &mut Driver, end: End) {
        let Some(socket) = driver.sockets.remove(&end) else { return };
        self.close(end, true);
        let Role::Of(link) = socket.role else { return };
        driver.broken.push_back(link);
        if let Some(peer) = driver.peers.get_mut(&link) {
            peer.end = None;
            if let Some(dialing) = &mut peer.dialing {
                dialing.failures = if socket.proven { 0 } else { dialing.failures + 1 };
                dialing.refused = false;
            }
        }
    }

    fn take_broken(&mut self, id: MachineId, driver: &mut Driver) {
        while let Some(link) = driver.broken.pop_front() {
            self.step(id, driver, Input::Link(LinkInput::Disconnected { link }));
            if self.has_ended(id) {
                return;
            }
            self.redial(id, driver, link);
        }
    }

    /// Begins the next attempt to connect, if this is the side that does.
    fn redial(&mut self, id: MachineId, driver: &mut Driver, link: LinkId) {
        let Some(Peer { end: None, dialing: Some(dialing) }) = driver.peers.get_mut(&link) else { return };
        self.serial += 1;
        dialing.serial = self.serial;
        let delay = match dialing.failures {
            _ if dialing.refused => BACKOFF_REFUSED,
            0 => Duration::ZERO,
            n => (BACKOFF_MIN * (1 << (n - 1).min(10))).min(BACKOFF_MAX),
        };
        let at = self.now + delay + Duration::from_nanos(self.random.between(1_000, 100_000));
        self.schedule(at, Event::Dial(id, Failed { link, serial: self.serial }));
    }

    fn redial_failed(&mut self, id: MachineId, driver: &mut Driver, failed: Failed, refused: bool) {
        let peer = driver.peers.get_mut(&failed.link);
        let dialing = peer.and_then(|peer| peer.dialing.as_mut());
        if let Some(dialing) = dialing.filter(|dialing| dialing.serial == failed.serial) {
            dialing.failures += 1;
            dialing.refused = refused;
            self.redial(id, driver, failed.link);
        }
    }

    /// Reads what has arrived at an end; now and then only a part of it.
    fn read(&mut self, id: MachineId, driver: &mut Driver, end: End) {
        loop {
            if !driver.sockets.contains_key(&end) {
                return;
            }
            let (item, waiting) = self.network.read(end);
            if let Some(waiting) = waiting {
                self.tell_room(waiting, end.other());
            }
            let Some(item) = item else { return };
            match item {
                Item::Hello(hello) => {
                    let name = driver.next_name;
                    driver.next_name += 1;
                    driver.hellos.insert(name, end);
                    driver.sockets.get_mut(&end).expect("just seen").role = Role::Greeted(name);
                    let input = LinkInput::Hello { connection: name, hello };
                    self.step(id, driver, Input::Link(input));
                }
                Item::Reply(reply) => self.answered(id, driver, end, reply),
                Item::Bytes(bytes) => self.take_in(id, driver, end, &bytes),
                Item::End => return self.ended(id, driver, end),
            }
            if self.has_ended(id) {
                return;
            }
            if self.random.one_in(64) && self.network.is_readable(end) {
                driver.readable.insert(end);
                return;
            }
        }
    }

    /// The other end is closed, or as good as.
    pub(super) fn ended(&mut self, id: MachineId, driver: &mut Driver, end: End) {
        let Some(socket) = driver.sockets.get(&end) else { return };
        match socket.role {
            Role::Of(_) => self.lose(driver, end),
            Role::Dialed(link, serial) => {
                driver.sockets.remove(&end);
                self.close(end, false);
                self.redial_failed(id, driver, Failed { link, serial }, false);
            }
            Role::Accepted | Role::Greeted(_) => {
                driver.sockets.remove(&end);
                driver.hellos.retain(|_, other| *other != end);
                self.close(end, false);
            }
        }
    }

    /// The answer to a hello.
    fn answered(&mut self, id: MachineId, driver: &mut Driver, end: End, reply: HelloReply) {
        let Some(failed) = driver.awaits_answer(end) else { return };
        let link = failed.link;
        let current = driver.dialing(failed).is_some();
        match reply {
            HelloReply::Accepted { incarnation, received } if current => {
                self.attach(driver, link, end);
                let input = LinkInput::Connected { link, incarnation, received };
                self.step(id, driver, Input::Link(input));
            }
            HelloReply::Refused { temporary, reason } if current => {
                driver.sockets.remove(&end);
                self.close(end, false);
                let input = LinkInput::Refused { link, temporary, reason };
                // The attempt is over before the machine hears of it: it may close the link.
                self.step(id, driver, Input::Link(input));
                self.redial_failed(id, driver, failed, !temporary);
            }
            _ => {
                driver.sockets.remove(&end);
                self.close(end, true);
            }
        }
    }

    /// Steps the machine with the frames that are whole.
    fn take_in(&mut self, id: MachineId, driver: &mut Driver, end: End, bytes: &[u8]) {
        let Some(socket) = driver.sockets.get_mut(&end) else { return };
        let Role::Of(link) = socket.role else { return };
        let mut buffer = std::mem::take(&mut socket.partial);
        buffer.extend_from_slice(bytes);
        let mut rest = &buffer[..];
        loop {
            let header = match FrameHeader::parse(rest) {
                Ok(Some(header)) if rest.len() >= header.length => header,
                Ok(_) => break,
                Err(malformed) => panic!("{id} reads {malformed}"),
            };
            let payload = &rest[FRAME_HEADER..header.length];
            self.step(id, driver, Input::Link(LinkInput::Frame { link, header, payload }));
            if self.has_ended(id) {
                return;
            }
            rest = &rest[header.length..];
            let Some(socket) = driver.sockets.get_mut(&end) else { return };
            socket.proven = true;
        }
        let rest = rest.to_vec();
        if let Some(socket) = driver.sockets.get_mut(&end) {
            socket.partial = rest;
        }
    }

    /// Writes what the link has, as far as there is room; `part`: at most so many bytes.
    fn write(&mut self, driver: &mut Driver, id: LinkId, part: Option<usize>) {
        let Some(end) = driver.peers.get(&id).and_then(|peer| peer.end) else { return };
        let Some(socket) = driver.sockets.get_mut(&end) else { return };
        let Some(link) = driver.actor.links().writing(id) else { return };
        if socket.blocked {
            return;
        }
        let room = self.network.room(end).min(part.unwrap_or(usize::MAX));
        let mut bytes = Vec::new();
        let mut offered = 0;
        for piece in link.unwritten() {
            offered += piece.len();
            let step = piece.len().min(room - bytes.len());
            bytes.extend_from_slice(&piece[..step]);
        }
        if offered == 0 {
            return;
        }
        if part.is_none() && bytes.len() > 1 && self.random.one_in(200) {
            // The socket takes less than it is offered; the rest goes with the next turn.
            bytes.truncate(self.random.between(1, bytes.len() as u64 - 1) as usize);
            driver.unwritten.push(id);
        } else if bytes.len() < offered && part.is_none() {
            socket.blocked = true;
            self.network.await_room(end);
        }
        link.wrote(bytes.len());
        if !bytes.is_empty() {
            self.transmit(end, Item::Bytes(bytes));
        }
    }

    pub(super) fn transmit(&mut self, end: End, item: Item) {
        if let Some(due) = self.network.send(&mut self.random, self.now, end, item) {
            self.schedule(due, Event::Arrive(end.other()));
        }
    }

    /// This end closes. If it does not do so in order, the other end may lose what was on its way.
    pub(super) fn close(&mut self, end: End, abrupt: bool) {
        if abrupt && self.network.has_bytes(end) && self.random.one_in(3) {
            // Unread bytes: the system resets the connection.
            self.network.lose_in_flight(&mut self.random, end.other());
        }
        self.transmit(end, Item::End);
        self.network.close(end);
    }

    fn has_ended(&self, id: MachineId) -> bool {
        let process = &self.processes[id.process];
        process.life != id.life || process.state == State::Down || process.exit.is_some()
    }
}
