//! The workload of a thread: each of its keys is written, read, written, and so on, one call at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    mem,
    sync::mpsc::Sender,
};

use twofold_apinode::request::Failure;
use twofold_proto::{
    error::{ErrorClass, ErrorCode},
    filter::Comparison,
    ids::TableId,
    operation::{
        Change, Columns, Operation, OperationKind, OperationRef, ResultCode, ResultRef, ReturnedRow,
    },
    row::{RowRef, encode_row},
    schema::{Column, ColumnType, Schema, Table},
    time::{Duration, Time},
    value::ValueRef,
    wire::Reader,
};

use twofold_client::embed::{Turn, Workload};

use super::standing::{Event, Line, Standing, Violation};

/// Lines are handed over when they are so many bytes, or so old.
const LINES_BYTES: usize = 16 << 10;
const LINES_AGE: Duration = Duration::from_millis(50);
/// How long reading back is tried.
const READ_BACK_TIME: Duration = Duration::from_secs(60);
/// Violations that a thread tells of at most; their number it tells in any case.
const VIOLATIONS_TOLD: usize = 20;
/// Keys whose read back failed wait so long.
const READ_BACK_PAUSE: Duration = Duration::from_millis(50);

/// Columns of the table.
const ID: u16 = 0;
const SEQUENCE: u16 = 1;
const PROOF: u16 = 2;

/// The table.
pub fn table(name: &str) -> Table {
    let column = |name: &str| Column::new(name, ColumnType::U64);
    Table {
        id: TableId::default(),
        name: name.into(),
        version: 1,
        columns: ["id", "sequence", "proof"].map(column).to_vec(),
        primary_key: vec![ID],
        distribution_key: vec![ID],
        indexes: Vec::new(),
    }
}

/// What a row of this run holds beside key and sequence, so that it is no other's.
fn proof(run: u64, key: u64, sequence: u64) -> u64 {
    let mix = |x: u64, y: u64| (x ^ y).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    mix(mix(mix(0, run), key), sequence)
}

/// What the thread is to do.
#[derive(Debug)]
pub struct Task {
    /// The table.
    pub schema: Schema,
    /// Names the run.
    pub run: u64,
    /// Its keys, and what is known of them.
    pub keys: Vec<(u64, Standing)>,
    /// Whether there may be newer writes than those that are known, as after a journal that was cut short.
    pub lenient: bool,
    /// When to write and read, and how long a key rests after each call; then all keys are read back.
    pub start: Time,
    pub end: Time,
    pub pause: Duration,
    /// Microseconds since 1970 at the [`Time`] 0.
    pub wall_clock_offset: u64,
}

/// What a thread says to the main thread.
#[derive(Debug)]
pub enum Note {
    /// Lines for the journal.
    Lines(String),
    /// It has done all.
    Done(Outcome),
}

/// Calls of one kind.
#[derive(Clone, Default, Debug)]
pub struct Calls {
    /// Those that succeeded.
    pub done: u64,
    /// Others, by what was answered.
    pub failed: BTreeMap<String, u64>,
    /// Of each key that had a success at all: the longest time between two.
    pub longest: Vec<Duration>,
}

/// What a thread did.
#[derive(Clone, Default, Debug)]
pub struct Outcome {
    /// Its writes.
    pub writes: Calls,
    /// Its reads, those at the end left out.
    pub reads: Calls,
    /// Keys that were read back.
    pub read_back: u64,
    /// What must not be.
    pub violations: Vec<String>,
    /// How often.
    pub violation_count: u64,
}

/// Successes of one kind of call.
#[derive(Clone, Copy, Default, Debug)]
struct Gap {
    last: Option<Time>,
    longest: Duration,
}

impl Gap {
    fn success(&mut self, now: Time) {
        self.until(now);
        self.last = Some(now);
    }

    fn until(&mut self, now: Time) {
        if let Some(last) = self.last {
            self.longest = self.longest.max(now.since(last));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Insert,
    Update,
    Read,
    ReadBack,
}

#[derive(Debug)]
struct Slot {
    key: u64,
    standing: Standing,
    /// The newest sequence that was sent.
    sent: u64,
    call: Call,
    under_way: bool,
    writes: Gap,
    reads: Gap,
}

#[derive(Debug)]
struct Work {
    task: Task,
    slots: Vec<Slot>,
    /// Slots without a call, by when they make one.
    resting: BTreeSet<(Time, usize)>,
    left: usize,
    lines: String,
    lines_since: Time,
    outcome: Outcome,
}

/// The workload. Told its task, it sends notes.
#[derive(Debug)]
pub struct Keeper {
    work: Option<Work>,
    notes: Sender<Note>,
}

impl Keeper {
    /// Without a task yet.
    pub fn new(notes: Sender<Note>) -> Keeper {
        Keeper { work: None, notes }
    }
}

/// What a result says of the row.
enum Answer {
    Done(Option<(u64, u64)>),
    Code(ResultCode),
}

impl Work {
    fn new(task: Task) -> Work {
        let slot = |(key, standing): &(u64, Standing)| Slot {
            key: *key,
            sent: standing.newest(),
            standing: standing.clone(),
            call: Call::Read,
            under_way: false,
            writes: Gap::default(),
            reads: Gap::default(),
        };
        let slots: Vec<Slot> = task.keys.iter().map(slot).collect();
        Work {
            resting: (0..slots.len()).map(|slot| (task.start, slot)).collect(),
            left: slots.len(),
            slots,
            lines: String::new(),
            lines_since: task.start,
            outcome: Outcome::default(),
            task,
        }
    }

    fn note(&mut self, now: Time, event: Event, key: u64, sequence: u64) {
        if self.lines.is_empty() {
            self.lines_since = now;
        }
        let line = Line { event, key, sequence, micros: self.task.wall_clock_offset + now.0 / 1000 };
        writeln!(self.lines, "{line}").expect("a text takes all");
    }

    fn violation(&mut self, key: u64, what: &str) {
        self.outcome.violation_count += 1;
        if self.outcome.violations.len() < VIOLATIONS_TOLD {
            self.outcome.violations.push(format!("key {key}: {what}"));
        }
    }

    /// The next call of a slot.
    fn next_call(&mut self, now: Time, place: usize) -> Operation {
        let slot = &mut self.slots[place];
        slot.call = match slot.call {
            _ if now >= self.task.end => Call::ReadBack,
            Call::Read if slot.standing.floor() == 0 => Call::Insert,
            Call::Read => Call::Update,
            Call::Insert | Call::Update | Call::ReadBack => Call::Read,
        };
        slot.under_way = true;
        let (schema, run, key) = (&self.task.schema, self.task.run, slot.key);
        let kind = match slot.call {
            Call::Insert => OperationKind::Insert,
            Call::Update => OperationKind::Update,
            Call::Read | Call::ReadBack => OperationKind::Read,
        };
        slot.sent += u64::from(kind != OperationKind::Read);
        let sequence = slot.sent;
        let values = [key, sequence, proof(run, key, sequence)].map(ValueRef::UInt);
        let (encoded, row) = encode_row(schema, &values).expect("the values are of their columns' types");
        let mut operation = Operation::new(kind, schema, encoded).expect("the key is the table's");
        match slot.call {
            Call::Insert => operation.row = Some(row),
            Call::Update => {
                // A write that comes late must not undo a later one.
                operation.conditions.compare(SEQUENCE, Comparison::Less, &values[1]);
                operation.assign(SEQUENCE, Change::Set(values[1].borrowed()));
                operation.assign(PROOF, Change::Set(values[2].borrowed()));
            }
            Call::Read | Call::ReadBack => operation.before = Columns::All,
        }
        operation
    }

    fn reply(&mut self, now: Time, place: usize, result: Result<&[u8], &Failure>) {
        let slot = &mut self.slots[place];
        slot.under_way = false;
        let (call, key, sequence) = (slot.call, slot.key, slot.sent);
        let failed = match result {
            Ok(bytes) => match self.read_answer(key, bytes) {
                Ok(answer) => self.answered(now, place, answer),
                Err(why) => Some(why),
            },
            Err(failure) => {
                let is_write = matches!(call, Call::Insert | Call::Update);
                if is_write && failure.error.code.class() == ErrorClass::Unknown {
                    self.slots[place].standing.pending(sequence);
                    self.note(now, Event::Pending, key, sequence);
                }
                Some(format!("{} {:?}", failure.error.code, failure.error.code))
            }
        };
        let succeeded = failed.is_none();
        let slot = &mut self.slots[place];
        let (calls, gap) = match call {
            Call::Insert | Call::Update => (&mut self.outcome.writes, &mut slot.writes),
            Call::Read => (&mut self.outcome.reads, &mut slot.reads),
            Call::ReadBack => return self.read_back(now, place, failed),
        };
        match failed {
            None => calls.done += 1,
            Some(why) => *calls.failed.entry(why).or_default() += 1,
        }
        if succeeded {
            gap.success(now);
        }
        self.resting.insert((now + self.task.pause, place));
    }

    fn read_back(&mut self, now: Time, place: usize, failed: Option<String>) {
        match failed {
            Some(_) if now < self.task.end + READ_BACK_TIME => {
                self.resting.insert((now + READ_BACK_PAUSE, place));
                return;
            }
            Some(why) => self.violation(self.slots[place].key, &format!("cannot be read back: {why}")),
            None => self.outcome.read_back += 1,
        }
        self.left -= 1;
    }

    fn read_answer(&self, key: u64, bytes: &[u8]) -> Result<Answer, String> {
        let result =
            ResultRef::parse(&mut Reader::new(bytes, "result")).map_err(|error| error.to_string())?;
        if result.head.code != ResultCode::Ok {
            return Ok(Answer::Code(result.head.code));
        }
        let Some(ReturnedRow::Whole { schema_version, body }) = result.before else {
            return Ok(Answer::Done(None));
        };
        let row = RowRef::new(&self.task.schema, schema_version, &key.to_be_bytes(), body)
            .and_then(|row| Ok([row.get(SEQUENCE)?, row.get(PROOF)?].map(|value| value.into_owned())));
        match row.map_err(|error| error.to_string())? {
            [ValueRef::UInt(sequence), ValueRef::UInt(proof)] => Ok(Answer::Done(Some((sequence, proof)))),
            other => Err(format!("a row of other columns: {other:?}")),
        }
    }

    /// A call was answered; returns why it counts as failed, if it does.
    fn answered(&mut self, now: Time, place: usize, answer: Answer) -> Option<String> {
        let slot = &self.slots[place];
        let (key, sequence, call) = (slot.key, slot.sent, slot.call);
        match (call, answer) {
            (Call::Insert | Call::Update, Answer::Done(_)) => {
                self.slots[place].standing.committed(sequence);
                self.note(now, Event::Acknowledged, key, sequence);
                None
            }
            (Call::Read | Call::ReadBack, Answer::Done(Some(row))) => {
                self.found(now, place, Some(row));
                None
            }
            (Call::Read | Call::ReadBack, Answer::Done(None)) => Some("no row in the answer".into()),
            (Call::Read | Call::ReadBack, Answer::Code(ResultCode::NotFound)) => {
                self.found(now, place, None);
                None
            }
            // A pending insert was committed.
            (Call::Insert, Answer::Code(ResultCode::AlreadyExists)) if slot.standing.is_uncertain() => {
                Some("a pending insert was there".into())
            }
            (Call::Insert | Call::Update, Answer::Code(code)) => {
                let of_row = [ResultCode::AlreadyExists, ResultCode::NotFound, ResultCode::ConditionFalse];
                if of_row.contains(&code) {
                    let known = slot.standing.floor();
                    let what =
                        format!("{call:?} of sequence {sequence}, after {known} was committed: {code}");
                    self.violation(key, &what);
                }
                Some(code.to_string())
            }
            (Call::Read | Call::ReadBack, Answer::Code(code)) => Some(code.to_string()),
        }
    }

    /// A read found this sequence and proof, or no row.
    fn found(&mut self, now: Time, place: usize, row: Option<(u64, u64)>) {
        let slot = &mut self.slots[place];
        let (key, known) = (slot.key, slot.standing.floor());
        let sequence = row.map(|(sequence, _)| sequence);
        let mangled = row.filter(|&(sequence, found)| found != proof(self.task.run, key, sequence));
        if let Some((found, _)) = mangled {
            return self.violation(key, &Violation::Mangled { found }.to_string());
        }
        if self.task.lenient && sequence.is_some_and(|sequence| sequence > slot.standing.newest()) {
            return;
        }
        if let Err(violation) = slot.standing.found(sequence) {
            // Told once; what is there now is what is expected from here on.
            slot.standing = Standing::default();
            slot.standing.committed(sequence.unwrap_or(0));
            slot.sent = slot.sent.max(sequence.unwrap_or(0));
            self.violation(key, &violation.to_string());
        } else if let Some(sequence) = sequence.filter(|&sequence| sequence > known) {
            self.note(now, Event::Seen, key, sequence);
        }
    }

    fn finish(mut self) -> Outcome {
        for slot in &mut self.slots {
            let kinds =
                [(&mut slot.writes, &mut self.outcome.writes), (&mut slot.reads, &mut self.outcome.reads)];
            for (gap, calls) in kinds {
                gap.until(self.task.end);
                if gap.last.is_some() {
                    calls.longest.push(gap.longest);
                }
            }
        }
        self.outcome
    }
}

impl Workload for Keeper {
    type Message = Task;

    fn message(&mut self, _: Time, task: Task) {
        assert!(self.work.is_none(), "a task is under way");
        self.work = Some(Work::new(task));
    }

    fn reply(&mut self, now: Time, token: u64, result: Result<&[u8], &Failure>) {
        let work = self.work.as_mut().unwrap_or_else(|| panic!("answer {token} came without a task"));
        work.reply(now, token as usize, result);
    }

    fn turn(&mut self, now: Time, _: &BTreeMap<ErrorCode, u64>) -> Turn {
        let Some(work) = &mut self.work else { return Turn::Wait };
        let old = work.lines_since + LINES_AGE <= now;
        if work.lines.len() >= LINES_BYTES || !work.lines.is_empty() && (old || work.left == 0) {
            // If nobody waits for it, the process ends.
            let _ = self.notes.send(Note::Lines(mem::take(&mut work.lines)));
        }
        if work.left == 0 {
            let work = self.work.take().expect("just seen");
            let _ = self.notes.send(Note::Done(work.finish()));
            return Turn::Wait;
        }
        let due = work.resting.first().is_some_and(|(at, _)| *at <= now);
        if due { Turn::Submit } else { Turn::Wait }
    }

    fn submit(&mut self, now: Time, submit: &mut impl FnMut(u64, OperationRef<'_>)) {
        let Some(work) = &mut self.work else { return };
        while let Some(&(at, place)) = work.resting.first()
            && at <= now
        {
            work.resting.pop_first();
            let bytes = work.next_call(now, place).to_bytes();
            let operation = OperationRef::parse(&mut Reader::new(&bytes, "operation"));
            submit(place as u64, operation.expect("it was just encoded"));
        }
    }

    fn due(&self) -> Option<Time> {
        let work = self.work.as_ref()?;
        let lines = (!work.lines.is_empty()).then(|| work.lines_since + LINES_AGE);
        let next = work.resting.first().map(|(at, _)| *at);
        let done = (work.left == 0).then_some(Time(0));
        [lines, next, done].into_iter().flatten().min()
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
