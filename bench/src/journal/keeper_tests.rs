//! A keeper against a table in memory, which can be made to lie.

use std::sync::mpsc::{Receiver, channel};

use twofold_proto::{
    error::{Error, ErrorCode},
    result::ResultHead,
};

use super::*;

const RUN: u64 = 99;

struct Fixture {
    keeper: Keeper,
    notes: Receiver<Note>,
    now: Time,
}

fn schema() -> Schema {
    Schema::new(table("t")).unwrap()
}

fn task(keys: Vec<(u64, Standing)>) -> Task {
    Task {
        schema: schema(),
        run: RUN,
        keys,
        lenient: false,
        start: Time(0),
        end: Time::from_millis(100),
        pause: Duration::from_millis(10),
        wall_clock_offset: 1_000_000,
    }
}

/// An operation as it was submitted.
#[derive(Debug)]
struct Sent {
    kind: OperationKind,
    bytes: Vec<u8>,
}

fn ok() -> Vec<u8> {
    code(ResultCode::Ok)
}

fn code(code: ResultCode) -> Vec<u8> {
    let mut bytes = Vec::new();
    ResultHead::new(code).encode(&mut bytes);
    bytes
}

fn row(sequence: u64, proof: u64) -> Vec<u8> {
    let (_, body) = encode_row(&schema(), &[7, sequence, proof].map(ValueRef::UInt)).unwrap();
    let mut bytes = Vec::new();
    ResultHead { existed: true, before: true, ..ResultHead::new(ResultCode::Ok) }.encode(&mut bytes);
    ReturnedRow::encode_whole(1, &body, &mut bytes);
    bytes
}

fn good_row(sequence: u64) -> Vec<u8> {
    row(sequence, proof(RUN, 7, sequence))
}

impl Fixture {
    /// With key 7 alone.
    fn new(standing: Standing) -> Fixture {
        let (sender, notes) = channel();
        let mut keeper = Keeper::new(sender);
        keeper.message(Time(0), task(vec![(7, standing)]));
        Fixture { keeper, notes, now: Time(0) }
    }

    /// The operation that is submitted when the next is due.
    fn sent(&mut self) -> Sent {
        self.now = self.now.max(self.keeper.due().expect("something is due"));
        let mut sent = Vec::new();
        while sent.is_empty() {
            if self.keeper.turn(self.now, &BTreeMap::new()) == Turn::Submit {
                self.keeper.submit(self.now, &mut |token, operation| {
                    assert_eq!((token, operation.key), (0, &7u64.to_be_bytes()[..]));
                    let mut bytes = Vec::new();
                    operation.encode(&mut bytes);
                    sent.push(Sent { kind: operation.kind, bytes });
                });
            } else {
                self.now = self.now.max(self.keeper.due().expect("something is due"));
            }
        }
        sent.pop().unwrap()
    }

    fn answer(&mut self, result: &[u8]) {
        self.keeper.reply(self.now, 0, Ok(result));
    }

    fn fail(&mut self, code: ErrorCode) {
        self.keeper.reply(self.now, 0, Err(&Failure::from(Error::new(code, "test"))));
    }

    /// Goes to the end, reads back this, and returns the outcome and the journal's lines.
    fn end(mut self, read_back: &[u8]) -> (Outcome, String) {
        self.now = Time::from_millis(100);
        assert_eq!(self.sent().kind, OperationKind::Read);
        self.answer(read_back);
        self.keeper.turn(self.now, &BTreeMap::new());
        let mut lines = String::new();
        loop {
            match self.notes.try_recv().expect("it is done") {
                Note::Lines(more) => lines += &more,
                Note::Done(outcome) => return (outcome, lines),
            }
        }
    }
}

#[test]
fn a_key_is_inserted_read_updated_and_read_back() {
    let mut fixture = Fixture::new(Standing::default());
    assert_eq!(fixture.sent().kind, OperationKind::Insert);
    fixture.answer(&ok());
    assert_eq!(fixture.sent().kind, OperationKind::Read);
    assert_eq!(fixture.now, Time::from_millis(10), "it rests");
    fixture.answer(&good_row(1));
    let update = fixture.sent();
    assert_eq!(update.kind, OperationKind::Update);
    let update = OperationRef::parse(&mut Reader::new(&update.bytes, "operation")).unwrap();
    let body = update.parse_body().unwrap();
    let assigned: Vec<_> =
        body.assignments.unwrap().iter().map(|assignment| assignment.unwrap().change).collect();
    assert_eq!(assigned, [2, proof(RUN, 7, 2)].map(|value| Change::Set(ValueRef::UInt(value))));
    assert_eq!(body.conditions.conditions().count(), 1);
    fixture.now = Time::from_millis(60);
    fixture.answer(&ok());
    let (outcome, lines) = fixture.end(&good_row(2));
    assert_eq!(lines, "acknowledged 7 1 1000000\nacknowledged 7 2 1060000\n");
    assert_eq!((outcome.writes.done, outcome.reads.done, outcome.read_back), (2, 1, 1));
    assert_eq!(outcome.writes.longest, [Duration::from_millis(60)]);
    assert_eq!(outcome.reads.longest, [Duration::from_millis(90)], "until the end");
    assert_eq!(outcome.violations, Vec::<String>::new());
}

#[test]
fn a_failed_write_must_not_show_and_a_pending_one_may() {
    let mut fixture = Fixture::new(Standing::default());
    fixture.sent();
    fixture.fail(ErrorCode::OutcomePending);
    fixture.sent();
    fixture.answer(&code(ResultCode::NotFound));
    assert_eq!(fixture.sent().kind, OperationKind::Insert);
    fixture.answer(&code(ResultCode::AlreadyExists));
    fixture.sent();
    fixture.answer(&good_row(1));
    assert_eq!(fixture.sent().kind, OperationKind::Update);
    fixture.fail(ErrorCode::Deadlock);
    let (outcome, lines) = fixture.end(&good_row(3));
    assert_eq!(lines, "pending 7 1 1000000\nseen 7 1 1030000\n");
    assert_eq!(outcome.violation_count, 1);
    assert!(outcome.violations[0].contains("sequence 3 is there, which is not written"), "{outcome:?}");
    assert_eq!(outcome.writes.failed.len(), 3, "{outcome:?}");
}

#[test]
fn lost_and_mangled_rows_are_told() {
    let mut committed = Standing::default();
    committed.committed(5);
    for (answer, told) in [
        (good_row(4), "sequence 5 was committed, and 4 is there"),
        (row(5, 1), "sequence 5 is there with a value that nobody wrote"),
        (code(ResultCode::NotFound), "there is no row"),
    ] {
        let (outcome, _) = Fixture::new(committed.clone()).end(&answer);
        assert_eq!(outcome.violation_count, 1);
        assert!(outcome.violations[0].contains(told), "{outcome:?}");
    }
}

#[test]
fn a_write_that_finds_itself_or_nothing_is_told() {
    let mut committed = Standing::default();
    committed.committed(5);
    for wrong in [ResultCode::ConditionFalse, ResultCode::NotFound] {
        let mut fixture = Fixture::new(committed.clone());
        assert_eq!(fixture.sent().kind, OperationKind::Update);
        fixture.answer(&code(wrong));
        let (outcome, _) = fixture.end(&good_row(5));
        assert_eq!(outcome.violation_count, 1, "{wrong:?}");
    }
}

#[test]
fn after_a_journal_that_was_cut_short_newer_rows_may_be_there() {
    let (sender, notes) = channel();
    let keeper = Keeper::new(sender);
    let mut fixture = Fixture { keeper, notes, now: Time(0) };
    fixture.keeper.message(Time(0), Task { lenient: true, ..task(vec![(7, Standing::default())]) });
    let (outcome, _) = fixture.end(&good_row(9));
    assert_eq!((outcome.violation_count, outcome.read_back), (0, 1));
}
