//! Bound statement → operations of the cluster: which rows by key, by index and by scan, which conditions and changes the data nodes
//! carry out themselves, and which are left to the API node.

pub mod access;
pub mod change;
pub mod filter;
pub mod join;
pub mod range;
pub mod rows;

#[cfg(test)]
mod tests;

pub use access::{Access, Unique, access};
pub use change::interpreted;
pub use filter::{Pushed, push};
pub use join::{By, JoinPlan, SourceStep, Step};
pub use range::{Ranges, Wish};
