//! A cluster's directory: its config, what runs, and a log for each node.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use twofold_mgmnode::{config, status};
use twofold_proto::config::ClusterConfig;

use crate::client::Failure;

use super::process::{self, Activity, Process};

const CONFIG: &str = "twofold.toml";
const PROCESSES: &str = "processes.json";
const LOCK: &str = "lock";
/// How long a command waits for another to end: most take less, those that wait for nodes take longer.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at the lock.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// The directory of a cluster. Only one command at a time changes it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// It was made just now.
    is_new: bool,
    /// What was started, by the node's name: for a data node its angel.
    started: BTreeMap<String, Process>,
    _lock: Option<File>,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Failure {
    move |error| Failure(format!("{}: {error}", path.display()))
}

impl Directory {
    /// Whether there is a cluster here, running or not.
    pub fn is_there(path: &Path) -> bool {
        path.join(CONFIG).exists()
    }

    /// Opens a directory, or makes it.
    ///
    /// # Errors
    /// If it cannot be written, or another command works on it for long.
    pub fn make(path: &Path) -> Result<Directory, Failure> {
        let is_new = !path.exists();
        fs::create_dir_all(path).map_err(failed(path))?;
        Ok(Directory { is_new, ..Directory::alone(path)? })
    }

    /// Opens the directory of a cluster that has been started once.
    ///
    /// # Errors
    /// If there is no cluster, or another command works on it for long.
    pub fn open(path: &Path) -> Result<Directory, Failure> {
        Directory::expect(path)?;
        let directory = Directory::alone(path)?;
        // Who had the lock may have wiped it.
        Directory::expect(path)?;
        Ok(directory)
    }

    /// The same for one who changes nothing, whatever others do.
    ///
    /// # Errors
    /// If there is no cluster.
    pub fn look(path: &Path) -> Result<Directory, Failure> {
        Directory::expect(path)?;
        let path = path.canonicalize().map_err(failed(path))?;
        let started = read_processes(&path.join(PROCESSES))?;
        Ok(Directory { path, is_new: false, started, _lock: None })
    }

    fn expect(path: &Path) -> Result<(), Failure> {
        let missing = || format!("there is no cluster in {}; `cluster start` makes one", path.display());
        if Directory::is_there(path) { Ok(()) } else { Err(Failure(missing())) }
    }

    /// Waits until no other command is at work, and then sees what it has done.
    fn alone(path: &Path) -> Result<Directory, Failure> {
        // Nodes are given it, whatever their own working directory.
        let path = path.canonicalize().map_err(failed(path))?;
        let lock = lock(&path)?;
        let started = read_processes(&path.join(PROCESSES))?;
        Ok(Directory { path, is_new: false, started, _lock: Some(lock) })
    }

    /// Leaves the place as it was before [`Directory::make`], if no cluster has been made there.
    pub fn abandon(self) {
        if !self.config_path().exists() {
            // What cannot be removed does no harm.
            let _ = fs::remove_file(self.path.join(LOCK));
            if self.is_new {
                let _ = fs::remove_dir(&self.path);
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of its config.
    pub fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// Its config.
    ///
    /// # Errors
    /// If there is none, or it has faults.
    pub fn config(&self) -> Result<ClusterConfig, Failure> {
        let path = self.config_path();
        let text = fs::read_to_string(&path).map_err(failed(&path))?;
        config::read(&path.display().to_string(), &text).map_err(|error| Failure(error.to_string()))
    }

    /// Its config; none if there is no cluster yet.
    ///
    /// # Errors
    /// If it has faults.
    pub fn existing_config(&self) -> Result<Option<ClusterConfig>, Failure> {
        match self.config_path().exists() {
            true => self.config().map(Some),
            false => Ok(None),
        }
    }

    /// Gives a directory without a cluster its config.
    ///
    /// # Errors
    /// If it makes no cluster, or cannot be written.
    pub fn create(&self, text: &str) -> Result<ClusterConfig, Failure> {
        let config = config::read(CONFIG, text).map_err(|error| Failure(error.to_string()))?;
        let path = self.config_path();
        fs::write(&path, text).map_err(failed(&path))?;
        Ok(config)
    }

    /// Where a node keeps its files.
    pub fn of_node(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where a node's output goes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.log"))
    }

    /// Removes what a node keeps.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn empty_node(&self, name: &str) -> Result<(), Failure> {
        let path = self.of_node(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&path)(error)),
            _ => Ok(()),
        }
    }

    /// The process that was started for a node; none if it has ended.
    pub fn process(&self, name: &str) -> Option<Process> {
        let process = *self.started.get(name)?;
        (process.activity() != Activity::Gone).then_some(process)
    }

    /// Those that have a process.
    pub fn running(&self) -> Vec<(String, Process)> {
        let process = |name: &String| Some((name.clone(), self.process(name)?));
        self.started.keys().filter_map(process).collect()
    }

    /// Notes what was started for a node.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note(&mut self, name: &str, process: Process) -> Result<(), Failure> {
        self.started.insert(name.into(), process);
        let nodes: Map<String, Value> =
            self.started.iter().map(|(name, process)| (name.clone(), process.to_json())).collect();
        let text = format!("{:#}\n", json!({ "boot": process::boot(), "nodes": nodes }));
        // Whole or not at all.
        let (path, new) = (self.path.join(PROCESSES), self.path.join("processes.json.new"));
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(failed(&path))
    }

    /// Removes all that `cluster` and the nodes of this config have made.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn wipe(self, config: &ClusterConfig) -> Result<(), Failure> {
        for (_, _, name) in status::nodes(config) {
            self.empty_node(&name)?;
            remove(&self.log(&name))?;
        }
        // The config last: what is left can be wiped as long as it is there.
        for file in [PROCESSES, LOCK, CONFIG] {
            remove(&self.path.join(file))?;
        }
        // Other files are their owner's.
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => Err(failed(&self.path)(error)),
            _ => Ok(()),
        }
    }
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

fn lock(directory: &Path) -> Result<File, Failure> {
    let path = directory.join(LOCK);
    let file = File::create(&path).map_err(failed(&path))?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => sleep(LOCK_AGAIN),
            Err(TryLockError::WouldBlock) => {
                let directory = directory.display();
                return Err(Failure(format!(
                    "another `cluster` command is at work on {directory}; try again"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
        }
    }
}

/// What was noted during this boot of the system.
fn read_processes(path: &Path) -> Result<BTreeMap<String, Process>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(failed(path)(error)),
    };
    let damaged =
        || Failure(format!("{} is damaged; end the processes of this cluster and remove it", path.display()));
    let noted: Value = serde_json::from_str(&text).map_err(|_| damaged())?;
    let nodes = noted.get("nodes").and_then(Value::as_object).ok_or_else(damaged)?;
    if noted.get("boot") != Some(&json!(process::boot())) {
        return Ok(BTreeMap::new());
    }
    let process = |(name, value): (&String, &Value)| Some((name.clone(), Process::from_json(value)?));
    nodes.iter().map(process).collect::<Option<_>>().ok_or_else(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = "[[data]]\nid = 11\nhost = \"127.0.0.1\"\n[[data]]\nid = 12\nhost = \"127.0.0.1\"\n";

    #[test]
    fn what_is_noted_is_there_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let own = Process::of(std::process::id()).unwrap();
        let mut directory = Directory::make(&path).unwrap();
        assert!(directory.existing_config().unwrap().is_none());
        directory.create(TOML).unwrap();
        directory.note("data1", own).unwrap();
        assert_eq!(directory.running(), [("data1".to_string(), own)]);
        let refused = Directory::open(&path).unwrap_err();
        assert!(refused.0.contains("another `cluster` command"), "{refused:?}");
        assert_eq!(Directory::look(&path).unwrap().process("data1"), Some(own));
        // One that is done soon is waited for.
        let waiting = {
            let path = path.clone();
            std::thread::spawn(move || Directory::open(&path))
        };
        directory.note("data2", own).unwrap();
        directory.started.clear();
        directory.note("data1", own).unwrap();
        drop(directory);
        let directory = waiting.join().unwrap().unwrap();
        assert_eq!((directory.process("data1"), directory.process("data2")), (Some(own), None));
        assert_eq!(directory.config().unwrap().data_nodes.len(), 2);
    }

    #[test]
    fn what_was_noted_before_the_system_was_booted_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let own = Process::of(std::process::id()).unwrap();
        let path = folder.path().join(PROCESSES);
        fs::write(&path, json!({ "boot": "another", "nodes": { "data1": own.to_json() } }).to_string())
            .unwrap();
        assert_eq!(read_processes(&path).unwrap(), BTreeMap::new());
        for damaged in ["", "[]", "{\"boot\": 1}", "{\"nodes\": 1}"] {
            fs::write(&path, damaged).unwrap();
            let refused = read_processes(&path).unwrap_err();
            assert!(refused.0.contains("processes.json is damaged"), "{refused:?}");
        }
    }

    #[test]
    fn wiping_removes_what_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let directory = Directory::make(&path).unwrap();
        let config = directory.create(TOML).unwrap();
        fs::create_dir_all(directory.of_node("data1").join("deep")).unwrap();
        fs::write(directory.log("data1"), "x").unwrap();
        fs::write(path.join("notes.txt"), "mine").unwrap();
        directory.wipe(&config).unwrap();
        let left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
        fs::remove_file(path.join("notes.txt")).unwrap();
        let directory = Directory::make(&path).unwrap();
        let config = directory.create(TOML).unwrap();
        directory.wipe(&config).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_start_that_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        Directory::make(&path).unwrap().abandon();
        assert!(!path.exists());
        fs::create_dir(&path).unwrap();
        Directory::make(&path).unwrap().abandon();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "a directory that was there stays, as it was");
        let directory = Directory::make(&path).unwrap();
        directory.create(TOML).unwrap();
        directory.abandon();
        assert!(Directory::is_there(&path));
    }

    #[test]
    fn a_place_that_is_no_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = Directory::make(&file.join("run")).unwrap_err();
        assert!(refused.0.starts_with(&format!("{}/run: ", file.display())), "{refused:?}");
        let refused = Directory::open(folder.path()).unwrap_err();
        assert!(refused.0.starts_with("there is no cluster in "), "{refused:?}");
    }

    #[test]
    fn a_config_with_faults_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::make(folder.path()).unwrap();
        let refused = directory.create("[cluster]\nreplicas = 9\n").unwrap_err();
        assert!(refused.0.starts_with("twofold.toml:"), "{refused:?}");
        assert!(!directory.config_path().exists());
    }
}
