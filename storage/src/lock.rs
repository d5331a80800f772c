//! Locks on keys, missing keys too, of one worker. Shared or exclusive, granted in the order of age.
//!
//! The rule is wound-wait (Rosenkrantz, Stearns and Lewis, «System level concurrency control for distributed database
//! systems», 1978): who is older takes the lock away from younger holders, unless they are prepared; who is younger
//! waits. Waiters stand in the order of age, so nobody waits for a younger one, but for prepared holders, which end
//! without needing any lock. Hence no deadlock.

use hashbrown::HashTable;
use smallvec::SmallVec;
use twofold_proto::{
    ids::{PartitionId, TableId, TransactionId},
    prefetch,
};

/// How a key is locked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// Compatible with other shared locks.
    Shared,
    /// Compatible with nothing.
    Exclusive,
}

/// Whose lock: the slot of the worker's local transaction.
pub type Owner = u32;

/// When the transaction began, and its id to break ties: the smaller is older.
pub type Age = (u64, TransactionId);

/// A lock that exists; valid until its last holder, waiter and observer has left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LockId(u32);

/// Which key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockKey<'a> {
    /// Its table.
    pub table: TableId,
    /// Its partition.
    pub partition: PartitionId,
    /// Its tag in the hash index.
    pub tag: u32,
    /// Its encoding.
    pub key: &'a [u8],
}

/// The answer to a request for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acquired {
    /// It is held now, in this mode or a stronger one.
    Granted(LockId),
    /// The request stands in the queue.
    Waits(LockId),
    /// This younger holder is in the way: wound it, then ask again.
    Wound(Owner),
}

/// What a change let through; the caller owns the buffer and reuses it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Woken {
    /// Waiters that hold the lock now.
    pub granted: Vec<(LockId, Owner)>,
    /// Tickets of observers of a lock that is exclusive no more.
    pub observers: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Holder {
    owner: Owner,
    mode: Mode,
    age: Age,
    prepared: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Waiter {
    owner: Owner,
    mode: Mode,
    age: Age,
}

/// Those who wait for a lock.
#[derive(Debug, Default)]
struct Queue {
    /// By age, the oldest first.
    waiters: Vec<Waiter>,
    observers: Vec<u64>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.waiters.is_empty() && self.observers.is_empty()
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Lock {
    table: TableId,
    partition: PartitionId,
    tag: u32,
    key: SmallVec<[u8; 24]>,
    holders: SmallVec<[Holder; 1]>,
    /// Who wants to know of it, if anybody does: of most locks nobody.
    queue: Option<Box<Queue>>,
    /// The exclusive holder's newest pending write of the key, in the caller's numbering.
    pending: Option<u32>,
}

impl Lock {
    fn is(&self, key: &LockKey<'_>) -> bool {
        self.tag == key.tag && self.table == key.table && self.key[..] == *key.key
    }

    fn prefetch(&self) {
        prefetch::line(&self.tag);
        prefetch::line(&self.holders);
        prefetch::line(&self.queue);
        prefetch::line(&self.key);
        prefetch::line(&self.pending);
    }

    fn is_unused(&self) -> bool {
        self.holders.is_empty() && self.queue.as_ref().is_none_or(|queue| queue.is_empty())
    }

    fn waiters(&self) -> &[Waiter] {
        self.queue.as_ref().map_or(&[], |queue| &queue.waiters)
    }

    fn queue(&mut self) -> &mut Queue {
        self.queue.get_or_insert_default()
    }

    fn compatible(&self, owner: Owner, mode: Mode) -> bool {
        self.holders
            .iter()
            .all(|holder| holder.owner == owner || (mode == Mode::Shared && holder.mode == Mode::Shared))
    }
}

/// The locks of one worker.
#[derive(Debug, Default)]
pub struct LockTable {
    index: HashTable<u32>,
    locks: Vec<Lock>,
    free: Vec<u32>,
}

fn hash(table: TableId, tag: u32) -> u64 {
    (u64::from(table.0) << 32 | u64::from(tag)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl LockTable {
    /// No locks.
    pub fn new() -> LockTable {
        LockTable::default()
    }

    /// How many keys are locked, waited for or observed.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The lock on a key, if there is one.
    #[inline]
    pub fn find(&self, key: &LockKey<'_>) -> Option<LockId> {
        if self.index.is_empty() {
            return None;
        }
        let found = self.index.find(hash(key.table, key.tag), |&slot| self.locks[slot as usize].is(key));
        found.map(|&slot| LockId(slot))
    }

    fn create(&mut self, key: &LockKey<'_>) -> LockId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.locks.push(Lock::default());
            (self.locks.len() - 1) as u32
        });
        let lock = &mut self.locks[slot as usize];
        assert!(lock.is_unused(), "a lock in use was free: {lock:?}");
        (lock.table, lock.partition, lock.tag, lock.pending) = (key.table, key.partition, key.tag, None);
        lock.key.clear();
        lock.key.extend_from_slice(key.key);
        let locks = &self.locks;
        self.index.insert_unique(hash(key.table, key.tag), slot, |&other| {
            let other = &locks[other as usize];
            hash(other.table, other.tag)
        });
        LockId(slot)
    }

    /// Has these locks brought into the cache.
    pub fn prefetch(&self, locks: impl Iterator<Item = LockId>) {
        locks.for_each(|id| self.locks[id.0 as usize].prefetch());
    }

    /// Likewise those that the next keys will have, but for so many: so many.
    pub fn prefetch_free(&self, skip: usize, count: usize) {
        self.prefetch(self.free.iter().rev().skip(skip).take(count).map(|&slot| LockId(slot)));
    }

    /// Asks for a lock. An owner has at most one request waiting.
    pub fn acquire(&mut self, key: &LockKey<'_>, owner: Owner, mode: Mode, age: Age) -> Acquired {
        let id = self.find(key).unwrap_or_else(|| self.create(key));
        let lock = &mut self.locks[id.0 as usize];
        if lock.holders.iter().any(|holder| holder.owner == owner && holder.mode >= mode) {
            return Acquired::Granted(id);
        }
        let in_the_way = |holder: &&Holder| {
            holder.owner != owner && (mode == Mode::Exclusive || holder.mode == Mode::Exclusive)
        };
        if let Some(younger) =
            lock.holders.iter().filter(in_the_way).find(|holder| !holder.prepared && age < holder.age)
        {
            return Acquired::Wound(younger.owner);
        }
        let older_waits = lock
            .waiters()
            .iter()
            .any(|waiter| waiter.age < age && (mode == Mode::Exclusive || waiter.mode == Mode::Exclusive));
        if !older_waits && lock.compatible(owner, mode) {
            Self::hold(lock, owner, mode, age);
            return Acquired::Granted(id);
        }
        let waiters = &mut lock.queue().waiters;
        let place = waiters.partition_point(|waiter| waiter.age < age);
        waiters.insert(place, Waiter { owner, mode, age });
        Acquired::Waits(id)
    }

    fn hold(lock: &mut Lock, owner: Owner, mode: Mode, age: Age) {
        match lock.holders.iter_mut().find(|holder| holder.owner == owner) {
            Some(holder) => holder.mode = holder.mode.max(mode),
            None => lock.holders.push(Holder { owner, mode, age, prepared: false }),
        }
    }

    /// Takes a lock for a transaction that is prepared already: after a change of the primary, before anybody else.
    ///
    /// # Panics
    /// Panics if somebody holds it.
    pub fn hold_prepared(&mut self, key: &LockKey<'_>, owner: Owner, age: Age, pending: u32) -> LockId {
        let id = self.find(key).unwrap_or_else(|| self.create(key));
        let lock = &mut self.locks[id.0 as usize];
        assert!(
            lock.holders.is_empty(),
            "two prepared transactions write one key: {lock:?}, {owner} {age:?}"
        );
        lock.holders.push(Holder { owner, mode: Mode::Exclusive, age, prepared: true });
        lock.pending = Some(pending);
        id
    }

    /// From now on the owner's hold cannot be wounded.
    pub fn set_prepared(&mut self, id: LockId, owner: Owner) {
        let lock = &mut self.locks[id.0 as usize];
        let holder = lock.holders.iter_mut().find(|holder| holder.owner == owner);
        holder.expect("only a holder prepares").prepared = true;
    }

    /// Gives the owner's hold up, and says who can go on.
    pub fn release(&mut self, id: LockId, owner: Owner, woken: &mut Woken) {
        let lock = &mut self.locks[id.0 as usize];
        let Some(place) = lock.holders.iter().position(|holder| holder.owner == owner) else { return };
        let holder = lock.holders.swap_remove(place);
        if holder.mode == Mode::Exclusive {
            lock.pending = None;
            if let Some(queue) = &mut lock.queue {
                woken.observers.append(&mut queue.observers);
            }
        }
        self.grant(id, woken);
    }

    /// Takes the owner's request out of the queue, if it is there, and says who can go on.
    pub fn cancel(&mut self, id: LockId, owner: Owner, woken: &mut Woken) {
        let lock = &mut self.locks[id.0 as usize];
        let Some(place) = lock.waiters().iter().position(|waiter| waiter.owner == owner) else { return };
        lock.queue().waiters.remove(place);
        self.grant(id, woken);
    }

    fn grant(&mut self, id: LockId, woken: &mut Woken) {
        let lock = &mut self.locks[id.0 as usize];
        while let Some(&Waiter { owner, mode, age }) = lock.waiters().first() {
            if !lock.compatible(owner, mode) {
                break;
            }
            lock.queue().waiters.remove(0);
            Self::hold(lock, owner, mode, age);
            woken.granted.push((id, owner));
        }
        if lock.is_unused() {
            lock.queue = None;
            let entry = self.index.find_entry(hash(lock.table, lock.tag), |&slot| slot == id.0);
            entry.expect("every lock is indexed").remove();
            self.free.push(id.0);
        }
    }

    /// The exclusive holder, and whether it is prepared.
    pub fn exclusive(&self, id: LockId) -> Option<(Owner, bool)> {
        let lock = &self.locks[id.0 as usize];
        lock.holders.iter().find(|holder| holder.mode == Mode::Exclusive).map(|h| (h.owner, h.prepared))
    }

    /// A ticket that comes back in [`Woken::observers`] when the exclusive holder releases the lock.
    pub fn observe(&mut self, id: LockId, ticket: u64) {
        self.locks[id.0 as usize].queue().observers.push(ticket);
    }

    /// The exclusive holder's newest pending write of the key.
    pub fn pending(&self, id: LockId) -> Option<u32> {
        self.locks[id.0 as usize].pending
    }

    /// Sets it.
    pub fn set_pending(&mut self, id: LockId, pending: Option<u32>) {
        self.locks[id.0 as usize].pending = pending;
    }

    /// Which key is locked.
    pub fn key(&self, id: LockId) -> LockKey<'_> {
        let lock = &self.locks[id.0 as usize];
        LockKey { table: lock.table, partition: lock.partition, tag: lock.tag, key: &lock.key }
    }

    /// Panics where an invariant is broken.
    pub fn check(&self) {
        let live = self.locks.iter().filter(|lock| !lock.is_unused());
        assert_eq!(live.clone().count(), self.index.len(), "locks in use are those in the index");
        for lock in live {
            let exclusive = lock.holders.iter().any(|holder| holder.mode == Mode::Exclusive);
            assert!(!exclusive || lock.holders.len() == 1, "an exclusive lock is shared: {lock:?}");
            assert!(lock.waiters().is_sorted_by_key(|waiter| waiter.age), "waiters out of age: {lock:?}");
            for waiter in lock.waiters() {
                let compatible = |holder: &Holder| {
                    holder.owner == waiter.owner
                        || holder.age < waiter.age
                        || holder.prepared
                        || (holder.mode == Mode::Shared && waiter.mode == Mode::Shared)
                };
                assert!(lock.holders.iter().all(compatible), "waits for a younger one: {lock:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use twofold_proto::random::Random;

    use super::*;

    const KEY: LockKey<'_> = LockKey { table: TableId(1), partition: PartitionId(2), tag: 7, key: b"k" };

    fn age(n: u64) -> Age {
        (n, TransactionId::default())
    }

    #[test]
    fn shared_locks_go_together_and_exclusive_ones_alone() {
        let mut locks = LockTable::new();
        let Acquired::Granted(id) = locks.acquire(&KEY, 1, Mode::Shared, age(1)) else { panic!() };
        assert_eq!(locks.acquire(&KEY, 2, Mode::Shared, age(2)), Acquired::Granted(id));
        assert_eq!(locks.acquire(&KEY, 3, Mode::Exclusive, age(3)), Acquired::Waits(id));
        assert_eq!(
            locks.acquire(&KEY, 4, Mode::Shared, age(4)),
            Acquired::Waits(id),
            "behind an older waiter"
        );
        let mut woken = Woken::default();
        locks.release(id, 1, &mut woken);
        assert_eq!(woken, Woken::default());
        locks.release(id, 2, &mut woken);
        assert_eq!(woken.granted, [(id, 3)]);
        locks.release(id, 3, &mut woken);
        locks.release(id, 4, &mut woken);
        assert!(locks.is_empty());
        locks.check();
    }

    #[test]
    fn the_older_wounds_and_a_prepared_holder_is_waited_for() {
        let mut locks = LockTable::new();
        let Acquired::Granted(id) = locks.acquire(&KEY, 9, Mode::Exclusive, age(9)) else { panic!() };
        assert_eq!(locks.acquire(&KEY, 5, Mode::Shared, age(5)), Acquired::Wound(9));
        locks.set_prepared(id, 9);
        assert_eq!(locks.acquire(&KEY, 5, Mode::Shared, age(5)), Acquired::Waits(id));
        assert_eq!(locks.acquire(&KEY, 3, Mode::Exclusive, age(3)), Acquired::Waits(id));
        locks.observe(id, 77);
        let mut woken = Woken::default();
        locks.release(id, 9, &mut woken);
        assert_eq!((woken.granted, woken.observers), (vec![(id, 3)], vec![77]), "the oldest first");
    }

    #[test]
    fn a_shared_holder_upgrades_when_alone() {
        let mut locks = LockTable::new();
        let Acquired::Granted(id) = locks.acquire(&KEY, 1, Mode::Shared, age(1)) else { panic!() };
        locks.acquire(&KEY, 2, Mode::Shared, age(2));
        assert_eq!(locks.acquire(&KEY, 2, Mode::Exclusive, age(2)), Acquired::Waits(id));
        assert_eq!(locks.acquire(&KEY, 1, Mode::Exclusive, age(1)), Acquired::Wound(2));
        let mut woken = Woken::default();
        locks.cancel(id, 2, &mut woken);
        locks.release(id, 2, &mut woken);
        assert_eq!(locks.acquire(&KEY, 1, Mode::Exclusive, age(1)), Acquired::Granted(id));
        assert_eq!(locks.exclusive(id), Some((1, false)));
    }

    #[test]
    fn whatever_happens_everyone_who_waits_is_granted_in_the_end() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut locks = LockTable::new();
            let keys: Vec<Vec<u8>> = (0..4u8).map(|key| vec![key]).collect();
            let mut held: Vec<Vec<LockId>> = vec![Vec::new(); 12];
            let mut waits: Vec<Option<LockId>> = vec![None; 12];
            let mut woken = Woken::default();
            for step in 0..500 {
                let owner = random.below(12) as usize;
                let mut leaves = random.one_in(4) || step > 400;
                if !leaves && waits[owner].is_none() {
                    let key = &keys[random.below(4) as usize];
                    let key = LockKey { tag: u32::from(key[0] / 2), key, ..KEY };
                    let mode = if random.one_in(2) { Mode::Shared } else { Mode::Exclusive };
                    match locks.acquire(&key, owner as u32, mode, age(owner as u64)) {
                        Acquired::Granted(id) => held[owner].push(id),
                        Acquired::Waits(id) => waits[owner] = Some(id),
                        Acquired::Wound(younger) => {
                            assert!(younger as usize > owner);
                            leaves = true;
                        }
                    }
                }
                if leaves {
                    if let Some(id) = waits[owner].take() {
                        locks.cancel(id, owner as u32, &mut woken);
                    }
                    for id in std::mem::take(&mut held[owner]) {
                        locks.release(id, owner as u32, &mut woken);
                    }
                }
                for (id, owner) in woken.granted.drain(..) {
                    assert_eq!(waits[owner as usize].take(), Some(id));
                    held[owner as usize].push(id);
                }
                locks.check();
            }
            for owner in 0..12 {
                if let Some(id) = waits[owner].take() {
                    locks.cancel(id, owner as u32, &mut woken);
                }
                for id in std::mem::take(&mut held[owner]) {
                    locks.release(id, owner as u32, &mut woken);
                }
                for (id, owner) in woken.granted.drain(..) {
                    waits[owner as usize] = None;
                    held[owner as usize].push(id);
                }
            }
            assert!(locks.is_empty(), "seed {seed}");
        }
    }
}
