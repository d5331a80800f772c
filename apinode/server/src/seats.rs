//! Connections, and which thread serves which: the one that has fewest. The system spreads those that come to a shared port by a
//! hash, which leaves some threads with far more than others where there are few.

use std::{
    io, net,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{self, Duration},
};
use twofold_proto::figure::{Figure, FigureKind};

/// Wait where accepting fails, for want of descriptors.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// What a thread does with the connections of a protocol.
pub trait Frontend: Sized + 'static {
    /// The protocol's name, for the log.
    const NAME: &'static str;

    /// Serves a connection to its end.
    fn converse(self: Rc<Self>, stream: TcpStream) -> impl Future<Output = io::Result<()>>;

    /// What one hears for whom there is no seat.
    fn refusal() -> Vec<u8>;
}

/// A connection on its way to its thread.
type Arrival = (net::TcpStream, Seat);

/// The seats of all threads.
#[derive(Debug)]
pub struct Seats {
    most: usize,
    taken: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
    threads: Vec<Table>,
}

/// The seats of one thread.
#[derive(Debug, Default)]
struct Table {
    taken: AtomicUsize,
    /// The way to it, once it serves.
    door: OnceLock<mpsc::UnboundedSender<Arrival>>,
}

/// A connection's seat, until it is dropped.
#[derive(Debug)]
struct Seat {
    of: Arc<Seats>,
    thread: usize,
}

impl Seats {
    /// For `most` connections over so many threads.
    pub fn new(threads: usize, most: usize) -> Arc<Seats> {
        let threads = (0..threads).map(|_| Table::default()).collect();
        let (accepted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Seats { most, taken: AtomicUsize::new(0), accepted, refused, threads })
    }

    /// Serves the connections of the thread at this place until it is dropped, and takes in those of others. To be called in a
    /// runtime for tasks that are not `Send`.
    ///
    /// # Panics
    /// Panics if that thread serves already.
    pub async fn serve<F: Frontend>(self: Arc<Seats>, place: usize, listener: TcpListener, frontend: Rc<F>) {
        let mut arrivals = self.open(place);
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(connections.spawn_local(self.clone().admit(place, frontend.clone(), stream))),
                    Err(error) => {
                        tracing::warn!("{}: cannot accept a connection: {error}", F::NAME);
                        time::sleep(ACCEPT_WAIT).await;
                    }
                },
                Some((stream, seat)) = arrivals.recv() => match TcpStream::from_std(stream) {
                    Ok(stream) => drop(connections.spawn_local(seat.serve(frontend.clone(), stream))),
                    Err(error) => tracing::warn!("{}: cannot take a connection: {error}", F::NAME),
                }
            }
        }
    }

    /// Finds a seat for a connection that has come to this thread.
    async fn admit<F: Frontend>(self: Arc<Seats>, place: usize, frontend: Rc<F>, stream: TcpStream) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        match self.take(place) {
            Some(seat) if seat.thread() == place => seat.serve(frontend, stream).await,
            Some(seat) => match stream.into_std() {
                Ok(stream) => seat.hand_over(stream),
                Err(error) => tracing::warn!("{}: cannot hand over a connection: {error}", F::NAME),
            },
            None => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                // That it may not arrive does no harm.
                let _ = stream.try_write(&F::refusal());
            }
        }
    }

    /// How many connections were accepted, and refused for want of a seat.
    pub fn counted(&self) -> [u64; 2] {
        [&self.accepted, &self.refused].map(|counter| counter.load(Ordering::Relaxed))
    }

    /// Counts anew.
    pub fn reset(&self) {
        for counter in [&self.accepted, &self.refused] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// What it has counted, for this group of figures.
    pub fn figures(&self, group: &'static str, tell: &mut dyn FnMut(Figure)) {
        let figure = |name, help, value| Figure::gauge(group, name, help, value);
        let counter = |name, help, value| Figure { kind: FigureKind::Counter, ..figure(name, help, value) };
        let [accepted, refused] = self.counted();
        tell(figure("connections", "Connections that are open", self.taken() as u64));
        tell(counter("connections_accepted", "Connections accepted", accepted));
        tell(counter("connections_refused", "Connections refused", refused));
    }

    /// How many there are.
    pub fn most(&self) -> usize {
        self.most
    }

    /// How many connections there are.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// From now on this thread serves connections; it is handed some.
    ///
    /// # Panics
    /// Panics if it serves already.
    fn open(&self, thread: usize) -> mpsc::UnboundedReceiver<Arrival> {
        // No more wait in it than there are seats.
        let (door, arrivals) = mpsc::unbounded_channel();
        self.threads[thread].door.set(door).expect("a thread opens its door once");
        arrivals
    }

    /// A seat for a connection that has come to thread `here`: there, unless another one has fewer. None if all are taken.
    fn take(self: &Arc<Seats>, here: usize) -> Option<Seat> {
        let room = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        let load = |thread: &usize| self.threads[*thread].taken.load(Ordering::Relaxed);
        let serving = (0..self.threads.len()).filter(|&thread| self.threads[thread].door.get().is_some());
        let fewest = serving.min_by_key(load).filter(|fewest| load(fewest) < load(&here));
        let thread = fewest.unwrap_or(here);
        self.threads[thread].taken.fetch_add(1, Ordering::Relaxed);
        Some(Seat { of: self.clone(), thread })
    }
}

impl Seat {
    /// Serves its connection.
    async fn serve<F: Frontend>(self, frontend: Rc<F>, stream: TcpStream) {
        if let Err(error) = frontend.converse(stream).await {
            tracing::debug!("{}: a connection ended: {error}", F::NAME);
        }
    }

    /// Whose seat it is.
    fn thread(&self) -> usize {
        self.thread
    }

    /// Hands the connection to its thread. If that has ended, so has the process.
    fn hand_over(self, stream: net::TcpStream) {
        let seats = self.of.clone();
        if let Some(door) = seats.threads[self.thread].door.get() {
            let _ = door.send((stream, self));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.of.threads[self.thread].taken.fetch_sub(1, Ordering::Relaxed);
        self.of.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(seats: &[Seat]) -> Vec<usize> {
        seats.iter().map(Seat::thread).collect()
    }

    #[test]
    fn who_has_fewest_is_next() {
        let seats = Seats::new(3, 7);
        let _doors = [0, 1, 2].map(|thread| seats.open(thread));
        // However they come.
        let mut taken: Vec<Seat> = (0..6).map(|_| seats.take(1).unwrap()).collect();
        assert_eq!(threads(&taken), [1, 0, 2, 1, 0, 2]);
        taken.remove(5);
        taken.remove(2);
        taken.extend([seats.take(0).unwrap(), seats.take(0).unwrap(), seats.take(2).unwrap()]);
        assert_eq!(threads(&taken[4..]), [2, 2, 2]);
        assert!(seats.take(0).is_none(), "all are taken");
        assert_eq!(seats.taken(), 7);
        drop(taken);
        assert_eq!(seats.taken(), 0);
        assert_eq!(seats.take(1).unwrap().thread(), 1, "where it came, if others have no fewer");
    }

    #[test]
    fn a_thread_that_does_not_serve_yet_is_given_none() {
        let seats = Seats::new(2, 9);
        let _door = seats.open(1);
        let taken: Vec<Seat> = (0..3).map(|_| seats.take(1).unwrap()).collect();
        assert_eq!(threads(&taken), [1, 1, 1]);
    }
}
