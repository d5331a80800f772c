//! INSERT, REPLACE, UPDATE, DELETE.

use std::cmp::Ordering;

use twofold_apinode::{
    request::End,
    sql::{
        bind::{Apply, BoundTable, Conflict, Delete, Insert, NewRows, Order, Update},
        error::SqlError,
        expression::{Context, Expr, Level, store::store},
        gather,
        plan::{Access, Pushed, Unique, Wish, access, interpreted, push, rows},
        temporal,
        value::Datum,
        wire::result::Done,
    },
};
use twofold_proto::{
    error::Error,
    filter::FilterBuilder,
    limits::{REQUEST_OPERATIONS_MAX, TRANSACTION_BYTES_MAX},
    operation::{Change, LockMode, Operation, OperationKind, ResultCode},
    value::{Value, ValueRef},
};

use super::{
    Stop,
    run::{Entered, Runner, duplicate, failed, head, refused},
    select::KEYS_AT_ONCE,
};

/// Bytes of the rows of a request.
const REQUEST_BYTES: usize = TRANSACTION_BYTES_MAX / 4;
/// Rows of a request.
const REQUEST_ROWS: usize = REQUEST_OPERATIONS_MAX / 4;

/// How many rows a statement has found, and how many of them it has changed.
#[derive(Clone, Copy, Default)]
struct Counts {
    found: u64,
    changed: u64,
}

/// A row to be changed, and what it is sorted by.
type Found = (Vec<Datum>, Vec<u8>, Vec<Datum>);

/// What is done with the rows that are found.
enum What<'w> {
    Delete,
    Update(&'w Update, i64),
}

impl Runner {
    pub(super) async fn insert(
        &mut self,
        insert: &Insert,
        now: i64,
        context: &Context<'_>,
    ) -> Result<Done, Stop> {
        self.touch(true)?;
        let inner = context.within(self.given(&insert.given, Vec::new(), context).await?);
        let result = self.insert_given(insert, now, &inner).await;
        context.warnings.borrow_mut().append(inner.warnings.take());
        result
    }

    async fn insert_given(&mut self, insert: &Insert, now: i64, context: &Context<'_>) -> Result<Done, Stop> {
        let selected;
        let source: Vec<Vec<Option<Datum>>> = match &insert.source {
            NewRows::Select(select) => {
                selected = self.selected(select, Vec::new(), context).await?;
                context.strict.set(true);
                selected.into_iter().map(|row| row.into_iter().map(Some).collect()).collect()
            }
            NewRows::Rows(list) => {
                context.strict.set(true);
                let value =
                    |expr: &Option<Expr>| expr.as_ref().map(|expr| expr.evaluate(&[], context)).transpose();
                let row =
                    |row: &Vec<Option<Expr>>| row.iter().map(value).collect::<Result<Vec<_>, SqlError>>();
                list.iter().map(row).collect::<Result<_, SqlError>>()?
            }
        };
        let mut list = Vec::with_capacity(source.len());
        for (index, given) in source.iter().enumerate() {
            list.push(rows::stored(&insert.table, &insert.columns, given, index + 1, now, context)?);
        }
        let mut done = Done::default();
        let list = self.number(&insert.table, list, &mut done).await?;
        let single = list.len() == 1 && self.open.is_none();
        let entered = if single && !needs_row(insert, &list, context)? { None } else { Some(self.enter()) };
        let result = self.insert_rows(insert, &list, now, entered.as_ref(), context).await;
        done.affected = match entered {
            Some(entered) => self.leave(entered, result).await?,
            None => result?,
        };
        if list.len() > 1 {
            let duplicates = match insert.conflict {
                Conflict::Ignore => list.len() as u64 - done.affected,
                _ => done.affected.saturating_sub(list.len() as u64),
            };
            let warnings = context.warnings.borrow().count;
            done.info = format!("Records: {}  Duplicates: {duplicates}  Warnings: {warnings}", list.len());
        }
        Ok(done)
    }

    /// Gives numbers to the rows that want one.
    async fn number(
        &mut self,
        table: &BoundTable,
        list: Vec<Vec<Option<Value>>>,
        done: &mut Done,
    ) -> Result<Vec<Vec<Value>>, SqlError> {
        let ranges = &self.thread.server.ranges;
        let handle = &self.thread.handle;
        let mut chosen = None;
        let mut numbered = Vec::with_capacity(list.len());
        let wanting = list.iter().filter(|row| row.contains(&None)).count() as u64;
        let mut next = match (table.auto_increment(), wanting) {
            (Some(_), 1..) => ranges.take(handle, table.schema.id, wanting).await?,
            _ => 0,
        };
        let mut largest = None;
        for row in list {
            let mut values = Vec::with_capacity(row.len());
            for (index, value) in row.into_iter().enumerate() {
                let counts = table.columns[index].auto_increment;
                values.push(match value {
                    Some(value) => {
                        if counts
                            && let Some(number) =
                                value.as_integer().and_then(|number| u64::try_from(number).ok())
                        {
                            largest = largest.max(Some(number));
                            done.insert_id = number;
                        }
                        value
                    }
                    None => {
                        let number = next;
                        next += 1;
                        chosen.get_or_insert(number);
                        let datum = Datum::UInt(number);
                        store(
                            &datum,
                            &table.schema.columns[index],
                            table.sql_type(index),
                            1,
                            &Context::default(),
                        )?
                    }
                });
            }
            numbered.push(values);
        }
        if let Some(largest) = largest {
            ranges.pass(handle, table.schema.id, largest).await?;
        }
        if let Some(chosen) = chosen {
            done.insert_id = chosen;
            self.session.last_insert_id = chosen;
        }
        Ok(numbered)
    }

    async fn insert_rows(
        &mut self,
        insert: &Insert,
        list: &[Vec<Value>],
        now: i64,
        entered: Option<&Entered>,
        context: &Context<'_>,
    ) -> Result<u64, Stop> {
        let mut affected = 0;
        let mut operations = Vec::new();
        let mut bytes = 0;
        for (index, values) in list.iter().enumerate() {
            match write_of(insert, values, context)? {
                Some(operation) => {
                    bytes += operation.key.len() + operation.row.as_ref().map_or(0, Vec::len);
                    operations.push(operation);
                }
                None => {
                    affected += self
                        .write(insert, std::mem::take(&mut operations), End::Stay, entered, context)
                        .await?;
                    bytes = 0;
                    affected += self.insert_or_update(insert, values, now, context).await?;
                }
            }
            let last = index + 1 == list.len();
            if last || bytes > REQUEST_BYTES || operations.len() == REQUEST_ROWS {
                let end = match entered {
                    Some(entered) if last => self.end_of(entered),
                    _ => End::Stay,
                };
                affected +=
                    self.write(insert, std::mem::take(&mut operations), end, entered, context).await?;
                bytes = 0;
            }
        }
        Ok(affected)
    }

    /// Sends rows, and counts those that they change.
    async fn write(
        &mut self,
        insert: &Insert,
        operations: Vec<Operation>,
        end: End,
        entered: Option<&Entered>,
        context: &Context<'_>,
    ) -> Result<u64, SqlError> {
        if operations.is_empty() {
            return Ok(0);
        }
        let table = &insert.table;
        let (results, _held) = match entered {
            Some(_) => {
                self.in_open(&operations, end).await.map_err(|failure| failed(table, &operations, failure))?
            }
            None => self.alone(&operations).await,
        };
        let mut affected = 0;
        for (index, operation) in operations.iter().enumerate() {
            let (code, existed, changed) =
                head(results.get(index).map_err(|failure| failure.error.clone())?)?;
            if code != ResultCode::Ok {
                return Err(refused(table, operation, code));
            }
            affected += match &insert.conflict {
                Conflict::Fail => 1,
                Conflict::Ignore if existed => {
                    let error = duplicate(table, &operation.key);
                    context.warnings.borrow_mut().push(Level::Warning, error);
                    0
                }
                Conflict::Ignore => 1,
                Conflict::Replace => 1 + u64::from(existed && changed),
                Conflict::Update(_) if !existed => 1,
                Conflict::Update(_) if changed => 2,
                Conflict::Update(_) => u64::from(self.found_rows),
            };
        }
        Ok(affected)
    }

    /// A row for which those have to be read first that are there: ON DUPLICATE KEY UPDATE by expressions, or of unique indexes.
    async fn insert_or_update(
        &mut self,
        insert: &Insert,
        values: &[Value],
        now: i64,
        context: &Context<'_>,
    ) -> Result<u64, SqlError> {
        let table = &insert.table;
        let (key, row) = match self.insert_among(insert, values, context).await? {
            Ok(affected) => return Ok(affected),
            Err(found) => found,
        };
        let Conflict::Update(changes) = &insert.conflict else { return Ok(0) };
        let new = rows::datums(table, values);
        let Some(changes) = changed(table, changes, &row, Some(&new), now, 1, context)? else {
            return Ok(u64::from(self.found_rows));
        };
        let operations = [update_of(table, key, changes)?];
        self.in_open(&operations, End::Stay).await.map_err(|failure| failed(table, &operations, failure))?;
        Ok(2)
    }

    pub(super) async fn update(
        &mut self,
        update: &Update,
        now: i64,
        context: &Context<'_>,
    ) -> Result<Done, Stop> {
        self.touch(true)?;
        context.strict.set(true);
        let inner = context.within(self.given(&update.given, Vec::new(), context).await?);
        let result = self.update_given(update, now, &inner).await;
        context.warnings.borrow_mut().append(inner.warnings.take());
        result
    }

    async fn update_given(&mut self, update: &Update, now: i64, context: &Context<'_>) -> Result<Done, Stop> {
        let counts = match self.update_at_once(update, context).await? {
            Some(counts) => counts,
            None => {
                let Update { table, applied, filter, order, limit, .. } = update;
                let which = Which { table, applied, filter: filter.as_ref(), order, limit: limit.as_ref() };
                self.change(&which, &What::Update(update, now), context).await?
            }
        };
        let Counts { found, changed } = counts;
        let warnings = context.warnings.borrow().count;
        Ok(Done {
            affected: if self.found_rows { found } else { changed },
            info: format!("Rows matched: {found}  Changed: {changed}  Warnings: {warnings}"),
            ..Done::default()
        })
    }

    pub(super) async fn delete(&mut self, delete: &Delete, context: &Context<'_>) -> Result<Done, Stop> {
        self.touch(true)?;
        context.strict.set(true);
        let inner = context.within(self.given(&delete.given, Vec::new(), context).await?);
        let result = self.delete_given(delete, &inner).await;
        context.warnings.borrow_mut().append(inner.warnings.take());
        result
    }

    async fn delete_given(&mut self, delete: &Delete, context: &Context<'_>) -> Result<Done, Stop> {
        let Delete { table, applied, filter, order, limit, .. } = delete;
        if applied.is_empty()
            && let Some((key, conditions)) = single(table, filter.as_ref(), order, limit.as_ref(), context)?
        {
            let mut operation =
                Operation::new(OperationKind::Delete, &table.schema, key).map_err(Error::from)?;
            operation.conditions = conditions;
            let affected = match self.one(operation.clone()).await? {
                (ResultCode::Ok, ..) => 1,
                (ResultCode::NotFound | ResultCode::ConditionFalse, ..) => 0,
                (code, ..) => return Err(refused(table, &operation, code).into()),
            };
            return Ok(Done { affected, ..Done::default() });
        }
        let which = Which { table, applied, filter: filter.as_ref(), order, limit: limit.as_ref() };
        let counts = self.change(&which, &What::Delete, context).await?;
        Ok(Done { affected: counts.changed, ..Done::default() })
    }

    /// An update of one row that its data node can carry out alone: one operation.
    async fn update_at_once(
        &mut self,
        update: &Update,
        context: &Context<'_>,
    ) -> Result<Option<Counts>, SqlError> {
        let Update { table, assignments, applied, filter, order, limit, .. } = update;
        if !applied.is_empty() {
            return Ok(None);
        }
        let Some((key, conditions)) = single(table, filter.as_ref(), order, limit.as_ref(), context)? else {
            return Ok(None);
        };
        // What is wrong with a value is wrong only if there is a row for it.
        let Ok(Some(changes)) = interpreted(table, assignments, None, context) else { return Ok(None) };
        let mut operation = update_of(table, key, changes)?;
        operation.conditions = conditions;
        match self.one(operation.clone()).await? {
            (ResultCode::Ok, _, changed) => Ok(Some(Counts { found: 1, changed: changed.into() })),
            (ResultCode::NotFound | ResultCode::ConditionFalse, ..) => Ok(Some(Counts::default())),
            (code, ..) => Err(refused(table, &operation, code)),
        }
    }

    /// Finds rows, locks and reads them, and changes them.
    async fn change(
        &mut self,
        which: &Which<'_>,
        what: &What<'_>,
        context: &Context<'_>,
    ) -> Result<Counts, Stop> {
        let entered = self.enter();
        let result = self.change_all(which, what, context).await;
        self.leave(entered, result).await
    }

    async fn change_all(
        &mut self,
        which: &Which<'_>,
        what: &What<'_>,
        context: &Context<'_>,
    ) -> Result<Counts, Stop> {
        let limit = gather::rows(which.limit, context)?;
        let mut counts = Counts::default();
        let mut sorted: Vec<Found> = Vec::new();
        let mut kept = 0;
        let columns: Vec<u16> = (0..which.table.columns.len() as u16).collect();
        // What does not ask subqueries finds the rows.
        let width = which.table.columns.len();
        let plain = which.filter.and_then(|filter| filter.without_columns_from(width));
        let found = access(which.table, plain.as_ref(), &Wish::default(), context)?;
        let (mut scan, mut keys) = match found {
            Access::Keys(keys) => (None, Some(keys)),
            Access::Unique(Unique { index, entries }) => {
                let mut keys = Vec::with_capacity(entries.len());
                for some in entries.chunks(KEYS_AT_ONCE) {
                    let rows =
                        self.read_unique(which.table, index, some.to_vec(), &[], LockMode::Exclusive).await?;
                    keys.extend(rows.into_iter().map(|(key, _)| key));
                }
                (None, Some(keys))
            }
            found => (Some(self.scan(which.table, plain.as_ref(), &found, &[], None, context)?), None),
        };
        loop {
            let more = match &mut scan {
                Some(scan) => self.next_keys(scan, which.table).await?,
                None => keys.take(),
            };
            let Some(more) = more else { break };
            for keys in more.chunks(KEYS_AT_ONCE) {
                let mut batch = Vec::new();
                for (key, mut row) in self.read(which.table, keys, &columns, LockMode::Exclusive).await? {
                    for apply in which.applied {
                        let answer = self.answer_for(apply, &row, context).await?;
                        row.push(answer);
                    }
                    let holds = which.filter.map_or(Ok(true), |filter| filter.holds(&row, context))?;
                    if !holds {
                        continue;
                    }
                    if which.order.is_empty() {
                        batch.push((Vec::new(), key, row));
                        continue;
                    }
                    let by = which.order.iter().map(|order| order.expr.evaluate(&row, context));
                    let by: Vec<Datum> = by.collect::<Result<_, SqlError>>()?;
                    kept += row.iter().chain(&by).map(Datum::bytes).sum::<usize>() + key.len();
                    gather::check_kept(kept)?;
                    sorted.push((by, key, row));
                }
                let left = limit.map_or(u64::MAX, |limit| limit - counts.found);
                batch.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                self.write_found(which.table, batch, what, &mut counts, context).await?;
            }
            if limit.is_some_and(|limit| counts.found >= limit) && which.order.is_empty() {
                break;
            }
        }
        sorted.sort_by(|a, b| {
            let orders = a.0.iter().zip(&b.0).zip(which.order).map(|((a, b), order)| {
                let ascending = a.sort_order(b);
                if order.descending { ascending.reverse() } else { ascending }
            });
            orders.fold(Ordering::Equal, Ordering::then)
        });
        sorted.truncate(limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX));
        while !sorted.is_empty() {
            let rest = sorted.split_off(sorted.len().min(KEYS_AT_ONCE));
            self.write_found(which.table, std::mem::replace(&mut sorted, rest), what, &mut counts, context)
                .await?;
        }
        Ok(counts)
    }

    /// Changes rows that are locked.
    async fn write_found(
        &mut self,
        table: &BoundTable,
        batch: Vec<Found>,
        what: &What<'_>,
        counts: &mut Counts,
        context: &Context<'_>,
    ) -> Result<(), SqlError> {
        let mut operations = Vec::with_capacity(batch.len());
        for (_, key, row) in batch {
            counts.found += 1;
            let operation = match what {
                What::Delete => {
                    Some(Operation::new(OperationKind::Delete, &table.schema, key).map_err(Error::from)?)
                }
                What::Update(update, now) => {
                    let number = counts.found as usize;
                    let changes = changed(table, &update.assignments, &row, None, *now, number, context)?;
                    changes.map(|changes| update_of(table, key, changes)).transpose()?
                }
            };
            operations.extend(operation);
        }
        if operations.is_empty() {
            return Ok(());
        }
        counts.changed += operations.len() as u64;
        self.in_open(&operations, End::Stay).await.map_err(|failure| failed(table, &operations, failure))?;
        Ok(())
    }
}

/// Which rows a statement changes.
struct Which<'w> {
    table: &'w BoundTable,
    applied: &'w [Apply],
    filter: Option<&'w Expr>,
    order: &'w [Order],
    limit: Option<&'w Expr>,
}

/// The key of the one row that can be meant, and conditions on it that its data node can judge alone.
fn single(
    table: &BoundTable,
    filter: Option<&Expr>,
    order: &[Order],
    limit: Option<&Expr>,
    context: &Context<'_>,
) -> Result<Option<(Vec<u8>, FilterBuilder)>, SqlError> {
    if !order.is_empty() || limit.is_some() {
        return Ok(None);
    }
    let Access::Keys(keys) = access(table, filter, &Wish::default(), context)? else { return Ok(None) };
    let [key] = &keys[..] else { return Ok(None) };
    let mut conditions = FilterBuilder::new();
    let pushed = push(table, filter, context, &mut conditions)?;
    Ok((pushed == Pushed::All).then(|| (key.clone(), conditions)))
}

/// What assignments make of a row; `None` if it stays as it is.
fn changed(
    table: &BoundTable,
    assignments: &[(usize, Option<Expr>)],
    row: &[Datum],
    new: Option<&[Datum]>,
    now: i64,
    number: usize,
    context: &Context<'_>,
) -> Result<Option<Vec<(u16, Change<'static>)>>, SqlError> {
    let width = table.columns.len();
    // Each sees what those before it did, but for subqueries, whose answers stand behind the row.
    let mut current = row.to_vec();
    current.extend_from_slice(new.unwrap_or_default());
    let mut values: Vec<Option<Value>> = vec![None; width];
    for (column, expr) in assignments {
        let definition = &table.schema.columns[*column];
        let sql_type = table.sql_type(*column);
        let value = match expr {
            Some(expr) => store(&expr.evaluate(&current, context)?, definition, sql_type, number, context)?,
            None => rows::default(table, *column, now)?.unwrap_or(Value::Null),
        };
        current[*column] = Datum::from_column(value.borrowed(), definition.column_type, sql_type);
        values[*column] = Some(value);
    }
    if current[..width] == row[..width] {
        return Ok(None);
    }
    for (index, declared) in table.columns.iter().enumerate() {
        if declared.update_now && values[index].is_none() {
            values[index] = Some(ValueRef::Int(temporal::round(now, declared.sql_type.decimals())));
        }
    }
    let set = |(index, value): (usize, Option<Value>)| Some((index as u16, Change::Set(value?)));
    Ok(Some(values.into_iter().enumerate().filter_map(set).collect()))
}

fn update_of(
    table: &BoundTable,
    key: Vec<u8>,
    changes: Vec<(u16, Change<'static>)>,
) -> Result<Operation, SqlError> {
    let mut operation = Operation::new(OperationKind::Update, &table.schema, key).map_err(Error::from)?;
    for (column, change) in changes {
        operation.assign(column, change);
    }
    Ok(operation)
}

/// The write of a new row; `None` if the row that may be there is needed first.
fn write_of(insert: &Insert, values: &[Value], context: &Context<'_>) -> Result<Option<Operation>, SqlError> {
    let table = &insert.table;
    if table.schema.has_unique() && insert.conflict != Conflict::Fail {
        return Ok(None);
    }
    let (key, body) = rows::encode(table, values)?;
    let kind = match insert.conflict {
        Conflict::Fail => OperationKind::Insert,
        _ => OperationKind::Write,
    };
    let mut operation = Operation::new(kind, &table.schema, key).map_err(Error::from)?;
    operation.row = Some(body);
    match &insert.conflict {
        Conflict::Fail | Conflict::Replace => {}
        Conflict::Ignore => {
            operation.keep_existing();
        }
        Conflict::Update(changes) => {
            let new = rows::datums(table, values);
            match interpreted(table, changes, Some(&new), context) {
                Ok(Some(changes)) => {
                    operation.keep_existing();
                    for (column, change) in changes {
                        operation.assign(column, change);
                    }
                }
                // What is wrong with a value is wrong only if there is a row for it.
                Ok(None) | Err(_) => return Ok(None),
            }
        }
    }
    Ok(Some(operation))
}

/// Whether a row that is there has to be read first.
fn needs_row(insert: &Insert, list: &[Vec<Value>], context: &Context<'_>) -> Result<bool, SqlError> {
    for values in list {
        if write_of(insert, values, context)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}
