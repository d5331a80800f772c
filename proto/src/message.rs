//! The messages, named as NDB names them: REQ is answered by CONF or REF, ORD by nothing, REP reports.
//!
//! Those of the hot path are laid out by hand; the rest is bincode. The doc of each says who sends it to whom. What
//! they mean together is in `docs/transactions.md` and `docs/membership.md`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    config::ClusterConfig,
    error::{Error, ErrorCode},
    ids::{
        Endpoint, Epoch, Incarnation, IndexId, NodeId, PartitionId, TableId, TransactionId, ViewNumber,
        WorkerId,
    },
    link::Link,
    schema::{Index, Table},
    time::ClusterTime,
    unique::entries_table,
    view::View,
    wire::{Malformed, Reader, Writer},
};

mod scan;

pub use scan::{RangeConf, RangeReq, ScanConf, ScanReq};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        /// What a message is: the kind byte of its header.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// The kind of this number.
            pub fn from_number(number: u8) -> Result<Kind, Malformed> {
                match number {
                    $($number => Ok(Kind::$name),)*
                    _ => Err(Malformed("message kind")),
                }
            }
        }
    };
}

kinds! {
    /// Anyone to anyone, before the first message under a new view: a bincode [`View`].
    ViewOrd = 1;

    /// Client to TC: a [`TransactionReq`] and its operations.
    TransactionReq = 10;
    /// Client to primary: request number, then a Read operation without a transaction.
    ReadReq = 11;
    /// Client to primary: an [`IndependentWrite`] and its operation.
    WriteReq = 12;
    /// Client to primary: a [`ScanReq`].
    ScanReq = 13;
    /// Client to the TC, or to the primary of a participant if the TC is gone: a bincode [`StatusReq`].
    StatusReq = 14;
    /// Client to every worker: u64, the commit number up to which it has all answers.
    MarkOrd = 15;
    /// Client to every worker: it ends; nobody will ask for its outcomes.
    SessionEndOrd = 16;
    /// Client to the TC, or to the primary of an independent write: u64, the number of a transaction that nobody waits
    /// for any more. It is undone, unless Prepare was sent; the answer to its request says which.
    CancelOrd = 17;
    /// Client to a worker, best of the president's node: u64 epoch, which is wanted on all disks as soon as can be.
    DurableReq = 18;
    /// Client to primary: a [`RangeReq`].
    RangeReq = 19;

    /// TC to client: a [`TransactionConf`] and its results.
    TransactionConf = 20;
    /// TC to client: a bincode [`TransactionRef`].
    TransactionRef = 21;
    /// Primary to client, for an operation that has written nothing: u32 request number, then its result.
    OperationConf = 22;
    /// Primary to client, for an operation or scan that was not tried: u32 request number, u16 code, text.
    OperationRef = 23;
    /// Primary to client: a [`ScanConf`] and its rows.
    ScanConf = 24;
    /// TC or primary to client: a bincode [`StatusConf`].
    StatusConf = 25;
    /// Primary to client, for an independent write: u32 request number, u64 epoch of the commit, then the result.
    WriteConf = 26;
    /// The answer to `DurableReq`, each time that more epochs are on all disks until that one is: u64 the newest.
    DurableConf = 27;
    /// Primary to client: a [`RangeConf`] and its rows.
    RangeConf = 28;

    /// TC to primary: an [`ExecuteReq`] and its operations.
    ExecuteReq = 30;
    /// Primary to TC: an [`ExecuteConf`] and its results.
    ExecuteConf = 31;
    /// Primary to TC: a bincode [`ExecuteRef`].
    ExecuteRef = 32;
    /// TC to primary: a bincode [`UndoOrd`].
    UndoOrd = 33;
    /// Primary to TC: a bincode [`WoundOrd`].
    WoundOrd = 34;
    /// TC to primary: a bincode [`TransactionId`] that has ended without Prepare, or was refused.
    EndOrd = 35;
    /// TC to primary: a bincode [`PrepareReq`].
    PrepareReq = 36;
    /// Primary to TC: a bincode [`PrepareConf`].
    PrepareConf = 37;
    /// Primary to TC: a bincode [`PrepareRef`].
    PrepareRef = 38;
    /// TC to primary: a bincode [`DecideReq`].
    DecideReq = 39;
    /// Primary to TC: a bincode [`DecideConf`].
    DecideConf = 40;

    /// Primary to replica: a [`WriteSetHeader`] and its images.
    WriteSetReq = 41;
    /// Primary to replica: a [`DecideOrd`].
    DecideOrd = 42;
    /// Primary in doubt to the primary of another participant: a bincode [`OutcomeReq`].
    OutcomeReq = 43;
    /// The answer: a bincode [`OutcomeConf`].
    OutcomeConf = 44;
    /// Replica to new primary: a bincode [`ReplicaStateOrd`].
    ReplicaStateOrd = 45;
    /// Syncing replica to primary: u16 partition, u64 the epoch up to which it has the rows.
    CopyReq = 46;
    /// Primary to syncing replica: a bincode [`CopyBeginOrd`]; the open write sets and the rows follow.
    CopyBeginOrd = 47;
    /// Primary to syncing replica: u16 partition, a block of [`CopyRow`]s, u32 table and u64 tag of the first row that is not told
    /// of yet, then u64 fingerprints of rows that the replica has.
    CopyRowsOrd = 48;
    /// Primary to syncing replica: u16 partition, which is complete.
    CopyEndOrd = 49;
    /// Primary to syncing replica: it has all that it has to get a copy of from this worker. From here on epochs wait for it.
    IncludeOrd = 50;

    /// Node to node: u64 the sender's time when it sent it.
    HeartbeatReq = 60;
    /// The answer: that time.
    HeartbeatConf = 61;
    /// President to every node: a bincode [`EpochOrd`].
    EpochOrd = 62;
    /// Node to president: a bincode [`EpochDoneRep`].
    EpochDoneRep = 63;

    /// Data node to management nodes: a bincode [`ReportOrd`].
    ReportOrd = 70;
    /// Management node to all, at the start of a link and on change: a bincode [`ClusterConfig`].
    ConfigOrd = 71;
    /// Management node to all, at the start of a link and on change: a bincode [`Catalog`].
    CatalogOrd = 72;
    /// Client to management node: a bincode [`CatalogReq`].
    CatalogReq = 73;
    /// The answer: a bincode [`CatalogConf`].
    CatalogConf = 74;
    /// The angel of a data node to management nodes, or the node itself when it stops: a bincode [`GoneOrd`].
    GoneOrd = 75;
    /// Management node to management node: a Raft message in protobuf.
    RaftOrd = 76;
    /// Management leader to a node that may not join, or must stop: a bincode [`StopOrd`].
    StopOrd = 77;
    /// Management nodes to data nodes: a life that is provably gone, a bincode [`GoneOrd`].
    GoneRep = 78;
    /// Management node with an empty directory to another: what is it that I may have promised?
    VoterReq = 79;
    /// The answer.
    VoterConf = 80;
    /// Management leader without its register to a data node: what do you know of it?
    RegisterReq = 81;
    /// The answer: a bincode [`RegisterConf`].
    RegisterConf = 82;
}

/// Appends the bincode of a control message.
///
/// # Panics
/// Panics if the value cannot be serialized, which no type here can cause.
pub fn put_control<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    bincode::serde::encode_into_std_write(value, out, bincode::config::standard())
        .expect("our own types serialize into memory");
}

/// Reads the bincode of a control message. Memory is bounded by the message's length.
pub fn control<T: DeserializeOwned>(body: &[u8]) -> Result<T, Malformed> {
    let (value, read) = bincode::serde::decode_from_slice(body, bincode::config::standard())
        .map_err(|_| Malformed(std::any::type_name::<T>()))?;
    if read == body.len() { Ok(value) } else { Err(Malformed(std::any::type_name::<T>())) }
}

impl Link {
    /// Sends a control message.
    pub fn send_control<T: Serialize>(&mut self, kind: Kind, value: &T) {
        self.send(kind as u8, 0, |out| put_control(out, value));
    }
}

/// One life of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Life {
    /// The node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
}

/// Where a transaction's TC is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Coordinator {
    /// The worker.
    pub endpoint: Endpoint,
    /// Which life of its node.
    pub incarnation: Incarnation,
}

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// It is committed, in this epoch.
    Committed(Epoch),
    /// It has left and will leave nothing.
    Aborted,
}

/// A partition in which a transaction holds locks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Participant {
    /// The partition.
    pub partition: PartitionId,
    /// How many operations were sent to it since the transaction began, undone ones too. It only grows, so a
    /// primary that lost some has fewer.
    pub operations: u32,
}

/// [`TransactionReq`] flag: commit after the operations.
pub const COMMIT: u8 = 1;
/// [`TransactionReq`] flag: roll back.
pub const ROLLBACK: u8 = 2;
/// [`TransactionReq`] flag: every read is a locking read.
pub const SERIALIZABLE: u8 = 4;
/// [`TransactionReq`] flag: first undo all statements from `statement` on.
pub const UNDO: u8 = 8;
/// [`TransactionReq`] flag: the transaction begins here.
pub const BEGIN: u8 = 16;
/// [`ExecuteReq`] flag: what an operation refuses stands in its result, as that of an independent write, and is no error.
pub const ALONE: u8 = 32;

/// A statement of a transaction, or all of it. `operations` encoded operations follow (`crate::operation`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionReq {
    /// Comes back in the answer.
    pub request: u32,
    /// [`COMMIT`], [`ROLLBACK`], [`SERIALIZABLE`], [`UNDO`], [`BEGIN`].
    pub flags: u8,
    /// Second half of the transaction's id; the first is the link's peer.
    pub number: u64,
    /// Age for wound-wait: microseconds since 1970 when it was first begun; a retry keeps it.
    pub timestamp: u64,
    /// With [`COMMIT`]: the session's commit number.
    pub commit_number: u64,
    /// Number of this statement, ascending; with [`UNDO`] also the first one to undo.
    pub statement: u32,
    /// How many operations follow.
    pub operations: u16,
}

impl TransactionReq {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.request);
        out.put_u8(self.flags);
        out.put_u64(self.number);
        out.put_u64(self.timestamp);
        out.put_u64(self.commit_number);
        out.put_u32(self.statement);
        out.put_u16(self.operations);
    }

    /// Reads it; the operations are next.
    pub fn parse(reader: &mut Reader<'_>) -> Result<TransactionReq, Malformed> {
        Ok(TransactionReq {
            request: reader.u32()?,
            flags: reader.u8()?,
            number: reader.u64()?,
            timestamp: reader.u64()?,
            commit_number: reader.u64()?,
            statement: reader.u32()?,
            operations: reader.u16()?,
        })
    }

    /// Whether the flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A write that is a transaction of its own. The operation follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndependentWrite {
    /// Comes back in the answer.
    pub request: u32,
    /// Second half of the transaction's id.
    pub number: u64,
    /// Age for wound-wait.
    pub timestamp: u64,
    /// The session's commit number.
    pub commit_number: u64,
}

impl IndependentWrite {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.request);
        out.put_u64(self.number);
        out.put_u64(self.timestamp);
        out.put_u64(self.commit_number);
    }

    /// Reads it; the operation is next.
    pub fn parse(reader: &mut Reader<'_>) -> Result<IndependentWrite, Malformed> {
        Ok(IndependentWrite {
            request: reader.u32()?,
            number: reader.u64()?,
            timestamp: reader.u64()?,
            commit_number: reader.u64()?,
        })
    }
}

/// What state a transaction is in after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum TransactionState {
    /// It goes on.
    Open = 0,
    /// It is committed.
    Committed = 1,
    /// It is aborted.
    Aborted = 2,
}

/// The answer to a statement. `results` results follow, each a u32 length and the result, in the operations' order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionConf {
    /// The request's number.
    pub request: u32,
    /// What became of the transaction.
    pub state: TransactionState,
    /// The epoch of the commit, if committed.
    pub epoch: Epoch,
    /// How many results follow.
    pub results: u16,
}

impl TransactionConf {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.request);
        out.put_u8(self.state as u8);
        out.put_u64(self.epoch.0);
        out.put_u16(self.results);
    }

    /// Reads it; the results are next.
    pub fn parse(reader: &mut Reader<'_>) -> Result<TransactionConf, Malformed> {
        let request = reader.u32()?;
        let state = match reader.u8()? {
            0 => TransactionState::Open,
            1 => TransactionState::Committed,
            2 => TransactionState::Aborted,
            _ => return Err(Malformed("transaction state")),
        };
        Ok(TransactionConf { request, state, epoch: Epoch(reader.u64()?), results: reader.u16()? })
    }
}

/// A statement failed. It is undone; the transaction may be open still.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TransactionRef {
    /// The request's number.
    pub request: u32,
    /// `Open` or `Aborted`.
    pub state: TransactionState,
    /// Index of the operation that failed, if one did.
    pub operation: Option<u16>,
    /// Why.
    pub error: Error,
}

/// Appends an [`Kind::OperationRef`].
pub fn put_operation_ref(out: &mut Vec<u8>, request: u32, error: &Error) {
    out.put_u32(request);
    out.put_u16(error.code as u16);
    out.put(error.text.as_bytes());
}

/// Reads an [`Kind::OperationRef`].
pub fn operation_ref(body: &[u8]) -> Result<(u32, Error), Malformed> {
    let mut reader = Reader::new(body, "OperationRef");
    let request = reader.u32()?;
    let code = ErrorCode::from_number(reader.u16()?).ok_or(Malformed("OperationRef"))?;
    let text = std::str::from_utf8(reader.rest()).map_err(|_| Malformed("OperationRef"))?;
    Ok((request, Error::new(code, text)))
}

/// What became of a transaction?
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusReq {
    /// Comes back in the answer.
    pub request: u32,
    /// The transaction.
    pub transaction: TransactionId,
    /// Its commit number.
    pub commit_number: u64,
    /// Where the client sent it.
    pub coordinator: Coordinator,
    /// The partition that is asked; one that the transaction may have locked.
    pub partition: PartitionId,
    /// The client's epoch when it asked for the commit.
    pub epoch: Epoch,
    /// The TC has answered [`Status::Disowned`].
    pub disowned: bool,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusConf {
    /// The request's number.
    pub request: u32,
    /// What became of it.
    pub status: Status,
}

/// What became of a transaction, as far as the one who was asked can say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Status {
    /// Decided.
    Decided(Outcome),
    /// Still open at its TC.
    Pending,
    /// So old that it has been forgotten: the session had confirmed the answer.
    Finished,
    /// Not asked at the right place under the newest view: look again and ask again.
    AskElsewhere,
    /// Its TC has nothing of it, and will not take it from now on: what the partition's primary knows is all there is.
    Disowned,
}

/// Operations of a statement for the partitions of one worker. `operations` times a u16 index in the statement and
/// the operation follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExecuteReq {
    /// The transaction.
    pub transaction: TransactionId,
    /// Its age.
    pub timestamp: u64,
    /// The statement.
    pub statement: u32,
    /// [`SERIALIZABLE`], [`ALONE`].
    pub flags: u8,
    /// How many operations follow.
    pub operations: u16,
}

impl ExecuteReq {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_transaction(out, self.transaction);
        out.put_u64(self.timestamp);
        out.put_u32(self.statement);
        out.put_u8(self.flags);
        out.put_u16(self.operations);
    }

    /// Reads it; the operations are next.
    pub fn parse(reader: &mut Reader<'_>) -> Result<ExecuteReq, Malformed> {
        Ok(ExecuteReq {
            transaction: transaction(reader)?,
            timestamp: reader.u64()?,
            statement: reader.u32()?,
            flags: reader.u8()?,
            operations: reader.u16()?,
        })
    }
}

/// The answer. `results` times a u16 index in the statement, a u32 length and the result follow, then the entries of unique indexes
/// that are to be changed ([`crate::unique::EntryChange`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExecuteConf {
    /// The transaction.
    pub transaction: TransactionId,
    /// The statement.
    pub statement: u32,
    /// How many results follow.
    pub results: u16,
}

impl ExecuteConf {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_transaction(out, self.transaction);
        out.put_u32(self.statement);
        out.put_u16(self.results);
    }

    /// Reads it; the results are next.
    pub fn parse(reader: &mut Reader<'_>) -> Result<ExecuteConf, Malformed> {
        Ok(ExecuteConf {
            transaction: transaction(reader)?,
            statement: reader.u32()?,
            results: reader.u16()?,
        })
    }
}

/// A primary could not run its part of a statement.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExecuteRef {
    /// The transaction.
    pub transaction: TransactionId,
    /// The statement.
    pub statement: u32,
    /// Index of the operation that failed, if one did.
    pub operation: Option<u16>,
    /// Whether the transaction can go on after the statement is undone.
    pub open: bool,
    /// Why.
    pub error: Error,
}

/// Undo all statements from this one on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UndoOrd {
    /// The transaction.
    pub transaction: TransactionId,
    /// The first statement to undo.
    pub statement: u32,
}

/// An older transaction took the locks away.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WoundOrd {
    /// The transaction that is to abort.
    pub transaction: TransactionId,
    /// «deadlock», with table and key.
    pub error: Error,
}

/// Hold these operations' effects and locks for good.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PrepareReq {
    /// The transaction.
    pub transaction: TransactionId,
    /// The session's commit number.
    pub commit_number: u64,
    /// Whether nothing was written anywhere: check the locks, release them, leave no trace.
    pub read_only: bool,
    /// The TC's epoch.
    pub epoch: Epoch,
    /// All participants, by partition.
    pub participants: Vec<Participant>,
    /// Those that this message is for, by partition.
    pub partitions: Vec<PartitionId>,
}

/// Prepared, on all replicas that count.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PrepareConf {
    /// The transaction.
    pub transaction: TransactionId,
    /// The partition.
    pub partition: PartitionId,
    /// The epoch of the write set.
    pub stamp: Epoch,
}

/// Not prepared, and never will be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PrepareRef {
    /// The transaction.
    pub transaction: TransactionId,
    /// The partition.
    pub partition: PartitionId,
    /// Why.
    pub error: Error,
}

/// What became of a prepared transaction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DecideReq {
    /// The transaction.
    pub transaction: TransactionId,
    /// Commit or abort.
    pub outcome: Outcome,
    /// Which partitions this is for.
    pub partitions: Vec<PartitionId>,
}

/// The partition's replicas know the decision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DecideConf {
    /// The transaction.
    pub transaction: TransactionId,
    /// The partition.
    pub partition: PartitionId,
}

/// Appends a transaction's id.
pub fn put_transaction(out: &mut Vec<u8>, transaction: TransactionId) {
    out.put_u64(transaction.session.0);
    out.put_u64(transaction.number);
}

/// Reads a transaction's id.
pub fn transaction(reader: &mut Reader<'_>) -> Result<TransactionId, Malformed> {
    Ok(TransactionId { session: Incarnation(reader.u64()?), number: reader.u64()? })
}

/// Head of a write set; participants and images follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteSetHeader {
    /// The partition.
    pub partition: PartitionId,
    /// The write set's number in it.
    pub number: u64,
    /// The transaction.
    pub transaction: TransactionId,
    /// The session's commit number.
    pub commit_number: u64,
    /// The TC.
    pub coordinator: Coordinator,
    /// The TC's epoch when it sent Prepare.
    pub prepared: Epoch,
    /// The primary's epoch when it stamped the write set.
    pub stamp: Epoch,
    /// A planted refusal: there are no images, and the transaction can't be prepared here any more.
    pub refusal: bool,
    /// How many participants follow, 6 bytes each.
    pub participants: u16,
    /// How many images follow.
    pub images: u32,
}

impl WriteSetHeader {
    /// Appends it; the participants are next.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.partition.0);
        out.put_u64(self.number);
        put_transaction(out, self.transaction);
        out.put_u64(self.commit_number);
        out.put_u16(self.coordinator.endpoint.node.0);
        out.put_u16(self.coordinator.endpoint.worker.0);
        out.put_u64(self.coordinator.incarnation.0);
        out.put_u64(self.prepared.0);
        out.put_u64(self.stamp.0);
        out.put_u8(u8::from(self.refusal));
        out.put_u16(self.participants);
        out.put_u32(self.images);
    }

    /// Reads it; the participants are next.
    pub fn parse(reader: &mut Reader<'_>) -> Result<WriteSetHeader, Malformed> {
        Ok(WriteSetHeader {
            partition: PartitionId(reader.u16()?),
            number: reader.u64()?,
            transaction: transaction(reader)?,
            commit_number: reader.u64()?,
            coordinator: Coordinator {
                endpoint: Endpoint::new(NodeId(reader.u16()?), WorkerId(reader.u16()?)),
                incarnation: Incarnation(reader.u64()?),
            },
            prepared: Epoch(reader.u64()?),
            stamp: Epoch(reader.u64()?),
            refusal: reader.u8()? != 0,
            participants: reader.u16()?,
            images: reader.u32()?,
        })
    }
}

impl Participant {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.partition.0);
        out.put_u32(self.operations);
    }

    /// Reads it.
    pub fn parse(reader: &mut Reader<'_>) -> Result<Participant, Malformed> {
        Ok(Participant { partition: PartitionId(reader.u16()?), operations: reader.u32()? })
    }
}

/// What a write set does to one key: the row after it, or its absence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Image<'a> {
    /// The table.
    pub table: TableId,
    /// The schema version of `body`.
    pub schema_version: u16,
    /// The tag in the hash index.
    pub tag: u32,
    /// The encoded primary key.
    pub key: &'a [u8],
    /// The row without its key and when it expires (0: never); `None`: deleted.
    pub row: Option<(ClusterTime, &'a [u8])>,
}

impl<'a> Image<'a> {
    /// Bytes of an encoded image beyond its key and its body, at most.
    pub const HEADER_BYTES: usize = 27;

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.table.0);
        out.put_u16(self.schema_version);
        out.put_u32(self.tag);
        out.put_u8(u8::from(self.row.is_some()));
        out.put_block(self.key);
        if let Some((expiry, body)) = self.row {
            out.put_u64(expiry.0);
            out.put_block(body);
        }
    }

    /// Reads it.
    pub fn parse(reader: &mut Reader<'a>) -> Result<Image<'a>, Malformed> {
        let table = TableId(reader.u32()?);
        let schema_version = reader.u16()?;
        let tag = reader.u32()?;
        let present = reader.u8()? != 0;
        let key = reader.block()?;
        let row = if present { Some((ClusterTime(reader.u64()?), reader.block()?)) } else { None };
        Ok(Image { table, schema_version, tag, key, row })
    }
}

/// What became of a write set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecideOrd {
    /// The partition.
    pub partition: PartitionId,
    /// The write set's number in it.
    pub number: u64,
    /// Its transaction.
    pub transaction: TransactionId,
    /// Commit or abort.
    pub outcome: Outcome,
}

impl DecideOrd {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.partition.0);
        out.put_u64(self.number);
        put_transaction(out, self.transaction);
        match self.outcome {
            Outcome::Committed(epoch) => {
                out.put_u8(1);
                out.put_u64(epoch.0);
            }
            Outcome::Aborted => out.put_u8(0),
        }
    }

    /// Reads it.
    pub fn parse(body: &[u8]) -> Result<DecideOrd, Malformed> {
        let mut reader = Reader::new(body, "DecideOrd");
        let partition = PartitionId(reader.u16()?);
        let number = reader.u64()?;
        let transaction = transaction(&mut reader)?;
        let outcome = match reader.u8()? {
            1 => Outcome::Committed(Epoch(reader.u64()?)),
            0 => Outcome::Aborted,
            _ => return Err(Malformed("DecideOrd")),
        };
        reader.finish()?;
        Ok(DecideOrd { partition, number, transaction, outcome })
    }
}

/// Someone is in doubt about a transaction whose TC is gone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OutcomeReq {
    /// The transaction.
    pub transaction: TransactionId,
    /// The session's commit number.
    pub commit_number: u64,
    /// Its TC, which the asker knows to be gone.
    pub coordinator: Coordinator,
    /// The TC's epoch when it sent Prepare.
    pub prepared: Epoch,
    /// The participant that is asked.
    pub asked: PartitionId,
    /// The participant that is in doubt.
    pub asking: PartitionId,
}

/// What a participant knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OutcomeConf {
    /// The transaction.
    pub transaction: TransactionId,
    /// The participant that was asked.
    pub asked: PartitionId,
    /// The participant that is in doubt.
    pub asking: PartitionId,
    /// What it knows.
    pub known: Known,
}

/// What a participant knows of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Known {
    /// Prepared in this epoch, on all replicas that count.
    Prepared(Epoch),
    /// Decided.
    Decided(Outcome),
}

/// A replica has adopted a view that changed primaries, and serves their partitions no more if it did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaStateOrd {
    /// The view.
    pub view: ViewNumber,
    /// Each partition whose primary the receiver now is.
    pub partitions: Vec<(PartitionId, ReplicaState)>,
}

/// What a replica knows of a partition's write sets.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReplicaState {
    /// Those that are open here: number and transaction.
    pub open: Vec<(u64, TransactionId)>,
    /// What became of others lately: of all that may be open at some replica still.
    pub decided: Vec<(u64, TransactionId, Outcome)>,
    /// Whether more is said of the partition in a later message.
    pub goes_on: bool,
}

/// A partition's copy begins, or that goes on: outcomes, in as many messages as they need. Open write sets follow, then
/// rows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyBeginOrd {
    /// The partition.
    pub partition: PartitionId,
    /// The number of the newest write set.
    pub number: u64,
    /// The outcomes that somebody may yet ask for.
    pub outcomes: Vec<KeptOutcome>,
    /// The commit numbers up to which sessions have all answers: their outcomes may be missing. With the first message.
    pub marks: Vec<(Incarnation, u64)>,
    /// The newest epoch of which an outcome was forgotten that its session had not confirmed.
    pub forgotten: Epoch,
}

/// What became of a transaction, as a replica keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeptOutcome {
    /// The epoch in which Prepare was sent.
    pub prepared: Epoch,
    /// Number of the write set.
    pub number: u64,
    /// The transaction.
    pub transaction: TransactionId,
    /// The session's commit number.
    pub commit_number: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// A row that is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyRow<'a> {
    /// The table.
    pub table: TableId,
    /// The schema version of `body`.
    pub schema_version: u16,
    /// The tag in the hash index.
    pub tag: u32,
    /// The epoch of its last commit.
    pub epoch: Epoch,
    /// Low bits of the write set's number.
    pub number: u32,
    /// When it expires; 0: never.
    pub expiry: ClusterTime,
    /// The encoded primary key.
    pub key: &'a [u8],
    /// The rest.
    pub body: &'a [u8],
}

impl<'a> CopyRow<'a> {
    /// What it does to its key.
    pub fn image(&self) -> Image<'a> {
        let row = Some((self.expiry, self.body));
        Image { table: self.table, schema_version: self.schema_version, tag: self.tag, key: self.key, row }
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.table.0);
        out.put_u16(self.schema_version);
        out.put_u32(self.tag);
        out.put_u64(self.epoch.0);
        out.put_u32(self.number);
        out.put_u64(self.expiry.0);
        out.put_block(self.key);
        out.put_block(self.body);
    }

    /// Reads it.
    pub fn parse(reader: &mut Reader<'a>) -> Result<CopyRow<'a>, Malformed> {
        Ok(CopyRow {
            table: TableId(reader.u32()?),
            schema_version: reader.u16()?,
            tag: reader.u32()?,
            epoch: Epoch(reader.u64()?),
            number: reader.u32()?,
            expiry: ClusterTime(reader.u64()?),
            key: reader.block()?,
            body: reader.block()?,
        })
    }
}

/// An epoch begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpochOrd {
    /// The view in which the sender is president.
    pub view: ViewNumber,
    /// The epoch.
    pub epoch: Epoch,
    /// The newest complete one.
    pub complete: Epoch,
    /// The newest that is on the disks of all members that are `ready` or `up`.
    pub durable: Epoch,
    /// Commits up to this epoch wait for the disks: what they wait for is to be done at once.
    pub wanted: Epoch,
    /// Whether some disk cannot keep up: writes are to be refused.
    pub congested: bool,
    /// Whether it is the last: nobody serves any more, and no epoch follows.
    pub last: bool,
    /// Cluster time.
    pub time: ClusterTime,
}

/// What a node is done with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpochDoneRep {
    /// Under which view.
    pub view: ViewNumber,
    /// The newest epoch that all its workers are done with.
    pub epoch: Epoch,
    /// The newest of which it has everything on disk.
    pub durable: Epoch,
    /// Whether its disk cannot keep up.
    pub congested: bool,
    /// Whether its workers have stopped serving for good: it ends once what it has is durable.
    pub stopped: bool,
}

/// What a data node knows, for the leader's decisions. Sent every `heartbeat_ms` and when something changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReportOrd {
    /// Who reports.
    pub life: Life,
    /// How many workers it runs.
    pub workers: u16,
    /// The newest view that it has adopted.
    pub view: ViewNumber,
    /// The newest version of the catalog that all its workers have adopted.
    pub catalog: u64,
    /// The newest version of the catalog whose indexes all its workers have built.
    pub indexed: u64,
    /// Whether some worker has no memory to build an index on.
    pub index_full: bool,
    /// The lives of data nodes in its view that it heard of within `failure_ms`, itself not among them.
    pub hears: Vec<Life>,
    /// Syncing: the view under which all its partitions are copied from their primaries.
    pub copied: Option<ViewNumber>,
    /// Up: the `ready` buddies that all its workers count, and that have all it sent them before.
    pub counts: Vec<Life>,
    /// Whether it wants to leave.
    pub leaving: bool,
    /// Whether what it knows to be durable in the cluster, from the president under this view, is on its disk too.
    pub durable: bool,
    /// What it can restore from its disk.
    pub restorable: Option<Restorable>,
    /// Whether it was told to begin without what its directory has.
    pub initial: bool,
}

/// What stands on a data node's disk. The default: nothing, of nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Restorable {
    /// The life whose rows these are.
    pub life: Incarnation,
    /// The last complete epoch of which all stands there.
    pub complete: Epoch,
    /// The newest view that this life had adopted.
    pub view: ViewNumber,
    /// The version of its catalog.
    pub catalog: u64,
}

/// A life of a data node has ended, or is about to for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GoneOrd {
    /// Which.
    pub life: Life,
}

/// The schemas.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Catalog {
    /// Grows with every change.
    pub version: u64,
    /// The tables, by id.
    pub tables: Vec<Table>,
    /// The id of the next table or index.
    pub next_table: u32,
}

impl Catalog {
    /// All tables of which there are rows: those of unique indexes' entries, too.
    pub fn stored(&self) -> impl Iterator<Item = Cow<'_, Table>> {
        self.tables.iter().flat_map(|table| {
            let entries = table.indexes.iter().filter_map(entries_table);
            std::iter::once(Cow::Borrowed(table)).chain(entries.map(Cow::Owned))
        })
    }

    /// The table of this name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }
}

/// What a data node knows of the register, from its memory or its disk, whatever is newer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RegisterConf {
    /// The newest view.
    pub view: View,
    /// The newest catalog.
    pub catalog: Catalog,
    /// Whether it has ever been in a view, as far as it remembers: it is in this one, or its disk has rows of a life that was
    /// in one. A directory that is empty or damaged remembers nothing.
    pub took_part: bool,
    /// The config that it goes by.
    pub config: ClusterConfig,
}

/// A change of the catalog.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CatalogReq {
    /// Comes back in the answer.
    pub request: u32,
    /// What to do.
    pub change: CatalogChange,
}

/// A change of the catalog.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CatalogChange {
    /// Create this table; id and version are filled in.
    CreateTable(Table),
    /// Drop the table of this name.
    DropTable(String),
    /// Give a table an index, which is built while reads and writes go on; id and state are filled in.
    CreateIndex {
        /// The table's name.
        table: String,
        /// The index.
        index: Index,
    },
    /// Drop an index, built or not.
    DropIndex {
        /// The table's name.
        table: String,
        /// The index's name, whatever the case of its letters.
        index: String,
    },
    /// From the management leader alone: the build of an index is over.
    EndBuild {
        /// The index.
        index: IndexId,
        /// Whether it can be asked now. Else it is dropped: some data node has no memory for it.
        built: bool,
    },
}

/// Whether it was done. By then every `up` data node knows the new catalog.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CatalogConf {
    /// The request's number.
    pub request: u32,
    /// The catalog's version with the change, or why not.
    pub result: Result<u64, Error>,
}

/// A node may not join, or is to stop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StopOrd {
    /// The life that is meant.
    pub life: Life,
    /// Whether its angel starts it again.
    pub restart: bool,
    /// Why.
    pub error: Error,
}

/// Everything that a management node publishes, as its gRPC hands it out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Published {
    /// The config.
    pub config: ClusterConfig,
    /// The newest view.
    pub view: View,
    /// The catalog.
    pub catalog: Catalog,
}
