//! What frontends hold: the way to a thread's cluster client, and what the process knows of the tables.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    runtime,
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
};
use twofold_apinode::request::{self, Answer, Failure, Operations, Options, Request, Results};
use twofold_proto::{
    config::MemcachedPrefix,
    error::{Error, ErrorCode},
    message::Catalog,
    schema::Schema,
    time::ClusterTime,
};

use crate::admission::{self, Admission, Places};

/// Requests that wait for the client's thread to take them; past these their senders wait.
const WAITING_MAX: usize = 1024;

/// Counts the bytes of results that a client has handed to frontends, and that these have not written yet.
#[derive(Clone, Default, Debug)]
pub struct HandedOut(Arc<AtomicUsize>);

impl HandedOut {
    /// So many more, until what this returns is dropped.
    pub fn hold(&self, bytes: usize) -> Held {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Held { bytes, of: self.clone() }
    }
}

impl request::HandedOut for HandedOut {
    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Results that are counted as handed out while this is there.
#[derive(Debug)]
pub struct Held {
    bytes: usize,
    of: HandedOut,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What frontends hand to a thread's client.
#[derive(Debug)]
pub enum Submission {
    /// A request, and what takes its answer.
    Request(Request, Reply),
    /// Nobody waits for the transaction of this handle any more.
    Abandon(u64),
}

/// Takes the answer to a request.
#[derive(Debug)]
pub struct Reply {
    answer: oneshot::Sender<(Answer, Held)>,
    handed_out: HandedOut,
    /// What the request takes until it is answered.
    _places: Places,
}

impl Reply {
    /// Answers. Its results count as handed out until the frontend has written them, or is found to be gone.
    pub fn send(self, answer: Answer) {
        let held = self.handed_out.hold(answer.result_bytes());
        // A frontend that has gone needs no answer.
        let _ = self.answer.send((answer, held));
    }
}

/// What the process knows of the cluster's tables.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Version of the catalog.
    pub version: u64,
    /// How many partitions a table has; 0 before anything is known.
    pub partitions: u16,
    /// Which of memcached's keys live in which of them, by the config.
    pub prefixes: Vec<MemcachedPrefix>,
    by_name: BTreeMap<String, Arc<Schema>>,
}

impl Tables {
    /// The tables of a catalog, laid out.
    ///
    /// # Errors
    /// The first table whose definition makes no sense.
    pub fn new(catalog: &Catalog, partitions: u16) -> Result<Tables, Error> {
        let mut by_name = BTreeMap::new();
        for table in &catalog.tables {
            let schema =
                Schema::new(table.clone()).map_err(|invalid| Error::new(ErrorCode::BadTable, invalid.0))?;
            by_name.insert(table.name.clone(), Arc::new(schema));
        }
        Ok(Tables { version: catalog.version, partitions, prefixes: Vec::new(), by_name })
    }

    /// Whether this is more than nothing.
    pub fn is_known(&self) -> bool {
        self.partitions > 0
    }

    /// The table of this name.
    ///
    /// # Errors
    /// [`ErrorCode::NoSuchTable`], or [`ErrorCode::NotServing`] before anything is known.
    pub fn table(&self, name: &str) -> Result<&Arc<Schema>, Error> {
        if !self.is_known() {
            return Err(Error::new(ErrorCode::NotServing, "the cluster's tables are not known yet"));
        }
        self.by_name.get(name).ok_or_else(|| {
            let text = if name.is_empty() {
                "no table is named".into()
            } else {
                format!("there is no table `{name}`")
            };
            Error::new(ErrorCode::NoSuchTable, text)
        })
    }

    /// All names, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

/// The tables that all threads of the process know: whoever learns of a newer catalog publishes it to all.
#[derive(Clone, Debug, Default)]
pub struct SharedTables(watch::Sender<Arc<Tables>>);

impl SharedTables {
    /// Nothing yet.
    pub fn new() -> SharedTables {
        SharedTables::default()
    }

    /// Publishes these unless newer ones are known. Where memcached's keys live stays.
    pub fn publish(&self, tables: Tables) {
        self.0.send_if_modified(|known| {
            let newer = !known.is_known() || tables.version > known.version;
            if newer {
                *known = Arc::new(Tables { prefixes: known.prefixes.clone(), ..tables });
            }
            newer
        });
    }

    /// Publishes which of memcached's keys live in which tables.
    pub fn map_keys(&self, prefixes: &[MemcachedPrefix]) {
        self.0.send_if_modified(|known| {
            let changed = known.prefixes != prefixes;
            if changed {
                *known = Arc::new(Tables { prefixes: prefixes.to_vec(), ..Tables::clone(known) });
            }
            changed
        });
    }

    /// The newest.
    pub fn newest(&self) -> Arc<Tables> {
        self.0.borrow().clone()
    }

    /// Waits for this version of the catalog, or a newer one.
    pub async fn wait_for(&self, version: u64) -> Arc<Tables> {
        let mut receiver = self.0.subscribe();
        let tables = receiver.wait_for(|tables| tables.version >= version).await;
        tables.expect("the sender lives in self").clone()
    }
}

/// The way to a thread's cluster client.
#[derive(Clone, Debug)]
pub struct Handle {
    submissions: mpsc::Sender<Submission>,
    tables: SharedTables,
    transactions: Arc<AtomicU64>,
    handed_out: HandedOut,
    serving: watch::Sender<bool>,
    admission: Option<Admission>,
}

impl Handle {
    /// A handle, and the end from which the client's thread takes requests.
    /// Results are counted in `handed_out` until they are written.
    pub fn new(tables: SharedTables, handed_out: HandedOut) -> (Handle, mpsc::Receiver<Submission>) {
        let (submissions, receiver) = mpsc::channel(WAITING_MAX);
        let (transactions, serving) = (Arc::default(), watch::Sender::new(false));
        (Handle { submissions, tables, transactions, handed_out, serving, admission: None }, receiver)
    }

    /// Whether the thread's client reaches all of the cluster; `false` at first.
    pub fn serving(&self) -> &watch::Sender<bool> {
        &self.serving
    }

    /// The tables.
    pub fn tables(&self) -> &SharedTables {
        &self.tables
    }

    /// A name for an interactive transaction that no other one of this thread's client has.
    pub fn new_transaction(&self) -> Transaction {
        let handle = self.transactions.fetch_add(1, Ordering::Relaxed);
        Transaction { handle, submissions: self.submissions.clone(), ended: false }
    }

    /// A handle whose requests have to be admitted. Without it all are.
    #[must_use]
    pub fn with_admission(self, admission: Admission) -> Handle {
        Handle { admission: Some(admission), ..self }
    }

    /// Waits until so many operations are admitted.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`] if that takes too long.
    pub async fn admit(&self, operations: usize) -> Result<Places, Error> {
        match &self.admission {
            Some(admission) => admission.admit(operations).await,
            None => Ok(None),
        }
    }

    /// Whether another call may come while so many of this thread are not answered.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`] if not.
    pub fn check_calls(&self, open: usize) -> Result<(), Error> {
        self.admission.as_ref().map_or(Ok(()), |admission| admission.check_calls(open))
    }

    /// Hands a request over, when there is room for it; what is handed over from one task arrives in order. The answer
    /// comes through `Pending`.
    pub async fn begin(&self, request: Request) -> Pending {
        let places = self.admit(admission::operations(&request)).await;
        self.begin_admitted(request, places).await
    }

    /// Hands over a request that has been admitted, or has not.
    async fn begin_admitted(&self, request: Request, places: Result<Places, Error>) -> Pending {
        let (answer, receiver) = oneshot::channel();
        let reply = |_places| Reply { answer, handed_out: self.handed_out.clone(), _places };
        match places {
            Ok(places) => {
                // If the client is gone, so is the sender of the answer.
                let _ = self.submissions.send(Submission::Request(request, reply(places))).await;
            }
            Err(error) => reply(None).send(Answer::Failed(error.into())),
        }
        Pending(receiver)
    }

    /// Hands a request over and waits for its answer. For those who have done with its results at once.
    pub async fn submit(&self, request: Request) -> Answer {
        self.begin(request).await.answer().await
    }

    /// Runs operations, each on its own.
    pub async fn execute(&self, operations: Operations, options: Options) -> (Results, Option<Held>) {
        let places = self.admit(operations.count.into()).await;
        self.execute_admitted(operations, options, places).await
    }

    /// Runs operations that have been admitted; those that have not fail.
    pub async fn execute_admitted(
        &self,
        operations: Operations,
        options: Options,
        places: Result<Places, Error>,
    ) -> (Results, Option<Held>) {
        let count = usize::from(operations.count);
        let pending = self.begin_admitted(Request::Independent { operations, options }, places).await;
        match pending.delivery().await {
            (Answer::Operations(results), held) => (results, held),
            (Answer::Failed(failure), _) => (Results::failed(count, &failure), None),
            (other, _) => panic!("independent operations were answered with {other:?}"),
        }
    }

    /// Now, by this machine's wall clock, for expiries that are relative. What has expired is decided by cluster time.
    pub fn now() -> ClusterTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ClusterTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The name of an interactive transaction. To drop it gives the transaction up: it ends at once, unless its commit is under
/// way.
#[derive(Debug)]
pub struct Transaction {
    handle: u64,
    submissions: mpsc::Sender<Submission>,
    ended: bool,
}

impl Transaction {
    /// As statements have it.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// An answer has said that it is over: there is nothing to give up.
    pub fn ended(mut self) {
        self.ended = true;
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Without a client or a runtime the thread is about to end, and the session with it.
        if let Err(TrySendError::Full(abandon)) = self.submissions.try_send(Submission::Abandon(self.handle))
            && let Ok(runtime) = runtime::Handle::try_current()
        {
            let submissions = self.submissions.clone();
            runtime.spawn(async move { drop(submissions.send(abandon).await) });
        }
    }
}

/// An answer that is awaited.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<(Answer, Held)>);

impl Pending {
    /// The answer; [`ErrorCode::Stopping`] if the client has gone.
    pub async fn answer(self) -> Answer {
        self.delivery().await.0
    }

    /// The answer, as [`Pending::answer`] has it, and what is to be kept until its results are written.
    pub async fn delivery(self) -> (Answer, Option<Held>) {
        match self.0.await {
            Ok((answer, held)) => (answer, Some(held)),
            Err(_) => (Answer::Failed(stopping()), None),
        }
    }
}

fn stopping() -> Failure {
    Error::new(ErrorCode::Stopping, "the API node is stopping").into()
}
