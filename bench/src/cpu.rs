//! CPU time of processes, by `/proc` (proc_pid_stat(5), proc_pid_net(5)).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::{Duration, Instant},
};

use twofold_proto::config::Address;

/// A process that is watched.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name and number, for the report.
    pub name: String,
}

impl Process {
    /// The process of this number, if it can be seen.
    fn of(pid: u32) -> Option<Process> {
        let stat = Stat::of(pid)?;
        Some(Process { pid, name: format!("{}[{pid}]", stat.name) })
    }
}

/// This process, those that put load on with it, and the servers that they put it on.
#[derive(Clone, Debug)]
pub struct Processes {
    /// The others that put load on.
    pub clients: Vec<u32>,
    /// The servers.
    pub servers: Vec<Process>,
}

impl Processes {
    /// The servers of these numbers; without any, those on this machine that listen at these ports.
    ///
    /// # Errors
    /// If there is no process of a number.
    pub fn find<'a>(pids: &[u32], addresses: impl Iterator<Item = &'a Address>) -> Result<Processes, String> {
        let servers = if pids.is_empty() {
            listening_at(&addresses.map(|address| address.port).collect())
        } else {
            let find =
                |&pid| Process::of(pid).ok_or_else(|| format!("--server-pids: there is no process {pid}"));
            pids.iter().map(find).collect::<Result<_, _>>()?
        };
        Ok(Processes { clients: Vec::new(), servers })
    }

    /// What all have used by now.
    pub fn sample(&self) -> Sample {
        let servers = self.servers.iter().map(|process| Stat::of(process.pid).map(|stat| stat.cpu));
        let clients = [std::process::id()].into_iter().chain(self.clients.iter().copied());
        let own = clients.filter_map(Stat::of).map(|stat| stat.cpu).sum();
        Sample { at: Instant::now(), own, servers: servers.collect() }
    }

    /// Waits until the servers have nothing to do, so that a measurement is not about what was before it: until they have
    /// used less than a tenth of a core, 10 s at most.
    pub fn rest(&self) {
        for _ in 0..50 {
            let before = self.sample();
            thread::sleep(Duration::from_millis(200));
            let used = self.between(&before, &self.sample()).servers.values().sum::<f64>();
            if used < 0.1 * self.servers.len() as f64 {
                return;
            }
        }
    }

    /// What was used between two samples, per second. Servers that ended meanwhile are left out.
    pub fn between(&self, before: &Sample, after: &Sample) -> Usage {
        let seconds = after.at.duration_since(before.at).as_secs_f64().max(1e-9);
        let rate = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() / seconds;
        let mut servers = BTreeMap::new();
        for ((process, before), after) in self.servers.iter().zip(&before.servers).zip(&after.servers) {
            if let (Some(before), Some(after)) = (before, after) {
                servers.insert(process.name.clone(), rate(*before, *after));
            }
        }
        Usage { own: rate(before.own, after.own), servers }
    }
}

/// What a process has resident; 0 if it cannot be seen.
pub fn resident_bytes(pid: u32) -> u64 {
    // The second figure is in pages (proc_pid_statm(5)).
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// CPU time used at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    at: Instant,
    own: Duration,
    servers: Vec<Option<Duration>>,
}

/// CPU time used, in seconds per second.
#[derive(Clone, PartialEq, Debug)]
pub struct Usage {
    /// By this process, and those that put load on with it.
    pub own: f64,
    /// By each server.
    pub servers: BTreeMap<String, f64>,
}

/// What `/proc/PID/stat` says.
struct Stat {
    name: String,
    cpu: Duration,
}

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Stat::parse(&text, rustix::param::clock_ticks_per_second())
    }

    /// The name is in parentheses, and may hold spaces and parentheses itself.
    fn parse(text: &str, ticks_per_second: u64) -> Option<Stat> {
        let (before, after) = text.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        // From the third field on; the user time is the 14th, the system time the 15th.
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ticks = ticks(14)? + ticks(15)?;
        Some(Stat {
            name: name.into(),
            cpu: Duration::from_secs(ticks) / u32::try_from(ticks_per_second).ok()?,
        })
    }
}

/// The processes of this machine that listen at one of these TCP ports, as far as they can be seen.
fn listening_at(ports: &BTreeSet<u16>) -> Vec<Process> {
    let mut sockets = BTreeSet::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = text.lines().filter_map(listening_socket).filter(|(port, _)| ports.contains(port));
        sockets.extend(found.map(|(_, inode)| format!("socket:[{inode}]")));
    }
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let open = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let mut links = open.filter_map(|open| fs::read_link(open.path()).ok());
        if links.any(|link| link.to_str().is_some_and(|link| sockets.contains(link))) {
            found.extend(Process::of(pid));
        }
    }
    found.into_iter().collect()
}

/// Port and inode of a line of `/proc/net/tcp`, if its socket listens.
fn listening_socket(line: &str) -> Option<(u16, u64)> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (_, port) = fields.get(1)?.rsplit_once(':')?;
    Some((u16::from_str_radix(port, 16).ok()?, fields.get(9)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let text = "17 (a) b (c)) S 4 17 17 0 -1 0 1 2 3 4 250 150 7 8 20 0 1 0 9876 1 2";
        let stat = Stat::parse(text, 100).unwrap();
        assert_eq!((stat.name.as_str(), stat.cpu), ("a) b (c)", Duration::from_secs(4)));
        assert!(Stat::parse("17 (x) S 4", 100).is_none());
        assert!(Stat::parse("", 100).is_none());
    }

    #[test]
    fn sockets_that_listen_are_told_from_others() {
        let listens = " 2: 0100007F:2BCB 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 1 0 100 0 0 10 0";
        assert_eq!(listening_socket(listens), Some((11211, 4242)));
        assert_eq!(listening_socket(&listens.replace(" 0A ", " 01 ")), None);
        assert_eq!(listening_socket("  sl  local_address rem_address   st tx_queue"), None);
    }

    #[test]
    fn who_listens_at_a_port_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = Address { host: "127.0.0.1".into(), port };
        let found = Processes::find(&[], std::iter::once(&address)).unwrap();
        assert_eq!(found.servers.iter().map(|process| process.pid).collect::<Vec<_>>(), [std::process::id()]);
        assert!(Processes::find(&[u32::MAX], std::iter::empty()).is_err());
    }

    #[test]
    fn usage_is_per_second_and_leaves_out_who_is_gone() {
        let at = Instant::now();
        let names = ["a", "b"].map(|name| Process { pid: 1, name: name.into() });
        let processes = Processes { clients: Vec::new(), servers: names.to_vec() };
        let second = Duration::from_secs(1);
        let before = Sample { at, own: second, servers: vec![Some(second), Some(second)] };
        let after = Sample { at: at + 4 * second, own: 3 * second, servers: vec![Some(2 * second), None] };
        let usage = processes.between(&before, &after);
        assert_eq!(usage, Usage { own: 0.5, servers: BTreeMap::from([("a".into(), 0.25)]) });
    }
}
