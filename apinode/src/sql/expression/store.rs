//! Values on their way into a column, and CAST.

use twofold_proto::{
    schema::{Column, ColumnType},
    value::{Value, ValueRef},
};

use super::{Context, compare::to_float};
use crate::sql::{
    decimal::Decimal,
    error::{Code, SqlError, codes},
    temporal,
    types::SqlType,
    value::{Datum, number_prefix},
};

/// The value as this column keeps it, for the row with this number of the statement, as strict mode has it: what does not fit is
/// an error.
///
/// # Errors
/// 1048, 1264, 1265, 1292, 1366 or 1406, by what is wrong.
pub fn store(
    datum: &Datum,
    column: &Column,
    sql_type: SqlType,
    row: usize,
    context: &Context<'_>,
) -> Result<Value, SqlError> {
    let name = &column.name;
    if datum.is_null() {
        if column.nullable {
            return Ok(Value::Null);
        }
        return Err(SqlError::new(codes::NULL_VALUE, format!("Column '{name}' cannot be null")));
    }
    let fail = |code: Code, text: String| {
        Err(SqlError::new(code, format!("{text} for column '{name}' at row {row}")))
    };
    let out_of_range = || fail(codes::OUT_OF_RANGE, "Out of range value".into());
    match sql_type {
        SqlType::Bool | SqlType::Integer { .. } => {
            let number = match number_of(datum) {
                Number::Whole(number) => number,
                Number::Cut => return fail(codes::DATA_TRUNCATED, "Data truncated".into()),
                Number::None => {
                    let text = format!("Incorrect integer value: '{}'", datum.text());
                    return fail(codes::WRONG_VALUE_FOR_COLUMN, text);
                }
            };
            let Some((least, most)) = sql_type.integer_range() else { return out_of_range() };
            if !(least..=most).contains(&number) {
                return out_of_range();
            }
            Ok(match column.column_type {
                ColumnType::Bool if !(0..=1).contains(&number) => return out_of_range(),
                ColumnType::Bool => ValueRef::Bool(number == 1),
                _ if least < 0 => ValueRef::Int(number as i64),
                _ => ValueRef::UInt(number as u64),
            })
        }
        SqlType::Decimal { scale, .. } => {
            let exact = match datum {
                Datum::Double(value) => Decimal::parse(&format!("{value:.*}", usize::from(scale) + 1)),
                Datum::Text(_) | Datum::Binary(_) => match text_decimal(&datum.text()) {
                    Some(value) => Some(value),
                    None => {
                        let text = format!("Incorrect decimal value: '{}'", datum.text());
                        return fail(codes::WRONG_VALUE_FOR_COLUMN, text);
                    }
                },
                other => other.to_decimal(),
            };
            let Some(value) = exact.and_then(|value| value.rescale(scale)) else { return out_of_range() };
            let most = sql_type.decimal_bound().map_or(0, |bound| bound.digits);
            if value.digits.abs() > most {
                return out_of_range();
            }
            if exact.is_some_and(|exact| exact.compare(value).is_ne()) {
                context.warnings.borrow_mut().push(
                    super::Level::Note,
                    SqlError::new(
                        codes::DATA_TRUNCATED,
                        format!("Data truncated for column '{name}' at row {row}"),
                    ),
                );
            }
            Ok(ValueRef::Int(value.digits as i64))
        }
        SqlType::Float | SqlType::Double => {
            let value = match datum.as_bytes() {
                None => datum.to_f64(),
                Some(_) => match number_prefix(&datum.text()) {
                    (value, true) => value,
                    (_, false)
                        if datum.text().trim_start().starts_with(|char: char| char.is_ascii_digit()) =>
                    {
                        return fail(codes::DATA_TRUNCATED, "Data truncated".into());
                    }
                    _ => {
                        let text = format!("Incorrect double value: '{}'", datum.text());
                        return fail(codes::WRONG_VALUE_FOR_COLUMN, text);
                    }
                },
            };
            column.column_type.fit(ValueRef::Float(value)).map_or_else(|_| out_of_range(), Ok)
        }
        SqlType::Char(_) | SqlType::Varchar(_) | SqlType::Text(_) => {
            let Some(mut text) = text_of(datum) else {
                let text = format!("Incorrect string value: '{}'", datum.text());
                return fail(codes::WRONG_VALUE_FOR_COLUMN, text);
            };
            // Spaces beyond the end are no loss.
            if let SqlType::Char(most) | SqlType::Varchar(most) = sql_type
                && let Some((end, _)) = text.char_indices().nth(most as usize)
                && text[end..].bytes().all(|byte| byte == b' ')
            {
                text.truncate(end);
            }
            if matches!(sql_type, SqlType::Char(_)) {
                text.truncate(text.trim_end_matches(' ').len());
            }
            let too_long = matches!(sql_type, SqlType::Text(most) if text.len() > most as usize);
            match column.column_type.fit(Value::from(text)) {
                Ok(value) if !too_long => Ok(value),
                _ => fail(codes::DATA_TOO_LONG, "Data too long".into()),
            }
        }
        SqlType::Binary(_) | SqlType::Varbinary(_) | SqlType::Blob(_) => {
            let mut bytes = match datum {
                Datum::Binary(bytes) => bytes.clone(),
                other => other.text().into_bytes(),
            };
            if let SqlType::Binary(length) = sql_type
                && bytes.len() < length as usize
            {
                bytes.resize(length as usize, 0);
            }
            column
                .column_type
                .fit(Value::from(bytes))
                .or_else(|_| fail(codes::DATA_TOO_LONG, "Data too long".into()))
        }
        SqlType::Date | SqlType::DateTime(_) | SqlType::Timestamp(_) => {
            let name = if sql_type == SqlType::Date { "date" } else { "datetime" };
            let Some(at) = time_of(datum) else {
                let text = format!("Incorrect {name} value: '{}'", datum.text());
                return fail(codes::WRONG_VALUE, text);
            };
            Ok(ValueRef::Int(match sql_type {
                SqlType::Date => temporal::split(at).0.into(),
                _ => temporal::round(at, sql_type.decimals()),
            }))
        }
        SqlType::Null => Ok(Value::Null),
    }
}

/// What a value is as a whole number.
enum Number {
    Whole(i128),
    /// It begins with one.
    Cut,
    None,
}

fn number_of(datum: &Datum) -> Number {
    let Some(bytes) = datum.as_bytes() else {
        return datum.to_i128().map_or(Number::None, Number::Whole);
    };
    let text = String::from_utf8_lossy(bytes);
    let trimmed = text.trim();
    if let Some(exact) = Decimal::parse(trimmed) {
        return Number::Whole(exact.rounded());
    }
    match number_prefix(trimmed) {
        (value, true) => Number::Whole(value.round() as i128),
        (value, false)
            if trimmed.starts_with(|char: char| char.is_ascii_digit() || char == '-') && value != 0.0 =>
        {
            Number::Cut
        }
        _ => Number::None,
    }
}

fn text_decimal(text: &str) -> Option<Decimal> {
    let text = text.trim();
    Decimal::parse(text).or_else(|| match number_prefix(text) {
        (value, true) => Decimal::parse(&format!("{value:.20}")),
        _ => None,
    })
}

fn text_of(datum: &Datum) -> Option<String> {
    match datum {
        Datum::Binary(bytes) => String::from_utf8(bytes.clone()).ok(),
        other => Some(other.text()),
    }
}

fn time_of(datum: &Datum) -> Option<i64> {
    match datum {
        Datum::Date(days) => Some(temporal::date_time(*days, 0)),
        Datum::DateTime(at) => Some(*at),
        Datum::Double(_) => None,
        other => temporal::parse(&other.text()).filter(|(_, all)| *all).map(|(at, _)| at),
    }
}

/// CAST: the value as one of this type; what does not fit is cut, with a warning.
///
/// # Errors
/// Warnings that are errors in this context.
pub fn cast(datum: Datum, wanted: SqlType, context: &Context<'_>) -> Result<Datum, SqlError> {
    if datum.is_null() {
        return Ok(datum);
    }
    let cut = |name: &str, text: &str| {
        context.warn(codes::WRONG_VALUE, format!("Truncated incorrect {name} value: '{text}'"))
    };
    match wanted {
        SqlType::Integer { unsigned, .. } => {
            let number = match &datum {
                Datum::Text(_) | Datum::Binary(_) => {
                    // Of a text it is the digits that it begins with.
                    let text = datum.text();
                    let trimmed = text.trim();
                    let sign = usize::from(trimmed.starts_with(['-', '+']));
                    let digits = trimmed[sign..].bytes().take_while(u8::is_ascii_digit).count();
                    if sign + digits < trimmed.len() || digits == 0 {
                        cut("INTEGER", &text)?;
                    }
                    let number: i128 = trimmed[..sign + digits].parse().unwrap_or(0);
                    number.clamp(i64::MIN.into(), u64::MAX.into())
                }
                other => other.to_i128().unwrap_or(0).clamp(i64::MIN.into(), u64::MAX.into()),
            };
            Ok(if unsigned { Datum::UInt(number as u64) } else { Datum::Int(number as u64 as i64) })
        }
        SqlType::Decimal { scale, .. } => {
            let exact = match &datum {
                Datum::Text(_) | Datum::Binary(_) => {
                    let text = datum.text();
                    if text_decimal(&text).is_none() {
                        cut("DECIMAL", &text)?;
                    }
                    text_decimal(&text).or_else(|| Decimal::parse(&format!("{:.10}", number_prefix(&text).0)))
                }
                Datum::Double(value) => Decimal::parse(&format!("{value:.*}", usize::from(scale) + 1)),
                other => other.to_decimal(),
            };
            let most = wanted.decimal_bound();
            let value = exact.and_then(|value| value.rescale(scale)).or(most).unwrap_or(Decimal::integer(0));
            let bound = most.map_or(i128::MAX, |most| most.digits);
            Ok(Datum::Decimal(Decimal { digits: value.digits.clamp(-bound, bound), scale }))
        }
        SqlType::Float => Ok(Datum::Double(f64::from(to_float(&datum, context)? as f32))),
        SqlType::Double => Ok(Datum::Double(to_float(&datum, context)?)),
        SqlType::Date | SqlType::DateTime(_) => match time_of(&datum) {
            Some(at) if wanted == SqlType::Date => Ok(Datum::Date(temporal::split(at).0)),
            Some(at) => Ok(Datum::DateTime(temporal::round(at, wanted.decimals()))),
            None => {
                context.warn(codes::WRONG_VALUE, format!("Incorrect datetime value: '{}'", datum.text()))?;
                Ok(Datum::Null)
            }
        },
        SqlType::Char(most) | SqlType::Varchar(most) => {
            let text = datum.text();
            Ok(Datum::Text(match text.char_indices().nth(most as usize) {
                Some((end, _)) => {
                    cut(&format!("CHAR({most})"), &text)?;
                    text[..end].to_owned()
                }
                None => text,
            }))
        }
        SqlType::Binary(most) | SqlType::Varbinary(most) => {
            let mut bytes = match datum {
                Datum::Binary(bytes) => bytes,
                other => other.text().into_bytes(),
            };
            bytes.truncate(most as usize);
            Ok(Datum::Binary(bytes))
        }
        _ => Ok(datum),
    }
}
