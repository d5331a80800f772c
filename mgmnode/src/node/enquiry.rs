//! What a management node does that finds its directory empty: it asks all others what it may have forgotten.
//!
//! It may have voted, and acknowledged entries, and a vote or an acknowledgement that is forgotten can make two leaders, or a
//! leader that lacks what was agreed. So before all others have answered it takes no part; then it takes part as `Replica`
//! says, which bounds what it can have promised by what they say. Why that is safe: `docs/membership.md`.
//!
//! Where nobody has a log, the one with the lowest id begins one, and the others take over its name for it: messages about
//! another log are not read, so that a directory that comes back after the register was rebuilt does no harm.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twofold_proto::{
    ids::{Endpoint, Incarnation, NodeId},
    links::LinkId,
    message::{Kind, control},
    time::{Duration, Time},
    wire::Malformed,
};

use super::{Effect, ManagementNode};
use crate::{notice::Notice, replica::Standing};

/// After which the log says who has not answered, and how often it says so again.
const PATIENCE: Duration = Duration::from_secs(3);
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// The question, and the round of questions it belongs to.
#[derive(Serialize, Deserialize)]
struct VoterReq {
    round: u64,
}

#[derive(Serialize, Deserialize)]
struct VoterConf {
    round: u64,
    standing: Standing,
}

/// What was asked and answered so far.
#[derive(Debug)]
pub(super) struct Enquiry {
    /// A voter's answer counts if it was given after all that have lost something were known to have: what these did
    /// before is then in it.
    round: u64,
    answers: BTreeMap<NodeId, (Incarnation, Standing)>,
    say_at: Time,
}

impl Enquiry {
    pub(super) fn new(now: Time) -> Enquiry {
        Enquiry { round: 1, answers: BTreeMap::new(), say_at: now + PATIENCE }
    }

    fn take(&mut self, from: NodeId, incarnation: Incarnation, VoterConf { round, standing }: VoterConf) {
        if standing.voter {
            if round == self.round {
                self.answers.insert(from, (incarnation, standing));
            }
            return;
        }
        let before = self.answers.insert(from, (incarnation, standing));
        if before.is_none_or(|(life, standing)| life != incarnation || standing.voter) {
            self.round += 1;
            self.answers.retain(|_, (_, standing)| !standing.voter);
        }
    }

    /// Whose answer is missing, or may become another.
    fn awaited(&self, others: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
        others.filter(|node| self.answers.get(node).is_none_or(|(_, standing)| !standing.voter)).collect()
    }

    /// Whether the others keep several logs, so that it cannot be told which one to join.
    fn is_ambiguous(&self) -> bool {
        let mut logs = self.answers.values().map(|(_, standing)| standing.log).filter(|&log| log != 0);
        let first = logs.next();
        logs.any(|log| Some(log) != first)
    }

    /// What all others together say, if that is enough: all have answered, and nobody has anything, which is how
    /// a cluster begins, or a majority of all has lost nothing. `own_log`: who may begin a log, and its name.
    fn result(&self, voters: usize, own_log: Option<u64>) -> Option<Standing> {
        let standings = || self.answers.values().map(|(_, standing)| standing);
        let term = standings().map(|standing| standing.term).max().unwrap_or(0);
        let last = standings().map(|standing| standing.last).max().unwrap_or_default();
        let kept = standings().filter(|standing| standing.voter).count();
        let enough = standings().count() + 1 == voters && (last == (0, 0) || kept > voters / 2);
        let log = standings().map(|standing| standing.log).find(|&log| log != 0).or(own_log)?;
        (enough && !self.is_ambiguous()).then_some(Standing { voter: true, term, last, log })
    }
}

impl ManagementNode {
    fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.file.management_nodes.iter().map(|node| node.id).filter(|&id| id != self.id)
    }

    /// With an empty directory: asks on.
    pub(super) fn enquire(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if !self.replica.is_blank() {
            return;
        }
        let enquiry = self.enquiry.get_or_insert_with(|| Enquiry::new(now));
        let others = self.file.management_nodes.iter().map(|node| node.id).filter(|&id| id != self.id);
        let awaited = enquiry.awaited(others);
        let question = VoterReq { round: enquiry.round };
        if now >= enquiry.say_at {
            enquiry.say_at = now + SAID_AGAIN;
            effects.push(Effect::Notice(match enquiry.is_ambiguous() {
                true => Notice::SeveralLogs,
                false => Notice::EmptyDirectory { awaited: awaited.clone() },
            }));
        }
        for node in awaited {
            let links: Vec<LinkId> = self.links.to_any(Endpoint::node(node)).collect();
            for link in links {
                if let Some(link) = self.links.get_mut(link).filter(|link| link.is_connected()) {
                    link.send_control(Kind::VoterReq, &question);
                }
            }
        }
    }

    /// Another management node finds its directory empty.
    pub(super) fn voter_request(
        &mut self,
        link: LinkId,
        from: NodeId,
        incarnation: Incarnation,
        body: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<(), Malformed> {
        let VoterReq { round } = control(body)?;
        if !self.is_management(from) {
            return Err(Malformed("question to a voter"));
        }
        // What its former life has sent and is still on the way is of one that knew more.
        self.drop_links(effects, |peer| {
            peer.endpoint.node == from && ![incarnation, Incarnation(0)].contains(&peer.incarnation)
        });
        self.replica.forget_progress(from);
        let standing = self.replica.standing();
        if let Some(link) = self.links.get_mut(link) {
            link.send_control(Kind::VoterConf, &VoterConf { round, standing });
        }
        Ok(())
    }

    /// The answer of another.
    pub(super) fn voter_answer(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        body: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<(), Malformed> {
        let answer: VoterConf = control(body)?;
        if !self.others().any(|other| other == from) {
            return Err(Malformed("answer of a voter"));
        }
        let Some(enquiry) = &mut self.enquiry else { return Ok(()) };
        enquiry.take(from, incarnation, answer);
        let voters = self.file.management_nodes.len();
        let begins = self.file.management_nodes.iter().all(|node| node.id >= self.id);
        let own_log = begins.then_some(self.links.incarnation().0);
        if let Some(promised) = enquiry.result(voters, own_log) {
            self.enquiry = None;
            if promised.last != (0, 0) {
                effects.push(Effect::Notice(Notice::CatchesUp));
            }
            self.replica.begin(promised);
        }
        Ok(())
    }
}
