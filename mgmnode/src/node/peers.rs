//! Who has a link, and what is told to all of them.

use raft::eraftpb;
use twofold_proto::{
    ids::{Endpoint, Incarnation, NodeId, WorkerId},
    link::{Hello, HelloReply},
    links::{LinkEffect, LinkId},
    message::{GoneOrd, Kind, Life},
    time::{Duration, Time},
    wire::Malformed,
};

use super::{Effect, ManagementNode};
use crate::{notice::Notice, replica::encode_message};

/// Links at most, connected or not.
const LINKS_MAX: usize = 4096;
/// How long a link without a connection is kept, so that its peer can resume it.
const UNCONNECTED_MAX: Duration = Duration::from_secs(600);
/// How long after its start a node whose file says another config than the register keeps the latter for itself: until
/// then a leader takes the file's, as a rule.
const SETTLING_GRACE: Duration = Duration::from_secs(3);
/// Unacknowledged bytes to a peer; past them it gets nothing more until it has caught up or is gone.
const PEER_BYTES_MAX: usize = 64 << 20;

/// What is known of the other end of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Peer {
    pub endpoint: Endpoint,
    pub incarnation: Incarnation,
    /// Since when it has had no connection.
    pub unconnected_since: Option<Time>,
    /// Something was not said as it did not read; it gets all of it once it does.
    pub missed: bool,
}

fn refusal(temporary: bool, reason: String) -> HelloReply {
    HelloReply::Refused { temporary, reason }
}

impl ManagementNode {
    /// Of two management nodes the one with the higher id connects.
    pub(super) fn connect_to_peers(&mut self, effects: &mut Vec<Effect>) {
        let lower: Vec<NodeId> =
            self.file.management_nodes.iter().map(|node| node.id).filter(|&id| id < self.id).collect();
        for node in lower {
            self.connect_to(node, effects);
        }
    }

    fn connect_to(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let to = Endpoint::node(node);
        let link = self.links.add(to, Incarnation(0));
        let peer = Peer { endpoint: to, incarnation: Incarnation(0), unconnected_since: None, missed: false };
        self.peers.insert(link, peer);
        effects.push(Effect::Link(LinkEffect::Connect { link, to }));
    }

    pub(super) fn hello(&mut self, connection: u64, hello: &Hello, effects: &mut Vec<Effect>) {
        let objection = self.links.objection(hello).or_else(|| self.objection(hello));
        let (link, reply) = match objection {
            Some(reply) => (None, reply),
            None => self.accept(hello, effects),
        };
        if let Some(link) = link {
            let peer = Peer {
                endpoint: hello.from,
                incarnation: hello.incarnation,
                unconnected_since: None,
                missed: false,
            };
            self.peers.insert(link, peer);
        }
        effects.push(Effect::Link(LinkEffect::Answer { connection, link, reply }));
        if let Some(link) = link {
            self.publish_all(link);
        }
    }

    /// What speaks against a peer. Two lives of a data node are let in: it is their reports that tell which one lives.
    fn objection(&self, hello: &Hello) -> Option<HelloReply> {
        let Endpoint { node, worker } = hello.from;
        let config = self.config();
        if self.is_management(node) {
            let right = worker == WorkerId::NODE && node > self.id;
            return (!right).then(|| {
                let reason =
                    format!("of two management nodes the one with the higher id connects: node {}", self.id);
                refusal(false, reason)
            });
        }
        if config.api_nodes.iter().any(|api| api.id == node) {
            let other = self.links.to_any(hello.from).filter_map(|link| self.links.get(link));
            let mut running =
                other.filter(|link| link.incarnation() != hello.incarnation && link.is_connected());
            return running.next().map(|_| {
                refusal(
                    true,
                    format!("API node {node} runs already; give this one an id of its own, or end the other"),
                )
            });
        }
        if node != NodeId(0) && config.data_node(node).is_none() {
            return Some(refusal(
                false,
                format!("node {node} is not in the config; add a section with id = {node}"),
            ));
        }
        if self.peers.len() >= LINKS_MAX && self.peers.values().all(|peer| peer.unconnected_since.is_none()) {
            return Some(refusal(true, format!("there are {LINKS_MAX} connections, as many as can be")));
        }
        None
    }

    fn accept(&mut self, hello: &Hello, effects: &mut Vec<Effect>) -> (Option<LinkId>, HelloReply) {
        let present = self.links.to(hello.from, hello.incarnation);
        // A peer that begins anew has given up what was on the way; it gets all that matters again below.
        let resumes = |link: &LinkId| {
            self.links.get(*link).is_some_and(|link| hello.received > 0 || link.acknowledged() == 0)
        };
        let link = match present.filter(resumes) {
            Some(link) => link,
            None => {
                self.drop_links(effects, |peer| {
                    peer.endpoint == hello.from
                        && (peer.incarnation == hello.incarnation || peer.unconnected_since.is_some())
                });
                if self.peers.len() >= LINKS_MAX {
                    self.drop_oldest(effects);
                }
                self.links.add(hello.from, hello.incarnation)
            }
        };
        let reply = self.links.accept(link, hello);
        if matches!(reply, HelloReply::Accepted { .. }) {
            return (Some(link), reply);
        }
        // The two ends disagree: this end forgets, so that the peer's next beginning is one here too.
        self.drop_link(link, effects);
        (None, reply)
    }

    /// Drops all links of peers that `condition` holds for.
    pub(super) fn drop_links(&mut self, effects: &mut Vec<Effect>, condition: impl Fn(&Peer) -> bool) {
        let links: Vec<LinkId> =
            self.peers.iter().filter(|(_, peer)| condition(peer)).map(|(&link, _)| link).collect();
        for link in links {
            self.drop_link(link, effects);
        }
    }

    fn drop_oldest(&mut self, effects: &mut Vec<Effect>) {
        let since = |(&link, peer): (&LinkId, &Peer)| peer.unconnected_since.map(|since| (since, link));
        if let Some((_, link)) = self.peers.iter().filter_map(since).min() {
            self.drop_link(link, effects);
        }
    }

    fn drop_link(&mut self, link: LinkId, effects: &mut Vec<Effect>) {
        self.peers.remove(&link);
        if let Some(gone) = self.links.remove(link) {
            effects.push(Effect::Link(LinkEffect::Close { link }));
            if self.is_management(gone.peer().node) {
                self.replica.lost(gone.peer().node);
            }
        }
    }

    pub(super) fn connected(
        &mut self,
        link: LinkId,
        incarnation: Incarnation,
        received: u64,
        effects: &mut Vec<Effect>,
    ) {
        if self.links.get(link).is_none() {
            return;
        }
        match self.links.connected(link, incarnation, received) {
            Ok(()) => {
                if let Some(peer) = self.peers.get_mut(&link) {
                    peer.incarnation = incarnation;
                    peer.unconnected_since = None;
                }
            }
            Err(malformed) => self.cut_off(link, &malformed, effects),
        }
    }

    /// A management node refused us. If that life is over, or has forgotten us, begin anew; else the driver goes on.
    pub(super) fn refused(&mut self, link: LinkId, effects: &mut Vec<Effect>) {
        let known = self.links.get(link).map(|link| (link.peer().node, link.incarnation()));
        if let Some((node, incarnation)) = known
            && incarnation != Incarnation(0)
        {
            self.drop_link(link, effects);
            self.connect_to(node, effects);
        }
    }

    pub(super) fn disconnected(&mut self, now: Time, link: LinkId) {
        if let Some(link) = self.links.get_mut(link) {
            link.disconnected();
        }
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.unconnected_since = Some(now);
        }
    }

    /// Ends the link of a peer that spoke nonsense.
    pub(super) fn cut_off(&mut self, link: LinkId, malformed: &Malformed, effects: &mut Vec<Effect>) {
        let Some(node) = self.links.get(link).map(|link| link.peer().node) else { return };
        effects.push(Effect::Notice(Notice::Nonsense { node, what: malformed.to_string() }));
        self.drop_link(link, effects);
        if self.is_management(node) && node < self.id {
            self.connect_to(node, effects);
        }
    }

    /// Forgets links that were not resumed, and lives of which nothing is heard any more.
    pub(super) fn forget_old(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let own = self.id;
        let is_old = |peer: &Peer| {
            peer.unconnected_since.is_some_and(|since| now.since(since) >= UNCONNECTED_MAX)
                && !(peer.endpoint.worker == WorkerId::NODE && peer.endpoint.node < own)
        };
        self.drop_links(effects, is_old);
        self.forget_lives(now);
    }

    pub(super) fn send_raft(&mut self, message: &eraftpb::Message) {
        let (to, log) = (NodeId(message.to as u16), self.replica.standing().log);
        let link = self.links.to_any(Endpoint::node(to)).find(|&link| self.is_reachable(link));
        match link.and_then(|link| self.links.get_mut(link)) {
            Some(link) => link.send(Kind::RaftOrd as u8, 0, |out| encode_message(log, message, out)),
            // Raft sends again what matters; to keep it would only fill memory while the other is away.
            None => self.replica.lost(to),
        }
    }

    fn is_reachable(&self, link: LinkId) -> bool {
        self.links.get(link).is_some_and(|link| link.is_connected() && link.kept_bytes() < PEER_BYTES_MAX)
    }

    /// Whether the peer can be told something now. Who is not connected is told all when it is.
    fn can_be_told(&mut self, link: LinkId) -> bool {
        if self.is_reachable(link) {
            return true;
        }
        if let (Some(peer), Some(link)) = (self.peers.get_mut(&link), self.links.get_mut(link)) {
            peer.missed = true;
            // It may have read all, and have nothing to say by itself.
            link.want_acknowledgement();
        }
        false
    }

    /// Tells all nodes and clients that are connected what is new. The others are told all when they connect.
    pub(super) fn publish(&mut self, kind: Kind) {
        let links: Vec<LinkId> = self.peers.keys().copied().collect();
        for link in links {
            self.publish_to(link, kind);
        }
    }

    fn publish_all(&mut self, link: LinkId) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.missed = false;
        }
        for kind in [Kind::ConfigOrd, Kind::ViewOrd, Kind::CatalogOrd] {
            self.publish_to(link, kind);
        }
        let gone: Vec<Life> = self.gone.keys().copied().collect();
        for life in gone {
            self.send_gone(link, life);
        }
    }

    /// Tells all to those who missed some of it and read again.
    pub(super) fn catch_up(&mut self) {
        let missed: Vec<LinkId> =
            self.peers.iter().filter(|(_, peer)| peer.missed).map(|(&link, _)| link).collect();
        for link in missed {
            if self.is_reachable(link) {
                self.publish_all(link);
            }
        }
    }

    fn publish_to(&mut self, link: LinkId, kind: Kind) {
        let Some(peer) = self.peers.get(&link) else { return };
        if self.is_management(peer.endpoint.node) || !self.can_be_told(link) {
            return;
        }
        let Some(link) = self.links.get_mut(link) else { return };
        match kind {
            Kind::ConfigOrd => {
                // What is still to be settled would be taken for the cluster's by nodes that start meanwhile.
                let settling = self.last_step.since(self.awake_since) < SETTLING_GRACE;
                if let Some(config) =
                    self.register.config().filter(|&config| *config == self.file || !settling)
                {
                    link.send_control(kind, config);
                }
            }
            Kind::ViewOrd => link.send_control(kind, self.register.view()),
            Kind::CatalogOrd => link.send_control(kind, self.register.catalog()),
            other => unreachable!("{other:?} is not published"),
        }
    }

    /// Tells a data node that a life is over.
    pub(super) fn send_gone(&mut self, link: LinkId, life: Life) {
        let Some(peer) = self.peers.get(&link) else { return };
        if self.config().data_node(peer.endpoint.node).is_some()
            && self.can_be_told(link)
            && let Some(link) = self.links.get_mut(link)
        {
            link.send_control(Kind::GoneRep, &GoneOrd { life });
        }
    }
}
