//! What a worker is done with, and what it does at every tick: the president's word comes each `epoch_ms`.

use std::collections::BTreeSet;

use twofold_proto::{
    ids::{Epoch, PartitionId, TableId, TransactionId, ViewNumber},
    links::LinkId,
    time::{ClusterTime, Duration},
};
use twofold_storage::{
    lock::{Acquired, LockKey, Mode},
    ordered::BuildProgress,
    store::Expired,
};

use super::{Peer, Worker, local::Origin, partition::Part, replication::outstanding, waits::Action};
use crate::local::Word;

/// How long a client may be without a connection before its session ends here.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows looked at for expiry at each tick, and how many of them are freed at most.
const PURGE_ROWS: u32 = 512;

/// Rows of dropped tables freed at each tick.
const FREED_ROWS: usize = 10_000;
/// Rows entered at each tick into indexes that are being built.
const INDEXED_ROWS: u32 = 2048;

/// The newest epoch that is being marked: all of it is decided, and the replicas are yet to confirm.
#[derive(Debug, Default)]
pub(super) struct Marker {
    pending: Option<Epoch>,
    done: Epoch,
}

impl Marker {
    /// Under a new view all is to be shown anew.
    pub fn reset(&mut self) {
        *self = Marker::default();
    }
}

/// Where the search for expired rows goes on.
#[derive(Debug, Default)]
pub(super) struct Purge {
    partition: u16,
    table: TableId,
    cursor: u64,
    number: u64,
}

impl Worker {
    /// The president's word, passed on by the node.
    pub(super) fn on_epoch(&mut self, epoch: Epoch, complete: Epoch, time: ClusterTime) {
        self.epoch = self.epoch.max(epoch);
        self.time = self.time.max(time);
        if complete > self.complete {
            assert!(complete < self.epoch, "epoch {complete:?} is complete in {:?}", self.epoch);
            self.complete = complete;
        }
        if self.is_hurried() && self.now.since(self.ticked) < self.config.epoch() {
            self.log_epoch();
            self.seal_all = true;
        } else {
            self.tick();
        }
    }

    /// What is done at each epoch, and now and then when there is nobody to end them.
    pub(super) fn tick(&mut self) {
        self.ticked = self.now;
        self.outcomes.complete(self.complete, self.now);
        self.forget_old_disowned();
        self.store.free_doomed(FREED_ROWS);
        self.build_indexes(INDEXED_ROWS);
        self.on_timer();
        self.end_idle_transactions();
        self.drop_lost_clients();
        self.purge_expired();
        for link in self.copies.iter().map(|copy| copy.link).collect::<Vec<_>>() {
            self.continue_copies(link);
        }
        self.continue_marker();
        self.log_epoch();
        self.ask_for_acknowledgements();
        self.seal_all = true;
    }

    /// Goes on building indexes, and tells the node how far that is.
    pub(super) fn build_indexes(&mut self, rows: u32) {
        let progress = self.store.build_indexes(rows);
        let is_built = progress == BuildProgress::Done;
        if is_built && self.indexes_told.0 < self.catalog_version && rows > 0 {
            self.counters.index_builds += 1;
        }
        let built = if is_built { self.catalog_version } else { self.indexes_told.0 };
        let told = (built, progress == BuildProgress::Full);
        if std::mem::replace(&mut self.indexes_told, told) != told {
            self.tell_node(Word::Indexes { built, full: told.1 });
        }
    }

    /// While commits wait for the disks: goes on with what their epoch waits for, as soon as it can.
    pub(super) fn hasten(&mut self) {
        if self.is_hurried() {
            self.continue_marker();
            self.run_tasks();
            self.ask_for_acknowledgements();
        }
    }

    /// Decisions go when something else does, at the latest now; who waits for them to have arrived is not to wait for
    /// the replica to have something to say.
    fn ask_for_acknowledgements(&mut self) {
        for &link in self.data_links.values() {
            if self.waits.ask(link)
                && let Some(link) = self.links.get_mut(link)
            {
                link.want_acknowledgement();
            }
        }
        // Who is being copied to is not waited for, yet what it has taken in need not be kept.
        for link in self.excluded() {
            if let Some(link) = self.links.get_mut(link).filter(|link| link.kept_bytes() > 0) {
                link.want_acknowledgement();
            }
        }
    }

    pub(super) fn on_timer(&mut self) {
        self.time_out_lock_waits();
        self.run_tasks();
    }

    /// Looks which epochs all is decided of here, and has the replicas confirm that they know.
    fn continue_marker(&mut self) {
        let open = self.open_epochs.first_key_value().map(|(epoch, _)| *epoch);
        let decided = open.map_or(self.epoch, |open| open.min(self.epoch)).previous();
        if self.state.is_none()
            || self.marker.pending.is_some()
            || decided <= self.marker.done
            || self.is_taking_over()
        {
            return;
        }
        self.marker.pending = Some(decided);
        let action = Action::Marked { view: self.view.number, epoch: decided };
        let excluded = self.excluded();
        let links = &self.links;
        let replicas = self.data_links.values().filter(|link| !excluded.contains(link));
        let unconfirmed = replicas.filter_map(|&link| outstanding(links, link));
        self.waits.add(unconfirmed, action, &mut self.tasks);
    }

    /// Links to joining nodes for which nobody waits yet: they know what they have not taken in.
    fn excluded(&self) -> BTreeSet<LinkId> {
        let mut joining: BTreeSet<LinkId> = self.joining().collect();
        if !joining.is_empty() {
            let led = self.partitions.iter().filter(|partition| partition.primary == Some(self.own));
            for link in led.flat_map(|partition| partition.replicas(Part::Included)) {
                joining.remove(&link);
            }
        }
        joining
    }

    /// Whether the view's takeovers are not done here yet.
    fn is_taking_over(&self) -> bool {
        let own = Some(self.own);
        self.partitions.iter().any(|partition| partition.primary == own && !partition.serving)
            || self.write_sets.iter().any(|(_, write_set)| write_set.doubt().is_some())
    }

    pub(super) fn on_marked(&mut self, view: ViewNumber, epoch: Epoch) {
        if view == self.view.number && self.marker.pending == Some(epoch) {
            self.marker = Marker { pending: None, done: epoch };
            self.tell_node(Word::Done(view, epoch));
        }
    }

    pub(super) fn less_open(&mut self, epoch: Epoch) {
        match self.open_epochs.get_mut(&epoch) {
            Some(1) => _ = self.open_epochs.remove(&epoch),
            Some(open) => *open -= 1,
            None => panic!("nothing of {epoch:?} is open: {:?}", self.open_epochs),
        }
    }

    fn drop_lost_clients(&mut self) {
        let now = self.now;
        let lost = |peer: &Peer| match peer {
            Peer::Client(client) => client.lost.is_some_and(|since| now.since(since) > CLIENT_TIMEOUT),
            Peer::Data(_) => false,
        };
        let lost: Vec<LinkId> =
            self.peers.iter().filter(|(_, peer)| lost(peer)).map(|(link, _)| *link).collect();
        for link in lost {
            self.drop_client(link);
        }
    }

    /// Frees some expired rows, by ordinary transactions.
    fn purge_expired(&mut self) {
        if !self.has_lease() {
            return;
        }
        for _ in 0..self.partitions.len().min(64) {
            let partition = PartitionId(self.purge.partition);
            let (table, cursor) = (self.purge.table, self.purge.cursor);
            let found = if self.partition(partition).serving {
                self.store.find_expired(partition, table, cursor, self.time, PURGE_ROWS)
            } else {
                Default::default()
            };
            for expired in &found.rows {
                self.purge_row(partition, expired);
            }
            match found.next {
                Some((table, cursor)) => {
                    (self.purge.table, self.purge.cursor) = (table, cursor);
                    return;
                }
                None => {
                    self.purge.partition = (self.purge.partition + 1) % self.config.partitions;
                    (self.purge.table, self.purge.cursor) = Default::default();
                }
            }
            if !found.rows.is_empty() {
                return;
            }
        }
    }

    fn purge_row(&mut self, partition: PartitionId, expired: &Expired) {
        let Some(schema) = self.schemas.get(&expired.table).cloned() else { return };
        self.purge.number += 1;
        let id = TransactionId { session: self.life.incarnation, number: self.purge.number };
        let slot = self.begin_local(id, u64::MAX, Origin::Housekeeping);
        self.locals.get_mut(slot).expect("just begun").count_operation(partition);
        let key = LockKey { table: expired.table, partition, tag: expired.tag, key: &expired.key };
        let lock = match self.locks.acquire(&key, slot, Mode::Exclusive, (u64::MAX, id)) {
            Acquired::Granted(lock) => lock,
            Acquired::Waits(lock) => {
                // Somebody else is at it.
                self.locks.cancel(lock, slot, &mut self.woken);
                return self.end_local(slot);
            }
            // Ages are the clients' word: one may be as young. It goes first.
            Acquired::Wound(_) => return self.end_local(slot),
        };
        self.locals.get_mut(slot).expect("just begun").hold(lock);
        let pended = self.pend(slot, lock, schema.version as u16, None);
        pended.expect("a deletion needs no memory");
        self.counters.purged += 1;
        self.independent_done(slot);
        self.run_tasks();
    }
}
