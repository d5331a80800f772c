//! Conditions that data nodes look at themselves.

use twofold_proto::{
    filter::{Comparison, FilterBuilder},
    value::ValueRef,
};

use super::access::{Held, held};
use crate::sql::{
    bind::BoundTable,
    error::SqlError,
    expression::{Binary, Context, Expr, Unary, evaluate::compares_as_numbers},
    types::SqlType,
    value::Datum,
};

/// How deep lists stand in lists here; data nodes bear twice as much.
const DEPTH_MAX: usize = 8;

/// Values of a subquery that data nodes compare a column with.
const SET_MAX: usize = 256;

/// How much of a condition the data nodes look at. What they do not is looked at here, of all rows that they send.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pushed {
    /// Nothing.
    Nothing,
    /// A part: rows for which the condition does not hold come, too.
    Part,
    /// All.
    All,
}

/// Adds what data nodes can look at of a condition.
///
/// # Errors
/// Those of values that are computed.
pub fn push(
    table: &BoundTable,
    filter: Option<&Expr>,
    context: &Context<'_>,
    builder: &mut FilterBuilder,
) -> Result<Pushed, SqlError> {
    match filter {
        None => Ok(Pushed::All),
        Some(filter) => conjunction(table, filter.conjuncts(), context, builder, DEPTH_MAX),
    }
}

fn conjunction(
    table: &BoundTable,
    parts: &[Expr],
    context: &Context<'_>,
    builder: &mut FilterBuilder,
    depth: usize,
) -> Result<Pushed, SqlError> {
    let (mut any, mut all) = (false, true);
    for part in parts {
        let pushed = condition(table, part, context, builder, depth)?;
        any |= pushed > Pushed::Nothing;
        all &= pushed == Pushed::All;
    }
    Ok(if all {
        Pushed::All
    } else if any {
        Pushed::Part
    } else {
        Pushed::Nothing
    })
}

fn condition(
    table: &BoundTable,
    expr: &Expr,
    context: &Context<'_>,
    builder: &mut FilterBuilder,
    depth: usize,
) -> Result<Pushed, SqlError> {
    let Some(deeper) = depth.checked_sub(1) else { return Ok(Pushed::Nothing) };
    match expr {
        Expr::All(parts) => {
            let mut list = FilterBuilder::new();
            let pushed = conjunction(table, parts, context, &mut list, deeper)?;
            if pushed > Pushed::Nothing {
                builder.condition(&twofold_proto::filter::Condition::All(list.filter()));
            }
            Ok(pushed)
        }
        Expr::Any(parts) => {
            let mut list = FilterBuilder::new();
            let mut least = Pushed::All;
            for part in parts {
                // Each is one condition of the list, or the list would not hold as often as it should.
                let mut one = FilterBuilder::new();
                least = least.min(condition(table, part, context, &mut one, deeper)?);
                if least == Pushed::Nothing {
                    return Ok(Pushed::Nothing);
                }
                list.condition(&twofold_proto::filter::Condition::All(one.filter()));
            }
            builder.condition(&twofold_proto::filter::Condition::Any(list.filter()));
            Ok(least)
        }
        Expr::Unary(Unary::IsNull, inner) => Ok(match &**inner {
            Expr::Column(column, _) => {
                builder.is_null(*column as u16);
                Pushed::All
            }
            _ => Pushed::Nothing,
        }),
        Expr::Unary(Unary::Not, inner) => Ok(match &**inner {
            Expr::Unary(Unary::IsNull, column) => match &**column {
                Expr::Column(column, _) => {
                    builder.is_not_null(*column as u16);
                    Pushed::All
                }
                _ => Pushed::Nothing,
            },
            _ => Pushed::Nothing,
        }),
        Expr::Binary(operator, left, right) => match (&**left, &**right) {
            (Expr::Column(column, _), value) if value.is_constant() => {
                comparison(table, *column, *operator, value, context, builder)
            }
            (value, Expr::Column(column, _)) if value.is_constant() => {
                comparison(table, *column, operator.mirrored(), value, context, builder)
            }
            _ => Ok(Pushed::Nothing),
        },
        Expr::Between(of, bounds) => match &**of {
            _ if compares_as_numbers(of, bounds, context) => Ok(Pushed::Nothing),
            Expr::Column(column, _) if bounds.0.is_constant() && bounds.1.is_constant() => {
                let mut list = FilterBuilder::new();
                let least =
                    comparison(table, *column, Binary::GreaterOrEqual, &bounds.0, context, &mut list)?;
                let most = comparison(table, *column, Binary::LessOrEqual, &bounds.1, context, &mut list)?;
                if least.max(most) > Pushed::Nothing {
                    builder.condition(&twofold_proto::filter::Condition::All(list.filter()));
                }
                Ok(match (least, most) {
                    (Pushed::All, Pushed::All) => Pushed::All,
                    (Pushed::Nothing, Pushed::Nothing) => Pushed::Nothing,
                    _ => Pushed::Part,
                })
            }
            _ => Ok(Pushed::Nothing),
        },
        Expr::Among(quantified, _) => match (&quantified.of, context.set_of(expr)) {
            (Expr::Column(column, _), Some(set)) if set.values().len() <= SET_MAX => {
                let mut list = FilterBuilder::new();
                for value in set.values() {
                    let Held::Value(value) = compared(table, *column, value) else {
                        return Ok(Pushed::Nothing);
                    };
                    list.compare(*column as u16, Comparison::Equal, &value);
                }
                builder.condition(&twofold_proto::filter::Condition::Any(list.filter()));
                Ok(Pushed::All)
            }
            _ => Ok(Pushed::Nothing),
        },
        Expr::In(of, values) => match &**of {
            Expr::Column(column, _) if values.iter().all(Expr::is_constant) => {
                let mut list = FilterBuilder::new();
                for value in values {
                    if comparison(table, *column, Binary::Equal, value, context, &mut list)? != Pushed::All {
                        return Ok(Pushed::Nothing);
                    }
                }
                builder.condition(&twofold_proto::filter::Condition::Any(list.filter()));
                Ok(Pushed::All)
            }
            _ => Ok(Pushed::Nothing),
        },
        _ => Ok(Pushed::Nothing),
    }
}

/// What never holds.
fn never(column: usize, builder: &mut FilterBuilder) -> Pushed {
    builder.compare(column as u16, Comparison::Equal, &ValueRef::Null);
    Pushed::All
}

fn comparison(
    table: &BoundTable,
    column: usize,
    operator: Binary,
    value: &Expr,
    context: &Context<'_>,
    builder: &mut FilterBuilder,
) -> Result<Pushed, SqlError> {
    let Some(how) = comparison_of(operator) else { return Ok(Pushed::Nothing) };
    let datum = value.evaluate(&[], context)?;
    if datum.is_null() {
        return Ok(never(column, builder));
    }
    Ok(match compared(table, column, &datum) {
        Held::Value(value) => {
            builder.compare(column as u16, how, &value);
            Pushed::All
        }
        Held::Nothing if how == Comparison::Equal => never(column, builder),
        Held::Nothing | Held::Several => Pushed::Nothing,
    })
}

/// How an operator compares; `None` if it does something else.
pub(super) fn comparison_of(operator: Binary) -> Option<Comparison> {
    Some(match operator {
        Binary::Equal => Comparison::Equal,
        Binary::NotEqual => Comparison::NotEqual,
        Binary::Less => Comparison::Less,
        Binary::LessOrEqual => Comparison::LessOrEqual,
        Binary::Greater => Comparison::Greater,
        Binary::GreaterOrEqual => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

/// The value with which a column's values compare as they do with this one.
pub(super) fn compared(table: &BoundTable, column: usize, datum: &Datum) -> Held {
    let sql_type = table.sql_type(column);
    match (sql_type, datum) {
        // Strings warn when they are compared with numbers, so that is done here.
        (_, Datum::Text(_) | Datum::Binary(_))
            if !sql_type.is_text() && !sql_type.is_binary() && !sql_type.is_temporal() =>
        {
            Held::Several
        }
        (_, Datum::Null) => Held::Nothing,
        (SqlType::Float | SqlType::Double, _) => Held::Value(ValueRef::Float(datum.to_f64())),
        _ => held(table, column, datum),
    }
}
