//! A TCP proxy between nodes, which does to their connections what networks do.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, sleep},
    time::Duration,
};

/// Bytes that are carried at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// How often a stalled connection looks whether it goes on.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Carries connections to another address as long as this lives.
pub struct Proxy {
    shared: Arc<Shared>,
    own: SocketAddr,
}

#[derive(Default)]
struct Shared {
    /// Both ends of all connections that it has carried.
    connections: Mutex<Vec<(TcpStream, TcpStream)>>,
    /// How long each chunk takes, in microseconds.
    delay: AtomicU64,
    /// Whether nothing gets through, and nobody is told.
    stalled: AtomicBool,
    ended: AtomicBool,
}

impl Proxy {
    /// Listens on one address and carries what comes to the other one.
    ///
    /// # Panics
    /// If it cannot listen there.
    pub fn start(own: SocketAddr, to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(own).unwrap_or_else(|error| panic!("{own}: {error}"));
        let shared = Arc::new(Shared::default());
        let carried = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if carried.ended.load(Ordering::Relaxed) {
                    return;
                }
                // Who is not there does not take the connection: it ends.
                let _ = stream.and_then(|stream| carried.carry(stream, to));
            }
        });
        Proxy { shared, own }
    }

    /// Cuts all connections; new ones are carried. Returns how many there were.
    pub fn cut(&self) -> usize {
        self.each(|(from, to)| from.shutdown(Shutdown::Both).is_ok() | to.shutdown(Shutdown::Both).is_ok())
    }

    /// Ends all connections in one direction: who is connected to hears no more, and is heard. Returns how many there were.
    pub fn half_close(&self) -> usize {
        self.each(|(_, to)| to.shutdown(Shutdown::Write).is_ok())
    }

    /// From now on each piece of what is carried takes so much longer.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay.store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    /// From now on nothing gets through, and no connection ends; or all goes on.
    pub fn stall(&self, stalled: bool) {
        self.shared.stalled.store(stalled, Ordering::Relaxed);
    }

    fn each(&self, act: impl Fn(&(TcpStream, TcpStream)) -> bool) -> usize {
        let mut connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *connections).iter().filter(|connection| act(connection)).count()
    }
}

impl Shared {
    fn carry(self: &Arc<Shared>, from: TcpStream, to: SocketAddr) -> io::Result<()> {
        let to = TcpStream::connect(to)?;
        for stream in [&from, &to] {
            stream.set_nodelay(true)?;
        }
        let connection = (from.try_clone()?, to.try_clone()?);
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        for (source, sink) in [(from.try_clone()?, to.try_clone()?), (to, from)] {
            let shared = self.clone();
            thread::spawn(move || shared.pump(source, sink));
        }
        Ok(())
    }

    fn pump(&self, mut source: TcpStream, mut sink: TcpStream) {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(bytes @ 1..) = source.read(&mut chunk) {
            sleep(Duration::from_micros(self.delay.load(Ordering::Relaxed)));
            while self.stalled.load(Ordering::Relaxed) {
                sleep(LOOK_AGAIN);
            }
            if sink.write_all(&chunk[..bytes]).is_err() {
                break;
            }
        }
        // Each hears of the other's end.
        let _ = sink.shutdown(Shutdown::Write);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.stall(false);
        self.cut();
        let _ = TcpStream::connect(self.own);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn between() -> (Proxy, TcpStream, TcpStream) {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = TcpListener::bind(any).unwrap();
        let own = TcpListener::bind(any).unwrap().local_addr().unwrap();
        let proxy = Proxy::start(own, server.local_addr().unwrap());
        let client = TcpStream::connect(own).unwrap();
        let served = server.accept().unwrap().0;
        for stream in [&client, &served] {
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        }
        (proxy, client, served)
    }

    fn hear(stream: &mut TcpStream) -> Option<String> {
        let mut bytes = [0; 8];
        let read = stream.read(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..read]).into_owned())
    }

    #[test]
    fn what_is_said_arrives_unless_the_network_is_ill() {
        let (proxy, mut client, mut served) = between();
        client.write_all(b"ask").unwrap();
        assert_eq!(hear(&mut served).as_deref(), Some("ask"));
        served.write_all(b"answer").unwrap();
        assert_eq!(hear(&mut client).as_deref(), Some("answer"));
        proxy.stall(true);
        client.write_all(b"wait").unwrap();
        assert_eq!(hear(&mut served), None);
        proxy.stall(false);
        assert_eq!(hear(&mut served).as_deref(), Some("wait"));
        assert_eq!(proxy.half_close(), 1);
        assert_eq!(hear(&mut served).as_deref(), Some(""), "the end");
        served.write_all(b"still").unwrap();
        assert_eq!(hear(&mut client).as_deref(), Some("still"));
    }

    #[test]
    fn both_hear_of_a_cut() {
        let (proxy, mut client, mut served) = between();
        client.write_all(b"ask").unwrap();
        assert_eq!(hear(&mut served).as_deref(), Some("ask"));
        assert_eq!(proxy.cut(), 1);
        assert_eq!((hear(&mut client).as_deref(), hear(&mut served).as_deref()), (Some(""), Some("")));
    }
}
