//! Steps of scans.

use crate::{
    ids::{IndexId, PartitionId, TableId, ViewNumber},
    index::EntryRange,
    wire::{Malformed, Reader, Writer},
};

/// One step of a scan over one fragment: committed rows, in hash order, from a cursor on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanReq<'a> {
    /// Comes back in the answer.
    pub request: u32,
    /// The table.
    pub table: TableId,
    /// The version of it that the client knows.
    pub schema_version: u32,
    /// The partition.
    pub partition: PartitionId,
    /// 0 at the start, then the last answer's.
    pub cursor: u64,
    /// At most so many rows; 0: as many as fit an answer.
    pub rows: u32,
    /// Filter and projection: the body of a Read operation (`crate::operation`).
    pub program: &'a [u8],
}

impl<'a> ScanReq<'a> {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.request);
        out.put_u32(self.table.0);
        out.put_u32(self.schema_version);
        out.put_u16(self.partition.0);
        out.put_u64(self.cursor);
        out.put_u32(self.rows);
        out.put_block(self.program);
    }

    /// Reads it.
    pub fn parse(body: &'a [u8]) -> Result<ScanReq<'a>, Malformed> {
        let mut reader = Reader::new(body, "ScanReq");
        let scan = ScanReq {
            request: reader.u32()?,
            table: TableId(reader.u32()?),
            schema_version: reader.u32()?,
            partition: PartitionId(reader.u16()?),
            cursor: reader.u64()?,
            rows: reader.u32()?,
            program: reader.block()?,
        };
        reader.finish()?;
        Ok(scan)
    }
}

/// One step of a scan of a range of an ordered index: committed rows in the index's order, or from its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeReq<'a> {
    /// Comes back in the answer.
    pub request: u32,
    /// The table.
    pub table: TableId,
    /// The version of it that the client knows.
    pub schema_version: u32,
    /// Its index.
    pub index: IndexId,
    /// The partition.
    pub partition: PartitionId,
    /// With a view: not of this partition alone, but of all that have the same primary under it.
    pub view: Option<ViewNumber>,
    /// What of the index; then what the last answer has left of it.
    pub range: EntryRange,
    /// From the end on.
    pub descending: bool,
    /// At most so many rows; 0: as many as fit an answer.
    pub rows: u32,
    /// Filter and projection: the body of a Read operation (`crate::operation`).
    pub program: &'a [u8],
}

impl<'a> RangeReq<'a> {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.request);
        self.encode_unnumbered(out);
    }

    /// Appends all but the request's number, which comes first.
    pub fn encode_unnumbered(&self, out: &mut Vec<u8>) {
        out.put_u32(self.table.0);
        out.put_u32(self.schema_version);
        out.put_u32(self.index.0);
        out.put_u16(self.partition.0);
        out.put_u64(self.view.unwrap_or_default().0);
        self.range.encode(out);
        out.put_u8(u8::from(self.descending));
        out.put_u32(self.rows);
        out.put_block(self.program);
    }

    /// Reads it.
    pub fn parse(body: &'a [u8]) -> Result<RangeReq<'a>, Malformed> {
        let mut reader = Reader::new(body, "RangeReq");
        let range = RangeReq {
            request: reader.u32()?,
            table: TableId(reader.u32()?),
            schema_version: reader.u32()?,
            index: IndexId(reader.u32()?),
            partition: PartitionId(reader.u16()?),
            view: Some(ViewNumber(reader.u64()?)).filter(|view| view.0 != 0),
            range: EntryRange::parse(&mut reader)?,
            descending: reader.u8()? != 0,
            rows: reader.u32()?,
            program: reader.block()?,
        };
        reader.finish()?;
        Ok(range)
    }
}

/// The answer to a [`RangeReq`]; `rows` pairs follow: the row's entry in the index and its result, each with a u32 length before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeConf {
    /// The request's number.
    pub request: u32,
    /// What is left of the range; `None`: nothing.
    pub rest: Option<EntryRange>,
    /// How many rows follow.
    pub rows: u32,
}

impl RangeConf {
    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.request);
        out.put_u8(u8::from(self.rest.is_some()));
        if let Some(rest) = &self.rest {
            rest.encode(out);
        }
        out.put_u32(self.rows);
    }

    /// Reads it; the rows are next.
    pub fn parse(reader: &mut Reader<'_>) -> Result<RangeConf, Malformed> {
        let request = reader.u32()?;
        let rest = if reader.u8()? != 0 { Some(EntryRange::parse(reader)?) } else { None };
        Ok(RangeConf { request, rest, rows: reader.u32()? })
    }
}

/// The answer to a [`ScanReq`]; `rows` results follow, each a u32 length and the result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanConf {
    /// The request's number.
    pub request: u32,
    /// Where to go on; `None` when the fragment is through.
    pub cursor: Option<u64>,
    /// How many rows follow.
    pub rows: u32,
}

impl ScanConf {
    /// Bytes of the encoding.
    pub const BYTES: usize = 17;

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.request);
        out.put_u8(u8::from(self.cursor.is_some()));
        out.put_u64(self.cursor.unwrap_or(0));
        out.put_u32(self.rows);
    }

    /// Reads it; the rows are next.
    pub fn parse(reader: &mut Reader<'_>) -> Result<ScanConf, Malformed> {
        let request = reader.u32()?;
        let more = reader.u8()? != 0;
        let cursor = reader.u64()?;
        Ok(ScanConf { request, cursor: more.then_some(cursor), rows: reader.u32()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_the_wire() {
        let range = EntryRange { from: vec![1], to: Some(vec![]) };
        let request = RangeReq {
            request: 7,
            table: TableId(1),
            schema_version: 2,
            index: IndexId(3),
            partition: PartitionId(4),
            view: Some(ViewNumber(5)),
            range: range.clone(),
            descending: true,
            rows: 6,
            program: b"program",
        };
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        assert_eq!(RangeReq::parse(&bytes), Ok(request.clone()));
        (0..bytes.len()).for_each(|cut| assert!(RangeReq::parse(&bytes[..cut]).is_err(), "{cut}"));
        bytes.clear();
        let alone = RangeReq { view: None, ..request };
        alone.encode(&mut bytes);
        assert_eq!(RangeReq::parse(&bytes), Ok(alone));
        for rest in [None, Some(range), Some(EntryRange::default())] {
            let conf = RangeConf { request: 7, rest, rows: 2 };
            bytes.clear();
            conf.encode(&mut bytes);
            assert_eq!(RangeConf::parse(&mut Reader::new(&bytes, "test")), Ok(conf));
        }
    }
}
