//! Which thread serves a connection: the one that has fewest. The system spreads those that come to a shared port by a
//! hash, which leaves some threads with far more than others where there are few.

use std::{
    net,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

/// A connection on its way to its thread.
pub type Arrival = (net::TcpStream, Seat);

/// The seats of all threads.
#[derive(Debug)]
pub struct Seats {
    most: usize,
    taken: AtomicUsize,
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
pub struct Seat {
    of: Arc<Seats>,
    thread: usize,
}

impl Seats {
    /// For `most` connections over so many threads.
    pub fn new(threads: usize, most: usize) -> Arc<Seats> {
        let threads = (0..threads).map(|_| Table::default()).collect();
        Arc::new(Seats { most, taken: AtomicUsize::new(0), threads })
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
    pub fn open(&self, thread: usize) -> mpsc::UnboundedReceiver<Arrival> {
        // No more wait in it than there are seats.
        let (door, arrivals) = mpsc::unbounded_channel();
        self.threads[thread].door.set(door).expect("a thread opens its door once");
        arrivals
    }

    /// A seat for a connection that has come to thread `here`: there, unless another one has fewer. None if all are taken.
    pub fn take(self: &Arc<Seats>, here: usize) -> Option<Seat> {
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
    /// Whose seat it is.
    pub fn thread(&self) -> usize {
        self.thread
    }

    /// Hands the connection to its thread. If that has ended, so has the process.
    pub fn hand_over(self, stream: net::TcpStream) {
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
