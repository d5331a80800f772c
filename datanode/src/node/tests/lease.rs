//! Joining, heartbeats, leases, and what is reported of them.

use MemberState::{Ready, Syncing, Up};
use twofold_proto::{
    link::{Hello, HelloReply},
    links::LinkEffect,
    message::{Catalog, Kind},
};

use super::{super::*, driver::*};

fn connects(effects: &[Effect]) -> Vec<Endpoint> {
    let to = |effect: &Effect| match effect {
        Effect::Link(LinkEffect::Connect { to, .. }) => Some(*to),
        _ => None,
    };
    effects.iter().filter_map(to).collect()
}

#[test]
fn it_starts_with_the_management_nodes_and_waits_for_a_view() {
    let mut node = node(&config(&[11, 12], 2), 12, 2);
    assert_eq!(node.next_timeout(), Some(ms(0)));
    let effects = turn(&mut node, ms(0), Input::Timer);
    assert_eq!(connects(&effects), [Endpoint::node(MANAGER)]);
    assert_eq!(told(&effects, 2), [ToWorker::AreYouThere(1)]);
    assert_eq!(node.next_timeout(), Some(ms(50)));
    // A view of others is not one that has dropped it.
    let others = Arc::new(view(1, &[(11, Up)]));
    let effects = turn(&mut node, ms(1), says(0, Word::View(others.clone())));
    assert_eq!(told(&effects, 2), [ToWorker::View(others)]);
    assert_eq!((connects(&effects), node.state()), (vec![], None));
}

#[test]
fn a_view_is_adopted_once_and_the_higher_id_connects() {
    let (older, newer) =
        (Arc::new(view(3, &[(11, Up), (13, Up)])), [(11, Up), (12, Syncing), (13, Up), (14, Up)]);
    let newer = Arc::new(view(4, &newer));
    let mut node = node(&config(&[11, 12, 13, 14], 2), 12, 1);
    let effects = turn(&mut node, ms(1), says(0, Word::View(newer.clone())));
    assert_eq!(
        effects[..2],
        [
            Effect::Event(Event::Adopted { view: ViewNumber(4), members: 4, state: Some(Syncing) }),
            Effect::Worker { worker: WorkerId(0), message: ToWorker::View(newer.clone()) },
        ]
    );
    assert!(matches!(
        effects[2..],
        [Effect::Link(LinkEffect::Connect { to, .. })] if to == Endpoint::node(NodeId(11))
    ));
    assert_eq!(turn(&mut node, ms(2), says(0, Word::View(newer.clone()))), []);
    assert_eq!(turn(&mut node, ms(2), says(0, Word::View(older))), []);
    assert_eq!(node.view(), &newer);
}

#[test]
fn only_higher_members_of_the_view_may_connect() {
    let config = config(&[11, 12, 13], 1);
    let mut node = node(&config, 12, 1);
    turn(&mut node, ms(1), says(0, Word::View(Arc::new(view(1, &[(11, Up), (12, Up), (13, Up)])))));
    let mut refusal = |from: Endpoint, incarnation| {
        let hello = Hello {
            version: 1,
            cluster: "test".into(),
            from,
            incarnation,
            to: Endpoint::node(NodeId(12)),
            to_incarnation: life(12).incarnation,
            received: 0,
        };
        match &turn(&mut node, ms(2), Input::Link(LinkInput::Hello { connection: 7, hello }))[..] {
            [Effect::Link(LinkEffect::Answer { connection: 7, link, reply })] => match reply {
                HelloReply::Accepted { .. } => {
                    assert!(link.is_some());
                    String::new()
                }
                HelloReply::Refused { temporary, reason } => format!("{temporary}: {reason}"),
            },
            other => panic!("{other:?}"),
        }
    };
    let own = |node| life(node).incarnation;
    assert_eq!(refusal(Endpoint::node(NodeId(13)), own(13)), "");
    assert_eq!(refusal(Endpoint::node(NodeId(13)), own(13)), "");
    assert_eq!(
        refusal(Endpoint::node(NodeId(13)), Incarnation(1)),
        "true: this life of node 13 is not in view 1"
    );
    assert_eq!(
        refusal(Endpoint::node(NodeId(11)), own(11)),
        "false: of two data nodes the higher id connects, not 11"
    );
    let worker = Endpoint::new(NodeId(13), WorkerId(0));
    assert_eq!(refusal(worker, own(13)), "false: n12 is for other data nodes, not for n13w0");
}

#[test]
fn alone_it_needs_no_acknowledgement_but_waits_out_its_predecessors_lease() {
    let mut node = node(&config(&[11], 1), 11, 1);
    turn(&mut node, ms(0), Input::Timer);
    turn(&mut node, ms(1), says(0, Word::View(Arc::new(view(1, &[(11, Up)])))));
    let mut gained = None;
    while gained.is_none() {
        let due = node.next_timeout().unwrap();
        let effects = turn(&mut node, due, Input::Timer);
        gained = told(&effects, 1).contains(&ToWorker::Lease(Time(u64::MAX))).then_some(due);
    }
    // 250 ms and two clocks' drift of 1 % each: at the first tick or epoch past 255 ms.
    assert_eq!(gained, Some(ms(261)));
}

#[test]
fn a_lease_follows_the_acknowledged_heartbeats_and_ends_without_them() {
    let mut net = Net::new(&config(&[11, 12], 2));
    net.run(10);
    net.publish(view(1, &[(11, Up), (12, Up)]));
    net.run(1000);
    // The newest heartbeat went out with the tick of 1000 ms.
    for id in [11, 12] {
        assert_eq!((net.node(id).lease(), net.workers(id).lease), (ms(1250), ms(1250)), "node {id}");
    }
    // An acknowledgement that comes late is worth what the heartbeat's sending was.
    net.block(12, 11, false);
    net.run(1130);
    assert_eq!(net.node(11).lease(), ms(1250));
    net.blocked.clear();
    net.run(1131);
    assert_eq!(net.node(11).lease(), ms(1350));
    net.block(12, 11, false);
    net.run(2000);
    // 11 hears nothing from 12, and so gets no answer; 12 gets none because its own heartbeats do not arrive.
    assert_eq!((net.node(11).lease(), net.node(12).lease()), (ms(1350), ms(1350)));
    assert_eq!(net.report(11).hears, []);
    assert_eq!(net.report(12).hears, [life(11)], "the other direction is open");
    net.blocked.clear();
    net.run(2100);
    assert_eq!((net.node(11).lease(), net.node(12).lease()), (ms(2350), ms(2350)));
    assert_eq!(net.report(11).hears, [life(12)]);
}

#[test]
fn only_buddies_that_count_are_needed() {
    let config = config(&[11, 12, 13, 14], 2);
    for (state, lease, other) in
        [(Syncing, Time(u64::MAX), ms(0)), (Ready, ms(850), ms(0)), (Up, ms(850), ms(850))]
    {
        let mut net = Net::new(&config);
        net.run(10);
        net.publish(view(1, &[(11, Up), (12, state), (13, Up), (14, Syncing)]));
        net.run(600);
        net.block(11, 12, true);
        net.run(900);
        assert_eq!((net.node(11).lease(), net.node(12).lease()), (lease, other), "12 is {state:?}");
        assert_eq!(net.node(13).lease(), Time(u64::MAX));
        assert_eq!(net.node(14).lease(), Time(0), "it is syncing");
    }
}

#[test]
fn it_stops_serving_when_a_whole_group_is_silent() {
    let mut net = Net::new(&config(&[11, 12, 13, 14], 2));
    net.run(10);
    net.publish(view(1, &[(11, Up), (12, Up), (13, Up), (14, Up)]));
    net.run(1000);
    net.kill(NodeId(13));
    net.run(3000);
    assert_eq!(net.node(11).lease(), ms(3250), "its group has another member");
    net.kill(NodeId(14));
    net.run(3900);
    assert_eq!(net.node(11).lease(), ms(4150));
    net.run(4100);
    assert_eq!((net.node(11).lease(), net.node(12).lease()), (Time(0), Time(0)));
    assert!(net.events.contains(&(NodeId(11), Event::StopsServing)));
}

#[test]
fn reports_come_with_every_tick_and_with_every_change() {
    let mut net = Net::new(&config(&[11, 12], 2));
    net.run(120);
    let expected = ReportOrd {
        life: life(11),
        workers: 2,
        view: ViewNumber(0),
        catalog: 0,
        indexed: 0,
        index_full: false,
        hears: vec![],
        copied: None,
        counts: vec![],
        leaving: false,
        durable: false,
        restorable: None,
        initial: false,
    };
    assert_eq!(net.manager().reports[&life(11)], (ms(100), expected.clone()));
    net.broadcast(|link| link.send_control(Kind::CatalogOrd, &Catalog { version: 5, ..Catalog::default() }));
    assert_eq!(net.manager().reports[&life(11)], (ms(120), ReportOrd { catalog: 5, ..expected.clone() }));
    net.broadcast(|link| link.send_control(Kind::CatalogOrd, &Catalog { version: 4, ..Catalog::default() }));
    net.publish(view(1, &[(11, Up), (12, Syncing)]));
    net.run(130);
    net.give(12, says(0, Word::Copied(ViewNumber(1), Epoch(0))));
    assert_eq!(net.report(12).copied, None, "one worker of two");
    net.give(12, says(1, Word::Copied(ViewNumber(0), Epoch(0))));
    assert_eq!(net.report(12).copied, None, "that was under another view");
    net.give(12, says(1, Word::Copied(ViewNumber(1), Epoch(0))));
    assert_eq!(net.report(12).copied, None, "it could not serve yet");
    net.run(300);
    let built = |built, full| Word::Indexes { built, full };
    net.give(12, says(0, built(5, false)));
    net.give(12, says(1, built(4, true)));
    let report = net.report(12);
    assert_eq!(
        (report.copied, report.indexed, report.index_full),
        (None, 4, true),
        "its indexes are not built"
    );
    net.give(12, says(1, built(5, false)));
    assert_eq!(net.report(12).copied, Some(ViewNumber(1)));
    net.publish(view(2, &[(11, Up), (12, Ready)]));
    assert_eq!(net.report(12).copied, None);
    let report = net.report(11);
    assert_eq!(report, ReportOrd { view: ViewNumber(2), catalog: 5, hears: vec![life(12)], ..expected });
}

/// A register that was lost and made anew counts versions of its catalog from the beginning, with other tables.
#[test]
fn a_catalog_is_taken_only_from_a_register_that_knows_the_view() {
    let mut net = Net::new(&config(&[11, 12], 2));
    net.run(120);
    let tell = |net: &mut Net, version| {
        net.broadcast(|link| link.send_control(Kind::CatalogOrd, &Catalog { version, ..Catalog::default() }));
    };
    let known = |net: &mut Net| (net.report(11).catalog, net.report(12).catalog);
    net.publish(view(1, &[(11, Up), (12, Up)]));
    tell(&mut net, 3);
    assert_eq!(known(&mut net), (3, 3));
    // The management node's word comes later than a worker's, or a peer's.
    net.give(11, says(0, Word::View(Arc::new(view(2, &[(11, Up), (12, Up)])))));
    net.run(200);
    tell(&mut net, 4);
    tell(&mut net, 5);
    net.run(300);
    assert_eq!((net.node(12).view().number, known(&mut net)), (ViewNumber(2), (3, 3)));
    net.publish(view(1, &[(11, Up), (12, Up)]));
    assert_eq!(known(&mut net), (3, 3));
    net.publish(view(2, &[(11, Up), (12, Up)]));
    net.run(400);
    assert_eq!(known(&mut net), (5, 5));
}

/// A worker that has not read yet that its lease is shorter might serve when the buddy has taken over.
#[test]
fn a_buddy_is_counted_once_every_worker_knows_the_shorter_lease() {
    let mut node = node(&config(&[11, 12], 2), 11, 2);
    let first = Arc::new(view(1, &[(11, Up), (12, Syncing)]));
    for worker in 0..2 {
        turn(&mut node, ms(0), says(worker, Word::View(first.clone())));
    }
    turn(&mut node, ms(300), Input::Timer);
    assert_eq!(node.lease(), Time(u64::MAX));
    let effects = turn(&mut node, ms(310), says(0, Word::View(Arc::new(view(2, &[(11, Up), (12, Ready)])))));
    let told = told(&effects, 2);
    let [ToWorker::View(_), ToWorker::Lease(Time(0)), ToWorker::AreYouThere(question)] = told[..] else {
        panic!("{told:?}");
    };
    for worker in 0..2 {
        turn(&mut node, ms(310), says(worker, Word::Counts(ViewNumber(2), life(12))));
    }
    assert_eq!(node.report(ms(310)).counts, []);
    turn(&mut node, ms(310), says(0, Word::Alive(question)));
    assert_eq!(node.report(ms(310)).counts, []);
    turn(&mut node, ms(310), says(1, Word::Alive(question)));
    assert_eq!(node.report(ms(310)).counts, [life(12)]);
    turn(&mut node, ms(320), says(1, Word::View(Arc::new(view(3, &[(11, Up), (12, Up)])))));
    assert_eq!(node.report(ms(320)).counts, [], "it was said under another view, and 12 is ready no more");
}

#[test]
fn a_hanging_worker_silences_the_node_and_ends_it() {
    let mut net = Net::new(&config(&[11, 12], 2));
    net.run(10);
    net.publish(view(1, &[(11, Up), (12, Up)]));
    net.run(1000);
    net.workers.get_mut(&NodeId(11)).unwrap().hang = true;
    net.run(1500);
    assert_eq!(net.report(12).hears, [life(11)]);
    net.run(2200);
    assert!(net.events.contains(&(NodeId(11), Event::Hangs { worker: WorkerId(0) })));
    let (at, report) = net.manager().reports[&life(11)].clone();
    assert!(at < ms(1600) && report.hears == [life(12)], "{at:?} {report:?}");
    assert!(net.node(12).lease() < ms(1900));
    assert_eq!(net.report(12).hears, []);
    net.run(3100);
    assert_eq!(net.exits[&NodeId(11)], (ms(3050), true, "worker 0 does not answer".into()));
}

#[test]
fn the_last_of_a_group_is_silent_and_does_not_end() {
    let mut net = Net::new(&config(&[11, 12], 2));
    net.run(10);
    net.publish(view(1, &[(11, Up), (12, Ready)]));
    net.run(1000);
    net.workers.get_mut(&NodeId(11)).unwrap().hang = true;
    net.run(9000);
    assert!(net.events.contains(&(NodeId(11), Event::Hangs { worker: WorkerId(0) })));
    assert!(net.exits.is_empty(), "{:?}", net.exits);
    assert!(net.node(11).lease() < ms(9000));
}

/// When the whole process stood still nobody was silent.
#[test]
fn a_pause_of_the_process_is_no_silence_of_a_worker() {
    let mut node = node(&config(&[11], 1), 11, 1);
    turn(&mut node, ms(0), Input::Timer);
    turn(&mut node, ms(60_000), Input::Timer);
    let effects = turn(&mut node, ms(60_050), Input::Timer);
    assert_eq!(told(&effects, 1), [ToWorker::AreYouThere(3)]);
    assert!(!node.suspended());
}

#[test]
fn a_management_node_started_anew_gets_a_new_link() {
    let mut net = Net::new(&config(&[11], 1));
    net.run(100);
    net.manager().links = Links::new(Endpoint::node(MANAGER), Incarnation(2), "test");
    net.manager().reports.clear();
    net.forget_wires();
    net.run(200);
    assert_eq!(net.report(11).life, life(11));
}

/// While a new buddy is not counted yet its acknowledgement is there already: the lease has no gap when it counts.
#[test]
fn a_buddy_that_begins_to_count_costs_no_lease() {
    let mut net = Net::new(&config(&[11, 12], 2));
    net.run(10);
    net.publish(view(1, &[(11, Up)]));
    net.run(1010);
    net.publish(view(2, &[(11, Up), (12, Syncing)]));
    assert_eq!(net.node(11).lease(), Time(u64::MAX));
    net.publish(view(3, &[(11, Up), (12, Ready)]));
    assert_eq!(net.node(11).lease(), ms(1260));
    assert!(!net.events.contains(&(NodeId(11), Event::StopsServing)));
}
