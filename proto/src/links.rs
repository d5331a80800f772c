//! All links of one machine, and how its driver serves them.

use std::collections::BTreeMap;

use crate::{
    ids::{Endpoint, Epoch, Incarnation, NodeId, WorkerId},
    link::{FrameHeader, Hello, HelloReply, Link, PROTOCOL_VERSION, Received},
    machine::Machine,
    time::Time,
    wire::Malformed,
};

/// A link of a machine. Slots are reused: the upper half counts how often, so that a name never means two links.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(u64);

impl LinkId {
    /// No link, now and ever.
    pub const NONE: LinkId = LinkId(u64::MAX);

    fn new(slot: usize, generation: u32) -> LinkId {
        LinkId(u64::from(generation) << 32 | slot as u64)
    }

    fn slot(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What a driver tells a machine about its links.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkInput<'a> {
    /// Someone connected and said this. The machine answers with [`LinkEffect::Answer`].
    Hello {
        /// The driver's name for the connection.
        connection: u64,
        /// What was said.
        hello: Hello,
    },
    /// A connection that was asked for with [`LinkEffect::Connect`] is up.
    Connected {
        /// The link.
        link: LinkId,
        /// Which life of the peer answered.
        incarnation: Incarnation,
        /// The newest frame that it has processed.
        received: u64,
    },
    /// The peer refused the link; the driver tries again if it is temporary.
    Refused {
        /// The link.
        link: LinkId,
        /// Whether that may change.
        temporary: bool,
        /// Why.
        reason: String,
    },
    /// The connection broke. The driver of the connecting side makes another.
    Disconnected {
        /// The link.
        link: LinkId,
    },
    /// A frame was read.
    Frame {
        /// The link.
        link: LinkId,
        /// Its header.
        header: FrameHeader,
        /// Its messages.
        payload: &'a [u8],
    },
}

/// What a machine asks of its driver about its links.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEffect {
    /// Connect to the peer, saying [`Links::hello`] at each attempt, and go on trying until [`LinkEffect::Close`].
    Connect {
        /// The link.
        link: LinkId,
        /// Whom.
        to: Endpoint,
    },
    /// Answer a connection's hello. If accepted, it is the link's connection from now on, and any older one is closed.
    Answer {
        /// The connection.
        connection: u64,
        /// The link that it belongs to, if accepted.
        link: Option<LinkId>,
        /// What to say.
        reply: HelloReply,
    },
    /// The link is gone: close its connection.
    Close {
        /// The link.
        link: LinkId,
    },
    /// Close the link's connection; the link stays. It spoke nonsense, or is to be made anew.
    Disconnect {
        /// The link.
        link: LinkId,
    },
}

/// A machine with links. A driver works in *turns*: it steps the machine with all that has arrived, then calls
/// [`Linked::end_turn`], then writes what [`Links::take_dirty`] names.
pub trait Linked: Machine {
    /// Wraps what happened to a link.
    fn link_input(input: LinkInput<'_>) -> Self::Input<'_>;
    /// What the effect asks for links, if it does.
    fn link_effect(effect: Self::Effect) -> Result<LinkEffect, Self::Effect>;
    /// The links.
    fn links(&mut self) -> &mut Links;
    /// The inputs of this turn have been handled.
    fn end_turn(&mut self, now: Time, effects: &mut Vec<Self::Effect>);
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    link: Option<Link>,
    dirty: bool,
}

/// The links of one machine.
#[derive(Debug)]
pub struct Links {
    own: Endpoint,
    incarnation: Incarnation,
    cluster: String,
    slots: Vec<Slot>,
    free: Vec<usize>,
    by_peer: BTreeMap<(Endpoint, Incarnation), LinkId>,
    dirty: Vec<LinkId>,
}

impl Links {
    /// No links yet, of this life of this endpoint, in the cluster of this name.
    pub fn new(own: Endpoint, incarnation: Incarnation, cluster: &str) -> Links {
        Links {
            own,
            incarnation,
            cluster: cluster.into(),
            slots: Vec::new(),
            free: Vec::new(),
            by_peer: BTreeMap::new(),
            dirty: Vec::new(),
        }
    }

    /// This end.
    pub fn own(&self) -> Endpoint {
        self.own
    }

    /// This life.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Adds a link to this life of a peer (0: whichever answers). The caller emits [`LinkEffect::Connect`] if this
    /// side connects.
    pub fn add(&mut self, peer: Endpoint, incarnation: Incarnation) -> LinkId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, link: None, dirty: false });
            self.slots.len() - 1
        });
        let entry = &mut self.slots[slot];
        entry.link = Some(Link::new(peer, incarnation));
        let id = LinkId::new(slot, entry.generation);
        let replaced = self.by_peer.insert((peer, incarnation), id);
        assert_eq!(replaced, None, "two links to {peer:?} {incarnation:?}");
        id
    }

    /// Ends a link; `None` if it is gone already. The caller emits [`LinkEffect::Close`].
    pub fn remove(&mut self, id: LinkId) -> Option<Link> {
        let slot = self.slots.get_mut(id.slot()).filter(|slot| slot.generation == id.generation())?;
        let link = slot.link.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.dirty = false;
        self.free.push(id.slot());
        self.by_peer.retain(|_, other| *other != id);
        Some(link)
    }

    /// The link, if it is still there.
    #[inline]
    pub fn get(&self, id: LinkId) -> Option<&Link> {
        self.slots.get(id.slot()).filter(|slot| slot.generation == id.generation())?.link.as_ref()
    }

    /// The link, if it is still there; its driver will look at it after this turn.
    #[inline]
    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        let slot = self.slots.get_mut(id.slot()).filter(|slot| slot.generation == id.generation())?;
        if !slot.dirty && slot.link.is_some() {
            slot.dirty = true;
            self.dirty.push(id);
        }
        slot.link.as_mut()
    }

    /// The link to this life of the peer.
    pub fn to(&self, peer: Endpoint, incarnation: Incarnation) -> Option<LinkId> {
        self.by_peer.get(&(peer, incarnation)).copied()
    }

    /// The links to any life of the peer.
    pub fn to_any(&self, peer: Endpoint) -> impl Iterator<Item = LinkId> + '_ {
        self.by_peer.range((peer, Incarnation(0))..=(peer, Incarnation(u64::MAX))).map(|(_, &id)| id)
    }

    /// All links, by peer.
    pub fn ids(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.by_peer.values().copied()
    }

    /// What to say when connecting.
    pub fn hello(&self, id: LinkId) -> Option<Hello> {
        let link = self.get(id)?;
        Some(Hello {
            version: PROTOCOL_VERSION,
            cluster: self.cluster.clone(),
            from: self.own,
            incarnation: self.incarnation,
            to: link.peer(),
            to_incarnation: link.incarnation(),
            received: link.received(),
        })
    }

    /// What speaks against a hello, whoever says it. A client that knows nothing but an address, and wants to learn the
    /// config, names neither the cluster nor the node: a machine that is no worker hears it.
    pub fn objection(&self, hello: &Hello) -> Option<HelloReply> {
        let learns = self.own.worker == WorkerId::NODE
            && hello.from.node == NodeId(0)
            && (hello.cluster.as_str(), hello.to) == ("", Endpoint::node(NodeId(0)));
        let (temporary, reason) = if hello.cluster != self.cluster && !learns {
            (false, format!("this is cluster «{}», not «{}»", self.cluster, hello.cluster))
        } else if hello.version.abs_diff(PROTOCOL_VERSION) > 1 {
            (false, format!("protocol version {} is spoken here, not {}", PROTOCOL_VERSION, hello.version))
        } else if hello.to != self.own && !learns {
            (false, format!("this is {:?}, not {:?}", self.own, hello.to))
        } else if hello.to_incarnation.0 != 0 && hello.to_incarnation != self.incarnation {
            (true, format!("{:?} has been started anew", self.own.node))
        } else if hello.incarnation.0 == 0 {
            (false, "an incarnation is not 0".to_string())
        } else {
            return None;
        };
        Some(HelloReply::Refused { temporary, reason })
    }

    /// Takes a new connection for the link, as the accepting side; returns the answer.
    pub fn accept(&mut self, id: LinkId, hello: &Hello) -> HelloReply {
        let incarnation = self.incarnation;
        let accepted = match self.get_mut(id) {
            Some(link) => link.connected(hello.incarnation, hello.received).map(|()| link.received()),
            None => Err(Malformed("handshake")),
        };
        match accepted {
            Ok(received) => HelloReply::Accepted { incarnation, received },
            Err(Malformed(_)) => HelloReply::Refused {
                temporary: false,
                reason: "the two ends do not agree on what was sent".into(),
            },
        }
    }

    /// As the connecting side: the peer has accepted. A link to any life becomes one to this life.
    ///
    /// # Errors
    /// If the peer's answer cannot be; the connection is to be closed.
    pub fn connected(
        &mut self,
        id: LinkId,
        incarnation: Incarnation,
        received: u64,
    ) -> Result<(), Malformed> {
        let Some(link) = self.get_mut(id) else { return Err(Malformed("handshake")) };
        let (peer, before) = (link.peer(), link.incarnation());
        link.connected(incarnation, received)?;
        if before != incarnation {
            self.by_peer.remove(&(peer, before));
            self.by_peer.insert((peer, incarnation), id);
        }
        Ok(())
    }

    /// Takes in a frame's header; the machine then processes its messages, if they are new, and calls
    /// [`Link::processed`].
    pub fn receive(&mut self, id: LinkId, header: &FrameHeader) -> Result<Received, Malformed> {
        match self.get_mut(id) {
            Some(link) => link.receive(header),
            None => Ok(Received::Nothing),
        }
    }

    /// At the end of a turn: closes the frames of all links that were touched; `all`: also what may wait.
    pub fn seal(&mut self, epoch: Epoch, all: bool) {
        if all {
            for slot in 0..self.slots.len() {
                let entry = &mut self.slots[slot];
                if let Some(link) = &mut entry.link {
                    link.seal(epoch, true);
                    if !entry.dirty {
                        entry.dirty = true;
                        self.dirty.push(LinkId::new(slot, entry.generation));
                    }
                }
            }
            return;
        }
        for id in &self.dirty {
            let slot = &mut self.slots[id.slot()];
            if slot.generation == id.generation()
                && let Some(link) = &mut slot.link
            {
                link.seal(epoch, false);
            }
        }
    }

    /// The links that may have something to write; the driver asks once a turn.
    pub fn take_dirty(&mut self, into: &mut Vec<LinkId>) {
        into.clear();
        for id in self.dirty.drain(..) {
            let slot = &mut self.slots[id.slot()];
            if slot.generation == id.generation() && slot.link.is_some() {
                slot.dirty = false;
                into.push(id);
            }
        }
    }

    /// For the driver: the link whose bytes it writes, without marking it as touched.
    pub fn writing(&mut self, id: LinkId) -> Option<&mut Link> {
        self.slots.get_mut(id.slot()).filter(|slot| slot.generation == id.generation())?.link.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links::new(Endpoint::new(NodeId(1), WorkerId(0)), Incarnation(10), "local")
    }

    #[test]
    fn a_slot_reused_is_another_link() {
        let mut links = links();
        let peer = Endpoint::new(NodeId(2), WorkerId(0));
        let first = links.add(peer, Incarnation(1));
        assert!(links.remove(first).is_some());
        let second = links.add(peer, Incarnation(2));
        assert_ne!(first, second);
        assert!(links.get(first).is_none() && links.remove(first).is_none());
        assert_eq!(links.to(peer, Incarnation(2)), Some(second));
        assert_eq!(links.to(peer, Incarnation(1)), None);
    }

    #[test]
    fn a_wrong_hello_is_refused_in_words() {
        let links = links();
        let hello = Hello {
            version: PROTOCOL_VERSION,
            cluster: "local".into(),
            from: Endpoint::node(NodeId(2)),
            incarnation: Incarnation(1),
            to: links.own(),
            to_incarnation: Incarnation(10),
            received: 0,
        };
        assert_eq!(links.objection(&hello), None);
        let reason = |hello: &Hello| match links.objection(hello) {
            Some(HelloReply::Refused { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(&Hello { cluster: "other".into(), ..hello.clone() }).contains("«local», not «other»"));
        assert!(reason(&Hello { version: 9, ..hello.clone() }).contains("version"));
        assert!(reason(&Hello { to: Endpoint::node(NodeId(1)), ..hello.clone() }).contains("not n1"));
        assert!(reason(&Hello { to_incarnation: Incarnation(9), ..hello.clone() }).contains("started anew"));
    }

    #[test]
    fn who_knows_only_an_address_is_heard_by_a_machine_that_is_no_worker() {
        let stranger = Hello {
            version: PROTOCOL_VERSION,
            cluster: String::new(),
            from: Endpoint::new(NodeId(0), WorkerId(7)),
            incarnation: Incarnation(1),
            to: Endpoint::node(NodeId(0)),
            to_incarnation: Incarnation(0),
            received: 0,
        };
        let node = Links::new(Endpoint::node(NodeId(1)), Incarnation(10), "local");
        assert_eq!(node.objection(&stranger), None);
        assert!(links().objection(&stranger).is_some(), "a worker does not");
        assert!(node.objection(&Hello { cluster: "other".into(), ..stranger.clone() }).is_some());
        assert!(node.objection(&Hello { from: Endpoint::node(NodeId(11)), ..stranger }).is_some());
    }

    #[test]
    fn only_touched_links_are_dirty() {
        let mut links = links();
        let a = links.add(Endpoint::node(NodeId(2)), Incarnation(1));
        let b = links.add(Endpoint::node(NodeId(3)), Incarnation(1));
        links.get_mut(b).unwrap().send(1, 0, |_| ());
        let mut dirty = Vec::new();
        links.take_dirty(&mut dirty);
        assert_eq!(dirty, [b]);
        links.take_dirty(&mut dirty);
        assert_eq!(dirty, []);
        links.seal(Epoch(1), true);
        links.take_dirty(&mut dirty);
        assert_eq!(dirty, [a, b]);
    }
}
