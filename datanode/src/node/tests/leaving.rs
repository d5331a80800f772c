//! How nodes end.

use std::collections::BTreeSet;

use MemberState::{Syncing, Up};
use twofold_proto::{
    error::{Error, ErrorCode},
    message::{GoneOrd, Kind, StopOrd},
};

use super::{super::*, driver::*};

fn running(members: &[(u16, MemberState)]) -> Net {
    let nodes: Vec<u16> = members.iter().map(|(node, _)| *node).collect();
    let mut net = Net::new(&config(&nodes, nodes.len() as u8));
    net.run(10);
    net.publish(view(1, members));
    net.run(1000);
    net
}

#[test]
fn a_node_out_of_the_view_stops_serving_says_goodbye_and_starts_anew() {
    let mut net = running(&[(11, Up), (12, Up)]);
    net.publish(view(2, &[(12, Up)]));
    assert_eq!(net.exits[&NodeId(11)], (ms(1000), true, "view 2 does not have this life".into()));
    assert_eq!(net.manager().goodbyes, [life(11)]);
}

/// The goodbye lets others serve at once: the workers must have read before that they do not.
#[test]
fn the_goodbye_waits_for_the_workers() {
    let mut node = node(&config(&[11], 1), 11, 2);
    turn(&mut node, ms(0), says(0, Word::View(Arc::new(view(1, &[(11, Up)])))));
    turn(&mut node, ms(300), Input::Timer);
    turn(&mut node, ms(350), Input::Timer);
    assert_eq!(node.lease(), Time(u64::MAX));
    let effects = turn(&mut node, ms(360), says(0, Word::View(Arc::new(view(2, &[])))));
    let told = told(&effects, 2);
    let [ToWorker::View(_), ToWorker::Lease(Time(0)), .., ToWorker::AreYouThere(question)] = told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(turn(&mut node, ms(361), says(0, Word::Alive(question))), []);
    assert_eq!(node.next_timeout(), Some(ms(400)));
    // Nobody is there to be told goodbye.
    let reason = "view 2 does not have this life".to_string();
    let effects = turn(&mut node, ms(362), says(1, Word::Alive(question)));
    assert_eq!(effects, [Effect::Exit { restart: true, refused: false, reason }]);
    assert_eq!((node.next_timeout(), turn(&mut node, ms(400), Input::Timer)), (None, vec![]));
}

#[test]
fn a_node_asked_to_stop_leaves_the_view_first() {
    let mut net = running(&[(11, Up), (12, Up)]);
    net.give(12, Input::Stop { graceful: true });
    assert!(net.report(12).leaving);
    net.run(1500);
    assert_eq!(net.node(12).lease(), ms(1750), "it serves on");
    net.publish(view(2, &[(11, Up)]));
    assert_eq!(net.exits[&NodeId(12)], (ms(1500), false, "asked to stop".into()));
    assert_eq!(net.manager().goodbyes, [life(12)]);
}

/// Else some would have an epoch on disk that others have not, and these would have to copy at the next start.
#[test]
fn nodes_that_stop_together_end_with_one_epoch() {
    for between in [0, 1, 7, 30] {
        let mut net = running(&[(11, Up), (12, Up), (13, Up), (14, Up)]);
        for node in [12, 11, 14, 13] {
            net.give(node, Input::Stop { graceful: true });
            net.run(net.now.since(ms(0)).as_millis() as u64 + between);
        }
        net.run(3400);
        assert_eq!(net.exits.len(), 4, "{:?}", net.exits);
        let complete: BTreeSet<Epoch> = net.complete.values().copied().collect();
        assert_eq!(complete.len(), 1, "{:?}", net.complete);
    }
}

#[test]
fn the_last_of_a_group_stops_after_a_while_or_when_asked_twice() {
    let mut net = running(&[(11, Up)]);
    net.give(11, Input::Stop { graceful: true });
    net.run(2999);
    assert!(net.exits.is_empty());
    net.run(3200);
    let (at, restart, reason) = &net.exits[&NodeId(11)];
    assert!((ms(3020)..ms(3100)).contains(at), "all is on disk at {at:?}");
    assert!(!restart && reason == "asked to stop");
    let mut net = running(&[(11, Up)]);
    net.give(11, Input::Stop { graceful: true });
    net.give(11, Input::Stop { graceful: true });
    assert_eq!(net.exits[&NodeId(11)].0, ms(1000));
}

#[test]
fn buddies_hear_the_goodbye_of_a_member() {
    let mut net = running(&[(11, Up), (12, Up)]);
    net.give(12, Input::Stop { graceful: false });
    assert_eq!(net.exits[&NodeId(12)].0, ms(1000));
    net.block(1, 11, true);
    net.run(1010);
    net.publish(view(2, &[(11, Up)]));
    net.blocked.clear();
    net.run(1011);
    assert_eq!(net.workers(11).fenced, [(ms(1010), life(12)); 2]);
}

#[test]
fn the_leaders_word_ends_only_the_life_that_is_meant() {
    let mut net = running(&[(11, Up), (12, Syncing)]);
    let error = Error::new(ErrorCode::JoinRefused, "another process runs as node 12");
    let stop = |life, restart| StopOrd { life, restart, error: error.clone() };
    net.broadcast(|link| {
        link.send_control(Kind::StopOrd, &stop(Life { node: NodeId(12), incarnation: Incarnation(1) }, false))
    });
    assert!(!net.report(11).leaving && !net.report(12).leaving);
    net.broadcast(|link| link.send_control(Kind::StopOrd, &stop(life(12), true)));
    assert!(net.report(12).leaving);
    net.publish(view(2, &[(11, Up)]));
    assert_eq!(net.exits[&NodeId(12)], (ms(1000), true, error.to_string()));
    // Who is in no view has nothing to leave.
    let mut net = Net::new(&config(&[11], 1));
    net.run(20);
    net.broadcast(|link| link.send_control(Kind::StopOrd, &stop(life(11), false)));
    assert!(!net.exits[&NodeId(11)].1);
}

#[test]
fn who_is_taken_for_gone_does_not_serve_on() {
    let mut net = running(&[(11, Up), (12, Up)]);
    net.broadcast(|link| link.send_control(Kind::GoneRep, &GoneOrd { life: life(12) }));
    assert_eq!(net.exits[&NodeId(12)], (ms(1000), true, "taken for ended".into()));
}

#[test]
fn a_cluster_started_anew_takes_nobody_along() {
    let mut net = running(&[(11, Up), (12, Up)]);
    net.publish(View { restart: 2, ..view(2, &[(11, Up), (12, Up)]) });
    assert_eq!(net.exits.values().map(|(_, restart, _)| *restart).collect::<Vec<_>>(), [true, true]);
    assert!(net.exits[&NodeId(11)].2.contains("the cluster restarts"));
}

/// A worker that hangs may think that it serves: no goodbye.
#[test]
fn a_hanging_worker_gets_no_goodbye() {
    let mut net = running(&[(11, Up), (12, Up)]);
    net.workers.get_mut(&NodeId(12)).unwrap().hang = true;
    net.give(12, Input::Stop { graceful: false });
    net.run(1600);
    assert_eq!(net.exits[&NodeId(12)].0, ms(1500));
    assert_eq!(net.manager().goodbyes, []);
}

#[test]
fn a_worker_that_cannot_go_on_ends_this_life() {
    let mut net = running(&[(11, Up), (12, Up)]);
    net.give(12, says(1, Word::Lost(ViewNumber(1))));
    let reason = "too many views behind to go on".to_string();
    assert_eq!(net.exits[&NodeId(12)], (ms(1000), true, reason));
    assert_eq!(net.manager().goodbyes, [life(12)]);
}

#[test]
fn who_is_not_let_in_says_once_for_whom_it_waits() {
    let waits = |net: &Net, id: u16| -> Vec<String> {
        let own = net.events.iter().filter(|(node, _)| *node == NodeId(id)).map(|(_, event)| event);
        own.filter(|event| matches!(event, Event::Waits { .. })).map(Event::to_string).collect()
    };
    let mut net = Net::new(&config(&[11, 12], 2));
    net.run(10);
    net.publish(view(1, &[(11, Up)]));
    let late = 4 * net.node(12).config.failure_ms;
    net.run(u64::from(late) - 1);
    assert_eq!(waits(&net, 12), [] as [String; 0]);
    net.run(u64::from(late) + 5000);
    let [text] = &waits(&net, 12)[..] else { panic!("{:?}", net.events) };
    assert!(text.contains("in view 1 it is node 11 that has the rows"), "{text}");
    assert_eq!(waits(&net, 11), [] as [String; 0], "it is in");
    let mut net = Net::new(&config(&[11, 12], 2));
    net.run(10_000);
    let [text] = &waits(&net, 12)[..] else { panic!("{:?}", net.events) };
    assert!(text.contains("waits for the other data nodes"), "{text}");
}
