//! Reading and writing bytes in place: little-endian, fixed width, bounds-checked.

use std::fmt;

/// Bytes that do not say what they should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed(
    /// What was being read.
    pub &'static str,
);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Reads a byte slice from front to back. Every read names what it reads, for the error.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

macro_rules! read_int {
    ($name:ident, $type:ty) => {
        /// The next little-endian integer of this width.
        #[inline]
        pub fn $name(&mut self) -> Result<$type, Malformed> {
            match self.bytes.split_first_chunk::<{ size_of::<$type>() }>() {
                Some((head, tail)) => {
                    self.bytes = tail;
                    Ok(<$type>::from_le_bytes(*head))
                }
                None => Err(Malformed(self.what)),
            }
        }
    };
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; errors will say «malformed `what`».
    pub fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { bytes, what }
    }

    read_int!(u8, u8);
    read_int!(u16, u16);
    read_int!(u32, u32);
    read_int!(u64, u64);
    read_int!(i64, i64);

    /// The next `n` bytes.
    #[inline]
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        match self.bytes.split_at_checked(n) {
            Some((head, tail)) => {
                self.bytes = tail;
                Ok(head)
            }
            None => Err(Malformed(self.what)),
        }
    }

    /// The next `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        match self.bytes.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.bytes = tail;
                Ok(*head)
            }
            None => Err(Malformed(self.what)),
        }
    }

    /// A u32 length and as many bytes.
    #[inline]
    pub fn block(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.u32()?;
        self.bytes(n as usize)
    }

    /// An unsigned LEB128 of at most 5 bytes.
    #[inline]
    pub fn varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.u8()?;
            let low = u32::from(byte & 0x7f);
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed(self.what))
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether all has been read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// An error if anything is left.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Malformed(self.what)) }
    }
}

/// Appends a block, see [`Writer::put_block`], of what `write` appends.
///
/// # Panics
/// Panics past 4 GiB, which every limit excludes.
pub fn put_block_with<T>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    out.put_u32(0);
    let start = out.len();
    let written = write(out);
    let length = u32::try_from(out.len() - start).expect("blocks are below 4 GiB");
    out[start - 4..start].copy_from_slice(&length.to_le_bytes());
    written
}

/// Appends what [`Reader`] reads.
pub trait Writer {
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]);

    /// Appends one byte.
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }
    /// Appends a little-endian u16.
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }
    /// Appends a little-endian u32.
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }
    /// Appends a little-endian u64.
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
    /// Appends a u32 length and the bytes.
    ///
    /// # Panics
    /// Panics past 4 GiB, which every limit excludes.
    fn put_block(&mut self, bytes: &[u8]) {
        self.put_u32(u32::try_from(bytes.len()).expect("blocks are below 4 GiB"));
        self.put(bytes);
    }
    /// Appends an unsigned LEB128.
    fn put_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }
}

impl Writer for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(a: u8, b: u16, c: u32, d: u64, e: Vec<u8>, f: u32) {
            let mut out = Vec::new();
            out.put_u8(a);
            out.put_u16(b);
            out.put_u32(c);
            out.put_u64(d);
            out.put_block(&e);
            out.put_varint(f);
            let mut reader = Reader::new(&out, "test");
            prop_assert_eq!(reader.u8(), Ok(a));
            prop_assert_eq!(reader.u16(), Ok(b));
            prop_assert_eq!(reader.u32(), Ok(c));
            prop_assert_eq!(reader.u64(), Ok(d));
            prop_assert_eq!(reader.block(), Ok(&e[..]));
            prop_assert_eq!(reader.varint(), Ok(f));
            prop_assert_eq!(reader.finish(), Ok(()));
            for cut in 0..out.len() {
                let mut reader = Reader::new(&out[..cut], "test");
                let whole = reader.u8().is_ok() && reader.u16().is_ok() && reader.u32().is_ok()
                    && reader.u64().is_ok() && reader.block().is_ok() && reader.varint().is_ok();
                prop_assert!(!whole);
            }
        }
    }

    #[test]
    fn an_overlong_varint_is_malformed() {
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f], "x").varint().is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0], "x").varint().is_err());
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f], "x").varint(), Ok(u32::MAX));
    }
}
