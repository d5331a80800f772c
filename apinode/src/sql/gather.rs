//! What becomes of a SELECT's rows at the API node: they are grouped, sorted, and cut off. What has to be kept for that is bounded.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    bind::{Aggregate, AggregateKind, Group, Select},
    decimal::{self, Decimal},
    error::{SqlError, codes},
    expression::{Context, Expr, compare::to_float},
    plan::Wish,
    types::SqlType,
    value::Datum,
};

/// Bytes of rows, keys and groups that a statement keeps.
pub const KEPT_MAX: usize = 32 << 20;

/// Whether a statement may keep so many bytes.
///
/// # Errors
/// 1038 past [`KEPT_MAX`].
pub fn check_kept(bytes: usize) -> Result<(), SqlError> {
    if bytes <= KEPT_MAX {
        return Ok(());
    }
    let text = format!("Out of sort memory: a statement keeps at most {KEPT_MAX} bytes");
    Err(SqlError::new(codes::OUT_OF_SORT_MEMORY, text))
}

/// Values that compare one after the other, as rows are sorted.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Key(Vec<Datum>);

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        let orders = self.0.iter().zip(&other.0).map(|(a, b)| a.sort_order(b));
        orders.fold(Ordering::Equal, Ordering::then).then(self.0.len().cmp(&other.0.len()))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Rows that have been seen.
#[derive(Debug, Default)]
pub struct Distinct(BTreeSet<Key>);

impl Distinct {
    /// Whether none like it has been seen.
    pub fn is_new(&mut self, row: &[Datum]) -> bool {
        self.0.insert(Key(row.to_vec()))
    }
}

/// A row to be sorted.
#[derive(Debug)]
struct Sorted {
    keys: Vec<Datum>,
    output: Vec<Datum>,
}

/// Takes in joined rows for which the filter holds, and gives those of the result.
#[derive(Debug)]
pub struct Gather<'s> {
    select: &'s Select,
    context: &'s Context<'s>,
    groups: BTreeMap<Key, Vec<Accumulator>>,
    sorted: Vec<Sorted>,
    seen: BTreeSet<Key>,
    kept: usize,
    skip: u64,
    left: u64,
    /// Rows come in the order of the result.
    ordered: bool,
    /// The one aggregate is that of the first row that counts, which has come or not.
    first: Option<bool>,
}

impl<'s> Gather<'s> {
    /// For this SELECT.
    ///
    /// # Errors
    /// 1210 for a LIMIT that is no number.
    pub fn new(select: &'s Select, context: &'s Context<'s>) -> Result<Gather<'s>, SqlError> {
        let skip = rows(select.offset.as_ref(), context)?.unwrap_or(0);
        let left = rows(select.limit.as_ref(), context)?.unwrap_or(u64::MAX);
        let mut gather = Gather {
            select,
            context,
            groups: BTreeMap::new(),
            sorted: Vec::new(),
            seen: BTreeSet::new(),
            kept: 0,
            skip,
            left,
            ordered: select.order.is_empty(),
            first: None,
        };
        if let Some(group) = select.group.as_ref().filter(|group| group.keys.is_empty()) {
            // There is a group even of no rows.
            gather.groups.insert(Key(Vec::new()), accumulators(group));
        }
        Ok(gather)
    }

    /// Rows will come in the order that [`Wish::of`] wishes for this SELECT.
    pub fn in_order(&mut self, wish: &Wish) {
        if wish.first {
            self.first = Some(false);
        } else {
            self.ordered = true;
        }
    }

    /// Whether no more rows are needed.
    pub fn is_full(&self) -> bool {
        self.left == 0 || self.first == Some(true)
    }

    /// How many rows of the table are enough, if it is known.
    pub fn enough(&self) -> Option<u64> {
        if self.first.is_some() {
            return Some(1);
        }
        let plain = self.select.group.is_none() && self.ordered && !self.select.distinct;
        plain.then(|| self.left.saturating_add(self.skip)).filter(|&enough| enough < u64::MAX)
    }

    /// Takes in a row; gives the row of the result that comes of it, if it need not wait for others.
    ///
    /// # Errors
    /// Those of expressions; 1038 if too much has to be kept.
    pub fn push(&mut self, row: &[Datum]) -> Result<Option<Vec<Datum>>, SqlError> {
        match &self.select.group {
            Some(group) => self.add(group, row).map(|()| None),
            None => self.give(row),
        }
    }

    /// A row of the source becomes one of the result, at once or after sorting.
    fn give(&mut self, row: &[Datum]) -> Result<Option<Vec<Datum>>, SqlError> {
        let evaluate = |expr: &Expr| expr.evaluate(row, self.context);
        let outputs = self.select.output.iter().map(|output| evaluate(&output.expr));
        let output: Vec<Datum> = outputs.collect::<Result<_, SqlError>>()?;
        if self.select.distinct {
            let key = Key(output.clone());
            let bytes = size(&key.0);
            if !self.seen.insert(key) {
                return Ok(None);
            }
            self.keep(bytes)?;
        }
        if self.ordered {
            return Ok(self.count().then_some(output));
        }
        let keys = self.select.order.iter().map(|order| evaluate(&order.expr));
        let keys: Vec<Datum> = keys.collect::<Result<_, SqlError>>()?;
        self.keep(size(&keys) + size(&output))?;
        self.sorted.push(Sorted { keys, output });
        let enough = usize::try_from(self.left.saturating_add(self.skip)).unwrap_or(usize::MAX);
        if self.sorted.len() > enough.saturating_mul(2).saturating_add(1024) {
            self.sort();
            self.sorted.truncate(enough);
            self.kept = self.sorted.iter().map(|row| size(&row.keys) + size(&row.output)).sum();
            self.kept += self.seen.iter().map(|key| size(&key.0)).sum::<usize>();
        }
        Ok(None)
    }

    /// Whether the next row of the result counts.
    fn count(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.left -= 1;
        true
    }

    fn keep(&mut self, bytes: usize) -> Result<(), SqlError> {
        self.kept += bytes;
        check_kept(self.kept)
    }

    fn sort(&mut self) {
        let order = &self.select.order;
        self.sorted.sort_by(|a, b| {
            let keys = a.keys.iter().zip(&b.keys).zip(order);
            let orders = keys.map(|((a, b), order)| {
                let ascending = a.sort_order(b);
                if order.descending { ascending.reverse() } else { ascending }
            });
            orders.fold(Ordering::Equal, Ordering::then)
        });
    }

    fn add(&mut self, group: &Group, row: &[Datum]) -> Result<(), SqlError> {
        let keys = group.keys.iter().map(|key| key.evaluate(row, self.context));
        let key = Key(keys.collect::<Result<_, SqlError>>()?);
        if !self.groups.contains_key(&key) {
            self.keep(size(&key.0) + group.aggregates.len() * size_of::<Accumulator>())?;
            self.groups.insert(key.clone(), accumulators(group));
        }
        let mut more = 0;
        if let Some(accumulators) = self.groups.get_mut(&key) {
            for (aggregate, accumulator) in group.aggregates.iter().zip(accumulators) {
                more += accumulator.add(aggregate, row, self.context)?;
            }
        }
        // NULL does not count.
        if let Some(first) = &mut self.first {
            *first |= more > 0;
        }
        self.keep(more)
    }

    /// There are no more rows: the rest of the result.
    ///
    /// # Errors
    /// As [`Gather::push`].
    pub fn finish(mut self) -> Result<Vec<Vec<Datum>>, SqlError> {
        let mut result = Vec::new();
        if let Some(group) = &self.select.group {
            for (key, accumulators) in std::mem::take(&mut self.groups) {
                let mut row = key.0;
                for (aggregate, accumulator) in group.aggregates.iter().zip(accumulators) {
                    row.push(accumulator.finish(aggregate, self.context)?);
                }
                let holds = match &group.having {
                    Some(having) => having.holds(&row, self.context)?,
                    None => true,
                };
                if holds {
                    result.extend(self.give(&row)?);
                }
            }
        }
        self.sort();
        for row in std::mem::take(&mut self.sorted) {
            if self.count() {
                result.push(row.output);
            }
        }
        Ok(result)
    }
}

fn accumulators(group: &Group) -> Vec<Accumulator> {
    vec![Accumulator::default(); group.aggregates.len()]
}

fn size(row: &[Datum]) -> usize {
    row.iter().map(Datum::bytes).sum()
}

/// The number of LIMIT or OFFSET.
///
/// # Errors
/// 1210 if it is none.
pub fn rows(count: Option<&Expr>, context: &Context<'_>) -> Result<Option<u64>, SqlError> {
    let Some(count) = count else { return Ok(None) };
    match count.evaluate(&[], context)?.to_i128().and_then(|count| u64::try_from(count).ok()) {
        Some(count) => Ok(Some(count)),
        None => Err(SqlError::new(codes::WRONG_ARGUMENTS, "Incorrect arguments to LIMIT")),
    }
}

/// What is known of a group's values.
#[derive(Clone, Debug, Default)]
struct Accumulator {
    count: i64,
    exact: Option<Decimal>,
    float: f64,
    best: Option<Datum>,
    seen: BTreeSet<Key>,
}

impl Accumulator {
    /// Takes in a row; how much more memory that takes.
    fn add(
        &mut self,
        aggregate: &Aggregate,
        row: &[Datum],
        context: &Context<'_>,
    ) -> Result<usize, SqlError> {
        let Some(argument) = &aggregate.argument else {
            self.count += 1;
            return Ok(0);
        };
        let value = argument.evaluate(row, context)?;
        if value.is_null() {
            return Ok(0);
        }
        let mut more = 0;
        if aggregate.distinct {
            more = value.bytes();
            if !self.seen.insert(Key(vec![value.clone()])) {
                return Ok(0);
            }
        }
        self.count += 1;
        match aggregate.kind {
            AggregateKind::Count => {}
            AggregateKind::Sum | AggregateKind::Avg => match value.to_decimal() {
                Some(number) => {
                    let sum = self.exact.unwrap_or(Decimal::integer(0)).plus(number);
                    let range = || {
                        SqlError::new(codes::NUMBER_OUT_OF_RANGE, "DECIMAL value is out of range in 'sum'")
                    };
                    self.exact = Some(sum.ok_or_else(range)?);
                }
                None => self.float += to_float(&value, context)?,
            },
            AggregateKind::Min | AggregateKind::Max => {
                let better = match &self.best {
                    None => true,
                    Some(best) if aggregate.kind == AggregateKind::Min => value.sort_order(best).is_lt(),
                    Some(best) => value.sort_order(best).is_gt(),
                };
                if better {
                    more += value.bytes();
                    self.best = Some(value);
                }
            }
        }
        Ok(more)
    }

    fn finish(self, aggregate: &Aggregate, context: &Context<'_>) -> Result<Datum, SqlError> {
        let sql_type = aggregate.sql_type(context.parameters);
        Ok(match aggregate.kind {
            AggregateKind::Count => Datum::Int(self.count),
            AggregateKind::Min | AggregateKind::Max => self.best.unwrap_or(Datum::Null),
            _ if self.count == 0 => Datum::Null,
            AggregateKind::Sum => match (sql_type, self.exact) {
                (SqlType::Decimal { scale, .. }, Some(sum)) => {
                    Datum::Decimal(sum.rescale(scale).unwrap_or(sum))
                }
                (_, sum) => Datum::Double(self.float + sum.map_or(0.0, Decimal::to_f64)),
            },
            AggregateKind::Avg => match (sql_type, self.exact) {
                (SqlType::Decimal { .. }, Some(sum)) => {
                    let mean = sum.divide(Decimal::integer(self.count.into()));
                    let scale = decimal::quotient_scale(sum.scale);
                    mean.and_then(|mean| mean.rescale(scale)).map_or(Datum::Null, Datum::Decimal)
                }
                (_, sum) => {
                    let sum = self.float + sum.map_or(0.0, Decimal::to_f64);
                    Datum::Double(sum / self.count as f64)
                }
            },
        })
    }
}
