//! Results of operations, values and tables → protobuf.

use prost::bytes::Bytes;
use twofold_apinode::request::{Failure, Results};
use twofold_client::assemble::{self, Shape};
use twofold_grpc::v1 as pb;
use twofold_proto::{
    error::{Error, ErrorCode},
    operation::{OperationKind, Refusal, ResultCode, ResultRef, ReturnedRow},
    schema::{Column, ColumnType, Schema, Table},
    value::ValueRef,
    wire::{Malformed, Reader},
};

use super::{convert, status::error_message};

/// The value.
pub fn value(value: &ValueRef<'_>) -> pb::Value {
    use pb::value::Kind;
    let kind = match value {
        ValueRef::Null => Kind::NullValue(true),
        ValueRef::Bool(value) => Kind::BoolValue(*value),
        ValueRef::Int(value) => Kind::IntValue(*value),
        ValueRef::UInt(value) => Kind::UintValue(*value),
        ValueRef::Float(value) => Kind::FloatValue(*value),
        ValueRef::Text(text) => Kind::TextValue(text.to_string()),
        ValueRef::Binary(bytes) => Kind::BytesValue(Bytes::copy_from_slice(bytes)),
    };
    pb::Value { kind: Some(kind) }
}

fn row(schema: &Schema, columns: &[u16], returned: &ReturnedRow<'_>) -> Result<pb::Row, Malformed> {
    let mut row = pb::Row::default();
    let mut values = returned.values();
    for &column in columns {
        let found = values.next().ok_or(Malformed("returned row"))??;
        row.columns.insert(schema.columns[usize::from(column)].name.clone(), value(&found));
    }
    Ok(row)
}

/// What an operation answered.
///
/// # Errors
/// Why it was not done.
pub fn result(shape: &Shape, bytes: &[u8]) -> Result<pb::Result, Error> {
    let result = ResultRef::parse(&mut Reader::new(bytes, "result"))?;
    let head = &result.head;
    match head.code {
        ResultCode::Ok => {}
        // That a row is not there is what the read was to find out.
        ResultCode::NotFound if shape.kind == OperationKind::Read => return Ok(pb::Result::default()),
        code => return Err(Refusal { code, column: head.column }.error(&shape.schema, None)),
    }
    let before = result.before.map(|before| row(&shape.schema, &shape.before, &before)).transpose()?;
    let after = result.after.map(|after| row(&shape.schema, &shape.after, &after)).transpose()?;
    let (old_row, row) = if shape.kind == OperationKind::Read { (None, before) } else { (before, after) };
    Ok(pb::Result {
        existed: head.existed,
        changed: head.changed,
        row,
        old_row,
        version: head.version.map(|version| pb::Version { epoch: version.epoch.0, number: version.number }),
        expire_at_ms: head.expiry.0,
        ..pb::Result::default()
    })
}

/// What independent operations answered, their failures among it.
pub fn each(shapes: &[Shape], results: &Results) -> Vec<pb::Result> {
    let one = |(shape, outcome): (&Shape, Result<&[u8], &Failure>)| {
        let failure = match outcome {
            Ok(bytes) => match result(shape, bytes) {
                Ok(result) => return result,
                Err(error) => error.into(),
            },
            Err(failure) => failure.clone(),
        };
        let token = failure.token.map(|token| Bytes::from(token.encode())).unwrap_or_default();
        pb::Result { error: Some(error_message(&failure)), token, ..pb::Result::default() }
    };
    shapes.iter().zip(results.iter()).map(one).collect()
}

/// The rows of a scan that returns these columns.
///
/// # Errors
/// If they make no sense.
pub fn scanned(columns: usize, rows: &Results) -> Result<Vec<pb::scan_response::ScannedRow>, Error> {
    let nonsense = || Error::new(ErrorCode::Internal, "a scanned row makes no sense");
    let one = |row: Result<&[u8], &Failure>| {
        let bytes = row.map_err(|failure| failure.error.clone())?;
        let result = ResultRef::parse(&mut Reader::new(bytes, "scanned row"))?;
        let returned = result.before.ok_or_else(nonsense)?;
        let values = returned.values().map(|found| found.map(|found| value(&found)));
        let values: Vec<pb::Value> = values.collect::<Result<_, Malformed>>()?;
        if values.len() != columns {
            return Err(nonsense());
        }
        Ok(pb::scan_response::ScannedRow { values })
    };
    rows.iter().map(one).collect()
}

/// The table that a definition asks for; id and version are yet to be given.
///
/// # Errors
/// What is wrong with it.
pub fn table(definition: &pb::TableDefinition) -> Result<Table, Error> {
    let bad = |text: String| Error::new(ErrorCode::BadTable, format!("table `{}`: {text}", definition.name));
    let mut columns = Vec::new();
    for given in &definition.columns {
        let column_type = convert::column_type(given).map_err(|error| bad(error.text))?;
        let mut column = Column { nullable: given.nullable, ..Column::new(&given.name, column_type) };
        if let Some(default) = &given.default_value {
            let value = convert::value(default)?.into_owned();
            let fitted =
                column.fit(value).map_err(|code| bad(format!("the default of `{}`: {code}", given.name)))?;
            // NULL is what a column without a default holds.
            column.default = (!fitted.is_null()).then_some(fitted);
        }
        columns.push(column);
    }
    let name = definition.name.clone();
    assemble::table(name, columns, &definition.primary_key, &definition.distribution_key)
}

/// The definition of a table.
pub fn definition(table: &Table) -> pb::TableDefinition {
    let names =
        |indexes: &[u16]| indexes.iter().map(|&i| table.columns[usize::from(i)].name.clone()).collect();
    pb::TableDefinition {
        name: table.name.clone(),
        columns: table.columns.iter().map(column).collect(),
        primary_key: names(&table.primary_key),
        distribution_key: names(&table.distribution_key),
    }
}

fn column(column: &Column) -> pb::ColumnDefinition {
    use pb::ColumnType as Type;
    let (kind, max_length) = match column.column_type {
        ColumnType::Bool => (Type::Bool, 0),
        ColumnType::I8 => (Type::Int8, 0),
        ColumnType::I16 => (Type::Int16, 0),
        ColumnType::I32 => (Type::Int32, 0),
        ColumnType::I64 => (Type::Int64, 0),
        ColumnType::U8 => (Type::Uint8, 0),
        ColumnType::U16 => (Type::Uint16, 0),
        ColumnType::U32 => (Type::Uint32, 0),
        ColumnType::U64 => (Type::Uint64, 0),
        ColumnType::F32 => (Type::Float32, 0),
        ColumnType::F64 => (Type::Float64, 0),
        ColumnType::Date => (Type::Date, 0),
        ColumnType::DateTime => (Type::Datetime, 0),
        ColumnType::Timestamp => (Type::Timestamp, 0),
        ColumnType::Text { max_chars } => (Type::Text, max_chars),
        ColumnType::Binary { max_bytes } => (Type::Binary, max_bytes),
    };
    pb::ColumnDefinition {
        name: column.name.clone(),
        r#type: kind.into(),
        max_length,
        nullable: column.nullable,
        default_value: column.default.as_ref().map(value),
    }
}
