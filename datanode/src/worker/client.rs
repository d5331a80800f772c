//! Requests of clients that need no TC apart: committed reads and independent writes; and their sessions.

use std::sync::Arc;

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Endpoint, Epoch, Incarnation, TransactionId},
    limits::{CLIENT_LINK_BYTES_MAX, TRANSACTION_BYTES_MAX},
    link::Link,
    links::LinkId,
    message::{self, BEGIN, COMMIT, IndependentWrite, Kind, Outcome, TransactionReq},
    operation::{LockMode, OperationKind, OperationRef},
    view::View,
    wire::{Malformed, Reader, Writer},
};
use twofold_storage::{
    evaluate::{CurrentRow, evaluate},
    fragment::row_tag,
    lock::{LockId, LockKey},
};

use super::{
    Peer, Worker,
    local::{Origin, Wait},
};

/// Requests and transactions that a worker has open at once; more get a temporary error.
const OPEN_MAX: usize = 200_000;
/// Of those, what one client may have: there is room for others whatever one does.
const OPEN_OF_CLIENT_MAX: usize = OPEN_MAX / 4;
/// Bytes that a worker holds for statements under way: those that wait here, and the results of those of which it is the TC.
/// Some of the largest there are.
const STATEMENT_BYTES_MAX: usize = 8 * TRANSACTION_BYTES_MAX;
/// How many views a client may be ahead.
const VIEWS_AHEAD_MAX: u64 = 1000;

/// What waits for write sets of transactions that may be committed already.
#[derive(Debug)]
pub(super) enum Observer {
    /// A client's read or step of a scan, until so many write sets are decided.
    Request { client: LinkId, kind: Kind, body: Vec<u8>, left: usize },
    /// A read without a lock in a statement.
    Statement { slot: u32, transaction: TransactionId },
}

impl Observer {
    /// The client that waits.
    fn client(&self) -> Option<LinkId> {
        match self {
            Observer::Request { client, .. } => Some(*client),
            Observer::Statement { .. } => None,
        }
    }
}

/// Whether a worker may hold so many bytes for statements under way.
pub(super) fn check_statement_bytes(own: Endpoint, bytes: usize) -> Result<(), Error> {
    if bytes <= STATEMENT_BYTES_MAX {
        return Ok(());
    }
    let text = format!("{bytes} bytes are held for statements under way on node {}", own.node);
    Err(Error::new(ErrorCode::Overloaded, text))
}

impl Worker {
    pub(super) fn on_client_message(
        &mut self,
        client: LinkId,
        kind: Kind,
        body: &[u8],
    ) -> Result<(), Malformed> {
        match kind {
            Kind::ViewOrd => {
                let view: View = message::control(body)?;
                // The register may have been rebuilt.
                let next_generation = self.view.number.next_generation();
                let is_near = [Some(self.view.number), next_generation]
                    .into_iter()
                    .flatten()
                    .any(|known| (known.0..=known.0 + VIEWS_AHEAD_MAX).contains(&view.number.0));
                if !view.fits(&self.config) || !(is_near || view.number < self.view.number) {
                    return Err(Malformed("ViewOrd: not of this config"));
                }
                self.adopt_view(Arc::new(view));
                Ok(())
            }
            Kind::ReadReq => self.on_read(client, body),
            Kind::WriteReq => self.on_write(client, body),
            Kind::TransactionReq => self.on_transaction(client, body),
            Kind::ScanReq => self.on_scan(client, body),
            Kind::RangeReq => self.on_range(client, body),
            Kind::StatusReq => self.on_status(client, &message::control(body)?),
            Kind::MarkOrd => {
                let mark = Reader::new(body, "MarkOrd").u64()?;
                self.outcomes.mark(self.session(client), mark);
                if let Some(Peer::Client(client)) = self.peers.get_mut(&client) {
                    while client.read.first_key_value().is_some_and(|(number, _)| *number <= mark) {
                        client.read.pop_first();
                    }
                }
                Ok(())
            }
            Kind::SessionEndOrd => {
                self.drop_client(client);
                Ok(())
            }
            Kind::DurableReq => self.on_durable_req(client, Epoch(Reader::new(body, "DurableReq").u64()?)),
            Kind::CancelOrd => {
                let number = Reader::new(body, "CancelOrd").u64()?;
                self.on_cancel(TransactionId { session: self.session(client), number });
                Ok(())
            }
            _ => Err(Malformed("message of a client")),
        }
    }

    pub(super) fn session(&self, client: LinkId) -> Incarnation {
        match self.peers.get(&client) {
            Some(Peer::Client(client)) => client.session,
            _ => Incarnation::default(),
        }
    }

    /// Whether more can be taken on, and the client takes its answers, so that more can be kept for it.
    pub(super) fn check_load(&self, client: LinkId) -> Result<(), Error> {
        let kept = self.links.get(client).map_or(0, |link| link.kept_bytes());
        let open = self.locals.len() + self.observers.len() + self.coordinated.len();
        if open > OPEN_MAX {
            return Err(Error::new(
                ErrorCode::Overloaded,
                format!("{open} requests are open on node {}", self.own.node),
            ));
        }
        let of_client = match self.peers.get(&client) {
            Some(Peer::Client(peer)) => peer.open,
            _ => 0,
        };
        if of_client >= OPEN_OF_CLIENT_MAX {
            let node = self.own.node;
            let text = format!("the client has {of_client} requests and transactions open on node {node}");
            return Err(Error::new(ErrorCode::Overloaded, text));
        }
        if kept <= CLIENT_LINK_BYTES_MAX {
            return Ok(());
        }
        Err(Error::new(ErrorCode::Overloaded, format!("the client has not read {kept} bytes of answers")))
    }

    /// The same for a statement of a transaction, whose results are held until all of it is answered.
    pub(super) fn check_statement(&self, client: LinkId) -> Result<(), Error> {
        self.check_load(client)?;
        check_statement_bytes(self.own, self.statement_bytes)
    }

    /// Something of a client is open from now on.
    pub(super) fn opened(&mut self, client: LinkId) {
        if let Some(Peer::Client(peer)) = self.peers.get_mut(&client) {
            peer.open += 1;
        }
    }

    /// Something of a client has ended. One that is gone is not counted any more.
    pub(super) fn ended(&mut self, client: LinkId) {
        if let Some(Peer::Client(peer)) = self.peers.get_mut(&client) {
            peer.open -= 1;
        }
    }

    /// The link to a client, for another message. A client that has far too much to read goes instead.
    pub(super) fn client_link(&mut self, client: LinkId) -> Option<&mut Link> {
        let link = self.links.get_mut(client)?;
        if link.kept_bytes() > 2 * CLIENT_LINK_BYTES_MAX {
            self.unread.insert(client);
            return None;
        }
        Some(link)
    }

    fn on_read(&mut self, client: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "ReadReq");
        let request = reader.u32()?;
        let operation = OperationRef::parse(&mut reader)?;
        reader.finish()?;
        if operation.kind != OperationKind::Read || operation.lock != LockMode::None {
            return Err(Malformed("ReadReq"));
        }
        if let Err(error) = self.read(client, request, &operation, body) {
            self.refuse_operation(client, request, &error);
        }
        Ok(())
    }

    fn read(
        &mut self,
        client: LinkId,
        request: u32,
        operation: &OperationRef<'_>,
        body: &[u8],
    ) -> Result<(), Error> {
        let partition = operation.hash.partition(self.config.partitions);
        self.check_serving(partition)?;
        self.check_load(client)?;
        let schema = self.schema(operation.table, operation.schema_version)?;
        let tag = row_tag(&schema, &operation.hash, operation.key);
        let key = LockKey { table: operation.table, partition, tag, key: operation.key };
        if let Some(lock) = self.undecided(&key) {
            let ticket =
                self.observe(Observer::Request { client, kind: Kind::ReadReq, body: body.to_vec(), left: 1 });
            self.locks.observe(lock, ticket);
            return Ok(());
        }
        self.counters.reads += 1;
        let row = self.store.row(operation.table, partition, tag, operation.key);
        let current = row.map(|row| CurrentRow::stored(&schema, row));
        let Some(link) = self.links.get_mut(client) else { return Ok(()) };
        let (time, scratch) = (self.time, &mut self.scratch);
        link.send(Kind::OperationConf as u8, 0, |out| {
            out.put_u32(request);
            // A refusal is in the result.
            let _ = evaluate(&schema, operation, current.as_ref(), time, scratch, out);
        });
        Ok(())
    }

    /// The lock on a key whose writer may be committed already: a read without a lock waits for the decision.
    pub(super) fn undecided(&mut self, key: &LockKey<'_>) -> Option<LockId> {
        #[cfg(feature = "mutations")]
        if self.mutated(crate::mutation::Mutation::ReadThroughPrepared) {
            return None;
        }
        let lock = self.locks.find(key)?;
        let (owner, prepared) = self.locks.exclusive(lock)?;
        let local = self.locals.get(owner).filter(|_| prepared)?;
        let here = local.partitions.iter().find(|local| local.partition == key.partition)?;
        here.write_set.filter(|&slot| self.may_be_committed(slot)).map(|_| lock)
    }

    /// Whether the client of an open write set may have heard «committed» already: its TC is or was another worker, or
    /// may tell it when this partition's decision is still to come.
    pub(super) fn may_be_committed(&self, slot: u32) -> bool {
        self.write_sets.get(slot).is_some_and(|write_set| {
            write_set.header.participants > 1 || write_set.header.coordinator != self.coordinator_here()
        })
    }

    pub(super) fn observe(&mut self, observer: Observer) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if let Some(client) = observer.client() {
            self.opened(client);
        }
        self.observers.insert(ticket, observer);
        ticket
    }

    /// What an observer waited for has happened, once.
    pub(super) fn on_observed(&mut self, ticket: u64) {
        match self.observers.get_mut(&ticket) {
            None => return,
            Some(Observer::Request { left, .. }) if *left > 1 => return *left -= 1,
            Some(_) => {}
        }
        let observer = self.observers.remove(&ticket).expect("just seen");
        if let Some(client) = observer.client() {
            self.ended(client);
        }
        match observer {
            Observer::Statement { slot, transaction } => {
                self.resume(slot, transaction, Wait::Decision(ticket));
            }
            Observer::Request { client, kind, body, .. } if self.links.get(client).is_some() => {
                let handled = match kind {
                    Kind::ReadReq => self.on_read(client, &body),
                    Kind::RangeReq => self.range_now(client, &body),
                    _ => self.scan_now(client, &body),
                };
                handled.expect("it was read once");
            }
            Observer::Request { .. } => {}
        }
    }

    fn on_write(&mut self, client: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "WriteReq");
        let IndependentWrite { request, number, timestamp, commit_number } =
            IndependentWrite::parse(&mut reader)?;
        let bytes = reader.rest();
        let operation = OperationRef::parse(&mut reader)?;
        reader.finish()?;
        if !operation.writes() {
            return Err(Malformed("WriteReq"));
        }
        let partition = operation.hash.partition(self.config.partitions);
        let checked = self.check_serving(partition).and_then(|()| self.check_load(client));
        if let Err(error) = checked.and_then(|()| self.check_writes()) {
            self.refuse_operation(client, request, &error);
            return Ok(());
        }
        self.counters.writes += 1;
        let id = TransactionId { session: self.session(client), number };
        if self.disowned.contains(id) {
            let error =
                Error::new(ErrorCode::NoSuchTransaction, "the transaction was given up before it came");
            self.refuse_operation(client, request, &error);
            return Ok(());
        }
        if self.schemas.get(&operation.table).is_some_and(|schema| schema.has_unique()) {
            // Entries of unique indexes are elsewhere.
            let write = TransactionReq {
                request,
                flags: BEGIN | COMMIT,
                number,
                timestamp,
                commit_number,
                statement: 1,
                operations: 1,
            };
            return self.coordinate_write(client, &write, bytes);
        }
        let slot = self.begin_local(id, timestamp, Origin::Independent { client, request, commit_number });
        self.locals.get_mut(slot).expect("just begun").count_operation(partition);
        self.execute_independent(slot, bytes);
        Ok(())
    }

    /// Nobody waits for a transaction any more: refuses what it waits for, if that is still to be had. One that is
    /// prepared goes on, and one whose answer is on its way is ended by the client.
    fn on_cancel(&mut self, id: TransactionId) {
        let text = format!("node {} had not done it when its client gave it up", self.own.node);
        let error = Error::new(ErrorCode::Timeout, text);
        if self.is_in_statement(id) {
            self.counters.cancelled += 1;
            return self.fail_coordinated(id, error);
        }
        let Some(slot) = self.waiting_writes.remove(&id) else { return };
        let local = self.locals.get(slot).filter(|local| local.id == id && local.waits());
        if local.is_some() {
            self.counters.cancelled += 1;
            self.statement_failed(slot, None, true, error);
        }
    }

    /// An independent operation has run: prepares what it writes, or answers at once if that is nothing.
    pub(super) fn independent_done(&mut self, slot: u32) {
        let local = self.locals.get_mut(slot).expect("it has run");
        let origin = local.origin;
        if local.writes.is_empty() {
            if let Origin::Independent { client, request, .. } = origin {
                let result = std::mem::take(&mut local.result);
                self.answer_operation(client, request, &result);
            }
            return self.end_local(slot);
        }
        let commit_number = match origin {
            Origin::Independent { commit_number, .. } => commit_number,
            _ => 0,
        };
        // The result waits beside the pending version until the decision.
        let partition = local.partitions[0];
        let participant =
            message::Participant { partition: partition.partition, operations: partition.operations };
        let (coordinator, epoch) = (self.coordinator_here(), self.epoch);
        self.prepare_partition(slot, partition.partition, commit_number, coordinator, epoch, &[participant]);
    }

    /// Tells the client of an independent write that was decided.
    pub(super) fn independent_decided(&mut self, slot: u32, outcome: Outcome) {
        let local = self.locals.get_mut(slot).expect("it was prepared");
        if let Origin::Independent { client, request, .. } = local.origin {
            let result = std::mem::take(&mut local.result);
            match outcome {
                Outcome::Committed(epoch) => {
                    self.counters.commits += 1;
                    self.answer_write(client, request, epoch, &result);
                }
                Outcome::Aborted => {
                    self.counters.aborts += 1;
                    let text = format!("node {} is no primary of the row any more", self.own.node);
                    self.refuse_operation(client, request, &Error::new(ErrorCode::PrimaryChanged, text));
                }
            }
            if let Some(local) = self.locals.get_mut(slot) {
                local.result = result;
            }
        }
    }

    pub(super) fn answer_write(&mut self, client: LinkId, request: u32, epoch: Epoch, result: &[u8]) {
        if let Some(link) = self.client_link(client) {
            link.send(Kind::WriteConf as u8, 0, |out| {
                out.put_u32(request);
                out.put_u64(epoch.0);
                out.put(result);
            });
        }
    }

    pub(super) fn answer_operation(&mut self, client: LinkId, request: u32, result: &[u8]) {
        if let Some(link) = self.client_link(client) {
            link.send(Kind::OperationConf as u8, 0, |out| {
                out.put_u32(request);
                out.put(result);
            });
        }
    }

    /// Ends what a session has open, but for what is prepared.
    pub(super) fn abort_session(&mut self, session: Incarnation) {
        let first = TransactionId { session, number: 0 };
        let last = TransactionId { session, number: u64::MAX };
        let open: Vec<TransactionId> = self.coordinated.range(first..=last).map(|(id, _)| *id).collect();
        for id in open {
            self.abandon(id);
        }
    }
}
