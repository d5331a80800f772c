//! Databases and tables.

use std::{collections::BTreeSet, sync::Arc};

use twofold_apinode::{
    request::{Answer, Operations, Options, Request},
    sql::{
        bind::{
            BoundTable, Define, TableName,
            index::{IndexChange, cannot_drop, duplicate_name},
        },
        error::{SqlError, codes},
        expression::{Context, Level},
        information::{Catalog, DATABASE as INFORMATION},
        plan::Access,
    },
};
use twofold_client::handle::Handle;
use twofold_proto::{
    error::{Error, ErrorCode},
    ids::TableId,
    key::encode_key,
    message::CatalogChange,
    operation::{Operation, OperationKind, ResultCode},
    row::encode_row,
    schema::{Column, ColumnType, Index, IndexState, Schema, Table},
    value::ValueRef,
};

use super::{
    Stop,
    run::{Runner, head, is_own},
};

/// The table of the databases that were created.
const DATABASES: &str = "mysql.databases";
/// The database of our own tables.
const SYSTEM: &str = "mysql";

fn databases_table() -> Table {
    Table {
        id: TableId(0),
        name: DATABASES.into(),
        version: 1,
        columns: vec![Column::new("name", ColumnType::Text { max_chars: 64 })],
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
    }
}

/// The table of this definition, which is made if it is missing.
pub(super) async fn ensure(handle: &Handle, table: fn() -> Table) -> Result<Arc<Schema>, SqlError> {
    let table = table();
    let name = table.name.clone();
    loop {
        if let Ok(schema) = handle.tables().newest().table(&name) {
            return Ok(schema.clone());
        }
        match create(handle, table.clone()).await {
            Ok(()) => {}
            // Another one was faster; its catalog is on its way.
            Err(error) if error.code == ErrorCode::TableExists => {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn create(handle: &Handle, table: Table) -> Result<(), Error> {
    changed(handle, CatalogChange::CreateTable(table)).await
}

async fn drop_table(handle: &Handle, name: String) -> Result<(), Error> {
    changed(handle, CatalogChange::DropTable(name)).await
}

/// Changes the catalog, and waits until all know of it here.
async fn changed(handle: &Handle, change: CatalogChange) -> Result<(), Error> {
    match handle.submit(Request::Change(change)).await {
        Answer::Catalog(version) => {
            handle.tables().wait_for(version).await;
            Ok(())
        }
        Answer::Failed(failure) => Err(failure.error),
        other => Err(Error::new(
            ErrorCode::Internal,
            format!("a change of the catalog was answered with {other:?}"),
        )),
    }
}

/// Gives a table an index, and waits until it is built.
async fn create_index(handle: &Handle, name: &TableName, index: &Index) -> Result<(), SqlError> {
    let table = name.catalog();
    let change = CatalogChange::CreateIndex { table: table.clone(), index: index.clone() };
    changed(handle, change).await.map_err(|error| of_index(error, &index.name))?;
    loop {
        let tables = handle.tables().newest();
        let schema = tables.table(&table)?;
        match schema.index_named(&index.name).map(|place| schema.indexes[place].state) {
            Some(IndexState::Public) => return Ok(()),
            Some(IndexState::Building { .. }) => {
                handle.tables().wait_for(tables.version + 1).await;
            }
            None => {
                let text = format!(
                    "The table '{}' is full: index '{}' was not built, as data nodes lack the memory for it, or somebody has \
                     dropped it",
                    name.table, index.name
                );
                return Err(SqlError::new(codes::TABLE_FULL, text));
            }
        }
    }
}

async fn drop_index(handle: &Handle, table: String, name: &str) -> Result<(), SqlError> {
    let change = CatalogChange::DropIndex { table, index: name.to_owned() };
    changed(handle, change).await.map_err(|error| of_index(error, name))
}

/// Why an index is not made or dropped, in MySQL's words.
fn of_index(error: Error, name: &str) -> SqlError {
    match error.code {
        ErrorCode::IndexExists => duplicate_name(name),
        ErrorCode::NoSuchIndex => cannot_drop(name),
        _ => error.into(),
    }
}

/// An operation on the row of a database.
async fn on_database(handle: &Handle, name: &str, kind: OperationKind) -> Result<ResultCode, SqlError> {
    let schema = ensure(handle, databases_table).await?;
    let values = [ValueRef::from(name)];
    let refused = |refusal: twofold_proto::operation::Refusal| refusal.error(&schema, None);
    let mut key = Vec::new();
    encode_key(&schema, &values, &mut key).map_err(refused)?;
    let mut operation = Operation::new(kind, &schema, key).map_err(Error::from)?;
    if kind == OperationKind::Insert {
        operation.row = Some(encode_row(&schema, &values).map_err(refused)?.1);
    }
    let operations = Operations { bytes: operation.to_bytes(), count: 1 };
    let (results, _held) = handle.execute(operations, Options::default()).await;
    Ok(head(results.get(0).map_err(|failure| failure.error.clone())?)?.0)
}

/// The databases that tables are in.
pub(super) fn databases_of_tables(handle: &Handle) -> BTreeSet<String> {
    let tables = handle.tables().newest();
    tables.names().map(|name| TableName::from_catalog(name).database).collect()
}

/// Whether there is such a database: it was created, or there are tables in it.
pub(super) async fn database_exists(handle: &Handle, name: &str) -> Result<bool, SqlError> {
    if is_own(name) || name == SYSTEM || name == INFORMATION || databases_of_tables(handle).contains(name) {
        return Ok(true);
    }
    // Without the table of databases none was created.
    if handle.tables().newest().table(DATABASES).is_err() || name.chars().count() > 64 {
        return Ok(false);
    }
    Ok(on_database(handle, name, OperationKind::Read).await? == ResultCode::Ok)
}

impl Runner {
    /// The names of all databases.
    pub(super) async fn databases(&mut self) -> Result<Vec<String>, SqlError> {
        let mut names = databases_of_tables(self.handle());
        names.extend([twofold_apinode::sql::session::OWN_DATABASE.into(), INFORMATION.into()]);
        let schema = self.handle().tables().newest().table(DATABASES).ok().cloned();
        if let Some(schema) = schema {
            let steps =
                twofold_client::scan::Steps::new(self.handle(), &schema, &[0], &Default::default(), 0, 0);
            let table = BoundTable::new(TableName::from_catalog(DATABASES), None, schema);
            let mut steps = steps;
            while let Some(step) = steps.next().await.map_err(|failure| failure.error)? {
                for result in step.rows.iter() {
                    let result = result.map_err(|failure| failure.error.clone())?;
                    let row = twofold_apinode::sql::plan::rows::row(&table, &[0], result)?;
                    names.extend(row.and_then(|row| Some(row.first()?.text())));
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// What `information_schema` tells of.
    pub(super) async fn catalog(&mut self) -> Result<Catalog, SqlError> {
        let databases = self.databases().await?;
        let newest = self.handle().tables().newest();
        let table = |name: &str| Some((TableName::from_catalog(name), newest.table(name).ok()?.clone()));
        Ok(Catalog { databases, tables: newest.names().filter_map(table).collect() })
    }

    /// Changes the catalog; how many rows or tables that concerns.
    pub(super) async fn define(&mut self, define: &Define, context: &Context<'_>) -> Result<u64, Stop> {
        let note = |error: SqlError| context.warnings.borrow_mut().push(Level::Note, error);
        let handle = self.handle().clone();
        match define {
            Define::CreateDatabase { name, if_not_exists } => {
                let text = format!("Can't create database '{name}'; database exists");
                let error = SqlError::new(codes::DATABASE_EXISTS, text);
                let there = database_exists(&handle, name).await?
                    || on_database(&handle, name, OperationKind::Insert).await? == ResultCode::AlreadyExists;
                match there {
                    false => {}
                    true if *if_not_exists => note(error),
                    true => return Err(error.into()),
                }
                Ok(1)
            }
            Define::DropDatabase { name, if_exists } => {
                let error = SqlError::new(
                    codes::NO_DATABASE_TO_DROP,
                    format!("Can't drop database '{name}'; database doesn't exist"),
                );
                match database_exists(&handle, name).await? {
                    true => {}
                    false if *if_exists => {
                        note(error);
                        return Ok(0);
                    }
                    false => return Err(error.into()),
                }
                let tables: Vec<String> = handle
                    .tables()
                    .newest()
                    .names()
                    .filter(|table| TableName::from_catalog(table).database == *name)
                    .map(str::to_owned)
                    .collect();
                let count = tables.len() as u64;
                for table in tables {
                    drop_table(&handle, table).await?;
                }
                on_database(&handle, name, OperationKind::Delete).await?;
                if self.session.database.as_ref() == Some(name) {
                    self.session.database = None;
                }
                Ok(count)
            }
            Define::CreateTable { table, if_not_exists } => {
                let name = TableName::from_catalog(&table.name);
                if !database_exists(&handle, &name.database).await? {
                    let text = format!("Unknown database '{}'", name.database);
                    return Err(SqlError::new(codes::UNKNOWN_DATABASE, text).into());
                }
                match create(&handle, table.clone()).await {
                    Ok(()) => Ok(0),
                    Err(error) if error.code == ErrorCode::TableExists => {
                        let text = format!("Table '{}' already exists", name.table);
                        let error = SqlError::new(codes::TABLE_EXISTS, text);
                        if !if_not_exists {
                            return Err(error.into());
                        }
                        note(error);
                        Ok(0)
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Define::DropTables { names, if_exists } => {
                let tables = handle.tables().newest();
                let missing: Vec<&TableName> =
                    names.iter().filter(|name| tables.table(&name.catalog()).is_err()).collect();
                let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                let error = SqlError::new(codes::NO_TABLE_TO_DROP, format!("Unknown table '{list}'"));
                match missing.is_empty() {
                    true => {}
                    false if *if_exists => note(error),
                    false => return Err(error.into()),
                }
                for name in names.iter().filter(|name| !missing.contains(name)) {
                    match drop_table(&handle, name.catalog()).await {
                        // Another one was faster.
                        Err(error) if error.code == ErrorCode::NoSuchTable => {}
                        other => other?,
                    }
                }
                Ok(0)
            }
            Define::ChangeIndexes { name, changes } => {
                for change in changes {
                    match change {
                        IndexChange::Create(index) => create_index(&handle, name, index).await?,
                        IndexChange::Drop(index) => drop_index(&handle, name.catalog(), index).await?,
                    }
                }
                Ok(0)
            }
            Define::Truncate(name) => self.truncate(name, context).await,
        }
    }

    /// Removes the rows that are there, each on its own.
    async fn truncate(&mut self, name: &TableName, context: &Context<'_>) -> Result<u64, Stop> {
        let tables = self.handle().tables().newest();
        let Ok(schema) = tables.table(&name.catalog()) else {
            return Err(SqlError::new(codes::NO_SUCH_TABLE, format!("Table '{name}' doesn't exist")).into());
        };
        let table = BoundTable::new(name.clone(), None, schema.clone());
        let mut scan = self.scan(&table, None, &Access::Scan, &[], None, context)?;
        while let Some(keys) = self.next_keys(&mut scan, &table).await? {
            let delete =
                |key: Vec<u8>| Operation::new(OperationKind::Delete, &table.schema, key).map_err(Error::from);
            let operations = keys.into_iter().map(delete).collect::<Result<Vec<_>, Error>>()?;
            if operations.is_empty() {
                continue;
            }
            let (results, _held) = self.alone(&operations).await;
            // That someone else has deleted one meanwhile is a result, not a failure.
            if let Some(failure) = results.iter().find_map(Result::err) {
                return Err(failure.error.clone().into());
            }
        }
        Ok(0)
    }
}
