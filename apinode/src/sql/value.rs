//! Values while a statement works with them, and their texts.

use std::cmp::Ordering;

use twofold_proto::{schema::ColumnType, value::ValueRef};

use super::{decimal::Decimal, temporal, types::SqlType};

/// A value.
#[derive(Clone, PartialEq, Debug)]
pub enum Datum {
    /// NULL.
    Null,
    /// A whole number.
    Int(i64),
    /// A whole number that is not negative; of BIGINT UNSIGNED, where it matters.
    UInt(u64),
    /// An exact number.
    Decimal(Decimal),
    /// A float; finite.
    Double(f64),
    /// Characters.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// A day, from 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01 00:00.
    DateTime(i64),
}

/// Floats of statements are finite, so equality is total.
impl Eq for Datum {}

impl From<bool> for Datum {
    fn from(value: bool) -> Datum {
        Datum::Int(value.into())
    }
}

impl From<&str> for Datum {
    fn from(text: &str) -> Datum {
        Datum::Text(text.to_owned())
    }
}

impl Datum {
    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        *self == Datum::Null
    }

    /// Whether it is characters or bytes.
    pub fn is_string(&self) -> bool {
        matches!(self, Datum::Text(_) | Datum::Binary(_))
    }

    /// The bytes of a string.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Datum::Text(text) => Some(text.as_bytes()),
            Datum::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A column's value as the cluster keeps it.
    pub fn from_column(value: ValueRef<'_>, column_type: ColumnType, sql_type: SqlType) -> Datum {
        match value {
            ValueRef::Null => Datum::Null,
            ValueRef::Bool(value) => value.into(),
            ValueRef::Int(value) => match (column_type, sql_type) {
                (ColumnType::Date, _) => Datum::Date(value as i32),
                (ColumnType::DateTime | ColumnType::Timestamp, _) => Datum::DateTime(value),
                (_, SqlType::Decimal { scale, .. }) => {
                    Datum::Decimal(Decimal { digits: value.into(), scale })
                }
                _ => Datum::Int(value),
            },
            ValueRef::UInt(value) => Datum::UInt(value),
            ValueRef::Float(value) => Datum::Double(value),
            ValueRef::Text(text) => Datum::Text(text.into_owned()),
            ValueRef::Binary(bytes) => Datum::Binary(bytes.into_owned()),
        }
    }

    /// The whole number that is nearest; `None` for strings and NULL.
    pub fn to_i128(&self) -> Option<i128> {
        match self {
            Datum::Int(value) => Some((*value).into()),
            Datum::UInt(value) => Some((*value).into()),
            Datum::Decimal(value) => Some(value.rounded()),
            // Ties go away from zero, as in MySQL's round.
            Datum::Double(value) => Some(value.round() as i128),
            Datum::Date(_) | Datum::DateTime(_) => self.time_number().map(Decimal::rounded),
            Datum::Null | Datum::Text(_) | Datum::Binary(_) => None,
        }
    }

    /// The float that is nearest; of strings by the number that they begin with.
    pub fn to_f64(&self) -> f64 {
        match self {
            Datum::Null => 0.0,
            Datum::Int(value) => *value as f64,
            Datum::UInt(value) => *value as f64,
            Datum::Decimal(value) => value.to_f64(),
            Datum::Double(value) => *value,
            Datum::Text(_) | Datum::Binary(_) => {
                number_prefix(&String::from_utf8_lossy(self.as_bytes().unwrap_or_default())).0
            }
            Datum::Date(_) | Datum::DateTime(_) => self.time_number().map_or(0.0, Decimal::to_f64),
        }
    }

    /// The exact number of a whole or exact one, or of a time.
    pub fn to_decimal(&self) -> Option<Decimal> {
        match self {
            Datum::Int(value) => Some(Decimal::integer((*value).into())),
            Datum::UInt(value) => Some(Decimal::integer((*value).into())),
            Datum::Decimal(value) => Some(*value),
            Datum::Date(_) | Datum::DateTime(_) => self.time_number(),
            _ => None,
        }
    }

    /// A day or time as a number: `20240229`, `20240229120000.5`.
    fn time_number(&self) -> Option<Decimal> {
        let date = |days: i32| {
            let (year, month, day) = temporal::civil(days);
            i128::from(year * 10_000 + month * 100 + day)
        };
        match *self {
            Datum::Date(days) => Some(Decimal::integer(date(days))),
            Datum::DateTime(at) => {
                let (days, micros) = temporal::split(at);
                let seconds = micros / 1_000_000;
                let time = seconds / 3600 * 10_000 + seconds / 60 % 60 * 100 + seconds % 60;
                let whole = date(days) * 1_000_000 + i128::from(time);
                let fraction = i128::from(micros % 1_000_000);
                Some(match fraction {
                    0 => Decimal::integer(whole),
                    _ => Decimal { digits: whole * 1_000_000 + fraction, scale: 6 },
                })
            }
            _ => None,
        }
    }

    /// Its text, as a value of this type has it; of strings themselves.
    pub fn render(&self, sql_type: SqlType) -> String {
        match self {
            Datum::Null => "NULL".into(),
            Datum::Int(value) => value.to_string(),
            Datum::UInt(value) => value.to_string(),
            Datum::Decimal(value) => match sql_type {
                SqlType::Decimal { scale, .. } => value.rescale(scale).unwrap_or(*value).to_string(),
                _ => value.to_string(),
            },
            Datum::Double(value) if sql_type == SqlType::Float => float_text(*value as f32),
            Datum::Double(value) => double_text(*value),
            Datum::Text(text) => text.clone(),
            Datum::Binary(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Datum::Date(days) => temporal::date_text(*days),
            Datum::DateTime(at) => temporal::date_time_text(*at, sql_type.decimals().min(6)),
        }
    }

    /// Its text where no type is known of it.
    pub fn text(&self) -> String {
        match self {
            Datum::DateTime(at) if at.rem_euclid(1_000_000) != 0 => temporal::date_time_text(*at, 6),
            _ => self.render(SqlType::Null),
        }
    }

    /// Whether a condition that has this value holds; `None` for NULL.
    pub fn truth(&self) -> Option<bool> {
        match self {
            Datum::Null => None,
            Datum::Int(value) => Some(*value != 0),
            Datum::UInt(value) => Some(*value != 0),
            Datum::Decimal(value) => Some(value.digits != 0),
            other => Some(other.to_f64() != 0.0),
        }
    }

    /// The order in which rows are sorted and grouped: NULL first. Both are values of one column.
    pub fn sort_order(&self, other: &Datum) -> Ordering {
        match (self, other) {
            (Datum::Null, Datum::Null) => Ordering::Equal,
            (Datum::Null, _) => Ordering::Less,
            (_, Datum::Null) => Ordering::Greater,
            _ => super::expression::compare::order(self, other),
        }
    }

    /// How much memory it takes, about.
    pub fn bytes(&self) -> usize {
        size_of::<Datum>() + self.as_bytes().map_or(0, <[u8]>::len)
    }
}

/// The number that a text begins with, and whether it is all of it (but for spaces).
pub fn number_prefix(text: &str) -> (f64, bool) {
    let text = text.trim_start();
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let sign = usize::from(matches!(bytes.first(), Some(b'-' | b'+')));
    let whole = digits(sign);
    let mut end = sign + whole;
    let mut fraction = 0;
    if bytes.get(end) == Some(&b'.') {
        fraction = digits(end + 1);
        if whole + fraction > 0 {
            end += 1 + fraction;
        }
    }
    if whole + fraction == 0 {
        return (0.0, false);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        let exponent = if end + 1 + sign <= bytes.len() { digits(end + 1 + sign) } else { 0 };
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    let value: f64 = text[..end].parse().unwrap_or(0.0);
    (value.clamp(f64::MIN, f64::MAX), text[end..].trim_end().is_empty())
}

/// As MySQL prints a DOUBLE: the shortest text that reads as the same number, with an exponent where it is far from 1.
pub fn double_text(value: f64) -> String {
    digits_text(&format!("{value:e}"))
}

/// As MySQL prints a FLOAT: six digits.
pub fn float_text(value: f32) -> String {
    digits_text(&format!("{value:.5e}"))
}

/// From `-1.5e3`.
fn digits_text(scientific: &str) -> String {
    /// Digits before the point, or zeros behind it, past which there is an exponent.
    const PLAIN_MAX: i32 = 15;
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let all: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = all.trim_end_matches('0');
    if digits.is_empty() {
        return "0".into();
    }
    let point = exponent + 1;
    if point <= 1 - PLAIN_MAX || point > PLAIN_MAX {
        let (first, rest) = digits.split_at(1);
        let rest = if rest.is_empty() { String::new() } else { format!(".{rest}") };
        return format!("{sign}{first}{rest}e{exponent}");
    }
    if point <= 0 {
        return format!("{sign}0.{}{digits}", "0".repeat(-point as usize));
    }
    let point = point as usize;
    if digits.len() <= point {
        return format!("{sign}{digits}{}", "0".repeat(point - digits.len()));
    }
    format!("{sign}{}.{}", &digits[..point], &digits[point..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_floats() {
        let texts = [0.0, -0.0, 0.1, 1.5, -100.0, 1e14, 1e15, 123456789012345680.0, 1e-5, 1.5e-20, 1e308]
            .map(double_text);
        let expected = [
            "0",
            "0",
            "0.1",
            "1.5",
            "-100",
            "100000000000000",
            "1e15",
            "1.2345678901234568e17",
            "0.00001",
            "1.5e-20",
            "1e308",
        ];
        assert_eq!(texts, expected);
        assert_eq!(
            [0.1f32, 16777216.0, 2.7654321, 1e-7].map(float_text),
            ["0.1", "16777200", "2.76543", "0.0000001"]
        );
    }

    #[test]
    fn texts_begin_with_numbers() {
        let cases = [
            ("12", 12.0, true),
            (" -1.5e2 ", -150.0, true),
            ("12abc", 12.0, false),
            ("abc", 0.0, false),
            ("", 0.0, false),
            (".5", 0.5, true),
            ("5.", 5.0, true),
            (".", 0.0, false),
            ("1e", 1.0, false),
            ("+3", 3.0, true),
            ("1e+", 1.0, false),
        ];
        for (text, value, all) in cases {
            assert_eq!(number_prefix(text), (value, all), "{text:?}");
        }
    }

    #[test]
    fn times_are_numbers_too() {
        let at = temporal::date_time(temporal::days(2024, 2, 29).unwrap(), 3_723_500_000);
        assert_eq!(Datum::DateTime(at).to_f64(), 20_240_229_010_203.5);
        assert_eq!(Datum::Date(0).to_i128(), Some(19_700_101));
        assert_eq!(Datum::DateTime(at).render(SqlType::DateTime(1)), "2024-02-29 01:02:03.5");
    }

    proptest! {
        #[test]
        fn doubles_survive_their_text(value in proptest::num::f64::NORMAL) {
            prop_assert_eq!(double_text(value).parse::<f64>().unwrap(), value);
        }

        #[test]
        fn odd_texts_never_panic(text: String, near in "[0-9.eE+ -]{0,12}") {
            number_prefix(&text);
            number_prefix(&near);
        }
    }
}
