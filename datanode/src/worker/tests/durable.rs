//! Clients that wait for the disks.

use super::*;

fn epoch(counter: u64) -> Epoch {
    Epoch::new(1, counter)
}

fn told(counter: u64) -> Heard {
    (Kind::DurableConf, epoch(counter).0.to_le_bytes().to_vec())
}

impl Cluster {
    fn want(&mut self, node: usize, counter: u64) {
        self.send(node, Kind::DurableReq, &epoch(counter).0.to_le_bytes());
    }
}

#[test]
fn a_client_hears_of_what_is_durable_until_all_that_it_wants_is() {
    let mut cluster = Cluster::new(2);
    cluster.order(epoch(9), epoch(6), epoch(5), epoch(0));
    cluster.want(0, 5);
    assert_eq!(cluster.hear(0), [told(5)]);
    cluster.words.clear();
    cluster.want(0, 7);
    assert_eq!((cluster.hear(0), &cluster.words[..]), (vec![], &[(0, Word::Wanted(epoch(7)))][..]));
    cluster.order(epoch(9), epoch(7), epoch(6), epoch(7));
    assert_eq!(cluster.hear(0), [told(6)]);
    cluster.order(epoch(9), epoch(8), epoch(8), epoch(7));
    assert_eq!(cluster.hear(0), [told(8)]);
    cluster.order(epoch(10), epoch(9), epoch(9), epoch(12));
    assert_eq!((cluster.hear(0), cluster.hear(1)), (vec![], vec![]));
}

#[test]
fn what_is_wanted_on_disk_waits_for_no_tick() {
    let mut cluster = Cluster::new(2);
    let keys = keys_at(&cluster, &[0, 1]);
    cluster.order(epoch(5), epoch(3), epoch(3), epoch(5));
    // A transaction of both nodes: done once the replicas of both know the decision.
    cluster.transaction(0, request(1, BEGIN | COMMIT), &[write(keys[0], 1), write(keys[1], 2)]);
    assert_eq!(cluster.carry(0, 1), [Kind::ExecuteReq]);
    assert_eq!(cluster.carry(1, 0), [Kind::ExecuteConf]);
    cluster.words.clear();
    cluster.order(epoch(6), epoch(3), epoch(3), epoch(5));
    assert!(!cluster.words.iter().any(|(_, word)| matches!(word, Word::Done(_, done) if *done >= epoch(5))));
    cluster.settle();
    for node in [0, 1] {
        let done = (node, Word::Done(cluster.view.number, epoch(5)));
        assert!(cluster.words.contains(&done), "{done:?} of {:?}", cluster.words);
    }
}

#[test]
fn an_epoch_to_come_is_nothing_to_wait_for() {
    let mut cluster = Cluster::new(2);
    cluster.epoch(5);
    cluster.want(0, 6);
    assert_eq!(cluster.link(0, Endpoint::new(NodeId(0), WorkerId(0))), None, "the client is given up");
}
