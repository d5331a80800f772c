//! Which rows of two sides go together.

use std::collections::BTreeMap;

use super::{
    error::SqlError,
    expression::{Context, Expr, set::Sorted},
    value::Datum,
};

/// Values that have to be equal.
pub type Key = Vec<Sorted>;

/// The values of these expressions; `None` if one is NULL, which is equal to nothing.
///
/// # Errors
/// Those of expressions.
pub fn key<'e>(
    expressions: impl Iterator<Item = &'e Expr>,
    row: &[Datum],
    context: &Context<'_>,
) -> Result<Option<Key>, SqlError> {
    let mut key = Vec::new();
    for expr in expressions {
        let value = expr.evaluate(row, context)?;
        if value.is_null() {
            return Ok(None);
        }
        key.push(Sorted(value));
    }
    Ok(Some(key))
}

/// Rows of one side, by what has to be equal.
#[derive(Debug, Default)]
pub struct Matcher(BTreeMap<Key, Vec<usize>>);

impl Matcher {
    /// Of these rows.
    ///
    /// # Errors
    /// Those of expressions.
    pub fn new(
        rows: &[Vec<Datum>],
        expressions: &[&Expr],
        context: &Context<'_>,
    ) -> Result<Matcher, SqlError> {
        let mut by_key: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for (index, row) in rows.iter().enumerate() {
            if let Some(key) = key(expressions.iter().copied(), row, context)? {
                by_key.entry(key).or_default().push(index);
            }
        }
        Ok(Matcher(by_key))
    }

    /// The rows that go with this key.
    pub fn of(&self, key: Option<Key>) -> &[usize] {
        key.and_then(|key| self.0.get(&key)).map_or(&[], Vec::as_slice)
    }
}
