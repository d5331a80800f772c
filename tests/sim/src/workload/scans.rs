//! Scans of a table in which rows come and go and change, by partition and by index. A row that is there throughout is seen once, and
//! none twice where it was; by index they come in order, from within the range that was asked for. Indexes are made and dropped meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use twofold_apinode::request::{Answer, Options, RangeStep, Request};
use twofold_proto::{
    ids::{IndexId, PartitionId},
    index::EntryRange,
    message::CatalogChange,
    operation::ResultCode,
    schema::{ColumnType, Index, Schema, Table},
    time::Time,
    value::ValueRef,
};

use super::{Context, Recorder, Rows, Step, Workload, registers::final_rows, rows};
use crate::{
    checkers::{self, Verdict, Violation},
    history::{Condition, FinalContent, Handle, Isolation, Operation, Outcome, SystemRestart},
};

const TABLE: &str = "scanned";
/// Indexes that come and go.
const ADDED: [&str; 2] = ["added", "added too"];

#[derive(Debug)]
enum Waits {
    Nothing,
    Change(Handle),
    Scan(Scan),
    Range(Range),
    Question,
    Index,
}

/// A scan of the whole table.
#[derive(Clone, Debug)]
struct Scan {
    /// The rows that were there before it began.
    before: BTreeSet<u64>,
    seen: BTreeSet<u64>,
    partition: u16,
    cursor: u64,
}

/// A scan of a range of an index.
#[derive(Clone, Debug)]
struct Range {
    /// The rows that were there before it began and belong to the range.
    before: BTreeSet<u64>,
    /// The index, whether it orders keys and not values, and the bounds of what it orders.
    index: IndexId,
    by_key: bool,
    bounds: (u64, u64),
    descending: bool,
    rest: EntryRange,
    /// What the index orders, and the number of the row.
    seen: Vec<(u64, u64)>,
}

/// The workload.
#[derive(Debug)]
pub struct Scans {
    record: Recorder,
    users: Vec<Waits>,
    partitions: u16,
    /// Rows below this number are never deleted.
    stable: u64,
    /// The stable rows that are there for sure, and their values where it is known which insert made them.
    present: BTreeMap<u64, Option<u64>>,
    wrong: Option<Violation>,
    /// Scans that went through.
    pub scanned: u64,
}

impl Scans {
    /// So many users of a table with so many rows that stay.
    pub fn new(users: usize, stable: u64, partitions: u16) -> Scans {
        Scans {
            record: Recorder::new(users),
            users: (0..users).map(|_| Waits::Nothing).collect(),
            partitions,
            stable,
            present: BTreeMap::new(),
            wrong: None,
            scanned: 0,
        }
    }

    fn change(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        let value = context.fresh();
        let missing = (self.present.len() as u64) < self.stable && context.random.one_in(2);
        let row = match missing {
            true => context.random.below(self.stable),
            false => self.stable + context.random.below(12),
        };
        let key = rows::key(schema, row);
        let (wire, operation) = if !missing && context.random.one_in(3) {
            (rows::write(schema, row, ValueRef::UInt(value)), Operation::write(key, value))
        } else if missing || context.random.one_in(2) {
            let operation = Operation::write_if(key, Condition::Absent, Some(value));
            (rows::insert(schema, row, ValueRef::UInt(value)), operation)
        } else {
            (rows::delete(schema, row), Operation::delete(key))
        };
        let handle = self.record.begin(user, Isolation::ReadCommitted, context);
        self.record.history.push(handle, operation);
        self.users[user] = Waits::Change(handle);
        Step::Ask(Request::Independent { operations: rows::operations(&[wire]), options: Options::default() })
    }

    /// Makes or drops an index.
    fn change_indexes(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        let name = *context.random.pick(&ADDED);
        let table = TABLE.to_owned();
        let change = match schema.table().index_named(name) {
            Some(_) => CatalogChange::DropIndex { table, index: name.to_owned() },
            None => {
                let columns = schema.table().indexes[rows::BY_VALUE].columns.clone();
                CatalogChange::CreateIndex { table, index: Index::new(name, columns) }
            }
        };
        self.users[user] = Waits::Index;
        Step::Ask(Request::Change(change))
    }

    /// The next step of a scan by index.
    fn range(&mut self, user: usize, range: Range, schema: &Schema, context: &mut Context<'_>) -> Step {
        let step = RangeStep {
            table: schema.table().id,
            schema_version: schema.table().version,
            index: range.index,
            partition: None,
            range: range.rest.clone(),
            descending: range.descending,
            rows: context.random.below(9) as u32,
            program: rows::whole(),
            deadline: None,
        };
        self.users[user] = Waits::Range(range);
        Step::Ask(Request::RangeStep(step))
    }

    fn begin_range(&mut self, user: usize, schema: &Schema, context: &mut Context<'_>) -> Step {
        // Also those that are being built: nobody is to answer by them.
        let definition = context.random.pick(&schema.table().indexes);
        let by_key = definition.columns.is_empty();
        let end = if by_key { self.stable + 12 } else { context.fresh() };
        let (a, b) = (context.random.below(end), context.random.below(end));
        let bounds = if context.random.one_in(2) { (0, u64::MAX) } else { (a.min(b), a.max(b)) };
        let (low, high) = (ValueRef::UInt(bounds.0), ValueRef::UInt(bounds.1));
        let rest = EntryRange::new(schema, definition, &[], Bound::Included(&low), Bound::Included(&high));
        let within = |ordered: &u64| (bounds.0..=bounds.1).contains(ordered);
        let before = self.present.iter().filter(|(row, value)| match by_key {
            true => within(row),
            false => value.as_ref().is_some_and(within) || bounds == (0, u64::MAX),
        });
        let before = before.map(|(row, _)| *row).collect();
        let (descending, rest) = (context.random.one_in(2), rest.expect("the bounds are numbers"));
        let index = definition.id;
        let range = Range { before, index, by_key, bounds, descending, rest, seen: Vec::new() };
        self.range(user, range, schema, context)
    }

    fn ranged(&mut self, user: usize, mut range: Range, answer: &Answer, context: &mut Context<'_>) -> Step {
        let schema = context.schema(TABLE);
        let (rest, found) = match answer {
            Answer::Range { rest, rows } => (rest, rows),
            Answer::Failed(_) => return Step::Rest,
            other => panic!("{other:?} answers no scan by index"),
        };
        for bytes in found.iter() {
            let read = rows::result(&schema, bytes.expect("rows are whole"));
            let (row, value) = read.row.zip(read.before).expect("rows have keys and columns");
            let ordered = if range.by_key { row } else { rows::number(&value) };
            let place = (ordered, row);
            let behind =
                range.seen.last().is_none_or(|last| (*last < place) != range.descending && *last != place);
            if !behind || !(range.bounds.0..=range.bounds.1).contains(&ordered) {
                let explanation = format!("{place:?} came behind {:?} in {range:?}", range.seen.last());
                self.wrong.get_or_insert(Violation { anomaly: "row out of place", explanation });
            }
            range.seen.push(place);
        }
        if let Some(rest) = rest {
            range.rest = rest.clone();
            return self.range(user, range, &schema, context);
        }
        self.scanned += 1;
        let seen: BTreeSet<u64> = range.seen.iter().map(|(_, row)| *row).collect();
        if let Some(row) = range.before.difference(&seen).next() {
            let explanation =
                format!("a scan by index that ended at {:?} did not see row {row}", context.now);
            self.wrong.get_or_insert(Violation { anomaly: "missing row", explanation });
        }
        let stable = range.seen.iter().filter(|(_, row)| *row < self.stable);
        if stable.count() > seen.iter().filter(|row| **row < self.stable).count() {
            let explanation = format!("a scan by index saw a row twice that never changed: {:?}", range.seen);
            self.wrong.get_or_insert(Violation { anomaly: "double row", explanation });
        }
        Step::Rest
    }

    fn scan(&mut self, user: usize, scan: Scan, schema: &Schema, context: &mut Context<'_>) -> Step {
        let request = Request::ScanStep {
            table: schema.table().id,
            schema_version: schema.table().version,
            partition: PartitionId(scan.partition),
            cursor: scan.cursor,
            rows: context.random.below(4) as u32,
            program: rows::whole(),
            deadline: None,
        };
        self.users[user] = Waits::Scan(scan);
        Step::Ask(request)
    }

    fn scanned(&mut self, user: usize, mut scan: Scan, answer: &Answer, context: &mut Context<'_>) -> Step {
        let schema = context.schema(TABLE);
        let (cursor, found) = match answer {
            Answer::Scan { cursor, rows } => (*cursor, rows),
            // Whoever scans begins anew if it takes too long.
            Answer::Failed(_) => return Step::Rest,
            other => panic!("{other:?} answers no scan"),
        };
        for bytes in found.iter() {
            let row = rows::result(&schema, bytes.expect("rows are whole")).row.expect("rows have keys");
            if !scan.seen.insert(row) {
                let explanation = format!("a scan saw row {row} of partition {} twice", scan.partition);
                self.wrong.get_or_insert(Violation { anomaly: "double row", explanation });
            }
        }
        match cursor {
            Some(cursor) => scan.cursor = cursor,
            None => (scan.partition, scan.cursor) = (scan.partition + 1, 0),
        }
        if scan.partition < self.partitions {
            return self.scan(user, scan, &schema, context);
        }
        self.scanned += 1;
        if let Some(row) = scan.before.difference(&scan.seen).next() {
            let explanation = format!("a scan that ended at {:?} did not see row {row}", context.now);
            self.wrong.get_or_insert(Violation { anomaly: "missing row", explanation });
        }
        Step::Rest
    }
}

impl Workload for Scans {
    fn tables(&self) -> Vec<Table> {
        vec![rows::table(TABLE, ColumnType::U64)]
    }

    fn next(&mut self, user: usize, context: &mut Context<'_>) -> Step {
        if let Some(question) = self.record.question(user) {
            self.users[user] = Waits::Question;
            return Step::Ask(question);
        }
        if context.ending {
            return Step::Rest;
        }
        let schema = context.schema(TABLE);
        if context.random.one_in(6) {
            if context.random.one_in(2) {
                return self.begin_range(user, &schema, context);
            }
            let (before, seen) = (self.present.keys().copied().collect(), BTreeSet::new());
            return self.scan(user, Scan { before, seen, partition: 0, cursor: 0 }, &schema, context);
        }
        if context.random.one_in(40) {
            return self.change_indexes(user, &schema, context);
        }
        self.change(user, &schema, context)
    }

    fn answered(&mut self, user: usize, answer: Answer, context: &mut Context<'_>) -> Step {
        match std::mem::replace(&mut self.users[user], Waits::Nothing) {
            Waits::Nothing => panic!("user {user} asked nothing: {answer:?}"),
            Waits::Question => {
                // A stable row is inserted again, so nothing is to be noted here.
                _ = self.record.learn(user, &answer, context);
            }
            // Another one may have been faster, or there may be no leader.
            Waits::Index => assert!(matches!(answer, Answer::Catalog(_) | Answer::Failed(_)), "{answer:?}"),
            Waits::Scan(scan) => return self.scanned(user, scan, &answer, context),
            Waits::Range(range) => return self.ranged(user, range, &answer, context),
            Waits::Change(handle) => {
                let Answer::Operations(results) = &answer else { panic!("{answer:?} answers no operation") };
                match results.get(0) {
                    Ok(bytes) => {
                        let result = rows::result(&context.schema(TABLE), bytes);
                        let operation = &mut self.record.history.transaction(handle).operations[0];
                        operation.was_applied(result.code == ResultCode::Ok);
                        let value = operation.written();
                        let row = operation.key.row;
                        // Inserted now, or found there.
                        if row < self.stable {
                            let inserted = value.filter(|_| result.code == ResultCode::Ok);
                            let known = self.present.entry(row).or_default();
                            *known = known.or(inserted);
                        }
                        self.record.end(user, Outcome::Committed { epoch: None }, context);
                    }
                    Err(failure) => self.record.fail(user, failure, context),
                }
            }
        }
        Step::Rest
    }

    fn died(&mut self, user: usize, context: &mut Context<'_>) {
        self.users[user] = Waits::Nothing;
        self.record.died(user, context);
    }

    fn restarted(&mut self, restart: SystemRestart) {
        self.users.fill_with(|| Waits::Nothing);
        self.present.clear();
        self.record.restarted(restart);
    }

    fn is_settled(&self, user: usize) -> bool {
        self.record.is_settled(user) && matches!(self.users[user], Waits::Nothing)
    }

    fn finished(&self) -> u64 {
        self.record.finished
    }

    fn judge(&mut self, rows: &Rows, _: Time) -> Verdict {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        let found = &rows[TABLE];
        if let Some(row) = self.present.keys().find(|row| !found.contains_key(row)) {
            let explanation = format!("row {row}, which was never deleted, is not there in the end");
            return Err(Violation { anomaly: "lost row", explanation });
        }
        let finals =
            final_rows(&self.record.history, found, |value| FinalContent::Value(rows::number(value)));
        let history = self.record.judge_restarts(&finals)?;
        checkers::outcomes::check(&history)?;
        checkers::lost_writes::check(&history, &finals)?;
        checkers::registers::check(&history)
    }
}
