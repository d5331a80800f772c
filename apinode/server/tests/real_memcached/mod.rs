//! A real memcached, as long as it lives: the program `memcached`, or that which `TWOFOLD_MEMCACHED` names.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use twofold_ports::ReservedPort;

/// Each test has its own: what others left in its memory must not show.
pub struct RealMemcached {
    process: Child,
    port: ReservedPort,
}

impl RealMemcached {
    /// Starts one without what is not in ours either, and waits until it listens.
    pub fn start() -> RealMemcached {
        let port = ReservedPort::new();
        let program = std::env::var("TWOFOLD_MEMCACHED").unwrap_or_else(|_| "memcached".into());
        let mut command = Command::new(&program);
        command.args(["-l", "127.0.0.1", "-p", &port.number().to_string(), "-U", "0"]);
        command.args(["-W", "-X", "-o", "no_lru_crawler,no_slab_reassign"]);
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            command.args(["-u", "nobody"]);
        }
        let process = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut server = RealMemcached { process, port };
        let begin = Instant::now();
        while TcpStream::connect(server.address()).is_err() {
            let ended = server.process.try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < Duration::from_secs(60), "{program}: {ended:?}");
            thread::sleep(Duration::from_millis(10));
        }
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }
}

impl Drop for RealMemcached {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
