//! The register on disk: a sled database under the node's directory, in which each write is all or nothing.
//!
//! Two things of sled 0.34 need care. Its `flush` hands the bytes to the system and no further, so after it the files are
//! synced here: `db`, and what lies in `blobs`, where large values go. And a snapshot of its own that was not finished
//! when the process ended (`*.generating`) is left behind, and taken for a good one: it is deleted before opening.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use twofold_mgmnode::log::{LogWrite, Stored};

const HARD_STATE: &[u8] = b"hard state";
const SNAPSHOT: &[u8] = b"snapshot";
/// Term and index, big endian.
const JOIN_POINT: &[u8] = b"join point";
/// Big endian.
const LOG_ID: &[u8] = b"log id";
/// Followed by the index, big endian.
const ENTRY: &[u8] = b"entry ";
/// Bytes that sled keeps in memory; all is read once, at the start.
const CACHE_BYTES: u64 = 1 << 20;

/// Makes what was written to a file survive a loss of power.
pub type Sync = Box<dyn FnMut(&File) -> io::Result<()> + Send>;

/// The register on disk.
pub struct Store {
    directory: PathBuf,
    sled: sled::Db,
    database: File,
    /// Files of large values that are safe already.
    synced_blobs: BTreeSet<OsString>,
    sync: Sync,
}

fn entry_key(index: u64) -> Vec<u8> {
    [ENTRY, &index.to_be_bytes()].concat()
}

fn named(path: &Path) -> impl Fn(io::Error) -> io::Error + use<> {
    let name = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{name}: {error}"))
}

/// Deletes sled's unfinished snapshots.
fn delete_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

impl Store {
    /// Opens what is stored under a directory, which is made if need be, and reads it.
    ///
    /// # Errors
    /// If the directory cannot be used, another process has it, or what is there is damaged.
    pub fn open(directory: &Path) -> io::Result<(Store, Stored)> {
        Store::open_with(directory, Box::new(File::sync_data))
    }

    /// The same, with another way to sync a file.
    pub fn open_with(directory: &Path, mut sync: Sync) -> io::Result<(Store, Stored)> {
        let directory = directory.join("register");
        let with_name = named(&directory);
        fs::create_dir_all(&directory).map_err(&with_name)?;
        delete_unfinished(&directory).map_err(&with_name)?;
        let sled = sled::Config::new()
            .path(&directory)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()
            .map_err(|error| with_name(io::Error::from(error)))?;
        let database = File::open(directory.join("db")).map_err(&with_name)?;
        // The files that were made now have names that last.
        for made in directory.ancestors().take(2) {
            sync(&File::open(made)?)?;
        }
        let mut store = Store { directory, sled, database, synced_blobs: BTreeSet::new(), sync };
        let stored = store.read()?;
        store.make_durable()?;
        Ok((store, stored))
    }

    fn read(&self) -> io::Result<Stored> {
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes);
        let value = |key| self.sled.get(key).map(|value| value.map(|bytes| bytes.to_vec()));
        let mut stored =
            Stored { hard_state: value(HARD_STATE)?, snapshot: value(SNAPSHOT)?, ..Stored::default() };
        if let Some(bytes) = value(JOIN_POINT)? {
            let (term, index) = bytes.split_at_checked(8).unwrap_or_default();
            let malformed = |_| io::Error::other("the join point of the register is none");
            stored.join_point = Some((number(term).map_err(malformed)?, number(index).map_err(malformed)?));
        }
        if let Some(bytes) = value(LOG_ID)? {
            stored.id =
                number(&bytes).map_err(|_| io::Error::other("the name of the register's log is none"))?;
        }
        for item in self.sled.scan_prefix(ENTRY) {
            let (key, bytes) = item?;
            let index = key[ENTRY.len()..]
                .try_into()
                .map_err(|_| io::Error::other("a key of the register is no index"))?;
            stored.entries.insert(u64::from_be_bytes(index), bytes.to_vec());
        }
        Ok(stored)
    }

    /// Carries out some writes, in their order; returns once they are on disk for good.
    ///
    /// # Errors
    /// If the disk fails. What is stored then is some of the writes, each whole or not at all; nothing more may be
    /// written.
    pub fn write(&mut self, writes: &[LogWrite]) -> io::Result<()> {
        for write in writes {
            let mut batch = sled::Batch::default();
            for item in self.sled.scan_prefix(ENTRY).keys() {
                let key = item?;
                let index =
                    u64::from_be_bytes(key[ENTRY.len()..].try_into().expect("it was read at the start"));
                if !write.keep.contains(&index) {
                    batch.remove(key);
                }
            }
            for (index, bytes) in &write.entries {
                batch.insert(entry_key(*index), &bytes[..]);
            }
            if let Some(snapshot) = &write.snapshot {
                batch.insert(SNAPSHOT, &snapshot[..]);
            }
            match write.join_point {
                Some((term, index)) => {
                    batch.insert(JOIN_POINT, &[term.to_be_bytes(), index.to_be_bytes()].concat()[..]);
                }
                None => batch.remove(JOIN_POINT),
            }
            batch.insert(LOG_ID, &write.id.to_be_bytes());
            batch.insert(HARD_STATE, &write.hard_state[..]);
            self.sled.apply_batch(batch)?;
        }
        self.sled.flush()?;
        self.make_durable()
    }

    fn make_durable(&mut self) -> io::Result<()> {
        (self.sync)(&self.database)?;
        let folder = self.directory.join("blobs");
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if !self.synced_blobs.contains(&entry.file_name()) {
                match File::open(entry.path()) {
                    Ok(file) => (self.sync)(&file)?,
                    // What is referred to no more may go at any time.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            present.insert(entry.file_name());
        }
        if !present.is_subset(&self.synced_blobs) {
            (self.sync)(&File::open(&folder)?)?;
        }
        self.synced_blobs = present;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::MetadataExt,
        sync::{Arc, Mutex},
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    fn write(keep: std::ops::Range<u64>, entries: &[(u64, &[u8])], snapshot: Option<&[u8]>) -> LogWrite {
        LogWrite {
            hard_state: format!("hard state with {}", entries.len()).into_bytes(),
            snapshot: snapshot.map(<[u8]>::to_vec),
            keep,
            entries: entries.iter().map(|(index, bytes)| (*index, bytes.to_vec())).collect(),
            join_point: snapshot.map(|bytes| (7, bytes.len() as u64)),
            id: entries.len() as u64,
        }
    }

    /// Opens what was open before: sled's own threads let go of its lock a moment after its last handle.
    fn reopen(directory: &Path) -> (Store, Stored) {
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            match Store::open(directory) {
                Err(error) if error.to_string().contains("lock") && Instant::now() < patience => {
                    thread::sleep(Duration::from_millis(5));
                }
                opened => return opened.unwrap(),
            }
        }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let large = vec![7; 3 << 20];
        let rounds = [
            vec![write(0..u64::MAX, &[(1, b"a"), (2, b"b"), (3, b"c")], None)],
            vec![write(0..2, &[(2, b"x")], None), write(0..3, &[(3, b"y"), (300, &large)], None)],
            vec![write(3..u64::MAX, &[], Some(&large))],
            vec![write(0..0, &[], Some(b"small"))],
            vec![],
        ];
        let mut expected = Stored::default();
        for writes in rounds {
            let (mut store, stored) = reopen(folder.path());
            assert_eq!(stored, expected);
            store.write(&writes).unwrap();
            writes.iter().for_each(|write| expected.write(write));
        }
        let (_, stored) = reopen(folder.path());
        assert_eq!(stored, expected);
    }

    #[test]
    fn a_write_returns_after_the_database_file_was_synced() {
        let folder = tempfile::tempdir().unwrap();
        let synced = Arc::new(Mutex::new(Vec::new()));
        let note = synced.clone();
        let sync = move |file: &File| {
            let metadata = file.metadata()?;
            note.lock().unwrap().push((metadata.ino(), metadata.len()));
            Ok(())
        };
        let (mut store, _) = Store::open_with(folder.path(), Box::new(sync)).unwrap();
        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        let database = inode(folder.path().join("register/db"));
        synced.lock().unwrap().clear();
        store.write(&[write(0..u64::MAX, &[(1, b"a")], None)]).unwrap();
        let nodes = |list: &[(u64, u64)]| list.iter().map(|(inode, _)| *inode).collect::<Vec<_>>();
        assert_eq!(nodes(&synced.lock().unwrap()), [database]);
        // A value of its own file: the file, and the folder that names it.
        synced.lock().unwrap().clear();
        store.write(&[write(0..u64::MAX, &[(2, &vec![1; 2 << 20])], None)]).unwrap();
        let blobs = folder.path().join("register/blobs");
        let synced = nodes(&synced.lock().unwrap());
        assert_eq!((synced[0], synced.last()), (database, Some(&inode(blobs.clone()))));
        let files: Vec<u64> =
            fs::read_dir(&blobs).unwrap().map(|entry| inode(entry.unwrap().path())).collect();
        assert!(!files.is_empty() && files.iter().all(|file| synced.contains(file)), "{files:?} {synced:?}");
    }

    #[test]
    fn a_sync_that_fails_fails_the_write() {
        let folder = tempfile::tempdir().unwrap();
        let fails = Arc::new(Mutex::new(false));
        let flag = fails.clone();
        let sync =
            move |_: &File| if *flag.lock().unwrap() { Err(io::Error::other("broken")) } else { Ok(()) };
        let (mut store, _) = Store::open_with(folder.path(), Box::new(sync)).unwrap();
        *fails.lock().unwrap() = true;
        let error = store.write(&[write(0..u64::MAX, &[(1, b"a")], None)]).unwrap_err();
        assert_eq!(error.to_string(), "broken");
    }

    #[test]
    fn unfinished_snapshots_are_deleted_before_opening() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path()).unwrap());
        let left = folder.path().join("register/snap.0000000000000000.generating");
        fs::write(&left, b"half").unwrap();
        let (_, stored) = reopen(folder.path());
        assert_eq!(stored, Stored::default());
        assert!(!left.exists());
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let Err(error) = Store::open(&file) else { panic!("a file was taken for a directory") };
        assert!(error.to_string().starts_with(&file.display().to_string()), "{error}");
        let (_first, _) = Store::open(folder.path()).unwrap();
        let Err(error) = Store::open(folder.path()) else { panic!("two have it open") };
        assert!(error.to_string().contains("register"), "{error}");
    }
}
