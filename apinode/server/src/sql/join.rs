//! Joins: rows go from step to step, some at a time.

use std::{collections::BTreeMap, pin::Pin};

use twofold_apinode::sql::{
    bind::{Made, Part, Rows, Select, Source, What},
    error::SqlError,
    expression::{Context, Expr, evaluate::as_type},
    gather::{Distinct, KEPT_MAX},
    join::{Key, Matcher, key},
    plan::{Access, JoinPlan, SourceStep, Step, Wish, access, join::lookup},
    value::Datum,
};

use super::{
    Stop,
    run::Runner,
    select::{KEYS_AT_ONCE, Sink},
};

/// Bytes of the rows that go to the next step at a time.
const BATCH_BYTES: usize = 1 << 20;

type Row = Vec<Datum>;

/// The rows of a source that every batch is joined with.
struct Kept {
    rows: Vec<Row>,
    matcher: Matcher,
}

/// A SELECT whose rows are being joined.
pub(super) struct Joining<'s> {
    pub select: &'s Select,
    pub context: &'s Context<'s>,
    plan: &'s JoinPlan,
    /// By step.
    kept: BTreeMap<usize, Kept>,
    /// Bytes of these, and of answers.
    pub bytes: usize,
    /// Of outer joins under way, by their tags: the rows that have found others.
    matched: BTreeMap<usize, Vec<bool>>,
    /// What subqueries have answered, by what they were asked.
    pub answers: BTreeMap<(usize, Key), Datum>,
}

/// Where a step's rows come from, and those of them that are put together.
struct Pairing<'p> {
    source: &'p Source,
    step: &'p SourceStep,
    /// The next step.
    next: usize,
    /// Rows so far.
    rows: Vec<Row>,
    /// Put together, and not yet with the next step.
    out: Vec<Row>,
    bytes: usize,
}

impl Pairing<'_> {
    /// Puts two rows together, if they go together.
    fn pair(&mut self, row: usize, with: &[Datum], context: &Context<'_>) -> Result<(), SqlError> {
        let mut joined = self.rows[row].clone();
        joined[self.source.range()].clone_from_slice(with);
        for condition in &self.step.on {
            if !condition.holds(&joined, context)? {
                return Ok(());
            }
        }
        self.bytes += joined.iter().map(Datum::bytes).sum::<usize>();
        self.out.push(joined);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.out.len() >= KEYS_AT_ONCE || self.bytes >= BATCH_BYTES
    }

    fn take(&mut self) -> Vec<Row> {
        self.bytes = 0;
        std::mem::take(&mut self.out)
    }
}

impl Runner {
    /// Gives the rows of a SELECT to the sink.
    pub(super) async fn join(
        &mut self,
        select: &Select,
        plan: JoinPlan,
        context: &Context<'_>,
        sink: &mut Sink<'_, '_, '_>,
    ) -> Result<(), Stop> {
        for condition in &plan.first {
            if !condition.holds(&[], context)? {
                return Ok(());
            }
        }
        let mut joining = Joining {
            select,
            context,
            plan: &plan,
            kept: BTreeMap::new(),
            bytes: 0,
            matched: BTreeMap::new(),
            answers: BTreeMap::new(),
        };
        let start = vec![Datum::Null; plan.width];
        self.step(&mut joining, 0, vec![start], sink).await
    }

    /// Takes rows through a step and all that follow.
    fn step<'r>(
        &'r mut self,
        joining: &'r mut Joining<'_>,
        step: usize,
        mut rows: Vec<Row>,
        sink: &'r mut Sink<'_, '_, '_>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Stop>> + 'r>> {
        Box::pin(async move {
            if rows.is_empty() || sink.gather.is_full() {
                return Ok(());
            }
            let plan = joining.plan;
            match plan.steps.get(step) {
                None => {
                    for row in &rows {
                        sink.take(row).await?;
                    }
                    tokio::task::consume_budget().await;
                    Ok(())
                }
                Some(Step::Source(source)) => self.source(joining, source, step + 1, rows, sink).await,
                Some(Step::Filter(conditions)) => {
                    let mut kept = Vec::with_capacity(rows.len());
                    for row in rows {
                        if all_hold(conditions, &row, joining.context)? {
                            kept.push(row);
                        }
                    }
                    self.step(joining, step + 1, kept, sink).await
                }
                Some(Step::Apply(index)) => {
                    self.apply(joining, *index, &mut rows).await?;
                    self.step(joining, step + 1, rows, sink).await
                }
                Some(Step::Left { tag, end }) => {
                    for (index, row) in rows.iter_mut().enumerate() {
                        row[*tag] = Datum::Int(index as i64);
                    }
                    joining.matched.insert(*tag, vec![false; rows.len()]);
                    self.step(joining, step + 1, rows.clone(), sink).await?;
                    let matched = joining.matched.remove(tag).unwrap_or_default();
                    let alone = rows.into_iter().zip(matched).filter(|(_, matched)| !matched);
                    let alone = alone.map(|(row, _)| row).collect();
                    self.step(joining, end + 1, alone, sink).await
                }
                Some(Step::LeftEnd { tag }) => {
                    if let Some(matched) = joining.matched.get_mut(tag) {
                        for row in &rows {
                            if let Datum::Int(index) = row[*tag] {
                                matched[index as usize] = true;
                            }
                        }
                    }
                    self.step(joining, step + 1, rows, sink).await
                }
            }
        })
    }

    async fn source(
        &mut self,
        joining: &mut Joining<'_>,
        step: &SourceStep,
        next: usize,
        rows: Vec<Row>,
        sink: &mut Sink<'_, '_, '_>,
    ) -> Result<(), Stop> {
        let context = joining.context;
        let source = &joining.select.from.sources[step.source];
        let mut pairing = Pairing { source, step, next, rows, out: Vec::new(), bytes: 0 };
        let table = match &source.rows {
            Rows::Table(table) => table,
            Rows::Made(made) => {
                if !joining.kept.contains_key(&next) {
                    let all = self.made(made, context).await?;
                    self.keep(joining, step, next, all)?;
                }
                return self.pair_kept(joining, &mut pairing, sink).await;
            }
        };
        if joining.kept.contains_key(&next) {
            return self.pair_kept(joining, &mut pairing, sink).await;
        }
        let only = joining.plan.only().is_some();
        let wish = if only { Wish::of(joining.select) } else { Wish::default() };
        let found = match step.links.is_empty() {
            true => access(table, step.own.as_ref(), &wish, context)?,
            false => lookup(source, table, step, &pairing.rows, context)?,
        };
        let written = match &self.open {
            Some(open) if only => open.has_written(table.schema.id)?,
            _ => false,
        };
        let lock = joining.select.lock;
        let again = lock != twofold_proto::operation::LockMode::None && self.open.is_some();
        // Rows that are read again, and what the transaction itself has written, come in no order.
        if only && !written && !again && matches!(&found, Access::Ranges(ranges) if ranges.ordered) {
            sink.gather.in_order(&wish);
        }
        let enough = sink.gather.enough().filter(|_| only);
        let mut reading =
            self.reading(table, (found, step.own.as_ref()), &step.columns, lock, enough, context)?;
        // What the first step reads, and what is looked up, is not read again.
        let mut keep = (next > 1 && step.links.is_empty()).then(|| (Vec::new(), joining.bytes));
        let outer: Vec<&Expr> = step.equal.iter().map(|(_, outer)| outer).collect();
        let matcher = Matcher::new(&pairing.rows, &outer, context)?;
        while let Some(found) = self.next_rows(&mut reading, table).await? {
            for with in &found {
                let key = key(step.equal.iter().map(|(inner, _)| inner), with, context)?;
                for &row in matcher.of(key) {
                    pairing.pair(row, with, context)?;
                    if pairing.is_full() {
                        self.step(joining, next, pairing.take(), sink).await?;
                    }
                }
            }
            if let Some((rows, bytes)) = &mut keep {
                *bytes += found.iter().flatten().map(Datum::bytes).sum::<usize>();
                rows.extend(found);
                // What is too much is read again for the next rows.
                if *bytes > KEPT_MAX {
                    keep = None;
                }
            }
            if only {
                self.step(joining, next, pairing.take(), sink).await?;
            }
            if sink.gather.is_full() {
                return Ok(());
            }
        }
        if let Some((rows, _)) = keep {
            self.keep(joining, step, next, rows)?;
        }
        self.step(joining, next, pairing.take(), sink).await
    }

    /// Keeps the rows of a source for all that it is joined with.
    fn keep(
        &self,
        joining: &mut Joining<'_>,
        step: &SourceStep,
        next: usize,
        rows: Vec<Row>,
    ) -> Result<(), SqlError> {
        joining.bytes += rows.iter().flatten().map(Datum::bytes).sum::<usize>();
        let inner: Vec<&Expr> = step.equal.iter().map(|(inner, _)| inner).collect();
        let matcher = Matcher::new(&rows, &inner, joining.context)?;
        joining.kept.insert(next, Kept { rows, matcher });
        Ok(())
    }

    async fn pair_kept(
        &mut self,
        joining: &mut Joining<'_>,
        pairing: &mut Pairing<'_>,
        sink: &mut Sink<'_, '_, '_>,
    ) -> Result<(), Stop> {
        // It is put back: what follows may need all of `joining`.
        let Some(kept) = joining.kept.remove(&pairing.next) else { return Ok(()) };
        let result = self.pair_with(joining, pairing, &kept, sink).await;
        joining.kept.insert(pairing.next, kept);
        result?;
        self.step(joining, pairing.next, pairing.take(), sink).await
    }

    async fn pair_with(
        &mut self,
        joining: &mut Joining<'_>,
        pairing: &mut Pairing<'_>,
        kept: &Kept,
        sink: &mut Sink<'_, '_, '_>,
    ) -> Result<(), Stop> {
        let context = joining.context;
        for row in 0..pairing.rows.len() {
            let outer = pairing.step.equal.iter().map(|(_, outer)| outer);
            let key = key(outer, &pairing.rows[row], context)?;
            for &with in kept.matcher.of(key) {
                pairing.pair(row, &kept.rows[with], context)?;
                if pairing.is_full() {
                    self.step(joining, pairing.next, pairing.take(), sink).await?;
                }
            }
            if sink.gather.is_full() {
                return Ok(());
            }
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    /// Rows that are made here.
    async fn made(&mut self, made: &Made, context: &Context<'_>) -> Result<Vec<Row>, Stop> {
        match &made.what {
            What::Parts(parts) => self.parts(made, parts, context).await,
            What::View(view) => Ok(view.rows(&self.catalog().await?)),
        }
    }

    /// The rows of a derived table or a UNION.
    async fn parts(&mut self, made: &Made, parts: &[Part], context: &Context<'_>) -> Result<Vec<Row>, Stop> {
        let mut all = Vec::new();
        let mut bytes = 0;
        let last_distinct = parts.iter().rposition(|part| !part.all).unwrap_or(0);
        let mut distinct = Distinct::default();
        for (index, part) in parts.iter().enumerate() {
            for row in self.selected(&part.select, Vec::new(), context).await? {
                let values = row.into_iter().zip(&made.columns);
                let row = values.map(|(value, (_, sql_type))| as_type(value, *sql_type));
                let row: Row = row.collect::<Result<_, SqlError>>()?;
                if last_distinct > 0 && index <= last_distinct && !distinct.is_new(&row) {
                    continue;
                }
                bytes += row.iter().map(Datum::bytes).sum::<usize>();
                twofold_apinode::sql::gather::check_kept(bytes)?;
                all.push(row);
            }
        }
        Ok(all)
    }
}

pub(super) fn all_hold(conditions: &[Expr], row: &[Datum], context: &Context<'_>) -> Result<bool, SqlError> {
    for condition in conditions {
        if !condition.holds(row, context)? {
            return Ok(false);
        }
    }
    Ok(true)
}
