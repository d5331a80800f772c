//! A cluster in memory: it executes what frontends ask as the data nodes would, one request after the other.

#[allow(dead_code, reason = "each test binary uses a part of it")]
pub mod conversation;
#[allow(dead_code, reason = "each test binary uses a part of it")]
pub mod mysql;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::sync::mpsc;
use twofold_apinode::{
    memcached::item,
    request::{
        Answer, Begin, End, Failure, Operations, RangeStep, Request, Results, Statement, TransactionToken,
    },
};
use twofold_client::handle::{HandedOut, Handle, SharedTables, Submission, Tables};
use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Epoch, IndexId, PartitionId, TableId, TransactionId, Version},
    index::encode_entry,
    key::distribution_hash,
    message::{Catalog, CatalogChange, Coordinator, Outcome, Status, TransactionState},
    operation::{BodyRef, Operation, OperationKind, OperationRef, Refusal, ResultCode},
    row::{RowRef, encode_row},
    schema::{Index, Schema},
    time::ClusterTime,
    unique::{EntryChange, entry_changes, entry_text},
    value::Value,
    wire::Reader,
};
use twofold_storage::evaluate::{Action, CurrentRow, append_scanned, evaluate, holds};

/// Few, so that a scan has more than one row in a partition.
const PARTITIONS: u16 = 4;
const EPOCH: Epoch = Epoch::new(1, 7);
/// The handle of an operation that is a transaction of its own.
const ALONE: u64 = u64::MAX - 1;

#[derive(Clone, Debug)]
struct Stored {
    body: Vec<u8>,
    version: Version,
    expiry: ClusterTime,
}

type Place = (TableId, Vec<u8>);

/// The cluster.
pub struct Fake {
    catalog: Catalog,
    schemas: BTreeMap<TableId, Arc<Schema>>,
    tables: SharedTables,
    rows: BTreeMap<Place, Stored>,
    commits: u64,
    /// What to put back, newest last, with the number of the statement that changed it.
    open: BTreeMap<u64, Vec<(u32, Place, Option<Stored>)>>,
    /// What the statement under way does to entries of unique indexes, encoded.
    entries: Vec<u8>,
    /// Errors for the requests to come.
    faults: Faults,
    handed_out: HandedOut,
}

/// Errors that the next requests fail with, first come first served.
pub type Faults = Arc<Mutex<Vec<Error>>>;

#[allow(dead_code, reason = "each test binary uses a part of it")]
impl Fake {
    /// An empty one, which has the table for memcached's items.
    pub fn new() -> Fake {
        let mut fake = Fake {
            catalog: Catalog::default(),
            schemas: BTreeMap::new(),
            tables: SharedTables::new(),
            rows: BTreeMap::new(),
            commits: 0,
            open: BTreeMap::new(),
            entries: Vec::new(),
            faults: Faults::default(),
            handed_out: HandedOut::default(),
        };
        assert!(matches!(
            fake.answer(Request::Change(CatalogChange::CreateTable(item::table()))),
            Answer::Catalog(1)
        ));
        fake
    }

    pub fn tables(&self) -> &SharedTables {
        &self.tables
    }

    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Where it is counted what was answered and not written yet.
    pub fn handed_out(&self) -> HandedOut {
        self.handed_out.clone()
    }

    /// A table's rows, by key.
    pub fn rows(&self, table: &str) -> Vec<Vec<Value>> {
        let id = self.catalog.table(table).unwrap().id;
        let of_table = self.rows.iter().filter(|((of, _), _)| *of == id);
        of_table
            .map(|((_, key), stored)| current(&self.schemas[&id], key, stored).row.values().unwrap())
            .collect()
    }

    /// Starts answering, as a task of this runtime.
    pub fn start(mut self) -> Handle {
        let (handle, mut submissions) = Handle::new(self.tables.clone(), self.handed_out.clone());
        handle.serving().send_replace(true);
        tokio::spawn(async move {
            let submissions: &mut mpsc::Receiver<Submission> = &mut submissions;
            while let Some(submission) = submissions.recv().await {
                match submission {
                    Submission::Request(request, reply) => reply.send(self.answer(request)),
                    Submission::Abandon(handle) => self.end(handle),
                }
            }
        });
        handle
    }

    pub fn answer(&mut self, request: Request) -> Answer {
        let fault = self.faults.lock().unwrap().pop();
        if let Some(error) = fault {
            return Answer::Failed(error.into());
        }
        match request {
            Request::Independent { operations, .. } => Answer::Operations(self.independent(&operations)),
            Request::Transaction { operations, .. } => {
                let statement = Statement {
                    handle: u64::MAX,
                    begin: Some(Begin::default()),
                    operations,
                    end: End::Commit,
                    ..Statement::default()
                };
                self.open.insert(u64::MAX, Vec::new());
                self.statement(statement)
            }
            Request::Statement(statement) => {
                if statement.begin.is_some() {
                    assert!(
                        self.open.insert(statement.handle, Vec::new()).is_none(),
                        "a handle is used twice"
                    );
                }
                self.statement(statement)
            }
            Request::ScanStep { table, partition, cursor, rows, program, .. } => {
                self.scan(table, partition, cursor, rows as usize, &program)
            }
            Request::RangeStep(step) => self.range(&step),
            Request::Status(token) => Answer::Status(match token.commit_number <= self.commits {
                true => Status::Decided(Outcome::Committed(EPOCH)),
                false => Status::Decided(Outcome::Aborted),
            }),
            Request::Change(CatalogChange::CreateTable(mut table)) => {
                if self.catalog.table(&table.name).is_some() {
                    return failed(ErrorCode::TableExists, format!("there is a table `{}`", table.name));
                }
                self.catalog.next_table += 1;
                table.id = TableId(self.catalog.next_table);
                for index in &mut table.indexes {
                    self.catalog.next_table += 1;
                    index.id = IndexId(self.catalog.next_table);
                    if let Some(entries) = &mut index.entries {
                        self.catalog.next_table += 1;
                        *entries = TableId(self.catalog.next_table);
                    }
                }
                self.catalog.tables.push(table);
                for table in self.catalog.stored() {
                    let schema = || Arc::new(Schema::new(table.clone().into_owned()).unwrap());
                    self.schemas.entry(table.id).or_insert_with(schema);
                }
                self.publish()
            }
            Request::Change(CatalogChange::DropTable(name)) => {
                match self.catalog.table(&name).map(|table| table.id) {
                    Some(id) => {
                        self.catalog.tables.retain(|table| table.id != id);
                        self.rows.retain(|place, _| place.0 != id);
                        self.publish()
                    }
                    None => failed(ErrorCode::NoSuchTable, format!("there is no table `{name}`")),
                }
            }
            Request::Change(other) => panic!("the fake cluster does not do {other:?}"),
        }
    }

    fn publish(&mut self) -> Answer {
        self.catalog.version += 1;
        self.tables.publish(Tables::new(&self.catalog, PARTITIONS).unwrap());
        Answer::Catalog(self.catalog.version)
    }

    fn independent(&mut self, operations: &Operations) -> Results {
        let mut results = Results::new(operations.count.into());
        let mut reader = Reader::new(&operations.bytes, "operations");
        for index in 0..usize::from(operations.count) {
            self.commits += 1;
            // What a refusal says is in the result.
            self.open.insert(ALONE, Vec::new());
            let operation = OperationRef::parse(&mut reader).unwrap();
            let (result, _) = self.run(index as u16, &operation, (ALONE, 1));
            match self.change_entries((ALONE, 1)) {
                Ok(()) => results.set(index, &result),
                Err((_, error)) => {
                    self.undo(ALONE, 0);
                    results.fail(index, error.into());
                }
            }
            self.open.remove(&ALONE);
        }
        reader.finish().unwrap();
        results
    }

    fn statement(&mut self, statement: Statement) -> Answer {
        let Statement { handle, begin, number, undo, operations, end, .. } = statement;
        if !self.open.contains_key(&handle) {
            return failed(ErrorCode::NoSuchTransaction, "no such transaction is open");
        }
        if undo {
            self.undo(handle, number);
        }
        let whole = begin.is_some() && end == End::Commit;
        let mut results = Results::new(operations.count.into());
        let mut reader = Reader::new(&operations.bytes, "operations");
        for index in 0..usize::from(operations.count) {
            let operation = OperationRef::parse(&mut reader).unwrap();
            let (result, refusal) = self.run(index as u16, &operation, (handle, number));
            if let Some(refusal) = refusal.filter(|_| operation.kind != OperationKind::Read) {
                let error = refusal.error(&self.schemas[&operation.table], Some(operation.key));
                self.entries.clear();
                return self.statement_failed(handle, number, whole, index as u16, error);
            }
            results.set(index, &result);
        }
        if let Err((index, error)) = self.change_entries((handle, number)) {
            return self.statement_failed(handle, number, whole, index, error);
        }
        let mut answer = |state, epoch, token| Answer::Statement {
            state,
            epoch,
            token,
            timestamp: 77,
            results: std::mem::take(&mut results),
        };
        match end {
            End::Stay => answer(TransactionState::Open, Epoch(0), None),
            End::Commit => {
                self.commits += 1;
                self.open.remove(&handle);
                let token = TransactionToken {
                    transaction: TransactionId::default(),
                    commit_number: self.commits,
                    epoch: EPOCH,
                    coordinator: Coordinator::default(),
                    partition: PartitionId(0),
                    durable: false,
                };
                answer(TransactionState::Committed, EPOCH, Some(token))
            }
            End::Rollback => {
                self.undo(handle, 0);
                self.open.remove(&handle);
                answer(TransactionState::Aborted, Epoch(0), None)
            }
        }
    }

    fn statement_failed(
        &mut self,
        handle: u64,
        number: u32,
        whole: bool,
        operation: u16,
        error: Error,
    ) -> Answer {
        self.undo(handle, number);
        if whole {
            self.end(handle);
        }
        let state = if whole { TransactionState::Aborted } else { TransactionState::Open };
        Answer::Failed(Failure { operation: Some(operation), state, ..error.into() })
    }

    /// Changes the entries of unique indexes that the operations so far concern, as a TC does; else the operation and its error.
    fn change_entries(&mut self, log: (u64, u32)) -> Result<(), (u16, Error)> {
        type Entry<'a> = (TableId, &'a [u8], &'a [u8]);
        let changes = std::mem::take(&mut self.entries);
        let mut reader = Reader::new(&changes, "entries");
        let mut net: BTreeMap<Entry<'_>, (i32, u16)> = BTreeMap::new();
        while !reader.is_empty() {
            let change = EntryChange::parse(&mut reader).unwrap();
            let (count, operation) = net.entry((change.table, change.entry, change.row)).or_default();
            *count += if change.comes { 1 } else { -1 };
            *operation = change.operation;
        }
        for (kind, sign) in [(OperationKind::Delete, -1), (OperationKind::Insert, 1)] {
            for (&(table, entry, row), &(_, index)) in net.iter().filter(|(_, (count, _))| *count == sign) {
                let schema = self.schemas[&table].clone();
                let values = [entry, row].map(|bytes| Value::Binary(bytes.to_vec().into()));
                let (key, body) = encode_row(&schema, &values).unwrap();
                let mut operation = Operation::new(kind, &schema, key).unwrap();
                operation.row = Some(body).filter(|_| kind == OperationKind::Insert);
                let bytes = operation.to_bytes();
                let parsed = OperationRef::parse(&mut Reader::new(&bytes, "operation")).unwrap();
                if let (_, Some(refusal)) = self.run(index, &parsed, log) {
                    assert_eq!((refusal.code, kind), (ResultCode::AlreadyExists, OperationKind::Insert));
                    let of = |index: &&Index| index.entries == Some(table);
                    let found = self
                        .schemas
                        .values()
                        .find_map(|schema| Some((schema, schema.indexes.iter().find(of)?)));
                    let (schema, index_of) = found.unwrap();
                    let (name, values) = (&index_of.name, entry_text(schema, index_of, entry));
                    let text = format!(
                        "table `{}`, unique index `{name}`: another row has {values} already",
                        schema.name
                    );
                    return Err((index, Error::new(ErrorCode::DuplicateEntry, text)));
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, handle: u64) {
        self.undo(handle, 0);
        self.open.remove(&handle);
    }

    fn undo(&mut self, handle: u64, from: u32) {
        let Some(log) = self.open.get_mut(&handle) else { return };
        while let Some((_, place, before)) = log.pop_if(|entry| entry.0 >= from) {
            match before {
                Some(row) => self.rows.insert(place, row),
                None => self.rows.remove(&place),
            };
        }
    }

    fn run(
        &mut self,
        index: u16,
        operation: &OperationRef<'_>,
        (handle, statement): (u64, u32),
    ) -> (Vec<u8>, Option<Refusal>) {
        let place = (operation.table, operation.key.to_vec());
        let schema = self.schemas[&operation.table].clone();
        assert_eq!(distribution_hash(&schema, operation.key).unwrap(), operation.hash);
        let before = self.rows.get(&place).cloned();
        let current = before.as_ref().map(|stored| current(&schema, operation.key, stored));
        let (mut body, mut result) = (Vec::new(), Vec::new());
        let action = evaluate(&schema, operation, current.as_ref(), Handle::now(), &mut body, &mut result);
        let version = Version { epoch: EPOCH, number: self.commits + 1 };
        let was = current.as_ref().filter(|row| row.is_live(Handle::now())).map(|row| row.row);
        let after = match action {
            Ok(Action::Put { .. }) => {
                Some(RowRef::new(&schema, schema.version, operation.key, &body).unwrap())
            }
            _ => None,
        };
        if matches!(action, Ok(Action::Put { .. } | Action::Delete)) {
            entry_changes(&schema, index, was.as_ref(), after.as_ref(), &mut self.entries).unwrap();
        }
        match action {
            Ok(Action::Put { expiry }) => {
                self.rows.insert(place.clone(), Stored { body, version, expiry });
            }
            Ok(Action::Delete) => {
                self.rows.remove(&place);
            }
            Ok(Action::Nothing) | Err(_) => return (result, action.err()),
        }
        self.open.get_mut(&handle).unwrap().push((statement, place, before));
        (result, None)
    }

    /// In the order of an index.
    fn range(&self, step: &RangeStep) -> Answer {
        let schema = &self.schemas[&step.table];
        let index = schema.index(step.index).unwrap();
        let body = BodyRef::parse(OperationKind::Read, &step.program).unwrap();
        let mut entries: Vec<(Vec<u8>, CurrentRow<'_>)> = Vec::new();
        for ((_, key), stored) in self.rows.iter().filter(|((of, _), _)| *of == step.table) {
            let row = current(schema, key, stored);
            let mut entry = Vec::new();
            encode_entry(schema, index, &row.row, &mut entry).unwrap();
            let within = entry >= step.range.from && step.range.to.as_ref().is_none_or(|to| entry < *to);
            let partition = distribution_hash(schema, key).unwrap().partition(PARTITIONS);
            if within && step.partition.is_none_or(|only| only == partition) {
                entries.push((entry, row));
            }
        }
        entries.sort_unstable_by(|(a, _), (b, _)| if step.descending { b.cmp(a) } else { a.cmp(b) });
        let mut found = Results::default();
        for (entry, row) in entries {
            if found.len() == 2 || step.rows > 0 && found.len() == step.rows as usize {
                return Answer::Range { rest: Some(step.range.rest(entry, step.descending)), rows: found };
            }
            if row.is_live(Handle::now()) && holds(&body.conditions, Some(&row)).unwrap() {
                let mut out = Vec::new();
                append_scanned(&row, &body, &mut out).unwrap();
                found.push(&out);
            }
        }
        Answer::Range { rest: None, rows: found }
    }

    /// In the order of a hash, as data nodes do: a cursor stays good whatever is deleted meanwhile.
    fn scan(
        &self,
        table: TableId,
        partition: PartitionId,
        cursor: u64,
        rows: usize,
        program: &[u8],
    ) -> Answer {
        let schema = &self.schemas[&table];
        let body = BodyRef::parse(OperationKind::Read, program).unwrap();
        let mut here: Vec<(u64, &Vec<u8>, &Stored)> = Vec::new();
        for ((_, key), stored) in self.rows.iter().filter(|((of, _), _)| *of == table) {
            let hash = distribution_hash(schema, key).unwrap();
            if hash.partition(PARTITIONS) == partition && hash.index_seed() >= cursor {
                here.push((hash.index_seed(), key, stored));
            }
        }
        here.sort_unstable_by_key(|(seed, ..)| *seed);
        let mut found = Results::default();
        for (seed, key, stored) in here {
            // Two at a time at most, so that even small tests need their cursors.
            if found.len() == 2 || rows > 0 && found.len() == rows {
                return Answer::Scan { cursor: Some(seed), rows: found };
            }
            let row = current(schema, key, stored);
            if row.is_live(Handle::now()) && holds(&body.conditions, Some(&row)).unwrap() {
                let mut out = Vec::new();
                append_scanned(&row, &body, &mut out).unwrap();
                found.push(&out);
            }
        }
        Answer::Scan { cursor: None, rows: found }
    }
}

fn current<'a>(schema: &'a Schema, key: &'a [u8], stored: &'a Stored) -> CurrentRow<'a> {
    let row = RowRef::new(schema, schema.version, key, &stored.body).unwrap();
    CurrentRow { row, schema_version: schema.version, version: stored.version, expiry: stored.expiry }
}

fn failed(code: ErrorCode, text: impl Into<String>) -> Answer {
    Answer::Failed(Error::new(code, text).into())
}
