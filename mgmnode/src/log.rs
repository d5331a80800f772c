//! The Raft log in memory, and what of it is written to disk.

use std::{collections::BTreeMap, ops::Range};

use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
};
use twofold_proto::wire::Malformed;

/// Term and index of an entry; (0, 0) before the first. Of two logs, the one whose last entry is greater knows more.
pub type Position = (u64, u64);

/// What is on disk: the result of all [`LogWrite`]s in their order. Values are protobuf.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stored {
    /// Term, vote and commit index.
    pub hard_state: Option<Vec<u8>>,
    /// The newest snapshot.
    pub snapshot: Option<Vec<u8>>,
    /// The entries after it, by index.
    pub entries: BTreeMap<u64, Vec<u8>>,
    /// See [`Log::join_point`].
    pub join_point: Option<Position>,
    /// See [`Log::id`].
    pub id: u64,
}

/// What is to be written, all or nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogWrite {
    /// Replaces the stored one.
    pub hard_state: Vec<u8>,
    /// Replaces the stored one, if there is one here.
    pub snapshot: Option<Vec<u8>>,
    /// Entries that are stored now and are not in this range of indexes go.
    pub keep: Range<u64>,
    /// Entries to store, by index.
    pub entries: Vec<(u64, Vec<u8>)>,
    /// Replaces the stored one, also if there is none here.
    pub join_point: Option<Position>,
    /// Replaces the stored one.
    pub id: u64,
}

impl Stored {
    /// Carries out a write.
    pub fn write(&mut self, write: &LogWrite) {
        self.hard_state = Some(write.hard_state.clone());
        (self.join_point, self.id) = (write.join_point, write.id);
        if let Some(snapshot) = &write.snapshot {
            self.snapshot = Some(snapshot.clone());
        }
        self.entries.retain(|index, _| write.keep.contains(index));
        self.entries.extend(write.entries.iter().cloned());
    }
}

/// The log as Raft reads it: a snapshot, and all entries after it.
#[derive(Debug)]
pub struct Log {
    hard_state: HardState,
    voters: ConfState,
    snapshot: Snapshot,
    entries: Vec<Entry>,
    join_point: Option<Position>,
    id: u64,
}

fn parse<M: protobuf::Message>(bytes: &[u8]) -> Result<M, Malformed> {
    M::parse_from_bytes(bytes).map_err(|_| Malformed("stored log"))
}

/// A protobuf message's bytes.
pub fn encode(message: &impl protobuf::Message) -> Vec<u8> {
    message.write_to_bytes().expect("a message without required fields can be written to memory")
}

impl Log {
    /// The log of these voters as it is stored.
    ///
    /// # Errors
    /// If it cannot be read, has gaps, or is of other voters.
    pub fn new(voters: ConfState, stored: &Stored) -> Result<Log, Malformed> {
        let snapshot: Snapshot = stored.snapshot.as_deref().map(parse).transpose()?.unwrap_or_default();
        let hard_state: HardState = stored.hard_state.as_deref().map(parse).transpose()?.unwrap_or_default();
        if !snapshot.is_empty() && snapshot.get_metadata().get_conf_state() != &voters {
            return Err(Malformed("stored log: it was written for other management nodes"));
        }
        let (join_point, id) = (stored.join_point, stored.id);
        let mut log = Log { hard_state, voters, snapshot, entries: Vec::new(), join_point, id };
        for (&index, bytes) in &stored.entries {
            let entry: Entry = parse(bytes)?;
            if entry.index != index || index != log.last() + 1 {
                return Err(Malformed("stored log: an entry is missing"));
            }
            log.entries.push(entry);
        }
        let commit = log.hard_state.commit;
        if commit < log.snapshot_index() || commit > log.last() {
            return Err(Malformed("stored log: its end is missing"));
        }
        Ok(log)
    }

    /// After the disk was lost: the log that this node had may have reached up to here. Before it does again, there is
    /// no voting.
    pub fn join_point(&self) -> Option<Position> {
        self.join_point
    }

    /// Which log it is: chosen at random when it began. Of two logs of one cluster one was lost, and the other begun without
    /// it. 0 before all voters were heard, and where there is one voter.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The log goes on to be written with this one.
    pub fn set_id(&mut self, id: u64) {
        self.id = id;
    }

    /// The log goes on to be written with this one.
    pub fn set_join_point(&mut self, position: Position) {
        self.join_point = Some(position).filter(|&position| position > self.last_position());
    }

    /// The newest entry.
    pub fn last_position(&self) -> Position {
        (self.term(self.last()).expect("the log has its last entry"), self.last())
    }

    /// The snapshot's data, if there is one.
    pub fn snapshot_data(&self) -> Option<&[u8]> {
        (!self.snapshot.is_empty()).then(|| self.snapshot.get_data())
    }

    /// The index up to which the snapshot reaches.
    pub fn snapshot_index(&self) -> u64 {
        self.snapshot.get_metadata().index
    }

    fn last(&self) -> u64 {
        self.snapshot_index() + self.entries.len() as u64
    }

    /// How many entries of the log come before `index`.
    fn offset(&self, index: u64) -> usize {
        (index - self.snapshot_index() - 1) as usize
    }

    /// Takes over what Raft wants stored; returns what to write.
    pub fn update(
        &mut self,
        hard_state: Option<&HardState>,
        snapshot: &Snapshot,
        entries: Vec<Entry>,
    ) -> LogWrite {
        if let Some(hard_state) = hard_state {
            self.hard_state = hard_state.clone();
        }
        let mut keep_end = u64::MAX;
        if !snapshot.is_empty() {
            self.entries.clear();
            self.snapshot = snapshot.clone();
            keep_end = 0;
        }
        let stored = entries.iter().map(|entry| (entry.index, encode(entry))).collect();
        if let Some(first) = entries.first() {
            keep_end = keep_end.min(first.index);
            assert!(
                (self.snapshot_index() + 1..=self.last() + 1).contains(&first.index),
                "entry {} does not follow a log of {} to {}",
                first.index,
                self.snapshot_index(),
                self.last()
            );
            self.entries.truncate(self.offset(first.index));
            self.entries.extend(entries);
        }
        if self.join_point.is_some_and(|position| self.last_position() >= position) {
            self.join_point = None;
        }
        LogWrite {
            hard_state: encode(&self.hard_state),
            snapshot: (!snapshot.is_empty()).then(|| encode(snapshot)),
            keep: 0..keep_end,
            entries: stored,
            join_point: self.join_point,
            id: self.id,
        }
    }

    /// Puts a snapshot of the state after entry `index` in the place of all entries up to it; returns what to write.
    pub fn compact(&mut self, index: u64, data: Vec<u8>) -> LogWrite {
        assert!(self.hard_state.commit >= index, "entry {index} is not committed: {:?}", self.hard_state);
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = self.term(index).expect("the log has the entry");
        snapshot.mut_metadata().set_conf_state(self.voters.clone());
        snapshot.set_data(data.into());
        self.entries.drain(..=self.offset(index));
        self.snapshot = snapshot;
        LogWrite {
            hard_state: encode(&self.hard_state),
            snapshot: Some(encode(&self.snapshot)),
            keep: index + 1..u64::MAX,
            entries: Vec::new(),
            join_point: self.join_point,
            id: self.id,
        }
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.voters.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.snapshot_index() {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "entries {low}..{high} of {}", self.last());
        let mut entries = self.entries[self.offset(low)..self.offset(high)].to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match index.checked_sub(self.snapshot_index()) {
            None => Err(StorageError::Compacted.into()),
            Some(0) => Ok(self.snapshot.get_metadata().term),
            Some(_) => match self.entries.get(self.offset(index)) {
                Some(entry) => Ok(entry.term),
                None => Err(StorageError::Unavailable.into()),
            },
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.snapshot_index() + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<Snapshot> {
        if self.snapshot_index() < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(self.snapshot.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters() -> ConfState {
        ConfState::from((vec![1, 2, 3], vec![]))
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    fn state(term: u64, commit: u64) -> HardState {
        HardState { term, commit, ..HardState::default() }
    }

    /// A log and what is stored of it after each step.
    struct Both(Log, Stored);

    impl Both {
        fn new() -> Both {
            let stored = Stored::default();
            Both(Log::new(voters(), &stored).unwrap(), stored)
        }

        fn update(&mut self, hard_state: HardState, snapshot: &Snapshot, entries: &[Entry]) {
            let write = self.0.update(Some(&hard_state), snapshot, entries.to_vec());
            self.write(&write);
        }

        /// What is stored reads as what is in memory.
        fn write(&mut self, write: &LogWrite) {
            self.1.write(write);
            let read = Log::new(voters(), &self.1).unwrap();
            assert_eq!(format!("{read:?}"), format!("{:?}", self.0));
        }
    }

    #[test]
    fn what_is_stored_is_what_is_in_memory() {
        let mut both = Both::new();
        let none = Snapshot::default();
        both.update(state(1, 0), &none, &[entry(1, 1), entry(2, 1), entry(3, 1)]);
        both.update(state(2, 1), &none, &[entry(2, 2)]);
        assert_eq!((both.0.last(), both.0.term(2).unwrap()), (2, 2));
        both.update(state(2, 3), &none, &[entry(3, 2), entry(4, 2)]);
        let write = both.0.compact(3, b"register".to_vec());
        both.write(&write);
        assert_eq!((both.0.snapshot_index(), both.0.last(), both.1.entries.len()), (3, 4, 1));
        assert_eq!((both.0.snapshot_data(), both.0.term(3).unwrap()), (Some(&b"register"[..]), 2));
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = 9;
        snapshot.mut_metadata().term = 4;
        snapshot.mut_metadata().set_conf_state(voters());
        both.update(state(4, 9), &snapshot, &[]);
        assert_eq!((both.0.snapshot_index(), both.0.last(), both.1.entries.len()), (9, 9, 0));
        both.update(state(4, 9), &none, &[entry(10, 4)]);
        assert_eq!(both.0.last(), 10);
    }

    #[test]
    fn a_join_point_stays_until_the_log_has_reached_it() {
        let mut both = Both::new();
        let none = Snapshot::default();
        both.0.set_join_point((2, 3));
        both.update(state(3, 0), &none, &[entry(1, 1), entry(2, 1)]);
        assert_eq!((both.1.join_point, both.0.last_position()), (Some((2, 3)), (1, 2)));
        // More entries, but of an older term.
        both.update(state(3, 0), &none, &[entry(3, 1), entry(4, 1)]);
        assert_eq!(both.1.join_point, Some((2, 3)));
        both.update(state(3, 0), &none, &[entry(5, 3)]);
        assert_eq!((both.1.join_point, both.0.join_point()), (None, None));
        both.0.set_join_point((3, 5));
        assert_eq!(both.0.join_point(), None);
        both.0.set_join_point((4, 6));
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = 9;
        snapshot.mut_metadata().term = 4;
        snapshot.mut_metadata().set_conf_state(voters());
        both.update(state(4, 9), &snapshot, &[]);
        assert_eq!(both.1.join_point, None);
    }

    #[test]
    fn a_log_that_lacks_something_is_refused() {
        let mut both = Both::new();
        both.update(state(1, 3), &Snapshot::default(), &[entry(1, 1), entry(2, 1), entry(3, 1)]);
        let stored = both.1;
        let fault = |change: &dyn Fn(&mut Stored)| {
            let mut stored = stored.clone();
            change(&mut stored);
            Log::new(voters(), &stored).unwrap_err().to_string()
        };
        assert!(fault(&|stored| drop(stored.entries.remove(&2))).contains("an entry is missing"));
        assert!(fault(&|stored| drop(stored.entries.remove(&3))).contains("its end is missing"));
        assert!(fault(&|stored| stored.hard_state = Some(vec![255])).contains("stored log"));
        let other = Log::new(ConfState::from((vec![1], vec![])), &{
            let mut both = Both::new();
            both.update(state(1, 1), &Snapshot::default(), &[entry(1, 1)]);
            let write = both.0.compact(1, Vec::new());
            both.write(&write);
            both.1
        });
        assert!(other.unwrap_err().to_string().contains("other management nodes"));
    }
}
