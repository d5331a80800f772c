//! Connections as TCP makes them: two pipes of bytes in order, with a window, latency, and every way to break.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use twofold_proto::{
    link::{Hello, HelloReply},
    random::Random,
    time::{Duration, Time},
};

use super::MachineId;

/// Bytes that one direction holds before the writer has to wait.
const WINDOW_BYTES: usize = 256 << 10;

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct End {
    connection: u64,
    /// The side that dialed is 0.
    side: u8,
}

impl End {
    /// The other end.
    pub fn other(self) -> End {
        End { side: 1 - self.side, ..self }
    }
}

/// What travels.
#[derive(Clone, PartialEq, Debug)]
pub enum Item {
    /// The first word of who dialed.
    Hello(Hello),
    /// The answer.
    Reply(HelloReply),
    /// Frames, cut anywhere.
    Bytes(Vec<u8>),
    /// The other end is closed.
    End,
}

impl Item {
    fn len(&self) -> usize {
        if let Item::Bytes(bytes) = self { bytes.len() } else { 0 }
    }
}

#[derive(Debug)]
struct Side {
    machine: MachineId,
    host: usize,
    open: bool,
    in_flight: VecDeque<(Time, Item)>,
    arrived: VecDeque<Item>,
    /// Bytes of both.
    bytes: usize,
    last_due: Time,
    /// Whoever writes to this side waits for room.
    awaited: bool,
    stalled: bool,
    /// Something on the way to this side was lost, so nothing that was sent after it arrives.
    torn: bool,
}

/// The network of all hosts.
#[derive(Debug, Default)]
pub struct Network {
    connections: BTreeMap<u64, [Side; 2]>,
    next: u64,
    /// From which host to which nothing gets through.
    blocked: BTreeSet<(usize, usize)>,
    /// How many times slower than usual it is from one host to another.
    slow: BTreeMap<(usize, usize), u64>,
    latencies: BTreeMap<(usize, usize), u64>,
}

impl Network {
    /// The delay of something from one host to another.
    pub fn latency(&mut self, random: &mut Random, from: usize, to: usize) -> Duration {
        let pair = (from.min(to), from.max(to));
        let base = *self.latencies.entry(pair).or_insert_with(|| random.between(10_000, 200_000));
        let mut nanos = base + random.below(base);
        if random.one_in(400) {
            nanos += random.below(8_000_000);
        }
        Duration::from_nanos(nanos * self.slow.get(&(from, to)).copied().unwrap_or(1))
    }

    /// Whether something may go from one host to another and back.
    pub fn is_open(&self, a: usize, b: usize) -> bool {
        !self.blocked.contains(&(a, b)) && !self.blocked.contains(&(b, a))
    }

    /// Nothing gets from one host to another any more.
    pub fn block(&mut self, from: usize, to: usize) {
        self.blocked.insert((from, to));
    }

    /// It is slow from one host to another.
    pub fn slow_down(&mut self, from: usize, to: usize, factor: u64) {
        self.slow.insert((from, to), factor);
    }

    /// Everything gets through again, as fast as ever. Returns the ends at which something waited.
    pub fn heal(&mut self) -> Vec<End> {
        self.slow.clear();
        let blocked = std::mem::take(&mut self.blocked);
        self.unstall(&blocked)
    }

    /// Heals these directions alone.
    pub fn unblock(&mut self, directions: &BTreeSet<(usize, usize)>) -> Vec<End> {
        for direction in directions {
            self.blocked.remove(direction);
            self.slow.remove(direction);
        }
        self.unstall(directions)
    }

    fn unstall(&mut self, directions: &BTreeSet<(usize, usize)>) -> Vec<End> {
        let mut waiting = Vec::new();
        for (&connection, sides) in &mut self.connections {
            for side in 0..2 {
                let direction = (sides[1 - side].host, sides[side].host);
                if directions.contains(&direction) && std::mem::take(&mut sides[side].stalled) {
                    waiting.push(End { connection, side: side as u8 });
                }
            }
        }
        waiting
    }

    /// Makes a connection; returns the end of who dialed.
    pub fn open(&mut self, dialer: (MachineId, usize), acceptor: (MachineId, usize)) -> End {
        let side = |(machine, host)| Side {
            machine,
            host,
            open: true,
            in_flight: VecDeque::new(),
            arrived: VecDeque::new(),
            bytes: 0,
            last_due: Time(0),
            awaited: false,
            stalled: false,
            torn: false,
        };
        self.next += 1;
        self.connections.insert(self.next, [side(dialer), side(acceptor)]);
        End { connection: self.next, side: 0 }
    }

    fn side(&mut self, end: End) -> Option<&mut Side> {
        Some(&mut self.connections.get_mut(&end.connection)?[usize::from(end.side)])
    }

    /// The machine at this end, while it is open.
    pub fn machine(&self, end: End) -> Option<MachineId> {
        let side = &self.connections.get(&end.connection)?[usize::from(end.side)];
        side.open.then_some(side.machine)
    }

    /// All connections between two hosts, by the end of who dialed.
    pub fn between(&self, a: usize, b: usize) -> Vec<End> {
        let is = |sides: &[Side; 2]| {
            let hosts = (sides[0].host, sides[1].host);
            hosts == (a, b) || hosts == (b, a)
        };
        let ends = self.connections.iter().filter(|(_, sides)| is(sides));
        ends.map(|(&connection, _)| End { connection, side: 0 }).collect()
    }

    /// All connections.
    pub fn all(&self) -> Vec<End> {
        self.connections.keys().map(|&connection| End { connection, side: 0 }).collect()
    }

    /// How many bytes can be written at this end now.
    pub fn room(&mut self, end: End) -> usize {
        self.side(end.other()).map_or(0, |side| WINDOW_BYTES.saturating_sub(side.bytes))
    }

    /// Has who writes at this end be told when there is room again.
    pub fn await_room(&mut self, end: End) {
        if let Some(side) = self.side(end.other()) {
            side.awaited = true;
        }
    }

    /// Sends something from this end. Returns when it is due at the other.
    pub fn send(&mut self, random: &mut Random, now: Time, from: End, item: Item) -> Option<Time> {
        let sides = self.connections.get(&from.connection)?;
        let (here, there) = (sides[usize::from(from.side)].host, sides[usize::from(1 - from.side)].host);
        let due = now + self.latency(random, here, there);
        let to = self.side(from.other()).filter(|side| side.open)?;
        if to.torn && item != Item::End {
            return None;
        }
        let due = due.max(to.last_due);
        to.last_due = due;
        to.bytes += item.len();
        to.in_flight.push_back((due, item));
        Some(due)
    }

    /// Something is due at this end: moves it there. Returns the machine that has it to read.
    pub fn arrive(&mut self, now: Time, end: End) -> Option<MachineId> {
        let sides = self.connections.get(&end.connection)?;
        let direction = (sides[usize::from(1 - end.side)].host, sides[usize::from(end.side)].host);
        let blocked = self.blocked.contains(&direction);
        let side = self.side(end).filter(|side| side.open)?;
        if blocked {
            side.stalled = true;
            return None;
        }
        let mut any = false;
        while side.in_flight.front().is_some_and(|(due, _)| *due <= now) {
            let (_, item) = side.in_flight.pop_front().expect("just seen");
            side.arrived.push_back(item);
            any = true;
        }
        any.then_some(side.machine)
    }

    /// The next item that has arrived; also the machine at the other end, if it waits for room.
    pub fn read(&mut self, end: End) -> (Option<Item>, Option<MachineId>) {
        let Some(side) = self.side(end) else { return (None, None) };
        let item = side.arrived.pop_front();
        side.bytes -= item.as_ref().map_or(0, Item::len);
        let awaited = side.bytes < WINDOW_BYTES / 2 && std::mem::take(&mut side.awaited);
        let waiting = if awaited { self.machine(end.other()) } else { None };
        (item, waiting)
    }

    /// Whether something can be read.
    pub fn is_readable(&mut self, end: End) -> bool {
        self.side(end).is_some_and(|side| !side.arrived.is_empty())
    }

    /// Loses what is on its way to this end, from anywhere on, and all that is sent after it.
    pub fn lose_in_flight(&mut self, random: &mut Random, end: End) {
        let Some(side) = self.side(end) else { return };
        side.torn = true;
        let total: usize = side.in_flight.iter().map(|(_, item)| item.len()).sum();
        let mut keep = random.below(total as u64 + 1) as usize;
        let mut kept = VecDeque::new();
        for (due, item) in std::mem::take(&mut side.in_flight) {
            match item {
                Item::Bytes(mut bytes) => {
                    bytes.truncate(keep);
                    keep -= bytes.len();
                    if !bytes.is_empty() {
                        kept.push_back((due, Item::Bytes(bytes)));
                    }
                }
                other => kept.push_back((due, other)),
            }
        }
        side.in_flight = kept;
        side.bytes = side.in_flight.iter().map(|(_, item)| item.len()).sum::<usize>()
            + side.arrived.iter().map(Item::len).sum::<usize>();
    }

    /// This end is gone; the other one does not know yet.
    pub fn close(&mut self, end: End) {
        let Some(sides) = self.connections.get_mut(&end.connection) else { return };
        let side = &mut sides[usize::from(end.side)];
        side.open = false;
        side.in_flight.clear();
        side.arrived.clear();
        side.bytes = 0;
        if sides.iter().all(|side| !side.open) {
            self.connections.remove(&end.connection);
        }
    }

    /// Whether bytes are on the way to this end, or wait there.
    pub fn has_bytes(&mut self, end: End) -> bool {
        self.side(end).is_some_and(|side| side.bytes > 0)
    }
}
