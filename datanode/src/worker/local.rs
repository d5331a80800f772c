//! What a transaction has at a worker: locks, pending versions, and the statement that is under way.

use std::ops::Range;

use smallvec::SmallVec;
use twofold_proto::{
    ids::{PartitionId, TransactionId, Version},
    links::LinkId,
    message::{Coordinator, Image},
    prefetch,
    row::RowRef,
    schema::Schema,
    time::Time,
    wire::Reader,
};
use twofold_storage::{evaluate::CurrentRow, lock::LockId};

/// Where a local transaction came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Origin {
    /// An independent write of a client: this worker is its TC, and there is no other participant.
    Independent { client: LinkId, request: u32, commit_number: u64 },
    /// A worker's own, to free an expired row.
    #[default]
    Housekeeping,
    /// A transaction that this coordinator drives.
    Coordinated(Coordinator),
}

impl Origin {
    /// The client of an independent write.
    pub fn client(&self) -> Option<LinkId> {
        match self {
            Origin::Independent { client, .. } => Some(*client),
            _ => None,
        }
    }
}

/// What a transaction is in one partition of this worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LocalPartition {
    pub partition: PartitionId,
    /// Operations that may take locks, undone ones too.
    pub operations: u32,
    /// Once prepared: the slot of its write set.
    pub write_set: Option<u32>,
}

/// A pending version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PendingWrite {
    pub statement: u32,
    pub lock: LockId,
    pub partition: PartitionId,
    /// Where its image is in [`Local::images`].
    pub from: u32,
    pub to: u32,
    /// The key's pending version before this one.
    pub previous: Option<u32>,
}

impl PendingWrite {
    pub fn image(&self) -> Range<usize> {
        self.from as usize..self.to as usize
    }
}

/// A statement under way.
#[derive(Debug, Default)]
pub(super) struct Statement {
    pub number: u32,
    pub serializable: bool,
    /// What its operation refuses stands in the result.
    pub alone: bool,
    /// Operations left; each after a u16 index, but for independent writes.
    pub left: u16,
    /// Results so far: u16 index, u32 length, result.
    pub results: Vec<u8>,
    pub done: u16,
    /// What its operations do to entries of unique indexes.
    pub entries: Option<Box<Changes>>,
    /// What it waits for, if it does: few do.
    pub waits: Option<Box<Waiting>>,
}

/// Changes of entries, encoded (`twofold_proto::unique`).
#[derive(Debug, Default)]
pub(super) struct Changes(pub Vec<u8>);

/// A statement that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub wait: Wait,
    /// When that is too long.
    pub deadline: Time,
    /// The operations that are left, from the one that waits on.
    pub operations: Vec<u8>,
}

impl Statement {
    pub fn wait(&self) -> Option<Wait> {
        self.waits.as_ref().map(|waiting| waiting.wait)
    }

    /// Bytes that are held for it while it waits.
    pub fn held(&self) -> usize {
        self.waits.as_ref().map_or(0, |waiting| waiting.operations.len() + self.results.len())
    }
}

/// What a statement waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    Lock(LockId),
    /// The decision on a write of a row that it reads without a lock; the observer's ticket.
    Decision(u64),
}

/// What a transaction has at this worker. Most have one of each, which is kept in place: many are under way at once.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Local {
    pub id: TransactionId,
    pub timestamp: u64,
    pub origin: Origin,
    pub partitions: SmallVec<[LocalPartition; 1]>,
    pub locks: SmallVec<[LockId; 4]>,
    pub writes: SmallVec<[PendingWrite; 1]>,
    /// Of all pending versions, encoded, in order; until they go into a write set as they are.
    pub images: Vec<u8>,
    /// So many bytes of them count in the worker's pending ones.
    pub bytes: usize,
    pub statement: Option<Statement>,
    pub prepared: bool,
    /// The result of an independent write, until it is decided.
    pub result: Vec<u8>,
}

impl Local {
    pub fn reset(&mut self, id: TransactionId, timestamp: u64, origin: Origin) {
        (self.id, self.timestamp, self.origin) = (id, timestamp, origin);
        (self.statement, self.prepared, self.bytes) = (None, false, 0);
        self.partitions.clear();
        self.locks.clear();
        self.writes.clear();
        self.images.clear();
    }

    /// Has its cache lines brought into the cache; see [`super::ahead`].
    pub fn prefetch(&self) {
        prefetch::line(&self.id);
        prefetch::line(&self.partitions);
        prefetch::line(&self.locks);
        prefetch::line(&self.writes);
        prefetch::line(&self.images);
        prefetch::line(&self.statement);
        prefetch::line(&self.result);
        prefetch::line(&self.bytes);
        prefetch::line(&self.prepared);
    }

    /// Likewise the images.
    pub fn prefetch_images(&self) {
        prefetch::lines(&self.images);
    }

    /// Whether a statement waits.
    pub fn is_waiting(&self) -> bool {
        self.statement.is_some()
    }

    pub fn age(&self) -> (u64, TransactionId) {
        (self.timestamp, self.id)
    }

    pub fn is_independent(&self) -> bool {
        !matches!(self.origin, Origin::Coordinated(_))
    }

    /// Whether its statement waits for a lock or a decision.
    pub fn waits(&self) -> bool {
        self.statement.as_ref().is_some_and(|statement| statement.waits.is_some())
    }

    pub fn count_operation(&mut self, partition: PartitionId) {
        match self.partitions.iter_mut().find(|local| local.partition == partition) {
            Some(local) => local.operations += 1,
            None => self.partitions.push(LocalPartition { partition, operations: 1, write_set: None }),
        }
    }

    /// The row as a pending version of this transaction has it.
    pub fn pending_row<'a>(
        &'a self,
        pending: u32,
        schema: &'a Schema,
        key: &'a [u8],
    ) -> Option<CurrentRow<'a>> {
        let image = &self.images[self.writes[pending as usize].image()];
        let image = Image::parse(&mut Reader::new(image, "image")).expect("written here");
        let (expiry, body) = image.row?;
        let schema_version = image.schema_version.into();
        let row = RowRef::new(schema, schema_version, key, body).expect("evaluated here");
        Some(CurrentRow { row, schema_version, version: Version::default(), expiry })
    }

    pub fn hold(&mut self, lock: LockId) {
        if !self.locks.contains(&lock) {
            self.locks.push(lock);
        }
    }
}

const _: () = assert!(size_of::<Local>() <= 256, "what is under way is kept in few cache lines");
