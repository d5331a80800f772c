//! SQL by the MySQL protocol: sockets, and the requests that statements make of the cluster.

mod connection;
mod counters;
mod define;
mod explain;
mod join;
mod output;
mod prepared;
mod run;
mod select;
mod show;
mod subquery;
mod transaction;
mod unique;
mod write;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use tokio::net::{TcpListener, TcpStream};
use twofold_apinode::sql::{
    bind::Statement,
    error::{SqlError, codes},
    wire::{packet::Packets, password::StoredPassword, result},
};
use twofold_client::handle::Handle;
use twofold_proto::figure::{Figure, FigureKind};

use crate::seats::{Frontend, Seats};
use counters::Ranges;

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
            statements: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        })
    }

    /// Serves the connections of the thread at this place, see [`Seats::serve`].
    pub async fn serve(self: Arc<Server>, place: usize, listener: TcpListener, handle: Handle) {
        let seats = self.seats.clone();
        let thread = Rc::new(Thread { server: self, handle, plans: RefCell::default() });
        seats.serve(place, listener, thread).await;
    }

    /// What all connections together have counted.
    pub fn figures(&self, tell: &mut dyn FnMut(Figure)) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counter = |name, help, value| Figure {
            kind: FigureKind::Counter,
            ..Figure::gauge("sql", name, help, value)
        };
        self.seats.figures("sql", tell);
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
    server: Arc<Server>,
    handle: Handle,
    /// By database and text.
    plans: RefCell<BTreeMap<(Option<String>, String), Plan>>,
}

impl Frontend for Thread {
    const NAME: &'static str = "SQL";

    fn converse(self: Rc<Thread>, stream: TcpStream) -> impl Future<Output = io::Result<()>> {
        connection::converse(self, stream)
    }

    fn refusal() -> Vec<u8> {
        let mut packets = Packets::new(0);
        result::put_error(&mut packets, &SqlError::new(codes::TOO_MANY_CONNECTIONS, "Too many connections"));
        packets.output().to_vec()
    }
}

impl Thread {
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
