//! The API node's process.
fn main() {}
