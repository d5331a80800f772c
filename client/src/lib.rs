//! The client of a Twofold cluster, for programs that want no API node between: it knows where every row is, and sends
//! operations there.
//!
//! ```no_run
//! use twofold_client::{Cluster, Column, ColumnType, Comparison, Condition, NewTable};
//!
//! # async fn example() -> Result<(), twofold_client::Error> {
//! let cluster = Cluster::connect(["127.0.0.1:1186"]).await?;
//! let name = Column::new("name", ColumnType::Text { max_chars: 30 });
//! let fruit = NewTable::new("fruit").column(name).column(Column::new("price", ColumnType::I32));
//! let fruit = cluster.create_table(fruit.primary_key(["name"])).await?;
//!
//! // One operation, and many in one request, each on its own.
//! cluster.run(fruit.write([("name", "pear".into()), ("price", 4.into())])).await?;
//! for outcome in cluster.batch(["apple", "pear"].map(|name| fruit.read([name]))).await? {
//!     println!("{:?}", outcome?.row.map(|row| row["price"].clone()));
//! }
//!
//! // All or none, and only if there is enough of it.
//! let enough = Condition::compare("price", Comparison::GreaterOrEqual, 1);
//! let change = [fruit.update(["pear"]).add("price", -1).when(enough), fruit.update(["apple"]).add("price", 1)];
//! match cluster.transaction(change).await {
//!     Ok(commit) => println!("committed in epoch {}", commit.epoch),
//!     Err(error) if error.is_temporary() => println!("try again: {error}"),
//!     Err(error) => match error.token() {
//!         Some(token) => println!("{:?}", cluster.status(&token).await?),
//!         None => return Err(error),
//!     },
//! }
//!
//! // Row by row, no faster than they are read.
//! let mut rows = cluster.scan(&fruit).columns(["name"]).rows()?;
//! while let Some(row) = rows.next().await? {
//!     println!("{:?}", row["name"]);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **Asynchronous**: all calls are futures, of a tokio runtime. The protocol is spoken in [threads](Builder::threads) of its
//!   own; what is asked at about the same time travels together.
//! - **Nothing is lost in silence**: what fails for a moment, with the loss of a node or for a lock, is tried again until the
//!   [deadline](Cluster::with_deadline); an [`Error`] says by its [class](Error::class) whether to try again, not to, or to
//!   ask. An outcome whose answer was lost can be [asked for](Cluster::status).
//! - **It connects again** by itself, to nodes that come back and to those that take over.
//! - **Backpressure**: more than [so many operations](Builder::in_flight) at a time wait, so that a program that asks too much
//!   slows down and does not fail. A [scan](Cluster::scan) fetches no more than is read.
//! - **Cancellation**: a [`Transaction`] that is dropped, in a statement too, ends and lets go of its locks. A call whose future
//!   is dropped may have been done.
//!
//! # Below that
//!
//! API nodes and benchmarks use parts that are close to the machine: [`handle`] and [`connect`](mod@connect) for encoded requests,
//! [`assemble`] for their encoding, [`embed`] for a workload that lives in the client's own thread. They change as the project
//! does.

pub mod admission;
pub mod assemble;
mod cluster;
pub mod connect;
pub mod embed;
mod error;
pub mod find;
pub mod handle;
mod operation;
mod row;
pub mod scan;
#[cfg(test)]
mod tests;
mod transaction;

pub use cluster::{Builder, Cluster, TransactionOutcome};
pub use error::{Error, Token};
pub use operation::{Condition, Lock, NewTable, Operation, Table};
pub use row::{Outcome, Row};
pub use scan::{Rows, Scan};
pub use transaction::{Commit, Savepoint, Transaction};
pub use twofold_apinode::request::{Durability, Isolation};
pub use twofold_proto::{
    error::{ErrorClass, ErrorCode},
    filter::Comparison,
    ids::{Epoch, Version},
    schema::{self, Column, ColumnType},
    time::ClusterTime,
    value::{Value, ValueRef},
};
