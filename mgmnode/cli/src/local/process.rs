//! Processes of this machine, told apart from later ones that got the same number.

use std::{fs, io, path::Path};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

/// One process: its number, and when it started in clock ticks since the boot of the system (proc_pid_stat(5)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    started: u64,
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// It runs.
    Runs,
    /// It has been sent SIGSTOP.
    Paused,
    /// It has ended, even if nobody has waited for it yet.
    Gone,
}

/// What `/proc/PID/stat` says.
struct Stat {
    name: String,
    state: char,
    parent: u32,
    threads: u32,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name is in parentheses and may hold spaces and parentheses itself.
fn parse(text: &str) -> Option<Stat> {
    let (before, after) = text.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    // From the third field on.
    let fields: Vec<&str> = after.split_whitespace().collect();
    Some(Stat {
        name: name.into(),
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        threads: fields.get(17)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// The name of a process, as the system has it.
pub fn name(pid: u32) -> Option<String> {
    stat(pid).map(|stat| stat.name)
}

/// The numbers of all processes.
pub fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Names this boot of the system: what was noted before it means nothing now.
pub fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().into()
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Process> {
        stat(pid).map(|stat| Process { pid, started: stat.started })
    }

    /// What stands behind an option in its command line.
    pub fn option(&self, name: &str) -> Option<String> {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", self.pid)).ok()?;
        let mut words = line.split('\0');
        words.find(|word| *word == name)?;
        words.next().map(Into::into)
    }

    /// What it does.
    pub fn activity(&self) -> Activity {
        match stat(self.pid) {
            Some(stat) if stat.started != self.started => Activity::Gone,
            // While another thread of it waits for a disk, say, its files are open, and its ports taken.
            Some(stat) if matches!(stat.state, 'Z' | 'X') && stat.threads <= 1 => Activity::Gone,
            Some(stat) if matches!(stat.state, 'T' | 't') => Activity::Paused,
            Some(_) => Activity::Runs,
            None => Activity::Gone,
        }
    }

    /// Its children that run.
    pub fn children(&self) -> Vec<Process> {
        let child = |pid| {
            let stat = stat(pid)?;
            (stat.parent == self.pid).then_some(Process { pid, started: stat.started })
        };
        let is_alive = |process: &Process| process.activity() != Activity::Gone;
        all().filter_map(child).filter(is_alive).collect()
    }

    /// Sends it a signal; says whether it was still there.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
        // Once held the number cannot be another's, so it is checked after that.
        let held = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(held) => held,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if self.activity() == Activity::Gone {
            return Ok(false);
        }
        match pidfd_send_signal(held, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// As it is noted in a file.
    pub fn to_json(self) -> Value {
        json!({ "pid": self.pid, "started": self.started })
    }

    /// As it was noted.
    pub fn from_json(value: &Value) -> Option<Process> {
        let pid = u32::try_from(value.get("pid")?.as_u64()?).ok()?;
        Some(Process { pid, started: value.get("started")?.as_u64()? })
    }
}

/// The process that holds this socket open, if it can be seen.
pub fn holder(inode: u64) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    let is_it = |path: &Path| fs::read_link(path).is_ok_and(|link| link.as_os_str() == wanted.as_str());
    all().find(|pid| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.map(|entry| entry.path()).any(|path| is_it(&path))
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> (Child, Process) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        (child, process)
    }

    #[test]
    fn names_may_hold_anything() {
        let text = "17 (a) b (c)) S 4 17 17 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 9876 1 2";
        let stat = parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.state, stat.parent), ("a) b (c)", 'S', 4));
        assert_eq!((stat.threads, stat.started), (1, 9876));
        assert!(parse("17 (x) S 4").is_none());
        assert!(parse("").is_none());
    }

    #[test]
    fn a_process_is_signalled_and_its_end_is_seen_before_anyone_waits_for_it() {
        let (mut child, process) = sleeper();
        assert_ne!(process.activity(), Activity::Gone);
        assert!(process.signal(Signal::STOP).unwrap());
        while process.activity() != Activity::Paused {}
        assert!(process.signal(Signal::KILL).unwrap());
        while process.activity() != Activity::Gone {}
        assert!(!process.signal(Signal::KILL).unwrap());
        child.wait().unwrap();
        assert!(!process.signal(Signal::KILL).unwrap());
    }

    #[test]
    fn it_is_there_while_one_of_its_threads_is() {
        let program = "import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).pthread_exit(None)";
        let mut child =
            Command::new("python3").args(["-c", program]).spawn().expect("the system has python3");
        let process = Process::of(child.id()).unwrap();
        while stat(child.id()).unwrap().state != 'Z' {}
        assert_eq!(process.activity(), Activity::Runs);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process.activity(), Activity::Gone);
    }

    #[test]
    fn another_one_of_the_same_number_is_left_alone() {
        let (mut child, process) = sleeper();
        let former = Process { started: process.started - 1, ..process };
        assert_eq!(former.activity(), Activity::Gone);
        assert!(!former.signal(Signal::KILL).unwrap());
        assert_ne!(process.activity(), Activity::Gone);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn children_are_found() {
        let (mut child, process) = sleeper();
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.children().contains(&process));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!own.children().contains(&process));
    }

    #[test]
    fn what_was_noted_is_read() {
        let own = Process::of(std::process::id()).unwrap();
        assert_eq!(Process::from_json(&own.to_json()), Some(own));
        assert_eq!(Process::from_json(&json!({ "pid": -1, "started": 3 })), None);
        assert_eq!(Process::from_json(&json!({ "pid": 1 })), None);
    }
}
