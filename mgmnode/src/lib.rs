//! The management node: the register (config, views, catalog) on a Raft log, and the leader's decisions. Pure: the
//! log's bytes and all connections are effects.

pub mod choice;
pub mod config;
pub mod log;
pub mod membership;
pub mod node;
pub mod notice;
pub mod register;
pub mod replica;
mod separation;
pub mod status;
#[cfg(test)]
mod testing;
