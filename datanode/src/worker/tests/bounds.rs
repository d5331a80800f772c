//! What is too much is refused, and nothing grows without bound.

use proptest::{collection::vec, prelude::*};
use twofold_proto::{
    ids::Version,
    limits::{CLIENT_LINK_BYTES_MAX, TRANSACTION_BYTES_MAX},
    message::{Image, ReplicaState, TransactionRef, TransactionState},
    time::Duration,
};

use twofold_storage::{fragment::row_tag, store::TAG_ROWS_MAX};

use super::{
    super::{outcome::OUTCOMES_IN_MESSAGE, takeover::split_words},
    *,
};

const MIB: usize = 1 << 20;

fn blob(kind: OperationKind, name: &[u8], size: usize) -> Operation {
    let data = vec![7; size];
    let row = [ValueRef::Binary(name.into()), ValueRef::Binary(data.as_slice().into())];
    let (key, body) = encode_row(&blobs(), &row).unwrap();
    let mut operation = Operation::new(kind, &blobs(), key).unwrap();
    match kind {
        OperationKind::Write | OperationKind::Insert => operation.row = Some(body),
        OperationKind::Read => operation.before = Columns::List(vec![1]),
        _ => {}
    }
    operation
}

impl Cluster {
    /// The names of blobs whose primary is this node.
    fn names_at(&self, node: usize) -> impl Iterator<Item = Vec<u8>> {
        let map = PartitionMap::new(&self.config, &self.view);
        (0u32..).map(|name| name.to_be_bytes().to_vec()).filter(move |name| {
            let partition = blob(OperationKind::Read, name, 0).hash.partition(4);
            map.primary(partition).unwrap() == endpoint(node)
        })
    }

    fn put_blob(&mut self, request: u32, name: &[u8], size: usize) {
        let node = self.write(request, &blob(OperationKind::Write, name, size));
        self.settle();
        assert_eq!(self.hear(node)[0].0, Kind::WriteConf);
    }

    /// The one refusal of a transaction that a node has sent to the client.
    fn refusal(&mut self, node: usize) -> TransactionRef {
        let heard = self.hear(node);
        let [(Kind::TransactionRef, body)] = &heard[..] else { panic!("{:?}", kinds(&heard)) };
        control(body).unwrap()
    }
}

fn kinds(heard: &[Heard]) -> Vec<Kind> {
    heard.iter().map(|(kind, _)| *kind).collect()
}

fn statement(number: u32, statement: u32, flags: u8) -> TransactionReq {
    TransactionReq { statement, ..request(number, flags) }
}

#[test]
fn results_that_fit_no_message_fail_their_statement() {
    let mut cluster = Cluster::with_memory(2, 64 << 20);
    let names: Vec<_> = (0..2).map(|node| cluster.names_at(node).next().unwrap()).collect();
    for (request, name) in names.iter().enumerate() {
        cluster.put_blob(request as u32 + 1, name, MIB);
    }
    let reads = |name: &Vec<u8>, count| vec![blob(OperationKind::Read, name, 0); count];
    // At one worker: the TC's own, then another.
    for (number, name) in (10..).zip(&names) {
        cluster.transaction(0, request(number, BEGIN), &reads(name, 17));
        cluster.settle();
        let refusal = cluster.refusal(0);
        assert_eq!((refusal.error.code, refusal.state), (ErrorCode::TooLarge, TransactionState::Open));
    }
    // Together.
    let both = [reads(&names[0], 9), reads(&names[1], 9)].concat();
    cluster.transaction(0, request(20, BEGIN), &both);
    cluster.settle();
    assert_eq!(cluster.refusal(0).error.code, ErrorCode::TooLarge);
    // The transaction goes on.
    cluster.transaction(0, statement(20, 2, COMMIT), &[reads(&names[0], 7), reads(&names[1], 7)].concat());
    cluster.settle();
    let heard = cluster.hear(0);
    assert_eq!(kinds(&heard), [Kind::TransactionConf]);
    assert!(heard[0].1.len() > 14 * MIB);
}

#[test]
fn what_a_worker_holds_for_statements_is_bounded() {
    const HELD_MAX: usize = 128 * MIB;
    let mut cluster = Cluster::with_memory(2, 64 << 20);
    let names: Vec<_> = (0..2).map(|node| cluster.names_at(node).next().unwrap()).collect();
    for (request, name) in names.iter().enumerate() {
        cluster.put_blob(request as u32 + 1, name, MIB);
    }
    let held = |cluster: &Cluster, node: usize| cluster.nodes[node].worker.statement_bytes;
    let locked = |name: &Vec<u8>| {
        let mut read = blob(OperationKind::Read, name, 0);
        read.lock = LockMode::Exclusive;
        read
    };
    cluster.transaction(0, request(2, BEGIN), &[locked(&names[1])]);
    cluster.settle();
    cluster.hear(0);
    // Each holds what it has read until it has the lock: as results at its TC, or in its statement that waits.
    for node in 0..2 {
        let reads = [vec![blob(OperationKind::Read, &names[node], 0); 10], vec![locked(&names[1])]].concat();
        for place in 0..14 {
            cluster.transaction(0, request(10 + 100 * node as u32 + place, BEGIN), &reads);
            cluster.settle();
            assert!(held(&cluster, node) <= HELD_MAX);
        }
        assert!(held(&cluster, node) > HELD_MAX - 10 * MIB);
        let mut refusals = BTreeMap::new();
        for millis in [0, 1100] {
            cluster.now = cluster.now + Duration::from_millis(millis);
            (0..2).for_each(|node| cluster.step(node, Input::Timer));
            cluster.settle();
            for (kind, body) in cluster.hear(0) {
                assert_eq!(kind, Kind::TransactionRef);
                let refusal: TransactionRef = control(&body).unwrap();
                assert_eq!(refusal.state, TransactionState::Open);
                *refusals.entry(refusal.error.code).or_default() += 1;
            }
        }
        assert_eq!(refusals, BTreeMap::from([(ErrorCode::LockWaitTimeout, 12), (ErrorCode::Overloaded, 2)]));
        assert_eq!((held(&cluster, 0), held(&cluster, 1)), (0, 0));
    }
    // Writes that stand alone, too. They are not refused for epochs that are not complete.
    cluster.epoch(2);
    cluster.settle();
    for number in 300..500 {
        cluster.write(number, &blob(OperationKind::Write, &names[1], MIB));
    }
    cluster.settle();
    let heard = cluster.hear(1);
    assert_eq!(heard.len(), 200 - 127);
    for (_, body) in heard {
        assert_eq!(operation_ref(&body).unwrap().1.code, ErrorCode::Overloaded);
    }
    assert!(held(&cluster, 1) <= HELD_MAX);
    cluster.transaction(0, statement(2, 2, COMMIT), &[]);
    cluster.settle();
    assert_eq!(held(&cluster, 1), 0);
}

#[test]
fn a_transaction_is_bounded_by_all_that_it_writes() {
    let mut cluster = Cluster::with_memory(1, 256 << 20);
    // A row that comes and goes adds no body, but two long keys.
    let name = [1; 3000];
    let pair = [blob(OperationKind::Insert, &name, 0), blob(OperationKind::Delete, &name, 0)];
    let operations: Vec<Operation> = pair.iter().cloned().cycle().take(2000).collect();
    let mut refused = None;
    for number in 1..4 {
        let flags = if number == 1 { BEGIN } else { 0 };
        cluster.transaction(0, statement(1, number, flags), &operations);
        let heard = cluster.hear(0);
        if heard[0].0 == Kind::TransactionRef {
            refused = Some((number, control::<TransactionRef>(&heard[0].1).unwrap()));
            break;
        }
    }
    let (number, refusal) = refused.expect("2000 keys of 3000 bytes fit three times");
    assert_eq!((refusal.error.code, refusal.state), (ErrorCode::TooLarge, TransactionState::Open));
    assert_eq!(number, 3);
    assert!(cluster.nodes[0].worker.pending_bytes < TRANSACTION_BYTES_MAX, "the statement was undone");
    cluster.transaction(0, statement(1, 4, COMMIT), &[]);
    assert_eq!(kinds(&cluster.hear(0)), [Kind::TransactionConf]);
    assert_eq!(cluster.nodes[0].worker.pending_bytes, 0);
}

#[test]
fn what_others_have_pending_counts_against_the_memory() {
    for replicas in [1, 2] {
        let mut cluster = Cluster::with_memory(replicas, 4 << 20);
        let names: Vec<_> = cluster.names_at(0).take(8).collect();
        // 3.8 MiB may be used; with a buddy, which takes as much, 1.9.
        let share = 3 * MIB / usize::from(replicas);
        let writes = |names: &[Vec<u8>]| {
            names.iter().map(|name| blob(OperationKind::Write, name, share / 4)).collect::<Vec<_>>()
        };
        cluster.transaction(0, request(1, BEGIN), &writes(&names[..4]));
        cluster.settle();
        assert_eq!(kinds(&cluster.hear(0)), [Kind::TransactionConf]);
        cluster.transaction(0, request(2, BEGIN), &writes(&names[4..]));
        cluster.settle();
        assert_eq!(cluster.refusal(0).error.code, ErrorCode::Overloaded);
        assert_eq!(cluster.nodes[0].worker.store.rows(), 0);
        cluster.transaction(0, statement(1, 2, twofold_proto::message::ROLLBACK), &[]);
        cluster.settle();
        cluster.hear(0);
        assert_eq!(cluster.nodes[0].worker.pending_bytes, 0);
        cluster.transaction(0, statement(2, 2, COMMIT), &writes(&names[4..]));
        cluster.settle();
        assert_eq!(kinds(&cluster.hear(0)), [Kind::TransactionConf]);
        assert_eq!(cluster.nodes[0].worker.store.rows(), 4);
    }
}

#[test]
fn a_client_that_does_not_read_goes() {
    let mut cluster = Cluster::with_memory(1, 64 << 20);
    let name = cluster.names_at(0).next().unwrap();
    cluster.put_blob(1, &name, MIB);
    let mut locked = blob(OperationKind::Read, &name, 0);
    locked.lock = LockMode::Exclusive;
    cluster.transaction(0, request(2, BEGIN), &[locked]);
    // They wait for the lock, so that there is no answer yet by which to know this client.
    let mut shared = blob(OperationKind::Read, &name, 0);
    shared.lock = LockMode::Shared;
    for number in 3..200 {
        cluster.transaction(0, request(number, BEGIN), std::slice::from_ref(&shared));
    }
    let at = cluster.link(0, Endpoint::new(NodeId(0), WorkerId(0))).unwrap();
    let kept = |cluster: &Cluster| cluster.nodes[0].worker.links.get(at).map(|link| link.kept_bytes());
    assert!(kept(&cluster).unwrap() < 2 * MIB);
    cluster.transaction(0, statement(2, 2, COMMIT), &[]);
    assert_eq!(kept(&cluster), None);
    assert_eq!(cluster.nodes[0].worker.counters.clients_dropped, 1);
    assert!(cluster.nodes[0].worker.is_idle());
}

#[test]
fn a_client_that_reads_late_is_told_to() {
    let mut cluster = Cluster::with_memory(1, 64 << 20);
    let name = cluster.names_at(0).next().unwrap();
    cluster.put_blob(1, &name, MIB);
    cluster.transaction(0, request(2, BEGIN), &[]);
    cluster.hear(0);
    let mut body = Vec::new();
    body.put_u32(3);
    blob(OperationKind::Read, &name, 0).encode(&mut body);
    for _ in 0..100 {
        cluster.send(0, Kind::ReadReq, &body);
    }
    cluster.transaction(0, statement(2, 2, 0), &[blob(OperationKind::Read, &name, 0)]);
    let heard = cluster.hear(0);
    let answered = heard.iter().filter(|(kind, _)| *kind == Kind::OperationConf).count();
    assert!((CLIENT_LINK_BYTES_MAX / MIB..70).contains(&answered), "{answered}");
    assert_eq!(operation_ref(&heard[answered].1).unwrap().1.code, ErrorCode::Overloaded);
    let refusal: TransactionRef = control(&heard.last().unwrap().1).unwrap();
    assert_eq!((refusal.error.code, refusal.state), (ErrorCode::Overloaded, TransactionState::Open));
}

#[test]
fn a_client_has_a_share_of_what_may_be_open() {
    let mut cluster = Cluster::with_memory(1, 1 << 20);
    let mut refused = None;
    for number in 1..200_000 {
        cluster.transaction(0, request(number, BEGIN), &[]);
        let heard = cluster.hear(0);
        if heard[0].0 == Kind::TransactionRef {
            refused = Some((number, control::<TransactionRef>(&heard[0].1).unwrap()));
            break;
        }
    }
    let (number, refusal) = refused.expect("a client may not have all");
    assert_eq!((number, refusal.error.code), (50_001, ErrorCode::Overloaded));
    cluster.transaction(0, statement(7, 2, twofold_proto::message::ROLLBACK), &[]);
    cluster.hear(0);
    cluster.transaction(0, request(number, BEGIN), &[]);
    assert_eq!(kinds(&cluster.hear(0)), [Kind::TransactionConf], "another has room");
}

#[test]
fn each_wait_for_a_lock_has_its_own_time() {
    let mut cluster = Cluster::new(1);
    let hold = |cluster: &mut Cluster, number: u32, id: u64| {
        cluster.transaction(0, statement(number, 1, BEGIN), &[write(id, 1)]);
        cluster.hear(0);
    };
    hold(&mut cluster, 1, 1);
    hold(&mut cluster, 2, 2);
    // Waits for the first lock, and 900 ms later for the second. A wait may take 1000 ms.
    cluster.transaction(0, statement(3, 1, BEGIN), &[write(1, 3)]);
    let pass = |cluster: &mut Cluster, millis: u64| {
        cluster.now = cluster.now + Duration::from_millis(millis);
        cluster.step(0, Input::Timer);
    };
    pass(&mut cluster, 900);
    cluster.transaction(0, statement(1, 2, COMMIT), &[]);
    assert_eq!(kinds(&cluster.hear(0)), [Kind::TransactionConf, Kind::TransactionConf]);
    cluster.transaction(0, statement(3, 2, 0), &[write(2, 3)]);
    pass(&mut cluster, 900);
    assert_eq!(kinds(&cluster.hear(0)), []);
    pass(&mut cluster, 200);
    assert_eq!(cluster.refusal(0).error.code, ErrorCode::LockWaitTimeout);
}

#[test]
fn a_number_used_at_two_coordinators_is_refused() {
    let mut cluster = Cluster::new(2);
    let ids = keys_at(&cluster, &[0, 0]);
    cluster.transaction(0, request(1, BEGIN), &[write(ids[0], 1)]);
    cluster.transaction(1, request(1, BEGIN), &[write(ids[1], 1)]);
    cluster.settle();
    assert_eq!(kinds(&cluster.hear(0)), [Kind::TransactionConf]);
    let refusal = cluster.refusal(1);
    assert_eq!((refusal.error.code, refusal.state), (ErrorCode::Malformed, TransactionState::Aborted));
    // That it was refused and ended is nothing to the first.
    cluster.transaction(0, statement(1, 2, COMMIT), &[]);
    cluster.settle();
    assert_eq!(kinds(&cluster.hear(0)), [Kind::TransactionConf]);
    assert_eq!((cluster.balance(ids[0]), cluster.balance(ids[1])), (Some(1), None));
}

#[test]
fn keys_that_hash_alike_are_bounded() {
    let mut cluster = Cluster::new(1);
    let new = write(1, 1);
    let partition = new.hash.partition(4);
    let tag = row_tag(&schema(), &new.hash, &new.key);
    let (_, body) = encode_row(&schema(), &[ValueRef::UInt(0), ValueRef::Int(0)]).unwrap();
    for id in 2..2 + TAG_ROWS_MAX as u64 {
        let key = key(id);
        let image = Image {
            table: TableId(1),
            schema_version: 1,
            tag,
            key: &key,
            row: Some((ClusterTime(0), &body)),
        };
        let version = Version { epoch: Epoch::new(1, 1), number: id };
        cluster.nodes[0].worker.store.apply(partition, version, &image);
        if id == 2 {
            // It may come, and be changed later.
            cluster.write(1, &new);
            assert_eq!(kinds(&cluster.hear(0)), [Kind::WriteConf]);
        }
    }
    cluster.write(2, &add(1, 1));
    assert_eq!(kinds(&cluster.hear(0)), [Kind::WriteConf]);
    cluster.write(3, &operation(OperationKind::Delete, 1));
    assert_eq!(kinds(&cluster.hear(0)), [Kind::WriteConf]);
    cluster.write(4, &new);
    let heard = cluster.hear(0);
    assert_eq!(operation_ref(&heard[0].1).unwrap().1.code, ErrorCode::TooMany);
}

#[test]
fn views_of_another_config_are_refused() {
    for change in [
        |view: &mut View| view.members[0].workers = 65_535,
        |view: &mut View| view.members[0].node = NodeId(99),
        |view: &mut View| view.members.reverse(),
        |view: &mut View| view.number.0 = u64::MAX,
        |view: &mut View| view.number.0 += 2000,
        |view: &mut View| view.number = ViewNumber(2 << 48 | 1),
    ] {
        let mut cluster = Cluster::new(2);
        let mut view = cluster.view.next(1, cluster.view.members.clone());
        change(&mut view);
        let mut body = Vec::new();
        put_control(&mut body, &view);
        cluster.send(0, Kind::ViewOrd, &body);
        assert_eq!(cluster.link(0, Endpoint::new(NodeId(0), WorkerId(0))), None);
        assert_eq!(cluster.nodes[0].worker.view.number, ViewNumber(1));
    }
}

#[test]
fn a_client_may_be_the_first_to_tell_that_the_register_was_rebuilt() {
    let mut cluster = Cluster::new(2);
    let view = cluster.view.rebuilt().unwrap();
    let mut body = Vec::new();
    put_control(&mut body, &view);
    cluster.send(0, Kind::ViewOrd, &body);
    assert_eq!(cluster.nodes[0].worker.view.number, view.number);
}

#[test]
fn without_a_president_idle_transactions_end_all_the_same() {
    let mut cluster = Cluster::new(1);
    cluster.transaction(0, request(1, BEGIN), &[write(1, 1)]);
    cluster.hear(0);
    cluster.now = cluster.now + Duration::from_secs(61);
    cluster.tell(0, ToWorker::AreYouThere(1));
    assert!(cluster.nodes[0].worker.is_idle());
}

#[test]
fn what_was_disowned_is_forgotten() {
    let mut cluster = Cluster::new(1);
    let other = Incarnation(78);
    let mut body = Vec::new();
    let request = StatusReq {
        request: 1,
        transaction: TransactionId { session: other, number: 1 },
        commit_number: 1,
        coordinator: Coordinator { endpoint: endpoint(0), incarnation: Incarnation(100) },
        partition: PartitionId(0),
        epoch: Epoch::new(1, 1),
        disowned: false,
    };
    put_control(&mut body, &request);
    cluster.send(0, Kind::StatusReq, &body);
    let conf: StatusConf = control(&cluster.hear(0)[0].1).unwrap();
    assert_eq!(conf.status, Status::Disowned);
    assert!(cluster.nodes[0].worker.disowned.contains(request.transaction));
    cluster.now = cluster.now + Duration::from_secs(59);
    cluster.epoch(2);
    assert!(cluster.nodes[0].worker.disowned.contains(request.transaction));
    cluster.now = cluster.now + Duration::from_secs(2);
    cluster.epoch(3);
    assert!(!cluster.nodes[0].worker.disowned.contains(request.transaction));
}

#[test]
fn refusals_for_questions_about_nothing_do_not_pile_up() {
    let mut cluster = Cluster::new(2);
    let node = cluster.primary(1);
    for number in 1..50 {
        let request = StatusReq {
            request: 1,
            transaction: TransactionId { session: SESSION, number },
            commit_number: u64::MAX,
            coordinator: Coordinator { endpoint: endpoint(0), incarnation: Incarnation(5) },
            partition: operation(OperationKind::Read, 1).hash.partition(4),
            epoch: Epoch(u64::MAX),
            disowned: false,
        };
        for expected in [Status::Pending, Status::Decided(Outcome::Aborted)] {
            let mut body = Vec::new();
            put_control(&mut body, &request);
            cluster.send(node, Kind::StatusReq, &body);
            cluster.settle();
            let conf: StatusConf = control(&cluster.hear(node)[0].1).unwrap();
            assert_eq!(conf.status, expected);
        }
    }
    assert_eq!(cluster.nodes[node].worker.outcomes.len(), 49);
    for counter in 2..9 {
        cluster.epoch(counter);
        cluster.settle();
    }
    assert!(cluster.nodes.iter().all(|node| node.worker.outcomes.len() == 0));
}

#[test]
fn rows_of_a_dropped_table_do_not_come_back_with_a_copy() {
    let mut cluster = Cluster::new(2);
    let id = keys_at(&cluster, &[1])[0];
    cluster.write(1, &write(id, 1));
    cluster.settle();
    cluster.kill(0);
    cluster.start_anew(0, Incarnation(200));
    // It knows already that the table was dropped, and the other does not yet.
    let catalog = Catalog { version: 2, tables: vec![], next_table: 3 };
    cluster.tell(0, ToWorker::Catalog(Arc::new(catalog)));
    let mut members = cluster.view.members.clone();
    let incarnation = Incarnation(200);
    members.insert(
        0,
        Member { node: NodeId(1), incarnation, state: MemberState::Syncing, workers: 1, restored: None },
    );
    let view = cluster.view.next(1, members);
    cluster.adopt(view);
    let moved = cluster.settle();
    assert!(moved.iter().any(|(_, to, kind)| (*to, *kind) == (0, Kind::CopyRowsOrd)), "{moved:?}");
    assert_eq!(cluster.nodes[1].worker.store.rows(), 1);
    assert_eq!(cluster.nodes[0].worker.store.rows(), 0);
}

fn words() -> impl Strategy<Value = Vec<(PartitionId, ReplicaState)>> {
    // Few are large: some just past a message, some several times as much.
    let size = prop_oneof![6 => 0..4usize, 1 => OUTCOMES_IN_MESSAGE - 2..OUTCOMES_IN_MESSAGE + 2,
        1 => 0..3 * OUTCOMES_IN_MESSAGE];
    let id = |number: u64| TransactionId { session: SESSION, number };
    vec((size.clone(), size), 0..5).prop_map(move |sizes| {
        let words = sizes.into_iter().enumerate().map(|(partition, (open, decided))| {
            let open = (0..open as u64).map(|number| (number, id(number))).collect();
            let decided = (0..decided as u64).map(|number| (number, id(number), Outcome::Aborted)).collect();
            (PartitionId(partition as u16), ReplicaState { open, decided, goes_on: false })
        });
        words.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn words_to_a_primary_are_split_and_nothing_is_lost(words in words()) {
        let orders = split_words(ViewNumber(3), words.clone());
        let mut all: BTreeMap<PartitionId, ReplicaState> = BTreeMap::new();
        for order in orders {
            let said = |state: &ReplicaState| state.open.len() + state.decided.len();
            let entries: usize = order.partitions.iter().map(|(_, state)| said(state)).sum();
            prop_assert!(entries <= OUTCOMES_IN_MESSAGE);
            for (partition, state) in order.partitions {
                let known = all.entry(partition).or_insert(ReplicaState { goes_on: true, ..Default::default() });
                prop_assert!(known.goes_on, "more is said after the end");
                known.open.extend(state.open);
                known.decided.extend(state.decided);
                known.goes_on = state.goes_on;
            }
        }
        prop_assert_eq!(all.len(), words.len());
        for (partition, word) in words {
            let mut known = all.remove(&partition).unwrap();
            known.open.sort_unstable();
            known.decided.sort_unstable_by_key(|(number, ..)| *number);
            prop_assert_eq!(known, word);
        }
    }
}
