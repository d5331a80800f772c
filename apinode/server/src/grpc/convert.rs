//! Requests in protobuf → operations, checked against the tables.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use twofold_apinode::request::{Durability, Failure, Isolation, Operations, Options};
use twofold_grpc::v1 as pb;
use twofold_proto::{
    error::{Error, ErrorCode, counted},
    filter::{Comparison, FILTER_DEPTH_MAX, FilterBuilder},
    ids::{Epoch, Version},
    key::{encode_key, hash_distribution_key},
    limits::{REQUEST_OPERATIONS_MAX, TRANSACTION_BYTES_MAX},
    operation::{
        Change, Columns, LockMode, OPERATION_BODY_MAX, Operation, OperationKind, Refusal, ResultCode,
    },
    row::encode_row,
    schema::{ColumnType, Schema},
    time::{ClusterTime, Duration},
    value::ValueRef,
};

use crate::handle::Tables;

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

/// Operations, and the shapes of their results.
#[derive(Debug, Default)]
pub struct Converted {
    /// The operations.
    pub operations: Operations,
    /// One for each of them.
    pub shapes: Vec<Shape>,
    /// A read among them takes a lock.
    pub locks: bool,
}

type Named = BTreeMap<String, pb::Value>;

fn error<T>(code: ErrorCode, text: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(code, text))
}

/// The value.
///
/// # Errors
/// If it is none, or no number.
pub fn value(value: &pb::Value) -> Result<ValueRef<'_>, Error> {
    use pb::value::Kind;
    Ok(match &value.kind {
        Some(Kind::NullValue(_)) => ValueRef::Null,
        Some(Kind::BoolValue(value)) => ValueRef::Bool(*value),
        Some(Kind::IntValue(value)) => ValueRef::Int(*value),
        Some(Kind::UintValue(value)) => ValueRef::UInt(*value),
        Some(Kind::FloatValue(value)) if value.is_finite() => ValueRef::Float(*value),
        Some(Kind::FloatValue(value)) => {
            return error(ErrorCode::BadValue, format!("{value} is no finite number"));
        }
        Some(Kind::TextValue(text)) => ValueRef::from(text.as_str()),
        Some(Kind::BytesValue(bytes)) => ValueRef::Binary(Cow::Borrowed(bytes)),
        None => return error(ErrorCode::BadValue, "a value is not set; say null_value for NULL"),
    })
}

/// The index of the column of this name.
fn column(schema: &Schema, name: &str) -> Result<u16, Error> {
    match schema.column_index(name) {
        Some(index) => Ok(index),
        None => error(ErrorCode::BadColumn, format!("table `{}` has no column `{name}`", schema.name)),
    }
}

fn twice<T>(schema: &Schema, index: u16) -> Result<T, Error> {
    let name = &schema.columns[usize::from(index)].name;
    error(ErrorCode::BadColumn, format!("column `{name}` of table `{}` is named twice", schema.name))
}

/// The columns that are named, or all.
///
/// # Errors
/// If there is no such column, or it is named twice.
pub fn columns(schema: &Schema, named: Option<&pb::Columns>) -> Result<Vec<u16>, Error> {
    let names = named.map_or(&[][..], |columns| &columns.names);
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

/// The conditions.
///
/// # Errors
/// What is wrong with them.
pub fn conditions(schema: &Schema, conditions: &[pb::Condition]) -> Result<FilterBuilder, Error> {
    condition_list(schema, conditions, FILTER_DEPTH_MAX)
}

fn condition_list(schema: &Schema, list: &[pb::Condition], depth: usize) -> Result<FilterBuilder, Error> {
    use pb::condition::Kind;
    let mut builder = FilterBuilder::new();
    for condition in list {
        let inner = |list: &pb::condition::List| match depth.checked_sub(1) {
            Some(depth) => condition_list(schema, &list.conditions, depth),
            None => {
                error(ErrorCode::Malformed, format!("conditions are nested deeper than {FILTER_DEPTH_MAX}"))
            }
        };
        match &condition.kind {
            Some(Kind::Compare(compare)) => {
                let index = column(schema, &compare.column)?;
                let Some(against) = &compare.value else {
                    return error(
                        ErrorCode::BadValue,
                        format!("a condition on `{}` has no value", compare.column),
                    );
                };
                let against = value(against)?;
                let fits = schema.columns[usize::from(index)].column_type.fit(against.borrowed());
                if fits == Err(ResultCode::WrongType) {
                    return Err(
                        Refusal::of_column(index)(ResultCode::WrongType).error_of_value(schema, &against)
                    );
                }
                builder.compare(index, comparison(compare.comparator())?, &against);
            }
            Some(Kind::IsNull(name)) => {
                builder.is_null(column(schema, name)?);
            }
            Some(Kind::IsNotNull(name)) => {
                builder.is_not_null(column(schema, name)?);
            }
            Some(Kind::Exists(true)) => {
                builder.exists();
            }
            Some(Kind::Exists(false)) => {
                builder.absent();
            }
            Some(Kind::Version(is)) => {
                let version = is.version.unwrap_or_default();
                let version = Version { epoch: Epoch(version.epoch), number: version.number };
                builder.version(comparison(is.comparator())?, version);
            }
            Some(Kind::All(list)) => {
                let inner = inner(list)?;
                builder.all(|all| {
                    *all = inner;
                    all
                });
            }
            Some(Kind::Any(list)) => {
                let inner = inner(list)?;
                builder.any(|any| {
                    *any = inner;
                    any
                });
            }
            None => return error(ErrorCode::Malformed, "a condition is empty"),
        }
    }
    Ok(builder)
}

fn comparison(comparator: pb::Comparator) -> Result<Comparison, Error> {
    Ok(match comparator {
        pb::Comparator::Less => Comparison::Less,
        pb::Comparator::LessOrEqual => Comparison::LessOrEqual,
        pb::Comparator::Equal => Comparison::Equal,
        pb::Comparator::GreaterOrEqual => Comparison::GreaterOrEqual,
        pb::Comparator::Greater => Comparison::Greater,
        pb::Comparator::NotEqual => Comparison::NotEqual,
        pb::Comparator::Unspecified => {
            return error(ErrorCode::Malformed, "a condition does not say how to compare");
        }
    })
}

/// The key of these values.
fn key(schema: &Schema, values: &[pb::Value]) -> Result<Vec<u8>, Error> {
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
    let values: Vec<ValueRef<'_>> = values.iter().map(value).collect::<Result<_, _>>()?;
    let mut key = Vec::new();
    encode_key(schema, &values, &mut key).map_err(|refusal| match refusal.code {
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

/// Key and body of a row.
fn row(schema: &Schema, named: &Named) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut values: Vec<Option<ValueRef<'_>>> = vec![None; schema.columns.len()];
    for (name, given) in named {
        let index = column(schema, name)?;
        if values[usize::from(index)].replace(value(given)?).is_some() {
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

/// One operation as it is put together.
struct Assembly {
    operation: Operation,
    /// Bytes of what was added, about.
    bytes: usize,
    shape: Shape,
}

impl Assembly {
    fn new(kind: OperationKind, schema: &Arc<Schema>, key: Vec<u8>) -> Result<Assembly, Error> {
        let shape = Shape { schema: schema.clone(), kind, before: Vec::new(), after: Vec::new() };
        Ok(Assembly { operation: Operation::new(kind, schema, key)?, bytes: 0, shape })
    }

    fn of_row(kind: OperationKind, schema: &Arc<Schema>, named: &Named) -> Result<Assembly, Error> {
        let (key, body) = row(schema, named)?;
        let mut assembly = Assembly::new(kind, schema, key)?;
        assembly.bytes += body.len();
        assembly.operation.row = Some(body);
        Ok(assembly)
    }

    fn conditions(&mut self, list: &[pb::Condition]) -> Result<(), Error> {
        self.operation.conditions = conditions(&self.shape.schema, list)?;
        self.bytes += self.operation.conditions.filter().0.len();
        Ok(())
    }

    fn before(&mut self, named: Option<&pb::Columns>) -> Result<(), Error> {
        if named.is_some() {
            self.shape.before = columns(&self.shape.schema, named)?;
            self.operation.before = Columns::List(self.shape.before.clone());
        }
        Ok(())
    }

    fn after(&mut self, named: Option<&pb::Columns>) -> Result<(), Error> {
        if named.is_some() {
            self.shape.after = columns(&self.shape.schema, named)?;
            self.operation.after = Columns::List(self.shape.after.clone());
        }
        Ok(())
    }

    fn assignments(&mut self, assignments: &pb::Assignments) -> Result<(), Error> {
        let schema = self.shape.schema.clone();
        let mut used = vec![false; schema.columns.len()];
        type Make = for<'a> fn(ValueRef<'a>) -> Change<'a>;
        let parts: [(&Named, Make); 4] = [
            (&assignments.set, |value| Change::Set(value)),
            (&assignments.add, |value| Change::Add(value)),
            (&assignments.append, |value| Change::Append(value)),
            (&assignments.prepend, |value| Change::Prepend(value)),
        ];
        for (named, make) in parts {
            for (name, given) in named {
                let index = column(&schema, name)?;
                if std::mem::replace(&mut used[usize::from(index)], true) {
                    return twice(&schema, index);
                }
                if schema.primary_key.contains(&index) {
                    let text = format!(
                        "column `{name}` of table `{}` is in the primary key, which stays",
                        schema.name
                    );
                    return error(ErrorCode::BadColumn, text);
                }
                let value = value(given)?;
                self.bytes += 16 + value.as_bytes().map_or(0, <[u8]>::len);
                let change = make(value);
                if let Change::Set(value) = &change {
                    let fits = schema.columns[usize::from(index)].fit(value.borrowed());
                    fits.map_err(|code| Refusal::of_column(index)(code).error_of_value(&schema, value))?;
                }
                self.fits()?;
                self.operation.assign(index, change);
            }
        }
        Ok(())
    }

    fn fits(&self) -> Result<(), Error> {
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

macro_rules! expiry {
    ($message:ident, $given:expr, $now:expr) => {
        $given.map(|given| match given {
            pb::$message::Expiry::ExpireAtMs(at) => ClusterTime(at),
            pb::$message::Expiry::ExpireInMs(millis) => ClusterTime($now.0.saturating_add(millis)),
        })
    };
}

fn assemble(tables: &Tables, now: ClusterTime, given: &pb::Operation) -> Result<Assembly, Error> {
    use pb::operation::Kind;
    let schema = tables.table(&given.table)?;
    let mut assembly;
    match &given.kind {
        Some(Kind::Read(read)) => {
            assembly = Assembly::new(OperationKind::Read, schema, key(schema, &read.key)?)?;
            assembly.conditions(&read.conditions)?;
            assembly.before(Some(read.columns.as_ref().unwrap_or(&pb::Columns::default())))?;
            assembly.operation.version = read.version;
            assembly.operation.lock = match pb::Lock::try_from(read.lock) {
                Ok(pb::Lock::None) => LockMode::None,
                Ok(pb::Lock::Shared) => LockMode::Shared,
                Ok(pb::Lock::Exclusive) => LockMode::Exclusive,
                Err(_) => return error(ErrorCode::Malformed, format!("there is no lock {}", read.lock)),
            };
        }
        Some(Kind::Insert(insert)) => {
            assembly = Assembly::of_row(OperationKind::Insert, schema, &insert.row)?;
            assembly.operation.expiry = expiry!(insert, insert.expiry, now);
            assembly.after(insert.return_new.as_ref())?;
        }
        Some(Kind::Update(update)) => {
            assembly = Assembly::new(OperationKind::Update, schema, key(schema, &update.key)?)?;
            assembly.conditions(&update.conditions)?;
            assembly.operation.expiry = expiry!(update, update.expiry, now);
            assembly.before(update.return_old.as_ref())?;
            assembly.after(update.return_new.as_ref())?;
            assembly.operation.version = update.version;
            if let Some(assignments) = &update.assignments {
                assembly.assignments(assignments)?;
            }
        }
        Some(Kind::Write(write)) => {
            assembly = Assembly::of_row(OperationKind::Write, schema, &write.row)?;
            assembly.conditions(&write.conditions)?;
            assembly.operation.expiry = expiry!(write, write.expiry, now);
            assembly.before(write.return_old.as_ref())?;
            assembly.after(write.return_new.as_ref())?;
            assembly.operation.version = write.version;
            if let Some(assignments) = &write.if_exists {
                assembly.assignments(assignments)?;
            }
        }
        Some(Kind::Delete(delete)) => {
            assembly = Assembly::new(OperationKind::Delete, schema, key(schema, &delete.key)?)?;
            assembly.conditions(&delete.conditions)?;
            assembly.before(delete.return_old.as_ref())?;
            assembly.operation.version = delete.version;
        }
        None => return error(ErrorCode::Malformed, "an operation does not say what to do"),
    }
    assembly.fits()?;
    Ok(assembly)
}

/// The operations of a request.
///
/// # Errors
/// The first one that is wrong, and how.
pub fn operations(tables: &Tables, now: ClusterTime, given: &[pb::Operation]) -> Result<Converted, Failure> {
    if given.len() > REQUEST_OPERATIONS_MAX {
        let text = format!("a request has {} operations; the most is {REQUEST_OPERATIONS_MAX}", given.len());
        return Err(Error::new(ErrorCode::TooLarge, text).into());
    }
    let mut converted = Converted::default();
    for (index, operation) in given.iter().enumerate() {
        let assembled = assemble(tables, now, operation);
        let at = |error: Error| Failure { operation: Some(index as u16), ..error.into() };
        let Assembly { operation, shape, .. } = assembled.map_err(at)?;
        converted.locks |= operation.kind == OperationKind::Read && operation.lock != LockMode::None;
        operation.encode(&mut converted.operations.bytes);
        converted.operations.count += 1;
        converted.shapes.push(shape);
        if converted.operations.bytes.len() > TRANSACTION_BYTES_MAX {
            let text = format!("the operations of a request have more than {TRANSACTION_BYTES_MAX} bytes");
            return Err(at(Error::new(ErrorCode::TooLarge, text)));
        }
    }
    Ok(converted)
}

/// How a transaction is to be run. `call`: the call's own deadline.
///
/// # Errors
/// If that is not supported, or makes no sense.
pub fn options(
    tables: &Tables,
    given: Option<&pb::Options>,
    call: Option<Duration>,
) -> Result<(Options, Isolation), Error> {
    let given = given.cloned().unwrap_or_default();
    let durability = match pb::Durability::try_from(given.durability) {
        Ok(pb::Durability::Memory) => Durability::Memory,
        Ok(pb::Durability::Disk) => {
            return error(ErrorCode::NotSupported, "durability DISK is not supported yet");
        }
        Err(_) => return error(ErrorCode::Malformed, format!("there is no durability {}", given.durability)),
    };
    let isolation = match pb::Isolation::try_from(given.isolation) {
        Ok(pb::Isolation::ReadCommitted) => Isolation::ReadCommitted,
        Ok(pb::Isolation::Serializable) => Isolation::Serializable,
        Err(_) => return error(ErrorCode::Malformed, format!("there is no isolation {}", given.isolation)),
    };
    let own = (given.deadline_ms > 0).then(|| Duration::from_millis(given.deadline_ms.into()));
    let deadline = [own, call].into_iter().flatten().min();
    let hint = match &given.hint {
        Some(hint) => {
            let schema = tables.table(&hint.table)?;
            let columns = schema.distribution_key.len();
            if hint.distribution_key.len() != columns {
                let text = format!(
                    "the distribution key of table `{}` has {}",
                    schema.name,
                    counted(columns, "column")
                );
                return error(ErrorCode::BadValue, text);
            }
            let values: Vec<ValueRef<'_>> =
                hint.distribution_key.iter().map(value).collect::<Result<_, _>>()?;
            Some(hash_distribution_key(schema, &values).map_err(|refusal| refusal.error(schema, None))?)
        }
        None => None,
    };
    Ok((Options { durability, deadline, hint, result_bytes: None }, isolation))
}

/// The type of a column.
///
/// # Errors
/// If it is none, or needs a length.
pub fn column_type(column: &pb::ColumnDefinition) -> Result<ColumnType, Error> {
    use pb::ColumnType as Type;
    let length = column.max_length;
    if length == 0 && matches!(column.r#type(), Type::Text | Type::Binary) {
        return error(ErrorCode::BadTable, format!("column `{}` needs a max_length", column.name));
    }
    Ok(match column.r#type() {
        Type::Bool => ColumnType::Bool,
        Type::Int8 => ColumnType::I8,
        Type::Int16 => ColumnType::I16,
        Type::Int32 => ColumnType::I32,
        Type::Int64 => ColumnType::I64,
        Type::Uint8 => ColumnType::U8,
        Type::Uint16 => ColumnType::U16,
        Type::Uint32 => ColumnType::U32,
        Type::Uint64 => ColumnType::U64,
        Type::Float32 => ColumnType::F32,
        Type::Float64 => ColumnType::F64,
        Type::Date => ColumnType::Date,
        Type::Datetime => ColumnType::DateTime,
        Type::Timestamp => ColumnType::Timestamp,
        Type::Text => ColumnType::Text { max_chars: length },
        Type::Binary => ColumnType::Binary { max_bytes: length },
        Type::Unspecified => {
            return error(ErrorCode::BadTable, format!("column `{}` needs a type", column.name));
        }
    })
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
