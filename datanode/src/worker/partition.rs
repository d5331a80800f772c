//! What a worker knows of one partition.

use std::collections::BTreeMap;

use smallvec::SmallVec;
use twofold_proto::{
    ids::{Endpoint, Epoch, NodeId, ViewNumber},
    links::LinkId,
    message::{Coordinator, DecideReq, Life, OutcomeReq, PrepareReq, ReplicaState},
    prefetch,
};

/// A partition as one worker sees it. Each operation looks at one of thousands, so what it needs is kept in two cache
/// lines.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Partition {
    /// Whether this worker is its primary, has reconciled it and serves it, but for the lease.
    pub serving: bool,
    /// Who its primary is, under the worker's view.
    pub primary: Option<Endpoint>,
    /// The view that made it so, as far as this worker has seen.
    pub changed: ViewNumber,
    /// Number of the newest write set.
    pub number: u64,
    /// Slots of its open write sets, by number.
    pub open: SmallVec<[u32; 4]>,
    /// Links to its other replicas, and what each gets and counts for.
    pub replicas: SmallVec<[(LinkId, Part); 1]>,
    /// What matters while it changes hands.
    pub handover: Box<Handover>,
}

/// What part another replica has in what happens to a partition, as its primary sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Part {
    /// It is joining and has not asked for a copy: it gets nothing.
    None,
    /// It is being copied to: it gets all that is new, and nobody waits for it.
    Gets,
    /// It has been sent all copies that it needs from this worker: transactions end, and epochs are done with, when it
    /// knows the decisions.
    Included,
    /// Commits count it.
    Counts,
}

impl Partition {
    /// Links to those replicas that have at least this part.
    pub fn replicas(&self, least: Part) -> impl Iterator<Item = LinkId> + '_ {
        self.replicas.iter().filter(move |(_, part)| *part >= least).map(|(link, _)| *link)
    }

    /// Has its cache lines brought into the cache; see [`super::ahead`].
    pub fn prefetch(&self) {
        prefetch::line(&self.serving);
        prefetch::line(&self.number);
        prefetch::line(&self.open);
        prefetch::line(&self.replicas);
    }
}

/// What a worker knows of a partition that changes hands.
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// The view in which this worker became its primary.
    pub since: ViewNumber,
    /// The other replicas whose word is missing before it can be served.
    pub missing: Vec<NodeId>,
    /// Their words, and under which view.
    pub states: BTreeMap<NodeId, (ViewNumber, ReplicaState)>,
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
    Copy(LinkId, Epoch),
}
