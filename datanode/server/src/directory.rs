//! The node's directory.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

use crate::Failure;

/// The directory, this process's alone for as long as this lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used: the lock goes with the file")] File);

/// Makes the directory if it is missing, and locks it by a file of this name.
///
/// # Errors
/// If it cannot be made or written to, or another process has it.
pub fn lock(directory: &Path, name: &str) -> Result<Lock, Failure> {
    let path = directory.join(name);
    let named = |error| Failure::Setting(format!("cannot write to --dir {}: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(named)?;
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(named)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(Failure::Setting(format!(
            "another data node runs in --dir {} (it has locked {}); give each a directory of its own",
            directory.display(),
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(named(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(result: Result<Lock, Failure>) -> String {
        match result {
            Err(Failure::Setting(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directory_is_made_and_has_one_owner() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/b");
        let first = lock(&directory, "lock").unwrap();
        assert!(text(lock(&directory, "lock")).contains("another data node runs"));
        drop(first);
        lock(&directory, "lock").unwrap();
    }

    #[test]
    fn what_is_no_directory_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, "x").unwrap();
        assert!(text(lock(&path, "lock")).starts_with(&format!("cannot write to --dir {}", path.display())));
    }
}
