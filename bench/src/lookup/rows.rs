//! The table, and the operations on its rows.

use twofold_proto::{
    ids::TableId,
    operation::{
        Assignment, Assignments, BodyRef, Change, LockMode, OperationKind, OperationRef, Projection,
        ResultCode, ResultRef, ReturnedRow,
    },
    placement::KeyHash,
    row::encode_body,
    schema::{Column, ColumnType, Schema, Table},
    value::ValueRef,
    wire::Reader,
};

/// Bytes of a column of a row.
pub const COLUMN_BYTES: usize = 4;

/// A table of an 8-byte key and `columns` columns of four bytes.
pub fn table(name: &str, columns: usize) -> Table {
    let number = |index: usize| Column::new(format!("c{index}"), ColumnType::U32);
    Table {
        id: TableId::default(),
        name: name.into(),
        version: 1,
        columns: std::iter::once(Column::new("id", ColumnType::U64))
            .chain((1..=columns).map(number))
            .collect(),
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
    }
}

/// What is done with rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
pub enum Phase {
    /// Puts each row
    Insert,
    /// Changes rows
    Update,
    /// Reads whole rows
    Read,
    /// Deletes each row
    Delete,
}

impl Phase {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Insert => "insert",
            Phase::Update => "update",
            Phase::Read => "read",
            Phase::Delete => "delete",
        }
    }

    /// Whether it has to do with each row once.
    pub fn is_pass(self) -> bool {
        matches!(self, Phase::Insert | Phase::Delete)
    }
}

/// Makes the operations of one phase. A row's first column holds the lower half of its key, so that whose row was
/// read shows.
#[derive(Clone, Debug)]
pub struct Operations {
    kind: OperationKind,
    table: TableId,
    schema_version: u32,
    key: [u8; 8],
    /// Of each operation, but for what depends on its key.
    body: Vec<u8>,
    /// Where in the body the first column is, and one that changes with each operation.
    first: Option<usize>,
    changing: Option<usize>,
    counter: u32,
    columns: usize,
}

impl Operations {
    /// Those of this phase on a table of [`table`]. An update puts a new row in the place of the old, or, with
    /// `assigned`, assigns the last so many columns.
    ///
    /// # Panics
    /// Panics if all columns are to be assigned, or more: the first one stays.
    pub fn new(phase: Phase, schema: &Schema, assigned: usize) -> Operations {
        let columns = schema.columns.len() - 1;
        assert!(assigned < columns, "{assigned} of {columns} columns");
        let kind = match phase {
            Phase::Insert => OperationKind::Insert,
            Phase::Update if assigned > 0 => OperationKind::Update,
            Phase::Update => OperationKind::Write,
            Phase::Read => OperationKind::Read,
            Phase::Delete => OperationKind::Delete,
        };
        let (mut body, mut first, mut changing) = (Vec::new(), None, None);
        match kind {
            OperationKind::Read => {
                BodyRef { before: Projection::All, ..BodyRef::default() }.encode(&mut body)
            }
            OperationKind::Delete => {}
            OperationKind::Insert | OperationKind::Write => {
                let row = row(schema, columns);
                BodyRef { row: Some(&row), ..BodyRef::default() }.encode(&mut body);
                // Fixed-width columns end the row, one after the other.
                first = Some(body.len() - columns * COLUMN_BYTES);
                changing = (columns > 1).then(|| body.len() - COLUMN_BYTES);
            }
            OperationKind::Update => {
                let mut assignments = Vec::new();
                for column in columns + 1 - assigned..=columns {
                    let change = Change::Set(ValueRef::UInt(column as u64));
                    Assignment { column: column as u16, change }.encode(&mut assignments);
                }
                BodyRef { assignments: Some(Assignments(&assignments)), ..BodyRef::default() }
                    .encode(&mut body);
                // The last value ends it, in eight bytes.
                changing = Some(body.len() - 8);
            }
        }
        let (table, schema_version) = (schema.id, schema.version);
        Operations { kind, table, schema_version, key: [0; 8], body, first, changing, counter: 0, columns }
    }

    /// The operation on the row with this key.
    #[inline]
    pub fn on(&mut self, key: u64) -> OperationRef<'_> {
        self.key = key.to_be_bytes();
        if let Some(first) = self.first {
            self.body[first..first + COLUMN_BYTES].copy_from_slice(&(key as u32).to_le_bytes());
        }
        if let Some(changing) = self.changing {
            self.counter = self.counter.wrapping_add(1);
            self.body[changing..changing + COLUMN_BYTES].copy_from_slice(&self.counter.to_le_bytes());
        }
        OperationRef {
            kind: self.kind,
            lock: if self.kind == OperationKind::Read { LockMode::None } else { LockMode::Exclusive },
            table: self.table,
            schema_version: self.schema_version,
            hash: KeyHash::of(&self.key),
            key: &self.key,
            body: &self.body,
        }
    }

    /// Whether the operation on this key was done, and a row that was read is its own.
    ///
    /// # Errors
    /// What was answered instead.
    #[inline]
    pub fn check(&self, key: u64, result: &[u8]) -> Result<(), String> {
        let result = ResultRef::parse(&mut Reader::new(result, "result"))
            .map_err(|malformed| malformed.to_string())?;
        if result.head.code != ResultCode::Ok {
            return Err(result.head.code.to_string());
        }
        match (self.kind, result.before) {
            (OperationKind::Read, Some(ReturnedRow::Whole { body, .. })) => {
                let first = body.len().checked_sub(self.columns * COLUMN_BYTES);
                let first = first.and_then(|first| body.get(first..first + COLUMN_BYTES));
                if first == Some(&(key as u32).to_le_bytes()[..]) {
                    Ok(())
                } else {
                    Err("a wrong row".into())
                }
            }
            (OperationKind::Read, _) => Err("no row in the answer".into()),
            (OperationKind::Write, _) if !result.head.existed => Err("there was no row".into()),
            _ => Ok(()),
        }
    }
}

fn row(schema: &Schema, columns: usize) -> Vec<u8> {
    let mut values = vec![ValueRef::UInt(0)];
    values.extend((1..=columns as u64).map(ValueRef::UInt));
    let mut body = Vec::new();
    encode_body(schema, &values, &mut body).expect("the values fit");
    body
}

#[cfg(test)]
mod tests {
    use twofold_proto::{result::ResultHead, row::check_row};

    use super::*;

    fn schema() -> Schema {
        Schema::new(table("t", 25)).unwrap()
    }

    #[test]
    fn a_row_is_its_key_and_100_bytes() {
        let schema = schema();
        let mut insert = Operations::new(Phase::Insert, &schema, 0);
        let operation = insert.on(0x1_0000_0007);
        let row = operation.parse_body().unwrap().row.unwrap();
        check_row(&schema, operation.key, row).unwrap();
        let bitmap = 4;
        assert_eq!((operation.key, row.len()), (&[0, 0, 0, 1, 0, 0, 0, 7][..], bitmap + 100));
        let read = twofold_proto::row::RowRef::new(&schema, 1, operation.key, row).unwrap();
        assert_eq!(read.get(1), Ok(ValueRef::UInt(7)));
        assert_eq!(read.get(24), Ok(ValueRef::UInt(24)));
        assert_eq!(read.get(25), Ok(ValueRef::UInt(1)), "the last column counts");
    }

    #[test]
    fn an_update_puts_a_row_or_assigns_the_last_columns() {
        let schema = schema();
        let mut write = Operations::new(Phase::Update, &schema, 0);
        let operation = write.on(5);
        assert_eq!(operation.kind, OperationKind::Write);
        check_row(&schema, operation.key, operation.parse_body().unwrap().row.unwrap()).unwrap();
        let mut update = Operations::new(Phase::Update, &schema, 2);
        update.on(5);
        let operation = update.on(6);
        let assignments = operation.parse_body().unwrap().assignments.unwrap();
        let assignments: Vec<_> = assignments.iter().map(|assignment| assignment.unwrap()).collect();
        let set = |column, value| Assignment { column, change: Change::Set(ValueRef::UInt(value)) };
        assert_eq!(assignments, [set(24, 24), set(25, 2)]);
    }

    #[test]
    fn answers_are_checked() {
        let schema = schema();
        let mut insert = Operations::new(Phase::Insert, &schema, 0);
        let operation = insert.on(9);
        let row = operation.parse_body().unwrap().row.unwrap();
        let mut answer = Vec::new();
        let head = ResultHead { existed: true, ..ResultHead::new(ResultCode::Ok) };
        ResultHead { before: true, ..head }.encode(&mut answer);
        ReturnedRow::encode_whole(1, row, &mut answer);
        let read = Operations::new(Phase::Read, &schema, 0);
        assert_eq!(read.check(9, &answer), Ok(()));
        assert_eq!(read.check(10, &answer), Err("a wrong row".into()));
        let mut short = Vec::new();
        head.encode(&mut short);
        assert_eq!(read.check(9, &short), Err("no row in the answer".into()));
        assert!(read.check(9, &answer[..answer.len() - 1]).is_err());
        let mut missing = Vec::new();
        ResultHead::new(ResultCode::NotFound).encode(&mut missing);
        assert_eq!(read.check(9, &missing), Err(ResultCode::NotFound.to_string()));
        let write = Operations::new(Phase::Update, &schema, 0);
        assert_eq!(write.check(9, &short), Ok(()));
        let mut created = Vec::new();
        ResultHead::new(ResultCode::Ok).encode(&mut created);
        assert_eq!(write.check(9, &created), Err("there was no row".into()));
    }
}
