//! What comes over the links: hellos, frames, and whose messages they hold.

use std::{collections::BTreeMap, sync::Arc};

use twofold_proto::{
    ids::{Endpoint, Epoch, Incarnation, TransactionId, ViewNumber},
    link::{FrameHeader, Hello, HelloReply, Messages, Received},
    links::{LinkEffect, LinkId, LinkInput},
    message::{self, Coordinator, Kind, Life},
    time::Time,
    view::View,
    wire::Malformed,
};

use super::{Task, Worker, ahead};

/// How far a client's epoch may be ahead: some hours of epochs. A worker that slept that long has lost its role.
const MAX_EPOCH_LEAD: u64 = 1 << 20;

/// What is known of the other end of a link.
#[derive(Debug)]
pub(super) enum Peer {
    Data(DataPeer),
    Client(ClientPeer),
}

/// A worker of another data node.
#[derive(Debug)]
pub(super) struct DataPeer {
    pub life: Life,
    pub endpoint: Endpoint,
    /// The newest view that it has announced on the link: what it sends now is said under it.
    pub view: ViewNumber,
}

/// Who says something, and under which view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub sender: Endpoint,
    pub under: ViewNumber,
}

/// A client's thread.
#[derive(Debug)]
pub(super) struct ClientPeer {
    pub session: Incarnation,
    /// The newest epoch that it waits for to be durable; 0: for none.
    pub wanted: Epoch,
    /// Requests and transactions that it has open here.
    pub open: usize,
    /// Transactions that wrote nothing, whose commit it has been told of and not confirmed, by commit number: their
    /// participants keep nothing that others could be told.
    pub read: BTreeMap<u64, (TransactionId, Epoch)>,
    /// Since when it has no connection.
    pub lost: Option<Time>,
}

impl Worker {
    pub(super) fn step_link(&mut self, input: LinkInput<'_>) {
        match input {
            LinkInput::Hello { connection, hello } => self.on_hello(connection, &hello),
            LinkInput::Connected { link, incarnation, received } => {
                if self.links.connected(link, incarnation, received).is_err() {
                    self.link_effect(LinkEffect::Disconnect { link });
                }
            }
            // The driver tries again; the next view tells whether it is worth it.
            LinkInput::Refused { .. } => {}
            LinkInput::Disconnected { link } => {
                if let Some(link) = self.links.get_mut(link) {
                    link.disconnected();
                }
                let now = self.now;
                if let Some(Peer::Client(client)) = self.peers.get_mut(&link) {
                    client.lost = Some(now);
                }
            }
            LinkInput::Frame { link, header, payload } => self.on_frame(link, &header, payload),
        }
    }

    pub(super) fn on_hello(&mut self, connection: u64, hello: &Hello) {
        let refused =
            |temporary, reason: &str| (None, HelloReply::Refused { temporary, reason: reason.into() });
        let is_data = self.config.data_node(hello.from.node).is_some();
        let (link, reply) = if let Some(reply) = self.links.objection(hello) {
            (None, reply)
        } else if let Some(link) = self.links.to(hello.from, hello.incarnation) {
            if let Some(Peer::Client(client)) = self.peers.get_mut(&link) {
                client.lost = None;
            }
            let reply = self.links.accept(link, hello);
            (matches!(reply, HelloReply::Accepted { .. }).then_some(link), reply)
        } else if is_data {
            refused(true, "this life is not in the view that is known here")
        } else if hello.received > 0 {
            // Its link was given up here while it was away: what was sent on it is lost, so it must begin again.
            refused(false, "this session was given up here; it had no connection for too long")
        } else {
            let link = self.links.add(hello.from, hello.incarnation);
            let session = hello.incarnation;
            let client =
                ClientPeer { session, wanted: Epoch::default(), open: 0, read: BTreeMap::new(), lost: None };
            self.peers.insert(link, Peer::Client(client));
            self.outcomes.session_known(session);
            self.announce_view(link);
            let reply = self.links.accept(link, hello);
            (Some(link), reply)
        };
        self.link_effect(LinkEffect::Answer { connection, link, reply });
    }

    /// Ends a client's link and whatever it has open.
    pub(super) fn drop_client(&mut self, link: LinkId) {
        let Some(Peer::Client(client)) = self.peers.remove(&link) else { return };
        self.links.remove(link);
        self.link_effect(LinkEffect::Close { link });
        self.outcomes.session_gone(client.session, self.now);
        self.abort_session(client.session);
        self.disowned.forget(client.session);
    }

    pub(super) fn on_frame(&mut self, id: LinkId, header: &FrameHeader, payload: &[u8]) {
        let received = match self.links.receive(id, header) {
            Ok(received) => received,
            Err(malformed) => return self.on_malformed(id, malformed),
        };
        let is_client = matches!(self.peers.get(&id), Some(Peer::Client(_)));
        if is_client && header.epoch.0 > self.epoch.0 + MAX_EPOCH_LEAD {
            return self.on_malformed(id, Malformed("epoch of a client"));
        }
        self.epoch = self.epoch.max(header.epoch);
        if received == Received::New {
            let mut messages = Messages::new(payload);
            let mut ahead = self.begin_ahead(&messages);
            let mut looked_at = 0;
            loop {
                if looked_at == 0 {
                    self.look_ahead(&mut ahead);
                    looked_at = ahead::GROUP;
                }
                looked_at -= 1;
                let Some(message) = messages.next() else { break };
                let handled = message.and_then(|message| {
                    let kind = Kind::from_number(message.kind)?;
                    if is_client {
                        self.on_client_message(id, kind, message.body)
                    } else {
                        self.on_data_message(id, kind, message.body)
                    }
                });
                if let Err(malformed) = handled {
                    return self.on_malformed(id, malformed);
                }
                self.run_tasks();
                if self.links.get(id).is_none() {
                    // The message brought a view without the sender.
                    return;
                }
            }
        }
        let Some(link) = self.links.writing(id) else { return };
        let before = link.acknowledged();
        link.processed(header);
        if link.wants_seal() {
            self.links.get_mut(id);
        }
        let acknowledged = self.links.get(id).map_or(before, |link| link.acknowledged());
        if acknowledged > before && !is_client {
            self.waits.acknowledged(id, acknowledged, &mut self.tasks);
            self.run_tasks();
            self.continue_copies(id);
        }
    }

    pub(super) fn on_malformed(&mut self, id: LinkId, malformed: Malformed) {
        match self.peers.get(&id) {
            Some(Peer::Client(_)) => self.drop_client(id),
            Some(Peer::Data(peer)) => panic!("{malformed} from {:?} of {:?}", peer.endpoint, peer.life),
            None => {}
        }
    }

    pub(super) fn on_data_message(&mut self, id: LinkId, kind: Kind, body: &[u8]) -> Result<(), Malformed> {
        let Some(Peer::Data(peer)) = self.peers.get(&id) else { return Ok(()) };
        let (sender, life, said_under) = (peer.endpoint, peer.life, peer.view);
        let coordinator = Coordinator { endpoint: sender, incarnation: life.incarnation };
        match kind {
            Kind::ViewOrd => {
                let view: View = message::control(body)?;
                if let Some(Peer::Data(peer)) = self.peers.get_mut(&id) {
                    peer.view = peer.view.max(view.number);
                }
                self.adopt_view(Arc::new(view));
            }
            Kind::ExecuteReq => self.on_execute(coordinator, body)?,
            Kind::ExecuteConf => self.on_execute_conf(sender, body)?,
            Kind::ExecuteRef => self.on_execute_ref(sender, message::control(body)?),
            Kind::UndoOrd => self.tasks.push_back(Task::Undo(coordinator, message::control(body)?)),
            Kind::WoundOrd => self.tasks.push_back(Task::Wounded(message::control(body)?)),
            Kind::EndOrd => self.tasks.push_back(Task::End(coordinator, message::control(body)?)),
            Kind::PrepareReq => self.on_prepare(coordinator, message::control(body)?),
            Kind::PrepareConf => self.on_prepare_conf(Some(sender), message::control(body)?),
            Kind::PrepareRef => self.on_prepare_ref(Some(sender), message::control(body)?),
            Kind::DecideReq => self.on_decide(coordinator, message::control(body)?),
            Kind::DecideConf => self.on_decide_conf(Some(sender), message::control(body)?),
            Kind::WriteSetReq => self.on_write_set(Said { sender, under: said_under }, body)?,
            Kind::DecideOrd => self.on_decide_ord(Said { sender, under: said_under }, body)?,
            Kind::OutcomeReq => self.on_outcome_req(Some(id), message::control(body)?),
            Kind::OutcomeConf => self.on_outcome_conf(message::control(body)?),
            Kind::ReplicaStateOrd => self.on_replica_state(sender.node, message::control(body)?),
            Kind::CopyReq => self.on_copy_req(id, body)?,
            Kind::CopyBeginOrd => {
                self.on_copy_begin(Said { sender, under: said_under }, message::control(body)?);
            }
            Kind::CopyRowsOrd => self.on_copy_rows(Said { sender, under: said_under }, body)?,
            Kind::CopyEndOrd => self.on_copy_end(Said { sender, under: said_under }, body)?,
            Kind::IncludeOrd => self.on_include(Said { sender, under: said_under }),
            _ => return Err(Malformed("message between workers")),
        }
        Ok(())
    }
}
