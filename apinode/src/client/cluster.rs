//! What the client knows of the cluster: config, view, catalog; its links, and which of them serves which partition.

use std::{collections::BTreeMap, sync::Arc};

use twofold_proto::{
    config::ClusterConfig,
    ids::{Endpoint, Incarnation, PartitionId, WorkerId},
    link::{FrameHeader, Message, Messages, Received},
    links::{LinkEffect, LinkId, LinkInput},
    message::{self, Catalog, Kind, Life, put_control},
    placement::PartitionMap,
    time::Duration,
    view::View,
    wire::{Malformed, Reader, Writer},
};

use super::{Client, Effect, NEVER, calls::AHEAD};

/// How soon workers are told that the mark has moved, if something goes to them anyway; and at the latest.
const MARK_EVERY: Duration = Duration::from_millis(20);
const MARK_AT_LATEST: Duration = Duration::from_millis(200);

/// What is at the other end of a link.
#[derive(Debug)]
pub(super) enum Peer {
    Management,
    Worker {
        life: Life,
        /// Whether it has ever answered: then there is something to lose.
        known: bool,
        /// The mark that it was told last; none yet on this link.
        marked: Option<u64>,
    },
}

impl Client {
    pub(super) fn connect_management(&mut self) {
        for endpoint in self.setup.management.clone() {
            self.add_link(endpoint, Incarnation(0), Peer::Management);
        }
    }

    /// Makes a link. The first message on it is the view.
    fn add_link(&mut self, to: Endpoint, incarnation: Incarnation, peer: Peer) {
        let link = self.links.add(to, incarnation);
        self.peers.insert(link, peer);
        self.announce_view(link);
        self.push_link_effect(LinkEffect::Connect { link, to });
    }

    fn remove_link(&mut self, link: LinkId) {
        self.peers.remove(&link);
        self.links.remove(link);
        self.push_link_effect(LinkEffect::Close { link });
    }

    fn announce_view(&mut self, link: LinkId) {
        if self.view.number.0 > 0 {
            let view = &*self.view;
            let link = self.links.get_mut(link).expect("it is there");
            link.send_later(Kind::ViewOrd as u8, 0, |out| put_control(out, view));
        }
    }

    pub(super) fn step_link(&mut self, input: LinkInput<'_>) {
        match input {
            // Nobody connects to a client.
            LinkInput::Hello { connection, .. } => {
                let reason = "a client takes no connections".to_string();
                let reply = twofold_proto::link::HelloReply::Refused { temporary: false, reason };
                self.push_link_effect(LinkEffect::Answer { connection, link: None, reply });
            }
            LinkInput::Connected { link, incarnation, received } => {
                self.on_connected(link, incarnation, received)
            }
            LinkInput::Refused { link, temporary, .. } => self.on_refused_link(link, temporary),
            LinkInput::Disconnected { link } => {
                if let Some(link) = self.links.get_mut(link) {
                    link.disconnected();
                }
                self.tell_serves();
            }
            LinkInput::Frame { link, header, payload } => {
                if self.on_frame(link, &header, payload).is_err() {
                    self.push_link_effect(LinkEffect::Disconnect { link });
                }
            }
        }
    }

    fn on_connected(&mut self, id: LinkId, incarnation: Incarnation, received: u64) {
        // A worker that has given a link up refuses one of which something had arrived here.
        let unheard = self.links.get(id).is_some_and(|link| link.has_written() && link.received() == 0);
        if received == 0 && unheard && matches!(self.peers.get(&id), Some(Peer::Worker { known: true, .. })) {
            // It may have processed what was written and then given the link up: not to be told twice.
            return self.renew_link(id);
        }
        if self.links.connected(id, incarnation, received).is_err() {
            return self.push_link_effect(LinkEffect::Disconnect { link: id });
        }
        let mark = Some(self.session.mark());
        if let Some(Peer::Worker { known, marked, .. }) = self.peers.get_mut(&id) {
            *known = true;
            if *marked < mark {
                self.mark_moved();
            }
        }
        self.tell_serves();
    }

    /// Says whether the cluster can be served, if that has changed.
    pub(super) fn tell_serves(&mut self) {
        let connected = |&link: &LinkId| self.links.get(link).is_some_and(|link| link.is_connected());
        let serves = self.is_ready() && !self.stopping && self.primaries.iter().all(connected);
        if std::mem::replace(&mut self.serves, serves) != serves {
            self.effects.push(Effect::Serves(serves));
        }
    }

    /// The driver tries again, but two things it cannot get over: a management node that was started anew, and a
    /// worker that has given this client up while it was away.
    fn on_refused_link(&mut self, id: LinkId, temporary: bool) {
        let Some(link) = self.links.get(id) else { return };
        let (to, incarnation) = (link.peer(), link.incarnation());
        match self.peers[&id] {
            Peer::Management if incarnation.0 != 0 => {
                self.remove_link(id);
                self.add_link(to, Incarnation(0), Peer::Management);
                self.changes_lost(id);
            }
            Peer::Worker { known: true, .. } if !temporary => self.renew_link(id),
            _ => {}
        }
    }

    /// Begins the link to a worker anew. What became of requests on the old one is to be asked.
    fn renew_link(&mut self, id: LinkId) {
        let (Some(link), Some(&Peer::Worker { life, .. })) = (self.links.get(id), self.peers.get(&id)) else {
            return;
        };
        let (to, incarnation) = (link.peer(), link.incarnation());
        self.counters.links_renewed += 1;
        self.remove_link(id);
        self.add_link(to, incarnation, Peer::Worker { life, known: false, marked: None });
        self.find_routes();
        self.calls_lost();
    }

    fn on_frame(&mut self, id: LinkId, header: &FrameHeader, payload: &[u8]) -> Result<(), Malformed> {
        let Some(peer) = self.peers.get(&id) else { return Ok(()) };
        let is_worker = matches!(peer, Peer::Worker { .. });
        let received = self.links.receive(id, header)?;
        self.epoch = self.epoch.max(header.epoch);
        if received == Received::New {
            let mut ahead = Messages::new(payload);
            ahead.by_ref().take(AHEAD).for_each(|message| self.prefetch_call(message));
            for message in Messages::new(payload) {
                ahead.next().into_iter().for_each(|message| self.prefetch_call(message));
                let message = message?;
                let kind = Kind::from_number(message.kind)?;
                if is_worker {
                    self.on_worker_message(id, kind, message.body)?;
                } else {
                    self.on_management_message(id, kind, message.body)?;
                }
                if self.links.get(id).is_none() {
                    // The message was a view without its sender.
                    return Ok(());
                }
            }
        }
        let Some(link) = self.links.writing(id) else { return Ok(()) };
        link.processed(header);
        if link.wants_seal() {
            self.links.get_mut(id);
        }
        Ok(())
    }

    /// Has the call that a message answers brought into the cache, if it is that of a single operation.
    fn prefetch_call(&self, message: Result<Message<'_>, Malformed>) {
        let Ok(message) = message else { return };
        if (message.kind == Kind::OperationConf as u8 || message.kind == Kind::WriteConf as u8)
            && let Ok(request) = Reader::new(message.body, "answer").u32()
        {
            self.calls.prefetch(request);
        }
    }

    fn on_worker_message(&mut self, link: LinkId, kind: Kind, body: &[u8]) -> Result<(), Malformed> {
        match kind {
            Kind::OperationConf => self.on_operation_conf(link, body),
            Kind::WriteConf => self.on_write_conf(link, body),
            Kind::OperationRef => self.on_operation_ref(link, body),
            Kind::ScanConf => self.on_scan_conf(link, body),
            Kind::RangeConf => self.on_range_conf(link, body),
            Kind::TransactionConf => self.on_transaction_conf(link, body),
            Kind::TransactionRef => self.on_transaction_ref(link, message::control(body)?),
            Kind::DurableConf => self.on_durable_conf(body),
            Kind::StatusConf => self.on_status_conf(link, &message::control(body)?),
            Kind::ViewOrd => {
                self.adopt_view(message::control(body)?);
                Ok(())
            }
            _ => Err(Malformed("message of a worker to a client")),
        }
    }

    fn on_management_message(&mut self, link: LinkId, kind: Kind, body: &[u8]) -> Result<(), Malformed> {
        match kind {
            Kind::ConfigOrd => self.adopt_config(message::control(body)?),
            Kind::ViewOrd => self.adopt_view(message::control(body)?),
            Kind::CatalogOrd => self.adopt_catalog(message::control(body)?),
            Kind::CatalogConf => self.on_catalog_conf(link, message::control(body)?),
            // What management nodes tell everybody may grow; the rest is not for clients.
            _ => {}
        }
        Ok(())
    }

    fn adopt_config(&mut self, config: ClusterConfig) {
        if self.config.as_deref() == Some(&config) {
            return;
        }
        let config = Arc::new(config);
        self.effects.push(Effect::Config(config.clone()));
        self.config = Some(config);
        self.connect_workers();
        self.tell_catalog();
    }

    fn adopt_catalog(&mut self, catalog: Catalog) {
        if self.has_catalog && catalog.version <= self.catalog.version {
            return;
        }
        self.has_catalog = true;
        self.catalog = Arc::new(catalog);
        self.tell_catalog();
        self.changes_known();
    }

    /// Says which tables there are, once requests can be made.
    fn tell_catalog(&mut self) {
        let version = Some(self.catalog.version);
        if self.is_ready() && self.told_catalog != version {
            self.told_catalog = version;
            self.effects.push(Effect::Catalog(self.catalog.clone()));
        }
        self.tell_serves();
    }

    fn adopt_view(&mut self, view: View) {
        if view.number <= self.view.number {
            return;
        }
        self.counters.views += 1;
        self.view = Arc::new(view);
        let view = self.view.clone();
        let gone = |peer: &Peer| match peer {
            Peer::Worker { life, .. } => !view.contains(life.node, life.incarnation),
            Peer::Management => false,
        };
        let gone: Vec<LinkId> =
            self.peers.iter().filter(|(_, peer)| gone(peer)).map(|(&link, _)| link).collect();
        for link in gone {
            self.remove_link(link);
        }
        for link in self.links.ids().collect::<Vec<_>>() {
            self.announce_view(link);
        }
        self.connect_workers();
        self.tell_catalog();
    }

    /// Config or view is new: makes the links that are missing, and sends again what has lost its link or waited
    /// for a primary.
    fn connect_workers(&mut self) {
        let (Some(config), view) = (self.config.clone(), self.view.clone()) else { return };
        // Those that still copy, too: they keep the outcomes of what they are sent until its session has confirmed them.
        for member in &view.members {
            let life = Life { node: member.node, incarnation: member.incarnation };
            for worker in 0..member.workers {
                let to = Endpoint::new(member.node, WorkerId(worker));
                if config.data_node(member.node).is_some() && self.links.to(to, member.incarnation).is_none()
                {
                    self.add_link(to, member.incarnation, Peer::Worker { life, known: false, marked: None });
                }
            }
        }
        self.map = PartitionMap::new(&config, &view);
        self.find_routes();
        self.calls_lost();
        self.run_all_waiting();
        self.release_durable();
        self.ask_durable();
    }

    fn find_routes(&mut self) {
        let route = |partition| {
            let primary = self.map.primary(PartitionId(partition))?;
            self.links.to(primary, self.view.member(primary.node)?.incarnation)
        };
        self.routes = (0..self.map.partitions()).map(|index| route(index).unwrap_or(LinkId::NONE)).collect();
        self.primaries = self.routes.iter().copied().collect();
        let mut first = BTreeMap::new();
        for (number, &link) in self.routes.iter().enumerate() {
            first.entry(link).or_insert(PartitionId(number as u16));
        }
        self.spread = first.into_values().collect();
        self.tell_serves();
    }

    /// The link to the partition's primary.
    #[inline]
    pub(super) fn route(&self, partition: PartitionId) -> LinkId {
        self.routes.get(usize::from(partition.0)).copied().unwrap_or(LinkId::NONE)
    }

    /// The mark is larger than what some worker was told.
    pub(super) fn mark_moved(&mut self) {
        if self.mark_at == NEVER {
            self.mark_at = self.now + MARK_EVERY;
        }
    }

    /// Tells the workers of the mark. Those without a connection hear of it when they have one.
    pub(super) fn tick_mark(&mut self) {
        if self.mark_at <= self.now {
            self.mark_at = NEVER;
            let mark = self.session.mark();
            for (&id, peer) in &mut self.peers {
                let Peer::Worker { marked, .. } = peer else { continue };
                if *marked < Some(mark) && self.links.get(id).is_some_and(|link| link.is_connected()) {
                    *marked = Some(mark);
                    let link = self.links.get_mut(id).expect("just seen");
                    link.send_later(Kind::MarkOrd as u8, 0, |out| out.put_u64(mark));
                }
            }
            self.flush_at = self.flush_at.min(self.now + MARK_AT_LATEST);
        }
        if self.flush_at <= self.now {
            self.flush_at = NEVER;
            self.seal_all = true;
        }
    }

    /// Tells one worker of the mark, if it has not been: it is to be asked about a commit of this session, and answers by
    /// what it knows to be confirmed.
    pub(super) fn tell_mark(&mut self, id: LinkId) {
        let mark = self.session.mark();
        if let Some(Peer::Worker { marked, .. }) = self.peers.get_mut(&id)
            && *marked < Some(mark)
        {
            *marked = Some(mark);
            let link = self.links.get_mut(id).expect("peers have links");
            link.send_later(Kind::MarkOrd as u8, 0, |out| out.put_u64(mark));
        }
    }

    pub(super) fn send_session_end(&mut self) {
        for (&id, peer) in &self.peers {
            if let Peer::Worker { .. } = peer {
                let link = self.links.get_mut(id).expect("peers have links");
                link.send(Kind::SessionEndOrd as u8, 0, |_| ());
            }
        }
    }
}
