//! What clients and people ask for: changes of the catalog, stops, and how the cluster is.

use twofold_proto::{
    config::Address,
    error::{Error, ErrorCode},
    ids::{Endpoint, Incarnation, NodeId},
    links::LinkId,
    message::{CatalogChange, CatalogConf, CatalogReq, Kind, Life, control},
    schema::IndexState,
    time::{Duration, Time},
    view::MemberState,
    wire::Malformed,
};

use super::{Effect, ManagementNode};
use crate::{
    register::{COMMAND_BYTES_MAX, Command, Origin},
    status::{NodeKind, NodeState, NodeStatus, Status, nodes},
};

/// Changes of the catalog under way at once.
const CHANGES_MAX: usize = 1024;
/// How long a change may take until all `up` nodes know it.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What people ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminCommand {
    /// How is the cluster?
    Status,
    /// Stop a node.
    Stop {
        /// Which.
        node: NodeId,
        /// Whether its angel is to start it again.
        restart: bool,
        /// Even if it is the last of its group that serves.
        force: bool,
    },
    /// Rebuild the register from what the data nodes know.
    Rebuild {
        /// The data nodes that are given up: they have ended, or remember nothing; what only they knew may be lost.
        without: Vec<NodeId>,
    },
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminReply {
    /// The cluster as this node sees it.
    Status(Box<Status>),
    /// The node was told.
    Done,
    /// Nothing was done, and why.
    Refused(Error),
}

/// A change of the catalog that was proposed here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PendingChange {
    number: u64,
    link: LinkId,
    request: u32,
    deadline: Time,
    /// The catalog's version with it, once it is agreed.
    version: Option<u64>,
}

/// Why a node is to stop, for its log.
fn reason(last_of_group: bool) -> &'static str {
    match last_of_group {
        true => "an administrator forced it, though it is the last of its group: the cluster stops",
        false => "an administrator asked for it",
    }
}

impl ManagementNode {
    pub(super) fn no_leader(&self) -> Error {
        let leader = self.leader().filter(|&leader| leader != self.id);
        let address = |node: NodeId| {
            let config = self.file.management_nodes.iter().find(|other| other.id == node)?;
            Some(config.address.to_string())
        };
        let text = match leader.and_then(|leader| Some((leader, address(leader)?))) {
            Some((leader, address)) => {
                format!("ask the leader of the management nodes, node {leader} at {address}")
            }
            None if self.replica.is_blank() => "the directory of this management node is empty, and it takes no part before \
                 all others have said what they know. If most of these directories are lost for good, stop all management \
                 nodes, empty what is left of them, start them again, and run `twofold mgm rebuild`"
                .into(),
            None => "no leader of the management nodes is known".into(),
        };
        Error::new(ErrorCode::NoLeader, text)
    }

    pub(super) fn catalog_request(&mut self, now: Time, link: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let CatalogReq { request, change } = control(body)?;
        let refusal = if self.leading.is_none() {
            Some(self.no_leader())
        } else if self.changes.len() >= CHANGES_MAX {
            Some(Error::new(
                ErrorCode::Overloaded,
                format!("{CHANGES_MAX} changes of the catalog are under way"),
            ))
        } else if matches!(change, CatalogChange::EndBuild { .. }) {
            Some(Error::new(ErrorCode::Malformed, "the management leader alone ends the build of an index"))
        } else {
            self.objection_to_change(now)
        };
        if let Some(error) = refusal {
            self.answer(link, request, Err(error));
            return Ok(());
        }
        self.last_change += 1;
        let number = self.last_change;
        let origin = Origin { node: self.id, incarnation: self.links.incarnation(), number };
        let command = Command::Catalog { origin, change }.encode();
        if command.len() > COMMAND_BYTES_MAX {
            let text = format!("a change of {} bytes; {COMMAND_BYTES_MAX} are allowed", command.len());
            self.answer(link, request, Err(Error::new(ErrorCode::TooLarge, text)));
        } else if self.replica.propose(command) {
            let deadline = now + CHANGE_TIMEOUT;
            self.changes.push(PendingChange { number, link, request, deadline, version: None });
        } else {
            self.answer(link, request, Err(self.no_leader()));
        }
        Ok(())
    }

    fn answer(&mut self, link: LinkId, request: u32, result: Result<u64, Error>) {
        if let Some(link) = self.links.get_mut(link) {
            link.send_control(Kind::CatalogConf, &CatalogConf { request, result });
        }
    }

    pub(super) fn catalog_changed(&mut self, origin: Origin, result: Result<u64, Error>) {
        if (origin.node, origin.incarnation) != (self.id, self.links.incarnation()) {
            return;
        }
        let Some(place) = self.changes.iter().position(|change| change.number == origin.number) else {
            return;
        };
        match result {
            Ok(version) => self.changes[place].version = Some(version),
            Err(error) => {
                let change = self.changes.remove(place);
                self.answer(change.link, change.request, Err(error));
            }
        }
    }

    /// The register was rebuilt: what was agreed on may have been left out.
    pub(super) fn fail_changes(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            let text = "the register was rebuilt meanwhile";
            self.answer(change.link, change.request, Err(Error::new(ErrorCode::OutcomePending, text)));
        }
    }

    /// This node has stopped leading, or begun to: what it proposed and is not agreed may or may not be some day.
    pub(super) fn fail_undecided_changes(&mut self) {
        let undecided: Vec<PendingChange> =
            self.changes.extract_if(.., |change| change.version.is_none()).collect();
        for change in undecided {
            let text =
                "the leader of the management nodes changed before the change of the catalog was agreed on";
            self.answer(change.link, change.request, Err(Error::new(ErrorCode::OutcomePending, text)));
        }
    }

    /// As leader: proposes that an index be public, once all nodes that serve have built it. If one of them has no memory for
    /// all that are being built, the newest is dropped, and then it is seen whether the others fit. Returns whether it did.
    pub(super) fn end_build(&mut self) -> bool {
        if self.build_end_proposed {
            return false;
        }
        let catalog = self.register.catalog();
        let indexes = catalog.tables.iter().flat_map(|table| &table.indexes);
        let building = indexes.filter_map(|index| match index.state {
            IndexState::Building { since } => Some((since, index.id)),
            IndexState::Public => None,
        });
        let (Some((since, oldest)), Some((_, newest))) = (building.clone().min(), building.max()) else {
            return false;
        };
        // A node that is syncing is not `ready` before it has all indexes.
        let members = self.register.view().members.iter();
        let holders = members.filter(|member| member.state != MemberState::Syncing).map(|member| {
            let life = Life { node: member.node, incarnation: member.incarnation };
            self.reporters.get(&life).map(|reporter| &reporter.report)
        });
        let (mut built, mut full) = (true, false);
        for report in holders {
            built &= report.is_some_and(|report| report.indexed >= since);
            full |= report.is_some_and(|report| report.index_full && report.catalog >= catalog.version);
        }
        if built || full {
            self.last_change += 1;
            let (node, incarnation) = (self.id, self.links.incarnation());
            let origin = Origin { node, incarnation, number: self.last_change };
            let change = CatalogChange::EndBuild { index: if built { oldest } else { newest }, built };
            self.build_end_proposed = self.replica.propose(Command::Catalog { origin, change }.encode());
        }
        self.build_end_proposed
    }

    /// Answers the changes that all `up` nodes know, and those that take too long.
    pub(super) fn answer_changes(&mut self, now: Time) {
        if self.changes.is_empty() {
            return;
        }
        if let Some(error) = self.loss(now) {
            for change in std::mem::take(&mut self.changes) {
                self.answer(change.link, change.request, Err(error.clone()));
            }
            return;
        }
        let behind = self.is_behind();
        let up = self.register.view().up_members();
        let known = up.map(|member| {
            let life = Life { node: member.node, incarnation: member.incarnation };
            self.reporters.get(&life).map_or(0, |reporter| reporter.report.catalog)
        });
        let known = known.min().unwrap_or(u64::MAX);
        let is_done =
            |change: &PendingChange| change.version.is_some_and(|version| version <= known && !behind);
        let ended: Vec<PendingChange> =
            self.changes.extract_if(.., |change| is_done(change) || now >= change.deadline).collect();
        for change in ended {
            let result = match change.version {
                Some(version) if version <= known && !behind => Ok(version),
                _ => {
                    let text = "not all data nodes took over the change of the catalog in time";
                    Err(Error::new(ErrorCode::OutcomePending, text))
                }
            };
            self.answer(change.link, change.request, result);
        }
    }

    /// The answer, unless it comes later.
    pub(super) fn administrate(
        &mut self,
        now: Time,
        request: u64,
        command: AdminCommand,
        effects: &mut Vec<Effect>,
    ) -> Option<AdminReply> {
        match command {
            AdminCommand::Status => Some(AdminReply::Status(Box::new(self.status(now)))),
            AdminCommand::Stop { node, restart, force } => {
                Some(match self.stop(now, node, restart, force, effects) {
                    Ok(()) => AdminReply::Done,
                    Err(error) => AdminReply::Refused(error),
                })
            }
            AdminCommand::Rebuild { without } => {
                self.begin_rebuild(now, request, &without, effects).err().map(AdminReply::Refused)
            }
        }
    }

    fn stop(
        &mut self,
        now: Time,
        node: NodeId,
        restart: bool,
        force: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        if self.leading.is_none() {
            return Err(self.no_leader());
        }
        let Some((_, kind, name)) = nodes(self.config()).find(|(id, ..)| *id == node) else {
            return Err(Error::new(ErrorCode::NoSuchNode, format!("there is no node {node}")));
        };
        if self.is_behind() && !force {
            // Who is the last of its group is not known.
            return Err(self.loss(now).unwrap_or_else(|| self.no_leader()));
        }
        let not_running = || Error::new(ErrorCode::NotRunning, format!("{name} ({node}) does not run"));
        match kind {
            NodeKind::Management | NodeKind::Api => {
                let what = if kind == NodeKind::Api { "an API node" } else { "a management node" };
                let text = format!(
                    "{name} ({node}) is {what}, and only data nodes are stopped from here: end its process where it \
                     runs (SIGTERM)"
                );
                Err(Error::new(ErrorCode::NotSupported, text))
            }
            NodeKind::Data => {
                let life = self.present_life(now, node).ok_or_else(not_running)?;
                let last = self.is_last_of_group(now, life);
                if last && !force {
                    let text = format!("{name} ({node}) is the last of its group that serves");
                    return Err(Error::new(ErrorCode::LastOfGroup, text));
                }
                // The code says whether it is to wait until a buddy has taken over.
                let code = if last { ErrorCode::LastOfGroup } else { ErrorCode::Stopping };
                let error = Error::new(code, reason(last));
                self.tell_to_stop(now, life, restart, error, effects).then_some(()).ok_or_else(not_running)
            }
        }
    }

    /// The life of a data node that is meant by its id: the one in the view, else the one that reports.
    pub(super) fn present_life(&self, now: Time, node: NodeId) -> Option<Life> {
        let member = self.register.view().member(node);
        let in_view = member.map(|member| Life { node, incarnation: member.incarnation });
        let lives = || self.reporters.keys().copied().filter(|life| life.node == node);
        in_view
            .filter(|&life| self.is_fresh(now, life))
            .or_else(|| lives().find(|&life| self.is_fresh(now, life)))
            .or(in_view.filter(|life| self.reporters.contains_key(life)))
    }

    /// Whether nobody else of the group is `up`, alive, and about to stay.
    fn is_last_of_group(&self, now: Time, life: Life) -> bool {
        let view = self.register.view();
        let stays = |node: NodeId| {
            view.member(node).is_some_and(|member| {
                let life = Life { node, incarnation: member.incarnation };
                let leaving = |life| {
                    self.reporters.get(&life).is_none_or(|other| other.told.is_some() || other.report.leaving)
                };
                member.state == MemberState::Up && self.is_fresh(now, life) && !leaving(life)
            })
        };
        view.is_up(life.node) && !self.config().buddies(life.node).any(stays)
    }

    /// The cluster as this node sees it.
    fn status(&self, now: Time) -> Status {
        let config = self.config();
        Status {
            cluster: config.name.clone(),
            node: self.id,
            leader: self.leader(),
            term: self.replica.term(),
            view: self.register.view().number,
            restart: self.register.view().restart,
            catalog: self.register.catalog().version,
            tables: self.register.catalog().tables.len(),
            replicas: config.replicas,
            trouble: self.loss(now).map(|error| error.to_string()).or_else(|| self.stopped_groups(now)),
            system_restart: self.register.system_restart().cloned(),
            nodes: nodes(config).map(|(id, kind, name)| self.node_status(now, id, kind, name)).collect(),
        }
    }

    fn node_status(&self, now: Time, id: NodeId, kind: NodeKind, name: String) -> NodeStatus {
        let config = self.config();
        let life = self.present_life(now, id).filter(|_| kind == NodeKind::Data);
        let reporter = life.and_then(|life| self.reporters.get(&life));
        let address = match kind {
            NodeKind::Management => {
                config.management_nodes.iter().find(|node| node.id == id).map(|node| node.address.clone())
            }
            NodeKind::Data => config.data_node(id).map(|node| node.address.clone()),
            NodeKind::Api => config
                .api_nodes
                .iter()
                .find(|node| node.id == id)
                .map(|node| Address { host: node.host.clone(), port: node.grpc_port }),
        };
        NodeStatus {
            id,
            name,
            kind,
            group: config.group_of(id),
            address: address.unwrap_or_else(|| panic!("{id:?} has no address in {config:?}")),
            state: match kind {
                NodeKind::Management => self.management_state(id),
                NodeKind::Data => self.data_state(now, id, life),
                NodeKind::Api if self.is_connected(id) => NodeState::Up,
                NodeKind::Api => NodeState::Down,
            },
            incarnation: life.map_or(Incarnation(0), |life| life.incarnation),
            workers: reporter.map_or(0, |reporter| reporter.report.workers),
            age: reporter.map(|reporter| now.since(reporter.last)),
            leaving: reporter.is_some_and(|reporter| reporter.report.leaving)
                && life.is_some_and(|life| self.is_fresh(now, life)),
        }
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.peers.iter().any(|(&link, peer)| {
            peer.endpoint.node == node && self.links.get(link).is_some_and(|link| link.is_connected())
        })
    }

    fn management_state(&self, id: NodeId) -> NodeState {
        let alive =
            id == self.id || self.links.to_any(Endpoint::node(id)).next().is_some() && self.is_connected(id);
        match alive {
            true if self.leader() == Some(id) => NodeState::Up,
            true => NodeState::Follower,
            false => NodeState::Down,
        }
    }

    fn data_state(&self, now: Time, node: NodeId, life: Option<Life>) -> NodeState {
        let in_view = self.register.view().member(node).is_some();
        let Some(life) = life.filter(|&life| self.is_fresh(now, life)) else {
            let may_run = life.is_some_and(|life| !self.gone.contains_key(&life));
            return if in_view && may_run { NodeState::Silent } else { NodeState::Down };
        };
        match self.register.view().state(node, life.incarnation) {
            Some(MemberState::Up) => NodeState::Up,
            Some(MemberState::Ready) => NodeState::Ready,
            Some(MemberState::Syncing) => NodeState::Syncing,
            None => NodeState::Starting,
        }
    }
}
