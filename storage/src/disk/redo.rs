//! Records: what a worker's store was made to hold, in the order in which it was.
//!
//! A record of redo is written when a commit is decided, at primary and replica alike; nothing undecided is on disk. A checkpoint is records
//! too, of all rows. Records say what became of keys, not how, and carry versions: replayed twice, or over what came later,
//! they do no harm. The log is not in the order of epochs; who restores to an epoch leaves out what is later.

use serde::{Deserialize, Serialize};
use twofold_proto::{
    ids::{Epoch, Incarnation, PartitionId, TransactionId, Version},
    message::{CopyRow, Image, WriteSetHeader},
    wire::{Malformed, Reader, Writer, put_block_with},
};

/// A place in the log: segment and offset, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
pub struct Position(pub u64);

impl Position {
    /// This many bytes behind the segment's beginning.
    ///
    /// # Panics
    /// Panics past 2^32 segments or bytes.
    pub fn new(segment: u64, offset: usize) -> Position {
        let (segment, offset) = (u32::try_from(segment), u32::try_from(offset));
        let (segment, offset) = (segment.expect("segments are few"), offset.expect("segments are short"));
        Position(u64::from(segment) << 32 | u64::from(offset))
    }

    /// The segment's number.
    pub fn segment(self) -> u64 {
        self.0 >> 32
    }

    /// Bytes from its beginning.
    pub fn offset(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }
}

const COMMIT: u8 = 1;
const IMAGE: u8 = 2;
const ROWS: u8 = 3;
const COMPLETE: u8 = 4;

/// A transaction's commit in one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit<'a> {
    /// The partition.
    pub partition: PartitionId,
    /// What it made of its keys has this version.
    pub version: Version,
    /// The transaction.
    pub transaction: TransactionId,
    /// Its session's commit number.
    pub commit_number: u64,
    /// The TC's epoch when it sent Prepare.
    pub prepared: Epoch,
    images: &'a [u8],
}

impl<'a> Commit<'a> {
    /// What became of its keys.
    pub fn images(&self) -> impl Iterator<Item = Result<Image<'a>, Malformed>> + use<'a> {
        all(self.images, "image", Image::parse)
    }
}

/// Rows as they were copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rows<'a> {
    /// Their partition.
    pub partition: PartitionId,
    rows: &'a [u8],
}

impl<'a> Rows<'a> {
    /// Each of them.
    pub fn rows(&self) -> impl Iterator<Item = Result<CopyRow<'a>, Malformed>> + use<'a> {
        all(self.rows, "row", CopyRow::parse)
    }
}

/// Parses what stands one behind the other, up to the first that is malformed.
fn all<'a, T>(
    bytes: &'a [u8],
    what: &'static str,
    parse: impl Fn(&mut Reader<'a>) -> Result<T, Malformed>,
) -> impl Iterator<Item = Result<T, Malformed>> {
    let mut reader = Some(Reader::new(bytes, what));
    std::iter::from_fn(move || {
        let left = reader.as_mut().filter(|reader| !reader.is_empty())?;
        let item = parse(left);
        if item.is_err() {
            reader = None;
        }
        Some(item)
    })
}

/// A record, read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// A commit.
    Commit(Commit<'a>),
    /// A key's row, or its absence, that a copy brought.
    Image(PartitionId, Version, Image<'a>),
    /// Rows, as a checkpoint or a copy has them.
    Rows(Rows<'a>),
    /// All that its worker has to hold of this epoch and those before stands in the log or in a checkpoint; the epoch is
    /// complete in the cluster.
    Complete(Epoch),
}

/// Appends the record of a write set that is committed in this epoch; `images` as they stand in it.
pub fn put_commit(header: &WriteSetHeader, epoch: Epoch, images: &[u8], out: &mut Vec<u8>) {
    out.put_u8(COMMIT);
    out.put_u16(header.partition.0);
    out.put_u64(epoch.0);
    out.put_u64(header.number);
    out.put_u64(header.transaction.session.0);
    out.put_u64(header.transaction.number);
    out.put_u64(header.commit_number);
    out.put_u64(header.prepared.0);
    out.put_block(images);
}

/// Appends the record of one key.
pub fn put_image(partition: PartitionId, version: Version, image: &Image<'_>, out: &mut Vec<u8>) {
    out.put_u8(IMAGE);
    out.put_u16(partition.0);
    out.put_u64(version.epoch.0);
    out.put_u64(version.number);
    image.encode(out);
}

/// Appends the record of rows. `write` appends these, as [`crate::store::Store::copy_out`] does.
pub fn put_rows<T>(partition: PartitionId, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    out.put_u8(ROWS);
    out.put_u16(partition.0);
    put_block_with(out, write)
}

/// Appends the record of a complete epoch.
pub fn put_complete(epoch: Epoch, out: &mut Vec<u8>) {
    out.put_u8(COMPLETE);
    out.put_u64(epoch.0);
}

/// The records of a frame's payload, up to the first that is malformed.
pub fn records(payload: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Malformed>> {
    all(payload, "record", parse)
}

fn parse<'a>(reader: &mut Reader<'a>) -> Result<Record<'a>, Malformed> {
    let version = |reader: &mut Reader<'a>| {
        Ok::<Version, Malformed>(Version { epoch: Epoch(reader.u64()?), number: reader.u64()? })
    };
    match reader.u8()? {
        COMMIT => Ok(Record::Commit(Commit {
            partition: PartitionId(reader.u16()?),
            version: version(reader)?,
            transaction: TransactionId { session: Incarnation(reader.u64()?), number: reader.u64()? },
            commit_number: reader.u64()?,
            prepared: Epoch(reader.u64()?),
            images: reader.block()?,
        })),
        IMAGE => Ok(Record::Image(PartitionId(reader.u16()?), version(reader)?, Image::parse(reader)?)),
        ROWS => Ok(Record::Rows(Rows { partition: PartitionId(reader.u16()?), rows: reader.block()? })),
        COMPLETE => Ok(Record::Complete(Epoch(reader.u64()?))),
        _ => Err(Malformed("record")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use twofold_proto::{ids::TableId, time::ClusterTime};

    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let header = WriteSetHeader {
            partition: PartitionId(3),
            number: 17,
            transaction: TransactionId { session: Incarnation(5), number: 6 },
            commit_number: 7,
            coordinator: Default::default(),
            prepared: Epoch(8),
            stamp: Epoch(9),
            refusal: false,
            participants: 0,
            images: 2,
        };
        let put = Image {
            table: TableId(1),
            schema_version: 2,
            tag: 3,
            key: b"key",
            row: Some((ClusterTime(4), b"body")),
        };
        let deleted = Image { row: None, key: b"other", ..put };
        let row = CopyRow {
            table: TableId(1),
            schema_version: 1,
            tag: 2,
            epoch: Epoch(3),
            number: 4,
            expiry: ClusterTime(0),
            key: b"k",
            body: b"b",
        };
        let (mut images, mut rows, mut out) = (Vec::new(), Vec::new(), Vec::new());
        [put, deleted].iter().for_each(|image| image.encode(&mut images));
        [row, row].iter().for_each(|row| row.encode(&mut rows));
        let version = Version { epoch: Epoch(10), number: 17 };
        put_commit(&header, Epoch(10), &images, &mut out);
        put_image(PartitionId(4), version, &deleted, &mut out);
        put_rows(PartitionId(5), &mut out, |out| out.put(&rows));
        put_complete(Epoch(11), &mut out);

        let read: Vec<Record<'_>> = records(&out).collect::<Result<_, _>>().unwrap();
        let [Record::Commit(commit), Record::Image(PartitionId(4), at, image), Record::Rows(copied), last] =
            read[..]
        else {
            panic!("{read:?}")
        };
        assert_eq!(
            (commit.partition, commit.version, commit.transaction),
            (PartitionId(3), version, header.transaction)
        );
        assert_eq!((commit.commit_number, commit.prepared), (7, Epoch(8)));
        assert_eq!(commit.images().collect::<Result<Vec<_>, _>>().unwrap(), [put, deleted]);
        assert_eq!((at, image), (version, deleted));
        assert_eq!(copied.partition, PartitionId(5));
        assert_eq!(copied.rows().collect::<Result<Vec<_>, _>>().unwrap(), [row, row]);
        assert_eq!(last, Record::Complete(Epoch(11)));
    }

    #[test]
    fn positions_are_in_order() {
        let position = Position::new(7, 512);
        assert_eq!((position.segment(), position.offset()), (7, 512));
        assert!(Position::new(7, 1024) > position && Position::new(8, 0) > Position::new(7, 1024));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_bad_to_be_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for record in records(&bytes) {
                match record {
                    Ok(Record::Commit(commit)) => _ = commit.images().count(),
                    Ok(Record::Rows(rows)) => _ = rows.rows().count(),
                    _ => {}
                }
            }
        }
    }
}
