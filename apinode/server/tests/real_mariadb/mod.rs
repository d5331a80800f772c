//! A real MariaDB server, as long as it lives: the programs `mariadbd` and `mariadb-install-db`.

use std::{
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use twofold_ports::ReservedPort;

/// Held by who fills a directory.
static INSTALLING: Mutex<()> = Mutex::new(());

/// With an empty directory of its own.
pub struct RealMariadb {
    process: Child,
    port: ReservedPort,
    directory: PathBuf,
}

impl RealMariadb {
    /// Starts one that is as strict as ours, compares text as ours does, and lets root in; waits until it listens.
    pub fn start() -> RealMariadb {
        let port = ReservedPort::new();
        let directory =
            std::env::temp_dir().join(format!("twofold-mariadb-{}-{}", std::process::id(), port.number()));
        let data = format!("--datadir={}", directory.display());
        std::fs::create_dir(&directory).expect("a directory for mariadbd");
        // Both programs that it consists of keep temporary files; two that begin at once have been seen to fail.
        let temporary = format!("--tmpdir={}", directory.display());
        let mut install = Command::new("mariadb-install-db");
        install.args([
            "--no-defaults",
            "--user=root",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ]);
        let one_at_a_time = INSTALLING.lock();
        let installed = install.args([&data, &temporary]).output().expect("mariadb-install-db");
        drop(one_at_a_time);
        let said = [&installed.stdout[..], &installed.stderr[..]].concat();
        assert!(installed.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&said));
        let mut command = Command::new("mariadbd");
        command.args([
            "--no-defaults",
            "--user=root",
            "--bind-address=127.0.0.1",
            "--skip-grant-tables",
            &data,
        ]);
        command.args([
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_nopad_bin",
            "--default-time-zone=+00:00",
        ]);
        let modes =
            "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO";
        // Unlike MySQL it cuts off fractions of seconds unless it is told not to.
        command.arg(format!("--sql-mode={modes},TIME_ROUND_FRACTIONAL"));
        command.args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M"]);
        command.arg(format!("--port={}", port.number()));
        command.arg(format!("--socket={}", directory.join("socket").display()));
        let process = command.stderr(Stdio::null()).spawn().expect("mariadbd");
        let mut server = RealMariadb { process, port, directory };
        let begin = Instant::now();
        while TcpStream::connect(server.address()).is_err() {
            let ended = server.process.try_wait().unwrap();
            assert!(ended.is_none() && begin.elapsed() < Duration::from_secs(60), "mariadbd: {ended:?}");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }
}

impl Drop for RealMariadb {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
