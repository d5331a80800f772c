//! Transactions: in one request, and interactive. A TC takes one request of a transaction at a time, so further
//! statements wait here.

use std::collections::VecDeque;

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Epoch, PartitionId},
    links::LinkId,
    message::{
        BEGIN, COMMIT, ROLLBACK, SERIALIZABLE, TransactionConf, TransactionRef, TransactionState, UNDO,
    },
    operation::{LockMode, OperationRef},
    time::{Duration, Time},
    wire::{Malformed, Reader, Writer},
};

use crate::request::{
    self, Answer, Begin, Durability, End, Failure, Isolation, Operations, Options, Results, TransactionToken,
};

use super::{
    Client, NEVER,
    calls::{Owner, Stage, Statement, Work},
    operations::{SMALL_RESULT, check_operations, plain_result, read_operations, without_rows},
};

/// How far an attempt may lie back to which a retry refers.
const AGE_MAX_MICROS: u64 = 10 * 60 * 1_000_000;

/// Transactions are looked for that are idle this often: an eighth of how long they may be, within these.
const IDLE_SWEEP_MIN: Duration = Duration::from_millis(10);
const IDLE_SWEEP_MAX: Duration = Duration::from_secs(1);

/// A partition that a transaction has locked, and so a participant: it may be asked for the outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Locked {
    partition: PartitionId,
    writes: bool,
}

/// An interactive transaction.
#[derive(Debug)]
pub(super) struct Interactive {
    timestamp: u64,
    serializable: bool,
    hint: Option<PartitionId>,
    /// Its id and TC, once a statement has succeeded there.
    token: Option<TransactionToken>,
    /// One that it has written if there is any, be it undone again: it stays a participant.
    locked: Option<Locked>,
    /// The statement under way.
    call: Option<u32>,
    /// Statements that wait for it: each with its token and deadline.
    queue: VecDeque<(u64, Time, request::Statement)>,
    /// When it began or a statement was answered last.
    last_used: Time,
}

impl Interactive {
    /// Whether a statement more cannot run: the queue ends with a rollback.
    fn is_ending(&self) -> bool {
        self.queue.back().is_some_and(|(_, _, statement)| statement.end == End::Rollback)
    }
}

/// A partition that these operations lock: one that they write, if there is any; `before`, if that is as good.
fn locks(
    before: Option<Locked>,
    bytes: &[u8],
    count: u16,
    serializable: bool,
    partitions: u16,
) -> Option<Locked> {
    let mut best = before;
    let mut reader = Reader::new(bytes, "operations");
    for _ in 0..count {
        if best.is_some_and(|locked| locked.writes) {
            break;
        }
        let operation = OperationRef::parse(&mut reader).expect("operations were checked");
        let locks = serializable || operation.lock != LockMode::None;
        if operation.writes() || (locks && best.is_none()) {
            best =
                Some(Locked { partition: operation.hash.partition(partitions), writes: operation.writes() });
        }
    }
    best
}

/// Why a transaction ends with a statement that was to go back to a savepoint, and was refused.
pub(super) fn not_undone(error: Error) -> Error {
    let text = format!(
        "{}; the transaction is rolled back, since it could not go back to the savepoint",
        error.text
    );
    Error::new(error.code, text)
}

/// The partition that coordinates: the hint's, or the first operation's.
fn coordinating(operations: &Operations, hint: Option<PartitionId>, partitions: u16) -> Option<PartitionId> {
    hint.or_else(|| {
        let first = read_operations(operations).next()?.expect("operations were checked");
        Some(first.hash.partition(partitions))
    })
}

impl Client {
    pub(super) fn submit_transaction(
        &mut self,
        token: u64,
        operations: Operations,
        isolation: Isolation,
        options: &Options,
    ) {
        let checked = check_operations(&operations).and_then(|()| self.partitions());
        let partitions = match checked {
            Ok(partitions) => partitions,
            Err(error) => return self.answer_error(token, error),
        };
        let hint = options.hint.map(|hash| hash.partition(partitions));
        let Some(partition) = coordinating(&operations, hint, partitions) else {
            return self.answer_empty(token, TransactionState::Committed, self.timestamp());
        };
        let serializable = isolation == Isolation::Serializable;
        let locked = locks(None, &operations.bytes, operations.count, serializable, partitions);
        let statement = Statement {
            handle: None,
            flags: BEGIN | COMMIT | if serializable { SERIALIZABLE } else { 0 },
            number: 1,
            operations: operations.count,
            writes: locked.is_some_and(|locked| locked.writes),
        };
        let (work, deadline) = (Work::Statement(statement), self.deadline(options.deadline));
        match self
            .open_call(work, Owner::Request(token), deadline, partition, |body| body.put(&operations.bytes))
        {
            Ok(slot) => {
                let call = self.calls.get_mut(slot);
                call.durability = options.durability;
                call.token.partition = locked.map_or(partition, |locked| locked.partition);
                self.launch(slot);
            }
            Err(error) => self.answer_error(token, error),
        }
    }

    /// How old a transaction is that begins now, or goes back to an earlier attempt. That is the user's word: it may not
    /// be older than any honest one, else it wins for ever, nor younger than the others.
    fn age(&self, earlier: Option<u64>) -> u64 {
        let now = self.timestamp();
        earlier.map_or(now, |earlier| earlier.clamp(now.saturating_sub(AGE_MAX_MICROS), now))
    }

    /// Answers a statement that needed nobody.
    fn answer_empty(&mut self, token: u64, state: TransactionState, timestamp: u64) {
        let (epoch, results) = (self.epoch, Results::new(0));
        self.answer(token, Answer::Statement { state, epoch, token: None, timestamp, results });
    }

    pub(super) fn submit_statement(&mut self, token: u64, statement: request::Statement) {
        let handle = statement.handle;
        let checked = check_operations(&statement.operations)
            .and_then(|()| self.begin_interactive(handle, statement.begin, &statement.options));
        if let Err(error) = checked {
            return self.refuse_statement(token, &statement, error);
        }
        let deadline = self.deadline(statement.options.deadline);
        let queued_max = self.setup.bounds.queued_statements;
        let interactive = self.transactions.get_mut(&handle).expect("just seen");
        if interactive.call.is_none() {
            return self.start_statement(token, deadline, statement);
        }
        if interactive.is_ending() {
            let text = format!("transaction {handle} is about to be rolled back");
            return self.answer_error(token, Error::new(ErrorCode::NoSuchTransaction, text));
        }
        // A rollback that were refused might leave the transaction open for good.
        if interactive.queue.len() < queued_max || statement.end == End::Rollback {
            return interactive.queue.push_back((token, deadline, statement));
        }
        let text = format!("{queued_max} statements of the transaction wait already");
        self.refuse_statement(token, &statement, Error::new(ErrorCode::TooMany, text));
    }

    /// Makes the transaction if the statement begins it.
    fn begin_interactive(
        &mut self,
        handle: u64,
        begin: Option<Begin>,
        options: &Options,
    ) -> Result<(), Error> {
        let partitions = self.partitions()?;
        let known = self.transactions.contains_key(&handle);
        let Some(begin) = begin else {
            let unknown = || {
                let limit = self.idle_limit().as_millis();
                let text =
                    format!("transaction {handle} is not open: it has ended, or was idle for {limit} ms");
                Error::new(ErrorCode::NoSuchTransaction, text)
            };
            return if known { Ok(()) } else { Err(unknown()) };
        };
        if known {
            return Err(Error::new(ErrorCode::Malformed, format!("transaction {handle} is open already")));
        }
        if self.transactions.len() >= self.setup.bounds.transactions {
            let text = format!("{} transactions are open at this client", self.transactions.len());
            return Err(Error::new(ErrorCode::TooMany, text));
        }
        let interactive = Interactive {
            timestamp: self.age(begin.timestamp),
            serializable: begin.isolation == Isolation::Serializable,
            hint: options.hint.map(|hash| hash.partition(partitions)),
            token: None,
            locked: None,
            call: None,
            queue: VecDeque::new(),
            last_used: self.now,
        };
        self.transactions.insert(handle, interactive);
        self.idle_at = self.idle_at.min(self.now + self.idle_limit());
        Ok(())
    }

    /// Answers a statement that its TC will not hear of. If it was to go back to a savepoint, that ends the transaction:
    /// what it should have undone stands, and the numbers of the statements to come would be those of others.
    fn refuse_statement(&mut self, token: u64, statement: &request::Statement, error: Error) {
        let handle = statement.handle;
        let interactive = self.transactions.get(&handle).filter(|_| statement.begin.is_none());
        let open = interactive.map(|interactive| (interactive.timestamp, interactive.call));
        let undoes = statement.undo && open.is_some();
        let (state, error) = match open {
            Some(_) if !undoes => (TransactionState::Open, error),
            Some(_) => (TransactionState::Aborted, not_undone(error)),
            None => (TransactionState::Aborted, error),
        };
        let timestamp = open.map_or(0, |(timestamp, _)| timestamp);
        self.answer(token, Answer::Failed(Failure { state, timestamp, ..error.into() }));
        if undoes {
            let text = format!(
                "transaction {handle} is rolled back: a later statement, back to a savepoint, was refused"
            );
            self.end_now(handle, Error::new(ErrorCode::TransactionFailed, text));
        }
    }

    /// Nobody waits for the transaction any more.
    pub(super) fn abandon(&mut self, handle: u64) {
        if self.transactions.contains_key(&handle) {
            let text = format!("transaction {handle} was given up");
            self.end_now(handle, Error::new(ErrorCode::NoSuchTransaction, text));
        }
    }

    /// Ends an open transaction without waiting for its statement under way, which fails so.
    fn end_now(&mut self, handle: u64, error: Error) {
        let Some(slot) = self.transactions[&handle].call else { return self.end_interactive(handle) };
        self.cancel(slot);
        match self.calls.get(slot).stage {
            // Nothing of it is at a TC.
            Stage::Waiting(_) => self.conclude_failed(slot, error, None, TransactionState::Aborted),
            // If this commits all the same, whoever asked hears that from `Status`.
            _ if self.calls.get(slot).committing => self.tell_pending(slot),
            // If the TC has answered already, it is rolled back with that.
            _ => self.tell_failure(slot, error, None, TransactionState::Aborted),
        }
    }

    /// Ends a transaction that has no statement under way, and says so to nobody but its TC.
    fn end_interactive(&mut self, handle: u64) {
        let known = self.transactions.get(&handle).and_then(|interactive| interactive.token);
        self.statement_over(Some(handle), TransactionState::Aborted);
        let Some(known) = known else { return };
        let work = Work::Statement(Statement {
            handle: None,
            flags: ROLLBACK,
            number: 0,
            operations: 0,
            writes: false,
        });
        // A client that stops ends its session, and all transactions with it.
        if let Ok(slot) = self.open_call(work, Owner::Nobody, NEVER, known.partition, |_| ()) {
            self.calls.get_mut(slot).token = known;
            self.roll_back(slot);
        }
    }

    /// How long a transaction may lie without a statement. Its TC ends it then, too.
    fn idle_limit(&self) -> Duration {
        Duration::from_millis(self.config.as_ref().map_or(0, |config| config.idle_transaction_ms.into()))
    }

    /// Forgets transactions that their users have forgotten.
    pub(super) fn forget_idle(&mut self) {
        let (now, limit) = (self.now, self.idle_limit());
        let is_idle = |interactive: &Interactive| {
            interactive.call.is_none() && now.since(interactive.last_used) > limit
        };
        self.transactions.retain(|_, interactive| !is_idle(interactive));
        // All are looked at each time, so not too often.
        let soon = now + (limit / 8).clamp(IDLE_SWEEP_MIN, IDLE_SWEEP_MAX);
        self.idle_at = match self.transactions.values().map(|interactive| interactive.last_used).min() {
            Some(earliest) => soon.max(earliest + limit + Duration::from_nanos(1)),
            None => NEVER,
        };
    }

    /// Sends a statement, or answers it if there is nothing to send.
    fn start_statement(&mut self, token: u64, deadline: Time, statement: request::Statement) {
        let request::Statement { handle, number, undo, mut operations, end, options, .. } = statement;
        let partitions = self.partitions().expect("known since the transaction began");
        let interactive = self.transactions.get(&handle).expect("it has a statement");
        let (timestamp, serializable, known) =
            (interactive.timestamp, interactive.serializable, interactive.token);
        if end == End::Rollback {
            operations = Operations::default();
        }
        let nothing = match known {
            None => operations.count == 0,
            Some(_) => operations.count == 0 && end == End::Stay && !undo,
        };
        if nothing {
            return self.end_empty(handle, token, end);
        }
        let locked = locks(interactive.locked, &operations.bytes, operations.count, serializable, partitions);
        let partition = coordinating(&operations, interactive.hint, partitions).unwrap_or_default();
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let work = Work::Statement(Statement {
            handle: Some(handle),
            flags: match known {
                None => BEGIN | flag(serializable, SERIALIZABLE),
                Some(_) => flag(undo && end != End::Rollback, UNDO),
            } | flag(end == End::Commit, COMMIT)
                | flag(end == End::Rollback, ROLLBACK),
            number,
            operations: operations.count,
            writes: locked.is_some_and(|locked| locked.writes),
        });
        match self
            .open_call(work, Owner::Request(token), deadline, partition, |body| body.put(&operations.bytes))
        {
            Ok(slot) => {
                let call = self.calls.get_mut(slot);
                call.timestamp = timestamp;
                call.durability = options.durability;
                call.token = known.unwrap_or_default();
                call.token.partition = locked.map_or(partition, |locked| locked.partition);
                self.transactions.get_mut(&handle).expect("just seen").call = Some(slot);
                self.launch(slot);
            }
            Err(error) if undo && known.is_some() => {
                let (state, error) = (TransactionState::Aborted, not_undone(error));
                self.answer(token, Answer::Failed(Failure { state, timestamp, ..error.into() }));
                self.end_interactive(handle);
            }
            Err(error) => {
                let state = if known.is_some() { TransactionState::Open } else { TransactionState::Aborted };
                self.answer(token, Answer::Failed(Failure { state, timestamp, ..error.into() }));
                self.statement_over(Some(handle), state);
            }
        }
    }

    /// A statement that no TC need hear of.
    fn end_empty(&mut self, handle: u64, token: u64, end: End) {
        let state = match end {
            End::Stay => TransactionState::Open,
            End::Commit => TransactionState::Committed,
            End::Rollback => TransactionState::Aborted,
        };
        let interactive = self.transactions.get(&handle).expect("it has a statement");
        self.answer_empty(token, state, interactive.timestamp);
        self.statement_over(Some(handle), state);
    }

    /// The interactive transaction that the call is a statement of.
    pub(super) fn handle_of(&self, slot: u32) -> Option<u64> {
        match self.calls.get(slot).work {
            Work::Statement(statement) => statement.handle,
            _ => None,
        }
    }

    /// A statement was answered: the transaction ends, or goes on with the next.
    pub(super) fn statement_over(&mut self, handle: Option<u64>, state: TransactionState) {
        let Some(handle) = handle else { return };
        let interactive = self.transactions.get_mut(&handle).expect("a statement of it was answered");
        interactive.call = None;
        interactive.last_used = self.now;
        if state == TransactionState::Open {
            if let Some((token, deadline, statement)) = interactive.queue.pop_front() {
                self.start_statement(token, deadline, statement);
            }
            return;
        }
        let ended = self.transactions.remove(&handle).expect("just seen");
        for (token, _, statement) in ended.queue {
            if statement.end == End::Rollback {
                self.answer_empty(token, TransactionState::Aborted, ended.timestamp);
                continue;
            }
            let text = format!("transaction {handle} has ended with a statement before");
            let error = Error::new(ErrorCode::NoSuchTransaction, text);
            self.answer(token, Answer::Failed(Failure { timestamp: ended.timestamp, ..error.into() }));
        }
    }

    /// A statement has run (`TransactionConf`).
    pub(super) fn on_transaction_conf(&mut self, link: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "TransactionConf");
        let conf = TransactionConf::parse(&mut reader)?;
        let slot = conf.request;
        let call = self.calls.answered(slot, Stage::Sent(link))?;
        let Work::Statement(statement) = call.work else {
            return Err(Malformed("TransactionConf: no statement"));
        };
        let expected = match statement.flags & (COMMIT | ROLLBACK) {
            0 => TransactionState::Open,
            COMMIT => TransactionState::Committed,
            _ => TransactionState::Aborted,
        };
        if conf.state != expected || conf.results != statement.operations {
            return Err(Malformed("TransactionConf: not what was asked for"));
        }
        let room = self.room_for_results(body.len());
        let mut operations = Reader::new(&call.body, "operations");
        let mut results = Results::new(conf.results.into());
        for index in 0..usize::from(conf.results) {
            let result = reader.block()?;
            let operation = OperationRef::parse(&mut operations).expect("operations were checked");
            match &room {
                Err(error) if result.len() > SMALL_RESULT => {
                    if operation.writes() {
                        let mut short = Vec::new();
                        without_rows(result, &mut short)?;
                        results.set(index, &short);
                    } else {
                        results.fail(index, error.clone().into());
                    }
                }
                _ => results.set(index, result),
            }
        }
        reader.finish()?;
        if call.owner != Owner::Nobody {
            self.tell_statement(slot, conf.state, conf.epoch, results);
            return Ok(());
        }
        match conf.state {
            TransactionState::Open => self.roll_back(slot),
            TransactionState::Committed => {
                self.learn(slot, twofold_proto::message::Outcome::Committed(conf.epoch));
                self.release(slot);
            }
            TransactionState::Aborted => self.release(slot),
        }
        Ok(())
    }

    /// A statement has failed (`TransactionRef`).
    pub(super) fn on_transaction_ref(
        &mut self,
        link: LinkId,
        refusal: TransactionRef,
    ) -> Result<(), Malformed> {
        let call = self.calls.answered(refusal.request, Stage::Sent(link))?;
        let Work::Statement(statement) = call.work else {
            return Err(Malformed("TransactionRef: no statement"));
        };
        if refusal.state == TransactionState::Committed {
            return Err(Malformed("TransactionRef: a commit is not refused"));
        }
        if statement.has(ROLLBACK) {
            // The TC had ended it before.
            self.conclude_rolled_back(refusal.request);
            return Ok(());
        }
        if refusal.state == TransactionState::Open {
            self.keep_transaction(refusal.request);
            // Refused as a whole it has locked nothing.
            if refusal.operation.is_some() {
                self.keep_locks(refusal.request);
            }
        }
        self.refused(refusal.request, refusal.error, refusal.operation, refusal.state);
        Ok(())
    }

    /// The transaction of this call is open at its TC from now on.
    fn keep_transaction(&mut self, slot: u32) {
        let call = self.calls.get(slot);
        let Some(handle) = self.handle_of(slot) else { return };
        if call.owner != Owner::Nobody
            && let Some(interactive) = self.transactions.get_mut(&handle)
        {
            interactive.token = Some(call.token);
        }
    }

    /// There is nothing left of the transaction, as was asked for.
    pub(super) fn conclude_rolled_back(&mut self, slot: u32) {
        if self.calls.get(slot).owner == Owner::Nobody {
            return self.release(slot);
        }
        self.tell_statement(slot, TransactionState::Aborted, self.epoch, Results::new(0));
    }

    /// Answers a statement that has succeeded, and frees its call.
    pub(super) fn tell_statement(
        &mut self,
        slot: u32,
        state: TransactionState,
        epoch: Epoch,
        results: Results,
    ) {
        let call = self.calls.get(slot);
        let writes = matches!(call.work, Work::Statement(statement) if statement.writes);
        if state == TransactionState::Committed && writes && call.durability == Durability::Disk {
            return self.hold(slot, epoch, results);
        }
        if state == TransactionState::Open {
            self.keep_transaction(slot);
            self.keep_locks(slot);
        }
        let handle = self.handle_of(slot);
        let call = self.calls.get_mut(slot);
        let owner = std::mem::replace(&mut call.owner, Owner::Nobody);
        // What only read leaves nothing to ask for.
        let (timestamp, transaction) =
            (call.timestamp, (call.committing && writes).then(|| call.users_token()));
        self.release(slot);
        if let Owner::Request(token) = owner {
            self.answer(token, Answer::Statement { state, epoch, token: transaction, timestamp, results });
            self.statement_over(handle, state);
        }
    }

    /// Remembers what the statement has locked, be it undone.
    fn keep_locks(&mut self, slot: u32) {
        let call = self.calls.get(slot);
        let Work::Statement(statement) = call.work else { return };
        let Some(interactive) = statement.handle.and_then(|handle| self.transactions.get_mut(&handle)) else {
            return;
        };
        let (serializable, partitions) = (interactive.serializable, self.map.partitions());
        interactive.locked =
            locks(interactive.locked, &call.body, statement.operations, serializable, partitions);
    }

    /// Results for a commit that was found to have succeeded. What was read is lost.
    pub(super) fn plain_results(&self, slot: u32, epoch: Epoch) -> Results {
        let call = self.calls.get(slot);
        let Work::Statement(statement) = call.work else { panic!("{call:?} is no statement") };
        let mut results = Results::new(statement.operations.into());
        let mut reader = Reader::new(&call.body, "operations");
        for index in 0..usize::from(statement.operations) {
            let operation = OperationRef::parse(&mut reader).expect("operations were checked");
            if operation.writes() {
                results.set(index, &plain_result(operation.kind));
            } else {
                let node = call.token.coordinator.endpoint.node;
                let text = format!("committed in epoch {epoch}, but what was read is lost with node {node}");
                results.fail(index, Error::new(ErrorCode::Timeout, text).into());
            }
        }
        results
    }

    pub(super) fn check_transactions(&self) {
        let looked_for = self.transactions.is_empty() || self.idle_at != NEVER;
        assert!(looked_for, "nobody looks for idle ones of {} transactions", self.transactions.len());
        for (handle, interactive) in &self.transactions {
            let call = interactive.call.map(|slot| self.calls.get(slot));
            assert_eq!(call.is_none(), interactive.call.is_none(), "transaction {handle}");
            if let Some(call) = call {
                let statement =
                    matches!(call.work, Work::Statement(statement) if statement.handle == Some(*handle));
                assert!(statement && call.owner != Owner::Nobody, "transaction {handle} waits for {call:?}");
            }
            assert!(
                interactive.queue.is_empty() || call.is_some(),
                "transaction {handle} has stopped: {interactive:?}"
            );
        }
    }
}
