//! What operations return.

use std::{ops, sync::Arc};

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::Version,
    operation::{OperationKind, Refusal, ResultCode, ResultRef, ReturnedRow},
    schema::Schema,
    time::ClusterTime,
    value::Value,
    wire::{Malformed, Reader},
};

use crate::assemble::Shape;

/// The columns of a row that were asked for, in that order.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    schema: Arc<Schema>,
    columns: Arc<[u16]>,
    values: Vec<Value>,
}

impl Row {
    pub(crate) fn new(
        schema: &Arc<Schema>,
        columns: &Arc<[u16]>,
        returned: &ReturnedRow<'_>,
    ) -> Result<Row, Error> {
        let values = returned.values().map(|value| Ok(value?.into_owned()));
        let values: Vec<Value> = values.collect::<Result<_, Malformed>>()?;
        if values.len() != columns.len() {
            return Err(Error::new(ErrorCode::Internal, "a row was returned with other columns"));
        }
        Ok(Row { schema: schema.clone(), columns: columns.clone(), values })
    }

    /// The value of a column, if it was asked for.
    pub fn get(&self, column: &str) -> Option<&Value> {
        let index = self.schema.column_index(column)?;
        let place = self.columns.iter().position(|&of| of == index)?;
        self.values.get(place)
    }

    /// The names and values.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        let names = self.columns.iter().map(|&index| self.schema.columns[usize::from(index)].name.as_str());
        names.zip(&self.values)
    }

    /// The values alone.
    pub fn into_values(self) -> Vec<Value> {
        self.values
    }
}

impl ops::Index<&str> for Row {
    type Output = Value;

    /// # Panics
    /// Panics if the column was not asked for; [`Row::get`] does not.
    fn index(&self, column: &str) -> &Value {
        self.get(column).unwrap_or_else(|| panic!("there is no column `{column}` in this row"))
    }
}

/// What an operation did.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// Whether there was a row.
    pub existed: bool,
    /// Whether the row has become another one.
    pub changed: bool,
    /// Of a read: the row. Of a write: the row as it becomes, if it was asked for.
    pub row: Option<Row>,
    /// The row as it was, if it was asked for.
    pub old_row: Option<Row>,
    /// The version of the row as it was, if it was asked for and there was a row.
    pub version: Option<Version>,
    /// When the row as it was is to disappear, in milliseconds since 1970, if the version was asked for; 0: never.
    pub expires_at: ClusterTime,
}

impl Outcome {
    /// What an operation of this shape has answered.
    pub(crate) fn read(shape: &Shape, bytes: &[u8]) -> Result<Outcome, Error> {
        let result = ResultRef::parse(&mut Reader::new(bytes, "result"))?;
        let head = &result.head;
        let is_read = shape.kind == OperationKind::Read;
        match head.code {
            ResultCode::Ok => {}
            // That a row is not there is what the read was to find out.
            ResultCode::NotFound if is_read => return Ok(Outcome::default()),
            code => return Err(Refusal { code, column: head.column }.error(&shape.schema, None)),
        }
        let row = |columns: &[u16], returned: Option<ReturnedRow<'_>>| {
            returned.map(|returned| Row::new(&shape.schema, &columns.into(), &returned)).transpose()
        };
        let (before, after) = (row(&shape.before, result.before)?, row(&shape.after, result.after)?);
        let (old_row, row) = if is_read { (None, before) } else { (before, after) };
        Ok(Outcome {
            existed: head.existed,
            changed: head.changed,
            row,
            old_row,
            version: head.version,
            expires_at: head.expiry,
        })
    }
}
