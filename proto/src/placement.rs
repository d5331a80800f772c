//! Placement: one MD5 of the distribution key, one map from partitions to nodes and workers.
//!
//! The map is a pure function of config and view, the same everywhere. Replicas of a partition are the nodes of
//! its group; with i the partition's rank in its group of R nodes, their order starts at `i % R`, and the worker is
//! `(i / R) % workers`, whatever the role. The first `up` node in that order is the primary.

use crate::{
    config::ClusterConfig,
    ids::{Endpoint, GroupId, NodeId, PartitionId, WorkerId},
    view::{MemberState, View},
};

/// The MD5 of a distribution key. The first 8 bytes pick the partition, the last 8 seed the hash index inside it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct KeyHash(pub [u8; 16]);

impl KeyHash {
    /// Hashes the canonical encoding of a distribution key.
    pub fn of(distribution_key: &[u8]) -> KeyHash {
        KeyHash(md5::compute(distribution_key).0)
    }

    /// The partition, of `partitions`.
    pub fn partition(&self, partitions: u16) -> PartitionId {
        let (head, _) = self.0.split_first_chunk().expect("16 bytes hold 8");
        PartitionId((u64::from_be_bytes(*head) % u64::from(partitions)) as u16)
    }

    /// The seed of the hash index.
    pub fn index_seed(&self) -> u64 {
        let (_, tail) = self.0.split_last_chunk().expect("16 bytes hold 8");
        u64::from_be_bytes(*tail)
    }
}

/// The partitions of each group, by rank, for this many groups.
///
/// Adding a group takes partitions from the tails of the others alone, as few as make all even: what stays keeps
/// its rank, so its place.
pub fn partitions_of_groups(groups: usize, partitions: u16) -> Vec<Vec<PartitionId>> {
    assert!(groups > 0 && groups <= usize::from(partitions), "{groups} groups for {partitions} partitions");
    let mut result = vec![(0..partitions).map(PartitionId).collect::<Vec<_>>()];
    for count in 2..=groups {
        let mut added = Vec::new();
        let (share, remainder) = (usize::from(partitions) / count, usize::from(partitions) % count);
        for (place, group) in result.iter_mut().enumerate() {
            let keep = share + usize::from(place < remainder);
            added.extend(group.drain(keep.min(group.len())..));
        }
        result.push(added);
    }
    result
}

/// One replica of a partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Replica {
    /// Where it is.
    pub endpoint: Endpoint,
    /// What its node may do.
    pub state: MemberState,
}

/// Where a partition's replicas are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Placement {
    group: GroupId,
    /// In the partition's order; only members of the view.
    replicas: Vec<Replica>,
    primary: Option<Endpoint>,
}

/// Where every partition is, under one view.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartitionMap {
    placements: Vec<Placement>,
}

impl PartitionMap {
    /// The map of this config and view.
    pub fn new(config: &ClusterConfig, view: &View) -> PartitionMap {
        let mut placements = vec![Placement::default(); usize::from(config.partitions)];
        for (group, partitions) in partitions_of_groups(config.groups(), config.partitions).iter().enumerate()
        {
            let group = GroupId(group as u16);
            let nodes: Vec<NodeId> = config.group_nodes(group).collect();
            for (rank, partition) in partitions.iter().enumerate() {
                let replicas: Vec<Replica> = (0..nodes.len())
                    .filter_map(|step| view.member(nodes[(rank + step) % nodes.len()]))
                    .map(|member| {
                        let worker = (rank / nodes.len()) % usize::from(member.workers.max(1));
                        let endpoint = Endpoint::new(member.node, WorkerId(worker as u16));
                        Replica { endpoint, state: member.state }
                    })
                    .collect();
                let primary = replicas.iter().find(|replica| replica.state == MemberState::Up);
                let primary = primary.map(|replica| replica.endpoint);
                placements[usize::from(partition.0)] = Placement { group, replicas, primary };
            }
        }
        PartitionMap { placements }
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> u16 {
        self.placements.len() as u16
    }

    /// The worker that orders the partition's writes and answers its reads; none before the first view, or where
    /// the group has no `up` member.
    #[inline]
    pub fn primary(&self, partition: PartitionId) -> Option<Endpoint> {
        self.placements.get(usize::from(partition.0))?.primary
    }

    /// The partition's replicas in the view, whatever their state, in the partition's order.
    #[inline]
    pub fn replicas(&self, partition: PartitionId) -> &[Replica] {
        self.placements.get(usize::from(partition.0)).map_or(&[], |placement| &placement.replicas)
    }

    /// The partition's group.
    pub fn group(&self, partition: PartitionId) -> Option<GroupId> {
        Some(self.placements.get(usize::from(partition.0))?.group)
    }

    /// The partitions that have a replica at this worker.
    pub fn partitions_at(&self, endpoint: Endpoint) -> impl Iterator<Item = PartitionId> + '_ {
        (0..self.partitions()).map(PartitionId).filter(move |&partition| {
            self.replicas(partition).iter().any(|replica| replica.endpoint == endpoint)
        })
    }
}
