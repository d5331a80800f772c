//! How a leader that has lost the register gets one from the data nodes.
//!
//! Whatever was agreed on and acted upon is known to a data node. So all of them are asked, and each has to remember
//! something, but for those that people give up; the register goes on from the newest view and catalog that any of them
//! knows, in the next generation: what somebody who was given up knows beyond that leads nowhere. See
//! `docs/membership.md`.

use std::collections::BTreeMap;

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Endpoint, NodeId},
    message::{Catalog, Kind, Life, RegisterConf, control},
    time::{Duration, Time},
    wire::Malformed,
};

use super::{AdminReply, Effect, ManagementNode, guard::CERTAIN};
use crate::{register::Command, status::nodes};

/// How long data nodes have to say what they know.
const PATIENCE: Duration = Duration::from_secs(5);
/// Ids that are left out: tables that were created last may be known to clients, and to no data node.
const IDS_LEFT_OUT: u32 = 1 << 16;

/// A rebuild that waits for answers, or to be agreed on.
#[derive(Debug)]
pub(super) struct Rebuild {
    request: u64,
    deadline: Time,
    asked: BTreeMap<Life, Option<RegisterConf>>,
    /// Who is given up. Those of them that run are asked nevertheless.
    without: Vec<NodeId>,
}

/// The catalog that a rebuilt register goes on from: newer than any that is known.
fn rebuilt(newest: &Catalog) -> Option<Catalog> {
    let generation = u16::try_from(newest.version >> 48).ok()?.checked_add(1)?;
    let next_table = newest.next_table.max(1).checked_add(IDS_LEFT_OUT)?;
    Some(Catalog { version: u64::from(generation) << 48 | 1, next_table, tables: newest.tables.clone() })
}

/// The command that gives these up, too.
fn give_up(without: &[NodeId], others: &[NodeId]) -> String {
    let list: Vec<String> = without.iter().chain(others).map(NodeId::to_string).collect();
    format!("`twofold mgm rebuild --without {}`", list.join(","))
}

impl ManagementNode {
    /// Asks all data nodes; answered later.
    ///
    /// # Errors
    /// If this node does not lead, or a data node neither reports nor is given up, or is given up and heard by others.
    pub(super) fn begin_rebuild(
        &mut self,
        now: Time,
        request: u64,
        without: &[NodeId],
        effects: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        if self.leading.is_none() {
            return Err(self.no_leader());
        }
        let config = self.config();
        if let Some(&other) = without.iter().find(|&&id| config.data_node(id).is_none()) {
            let text = format!("{} is no data node, only these can be given up", self.names(&[other]));
            return Err(Error::new(ErrorCode::NoSuchNode, text));
        }
        let fresh = |node: NodeId| self.present_life(now, node).filter(|&life| self.is_fresh(now, life));
        let ids = || config.data_nodes.iter().map(|node| node.id);
        if !without.is_empty() && self.listening(now) < CERTAIN {
            let text = "this leader is new: who runs may not have reported to it yet; ask again in a moment";
            return Err(Error::new(ErrorCode::NotRebuilt, text));
        }
        let missing: Vec<NodeId> = ids().filter(|id| !without.contains(id) && fresh(*id).is_none()).collect();
        if !missing.is_empty() {
            let text = format!(
                "nothing is heard of {}: start what can be started. If it is gone for good, and its process has \
                 ended, give it up with what it alone may know: {}",
                self.names(&missing),
                give_up(without, &missing)
            );
            return Err(Error::new(ErrorCode::NotRebuilt, text));
        }
        let asked: BTreeMap<Life, Option<RegisterConf>> =
            ids().filter_map(fresh).map(|life| (life, None)).collect();
        let hears =
            |life: &Life| self.reporters.get(life).into_iter().flat_map(|reporter| &reporter.report.hears);
        let mut heard = asked.keys().flat_map(|life| hears(life).map(|other| (life.node, *other)));
        let runs = |life: &Life| !asked.contains_key(life) && !self.gone.contains_key(life);
        if let Some((by, other)) = heard.find(|(_, other)| without.contains(&other.node) && runs(other)) {
            let text = format!(
                "{} cannot be given up: it does not report here, but {} has just heard of it; end its process first, or \
                 see why its management node does not hear it",
                self.names(&[other.node]),
                self.names(&[by])
            );
            return Err(Error::new(ErrorCode::NotRebuilt, text));
        }
        if asked.is_empty() {
            return Err(Error::new(ErrorCode::NotRebuilt, "no data node is left that could be asked"));
        }
        self.end_rebuild(Err(Error::new(ErrorCode::OutcomePending, "the same was asked once more")), effects);
        for life in asked.keys() {
            let link = self.links.to(Endpoint::node(life.node), life.incarnation);
            if let Some(link) = link.and_then(|link| self.links.get_mut(link)) {
                link.send_control(Kind::RegisterReq, &());
            }
        }
        self.rebuild = Some(Rebuild { request, deadline: now + PATIENCE, asked, without: without.to_vec() });
        Ok(())
    }

    /// Nodes as people call them.
    fn names(&self, ids: &[NodeId]) -> String {
        let name = |id: &NodeId| {
            let named = nodes(self.config()).find(|(other, ..)| other == id);
            named.map_or(id.to_string(), |(id, _, name)| format!("{name} ({id})"))
        };
        ids.iter().map(name).collect::<Vec<_>>().join(" and ")
    }

    /// A data node says what it knows.
    pub(super) fn register_told(
        &mut self,
        from: Life,
        body: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<(), Malformed> {
        let known: RegisterConf = control(body)?;
        let Some(answer) = self.rebuild.as_mut().and_then(|rebuild| rebuild.asked.get_mut(&from)) else {
            return Ok(());
        };
        *answer = Some(known);
        let Some(rebuild) = &self.rebuild else { return Ok(()) };
        let answers = rebuild.asked.iter().map(|(life, known)| Some((life.node, known.as_ref()?)));
        let Some(told) = answers.collect() else { return Ok(()) };
        match self.rebuilt(told, &rebuild.without) {
            Ok(command) if self.replica.propose(command.encode()) => {}
            Ok(_) => self.end_rebuild(Err(self.no_leader()), effects),
            Err(error) => self.end_rebuild(Err(error), effects),
        }
        Ok(())
    }

    /// What to go on from.
    fn rebuilt(&self, told: Vec<(NodeId, &RegisterConf)>, without: &[NodeId]) -> Result<Command, Error> {
        let refused = |text: String| Err(Error::new(ErrorCode::NotRebuilt, text));
        let config = self.config();
        for (node, known) in &told {
            let placement = |config: &twofold_proto::config::ClusterConfig| {
                let ids: Vec<NodeId> = config.data_nodes.iter().map(|node| node.id).collect();
                (config.name.clone(), config.replicas, config.partitions, ids)
            };
            if placement(&known.config) != placement(config) || !known.view.fits(config) {
                return refused(format!(
                    "node {node} goes by another config than the management nodes: name, replicas and the ids of the data \
                     nodes have to be the same. Start the management nodes with the twofold.toml that the cluster had"
                ));
            }
        }
        let (own_view, own_catalog) = (self.register.view().number, self.register.catalog().version);
        let known = || told.iter().map(|(_, known)| *known).filter(|known| known.took_part);
        let newest = (
            known().map(|known| &known.view).max_by_key(|view| view.number),
            known().map(|known| &known.catalog).max_by_key(|catalog| catalog.version),
        );
        let (Some(view), Some(catalog)) = newest else {
            return refused("no data node remembers anything: there is nothing to rebuild from".into());
        };
        if view.number <= own_view && catalog.version <= own_catalog {
            return refused(format!(
                "the management nodes know view {own_view} and catalog {own_catalog}, and no data node knows more: there \
                 is nothing to rebuild"
            ));
        }
        let given_up = |node: &NodeId| without.contains(node);
        let who = |is: &dyn Fn(&NodeId, bool) -> bool| -> Vec<NodeId> {
            told.iter().filter(|(node, known)| is(node, known.took_part)).map(|(node, _)| *node).collect()
        };
        let running = who(&|node, took_part| took_part && given_up(node));
        if !running.is_empty() {
            return refused(format!(
                "{} cannot be given up: it runs, and may know what nobody else does; leave it out of `--without`, or \
                 end it first",
                self.names(&running)
            ));
        }
        let blank = who(&|node, took_part| !took_part && !given_up(node));
        if !blank.is_empty() {
            return refused(format!(
                "{} runs and remembers nothing: its directory is empty, damaged or new. If the one that it had can be put \
                 back, do that. If not, give up what it alone may have known: {}",
                self.names(&blank),
                give_up(without, &blank)
            ));
        }
        match (view.rebuilt(), rebuilt(catalog)) {
            (Some(view), Some(catalog)) => Ok(Command::Rebuild { predecessor: own_view, view, catalog }),
            _ => refused("the register was rebuilt as often as can be".into()),
        }
    }

    /// It was agreed on, or void.
    pub(super) fn answer_rebuild(&mut self, done: bool, effects: &mut Vec<Effect>) {
        let void = || Error::new(ErrorCode::OutcomePending, "another change of the register came before");
        self.end_rebuild(done.then_some(()).ok_or_else(void), effects);
    }

    /// This node has stopped leading, or begun to.
    pub(super) fn fail_rebuild(&mut self, effects: &mut Vec<Effect>) {
        let text = "the leader of the management nodes changed before the register was rebuilt";
        self.end_rebuild(Err(Error::new(ErrorCode::OutcomePending, text)), effects);
    }

    /// Gives up waiting.
    pub(super) fn expire_rebuild(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let Some(rebuild) = self.rebuild.as_ref().filter(|rebuild| now >= rebuild.deadline) else { return };
        let silent: Vec<String> = rebuild
            .asked
            .iter()
            .filter(|(_, known)| known.is_none())
            .map(|(life, _)| life.node.to_string())
            .collect();
        let text = match silent.is_empty() {
            true => "the management nodes have not agreed on it in time".into(),
            false => format!("node {} did not say in time what it knows", silent.join(" and node ")),
        };
        self.end_rebuild(Err(Error::new(ErrorCode::OutcomePending, text)), effects);
    }

    fn end_rebuild(&mut self, result: Result<(), Error>, effects: &mut Vec<Effect>) {
        if let Some(Rebuild { request, .. }) = self.rebuild.take() {
            let reply = result.map_or_else(AdminReply::Refused, |()| AdminReply::Done);
            effects.push(Effect::Admin { request, reply });
        }
    }
}
