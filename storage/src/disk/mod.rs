//! What a data node has on disk: the redo log and the checkpoints, as bytes. No IO: the data node's disk machine says what
//! is to be written and read, and knows these formats.
//!
//! - [`frame`]: what is written in one piece, with a checksum. Redo segments and parts of checkpoints are frames, one behind the other.
//! - [`redo`]: the records in a frame.
//! - [`manifest`]: which checkpoints are valid, and where redo begins.
//!
//! Everything carries [`FORMAT`].

pub mod frame;
pub mod manifest;
pub mod redo;

/// The version of these formats. Another one is refused.
pub const FORMAT: u16 = 1;
