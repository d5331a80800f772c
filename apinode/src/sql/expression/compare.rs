//! How values compare, by MySQL's rules for values of different types.

use std::cmp::Ordering;

use super::Context;
use crate::sql::{
    error::{SqlError, codes},
    temporal,
    value::{Datum, number_prefix},
};

/// How two values compare; `None` if one is NULL. Numbers compare as numbers, strings by their bytes, a string and a number as
/// floats, a string and a time as times.
///
/// # Errors
/// Where a string is no number or time, and that is an error in this context.
pub fn compare(a: &Datum, b: &Datum, context: &Context<'_>) -> Result<Option<Ordering>, SqlError> {
    if a.is_null() || b.is_null() {
        return Ok(None);
    }
    let temporal = |datum: &Datum| matches!(datum, Datum::Date(_) | Datum::DateTime(_));
    if a.is_string() != b.is_string() && !(temporal(a) || temporal(b)) {
        let order = to_float(a, context)?.partial_cmp(&to_float(b, context)?);
        return Ok(order);
    }
    if a.is_string() && temporal(b) || temporal(a) && b.is_string() {
        return Ok(Some(match (to_time(a, context)?, to_time(b, context)?) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.text().cmp(&b.text()),
        }));
    }
    Ok(Some(order(a, b)))
}

/// The number of a value, with a warning about a string that is none, or not alone.
///
/// # Errors
/// The warning, where it is an error in this context.
pub fn to_float(datum: &Datum, context: &Context<'_>) -> Result<f64, SqlError> {
    let Some(bytes) = datum.as_bytes() else { return Ok(datum.to_f64()) };
    let text = String::from_utf8_lossy(bytes);
    let (value, all) = number_prefix(&text);
    if !all {
        context.warn(codes::WRONG_VALUE, format!("Truncated incorrect DOUBLE value: '{text}'"))?;
    }
    Ok(value)
}

/// The time of a value; `None` of a string that is none, with a warning.
///
/// # Errors
/// The warning, where it is an error in this context.
pub fn to_time(datum: &Datum, context: &Context<'_>) -> Result<Option<i64>, SqlError> {
    match datum {
        Datum::Date(days) => Ok(Some(temporal::date_time(*days, 0))),
        Datum::DateTime(at) => Ok(Some(*at)),
        other => {
            let text = other.text();
            let parsed = temporal::parse(&text);
            if !matches!(parsed, Some((_, true))) {
                context.warn(codes::WRONG_VALUE, format!("Incorrect datetime value: '{text}'"))?;
            }
            Ok(parsed.map(|(at, _)| at))
        }
    }
}

/// How two values that are not NULL compare, where what makes no sense counts as its beginning.
pub fn order(a: &Datum, b: &Datum) -> Ordering {
    match (a, b) {
        (Datum::Int(a), Datum::Int(b)) => a.cmp(b),
        (Datum::UInt(a), Datum::UInt(b)) => a.cmp(b),
        (Datum::Date(a), Datum::Date(b)) => a.cmp(b),
        (Datum::Date(a), Datum::DateTime(b)) => temporal::date_time(*a, 0).cmp(b),
        (Datum::DateTime(a), Datum::Date(b)) => a.cmp(&temporal::date_time(*b, 0)),
        (Datum::DateTime(a), Datum::DateTime(b)) => a.cmp(b),
        _ => match (a.as_bytes(), b.as_bytes()) {
            (Some(a), Some(b)) => a.cmp(b),
            _ => match (a.to_decimal(), b.to_decimal()) {
                (Some(a), Some(b)) => a.compare(b),
                _ => a.to_f64().partial_cmp(&b.to_f64()).unwrap_or(Ordering::Equal),
            },
        },
    }
}
