//! Scans of a table in which rows come and go. A row that is there throughout is seen once, and none twice.

use std::collections::BTreeSet;

use twofold_apinode::request::{Answer, Options, Request};
use twofold_proto::{
    ids::PartitionId,
    operation::{BodyRef, OperationKind, Projection, ResultCode},
    schema::{ColumnType, Schema, Table},
    time::Time,
    value::ValueRef,
};

use super::{Context, Recorder, Rows, Step, Workload, registers::final_rows, rows};
use crate::{
    checkers::{self, Verdict, Violation},
    history::{Condition, FinalContent, Handle, Isolation, Operation, Outcome, SystemRestart},
};

const TABLE: &str = "scanned";

#[derive(Debug)]
enum Waits {
    Nothing,
    Change(Handle),
    Scan(Scan),
    Question,
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

/// The workload.
#[derive(Debug)]
pub struct Scans {
    record: Recorder,
    users: Vec<Waits>,
    partitions: u16,
    /// Rows below this number are never deleted.
    stable: u64,
    /// The stable rows that are there for sure.
    present: BTreeSet<u64>,
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
            present: BTreeSet::new(),
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
        let (wire, operation) = if missing || context.random.one_in(2) {
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

    fn scan(&mut self, user: usize, scan: Scan, schema: &Schema, context: &mut Context<'_>) -> Step {
        let mut program = Vec::new();
        BodyRef { before: Projection::All, version: true, ..BodyRef::default() }.encode(&mut program);
        debug_assert!(BodyRef::parse(OperationKind::Read, &program).is_ok());
        let request = Request::ScanStep {
            table: schema.table().id,
            schema_version: schema.table().version,
            partition: PartitionId(scan.partition),
            cursor: scan.cursor,
            rows: context.random.below(4) as u32,
            program,
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
        if context.random.one_in(8) {
            let (before, seen) = (self.present.clone(), BTreeSet::new());
            return self.scan(user, Scan { before, seen, partition: 0, cursor: 0 }, &schema, context);
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
            Waits::Scan(scan) => return self.scanned(user, scan, &answer, context),
            Waits::Change(handle) => {
                let Answer::Operations(results) = &answer else { panic!("{answer:?} answers no operation") };
                match results.get(0) {
                    Ok(bytes) => {
                        let result = rows::result(&context.schema(TABLE), bytes);
                        let operation = &mut self.record.history.transaction(handle).operations[0];
                        operation.was_applied(result.code == ResultCode::Ok);
                        let row = operation.key.row;
                        // Inserted now, or found there.
                        if row < self.stable {
                            self.present.insert(row);
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
        if let Some(row) = self.present.iter().find(|row| !found.contains_key(row)) {
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
