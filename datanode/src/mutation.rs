//! Deliberate faults of the protocol, one at a time: the simulator's checkers must find each of them.

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
    /// An open write set is not put to the replicas that a new view counts, and a buddy counts before it has all.
    ConfirmForOldView,
    /// Who does not know a transaction says «aborted», and does not make sure of it.
    NotFoundMeansAborted,
    /// A new primary does not tell the other replicas what was decided.
    ForgetOutcomes,
    /// A participant prepares with fewer operations than the TC sent: read locks lost at a change of the primary.
    SkipOperationCount,
    /// A participant whose locks an older transaction took prepares all the same.
    ForgetWounded,
    /// A joining node keeps what it had of a partition whose primary changed.
    KeepStaleCopy,
    /// A committed read does not wait for a writer that may be committed already.
    ReadThroughPrepared,
}

impl Mutation {
    /// All of them.
    pub const ALL: &[Mutation] = &[
        Mutation::IgnoreLease,
        Mutation::SkipFence,
        Mutation::ServeBeforeReconciling,
        Mutation::CommitWithoutReplicas,
        Mutation::ConfirmForOldView,
        Mutation::NotFoundMeansAborted,
        Mutation::ForgetOutcomes,
        Mutation::SkipOperationCount,
        Mutation::ForgetWounded,
        Mutation::KeepStaleCopy,
        Mutation::ReadThroughPrepared,
    ];
}
