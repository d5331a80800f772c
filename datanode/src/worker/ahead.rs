//! Looking ahead in a client's frame: the rows that the next reads are about are brought into the cache, for a group of
//! them at once, so that their cache misses overlap. Nothing depends on it.
//!
//! Writes gain nothing from it: parsing them twice costs what is saved.

use twofold_proto::{
    ids::{PartitionId, TableId},
    link::{Message, Messages},
    message::Kind,
    operation::OperationRef,
    wire::Reader,
};
use twofold_storage::fragment::row_tag;

use super::Worker;

/// Messages that are looked at together.
pub(super) const GROUP: usize = 16;

/// Where a row is, if it is there.
#[derive(Clone, Copy)]
struct Place {
    table: TableId,
    partition: PartitionId,
    tag: u32,
}

impl Worker {
    /// Touches the rows that the next messages want to read.
    pub(super) fn look_ahead(&self, messages: &Messages<'_>) {
        let mut places = [None; GROUP];
        for (place, message) in places.iter_mut().zip(messages.clone().flatten()) {
            *place = self.place(&message);
            if let Some(Place { table, partition, tag }) = *place {
                self.store.touch_index(table, partition, tag);
            }
        }
        for Place { table, partition, tag } in places.into_iter().flatten() {
            self.store.touch_row(table, partition, tag);
        }
    }

    /// The row that a message wants to read. What is wrong with the message shows when it is handled.
    fn place(&self, message: &Message<'_>) -> Option<Place> {
        if message.kind != Kind::ReadReq as u8 {
            return None;
        }
        let mut reader = Reader::new(message.body, "ReadReq");
        reader.u32().ok()?;
        let operation = OperationRef::parse(&mut reader).ok()?;
        let schema = self.schemas.get(&operation.table)?;
        let partition = operation.hash.partition(self.config.partitions);
        let tag = row_tag(schema, &operation.hash, operation.key);
        Some(Place { table: operation.table, partition, tag })
    }
}
