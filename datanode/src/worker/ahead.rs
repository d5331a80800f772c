//! Looking ahead in a frame: the rows that the next messages are about are brought into the cache, for a group of them
//! at once, so that their cache misses overlap. Nothing depends on it.
//!
//! At the primary these are the rows of reads and independent writes; at a replica those that a decision makes current.

use std::hint::black_box;

use twofold_proto::{
    ids::PartitionId,
    link::{Message, Messages},
    message::{IndependentWrite, Kind},
    operation::OperationRef,
    wire::Reader,
};
use twofold_storage::{fragment::row_tag, store::Place};

use super::{Task, Worker, waits::Action};

/// Messages that are looked at together.
pub(super) const GROUP: usize = 16;

/// What a message is about.
#[derive(Clone, Copy)]
enum Target {
    Nothing,
    Partition(PartitionId),
    /// The write set of this number.
    WriteSet(PartitionId, u64),
    Row(Place),
}

impl Worker {
    /// Touches the rows of the write sets that the next tasks confirm, and so make current.
    pub(super) fn look_ahead_in_tasks(&self) {
        let mut places = [Place::default(); GROUP];
        let mut count = 0;
        for task in self.tasks.iter().take(GROUP) {
            let Task::Done(Action::Confirm { slot, .. }) = task else { continue };
            if let Some(place) = self.write_sets.get(*slot).and_then(|write_set| write_set.place) {
                places[count] = place;
                count += 1;
            }
        }
        self.store.touch(&places[..count]);
    }

    /// Touches what the next messages are about: partitions, open write sets, rows.
    pub(super) fn look_ahead(&self, messages: &Messages<'_>) {
        let mut targets = [Target::Nothing; GROUP];
        for (target, message) in targets.iter_mut().zip(messages.clone().flatten()) {
            *target = self.target(&message).unwrap_or(Target::Nothing);
        }
        let mut seen = false;
        for target in &targets {
            let partition = match target {
                Target::Nothing => continue,
                Target::Partition(partition) | Target::WriteSet(partition, _) => *partition,
                Target::Row(place) => place.partition,
            };
            seen ^= self.partitions.get(usize::from(partition.0)).is_some_and(|state| state.serving);
        }
        black_box(seen);
        let mut places = [Place::default(); GROUP];
        let mut count = 0;
        for target in targets {
            let place = match target {
                Target::Row(place) => Some(place),
                Target::WriteSet(partition, number) => self.place_of(partition, number),
                Target::Nothing | Target::Partition(_) => None,
            };
            if let Some(place) = place {
                places[count] = place;
                count += 1;
            }
        }
        self.store.touch(&places[..count]);
    }

    fn place_of(&self, partition: PartitionId, number: u64) -> Option<Place> {
        self.partitions.get(usize::from(partition.0))?;
        self.write_sets.get(self.find_numbered(partition, number)?)?.place
    }

    /// What a message is about. What is wrong with it shows when it is handled.
    fn target(&self, message: &Message<'_>) -> Option<Target> {
        let mut reader = Reader::new(message.body, "message");
        if message.kind == Kind::WriteSetReq as u8 {
            return Some(Target::Partition(PartitionId(reader.u16().ok()?)));
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
        Some(Target::Row(Place { table: operation.table, partition, tag }))
    }
}
