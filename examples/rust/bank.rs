//! What the examples share: a connection, a table of accounts, and when to try again.

use std::{collections::BTreeMap, env, error, time::Duration};

use tokio::time::sleep;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;
use twofold_grpc::v1::{self as pb, operation::Kind, twofold_client::TwofoldClient, value};

/// The generated client.
pub type Api = TwofoldClient<Channel>;
/// What an example ends with.
pub type Result<T = ()> = std::result::Result<T, Box<dyn error::Error>>;

/// Rows of a table of accounts.
pub const ACCOUNTS: i64 = 100;
/// What is in each of them at first.
pub const OPENING_BALANCE: i64 = 1000;
/// How often a call is made at most.
pub const ATTEMPTS: u32 = 20;
/// How long a call may take.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// The API, at the address in `TWOFOLD_API`.
///
/// # Errors
/// If nobody listens there.
pub async fn connect() -> Result<Api> {
    let address = env::var("TWOFOLD_API").unwrap_or_else(|_| "127.0.0.1:50051".into());
    Ok(TwofoldClient::connect(format!("http://{address}")).await?)
}

/// A request that has a deadline.
pub fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// An integer.
pub fn number(value: i64) -> pb::Value {
    pb::Value { kind: Some(value::Kind::IntValue(value)) }
}

/// The integer that a value is.
pub fn integer(value: &pb::Value) -> i64 {
    match value.kind {
        Some(value::Kind::IntValue(value)) => value,
        ref other => panic!("not an integer: {other:?}"),
    }
}

/// The balance that an operation returned.
pub fn balance(result: &pb::Result) -> i64 {
    result.row.as_ref().map_or(0, |row| integer(&row.columns["balance"]))
}

fn operation(table: &str, kind: Kind) -> pb::Operation {
    pb::Operation { table: table.into(), kind: Some(kind) }
}

/// Reads an account.
pub fn read(table: &str, id: i64, lock: pb::Lock) -> pb::Operation {
    operation(table, Kind::Read(pb::Read { key: vec![number(id)], lock: lock.into(), ..Default::default() }))
}

/// Adds to an account, if it has at least so much.
pub fn add(table: &str, id: i64, amount: i64, at_least: Option<i64>) -> pb::Operation {
    let add = BTreeMap::from([("balance".into(), number(amount))]);
    let assignments = Some(pb::Assignments { add, ..Default::default() });
    let conditions = at_least.map(balance_from).into_iter().collect();
    operation(
        table,
        Kind::Update(pb::Update { key: vec![number(id)], assignments, conditions, ..Default::default() }),
    )
}

/// The condition that an account has at least so much.
pub fn balance_from(least: i64) -> pb::Condition {
    let compare = pb::condition::Compare {
        column: "balance".into(),
        comparator: pb::Comparator::GreaterOrEqual.into(),
        value: Some(number(least)),
    };
    pb::Condition { kind: Some(pb::condition::Kind::Compare(compare)) }
}

/// All of these, or none.
pub fn transaction(operations: Vec<pb::Operation>) -> pb::ExecuteRequest {
    pb::ExecuteRequest { operations, ..Default::default() }
}

/// A table with [`ACCOUNTS`] rows of [`OPENING_BALANCE`] each, whatever was in it before.
///
/// # Errors
/// What the server says.
pub async fn open_accounts(api: &Api, table: &str) -> Result {
    let column = |name: &str, kind: pb::ColumnType| pb::ColumnDefinition {
        name: name.into(),
        r#type: kind.into(),
        ..Default::default()
    };
    let definition = pb::TableDefinition {
        name: table.into(),
        columns: vec![column("id", pb::ColumnType::Int32), column("balance", pb::ColumnType::Int64)],
        primary_key: vec!["id".into()],
        ..Default::default()
    };
    api.clone().create_table(pb::CreateTableRequest { table: Some(definition), if_not_exists: true }).await?;
    let write = |id| {
        let row = BTreeMap::from([("id".into(), number(id)), ("balance".into(), number(OPENING_BALANCE))]);
        operation(table, Kind::Write(pb::Write { row, ..Default::default() }))
    };
    let writes: Vec<_> = (0..ACCOUNTS).map(write).collect();
    retrying(async || api.clone().execute(timed(transaction(writes.clone()))).await).await?;
    Ok(())
}

/// Makes a call, and makes it again while its error says that this may help: nothing was applied then.
///
/// # Errors
/// What the server says in the end.
pub async fn retrying<T>(
    mut call: impl AsyncFnMut() -> std::result::Result<T, Status>,
) -> std::result::Result<T, Status> {
    let mut attempt = 1;
    loop {
        match call().await {
            Err(status) if may_retry(&status) && attempt < ATTEMPTS => {
                let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
                sleep(asked.unwrap_or_default() + Duration::from_millis(1 << attempt.min(6))).await;
                attempt += 1;
            }
            done => return done,
        }
    }
}

fn may_retry(status: &Status) -> bool {
    matches!(status.code(), Code::Aborted | Code::Unavailable | Code::ResourceExhausted)
}
