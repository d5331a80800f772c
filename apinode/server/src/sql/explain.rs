//! EXPLAIN: a row for each table, in the order in which they are read.

use twofold_apinode::sql::{
    bind::{BoundTable, Rows, Select, Statement},
    error::SqlError,
    expression::{Context, Expr},
    plan::{Access, By, JoinPlan, Pushed, Ranges, SourceStep, Step, Wish, access, interpreted, push},
    types::SqlType,
    value::Datum,
    wire::result::ResultColumn,
};
use twofold_proto::filter::FilterBuilder;

use super::{Stop, output::Output, run::Runner, show::text_columns};

/// How the rows of a table are found: in words, how much of the filter is judged where, and the least requests that it takes.
struct Told {
    way: String,
    judged: &'static str,
    requests: Datum,
}

fn judged(
    table: &BoundTable,
    filter: Option<&Expr>,
    context: &Context<'_>,
) -> Result<(&'static str, Pushed), SqlError> {
    let pushed = push(table, filter, context, &mut FilterBuilder::new())?;
    let judged = match (filter, pushed) {
        (None, _) => "",
        (_, Pushed::All) => "at the data nodes",
        (_, Pushed::Part) => "partly at the data nodes",
        (_, Pushed::Nothing) => "at the API node",
    };
    Ok((judged, pushed))
}

/// How ranges of an index are told of, and the least requests that they take: each is one to every worker, if it is not of one
/// partition.
fn by_ranges(table: &BoundTable, ranges: &Ranges) -> (String, usize) {
    let name = &table.schema.indexes[ranges.index].name;
    let order = match (ranges.ordered, ranges.descending) {
        (false, _) => "",
        (true, false) => ", in order",
        (true, true) => ", in order from the end",
    };
    let of = match ranges.hash {
        Some(_) => "in one partition",
        None => "at every worker",
    };
    let count = ranges.ranges.len();
    let word = if count == 1 { "range" } else { "ranges" };
    (format!("{count} {word} of index {name} {of}{order}"), count)
}

impl Runner {
    /// How these rows of a table are found.
    fn told(
        &self,
        table: &BoundTable,
        filter: Option<&Expr>,
        wish: &Wish,
        context: &Context<'_>,
    ) -> Result<Told, SqlError> {
        let (judged, _) = judged(table, filter, context)?;
        let (way, requests) = match access(table, filter, wish, context)? {
            Access::Keys(keys) => (format!("{} by primary key", keys.len()), keys.len()),
            Access::Unique(found) => {
                let name = &table.schema.indexes[found.index].name;
                let count = found.entries.len();
                (format!("{count} by unique index {name}, then by primary key"), 2 * count)
            }
            Access::Ranges(ranges) => by_ranges(table, &ranges),
            Access::Scan => {
                ("scan of all partitions".into(), self.handle().tables().newest().partitions.into())
            }
        };
        Ok(Told { way, judged, requests: Datum::Int(requests as i64) })
    }

    fn told_step(
        &self,
        select: &Select,
        step: &SourceStep,
        wish: &Wish,
        context: &Context<'_>,
    ) -> Result<Told, SqlError> {
        let own = step.own.as_ref();
        match (&select.from.sources[step.source].rows, step.by) {
            (Rows::Made(_), _) => {
                Ok(Told { way: "rows of a query".into(), judged: "", requests: Datum::Null })
            }
            (Rows::Table(table), None) => self.told(table, own, wish, context),
            (Rows::Table(table), Some(by)) => {
                let way = match by {
                    By::Key => "by primary key".to_owned(),
                    By::Index(place) => format!("by index {}", table.schema.indexes[place].name),
                };
                let way = format!("{way}, for all rows so far");
                Ok(Told { way, judged: judged(table, own, context)?.0, requests: Datum::Null })
            }
        }
    }

    fn told_select(&self, select: &Select, context: &Context<'_>) -> Result<Vec<Vec<Datum>>, SqlError> {
        let plan = JoinPlan::new(select, context)?;
        let wish = if plan.only().is_some() { Wish::of(select) } else { Wish::default() };
        let mut rows = Vec::new();
        let mut outer = 0;
        let row = |name: Datum, told: Told, outer: usize| {
            let way = if outer > 0 { format!("{}, or NULLs", told.way) } else { told.way };
            vec!["SELECT".into(), name, Datum::Text(way), told.judged.into(), told.requests]
        };
        for step in &plan.steps {
            match step {
                Step::Left { .. } => outer += 1,
                Step::LeftEnd { .. } => outer -= 1,
                Step::Filter(_) => {}
                Step::Source(step) => {
                    let source = &select.from.sources[step.source];
                    let name = match source.table() {
                        Some(table) if table.alias == table.name.table => table.name.to_string(),
                        Some(table) => format!("{} {}", table.name, table.alias),
                        None => source.alias.clone(),
                    };
                    rows.push(row(Datum::Text(name), self.told_step(select, step, &wish, context)?, outer));
                }
                Step::Apply(_) => {
                    let way = "a subquery for all rows so far".into();
                    rows.push(row(Datum::Null, Told { way, judged: "", requests: Datum::Null }, 0));
                }
            }
        }
        if rows.is_empty() {
            let told = Told { way: "none".into(), judged: "", requests: Datum::Int(0) };
            rows.push(row(Datum::Null, told, 0));
        }
        Ok(rows)
    }

    /// Sends how a statement would be carried out, but for its end. Subqueries that do not depend on its rows are run.
    pub(super) async fn explain(
        &mut self,
        statement: &Statement,
        context: &Context<'_>,
        output: &mut Output<'_>,
    ) -> Result<(), Stop> {
        let given = match statement {
            Statement::Select(select) => &select.given[..],
            Statement::Update(update) => &update.given,
            Statement::Delete(delete) => &delete.given,
            _ => &[],
        };
        let context = &context.within(self.given(given, Vec::new(), context).await?);
        let changed = |kind: &str, table: &BoundTable, told: Told| {
            vec![
                kind.into(),
                Datum::Text(table.name.to_string()),
                Datum::Text(told.way),
                told.judged.into(),
                told.requests,
            ]
        };
        let plain = |filter: &Option<Expr>, table: &BoundTable| {
            filter.as_ref().and_then(|filter| filter.without_columns_from(table.columns.len()))
        };
        let rows = match statement {
            Statement::Select(select) => self.told_select(select, context)?,
            Statement::Insert(insert) => {
                let told = Told { way: "1 by primary key".into(), judged: "", requests: Datum::Int(1) };
                vec![changed("INSERT", &insert.table, told)]
            }
            Statement::Delete(delete) => {
                let filter = plain(&delete.filter, &delete.table);
                let told = self.told(&delete.table, filter.as_ref(), &Wish::default(), context)?;
                vec![changed("DELETE", &delete.table, told)]
            }
            Statement::Update(update) => {
                let table = &update.table;
                let filter = plain(&update.filter, table);
                let mut told = self.told(table, filter.as_ref(), &Wish::default(), context)?;
                let alone = update.applied.is_empty()
                    && matches!(interpreted(table, &update.assignments, None, context), Ok(Some(_)))
                    && judged(table, filter.as_ref(), context)?.1 == Pushed::All
                    && told.requests == Datum::Int(1);
                told.way += if alone { ", changed in place" } else { ", read and locked first" };
                vec![changed("UPDATE", table, told)]
            }
            _ => return Err(SqlError::not_supported("EXPLAIN of such a statement").into()),
        };
        let mut columns = text_columns(["statement", "table", "access", "filter"]);
        columns.push(ResultColumn::computed("requests", SqlType::BIGINT));
        output.rows(&columns, rows).await
    }
}
