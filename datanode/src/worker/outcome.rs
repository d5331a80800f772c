//! What became of transactions, and the questions of those who are in doubt.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Epoch, Incarnation, PartitionId, TransactionId},
    links::LinkId,
    message::{
        Coordinator, KeptOutcome, Kind, Known, Outcome, OutcomeConf, OutcomeReq, Participant, Status,
        StatusConf, StatusReq, WriteSetHeader, put_control,
    },
    time::{Duration, Time},
    wire::Malformed,
};

use super::{Peer, Task, Worker, partition::Parked};

/// How long the outcomes of a session without a connection are kept.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Transactions that were called aborted before they came, and how long they are kept: no request takes as long to come
/// once somebody else can ask about it.
const DISOWNED_MAX: usize = 1 << 16;
const DISOWNED_TIMEOUT: Duration = Duration::from_secs(60);

/// Commits of transactions that wrote nothing that are kept for a client that confirms none.
const READ_MAX: usize = 1 << 16;

/// Outcomes past which writes get a temporary error: epochs do not become complete, or sessions confirm nothing.
const OUTCOMES_MAX: usize = 1 << 22;

/// Outcomes in one message.
pub(super) const OUTCOMES_IN_MESSAGE: usize = 1 << 16;

/// An outcome in one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    partition: PartitionId,
    number: u64,
    transaction: TransactionId,
    commit_number: u64,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Session {
    /// The commit number up to which it has all answers, once it has said so, here or where a partition was copied from:
    /// what is above is kept.
    mark: Option<u64>,
    /// Since when it has no connection here.
    gone: Option<Time>,
}

/// Transactions that never came, and that somebody else than their session was told are aborted.
#[derive(Debug, Default)]
pub(super) struct Disowned {
    ids: BTreeMap<TransactionId, Time>,
    /// When each is looked at again.
    order: VecDeque<(Time, TransactionId)>,
}

impl Disowned {
    pub fn contains(&self, id: TransactionId) -> bool {
        self.ids.contains_key(&id)
    }

    fn insert(&mut self, id: TransactionId, now: Time) {
        self.ids.insert(id, now);
        self.order.push_back((now, id));
    }

    /// The session has ended.
    pub fn forget(&mut self, session: Incarnation) {
        self.ids.retain(|id, _| id.session != session);
    }

    fn forget_old(&mut self, now: Time) {
        while let Some(&(since, id)) = self.order.front()
            && now.since(since) >= DISOWNED_TIMEOUT
        {
            self.order.pop_front();
            if self.ids.get(&id) == Some(&since) {
                self.ids.remove(&id);
            }
        }
    }
}

/// The outcomes that somebody may yet ask for.
///
/// Each is kept until its epoch is complete (no participant is in doubt any more) and its session has confirmed the
/// answer. Nearly all have by the time that the epoch is complete, so the first list is a mere append by epoch.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    by_epoch: BTreeMap<Epoch, Vec<Record>>,
    /// In `by_epoch`.
    recent: usize,
    spare: Vec<Vec<Record>>,
    /// Of complete epochs, but not confirmed by the session.
    unconfirmed: BTreeMap<(TransactionId, PartitionId), (Epoch, Record)>,
    sessions: BTreeMap<Incarnation, Session>,
    /// Sessions that ended, in order, until what they left is forgotten.
    gone: VecDeque<(Time, Incarnation)>,
    /// The newest epoch of which an unconfirmed outcome was forgotten.
    forgotten: Epoch,
}

impl Outcomes {
    pub fn record(&mut self, header: &WriteSetHeader, outcome: Outcome) {
        let record = Record {
            partition: header.partition,
            number: header.number,
            transaction: header.transaction,
            commit_number: header.commit_number,
            outcome,
        };
        self.recent += 1;
        let spare = &mut self.spare;
        self.by_epoch.entry(header.prepared).or_insert_with(|| spare.pop().unwrap_or_default()).push(record);
    }

    /// What a joining node has to know, of a partition.
    pub fn kept(&self, partition: PartitionId) -> Vec<KeptOutcome> {
        let recent =
            self.by_epoch.iter().flat_map(|(epoch, records)| records.iter().map(|record| (*epoch, *record)));
        let all = recent.chain(self.unconfirmed.values().copied());
        all.filter(|(_, record)| record.partition == partition)
            .map(|(prepared, Record { number, transaction, commit_number, outcome, .. })| KeptOutcome {
                prepared,
                number,
                transaction,
                commit_number,
                outcome,
            })
            .collect()
    }

    /// Takes over what another replica keeps.
    pub fn learn(&mut self, partition: PartitionId, kept: &KeptOutcome) {
        let &KeptOutcome { prepared, number, transaction, commit_number, outcome } = kept;
        let record = Record { partition, number, transaction, commit_number, outcome };
        self.recent += 1;
        self.by_epoch.entry(prepared).or_default().push(record);
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.recent + self.unconfirmed.len()
    }

    /// What became of a transaction in a partition, if that is still known.
    pub fn find(&self, partition: PartitionId, transaction: TransactionId) -> Option<Outcome> {
        let is = |record: &&Record| record.transaction == transaction && record.partition == partition;
        let recent = self.by_epoch.values().rev().flatten().find(is);
        let record =
            recent.or_else(|| self.unconfirmed.get(&(transaction, partition)).map(|(_, record)| record));
        record.map(|record| record.outcome)
    }

    /// What was decided in epochs that are not complete, by partition: others may have it open still.
    pub fn recent(&self) -> BTreeMap<PartitionId, Vec<(u64, TransactionId, Outcome)>> {
        let mut recent: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for record in self.by_epoch.values().flatten() {
            let decided = (record.number, record.transaction, record.outcome);
            recent.entry(record.partition).or_default().push(decided);
        }
        recent
    }

    /// The session has all answers up to this commit number.
    pub fn mark(&mut self, session: Incarnation, mark: u64) {
        let state = self.sessions.entry(session).or_default();
        let mark = state.mark.map_or(mark, |known| known.max(mark));
        state.mark = Some(mark);
        self.forget(session, |record| record.commit_number <= mark);
    }

    /// The marks that are known here, for a joining node: it gets no outcomes that were forgotten for them.
    pub fn marks(&self) -> Vec<(Incarnation, u64)> {
        let marks = self.sessions.iter().filter_map(|(session, state)| Some((*session, state.mark?)));
        marks.collect()
    }

    /// Another replica has heard this mark.
    pub fn learn_mark(&mut self, session: Incarnation, mark: u64, now: Time) {
        self.session(session, now);
        self.mark(session, mark);
    }

    /// A session that has written here. It may have yet to connect, or never will.
    fn session(&mut self, session: Incarnation, now: Time) -> &Session {
        let gone = &mut self.gone;
        self.sessions.entry(session).or_insert_with(|| {
            gone.push_back((now, session));
            Session { mark: None, gone: Some(now) }
        })
    }

    fn forget(&mut self, session: Incarnation, done: impl Fn(&Record) -> bool) {
        let first = (TransactionId { session, number: 0 }, PartitionId(0));
        let last = (TransactionId { session, number: u64::MAX }, PartitionId(u16::MAX));
        let done: Vec<_> = self
            .unconfirmed
            .range(first..=last)
            .filter(|(_, (_, record))| done(record))
            .map(|(k, _)| *k)
            .collect();
        for key in done {
            self.unconfirmed.remove(&key);
        }
    }

    pub fn has_confirmed(&self, session: Incarnation, commit_number: u64) -> bool {
        self.sessions.get(&session).is_some_and(|session| Some(commit_number) <= session.mark)
    }

    /// Whether the outcome of a commit that was asked for in this epoch may have been forgotten.
    pub fn may_have_forgotten(&self, epoch: Epoch) -> bool {
        self.forgotten > Epoch::default() && epoch <= self.forgotten
    }

    /// Whether the session has told its mark and has not ended for long: then all outcomes above that are kept.
    pub fn knows(&self, session: Incarnation) -> bool {
        self.sessions.get(&session).is_some_and(|session| session.mark.is_some())
    }

    /// The newest epoch of which an unconfirmed outcome was forgotten.
    pub fn forgotten(&self) -> Epoch {
        self.forgotten
    }

    /// Another replica has forgotten some of these epochs.
    pub fn forget_to(&mut self, forgotten: Epoch) {
        self.forgotten = self.forgotten.max(forgotten);
    }

    /// A session has a link here.
    pub fn session_known(&mut self, session: Incarnation) {
        self.sessions.entry(session).or_default().gone = None;
    }

    /// A session has none any more.
    pub fn session_gone(&mut self, session: Incarnation, now: Time) {
        let state = self.sessions.entry(session).or_default();
        state.gone = Some(now);
        self.gone.push_back((now, session));
    }

    /// These epochs are complete: outcomes that their sessions have confirmed go.
    pub fn complete(&mut self, complete: Epoch, now: Time) {
        while let Some(entry) = self.by_epoch.first_entry()
            && *entry.key() <= complete
        {
            let (epoch, mut records) = entry.remove_entry();
            self.recent -= records.len();
            for record in records.drain(..) {
                let state = self.session(record.transaction.session, now);
                if record.commit_number > state.mark.unwrap_or(0) {
                    self.unconfirmed.insert((record.transaction, record.partition), (epoch, record));
                }
            }
            if self.spare.len() < 8 {
                self.spare.push(records);
            }
        }
        while let Some(&(since, session)) = self.gone.front()
            && now.since(since) >= SESSION_TIMEOUT
        {
            self.gone.pop_front();
            if self.sessions.get(&session).is_some_and(|state| state.gone == Some(since)) {
                self.sessions.remove(&session);
                let of_session =
                    self.unconfirmed.values().filter(|(_, record)| record.transaction.session == session);
                self.forgotten =
                    of_session.map(|(epoch, _)| *epoch).max().unwrap_or_default().max(self.forgotten);
                self.forget(session, |_| true);
            }
        }
    }
}

/// The search for the outcome of a prepared transaction whose TC is gone.
#[derive(Debug)]
pub(super) struct Doubt {
    /// What the other participants know; `None`: not answered yet, by the worker that was asked last.
    answers: Vec<(PartitionId, Option<Known>)>,
}

impl Worker {
    /// Whether the outcomes of more commits can be kept.
    pub(super) fn check_outcomes(&self) -> Result<(), Error> {
        let kept = self.outcomes.len();
        if kept < OUTCOMES_MAX {
            return Ok(());
        }
        let text = format!(
            "node {} keeps {kept} outcomes: epoch {} is not complete, or sessions do not confirm",
            self.own.node,
            self.complete.next()
        );
        Err(Error::new(ErrorCode::Overloaded, text))
    }

    pub(super) fn forget_old_disowned(&mut self) {
        self.disowned.forget_old(self.now);
    }

    /// Asks the other participants about a prepared transaction whose TC is gone.
    pub(super) fn doubt(&mut self, slot: u32) {
        self.counters.in_doubt += 1;
        let write_set = self.write_sets.get_mut(slot).expect("it is open");
        let own = write_set.header.partition;
        let others: Vec<PartitionId> = write_set
            .participants()
            .iter()
            .map(|other| other.partition)
            .filter(|&other| other != own)
            .collect();
        write_set.interest().doubt =
            Some(Doubt { answers: others.iter().map(|&other| (other, None)).collect() });
        if write_set.confirmed && others.is_empty() {
            let stamp = write_set.header.stamp;
            return self.decide(slot, Outcome::Committed(stamp));
        }
        for other in others {
            self.ask(slot, other);
        }
    }

    fn ask(&mut self, slot: u32, asked: PartitionId) {
        let header = self.write_sets.get(slot).expect("in doubt").header;
        let request = OutcomeReq {
            transaction: header.transaction,
            commit_number: header.commit_number,
            coordinator: header.coordinator,
            prepared: header.prepared,
            asked,
            asking: header.partition,
        };
        match self.map.primary(asked) {
            Some(primary) if primary == self.own => {
                self.tasks.push_back(Task::Outcome { link: None, request })
            }
            Some(primary) => {
                if let Some(&link) = self.data_links.get(&primary) {
                    self.send_control(link, Kind::OutcomeReq, &request);
                }
            }
            // Its group has no `up` member: a later view names one.
            None => {}
        }
    }

    /// A view has changed these partitions' primaries: puts the questions that they have not answered again.
    pub(super) fn ask_again(&mut self, changed: &BTreeSet<PartitionId>) {
        let mut questions = Vec::new();
        for (slot, write_set) in self.write_sets.iter() {
            let answers = write_set.doubt().into_iter().flat_map(|doubt| &doubt.answers);
            let open = answers.filter(|(partition, known)| known.is_none() && changed.contains(partition));
            questions.extend(open.map(|(partition, _)| (slot, *partition)));
        }
        for (slot, partition) in questions {
            self.ask(slot, partition);
        }
    }

    /// Another participant is in doubt (`OutcomeReq`); `link`: `None` if it is a partition of this worker.
    pub(super) fn on_outcome_req(&mut self, link: Option<LinkId>, request: OutcomeReq) {
        let partition = request.asked;
        let state = &mut self.partitions[usize::from(partition.0)];
        if state.primary != Some(self.own) {
            // The asker has yet to learn of the view; it will ask the new primary.
            return;
        }
        if request.prepared <= self.complete {
            // A question put twice: nobody is in doubt in a complete epoch.
            return;
        }
        if !state.serving {
            state.handover.parked.push(Parked::Outcome(link, request));
            return;
        }
        if let Some(slot) = self.find_write_set(partition, request.transaction) {
            let write_set = self.write_sets.get_mut(slot).expect("just found");
            write_set.interest().askers.push((link, request.asking));
            if write_set.confirmed {
                self.answer_askers(slot);
            }
            return;
        }
        if let Some(outcome) = self.outcomes.find(partition, request.transaction) {
            let known = Known::Decided(outcome);
            let conf = OutcomeConf {
                transaction: request.transaction,
                asked: partition,
                asking: request.asking,
                known,
            };
            return self.answer_outcome(link, conf);
        }
        #[cfg(feature = "mutations")]
        if self.mutated(crate::mutation::Mutation::NotFoundMeansAborted) {
            let known = Known::Decided(Outcome::Aborted);
            let conf = OutcomeConf {
                transaction: request.transaction,
                asked: partition,
                asking: request.asking,
                known,
            };
            return self.answer_outcome(link, conf);
        }
        let slot = self.plant_refusal(
            partition,
            request.transaction,
            request.commit_number,
            request.coordinator,
            request.prepared,
        );
        if let Some(write_set) = slot.and_then(|slot| self.write_sets.get_mut(slot)) {
            write_set.interest().askers.push((link, request.asking));
        }
    }

    /// Makes it impossible for a transaction to be prepared in a partition: on all replicas, before anybody hears.
    fn plant_refusal(
        &mut self,
        partition: PartitionId,
        transaction: TransactionId,
        commit_number: u64,
        coordinator: Coordinator,
        prepared: Epoch,
    ) -> Option<u32> {
        self.counters.planted += 1;
        let state = &mut self.partitions[usize::from(partition.0)];
        state.number += 1;
        let header = WriteSetHeader {
            partition,
            number: state.number,
            transaction,
            commit_number,
            coordinator,
            prepared,
            stamp: self.epoch,
            refusal: true,
            participants: 1,
            images: 0,
        };
        let mut write_set = self.write_sets.recycled();
        write_set.reset(header, None, &[Participant { partition, operations: 0 }]);
        let slot = self.open_write_set(write_set);
        self.replicate(slot);
        Some(slot)
    }

    /// The write set is confirmed: tells those who asked about the transaction.
    pub(super) fn answer_askers(&mut self, slot: u32) {
        let write_set = self.write_sets.get_mut(slot).expect("confirmed");
        let (header, askers) = (write_set.header, write_set.take_askers());
        for (link, asking) in askers {
            let known = Known::Prepared(header.stamp);
            let conf =
                OutcomeConf { transaction: header.transaction, asked: header.partition, asking, known };
            self.answer_outcome(link, conf);
        }
    }

    /// The write set is decided: tells those who asked and were not answered.
    pub(super) fn answer_decided(&mut self, slot: u32, outcome: Outcome) {
        let write_set = self.write_sets.get_mut(slot).expect("it is open");
        let (header, askers) = (write_set.header, write_set.take_askers());
        for (link, asking) in askers {
            let known = Known::Decided(outcome);
            let conf =
                OutcomeConf { transaction: header.transaction, asked: header.partition, asking, known };
            self.answer_outcome(link, conf);
        }
    }

    fn answer_outcome(&mut self, link: Option<LinkId>, conf: OutcomeConf) {
        match link {
            None => self.tasks.push_back(Task::OutcomeKnown(conf)),
            Some(link) => self.send_control(link, Kind::OutcomeConf, &conf),
        }
    }

    /// An answer to a question of ours (`OutcomeConf`). It is binding, whoever is primary by now.
    pub(super) fn on_outcome_conf(&mut self, conf: OutcomeConf) {
        let Some(slot) = self.find_write_set(conf.asking, conf.transaction) else { return };
        let Some(write_set) = self.write_sets.get_mut(slot).filter(|write_set| write_set.doubt().is_some())
        else {
            return;
        };
        let Some(doubt) = &mut write_set.interest().doubt else { return };
        let answer = doubt.answers.iter_mut().find(|(partition, _)| *partition == conf.asked);
        if let Some((_, answer)) = answer {
            *answer = Some(conf.known);
        }
        self.try_resolve(slot);
    }

    /// Decides a transaction in doubt, if enough is known.
    pub(super) fn try_resolve(&mut self, slot: u32) {
        let Some(write_set) = self.write_sets.get(slot) else { return };
        let Some(doubt) = write_set.doubt() else { return };
        let mut stamp = write_set.header.stamp;
        let mut all = write_set.confirmed;
        for (_, known) in &doubt.answers {
            match known {
                Some(Known::Decided(outcome)) => {
                    let outcome = *outcome;
                    return self.decide(slot, outcome);
                }
                Some(Known::Prepared(other)) => stamp = stamp.max(*other),
                None => all = false,
            }
        }
        if all {
            self.decide(slot, Outcome::Committed(stamp));
        }
    }

    /// A client asks what became of a transaction (`StatusReq`).
    pub(super) fn on_status(&mut self, client: LinkId, request: &StatusReq) -> Result<(), Malformed> {
        if usize::from(request.partition.0) >= self.partitions.len() {
            return Err(Malformed("StatusReq"));
        }
        let status = self.status(client, request);
        let conf = StatusConf { request: request.request, status };
        if let Some(link) = self.client_link(client) {
            link.send(Kind::StatusConf as u8, 0, |out| put_control(out, &conf));
        }
        Ok(())
    }

    fn status(&mut self, client: LinkId, request: &StatusReq) -> Status {
        let id = request.transaction;
        let known = self.outcomes.find(request.partition, id);
        if let Some(outcome) = known {
            return Status::Decided(outcome);
        }
        if !request.disowned && self.is_coordinator_alive(&request.coordinator) {
            if request.coordinator != self.coordinator_here() {
                return Status::AskElsewhere;
            }
            let open =
                self.coordinated.contains_key(&id) || self.find_write_set(request.partition, id).is_some();
            let waiting = || self.locals.iter().any(|(_, local)| local.id == id);
            return match self.coordinated_outcome(id).or_else(|| self.find_read(request)) {
                Some(outcome) => Status::Decided(outcome),
                None if open || waiting() => Status::Pending,
                None if self.was_confirmed(request) => Status::Finished,
                // It never came, or it has ended: the partition knows. The session's requests come in order, so none can
                // come after its own question. After another's one could: it is refused from now on.
                None if self.session(client) == id.session => Status::Disowned,
                None if self.disowned.ids.len() >= DISOWNED_MAX => Status::Pending,
                #[cfg(feature = "mutations")]
                None if self.mutated(crate::mutation::Mutation::NotFoundMeansAborted) => {
                    Status::Decided(Outcome::Aborted)
                }
                None => {
                    self.disowned.insert(id, self.now);
                    Status::Disowned
                }
            };
        }
        let state = &self.partitions[usize::from(request.partition.0)];
        if state.primary != Some(self.own) {
            return Status::AskElsewhere;
        }
        if !state.serving || !self.has_lease() || self.find_write_set(request.partition, id).is_some() {
            return Status::Pending;
        }
        if self.was_confirmed(request) {
            return Status::Finished;
        }
        if request.disowned {
            // The TC ends nothing that is not decided here.
            return Status::Decided(Outcome::Aborted);
        }
        // The client hears of the refusal when it asks again, once all replicas have it. It need not be kept longer than
        // others may be in doubt: who asks late gets another. What the question says of itself is not to be relied on.
        if self.check_outcomes().is_ok() {
            self.plant_refusal(request.partition, id, 0, request.coordinator, self.epoch);
        }
        Status::Pending
    }

    /// The client is told that a transaction is committed that has written nothing.
    pub(super) fn keep_read(&mut self, client: LinkId, commit_number: u64, id: TransactionId, epoch: Epoch) {
        if let Some(Peer::Client(client)) = self.peers.get_mut(&client) {
            client.read.insert(commit_number, (id, epoch));
            if client.read.len() > READ_MAX {
                client.read.pop_first();
            }
        }
    }

    fn find_read(&self, request: &StatusReq) -> Option<Outcome> {
        let of_session = self.peers.values().find_map(|peer| match peer {
            Peer::Client(client) if client.session == request.transaction.session => Some(client),
            _ => None,
        });
        let &(id, epoch) = of_session?.read.get(&request.commit_number)?;
        (id == request.transaction).then_some(Outcome::Committed(epoch))
    }

    fn was_confirmed(&self, request: &StatusReq) -> bool {
        self.outcomes.has_confirmed(request.transaction.session, request.commit_number)
            || self.outcomes.may_have_forgotten(request.epoch)
            || (request.epoch <= self.complete && !self.outcomes.knows(request.transaction.session))
    }
}
