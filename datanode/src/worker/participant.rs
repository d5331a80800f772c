//! A primary's part in the commit: Prepare, and the decision.

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Epoch, PartitionId, TransactionId},
    links::LinkId,
    message::{
        Coordinator, DecideConf, DecideReq, Kind, Outcome, Participant, PrepareConf, PrepareRef, PrepareReq,
        WriteSetHeader,
    },
};
use twofold_storage::{lock::LockKey, store::Place};

use super::{
    Task, Worker,
    local::{Local, Origin, PendingWrite},
    partition::{Parked, Part},
    replication::WriteSet,
    waits::Action,
};

impl Worker {
    /// A TC wants the partitions named prepared (`PrepareReq`).
    pub(super) fn on_prepare(&mut self, coordinator: Coordinator, request: PrepareReq) {
        for place in 0..request.partitions.len() {
            let partition = request.partitions[place];
            if !self.is_primary(partition) {
                // The TC has yet to learn of the view; it will ask the new primary.
                continue;
            }
            if !self.partition(partition).serving {
                let request = PrepareReq { partitions: vec![partition], ..request.clone() };
                self.partition(partition).handover.parked.push(Parked::Prepare(coordinator, request));
                continue;
            }
            self.prepare(coordinator, &request, partition);
        }
    }

    fn prepare(&mut self, coordinator: Coordinator, request: &PrepareReq, partition: PartitionId) {
        let id = request.transaction;
        if let Some(slot) = self.find_write_set(partition, id) {
            let write_set = self.write_sets.get_mut(slot).expect("just found");
            if write_set.header.refusal {
                return self.refuse_prepare(coordinator, id, partition, false);
            }
            write_set.answer_coordinator = true;
            if write_set.confirmed {
                self.confirm_to_coordinator(slot);
            }
            return;
        }
        let expected = request.participants.iter().find(|participant| participant.partition == partition);
        let slot = self.local_ids.get(&id).copied();
        let local = slot.and_then(|slot| self.locals.get(slot));
        let refused = self.refused.contains_key(&id);
        let can_prepare = match (local, expected) {
            (Some(local), Some(expected)) => {
                !refused && self.has_lease() && self.has_all_operations(local, expected)
            }
            _ => false,
        };
        if !can_prepare {
            // A TC that asks again, after a change of the primary, may be late.
            if let Some(Outcome::Committed(stamp)) = self.outcomes.find(partition, id) {
                return self.send_prepare_conf(coordinator, id, partition, stamp);
            }
            return self.refuse_prepare(coordinator, id, partition, refused);
        }
        let slot = slot.expect("it can prepare");
        if request.read_only {
            self.release_partition(slot, partition);
            let stamp = self.epoch;
            return self.send_prepare_conf(coordinator, id, partition, stamp);
        }
        self.prepare_partition(
            slot,
            partition,
            request.commit_number,
            coordinator,
            request.epoch,
            &request.participants,
        );
    }

    /// Whether nothing of the transaction was lost or is under way here.
    fn has_all_operations(&self, local: &Local, expected: &Participant) -> bool {
        #[cfg(feature = "mutations")]
        if self.mutated(crate::mutation::Mutation::SkipOperationCount) {
            return true;
        }
        let here = local.partitions.iter().find(|here| here.partition == expected.partition);
        !local.is_waiting() && here.is_some_and(|here| here.operations == expected.operations)
    }

    /// Stamps and numbers the write set of a partition, and sends it to the replicas.
    pub(super) fn prepare_partition(
        &mut self,
        slot: u32,
        partition: PartitionId,
        commit_number: u64,
        coordinator: Coordinator,
        prepared: Epoch,
        participants: &[Participant],
    ) {
        let local = self.locals.get_mut(slot).expect("it has run");
        local.prepared = true;
        for &lock in &local.locks {
            if self.locks.key(lock).partition == partition {
                self.locks.set_prepared(lock, slot);
            }
        }
        let state = &mut self.partitions[usize::from(partition.0)];
        state.number += 1;
        let newest = |&(index, write): &(usize, &PendingWrite)| {
            write.partition == partition && self.locks.pending(write.lock) == Some(index as u32)
        };
        let images = local.writes.iter().enumerate().filter(newest).count();
        let header = WriteSetHeader {
            partition,
            number: state.number,
            transaction: local.id,
            commit_number,
            coordinator,
            prepared,
            stamp: self.epoch,
            refusal: false,
            participants: participants.len() as u16,
            images: images as u32,
        };
        let mut write_set = self.write_sets.recycled();
        let mut spare = std::mem::take(&mut write_set.images);
        write_set.reset(header, Some(slot), participants);
        write_set.answer_coordinator = matches!(local.origin, Origin::Coordinated(_));
        write_set.place = local.writes.iter().enumerate().find(newest).map(|(_, write)| {
            let LockKey { table, tag, .. } = self.locks.key(write.lock);
            Place { table, partition, tag }
        });
        if images > 0 && images == local.writes.len() {
            // They are all here, and from now on nobody else asks for them.
            write_set.images = std::mem::replace(&mut local.images, spare);
        } else {
            spare.clear();
            write_set.images = spare;
            for (_, write) in local.writes.iter().enumerate().filter(newest) {
                write_set.images.extend_from_slice(&local.images[write.image()]);
            }
        }
        let write_set = self.open_write_set(write_set);
        let local = self.locals.get_mut(slot).expect("it is prepared");
        if let Some(here) = local.partitions.iter_mut().find(|here| here.partition == partition) {
            here.write_set = Some(write_set);
        }
        self.replicate(write_set);
    }

    pub(super) fn find_write_set(&self, partition: PartitionId, transaction: TransactionId) -> Option<u32> {
        let open = &self.partitions[usize::from(partition.0)].open;
        let is =
            |slot: &u32| self.write_sets.get(*slot).is_some_and(|set| set.header.transaction == transaction);
        open.iter().copied().find(is)
    }

    pub(super) fn send_prepare_conf(
        &mut self,
        coordinator: Coordinator,
        transaction: TransactionId,
        partition: PartitionId,
        stamp: Epoch,
    ) {
        let conf = PrepareConf { transaction, partition, stamp };
        match self.link_to_coordinator(&coordinator) {
            None => self.tasks.push_back(Task::Prepared(conf)),
            Some(link) => self.send_control(link, Kind::PrepareConf, &conf),
        }
    }

    /// Refuses Prepare, once the replicas have dropped what this primary may lack of the transaction: else one of them
    /// could come to be in doubt about it, and find it prepared.
    fn refuse_prepare(
        &mut self,
        coordinator: Coordinator,
        transaction: TransactionId,
        partition: PartitionId,
        deadlock: bool,
    ) {
        for link in self.partitions[usize::from(partition.0)].replicas(Part::Included) {
            if let Some(link) = self.links.get_mut(link) {
                link.want_acknowledgement();
            }
        }
        self.when_replicated(partition, Action::Refused { coordinator, transaction, partition, deadlock });
    }

    pub(super) fn send_prepare_ref(
        &mut self,
        coordinator: Coordinator,
        transaction: TransactionId,
        partition: PartitionId,
        deadlock: bool,
    ) {
        let error = if deadlock {
            Error::new(ErrorCode::Deadlock, "an older transaction took the transaction's locks")
        } else {
            let text = format!("node {} does not have all of the transaction's operations", self.own.node);
            Error::new(ErrorCode::PrimaryChanged, text)
        };
        let refusal = PrepareRef { transaction, partition, error };
        match self.link_to_coordinator(&coordinator) {
            None => self.tasks.push_back(Task::PrepareRefused(refusal)),
            Some(link) => self.send_control(link, Kind::PrepareRef, &refusal),
        }
    }

    /// `None`: this worker itself. A coordinator that is gone has a link that is gone.
    fn link_to_coordinator(&self, coordinator: &Coordinator) -> Option<LinkId> {
        if coordinator.endpoint == self.own && coordinator.incarnation == self.life.incarnation {
            return None;
        }
        Some(self.links.to(coordinator.endpoint, coordinator.incarnation).unwrap_or(LinkId::NONE))
    }

    /// The write set is confirmed: tells whoever waits for that.
    pub(super) fn confirm_to_coordinator(&mut self, slot: u32) {
        let WriteSet { header, answer_coordinator, .. } = self.write_sets.get_mut(slot).expect("confirmed");
        if std::mem::take(answer_coordinator) {
            let header = *header;
            self.send_prepare_conf(header.coordinator, header.transaction, header.partition, header.stamp);
        }
    }

    /// The TC has decided (`DecideReq`).
    pub(super) fn on_decide(&mut self, coordinator: Coordinator, request: DecideReq) {
        let id = request.transaction;
        for &partition in &request.partitions {
            if !self.is_primary(partition) {
                continue;
            }
            if !self.partition(partition).serving {
                let request = DecideReq { partitions: vec![partition], ..request.clone() };
                self.partition(partition).handover.parked.push(Parked::Decide(coordinator, request));
                continue;
            }
            if let Some(slot) = self.find_write_set(partition, id) {
                self.decide(slot, request.outcome);
            } else {
                self.abandon_unprepared(id, partition);
            }
            // Also for a decision that is old news here: the other replicas must have it before the TC may forget.
            self.when_replicated(partition, Action::Decided { coordinator, transaction: id, partition });
        }
        self.refused.remove(&id);
    }

    /// The TC has aborted a transaction that refused Prepare in this partition.
    fn abandon_unprepared(&mut self, id: TransactionId, partition: PartitionId) {
        if let Some(&slot) = self.local_ids.get(&id) {
            self.release_partition(slot, partition);
        }
    }

    /// The replicas know the decision.
    pub(super) fn decided_everywhere(
        &mut self,
        coordinator: Coordinator,
        transaction: TransactionId,
        partition: PartitionId,
    ) {
        let conf = DecideConf { transaction, partition };
        match self.link_to_coordinator(&coordinator) {
            None => self.tasks.push_back(Task::DecideConfirmed(conf)),
            Some(link) => self.send_control(link, Kind::DecideConf, &conf),
        }
    }
}
