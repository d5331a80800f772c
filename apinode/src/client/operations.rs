//! Independent operations, one by one or in batches, and steps of scans.
//!
//! Equal reads of one turn are one call. A call that was begun in this turn has not left: frames do when the turn ends. So
//! whoever joins it is answered by a read that a worker begins after the joiner has asked; nobody sees a state that is
//! older than its own question. What was sent in an earlier turn is joined by nobody: its worker may have read already.

use hashbrown::HashTable;
use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Epoch, PartitionId, TableId},
    limits::{KEY_BYTES_MAX, REQUEST_OPERATIONS_MAX, TRANSACTION_BYTES_MAX},
    links::LinkId,
    message::{self, ScanConf, TransactionState},
    operation::{
        BodyRef, LockMode, OPERATION_BODY_MAX, OperationKind, OperationRef, ResultCode, ResultHead, ResultRef,
    },
    time::Time,
    wire::{Malformed, Reader, Writer},
};

use crate::request::{Answer, Durability, Failure, Operations, Options, Request, Results};

use super::{
    Client,
    calls::{Call, Owner, Stage, Work},
    dispatch::SWEEP_EVERY,
};

/// An independent request, until all its operations are answered.
#[derive(Debug)]
struct Batch {
    token: u64,
    results: Results,
    /// What the results may have in bytes.
    bytes_max: usize,
    left: u16,
}

/// Independent requests by slot.
#[derive(Debug, Default)]
pub(super) struct Batches {
    slots: Vec<Option<Batch>>,
    free: Vec<u32>,
    /// Of all their results.
    bytes: usize,
}

/// Calls of reads that were begun in this turn, by the key's hash. One may have ended, and its slot have another's
/// call, since.
#[derive(Debug, Default)]
pub(super) struct UnsentReads(HashTable<(u64, u32)>);

impl UnsentReads {
    /// They are about to be sent.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Batches {
    fn insert(&mut self, batch: Batch) -> u32 {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(batch);
                slot
            }
            None => {
                self.slots.push(Some(batch));
                (self.slots.len() - 1) as u32
            }
        }
    }

    /// Fills in a result. Returns the batch when it was the last.
    fn fill(&mut self, slot: u32, operation: u16, result: Result<&[u8], Failure>) -> Option<(u64, Results)> {
        let place = &mut self.slots[slot as usize];
        let batch = place.as_mut().expect("a batch stays until its last operation is answered");
        match result {
            Ok(bytes) => {
                self.bytes += bytes.len();
                batch.results.set(operation.into(), bytes);
            }
            Err(failure) => batch.results.fail(operation.into(), failure),
        }
        batch.left -= 1;
        let done = place.take_if(|batch| batch.left == 0)?;
        self.free.push(slot);
        self.bytes -= done.results.bytes();
        Some((done.token, done.results))
    }

    /// Whether a result of so many bytes fits its batch.
    fn room(&self, slot: u32, bytes: usize) -> Result<(), Error> {
        let batch = self.slots[slot as usize].as_ref();
        let batch = batch.expect("a batch stays until its last operation is answered");
        if batch.results.bytes() + bytes <= batch.bytes_max {
            return Ok(());
        }
        let text =
            format!("results of {} bytes; those of one request may have so many together", batch.bytes_max);
        Err(Error::new(ErrorCode::TooLarge, text))
    }

    /// Every operation that a batch waits for has one call.
    pub fn check(&self, owners: impl Iterator<Item = Owner>) {
        let mut left: Vec<u16> =
            self.slots.iter().map(|batch| batch.as_ref().map_or(0, |batch| batch.left)).collect();
        for owner in owners {
            if let Owner::Part { batch, operation } = owner {
                let left = &mut left[batch as usize];
                *left =
                    left.checked_sub(1).unwrap_or_else(|| panic!("operation {operation} of batch {batch}"));
            }
        }
        assert!(left.iter().all(|&left| left == 0), "operations without a call, by batch: {left:?}");
        let bytes: usize = self.slots.iter().flatten().map(|batch| batch.results.bytes()).sum();
        assert_eq!(self.bytes, bytes, "bytes of the results of batches");
    }
}

/// Reads the operations of a request, one after the other.
pub(super) fn read_operations(
    operations: &Operations,
) -> impl Iterator<Item = Result<OperationRef<'_>, Malformed>> {
    let mut reader = Reader::new(&operations.bytes, "operations");
    (0..operations.count).map(move |_| OperationRef::parse(&mut reader))
}

/// Whether a request's operations are whole, and no more than allowed.
pub(super) fn check_operations(operations: &Operations) -> Result<(), Error> {
    let (count, bytes) = (usize::from(operations.count), operations.bytes.len());
    if count > REQUEST_OPERATIONS_MAX || bytes > TRANSACTION_BYTES_MAX {
        let text = format!(
            "{count} operations of {bytes} bytes; a request may have {REQUEST_OPERATIONS_MAX} of {TRANSACTION_BYTES_MAX}"
        );
        return Err(Error::new(ErrorCode::TooLarge, text));
    }
    let mut read = 0;
    for operation in read_operations(operations) {
        read += operation.map(|operation| size(&operation))?;
    }
    if read != bytes {
        let text = format!("{count} operations take {read} bytes, not {bytes}");
        return Err(Error::new(ErrorCode::Malformed, text));
    }
    Ok(())
}

fn size(operation: &OperationRef<'_>) -> usize {
    twofold_proto::operation::OPERATION_HEADER + operation.key.len() + operation.body.len()
}

/// Results up to this many bytes are always kept.
pub(super) const SMALL_RESULT: usize = 64;

/// The result of a write for whose rows there is no room: all but those.
pub(super) fn without_rows(result: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let head = ResultRef::parse(&mut Reader::new(result, "result"))?.head;
    ResultHead { before: false, after: false, key: None, ..head }.encode(out);
    Ok(())
}

/// The result of a write that is known to be committed, but whose own result is lost. Whether there was a row is said
/// where the kind of operation tells; rows that were asked for are missing.
pub(super) fn plain_result(kind: OperationKind) -> [u8; 2] {
    let existed = matches!(kind, OperationKind::Update | OperationKind::Delete);
    let mut bytes = Vec::with_capacity(2);
    ResultHead { existed, changed: true, ..ResultHead::new(ResultCode::Ok) }.encode(&mut bytes);
    bytes.try_into().expect("a result without rows is two bytes")
}

impl Client {
    /// Starts an operation as a transaction of its own; returns its call. Its owner is told, unless it could not even
    /// begin.
    #[inline]
    pub(super) fn operate(
        &mut self,
        owner: Owner,
        deadline: Time,
        durability: Durability,
        operation: &OperationRef<'_>,
    ) -> Result<u32, Error> {
        let partitions = self.partitions()?;
        if operation.key.len() > KEY_BYTES_MAX {
            let text = format!("a key of {} bytes; {KEY_BYTES_MAX} are allowed", operation.key.len());
            return Err(Error::new(ErrorCode::KeyTooLarge, text));
        }
        if operation.body.len() > OPERATION_BODY_MAX {
            let text =
                format!("an operation of {} bytes; {OPERATION_BODY_MAX} are allowed", operation.body.len());
            return Err(Error::new(ErrorCode::TooLarge, text));
        }
        let partition = operation.hash.partition(partitions);
        let work = if operation.writes() { Work::Write(operation.kind) } else { Work::Read };
        // Alone, a read that locks sees no more than one that does not.
        let lock = if operation.writes() { operation.lock } else { LockMode::None };
        let operation = OperationRef { lock, ..*operation };
        let slot = self.open_call(work, owner, deadline, partition, |body| operation.encode(body))?;
        let call = self.calls.get_mut(slot);
        (call.token.partition, call.durability) = (partition, durability);
        self.launch(slot);
        Ok(slot)
    }

    /// Starts a read, or joins one that is the same and has not been sent.
    fn read(&mut self, owner: Owner, deadline: Time, operation: &OperationRef<'_>) -> Result<(), Error> {
        let hash = operation.hash.index_seed();
        let same = |&(_, slot): &(u64, u32)| {
            let call = self.calls.get(slot);
            call.work == Work::Read
                && call.owner != Owner::Nobody
                // Deadlines are kept no more exactly than that.
                && call.deadline.since(deadline).max(deadline.since(call.deadline)) <= SWEEP_EVERY
                && OperationRef::parse(&mut Reader::new(&call.body, "operation"))
                    .is_ok_and(|known| known == OperationRef { lock: LockMode::None, ..*operation })
        };
        if let Some(&(_, slot)) = self.unsent_reads.0.find(hash, same)
            && self.calls.has_room(&self.setup.bounds)
        {
            self.room_for_results(1)?;
            self.counters.shared += 1;
            self.calls.share(slot, owner);
            return Ok(());
        }
        let slot = self.operate(owner, deadline, Durability::Memory, operation)?;
        self.unsent_reads.0.insert_unique(hash, (hash, slot), |&(hash, _)| hash);
        Ok(())
    }

    /// How many partitions there are.
    pub(super) fn partitions(&self) -> Result<u16, Error> {
        let unknown = || Error::new(ErrorCode::NotServing, "no management node has told of the cluster yet");
        self.config.as_ref().map(|config| config.partitions).ok_or_else(unknown)
    }

    pub(super) fn submit_independent(&mut self, token: u64, operations: &Operations, options: &Options) {
        if let Err(error) = check_operations(operations) {
            return self.answer_error(token, error);
        }
        let results = Results::new(operations.count.into());
        if operations.count == 0 {
            return self.answer(token, Answer::Operations(results));
        }
        let deadline = self.deadline(options.deadline);
        let bytes_max = options.result_bytes.unwrap_or(TRANSACTION_BYTES_MAX);
        let batch = self.batches.insert(Batch { token, results, bytes_max, left: operations.count });
        for (index, operation) in read_operations(operations).enumerate() {
            let owner = Owner::Part { batch, operation: index as u16 };
            let operation = operation.expect("checked above");
            let begun = match operation.writes() {
                true => self.operate(owner, deadline, options.durability, &operation).map(drop),
                false => self.read(owner, deadline, &operation),
            };
            if let Err(error) = begun {
                self.tell_operation(owner, Err(error.into()));
            }
        }
    }

    /// Tells who submitted an operation.
    #[inline]
    pub(super) fn tell_operation(&mut self, owner: Owner, result: Result<&[u8], Failure>) {
        match owner {
            Owner::Nobody => {}
            Owner::Operation(token) => {
                self.counters.answered += 1;
                self.replies.push(token, result);
            }
            Owner::Part { batch, operation } => {
                if let Some((token, results)) = self.batches.fill(batch, operation, result) {
                    self.answer(token, Answer::Operations(results));
                }
            }
            Owner::Request(token) => panic!("request {token} is no single operation"),
            Owner::Piece(number) => panic!("step {number} of a scan is no single operation"),
        }
    }

    /// The operation was done, and has written nothing (`OperationConf`).
    pub(super) fn on_operation_conf(&mut self, link: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "OperationConf");
        let request = reader.u32()?;
        let result = reader.rest();
        let call = self.calls.answered(request, Stage::Sent(link))?;
        if !matches!(call.work, Work::Read | Work::Write(_)) {
            return Err(Malformed("OperationConf: not for an operation"));
        }
        if call.owner == Owner::Nobody {
            if call.committing {
                self.learn(request, message::Outcome::Aborted);
            }
            self.release(request);
            return Ok(());
        }
        let writes = call.work != Work::Read;
        let (owner, sharers) = self.calls.take_owners(request);
        for &owner in &sharers {
            self.tell_done(owner, writes, result)?;
        }
        self.calls.put_back(request, sharers);
        self.tell_done(owner, writes, result)?;
        self.release(request);
        Ok(())
    }

    /// The write was done, and is committed (`WriteConf`).
    pub(super) fn on_write_conf(&mut self, link: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "WriteConf");
        let (request, epoch) = (reader.u32()?, Epoch(reader.u64()?));
        let call = self.calls.answered(request, Stage::Sent(link))?;
        if !matches!(call.work, Work::Write(_)) {
            return Err(Malformed("WriteConf: not for a write"));
        }
        if call.owner == Owner::Nobody {
            self.learn(request, message::Outcome::Committed(epoch));
            self.release(request);
            return Ok(());
        }
        self.tell_write(request, epoch, reader.rest())
    }

    /// Answers a write that is committed, once that is durable enough.
    #[inline]
    pub(super) fn tell_write(&mut self, slot: u32, epoch: Epoch, result: &[u8]) -> Result<(), Malformed> {
        let call = self.calls.get_mut(slot);
        if call.durability == Durability::Disk {
            let mut results = Results::new(1);
            match self.room_for_results(result.len()) {
                Err(_) if result.len() > SMALL_RESULT => {
                    let mut short = Vec::new();
                    without_rows(result, &mut short)?;
                    results.set(0, &short);
                }
                _ => results.set(0, result),
            }
            self.hold(slot, epoch, results);
            return Ok(());
        }
        let owner = std::mem::replace(&mut call.owner, Owner::Nobody);
        self.tell_done(owner, true, result)?;
        self.release(slot);
        Ok(())
    }

    /// Tells who submitted an operation what it has answered, if there is room for it.
    #[inline]
    fn tell_done(&mut self, owner: Owner, writes: bool, result: &[u8]) -> Result<(), Malformed> {
        let room = match owner {
            Owner::Part { batch, .. } if result.len() > SMALL_RESULT => {
                self.batches.room(batch, result.len()).and_then(|()| self.room_for_results(result.len()))
            }
            _ => Ok(()),
        };
        let mut short = Vec::new();
        let result = match room {
            Ok(()) => Ok(result),
            Err(_) if writes => without_rows(result, &mut short).map(|()| Ok(&short[..]))?,
            Err(error) => Err(error.into()),
        };
        self.tell_operation(owner, result);
        Ok(())
    }

    /// Bytes of results that are in memory here.
    pub(super) fn result_bytes(&self) -> usize {
        self.batches.bytes
            + self.held.bytes()
            + self.ranges.bytes()
            + self.handed_out.as_ref().map_or(0, |handed_out| handed_out.bytes())
    }

    /// Whether there may be so many more bytes of results.
    pub(super) fn room_for_results(&self, bytes: usize) -> Result<(), Error> {
        if self.result_bytes() + bytes <= self.setup.bounds.result_bytes {
            return Ok(());
        }
        let text = format!("{} bytes of results wait for those who asked to read them", self.result_bytes());
        Err(Error::new(ErrorCode::Overloaded, text))
    }

    /// The operation or step of a scan was not tried (`OperationRef`).
    pub(super) fn on_operation_ref(&mut self, link: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let (request, error) = message::operation_ref(body)?;
        let call = self.calls.answered(request, Stage::Sent(link))?;
        if matches!(call.work, Work::Statement(_) | Work::Question) {
            return Err(Malformed("OperationRef: not for an operation"));
        }
        self.refused(request, error, None, TransactionState::Aborted);
        Ok(())
    }

    pub(super) fn submit_scan(&mut self, token: u64, request: Request) {
        let Request::ScanStep { table, schema_version, partition, cursor, rows, program, deadline } = request
        else {
            panic!("{request:?} is no step of a scan");
        };
        let work = Work::Scan { table, schema_version, cursor, rows };
        let deadline = self.deadline(deadline);
        let opened = self.check_scan(partition, &program).and_then(|()| {
            self.open_call(work, Owner::Request(token), deadline, partition, |body| body.put(&program))
        });
        match opened {
            Ok(slot) => self.launch(slot),
            Err(error) => self.answer_error(token, error),
        }
    }

    pub(super) fn check_scan(&self, partition: PartitionId, program: &[u8]) -> Result<(), Error> {
        let partitions = self.partitions()?;
        if partition.0 >= partitions {
            let text = format!("partition {partition} of {partitions}, which are numbered from 0");
            return Err(Error::new(ErrorCode::Malformed, text));
        }
        if program.len() > OPERATION_BODY_MAX {
            let text = format!("a program of {} bytes; {OPERATION_BODY_MAX} are allowed", program.len());
            return Err(Error::new(ErrorCode::TooLarge, text));
        }
        BodyRef::parse(OperationKind::Read, program)?;
        Ok(())
    }

    /// Rows (`ScanConf`).
    pub(super) fn on_scan_conf(&mut self, link: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "ScanConf");
        let conf = ScanConf::parse(&mut reader)?;
        let call = self.calls.answered(conf.request, Stage::Sent(link))?;
        if !matches!(call.work, Work::Scan { .. }) {
            return Err(Malformed("ScanConf: not for a scan"));
        }
        if let Err(error) = self.room_for_results(body.len()) {
            self.conclude_failed(conf.request, error, None, TransactionState::Aborted);
            return Ok(());
        }
        let mut rows = Results::new(0);
        for _ in 0..conf.rows {
            rows.push(reader.block()?);
        }
        reader.finish()?;
        let owner = std::mem::replace(&mut self.calls.get_mut(conf.request).owner, Owner::Nobody);
        if let Owner::Request(token) = owner {
            self.answer(token, Answer::Scan { cursor: conf.cursor, rows });
        }
        self.release(conf.request);
        Ok(())
    }

    /// Whether all that the call uses is of the newest catalog that is known here.
    pub(super) fn fits_catalog(&self, call: &Call) -> bool {
        let fits = |id: TableId, version: u32| {
            self.catalog.stored().any(|table| table.id == id && table.version == version)
        };
        let count = match call.work {
            Work::Scan { table, schema_version, .. } => return fits(table, schema_version),
            Work::Range { table, schema_version, index, .. } => {
                let mut indexes = self.catalog.tables.iter().flat_map(|table| &table.indexes);
                return fits(table, schema_version) && indexes.any(|known| known.id == index);
            }
            Work::Read | Work::Write(_) => 1,
            Work::Statement(statement) => statement.operations,
            Work::Question => return true,
        };
        let mut reader = Reader::new(&call.body, "operations");
        (0..count).all(|_| {
            OperationRef::parse(&mut reader)
                .is_ok_and(|operation| fits(operation.table, operation.schema_version))
        })
    }
}
