//! The data node's machines: [`node`] (membership, leases, epochs, joining), and a [`worker`] per thread (queries,
//! transactions, replication, takeover, copying), and [`disk`] (redo, checkpoints, loading). They tell each other what [`local`] lists, and nothing else.

pub mod disk;
pub mod local;
#[cfg(feature = "mutations")]
pub mod mutation;
pub mod node;
pub mod worker;
