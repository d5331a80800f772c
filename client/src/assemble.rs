//! Operations by names: columns and values are checked against a table before anything is sent, so most mistakes are
//! named without asking a data node.

use std::sync::Arc;

use twofold_apinode::request::{Failure, Operations};
use twofold_proto::{
    error::{Error, ErrorCode, counted},
    filter::{Comparison, FilterBuilder},
    ids::TableId,
    key::{encode_key, hash_distribution_key},
    limits::{REQUEST_OPERATIONS_MAX, TRANSACTION_BYTES_MAX},
    operation::{
        Change, Columns, LockMode, OPERATION_BODY_MAX, Operation, OperationKind, Refusal, ResultCode,
    },
    placement::KeyHash,
    row::encode_row,
    schema::{Column, Schema, Table},
    value::ValueRef,
};

/// What the result of an operation is read by.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its table.
    pub schema: Arc<Schema>,
    /// What it does.
    pub kind: OperationKind,
    /// The columns that are returned of the row as it was.
    pub before: Vec<u16>,
    /// The columns that are returned of the row as it becomes.
    pub after: Vec<u16>,
}

fn error<T>(code: ErrorCode, text: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(code, text))
}

/// The index of the column of this name.
///
/// # Errors
/// If there is none.
pub fn column(schema: &Schema, name: &str) -> Result<u16, Error> {
    match schema.column_index(name) {
        Some(index) => Ok(index),
        None => error(ErrorCode::BadColumn, format!("table `{}` has no column `{name}`", schema.name)),
    }
}

fn twice<T>(schema: &Schema, index: u16) -> Result<T, Error> {
    let name = &schema.columns[usize::from(index)].name;
    error(ErrorCode::BadColumn, format!("column `{name}` of table `{}` is named twice", schema.name))
}

/// The columns that are named, or all if none is.
///
/// # Errors
/// If there is no such column, or it is named twice.
pub fn columns(schema: &Schema, names: &[String]) -> Result<Vec<u16>, Error> {
    if names.is_empty() {
        return Ok((0..schema.columns.len() as u16).collect());
    }
    let mut indexes = Vec::with_capacity(names.len().min(schema.columns.len()));
    for name in names {
        let index = column(schema, name)?;
        if indexes.contains(&index) {
            return twice(schema, index);
        }
        indexes.push(index);
    }
    Ok(indexes)
}

/// Adds to a filter that a column compares so with a value.
///
/// # Errors
/// If there is no such column, or the value is of another kind.
pub fn compare(
    filter: &mut FilterBuilder,
    schema: &Schema,
    name: &str,
    comparison: Comparison,
    value: &ValueRef<'_>,
) -> Result<(), Error> {
    let index = column(schema, name)?;
    let fits = schema.columns[usize::from(index)].column_type.fit(value.borrowed());
    if fits == Err(ResultCode::WrongType) {
        return Err(Refusal::of_column(index)(ResultCode::WrongType).error_of_value(schema, value));
    }
    filter.compare(index, comparison, value);
    Ok(())
}

/// The encoded primary key of these values.
///
/// # Errors
/// If they do not fit.
pub fn key(schema: &Schema, values: &[ValueRef<'_>]) -> Result<Vec<u8>, Error> {
    let columns = schema.primary_key.len();
    if values.len() != columns {
        let text = format!(
            "the primary key of table `{}` has {}, not {}",
            schema.name,
            counted(columns, "column"),
            values.len()
        );
        return error(ErrorCode::BadValue, text);
    }
    let mut key = Vec::new();
    encode_key(schema, values, &mut key).map_err(|refusal| match refusal.code {
        ResultCode::RowTooBig => Error { code: ErrorCode::KeyTooLarge, ..refusal.error(schema, None) },
        _ => {
            let place = schema.primary_key.iter().position(|&index| Some(index) == refusal.column);
            match place.and_then(|place| values.get(place)) {
                Some(value) => refusal.error_of_value(schema, value),
                None => refusal.error(schema, None),
            }
        }
    })?;
    Ok(key)
}

/// Where rows with this distribution key live.
///
/// # Errors
/// If the values do not fit.
pub fn distribution_key(schema: &Schema, values: &[ValueRef<'_>]) -> Result<KeyHash, Error> {
    let columns = schema.distribution_key.len();
    if values.len() != columns {
        let text =
            format!("the distribution key of table `{}` has {}", schema.name, counted(columns, "column"));
        return error(ErrorCode::BadValue, text);
    }
    hash_distribution_key(schema, values).map_err(|refusal| refusal.error(schema, None))
}

/// Key and body of a row.
fn row<'v>(
    schema: &Schema,
    named: impl Iterator<Item = Result<(&'v str, ValueRef<'v>), Error>>,
) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut values: Vec<Option<ValueRef<'v>>> = vec![None; schema.columns.len()];
    for given in named {
        let (name, value) = given?;
        let index = column(schema, name)?;
        if values[usize::from(index)].replace(value).is_some() {
            return twice(schema, index);
        }
    }
    let filled = values.into_iter().zip(&schema.columns).enumerate().map(|(index, (given, column))| {
        let in_key = schema.primary_key.contains(&(index as u16));
        match given {
            Some(value) => Ok(value),
            None if in_key || column.default.is_none() && !column.nullable => {
                let text =
                    format!("a row of table `{}` needs a value for column `{}`", schema.name, column.name);
                error(ErrorCode::BadValue, text)
            }
            None => Ok(column.default_value()),
        }
    });
    let values: Vec<ValueRef<'_>> = filled.collect::<Result<_, _>>()?;
    encode_row(schema, &values).map_err(|refusal| {
        match refusal.column.and_then(|index| values.get(usize::from(index))) {
            Some(value) => refusal.error_of_value(schema, value),
            None => refusal.error(schema, None),
        }
    })
}

/// A table to be created; id and version are yet to be given. Keys are columns by name; without a distribution key it is
/// the primary key.
///
/// # Errors
/// What is wrong with it.
pub fn table(
    name: String,
    columns: Vec<Column>,
    primary_key: &[String],
    distribution_key: &[String],
) -> Result<Table, Error> {
    let bad = |text: String| Error::new(ErrorCode::BadTable, text);
    let indexes = |names: &[String], what: &str| {
        let index = |key: &String| {
            let found = columns.iter().position(|column| column.name.eq_ignore_ascii_case(key));
            let missing = || bad(format!("table `{name}`: {what}: there is no column `{key}`"));
            found.map(|index| index as u16).ok_or_else(missing)
        };
        names.iter().map(index).collect::<Result<Vec<u16>, Error>>()
    };
    let primary_key = indexes(primary_key, "primary key")?;
    let distribution_key = match distribution_key.is_empty() {
        true => primary_key.clone(),
        false => indexes(distribution_key, "distribution key")?,
    };
    let (id, indexes) = (TableId(0), Vec::new());
    let table = Table { id, name, version: 1, columns, primary_key, distribution_key, indexes };
    table.check().map_err(|invalid| bad(invalid.0))?;
    Ok(table)
}

/// One operation as it is put together.
#[derive(Clone, Debug)]
pub struct Assembly {
    /// The operation; what is set of it directly is not checked.
    pub operation: Operation,
    /// What its result is read by.
    pub shape: Shape,
    /// Bytes of what was added, about.
    bytes: usize,
    assigned: Vec<u16>,
}

impl Assembly {
    /// An operation on the row with this key, by [`key`].
    ///
    /// # Errors
    /// If the key is none of the table's.
    pub fn new(kind: OperationKind, schema: &Arc<Schema>, key: Vec<u8>) -> Result<Assembly, Error> {
        let shape = Shape { schema: schema.clone(), kind, before: Vec::new(), after: Vec::new() };
        Ok(Assembly { operation: Operation::new(kind, schema, key)?, bytes: 0, shape, assigned: Vec::new() })
    }

    /// An insert or write of a row, by column; those not named take their default.
    ///
    /// # Errors
    /// If the row is none of the table's; or the first of those given.
    pub fn of_row<'v>(
        kind: OperationKind,
        schema: &Arc<Schema>,
        named: impl Iterator<Item = Result<(&'v str, ValueRef<'v>), Error>>,
    ) -> Result<Assembly, Error> {
        let (key, body) = row(schema, named)?;
        let mut assembly = Assembly::new(kind, schema, key)?;
        assembly.bytes += body.len();
        assembly.operation.row = Some(body);
        Ok(assembly)
    }

    /// Only if these hold.
    pub fn conditions(&mut self, conditions: FilterBuilder) {
        self.bytes += conditions.filter().0.len();
        self.operation.conditions = conditions;
    }

    /// Returns these columns of the row as it was; all, if none is named.
    ///
    /// # Errors
    /// As [`columns`].
    pub fn before(&mut self, names: &[String]) -> Result<(), Error> {
        self.shape.before = columns(&self.shape.schema, names)?;
        self.operation.before = Columns::List(self.shape.before.clone());
        Ok(())
    }

    /// Returns these columns of the row as it becomes; all, if none is named.
    ///
    /// # Errors
    /// As [`columns`].
    pub fn after(&mut self, names: &[String]) -> Result<(), Error> {
        self.shape.after = columns(&self.shape.schema, names)?;
        self.operation.after = Columns::List(self.shape.after.clone());
        Ok(())
    }

    /// Changes a column.
    ///
    /// # Errors
    /// If there is no such column, it is in the primary key or has been changed already, or the value does not fit.
    pub fn assign(&mut self, name: &str, change: Change<'_>) -> Result<(), Error> {
        let schema = &self.shape.schema;
        let index = column(schema, name)?;
        if self.assigned.contains(&index) {
            return twice(schema, index);
        }
        if schema.primary_key.contains(&index) {
            let text =
                format!("column `{name}` of table `{}` is in the primary key, which stays", schema.name);
            return error(ErrorCode::BadColumn, text);
        }
        self.bytes += 16;
        if let Change::Set(value) | Change::Append(value) | Change::Prepend(value) = &change {
            self.bytes += value.as_bytes().map_or(0, <[u8]>::len);
        }
        if let Change::Set(value) = &change {
            let fits = schema.columns[usize::from(index)].fit(value.borrowed());
            fits.map_err(|code| Refusal::of_column(index)(code).error_of_value(schema, value))?;
        }
        self.fits()?;
        self.assigned.push(index);
        self.operation.assign(index, change);
        Ok(())
    }

    /// Looks whether it is small enough to be encoded.
    ///
    /// # Errors
    /// [`ErrorCode::TooLarge`].
    pub fn fits(&self) -> Result<(), Error> {
        let columns = 2 * (self.shape.before.len() + self.shape.after.len());
        // Room for lengths and the like.
        if self.bytes + columns + 256 > OPERATION_BODY_MAX {
            let text = format!(
                "an operation on table `{}` has more than {OPERATION_BODY_MAX} bytes",
                self.shape.schema.name
            );
            return error(ErrorCode::TooLarge, text);
        }
        Ok(())
    }
}

/// Operations of a request, and the shapes of their results.
#[derive(Debug, Default)]
pub struct Assembled {
    /// The operations.
    pub operations: Operations,
    /// One for each of them.
    pub shapes: Vec<Shape>,
    /// A read among them takes a lock.
    pub locks: bool,
}

impl Assembled {
    /// All of these.
    ///
    /// # Errors
    /// The first one that is wrong, and how; or that they are too many or too large.
    pub fn new(given: impl ExactSizeIterator<Item = Result<Assembly, Error>>) -> Result<Assembled, Failure> {
        if given.len() > REQUEST_OPERATIONS_MAX {
            let text =
                format!("a request has {} operations; the most is {REQUEST_OPERATIONS_MAX}", given.len());
            return Err(Error::new(ErrorCode::TooLarge, text).into());
        }
        let mut assembled = Assembled::default();
        for (index, assembly) in given.enumerate() {
            let at = |error: Error| Failure { operation: Some(index as u16), ..error.into() };
            let assembly = assembly.and_then(|assembly| assembly.fits().map(|()| assembly));
            let Assembly { operation, shape, .. } = assembly.map_err(at)?;
            assembled.locks |= operation.kind == OperationKind::Read && operation.lock != LockMode::None;
            operation.encode(&mut assembled.operations.bytes);
            assembled.operations.count += 1;
            assembled.shapes.push(shape);
            if assembled.operations.bytes.len() > TRANSACTION_BYTES_MAX {
                let text =
                    format!("the operations of a request have more than {TRANSACTION_BYTES_MAX} bytes");
                return Err(at(Error::new(ErrorCode::TooLarge, text)));
            }
        }
        Ok(assembled)
    }
}
