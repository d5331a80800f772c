//! The machine of a management node: a voter of the register, and, while it leads, the one who decides.
//!
//! It tells everyone who has a link to it what the register says, and collects the reports of the data nodes. The
//! parts: `peers` the links, `reports` what data nodes say, `requests` what clients and people ask for, `trouble` what
//! they have to mend, `guard` what keeps a leader from deciding that has lost its register, `rebuild` how it gets one
//! from the data nodes, `enquiry` how a voter comes back that has lost its own.

mod enquiry;
mod guard;
mod peers;
mod rebuild;
mod reports;
mod requests;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};

use twofold_proto::{
    config::ClusterConfig,
    error::{Error, ErrorCode},
    figure::Figure,
    ids::{Endpoint, Epoch, Incarnation, NodeId},
    link::{FrameHeader, Message, Messages, Received},
    links::{LinkEffect, LinkId, LinkInput, Linked, Links},
    machine::Machine,
    message::{Kind, Life},
    time::{Duration, Time},
    view::{MemberState, View},
    wire::Malformed,
};

pub use self::requests::{AdminCommand, AdminReply};
use self::{
    enquiry::Enquiry, guard::Behind, peers::Peer, rebuild::Rebuild, reports::Reporter,
    requests::PendingChange, trouble::StandStill,
};
use crate::{
    choice,
    log::{LogWrite, Stored},
    notice::Notice,
    register::{Applied, Command, Register},
    replica::{Committed, Output, Replica, TICK, decode_message},
};

/// What happens to a management node.
#[derive(Debug)]
pub enum Input<'a> {
    /// Something about a link.
    Link(LinkInput<'a>),
    /// Time has passed.
    Timer,
    /// Milliseconds since 1970, now and then: for people, nothing is decided by it.
    WallClock(u64),
    /// The write of this id, and all before it, are on disk for good.
    Persisted {
        /// The number of [`Effect::Persist`].
        id: u64,
    },
    /// Somebody asks by the management interface; answered by [`Effect::Admin`].
    Admin {
        /// Comes back in the answer.
        request: u64,
        /// What is asked.
        command: AdminCommand,
    },
}

/// What a management node wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Something about a link.
    Link(LinkEffect),
    /// Write this, all or nothing, after all before it; then say [`Input::Persisted`].
    Persist {
        /// Counts the writes from 1.
        id: u64,
        /// What to write.
        write: LogWrite,
    },
    /// The answer to [`Input::Admin`].
    Admin {
        /// The request's number.
        request: u64,
        /// The answer.
        reply: AdminReply,
    },
    /// Something for the log.
    Notice(Notice),
}

/// The machine of a management node; its endpoint is [`Endpoint::node`].
#[derive(Debug)]
pub struct ManagementNode {
    id: NodeId,
    /// What this node's own file says; the register's config may be another.
    file: ClusterConfig,
    links: Links,
    peers: BTreeMap<LinkId, Peer>,
    replica: Replica,
    /// While its directory is empty.
    enquiry: Option<Enquiry>,
    /// Management nodes that keep another log: their directories are from before the register was lost, or this one's is.
    strangers: BTreeSet<NodeId>,
    register: Register,
    /// What came out of `replica` and was not dealt with yet.
    output: Output,
    started: bool,
    tick_due: Time,
    last_step: Time,
    /// Since when this process has been awake without a break, so that silence of others means something.
    awake_since: Time,
    /// The term in which this node leads and may decide, and since when.
    leading: Option<(u64, Time)>,
    /// The leader as it was told in the log.
    told_leader: (u64, Option<NodeId>),
    /// A view is proposed and not decided yet.
    view_proposed: bool,
    /// This leader has proposed its config, or found that it cannot.
    config_settled: bool,
    /// As leader: data nodes know more than the register.
    behind: Option<Behind>,
    /// As leader: groups that do not serve and wait for people.
    stand_still: Option<StandStill>,
    /// What was on disk when it started is applied, and the log says so.
    recalled: bool,
    /// What the wall clock said, and when.
    wall_clock: Option<(Time, u64)>,
    /// Something changed on which decisions depend.
    evaluate: bool,
    reporters: BTreeMap<Life, Reporter>,
    /// Lives that have ended, and when that was heard.
    gone: BTreeMap<Life, Time>,
    /// Since when there are data nodes, but no view with members.
    forming_since: Option<Time>,
    changes: Vec<PendingChange>,
    last_change: u64,
    rebuild: Option<Rebuild>,
    /// Whether the end of an index's build is proposed and not yet agreed.
    build_end_proposed: bool,
}

impl ManagementNode {
    /// A life of the management node `id`, with the config of its own file and what is stored of the register.
    ///
    /// # Errors
    /// If the config does not have the node, or what is stored cannot be used.
    pub fn new(
        config: ClusterConfig,
        id: NodeId,
        incarnation: Incarnation,
        stored: &Stored,
    ) -> Result<ManagementNode, Error> {
        let voters: Vec<NodeId> = config.management_nodes.iter().map(|node| node.id).collect();
        if !voters.contains(&id) {
            let text = format!("node {id} is no management node; the config has {voters:?}");
            return Err(Error::new(ErrorCode::NoSuchNode, text));
        }
        let (replica, snapshot) = Replica::new(id, &voters, stored)?;
        let register = match snapshot {
            Some(bytes) => Register::decode(&bytes)?,
            None => Register::default(),
        };
        Ok(ManagementNode {
            id,
            links: Links::new(Endpoint::node(id), incarnation, &config.name),
            file: config,
            peers: BTreeMap::new(),
            replica,
            enquiry: None,
            strangers: BTreeSet::new(),
            register,
            output: Output::default(),
            started: false,
            tick_due: Time::default(),
            last_step: Time::default(),
            awake_since: Time::default(),
            leading: None,
            told_leader: (0, None),
            view_proposed: false,
            config_settled: false,
            behind: None,
            stand_still: None,
            recalled: *stored == Stored::default(),
            wall_clock: None,
            evaluate: false,
            reporters: BTreeMap::new(),
            gone: BTreeMap::new(),
            forming_since: None,
            changes: Vec::new(),
            last_change: 0,
            rebuild: None,
            build_end_proposed: false,
        })
    }

    /// The register as far as it is known here.
    pub fn register(&self) -> &Register {
        &self.register
    }

    /// The leader, as far as is known.
    pub fn leader(&self) -> Option<NodeId> {
        self.replica.leader()
    }

    /// Whether this node decides.
    pub fn is_leading(&self) -> bool {
        self.leading.is_some()
    }

    /// Whether it votes: it has no directory that was lost and is not made good yet.
    pub fn votes(&self) -> bool {
        self.replica.standing().voter
    }

    /// The agreed config, or the file's before there is one.
    fn config(&self) -> &ClusterConfig {
        self.register.config().unwrap_or(&self.file)
    }

    fn is_management(&self, node: NodeId) -> bool {
        self.file.management_nodes.iter().any(|other| other.id == node)
    }

    /// Notes when this process was asleep: what others said meanwhile may still be on its way.
    fn note_pause(&mut self, now: Time) {
        if !self.started || now.since(self.last_step) >= self.config().failure() / 2 {
            self.awake_since = now;
        }
        self.last_step = now;
    }

    fn tick(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if !self.started {
            self.started = true;
            self.connect_to_peers(effects);
        }
        if now < self.tick_due {
            return;
        }
        self.tick_due = now + TICK;
        self.replica.tick();
        self.enquire(now, effects);
        self.evaluate = true;
        self.forget_old(now, effects);
        self.note_behind(now, effects);
        self.note_stand_still(now, effects);
        self.expire_rebuild(now, effects);
        self.catch_up();
        self.repeat_stops(now);
    }

    fn link(&mut self, now: Time, input: LinkInput<'_>, effects: &mut Vec<Effect>) {
        match input {
            LinkInput::Hello { connection, hello } => self.hello(connection, &hello, effects),
            LinkInput::Connected { link, incarnation, received } => {
                self.connected(link, incarnation, received, effects);
            }
            LinkInput::Refused { link, .. } => self.refused(link, effects),
            LinkInput::Disconnected { link } => self.disconnected(now, link),
            LinkInput::Frame { link, header, payload } => self.frame(now, link, &header, payload, effects),
        }
    }

    fn frame(
        &mut self,
        now: Time,
        link: LinkId,
        header: &FrameHeader,
        payload: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let taken = match self.links.receive(link, header) {
            Ok(Received::New) => Messages::new(payload).try_for_each(|message| {
                message.and_then(|message| self.message(now, link, &message, effects))
            }),
            Ok(Received::Nothing) => Ok(()),
            Err(malformed) => Err(malformed),
        };
        match taken {
            Ok(()) => {
                if let Some(link) = self.links.get_mut(link) {
                    link.processed(header);
                }
            }
            Err(malformed) => self.cut_off(link, &malformed, effects),
        }
    }

    fn message(
        &mut self,
        now: Time,
        link: LinkId,
        message: &Message<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Malformed> {
        let Some((peer, incarnation)) = self.links.get(link).map(|link| (link.peer(), link.incarnation()))
        else {
            return Ok(());
        };
        // A kind without a name here is of a later version.
        let Ok(kind) = Kind::from_number(message.kind) else { return Ok(()) };
        match kind {
            Kind::RaftOrd => {
                let (log, raft) = decode_message(message.body)?;
                if !self.is_management(peer.node)
                    || (raft.from, raft.to) != (peer.node.0.into(), self.id.0.into())
                {
                    return Err(Malformed("raft message"));
                }
                if self.replica.standing().log == log {
                    self.replica.receive(raft);
                } else if !self.replica.is_blank() && self.strangers.insert(peer.node) {
                    effects.push(Effect::Notice(Notice::OtherLog { node: peer.node }));
                }
                Ok(())
            }
            Kind::VoterReq => self.voter_request(link, peer.node, incarnation, message.body, effects),
            Kind::VoterConf => self.voter_answer(peer.node, incarnation, message.body, effects),
            Kind::ReportOrd => {
                self.report(now, link, Life { node: peer.node, incarnation }, peer.worker, message.body)
            }
            Kind::GoneOrd => self.gone(now, peer.node, message.body, effects),
            Kind::CatalogReq => self.catalog_request(now, link, message.body),
            Kind::RegisterConf => {
                self.register_told(Life { node: peer.node, incarnation }, message.body, effects)
            }
            // A view comes before the first message under it; here the register knows better.
            Kind::ViewOrd => Ok(()),
            _ => Err(Malformed("message: management nodes do not take this kind")),
        }
    }

    /// Carries out what Raft wants, applies what is agreed, and decides, until nothing is left to do.
    fn pump(&mut self, now: Time, effects: &mut Vec<Effect>) {
        loop {
            self.replica.pump(&mut self.output);
            for committed in std::mem::take(&mut self.output.committed) {
                self.apply(now, committed, effects);
            }
            self.note_recalled(effects);
            self.replica.compact(|| self.register.encode(), &mut self.output);
            for (id, write) in self.output.writes.drain(..) {
                effects.push(Effect::Persist { id, write });
            }
            for message in std::mem::take(&mut self.output.messages) {
                self.send_raft(&message);
            }
            self.note_leader(now, effects);
            if !self.decide(now, effects) {
                return;
            }
        }
    }

    fn apply(&mut self, now: Time, committed: Committed, effects: &mut Vec<Effect>) {
        let before =
            (self.register.config().cloned(), self.register.view().clone(), self.register.catalog().version);
        let mut notices = Vec::new();
        let is_news = !matches!(committed, Committed::Command { replayed: true, .. });
        match committed {
            Committed::Snapshot(bytes) => {
                self.register = Register::decode(&bytes).expect("a snapshot that was agreed on can be read");
            }
            Committed::Command { bytes, .. } => {
                let command: Command = twofold_proto::message::control(&bytes)
                    .expect("a command that was agreed on can be read");
                match self.register.apply(command) {
                    Applied::Config(Ok(())) => notices.push(Notice::ConfigTaken),
                    Applied::Config(Err(reason)) => notices.push(Notice::ConfigRefused(reason)),
                    Applied::View(_) => self.view_proposed = false,
                    Applied::Rebuilt(done) => {
                        self.view_proposed = false;
                        self.answer_rebuild(done, effects);
                        // What was agreed on and told to nobody is gone with the former register.
                        self.fail_changes();
                        let (view, tables) =
                            (self.register.view().number, self.register.catalog().tables.len());
                        notices.extend(done.then_some(Notice::Rebuilt { view, tables }));
                    }
                    Applied::Catalog(origin, result) => self.catalog_changed(origin, result),
                }
            }
        }
        let (config, view, catalog) = before;
        if self.register.config() != config.as_ref() {
            self.publish(Kind::ConfigOrd);
        }
        if self.register.view() != &view {
            self.view_changed(now, view, &mut notices);
        }
        if self.register.catalog().version != catalog {
            self.build_end_proposed = false;
            self.publish(Kind::CatalogOrd);
        }
        if is_news {
            effects.extend(notices.into_iter().map(Effect::Notice));
        }
        self.evaluate = true;
    }

    fn view_changed(&mut self, now: Time, before: View, notices: &mut Vec<Notice>) {
        let view = self.register.view().clone();
        let is_empty = view.members.is_empty();
        self.forming_since = (is_empty && !self.reporters.is_empty()).then_some(now);
        let restart = self.register.system_restart().filter(|restart| restart.restart == view.restart);
        if let Some(restart) = restart.filter(|_| view.restart != before.restart) {
            notices.push(Notice::Restarted(restart.clone()));
        }
        notices.push(Notice::View { before, view });
        self.publish(Kind::ViewOrd);
    }

    /// Says once where the register stands that was on disk: how it came there is no news.
    fn note_recalled(&mut self, effects: &mut Vec<Effect>) {
        if !self.recalled && self.replica.knows_history() {
            self.recalled = true;
            let (view, tables) = (self.register.view().clone(), self.register.catalog().tables.len());
            if self.register.config().is_some() {
                effects.push(Effect::Notice(Notice::Recalled { view, tables }));
            }
        }
    }

    fn note_leader(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let (term, leader) = (self.replica.term(), self.replica.leader());
        if leader != self.told_leader.1 || (leader.is_some() && term != self.told_leader.0) {
            self.told_leader = (term, leader);
            effects.push(Effect::Notice(Notice::Leader { term, leader }));
        }
        let leads = self.replica.leads().then_some(term);
        if leads != self.leading.map(|(term, _)| term) {
            self.leading = leads.map(|term| (term, now));
            self.view_proposed = false;
            self.build_end_proposed = false;
            self.config_settled = false;
            self.evaluate = true;
            self.fail_undecided_changes();
            self.fail_rebuild(effects);
        }
    }

    /// How long reports have come in without a break, for decisions.
    fn listening(&self, now: Time) -> Duration {
        let leading = self.leading.map_or(Duration::ZERO, |(_, since)| now.since(since));
        leading.min(now.since(self.awake_since))
    }

    /// As leader: proposes what should change; returns whether anything was proposed.
    fn decide(&mut self, now: Time, effects: &mut Vec<Effect>) -> bool {
        if self.leading.is_none() || !std::mem::take(&mut self.evaluate) {
            return false;
        }
        if !self.config_settled {
            if self.register.config() == Some(&self.file) {
                self.config_settled = true;
            } else if let Some(reason) = self.register.objection(&self.file) {
                self.config_settled = true;
                effects.push(Effect::Notice(Notice::ConfigRefused(reason)));
            } else {
                let command = Command::Config(Box::new(self.file.clone()));
                self.config_settled = self.replica.propose(command.encode());
                return self.config_settled;
            }
        }
        if self.is_behind() {
            return false;
        }
        self.order_stops(now, effects);
        if self.end_build() {
            return true;
        }
        if self.view_proposed {
            return false;
        }
        let Some(config) = self.register.config() else { return false };
        let facts = self.facts(now);
        let Some(view) = choice::next_view(config, self.register.membership(), &facts) else { return false };
        let before = self.register.view();
        let predecessor = before.number;
        let command = match view.restart > before.restart && before.restart > 0 {
            true => Command::Restart { predecessor, view, at_ms: self.wall_clock(now) },
            false => Command::View { predecessor, view },
        };
        self.view_proposed = self.replica.propose(command.encode());
        self.view_proposed
    }

    /// Milliseconds since 1970; 0 if that is not known.
    fn wall_clock(&self, now: Time) -> u64 {
        self.wall_clock.map_or(0, |(at, millis)| millis.saturating_add(now.since(at).as_millis() as u64))
    }
}

impl Machine for ManagementNode {
    type Input<'a> = Input<'a>;
    type Effect = Effect;

    fn step(&mut self, now: Time, input: Input<'_>, effects: &mut Vec<Effect>) {
        self.note_pause(now);
        match input {
            Input::Link(input) => self.link(now, input, effects),
            Input::Timer => self.tick(now, effects),
            Input::WallClock(millis) => self.wall_clock = Some((now, millis)),
            Input::Persisted { id } => self.replica.persisted(id, &mut self.output),
            Input::Admin { request, command } => {
                if let Some(reply) = self.administrate(now, request, command, effects) {
                    effects.push(Effect::Admin { request, reply });
                }
            }
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        Some(self.tick_due)
    }

    fn figures(&self, tell: &mut dyn FnMut(Figure)) {
        let mut gauge = |name, help, value| tell(Figure::gauge("register", name, help, value));
        gauge("leads", "1: leads the Raft group", u64::from(self.replica.leads()));
        gauge("has_leader", "1: knows a leader", u64::from(self.replica.leader().is_some()));
        gauge("term", "Raft's term", self.replica.term());
        let (view, catalog) = (self.register.view(), self.register.catalog());
        gauge("view", "Number of the newest view", view.number.0);
        gauge("restart", "How many system restarts there were", view.restart.into());
        for (name, help, state) in [
            ("members_up", "Data nodes that serve", MemberState::Up),
            ("members_ready", "Data nodes that are about to serve", MemberState::Ready),
            ("members_syncing", "Data nodes that are being copied to", MemberState::Syncing),
        ] {
            gauge(name, help, view.members.iter().filter(|member| member.state == state).count() as u64);
        }
        gauge("catalog", "Version of the catalog", catalog.version);
        gauge("tables", "Tables", catalog.tables.len() as u64);
        gauge("peers", "Processes that are connected to it", self.peers.len() as u64);
    }

    fn check(&self) {
        self.replica.check();
        let view = self.register.view();
        if let Some(config) = self.register.config() {
            for group in (0..config.groups()).map(|group| twofold_proto::ids::GroupId(group as u16)) {
                assert!(
                    view.members.is_empty() || config.group_nodes(group).any(|node| view.is_up(node)),
                    "{group:?} has no up member: {view:?}"
                );
            }
        }
        for link in self.peers.keys() {
            assert!(self.links.get(*link).is_some(), "a peer without a link: {:?}", self.peers);
        }
    }
}

impl Linked for ManagementNode {
    fn link_input(input: LinkInput<'_>) -> Input<'_> {
        Input::Link(input)
    }

    fn link_effect(effect: Effect) -> Result<LinkEffect, Effect> {
        match effect {
            Effect::Link(effect) => Ok(effect),
            other => Err(other),
        }
    }

    fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    fn end_turn(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.pump(now, effects);
        self.answer_changes(now);
        // Management nodes take no part in epochs.
        self.links.seal(Epoch(0), false);
    }
}
