//! What memcached keeps of an item beside flags and value, where there is something to keep.
//!
//! ```text
//! NULL    nothing
//! u8      bit 0: stale, bit 1: won
//! 0x80, u64 big-endian «cas unique», u8 as above
//! ```
//!
//! Without one of its own, an item's «cas unique» is its version's token.

use twofold_proto::{
    filter::{Comparison, FilterBuilder},
    ids::Version,
    value::ValueRef,
};

const STALE: u8 = 1;
const WON: u8 = 2;
const UNIQUE: u8 = 0x80;

/// Bytes of a mark, at most.
pub const MARK_MAX: usize = 10;

/// A mark.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Mark {
    /// The value is there, but is to be stored anew.
    pub stale: bool,
    /// A client has been told that it is to store it anew.
    pub won: bool,
    /// The item's own «cas unique».
    pub unique: Option<u64>,
}

impl Mark {
    /// Reads a mark; what makes no sense is none.
    pub fn read(value: &ValueRef<'_>) -> Mark {
        let (unique, bits) = match value.as_bytes().unwrap_or_default() {
            [bits] => (None, *bits),
            [UNIQUE, unique @ .., bits] => match unique.try_into() {
                Ok(unique) => (Some(u64::from_be_bytes(unique)), *bits),
                Err(_) => return Mark::default(),
            },
            _ => return Mark::default(),
        };
        Mark { stale: bits & STALE != 0, won: bits & WON != 0, unique }
    }

    /// As it stands in its column; `buffer` is where its bytes go.
    pub fn value(self, buffer: &mut [u8; MARK_MAX]) -> ValueRef<'_> {
        let bits = if self.stale { STALE } else { 0 } | if self.won { WON } else { 0 };
        match self.unique {
            None if bits == 0 => ValueRef::Null,
            None => {
                buffer[0] = bits;
                ValueRef::from(&buffer[..1])
            }
            Some(unique) => {
                *buffer = bytes(unique, bits);
                ValueRef::from(&buffer[..])
            }
        }
    }

    /// The «cas unique» of an item of this version.
    pub fn unique(self, version: Version) -> u64 {
        self.unique.unwrap_or(version.token())
    }
}

fn bytes(unique: u64, bits: u8) -> [u8; MARK_MAX] {
    let mut bytes = [UNIQUE; MARK_MAX];
    bytes[1..9].copy_from_slice(&unique.to_be_bytes());
    bytes[9] = bits;
    bytes
}

/// Adds a condition: the item has this «cas unique». `mark` is the marks' column, if the table has one.
pub fn has_unique(conditions: &mut FilterBuilder, mark: Option<u16>, unique: u64) {
    let Some(mark) = mark else {
        conditions.token(unique);
        return;
    };
    let (least, most) = (bytes(unique, 0), bytes(unique, u8::MAX));
    conditions.any(|either| {
        either.all(|own| {
            own.compare(mark, Comparison::GreaterOrEqual, &ValueRef::from(&least[..]));
            own.compare(mark, Comparison::LessOrEqual, &ValueRef::from(&most[..]))
        });
        either.all(|version| {
            version.token(unique);
            version.any(|no_own| {
                no_own.is_null(mark);
                no_own.compare(mark, Comparison::Less, &ValueRef::from(&[UNIQUE][..]))
            })
        })
    });
}

#[cfg(test)]
mod tests {
    use twofold_proto::ids::Epoch;

    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mut buffer = [0; MARK_MAX];
        for bits in 0..4u8 {
            for unique in [None, Some(0), Some(7), Some(u64::MAX)] {
                let mark = Mark { stale: bits & 1 != 0, won: bits & 2 != 0, unique };
                assert_eq!(Mark::read(&mark.value(&mut buffer)), mark);
            }
        }
        assert_eq!(Mark::default().value(&mut buffer), ValueRef::Null);
        let won = Mark { won: true, ..Mark::default() };
        assert_eq!(won.value(&mut buffer), ValueRef::from(&[2u8][..]));
        let own = Mark { stale: true, unique: Some(0x0102), ..Mark::default() };
        assert_eq!(own.value(&mut buffer), ValueRef::from(&[0x80u8, 0, 0, 0, 0, 0, 0, 1, 2, 1][..]));
        for nonsense in [&[0x80u8, 1][..], &[0x80; 11], &[1, 2], &[]] {
            assert_eq!(Mark::read(&ValueRef::from(nonsense)), Mark::default());
        }
    }

    #[test]
    fn the_unique_is_the_versions_unless_there_is_an_own_one() {
        let version = Version { epoch: Epoch::new(3, 5), number: 7 };
        assert_eq!(Mark::default().unique(version), 5 << 20 | 7);
        assert_eq!(Mark { unique: Some(9), ..Mark::default() }.unique(version), 9);
    }
}
