//! The client of programs, with a test in the place of the machine.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::{Receiver, error::TryRecvError},
    task::yield_now,
    time::timeout,
};
use twofold_apinode::request::{
    Answer, End, Failure, Operations, Request, Results, Statement, TransactionToken,
};
use twofold_proto::{
    error,
    ids::TableId,
    message::{Catalog, TransactionState},
    operation::OperationRef,
    result::{ResultCode, ResultHead, ReturnedRow},
    wire::{Reader, Writer},
};

use crate::{
    Cluster, Column, ColumnType, Comparison, Condition, Epoch, Error, ErrorClass, ErrorCode, Isolation, Lock,
    NewTable, Operation, Table, Value, ValueRef,
    handle::{Reply, Submission, Tables},
    schema,
};

const PARTITIONS: u16 = 3;

fn tables() -> Tables {
    let table = schema::Table {
        id: TableId(1),
        name: "t".into(),
        version: 1,
        columns: vec![
            Column::new("id", ColumnType::U32),
            Column::new("n", ColumnType::I64),
            Column::new("s", ColumnType::Text { max_chars: 9 }).nullable(),
        ],
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
    };
    Tables::new(&Catalog { version: 1, tables: vec![table], next_table: 2 }, PARTITIONS).unwrap()
}

/// Runs a test with so many operations under way at most.
fn test(in_flight: usize, body: impl AsyncFnOnce(Cluster, Table, Receiver<Submission>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (cluster, submissions) = Cluster::by_hand(in_flight, tables());
        let table = cluster.table("t").unwrap();
        body(cluster, table, submissions).await;
    });
}

async fn next(submissions: &mut Receiver<Submission>) -> Submission {
    timeout(Duration::from_secs(30), submissions.recv()).await.expect("nothing more is asked").unwrap()
}

async fn next_statement(submissions: &mut Receiver<Submission>) -> (Statement, Reply) {
    match next(submissions).await {
        Submission::Request(Request::Statement(statement), reply) => (statement, reply),
        other => panic!("{other:?}"),
    }
}

async fn next_batch(submissions: &mut Receiver<Submission>) -> (Operations, Reply) {
    match next(submissions).await {
        Submission::Request(Request::Independent { operations, .. }, reply) => (operations, reply),
        other => panic!("{other:?}"),
    }
}

/// Whoever can go on has done so, and nothing more is asked.
async fn nothing_more(submissions: &mut Receiver<Submission>) {
    for _ in 0..100 {
        yield_now().await;
    }
    assert_eq!(submissions.try_recv().unwrap_err(), TryRecvError::Empty);
}

/// So many results of operations that were done, with no rows.
fn done(count: usize) -> Results {
    let mut results = Results::default();
    for _ in 0..count {
        let mut bytes = Vec::new();
        ResultHead { existed: true, ..ResultHead::new(ResultCode::Ok) }.encode(&mut bytes);
        results.push(&bytes);
    }
    results
}

fn stated(state: TransactionState, count: usize) -> Answer {
    Answer::Statement { state, epoch: Epoch(9), token: None, timestamp: 5, results: done(count) }
}

fn failed(code: ErrorCode, state: TransactionState, timestamp: u64) -> Answer {
    let failure = Failure::from(error::Error::new(code, "no luck"));
    Answer::Failed(Failure { state, timestamp, ..failure })
}

#[test]
fn operations_beyond_the_bound_wait_for_those_under_way() {
    test(2, async |cluster, table, mut submissions| {
        let run = |count: u32| {
            let (cluster, table) = (cluster.clone(), table.clone());
            tokio::spawn(async move { cluster.batch((0..count).map(|id| table.read([id]))).await })
        };
        let first = run(2);
        let (operations, reply) = next_batch(&mut submissions).await;
        assert_eq!(operations.count, 2);
        // More than may ever be under way may be so alone.
        let second = run(5);
        nothing_more(&mut submissions).await;
        reply.send(Answer::Operations(done(2)));
        assert_eq!(first.await.unwrap().unwrap().len(), 2);
        let (operations, _reply) = next_batch(&mut submissions).await;
        assert_eq!(operations.count, 5);
        second.abort();
    });
}

#[test]
fn who_may_hold_locks_does_not_wait_for_those_who_wait_for_them() {
    test(1, async |cluster, table, mut submissions| {
        let mut transaction = cluster.begin(Isolation::ReadCommitted);
        let (statement, _) = tokio::join!(transaction.run(table.read([1]).lock(Lock::Exclusive)), async {
            next_statement(&mut submissions).await.1.send(stated(TransactionState::Open, 1));
        });
        statement.unwrap();
        let (other, row) = (cluster.clone(), table.clone());
        let waits = tokio::spawn(async move { other.run(row.delete([1])).await });
        let (_, _reply) = next_batch(&mut submissions).await;
        let (commit, _) = tokio::join!(transaction.commit(), async {
            let (statement, reply) = next_statement(&mut submissions).await;
            assert_eq!((statement.number, statement.end), (2, End::Commit));
            reply.send(stated(TransactionState::Committed, 0));
        });
        assert_eq!(commit.unwrap().epoch, Epoch(9));
        nothing_more(&mut submissions).await;
        waits.abort();
    });
}

#[test]
fn what_is_dropped_is_given_up() {
    test(9, async |cluster, table, mut submissions| {
        let other = cluster.clone();
        let row = table.clone();
        let call = tokio::spawn(async move { other.transaction([row.delete([1])]).await });
        let (statement, _reply) = next_statement(&mut submissions).await;
        assert_eq!((statement.begin.is_some(), statement.end), (true, End::Commit));
        call.abort();
        let Submission::Abandon(handle) = next(&mut submissions).await else { panic!("not given up") };
        assert_eq!(handle, statement.handle);

        // One that has failed for good has nothing to give up; one that a failure leaves open has.
        for (state, open) in [(TransactionState::Aborted, false), (TransactionState::Open, true)] {
            let mut transaction = cluster.begin(Isolation::Serializable);
            let (statement, _) = tokio::join!(transaction.run(table.delete([1])), async {
                let (_, reply) = next_statement(&mut submissions).await;
                reply.send(failed(ErrorCode::NoSuchRow, state, 0));
            });
            let error = statement.unwrap_err();
            assert_eq!((error.leaves_open(), transaction.has_ended()), (open, !open));
            drop(transaction);
            match open {
                true => assert!(matches!(next(&mut submissions).await, Submission::Abandon(_))),
                false => nothing_more(&mut submissions).await,
            }
        }
    });
}

#[test]
fn a_transaction_is_run_again_with_its_age_while_that_may_help() {
    test(9, async |cluster, table, mut submissions| {
        let transact = cluster.transact(Isolation::ReadCommitted, async |transaction| {
            transaction.run(table.update([1]).add("n", 1)).await
        });
        let (outcome, _) = tokio::join!(transact, async {
            let mut ages = Vec::new();
            for _ in 0..2 {
                let (statement, reply) = next_statement(&mut submissions).await;
                ages.push(statement.begin.unwrap().timestamp);
                reply.send(failed(ErrorCode::Deadlock, TransactionState::Aborted, 77));
            }
            // It runs, and is not to be had when it commits.
            let (statement, reply) = next_statement(&mut submissions).await;
            ages.push(statement.begin.unwrap().timestamp);
            reply.send(stated(TransactionState::Open, 1));
            let (_, reply) = next_statement(&mut submissions).await;
            reply.send(failed(ErrorCode::PrimaryChanged, TransactionState::Aborted, 77));
            next_statement(&mut submissions).await.1.send(stated(TransactionState::Open, 1));
            next_statement(&mut submissions).await.1.send(stated(TransactionState::Committed, 0));
            assert_eq!(ages, [None, Some(77), Some(77)]);
        });
        assert!(outcome.unwrap().existed);

        let transact = cluster.transact(Isolation::ReadCommitted, async |transaction| {
            transaction.run(table.update([1]).add("n", 1)).await
        });
        let (outcome, _) = tokio::join!(transact, async {
            let (_, reply) = next_statement(&mut submissions).await;
            reply.send(failed(ErrorCode::NoSuchRow, TransactionState::Open, 0));
        });
        assert_eq!(outcome.unwrap_err().code(), ErrorCode::NoSuchRow);
        assert!(matches!(next(&mut submissions).await, Submission::Abandon(_)));
    });
}

#[test]
fn a_scan_asks_for_no_more_than_is_read_and_returns_no_more_than_its_limit() {
    test(9, async |cluster, table, mut submissions| {
        let scan = cluster.scan(&table).columns(["n"]).limit(3);
        let mut rows = scan.rows().unwrap();
        let answers = async {
            for partition in 0..PARTITIONS {
                let Submission::Request(Request::ScanStep { partition: asked, rows, cursor, .. }, reply) =
                    next(&mut submissions).await
                else {
                    panic!("no step")
                };
                assert_eq!((asked.0, rows, cursor), (partition, 3, 0));
                let mut found = Results::default();
                for n in 0..2 {
                    let mut bytes = Vec::new();
                    ResultHead { existed: true, before: true, ..ResultHead::new(ResultCode::Ok) }
                        .encode(&mut bytes);
                    let value = ValueRef::Int(i64::from(partition) * 10 + n);
                    ReturnedRow::encode_values(&mut bytes, |out| {
                        value.encode(out);
                        Ok::<_, ()>(())
                    })
                    .unwrap();
                    found.push(&bytes);
                }
                // The first has more.
                reply.send(Answer::Scan { cursor: (partition == 0).then_some(7), rows: found });
            }
            let Submission::Request(Request::ScanStep { rows, cursor, .. }, _reply) =
                next(&mut submissions).await
            else {
                panic!("no step")
            };
            assert_eq!((rows, cursor), (3, 7));
        };
        let read = async {
            let mut all = Vec::new();
            while let Some(row) = rows.next().await.unwrap() {
                assert_eq!(row.get("id"), None);
                all.push(row["n"].clone());
            }
            all
        };
        let (all, ()) = tokio::join!(read, answers);
        assert_eq!(all, [0, 1, 10].map(Value::Int));
        nothing_more(&mut submissions).await;
    });
}

#[test]
fn operations_are_checked_before_they_are_sent() {
    test(9, async |cluster, table, mut submissions| {
        let row = [("id", 1.into()), ("n", 2.into()), ("s", None::<&str>.into())];
        let deep = (0..100).fold(Condition::exists(true), |inner, _| Condition::all([inner]));
        let wrong: [(Operation, ErrorCode); 8] = [
            (table.read([1, 2]), ErrorCode::BadValue),
            (table.read([1]).set("n", 1), ErrorCode::Malformed),
            (table.insert(row.clone()).when(Condition::is_null("n")), ErrorCode::Malformed),
            (table.insert([("id", 1.into())]), ErrorCode::BadValue),
            (table.update([1]).set("n", 1).add("n", 1), ErrorCode::BadColumn),
            (table.update([1]).set("s", "too long for it"), ErrorCode::BadValue),
            (table.delete([1]).when(Condition::compare("n", Comparison::Less, "x")), ErrorCode::BadValue),
            (table.delete([1]).when(deep), ErrorCode::Malformed),
        ];
        for (operation, code) in wrong {
            let text = format!("{operation:?}");
            assert_eq!(cluster.run(operation).await.unwrap_err().code(), code, "{text}");
        }
        nothing_more(&mut submissions).await;
        let fine = table.write(row).returning_old(["n"]).when(Condition::any([Condition::exists(false)]));
        let (_, (operations, _reply)) =
            tokio::join!(timeout(Duration::from_millis(10), cluster.run(fine)), next_batch(&mut submissions));
        OperationRef::parse(&mut Reader::new(&operations.bytes, "operation")).unwrap().parse_body().unwrap();
    });
}

#[test]
fn tables_are_checked_before_they_are_created() {
    let id = || Column::new("id", ColumnType::U32);
    let table = NewTable::new("t").column(id()).column(Column::new("n", ColumnType::I64));
    let checked = table.clone().primary_key(["n", "ID"]).distribution_key(["n"]).checked().unwrap();
    assert_eq!((checked.primary_key, checked.distribution_key), (vec![1, 0], vec![1]));
    for (wrong, text) in [
        (table.clone().primary_key(["x"]), "TF-1010: table `t`: primary key: there is no column `x`"),
        (table.clone().primary_key(["n"]).distribution_key(["id"]), "TF-1010: "),
        (table.clone().column(id()).primary_key(["n"]), "TF-1010: "),
        (table, "TF-1010: "),
    ] {
        let error = wrong.checked().unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
}

#[test]
fn errors_say_what_to_do() {
    let token = TransactionToken::default();
    let failure = Failure::from(error::Error::new(ErrorCode::OutcomePending, "nobody has answered"));
    let error = Error::from(Failure { token: Some(token), operation: Some(3), ..failure });
    assert_eq!(
        (error.class(), error.is_temporary(), error.operation()),
        (ErrorClass::Unknown, false, Some(3))
    );
    let bytes = error.token().unwrap().to_bytes();
    assert_eq!(crate::Token::from_bytes(&bytes).unwrap(), error.token().unwrap());
    assert_eq!(error.to_string(), "TF-3004: nobody has answered; ask for the status of the transaction");
    let mut longer = bytes;
    longer.put_u8(0);
    assert_eq!(crate::Token::from_bytes(&longer).unwrap_err().code(), ErrorCode::Malformed);
}

#[test]
fn what_programs_hold_may_go_from_thread_to_thread() {
    fn may_go<T: Send + Sync + 'static>() {}
    may_go::<Cluster>();
    may_go::<Table>();
    may_go::<Operation>();
    may_go::<crate::Transaction>();
    may_go::<crate::Rows>();
    may_go::<Error>();
    may_go::<Arc<crate::Outcome>>();
}
