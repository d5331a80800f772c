//! The data node's machines.
