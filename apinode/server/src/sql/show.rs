//! SHOW, DESCRIBE, EXPLAIN.

use std::sync::Arc;

use twofold_apinode::sql::{
    bind::{BoundTable, PRIMARY, Show, Statement, TableName, describe, show_create},
    error::{SqlError, codes},
    expression::{Context, evaluate::like},
    plan::{Access, Pushed, Ranges, Wish, access, interpreted, push},
    types::SqlType,
    value::Datum,
    wire::result::ResultColumn,
};
use twofold_proto::{filter::FilterBuilder, schema::Schema};

use super::{Stop, define::database_exists, output::Output, run::Runner};

fn text_columns<const N: usize>(names: [&str; N]) -> Vec<ResultColumn> {
    names.map(|name| ResultColumn::computed(name, SqlType::Varchar(256))).into()
}

fn is_like(name: &str, pattern: &Option<String>) -> bool {
    let pattern = pattern.as_ref().map(|pattern| pattern.to_lowercase());
    pattern.is_none_or(|pattern| like(&name.to_lowercase(), &pattern, Some('\\')))
}

/// What SHOW INDEX tells: a row for each column of each key.
fn index_rows(name: &TableName, schema: &Schema) -> Vec<Vec<Datum>> {
    let ordered = schema.indexes.iter().any(|index| index.columns.is_empty());
    let primary = (0, PRIMARY, &schema.primary_key, if ordered { "BTREE" } else { "HASH" });
    let others = schema.indexes.iter().filter(|index| !index.columns.is_empty());
    let others = others.map(|index| (1, index.name.as_str(), &index.columns, "BTREE"));
    let rows = std::iter::once(primary).chain(others).flat_map(|(many, key, columns, kind)| {
        columns.iter().enumerate().map(move |(place, &column)| {
            vec![
                name.table.as_str().into(),
                Datum::Int(many),
                key.into(),
                Datum::Int(place as i64 + 1),
                schema.columns[usize::from(column)].name.as_str().into(),
                kind.into(),
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
                let title = format!("Tables_in_{database}");
                let mut columns = text_columns([&title]);
                if *full {
                    columns.extend(text_columns(["Table_type"]));
                    rows.iter_mut().for_each(|row| row.push("BASE TABLE".into()));
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
                columns.extend(text_columns(["Column_name", "Index_type"]));
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

    /// How ranges of an index are told of, and the least requests that they take: each is one to every worker, if it is not of one
    /// partition.
    fn by_ranges(table: &BoundTable, ranges: &Ranges) -> (String, usize) {
        let name = &table.schema.indexes[ranges.index].name;
        let order = match (ranges.ordered, ranges.descending) {
            (false, _) => "",
            (true, false) => ", in order",
            (true, true) => ", in order from the end",
        };
        let of = match ranges.hash {
            Some(_) => "in one partition",
            None => "at every worker",
        };
        let count = ranges.ranges.len();
        let word = if count == 1 { "range" } else { "ranges" };
        (format!("{count} {word} of index {name} {of}{order}"), count)
    }

    /// Sends how a statement would be carried out, but for its end.
    pub(super) async fn explain(
        &mut self,
        statement: &Statement,
        context: &Context<'_>,
        output: &mut Output<'_>,
    ) -> Result<(), Stop> {
        let (kind, table, filter, alone) = match statement {
            Statement::Select(select) => ("SELECT", select.table.as_ref(), select.filter.as_ref(), true),
            Statement::Insert(insert) => ("INSERT", Some(&insert.table), None, true),
            Statement::Delete(delete) => ("DELETE", Some(&delete.table), delete.filter.as_ref(), true),
            Statement::Update(update) => {
                let alone =
                    matches!(interpreted(&update.table, &update.assignments, None, context), Ok(Some(_)));
                ("UPDATE", Some(&update.table), update.filter.as_ref(), alone)
            }
            _ => return Err(SqlError::not_supported("EXPLAIN of such a statement").into()),
        };
        let (mut way, mut messages, mut judged) = ("none".to_owned(), 0, "");
        if let Some(table) = table {
            let mut conditions = FilterBuilder::new();
            let pushed = push(table, filter, context, &mut conditions)?;
            judged = match (filter, pushed) {
                (None, _) => "",
                (_, Pushed::All) => "at the data nodes",
                (_, Pushed::Part) => "partly at the data nodes",
                (_, Pushed::Nothing) => "at the API node",
            };
            let found = if kind == "INSERT" {
                Access::Keys(vec![Vec::new()])
            } else {
                let wish = match statement {
                    Statement::Select(select) => Wish::of(select),
                    _ => Wish::default(),
                };
                access(table, filter, &wish, context)?
            };
            (way, messages) = match found {
                Access::Keys(keys) => (format!("{} by primary key", keys.len()), keys.len()),
                Access::Ranges(ranges) => Runner::by_ranges(table, &ranges),
                Access::Scan => {
                    ("scan of all partitions".into(), self.handle().tables().newest().partitions.into())
                }
            };
            if kind == "UPDATE" {
                way += if alone && pushed == Pushed::All && messages == 1 {
                    ", changed in place"
                } else {
                    ", read and locked first"
                };
            }
        }
        let mut columns = text_columns(["statement", "table", "access", "filter"]);
        columns.push(ResultColumn::computed("requests", SqlType::BIGINT));
        let row = vec![
            kind.into(),
            table.map_or(Datum::Null, |table| Datum::Text(table.name.to_string())),
            Datum::Text(way),
            judged.into(),
            Datum::Int(messages as i64),
        ];
        output.rows(&columns, [row]).await
    }
}
