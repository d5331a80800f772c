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
    /// The last view of the generation before, which the register was rebuilt from; 0 in the first generation.
    pub rebuilt_from: ViewNumber,
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
    /// The view with the same members that a register begins with which is rebuilt from this one; none past 65,535
    /// rebuilds.
    pub fn rebuilt(&self) -> Option<View> {
        let number = self.number.next_generation()?;
        Some(View { number, rebuilt_from: self.number, ..self.next(self.restart, self.members.clone()) })
    }

    /// Whether a view of this number can have led to this one. If not, it was followed by others that were given up when
    /// the register was rebuilt.
    pub fn descends_from(&self, former: ViewNumber) -> bool {
        let (generation, of_former) = (self.number.generation(), former.generation());
        let last = match generation == of_former {
            true => self.number,
            false => self.rebuilt_from,
        };
        of_former == last.generation() && former <= last
    }

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
        View {
            number: self.number.next(),
            restart,
            members,
            history,
            cuts: self.cuts.clone(),
            rebuilt_from: self.rebuilt_from,
        }
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

    /// The views that this one tells of, itself last.
    pub fn told(&self) -> Vec<View> {
        let past = self.history.iter().enumerate().map(|(place, past)| View {
            number: past.number,
            restart: past.restart,
            members: past.members.clone(),
            history: self.history[..place].to_vec(),
            cuts: self.cuts.iter().copied().filter(|cut| cut.restart <= past.restart).collect(),
            rebuilt_from: match past.number.generation() == self.number.generation() {
                true => self.rebuilt_from,
                false => ViewNumber::default(),
            },
        });
        past.chain([self.clone()]).collect()
    }

    /// The views between one that is known and this one, this one last. `None` if some of them are forgotten, or if the known one
    /// did not lead here.
    pub fn since(&self, known: ViewNumber) -> Option<Vec<View>> {
        let mut views = self.told();
        let first = views.iter().position(|view| view.number > known)?;
        let follows = first > 0 && views[first - 1].number == known || views[first].number == known.next();
        views.drain(..first);
        follows.then_some(views)
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

    #[test]
    fn a_rebuilt_register_goes_on_from_the_view_that_it_was_rebuilt_from() {
        let member = Member {
            node: NodeId(1),
            incarnation: Incarnation(7),
            state: MemberState::Up,
            workers: 1,
            restored: None,
        };
        let known = (0..5).fold(View::default(), |view, _| view.next(1, vec![member]));
        let unheard_of = known.next(1, vec![]);
        let rebuilt = known.rebuilt().unwrap();
        assert_eq!((rebuilt.number.to_string(), rebuilt.rebuilt_from), ("1.1".into(), known.number));
        assert_eq!(rebuilt.since(known.number).unwrap(), std::slice::from_ref(&rebuilt));
        let numbers = |views: Vec<View>| views.iter().map(|view| view.number.to_string()).collect::<Vec<_>>();
        assert_eq!(numbers(rebuilt.since(ViewNumber(3)).unwrap()), ["4", "5", "1.1"]);
        assert_eq!(rebuilt.since(unheard_of.number), None, "a view that was given up leads nowhere");
        let next = rebuilt.next(1, vec![]);
        assert_eq!(numbers(next.since(known.number).unwrap()), ["1.1", "1.2"]);
        assert_eq!(next.since(unheard_of.number), None);
        for (former, leads_here) in [(known.number, true), (unheard_of.number, false), (rebuilt.number, true)]
        {
            assert_eq!(next.descends_from(former), leads_here, "{former}");
        }
        assert!(!known.descends_from(next.number) && known.descends_from(ViewNumber(2)));
        let again = next.rebuilt().unwrap();
        assert_eq!(again.number.to_string(), "2.1");
        // Of what came before the last but one nobody knows any more; it counts as given up.
        assert!(again.descends_from(next.number) && !again.descends_from(known.number));
    }
}
