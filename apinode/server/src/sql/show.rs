//! SHOW and DESCRIBE.

use std::sync::Arc;

use twofold_apinode::sql::{
    bind::{Show, TableName, describe, show_create},
    error::{SqlError, codes},
    expression::evaluate::like,
    information::{self, View, keys},
    types::SqlType,
    value::Datum,
    wire::result::ResultColumn,
};
use twofold_proto::schema::Schema;

use super::{Stop, define::database_exists, output::Output, run::Runner};

pub(super) fn text_columns<const N: usize>(names: [&str; N]) -> Vec<ResultColumn> {
    names.map(|name| ResultColumn::computed(name, SqlType::Varchar(256))).into()
}

fn is_like(name: &str, pattern: &Option<String>) -> bool {
    let pattern = pattern.as_ref().map(|pattern| pattern.to_lowercase());
    pattern.is_none_or(|pattern| like(&name.to_lowercase(), &pattern, Some('\\')))
}

/// What SHOW INDEX tells: a row for each column of each key.
fn index_rows(name: &TableName, schema: &Schema) -> Vec<Vec<Datum>> {
    let rows = keys(schema).into_iter().flat_map(|(key, columns, unique, kind)| {
        columns.iter().enumerate().map(move |(place, &column)| {
            let column = &schema.columns[usize::from(column)];
            vec![
                name.table.as_str().into(),
                Datum::Int((!unique).into()),
                key.into(),
                Datum::Int(place as i64 + 1),
                column.name.as_str().into(),
                "A".into(),
                Datum::Null,
                Datum::Null,
                Datum::Null,
                if column.nullable { "YES" } else { "" }.into(),
                kind.into(),
                "".into(),
                "".into(),
            ]
        })
    });
    rows.collect()
}

impl Runner {
    fn schema(&self, name: &TableName) -> Result<Arc<Schema>, SqlError> {
        let tables = self.handle().tables().newest();
        let missing = |_| SqlError::new(codes::NO_SUCH_TABLE, format!("Table '{name}' doesn't exist"));
        tables.table(&name.catalog()).cloned().map_err(missing)
    }

    /// Sends what SHOW tells, but for its end.
    pub(super) async fn show(&mut self, show: &Show, output: &mut Output<'_>) -> Result<(), Stop> {
        let one = |name: &str| vec![Datum::from(name)];
        match show {
            Show::Databases(pattern) => {
                let names = self.databases().await?;
                let names = names.iter().filter(|name| is_like(name, pattern)).map(|name| one(name));
                output.rows(&text_columns(["Database"]), names).await
            }
            Show::Tables(database, pattern, full) => {
                if !database_exists(self.handle(), database).await? {
                    let text = format!("Unknown database '{database}'");
                    return Err(SqlError::new(codes::UNKNOWN_DATABASE, text).into());
                }
                let tables = self.handle().tables().newest();
                let names = tables.names().map(TableName::from_catalog);
                let names = names.filter(|name| name.database == *database && is_like(&name.table, pattern));
                let mut rows: Vec<Vec<Datum>> = names.map(|name| one(&name.table)).collect();
                let of_views = database == information::DATABASE;
                if of_views {
                    let names = View::names().into_iter().filter(|name| is_like(name, pattern));
                    rows.extend(names.map(one));
                }
                let title = format!("Tables_in_{database}");
                let mut columns = text_columns([&title]);
                if *full {
                    columns.extend(text_columns(["Table_type"]));
                    let kind = if of_views { "SYSTEM VIEW" } else { "BASE TABLE" };
                    rows.iter_mut().for_each(|row| row.push(kind.into()));
                }
                output.rows(&columns, rows).await
            }
            Show::Columns(name, pattern) => {
                let schema = self.schema(name)?;
                let rows = describe(&schema).into_iter().filter(|row| is_like(&row[0].text(), pattern));
                output.rows(&text_columns(["Field", "Type", "Null", "Key", "Default", "Extra"]), rows).await
            }
            Show::CreateTable(name) => {
                let schema = self.schema(name)?;
                let text = show_create(&name.table, &schema);
                let row = vec![Datum::from(name.table.as_str()), Datum::Text(text)];
                output.rows(&text_columns(["Table", "Create Table"]), [row]).await
            }
            Show::CreateDatabase(name) => {
                if !database_exists(self.handle(), name).await? {
                    let text = format!("Unknown database '{name}'");
                    return Err(SqlError::new(codes::UNKNOWN_DATABASE, text).into());
                }
                let text = format!(
                    "CREATE DATABASE `{}` DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin",
                    name.replace('`', "``")
                );
                let row = vec![Datum::from(name.as_str()), Datum::Text(text)];
                output.rows(&text_columns(["Database", "Create Database"]), [row]).await
            }
            Show::Index(name) => {
                let schema = self.schema(name)?;
                let mut columns = text_columns(["Table"]);
                columns.push(ResultColumn::computed("Non_unique", SqlType::BIGINT));
                columns.extend(text_columns(["Key_name"]));
                columns.push(ResultColumn::computed("Seq_in_index", SqlType::BIGINT));
                columns.extend(text_columns(["Column_name", "Collation"]));
                columns.push(ResultColumn::computed("Cardinality", SqlType::BIGINT));
                columns.push(ResultColumn::computed("Sub_part", SqlType::BIGINT));
                columns.extend(text_columns(["Packed", "Null", "Index_type", "Comment", "Index_comment"]));
                output.rows(&columns, index_rows(name, &schema)).await
            }
            Show::Variables(pattern) => {
                let flag = |name: &str, datum: Datum| match name {
                    "autocommit" | "transaction_read_only" | "foreign_key_checks" | "unique_checks" => {
                        if datum == Datum::Int(1) {
                            "ON".into()
                        } else {
                            "OFF".into()
                        }
                    }
                    _ => Datum::Text(datum.text()),
                };
                let rows = self.session.variables().into_iter().filter(|(name, _)| is_like(name, pattern));
                let rows: Vec<Vec<Datum>> =
                    rows.map(|(name, datum)| vec![name.into(), flag(name, datum)]).collect();
                output.rows(&text_columns(["Variable_name", "Value"]), rows).await
            }
            Show::Status => output.rows(&text_columns(["Variable_name", "Value"]), []).await,
            Show::Warnings => {
                let mut columns = text_columns(["Level"]);
                columns.push(ResultColumn::computed("Code", SqlType::UNSIGNED));
                columns.extend(text_columns(["Message"]));
                let rows = self.session.warnings.kept.iter().map(|(level, error)| {
                    vec![
                        level.name().into(),
                        Datum::UInt(error.number().into()),
                        Datum::Text(error.text.clone()),
                    ]
                });
                output.rows(&columns, rows.collect::<Vec<_>>()).await
            }
            Show::Collations(pattern) => {
                let mut columns = text_columns(["Collation", "Charset"]);
                columns.push(ResultColumn::computed("Id", SqlType::BIGINT));
                columns.extend(text_columns(["Default", "Compiled"]));
                let names = [("binary", "binary", 63), ("utf8mb4_0900_bin", "utf8mb4", 309)];
                let rows = names.into_iter().filter(|(name, ..)| is_like(name, pattern)).map(
                    |(name, charset, id)| {
                        vec![name.into(), charset.into(), Datum::Int(id), "Yes".into(), "Yes".into()]
                    },
                );
                output.rows(&columns, rows.collect::<Vec<_>>()).await
            }
            Show::Charsets(pattern) => {
                let mut columns = text_columns(["Charset", "Description", "Default collation"]);
                columns.push(ResultColumn::computed("Maxlen", SqlType::BIGINT));
                let names =
                    [("binary", "Bytes", "binary", 1), ("utf8mb4", "UTF-8 Unicode", "utf8mb4_0900_bin", 4)];
                let rows = names.into_iter().filter(|(name, ..)| is_like(name, pattern)).map(
                    |(name, what, collation, most)| {
                        vec![name.into(), what.into(), collation.into(), Datum::Int(most)]
                    },
                );
                output.rows(&columns, rows.collect::<Vec<_>>()).await
            }
            Show::Engines => {
                let row =
                    ["twofold", "DEFAULT", "Rows in memory, replicated and partitioned", "YES", "NO", "YES"];
                let columns =
                    text_columns(["Engine", "Support", "Comment", "Transactions", "XA", "Savepoints"]);
                output.rows(&columns, [row.map(Datum::from).to_vec()]).await
            }
        }
    }
}
