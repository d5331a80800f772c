//! What gRPC's clients may do to a cluster: go away in the middle, set deadlines, not read what they have asked for.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status, Streaming, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use twofold_cluster_tests::{Cluster, PATIENCE};
use twofold_grpc::v1::{
    self as pb, operation::Kind, twofold_client::TwofoldClient, value::Kind as ValueKind,
};

type Client = TwofoldClient<tonic::transport::Channel>;

/// Rows of the table that is scanned; a tenth of them where programs are built without optimization.
const ROWS: u64 = if cfg!(debug_assertions) { 200_000 } else { 2_000_000 };
const FILLER: usize = 100;
/// Rows of a request that loads them.
const LOADED: usize = 2_000;
/// By how much a client that does not read may have the API node grow: results of its thread that wait for their readers
/// are far fewer, and a table is far larger.
const GROWTH_MAX: u64 = 12 << 20;
/// What has not moved for so long has stopped.
const STILL: Duration = Duration::from_secs(2);

/// Runs a test in a runtime of its own, against a cluster of its own.
fn test(body: impl AsyncFnOnce(&Cluster, Client)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let cluster = Cluster::start(&[]);
    let address = format!("http://127.0.0.1:{}", cluster.port("api1", "grpc_port"));
    runtime.expect("a runtime").block_on(async {
        let channel = Endpoint::try_from(address).unwrap().connect().await.unwrap();
        body(&cluster, TwofoldClient::new(channel)).await;
    });
}

fn int(value: u64) -> pb::Value {
    pb::Value { kind: Some(ValueKind::UintValue(value)) }
}

fn row(id: u64, data: usize) -> BTreeMap<String, pb::Value> {
    let data = pb::Value { kind: Some(ValueKind::BytesValue(vec![b'x'; data].into())) };
    BTreeMap::from([("id".into(), int(id)), ("data".into(), data)])
}

fn write(id: u64, data: usize) -> pb::Operation {
    let write = pb::Write { row: row(id, data), ..Default::default() };
    pb::Operation { table: "rows".into(), kind: Some(Kind::Write(write)) }
}

fn read(id: u64) -> pb::Operation {
    let read = pb::Read { key: vec![int(id)], ..Default::default() };
    pb::Operation { table: "rows".into(), kind: Some(Kind::Read(read)) }
}

async fn create(client: &mut Client) {
    let column = |name: &str, kind: pb::ColumnType, max_length| pb::ColumnDefinition {
        name: name.into(),
        r#type: kind.into(),
        max_length,
        ..Default::default()
    };
    let table = pb::TableDefinition {
        name: "rows".into(),
        columns: vec![
            column("id", pb::ColumnType::Uint64, 0),
            column("data", pb::ColumnType::Binary, 1 << 20),
        ],
        primary_key: vec!["id".into()],
        distribution_key: vec![],
    };
    client.create_table(pb::CreateTableRequest { table: Some(table), if_not_exists: false }).await.unwrap();
}

async fn execute(
    client: &mut Client,
    mode: pb::Mode,
    operations: Vec<pb::Operation>,
    deadline_ms: u32,
) -> Result<pb::ExecuteResponse, Status> {
    let options = Some(pb::Options { deadline_ms, ..Default::default() });
    Ok(client.execute(pb::ExecuteRequest { operations, mode: mode.into(), options }).await?.into_inner())
}

struct Session {
    requests: mpsc::Sender<pb::SessionRequest>,
    responses: Streaming<pb::SessionResponse>,
}

impl Session {
    async fn open(client: &mut Client) -> Session {
        let (requests, receiver) = mpsc::channel(1);
        let responses = client.session(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Session { requests, responses }
    }

    /// A transaction that has written this row, and holds its lock.
    async fn holding(client: &mut Client, id: u64) -> Session {
        let mut session = Session::open(client).await;
        session.send(true, vec![write(id, 1)]).await;
        assert_eq!(session.responses.next().await.unwrap().unwrap().state(), pb::State::Open);
        session
    }

    async fn send(&self, begin: bool, operations: Vec<pb::Operation>) {
        let request = pb::SessionRequest { transaction: 1, begin, operations, ..Default::default() };
        self.requests.send(request).await.unwrap();
    }
}

/// Takes a row's lock in much less time than a lock may be waited for; returns how long that was.
async fn takes(client: &mut Client, id: u64) -> Duration {
    let before = Instant::now();
    execute(client, pb::Mode::Transaction, vec![write(id, 2)], 2_000).await.unwrap();
    before.elapsed()
}

/// Waits until so many operations have had to wait for a lock.
async fn lock_waits(cluster: &Cluster, count: u64) {
    twofold_cluster_tests::eventually(|| {
        let waits: Option<u64> = ["data1", "data2"]
            .iter()
            .map(|node| super::metrics::figure(cluster, node, "port", "twofold_worker_lock_waits_total"))
            .sum();
        (waits < Some(count)).then(|| format!("{waits:?} lock waits, not {count}"))
    });
}

#[test]
fn what_is_cancelled_or_late_lets_go_of_its_locks() {
    test(async |cluster, mut client| {
        create(&mut client).await;
        // All of the others wait for this one, which is the oldest.
        let _holder = Session::holding(&mut client, 1).await;

        let session = Session::holding(&mut client, 2).await;
        session.send(false, vec![write(1, 3)]).await;
        lock_waits(cluster, 1).await;
        drop(session);
        println!("a session that was cancelled: its row was free after {:?}", takes(&mut client, 2).await);

        let mut other = client.clone();
        let both = || vec![write(3, 3), write(1, 3)];
        let call = tokio::spawn(async move { execute(&mut other, pb::Mode::Transaction, both(), 0).await });
        lock_waits(cluster, 2).await;
        call.abort();
        println!("a call that was cancelled: its row was free after {:?}", takes(&mut client, 3).await);

        for mode in [pb::Mode::Transaction, pb::Mode::Independent] {
            let late = execute(&mut client, mode, both(), 300).await;
            let (code, text, twofold) = match late {
                Err(status) => {
                    assert!(status.metadata().get_bin("twofold-token-bin").is_none(), "{status:?}");
                    let twofold = status.metadata().get("twofold-code").unwrap().to_str().unwrap().into();
                    (status.code(), status.message().to_string(), twofold)
                }
                Ok(response) => {
                    let error = response.results[1].error.clone().unwrap();
                    assert!(response.results[0].error.is_none() && response.results[1].token.is_empty());
                    (Code::from_i32(error.grpc_code), error.message, error.code)
                }
            };
            // Nothing is pending: it was not done, and will not be.
            assert_eq!((code, twofold.as_str()), (Code::DeadlineExceeded, "TF-3005"), "{text}");
            takes(&mut client, 3).await;
        }
    });
}

/// What a node's process has in memory, in bytes.
fn resident(cluster: &Cluster, node: &str) -> u64 {
    let pid = cluster.pid(node).expect("it runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// How many scanned rows the data nodes have sent, in steps.
fn steps(cluster: &Cluster) -> u64 {
    let of =
        |node: &&str| super::metrics::figure(cluster, node, "port", "twofold_worker_scans_total").unwrap();
    ["data1", "data2"].iter().map(of).sum()
}

#[test]
fn a_scan_goes_no_faster_than_it_is_read_and_takes_little_memory() {
    test(async |cluster, mut client| {
        create(&mut client).await;
        for first in (0..ROWS).step_by(LOADED) {
            let rows = (first..ROWS.min(first + LOADED as u64)).map(|id| write(id, FILLER)).collect();
            let done = execute(&mut client, pb::Mode::Independent, rows, 30_000).await.unwrap();
            assert!(done.results.iter().all(|result| result.error.is_none()));
        }
        let before = resident(cluster, "api1");
        let request = pb::ScanRequest { table: "rows".into(), ..Default::default() };
        let mut rows = client.scan(request).await.unwrap().into_inner();
        rows.next().await.unwrap().unwrap();
        // Nobody reads: after what fills the buffers on the way nothing more is fetched.
        let mut fetched = steps(cluster);
        loop {
            tokio::time::sleep(STILL).await;
            let now = steps(cluster);
            if std::mem::replace(&mut fetched, now) == now {
                break;
            }
        }
        let (mut seen, mut sum, mut peak) = (0, 0, resident(cluster, "api1"));
        let mut responses = 0;
        while let Some(response) = rows.next().await {
            for row in response.unwrap().rows {
                let Some(ValueKind::UintValue(id)) = row.values[0].kind else { panic!("{row:?}") };
                (seen, sum) = (seen + 1, sum + id);
            }
            responses += 1;
            if responses % 1_000 == 0 {
                peak = peak.max(resident(cluster, "api1"));
            }
        }
        assert_eq!((seen, sum), (ROWS, ROWS * (ROWS - 1) / 2));
        // Nodes tell their figures about once a second.
        let mut all = 0;
        twofold_cluster_tests::eventually(|| {
            all = steps(cluster);
            (fetched * 3 > all)
                .then(|| format!("{fetched} of {all} steps were made for one who did not read"))
        });
        let growth = peak.saturating_sub(before);
        println!(
            "{ROWS} rows in {responses} responses: {} KiB more at most, {fetched} of {all} steps ahead",
            growth >> 10
        );
        assert!(growth < GROWTH_MAX, "{growth} bytes more");
    });
}

#[test]
fn a_session_that_does_not_read_is_not_read_from() {
    test(async |cluster, mut client| {
        const SIZE: usize = 100_000;
        const ENDLESS: u64 = 200_000;
        create(&mut client).await;
        execute(&mut client, pb::Mode::Transaction, vec![write(1, SIZE)], 0).await.unwrap();
        let before = resident(cluster, "api1");
        let mut session = Session::open(&mut client).await;
        let mut sent = 0;
        let request = |transaction| pb::SessionRequest {
            request: transaction,
            transaction,
            begin: true,
            operations: vec![read(1)],
            end: pb::End::Commit.into(),
            ..Default::default()
        };
        while sent < ENDLESS {
            match timeout(STILL, session.requests.send(request(sent))).await {
                Ok(taken) => taken.unwrap(),
                Err(_) => break,
            }
            sent += 1;
        }
        let growth = resident(cluster, "api1").saturating_sub(before);
        println!("{sent} requests of one who does not read: {} KiB more", growth >> 10);
        assert!(sent < ENDLESS && growth < 256 * SIZE as u64 * 3, "{sent} requests, {growth} bytes more");
        // Nothing is lost, and it goes on.
        for _ in 0..sent {
            let response = timeout(PATIENCE, session.responses.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(response.state(), pb::State::Committed, "{:?}", response.error);
        }
        session.requests.send(request(sent)).await.unwrap();
        assert_eq!(session.responses.next().await.unwrap().unwrap().request, sent);
    });
}

#[test]
fn health_follows_the_cluster() {
    test(async |cluster, _| {
        let address = format!("http://127.0.0.1:{}", cluster.port("api1", "grpc_port"));
        let channel = Endpoint::try_from(address).unwrap().connect().await.unwrap();
        let request = HealthCheckRequest { service: "twofold.v1.Twofold".into() };
        let mut watched = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
        let mut becomes = async |wanted| {
            while timeout(PATIENCE, watched.next()).await.unwrap().unwrap().unwrap().status() != wanted {}
        };
        becomes(ServingStatus::Serving).await;
        for node in ["data1", "data2"] {
            cluster.done(&["kill", node, "--host"]);
        }
        becomes(ServingStatus::NotServing).await;
        // The first alone cannot serve yet: its buddy had more.
        cluster.command(&["restart", "data1", "--timeout", "1"]);
        cluster.done(&["restart", "data2"]);
        becomes(ServingStatus::Serving).await;
    });
}
