//! `twofold-bench`: puts load on a cluster, and says what it took.
//!
//! | module | what it does |
//! |---|---|
//! | `native` | the native client with a workload inside: one machine a thread |
//! | `lookup` | single rows by key: NDB's flexAsynch |
//! | `memcached` | get and set at any memcached server, or at Redis |
//! | `overload` | more than an API node can bear |
//! | `compare` | both, and the same at memcached and Redis by turns |
//! | `dbt2` | TPC-C's transactions, by SQL or through the native client |
//! | `journal` | notes every acknowledged write while nodes fail, and looks for all of them afterwards |
//! | `keys`, `measure`, `cpu`, `report` | which keys; the window that counts; CPU time; what is printed |

mod compare;
mod cpu;
mod dbt2;
mod journal;
mod keys;
mod lookup;
mod measure;
mod memcached;
mod native;
mod overload;
mod report;

use std::{fmt, process::ExitCode};

use clap::{Parser, Subcommand};
use twofold_runtime::logging;

/// Puts load on a Twofold cluster, or on a memcached server, and says what it took.
#[derive(Debug, Parser)]
#[command(name = "twofold-bench", version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// What to log to stderr: a level, or levels per module
    #[arg(long, global = true, env = "TWOFOLD_LOG", default_value = "warn")]
    log: String,

    /// How to log: text or json
    #[arg(long, global = true, env = "TWOFOLD_LOG_FORMAT", default_value_t)]
    log_format: logging::Format,
}

const AFTER_HELP: &str = "\
Figures are of this machine and this moment: compare only what was measured by turns in one sitting, by medians of \
several runs, and by CPU time rather than by throughput where something else runs beside it.

Exit codes: 0 done; 1 it could not be done; 2 a wrong command line; 3 done, and a check has failed.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Inserts, updates, reads and deletes single rows by their key, through the native client
    Lookup(lookup::Arguments),
    /// Gets and sets items of any memcached server, or of Redis
    Memcached(memcached::Arguments),
    /// Runs lookup and memcached, and the same on memcached and Redis, by turns; ends in a table of targets and results
    Compare(compare::Arguments),
    /// Asks for some times what an API node can do, and says what becomes of what it can
    Overload(overload::Arguments),
    /// TPC-C's tables and transactions, as DBT2 runs them: load, run, check
    Dbt2(dbt2::Arguments),
    /// Writes and reads while nodes fail: notes every acknowledged write in a file, and says how long keys were out of
    /// reach
    Journal(journal::Arguments),
    /// Looks whether every write that a journal has as acknowledged is there
    Verify(journal::VerifyArguments),
}

/// Exit code when a check has failed.
const EXIT_CHECK_FAILED: u8 = 3;

/// Why it could not be done, for people.
#[derive(Debug)]
struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure(text)
    }
}

impl From<twofold_proto::error::Error> for Failure {
    fn from(error: twofold_proto::error::Error) -> Failure {
        Failure(error.to_string())
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Failure {
        Failure(text.into())
    }
}

/// How a benchmark that was done went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Fine,
    CheckFailed,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = logging::init(arguments.log_format, &arguments.log) {
        eprintln!("--log «{}»: {error}", arguments.log);
        return ExitCode::from(2);
    }
    let result = match &arguments.command {
        Command::Lookup(arguments) => lookup::run(arguments),
        Command::Memcached(arguments) => memcached::run(arguments),
        Command::Overload(arguments) => overload::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
        Command::Dbt2(arguments) => dbt2::run(arguments),
        Command::Journal(arguments) => journal::run(arguments),
        Command::Verify(arguments) => journal::verify(arguments),
    };
    match result {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::CheckFailed) => ExitCode::from(EXIT_CHECK_FAILED),
        Err(failure) => {
            eprintln!("twofold-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
