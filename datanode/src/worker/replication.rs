//! Write sets and decisions: from the primary to the replicas, and at the replicas.

use super::{Said, Task, Worker, local::Origin, outcome::Doubt, partition::Part, slab::spare, waits::Action};
use smallvec::SmallVec;
use twofold_proto::{
    ids::{PartitionId, TableId, Version, ViewNumber},
    links::{LinkId, Links},
    message::{DecideOrd, Image, Kind, Outcome, Participant, WriteSetHeader},
    prefetch,
    wire::{Malformed, Reader, Writer},
};
use twofold_storage::store::Place;

/// A write set that is not decided: the same at the primary and at replicas.
///
/// Many are under way at once, so what each step looks at is kept in a few cache lines: this and one buffer.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct WriteSet {
    pub header: WriteSetHeader,
    /// Where the row of the first image is.
    pub place: Option<Place>,
    /// At the primary: the local transaction that holds its locks.
    pub local: Option<u32>,
    /// At the primary: all replicas that its view counts have it.
    pub confirmed: bool,
    /// At the primary: the TC has not been answered.
    pub answer_coordinator: bool,
    /// At the primary: the view whose replicas it waits for.
    awaits: ViewNumber,
    participants: SmallVec<[Participant; 2]>,
    /// Its images, encoded.
    pub images: Vec<u8>,
    /// Who is interested in it, if anybody is.
    interest: Option<Box<Interest>>,
}

/// Who is interested in a write set: few are asked about.
#[derive(Debug, Default)]
pub(super) struct Interest {
    /// At the primary: the TC is gone, and the others are being asked.
    pub doubt: Option<Doubt>,
    /// At the primary: links (or here) that asked for the outcome and wait until it is confirmed.
    pub askers: Vec<(Option<LinkId>, PartitionId)>,
    /// Scans that wait for the decision.
    pub observers: Vec<u64>,
}

impl Default for WriteSet {
    fn default() -> WriteSet {
        WriteSet {
            header: WriteSetHeader {
                partition: PartitionId::default(),
                number: 0,
                transaction: Default::default(),
                commit_number: 0,
                coordinator: Default::default(),
                prepared: Default::default(),
                stamp: Default::default(),
                refusal: false,
                participants: 0,
                images: 0,
            },
            place: None,
            local: None,
            confirmed: false,
            answer_coordinator: false,
            awaits: ViewNumber::default(),
            participants: SmallVec::new(),
            images: Vec::new(),
            interest: None,
        }
    }
}

impl WriteSet {
    /// Makes a used one new, without images yet.
    pub fn reset(&mut self, header: WriteSetHeader, local: Option<u32>, participants: &[Participant]) {
        assert_eq!(usize::from(header.participants), participants.len(), "{header:?}");
        (self.header, self.place, self.local) = (header, None, local);
        (self.confirmed, self.answer_coordinator) = (false, false);
        self.interest = None;
        self.participants.clear();
        self.participants.extend_from_slice(participants);
        self.images.clear();
    }

    /// Has its cache lines brought into the cache; see [`super::ahead`].
    pub fn prefetch(&self) {
        prefetch::line(&self.header.transaction);
        prefetch::line(&self.header.number);
        prefetch::line(&self.header.stamp);
        prefetch::line(&self.place);
        prefetch::line(&self.participants);
        prefetch::line(&self.images);
        prefetch::line(&self.interest);
        prefetch::line(&self.local);
        prefetch::line(&self.confirmed);
    }

    /// Likewise the images.
    pub fn prefetch_images(&self) {
        prefetch::lines(&self.images);
    }

    /// Takes a message in. If it is malformed, this is no write set.
    fn read(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "WriteSetReq");
        let header = WriteSetHeader::parse(&mut reader)?;
        self.reset(WriteSetHeader { participants: 0, ..header }, None, &[]);
        self.header = header;
        for _ in 0..header.participants {
            self.participants.push(Participant::parse(&mut reader)?);
        }
        let images = reader.rest();
        for _ in 0..header.images {
            let Image { table, tag, .. } = Image::parse(&mut reader)?;
            self.place.get_or_insert(Place { table, partition: header.partition, tag });
        }
        reader.finish()?;
        self.images.extend_from_slice(images);
        Ok(())
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        self.header.encode(out);
        self.participants.iter().for_each(|participant| participant.encode(out));
        out.put(&self.images);
    }

    /// The participants.
    pub fn participants(&self) -> &[Participant] {
        &self.participants
    }

    /// The images.
    pub fn images(&self) -> impl Iterator<Item = Image<'_>> {
        let mut reader = Reader::new(&self.images, "images");
        (0..self.header.images).map(move |_| Image::parse(&mut reader).expect("written here"))
    }

    /// The search for its outcome, if it is in doubt.
    pub fn doubt(&self) -> Option<&Doubt> {
        self.interest.as_ref()?.doubt.as_ref()
    }

    /// Who is interested in it.
    pub fn interest(&mut self) -> &mut Interest {
        self.interest.get_or_insert_default()
    }

    /// Those who asked for the outcome and were not answered; they will be now.
    pub fn take_askers(&mut self) -> Vec<(Option<LinkId>, PartitionId)> {
        self.interest.as_mut().map(|interest| std::mem::take(&mut interest.askers)).unwrap_or_default()
    }

    /// This worker is no primary any more: makes it what it is at any replica. Returns who held its locks.
    pub fn step_down(&mut self) -> Option<u32> {
        (self.confirmed, self.answer_coordinator) = (false, false);
        if let Some(interest) = &mut self.interest {
            interest.doubt = None;
            interest.askers.clear();
        }
        self.local.take()
    }
}

/// What of a link is yet to be acknowledged. Who has acknowledged everything says nothing more.
pub(super) fn outstanding(links: &Links, link: LinkId) -> Option<(LinkId, u64)> {
    let sent = links.get(link)?;
    (sent.acknowledged() < sent.position()).then_some((link, sent.position()))
}

impl Worker {
    /// Adds a write set to its partition's open ones.
    pub(super) fn open_write_set(&mut self, write_set: Box<WriteSet>) -> u32 {
        let header = write_set.header;
        let slot = self.write_sets.insert(write_set);
        self.partition(header.partition).open.push(slot);
        slot
    }

    /// Sends a new write set to every replica that gets it, and waits for those that count.
    pub(super) fn replicate(&mut self, slot: u32) {
        let write_set = self.write_sets.get(slot).expect("it was just opened");
        let header = write_set.header;
        *self.open_epochs.entry(header.prepared).or_default() += 1;
        for &(link, part) in &self.partitions[usize::from(header.partition.0)].replicas {
            let Some(link) = self.links.get_mut(link).filter(|_| part >= Part::Gets) else { continue };
            link.send(Kind::WriteSetReq as u8, 0, |out| write_set.encode(out));
            if part == Part::Counts {
                link.want_acknowledgement();
            }
        }
        self.counters.write_sets += 1;
        self.await_confirmation(slot);
    }

    /// The write set is confirmed when all replicas that count have what was sent to them so far.
    pub(super) fn await_confirmation(&mut self, slot: u32) {
        let write_set = self.write_sets.get_mut(slot).expect("it is open");
        write_set.confirmed = false;
        write_set.awaits = self.view.number;
        let header = &write_set.header;
        let (partition, number) = (header.partition, header.number);
        let action = Action::Confirm { slot, partition, number, view: self.view.number };
        let links = &self.links;
        let counted = self.partitions[usize::from(partition.0)].replicas(Part::Counts);
        #[cfg(feature = "mutations")]
        let counted =
            counted.filter(|_| self.mutation != Some(crate::mutation::Mutation::CommitWithoutReplicas));
        let outstanding = counted.filter_map(|link| outstanding(links, link));
        self.waits.add(outstanding, action, &mut self.tasks);
    }

    /// `action`, once all replicas but those that are still being copied to have what was sent to them so far.
    pub(super) fn when_replicated(&mut self, partition: PartitionId, action: Action) {
        let links = &self.links;
        let replicas = self.partitions[usize::from(partition.0)].replicas(Part::Included);
        let outstanding = replicas.filter_map(|link| outstanding(links, link));
        self.waits.add(outstanding, action, &mut self.tasks);
    }

    /// All that had to be waited for has happened.
    pub(super) fn on_done(&mut self, action: Action) {
        match action {
            Action::Confirm { slot, partition, number, view } => {
                // Under a newer view it was put to wait again, or is another primary's.
                // A slot is used again; a number names a write set of its partition alone.
                let waits =
                    |set: &&WriteSet| set.header.number == number && !set.confirmed && set.awaits == view;
                let Some(write_set) = self.write_sets.get(slot).filter(waits) else { return };
                if write_set.header.partition != partition {
                    self.counters.strayed += 1;
                    #[cfg(feature = "mutations")]
                    if self.mutated(crate::mutation::Mutation::ConfirmBySlotAlone) {
                        return self.confirmed(slot);
                    }
                    return;
                }
                let state = &self.partitions[usize::from(write_set.header.partition.0)];
                if state.primary == Some(self.own) && state.serving {
                    self.confirmed(slot);
                }
            }
            Action::Decided { coordinator, transaction, partition } => {
                self.decided_everywhere(coordinator, transaction, partition);
            }
            Action::Refused { coordinator, transaction, partition, deadlock } => {
                self.send_prepare_ref(coordinator, transaction, partition, deadlock);
            }
            Action::Marked { view, epoch } => self.on_marked(view, epoch),
            Action::Counted { view, life } => self.on_counted(view, life),
        }
    }

    /// The write set is on all replicas that count.
    fn confirmed(&mut self, slot: u32) {
        let write_set = self.write_sets.get_mut(slot).expect("it is open");
        write_set.confirmed = true;
        let header = write_set.header;
        #[cfg(feature = "mutations")]
        {
            self.confirmed.0 += 1;
            self.confirmed.1.insert(header.partition, (header.number, self.view.number));
        }
        if header.refusal {
            return self.decide(slot, Outcome::Aborted);
        }
        let alone = header.participants == 1;
        let local = write_set.local.and_then(|local| self.locals.get(local));
        let independent = local.is_some_and(|local| !matches!(local.origin, Origin::Coordinated(_)));
        if independent {
            return self.decide(slot, Outcome::Committed(header.stamp));
        }
        self.answer_askers(slot);
        self.confirm_to_coordinator(slot);
        let Some(write_set) = self.write_sets.get(slot) else { return };
        if write_set.doubt().is_some() {
            if alone { self.decide(slot, Outcome::Committed(header.stamp)) } else { self.try_resolve(slot) }
        }
    }

    /// Ends an open write set at its primary: applies it or not, frees its locks, tells the replicas.
    pub(super) fn decide(&mut self, slot: u32, outcome: Outcome) {
        let header = self.write_sets.get(slot).expect("it is open").header;
        let order = DecideOrd {
            partition: header.partition,
            number: header.number,
            transaction: header.transaction,
            outcome,
        };
        for link in self.partitions[usize::from(header.partition.0)].replicas(Part::Gets) {
            if let Some(link) = self.links.get_mut(link) {
                link.send_later(Kind::DecideOrd as u8, 0, |out| order.encode(out));
            }
        }
        self.less_open(header.prepared);
        let local = self.write_sets.get(slot).and_then(|write_set| write_set.local);
        self.answer_decided(slot, outcome);
        self.close(slot, outcome);
        if let Some(local) = local {
            self.independent_decided(local, outcome);
            self.release_partition(local, header.partition);
        }
    }

    /// Takes a write set out of the open ones, at primary and replica alike: applies it if committed, and keeps the
    /// outcome.
    pub(super) fn close(&mut self, slot: u32, outcome: Outcome) {
        let mut write_set = self.write_sets.remove(slot).expect("it is open");
        let header = write_set.header;
        let open = &mut self.partitions[usize::from(header.partition.0)].open;
        let place = open.iter().position(|&other| other == slot).expect("open write sets are listed");
        open.remove(place);
        if let Outcome::Committed(epoch) = outcome {
            self.apply(&write_set, Version { epoch, number: header.number });
            self.log_commit(&header, epoch, &write_set.images);
        }
        #[cfg(feature = "mutations")]
        let records = !self.mutated(crate::mutation::Mutation::ForgetOutcomeEarly);
        #[cfg(not(feature = "mutations"))]
        let records = true;
        if records {
            self.outcomes.record(&header, outcome);
        }
        if let Some(interest) = write_set.interest.take() {
            self.tasks.extend(interest.observers.into_iter().map(Task::Observer));
        }
        spare(&mut write_set.images);
        self.write_sets.recycle(write_set);
    }

    fn apply(&mut self, write_set: &WriteSet, version: Version) {
        let partition = write_set.header.partition;
        for image in write_set.images() {
            if !self.is_dropped(image.table) {
                self.store.apply(partition, version, &image);
            }
        }
    }

    /// Whether the table was there and is no more. Ids are not used again.
    pub(super) fn is_dropped(&self, table: TableId) -> bool {
        table.0 < self.next_table && !self.schemas.contains_key(&table)
    }

    /// Whether what a replica hears of the partition counts: its primary says it, and as such. What it said before it
    /// lost the partition and got it back does not.
    pub(super) fn is_word_of_primary(&self, partition: PartitionId, said: Said) -> bool {
        let state = self.partitions.get(usize::from(partition.0));
        state.is_some_and(|state| state.primary == Some(said.sender) && said.under >= state.changed)
    }

    /// Whether this worker is the partition's primary under the newest view.
    pub(super) fn is_primary(&self, partition: PartitionId) -> bool {
        self.partitions.get(usize::from(partition.0)).is_some_and(|state| state.primary == Some(self.own))
    }

    /// At a replica: a write set of the primary (`WriteSetReq`).
    pub(super) fn on_write_set(&mut self, said: Said, body: &[u8]) -> Result<(), Malformed> {
        let mut write_set = self.write_sets.recycled();
        write_set.read(body)?;
        let header = write_set.header;
        let listed = || self.find_numbered(header.partition, header.number);
        if !self.is_word_of_primary(header.partition, said) || listed().is_some() {
            self.write_sets.recycle(write_set);
            return Ok(());
        }
        self.counters.replicated += 1;
        let state = self.partition(header.partition);
        state.number = state.number.max(header.number);
        self.open_write_set(write_set);
        Ok(())
    }

    pub(super) fn find_numbered(&self, partition: PartitionId, number: u64) -> Option<u32> {
        let open = &self.partitions[usize::from(partition.0)].open;
        let is = |slot: &u32| self.write_sets.get(*slot).is_some_and(|set| set.header.number == number);
        open.iter().copied().find(is)
    }

    /// At a replica: a decision of the primary (`DecideOrd`).
    pub(super) fn on_decide_ord(&mut self, said: Said, body: &[u8]) -> Result<(), Malformed> {
        let order = DecideOrd::parse(body)?;
        if !self.is_word_of_primary(order.partition, said) {
            return Ok(());
        }
        if let Some(slot) = self.find_numbered(order.partition, order.number) {
            let header = &self.write_sets.get(slot).expect("just found").header;
            assert_eq!(header.transaction, order.transaction, "{order:?} {header:?}");
            self.close(slot, order.outcome);
        }
        Ok(())
    }
}
