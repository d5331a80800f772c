//! Looking ahead in a frame: the rows that the next messages are about are brought into the cache, for a group of them
//! at once, so that their cache misses overlap. Nothing depends on it.
//!
//! At the primary these are the rows of reads and independent writes; at a replica those that a decision makes current.

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

    /// Touches the rows that the next messages are about.
    pub(super) fn look_ahead(&self, messages: &Messages<'_>) {
        let mut places = [Place::default(); GROUP];
        let mut count = 0;
        for message in messages.clone().flatten().take(GROUP) {
            if let Some(place) = self.place(&message) {
                places[count] = place;
                count += 1;
            }
        }
        self.store.touch(&places[..count]);
    }

    /// The row that a message is about. What is wrong with the message shows when it is handled.
    fn place(&self, message: &Message<'_>) -> Option<Place> {
        let mut reader = Reader::new(message.body, "message");
        if message.kind == Kind::DecideOrd as u8 {
            let (partition, number) = (PartitionId(reader.u16().ok()?), reader.u64().ok()?);
            if usize::from(partition.0) >= self.partitions.len() {
                return None;
            }
            return self.write_sets.get(self.find_numbered(partition, number)?)?.place;
        }
        if message.kind == Kind::ReadReq as u8 {
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
        Some(Place { table: operation.table, partition, tag })
    }
}
