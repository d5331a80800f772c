//! Conditions on a row: of an operation, and of a scan.
//!
//! ```text
//! list:      conditions, one after the other
//! condition: u8 tag, then
//!            1–6   <, <=, =, >=, >, !=: u16 column, value (crate::value)
//!            7, 8  is NULL, is not NULL: u16 column
//!            9, 10 the row exists, does not exist
//!            11    version: u8 1–6, u64 epoch, u64 number
//!            12    all of a list: u32 bytes, list
//!            13    any of a list: likewise
//!            14    the version's token is: u64
//! ```
//!
//! A comparison with NULL does not hold, and neither does one of a column of a row that is not there. There is no
//! negation, so this is all that SQL's third truth value comes to.

use std::cmp::Ordering;

use crate::{
    ids::{Epoch, Version},
    value::ValueRef,
    wire::{Malformed, Reader, Writer},
};

/// How deep lists may stand in lists.
pub const FILTER_DEPTH_MAX: usize = 16;

const IS_NULL: u8 = 7;
const IS_NOT_NULL: u8 = 8;
const EXISTS: u8 = 9;
const ABSENT: u8 = 10;
const VERSION: u8 = 11;
const ALL: u8 = 12;
const ANY: u8 = 13;
const TOKEN: u8 = 14;

/// How two values are to compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Comparison {
    /// `<`
    Less = 1,
    /// `<=`
    LessOrEqual = 2,
    /// `=`
    Equal = 3,
    /// `>=`
    GreaterOrEqual = 4,
    /// `>`
    Greater = 5,
    /// `!=`
    NotEqual = 6,
}

impl Comparison {
    const ALL: [Comparison; 6] = [
        Comparison::Less,
        Comparison::LessOrEqual,
        Comparison::Equal,
        Comparison::GreaterOrEqual,
        Comparison::Greater,
        Comparison::NotEqual,
    ];

    fn from_wire(byte: u8) -> Option<Comparison> {
        Self::ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }

    /// Whether values of this order compare so.
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Equal => order.is_eq(),
            Comparison::GreaterOrEqual => order.is_ge(),
            Comparison::Greater => order.is_gt(),
            Comparison::NotEqual => order.is_ne(),
        }
    }
}

/// One condition.
#[derive(Clone, PartialEq, Debug)]
pub enum Condition<'a> {
    /// The column compares so with the value.
    Column {
        /// Index of the column.
        column: u16,
        /// How.
        comparison: Comparison,
        /// With what.
        value: ValueRef<'a>,
    },
    /// The column is NULL.
    IsNull(u16),
    /// The column is not NULL.
    IsNotNull(u16),
    /// There is a row.
    Exists,
    /// There is no row.
    Absent,
    /// The row's version compares so with this one.
    Version {
        /// How.
        comparison: Comparison,
        /// With what.
        version: Version,
    },
    /// The row's version has this [`Version::token`].
    Token(u64),
    /// All of these hold.
    All(Filter<'a>),
    /// One of these holds at least.
    Any(Filter<'a>),
}

impl<'a> Condition<'a> {
    fn parse(reader: &mut Reader<'a>) -> Result<Condition<'a>, Malformed> {
        let tag = reader.u8()?;
        if let Some(comparison) = Comparison::from_wire(tag) {
            let column = reader.u16()?;
            return Ok(Condition::Column { column, comparison, value: ValueRef::parse(reader)? });
        }
        Ok(match tag {
            IS_NULL => Condition::IsNull(reader.u16()?),
            IS_NOT_NULL => Condition::IsNotNull(reader.u16()?),
            EXISTS => Condition::Exists,
            ABSENT => Condition::Absent,
            VERSION => {
                let comparison =
                    Comparison::from_wire(reader.u8()?).ok_or(Malformed("condition: no comparison"))?;
                let version = Version { epoch: Epoch(reader.u64()?), number: reader.u64()? };
                Condition::Version { comparison, version }
            }
            TOKEN => Condition::Token(reader.u64()?),
            ALL => Condition::All(Filter(reader.block()?)),
            ANY => Condition::Any(Filter(reader.block()?)),
            _ => return Err(Malformed("condition: unknown tag")),
        })
    }
}

/// An encoded list of conditions.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Filter<'a>(pub &'a [u8]);

impl<'a> Filter<'a> {
    /// Whether there is no condition in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The conditions; ends after the first error.
    pub fn conditions(&self) -> impl Iterator<Item = Result<Condition<'a>, Malformed>> + use<'a> {
        let mut reader = Reader::new(self.0, "condition");
        std::iter::from_fn(move || {
            let condition = if reader.is_empty() { return None } else { Condition::parse(&mut reader) };
            if condition.is_err() {
                reader = Reader::new(&[], "condition");
            }
            Some(condition)
        })
    }
}

/// Writes a list of conditions.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FilterBuilder {
    bytes: Vec<u8>,
}

impl FilterBuilder {
    /// An empty list.
    pub fn new() -> FilterBuilder {
        FilterBuilder::default()
    }

    /// The list.
    pub fn filter(&self) -> Filter<'_> {
        Filter(&self.bytes)
    }

    /// Adds a condition: the column compares so with the value.
    pub fn compare(
        &mut self,
        column: u16,
        comparison: Comparison,
        value: &ValueRef<'_>,
    ) -> &mut FilterBuilder {
        self.bytes.put_u8(comparison as u8);
        self.bytes.put_u16(column);
        value.encode(&mut self.bytes);
        self
    }

    /// Adds a condition: the column is NULL.
    pub fn is_null(&mut self, column: u16) -> &mut FilterBuilder {
        self.bytes.put_u8(IS_NULL);
        self.bytes.put_u16(column);
        self
    }

    /// Adds a condition: the column is not NULL.
    pub fn is_not_null(&mut self, column: u16) -> &mut FilterBuilder {
        self.bytes.put_u8(IS_NOT_NULL);
        self.bytes.put_u16(column);
        self
    }

    /// Adds a condition: there is a row.
    pub fn exists(&mut self) -> &mut FilterBuilder {
        self.bytes.put_u8(EXISTS);
        self
    }

    /// Adds a condition: there is no row.
    pub fn absent(&mut self) -> &mut FilterBuilder {
        self.bytes.put_u8(ABSENT);
        self
    }

    /// Adds a condition: the row's version compares so with this one.
    pub fn version(&mut self, comparison: Comparison, version: Version) -> &mut FilterBuilder {
        self.bytes.put_u8(VERSION);
        self.bytes.put_u8(comparison as u8);
        self.bytes.put_u64(version.epoch.0);
        self.bytes.put_u64(version.number);
        self
    }

    /// Adds a condition: the row's version has this [`Version::token`].
    pub fn token(&mut self, token: u64) -> &mut FilterBuilder {
        self.bytes.put_u8(TOKEN);
        self.bytes.put_u64(token);
        self
    }

    /// Adds a condition: all that `build` adds hold.
    pub fn all(
        &mut self,
        build: impl FnOnce(&mut FilterBuilder) -> &mut FilterBuilder,
    ) -> &mut FilterBuilder {
        self.list(ALL, build)
    }

    /// Adds a condition: one at least that `build` adds holds.
    pub fn any(
        &mut self,
        build: impl FnOnce(&mut FilterBuilder) -> &mut FilterBuilder,
    ) -> &mut FilterBuilder {
        self.list(ANY, build)
    }

    fn list(
        &mut self,
        tag: u8,
        build: impl FnOnce(&mut FilterBuilder) -> &mut FilterBuilder,
    ) -> &mut FilterBuilder {
        let mut list = FilterBuilder::new();
        build(&mut list);
        self.bytes.put_u8(tag);
        self.bytes.put_block(&list.bytes);
        self
    }

    fn put_list(&mut self, list: Filter<'_>) -> &mut FilterBuilder {
        self.bytes.put(list.0);
        self
    }

    /// Adds a condition that was read.
    pub fn condition(&mut self, condition: &Condition<'_>) -> &mut FilterBuilder {
        match condition {
            Condition::Column { column, comparison, value } => self.compare(*column, *comparison, value),
            Condition::IsNull(column) => self.is_null(*column),
            Condition::IsNotNull(column) => self.is_not_null(*column),
            Condition::Exists => self.exists(),
            Condition::Absent => self.absent(),
            Condition::Version { comparison, version } => self.version(*comparison, *version),
            Condition::Token(token) => self.token(*token),
            Condition::All(list) => self.all(|builder| builder.put_list(*list)),
            Condition::Any(list) => self.any(|builder| builder.put_list(*list)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::tests::any_value;

    /// Any list of conditions, some with lists in them.
    pub(crate) fn any_filter() -> impl Strategy<Value = FilterBuilder> {
        let comparison = || proptest::sample::select(Comparison::ALL.to_vec());
        let leaf = (0u8..7, comparison(), any::<u16>(), any::<(u64, u64)>(), any_value());
        let leaf = leaf.prop_map(|(kind, comparison, column, (epoch, number), value)| {
            let mut builder = FilterBuilder::new();
            match kind {
                0 => builder.compare(column, comparison, &value),
                1 => builder.is_null(column),
                2 => builder.is_not_null(column),
                3 => builder.exists(),
                4 => builder.absent(),
                5 => builder.token(epoch),
                _ => builder.version(comparison, Version { epoch: Epoch(epoch), number }),
            };
            builder
        });
        let join = |lists: Vec<FilterBuilder>| FilterBuilder {
            bytes: lists.into_iter().flat_map(|l| l.bytes).collect(),
        };
        leaf.prop_recursive(3, 12, 4, move |inner| {
            (proptest::collection::vec(inner, 0..4), 0u8..3).prop_map(move |(lists, kind)| {
                let list = join(lists);
                let mut builder = FilterBuilder::new();
                match kind {
                    0 => builder.all(|builder| builder.put_list(list.filter())),
                    1 => builder.any(|builder| builder.put_list(list.filter())),
                    _ => return list,
                };
                builder
            })
        })
    }

    /// Reads all of a list, to the depths, and writes it again.
    fn rewrite(list: Filter<'_>) -> Result<FilterBuilder, Malformed> {
        let mut builder = FilterBuilder::new();
        for condition in list.conditions() {
            match condition? {
                Condition::All(inner) => {
                    let inner = rewrite(inner)?;
                    builder.all(|builder| builder.put_list(inner.filter()));
                }
                Condition::Any(inner) => {
                    let inner = rewrite(inner)?;
                    builder.any(|builder| builder.put_list(inner.filter()));
                }
                condition => {
                    builder.condition(&condition);
                }
            }
        }
        Ok(builder)
    }

    proptest! {
        #[test]
        fn conditions_survive_the_wire(builder in any_filter()) {
            prop_assert_eq!(rewrite(builder.filter()), Ok(builder));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let count = Filter(&bytes).conditions().count();
            prop_assert!(count <= bytes.len());
        }
    }

    #[test]
    fn golden_conditions() {
        let mut builder = FilterBuilder::new();
        builder
            .compare(2, Comparison::GreaterOrEqual, &ValueRef::from("x"))
            .any(|any| any.is_null(1).absent());
        assert_eq!(builder.filter().0, [4, 2, 0, 6, 1, b'x', 13, 4, 0, 0, 0, 7, 1, 0, 10]);
    }

    #[test]
    fn comparisons_hold() {
        let orders = [Ordering::Less, Ordering::Equal, Ordering::Greater];
        let held = Comparison::ALL.map(|comparison| orders.map(|order| u8::from(comparison.holds(order))));
        assert_eq!(held, [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]]);
    }
}
