//! What the node has to do with its disk: what is restored, and when the disk counts. See `docs/disk.md`.

use twofold_proto::{
    ids::Epoch,
    message::{Catalog, RegisterConf, Restorable},
    time::Time,
    view::{MemberState, View},
};

use super::{Effect, Event, Node, departure::Exit};
use crate::disk::{Found, Horizon, ToDisk, Word};

/// How far the disk is.
#[derive(Debug, Default)]
enum Stage {
    /// What stands there is being looked through. Until then the node reports to nobody.
    #[default]
    Opening,
    /// This was found.
    Found(Option<Found>),
    /// Nothing of it is to be restored.
    Initial,
    /// It is being loaded, or removed.
    Restoring,
    Running,
    /// Nothing can be written, and why.
    Failed(String),
}

/// The disk, as the node knows it.
#[derive(Debug, Default)]
pub(super) struct Storage {
    stage: Stage,
    /// The manifest says that what stands on disk is this life's, and whole.
    whole: bool,
    /// It was asked to say so.
    asked: bool,
    congested: bool,
    /// What was copied is of this epoch at the latest: an older state of the cluster is not here.
    oldest: Epoch,
    /// What the life whose data this was knew of the register.
    remembered: (View, Catalog),
}

impl Storage {
    /// Whether it is known what can be restored.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Opening)
    }

    /// Whether all that this life has to hold is on disk, and the disk says so.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether what is committed gets to disk.
    pub(super) fn is_writing(&self) -> bool {
        matches!(self.stage, Stage::Running)
    }

    pub(super) fn is_congested(&self) -> bool {
        self.congested
    }

    pub(super) fn is_initial(&self) -> bool {
        matches!(self.stage, Stage::Initial)
    }

    pub(super) fn restorable(&self) -> Option<Restorable> {
        let Stage::Found(found) = &self.stage else { return None };
        let (view, catalog) = &self.remembered;
        found.as_ref().map(|found| Restorable {
            life: found.life,
            complete: found.complete,
            view: view.number,
            catalog: catalog.version,
        })
    }
}

impl Node {
    pub(super) fn on_disk(&mut self, now: Time, word: Word, effects: &mut Vec<Effect>) {
        match word {
            Word::Found(found) => {
                if let Some(found) = &found {
                    self.storage.remembered = (found.view.clone(), found.catalog.clone());
                }
                self.storage.stage = Stage::Found(found);
                self.restore(effects);
            }
            Word::Initial => {
                self.storage.stage = Stage::Initial;
                self.restore(effects);
            }
            Word::Damaged(text) => {
                effects.push(Effect::Event(Event::Damaged(text)));
                self.storage.stage = Stage::Found(None);
                self.restore(effects);
            }
            Word::Restored => {
                self.storage.stage = Stage::Running;
                self.remember(effects);
            }
            Word::Remembered(life) => {
                self.storage.whole |= life == self.life.incarnation;
                self.refresh_lease(now, effects);
            }
            Word::Congested(congested) => self.storage.congested = congested,
            Word::Failed(text) => self.on_disk_failed(now, text, effects),
        }
        self.news = true;
    }

    /// The first view with this life says what is to be loaded: all up to the epoch that the cluster went back to, or nothing.
    pub(super) fn restore(&mut self, effects: &mut Vec<Effect>) {
        let Some(state) = self.state() else { return };
        let found = match &self.storage.stage {
            Stage::Found(found) => found.as_ref(),
            Stage::Initial => None,
            _ => return,
        };
        let complete = found.map_or(Epoch::default(), |found| found.complete);
        let limit = match state {
            MemberState::Up => {
                let cut = self.view.cuts.last().filter(|cut| cut.restart == self.view.restart);
                let limit = cut.map_or(Epoch::default(), |cut| cut.epoch);
                assert!(complete >= limit, "{complete} is on disk, and the cluster goes back to {limit}");
                limit
            }
            // All that it has, up to the first restart that went back behind it. What is newer is copied. It may be of a cluster
            // that was given up when the register was rebuilt.
            MemberState::Syncing | MemberState::Ready => {
                let counts = self.view.knows_cuts_since(complete)
                    && self.view.descends_from(self.storage.remembered.0.number);
                if counts { self.view.last_kept(complete) } else { Epoch::default() }
            }
        };
        let horizon = (limit > Epoch::default()).then(|| Horizon { limit, view: self.view.clone() });
        self.storage.stage = Stage::Restoring;
        effects.push(Effect::Disk(ToDisk::Restore(horizon)));
    }

    /// Whether it has ever been in a view, as far as it remembers.
    pub fn took_part(&self) -> bool {
        self.state().is_some() || self.storage.restorable().is_some()
    }

    /// What this node knows of the register, for one that is to be rebuilt.
    pub(super) fn known_register(&self) -> RegisterConf {
        let (view, catalog) = &self.storage.remembered;
        let view = if view.number > self.view.number { view } else { &*self.view };
        let newer = self.catalog.as_deref().filter(|known| known.version >= catalog.version);
        RegisterConf {
            view: view.clone(),
            catalog: newer.unwrap_or(catalog).clone(),
            took_part: self.took_part(),
            config: (*self.config).clone(),
        }
    }

    /// Has the disk remember what was adopted, once what it has is whole.
    pub(super) fn remember(&mut self, effects: &mut Vec<Effect>) {
        let whole = self.state() == Some(MemberState::Up) || self.workers.all_copied();
        if !self.storage.is_writing() || !(whole || self.storage.asked) {
            return;
        }
        self.storage.asked = true;
        let (view, catalog) = (self.view.clone(), self.catalog.clone().unwrap_or_default());
        effects.push(Effect::Disk(ToDisk::Remember { view, catalog }));
    }

    /// A worker has copied everything: once all have, the disk is to say so.
    pub(super) fn on_copied(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        self.storage.oldest = self.storage.oldest.max(epoch);
        if !self.storage.asked {
            self.remember(effects);
        }
    }

    /// The newest epoch that is on its disk, whole, as this life's.
    pub(super) fn own_durable(&self) -> Epoch {
        if self.storage.whole { self.workers.durable() } else { Epoch::default() }
    }

    /// Whether the cluster could restart from this disk: what is durable elsewhere is so here, as far as the president has said under
    /// this view, and it would not have to go back further than it can here.
    pub(super) fn has_durable(&self) -> bool {
        let (own, durable) = (self.own_durable(), self.epochs.durable);
        own > Epoch::default()
            && self.epochs.ordered == self.view.number
            && (self.storage.oldest..=own).contains(&durable)
    }

    /// Tells the disk what is durable in the cluster, as far as it is here.
    pub(super) fn tell_durable(&self, effects: &mut Vec<Effect>) {
        let durable = self.epochs.durable.min(self.workers.durable());
        if self.storage.is_writing() && durable > Epoch::default() {
            effects.push(Effect::Disk(ToDisk::Durable(durable)));
        }
    }

    /// Rather leave than lie. The last of its group stays: nothing becomes durable any more, so writes are refused.
    fn on_disk_failed(&mut self, now: Time, text: String, effects: &mut Vec<Effect>) {
        effects.push(Effect::Event(Event::DiskFailed(text.clone())));
        self.storage.stage = Stage::Failed(text);
        self.leave_disk(now, effects);
    }

    /// Leaves if nothing can be written, as soon as another one of the group has the rows.
    pub(super) fn leave_disk(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if let Stage::Failed(reason) = &self.storage.stage
            && self.is_running()
            && !self.is_last_of_group()
        {
            let exit = Exit { restart: true, refused: false, reason: reason.clone() };
            self.leave(now, exit, effects);
        }
    }
}
