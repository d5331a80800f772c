//! One connection of a link: a TCP stream, and what of a frame has not arrived yet.

use std::{
    io::{self, IoSlice, IoSliceMut},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use rustix::io::{readv, retry_on_intr, writev};
use tokio::{io::Interest, net::TcpStream};
use twofold_proto::{
    ids::Endpoint,
    link::{FRAME_HEADER, FrameHeader, Link},
    links::LinkId,
};

use crate::queue::Queue;

/// Bytes that are read from a connection at once, and in a turn: a full frame.
pub(crate) const READ_BYTES: usize = 256 << 10;
/// Bytes written to a connection in a turn at most, so that a fast peer does not keep the others waiting.
const WRITE_BYTES: usize = 4 << 20;
/// Pieces of one write.
const PIECES: usize = 64;
/// A buffer for large frames is kept up to this size.
const PARTIAL_BYTES_KEPT: usize = READ_BYTES;

/// A connection's name in its driver. Places are reused; the generation tells their uses apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub place: usize,
    pub generation: u64,
}

/// Puts a connection on its driver's list when its socket is ready.
#[derive(Debug)]
struct Signal {
    token: Token,
    listed: AtomicBool,
    ready: Arc<Queue<Token>>,
}

impl Signal {
    fn list(&self) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            // A driver whose list is closed has ended.
            let _ = self.ready.push(self.token);
        }
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.list();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.list();
    }
}

/// What a read brought.
pub(crate) enum Received {
    /// There was nothing.
    Nothing,
    /// The peer has closed.
    End,
    /// This many bytes at the start of the buffer. If `frame`, a frame that [`Connection::take_frame`] gives comes before them.
    Bytes { bytes: usize, frame: bool, total: usize },
}

/// How a write went.
#[derive(Clone, Copy, Default)]
pub(crate) struct Written {
    /// Bytes.
    pub bytes: usize,
    /// System calls.
    pub calls: usize,
    /// The turn's share is used up; there is more.
    pub more: bool,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub link: LinkId,
    pub peer: Endpoint,
    stream: TcpStream,
    signal: Arc<Signal>,
    waker: Waker,
    /// The beginning of a frame; what is missing is read behind it.
    partial: Vec<u8>,
    /// To be written before the link's frames: the answer to a hello.
    preamble: Vec<u8>,
    preamble_written: usize,
    /// The socket takes no more for now.
    pub blocked: bool,
    /// Whether a frame has arrived: a connection that works.
    pub proven: bool,
}

impl Connection {
    pub fn new(
        token: Token,
        ready: Arc<Queue<Token>>,
        link: LinkId,
        peer: Endpoint,
        stream: TcpStream,
        preamble: Vec<u8>,
    ) -> Connection {
        let signal = Arc::new(Signal { token, listed: AtomicBool::new(false), ready });
        // Whatever arrived before now is found by the first turn.
        signal.list();
        Connection {
            link,
            peer,
            stream,
            waker: Waker::from(signal.clone()),
            signal,
            partial: Vec::new(),
            preamble,
            preamble_written: 0,
            blocked: false,
            proven: false,
        }
    }

    pub fn token(&self) -> Token {
        self.signal.token
    }

    /// The driver has taken the connection from its list.
    pub fn unlist(&self) {
        self.signal.listed.store(false, Ordering::Release);
    }

    /// Puts it on the list for the next turn.
    pub fn list(&self) {
        self.signal.list();
    }

    /// Has the next bytes put the connection on the list.
    pub fn await_bytes(&self) {
        if self.stream.poll_read_ready(&mut Context::from_waker(&self.waker)).is_ready() {
            self.list();
        }
    }

    /// Whether a blocked socket takes bytes again; if not, it will list the connection.
    pub fn unblock(&mut self) -> bool {
        if self.blocked {
            self.blocked = self.stream.poll_write_ready(&mut Context::from_waker(&self.waker)).is_pending();
            return !self.blocked;
        }
        false
    }

    /// Reads once. A frame whose beginning is here already is completed where it is; what follows goes to the
    /// start of `buffer`, of which the caller decodes whole frames in place, and gives the rest to
    /// [`Connection::keep`].
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        match FrameHeader::parse(&self.partial).map_err(io::Error::other)? {
            None => {
                let start = self.partial.len();
                buffer[..start].copy_from_slice(&self.partial);
                self.partial.clear();
                let (stream, buffer_rest) = (&self.stream, &mut buffer[start..]);
                match read(stream, &mut [IoSliceMut::new(buffer_rest)]) {
                    Ok(0) => Ok(Received::End),
                    Ok(bytes) => Ok(Received::Bytes { bytes: start + bytes, frame: false, total: bytes }),
                    Err(error) => {
                        self.partial.extend_from_slice(&buffer[..start]);
                        nothing_if_not_ready(error)
                    }
                }
            }
            Some(header) => self.receive_rest(header.length, buffer),
        }
    }

    fn receive_rest(&mut self, length: usize, buffer: &mut [u8]) -> io::Result<Received> {
        let start = self.partial.len();
        // Memory follows what arrives, not what a header claims.
        let step = (length - start).min(READ_BYTES);
        self.partial.resize(start + step, 0);
        let last = start + step == length;
        let behind = if last { buffer } else { &mut [] };
        let pieces = &mut [IoSliceMut::new(&mut self.partial[start..]), IoSliceMut::new(behind)];
        let result = read(&self.stream, pieces);
        let total = *result.as_ref().unwrap_or(&0);
        self.partial.truncate(start + total.min(step));
        match result {
            Ok(0) => Ok(Received::End),
            Ok(_) => {
                let bytes = total.saturating_sub(step);
                Ok(Received::Bytes { bytes, frame: self.partial.len() == length, total })
            }
            Err(error) => nothing_if_not_ready(error),
        }
    }

    /// The frame that was completed in its own buffer.
    pub fn take_frame(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }

    /// Takes that buffer back, for the next.
    pub fn return_buffer(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= PARTIAL_BYTES_KEPT {
            buffer.clear();
            self.partial = buffer;
        }
    }

    /// Keeps the beginning of a frame for the next read.
    pub fn keep(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.is_empty() || self.partial.is_empty(), "one frame at a time is incomplete");
        self.partial.extend_from_slice(bytes);
    }

    /// Whether [`Connection::write`] would have something to do.
    pub fn has_unwritten(&self, link: &Link) -> bool {
        self.preamble_written < self.preamble.len() || link.unwritten().next().is_some()
    }

    /// Writes what there is until the socket takes no more.
    pub fn write(&mut self, link: &mut Link) -> io::Result<Written> {
        let mut written = Written::default();
        while !self.blocked {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            let mut offered = 0;
            let preamble = Some(&self.preamble[self.preamble_written..]).filter(|bytes| !bytes.is_empty());
            for (piece, bytes) in pieces.iter_mut().zip(preamble.into_iter().chain(link.unwritten())) {
                *piece = IoSlice::new(bytes);
                count += 1;
                offered += bytes.len();
            }
            if count == 0 {
                break;
            }
            if written.bytes >= WRITE_BYTES {
                written.more = true;
                break;
            }
            let taken = match write(&self.stream, &pieces[..count], offered) {
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            written.calls += 1;
            written.bytes += taken;
            self.wrote(link, taken);
            if taken < offered {
                self.blocked = true;
                self.unblock();
            }
        }
        Ok(written)
    }

    fn wrote(&mut self, link: &mut Link, taken: usize) {
        let preamble = taken.min(self.preamble.len() - self.preamble_written);
        self.preamble_written += preamble;
        if preamble > 0 && self.preamble_written == self.preamble.len() {
            self.preamble = Vec::new();
            self.preamble_written = 0;
        }
        link.wrote(taken - preamble);
    }
}

fn nothing_if_not_ready(error: io::Error) -> io::Result<Received> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(Received::Nothing) } else { Err(error) }
}

/// Reads once. A read that does not fill the pieces has emptied the socket, so its readiness is over, as a second
/// system call would only confirm (see epoll(7), edge-triggered streams).
fn read(stream: &TcpStream, pieces: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let room: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut n = 0;
    let result = stream.try_io(Interest::READABLE, || {
        n = retry_on_intr(|| readv(stream, pieces))?;
        if 0 < n && n < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match result {
        Err(error) if n == 0 => Err(error),
        _ => Ok(n),
    }
}

/// Writes once. A write that takes less than it was offered has filled the socket, so its readiness is over.
fn write(stream: &TcpStream, pieces: &[IoSlice<'_>], offered: usize) -> io::Result<usize> {
    let mut n = 0;
    let result = stream.try_io(Interest::WRITABLE, || {
        n = retry_on_intr(|| writev(stream, pieces))?;
        if n < offered { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match result {
        Err(error) if n == 0 => Err(error),
        _ => Ok(n),
    }
}

/// The whole frame at the start of `bytes`, if it is there, and its payload.
pub(crate) fn first_frame(bytes: &[u8]) -> io::Result<Option<(FrameHeader, &[u8])>> {
    match FrameHeader::parse(bytes).map_err(io::Error::other)? {
        Some(header) => Ok(bytes.get(FRAME_HEADER..header.length).map(|payload| (header, payload))),
        None => Ok(None),
    }
}
