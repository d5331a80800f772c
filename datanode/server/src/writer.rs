//! Writing past the page cache (O_DIRECT, open(2)). What is written here is read after a restart, if ever: the kernel's
//! copies of it would take processor time, and push what is worked with out of the caches.

use std::{
    fs::File,
    io,
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

    /// Writes `bytes` to a new file, in place of any of that name, and flushes it.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = File::create(path)?;
        self.write(path, &file, 0, pieces_of(bytes))?;
        file.sync_all()
    }

    /// Makes a new file of so many zeros, in place of any of that name, and flushes it.
    ///
    /// # Errors
    /// What the system says.
    pub fn create_zeros(&mut self, path: &Path, bytes: usize) -> io::Result<()> {
        let file = File::create(path)?;
        let (mut left, mut are_zeros) = (bytes, false);
        self.write(path, &file, 0, |piece| {
            if !are_zeros {
                piece.fill(0);
                are_zeros = true;
            }
            let length = left.min(piece.len());
            left -= length;
            length
        })?;
        file.sync_all()
    }

    /// Writes `bytes` to a file, from an offset on. They may still be in the page cache, or in the disk's.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_at(&mut self, path: &Path, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let file = File::options().write(true).open(path)?;
        self.write(path, &file, offset, pieces_of(bytes))
    }

    /// `next` puts what is to be written next at the start of the memory, which has what it was left with, and says how
    /// much that is: less than there is room for is the last.
    fn write(
        &mut self,
        path: &Path,
        cached: &File,
        mut offset: usize,
        mut next: impl FnMut(&mut [u8]) -> usize,
    ) -> io::Result<()> {
        let direct = File::options().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path).ok();
        loop {
            let piece = &mut self.memory[self.start..self.start + PIECE];
            let length = next(piece);
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

fn pieces_of(mut bytes: &[u8]) -> impl FnMut(&mut [u8]) -> usize {
    move |piece| {
        let (next, rest) = bytes.split_at(bytes.len().min(piece.len()));
        piece[..next.len()].copy_from_slice(next);
        bytes = rest;
        next.len()
    }
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
        for length in [0, 1, PIECE, 2 * PIECE + 700] {
            writer.create_zeros(&path, length).unwrap();
            assert_eq!(fs::read(&path).unwrap(), vec![0; length]);
        }
        writer.create(&path, &bytes).unwrap();
        let mut expected = bytes.clone();
        for (offset, length) in [(SECTOR, 3 * SECTOR), (5, 2 * SECTOR), (PIECE - SECTOR, PIECE), (0, 1)] {
            let changed: Vec<u8> = bytes[..length].iter().map(|byte| !byte).collect();
            writer.write_at(&path, offset, &changed).unwrap();
            expected[offset..offset + length].copy_from_slice(&changed);
            assert!(fs::read(&path).unwrap() == expected, "{length} bytes from {offset} on");
        }
    }
}
