//! The connections of one driver: which link has which, and who is being dialed.

use std::{collections::BTreeMap, io, sync::Arc, task::Waker};

use rustix::io::write;
use tokio::net::TcpStream;
use twofold_proto::{
    ids::{Endpoint, WorkerId},
    link::{Hello, HelloReply},
    links::{LinkEffect, LinkId, Linked, Links},
};

use crate::{
    connection::{Connection, Token},
    dial::{Attempted, Dialing, Directory},
    handshake::{Failure, prepare},
    metrics::{DriverMetrics, Tally},
    queue::Queue,
};

/// Connections whose hello the machine has not answered yet, at most. It answers at once, unless it forgets.
const HELLOS_MAX: usize = 64;

#[derive(Default, Debug)]
struct Peer {
    connection: Option<Token>,
    dialing: Option<Dialing>,
}

#[derive(Debug)]
pub(crate) struct Network {
    directory: Directory,
    /// By [`Token::place`].
    connections: Vec<Option<Connection>>,
    generation: u64,
    peers: BTreeMap<LinkId, Peer>,
    hellos: BTreeMap<u64, std::net::TcpStream>,
    next_hello: u64,
    ready: Arc<Queue<Token>>,
    attempts: Arc<Queue<Attempted>>,
    next_serial: u64,
    /// Links that have lost their connection, of which the machine has not been told.
    broken: Vec<LinkId>,
    /// Links that have something to write though the machine did not touch them.
    unwritten: Vec<LinkId>,
    pub tally: Tally,
    metrics: DriverMetrics,
}

impl Network {
    pub fn new(directory: Directory, metrics: DriverMetrics) -> Network {
        Network {
            directory,
            connections: Vec::new(),
            generation: 0,
            peers: BTreeMap::new(),
            hellos: BTreeMap::new(),
            next_hello: 1,
            // Each connection is listed once, and has one attempt under way, so these bound themselves.
            ready: Arc::new(Queue::new(usize::MAX)),
            attempts: Arc::new(Queue::new(usize::MAX)),
            next_serial: 1,
            broken: Vec::new(),
            unwritten: Vec::new(),
            tally: Tally::default(),
            metrics,
        }
    }

    pub fn connection(&mut self, token: Token) -> Option<&mut Connection> {
        self.connections.get_mut(token.place)?.as_mut().filter(|connection| connection.token() == token)
    }

    /// The connections whose sockets are ready.
    pub fn take_ready(&self, into: &mut Vec<Token>, waker: &Waker) {
        self.ready.take(into, waker);
    }

    /// Leaves the connection for the next turn, as it is.
    pub fn put_off(&self, token: Token) {
        // Refused only when the driver has ended.
        let _ = self.ready.push(token);
    }

    pub fn take_attempts(&self, into: &mut Vec<Attempted>, waker: &Waker) {
        self.attempts.take(into, waker);
    }

    /// Keeps a connection until the machine has answered its hello; returns the name for it.
    pub fn greeted(&mut self, socket: std::net::TcpStream) -> u64 {
        if self.hellos.len() >= HELLOS_MAX {
            self.hellos.pop_first();
        }
        let name = self.next_hello;
        self.next_hello += 1;
        self.hellos.insert(name, socket);
        name
    }

    /// Does what the machine asks.
    pub fn carry_out(&mut self, links: &Links, effect: LinkEffect) {
        match effect {
            LinkEffect::Connect { link, to } => {
                let peer = self.peers.entry(link).or_default();
                if peer.dialing.is_none() {
                    peer.dialing = Some(Dialing::new(to));
                    self.redial(links, link);
                }
            }
            LinkEffect::Answer { connection, link, reply } => self.answer(links, connection, link, &reply),
            LinkEffect::Close { link } => {
                if let Some(Peer { connection: Some(token), .. }) = self.peers.remove(&link) {
                    self.connections[token.place] = None;
                }
                self.broken.retain(|other| *other != link);
            }
            LinkEffect::Disconnect { link } => {
                if let Some(token) = self.peers.get(&link).and_then(|peer| peer.connection) {
                    self.lose(token, &"the machine gave it up");
                }
            }
        }
    }

    fn answer(&mut self, links: &Links, name: u64, link: Option<LinkId>, reply: &HelloReply) {
        let Some(socket) = self.hellos.remove(&name) else {
            tracing::warn!(name, "an answer came too late, the connection is gone");
            return;
        };
        match (link.and_then(|link| Some((link, links.get(link)?.peer()))), reply) {
            (Some((link, peer)), HelloReply::Accepted { .. }) => match TcpStream::from_std(socket) {
                Ok(stream) => {
                    tracing::debug!("connected to {peer}");
                    self.attach(link, peer, stream, reply.encode());
                }
                Err(error) => {
                    tracing::warn!("cannot take a connection of {peer}: {error}");
                    self.broken.push(link);
                }
            },
            _ => {
                self.tally.refusals += 1;
                tracing::debug!(?reply, "refused a connection");
                refuse(&socket, reply);
            }
        }
    }

    /// Makes this the link's connection; an older one is closed.
    fn attach(&mut self, link: LinkId, to: Endpoint, stream: TcpStream, preamble: Vec<u8>) {
        let peer = self.peers.entry(link).or_default();
        if let Some(token) = peer.connection.take() {
            self.connections[token.place] = None;
        }
        self.broken.retain(|other| *other != link);
        let place = self.connections.iter().position(Option::is_none).unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.generation += 1;
        let token = Token { place, generation: self.generation };
        peer.connection = Some(token);
        self.connections[place] =
            Some(Connection::new(token, self.ready.clone(), link, to, stream, preamble));
        self.unwritten.push(link);
        self.tally.connects += 1;
    }

    /// Closes a connection that is of no use any more; the machine is told in this turn or the next.
    pub fn lose(&mut self, token: Token, why: &dyn std::fmt::Display) {
        let Some(connection) =
            self.connections[token.place].take_if(|connection| connection.token() == token)
        else {
            return;
        };
        let peer = connection.peer;
        match peer.worker {
            // It came to say or ask one thing.
            WorkerId::ASIDE => tracing::debug!("disconnected from {peer}: {why}"),
            _ => tracing::info!("disconnected from {peer}: {why}"),
        }
        self.tally.disconnects += 1;
        self.broken.push(connection.link);
        if let Some(peer) = self.peers.get_mut(&connection.link) {
            peer.connection = None;
            if let Some(dialing) = &mut peer.dialing {
                dialing.ended(connection.proven);
            }
        }
    }

    /// A link whose loss of its connection the machine has to be told of.
    pub fn next_broken(&mut self) -> Option<LinkId> {
        self.broken.pop()
    }

    pub fn has_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// Begins the next attempt to connect, if this is the side that does.
    pub fn redial(&mut self, links: &Links, link: LinkId) {
        if let Some(Peer { connection: None, dialing: Some(dialing) }) = self.peers.get_mut(&link)
            && let Some(hello) = links.hello(link)
        {
            let serial = self.next_serial;
            self.next_serial += 1;
            dialing.begin(link, serial, hello, &self.directory, &self.attempts);
        }
    }

    /// Takes in how an attempt went. What the machine has to know of is returned: either that the link is
    /// connected, or that it was refused. Anything else calls for [`Network::redial`].
    pub fn attempted(&mut self, attempted: Attempted) -> Option<(LinkId, Result<Connected, Failure>)> {
        let link = attempted.link;
        let dialing = self.peers.get_mut(&link)?.dialing.as_mut()?;
        if !dialing.finish(attempted.serial) {
            return None;
        }
        let peer = dialing.to();
        match attempted.result {
            Ok((stream, incarnation, received)) => {
                tracing::debug!("connected to {peer}");
                self.directory.reached(peer.node);
                self.attach(link, peer, stream, Vec::new());
                Some((link, Ok(Connected { incarnation, received })))
            }
            Err(failure) => {
                dialing.failed(&failure, &self.directory);
                self.tally.refusals += u64::from(matches!(failure, Failure::Refused { .. }));
                Some((link, Err(failure)))
            }
        }
    }

    /// Whether a link is to be written to in the next turn, whatever happens in it.
    pub fn has_to_write(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// The link's socket takes bytes again.
    pub fn unblocked(&mut self, link: LinkId) {
        self.unwritten.push(link);
    }

    /// Writes to each of these links, and to those that had to wait, what their sockets take.
    pub fn write(&mut self, links: &mut Links, dirty: &mut Vec<LinkId>) {
        dirty.append(&mut self.unwritten);
        for &id in &*dirty {
            let Some(Peer { connection: Some(token), .. }) = self.peers.get(&id) else { continue };
            let token = *token;
            let Some(connection) = &mut self.connections[token.place] else { continue };
            let Some(link) = links.writing(id) else { continue };
            match connection.write(link) {
                Ok(written) => {
                    self.tally.bytes_out += written.bytes as u64;
                    self.tally.writes += written.calls as u64;
                    if written.more {
                        self.unwritten.push(id);
                    }
                }
                Err(error) => self.lose(token, &error),
            }
        }
    }

    /// Whether a connection holds bytes that its peer could still be given.
    pub fn has_unwritten(&self, links: &Links) -> bool {
        self.connections
            .iter()
            .flatten()
            .any(|connection| links.get(connection.link).is_some_and(|link| connection.has_unwritten(link)))
    }

    /// Adds what was counted to the metrics.
    pub fn publish(&mut self) {
        self.metrics.add(&self.tally);
        self.tally = Tally::default();
    }

    /// Sets the metrics that are looked at now and then.
    pub fn publish_sizes(&self, machine: &mut impl Linked, mailbox: usize) {
        self.metrics.tell(machine);
        let links = machine.links();
        let kept: usize = links.ids().filter_map(|id| links.get(id)).map(|link| link.kept_bytes()).sum();
        self.metrics.kept_bytes.set(kept as i64);
        self.metrics.connections.set(self.connections.iter().flatten().count() as i64);
        self.metrics.mailbox.set(mailbox as i64);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.ready.close();
        self.attempts.close();
    }
}

/// What the machine is told of a connection that it asked for.
pub(crate) struct Connected {
    pub incarnation: twofold_proto::ids::Incarnation,
    pub received: u64,
}

/// Says no, and why, to who has said hello. The socket is new and its buffer empty, so this does not wait.
pub(crate) fn refuse(socket: &std::net::TcpStream, reply: &HelloReply) {
    if let Err(error) = write(socket, &reply.encode()) {
        tracing::debug!("a refusal was not heard: {}", io::Error::from(error));
    }
}

/// What a driver does first with a connection that it was handed.
pub(crate) fn welcome(socket: &std::net::TcpStream, hello: &Hello) -> bool {
    match socket.set_nonblocking(true).and_then(|()| prepare(socket)) {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!("a connection of {} ended with its hello: {error}", hello.from);
            false
        }
    }
}
