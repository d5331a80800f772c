//! Transactions of several statements.

use twofold_apinode::request::{Answer, Begin, End, Isolation, Request, Statement};
use twofold_proto::{error::ErrorCode, ids::Epoch, message::TransactionState};

use crate::{
    assemble::Shape,
    cluster::{Cluster, assembled, each},
    error::{Error, Token},
    handle::{self, Handle},
    operation::Operation,
    row::Outcome,
};

/// A commit.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Commit {
    /// One for each operation that was committed with it, in their order.
    pub outcomes: Vec<Outcome>,
    /// The epoch of the commit.
    pub epoch: Epoch,
    /// Names the transaction in [`Cluster::status`], if it wrote.
    pub token: Option<Token>,
}

/// A place in a transaction to which it can go back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Savepoint(u32);

/// A transaction, statement by statement. Dropping it without [`Transaction::commit`] rolls it back, at once and in the
/// background, even in the middle of a statement.
#[derive(Debug)]
pub struct Transaction {
    cluster: Cluster,
    handle: Handle,
    /// `None` once it has ended.
    name: Option<handle::Transaction>,
    begin: Option<Begin>,
    number: u32,
    age: u64,
}

impl Transaction {
    /// `age`: of the attempt before, or 0.
    pub(crate) fn new(cluster: Cluster, isolation: Isolation, age: u64) -> Transaction {
        let handle = cluster.handle().clone();
        let name = Some(handle.new_transaction());
        let begin = Some(Begin { isolation, timestamp: (age > 0).then_some(age) });
        Transaction { cluster, handle, name, begin, number: 1, age }
    }

    /// Runs one operation.
    ///
    /// # Errors
    /// Why it was not done. Where [`Error::leaves_open`] says so the transaction can go on without it.
    pub async fn run(&mut self, operation: Operation) -> Result<Outcome, Error> {
        let commit = self.batch([operation]).await?;
        commit.into_iter().next().ok_or_else(|| Error::new(ErrorCode::Internal, "an answer has no result"))
    }

    /// Runs operations as one statement: all of them or none.
    ///
    /// # Errors
    /// As [`Transaction::run`].
    pub async fn batch(
        &mut self,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Result<Vec<Outcome>, Error> {
        Ok(self.statement(operations, End::Stay, None).await?.outcomes)
    }

    /// Commits.
    ///
    /// # Errors
    /// Why it was not done. Of class [`Unknown`](crate::ErrorClass::Unknown): ask [`Cluster::status`].
    pub async fn commit(mut self) -> Result<Commit, Error> {
        self.statement([], End::Commit, None).await
    }

    /// Runs these operations, too, and commits, in one round trip.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub async fn commit_with(
        mut self,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Result<Commit, Error> {
        self.statement(operations, End::Commit, None).await
    }

    /// Rolls back, and waits until that is done; to drop it does not wait.
    ///
    /// # Errors
    /// If nobody answers; it ends all the same.
    pub async fn rollback(mut self) -> Result<(), Error> {
        self.statement([], End::Rollback, None).await.map(drop)
    }

    /// The place behind all statements so far.
    pub fn savepoint(&self) -> Savepoint {
        Savepoint(self.number)
    }

    /// Undoes all statements behind the savepoint. Later savepoints are gone; it stays itself.
    ///
    /// # Errors
    /// If that cannot be done: the transaction has ended then.
    ///
    /// # Panics
    /// If the savepoint is gone, or another transaction's that lies ahead.
    pub async fn rollback_to(&mut self, savepoint: Savepoint) -> Result<(), Error> {
        assert!(savepoint.0 <= self.number, "the savepoint lies ahead");
        self.statement([], End::Stay, Some(savepoint)).await.map(drop)
    }

    /// What a retry begins with, so that it wins in the end; 0 before the first statement.
    pub(crate) fn age(&self) -> u64 {
        self.age
    }

    /// Whether it has ended, by its own doing or the cluster's.
    pub fn has_ended(&self) -> bool {
        self.name.is_none()
    }

    async fn statement(
        &mut self,
        operations: impl IntoIterator<Item = Operation>,
        end: End,
        back_to: Option<Savepoint>,
    ) -> Result<Commit, Error> {
        let assembled = assembled(operations)?;
        let Some(name) = &self.name else {
            return Err(Error::new(ErrorCode::NoSuchTransaction, "the transaction has ended"));
        };
        let number = back_to.map_or(self.number, |savepoint| savepoint.0);
        self.number = number + 1;
        let statement = Statement {
            handle: name.handle(),
            begin: self.begin.take(),
            number,
            undo: back_to.is_some(),
            operations: assembled.operations,
            end,
            options: self.cluster.options(),
        };
        let shapes: Vec<Shape> = assembled.shapes;
        let cluster = self.cluster.clone();
        // Who holds locks does not wait for those who may wait for them.
        let _permits = match statement.begin {
            Some(_) => cluster.admit(shapes.len()).await,
            None => None,
        };
        let (answer, _held) = self.handle.begin(Request::Statement(statement)).await.delivery().await;
        match answer {
            Answer::Statement { state, epoch, token, timestamp, results } => {
                self.age = timestamp;
                self.now(state);
                Ok(Commit {
                    outcomes: each(&shapes, &results).collect::<Result<_, _>>()?,
                    epoch,
                    token: token.map(Token),
                })
            }
            Answer::Failed(failure) => {
                self.age = self.age.max(failure.timestamp);
                self.now(failure.state);
                Err(failure.into())
            }
            other => Err(Error::new(ErrorCode::Internal, format!("a statement was answered with {other:?}"))),
        }
    }

    fn now(&mut self, state: TransactionState) {
        if state != TransactionState::Open
            && let Some(name) = self.name.take()
        {
            name.ended();
        }
    }
}
