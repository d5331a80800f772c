//! One cluster at a time, with a directory and ports of its own.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::panicking,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{PATIENCE, binary, eventually, run};

/// Offsets that move all ports of a cluster between and beyond those that the system gives to outgoing connections.
const OFFSET_MIN: u16 = 11_000;
const OFFSET_MAX: u16 = 15_000;
/// No cluster of a test has so many ports of a kind.
const OFFSET_STEP: u16 = 25;
/// Lines of each log that are printed when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// Two clusters at a time would disturb each other on few cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A cluster that runs as long as this lives.
pub struct Cluster {
    dir: TempDir,
    offset: u16,
    _alone: MutexGuard<'static, ()>,
}

/// An offset whose ports are free. What takes them in between makes the start fail with words.
fn free_offset() -> u16 {
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let first_ports = [1186, 2202, 50_051, 11_211, 9464];
    // Where tests of several checkouts run at once they rather not try the same ones.
    let steps = (OFFSET_MAX - OFFSET_MIN) / OFFSET_STEP;
    let begin = std::process::id() as u16 % steps;
    (0..steps)
        .map(|step| OFFSET_MIN + (begin + step) % steps * OFFSET_STEP)
        .find(|offset| {
            first_ports.iter().all(|port| (0..OFFSET_STEP).all(|place| is_free(port + offset + place)))
        })
        .expect("this machine has free ports")
}

impl Cluster {
    /// Waits for its turn; nothing is started yet.
    ///
    /// # Panics
    /// If the system gives no directory.
    pub fn prepare() -> Cluster {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().expect("a directory for the cluster");
        Cluster { dir, offset: free_offset(), _alone: alone }
    }

    /// Starts a cluster with these options of `cluster start`.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(options: &[&str]) -> Cluster {
        let cluster = Cluster::prepare();
        let output = cluster.try_start(options);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        cluster
    }

    /// Tries to start it.
    pub fn try_start(&self, options: &[&str]) -> Output {
        let offset = self.offset.to_string();
        let patience = PATIENCE.as_secs().to_string();
        self.command(&[&["start", "--offset", &offset, "--timeout", &patience], options].concat())
    }

    /// Where it has its config, files and logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new path beside the cluster's own files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Runs a command of `twofold cluster`.
    pub fn command(&self, arguments: &[&str]) -> Output {
        run(Command::new(binary("twofold")).arg("cluster").arg("--dir").arg(self.dir()).args(arguments))
    }

    /// Runs one that must succeed.
    ///
    /// # Panics
    /// If it does not.
    pub fn done(&self, arguments: &[&str]) {
        let output = self.command(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs `twofold` with the addresses of this cluster.
    pub fn twofold(&self, arguments: &[&str]) -> Output {
        run(Command::new(binary("twofold"))
            .env("TWOFOLD_MGM", self.management())
            .env("TWOFOLD_API", format!("127.0.0.1:{}", self.port("api1", "grpc_port")))
            .args(arguments))
    }

    /// The addresses of all management nodes.
    pub fn management(&self) -> String {
        let status = self.status();
        let nodes = nodes(&status).filter(|node| node["kind"] == "management");
        nodes.map(|node| format!("127.0.0.1:{}", node["ports"]["port"])).collect::<Vec<_>>().join(",")
    }

    /// What `status --json` says.
    ///
    /// # Panics
    /// If it says nothing that can be read.
    pub fn status(&self) -> Value {
        let output = self.command(&["status", "--json"]);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// What it says of one node.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node(&self, name: &str) -> Value {
        let status = self.status();
        nodes(&status)
            .find(|node| node["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {status}"))
            .clone()
    }

    /// A node's process.
    pub fn pid(&self, name: &str) -> Option<u64> {
        self.node(name)["pid"].as_u64()
    }

    /// How many files and sockets a node has open.
    ///
    /// # Panics
    /// If it does not run.
    pub fn descriptors(&self, name: &str) -> usize {
        let pid = self.pid(name).unwrap_or_else(|| panic!("{name} does not run"));
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap_or_else(|error| panic!("{name}: {error}")).count()
    }

    /// A node's port.
    ///
    /// # Panics
    /// If it has none of that name.
    pub fn port(&self, name: &str, key: &str) -> u16 {
        let node = self.node(name);
        let port = node["ports"][key].as_u64().and_then(|port| port.try_into().ok());
        port.unwrap_or_else(|| panic!("no {key} in {node}"))
    }

    /// A connection to a node's port.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn connect(&self, name: &str, key: &str) -> TcpStream {
        let address = (Ipv4Addr::LOCALHOST, self.port(name, key));
        let stream =
            TcpStream::connect(address).unwrap_or_else(|error| panic!("{name} {address:?}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit that is not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("a limit that is not zero");
        stream
    }

    /// Stops it, changes its config, and starts it with that.
    ///
    /// # Panics
    /// If the config does not change, or one of these does not succeed.
    pub fn reconfigure(&self, change: impl FnOnce(&str) -> String) {
        self.done(&["stop"]);
        let path = self.file("twofold.toml");
        let before = fs::read_to_string(&path).expect("a cluster that was started has a config");
        let after = change(&before);
        assert_ne!(after, before, "the config does not change");
        fs::write(&path, after).expect("the config can be written");
        self.done(&["start"]);
    }

    /// Waits until every node serves.
    pub fn wait(&self) {
        eventually(|| {
            let status = self.status();
            (status["all_serve"] != true).then(|| format!("not all serve: {status:#}"))
        });
    }

    /// Waits until a node's process is another than this, and every node serves.
    pub fn wait_for_new_life(&self, name: &str, former: Option<u64>) {
        eventually(|| {
            let pid = self.pid(name);
            (pid.is_none() || pid == former).then(|| format!("{name} has not been started again"))
        });
        self.wait();
    }
}

fn nodes(status: &Value) -> impl Iterator<Item = &Value> {
    status["nodes"].as_array().into_iter().flatten()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if panicking() {
            for entry in fs::read_dir(self.dir()).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    let bytes = fs::read(&path).unwrap_or_default();
                    let text = String::from_utf8_lossy(&bytes);
                    let lines: Vec<&str> = text.lines().collect();
                    let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
                    eprintln!("---- {}\n{}", path.display(), shown.join("\n"));
                }
            }
        }
        let _ = self.command(&["stop"]);
    }
}
