//! Files that forget: for tests and the simulator.

use std::collections::{BTreeMap, BTreeSet};

use twofold_proto::random::Random;

use super::{Answer, Fault, Request};

/// What a disk writes all or nothing of.
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
struct File {
    bytes: Vec<u8>,
    /// What stood in sectors that were written since the file was last flushed.
    before: BTreeMap<usize, Vec<u8>>,
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.bytes.len());
            self.before.entry(sector).or_insert_with(|| self.bytes[range].to_vec());
        }
        self.bytes[offset..end].copy_from_slice(bytes);
    }
}

/// A directory whose files lose what was not flushed when the power goes.
#[derive(Clone, Debug, Default)]
pub struct Files {
    files: BTreeMap<String, File>,
    /// Bytes that there is room for.
    room: Option<usize>,
    /// Whether every request fails.
    fails: bool,
}

impl Files {
    /// Carries out a request.
    ///
    /// # Errors
    /// If there is no room, or no such file.
    pub fn carry_out(&mut self, request: &Request) -> Result<Answer, Fault> {
        let fault = |full, name: &str| Fault {
            full,
            text: format!("{name}: {}", if full { "full" } else { "missing" }),
        };
        if self.fails {
            return Err(Fault { full: false, text: format!("{request:?}: input/output error") });
        }
        match request {
            Request::List => {
                let files = self.files.iter().map(|(name, file)| (name.clone(), file.bytes.len() as u64));
                return Ok(Answer::Files(files.collect()));
            }
            Request::Read(name) => {
                let file = self.files.get(name).ok_or_else(|| fault(false, name))?;
                return Ok(Answer::Bytes(file.bytes.clone()));
            }
            Request::Create(name, bytes) => {
                self.find_room(*bytes).ok_or_else(|| fault(true, name))?;
                self.files.insert(name.clone(), File { bytes: vec![0; *bytes], ..File::default() });
            }
            Request::Write(name, offset, bytes) => {
                self.files.get_mut(name).ok_or_else(|| fault(false, name))?.write(*offset, bytes);
            }
            Request::Sync(name) => {
                self.files.get_mut(name).ok_or_else(|| fault(false, name))?.before.clear();
            }
            Request::Replace(name, bytes) => {
                self.find_room(bytes.len()).ok_or_else(|| fault(true, name))?;
                self.files.insert(name.clone(), File { bytes: bytes.clone(), ..File::default() });
            }
            Request::Remove(name) => _ = self.files.remove(name),
        }
        Ok(Answer::Done)
    }

    fn find_room(&self, bytes: usize) -> Option<()> {
        let used: usize = self.files.values().map(|file| file.bytes.len()).sum();
        self.room.is_none_or(|room| used + bytes <= room).then_some(())
    }

    /// Bytes of all files.
    pub fn used(&self) -> usize {
        self.files.values().map(|file| file.bytes.len()).sum()
    }

    /// From now on there is room for so many bytes.
    pub fn limit(&mut self, room: Option<usize>) {
        self.room = room;
    }

    /// From now on every request fails, or none does by itself.
    pub fn fail(&mut self, fails: bool) {
        self.fails = fails;
    }

    /// The power goes while these requests are carried out, the first of each lane: of what was not flushed any sectors may have been written. What is done in
    /// one piece is done or not.
    pub fn lose_power(&mut self, under_way: &[Request], random: &mut Random) {
        for request in under_way {
            let partly = matches!(request, Request::Write(..)) || random.one_in(2);
            if partly && !matches!(request, Request::Sync(_)) {
                // What fails now is seen by nobody.
                let _ = self.carry_out(request);
            }
        }
        for file in self.files.values_mut() {
            for (sector, before) in std::mem::take(&mut file.before) {
                if random.one_in(2) {
                    let start = sector * SECTOR;
                    file.bytes[start..start + before.len()].copy_from_slice(&before);
                }
            }
        }
    }

    /// The process ends while these requests are carried out, the first of each lane; what was written stays.
    pub fn interrupt(&mut self, under_way: &[Request], random: &mut Random) {
        for request in under_way {
            if random.one_in(2) {
                // What fails now is seen by nobody.
                let _ = self.carry_out(request);
            }
        }
    }

    /// The names of the files, in order.
    pub fn names(&self) -> BTreeSet<String> {
        self.files.keys().cloned().collect()
    }

    /// Bytes of a file that are not zero behind, if it is there.
    pub fn written(&self, name: &str) -> usize {
        let bytes = self.files.get(name).map_or(&[][..], |file| &file.bytes);
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    }

    /// Changes a byte, if the file has it.
    pub fn damage(&mut self, name: &str, at: usize) {
        if let Some(byte) = self.files.get_mut(name).and_then(|file| file.bytes.get_mut(at)) {
            *byte ^= 0x10;
        }
    }
}
