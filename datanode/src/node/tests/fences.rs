//! Who leaves the view is fenced: a lease after the last acknowledgement, or at once.

use MemberState::{Ready, Syncing, Up};
use twofold_proto::{
    message::{GoneOrd, Kind},
    random::Random,
};

use super::{super::*, driver::*};

/// Two nodes up until 1000 ms; then 11's view drops 12, which has just sent its heartbeat.
fn dropped(gone: bool) -> Net {
    let mut net = Net::new(&config(&[11, 12], 2));
    net.run(10);
    net.publish(view(1, &[(11, Up), (12, Up)]));
    net.run(1010);
    if gone {
        net.kill(NodeId(12));
        net.broadcast(|link| link.send_control(Kind::GoneRep, &GoneOrd { life: life(12) }));
        assert_eq!(net.workers(11).fenced, [], "no view has dropped it");
        assert_eq!(net.report(11).hears, [life(12)], "the leader has its own way to learn of it");
    }
    net.publish(view(2, &[(11, Up)]));
    net
}

#[test]
fn a_fence_comes_a_lease_and_drift_after_the_last_acknowledgement() {
    let mut net = dropped(false);
    net.run(1254);
    assert_eq!(net.workers(11).fenced, []);
    net.run(1255);
    assert_eq!(net.workers(11).fenced, [(ms(1255), life(12)), (ms(1255), life(12))], "both workers");
    assert_eq!(net.node(11).lease(), Time(u64::MAX));
}

#[test]
fn who_is_gone_is_fenced_at_once() {
    let net = dropped(true);
    assert_eq!(net.workers(11).fenced, [(ms(1010), life(12)); 2]);
}

#[test]
fn who_turns_out_to_be_gone_is_fenced_then() {
    let mut net = dropped(false);
    net.run(1100);
    net.broadcast(|link| link.send_control(Kind::GoneRep, &GoneOrd { life: life(12) }));
    assert_eq!(net.workers(11).fenced, [(ms(1100), life(12)); 2]);
}

#[test]
fn who_was_never_answered_is_fenced_at_once() {
    let mut node = node(&config(&[11, 12], 2), 11, 1);
    turn(&mut node, ms(0), says(0, Word::View(Arc::new(view(1, &[(11, Up), (12, Up)])))));
    let second = Arc::new(view(2, &[(11, Up)]));
    let effects = turn(&mut node, ms(7), says(0, Word::View(second.clone())));
    assert_eq!(told(&effects, 1), [ToWorker::View(second), ToWorker::Fenced(life(12))]);
}

/// A worker may have adopted a view that its node never saw.
#[test]
fn who_was_only_in_a_skipped_view_is_fenced_too() {
    let mut node = node(&config(&[11, 12], 2), 11, 1);
    turn(&mut node, ms(0), says(0, Word::View(Arc::new(view(3, &[(11, Up)])))));
    let effects = turn(&mut node, ms(1), says(0, Word::View(Arc::new(view(2, &[(11, Up), (12, Syncing)])))));
    assert_eq!(told(&effects, 1), [ToWorker::Fenced(life(12))]);
}

#[test]
fn a_node_that_was_dropped_learns_it_from_its_peers() {
    let mut net = Net::new(&config(&[11, 12], 2));
    net.run(10);
    net.publish(view(1, &[(11, Up), (12, Up)]));
    net.run(1000);
    net.block(1, 12, true);
    net.publish(view(2, &[(11, Up)]));
    assert_eq!(net.node(12).state(), None);
    // It waits for somebody to hear its goodbye.
    net.run(1500);
    assert_eq!(net.exits[&NodeId(12)], (ms(1500), true, "view 2 does not have this life".into()));
}

/// Whatever the network does: while somebody else may serve in its place, no worker of a dropped life has a lease.
#[test]
fn no_lease_outlives_its_fence() {
    let mut fences = 0;
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut net = Net::new(&config(&[11, 12, 13], 3));
        let mut states = BTreeMap::from([(11, Up), (12, Up), (13, Up)]);
        net.run(10);
        let mut number = 1;
        net.publish(view(number, &[(11, Up), (12, Up), (13, Up)]));
        let mut last_leases = BTreeMap::new();
        while net.now < ms(6000) {
            let step = random.between(1, 120);
            net.run(net.now.0 / 1_000_000 + step);
            for (&id, workers) in &net.workers {
                last_leases.insert(id, workers.lease);
            }
            for (id, workers) in &net.workers {
                for (at, dropped) in &workers.fenced {
                    let lease = last_leases[&dropped.node];
                    assert!(
                        lease <= *at,
                        "seed {seed}: {id} fences {dropped:?} at {at:?}, its lease ends {lease:?}"
                    );
                    fences += 1;
                }
            }
            let pair = (*random.pick(&[1, 11, 12, 13]), *random.pick(&[11, 12, 13]));
            match random.below(6) {
                0 => net.block(pair.0, pair.1, random.one_in(2)),
                1 => net.blocked.clear(),
                2 if states.len() > 1 && random.one_in(8) => {
                    let node = *random.pick(&states.keys().copied().collect::<Vec<_>>());
                    states.remove(&node);
                    number += 1;
                    net.publish(view(
                        number,
                        &states.iter().map(|(&node, &state)| (node, state)).collect::<Vec<_>>(),
                    ));
                }
                3 if random.one_in(4) => {
                    // A view that changes nothing of note.
                    let state = if random.one_in(2) { Ready } else { Up };
                    let lowest = *states.keys().next().unwrap();
                    states.iter_mut().filter(|(node, _)| **node != lowest).for_each(|(_, old)| *old = state);
                    number += 1;
                    net.publish(view(
                        number,
                        &states.iter().map(|(&node, &state)| (node, state)).collect::<Vec<_>>(),
                    ));
                }
                _ => {}
            }
        }
    }
    assert!(fences > 300, "only {fences}");
}
