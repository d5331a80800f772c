//! SQL over the cluster, and the MySQL protocol. No IO: sockets, and the requests that a statement makes of the cluster, are
//! the server's.
//!
//! `gather` groups and sorts what the cluster answers, `join` finds the rows that go together.
//! `information` has the catalog as rows.
//!
//! `wire` turns bytes into commands, and results into bytes. `parse` turns text into statements, `bind` resolves their names
//! against the catalog, `plan` says by what operations a bound statement is carried out. `session` is what a connection
//! remembers. `expression`, `value`, `types`, `decimal`, `temporal` are what all of them compute with.

pub mod bind;
pub mod decimal;
pub mod error;
pub mod expression;
pub mod gather;
pub mod information;
pub mod join;
pub mod parse;
pub mod plan;
pub mod session;
pub mod temporal;
pub mod types;
pub mod value;
pub mod wire;
