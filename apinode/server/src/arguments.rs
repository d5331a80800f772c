//! The command line.

use clap::Parser;
use twofold_runtime::logging::Format;

/// The port of management nodes, if none is said.
const MANAGEMENT_PORT: u16 = 1186;

/// An API node of a Twofold cluster: serves gRPC and memcached clients. It keeps nothing; run as many as you like.
///
/// It asks the management nodes for the cluster's config, which says where it listens, and opens its ports once the
/// cluster serves.
#[derive(Clone, Debug, Parser)]
#[command(name = "twofold-apinode", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// Management nodes, any of them: HOST or HOST:PORT, separated by commas
    #[arg(long, env = "TWOFOLD_MGM", value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    #[arg(value_parser = address)]
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

    /// Port for metrics for Prometheus, instead of the one in the config
    #[arg(long, env = "TWOFOLD_METRICS_PORT", value_name = "PORT")]
    pub metrics_port: Option<u16>,

    /// Threads, instead of the number in the config; 0: one for each core
    #[arg(long, env = "TWOFOLD_THREADS")]
    pub threads: Option<u16>,

    /// Connections of memcached clients, at most
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

fn address(text: &str) -> Result<String, String> {
    let after_host = text.rfind(']').map_or(text, |end| &text[end + 1..]);
    let bracketed = text.starts_with('[') && text.len() > after_host.len() + 2;
    match after_host.split_once(':') {
        None if bracketed || !text.starts_with('[') && !text.is_empty() => {
            Ok(format!("{text}:{MANAGEMENT_PORT}"))
        }
        Some((host, port))
            if bracketed == host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(text.into())
        }
        _ => Err("say HOST:PORT, like 127.0.0.1:1186 or [::1]:1186".into()),
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

    #[test]
    fn addresses_get_the_usual_port() {
        let good =
            [("db1", "db1:1186"), ("db1:99", "db1:99"), ("[::1]", "[::1]:1186"), ("[::1]:99", "[::1]:99")];
        for (text, expected) in good {
            assert_eq!(address(text).as_deref(), Ok(expected));
        }
        for text in ["db1:", "db1:0", "db1:x", ":99", "", "[]", "[]:99", "[::1]x:99"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
