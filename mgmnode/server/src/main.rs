//! The management node's process.
fn main() {}
