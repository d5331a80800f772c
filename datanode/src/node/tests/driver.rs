//! A handful of nodes, a management node that says what the test wants, and the network between them, in one thread.

use std::collections::{BTreeMap, BTreeSet};

use twofold_proto::{
    config::{Address, DataNodeConfig, ManagementNodeConfig},
    link::{FRAME_HEADER, FrameHeader, HelloReply, Link, Messages, Received},
    message::{Kind, control},
    view::Member,
};

use super::super::*;

pub const MANAGER: NodeId = NodeId(1);

pub fn ms(millis: u64) -> Time {
    Time::from_millis(millis)
}

/// Heartbeats every 50 ms, leases of 250, failure after 500, epochs of 20.
pub fn config(nodes: &[u16], replicas: u8) -> Arc<ClusterConfig> {
    let address = |port| Address { host: "127.0.0.1".into(), port };
    let data_node = |&id: &u16| DataNodeConfig { id: NodeId(id), address: address(2200 + id), workers: 2 };
    Arc::new(ClusterConfig {
        name: "test".into(),
        replicas,
        partitions: 12,
        data_memory: 1 << 20,
        redo_bytes: 64 << 20,
        flush_ms: 100,
        heartbeat_ms: 50,
        lease_ms: 250,
        failure_ms: 500,
        epoch_ms: 20,
        lock_wait_timeout_ms: 1000,
        idle_transaction_ms: 1000,
        management_nodes: vec![ManagementNodeConfig { id: MANAGER, address: address(1186), web_port: 1188 }],
        data_nodes: nodes.iter().map(data_node).collect(),
        memcached: vec![],
        api_nodes: Vec::new(),
    })
}

pub fn life(node: u16) -> Life {
    Life { node: NodeId(node), incarnation: Incarnation(u64::from(node) * 10) }
}

/// A view of first lives, by ascending id.
pub fn view(number: u64, members: &[(u16, MemberState)]) -> View {
    let member = |&(node, state): &(u16, MemberState)| Member {
        node: NodeId(node),
        incarnation: life(node).incarnation,
        state,
        workers: 2,
        restored: None,
    };
    View {
        number: ViewNumber(number),
        restart: 1,
        members: members.iter().map(member).collect(),
        ..View::default()
    }
}

pub fn node(config: &Arc<ClusterConfig>, id: u16, workers: u16) -> Node {
    let incarnation = life(id).incarnation;
    let mut node =
        Node::new(ms(0), Settings { config: config.clone(), id: NodeId(id), incarnation, workers });
    // Its disk is empty.
    node.step(ms(0), Input::Disk(crate::disk::Word::Found(None)), &mut Vec::new());
    node
}

/// Steps and ends the turn. The disk takes no time.
pub fn turn(node: &mut Node, now: Time, input: Input<'_>) -> Vec<Effect> {
    let mut effects = Vec::new();
    node.step(now, input, &mut effects);
    while let Some(place) = effects.iter().position(|effect| matches!(effect, Effect::Disk(_))) {
        let word = match effects.remove(place) {
            Effect::Disk(ToDisk::Restore(_)) => crate::disk::Word::Restored,
            Effect::Disk(ToDisk::Remember { .. }) => crate::disk::Word::Remembered(node.life.incarnation),
            _ => continue,
        };
        node.step(now, Input::Disk(word), &mut effects);
    }
    node.check();
    node.end_turn(now, &mut effects);
    effects
}

pub fn says(worker: u16, word: Word) -> Input<'static> {
    Input::Worker(FromWorker { worker: WorkerId(worker), word })
}

/// What all workers are told, in order; each must be told the same.
pub fn told(effects: &[Effect], workers: u16) -> Vec<ToWorker> {
    let to = |wanted: u16| {
        effects.iter().filter_map(move |effect| match effect {
            Effect::Worker { worker, message } if worker.0 == wanted => Some(message.clone()),
            _ => None,
        })
    };
    let first: Vec<ToWorker> = to(0).collect();
    for worker in 1..workers {
        assert_eq!(to(worker).collect::<Vec<_>>(), first, "worker {worker} is told what worker 0 is");
    }
    first
}

/// The management node's end.
pub struct Manager {
    pub links: Links,
    pub view: Arc<View>,
    pub reports: BTreeMap<Life, (Time, ReportOrd)>,
    pub goodbyes: Vec<Life>,
}

pub enum Host {
    Node(Box<Node>),
    Manager(Box<Manager>),
}

/// What a worker does by itself.
#[derive(Default)]
pub struct FakeWorkers {
    pub hang: bool,
    /// Whether they say that they are done with every epoch but the newest.
    pub done: bool,
    pub view: Option<Arc<View>>,
    pub lease: Time,
    pub fenced: Vec<(Time, Life)>,
    pub epochs: Vec<(Epoch, Epoch, ClusterTime)>,
    pub waiting: Vec<FromWorker>,
}

pub use twofold_proto::time::ClusterTime;

#[derive(Default)]
pub struct Net {
    pub now: Time,
    pub hosts: BTreeMap<NodeId, Host>,
    pub workers: BTreeMap<NodeId, FakeWorkers>,
    pub exits: BTreeMap<NodeId, (Time, bool, String)>,
    /// The newest complete epoch that each knew of when it ended.
    pub complete: BTreeMap<NodeId, Epoch>,
    pub events: Vec<(NodeId, Event)>,
    /// Directions in which nothing moves.
    pub blocked: BTreeSet<(NodeId, NodeId)>,
    attempts: Vec<(NodeId, LinkId, Endpoint)>,
    wires: BTreeMap<(NodeId, LinkId), (NodeId, LinkId)>,
    /// Bytes on their way to a host's link.
    transit: BTreeMap<(NodeId, LinkId), Vec<u8>>,
    connections: u64,
    answer: Option<(Option<LinkId>, HelloReply)>,
}

impl Net {
    /// These nodes, of first lives, and a management node that knows no view.
    pub fn new(config: &Arc<ClusterConfig>) -> Net {
        let mut net = Net::default();
        let links = Links::new(Endpoint::node(MANAGER), Incarnation(1), &config.name);
        let manager = Manager { links, view: Arc::default(), reports: BTreeMap::new(), goodbyes: Vec::new() };
        net.hosts.insert(MANAGER, Host::Manager(Box::new(manager)));
        for data_node in &config.data_nodes {
            net.hosts.insert(data_node.id, Host::Node(Box::new(node(config, data_node.id.0, 2))));
            net.workers.insert(data_node.id, FakeWorkers { done: true, ..FakeWorkers::default() });
        }
        net
    }

    pub fn manager(&mut self) -> &mut Manager {
        match self.hosts.get_mut(&MANAGER) {
            Some(Host::Manager(manager)) => manager,
            _ => panic!("there is a manager"),
        }
    }

    pub fn node(&self, id: u16) -> &Node {
        match self.hosts.get(&NodeId(id)) {
            Some(Host::Node(node)) => node,
            _ => panic!("there is no node {id}"),
        }
    }

    pub fn workers(&self, id: u16) -> &FakeWorkers {
        &self.workers[&NodeId(id)]
    }

    pub fn report(&mut self, id: u16) -> ReportOrd {
        self.manager().reports[&life(id)].1.clone()
    }

    /// The management node publishes a view.
    pub fn publish(&mut self, view: View) {
        self.manager().view = Arc::new(view.clone());
        self.broadcast(|link| link.send_control(Kind::ViewOrd, &view));
    }

    /// The management node says something to everyone.
    pub fn broadcast(&mut self, say: impl Fn(&mut Link)) {
        let manager = self.manager();
        for id in manager.links.ids().collect::<Vec<_>>() {
            say(manager.links.get_mut(id).expect("its own link"));
        }
        manager.links.seal(Epoch(0), true);
        self.collect(MANAGER);
        self.settle();
    }

    pub fn block(&mut self, a: u16, b: u16, both: bool) {
        self.blocked.insert((NodeId(a), NodeId(b)));
        if both {
            self.blocked.insert((NodeId(b), NodeId(a)));
        }
    }

    pub fn give(&mut self, id: u16, input: Input<'_>) {
        self.step(NodeId(id), input);
        self.settle();
    }

    /// A host is gone without a word.
    pub fn kill(&mut self, id: NodeId) {
        self.hosts.remove(&id);
        self.attempts.retain(|(host, ..)| *host != id);
        self.workers.remove(&id);
        let ends: Vec<_> =
            self.wires.iter().filter(|(a, b)| a.0 == id || b.0 == id).map(|(&a, _)| a).collect();
        for end in ends {
            self.disconnect(end);
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, until: u64) {
        loop {
            self.settle();
            let due = |host: &Host| match host {
                Host::Node(node) => node.next_timeout(),
                Host::Manager(_) => None,
            };
            // Connections are tried again every 5 ms.
            let retry = self.now + Duration::from_millis(5);
            let next = self.hosts.values().filter_map(due).min().unwrap_or(retry).min(retry);
            if next > ms(until) {
                break;
            }
            self.now = self.now.max(next);
            for id in self.hosts.keys().copied().collect::<Vec<_>>() {
                if self.hosts.get(&id).and_then(due).is_some_and(|due| due <= self.now) {
                    self.step(id, Input::Timer);
                }
            }
        }
        self.now = self.now.max(ms(until));
        self.settle();
    }

    fn step(&mut self, id: NodeId, input: Input<'_>) {
        let now = self.now;
        let Some(Host::Node(node)) = self.hosts.get_mut(&id) else { return };
        let effects = turn(node, now, input);
        self.carry_out(id, effects);
        self.collect(id);
    }

    fn carry_out(&mut self, id: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Link(LinkEffect::Connect { link, to }) => self.attempts.push((id, link, to)),
                Effect::Link(LinkEffect::Answer { link, reply, .. }) => self.answer = Some((link, reply)),
                Effect::Link(LinkEffect::Close { link }) => {
                    self.attempts.retain(|&(host, other, _)| (host, other) != (id, link));
                    self.disconnect((id, link));
                }
                Effect::Link(LinkEffect::Disconnect { link }) => self.disconnect((id, link)),
                Effect::Worker { worker, message } => self.tell_worker(id, worker, message),
                Effect::Exit { restart, reason, .. } => {
                    self.exits.insert(id, (self.now, restart, reason));
                }
                Effect::Event(event) => self.events.push((id, event)),
                Effect::Disk(message) => panic!("{message:?} was not carried out"),
            }
        }
        if self.exits.contains_key(&id) {
            self.complete.insert(id, self.node(id.0).epochs.complete);
            self.kill(id);
        }
    }

    fn tell_worker(&mut self, id: NodeId, worker: WorkerId, message: ToWorker) {
        let now = self.now;
        let Some(workers) = self.workers.get_mut(&id) else { return };
        let mut word = |word| workers.waiting.push(FromWorker { worker, word });
        match message {
            _ if workers.hang => {}
            ToWorker::View(view) => {
                word(Word::View(view.clone()));
                workers.view = Some(view);
            }
            ToWorker::Catalog(catalog) => word(Word::Catalog(catalog.version)),
            ToWorker::Lease(until) => workers.lease = until,
            ToWorker::Fenced(life) => workers.fenced.push((now, life)),
            ToWorker::Disk(_) => {}
            ToWorker::Epoch { epoch, complete, time, .. } => {
                word(Word::Durable(complete));
                if workers.done
                    && let Some(view) = &workers.view
                {
                    word(Word::Done(view.number, epoch.previous()));
                }
                if worker.0 == 0 {
                    workers.epochs.push((epoch, complete, time));
                }
            }
            ToWorker::AreYouThere(question) => word(Word::Alive(question)),
        }
    }

    fn links(&mut self, id: NodeId) -> Option<&mut Links> {
        Some(match self.hosts.get_mut(&id)? {
            Host::Node(node) => node.links(),
            Host::Manager(manager) => &mut manager.links,
        })
    }

    /// Puts what a host has to write on the wires.
    fn collect(&mut self, id: NodeId) {
        let mut dirty = Vec::new();
        let Some(links) = self.links(id) else { return };
        links.take_dirty(&mut dirty);
        for link in dirty {
            let Some(end) = self.links(id).and_then(|links| links.writing(link)) else { continue };
            let bytes: Vec<u8> = end.unwritten().flatten().copied().collect();
            end.wrote(bytes.len());
            if let Some(&there) = self.wires.get(&(id, link)) {
                self.transit.entry(there).or_default().extend(bytes);
            }
        }
    }

    /// All connections to the management node break.
    pub fn forget_wires(&mut self) {
        for end in self.wires.keys().filter(|(host, _)| *host == MANAGER).copied().collect::<Vec<_>>() {
            self.disconnect(end);
        }
    }

    /// Both ends of a wire learn that it is cut.
    fn disconnect(&mut self, end: (NodeId, LinkId)) {
        let Some(other) = self.wires.remove(&end) else { return };
        self.wires.remove(&other);
        for (host, link) in [end, other] {
            self.transit.remove(&(host, link));
            match self.hosts.get_mut(&host) {
                Some(Host::Node(_)) => self.step(host, Input::Link(LinkInput::Disconnected { link })),
                Some(Host::Manager(manager)) => {
                    if let Some(link) = manager.links.get_mut(link) {
                        link.disconnected();
                    }
                }
                None => {}
            }
        }
    }

    /// Delivers until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut moved = self.connect();
            for id in self.workers.keys().copied().collect::<Vec<_>>() {
                for said in std::mem::take(&mut self.workers.get_mut(&id).expect("listed").waiting) {
                    self.step(id, Input::Worker(said));
                    moved = true;
                    if !self.workers.contains_key(&id) {
                        break;
                    }
                }
            }
            for (&there, &from) in &self.wires.clone() {
                moved |= !self.blocked.contains(&(from.0, there.0)) && self.deliver(there);
            }
            if !moved {
                break;
            }
        }
    }

    fn connect(&mut self) -> bool {
        let mut moved = false;
        for (id, link, to) in self.attempts.clone() {
            let free = !self.wires.contains_key(&(id, link)) && self.hosts.contains_key(&to.node);
            if !free || self.blocked.contains(&(id, to.node)) || self.blocked.contains(&(to.node, id)) {
                continue;
            }
            let Some(hello) = self.links(id).and_then(|links| links.hello(link)) else { continue };
            self.connections += 1;
            let connection = self.connections;
            self.answer = None;
            match self.hosts.get_mut(&to.node) {
                Some(Host::Node(_)) => {
                    self.step(to.node, Input::Link(LinkInput::Hello { connection, hello: hello.clone() }))
                }
                Some(Host::Manager(manager)) if let Some(refusal) = manager.links.objection(&hello) => {
                    self.answer = Some((None, refusal));
                }
                Some(Host::Manager(manager)) => {
                    let there = manager.links.to(hello.from, hello.incarnation);
                    let there = there.unwrap_or_else(|| {
                        let there = manager.links.add(hello.from, hello.incarnation);
                        let view = manager.view.clone();
                        manager.links.get_mut(there).expect("just added").send_control(Kind::ViewOrd, &*view);
                        there
                    });
                    self.answer = Some((Some(there), manager.links.accept(there, &hello)));
                    manager.links.seal(Epoch(0), true);
                }
                None => {}
            }
            match self.answer.take() {
                Some((Some(there), HelloReply::Accepted { incarnation, received })) => {
                    moved = true;
                    self.disconnect((to.node, there));
                    self.wires.insert((id, link), (to.node, there));
                    self.wires.insert((to.node, there), (id, link));
                    if let Some(link) = self.links(to.node).and_then(|links| links.get_mut(there)) {
                        link.connected(hello.incarnation, hello.received).expect("it was accepted");
                    }
                    self.collect(to.node);
                    self.step(id, Input::Link(LinkInput::Connected { link, incarnation, received }));
                }
                Some((_, HelloReply::Refused { temporary, reason })) => {
                    self.step(id, Input::Link(LinkInput::Refused { link, temporary, reason }));
                }
                other => panic!("a hello was answered with {other:?}"),
            }
        }
        moved
    }

    /// Delivers one frame.
    fn deliver(&mut self, (id, link): (NodeId, LinkId)) -> bool {
        let now = self.now;
        let Some(bytes) = self.transit.get_mut(&(id, link)) else { return false };
        let Some(header) = FrameHeader::parse(bytes).expect("a frame") else { return false };
        let frame: Vec<u8> = bytes.drain(..header.length).collect();
        let payload = &frame[FRAME_HEADER..];
        match self.hosts.get_mut(&id) {
            Some(Host::Node(_)) => self.step(id, Input::Link(LinkInput::Frame { link, header, payload })),
            Some(Host::Manager(manager)) => {
                manager.read(now, link, &header, payload);
                self.collect(id);
            }
            None => {}
        }
        true
    }
}

impl Manager {
    fn read(&mut self, now: Time, id: LinkId, header: &FrameHeader, payload: &[u8]) {
        let Ok(Received::New) = self.links.receive(id, header) else {
            return self.links.get_mut(id).into_iter().for_each(|link| link.processed(header));
        };
        for message in Messages::new(payload) {
            let message = message.expect("nodes speak well");
            match Kind::from_number(message.kind).expect("a kind") {
                Kind::ReportOrd => {
                    let report: ReportOrd = control(message.body).expect("a report");
                    self.reports.insert(report.life, (now, report));
                }
                Kind::GoneOrd => {
                    let gone: twofold_proto::message::GoneOrd = control(message.body).expect("a goodbye");
                    self.goodbyes.push(gone.life);
                }
                Kind::ViewOrd => {}
                other => panic!("a node sends {other:?} to the management node"),
            }
        }
        self.links.get_mut(id).expect("its link").processed(header);
        self.links.seal(Epoch(0), false);
    }
}
