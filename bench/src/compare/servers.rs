//! The servers that Twofold is compared with: started here, ended with the comparison.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::Failure;

/// How long a server has to open its port, or a replica to have its copy.
const START_TIME: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A server on this machine. Dropping it ends it.
#[derive(Debug)]
pub struct Competitor {
    child: Child,
    port: u16,
    /// The version, and how it was started.
    pub told: String,
}

impl Drop for Competitor {
    fn drop(&mut self) {
        // One that has ended by itself needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Competitor {
    /// memcached, with as many threads as this machine has cores.
    ///
    /// # Errors
    /// If it does not start.
    pub fn memcached(port: u16, cores: usize) -> Result<Competitor, Failure> {
        let words = format!("-l 127.0.0.1 -p {port} -U 0 -t {cores} -m 1024 -c 16384 -u nobody");
        Competitor::start("memcached", &words, port)
    }

    /// Redis: without files, or with an append-only file in `dir`; a replica of another one if that is named.
    ///
    /// # Errors
    /// As above.
    pub fn redis(port: u16, dir: Option<&Path>, replica_of: Option<u16>) -> Result<Competitor, Failure> {
        let mut words = format!("--bind 127.0.0.1 --port {port} --save  --daemonize no --loglevel warning");
        match dir {
            None => words += " --appendonly no",
            Some(dir) => {
                words += &format!(" --appendonly yes --appendfsync everysec --dir {}", dir.display())
            }
        }
        if let Some(of) = replica_of {
            words += &format!(" --replicaof 127.0.0.1 {of}");
        }
        Competitor::start("redis-server", &words, port)
    }

    fn start(program: &str, words: &str, port: u16) -> Result<Competitor, Failure> {
        let address = address(port);
        if TcpStream::connect(address).is_ok() {
            return Err(format!("{address} is taken, where {program} is to listen; see --offset").into());
        }
        let cannot = |error| format!("{program}: {error} (is the package installed?)");
        let version = Command::new(program).arg("--version").output().map_err(cannot)?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        // An empty word stands between two blanks.
        let child = Command::new(program)
            .args(words.split(' '))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(cannot)?;
        let told = format!("{version}\n  {program} {}", words.replace("--save  ", "--save '' "));
        let mut server = Competitor { child, port, told };
        let end = Instant::now() + START_TIME;
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("{program} {words}: {status}").into());
            }
            if Instant::now() > end {
                return Err(format!("{program} does not listen on {address}").into());
            }
            sleep(LOOK_AGAIN);
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        address(self.port)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has Redis forget all its keys.
    ///
    /// # Errors
    /// If it does not say that it has.
    pub fn flush(&self) -> Result<(), Failure> {
        match self.ask("FLUSHALL")?.starts_with("+OK") {
            true => Ok(()),
            false => Err("Redis does not forget its keys".into()),
        }
    }

    /// Waits until this Redis has a replica that has all it has.
    ///
    /// # Errors
    /// If that takes too long.
    pub fn await_replica(&self) -> Result<(), Failure> {
        let end = Instant::now() + START_TIME;
        while !self.ask("INFO replication")?.contains("state=online") {
            if Instant::now() > end {
                return Err("the replica of Redis does not come".into());
            }
            sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// The beginning of Redis' answer to a command of one line.
    fn ask(&self, command: &str) -> Result<String, Failure> {
        let ask = || {
            let mut stream = TcpStream::connect(self.address())?;
            stream.set_read_timeout(Some(START_TIME))?;
            stream.write_all(format!("{command}\r\n").as_bytes())?;
            let mut answer = vec![0; 1024];
            let bytes = stream.read(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..bytes]).into_owned())
        };
        ask().map_err(|error: std::io::Error| format!("{}: {error}", self.address()).into())
    }
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
