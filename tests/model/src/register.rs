//! What the management leader may write as the next view.

use crate::{
    Model,
    config::{Member, Mutation, NODES, Node, Party, View},
    state::State,
};

impl Model {
    /// All views that may come next.
    pub(crate) fn next_views(&self, state: &State) -> Vec<View> {
        let newest = state.newest();
        if !self.script.is_empty() {
            let next = self.script.get(state.views.len() - 1);
            let next = next.filter(|&&(node, member)| self.may_become(state, node, member));
            return next.map(|&(node, member)| self.with(state, node, member)).into_iter().collect();
        }
        if state.views.len() >= self.views {
            return Vec::new();
        }
        let dropped =
            (0..NODES).filter(|&node| self.first[node] != Member::Out && newest[node] == Member::Out);
        let may_drop = dropped.count() < self.drops;
        let mut views = Vec::new();
        for node in 0..NODES as Node {
            for member in [Member::Out, Member::Ready, Member::Up] {
                let changes = member != newest[usize::from(node)] && (member != Member::Out || may_drop);
                if changes && self.may_become(state, node, member) {
                    views.push(self.with(state, node, member));
                }
            }
        }
        views
    }

    fn may_become(&self, state: &State, node: Node, member: Member) -> bool {
        match (state.newest()[usize::from(node)], member) {
            (Member::Syncing, Member::Ready) => self.is_copied(state, node),
            (Member::Ready, Member::Up) => self.is_counted(state, node),
            (Member::Ready, Member::Ready) => true,
            (Member::Syncing | Member::Ready | Member::Up, Member::Out) => self.can_lose(state, node),
            _ => false,
        }
    }

    fn workers_of(&self, node: Node) -> impl Iterator<Item = Party> + '_ {
        (0..self.client()).filter(move |&party| self.node(party) == Some(node))
    }

    /// Whether every group keeps an `up` member without this node.
    fn can_lose(&self, state: &State, node: Node) -> bool {
        (0..2).all(|partition| {
            let mut others = self.replicas(partition).filter(|&party| self.node(party) != Some(node));
            others.any(|party| self.member(state.newest(), party) == Member::Up)
        })
    }

    fn is_copied(&self, state: &State, node: Node) -> bool {
        let newest = state.views.len() - 1;
        self.workers_of(node)
            .all(|party| usize::from(state.view_number(party)) == newest && state.at(party).copied)
    }

    /// Whether every `up` buddy counts this `ready` node, which has acknowledged all that it was sent before.
    fn is_counted(&self, state: &State, node: Node) -> bool {
        let is_ready = |view: &&View| view[usize::from(node)] == Member::Ready;
        let ready_since = state.views.len() - state.views.iter().rev().take_while(is_ready).count();
        let counts = |buddy: Party, party: Party| {
            let peer = state.at(buddy).peers[self.rank(party)];
            usize::from(state.view_number(buddy)) >= ready_since && peer.sent == 0
        };
        self.breaks(Mutation::UpWithoutCounts)
            || self.workers_of(node).filter_map(|party| Some((party, self.partition(party)?))).all(
                |(party, partition)| {
                    let mut buddies = self.replicas(partition).filter(|&buddy| buddy != party);
                    buddies
                        .all(|buddy| self.member(state.newest(), buddy) != Member::Up || counts(buddy, party))
                },
            )
    }

    /// The newest view with this change, and what follows from it for the node's `ready` buddies.
    fn with(&self, state: &State, node: Node, member: Member) -> View {
        let mut view = *state.newest();
        let before = std::mem::replace(&mut view[usize::from(node)], member);
        let lost = before == Member::Up && member == Member::Out && !self.breaks(Mutation::KeepReadyAtDrop);
        let handed = member == Member::Up && !self.breaks(Mutation::KeepReadyAtHandOver);
        if lost || handed {
            for partition in self.workers_of(node).filter_map(|party| self.partition(party)) {
                for buddy in self.replicas(partition).filter_map(|party| self.node(party)) {
                    let buddy = &mut view[usize::from(buddy)];
                    if *buddy == Member::Ready {
                        *buddy = Member::Syncing;
                    }
                }
            }
        }
        view
    }
}
