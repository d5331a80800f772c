//! The node's links: to every management node, whichever life of it answers, and to the other members of the view, life
//! to life; of two data nodes the one with the higher id connects.

use std::sync::Arc;

use twofold_proto::{
    config::ClusterConfig,
    ids::{Endpoint, ViewNumber, WorkerId},
    link::{FrameHeader, Hello, HelloReply, Link, Message, Messages, Received},
    links::{LinkEffect, LinkId, LinkInput},
    message::{Catalog, EpochDoneRep, EpochOrd, GoneOrd, Kind, Life, StopOrd, control},
    time::Time,
    view::View,
    wire::{Malformed, Reader},
};

use super::{Effect, Event, Node};
use crate::local::ToWorker;

/// Unacknowledged bytes past which nothing more is said to a peer that does not read: all that is said here is
/// said again.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// What a management node has told of its register on a link.
#[derive(Debug, Default)]
pub(super) struct Register {
    /// Its newest view.
    view: ViewNumber,
    /// A catalog that was not looked at yet, as that view is older than the one adopted here.
    catalog: Option<Catalog>,
}

impl Node {
    pub(super) fn on_link(&mut self, now: Time, input: LinkInput<'_>, effects: &mut Vec<Effect>) {
        match input {
            LinkInput::Hello { connection, hello } => self.on_hello(now, connection, &hello, effects),
            LinkInput::Connected { link, incarnation, received } => {
                match self.links.connected(link, incarnation, received) {
                    Ok(()) => self.greet(now, link),
                    Err(malformed) => self.break_off(link, malformed, effects),
                }
            }
            LinkInput::Refused { link, .. } => self.on_refused(link, effects),
            LinkInput::Disconnected { link } => {
                if let Some(link) = self.links.get_mut(link) {
                    link.disconnected();
                }
            }
            LinkInput::Frame { link, header, payload } => self.on_frame(now, link, &header, payload, effects),
        }
    }

    /// Connects to the management nodes that have no link yet.
    pub(super) fn connect_management(&mut self, effects: &mut Vec<Effect>) {
        for node in &self.config.management_nodes {
            if !self.management.contains_key(&node.id) {
                let to = Endpoint::node(node.id);
                let link = self.links.add(to, Default::default());
                self.management.insert(node.id, link);
                self.registers.insert(link, Register::default());
                effects.push(Effect::Link(LinkEffect::Connect { link, to }));
            }
        }
    }

    /// Connects to the members of the view that have no link yet, as far as that is this side's to do.
    pub(super) fn connect_peers(&mut self, effects: &mut Vec<Effect>) {
        for (life, peer) in &mut self.peers {
            if life.node < self.life.node && peer.link.is_none() {
                let to = Endpoint::node(life.node);
                let link = self.links.add(to, life.incarnation);
                peer.link = Some(link);
                effects.push(Effect::Link(LinkEffect::Connect { link, to }));
            }
        }
    }

    fn on_hello(&mut self, now: Time, connection: u64, hello: &Hello, effects: &mut Vec<Effect>) {
        let (link, reply) = match self.objection(hello) {
            Some(refusal) => (None, refusal),
            None => {
                let life = Life { node: hello.from.node, incarnation: hello.incarnation };
                let peer = self.peers.get_mut(&life).expect("without an objection it is a peer");
                let link = *peer.link.get_or_insert_with(|| self.links.add(hello.from, hello.incarnation));
                let reply = self.links.accept(link, hello);
                (matches!(reply, HelloReply::Accepted { .. }).then_some(link), reply)
            }
        };
        effects.push(Effect::Link(LinkEffect::Answer { connection, link, reply }));
        if let Some(link) = link {
            self.greet(now, link);
        }
    }

    fn objection(&self, hello: &Hello) -> Option<HelloReply> {
        let refuse = |temporary, reason| Some(HelloReply::Refused { temporary, reason });
        if let Some(refusal) = self.links.objection(hello) {
            Some(refusal)
        } else if hello.from.worker != WorkerId::NODE {
            refuse(false, format!("{:?} is for other data nodes, not for {:?}", self.links.own(), hello.from))
        } else if hello.from.node <= self.life.node {
            refuse(false, format!("of two data nodes the higher id connects, not {}", hello.from.node))
        } else if self.state().is_none() {
            refuse(true, format!("node {} is not in view {}", self.life.node, self.view.number))
        } else if !self.view.contains(hello.from.node, hello.incarnation) {
            refuse(true, format!("this life of node {} is not in view {}", hello.from.node, self.view.number))
        } else {
            None
        }
    }

    /// First words on a connection.
    fn greet(&mut self, now: Time, id: LinkId) {
        let Some(link) = self.links.get(id) else { return };
        if self.management.contains_key(&link.peer().node) {
            self.report_to(now, id);
        } else {
            // Not only with the next tick: when the peer soon counts, no lease has to wait for its acknowledgement.
            self.send_heartbeat(now, id);
        }
    }

    fn on_refused(&mut self, id: LinkId, effects: &mut Vec<Effect>) {
        let Some(link) = self.links.get(id) else { return };
        let (node, known) = (link.peer().node, link.incarnation().0 != 0);
        // A management node that was started anew, or has forgotten the link. All that it is told it is told again, so
        // the new link owes it nothing.
        if known && self.management.remove(&node).is_some() {
            self.drop_link(id, effects);
            self.connect_management(effects);
        }
    }

    pub(super) fn drop_link(&mut self, id: LinkId, effects: &mut Vec<Effect>) {
        self.announced.remove(&id);
        self.registers.remove(&id);
        if self.links.remove(id).is_some() {
            effects.push(Effect::Link(LinkEffect::Close { link: id }));
        }
    }

    /// The view drops the life at the other end: nothing is read from it any more, and the link is closed once it has
    /// had time to carry the view.
    pub(super) fn part_with(&mut self, id: LinkId, effects: &mut Vec<Effect>) {
        if self.links.get(id).is_some_and(Link::is_connected) {
            self.closing.push(id);
        } else {
            self.drop_link(id, effects);
        }
    }

    /// Closes the links to lives that the view has dropped. They have had a tick's time to be told of it.
    pub(super) fn close_dropped(&mut self, effects: &mut Vec<Effect>) {
        for id in std::mem::take(&mut self.closing) {
            self.drop_link(id, effects);
        }
    }

    fn break_off(&mut self, id: LinkId, Malformed(what): Malformed, effects: &mut Vec<Effect>) {
        let Some(link) = self.links.get_mut(id) else { return };
        link.disconnected();
        let peer = link.peer();
        effects.push(Effect::Event(Event::Malformed { peer, what }));
        effects.push(Effect::Link(LinkEffect::Disconnect { link: id }));
    }

    /// The link, to say something: it is connected and its peer reads, no worker hangs, and the view has been sent on
    /// it first.
    pub(super) fn line(&mut self, id: LinkId) -> Option<&mut Link> {
        let link = self.links.get(id)?;
        if !link.is_connected() || link.kept_bytes() > KEPT_BYTES_MAX || self.suspended() {
            return None;
        }
        let link = self.links.get_mut(id)?;
        if self.announced.insert(id, self.view.number) != Some(self.view.number) {
            link.send_control(Kind::ViewOrd, &*self.view);
        }
        Some(link)
    }

    /// Sends the view on all links that do not have it.
    pub(super) fn announce(&mut self) {
        for id in self.links.ids().collect::<Vec<_>>() {
            self.line(id);
        }
    }

    fn on_frame(
        &mut self,
        now: Time,
        id: LinkId,
        header: &FrameHeader,
        payload: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        if self.closing.contains(&id) {
            return;
        }
        let Some(link) = self.links.get(id) else { return };
        let from = Life { node: link.peer().node, incarnation: link.incarnation() };
        let received = match self.links.receive(id, header) {
            Ok(received) => received,
            Err(malformed) => return self.break_off(id, malformed, effects),
        };
        self.epochs.see(header.epoch);
        self.hear(now, from);
        if received == Received::New {
            for message in Messages::new(payload) {
                let done = message.and_then(|message| self.on_message(now, id, from, message, effects));
                if let Err(malformed) = done {
                    return self.break_off(id, malformed, effects);
                }
                if self.links.get(id).is_none() || self.closing.contains(&id) {
                    // The view that it brought does not have its sender.
                    return;
                }
            }
        }
        if let Some(link) = self.links.get_mut(id) {
            link.processed(header);
        }
    }

    fn on_message(
        &mut self,
        now: Time,
        id: LinkId,
        from: Life,
        message: Message<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Malformed> {
        let kind = Kind::from_number(message.kind)?;
        if kind == Kind::ViewOrd {
            let view: View = control(message.body)?;
            if let Some(peer) = self.peers.get_mut(&from) {
                peer.view = peer.view.max(view.number);
            }
            let told = self.registers.get_mut(&id).map(|register| register.view = view.number);
            self.learn(now, Arc::new(view), effects);
            if told.is_some() {
                self.learn_catalog(id, effects);
            }
            Ok(())
        } else if self.management.contains_key(&from.node) {
            self.on_management(now, id, (kind, message.body), effects)
        } else {
            self.on_peer(now, id, from, (kind, message.body), effects)
        }
    }

    fn on_management(
        &mut self,
        now: Time,
        id: LinkId,
        (kind, body): (Kind, &[u8]),
        effects: &mut Vec<Effect>,
    ) -> Result<(), Malformed> {
        match kind {
            Kind::ConfigOrd => {
                if *self.config != control::<ClusterConfig>(body)? {
                    effects.push(Effect::Event(Event::ConfigDiffers));
                }
            }
            Kind::CatalogOrd => {
                let catalog: Catalog = control(body)?;
                if let Some(register) = self.registers.get_mut(&id) {
                    register.catalog = Some(catalog);
                }
                self.learn_catalog(id, effects);
            }
            Kind::RegisterReq if self.storage.is_open() => {
                let known = self.known_register();
                if let Some(link) = self.line(id) {
                    link.send_control(Kind::RegisterConf, &known);
                }
            }
            // It is asked again once it has reported.
            Kind::RegisterReq => {}
            Kind::GoneRep => self.on_gone(now, control::<GoneOrd>(body)?.life, effects),
            Kind::StopOrd => self.on_stop_ord(now, control::<StopOrd>(body)?, effects),
            _ => return Err(Malformed("message: of no kind that a management node sends to a data node")),
        }
        Ok(())
    }

    /// Takes over what a management node has told of the catalog, if that is newer, once it knows the view that is
    /// adopted here. Its register may have been lost: then it knows an older view, and its tables are others, whatever
    /// the version says.
    fn learn_catalog(&mut self, id: LinkId, effects: &mut Vec<Effect>) {
        let Some(register) = self.registers.get_mut(&id).filter(|register| register.view >= self.view.number)
        else {
            return;
        };
        let Some(catalog) = register.catalog.take() else { return };
        if self.catalog.as_ref().is_none_or(|known| catalog.version > known.version) {
            let catalog = Arc::new(catalog);
            self.catalog = Some(catalog.clone());
            self.tell(&ToWorker::Catalog(catalog), effects);
            self.remember(effects);
        }
    }

    fn on_peer(
        &mut self,
        now: Time,
        id: LinkId,
        from: Life,
        (kind, body): (Kind, &[u8]),
        effects: &mut Vec<Effect>,
    ) -> Result<(), Malformed> {
        match kind {
            Kind::HeartbeatReq => self.on_heartbeat(now, id, from, sent_time(body)?),
            Kind::HeartbeatConf => self.on_heartbeat_conf(now, from, sent_time(body)?, effects)?,
            Kind::EpochOrd => self.on_epoch_ord(now, from, control::<EpochOrd>(body)?, effects),
            Kind::EpochDoneRep => self.on_epoch_done(from, control::<EpochDoneRep>(body)?),
            Kind::GoneOrd if control::<GoneOrd>(body)?.life == from => self.on_gone(now, from, effects),
            _ => return Err(Malformed("message: of no kind that a data node's node sends to another")),
        }
        Ok(())
    }
}

fn sent_time(body: &[u8]) -> Result<Time, Malformed> {
    let mut reader = Reader::new(body, "heartbeat");
    let time = Time(reader.u64()?);
    reader.finish()?;
    Ok(time)
}
