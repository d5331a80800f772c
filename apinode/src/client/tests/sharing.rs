//! Equal reads of one turn are one call.

use super::*;

fn submitted(net: &mut Net, token: u64, options: Options) {
    net.submit(token, Request::Independent { operations: operations(&[read(0)]), options });
}

fn reads(net: &mut Net) -> Vec<u32> {
    let arrived = net.arrived(11, 0);
    arrived
        .iter()
        .map(|(kind, body)| {
            assert_eq!(*kind, Kind::ReadReq);
            Reader::new(body, "test").u32().unwrap()
        })
        .collect()
}

fn codes(net: &mut Net) -> Vec<(u64, ErrorCode)> {
    let answers = net.answers();
    let code = |(token, answer)| match answer {
        Answer::Operations(results) => (token, results.get(0).unwrap_err().error.code),
        other => panic!("{other:?}"),
    };
    answers.into_iter().map(code).collect()
}

#[test]
fn equal_reads_of_a_turn_are_one_and_all_are_answered() {
    let mut net = Net::ready(1);
    for token in 0..3 {
        submitted(&mut net, token, Options::default());
    }
    // Twice in one request, too.
    net.submit(3, independent(&[read(0), read(0)]));
    assert_eq!(reads(&mut net), [0]);
    assert_eq!(net.client.counters().shared, 4);
    net.confirm(11, 0, b"result");
    let mut answers = net.answers();
    answers.sort_by_key(|(token, _)| *token);
    let one = || Answer::Operations(results(&[b"result"]));
    let two = Answer::Operations(results(&[b"result", b"result"]));
    assert_eq!(answers, [(0, one()), (1, one()), (2, one()), (3, two)]);
    assert!(net.client.is_idle());
}

#[test]
fn what_has_left_is_joined_by_nobody() {
    let mut net = Net::ready(1);
    submitted(&mut net, 0, Options::default());
    assert_eq!(reads(&mut net), [0]);
    submitted(&mut net, 1, Options::default());
    assert_eq!(reads(&mut net), [1]);
    net.confirm(11, 0, b"old");
    net.confirm(11, 1, b"new");
    let old_and_new = [b"old", b"new"].map(|result| Answer::Operations(results(&[result])));
    let expected: Vec<_> = (0..).zip(old_and_new).collect();
    assert_eq!(net.answers(), expected);
}

#[test]
fn what_differs_is_not_shared() {
    let mut net = Net::ready(1);
    let other_key = operation(OperationKind::Read, 0, b"other");
    let other_table = OperationRef { table: TableId(2), ..read(0) };
    let other_version = OperationRef { schema_version: 2, ..read(0) };
    let other_body = OperationRef { body: &[1], ..read(0) };
    let all = [read(0), other_key, other_table, other_version, other_body, write(0), write(0)];
    net.submit(0, independent(&all));
    let soon = Options { deadline: Some(Duration::from_millis(100)), ..Options::default() };
    submitted(&mut net, 1, soon);
    assert_eq!(net.arrived(11, 0).len(), all.len() + 1);
    assert_eq!(net.client.counters().shared, 0);
}

#[test]
fn a_lock_that_a_read_alone_does_not_take_makes_no_difference() {
    let mut net = Net::ready(1);
    net.submit(0, independent(&[read(0), OperationRef { lock: LockMode::Shared, ..read(0) }]));
    assert_eq!(reads(&mut net), [0]);
}

#[test]
fn all_go_along_to_the_next_worker() {
    let mut net = Net::ready(1);
    submitted(&mut net, 0, Options::default());
    submitted(&mut net, 1, Options::default());
    assert_eq!(reads(&mut net).len(), 1);
    net.drop_node(11);
    net.pass(100);
    let (request, kind) = {
        let arrived = net.arrived(12, 0);
        assert_eq!(arrived.len(), 1, "{arrived:?}");
        (Reader::new(&arrived[0].1, "test").u32().unwrap(), arrived[0].0)
    };
    assert_eq!(kind, Kind::ReadReq);
    net.confirm(12, request, b"result");
    assert_eq!(net.answers().len(), 2);
    assert!(net.client.is_idle());
}

#[test]
fn all_fail_together() {
    let mut net = Net::ready(1);
    submitted(&mut net, 0, Options::default());
    submitted(&mut net, 1, Options::default());
    assert_eq!(reads(&mut net), [0]);
    net.pass(DEFAULT_DEADLINE.as_millis() as u64 + 20);
    let mut failed = codes(&mut net);
    failed.sort();
    assert_eq!(failed, [(0, ErrorCode::Timeout), (1, ErrorCode::Timeout)]);
    // The slot is used again only when the worker has answered.
    net.confirm(11, 0, b"late");
    assert!(net.client.is_idle());
}

#[test]
fn one_whose_answer_has_no_room_fails_alone() {
    let mut net = Net::ready(1);
    submitted(&mut net, 0, Options::default());
    submitted(&mut net, 1, Options { result_bytes: Some(50), ..Options::default() });
    assert_eq!(reads(&mut net), [0]);
    let result = [7; 100];
    net.confirm(11, 0, &result);
    let answers: BTreeMap<u64, Answer> = net.answers().into_iter().collect();
    assert_eq!(answers[&0], Answer::Operations(results(&[&result])));
    let Answer::Operations(short) = &answers[&1] else { panic!("{answers:?}") };
    assert_eq!(short.get(0).unwrap_err().error.code, ErrorCode::TooLarge);
}

#[test]
fn those_who_share_count_for_the_bound_on_calls() {
    let mut net = Net::new(Setup { bounds: Bounds { calls: 3, ..Bounds::default() }, ..setup() });
    net.make_ready(1);
    for token in 0..4 {
        submitted(&mut net, token, Options::default());
    }
    assert_eq!(codes(&mut net), [(3, ErrorCode::Overloaded)]);
    assert_eq!(reads(&mut net), [0]);
    net.confirm(11, 0, b"result");
    assert_eq!(net.answers().len(), 3);
    submitted(&mut net, 4, Options::default());
    assert_eq!(reads(&mut net).len(), 1);
}
