//! Functions of values.

use super::{
    Context, Expr, common_type,
    compare::{compare, to_float},
    evaluate::alternative,
};
use crate::sql::{
    decimal::{self, Decimal},
    error::{SqlError, codes},
    types::SqlType,
    value::Datum,
};

/// Bytes of a string that a function makes.
const STRING_MAX: usize = 16 << 20;

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $($text:literal)|+, $least:literal, $most:literal;)*) => {
        /// A function.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Function {
            $($(#[$doc])* $name,)*
        }

        impl Function {
            /// The function of this name, in small letters.
            pub fn from_name(name: &str) -> Option<Function> {
                match name {
                    $($($text)|+ => Some(Function::$name),)*
                    _ => None,
                }
            }

            /// Its name, the first of them.
            pub fn name(self) -> &'static str {
                match self {
                    $(Function::$name => [$($text),+][0],)*
                }
            }

            /// How many arguments it takes, at least and at most.
            pub fn arguments(self) -> (usize, usize) {
                match self {
                    $(Function::$name => ($least, $most),)*
                }
            }
        }
    };
}

functions! {
    /// The number without its sign.
    Abs = "abs", 1, 1;
    /// The least whole number that is not less.
    Ceiling = "ceiling" | "ceil", 1, 1;
    /// The largest whole number that is not larger.
    Floor = "floor", 1, 1;
    /// Rounded to so many digits.
    Round = "round", 1, 2;
    /// Cut off behind so many digits.
    Truncate = "truncate", 2, 2;
    /// -1, 0 or 1.
    Sign = "sign", 1, 1;
    /// The first argument that is not NULL.
    Coalesce = "coalesce", 1, 255;
    /// The second argument if the first is NULL.
    IfNull = "ifnull", 2, 2;
    /// NULL if both are equal.
    NullIf = "nullif", 2, 2;
    /// The second argument if the first holds, else the third.
    If = "if", 3, 3;
    /// The largest.
    Greatest = "greatest", 2, 255;
    /// The least.
    Least = "least", 2, 255;
    /// All one after the other.
    Concat = "concat", 1, 255;
    /// All but the first, with it between them.
    ConcatWs = "concat_ws", 2, 255;
    /// How many bytes.
    Length = "length" | "octet_length", 1, 1;
    /// How many characters.
    CharLength = "char_length" | "character_length", 1, 1;
    /// In capitals.
    Upper = "upper" | "ucase", 1, 1;
    /// In small letters.
    Lower = "lower" | "lcase", 1, 1;
    /// So many characters from a place on, counted from 1.
    Substring = "substring" | "substr" | "mid", 2, 3;
    /// The first so many characters.
    Left = "left", 2, 2;
    /// The last so many characters.
    Right = "right", 2, 2;
    /// Without spaces at both ends.
    Trim = "trim", 1, 1;
    /// Without spaces at the front.
    LTrim = "ltrim", 1, 1;
    /// Without spaces at the end.
    RTrim = "rtrim", 1, 1;
    /// With one text in place of another.
    Replace = "replace", 3, 3;
    /// So many times.
    Repeat = "repeat", 2, 2;
    /// Backwards.
    Reverse = "reverse", 1, 1;
    /// In hexadecimal digits.
    Hex = "hex", 1, 1;
    /// From hexadecimal digits.
    Unhex = "unhex", 1, 1;
}

fn text(value: impl Into<String>) -> Datum {
    Datum::Text(value.into())
}

impl Function {
    /// Whether it computes with numbers.
    pub fn is_of_numbers(self) -> bool {
        use Function::*;
        matches!(self, Abs | Ceiling | Floor | Round | Truncate | Sign)
    }

    /// The type of its value, by the types of its arguments.
    pub fn sql_type(self, types: &[SqlType], arguments: &[Expr]) -> SqlType {
        use Function::*;
        let first = types.first().copied().unwrap_or(SqlType::Null);
        let common = |types: &[SqlType]| types.iter().copied().reduce(common_type).unwrap_or(SqlType::Null);
        match self {
            Abs if first.is_integer() => SqlType::BIGINT,
            Abs | Round | Truncate | Ceiling | Floor => match first {
                SqlType::Decimal { precision, scale } => {
                    let wanted = match (self, arguments.get(1)) {
                        (Abs, _) => scale,
                        (Round | Truncate, Some(Expr::Constant(Datum::Int(digits), _))) => {
                            (*digits).clamp(0, decimal::SCALE_MAX.into()) as u8
                        }
                        (Round | Truncate, Some(_)) => scale,
                        (Ceiling | Floor, _) => return SqlType::BIGINT,
                        _ => 0,
                    };
                    SqlType::Decimal { precision: precision - scale + wanted + 1, scale: wanted }
                }
                integer if integer.is_integer() => {
                    SqlType::Integer { bytes: 8, unsigned: integer.is_unsigned() }
                }
                _ => SqlType::Double,
            },
            Coalesce | IfNull | Greatest | Least => common(types),
            If => common(&types[1..]),
            NullIf => first,
            Sign | Length | CharLength => SqlType::Integer { bytes: 4, unsigned: false },
            Unhex => SqlType::Varbinary(first.display_width()),
            Upper | Lower | Substring | Left | Right | Trim | LTrim | RTrim | Reverse
                if first.is_binary() =>
            {
                first
            }
            Concat | ConcatWs | Replace | Repeat if types.iter().any(|sql_type| sql_type.is_binary()) => {
                SqlType::Varbinary(types.iter().map(|sql_type| sql_type.display_width()).sum())
            }
            _ => SqlType::Varchar(types.iter().map(|sql_type| sql_type.display_width()).sum()),
        }
    }

    /// Its value.
    ///
    /// # Errors
    /// As [`Expr::evaluate`].
    pub fn call(self, values: &[Datum], types: &[SqlType], context: &Context<'_>) -> Result<Datum, SqlError> {
        use Function::*;
        match self {
            NullIf => {
                let equal = compare(&values[0], &values[1], context)?.is_some_and(|order| order.is_eq());
                return Ok(if equal { Datum::Null } else { values[0].clone() });
            }
            ConcatWs if !values[0].is_null() => {
                let parts: Vec<Datum> =
                    values[1..].iter().filter(|value| !value.is_null()).cloned().collect();
                return join(&parts, &values[0]);
            }
            _ => {}
        }
        if values.iter().any(Datum::is_null) {
            return Ok(Datum::Null);
        }
        let first = &values[0];
        let count = |index: usize| -> Result<i64, SqlError> {
            let number =
                values[index].to_i128().unwrap_or(to_float(&values[index], context)?.round() as i128);
            Ok(number.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
        };
        match self {
            Abs | Ceiling | Floor | Round | Truncate | Sign => {
                let digits = if values.len() > 1 { count(1)? } else { 0 };
                self.rounded(first, digits, context)
            }
            Greatest | Least => extreme(values, self == Greatest, types, context),
            Concat => join(values, &text("")),
            Length => Ok(Datum::Int(bytes(first).len() as i64)),
            CharLength => Ok(Datum::Int(match first {
                Datum::Binary(bytes) => bytes.len(),
                other => other.text().chars().count(),
            } as i64)),
            Upper | Lower if matches!(first, Datum::Binary(_)) => Ok(first.clone()),
            Upper => Ok(text(first.text().to_uppercase())),
            Lower => Ok(text(first.text().to_lowercase())),
            Substring => {
                let most = if values.len() > 2 { count(2)? } else { i64::MAX };
                Ok(slice(first, count(1)?, most))
            }
            Left => Ok(slice(first, 1, count(1)?)),
            Right => Ok(match count(1)? {
                digits if digits <= 0 => slice(first, 1, 0),
                digits => slice(first, -digits.min(length(first)), i64::MAX),
            }),
            Trim => Ok(text(first.text().trim_matches(' '))),
            LTrim => Ok(text(first.text().trim_start_matches(' '))),
            RTrim => Ok(text(first.text().trim_end_matches(' '))),
            Replace => {
                let (all, from, to) = (first.text(), values[1].text(), values[2].text());
                let grown = all.len().saturating_mul(to.len().max(1));
                Ok(match from.is_empty() {
                    true => text(all),
                    false if grown > STRING_MAX => return too_long(),
                    false => text(all.replace(&from, &to)),
                })
            }
            Repeat => {
                let times = count(1)?.max(0) as usize;
                match first.text().len().saturating_mul(times) > STRING_MAX {
                    true => too_long(),
                    false => Ok(text(first.text().repeat(times))),
                }
            }
            Reverse => Ok(text(first.text().chars().rev().collect::<String>())),
            Hex => Ok(text(match first {
                Datum::Text(_) | Datum::Binary(_) | Datum::Date(_) | Datum::DateTime(_) => {
                    bytes(first).iter().map(|byte| format!("{byte:02X}")).collect()
                }
                number => format!("{:X}", number.to_i128().unwrap_or(0) as u64),
            })),
            Unhex => Ok(unhex(&first.text()).map_or(Datum::Null, Datum::Binary)),
            // Those of which not all arguments are computed are dealt with where they are.
            Coalesce | IfNull | If | NullIf | ConcatWs => Ok(Datum::Null),
        }
    }

    fn rounded(self, number: &Datum, digits: i64, context: &Context<'_>) -> Result<Datum, SqlError> {
        use Function::*;
        let range = || {
            SqlError::new(
                codes::NUMBER_OUT_OF_RANGE,
                format!("BIGINT value is out of range in '{}'", self.name()),
            )
        };
        if self == Sign {
            let value = to_float(number, context)?;
            return Ok(Datum::Int(i64::from(value > 0.0) - i64::from(value < 0.0)));
        }
        match number {
            Datum::Int(value) => match self {
                Abs => value.checked_abs().map(Datum::Int).ok_or_else(range),
                Round | Truncate if digits < 0 => {
                    let rounded = shorten(i128::from(*value), digits, self == Round);
                    i64::try_from(rounded).map(Datum::Int).map_err(|_| range())
                }
                _ => Ok(number.clone()),
            },
            Datum::UInt(value) => match self {
                Round | Truncate if digits < 0 => {
                    let rounded = shorten(i128::from(*value), digits, self == Round);
                    u64::try_from(rounded).map(Datum::UInt).map_err(|_| range())
                }
                _ => Ok(number.clone()),
            },
            Datum::Decimal(value) => {
                let one = Decimal::integer(1);
                let whole = Decimal::integer(value.whole());
                let scale = digits.clamp(0, decimal::SCALE_MAX.into()) as u8;
                let found = match self {
                    Abs if value.digits < 0 => value.negate(),
                    Abs => Some(*value),
                    Round if digits < 0 => Some(Decimal::integer(shorten(value.rounded(), digits, true))),
                    Truncate if digits < 0 => Some(Decimal::integer(shorten(value.whole(), digits, false))),
                    Round => value.rescale(scale),
                    Truncate => value.truncate(scale),
                    Ceiling if whole.compare(*value).is_lt() => whole.plus(one),
                    Floor if whole.compare(*value).is_gt() => whole.subtract(one),
                    _ => Some(whole),
                };
                let found = found.ok_or_else(range)?;
                match self {
                    Ceiling | Floor => i64::try_from(found.whole()).map(Datum::Int).map_err(|_| range()),
                    _ => Ok(Datum::Decimal(found)),
                }
            }
            other => {
                let value = to_float(other, context)?;
                let unit = 10f64.powi(digits.clamp(-308, 308) as i32);
                let scaled = |round: fn(f64) -> f64| {
                    let found = round(value * unit) / unit;
                    if found.is_finite() { found } else { value }
                };
                Ok(Datum::Double(match self {
                    Abs => value.abs(),
                    Ceiling => value.ceil(),
                    Floor => value.floor(),
                    Round => scaled(f64::round_ties_even),
                    _ => scaled(f64::trunc),
                }))
            }
        }
    }
}

/// With zeros for the last so many digits.
fn shorten(value: i128, digits: i64, round: bool) -> i128 {
    let Some(unit) = 10i128.checked_pow((-digits).min(38) as u32) else { return 0 };
    let half = if round { unit / 2 * value.signum() } else { 0 };
    (value + half) / unit * unit
}

fn extreme(
    values: &[Datum],
    largest: bool,
    types: &[SqlType],
    context: &Context<'_>,
) -> Result<Datum, SqlError> {
    let mut best = &values[0];
    for value in &values[1..] {
        let order = compare(value, best, context)?;
        if order.is_some_and(|order| if largest { order.is_gt() } else { order.is_lt() }) {
            best = value;
        }
    }
    alternative(best, types.iter().copied())
}

fn bytes(value: &Datum) -> Vec<u8> {
    match value {
        Datum::Binary(bytes) => bytes.clone(),
        other => other.text().into_bytes(),
    }
}

fn join(values: &[Datum], between: &Datum) -> Result<Datum, SqlError> {
    let parts: Vec<Vec<u8>> = values.iter().map(bytes).collect();
    if parts.iter().map(Vec::len).sum::<usize>() > STRING_MAX {
        return too_long();
    }
    let joined = parts.join(&bytes(between)[..]);
    let binary = values.iter().chain([between]).any(|value| matches!(value, Datum::Binary(_)));
    Ok(match String::from_utf8(joined) {
        Ok(joined) if !binary => Datum::Text(joined),
        Ok(joined) => Datum::Binary(joined.into_bytes()),
        Err(error) => Datum::Binary(error.into_bytes()),
    })
}

fn too_long() -> Result<Datum, SqlError> {
    let text = format!("Result of a string function is longer than max_allowed_packet ({STRING_MAX})");
    Err(SqlError::new(codes::OUT_OF_SORT_MEMORY, text))
}

fn length(value: &Datum) -> i64 {
    match value {
        Datum::Binary(bytes) => bytes.len() as i64,
        other => other.text().chars().count() as i64,
    }
}

/// So many characters, or bytes of a binary, from a place on that counts from 1; or from the end, if it is negative.
fn slice(value: &Datum, from: i64, most: i64) -> Datum {
    let length = length(value);
    let start = if from < 0 { length.saturating_add(from) } else { from - 1 };
    let count = most.clamp(0, length) as usize;
    let empty = from == 0 || start < 0 || start >= length;
    let (start, count) = if empty { (0, 0) } else { (start as usize, count) };
    match value {
        Datum::Binary(bytes) => Datum::Binary(bytes.iter().skip(start).take(count).copied().collect()),
        other => Datum::Text(other.text().chars().skip(start).take(count).collect()),
    }
}

/// `None` for anything but hexadecimal digits.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|char| char.to_digit(16).map(|digit| digit as u8)).collect();
    let mut digits = digits?;
    if digits.len() % 2 == 1 {
        digits.insert(0, 0);
    }
    Some(digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect())
}
