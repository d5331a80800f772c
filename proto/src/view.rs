//! Membership: which data nodes are in, and in what state.

use serde::{Deserialize, Serialize};

use crate::{
    config::ClusterConfig,
    ids::{Epoch, Incarnation, NodeId, ViewNumber},
    limits::WORKERS_MAX,
};

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
    /// Its former life with whose rows, on disk, it began a system restart as `up`. Until its disk is its own, what stands
    /// there is that life's.
    pub restored: Option<Incarnation>,
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
    /// The views before it, the oldest first, [`HISTORY_MAX`] at most: who missed some must go through them one by one.
    pub history: Vec<PastView>,
    /// What system restarts went back to, the oldest first, [`CUTS_MAX`] at most.
    pub cuts: Vec<Cut>,
}

/// What a system restart went back to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Cut {
    /// The restart number from then on.
    pub restart: u16,
    /// The last epoch of before that counts: what was committed later never was. 0: nothing counts.
    pub epoch: Epoch,
}

/// How many system restarts a view remembers. A node that has missed more begins without its data.
pub const CUTS_MAX: usize = 64;

/// A view that another has followed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct PastView {
    /// Its number.
    pub number: ViewNumber,
    /// Its restart number.
    pub restart: u16,
    /// Its members.
    pub members: Vec<Member>,
}

/// How many past views a view tells.
pub const HISTORY_MAX: usize = 8;

impl View {
    /// The view that follows this one with these members.
    pub fn next(&self, restart: u16, members: Vec<Member>) -> View {
        let mut history = self.history.clone();
        if self.number.0 > 0 {
            history.push(PastView {
                number: self.number,
                restart: self.restart,
                members: self.members.clone(),
            });
        }
        let old = history.len().saturating_sub(HISTORY_MAX);
        history.drain(..old);
        View { number: ViewNumber(self.number.0 + 1), restart, members, history, cuts: self.cuts.clone() }
    }

    /// The first view after a system restart.
    ///
    /// # Panics
    /// Panics past 65,535 restarts.
    pub fn restarted(&self, epoch: Epoch, members: Vec<Member>) -> View {
        let restart = self.restart.checked_add(1).expect("fewer than 65,536 restarts");
        let mut view = self.next(restart, members);
        view.cuts.push(Cut { restart, epoch });
        let old = view.cuts.len().saturating_sub(CUTS_MAX);
        view.cuts.drain(..old);
        view
    }

    /// The newest epoch up to this one that system restarts have left.
    pub fn last_kept(&self, epoch: Epoch) -> Epoch {
        let later = self.cuts.iter().filter(|cut| cut.restart > epoch.restart());
        later.map(|cut| cut.epoch).min().map_or(epoch, |cut| epoch.min(cut))
    }

    /// Whether it tells of all system restarts after this epoch.
    pub fn knows_cuts_since(&self, epoch: Epoch) -> bool {
        self.cuts.len() < CUTS_MAX || self.cuts.iter().any(|cut| cut.restart <= epoch.restart() + 1)
    }

    /// Whether what was committed in this epoch was not undone by a system restart.
    pub fn keeps(&self, epoch: Epoch) -> bool {
        self.last_kept(epoch) == epoch
    }

    /// The views between one that is known and this one, this one last. `None` if some of them are forgotten.
    pub fn since(&self, known: ViewNumber) -> Option<Vec<View>> {
        let missed = self.history.iter().enumerate().filter(|(_, past)| past.number > known);
        let mut views: Vec<View> = missed
            .map(|(place, past)| View {
                number: past.number,
                restart: past.restart,
                members: past.members.clone(),
                history: self.history[..place].to_vec(),
                cuts: self.cuts.iter().copied().filter(|cut| cut.restart <= past.restart).collect(),
            })
            .collect();
        views.push(self.clone());
        (views[0].number.0 <= known.0 + 1).then_some(views)
    }

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

    /// Whether it can be a view of this config: a cheap check of what comes from outside.
    pub fn fits(&self, config: &ClusterConfig) -> bool {
        let known = |member: &Member| {
            config.data_node(member.node).is_some() && (1..=WORKERS_MAX).contains(&member.workers)
        };
        let fits = |members: &[Member]| {
            members.iter().all(known) && members.is_sorted_by(|one, other| one.node < other.node)
        };
        fits(&self.members)
            && self.history.len() <= HISTORY_MAX
            && self.history.iter().all(|past| past.number < self.number && fits(&past.members))
            && self.cuts.len() <= CUTS_MAX
            && self.cuts.is_sorted_by(|one, other| one.restart < other.restart)
    }

    /// The members that are `up`, by id.
    pub fn up_members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.state == MemberState::Up)
    }

    /// The data node that drives epochs: the lowest `up` id.
    pub fn president(&self) -> Option<NodeId> {
        self.up_members().next().map(|member| member.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_missed_some_views_goes_through_them() {
        let mut views = vec![View::default()];
        for number in 1..20u64 {
            let incarnation = Incarnation(number);
            let member =
                Member { node: NodeId(1), incarnation, state: MemberState::Up, workers: 1, restored: None };
            let next = views.last().unwrap().next(1, vec![member]);
            views.push(next);
        }
        let newest = views.last().unwrap();
        assert_eq!((newest.number, newest.history.len()), (ViewNumber(19), HISTORY_MAX));
        let missed = newest.since(ViewNumber(15)).unwrap();
        assert_eq!(missed.iter().map(|view| view.number.0).collect::<Vec<_>>(), [16, 17, 18, 19]);
        assert!(missed.iter().all(|view| view.members == views[view.number.0 as usize].members));
        let again = missed[1].since(ViewNumber(15)).unwrap();
        assert_eq!(again[0].number, ViewNumber(16), "a view that is passed on tells what was before it");
        assert_eq!(newest.since(ViewNumber(18)).unwrap(), std::slice::from_ref(newest));
        assert_eq!(newest.since(ViewNumber(3)), None);
    }
}
