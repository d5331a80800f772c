//! The API node's process: listeners, and the threads behind them.
//!
//! Each thread has a cluster client, driven by the runtime, and frontends that speak to it through a
//! [`Handle`](twofold_client::handle::Handle). All threads listen on the same ports.

pub mod cluster;
pub mod grpc;
pub mod memcached;
pub mod seats;
pub mod sql;
