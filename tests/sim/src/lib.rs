//! The simulator.

pub mod checkers;
pub mod history;
