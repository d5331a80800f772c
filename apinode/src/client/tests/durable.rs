//! Durability `disk`.

use twofold_proto::{
    message::{BEGIN, COMMIT, Outcome, Status, StatusConf, TransactionConf, TransactionState},
    view::Cut,
};

use super::*;
use crate::request::{Durability, Isolation, TransactionToken};

const ON_DISK: Options =
    Options { durability: Durability::Disk, deadline: None, hint: None, result_bytes: None };

fn epoch(counter: u64) -> Epoch {
    Epoch::new(1, counter)
}

/// An independent write, which node 11 has committed in this epoch.
fn write_in(net: &mut Net, token: u64, counter: u64) {
    net.submit(token, Request::Independent { operations: operations(&[write(0)]), options: ON_DISK });
    let request = net.one_write(11).request;
    net.epoch = net.epoch.max(epoch(counter));
    net.written(11, request, epoch(counter), &[0, 0]);
}

/// The epoch that a node is asked for.
fn asked(net: &mut Net, node: u16) -> Epoch {
    Epoch(Reader::new(&net.one(node, Kind::DurableReq), "test").u64().unwrap())
}

fn durable(net: &mut Net, node: u16, counter: u64) {
    net.tell(worker(node), Kind::DurableConf, |out| out.put_u64(epoch(counter).0));
}

fn is_done(answer: &Answer) -> bool {
    matches!(answer, Answer::Operations(results) if results.get(0) == Ok(&[0, 0]))
}

/// The next view, after a restart of the whole cluster.
fn restart(net: &mut Net, cut: Epoch) {
    let members = vec![member(11, life(11, 2), 1), member(12, life(12, 2), 1)];
    net.lives =
        [(NodeId(1), net.lives[&NodeId(1)]), (NodeId(11), life(11, 2)), (NodeId(12), life(12, 2))].into();
    net.epoch = Epoch::new(2, 1);
    let number = ViewNumber(net.view.number.0 + 1);
    net.view =
        View { number, restart: 2, members, cuts: vec![Cut { restart: 2, epoch: cut }], ..View::default() };
    let view = net.view.clone();
    net.tell(Endpoint::node(NodeId(1)), Kind::ViewOrd, |out| put_control(out, &view));
}

#[test]
fn a_write_is_answered_when_its_epoch_is_durable() {
    let mut net = Net::ready(1);
    write_in(&mut net, 1, 7);
    assert_eq!(net.effects, []);
    assert_eq!(asked(&mut net, 11), epoch(7), "the president is asked");
    write_in(&mut net, 2, 8);
    assert_eq!(asked(&mut net, 11), epoch(8));
    write_in(&mut net, 3, 8);
    assert_eq!(net.arrived(11, 0), [], "it was asked for that already");
    durable(&mut net, 11, 6);
    assert_eq!(net.effects, []);
    durable(&mut net, 11, 7);
    let answers = net.answers();
    assert!(matches!(&answers[..], [(1, answer)] if is_done(answer)), "{answers:?}");
    durable(&mut net, 11, 9);
    assert_eq!(net.answers().iter().map(|(token, _)| *token).collect::<Vec<_>>(), [2, 3]);
    write_in(&mut net, 4, 9);
    assert!(is_done(&net.answer()), "that is known to be durable");
}

#[test]
fn what_has_written_nothing_waits_for_nothing() {
    let mut net = Net::ready(1);
    net.submit(1, Request::Independent { operations: operations(&[write(0)]), options: ON_DISK });
    let request = net.one_write(11).request;
    net.confirm(11, request, &[0, 0]);
    assert!(is_done(&net.answer()));
}

#[test]
fn a_transaction_waits_too() {
    let mut net = Net::ready(1);
    let (operations, isolation) = (operations(&[write(0), read(0)]), Isolation::ReadCommitted);
    net.submit(1, Request::Transaction { operations, isolation, options: ON_DISK });
    let request = net.one_statement(11);
    assert!(request.has(BEGIN) && request.has(COMMIT));
    let state = TransactionState::Committed;
    let conf = TransactionConf { request: request.request, state, epoch: epoch(5), results: 2 };
    net.tell(worker(11), Kind::TransactionConf, |out| {
        conf.encode(out);
        out.put_block(&[0, 0]);
        out.put_block(&[0, 1]);
    });
    assert_eq!(net.effects, []);
    durable(&mut net, 12, 5);
    let Answer::Statement { state, epoch: told, results, .. } = net.answer() else { panic!() };
    assert_eq!((state, told), (TransactionState::Committed, epoch(5)));
    assert_eq!(results.get(1), Ok(&[0, 1][..]));
}

#[test]
fn when_the_president_is_gone_the_next_one_is_asked() {
    let mut net = Net::ready(1);
    write_in(&mut net, 1, 7);
    assert_eq!(asked(&mut net, 11), epoch(7));
    net.drop_node(11);
    assert_eq!(asked(&mut net, 12), epoch(7));
    durable(&mut net, 12, 7);
    assert!(is_done(&net.answer()));
}

#[test]
fn a_restart_of_the_cluster_decides() {
    let mut net = Net::ready(1);
    write_in(&mut net, 1, 7);
    asked(&mut net, 11);
    write_in(&mut net, 2, 8);
    restart(&mut net, epoch(7));
    let answers = net.answers();
    let [(1, kept), (2, Answer::Operations(lost))] = &answers[..] else { panic!("{answers:?}") };
    assert!(is_done(kept));
    let failure = lost.get(0).unwrap_err();
    assert_eq!((failure.error.code, failure.token), (ErrorCode::PrimaryChanged, None));
}

#[test]
fn at_its_deadline_it_is_pending_and_becomes_known() {
    for (cut, outcome) in [(7, Outcome::Committed(epoch(7))), (6, Outcome::Aborted)] {
        let mut net = Net::ready(1);
        write_in(&mut net, 1, 7);
        net.pass(5_020);
        let Answer::Operations(results) = net.answer() else { panic!() };
        let failure = results.get(0).unwrap_err();
        assert_eq!(failure.error.code, ErrorCode::OutcomePending);
        assert_eq!(failure.error.text, "committed in epoch 1.7, which is not on all disks yet");
        restart(&mut net, epoch(cut));
        net.submit(2, Request::Status(failure.token.unwrap()));
        assert_eq!(net.answer(), Answer::Status(Status::Decided(outcome)));
    }
}

#[test]
fn who_asks_what_became_of_it_hears_that_it_is_committed_once_it_is_durable() {
    let mut net = Net::ready(1);
    write_in(&mut net, 1, 7);
    assert_eq!(asked(&mut net, 11), epoch(7));
    net.pass(5_020);
    let Answer::Operations(results) = net.answer() else { panic!() };
    let token = results.get(0).unwrap_err().token.unwrap();
    assert!(token.durable);
    // Another client has its token: it has to ask, and its TC knows of no disks.
    let foreign = TransactionId { session: Incarnation(77), ..token.transaction };
    let foreign = TransactionToken { transaction: foreign, ..token };
    net.submit(2, Request::Status(foreign));
    let request = net.one_question(11).request;
    let status = StatusConf { request, status: Status::Decided(Outcome::Committed(epoch(7))) };
    net.tell(worker(11), Kind::StatusConf, |out| put_control(out, &status));
    assert_eq!(net.answers(), []);
    net.pass(5_020);
    assert_eq!(net.answer(), Answer::Status(Status::Pending));
    durable(&mut net, 11, 7);
    assert!(net.client.is_idle());
    for token in [token, foreign] {
        net.submit(3, Request::Status(token));
        assert_eq!(net.answer(), Answer::Status(Status::Decided(Outcome::Committed(epoch(7)))));
    }
}
