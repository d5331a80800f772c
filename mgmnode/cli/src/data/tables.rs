//! Commands for tables.

use twofold_grpc::v1::{CreateTableRequest, DropTableRequest, ListTablesRequest, TableDefinition};

use crate::client::Failure;

use super::{Client, describe, values};

pub(super) async fn list(client: &mut Client) -> Result<(), Failure> {
    for name in client.list_tables(ListTablesRequest {}).await?.into_inner().names {
        println!("{name}");
    }
    Ok(())
}

pub(super) async fn show(client: &mut Client, name: &str) -> Result<(), Failure> {
    let table = describe(client, name).await?;
    for column in &table.columns {
        let null = if column.nullable { "null" } else { "not null" };
        let default = match &column.default_value {
            Some(value) => format!(", default {}", values::shown(value)),
            None => String::new(),
        };
        println!("{:<24} {:<16} {null}{default}", column.name, values::type_name(column));
    }
    println!("primary key ({})", table.primary_key.join(", "));
    if !table.distribution_key.is_empty() && table.distribution_key != table.primary_key {
        println!("distribution key ({})", table.distribution_key.join(", "));
    }
    Ok(())
}

pub(super) async fn create(
    client: &mut Client,
    name: String,
    columns: &[String],
    primary_key: Vec<String>,
    if_not_exists: bool,
) -> Result<(), Failure> {
    let columns = columns.iter().map(|text| values::column(text)).collect::<Result<_, _>>()?;
    let table = TableDefinition { name, columns, primary_key, ..TableDefinition::default() };
    client.create_table(CreateTableRequest { table: Some(table), if_not_exists }).await?;
    Ok(())
}

pub(super) async fn drop(client: &mut Client, name: String, if_exists: bool) -> Result<(), Failure> {
    client.drop_table(DropTableRequest { name, if_exists }).await?;
    Ok(())
}
