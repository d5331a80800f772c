//! Judges of what clients saw. Each is a pure function over a [`History`](crate::history::History) or over plain
//! data, and says in words what is wrong; one invariant per file, with its reason.
//!
//! | invariant | for |
//! |---|---|
//! | [`outcomes`] | every run that ends healed |
//! | [`answers`] | what is told of outcomes |
//! | [`registers`] | single rows: linearizability |
//! | [`serializability`] | lists: the anomalies of transactions |
//! | [`bank`] | transfers: what one loses the other gets |
//! | [`unique_ids`] | ids from sequences and unique inserts |
//! | [`lost_writes`] | the final state against what was acknowledged |
//! | [`replicas`] | the final state of one replica against the others |
//! | [`epochs`] | epochs as consistent cuts; what a system restart may lose |
//!
//! A checker never rejects what a correct cluster can do. It may accept what a cleverer one would not; its module
//! says where.

use std::fmt;

pub mod answers;
pub mod bank;
pub mod epochs;
pub mod lost_writes;
pub mod outcomes;
pub mod registers;
pub mod replicas;
pub mod serializability;
pub mod unique_ids;

mod graph;
mod lists;

#[cfg(test)]
mod generate;

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The field's name for it, such as `G1a` or `lost write`: what tests and reports sort by.
    pub anomaly: &'static str,
    /// What happened, to which keys, by which transactions.
    pub explanation: String,
}

impl Violation {
    fn new(anomaly: &'static str, explanation: impl Into<String>) -> Violation {
        Violation { anomaly, explanation: explanation.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.anomaly, self.explanation)
    }
}

impl std::error::Error for Violation {}

/// What a checker says.
pub type Verdict = Result<(), Violation>;
