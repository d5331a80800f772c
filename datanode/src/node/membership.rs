//! Views, heartbeats, the lease, fences and reports.

use super::*;
use twofold_proto::{
    message::Kind,
    wire::{Malformed, Writer},
};

/// Another member of the adopted view.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) link: Option<LinkId>,
    /// Since when it is a peer.
    since: Time,
    /// When a frame came from it last.
    heard: Option<Time>,
    /// When the newest heartbeat was sent that it has acknowledged.
    pub(super) confirmed: Option<Time>,
    /// When a heartbeat of its was acknowledged last.
    answered: Option<Time>,
    /// The newest view that it has announced.
    pub(super) view: ViewNumber,
}

impl Peer {
    fn new(now: Time) -> Peer {
        let (heard, confirmed, answered) = (None, None, None);
        Peer { link: None, since: now, heard, confirmed, answered, view: ViewNumber(0) }
    }

    fn heard_within(&self, now: Time, span: Duration) -> bool {
        self.heard.is_some_and(|heard| now.since(heard) < span)
    }
}

impl Node {
    /// Adopts the view if it is newer.
    pub(super) fn learn(&mut self, now: Time, view: Arc<View>, effects: &mut Vec<Effect>) {
        if view.number <= self.view.number {
            return self.fence_unknown(&view, effects);
        }
        let old = std::mem::replace(&mut self.view, view);
        self.workers.begin_view();
        self.epochs.begin_view();
        let state = self.state();
        let event = Event::Adopted { view: self.view.number, members: self.view.members.len(), state };
        effects.push(Effect::Event(event));
        self.tell(&ToWorker::View(self.view.clone()), effects);
        self.change_peers(now, &old, effects);
        if state != Some(MemberState::Up) {
            self.level = false;
        }
        let restarted = self.was_member && self.view.restart != old.restart;
        if state.is_some() {
            self.was_member = true;
            self.connect_peers(effects);
        }
        self.epochs.due = self.is_president().then_some(now);
        self.announce();
        self.restore(effects);
        self.remember(effects);
        self.release_fences(now, effects);
        self.refresh_lease(now, effects);
        self.news = true;
        if self.was_member && state.is_none() {
            self.part(now, &format!("view {} does not have this life", self.view.number), effects);
        } else if restarted {
            self.part(now, "the cluster restarts: all nodes of a group had ended", effects);
        }
    }

    /// Makes the peers those of the adopted view; whoever was in the old one and is not in it is to be fenced.
    fn change_peers(&mut self, now: Time, old: &View, effects: &mut Vec<Effect>) {
        let dropped = lives(old).filter(|&life| !is_member(&self.view, life) && life != self.life);
        for life in dropped.collect::<Vec<_>>() {
            let peer = self.peers.remove(&life);
            let answered =
                peer.as_ref().and_then(|peer| peer.answered).filter(|_| !self.gone.contains(&life));
            // Whoever was never answered never had a lease while it counted this node.
            let fence = answered.map_or(now, |answered| answered + with_drift(self.config.lease()));
            self.fences.insert(life, fence);
            if let Some(link) = peer.and_then(|peer| peer.link) {
                self.part_with(link, effects);
            }
        }
        for life in lives(&self.view).filter(|&life| life.node != self.life.node) {
            self.peers.entry(life).or_insert_with(|| Peer::new(now));
        }
        let view = &self.view;
        self.gone.retain(|&life| is_member(view, life));
    }

    /// A view that was skipped here, and that a worker may have adopted: who is in it and not in the adopted one
    /// was never answered, or is fenced, or will be.
    fn fence_unknown(&mut self, skipped: &View, effects: &mut Vec<Effect>) {
        if skipped.number == self.view.number {
            return;
        }
        for life in lives(skipped) {
            let awaited = is_member(&self.view, life) || self.fences.contains_key(&life) || life == self.life;
            if !awaited {
                self.tell(&ToWorker::Fenced(life), effects);
            }
        }
    }

    /// Tells the workers which fences have been reached.
    pub(super) fn release_fences(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let reached: Vec<Life> =
            self.fences.iter().filter(|&(_, &fence)| now >= fence).map(|(&life, _)| life).collect();
        for life in reached {
            self.fences.remove(&life);
            effects.push(Effect::Event(Event::Fenced(life)));
            self.tell(&ToWorker::Fenced(life), effects);
        }
    }

    /// A frame has come from this life.
    pub(super) fn hear(&mut self, now: Time, from: Life) {
        let failure = self.config.failure();
        if let Some(peer) = self.peers.get_mut(&from) {
            self.news |= !peer.heard_within(now, failure);
            peer.heard = Some(now);
        }
    }

    pub(super) fn send_heartbeats(&mut self, now: Time) {
        if self.state().is_none() {
            return;
        }
        let links: Vec<LinkId> = self.peers.values().filter_map(|peer| peer.link).collect();
        for id in links {
            self.send_heartbeat(now, id);
        }
    }

    pub(super) fn send_heartbeat(&mut self, now: Time, id: LinkId) {
        if let Some(link) = self.line(id) {
            link.send(Kind::HeartbeatReq as u8, 0, |out| out.put_u64(now.0));
        }
    }

    pub(super) fn on_heartbeat(&mut self, now: Time, id: LinkId, from: Life, sent: Time) {
        if self.suspended() || self.gone.contains(&from) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        // Before it is known whether the answer leaves: it may.
        peer.answered = Some(now);
        if let Some(link) = self.line(id) {
            link.send(Kind::HeartbeatConf as u8, 0, |out| out.put_u64(sent.0));
        }
    }

    pub(super) fn on_heartbeat_conf(
        &mut self,
        now: Time,
        from: Life,
        sent: Time,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Malformed> {
        if sent > now {
            return Err(Malformed("HeartbeatConf: of a time to come"));
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.confirmed = peer.confirmed.max(Some(sent));
            self.refresh_lease(now, effects);
        }
        Ok(())
    }

    /// The buddies that the view counts.
    pub(super) fn counted_buddies(&self) -> impl Iterator<Item = Life> + '_ {
        let buddies = self.config.buddies(self.life.node);
        buddies.filter(|&node| self.view.counts(node)).filter_map(|node| self.view.member(node)).map(life)
    }

    /// Whether a former life of this node may still have been given leases that last.
    fn waits_for_former_life(&self, now: Time) -> bool {
        now < self.started + with_drift(self.config.lease())
    }

    /// Until when the workers may serve.
    fn lease_bound(&self, now: Time) -> Time {
        let may = self.level && self.stage.serves() && self.storage.is_whole();
        if !may || self.waits_for_former_life(now) || self.group_is_gone(now) {
            return Time(0);
        }
        let confirmed = |life: Life| self.peers.get(&life).and_then(|peer| peer.confirmed);
        let bounds = self
            .counted_buddies()
            .map(|life| confirmed(life).map_or(Time(0), |sent| sent + self.config.lease()));
        bounds.min().unwrap_or(Time(u64::MAX))
    }

    /// Whether no `up` member of some other group has been heard for long: no next view is possible then.
    fn group_is_gone(&self, now: Time) -> bool {
        let patience = self.config.failure() * 2;
        let own = self.config.group_of(self.life.node);
        let mut heard = vec![false; self.config.groups()];
        for member in self.view.up_members() {
            let Some(group) = self.config.group_of(member.node) else { continue };
            heard[usize::from(group.0)] |= Some(group) == own
                || self
                    .peers
                    .get(&life(member))
                    .is_some_and(|peer| peer.heard_within(now, patience) || now.since(peer.since) < patience);
        }
        heard.contains(&false)
    }

    /// Tells the workers if the lease has changed.
    pub(super) fn refresh_lease(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let bound = self.lease_bound(now);
        if bound == self.lease {
            return;
        }
        let before = std::mem::replace(&mut self.lease, bound);
        self.tell(&ToWorker::Lease(bound), effects);
        if bound < before {
            self.lease_question = self.ask(effects);
        }
        if before == Time(0) {
            effects.push(Effect::Event(Event::Serves));
        } else if bound == Time(0) {
            effects.push(Effect::Event(Event::StopsServing));
        }
    }

    pub(super) fn report(&self, now: Time) -> ReportOrd {
        // That a life has ended is for its angel to tell the leader. Left out here it would look cut off from this node,
        // and this node from it.
        let hears =
            |(life, peer): (&Life, &Peer)| peer.heard_within(now, self.config.failure()).then_some(*life);
        let ready = |life: &Life| self.view.state(life.node, life.incarnation) == Some(MemberState::Ready);
        // Who counts a buddy holds no lease any more that is longer than the buddy allows.
        let counts = self.workers.all_answered(self.lease_question);
        ReportOrd {
            life: self.life,
            workers: self.workers.count(),
            view: self.view.number,
            catalog: self.workers.catalog(),
            indexed: self.workers.indexed(),
            index_full: self.workers.is_index_full(),
            hears: self.peers.iter().filter_map(hears).collect(),
            // Its buddies serve until it is `up`: while it could not, it has no use for that.
            // And whoever reads by an index is to find it whole at any node that serves.
            copied: (self.workers.all_copied()
                && self.workers.indexed() >= self.workers.catalog()
                && self.storage.is_whole()
                && !self.waits_for_former_life(now))
            .then_some(self.view.number),
            counts: self.workers.all_count().filter(ready).filter(|_| counts).collect(),
            leaving: self.stage != Stage::Running,
            durable: self.has_durable(),
            restorable: self.storage.restorable(),
            initial: self.storage.is_initial(),
        }
    }

    /// Reports to all management nodes: in any case, or if there is something new.
    pub(super) fn send_report(&mut self, now: Time, always: bool) {
        self.news = false;
        if !self.storage.is_open() {
            return;
        }
        let report = self.report(now);
        if !always && self.reported.as_ref() == Some(&report) {
            return;
        }
        for id in self.management.values().copied().collect::<Vec<_>>() {
            if let Some(link) = self.line(id) {
                link.send_control(Kind::ReportOrd, &report);
            }
        }
        self.reported = Some(report);
    }

    /// Reports to one that has just been connected.
    pub(super) fn report_to(&mut self, now: Time, id: LinkId) {
        if !self.storage.is_open() {
            return;
        }
        let report = self.report(now);
        if let Some(link) = self.line(id) {
            link.send_control(Kind::ReportOrd, &report);
        }
    }
}

fn life(member: &twofold_proto::view::Member) -> Life {
    Life { node: member.node, incarnation: member.incarnation }
}

fn lives(view: &View) -> impl Iterator<Item = Life> + '_ {
    view.members.iter().map(life)
}

fn is_member(view: &View, life: Life) -> bool {
    view.contains(life.node, life.incarnation)
}
