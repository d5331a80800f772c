//! memcached's ASCII protocol, free of IO.
//!
//! A [`Connection`] is given what a client sends, and says what to run and what to answer. Items are rows of an
//! ordinary table ([`item::table`]), or of those that the config maps prefixes of keys to, so they are replicated, and
//! readable by other frontends. What differs from
//! memcached: nothing is ever evicted, a `touch` changes the «cas unique», and a `flush_all` deletes item by item,
//! so it takes its time; what is stored meanwhile may or may not survive it.

mod answer;
mod batch;
pub mod command;
mod connection;
mod counters;
pub mod item;
mod mark;
pub mod meta;
mod meta_answer;
mod operations;

pub use batch::RESULT_BYTES_MAX;
pub use connection::{Connection, Step};
pub use counters::Counters;
