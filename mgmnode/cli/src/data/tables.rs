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

/// A table's columns and keys, for people.
fn shown(table: &TableDefinition) -> String {
    let mut shown = String::new();
    for column in &table.columns {
        let null = if column.nullable { "null" } else { "not null" };
        let default = match &column.default_value {
            Some(value) => format!(", default {}", values::shown(value)),
            None => String::new(),
        };
        let type_name = values::type_name(column);
        shown += &format!("{:<24} {type_name:<16} {null}{default}\n", column.name);
    }
    shown += &format!("primary key ({})\n", table.primary_key.join(", "));
    if !table.distribution_key.is_empty() && table.distribution_key != table.primary_key {
        shown += &format!("distribution key ({})\n", table.distribution_key.join(", "));
    }
    shown
}

pub(super) async fn show(client: &mut Client, name: &str) -> Result<(), Failure> {
    print!("{}", shown(&describe(client, name).await?));
    Ok(())
}

/// Creates a table. One that is there already, and is to be left alone then, is compared with it.
pub(super) async fn create(
    client: &mut Client,
    name: String,
    columns: &[String],
    primary_key: Vec<String>,
    if_not_exists: bool,
) -> Result<(), Failure> {
    let columns = columns.iter().map(|text| values::column(text)).collect::<Result<_, _>>()?;
    let table = TableDefinition { name, columns, primary_key, ..TableDefinition::default() };
    client.create_table(CreateTableRequest { table: Some(table.clone()), if_not_exists }).await?;
    if if_not_exists {
        let there = describe(client, &table.name).await?;
        if shown(&there) != shown(&table) {
            eprintln!(
                "table `{}` was there already, and is another:\n{}",
                table.name,
                shown(&there).trim_end()
            );
        }
    }
    Ok(())
}

pub(super) async fn drop(client: &mut Client, name: String, if_exists: bool) -> Result<(), Failure> {
    client.drop_table(DropTableRequest { name, if_exists }).await?;
    Ok(())
}
