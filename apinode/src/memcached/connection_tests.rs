use std::sync::Arc;

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Epoch, Version},
    operation::{OperationKind, OperationRef, ResultCode, ResultHead, ReturnedRow},
    schema::Schema,
    value::ValueRef,
    wire::Reader,
};

use super::*;
use crate::{memcached::item, request::Failure};

const NOW: ClusterTime = ClusterTime(1_000_000);

struct Client {
    connection: Connection,
    items: Keyspace,
}

impl Client {
    fn new() -> Client {
        let schema = Arc::new(Schema::new(item::table()).unwrap());
        let items = Keyspace::new(&[], |_| Ok(&schema)).unwrap();
        Client { connection: Connection::new(), items }
    }

    fn send(&mut self, input: &str) -> Step {
        self.connection.input().extend_from_slice(input.as_bytes());
        self.step()
    }

    fn step(&mut self) -> Step {
        self.connection.step(NOW, Ok(&self.items))
    }

    /// Sends what is one batch, and tells the kinds and keys of its operations.
    fn batch(&mut self, input: &str) -> Vec<(OperationKind, String)> {
        operations(self.send(input))
    }

    fn answer(&mut self, results: &[Result<Vec<u8>, Failure>]) -> String {
        let mut all = Results::new(results.len());
        for (index, result) in results.iter().enumerate() {
            match result {
                Ok(bytes) => all.set(index, bytes),
                Err(failure) => all.fail(index, failure.clone()),
            }
        }
        self.connection.executed(&all);
        self.output()
    }

    fn output(&mut self) -> String {
        let output = String::from_utf8(self.connection.output().to_vec()).unwrap();
        self.connection.sent(output.len());
        output
    }
}

fn operations(step: Step) -> Vec<(OperationKind, String)> {
    let Step::Execute(operations) = step else { panic!("{step:?}") };
    let mut reader = Reader::new(&operations.bytes, "operations");
    let mut all = Vec::new();
    while !reader.is_empty() {
        let operation = OperationRef::parse(&mut reader).unwrap();
        operation.parse_body().unwrap();
        all.push((operation.kind, String::from_utf8(operation.key.to_vec()).unwrap()));
    }
    assert_eq!(all.len(), usize::from(operations.count));
    all
}

fn code(code: ResultCode) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    ResultHead { existed: code != ResultCode::NotFound, ..ResultHead::new(code) }.encode(&mut out);
    Ok(out)
}

fn values(before: bool, values: &[ValueRef<'_>]) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let version = Some(Version { epoch: Epoch::new(3, 5), number: 7 });
    ResultHead { existed: true, version, before, after: !before, ..ResultHead::new(ResultCode::Ok) }
        .encode(&mut out);
    let put: Result<(), ()> = ReturnedRow::encode_values(&mut out, |out| {
        values.iter().for_each(|value| value.encode(out));
        Ok(())
    });
    put.unwrap();
    Ok(out)
}

/// An item with its mark, as `gets` asks for it.
fn marked(flags: u64, value: &str) -> Result<Vec<u8>, Failure> {
    values(true, &[ValueRef::UInt(flags), ValueRef::Null, ValueRef::from(value.as_bytes())])
}

fn hit(flags: u64, value: &str) -> Result<Vec<u8>, Failure> {
    values(true, &[ValueRef::UInt(flags), ValueRef::from(value.as_bytes())])
}

/// An item with a mark and a version, as meta commands ask for it.
fn seen(number: u64, value: &str, mark: &[u8]) -> Result<Vec<u8>, Failure> {
    seen_as(ResultCode::Ok, number, value, mark)
}

fn seen_as(code: ResultCode, number: u64, value: &str, mark: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let version = Some(Version { epoch: Epoch::new(3, 5), number });
    ResultHead { existed: true, version, before: true, ..ResultHead::new(code) }.encode(&mut out);
    let mark = if mark.is_empty() { ValueRef::Null } else { ValueRef::from(mark) };
    let put: Result<(), ()> = ReturnedRow::encode_values(&mut out, |out| {
        [ValueRef::UInt(0), mark, ValueRef::from(value.as_bytes())]
            .iter()
            .for_each(|value| value.encode(out));
        Ok(())
    });
    put.unwrap();
    Ok(out)
}

fn failure(code: ErrorCode) -> Result<Vec<u8>, Failure> {
    Err(Failure::from(Error::new(code, "out\nof order")))
}

use OperationKind::{Delete, Insert, Read, Update, Write};

fn on(kind: OperationKind, key: &str) -> (OperationKind, String) {
    (kind, key.to_string())
}

#[test]
fn commands_that_are_there_run_together_and_are_answered_in_order() {
    let mut client = Client::new();
    let batch =
        client.batch("get a b\r\nset c 1 0 1\r\nx\r\nversion\r\ngets a\r\nadd d 0 0 1 noreply\r\ny\r\n");
    assert_eq!(batch, [on(Read, "a"), on(Read, "b"), on(Write, "c"), on(Read, "a"), on(Insert, "d")]);
    let answer = client.answer(&[
        hit(9, "va"),
        code(ResultCode::NotFound),
        code(ResultCode::Ok),
        marked(9, "va"),
        code(ResultCode::Ok),
    ]);
    // 5 << 20 | 7
    let expected = "VALUE a 9 2\r\nva\r\nEND\r\nSTORED\r\nVERSION 1.6.18-twofold-0.1.0\r\nVALUE a 9 2 5242887\r\nva\r\nEND\r\n";
    assert_eq!(answer, expected);
    assert_eq!(client.step(), Step::Read);
}

#[test]
fn a_command_waits_for_one_that_writes_its_key() {
    let mut client = Client::new();
    assert_eq!(client.batch("get a\r\nset a 0 0 1\r\nx\r\nget b a c\r\n"), [on(Read, "a")]);
    client.answer(&[code(ResultCode::NotFound)]);
    assert_eq!(operations(client.step()), [on(Write, "a"), on(Read, "b")]);
    let answer = client.answer(&[code(ResultCode::Ok), hit(0, "b")]);
    assert_eq!(answer, "STORED\r\nVALUE b 0 1\r\nb\r\n");
    assert_eq!(operations(client.step()), [on(Read, "a"), on(Read, "c")]);
    let answer = client.answer(&[hit(0, "x"), code(ResultCode::NotFound)]);
    assert_eq!(answer, "VALUE a 0 1\r\nx\r\nEND\r\n");
}

#[test]
fn a_get_that_fails_says_only_that() {
    let mut client = Client::new();
    client.batch("version\r\nget a b c\r\nget d\r\n");
    let answer = client.answer(&[hit(0, "x"), failure(ErrorCode::Overloaded), hit(0, "y"), hit(0, "z")]);
    let error = "SERVER_ERROR TF-3003: out of order; try again more slowly\r\n";
    assert_eq!(answer, format!("VERSION 1.6.18-twofold-0.1.0\r\n{error}VALUE d 0 1\r\nz\r\nEND\r\n"));
    // What was sent cannot be taken back; the get ends with the error all the same.
    let keys: Vec<String> = (0..129).map(|n| format!("k{n}")).collect();
    assert_eq!(client.batch(&format!("get {}\r\n", keys.join(" "))).len(), 128);
    let mut results = vec![code(ResultCode::NotFound); 128];
    results[5] = hit(0, "v");
    assert_eq!(client.answer(&results), "VALUE k5 0 1\r\nv\r\n");
    assert_eq!(operations(client.step()), [on(Read, "k128")]);
    assert_eq!(client.answer(&[failure(ErrorCode::Overloaded)]), error);
}

#[test]
fn gats_reads_again_to_tell_the_new_unique() {
    let mut client = Client::new();
    assert_eq!(client.batch("gats 10 a b\r\n"), [on(Update, "a"), on(Update, "b")]);
    assert_eq!(client.answer(&[code(ResultCode::Ok), code(ResultCode::NotFound)]), "");
    assert_eq!(operations(client.step()), [on(Read, "a"), on(Read, "b")]);
    let answer = client.answer(&[marked(2, "x"), code(ResultCode::NotFound)]);
    assert_eq!(answer, "VALUE a 2 1 5242887\r\nx\r\nEND\r\n");
    assert_eq!(client.batch("gats -1 a\r\ngat 0 b b\r\n"), [on(Update, "a"), on(Update, "b")]);
    assert_eq!(
        client.answer(&[marked(2, "x"), hit(3, "y")]),
        "VALUE a 2 1 5242887\r\nx\r\nEND\r\nVALUE b 3 1\r\ny\r\n"
    );
    assert_eq!(operations(client.step()), [on(Update, "b")]);
    assert_eq!(client.answer(&[hit(3, "y")]), "VALUE b 3 1\r\ny\r\nEND\r\n");
}

#[test]
fn results_become_memcacheds_answers() {
    use ResultCode::*;
    let cases = [
        ("set k 0 0 1\r\nx\r\n", code(Ok), "STORED\r\n"),
        (
            "set k 0 0 1\r\nx\r\n",
            failure(ErrorCode::TableFull),
            "SERVER_ERROR out of memory storing object\r\n",
        ),
        ("set k 0 0 1 noreply\r\nx\r\n", failure(ErrorCode::TableFull), ""),
        (
            "set k 0 0 1\r\nx\r\n",
            failure(ErrorCode::Timeout),
            "SERVER_ERROR TF-3005: out of order; try again\r\n",
        ),
        ("add k 0 0 1\r\nx\r\n", code(AlreadyExists), "NOT_STORED\r\n"),
        ("replace k 0 0 1\r\nx\r\n", code(NotFound), "NOT_STORED\r\n"),
        ("append k 0 0 1\r\nx\r\n", code(NotFound), "NOT_STORED\r\n"),
        ("append k 0 0 1\r\nx\r\n", code(ValueTooLong), "NOT_STORED\r\n"),
        ("cas k 0 0 1 5\r\nx\r\n", code(Ok), "STORED\r\n"),
        ("cas k 0 0 1 5\r\nx\r\n", code(NotFound), "NOT_FOUND\r\n"),
        ("cas k 0 0 1 5\r\nx\r\n", code(ConditionFalse), "EXISTS\r\n"),
        ("delete k\r\n", code(Ok), "DELETED\r\n"),
        ("delete k\r\n", code(NotFound), "NOT_FOUND\r\n"),
        ("delete k noreply\r\n", code(NotFound), ""),
        ("touch k 1\r\n", code(Ok), "TOUCHED\r\n"),
        ("touch k 1\r\n", code(NotFound), "NOT_FOUND\r\n"),
        ("incr k 1\r\n", values(false, &[ValueRef::from(&b"43  "[..])]), "43\r\n"),
        ("decr k 1\r\n", code(NotFound), "NOT_FOUND\r\n"),
        (
            "decr k 1\r\n",
            code(NotANumber),
            "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
        ),
        ("incr k 1\r\n", code(Ok), "SERVER_ERROR the operation is malformed\r\n"),
        (
            "get k\r\n",
            Result::Ok(vec![99]),
            "SERVER_ERROR TF-1001: malformed result: unknown code; correct the request\r\n",
        ),
    ];
    for (input, result, expected) in cases {
        let mut client = Client::new();
        assert_eq!(client.batch(input).len(), 1);
        assert_eq!(client.answer(&[result]), expected, "to {input:?}");
    }
}

#[test]
fn a_set_that_is_too_large_leaves_nothing() {
    let mut client = Client::new();
    assert_eq!(client.batch("set a 0 0 1048577\r\n"), [on(Delete, "a")]);
    assert_eq!(client.answer(&[code(ResultCode::NotFound)]), "SERVER_ERROR object too large for cache\r\n");
    let skipped = "x".repeat(1_048_577) + "\r\nadd a 0 0 9999999 noreply\r\n";
    assert_eq!((client.send(&skipped), client.output()), (Step::Read, String::new()));
    assert_eq!(client.connection.take_counters().store_too_large, 2);
}

#[test]
fn what_the_server_does_waits_for_what_was_said_before() {
    let mut client = Client::new();
    assert_eq!(
        client.batch("get a\r\nflush_all 2\r\nstats items\r\nflush_all noreply\r\nquit\r\nget b\r\n").len(),
        1
    );
    client.answer(&[code(ResultCode::NotFound)]);
    assert_eq!(client.step(), Step::FlushAll { at: ClusterTime(NOW.0 + 2000) });
    client.connection.said(Ok("OK"));
    assert_eq!(client.step(), Step::Stats { kind: b"items".to_vec() });
    client.connection.stats([("items:1:number", 4)]);
    assert_eq!(client.step(), Step::FlushAll { at: ClusterTime(0) });
    client.connection.said(Err(&Error::new(ErrorCode::Timeout, "not said")));
    assert_eq!(client.step(), Step::Close);
    assert_eq!(client.output(), "OK\r\nSTAT items:1:number 4\r\nEND\r\n");
    assert_eq!(client.step(), Step::Close);
}

#[test]
fn without_its_table_it_says_why_and_ends() {
    let mut connection = Connection::new();
    connection.input().extend_from_slice(b"get a\r\n");
    let error = Error::new(ErrorCode::NoSuchTable, "there is no table `memcached`");
    assert_eq!(connection.step(NOW, Err(&error)), Step::Close);
    assert!(connection.output().starts_with(b"SERVER_ERROR TF-1002: there is no table `memcached`"));
}

#[test]
fn batches_are_smaller_after_large_results() {
    let mut client = Client::new();
    let keys: Vec<String> = (0..300).map(|n| format!("k{n}")).collect();
    let mut sizes = vec![client.batch(&format!("get {}\r\n", keys.join(" "))).len()];
    let large = "x".repeat(1 << 16);
    loop {
        let results = vec![hit(0, &large); *sizes.last().unwrap()];
        client.answer(&results);
        match client.step() {
            Step::Read => break,
            step => sizes.push(operations(step).len()),
        }
    }
    assert_eq!(sizes, [128, 64, 32, 64, 12]);
}

#[test]
fn input_is_given_back() {
    let mut client = Client::new();
    for _ in 0..10 {
        client.batch(&format!("set a 0 0 1000000\r\n{}\r\n", "x".repeat(1_000_000)));
        client.answer(&[code(ResultCode::Ok)]);
        assert_eq!(client.step(), Step::Read);
    }
    assert_eq!(client.connection.input().capacity(), 0);
}

const STALE: &[u8] = &[1];

#[test]
fn who_wins_is_told_once_it_is_certain_and_later_answers_wait() {
    let mut client = Client::new();
    assert_eq!(
        client.batch("get x\r\nmg a v c\r\nmg b v\r\nget y\r\nversion\r\n"),
        [on(Read, "x"), on(Read, "a"), on(Read, "b"), on(Read, "y")]
    );
    let stale = [code(ResultCode::NotFound), seen(1, "va", STALE), seen(2, "vb", STALE), hit(0, "vy")];
    assert_eq!(client.answer(&stale), "END\r\n");
    assert_eq!(operations(client.step()), [on(Update, "a"), on(Update, "b")]);
    // Of a another client was told, so it is read again. b is certain, but comes later.
    assert_eq!(client.answer(&[code(ResultCode::ConditionFalse), code(ResultCode::Ok)]), "");
    assert_eq!(operations(client.step()), [on(Read, "a")]);
    let version = "VERSION 1.6.18-twofold-0.1.0";
    let later = format!("VA 2 X W\r\nvb\r\nVALUE y 0 2\r\nvy\r\nEND\r\n{version}\r\n");
    assert_eq!(client.answer(&[seen(9, "other", &[3])]), format!("VA 5 c5242889 Z X\r\nother\r\n{later}"));
    assert_eq!(client.step(), Step::Read);
}

#[test]
fn commands_on_a_key_whose_winner_is_not_certain_wait() {
    let mut client = Client::new();
    assert_eq!(client.batch("mg a\r\nmg a\r\nmd a\r\nget b\r\n"), [on(Read, "a"), on(Read, "a")]);
    assert_eq!(client.answer(&[seen(1, "", STALE), seen(1, "", STALE)]), "");
    assert_eq!(operations(client.step()), [on(Update, "a")]);
    assert_eq!(client.answer(&[code(ResultCode::Ok)]), "HD X W\r\n");
    assert_eq!(operations(client.step()), [on(Update, "a")]);
    assert_eq!(client.answer(&[code(ResultCode::ConditionFalse)]), "");
    assert_eq!(operations(client.step()), [on(Read, "a")]);
    assert_eq!(client.answer(&[seen(2, "", &[3])]), "HD Z X\r\n");
    assert_eq!(operations(client.step()), [on(Delete, "a"), on(Read, "b")]);
    // One with R may have to write, so what comes behind it waits at once.
    let mut client = Client::new();
    assert_eq!(client.batch("mg a R9\r\nmg a\r\n"), [on(Read, "a")]);
}

#[test]
fn what_others_change_meanwhile_is_seen() {
    let mut client = Client::new();
    // Between not finding the item and making it someone else makes one, which goes again.
    assert_eq!(client.batch("ma a N0 J5 v\r\n"), [on(Update, "a")]);
    for _ in 0..2 {
        client.answer(&[code(ResultCode::NotFound)]);
        assert_eq!(operations(client.step()), [on(Insert, "a")]);
        client.answer(&[code(ResultCode::AlreadyExists)]);
        assert_eq!(operations(client.step()), [on(Update, "a")]);
    }
    assert_eq!(
        client.answer(&[failure(ErrorCode::Overloaded)]),
        "SERVER_ERROR TF-3003: out of order; try again more slowly\r\n"
    );
    // What was stored is gone, or is another, when its «cas unique» is asked for.
    for (found, told) in [
        (seen(7, "x", &[]), "HD c5242887\r\n"),
        (seen(7, "y", &[]), "HD c0\r\n"),
        (seen(7, "x", STALE), "HD c0\r\n"),
        (code(ResultCode::NotFound), "HD c0\r\n"),
    ] {
        assert_eq!(client.batch("ms a 1 c\r\nx\r\n"), [on(Write, "a")]);
        client.answer(&[code(ResultCode::Ok)]);
        assert_eq!(operations(client.step()), [on(Read, "a")]);
        assert_eq!(client.answer(&[found]), told);
    }
    // An older «cas unique»: the item that is newer is newer still when it is to be replaced.
    assert_eq!(client.batch("ms a 1 C5242881 I\r\nx\r\n"), [on(Update, "a")]);
    client.answer(&[seen_as(ResultCode::ConditionFalse, 7, "", &[])]);
    assert_eq!(operations(client.step()), [on(Update, "a")]);
    client.answer(&[code(ResultCode::ConditionFalse)]);
    assert_eq!(operations(client.step()), [on(Update, "a")]);
    assert_eq!(client.answer(&[seen_as(ResultCode::ConditionFalse, 0, "", &[])]), "EX\r\n");
}

#[test]
fn a_command_does_not_go_on_for_ever() {
    let mut client = Client::new();
    client.batch("ma a N0\r\n");
    let mut answer = client.answer(&[code(ResultCode::NotFound)]);
    for result in [ResultCode::AlreadyExists, ResultCode::NotFound].iter().cycle().take(200) {
        let Step::Execute(_) = client.step() else { break };
        answer = client.answer(&[code(*result)]);
    }
    assert_eq!(answer, "SERVER_ERROR others change the item all the time; try again\r\n");
    assert_eq!(client.step(), Step::Read);
}

#[test]
fn a_table_without_marks_does_without_what_needs_them() {
    let mut table = item::table();
    table.columns.pop();
    let schema = Arc::new(Schema::new(table).unwrap());
    let items = Keyspace::new(&[], |_| Ok(&schema)).unwrap();
    let mut client = Client { connection: Connection::new(), items };
    assert_eq!(client.batch("mg a v c\r\nmd b I\r\nms c 1 E1 q\r\nx\r\n"), [on(Read, "a")]);
    let refused = "SERVER_ERROR table `memcached` has no marks, which N and R of mg, I and E need\r\n";
    let found = values(true, &[ValueRef::UInt(0), ValueRef::from(&b"x"[..])]);
    assert_eq!(client.answer(&[found]), format!("VA 1 c5242887\r\nx\r\n{refused}{refused}"));
}
