//! SELECT, and the rows of a table: by keys, or by a scan.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
};

use twofold_apinode::{
    request::{End, Isolation},
    sql::{
        bind::{BoundTable, Select},
        error::SqlError,
        expression::{Context, Expr},
        gather::{self, Gather},
        plan::{Access, JoinPlan, Pushed, Unique, push, rows},
        value::Datum,
        wire::result::ResultColumn,
    },
};
use twofold_client::scan::{self, Step, Steps};
use twofold_proto::{
    error::Error,
    filter::FilterBuilder,
    operation::{Columns, LockMode, Operation, OperationKind},
};

use super::{Stop, output::Output, run::Runner};

/// Rows that are read by key at a time.
pub(super) const KEYS_AT_ONCE: usize = 512;

/// The rows of a SELECT to come. Queries stand in each other, so their size is not known.
type Selected<'r> = Pin<Box<dyn Future<Output = Result<Vec<Vec<Datum>>, Stop>> + 'r>>;

/// What takes in the rows of a SELECT.
pub(super) struct Sink<'s, 'o, 'c> {
    pub gather: Gather<'s>,
    columns: Vec<ResultColumn>,
    output: Option<&'o mut Output<'c>>,
    /// Without an output rows are kept.
    kept: Vec<Vec<Datum>>,
    bytes: usize,
}

impl Sink<'_, '_, '_> {
    pub async fn take(&mut self, row: &[Datum]) -> Result<(), Stop> {
        let Some(row) = self.gather.push(row)? else { return Ok(()) };
        match &mut self.output {
            Some(output) => output.row(&self.columns, &row).await,
            None => {
                self.bytes += row.iter().map(Datum::bytes).sum::<usize>();
                gather::check_kept(self.bytes)?;
                self.kept.push(row);
                Ok(())
            }
        }
    }
}

impl Runner {
    /// Sends the rows of a SELECT, but for their end.
    pub(super) async fn select(
        &mut self,
        select: &Select,
        context: &Context<'_>,
        output: &mut Output<'_>,
    ) -> Result<(), Stop> {
        let inner = context.within(self.given(&select.given, Vec::new(), context).await?);
        let columns = select.columns(context.parameters);
        // What is found to be wrong before the first row is an error without columns.
        let gather = Gather::new(select, &inner)?;
        let plan = self.plan(select, &inner)?;
        output.begin(&columns);
        let mut sink = Sink { gather, columns, output: Some(output), kept: Vec::new(), bytes: 0 };
        self.join(select, plan, &inner, &mut sink).await?;
        let Sink { gather, columns, output, .. } = sink;
        if let Some(output) = output {
            for row in gather.finish()? {
                output.row(&columns, &row).await?;
            }
        }
        context.warnings.borrow_mut().append(inner.warnings.take());
        Ok(())
    }

    /// The rows of a SELECT that is a part of another statement, with these values of the row around it.
    pub(super) fn selected<'r>(
        &'r mut self,
        select: &'r Select,
        outer: Vec<Datum>,
        context: &'r Context<'_>,
    ) -> Selected<'r> {
        Box::pin(async move {
            let inner = context.within(self.given(&select.given, outer, context).await?);
            let gather = Gather::new(select, &inner)?;
            let plan = self.plan(select, &inner)?;
            let mut sink = Sink { gather, columns: Vec::new(), output: None, kept: Vec::new(), bytes: 0 };
            self.join(select, plan, &inner, &mut sink).await?;
            let Sink { gather, mut kept, .. } = sink;
            kept.extend(gather.finish()?);
            context.warnings.borrow_mut().append(inner.warnings.take());
            Ok(kept)
        })
    }

    /// How a SELECT's rows are found.
    fn plan(&mut self, select: &Select, context: &Context<'_>) -> Result<JoinPlan, SqlError> {
        if !select.from.sources.is_empty() {
            self.touch(false)?;
        }
        JoinPlan::new(select, context)
    }

    /// The rows of a table that this way finds, some after the others.
    pub(super) fn reading(
        &mut self,
        table: &BoundTable,
        (access, filter): (Access, Option<&Expr>),
        columns: &[u16],
        lock: LockMode,
        enough: Option<u64>,
        context: &Context<'_>,
    ) -> Result<Reading, SqlError> {
        let mut reading =
            Reading { keys: VecDeque::new(), unique: None, scan: None, columns: columns.to_vec(), lock };
        match access {
            Access::Keys(keys) => reading.keys = keys.into(),
            Access::Unique(found) => reading.unique = Some(found),
            access if reading.locks(self) => {
                reading.scan = Some(self.scan(table, filter, &access, &[], None, context)?);
            }
            access => reading.scan = Some(self.scan(table, filter, &access, columns, enough, context)?),
        }
        Ok(reading)
    }

    /// The next rows.
    pub(super) async fn next_rows(
        &mut self,
        reading: &mut Reading,
        table: &BoundTable,
    ) -> Result<Option<Vec<Vec<Datum>>>, SqlError> {
        loop {
            if let Some(Unique { index, entries }) = &mut reading.unique {
                let some = entries.split_off(entries.len().saturating_sub(KEYS_AT_ONCE));
                let index = *index;
                if entries.is_empty() {
                    reading.unique = None;
                }
                let found = self.read_unique(table, index, some, &reading.columns, reading.lock).await?;
                return Ok(Some(found.into_iter().map(|(_, row)| row).collect()));
            }
            if !reading.keys.is_empty() {
                let count = reading.keys.len().min(KEYS_AT_ONCE);
                let keys: Vec<Vec<u8>> = reading.keys.drain(..count).collect();
                let found = self.read(table, &keys, &reading.columns, reading.lock).await?;
                return Ok(Some(found.into_iter().map(|(_, row)| row).collect()));
            }
            let locks = reading.locks(self);
            let Some(scan) = &mut reading.scan else { return Ok(None) };
            if locks {
                match self.next_keys(scan, table).await? {
                    Some(keys) => reading.keys = keys.into(),
                    None => reading.scan = None,
                }
                continue;
            }
            let Some(step) = scan.steps.next().await.map_err(|failure| failure.error)? else {
                // What the transaction itself has written comes last.
                reading.keys = std::mem::take(&mut scan.written).into_iter().collect();
                reading.scan = None;
                continue;
            };
            let Step { rows: results, count, held: _held } = step;
            let mut found = Vec::with_capacity(count);
            for result in results.iter().take(count) {
                let result = result.map_err(|failure| failure.error.clone())?;
                let Some(row) = rows::row(table, &scan.columns, result)? else { continue };
                let written = !scan.written.is_empty()
                    && scan.written.contains(&rows::key(table, &scan.columns, result)?);
                if !written {
                    found.push(row);
                }
            }
            // Rows that are judged here take time that others want, too.
            tokio::task::consume_budget().await;
            return Ok(Some(found));
        }
    }

    /// Reads the rows of these keys; those that are missing are left out.
    pub(super) async fn read(
        &mut self,
        table: &BoundTable,
        keys: &[Vec<u8>],
        columns: &[u16],
        lock: LockMode,
    ) -> Result<Vec<(Vec<u8>, Vec<Datum>)>, SqlError> {
        let mut operations = Vec::with_capacity(keys.len());
        for key in keys {
            let mut operation =
                Operation::new(OperationKind::Read, &table.schema, key.clone()).map_err(Error::from)?;
            operation.before = Columns::List(columns.to_vec());
            operation.lock = lock;
            operations.push(operation);
        }
        let (results, _held) = match &self.open {
            Some(_) => self.in_open(&operations, End::Stay).await.map_err(|failure| failure.error)?,
            None => {
                // Without a transaction a lock would be let go at once.
                operations.iter_mut().for_each(|operation| operation.lock = LockMode::None);
                self.alone(&operations).await
            }
        };
        let mut found = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let result = results.get(index).map_err(|failure| failure.error.clone())?;
            if let Some(row) = rows::row(table, columns, result)? {
                found.push((key.clone(), row));
            }
        }
        Ok(found)
    }

    /// A scan of the rows for which the filter may hold, with these columns and those of the key.
    pub(super) fn scan(
        &mut self,
        table: &BoundTable,
        filter: Option<&Expr>,
        access: &Access,
        columns: &[u16],
        enough: Option<u64>,
        context: &Context<'_>,
    ) -> Result<Scan, SqlError> {
        if let Some(open) = &self.open
            && open.isolation == Isolation::Serializable
        {
            return Err(SqlError::not_supported("a scan in a SERIALIZABLE transaction"));
        }
        let mut conditions = FilterBuilder::new();
        let pushed = push(table, filter, context, &mut conditions)?;
        let written = match &self.open {
            Some(open) => open.written(table.schema.id)?,
            None => BTreeSet::new(),
        };
        let mut all = columns.to_vec();
        all.extend(&table.schema.primary_key);
        all.sort_unstable();
        all.dedup();
        let enough = enough.filter(|_| pushed == Pushed::All && written.is_empty());
        let limit = enough.map_or(0, |enough| enough.max(1));
        let mut steps = Steps::new(self.handle(), &table.schema, &all, &conditions, limit, 0);
        if let Access::Ranges(ranges) = access {
            let partitions = self.handle().tables().newest().partitions;
            steps = steps.by_index(scan::Ranges {
                index: table.schema.indexes[ranges.index].id,
                ranges: ranges.ranges.clone(),
                descending: ranges.descending,
                partition: ranges.hash.map(|hash| hash.partition(partitions)),
            });
        }
        let found = matches!(access, Access::Ranges(_)).then(Default::default);
        Ok(Scan { steps, columns: all, written, own_done: false, found })
    }

    /// The keys of more rows that a scan finds: those that the transaction has written come last, whatever has become of them.
    pub(super) async fn next_keys(
        &mut self,
        scan: &mut Scan,
        table: &BoundTable,
    ) -> Result<Option<Vec<Vec<u8>>>, SqlError> {
        let step = scan.steps.next().await.map_err(|failure| failure.error)?;
        let Some(Step { rows: results, count, held: _held }) = step else {
            if std::mem::replace(&mut scan.own_done, true) {
                return Ok(None);
            }
            return Ok(Some(scan.written.iter().cloned().collect()));
        };
        let mut keys = Vec::with_capacity(count);
        for result in results.iter().take(count) {
            let key = rows::key(table, &scan.columns, result.map_err(|failure| failure.error.clone())?)?;
            if !scan.written.contains(&key) && scan.is_new(&key)? {
                keys.push(key);
            }
        }
        tokio::task::consume_budget().await;
        Ok(Some(keys))
    }
}

/// Rows of a table that are being read.
pub(super) struct Reading {
    keys: VecDeque<Vec<u8>>,
    unique: Option<Unique>,
    scan: Option<Scan>,
    columns: Vec<u16>,
    lock: LockMode,
}

impl Reading {
    /// Whether rows that are found by a scan are read again, with locks.
    fn locks(&self, runner: &Runner) -> bool {
        self.lock != LockMode::None && runner.open.is_some()
    }
}

/// A scan under way.
pub(super) struct Scan {
    steps: Steps,
    columns: Vec<u16>,
    /// Keys of which the scan does not see what the transaction has made of them.
    written: BTreeSet<Vec<u8>>,
    own_done: bool,
    /// Of a scan by index whose rows are read again: the keys that it has found, and their bytes. A row that moves in the index
    /// meanwhile is found twice.
    found: Option<(BTreeSet<Vec<u8>>, usize)>,
}

impl Scan {
    /// Whether this key was not found before.
    fn is_new(&mut self, key: &[u8]) -> Result<bool, SqlError> {
        let Some((found, bytes)) = &mut self.found else { return Ok(true) };
        *bytes += key.len();
        gather::check_kept(*bytes)?;
        Ok(found.insert(key.to_vec()))
    }
}
