//! Waiting for replicas: something happens once the links to some of them have acknowledged what was sent so far.

use std::collections::{BTreeMap, VecDeque};

use twofold_proto::{
    ids::{Epoch, PartitionId, TransactionId, ViewNumber},
    links::LinkId,
    message::{Coordinator, Life},
};

use super::{Task, slab::Slab};

/// What happens then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// The write set in this slot, with this number, is on all replicas that count.
    Confirm { slot: u32, partition: PartitionId, number: u64, view: ViewNumber },
    /// The partition's replicas know the decision.
    Decided { coordinator: Coordinator, transaction: TransactionId, partition: PartitionId },
    /// The partition's replicas have dropped what this primary lacks: a refusal is binding.
    Refused { coordinator: Coordinator, transaction: TransactionId, partition: PartitionId, deadlock: bool },
    /// All that was decided in epochs up to this one is known to all replicas, under the view.
    Marked { view: ViewNumber, epoch: Epoch },
    /// A buddy that became `ready` has all it was sent before.
    Counted { view: ViewNumber, life: Life },
}

#[derive(Debug, Default)]
struct Wait {
    left: u32,
    action: Option<Action>,
}

/// What waits for which link.
#[derive(Debug, Default)]
pub(super) struct Waits {
    waits: Slab<Wait>,
    /// By link: at which position which wait goes on, in order.
    queues: BTreeMap<LinkId, VecDeque<(u64, u32)>>,
}

impl Waits {
    /// `action` once each link has acknowledged its position. Nothing to wait for: at once, as a task.
    pub fn add(
        &mut self,
        positions: impl Iterator<Item = (LinkId, u64)>,
        action: Action,
        tasks: &mut VecDeque<Task>,
    ) {
        let mut wait = self.waits.recycled();
        *wait = Wait { left: 0, action: Some(action) };
        let slot = self.waits.insert(wait);
        let mut left = 0;
        for (link, position) in positions {
            let queue = self.queues.entry(link).or_default();
            debug_assert!(queue.back().is_none_or(|last| last.0 <= position), "positions grow");
            queue.push_back((position, slot));
            left += 1;
        }
        self.waits.get_mut(slot).expect("just inserted").left = left;
        if left == 0 {
            self.finish(slot, tasks);
        }
    }

    fn finish(&mut self, slot: u32, tasks: &mut VecDeque<Task>) {
        let wait = self.waits.remove(slot).expect("a wait in a queue exists");
        tasks.extend(wait.action.map(Task::Done));
        self.waits.recycle(wait);
    }

    fn one_less(&mut self, slot: u32, tasks: &mut VecDeque<Task>) {
        let wait = self.waits.get_mut(slot).expect("a wait in a queue exists");
        wait.left -= 1;
        if wait.left == 0 {
            self.finish(slot, tasks);
        }
    }

    /// Whether anybody waits for the link's peer.
    pub fn is_awaited(&self, link: LinkId) -> bool {
        self.queues.get(&link).is_some_and(|queue| !queue.is_empty())
    }

    /// The link's peer has processed everything up to this frame.
    pub fn acknowledged(&mut self, link: LinkId, position: u64, tasks: &mut VecDeque<Task>) {
        loop {
            let Some(queue) = self.queues.get_mut(&link) else { return };
            match queue.front() {
                Some(&(at, slot)) if at <= position => {
                    queue.pop_front();
                    self.one_less(slot, tasks);
                }
                _ => return,
            }
        }
    }

    /// The link is gone with its peer: nobody waits for it any more.
    pub fn link_gone(&mut self, link: LinkId, tasks: &mut VecDeque<Task>) {
        for (_, slot) in self.queues.remove(&link).into_iter().flatten() {
            self.one_less(slot, tasks);
        }
    }
}
