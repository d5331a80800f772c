//! Sessions: many transactions in one stream.

use std::collections::{BTreeMap, btree_map::Entry};

use tokio::{
    sync::mpsc,
    time::{Duration, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use twofold_apinode::request::{Answer, Begin, End, Failure, Request, Statement};
use twofold_grpc::v1 as pb;
use twofold_proto::{
    error::{Error, ErrorCode},
    message::TransactionState,
};

use super::{
    convert,
    results::each,
    state,
    status::{error_message, error_status},
    token_bytes, unexpected,
    unwritten::{Item, Unwritten},
};
use twofold_client::{
    assemble::Shape,
    handle::{Handle, Held, Transaction},
};

/// Requests of a session that have not been answered; more wait in the client.
const UNANSWERED_MAX: usize = 256;
/// Answers that wait for the client to read them.
const RESPONSES: usize = 16;
/// Transactions of a session that are open at a time.
const OPEN_MAX: usize = 1024;
/// Savepoints of a transaction.
const SAVEPOINTS_MAX: usize = 256;

type Responses = mpsc::Sender<Item<pb::SessionResponse>>;

/// An open transaction.
#[derive(Debug)]
struct Open {
    transaction: Transaction,
    next_statement: u32,
    /// Their names, and the first statement after each; in their order.
    savepoints: Vec<(String, u32)>,
    /// An end has been sent; nothing may follow.
    ending: bool,
}

/// A request that was sent on.
#[derive(Debug)]
struct Sent {
    request: u64,
    transaction: u64,
    handle: u64,
    shapes: Vec<Shape>,
}

struct Session {
    handle: Handle,
    open: BTreeMap<u64, Open>,
    answered: mpsc::UnboundedSender<(Sent, (Answer, Option<Held>))>,
    /// How many answers are to come through `answered`.
    unanswered: usize,
}

/// Serves a session until its client ends it or is gone.
pub(super) fn open(
    handle: Handle,
    requests: Streaming<pb::SessionRequest>,
    limit: Option<Duration>,
) -> Unwritten<pb::SessionResponse> {
    let (sender, receiver) = mpsc::channel(RESPONSES);
    tokio::spawn(async move {
        let Some(limit) = limit else { return serve(handle, requests, &sender).await };
        if timeout(limit, serve(handle, requests, &sender)).await.is_err() {
            let text = "the session was not over at its deadline; what it had open is rolled back";
            // Nobody may be there to hear it.
            let _ = sender.send((Err(error_status(Error::new(ErrorCode::Timeout, text))), None)).await;
        }
    });
    Unwritten::new(ReceiverStream::new(receiver))
}

/// Whatever ends this, transactions that are open then are given up.
async fn serve(handle: Handle, mut requests: Streaming<pb::SessionRequest>, responses: &Responses) {
    // Bounded by `UNANSWERED_MAX`.
    let (answered, mut answers) = mpsc::unbounded_channel();
    let mut session = Session { handle, open: BTreeMap::new(), answered, unanswered: 0 };
    let mut reading = true;
    while reading || session.unanswered > 0 {
        let response = tokio::select! {
            Some((sent, (answer, held))) = answers.recv() => {
                session.unanswered -= 1;
                Some((session.response(sent, answer), held))
            }
            request = requests.message(), if reading && session.unanswered < UNANSWERED_MAX => match request {
                Ok(Some(request)) => session.request(request).await.map(|response| (response, None)),
                Ok(None) => {
                    reading = false;
                    None
                }
                // The call was cancelled, or its connection broke.
                Err(_) => return,
            },
            () = responses.closed() => return,
        };
        if let Some((response, held)) = response
            && responses.send((Ok(response), held)).await.is_err()
        {
            return;
        }
    }
    session.roll_back().await;
}

impl Session {
    /// Sends a request on, or answers it if it is wrong.
    async fn request(&mut self, request: pb::SessionRequest) -> Option<pb::SessionResponse> {
        let (number, transaction) = (request.request, request.transaction);
        let began = request.begin && !self.open.contains_key(&transaction);
        match self.statement(request) {
            Ok((statement, shapes)) => {
                let sent = Sent { request: number, transaction, handle: statement.handle, shapes };
                let pending = self.handle.begin(Request::Statement(statement)).await;
                let answered = self.answered.clone();
                self.unanswered += 1;
                tokio::spawn(async move {
                    // A session that is gone needs no answer.
                    let _ = answered.send((sent, pending.delivery().await));
                });
                None
            }
            Err(failure) => {
                if began {
                    self.open.remove(&transaction);
                }
                let open = self.open.contains_key(&transaction);
                let state = if open { TransactionState::Open } else { TransactionState::Aborted };
                Some(failed(number, transaction, &Failure { state, ..failure }))
            }
        }
    }

    fn statement(&mut self, request: pb::SessionRequest) -> Result<(Statement, Vec<Shape>), Failure> {
        let tables = self.handle.tables().newest();
        let (options, isolation) = convert::options(&tables, request.options.as_ref(), None)?;
        let converted = convert::operations(&tables, Handle::now(), &request.operations)?;
        let end = match pb::End::try_from(request.end) {
            Ok(pb::End::StayOpen) => End::Stay,
            Ok(pb::End::Commit) => End::Commit,
            Ok(pb::End::Rollback) => End::Rollback,
            Err(_) => return Err(malformed(format!("there is no end {}", request.end))),
        };
        let timestamp = (request.age > 0).then_some(request.age);
        let begin = request.begin.then_some(Begin { isolation, timestamp });
        if begin.is_some() {
            self.begin(request.transaction)?;
        }
        let Some(open) = self.open.get_mut(&request.transaction).filter(|open| !open.ending) else {
            let text = format!("transaction {} is not open", request.transaction);
            return Err(Error::new(ErrorCode::NoSuchTransaction, text).into());
        };
        let undo = !request.rollback_to.is_empty();
        let number = open.number_statement(&request.rollback_to, request.savepoint)?;
        open.ending = end != End::Stay;
        let handle = open.transaction.handle();
        let operations = converted.operations;
        Ok((Statement { handle, begin, number, undo, operations, end, options }, converted.shapes))
    }

    fn begin(&mut self, transaction: u64) -> Result<(), Failure> {
        let open = self.open.len();
        match self.open.entry(transaction) {
            Entry::Occupied(_) => Err(malformed(format!("transaction {transaction} is open already"))),
            Entry::Vacant(_) if open == OPEN_MAX => {
                let text = format!("the session has {OPEN_MAX} open transactions; that is the most");
                Err(Error::new(ErrorCode::TooMany, text).into())
            }
            Entry::Vacant(vacant) => {
                let transaction = self.handle.new_transaction();
                vacant.insert(Open { transaction, next_statement: 1, savepoints: Vec::new(), ending: false });
                Ok(())
            }
        }
    }

    fn response(&mut self, sent: Sent, answer: Answer) -> pb::SessionResponse {
        let (request, transaction) = (sent.request, sent.transaction);
        let response = match answer {
            Answer::Statement { state: now, epoch, token, timestamp, results } => pb::SessionResponse {
                request,
                transaction,
                state: state(now).into(),
                error: None,
                results: each(&sent.shapes, &results),
                epoch: if now == TransactionState::Committed { epoch.0 } else { 0 },
                token: token_bytes(token),
                age: timestamp,
            },
            Answer::Failed(failure) => failed(request, transaction, &failure),
            other => failed(request, transaction, &unexpected(&other)),
        };
        // Another transaction may have the name by now.
        if let Entry::Occupied(mut entry) = self.open.entry(transaction)
            && entry.get().transaction.handle() == sent.handle
        {
            match response.state() {
                pb::State::Open => entry.get_mut().ending = false,
                _ => entry.remove().transaction.ended(),
            }
        }
        response
    }

    /// Ends what the client has left open.
    async fn roll_back(self) {
        let mut under_way = Vec::new();
        for open in self.open.values() {
            let statement = Statement {
                handle: open.transaction.handle(),
                number: open.next_statement,
                end: End::Rollback,
                ..Statement::default()
            };
            under_way.push(self.handle.begin(Request::Statement(statement)).await);
        }
        for pending in under_way {
            pending.answer().await;
        }
    }
}

impl Open {
    /// The next statement's number: that of the first one to undo, if it is to go back to a savepoint. `savepoint` is one
    /// to set behind it. Where that fails, nothing has changed: a number is not used for two statements that both stand.
    fn number_statement(&mut self, back_to: &str, savepoint: String) -> Result<u32, Failure> {
        let (mut kept, mut number) = (self.savepoints.len(), self.next_statement);
        if !back_to.is_empty() {
            let Some(place) = self.savepoints.iter().rposition(|(name, _)| name == back_to) else {
                return Err(malformed(format!("there is no savepoint `{back_to}`")));
            };
            (kept, number) = (place + 1, self.savepoints[place].1);
        }
        // One of the same name is replaced, as in SQL.
        let others = self.savepoints[..kept].iter().filter(|(name, _)| *name != savepoint).count();
        if !savepoint.is_empty() && others == SAVEPOINTS_MAX {
            let text = format!("the transaction has {SAVEPOINTS_MAX} savepoints; that is the most");
            return Err(Error::new(ErrorCode::TooMany, text).into());
        }
        self.savepoints.truncate(kept);
        self.next_statement = number + 1;
        if !savepoint.is_empty() {
            self.savepoints.retain(|(name, _)| *name != savepoint);
            self.savepoints.push((savepoint, number + 1));
        }
        Ok(number)
    }
}

fn malformed(text: String) -> Failure {
    Error::new(ErrorCode::Malformed, text).into()
}

fn failed(request: u64, transaction: u64, failure: &Failure) -> pb::SessionResponse {
    let now = match failure.error.code {
        ErrorCode::OutcomePending => pb::State::Pending,
        _ => state(failure.state),
    };
    pb::SessionResponse {
        request,
        transaction,
        state: now.into(),
        error: Some(error_message(failure)),
        token: token_bytes(failure.token),
        age: failure.timestamp,
        ..pb::SessionResponse::default()
    }
}
