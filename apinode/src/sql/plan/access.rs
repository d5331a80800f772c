//! How rows are found.

use twofold_proto::{key::encode_key, unique::encode_entry_key, value::ValueRef};

use super::range::{Ranges, Wish, ranges};
use crate::sql::{
    bind::BoundTable,
    decimal::Decimal,
    error::SqlError,
    expression::{Binary, Context, Expr},
    temporal,
    types::SqlType,
    value::{Datum, number_prefix},
};

/// Keys of a statement; more are found by a scan.
pub const KEYS_MAX: usize = 16_384;
/// Whole numbers up to this are exact as floats.
const EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// How the rows are found for which a condition may hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Access {
    /// These are all that there can be, each once.
    Keys(Vec<Vec<u8>>),
    /// They are those that these entries of a unique index name.
    Unique(Unique),
    /// They are in these ranges of an index.
    Ranges(Ranges),
    /// Every row is looked at.
    Scan,
}

/// Entries of a unique index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unique {
    /// The place of the index among the table's.
    pub index: usize,
    /// Their keys, each once.
    pub entries: Vec<Vec<u8>>,
}

/// What a column that is equal to a value holds.
#[derive(Clone, PartialEq, Debug)]
pub enum Held {
    /// This.
    Value(ValueRef<'static>),
    /// Nothing is equal to it.
    Nothing,
    /// It may be several values.
    Several,
}

/// How to find the rows for which this may hold, best in the order that is wished.
///
/// # Errors
/// Those of values that are computed.
pub fn access(
    table: &BoundTable,
    filter: Option<&Expr>,
    wish: &Wish,
    context: &Context<'_>,
) -> Result<Access, SqlError> {
    if let Some(filter) = filter
        && let Some(keys) = keys(table, filter, context)?
    {
        return Ok(Access::Keys(keys));
    }
    if let Some(filter) = filter
        && let Some(found) = unique(table, filter, context)?
    {
        return Ok(Access::Unique(found));
    }
    Ok(ranges(table, filter, wish, context)?.map_or(Access::Scan, Access::Ranges))
}

/// The keys of all rows for which the condition may hold; `None` if they are not known.
fn keys(table: &BoundTable, filter: &Expr, context: &Context<'_>) -> Result<Option<Vec<Vec<u8>>>, SqlError> {
    let Some(keys) = values_of_all(table, &table.schema.primary_key, filter, context)? else {
        return Ok(None);
    };
    let mut encoded = Vec::with_capacity(keys.len());
    for key in keys {
        let mut bytes = Vec::new();
        // What does not fit a column is no row's key.
        if encode_key(&table.schema, &key, &mut bytes).is_ok() {
            encoded.push(bytes);
        }
    }
    encoded.sort_unstable();
    encoded.dedup();
    Ok(Some(encoded))
}

/// The entries of a unique index that all rows have for which the condition may hold; `None` if there is no such index.
fn unique(table: &BoundTable, filter: &Expr, context: &Context<'_>) -> Result<Option<Unique>, SqlError> {
    for (place, index) in table.schema.indexes.iter().enumerate() {
        if !index.is_unique() || !index.is_public() {
            continue;
        }
        let Some(list) = values_of_all(table, &index.columns, filter, context)? else { continue };
        let mut entries = Vec::with_capacity(list.len());
        for values in list {
            let mut entry = Vec::new();
            if let Ok(true) = encode_entry_key(&table.schema, index, values, &mut entry) {
                entries.push(entry);
            }
        }
        entries.sort_unstable();
        entries.dedup();
        return Ok(Some(Unique { index: place, entries }));
    }
    Ok(None)
}

/// The values that columns have to have together; `None` if they may have any.
fn values_of_all(
    table: &BoundTable,
    columns: &[u16],
    filter: &Expr,
    context: &Context<'_>,
) -> Result<Option<Vec<Vec<ValueRef<'static>>>>, SqlError> {
    let mut keys: Vec<Vec<ValueRef<'static>>> = vec![Vec::new()];
    for &column in columns {
        let Some(values) = values_of(table, usize::from(column), filter, context)? else {
            return Ok(None);
        };
        if keys.len().saturating_mul(values.len()) > KEYS_MAX {
            return Ok(None);
        }
        let longer = |key: &Vec<ValueRef<'static>>| {
            values.iter().map(|value| key.iter().chain([value]).cloned().collect()).collect::<Vec<_>>()
        };
        keys = keys.iter().flat_map(longer).collect();
    }
    Ok(Some(keys))
}

/// The values that a column has to have; `None` if it may have any.
pub(super) fn values_of(
    table: &BoundTable,
    column: usize,
    filter: &Expr,
    context: &Context<'_>,
) -> Result<Option<Vec<ValueRef<'static>>>, SqlError> {
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(index, _) if *index == column);
    for part in filter.conjuncts() {
        let evaluate = |expr: &Expr| expr.evaluate(&[], context);
        let candidates: Vec<Datum> = match part {
            Expr::Binary(Binary::Equal, left, right) if is_column(left) && right.is_constant() => {
                vec![evaluate(right)?]
            }
            Expr::Binary(Binary::Equal, left, right) if is_column(right) && left.is_constant() => {
                vec![evaluate(left)?]
            }
            Expr::In(of, list) if is_column(of) && list.iter().all(Expr::is_constant) => {
                list.iter().map(evaluate).collect::<Result<_, SqlError>>()?
            }
            Expr::Among(quantified, _) if is_column(&quantified.of) => match context.set_of(part) {
                Some(set) if set.values().len() <= KEYS_MAX => set.values().to_vec(),
                _ => continue,
            },
            _ => continue,
        };
        let mut values = Vec::with_capacity(candidates.len());
        let mut all = true;
        for candidate in &candidates {
            match held(table, column, candidate) {
                Held::Value(value) => values.push(value),
                Held::Nothing => {}
                Held::Several => all = false,
            }
        }
        if all {
            return Ok(Some(values));
        }
    }
    Ok(None)
}

/// What a column holds that is equal to this value.
pub fn held(table: &BoundTable, column: usize, datum: &Datum) -> Held {
    let number = |value: Option<i128>| match value {
        Some(value) => match (i64::try_from(value), u64::try_from(value)) {
            (Ok(value), _) => Held::Value(ValueRef::Int(value)),
            (_, Ok(value)) => Held::Value(ValueRef::UInt(value)),
            _ => Held::Nothing,
        },
        None => Held::Nothing,
    };
    let exact = |value: Decimal, scale: u8| {
        let scaled = value.rescale(scale);
        number(scaled.filter(|scaled| scaled.compare(value).is_eq()).map(|scaled| scaled.digits))
    };
    let float = |value: f64| match value {
        value if value.fract() != 0.0 => Held::Nothing,
        value if value.abs() < EXACT_FLOAT => number(Some(value as i128)),
        _ => Held::Several,
    };
    let at = || match datum {
        Datum::Date(days) => Some(temporal::date_time(*days, 0)),
        Datum::DateTime(at) => Some(*at),
        Datum::Text(text) => temporal::parse(text).filter(|(_, all)| *all).map(|(at, _)| at),
        _ => None,
    };
    if datum.is_null() {
        return Held::Nothing;
    }
    let kept_as_bool = table.schema.columns[column].column_type == twofold_proto::schema::ColumnType::Bool;
    match (table.sql_type(column), datum) {
        _ if kept_as_bool => Held::Several,
        (SqlType::Bool | SqlType::Integer { .. }, Datum::Int(_) | Datum::UInt(_)) => number(datum.to_i128()),
        (SqlType::Bool | SqlType::Integer { .. }, Datum::Decimal(value)) => exact(*value, 0),
        (SqlType::Bool | SqlType::Integer { .. }, Datum::Double(value)) => float(*value),
        (SqlType::Bool | SqlType::Integer { .. }, Datum::Text(text)) => float(number_prefix(text).0),
        (SqlType::Decimal { scale, .. }, Datum::Int(_) | Datum::UInt(_) | Datum::Decimal(_)) => {
            datum.to_decimal().map_or(Held::Several, |value| exact(value, scale))
        }
        (sql_type, Datum::Text(text)) if sql_type.is_text() => Held::Value(text.clone().into()),
        (sql_type, Datum::Binary(bytes)) if sql_type.is_text() => match String::from_utf8(bytes.clone()) {
            Ok(text) => Held::Value(text.into()),
            Err(_) => Held::Nothing,
        },
        (sql_type, Datum::Text(text)) if sql_type.is_binary() => {
            Held::Value(text.clone().into_bytes().into())
        }
        (sql_type, Datum::Binary(bytes)) if sql_type.is_binary() => Held::Value(bytes.clone().into()),
        (SqlType::Date, _) => match at().map(temporal::split) {
            Some((days, 0)) => Held::Value(ValueRef::Int(days.into())),
            Some(_) => Held::Nothing,
            None => Held::Several,
        },
        (SqlType::DateTime(_) | SqlType::Timestamp(_), _) => {
            at().map_or(Held::Several, |at| Held::Value(ValueRef::Int(at)))
        }
        _ => Held::Several,
    }
}
