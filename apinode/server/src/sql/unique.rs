//! Unique indexes: rows by their entries, and what an INSERT does that meets other rows.

use std::collections::BTreeSet;

use twofold_apinode::{
    request::End,
    sql::{
        bind::{BoundTable, Conflict, Insert},
        error::{SqlError, codes},
        expression::{Context, Level},
        plan::{
            access::{Held, held},
            rows,
        },
        value::Datum,
    },
};
use twofold_proto::{
    error::{Error, ErrorCode},
    operation::{Columns, LockMode, Operation, OperationKind, ResultRef},
    row::encode_row,
    schema::Schema,
    unique::{ROW_COLUMN, encode_entry_key, entries_table, entry_text},
    value::{Value, ValueRef},
    wire::Reader,
};

use super::run::{Runner, duplicate, failed};

/// How often entries are looked up whose rows have others by the time that they are read.
const LOOKUPS_MAX: usize = 10;

/// The table of an index's entries.
fn entries_of(table: &BoundTable, index: usize) -> Result<Schema, SqlError> {
    let entries = entries_table(&table.schema.indexes[index]).map(Schema::new);
    let none = || SqlError::new(codes::INTERNAL, "the index is not unique");
    Ok(entries.ok_or_else(none)?.map_err(|invalid| Error::new(ErrorCode::BadTable, invalid.0))?)
}

/// The read of an entry.
fn entry_read(entries: &Schema, entry: &[u8], lock: LockMode) -> Result<Operation, SqlError> {
    let values = [ValueRef::Binary(entry.into()), ValueRef::Binary(Vec::new().into())];
    let (key, _) = encode_row(entries, &values).map_err(|refusal| refusal.error(entries, None))?;
    let mut read = Operation::new(OperationKind::Read, entries, key).map_err(Error::from)?;
    read.before = Columns::List(vec![ROW_COLUMN]);
    read.lock = lock;
    Ok(read)
}

/// The primary key that the entry names that was read; none if there is no entry.
fn named(result: &[u8]) -> Result<Option<Vec<u8>>, SqlError> {
    let result = ResultRef::parse(&mut Reader::new(result, "entry")).map_err(Error::from)?;
    let Some(before) = result.before else { return Ok(None) };
    let value = before.values().next().transpose().map_err(Error::from)?;
    Ok(value.and_then(|value| value.as_bytes().map(<[u8]>::to_vec)))
}

/// The entry of a row that was read; none if it has none.
fn entry_of(table: &BoundTable, index: usize, row: &[Datum]) -> Option<Vec<u8>> {
    let index = &table.schema.indexes[index];
    let mut entry = Vec::new();
    let values =
        index.columns.iter().map(|&column| match held(table, column.into(), &row[usize::from(column)]) {
            Held::Value(value) => Some(value),
            Held::Nothing | Held::Several => None,
        });
    let values: Vec<Value> = values.collect::<Option<_>>()?;
    encode_entry_key(&table.schema, index, values, &mut entry).ok().filter(|has| *has)?;
    Some(entry)
}

impl Runner {
    /// Reads the rows that these entries of a unique index name.
    ///
    /// Without locks a row may have other values by the time that it is read, and another row those that are wanted: then its entry
    /// is looked up again, so that a row is not missed that was there all the time under one key or another.
    pub(super) async fn read_unique(
        &mut self,
        table: &BoundTable,
        index: usize,
        mut entries: Vec<Vec<u8>>,
        columns: &[u16],
        lock: LockMode,
    ) -> Result<Vec<(Vec<u8>, Vec<Datum>)>, SqlError> {
        let mut all = columns.to_vec();
        all.extend(&table.schema.indexes[index].columns);
        all.sort_unstable();
        all.dedup();
        let schema = entries_of(table, index)?;
        let mut found = Vec::with_capacity(entries.len());
        for _ in 0..LOOKUPS_MAX {
            let mut keys = Vec::with_capacity(entries.len());
            for (entry, key) in entries.iter().zip(self.keys_of(&schema, &entries, lock).await?) {
                keys.extend(key.map(|key| (key, entry.clone())));
            }
            keys.sort_unstable();
            let list: Vec<Vec<u8>> = keys.iter().map(|(key, _)| key.clone()).collect();
            for (key, row) in self.read(table, &list, &all, lock).await? {
                let place = keys.iter().position(|(known, entry)| {
                    *known == key && entry_of(table, index, &row).as_ref() == Some(entry)
                });
                if let Some(place) = place {
                    keys.swap_remove(place);
                    found.push((key, row));
                }
            }
            entries = keys.into_iter().map(|(_, entry)| entry).collect();
            if entries.is_empty() {
                return Ok(found);
            }
        }
        let name = &table.schema.indexes[index].name;
        let text = format!("rows of unique index `{name}` of table `{}` change too fast", table.schema.name);
        Err(Error::new(ErrorCode::Overloaded, text).into())
    }

    /// The primary keys that entries name.
    async fn keys_of(
        &mut self,
        schema: &Schema,
        entries: &[Vec<u8>],
        lock: LockMode,
    ) -> Result<Vec<Option<Vec<u8>>>, SqlError> {
        let lock = if self.open.is_some() { lock } else { LockMode::None };
        let reads: Vec<Operation> =
            entries.iter().map(|entry| entry_read(schema, entry, lock)).collect::<Result<_, _>>()?;
        let (results, _held) = match &self.open {
            Some(_) => self.in_open(&reads, End::Stay).await.map_err(|failure| failure.error)?,
            None => self.alone(&reads).await,
        };
        let result = |index| named(results.get(index).map_err(|failure| failure.error.clone())?);
        (0..reads.len()).map(result).collect()
    }

    /// A row of an INSERT that may meet others, by its primary key and by unique indexes: these are locked first, missing ones too.
    /// How many rows count as affected; `None` where one is to be changed that `conflict` gives: its key, and the row.
    pub(super) async fn insert_among(
        &mut self,
        insert: &Insert,
        values: &[Value],
        context: &Context<'_>,
    ) -> Result<Result<u64, (Vec<u8>, Vec<Datum>)>, SqlError> {
        let table = &insert.table;
        let all: Vec<u16> = (0..table.columns.len() as u16).collect();
        let (key, body) = rows::encode(table, values)?;
        let mut own = Operation::new(OperationKind::Read, &table.schema, key.clone()).map_err(Error::from)?;
        own.before = Columns::List(all.clone());
        own.lock = LockMode::Exclusive;
        let mut reads = vec![own];
        let mut entries = Vec::new();
        for (place, index) in table.schema.indexes.iter().enumerate().filter(|(_, index)| index.is_unique()) {
            let mut entry = Vec::new();
            let columns = index.columns.iter().map(|&column| values[usize::from(column)].borrowed());
            let has = encode_entry_key(&table.schema, index, columns, &mut entry)
                .map_err(|refusal| refusal.error(&table.schema, Some(&key)))?;
            if has {
                reads.push(entry_read(&entries_of(table, place)?, &entry, LockMode::Exclusive)?);
                entries.push((place, entry));
            }
        }
        let (results, _held) =
            self.in_open(&reads, End::Stay).await.map_err(|failure| failed(table, &reads, failure))?;
        let result = |index: usize| results.get(index).map_err(|failure| failure.error.clone());
        let there = rows::row(table, &all, result(0)?)?;
        let mut others = Vec::new();
        for (number, (place, entry)) in entries.iter().enumerate() {
            if let Some(other) = named(result(number + 1)?)?
                && other != key
            {
                others.push((other, *place, entry));
            }
        }
        let kind = if there.is_some() { OperationKind::Write } else { OperationKind::Insert };
        let mut put = Operation::new(kind, &table.schema, key.clone()).map_err(Error::from)?;
        put.row = Some(body);
        match (&insert.conflict, there, others.first()) {
            (_, None, None) => {
                self.put(table, vec![put]).await?;
                Ok(Ok(1))
            }
            (Conflict::Replace, there, _) => {
                let rest: BTreeSet<Vec<u8>> = others.into_iter().map(|(other, ..)| other).collect();
                // Where there are other unique keys MySQL deletes and inserts, even if nothing changes.
                let affected = 1 + u64::from(there.is_some()) + rest.len() as u64;
                let delete = |other| Operation::new(OperationKind::Delete, &table.schema, other);
                let mut operations =
                    rest.into_iter().map(delete).collect::<Result<Vec<_>, _>>().map_err(Error::from)?;
                operations.push(put);
                self.put(table, operations).await?;
                Ok(Ok(affected))
            }
            (Conflict::Update(_), Some(there), _) => Ok(Err((key, there))),
            (Conflict::Update(_), None, Some((other, ..))) => {
                let found = self.read(table, std::slice::from_ref(other), &all, LockMode::Exclusive).await?;
                let gone = || SqlError::new(codes::INTERNAL, "an entry of a unique index names no row");
                Ok(Err(found.into_iter().next().ok_or_else(gone)?))
            }
            (Conflict::Ignore | Conflict::Fail, there, other) => {
                let error = match other {
                    Some((_, place, entry)) if there.is_none() => {
                        let index = &table.schema.indexes[*place];
                        SqlError::duplicate_values(
                            &entry_text(&table.schema, index, entry),
                            &table.name.table,
                            &index.name,
                        )
                    }
                    _ => duplicate(table, &key),
                };
                context.warnings.borrow_mut().push(Level::Warning, error);
                Ok(Ok(0))
            }
        }
    }

    async fn put(&mut self, table: &BoundTable, operations: Vec<Operation>) -> Result<(), SqlError> {
        let done = self.in_open(&operations, End::Stay).await;
        done.map(drop).map_err(|failure| failed(table, &operations, failure))
    }
}
