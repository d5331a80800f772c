//! Reads all rows for which a condition holds, as a stream: the server sends no faster than they are read.

use std::collections::BTreeMap;

use bank::{
    ACCOUNTS, OPENING_BALANCE, Result, add, balance_from, connect, integer, open_accounts, retrying, timed,
    transaction,
};
use twofold_grpc::v1 as pb;

const TABLE: &str = "example_scan";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let api = connect().await?;
    open_accounts(&api, TABLE).await?;
    let additions: Vec<_> = (0..ACCOUNTS).map(|id| add(TABLE, id, id, None)).collect();
    retrying(async || api.clone().execute(timed(transaction(additions.clone()))).await).await?;
    let request = pb::ScanRequest {
        table: TABLE.into(),
        columns: Some(pb::Columns { names: vec!["id".into(), "balance".into()] }),
        filter: vec![balance_from(OPENING_BALANCE + 50)],
        ..Default::default()
    };
    // All of them anew if the scan is cut short.
    let rows = retrying(async || {
        let mut rows = BTreeMap::new();
        let mut responses = api.clone().scan(request.clone()).await?.into_inner();
        while let Some(response) = responses.message().await? {
            rows.extend(response.rows.iter().map(|row| (integer(&row.values[0]), integer(&row.values[1]))));
        }
        Ok(rows)
    })
    .await?;
    println!("{} accounts are rich: {} in all", rows.len(), rows.values().sum::<i64>());
    Ok(())
}
