//! Real processes, sockets, signals and kills. Not run by a bare `cargo test`; `cargo test --test processes` does.

mod bad_input;
mod bench;
mod client;
mod dbt2;
mod disk;
mod failover;
mod grpc;
mod kills;
mod many;
mod metrics;
mod network;
mod register;
mod told;
