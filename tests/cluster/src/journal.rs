//! Load that notes what was acknowledged.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{Cluster, binary, eventually, run};

/// How long the load runs, in seconds. The faults under it may take longer; it then simply ends before them.
const SECONDS: &str = "8";
const KEYS: &str = "200";

/// `twofold-bench journal`, while it runs.
pub struct Journal {
    child: Child,
    name: &'static str,
    file: PathBuf,
    json: PathBuf,
}

impl Journal {
    /// Starts it, and waits until writes are acknowledged.
    ///
    /// # Panics
    /// If it does not start, or nothing is acknowledged.
    pub fn start(cluster: &Cluster, name: &'static str) -> Journal {
        let (file, json) = (cluster.file(name), cluster.file(&format!("{name}.json")));
        let child = Command::new(binary("twofold-bench"))
            .args(["journal", "--seconds", SECONDS, "--keys", KEYS, "--table", name])
            .args(["--mgm", &cluster.management()])
            .arg("--file")
            .arg(&file)
            .arg("--json")
            .arg(&json)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the journal starts");
        let mut journal = Journal { child, name, file, json };
        journal.wait_for_more(0);
        journal
    }

    /// How many lines it has written.
    pub fn lines(&self) -> usize {
        fs::read(&self.file).map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count())
    }

    /// Waits until it has written more lines than this, as many more as it has keys; or until it has ended.
    pub fn wait_for_more(&mut self, lines: usize) {
        let wanted = lines + KEYS.parse::<usize>().expect("a number");
        eventually(|| {
            let has_ended = self.child.try_wait().expect("a child can be waited for").is_some();
            let written = self.lines();
            (!has_ended && written < wanted).then(|| format!("{} has {written} lines of {wanted}", self.name))
        });
    }

    /// Waits for its end: every acknowledged write was there, and nothing else; every key was served again.
    ///
    /// # Panics
    /// If not.
    pub fn finish(self, cluster: &Cluster) -> Journaled {
        let output = self.child.wait_with_output().expect("a child can be waited for");
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        eprintln!("{}: {said}", self.name);
        assert!(output.status.success(), "{}: {}", self.name, output.status);
        let text = fs::read_to_string(&self.json).expect("it wrote its results");
        let results: Value = serde_json::from_str(&text).expect("results are JSON");
        assert!(results["writes"]["done"].as_u64() > Some(0), "{results:#}");
        assert_eq!(results["read_back"], KEYS.parse::<u64>().expect("a number"), "{results:#}");
        Journaled { file: self.file }.verified(cluster)
    }
}

/// What a journal has written.
pub struct Journaled {
    file: PathBuf,
}

impl Journaled {
    /// Looks for every acknowledged write.
    ///
    /// # Panics
    /// If one is not there.
    pub fn verify(&self, cluster: &Cluster) {
        let output = run(Command::new(binary("twofold-bench"))
            .args(["verify", "--mgm", &cluster.management()])
            .arg("--file")
            .arg(&self.file));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }

    fn verified(self, cluster: &Cluster) -> Journaled {
        self.verify(cluster);
        self
    }
}
