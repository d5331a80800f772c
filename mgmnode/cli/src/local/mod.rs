//! `twofold cluster`: a whole cluster on this machine, to try, develop and test.

mod commands;
mod directory;
mod health;
mod layout;
mod ports;
mod process;
mod report;
mod start;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};

use crate::client::Failure;
use layout::Shape;
use report::Health;

/// Exit codes of `status`, after those of an init script (Linux Standard Base, 22.2).
const EXIT_NOT_ALL_SERVE: u8 = 3;
const EXIT_NONE_RUNS: u8 = 4;

/// Starts and handles a cluster of processes on this machine.
#[derive(Args, Debug)]
pub struct Cluster {
    /// Where the cluster keeps its config, its files and its logs
    #[arg(long, global = true, env = "TWOFOLD_CLUSTER_DIR", default_value = "run", value_name = "DIR")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Starts all nodes, waits until they serve, prints their addresses
    ///
    /// What is not said here is taken from the cluster that DIR had before, or is as usual.
    Start {
        #[command(flatten)]
        shape: Shape,
        /// Without the rows that the data nodes have on disk: they are gone for good, the tables stay
        #[arg(long)]
        initial: bool,
        /// How long to wait for the nodes, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
    },
    /// Shows each node: its state, process and ports
    ///
    /// Exits with 0 if all serve, 3 if some do not, 4 if none runs.
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Stops all nodes
    Stop,
    /// Kills a node (SIGKILL). The angel of a data node starts it again; another node needs `restart`
    Kill {
        /// Its name, as `status` shows it
        node: String,
        /// As if its host had failed: kills the angel of a data node too
        #[arg(long)]
        host: bool,
    },
    /// Has a node hang (SIGSTOP), its angel too
    Pause {
        /// Its name, as `status` shows it
        node: String,
    },
    /// Lets a paused node go on
    Resume {
        /// Its name, as `status` shows it
        node: String,
    },
    /// Stops a node, if it runs, and starts it; waits until it serves
    Restart {
        /// Its name, as `status` shows it
        node: String,
        /// Without what it has on disk: it copies everything from its buddies
        #[arg(long)]
        initial: bool,
        /// How long to wait for the node, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
    },
    /// Prints the log of a node
    Logs {
        /// Its name, as `status` shows it
        node: String,
        /// The last lines alone
        #[arg(long, value_name = "COUNT")]
        lines: Option<u32>,
        /// Waits for what comes
        #[arg(long)]
        follow: bool,
    },
    /// Removes a stopped cluster with its config, files and logs
    Wipe,
}

/// Carries out a command.
///
/// # Errors
/// If it cannot be done, in words for people.
pub async fn run(Cluster { dir, command }: Cluster) -> Result<ExitCode, Failure> {
    match command {
        Command::Start { shape, initial, timeout } => {
            start::start(&dir, &shape, initial, Duration::from_secs(timeout)).await?;
        }
        Command::Status { json } => {
            return Ok(match report::status(&dir, json).await? {
                Health::AllServe => ExitCode::SUCCESS,
                Health::NotAllServe => ExitCode::from(EXIT_NOT_ALL_SERVE),
                Health::NoneRuns => ExitCode::from(EXIT_NONE_RUNS),
            });
        }
        Command::Stop => commands::stop(&dir).await?,
        Command::Kill { node, host } => commands::kill(&dir, &node, host).await?,
        Command::Pause { node } => commands::pause(&dir, &node)?,
        Command::Resume { node } => commands::resume(&dir, &node)?,
        Command::Restart { node, initial, timeout } => {
            start::restart(&dir, &node, initial, Duration::from_secs(timeout)).await?;
        }
        Command::Logs { node, lines, follow } => commands::logs(&dir, &node, lines, follow)?,
        Command::Wipe => commands::wipe(&dir)?,
    }
    Ok(ExitCode::SUCCESS)
}
