//! Making connections: where a node listens, and one attempt after the other until it answers.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, task::AbortHandle, time};
use twofold_proto::{
    ids::{Endpoint, Incarnation, NodeId},
    link::Hello,
    links::LinkId,
};

use crate::{
    handshake::{Failure, HANDSHAKE_TIMEOUT, prepare, say_hello},
    queue::Queue,
};

/// Wait before the second attempt; it doubles with each.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Wait after a refusal that is not temporary: only people can change that.
const BACKOFF_REFUSED: Duration = Duration::from_secs(5);
/// How long nothing is logged of a node that still cannot be reached; it doubles.
const QUIET_MIN: Duration = Duration::from_secs(5);
const QUIET_MAX: Duration = Duration::from_secs(600);
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the nodes listen; shared by all drivers of a process, and changed when the config does.
#[derive(Clone, Default, Debug)]
pub struct Directory(Arc<RwLock<BTreeMap<NodeId, Place>>>);

#[derive(Default, Debug)]
struct Place {
    /// Empty while it is not known.
    address: String,
    /// While it cannot be reached: when that is worth another line in the log, and how long the wait for it was.
    quiet: Option<(Instant, Duration)>,
}

impl Directory {
    /// An empty one.
    pub fn new() -> Directory {
        Directory::default()
    }

    /// Says where a node listens: «host:port».
    pub fn set(&self, node: NodeId, address: impl Into<String>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).entry(node).or_default().address =
            address.into();
    }

    /// Where a node listens, if that is known.
    pub fn get(&self, node: NodeId) -> Option<String> {
        let places = self.0.read().unwrap_or_else(PoisonError::into_inner);
        places.get(&node).map(|place| place.address.clone()).filter(|address| !address.is_empty())
    }

    /// Some link of this process has reached the node.
    pub(crate) fn reached(&self, node: NodeId) {
        let mut places = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get_mut(&node) {
            place.quiet = None;
        }
    }

    /// Some link of this process has not reached the node; whether to log that. An outage's first failure is logged,
    /// whatever the number of links, and then ever fewer.
    fn is_news(&self, node: NodeId, now: Instant) -> bool {
        let mut places = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(node).or_default();
        let wait = match place.quiet {
            Some((until, _)) if now < until => return false,
            Some((_, wait)) => (wait * 2).min(QUIET_MAX),
            None => QUIET_MIN,
        };
        place.quiet = Some((now + wait, wait));
        true
    }
}

/// How an attempt went.
#[derive(Debug)]
pub(crate) struct Attempted {
    pub link: LinkId,
    /// Which attempt of the driver.
    pub serial: u64,
    pub result: Result<(TcpStream, Incarnation, u64), Failure>,
}

/// The connecting side's efforts for one link.
#[derive(Debug)]
pub(crate) struct Dialing {
    to: Endpoint,
    /// The attempt under way, and its serial.
    attempt: Option<(u64, AbortHandle)>,
    /// Attempts in a row that brought no working connection.
    failures: u32,
    refused_for_good: bool,
}

impl Dialing {
    pub fn new(to: Endpoint) -> Dialing {
        Dialing { to, attempt: None, failures: 0, refused_for_good: false }
    }

    pub fn to(&self) -> Endpoint {
        self.to
    }

    /// Begins an attempt, after the wait that is due. Its result goes to `results`.
    pub fn begin(
        &mut self,
        link: LinkId,
        serial: u64,
        hello: Hello,
        directory: &Directory,
        results: &Arc<Queue<Attempted>>,
    ) {
        self.cancel();
        let (delay, directory, results) = (self.delay(), directory.clone(), results.clone());
        let task = tokio::spawn(async move {
            time::sleep(delay).await;
            let result = attempt(&hello, &directory).await;
            // A driver that is gone needs no link.
            let _ = results.push(Attempted { link, serial, result });
        });
        self.attempt = Some((serial, task.abort_handle()));
    }

    /// Whether this is the result of the attempt under way, which then is over.
    pub fn finish(&mut self, serial: u64) -> bool {
        let current = self.attempt.as_ref().is_some_and(|(other, _)| *other == serial);
        if current {
            self.attempt = None;
        }
        current
    }

    /// Notes that an attempt failed.
    pub fn failed(&mut self, failure: &Failure, directory: &Directory) {
        let was_refused = self.refused_for_good;
        self.failures = self.failures.saturating_add(1);
        self.refused_for_good = matches!(failure, Failure::Refused { temporary: false, .. });
        let to = self.to;
        match (self.refused_for_good, directory.is_news(to.node, Instant::now())) {
            (true, news) if news || !was_refused => tracing::error!("cannot connect to {to}: {failure}"),
            (false, true) => tracing::info!("not connected to node {} yet: {failure}", to.node),
            _ => tracing::debug!("not connected to {to} yet: {failure}"),
        }
    }

    /// Notes that a connection ended; `proven` if a frame had come over it.
    pub fn ended(&mut self, proven: bool) {
        self.failures = if proven { 0 } else { self.failures.saturating_add(1) };
        self.refused_for_good = false;
    }

    fn delay(&self) -> Duration {
        match self.failures {
            _ if self.refused_for_good => BACKOFF_REFUSED,
            0 => Duration::ZERO,
            n => (BACKOFF_MIN * (1 << (n - 1).min(10))).min(BACKOFF_MAX),
        }
    }

    fn cancel(&mut self) {
        if let Some((_, task)) = self.attempt.take() {
            task.abort();
        }
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        self.cancel();
    }
}

async fn attempt(hello: &Hello, directory: &Directory) -> Result<(TcpStream, Incarnation, u64), Failure> {
    let Some(address) = directory.get(hello.to.node) else {
        return Err(Failure::Unreachable(format!("where node {} listens is not known", hello.to.node)));
    };
    let late = |_| Failure::Unreachable(format!("{address}: no answer"));
    let connecting = async {
        let stream = TcpStream::connect(&address).await?;
        prepare(&stream)?;
        Ok(stream)
    };
    let unreachable = |error: std::io::Error| Failure::Unreachable(format!("{address}: {error}"));
    let mut stream = time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(late)?.map_err(unreachable)?;
    let (incarnation, received) =
        time::timeout(HANDSHAKE_TIMEOUT, say_hello(&mut stream, hello)).await.map_err(late)??;
    Ok((stream, incarnation, received))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_begin_anew_after_a_connection_that_worked() {
        let mut dialing = Dialing::new(Endpoint::default());
        let unreachable = Failure::Unreachable("test".into());
        let mut waits = vec![dialing.delay()];
        for _ in 0..8 {
            dialing.failed(&unreachable, &Directory::new());
            waits.push(dialing.delay());
        }
        assert_eq!(
            waits.iter().map(Duration::as_millis).collect::<Vec<_>>(),
            [0, 5, 10, 20, 40, 80, 160, 320, 500]
        );
        let refused = Failure::Refused { temporary: false, reason: "test".into() };
        dialing.failed(&refused, &Directory::new());
        assert_eq!(dialing.delay(), BACKOFF_REFUSED);
        dialing.ended(true);
        assert_eq!(dialing.delay(), Duration::ZERO);
        dialing.ended(false);
        assert_eq!(dialing.delay(), BACKOFF_MIN);
    }

    #[test]
    fn an_outage_gets_ever_fewer_lines_whatever_the_number_of_links() {
        let (directory, begin) = (Directory::new(), Instant::now());
        let (node, other) = (NodeId(11), NodeId(12));
        let news = |node, seconds| directory.is_news(node, begin + Duration::from_secs(seconds));
        let lines: Vec<u64> =
            (0..100).filter(|&second| [(); 8].iter().any(|()| news(node, second))).collect();
        assert_eq!(lines, [0, 5, 15, 35, 75]);
        assert!(news(other, 99));
        directory.reached(node);
        assert!(news(node, 99) && !news(node, 99) && !news(other, 99));
    }
}
