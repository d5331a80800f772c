//! Moves money between accounts, in one call each: both rows are changed or none, and no balance becomes negative.

use bank::{
    ACCOUNTS, Api, OPENING_BALANCE, Result, add, balance, connect, open_accounts, read, retrying, timed,
    transaction,
};
use tokio::task::LocalSet;
use tonic::{Code, Status};
use twofold_grpc::v1::{self as pb, State};

const TABLE: &str = "example_transfer";
const TRANSFERS: i64 = 200;
const SIDE_BY_SIDE: i64 = 8;

/// Moves the amount; returns whether the source had it.
async fn transfer(api: &Api, source: i64, target: i64, amount: i64) -> std::result::Result<bool, Status> {
    let operations = vec![add(TABLE, source, -amount, Some(amount)), add(TABLE, target, amount, None)];
    loop {
        let request = || timed(transaction(operations.clone()));
        let Err(status) = retrying(async || api.clone().execute(request()).await).await else {
            return Ok(true);
        };
        if status.code() == Code::FailedPrecondition {
            return Ok(false);
        }
        let token = status.metadata().get_bin("twofold-token-bin").and_then(|token| token.to_bytes().ok());
        let Some(token) = token else { return Err(status) };
        // The answer was lost, not the outcome.
        let question = || timed(pb::TransactionStatusRequest { token: token.clone() });
        let outcome = retrying(async || api.clone().transaction_status(question()).await).await?;
        match outcome.get_ref().state() {
            State::Committed => return Ok(true),
            State::Aborted => {}
            _ => return Err(status),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let api = connect().await?;
    open_accounts(&api, TABLE).await?;
    // Several at a time, in this thread.
    let tasks = LocalSet::new();
    let some = |place| {
        let api = api.clone();
        async move {
            let mut done = 0;
            for number in (place..TRANSFERS).step_by(SIDE_BY_SIDE as usize) {
                let (source, target) = (number % ACCOUNTS, (number * 2 + 1) % ACCOUNTS);
                if source != target {
                    done +=
                        i64::from(transfer(&api, source, target, number * 97 % (2 * OPENING_BALANCE)).await?);
                }
            }
            Ok::<_, Status>(done)
        }
    };
    let tellers: Vec<_> = (0..SIDE_BY_SIDE).map(|place| tasks.spawn_local(some(place))).collect();
    tasks.await;
    let mut done = 0;
    for teller in tellers {
        done += teller.await??;
    }
    let reads: Vec<_> = (0..ACCOUNTS).map(|id| read(TABLE, id, pb::Lock::None)).collect();
    let response = retrying(async || api.clone().execute(timed(transaction(reads.clone()))).await).await?;
    let balances: Vec<i64> = response.get_ref().results.iter().map(balance).collect();
    assert!(
        0 < done && done < TRANSFERS && balances.iter().all(|&balance| balance >= 0),
        "{done}, {balances:?}"
    );
    println!("{TRANSFERS} transfers tried: {} in all, as before", balances.iter().sum::<i64>());
    Ok(())
}
