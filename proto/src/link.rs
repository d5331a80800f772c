//! Links: between two endpoints, life to life, messages arrive in order and exactly once, until one side gives the
//! other up. A link outlives its TCP connections: frames are kept until acknowledged, and sent again on the next
//! connection.
//!
//! An acknowledgement says more than «arrived»: a machine's driver acknowledges a frame after the machine was
//! stepped with it. So the acknowledgement of a frame that holds a write set says that the replica has it.
//!
//! A link does no IO. Its driver writes what [`Link::unwritten`] gives, reports it with [`Link::wrote`], and hands
//! every frame that it reads to [`Link::receive`].
//!
//! ```text
//! frame:   u32 bytes in all, this header included
//!          u8 flags, 3 bytes 0
//!          u64 number, from 1, without gaps; 0: only an acknowledgement
//!          u64 number of the newest frame that the sender has processed
//!          u64 the sender's epoch
//!          messages
//! message: u32 bytes of the body, u8 kind, u8 flags, 2 bytes 0, body
//! ```

use std::collections::VecDeque;

use crate::{
    ids::{Endpoint, Epoch, Incarnation},
    limits::{FRAME_BYTES_FULL, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX},
    wire::{Malformed, Reader, Writer},
};

/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = 32;
/// Bytes of a message's header.
pub const MESSAGE_HEADER: usize = 8;
/// Frame flag: acknowledge after this turn, do not wait for something to send.
const ACKNOWLEDGE_NOW: u8 = 1;
/// Acknowledge unasked after so many frames, so that the sender's buffers empty.
const FRAMES_UNACKNOWLEDGED_MAX: u64 = 64;
/// Spare buffers kept.
const SPARE_BUFFERS: usize = 8;

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Bytes in all, with the header.
    pub length: usize,
    flags: u8,
    /// Number in the link, from 1; 0 for a mere acknowledgement.
    pub number: u64,
    /// The newest frame that the sender has processed.
    pub acknowledged: u64,
    /// The sender's epoch.
    pub epoch: Epoch,
}

impl FrameHeader {
    /// The header at the start of `bytes`; none yet if they are too few.
    pub fn parse(bytes: &[u8]) -> Result<Option<FrameHeader>, Malformed> {
        let Some(bytes) = bytes.get(..FRAME_HEADER) else { return Ok(None) };
        let mut reader = Reader::new(bytes, "frame header");
        let length = reader.u32()? as usize;
        let flags = reader.u8()?;
        let padding = reader.array::<3>()?;
        let header = FrameHeader {
            length,
            flags,
            number: reader.u64()?,
            acknowledged: reader.u64()?,
            epoch: Epoch(reader.u64()?),
        };
        if !(FRAME_HEADER..=FRAME_BYTES_MAX).contains(&length) || flags > ACKNOWLEDGE_NOW || padding != [0; 3]
        {
            return Err(Malformed("frame header"));
        }
        Ok(Some(header))
    }
}

/// One message of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// What it is; see [`crate::message`].
    pub kind: u8,
    /// Of the kind's own meaning.
    pub flags: u8,
    /// The rest.
    pub body: &'a [u8],
}

/// The messages of a frame, in order.
#[derive(Clone, Debug)]
pub struct Messages<'a>(Reader<'a>);

impl<'a> Messages<'a> {
    /// The messages in a frame's bytes after its header.
    pub fn new(payload: &'a [u8]) -> Messages<'a> {
        Messages(Reader::new(payload, "frame"))
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut read = || {
            let length = self.0.u32()? as usize;
            let [kind, flags, _, _] = self.0.array::<4>()?;
            Ok(Message { kind, flags, body: self.0.bytes(length)? })
        };
        let message = read();
        if message.is_err() {
            self.0 = Reader::new(&[], "frame");
        }
        Some(message)
    }
}

/// What to do with a frame that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// Step the machine with its messages.
    New,
    /// It was processed before, or holds no messages.
    Nothing,
}

#[derive(Debug)]
struct SentFrame {
    number: u64,
    bytes: Vec<u8>,
}

/// One direction pair between two endpoints' lives.
#[derive(Debug)]
pub struct Link {
    peer: Endpoint,
    incarnation: Incarnation,
    connected: bool,
    /// Whether anything was ever written to a connection.
    has_written: bool,
    /// The frame being filled: header space and messages, or empty.
    open: Vec<u8>,
    /// Whether `open` should go out at the end of this turn, not with the next tick.
    urgent: bool,
    acknowledge_now: bool,
    /// Sealed frames, from the oldest unacknowledged one.
    sent: VecDeque<SentFrame>,
    /// A mere acknowledgement to write before `sent`, and how much of it is written.
    bare: Vec<u8>,
    bare_written: usize,
    /// Index in `sent` of the frame being written, and how many of its bytes are.
    writing: usize,
    written: usize,
    kept_bytes: usize,
    next_number: u64,
    acknowledged: u64,
    received: u64,
    received_announced: u64,
    due: bool,
    spare: Vec<Vec<u8>>,
}

impl Link {
    /// A link to this life of the peer, not yet connected. Incarnation 0: not known before the handshake.
    pub fn new(peer: Endpoint, incarnation: Incarnation) -> Link {
        Link {
            peer,
            incarnation,
            connected: false,
            has_written: false,
            open: Vec::new(),
            urgent: false,
            acknowledge_now: false,
            sent: VecDeque::new(),
            bare: Vec::new(),
            bare_written: 0,
            writing: 0,
            written: 0,
            kept_bytes: 0,
            next_number: 1,
            acknowledged: 0,
            received: 0,
            received_announced: 0,
            due: false,
            spare: Vec::new(),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Endpoint {
        self.peer
    }

    /// Which life of it.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whether a connection is up.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether anything was ever written to a connection, so that the peer may have processed it.
    pub fn has_written(&self) -> bool {
        self.has_written
    }

    /// Appends a message that leaves at the end of this turn. `write` appends the body.
    #[inline]
    pub fn send(&mut self, kind: u8, flags: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.append(kind, flags, write);
        self.urgent = true;
    }

    /// Appends a message that may wait for an urgent one or the next tick.
    #[inline]
    pub fn send_later(&mut self, kind: u8, flags: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.append(kind, flags, write);
    }

    #[inline]
    fn append(&mut self, kind: u8, flags: u8, write: impl FnOnce(&mut Vec<u8>)) {
        if self.open.len() >= FRAME_BYTES_FULL {
            self.seal_open();
            // It is stamped and written only when the turn is sealed.
            self.urgent = true;
        }
        if self.open.is_empty() {
            self.open = self.spare.pop().unwrap_or_default();
            self.open.resize(FRAME_HEADER, 0);
        }
        let start = self.open.len();
        self.open.extend_from_slice(&[0, 0, 0, 0, kind, flags, 0, 0]);
        write(&mut self.open);
        let length = self.open.len() - start - MESSAGE_HEADER;
        // The peer would refuse its frame for ever. Whoever makes large messages bounds them.
        assert!(length <= MESSAGE_BYTES_MAX, "message {kind} of {length} bytes");
        self.open[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
    }

    /// Asks the peer to acknowledge what was appended so far as soon as it has it.
    #[inline]
    pub fn want_acknowledgement(&mut self) {
        if self.acknowledged < self.position() {
            self.acknowledge_now = true;
            self.urgent = true;
        }
    }

    /// The number of the frame that holds the message appended last: it has arrived once
    /// [`Link::acknowledged`] is as large.
    #[inline]
    pub fn position(&self) -> u64 {
        if self.open.is_empty() { self.next_number - 1 } else { self.next_number }
    }

    /// The newest frame that the peer's machine has processed.
    #[inline]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The newest of the peer's frames that was processed here.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes appended and not acknowledged.
    #[inline]
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes + self.open.len()
    }

    /// Whether [`Link::seal`] would have something to write.
    #[inline]
    pub fn wants_seal(&self) -> bool {
        self.urgent || self.due
    }

    /// At the end of a turn: closes the open frame if something in it is urgent (or `all` is asked), and sees that
    /// an acknowledgement that is due leaves. All frames of the turn get this epoch.
    pub fn seal(&mut self, epoch: Epoch, all: bool) {
        if self.acknowledge_now && self.open.is_empty() {
            // What is to be acknowledged has left already: a frame of its own asks for it.
            self.open = self.spare.pop().unwrap_or_default();
            self.open.resize(FRAME_HEADER, 0);
        }
        if !self.open.is_empty() && (self.urgent || all || self.due) {
            self.seal_open();
            self.stamp(epoch);
        } else if self.due && self.connected && self.writing < self.sent.len() {
            // A mere acknowledgement would overtake frames that say under which view it is given.
            self.open = self.spare.pop().unwrap_or_default();
            self.open.resize(FRAME_HEADER, 0);
            self.seal_open();
            self.stamp(epoch);
        } else if self.due && self.connected {
            if self.bare.is_empty() {
                self.bare.resize(FRAME_HEADER, 0);
                self.bare_written = 0;
                write_header(&mut self.bare, 0, 0, self.received, epoch);
                self.received_announced = self.received;
            } else if self.bare_written == 0 {
                write_header(&mut self.bare, 0, 0, self.received, epoch);
                self.received_announced = self.received;
            } else {
                // The one being written is older: the next seal says the rest.
                return;
            }
            self.due = false;
        }
    }

    fn seal_open(&mut self) {
        let mut bytes = std::mem::take(&mut self.open);
        let flags = if self.acknowledge_now { ACKNOWLEDGE_NOW } else { 0 };
        // The epoch is stamped when the turn ends: u64::MAX marks it as missing.
        write_header(&mut bytes, flags, self.next_number, self.received, Epoch(u64::MAX));
        self.kept_bytes += bytes.len();
        self.sent.push_back(SentFrame { number: self.next_number, bytes });
        self.next_number += 1;
        self.received_announced = self.received;
        self.due = false;
        self.urgent = false;
        self.acknowledge_now = false;
    }

    fn stamp(&mut self, epoch: Epoch) {
        for frame in self.sent.iter_mut().rev() {
            let stamp = &mut frame.bytes[24..32];
            if stamp != [0xff; 8] {
                break;
            }
            stamp.copy_from_slice(&epoch.0.to_le_bytes());
        }
    }

    /// What to write to the connection next, in pieces; nothing while unconnected.
    pub fn unwritten(&self) -> impl Iterator<Item = &[u8]> {
        let connected = self.connected;
        let bare = Some(&self.bare[self.bare_written..]).filter(|bytes| !bytes.is_empty());
        // A mere acknowledgement goes between frames, never into one.
        let (before, after) = if self.written == 0 { (bare, None) } else { (None, bare) };
        let mut frames = self.sent.iter().skip(self.writing).map(|frame| &frame.bytes[..]);
        let first = frames.next().map(|bytes| &bytes[self.written..]);
        before.into_iter().chain(first).chain(after).chain(frames).filter(move |_| connected)
    }

    /// Reports that the first `n` bytes of [`Link::unwritten`] were written.
    pub fn wrote(&mut self, mut n: usize) {
        self.has_written |= n > 0;
        while n > 0 {
            let bare_left = self.bare.len() - self.bare_written;
            if self.written == 0 && bare_left > 0 {
                let step = n.min(bare_left);
                self.bare_written += step;
                n -= step;
                if self.bare_written == self.bare.len() {
                    self.bare.clear();
                    self.bare_written = 0;
                }
                continue;
            }
            let left = self.sent[self.writing].bytes.len() - self.written;
            let step = n.min(left);
            self.written += step;
            n -= step;
            if step == left {
                self.writing += 1;
                self.written = 0;
            }
        }
    }

    /// Takes in a frame's header before its messages are processed.
    ///
    /// # Errors
    /// A gap in the numbers, or an acknowledgement of what was never sent: the connection is to be closed.
    pub fn receive(&mut self, header: &FrameHeader) -> Result<Received, Malformed> {
        if header.acknowledged >= self.next_number {
            return Err(Malformed("frame: acknowledges what was not sent"));
        }
        if header.number == 0 || header.number <= self.received {
            return Ok(Received::Nothing);
        }
        if header.number != self.received + 1 {
            return Err(Malformed("frame: out of order"));
        }
        Ok(Received::New)
    }

    /// Records that a frame was dealt with: its messages, if new, are processed, and its acknowledgement counts from
    /// now on. In this order, so that an acknowledgement never overtakes a view that its frame announces.
    pub fn processed(&mut self, header: &FrameHeader) {
        if header.number == self.received + 1 {
            self.received = header.number;
            self.due |= header.flags & ACKNOWLEDGE_NOW != 0
                || self.received - self.received_announced >= FRAMES_UNACKNOWLEDGED_MAX;
        }
        self.acknowledged = self.acknowledged.max(header.acknowledged);
        self.trim(header.acknowledged);
    }

    /// Frees the frames that the peer has.
    fn trim(&mut self, number: u64) {
        while self.sent.front().is_some_and(|frame| frame.number <= number) {
            // A frame cannot be acknowledged before it was written whole, but on an earlier connection it can.
            if self.writing == 0 {
                if self.written > 0 {
                    break;
                }
            } else {
                self.writing -= 1;
            }
            let Some(SentFrame { mut bytes, .. }) = self.sent.pop_front() else { break };
            self.kept_bytes -= bytes.len();
            if self.spare.len() < SPARE_BUFFERS && bytes.capacity() <= 2 * FRAME_BYTES_FULL {
                bytes.clear();
                self.spare.push(bytes);
            }
        }
    }

    /// A connection was made to this life of the peer, which says what it has processed.
    ///
    /// # Errors
    /// If the peer claims what was never sent, or is another life.
    pub fn connected(&mut self, incarnation: Incarnation, peer_received: u64) -> Result<(), Malformed> {
        if peer_received >= self.next_number || (self.incarnation.0 != 0 && self.incarnation != incarnation) {
            return Err(Malformed("handshake"));
        }
        self.disconnected();
        self.incarnation = incarnation;
        // It counts as acknowledged only when a frame says so, behind the view under which it was processed. Each side
        // sees to that.
        self.trim(peer_received);
        self.due |= self.received > 0;
        self.connected = true;
        Ok(())
    }

    /// The connection is gone; what was not acknowledged will be sent again on the next.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.writing = 0;
        self.written = 0;
        self.bare.clear();
        self.bare_written = 0;
    }
}

fn write_header(frame: &mut [u8], flags: u8, number: u64, acknowledged: u64, epoch: Epoch) {
    let length = (frame.len() as u32).to_le_bytes();
    frame[0..4].copy_from_slice(&length);
    frame[4..8].copy_from_slice(&[flags, 0, 0, 0]);
    frame[8..16].copy_from_slice(&number.to_le_bytes());
    frame[16..24].copy_from_slice(&acknowledged.to_le_bytes());
    frame[24..32].copy_from_slice(&epoch.0.to_le_bytes());
}

/// First bytes of every connection between our processes, so that other protocols can share the port.
pub const MAGIC: [u8; 8] = *b"TWOFOLD\x01";
/// Version of this protocol. Neighbours one apart understand each other.
pub const PROTOCOL_VERSION: u16 = 1;
/// Bytes of a handshake message at most, after its length.
pub const HANDSHAKE_BYTES_MAX: usize = 64 << 10;

/// What the connecting side says first, after [`MAGIC`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The version that the connecting side speaks.
    pub version: u16,
    /// Name of its cluster.
    pub cluster: String,
    /// Which of its threads connects.
    pub from: Endpoint,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Whom it wants.
    pub to: Endpoint,
    /// Which life of it it wants; 0 for any.
    pub to_incarnation: Incarnation,
    /// The newest frame of this link that it has processed.
    pub received: u64,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HelloReply {
    /// The link goes on.
    Accepted {
        /// Which life of the accepting side this is.
        incarnation: Incarnation,
        /// The newest frame of this link that it has processed.
        received: u64,
    },
    /// The link does not.
    Refused {
        /// Whether it may be tried again in a moment.
        temporary: bool,
        /// Why, for people.
        reason: String,
    },
}

impl Hello {
    /// The bytes after the magic: a u32 length and the body.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_u16(self.version);
        put_endpoint(&mut body, self.from);
        body.put_u64(self.incarnation.0);
        put_endpoint(&mut body, self.to);
        body.put_u64(self.to_incarnation.0);
        body.put_u64(self.received);
        body.put_block(self.cluster.as_bytes());
        with_length(&body)
    }

    /// Reads the body.
    pub fn decode(body: &[u8]) -> Result<Hello, Malformed> {
        let mut reader = Reader::new(body, "handshake");
        let version = reader.u16()?;
        let from = endpoint(&mut reader)?;
        let incarnation = Incarnation(reader.u64()?);
        let to = endpoint(&mut reader)?;
        let to_incarnation = Incarnation(reader.u64()?);
        let received = reader.u64()?;
        let cluster = text(&mut reader)?;
        // What a later version appends is not ours to judge.
        Ok(Hello { version, cluster, from, incarnation, to, to_incarnation, received })
    }
}

impl HelloReply {
    /// The bytes: a u32 length and the body.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            HelloReply::Accepted { incarnation, received } => {
                body.put_u8(0);
                body.put_u64(incarnation.0);
                body.put_u64(*received);
            }
            HelloReply::Refused { temporary, reason } => {
                body.put_u8(if *temporary { 1 } else { 2 });
                body.put_block(reason.as_bytes());
            }
        }
        with_length(&body)
    }

    /// Reads the body.
    pub fn decode(body: &[u8]) -> Result<HelloReply, Malformed> {
        let mut reader = Reader::new(body, "handshake");
        match reader.u8()? {
            0 => {
                Ok(HelloReply::Accepted { incarnation: Incarnation(reader.u64()?), received: reader.u64()? })
            }
            kind @ (1 | 2) => Ok(HelloReply::Refused { temporary: kind == 1, reason: text(&mut reader)? }),
            _ => Err(Malformed("handshake")),
        }
    }
}

fn with_length(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.put_block(body);
    bytes
}

fn put_endpoint(out: &mut Vec<u8>, endpoint: Endpoint) {
    out.put_u16(endpoint.node.0);
    out.put_u16(endpoint.worker.0);
}

fn endpoint(reader: &mut Reader<'_>) -> Result<Endpoint, Malformed> {
    Ok(Endpoint::new(crate::ids::NodeId(reader.u16()?), crate::ids::WorkerId(reader.u16()?)))
}

fn text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    String::from_utf8(reader.block()?.to_vec()).map_err(|_| Malformed("handshake"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{NodeId, WorkerId},
        random::Random,
    };

    fn pair() -> (Link, Link) {
        let (a, b) = (Endpoint::new(NodeId(1), WorkerId(0)), Endpoint::new(NodeId(2), WorkerId(0)));
        (Link::new(b, Incarnation(2)), Link::new(a, Incarnation(1)))
    }

    fn connect(a: &mut Link, b: &mut Link) {
        a.connected(Incarnation(2), b.received()).unwrap();
        b.connected(Incarnation(1), a.received()).unwrap();
    }

    /// Moves at most `limit` bytes from one to the other; returns the first byte of each message that arrived.
    fn carry(from: &mut Link, to: &mut Link, wire: &mut Vec<u8>, limit: usize) -> Vec<u8> {
        let bytes: Vec<u8> = from.unwritten().flatten().copied().take(limit).collect();
        from.wrote(bytes.len());
        wire.extend(bytes);
        let mut arrived = Vec::new();
        while let Some(header) = FrameHeader::parse(wire).unwrap() {
            if wire.len() < header.length {
                break;
            }
            let frame: Vec<u8> = wire.drain(..header.length).collect();
            if to.receive(&header).unwrap() == Received::New {
                for message in Messages::new(&frame[FRAME_HEADER..]) {
                    arrived.push(message.unwrap().body[0]);
                }
            }
            to.processed(&header);
        }
        arrived
    }

    #[test]
    fn messages_arrive_once_and_in_order_over_connections_that_break_anywhere() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let (mut a, mut b) = pair();
            connect(&mut a, &mut b);
            let (mut there, mut back) = (Vec::new(), Vec::new());
            let (mut sent, mut arrived) = (0u8, Vec::new());
            for _ in 0..400 {
                match random.below(8) {
                    0..=2 if sent < 250 => {
                        let size = random.between(1, 300) as usize;
                        a.send_later(1, 0, |out| {
                            out.put_u8(sent);
                            out.resize(out.len() + size, 0);
                        });
                        if random.one_in(2) {
                            a.want_acknowledgement();
                        }
                        sent += 1;
                    }
                    3 => {
                        there.clear();
                        back.clear();
                        a.disconnected();
                        b.disconnected();
                        connect(&mut a, &mut b);
                    }
                    4 => {
                        b.seal(Epoch(1), random.one_in(2));
                        let limit = random.below(50) as usize;
                        carry(&mut b, &mut a, &mut back, limit);
                    }
                    _ => {
                        a.seal(Epoch(1), random.one_in(2));
                        let limit = random.below(600) as usize;
                        arrived.extend(carry(&mut a, &mut b, &mut there, limit));
                    }
                }
            }
            a.seal(Epoch(1), true);
            arrived.extend(carry(&mut a, &mut b, &mut there, usize::MAX));
            assert_eq!(arrived, (0..sent).collect::<Vec<u8>>(), "seed {seed}");
            b.send(1, 0, |out| out.put_u8(0));
            b.seal(Epoch(1), true);
            carry(&mut b, &mut a, &mut back, usize::MAX);
            assert_eq!((a.acknowledged(), a.kept_bytes()), (a.position(), 0), "seed {seed}");
        }
    }

    #[test]
    fn a_position_is_reached_when_its_frame_was_processed() {
        let (mut a, mut b) = pair();
        connect(&mut a, &mut b);
        let (mut there, mut back) = (Vec::new(), Vec::new());
        a.send(1, 0, |out| out.put_u8(7));
        a.want_acknowledgement();
        let position = a.position();
        assert_eq!((position, a.acknowledged()), (1, 0));
        a.seal(Epoch(9), false);
        assert_eq!(carry(&mut a, &mut b, &mut there, usize::MAX), [7]);
        assert!(b.wants_seal());
        b.seal(Epoch(9), false);
        carry(&mut b, &mut a, &mut back, usize::MAX);
        assert_eq!(a.acknowledged(), position);
    }

    #[test]
    fn an_acknowledgement_can_be_asked_for_later() {
        let (mut a, mut b) = pair();
        connect(&mut a, &mut b);
        let (mut there, mut back) = (Vec::new(), Vec::new());
        a.want_acknowledgement();
        a.seal(Epoch(9), false);
        assert_eq!(a.unwritten().count(), 0, "there is nothing to acknowledge");
        a.send(1, 0, |out| out.put_u8(7));
        let position = a.position();
        a.seal(Epoch(9), false);
        carry(&mut a, &mut b, &mut there, usize::MAX);
        b.seal(Epoch(9), false);
        assert_eq!(b.unwritten().count(), 0, "nobody asked");
        a.want_acknowledgement();
        a.seal(Epoch(9), false);
        assert_eq!(carry(&mut a, &mut b, &mut there, usize::MAX), []);
        b.seal(Epoch(9), false);
        carry(&mut b, &mut a, &mut back, usize::MAX);
        assert!(a.acknowledged() >= position);
    }

    #[test]
    fn a_gap_or_a_false_acknowledgement_is_an_error() {
        let (mut a, _) = pair();
        let header = |number, acknowledged| FrameHeader {
            length: 32,
            flags: 0,
            number,
            acknowledged,
            epoch: Epoch(0),
        };
        assert!(a.receive(&header(2, 0)).is_err());
        assert!(a.receive(&header(1, 1)).is_err());
        assert_eq!(a.receive(&header(1, 0)), Ok(Received::New));
        assert!(a.connected(Incarnation(3), 0).is_err());
    }

    #[test]
    fn handshakes_survive_the_wire() {
        let hello = Hello {
            version: 1,
            cluster: "local".into(),
            from: Endpoint::new(NodeId(3), WorkerId(1)),
            incarnation: Incarnation(5),
            to: Endpoint::node(NodeId(11)),
            to_incarnation: Incarnation(0),
            received: 8,
        };
        assert_eq!(Hello::decode(&hello.encode()[4..]), Ok(hello));
        for reply in [
            HelloReply::Accepted { incarnation: Incarnation(4), received: 2 },
            HelloReply::Refused { temporary: true, reason: "wrong cluster".into() },
        ] {
            assert_eq!(HelloReply::decode(&reply.encode()[4..]), Ok(reply));
        }
    }
}
