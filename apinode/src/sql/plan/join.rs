//! In which order sources are joined, and how the rows of each are found once those before it are known.
//!
//! The next source is the one of which the fewest rows will be read, as far as keys and indexes say: by a key that is fixed, by
//! a key or index with values of the rows so far, then those that an equality ties to them. What an outer join adds comes after
//! all that is written before it. Each condition is looked at as soon as all that it reads is known.

use super::{
    access::{Access, access},
    range::Wish,
    rows::{needed, needed_by},
};
use crate::sql::{
    bind::{BoundTable, Item, Select, Source},
    error::SqlError,
    expression::{Binary, Context, Expr, set::Class},
    types::SqlType,
    value::Datum,
};

/// A step of a join. It takes in joined rows, and gives others to the next.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Each row with each row of a source.
    Source(SourceStep),
    /// An outer join begins. Rows are numbered in the column `tag`; one of which none comes to the step `end` goes on there.
    Left {
        /// A column behind all others.
        tag: usize,
        /// The step [`Step::LeftEnd`].
        end: usize,
    },
    /// It ends.
    LeftEnd {
        /// As [`Step::Left`] has it.
        tag: usize,
    },
    /// A subquery answers, for each row.
    Apply(usize),
    /// Only rows for which these hold.
    Filter(Vec<Expr>),
}

/// What rows are looked up by, with values of the rows so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The primary key.
    Key,
    /// The index at this place.
    Index(usize),
}

/// How the rows of a source are found.
#[derive(Clone, PartialEq, Debug)]
pub struct SourceStep {
    /// The source.
    pub source: usize,
    /// The columns that are read, as the source has them.
    pub columns: Vec<u16>,
    /// What has to hold for a row of the source alone, as one.
    pub own: Option<Expr>,
    /// Equalities of joined rows that fix columns of its key or of an index: the rows for one of those before it are looked up.
    pub links: Vec<Expr>,
    /// By what they are looked up, if they are.
    pub by: Option<By>,
    /// What has to be equal: of the source's row, of the row so far. Both are of one class.
    pub equal: Vec<(Expr, Expr)>,
    /// What has to hold for the joined row.
    pub on: Vec<Expr>,
}

/// The steps of a SELECT's rows, before they are grouped.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct JoinPlan {
    /// What does not depend on rows: without it there are none.
    pub first: Vec<Expr>,
    /// One after the other.
    pub steps: Vec<Step>,
    /// Columns of a joined row, with those of subqueries and outer joins.
    pub width: usize,
}

/// How good the way to a source is: the less the better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Rank {
    FixedKey,
    Key,
    /// By an index; of so many columns it is said less than could be.
    Index(usize),
    Tied,
    Left,
    FilteredScan,
    Scan,
}

impl JoinPlan {
    /// The steps for this SELECT.
    ///
    /// # Errors
    /// Those of values that are computed.
    pub fn new(select: &Select, context: &Context<'_>) -> Result<JoinPlan, SqlError> {
        let filter = select.filter.as_ref().map(Expr::conjuncts).unwrap_or_default();
        let (first, mut conditions): (Vec<Expr>, Vec<Expr>) =
            filter.iter().cloned().partition(Expr::is_constant);
        let mut all: Vec<&Expr> = filter.iter().collect();
        select.from.items.iter().for_each(|item| conditions_of(item, &mut all));
        let mut columns = needed(all);
        columns.extend(needed_by(select));
        let width = select.from.width();
        let mut planner = Planner {
            select,
            context,
            columns,
            known: 0,
            plan: JoinPlan { first, steps: Vec::new(), width: width + select.applied.len() },
        };
        planner.place(&select.from.items, &mut conditions)?;
        for (index, _) in select.applied.iter().enumerate() {
            planner.plan.steps.push(Step::Apply(index));
            let is_known = |condition: &Expr| {
                let mut known = true;
                condition.each_column(&mut |column| known &= column <= width + index);
                known
            };
            let (ready, later): (Vec<Expr>, Vec<Expr>) = conditions.into_iter().partition(is_known);
            conditions = later;
            if !ready.is_empty() {
                planner.plan.steps.push(Step::Filter(ready));
            }
        }
        if !conditions.is_empty() {
            planner.plan.steps.push(Step::Filter(conditions));
        }
        Ok(planner.plan)
    }

    /// The source, if its rows are all that there is.
    pub fn only(&self) -> Option<&SourceStep> {
        match &self.steps[..] {
            [Step::Source(step)] => Some(step),
            _ => None,
        }
    }
}

fn conditions_of<'i>(item: &'i Item, all: &mut Vec<&'i Expr>) {
    if let Item::Left { items, on } = item {
        all.extend(on);
        items.iter().for_each(|item| conditions_of(item, all));
    }
}

struct Planner<'s> {
    select: &'s Select,
    context: &'s Context<'s>,
    /// All that is read.
    columns: Vec<u16>,
    /// The sources that are joined, by their bits.
    known: u64,
    plan: JoinPlan,
}

impl Planner<'_> {
    /// The sources that an expression reads; `None` if it reads a subquery's answer.
    fn reads(&self, expr: &Expr) -> Option<u64> {
        let mut reads = Some(0);
        expr.each_column(&mut |column| {
            let sources = &self.select.from.sources;
            let place = sources.iter().position(|source| source.range().contains(&column));
            reads = reads.zip(place).map(|(reads, place)| reads | 1 << place);
        });
        reads
    }

    /// Joins these, looking at conditions as soon as that can be.
    fn place(&mut self, items: &[Item], conditions: &mut Vec<Expr>) -> Result<(), SqlError> {
        let mut left: Vec<usize> = (0..items.len()).collect();
        while let Some(&oldest) = left.first() {
            let mut best: Option<(Rank, usize)> = None;
            for (place, &index) in left.iter().enumerate() {
                let rank = match &items[index] {
                    Item::Source(source) => self.rank(*source, conditions)?,
                    Item::Left { .. } if index == oldest => Rank::Left,
                    Item::Left { .. } => continue,
                };
                if best.is_none_or(|(best, _)| rank < best) {
                    best = Some((rank, place));
                }
            }
            let Some((_, place)) = best else { break };
            match &items[left.remove(place)] {
                Item::Source(source) => self.source(*source, conditions),
                Item::Left { items, on } => {
                    let (begin, tag) = (self.plan.steps.len(), self.plan.width);
                    self.plan.width += 1;
                    self.plan.steps.push(Step::Left { tag, end: 0 });
                    self.place(items, &mut on.clone())?;
                    let end = self.plan.steps.len();
                    self.plan.steps.push(Step::LeftEnd { tag });
                    self.plan.steps[begin] = Step::Left { tag, end };
                    let ready = self.take(conditions);
                    if !ready.is_empty() {
                        self.plan.steps.push(Step::Filter(ready));
                    }
                }
            }
        }
        Ok(())
    }

    /// The conditions that can be looked at now.
    fn take(&self, conditions: &mut Vec<Expr>) -> Vec<Expr> {
        let is_ready = |condition: &Expr| self.reads(condition).is_some_and(|reads| reads & !self.known == 0);
        let (ready, later) = conditions.drain(..).partition(is_ready);
        *conditions = later;
        ready
    }

    /// Conditions that are equalities of a source with what is known: of its row, and of the others.
    fn equalities<'e>(&self, place: usize, conditions: &'e [Expr]) -> Vec<(&'e Expr, &'e Expr, &'e Expr)> {
        let class = |expr: &Expr| Class::of_type(expr.sql_type(self.context.parameters));
        let tied = |condition: &'e Expr| {
            let Expr::Binary(Binary::Equal, left, right) = condition else { return None };
            let (a, b) = (self.reads(left)?, self.reads(right)?);
            let (inner, outer, others) = match 1 << place {
                own if a == own => (left, right, b),
                own if b == own => (right, left, a),
                _ => return None,
            };
            let fits = others != 0 && others & !self.known == 0 && class(inner).is_some();
            (fits && class(inner) == class(outer)).then_some((condition, &**inner, &**outer))
        };
        conditions.iter().filter_map(tied).collect()
    }

    fn rank(&self, place: usize, conditions: &[Expr]) -> Result<Rank, SqlError> {
        let source = &self.select.from.sources[place];
        let equal = self.equalities(place, conditions);
        let own = self.own(place, conditions);
        let scan = match (equal.is_empty(), &own, source.table()) {
            (false, ..) => Rank::Tied,
            (true, None, Some(_)) => Rank::Scan,
            (true, ..) => Rank::FilteredScan,
        };
        let Some(table) = source.table() else { return Ok(scan) };
        let fixed = match access(table, own.as_ref(), &Wish::default(), self.context)? {
            Access::Keys(_) | Access::Unique(_) => return Ok(Rank::FixedKey),
            Access::Ranges(_) => Rank::Index(usize::MAX),
            Access::Scan => scan,
        };
        let by_links = by_links(source, table, own.as_ref(), &equal).map(|(rank, _)| rank);
        Ok(by_links.unwrap_or(fixed).min(fixed))
    }

    /// What has to hold for a row of the source alone.
    fn own(&self, place: usize, conditions: &[Expr]) -> Option<Expr> {
        let source = &self.select.from.sources[place];
        let own = conditions.iter().filter(|condition| self.reads(condition) == Some(1 << place));
        let mut own: Vec<Expr> = own.map(|condition| local(source, condition, &[])).collect();
        if own.len() > 1 { Some(Expr::All(own)) } else { own.pop() }
    }

    fn source(&mut self, place: usize, conditions: &mut Vec<Expr>) {
        let source = &self.select.from.sources[place];
        let own = self.own(place, conditions);
        let equal = self.equalities(place, conditions);
        let fixed = source.table().map(|table| access(table, own.as_ref(), &Wish::default(), self.context));
        let by_links = match (source.table(), fixed) {
            (Some(table), Some(Ok(Access::Ranges(_) | Access::Scan))) => {
                by_links(source, table, own.as_ref(), &equal)
            }
            _ => None,
        };
        let by = by_links.map(|(_, by)| by);
        let links = by.map(|_| equal.iter().map(|(condition, ..)| (*condition).clone()).collect());
        let local = |expr: &Expr| local(source, expr, &[]);
        let equal = equal.iter().map(|(_, inner, outer)| (local(inner), (*outer).clone())).collect();
        let own_columns =
            self.columns.iter().filter(|&&column| source.range().contains(&usize::from(column)));
        let mut columns: Vec<u16> = own_columns.map(|&column| column - source.offset as u16).collect();
        columns.sort_unstable();
        columns.dedup();
        self.known |= 1 << place;
        let on = self.take(conditions);
        let links = links.unwrap_or_default();
        let step = SourceStep { source: place, columns, own, links, by, equal, on };
        self.plan.steps.push(Step::Source(step));
    }
}

/// How equalities with rows so far find those of a table; `None` if they do not.
fn by_links(
    source: &Source,
    table: &BoundTable,
    own: Option<&Expr>,
    equal: &[(&Expr, &Expr, &Expr)],
) -> Option<(Rank, By)> {
    let tied = |column: u16| {
        let kept_as_bool =
            table.schema.columns[usize::from(column)].column_type == twofold_proto::schema::ColumnType::Bool;
        let is_column = |expr: &Expr| matches!(expr, Expr::Column(index, _) if *index == source.offset + usize::from(column));
        !kept_as_bool && equal.iter().any(|(_, inner, _)| is_column(inner))
    };
    let fixed = |column: u16| {
        let is_column = |expr: &Expr| matches!(expr, Expr::Column(index, _) if *index == usize::from(column));
        own.map(Expr::conjuncts).unwrap_or_default().iter().any(|part| match part {
            Expr::Binary(Binary::Equal, left, right) => {
                is_column(left) && right.is_constant() || is_column(right) && left.is_constant()
            }
            Expr::In(of, list) => is_column(of) && list.iter().all(Expr::is_constant),
            _ => false,
        })
    };
    let is_said = |column: u16| tied(column) || fixed(column);
    let key = &table.schema.primary_key;
    if key.iter().all(|&column| is_said(column)) && key.iter().any(|&column| tied(column)) {
        return Some((Rank::Key, By::Key));
    }
    let columns_of = |(place, index): (usize, &twofold_proto::schema::Index)| {
        let said: Vec<u16> =
            index.columns.iter().chain(key).copied().take_while(|&column| is_said(column)).collect();
        said.iter().any(|&column| tied(column)).then_some((said.len(), place))
    };
    let public = table.schema.indexes.iter().enumerate().filter(|(_, index)| index.is_public());
    let all = public.filter_map(columns_of);
    let (most, place) = all.max_by_key(|(most, place)| (*most, usize::MAX - place))?;
    Some((Rank::Index(usize::MAX - most), By::Index(place)))
}

/// The same of a row of the source alone. `row` has the values of the columns of others.
pub fn local(source: &Source, expr: &Expr, row: &[Datum]) -> Expr {
    expr.with_columns(&|column, sql_type: SqlType| match source.range().contains(&column) {
        true => Expr::Column(column - source.offset, sql_type),
        false => Expr::Constant(row.get(column).cloned().unwrap_or(Datum::Null), sql_type),
    })
}

/// How to find the rows of a table that go with any of these.
///
/// # Errors
/// Those of values that are computed.
pub fn lookup(
    source: &Source,
    table: &BoundTable,
    step: &SourceStep,
    rows: &[Vec<Datum>],
    context: &Context<'_>,
) -> Result<Access, SqlError> {
    let own = step.own.as_ref().map(Expr::conjuncts).unwrap_or_default();
    let mut known = std::collections::BTreeSet::new();
    let mut all: Option<Access> = None;
    for row in rows {
        let Some(key) = crate::sql::join::key(step.equal.iter().map(|(_, outer)| outer), row, context)?
        else {
            continue;
        };
        if !known.insert(key) {
            continue;
        }
        let links = step.links.iter().map(|link| local(source, link, row));
        let filter = Expr::All(own.iter().cloned().chain(links).collect());
        let found = access(table, Some(&filter), &Wish::default(), context)?;
        all = Some(match (all, found) {
            (None, found) => found,
            (Some(Access::Keys(mut all)), Access::Keys(keys)) => {
                all.extend(keys);
                Access::Keys(all)
            }
            (Some(Access::Unique(mut all)), Access::Unique(found)) if all.index == found.index => {
                all.entries.extend(found.entries);
                Access::Unique(all)
            }
            (Some(Access::Ranges(mut all)), Access::Ranges(found)) if all.index == found.index => {
                all.hash = all.hash.filter(|hash| found.hash == Some(*hash));
                all.ranges.extend(found.ranges);
                Access::Ranges(all)
            }
            _ => return access(table, step.own.as_ref(), &Wish::default(), context),
        });
    }
    Ok(match all {
        // NULL is equal to nothing.
        None => Access::Keys(Vec::new()),
        Some(Access::Keys(mut keys)) => {
            keys.sort_unstable();
            keys.dedup();
            Access::Keys(keys)
        }
        Some(Access::Unique(mut unique)) => {
            unique.entries.sort_unstable();
            unique.entries.dedup();
            Access::Unique(unique)
        }
        Some(Access::Ranges(mut ranges)) => {
            ranges.ranges.sort_unstable_by(|a, b| a.from.cmp(&b.from));
            ranges.ranges.dedup();
            // Where one reaches into another, rows would be read twice.
            if ranges.ranges.windows(2).any(|pair| pair[0].to.as_ref().is_none_or(|to| *to > pair[1].from)) {
                return access(table, step.own.as_ref(), &Wish::default(), context);
            }
            Access::Ranges(ranges)
        }
        Some(Access::Scan) => Access::Scan,
    })
}
