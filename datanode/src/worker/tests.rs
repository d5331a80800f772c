//! Two buddies with a worker each, a client, and whatever the test does to them: state and input give exact messages.

use std::sync::Arc;

use twofold_proto::{
    config::{Address, ClusterConfig, DataNodeConfig},
    error::ErrorCode,
    ids::{Endpoint, Epoch, Incarnation, NodeId, TransactionId, ViewNumber, WorkerId},
    link::{FRAME_HEADER, FrameHeader, Hello, HelloReply, Messages, PROTOCOL_VERSION},
    links::{LinkEffect, LinkId, LinkInput, Linked},
    machine::Machine,
    message::{
        BEGIN, COMMIT, Catalog, IndependentWrite, Kind, Outcome, Status, StatusConf, StatusReq,
        TransactionReq, control, operation_ref, put_control,
    },
    operation::{Change, Columns, LockMode, Operation, OperationKind, ResultCode, ResultRef},
    row::encode_row,
    schema::{Column, ColumnType, Schema, Table},
    time::{ClusterTime, Time},
    value::ValueRef,
    view::{Member, MemberState, View},
    wire::{Reader, Writer},
};

use super::*;
use crate::disk::FromDisk;

mod bounds;
mod cancel;
mod durable;
mod joining;
mod outcomes;
mod unique;

const SESSION: Incarnation = Incarnation(77);

fn config(replicas: u8) -> Arc<ClusterConfig> {
    let data_node = |id| DataNodeConfig {
        id: NodeId(id),
        address: Address { host: "127.0.0.1".into(), port: 2201 + id },
        workers: 1,
    };
    Arc::new(ClusterConfig {
        name: "test".into(),
        replicas,
        partitions: 4,
        data_memory: 1 << 20,
        redo_bytes: 64 << 20,
        flush_ms: 100,
        heartbeat_ms: 50,
        lease_ms: 250,
        failure_ms: 500,
        epoch_ms: 20,
        lock_wait_timeout_ms: 1000,
        idle_transaction_ms: 60_000,
        management_nodes: vec![],
        data_nodes: (1..=u16::from(replicas)).map(data_node).collect(),
        memcached: vec![],
        api_nodes: vec![],
    })
}

fn schema() -> Schema {
    Schema::new(Table {
        id: TableId(1),
        name: "accounts".into(),
        version: 1,
        columns: vec![Column::new("id", ColumnType::U64), Column::new("balance", ColumnType::I64)],
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
    })
    .unwrap()
}

/// Rows and keys of any size.
fn blobs() -> Schema {
    Schema::new(Table {
        id: TableId(2),
        name: "blobs".into(),
        version: 1,
        columns: vec![
            Column::new("name", ColumnType::Binary { max_bytes: 3000 }),
            Column::new("data", ColumnType::Binary { max_bytes: 1 << 20 }),
        ],
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
    })
    .unwrap()
}

fn catalog() -> Catalog {
    let tables = vec![schema().table().clone(), blobs().table().clone()];
    Catalog { version: 1, tables, next_table: 3 }
}

fn key(id: u64) -> Vec<u8> {
    encode_row(&schema(), &[ValueRef::UInt(id), ValueRef::Int(0)]).unwrap().0
}

fn operation(kind: OperationKind, id: u64) -> Operation {
    Operation::new(kind, &schema(), key(id)).unwrap()
}

fn write(id: u64, balance: i64) -> Operation {
    let mut write = operation(OperationKind::Write, id);
    write.row = Some(encode_row(&schema(), &[ValueRef::UInt(id), ValueRef::Int(balance)]).unwrap().1);
    write
}

fn add(id: u64, amount: i64) -> Operation {
    let mut update = operation(OperationKind::Update, id);
    update.assign(1, Change::Add(ValueRef::Int(amount)));
    update
}

fn read(id: u64) -> Operation {
    let mut read = operation(OperationKind::Read, id);
    read.before = Columns::List(vec![1]);
    read
}

/// A message as the client or the test's ears got it.
type Heard = (Kind, Vec<u8>);

/// One worker, and its open connection to each peer.
struct Node {
    worker: Worker,
    effects: Vec<Effect>,
}

/// A cluster of one group with one worker a node. Messages move only when a test says so.
struct Cluster {
    config: Arc<ClusterConfig>,
    now: Time,
    nodes: Vec<Node>,
    view: View,
    /// The client's ends of its links, by node.
    client: Vec<twofold_proto::link::Link>,
    words: Vec<(usize, Word)>,
    /// Bytes that each has on disk.
    flushed: Vec<u64>,
}

fn endpoint(node: usize) -> Endpoint {
    Endpoint::new(NodeId(node as u16 + 1), WorkerId(0))
}

impl Cluster {
    fn new(replicas: u8) -> Cluster {
        Cluster::with_memory(replicas, 1 << 20)
    }

    fn with_memory(replicas: u8, data_memory: u64) -> Cluster {
        let config = config(replicas);
        let incarnation = |node: usize| Incarnation(100 + node as u64);
        let nodes = (0..usize::from(replicas))
            .map(|node| Node {
                worker: Worker::new(config.clone(), endpoint(node), incarnation(node), data_memory),
                effects: Vec::new(),
            })
            .collect::<Vec<_>>();
        let members = (0..usize::from(replicas)).map(|node| Member {
            node: NodeId(node as u16 + 1),
            incarnation: incarnation(node),
            state: MemberState::Up,
            workers: 1,
            restored: None,
        });
        let view = View { number: ViewNumber(1), restart: 1, members: members.collect(), ..View::default() };
        let client = (0..usize::from(replicas))
            .map(|node| twofold_proto::link::Link::new(endpoint(node), incarnation(node)))
            .collect();
        let mut cluster = Cluster {
            config,
            now: Time::from_millis(1000),
            nodes,
            view: view.clone(),
            client,
            words: Vec::new(),
            flushed: vec![0; usize::from(replicas)],
        };
        for node in 0..usize::from(replicas) {
            cluster.tell(node, ToWorker::Disk(FromDisk::LoadEnd(Epoch::default())));
            cluster.tell(node, ToWorker::Catalog(Arc::new(catalog())));
            cluster.tell(node, ToWorker::Lease(Time::from_millis(1_000_000)));
        }
        cluster.adopt(view);
        cluster.connect_client();
        cluster.epoch(1);
        cluster.settle();
        cluster
    }

    /// A new life of a node, with nothing on disk.
    fn start_anew(&mut self, node: usize, incarnation: Incarnation) {
        self.nodes[node].worker = Worker::new(self.config.clone(), endpoint(node), incarnation, 1 << 20);
        self.flushed[node] = 0;
        self.tell(node, ToWorker::Disk(FromDisk::LoadEnd(Epoch::default())));
    }

    fn tell(&mut self, node: usize, word: ToWorker) {
        self.step(node, Input::Node(word));
    }

    fn step(&mut self, node: usize, input: Input<'_>) {
        let Node { worker, effects } = &mut self.nodes[node];
        worker.step(self.now, input, effects);
        worker.end_turn(self.now, effects);
        worker.check();
        let mut flushed = Vec::new();
        for effect in effects.drain(..) {
            match effect {
                Effect::Node(FromWorker { word, .. }) => self.words.push((node, word)),
                Effect::Disk(ToDisk::Append { records, .. }) => flushed.push(records.len() as u64),
                Effect::Disk(_) | Effect::Link(_) => {}
            }
        }
        // What is written is on disk at once.
        for bytes in flushed {
            self.flushed[node] += bytes;
            self.tell(node, ToWorker::Disk(FromDisk::Flushed(self.flushed[node])));
        }
    }

    fn adopt(&mut self, view: View) {
        self.view = view.clone();
        for node in 0..self.nodes.len() {
            if view.member(NodeId(node as u16 + 1)).is_some() {
                self.tell(node, ToWorker::View(Arc::new(view.clone())));
            }
        }
        self.connect();
    }

    /// Connects every pair of workers that has a link and no connection.
    fn connect(&mut self) {
        for from in 0..self.nodes.len() {
            for to in 0..from {
                let Some(&link) = self.nodes[from].worker.data_links.get(&endpoint(to)) else { continue };
                if self.nodes[from].worker.links.get(link).is_some_and(|link| link.is_connected()) {
                    continue;
                }
                let hello = self.nodes[from].worker.links.hello(link).unwrap();
                let mut effects = Vec::new();
                self.nodes[to].worker.step(
                    self.now,
                    Input::Link(LinkInput::Hello { connection: 1, hello }),
                    &mut effects,
                );
                for effect in effects {
                    if let Effect::Link(LinkEffect::Answer {
                        reply: HelloReply::Accepted { incarnation, received },
                        ..
                    }) = effect
                    {
                        self.step(from, Input::Link(LinkInput::Connected { link, incarnation, received }));
                    }
                }
            }
        }
    }

    fn connect_client(&mut self) {
        for node in 0..self.nodes.len() {
            let hello = Hello {
                version: PROTOCOL_VERSION,
                cluster: "test".into(),
                from: Endpoint::new(NodeId(0), WorkerId(0)),
                incarnation: SESSION,
                to: endpoint(node),
                to_incarnation: Incarnation(0),
                received: 0,
            };
            self.step(node, Input::Link(LinkInput::Hello { connection: 2, hello }));
            let incarnation = self.nodes[node].worker.life.incarnation;
            self.client[node].connected(incarnation, 0).unwrap();
        }
    }

    fn epoch(&mut self, counter: u64) {
        let (epoch, complete) = (Epoch::new(1, counter), Epoch::new(1, counter.saturating_sub(3)));
        self.order(epoch, complete, complete, Epoch::default());
    }

    fn order(&mut self, epoch: Epoch, complete: Epoch, durable: Epoch, wanted: Epoch) {
        let time = ClusterTime(1_000_000 + epoch.counter() * 20);
        for node in 0..self.nodes.len() {
            self.tell(node, ToWorker::Epoch { epoch, complete, durable, wanted, congested: false, time });
        }
    }

    /// The link at `node` whose peer is `peer`.
    fn link(&self, node: usize, peer: Endpoint) -> Option<LinkId> {
        self.nodes[node].worker.links.to_any(peer).next()
    }

    /// Carries what `from` has written for `to`; says which kinds arrived.
    fn carry(&mut self, from: usize, to: usize) -> Vec<Kind> {
        let Some(link) = self.link(from, endpoint(to)) else { return Vec::new() };
        let out = self.nodes[from].worker.links.writing(link).unwrap();
        let bytes: Vec<u8> = out.unwritten().flatten().copied().collect();
        out.wrote(bytes.len());
        let Some(link) = self.link(to, endpoint(from)) else { return Vec::new() };
        self.deliver(to, link, &bytes)
    }

    fn deliver(&mut self, to: usize, link: LinkId, mut bytes: &[u8]) -> Vec<Kind> {
        let mut kinds = Vec::new();
        while let Some(header) = FrameHeader::parse(bytes).unwrap() {
            let (frame, rest) = bytes.split_at(header.length);
            let payload = &frame[FRAME_HEADER..];
            kinds.extend(
                Messages::new(payload).map(|message| Kind::from_number(message.unwrap().kind).unwrap()),
            );
            self.step(to, Input::Link(LinkInput::Frame { link, header, payload }));
            bytes = rest;
        }
        kinds
    }

    /// Carries everything between nodes until nothing moves; says what moved.
    fn settle(&mut self) -> Vec<(usize, usize, Kind)> {
        let mut moved = Vec::new();
        loop {
            let before = moved.len();
            let mut bytes = 0;
            for from in 0..self.nodes.len() {
                for to in 0..self.nodes.len() {
                    if from != to {
                        let kinds = self.carry(from, to);
                        bytes += kinds.len();
                        moved.extend(kinds.into_iter().map(|kind| (from, to, kind)));
                    }
                }
            }
            if moved.len() == before && bytes == 0 && !self.has_unwritten() {
                return moved;
            }
        }
    }

    fn has_unwritten(&mut self) -> bool {
        let nodes = self.nodes.len();
        (0..nodes).any(|from| {
            (0..nodes).filter(|&to| to != from).any(|to| {
                let link = self.link(from, endpoint(to));
                link.is_some_and(|link| {
                    let link = self.nodes[from].worker.links.get(link).unwrap();
                    link.unwritten().next().is_some()
                })
            })
        })
    }

    /// Sends a client's message to a node.
    fn send(&mut self, node: usize, kind: Kind, body: &[u8]) {
        let link = &mut self.client[node];
        link.send(kind as u8, 0, |out| out.put(body));
        link.seal(Epoch::new(1, 1), true);
        let bytes: Vec<u8> = link.unwritten().flatten().copied().collect();
        link.wrote(bytes.len());
        let at = self.link(node, Endpoint::new(NodeId(0), WorkerId(0))).unwrap();
        self.deliver(node, at, &bytes);
    }

    /// What a node has sent to the client since the last time, views apart.
    fn hear(&mut self, node: usize) -> Vec<Heard> {
        let at = self.link(node, Endpoint::new(NodeId(0), WorkerId(0))).unwrap();
        let out = self.nodes[node].worker.links.writing(at).unwrap();
        let bytes: Vec<u8> = out.unwritten().flatten().copied().collect();
        out.wrote(bytes.len());
        let mut heard = Vec::new();
        let mut rest = &bytes[..];
        while let Some(header) = FrameHeader::parse(rest).unwrap() {
            let (frame, behind) = rest.split_at(header.length);
            self.client[node].receive(&header).unwrap();
            for message in Messages::new(&frame[FRAME_HEADER..]) {
                let message = message.unwrap();
                heard.push((Kind::from_number(message.kind).unwrap(), message.body.to_vec()));
            }
            self.client[node].processed(&header);
            rest = behind;
        }
        heard.retain(|(kind, _)| *kind != Kind::ViewOrd);
        heard
    }

    /// The node that serves a key.
    fn primary(&self, id: u64) -> usize {
        let partition = operation(OperationKind::Read, id).hash.partition(4);
        let map = PartitionMap::new(&self.config, &self.view);
        usize::from(map.primary(partition).unwrap().node.0 - 1)
    }

    fn write(&mut self, request: u32, operation: &Operation) -> usize {
        let node = self.primary_of(operation);
        let number = u64::from(request);
        let head = IndependentWrite { request, number, timestamp: number, commit_number: number };
        let mut body = Vec::new();
        head.encode(&mut body);
        operation.encode(&mut body);
        self.send(node, Kind::WriteReq, &body);
        node
    }

    fn primary_of(&self, operation: &Operation) -> usize {
        let map = PartitionMap::new(&self.config, &self.view);
        usize::from(map.primary(operation.hash.partition(4)).unwrap().node.0 - 1)
    }

    fn read(&mut self, node: usize, request: u32, id: u64) {
        let mut body = Vec::new();
        body.put_u32(request);
        read(id).encode(&mut body);
        self.send(node, Kind::ReadReq, &body);
    }

    /// The balance that a read sees, if it is answered at once.
    fn balance(&mut self, id: u64) -> Option<i64> {
        let node = self.primary(id);
        self.read(node, 9999, id);
        let heard = self.hear(node);
        balance_of(&heard)
    }

    fn transaction(&mut self, node: usize, request: TransactionReq, operations: &[Operation]) {
        let mut body = Vec::new();
        TransactionReq { operations: operations.len() as u16, ..request }.encode(&mut body);
        for operation in operations {
            operation.encode(&mut body);
        }
        self.send(node, Kind::TransactionReq, &body);
    }

    /// A view without a node that is provably gone.
    fn kill(&mut self, node: usize) {
        let id = NodeId(node as u16 + 1);
        let life = Life { node: id, incarnation: self.nodes[node].worker.life.incarnation };
        let mut view = self.view.clone();
        view.number = ViewNumber(view.number.0 + 1);
        view.members.retain(|member| member.node != id);
        self.adopt(view);
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            self.tell(other, ToWorker::Fenced(life));
        }
    }
}

fn balance_of(heard: &[Heard]) -> Option<i64> {
    let [(Kind::OperationConf, body)] = heard else { return None };
    let result = ResultRef::parse(&mut Reader::new(&body[4..], "test")).unwrap();
    let value = result.before?.values().next()?.unwrap();
    match value {
        ValueRef::Int(balance) => Some(balance),
        other => panic!("{other:?}"),
    }
}

fn request(number: u32, flags: u8) -> TransactionReq {
    TransactionReq {
        request: number,
        flags,
        number: number.into(),
        timestamp: number.into(),
        commit_number: number.into(),
        statement: 1,
        operations: 0,
    }
}

/// Two keys whose primaries are these nodes.
fn keys_at(cluster: &Cluster, nodes: &[usize]) -> Vec<u64> {
    let mut from = 0;
    nodes
        .iter()
        .map(|&node| {
            let id = (from..).find(|&id| cluster.primary(id) == node).unwrap();
            from = id + 1;
            id
        })
        .collect()
}

#[test]
fn a_write_is_answered_after_one_message_to_the_buddy_and_its_acknowledgement() {
    let mut cluster = Cluster::new(2);
    let node = cluster.write(1, &write(5, 50));
    let buddy = 1 - node;
    assert_eq!(cluster.hear(node), [], "not before the buddy has it");
    assert_eq!(cluster.carry(node, buddy), [Kind::WriteSetReq]);
    assert_eq!(cluster.carry(buddy, node), [], "an acknowledgement without messages");
    let heard = cluster.hear(node);
    assert_eq!(heard.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Kind::WriteConf]);
    assert_eq!(cluster.balance(5), Some(50));
    assert_eq!(cluster.carry(node, buddy), [], "the decision waits for company");
    cluster.epoch(2);
    assert_eq!(cluster.carry(node, buddy), [Kind::DecideOrd]);
    let partition = write(5, 50).hash.partition(4);
    let contents = |node: usize| cluster.nodes[node].worker.store.contents(partition);
    assert_eq!(contents(node), contents(buddy));
    assert_eq!(contents(node).len(), 1);
}

#[test]
fn a_failed_write_leaves_nothing() {
    let mut cluster = Cluster::new(2);
    let node = cluster.write(1, &add(5, 1));
    let heard = cluster.hear(node);
    let [(Kind::OperationConf, body)] = &heard[..] else { panic!("{heard:?}") };
    let result = ResultRef::parse(&mut Reader::new(&body[4..], "test")).unwrap();
    assert_eq!(result.head.code, ResultCode::NotFound);
    assert_eq!(cluster.carry(node, 1 - node), []);
    assert!(cluster.nodes[node].worker.is_idle() && cluster.nodes[node].worker.locks.is_empty());
}

#[test]
fn a_node_without_a_lease_serves_nothing() {
    let mut cluster = Cluster::new(2);
    let node = cluster.primary(5);
    cluster.tell(node, ToWorker::Lease(cluster.now));
    cluster.read(node, 1, 5);
    cluster.write(2, &write(5, 1));
    let heard = cluster.hear(node);
    let errors: Vec<_> = heard.iter().map(|(_, body)| operation_ref(body).unwrap()).collect();
    assert_eq!(
        errors.iter().map(|(request, error)| (*request, error.code)).collect::<Vec<_>>(),
        [(1, ErrorCode::NotServing), (2, ErrorCode::NotServing),]
    );
}

#[test]
fn a_transaction_over_two_nodes_takes_two_phases() {
    let mut cluster = Cluster::new(2);
    let keys = keys_at(&cluster, &[0, 1]);
    cluster.transaction(0, request(1, BEGIN | COMMIT), &[write(keys[0], 10), write(keys[1], 20)]);
    let moved = cluster.settle();
    let kinds =
        |from: usize| moved.iter().filter(|moved| moved.0 == from).map(|moved| moved.2).collect::<Vec<_>>();
    let coordinator = [Kind::ExecuteReq, Kind::PrepareReq, Kind::WriteSetReq, Kind::DecideReq];
    assert_eq!(kinds(0)[..2], coordinator[..2]);
    assert!(coordinator.iter().all(|kind| kinds(0).contains(kind)), "{moved:?}");
    for kind in [Kind::ExecuteConf, Kind::WriteSetReq, Kind::PrepareConf] {
        assert!(kinds(1).contains(&kind), "{moved:?}");
    }
    assert_eq!(cluster.hear(0)[0].0, Kind::TransactionConf);
    assert_eq!((cluster.balance(keys[0]), cluster.balance(keys[1])), (Some(10), Some(20)));
    cluster.epoch(2);
    cluster.settle();
    cluster.epoch(3);
    cluster.settle();
    assert!(cluster.nodes.iter().all(|node| node.worker.is_idle()));
    assert!(cluster.words.iter().any(|(_, word)| matches!(word, Word::Done(..))));
}

#[test]
fn a_reader_waits_for_a_writer_that_may_be_committed() {
    let mut cluster = Cluster::new(2);
    let keys = keys_at(&cluster, &[0, 1]);
    cluster.transaction(0, request(1, BEGIN | COMMIT), &[write(keys[0], 10), write(keys[1], 20)]);
    // Until node 1 is prepared and node 0 has decided.
    while cluster.hear(0).is_empty() {
        cluster.carry(0, 1);
        if !cluster.nodes[1].worker.write_sets.is_empty() {
            cluster.read(1, 5, keys[1]);
            assert_eq!(cluster.hear(1), [], "the decision may be «committed» already");
            break;
        }
        cluster.carry(1, 0);
    }
    cluster.settle();
    let heard = cluster.hear(1);
    assert_eq!(balance_of(&heard), Some(20));
}

#[test]
fn the_older_transaction_takes_the_lock_of_the_younger() {
    let mut cluster = Cluster::new(2);
    let id = keys_at(&cluster, &[0])[0];
    cluster.transaction(0, request(9, BEGIN), &[write(id, 9)]);
    assert_eq!(cluster.hear(0)[0].0, Kind::TransactionConf);
    cluster.transaction(0, request(3, BEGIN), &[write(id, 3)]);
    assert_eq!(cluster.hear(0)[0].0, Kind::TransactionConf, "the older has it at once");
    cluster.transaction(0, TransactionReq { statement: 2, ..request(9, COMMIT) }, &[]);
    let heard = cluster.hear(0);
    let refusal: twofold_proto::message::TransactionRef = control(&heard[0].1).unwrap();
    assert_eq!(refusal.error.code, ErrorCode::Deadlock);
    assert!(refusal.error.text.contains("table `accounts`"), "{}", refusal.error.text);
    cluster.transaction(0, request(9, BEGIN), &[write(id, 9)]);
    assert_eq!(cluster.hear(0), [], "the younger waits");
    cluster.transaction(0, TransactionReq { statement: 2, ..request(3, COMMIT) }, &[]);
    cluster.settle();
    assert_eq!(cluster.hear(0).len(), 2, "the commit of the older, the lock of the younger");
    assert_eq!(cluster.balance(id), Some(3));
}

#[test]
fn a_lock_that_is_not_to_be_had_fails_the_statement_in_time() {
    let mut cluster = Cluster::new(2);
    let id = keys_at(&cluster, &[0])[0];
    cluster.transaction(0, request(1, BEGIN), &[write(id, 1)]);
    cluster.transaction(0, request(2, BEGIN), &[write(id, 2)]);
    cluster.hear(0);
    cluster.now = cluster.nodes[0].worker.next_timeout().unwrap();
    cluster.step(0, Input::Timer);
    let heard = cluster.hear(0);
    let refusal: twofold_proto::message::TransactionRef = control(&heard[0].1).unwrap();
    assert_eq!((refusal.request, refusal.error.code), (2, ErrorCode::LockWaitTimeout));
}

#[test]
fn a_failed_statement_is_undone_and_the_transaction_goes_on() {
    let mut cluster = Cluster::new(2);
    let keys = keys_at(&cluster, &[0, 1]);
    cluster.transaction(0, request(1, BEGIN), &[write(keys[0], 10), write(keys[1], 20)]);
    cluster.settle();
    let mut insert = write(keys[1], 5);
    insert.kind = OperationKind::Insert;
    cluster.transaction(0, TransactionReq { statement: 2, ..request(1, 0) }, &[add(keys[0], 5), insert]);
    cluster.settle();
    cluster.transaction(0, TransactionReq { statement: 3, ..request(1, COMMIT) }, &[add(keys[0], 1)]);
    cluster.settle();
    let heard: Vec<Kind> = cluster.hear(0).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(heard, [Kind::TransactionConf, Kind::TransactionRef, Kind::TransactionConf]);
    assert_eq!((cluster.balance(keys[0]), cluster.balance(keys[1])), (Some(11), Some(20)));
}

#[test]
fn the_buddy_of_a_dead_primary_has_every_acknowledged_write_and_serves_on() {
    let mut cluster = Cluster::new(2);
    let keys = keys_at(&cluster, &[0, 0]);
    cluster.write(1, &write(keys[0], 10));
    cluster.carry(0, 1);
    cluster.carry(1, 0);
    assert_eq!(cluster.hear(0).len(), 1);
    // Sent to the buddy, not acknowledged when the primary dies.
    cluster.write(2, &write(keys[1], 20));
    cluster.carry(0, 1);
    cluster.kill(0);
    assert_eq!(cluster.balance(keys[0]), Some(10), "the decision was never sent");
    assert_eq!(cluster.balance(keys[1]), Some(20), "prepared everywhere is committed");
    let status = cluster.status(1, 2, keys[1]);
    assert!(matches!(status, Status::Decided(Outcome::Committed(_))), "{status:?}");
    let (first, second) = (cluster.status(1, 3, keys[0]), cluster.status(1, 3, keys[0]));
    assert_eq!(first, Status::Decided(Outcome::Aborted).min_pending(first));
    assert_eq!(second, Status::Decided(Outcome::Aborted), "what never came never will");
    cluster.write(4, &add(keys[0], 1));
    assert_eq!(cluster.hear(1).len(), 1, "nobody to wait for");
}

#[test]
fn a_new_primary_waits_until_the_old_one_is_fenced() {
    let mut cluster = Cluster::new(2);
    let id = keys_at(&cluster, &[0])[0];
    let mut view = cluster.view.clone();
    view.number = ViewNumber(2);
    view.members.remove(0);
    cluster.view = view.clone();
    cluster.tell(1, ToWorker::View(Arc::new(view)));
    cluster.read(1, 1, id);
    let heard = cluster.hear(1);
    assert_eq!(operation_ref(&heard[0].1).unwrap().1.code, ErrorCode::NotServing);
    let life = Life { node: NodeId(1), incarnation: Incarnation(100) };
    cluster.tell(1, ToWorker::Fenced(life));
    cluster.read(1, 2, id);
    assert_eq!(cluster.hear(1)[0].0, Kind::OperationConf);
}

#[test]
fn a_transaction_whose_participant_never_prepared_is_refused_for_good() {
    let mut cluster = Cluster::new(2);
    let keys = keys_at(&cluster, &[0, 1]);
    cluster.transaction(0, request(1, BEGIN | COMMIT), &[write(keys[0], 10), write(keys[1], 20)]);
    cluster.carry(0, 1);
    cluster.carry(1, 0);
    // Node 0 has asked itself to prepare and sent its write set; node 1 gets only that, then node 0 is gone.
    let link = cluster.link(0, endpoint(1)).unwrap();
    let out = cluster.nodes[0].worker.links.writing(link).unwrap();
    let kinds: Vec<Kind> = out
        .unwritten()
        .flat_map(|frame| Messages::new(&frame[FRAME_HEADER..]).collect::<Vec<_>>())
        .map(|message| Kind::from_number(message.unwrap().kind).unwrap())
        .collect();
    assert_eq!(kinds, [Kind::PrepareReq, Kind::WriteSetReq]);
    cluster.kill(0);
    assert_eq!((cluster.balance(keys[0]), cluster.balance(keys[1])), (None, None));
    assert!(cluster.nodes[1].worker.is_idle());
}

#[test]
fn a_joining_node_gets_everything_and_then_its_share() {
    let mut cluster = Cluster::new(2);
    for id in 0..50 {
        let node = cluster.write(id as u32 + 1, &write(id, id as i64));
        cluster.settle();
        cluster.hear(node);
    }
    cluster.kill(0);
    let node = cluster.write(100, &operation(OperationKind::Delete, 7));
    cluster.hear(node);
    cluster.start_anew(0, Incarnation(200));
    cluster.client[0] = twofold_proto::link::Link::new(endpoint(0), Incarnation(200));
    cluster.tell(0, ToWorker::Catalog(Arc::new(catalog())));
    cluster.tell(0, ToWorker::Lease(Time::from_millis(1_000_000)));
    for state in [MemberState::Syncing, MemberState::Ready, MemberState::Up] {
        let mut view = cluster.view.clone();
        view.number = ViewNumber(view.number.0 + 1);
        view.members.retain(|member| member.node != NodeId(1));
        view.members.insert(
            0,
            Member { node: NodeId(1), incarnation: Incarnation(200), state, workers: 1, restored: None },
        );
        cluster.words.clear();
        cluster.adopt(view.clone());
        // A write while it joins.
        let node = cluster.write(200 + view.number.0 as u32, &write(60 + view.number.0, 1));
        cluster.settle();
        cluster.hear(node);
        // What was copied is on disk with the next epoch.
        cluster.epoch(6 + view.number.0);
        let said = |word: Word| cluster.words.iter().any(|(_, said)| *said == word);
        let life = Life { node: NodeId(1), incarnation: Incarnation(200) };
        match state {
            MemberState::Syncing => {
                assert!(said(Word::Copied(view.number, Epoch::new(1, 1))), "{:?}", cluster.words)
            }
            MemberState::Ready => assert!(said(Word::Counts(view.number, life)), "{:?}", cluster.words),
            MemberState::Up => {}
        }
    }
    cluster.epoch(20);
    cluster.settle();
    for partition in (0..4).map(PartitionId) {
        let contents = |node: usize| cluster.nodes[node].worker.store.contents(partition);
        assert_eq!(contents(0), contents(1));
    }
    assert_eq!(cluster.nodes[0].worker.store.rows(), 52);
    assert!((0..4).map(PartitionId).all(|partition| {
        let serving = cluster.nodes.iter().filter(|node| node.worker.serves(partition)).count();
        serving == 1
    }));
    cluster.connect_client_again(0);
    let id = keys_at(&cluster, &[0])[0];
    assert_eq!(cluster.balance(id), Some(id as i64));
}

#[test]
fn a_hand_over_does_not_lose_an_independent_write_under_way() {
    let mut cluster = Cluster::new(2);
    cluster.kill(0);
    cluster.start_anew(0, Incarnation(200));
    cluster.tell(0, ToWorker::Catalog(Arc::new(catalog())));
    cluster.tell(0, ToWorker::Lease(Time::from_millis(1_000_000)));
    for state in [MemberState::Syncing, MemberState::Ready] {
        let mut view = cluster.view.clone();
        view.number = ViewNumber(view.number.0 + 1);
        view.members.retain(|member| member.node != NodeId(1));
        view.members.insert(
            0,
            Member { node: NodeId(1), incarnation: Incarnation(200), state, workers: 1, restored: None },
        );
        cluster.adopt(view);
        cluster.settle();
    }
    // A partition that node 1 serves now and node 0 will: its write set is under way when the view comes.
    let mut view = cluster.view.clone();
    view.number = ViewNumber(view.number.0 + 1);
    view.members[0].state = MemberState::Up;
    let map = PartitionMap::new(&cluster.config, &view);
    let moves = |id: &u64| map.primary(write(*id, 0).hash.partition(4)).unwrap() == endpoint(0);
    let id = (0..).find(moves).unwrap();
    assert_eq!(cluster.write(1, &write(id, 5)), 1);
    assert_eq!(cluster.carry(1, 0), [Kind::WriteSetReq]);
    cluster.adopt(view);
    cluster.settle();
    assert_eq!(cluster.hear(1).iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Kind::WriteConf]);
    cluster.epoch(5);
    cluster.settle();
    cluster.epoch(6);
    cluster.settle();
    assert!(cluster.nodes.iter().all(|node| node.worker.is_idle()));
    let partition = write(id, 0).hash.partition(4);
    assert_eq!(cluster.nodes[0].worker.store.contents(partition).len(), 1);
}

#[test]
fn expired_rows_are_not_there_and_are_freed() {
    let mut cluster = Cluster::new(2);
    let mut short = write(5, 1);
    short.expiry = Some(ClusterTime(1_000_000 + 100));
    let node = cluster.write(1, &short);
    cluster.settle();
    cluster.hear(node);
    assert_eq!(cluster.balance(5), Some(1));
    for counter in 2..20 {
        cluster.epoch(counter);
        cluster.settle();
    }
    assert_eq!(cluster.balance(5), None);
    assert!(cluster.nodes.iter().all(|node| node.worker.store.rows() == 0), "freed on both");
}

#[test]
fn past_the_bound_writes_are_refused_and_deletes_go_on() {
    let mut cluster = Cluster::new(1);
    let mut full = None;
    for id in 0..100_000 {
        let node = cluster.write(id as u32 + 1, &write(id, 1));
        let heard = cluster.hear(node);
        if heard[0].0 == Kind::OperationRef {
            full = Some((id, operation_ref(&heard[0].1).unwrap().1));
            break;
        }
    }
    let (id, error) = full.expect("1 MiB fills up");
    assert_eq!(error.code, ErrorCode::TableFull);
    let worker = &cluster.nodes[0].worker;
    assert!(worker.store.used_bytes() <= worker.store.data_memory());
    assert!(id > 5_000, "{id} rows only");
    cluster.write(200_000, &operation(OperationKind::Delete, 0));
    assert_eq!(cluster.hear(0)[0].0, Kind::WriteConf);
    assert_eq!(cluster.balance(0), None);
    assert_eq!(cluster.balance(1), Some(1));
}

#[test]
fn garbage_from_a_client_ends_its_link_and_nothing_else() {
    let mut cluster = Cluster::new(2);
    let node = cluster.write(1, &write(5, 50));
    cluster.settle();
    cluster.hear(node);
    cluster.send(node, Kind::WriteReq, &[1, 2, 3]);
    assert!(cluster.link(node, Endpoint::new(NodeId(0), WorkerId(0))).is_none());
    assert!(cluster.nodes[node].worker.is_idle());
}

#[test]
fn a_read_of_a_row_that_is_not_there_does_not_fail_its_statement() {
    let mut cluster = Cluster::new(2);
    let id = keys_at(&cluster, &[0])[0];
    cluster.transaction(0, request(1, BEGIN), &[read(id), write(id, 1)]);
    let heard = cluster.hear(0);
    let [(Kind::TransactionConf, body)] = &heard[..] else { panic!("{heard:?}") };
    let mut reader = Reader::new(body, "test");
    assert_eq!(twofold_proto::message::TransactionConf::parse(&mut reader).unwrap().results, 2);
    let code = |bytes: &[u8]| ResultRef::parse(&mut Reader::new(bytes, "test")).unwrap().head.code;
    let codes = [code(reader.block().unwrap()), code(reader.block().unwrap())];
    assert_eq!(codes, [ResultCode::NotFound, ResultCode::Ok]);
}

#[test]
fn locked_reads_and_own_writes_are_seen_in_a_transaction() {
    let mut cluster = Cluster::new(2);
    let id = keys_at(&cluster, &[0])[0];
    let mut locked = read(id);
    locked.lock = LockMode::Exclusive;
    cluster.transaction(0, request(1, BEGIN), &[write(id, 1), add(id, 4), locked, read(id)]);
    let heard = cluster.hear(0);
    let mut reader = Reader::new(&heard[0].1, "test");
    let conf = twofold_proto::message::TransactionConf::parse(&mut reader).unwrap();
    assert_eq!(conf.results, 4);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let result = reader.block().unwrap();
        let result = ResultRef::parse(&mut Reader::new(result, "test")).unwrap();
        seen.push(result.before.map(|row| row.values().next().unwrap().unwrap().into_owned()));
    }
    assert_eq!(seen, [None, None, Some(ValueRef::Int(5)), Some(ValueRef::Int(5))]);
    assert_eq!(cluster.balance(id), None, "not before the commit");
}

impl Cluster {
    fn status(&mut self, node: usize, number: u64, id: u64) -> Status {
        let request = StatusReq {
            request: 1,
            transaction: TransactionId { session: SESSION, number },
            commit_number: number,
            coordinator: Coordinator { endpoint: endpoint(0), incarnation: Incarnation(100) },
            partition: operation(OperationKind::Read, id).hash.partition(4),
            epoch: Epoch::new(1, 1),
            disowned: false,
        };
        let mut body = Vec::new();
        put_control(&mut body, &request);
        self.send(node, Kind::StatusReq, &body);
        let heard = self.hear(node);
        let conf: StatusConf = control(&heard[0].1).unwrap();
        conf.status
    }

    fn connect_client_again(&mut self, node: usize) {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            cluster: "test".into(),
            from: Endpoint::new(NodeId(0), WorkerId(0)),
            incarnation: SESSION,
            to: endpoint(node),
            to_incarnation: Incarnation(0),
            received: 0,
        };
        self.step(node, Input::Link(LinkInput::Hello { connection: 3, hello }));
        let incarnation = self.nodes[node].worker.life.incarnation;
        self.client[node].connected(incarnation, 0).unwrap();
    }
}

trait MinPending {
    fn min_pending(self, seen: Status) -> Status;
}

impl MinPending for Status {
    /// A refusal is planted first: «pending» is right as well.
    fn min_pending(self, seen: Status) -> Status {
        if seen == Status::Pending { Status::Pending } else { self }
    }
}
