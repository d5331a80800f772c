//! Membership: which data nodes are in, and in what state.

use serde::{Deserialize, Serialize};

use crate::ids::{Incarnation, NodeId, ViewNumber};

/// What a member of a view may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum MemberState {
    /// Gets every write and counts for nothing.
    Syncing,
    /// Counted by its buddies for commits and leases, but serves nothing.
    Ready,
    /// Does all.
    Up,
}

/// One data node in a view.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its id in the config.
    pub node: NodeId,
    /// The life of it that is meant; another life is not in the view.
    pub incarnation: Incarnation,
    /// What it may do.
    pub state: MemberState,
    /// How many workers it runs, 1 at least.
    pub workers: u16,
}

/// A numbered membership: an entry of the register. Void there if its predecessor is not the newest.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct View {
    /// Its number; 0 is the view before the first, without members.
    pub number: ViewNumber,
    /// How many system restarts there were; the restart number of epochs.
    pub restart: u16,
    /// The members, by ascending node id.
    pub members: Vec<Member>,
}

impl View {
    /// The member with this id.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// Whether exactly this life of the node is a member.
    pub fn contains(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.member(node).is_some_and(|member| member.incarnation == incarnation)
    }

    /// The member's state, if exactly this life of the node is a member.
    pub fn state(&self, node: NodeId, incarnation: Incarnation) -> Option<MemberState> {
        self.member(node).filter(|member| member.incarnation == incarnation).map(|member| member.state)
    }

    /// Whether commits and leases count this node: `ready` or `up`.
    pub fn counts(&self, node: NodeId) -> bool {
        self.member(node).is_some_and(|member| member.state >= MemberState::Ready)
    }

    /// Whether the node is `up`.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.member(node).is_some_and(|member| member.state == MemberState::Up)
    }

    /// The data node that drives epochs: the lowest `up` id.
    pub fn president(&self) -> Option<NodeId> {
        self.members.iter().find(|member| member.state == MemberState::Up).map(|member| member.node)
    }
}
