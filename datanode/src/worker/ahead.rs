//! Looking ahead in a frame: what the next messages are about is brought into the cache, for a group of them
//! at once, so that their cache misses overlap. Nothing depends on it.
//!
//! At the primary these are the rows of reads and independent writes, and what they will be kept in while they are under
//! way; at a replica the write sets and rows that a decision makes current.

use std::hint::black_box;

use smallvec::SmallVec;
use twofold_proto::{
    ids::PartitionId,
    link::{Message, Messages},
    message::{IndependentWrite, Kind},
    operation::OperationRef,
    wire::Reader,
};
use twofold_storage::{fragment::row_tag, store::Place};

use super::{Task, Worker, partition::Partition, query::Local, replication::WriteSet, waits::Action};

/// Messages that are looked at together.
pub(super) const GROUP: usize = 16;

/// What a message is about.
#[derive(Clone, Copy)]
enum Target {
    Nothing,
    /// A write set that is new at this replica.
    NewSet(PartitionId),
    /// The write set of this number.
    WriteSet(PartitionId, u64),
    Read(Place),
    Write(Place),
}

/// Has all of this read, in one short loop.
fn touch(what: impl Iterator<Item = usize>) {
    black_box(what.fold(0, |seen, read| seen ^ read));
}

impl Worker {
    /// Touches the write sets that the next tasks confirm, who holds their locks, and the rows that they make current.
    pub(super) fn look_ahead_in_tasks(&self) {
        let mut sets: SmallVec<[&WriteSet; GROUP]> = SmallVec::new();
        for task in self.tasks.iter().take(GROUP) {
            let Task::Done(Action::Confirm { slot, .. }) = task else { continue };
            sets.extend(self.write_sets.get(*slot));
        }
        touch(sets.iter().map(|set| set.touch()));
        let locals = || sets.iter().filter_map(|set| self.locals.get(set.local?));
        touch(locals().map(Local::touch));
        touch(sets.iter().map(|set| set.touch_images()));
        self.locks.touch(locals().filter_map(|local| local.locks.first().copied()));
        self.touch_rows(sets.iter().filter_map(|set| set.place));
    }

    fn touch_rows(&self, places: impl Iterator<Item = Place>) {
        let places: SmallVec<[Place; GROUP]> = places.collect();
        self.store.touch(&places);
    }

    /// Touches what the next messages are about: partitions, open write sets, rows; and what new ones will be kept in.
    pub(super) fn look_ahead(&self, messages: &Messages<'_>) {
        let mut targets = [Target::Nothing; GROUP];
        for (target, message) in targets.iter_mut().zip(messages.clone().flatten()) {
            *target = self.target(&message).unwrap_or(Target::Nothing);
        }
        let (mut seen, mut writes, mut new_sets) = (0, 0, 0);
        for target in &targets {
            let partition = match target {
                Target::Nothing => continue,
                Target::NewSet(partition) | Target::WriteSet(partition, _) => *partition,
                Target::Read(place) | Target::Write(place) => place.partition,
            };
            seen ^= self.partitions.get(usize::from(partition.0)).map_or(0, Partition::touch);
            writes += usize::from(matches!(target, Target::Write(_)));
            new_sets += usize::from(matches!(target, Target::NewSet(_)));
        }
        black_box(seen);
        let sets = || self.write_sets.next_recycled(writes + new_sets);
        let locals = || self.locals.next_recycled(writes);
        touch(sets().map(WriteSet::touch));
        touch(locals().map(Local::touch));
        self.locks.touch_free(writes);
        // A primary encodes images in what a local has, a replica in what a write set has.
        touch(locals().map(Local::touch_images));
        touch(sets().take(new_sets).map(WriteSet::touch_images));
        let mut decided: SmallVec<[&WriteSet; GROUP]> = SmallVec::new();
        for target in targets {
            if let Target::WriteSet(partition, number) = target {
                decided.extend(self.numbered(partition, number));
            }
        }
        touch(decided.iter().map(|set| set.touch()));
        touch(decided.iter().map(|set| set.touch_images()));
        let asked = targets.into_iter().filter_map(|target| match target {
            Target::Read(place) | Target::Write(place) => Some(place),
            _ => None,
        });
        self.touch_rows(asked.chain(decided.iter().filter_map(|set| set.place)));
    }

    fn numbered(&self, partition: PartitionId, number: u64) -> Option<&WriteSet> {
        self.partitions.get(usize::from(partition.0))?;
        self.write_sets.get(self.find_numbered(partition, number)?)
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
