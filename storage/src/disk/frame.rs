//! Frames: what one worker gave the disk at a time, with a header and a checksum.
//!
//! ```text
//! u32 checksum (CRC-32) of all that follows, up to the payload's end
//! u32 bytes of payload
//! u64 file: the segment's number, or that of the checkpoint's part
//! u64 life: the incarnation of the process that wrote it
//! u64 flushed: the position up to which the log was known to be on disk when this was written
//! u64 previous: the position where the frame before this one ends
//! u16 worker, u16 how many workers this life has
//! u16 format, u16 0
//! payload, then zeros up to a multiple of 512
//! ```
//!
//! Behind the last frame stand 512 zeros, the *end mark*, until the next one is written over it: a segment may be a former
//! one's file, with its bytes still there. So a file ends well where an end mark stands, or the file itself ends. Else
//! writing was interrupted there, which is what a power cut does, or a frame is damaged. A damaged frame had been flushed; then
//! a later frame says so, as it says up to where all was on disk when it was written; or that something was before it.

use std::mem;

use twofold_proto::{
    ids::{Incarnation, WorkerId},
    wire::{Malformed, Reader, Writer},
};

use super::{FORMAT, redo::Position};

/// Frames begin at multiples of this: a sector, the most that a disk writes all or nothing of.
pub const ALIGNMENT: usize = 512;
/// Bytes before the payload.
pub const HEADER: usize = 48;
/// Longest payload.
pub const PAYLOAD_MAX: usize = 2 << 20;

const CHECKSUM_BYTES: usize = mem::size_of::<u32>();

/// What stands before the payload, but for its length and the checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// The segment's number, or that of the checkpoint's part.
    pub file: u64,
    /// The process that wrote it.
    pub life: Incarnation,
    /// Up to where the log was known to be on disk.
    pub flushed: Position,
    /// Where the frame before this one ends; in the first of all: where this one begins.
    pub previous: Position,
    /// Whose records these are.
    pub worker: WorkerId,
    /// How many workers this life has.
    pub workers: u16,
}

/// Bytes that a frame takes.
pub const fn frame_bytes(payload: usize) -> usize {
    (HEADER + payload).next_multiple_of(ALIGNMENT)
}

/// Appends a frame.
///
/// # Panics
/// Panics if the payload is longer than [`PAYLOAD_MAX`], or empty.
pub fn put_frame(header: &FrameHeader, payload: &[u8], out: &mut Vec<u8>) {
    assert!((1..=PAYLOAD_MAX).contains(&payload.len()), "a frame of {} bytes", payload.len());
    let start = out.len();
    out.put_u32(0);
    out.put_u32(payload.len() as u32);
    out.put_u64(header.file);
    out.put_u64(header.life.0);
    out.put_u64(header.flushed.0);
    out.put_u64(header.previous.0);
    out.put_u16(header.worker.0);
    out.put_u16(header.workers);
    out.put_u16(FORMAT);
    out.put_u16(0);
    out.put(payload);
    let checksum = crc32fast::hash(&out[start + CHECKSUM_BYTES..]);
    out[start..start + CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    out.resize(start + frame_bytes(payload.len()), 0);
}

/// Appends an end mark.
pub fn put_end_mark(out: &mut Vec<u8>) {
    out.resize(out.len() + ALIGNMENT, 0);
}

/// Why no frame of the file stands somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoFrame {
    /// The end mark, or the end of the file.
    End,
    /// Bytes that are no frame of this file: written in part, damaged, or left from a former file.
    Broken,
    /// A whole frame of a format that this program does not know.
    Format(u16),
}

/// The frame at an offset of a file.
///
/// # Errors
/// If none of this file stands there.
pub fn frame_at(bytes: &[u8], offset: usize, file: u64) -> Result<(FrameHeader, &[u8]), NoFrame> {
    let rest = bytes.get(offset..).unwrap_or_default();
    let mark = &rest[..rest.len().min(ALIGNMENT)];
    if mark.iter().all(|byte| *byte == 0) {
        return Err(NoFrame::End);
    }
    let (header, payload, format) = parse(rest).map_err(|Malformed(_)| NoFrame::Broken)?;
    if header.file != file {
        return Err(NoFrame::Broken);
    }
    if format == FORMAT { Ok((header, payload)) } else { Err(NoFrame::Format(format)) }
}

/// A frame of whatever file, with its format.
fn parse(bytes: &[u8]) -> Result<(FrameHeader, &[u8], u16), Malformed> {
    const BROKEN: Malformed = Malformed("frame");
    let mut reader = Reader::new(bytes, BROKEN.0);
    let (checksum, length) = (reader.u32()?, reader.u32()? as usize);
    if !(1..=PAYLOAD_MAX).contains(&length) {
        return Err(BROKEN);
    }
    let summed = bytes.get(CHECKSUM_BYTES..HEADER + length).ok_or(BROKEN)?;
    if crc32fast::hash(summed) != checksum {
        return Err(BROKEN);
    }
    let header = FrameHeader {
        file: reader.u64()?,
        life: Incarnation(reader.u64()?),
        flushed: Position(reader.u64()?),
        previous: Position(reader.u64()?),
        worker: WorkerId(reader.u16()?),
        workers: reader.u16()?,
    };
    let (format, _) = (reader.u16()?, reader.u16()?);
    Ok((header, reader.bytes(length)?, format))
}

/// The frames of a file from its beginning on, up to the first that is none.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    file: u64,
    /// Behind the last frame that was read.
    pub offset: usize,
}

impl<'a> Frames<'a> {
    /// Those of the file with this number.
    pub fn new(bytes: &'a [u8], file: u64) -> Frames<'a> {
        Frames { bytes, file, offset: 0 }
    }

    /// The next frame, and where it stands.
    ///
    /// # Errors
    /// If there is none, why.
    pub fn read_next(&mut self) -> Result<(usize, FrameHeader, &'a [u8]), NoFrame> {
        let at = self.offset;
        let (header, payload) = frame_at(self.bytes, at, self.file)?;
        self.offset += frame_bytes(payload.len());
        Ok((at, header, payload))
    }

    /// The largest `flushed` of all frames of this file that stand anywhere behind [`Frames::offset`], where none can be
    /// read. A frame's bytes are not its own proof of where it begins, so all multiples of the alignment are tried.
    pub fn flushed_behind(&self) -> Option<Position> {
        let offsets = (self.offset..self.bytes.len()).step_by(ALIGNMENT);
        offsets.filter_map(|at| Some(frame_at(self.bytes, at, self.file).ok()?.0.flushed)).max()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(file: u64, flushed: u64) -> FrameHeader {
        let (flushed, previous) = (Position(flushed), Position(0));
        FrameHeader { file, life: Incarnation(7), flushed, previous, worker: WorkerId(1), workers: 2 }
    }

    fn read(bytes: &[u8], file: u64) -> (Vec<Vec<u8>>, NoFrame) {
        let mut frames = Frames::new(bytes, file);
        let mut payloads = Vec::new();
        loop {
            match frames.read_next() {
                Ok((_, header, payload)) => {
                    assert_eq!((header.file, header.workers), (file, 2));
                    payloads.push(payload.to_vec());
                }
                Err(end) => return (payloads, end),
            }
        }
    }

    #[test]
    fn what_is_written_is_read_up_to_the_end_mark() {
        let mut bytes = Vec::new();
        let payloads = [vec![1], vec![2; ALIGNMENT - HEADER], vec![3; ALIGNMENT], vec![4; PAYLOAD_MAX]];
        for payload in &payloads {
            put_frame(&header(9, 0), payload, &mut bytes);
        }
        assert_eq!(bytes.len(), payloads.iter().map(|payload| frame_bytes(payload.len())).sum::<usize>());
        assert_eq!(read(&bytes, 9), (payloads.to_vec(), NoFrame::End), "the file ends");
        put_end_mark(&mut bytes);
        bytes.extend([7; ALIGNMENT]);
        assert_eq!(read(&bytes, 9), (payloads.to_vec(), NoFrame::End), "the end mark");
        assert_eq!(read(&bytes, 8), (vec![], NoFrame::Broken), "left from a former file");
    }

    #[test]
    fn another_format_is_not_taken_for_damage() {
        let mut bytes = Vec::new();
        put_frame(&header(9, 0), b"payload", &mut bytes);
        bytes[44] += 1;
        let checksum = crc32fast::hash(&bytes[4..HEADER + 7]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(read(&bytes, 9), (vec![], NoFrame::Format(FORMAT + 1)));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_noticed(
            lengths in proptest::collection::vec(1usize..1500, 1..6), at in any::<prop::sample::Index>(), by in 1u8..,
        ) {
            let (mut bytes, mut starts) = (Vec::new(), Vec::new());
            for (i, &length) in lengths.iter().enumerate() {
                starts.push((bytes.len(), bytes.len() + HEADER + length));
                put_frame(&header(5, i as u64), &vec![i as u8; length], &mut bytes);
            }
            put_end_mark(&mut bytes);
            let summed: Vec<usize> = starts.iter().flat_map(|&(start, end)| start..end).collect();
            let place = summed[at.index(summed.len())];
            bytes[place] = bytes[place].wrapping_add(by);
            let damaged = starts.iter().position(|&(start, end)| (start..end).contains(&place)).unwrap();
            let (payloads, end) = read(&bytes, 5);
            prop_assert_eq!(payloads.len(), damaged);
            prop_assert_ne!(end, NoFrame::End);
            // Those behind it can be found, and say what had been flushed.
            let mut frames = Frames::new(&bytes, 5);
            while frames.read_next().is_ok() {}
            let last = lengths.len() as u64 - 1;
            prop_assert_eq!(frames.flushed_behind(), (damaged as u64 != last).then_some(Position(last)));
        }

        #[test]
        fn no_bytes_are_too_bad_to_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let (payloads, _) = read(&bytes, 1);
            prop_assert!(payloads.is_empty());
        }
    }
}
