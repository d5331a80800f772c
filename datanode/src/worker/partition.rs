//! What a worker knows of one partition.

use std::collections::{BTreeMap, VecDeque};

use twofold_proto::{
    ids::{Endpoint, NodeId, ViewNumber},
    links::LinkId,
    message::{Coordinator, DecideReq, Life, OutcomeReq, PrepareReq, ReplicaState},
};

/// A partition as one worker sees it.
#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Who its primary is, under the worker's view.
    pub primary: Option<Endpoint>,
    /// The view that made it so, as far as this worker has seen.
    pub changed: ViewNumber,
    /// Whether this worker is its primary, has reconciled it and serves it, but for the lease.
    pub serving: bool,
    /// The view in which this worker became its primary.
    pub since: ViewNumber,
    /// The other replicas whose word is missing before it can be served.
    pub missing: Vec<NodeId>,
    /// Their words, and under which view.
    pub states: BTreeMap<NodeId, (ViewNumber, ReplicaState)>,
    /// Links to its other replicas, whatever their state, and whether commits count them.
    pub replicas: Vec<(LinkId, bool)>,
    /// Number of the newest write set.
    pub number: u64,
    /// Slots of its open write sets, by number.
    pub open: VecDeque<u32>,
    /// What waits until it is served here.
    pub parked: Vec<Parked>,
    /// While this node is `syncing`: the life of the primary that it is copied from, once it is copied.
    pub copied_from: Option<Life>,
}

/// A message that waits until the partition is served.
#[derive(Debug)]
pub(super) enum Parked {
    Prepare(Coordinator, PrepareReq),
    Decide(Coordinator, DecideReq),
    Outcome(Option<LinkId>, OutcomeReq),
    Copy(LinkId),
}
