//! One worker's memory.
