//! How a node ends: it leaves the view, its workers stop serving, it says goodbye.

use twofold_proto::{
    error::ErrorCode,
    ids::Epoch,
    limits::DATA_NODES_MAX,
    links::LinkId,
    message::{GoneOrd, Kind, Life, StopOrd},
    time::Time,
    view::MemberState,
};

use super::{Effect, Event, Node};

/// How the process is to end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Exit {
    pub(super) restart: bool,
    pub(super) refused: bool,
    pub(super) reason: String,
}

/// How far a node is on its way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Not at all.
    Running,
    /// It asks the leader for a view without it.
    Leaving { until: Time, exit: Exit },
    /// The workers are told that there is no lease, and then asked this. `flush`: nobody else stays to keep what it has.
    Quiescing { question: u64, flush: bool, until: Time, exit: Exit },
    /// It waits until all that was committed is on disk: anywhere if all others stop as well, from `alone` on up to this epoch.
    Flushing { epoch: Epoch, alone: Time, durable: Epoch, until: Time, exit: Exit },
    /// The goodbye is in these frames of these links.
    Parting { awaited: Vec<(LinkId, u64)>, until: Time, exit: Exit },
    /// [`Effect::Exit`] was emitted.
    Ended,
}

impl Stage {
    /// Whether its workers may have a lease.
    pub(super) fn serves(&self) -> bool {
        matches!(self, Stage::Running | Stage::Leaving { .. })
    }

    /// Whether its workers have said that they serve no more.
    pub(super) fn has_stopped(&self) -> bool {
        matches!(self, Stage::Flushing { .. } | Stage::Parting { .. } | Stage::Ended)
    }

    /// When it is over at the latest.
    pub(super) fn until(&self) -> Option<Time> {
        match self {
            Stage::Leaving { until, .. }
            | Stage::Quiescing { until, .. }
            | Stage::Flushing { until, .. }
            | Stage::Parting { until, .. } => Some(*until),
            Stage::Running | Stage::Ended => None,
        }
    }
}

impl Node {
    pub(super) fn is_running(&self) -> bool {
        self.stage == Stage::Running
    }

    pub(super) fn has_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    pub(super) fn on_stop(&mut self, now: Time, graceful: bool, effects: &mut Vec<Effect>) {
        let exit = Exit { restart: false, refused: false, reason: "asked to stop".into() };
        if graceful && self.stage == Stage::Running {
            self.leave(now, exit, effects);
        } else {
            self.depart(now, exit, effects);
        }
    }

    /// The leader's word that this life may not join, or is to stop.
    pub(super) fn on_stop_ord(
        &mut self,
        now: Time,
        StopOrd { life, restart, error }: StopOrd,
        effects: &mut Vec<Effect>,
    ) {
        if life == self.life && self.stage == Stage::Running {
            let refused = error.code == ErrorCode::JoinRefused;
            // Who asked for it needs no advice what to do about it.
            let reason = if refused { error.to_string() } else { error.text };
            self.leave(now, Exit { restart, refused, reason }, effects);
        }
    }

    /// A life of a data node is said to be provably gone.
    pub(super) fn on_gone(&mut self, now: Time, life: Life, effects: &mut Vec<Effect>) {
        if life == self.life {
            // Somebody else is about to serve in its place.
            return self.part(now, "taken for ended", effects);
        }
        if let Some(fence) = self.fences.get_mut(&life) {
            *fence = now;
            self.release_fences(now, effects);
        } else if self.gone.len() < 2 * DATA_NODES_MAX {
            self.gone.insert(life);
            self.news = true;
        }
    }

    /// Leaves for a new life.
    pub(super) fn part(&mut self, now: Time, reason: &str, effects: &mut Vec<Effect>) {
        self.depart(now, Exit { restart: true, refused: false, reason: reason.into() }, effects);
    }

    /// Asks for a view without this node. The last of its group gets none; it waits as long, and then ends all the
    /// same: whoever ends all processes of a cluster must not have to kill them.
    pub(super) fn leave(&mut self, now: Time, exit: Exit, effects: &mut Vec<Effect>) {
        if self.state().is_none() {
            return self.depart(now, exit, effects);
        }
        effects.push(Effect::Event(Event::Leaves { reason: exit.reason.clone() }));
        self.stage = Stage::Leaving { until: now + self.config.failure() * 4, exit };
        self.news = true;
    }

    /// Stops serving, says goodbye and ends.
    fn depart(&mut self, now: Time, exit: Exit, effects: &mut Vec<Effect>) {
        self.quiesce(now, exit, false, effects);
    }

    fn quiesce(&mut self, now: Time, exit: Exit, flush: bool, effects: &mut Vec<Effect>) {
        let exit = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Running => exit,
            // It was asked to leave, whatever came then.
            Stage::Leaving { exit, .. } => exit,
            other => {
                self.stage = other;
                return;
            }
        };
        // While the stage is neither of these two there is no lease.
        self.refresh_lease(now, effects);
        let question = self.ask(effects);
        self.stage = Stage::Quiescing { question, flush, until: now + self.config.failure(), exit };
        self.news = true;
    }

    /// Takes the next step on the way out if it is due.
    pub(super) fn go_on_leaving(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if let Stage::Flushing { durable, until, .. } = &mut self.stage
            && self.epochs.durable > *durable
        {
            // A slow disk is waited for, one that does nothing is not.
            (*durable, *until) = (self.epochs.durable, now + self.config.failure() * 10);
        }
        match &self.stage {
            Stage::Running | Stage::Ended => {}
            Stage::Leaving { until, exit } => {
                if now >= *until {
                    let exit = exit.clone();
                    self.quiesce(now, exit, true, effects);
                }
            }
            Stage::Quiescing { question, flush, until, exit } => {
                let exit = exit.clone();
                if self.workers.all_answered(*question) {
                    let is_up = self.state() == Some(MemberState::Up);
                    let (alone, until) = match *flush && is_up && self.storage.is_writing() {
                        true => (now + self.config.failure(), now + self.config.failure() * 10),
                        false => (now, now),
                    };
                    let super::epochs::Epochs { epoch, durable, .. } = self.epochs;
                    self.stage = Stage::Flushing { epoch, alone, durable, until, exit };
                    self.news = true;
                    self.go_on_leaving(now, effects);
                } else if now >= *until {
                    // Without a goodbye: a worker may think that it serves.
                    self.exit(exit, effects);
                }
            }
            Stage::Flushing { epoch, alone, until, exit, .. } => {
                let is_durable = match self.epochs.last {
                    true => self.epochs.durable.next() >= self.epochs.epoch,
                    false => now >= *alone && self.epochs.durable >= *epoch,
                };
                if is_durable || now >= *until {
                    let exit = exit.clone();
                    let awaited = self.say_goodbye();
                    self.stage = Stage::Parting { awaited, until: now + self.config.failure(), exit };
                    self.go_on_leaving(now, effects);
                }
            }
            Stage::Parting { awaited, until, exit } => {
                let arrived = |(link, position): &(LinkId, u64)| {
                    self.links
                        .get(*link)
                        .is_none_or(|link| !link.is_connected() || link.acknowledged() >= *position)
                };
                if now >= *until || awaited.iter().all(arrived) {
                    let exit = exit.clone();
                    self.exit(exit, effects);
                }
            }
        }
    }

    /// Tells everyone that this life has ended: its workers serve no more.
    fn say_goodbye(&mut self) -> Vec<(LinkId, u64)> {
        let gone = GoneOrd { life: self.life };
        let mut awaited = Vec::new();
        // To a peer it says that this member of its view has ended; whoever knows that it is none reads nothing more.
        let peers = self.peers.values().filter_map(|peer| peer.link).filter(|_| self.state().is_some());
        for id in self.management.values().copied().chain(peers).collect::<Vec<_>>() {
            if let Some(link) = self.line(id) {
                link.send_control(Kind::GoneOrd, &gone);
                link.want_acknowledgement();
                awaited.push((id, link.position()));
            }
        }
        awaited
    }

    pub(super) fn exit(&mut self, Exit { restart, refused, reason }: Exit, effects: &mut Vec<Effect>) {
        self.lease = Time(0);
        self.stage = Stage::Ended;
        effects.push(Effect::Exit { restart, refused, reason });
    }
}
