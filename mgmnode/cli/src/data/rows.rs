//! Commands for rows.

use std::collections::BTreeMap;

use tonic::Code;
use twofold_grpc::v1::{
    self as pb, ExecuteRequest, Operation, ScanRequest, TableDefinition, Value, operation::Kind,
};

use twofold_proto::error::counted;

use crate::client::Failure;

use super::{Client, describe, values};

/// The values of a primary key.
fn key(table: &TableDefinition, typed: &[String]) -> Result<Vec<Value>, Failure> {
    let columns = &table.primary_key;
    if columns.len() != typed.len() {
        let (name, count) = (&table.name, counted(typed.len(), "value"));
        let columns = columns.join(", ");
        return Err(Failure(format!("the key of table {name} is ({columns}), but it got {count}")));
    }
    columns.iter().zip(typed).map(|(column, text)| values::value(table, column, text)).collect()
}

/// What an operation did; none if it needs a row and there is none.
async fn execute(client: &mut Client, table: &str, kind: Kind) -> Result<Option<pb::Result>, Failure> {
    let operations = vec![Operation { table: table.into(), kind: Some(kind) }];
    let answer = client.execute(ExecuteRequest { operations, ..ExecuteRequest::default() }).await;
    let results = match answer {
        Ok(answer) => answer.into_inner().results,
        Err(status) if status.code() == Code::NotFound => return Ok(None),
        Err(status) => return Err(status.into()),
    };
    let result = results.into_iter().next();
    result.map(Some).ok_or_else(|| Failure("the answer has no result".into()))
}

pub(super) async fn get(client: &mut Client, name: &str, typed: &[String]) -> Result<bool, Failure> {
    let table = describe(client, name).await?;
    let read = pb::Read { key: key(&table, typed)?, ..pb::Read::default() };
    let result = execute(client, name, Kind::Read(read)).await?.filter(|result| result.existed);
    let Some(row) = result.and_then(|result| result.row) else { return Ok(false) };
    for column in &table.columns {
        let value = row.columns.get(&column.name).map(values::shown).unwrap_or_default();
        println!("{}={value}", column.name);
    }
    Ok(true)
}

pub(super) async fn set(client: &mut Client, name: &str, columns: &[String]) -> Result<(), Failure> {
    let table = describe(client, name).await?;
    let mut row = BTreeMap::new();
    for text in columns {
        let Some((column, typed)) = text.split_once('=') else {
            return Err(Failure(format!("«{text}»: write COLUMN=VALUE")));
        };
        if row.insert(column.to_string(), values::value(&table, column, typed)?).is_some() {
            return Err(Failure(format!("column {column} is named twice")));
        }
    }
    execute(client, name, Kind::Write(pb::Write { row, ..pb::Write::default() })).await?;
    Ok(())
}

pub(super) async fn delete(client: &mut Client, name: &str, typed: &[String]) -> Result<bool, Failure> {
    let table = describe(client, name).await?;
    let delete = pb::Delete { key: key(&table, typed)?, ..pb::Delete::default() };
    Ok(execute(client, name, Kind::Delete(delete)).await?.is_some())
}

pub(super) async fn scan(client: &mut Client, table: String, limit: u64) -> Result<(), Failure> {
    let request = ScanRequest { table, limit, ..ScanRequest::default() };
    let mut answers = client.scan(request).await?.into_inner();
    let mut names = Vec::new();
    while let Some(answer) = answers.message().await? {
        if !answer.columns.is_empty() {
            names = answer.columns;
        }
        for row in answer.rows {
            let columns = names.iter().zip(&row.values);
            let shown: Vec<String> =
                columns.map(|(name, value)| format!("{name}={}", values::shown(value))).collect();
            println!("{}", shown.join(" "));
        }
    }
    Ok(())
}
