//! What becomes of outcomes that somebody may yet ask for.

use twofold_proto::time::Duration;

use super::*;

impl Cluster {
    fn mark(&mut self, node: usize, mark: u64) {
        let mut body = Vec::new();
        body.put_u64(mark);
        self.send(node, Kind::MarkOrd, &body);
    }

    /// Node 0 begins another life, copies everything and becomes `up`.
    fn rejoin(&mut self) {
        self.kill(0);
        self.settle();
        let incarnation = Incarnation(200);
        self.start_anew(0, incarnation);
        self.client[0] = twofold_proto::link::Link::new(endpoint(0), incarnation);
        self.tell(0, ToWorker::Catalog(Arc::new(catalog())));
        self.tell(0, ToWorker::Lease(Time::from_millis(1_000_000)));
        for state in [MemberState::Syncing, MemberState::Ready, MemberState::Up] {
            let mut members = self.view.members.clone();
            members.retain(|member| member.node != NodeId(1));
            members.insert(0, Member { node: NodeId(1), incarnation, state, workers: 1, restored: None });
            let view = self.view.next(1, members);
            self.adopt(view);
            self.settle();
        }
    }
}

#[test]
fn a_joining_node_knows_what_was_confirmed_before() {
    for mark in [2, 1] {
        let mut cluster = Cluster::new(2);
        let id = keys_at(&cluster, &[0])[0];
        for number in [1, 2] {
            cluster.write(number, &write(id, 1));
            cluster.settle();
        }
        cluster.mark(1, mark);
        cluster.epoch(8);
        cluster.settle();
        cluster.rejoin();
        cluster.epoch(9);
        cluster.settle();
        // The session has not told its mark to this life.
        cluster.connect_client_again(0);
        let expected =
            if mark == 2 { Status::Finished } else { Status::Decided(Outcome::Committed(Epoch::new(1, 1))) };
        assert_eq!((cluster.status(0, 1, id), cluster.status(0, 2, id)), (Status::Finished, expected));
    }
}

#[test]
fn a_session_that_has_told_no_mark_may_have_confirmed_what_is_not_known_here() {
    let mut cluster = Cluster::new(1);
    let id = keys_at(&cluster, &[0])[0];
    cluster.write(1, &write(id, 1));
    cluster.mark(0, 1);
    cluster.epoch(8);
    cluster.hear(0);
    assert_eq!(cluster.status(0, 1, id), Status::Finished);
    // Forgotten, and here again.
    let link = cluster.link(0, Endpoint::new(NodeId(0), WorkerId(0))).unwrap();
    cluster.step(0, Input::Link(LinkInput::Disconnected { link }));
    for (seconds, counter) in [(6, 9), (11, 10)] {
        cluster.now = cluster.now + Duration::from_secs(seconds);
        cluster.epoch(counter);
    }
    cluster.client[0] = twofold_proto::link::Link::new(endpoint(0), Incarnation(100));
    cluster.connect_client_again(0);
    assert_eq!(cluster.status(0, 1, id), Status::Finished);
    // What has no answer is known as soon as the session says so.
    cluster.mark(0, 1);
    assert_eq!(cluster.status(0, 2, id), Status::Disowned);
}
