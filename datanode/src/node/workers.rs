//! What the workers of this node have said.

use std::collections::BTreeSet;

use twofold_proto::{
    ids::{Epoch, WorkerId},
    message::Life,
};

/// What one worker has said.
#[derive(Debug, Default)]
struct Said {
    /// The newest question that it answered.
    answered: u64,
    /// How many ticks it has owed an answer.
    silent_ticks: u32,
    catalog: u64,
    indexed: u64,
    index_full: bool,
    durable: Epoch,
    /// Under the adopted view:
    copied: bool,
    counts: BTreeSet<Life>,
    done: Option<Epoch>,
}

/// What all have said.
#[derive(Debug)]
pub(super) struct Workers {
    said: Vec<Said>,
    asked: u64,
}

impl Workers {
    /// This many workers that have said nothing.
    pub(super) fn new(workers: u16) -> Workers {
        assert!(workers > 0, "a data node has workers");
        Workers { said: (0..workers).map(|_| Said::default()).collect(), asked: 0 }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = WorkerId> + use<> {
        (0..self.count()).map(WorkerId)
    }

    pub(super) fn count(&self) -> u16 {
        self.said.len() as u16
    }

    fn of(&mut self, worker: WorkerId) -> &mut Said {
        let count = self.said.len();
        self.said
            .get_mut(usize::from(worker.0))
            .unwrap_or_else(|| panic!("worker {worker} speaks, of {count}"))
    }

    /// The number of a new question.
    pub(super) fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    pub(super) fn answered(&mut self, worker: WorkerId, question: u64) {
        let asked = self.asked;
        assert!(question <= asked, "worker {worker} answers question {question} of {asked}");
        let said = self.of(worker);
        if question > said.answered {
            said.answered = question;
            said.silent_ticks = 0;
        }
    }

    /// Whether all have read everything that they were told before this question.
    pub(super) fn all_answered(&self, question: u64) -> bool {
        self.said.iter().all(|said| said.answered >= question)
    }

    /// A tick has passed. Silence is counted in ticks of this machine, not in time: when the whole process stood
    /// still, nobody was silent.
    pub(super) fn tick(&mut self) {
        for said in &mut self.said {
            if said.answered < self.asked {
                said.silent_ticks += 1;
            }
        }
    }

    /// For how many ticks the most silent worker has not answered.
    pub(super) fn silence(&self) -> u32 {
        self.said.iter().map(|said| said.silent_ticks).max().unwrap_or(0)
    }

    /// The most silent worker.
    pub(super) fn most_silent(&self) -> WorkerId {
        let silence = self.silence();
        let place = self.said.iter().position(|said| said.silent_ticks == silence);
        WorkerId(place.unwrap_or(0) as u16)
    }

    /// A new view is adopted: what was said under the last one does not count.
    pub(super) fn begin_view(&mut self) {
        for said in &mut self.said {
            said.copied = false;
            said.counts.clear();
            said.done = None;
        }
    }

    pub(super) fn has_catalog(&mut self, worker: WorkerId, version: u64) {
        let said = self.of(worker);
        said.catalog = said.catalog.max(version);
    }

    pub(super) fn has_indexes(&mut self, worker: WorkerId, built: u64, full: bool) {
        let said = self.of(worker);
        (said.indexed, said.index_full) = (built, full);
    }

    pub(super) fn has_copied(&mut self, worker: WorkerId) {
        self.of(worker).copied = true;
    }

    pub(super) fn counts(&mut self, worker: WorkerId, life: Life) {
        self.of(worker).counts.insert(life);
    }

    pub(super) fn is_done(&mut self, worker: WorkerId, epoch: Epoch) {
        let said = self.of(worker);
        said.done = said.done.max(Some(epoch));
    }

    pub(super) fn has_on_disk(&mut self, worker: WorkerId, epoch: Epoch) {
        let said = self.of(worker);
        said.durable = said.durable.max(epoch);
    }

    /// The newest epoch of which all have everything on disk.
    pub(super) fn durable(&self) -> Epoch {
        self.said.iter().map(|said| said.durable).min().unwrap_or_default()
    }

    /// The newest version of the catalog that all have.
    pub(super) fn catalog(&self) -> u64 {
        self.said.iter().map(|said| said.catalog).min().unwrap_or(0)
    }

    /// The newest version of the catalog whose indexes all have built.
    pub(super) fn indexed(&self) -> u64 {
        self.said.iter().map(|said| said.indexed).min().unwrap_or(0)
    }

    /// Whether one has no memory to build an index on.
    pub(super) fn is_index_full(&self) -> bool {
        self.said.iter().any(|said| said.index_full)
    }

    /// Whether all have copied all their partitions.
    pub(super) fn all_copied(&self) -> bool {
        self.said.iter().all(|said| said.copied)
    }

    /// The lives that all count.
    pub(super) fn all_count(&self) -> impl Iterator<Item = Life> + '_ {
        let (first, others) = self.said.split_first().expect("a data node has workers");
        let all = |life: &Life| others.iter().all(|said| said.counts.contains(life));
        first.counts.iter().copied().filter(all)
    }

    /// The newest epoch that all are done with.
    pub(super) fn done(&self) -> Option<Epoch> {
        self.said.iter().map(|said| said.done).min().flatten()
    }
}
