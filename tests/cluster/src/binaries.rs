//! The programs under test.

use std::{
    env,
    path::PathBuf,
    process::{Command, Output},
    sync::OnceLock,
};

/// Where the binaries are: beside this program, or beside the folder `deps` that this test is in.
fn folder() -> PathBuf {
    let own = env::current_exe().expect("a process knows its program");
    let folder = own.parent().expect("a program is in a folder");
    folder
        .ancestors()
        .find(|folder| !folder.ends_with("deps"))
        .expect("tests are in TARGET/PROFILE/deps")
        .into()
}

/// The path of a program; all are built once.
///
/// # Panics
/// If they cannot be built.
pub fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build).join(name)
}

fn build() -> PathBuf {
    let folder = folder();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => panic!("{} names no profile", folder.display()),
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    cargo
        .args(["build", "--locked", "--bins", "--profile", profile, "--target-dir"])
        .arg(folder.parent().unwrap_or(&folder));
    let status = cargo.status().expect("cargo runs this test, so it is there");
    assert!(status.success(), "the programs under test cannot be built");
    folder
}

/// Runs a program to its end.
///
/// # Panics
/// If it cannot be started.
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
