//! Values of columns: in memory, and tagged on the wire.

use std::{borrow::Cow, cmp::Ordering};

use serde::{Deserialize, Serialize};

use crate::{
    result::ResultCode,
    wire::{Malformed, Reader, Writer},
};

/// A value that may borrow its bytes. The variants are families: a column's type says which it takes, and how wide
/// they are in a row (see [`crate::schema::ColumnType`]).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ValueRef<'a> {
    /// SQL's NULL.
    Null,
    /// Of `Bool` columns.
    Bool(bool),
    /// Of signed integer columns, and of dates (days since 1970) and times (microseconds since 1970).
    Int(i64),
    /// Of unsigned integer columns.
    UInt(u64),
    /// Of `F32` and `F64` columns; finite.
    Float(f64),
    /// Of `Text` columns.
    Text(Cow<'a, str>),
    /// Of `Binary` columns.
    Binary(Cow<'a, [u8]>),
}

/// Floats of columns are finite, so equality is total.
impl Eq for ValueRef<'_> {}

/// A value that owns its bytes.
pub type Value = ValueRef<'static>;

const TAG_NULL: u8 = 0;
const TAG_FALSE: u8 = 1;
const TAG_TRUE: u8 = 2;
const TAG_INT: u8 = 3;
const TAG_UINT: u8 = 4;
const TAG_FLOAT: u8 = 5;
const TAG_TEXT: u8 = 6;
const TAG_BINARY: u8 = 7;

impl<'a> ValueRef<'a> {
    /// The value with bytes of its own.
    pub fn into_owned(self) -> Value {
        match self {
            ValueRef::Null => ValueRef::Null,
            ValueRef::Bool(value) => ValueRef::Bool(value),
            ValueRef::Int(value) => ValueRef::Int(value),
            ValueRef::UInt(value) => ValueRef::UInt(value),
            ValueRef::Float(value) => ValueRef::Float(value),
            ValueRef::Text(text) => ValueRef::Text(Cow::Owned(text.into_owned())),
            ValueRef::Binary(bytes) => ValueRef::Binary(Cow::Owned(bytes.into_owned())),
        }
    }

    /// The value, borrowing the bytes of this one.
    pub fn borrowed(&self) -> ValueRef<'_> {
        match self {
            ValueRef::Text(text) => ValueRef::Text(Cow::Borrowed(text)),
            ValueRef::Binary(bytes) => ValueRef::Binary(Cow::Borrowed(bytes)),
            ValueRef::Null => ValueRef::Null,
            &ValueRef::Bool(value) => ValueRef::Bool(value),
            &ValueRef::Int(value) => ValueRef::Int(value),
            &ValueRef::UInt(value) => ValueRef::UInt(value),
            &ValueRef::Float(value) => ValueRef::Float(value),
        }
    }

    /// The binary value of a text's bytes.
    pub(crate) fn binary_of_text(text: Cow<'a, str>) -> ValueRef<'a> {
        ValueRef::Binary(match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })
    }

    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, ValueRef::Null)
    }

    /// The integer, of either signedness.
    pub fn as_integer(&self) -> Option<i128> {
        match *self {
            ValueRef::Int(value) => Some(value.into()),
            ValueRef::UInt(value) => Some(value.into()),
            _ => None,
        }
    }

    /// The bytes of a text or binary value.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            ValueRef::Text(text) => Some(text.as_bytes()),
            ValueRef::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The value for people; of a long one the beginning.
    pub fn excerpt(&self) -> String {
        const CHARS_MAX: usize = 40;
        let text = match self {
            ValueRef::Null => "NULL".into(),
            ValueRef::Bool(value) => value.to_string(),
            ValueRef::Int(value) => value.to_string(),
            ValueRef::UInt(value) => value.to_string(),
            ValueRef::Float(value) => value.to_string(),
            ValueRef::Text(text) => format!("{:?}", text.chars().take(CHARS_MAX).collect::<String>()),
            ValueRef::Binary(bytes) => {
                format!("\"{}\"", bytes[..bytes.len().min(CHARS_MAX)].escape_ascii())
            }
        };
        match text.char_indices().nth(CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }

    /// How this compares with `other`, as SQL says: `None` if either is NULL. Numbers compare exactly, whatever
    /// their families; texts and binaries by their bytes.
    ///
    /// # Errors
    /// [`ResultCode::WrongType`] where the families do not compare.
    pub fn compare(&self, other: &ValueRef<'_>) -> Result<Option<Ordering>, ResultCode> {
        if self.is_null() || other.is_null() {
            return Ok(None);
        }
        if let (Some(a), Some(b)) = (self.as_integer(), other.as_integer()) {
            return Ok(Some(a.cmp(&b)));
        }
        if let (Some(a), Some(b)) = (self.as_bytes(), other.as_bytes()) {
            return Ok(Some(a.cmp(b)));
        }
        match (self, other) {
            (ValueRef::Bool(a), ValueRef::Bool(b)) => Ok(Some(a.cmp(b))),
            (ValueRef::Float(a), ValueRef::Float(b)) => Ok(a.partial_cmp(b)),
            (ValueRef::Float(a), b) => {
                let b = b.as_integer().ok_or(ResultCode::WrongType)?;
                Ok(compare_integer_float(b, *a).map(Ordering::reverse))
            }
            (a, ValueRef::Float(b)) => {
                let a = a.as_integer().ok_or(ResultCode::WrongType)?;
                Ok(compare_integer_float(a, *b))
            }
            _ => Err(ResultCode::WrongType),
        }
    }

    /// Appends the value as [`ValueRef::parse`] reads it: a tag, then 8 bytes of a number, or a LEB128 length and
    /// the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ValueRef::Null => out.put_u8(TAG_NULL),
            ValueRef::Bool(false) => out.put_u8(TAG_FALSE),
            ValueRef::Bool(true) => out.put_u8(TAG_TRUE),
            ValueRef::Int(value) => {
                out.put_u8(TAG_INT);
                out.put(&value.to_le_bytes());
            }
            ValueRef::UInt(value) => {
                out.put_u8(TAG_UINT);
                out.put_u64(*value);
            }
            ValueRef::Float(value) => {
                out.put_u8(TAG_FLOAT);
                out.put_u64(value.to_bits());
            }
            ValueRef::Text(text) => {
                out.put_u8(TAG_TEXT);
                put_bytes(text.as_bytes(), out);
            }
            ValueRef::Binary(bytes) => {
                out.put_u8(TAG_BINARY);
                put_bytes(bytes, out);
            }
        }
    }

    /// Reads what [`ValueRef::encode`] wrote.
    pub fn parse(reader: &mut Reader<'a>) -> Result<ValueRef<'a>, Malformed> {
        Ok(match reader.u8()? {
            TAG_NULL => ValueRef::Null,
            TAG_FALSE => ValueRef::Bool(false),
            TAG_TRUE => ValueRef::Bool(true),
            TAG_INT => ValueRef::Int(reader.i64()?),
            TAG_UINT => ValueRef::UInt(reader.u64()?),
            TAG_FLOAT => {
                let value = f64::from_bits(reader.u64()?);
                if !value.is_finite() {
                    return Err(Malformed("float: not finite"));
                }
                ValueRef::Float(value)
            }
            TAG_TEXT => {
                let length = reader.varint()?;
                let bytes = reader.bytes(length as usize)?;
                let text = std::str::from_utf8(bytes).map_err(|_| Malformed("text: not UTF-8"))?;
                ValueRef::Text(Cow::Borrowed(text))
            }
            TAG_BINARY => {
                let length = reader.varint()?;
                ValueRef::Binary(Cow::Borrowed(reader.bytes(length as usize)?))
            }
            _ => return Err(Malformed("value: unknown tag")),
        })
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.put_varint(u32::try_from(bytes.len()).expect("values are below 4 GiB"));
    out.put(bytes);
}

/// Exact: rounding to a float is monotone, so only where it gives equality does the integer have to be looked at.
fn compare_integer_float(integer: i128, float: f64) -> Option<Ordering> {
    let rounded = (integer as f64).partial_cmp(&float)?;
    Some(rounded.then_with(|| integer.cmp(&(float as i128))))
}

impl<'a> From<&'a str> for ValueRef<'a> {
    fn from(text: &'a str) -> ValueRef<'a> {
        ValueRef::Text(Cow::Borrowed(text))
    }
}

impl<'a> From<&'a [u8]> for ValueRef<'a> {
    fn from(bytes: &'a [u8]) -> ValueRef<'a> {
        ValueRef::Binary(Cow::Borrowed(bytes))
    }
}

macro_rules! from_numbers {
    ($($variant:ident: $($number:ty),*;)*) => {
        $($(impl From<$number> for ValueRef<'_> {
            fn from(value: $number) -> Self {
                ValueRef::$variant(value.into())
            }
        })*)*
    };
}

from_numbers! {
    Bool: bool;
    Int: i8, i16, i32, i64;
    UInt: u8, u16, u32, u64;
    Float: f32, f64;
}

impl<'a, T: Into<ValueRef<'a>>> From<Option<T>> for ValueRef<'a> {
    fn from(value: Option<T>) -> ValueRef<'a> {
        value.map_or(ValueRef::Null, T::into)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        ValueRef::Text(Cow::Owned(text))
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Value {
        ValueRef::Binary(Cow::Owned(bytes))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any value, numbers often at their bounds.
    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            prop_oneof![any::<i64>(), -3i64..3, Just(i64::MIN), Just(i64::MAX)].prop_map(Value::Int),
            prop_oneof![any::<u64>(), 0u64..3, Just(u64::MAX)].prop_map(Value::UInt),
            (any::<i64>(), -60i32..60).prop_map(|(m, e)| Value::Float(m as f64 * f64::from(e).exp2())),
            ".{0,12}".prop_map(Value::from),
            proptest::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..12)
                .prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn values_survive_the_wire(value in any_value()) {
            let mut out = Vec::new();
            value.encode(&mut out);
            let mut reader = Reader::new(&out, "value");
            prop_assert_eq!(ValueRef::parse(&mut reader), Ok(value));
            prop_assert!(reader.is_empty());
            for cut in 0..out.len() {
                prop_assert!(ValueRef::parse(&mut Reader::new(&out[..cut], "value")).is_err());
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes, "value");
            while !reader.is_empty() && ValueRef::parse(&mut reader).is_ok() {}
        }

        #[test]
        fn comparison_is_antisymmetric(a in any_value(), b in any_value()) {
            prop_assert_eq!(a.compare(&b), b.compare(&a).map(|order| order.map(Ordering::reverse)));
        }
    }

    #[test]
    fn integers_and_floats_compare_exactly() {
        let two_53 = 9_007_199_254_740_992i64;
        let compare = |a: Value, b: Value| a.compare(&b);
        let float = Value::Float(two_53 as f64);
        assert_eq!(compare(Value::Int(two_53 + 1), float.clone()), Ok(Some(Ordering::Greater)));
        assert_eq!(compare(Value::Int(two_53), float), Ok(Some(Ordering::Equal)));
        assert_eq!(compare(Value::UInt(u64::MAX), Value::Float(2f64.powi(64))), Ok(Some(Ordering::Less)));
        assert_eq!(compare(Value::Int(-1), Value::UInt(u64::MAX)), Ok(Some(Ordering::Less)));
        assert_eq!(compare(Value::Float(0.5), Value::Int(0)), Ok(Some(Ordering::Greater)));
        assert_eq!(compare(Value::Null, Value::Int(0)), Ok(None));
        assert_eq!(compare(Value::Bool(true), Value::Int(1)), Err(ResultCode::WrongType));
        assert_eq!(compare(Value::Bool(true), Value::from("1".to_owned())), Err(ResultCode::WrongType));
    }
}
