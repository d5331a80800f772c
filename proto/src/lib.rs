//! What all nodes of a cluster share: ids, time, errors, limits, column types and rows, placement, links, messages,
//! and the step contract. Pure: no IO, no clock, no global state.

pub mod config;
pub mod error;
pub mod figure;
pub mod filter;
pub mod ids;
pub mod index;
pub mod key;
pub mod limits;
pub mod link;
pub mod links;
pub mod machine;
pub mod message;
pub mod operation;
pub mod placement;
pub mod prefetch;
pub mod random;
pub mod result;
pub mod row;
pub mod schema;
pub mod time;
pub mod unique;
pub mod value;
pub mod view;
pub mod wire;
