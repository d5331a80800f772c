//! The first bytes of a connection, and a one-shot sender for programs without a machine.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use twofold_proto::{
    ids::{Epoch, Incarnation},
    link::{FRAME_HEADER, FrameHeader, HANDSHAKE_BYTES_MAX, Hello, HelloReply, Link, MAGIC, Messages},
};

/// How long a handshake may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection whose peer's host is silent for so long is given up; the link makes another. Below the time that TCP
/// by itself takes to try again once a cut has healed.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Why a peer did not let us in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It could not be asked, or did not answer as our processes do.
    Unreachable(String),
    /// It said no.
    Refused {
        /// Whether that may change.
        temporary: bool,
        /// What it said.
        reason: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable(reason) => f.write_str(reason),
            Failure::Refused { reason, .. } => write!(f, "refused: {reason}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Unreachable(error.to_string())
    }
}

/// Sets what every connection between our processes has: no delay of small writes, and an end when the other host
/// is gone.
pub(crate) fn prepare(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_tcp_user_timeout(&socket, SILENCE_MAX.as_millis() as u32)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, Duration::from_secs(2))?;
    sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(&socket, 3)?;
    Ok(())
}

/// The connecting side's first bytes.
fn greeting(hello: &Hello) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&hello.encode());
    bytes
}

fn block_length(prefix: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(prefix) as usize;
    if length > HANDSHAKE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "a handshake message of {length} bytes; {HANDSHAKE_BYTES_MAX} are allowed"
        )));
    }
    Ok(length)
}

/// Reads a handshake message: a length, and as many bytes.
pub(crate) async fn read_block(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let mut body = vec![0; block_length(prefix)?];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

fn accepted(body: &[u8]) -> Result<(Incarnation, u64), Failure> {
    match HelloReply::decode(body).map_err(io::Error::other)? {
        HelloReply::Accepted { incarnation, received } => Ok((incarnation, received)),
        HelloReply::Refused { temporary, reason } => Err(Failure::Refused { temporary, reason }),
    }
}

/// Says hello as the connecting side; returns which life of the peer accepted, and what it has received.
pub(crate) async fn say_hello(
    stream: &mut tokio::net::TcpStream,
    hello: &Hello,
) -> Result<(Incarnation, u64), Failure> {
    stream.write_all(&greeting(hello)).await?;
    accepted(&read_block(stream).await?)
}

/// Connects to `address` (host:port), says `hello`, delivers one message, and waits until the peer's machine has
/// processed it. Blocks for at most about `timeout`. For programs that have something to say and no machine to
/// say it: the hello must be of a link of its own, with nothing received.
///
/// # Errors
/// If nobody is reached in time, the peer refuses, or does not acknowledge. It may have got the message all the same.
pub fn send_once(
    address: &str,
    hello: &Hello,
    kind: u8,
    body: &[u8],
    timeout: Duration,
) -> Result<(), Failure> {
    let mut peer = Peer::greet(address, hello, Instant::now() + timeout)?;
    peer.link.send(kind, 0, |out| out.extend_from_slice(body));
    peer.link.want_acknowledgement();
    peer.link.seal(Epoch(0), true);
    let bytes: Vec<u8> = peer.link.unwritten().flatten().copied().collect();
    peer.stream.write_all(&bytes)?;
    peer.link.wrote(bytes.len());
    // What the peer sends besides is not for us.
    while peer.link.acknowledged() < peer.link.position() {
        peer.read_frame()?;
    }
    Ok(())
}

/// Connects to `address` (host:port), says `hello`, and waits for the first message of this kind; returns its body.
/// Blocks for at most about `timeout`. The hello must be of a link of its own, with nothing received.
///
/// # Errors
/// If nobody is reached in time, the peer refuses, or sends no such message.
pub fn receive_once(address: &str, hello: &Hello, kind: u8, timeout: Duration) -> Result<Vec<u8>, Failure> {
    let deadline = Instant::now() + timeout;
    let mut peer = Peer::greet(address, hello, deadline)?;
    loop {
        let payload = peer.read_frame()?;
        for message in Messages::new(&payload) {
            let message = message.map_err(io::Error::other)?;
            if message.kind == kind {
                return Ok(message.body.to_vec());
            }
        }
    }
}

/// The connection of a program without a machine.
struct Peer {
    stream: TcpStream,
    address: String,
    deadline: Instant,
    link: Link,
}

impl Peer {
    /// Connects and says hello.
    fn greet(address: &str, hello: &Hello, deadline: Instant) -> Result<Peer, Failure> {
        let left = || time_left(address, deadline);
        let stream = connect(address, &left)?;
        prepare(&stream)?;
        stream.set_write_timeout(Some(left()?))?;
        let link = Link::new(hello.to, Incarnation(0));
        let mut peer = Peer { stream, address: address.into(), deadline, link };
        peer.stream.write_all(&greeting(hello))?;
        let mut prefix = [0; 4];
        peer.read_exact(&mut prefix)?;
        let mut reply = vec![0; block_length(prefix)?];
        peer.read_exact(&mut reply)?;
        let (incarnation, received) = accepted(&reply)?;
        peer.link.connected(incarnation, received).map_err(io::Error::other)?;
        Ok(peer)
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), Failure> {
        self.stream.set_read_timeout(Some(time_left(&self.address, self.deadline)?))?;
        Ok(self.stream.read_exact(bytes)?)
    }

    /// Reads a frame; its messages count as processed.
    fn read_frame(&mut self) -> Result<Vec<u8>, Failure> {
        let mut header = [0; FRAME_HEADER];
        self.read_exact(&mut header)?;
        let Some(header) = FrameHeader::parse(&header).map_err(io::Error::other)? else {
            unreachable!("a header is {FRAME_HEADER} bytes")
        };
        let mut payload = vec![0; header.length - FRAME_HEADER];
        self.read_exact(&mut payload)?;
        self.link.receive(&header).map_err(io::Error::other)?;
        self.link.processed(&header);
        Ok(payload)
    }
}

fn time_left(address: &str, deadline: Instant) -> Result<Duration, Failure> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(Failure::Unreachable(format!("{address}: no answer in time"))),
    }
}

fn connect(address: &str, left: &impl Fn() -> Result<Duration, Failure>) -> Result<TcpStream, Failure> {
    let mut failure = Failure::Unreachable(format!("{address}: no such host"));
    for socket_address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket_address, left()?) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Failure::Unreachable(format!("{address}: {error}")),
        }
    }
    Err(failure)
}
