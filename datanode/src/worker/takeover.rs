//! A new view: links, roles, and the change of primaries. The order of things is that of `docs/membership.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Endpoint, NodeId, PartitionId, TransactionId, ViewNumber},
    links::{LinkEffect, LinkId},
    message::{
        Catalog, DecideOrd, Kind, Life, Outcome, ReplicaState, ReplicaStateOrd, WriteSetHeader, put_control,
    },
    placement::PartitionMap,
    schema::Schema,
    view::{MemberState, View},
};
use twofold_storage::lock::LockKey;

use super::{
    DataPeer, Peer, Task, Worker,
    local::{Local, LocalPartition, Origin},
    outcome::OUTCOMES_IN_MESSAGE,
    partition::{Parked, Part},
    replication::outstanding,
    waits::Action,
    worker_of,
};
use crate::local::Word;

impl Worker {
    pub(super) fn announce_view(&mut self, link: LinkId) {
        let view = self.view.clone();
        if view.number.0 > 0
            && let Some(link) = self.links.get_mut(link)
        {
            link.send(Kind::ViewOrd as u8, 0, |out| put_control(out, &*view));
        }
    }

    /// Learns of a view, and goes through it and those that it missed before it.
    ///
    /// A view that is left out could hide that a partition's primary was another for a while, and that a replica which
    /// knew has discarded what this one sent meanwhile.
    pub(super) fn adopt_view(&mut self, view: Arc<View>) {
        if view.number <= self.view.number {
            return;
        }
        let is_member = self.state.is_some();
        let Some(missed) = view.since(self.view.number).filter(|_| is_member) else {
            if is_member {
                // Too many: what this life has cannot be told from what others have discarded.
                self.tell_node(Word::Lost(view.number));
                return;
            }
            return self.adopt_next_view(view);
        };
        for view in missed {
            self.adopt_next_view(Arc::new(view));
        }
    }

    fn adopt_next_view(&mut self, view: Arc<View>) {
        self.counters.views += 1;
        let before = std::mem::replace(&mut self.view, view.clone());
        self.state = view.state(self.own.node, self.life.incarnation);
        let gone = self.update_links(&before);
        for link in self.links.ids().collect::<Vec<_>>() {
            self.announce_view(link);
        }
        self.tell_node(Word::View(view.clone()));
        self.marker.reset();
        if self.state.is_none() {
            // Out: serves nothing from here on; the node ends this life.
            for partition in &mut self.partitions {
                (partition.serving, partition.primary) = (false, None);
            }
            self.map = PartitionMap::default();
            return;
        }
        self.map = PartitionMap::new(&self.config, &view);
        self.remember_unfenced(&before);
        let changed = self.update_partitions();
        self.all_served = None;
        self.drop_orphans();
        self.redirect_coordinated(&changed, &gone);
        self.ask_again(&changed);
        self.await_counted();
        self.try_serve_all();
        self.include_joining();
        self.continue_copy_in();
        self.run_tasks();
    }

    /// Makes and ends links so that there is one to each other worker of each member, also of this node. Returns whose
    /// ended.
    fn update_links(&mut self, before: &View) -> BTreeSet<Endpoint> {
        let view = self.view.clone();
        let mut gone = BTreeSet::new();
        for member in &before.members {
            if view.contains(member.node, member.incarnation) {
                continue;
            }
            for worker in 0..member.workers {
                let endpoint = worker_of(Life { node: member.node, incarnation: member.incarnation }, worker);
                gone.insert(endpoint);
                if let Some(link) = self.data_links.remove(&endpoint) {
                    self.peers.remove(&link);
                    self.links.remove(link);
                    self.link_effect(LinkEffect::Close { link });
                    self.waits.link_gone(link, &mut self.tasks);
                    self.copies.retain(|copy| copy.link != link);
                }
            }
        }
        if self.state.is_none() {
            return gone;
        }
        for member in &view.members {
            let life = Life { node: member.node, incarnation: member.incarnation };
            for worker in 0..member.workers {
                let endpoint = worker_of(life, worker);
                if endpoint == self.own || self.data_links.contains_key(&endpoint) {
                    continue;
                }
                let link = self.links.add(endpoint, life.incarnation);
                self.data_links.insert(endpoint, link);
                self.peers.insert(link, Peer::Data(DataPeer { life, endpoint, view: ViewNumber::default() }));
                if self.own > endpoint {
                    self.link_effect(LinkEffect::Connect { link, to: endpoint });
                }
            }
        }
        gone
    }

    /// Members of the group that the view dropped may hold a lease until the node says that they are fenced.
    fn remember_unfenced(&mut self, before: &View) {
        let buddies: BTreeSet<NodeId> = self.config.buddies(self.own.node).collect();
        for member in &before.members {
            let life = Life { node: member.node, incarnation: member.incarnation };
            let dropped = !self.view.contains(member.node, member.incarnation);
            if dropped && buddies.contains(&member.node) && !self.fenced.contains(&life) {
                self.unfenced.insert(life);
            }
        }
        #[cfg(feature = "mutations")]
        if self.mutated(crate::mutation::Mutation::SkipFence) {
            self.unfenced.clear();
        }
    }

    /// Gives every partition its new primary and replicas. Returns those whose primary changed.
    fn update_partitions(&mut self) -> BTreeSet<PartitionId> {
        let mut changed = BTreeSet::new();
        let mut words = BTreeMap::new();
        let mut recent = self.outcomes.recent();
        for number in 0..self.map.partitions() {
            let partition = PartitionId(number);
            let primary = self.map.primary(partition);
            let before = std::mem::replace(&mut self.partition(partition).primary, primary);
            // The life counts too: a primary that came back under its id is another.
            let same_life = before.is_none_or(|before| before == self.own || self.is_same_life(before.node));
            let moved = before != primary || !same_life;
            if moved {
                changed.insert(partition);
            }
            if !self.is_replica(partition) {
                continue;
            }
            self.update_replicas(partition, moved);
            if moved {
                let decided = recent.remove(&partition).unwrap_or_default();
                self.primary_changed(partition, before, primary, decided, &mut words);
            } else if primary == Some(self.own) {
                self.replicas_changed(partition);
            }
        }
        // While this node loads nothing may be written over what it has.
        if self.redo.loaded {
            self.send_replica_states(words);
        }
        self.known_lives = self.view.members.iter().map(|member| (member.node, member.incarnation)).collect();
        changed
    }

    pub(super) fn send_replica_states(
        &mut self,
        words: BTreeMap<Endpoint, Vec<(PartitionId, ReplicaState)>>,
    ) {
        for (primary, word) in words {
            let Some(&link) = self.data_links.get(&primary) else { continue };
            for order in split_words(self.view.number, word) {
                self.send_control(link, Kind::ReplicaStateOrd, &order);
            }
        }
    }

    fn is_same_life(&self, node: NodeId) -> bool {
        let now = self.view.member(node).map(|member| member.incarnation);
        self.known_lives.get(&node).copied() == now
    }

    fn update_replicas(&mut self, partition: PartitionId, moved: bool) {
        let state = &mut self.partitions[usize::from(partition.0)];
        let before = std::mem::take(&mut state.replicas);
        for replica in self.map.replicas(partition) {
            let Some(&link) = self.data_links.get(&replica.endpoint) else { continue };
            // Who joins copies anew from a new primary, and goes on with one that stays.
            let kept = before.iter().find(|(other, _)| *other == link && !moved);
            let part = match replica.state {
                MemberState::Syncing => kept.map_or(Part::None, |(_, part)| (*part).min(Part::Included)),
                MemberState::Ready | MemberState::Up => Part::Counts,
            };
            state.replicas.push((link, part));
        }
    }

    fn primary_changed(
        &mut self,
        partition: PartitionId,
        before: Option<Endpoint>,
        primary: Option<Endpoint>,
        decided: Vec<(u64, TransactionId, Outcome)>,
        words: &mut BTreeMap<Endpoint, Vec<(PartitionId, ReplicaState)>>,
    ) {
        let view = self.view.number;
        if before == Some(self.own) {
            self.step_down(partition);
        }
        let state = self.partition(partition);
        (state.serving, state.changed) = (false, view);
        if primary == Some(self.own) {
            let others: Vec<NodeId> = self
                .map
                .replicas(partition)
                .iter()
                .filter(|replica| replica.endpoint != self.own && replica.state >= MemberState::Ready)
                .map(|replica| replica.endpoint.node)
                .collect();
            let state = self.partition(partition);
            state.handover.since = view;
            state.handover.missing = others;
            self.take_early_states(partition);
        } else if self.state >= Some(MemberState::Ready) {
            let open = self.partitions[usize::from(partition.0)]
                .open
                .iter()
                .map(|&slot| self.write_sets.get(slot).expect("open").header)
                .map(|header| (header.number, header.transaction))
                .collect();
            if let Some(primary) = primary {
                let word = ReplicaState { open, decided, goes_on: false };
                words.entry(primary).or_default().push((partition, word));
            }
        } else {
            self.renew_copy(partition);
        }
    }

    /// Serves the partition no more: transactions that are not prepared lose, the others become what they are at
    /// any replica.
    fn step_down(&mut self, partition: PartitionId) {
        self.partition(partition).handover.parked.clear();
        if !self.partition(partition).serving {
            return;
        }
        let open = self.partition(partition).open.clone();
        for slot in open {
            let write_set = self.write_sets.get_mut(slot).expect("open");
            let local = write_set.step_down();
            let header = write_set.header;
            self.less_open(header.prepared);
            let independent = |local: &u32| {
                let local = self.locals.get(*local).expect("it is prepared");
                !matches!(local.origin, Origin::Coordinated(_))
            };
            if let Some(local) = local.filter(independent) {
                self.coordinate_independent(local, &header);
            }
        }
        let here = |local: &Local| local.partitions.iter().any(|here| here.partition == partition);
        let here: Vec<u32> =
            self.locals.iter().filter(|(_, local)| here(local)).map(|(slot, _)| slot).collect();
        for slot in here {
            let Some(local) = self.locals.get(slot) else { continue };
            let prepared =
                local.partitions.iter().any(|here| here.partition == partition && here.write_set.is_some());
            if prepared || local.prepared {
                // What is prepared is the new primary's. What else a transaction in Prepare has, it refuses.
                self.release_partition(slot, partition);
            } else {
                let text = format!("node {} hands partition {partition} over", self.own.node);
                self.fail_local(slot, Error::new(ErrorCode::PrimaryChanged, text));
            }
        }
        self.copies.retain(|copy| copy.partition != partition);
    }

    /// Still its primary, with other replicas: those that left are not waited for, and those that count now are.
    fn replicas_changed(&mut self, partition: PartitionId) {
        let view = self.view.clone();
        self.partition(partition).handover.missing.retain(|&node| view.counts(node));
        if !self.partition(partition).serving {
            return;
        }
        let open = self.partition(partition).open.clone();
        for slot in open {
            if self.write_sets.get(slot).is_some_and(|write_set| !write_set.confirmed) {
                self.await_confirmation(slot);
            }
        }
    }

    /// Local transactions whose TC is gone: what is not prepared ends; what was refused for them may be forgotten.
    fn drop_orphans(&mut self) {
        let orphans: Vec<u32> = self
            .locals
            .iter()
            .filter(|(_, local)| match &local.origin {
                Origin::Coordinated(coordinator) => !self.is_coordinator_alive(coordinator),
                _ => false,
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in orphans {
            self.drop_unprepared(slot);
        }
        let view = self.view.clone();
        self.refused
            .retain(|_, coordinator| view.contains(coordinator.endpoint.node, coordinator.incarnation));
        let in_doubt: Vec<u32> = self
            .write_sets
            .iter()
            .filter(|(_, set)| set.doubt().is_none() && !self.is_coordinator_alive(&set.header.coordinator))
            .filter(|(_, set)| !set.header.refusal)
            .filter(|(_, set)| self.partitions[usize::from(set.header.partition.0)].serving)
            .map(|(slot, _)| slot)
            .collect();
        for slot in in_doubt {
            self.doubt(slot);
        }
    }

    /// Ends what a local transaction has in partitions in which it is not prepared.
    fn drop_unprepared(&mut self, slot: u32) {
        let local = self.locals.get(slot).expect("it is here");
        if !local.prepared {
            return self.end_local(slot);
        }
        let unprepared = local.partitions.iter().filter(|here| here.write_set.is_none());
        for partition in unprepared.map(|here| here.partition).collect::<Vec<_>>() {
            self.release_partition(slot, partition);
        }
    }

    /// Reports a buddy that became `ready` once it has all that was sent to it before.
    fn await_counted(&mut self) {
        if self.state != Some(MemberState::Up) {
            return;
        }
        let view = self.view.clone();
        let buddies: BTreeSet<NodeId> = self.config.buddies(self.own.node).collect();
        for member in &view.members {
            if member.state != MemberState::Ready || !buddies.contains(&member.node) {
                continue;
            }
            let life = Life { node: member.node, incarnation: member.incarnation };
            let links = (0..member.workers).filter_map(|worker| {
                outstanding(&self.links, *self.data_links.get(&worker_of(life, worker))?)
            });
            let positions: Vec<(LinkId, u64)> = links.collect();
            for &(link, _) in &positions {
                if let Some(link) = self.links.get_mut(link) {
                    link.want_acknowledgement();
                }
            }
            let action = Action::Counted { view: view.number, life };
            self.waits.add(positions.into_iter(), action, &mut self.tasks);
        }
    }

    pub(super) fn on_counted(&mut self, view: ViewNumber, life: Life) {
        if view == self.view.number {
            self.tell_node(Word::Counts(view, life));
        }
    }

    /// The word of another replica (`ReplicaStateOrd`).
    pub(super) fn on_replica_state(&mut self, node: NodeId, order: ReplicaStateOrd) {
        for (partition, word) in order.partitions {
            let Some(state) = self.partitions.get_mut(usize::from(partition.0)) else { continue };
            match state.handover.states.get_mut(&node) {
                Some((view, before)) if *view == order.view && before.goes_on => {
                    before.open.extend(word.open);
                    before.decided.extend(word.decided);
                    before.goes_on = word.goes_on;
                }
                _ => _ = state.handover.states.insert(node, (order.view, word)),
            }
            self.take_early_states(partition);
            self.try_serve(partition);
        }
    }

    /// Counts the words that came under a view at least as new as that which made this worker the primary.
    fn take_early_states(&mut self, partition: PartitionId) {
        let state = &mut self.partitions[usize::from(partition.0)];
        let since = state.handover.since;
        state.handover.states.retain(|_, (view, _)| *view >= since);
        let states = &state.handover.states;
        state.handover.missing.retain(|node| states.get(node).is_none_or(|(_, word)| word.goes_on));
    }

    pub(super) fn try_serve_all(&mut self) {
        for partition in 0..self.map.partitions() {
            self.try_serve(PartitionId(partition));
        }
    }

    /// Serves a partition if nothing is missing for it any more.
    fn try_serve(&mut self, partition: PartitionId) {
        let state = &mut self.partitions[usize::from(partition.0)];
        let may = self.redo.loaded && self.unfenced.is_empty();
        if state.serving || state.primary != Some(self.own) || !may {
            return;
        }
        #[cfg(feature = "mutations")]
        if self.mutation == Some(crate::mutation::Mutation::ServeBeforeReconciling) {
            state.handover.missing.clear();
        }
        if !state.handover.missing.is_empty() {
            return;
        }
        self.counters.takeovers += 1;
        self.reconcile(partition);
        self.rebuild_locks(partition);
        self.partition(partition).serving = true;
        self.all_served = None;
        let open = self.partition(partition).open.clone();
        for slot in open {
            self.await_confirmation(slot);
            let header = self.write_sets.get(slot).expect("open").header;
            if !header.refusal && !self.is_coordinator_alive(&header.coordinator) {
                self.doubt(slot);
            }
        }
        for parked in std::mem::take(&mut self.partition(partition).handover.parked) {
            match parked {
                // What a TC said that has left the view meanwhile does not count.
                Parked::Prepare(coordinator, _) | Parked::Decide(coordinator, _)
                    if !self.is_coordinator_alive(&coordinator) => {}
                Parked::Prepare(coordinator, request) => self.on_prepare(coordinator, request),
                Parked::Decide(coordinator, request) => self.on_decide(coordinator, request),
                Parked::Outcome(link, request) => self.tasks.push_back(Task::Outcome { link, request }),
                Parked::Copy(link, since) => self.begin_copy(link, partition, since),
            }
        }
    }

    /// Makes the replicas agree. What others know to be decided is decided here. Then this replica is the truth: what
    /// others have open and it does not is decided, or dropped; what it has open and they do not is sent.
    fn reconcile(&mut self, partition: PartitionId) {
        let states = std::mem::take(&mut self.partition(partition).handover.states);
        for &(number, transaction, outcome) in states.values().flat_map(|(_, state)| &state.decided) {
            let Some(slot) = self.find_numbered(partition, number) else { continue };
            if self.write_sets.get(slot).expect("open").header.transaction == transaction {
                self.close(slot, outcome);
            }
        }
        let replicas = self.map.replicas(partition).to_vec();
        let open: Vec<u32> = self.partition(partition).open.iter().copied().collect();
        // Who is joining gets a copy.
        for replica in replicas.into_iter().filter(|replica| replica.state >= MemberState::Ready) {
            let Some(&link) = self.data_links.get(&replica.endpoint) else { continue };
            let theirs = states.get(&replica.endpoint.node).map_or(&[][..], |(_, theirs)| &theirs.open);
            for &(number, transaction) in theirs {
                self.tell_decision(link, partition, number, transaction);
            }
            for &slot in &open {
                let write_set = self.write_sets.get(slot).expect("open");
                let header = &write_set.header;
                if theirs.contains(&(header.number, header.transaction)) {
                    continue;
                }
                if let Some(link) = self.links.get_mut(link) {
                    link.send(Kind::WriteSetReq as u8, 0, |out| write_set.encode(out));
                }
            }
            if let Some(link) = self.links.get_mut(link) {
                link.want_acknowledgement();
            }
        }
        for slot in open {
            let prepared = self.write_sets.get(slot).expect("open").header.prepared;
            *self.open_epochs.entry(prepared).or_default() += 1;
        }
    }

    /// Says what became of a write set that another replica has open, unless it is open here too.
    fn tell_decision(
        &mut self,
        link: LinkId,
        partition: PartitionId,
        number: u64,
        transaction: TransactionId,
    ) {
        let open = self.find_numbered(partition, number).and_then(|slot| self.write_sets.get(slot));
        if open.is_some_and(|open| open.header.transaction == transaction) {
            return;
        }
        #[cfg(feature = "mutations")]
        if self.mutated(crate::mutation::Mutation::ForgetOutcomes) {
            return;
        }
        // A write set that this replica lacks was never confirmed: to drop it is to refuse it.
        let outcome = self.outcomes.find(partition, transaction).unwrap_or(Outcome::Aborted);
        let order = DecideOrd { partition, number, transaction, outcome };
        if let Some(link) = self.links.get_mut(link) {
            link.send(Kind::DecideOrd as u8, 0, |out| order.encode(out));
        }
    }

    /// Locks what the open write sets write, for their transactions.
    fn rebuild_locks(&mut self, partition: PartitionId) {
        let open: Vec<u32> = self.partition(partition).open.iter().copied().collect();
        for slot in open {
            let write_set = self.write_sets.get(slot).expect("open");
            let header = write_set.header;
            if header.refusal {
                continue;
            }
            let keys: Vec<_> =
                write_set.images().map(|image| (image.table, image.tag, image.key.to_vec())).collect();
            // A transaction with several partitions here has one for each: they are all prepared.
            let local = self.adopt_prepared(&header);
            for (index, (table, tag, key)) in keys.iter().enumerate() {
                let key = LockKey { table: *table, partition, tag: *tag, key };
                let age = (0, header.transaction);
                let lock = self.locks.hold_prepared(&key, local, age, index as u32);
                self.locals.get_mut(local).expect("adopted").locks.push(lock);
            }
            let write_set = self.write_sets.get_mut(slot).expect("open");
            write_set.local = Some(local);
            let partitions = &mut self.locals.get_mut(local).expect("adopted").partitions;
            partitions.push(LocalPartition { partition, operations: 0, write_set: Some(slot) });
        }
    }

    /// The local transaction of a write set that was prepared by another primary.
    fn adopt_prepared(&mut self, header: &WriteSetHeader) -> u32 {
        let id = header.transaction;
        let slot = match self.local_ids.get(&id) {
            Some(&slot) => slot,
            None => self.begin_local(id, 0, Origin::Coordinated(header.coordinator)),
        };
        self.locals.get_mut(slot).expect("indexed locals exist").prepared = true;
        slot
    }

    pub(super) fn adopt_catalog(&mut self, catalog: &Catalog) {
        if catalog.version <= self.catalog_version {
            return;
        }
        self.catalog_version = catalog.version;
        self.next_table = catalog.next_table;
        let mut known = BTreeSet::new();
        for table in catalog.stored() {
            known.insert(table.id);
            let is_new = self.schemas.get(&table.id).is_none_or(|schema| *schema.table() != *table);
            if is_new {
                let table = table.into_owned();
                let schema = Arc::new(Schema::new(table).expect("the register checks tables"));
                self.store.define(&schema);
                self.schemas.insert(schema.id, schema);
            }
        }
        let dropped: Vec<_> = self.schemas.keys().copied().filter(|id| !known.contains(id)).collect();
        for table in dropped {
            self.schemas.remove(&table);
            self.store.drop_table(table);
        }
        self.tell_node(Word::Catalog(catalog.version));
        // What there is to build is built at the ticks.
        self.build_indexes(0);
    }
}

/// What a replica says to one primary, in messages of a bounded size.
pub(super) fn split_words(view: ViewNumber, words: Vec<(PartitionId, ReplicaState)>) -> Vec<ReplicaStateOrd> {
    let mut orders = Vec::new();
    let mut partitions = Vec::new();
    let mut room = OUTCOMES_IN_MESSAGE;
    for (partition, mut word) in words {
        let mut goes_on = true;
        while goes_on {
            let open = word.open.split_off(word.open.len().saturating_sub(room));
            room -= open.len();
            let decided = word.decided.split_off(word.decided.len().saturating_sub(room));
            room -= decided.len();
            goes_on = !word.open.is_empty() || !word.decided.is_empty();
            partitions.push((partition, ReplicaState { open, decided, goes_on }));
            if room == 0 {
                orders.push(ReplicaStateOrd { view, partitions: std::mem::take(&mut partitions) });
                room = OUTCOMES_IN_MESSAGE;
            }
        }
    }
    if !partitions.is_empty() {
        orders.push(ReplicaStateOrd { view, partitions });
    }
    orders
}
