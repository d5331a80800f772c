//! Ports for tests whose servers are told where to listen.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of the loopback interface that nobody else is given while this lives: neither another test nor an outgoing
/// connection. Whoever sets `SO_REUSEADDR`, as the listeners of tokio and of the standard library do, can listen there.
///
/// A port that was merely free a moment ago would be taken by another test now and then. This socket is bound and
/// never listens; Linux leaves such a port out where it chooses one itself, and lets a listener have it that asks for
/// it by number (socket(7), `SO_REUSEADDR`).
#[derive(Debug)]
pub struct ReservedPort(TcpSocket);

impl ReservedPort {
    /// Reserves one.
    ///
    /// # Panics
    /// If the system has none.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it takes something from the system")]
    pub fn new() -> ReservedPort {
        let socket = TcpSocket::new_v4().expect("the system has sockets");
        socket.set_reuseaddr(true).expect("a new socket has options");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("the system has ports");
        ReservedPort(socket)
    }

    /// Where a server can listen.
    ///
    /// # Panics
    /// Never: its socket is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.address().port()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn nobody_else_is_given_it_and_a_server_has_it_again_and_again() {
        let reserved: Vec<ReservedPort> = (0..500).map(|_| ReservedPort::new()).collect();
        let numbers: BTreeSet<u16> = reserved.iter().map(ReservedPort::number).collect();
        assert_eq!(numbers.len(), reserved.len());
        for _ in 0..2 {
            let server = TcpListener::bind(reserved[0].address()).unwrap();
            let clients: Vec<TcpStream> =
                (0..100).map(|_| TcpStream::connect(reserved[0].address()).unwrap()).collect();
            assert!(clients.iter().all(|client| !numbers.contains(&client.local_addr().unwrap().port())));
            drop(server);
        }
        assert!(TcpStream::connect(reserved[0].address()).is_err(), "nobody listens");
    }
}
