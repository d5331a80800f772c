//! The next view, from what the leader knows: a pure function. What it must respect is in `docs/membership.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use twofold_proto::{
    config::ClusterConfig,
    ids::{Epoch, GroupId, Incarnation, NodeId},
    message::{Life, ReportOrd, Restorable},
    view::{Member, MemberState, View},
};

use crate::{membership::Membership, separation};

/// How long the first view waits for all data nodes. After it, one of each group is enough.
pub const FORMING_GRACE: Duration = Duration::from_secs(15);

/// What was heard of one life of a data node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heard {
    /// How long ago its last report came.
    pub age: Duration,
    /// For how long its reports have come one after the other; zero without a connection. After a silence they may have been sent
    /// long before, and waited in the network, or for the leader to go on.
    pub steady: Duration,
    /// How long its reports have named the view that the last one names.
    pub known: Duration,
    /// For how long it has asked to leave.
    pub leaving: Duration,
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
/// promotions, departures and joins. A view without members says that all of a group have ended and the cluster
/// restarts.
pub fn next_view(config: &ClusterConfig, membership: &Membership, facts: &Facts) -> Option<View> {
    let choice = Choice { config, membership, view: membership.view(), facts };
    if choice.view.members.is_empty() {
        return choice.first_view();
    }
    let members = choice.next_members()?;
    (members != choice.view.members).then(|| choice.view.next(choice.view.restart, members))
}

/// A group that does not serve, as none of its `up` members is heard, or none is back with its rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoppedGroup {
    /// Which.
    pub group: GroupId,
    /// Whether the cluster restarts already: what its nodes have in memory does not count any more.
    pub restarts: bool,
    /// Those that were `up`.
    pub up: Vec<NodeId>,
    /// Those of them that are not known to have ended: they may go on.
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

/// How long reports may be missing before their sender may have ended.
pub fn silence(config: &ClusterConfig) -> Duration {
    config.failure() / 2
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

    /// The last report of a life, if it is so recent that it has most likely not ended since.
    fn lively(&self, life: Life) -> Option<&Heard> {
        let limit = silence(self.config);
        self.fresh(life).filter(|heard| heard.age < limit && heard.steady >= limit)
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
        let settled = |heard: &&Heard| heard.report.view == self.view.number && heard.known >= failure;
        let (Some(of_a), Some(of_b)) =
            (self.lively(life(a)).filter(settled), self.lively(life(b)).filter(settled))
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

    /// The first view, of a new cluster or after all of a group had ended.
    ///
    /// It has all data nodes, or after a while those that are there. Where there was data, each group needs a node that
    /// has it on disk: one that was `up` in the last view. The cluster goes back to the newest epoch that every group
    /// has; who has it is `up`, the others copy. It begins empty if it never had data, or if all nodes were told to.
    fn first_view(&self) -> Option<View> {
        let candidates: Vec<&Heard> =
            self.config.data_nodes.iter().filter_map(|node| self.candidate(node.id)).collect();
        let all = candidates.len() == self.config.data_nodes.len();
        if !all && self.facts.forming < FORMING_GRACE {
            return None;
        }
        let of_group = |wanted| {
            candidates.iter().filter(move |heard| self.group_of(heard.report.life.node) == wanted).copied()
        };
        let is_new = self.membership.up_before().is_empty();
        // Rows of which the register knows nothing: it was lost.
        if is_new && candidates.iter().any(|heard| heard.report.restorable.is_some()) {
            return None;
        }
        if is_new || (all && candidates.iter().all(|heard| heard.report.initial)) {
            let members = candidates.iter().map(|heard| restored(&heard.report, Incarnation(0))).collect();
            let has_all_groups = self.groups().all(|group| of_group(group).next().is_some());
            return has_all_groups.then(|| self.view.restarted(Epoch::default(), members));
        }
        let newest = |group| of_group(group).filter_map(|heard| self.has_on_disk(heard)).max();
        let epoch = self.groups().map(newest).collect::<Option<Vec<Epoch>>>()?.into_iter().min()?;
        let begin = |heard: &&Heard| match self.has_on_disk(heard) >= Some(epoch) {
            true => restored(&heard.report, heard.report.restorable.unwrap_or_default().life),
            false => member(&heard.report, MemberState::Syncing),
        };
        Some(self.view.restarted(epoch, candidates.iter().map(begin).collect()))
    }

    /// Up to which epoch the node has the cluster's data on disk; none if it was not `up` in the last view. If that view's
    /// life had not yet made the disk its own, what stands there is what the cluster went back to.
    fn has_on_disk(&self, heard: &Heard) -> Option<Epoch> {
        let Restorable { life, complete, .. } = heard.report.restorable.unwrap_or_default();
        let mut up = self.membership.up_before().iter();
        let former = up.find(|member| member.node == heard.report.life.node)?;
        if former.incarnation == life {
            return Some(complete);
        }
        let cut = self.view.cuts.last().map(|cut| cut.epoch).unwrap_or_default();
        let is_former =
            former.restored == Some(life) || (former.restored.is_some() && cut == Epoch::default());
        is_former.then(|| complete.min(cut))
    }

    fn next_members(&self) -> Option<Vec<Member>> {
        let shuts_down = self.groups().any(|group| self.shuts_down(group));
        let Some(mut next) = self.survivors().filter(|_| !shuts_down) else {
            return self.groups().any(|group| self.has_ended(group)).then(Vec::new);
        };
        self.let_go(&mut next);
        self.demote(&mut next);
        self.promote(&mut next);
        self.own(&mut next);
        self.join(&mut next);
        Some(next)
    }

    /// The members that stay; none if a group would have no `up` one, or would be left to some that are silent: they may have ended as
    /// well, some time ago, and their disks may be the worst of all.
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
        let is_left_to_silent = |group| {
            self.lost_an_up_member(group, &next)
                && !next
                    .iter()
                    .any(|left| self.group_of(left.node) == group && self.lively(life(left)).is_some())
        };
        if self.groups().any(is_left_to_silent) {
            return None;
        }
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
        self.view.up_members().filter(move |member| self.group_of(member.node) == group)
    }

    /// Whether another life of the member reports.
    fn has_successor(&self, member: &Member) -> bool {
        self.candidate(member.node).is_some_and(|heard| heard.report.life != life(member))
    }

    /// Whether what the group's `up` members had in memory is gone: each has come back as another life, or has been silent for
    /// long, and one that is back has the rows on disk.
    fn has_ended(&self, group: GroupId) -> bool {
        let up: Vec<&Member> = self.up_members(group).collect();
        let replaced = |member: &&Member| self.is_dead(life(member)) && self.has_successor(member);
        let silent = |member: &&Member| {
            let heard = self.facts.heard.get(&life(member));
            let age = heard.map_or(self.facts.listening, |heard| heard.age);
            self.is_dead(life(member)) && age.min(self.facts.listening) >= FORMING_GRACE
        };
        let has_rows = |member: &&Member| {
            self.candidate(member.node).is_some_and(|heard| self.has_on_disk(heard).is_some())
        };
        let all_replaced = !up.is_empty() && up.iter().all(replaced);
        all_replaced
            || (up.iter().all(|member| replaced(member) || silent(member))
                && up.iter().any(|member| replaced(member) && has_rows(member)))
    }

    fn stopped(&self, group: GroupId) -> Option<StoppedGroup> {
        let restarts = self.view.members.is_empty();
        let former = self.membership.up_before().iter();
        let up: Vec<&Member> = former.filter(|member| self.group_of(member.node) == group).collect();
        let serves = |member: &&Member| match restarts {
            true => self.candidate(member.node).is_some_and(|heard| self.has_on_disk(heard).is_some()),
            false => !self.is_dead(life(member)),
        };
        if up.is_empty() || up.iter().any(serves) {
            return None;
        }
        let nodes = |of: &dyn Fn(&Member) -> bool| {
            up.iter().filter(|member| of(member)).map(|member| member.node).collect::<Vec<NodeId>>()
        };
        let missing = nodes(&|member| !self.has_successor(member));
        let runs = |node: &NodeId| self.candidate(*node).is_some() && !missing.contains(node);
        Some(StoppedGroup {
            group,
            restarts,
            up: nodes(&|_| true),
            silent: nodes(&|member| !restarts && !self.facts.gone.contains(&life(member))),
            waiting: self.config.group_nodes(group).filter(runs).collect(),
            missing,
        })
    }

    /// Whether all `up` members of the group are leaving, or have left: the cluster is stopped as a whole. They stay in the view,
    /// so that all of them are known to have what the cluster had.
    fn shuts_down(&self, group: GroupId) -> bool {
        let asked =
            |member: &Member| self.facts.heard.get(&life(member)).is_some_and(|heard| heard.report.leaving);
        self.up_members(group).all(asked)
    }

    /// Drops who wants to leave, but never the last `up` member of a group.
    fn let_go(&self, next: &mut Vec<Member>) {
        // The others may have been asked at the same time.
        let patience = self.config.heartbeat() * 2;
        let wants = |member: &&Member| {
            let heard = self.fresh(life(member)).filter(|heard| heard.report.leaving);
            heard.is_some_and(|heard| heard.leaving >= patience)
        };
        let leaving: Vec<Member> = next.iter().filter(wants).copied().collect();
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
                        let is_buddy = |other: &&Member| {
                            other.state == MemberState::Up && self.group_of(other.node) == group
                        };
                        // What was durable without it has to be so with it: its buddies may all go now.
                        let durable = under_this_view(life(member))?.report.durable;
                        let counted = next.iter().filter(is_buddy).all(counts);
                        (durable && counted).then_some(MemberState::Up)
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

    /// Once the disks of all who began with the rows of a former life are their own, these lives do not count any more.
    fn own(&self, next: &mut [Member]) {
        let of_view = |heard: &Heard| heard.report.view == self.view.number && heard.report.durable;
        if next
            .iter()
            .all(|member| member.restored.is_none() || self.fresh(life(member)).is_some_and(of_view))
        {
            next.iter_mut().for_each(|member| member.restored = None);
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
    let Life { node, incarnation } = report.life;
    Member { node, incarnation, state, workers: report.workers, restored: None }
}

/// A member that begins a restart `up`, with the rows of a former life.
fn restored(report: &ReportOrd, former: Incarnation) -> Member {
    Member { restored: Some(former), ..member(report, MemberState::Up) }
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
