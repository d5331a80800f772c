//! Requests in protobuf → operations, checked against the tables.

use std::{borrow::Cow, collections::BTreeMap};

use twofold_apinode::request::{Durability, Failure, Isolation, Options};
use twofold_client::{
    assemble::{self, Assembled, Assembly, column},
    handle::Tables,
};
use twofold_grpc::v1 as pb;
use twofold_proto::{
    error::{Error, ErrorCode},
    filter::{Comparison, FILTER_DEPTH_MAX, FilterBuilder},
    ids::{Epoch, Version},
    operation::{Change, LockMode, OperationKind},
    schema::{ColumnType, Schema},
    time::{ClusterTime, Duration},
    value::ValueRef,
};

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

fn values(given: &[pb::Value]) -> Result<Vec<ValueRef<'_>>, Error> {
    given.iter().map(value).collect()
}

/// The columns that are named, or all.
///
/// # Errors
/// If there is no such column, or it is named twice.
pub fn columns(schema: &Schema, named: Option<&pb::Columns>) -> Result<Vec<u16>, Error> {
    assemble::columns(schema, named.map_or(&[], |columns| &columns.names))
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
                let Some(against) = &compare.value else {
                    return error(
                        ErrorCode::BadValue,
                        format!("a condition on `{}` has no value", compare.column),
                    );
                };
                let comparison = comparison(compare.comparator())?;
                assemble::compare(&mut builder, schema, &compare.column, comparison, &value(against)?)?;
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

fn key(schema: &Schema, given: &[pb::Value]) -> Result<Vec<u8>, Error> {
    assemble::key(schema, &values(given)?)
}

fn row(named: &Named) -> impl Iterator<Item = Result<(&str, ValueRef<'_>), Error>> {
    named.iter().map(|(name, given)| Ok((name.as_str(), value(given)?)))
}

fn assign(assembly: &mut Assembly, assignments: &pb::Assignments) -> Result<(), Error> {
    type Make = for<'a> fn(ValueRef<'a>) -> Change<'a>;
    let parts: [(&Named, Make); 4] = [
        (&assignments.set, |value| Change::Set(value)),
        (&assignments.add, |value| Change::Add(value)),
        (&assignments.append, |value| Change::Append(value)),
        (&assignments.prepend, |value| Change::Prepend(value)),
    ];
    for (named, make) in parts {
        for (name, given) in named {
            assembly.assign(name, make(value(given)?))?;
        }
    }
    Ok(())
}

macro_rules! expiry {
    ($message:ident, $given:expr, $now:expr) => {
        $given.map(|given| match given {
            pb::$message::Expiry::ExpireAtMs(at) => ClusterTime(at),
            pb::$message::Expiry::ExpireInMs(millis) => ClusterTime($now.0.saturating_add(millis)),
        })
    };
}

fn operation(tables: &Tables, now: ClusterTime, given: &pb::Operation) -> Result<Assembly, Error> {
    use pb::operation::Kind;
    let schema = tables.table(&given.table)?;
    let mut assembly;
    match &given.kind {
        Some(Kind::Read(read)) => {
            assembly = Assembly::new(OperationKind::Read, schema, key(schema, &read.key)?)?;
            assembly.conditions(conditions(schema, &read.conditions)?);
            assembly.before(read.columns.as_ref().map_or(&[], |columns| &columns.names))?;
            assembly.operation.version = read.version;
            assembly.operation.lock = match pb::Lock::try_from(read.lock) {
                Ok(pb::Lock::None) => LockMode::None,
                Ok(pb::Lock::Shared) => LockMode::Shared,
                Ok(pb::Lock::Exclusive) => LockMode::Exclusive,
                Err(_) => return error(ErrorCode::Malformed, format!("there is no lock {}", read.lock)),
            };
        }
        Some(Kind::Insert(insert)) => {
            assembly = Assembly::of_row(OperationKind::Insert, schema, row(&insert.row))?;
            assembly.operation.expiry = expiry!(insert, insert.expiry, now);
            if let Some(columns) = &insert.return_new {
                assembly.after(&columns.names)?;
            }
        }
        Some(Kind::Update(update)) => {
            assembly = Assembly::new(OperationKind::Update, schema, key(schema, &update.key)?)?;
            assembly.conditions(conditions(schema, &update.conditions)?);
            assembly.operation.expiry = expiry!(update, update.expiry, now);
            if let Some(columns) = &update.return_old {
                assembly.before(&columns.names)?;
            }
            if let Some(columns) = &update.return_new {
                assembly.after(&columns.names)?;
            }
            assembly.operation.version = update.version;
            if let Some(assignments) = &update.assignments {
                assign(&mut assembly, assignments)?;
            }
        }
        Some(Kind::Write(write)) => {
            assembly = Assembly::of_row(OperationKind::Write, schema, row(&write.row))?;
            assembly.conditions(conditions(schema, &write.conditions)?);
            assembly.operation.expiry = expiry!(write, write.expiry, now);
            if let Some(columns) = &write.return_old {
                assembly.before(&columns.names)?;
            }
            if let Some(columns) = &write.return_new {
                assembly.after(&columns.names)?;
            }
            assembly.operation.version = write.version;
            if let Some(assignments) = &write.if_exists {
                assign(&mut assembly, assignments)?;
            }
        }
        Some(Kind::Delete(delete)) => {
            assembly = Assembly::new(OperationKind::Delete, schema, key(schema, &delete.key)?)?;
            assembly.conditions(conditions(schema, &delete.conditions)?);
            if let Some(columns) = &delete.return_old {
                assembly.before(&columns.names)?;
            }
            assembly.operation.version = delete.version;
        }
        None => return error(ErrorCode::Malformed, "an operation does not say what to do"),
    }
    Ok(assembly)
}

/// The operations of a request.
///
/// # Errors
/// The first one that is wrong, and how.
pub fn operations(tables: &Tables, now: ClusterTime, given: &[pb::Operation]) -> Result<Assembled, Failure> {
    Assembled::new(given.iter().map(|given| operation(tables, now, given)))
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
        Ok(pb::Durability::Disk) => Durability::Disk,
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
            Some(assemble::distribution_key(schema, &values(&hint.distribution_key)?)?)
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
