//! Calls: messages that await an answer. A call's slot is its request number, and it is not used again before the
//! worker has answered or the link is gone; so an answer never meets another's call.

use twofold_proto::{
    error::Error,
    ids::{Epoch, IndexId, PartitionId, TableId, ViewNumber},
    links::LinkId,
    operation::OperationKind,
    prefetch,
    time::Time,
    wire::Malformed,
};

use crate::request::{Durability, TransactionToken};

use super::{Bounds, NEVER};

/// So many calls before its turn one is brought into the cache.
pub(super) const AHEAD: usize = 8;
/// Longer lists of those who share a read are not kept in free slots.
const SPARE_SHARERS_MAX: usize = 16;

/// Who is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// Nobody, any more or ever.
    Nobody,
    /// Who submitted a single operation under this token.
    Operation(u64),
    /// A batch, of its operation.
    Part { batch: u32, operation: u16 },
    /// Who submitted a request under this token.
    Request(u64),
    /// A step of a scan by index, of one worker's answer.
    Piece(u32),
}

/// How far a call is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The slot is free.
    Free,
    /// Nothing of it is under way, and nothing of it has been applied.
    New,
    /// Sent over this link; not answered.
    Sent(LinkId),
    /// Not applied; sent again at this time, or with the next view.
    Waiting(Time),
    /// Its outcome was asked for over this link.
    Asking(LinkId),
    /// Its outcome is asked for at this time, or with the next view.
    AskLater(Time),
    /// Committed in this epoch, which is to be durable before it is answered.
    Held(Epoch),
}

/// A request for a TC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Statement {
    /// The frontend's name of the interactive transaction; none for one in one request.
    pub handle: Option<u64>,
    /// Those of [`TransactionReq`]. With [`BEGIN`] the call's partition says where to; else the token's TC is asked.
    pub flags: u8,
    pub number: u32,
    /// How many the body holds.
    pub operations: u16,
    /// With [`COMMIT`]: whether anything was written. If not, an outcome leaves no trace and there is none to ask for.
    pub writes: bool,
}

impl Statement {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// A committed read.
    Read,
    /// A write that is a transaction of its own.
    Write(OperationKind),
    Statement(Statement),
    /// A step of a scan; the program is the body.
    Scan {
        table: TableId,
        schema_version: u32,
        cursor: u64,
        rows: u32,
    },
    /// A step of a scan by index, of a partition or of all that have its primary under a view; the body is the message.
    Range {
        table: TableId,
        schema_version: u32,
        index: IndexId,
        view: Option<ViewNumber>,
    },
    /// A frontend's question for the outcome of a transaction: the token's.
    Question,
}

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    pub work: Work,
    pub owner: Owner,
    /// Who else is told: owners of equal reads; see `operations`.
    pub sharers: Vec<Owner>,
    pub stage: Stage,
    pub deadline: Time,
    pub durability: Durability,
    /// Where it is sent.
    pub partition: PartitionId,
    pub attempts: u32,
    /// Why it waits.
    pub(super) error: Option<Box<Error>>,
    /// Encoded operations, or a program.
    pub body: Vec<u8>,
    /// Age of the transaction: the same at each attempt.
    pub timestamp: u64,
    /// Of a write or statement: what it is known by. The partition is the one to be asked.
    pub token: TransactionToken,
    /// The token's commit number waits for its answer.
    pub committing: bool,
    /// Its TC has nothing of it: the partition's primary is asked.
    pub disowned: bool,
    /// Its worker was told to give it up.
    pub(super) cancelled: bool,
}

/// All calls, by slot.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) slots: Vec<Call>,
    pub(super) free: Vec<u32>,
    pub(super) bytes: usize,
    /// Of all calls.
    pub(super) sharers: usize,
}

impl Calls {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether another one would be within these bounds.
    pub fn has_room(&self, bounds: &Bounds) -> bool {
        self.len() + self.sharers < bounds.calls && self.bytes < bounds.bytes
    }

    /// Has another owner told what the call's owner is told.
    pub fn share(&mut self, slot: u32, owner: Owner) {
        self.slots[slot as usize].sharers.push(owner);
        self.sharers += 1;
    }

    /// Takes from a call those who are told; [`Calls::put_back`] takes the list back.
    pub fn take_owners(&mut self, slot: u32) -> (Owner, Vec<Owner>) {
        let call = &mut self.slots[slot as usize];
        self.sharers -= call.sharers.len();
        (std::mem::replace(&mut call.owner, Owner::Nobody), std::mem::take(&mut call.sharers))
    }

    /// Keeps a list's memory.
    pub fn put_back(&mut self, slot: u32, mut sharers: Vec<Owner>) {
        sharers.clear();
        sharers.shrink_to(SPARE_SHARERS_MAX);
        self.slots[slot as usize].sharers = sharers;
    }

    /// All who are told of calls.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        self.iter().flat_map(|(_, call)| std::iter::once(call.owner).chain(call.sharers.iter().copied()))
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Call)> {
        let slots = self.slots.iter().enumerate().map(|(slot, call)| (slot as u32, call));
        slots.filter(|(_, call)| call.stage != Stage::Free)
    }

    /// Whether anybody waits for an answer.
    pub fn has_owned(&self) -> bool {
        self.iter().any(|(_, call)| call.owner != Owner::Nobody)
    }

    #[inline]
    pub fn get(&self, slot: u32) -> &Call {
        &self.slots[slot as usize]
    }

    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> &mut Call {
        &mut self.slots[slot as usize]
    }

    /// The call that this is the answer to.
    #[inline]
    pub fn answered(&self, request: u32, expected: Stage) -> Result<&Call, Malformed> {
        let call = self.slots.get(request as usize).filter(|call| call.stage == expected);
        call.ok_or(Malformed("request number of an answer"))
    }

    /// Has a call brought into the cache, if it is there.
    pub fn prefetch(&self, slot: u32) {
        if let Some(call) = self.slots.get(slot as usize) {
            prefetch::line(&call.work);
            prefetch::line(&call.owner);
            prefetch::line(&call.stage);
            prefetch::line(&call.body);
            prefetch::line(&call.token.transaction);
            prefetch::line(&call.token.commit_number);
            prefetch::line(&call.cancelled);
        }
    }

    pub(super) fn take(&mut self) -> u32 {
        // The one that will be taken before long, and the body of one that has come meanwhile.
        let mut next = self.free.iter().rev().copied();
        let soon = next.nth(AHEAD / 2);
        let later = next.nth(AHEAD / 2);
        if let Some(call) = soon.and_then(|slot| self.slots.get(slot as usize)) {
            prefetch::lines(&call.body);
        }
        if let Some(slot) = later {
            self.prefetch(slot);
        }
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(Call {
                work: Work::Read,
                owner: Owner::Nobody,
                sharers: Vec::new(),
                stage: Stage::Free,
                deadline: NEVER,
                durability: Durability::Memory,
                partition: PartitionId(0),
                attempts: 0,
                error: None,
                body: Vec::new(),
                timestamp: 0,
                token: TransactionToken::default(),
                committing: false,
                disowned: false,
                cancelled: false,
            });
            (self.slots.len() - 1) as u32
        })
    }
}
