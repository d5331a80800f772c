//! The values of a subquery, and how a value compares with them.

use std::{cmp::Ordering, collections::BTreeSet};

use super::{Binary, Context, evaluate::binary};
use crate::sql::{bind::Quantified, error::SqlError, types::SqlType, value::Datum};

/// Values that compare with each other, and have an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Integers and decimals.
    Exact,
    /// Text and bytes.
    String,
    /// Days and times.
    Time,
}

impl Class {
    /// Of a value; `None` of floats, and of NULL.
    pub fn of(datum: &Datum) -> Option<Class> {
        match datum {
            Datum::Int(_) | Datum::UInt(_) | Datum::Decimal(_) => Some(Class::Exact),
            Datum::Text(_) | Datum::Binary(_) => Some(Class::String),
            Datum::Date(_) | Datum::DateTime(_) => Some(Class::Time),
            Datum::Null | Datum::Double(_) => None,
        }
    }

    /// Of the values of a type.
    pub fn of_type(sql_type: SqlType) -> Option<Class> {
        match sql_type {
            SqlType::Bool | SqlType::Integer { .. } | SqlType::Decimal { .. } => Some(Class::Exact),
            other if other.is_temporal() => Some(Class::Time),
            other if other.is_text() || other.is_binary() => Some(Class::String),
            _ => None,
        }
    }
}

/// A value in the order in which rows are sorted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sorted(pub Datum);

impl Ord for Sorted {
    fn cmp(&self, other: &Sorted) -> Ordering {
        self.0.sort_order(&other.0)
    }
}

impl PartialOrd for Sorted {
    fn partial_cmp(&self, other: &Sorted) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Values, each once.
#[derive(Clone, Debug, Default)]
pub struct Set {
    values: Vec<Datum>,
    /// Of values of one class, by their order.
    sorted: Option<(Class, BTreeSet<Sorted>)>,
    has_null: bool,
}

impl Set {
    /// Of these values.
    pub fn new(all: impl IntoIterator<Item = Datum>) -> Set {
        let mut has_null = false;
        let mut values: Vec<Datum> = Vec::new();
        for datum in all {
            match datum {
                Datum::Null => has_null = true,
                other => values.push(other),
            }
        }
        let class = values.first().and_then(Class::of);
        let class = class.filter(|class| values.iter().all(|value| Class::of(value) == Some(*class)));
        let Some(class) = class else { return Set { values, sorted: None, has_null } };
        let sorted: BTreeSet<Sorted> = values.into_iter().map(Sorted).collect();
        Set {
            values: sorted.iter().map(|value| value.0.clone()).collect(),
            sorted: Some((class, sorted)),
            has_null,
        }
    }

    /// The values but for NULL.
    pub fn values(&self) -> &[Datum] {
        &self.values
    }

    /// Whether it compares so with any, or with all; NULL if that is not known.
    ///
    /// # Errors
    /// Those of comparisons.
    pub fn compare(
        &self,
        value: &Datum,
        quantified: &Quantified,
        context: &Context<'_>,
    ) -> Result<Datum, SqlError> {
        let Quantified { operator, all, .. } = quantified;
        if self.values.is_empty() && !self.has_null {
            return Ok((*all).into());
        }
        if value.is_null() {
            return Ok(Datum::Null);
        }
        let unless_null = |found: bool| if self.has_null { Datum::Null } else { found.into() };
        match &self.sorted {
            Some((class, sorted)) if Class::of(value) == Some(*class) => match (operator, all) {
                (Binary::Equal, false) | (Binary::NotEqual, true) => {
                    let found = sorted.contains(&Sorted(value.clone()));
                    return Ok(if found { (!all).into() } else { unless_null(*all) });
                }
                _ => {}
            },
            _ => {}
        }
        for other in &self.values {
            if (binary(*operator, value, other, context)? == Datum::from(true)) != *all {
                return Ok((!all).into());
            }
        }
        Ok(unless_null(*all))
    }
}
