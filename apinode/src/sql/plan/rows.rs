//! Rows: from what the cluster answers, and as it keeps them.

use twofold_proto::{
    operation::{BodyRef, Projection, ResultRef},
    row::encode_row,
    value::{Value, ValueRef},
    wire::Reader,
};

use crate::sql::{
    bind::{Apply, BoundTable, Select},
    error::{SqlError, codes},
    expression::{Context, Expr, store::store},
    types::SqlType,
    value::Datum,
};

/// The columns of the table that are read for these expressions, ascending.
pub fn needed<'e>(expressions: impl IntoIterator<Item = &'e Expr>) -> Vec<u16> {
    let mut columns = Vec::new();
    for expr in expressions {
        expr.each_column(&mut |column| columns.push(column as u16));
    }
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// The columns of joined rows that a SELECT reads behind its filter.
pub fn needed_by(select: &Select) -> Vec<u16> {
    let applied = select.applied.iter().flat_map(Apply::inputs);
    match &select.group {
        Some(group) => {
            let arguments = group.aggregates.iter().filter_map(|aggregate| aggregate.argument.as_ref());
            needed(group.keys.iter().chain(arguments).chain(applied))
        }
        None => {
            let output = select.output.iter().map(|output| &output.expr);
            needed(output.chain(select.order.iter().map(|order| &order.expr)).chain(applied))
        }
    }
}

/// Filter and projection of a scan: the body of a Read operation.
pub fn program(columns: &[u16], conditions: twofold_proto::filter::Filter<'_>) -> Vec<u8> {
    let list: Vec<u8> = columns.iter().flat_map(|index| index.to_le_bytes()).collect();
    let mut program = Vec::new();
    BodyRef { conditions, before: Projection::Columns(&list), ..BodyRef::default() }.encode(&mut program);
    program
}

/// A row of the table, with those columns that were asked for.
///
/// # Errors
/// 1815 if the answer makes no sense.
pub fn row(table: &BoundTable, columns: &[u16], result: &[u8]) -> Result<Option<Vec<Datum>>, SqlError> {
    let broken = |text: String| SqlError::new(codes::INTERNAL, format!("a data node's answer: {text}"));
    let result =
        ResultRef::parse(&mut Reader::new(result, "row")).map_err(|error| broken(error.to_string()))?;
    let Some(before) = result.before else { return Ok(None) };
    let mut row = vec![Datum::Null; table.columns.len()];
    let mut values = before.values();
    for &column in columns {
        let value = values.next().ok_or_else(|| broken("a value is missing".into()))?;
        let value = value.map_err(|error| broken(error.to_string()))?;
        let index = usize::from(column);
        row[index] =
            Datum::from_column(value, table.schema.columns[index].column_type, table.sql_type(index));
    }
    Ok(Some(row))
}

/// What a column holds where nothing is said; `None` for one that counts by itself.
///
/// # Errors
/// 1364 for a column that needs a value.
pub fn default(table: &BoundTable, column: usize, now: i64) -> Result<Option<Value>, SqlError> {
    let declared = table.columns[column];
    let definition = &table.schema.columns[column];
    if declared.auto_increment {
        return Ok(None);
    }
    if declared.default_now {
        let at = crate::sql::temporal::round(now, declared.sql_type.decimals());
        return Ok(Some(ValueRef::Int(at)));
    }
    match &definition.default {
        Some(value) => Ok(Some(value.clone())),
        None if definition.nullable => Ok(Some(Value::Null)),
        None => {
            let text = format!("Field '{}' doesn't have a default value", definition.name);
            Err(SqlError::new(codes::NO_DEFAULT, text))
        }
    }
}

/// The values of a row as the cluster keeps them; `None` for the column that counts by itself. `given` are those of `columns`;
/// `number` is the row's in the statement.
///
/// # Errors
/// What a value does not have right.
pub fn stored(
    table: &BoundTable,
    columns: &[usize],
    given: &[Option<Datum>],
    number: usize,
    now: i64,
    context: &Context<'_>,
) -> Result<Vec<Option<Value>>, SqlError> {
    let mut values = Vec::with_capacity(table.columns.len());
    for (index, definition) in table.schema.columns.iter().enumerate() {
        let said = columns.iter().position(|&column| column == index).and_then(|place| given.get(place));
        let counts = table.columns[index].auto_increment;
        values.push(match said {
            // NULL and 0 ask for the next number.
            Some(Some(Datum::Null | Datum::Int(0) | Datum::UInt(0))) if counts => None,
            Some(Some(datum)) => Some(store(datum, definition, table.sql_type(index), number, context)?),
            Some(None) | None => default(table, index, now)?,
        });
    }
    Ok(values)
}

/// Key and body of a row.
///
/// # Errors
/// 1118 if it is too large, 1071 if its key is.
pub fn encode(table: &BoundTable, values: &[Value]) -> Result<(Vec<u8>, Vec<u8>), SqlError> {
    let borrowed: Vec<ValueRef<'_>> = values.iter().map(ValueRef::borrowed).collect();
    encode_row(&table.schema, &borrowed).map_err(|refusal| refusal.error(&table.schema, None).into())
}

/// The row's values as expressions know them.
pub fn datums(table: &BoundTable, values: &[Value]) -> Vec<Datum> {
    let columns = table.schema.columns.iter().zip(&table.columns);
    let datum = |(value, (column, declared)): (
        &Value,
        (&twofold_proto::schema::Column, &crate::sql::types::Declared),
    )| { Datum::from_column(value.borrowed(), column.column_type, declared.sql_type) };
    values.iter().zip(columns).map(datum).collect()
}

/// The values of a key as MySQL names them in «Duplicate entry».
pub fn key_text(table: &BoundTable, key: &[u8]) -> String {
    let values = twofold_proto::key::decode_key(&table.schema, key).unwrap_or_default();
    let texts = table.schema.primary_key.iter().zip(values).map(|(&index, value)| {
        let column = &table.schema.columns[usize::from(index)];
        let sql_type: SqlType = table.sql_type(index.into());
        Datum::from_column(value, column.column_type, sql_type).render(sql_type)
    });
    texts.collect::<Vec<_>>().join("-")
}

/// The key of a row, whose columns are among those that were asked for.
///
/// # Errors
/// 1815 if the answer makes no sense.
pub fn key(table: &BoundTable, columns: &[u16], result: &[u8]) -> Result<Vec<u8>, SqlError> {
    let broken = || SqlError::new(codes::INTERNAL, "a data node's answer has no key");
    let result = ResultRef::parse(&mut Reader::new(result, "row")).map_err(|_| broken())?;
    let values: Vec<ValueRef<'_>> =
        result.before.ok_or_else(broken)?.values().collect::<Result<_, _>>().map_err(|_| broken())?;
    let mut parts = Vec::with_capacity(table.schema.primary_key.len());
    for column in &table.schema.primary_key {
        let place = columns.binary_search(column).map_err(|_| broken())?;
        parts.push(values.get(place).ok_or_else(broken)?.borrowed());
    }
    let mut key = Vec::new();
    twofold_proto::key::encode_key(&table.schema, &parts, &mut key).map_err(|_| broken())?;
    Ok(key)
}
