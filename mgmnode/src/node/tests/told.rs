//! What people are told: system restarts, groups that wait, nodes that have ended, and nothing twice.

use twofold_proto::{
    ids::{Epoch, NodeId, ViewNumber, WorkerId},
    message::{GoneOrd, Kind},
};

use super::{
    super::{AdminCommand, AdminReply},
    Driver, life, newest, running,
};
use crate::{
    notice::Notice,
    register::SystemRestart,
    status::{NodeState, Status},
};

/// What is on disk.
const EPOCH: Epoch = Epoch::new(1, 70);

fn status(driver: &mut Driver, id: u16) -> Status {
    match driver.ask(id, AdminCommand::Status) {
        AdminReply::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn state(status: &Status, name: &str) -> (NodeState, bool) {
    let node = status.nodes.iter().find(|node| node.name == name).unwrap();
    (node.state, node.leaving)
}

/// Ends a data node, and has its angel say so.
fn end(driver: &mut Driver, process: usize, name: &str) {
    driver.end(process);
    let angel = driver.probe(life(&format!("{}z", &name[..2])), WorkerId(0), "local", [1]);
    driver.send(angel, Kind::GoneOrd, &GoneOrd { life: life(name) });
}

#[test]
fn a_system_restart_is_told_with_its_time_for_good() {
    let (mut driver, config, [a, b]) = running(1);
    driver.tell_time(1, 1_000_000);
    driver.run(3000);
    assert_eq!(status(&mut driver, 1).system_restart, None, "a first start is none");
    driver.end(a);
    driver.end(b);
    let nodes = ["11b", "12b"].map(|name| driver.data_node_with(life(name), 1, EPOCH));
    driver.until("the cluster restarts", |driver| {
        driver.probe_ref(nodes[0]).view().is_some_and(|view| view.number == ViewNumber(3))
    });
    assert_eq!(newest(&driver, nodes[0]), "3 r2: 11b=up 12b=up back to 1.70");
    let restart = status(&mut driver, 1).system_restart.unwrap();
    assert_eq!(restart, SystemRestart { at_ms: restart.at_ms, restart: 2, epoch: Some(EPOCH) });
    assert!((1_003_000..1_010_000).contains(&restart.at_ms), "{restart:?}");
    let told = |driver: &Driver| {
        driver.notices.iter().filter(|(_, notice)| matches!(notice, Notice::Restarted(_))).count()
    };
    assert_eq!(told(&driver), 1);
    // It is in the register, and no news when that is read again.
    driver.kill(1);
    let before = driver.notices.len();
    driver.start(&config, NodeId(1));
    driver.until("a leader", |driver| driver.leader().is_some());
    driver.run(1000);
    assert_eq!(status(&mut driver, 1).system_restart, Some(restart));
    let news: Vec<&Notice> = driver.notices[before..].iter().map(|(_, notice)| notice).collect();
    let recalled = |notice: &Notice| matches!(notice, Notice::Recalled { view, .. } if view.restart == 2);
    assert_eq!(news.iter().filter(|notice| recalled(notice)).count(), 1, "{news:?}");
    let others = news.iter().filter(|notice| !recalled(notice));
    assert!(others.into_iter().all(|notice| matches!(notice, Notice::Leader { .. })), "{news:?}");
}

#[test]
fn a_voter_that_lost_its_disk_is_told_no_old_news() {
    let (mut driver, config, _) = running(3);
    driver.run(500);
    driver.kill(3);
    driver.stored.remove(&NodeId(3));
    let before = driver.notices.len();
    driver.start(&config, NodeId(3));
    driver.until("it has caught up", |driver| driver.node(3).register().view().number == ViewNumber(1));
    driver.run(500);
    let views = driver.notices[before..].iter().filter(|(_, notice)| matches!(notice, Notice::View { .. }));
    assert_eq!(views.count(), 0, "{:?}", &driver.notices[before..]);
}

#[test]
fn who_was_forced_to_stop_is_down_and_its_buddy_says_for_whom_it_waits() {
    let (mut driver, _, [a, b]) = running(1);
    [a, b].iter().for_each(|&process| driver.probe_mut(process).owns_disk = true);
    driver.until("the disks are theirs", |driver| newest(driver, a) == "2 r1: 11a=up 12a=up");
    end(&mut driver, b, "12a");
    driver.until("node 12 is dropped", |driver| newest(driver, a) == "3 r1: 11a=up");
    let stop = AdminCommand::Stop { node: NodeId(11), restart: false, force: true };
    assert_eq!(driver.ask(1, stop), AdminReply::Done);
    driver.run(20);
    let text = driver.probe_ref(a).stop().unwrap().error.text;
    assert!(text.contains("forced") && !text.contains("force it"), "{text}");
    driver.probe_mut(a).report.as_mut().unwrap().leaving = true;
    driver.run(100);
    assert_eq!(state(&status(&mut driver, 1), "data1"), (NodeState::Up, true));
    end(&mut driver, a, "11a");
    driver.run(5000);
    let told = status(&mut driver, 1);
    assert_eq!(state(&told, "data1"), (NodeState::Down, false));
    let trouble = told.trouble.unwrap();
    assert!(
        trouble.starts_with("group 0 does not serve: data1 (11), which was up in it last, has ended"),
        "{trouble}"
    );
    assert!(trouble.contains("start data1 (11), and the cluster goes on from what is on disk"), "{trouble}");
    // The other one has nothing to begin with.
    let waiting = driver.data_node(life("12b"), [1]);
    driver.run(5000);
    let told = status(&mut driver, 1);
    assert_eq!(state(&told, "data2"), (NodeState::Starting, false));
    let trouble = told.trouble.unwrap();
    assert!(trouble.ends_with("Until then data2 (12) can only wait"), "{trouble}");
    let told: Vec<&str> = driver
        .notices
        .iter()
        .filter_map(|(_, notice)| match notice {
            Notice::GroupStopped(text) => Some(&**text),
            _ => None,
        })
        .collect();
    assert!(told.len() == 2 && told[1] == trouble, "once for each thing to be done: {told:#?}");
    // Nor does it help that the other one comes back without what it had.
    let lost = driver.data_node_with(life("11b"), 9, EPOCH);
    driver.run(20_000);
    let trouble = status(&mut driver, 1).trouble.unwrap();
    assert!(trouble.contains("came back without what the cluster had"), "{trouble}");
    driver.end(lost);
    driver.data_node_with(life("11c"), 1, EPOCH);
    driver.until("the cluster restarts", |driver| newest(driver, waiting).contains("r2: 11c=up 12b="));
    driver.run(1000);
    assert_eq!(status(&mut driver, 1).trouble, None);
}

#[test]
fn a_group_that_only_hangs_is_told_to_be_let_go_on() {
    let (mut driver, _, [a, b]) = running(1);
    driver.run(1000);
    for process in [a, b] {
        driver.probe_mut(process).report = None;
    }
    driver.run(2000);
    let told = status(&mut driver, 1);
    assert_eq!(state(&told, "data1"), (NodeState::Silent, false));
    let trouble = told.trouble.unwrap();
    assert!(trouble.contains("nothing is heard of data1 (11) and data2 (12)"), "{trouble}");
    assert!(trouble.contains("goes on when it can"), "{trouble}");
}

#[test]
fn one_that_was_never_heard_is_down() {
    let (mut driver, config, [a, b]) = running(1);
    driver.run(500);
    driver.kill(1);
    driver.end(a);
    driver.end(b);
    driver.start(&config, NodeId(1));
    driver.run(5000);
    assert_eq!(state(&status(&mut driver, 1), "data1"), (NodeState::Down, false));
}
