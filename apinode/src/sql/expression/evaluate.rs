//! The value of an expression.

use std::cmp::Ordering;

use super::{
    Binary, Context, Expr, Function, GivenValue, Unary, common_type,
    compare::{compare, to_float},
    store,
};
use crate::sql::{
    decimal::Decimal,
    error::{SqlError, codes},
    types::SqlType,
    value::Datum,
};

impl Expr {
    /// Its value for this row of the input.
    ///
    /// # Errors
    /// 1690 for numbers that do not fit their type, and what the context takes for errors.
    pub fn evaluate(&self, row: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
        match self {
            Expr::Constant(datum, _) => Ok(datum.clone()),
            Expr::Parameter(index) => Ok(context.parameters.get(*index).cloned().unwrap_or(Datum::Null)),
            Expr::Column(index, _) => Ok(row.get(*index).cloned().unwrap_or(Datum::Null)),
            Expr::Given(index, _) => match context.given.get(*index) {
                Some(GivenValue::Value(datum)) => Ok(datum.clone()),
                _ => Ok(Datum::Null),
            },
            Expr::Among(quantified, index) => match context.given.get(*index) {
                Some(GivenValue::Set(set)) => {
                    set.compare(&quantified.of.evaluate(row, context)?, quantified, context)
                }
                _ => Ok(Datum::Null),
            },
            Expr::Unary(operator, inner) => unary(*operator, inner.evaluate(row, context)?, context),
            Expr::Binary(operator, left, right) => {
                let (left, right) = (left.evaluate(row, context)?, right.evaluate(row, context)?);
                binary(*operator, &left, &right, context)
            }
            Expr::All(list) => logic(list, row, context, false),
            Expr::Any(list) => logic(list, row, context, true),
            Expr::In(of, list) => in_list(&of.evaluate(row, context)?, list, row, context),
            Expr::Between(of, bounds) => between(of, bounds, row, context),
            Expr::Like(of, pattern, escape) => {
                let (of, pattern) = (of.evaluate(row, context)?, pattern.evaluate(row, context)?);
                if of.is_null() || pattern.is_null() {
                    return Ok(Datum::Null);
                }
                Ok(like(&of.text(), &pattern.text(), *escape).into())
            }
            Expr::Case(operand, cases, otherwise) => {
                let wanted = self.sql_type(context.parameters);
                let operand = operand.as_ref().map(|operand| operand.evaluate(row, context)).transpose()?;
                for (condition, result) in cases {
                    let holds = match &operand {
                        None => condition.holds(row, context)?,
                        Some(operand) => {
                            let order = compare(operand, &condition.evaluate(row, context)?, context)?;
                            order == Some(Ordering::Equal)
                        }
                    };
                    if holds {
                        return as_type(result.evaluate(row, context)?, wanted);
                    }
                }
                match otherwise {
                    Some(otherwise) => as_type(otherwise.evaluate(row, context)?, wanted),
                    None => Ok(Datum::Null),
                }
            }
            Expr::Cast(inner, sql_type) => store::cast(inner.evaluate(row, context)?, *sql_type, context),
            Expr::Call(function, arguments) => {
                if let Some(value) = chosen(*function, arguments, row, context)? {
                    return Ok(value);
                }
                let types: Vec<SqlType> =
                    arguments.iter().map(|argument| argument.sql_type(context.parameters)).collect();
                // A quotient has more digits than its type says: who makes text of it sees those of the type.
                let values = arguments.iter().zip(&types).map(|(argument, sql_type)| {
                    let value = argument.evaluate(row, context)?;
                    let shown = matches!(value, Datum::Decimal(_)) && !function.is_of_numbers();
                    if shown { as_type(value, *sql_type) } else { Ok(value) }
                });
                let values: Result<Vec<Datum>, SqlError> = values.collect();
                function.call(&values?, &types, context)
            }
        }
    }

    /// Whether the condition holds for this row.
    ///
    /// # Errors
    /// As [`Expr::evaluate`].
    pub fn holds(&self, row: &[Datum], context: &Context<'_>) -> Result<bool, SqlError> {
        truth(&self.evaluate(row, context)?, context).map(|truth| truth == Some(true))
    }
}

/// The same value as one of a common type: an integer among decimals is one.
pub fn as_type(datum: Datum, wanted: SqlType) -> Result<Datum, SqlError> {
    Ok(match (wanted, &datum) {
        (_, Datum::Null) => datum,
        (SqlType::Decimal { scale, .. }, _) => {
            match datum.to_decimal().and_then(|value| value.rescale(scale)) {
                Some(value) => Datum::Decimal(value),
                None => datum,
            }
        }
        (SqlType::Double, Datum::Int(_) | Datum::UInt(_) | Datum::Decimal(_)) => {
            Datum::Double(datum.to_f64())
        }
        (SqlType::Varchar(_), Datum::Text(_)) | (SqlType::Varbinary(_), Datum::Binary(_)) => datum,
        (SqlType::Varchar(_), other) => Datum::Text(other.text()),
        (SqlType::Varbinary(_), other) => Datum::Binary(other.text().into_bytes()),
        _ => datum,
    })
}

fn truth(datum: &Datum, context: &Context<'_>) -> Result<Option<bool>, SqlError> {
    if datum.is_string() {
        return Ok(Some(to_float(datum, context)? != 0.0));
    }
    Ok(datum.truth())
}

/// AND (`until` a part is false), OR (`until` one is true); else NULL if a part is.
fn logic(list: &[Expr], row: &[Datum], context: &Context<'_>, until: bool) -> Result<Datum, SqlError> {
    let mut unknown = false;
    for part in list {
        match truth(&part.evaluate(row, context)?, context)? {
            Some(found) if found == until => return Ok(until.into()),
            Some(_) => {}
            None => unknown = true,
        }
    }
    Ok(if unknown { Datum::Null } else { (!until).into() })
}

fn in_list(of: &Datum, list: &[Expr], row: &[Datum], context: &Context<'_>) -> Result<Datum, SqlError> {
    let mut unknown = of.is_null();
    for item in list {
        match compare(of, &item.evaluate(row, context)?, context)? {
            Some(Ordering::Equal) => return Ok(true.into()),
            Some(_) => {}
            None => unknown = true,
        }
    }
    Ok(if unknown { Datum::Null } else { false.into() })
}

/// Whether BETWEEN compares strings among its operands as numbers, since another one is a number.
pub fn compares_as_numbers(of: &Expr, bounds: &(Expr, Expr), context: &Context<'_>) -> bool {
    let types = [of, &bounds.0, &bounds.1].map(|operand| operand.sql_type(context.parameters));
    let is_string = |sql_type: &SqlType| sql_type.is_text() || sql_type.is_binary();
    types.iter().any(is_string) && types.iter().any(|sql_type| sql_type.is_number())
}

/// All three are compared as one type: where one is a number, all are.
fn between(
    of: &Expr,
    bounds: &(Expr, Expr),
    row: &[Datum],
    context: &Context<'_>,
) -> Result<Datum, SqlError> {
    let as_numbers = compares_as_numbers(of, bounds, context);
    let value = |operand: &Expr| {
        let value = operand.evaluate(row, context)?;
        if as_numbers && value.is_string() { to_float(&value, context).map(Datum::Double) } else { Ok(value) }
    };
    let of = value(of)?;
    let least = compare(&of, &value(&bounds.0)?, context)?.map(Ordering::is_ge);
    let most = compare(&of, &value(&bounds.1)?, context)?.map(Ordering::is_le);
    Ok(match (least, most) {
        (Some(false), _) | (_, Some(false)) => false.into(),
        (Some(true), Some(true)) => true.into(),
        _ => Datum::Null,
    })
}

/// IF, IFNULL, COALESCE: what is not chosen is not computed. `None` for other functions.
fn chosen(
    function: Function,
    arguments: &[Expr],
    row: &[Datum],
    context: &Context<'_>,
) -> Result<Option<Datum>, SqlError> {
    let types = |arguments: &[Expr]| -> Vec<SqlType> {
        arguments.iter().map(|argument| argument.sql_type(context.parameters)).collect()
    };
    match (function, arguments) {
        (Function::If, [condition, yes, no]) => {
            let value = if condition.holds(row, context)? { yes } else { no }.evaluate(row, context)?;
            alternative(&value, types(&arguments[1..])).map(Some)
        }
        (Function::Coalesce | Function::IfNull, _) => {
            for argument in arguments {
                let value = argument.evaluate(row, context)?;
                if !value.is_null() {
                    return alternative(&value, types(arguments)).map(Some);
                }
            }
            Ok(Some(Datum::Null))
        }
        _ => Ok(None),
    }
}

fn unary(operator: Unary, datum: Datum, context: &Context<'_>) -> Result<Datum, SqlError> {
    Ok(match operator {
        Unary::IsNull => datum.is_null().into(),
        Unary::IsTrue => (truth(&datum, context)? == Some(true)).into(),
        Unary::IsFalse => (truth(&datum, context)? == Some(false)).into(),
        _ if datum.is_null() => Datum::Null,
        Unary::Not => match truth(&datum, context)? {
            Some(truth) => (!truth).into(),
            None => Datum::Null,
        },
        Unary::BitNot => Datum::UInt(!bits(&datum, context)?),
        Unary::Negate => match datum {
            Datum::Int(_) | Datum::UInt(_) => match datum.to_i128().map(|value| i64::try_from(-value)) {
                Some(Ok(value)) => Datum::Int(value),
                _ => return Err(out_of_range("BIGINT", &format!("-({})", datum.text()))),
            },
            Datum::Decimal(value) => Datum::Decimal(value.negate().ok_or_else(|| decimal_range("-"))?),
            other => Datum::Double(-to_float(&other, context)?),
        },
    })
}

fn out_of_range(sql_type: &str, what: &str) -> SqlError {
    SqlError::new(codes::NUMBER_OUT_OF_RANGE, format!("{sql_type} value is out of range in '{what}'"))
}

fn decimal_range(what: &str) -> SqlError {
    out_of_range("DECIMAL", what)
}

/// A number as 64 bits, for operators on bits.
fn bits(datum: &Datum, context: &Context<'_>) -> Result<u64, SqlError> {
    Ok(match datum {
        Datum::Int(value) => *value as u64,
        Datum::UInt(value) => *value,
        other => {
            let number = other.to_i128().unwrap_or(to_float(other, context)?.round() as i128);
            if number < 0 {
                number.max(i64::MIN.into()) as i64 as u64
            } else {
                number.min(u64::MAX.into()) as u64
            }
        }
    })
}

/// The value of an operator of two operands.
///
/// # Errors
/// As [`Expr::evaluate`].
pub fn binary(operator: Binary, a: &Datum, b: &Datum, context: &Context<'_>) -> Result<Datum, SqlError> {
    if operator == Binary::NullSafeEqual {
        let both_null = a.is_null() && b.is_null();
        return Ok((both_null || compare(a, b, context)? == Some(Ordering::Equal)).into());
    }
    if operator.is_comparison() {
        let order = compare(a, b, context)?;
        return Ok(order.map_or(Datum::Null, |order| holds(operator, order).into()));
    }
    if operator == Binary::Xor {
        let both = (truth(a, context)?, truth(b, context)?);
        return Ok(if let (Some(a), Some(b)) = both { (a != b).into() } else { Datum::Null });
    }
    if a.is_null() || b.is_null() {
        return Ok(Datum::Null);
    }
    if let Some(value) = on_bits(operator, a, b, context)? {
        return Ok(value);
    }
    let whole = |datum: &Datum| matches!(datum, Datum::Int(_) | Datum::UInt(_) | Datum::Date(_));
    if whole(a) && whole(b) && operator != Binary::Divide {
        return integers(operator, a, b, context);
    }
    match (a.to_decimal(), b.to_decimal()) {
        (Some(a), Some(b)) => decimals(operator, a, b, context),
        _ => floats(operator, to_float(a, context)?, to_float(b, context)?, context),
    }
}

/// Whether values of this order compare so.
pub fn holds(operator: Binary, order: Ordering) -> bool {
    match operator {
        Binary::NotEqual => order.is_ne(),
        Binary::Less => order.is_lt(),
        Binary::LessOrEqual => order.is_le(),
        Binary::Greater => order.is_gt(),
        Binary::GreaterOrEqual => order.is_ge(),
        _ => order.is_eq(),
    }
}

fn on_bits(operator: Binary, a: &Datum, b: &Datum, context: &Context<'_>) -> Result<Option<Datum>, SqlError> {
    let shift = |shifted: Option<u64>| shifted.unwrap_or(0);
    let compute: fn(u64, u64) -> u64 = match operator {
        Binary::BitOr => |a, b| a | b,
        Binary::BitAnd => |a, b| a & b,
        Binary::BitXor => |a, b| a ^ b,
        Binary::ShiftLeft | Binary::ShiftRight => {
            let (a, by) = (bits(a, context)?, bits(b, context)?);
            let by = u32::try_from(by).unwrap_or(u32::MAX);
            let left = operator == Binary::ShiftLeft;
            return Ok(Some(Datum::UInt(shift(if left { a.checked_shl(by) } else { a.checked_shr(by) }))));
        }
        _ => return Ok(None),
    };
    Ok(Some(Datum::UInt(compute(bits(a, context)?, bits(b, context)?))))
}

fn division_by_zero(context: &Context<'_>) -> Result<Datum, SqlError> {
    context.warn(codes::DIVISION_BY_ZERO, "Division by 0")?;
    Ok(Datum::Null)
}

fn integers(operator: Binary, a: &Datum, b: &Datum, context: &Context<'_>) -> Result<Datum, SqlError> {
    let unsigned = |datum: &Datum| matches!(datum, Datum::UInt(_));
    let is_unsigned = match operator {
        Binary::Remainder => unsigned(a),
        _ => unsigned(a) || unsigned(b),
    };
    let (x, y) = (a.to_i128().unwrap_or(0), b.to_i128().unwrap_or(0));
    let divides = matches!(operator, Binary::IntegerDivide | Binary::Remainder);
    if divides && y == 0 {
        return division_by_zero(context);
    }
    let value = match operator {
        Binary::Add => x + y,
        Binary::Subtract => x - y,
        // A product of two unsigned numbers may be too large even for this; then it is for 64 bits, too.
        Binary::Multiply => x.saturating_mul(y),
        Binary::IntegerDivide => x / y,
        _ => x % y,
    };
    let fitting = match is_unsigned {
        true => u64::try_from(value).ok().map(Datum::UInt),
        false => i64::try_from(value).ok().map(Datum::Int),
    };
    let symbol = match operator {
        Binary::Add => "+",
        Binary::Subtract => "-",
        Binary::Multiply => "*",
        Binary::IntegerDivide => "DIV",
        _ => "%",
    };
    let name = if is_unsigned { "BIGINT UNSIGNED" } else { "BIGINT" };
    fitting.ok_or_else(|| out_of_range(name, &format!("({} {symbol} {})", a.text(), b.text())))
}

fn decimals(operator: Binary, a: Decimal, b: Decimal, context: &Context<'_>) -> Result<Datum, SqlError> {
    let divides = matches!(operator, Binary::Divide | Binary::IntegerDivide | Binary::Remainder);
    if divides && b.digits == 0 {
        return division_by_zero(context);
    }
    let value = match operator {
        Binary::Add => a.plus(b),
        Binary::Subtract => a.subtract(b),
        Binary::Multiply => a.multiply(b),
        Binary::Divide => a.divide(b),
        Binary::Remainder => a.remainder(b),
        _ => {
            let whole = a.subtract(a.remainder(b).unwrap_or(b)).and_then(|whole| whole.divide(b));
            let whole = whole.and_then(|whole| i64::try_from(whole.rounded()).ok());
            return whole.map(Datum::Int).ok_or_else(|| out_of_range("BIGINT", &format!("({a} DIV {b})")));
        }
    };
    match value {
        Some(value) => Ok(Datum::Decimal(value)),
        // Where exact numbers have more digits than are kept, the nearest float is next best.
        None => floats(operator, a.to_f64(), b.to_f64(), context),
    }
}

fn floats(operator: Binary, a: f64, b: f64, context: &Context<'_>) -> Result<Datum, SqlError> {
    let divides = matches!(operator, Binary::Divide | Binary::IntegerDivide | Binary::Remainder);
    if divides && b == 0.0 {
        return division_by_zero(context);
    }
    let value = match operator {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide => a / b,
        Binary::Remainder => a % b,
        _ => {
            let whole = (a / b).trunc();
            let fits = whole >= i64::MIN as f64 && whole < i64::MAX as f64;
            return match fits {
                true => Ok(Datum::Int(whole as i64)),
                false => Err(out_of_range("BIGINT", &format!("({a} DIV {b})"))),
            };
        }
    };
    match value.is_finite() {
        true => Ok(Datum::Double(value)),
        false => Err(out_of_range("DOUBLE", &format!("({a}, {b})"))),
    }
}

/// Whether a text is like a pattern: `%` is any text, `_` any character. Case counts, as by utf8mb4_0900_bin.
pub fn like(text: &str, pattern: &str, escape: Option<char>) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut parts = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        parts.push(match char {
            char if Some(char) == escape && chars.peek().is_some() => {
                Part::Char(chars.next().unwrap_or(char))
            }
            '%' => Part::Any,
            '_' => Part::One,
            char => Part::Char(char),
        });
    }
    // Where the last `%` stands, and how far into the text it reaches: only there another attempt is to be made.
    let (mut at, mut part, mut back) = (0, 0, None);
    while at < text.len() {
        match parts.get(part) {
            Some(Part::Any) => {
                back = Some((part, at));
                part += 1;
            }
            Some(Part::One) => (at, part) = (at + 1, part + 1),
            Some(Part::Char(char)) if *char == text[at] => (at, part) = (at + 1, part + 1),
            _ => {
                let Some((any, reach)) = back else { return false };
                back = Some((any, reach + 1));
                (part, at) = (any + 1, reach + 1);
            }
        }
    }
    parts[part..].iter().all(|part| *part == Part::Any)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Char(char),
}

/// The value that a function of alternatives gives, as one of their common type.
///
/// # Errors
/// None yet.
pub fn alternative(chosen: &Datum, types: impl IntoIterator<Item = SqlType>) -> Result<Datum, SqlError> {
    as_type(chosen.clone(), types.into_iter().reduce(common_type).unwrap_or(SqlType::Null))
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
