//! SQL by the MySQL protocol: sockets, and the requests that statements make of the cluster.

mod connection;
mod counters;
mod define;
mod output;
mod prepared;
mod run;
mod select;
mod show;
mod transaction;
mod write;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io, net,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{self, Duration},
};
use twofold_apinode::sql::{
    bind::Statement,
    error::{SqlError, codes},
    wire::{packet::Packets, password::StoredPassword, result},
};
use twofold_client::handle::Handle;
use twofold_proto::figure::{Figure, FigureKind};

use crate::seats::{Seat, Seats};
use counters::Ranges;

/// Wait where accepting fails, for want of descriptors.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);
/// Plans that a thread keeps, and bytes of their statements' texts.
const PLANS_MAX: usize = 1024;
const PLAN_TEXT_MAX: usize = 4096;

/// What all threads' connections share.
#[derive(Debug)]
pub struct Server {
    seats: Arc<Seats>,
    password: Option<StoredPassword>,
    next_connection: AtomicU32,
    ranges: Ranges,
    connections_total: AtomicU64,
    connections_refused: AtomicU64,
    statements: AtomicU64,
    errors: AtomicU64,
}

impl Server {
    /// For so many connections at most. Without a password `root` may come from this machine alone.
    pub fn new(threads: usize, connections_max: usize, password: Option<StoredPassword>) -> Arc<Server> {
        Arc::new(Server {
            seats: Seats::new(threads, connections_max),
            password,
            next_connection: AtomicU32::new(1),
            ranges: Ranges::default(),
            connections_total: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            statements: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        })
    }

    /// Serves the connections of the thread at this place until it is dropped, and takes in those of others. To be called in a
    /// runtime for tasks that are not `Send`.
    ///
    /// # Panics
    /// Panics if that thread serves already.
    pub async fn serve(self: Arc<Server>, place: usize, listener: TcpListener, handle: Handle) {
        let mut arrivals = self.seats.open(place);
        let thread = Rc::new(Thread { place, server: self, handle, plans: RefCell::default() });
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(connections.spawn_local(thread.clone().admit(stream))),
                    Err(error) => {
                        tracing::warn!("SQL: cannot accept a connection: {error}");
                        time::sleep(ACCEPT_WAIT).await;
                    }
                },
                Some((stream, seat)) = arrivals.recv() => {
                    connections.spawn_local(thread.clone().welcome(stream, seat));
                }
            }
        }
    }

    /// What all connections together have counted.
    pub fn figures(&self, tell: &mut dyn FnMut(Figure)) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let figure = |name, help, value| Figure::gauge("sql", name, help, value);
        let counter = |name, help, value| Figure { kind: FigureKind::Counter, ..figure(name, help, value) };
        tell(figure("connections", "Connections that are open", self.seats.taken() as u64));
        tell(counter("connections_accepted", "Connections accepted", load(&self.connections_total)));
        tell(counter("connections_refused", "Connections refused", load(&self.connections_refused)));
        tell(counter("statements", "Statements run", load(&self.statements)));
        tell(counter("errors", "Statements that have failed", load(&self.errors)));
    }
}

/// A bound statement, and the catalog's version that it was bound by.
#[derive(Debug)]
struct Plan {
    version: u64,
    statement: Rc<Statement>,
}

/// What the connections of one thread share.
struct Thread {
    place: usize,
    server: Arc<Server>,
    handle: Handle,
    /// By database and text.
    plans: RefCell<BTreeMap<(Option<String>, String), Plan>>,
}

impl Thread {
    /// Finds a seat for a connection that has come to this thread.
    async fn admit(self: Rc<Thread>, stream: TcpStream) {
        let server = &self.server;
        server.connections_total.fetch_add(1, Ordering::Relaxed);
        match server.seats.take(self.place) {
            Some(seat) if seat.thread() == self.place => self.serve(stream, seat).await,
            Some(seat) => match stream.into_std() {
                Ok(stream) => seat.hand_over(stream),
                Err(error) => tracing::warn!("SQL: cannot hand over a connection: {error}"),
            },
            None => {
                server.connections_refused.fetch_add(1, Ordering::Relaxed);
                let mut packets = Packets::new(0);
                let error = SqlError::new(codes::TOO_MANY_CONNECTIONS, "Too many connections");
                result::put_error(&mut packets, &error);
                // That it may not arrive does no harm.
                let _ = stream.try_write(packets.output());
            }
        }
    }

    /// Serves a connection that has come to another thread.
    async fn welcome(self: Rc<Thread>, stream: net::TcpStream, seat: Seat) {
        match TcpStream::from_std(stream) {
            Ok(stream) => self.serve(stream, seat).await,
            Err(error) => tracing::warn!("SQL: cannot take a connection: {error}"),
        }
    }

    async fn serve(self: &Rc<Thread>, stream: TcpStream, _seat: Seat) {
        if let Err(error) = connection::converse(self.clone(), stream).await {
            tracing::debug!("SQL: a connection ended: {error}");
        }
    }

    /// The plan of this text, if it is known and still good.
    fn plan(&self, database: &Option<String>, text: &str, version: u64) -> Option<Rc<Statement>> {
        let key = (database.clone(), text.to_owned());
        let plans = self.plans.borrow();
        plans.get(&key).filter(|plan| plan.version == version).map(|plan| plan.statement.clone())
    }

    fn keep_plan(&self, database: Option<String>, text: &str, version: u64, statement: &Rc<Statement>) {
        if text.len() > PLAN_TEXT_MAX {
            return;
        }
        let mut plans = self.plans.borrow_mut();
        if plans.len() >= PLANS_MAX {
            // Who has so many different texts gains nothing from keeping them.
            plans.clear();
        }
        plans.insert((database, text.to_owned()), Plan { version, statement: statement.clone() });
    }
}

/// Why a statement has come to an end early.
#[derive(Debug)]
enum Stop {
    /// It has failed; the connection goes on.
    Failed(SqlError),
    /// The client is gone.
    Gone(io::Error),
}

impl From<SqlError> for Stop {
    fn from(error: SqlError) -> Stop {
        Stop::Failed(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Gone(error)
    }
}

impl From<twofold_proto::error::Error> for Stop {
    fn from(error: twofold_proto::error::Error) -> Stop {
        Stop::Failed(error.into())
    }
}
