//! Which ordered index finds the rows, and where in it they are.

use std::ops::Bound;

use twofold_proto::{
    filter::Comparison,
    index::EntryRange,
    key::hash_distribution_key,
    placement::KeyHash,
    schema::Index,
    value::{Value, ValueRef},
};

use super::{
    access::{Held, values_of},
    filter::{compared, comparison_of},
};
use crate::sql::{
    bind::{AggregateKind, BoundTable, Select},
    error::SqlError,
    expression::{Binary, Context, Expr, Unary, evaluate::compares_as_numbers},
};

/// Ranges of a statement: each takes a message to each worker.
const RANGES_MAX: usize = 64;

/// In which order the rows are wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wish {
    /// By these columns; those with `true` from the end.
    pub order: Vec<(usize, bool)>,
    /// Rows in which the first of them is NULL do not count, and the first that counts is enough.
    pub first: bool,
}

impl Wish {
    /// What would spare the API node sorting the rows of a SELECT, or looking at all of them.
    pub fn of(select: &Select) -> Wish {
        let column = |expr: &Expr| match expr {
            Expr::Column(column, _) => Some(*column),
            _ => None,
        };
        let Some(group) = &select.group else {
            let columns = select.order.iter().map(|order| Some((column(&order.expr)?, order.descending)));
            return Wish { order: columns.collect::<Option<_>>().unwrap_or_default(), first: false };
        };
        let [aggregate] = &group.aggregates[..] else { return Wish::default() };
        let descending = match aggregate.kind {
            AggregateKind::Min => false,
            AggregateKind::Max => true,
            _ => return Wish::default(),
        };
        match aggregate.argument.as_ref().and_then(column).filter(|_| group.keys.is_empty()) {
            Some(column) => Wish { order: vec![(column, descending)], first: true },
            None => Wish::default(),
        }
    }
}

/// Ranges of an index that have all rows for which a condition may hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ranges {
    /// The place of the index among the table's.
    pub index: usize,
    /// In its order; none overlap.
    pub ranges: Vec<EntryRange>,
    /// From the end.
    pub descending: bool,
    /// The rows come as they are wished.
    pub ordered: bool,
    /// The distribution key, where it is fixed.
    pub hash: Option<KeyHash>,
    /// Of how many columns the ranges say something.
    columns: usize,
}

/// The best index for the rows for which `filter` may hold; `None` if none is of use.
///
/// # Errors
/// Those of values that are computed.
pub fn ranges(
    table: &BoundTable,
    filter: Option<&Expr>,
    wish: &Wish,
    context: &Context<'_>,
) -> Result<Option<Ranges>, SqlError> {
    let mut best: Option<Ranges> = None;
    for index in 0..table.schema.indexes.len() {
        if !table.schema.indexes[index].is_public() {
            continue;
        }
        let found = of_index(table, index, filter, wish, context)?;
        let worth = |ranges: &Ranges| (ranges.columns, ranges.ordered);
        let better = best.as_ref().is_none_or(|best| worth(&found) > worth(best));
        if better && worth(&found) > (0, false) {
            best = Some(found);
        }
    }
    let hash = distribution(table, filter, context)?;
    if let (None, Some(_)) = (&best, hash)
        && let Some(whole) = table.schema.indexes.iter().position(|index| index.columns.is_empty())
    {
        // One partition is looked at instead of all.
        best = Some(of_index(table, whole, filter, wish, context)?);
    }
    Ok(best.map(|best| Ranges { hash, ..best }))
}

/// The columns by which an index is ordered.
fn columns_of<'t>(table: &'t BoundTable, index: &'t Index) -> impl Iterator<Item = usize> + 't {
    index.columns.iter().chain(&table.schema.primary_key).map(|&column| usize::from(column))
}

fn of_index(
    table: &BoundTable,
    place: usize,
    filter: Option<&Expr>,
    wish: &Wish,
    context: &Context<'_>,
) -> Result<Ranges, SqlError> {
    let index = &table.schema.indexes[place];
    let mut prefixes: Vec<Vec<Value>> = vec![Vec::new()];
    let (mut fixed, mut columns) = (Vec::new(), 0);
    let (mut bounds, mut skip_null) = (Bounds::default(), false);
    for column in columns_of(table, index) {
        if let Some(values) = equal_to(table, column, filter, context)?
            && prefixes.len() * values.len() <= RANGES_MAX
        {
            columns += 1;
            fixed.extend((values.len() == 1).then_some(column));
            let longer = |prefix: &Vec<Value>| {
                let longer = values.iter().map(|value| prefix.iter().chain([value]).cloned().collect());
                longer.collect::<Vec<Vec<Value>>>()
            };
            prefixes = prefixes.iter().flat_map(longer).collect();
            continue;
        }
        bounds = bounds_of(table, column, filter, context)?;
        columns += usize::from(bounds != Bounds::default());
        skip_null = wish.first && wish.order[0].0 == column && bounds == Bounds::default();
        break;
    }
    let mut ranges = Vec::with_capacity(prefixes.len());
    for mut prefix in prefixes {
        // What does not fit a column is in no row.
        let (lower, upper) = (bound(&bounds.lower), bound(&bounds.upper));
        let Ok(mut range) = EntryRange::new(&table.schema, index, &prefix, lower, upper) else { continue };
        prefix.push(ValueRef::Null);
        if skip_null
            && let Ok(nulls) =
                EntryRange::new(&table.schema, index, &prefix, Bound::Unbounded, Bound::Unbounded)
        {
            range.from = nulls.to.unwrap_or(range.from);
        }
        ranges.push(range);
    }
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by(|a, b| a.from.cmp(&b.from));
    ranges.dedup();
    let direction = direction(table, index, &fixed, wish);
    Ok(Ranges {
        index: place,
        ranges,
        descending: direction == Some(true),
        ordered: direction.is_some(),
        hash: None,
        columns,
    })
}

/// Whether an index gives the wished order, and whether from its end. `fixed` columns have one value.
fn direction(table: &BoundTable, index: &Index, fixed: &[usize], wish: &Wish) -> Option<bool> {
    let mut ordered = columns_of(table, index);
    let mut direction = None;
    for &(column, descending) in &wish.order {
        if fixed.contains(&column) {
            continue;
        }
        ordered.by_ref().find(|next| !fixed.contains(next)).filter(|&next| next == column)?;
        if direction.is_some_and(|direction| direction != descending) {
            return None;
        }
        direction = Some(descending);
    }
    direction.or_else(|| (!wish.order.is_empty()).then_some(false))
}

/// The distribution key that all rows have for which a condition may hold.
fn distribution(
    table: &BoundTable,
    filter: Option<&Expr>,
    context: &Context<'_>,
) -> Result<Option<KeyHash>, SqlError> {
    let mut key = Vec::new();
    for &column in &table.schema.distribution_key {
        match equal_to(table, column.into(), filter, context)? {
            Some(mut values) if values.len() == 1 => key.append(&mut values),
            _ => return Ok(None),
        }
    }
    Ok(hash_distribution_key(&table.schema, &key).ok())
}

/// The values that a column has to have, NULL among them; `None` if it may have any.
fn equal_to(
    table: &BoundTable,
    column: usize,
    filter: Option<&Expr>,
    context: &Context<'_>,
) -> Result<Option<Vec<Value>>, SqlError> {
    let Some(filter) = filter else { return Ok(None) };
    let is_null = |part: &Expr| match part {
        Expr::Unary(Unary::IsNull, inner) => matches!(&**inner, Expr::Column(index, _) if *index == column),
        _ => false,
    };
    if filter.conjuncts().iter().any(is_null) {
        return Ok(Some(vec![ValueRef::Null]));
    }
    values_of(table, column, filter, context)
}

/// What a column is compared with.
#[derive(Clone, PartialEq, Debug, Default)]
struct Bounds {
    lower: Option<(Value, bool)>,
    upper: Option<(Value, bool)>,
}

fn bound(bound: &Option<(Value, bool)>) -> Bound<&Value> {
    match bound {
        None => Bound::Unbounded,
        Some((value, true)) => Bound::Included(value),
        Some((value, false)) => Bound::Excluded(value),
    }
}

impl Bounds {
    /// The first of each side counts; the others are for the filter.
    fn add(&mut self, how: Comparison, value: &Value) {
        let included = matches!(how, Comparison::GreaterOrEqual | Comparison::LessOrEqual);
        match how {
            Comparison::Greater | Comparison::GreaterOrEqual => {
                self.lower.get_or_insert((value.clone(), included));
            }
            Comparison::Less | Comparison::LessOrEqual => {
                self.upper.get_or_insert((value.clone(), included));
            }
            Comparison::Equal | Comparison::NotEqual => {}
        }
    }
}

fn bounds_of(
    table: &BoundTable,
    column: usize,
    filter: Option<&Expr>,
    context: &Context<'_>,
) -> Result<Bounds, SqlError> {
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(index, _) if *index == column);
    let mut bounds = Bounds::default();
    let mut add = |operator: Binary, value: &Expr| -> Result<(), SqlError> {
        let Some(how) = comparison_of(operator) else { return Ok(()) };
        let Held::Value(value) = compared(table, column, &value.evaluate(&[], context)?) else {
            return Ok(());
        };
        // A bound that the column cannot hold exactly is left to the filter.
        let fitted = table.schema.columns[column].column_type.fit(value.borrowed());
        if fitted.is_ok_and(|fitted| fitted.compare(&value) == Ok(Some(std::cmp::Ordering::Equal))) {
            bounds.add(how, &value);
        }
        Ok(())
    };
    for part in filter.map(Expr::conjuncts).unwrap_or_default() {
        match part {
            Expr::Binary(operator, left, right) if is_column(left) && right.is_constant() => {
                add(*operator, right)?;
            }
            Expr::Binary(operator, left, right) if is_column(right) && left.is_constant() => {
                add(operator.mirrored(), left)?;
            }
            Expr::Between(of, between) if is_column(of) && !compares_as_numbers(of, between, context) => {
                for (operator, value) in
                    [(Binary::GreaterOrEqual, &between.0), (Binary::LessOrEqual, &between.1)]
                {
                    if value.is_constant() {
                        add(operator, value)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(bounds)
}
