//! Every use that the workspace's clippy.toml bans, one on a line and marked, and uses that it must let pass.

/// Types are banned wherever they are named.
pub mod types {
    pub type Instant = std::time::Instant; // banned
    pub type SystemTime = std::time::SystemTime; // banned
    pub type Map = std::collections::HashMap<u8, u8, super::Fixed>; // banned
    pub type Set = std::collections::HashSet<u8, super::Fixed>; // banned
    pub type RandomState = std::hash::RandomState; // banned
    pub type HashbrownState = hashbrown::DefaultHashBuilder; // banned
    pub type DefaultHasher = std::hash::DefaultHasher; // banned
    pub type Thread = std::thread::Builder; // banned
    pub type Mutex = std::sync::Mutex<u8>; // banned
    pub type RwLock = std::sync::RwLock<u8>; // banned
    pub type Condvar = std::sync::Condvar; // banned
    pub type Barrier = std::sync::Barrier; // banned
    pub type AtomicBool = std::sync::atomic::AtomicBool; // banned
    pub type AtomicU32 = std::sync::atomic::AtomicU32; // banned
    pub type AtomicI32 = std::sync::atomic::AtomicI32; // banned
    pub type AtomicU64 = std::sync::atomic::AtomicU64; // banned
    pub type AtomicI64 = std::sync::atomic::AtomicI64; // banned
    pub type AtomicUsize = std::sync::atomic::AtomicUsize; // banned
    pub type AtomicIsize = std::sync::atomic::AtomicIsize; // banned
    pub type TcpListener = std::net::TcpListener; // banned
    pub type TcpStream = std::net::TcpStream; // banned
    pub type UdpSocket = std::net::UdpSocket; // banned
    pub type Resolver = dyn std::net::ToSocketAddrs<Iter = std::iter::Empty<std::net::SocketAddr>>; // banned
    pub type UnixDatagram = std::os::unix::net::UnixDatagram; // banned
    pub type UnixListener = std::os::unix::net::UnixListener; // banned
    pub type UnixStream = std::os::unix::net::UnixStream; // banned
    pub type DirBuilder = std::fs::DirBuilder; // banned
    pub type File = std::fs::File; // banned
    pub type OpenOptions = std::fs::OpenOptions; // banned
    pub type Stdin = std::io::Stdin; // banned
    pub type Stdout = std::io::Stdout; // banned
    pub type Stderr = std::io::Stderr; // banned
    pub type Command = std::process::Command; // banned
}

/// Functions are banned where they are called, and where they are only named.
pub fn methods() {
    let _ = std::thread::current; // banned
    let _ = std::thread::park; // banned
    let _ = std::thread::park_timeout; // banned
    std::thread::scope(|_| ()); // banned
    let _ = std::thread::sleep; // banned
    let _ = std::thread::spawn::<fn(), ()>; // banned
    let _ = std::thread::yield_now; // banned
    let _ = std::thread::available_parallelism; // banned
    let _ = std::sync::mpsc::channel::<u8>; // banned
    let _ = std::sync::mpsc::sync_channel::<u8>; // banned

    let _ = std::fs::canonicalize::<&str>; // banned
    let _ = std::fs::copy::<&str, &str>; // banned
    let _ = std::fs::create_dir::<&str>; // banned
    let _ = std::fs::create_dir_all::<&str>; // banned
    let _ = std::fs::exists::<&str>; // banned
    let _ = std::fs::hard_link::<&str, &str>; // banned
    let _ = std::fs::metadata::<&str>; // banned
    let _ = std::fs::read::<&str>; // banned
    let _ = std::fs::read_dir::<&str>; // banned
    let _ = std::fs::read_link::<&str>; // banned
    let _ = std::fs::read_to_string::<&str>; // banned
    let _ = std::fs::remove_dir::<&str>; // banned
    let _ = std::fs::remove_dir_all::<&str>; // banned
    let _ = std::fs::remove_file::<&str>; // banned
    let _ = std::fs::rename::<&str, &str>; // banned
    let _ = std::fs::set_permissions::<&str>; // banned
    let _ = std::fs::symlink_metadata::<&str>; // banned
    let _ = std::fs::write::<&str, &str>; // banned
    let _ = std::path::Path::canonicalize; // banned
    let _ = std::path::Path::exists; // banned
    let _ = std::path::Path::is_dir; // banned
    let _ = std::path::Path::is_file; // banned
    let _ = std::path::Path::is_symlink; // banned
    let _ = std::path::Path::metadata; // banned
    let _ = std::path::Path::read_dir; // banned
    let _ = std::path::Path::read_link; // banned
    let _ = std::path::Path::symlink_metadata; // banned
    let _ = std::path::Path::try_exists; // banned
    let _ = std::io::stdin; // banned
    let _ = std::io::stdout; // banned
    let _ = std::io::stderr; // banned

    let _ = std::env::args; // banned
    let _ = std::env::args_os; // banned
    let _ = std::env::current_dir; // banned
    let _ = std::env::current_exe; // banned
    let _ = std::env::home_dir; // banned
    let _ = std::env::remove_var::<&str>; // banned
    let _ = std::env::set_current_dir::<&str>; // banned
    let _ = std::env::set_var::<&str, &str>; // banned
    let _ = std::env::temp_dir; // banned
    let _ = std::env::var::<&str>; // banned
    let _ = std::env::var_os::<&str>; // banned
    let _ = std::env::vars; // banned
    let _ = std::env::vars_os; // banned
    let _ = std::process::abort; // banned
    let _ = std::process::exit; // banned
    let _ = std::process::id; // banned

    let _ = hashbrown::HashMap::<u8, u8>::new; // banned
    let _ = hashbrown::HashMap::<u8, u8>::with_capacity; // banned
    let _ = hashbrown::HashSet::<u8>::new; // banned
    let _ = hashbrown::HashSet::<u8>::with_capacity; // banned
}

std::thread_local! { static STATE: u8 = const { 0 } } // banned

/// The hasher that the containers below are built with.
pub type Fixed = std::hash::BuildHasherDefault<Fnv>;

/// FNV-1a: always the same.
#[derive(Default)]
pub struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 =
            bytes.iter().fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    }
}

/// What a pure crate may use.
pub fn allowed(address: std::net::SocketAddr, name: &std::path::Path) -> usize {
    let ordered = std::collections::BTreeMap::from([(std::time::Duration::ZERO, address)]);
    let mut hashed = hashbrown::HashMap::<u8, u8, Fixed>::with_hasher(Fixed::default());
    hashed.insert(1, 2);
    ordered.len() + hashed.len() + name.components().count() + STATE.with(|&state| usize::from(state))
}
