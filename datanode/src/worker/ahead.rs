//! Looking ahead in a frame and in the tasks: what comes next is brought into the cache while what comes before it is
//! worked on. Nothing depends on it.
//!
//! It goes by groups, in two rounds: what is known at once of the group after the next, then, of the next group, what
//! stands in what the first round has brought meanwhile. At the primary these are the rows of reads and independent writes,
//! and what they will be kept in while they are under way; at a replica the write sets and rows that a decision makes current.

use std::ops::Range;

use smallvec::SmallVec;
use twofold_proto::{
    ids::PartitionId,
    link::{Message, Messages},
    message::{IndependentWrite, Kind},
    operation::OperationRef,
    wire::Reader,
};
use twofold_storage::{fragment::row_tag, store::Place};

use super::{Task, Worker, local::Local, replication::WriteSet, waits::Action};

/// Messages or tasks of a group.
pub(super) const GROUP: usize = 8;

/// What a message is about.
#[derive(Clone, Copy)]
enum Target {
    /// A write set that is new at this replica.
    NewSet(PartitionId),
    /// The write set of this number.
    WriteSet(PartitionId, u64),
    Read(Place),
    Write(Place),
}

impl Target {
    fn partition(&self) -> PartitionId {
        match self {
            Target::NewSet(partition) | Target::WriteSet(partition, _) => *partition,
            Target::Read(place) | Target::Write(place) => place.partition,
        }
    }

    fn place(&self) -> Option<Place> {
        match self {
            Target::Read(place) | Target::Write(place) => Some(*place),
            _ => None,
        }
    }
}

/// What a group of messages is about.
#[derive(Default)]
struct Group {
    targets: SmallVec<[Target; GROUP]>,
    writes: usize,
    new_sets: usize,
}

/// How far a frame is looked ahead in.
pub(super) struct Ahead<'a> {
    /// What follows the three groups.
    messages: Messages<'a>,
    current: Group,
    next: Group,
    after_next: Group,
}

impl<'a> Ahead<'a> {
    pub fn new(messages: Messages<'a>) -> Ahead<'a> {
        Ahead { messages, current: Group::default(), next: Group::default(), after_next: Group::default() }
    }

    fn advance(&mut self, worker: &Worker) {
        self.current = std::mem::take(&mut self.next);
        self.next = std::mem::take(&mut self.after_next);
        let group = &mut self.after_next;
        for message in self.messages.by_ref().take(GROUP) {
            let Some(target) = message.ok().and_then(|message| worker.target(&message)) else { continue };
            group.writes += usize::from(matches!(target, Target::Write(_)));
            group.new_sets += usize::from(matches!(target, Target::NewSet(_)));
            group.targets.push(target);
        }
    }
}

impl Worker {
    /// Begins to look ahead in a frame.
    pub(super) fn begin_ahead<'a>(&self, messages: &Messages<'a>) -> Ahead<'a> {
        let mut ahead = Ahead::new(messages.clone());
        self.look_ahead(&mut ahead);
        self.look_ahead(&mut ahead);
        ahead
    }

    /// Looks ahead by another group: to be called before each.
    pub(super) fn look_ahead(&self, ahead: &mut Ahead<'_>) {
        ahead.advance(self);
        let Ahead { current, next, after_next, .. } = ahead;
        self.prefetch_second(next, current.writes, current.new_sets);
        self.prefetch_first(after_next, current.writes + next.writes, current.new_sets + next.new_sets);
    }

    /// What is known at once. So many writes and new write sets come before these.
    fn prefetch_first(&self, group: &Group, writes: usize, new_sets: usize) {
        for target in &group.targets {
            if let Some(partition) = self.partitions.get(usize::from(target.partition().0)) {
                partition.prefetch();
            }
        }
        self.store.prefetch_entries(group.targets.iter().filter_map(Target::place));
        self.new_sets(group, writes + new_sets).for_each(WriteSet::prefetch);
        self.locals.next_recycled(writes, group.writes).for_each(Local::prefetch);
        self.locks.prefetch_free(writes, group.writes);
        for target in &group.targets {
            if let Target::WriteSet(partition, _) = target
                && let Some(state) = self.partitions.get(usize::from(partition.0))
            {
                state.open.iter().filter_map(|slot| self.write_sets.get(*slot)).for_each(WriteSet::prefetch);
            }
        }
    }

    /// What the first round has told.
    fn prefetch_second(&self, group: &Group, writes: usize, new_sets: usize) {
        self.store.prefetch_rows(group.targets.iter().filter_map(Target::place));
        // A primary encodes images in what a local has, a replica in what a write set has.
        self.locals.next_recycled(writes, group.writes).for_each(Local::prefetch_images);
        if group.new_sets > 0 {
            self.new_sets(group, writes + new_sets).for_each(WriteSet::prefetch_images);
        }
        let mut decided: SmallVec<[&WriteSet; GROUP]> = SmallVec::new();
        for target in &group.targets {
            if let Target::WriteSet(partition, number) = target
                && usize::from(partition.0) < self.partitions.len()
                && let Some(slot) = self.find_numbered(*partition, *number)
            {
                decided.extend(self.write_sets.get(slot));
            }
        }
        self.prefetch_of_sets(&decided);
    }

    fn new_sets(&self, group: &Group, skip: usize) -> impl Iterator<Item = &WriteSet> {
        self.write_sets.next_recycled(skip, group.writes + group.new_sets)
    }

    /// What is applied when these are decided.
    fn prefetch_of_sets(&self, sets: &[&WriteSet]) {
        sets.iter().for_each(|set| set.prefetch_images());
        let places = || sets.iter().filter_map(|set| set.place);
        self.store.prefetch_entries(places());
        self.store.prefetch_rows(places());
    }

    /// Looks ahead by another group of tasks: to be called before each. `first`: before the first.
    pub(super) fn look_ahead_in_tasks(&self, first: bool) {
        if first {
            self.prefetch_sets(0..2 * GROUP);
            self.prefetch_confirmed(0..GROUP);
        }
        self.prefetch_confirmed(GROUP..2 * GROUP);
        self.prefetch_sets(2 * GROUP..3 * GROUP);
    }

    fn confirmed_sets(&self, tasks: Range<usize>) -> impl Iterator<Item = &WriteSet> {
        let length = self.tasks.len();
        self.tasks.range(tasks.start.min(length)..tasks.end.min(length)).filter_map(|task| match task {
            Task::Done(Action::Confirm { slot, .. }) => self.write_sets.get(*slot),
            _ => None,
        })
    }

    /// The write sets that these tasks confirm.
    fn prefetch_sets(&self, tasks: Range<usize>) {
        self.confirmed_sets(tasks).for_each(WriteSet::prefetch);
    }

    /// Who holds their locks, the locks, and the rows that they make current.
    fn prefetch_confirmed(&self, tasks: Range<usize>) {
        let sets: SmallVec<[&WriteSet; GROUP]> = self.confirmed_sets(tasks).collect();
        let locals = || sets.iter().filter_map(|set| self.locals.get(set.local?));
        locals().for_each(Local::prefetch);
        self.prefetch_of_sets(&sets);
        self.locks.prefetch(locals().filter_map(|local| local.locks.first().copied()));
    }

    /// What a message is about. What is wrong with it shows when it is handled.
    fn target(&self, message: &Message<'_>) -> Option<Target> {
        let mut reader = Reader::new(message.body, "message");
        if message.kind == Kind::WriteSetReq as u8 {
            return Some(Target::NewSet(PartitionId(reader.u16().ok()?)));
        } else if message.kind == Kind::DecideOrd as u8 {
            return Some(Target::WriteSet(PartitionId(reader.u16().ok()?), reader.u64().ok()?));
        } else if message.kind == Kind::ReadReq as u8 {
            reader.u32().ok()?;
        } else if message.kind == Kind::WriteReq as u8 {
            IndependentWrite::parse(&mut reader).ok()?;
        } else {
            return None;
        }
        let operation = OperationRef::parse(&mut reader).ok()?;
        let schema = self.schemas.get(&operation.table)?;
        let partition = operation.hash.partition(self.config.partitions);
        let tag = row_tag(schema, &operation.hash, operation.key);
        let place = Place { table: operation.table, partition, tag };
        Some(if operation.writes() { Target::Write(place) } else { Target::Read(place) })
    }
}
