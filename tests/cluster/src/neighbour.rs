//! A client that behaves, beside those that do not.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use crate::Cluster;

/// How long it rests after each request.
const REST: Duration = Duration::from_millis(2);

/// Sets and gets an item over one connection of memcached's protocol, again and again, and must never be answered
/// anything else than it expects.
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Neighbour {
    /// Starts it.
    pub fn start(cluster: &Cluster) -> Neighbour {
        let stream = cluster.connect("api1", "memcached_port");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || converse(stream, &stopped));
        Neighbour { stop, thread }
    }

    /// Ends it.
    ///
    /// # Panics
    /// If it has noticed anything, or was not served at all.
    pub fn has_noticed_nothing(self) {
        self.stop.store(true, Ordering::Relaxed);
        let rounds = self.thread.join().expect("it does not panic");
        assert!(rounds.clone().is_ok_and(|rounds| rounds > 0), "another client has noticed: {rounds:?}");
    }
}

/// Returns how often it was served.
fn converse(mut stream: TcpStream, stop: &AtomicBool) -> Result<u64, String> {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let value = rounds.to_string();
        let expected = format!("STORED\r\nVALUE neighbour 0 {}\r\n{value}\r\nEND\r\n", value.len());
        let request = format!("set neighbour 0 0 {}\r\n{value}\r\nget neighbour\r\n", value.len());
        let mut answer = vec![0; expected.len()];
        let answered = stream.write_all(request.as_bytes()).and_then(|()| stream.read_exact(&mut answer));
        let answer = String::from_utf8_lossy(&answer);
        answered.map_err(|error| format!("round {rounds}: {error}, after {answer:?}"))?;
        if answer != expected {
            return Err(format!("round {rounds}: {answer:?}"));
        }
        rounds += 1;
        sleep(REST);
    }
    Ok(rounds)
}
