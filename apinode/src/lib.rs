//! The cluster client, and the protocols that an API node speaks, as machines.

pub mod client;
pub mod memcached;
pub mod request;
pub mod sql;
