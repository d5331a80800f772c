//! A process's port: links for its machines, and one other protocol beside them.

use std::{
    collections::BTreeMap,
    future::{pending, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    sync::{Semaphore, mpsc},
    time,
};
use twofold_proto::{
    ids::WorkerId,
    link::{Hello, HelloReply, MAGIC},
};

use crate::{
    handshake::{HANDSHAKE_TIMEOUT, read_block},
    mailbox::Door,
    network::refuse,
};

/// Connections that have not said yet what they want, at most; more wait in the system's queue.
const HALF_OPEN_MAX: usize = 256;
/// Connections that the system keeps for us until they are accepted.
const BACKLOG: u32 = 1024;
/// Connections that the other protocol has not taken yet, at most.
const OTHERS_MAX: usize = 256;
/// Wait where the first bytes came in pieces, or where accepting fails for want of descriptors.
const PIECES_WAIT: Duration = Duration::from_millis(2);
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// Binds a port with address reuse, so that a process started anew gets it at once.
///
/// # Errors
/// If the address («host:port») means nothing here, or is taken; the error names it.
pub async fn bind(address: &str) -> io::Result<TcpListener> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    let mut last =
        io::Error::new(io::ErrorKind::NotFound, format!("cannot listen on {address}: no such host"));
    for socket_address in lookup_host(address).await.map_err(named)? {
        match bind_to(socket_address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = named(error),
        }
    }
    Err(last)
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Hands the connections of a port to the machines that they ask for.
#[derive(Debug)]
pub struct Listener {
    doors: BTreeMap<WorkerId, Door>,
    others: Option<mpsc::Sender<std::net::TcpStream>>,
}

impl Listener {
    /// For the machines of these threads.
    pub fn new(doors: impl IntoIterator<Item = (WorkerId, Door)>) -> Listener {
        Listener { doors: doors.into_iter().collect(), others: None }
    }

    /// The connections that do not begin with [`MAGIC`], for a server of another protocol. Without one they are closed.
    pub fn others(&mut self) -> Others {
        let (sender, receiver) = mpsc::channel(OTHERS_MAX);
        self.others = Some(sender);
        Others(receiver)
    }

    /// Accepts connections until it is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let this = Arc::new(self);
        let half_open = Arc::new(Semaphore::new(HALF_OPEN_MAX));
        loop {
            let Ok(permit) = half_open.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    let this = this.clone();
                    tokio::spawn(async move {
                        match time::timeout(HANDSHAKE_TIMEOUT, this.admit(stream)).await {
                            Ok(Ok(())) => (),
                            Ok(Err(error)) => {
                                tracing::debug!(%from, "a connection was not admitted: {error}")
                            }
                            Err(_) => tracing::debug!(%from, "a connection did not say what it wants"),
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    time::sleep(ACCEPT_WAIT).await;
                }
            }
        }
    }

    async fn admit(&self, mut stream: TcpStream) -> io::Result<()> {
        if !begins_with_magic(&stream).await? {
            let Some(others) = &self.others else {
                return Err(io::Error::other("it speaks another protocol"));
            };
            // Links need the permit that this one has.
            return others.try_send(stream.into_std()?).map_err(io::Error::other);
        }
        stream.read_exact(&mut [0; MAGIC.len()]).await?;
        let hello = Hello::decode(&read_block(&mut stream).await?).map_err(io::Error::other)?;
        let socket = stream.into_std()?;
        let Some(door) = self.doors.get(&hello.to.worker) else {
            let reason = format!("there is no {:?} here", hello.to);
            refuse(&socket, &HelloReply::Refused { temporary: false, reason });
            return Ok(());
        };
        let to = hello.to;
        if let Err(socket) = door.enter(socket, hello) {
            refuse(&socket, &HelloReply::Refused { temporary: true, reason: format!("{to:?} is stopping") });
        }
        Ok(())
    }
}

/// Looks at the first bytes and leaves them where they are.
async fn begins_with_magic(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; MAGIC.len()];
    loop {
        let n = stream.peek(&mut first).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[..n] != MAGIC[..n] {
            return Ok(false);
        }
        if n == MAGIC.len() {
            return Ok(true);
        }
        // The socket stays readable, so there is nothing to wait for but time.
        time::sleep(PIECES_WAIT).await;
    }
}

/// Connections for another protocol, untouched; see [`Listener::others`].
#[derive(Debug)]
pub struct Others(mpsc::Receiver<std::net::TcpStream>);

impl Others {
    /// The next one; waits for ever once the listener is gone.
    pub(crate) async fn next(&mut self) -> io::Result<TcpStream> {
        match poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await {
            Some(next) => next,
            None => pending().await,
        }
    }
}

impl Stream for Others {
    type Item = io::Result<TcpStream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<TcpStream>>> {
        let Some(stream) = ready!(self.0.poll_recv(context)) else { return Poll::Ready(None) };
        // Without the delay of small writes, or HTTP/2 stalls for 40 ms at a time.
        Poll::Ready(Some(stream.set_nodelay(true).and_then(|()| TcpStream::from_std(stream))))
    }
}
