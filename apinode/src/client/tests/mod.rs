//! Tests of the client against workers and management nodes that say what the test tells them to. Every message goes
//! through frames, so what is compared is what travels.

mod cluster;
mod deadlines;
mod durable;
mod faults;
mod operations;
mod outcome;
mod ranges;
mod sharing;
mod transactions;

use twofold_proto::{
    config::{Address, ApiNodeConfig, DataNodeConfig, ManagementNodeConfig},
    ids::{NodeId, PartitionId, TableId, ViewNumber, WorkerId},
    link::{FRAME_HEADER, FrameHeader, Link, Messages, Received},
    message::{IndependentWrite, Kind, StatusReq, TransactionReq, control, put_control, put_operation_ref},
    operation::{LockMode, OperationKind},
    placement::KeyHash,
    schema::Table,
    view::{Member, MemberState},
    wire::{Reader, Writer},
};

use super::*;
use crate::request::{Failure, Operations, Options, Results};

const OWN: Endpoint = Endpoint::new(NodeId(21), WorkerId(0));
const SESSION: Incarnation = Incarnation(77);
const WALL_CLOCK: u64 = 1_700_000_000_000_000;
const PARTITIONS: u16 = 8;

/// The other end of a link.
struct Far {
    link: Link,
    to: Endpoint,
    /// What has arrived and was not looked at.
    inbox: Vec<(Kind, Vec<u8>)>,
    frames: usize,
}

/// A client and the other ends of its links.
struct Net {
    client: Client,
    now: Time,
    far: BTreeMap<LinkId, Far>,
    /// The life that each node's process has; none: it does not answer.
    lives: BTreeMap<NodeId, Incarnation>,
    /// What the client did, but for its links.
    effects: Vec<Effect>,
    /// The versions of the catalogs that it told.
    catalogs: Vec<u64>,
    /// What it told of whether the cluster can be served.
    serves: Vec<bool>,
    epoch: Epoch,
    view: View,
}

fn life(node: u16, number: u64) -> Incarnation {
    Incarnation(u64::from(node) * 1000 + number)
}

fn config(workers: u16, data_nodes: &[u16]) -> ClusterConfig {
    let address = Address { host: "127.0.0.1".into(), port: 1 };
    ClusterConfig {
        name: "local".into(),
        replicas: 2,
        partitions: PARTITIONS,
        data_memory: 1 << 30,
        redo_bytes: 64 << 20,
        flush_ms: 100,
        heartbeat_ms: 50,
        lease_ms: 250,
        failure_ms: 500,
        epoch_ms: 20,
        lock_wait_timeout_ms: 2000,
        idle_transaction_ms: 60_000,
        management_nodes: [1, 2]
            .map(|id| ManagementNodeConfig { id: NodeId(id), address: address.clone(), web_port: 2 })
            .into(),
        data_nodes: data_nodes
            .iter()
            .map(|&id| DataNodeConfig { id: NodeId(id), address: address.clone(), workers })
            .collect(),
        memcached: vec![],
        api_nodes: vec![ApiNodeConfig {
            id: NodeId(21),
            host: "127.0.0.1".into(),
            grpc_port: 3,
            memcached_port: 4,
            sql_port: 5,
            metrics_port: 6,
            threads: 1,
        }],
    }
}

fn member(node: u16, incarnation: Incarnation, workers: u16) -> Member {
    Member { node: NodeId(node), incarnation, state: MemberState::Up, workers, restored: None }
}

fn setup() -> Setup {
    Setup {
        own: OWN,
        incarnation: SESSION,
        cluster: "local".into(),
        management: vec![Endpoint::node(NodeId(1)), Endpoint::node(NodeId(2))],
        wall_clock_offset: WALL_CLOCK,
        seed: 1,
        bounds: Bounds::default(),
    }
}

/// A hash in this partition.
fn hash(partition: u16) -> KeyHash {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&u64::from(partition).to_be_bytes());
    KeyHash(bytes)
}

fn operation(kind: OperationKind, partition: u16, key: &[u8]) -> OperationRef<'_> {
    // A row of one byte, where the kind needs one.
    let body: &[u8] = if kind == OperationKind::Read { &[] } else { &[32, 1, 0, 0, 0, 9] };
    let lock = if kind == OperationKind::Read { LockMode::None } else { LockMode::Exclusive };
    OperationRef { kind, lock, table: TableId(1), schema_version: 1, hash: hash(partition), key, body }
}

fn read(partition: u16) -> OperationRef<'static> {
    operation(OperationKind::Read, partition, b"key")
}

fn write(partition: u16) -> OperationRef<'static> {
    operation(OperationKind::Write, partition, b"key")
}

fn bytes_of(operation: &OperationRef<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    operation.encode(&mut bytes);
    bytes
}

fn operations(list: &[OperationRef<'_>]) -> Operations {
    let bytes = list.iter().flat_map(bytes_of).collect();
    Operations { bytes, count: list.len() as u16 }
}

impl Net {
    fn new(setup: Setup) -> Net {
        let lives = [1, 2, 11, 12].map(|node| (NodeId(node), life(node, 1))).into();
        let view = View::default();
        let far = BTreeMap::new();
        let client = Client::new(setup);
        Net {
            client,
            now: Time::from_millis(1000),
            far,
            lives,
            effects: Vec::new(),
            catalogs: Vec::new(),
            serves: Vec::new(),
            epoch: Epoch::new(1, 5),
            view,
        }
    }

    /// A client that knows two data nodes of so many workers, all `up`, and an empty catalog. With one worker each,
    /// node 11 serves the even partitions and node 12 the odd ones.
    fn ready(workers: u16) -> Net {
        let mut net = Net::new(setup());
        net.make_ready(workers);
        net
    }

    fn make_ready(&mut self, workers: u16) {
        self.step(Input::Timer);
        self.tell(Endpoint::node(NodeId(1)), Kind::ConfigOrd, |out| {
            put_control(out, &config(workers, &[11, 12]))
        });
        self.tell(Endpoint::node(NodeId(1)), Kind::CatalogOrd, |out| put_control(out, &Catalog::default()));
        let members = vec![member(11, life(11, 1), workers), member(12, life(12, 1), workers)];
        self.see_view(members);
        assert!(self.client.is_ready());
        self.effects.clear();
    }

    /// A management node tells of the next view.
    fn see_view(&mut self, members: Vec<Member>) {
        self.view =
            View { number: ViewNumber(self.view.number.0 + 1), restart: 1, members, ..View::default() };
        let view = self.view.clone();
        self.tell(Endpoint::node(NodeId(1)), Kind::ViewOrd, |out| put_control(out, &view));
    }

    fn drop_node(&mut self, node: u16) {
        self.lives.remove(&NodeId(node));
        let members =
            self.view.members.iter().filter(|member| member.node != NodeId(node)).copied().collect();
        self.see_view(members);
    }

    fn step(&mut self, input: Input<'_>) {
        let mut effects = Vec::new();
        self.client.step(self.now, input, &mut effects);
        self.client.check();
        for effect in effects {
            match Client::link_effect(effect) {
                Ok(LinkEffect::Connect { link, to }) => {
                    self.far.insert(
                        link,
                        Far { link: Link::new(OWN, SESSION), to, inbox: Vec::new(), frames: 0 },
                    );
                    self.connect(link);
                }
                Ok(LinkEffect::Close { link }) => assert!(self.far.remove(&link).is_some()),
                Ok(other) => panic!("{other:?}"),
                Err(Effect::Catalog(catalog)) => self.catalogs.push(catalog.version),
                Err(Effect::Serves(serves)) => self.serves.push(serves),
                Err(effect) => self.effects.push(effect),
            }
        }
    }

    /// The driver connects a link, if its node runs.
    fn connect(&mut self, id: LinkId) {
        let Some(far) = self.far.get_mut(&id) else { return };
        let Some(&incarnation) = self.lives.get(&far.to.node) else { return };
        let wanted = self.client.links.hello(id).expect("the link is there").to_incarnation;
        if wanted.0 != 0 && wanted != incarnation {
            return;
        }
        let received = self.client.links.get(id).unwrap().received();
        far.link.connected(SESSION, received).unwrap();
        let received = far.link.received();
        self.step(Input::Link(LinkInput::Connected { link: id, incarnation, received }));
        self.pump(id);
    }

    fn disconnect(&mut self, id: LinkId) {
        self.far.get_mut(&id).unwrap().link.disconnected();
        self.step(Input::Link(LinkInput::Disconnected { link: id }));
    }

    /// Ends the turn and carries what was written.
    fn turn(&mut self) {
        let mut effects = Vec::new();
        self.client.end_turn(self.now, &mut effects);
        assert_eq!(effects, []);
        let mut dirty = Vec::new();
        self.client.links().take_dirty(&mut dirty);
        for id in dirty {
            let Some(far) = self.far.get_mut(&id) else { continue };
            let link = self.client.links().writing(id).unwrap();
            let bytes: Vec<u8> = link.unwritten().flatten().copied().collect();
            link.wrote(bytes.len());
            far.take(&bytes);
        }
    }

    fn to(&self, endpoint: Endpoint) -> LinkId {
        let mut found = self.far.iter().filter(|(_, far)| far.to == endpoint).map(|(&link, _)| link);
        found.next().unwrap_or_else(|| panic!("no link to {endpoint:?}"))
    }

    /// Sends a message to the client.
    fn tell(&mut self, from: Endpoint, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) {
        let id = self.to(from);
        let far = self.far.get_mut(&id).unwrap();
        far.link.send(kind as u8, 0, body);
        far.link.seal(self.epoch, false);
        self.pump(id);
    }

    /// Carries what the other end of a link has written, if there is a connection.
    fn pump(&mut self, id: LinkId) {
        let Some(far) = self.far.get_mut(&id) else { return };
        let bytes: Vec<u8> = far.link.unwritten().flatten().copied().collect();
        far.link.wrote(bytes.len());
        self.carry(id, &bytes);
    }

    fn carry(&mut self, id: LinkId, mut bytes: &[u8]) {
        while let Some(header) = FrameHeader::parse(bytes).unwrap() {
            let (frame, rest) = bytes.split_at(header.length);
            bytes = rest;
            self.step(Input::Link(LinkInput::Frame { link: id, header, payload: &frame[FRAME_HEADER..] }));
        }
    }

    /// Ends the turn; takes what has arrived at a worker, but for views and marks.
    fn arrived(&mut self, node: u16, worker: u16) -> Vec<(Kind, Vec<u8>)> {
        self.turn();
        let id = self.to(Endpoint::new(NodeId(node), WorkerId(worker)));
        let mut all = std::mem::take(&mut self.far.get_mut(&id).unwrap().inbox);
        all.retain(|(kind, _)| !matches!(kind, Kind::ViewOrd | Kind::MarkOrd));
        all
    }

    /// The one message that has arrived at worker 0 of a node.
    fn one(&mut self, node: u16, kind: Kind) -> Vec<u8> {
        let mut all = self.arrived(node, 0);
        assert_eq!(all.len(), 1, "{all:?}");
        let (found, body) = all.pop().unwrap();
        assert_eq!(found, kind);
        body
    }

    fn one_read(&mut self, node: u16) -> u32 {
        Reader::new(&self.one(node, Kind::ReadReq), "test").u32().unwrap()
    }

    fn one_write(&mut self, node: u16) -> IndependentWrite {
        IndependentWrite::parse(&mut Reader::new(&self.one(node, Kind::WriteReq), "test")).unwrap()
    }

    fn one_statement(&mut self, node: u16) -> TransactionReq {
        TransactionReq::parse(&mut Reader::new(&self.one(node, Kind::TransactionReq), "test")).unwrap()
    }

    fn one_question(&mut self, node: u16) -> StatusReq {
        control(&self.one(node, Kind::StatusReq)).unwrap()
    }

    /// Worker 0 of a node has committed a write.
    fn written(&mut self, node: u16, request: u32, epoch: Epoch, result: &[u8]) {
        self.tell(worker(node), Kind::WriteConf, |out| {
            out.put_u32(request);
            out.put_u64(epoch.0);
            out.put(result);
        });
    }

    /// Worker 0 of a node answers an operation that has written nothing.
    fn confirm(&mut self, node: u16, request: u32, result: &[u8]) {
        self.tell(worker(node), Kind::OperationConf, |out| {
            out.put_u32(request);
            out.put(result);
        });
    }

    fn refuse(&mut self, node: u16, request: u32, code: ErrorCode) {
        self.tell(worker(node), Kind::OperationRef, |out| {
            put_operation_ref(out, request, &Error::new(code, "so"))
        });
    }

    fn pass(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        // As a driver does: no earlier than asked for, no later than needed.
        while let Some(at) = self.client.next_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.step(Input::Timer);
        }
        self.now = until;
    }

    fn submit(&mut self, token: u64, request: Request) {
        self.step(Input::Submit { token, request });
    }

    fn operate(&mut self, token: u64, operation: OperationRef<'_>) {
        self.step(Input::Operation { token, durability: crate::request::Durability::Memory, operation });
    }

    /// What single operations were answered since the last time.
    fn replies(&mut self) -> Vec<(u64, Result<Vec<u8>, Failure>)> {
        let mut all = Vec::new();
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Replies(replies) => {
                    let owned = |(token, result): (u64, Result<&[u8], &Failure>)| {
                        (token, result.map(<[u8]>::to_vec).map_err(Failure::clone))
                    };
                    all.extend(replies.iter().map(owned));
                }
                other => panic!("{other:?}"),
            }
        }
        all
    }

    fn reply_code(&mut self) -> ErrorCode {
        let replies = self.replies();
        let [(_, Err(failure))] = &replies[..] else { panic!("{replies:?}") };
        failure.error.code
    }

    /// What requests were answered since the last time.
    fn answers(&mut self) -> Vec<(u64, Answer)> {
        let taken = std::mem::take(&mut self.effects).into_iter();
        taken
            .map(|effect| match effect {
                Effect::Answer { token, answer } => (token, answer),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn answer(&mut self) -> Answer {
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.pop().unwrap().1
    }

    fn failure(&mut self) -> Failure {
        match self.answer() {
            Answer::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }
}

fn worker(node: u16) -> Endpoint {
    Endpoint::new(NodeId(node), WorkerId(0))
}

impl Far {
    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(header) = FrameHeader::parse(bytes).unwrap() {
            let (frame, rest) = bytes.split_at(header.length);
            bytes = rest;
            if self.link.receive(&header).unwrap() == Received::New {
                self.frames += 1;
                for message in Messages::new(&frame[FRAME_HEADER..]) {
                    let message = message.unwrap();
                    self.inbox.push((Kind::from_number(message.kind).unwrap(), message.body.to_vec()));
                }
            }
            self.link.processed(&header);
        }
    }
}

fn independent(list: &[OperationRef<'_>]) -> Request {
    Request::Independent { operations: operations(list), options: Options::default() }
}

fn results(list: &[&[u8]]) -> Results {
    let mut results = Results::new(0);
    for bytes in list {
        results.push(bytes);
    }
    results
}

fn table(name: &str) -> Table {
    Table {
        id: TableId(1),
        name: name.into(),
        version: 1,
        columns: Vec::new(),
        primary_key: Vec::new(),
        distribution_key: Vec::new(),
        indexes: Vec::new(),
    }
}

#[test]
fn partitions_of_the_test_cluster_are_where_the_tests_take_them_to_be() {
    let net = Net::ready(1);
    for partition in 0..PARTITIONS {
        let primary = net.client.map.primary(PartitionId(partition));
        assert_eq!(primary, Some(worker(11 + partition % 2)));
    }
}
