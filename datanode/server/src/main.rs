//! The data node's program. It is two processes: the [`angel`], which is started by people, and the [`node`], which the
//! angel starts, and starts again.

mod angel;
mod arguments;
mod directory;
mod disk;
mod node;
mod writer;

use std::process::ExitCode;

use clap::Parser;
use twofold_runtime::{EXIT_DO_NOT_RESTART, EXIT_PORT_TAKEN, logging};

use arguments::Arguments;

/// Why a process cannot go on.
#[derive(Debug)]
enum Failure {
    /// A wrong setting, which no restart mends.
    Setting(String),
    /// Somebody else listens on its port.
    PortTaken(String),
    /// The system did not give what was needed.
    System(String),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::System(error.to_string())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = logging::init(arguments.log_format, &arguments.log) {
        eprintln!(
            "--log «{}»: {error}; say a level (info), or levels per module (twofold_runtime=debug)",
            arguments.log
        );
        return ExitCode::from(EXIT_DO_NOT_RESTART);
    }
    let result = match arguments.incarnation {
        None => angel::run(&arguments),
        Some(incarnation) => node::run(&arguments, incarnation),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Failure::Setting(text)) => {
            tracing::error!("{text}");
            ExitCode::from(EXIT_DO_NOT_RESTART)
        }
        Err(Failure::PortTaken(text)) => {
            tracing::error!("{text}");
            ExitCode::from(EXIT_PORT_TAKEN)
        }
        Err(Failure::System(text)) => {
            tracing::error!("{text}");
            ExitCode::FAILURE
        }
    }
}
