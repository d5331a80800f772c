//! What data nodes say of themselves, and what follows for those that may not be.

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Endpoint, NodeId, WorkerId},
    limits::{DATA_NODES_MAX, WORKERS_MAX},
    links::LinkId,
    message::{GoneOrd, Kind, Life, ReportOrd, StopOrd, control},
    time::{Duration, Time},
    wire::Malformed,
};

use super::{Effect, ManagementNode};
use crate::{
    choice::{Facts, Heard, silence},
    notice::Notice,
};

/// Lives of one node that are remembered at once.
const LIVES_MAX: usize = 8;
/// How long a life that is heard no more, or has ended, is remembered.
const MEMORY: Duration = Duration::from_secs(60);
/// After which a node that goes on is told once more to stop.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// A life that reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reporter {
    pub link: LinkId,
    /// When it reported first.
    pub first: Time,
    /// When it reported last.
    pub last: Time,
    /// Since when its reports have come without a silence between them.
    pub steady_since: Time,
    /// Since when it has reported the view that it reports.
    pub known_since: Time,
    /// Since when it has asked to leave.
    pub leaving_since: Option<Time>,
    pub report: ReportOrd,
    /// When it was last told to stop, and how.
    pub told: Option<(Time, StopOrd)>,
}

fn leaving_since(since: Option<Time>, report: &ReportOrd, now: Time) -> Option<Time> {
    report.leaving.then(|| since.unwrap_or(now))
}

impl ManagementNode {
    pub(super) fn report(
        &mut self,
        now: Time,
        link: LinkId,
        life: Life,
        worker: WorkerId,
        body: &[u8],
    ) -> Result<(), Malformed> {
        let report: ReportOrd = control(body)?;
        let is_own =
            report.life == life && worker == WorkerId::NODE && self.config().data_node(life.node).is_some();
        let bounded = (1..=WORKERS_MAX).contains(&report.workers)
            && report.hears.len() <= DATA_NODES_MAX
            && report.counts.len() <= DATA_NODES_MAX;
        if !is_own || !bounded {
            return Err(Malformed("report"));
        }
        let silence = silence(self.config());
        match self.reporters.get_mut(&life) {
            Some(reporter) => {
                if now.since(reporter.last) >= silence {
                    reporter.steady_since = now;
                }
                if reporter.report.view != report.view {
                    reporter.known_since = now;
                }
                reporter.leaving_since = leaving_since(reporter.leaving_since, &report, now);
                self.evaluate |= reporter.report != report;
                (reporter.link, reporter.last, reporter.report) = (link, now, report);
            }
            None => {
                self.make_room(life.node);
                let leaving_since = leaving_since(None, &report, now);
                let reporter = Reporter {
                    link,
                    first: now,
                    last: now,
                    steady_since: now,
                    known_since: now,
                    leaving_since,
                    report,
                    told: None,
                };
                self.reporters.insert(life, reporter);
                self.evaluate = true;
            }
        }
        if self.register.view().members.is_empty() {
            self.forming_since.get_or_insert(now);
        }
        Ok(())
    }

    /// Forgets the longest silent life of a node that has too many.
    fn make_room(&mut self, node: NodeId) {
        let lives = || self.reporters.iter().filter(|(life, _)| life.node == node);
        if lives().count() < LIVES_MAX {
            return;
        }
        let oldest = lives().min_by_key(|(_, reporter)| reporter.last).map(|(&life, _)| life);
        if let Some(life) = oldest {
            self.reporters.remove(&life);
        }
    }

    pub(super) fn gone(
        &mut self,
        now: Time,
        from: NodeId,
        body: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<(), Malformed> {
        let GoneOrd { life } = control(body)?;
        let relayed = self.is_management(from);
        if (life.node != from && !relayed) || self.config().data_node(life.node).is_none() {
            return Err(Malformed("goodbye"));
        }
        if self.gone.insert(life, now).is_some() {
            return Ok(());
        }
        self.evaluate = true;
        effects.push(Effect::Notice(Notice::Gone(life)));
        let links: Vec<(LinkId, NodeId)> =
            self.peers.iter().map(|(&link, peer)| (link, peer.endpoint.node)).collect();
        for (link, node) in links {
            self.send_gone(link, life);
            // Whoever was told first tells the other management nodes: one of them decides.
            if !relayed
                && self.is_management(node)
                && let Some(link) = self.links.get_mut(link).filter(|link| link.is_connected())
            {
                link.send_control(Kind::GoneOrd, &GoneOrd { life });
            }
        }
        Ok(())
    }

    pub(super) fn forget_lives(&mut self, now: Time) {
        let view = self.register.view();
        self.reporters.retain(|life, reporter| {
            now.since(reporter.last) < MEMORY || view.contains(life.node, life.incarnation)
        });
        self.gone
            .retain(|life, since| now.since(*since) < MEMORY || view.contains(life.node, life.incarnation));
        if self.reporters.is_empty() {
            self.forming_since = None;
        }
    }

    /// What the next view depends on.
    pub(super) fn facts(&self, now: Time) -> Facts {
        let heard = |(&life, reporter): (&Life, &Reporter)| {
            let heard = Heard {
                age: now.since(reporter.last),
                // What came last before the end of a connection is no sign of life.
                steady: match self.links.get(reporter.link).is_some_and(|link| link.is_connected()) {
                    true => now.since(reporter.steady_since),
                    false => Duration::ZERO,
                },
                known: now.since(reporter.known_since),
                leaving: reporter.leaving_since.map_or(Duration::ZERO, |since| now.since(since)),
                report: reporter.report.clone(),
            };
            (life, heard)
        };
        Facts {
            heard: self.reporters.iter().map(heard).collect(),
            gone: self.gone.keys().copied().collect(),
            listening: self.listening(now),
            forming: self.forming_since.map_or(Duration::ZERO, |since| now.since(since)),
        }
    }

    pub(super) fn is_fresh(&self, now: Time, life: Life) -> bool {
        let failure = self.config().failure();
        !self.gone.contains_key(&life)
            && self.reporters.get(&life).is_some_and(|reporter| now.since(reporter.last) < failure)
    }

    /// Tells lives that were dropped to begin anew, and second processes of one id to end.
    pub(super) fn order_stops(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let lives: Vec<Life> = self
            .reporters
            .iter()
            .filter(|(life, reporter)| reporter.told.is_none() && self.is_fresh(now, **life))
            .map(|(&life, _)| life)
            .collect();
        for life in lives {
            if self.register.membership().was_dropped(life) {
                let reason = format!("node {} was dropped from the cluster and has to begin anew", life.node);
                self.tell_to_stop(now, life, true, Error::new(ErrorCode::NotServing, reason), effects);
            } else if self.is_second(life) {
                let reason = format!(
                    "node {} runs already; give this one an id of its own, or end the other",
                    life.node
                );
                self.tell_to_stop(now, life, false, Error::new(ErrorCode::JoinRefused, reason), effects);
            }
        }
    }

    /// Whether an older life of the node, or the one in the view, has gone on reporting beside this one for so long
    /// that both live.
    fn is_second(&self, life: Life) -> bool {
        let view = self.register.view();
        let Some(own) = self.reporters.get(&life) else { return false };
        if view.contains(life.node, life.incarnation) {
            return false;
        }
        self.reporters.iter().any(|(&other, reporter)| {
            let is_first = view.contains(other.node, other.incarnation) || reporter.first < own.first;
            other.node == life.node
                && other != life
                && is_first
                && !self.gone.contains_key(&other)
                && !self.register.membership().was_dropped(other)
                && reporter.last.since(own.first) >= self.config().failure()
        })
    }

    pub(super) fn tell_to_stop(
        &mut self,
        now: Time,
        life: Life,
        restart: bool,
        error: Error,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let link = self.links.to(Endpoint::node(life.node), life.incarnation);
        let Some(link) = link.and_then(|link| self.links.get_mut(link)) else { return false };
        effects.push(Effect::Notice(Notice::Told { life, reason: error.text.clone() }));
        let order = StopOrd { life, restart, error };
        link.send_control(Kind::StopOrd, &order);
        if let Some(reporter) = self.reporters.get_mut(&life) {
            reporter.told = Some((now, order));
        }
        true
    }

    /// Says to those once more who report on as if they had not been told to stop: the order goes with its link.
    pub(super) fn repeat_stops(&mut self, now: Time) {
        for (life, reporter) in &mut self.reporters {
            let Some((told, order)) = &mut reporter.told else { continue };
            let goes_on = !reporter.report.leaving && reporter.last > *told;
            if !goes_on || now.since(*told) < TOLD_AGAIN {
                continue;
            }
            let link = self.links.to(Endpoint::node(life.node), life.incarnation);
            if let Some(link) = link.and_then(|link| self.links.get_mut(link)) {
                link.send_control(Kind::StopOrd, order);
                *told = now;
            }
        }
    }
}
