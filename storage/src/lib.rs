//! One worker's memory, and what of it stands on disk.

pub mod arena;
pub mod disk;
pub mod evaluate;
pub mod fragment;
pub mod lock;
pub mod ordered;
mod pages;
pub mod store;
