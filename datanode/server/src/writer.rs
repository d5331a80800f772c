//! Writing past the page cache (O_DIRECT, open(2)). What is written here is read after a restart, if ever: the kernel's
//! copies of it would take processor time, and push what is worked with out of the caches.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

/// Bytes written at a time.
const PIECE: usize = 1 << 20;
/// Where in memory the kernel takes bytes from: multiples of this suit all disks.
const MEMORY_ALIGNMENT: usize = 4096;
/// Offsets and lengths are multiples of this; a disk with larger sectors takes only multiples of those.
const SECTOR: usize = 512;

/// Writes files. It has the memory that the kernel takes their bytes from.
#[derive(Debug)]
pub struct Writer {
    memory: Vec<u8>,
    /// Where in it the aligned part begins.
    start: usize,
}

impl Writer {
    /// With memory of its own.
    pub fn new() -> Writer {
        let memory = vec![0; PIECE + MEMORY_ALIGNMENT];
        let start = memory.as_ptr().align_offset(MEMORY_ALIGNMENT);
        Writer { memory, start }
    }

    /// Writes all of `bytes` to a new file, in place of any of that name, and flushes it.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&mut self, path: &Path, bytes: impl Read) -> io::Result<()> {
        let file = File::create(path)?;
        self.write(path, &file, 0, bytes)?;
        file.sync_all()
    }

    /// Writes all of `bytes` to a file, from an offset on. It may still be in the page cache, or in the disk's.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_at(&mut self, path: &Path, offset: usize, bytes: impl Read) -> io::Result<()> {
        self.write(path, &File::options().write(true).open(path)?, offset, bytes)
    }

    fn write(
        &mut self,
        path: &Path,
        cached: &File,
        mut offset: usize,
        mut bytes: impl Read,
    ) -> io::Result<()> {
        let direct = File::options().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path).ok();
        loop {
            let piece = &mut self.memory[self.start..self.start + PIECE];
            let length = read_up_to(&mut bytes, piece)?;
            let sectors = if offset.is_multiple_of(SECTOR) { length / SECTOR * SECTOR } else { 0 };
            let (sectors, rest) = piece[..length].split_at(sectors);
            let written = direct.as_ref().map(|file| file.write_all_at(sectors, offset as u64));
            match written {
                Some(Ok(())) => {}
                // Not with this file system or this disk.
                None => cached.write_all_at(sectors, offset as u64)?,
                Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                    cached.write_all_at(sectors, offset as u64)?;
                }
                Some(Err(error)) => return Err(error),
            }
            cached.write_all_at(rest, (offset + sectors.len()) as u64)?;
            offset += length;
            if length < PIECE {
                return Ok(());
            }
        }
    }
}

/// Fills the buffer, if there is as much.
fn read_up_to(bytes: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match bytes.read(&mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn bytes_arrive_whatever_their_number_and_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut writer = Writer::new();
        let bytes: Vec<u8> = (0..3 * PIECE + 700).map(|at| (at / 7) as u8).collect();
        for length in [0, 1, SECTOR, PIECE - 1, PIECE, PIECE + SECTOR, bytes.len()] {
            writer.create(&path, &bytes[..length]).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes[..length], "{length} bytes");
        }
        let mut expected = bytes.clone();
        for (offset, length) in [(SECTOR, 3 * SECTOR), (5, 2 * SECTOR), (PIECE - SECTOR, PIECE), (0, 1)] {
            let changed: Vec<u8> = bytes[..length].iter().map(|byte| !byte).collect();
            writer.write_at(&path, offset, &changed[..]).unwrap();
            expected[offset..offset + length].copy_from_slice(&changed);
            assert!(fs::read(&path).unwrap() == expected, "{length} bytes from {offset} on");
        }
    }
}
