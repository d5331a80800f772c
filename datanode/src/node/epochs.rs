//! Epochs, and cluster time.

use std::collections::{BTreeMap, BTreeSet};

use twofold_proto::{
    ids::{Epoch, NodeId, ViewNumber},
    message::{EpochDoneRep, EpochOrd, Kind, Life},
    time::{ClusterTime, Duration, Time},
    view::{MemberState, View},
};

use super::{Effect, Node};
use crate::local::ToWorker;

/// How far cluster time may get ahead of what the president has measured, each time it stamps an epoch.
const TIME_STEP_MAX: Duration = Duration::from_secs(1);

/// What a node knows of epochs.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    pub(super) epoch: Epoch,
    pub(super) complete: Epoch,
    /// The view under which the president has spoken last.
    pub(super) ordered: ViewNumber,
    /// On the disks of all members that count.
    pub(super) durable: Epoch,
    /// Whether some disk cannot keep up.
    pub(super) congested: bool,
    /// Commits up to this epoch wait for the disks.
    wanted: Epoch,
    /// As president: up to which epoch the others know that they do, and the newest that was ended because of them.
    called_for: Epoch,
    hastened: Epoch,
    /// Cluster time as last stamped, and when that was here; none before the first epoch.
    stamped: Option<(ClusterTime, Time)>,
    /// The wall clock in milliseconds since 1970, and when it showed that.
    wall: Option<(u64, Time)>,
    /// As president: what the members are done with, under the adopted view.
    done: BTreeMap<NodeId, Epoch>,
    /// As president: what the others have on disk, and whether that keeps up.
    on_disk: BTreeMap<NodeId, (Epoch, bool)>,
    /// As president: whose workers serve no more.
    stopped: BTreeSet<NodeId>,
    /// Whether no epoch follows this one.
    pub(super) last: bool,
    /// As president: when the epoch ends.
    pub(super) due: Option<Time>,
    /// Whether an epoch has ended in this turn: then everything that waits leaves with it.
    pub(super) ended: bool,
    /// What the president was last told.
    told: Option<EpochDoneRep>,
}

impl Epochs {
    /// Somebody knows this epoch.
    pub(super) fn see(&mut self, epoch: Epoch) {
        self.epoch = self.epoch.max(epoch);
    }

    pub(super) fn begin_view(&mut self) {
        self.done.clear();
        self.on_disk.clear();
        self.stopped.clear();
        self.last = false;
    }

    pub(super) fn set_wall_clock(&mut self, now: Time, millis: u64) {
        self.wall = Some((millis, now));
    }

    fn is_done(&mut self, node: NodeId, epoch: Epoch) {
        // Who is done with an epoch knows a later one.
        self.see(epoch.next());
        let done = self.done.entry(node).or_default();
        *done = (*done).max(epoch);
    }

    /// The newest epoch that is complete by what the `up` members say. The others coordinate nothing and are
    /// primary of nothing, so they are done with everything.
    fn completed(&self, view: &View) -> Option<Epoch> {
        view.up_members().map(|member| self.done.get(&member.node).copied()).min().flatten()
    }

    /// The newest epoch that is on the disks of all members that count: a `ready` one may be the only one that is left soon.
    /// And whether one of them cannot keep up.
    fn written(&self, view: &View) -> Option<(Epoch, bool)> {
        let counted = view.members.iter().filter(|member| member.state >= MemberState::Ready);
        let said: Vec<(Epoch, bool)> =
            counted.map(|member| self.on_disk.get(&member.node).copied()).collect::<Option<_>>()?;
        let durable = said.iter().map(|(durable, _)| *durable).min()?;
        Some((durable, said.iter().any(|(_, congested)| *congested)))
    }

    /// Cluster time now: follows the wall clock, but never back, and never far ahead of what was measured here
    /// since the last stamp. Where the wall clock is behind it goes on at half its speed until they meet.
    pub(super) fn next_time(&self, now: Time) -> ClusterTime {
        let wall = self.wall.map(|(millis, then)| millis.saturating_add(millis_of(now.since(then))));
        let Some((last, then)) = self.stamped else { return ClusterTime(wall.unwrap_or(0)) };
        let passed = now.since(then);
        let earliest = last.0.saturating_add(millis_of(passed / 2));
        let latest = last.0.saturating_add(millis_of(passed + TIME_STEP_MAX));
        ClusterTime(wall.unwrap_or(last.0.saturating_add(millis_of(passed))).clamp(earliest, latest))
    }

    pub(super) fn stamp(&mut self, now: Time, time: ClusterTime) {
        if time > self.stamped.unwrap_or_default().0 {
            self.stamped = Some((time, now));
        }
    }

    pub(super) fn check(&self) {
        assert!(
            self.complete < self.epoch || self.complete == Epoch(0),
            "epoch {:?} is complete, and the newest is {:?}",
            self.complete,
            self.epoch
        );
    }
}

fn millis_of(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Node {
    pub(super) fn is_president(&self) -> bool {
        self.state() == Some(MemberState::Up) && self.view.president() == Some(self.life.node)
    }

    /// As president: ends the epoch.
    pub(super) fn end_epoch(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.epochs.due = Some(now + self.config.epoch());
        self.level = self.level || self.has_heard_all();
        if !self.level {
            return;
        }
        self.count_epochs();
        if !self.epochs.last {
            let first = Epoch::new(self.view.restart, 0);
            self.epochs.epoch = self.epochs.epoch.max(first).next();
            self.epochs.last = self.have_all_stopped();
        }
        self.order_epoch(now, effects);
    }

    /// As president, while commits wait for the disks: ends the epoch if none of those that were ended for them is on its way to the disks,
    /// so that many share a flush; and passes on at once what the members wait for.
    pub(super) fn hasten(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.epochs.wanted <= self.epochs.durable || !self.level || !self.is_president() {
            return;
        }
        let Epochs { complete, durable, .. } = self.epochs;
        self.count_epochs();
        let Epochs { epoch, wanted, called_for, hastened, last, .. } = self.epochs;
        if epoch <= wanted && hastened <= self.epochs.durable && !last {
            self.epochs.hastened = epoch;
            self.end_epoch(now, effects);
        } else if self.epochs.complete > complete || self.epochs.durable > durable || wanted > called_for {
            self.order_epoch(now, effects);
        }
    }

    /// Commits up to this epoch wait for the disks.
    pub(super) fn is_wanted(&mut self, epoch: Epoch) {
        self.epochs.wanted = self.epochs.wanted.max(epoch);
    }

    /// As president: what is complete, and what durable, by what the members have said.
    fn count_epochs(&mut self) {
        if let Some(done) = self.workers.done() {
            self.epochs.is_done(self.life.node, done);
        }
        self.epochs.on_disk.insert(self.life.node, (self.own_durable(), self.storage.is_congested()));
        if let Some((durable, congested)) = self.epochs.written(&self.view) {
            self.epochs.durable = self.epochs.durable.max(durable);
            self.epochs.congested = congested;
        }
        let complete = self.epochs.completed(&self.view).unwrap_or_default();
        self.epochs.complete = self.epochs.complete.max(complete);
    }

    /// As president: tells all how far the epochs are.
    fn order_epoch(&mut self, now: Time, effects: &mut Vec<Effect>) {
        // Not with each word: what is stamped may get ahead of what was measured each time.
        if self.epochs.stamped.is_none_or(|(_, then)| now.since(then) >= self.config.epoch()) {
            let time = self.epochs.next_time(now);
            self.epochs.stamp(now, time);
        }
        let (time, _) = self.epochs.stamped.unwrap_or_default();
        self.epochs.called_for = self.epochs.wanted;
        let Epochs { epoch, complete, durable, wanted, congested, last, .. } = self.epochs;
        let view = self.view.number;
        let order = EpochOrd { view, epoch, complete, durable, wanted, congested, last, time };
        for id in self.peers.values().filter_map(|peer| peer.link).collect::<Vec<_>>() {
            if let Some(link) = self.line(id) {
                link.send_control(Kind::EpochOrd, &order);
            }
        }
        self.pass_epoch(now, effects);
    }

    /// As president: whether all other `up` members have spoken under this view.
    fn has_heard_all(&self) -> bool {
        let others = self.peers.iter().filter(|(life, _)| self.view.is_up(life.node));
        others.into_iter().all(|(_, peer)| peer.view >= self.view.number)
    }

    /// As president: whether the workers of all `up` members serve no more. A cluster that is stopped ends with one epoch:
    /// else some would have one more on disk than others, who would have to copy at the next start.
    fn have_all_stopped(&self) -> bool {
        let has_stopped = |node| node == self.life.node || self.epochs.stopped.contains(&node);
        self.stage.has_stopped() && self.view.up_members().all(|member| has_stopped(member.node))
    }

    /// An epoch has begun: tells the workers. From now on this node is level, and may get a lease.
    fn pass_epoch(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.epochs.ended = true;
        self.epochs.ordered = self.view.number;
        let Epochs { epoch, complete, durable, wanted, congested, stamped, .. } = self.epochs;
        let (time, _) = stamped.unwrap_or_default();
        self.tell(&ToWorker::Epoch { epoch, complete, durable, wanted, congested, time }, effects);
        self.tell_durable(effects);
        self.refresh_lease(now, effects);
    }

    pub(super) fn on_epoch_ord(&mut self, now: Time, from: Life, order: EpochOrd, effects: &mut Vec<Effect>) {
        if order.view != self.view.number || self.view.president() != Some(from.node) {
            return;
        }
        self.epochs.see(order.epoch);
        self.epochs.complete = self.epochs.complete.max(order.complete);
        self.epochs.durable = self.epochs.durable.max(order.durable);
        self.is_wanted(order.wanted);
        (self.epochs.congested, self.epochs.last) = (order.congested, order.last);
        self.epochs.stamp(now, order.time);
        self.level = self.state() == Some(MemberState::Up);
        self.pass_epoch(now, effects);
        // Said again with each epoch, so that it does not matter if the link was down.
        self.epochs.told = None;
        self.news = true;
    }

    /// Tells the president what all workers are done with, if that is news.
    pub(super) fn send_done(&mut self) {
        let Some(epoch) = self.workers.done() else { return };
        let (durable, congested) = (self.own_durable(), self.storage.is_congested());
        let stopped = self.stage.has_stopped();
        let report = EpochDoneRep { view: self.view.number, epoch, durable, congested, stopped };
        if self.is_president() || self.epochs.told == Some(report) {
            return;
        }
        let Some(president) = self.view.president() else { return };
        let peer = self.peers.iter().find(|(life, _)| life.node == president);
        let Some(id) = peer.and_then(|(_, peer)| peer.link) else { return };
        // Who is done with an epoch knows a later one.
        self.epochs.see(epoch.next());
        if let Some(link) = self.line(id) {
            link.send_control(Kind::EpochDoneRep, &report);
            self.epochs.told = Some(report);
        }
    }

    pub(super) fn on_epoch_done(&mut self, from: Life, report: EpochDoneRep) {
        if report.view == self.view.number && self.is_president() {
            self.epochs.is_done(from.node, report.epoch);
            self.epochs.on_disk.insert(from.node, (report.durable, report.congested));
            if report.stopped {
                self.epochs.stopped.insert(from.node);
            }
        }
    }
}
