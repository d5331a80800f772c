//! Epochs, the president, cluster time.

use MemberState::{Ready, Syncing, Up};

use super::{super::*, driver::*};

const WALL: u64 = 1_800_000_000_000;

fn epochs(net: &Net, id: u16) -> (Epoch, Epoch, ClusterTime) {
    *net.workers(id).epochs.last().expect("some epoch")
}

fn running() -> Net {
    let mut net = Net::new(&config(&[11, 12, 13], 3));
    for id in [11, 12, 13] {
        net.give(id, Input::WallClock(WALL));
    }
    net.run(10);
    net.publish(view(1, &[(11, Up), (12, Up), (13, Syncing)]));
    net
}

#[test]
fn the_president_ends_an_epoch_every_20_ms_and_all_pass_it_on() {
    let mut net = running();
    net.run(11);
    let first = net.node(11).epoch();
    assert!(first > Epoch::new(1, 0), "{first:?}");
    net.run(1011);
    assert_eq!(net.node(11).epoch(), Epoch::new(1, first.counter() + 50));
    for id in [11, 12, 13] {
        assert_eq!(epochs(&net, id), epochs(&net, 11), "node {id}");
    }
    let (epoch, complete, ClusterTime(time)) = epochs(&net, 12);
    // What the workers are done with when an epoch begins is known when the next one does.
    assert_eq!(complete, epoch.previous().previous());
    assert!((WALL + 980..=WALL + 1011).contains(&time), "{time}");
}

#[test]
fn an_epoch_is_complete_when_all_up_members_say_so_under_the_view() {
    let mut net = running();
    net.workers.get_mut(&NodeId(13)).unwrap().done = false;
    net.run(500);
    let (epoch, complete, _) = epochs(&net, 11);
    assert_eq!(complete, epoch.previous().previous(), "nobody waits for the syncing one");
    net.workers.get_mut(&NodeId(12)).unwrap().done = false;
    net.run(600);
    let (.., stuck, _) = (0, epochs(&net, 11).1, 0);
    net.run(900);
    assert_eq!(epochs(&net, 11).1, stuck);
    // What was said under the last view does not count under this one, and what was complete stays so.
    net.publish(view(2, &[(11, Up), (12, Up), (13, Ready)]));
    net.run(1000);
    assert_eq!(epochs(&net, 11).1, stuck);
    net.workers.get_mut(&NodeId(12)).unwrap().done = true;
    net.run(1100);
    assert_eq!(epochs(&net, 11).1, epochs(&net, 11).0.previous().previous());
}

#[test]
fn a_node_is_done_when_all_its_workers_are() {
    let mut workers = Workers::new(2);
    workers.is_done(WorkerId(0), Epoch(9));
    assert_eq!(workers.done(), None);
    workers.is_done(WorkerId(1), Epoch(7));
    assert_eq!(workers.done(), Some(Epoch(7)));
    workers.begin_view();
    assert_eq!(workers.done(), None);
}

#[test]
fn another_president_goes_on_where_the_last_one_was() {
    let mut net = running();
    net.run(1000);
    let (epoch, complete, time) = epochs(&net, 12);
    net.kill(NodeId(11));
    net.publish(view(2, &[(12, Up), (13, Syncing)]));
    net.run(1001);
    let after = epochs(&net, 13);
    assert!(after.0 > epoch && after.1 >= complete && after.2 >= time, "{after:?}");
    net.run(1100);
    let after = epochs(&net, 13);
    assert_eq!(after.1, after.0.previous().previous());
    assert!(net.workers(12).epochs.is_sorted());
}

/// A node that becomes `up`, and president, may know less than those that were there: it hears them first.
#[test]
fn a_new_president_that_was_not_up_before_hears_all_others_first() {
    let mut net = running();
    net.run(500);
    net.publish(view(2, &[(11, Syncing), (12, Up), (13, Up)]));
    net.run(600);
    // 11 was cut off: it knows neither the newest epoch nor the next view of the others.
    net.block(11, 12, true);
    net.block(11, 13, true);
    net.run(900);
    let known = net.node(11).epoch();
    let complete = net.node(12).complete();
    assert!(complete > known);
    net.publish(view(3, &[(11, Up), (12, Up), (13, Up)]));
    net.run(1000);
    assert_eq!((net.node(11).epoch(), net.node(11).lease()), (known, Time(0)));
    net.blocked.clear();
    net.run(1010);
    assert!(net.node(11).epoch() > complete);
    net.run(1100);
    assert!(net.node(11).lease() > net.now);
}

/// The same for one that is not president: it serves once it has had an epoch under the view.
#[test]
fn a_node_that_becomes_up_serves_after_the_next_epoch() {
    let mut net = running();
    net.run(1000);
    net.publish(view(2, &[(11, Up), (12, Up), (13, Ready)]));
    net.run(1100);
    net.block(11, 13, true);
    net.run(1200);
    net.publish(view(3, &[(11, Up), (12, Up), (13, Up)]));
    assert_eq!(net.node(13).lease(), Time(0));
    net.run(1500);
    assert_eq!(net.node(13).lease(), Time(0));
    net.blocked.clear();
    net.run(1600);
    assert!(net.node(13).lease() > net.now);
}

#[test]
fn the_word_of_a_former_president_is_not_heard() {
    let mut net = running();
    net.run(100);
    net.block(1, 11, true);
    net.block(11, 12, true);
    net.block(11, 13, true);
    net.publish(view(2, &[(12, Up), (13, Up)]));
    net.run(300);
    let complete = net.node(12).complete();
    assert!(complete > net.node(11).complete(), "the old president gets no answers");
    net.blocked.remove(&(NodeId(11), NodeId(12)));
    net.run(320);
    assert!(net.workers(12).epochs.is_sorted());
}

fn stamped(steps: &[(u64, Option<u64>)]) -> Vec<u64> {
    let mut epochs = Epochs::default();
    let mut stamps = Vec::new();
    for &(now, wall) in steps {
        if let Some(wall) = wall {
            epochs.set_wall_clock(ms(now), wall);
        }
        let time = epochs.next_time(ms(now));
        epochs.stamp(ms(now), time);
        stamps.push(time.0);
    }
    stamps
}

#[test]
fn cluster_time_follows_the_wall_in_bounded_steps_and_never_runs_back() {
    // It starts with the wall, and goes on with the own clock between two readings of it.
    assert_eq!(stamped(&[(0, Some(WALL)), (20, None), (1000, None)]), [WALL, WALL + 20, WALL + 1000]);
    // A wall that jumps ahead is followed by a second at a time.
    assert_eq!(
        stamped(&[(0, Some(WALL)), (20, Some(WALL + 9_000_000)), (40, None)]),
        [WALL, WALL + 1020, WALL + 2040]
    );
    // One that jumps back is waited for at half speed.
    assert_eq!(
        stamped(&[(0, Some(WALL)), (20, Some(WALL - 500)), (40, None), (2000, None)]),
        [WALL, WALL + 10, WALL + 20, WALL + 1480]
    );
    // Before the wall is known there is no time.
    assert_eq!(stamped(&[(0, None), (20, Some(WALL))]), [0, WALL]);
}

#[test]
fn commits_that_wait_for_the_disks_wait_for_no_tick() {
    let mut net = running();
    net.run(505);
    let (now, epoch) = (net.now, net.node(11).epoch());
    net.give(11, says(1, Word::Wanted(epoch)));
    assert_eq!(net.now, now);
    for id in [11, 12] {
        assert_eq!((net.node(id).epoch(), net.node(id).epochs.durable), (epoch.next(), epoch), "node {id}");
    }
    // The next one ends only when that is durable.
    net.workers.get_mut(&NodeId(12)).unwrap().done = false;
    net.give(11, says(0, Word::Wanted(epoch.next())));
    net.give(11, says(1, Word::Wanted(epoch.next().next())));
    assert_eq!((net.node(11).epoch(), net.node(11).epochs.durable), (epoch.next().next(), epoch));
    // Ended already: to be hurried on all the same.
    net.workers.get_mut(&NodeId(12)).unwrap().done = true;
    net.run(600);
    let newest = net.node(11).epoch();
    net.give(11, says(1, Word::Wanted(newest.previous())));
    assert_eq!((net.node(12).epoch(), net.node(12).epochs.durable), (newest, newest.previous()));
}
