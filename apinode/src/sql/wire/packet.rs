//! Packets: a length of 3 bytes, a number of one byte, and the payload. A payload of 2^24 − 1 bytes goes on in the next packet.

use std::borrow::Cow;

use crate::sql::error::{SqlError, codes};

/// Bytes of a packet's payload that say that another one belongs to it.
pub const PART_MAX: usize = 0xff_ffff;
const HEADER: usize = 4;
/// What a connection at rest keeps of its buffers, in bytes.
const KEPT: usize = 16 << 10;

/// Both directions of a connection: bytes that came, payloads out of them; payloads to be sent, bytes out of them.
#[derive(Debug)]
pub struct Packets {
    input: Vec<u8>,
    /// Where in `input` the next packet begins.
    start: usize,
    /// Parts of a payload that goes on.
    parts: Vec<u8>,
    output: Vec<u8>,
    /// The number of the next packet, whoever sends it.
    sequence: u8,
    most: usize,
    /// How often output was sent.
    times_sent: u64,
}

/// A place in the output.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    times_sent: u64,
    length: usize,
    sequence: u8,
}

impl Packets {
    /// A connection on which nothing has been said. No payload may have more than `most` bytes.
    pub fn new(most: usize) -> Packets {
        Packets {
            input: Vec::new(),
            start: 0,
            parts: Vec::new(),
            output: Vec::new(),
            sequence: 0,
            times_sent: 0,
            most,
        }
    }

    /// From now on no payload that comes may have more bytes.
    pub fn limit(&mut self, most: usize) {
        self.most = most;
    }

    /// Where to append what has come.
    pub fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }

    /// A command is expected: numbers begin anew.
    pub fn begin(&mut self) {
        self.sequence = 0;
    }

    /// The next payload, once all of it has come.
    ///
    /// # Errors
    /// 1153 for one that is too large, 1156 for a packet that does not come in turn. The connection cannot go on then.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, SqlError> {
        loop {
            let rest = &self.input[self.start..];
            let Some(&[a, b, c, sequence]) = rest.first_chunk::<HEADER>() else { break };
            let length = u32::from_le_bytes([a, b, c, 0]) as usize;
            if self.parts.len() + length > self.most {
                // The error that is sent then comes after what it is about.
                self.sequence = sequence.wrapping_add(1);
                let text = format!("Got a packet bigger than 'max_allowed_packet' bytes ({})", self.most);
                return Err(SqlError::new(codes::PACKET_TOO_LARGE, text));
            }
            if sequence != self.sequence {
                let text = format!("Got packets out of order: {sequence} instead of {}", self.sequence);
                return Err(SqlError::new(codes::PACKETS_OUT_OF_ORDER, text));
            }
            let Some(payload) = rest.get(HEADER..HEADER + length) else { break };
            self.sequence = self.sequence.wrapping_add(1);
            self.parts.extend_from_slice(payload);
            self.start += HEADER + length;
            if length < PART_MAX {
                self.tidy();
                return Ok(Some(std::mem::take(&mut self.parts)));
            }
        }
        self.tidy();
        Ok(None)
    }

    /// Forgets what has been taken.
    fn tidy(&mut self) {
        self.input.drain(..self.start);
        self.start = 0;
        if self.input.is_empty() && self.input.capacity() > KEPT {
            self.input = Vec::new();
        }
    }

    /// Whether all that has come was taken.
    pub fn is_drained(&self) -> bool {
        self.input.is_empty() && self.parts.is_empty()
    }

    /// Sends a payload, which `write` appends.
    pub fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.output.len();
        self.output.extend_from_slice(&[0; HEADER]);
        write(&mut self.output);
        let length = self.output.len() - start - HEADER;
        if length < PART_MAX {
            let header = (length as u32 | u32::from(self.sequence) << 24).to_le_bytes();
            self.output[start..start + HEADER].copy_from_slice(&header);
            self.sequence = self.sequence.wrapping_add(1);
            return;
        }
        let payload = self.output.split_off(start);
        // One that fills its last part is followed by an empty one.
        let mut rest = &payload[HEADER..];
        loop {
            let (part, after) = rest.split_at(rest.len().min(PART_MAX));
            self.output
                .extend_from_slice(&(part.len() as u32 | u32::from(self.sequence) << 24).to_le_bytes());
            self.output.extend_from_slice(part);
            self.sequence = self.sequence.wrapping_add(1);
            if part.len() < PART_MAX {
                return;
            }
            rest = after;
        }
    }

    /// Where the output is now.
    pub fn mark(&self) -> Mark {
        Mark { times_sent: self.times_sent, length: self.output.len(), sequence: self.sequence }
    }

    /// Takes back what was put since; `false` if some of it was sent.
    pub fn rewind(&mut self, mark: &Mark) -> bool {
        let is_whole = self.times_sent == mark.times_sent;
        if is_whole {
            self.output.truncate(mark.length);
            self.sequence = mark.sequence;
        }
        is_whole
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// All of [`Packets::output`] has been sent.
    pub fn sent(&mut self) {
        self.times_sent += 1;
        self.output.clear();
        if self.output.capacity() > KEPT {
            self.output = Vec::new();
        }
    }
}

/// Bytes of the protocol's kinds at the end of a payload.
pub trait Put {
    /// A number of two bytes.
    fn put_u16(&mut self, value: u16);
    /// A number of four bytes.
    fn put_u32(&mut self, value: u32);
    /// A number of one, three, four or nine bytes.
    fn put_number(&mut self, value: u64);
    /// A length, and so many bytes.
    fn put_string(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_number(&mut self, value: u64) {
        let bytes = value.to_le_bytes();
        match value {
            0..0xfb => self.push(bytes[0]),
            0xfb..0x1_0000 => {
                self.push(0xfc);
                self.extend_from_slice(&bytes[..2]);
            }
            0x1_0000..0x100_0000 => {
                self.push(0xfd);
                self.extend_from_slice(&bytes[..3]);
            }
            _ => {
                self.push(0xfe);
                self.extend_from_slice(&bytes);
            }
        }
    }

    fn put_string(&mut self, bytes: &[u8]) {
        self.put_number(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }
}

/// Reads a payload in place.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a>(pub &'a [u8]);

impl<'a> Payload<'a> {
    /// So many bytes.
    ///
    /// # Errors
    /// 1835 if there are fewer left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], SqlError> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// The next bytes as an array.
    ///
    /// # Errors
    /// As [`Payload::bytes`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], SqlError> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| malformed())
    }

    /// One byte.
    ///
    /// # Errors
    /// As [`Payload::bytes`].
    pub fn u8(&mut self) -> Result<u8, SqlError> {
        Ok(self.array::<1>()?[0])
    }

    /// A number of two bytes.
    ///
    /// # Errors
    /// As [`Payload::bytes`].
    pub fn u16(&mut self) -> Result<u16, SqlError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A number of four bytes.
    ///
    /// # Errors
    /// As [`Payload::bytes`].
    pub fn u32(&mut self) -> Result<u32, SqlError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A number as [`Put::put_number`] writes it.
    ///
    /// # Errors
    /// As [`Payload::bytes`].
    pub fn number(&mut self) -> Result<u64, SqlError> {
        let width = match self.u8()? {
            byte @ 0..=0xfa => return Ok(byte.into()),
            0xfc => 2,
            0xfd => 3,
            0xfe => 8,
            _ => return Err(malformed()),
        };
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(self.bytes(width)?);
        Ok(u64::from_le_bytes(wide))
    }

    /// A string as [`Put::put_string`] writes it.
    ///
    /// # Errors
    /// As [`Payload::bytes`].
    pub fn string(&mut self) -> Result<&'a [u8], SqlError> {
        let length = self.number()?;
        self.bytes(usize::try_from(length).map_err(|_| malformed())?)
    }

    /// All up to a zero byte, or to the end where there is none.
    pub fn until_zero(&mut self) -> &'a [u8] {
        let length = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest.get(1..).unwrap_or_default();
        bytes
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// What does not make sense as a packet.
pub fn malformed() -> SqlError {
    SqlError::new(codes::MALFORMED_PACKET, "Malformed communication packet")
}

/// A name, which has to be UTF-8; for people it is mended.
pub fn name(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All payloads in these bytes, fed piece by piece.
    fn take_all(packets: &mut Packets, bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        for piece in bytes.chunks(piece) {
            packets.input().extend_from_slice(piece);
            while let Some(payload) = packets.take().unwrap() {
                found.push(payload);
            }
        }
        found
    }

    #[test]
    fn golden_packets() {
        let mut packets = Packets::new(100);
        packets.put(|payload| payload.extend_from_slice(b"\x03SELECT 1"));
        packets.put(|payload| payload.put_string(b"ab"));
        assert_eq!(packets.output(), b"\x09\0\0\0\x03SELECT 1\x03\0\0\x01\x02ab");
        packets.sent();
        assert!(packets.output().is_empty());
    }

    #[test]
    fn a_payload_that_fills_its_parts_goes_on() {
        for length in [PART_MAX - 1, PART_MAX, PART_MAX + 1, 2 * PART_MAX] {
            let mut from = Packets::new(0);
            from.put(|payload| payload.resize(payload.len() + length, 7));
            from.put(|payload| payload.push(1));
            let parts = length / PART_MAX + 1;
            assert_eq!(from.output().len(), length + 4 * parts + 5);
            let mut to = Packets::new(2 * PART_MAX);
            let found = take_all(&mut to, from.output(), 1 << 20);
            assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [length, 1]);
            assert!(to.is_drained());
        }
    }

    #[test]
    fn what_is_too_large_or_out_of_turn_is_refused_before_it_has_come() {
        let mut packets = Packets::new(10);
        packets.input().extend_from_slice(&[11, 0, 0, 0]);
        assert_eq!(packets.take().unwrap_err().number(), 1153);
        let mut packets = Packets::new(10);
        packets.input().extend_from_slice(&[1, 0, 0, 3, 9]);
        assert_eq!(packets.take().unwrap_err().number(), 1156);
        // Parts count together.
        let mut packets = Packets::new(PART_MAX + 2);
        packets.input().extend_from_slice(&[0xff, 0xff, 0xff, 0]);
        packets.input().resize(4 + PART_MAX, 0);
        packets.input().extend_from_slice(&[3, 0, 0, 1]);
        assert_eq!(packets.take().unwrap_err().number(), 1153);
    }

    proptest! {
        #[test]
        fn payloads_survive_the_wire(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..300),
            piece in 1usize..40,
        ) {
            let mut from = Packets::new(0);
            for payload in &payloads {
                from.put(|out| out.extend_from_slice(payload));
            }
            prop_assert_eq!(take_all(&mut Packets::new(300), from.output(), piece), payloads);
        }

        #[test]
        fn numbers_and_strings_survive(value: u64, small in 0u64..70_000, text: Vec<u8>) {
            let mut out = Vec::new();
            out.put_number(value);
            out.put_number(small);
            out.put_string(&text);
            let mut payload = Payload(&out);
            prop_assert_eq!(payload.number().unwrap(), value);
            prop_assert_eq!(payload.number().unwrap(), small);
            prop_assert_eq!(payload.string().unwrap(), &text[..]);
            prop_assert!(payload.rest().is_empty());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let mut packets = Packets::new(1000);
            packets.input().extend_from_slice(&bytes);
            while let Ok(Some(payload)) = packets.take() {
                let mut payload = Payload(&payload);
                while payload.string().is_ok() && !payload.0.is_empty() {}
            }
        }
    }
}
