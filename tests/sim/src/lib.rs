//! Whole clusters in one thread: the machines of all processes in a simulated network, with simulated clocks and disks,
//! and with everything that can go wrong in them, the same way for the same seed.
//!
//! | module | what it does |
//! |---|---|
//! | [`world`] | hosts, clocks, processes, connections: what drives the machines |
//! | [`workload`] | what clients do, and what must come of it |
//! | [`scenario`] | a cluster, workloads and faults, made from a seed |
//! | [`fault`] | what goes wrong |
//! | [`inquiry`] | who asks what became of commits, and hears it one way |
//! | [`run`] | one seed from start to verdict |
//! | [`many`] | many seeds, on all cores |
//! | [`history`], [`checkers`] | what clients saw, and the judges of it |

pub mod checkers;
pub mod fault;
pub mod history;
pub mod inquiry;
pub mod many;
pub mod run;
pub mod scenario;
pub mod workload;
pub mod world;
