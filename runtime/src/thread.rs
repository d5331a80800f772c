//! Threads with a runtime each.

use std::{future::Future, io, thread};

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

/// Tasks that run between two looks at the sockets. A thread with a driver alone passes here only when it has more to
/// read than a turn takes; then the other sockets come first.
const TASKS_PER_POLL: u32 = 32;

/// A current-thread runtime that runs tasks that are not `Send`, first come first served.
///
/// # Errors
/// If the system has no more descriptors for it.
pub fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .event_interval(TASKS_PER_POLL)
        .build_local(LocalOptions::default())
}

/// Starts a thread and runs the future that `main` makes in it to its end.
///
/// # Errors
/// If the system cannot start a thread with a runtime.
pub fn spawn<T, F>(
    name: &str,
    main: impl FnOnce() -> F + Send + 'static,
) -> io::Result<thread::JoinHandle<io::Result<T>>>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    thread::Builder::new().name(name.into()).spawn(move || Ok(runtime()?.block_on(async { main().await })))
}
