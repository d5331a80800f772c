//! One worker's memory.

pub mod arena;
pub mod evaluate;
pub mod fragment;
pub mod lock;
pub mod store;
