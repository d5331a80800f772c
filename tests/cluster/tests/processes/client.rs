//! The Rust client, against nodes that fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use twofold_client::{
    Cluster as Client, Column, ColumnType, Comparison, Condition, ErrorClass, ErrorCode, Isolation, Lock,
    NewTable, Outcome, Table, TransactionOutcome, Value,
};
use twofold_cluster_tests::{Cluster, eventually};

/// Runs a test in a runtime of its own, against a cluster of its own with a table of accounts.
fn test(body: impl AsyncFnOnce(&Cluster, Client, Table)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let cluster = Cluster::start(&[]);
    runtime.expect("a runtime").block_on(async {
        let management = cluster.management();
        let management = management.split(',').map(String::from);
        let client = Client::builder(management).name("local").threads(2).connect().await.unwrap();
        let accounts = client.create_table(definition()).await.unwrap();
        body(&cluster, client.clone(), accounts).await;
        client.close().await;
    });
}

fn definition() -> NewTable {
    NewTable::new("accounts")
        .column(Column::new("id", ColumnType::U32))
        .column(Column::new("balance", ColumnType::I64))
        .column(Column::new("owner", ColumnType::Text { max_chars: 20 }).nullable())
        .primary_key(["id"])
}

fn balance(outcome: &Outcome) -> Option<i128> {
    outcome.row.as_ref()?["balance"].as_integer()
}

#[test]
fn every_kind_of_request() {
    test(async |_, client, accounts| {
        assert!(client.is_serving() && client.tables().contains(&"accounts".into()));
        let row = |id: u32, balance: i64| [("id", id.into()), ("balance", balance.into())];
        client.run(accounts.insert(row(1, 10))).await.unwrap();
        let error = client.run(accounts.insert(row(1, 10))).await.unwrap_err();
        assert_eq!((error.code(), error.class()), (ErrorCode::DuplicateKey, ErrorClass::Permanent));
        let outcomes = client.batch([accounts.write(row(2, 20)), accounts.delete([9])]).await.unwrap();
        assert!(outcomes[0].as_ref().unwrap().changed);
        assert_eq!(outcomes[1].as_ref().unwrap_err().code(), ErrorCode::NoSuchRow);
        let change = accounts.update([1]).set("owner", "ann").add("balance", -3).returning_new([]);
        let row = client.run(change).await.unwrap().row.unwrap();
        let all: Vec<_> = row.iter().map(|(name, value)| (name, value.clone())).collect();
        assert_eq!(all, [("id", Value::UInt(1)), ("balance", Value::Int(7)), ("owner", "ann".into())]);
        assert!(!client.run(accounts.read([3])).await.unwrap().existed);

        // What is wrong is said before anything is sent.
        for (wrong, code) in [
            (accounts.read([1]).columns(["colour"]), ErrorCode::BadColumn),
            (accounts.update([1]).set("balance", "much"), ErrorCode::BadValue),
            (accounts.delete([1]).set("balance", 1), ErrorCode::Malformed),
            (accounts.read([1]).lock(Lock::Shared), ErrorCode::Malformed),
        ] {
            assert_eq!(client.run(wrong).await.unwrap_err().code(), code);
        }
        assert_eq!(client.table("nobody").unwrap_err().code(), ErrorCode::NoSuchTable);

        // All or none.
        let enough = Condition::compare("balance", Comparison::GreaterOrEqual, 8);
        let change =
            [accounts.update([2]).add("balance", 8), accounts.update([1]).add("balance", -8).when(enough)];
        let error = client.transaction(change).await.unwrap_err();
        assert_eq!((error.code(), error.operation()), (ErrorCode::ConditionFalse, Some(1)));
        let commit =
            client.transaction([accounts.update([2]).add("balance", 1), accounts.read([2])]).await.unwrap();
        assert_eq!(balance(&commit.outcomes[1]), Some(21));
        let token = commit.token.unwrap();
        let outcome = client.status(&token).await.unwrap();
        assert!(
            matches!(outcome, TransactionOutcome::Committed | TransactionOutcome::Forgotten),
            "{outcome:?}"
        );

        // Statement by statement.
        let mut transaction = client.begin(Isolation::ReadCommitted);
        assert_eq!(
            balance(&transaction.run(accounts.read([1]).lock(Lock::Exclusive)).await.unwrap()),
            Some(7)
        );
        let savepoint = transaction.savepoint();
        transaction.run(accounts.update([1]).set("balance", 0)).await.unwrap();
        transaction.rollback_to(savepoint).await.unwrap();
        let error =
            transaction.run(accounts.insert([("id", 2.into()), ("balance", 0.into())])).await.unwrap_err();
        assert!(error.leaves_open() && !transaction.has_ended(), "{error}");
        transaction.commit_with([accounts.update([1]).add("balance", 1)]).await.unwrap();
        assert_eq!(balance(&client.run(accounts.read([1])).await.unwrap()), Some(8));

        // One that is dropped is rolled back, in a statement too: its row is free at once.
        let mut holder = client.begin(Isolation::ReadCommitted);
        holder.run(accounts.update([1]).set("balance", 0)).await.unwrap();
        let mut waiter = client.begin(Isolation::ReadCommitted);
        waiter.run(accounts.update([2]).set("balance", 0)).await.unwrap();
        let late = tokio::time::timeout(
            Duration::from_millis(100),
            waiter.run(accounts.update([1]).set("balance", 1)),
        );
        late.await.unwrap_err();
        drop(waiter);
        let soon = client.with_deadline(Duration::from_secs(2));
        soon.run(accounts.update([2]).add("balance", 4)).await.unwrap();
        let error =
            client.with_deadline(Duration::from_millis(50)).run(accounts.delete([1])).await.unwrap_err();
        assert_eq!((error.code(), error.token()), (ErrorCode::Timeout, None), "nothing is pending");
        drop(holder);
        assert_eq!(
            balance(&soon.run(accounts.update([1]).add("balance", 0).returning_new([])).await.unwrap()),
            Some(8)
        );
    });
}

#[test]
fn scans_find_every_row_once() {
    test(async |_, client, accounts| {
        let write = |id: u32| accounts.write([("id", id.into()), ("balance", (id % 10).into())]);
        for first in (0..20_000).step_by(2_000) {
            for outcome in client.batch((first..first + 2_000).map(write)).await.unwrap() {
                outcome.unwrap();
            }
        }
        let mut rows = client.scan(&accounts).columns(["id"]).rows().unwrap();
        let mut ids = Vec::new();
        while let Some(row) = rows.next().await.unwrap() {
            ids.push(row["id"].as_integer().unwrap());
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..20_000).collect::<Vec<_>>());
        let of_three = Condition::compare("balance", Comparison::Equal, 3);
        for (limit, expected) in [(0, 2_000), (7, 7)] {
            let mut rows = client.scan(&accounts).when(of_three.clone()).limit(limit).rows().unwrap();
            let mut count = 0;
            while let Some(row) = rows.next().await.unwrap() {
                assert_eq!(row["balance"], Value::Int(3));
                count += 1;
            }
            assert_eq!(count, expected);
        }
    });
}

/// Money goes round while nodes die: none is lost or made, callers beyond what may be under way wait, and the client is
/// connected again without being told.
#[test]
fn money_goes_round_while_nodes_die() {
    const ACCOUNTS: u32 = 50;
    const TELLERS: u32 = 64;
    test(async |cluster, _, accounts| {
        let management = cluster.management();
        let builder = Client::builder(management.split(',')).in_flight(16).deadline(Duration::from_secs(60));
        let client = builder.connect().await.unwrap();
        let open = |id: u32| accounts.write([("id", id.into()), ("balance", 100.into())]);
        client.transaction((0..ACCOUNTS).map(open)).await.unwrap();
        let (stop, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tellers = Vec::new();
        for teller in 0..TELLERS {
            let (client, accounts, stop, moved) =
                (client.clone(), accounts.clone(), stop.clone(), moved.clone());
            tellers.push(tokio::spawn(async move {
                let mut round = teller;
                while !stop.load(Ordering::Relaxed) {
                    round = round.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let (from, to) = (round % ACCOUNTS, (round / ACCOUNTS) % ACCOUNTS);
                    if from == to {
                        continue;
                    }
                    let change =
                        [accounts.update([from]).add("balance", -1), accounts.update([to]).add("balance", 1)];
                    match client.transaction(change).await {
                        Ok(_) => drop(moved.fetch_add(1, Ordering::Relaxed)),
                        // Committed or not: the sum stays.
                        Err(error) => assert_ne!(error.class(), ErrorClass::Permanent, "{error}"),
                    }
                }
            }));
        }
        for node in ["data1", "data2"] {
            let former = cluster.pid(node);
            let before = moved.load(Ordering::Relaxed);
            cluster.done(&["kill", node]);
            cluster.wait_for_new_life(node, former);
            eventually(|| {
                (moved.load(Ordering::Relaxed) < before + 1_000).then(|| "money has stopped".into())
            });
        }
        stop.store(true, Ordering::Relaxed);
        for teller in tellers {
            teller.await.unwrap();
        }
        let commit = client.transaction((0..ACCOUNTS).map(|id| accounts.read([id]))).await.unwrap();
        assert_eq!(commit.outcomes.iter().filter_map(balance).sum::<i128>(), i128::from(ACCOUNTS) * 100);
        client.close().await;
    });
}
