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
    link::{FRAME_HEADER, FrameHeader, HANDSHAKE_BYTES_MAX, Hello, HelloReply, Link, MAGIC},
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
    let deadline = Instant::now() + timeout;
    let left = || match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(Failure::Unreachable(format!("{address}: no answer within {timeout:?}"))),
    };
    let mut stream = connect(address, &left)?;
    prepare(&stream)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(&greeting(hello))?;
    let read_exact = |stream: &mut TcpStream, bytes: &mut [u8]| -> Result<(), Failure> {
        stream.set_read_timeout(Some(left()?))?;
        Ok(stream.read_exact(bytes)?)
    };
    let mut prefix = [0; 4];
    read_exact(&mut stream, &mut prefix)?;
    let mut reply = vec![0; block_length(prefix)?];
    read_exact(&mut stream, &mut reply)?;
    let (incarnation, received) = accepted(&reply)?;

    let mut link = Link::new(hello.to, incarnation);
    link.connected(incarnation, received).map_err(io::Error::other)?;
    link.send(kind, 0, |out| out.extend_from_slice(body));
    link.want_acknowledgement();
    link.seal(Epoch(0), true);
    let bytes: Vec<u8> = link.unwritten().flatten().copied().collect();
    stream.write_all(&bytes)?;
    link.wrote(bytes.len());
    // What the peer sends besides is not for us.
    let mut frame = Vec::new();
    while link.acknowledged() < link.position() {
        frame.resize(FRAME_HEADER, 0);
        read_exact(&mut stream, &mut frame)?;
        let Some(header) = FrameHeader::parse(&frame).map_err(io::Error::other)? else { continue };
        frame.resize(header.length, 0);
        read_exact(&mut stream, &mut frame[FRAME_HEADER..])?;
        link.receive(&header).map_err(io::Error::other)?;
        link.processed(&header);
    }
    Ok(())
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
