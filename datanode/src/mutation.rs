//! Deliberate faults of the protocol, one at a time: the simulator's checkers must find each of them.
//!
//! Rules that another rule covers are not here, as nothing shows without them: that an open write set is put to the
//! replicas of a new view (a buddy is not counted before it has all), and that a wounded transaction is remembered (its
//! operations do not add up any more). The model tells which these are, and why they are kept.

/// A fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mutation {
    /// A primary serves without a lease.
    IgnoreLease,
    /// A new primary does not wait until the old one's lease is over.
    SkipFence,
    /// A new primary serves before the other replicas have told what they have open.
    ServeBeforeReconciling,
    /// A write set is confirmed although no replica has it.
    CommitWithoutReplicas,
    /// The TC commits when the first participant is prepared.
    CommitOnFirstConfirmation,
    /// Who does not know a transaction says «aborted», and does not make sure of it.
    NotFoundMeansAborted,
    /// A new primary does not tell the other replicas what was decided.
    ForgetOutcomes,
    /// A participant prepares with fewer operations than the TC sent: read locks lost at a change of the primary.
    SkipOperationCount,
    /// An outcome is forgotten as soon as it is applied.
    ForgetOutcomeEarly,
    /// What a failed statement did at other participants stays.
    SkipUndo,
    /// Reads of a SERIALIZABLE transaction take no locks.
    SkipReadLocks,
    /// A joining node keeps rows that were deleted while it was away.
    KeepStrays,
    /// A committed read does not wait for a writer that may be committed already.
    ReadThroughPrepared,
    /// A step of a scan by index is answered whatever the view that the client knows.
    ScanUnderAnyView,
    /// An update leaves a row's entries in indexes as they are.
    SkipIndexAtUpdate,
    /// What a row had in a unique index stays there when it changes or goes.
    ForgetOldEntries,
    /// An index is asked before all rows are in it.
    AskUnbuiltIndex,
    /// What confirms a write set counts for another partition's with an equal number, which has got its slot.
    ConfirmBySlotAlone,
    /// An epoch is called durable once it is logged, flushed or not.
    DurableBeforeFlush,
    /// A client is told that an epoch is durable when it asks.
    AnswerBeforeDurable,
    /// What is restored goes one epoch too far.
    RestorePastCut,
    /// A checkpoint is valid though something in it is not durable.
    CheckpointTooNew,
    /// What a node copies counts as durable there once it is copied, flushed or not.
    UpBeforeDurable,
}

impl Mutation {
    /// All of them: each is found within a hundred seeds.
    pub const ALL: &[Mutation] = &[
        Mutation::IgnoreLease,
        Mutation::SkipFence,
        Mutation::ServeBeforeReconciling,
        Mutation::CommitWithoutReplicas,
        Mutation::CommitOnFirstConfirmation,
        Mutation::NotFoundMeansAborted,
        Mutation::ForgetOutcomes,
        Mutation::SkipOperationCount,
        Mutation::ForgetOutcomeEarly,
        Mutation::SkipUndo,
        Mutation::SkipReadLocks,
        Mutation::KeepStrays,
        Mutation::ReadThroughPrepared,
        Mutation::ScanUnderAnyView,
        Mutation::SkipIndexAtUpdate,
        Mutation::ForgetOldEntries,
        Mutation::AskUnbuiltIndex,
        Mutation::ConfirmBySlotAlone,
        Mutation::DurableBeforeFlush,
        Mutation::AnswerBeforeDurable,
        Mutation::RestorePastCut,
        Mutation::CheckpointTooNew,
        Mutation::UpBeforeDurable,
    ];
}
