//! Transactions in one request, and interactive ones.

use twofold_proto::message::{
    BEGIN, COMMIT, Outcome, ROLLBACK, SERIALIZABLE, Status, StatusConf, TransactionConf, TransactionRef,
    TransactionState, UNDO,
};

use super::*;
use crate::request::{Begin, End, Isolation, Statement};

fn transaction(list: &[OperationRef<'_>]) -> Request {
    let options = Options::default();
    Request::Transaction { operations: operations(list), isolation: Isolation::ReadCommitted, options }
}

fn statement(number: u32, list: &[OperationRef<'_>], end: End) -> Statement {
    let begin = (number == 1).then(Begin::default);
    Statement { handle: 50, begin, number, operations: operations(list), end, ..Statement::default() }
}

fn conf(net: &mut Net, node: u16, request: u32, state: TransactionState, list: &[&[u8]]) {
    let conf = TransactionConf { request, state, epoch: Epoch(7), results: list.len() as u16 };
    net.tell(worker(node), Kind::TransactionConf, |out| {
        conf.encode(out);
        list.iter().for_each(|result| out.put_block(result));
    });
}

fn refuse(net: &mut Net, node: u16, request: u32, state: TransactionState, code: ErrorCode) {
    let refusal = TransactionRef { request, state, operation: Some(1), error: Error::new(code, "so") };
    net.tell(worker(node), Kind::TransactionRef, |out| put_control(out, &refusal));
}

fn status(net: &mut Net, node: u16, request: u32, status: Status) {
    net.tell(worker(node), Kind::StatusConf, |out| put_control(out, &StatusConf { request, status }));
}

use TransactionState::{Aborted, Committed, Open};

/// An interactive transaction that has written to partition 0 in statement 1; its TC is on node 11.
fn open() -> Net {
    let mut net = Net::ready(1);
    net.submit(1, Request::Statement(statement(1, &[write(0)], End::Stay)));
    let sent = net.one_statement(11);
    assert_eq!((sent.flags, sent.statement, sent.commit_number), (BEGIN, 1, 0));
    conf(&mut net, 11, sent.request, Open, &[b"one"]);
    let Answer::Statement { state: Open, token: None, timestamp, results: got, .. } = net.answer() else {
        panic!()
    };
    assert_eq!((timestamp, got), (sent.timestamp, results(&[b"one"])));
    net
}

#[test]
fn a_transaction_in_one_request_goes_to_its_first_operations_primary() {
    let mut net = Net::ready(1);
    net.submit(3, transaction(&[read(1), write(2)]));
    let body = net.one(12, Kind::TransactionReq);
    let mut expected = Vec::new();
    TransactionReq {
        request: 0,
        flags: BEGIN | COMMIT,
        number: 1,
        timestamp: WALL_CLOCK + 1_000_000,
        commit_number: 1,
        statement: 1,
        operations: 2,
    }
    .encode(&mut expected);
    expected.extend(operations(&[read(1), write(2)]).bytes);
    assert_eq!(body, expected);
    conf(&mut net, 12, 0, Committed, &[b"a", b"b"]);
    let Answer::Statement { state: Committed, epoch, token: Some(token), results: got, .. } = net.answer()
    else {
        panic!()
    };
    assert_eq!((epoch, got), (Epoch(7), results(&[b"a", b"b"])));
    // What it has locked may be asked about, not where it only read.
    assert_eq!((token.partition, token.coordinator.endpoint), (PartitionId(2), worker(12)));
    assert_eq!(net.client.session.mark(), 1);
}

#[test]
fn a_hint_and_the_isolation_count() {
    let mut net = Net::ready(1);
    let options = Options { hint: Some(hash(3)), ..Options::default() };
    let operations = operations(&[write(0)]);
    net.submit(1, Request::Transaction { operations, isolation: Isolation::Serializable, options });
    assert_eq!(net.one_statement(12).flags, BEGIN | COMMIT | SERIALIZABLE);
}

#[test]
fn an_empty_transaction_is_committed() {
    let mut net = Net::ready(1);
    net.submit(1, transaction(&[]));
    assert!(matches!(net.answer(), Answer::Statement { state: Committed, token: None, .. }));
}

#[test]
fn a_whole_transaction_is_tried_again_by_the_client() {
    let mut net = Net::ready(1);
    net.submit(3, transaction(&[write(0), write(1)]));
    let first = net.one_statement(11);
    refuse(&mut net, 11, first.request, Aborted, ErrorCode::Deadlock);
    net.pass(1);
    let second = net.one_statement(11);
    assert_eq!((second.number, second.commit_number, second.timestamp), (2, 2, first.timestamp));
    refuse(&mut net, 11, second.request, Aborted, ErrorCode::DuplicateKey);
    let failure = net.failure();
    assert_eq!((failure.error.code, failure.operation), (ErrorCode::DuplicateKey, Some(1)));
    assert_eq!((failure.state, failure.timestamp), (Aborted, first.timestamp));
    assert_eq!(net.client.session.mark(), 2);
}

#[test]
fn a_lost_transaction_that_wrote_nothing_is_simply_made_again() {
    let mut net = Net::ready(1);
    let reads = [OperationRef { lock: LockMode::Shared, ..read(0) }, read(1)];
    net.submit(3, transaction(&reads));
    net.one_statement(11);
    net.drop_node(11);
    net.pass(1);
    assert_eq!(net.one_statement(12).number, 2);
    assert_eq!(net.client.counters().asked, 0);
}

#[test]
fn a_lost_transaction_that_is_committed_has_lost_what_it_read() {
    let mut net = Net::ready(1);
    net.submit(3, transaction(&[read(0), operation(OperationKind::Delete, 1, b"k")]));
    net.one_statement(11);
    net.drop_node(11);
    let question = net.one_question(12);
    assert_eq!(question.partition, PartitionId(1));
    status(&mut net, 12, question.request, Status::Decided(Outcome::Committed(Epoch(9))));
    let Answer::Statement { state: Committed, epoch: Epoch(9), token: Some(_), results, .. } = net.answer()
    else {
        panic!()
    };
    assert_eq!(results.get(0).unwrap_err().error.code, ErrorCode::Timeout);
    assert_eq!(results.get(1), Ok(&[0, 3][..]), "done; there was a row, and it changed");
}

#[test]
fn statements_go_to_the_tc_one_at_a_time_and_are_answered_in_order() {
    let mut net = open();
    let commit = statement(3, &[], End::Commit);
    net.submit(2, Request::Statement(statement(2, &[write(1)], End::Stay)));
    net.submit(3, Request::Statement(commit));
    let second = net.one_statement(11);
    assert_eq!((second.flags, second.number, second.statement), (0, 1, 2));
    conf(&mut net, 11, second.request, Open, &[b"two"]);
    let third = net.one_statement(11);
    assert_eq!((third.flags, third.number, third.commit_number, third.operations), (COMMIT, 1, 1, 0));
    conf(&mut net, 11, third.request, Committed, &[]);
    let answers = net.answers();
    let [(2, Answer::Statement { state: Open, .. }), (3, Answer::Statement { state: Committed, token, .. })] =
        &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!(token.unwrap().partition, PartitionId(0));
    assert!(net.client.is_idle());
    // The handle is free.
    net.submit(4, Request::Statement(statement(1, &[write(0)], End::Stay)));
    assert_eq!(net.one_statement(11).number, 2);
}

#[test]
fn a_begin_alone_costs_no_message() {
    let mut net = Net::ready(1);
    let begin = Begin { isolation: Isolation::Serializable, timestamp: Some(WALL_CLOCK - 123) };
    net.submit(1, Request::Statement(Statement { begin: Some(begin), ..statement(1, &[], End::Stay) }));
    assert!(
        matches!(net.answer(), Answer::Statement { state: Open, timestamp, .. } if timestamp == WALL_CLOCK - 123)
    );
    net.submit(2, Request::Statement(Statement { begin: None, ..statement(2, &[read(1)], End::Stay) }));
    let sent = net.one_statement(12);
    assert_eq!((sent.flags, sent.timestamp, sent.statement), (BEGIN | SERIALIZABLE, WALL_CLOCK - 123, 2));
    for (end, expected) in [(End::Commit, Committed), (End::Rollback, Aborted)] {
        let handle = 51;
        net.submit(3, Request::Statement(Statement { handle, ..statement(1, &[], End::Stay) }));
        net.submit(4, Request::Statement(Statement { handle, begin: None, ..statement(2, &[], end) }));
        let answers = net.answers();
        assert!(
            matches!(answers[1], (4, Answer::Statement { state, .. }) if state == expected),
            "{answers:?}"
        );
    }
    assert_eq!(net.arrived(11, 0), []);
}

#[test]
fn a_first_statement_is_tried_again_and_later_ones_are_not() {
    let mut net = Net::ready(1);
    net.submit(1, Request::Statement(statement(1, &[write(0)], End::Stay)));
    let first = net.one_statement(11);
    refuse(&mut net, 11, first.request, Aborted, ErrorCode::NotServing);
    net.pass(1);
    let again = net.one_statement(11);
    assert_eq!((again.flags, again.number, again.timestamp), (BEGIN, 2, first.timestamp));
    conf(&mut net, 11, again.request, Open, &[b""]);
    net.effects.clear();
    net.submit(2, Request::Statement(statement(2, &[write(0)], End::Stay)));
    net.submit(3, Request::Statement(statement(3, &[write(0)], End::Stay)));
    net.submit(4, Request::Statement(statement(4, &[], End::Rollback)));
    let second = net.one_statement(11);
    assert_eq!(second.number, 2);
    refuse(&mut net, 11, second.request, Aborted, ErrorCode::Deadlock);
    let answers = net.answers();
    let [
        (2, Answer::Failed(failed)),
        (3, Answer::Failed(behind)),
        (4, Answer::Statement { state: Aborted, .. }),
    ] = &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!(
        (failed.error.code, failed.state, failed.timestamp),
        (ErrorCode::Deadlock, Aborted, first.timestamp)
    );
    assert_eq!(behind.error.code, ErrorCode::NoSuchTransaction);
    assert!(net.client.is_idle());
}

#[test]
fn a_failed_statement_leaves_the_transaction_open() {
    let mut net = open();
    let both = Statement { undo: true, ..statement(2, &[write(1)], End::Commit) };
    net.submit(2, Request::Statement(both));
    let sent = net.one_statement(11);
    assert_eq!((sent.flags, sent.statement, sent.commit_number), (UNDO | COMMIT, 2, 1));
    refuse(&mut net, 11, sent.request, Open, ErrorCode::DuplicateKey);
    let failure = net.failure();
    assert_eq!((failure.error.code, failure.state), (ErrorCode::DuplicateKey, Open));
    assert_eq!(net.client.session.mark(), 1, "that commit has its answer");
    net.submit(3, Request::Statement(statement(3, &[], End::Commit)));
    assert_eq!(net.one_statement(11).commit_number, 2);
}

#[test]
fn a_rollback_asks_the_tc_and_needs_none() {
    let mut net = open();
    net.submit(2, Request::Statement(statement(2, &[write(1)], End::Rollback)));
    let sent = net.one_statement(11);
    assert_eq!((sent.flags, sent.operations), (ROLLBACK, 0));
    conf(&mut net, 11, sent.request, Aborted, &[]);
    assert!(matches!(net.answer(), Answer::Statement { state: Aborted, .. }));
    for early in [true, false] {
        let mut net = open();
        if early {
            net.drop_node(11);
        }
        net.submit(2, Request::Statement(statement(2, &[], End::Rollback)));
        if !early {
            net.drop_node(11);
        }
        assert!(matches!(net.answer(), Answer::Statement { state: Aborted, .. }));
        assert!(net.client.is_idle());
    }
}

#[test]
fn without_its_tc_an_open_transaction_is_aborted() {
    for early in [true, false] {
        let mut net = open();
        if early {
            net.drop_node(11);
        }
        net.submit(2, Request::Statement(statement(2, &[write(1)], End::Stay)));
        if !early {
            net.drop_node(11);
        }
        let failure = net.failure();
        assert_eq!((failure.error.code, failure.state), (ErrorCode::PrimaryChanged, Aborted));
        net.submit(3, Request::Statement(statement(3, &[], End::Commit)));
        assert_eq!(net.failure().error.code, ErrorCode::NoSuchTransaction);
    }
}

#[test]
fn a_lost_commit_is_asked_for_and_not_made_again() {
    for outcome in [Outcome::Committed(Epoch(9)), Outcome::Aborted] {
        let mut net = open();
        net.submit(2, Request::Statement(statement(2, &[], End::Commit)));
        net.one_statement(11);
        net.drop_node(11);
        let question = net.one_question(12);
        assert_eq!((question.partition, question.commit_number), (PartitionId(0), 1));
        status(&mut net, 12, question.request, Status::Decided(outcome));
        match net.answer() {
            Answer::Statement { state: Committed, epoch, .. } => {
                assert_eq!(outcome, Outcome::Committed(epoch))
            }
            Answer::Failed(failure) => {
                assert_eq!((failure.error.code, failure.token), (ErrorCode::PrimaryChanged, None));
                assert_eq!(outcome, Outcome::Aborted);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((net.client.is_idle(), net.client.session.mark()), (true, 1));
    }
}

#[test]
fn what_a_statement_has_locked_that_was_undone_is_asked_for_the_outcome() {
    let mut net = Net::ready(1);
    // The TC is on node 11, as is partition 0, which is only read.
    net.submit(1, Request::Statement(statement(1, &[read(0), write(1)], End::Stay)));
    let sent = net.one_statement(11);
    refuse(&mut net, 11, sent.request, Open, ErrorCode::DuplicateKey);
    assert!(matches!(net.answer(), Answer::Failed(failure) if failure.state == Open));
    net.submit(2, Request::Statement(statement(2, &[read(0)], End::Commit)));
    let sent = net.one_statement(11);
    conf(&mut net, 11, sent.request, Committed, &[b"one"]);
    let Answer::Statement { state: Committed, token, .. } = net.answer() else { panic!() };
    assert_eq!(token.unwrap().partition, PartitionId(1));
}

#[test]
fn a_statement_that_takes_too_long_is_rolled_back_when_the_tc_is_free() {
    let mut net = open();
    net.submit(2, Request::Statement(statement(2, &[write(1)], End::Stay)));
    let sent = net.one_statement(11);
    net.submit(3, Request::Statement(statement(3, &[], End::Commit)));
    net.pass(5_000);
    let answers = net.answers();
    let [(2, Answer::Failed(late)), (3, Answer::Failed(behind))] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!((late.error.code, late.state), (ErrorCode::Timeout, Aborted));
    assert_eq!(behind.error.code, ErrorCode::NoSuchTransaction);
    assert_eq!(net.one(11, Kind::CancelOrd), sent.number.to_le_bytes());
    // It had been answered before that was heard.
    conf(&mut net, 11, sent.request, Open, &[b""]);
    let rollback = net.one_statement(11);
    assert_eq!((rollback.flags, rollback.number), (ROLLBACK, sent.number));
    conf(&mut net, 11, rollback.request, Aborted, &[]);
    assert!(net.client.is_idle());
}

#[test]
fn a_transaction_that_nobody_waits_for_ends_at_once() {
    // Between statements: it is rolled back.
    let mut net = open();
    net.step(Input::Abandon { handle: 50 });
    let rollback = net.one_statement(11);
    assert_eq!(rollback.flags, ROLLBACK);
    conf(&mut net, 11, rollback.request, Aborted, &[]);
    assert!(net.client.is_idle());
    // In a statement, with another behind it: its TC is told, and both are answered.
    let mut net = open();
    net.submit(2, Request::Statement(statement(2, &[write(1)], End::Stay)));
    net.submit(3, Request::Statement(statement(3, &[], End::Commit)));
    let sent = net.one_statement(11);
    net.step(Input::Abandon { handle: 50 });
    assert_eq!(net.one(11, Kind::CancelOrd), sent.number.to_le_bytes());
    let told: Vec<_> = net.answers().iter().map(|(token, answer)| (*token, code_and_state(answer))).collect();
    let ended = (ErrorCode::NoSuchTransaction, Aborted);
    assert_eq!(told, [(2, ended), (3, ended)]);
    refuse(&mut net, 11, sent.request, Aborted, ErrorCode::Timeout);
    assert_eq!((net.arrived(11, 0), net.client.is_idle()), (vec![], true));
    // In a commit: what becomes of it can be learned.
    let mut net = open();
    net.submit(2, Request::Statement(statement(2, &[write(1)], End::Commit)));
    let sent = net.one_statement(11);
    net.step(Input::Abandon { handle: 50 });
    net.one(11, Kind::CancelOrd);
    let failure = net.failure();
    conf(&mut net, 11, sent.request, Committed, &[b""]);
    net.submit(3, Request::Status(failure.token.unwrap()));
    assert_eq!(net.answer(), Answer::Status(Status::Decided(Outcome::Committed(Epoch(7)))));
    // One that is no more.
    net.step(Input::Abandon { handle: 50 });
    assert_eq!((net.arrived(11, 0), net.client.is_idle()), (vec![], true));
}

#[test]
fn a_late_failure_of_a_statement_alone_is_rolled_back_too() {
    let mut net = open();
    net.submit(2, Request::Statement(statement(2, &[write(1)], End::Commit)));
    let sent = net.one_statement(11);
    net.pass(5_020);
    assert_eq!(net.failure().error.code, ErrorCode::OutcomePending);
    net.one(11, Kind::CancelOrd);
    refuse(&mut net, 11, sent.request, Open, ErrorCode::DuplicateKey);
    let rollback = net.one_statement(11);
    assert_eq!((rollback.flags, rollback.number), (ROLLBACK, sent.number));
    refuse(&mut net, 11, rollback.request, Aborted, ErrorCode::NoSuchTransaction);
    assert_eq!((net.client.is_idle(), net.client.session.mark()), (true, 1));
}

#[test]
fn a_commit_that_takes_too_long_is_pending_until_it_is_learned() {
    let mut net = open();
    net.submit(2, Request::Statement(statement(2, &[], End::Commit)));
    let sent = net.one_statement(11);
    net.pass(5_020);
    let failure = net.failure();
    assert_eq!(failure.error.code, ErrorCode::OutcomePending);
    conf(&mut net, 11, sent.request, Committed, &[]);
    net.submit(3, Request::Status(failure.token.unwrap()));
    assert_eq!(net.answer(), Answer::Status(Status::Decided(Outcome::Committed(Epoch(7)))));
    assert!(net.client.is_idle());
}

#[test]
fn handles_and_queues_are_bounded_and_checked() {
    let mut setup = setup();
    setup.bounds.transactions = 1;
    setup.bounds.queued_statements = 1;
    let mut net = Net::new(setup);
    net.make_ready(1);
    net.submit(1, Request::Statement(statement(2, &[write(0)], End::Stay)));
    assert_eq!(net.failure().error.code, ErrorCode::NoSuchTransaction);
    net.submit(2, Request::Statement(statement(1, &[write(0)], End::Stay)));
    net.submit(3, Request::Statement(statement(1, &[write(0)], End::Stay)));
    assert_eq!(net.failure().error.code, ErrorCode::Malformed);
    net.submit(4, Request::Statement(Statement { handle: 51, ..statement(1, &[write(0)], End::Stay) }));
    assert_eq!(net.failure().error.code, ErrorCode::TooMany);
    net.submit(5, Request::Statement(statement(2, &[write(0)], End::Stay)));
    net.submit(6, Request::Statement(statement(3, &[write(0)], End::Stay)));
    let failure = net.failure();
    assert_eq!((failure.error.code, failure.state), (ErrorCode::TooMany, Open));
}

/// One whose bounds are small: a statement may wait, and every link is full.
fn bounded(change: impl FnOnce(&mut Bounds)) -> Net {
    let mut setup = setup();
    setup.bounds.queued_statements = 1;
    change(&mut setup.bounds);
    let mut net = Net::new(setup);
    net.make_ready(1);
    net.submit(1, Request::Statement(statement(1, &[write(0)], End::Stay)));
    let sent = net.one_statement(11);
    conf(&mut net, 11, sent.request, Open, &[b"one"]);
    net.effects.clear();
    net
}

fn code_and_state(answer: &Answer) -> (ErrorCode, TransactionState) {
    match answer {
        Answer::Failed(failure) => (failure.error.code, failure.state),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rollback_waits_behind_a_full_queue_and_nothing_behind_it() {
    let mut net = bounded(|_| ());
    net.submit(2, Request::Statement(statement(2, &[write(1)], End::Stay)));
    net.submit(3, Request::Statement(statement(3, &[write(1)], End::Stay)));
    net.submit(4, Request::Statement(statement(4, &[], End::Rollback)));
    assert!(net.effects.is_empty());
    for (token, end) in [(5, End::Stay), (6, End::Rollback)] {
        net.submit(token, Request::Statement(statement(5, &[], end)));
        assert_eq!(code_and_state(&net.answer()), (ErrorCode::NoSuchTransaction, Aborted));
    }
    for _ in 0..2 {
        let sent = net.one_statement(11);
        conf(&mut net, 11, sent.request, Open, &[b""]);
    }
    let rollback = net.one_statement(11);
    assert_eq!(rollback.flags, ROLLBACK);
    conf(&mut net, 11, rollback.request, Aborted, &[]);
    assert_eq!(net.answers().iter().map(|(token, _)| *token).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(net.client.is_idle());
}

#[test]
fn a_rollback_is_sent_whatever_is_full() {
    let full: [fn(&mut Bounds); 3] =
        [|bounds| bounds.calls = 1, |bounds| bounds.bytes = 1, |bounds| bounds.link_bytes = 0];
    for (index, change) in full.into_iter().enumerate() {
        let mut net = bounded(|_| ());
        // Something is under way, over the same link.
        net.operate(9, write(0));
        net.one_write(11);
        change(&mut net.client.setup.bounds);
        net.submit(2, Request::Statement(statement(2, &[write(0)], End::Stay)));
        assert_eq!(code_and_state(&net.answer()), (ErrorCode::Overloaded, Open), "{index}");
        net.submit(3, Request::Statement(statement(3, &[], End::Rollback)));
        assert_eq!(net.one_statement(11).flags, ROLLBACK, "{index}");
    }
}

#[test]
fn a_refused_way_back_to_a_savepoint_ends_the_transaction() {
    // Too large; too much under way; too much in the link.
    let refused: [fn(&mut Net) -> Operations; 3] = [
        |_| Operations { bytes: Vec::new(), count: u16::MAX },
        |net| {
            net.client.setup.bounds.bytes = 0;
            operations(&[write(0)])
        },
        |net| {
            net.operate(9, write(0));
            net.one_write(11);
            net.client.setup.bounds.link_bytes = 0;
            operations(&[write(0)])
        },
    ];
    for (index, refused) in refused.into_iter().enumerate() {
        let mut net = bounded(|_| ());
        let operations = refused(&mut net);
        let back = Statement { undo: true, operations, ..statement(2, &[], End::Stay) };
        net.submit(2, Request::Statement(back));
        let failure = net.failure();
        assert_eq!(failure.state, Aborted, "{index}");
        assert!(failure.error.text.ends_with("could not go back to the savepoint"), "{}", failure.error);
        let rollback = net.one_statement(11);
        assert_eq!((rollback.flags, rollback.number), (ROLLBACK, 1), "{index}");
        conf(&mut net, 11, rollback.request, Aborted, &[]);
        net.submit(3, Request::Statement(statement(3, &[], End::Commit)));
        assert_eq!(code_and_state(&net.answer()), (ErrorCode::NoSuchTransaction, Aborted), "{index}");
    }
}

#[test]
fn a_transaction_is_committed_though_there_is_no_room_for_what_it_read() {
    let mut net = Net::ready(1);
    net.submit(3, transaction(&[read(0), read(0), write(0)]));
    let sent = net.one_statement(11);
    net.client.setup.bounds.result_bytes = 0;
    let mut long = vec![0, 2];
    long.extend([0; 100]);
    conf(&mut net, 11, sent.request, Committed, &[&long, b"short", &long]);
    let Answer::Statement { state: Committed, results, .. } = net.answer() else { panic!() };
    assert_eq!(results.get(0).unwrap_err().error.code, ErrorCode::Overloaded);
    assert_eq!((results.get(1), results.get(2)), (Ok(&b"short"[..]), Ok(&[0, 2][..])));
}

#[test]
fn a_way_back_to_a_savepoint_that_cannot_wait_ends_what_is_before_it() {
    let mut net = bounded(|_| ());
    net.submit(2, Request::Statement(statement(2, &[write(1)], End::Stay)));
    net.submit(3, Request::Statement(statement(3, &[write(1)], End::Stay)));
    net.submit(4, Request::Statement(Statement { undo: true, ..statement(2, &[], End::Stay) }));
    // Sent ahead: it must not commit what was to be undone.
    net.submit(5, Request::Statement(statement(3, &[], End::Commit)));
    let told: Vec<_> = net.answers().iter().map(|(token, answer)| (*token, code_and_state(answer))).collect();
    let ended = (ErrorCode::NoSuchTransaction, Aborted);
    assert_eq!(
        told,
        [
            (4, (ErrorCode::TooMany, Aborted)),
            (2, (ErrorCode::TransactionFailed, Aborted)),
            (3, ended),
            (5, ended)
        ]
    );
    let arrived = net.arrived(11, 0);
    let [(Kind::TransactionReq, sent), (Kind::CancelOrd, _)] = &arrived[..] else { panic!("{arrived:?}") };
    let sent = TransactionReq::parse(&mut Reader::new(sent, "test")).unwrap();
    conf(&mut net, 11, sent.request, Open, &[b""]);
    let rollback = net.one_statement(11);
    assert_eq!(rollback.flags, ROLLBACK);
    conf(&mut net, 11, rollback.request, Aborted, &[]);
    assert!(net.client.is_idle());
}

#[test]
fn a_transaction_that_its_user_has_forgotten_is_forgotten() {
    let mut net = open();
    net.submit(2, Request::Statement(Statement { handle: 51, ..statement(1, &[], End::Stay) }));
    net.effects.clear();
    net.pass(59_000);
    // The one that is used goes on.
    net.submit(3, Request::Statement(Statement { begin: None, ..statement(2, &[write(0)], End::Stay) }));
    let sent = net.one_statement(11);
    net.pass(4_000);
    assert_eq!(net.client.transactions.keys().copied().collect::<Vec<_>>(), [50]);
    net.submit(4, Request::Statement(Statement { handle: 51, ..statement(2, &[write(0)], End::Stay) }));
    let failure = net.failure();
    assert_eq!((failure.error.code, failure.state), (ErrorCode::NoSuchTransaction, Aborted));
    assert_eq!(failure.error.text, "transaction 51 is not open: it has ended, or was idle for 60000 ms");
    // From its answer on it lies idle.
    conf(&mut net, 11, sent.request, Open, &[b""]);
    net.effects.clear();
    net.pass(60_000);
    assert!(!net.client.is_idle());
    net.pass(1_001);
    assert!(net.client.is_idle());
    assert_eq!(net.client.next_timeout(), None);
}

#[test]
fn an_age_that_no_attempt_can_have_is_brought_into_bounds() {
    for (given, minutes) in [(u64::MAX, 0), (1, 10), (WALL_CLOCK - 60_000_000, 1)] {
        let mut net = Net::ready(1);
        let begin = Begin { isolation: Isolation::default(), timestamp: Some(given) };
        net.submit(1, Request::Statement(Statement { begin: Some(begin), ..statement(1, &[], End::Stay) }));
        let Answer::Statement { timestamp, .. } = net.answer() else { panic!("{given}") };
        let age = WALL_CLOCK + net.now.0 / 1000 - timestamp;
        assert_eq!(age / 60_000_000, minutes, "{given}");
    }
}
