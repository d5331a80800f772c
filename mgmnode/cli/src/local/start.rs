//! Starting nodes, and waiting until they serve.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::time::sleep;
use twofold_grpc::management::ShowResponse;
use twofold_mgmnode::status::{self, NodeKind};
use twofold_proto::{config::ClusterConfig, error::ErrorCode, ids::NodeId};

use crate::{client::Failure, show};

use super::{
    commands::{self, find},
    directory::Directory,
    health,
    layout::Shape,
    ports,
    process::Process,
    report::{self, Node},
};

/// Between two looks at the cluster.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How much of a log is shown when a node fails.
const LOG_BYTES_SHOWN: u64 = 4096;
const LOG_LINES_SHOWN: usize = 12;

/// Starts a cluster.
pub async fn start(path: &Path, shape: &Shape, initial: bool, patience: Duration) -> Result<(), Failure> {
    let mut directory = Directory::make(path)?;
    let config = match directory.existing_config()? {
        Some(config) => {
            let contradictions = shape.contradictions(&config);
            if !contradictions.is_empty() {
                let (dir, what) = (directory.path().display(), contradictions.join("; "));
                return Err(Failure(format!(
                    "{dir} has a cluster already, and it was asked for {what}; `cluster wipe` it first, or take another --dir"
                )));
            }
            config
        }
        None => {
            let ports = shape.read().and_then(|config| check_ports(&config, &ids(&config)));
            if let Err(failure) = ports {
                directory.abandon();
                return Err(failure);
            }
            directory.create(&shape.config())?
        }
    };
    let running: Vec<String> = directory.running().into_iter().map(|(name, _)| name).collect();
    if !running.is_empty() {
        let names = running.join(", ");
        return Err(Failure(format!(
            "it runs already: {names}; see `cluster status`, or `cluster restart NODE` for one that is missing"
        )));
    }
    check_ports(&config, &ids(&config))?;
    let mut nodes = Vec::new();
    let started = async {
        for (id, kind, name) in status::nodes(&config) {
            let initial = initial && kind == NodeKind::Data;
            nodes.push(launch(&mut directory, &config, id, kind, &name, initial)?);
        }
        wait(&directory, &config, &mut nodes, patience).await
    };
    match started.await {
        Ok(()) => {
            print!("{}", report::table(&current(&directory, &config).await));
            if let Some(addresses) = report::addresses(&config) {
                println!("\n{addresses}");
            }
            Ok(())
        }
        // To be mended while all run.
        Err(failure) if health::show(&config).await.as_ref().is_some_and(is_lost) => Err(failure),
        Err(failure) => {
            commands::stop_all(&directory, &config).await?;
            Err(failure)
        }
    }
}

/// Starts one node anew.
pub async fn restart(path: &Path, node: &str, initial: bool, patience: Duration) -> Result<(), Failure> {
    let mut directory = Directory::open(path)?;
    let config = directory.config()?;
    let (name, kind) = find(&config, node)?;
    if initial && kind != NodeKind::Data {
        return Err(Failure(format!("{name} is no data node: only those can start without what they had")));
    }
    if kind == NodeKind::Data && directory.process(&name).is_some() {
        guard_last(&current(&directory, &config).await, &config, &name)?;
    }
    if let Some(process) = directory.process(&name) {
        commands::end(&[(name.clone(), process)]).await?;
    }
    let id = status::find(&config, &name).map_err(|error| Failure(error.text))?;
    check_ports(&config, &[id])?;
    let launched = launch(&mut directory, &config, id, kind, &name, initial)?;
    wait(&directory, &config, &mut [launched], patience).await?;
    println!("{name} has been started anew and serves");
    Ok(())
}

/// Whether the management nodes have lost their register: no waiting helps.
fn is_lost(shown: &ShowResponse) -> bool {
    shown.trouble.starts_with(&ErrorCode::RegisterLost.to_string())
}

fn ids(config: &ClusterConfig) -> Vec<NodeId> {
    status::nodes(config).map(|(id, ..)| id).collect()
}

/// Without the last member of a group the cluster stops.
fn guard_last(nodes: &[Node], config: &ClusterConfig, name: &str) -> Result<(), Failure> {
    let mut data: Vec<&Node> = nodes.iter().filter(|node| node.kind == NodeKind::Data).collect();
    data.sort_by_key(|node| node.id);
    let group = data
        .chunks(usize::from(config.replicas))
        .find(|group| group.iter().any(|node| node.name == name))
        .unwrap_or_default();
    let is_last = group.iter().all(|node| node.serves() == (node.name == name));
    match is_last {
        true => Err(Failure(format!(
            "{name} is the last of its group that serves: the cluster would stop until it is back; first have another one of {} up",
            group.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
        ))),
        false => Ok(()),
    }
}

async fn current(directory: &Directory, config: &ClusterConfig) -> Vec<Node> {
    report::nodes(directory, config, health::show(config).await.as_ref())
}

fn check_ports(config: &ClusterConfig, ids: &[NodeId]) -> Result<(), Failure> {
    let faults = ports::faults(ports::all(config, ids));
    match faults.is_empty() {
        true => Ok(()),
        false => {
            let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
            Err(Failure(format!(
                "{}\nend what uses them, or add to all ports with --offset",
                lines.join("\n")
            )))
        }
    }
}

/// A node that was started by this command.
struct Launched {
    id: NodeId,
    name: String,
    child: Child,
    log: PathBuf,
    /// Where its log began.
    log_start: u64,
}

/// The binaries are beside this one.
fn binary(kind: NodeKind) -> Result<PathBuf, Failure> {
    let name = match kind {
        NodeKind::Management => "twofold-mgmnode",
        NodeKind::Data => "twofold-datanode",
        NodeKind::Api => "twofold-apinode",
    };
    let path = std::env::current_exe()?.with_file_name(name);
    match path.exists() {
        true => Ok(path),
        false => Err(Failure(format!("{} is missing; `cargo build` makes it", path.display()))),
    }
}

fn launch(
    directory: &mut Directory,
    config: &ClusterConfig,
    id: NodeId,
    kind: NodeKind,
    name: &str,
    initial: bool,
) -> Result<Launched, Failure> {
    let log = directory.log(name);
    let failed = |path: &Path, error| Failure(format!("{}: {error}", path.display()));
    let output =
        OpenOptions::new().create(true).append(true).open(&log).map_err(|error| failed(&log, error))?;
    let log_start = output.metadata()?.len();
    let management: Vec<String> =
        config.management_nodes.iter().map(|node| node.address.to_string()).collect();
    let binary = binary(kind)?;
    let mut command = Command::new(&binary);
    command.arg("--id").arg(id.0.to_string());
    match kind {
        NodeKind::Management => command.arg("--config").arg(directory.config_path()),
        NodeKind::Data | NodeKind::Api => command.arg("--mgm").arg(management.join(",")),
    };
    if kind != NodeKind::Api {
        let own = directory.of_node(name);
        fs::create_dir_all(&own).map_err(|error| failed(&own, error))?;
        command.arg("--dir").arg(own);
    }
    if initial {
        command.arg("--initial");
    }
    // What was meant for one node by hand is not for all of these.
    for (variable, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // It outlives this command and does not hear the terminal's interrupts.
    let child = command.process_group(0).spawn().map_err(|error| failed(&binary, error))?;
    if let Some(process) = Process::of(child.id()) {
        directory.note(name, process)?;
    }
    Ok(Launched { id, name: name.into(), child, log, log_start })
}

/// Whether a variable of the environment stands for an option of a node, other than how to log.
fn is_setting(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("TWOFOLD_") && !name.starts_with("TWOFOLD_LOG")
}

impl Launched {
    /// What to say if it has ended.
    fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        let said = self.said().unwrap_or_default();
        Some(format!("{} has ended ({status}):\n{said}", self.name))
    }

    /// The last lines of its log.
    fn said(&self) -> Option<String> {
        let mut file = File::open(&self.log).ok()?;
        let end = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(self.log_start.max(end.saturating_sub(LOG_BYTES_SHOWN)))).ok()?;
        let mut bytes = Vec::new();
        file.take(LOG_BYTES_SHOWN).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        Some(shown.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n"))
    }
}

/// Waits until these nodes serve.
async fn wait(
    directory: &Directory,
    config: &ClusterConfig,
    launched: &mut [Launched],
    patience: Duration,
) -> Result<(), Failure> {
    let until = Instant::now() + patience;
    loop {
        if let Some(text) = launched.iter_mut().find_map(Launched::ended) {
            return Err(Failure(text));
        }
        let shown = health::show(config).await;
        if let Some(shown) = shown.as_ref().filter(|shown| is_lost(shown)) {
            return Err(Failure(format!(
                "{}
the processes go on running",
                shown.trouble
            )));
        }
        let nodes = report::nodes(directory, config, shown.as_ref());
        let is_awaited = |node: &&Node| launched.iter().any(|launched| launched.id == node.id);
        let mut missing: Vec<String> = nodes
            .iter()
            .filter(is_awaited)
            .filter(|node| !node.serves())
            .map(|node| format!("{} is {}", node.name, node.state))
            .collect();
        if missing.is_empty() {
            for node in &config.api_nodes {
                let awaited = launched.iter().find(|launched| launched.id == node.id);
                if let Some(launched) = awaited
                    && !health::serves(node).await
                {
                    missing.push(format!("{} does not answer clients yet", launched.name));
                }
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            let (seconds, what) = (patience.as_secs(), missing.join(", "));
            let notes = shown.as_ref().map(show::notes).unwrap_or_default();
            let text = format!("after {seconds} s {what}; `cluster logs NODE` tells more\n{notes}");
            return Err(Failure(text.trim_end().into()));
        }
        sleep(LOOK_AGAIN).await;
    }
}
