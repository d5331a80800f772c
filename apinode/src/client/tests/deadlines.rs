//! Deadlines, bounds, and the end.

use super::*;

#[test]
fn a_read_times_out_and_its_slot_waits_for_the_answer() {
    let mut net = Net::ready(1);
    net.operate(1, read(0));
    let request = net.one_read(11);
    net.pass(4_999);
    assert!(net.effects.is_empty());
    net.pass(1);
    assert_eq!(net.reply_code(), ErrorCode::Timeout);
    net.operate(2, read(0));
    let other = net.one_read(11);
    assert_ne!(other, request);
    net.confirm(11, request, b"late");
    assert!(net.effects.is_empty());
    net.confirm(11, other, b"in time");
    assert_eq!(net.replies(), [(2, Ok(b"in time".to_vec()))]);
    assert!(net.client.is_idle());
}

#[test]
fn who_times_out_is_told_for_whom_it_waited() {
    let mut net = Net::ready(1);
    net.submit(1, independent(&[read(0)]));
    net.pass(5_000);
    let told = |net: &mut Net| match &net.answers()[..] {
        [(_, Answer::Operations(results))] => results.get(0).unwrap_err().error.text.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(told(&mut net), "node 11 has not answered in time");
    net.drop_node(12);
    net.submit(2, independent(&[read(0)]));
    net.pass(5_000);
    let alone = "node 11 has not answered in time, and no other node of its group is up: ";
    let text = told(&mut net);
    assert!(text.starts_with(alone), "{text}");
}

#[test]
fn a_request_may_bring_its_own_deadline() {
    let mut net = Net::ready(1);
    let options = Options { deadline: Some(Duration::from_millis(30)), ..Options::default() };
    net.submit(1, Request::Independent { operations: operations(&[read(0)]), options });
    net.submit(2, independent(&[read(0)]));
    net.pass(30);
    let answers = net.answers();
    let [(1, Answer::Operations(results))] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(results.get(0).unwrap_err().error.code, ErrorCode::Timeout);
    net.pass(4_970);
    assert_eq!(net.answers().len(), 1);
}

#[test]
fn what_was_refused_until_its_deadline_is_answered_with_the_reason() {
    let mut net = Net::ready(1);
    net.operate(1, write(0));
    for _ in 0..5_100 {
        for (_, body) in net.arrived(11, 0) {
            let request = Reader::new(&body, "test").u32().unwrap();
            net.refuse(11, request, ErrorCode::LockWaitTimeout);
        }
        net.pass(1);
    }
    assert_eq!(net.reply_code(), ErrorCode::LockWaitTimeout);
    assert!(net.client.is_idle());
    assert_eq!(net.client.session.open(), 0);
}

#[test]
fn what_waits_for_a_view_is_answered_at_its_deadline() {
    let mut net = Net::ready(1);
    net.see_view(Vec::new());
    net.operate(1, write(0));
    net.pass(6_000);
    assert_eq!(net.reply_code(), ErrorCode::NotServing);
    assert!(net.client.is_idle());
}

#[test]
fn a_link_without_a_connection_holds_so_much_and_no_more() {
    let mut setup = setup();
    setup.bounds.link_bytes = 1000;
    let mut net = Net::new(setup);
    net.lives.remove(&NodeId(11));
    net.make_ready(1);
    let mut accepted = 0;
    while net.effects.is_empty() {
        net.operate(accepted, read(0));
        accepted += 1;
    }
    assert!((10..30).contains(&accepted), "{accepted}");
    assert_eq!(net.reply_code(), ErrorCode::Overloaded);
    net.operate(99, read(1));
    assert!(net.effects.is_empty(), "the other worker takes more");
    // It connects in the end, and all are sent.
    net.lives.insert(NodeId(11), life(11, 1));
    let link = net.to(worker(11));
    net.connect(link);
    assert_eq!(net.arrived(11, 0).len() as u64, accepted - 1);
}

#[test]
fn calls_under_way_are_bounded() {
    let mut setup = setup();
    setup.bounds.calls = 2;
    let mut net = Net::new(setup);
    net.make_ready(1);
    for token in 0..3 {
        net.operate(token, read(0));
    }
    assert_eq!(net.reply_code(), ErrorCode::Overloaded);
    net.confirm(11, 0, b"");
    net.effects.clear();
    net.operate(3, read(0));
    assert!(net.effects.is_empty());
}

#[test]
fn the_mark_follows_lazily_and_leaves_by_itself_in_the_end() {
    let mut net = Net::ready(1);
    let marks = |net: &mut Net, node| {
        net.turn();
        let id = net.to(worker(node));
        let inbox = std::mem::take(&mut net.far.get_mut(&id).unwrap().inbox);
        let marks = inbox.into_iter().filter(|(kind, _)| *kind == Kind::MarkOrd);
        marks.map(|(_, body)| Reader::new(&body, "test").u64().unwrap()).collect::<Vec<_>>()
    };
    net.operate(1, write(0));
    net.operate(2, write(0));
    net.turn();
    net.confirm(11, 1, &[0, 0]);
    net.pass(50);
    assert_eq!(marks(&mut net, 11), []);
    net.confirm(11, 0, &[0, 0]);
    net.pass(20);
    assert_eq!(marks(&mut net, 11), []);
    net.operate(3, read(0));
    // The first of all is told, too: a session that has no answers is known by that.
    assert_eq!((marks(&mut net, 11), marks(&mut net, 12)), (vec![0, 2], vec![]));
    net.pass(200);
    assert_eq!((marks(&mut net, 11), marks(&mut net, 12)), (vec![], vec![0, 2]));
    assert_eq!(net.client.next_timeout().map(|at| at.since(net.now) > Duration::from_secs(4)), Some(true));
}

#[test]
fn a_worker_that_comes_later_is_told_the_mark() {
    let mut net = Net::new(setup());
    net.lives.remove(&NodeId(12));
    net.make_ready(1);
    net.operate(1, write(0));
    net.turn();
    net.confirm(11, 0, &[0, 0]);
    net.pass(1000);
    net.lives.insert(NodeId(12), life(12, 1));
    let link = net.to(worker(12));
    net.connect(link);
    net.pass(300);
    net.turn();
    assert!(net.far[&link].inbox.iter().any(|(kind, _)| *kind == Kind::MarkOrd));
}

#[test]
fn it_ends_when_all_is_answered() {
    let mut net = Net::ready(1);
    net.operate(1, write(0));
    let request = net.one_write(11).request;
    net.step(Input::Stop);
    assert!(net.effects.is_empty());
    net.operate(2, read(0));
    assert_eq!(net.reply_code(), ErrorCode::Stopping);
    net.submit(3, independent(&[read(0)]));
    assert_eq!(net.failure().error.code, ErrorCode::Stopping);
    net.confirm(11, request, &[0, 0]);
    assert_eq!(net.effects.pop(), Some(Effect::Ended));
    assert_eq!(net.replies(), [(1, Ok(vec![0, 0]))]);
    net.one(11, Kind::SessionEndOrd);
    net.one(12, Kind::SessionEndOrd);
}

#[test]
fn a_session_with_an_open_question_does_not_say_that_nobody_will_ask() {
    let mut net = Net::ready(1);
    net.operate(1, write(0));
    net.one_write(11);
    net.step(Input::Stop);
    net.pass(5_020);
    assert_eq!(net.effects.pop(), Some(Effect::Ended));
    assert_eq!(net.reply_code(), ErrorCode::OutcomePending);
    net.one(11, Kind::CancelOrd);
}

#[test]
fn a_write_that_waits_until_its_deadline_is_given_up_and_not_made() {
    let mut net = Net::ready(1);
    net.operate(1, write(0));
    let sent = net.one_write(11);
    net.pass(5_000);
    assert!(net.effects.is_empty(), "its worker may say what came of it");
    assert_eq!(net.one(11, Kind::CancelOrd), sent.number.to_le_bytes());
    net.refuse(11, sent.request, ErrorCode::Timeout);
    assert_eq!(net.reply_code(), ErrorCode::Timeout);
    net.pass(1_000);
    assert_eq!((net.arrived(11, 0), net.client.is_idle()), (vec![], true), "it is not made again");
}
