//! Load that notes what was acknowledged.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{Cluster, binary, eventually, run};

/// How much load, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How long it runs, in seconds. The faults under it may take longer; it then simply ends before them.
    pub seconds: u32,
    /// How many keys are written and read, one call at a time each.
    pub keys: u64,
    /// How long a key rests after each call, in seconds.
    pub pause: f64,
}

impl Default for Load {
    fn default() -> Load {
        Load { seconds: 8, keys: 200, pause: 0.005 }
    }
}

/// `twofold-bench journal`, while it runs.
pub struct Journal {
    child: Child,
    load: Load,
    name: String,
    file: PathBuf,
    json: PathBuf,
}

impl Journal {
    /// Starts it, and waits until writes are acknowledged.
    ///
    /// # Panics
    /// If it does not start, or nothing is acknowledged.
    pub fn start(cluster: &Cluster, name: &str) -> Journal {
        Journal::with_load(cluster, name, Load::default())
    }

    /// Starts it with another load.
    ///
    /// # Panics
    /// If it does not start, or nothing is acknowledged.
    pub fn with_load(cluster: &Cluster, name: &str, load: Load) -> Journal {
        let (file, json) = (cluster.file(name), cluster.file(&format!("{name}.json")));
        let child = Command::new(binary("twofold-bench"))
            .args(["journal", "--table", name, "--seconds", &load.seconds.to_string()])
            .args(["--keys", &load.keys.to_string(), "--pause", &load.pause.to_string()])
            .args(["--mgm", &cluster.management()])
            .arg("--file")
            .arg(&file)
            .arg("--json")
            .arg(&json)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the journal starts");
        let mut journal = Journal { child, load, name: name.into(), file, json };
        journal.wait_for_more(0);
        journal
    }

    /// How many lines it has written.
    pub fn lines(&self) -> usize {
        fs::read(&self.file).map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count())
    }

    /// Whether it has run for its time.
    ///
    /// # Panics
    /// If it cannot be asked.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits until it has written more lines than this, as many more as it has keys; or until it has ended.
    pub fn wait_for_more(&mut self, lines: usize) {
        let wanted = lines + self.load.keys as usize;
        eventually(|| {
            let has_ended = self.has_ended();
            let written = self.lines();
            (!has_ended && written < wanted).then(|| format!("{} has {written} lines of {wanted}", self.name))
        });
    }

    /// Kills it, and forgets what was acknowledged within this time before: the cluster may.
    ///
    /// # Panics
    /// If the journal is none.
    pub fn cut(mut self, window: Duration) -> Journaled {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        let before = (since - window).as_micros() as u64;
        self.child.kill().and_then(|()| self.child.wait()).expect("a child can be killed");
        let text = fs::read_to_string(&self.file).expect("it was just written");
        let (title, lines) = text.split_once('\n').expect("it has a title");
        let is_old = |line: &&str| {
            let micros = line.rsplit(' ').next().and_then(|micros| micros.parse::<u64>().ok());
            line.split(' ').count() == 4 && micros.is_some_and(|micros| micros < before)
        };
        let old: Vec<&str> = lines.lines().filter(is_old).collect();
        assert!(old.len() > self.load.keys as usize, "{} lines of {}", old.len(), lines.lines().count());
        let file = self.file.with_extension("cut");
        fs::write(&file, format!("{title}\n{}\n", old.join("\n"))).expect("there is room for it");
        Journaled { file, results: Value::Null }
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
        assert_eq!(results["read_back"], self.load.keys, "{results:#}");
        let journaled = Journaled { file: self.file, results };
        journaled.verify(cluster);
        journaled
    }
}

/// What a journal has written.
pub struct Journaled {
    file: PathBuf,
    results: Value,
}

/// A time between two acknowledged writes of one key, both in microseconds since 1970.
pub struct Gap {
    /// The first of them.
    pub begin: u64,
    /// The second.
    pub end: u64,
}

impl Gap {
    /// How long it is, in milliseconds.
    pub fn millis(&self) -> f64 {
        (self.end - self.begin) as f64 / 1000.0
    }
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

    /// How many calls failed.
    pub fn failed(&self) -> u64 {
        let of = |kind: &str| self.results[kind]["failed"].as_object().into_iter().flatten();
        of("writes").chain(of("reads")).filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// The times between the acknowledged writes of each key.
    ///
    /// # Panics
    /// If the journal is none.
    pub fn gaps(&self) -> Vec<Gap> {
        let text = fs::read_to_string(&self.file).expect("it was just written");
        let mut last = BTreeMap::new();
        let mut gaps = Vec::new();
        for line in text.lines().filter(|line| line.starts_with("acknowledged ")) {
            let words: Vec<&str> = line.split(' ').collect();
            let [_, key, _, micros] = words[..] else { panic!("{line}") };
            let end = micros.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            gaps.extend(last.insert(key, end).map(|begin| Gap { begin, end }));
        }
        gaps
    }
}
