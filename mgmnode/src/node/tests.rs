//! Management nodes on a network in memory.

mod driver;
mod empty_directory;
mod guard;
mod indexes;
mod rebuild;
mod told;

use twofold_proto::{
    error::ErrorCode,
    ids::{Endpoint, NodeId, ViewNumber, WorkerId},
    message::{CatalogChange, GoneOrd, Kind, control},
    schema::{Column, ColumnType},
    view::View,
};

use self::driver::Driver;
use super::{AdminCommand, AdminReply, Effect, Input, ManagementNode};
use crate::{
    log::Stored,
    notice::Notice,
    replica::SNAPSHOT_EVERY,
    status::NodeState,
    testing::{config, life, show_view, table, with_management_nodes},
};
use twofold_proto::{
    config::ClusterConfig,
    ids::{Epoch, Incarnation},
    machine::Machine,
    time::Time,
};

fn cluster(management: u16) -> ClusterConfig {
    with_management_nodes(config(2, &[11, 12]), management)
}

/// A cluster that has its first view.
fn running(management: u16) -> (Driver, ClusterConfig, [usize; 2]) {
    let config = cluster(management);
    let mut driver = Driver::new(&config);
    let nodes = ["11a", "12a"].map(|name| driver.data_node(life(name), 1..=management));
    driver.until("the first view", |driver| {
        driver.probe_ref(nodes[1]).view().is_some_and(|view| view.number.0 == 1)
    });
    (driver, config, nodes)
}

fn newest(driver: &Driver, process: usize) -> String {
    show_view(&driver.probe_ref(process).view().unwrap())
}

#[test]
fn a_config_that_is_to_be_changed_is_told_to_nobody() {
    let (mut driver, config, _) = running(3);
    let mut changed = config.clone();
    changed.data_memory *= 2;
    for id in 1..=3 {
        driver.kill(id);
    }
    for id in 1..=2 {
        driver.start(&changed, NodeId(id));
    }
    let probe = driver.probe(life("21a"), WorkerId(0), "local", [1, 2]);
    driver.until("a leader", |driver| driver.probe_ref(probe).config().is_some());
    let told = driver.probe_ref(probe).received.iter().filter(|(_, kind, _)| *kind == Kind::ConfigOrd);
    let memory = told.map(|(_, _, body)| control::<ClusterConfig>(body).unwrap().data_memory);
    assert!(memory.into_iter().all(|bytes| bytes == changed.data_memory));
}

#[test]
fn a_config_that_is_refused_leaves_the_former_one() {
    let (mut driver, config, _) = running(1);
    let mut refused = config.clone();
    refused.partitions /= 2;
    driver.kill(1);
    driver.start(&refused, NodeId(1));
    let probe = driver.probe(life("21a"), WorkerId(0), "local", [1]);
    driver.run(2500);
    assert!(driver.notices.iter().any(|(_, notice)| matches!(notice, Notice::ConfigRefused(_))));
    assert_eq!(driver.probe_ref(probe).config(), None);
    driver.end(probe);
    driver.run(1000);
    let later = driver.probe(life("21b"), WorkerId(0), "local", [1]);
    driver.run(200);
    assert_eq!(driver.probe_ref(later).config(), Some(config));
}

#[test]
fn a_single_node_leads_at_once_and_forms_the_first_view() {
    let (mut driver, config, [a, b]) = running(1);
    assert!(driver.now < Time::from_millis(1200), "{:?}", driver.now);
    driver.run(100);
    assert_eq!(newest(&driver, a), "1 r1: 11a=up 12a=up");
    assert_eq!(driver.probe_ref(b).config(), Some(config));
}

#[test]
fn three_and_five_nodes_elect_a_leader_within_a_second() {
    for count in [3, 5] {
        let config = cluster(count);
        let mut driver = Driver::new(&config);
        driver.run(1000);
        let leader = driver.leader().expect("a leader");
        // The shortest patience is that of the lowest id.
        assert_eq!(leader, 1);
        for id in 1..=count {
            assert_eq!(driver.node(id).leader(), Some(NodeId(1)));
            assert_eq!(driver.node(id).register().config(), Some(&config));
        }
    }
}

#[test]
fn what_is_agreed_is_known_everywhere() {
    let (mut driver, _, [a, _]) = running(3);
    driver.run(200);
    for id in 1..=3 {
        assert_eq!(show_view(driver.node(id).register().view()), "1 r1: 11a=up 12a=up");
    }
    // Followers push it, too.
    let from: Vec<u16> = driver
        .probe_ref(a)
        .received
        .iter()
        .filter(|(_, kind, body)| {
            *kind == Kind::ViewOrd
                && twofold_proto::message::control::<View>(body).unwrap().number == ViewNumber(1)
        })
        .map(|(node, ..)| node.0)
        .collect();
    assert_eq!(from.len(), 3, "{from:?}");
}

#[test]
fn another_leads_when_the_leader_is_killed_and_the_register_goes_on() {
    for count in [3, 5] {
        let (mut driver, config, [a, b]) = running(count);
        let first = driver.leader().unwrap();
        driver.kill(first);
        let killed = driver.now;
        driver.until("another leader", |driver| driver.leader().is_some());
        assert!(
            driver.now.since(killed) < std::time::Duration::from_secs(1),
            "{:?}",
            driver.now.since(killed)
        );
        assert_ne!(driver.leader(), Some(first));
        driver.end(b);
        driver.until("a view without node 12", |driver| newest(driver, a) == "2 r1: 11a=up");
        driver.start(&config, NodeId(first));
        driver.until("the old leader has caught up", |driver| {
            driver.node(first).register().view().number == ViewNumber(2)
        });
    }
}

#[test]
fn a_minority_decides_nothing_and_gives_up_leading() {
    let (mut driver, _, [a, _]) = running(3);
    let leader = driver.leader().unwrap();
    for other in 1..=3u16 {
        if other != leader {
            driver.cut.push((NodeId(leader), NodeId(other)));
        }
    }
    driver.run(1500);
    assert!(!driver.node(leader).is_leading());
    assert!(driver.leader().is_some_and(|other| other != leader));
    // Its data node reports to it alone, and is heard by nobody else.
    let third = driver.data_node(life("12b"), [leader]);
    driver.run(1000);
    assert_eq!(newest(&driver, third), "1 r1: 11a=up 12a=up");
    assert_eq!(newest(&driver, a), "1 r1: 11a=up 12a=up");
    driver.cut.clear();
    driver.run(1000);
    let leaders: Vec<Option<NodeId>> = (1..=3).map(|id| driver.node(id).leader()).collect();
    assert!(leaders[0].is_some() && leaders.iter().all(|leader| *leader == leaders[0]), "{leaders:?}");
}

#[test]
fn all_are_killed_and_go_on_with_what_is_on_disk() {
    for count in [1, 3] {
        let (mut driver, config, [a, b]) = running(count);
        driver.change(a, 1, CatalogChange::CreateTable(table("t")));
        driver.until("the table", |driver| driver.probe_ref(b).catalog() == 1);
        for id in 1..=count {
            driver.kill(id);
        }
        driver.run(300);
        for id in 1..=count {
            driver.start(&config, NodeId(id));
        }
        driver.until("a leader", |driver| driver.leader().is_some());
        let leader = driver.leader().unwrap();
        let register = driver.node(leader).register();
        assert_eq!(show_view(register.view()), "1 r1: 11a=up 12a=up");
        assert_eq!(register.catalog().tables[0].name, "t");
        // The data nodes have lived on and are not dropped.
        driver.run(2000);
        assert_eq!(show_view(driver.node(leader).register().view()), "1 r1: 11a=up 12a=up");
    }
}

#[test]
fn a_node_that_slept_drops_nobody_for_its_own_silence() {
    let (mut driver, _, [a, b]) = running(1);
    driver.run(1000);
    driver.paused.push(NodeId(1));
    driver.run(5000);
    // What node 12 has said meanwhile comes later than what node 11 has.
    driver.cut.push((NodeId(1), NodeId(12)));
    driver.paused.clear();
    driver.run(200);
    driver.cut.clear();
    driver.run(400);
    assert_eq!(newest(&driver, a), "1 r1: 11a=up 12a=up");
    driver.end(b);
    driver.until("silence is noticed", |driver| newest(driver, a) == "2 r1: 11a=up");
}

#[test]
fn a_node_that_its_angel_reports_is_dropped_at_once_and_comes_back_step_by_step() {
    let (mut driver, _, [a, b]) = running(3);
    driver.run(1000);
    driver.end(b);
    // The angel reaches one management node only, not the leader.
    let follower = (1..=3).find(|id| Some(*id) != driver.leader()).unwrap();
    let angel = driver.probe(crate::testing::life("12z"), WorkerId(0), "local", [follower]);
    let told = driver.now;
    driver.send(angel, Kind::GoneOrd, &GoneOrd { life: life("12a") });
    driver.until("the view", |driver| newest(driver, a) == "2 r1: 11a=up");
    assert!(driver.now.since(told) < std::time::Duration::from_millis(100), "{:?}", driver.now.since(told));
    let gone = driver.probe_ref(a).received.iter().filter(|(_, kind, _)| *kind == Kind::GoneRep).count();
    assert_eq!(gone, 3);
    let c = driver.data_node(life("12b"), 1..=3);
    driver.until("it is up", |driver| driver.probe_ref(a).view().unwrap().is_up(NodeId(12)));
    assert_eq!(newest(&driver, c), "5 r1: 11a=up 12b=up");
}

#[test]
fn a_life_that_was_dropped_is_told_to_begin_anew() {
    let (mut driver, _, [a, b]) = running(1);
    driver.run(1000);
    driver.cut.push((NodeId(1), NodeId(12)));
    driver.until("it is dropped", |driver| newest(driver, a) == "2 r1: 11a=up");
    driver.cut.clear();
    driver.run(200);
    let stop = driver.probe_ref(b).stop().unwrap();
    assert_eq!((stop.life, stop.restart, stop.error.code), (life("12a"), true, ErrorCode::NotServing));
    assert_eq!(newest(&driver, b), "2 r1: 11a=up");
}

#[test]
fn a_second_process_of_a_data_node_is_refused_in_words() {
    let (mut driver, _, [a, _]) = running(1);
    let second = driver.data_node(life("12b"), [1]);
    driver.run(400);
    assert_eq!(driver.probe_ref(second).stop(), None);
    driver.run(300);
    let stop = driver.probe_ref(second).stop().unwrap();
    assert_eq!((stop.life, stop.restart, stop.error.code), (life("12b"), false, ErrorCode::JoinRefused));
    assert!(stop.error.text.starts_with("node 12 runs already"), "{}", stop.error);
    assert_eq!(newest(&driver, a), "1 r1: 11a=up 12a=up");
}

#[test]
fn a_group_that_has_ended_makes_the_cluster_restart_from_disk() {
    let (mut driver, _, [a, b]) = running(1);
    driver.end(a);
    driver.end(b);
    driver.run(2000);
    let c = driver.data_node_with(life("11b"), 1, Epoch::new(1, 70));
    driver.data_node_with(life("12b"), 1, Epoch::new(1, 69));
    driver.until("a new first view", |driver| {
        driver.probe_ref(c).view().is_some_and(|view| view.number.0 == 3)
    });
    assert_eq!(newest(&driver, c), "3 r2: 11b=up 12b=syncing back to 1.70");
    let told =
        driver.notices.iter().any(|(_, notice)| notice.to_string().contains("went back to epoch 1.70"));
    assert!(told, "{:?}", driver.notices);
}

#[test]
fn who_may_not_connect_is_told_why() {
    let (mut driver, ..) = running(3);
    let refused = |driver: &mut Driver, name: &str, worker: WorkerId, cluster: &str| {
        let probe = driver.probe(life(name), worker, cluster, [1]);
        driver.run(20);
        driver.probe_ref(probe).refused.first().cloned()
    };
    let reason = refused(&mut driver, "13a", WorkerId::NODE, "local").unwrap();
    assert_eq!(reason, "node 13 is not in the config; add a section with id = 13");
    let reason = refused(&mut driver, "11c", WorkerId::NODE, "other").unwrap();
    assert_eq!(reason, "this is cluster «local», not «other»");
    assert_eq!(refused(&mut driver, "0a", WorkerId(0), "local"), None);
    assert_eq!(refused(&mut driver, "0b", WorkerId(0), "local"), None);
    assert_eq!(refused(&mut driver, "21a", WorkerId(0), "local"), None);
    assert_eq!(refused(&mut driver, "21b", WorkerId(1), "local"), None);
    let reason = refused(&mut driver, "21c", WorkerId(0), "local").unwrap();
    assert_eq!(reason, "API node 21 runs already; give this one an id of its own, or end the other");
}

#[test]
fn an_api_node_that_was_started_anew_is_let_in() {
    let (mut driver, ..) = running(1);
    let first = driver.probe(life("21a"), WorkerId(0), "local", [1]);
    driver.run(50);
    driver.end(first);
    let second = driver.probe(life("21b"), WorkerId(0), "local", [1]);
    driver.run(50);
    assert_eq!(driver.probe_ref(second).refused, Vec::<String>::new());
    assert_eq!(newest(&driver, second), "1 r1: 11a=up 12a=up");
}

#[test]
fn a_change_of_the_catalog_is_answered_when_all_up_nodes_know_it() {
    let (mut driver, _, [a, b]) = running(3);
    let leader = driver.leader().unwrap();
    let client = driver.probe(life("0a"), WorkerId(0), "local", [leader]);
    driver.run(50);
    // One data node takes its time.
    driver.probe_mut(b).is_good = false;
    driver.change(client, 7, CatalogChange::CreateTable(table("t")));
    driver.run(500);
    assert_eq!(driver.probe_ref(a).catalog(), 1);
    assert_eq!(driver.probe_ref(client).answers(), []);
    driver.probe_mut(b).is_good = true;
    driver.run(100);
    driver.change(client, 8, CatalogChange::CreateTable(table("t")));
    driver.run(100);
    let answers = driver.probe_ref(client).answers();
    assert_eq!((answers[0].request, &answers[0].result), (7, &Ok(1)));
    assert_eq!(
        (answers[1].request, answers[1].result.as_ref().unwrap_err().code),
        (8, ErrorCode::TableExists)
    );
    assert_eq!(answers.len(), 2);
}

#[test]
fn a_change_that_a_node_does_not_take_over_ends_unknown() {
    let (mut driver, _, [_, b]) = running(1);
    let client = driver.probe(life("0a"), WorkerId(0), "local", [1]);
    driver.run(50);
    driver.probe_mut(b).is_good = false;
    driver.change(client, 7, CatalogChange::CreateTable(table("t")));
    driver.run(10_200);
    let answers = driver.probe_ref(client).answers();
    assert_eq!(answers[0].result.as_ref().unwrap_err().code, ErrorCode::OutcomePending);
}

#[test]
fn a_change_asked_of_a_follower_names_the_leader() {
    let (mut driver, ..) = running(3);
    let client = driver.probe(life("0a"), WorkerId(0), "local", [3]);
    driver.run(50);
    driver.change(client, 7, CatalogChange::DropTable("t".into()));
    driver.run(50);
    let error = driver.probe_ref(client).answers()[0].result.clone().unwrap_err();
    assert_eq!(error.code, ErrorCode::NoLeader);
    assert_eq!(error.text, "ask the leader of the management nodes, node 1 at 127.0.0.1:1001");
}

#[test]
fn a_change_of_a_leader_that_lost_its_majority_ends_unknown() {
    let (mut driver, ..) = running(3);
    let client = driver.probe(life("0a"), WorkerId(0), "local", [1]);
    driver.run(50);
    driver.cut = vec![(NodeId(1), NodeId(2)), (NodeId(1), NodeId(3))];
    driver.change(client, 7, CatalogChange::CreateTable(table("t")));
    driver.run(1500);
    let error = driver.probe_ref(client).answers()[0].result.clone().unwrap_err();
    assert_eq!(error.code, ErrorCode::OutcomePending);
}

#[test]
fn the_log_stays_short_and_a_node_that_was_away_gets_a_snapshot() {
    let (mut driver, config, _) = running(3);
    let client = driver.probe(life("0a"), WorkerId(0), "local", [1]);
    driver.kill(3);
    for number in 0..(SNAPSHOT_EVERY + 50) as u32 {
        driver.change(client, number, CatalogChange::CreateTable(table(&format!("t{number}"))));
        driver.run(5);
    }
    driver.run(500);
    for id in 1..=2 {
        let stored = &driver.stored[&NodeId(id)];
        assert!(
            stored.snapshot.is_some() && stored.entries.len() < SNAPSHOT_EVERY as usize,
            "{}",
            stored.entries.len()
        );
    }
    driver.start(&config, NodeId(3));
    driver.until("it has caught up", |driver| driver.node(3).register() == driver.node(1).register());
    assert!(driver.stored[&NodeId(3)].snapshot.is_some());
    // It can go on from its own disk.
    driver.run(500);
    driver.kill(3);
    driver.start(&config, NodeId(3));
    driver.until("it knows all again", |driver| driver.node(3).register() == driver.node(1).register());
    driver.kill(1);
    driver.until("another leader", |driver| driver.leader().is_some());
}

#[test]
fn votes_and_answers_wait_for_the_disk() {
    let config = cluster(3);
    // It has been there before: a new one would ask the others first.
    let hard_state = crate::log::encode(&raft::eraftpb::HardState { term: 1, ..Default::default() });
    let stored = Stored { hard_state: Some(hard_state), ..Stored::default() };
    let mut node = ManagementNode::new(config, NodeId(1), Incarnation(5), &stored).unwrap();
    let mut effects = Vec::new();
    let mut now = Time::from_millis(10);
    for _ in 0..20 {
        node.step(now, Input::Timer, &mut effects);
        twofold_proto::links::Linked::end_turn(&mut node, now, &mut effects);
        now = now + std::time::Duration::from_millis(50);
    }
    // It asks who would vote for it, which promises nothing, and stores nothing before somebody would.
    assert_eq!(effects, []);

    let mut single = ManagementNode::new(cluster(1), NodeId(1), Incarnation(5), &Stored::default()).unwrap();
    let mut turn = |input: Input<'_>| {
        let mut effects = Vec::new();
        single.step(now, input, &mut effects);
        twofold_proto::links::Linked::end_turn(&mut single, now, &mut effects);
        let writes: Vec<u64> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Persist { id, .. } => Some(*id),
                _ => None,
            })
            .collect();
        (writes, single.register().config().is_some())
    };
    // Vote and first entry; then the config; nothing is agreed before it is on disk.
    assert_eq!(turn(Input::Timer), (vec![1], false));
    assert_eq!(turn(Input::Timer), (vec![], false));
    assert_eq!(turn(Input::Persisted { id: 1 }), (vec![2], false));
    assert_eq!(turn(Input::Timer), (vec![], false));
    assert_eq!(turn(Input::Persisted { id: 2 }), (vec![], true));
}

#[test]
fn nodes_stop_when_asked_but_not_the_last_of_a_group() {
    let (mut driver, _, [a, b]) = running(3);
    driver.run(200);
    let stop = |node: u16, force| AdminCommand::Stop { node: NodeId(node), restart: true, force };
    let refused = |reply: AdminReply| match reply {
        AdminReply::Refused(error) => error.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(driver.ask(2, stop(12, false))), ErrorCode::NoLeader);
    assert_eq!(refused(driver.ask(1, stop(99, false))), ErrorCode::NoSuchNode);
    assert_eq!(refused(driver.ask(1, stop(2, false))), ErrorCode::NotSupported);
    // It has nobody to hand over to, so its process is simply ended.
    assert_eq!(refused(driver.ask(1, stop(21, false))), ErrorCode::NotSupported);
    assert_eq!(driver.ask(1, stop(12, false)), AdminReply::Done);
    // From now on it is about to go, so the other has to stay.
    assert_eq!(refused(driver.ask(1, stop(11, false))), ErrorCode::LastOfGroup);
    driver.run(50);
    let order = driver.probe_ref(b).stop().unwrap();
    assert_eq!((order.life, order.restart, order.error.code), (life("12a"), true, ErrorCode::Stopping));
    driver.probe_mut(b).report.as_mut().unwrap().leaving = true;
    driver.until("it has left", |driver| newest(driver, a) == "2 r1: 11a=up");
    assert_eq!(refused(driver.ask(1, stop(11, false))), ErrorCode::LastOfGroup);
    assert_eq!(driver.ask(1, stop(11, true)), AdminReply::Done);
    driver.run(50);
    assert_eq!(driver.probe_ref(a).stop().unwrap().error.code, ErrorCode::LastOfGroup);
}

#[test]
fn an_order_to_stop_that_was_lost_is_given_again() {
    let (mut driver, _, [_, b]) = running(1);
    driver.run(200);
    driver.paused.push(NodeId(12));
    let stop = AdminCommand::Stop { node: NodeId(12), restart: false, force: false };
    assert_eq!(driver.ask(1, stop), AdminReply::Done);
    driver.run(20);
    driver.forget_links(b);
    driver.paused.clear();
    driver.run(500);
    assert_eq!(driver.probe_ref(b).stop(), None);
    driver.run(700);
    assert_eq!(driver.probe_ref(b).stop().map(|order| order.life), Some(life("12a")));
    let orders = |driver: &Driver| {
        driver.probe_ref(b).received.iter().filter(|(_, kind, _)| *kind == Kind::StopOrd).count()
    };
    driver.probe_mut(b).report.as_mut().unwrap().leaving = true;
    driver.run(5000);
    assert_eq!(orders(&driver), 1);
}

#[test]
fn who_was_too_far_behind_to_be_told_is_told_once_it_reads_again() {
    let (mut driver, _, [a, b]) = running(1);
    driver.run(200);
    let client = driver.probe(life("21a"), WorkerId(0), "local", [1]);
    driver.run(50);
    for process in [a, b] {
        driver.probe_mut(process).is_good = false;
    }
    driver.paused.push(NodeId(21));
    for number in 0..32 {
        let mut large = table(&format!("t{number}"));
        large.columns.extend((0..900).map(|n| Column::new(format!("{n:0>250}"), ColumnType::I64)));
        driver.change(a, number, CatalogChange::CreateTable(large));
        driver.run(10);
    }
    driver.run(50);
    assert_eq!(driver.node(1).register().catalog().version, 32);
    driver.paused.clear();
    driver.run(200);
    assert_eq!(driver.probe_ref(client).catalog(), 32);
    let catalogs =
        driver.probe_ref(client).received.iter().filter(|(_, kind, _)| *kind == Kind::CatalogOrd).count();
    assert!(catalogs < 30, "{catalogs}: nothing was left out");
}

#[test]
fn the_status_tells_how_each_node_is() {
    let (mut driver, _, [_, b]) = running(3);
    driver.kill(2);
    driver.end(b);
    driver.data_node(life("12b"), [1, 3]);
    driver.run(150);
    let status = |driver: &mut Driver| match driver.ask(1, AdminCommand::Status) {
        AdminReply::Status(status) => *status,
        other => panic!("{other:?}"),
    };
    let now = status(&mut driver);
    assert_eq!(
        (&*now.cluster, now.leader, now.view, now.restart),
        ("local", Some(NodeId(1)), ViewNumber(1), 1)
    );
    let states = |status: &crate::status::Status| -> Vec<(String, NodeState)> {
        status.nodes.iter().map(|node| (node.name.clone(), node.state)).collect()
    };
    let expect = |data2| {
        [
            ("mgm1", NodeState::Up),
            ("mgm2", NodeState::Down),
            ("mgm3", NodeState::Follower),
            ("data1", NodeState::Up),
            ("data2", data2),
            ("api1", NodeState::Down),
        ]
        .map(|(name, state)| (name.to_string(), state))
    };
    // The old life is not given up yet.
    assert_eq!(states(&now), expect(NodeState::Up));
    driver.run(2000);
    let now = status(&mut driver);
    assert_eq!(states(&now), expect(NodeState::Up));
    assert_eq!(now.nodes[4].incarnation, life("12b").incarnation);
}

#[test]
fn nonsense_ends_a_link() {
    let (mut driver, _, [a, _]) = running(1);
    for (kind, body) in [
        (Kind::ReportOrd, vec![1u8, 2, 3]),
        (Kind::RaftOrd, vec![9; 40]),
        (Kind::GoneOrd, Vec::new()),
        (Kind::CatalogReq, vec![255; 4]),
        (Kind::WriteSetReq, vec![0; 8]),
    ] {
        let client = driver.probe(life("0a"), WorkerId(0), "local", [1]);
        driver.run(20);
        let before = driver.notices.len();
        driver.send(client, kind, &body);
        driver.run(20);
        let said =
            driver.notices[before..].iter().any(|(_, notice)| matches!(notice, Notice::Nonsense { .. }));
        assert!(said, "{kind:?}: {:?}", &driver.notices[before..]);
        driver.end(client);
        driver.run(20);
    }
    // A client cannot say that a node is gone, nor a node that another is.
    let client = driver.probe(life("11z"), WorkerId(3), "local", [1]);
    driver.send(client, Kind::GoneOrd, &GoneOrd { life: life("12a") });
    driver.run(300);
    assert_eq!(newest(&driver, a), "1 r1: 11a=up 12a=up");
}

#[test]
fn a_config_that_cannot_follow_is_refused_in_the_log() {
    let (mut driver, _, [a, _]) = running(1);
    driver.kill(1);
    let other = with_management_nodes(config(2, &[11, 13]), 1);
    driver.start(&other, NodeId(1));
    driver.run(300);
    let refused =
        driver.notices.iter().filter(|(_, notice)| matches!(notice, Notice::ConfigRefused(_))).count();
    assert_eq!(refused, 1);
    driver.kill(1);
    let slower = ClusterConfig { failure_ms: 5000, ..cluster(1) };
    driver.start(&slower, NodeId(1));
    driver.run(300);
    assert_eq!(driver.probe_ref(a).config().unwrap().failure_ms, 5000);
}

#[test]
fn the_same_inputs_give_the_same_effects() {
    let run = || {
        let (mut driver, config, [_, b]) = running(3);
        driver.end(b);
        driver.kill(1);
        driver.run(3000);
        driver.start(&config, NodeId(1));
        driver.data_node(life("12b"), 1..=3);
        driver.run(3000);
        (driver.stored.clone(), driver.notices.clone(), driver.writes_done)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_node_that_the_config_does_not_have_is_refused() {
    let error = ManagementNode::new(cluster(1), NodeId(2), Incarnation(1), &Stored::default()).unwrap_err();
    assert_eq!(error.code, ErrorCode::NoSuchNode);
    assert_eq!(Endpoint::node(NodeId(2)).worker, WorkerId::NODE);
}
