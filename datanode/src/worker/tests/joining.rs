//! Who waits for a node that is joining, and when.

use super::*;

impl Cluster {
    /// Whether a node has said that it is done with the epoch.
    fn is_done(&self, node: usize, counter: u64) -> bool {
        let is = |word: &Word| matches!(word, Word::Done(_, epoch) if *epoch >= Epoch::new(1, counter));
        self.words.iter().any(|(from, word)| *from == node && is(word))
    }
}

#[test]
fn epochs_wait_for_a_joining_node_once_it_was_sent_all_copies() {
    let mut cluster = Cluster::new(2);
    let id = keys_at(&cluster, &[1])[0];
    cluster.write(1, &write(id, 1));
    cluster.settle();
    cluster.kill(0);
    cluster.settle();
    let incarnation = Incarnation(200);
    cluster.start_anew(0, incarnation);
    cluster.tell(0, ToWorker::Catalog(Arc::new(catalog())));
    let mut members = cluster.view.members.clone();
    let joining =
        Member { node: NodeId(1), incarnation, state: MemberState::Syncing, workers: 1, restored: None };
    members.insert(0, joining);
    let view = cluster.view.next(1, members);
    cluster.adopt(view);
    // It has not asked for its copies: it gets nothing, and is not waited for.
    cluster.write(2, &write(id, 2));
    cluster.epoch(8);
    assert!(cluster.is_done(1, 7), "{:?}", cluster.words);
    let kinds = cluster.carry(1, 0);
    assert!(!kinds.contains(&Kind::WriteSetReq) && !kinds.contains(&Kind::DecideOrd), "{kinds:?}");
    // It has asked, and taken nothing in.
    assert!(cluster.carry(0, 1).contains(&Kind::CopyReq));
    cluster.write(3, &write(id, 3));
    let kinds = cluster.carry(1, 0);
    let at = |kind| {
        kinds.iter().position(|other| *other == kind).unwrap_or_else(|| panic!("{kind:?} in {kinds:?}"))
    };
    assert!(at(Kind::CopyBeginOrd) < at(Kind::CopyEndOrd), "{kinds:?}");
    assert!(
        at(Kind::CopyEndOrd) < at(Kind::IncludeOrd) && at(Kind::IncludeOrd) < at(Kind::WriteSetReq),
        "{kinds:?}"
    );
    // From that word on epochs wait until it knows what is decided.
    cluster.write(4, &write(id, 4));
    cluster.epoch(9);
    assert!(!cluster.is_done(1, 8), "{:?}", cluster.words);
    cluster.settle();
    assert!(cluster.is_done(1, 8), "{:?}", cluster.words);
    // A later view is told of by the same word.
    let view = cluster.view.next(1, cluster.view.members.clone());
    cluster.adopt(view);
    assert!(cluster.carry(1, 0).contains(&Kind::IncludeOrd));
}
