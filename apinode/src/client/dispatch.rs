//! Calls on their way: sent, tried again, cancelled, swept at their deadlines.

use twofold_proto::{
    error::{Error, ErrorClass, ErrorCode},
    ids::{Epoch, PartitionId},
    links::LinkId,
    message::{
        BEGIN, COMMIT, Coordinator, IndependentWrite, Kind, Outcome, ROLLBACK, ScanReq, Status,
        TransactionReq, TransactionState, UNDO,
    },
    time::{Duration, Time},
    wire::Writer,
};

use crate::request::{Answer, Durability, Failure, TransactionToken};

use super::{
    Client, LEARNED_MAX, NEVER,
    calls::{Call, Owner, Stage, Statement, Work},
    transactions::not_undone,
};

/// What fails for a moment is tried again after a random part of this, doubled each time up to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(1);
const BACKOFF_MAX: Duration = Duration::from_millis(50);
/// Nothing is tried again this short before its deadline: «not applied» is a better answer than «pending».
const RETRY_MARGIN: Duration = Duration::from_millis(5);
/// Deadlines are kept to this: looking at all of them takes a while.
pub(super) const SWEEP_EVERY: Duration = Duration::from_millis(10);
/// At its deadline a commit is given up, and its worker may say for so long that nothing came of it.
const CANCEL_GRACE: Duration = Duration::from_millis(20);
/// Larger buffers are not kept in free slots.
const SPARE_BYTES_MAX: usize = 4096;

/// Why a call cannot be sent now.
enum Blocked {
    /// Nobody serves the partition now.
    Unserved,
    /// Too much is under way.
    Full(Error),
    /// The TC that it belongs to is gone.
    Gone,
    /// The view that it is about is not the newest.
    Moved,
}

impl Client {
    /// A call that `fill` gives a body to; to be launched.
    pub(super) fn open_call(
        &mut self,
        work: Work,
        owner: Owner,
        deadline: Time,
        partition: PartitionId,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<u32, Error> {
        let bounds = &self.setup.bounds;
        if self.stopping {
            return Err(Error::new(ErrorCode::Stopping, "this client is stopping"));
        }
        // A rollback is small, makes room, and there is one for each open transaction at most.
        let rolls_back = matches!(work, Work::Statement(statement) if statement.has(ROLLBACK));
        if !rolls_back && !self.calls.has_room(bounds) {
            let (calls, bytes) = (self.calls.len() + self.calls.sharers, self.calls.bytes);
            let text = format!("{calls} requests with {bytes} bytes are under way at this client");
            return Err(Error::new(ErrorCode::Overloaded, text));
        }
        if !rolls_back && work != Work::Question {
            self.room_for_results(1)?;
        }
        let slot = self.calls.take();
        let timestamp = self.timestamp();
        let call = &mut self.calls.slots[slot as usize];
        (call.work, call.owner, call.stage) = (work, owner, Stage::New);
        (call.deadline, call.partition, call.attempts) = (deadline, partition, 0);
        call.durability = Durability::Memory;
        (call.timestamp, call.committing, call.disowned, call.cancelled) = (timestamp, false, false, false);
        fill(&mut call.body);
        self.calls.bytes += call.body.len();
        self.next_sweep = self.next_sweep.min(deadline);
        Ok(slot)
    }

    /// Sends a new call for the first time, or answers why not.
    pub(super) fn launch(&mut self, slot: u32) {
        match self.dispatch(slot) {
            Ok(()) => {}
            Err(Blocked::Unserved) => self.wait(slot, None),
            Err(Blocked::Full(error)) => {
                // What was not sent changes nothing of an open transaction, unless it was to undo something.
                let (begun, undoes) = match self.calls.get(slot).work {
                    Work::Statement(statement) => (!statement.has(BEGIN), statement.has(UNDO)),
                    _ => (false, false),
                };
                if undoes {
                    self.tell_failure(slot, not_undone(error), None, TransactionState::Aborted);
                    return self.roll_back(slot);
                }
                let state = if begun { TransactionState::Open } else { TransactionState::Aborted };
                self.conclude_failed(slot, error, None, state);
            }
            Err(Blocked::Gone) => self.lost(slot),
            Err(Blocked::Moved) => self.moved(slot),
        }
    }

    /// Sends a call that is new or waits.
    fn dispatch(&mut self, slot: u32) -> Result<(), Blocked> {
        let call = &mut self.calls.slots[slot as usize];
        if call.work == Work::Question {
            self.ask(slot);
            return Ok(());
        }
        if matches!(call.work, Work::Range { view: Some(view), .. } if view != self.view.number) {
            return Err(Blocked::Moved);
        }
        let to_partition = !matches!(call.work, Work::Statement(statement) if !statement.has(BEGIN));
        let id = if to_partition {
            self.routes.get(usize::from(call.partition.0)).copied().unwrap_or(LinkId::NONE)
        } else {
            let Coordinator { endpoint, incarnation } = call.token.coordinator;
            self.links.to(endpoint, incarnation).ok_or(Blocked::Gone)?
        };
        let link = self.links.get_mut(id).ok_or(Blocked::Unserved)?;
        let rolls_back = matches!(call.work, Work::Statement(statement) if statement.has(ROLLBACK));
        if link.kept_bytes() > self.setup.bounds.link_bytes && !rolls_back {
            let text = format!("{} bytes wait for {:?}", link.kept_bytes(), link.peer());
            return Err(Blocked::Full(Error::new(ErrorCode::Overloaded, text)));
        }
        let commits = match call.work {
            Work::Write(_) => true,
            Work::Statement(statement) => statement.has(COMMIT),
            _ => false,
        };
        if commits {
            if self.epoch == Epoch::default() {
                // Without an epoch it could not be told later whether the outcome was forgotten. Every frame of a worker
                // brings one, so anything that it answers will do.
                let mark = self.session.mark();
                link.send(Kind::MarkOrd as u8, 0, |out| out.put_u64(mark));
                link.want_acknowledgement();
                return Err(Blocked::Unserved);
            }
            if self.session.is_full() {
                let text = "too many commits of this session have no answer";
                return Err(Blocked::Full(Error::new(ErrorCode::Overloaded, text)));
            }
            call.token.commit_number = self.session.next_commit();
            call.token.epoch = self.epoch;
            call.committing = true;
        }
        if to_partition && !matches!(call.work, Work::Read | Work::Scan { .. } | Work::Range { .. }) {
            call.token.transaction.session = self.setup.incarnation;
            call.token.transaction.number = self.session.next_transaction();
            call.token.coordinator = Coordinator { endpoint: link.peer(), incarnation: link.incarnation() };
        }
        call.stage = Stage::Sent(id);
        let kind = match call.work {
            Work::Read => Kind::ReadReq,
            Work::Write(_) => Kind::WriteReq,
            Work::Statement(_) => Kind::TransactionReq,
            Work::Range { .. } => Kind::RangeReq,
            Work::Scan { .. } | Work::Question => Kind::ScanReq,
        };
        link.send(kind as u8, 0, |out| call.encode(slot, out));
        Ok(())
    }

    /// Something known not to be applied is tried again later, unless its deadline is before that. Without an error:
    /// nobody serves its partition.
    fn wait(&mut self, slot: u32, error: Option<Error>) {
        let call = self.calls.get(slot);
        let error = error.unwrap_or_else(|| {
            let text = format!("partition {} has no node that serves it", call.partition);
            Error::new(ErrorCode::NotServing, text)
        });
        let at = self.now + self.backoff(slot);
        let call = self.calls.get_mut(slot);
        if at + RETRY_MARGIN >= call.deadline {
            return self.conclude_failed(slot, error, None, TransactionState::Aborted);
        }
        call.error = Some(Box::new(error));
        self.set_stage(slot, Stage::Waiting(at));
    }

    fn backoff(&mut self, slot: u32) -> Duration {
        let call = self.calls.get_mut(slot);
        let whole = (BACKOFF_MIN * (1 << call.attempts.min(10))).min(BACKOFF_MAX).as_nanos() as u64;
        call.attempts += 1;
        Duration::from_nanos(self.random.between(whole / 2, whole))
    }

    /// Moves a call to a stage; its timer with it.
    pub(super) fn set_stage(&mut self, slot: u32, stage: Stage) {
        let call = &mut self.calls.slots[slot as usize];
        if let Stage::Waiting(at) | Stage::AskLater(at) = call.stage {
            self.timers.remove(&(at, slot));
        }
        call.stage = stage;
        if let Stage::Waiting(at) | Stage::AskLater(at) = stage {
            self.timers.insert((at, slot));
        }
    }

    /// Frees the slot of a call that nobody waits for, here or at a worker.
    pub(super) fn release(&mut self, slot: u32) {
        self.confirm(slot);
        self.set_stage(slot, Stage::Free);
        let call = &mut self.calls.slots[slot as usize];
        assert_eq!(call.owner, Owner::Nobody, "its owner waits: {call:?}");
        call.error = None;
        self.calls.bytes -= call.body.len();
        call.body.clear();
        call.body.shrink_to(SPARE_BYTES_MAX);
        self.calls.free.push(slot);
    }

    /// The answer to a call's commit, if it had one under way, is there: the mark may move.
    pub(super) fn confirm(&mut self, slot: u32) {
        let call = &mut self.calls.slots[slot as usize];
        if std::mem::take(&mut call.committing) && self.session.answered(call.token.commit_number) {
            self.mark_moved();
        }
    }

    /// A waiting call's time has come.
    pub(super) fn run_waiting(&mut self, slot: u32) {
        match self.calls.get(slot).stage {
            Stage::AskLater(_) => self.ask(slot),
            Stage::Waiting(_) => {
                self.set_stage(slot, Stage::New);
                match self.dispatch(slot) {
                    Ok(()) => {}
                    Err(Blocked::Full(error)) => self.wait(slot, Some(error)),
                    Err(Blocked::Unserved | Blocked::Gone) => self.wait(slot, None),
                    Err(Blocked::Moved) => self.moved(slot),
                }
            }
            stage => panic!("call {slot} has a timer and is {stage:?}"),
        }
    }

    /// A view has come: what waits need not wait longer.
    pub(super) fn run_all_waiting(&mut self) {
        for (_, slot) in self.timers.iter().copied().collect::<Vec<_>>() {
            if matches!(self.calls.get(slot).stage, Stage::Waiting(_) | Stage::AskLater(_)) {
                self.run_waiting(slot);
            }
        }
    }

    /// A worker has not applied a call (or it was found out that none has), and says why.
    pub(super) fn refused(
        &mut self,
        slot: u32,
        error: Error,
        operation: Option<u16>,
        state: TransactionState,
    ) {
        let was_commit = self.calls.get(slot).committing;
        self.confirm(slot);
        let call = self.calls.get(slot);
        if call.owner == Owner::Nobody {
            if was_commit {
                self.learn(slot, Outcome::Aborted);
            }
            return if state == TransactionState::Open { self.roll_back(slot) } else { self.release(slot) };
        }
        if state == TransactionState::Aborted && self.may_retry(slot, &error) {
            *self.retried.entry(error.code).or_default() += 1;
            return self.wait(slot, Some(error));
        }
        self.conclude_failed(slot, error, operation, state);
    }

    /// Whether the same call may go better if it is made again.
    fn may_retry(&self, slot: u32, error: &Error) -> bool {
        let call = self.calls.get(slot);
        let whole = match call.work {
            Work::Statement(statement) => statement.has(BEGIN) && !statement.has(ROLLBACK),
            _ => true,
        };
        whole
            && !call.cancelled
            && match error.code {
                // Only space can help, and that does not come by asking.
                ErrorCode::TableFull | ErrorCode::TooMany => false,
                // The node may be behind with the catalog; if we are, the caller must look again.
                ErrorCode::StaleSchema | ErrorCode::NoSuchTable => self.fits_catalog(call),
                code => code.class() == ErrorClass::Temporary,
            }
    }

    /// The call's link is gone before it was answered.
    fn lost(&mut self, slot: u32) {
        let call = self.calls.get(slot);
        match call.work {
            Work::Read | Work::Scan { .. } | Work::Range { .. } | Work::Question => {
                self.set_stage(slot, Stage::New);
                if self.calls.get(slot).owner == Owner::Nobody {
                    return self.release(slot);
                }
                self.counters.resent += 1;
                match self.dispatch(slot) {
                    Ok(()) => {}
                    Err(Blocked::Moved) => self.moved(slot),
                    Err(_) => self.wait(slot, None),
                }
            }
            Work::Write(_) => self.ask(slot),
            Work::Statement(statement) if statement.has(ROLLBACK) => self.conclude_rolled_back(slot),
            Work::Statement(statement) if call.committing && statement.writes => self.ask(slot),
            Work::Statement(_) => self.refuse_lost(slot),
        }
    }

    /// What the call is about is with other workers now.
    fn moved(&mut self, slot: u32) {
        let error =
            Error::new(ErrorCode::PrimaryChanged, "primaries have changed in the midst of a scan by index");
        self.conclude_failed(slot, error, None, TransactionState::Aborted);
    }

    /// A statement whose TC is gone has left nothing.
    fn refuse_lost(&mut self, slot: u32) {
        let node = self.calls.get(slot).token.coordinator.endpoint.node;
        let text = format!("node {node}, which coordinated the transaction, is gone");
        self.refused(slot, Error::new(ErrorCode::PrimaryChanged, text), None, TransactionState::Aborted);
    }

    /// Some links are gone: deals with the calls on them.
    pub(super) fn calls_lost(&mut self) {
        let on_lost_link = |call: &Call| match call.stage {
            Stage::Sent(link) | Stage::Asking(link) => self.links.get(link).is_none(),
            _ => false,
        };
        let lost: Vec<u32> =
            self.calls.iter().filter(|(_, call)| on_lost_link(call)).map(|(slot, _)| slot).collect();
        for slot in lost {
            self.lost(slot);
        }
    }

    /// Tells the owner that the call has failed for good. No worker is at it any more.
    pub(super) fn conclude_failed(
        &mut self,
        slot: u32,
        error: Error,
        operation: Option<u16>,
        state: TransactionState,
    ) {
        self.tell_failure(slot, error, operation, state);
        let call = self.calls.get(slot);
        match call.work {
            Work::Statement(Statement { handle: None, .. }) if state == TransactionState::Open => {
                self.roll_back(slot)
            }
            _ => self.release(slot),
        }
    }

    /// Tells the owner of a failure; from then on nobody owns the call.
    pub(super) fn tell_failure(
        &mut self,
        slot: u32,
        error: Error,
        operation: Option<u16>,
        state: TransactionState,
    ) {
        let (owner, sharers) = self.calls.take_owners(slot);
        let call = self.calls.get(slot);
        let is_transaction = matches!(call.work, Work::Statement(_));
        let token = (error.code == ErrorCode::OutcomePending).then(|| call.users_token());
        let timestamp = if is_transaction { call.timestamp } else { 0 };
        let failure = Failure { error, operation, state, token, timestamp };
        for &owner in &sharers {
            self.tell_operation(owner, Err(failure.clone()));
        }
        self.calls.put_back(slot, sharers);
        match owner {
            Owner::Nobody => {}
            Owner::Operation(_) | Owner::Part { .. } => self.tell_operation(owner, Err(failure)),
            Owner::Piece(number) => self.piece_failed(number, failure),
            Owner::Request(token) => {
                let handle = self.handle_of(slot);
                self.answer(token, Answer::Failed(failure));
                self.statement_over(handle, state);
            }
        }
    }

    /// Ends a transaction that nobody waits for.
    pub(super) fn roll_back(&mut self, slot: u32) {
        let call = &mut self.calls.slots[slot as usize];
        let Coordinator { endpoint, incarnation } = call.token.coordinator;
        let Some(id) = self.links.to(endpoint, incarnation) else { return self.release(slot) };
        call.work = Work::Statement(Statement {
            handle: None,
            flags: ROLLBACK,
            number: 0,
            operations: 0,
            writes: false,
        });
        call.stage = Stage::Sent(id);
        self.calls.bytes -= call.body.len();
        call.body.clear();
        let link = self.links.get_mut(id).expect("just found");
        link.send(Kind::TransactionReq as u8, 0, |out| call.encode(slot, out));
    }

    /// Nobody waits for the call any more: its worker undoes what it has not done, and frees its locks at once. Where it
    /// cannot be undone, and where the answer is on its way, things go on as if this had not been.
    pub(super) fn cancel(&mut self, slot: u32) {
        let call = &mut self.calls.slots[slot as usize];
        let cancels = match call.work {
            Work::Write(_) => true,
            Work::Statement(statement) => !statement.has(ROLLBACK),
            _ => false,
        };
        let Stage::Sent(id) = call.stage else { return };
        let Some(link) = self.links.get_mut(id).filter(|_| cancels && !call.cancelled) else { return };
        call.cancelled = true;
        self.counters.cancelled += 1;
        let number = call.token.transaction.number;
        link.send(Kind::CancelOrd as u8, 0, |out| out.put_u64(number));
    }

    /// Looks at all deadlines.
    pub(super) fn sweep(&mut self) {
        self.next_sweep = NEVER;
        let mut next = NEVER;
        for slot in 0..self.calls.slots.len() as u32 {
            let call = self.calls.get(slot);
            if call.stage == Stage::Free || call.owner == Owner::Nobody {
                continue;
            }
            if call.deadline > self.now {
                next = next.min(call.deadline);
            } else {
                self.expire(slot);
            }
        }
        let next = next.min(self.next_sweep);
        self.next_sweep = if next == NEVER { NEVER } else { next.max(self.now + SWEEP_EVERY) };
    }

    /// Answers a call at its deadline. What a worker is still at is given up.
    fn expire(&mut self, slot: u32) {
        let call = self.calls.get(slot);
        if call.committing && matches!(call.stage, Stage::Sent(_)) && !call.cancelled {
            self.cancel(slot);
            let deadline = self.now + CANCEL_GRACE;
            self.calls.get_mut(slot).deadline = deadline;
            self.next_sweep = self.next_sweep.min(deadline);
            return;
        }
        self.cancel(slot);
        let late = self.late(self.calls.get(slot).stage);
        let call = self.calls.get_mut(slot);
        let timeout = || Error::new(ErrorCode::Timeout, late);
        let aborted = TransactionState::Aborted;
        match (call.stage, call.work) {
            (Stage::Waiting(_), _) => {
                let error = call.error.take().map_or_else(timeout, |error| *error);
                self.conclude_failed(slot, error, None, aborted);
            }
            (Stage::Held(_), Work::Question) => self.tell_question(slot, Status::Pending),
            (Stage::AskLater(_), Work::Question) => self.conclude_failed(slot, timeout(), None, aborted),
            (_, Work::Write(_)) => self.tell_pending(slot),
            (_, Work::Statement(statement)) if call.committing && statement.writes => self.tell_pending(slot),
            _ => self.tell_failure(slot, timeout(), None, aborted),
        }
    }

    /// That a call in this stage takes too long, and for whom it waits.
    fn late(&self, stage: Stage) -> String {
        let link = match stage {
            Stage::Sent(link) | Stage::Asking(link) => self.links.get(link),
            _ => None,
        };
        let Some(node) = link.map(|link| link.peer().node) else { return "no answer came in time".into() };
        let mut buddies = self.config.iter().flat_map(|config| config.buddies(node));
        match buddies.any(|buddy| self.view.is_up(buddy)) {
            true => format!("node {node} has not answered in time"),
            false => format!(
                "node {node} has not answered in time, and no other node of its group is up: if it does not run, the group \
                 does not serve"
            ),
        }
    }

    pub(super) fn tell_pending(&mut self, slot: u32) {
        self.counters.pending += 1;
        let call = self.calls.get(slot);
        let node = call.token.coordinator.endpoint.node;
        let text = match call.stage {
            Stage::Held(epoch) => format!("committed in epoch {epoch}, which is not on all disks yet"),
            _ => format!("node {node} has not answered whether the transaction is committed"),
        };
        self.tell_failure(slot, Error::new(ErrorCode::OutcomePending, text), None, TransactionState::Aborted);
    }

    /// The outcome of something that was reported as pending is known.
    pub(super) fn learn(&mut self, slot: u32, outcome: Outcome) {
        self.counters.learned += 1;
        if self.learned.len() >= LEARNED_MAX {
            self.learned.pop_first();
        }
        self.learned.insert(self.calls.get(slot).token.transaction, outcome);
    }

    pub(super) fn check_calls(&self) {
        let (mut committing, mut timers, mut sharers) = (0, 0, 0);
        for (slot, call) in self.calls.iter() {
            let shared = call.work == Work::Read && call.owner != Owner::Nobody;
            assert!(shared || call.sharers.is_empty(), "call {slot} is shared: {call:?}");
            sharers += call.sharers.len();
            committing += usize::from(call.committing);
            match call.stage {
                Stage::Sent(link) | Stage::Asking(link) => {
                    assert!(
                        self.links.get(link).is_some(),
                        "call {slot} waits at a link that is gone: {call:?}"
                    );
                }
                Stage::Waiting(at) | Stage::AskLater(at) => {
                    timers += 1;
                    assert!(self.timers.contains(&(at, slot)), "call {slot} has no timer: {call:?}");
                }
                Stage::Held(_) => {}
                Stage::New | Stage::Free => panic!("call {slot} waits for nothing: {call:?}"),
            }
            let swept =
                call.owner == Owner::Nobody || self.next_sweep <= call.deadline.max(self.now + SWEEP_EVERY);
            assert!(swept, "nobody looks at the deadline of call {slot}: {call:?}");
        }
        assert_eq!(timers, self.timers.len(), "timers of calls that do not wait: {:?}", self.timers);
        assert_eq!(
            committing,
            self.session.open(),
            "commits without an answer, mark {}",
            self.session.mark()
        );
        assert_eq!(sharers, self.calls.sharers, "those who share reads");
        self.batches.check(self.calls.owners());
        self.ranges.check(self.calls.owners());
    }
}

impl Call {
    /// The name of its transaction, for the user who may ask what became of it.
    pub(super) fn users_token(&self) -> TransactionToken {
        TransactionToken { durable: self.durability == Durability::Disk, ..self.token }
    }

    /// Appends the request.
    fn encode(&self, request: u32, out: &mut Vec<u8>) {
        match self.work {
            Work::Read => {
                out.put_u32(request);
                out.put(&self.body);
            }
            Work::Write(_) => {
                let TransactionToken { transaction, commit_number, .. } = self.token;
                IndependentWrite {
                    request,
                    number: transaction.number,
                    timestamp: self.timestamp,
                    commit_number,
                }
                .encode(out);
                out.put(&self.body);
            }
            Work::Statement(statement) => {
                let commits = statement.has(COMMIT);
                TransactionReq {
                    request,
                    flags: statement.flags,
                    number: self.token.transaction.number,
                    timestamp: self.timestamp,
                    commit_number: if commits { self.token.commit_number } else { 0 },
                    statement: statement.number,
                    operations: statement.operations,
                }
                .encode(out);
                out.put(&self.body);
            }
            Work::Scan { table, schema_version, cursor, rows } => {
                let (partition, program) = (self.partition, &self.body[..]);
                ScanReq { request, table, schema_version, partition, cursor, rows, program }.encode(out);
            }
            Work::Range { .. } => {
                out.put_u32(request);
                out.put(&self.body);
            }
            Work::Question => panic!("a question is asked, not sent: {self:?}"),
        }
    }
}
