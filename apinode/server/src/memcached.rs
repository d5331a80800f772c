//! memcached's protocol over sockets.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Instant,
};

use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet, spawn_local, yield_now},
    time::{self, Duration},
};
use twofold_apinode::{
    memcached::{Connection, Counters, RESULT_BYTES_MAX, Step, item::Keyspace},
    request::{Answer, Operations, Options, Request, Results},
};
use twofold_proto::{
    error::{Error, ErrorCode},
    figure::{Figure, FigureKind},
    ids::PartitionId,
    operation::{BodyRef, Operation, OperationKind, Projection, ResultRef},
    schema::Schema,
    time::ClusterTime,
    value::ValueRef,
    wire::Reader,
};

use twofold_client::{
    admission::{self, Places},
    handle::{Handle, Tables},
};

use crate::seats::{Frontend, Seats};

/// Bytes read at once, at most.
const READ_BYTES: usize = 16 << 10;
/// Connections at rest whose memory a thread keeps for others.
const SPARE_CONNECTIONS: usize = 64;
/// Partitions that a flush_all works on at a time.
const FLUSH_PARTITIONS: usize = 16;
/// Items that it deletes at a time.
const FLUSH_ROWS: u32 = 512;

/// What all threads' connections share.
#[derive(Debug)]
pub struct Server {
    port: u16,
    threads: usize,
    seats: Arc<Seats>,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    counters: [AtomicU64; Counters::COUNT],
    started: Instant,
    flushes: Mutex<Flushes>,
}

/// The flush_all that was said last: one that waits for its time gives way to the next.
#[derive(Debug, Default)]
struct Flushes {
    /// How often it was said.
    said: u64,
    /// Waits for its time.
    waiting: Option<AbortHandle>,
}

impl Flushes {
    /// Another one is said, so the one before waits no longer. Returns its number.
    fn say(&mut self) -> u64 {
        if let Some(task) = self.waiting.take() {
            task.abort();
        }
        self.said += 1;
        self.said
    }
}

impl Server {
    /// For so many connections at most; the port and the number of threads are for `stats`.
    pub fn new(port: u16, threads: usize, connections_max: usize) -> Arc<Server> {
        Arc::new(Server {
            port,
            threads,
            seats: Seats::new(threads, connections_max),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            started: Instant::now(),
            flushes: Mutex::default(),
        })
    }

    /// Serves the connections of the thread at this place, see [`Seats::serve`].
    pub async fn serve(self: Arc<Server>, place: usize, listener: TcpListener, handle: Handle) {
        let seats = self.seats.clone();
        let thread = Rc::new(Thread {
            server: self,
            handle,
            items: RefCell::new((
                Arc::default(),
                Err(Error::new(ErrorCode::NotServing, "the tables are not known yet")),
            )),
            buffer: RefCell::new(vec![0; READ_BYTES]),
            spare: RefCell::default(),
        });
        seats.serve(place, listener, thread).await;
    }

    fn count(&self, counters: &Counters) {
        for (figure, total) in counters.figures().iter().zip(&self.counters) {
            if figure.value > 0 {
                total.fetch_add(figure.value, Ordering::Relaxed);
            }
        }
    }

    /// What all connections together have counted.
    pub fn figures(&self, tell: &mut dyn FnMut(Figure)) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (figure, total) in Counters::default().figures().into_iter().zip(&self.counters) {
            tell(Figure { value: load(total), ..figure });
        }
        self.seats.figures("memcached", tell);
        let counter = |name, help, value| Figure {
            kind: FigureKind::Counter,
            ..Figure::gauge("memcached", name, help, value)
        };
        tell(counter("read_bytes", "Bytes read", load(&self.bytes_read)));
        tell(counter("written_bytes", "Bytes written", load(&self.bytes_written)));
    }

    fn general(&self) -> Vec<(&'static str, String)> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        let [accepted, refused] = self.seats.counted();
        let mut figures = vec![
            ("pid", std::process::id().to_string()),
            ("uptime", self.started.elapsed().as_secs().to_string()),
            ("time", (Handle::now().0 / 1000).to_string()),
            ("version", concat!("1.6.18-twofold-", env!("CARGO_PKG_VERSION")).into()),
            ("pointer_size", usize::BITS.to_string()),
            ("max_connections", self.seats.most().to_string()),
            ("curr_connections", self.seats.taken().to_string()),
            ("total_connections", accepted.to_string()),
            ("rejected_connections", refused.to_string()),
        ];
        let names = Counters::default().figures().map(|figure| figure.name);
        figures.extend(names.into_iter().zip(self.counters.iter().map(load)));
        figures.extend([
            ("bytes_read", load(&self.bytes_read)),
            ("bytes_written", load(&self.bytes_written)),
            ("accepting_conns", "1".into()),
            ("threads", self.threads.to_string()),
            ("evictions", "0".into()),
        ]);
        figures
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("maxconns", self.seats.most().to_string()),
            ("tcpport", self.port.to_string()),
            ("udpport", "0".into()),
            ("evictions", "off".into()),
            ("num_threads", self.threads.to_string()),
            ("cas_enabled", "yes".into()),
            ("binding_protocol", "ascii".into()),
            ("auth_enabled_sasl", "no".into()),
            ("item_size_max", twofold_apinode::memcached::command::VALUE_MAX.to_string()),
            ("flush_enabled", "yes".into()),
        ]
    }

    fn flushes(&self) -> MutexGuard<'_, Flushes> {
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset(&self) {
        self.seats.reset();
        let own = [&self.bytes_read, &self.bytes_written];
        for counter in self.counters.iter().chain(own) {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// How operations on items are written, or why they cannot be.
type Bound = Result<Rc<Keyspace>, Error>;

/// What the connections of one thread share.
struct Thread {
    server: Arc<Server>,
    handle: Handle,
    /// How operations on items are written, by what is known of the tables.
    items: RefCell<(Arc<Tables>, Bound)>,
    /// Where all of them read; what was read is copied to its connection at once, so an idle one holds no buffer.
    buffer: RefCell<Vec<u8>>,
    /// What connections at rest have left: those that are idle hold nothing, and those that are busy use what is in the
    /// processor's cache.
    #[expect(clippy::vec_box, reason = "the task of an idle connection holds a pointer, not a connection")]
    spare: RefCell<Vec<Box<Connection>>>,
}

impl Frontend for Thread {
    const NAME: &'static str = "memcached";

    async fn converse(self: Rc<Thread>, mut stream: TcpStream) -> io::Result<()> {
        // Answers are whole when they are written.
        stream.set_nodelay(true)?;
        stream.readable().await?;
        let mut connection = Box::new(Connection::new());
        // Operations of the last batch, and the places for as many in the next.
        let (mut operations, mut places) = (1, None);
        // Whether something was run since the last reading.
        let mut ran = true;
        loop {
            let items = self.items();
            let step = connection.step(Handle::now(), items.as_deref());
            // Only what is run needs them.
            let admitted = places.take().filter(|_| matches!(step, Step::Execute(_)));
            // What waits for its answer lets nothing that is answered wait. A client that does not read stays here.
            self.send(&mut connection, &mut stream).await?;
            match step {
                Step::Read => {
                    if !std::mem::take(&mut ran) {
                        // One that says much and asks for nothing would not wait otherwise.
                        yield_now().await;
                    }
                    match self.read(connection, &mut stream, operations).await? {
                        Some((read, admitted)) => (connection, places) = (read, Some(admitted)),
                        None => return Ok(()),
                    }
                }
                Step::Execute(batch) => {
                    operations = batch.count.into();
                    let admitted = match admitted {
                        Some(Err(error)) => Err(error),
                        Some(Ok(places)) if admission::covers(&places, operations) => Ok(places),
                        // More has come than last time.
                        few => {
                            drop(few);
                            self.handle.admit(operations).await
                        }
                    };
                    let options = Options { result_bytes: Some(RESULT_BYTES_MAX), ..Options::default() };
                    let (results, held) = self.handle.execute_admitted(batch, options, admitted).await;
                    connection.executed(&results);
                    drop(results);
                    // The next step may add no more than a few lines to what they have become.
                    self.send(&mut connection, &mut stream).await?;
                    drop(held);
                    ran = true;
                }
                Step::FlushAll { at } => match self.flush_all(at).await {
                    Ok(()) => connection.said(Ok("OK")),
                    Err(error) => connection.said(Err(&error)),
                },
                Step::Stats { kind } => self.stats(&mut connection, &kind),
                Step::Close => return Ok(()),
            }
        }
    }

    fn refusal() -> Vec<u8> {
        // As memcached does.
        b"ERROR Too many open connections\r\n".to_vec()
    }
}

impl Thread {
    /// The tables, as far as they are known now.
    fn items(&self) -> Bound {
        let tables = self.handle.tables().newest();
        let mut items = self.items.borrow_mut();
        if !Arc::ptr_eq(&items.0, &tables) || items.1.is_err() {
            let bound = Keyspace::new(&tables.prefixes, |name| tables.table(name));
            *items = (tables, bound.map(Rc::new));
        }
        items.1.clone()
    }

    async fn send(&self, connection: &mut Connection, stream: &mut TcpStream) -> io::Result<()> {
        self.server.count(&connection.take_counters());
        let bytes = connection.output().len();
        if bytes > 0 {
            stream.write_all(connection.output()).await?;
            connection.sent(bytes);
            self.server.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until there is something to read, and room for so many operations, and reads. Who waits holds no memory,
    /// if it is at rest, and no places. None at the end.
    async fn read(
        &self,
        connection: Box<Connection>,
        stream: &mut TcpStream,
        operations: usize,
    ) -> io::Result<Option<(Box<Connection>, Result<Places, Error>)>> {
        let mut connection = Some(connection);
        if let Some(idle) = connection.take_if(|connection| connection.is_at_rest()) {
            self.leave(idle);
        }
        loop {
            stream.readable().await?;
            let places = self.handle.admit(operations).await;
            // Unlike `try_read`, this knows when there is no more, and saves the attempt.
            let read = poll_fn(|context| {
                let mut buffer = self.buffer.borrow_mut();
                let mut read = ReadBuf::new(&mut buffer);
                let Poll::Ready(result) = Pin::new(&mut *stream).poll_read(context, &mut read) else {
                    return Poll::Ready(Ok(None));
                };
                let mut connection = connection.take().unwrap_or_else(|| self.take_spare());
                connection.input().extend_from_slice(read.filled());
                Poll::Ready(result.map(|()| Some((connection, read.filled().len()))))
            });
            if let Some((connection, bytes)) = read.await? {
                self.server.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
                return Ok((bytes > 0).then_some((connection, places)));
            }
        }
    }

    fn leave(&self, connection: Box<Connection>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_CONNECTIONS {
            spare.push(connection);
        }
    }

    fn take_spare(&self) -> Box<Connection> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| Box::new(Connection::at_rest()))
    }

    fn stats(&self, connection: &mut Connection, kind: &[u8]) {
        match kind {
            b"" => connection.stats(self.server.general()),
            b"settings" => connection.stats(self.server.settings()),
            // Nothing is kept in classes of sizes.
            b"items" | b"conns" => connection.stats([("", ""); 0]),
            b"slabs" => connection.stats([("active_slabs", 0), ("total_malloced", 0)]),
            b"sizes" => connection.stats([("sizes_status", "disabled")]),
            b"detail" => connection.said(Ok("CLIENT_ERROR stats detail not allowed")),
            b"cachedump" => connection.said(Ok("CLIENT_ERROR stats cachedump not allowed")),
            b"reset" => {
                self.server.reset();
                connection.said(Ok("RESET"));
            }
            _ => connection.said(Ok("ERROR")),
        }
    }

    async fn flush_all(self: &Rc<Thread>, at: ClusterTime) -> Result<(), Error> {
        let schema = self.items()?.own().schema().clone();
        let flush = self.server.flushes().say();
        let wait = at.0.saturating_sub(Handle::now().0);
        if wait == 0 {
            return delete_all(&self.handle, schema).await;
        }
        let this = self.clone();
        let task = spawn_local(async move {
            time::sleep(Duration::from_millis(wait)).await;
            {
                let mut flushes = this.server.flushes();
                if flushes.said != flush {
                    return;
                }
                // It has begun: the next one lets it be.
                flushes.waiting = None;
            }
            if let Err(error) = delete_all(&this.handle, schema).await {
                tracing::warn!("memcached: a flush_all that was said {wait} ms ago failed: {error}");
            }
        });
        let mut flushes = self.server.flushes();
        if flushes.said == flush {
            flushes.waiting = Some(task.abort_handle());
        } else {
            // Another thread was faster.
            task.abort();
        }
        Ok(())
    }
}

/// Deletes the rows that are there now.
async fn delete_all(handle: &Handle, schema: Arc<Schema>) -> Result<(), Error> {
    let partitions = handle.tables().newest().partitions;
    let mut under_way = JoinSet::new();
    for partition in 0..partitions {
        if under_way.len() == FLUSH_PARTITIONS {
            joined(under_way.join_next().await)?;
        }
        under_way.spawn(delete_partition(handle.clone(), schema.clone(), PartitionId(partition)));
    }
    while let Some(result) = under_way.join_next().await {
        joined(Some(result))?;
    }
    Ok(())
}

fn joined(result: Option<Result<Result<(), Error>, tokio::task::JoinError>>) -> Result<(), Error> {
    match result {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Error::new(ErrorCode::Internal, format!("flush_all: {error}"))),
        None => Ok(()),
    }
}

async fn delete_partition(handle: Handle, schema: Arc<Schema>, partition: PartitionId) -> Result<(), Error> {
    let key = schema.primary_key[0].to_le_bytes();
    let mut program = Vec::new();
    BodyRef { before: Projection::Columns(&key), ..BodyRef::default() }.encode(&mut program);
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        let step = Request::ScanStep {
            table: schema.id,
            schema_version: schema.version,
            partition,
            cursor: from,
            rows: FLUSH_ROWS,
            program: program.clone(),
            deadline: None,
        };
        let rows = match handle.submit(step).await {
            Answer::Scan { cursor: next, rows } => {
                cursor = next;
                rows
            }
            Answer::Failed(failure) => return Err(failure.error),
            other => panic!("a step of a scan was answered with {other:?}"),
        };
        if rows.is_empty() {
            continue;
        }
        let (results, _) = handle.execute(deletions(&schema, &rows)?, Options::default()).await;
        // That someone else has deleted one meanwhile is a result, not a failure.
        if let Some(failure) = results.iter().find_map(Result::err) {
            return Err(failure.error.clone());
        }
    }
    Ok(())
}

fn deletions(schema: &Schema, rows: &Results) -> Result<Operations, Error> {
    let mut operations = Operations::default();
    for row in rows.iter() {
        let row = row.map_err(|failure| failure.error.clone())?;
        let result = ResultRef::parse(&mut Reader::new(row, "scanned row"))?;
        let values = result.before.map(|row| row.values()).into_iter().flatten().next();
        let Some(Ok(ValueRef::Binary(key))) = values else {
            return Err(Error::new(ErrorCode::Internal, "a scanned item has no key"));
        };
        Operation::new(OperationKind::Delete, schema, key.into_owned())?.encode(&mut operations.bytes);
        operations.count += 1;
    }
    Ok(operations)
}
