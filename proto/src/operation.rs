//! Operations on one row, as they travel. They are read in place, without allocation.
//!
//! ```text
//! operation: u8 kind, u8 flags, u16 bytes of the key, u32 table, u32 version of the schema, 16 bytes hash,
//!            u32 bytes of the body, key, body
//! flags:     bits 0–1: lock that a Read takes (0 none, 1 shared, 2 exclusive); the others are 0
//! body:      nothing, or u8 parts and those that it says, in this order:
//!            1   conditions: u32 bytes, list (crate::filter)
//!            2   expiry: u64
//!            4   columns to return of the row as it was: u16 how many, 0xFFFF all; u16 each
//!            8   likewise of the row as it becomes
//!            16  return version and expiry of the row as it was (nothing else follows here)
//!            32  row to put (Insert, Write): u32 bytes, body of the row (crate::row)
//!            64  assignments (Update; Write, for a row that exists): u32 bytes, assignments
//! assignment: u8 what, u16 column, value; the value of 5 and 6 is unsigned
//!            1 set, 2 add, 3 append, 4 prepend, 5 increment decimal text, 6 decrement it
//! ```
//!
//! What is executed, and in which order, stands with the code that does it, in the storage crate.

use crate::{
    filter::{Filter, FilterBuilder},
    ids::TableId,
    key::distribution_hash,
    limits::{COLUMNS_MAX, KEY_BYTES_MAX, ROW_BYTES_MAX},
    placement::KeyHash,
    schema::Schema,
    time::ClusterTime,
    value::ValueRef,
    wire::{Malformed, Reader, Writer},
};

pub use crate::result::{Refusal, ResultCode, ResultHead, ResultRef, ReturnedRow};

/// Bytes of an operation before its key.
pub const OPERATION_HEADER: usize = 32;
/// Bytes of an operation's body: a row, and as much again of conditions and assignments.
pub const OPERATION_BODY_MAX: usize = 2 * ROW_BYTES_MAX;

const LOCK_MASK: u8 = 3;
const ALL_COLUMNS: u16 = u16::MAX;

const _: () = assert!(KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(COLUMNS_MAX < ALL_COLUMNS as usize);

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum OperationKind {
    /// Reads the row.
    Read = 1,
    /// Puts a row where there is none.
    Insert = 2,
    /// Changes columns of a row that is there.
    Update = 3,
    /// Puts a row, there be one or not; or changes the one that is there.
    Write = 4,
    /// Deletes a row that is there.
    Delete = 5,
}

impl OperationKind {
    fn from_wire(kind: u8) -> Option<OperationKind> {
        use OperationKind::*;
        [Read, Insert, Update, Write, Delete].get(usize::from(kind).checked_sub(1)?).copied()
    }

    /// The parts that a body of this kind may have.
    fn parts(self) -> u8 {
        match self {
            OperationKind::Read => CONDITIONS | BEFORE | VERSION,
            OperationKind::Insert => EXPIRY | BEFORE | AFTER | VERSION | ROW,
            OperationKind::Update => CONDITIONS | EXPIRY | BEFORE | AFTER | VERSION | ASSIGNMENTS,
            OperationKind::Write => CONDITIONS | EXPIRY | BEFORE | AFTER | VERSION | ROW | ASSIGNMENTS,
            OperationKind::Delete => CONDITIONS | BEFORE | VERSION,
        }
    }

    /// Whether a body of this kind has to have a row.
    fn needs_row(self) -> bool {
        matches!(self, OperationKind::Insert | OperationKind::Write)
    }
}

/// The lock that an operation takes on its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum LockMode {
    /// None: a committed read.
    None = 0,
    /// Shared with other readers.
    Shared = 1,
    /// Alone.
    Exclusive = 2,
}

/// An operation, read in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OperationRef<'a> {
    /// What it does.
    pub kind: OperationKind,
    /// The lock that it takes. Writes take an exclusive one whatever their bytes say.
    pub lock: LockMode,
    /// The table.
    pub table: TableId,
    /// The version of the schema that it was made for.
    pub schema_version: u32,
    /// The hash of its distribution key, computed where it entered the cluster.
    pub hash: KeyHash,
    /// The encoded key.
    pub key: &'a [u8],
    /// The rest, for [`BodyRef::parse`].
    pub body: &'a [u8],
}

impl<'a> OperationRef<'a> {
    /// Reads one operation. Its key and body are only delimited: [`crate::key::check_key`] and [`BodyRef::parse`]
    /// look into them.
    pub fn parse(reader: &mut Reader<'a>) -> Result<OperationRef<'a>, Malformed> {
        let kind = OperationKind::from_wire(reader.u8()?).ok_or(Malformed("operation: unknown kind"))?;
        let flags = reader.u8()?;
        let lock = match flags {
            _ if flags & !LOCK_MASK != 0 => return Err(Malformed("operation: unknown flags")),
            _ if kind != OperationKind::Read => LockMode::Exclusive,
            0 => LockMode::None,
            1 => LockMode::Shared,
            2 => LockMode::Exclusive,
            _ => return Err(Malformed("operation: unknown lock")),
        };
        let key_length = usize::from(reader.u16()?);
        let table = TableId(reader.u32()?);
        let schema_version = reader.u32()?;
        let hash = KeyHash(reader.array()?);
        let body_length = reader.u32()? as usize;
        if key_length > KEY_BYTES_MAX || body_length > OPERATION_BODY_MAX {
            return Err(Malformed("operation: too long"));
        }
        let key = reader.bytes(key_length)?;
        let body = reader.bytes(body_length)?;
        Ok(OperationRef { kind, lock, table, schema_version, hash, key, body })
    }

    /// Appends it.
    ///
    /// # Panics
    /// Panics if key or body exceed their limits.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(OPERATION_HEADER + self.key.len() + self.body.len());
        let body_length = self.body.len();
        self.encode_head(body_length, out);
        out.put(self.body);
    }

    fn encode_head(&self, body_length: usize, out: &mut Vec<u8>) {
        assert!(self.key.len() <= KEY_BYTES_MAX, "a key of {} bytes", self.key.len());
        assert!(body_length <= OPERATION_BODY_MAX, "an operation with a body of {body_length} bytes");
        out.put_u8(self.kind as u8);
        out.put_u8(self.lock as u8);
        out.put_u16(self.key.len() as u16);
        out.put_u32(self.table.0);
        out.put_u32(self.schema_version);
        out.put(&self.hash.0);
        out.put_u32(body_length as u32);
        out.put(self.key);
    }

    /// Its body.
    pub fn parse_body(&self) -> Result<BodyRef<'a>, Malformed> {
        BodyRef::parse(self.kind, self.body)
    }

    /// Whether it may change the row.
    pub fn writes(&self) -> bool {
        self.kind != OperationKind::Read
    }
}

const CONDITIONS: u8 = 1;
const EXPIRY: u8 = 1 << 1;
const BEFORE: u8 = 1 << 2;
const AFTER: u8 = 1 << 3;
const VERSION: u8 = 1 << 4;
const ROW: u8 = 1 << 5;
const ASSIGNMENTS: u8 = 1 << 6;

/// The body of an operation, its parts delimited but not looked into.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BodyRef<'a> {
    /// Conditions, all of which have to hold.
    pub conditions: Filter<'a>,
    /// When the row is to expire; 0: never. Without it an existing row's stays, and a new one never does.
    pub expiry: Option<ClusterTime>,
    /// What to return of the row as it was.
    pub before: Projection<'a>,
    /// What to return of the row as it becomes.
    pub after: Projection<'a>,
    /// Whether to return version and expiry of the row as it was.
    pub version: bool,
    /// The body of the row to put.
    pub row: Option<&'a [u8]>,
    /// What to change in a row that is there. A Write with assignments puts its row only where there is none.
    pub assignments: Option<Assignments<'a>>,
}

impl<'a> BodyRef<'a> {
    /// Delimits the parts of a body.
    ///
    /// # Errors
    /// Where a part is cut short, or is none of this kind's, or is missing.
    pub fn parse(kind: OperationKind, body: &'a [u8]) -> Result<BodyRef<'a>, Malformed> {
        let mut result = BodyRef::default();
        if !body.is_empty() {
            let mut reader = Reader::new(body, "body of an operation");
            let parts = reader.u8()?;
            if parts & !kind.parts() != 0 {
                return Err(Malformed("body of an operation: a part that its kind does not have"));
            }
            let has = |part: u8| parts & part != 0;
            if has(CONDITIONS) {
                result.conditions = Filter(reader.block()?);
            }
            if has(EXPIRY) {
                result.expiry = Some(ClusterTime(reader.u64()?));
            }
            if has(BEFORE) {
                result.before = Projection::parse(&mut reader)?;
            }
            if has(AFTER) {
                result.after = Projection::parse(&mut reader)?;
            }
            result.version = has(VERSION);
            if has(ROW) {
                result.row = Some(reader.block()?);
            }
            if has(ASSIGNMENTS) {
                result.assignments = Some(Assignments(reader.block()?));
            }
            reader.finish()?;
        }
        if kind.needs_row() && result.row.is_none() {
            return Err(Malformed("body of an operation: no row"));
        }
        Ok(result)
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let part = |present: bool, part: u8| if present { part } else { 0 };
        let parts = part(!self.conditions.is_empty(), CONDITIONS)
            | part(self.expiry.is_some(), EXPIRY)
            | part(self.before != Projection::None, BEFORE)
            | part(self.after != Projection::None, AFTER)
            | part(self.version, VERSION)
            | part(self.row.is_some(), ROW)
            | part(self.assignments.is_some(), ASSIGNMENTS);
        if parts == 0 {
            return;
        }
        out.put_u8(parts);
        if !self.conditions.is_empty() {
            out.put_block(self.conditions.0);
        }
        if let Some(expiry) = self.expiry {
            out.put_u64(expiry.0);
        }
        self.before.encode(out);
        self.after.encode(out);
        if let Some(row) = self.row {
            out.put_block(row);
        }
        if let Some(assignments) = self.assignments {
            out.put_block(assignments.0);
        }
    }
}

/// Which columns of a row to return.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Projection<'a> {
    /// None; the row is not returned.
    #[default]
    None,
    /// The whole row, as it is in memory.
    All,
    /// Some, each a little-endian u16.
    Columns(&'a [u8]),
}

impl<'a> Projection<'a> {
    fn parse(reader: &mut Reader<'a>) -> Result<Projection<'a>, Malformed> {
        match reader.u16()? {
            ALL_COLUMNS => Ok(Projection::All),
            count if usize::from(count) > COLUMNS_MAX => Err(Malformed("projection: too many columns")),
            count => Ok(Projection::Columns(reader.bytes(usize::from(count) * 2)?)),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Projection::None => {}
            Projection::All => out.put_u16(ALL_COLUMNS),
            Projection::Columns(columns) => {
                assert!(columns.len() / 2 <= COLUMNS_MAX, "a projection of {} columns", columns.len() / 2);
                out.put_u16((columns.len() / 2) as u16);
                out.put(columns);
            }
        }
    }

    /// The columns of a list, by index.
    pub fn columns(&self) -> impl Iterator<Item = u16> + use<'a> {
        let bytes: &'a [u8] = if let Projection::Columns(bytes) = self { bytes } else { &[] };
        bytes.as_chunks::<2>().0.iter().map(|&index| u16::from_le_bytes(index))
    }
}

/// What an assignment does to its column. NULL stays NULL but for `Set`.
#[derive(Clone, PartialEq, Debug)]
pub enum Change<'a> {
    /// Takes this value.
    Set(ValueRef<'a>),
    /// Adds this number, which may be negative.
    Add(ValueRef<'a>),
    /// Adds these bytes at the end.
    Append(ValueRef<'a>),
    /// Adds these bytes at the front.
    Prepend(ValueRef<'a>),
    /// Adds to a number that stands there in ASCII digits, modulo 2^64, as memcached's `incr` does.
    Increment(u64),
    /// Subtracts from a number that stands there in ASCII digits, down to 0, as memcached's `decr` does.
    Decrement(u64),
}

/// One assignment of an Update.
#[derive(Clone, PartialEq, Debug)]
pub struct Assignment<'a> {
    /// Index of the column.
    pub column: u16,
    /// What becomes of it.
    pub change: Change<'a>,
}

impl<'a> Assignment<'a> {
    fn parse(reader: &mut Reader<'a>) -> Result<Assignment<'a>, Malformed> {
        let what = reader.u8()?;
        let column = reader.u16()?;
        let value = ValueRef::parse(reader)?;
        let change = match (what, value) {
            (1, value) => Change::Set(value),
            (2, value) => Change::Add(value),
            (3, value) => Change::Append(value),
            (4, value) => Change::Prepend(value),
            (5, ValueRef::UInt(number)) => Change::Increment(number),
            (6, ValueRef::UInt(number)) => Change::Decrement(number),
            _ => return Err(Malformed("assignment: unknown change")),
        };
        Ok(Assignment { column, change })
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (what, value) = match &self.change {
            Change::Set(value) => (1, value),
            Change::Add(value) => (2, value),
            Change::Append(value) => (3, value),
            Change::Prepend(value) => (4, value),
            Change::Increment(number) => (5, &ValueRef::UInt(*number)),
            Change::Decrement(number) => (6, &ValueRef::UInt(*number)),
        };
        out.put_u8(what);
        out.put_u16(self.column);
        value.encode(out);
    }
}

/// Encoded assignments.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Assignments<'a>(pub &'a [u8]);

impl<'a> Assignments<'a> {
    /// The assignments; ends after the first error.
    pub fn iter(&self) -> impl Iterator<Item = Result<Assignment<'a>, Malformed>> + use<'a> {
        let mut reader = Reader::new(self.0, "assignment");
        std::iter::from_fn(move || {
            let assignment = if reader.is_empty() { return None } else { Assignment::parse(&mut reader) };
            if assignment.is_err() {
                reader = Reader::new(&[], "assignment");
            }
            Some(assignment)
        })
    }
}

/// Which columns of a row to return, owned.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Columns {
    /// None.
    #[default]
    None,
    /// The whole row.
    All,
    /// These.
    List(Vec<u16>),
}

/// An operation that owns its parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// What it does.
    pub kind: OperationKind,
    /// The lock that a Read takes.
    pub lock: LockMode,
    /// The table.
    pub table: TableId,
    /// The version of the schema that it was made for.
    pub schema_version: u32,
    /// The hash of its distribution key.
    pub hash: KeyHash,
    /// The encoded key.
    pub key: Vec<u8>,
    /// See [`BodyRef::conditions`].
    pub conditions: FilterBuilder,
    /// See [`BodyRef::expiry`].
    pub expiry: Option<ClusterTime>,
    /// See [`BodyRef::before`].
    pub before: Columns,
    /// See [`BodyRef::after`].
    pub after: Columns,
    /// See [`BodyRef::version`].
    pub version: bool,
    /// See [`BodyRef::row`].
    pub row: Option<Vec<u8>>,
    /// See [`BodyRef::assignments`].
    assignments: Option<Vec<u8>>,
}

impl Operation {
    /// An operation on the row with this key, without anything else. Insert and Write need a row yet.
    ///
    /// # Errors
    /// If the key is none of the table's.
    pub fn new(kind: OperationKind, schema: &Schema, key: Vec<u8>) -> Result<Operation, Malformed> {
        let hash = distribution_hash(schema, &key)?;
        Ok(Operation {
            kind,
            lock: if kind == OperationKind::Read { LockMode::None } else { LockMode::Exclusive },
            table: schema.id,
            schema_version: schema.version,
            hash,
            key,
            conditions: FilterBuilder::new(),
            expiry: None,
            before: Columns::None,
            after: Columns::None,
            version: false,
            row: None,
            assignments: (kind == OperationKind::Update).then(Vec::new),
        })
    }

    /// Adds an assignment. A Write that has one puts its row only where there is none.
    pub fn assign(&mut self, column: u16, change: Change<'_>) -> &mut Operation {
        Assignment { column, change }.encode(self.assignments.get_or_insert_default());
        self
    }

    /// A Write that puts its row only where there is none; assignments may follow for a row that is there.
    pub fn keep_existing(&mut self) -> &mut Operation {
        self.assignments.get_or_insert_default();
        self
    }

    /// Appends it.
    ///
    /// # Panics
    /// Panics if key or body exceed their limits.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let list = |columns: &Columns| match columns {
            Columns::List(list) => list.iter().flat_map(|index| index.to_le_bytes()).collect(),
            _ => Vec::new(),
        };
        let (before, after) = (list(&self.before), list(&self.after));
        fn projection<'a>(columns: &Columns, list: &'a [u8]) -> Projection<'a> {
            match columns {
                Columns::None => Projection::None,
                Columns::All => Projection::All,
                Columns::List(_) => Projection::Columns(list),
            }
        }
        let mut body = Vec::new();
        BodyRef {
            conditions: self.conditions.filter(),
            expiry: self.expiry,
            before: projection(&self.before, &before),
            after: projection(&self.after, &after),
            version: self.version,
            row: self.row.as_deref(),
            assignments: self.assignments.as_deref().map(Assignments),
        }
        .encode(&mut body);
        OperationRef {
            kind: self.kind,
            lock: self.lock,
            table: self.table,
            schema_version: self.schema_version,
            hash: self.hash,
            key: &self.key,
            body: &body,
        }
        .encode(out);
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

#[cfg(test)]
#[path = "operation_tests.rs"]
mod tests;
