//! The command for people.

mod client;
mod connect;
mod data;
mod local;
mod rolling;
mod show;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};
use twofold_grpc::management::{
    GetConfigRequest, RebuildRegisterRequest, RestartNodeRequest, StopNodeRequest,
};
use twofold_mgmnode::config;
use twofold_proto::{
    config::{Address, MANAGEMENT_PORT},
    error::counted,
    ids::ViewNumber,
};

use crate::client::{Client, Failure};

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at a Twofold cluster and runs it.
#[derive(Parser)]
#[command(name = "twofold", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Where management nodes are.
#[derive(clap::Args)]
struct Management {
    /// Management nodes: HOST or HOST:PORT, separated by commas; the first that answers is asked.
    #[arg(
        long,
        global = true,
        env = "TWOFOLD_MGM",
        default_value = "127.0.0.1:1186",
        value_name = "HOST:PORT,…"
    )]
    #[arg(value_delimiter = ',', value_parser = management_address)]
    mgm: Vec<Address>,
}

fn management_address(text: &str) -> Result<Address, String> {
    Address::parse(text, MANAGEMENT_PORT)
}

#[derive(Subcommand)]
enum Command {
    /// Shows all nodes: groups, states, addresses, and who leads.
    Show {
        #[command(flatten)]
        at: Management,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says how the cluster is; exits with 0 if all serves, 1 if something is missing, 2 if it does not serve.
    Status {
        #[command(flatten)]
        at: Management,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Stops nodes and starts them anew.
    Node {
        #[command(flatten)]
        at: Management,
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Mends the management nodes.
    Mgm {
        #[command(flatten)]
        at: Management,
        #[command(subcommand)]
        command: ManagementCommand,
    },
    /// Reads and explains configs.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Lists, shows, creates and drops tables.
    Table(data::Table),
    /// Prints a row. Exits with 3 if there is none.
    Get(data::Get),
    /// Puts a row, whether there is one of its key or not.
    Set(data::Set),
    /// Deletes a row. Exits with 3 if there is none.
    Delete(data::Delete),
    /// Prints the rows of a table, in no order.
    Scan(data::Scan),
    /// Starts and handles a cluster of processes on this machine, to try, develop and test.
    Cluster(local::Cluster),
    /// Tells the version of this command.
    Version,
    /// What people try who mean `node stop` or `cluster stop`.
    #[command(hide = true)]
    Stop(Misnamed),
    /// The same of `restart`.
    #[command(hide = true)]
    Restart(Misnamed),
}

#[derive(clap::Args)]
struct Misnamed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<String>,
}

#[derive(Subcommand)]
enum NodeCommand {
    /// Asks a node to stop, after it has handed over what it serves.
    Stop(NodeChoice),
    /// Asks a node to stop and start again; or all data nodes, one after the other.
    Restart {
        #[command(flatten)]
        choice: Option<NodeChoice>,
        /// All data nodes, each once the one before is up again. The cluster serves on. What stands at the program's path by then is started.
        #[arg(long, conflicts_with = "NodeChoice", required_unless_present = "node")]
        rolling: bool,
        /// How long each may take, in seconds.
        #[arg(long, requires = "rolling", default_value_t = 3600, value_name = "SECONDS")]
        timeout: u64,
    },
}

#[derive(Subcommand)]
enum ManagementCommand {
    /// Makes the register (views and tables) anew from what the data nodes know, where the directories of most management nodes
    /// are lost for good.
    ///
    /// All management nodes have to run, with empty directories (or with old copies that are all the same), and all data
    /// nodes; they serve on meanwhile.
    Rebuild {
        /// Data nodes to do without, names or ids, separated by commas. Only for nodes that are gone for good and have ended,
        /// or have lost their directories: a change that only they knew of is lost, and so is what was committed with them
        /// alone. If they come back they copy everything from the others.
        #[arg(long, value_delimiter = ',', value_name = "NODE,…")]
        without: Vec<String>,
    },
}

#[derive(clap::Args)]
struct NodeChoice {
    /// Its name, such as data1, or its id.
    node: String,
    /// Even if it is the last of its group that serves: the cluster stops until it, or another of its group that has all on disk,
    /// is started again.
    #[arg(long)]
    force: bool,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Checks a config file, and tells each fault with its line.
    Check {
        /// The file.
        #[arg(default_value = "twofold.toml")]
        file: PathBuf,
    },
    /// Explains every setting, with its default.
    Explain,
    /// Prints the config that the management node runs with, complete with defaults.
    Show {
        #[command(flatten)]
        at: Management,
    },
}

/// Who pipes the output into `head` has read what was to be read.
fn end_when_nobody_reads() {
    let panics = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What `print!` says; there is no other way to know (library/std/src/io/stdio.rs).
        if panic.payload_as_str().is_some_and(|text| text.starts_with("failed printing to stdout")) {
            std::process::exit(1);
        }
        panics(panic);
    }));
}

fn main() -> ExitCode {
    end_when_nobody_reads();
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(Failure(text)) => {
            eprintln!("twofold: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Version => println!("twofold {}", env!("CARGO_PKG_VERSION")),
        Command::Config { command: ConfigCommand::Explain } => print!("{}", config::explain()),
        Command::Config { command: ConfigCommand::Check { file } } => check(&file)?,
        Command::Config { command: ConfigCommand::Show { at } } => {
            let config = call(&at, async |client| client.config(GetConfigRequest {}).await)?;
            print!("{}", config.toml);
        }
        Command::Show { at, json } => {
            let shown = call(&at, async |client| client.show().await)?;
            print!("{}", if json { show::json(&shown) } else { show::table(&shown) });
        }
        Command::Status { at, json } => {
            let shown = call(&at, async |client| client.show().await)?;
            print!("{}", if json { show::status_json(&shown) } else { show::status(&shown) });
            return Ok(ExitCode::from(show::health(&shown) as u8));
        }
        Command::Node { at, command: NodeCommand::Stop(NodeChoice { node, force }) } => {
            let request = StopNodeRequest { node: node.clone(), force };
            call(&at, async |client| client.stop(request.clone()).await)?;
            println!("{node} was asked to stop");
        }
        Command::Node { at, command: NodeCommand::Restart { choice: None, timeout, .. } } => {
            finish(rolling::restart(&at.mgm, Duration::from_secs(timeout)))?;
        }
        Command::Node {
            at,
            command: NodeCommand::Restart { choice: Some(NodeChoice { node, force }), .. },
        } => {
            let request = RestartNodeRequest { node: node.clone(), force };
            call(&at, async |client| client.restart(request.clone()).await)?;
            println!("{node} was asked to start anew");
        }
        Command::Mgm { at, command: ManagementCommand::Rebuild { without } } => {
            let shown = call(&at, async |client| {
                client.rebuild(RebuildRegisterRequest { without }).await?;
                client.show().await
            })?;
            let view = ViewNumber(shown.view);
            println!("the register was rebuilt: view {view}, {}", counted(shown.tables as usize, "table"));
        }
        Command::Table(command) => return finish(command.run()),
        Command::Get(command) => return finish(command.run()),
        Command::Set(command) => return finish(command.run()),
        Command::Delete(command) => return finish(command.run()),
        Command::Scan(command) => return finish(command.run()),
        Command::Cluster(command) => return finish(local::run(command)),
        Command::Stop(_) => misnamed("stop"),
        Command::Restart(_) => misnamed("restart"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what is meant.
fn misnamed(verb: &str) -> ! {
    let node = format!("`twofold node {verb} NODE` {verb}s a data node of any cluster");
    let local = match verb {
        "stop" => "`twofold cluster stop` stops a whole cluster of processes on this machine".into(),
        _ => format!(
            "`twofold cluster {verb} NODE` {verb}s any node of a cluster of processes on this machine"
        ),
    };
    let text = format!("there is no `twofold {verb}`: {node}, {local}");
    Arguments::command().error(ErrorKind::InvalidSubcommand, text).exit()
}

fn check(file: &std::path::Path) -> Result<(), Failure> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| Failure(format!("{name}: {error}")))?;
    let config =
        config::read(&name, &text).map_err(|error| Failure(format!("the config is wrong\n{error}")))?;
    println!(
        "{name} is right: cluster «{}», {} management, {} data and {} API nodes, {} replicas",
        config.name,
        config.management_nodes.len(),
        config.data_nodes.len(),
        config.api_nodes.len(),
        config.replicas
    );
    Ok(())
}

/// Runs a command to its end.
fn finish<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure(format!("cannot start: {error}")))?;
    runtime.block_on(command)
}

/// Asks a management node.
fn call<T>(at: &Management, call: impl AsyncFnOnce(&mut Client) -> Result<T, Failure>) -> Result<T, Failure> {
    finish(async {
        let mut client = Client::connect(&at.mgm, CALL_TIMEOUT).await?;
        call(&mut client).await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn addresses_are_options_where_they_are_used() {
        for good in [
            &["show", "--mgm", "db1,[::1]:99"][..],
            &["node", "stop", "--mgm", "db1", "data1"],
            &["config", "show", "--mgm", "db1"],
            &["mgm", "rebuild", "--mgm", "db1", "--without", "data1,12"],
            &["get", "--api", "db1,db2:7", "fruit", "pear"],
            &["table", "list", "--api", "db1"],
        ] {
            Arguments::try_parse_from([&["twofold"], good].concat())
                .map(drop)
                .unwrap_or_else(|error| panic!("{error}"));
        }
        for (bad, word) in [
            (&["get", "--mgm", "db1", "fruit", "pear"][..], "--mgm"),
            (&["config", "explain", "--mgm", "db1"], "--mgm"),
            (&["cluster", "--mgm", "db1", "status"], "--mgm"),
            (&["show", "--api", "db1"], "--api"),
            (&["show", "--mgm", "db1:x"], "say HOST or HOST:PORT"),
        ] {
            let refused =
                Arguments::try_parse_from([&["twofold"], bad].concat()).map(drop).unwrap_err().to_string();
            assert!(refused.contains(word), "{bad:?}: {refused}");
        }
    }
}
