//! What the register knows of views: the newest one, and what later views have to respect.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use twofold_proto::{
    config::ClusterConfig,
    ids::{GroupId, Incarnation, NodeId, ViewNumber},
    message::Life,
    view::{Member, MemberState, View},
};

/// How many dropped lives are remembered for each node.
const DROPPED_MAX: usize = 64;

/// The views of the register, as far as the next one depends on them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Membership {
    view: View,
    /// The view in which the `up` lives of a group, and so the primaries of its partitions, changed last.
    settled: BTreeMap<GroupId, ViewNumber>,
    /// Lives that were in a view and are no more, oldest first. They never come back: a link is a pair of lives.
    dropped: BTreeMap<NodeId, VecDeque<Incarnation>>,
    /// The members that were `up` in the last view with members: what they had on disk is the cluster's data.
    up_before: Vec<Member>,
}

impl Membership {
    /// For tests: as if views had led here.
    #[cfg(test)]
    pub fn of(
        view: View,
        settled: impl IntoIterator<Item = (GroupId, ViewNumber)>,
        dropped: &[Life],
        config: &ClusterConfig,
    ) -> Membership {
        assert!(view.members.iter().all(|member| config.group_of(member.node).is_some()));
        let up = view.up_members().copied();
        let (settled, up_before) = (settled.into_iter().collect(), up.collect());
        let mut membership = Membership { view, settled, up_before, ..Membership::default() };
        for life in dropped {
            membership.dropped.entry(life.node).or_default().push_back(life.incarnation);
        }
        membership
    }

    /// For tests: as if these had been `up` in the last view with members.
    #[cfg(test)]
    pub fn with_up_before(self, members: &[Member]) -> Membership {
        Membership { up_before: members.to_vec(), ..self }
    }

    /// As if the views that this one tells of had led here.
    pub fn rebuilt(config: &ClusterConfig, view: &View) -> Membership {
        let mut membership = Membership::default();
        for view in view.told() {
            let predecessor = membership.view.number;
            membership.apply(config, predecessor, view);
        }
        membership
    }

    /// The members that were `up` in the last view with members.
    pub fn up_before(&self) -> &[Member] {
        &self.up_before
    }

    /// The newest view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Since which view the partitions of the group have had the primaries that they have now.
    pub fn settled(&self, group: GroupId) -> ViewNumber {
        self.settled.get(&group).copied().unwrap_or_default()
    }

    /// Whether a view has dropped this life.
    pub fn was_dropped(&self, life: Life) -> bool {
        self.dropped.get(&life.node).is_some_and(|lives| lives.contains(&life.incarnation))
    }

    /// Takes over a view, unless it is void: its predecessor is not the newest. Returns whether it was taken.
    pub fn apply(&mut self, config: &ClusterConfig, predecessor: ViewNumber, view: View) -> bool {
        if predecessor != self.view.number || view.number <= predecessor {
            return false;
        }
        for group in (0..config.groups()).map(|group| GroupId(group as u16)) {
            let up = |view: &View| -> Vec<Life> {
                config.group_nodes(group).filter_map(|node| life_up(view, node)).collect()
            };
            if up(&self.view) != up(&view) {
                self.settled.insert(group, view.number);
            }
        }
        for member in &self.view.members {
            if !view.contains(member.node, member.incarnation) {
                let lives = self.dropped.entry(member.node).or_default();
                lives.push_back(member.incarnation);
                if lives.len() > DROPPED_MAX {
                    lives.pop_front();
                }
            }
        }
        if !view.members.is_empty() {
            let up = view.up_members();
            self.up_before = up.copied().collect();
        }
        self.view = view;
        true
    }
}

fn life_up(view: &View, node: NodeId) -> Option<Life> {
    let member = view.member(node).filter(|member| member.state == MemberState::Up)?;
    Some(Life { node, incarnation: member.incarnation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, view};

    #[test]
    fn a_view_whose_predecessor_is_not_the_newest_is_void() {
        let config = config(2, &[11, 12]);
        let mut membership = Membership::default();
        let first = view("1 r1: 11a=up 12a=up");
        assert!(membership.apply(&config, ViewNumber(0), first.clone()));
        for predecessor in [0, 2] {
            assert!(!membership.apply(&config, ViewNumber(predecessor), view("2 r1: 11a=up")));
        }
        assert!(!membership.apply(&config, ViewNumber(1), view("1 r1: 11a=up")));
        assert_eq!(membership.view(), &first);
    }

    #[test]
    fn changes_of_primaries_and_dropped_lives_are_remembered() {
        let config = config(2, &[11, 12, 13, 14]);
        let mut membership = Membership::default();
        let views = [
            "1 r1: 11a=up 12a=up 13a=up 14a=up",
            "2 r1: 11a=up 13a=up 14a=up",
            "3 r1: 11a=up 12b=syncing 13a=up 14a=up",
            "4 r1: 11a=up 12b=ready 13a=up 14a=up",
            "5 r1: 11a=up 12b=up 13a=up 14a=up",
        ];
        let settled = [(1, 1), (2, 1), (2, 1), (2, 1), (5, 1)];
        for (number, (text, (g0, g1))) in (0..).zip(views.into_iter().zip(settled)) {
            assert!(membership.apply(&config, ViewNumber(number), view(text)));
            assert_eq!(membership.settled(GroupId(0)), ViewNumber(g0), "{text}");
            assert_eq!(membership.settled(GroupId(1)), ViewNumber(g1), "{text}");
        }
        let life = |node, incarnation| Life { node: NodeId(node), incarnation: Incarnation(incarnation) };
        assert!(membership.was_dropped(life(12, 1)));
        assert!(!membership.was_dropped(life(12, 2)) && !membership.was_dropped(life(11, 1)));
    }

    #[test]
    fn the_memory_of_dropped_lives_is_bounded() {
        let config = config(2, &[11, 12]);
        let mut membership = Membership::default();
        for number in 0..2 * DROPPED_MAX as u64 {
            let mut next = view("1 r1: 11a=up 12a=up");
            next.number = ViewNumber(number + 1);
            next.members[1].incarnation = Incarnation(number + 1);
            assert!(membership.apply(&config, ViewNumber(number), next));
        }
        assert_eq!(membership.dropped[&NodeId(12)].len(), DROPPED_MAX);
        let newest = Life { node: NodeId(12), incarnation: Incarnation(2 * DROPPED_MAX as u64 - 1) };
        assert!(membership.was_dropped(newest));
    }
}
