//! Commits whose answer is lost or late.

use twofold_proto::message::{Coordinator, Outcome, Status, StatusConf, TransactionConf, TransactionState};

use super::*;
use crate::request::{Isolation, TransactionToken};

fn status(net: &mut Net, node: u16, request: u32, status: Status) {
    net.tell(worker(node), Kind::StatusConf, |out| put_control(out, &StatusConf { request, status }));
}

/// A write to partition 0 whose TC, on node 11, goes away before it answers.
fn lost_write() -> (Net, StatusReq) {
    let mut net = Net::ready(1);
    net.operate(1, write(0));
    net.one_write(11);
    net.drop_node(11);
    let question = net.one_question(12);
    (net, question)
}

#[test]
fn the_next_primary_is_asked_under_the_view_without_the_tc() {
    let mut net = Net::ready(1);
    net.operate(1, write(0));
    let sent = net.one_write(11);
    net.drop_node(11);
    net.turn();
    let id = net.to(worker(12));
    let inbox = std::mem::take(&mut net.far.get_mut(&id).unwrap().inbox);
    let [.., (Kind::ViewOrd, view), (Kind::MarkOrd, mark), (Kind::StatusReq, question)] = &inbox[..] else {
        panic!("{inbox:?}")
    };
    assert_eq!(control::<View>(view).unwrap(), net.view);
    // What is known to be confirmed is not taken for what never came.
    assert_eq!(mark[..], 0u64.to_le_bytes());
    let expected = StatusReq {
        request: sent.request,
        transaction: TransactionId { session: SESSION, number: sent.number },
        commit_number: sent.commit_number,
        coordinator: Coordinator { endpoint: worker(11), incarnation: life(11, 1) },
        partition: PartitionId(0),
        epoch: Epoch::new(1, 5),
        disowned: false,
    };
    assert_eq!(control::<StatusReq>(question).unwrap(), expected);
}

#[test]
fn a_lost_write_that_is_committed_is_done() {
    let (mut net, question) = lost_write();
    for unknown in [Status::Pending, Status::AskElsewhere] {
        status(&mut net, 12, question.request, unknown);
        assert_eq!(net.arrived(12, 0), []);
        net.pass(2);
        assert_eq!(net.one_question(12), question);
    }
    status(&mut net, 12, question.request, Status::Decided(Outcome::Committed(Epoch(9))));
    let replies = net.replies();
    let [(1, Ok(result))] = &replies[..] else { panic!("{replies:?}") };
    let result = twofold_proto::result::ResultRef::parse(&mut Reader::new(result, "test")).unwrap();
    assert!(result.head.code == twofold_proto::result::ResultCode::Ok && result.head.changed);
    assert_eq!((net.client.is_idle(), net.client.session.mark()), (true, 1));
}

#[test]
fn a_lost_write_that_is_aborted_is_made_again() {
    let (mut net, question) = lost_write();
    let age = net.client.calls.get(question.request).timestamp;
    status(&mut net, 12, question.request, Status::Decided(Outcome::Aborted));
    net.pass(1);
    let again = net.one_write(12);
    assert_eq!((again.number, again.commit_number, again.timestamp), (2, 2, age));
    net.confirm(12, again.request, &[0, 0]);
    assert_eq!(net.replies(), [(1, Ok(vec![0, 0]))]);
    assert_eq!(net.client.session.mark(), 2);
}

#[test]
fn while_its_node_is_in_the_view_the_tc_is_waited_for() {
    let mut net = Net::ready(1);
    net.operate(1, write(0));
    net.turn();
    let id = net.to(worker(11));
    net.disconnect(id);
    net.see_view(vec![member(11, life(11, 1), 1), member(12, life(12, 1), 1)]);
    net.pass(100);
    assert_eq!(net.arrived(12, 0), []);
    net.connect(id);
    assert_eq!(net.one_write(11).number, 1);
}

#[test]
fn whoever_is_asked_may_go_away_too() {
    let (mut net, question) = lost_write();
    net.see_view(Vec::new());
    net.pass(200);
    net.lives.insert(NodeId(11), life(11, 2));
    net.see_view(vec![member(11, life(11, 2), 1)]);
    assert_eq!(net.one_question(11), question);
    status(&mut net, 11, question.request, Status::Decided(Outcome::Committed(Epoch(9))));
    assert!(matches!(net.replies()[..], [(1, Ok(_))]));
}

#[test]
fn what_cannot_be_learned_in_time_is_said_to_be_pending_and_learned_later() {
    let (mut net, question) = lost_write();
    net.pass(5_000);
    let replies = net.replies();
    let [(1, Err(failure))] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!(failure.error.code, ErrorCode::OutcomePending);
    let token = failure.token.unwrap();
    let expected = TransactionToken {
        transaction: question.transaction,
        commit_number: 1,
        coordinator: question.coordinator,
        partition: PartitionId(0),
        epoch: Epoch::new(1, 5),
        durable: false,
    };
    assert_eq!(token, expected);
    assert_eq!(net.client.session.mark(), 0);
    status(&mut net, 12, question.request, Status::Decided(Outcome::Aborted));
    assert_eq!((net.client.is_idle(), net.client.session.mark()), (true, 1), "it is not made again");
    net.submit(2, Request::Status(token));
    assert_eq!(net.answer(), Answer::Status(Status::Decided(Outcome::Aborted)));
    assert_eq!((net.client.counters().pending, net.client.counters().learned), (1, 1));
}

#[test]
fn a_late_answer_gives_the_outcome_with_its_epoch() {
    let mut net = Net::ready(1);
    net.operate(1, write(0));
    let request = net.one_write(11).request;
    net.pass(5_020);
    let token = net.replies().pop().unwrap().1.unwrap_err().token.unwrap();
    net.one(11, Kind::CancelOrd);
    net.written(11, request, Epoch(9), &[0, 0]);
    let committed = Status::Decided(Outcome::Committed(Epoch(9)));
    assert_eq!(net.client.session.mark(), 1);
    net.submit(2, Request::Status(token));
    assert_eq!(net.answer(), Answer::Status(committed));
}

#[test]
fn a_late_refusal_is_an_outcome_and_nothing_is_made_again() {
    let mut net = Net::ready(1);
    for (refuse, number) in [(true, 1), (false, 2)] {
        net.operate(1, write(0));
        let request = net.one_write(11).request;
        net.pass(5_020);
        assert_eq!(net.reply_code(), ErrorCode::OutcomePending);
        net.one(11, Kind::CancelOrd);
        if refuse {
            net.refuse(11, request, ErrorCode::NotServing);
        } else {
            net.confirm(11, request, &[2, 0]);
        }
        net.pass(100);
        assert_eq!(
            (net.arrived(11, 0), net.client.is_idle(), net.client.session.mark()),
            (vec![], true, number)
        );
        let transaction = TransactionId { session: SESSION, number };
        net.submit(2, Request::Status(TransactionToken { transaction, ..TransactionToken::default() }));
        assert_eq!(net.answer(), Answer::Status(Status::Decided(Outcome::Aborted)));
    }
}

#[test]
fn an_outcome_that_the_cluster_has_forgotten_is_not_made_up() {
    let (mut net, question) = lost_write();
    status(&mut net, 12, question.request, Status::Finished);
    assert_eq!(net.reply_code(), ErrorCode::OutcomePending);
    assert_eq!((net.client.is_idle(), net.client.session.mark()), (true, 1));
}

#[test]
fn a_frontend_may_ask_for_anybodys_transaction() {
    let mut net = Net::ready(1);
    let transaction = TransactionId { session: Incarnation(5), number: 6 };
    let coordinator = Coordinator { endpoint: worker(11), incarnation: life(11, 1) };
    let (partition, epoch) = (PartitionId(1), Epoch(3));
    let token =
        TransactionToken { transaction, commit_number: 4, coordinator, partition, epoch, durable: false };
    net.submit(1, Request::Status(token));
    let expected = StatusReq {
        request: 0,
        transaction,
        commit_number: 4,
        coordinator,
        partition,
        epoch,
        disowned: false,
    };
    assert_eq!(net.one_question(11), expected);
    status(&mut net, 11, 0, Status::AskElsewhere);
    net.drop_node(11);
    assert_eq!(net.one_question(12), expected);
    status(&mut net, 12, 0, Status::Finished);
    assert_eq!(net.answer(), Answer::Status(Status::Finished));
    net.submit(2, Request::Status(TransactionToken { partition: PartitionId(PARTITIONS), ..token }));
    assert_eq!(net.failure().error.code, ErrorCode::Malformed);
    net.submit(3, Request::Status(token));
    net.pass(5_000);
    assert_eq!(net.failure().error.code, ErrorCode::Timeout);
    net.drop_node(12);
    assert!(net.client.is_idle());
}

#[test]
fn a_worker_that_gave_the_session_up_is_met_anew_and_asked_itself() {
    let mut net = Net::ready(1);
    // Something has arrived here from it, so it knows that the link was in use.
    net.operate(1, read(0));
    let request = net.one_read(11);
    net.confirm(11, request, b"");
    net.effects.clear();
    net.operate(2, read(0));
    net.operate(3, write(0));
    net.turn();
    let old = net.to(worker(11));
    net.disconnect(old);
    let refused = |temporary| LinkInput::Refused { link: old, temporary, reason: "given up".into() };
    net.step(Input::Link(refused(true)));
    assert_eq!(net.to(worker(11)), old);
    net.step(Input::Link(refused(false)));
    assert_ne!(net.to(worker(11)), old);
    let arrived = net.arrived(11, 0);
    let kinds: Vec<Kind> = arrived.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Kind::ReadReq, Kind::StatusReq]);
    let question: StatusReq = control(&arrived[1].1).unwrap();
    status(&mut net, 11, question.request, Status::Decided(Outcome::Aborted));
    net.pass(1);
    assert_eq!(net.one_write(11).number, 2);
    assert_eq!(net.client.counters().links_renewed, 1);
}

#[test]
fn a_worker_that_may_have_had_the_first_frames_and_knows_of_none_is_asked_before_they_are_sent_again() {
    let mut net = Net::ready(1);
    net.operate(1, write(0));
    net.turn();
    let old = net.to(worker(11));
    net.disconnect(old);
    // It gave the link up in the meantime. Nothing of it had arrived here, so it cannot tell that this is no new one.
    let far = net.far.get_mut(&old).unwrap();
    far.link = Link::new(far.link.peer(), far.link.incarnation());
    far.inbox.clear();
    net.connect(old);
    assert_ne!(net.to(worker(11)), old);
    let question = net.one_question(11);
    status(&mut net, 11, question.request, Status::Decided(Outcome::Committed(Epoch(3))));
    assert!(matches!(net.replies()[..], [(1, Err(_))] | [(1, Ok(_))]));
    assert!(net.arrived(11, 0).is_empty(), "it is not written a second time");
    assert_eq!(net.client.counters().links_renewed, 1);
}

#[test]
fn a_worker_that_has_lost_nothing_keeps_its_link_although_nothing_has_reached_it() {
    let mut net = Net::ready(1);
    let view = net.view.clone();
    net.tell(worker(11), Kind::ViewOrd, |out| put_control(out, &view));
    net.operate(1, write(0));
    net.turn();
    let link = net.to(worker(11));
    net.disconnect(link);
    // What it had told was read here. It had given the link up, it would refuse to go on with it.
    let far = net.far.get_mut(&link).unwrap();
    far.link = Link::new(far.link.peer(), far.link.incarnation());
    far.link.send(Kind::ViewOrd as u8, 0, |out| put_control(out, &view));
    far.link.seal(Epoch::new(1, 5), false);
    (far.frames, far.inbox) = (0, Vec::new());
    net.connect(link);
    assert_eq!(net.to(worker(11)), link);
    assert_eq!((net.one_write(11).number, net.client.counters().links_renewed), (1, 0));
}

#[test]
fn what_only_read_has_nothing_to_ask_for() {
    for (lock, writes) in [(LockMode::Shared, false), (LockMode::Exclusive, true)] {
        let mut net = Net::ready(1);
        let operation = if writes { write(0) } else { OperationRef { lock, ..read(0) } };
        let (operations, isolation) = (operations(&[operation]), Isolation::ReadCommitted);
        net.submit(1, Request::Transaction { operations, isolation, options: Options::default() });
        let request = net.one_statement(11).request;
        net.tell(worker(11), Kind::TransactionConf, |out| {
            let state = TransactionState::Committed;
            TransactionConf { request, state, epoch: Epoch(9), results: 1 }.encode(out);
            out.put_block(&[]);
        });
        let Answer::Statement { token, .. } = net.answer() else { panic!("it is committed") };
        assert_eq!(token.is_some(), writes);
    }
}
