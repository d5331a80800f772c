//! The TC's part in unique indexes: when the operations of a statement have run it has the entries changed that they concern, and
//! answers then. See `twofold_proto::unique`.

use std::{collections::BTreeMap, sync::Arc};

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{TableId, TransactionId},
    limits::TRANSACTION_BYTES_MAX,
    message::ExecuteRef,
    operation::{Operation, OperationKind},
    row::encode_row,
    schema::Schema,
    unique::{EntryChange, entry_text},
    value::ValueRef,
    wire::{Malformed, Reader},
};

use super::{Worker, coordinator::Statement};

/// Which entry comes or goes: the table of the index's entries, the entry's key, the row's.
type Entry = (TableId, Vec<u8>, Vec<u8>);

/// What a statement does to entries of unique indexes.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Of each: how often it comes more than it goes, and the last operation that has to do with it. A row that a statement changes
    /// twice may come to where it was.
    changes: BTreeMap<Entry, (i32, u16)>,
    /// What workers have been asked to do, in its order, and the operation on account of which.
    asked: Vec<(u16, TableId, Vec<u8>)>,
}

impl Entries {
    /// Notes what a worker says of the operations that it has run.
    pub fn note(&mut self, changes: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(changes, "entries");
        while !reader.is_empty() {
            let change = EntryChange::parse(&mut reader)?;
            let entry = (change.table, change.entry.to_vec(), change.row.to_vec());
            let (count, operation) = self.changes.entry(entry).or_default();
            *count += if change.comes { 1 } else { -1 };
            *operation = change.operation;
        }
        Ok(())
    }

    /// Whether there is something to be done.
    pub fn are_to_be_changed(&self) -> bool {
        self.changes.values().any(|(count, _)| *count != 0)
    }

    /// Whether workers have been asked to do it.
    pub fn under_way(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The operations that do it, and how many: entries go before others come, so that a statement may give values from row to row.
    fn operations(&mut self, schemas: &BTreeMap<TableId, Arc<Schema>>) -> Result<(u16, Vec<u8>), Error> {
        let changes = std::mem::take(&mut self.changes);
        let (mut bytes, mut count) = (Vec::new(), 0usize);
        for kind in [OperationKind::Delete, OperationKind::Insert] {
            let sign = if kind == OperationKind::Insert { 1 } else { -1 };
            for ((table, entry, row), (_, operation)) in
                changes.iter().filter(|(_, (times, _))| times.signum() == sign)
            {
                let schema = schemas.get(table).ok_or_else(|| missing(*table))?;
                let value = |bytes: &[u8]| ValueRef::Binary(bytes.to_vec().into());
                let (key, body) = encode_row(schema, &[value(entry), value(row)])
                    .map_err(|refusal| refusal.error(schema, None))?;
                let mut change = Operation::new(kind, schema, key)?;
                change.row = Some(body).filter(|_| kind == OperationKind::Insert);
                change.encode(&mut bytes);
                count += 1;
                self.asked.push((*operation, *table, entry.clone()));
            }
        }
        match u16::try_from(count) {
            Ok(count) if bytes.len() <= TRANSACTION_BYTES_MAX => Ok((count, bytes)),
            _ => {
                let text = format!("a statement that changes {count} entries of unique indexes");
                Err(Error::new(ErrorCode::TooLarge, text))
            }
        }
    }

    /// Words the failure of a change as one of the operation on account of which it was to be.
    pub fn explain(&self, failure: &mut ExecuteRef, schemas: &BTreeMap<TableId, Arc<Schema>>) {
        let place = failure.operation.map(usize::from);
        let Some((operation, table, entry)) = place.and_then(|place| self.asked.get(place)) else { return };
        failure.operation = Some(*operation);
        match failure.error.code {
            ErrorCode::DuplicateKey => failure.error = duplicate(schemas, *table, entry),
            ErrorCode::NoSuchTable => failure.error = missing(*table),
            ErrorCode::NoSuchRow => {
                let text = format!("table number {table}, of a unique index, lacks an entry");
                failure.error = Error::new(ErrorCode::Internal, text);
            }
            _ => {}
        }
    }
}

/// The index has gone, or is not known everywhere yet.
fn missing(table: TableId) -> Error {
    Error::new(ErrorCode::StaleSchema, format!("table number {table}, of a unique index, is not known here"))
}

/// Another row has these values.
fn duplicate(schemas: &BTreeMap<TableId, Arc<Schema>>, table: TableId, entry: &[u8]) -> Error {
    let mut indexes =
        schemas.values().flat_map(|schema| schema.indexes.iter().map(move |index| (schema, index)));
    match indexes.find(|(_, index)| index.entries == Some(table)) {
        Some((schema, index)) => {
            let values = entry_text(schema, index, entry);
            let text = format!(
                "table `{}`, unique index `{}`: another row has {values} already",
                schema.name, index.name
            );
            Error::new(ErrorCode::DuplicateEntry, text)
        }
        None => missing(table),
    }
}

impl Worker {
    /// Has the entries changed that a statement concerns, whose operations have run.
    pub(super) fn change_entries(&mut self, id: TransactionId, mut statement: Statement) {
        match statement.entries.operations(&self.schemas) {
            Ok((count, operations)) => {
                let sent = self.send_operations(id, statement, count, &operations);
                sent.expect("they were encoded here");
            }
            Err(error) => {
                let number = statement.number;
                let failure =
                    ExecuteRef { transaction: id, statement: number, operation: None, open: true, error };
                // Nothing of it is counted: it is not under way.
                statement.fail(failure);
                self.coordinated.get_mut(&id).expect("it has a statement").statement = Some(statement);
                self.statement_answered(id);
            }
        }
    }
}
