//! What is done to a cluster that has been started.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::time::sleep;
use twofold_mgmnode::status::{self, NodeKind};
use twofold_proto::{config::ClusterConfig, error::counted};

use crate::client::Failure;

use super::{
    directory::Directory,
    process::{Activity, Process},
    report,
};

/// How long nodes of one kind may take to end before they are killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at a process.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A node by its name or id.
///
/// # Errors
/// If there is none, with the names that there are.
pub fn find(config: &ClusterConfig, text: &str) -> Result<(String, NodeKind), Failure> {
    let wanted = status::find(config, text).map_err(|error| Failure(error.text))?;
    let found = status::nodes(config).find(|(id, ..)| *id == wanted);
    let (_, kind, name) = found.ok_or_else(|| Failure(format!("there is no node «{text}»")))?;
    Ok((name, kind))
}

/// Its processes, the node's own and its angel's; an error unless it runs.
fn running(directory: &Directory, name: &str, kind: NodeKind) -> Result<Vec<Process>, Failure> {
    let (process, angel) = report::processes(directory, name, kind);
    let all: Vec<Process> = angel.into_iter().chain(process).collect();
    match all.is_empty() {
        true => Err(Failure(format!("{name} does not run; `cluster restart {name}` starts it"))),
        false => Ok(all),
    }
}

/// Asks processes to end, and kills what has not ended in time.
pub async fn end(nodes: &[(String, Process)]) -> Result<(), Failure> {
    for (_, process) in nodes {
        // One that is paused, or whose child is, would not hear it.
        for member in process.children().iter().chain([process]) {
            if member.activity() == Activity::Paused {
                member.signal(Signal::CONT)?;
            }
        }
        process.signal(Signal::TERM)?;
    }
    let until = Instant::now() + STOP_PATIENCE;
    for (name, process) in nodes {
        while process.activity() != Activity::Gone && Instant::now() < until {
            sleep(LOOK_AGAIN).await;
        }
        if process.activity() != Activity::Gone {
            eprintln!("{name} has not ended in {} s, killing it", STOP_PATIENCE.as_secs());
            // First the angel: it would start another.
            let children = process.children();
            for member in [process].into_iter().chain(&children) {
                member.signal(Signal::KILL)?;
            }
            gone(process).await;
        }
    }
    Ok(())
}

/// Waits for the end of a process that has been killed.
async fn gone(process: &Process) {
    while process.activity() != Activity::Gone {
        sleep(LOOK_AGAIN).await;
    }
}

/// Stops all nodes: those that use others first.
pub async fn stop(path: &Path) -> Result<(), Failure> {
    let directory = Directory::open(path)?;
    let config = directory.config()?;
    let running = directory.running();
    if running.is_empty() {
        println!("no node runs");
        return Ok(());
    }
    stop_all(&directory, &config).await?;
    println!("stopped {}", counted(running.len(), "node"));
    Ok(())
}

/// Stops what runs.
pub async fn stop_all(directory: &Directory, config: &ClusterConfig) -> Result<(), Failure> {
    for kind in [NodeKind::Api, NodeKind::Data, NodeKind::Management] {
        let of_kind = status::nodes(config).filter(|(_, other, _)| *other == kind);
        let processes: Vec<(String, Process)> =
            of_kind.filter_map(|(_, _, name)| Some((name.clone(), directory.process(&name)?))).collect();
        end(&processes).await?;
    }
    Ok(())
}

/// Kills a node, or its host.
pub async fn kill(path: &Path, node: &str, host: bool) -> Result<(), Failure> {
    let directory = Directory::open(path)?;
    let (name, kind) = find(&directory.config()?, node)?;
    let mut processes = running(&directory, &name, kind)?;
    if kind == NodeKind::Data && !host {
        // The angel stays.
        processes.remove(0);
        if processes.is_empty() {
            return Err(Failure(format!(
                "{name} is being started by its angel, there is nothing to kill yet"
            )));
        }
    }
    for process in &processes {
        process.signal(Signal::KILL)?;
    }
    for process in &processes {
        gone(process).await;
    }
    let back = match (kind, host) {
        (NodeKind::Data, false) => "its angel starts it again".into(),
        _ => format!("`cluster restart {name}` starts it again"),
    };
    println!("{name} has been killed; {back}");
    Ok(())
}

/// Has a node hang.
pub fn pause(path: &Path, node: &str) -> Result<(), Failure> {
    let directory = Directory::open(path)?;
    let (name, kind) = find(&directory.config()?, node)?;
    for process in running(&directory, &name, kind)? {
        process.signal(Signal::STOP)?;
    }
    println!("{name} is paused; `cluster resume {name}` lets it go on");
    Ok(())
}

/// Lets it go on.
pub fn resume(path: &Path, node: &str) -> Result<(), Failure> {
    let directory = Directory::open(path)?;
    let (name, kind) = find(&directory.config()?, node)?;
    let processes = running(&directory, &name, kind)?;
    if processes.iter().all(|process| process.activity() != Activity::Paused) {
        return Err(Failure(format!("{name} is not paused")));
    }
    // The node before its angel, which would find it changed.
    for process in processes.iter().rev() {
        process.signal(Signal::CONT)?;
    }
    println!("{name} goes on");
    Ok(())
}

/// Prints a log.
pub fn logs(path: &Path, node: &str, lines: Option<u32>, follow: bool) -> Result<(), Failure> {
    let directory = Directory::look(path)?;
    let (name, _) = find(&directory.config()?, node)?;
    let log = directory.log(&name);
    if !log.exists() {
        return Err(Failure(format!("{name} has not been started yet, it has no log")));
    }
    let from = lines.map_or("+1".into(), |lines| lines.to_string());
    let mut tail = Command::new("tail");
    tail.arg("-n").arg(from);
    if follow {
        tail.arg("-F");
    }
    Err(Failure(format!("tail: {}", tail.arg("--").arg(log).exec())))
}

/// Removes a cluster.
pub fn wipe(path: &Path) -> Result<(), Failure> {
    let directory = Directory::open(path)?;
    let config = directory.config()?;
    let running: Vec<String> = directory.running().into_iter().map(|(name, _)| name).collect();
    if !running.is_empty() {
        let verb = if running.len() == 1 { "runs" } else { "run" };
        return Err(Failure(format!("{} still {verb}; `cluster stop` first", running.join(", "))));
    }
    let place = directory.path().display().to_string();
    directory.wipe(&config)?;
    println!("the cluster in {place} has been removed");
    Ok(())
}
