//! What the worker has on disk: what it logs, its checkpoint, and loading. See `docs/disk.md`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use smallvec::SmallVec;
use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Epoch, PartitionId, Version, ViewNumber},
    links::LinkId,
    message::{Image, Kind, ReplicaState, WriteSetHeader},
    time::{Duration, Time},
    view::MemberState,
    wire::{Malformed, Writer},
};
use twofold_storage::{
    disk::redo::{Record, put_commit, put_complete, put_image, put_rows, records},
    store::{CopyCursor, Place},
};

use super::{Effect, Peer, Worker};
use crate::{
    disk::{FromDisk, Horizon, ToDisk},
    local::Word,
};

/// Bytes of records that are handed over at a time; one record may be longer.
const HANDED_BYTES: usize = 256 << 10;
/// How long ago what is on no disk yet may have been committed: so much is lost at most when all nodes fail at once.
const DURABLE_WITHIN: Duration = Duration::from_secs(2);
/// How often it is noted when an epoch began, and how often at most while none becomes durable.
const NOTED_EVERY: Duration = Duration::from_millis(100);
const NOTED_MAX: usize = 32;
/// Bytes of rows that a checkpoint hands over at a time, but for the last row.
const ROWS_BYTES: usize = 64 << 10;
/// Images that are brought into the cache together when they are loaded.
const RESTORED_AT_ONCE: usize = 16;

/// Images that were loaded and are to be applied.
type Restored<'b> = SmallVec<[(PartitionId, Version, Image<'b>); RESTORED_AT_ONCE]>;

/// What the worker has to do with the disk.
#[derive(Debug, Default)]
pub(super) struct Redo {
    /// Records that have yet to be handed over.
    records: Vec<u8>,
    /// Bytes that were handed over.
    handed: u64,
    /// Whether all that was on disk has been loaded.
    pub loaded: bool,
    /// The newest complete epoch that was logged, and those whose records are not flushed yet, with where these end.
    logged: Epoch,
    unflushed: VecDeque<(u64, Epoch)>,
    /// All up to this epoch was loaded, and nothing later.
    pub restored: Epoch,
    /// Syncing: under this view all is copied, by this epoch; reported once that is flushed.
    copied: Option<(ViewNumber, Epoch)>,
    checkpoint: Option<Walk>,
    /// The newest epoch that is on the disks of all nodes, and when some later ones began, the oldest first.
    durable: Epoch,
    begun: VecDeque<(Epoch, Time)>,
    /// Commits up to this epoch wait for the disks; those of clients that have asked here, up to this one.
    wanted: Epoch,
    asked: Epoch,
    congested: bool,
}

/// How far a checkpoint is.
#[derive(Debug, Default)]
struct Walk {
    partition: u16,
    cursor: CopyCursor,
    /// No later epoch is in it.
    newest: Epoch,
}

impl Worker {
    /// A write set is committed.
    pub(super) fn log_commit(&mut self, header: &WriteSetHeader, epoch: Epoch, images: &[u8]) {
        if header.images > 0 {
            put_commit(header, epoch, images, &mut self.redo.records);
            self.hand_over(HANDED_BYTES);
        }
    }

    /// Rows were copied to this node.
    pub(super) fn log_rows(&mut self, partition: PartitionId, rows: &[u8]) {
        if !rows.is_empty() {
            put_rows(partition, &mut self.redo.records, |out| out.put(rows));
            self.hand_over(HANDED_BYTES);
        }
    }

    /// A row was removed that the primary has not.
    pub(super) fn log_image(&mut self, partition: PartitionId, version: Version, image: &Image<'_>) {
        put_image(partition, version, image, &mut self.redo.records);
        self.hand_over(HANDED_BYTES);
    }

    /// Hands over what is logged, if it is that much.
    fn hand_over(&mut self, least: usize) {
        if self.redo.records.len() >= least.max(1) {
            self.append(false);
        }
    }

    /// Hands over what is logged; `urgent`: to be flushed at once.
    fn append(&mut self, urgent: bool) {
        // The next ones will be about as many.
        let room = Vec::with_capacity(self.redo.records.len() + self.redo.records.len() / 8);
        let records = std::mem::replace(&mut self.redo.records, room);
        self.redo.handed += records.len() as u64;
        let message = ToDisk::Append { worker: self.own.worker, records, urgent };
        self.effects.push(Effect::Disk(message));
    }

    /// Whether it holds all that it has to hold.
    fn is_whole(&self) -> bool {
        self.redo.loaded
            && (self.state >= Some(MemberState::Ready)
                || self.redo.copied.is_some_and(|(view, _)| view == self.view.number))
    }

    /// An epoch has ended.
    pub(super) fn log_epoch(&mut self) {
        if self.is_whole() && self.complete > self.redo.logged {
            put_complete(self.complete, &mut self.redo.records);
            #[cfg(feature = "mutations")]
            if self.mutated(crate::mutation::Mutation::DurableBeforeFlush) {
                self.tell_node(Word::Durable(self.complete));
            }
            self.redo.logged = self.complete;
            let end = self.redo.handed + self.redo.records.len() as u64;
            self.redo.unflushed.push_back((end, self.complete));
            self.append(self.is_hurried());
        }
        self.hand_over(0);
    }

    /// Whether commits wait for the disks.
    pub(super) fn is_hurried(&self) -> bool {
        self.redo.wanted > self.redo.durable
    }

    /// A client waits for an epoch to be durable (`DurableReq`).
    pub(super) fn on_durable_req(&mut self, client: LinkId, epoch: Epoch) -> Result<(), Malformed> {
        if epoch > self.epoch {
            return Err(Malformed("DurableReq: an epoch to come"));
        }
        #[cfg(feature = "mutations")]
        if self.mutated(crate::mutation::Mutation::AnswerBeforeDurable) {
            self.tell_durable(client, epoch);
            return Ok(());
        }
        if epoch <= self.redo.durable {
            self.tell_durable(client, self.redo.durable);
        } else if let Some(Peer::Client(peer)) = self.peers.get_mut(&client) {
            peer.wanted = peer.wanted.max(epoch);
            self.redo.asked = self.redo.asked.max(epoch);
            self.tell_node(Word::Wanted(epoch));
        }
        Ok(())
    }

    fn tell_durable(&mut self, client: LinkId, durable: Epoch) {
        if let Some(link) = self.client_link(client) {
            link.send(Kind::DurableConf as u8, 0, |out| out.put_u64(durable.0));
        }
    }

    /// Tells the clients that wait.
    fn tell_waiting(&mut self, durable: Epoch) {
        let mut waiting = Vec::new();
        for (&link, peer) in &mut self.peers {
            if let Peer::Client(client) = peer
                && client.wanted > Epoch::default()
            {
                waiting.push(link);
                if client.wanted <= durable {
                    client.wanted = Epoch::default();
                }
            }
        }
        for link in waiting {
            self.tell_durable(link, durable);
        }
    }

    /// Syncing: all is copied from the primaries of this view.
    pub(super) fn all_copied(&mut self) {
        if self.redo.copied.is_none_or(|(view, _)| view != self.view.number) {
            let (view, epoch) = (self.view.number, self.epoch);
            self.redo.copied = Some((view, epoch));
            #[cfg(feature = "mutations")]
            if self.mutated(crate::mutation::Mutation::UpBeforeDurable) {
                self.tell_node(Word::Durable(epoch));
                self.tell_node(Word::Copied(view, epoch));
            }
        }
    }

    /// The president's word on the disks.
    pub(super) fn written(&mut self, durable: Epoch, wanted: Epoch, congested: bool) {
        if durable > self.redo.durable && self.redo.asked > self.redo.durable {
            self.tell_waiting(durable);
        }
        let redo = &mut self.redo;
        (redo.durable, redo.wanted, redo.congested) = (durable, wanted, congested);
        while redo.begun.pop_front_if(|(epoch, _)| *epoch <= durable).is_some() {}
        if redo.begun.len() < NOTED_MAX
            && redo.begun.back().is_none_or(|(_, at)| self.now.since(*at) >= NOTED_EVERY)
        {
            redo.begun.push_back((self.epoch, self.now));
        }
    }

    /// Whether more can be committed: the outcomes be kept, and what is written be on disk before long.
    pub(super) fn check_writes(&mut self) -> Result<(), Error> {
        let Redo { durable, begun, congested, .. } = &self.redo;
        let text = if *congested {
            self.counters.disk_busy += 1;
            "the disk of some node cannot keep up".into()
        } else if begun.front().is_some_and(|(_, at)| self.now.since(*at) > DURABLE_WITHIN) {
            self.counters.not_durable += 1;
            let seconds = DURABLE_WITHIN.as_secs();
            format!("what was committed after epoch {durable}, {seconds} s ago, is not on all disks yet")
        } else {
            return self.check_outcomes();
        };
        Err(Error::new(ErrorCode::Overloaded, text))
    }

    pub(super) fn on_disk(&mut self, message: FromDisk) {
        match message {
            FromDisk::Load(block, horizon) => {
                // It says whose replica this worker is. The node's word may come later.
                self.adopt_view(horizon.view.clone());
                #[cfg(feature = "mutations")]
                let horizon = match self.mutated(crate::mutation::Mutation::RestorePastCut) {
                    true => Arc::new(horizon.past()),
                    false => horizon,
                };
                self.load(&block, &horizon)
                    .unwrap_or_else(|error| panic!("a checked frame has records: {error}"));
                self.effects.push(Effect::Disk(ToDisk::Loaded(self.own.worker)));
            }
            FromDisk::LoadEnd(restored) => self.on_load_end(restored),
            FromDisk::Flushed(bytes) => self.on_flushed(bytes),
            FromDisk::Checkpoint => {
                self.hand_over(0);
                let newest = self.epoch.max(self.redo.restored);
                self.redo.checkpoint = Some(Walk { newest, ..Walk::default() });
                let message = ToDisk::Begin(self.own.worker, self.store.used_bytes());
                self.effects.push(Effect::Disk(message));
            }
            FromDisk::Budget(bytes) => self.continue_checkpoint(bytes),
        }
    }

    fn on_flushed(&mut self, bytes: u64) {
        let mut durable = None;
        while let Some((_, epoch)) = self.redo.unflushed.pop_front_if(|(end, _)| *end <= bytes) {
            durable = Some(epoch);
        }
        let Some(durable) = durable else { return };
        self.tell_node(Word::Durable(durable));
        let view = self.view.number;
        if let Some((copied, epoch)) = self.redo.copied
            && copied == view
            && durable >= epoch
        {
            self.tell_node(Word::Copied(view, epoch));
        }
    }

    /// Takes in the records of its partitions.
    fn load(&mut self, block: &Arc<[u8]>, horizon: &Horizon) -> Result<(), Malformed> {
        let mut group = Restored::new();
        for record in records(block) {
            match record? {
                Record::Commit(commit) => {
                    if horizon.keeps(commit.version.epoch) && self.is_replica(commit.partition) {
                        for image in commit.images() {
                            self.restore(commit.partition, commit.version, image?, &mut group);
                        }
                    }
                }
                Record::Image(partition, version, image) => {
                    if horizon.keeps(version.epoch) && self.is_replica(partition) {
                        self.restore(partition, version, image, &mut group);
                    }
                }
                Record::Rows(rows) => {
                    if !self.is_replica(rows.partition) {
                        continue;
                    }
                    for row in rows.rows() {
                        let row = row?;
                        if horizon.keeps(row.epoch) {
                            let version = Version { epoch: row.epoch, number: row.number.into() };
                            self.restore(rows.partition, version, row.image(), &mut group);
                        }
                    }
                }
                Record::Complete(_) => {}
            }
        }
        self.apply_restored(&mut group);
        Ok(())
    }

    pub(super) fn is_replica(&self, partition: PartitionId) -> bool {
        self.map.replicas(partition).iter().any(|replica| replica.endpoint == self.own)
    }

    fn restore<'b>(
        &mut self,
        partition: PartitionId,
        version: Version,
        image: Image<'b>,
        group: &mut Restored<'b>,
    ) {
        if !self.is_dropped(image.table) {
            group.push((partition, version, image));
            if group.len() == RESTORED_AT_ONCE {
                self.apply_restored(group);
            }
        }
    }

    fn apply_restored(&mut self, group: &mut Restored<'_>) {
        let places =
            || group.iter().map(|&(partition, _, Image { table, tag, .. })| Place { table, partition, tag });
        self.store.prefetch_entries(places());
        self.store.prefetch_rows(places());
        for (partition, version, image) in group.drain(..) {
            self.store.apply(partition, version, &image);
        }
    }

    /// All is loaded: from now on it takes part.
    fn on_load_end(&mut self, restored: Epoch) {
        (self.redo.loaded, self.redo.restored) = (true, restored);
        self.redo.begun.push_back((self.epoch, self.now));
        if self.state.is_none() {
            return;
        }
        // Until now nobody was told that what is here can be written over.
        let mut words = BTreeMap::new();
        for number in 0..self.map.partitions() {
            let partition = PartitionId(number);
            let Some(primary) = self.map.primary(partition).filter(|primary| *primary != self.own) else {
                continue;
            };
            if self.is_replica(partition) && self.state >= Some(MemberState::Ready) {
                let word = ReplicaState { open: vec![], decided: vec![], goes_on: false };
                words.entry(primary).or_insert_with(Vec::new).push((partition, word));
            }
        }
        self.send_replica_states(words);
        self.try_serve_all();
        self.continue_copy_in();
        self.run_tasks();
    }

    /// Sends some more rows of the checkpoint.
    fn continue_checkpoint(&mut self, budget: usize) {
        let Some(mut walk) = self.redo.checkpoint.take() else { return };
        let mut sent = 0;
        while sent < budget {
            let rows = self.next_rows(&mut walk);
            if rows.is_empty() {
                // What it reflects was committed by now.
                let newest = self.epoch.max(walk.newest);
                #[cfg(feature = "mutations")]
                let newest = match self.mutated(crate::mutation::Mutation::CheckpointTooNew) {
                    true => Epoch::default(),
                    false => newest,
                };
                self.hand_over(0);
                return self.effects.push(Effect::Disk(ToDisk::End(self.own.worker, newest)));
            }
            sent += rows.len();
            self.effects.push(Effect::Disk(ToDisk::Rows(self.own.worker, rows)));
        }
        self.redo.checkpoint = Some(walk);
    }

    /// Records of some more rows of the checkpoint; none: that was all.
    fn next_rows(&self, walk: &mut Walk) -> Vec<u8> {
        let mut out = Vec::with_capacity(ROWS_BYTES + ROWS_BYTES / 8);
        let limits = (ROWS_BYTES, ROWS_BYTES);
        while out.len() < ROWS_BYTES && usize::from(walk.partition) < self.partitions.len() {
            let (partition, start) = (PartitionId(walk.partition), out.len());
            let (next, rows) = put_rows(partition, &mut out, |out| {
                self.store.copy_out(partition, walk.cursor, Epoch(0), limits, out, &mut Vec::new())
            });
            if rows == 0 {
                out.truncate(start);
            }
            match next {
                Some(cursor) => walk.cursor = cursor,
                None => (walk.partition, walk.cursor) = (walk.partition + 1, CopyCursor::default()),
            }
            if rows == 0 && next.is_some() {
                break;
            }
        }
        out
    }
}
