//! The management node's machines.
