//! More than the cluster can do: what it can do is done all the same, the rest is refused soon, and not everything is taken in.

mod common;

use std::{
    cell::RefCell,
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::Fake;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{JoinSet, spawn_local},
    time::interval,
};
use tonic::{
    Code,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use twofold_apinode::request::Request;
use twofold_apinode_server::{grpc, memcached};
use twofold_client::{
    admission::Admission,
    handle::{HandedOut, Handle, Submission},
};
use twofold_grpc::v1::{
    self as pb, operation::Kind, twofold_client::TwofoldClient, value::Kind as ValueKind,
};

/// Operations that the cluster does in a millisecond.
const CAPACITY: usize = 20;
/// How many times as much is asked for.
const FACTOR: usize = 3;
/// Operations of a message.
const MESSAGE: usize = 100;
/// As many as a thread has under way at most.
const UNDER_WAY_MAX: usize = 8192;
const WARM_UP: Duration = Duration::from_millis(1000);
const MEASURE: Duration = Duration::from_millis(2000);

/// A cluster that takes all requests, and does them one after the other, no faster than it can. Where it is counted how many
/// operations it had to do at most.
fn slow_cluster() -> (Handle, Arc<AtomicUsize>) {
    let mut fake = Fake::new();
    let (handle, mut submissions) = Handle::new(fake.tables().clone(), HandedOut::default());
    handle.serving().send_replace(true);
    let most = Arc::new(AtomicUsize::new(0));
    let counted = most.clone();
    spawn_local(async move {
        let (mut waiting, mut under_way, mut able) = (VecDeque::new(), 0, 0);
        let mut ticks = interval(Duration::from_millis(1));
        loop {
            tokio::select! {
                submission = submissions.recv() => match submission {
                    Some(Submission::Request(request, reply)) => {
                        let Request::Independent { operations, .. } = &request else { panic!("{request:?}") };
                        under_way += usize::from(operations.count);
                        counted.fetch_max(under_way, Ordering::Relaxed);
                        waiting.push_back((usize::from(operations.count), request, reply));
                    }
                    Some(Submission::Abandon(_)) => {}
                    None => return,
                },
                // What is late is made up for, so that it does as much as it can whatever else the machine does.
                _ = ticks.tick() => able = (able + CAPACITY).min(UNDER_WAY_MAX),
            }
            while let Some((count, request, reply)) = waiting.pop_front_if(|(count, ..)| *count <= able) {
                (able, under_way) = (able - count, under_way - count);
                reply.send(fake.answer(request));
            }
        }
    });
    (handle.with_admission(Admission::default()), most)
}

/// What became of operations, and how long it took that messages were refused.
#[derive(Default)]
struct Counts {
    done: usize,
    refused: usize,
    refusals: Vec<Duration>,
}

/// Who asks, and counts.
#[derive(Clone)]
struct Asking {
    start: Instant,
    counts: Rc<RefCell<Counts>>,
}

impl Asking {
    fn answered(&self, sent: Instant, done: usize, refused: usize) {
        if !(WARM_UP..WARM_UP + MEASURE).contains(&self.start.elapsed()) {
            return;
        }
        let mut counts = self.counts.borrow_mut();
        counts.done += done;
        counts.refused += refused;
        if refused > 0 {
            counts.refusals.push(sent.elapsed());
        }
    }
}

/// Sends messages when they are due, whatever becomes of them.
async fn ask(mut send: impl FnMut(usize, Asking)) -> Counts {
    let asking = Asking { start: Instant::now(), counts: Rc::default() };
    let (mut ticks, mut sent) = (interval(Duration::from_millis(1)), 0);
    while asking.start.elapsed() < WARM_UP + MEASURE {
        ticks.tick().await;
        let due = asking.start.elapsed().as_millis() as usize * CAPACITY * FACTOR / MESSAGE;
        (sent..due).for_each(|message| send(message, asking.clone()));
        sent = due;
    }
    asking.counts.take()
}

fn judge(mut counts: Counts, most_under_way: &AtomicUsize) {
    let able = CAPACITY * MEASURE.as_millis() as usize;
    assert!(counts.done * 10 >= able * 9, "{} of {able} operations were done", counts.done);
    assert!(counts.refused > able / 2, "{} operations were refused", counts.refused);
    counts.refusals.sort_unstable();
    let median = counts.refusals[counts.refusals.len() / 2];
    assert!(median < Duration::from_millis(500), "it took {median:?} to refuse");
    let most = most_under_way.load(Ordering::Relaxed);
    assert!(most <= UNDER_WAY_MAX, "{most} operations were under way");
}

fn run(test: impl Future<Output = ()>) {
    twofold_runtime::thread::runtime().unwrap().block_on(test);
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn calls_beyond_what_can_be_done_are_refused() {
    fn read(key: usize) -> pb::Operation {
        let key = pb::Value { kind: Some(ValueKind::BytesValue(key.to_string().into_bytes().into())) };
        let read = pb::Read { key: vec![key], ..Default::default() };
        pb::Operation { table: "memcached".into(), kind: Some(Kind::Read(read)) }
    }
    async fn call(mut client: TwofoldClient<Channel>, message: usize, asking: Asking) {
        let sent = Instant::now();
        let operations = (0..MESSAGE).map(|place| read(message * MESSAGE + place)).collect();
        let mode = pb::Mode::Independent.into();
        match client.execute(pb::ExecuteRequest { operations, mode, options: None }).await {
            Ok(response) => {
                let errors: Vec<pb::Error> =
                    response.into_inner().results.into_iter().filter_map(|result| result.error).collect();
                for error in &errors {
                    assert_eq!((error.code.as_str(), error.temporary), ("TF-3003", true), "{error:?}");
                }
                asking.answered(sent, MESSAGE - errors.len(), errors.len());
            }
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                asking.answered(sent, 0, MESSAGE);
            }
        }
    }
    run(async {
        let (handle, most) = slow_cluster();
        let (listener, address) = listen().await;
        let services = grpc::services(handle).await.unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(Server::builder().add_routes(services).serve_with_incoming(incoming));
        let mut clients = Vec::new();
        for _ in 0..10 {
            let channel = Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap();
            clients.push(TwofoldClient::new(channel));
        }
        let counts = ask(|message, asking| {
            let client = clients[message % clients.len()].clone();
            drop(spawn_local(call(client, message, asking)));
        });
        judge(counts.await, &most);
    });
}

#[test]
fn commands_beyond_what_can_be_done_are_refused() {
    /// So many that all together have more under way than a thread takes on.
    const CONNECTIONS: usize = 300;
    run(async {
        let (handle, most) = slow_cluster();
        let (listener, address) = listen().await;
        spawn_local(memcached::Server::new(address.port(), 1, CONNECTIONS).serve(0, listener, handle));
        let mut writers = Vec::new();
        let mut readers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (reader, mut writer) = stream.into_split();
            let (sender, mut messages) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
            spawn_local(async move {
                while let Some(message) = messages.recv().await {
                    writer.write_all(&message).await.unwrap();
                }
            });
            let sent = Rc::new(RefCell::new(VecDeque::<(Instant, Asking)>::new()));
            writers.push((sender, sent.clone()));
            readers.spawn_local(async move {
                let mut lines = BufReader::new(reader).lines();
                loop {
                    let (mut done, mut refused) = (0, 0);
                    while done + refused < MESSAGE {
                        match lines.next_line().await.unwrap().as_deref() {
                            Some("END") => done += 1,
                            Some(line) if line.starts_with("SERVER_ERROR TF-3003") => refused += 1,
                            other => panic!("{other:?}"),
                        }
                    }
                    let (sent, asking) = sent.borrow_mut().pop_front().unwrap();
                    asking.answered(sent, done, refused);
                }
            });
        }
        let counts = ask(|message, asking| {
            let (writer, sent) = &writers[message % CONNECTIONS];
            let said: String =
                (0..MESSAGE).map(|place| format!("get {}\r\n", message * MESSAGE + place)).collect();
            sent.borrow_mut().push_back((Instant::now(), asking));
            writer.send(said.into_bytes()).unwrap();
        });
        let counts = counts.await;
        assert!(readers.try_join_next().is_none(), "a connection has ended");
        judge(counts, &most);
    });
}
