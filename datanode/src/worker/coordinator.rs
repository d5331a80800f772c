//! The TC: drives transactions that clients began here. Statements go to the primaries, then Prepare, then the decision.

use std::collections::{BTreeMap, BTreeSet};

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Endpoint, Epoch, PartitionId, TransactionId},
    limits::{REQUEST_OPERATIONS_MAX, TRANSACTION_BYTES_MAX},
    links::LinkId,
    message::{
        ALONE, BEGIN, COMMIT, DecideConf, DecideReq, ExecuteConf, ExecuteRef, ExecuteReq, Kind, Outcome,
        Participant, PrepareConf, PrepareRef, PrepareReq, ROLLBACK, SERIALIZABLE, TransactionConf,
        TransactionRef, TransactionReq, TransactionState, UNDO, UndoOrd, WoundOrd, WriteSetHeader,
        put_control,
    },
    operation::OperationRef,
    result::ResultCode,
    time::{Duration, Time},
    wire::{Malformed, Reader, Writer},
};

use super::{
    Peer, Task, Worker,
    client::check_statement_bytes,
    entries::Entries,
    local::Origin,
    query::{Results, lock_mode, parse_result, results_too_large},
};

/// A participant, as its TC sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Part {
    operations: u32,
    /// The primary that the TC deals with.
    endpoint: Endpoint,
    /// Prepared there, with this stamp.
    stamp: Option<Epoch>,
    /// It knows the decision, and its replicas too.
    knows: bool,
}

/// How far a transaction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Between statements, or in one.
    Executing,
    /// Prepare was sent: only a participant's refusal aborts now.
    Preparing,
    /// All is decided; participants are being told.
    Decided(Outcome),
}

/// A statement under way.
#[derive(Debug)]
pub(super) struct Statement {
    /// The client's request.
    request: u32,
    pub number: u32,
    commit: bool,
    begins: bool,
    /// Workers that have not answered.
    waits: BTreeSet<Endpoint>,
    /// By operation; none once it has failed.
    results: Vec<Option<Vec<u8>>>,
    result_bytes: usize,
    pub failure: Option<ExecuteRef>,
    /// It is an independent write, and answered as such.
    alone: bool,
    pub entries: Entries,
}

impl Statement {
    /// Bytes that are held for it.
    fn held(&self) -> usize {
        self.result_bytes + self.results.len() * size_of::<Option<Vec<u8>>>()
    }

    /// Fails: its results are needed no more. Returns the bytes that were held for them.
    pub fn fail(&mut self, failure: ExecuteRef) -> usize {
        let held = self.held();
        (self.results, self.result_bytes, self.failure) = (Vec::new(), 0, Some(failure));
        held
    }
}

/// A client that waits for a commit.
#[derive(Debug)]
enum Committing {
    Transaction {
        request: u32,
        results: Vec<Option<Vec<u8>>>,
        /// Bytes of them.
        held: usize,
    },
    /// An independent write whose partition was handed over meanwhile.
    Operation { request: u32, result: Vec<u8> },
}

/// A transaction that is coordinated here.
#[derive(Debug)]
pub(super) struct Coordinated {
    client: LinkId,
    timestamp: u64,
    serializable: bool,
    stage: Stage,
    /// By partition: those in which it holds locks, as far as the TC knows.
    parts: BTreeMap<PartitionId, Part>,
    /// Workers that ran something for it, locks or not.
    workers: BTreeSet<Endpoint>,
    pub statement: Option<Statement>,
    wrote: bool,
    /// The request that asked for the commit, not answered yet.
    committing: Option<Committing>,
    commit_number: u64,
    /// The epoch in which Prepare was sent.
    prepared: Epoch,
    last_used: Time,
}

impl Worker {
    /// A statement, a commit or a rollback (`TransactionReq`).
    pub(super) fn on_transaction(&mut self, client: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "TransactionReq");
        let request = TransactionReq::parse(&mut reader)?;
        let operations = reader.rest();
        let id = TransactionId { session: self.session(client), number: request.number };
        self.counters.statements += 1;
        let now = self.now;
        if request.has(BEGIN) && !self.coordinated.contains_key(&id) && !self.disowned.contains(id) {
            if let Err(error) = self.check_statement(client).and_then(|()| self.check_writes()) {
                self.refuse_transaction(client, request.request, TransactionState::Aborted, None, error);
                return Ok(());
            }
            self.coordinate(client, id, &request);
        }
        let Some(coordinated) = self.coordinated.get_mut(&id) else {
            let unknown =
                || Error::new(ErrorCode::NoSuchTransaction, format!("transaction {} is not open", id.number));
            let error = self.failed.remove(&id).map_or_else(unknown, |(_, error)| error);
            self.refuse_transaction(client, request.request, TransactionState::Aborted, None, error);
            return Ok(());
        };
        if coordinated.stage != Stage::Executing || coordinated.statement.is_some() {
            return Err(Malformed("TransactionReq: the transaction is busy with another request"));
        }
        coordinated.last_used = now;
        if request.has(ROLLBACK) {
            self.abandon(id);
            let conf = TransactionConf {
                request: request.request,
                state: TransactionState::Aborted,
                epoch: self.epoch,
                results: 0,
            };
            self.answer_transaction(client, &conf, &[]);
            return Ok(());
        }
        if request.has(UNDO) {
            let workers = coordinated.workers.clone();
            let undo = UndoOrd { transaction: id, statement: request.statement };
            for worker in workers {
                self.tell_worker(worker, Kind::UndoOrd, &undo, Task::Undo(self.coordinator_here(), undo));
            }
        }
        if request.operations > 0
            && !request.has(BEGIN)
            && let Err(error) = self.check_statement(client)
        {
            self.refuse_transaction(client, request.request, TransactionState::Open, None, error);
            return Ok(());
        }
        if request.has(COMMIT) {
            let coordinated = self.coordinated.get_mut(&id).expect("checked above");
            coordinated.commit_number = request.commit_number;
        }
        self.begin_statement(id, &request, operations, false)
    }

    fn coordinate(&mut self, client: LinkId, id: TransactionId, request: &TransactionReq) {
        let coordinated = Coordinated {
            client,
            timestamp: request.timestamp,
            serializable: request.has(SERIALIZABLE),
            stage: Stage::Executing,
            parts: BTreeMap::new(),
            workers: BTreeSet::new(),
            statement: None,
            wrote: false,
            committing: None,
            commit_number: 0,
            prepared: Epoch::default(),
            last_used: self.now,
        };
        self.opened(client);
        self.coordinated.insert(id, coordinated);
    }

    /// An independent write that has to change entries of unique indexes: a transaction of several participants, answered as such a
    /// write is.
    pub(super) fn coordinate_write(
        &mut self,
        client: LinkId,
        request: &TransactionReq,
        operation: &[u8],
    ) -> Result<(), Malformed> {
        let id = TransactionId { session: self.session(client), number: request.number };
        if self.coordinated.contains_key(&id) {
            return Err(Malformed("WriteReq: the transaction is under way"));
        }
        self.coordinate(client, id, request);
        self.coordinated.get_mut(&id).expect("just begun").commit_number = request.commit_number;
        self.begin_statement(id, request, operation, true)
    }

    fn begin_statement(
        &mut self,
        id: TransactionId,
        request: &TransactionReq,
        operations: &[u8],
        alone: bool,
    ) -> Result<(), Malformed> {
        if usize::from(request.operations) > REQUEST_OPERATIONS_MAX
            || operations.len() > TRANSACTION_BYTES_MAX
        {
            return Err(Malformed("TransactionReq: too large"));
        }
        let statement = Statement {
            request: request.request,
            number: request.statement,
            commit: request.has(COMMIT),
            begins: request.has(BEGIN),
            waits: BTreeSet::new(),
            results: vec![None; usize::from(request.operations)],
            result_bytes: 0,
            failure: None,
            alone,
            entries: Entries::default(),
        };
        self.send_operations(id, statement, request.operations, operations)
    }

    /// Sends operations of a statement to the primaries.
    pub(super) fn send_operations(
        &mut self,
        id: TransactionId,
        mut statement: Statement,
        count: u16,
        operations: &[u8],
    ) -> Result<(), Malformed> {
        let mut parts: BTreeMap<Endpoint, (u16, Vec<u8>)> = BTreeMap::new();
        let mut reader = Reader::new(operations, "operations");
        let coordinated = self.coordinated.get_mut(&id).expect("it has a statement");
        let mut lost = None;
        for index in 0..count {
            let before = reader.rest();
            let operation = OperationRef::parse(&mut reader)?;
            let bytes = &before[..before.len() - reader.rest().len()];
            let partition = operation.hash.partition(self.config.partitions);
            let Some(primary) = self.map.primary(partition) else {
                lost = Some(partition);
                continue;
            };
            let (count, buffer) = parts.entry(primary).or_default();
            *count += 1;
            buffer.put_u16(index);
            buffer.put(bytes);
            coordinated.wrote |= operation.writes();
            if lock_mode(&operation, coordinated.serializable).is_some() {
                let fresh = Part { operations: 0, endpoint: primary, stamp: None, knows: false };
                let part = coordinated.parts.entry(partition).or_insert(fresh);
                part.operations += 1;
            }
        }
        reader.finish()?;
        if let Some(partition) = lost {
            let client = coordinated.client;
            self.abandon(id);
            let error = Error::new(
                ErrorCode::NotServing,
                format!("partition {partition} has no node that serves it"),
            );
            self.refuse_statement_of(client, &statement, TransactionState::Aborted, None, error);
            return Ok(());
        }
        coordinated.workers.extend(parts.keys());
        statement.waits = parts.keys().copied().collect();
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let answers_refusals = statement.alone && !statement.entries.under_way();
        let flags = flag(coordinated.serializable, SERIALIZABLE) | flag(answers_refusals, ALONE);
        let (timestamp, number) = (coordinated.timestamp, statement.number);
        self.statement_bytes += statement.held();
        coordinated.statement = Some(statement);
        for (worker, (count, operations)) in parts {
            let request =
                ExecuteReq { transaction: id, timestamp, statement: number, flags, operations: count };
            if worker == self.own {
                self.tasks.push_back(Task::Execute { request, operations });
            } else if let Some(link) = self.data_links.get(&worker).and_then(|&link| self.links.get_mut(link))
            {
                link.send(Kind::ExecuteReq as u8, 0, |out| {
                    request.encode(out);
                    out.put(&operations);
                });
            }
        }
        self.statement_answered(id);
        Ok(())
    }

    /// A worker has run its part (`ExecuteConf`).
    pub(super) fn on_execute_conf(&mut self, sender: Endpoint, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "ExecuteConf");
        let conf = ExecuteConf::parse(&mut reader)?;
        let results = (0..conf.results).map(|_| parse_result(&mut reader)).collect::<Result<_, _>>()?;
        self.on_executed(sender, conf.transaction, conf.statement, results, reader.rest())
    }

    pub(super) fn on_executed(
        &mut self,
        sender: Endpoint,
        id: TransactionId,
        number: u32,
        results: Results,
        entries: &[u8],
    ) -> Result<(), Malformed> {
        let Some(coordinated) = self.coordinated.get_mut(&id) else { return Ok(()) };
        let Some(statement) = coordinated.statement.as_mut().filter(|statement| statement.number == number)
        else {
            return Ok(());
        };
        if statement.entries.under_way() {
            statement.waits.remove(&sender);
            self.statement_answered(id);
            return Ok(());
        }
        statement.entries.note(entries)?;
        if statement.failure.is_none() {
            let bytes = entries.len() + results.iter().map(|(_, result)| result.len()).sum::<usize>();
            statement.result_bytes += bytes;
            self.statement_bytes += bytes;
            for (index, result) in results {
                if let Some(place) = statement.results.get_mut(usize::from(index)) {
                    *place = Some(result);
                }
            }
            let error = if statement.result_bytes > TRANSACTION_BYTES_MAX {
                Some(results_too_large())
            } else {
                check_statement_bytes(self.own, self.statement_bytes).err()
            };
            if let Some(error) = error {
                let (operation, open) = (None, true);
                let failure = ExecuteRef { transaction: id, statement: number, operation, open, error };
                self.statement_bytes -= statement.fail(failure);
            }
        }
        statement.waits.remove(&sender);
        self.statement_answered(id);
        Ok(())
    }

    /// A worker could not run its part (`ExecuteRef`).
    pub(super) fn on_execute_ref(&mut self, sender: Endpoint, mut failure: ExecuteRef) {
        let id = failure.transaction;
        let Some(coordinated) = self.coordinated.get_mut(&id) else { return };
        let statement =
            coordinated.statement.as_mut().filter(|statement| statement.number == failure.statement);
        let Some(statement) = statement else { return };
        statement.entries.explain(&mut failure, &self.schemas);
        // The failure that ends the transaction counts most, then the first.
        if statement.failure.as_ref().is_none_or(|other| other.open && !failure.open) {
            self.statement_bytes -= statement.fail(failure);
        }
        statement.waits.remove(&sender);
        self.statement_answered(id);
    }

    /// Goes on if all workers have answered.
    pub(super) fn statement_answered(&mut self, id: TransactionId) {
        let coordinated = self.coordinated.get_mut(&id).expect("it has a statement");
        let Some(mut statement) = coordinated.statement.take_if(|statement| statement.waits.is_empty())
        else {
            return;
        };
        let held = statement.held();
        self.statement_bytes -= held;
        let client = coordinated.client;
        if let Some(failure) = statement.failure.take() {
            let whole = !failure.open || (statement.begins && statement.commit);
            if whole {
                self.abandon(id);
            } else {
                let undo = UndoOrd { transaction: id, statement: statement.number };
                for worker in coordinated.workers.clone() {
                    self.tell_worker(worker, Kind::UndoOrd, &undo, Task::Undo(self.coordinator_here(), undo));
                }
            }
            let state = if whole { TransactionState::Aborted } else { TransactionState::Open };
            return self.refuse_statement_of(client, &statement, state, failure.operation, failure.error);
        }
        if statement.alone
            && let Some(Some(result)) = statement.results.first()
            && result.first() != Some(&(ResultCode::Ok as u8))
        {
            self.abandon(id);
            return self.answer_operation(client, statement.request, result);
        }
        if statement.entries.are_to_be_changed() {
            return self.change_entries(id, statement);
        }
        if statement.commit {
            let Statement { request, mut results, alone, .. } = statement;
            coordinated.committing = Some(match alone {
                false => {
                    self.statement_bytes += held;
                    Committing::Transaction { request, results, held }
                }
                true => {
                    let result = results.pop().flatten().unwrap_or_default();
                    Committing::Operation { request, result }
                }
            });
            return self.prepare_all(id);
        }
        let conf = TransactionConf {
            request: statement.request,
            state: TransactionState::Open,
            epoch: self.epoch,
            results: statement.results.len() as u16,
        };
        self.answer_transaction(client, &conf, &statement.results);
    }

    /// The partition of an independent write that is prepared is handed over: from here on this worker is its TC as
    /// that of any other transaction, and asks the new primary.
    pub(super) fn coordinate_independent(&mut self, local: u32, header: &WriteSetHeader) {
        let local = self.locals.get_mut(local).expect("it is prepared");
        let (client, committing) = match local.origin {
            Origin::Independent { client, request, .. } => {
                let result = std::mem::take(&mut local.result);
                (client, Some(Committing::Operation { request, result }))
            }
            _ => (LinkId::NONE, None),
        };
        let part = Part { operations: 1, endpoint: self.own, stamp: None, knows: false };
        let coordinated = Coordinated {
            client,
            timestamp: local.age().0,
            serializable: false,
            stage: Stage::Preparing,
            parts: BTreeMap::from([(header.partition, part)]),
            workers: BTreeSet::new(),
            statement: None,
            wrote: true,
            committing,
            commit_number: header.commit_number,
            prepared: header.prepared,
            last_used: self.now,
        };
        *self.open_epochs.entry(header.prepared).or_default() += 1;
        self.opened(client);
        self.coordinated.insert(header.transaction, coordinated);
    }

    /// Asks all participants to prepare.
    fn prepare_all(&mut self, id: TransactionId) {
        let coordinated = self.coordinated.get_mut(&id).expect("it commits");
        coordinated.stage = Stage::Preparing;
        coordinated.prepared = self.epoch;
        *self.open_epochs.entry(self.epoch).or_default() += 1;
        if coordinated.parts.is_empty() {
            return self.conclude(id, Outcome::Committed(self.epoch));
        }
        let partitions = coordinated.parts.keys().copied().collect();
        self.send_prepare(id, partitions);
    }

    fn send_prepare(&mut self, id: TransactionId, partitions: BTreeSet<PartitionId>) {
        let coordinated = &self.coordinated[&id];
        let participants: Vec<Participant> = coordinated
            .parts
            .iter()
            .map(|(&partition, part)| Participant { partition, operations: part.operations })
            .collect();
        let (commit_number, read_only, epoch) =
            (coordinated.commit_number, !coordinated.wrote, coordinated.prepared);
        for (worker, partitions) in self.by_worker(id, partitions) {
            let request = PrepareReq {
                transaction: id,
                commit_number,
                read_only,
                epoch,
                participants: participants.clone(),
                partitions,
            };
            if worker == self.own {
                self.tasks.push_back(Task::Prepare(request));
            } else if let Some(&link) = self.data_links.get(&worker) {
                self.send_control(link, Kind::PrepareReq, &request);
            }
        }
    }

    fn by_worker(
        &self,
        id: TransactionId,
        partitions: BTreeSet<PartitionId>,
    ) -> BTreeMap<Endpoint, Vec<PartitionId>> {
        let parts = &self.coordinated[&id].parts;
        let mut workers: BTreeMap<Endpoint, Vec<PartitionId>> = BTreeMap::new();
        for partition in partitions {
            workers.entry(parts[&partition].endpoint).or_default().push(partition);
        }
        workers
    }

    /// A participant is prepared (`PrepareConf`). `sender`: `None` is this worker.
    pub(super) fn on_prepare_conf(&mut self, sender: Option<Endpoint>, conf: PrepareConf) {
        let sender = sender.unwrap_or(self.own);
        let Some(coordinated) = self.coordinated.get_mut(&conf.transaction) else { return };
        let Some(part) = coordinated.parts.get_mut(&conf.partition) else { return };
        // A primary that the newest view deposed does not count.
        if coordinated.stage != Stage::Preparing || part.endpoint != sender {
            return;
        }
        part.stamp = Some(conf.stamp);
        #[cfg(feature = "mutations")]
        if self.mutation == Some(crate::mutation::Mutation::CommitOnFirstConfirmation) {
            return self.conclude(conf.transaction, Outcome::Committed(conf.stamp));
        }
        let stamps = coordinated.parts.values().map(|part| part.stamp);
        if let Some(epoch) =
            stamps.collect::<Option<Vec<Epoch>>>().and_then(|stamps| stamps.into_iter().max())
        {
            self.conclude(conf.transaction, Outcome::Committed(epoch));
        }
    }

    /// A participant refuses (`PrepareRef`).
    pub(super) fn on_prepare_ref(&mut self, sender: Option<Endpoint>, refusal: PrepareRef) {
        let sender = sender.unwrap_or(self.own);
        let id = refusal.transaction;
        let Some(coordinated) = self.coordinated.get_mut(&id) else { return };
        let part = coordinated.parts.get(&refusal.partition);
        if coordinated.stage != Stage::Preparing || part.is_none_or(|part| part.endpoint != sender) {
            return;
        }
        let client = coordinated.client;
        match coordinated.committing.take() {
            Some(Committing::Transaction { request, held, .. }) => {
                self.statement_bytes -= held;
                self.refuse_transaction(client, request, TransactionState::Aborted, None, refusal.error);
            }
            Some(Committing::Operation { request, .. }) => {
                self.refuse_operation(client, request, &refusal.error)
            }
            None => {}
        }
        self.conclude(id, Outcome::Aborted);
    }

    /// The outcome is known: tells the client, then the participants.
    fn conclude(&mut self, id: TransactionId, outcome: Outcome) {
        let coordinated = self.coordinated.get_mut(&id).expect("it was prepared");
        coordinated.stage = Stage::Decided(outcome);
        let (client, committing) = (coordinated.client, coordinated.committing.take());
        let commit_number = coordinated.commit_number;
        let (read_only, parts) =
            (!coordinated.wrote, coordinated.parts.keys().copied().collect::<BTreeSet<_>>());
        match outcome {
            Outcome::Committed(epoch) => {
                self.counters.commits += 1;
                match committing {
                    Some(Committing::Transaction { request, results, held }) => {
                        self.statement_bytes -= held;
                        let state = TransactionState::Committed;
                        let conf = TransactionConf { request, state, epoch, results: results.len() as u16 };
                        self.answer_transaction(client, &conf, &results);
                    }
                    Some(Committing::Operation { request, result }) => {
                        self.answer_write(client, request, epoch, &result)
                    }
                    None => {}
                }
                if read_only {
                    // Participants let go when they confirmed, and keep nothing that could be asked for.
                    self.keep_read(client, commit_number, id, epoch);
                    return self.finish(id);
                }
            }
            Outcome::Aborted => self.counters.aborts += 1,
        }
        self.send_decision(id, outcome, parts);
    }

    fn send_decision(&mut self, id: TransactionId, outcome: Outcome, partitions: BTreeSet<PartitionId>) {
        for (worker, partitions) in self.by_worker(id, partitions) {
            let request = DecideReq { transaction: id, outcome, partitions };
            if worker == self.own {
                self.tasks.push_back(Task::Decide(request));
            } else if let Some(&link) = self.data_links.get(&worker) {
                self.send_control(link, Kind::DecideReq, &request);
            }
        }
    }

    /// A participant and its replicas know the decision (`DecideConf`). `sender`: `None` is this worker.
    pub(super) fn on_decide_conf(&mut self, sender: Option<Endpoint>, conf: DecideConf) {
        let sender = sender.unwrap_or(self.own);
        let Some(coordinated) = self.coordinated.get_mut(&conf.transaction) else { return };
        if !matches!(coordinated.stage, Stage::Decided(_)) {
            return;
        }
        // The replicas of a primary that the newest view deposed may have discarded what they acknowledged to it.
        let part = coordinated.parts.get_mut(&conf.partition).filter(|part| part.endpoint == sender);
        if let Some(part) = part {
            part.knows = true;
        }
        if coordinated.parts.values().all(|part| part.knows) {
            self.finish(conf.transaction);
        }
    }

    /// Everybody knows: forgets the transaction.
    fn finish(&mut self, id: TransactionId) {
        let coordinated = self.coordinated.remove(&id).expect("it was decided");
        self.ended(coordinated.client);
        self.less_open(coordinated.prepared);
    }

    /// What was decided, of a transaction that is not forgotten yet.
    pub(super) fn coordinated_outcome(&self, id: TransactionId) -> Option<Outcome> {
        match self.coordinated.get(&id)?.stage {
            Stage::Decided(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Whether a statement of a transaction that is coordinated here is under way.
    pub(super) fn is_in_statement(&self, id: TransactionId) -> bool {
        self.coordinated.get(&id).is_some_and(|coordinated| coordinated.statement.is_some())
    }

    /// A participant has taken the locks away for an older transaction (`WoundOrd`), or has lost them otherwise.
    pub(super) fn on_wounded(&mut self, wound: WoundOrd) {
        self.fail_coordinated(wound.transaction, wound.error);
    }

    /// Ends a transaction that is not in Prepare, and tells its client at once if it waits, else with its next request.
    pub(super) fn fail_coordinated(&mut self, id: TransactionId, error: Error) {
        let Some(coordinated) = self.coordinated.get(&id) else { return };
        if coordinated.stage != Stage::Executing {
            // The participant refuses Prepare, or has been told the decision.
            return;
        }
        let client = coordinated.client;
        if let Some(statement) = self.abandon(id) {
            self.refuse_statement_of(client, &statement, TransactionState::Aborted, None, error);
        } else {
            self.failed.insert(id, (self.now, error));
        }
    }

    /// Ends a transaction that is not in Prepare; the statement that it was in.
    pub(super) fn abandon(&mut self, id: TransactionId) -> Option<Statement> {
        if self.coordinated.get(&id)?.stage != Stage::Executing {
            return None;
        }
        self.counters.aborts += 1;
        let coordinated = self.coordinated.remove(&id).expect("just seen");
        self.statement_bytes -= coordinated.statement.as_ref().map_or(0, Statement::held);
        self.ended(coordinated.client);
        for worker in coordinated.workers {
            self.tell_worker(worker, Kind::EndOrd, &id, Task::End(self.coordinator_here(), id));
        }
        coordinated.statement
    }

    fn tell_worker<T: serde::Serialize>(&mut self, worker: Endpoint, kind: Kind, value: &T, task: Task) {
        if worker == self.own {
            self.tasks.push_back(task);
        } else if let Some(&link) = self.data_links.get(&worker) {
            self.send_control(link, kind, value);
        }
    }

    /// A view has changed primaries: what is under way goes on with the new ones, or fails.
    pub(super) fn redirect_coordinated(
        &mut self,
        changed: &BTreeSet<PartitionId>,
        gone: &BTreeSet<Endpoint>,
    ) {
        let ids: Vec<TransactionId> = self.coordinated.keys().copied().collect();
        for id in ids {
            let coordinated = self.coordinated.get_mut(&id).expect("listed");
            let map = &self.map;
            let mut moved = BTreeSet::new();
            for (&partition, part) in &mut coordinated.parts {
                let Some(primary) = map.primary(partition) else { continue };
                if changed.contains(&partition) {
                    part.endpoint = primary;
                    part.stamp = None;
                    moved.insert(partition);
                }
            }
            match coordinated.stage {
                Stage::Executing => {
                    let statement = coordinated.statement.as_ref();
                    let waits = statement.is_some_and(|statement| !statement.waits.is_disjoint(gone));
                    let used = coordinated.workers.intersection(gone).next().is_some();
                    if !moved.is_empty() || waits || used {
                        let text = "a node that the transaction used has left or handed over";
                        self.fail_coordinated(id, Error::new(ErrorCode::PrimaryChanged, text));
                    }
                }
                Stage::Preparing => self.send_prepare(id, moved),
                Stage::Decided(outcome) => {
                    moved.retain(|partition| !coordinated.parts[partition].knows);
                    self.send_decision(id, outcome, moved);
                }
            }
        }
    }

    /// Ends transactions that their clients have forgotten.
    pub(super) fn end_idle_transactions(&mut self) {
        let limit = Duration::from_millis(self.config.idle_transaction_ms.into());
        let now = self.now;
        let idle: Vec<TransactionId> = self
            .coordinated
            .iter()
            .filter(|(_, transaction)| {
                transaction.stage == Stage::Executing && transaction.statement.is_none()
            })
            .filter(|(_, transaction)| now.since(transaction.last_used) > limit)
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            let text =
                format!("the transaction was idle for more than {} ms", self.config.idle_transaction_ms);
            self.fail_coordinated(id, Error::new(ErrorCode::NoSuchTransaction, text));
        }
        self.failed.retain(|_, (since, _)| now.since(*since) <= limit);
    }

    /// Bytes held for statements and their results until they are answered. For checks.
    pub(super) fn coordinated_bytes(&self) -> usize {
        let of = |coordinated: &Coordinated| {
            let committing = match &coordinated.committing {
                Some(Committing::Transaction { held, .. }) => *held,
                _ => 0,
            };
            coordinated.statement.as_ref().map_or(0, Statement::held) + committing
        };
        self.coordinated.values().map(of).sum()
    }

    fn answer_transaction(&mut self, client: LinkId, conf: &TransactionConf, results: &[Option<Vec<u8>>]) {
        let Some(link) = self.client_link(client) else { return };
        link.send(Kind::TransactionConf as u8, 0, |out| {
            conf.encode(out);
            for result in results {
                out.put_block(result.as_deref().unwrap_or(&[]));
            }
        });
    }

    /// Tells the client that a statement has failed.
    pub(super) fn refuse_statement_of(
        &mut self,
        client: LinkId,
        statement: &Statement,
        state: TransactionState,
        operation: Option<u16>,
        error: Error,
    ) {
        match statement.alone {
            true => self.refuse_operation(client, statement.request, &error),
            false => self.refuse_transaction(client, statement.request, state, operation, error),
        }
    }

    fn refuse_transaction(
        &mut self,
        client: LinkId,
        request: u32,
        state: TransactionState,
        operation: Option<u16>,
        error: Error,
    ) {
        let refusal = TransactionRef { request, state, operation, error };
        if matches!(self.peers.get(&client), Some(Peer::Client(_)))
            && let Some(link) = self.client_link(client)
        {
            link.send(Kind::TransactionRef as u8, 0, |out| put_control(out, &refusal));
        }
    }
}
