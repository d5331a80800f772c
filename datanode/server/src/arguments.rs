//! The command line.

use std::path::PathBuf;

use clap::Parser;
use twofold_proto::{
    config::{Address, ClusterConfig, DataNodeConfig},
    ids::{Incarnation, NodeId},
    limits::WORKERS_MAX,
};
use twofold_runtime::logging::Format;

use crate::Failure;

/// A data node of a Twofold cluster: keeps its share of the rows in memory, and serves them.
///
/// It asks the management nodes for the cluster's config, which says where it listens; joins the cluster; and copies
/// what it has to hold from its buddies. A small parent process, the angel, tells the cluster at once if the node
/// ends, and starts it again.
#[derive(Clone, Debug, Parser)]
#[command(name = "twofold-datanode", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// Management nodes, any of them: HOST or HOST:PORT, separated by commas
    #[arg(long, env = "TWOFOLD_MGM", value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    #[arg(value_parser = Address::of_management)]
    pub mgm: Vec<String>,

    /// This node's id in the config
    #[arg(long, env = "TWOFOLD_ID", value_parser = clap::value_parser!(u16).range(1..))]
    pub id: u16,

    /// A directory of its own: created if it is missing, and locked
    #[arg(long, env = "TWOFOLD_DIR")]
    pub dir: PathBuf,

    /// Worker threads; else as the config says, or one for each core
    #[arg(long, env = "TWOFOLD_WORKERS", value_parser = clap::value_parser!(u16).range(1..=i64::from(WORKERS_MAX)))]
    pub workers: Option<u16>,

    /// Address to listen on, where that is not the host in the config (0.0.0.0: on all of this machine's)
    #[arg(long, env = "TWOFOLD_BIND", value_name = "HOST")]
    pub bind: Option<String>,

    /// Begins without what its directory has: it copies all from its buddies. With all data nodes started so, the cluster begins
    /// without rows
    #[arg(long)]
    pub initial: bool,

    /// What to log: a level, or levels per module
    #[arg(long, env = "TWOFOLD_LOG", default_value = "info")]
    pub log: String,

    /// How to log, to stderr: text or json
    #[arg(long, env = "TWOFOLD_LOG_FORMAT", default_value_t)]
    pub log_format: Format,

    /// The life that this process is, as its angel named it.
    #[arg(long, hide = true, value_parser = incarnation)]
    pub incarnation: Option<Incarnation>,
}

const AFTER_HELP: &str = "\
SIGTERM has it leave the cluster and end; a second one hurries it.

Exit codes: 0 ended as it was asked to; 78 a wrong setting, in the command line or the config; 1 the system did \
not give what was needed; 128 and more: ended by that signal.";

fn incarnation(text: &str) -> Result<Incarnation, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(Incarnation(number)),
        _ => Err("a number above 0".into()),
    }
}

impl Arguments {
    /// This node's section of the config.
    pub fn section<'a>(&self, config: &'a ClusterConfig) -> Result<&'a DataNodeConfig, Failure> {
        config.data_node(NodeId(self.id)).ok_or_else(|| {
            let ids: Vec<String> = config.data_nodes.iter().map(|node| node.id.to_string()).collect();
            Failure::Setting(format!(
                "node {} is no data node of cluster «{}»; its data nodes are {}",
                self.id,
                config.name,
                ids.join(", ")
            ))
        })
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
    fn management_nodes_are_separated_by_commas() {
        let arguments = ["twofold-datanode", "--mgm", "a,b:7", "--id", "11", "--dir", "d"];
        let arguments = Arguments::try_parse_from(arguments).unwrap();
        assert_eq!(arguments.mgm, ["a:1186", "b:7"]);
        assert!(Arguments::try_parse_from(["twofold-datanode", "--id", "11", "--dir", "d"]).is_err());
    }
}
