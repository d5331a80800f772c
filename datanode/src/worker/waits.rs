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

/// What waits for several links: for so many yet.
#[derive(Debug, Default)]
struct Shared {
    left: u32,
    action: Option<Action>,
}

/// Something that waits for a link.
#[derive(Debug)]
enum Wait {
    /// For this one alone, as most do: it is kept in the queue.
    Alone(Action),
    /// For others too; the slot.
    Shared(u32),
}

/// What waits for which link.
#[derive(Debug, Default)]
pub(super) struct Waits {
    shared: Slab<Shared>,
    queues: BTreeMap<LinkId, Queue>,
}

/// What waits for a link.
#[derive(Debug, Default)]
struct Queue {
    /// What goes on at which position, in order.
    waits: VecDeque<(u64, Wait)>,
    /// The position up to which the peer was last asked for its acknowledgement.
    asked: u64,
}

impl Waits {
    /// `action` once each link has acknowledged its position. Nothing to wait for: at once, as a task.
    pub fn add(
        &mut self,
        mut positions: impl Iterator<Item = (LinkId, u64)>,
        action: Action,
        tasks: &mut VecDeque<Task>,
    ) {
        let Some(first) = positions.next() else { return tasks.push_back(Task::Done(action)) };
        let Some(second) = positions.next() else { return self.enqueue(first, Wait::Alone(action)) };
        let slot = self.shared.insert(Box::new(Shared { left: 0, action: Some(action) }));
        let mut left = 0;
        for position in [first, second].into_iter().chain(positions) {
            self.enqueue(position, Wait::Shared(slot));
            left += 1;
        }
        self.shared.get_mut(slot).expect("just inserted").left = left;
    }

    fn enqueue(&mut self, (link, position): (LinkId, u64), wait: Wait) {
        let queue = &mut self.queues.entry(link).or_default().waits;
        debug_assert!(queue.back().is_none_or(|last| last.0 <= position), "positions grow");
        queue.push_back((position, wait));
    }

    /// Whether anybody waits for what the link's peer was not asked to acknowledge at once; from now on it was.
    pub fn ask(&mut self, link: LinkId) -> bool {
        let Some(queue) = self.queues.get_mut(&link) else { return false };
        let Some(&(last, _)) = queue.waits.back() else { return false };
        std::mem::replace(&mut queue.asked, last) < last
    }

    /// The link's peer has processed everything up to this frame.
    pub fn acknowledged(&mut self, link: LinkId, position: u64, tasks: &mut VecDeque<Task>) {
        let Some(queue) = self.queues.get_mut(&link) else { return };
        while let Some((_, wait)) = queue.waits.pop_front_if(|(at, _)| *at <= position) {
            tasks.extend(over(&mut self.shared, wait).map(Task::Done));
        }
    }

    /// The link is gone with its peer: nobody waits for it any more.
    pub fn link_gone(&mut self, link: LinkId, tasks: &mut VecDeque<Task>) {
        for (_, wait) in self.queues.remove(&link).into_iter().flat_map(|queue| queue.waits) {
            tasks.extend(over(&mut self.shared, wait).map(Task::Done));
        }
    }
}

/// A wait for one link is over: what goes on, if it was the last.
fn over(shared: &mut Slab<Shared>, wait: Wait) -> Option<Action> {
    let slot = match wait {
        Wait::Alone(action) => return Some(action),
        Wait::Shared(slot) => slot,
    };
    let wait = shared.get_mut(slot).expect("a wait in a queue exists");
    wait.left -= 1;
    if wait.left > 0 {
        return None;
    }
    shared.remove(slot)?.action
}
