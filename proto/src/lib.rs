//! What all nodes of a cluster share: ids, time, errors, limits, column types and rows, placement, links, messages,
//! and the step contract. Pure: no IO, no clock, no global state.

pub mod config;
pub mod ids;
pub mod limits;
pub mod link;
pub mod machine;
pub mod placement;
pub mod random;
pub mod time;
pub mod view;
pub mod wire;
