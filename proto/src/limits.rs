//! Bounds that all nodes share. Relations between them are asserted at compile time.

use crate::time::Duration;

/// Partitions of a real cluster. The simulator runs with fewer.
pub const PARTITIONS: u16 = 3840;
/// Replicas of a partition.
pub const REPLICAS_MAX: u8 = 4;
/// Data nodes of a cluster.
pub const DATA_NODES_MAX: usize = 144;
/// Workers of a data node.
pub const WORKERS_MAX: u16 = 64;
/// Bytes of an encoded primary key.
pub const KEY_BYTES_MAX: usize = 3072;
/// Bytes of an entry of an ordered index: columns of as many bytes as a primary key may have, each byte of which may take two,
/// what says that they are not NULL, and the primary key.
pub const ENTRY_BYTES_MAX: usize = 2 * KEY_BYTES_MAX + 3 * COLUMNS_MAX + KEY_BYTES_MAX;
/// Bytes of an encoded row, its key included: a memcached item of 1 MiB and its key fit.
pub const ROW_BYTES_MAX: usize = (1 << 20) + 8192;
/// Columns of a table.
pub const COLUMNS_MAX: usize = 1024;
/// Ordered indexes of a table.
pub const INDEXES_MAX: usize = 64;
/// Tables of a cluster.
pub const TABLES_MAX: usize = 20_000;
/// Operations of one request.
pub const REQUEST_OPERATIONS_MAX: usize = 16_384;
/// Bytes of the operations of one request, as they travel; of what one transaction writes at one worker, as it is sent
/// to the replicas; of the results of one statement.
pub const TRANSACTION_BYTES_MAX: usize = 16 << 20;
/// Bytes of one message.
pub const MESSAGE_BYTES_MAX: usize = 24 << 20;
/// A frame that is fuller than this is closed, and the next message begins another.
pub const FRAME_BYTES_FULL: usize = 256 << 10;
/// Bytes of one frame: a full one and one more message.
pub const FRAME_BYTES_MAX: usize = FRAME_BYTES_FULL + MESSAGE_BYTES_MAX + 4096;
/// Unacknowledged bytes on the link to a replica past which writes get a temporary error.
pub const LINK_BYTES_MAX: usize = 128 << 20;
/// Unacknowledged bytes to one client; past them requests get a temporary error, and past twice as many the link goes.
pub const CLIENT_LINK_BYTES_MAX: usize = 64 << 20;
/// Transactions of one session whose outcome the session has not confirmed to have.
pub const SESSION_UNCONFIRMED_MAX: u64 = 1 << 20;
/// Bytes of one answer to a scan.
pub const SCAN_BATCH_BYTES: usize = 128 << 10;
/// How much faster or slower than real time a clock may run, as a fraction of 1,000.
pub const CLOCK_DRIFT_PER_MILLE: u32 = 10;

/// `span` on a clock that may drift against ours: long enough on every clock.
pub fn with_drift(span: Duration) -> Duration {
    span + span * CLOCK_DRIFT_PER_MILLE * 2 / 1000
}

const _: () = assert!(ROW_BYTES_MAX + KEY_BYTES_MAX < TRANSACTION_BYTES_MAX);
const _: () =
    assert!(TRANSACTION_BYTES_MAX + ROW_BYTES_MAX + (REQUEST_OPERATIONS_MAX * 64) < MESSAGE_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < CLIENT_LINK_BYTES_MAX);
const _: () = assert!(CLIENT_LINK_BYTES_MAX <= LINK_BYTES_MAX);
