//! The data node's process.
fn main() {}
