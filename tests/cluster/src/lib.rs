//! Tests of real processes: the harness. A cluster is started by `twofold cluster`, as people start one.

mod binaries;
mod cluster;
mod journal;
mod neighbour;
mod proxy;
mod report;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

pub use binaries::{binary, run};
pub use cluster::Cluster;
pub use journal::{Gap, Journal, Journaled, Load};
pub use neighbour::Neighbour;
pub use proxy::Proxy;
pub use report::{Output, Plot, median_and_worst};

/// What has not happened after this has gone wrong, however slow the machine is.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Waits until something is so.
///
/// # Panics
/// With what is missing, if it does not come in [`PATIENCE`].
pub fn eventually(mut missing: impl FnMut() -> Option<String>) {
    let end = Instant::now() + PATIENCE;
    while let Some(what) = missing() {
        assert!(Instant::now() < end, "after {PATIENCE:?}: {what}");
        sleep(LOOK_AGAIN);
    }
}
