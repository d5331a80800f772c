//! The gRPC interface, as a client sees it.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{Fake, Faults};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tonic_types::StatusExt;
use twofold_apinode::request::{Answer, End, HandedOut as _, Request, Results, Statement};
use twofold_apinode_server::grpc;
use twofold_client::handle::{HandedOut, Handle, Reply, Submission};
use twofold_grpc::v1::{
    self as pb, operation::Kind, twofold_client::TwofoldClient, value::Kind as ValueKind,
};
use twofold_proto::{
    error::{Error, ErrorCode},
    ids::Epoch,
    message::TransactionState,
};

type Client = TwofoldClient<Channel>;

/// Serves in a task of its own.
async fn serve(handle: Handle) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let services = grpc::services(handle).await.unwrap();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(async move {
        Server::builder().add_routes(services).serve_with_incoming(incoming).await.unwrap();
    });
    Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// Runs a test against a server of its own.
fn test<F: Future<Output = ()>>(body: impl FnOnce(Client, Channel, Faults) -> F) {
    twofold_runtime::thread::runtime().unwrap().block_on(async {
        let fake = Fake::new();
        let faults = fake.faults();
        let channel = serve(fake.start()).await;
        body(TwofoldClient::new(channel.clone()).max_decoding_message_size(64 << 20), channel, faults).await;
    });
}

/// Runs a test that counts what was answered and is not written yet.
fn counted<F: Future<Output = ()>>(body: impl FnOnce(Client, HandedOut) -> F) {
    twofold_runtime::thread::runtime().unwrap().block_on(async {
        let fake = Fake::new();
        let handed_out = fake.handed_out();
        let client = TwofoldClient::new(serve(fake.start()).await);
        body(client.max_decoding_message_size(64 << 20), handed_out).await;
    });
}

/// Runs a test that answers what is asked of the cluster itself.
fn by_hand<F: Future<Output = ()>>(body: impl FnOnce(Client, mpsc::Receiver<Submission>) -> F) {
    twofold_runtime::thread::runtime().unwrap().block_on(async {
        let (handle, submissions) = Handle::new(Fake::new().tables().clone(), HandedOut::default());
        body(TwofoldClient::new(serve(handle).await), submissions).await;
    });
}

async fn next_statement(submissions: &mut mpsc::Receiver<Submission>) -> (Statement, Reply) {
    let next = tokio::time::timeout(Duration::from_secs(30), submissions.recv()).await;
    match next.expect("nothing more is asked").unwrap() {
        Submission::Request(Request::Statement(statement), reply) => (statement, reply),
        other => panic!("{other:?}"),
    }
}

/// The handle of the transaction that is given up next.
async fn next_abandoned(submissions: &mut mpsc::Receiver<Submission>) -> u64 {
    let next = tokio::time::timeout(Duration::from_secs(30), submissions.recv()).await;
    match next.expect("nothing is given up").unwrap() {
        Submission::Abandon(handle) => handle,
        other => panic!("{other:?}"),
    }
}

/// The answer to a statement that leaves its transaction open.
fn opened() -> Answer {
    let (state, results) = (TransactionState::Open, Results::new(0));
    Answer::Statement { state, epoch: Epoch(0), token: None, timestamp: 77, results }
}

fn int(value: i64) -> pb::Value {
    pb::Value { kind: Some(ValueKind::IntValue(value)) }
}

fn text(value: &str) -> pb::Value {
    pb::Value { kind: Some(ValueKind::TextValue(value.into())) }
}

fn bytes(value: Vec<u8>) -> pb::Value {
    pb::Value { kind: Some(ValueKind::BytesValue(value.into())) }
}

fn named(values: &[(&str, pb::Value)]) -> BTreeMap<String, pb::Value> {
    values.iter().map(|(name, value)| (name.to_string(), value.clone())).collect()
}

fn on(kind: Kind) -> pb::Operation {
    pb::Operation { table: "users".into(), kind: Some(kind) }
}

fn insert(id: i64, name: &str) -> pb::Operation {
    on(Kind::Insert(pb::Insert {
        row: named(&[("id", int(id)), ("name", text(name))]),
        ..Default::default()
    }))
}

fn read(id: i64) -> pb::Operation {
    on(Kind::Read(pb::Read { key: vec![int(id)], ..Default::default() }))
}

fn add(id: i64, visits: i64) -> pb::Operation {
    let assignments = pb::Assignments { add: named(&[("visits", int(visits))]), ..Default::default() };
    on(Kind::Update(pb::Update {
        key: vec![int(id)],
        assignments: Some(assignments),
        return_new: Some(pb::Columns { names: vec!["visits".into()] }),
        ..Default::default()
    }))
}

fn users() -> pb::TableDefinition {
    let column = |name: &str, kind: pb::ColumnType| pb::ColumnDefinition {
        name: name.into(),
        r#type: kind.into(),
        ..Default::default()
    };
    pb::TableDefinition {
        name: "users".into(),
        columns: vec![
            column("id", pb::ColumnType::Int64),
            pb::ColumnDefinition { max_length: 20, nullable: true, ..column("name", pb::ColumnType::Text) },
            pb::ColumnDefinition {
                default_value: Some(pb::Value { kind: Some(ValueKind::UintValue(0)) }),
                ..column("visits", pb::ColumnType::Uint32)
            },
        ],
        primary_key: vec!["id".into()],
        distribution_key: vec!["id".into()],
    }
}

async fn create(client: &mut Client) {
    let request = pb::CreateTableRequest { table: Some(users()), if_not_exists: false };
    client.create_table(request).await.unwrap();
}

async fn execute(
    client: &mut Client,
    mode: pb::Mode,
    operations: Vec<pb::Operation>,
) -> Result<pb::ExecuteResponse, Status> {
    let request = pb::ExecuteRequest { operations, mode: mode.into(), options: None };
    Ok(client.execute(request).await?.into_inner())
}

async fn transaction(
    client: &mut Client,
    operations: Vec<pb::Operation>,
) -> Result<pb::ExecuteResponse, Status> {
    execute(client, pb::Mode::Transaction, operations).await
}

fn row(result: &pb::Result, column: &str) -> pb::Value {
    result.row.as_ref().unwrap().columns[column].clone()
}

fn tells(status: &Status, code: Code, twofold: &str, sentence: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert_eq!(status.metadata().get("twofold-code").unwrap(), twofold);
    assert_eq!(status.get_details_error_info().unwrap().reason, twofold);
    assert!(status.message().contains(sentence), "{}", status.message());
}

#[test]
fn tables_come_and_go() {
    test(async |mut client, _, _| {
        create(&mut client).await;
        let again = pb::CreateTableRequest { table: Some(users()), if_not_exists: false };
        let status = client.create_table(again).await.unwrap_err();
        tells(&status, Code::AlreadyExists, "TF-1009", "`users`");
        let again = pb::CreateTableRequest { table: Some(users()), if_not_exists: true };
        client.create_table(again).await.unwrap();
        let names = client.list_tables(pb::ListTablesRequest {}).await.unwrap().into_inner().names;
        assert_eq!(names, ["memcached", "users"]);
        let describe = pb::DescribeTableRequest { name: "users".into() };
        let described = client.describe_table(describe.clone()).await.unwrap().into_inner();
        assert_eq!((described.table, described.version), (Some(users()), 1));
        client.drop_table(pb::DropTableRequest { name: "users".into(), if_exists: false }).await.unwrap();
        let status = client.describe_table(describe).await.unwrap_err();
        tells(&status, Code::NotFound, "TF-1002", "there is no table `users`");
        client.drop_table(pb::DropTableRequest { name: "users".into(), if_exists: true }).await.unwrap();
        let mut bad = users();
        bad.primary_key = vec!["nobody".into()];
        let status = client
            .create_table(pb::CreateTableRequest { table: Some(bad), if_not_exists: false })
            .await
            .unwrap_err();
        tells(
            &status,
            Code::InvalidArgument,
            "TF-1010",
            "table `users`: primary key: there is no column `nobody`",
        );
    });
}

#[test]
fn a_transaction_is_all_or_nothing() {
    test(async |mut client, _, _| {
        create(&mut client).await;
        let done = transaction(&mut client, vec![insert(1, "ann"), insert(2, "bob"), read(1), read(3)])
            .await
            .unwrap();
        assert!(done.epoch > 0 && !done.token.is_empty());
        assert_eq!(done.results.len(), 4);
        assert!(done.results[0].changed && !done.results[0].existed);
        assert_eq!(row(&done.results[2], "name"), text("ann"));
        assert_eq!(row(&done.results[2], "visits").kind, Some(ValueKind::UintValue(0)));
        assert_eq!((done.results[3].existed, done.results[3].row.clone()), (false, None));
        let status =
            client.transaction_status(pb::TransactionStatusRequest { token: done.token }).await.unwrap();
        assert_eq!(status.get_ref().state(), pb::State::Committed);
        assert_eq!(status.get_ref().epoch, done.epoch);

        let status = transaction(&mut client, vec![add(1, 5), insert(2, "bert")]).await.unwrap_err();
        tells(&status, Code::AlreadyExists, "TF-1011", "table `users`");
        assert_eq!(status.get_details_error_info().unwrap().metadata["operation"], "1");
        let done = transaction(&mut client, vec![add(1, 1)]).await.unwrap();
        assert_eq!(row(&done.results[0], "visits").kind, Some(ValueKind::UintValue(1)));
        let status = transaction(&mut client, vec![add(9, 1)]).await.unwrap_err();
        tells(&status, Code::NotFound, "TF-1012", "there is no such row");
        let status = transaction(&mut client, vec![add(1, -5)]).await.unwrap_err();
        tells(
            &status,
            Code::InvalidArgument,
            "TF-1008",
            "column `visits`: the number does not fit the column",
        );
    });
}

#[test]
fn independent_operations_fail_on_their_own() {
    test(async |mut client, _, _| {
        create(&mut client).await;
        let operations = vec![insert(1, "ann"), insert(1, "again"), add(9, 1), read(1), read(9)];
        let done = execute(&mut client, pb::Mode::Independent, operations).await.unwrap();
        let errors: Vec<Option<String>> =
            done.results.iter().map(|result| result.error.as_ref().map(|error| error.code.clone())).collect();
        assert_eq!(errors, [None, Some("TF-1011".into()), Some("TF-1012".into()), None, None]);
        assert_eq!(done.results[1].error.as_ref().unwrap().grpc_code, Code::AlreadyExists as i32);
        assert_eq!(row(&done.results[3], "name"), text("ann"));
        let locking = on(Kind::Read(pb::Read {
            key: vec![int(1)],
            lock: pb::Lock::Shared.into(),
            ..Default::default()
        }));
        let status = execute(&mut client, pb::Mode::Independent, vec![locking]).await.unwrap_err();
        tells(&status, Code::InvalidArgument, "TF-1001", "takes no lock");
    });
}

#[test]
fn versions_conditions_and_expiry() {
    test(async |mut client, _, _| {
        create(&mut client).await;
        transaction(&mut client, vec![insert(1, "ann")]).await.unwrap();
        let versioned = on(Kind::Read(pb::Read { key: vec![int(1)], version: true, ..Default::default() }));
        let seen = transaction(&mut client, vec![versioned]).await.unwrap().results[0].version;
        assert!(seen.is_some());
        let delete = |version| {
            let is = pb::condition::VersionIs { comparator: pb::Comparator::Equal.into(), version };
            let condition = pb::Condition { kind: Some(pb::condition::Kind::Version(is)) };
            let columns = Some(pb::Columns { names: vec!["name".into()] });
            on(Kind::Delete(pb::Delete {
                key: vec![int(1)],
                conditions: vec![condition],
                return_old: columns,
                ..Default::default()
            }))
        };
        let other = seen.map(|version| pb::Version { number: version.number + 1, ..version });
        let status = transaction(&mut client, vec![delete(other)]).await.unwrap_err();
        tells(&status, Code::FailedPrecondition, "TF-1013", "a condition");
        let gone = transaction(&mut client, vec![delete(seen)]).await.unwrap();
        assert_eq!(gone.results[0].old_row.as_ref().unwrap().columns, named(&[("name", text("ann"))]));
        let expired = on(Kind::Write(pb::Write {
            row: named(&[("id", int(2))]),
            expiry: Some(pb::write::Expiry::ExpireInMs(0)),
            ..Default::default()
        }));
        let done = transaction(&mut client, vec![expired, read(2)]).await.unwrap();
        assert!(!done.results[1].existed);
    });
}

#[test]
fn requests_that_are_wrong_are_refused() {
    test(async |mut client, _, _| {
        create(&mut client).await;
        let status = transaction(&mut client, vec![]).await.unwrap_err();
        tells(&status, Code::InvalidArgument, "TF-1001", "the request has no operations");
        let unknown = pb::Operation { table: "nobody".into(), ..read(1) };
        let status = transaction(&mut client, vec![read(1), unknown]).await.unwrap_err();
        tells(&status, Code::NotFound, "TF-1002", "there is no table `nobody`");
        assert_eq!(status.get_details_error_info().unwrap().metadata["operation"], "1");
        let request = pb::TransactionStatusRequest { token: b"\xffnonsense".to_vec().into() };
        let status = client.transaction_status(request).await.unwrap_err();
        tells(&status, Code::InvalidArgument, "TF-1001", "no token");
    });
}

#[test]
fn errors_of_the_cluster_have_the_codes_that_make_clients_retry() {
    test(async |mut client, _, faults| {
        create(&mut client).await;
        let cases = [
            (ErrorCode::Deadlock, Code::Aborted, "TF-2001"),
            (ErrorCode::NotServing, Code::Unavailable, "TF-3001"),
            (ErrorCode::Overloaded, Code::ResourceExhausted, "TF-3003"),
            (ErrorCode::TableFull, Code::ResourceExhausted, "TF-4001"),
            (ErrorCode::OutcomePending, Code::DeadlineExceeded, "TF-3004"),
            (ErrorCode::Timeout, Code::DeadlineExceeded, "TF-3005"),
        ];
        for (error, code, twofold) in cases {
            faults.lock().unwrap().push(Error::new(error, "no luck"));
            let status = transaction(&mut client, vec![read(1)]).await.unwrap_err();
            tells(&status, code, twofold, "no luck");
        }
        // A table that has changed is looked at again.
        faults.lock().unwrap().push(Error::new(ErrorCode::StaleSchema, "table users has version 2"));
        transaction(&mut client, vec![read(1)]).await.unwrap();
    });
}

/// A session, of which requests are sent and answers awaited one by one.
struct Session {
    requests: mpsc::Sender<pb::SessionRequest>,
    responses: tonic::Streaming<pb::SessionResponse>,
}

impl Session {
    async fn open(client: &mut Client) -> Session {
        let (requests, receiver) = mpsc::channel(100);
        let responses = client.session(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Session { requests, responses }
    }

    async fn ask(&mut self, request: pb::SessionRequest) -> pb::SessionResponse {
        let asked = request.clone();
        self.requests.send(request).await.unwrap();
        let answer = self.responses.next().await.unwrap().unwrap();
        assert_eq!((answer.request, answer.transaction), (asked.request, asked.transaction));
        answer
    }
}

fn statement(transaction: u64, operations: Vec<pb::Operation>) -> pb::SessionRequest {
    pb::SessionRequest { transaction, operations, ..Default::default() }
}

fn code(response: &pb::SessionResponse) -> &str {
    response.error.as_ref().map_or("", |error| &error.code)
}

#[test]
fn a_session_runs_transactions_statement_by_statement() {
    test(async |mut client, _, _| {
        create(&mut client).await;
        let mut session = Session::open(&mut client).await;
        let begin = pb::SessionRequest {
            begin: true,
            savepoint: "start".into(),
            ..statement(7, vec![insert(1, "ann")])
        };
        let answer = session.ask(begin.clone()).await;
        assert_eq!((answer.state(), answer.age, code(&answer)), (pb::State::Open, 77, ""));
        assert_eq!(code(&session.ask(begin).await), "TF-1001", "it is open already");

        // A statement that fails is undone, and the transaction goes on.
        let answer = session.ask(statement(7, vec![insert(2, "bob"), insert(1, "again")])).await;
        assert_eq!((answer.state(), code(&answer)), (pb::State::Open, "TF-1011"));
        assert_eq!(answer.error.unwrap().operation, Some(1));
        let answer = session.ask(statement(7, vec![read(2), add(1, 1)])).await;
        assert!(!answer.results[0].existed);

        // Back to the savepoint, twice.
        for _ in 0..2 {
            let back =
                pb::SessionRequest { rollback_to: "start".into(), ..statement(7, vec![add(1, 2), read(1)]) };
            let answer = session.ask(back).await;
            assert_eq!(row(&answer.results[1], "visits").kind, Some(ValueKind::UintValue(2)), "{answer:?}");
        }
        let nowhere = pb::SessionRequest { rollback_to: "end".into(), ..statement(7, vec![]) };
        assert_eq!(code(&session.ask(nowhere).await), "TF-1001");

        let commit = pb::SessionRequest { request: 5, end: pb::End::Commit.into(), ..statement(7, vec![]) };
        let answer = session.ask(commit.clone()).await;
        assert_eq!(answer.state(), pb::State::Committed);
        assert!(answer.epoch > 0 && !answer.token.is_empty());
        let answer = session.ask(commit).await;
        assert_eq!((answer.state(), code(&answer)), (pb::State::Aborted, "TF-2004"));
        let done = transaction(&mut client, vec![read(1), read(2)]).await.unwrap();
        assert_eq!((done.results[0].existed, done.results[1].existed), (true, false));
    });
}

#[test]
fn statements_that_were_sent_ahead_run_in_their_order() {
    test(async |mut client, _, _| {
        create(&mut client).await;
        let mut session = Session::open(&mut client).await;
        for transaction in 0..10u64 {
            let id = transaction as i64;
            let begin = pb::SessionRequest { begin: true, ..statement(transaction, vec![insert(id, "x")]) };
            let commit = pb::SessionRequest {
                end: pb::End::Commit.into(),
                ..statement(transaction, vec![add(id, 1)])
            };
            for request in [begin, statement(transaction, vec![add(id, 1)]), commit] {
                session.requests.send(request).await.unwrap();
            }
        }
        let mut committed = 0;
        for _ in 0..30 {
            let answer = session.responses.next().await.unwrap().unwrap();
            assert_eq!(code(&answer), "");
            committed += u32::from(answer.state() == pb::State::Committed);
        }
        assert_eq!(committed, 10);
        let done = transaction(&mut client, vec![read(3)]).await.unwrap();
        assert_eq!(row(&done.results[0], "visits").kind, Some(ValueKind::UintValue(2)));
    });
}

#[test]
fn what_was_sent_ahead_does_not_become_another_transaction() {
    test(async |mut client, _, faults| {
        create(&mut client).await;
        let mut session = Session::open(&mut client).await;
        let begin = pb::SessionRequest { begin: true, ..statement(1, vec![insert(1, "x")]) };
        faults.lock().unwrap().push(Error::new(ErrorCode::Deadlock, "an older transaction needed it"));
        let answer = session.ask(begin).await;
        assert_eq!((answer.state(), code(&answer)), (pb::State::Aborted, "TF-2001"));
        let commit = pb::SessionRequest { end: pb::End::Commit.into(), ..statement(1, vec![insert(2, "y")]) };
        let answer = session.ask(commit).await;
        assert_eq!((answer.state(), code(&answer)), (pb::State::Aborted, "TF-2004"));
        assert!(!transaction(&mut client, vec![read(2)]).await.unwrap().results[0].existed);
    });
}

#[test]
fn a_session_that_ends_leaves_nothing_open() {
    test(async |mut client, _, _| {
        create(&mut client).await;
        let mut session = Session::open(&mut client).await;
        let begin = pb::SessionRequest { begin: true, ..statement(1, vec![insert(1, "x")]) };
        session.ask(begin).await;
        drop(session.requests);
        assert!(session.responses.next().await.is_none());
        let done = transaction(&mut client, vec![read(1)]).await.unwrap();
        assert!(!done.results[0].existed, "it was rolled back before the stream ended");
    });
}

#[test]
fn a_session_that_is_cancelled_gives_up_what_is_under_way() {
    by_hand(async |mut client, mut submissions| {
        let mut session = Session::open(&mut client).await;
        session.requests.send(pb::SessionRequest { begin: true, ..statement(1, vec![]) }).await.unwrap();
        let (begin, answer) = next_statement(&mut submissions).await;
        answer.send(opened());
        assert_eq!(session.responses.next().await.unwrap().unwrap().state(), pb::State::Open);
        let commit = pb::SessionRequest { end: pb::End::Commit.into(), ..statement(1, vec![]) };
        session.requests.send(commit).await.unwrap();
        let (commit, answer) = next_statement(&mut submissions).await;
        assert_eq!((commit.handle, commit.end), (begin.handle, End::Commit));
        drop(session);
        assert_eq!(next_abandoned(&mut submissions).await, begin.handle);
        drop(answer);
    });
}

#[test]
fn a_call_that_is_cancelled_or_late_is_given_up() {
    by_hand(async |mut client, mut submissions| {
        let call = || pb::ExecuteRequest {
            operations: vec![pb::Operation {
                table: "memcached".into(),
                kind: Some(Kind::Delete(pb::Delete {
                    key: vec![bytes(b"a".to_vec())],
                    ..Default::default()
                })),
            }],
            ..Default::default()
        };
        let mut cancelled = client.clone();
        let under_way = tokio::spawn(async move { cancelled.execute(call()).await });
        let (statement, _answer) = next_statement(&mut submissions).await;
        assert_eq!((statement.end, statement.options.deadline), (End::Commit, None));
        under_way.abort();
        assert_eq!(next_abandoned(&mut submissions).await, statement.handle);

        let mut request = tonic::Request::new(call());
        // Said to the server alone, as in the next test.
        request.metadata_mut().insert("grpc-timeout", "400m".parse().unwrap());
        let under_way = tokio::spawn(async move { client.execute(request).await });
        let (statement, _answer) = next_statement(&mut submissions).await;
        assert_eq!(statement.options.deadline, Some(Duration::from_millis(350)));
        // Whoever is to keep that deadline does not.
        assert_eq!(next_abandoned(&mut submissions).await, statement.handle);
        assert!(under_way.await.unwrap().is_err());
    });
}

#[test]
fn a_session_or_scan_past_its_deadline_ends_with_that() {
    by_hand(async |mut client, mut submissions| {
        let (requests, receiver) = mpsc::channel(100);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        // Said to the server alone: a client that kept it would be the first to say so, or not even ask.
        request.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
        let mut responses = client.session(request).await.unwrap().into_inner();
        requests.send(pb::SessionRequest { begin: true, ..statement(1, vec![]) }).await.unwrap();
        let (begin, _answer) = next_statement(&mut submissions).await;
        let status = responses.next().await.unwrap().unwrap_err();
        tells(&status, Code::DeadlineExceeded, "TF-3005", "not over at its deadline");
        assert_eq!(next_abandoned(&mut submissions).await, begin.handle);

        let mut request =
            tonic::Request::new(pb::ScanRequest { table: "memcached".into(), ..Default::default() });
        request.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
        let mut rows = client.scan(request).await.unwrap().into_inner();
        assert!(rows.next().await.unwrap().is_ok());
        let status = rows.next().await.unwrap().unwrap_err();
        tells(&status, Code::DeadlineExceeded, "TF-3005", "not through at its deadline");
    });
}

/// Reads of a row of a megabyte. This has written sixteen such rows.
async fn large_reads(client: &mut Client, count: usize) -> Vec<pb::Operation> {
    let item = |kind| pb::Operation { table: "memcached".into(), kind: Some(kind) };
    for key in b'a'..=b'p' {
        let row = named(&[("key", bytes(vec![key])), ("value", bytes(vec![7; 1 << 20]))]);
        let insert = item(Kind::Insert(pb::Insert { row, ..Default::default() }));
        transaction(client, vec![insert]).await.unwrap();
    }
    vec![item(Kind::Read(pb::Read { key: vec![bytes(b"a".to_vec())], ..Default::default() })); count]
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not in time: {what}");
}

#[test]
fn what_a_session_does_not_read_counts_until_it_does() {
    counted(async |mut client, handed_out| {
        let reads = large_reads(&mut client, 1).await;
        let mut session = Session::open(&mut client).await;
        let begin = pb::SessionRequest { begin: true, ..statement(1, reads.clone()) };
        session.requests.send(begin).await.unwrap();
        for _ in 1..40 {
            session.requests.send(statement(1, reads.clone())).await.unwrap();
        }
        // All are answered; what goes on its way without being read is a part of it.
        until("answers that wait", || handed_out.bytes() > 30 << 20).await;
        for _ in 0..40 {
            assert_eq!(code(&session.responses.next().await.unwrap().unwrap()), "");
        }
        until("all is read", || handed_out.bytes() == 0).await;
    });
}

#[test]
fn what_a_call_returns_counts_until_it_is_read() {
    counted(async |mut client, handed_out| {
        let reads = large_reads(&mut client, 10).await;
        for mode in [pb::Mode::Independent, pb::Mode::Transaction] {
            let mut peak = 0;
            let mut call = std::pin::pin!(execute(&mut client, mode, reads.clone()));
            let response = loop {
                tokio::select! {
                    response = &mut call => break response,
                    () = tokio::task::yield_now() => peak = handed_out.bytes().max(peak),
                }
            };
            assert_eq!(response.unwrap().results.len(), 10);
            assert!(peak > 10 << 20, "{peak}");
            until("it is written", || handed_out.bytes() == 0).await;
        }
    });
}

#[test]
fn what_a_scan_does_not_send_counts_until_its_client_is_gone() {
    counted(async |mut client, handed_out| {
        large_reads(&mut client, 0).await;
        let request = pb::ScanRequest { table: "memcached".into(), ..Default::default() };
        let rows = client.scan(request).await.unwrap();
        until("rows that wait", || handed_out.bytes() > 1 << 20).await;
        drop(rows);
        until("it is gone", || handed_out.bytes() == 0).await;
    });
}

#[test]
fn a_way_back_with_a_savepoint_too_many_changes_nothing() {
    test(async |mut client, _, _| {
        create(&mut client).await;
        let mut session = Session::open(&mut client).await;
        let savepoint = |name: &str, operations| pb::SessionRequest {
            savepoint: name.into(),
            ..statement(1, operations)
        };
        session.ask(pb::SessionRequest { begin: true, ..savepoint("first", vec![]) }).await;
        for number in 1..256 {
            let answer = session.ask(savepoint(&format!("s{number}"), vec![])).await;
            assert_eq!(code(&answer), "");
        }
        session.ask(statement(1, vec![insert(1, "x")])).await;
        let back = pb::SessionRequest { rollback_to: "s255".into(), ..savepoint("one more", vec![]) };
        let answer = session.ask(back).await;
        assert_eq!((answer.state(), code(&answer)), (pb::State::Open, "TF-4002"));
        // Had that taken the number of the insert, this would undo it.
        let answer = session.ask(statement(1, vec![insert(1, "again")])).await;
        assert_eq!((answer.state(), code(&answer)), (pb::State::Open, "TF-1011"));
        session.ask(pb::SessionRequest { end: pb::End::Commit.into(), ..statement(1, vec![]) }).await;
        assert!(transaction(&mut client, vec![read(1)]).await.unwrap().results[0].existed);
    });
}

#[test]
fn a_scan_returns_every_row_once() {
    test(async |mut client, _, _| {
        create(&mut client).await;
        let rows = (0..50).map(|id| insert(id, if id % 2 == 0 { "even" } else { "odd" })).collect();
        transaction(&mut client, rows).await.unwrap();
        let scan = async |client: &mut Client, request: pb::ScanRequest| {
            let mut stream = client.scan(request).await.unwrap().into_inner();
            let head = stream.next().await.unwrap().unwrap();
            assert!(head.rows.is_empty());
            let mut rows = Vec::new();
            while let Some(response) = stream.next().await {
                rows.extend(response.unwrap().rows.into_iter().map(|row| row.values));
            }
            (head.columns, rows)
        };
        let users = pb::ScanRequest { table: "users".into(), ..Default::default() };
        let (columns, rows) = scan(&mut client, users.clone()).await;
        assert_eq!(columns, ["id", "name", "visits"]);
        let ids = |rows: &[Vec<pb::Value>]| {
            let mut ids: Vec<i64> = rows
                .iter()
                .map(|row| match row[0].kind {
                    Some(ValueKind::IntValue(id)) => id,
                    ref other => panic!("{other:?}"),
                })
                .collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(ids(&rows), (0..50).collect::<Vec<_>>());
        let odd = pb::condition::Compare {
            column: "name".into(),
            comparator: pb::Comparator::Equal.into(),
            value: Some(text("odd")),
        };
        let filter = vec![pb::Condition { kind: Some(pb::condition::Kind::Compare(odd)) }];
        let id = Some(pb::Columns { names: vec!["id".into()] });
        let (columns, rows) =
            scan(&mut client, pb::ScanRequest { filter, columns: id, ..users.clone() }).await;
        assert_eq!((columns.len(), ids(&rows)), (1, (0..25).map(|n| n * 2 + 1).collect()));
        let (_, rows) = scan(&mut client, pb::ScanRequest { limit: 7, ..users.clone() }).await;
        assert_eq!(rows.len(), 7);
        let status = client.scan(pb::ScanRequest::default()).await.unwrap_err();
        tells(&status, Code::NotFound, "TF-1002", "no table is named");
    });
}

#[test]
fn a_scan_that_fails_says_so_in_the_end() {
    test(async |mut client, _, faults| {
        create(&mut client).await;
        faults.lock().unwrap().push(Error::new(ErrorCode::NotServing, "no luck"));
        let request = pb::ScanRequest { table: "users".into(), ..Default::default() };
        let mut stream = client.scan(request).await.unwrap().into_inner();
        assert!(stream.next().await.unwrap().is_ok());
        tells(&stream.next().await.unwrap().unwrap_err(), Code::Unavailable, "TF-3001", "no luck");
    });
}

#[test]
fn tools_find_their_way() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    twofold_runtime::thread::runtime().unwrap().block_on(async {
        let handle = Fake::new().start();
        let serving = handle.serving().clone();
        let channel = serve(handle).await;
        let mut health = HealthClient::new(channel.clone());
        let mut watched = Vec::new();
        for service in ["", "twofold.v1.Twofold"] {
            let request = HealthCheckRequest { service: service.into() };
            watched.push(health.watch(request).await.unwrap().into_inner());
        }
        let unknown = HealthCheckRequest { service: "nobody".into() };
        assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
        for (serves, status) in [
            (true, ServingStatus::Serving),
            (false, ServingStatus::NotServing),
            (true, ServingStatus::Serving),
        ] {
            serving.send_replace(serves);
            for watched in &mut watched {
                while watched.next().await.unwrap().unwrap().status() != status {}
            }
            let request = HealthCheckRequest { service: "twofold.v1.Twofold".into() };
            assert_eq!(health.check(request).await.unwrap().get_ref().status(), status);
        }
        let message_request = Some(MessageRequest::ListServices(String::new()));
        let request = ServerReflectionRequest { host: String::new(), message_request };
        let mut client = ServerReflectionClient::new(channel);
        let mut responses =
            client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
        let Some(MessageResponse::ListServicesResponse(list)) =
            responses.next().await.unwrap().unwrap().message_response
        else {
            panic!("no list of services");
        };
        assert!(list.service.iter().any(|service| service.name == "twofold.v1.Twofold"));
    });
}
