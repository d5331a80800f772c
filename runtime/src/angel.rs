//! The angel: a small parent process that tells the others the moment its child ends, and starts it again.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::{
    task::JoinHandle,
    time::{self, Instant},
};
use twofold_proto::ids::Incarnation;

use crate::{clock::incarnation, signals::StopRequests, thread};

/// Exit code of a process that would end the same way again: a wrong setting (EX_CONFIG of sysexits(3)).
pub const EXIT_DO_NOT_RESTART: u8 = 78;

/// Exit code of a process that finds its port taken (EX_UNAVAILABLE of sysexits(3)). At the first start that is a wrong
/// setting. Whoever has run before is tried again: somebody has got the port while it was away, and may go.
pub const EXIT_PORT_TAKEN: u8 = 69;

/// Exit code of a process that ends to be started anew (EX_TEMPFAIL of sysexits(3)).
pub const EXIT_RESTART: u8 = 75;

/// Wait before a child is started again; it doubles while children live shorter than [`GOOD_LIFE`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const GOOD_LIFE: Duration = Duration::from_secs(30);
/// How long the news of the last child's end may take.
const NEWS_TIMEOUT: Duration = Duration::from_secs(3);

/// Starts a child, waits for it, and starts it again, until it ends on purpose: with code 0 or
/// [`EXIT_DO_NOT_RESTART`], the first one also with [`EXIT_PORT_TAKEN`], or after SIGTERM or SIGINT, which are passed on
/// as SIGTERM. Returns the exit code for this process: the child's, or 128 and the number of the signal that ended it.
///
/// `command` makes the child's command line for its incarnation. `gone` is called, in a thread of its own, as soon as that
/// incarnation has ended: it may block. To be called by a process's main thread, before it has any other.
///
/// # Errors
/// If the child cannot be started at all.
pub fn watch(
    mut command: impl FnMut(Incarnation) -> Command,
    gone: impl Fn(Incarnation) + Send + Sync + 'static,
) -> io::Result<u8> {
    let gone = Arc::new(gone);
    thread::runtime()?.block_on(async move {
        let mut stop = StopRequests::catch()?;
        let (mut backoff, mut is_first) = (BACKOFF_MIN, true);
        loop {
            let incarnation = incarnation();
            let began = Instant::now();
            let (status, stopped) = run(command(incarnation), &mut stop).await?;
            let gone = gone.clone();
            let news = tokio::task::spawn_blocking(move || gone(incarnation));
            let no_start = std::mem::take(&mut is_first) && status.code() == Some(EXIT_PORT_TAKEN.into());
            if stopped || no_start || on_purpose(status) {
                tracing::info!("the node has ended ({status})");
                told(news).await;
                return Ok(exit_code(status));
            }
            if status.code() == Some(EXIT_RESTART.into()) {
                tracing::info!("the node has ended to begin a new life, which begins in {backoff:?}");
            } else {
                tracing::error!(
                    "the node has ended unexpectedly ({status}), starting it again in {backoff:?}"
                );
            }
            tokio::select! {
                () = time::sleep(backoff) => (),
                () = stop.next() => {
                    told(news).await;
                    return Ok(exit_code(status));
                }
            }
            backoff = if began.elapsed() >= GOOD_LIFE { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
        }
    })
}

/// Runs one child to its end; also says whether it was asked to.
async fn run(command: Command, stop: &mut StopRequests) -> io::Result<(ExitStatus, bool)> {
    let mut child = tokio::process::Command::from(command).spawn()?;
    let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
    let mut stopped = false;
    loop {
        tokio::select! {
            status = child.wait() => return Ok((status?, stopped)),
            () = stop.next() => {
                stopped = true;
                // The child has not been waited for, so its number is still its own.
                if let Some(pid) = pid && let Err(error) = kill_process(pid, Signal::TERM) {
                    tracing::warn!("cannot pass the signal on: {error}");
                }
            }
        }
    }
}

async fn told(news: JoinHandle<()>) {
    if time::timeout(NEWS_TIMEOUT, news).await.is_err() {
        tracing::warn!("nobody could be told");
    }
}

fn on_purpose(status: ExitStatus) -> bool {
    matches!(status.code(), Some(code) if code == 0 || code == i32::from(EXIT_DO_NOT_RESTART))
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Has the system kill this process when its angel dies: a node that nobody watches is not to be. For the child,
/// first thing in `main`.
///
/// # Errors
/// If the system cannot do that.
pub fn die_with_parent() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_child_is_started_until_it_ends_on_purpose_and_each_end_is_told() {
        let started = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::new(Mutex::new(Vec::new()));
        let (starts, ends) = (started.clone(), told.clone());
        let code = watch(
            move |incarnation| {
                let mut starts = starts.lock().unwrap();
                starts.push(incarnation);
                let mut command = Command::new("sh");
                // Killed, failed, and then wrong in a way that no restart mends.
                command.arg("-c").arg(["kill -9 $$", "exit 69", "exit 3", "exit 78"][starts.len() - 1]);
                command
            },
            move |incarnation| ends.lock().unwrap().push(incarnation),
        );
        assert_eq!(code.unwrap(), EXIT_DO_NOT_RESTART);
        let (mut started, mut told) = (started.lock().unwrap().clone(), told.lock().unwrap().clone());
        assert_eq!(started.len(), 4);
        started.sort();
        told.sort();
        assert_eq!(started, told);
        a_port_that_is_taken_at_the_first_start_ends_the_angel();
        a_stop_is_passed_on_and_ends_the_angel();
    }

    /// Called by the first test: a signal is for the whole process, and would end another test's angel.
    fn a_stop_is_passed_on_and_ends_the_angel() {
        // The child asks its parent to stop, and would not end by itself.
        let script = "trap 'exit 5' TERM; kill -TERM $PPID; while :; do sleep 0.02; done";
        let code = watch(
            |_| {
                let mut command = Command::new("sh");
                command.arg("-c").arg(script);
                command
            },
            |_| (),
        );
        assert_eq!(code.unwrap(), 5);
    }

    /// Called by the first test: the next one's signal would end this one's angel as well.
    fn a_port_that_is_taken_at_the_first_start_ends_the_angel() {
        let command = |_| {
            let mut command = Command::new("sh");
            command.arg("-c").arg("exit 69");
            command
        };
        assert_eq!(watch(command, |_| ()).unwrap(), EXIT_PORT_TAKEN);
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error() {
        let error = watch(|_| Command::new("/nowhere/at/all"), |_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
