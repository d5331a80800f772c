//! The command line.

use std::path::PathBuf;

use clap::Parser;
use twofold_proto::config::Address;
use twofold_runtime::logging::Format;

/// An API node of a Twofold cluster: serves gRPC, memcached and SQL clients. It keeps nothing; run as many as you like.
///
/// It asks the management nodes for the cluster's config, which says where it listens, and opens its ports once the
/// cluster serves.
#[derive(Clone, Debug, Parser)]
#[command(name = "twofold-apinode", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// Management nodes, any of them: HOST or HOST:PORT, separated by commas
    #[arg(long, env = "TWOFOLD_MGM", value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    #[arg(value_parser = Address::of_management)]
    pub mgm: Vec<String>,

    /// This node's id in the config
    #[arg(long, env = "TWOFOLD_ID", value_parser = clap::value_parser!(u16).range(1..))]
    pub id: u16,

    /// Address to listen on, instead of the host in the config (0.0.0.0: on all of this machine's)
    #[arg(long, env = "TWOFOLD_BIND", value_name = "HOST")]
    pub bind: Option<String>,

    /// Port for gRPC, instead of the one in the config
    #[arg(long, env = "TWOFOLD_GRPC_PORT", value_name = "PORT")]
    pub grpc_port: Option<u16>,

    /// Port for memcached's protocol, instead of the one in the config
    #[arg(long, env = "TWOFOLD_MEMCACHED_PORT", value_name = "PORT")]
    pub memcached_port: Option<u16>,

    /// Port for SQL by the MySQL protocol, instead of the one in the config
    #[arg(long, env = "TWOFOLD_SQL_PORT", value_name = "PORT")]
    pub sql_port: Option<u16>,

    /// File whose first line is the password of SQL's user, root; without it root has none and may come from this machine alone
    #[arg(long, env = "TWOFOLD_SQL_PASSWORD_FILE", value_name = "FILE")]
    pub sql_password_file: Option<PathBuf>,

    /// Port for metrics for Prometheus, instead of the one in the config
    #[arg(long, env = "TWOFOLD_METRICS_PORT", value_name = "PORT")]
    pub metrics_port: Option<u16>,

    /// Threads, instead of the number in the config; 0: one for each core
    #[arg(long, env = "TWOFOLD_THREADS")]
    pub threads: Option<u16>,

    /// Connections of memcached clients, and as many of SQL's, at most
    #[arg(long, env = "TWOFOLD_MAX_CONNECTIONS", default_value_t = 10_000, value_name = "NUMBER")]
    pub max_connections: usize,

    /// What to log: a level, or levels per module
    #[arg(long, env = "TWOFOLD_LOG", default_value = "info")]
    pub log: String,

    /// How to log, to stderr: text or json
    #[arg(long, env = "TWOFOLD_LOG_FORMAT", default_value_t)]
    pub log_format: Format,
}

const AFTER_HELP: &str = "\
SIGTERM has it answer what is under way and end; a second one hurries it.

Exit codes: 0 ended as it was asked to; 78 a wrong setting, in the command line or the config; 1 the system did \
not give what was needed; 128 and more: ended by that signal.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
