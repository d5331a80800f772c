//! Changes that data nodes carry out themselves, without sending the row first.

use twofold_proto::{operation::Change, value::ValueRef};

use crate::sql::{
    bind::BoundTable,
    error::SqlError,
    expression::{Binary, Context, Expr, store::store},
    types::SqlType,
    value::Datum,
};

/// The changes of these assignments; `None` if one of them needs the row. `new` is the row that was to be inserted, where
/// there is one: its columns follow those of the row that changes.
///
/// # Errors
/// What the values that are set do not have right.
pub fn interpreted(
    table: &BoundTable,
    assignments: &[(usize, Option<Expr>)],
    new: Option<&[Datum]>,
    context: &Context<'_>,
) -> Result<Option<Vec<(u16, Change<'static>)>>, SqlError> {
    if table.columns.iter().any(|column| column.update_now) {
        return Ok(None);
    }
    let width = table.columns.len();
    let mut row = vec![Datum::Null; width];
    row.extend_from_slice(new.unwrap_or_default());
    let mut changes = Vec::with_capacity(assignments.len());
    for (column, expr) in assignments {
        let Some(expr) = expr else { return Ok(None) };
        let mut reads = false;
        expr.each_column(&mut |column| reads |= column < width);
        let change = if !reads {
            let datum = expr.evaluate(&row, context)?;
            Change::Set(store(&datum, &table.schema.columns[*column], table.sql_type(*column), 1, context)?)
        } else {
            match sum(table, *column, expr, &row, context)? {
                Some(change) => change,
                None => return Ok(None),
            }
        };
        changes.push((*column as u16, change));
    }
    Ok(Some(changes))
}

/// `c = c + 5`, `c = c - 5`, `c = 5 + c`.
fn sum(
    table: &BoundTable,
    column: usize,
    expr: &Expr,
    row: &[Datum],
    context: &Context<'_>,
) -> Result<Option<Change<'static>>, SqlError> {
    let Expr::Binary(operator, left, right) = expr else { return Ok(None) };
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(index, _) if *index == column);
    let fixed = |expr: &Expr| {
        let mut reads = false;
        expr.each_column(&mut |column| reads |= column < table.columns.len());
        !reads
    };
    let number = match operator {
        Binary::Add if is_column(left) && fixed(right) => right,
        Binary::Add if is_column(right) && fixed(left) => left,
        Binary::Subtract if is_column(left) && fixed(right) => right,
        _ => return Ok(None),
    };
    let datum = number.evaluate(row, context)?;
    // Types that hold less than what they are kept as have to refuse what the data nodes would not.
    let scaled = match (table.sql_type(column), &datum) {
        (SqlType::Integer { .. } | SqlType::Bool, Datum::Int(_) | Datum::UInt(_)) => datum.to_i128(),
        _ => None,
    };
    let kept_as_bool = table.schema.columns[column].column_type == twofold_proto::schema::ColumnType::Bool;
    let medium = matches!(table.sql_type(column), SqlType::Integer { bytes: 3, .. });
    let signed = scaled.map(|value| if *operator == Binary::Subtract { -value } else { value });
    let signed = signed.and_then(|value| i64::try_from(value).ok()).filter(|_| !kept_as_bool && !medium);
    Ok(signed.map(|value| Change::Add(ValueRef::Int(value))))
}
