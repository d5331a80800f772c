//! Independent operations and scans.

use twofold_proto::{
    message::{ScanConf, ScanReq},
    operation::{ResultCode, ResultHead, ResultRef},
    result::ReturnedRow,
};

use super::*;

#[test]
fn a_read_is_its_number_and_its_operation() {
    let mut net = Net::ready(1);
    net.operate(9, read(0));
    let body = net.one(11, Kind::ReadReq);
    assert_eq!(body, [&[0, 0, 0, 0], &bytes_of(&read(0))[..]].concat());
    net.confirm(11, 0, b"result");
    assert_eq!(net.replies(), [(9, Ok(b"result".to_vec()))]);
    assert!(net.client.is_idle());
}

#[test]
fn a_read_that_locks_is_alone_a_read_that_does_not() {
    let mut net = Net::ready(1);
    net.operate(9, OperationRef { lock: LockMode::Exclusive, ..read(0) });
    let body = net.one(11, Kind::ReadReq);
    assert_eq!(body[4..], bytes_of(&read(0)));
}

#[test]
fn a_write_is_a_transaction_of_its_own() {
    let mut net = Net::ready(1);
    net.operate(1, write(1));
    net.operate(2, write(0));
    let body = net.one(12, Kind::WriteReq);
    let timestamp = WALL_CLOCK + 1_000_000;
    let mut expected = Vec::new();
    IndependentWrite { request: 0, number: 1, timestamp, commit_number: 1 }.encode(&mut expected);
    expected.extend(bytes_of(&write(1)));
    assert_eq!(body, expected);
    let second = net.one_write(11);
    assert_eq!(second, IndependentWrite { request: 1, number: 2, timestamp, commit_number: 2 });
}

#[test]
fn what_is_submitted_in_a_turn_leaves_in_one_frame_per_worker() {
    let mut net = Net::ready(1);
    net.arrived(11, 0);
    let before: Vec<usize> = [11, 12].map(|node| net.far[&net.to(worker(node))].frames).into();
    for token in 0..10 {
        net.operate(token, read(token as u16 % 4));
    }
    net.submit(10, independent(&[write(0), write(1), read(2), read(3)]));
    assert_eq!((net.arrived(11, 0).len(), net.arrived(12, 0).len()), (7, 7));
    let after: Vec<usize> = [11, 12].map(|node| net.far[&net.to(worker(node))].frames).into();
    assert_eq!(after, [before[0] + 1, before[1] + 1]);
}

#[test]
fn the_answers_of_a_frame_come_together() {
    let mut net = Net::ready(1);
    for token in 0..3 {
        net.operate(token, read(0));
    }
    net.arrived(11, 0);
    let id = net.to(worker(11));
    let far = net.far.get_mut(&id).unwrap();
    for request in [2u32, 0, 1] {
        far.link.send(Kind::OperationConf as u8, 0, |out| out.put_u32(request));
    }
    far.link.seal(Epoch(1), false);
    let bytes: Vec<u8> = far.link.unwritten().flatten().copied().collect();
    net.carry(id, &bytes);
    assert_eq!(net.effects.len(), 1);
    assert_eq!(net.replies().iter().map(|(token, _)| *token).collect::<Vec<_>>(), [2, 0, 1]);
}

#[test]
fn a_batch_is_answered_in_its_operations_order() {
    let mut net = Net::ready(1);
    net.submit(5, independent(&[read(0), read(1), write(2)]));
    assert_eq!(net.one_read(12), 1);
    net.confirm(12, 1, b"one");
    net.arrived(11, 0);
    net.refuse(11, 2, ErrorCode::TableFull);
    assert!(net.effects.is_empty());
    net.confirm(11, 0, b"zero");
    let Answer::Operations(results) = net.answer() else { panic!() };
    assert_eq!((results.get(0), results.get(1)), (Ok(&b"zero"[..]), Ok(&b"one"[..])));
    assert_eq!(results.get(2).unwrap_err().error.code, ErrorCode::TableFull);
}

#[test]
fn nothing_asked_is_answered_with_nothing() {
    let mut net = Net::ready(1);
    net.submit(5, independent(&[]));
    assert_eq!(net.answer(), Answer::Operations(Results::new(0)));
}

#[test]
fn a_moments_trouble_is_tried_again_with_another_id_and_the_same_age() {
    let mut net = Net::ready(1);
    net.operate(1, write(0));
    let first = net.one_write(11);
    net.refuse(11, first.request, ErrorCode::NotServing);
    assert!(net.effects.is_empty());
    net.pass(1);
    let second = net.one_write(11);
    assert_eq!((second.number, second.commit_number, second.timestamp), (2, 2, first.timestamp));
    net.refuse(11, second.request, ErrorCode::Deadlock);
    net.pass(2);
    let third = net.one_write(11);
    assert_eq!((third.number, third.commit_number, third.timestamp), (3, 3, first.timestamp));
    net.confirm(11, third.request, &[0, 0]);
    assert_eq!(net.replies(), [(1, Ok(vec![0, 0]))]);
    let retried = [(ErrorCode::Deadlock, 1), (ErrorCode::NotServing, 1)].into();
    assert_eq!(*net.client.retried(), retried);
    assert_eq!(net.client.session.mark(), 3);
}

#[test]
fn waits_between_attempts_double_up_to_50_ms() {
    let mut net = Net::ready(1);
    net.operate(1, read(0));
    for attempt in 0..9 {
        let request = net.one_read(11);
        net.refuse(11, request, ErrorCode::Overloaded);
        let wait = net.client.next_timeout().unwrap().since(net.now);
        let whole = Duration::from_millis(50.min(1 << attempt));
        assert!(wait >= whole / 2 && wait <= whole, "attempt {attempt}: {wait:?}");
        net.pass(50);
    }
}

#[test]
fn what_does_not_get_better_is_reported_at_once() {
    let mut net = Net::ready(1);
    for code in [ErrorCode::TableFull, ErrorCode::RowTooLarge, ErrorCode::BadValue, ErrorCode::TooMany] {
        net.operate(1, write(0));
        let request = net.one_write(11).request;
        net.refuse(11, request, code);
        assert_eq!(net.reply_code(), code);
    }
    assert!(net.client.is_idle());
}

#[test]
fn a_stale_schema_is_tried_again_only_while_it_is_the_newest_known_here() {
    let mut net = Net::ready(1);
    let catalog = |version, tables| Catalog { version, tables, next_table: 9 };
    let newest = catalog(1, vec![table("t")]);
    net.tell(Endpoint::node(NodeId(1)), Kind::CatalogOrd, |out| put_control(out, &newest));
    net.operate(1, read(0));
    for code in [ErrorCode::StaleSchema, ErrorCode::NoSuchTable] {
        let request = net.one_read(11);
        net.refuse(11, request, code);
        assert!(net.effects.is_empty());
        net.pass(50);
    }
    let request = net.one_read(11);
    let changed = catalog(2, vec![Table { version: 2, ..table("t") }]);
    net.tell(Endpoint::node(NodeId(2)), Kind::CatalogOrd, |out| put_control(out, &changed));
    net.refuse(11, request, ErrorCode::StaleSchema);
    assert_eq!(net.reply_code(), ErrorCode::StaleSchema);
}

#[test]
fn a_read_whose_worker_is_gone_is_sent_to_the_next() {
    let mut net = Net::ready(1);
    net.operate(1, read(0));
    net.one_read(11);
    net.drop_node(11);
    let request = net.one_read(12);
    net.confirm(12, request, b"found");
    assert_eq!(net.replies(), [(1, Ok(b"found".to_vec()))]);
    assert_eq!(net.client.counters().resent, 1);
}

#[test]
fn without_a_primary_operations_wait_for_a_view() {
    let mut net = Net::ready(1);
    net.see_view(Vec::new());
    net.operate(1, write(0));
    net.operate(2, read(0));
    assert!(net.effects.is_empty());
    net.see_view(vec![member(12, life(12, 1), 1)]);
    let mut kinds: Vec<Kind> = net.arrived(12, 0).into_iter().map(|(kind, _)| kind).collect();
    kinds.sort();
    assert_eq!(kinds, [Kind::ReadReq, Kind::WriteReq]);
    assert_eq!(net.client.session.open(), 1);
}

#[test]
fn before_the_config_nothing_can_be_routed() {
    let mut net = Net::new(setup());
    net.operate(1, read(0));
    assert_eq!(net.reply_code(), ErrorCode::NotServing);
    net.submit(2, independent(&[read(0)]));
    let Answer::Operations(results) = net.answer() else { panic!() };
    assert_eq!(results.get(0).unwrap_err().error.code, ErrorCode::NotServing);
}

#[test]
fn malformed_and_unsupported_requests_are_refused() {
    let mut net = Net::ready(1);
    let mut request = |operations, options| {
        net.submit(1, Request::Independent { operations, options });
        net.failure().error.code
    };
    let whole = operations(&[read(0), read(1)]);
    let fewer = Operations { count: 1, ..whole.clone() };
    assert_eq!(request(fewer, Options::default()), ErrorCode::Malformed);
    let cut = Operations { bytes: whole.bytes[..whole.bytes.len() - 1].to_vec(), count: 2 };
    assert_eq!(request(cut, Options::default()), ErrorCode::Malformed);
    let many = Operations { bytes: Vec::new(), count: u16::MAX };
    assert_eq!(request(many, Options::default()), ErrorCode::TooLarge);
    let key = [0; 4000];
    net.operate(1, operation(OperationKind::Read, 0, &key));
    assert_eq!(net.reply_code(), ErrorCode::KeyTooLarge);
}

/// A result with a row of so many bytes.
fn with_row(bytes: usize) -> Vec<u8> {
    let mut result = Vec::new();
    ResultHead { changed: true, after: true, ..ResultHead::new(ResultCode::Ok) }.encode(&mut result);
    ReturnedRow::encode_whole(1, &vec![7; bytes], &mut result);
    result
}

fn error_code(result: Result<&[u8], &Failure>) -> ErrorCode {
    result.unwrap_err().error.code
}

fn read_of(key: &[u8]) -> OperationRef<'_> {
    operation(OperationKind::Read, 0, key)
}

/// What a write is answered without its row.
fn is_without_row(result: Result<&[u8], &Failure>) -> bool {
    let result = ResultRef::parse(&mut Reader::new(result.unwrap(), "test")).unwrap();
    result.head.code == ResultCode::Ok && result.head.changed && result.after.is_none()
}

#[test]
fn the_results_of_a_batch_are_bounded() {
    let mut net = Net::ready(1);
    let (first, second) = (with_row(90), with_row(100));
    let options = Options { result_bytes: Some(first.len() + second.len() - 1), ..Options::default() };
    let operations = operations(&[read(0), read_of(b"1"), write(0), read_of(b"2")]);
    net.submit(5, Request::Independent { operations, options });
    net.arrived(11, 0);
    net.confirm(11, 0, &first);
    net.confirm(11, 1, &second);
    net.confirm(11, 2, &second);
    net.confirm(11, 3, b"small");
    let Answer::Operations(results) = net.answer() else { panic!() };
    assert_eq!(results.get(0), Ok(&first[..]));
    assert_eq!(error_code(results.get(1)), ErrorCode::TooLarge);
    assert!(is_without_row(results.get(2)));
    assert_eq!(results.get(3), Ok(&b"small"[..]));
    // That batch has gone.
    net.submit(6, independent(&[read(0)]));
    let request = net.one_read(11);
    net.confirm(11, request, &second);
    let Answer::Operations(results) = net.answer() else { panic!() };
    assert_eq!(results.get(0), Ok(&second[..]));
}

#[test]
fn a_batch_has_as_many_bytes_of_results_as_a_statement_unless_it_says() {
    let mut net = Net::ready(1);
    let keys: Vec<[u8; 1]> = (0..17).map(|number| [number]).collect();
    let reads: Vec<_> = keys.iter().map(|key| read_of(key)).collect();
    net.submit(5, independent(&reads));
    net.arrived(11, 0);
    let result = with_row(1 << 20);
    (0..17).for_each(|request| net.confirm(11, request, &result));
    let Answer::Operations(results) = net.answer() else { panic!() };
    let done = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!((done, error_code(results.get(16))), (15, ErrorCode::TooLarge));
}

/// Frontends that hold so many bytes.
#[derive(Debug)]
struct Held(usize);

impl crate::request::HandedOut for Held {
    fn bytes(&self) -> usize {
        self.0
    }
}

#[test]
fn results_that_are_not_written_yet_are_bounded() {
    let mut net = Net::ready(1);
    net.client.setup.bounds.result_bytes = 1000;
    net.client.count_handed_out(Box::new(Held(900)));
    net.submit(1, independent(&[read(0), write(0), read_of(b"1")]));
    net.submit(2, scan(0, 0));
    net.arrived(11, 0);
    net.confirm(11, 0, &with_row(80));
    // Those of a batch that is not complete count, too.
    net.client.count_handed_out(Box::new(Held(915)));
    net.confirm(11, 1, &with_row(80));
    net.confirm(11, 2, &with_row(80));
    let Answer::Operations(results) = net.answer() else { panic!() };
    assert!(results.get(0).is_ok() && is_without_row(results.get(1)));
    assert_eq!(error_code(results.get(2)), ErrorCode::Overloaded);
    net.tell(worker(11), Kind::ScanConf, |out| {
        ScanConf { request: 3, cursor: None, rows: 1 }.encode(out);
        out.put_block(&with_row(80));
    });
    assert_eq!(net.failure().error.code, ErrorCode::Overloaded);
    assert!(net.client.is_idle());
    // Nothing more begins when there is no room at all.
    net.client.count_handed_out(Box::new(Held(1000)));
    net.submit(3, scan(0, 0));
    assert_eq!(net.failure().error.code, ErrorCode::Overloaded);
    net.client.count_handed_out(Box::new(Held(0)));
    net.submit(4, scan(0, 0));
    net.one(11, Kind::ScanReq);
}

fn scan(partition: u16, cursor: u64) -> Request {
    Request::ScanStep {
        table: TableId(3),
        schema_version: 2,
        partition: PartitionId(partition),
        cursor,
        rows: 10,
        program: vec![4, 0xff, 0xff],
        deadline: None,
    }
}

#[test]
fn a_step_of_a_scan_is_sent_until_it_is_answered() {
    let mut net = Net::ready(1);
    net.submit(4, scan(2, 17));
    let body = net.one(11, Kind::ScanReq);
    let request = ScanReq::parse(&body).unwrap();
    let expected = ScanReq {
        request: 0,
        table: TableId(3),
        schema_version: 2,
        partition: PartitionId(2),
        cursor: 17,
        rows: 10,
        program: &[4, 0xff, 0xff],
    };
    assert_eq!(request, expected);
    net.refuse(11, 0, ErrorCode::NotServing);
    net.pass(1);
    net.one(11, Kind::ScanReq);
    net.drop_node(11);
    assert_eq!(net.one(12, Kind::ScanReq), body);
    net.tell(worker(12), Kind::ScanConf, |out| {
        ScanConf { request: 0, cursor: Some(99), rows: 2 }.encode(out);
        out.put_block(b"a");
        out.put_block(b"bc");
    });
    assert_eq!(net.answer(), Answer::Scan { cursor: Some(99), rows: results(&[b"a", b"bc"]) });
    assert!(net.client.is_idle());
}

#[test]
fn a_scan_of_nowhere_or_by_nonsense_is_refused() {
    let mut net = Net::ready(1);
    net.submit(4, scan(PARTITIONS, 0));
    assert_eq!(net.failure().error.code, ErrorCode::Malformed);
    let Request::ScanStep { table, schema_version, partition, cursor, rows, deadline, .. } = scan(0, 0)
    else {
        panic!()
    };
    let program = vec![64];
    net.submit(4, Request::ScanStep { table, schema_version, partition, cursor, rows, program, deadline });
    assert_eq!(net.failure().error.code, ErrorCode::Malformed);
}
