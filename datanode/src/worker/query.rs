//! The local handler: runs operations under locks, and keeps what they would write as pending versions.

use std::sync::Arc;

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{PartitionId, TableId, TransactionId},
    key::key_text,
    limits::{LINK_BYTES_MAX, TRANSACTION_BYTES_MAX},
    links::LinkId,
    message::{
        self, ALONE, Coordinator, ExecuteConf, ExecuteRef, ExecuteReq, Image, Kind, SERIALIZABLE, UndoOrd,
        WoundOrd,
    },
    operation::{LockMode, OperationRef},
    result::ResultCode,
    row::RowRef,
    schema::Schema,
    time::{ClusterTime, Duration},
    unique::entry_changes,
    wire::{Malformed, Reader, Writer},
};
use twofold_storage::{
    evaluate::{Action, CurrentRow, evaluate},
    fragment::row_tag,
    lock::{Acquired, LockId, LockKey, Mode},
    store::TAG_ROWS_MAX,
};

use super::{
    Task, Worker,
    client::{Observer, check_statement_bytes},
    local::{LocalPartition, Origin, PendingWrite, Statement, Wait, Waiting},
    partition::Part,
    slab::spare,
};

/// Bytes before each result of a statement: u16 index, u32 length.
const RESULT_FRAME: usize = 6;

/// How one operation went.
enum Progress {
    Done,
    Waits(Wait),
}

/// How a statement went.
enum Ran<'a> {
    Complete,
    Waits {
        wait: Wait,
        /// What is left.
        operations: &'a [u8],
    },
    Failed {
        operation: u16,
        open: bool,
        error: Error,
    },
}

impl Worker {
    pub(super) fn begin_local(&mut self, id: TransactionId, timestamp: u64, origin: Origin) -> u32 {
        let mut local = self.locals.recycled();
        local.reset(id, timestamp, origin);
        let indexed = !local.is_independent();
        let slot = self.locals.insert(local);
        if let Some(client) = origin.client() {
            self.opened(client);
        }
        if indexed {
            let replaced = self.local_ids.insert(id, slot);
            assert_eq!(replaced, None, "{id:?} is here twice");
        }
        slot
    }

    /// A TC wants operations run (`ExecuteReq`).
    pub(super) fn on_execute(&mut self, coordinator: Coordinator, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "ExecuteReq");
        let request = ExecuteReq::parse(&mut reader)?;
        self.execute(coordinator, &request, reader.rest());
        Ok(())
    }

    pub(super) fn execute(&mut self, coordinator: Coordinator, request: &ExecuteReq, operations: &[u8]) {
        let id = request.transaction;
        if self.refused.contains_key(&id) {
            let error =
                Error::new(ErrorCode::TransactionFailed, format!("transaction {id:?} has lost its locks"));
            return self.refuse_statement(coordinator, id, request.statement, None, false, error);
        }
        let slot = match self.local_ids.get(&id) {
            Some(&slot) => slot,
            None => self.begin_local(id, request.timestamp, Origin::Coordinated(coordinator)),
        };
        let local = self.locals.get_mut(slot).expect("indexed locals exist");
        if local.origin != Origin::Coordinated(coordinator) {
            let text = format!("another TC has a transaction {id:?}: a client has used its number twice");
            let error = Error::new(ErrorCode::Malformed, text);
            return self.refuse_statement(coordinator, id, request.statement, None, false, error);
        }
        assert!(
            local.statement.is_none() && !local.prepared,
            "a statement in the middle of another: {local:?}"
        );
        let has = |flag: u8| request.flags & flag != 0;
        let serializable = has(SERIALIZABLE);
        let mut reader = Reader::new(operations, "operations");
        // All are counted before any runs: what the TC counted when it sent them.
        while let Ok((_, operation)) = parse_operation(&mut reader) {
            if lock_mode(&operation, serializable).is_some() {
                local.count_operation(operation.hash.partition(self.config.partitions));
            }
        }
        local.statement = Some(Statement {
            number: request.statement,
            serializable,
            alone: has(ALONE),
            left: request.operations,
            ..Statement::default()
        });
        self.run_statement(slot, operations);
    }

    /// Begins an independent write. `operation` has been parsed from `bytes` already.
    pub(super) fn execute_independent(&mut self, slot: u32, bytes: &[u8]) {
        let local = self.locals.get_mut(slot).expect("just begun");
        let mut results = std::mem::take(&mut local.result);
        results.clear();
        local.statement = Some(Statement { left: 1, results, ..Statement::default() });
        self.run_statement(slot, bytes);
    }

    /// Goes on with the statement that waited for this, unless it has ended meanwhile.
    pub(super) fn resume(&mut self, slot: u32, transaction: TransactionId, wait: Wait) {
        let Some(local) = self.locals.get_mut(slot).filter(|local| local.id == transaction) else { return };
        let statement = local.statement.as_mut().filter(|statement| statement.wait() == Some(wait));
        let Some(statement) = statement else { return };
        self.statement_bytes -= statement.held();
        let Some(waiting) = statement.waits.take() else { return };
        self.run_statement(slot, &waiting.operations);
    }

    fn run_statement(&mut self, slot: u32, operations: &[u8]) {
        let mut reader = Reader::new(operations, "operations");
        match self.run_operations(slot, &mut reader) {
            Ran::Waits { wait, operations } => {
                self.counters.lock_waits += 1;
                let deadline = self.now + Duration::from_millis(self.config.lock_wait_timeout_ms.into());
                let local = self.locals.get_mut(slot).expect("it waits");
                let waiting = Waiting { wait, deadline, operations: operations.to_vec() };
                let statement = local.statement.as_mut().expect("it waits");
                statement.waits = Some(Box::new(waiting));
                self.statement_bytes += statement.held();
                if let Err(error) = check_statement_bytes(self.own, self.statement_bytes) {
                    return self.statement_failed(slot, None, true, error);
                }
                self.lock_waits.push_back((deadline, slot, local.id));
                if local.is_independent() {
                    self.waiting_writes.insert(local.id, slot);
                }
            }
            Ran::Complete => self.statement_done(slot),
            Ran::Failed { operation, open, error } => {
                self.statement_failed(slot, Some(operation), open, error)
            }
        }
    }

    fn run_operations<'a>(&mut self, slot: u32, reader: &mut Reader<'a>) -> Ran<'a> {
        loop {
            let local = self.locals.get_mut(slot).expect("the statement's transaction is here");
            let independent = local.is_independent();
            let statement = local.statement.as_mut().expect("a statement runs");
            if statement.left == 0 {
                return Ran::Complete;
            }
            let before = reader.rest();
            let parsed = if independent {
                OperationRef::parse(reader).map(|operation| (0, operation))
            } else {
                parse_operation(reader)
            };
            let (index, operation) = match parsed {
                Ok(parsed) => parsed,
                Err(malformed) => {
                    return Ran::Failed { operation: 0, open: true, error: malformed.into() };
                }
            };
            match self.run_operation(slot, index, &operation) {
                Ok(Progress::Done) => {
                    let local = self.locals.get_mut(slot).expect("it goes on");
                    let statement = local.statement.as_mut().expect("it goes on");
                    statement.left -= 1;
                    statement.done += 1;
                    if statement.results.len() > TRANSACTION_BYTES_MAX {
                        return Ran::Failed { operation: index, open: true, error: results_too_large() };
                    }
                }
                Ok(Progress::Waits(wait)) => return Ran::Waits { wait, operations: before },
                Err((open, error)) => return Ran::Failed { operation: index, open, error },
            }
        }
    }

    /// Runs one operation. The error says whether the transaction can go on.
    fn run_operation(
        &mut self,
        slot: u32,
        index: u16,
        operation: &OperationRef<'_>,
    ) -> Result<Progress, (bool, Error)> {
        let partition = operation.hash.partition(self.config.partitions);
        self.check_serving(partition).map_err(|error| (false, error))?;
        let schema = self.schema(operation.table, operation.schema_version).map_err(|error| (true, error))?;
        let local = self.locals.get_mut(slot).expect("it runs");
        let statement = local.statement.as_ref().expect("it runs");
        let serializable = statement.serializable;
        let mode = lock_mode(operation, serializable);
        #[cfg(feature = "mutations")]
        let mode = mode.filter(|&mode| {
            mode == Mode::Exclusive || !self.mutated(crate::mutation::Mutation::SkipReadLocks)
        });
        let key = LockKey {
            table: operation.table,
            partition,
            tag: row_tag(&schema, &operation.hash, operation.key),
            key: operation.key,
        };
        let lock = match mode {
            Some(mode) => match self.lock(slot, &key, mode) {
                Acquired::Granted(lock) => Some(lock),
                Acquired::Waits(lock) => return Ok(Progress::Waits(Wait::Lock(lock))),
                Acquired::Wound(_) => unreachable!("wounds are dealt with"),
            },
            None => {
                if let Some(lock) = self.undecided(&key) {
                    let transaction = self.locals.get(slot).expect("it runs").id;
                    let ticket = self.observe(Observer::Statement { slot, transaction });
                    self.locks.observe(lock, ticket);
                    return Ok(Progress::Waits(Wait::Decision(ticket)));
                }
                self.locks.find(&key).filter(|&lock| self.locks.exclusive(lock).map(|h| h.0) == Some(slot))
            }
        };
        let local = self.locals.get_mut(slot).expect("it runs");
        if let (Some(_), Some(lock)) = (mode, lock) {
            local.hold(lock);
        }
        let pending = lock.and_then(|lock| self.locks.pending(lock));
        #[cfg(feature = "mutations")]
        let forgets = self.mutated(crate::mutation::Mutation::ForgetOldEntries);
        #[cfg(not(feature = "mutations"))]
        let forgets = false;
        let mut new_body = std::mem::take(&mut self.scratch);
        new_body.clear();
        let local = self.locals.get_mut(slot).expect("it runs");
        let mut results = std::mem::take(&mut local.statement.as_mut().expect("it runs").results);
        let frame = results.len();
        results.put_u16(index);
        results.put_u32(0);
        let start = results.len();
        let current = match pending {
            Some(pending) => local.pending_row(pending, &schema, operation.key),
            None => self
                .store
                .row(operation.table, partition, key.tag, operation.key)
                .map(|row| CurrentRow::stored(&schema, row)),
        };
        let action = evaluate(&schema, operation, current.as_ref(), self.time, &mut new_body, &mut results);
        let is_new = current.is_none();
        let entries = match &action {
            Ok(action) if schema.has_unique() && *action != Action::Nothing => {
                let live = |row: &&CurrentRow<'_>| row.is_live(self.time) && !forgets;
                let before = current.as_ref().filter(live).map(|row| row.row);
                entries_of(&schema, index, operation, *action, before, &new_body)
            }
            _ => Ok(Vec::new()),
        };
        let length = (results.len() - start) as u32;
        results[frame + 2..start].copy_from_slice(&length.to_le_bytes());
        let independent = local.is_independent();
        let statement = local.statement.as_mut().expect("it runs");
        statement.results = results;
        let answers_refusals = statement.alone || independent;
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                self.scratch = new_body;
                return Err((true, error));
            }
        };
        if !entries.is_empty() {
            statement.entries.get_or_insert_default().0.extend(entries);
        }
        let done = match (action, lock) {
            (Ok(Action::Put { .. }), Some(_))
                if is_new && self.store.is_crowded(operation.table, partition, key.tag) =>
            {
                let row = self.row_text(&key);
                let text = format!("{row}: {TAG_ROWS_MAX} other keys have the same hash; no more may");
                Err((true, Error::new(ErrorCode::TooMany, text)))
            }
            (Ok(Action::Put { expiry }), Some(lock)) => {
                let version = operation.schema_version as u16;
                self.pend(slot, lock, version, Some((expiry, &new_body))).map_err(|error| (true, error))
            }
            (Ok(Action::Delete), Some(lock)) => {
                self.pend(slot, lock, operation.schema_version as u16, None).map_err(|error| (true, error))
            }
            (Ok(Action::Nothing), _) => Ok(()),
            // The answer says what is wrong.
            (Err(_), _) if answers_refusals => Ok(()),
            // That a row is not there is what a read was to find out.
            (Err(refusal), _) if !operation.writes() && refusal.code == ResultCode::NotFound => Ok(()),
            (Err(refusal), _) => Err((true, refusal.error(&schema, Some(operation.key)))),
            (Ok(action), None) => panic!("{action:?} without a lock: {operation:?}"),
        };
        self.scratch = new_body;
        done.map(|()| Progress::Done)
    }

    /// Adds a pending version to a locked key.
    pub(super) fn pend(
        &mut self,
        slot: u32,
        lock: LockId,
        schema_version: u16,
        row: Option<(ClusterTime, &[u8])>,
    ) -> Result<(), Error> {
        let key = self.locks.key(lock);
        let local = self.locals.get_mut(slot).expect("it runs");
        let bytes = Image::HEADER_BYTES + key.key.len() + row.map_or(0, |(_, body)| body.len());
        if local.bytes + bytes > TRANSACTION_BYTES_MAX {
            let text = format!("the transaction writes more than {TRANSACTION_BYTES_MAX} bytes");
            return Err(Error::new(ErrorCode::TooLarge, text));
        }
        if row.is_some() {
            let kept = |link| self.links.get(link).map_or(0, |link| link.kept_bytes());
            let mut replicas = self.partitions[usize::from(key.partition.0)].replicas(Part::Gets);
            if let Some(kept) =
                replicas.find_map(|link| Some(kept(link)).filter(|&kept| kept > LINK_BYTES_MAX))
            {
                let text = format!("a replica of partition {} is {kept} bytes behind", key.partition);
                return Err(Error::new(ErrorCode::Overloaded, text));
            }
            // The buddies admit writes to their own partitions at the same time, and all come to be stored here.
            let pending = (self.pending_bytes + bytes) * usize::from(self.config.replicas);
            if !self.store.has_room(pending) {
                let node = self.own.node;
                if self.store.has_room(bytes * usize::from(self.config.replicas)) {
                    let bytes = self.pending_bytes;
                    let text =
                        format!("open transactions have {bytes} bytes of node {node}'s memory reserved");
                    return Err(Error::new(ErrorCode::Overloaded, text));
                }
                let text = format!("data_memory of node {node} is used up");
                return Err(Error::new(ErrorCode::TableFull, text));
            }
        }
        let from = local.images.len();
        Image { table: key.table, schema_version, tag: key.tag, key: key.key, row }.encode(&mut local.images);
        let to = local.images.len();
        self.pending_bytes += to - from;
        local.bytes += to - from;
        local.writes.push(PendingWrite {
            statement: local.statement.as_ref().map_or(0, |statement| statement.number),
            lock,
            partition: key.partition,
            from: from as u32,
            to: to as u32,
            previous: self.locks.pending(lock),
        });
        let newest = (local.writes.len() - 1) as u32;
        self.locks.set_pending(lock, Some(newest));
        Ok(())
    }

    /// Asks for a lock, wounding whoever has to make way.
    fn lock(&mut self, slot: u32, key: &LockKey<'_>, mode: Mode) -> Acquired {
        let age = self.locals.get(slot).expect("it runs").age();
        loop {
            match self.locks.acquire(key, slot, mode, age) {
                Acquired::Wound(younger) => self.wound(younger, key),
                granted_or_waits => return granted_or_waits,
            }
        }
    }

    /// Takes all its locks from a younger transaction, for good.
    fn wound(&mut self, slot: u32, key: &LockKey<'_>) {
        self.counters.wounds += 1;
        let local = self.locals.get(slot).expect("holders exist");
        if local.prepared {
            // In another partition of this worker only: here it will refuse.
            if let Origin::Coordinated(coordinator) = local.origin {
                self.refused.insert(local.id, coordinator);
            }
            return self.release_partition(slot, key.partition);
        }
        let text = format!("an older transaction needs the lock on {}", self.row_text(key));
        self.fail_local(slot, Error::new(ErrorCode::Deadlock, text));
    }

    /// Ends a local transaction that is not prepared, and tells its TC; whatever else comes of it is refused.
    pub(super) fn fail_local(&mut self, slot: u32, error: Error) {
        let local = self.locals.get(slot).expect("it is to fail");
        assert!(!local.prepared, "a prepared transaction fails only by decision: {local:?}");
        let (id, origin) = (local.id, local.origin);
        match origin {
            Origin::Coordinated(coordinator) => {
                self.refused.insert(id, coordinator);
                let wound = WoundOrd { transaction: id, error };
                if coordinator.endpoint == self.own {
                    self.tasks.push_back(Task::Wounded(wound));
                } else if let Some(&link) = self.data_links.get(&coordinator.endpoint) {
                    self.send_control(link, Kind::WoundOrd, &wound);
                }
            }
            Origin::Independent { client, request, .. } => self.refuse_operation(client, request, &error),
            Origin::Housekeeping => {}
        }
        self.end_local(slot);
    }

    /// Forgets a local transaction: its request for a lock, its pending versions and the locks it still holds.
    pub(super) fn end_local(&mut self, slot: u32) {
        let Some(mut local) = self.locals.remove(slot) else { return };
        self.pending_bytes -= local.bytes;
        self.statement_bytes -= local.statement.as_ref().map_or(0, Statement::held);
        if let Some(client) = local.origin.client() {
            self.ended(client);
        }
        if !local.is_independent() {
            self.local_ids.remove(&local.id);
        }
        if let Some(Wait::Lock(lock)) = local.statement.as_ref().and_then(Statement::wait) {
            self.locks.cancel(lock, slot, &mut self.woken);
        }
        for lock in local.locks.drain(..) {
            self.locks.release(lock, slot, &mut self.woken);
        }
        for buffer in [&mut local.images, &mut local.result] {
            spare(buffer);
        }
        self.locals.recycle(local);
        self.wake();
    }

    /// Gives up the locks in one partition.
    pub(super) fn release_partition(&mut self, slot: u32, partition: PartitionId) {
        let Some(local) = self.locals.get_mut(slot) else { return };
        local.partitions.retain(|other| other.partition != partition);
        let locks = &mut self.locks;
        let woken = &mut self.woken;
        local.locks.retain(|lock| {
            let lock = *lock;
            let released = locks.key(lock).partition == partition;
            if released {
                locks.release(lock, slot, woken);
            }
            !released
        });
        if local.partitions.is_empty() {
            self.end_local(slot);
        } else {
            self.wake();
        }
    }

    /// Turns what the lock table let through into tasks.
    pub(super) fn wake(&mut self) {
        for (lock, slot) in self.woken.granted.drain(..) {
            let local = self.locals.get_mut(slot).expect("who has ended waits for no lock");
            // From now on it has the lock to release, whatever comes before it goes on.
            local.hold(lock);
            self.tasks.push_back(Task::Resume { slot, transaction: local.id, lock });
        }
        self.tasks.extend(self.woken.observers.drain(..).map(Task::Observer));
    }

    /// Takes back the pending versions of all statements from this one on. The locks stay.
    fn undo_from(&mut self, slot: u32, statement: u32) {
        let local = self.locals.get_mut(slot).expect("it is undone");
        while local.writes.last().is_some_and(|write| write.statement >= statement) {
            let Some(write) = local.writes.pop() else { break };
            // The lock may have been taken from it, and its slot may be another's by now.
            let is_own = self.locks.exclusive(write.lock).is_some_and(|(owner, _)| owner == slot)
                && self.locks.pending(write.lock) == Some(local.writes.len() as u32);
            if is_own {
                self.locks.set_pending(write.lock, write.previous);
            }
            local.bytes -= write.image().len();
            self.pending_bytes -= write.image().len();
            local.images.truncate(write.image().start);
        }
    }

    fn statement_done(&mut self, slot: u32) {
        let local = self.locals.get_mut(slot).expect("its statement is done");
        let statement = local.statement.take().expect("it is done");
        let (id, origin) = (local.id, local.origin);
        match origin {
            Origin::Coordinated(coordinator) if coordinator.endpoint == self.own => {
                let results = split_results(&statement.results);
                let entries = statement.entries.unwrap_or_default().0;
                self.forget_if_unlocked(slot);
                self.tasks.push_back(Task::Executed {
                    transaction: id,
                    statement: statement.number,
                    results,
                    entries,
                });
            }
            Origin::Coordinated(coordinator) => {
                self.forget_if_unlocked(slot);
                let Some(&link) = self.data_links.get(&coordinator.endpoint) else { return };
                let Some(link) = self.links.get_mut(link) else { return };
                let conf =
                    ExecuteConf { transaction: id, statement: statement.number, results: statement.done };
                link.send(Kind::ExecuteConf as u8, 0, |out| {
                    conf.encode(out);
                    out.put(&statement.results);
                    out.put(statement.entries.as_ref().map_or(&[], |entries| &entries.0));
                });
            }
            Origin::Independent { .. } | Origin::Housekeeping => {
                assert!(statement.entries.is_none(), "entries of unique indexes need a TC: {local:?}");
                local.result = statement.results;
                local.result.drain(..RESULT_FRAME);
                self.independent_done(slot);
            }
        }
    }

    /// A transaction that only read without locks leaves no trace.
    fn forget_if_unlocked(&mut self, slot: u32) {
        if self.locals.get(slot).is_some_and(|local| local.partitions.is_empty()) {
            self.end_local(slot);
        }
    }

    /// A statement's part here failed: undoes it, and tells the TC or the client.
    pub(super) fn statement_failed(&mut self, slot: u32, operation: Option<u16>, open: bool, error: Error) {
        let local = self.locals.get_mut(slot).expect("its statement failed");
        let statement = local.statement.take().expect("it failed");
        self.statement_bytes -= statement.held();
        let (id, origin) = (local.id, local.origin);
        if let Some(Wait::Lock(lock)) = statement.wait() {
            self.locks.cancel(lock, slot, &mut self.woken);
            self.wake();
        }
        match origin {
            Origin::Coordinated(coordinator) => {
                self.undo_from(slot, statement.number);
                self.forget_if_unlocked(slot);
                self.refuse_statement(coordinator, id, statement.number, operation, open, error);
            }
            Origin::Independent { client, request, .. } => {
                self.end_local(slot);
                self.refuse_operation(client, request, &error);
            }
            Origin::Housekeeping => self.end_local(slot),
        }
    }

    fn refuse_statement(
        &mut self,
        coordinator: Coordinator,
        transaction: TransactionId,
        statement: u32,
        operation: Option<u16>,
        open: bool,
        error: Error,
    ) {
        let refusal = ExecuteRef { transaction, statement, operation, open, error };
        if coordinator.endpoint == self.own {
            self.tasks.push_back(Task::ExecuteFailed(refusal));
        } else if let Some(&link) = self.data_links.get(&coordinator.endpoint) {
            self.send_control(link, Kind::ExecuteRef, &refusal);
        }
    }

    /// What a TC's transaction has here. One of another TC with its id is a client's mistake, and not for this one to end.
    fn local_of(&self, coordinator: Coordinator, id: TransactionId) -> Option<u32> {
        let slot = *self.local_ids.get(&id)?;
        self.locals.get(slot).filter(|local| local.origin == Origin::Coordinated(coordinator)).map(|_| slot)
    }

    /// The TC undoes statements (`UndoOrd`).
    pub(super) fn on_undo(&mut self, coordinator: Coordinator, undo: UndoOrd) {
        let Some(slot) = self.local_of(coordinator, undo.transaction) else { return };
        let local = self.locals.get_mut(slot).expect("indexed locals exist");
        // It may be prepared in a partition that was taken over since.
        let prepared = |write: &PendingWrite| {
            let is = |here: &LocalPartition| here.partition == write.partition && here.write_set.is_some();
            write.statement >= undo.statement && local.partitions.iter().any(is)
        };
        assert!(!local.writes.iter().any(prepared), "{undo:?} after Prepare: {local:?}");
        let statement = local.statement.take();
        self.statement_bytes -= statement.as_ref().map_or(0, Statement::held);
        if let Some(Wait::Lock(lock)) = statement.and_then(|statement| statement.wait()) {
            self.locks.cancel(lock, slot, &mut self.woken);
            self.wake();
        }
        #[cfg(feature = "mutations")]
        if self.mutated(crate::mutation::Mutation::SkipUndo) {
            return self.forget_if_unlocked(slot);
        }
        self.undo_from(slot, undo.statement);
        self.forget_if_unlocked(slot);
    }

    /// The TC has ended a transaction that it has not prepared (`EndOrd`).
    pub(super) fn on_end(&mut self, coordinator: Coordinator, transaction: TransactionId) {
        if self.refused.get(&transaction) == Some(&coordinator) {
            self.refused.remove(&transaction);
        }
        if let Some(slot) = self.local_of(coordinator, transaction) {
            let local = self.locals.get(slot).expect("indexed locals exist");
            assert!(!local.prepared, "EndOrd after Prepare: {local:?}");
            self.end_local(slot);
        }
    }

    /// Fails the statements that have waited for too long.
    pub(super) fn time_out_lock_waits(&mut self) {
        while let Some(&(deadline, slot, transaction)) = self.lock_waits.front() {
            let local = self.locals.get(slot).filter(|local| local.id == transaction);
            let statement = local.and_then(|local| local.statement.as_ref());
            // It may have gone on meanwhile, and wait for something else since.
            let waiting = statement.and_then(|statement| statement.waits.as_ref());
            if let Some(wait) =
                waiting.filter(|waiting| waiting.deadline == deadline).map(|waiting| waiting.wait)
            {
                if deadline > self.now {
                    return;
                }
                self.counters.lock_timeouts += 1;
                let text = match wait {
                    Wait::Lock(lock) => {
                        format!("the lock on {} was not to be had", self.row_text(&self.locks.key(lock)))
                    }
                    Wait::Decision(_) => {
                        "a row's writer is prepared, and its outcome was not to be had".into()
                    }
                };
                self.statement_failed(slot, None, true, Error::new(ErrorCode::LockWaitTimeout, text));
            }
            self.waiting_writes.remove(&transaction);
            self.lock_waits.pop_front();
        }
    }

    /// A row for people.
    fn row_text(&self, key: &LockKey<'_>) -> String {
        match self.schemas.get(&key.table) {
            Some(schema) => format!("key {} of table `{}`", key_text(schema, key.key), schema.table().name),
            None => format!("a key of table number {}, which was dropped", key.table),
        }
    }

    /// The table's schema, if the client knows it as it is.
    pub(super) fn schema(&self, table: TableId, version: u32) -> Result<Arc<Schema>, Error> {
        match self.schemas.get(&table) {
            Some(schema) if schema.table().version == version => Ok(schema.clone()),
            Some(schema) => {
                let text = format!(
                    "table {} has version {}, not {version}",
                    schema.table().name,
                    schema.table().version
                );
                Err(Error::new(ErrorCode::StaleSchema, text))
            }
            None if table.0 < self.next_table => {
                Err(Error::new(ErrorCode::NoSuchTable, format!("table number {table} was dropped")))
            }
            None => {
                Err(Error::new(ErrorCode::StaleSchema, format!("table number {table} is not known here yet")))
            }
        }
    }

    pub(super) fn refuse_operation(&mut self, client: LinkId, request: u32, error: &Error) {
        if let Some(link) = self.client_link(client) {
            link.send(Kind::OperationRef as u8, 0, |out| message::put_operation_ref(out, request, error));
        }
    }
}

/// How an operation locks its key.
pub(super) fn lock_mode(operation: &OperationRef<'_>, serializable: bool) -> Option<Mode> {
    match operation.lock {
        _ if operation.writes() => Some(Mode::Exclusive),
        LockMode::Exclusive => Some(Mode::Exclusive),
        LockMode::Shared => Some(Mode::Shared),
        LockMode::None => serializable.then_some(Mode::Shared),
    }
}

/// An operation of a statement, after its index there.
fn parse_operation<'a>(reader: &mut Reader<'a>) -> Result<(u16, OperationRef<'a>), Malformed> {
    Ok((reader.u16()?, OperationRef::parse(reader)?))
}

pub(super) fn results_too_large() -> Error {
    let text = format!("the results of the statement have more than {TRANSACTION_BYTES_MAX} bytes");
    Error::new(ErrorCode::TooLarge, text)
}

/// What an operation does to the entries of unique indexes, encoded.
fn entries_of(
    schema: &Schema,
    index: u16,
    operation: &OperationRef<'_>,
    action: Action,
    before: Option<RowRef<'_>>,
    new_body: &[u8],
) -> Result<Vec<u8>, Error> {
    let after = match action {
        Action::Put { expiry } if expiry != ClusterTime(0) => {
            // Entries would go at another time than their row: each worker has its own idea of the time.
            let text = format!("table `{}` has a unique index, so its rows cannot expire", schema.name);
            return Err(Error::new(ErrorCode::NotSupported, text));
        }
        Action::Put { .. } => Some(RowRef::new(schema, schema.version, operation.key, new_body)?),
        _ => None,
    };
    let mut entries = Vec::new();
    entry_changes(schema, index, before.as_ref(), after.as_ref(), &mut entries)
        .map_err(|refusal| refusal.error(schema, Some(operation.key)))?;
    Ok(entries)
}

/// Results by index.
pub(super) type Results = Vec<(u16, Vec<u8>)>;

/// From u16 index, u32 length, result.
fn split_results(bytes: &[u8]) -> Results {
    let mut reader = Reader::new(bytes, "results");
    let mut results = Vec::new();
    while !reader.is_empty() {
        results.push(parse_result(&mut reader).expect("written here"));
    }
    results
}

pub(super) fn parse_result(reader: &mut Reader<'_>) -> Result<(u16, Vec<u8>), Malformed> {
    Ok((reader.u16()?, reader.block()?.to_vec()))
}
