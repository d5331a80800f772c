//! AUTO_INCREMENT: numbers come in ranges, which an API node takes from a row of the cluster, so that most inserts need not ask.
//!
//! A range that is not used up when its API node ends is lost, and two API nodes count from different ranges: numbers are
//! unique, and have gaps.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use twofold_apinode::{
    request::{Operations, Options},
    sql::error::{SqlError, codes},
};
use twofold_client::handle::Handle;
use twofold_proto::{
    error::{Error, ErrorCode},
    filter::Comparison,
    ids::TableId,
    key::encode_key,
    operation::{Change, Columns, Operation, OperationKind, ResultCode, ResultRef},
    row::encode_row,
    schema::{Column, ColumnType, Schema, Table},
    value::ValueRef,
    wire::Reader,
};

use super::define;

/// The table of the ranges: by a table's id, the next number that nobody has.
const TABLE: &str = "mysql.auto_increment";
/// Numbers that are taken at once.
const RANGE: u64 = 64;

/// The ranges of a process, by table: the next number, and the first that is not ours.
#[derive(Debug, Default)]
pub(super) struct Ranges(Mutex<BTreeMap<TableId, (u64, u64)>>);

fn table() -> Table {
    let columns = vec![Column::new("table_id", ColumnType::U32), Column::new("next", ColumnType::U64)];
    Table {
        id: TableId(0),
        name: TABLE.into(),
        version: 1,
        columns,
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
    }
}

impl Ranges {
    /// So many numbers, one after the other: the first of them.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn take(&self, handle: &Handle, of: TableId, count: u64) -> Result<u64, SqlError> {
        if let Some(first) = self.take_known(of, count) {
            return Ok(first);
        }
        let schema = define::ensure(handle, table).await?;
        let more = count.max(RANGE);
        let mut operation = row(&schema, of, more + 1)?;
        let add = i64::try_from(more).map_err(|_| exhausted())?;
        operation.assign(1, Change::Add(ValueRef::Int(add)));
        operation.after = Columns::List(vec![1]);
        let result = run(handle, &operation).await?;
        let parsed = ResultRef::parse(&mut Reader::new(&result, "result")).map_err(Error::from)?;
        let next = parsed.after.as_ref().and_then(|after| after.values().next());
        let Some(Ok(ValueRef::UInt(next))) = next else { return Err(exhausted()) };
        let first = next.checked_sub(more).ok_or_else(exhausted)?;
        let mut ranges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ranges.insert(of, (first + count, next));
        Ok(first)
    }

    fn take_known(&self, of: TableId, count: u64) -> Option<u64> {
        let mut ranges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, end) = ranges.get_mut(&of)?;
        let first = *next;
        let after = first.checked_add(count).filter(|after| *after <= *end)?;
        *next = after;
        Some(first)
    }

    /// This number was given by hand: none up to it is to be chosen.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn pass(&self, handle: &Handle, of: TableId, number: u64) -> Result<(), SqlError> {
        let Some(after) = number.checked_add(1) else { return Ok(()) };
        {
            let mut ranges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((next, end)) = ranges.get_mut(&of) {
                if number < *next {
                    return Ok(());
                }
                if after <= *end {
                    *next = after;
                    return Ok(());
                }
                ranges.remove(&of);
            }
        }
        let schema = define::ensure(handle, table).await?;
        let mut operation = row(&schema, of, after)?;
        operation.assign(1, Change::Set(ValueRef::UInt(after)));
        operation.conditions.any(|any| any.absent().compare(1, Comparison::Less, &ValueRef::UInt(after)));
        run(handle, &operation).await.map(drop)
    }
}

fn exhausted() -> SqlError {
    SqlError::new(codes::OUT_OF_RANGE, "AUTO_INCREMENT has no numbers left")
}

/// Puts the row of a table, with its assignments if there is one.
fn row(schema: &Arc<Schema>, of: TableId, next: u64) -> Result<Operation, SqlError> {
    let values = [ValueRef::UInt(of.0.into()), ValueRef::UInt(next)];
    let refused = |refusal: twofold_proto::operation::Refusal| refusal.error(schema, None);
    let mut key = Vec::new();
    encode_key(schema, &values[..1], &mut key).map_err(refused)?;
    let (_, body) = encode_row(schema, &values).map_err(refused)?;
    let mut operation = Operation::new(OperationKind::Write, schema, key).map_err(Error::from)?;
    operation.row = Some(body);
    Ok(operation)
}

async fn run(handle: &Handle, operation: &Operation) -> Result<Vec<u8>, SqlError> {
    let operations = Operations { bytes: operation.to_bytes(), count: 1 };
    let (results, _held) = handle.execute(operations, Options::default()).await;
    let result = results.get(0).map_err(|failure| failure.error.clone())?.to_vec();
    let code = ResultRef::parse(&mut Reader::new(&result, "result")).map_err(Error::from)?.head.code;
    match code {
        ResultCode::Ok | ResultCode::ConditionFalse => Ok(result),
        code => Err(Error::new(ErrorCode::Internal, format!("table `{TABLE}`: {code}")).into()),
    }
}
