//! A network, disks and a clock in memory, for some management nodes and others that talk to them.

use std::collections::{BTreeMap, VecDeque};

use twofold_proto::{
    config::ClusterConfig,
    ids::{Endpoint, Epoch, Incarnation, NodeId, ViewNumber, WorkerId},
    link::{FRAME_HEADER, FrameHeader, HelloReply, Messages, Received},
    links::{LinkEffect, LinkId, LinkInput, Linked, Links},
    machine::Machine,
    message::{
        Catalog, CatalogConf, CatalogReq, Kind, Life, RegisterConf, ReportOrd, Restorable, StopOrd, control,
    },
    time::Time,
    view::{MemberState, View},
};

use super::super::{AdminCommand, AdminReply, Effect, Input, ManagementNode};
use crate::{
    log::{LogWrite, Stored},
    notice::Notice,
};

const STEP_MS: u64 = 5;

/// A process that is no management node: it says what a test wants it to say, and keeps what it is told.
pub struct Probe {
    pub life: Life,
    links: Links,
    pub received: Vec<(NodeId, Kind, Vec<u8>)>,
    pub refused: Vec<String>,
    /// What it reports of itself every 50 ms, if it is a data node that runs.
    pub report: Option<ReportOrd>,
    /// Whether reports follow the views that it is told of, and say that all is well.
    pub is_good: bool,
    /// Whether its disk becomes its own. If not, views are as few as can be.
    pub owns_disk: bool,
    /// What it says of the register when asked: as a rule, what it was told.
    pub known: Option<(View, Catalog)>,
    /// Whether it builds indexes.
    pub builds: bool,
    /// Whom it does not hear.
    pub deaf_to: Vec<Life>,
}

impl Probe {
    fn newest<T: serde::de::DeserializeOwned>(&self, kind: Kind) -> Option<T> {
        let (_, _, body) = self.received.iter().rev().find(|(_, other, _)| *other == kind)?;
        Some(control(body).unwrap())
    }

    pub fn view(&self) -> Option<View> {
        let views = self.received.iter().filter(|(_, kind, _)| *kind == Kind::ViewOrd);
        views.map(|(_, _, body)| control::<View>(body).unwrap()).max_by_key(|view| view.number)
    }

    pub fn config(&self) -> Option<ClusterConfig> {
        self.newest(Kind::ConfigOrd)
    }

    pub fn catalog(&self) -> u64 {
        let catalogs = self.received.iter().filter(|(_, kind, _)| *kind == Kind::CatalogOrd);
        catalogs.map(|(_, _, body)| control::<Catalog>(body).unwrap().version).max().unwrap_or(0)
    }

    /// What it knows of the register.
    fn register(&self) -> RegisterConf {
        let catalogs = self.received.iter().filter(|(_, kind, _)| *kind == Kind::CatalogOrd);
        let catalogs = catalogs.map(|(_, _, body)| control::<Catalog>(body).unwrap());
        let catalog = catalogs.max_by_key(|catalog| catalog.version).unwrap_or_default();
        let (view, catalog) = self.known.clone().unwrap_or((self.view().unwrap_or_default(), catalog));
        let report = self.report.as_ref().unwrap();
        let is_member = view.state(report.life.node, report.life.incarnation).is_some();
        let took_part = is_member || report.restorable.is_some();
        RegisterConf { view, catalog, took_part, config: self.config().unwrap() }
    }

    pub fn stop(&self) -> Option<StopOrd> {
        self.newest(Kind::StopOrd)
    }

    pub fn answers(&self) -> Vec<CatalogConf> {
        let answers = self.received.iter().filter(|(_, kind, _)| *kind == Kind::CatalogConf);
        answers.map(|(_, _, body)| control(body).unwrap()).collect()
    }

    /// Says what a good data node says under the newest view.
    fn follow(&mut self) {
        let (view, catalog, own) = (self.view().unwrap_or_default(), self.catalog(), self.life);
        let Some(report) = &mut self.report else { return };
        let others = || view.members.iter().filter(|member| member.node != own.node);
        let life = |member: &twofold_proto::view::Member| Life {
            node: member.node,
            incarnation: member.incarnation,
        };
        report.view = view.number;
        report.catalog = catalog;
        report.indexed = if self.builds { catalog } else { report.indexed };
        report.hears = others().map(life).filter(|other| !self.deaf_to.contains(other)).collect();
        report.durable =
            self.owns_disk || view.member(own.node).is_none_or(|member| member.restored.is_none());
        report.copied = view.contains(own.node, own.incarnation).then_some(view.number);
        report.counts = others().filter(|member| member.state == MemberState::Ready).map(life).collect();
    }
}

enum Process {
    Management(Box<ManagementNode>),
    Probe(Box<Probe>),
}

impl Process {
    fn links(&mut self) -> &mut Links {
        match self {
            Process::Management(node) => node.links(),
            Process::Probe(probe) => &mut probe.links,
        }
    }
}

/// One end of a connection.
type End = (usize, LinkId);

#[derive(Default)]
pub struct Driver {
    pub now: Time,
    processes: BTreeMap<usize, Process>,
    next_process: usize,
    next_incarnation: u64,
    pub stored: BTreeMap<NodeId, Stored>,
    /// Writes that are not on disk yet.
    writes: BTreeMap<usize, VecDeque<(u64, LogWrite)>>,
    /// Connections, both ways.
    peers: BTreeMap<End, End>,
    /// Links that want a connection.
    dialing: BTreeMap<End, Endpoint>,
    /// Pairs of nodes without a network between them.
    pub cut: Vec<(NodeId, NodeId)>,
    /// Management nodes that the system does not run for now.
    pub paused: Vec<NodeId>,
    pub notices: Vec<(NodeId, Notice)>,
    pub replies: Vec<AdminReply>,
    pub writes_done: usize,
}

impl Driver {
    /// A cluster with all its management nodes started.
    pub fn new(config: &ClusterConfig) -> Driver {
        let mut driver = Driver { now: Time::from_millis(1000), ..Driver::default() };
        for node in &config.management_nodes {
            driver.start(config, node.id);
        }
        driver
    }

    /// Starts a management node on what its disk holds.
    pub fn start(&mut self, config: &ClusterConfig, id: NodeId) {
        self.next_incarnation += 1;
        let stored = self.stored.entry(id).or_default();
        let node = ManagementNode::new(config.clone(), id, Incarnation(1000 + self.next_incarnation), stored)
            .unwrap();
        self.add(Process::Management(Box::new(node)));
    }

    fn add(&mut self, process: Process) -> usize {
        self.next_process += 1;
        self.processes.insert(self.next_process, process);
        self.next_process
    }

    /// Starts another process, which connects to these management nodes.
    pub fn probe(
        &mut self,
        life: Life,
        worker: WorkerId,
        cluster: &str,
        to: impl IntoIterator<Item = u16>,
    ) -> usize {
        let own = Endpoint::new(life.node, worker);
        let mut links = Links::new(own, life.incarnation, cluster);
        let ends: Vec<(LinkId, Endpoint)> = to
            .into_iter()
            .map(|node| Endpoint::node(NodeId(node)))
            .map(|to| (links.add(to, Incarnation(0)), to))
            .collect();
        let probe = Probe {
            life,
            links,
            received: Vec::new(),
            refused: Vec::new(),
            report: None,
            is_good: false,
            owns_disk: false,
            known: None,
            builds: true,
            deaf_to: Vec::new(),
        };
        let process = self.add(Process::Probe(Box::new(probe)));
        self.dialing.extend(ends.into_iter().map(|(link, to)| ((process, link), to)));
        process
    }

    /// Starts a data node that does all that is expected of it.
    pub fn data_node(&mut self, life: Life, to: impl IntoIterator<Item = u16>) -> usize {
        let process = self.probe(life, WorkerId::NODE, "local", to);
        let probe = self.probe_mut(process);
        probe.is_good = true;
        probe.report = Some(ReportOrd {
            life,
            workers: 1,
            view: ViewNumber(0),
            catalog: 0,
            indexed: 0,
            index_full: false,
            hears: Vec::new(),
            copied: None,
            counts: Vec::new(),
            leaving: false,
            durable: true,
            restorable: None,
            initial: false,
        });
        process
    }

    /// Starts a data node that has on disk what this life of it had, up to an epoch.
    pub fn data_node_with(&mut self, life: Life, former: u64, epoch: Epoch) -> usize {
        let process = self.data_node(life, [1]);
        let restorable = Restorable { life: Incarnation(former), complete: epoch, ..Restorable::default() };
        self.probe_mut(process).report.as_mut().expect("it reports").restorable = Some(restorable);
        process
    }

    pub fn probe_ref(&self, process: usize) -> &Probe {
        match &self.processes[&process] {
            Process::Probe(probe) => probe,
            Process::Management(_) => panic!("{process} is a management node"),
        }
    }

    pub fn probe_mut(&mut self, process: usize) -> &mut Probe {
        match self.processes.get_mut(&process) {
            Some(Process::Probe(probe)) => probe,
            _ => panic!("{process} is no probe"),
        }
    }

    /// The processes of a node.
    fn find(&self, id: NodeId) -> Option<usize> {
        let is_node = |process: &Process| match process {
            Process::Management(node) => node.id == id,
            Process::Probe(_) => false,
        };
        self.processes.iter().find(|(_, process)| is_node(process)).map(|(&index, _)| index)
    }

    pub fn node(&self, id: u16) -> &ManagementNode {
        match self.find(NodeId(id)).map(|index| &self.processes[&index]) {
            Some(Process::Management(node)) => node,
            _ => panic!("management node {id} does not run"),
        }
    }

    fn management(&self) -> impl Iterator<Item = &ManagementNode> {
        self.processes.values().filter_map(|process| match process {
            Process::Management(node) => Some(&**node),
            Process::Probe(_) => None,
        })
    }

    /// Who decides now; at most one that runs and is not paused, in the newest term.
    pub fn leader(&self) -> Option<u16> {
        let leading = self.management().filter(|node| node.is_leading() && !self.paused.contains(&node.id));
        leading.max_by_key(|node| node.replica.term()).map(|node| node.id.0)
    }

    /// Ends a management node without a warning; what is not on disk is lost.
    pub fn kill(&mut self, id: u16) {
        let process = self.find(NodeId(id)).unwrap();
        self.end(process);
    }

    /// Ends a process.
    pub fn end(&mut self, process: usize) {
        if let Some(Process::Probe(ended)) = self.processes.remove(&process) {
            for other in self.processes.values_mut() {
                if let Process::Probe(other) = other {
                    other.deaf_to.push(ended.life);
                }
            }
        }
        self.writes.remove(&process);
        self.dialing.retain(|(owner, _), _| *owner != process);
        let broken: Vec<(End, End)> = self
            .peers
            .iter()
            .filter(|((owner, _), _)| *owner == process)
            .map(|(&end, &other)| (end, other))
            .collect();
        for (end, other) in broken {
            self.peers.remove(&end);
            self.break_end(other);
        }
    }

    fn break_end(&mut self, end: End) {
        if self.peers.remove(&end).is_some() {
            self.step(end.0, LinkInput::Disconnected { link: end.1 });
        }
    }

    pub fn send<T: serde::Serialize>(&mut self, process: usize, kind: Kind, value: &T) {
        let probe = self.probe_mut(process);
        let links: Vec<LinkId> = probe.links.ids().collect();
        for link in links {
            probe.links.get_mut(link).unwrap().send_control(kind, value);
        }
    }

    pub fn change(&mut self, process: usize, request: u32, change: twofold_proto::message::CatalogChange) {
        self.send(process, Kind::CatalogReq, &CatalogReq { request, change });
    }

    pub fn ask(&mut self, id: u16, command: AdminCommand) -> AdminReply {
        let process = self.find(NodeId(id)).unwrap();
        let before = self.replies.len();
        self.input(process, Input::Admin { request: 1, command });
        for _ in 0..10_000 / STEP_MS {
            if self.replies.len() > before {
                break;
            }
            self.run(STEP_MS);
        }
        assert_eq!(self.replies.len(), before + 1);
        self.replies.last().unwrap().clone()
    }

    /// Tells a management node what the wall clock says, in milliseconds.
    pub fn tell_time(&mut self, id: u16, millis: u64) {
        let process = self.find(NodeId(id)).unwrap();
        self.input(process, Input::WallClock(millis));
    }

    fn input(&mut self, process: usize, input: Input<'_>) {
        let mut effects = Vec::new();
        let Some(Process::Management(node)) = self.processes.get_mut(&process) else { return };
        node.step(self.now, input, &mut effects);
        node.check();
        self.carry_out(process, effects);
    }

    /// A process begins anew with all management nodes; what was on the way is lost.
    pub fn forget_links(&mut self, process: usize) {
        for link in self.probe_ref(process).links.ids().collect::<Vec<_>>() {
            if let Some(other) = self.peers.remove(&(process, link)) {
                self.break_end(other);
            }
            self.renew(process, link);
        }
    }

    /// A process begins anew with a management node that has been started anew.
    fn renew(&mut self, process: usize, link: LinkId) {
        let probe = self.probe_mut(process);
        let to = probe.links.get(link).unwrap().peer();
        if probe.links.get(link).unwrap().incarnation() != Incarnation(0) {
            probe.links.remove(link);
            let link_anew = probe.links.add(to, Incarnation(0));
            self.dialing.remove(&(process, link));
            self.dialing.insert((process, link_anew), to);
        }
    }

    /// Tells a process what happened to a link.
    fn step(&mut self, process: usize, input: LinkInput<'_>) {
        match self.processes.get_mut(&process) {
            Some(Process::Management(_)) => self.input(process, Input::Link(input)),
            Some(Process::Probe(probe)) => match input {
                LinkInput::Connected { link, incarnation, received } => {
                    probe.links.connected(link, incarnation, received).unwrap();
                }
                LinkInput::Refused { link, reason, .. } => {
                    probe.refused.push(reason);
                    self.renew(process, link);
                }
                LinkInput::Disconnected { link } => {
                    if let Some(link) = probe.links.get_mut(link) {
                        link.disconnected();
                    }
                }
                LinkInput::Frame { link, header, payload } => {
                    let node = probe.links.get(link).unwrap().peer().node;
                    if probe.links.receive(link, &header) == Ok(Received::New) {
                        for message in Messages::new(payload) {
                            let message = message.unwrap();
                            let kind = Kind::from_number(message.kind).unwrap();
                            probe.received.push((node, kind, message.body.to_vec()));
                            if kind == Kind::RegisterReq && probe.is_good {
                                let known = probe.register();
                                probe.links.get_mut(link).unwrap().send_control(Kind::RegisterConf, &known);
                            }
                        }
                    }
                    probe.links.get_mut(link).unwrap().processed(&header);
                }
                LinkInput::Hello { .. } => panic!("nobody connects to a probe"),
            },
            None => (),
        }
    }

    fn carry_out(&mut self, process: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Link(LinkEffect::Connect { link, to }) => {
                    self.dialing.insert((process, link), to);
                }
                Effect::Link(LinkEffect::Close { link }) => {
                    self.dialing.remove(&(process, link));
                    if let Some(other) = self.peers.remove(&(process, link)) {
                        self.break_end(other);
                    }
                }
                Effect::Link(LinkEffect::Disconnect { link }) => {
                    if let Some(other) = self.peers.remove(&(process, link)) {
                        self.break_end(other);
                        self.step(process, LinkInput::Disconnected { link });
                    }
                }
                // The one who connects is told in `dial`.
                Effect::Link(LinkEffect::Answer { connection, link, reply }) => {
                    let end = self.dialing.keys().nth(connection as usize).copied().unwrap();
                    match reply {
                        HelloReply::Accepted { incarnation, received } => {
                            let own = (process, link.unwrap());
                            // An older connection of the link is closed.
                            if let Some(old) = self.peers.insert(own, end) {
                                self.peers.remove(&old);
                            }
                            self.peers.insert(end, own);
                            self.step(end.0, LinkInput::Connected { link: end.1, incarnation, received });
                        }
                        HelloReply::Refused { temporary, reason } => {
                            self.step(end.0, LinkInput::Refused { link: end.1, temporary, reason });
                        }
                    }
                }
                Effect::Persist { id, write } => {
                    self.writes.entry(process).or_default().push_back((id, write))
                }
                Effect::Admin { reply, .. } => self.replies.push(reply),
                Effect::Notice(notice) => {
                    let Process::Management(node) = &self.processes[&process] else { unreachable!() };
                    self.notices.push((node.id, notice));
                }
            }
        }
    }

    fn id(&self, process: usize) -> NodeId {
        match &self.processes[&process] {
            Process::Management(node) => node.id,
            Process::Probe(probe) => probe.life.node,
        }
    }

    fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    fn dial(&mut self) {
        for end in self.dialing.keys().copied().collect::<Vec<_>>() {
            let Some(&to) = self.dialing.get(&end) else { continue };
            let Some(target) = self.find(to.node) else { continue };
            let unreachable = self.is_cut(self.id(end.0), to.node) || self.paused.contains(&to.node);
            if self.peers.contains_key(&end) || unreachable || self.paused.contains(&self.id(end.0)) {
                continue;
            }
            let connection = self.dialing.keys().position(|other| *other == end).unwrap() as u64;
            let hello = self.processes.get_mut(&end.0).unwrap().links().hello(end.1).unwrap();
            self.step(target, LinkInput::Hello { connection, hello });
        }
    }

    fn break_cut(&mut self) {
        let ends: Vec<(End, End)> = self.peers.iter().map(|(&end, &other)| (end, other)).collect();
        for (end, other) in ends {
            if self.is_cut(self.id(end.0), self.id(other.0)) {
                self.break_end(end);
            }
        }
    }

    fn carry(&mut self) {
        for end in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(&other) = self.peers.get(&end) else { continue };
            if self.paused.contains(&self.id(other.0)) || self.paused.contains(&self.id(end.0)) {
                continue;
            }
            let Some(link) = self.processes.get_mut(&end.0).unwrap().links().writing(end.1) else { continue };
            let bytes: Vec<u8> = link.unwritten().flatten().copied().collect();
            link.wrote(bytes.len());
            let mut rest = &bytes[..];
            while let Some(header) = FrameHeader::parse(rest).unwrap() {
                let payload = &rest[FRAME_HEADER..header.length];
                if self.peers.get(&end) == Some(&other) {
                    self.step(other.0, LinkInput::Frame { link: other.1, header, payload });
                }
                rest = &rest[header.length..];
            }
        }
    }

    /// What was written in the last round is on disk now.
    fn sync(&mut self) {
        for process in self.writes.keys().copied().collect::<Vec<_>>() {
            let id = self.id(process);
            while let Some((write, content)) = self.writes.get_mut(&process).and_then(VecDeque::pop_front) {
                self.stored.entry(id).or_default().write(&content);
                self.writes_done += 1;
                self.input(process, Input::Persisted { id: write });
            }
        }
    }

    fn report(&mut self) {
        for process in self.processes.keys().copied().collect::<Vec<_>>() {
            let Some(Process::Probe(probe)) = self.processes.get_mut(&process) else { continue };
            if probe.is_good {
                probe.follow();
            }
            if let Some(report) = probe.report.clone() {
                self.send(process, Kind::ReportOrd, &report);
            }
        }
    }

    fn round(&mut self) {
        if (self.now.0 / 1_000_000).is_multiple_of(50) {
            self.report();
        }
        self.break_cut();
        self.dial();
        self.carry();
        self.sync();
        for process in self.processes.keys().copied().collect::<Vec<_>>() {
            if self.paused.contains(&self.id(process)) {
                continue;
            }
            let mut effects = Vec::new();
            match self.processes.get_mut(&process).unwrap() {
                Process::Management(node) => {
                    if node.next_timeout().is_some_and(|due| due <= self.now) {
                        node.step(self.now, Input::Timer, &mut effects);
                    }
                    node.end_turn(self.now, &mut effects);
                    node.check();
                }
                Process::Probe(probe) => probe.links.seal(Epoch(0), false),
            }
            self.carry_out(process, effects);
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(STEP_MS) {
            self.now = self.now + std::time::Duration::from_millis(STEP_MS);
            self.round();
        }
    }

    /// Lets time pass until something is so.
    #[track_caller]
    pub fn until(&mut self, what: &str, condition: impl Fn(&Driver) -> bool) {
        for _ in 0..60_000 / STEP_MS {
            if condition(self) {
                return;
            }
            self.run(STEP_MS);
        }
        panic!("for a minute not: {what}; notices: {:#?}", self.notices);
    }
}
