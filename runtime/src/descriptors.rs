//! How many descriptors a process may have open: each connection is one.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of this process, if it is below `needed`.
///
/// # Errors
/// If the system does not allow so many.
pub fn allow(needed: u64) -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        limit.current = Some(needed);
        limit.maximum = limit.maximum.map(|maximum| maximum.max(needed));
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(())
}
