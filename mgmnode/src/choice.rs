//! The next view, from what the leader knows: a pure function. What it must respect is in `docs/membership.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twofold_proto::{
    config::ClusterConfig,
    ids::{GroupId, NodeId},
    message::{Life, ReportOrd},
    view::{Member, MemberState, View},
};

use crate::{membership::Membership, separation};

/// How long the first view waits for all data nodes. After it, one of each group is enough.
pub const FORMING_GRACE: Duration = Duration::from_secs(15);

/// What was heard of one life of a data node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heard {
    /// How long ago it reported last.
    pub age: Duration,
    /// How long its reports have named the view that the last one names.
    pub known: Duration,
    /// The last report.
    pub report: ReportOrd,
}

/// What the leader knows besides the register.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// The lives that reported.
    pub heard: BTreeMap<Life, Heard>,
    /// The lives that are known to have ended: their angel or they themselves said so.
    pub gone: BTreeSet<Life>,
    /// For how long reports have reached the leader without a break. Until that is long enough, silence proves nothing.
    pub listening: Duration,
    /// How long ago the first life reported that could become a member of a first view.
    pub forming: Duration,
}

/// The view that should follow the newest one; none if that may stay, or if nothing better is possible.
///
/// What drops members comes first: who is gone, silent, or separated from others. If there is no way to drop so few
/// that all who are left hear each other, for then a group would have no `up` member, the separated stay. Then come
/// promotions, departures and joins. A view without members says that the data of a group is lost and the cluster
/// starts anew.
pub fn next_view(config: &ClusterConfig, membership: &Membership, facts: &Facts) -> Option<View> {
    let choice = Choice { config, membership, view: membership.view(), facts };
    let members =
        if choice.view.members.is_empty() { choice.first_members()? } else { choice.next_members()? };
    if members == choice.view.members {
        return None;
    }
    let first = choice.view.members.is_empty();
    let restart = if first {
        choice.view.restart.checked_add(1).expect("fewer than 65,536 restarts")
    } else {
        choice.view.restart
    };
    Some(choice.view.next(restart, members))
}

/// The groups whose rows are lost: every `up` member has ended and come back as another life, so with nothing.
pub fn lost_groups(config: &ClusterConfig, membership: &Membership, facts: &Facts) -> Vec<GroupId> {
    let choice = Choice { config, membership, view: membership.view(), facts };
    choice.groups().filter(|&group| choice.is_lost(group)).collect()
}

/// A group that does not serve, as none of its `up` members is heard, and may never serve again by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoppedGroup {
    /// Which.
    pub group: GroupId,
    /// Those that were `up`.
    pub up: Vec<NodeId>,
    /// Those of them that are not known to have ended: they may have the rows still.
    pub silent: Vec<NodeId>,
    /// Those of them of which no other life reports.
    pub missing: Vec<NodeId>,
    /// Nodes of the group that run, and wait for a view that takes them in.
    pub waiting: Vec<NodeId>,
}

/// The groups that do not serve.
pub fn stopped_groups(config: &ClusterConfig, membership: &Membership, facts: &Facts) -> Vec<StoppedGroup> {
    let choice = Choice { config, membership, view: membership.view(), facts };
    choice.groups().filter_map(|group| choice.stopped(group)).collect()
}

struct Choice<'a> {
    config: &'a ClusterConfig,
    membership: &'a Membership,
    view: &'a View,
    facts: &'a Facts,
}

fn life(member: &Member) -> Life {
    Life { node: member.node, incarnation: member.incarnation }
}

impl Choice<'_> {
    fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.config.groups()).map(|group| GroupId(group as u16))
    }

    fn group_of(&self, node: NodeId) -> GroupId {
        self.config
            .group_of(node)
            .unwrap_or_else(|| panic!("{node:?} is in a view, but not in {:?}", self.config))
    }

    /// The last report of a life, if it is recent.
    fn fresh(&self, life: Life) -> Option<&Heard> {
        let heard = self.facts.heard.get(&life)?;
        (heard.age < self.config.failure() && !self.facts.gone.contains(&life)).then_some(heard)
    }

    fn is_dead(&self, life: Life) -> bool {
        let silent = || self.facts.listening >= self.config.failure() && self.fresh(life).is_none();
        self.facts.gone.contains(&life) || silent()
    }

    /// Whether two members have lost contact in one direction at least, and both had the time to notice. One that has been
    /// silent for a while may have died, and is as likely as not the reason why the other does not hear it: that is not
    /// known before its silence is long enough.
    fn are_separated(&self, a: &Member, b: &Member) -> bool {
        let failure = self.config.failure();
        let settled = |heard: &&Heard| {
            heard.report.view == self.view.number && heard.known >= failure && heard.age < failure / 2
        };
        let (Some(of_a), Some(of_b)) =
            (self.fresh(life(a)).filter(settled), self.fresh(life(b)).filter(settled))
        else {
            return false;
        };
        !of_a.report.hears.contains(&life(b)) || !of_b.report.hears.contains(&life(a))
    }

    /// The only life of the node that may join: with two that report, it is not clear which one lives.
    fn candidate(&self, node: NodeId) -> Option<&Heard> {
        let lives = Life { node, incarnation: twofold_proto::ids::Incarnation(0) }..;
        let mut fresh = self
            .facts
            .heard
            .range(lives)
            .map_while(|(&life, _)| (life.node == node).then_some(life))
            .filter(|&life| !self.membership.was_dropped(life))
            .filter_map(|life| self.fresh(life));
        let first = fresh.next()?;
        (fresh.next().is_none() && !first.report.leaving).then_some(first)
    }

    /// The first view: all data nodes, or after a while one of each group at least. All have nothing, so all are `up`.
    fn first_members(&self) -> Option<Vec<Member>> {
        let candidates: Vec<&Heard> =
            self.config.data_nodes.iter().filter_map(|node| self.candidate(node.id)).collect();
        let all = candidates.len() == self.config.data_nodes.len();
        let has_member =
            |group| candidates.iter().any(|heard| self.group_of(heard.report.life.node) == group);
        let enough = self.facts.forming >= FORMING_GRACE && self.groups().all(has_member);
        let members = candidates.iter().map(|heard| member(&heard.report, MemberState::Up)).collect();
        (all || enough).then_some(members)
    }

    fn next_members(&self) -> Option<Vec<Member>> {
        let Some(mut next) = self.survivors() else {
            return self.groups().any(|group| self.is_lost(group)).then(Vec::new);
        };
        self.let_go(&mut next);
        self.demote(&mut next);
        self.promote(&mut next);
        self.join(&mut next);
        Some(next)
    }

    /// The members that stay; none if a group would have no `up` one.
    fn survivors(&self) -> Option<Vec<Member>> {
        let alive: Vec<&Member> =
            self.view.members.iter().filter(|&member| !self.is_dead(life(member))).collect();
        let (up, rest): (Vec<&Member>, Vec<&Member>) =
            alive.into_iter().partition(|member| member.state == MemberState::Up);
        let groups: Vec<usize> = up.iter().map(|member| usize::from(self.group_of(member.node).0)).collect();
        let separated = |a: usize, b: usize| self.are_separated(up[a], up[b]);
        let kept = separation::keep(&groups, self.config.groups(), separated)
            .or_else(|| separation::keep(&groups, self.config.groups(), |_, _| false))?;
        let mut next: Vec<Member> = kept.into_iter().map(|index| *up[index]).collect();
        // The others go by rank: `ready` before `syncing`, lower ids before higher ones.
        let in_order = |state| rest.iter().filter(move |member| member.state == state);
        for &member in in_order(MemberState::Ready).chain(in_order(MemberState::Syncing)) {
            if !next.iter().any(|other| self.are_separated(member, other)) {
                next.push(*member);
            }
        }
        next.sort_by_key(|member| member.node);
        Some(next)
    }

    fn up_members(&self, group: GroupId) -> impl Iterator<Item = &Member> {
        let in_group =
            move |member: &&Member| member.state == MemberState::Up && self.group_of(member.node) == group;
        self.view.members.iter().filter(in_group)
    }

    /// Whether another life of the member reports.
    fn has_successor(&self, member: &Member) -> bool {
        self.candidate(member.node).is_some_and(|heard| heard.report.life != life(member))
    }

    /// Whether every `up` member of the group has ended and come back as another life, so with nothing.
    fn is_lost(&self, group: GroupId) -> bool {
        let replaced = |member: &Member| self.is_dead(life(member)) && self.has_successor(member);
        let mut up = self.up_members(group).peekable();
        up.peek().is_some() && up.all(replaced)
    }

    fn stopped(&self, group: GroupId) -> Option<StoppedGroup> {
        let up: Vec<&Member> = self.up_members(group).collect();
        if up.is_empty() || up.iter().any(|member| !self.is_dead(life(member))) {
            return None;
        }
        let nodes = |of: &dyn Fn(&Member) -> bool| {
            up.iter().filter(|member| of(member)).map(|member| member.node).collect::<Vec<NodeId>>()
        };
        let missing = nodes(&|member| !self.has_successor(member));
        let runs = |node: &NodeId| self.candidate(*node).is_some() && !missing.contains(node);
        Some(StoppedGroup {
            group,
            up: nodes(&|_| true),
            silent: nodes(&|member| !self.facts.gone.contains(&life(member))),
            waiting: self.config.group_nodes(group).filter(runs).collect(),
            missing,
        })
    }

    /// Drops who wants to leave, but never the last `up` member of a group.
    fn let_go(&self, next: &mut Vec<Member>) {
        let leaving: Vec<Member> = next
            .iter()
            .filter(|member| self.fresh(life(member)).is_some_and(|heard| heard.report.leaving))
            .copied()
            .collect();
        for leaver in leaving {
            let group = self.group_of(leaver.node);
            let another = next.iter().any(|member| {
                member.node != leaver.node
                    && member.state == MemberState::Up
                    && self.group_of(member.node) == group
            });
            if another {
                next.retain(|member| member.node != leaver.node);
            }
        }
    }

    fn lost_an_up_member(&self, group: GroupId, next: &[Member]) -> bool {
        self.view.members.iter().any(|member| {
            member.state == MemberState::Up
                && self.group_of(member.node) == group
                && !next.iter().any(|other| other.node == member.node)
        })
    }

    /// A `ready` member may lack the end of the stream of an `up` buddy that goes now.
    fn demote(&self, next: &mut [Member]) {
        let lost: BTreeSet<GroupId> =
            self.groups().filter(|&group| self.lost_an_up_member(group, next)).collect();
        for member in next {
            if member.state == MemberState::Ready && lost.contains(&self.group_of(member.node)) {
                member.state = MemberState::Syncing;
            }
        }
    }

    /// `syncing` to `ready` with everything copied, `ready` to `up` when every `up` buddy counts it. Only what was said
    /// under this view is taken: a member may have been `ready` before, and demoted since. A new `up` member takes
    /// primaries over, and so ends streams that its other buddies may not have whole: they are `syncing` again.
    fn promote(&self, next: &mut [Member]) {
        let under_this_view = |life| self.fresh(life).filter(|heard| heard.report.view == self.view.number);
        let mut promoted: Vec<Option<MemberState>> = next
            .iter()
            .map(|member| {
                let group = self.group_of(member.node);
                // A step that changed it already is enough; so is one that changes its primaries.
                if self.view.state(member.node, member.incarnation) != Some(member.state)
                    || self.lost_an_up_member(group, next)
                {
                    return None;
                }
                match member.state {
                    MemberState::Syncing => {
                        let copied = under_this_view(life(member))?.report.copied?;
                        let holds = (self.membership.settled(group)..=self.view.number).contains(&copied);
                        holds.then_some(MemberState::Ready)
                    }
                    MemberState::Ready => {
                        let counts = |buddy: &Member| {
                            under_this_view(life(buddy))
                                .is_some_and(|heard| heard.report.counts.contains(&life(member)))
                        };
                        next.iter()
                            .filter(|other| {
                                other.state == MemberState::Up && self.group_of(other.node) == group
                            })
                            .all(counts)
                            .then_some(MemberState::Up)
                    }
                    MemberState::Up => None,
                }
            })
            .collect();
        let raised: BTreeSet<GroupId> = next
            .iter()
            .zip(&promoted)
            .filter(|(_, state)| **state == Some(MemberState::Up))
            .map(|(member, _)| self.group_of(member.node))
            .collect();
        for (member, state) in next.iter_mut().zip(&mut promoted) {
            let behind = member.state != MemberState::Up && *state != Some(MemberState::Up);
            if behind && raised.contains(&self.group_of(member.node)) {
                *state = Some(MemberState::Syncing);
            }
            member.state = state.unwrap_or(member.state);
        }
    }

    /// New lives of nodes that have no member now begin as `syncing`.
    fn join(&self, next: &mut Vec<Member>) {
        for node in &self.config.data_nodes {
            let absent = !next.iter().any(|member| member.node == node.id);
            let new = self
                .candidate(node.id)
                .filter(|heard| self.view.state(node.id, heard.report.life.incarnation).is_none());
            if let (true, Some(heard)) = (absent, new) {
                next.push(member(&heard.report, MemberState::Syncing));
            }
        }
        next.sort_by_key(|member| member.node);
    }
}

fn member(report: &ReportOrd, state: MemberState) -> Member {
    Member { node: report.life.node, incarnation: report.life.incarnation, state, workers: report.workers }
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
