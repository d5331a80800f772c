//! A cluster, to which programs connect.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, Semaphore, SemaphorePermit, oneshot},
    task::spawn_local,
    time::{sleep, timeout},
};
use twofold_apinode::{
    client::DEFAULT_DEADLINE,
    request::{Answer, Durability, Isolation, Options, Request, Results},
};
use twofold_proto::{
    error::ErrorCode,
    ids::{Endpoint, NodeId, WorkerId},
    message::{self, CatalogChange, Status},
};
use twofold_runtime::{Mailbox, Metrics, thread};

use crate::{
    admission::PLACES,
    assemble::{Assembled, Shape},
    connect::{Connect, Message, connect},
    error::{Error, Token},
    find::Found,
    handle::{Handle, SharedTables},
    operation::{NewTable, Operation, Table},
    row::Outcome,
    scan::Scan,
    transaction::{Commit, Transaction},
};

/// Between two attempts at a transaction.
const RETRY_REST: Duration = Duration::from_millis(1);

/// What became of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionOutcome {
    /// It is committed.
    Committed,
    /// Nothing of it was or will be applied.
    Aborted,
    /// It is not decided yet: ask again.
    Pending,
    /// It was decided so long ago that it has been forgotten.
    Forgotten,
}

/// How to connect; see [`Cluster::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `connect`"]
pub struct Builder {
    management: Vec<String>,
    name: Option<String>,
    threads: u16,
    patience: Duration,
    deadline: Option<Duration>,
    in_flight: usize,
}

impl Builder {
    /// The cluster must have this name; without it any may answer.
    pub fn name(self, name: impl Into<String>) -> Builder {
        Builder { name: Some(name.into()), ..self }
    }

    /// How many threads speak with the cluster; 1, if not said. One has enough to do with some hundred thousand operations a
    /// second.
    ///
    /// # Panics
    /// If it is 0.
    pub fn threads(self, threads: u16) -> Builder {
        assert!(threads > 0, "a client has one thread at least");
        Builder { threads, ..self }
    }

    /// How long [`Builder::connect`] waits for a cluster that serves; 10 s, if not said.
    pub fn patience(self, patience: Duration) -> Builder {
        Builder { patience, ..self }
    }

    /// How long requests are tried; 5 s, if not said. See [`Cluster::with_deadline`].
    pub fn deadline(self, deadline: Duration) -> Builder {
        Builder { deadline: Some(deadline), ..self }
    }

    /// How many operations are under way at a time; 8,192 at most and if not said. Those that ask for more wait.
    ///
    /// # Panics
    /// If it is 0.
    pub fn in_flight(self, operations: usize) -> Builder {
        assert!(operations > 0, "nothing could ever be asked");
        Builder { in_flight: operations.min(PLACES), ..self }
    }

    /// Finds the cluster, and waits until all of it can be reached.
    ///
    /// # Errors
    /// If there is no such cluster, or it does not serve in time.
    pub async fn connect(self) -> Result<Cluster, Error> {
        let found = self.find().await?;
        let (tables, metrics) = (SharedTables::new(), Metrics::new());
        let mut threads = Vec::new();
        for place in 0..self.threads {
            threads.push(start(&found, place, &tables, &metrics).await?);
        }
        self.serving(&found, threads, tables).await
    }

    /// The same with no thread but the one that calls this, in which local tasks must be able to run: a program whose own
    /// tasks are there, too, wakes up no other thread for a request.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect_here(self) -> Result<Cluster, Error> {
        let found = self.find().await?;
        let tables = SharedTables::new();
        let own = own(&found, 0, &tables);
        let mailbox = own.mailbox.clone();
        let (driver, handle) = connect(own, Metrics::new().driver("twofold"));
        let (alive, ended) = oneshot::channel();
        spawn_local(async move {
            driver.run().await;
            drop::<oneshot::Sender<()>>(alive);
        });
        let thread = Thread { handle, mailbox, ended: Mutex::new(Some(ended)) };
        self.serving(&found, vec![thread], tables).await
    }

    async fn find(&self) -> Result<Found, Error> {
        let found = Found::find(&self.management, self.patience).await?;
        let name = &found.config.name;
        if let Some(other) = self.name.as_ref().filter(|other| *other != name) {
            return Err(Error::new(ErrorCode::BadConfig, format!("this is cluster «{name}», not «{other}»")));
        }
        Ok(found)
    }

    async fn serving(
        self,
        found: &Found,
        threads: Vec<Thread>,
        tables: SharedTables,
    ) -> Result<Cluster, Error> {
        let permits = Semaphore::new(self.in_flight);
        let shared = Arc::new(Shared { threads, tables, next: AtomicUsize::new(0), permits });
        let durability = Durability::Memory;
        let cluster = Cluster { shared, deadline: self.deadline, durability, in_flight: self.in_flight };
        let serves = async {
            for thread in &cluster.shared.threads {
                let mut serving = thread.handle.serving().subscribe();
                // The sender lives in the handle.
                let _ = serving.wait_for(|&serves| serves).await;
            }
        };
        timeout(self.patience, serves).await.map_err(|_| {
            let text = format!("cluster «{}» does not serve for {:?}", found.config.name, self.patience);
            Error::new(ErrorCode::NotServing, text)
        })?;
        Ok(cluster)
    }
}

/// A thread with a client.
#[derive(Debug)]
struct Thread {
    handle: Handle,
    mailbox: Mailbox<Message>,
    /// Fires when the thread has ended; taken by who waits for it.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

fn own(found: &Found, place: u16, tables: &SharedTables) -> Connect {
    Connect {
        own: Endpoint::new(NodeId(0), WorkerId(place)),
        config: found.config.clone(),
        directory: found.directory.clone(),
        tables: tables.clone(),
        mailbox: Mailbox::new(),
    }
}

async fn start(found: &Found, place: u16, tables: &SharedTables, metrics: &Metrics) -> Result<Thread, Error> {
    let own = own(found, place, tables);
    let mailbox = own.mailbox.clone();
    let name = format!("twofold{place}");
    let metrics = metrics.driver(&name);
    let ((made, handle), (alive, ended)) = (oneshot::channel(), oneshot::channel());
    let run = move || async move {
        let (driver, handle) = connect(own, metrics);
        // Who waits for it lives as long as the thread is wanted.
        let _ = made.send(handle);
        driver.run().await;
        drop::<oneshot::Sender<()>>(alive);
    };
    thread::spawn(&name, run).map_err(|error| no_thread(&name, &error.to_string()))?;
    let handle = handle.await.map_err(|_| no_thread(&name, "it has ended at once"))?;
    Ok(Thread { handle, mailbox, ended: Mutex::new(Some(ended)) })
}

fn no_thread(name: &str, why: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("thread {name}: {why}"))
}

#[derive(Debug)]
struct Shared {
    threads: Vec<Thread>,
    tables: SharedTables,
    /// The thread that is asked next, before the remainder is taken.
    next: AtomicUsize,
    permits: Semaphore,
}

impl Shared {
    fn stop(&self) {
        for thread in &self.threads {
            // One that has ended needs not be told.
            let _ = thread.mailbox.send(Message::Stop);
        }
    }
}

#[cfg(test)]
impl Cluster {
    /// One whose requests come out here.
    pub(crate) fn by_hand(
        in_flight: usize,
        known: crate::handle::Tables,
    ) -> (Cluster, tokio::sync::mpsc::Receiver<crate::handle::Submission>) {
        let tables = SharedTables::new();
        tables.publish(known);
        let (handle, submissions) = Handle::new(tables.clone(), Default::default());
        let threads = vec![Thread { handle, mailbox: Mailbox::new(), ended: Mutex::new(None) }];
        let permits = Semaphore::new(in_flight);
        let shared = Arc::new(Shared { threads, tables, next: AtomicUsize::new(0), permits });
        (Cluster { shared, deadline: None, durability: Durability::Memory, in_flight }, submissions)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A cluster. Clones share their threads and connections; dropping the last of them, of transactions and of scans ends these
/// in the background.
#[derive(Clone, Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
    deadline: Option<Duration>,
    durability: Durability,
    in_flight: usize,
}

impl Cluster {
    /// How to connect to the cluster of these management nodes, any of them: `host` or `host:port` each.
    pub fn builder(management: impl IntoIterator<Item = impl Into<String>>) -> Builder {
        Builder {
            management: management.into_iter().map(Into::into).collect(),
            name: None,
            threads: 1,
            patience: Duration::from_secs(10),
            deadline: None,
            in_flight: PLACES,
        }
    }

    /// Connects to the cluster of these management nodes, with all else as usual. In a tokio runtime.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect(management: impl IntoIterator<Item = impl Into<String>>) -> Result<Cluster, Error> {
        Cluster::builder(management).connect().await
    }

    /// The same cluster and threads, with another time for which requests are tried. What fails for a moment is tried again
    /// until then. After it nothing waits for a lock any more: it is not applied, or its outcome is to be asked for.
    pub fn with_deadline(&self, deadline: Duration) -> Cluster {
        Cluster { deadline: Some(deadline), ..self.clone() }
    }

    /// The same cluster and threads, with another durability: whether commits are answered once every replica has them in memory, as
    /// is usual, or once they are on all disks.
    pub fn with_durability(&self, durability: Durability) -> Cluster {
        Cluster { durability, ..self.clone() }
    }

    /// Whether all of the cluster can be reached now.
    pub fn is_serving(&self) -> bool {
        self.shared.threads.iter().all(|thread| *thread.handle.serving().borrow())
    }

    /// The names of the tables.
    pub fn tables(&self) -> Vec<String> {
        self.shared.tables.newest().names().map(String::from).collect()
    }

    /// The table of this name.
    ///
    /// # Errors
    /// [`ErrorCode::NoSuchTable`].
    pub fn table(&self, name: &str) -> Result<Table, Error> {
        Ok(Table(self.shared.tables.newest().table(name)?.clone()))
    }

    /// Creates a table. When this returns, every serving node knows it.
    ///
    /// # Errors
    /// [`ErrorCode::TableExists`], or what is wrong with it.
    pub async fn create_table(&self, table: NewTable) -> Result<Table, Error> {
        let table = table.checked()?;
        let name = table.name.clone();
        self.change(CatalogChange::CreateTable(table)).await?;
        self.table(&name)
    }

    /// Drops a table with all its rows.
    ///
    /// # Errors
    /// [`ErrorCode::NoSuchTable`].
    pub async fn drop_table(&self, name: &str) -> Result<(), Error> {
        self.change(CatalogChange::DropTable(name.into())).await
    }

    async fn change(&self, change: CatalogChange) -> Result<(), Error> {
        match self.handle().submit(Request::Change(change)).await {
            Answer::Catalog(version) => {
                self.shared.tables.wait_for(version).await;
                Ok(())
            }
            Answer::Failed(failure) => Err(failure.into()),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs one operation, as a transaction of its own.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn run(&self, operation: Operation) -> Result<Outcome, Error> {
        let outcome = self.batch([operation]).await?.into_iter().next();
        outcome.unwrap_or_else(|| Err(Error::new(ErrorCode::Internal, "an answer has no result")))
    }

    /// Runs operations, each as a transaction of its own and in any order, in one request: what many rows cost least by.
    ///
    /// # Errors
    /// If one of them makes no sense: nothing is done then. Why one was not done is in its place.
    pub async fn batch(
        &self,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Result<Vec<Result<Outcome, Error>>, Error> {
        let assembled = assembled(operations)?;
        if assembled.locks {
            let text = "a read that stands alone takes no lock; run it in a transaction";
            return Err(Error::new(ErrorCode::Malformed, text));
        }
        let shapes = assembled.shapes;
        let _permits = self.admit(shapes.len()).await;
        let (results, _held) = self.handle().execute(assembled.operations, self.options()).await;
        Ok(each(&shapes, &results).collect())
    }

    /// Runs operations as one transaction, in one request: all of them or none.
    ///
    /// # Errors
    /// Why it was not done. Of class [`Unknown`](crate::ErrorClass::Unknown): ask [`Cluster::status`].
    pub async fn transaction(
        &self,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Result<Commit, Error> {
        Transaction::new(self.clone(), Isolation::ReadCommitted, 0).commit_with(operations).await
    }

    /// Begins a transaction of several statements. It holds its locks until it ends, and is ended by the cluster when it is
    /// idle for long (`idle_transaction_ms`).
    pub fn begin(&self, isolation: Isolation) -> Transaction {
        Transaction::new(self.clone(), isolation, 0)
    }

    /// Begins a transaction anew that has failed with this error: it keeps its age, so it wins in the end.
    /// [`Cluster::transact`] does that by itself.
    pub fn begin_again(&self, isolation: Isolation, after: &Error) -> Transaction {
        Transaction::new(self.clone(), isolation, after.age())
    }

    /// Runs a transaction of several statements, and commits it; again and again, while it loses to others or to the loss of a
    /// node. It keeps its age, so it wins in the end. The body must not do what cannot be done twice.
    ///
    /// # Errors
    /// What the body, or the commit, has failed with and what trying again does not help with, or did not in the
    /// cluster's deadline (5 s, if not said).
    ///
    /// ```no_run
    /// # async fn example(cluster: &twofold_client::Cluster) -> Result<(), twofold_client::Error> {
    /// use twofold_client::{Isolation, Lock};
    ///
    /// let accounts = cluster.table("accounts")?;
    /// let moved = cluster
    ///     .transact(Isolation::ReadCommitted, async |transaction| {
    ///         let found = transaction.run(accounts.read([1]).lock(Lock::Exclusive)).await?;
    ///         let balance = found.row.and_then(|row| row["balance"].as_integer()).unwrap_or(0) as i64;
    ///         transaction.batch([accounts.update([1]).add("balance", -balance), accounts.update([2]).add("balance", balance)]).await?;
    ///         Ok(balance)
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn transact<T>(
        &self,
        isolation: Isolation,
        mut body: impl AsyncFnMut(&mut Transaction) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let limit = self.deadline.unwrap_or(DEFAULT_DEADLINE);
        let mut age = 0;
        loop {
            let mut transaction = Transaction::new(self.clone(), isolation, age);
            let result = body(&mut transaction).await;
            age = age.max(transaction.age());
            let error = match result {
                Ok(value) => match transaction.commit().await {
                    Ok(_) => return Ok(value),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if !error.is_temporary() || error.code() == ErrorCode::TableFull || begun.elapsed() >= limit {
                return Err(error);
            }
            age = age.max(error.age());
            sleep(RETRY_REST).await;
        }
    }

    /// The committed rows of a table.
    pub fn scan(&self, table: &Table) -> Scan {
        Scan::new(self.clone(), table)
    }

    /// What became of a transaction whose answer was lost. It can always be learned, unless that was asked for long ago.
    ///
    /// # Errors
    /// If nobody answers in time.
    pub async fn status(&self, token: &Token) -> Result<TransactionOutcome, Error> {
        match self.handle().submit(Request::Status(token.0)).await {
            Answer::Status(Status::Decided(message::Outcome::Committed(_))) => {
                Ok(TransactionOutcome::Committed)
            }
            Answer::Status(Status::Decided(message::Outcome::Aborted)) => Ok(TransactionOutcome::Aborted),
            Answer::Status(Status::Finished) => Ok(TransactionOutcome::Forgotten),
            Answer::Status(_) => Ok(TransactionOutcome::Pending),
            Answer::Failed(failure) => Err(failure.into()),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends, for all clones: what is under way is answered, what comes after that is refused, and the data nodes are told that
    /// nobody will ask for outcomes any more.
    pub async fn close(self) {
        self.shared.stop();
        for thread in &self.shared.threads {
            if let Some(ended) = thread.ended.lock().await.take() {
                // Its sender is dropped at the end.
                let _ = ended.await;
            }
        }
    }

    /// The way to one of the threads, each in turn.
    pub(crate) fn handle(&self) -> &Handle {
        let threads = &self.shared.threads;
        let next = self.shared.next.fetch_add(1, Ordering::Relaxed);
        &threads[next % threads.len()].handle
    }

    pub(crate) fn options(&self) -> Options {
        Options { deadline: self.deadline, durability: self.durability, ..Options::default() }
    }

    /// Waits until so many operations more may be under way; a batch that is larger than all may be alone.
    pub(crate) async fn admit(&self, operations: usize) -> Option<SemaphorePermit<'_>> {
        let count = u32::try_from(operations.min(self.in_flight)).unwrap_or(u32::MAX);
        // Nobody closes it.
        self.shared.permits.acquire_many(count).await.ok()
    }
}

pub(crate) fn assembled(operations: impl IntoIterator<Item = Operation>) -> Result<Assembled, Error> {
    let operations: Vec<Operation> = operations.into_iter().collect();
    Ok(Assembled::new(operations.into_iter().map(|operation| operation.0))?)
}

/// What each operation has done, or why it was not.
pub(crate) fn each(shapes: &[Shape], results: &Results) -> impl Iterator<Item = Result<Outcome, Error>> {
    shapes.iter().zip(results.iter()).map(|(shape, result)| match result {
        Ok(bytes) => Ok(Outcome::read(shape, bytes)?),
        Err(failure) => Err(failure.clone().into()),
    })
}

fn unexpected(answer: &Answer) -> Error {
    Error::new(ErrorCode::Internal, format!("the client answered {answer:?}"))
}
