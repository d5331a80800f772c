//! Reads many rows by key: each on its own, all in one call. What fails for a moment is asked for again, the rest is not.

use std::{collections::BTreeMap, time::Duration};

use bank::{
    ACCOUNTS, ATTEMPTS, Api, Result, balance, connect, open_accounts, read, retrying, timed, transaction,
};
use tokio::time::sleep;
use twofold_grpc::v1 as pb;

const TABLE: &str = "example_batch";
const BATCH: usize = 64;

/// The balance of each account that there is.
async fn read_all(api: &Api, ids: impl Iterator<Item = i64>) -> Result<BTreeMap<i64, i64>> {
    let (mut found, mut left, mut attempts) = (BTreeMap::new(), ids.collect::<Vec<_>>(), 0);
    while !left.is_empty() {
        let batch = left.split_off(left.len().saturating_sub(BATCH));
        let operations = batch.iter().map(|&id| read(TABLE, id, pb::Lock::None)).collect();
        let request = pb::ExecuteRequest { mode: pb::Mode::Independent.into(), ..transaction(operations) };
        let response = retrying(async || api.clone().execute(timed(request.clone())).await).await?;
        for (id, result) in batch.into_iter().zip(&response.get_ref().results) {
            match &result.error {
                Some(error) if error.temporary && attempts < ATTEMPTS => {
                    attempts += 1;
                    sleep(Duration::from_millis(error.retry_delay_ms.into())).await;
                    left.push(id);
                }
                Some(error) => return Err(error.message.clone().into()),
                None if result.existed => drop(found.insert(id, balance(result))),
                None => {}
            }
        }
    }
    Ok(found)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let api = connect().await?;
    open_accounts(&api, TABLE).await?;
    let asked = 2 * ACCOUNTS;
    let found = read_all(&api, 0..asked).await?;
    println!("{asked} keys asked for: {} rows, {} in all", found.len(), found.values().sum::<i64>());
    Ok(())
}
