//! SELECT: by keys, or by a scan.

use std::collections::BTreeSet;

use twofold_apinode::{
    request::{End, Isolation},
    sql::{
        bind::{BoundTable, Select},
        error::SqlError,
        expression::{Context, Expr},
        gather::{self, Gather},
        plan::{Access, Pushed, Wish, access, push, rows},
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

/// What takes in the rows of a SELECT.
struct Sink<'s, 'o, 'c> {
    gather: Gather<'s>,
    columns: Vec<ResultColumn>,
    output: Option<&'o mut Output<'c>>,
    /// Without an output rows are kept.
    kept: Vec<Vec<Datum>>,
}

impl Sink<'_, '_, '_> {
    async fn take(&mut self, row: &[Datum]) -> Result<(), Stop> {
        if let Some(row) = self.gather.push(row)? {
            self.give(row).await?;
        }
        Ok(())
    }

    async fn give(&mut self, row: Vec<Datum>) -> Result<(), Stop> {
        match &mut self.output {
            Some(output) => output.row(&self.columns, &row).await,
            None => {
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
        let columns = select.columns(context.parameters);
        // What is found to be wrong before the first row is an error without columns.
        let gather = Gather::new(select, context)?;
        output.begin(&columns);
        let mut sink = Sink { gather, columns, output: Some(output), kept: Vec::new() };
        self.fill(select, context, &mut sink).await?;
        let Sink { gather, columns, output, .. } = sink;
        if let Some(output) = output {
            for row in gather.finish()? {
                output.row(&columns, &row).await?;
            }
        }
        Ok(())
    }

    /// The rows of a SELECT that is a part of another statement.
    pub(super) async fn selected(
        &mut self,
        select: &Select,
        context: &Context<'_>,
    ) -> Result<Vec<Vec<Datum>>, Stop> {
        let gather = Gather::new(select, context)?;
        let mut sink = Sink { gather, columns: Vec::new(), output: None, kept: Vec::new() };
        self.fill(select, context, &mut sink).await?;
        let Sink { gather, mut kept, .. } = sink;
        kept.extend(gather.finish()?);
        Ok(kept)
    }

    async fn fill(
        &mut self,
        select: &Select,
        context: &Context<'_>,
        sink: &mut Sink<'_, '_, '_>,
    ) -> Result<(), Stop> {
        let Some(table) = &select.table else {
            return sink.take(&[]).await;
        };
        self.touch(false)?;
        if sink.gather.is_full() {
            return Ok(());
        }
        let needed = rows::needed_by(select);
        let wish = Wish::of(select);
        let access = access(table, select.filter.as_ref(), &wish, context)?;
        match &access {
            Access::Keys(keys) => {
                for keys in keys.chunks(KEYS_AT_ONCE) {
                    for (_, row) in self.read(table, keys, &needed, select.lock).await? {
                        sink.take(&row).await?;
                    }
                    if sink.gather.is_full() {
                        break;
                    }
                }
                Ok(())
            }
            _ if select.lock != LockMode::None && self.open.is_some() => {
                let mut scan = self.scan(table, select.filter.as_ref(), &access, &[], None, context)?;
                while let Some(found) = self.next_keys(&mut scan, table).await? {
                    for keys in found.chunks(KEYS_AT_ONCE) {
                        for (_, row) in self.read(table, keys, &needed, select.lock).await? {
                            sink.take(&row).await?;
                        }
                    }
                    if sink.gather.is_full() {
                        break;
                    }
                }
                Ok(())
            }
            _ => self.scan_into(table, select, (&access, &wish), &needed, context, sink).await,
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

    async fn scan_into(
        &mut self,
        table: &BoundTable,
        select: &Select,
        (access, wish): (&Access, &Wish),
        needed: &[u16],
        context: &Context<'_>,
        sink: &mut Sink<'_, '_, '_>,
    ) -> Result<(), Stop> {
        let written = match &self.open {
            Some(open) => open.has_written(table.schema.id)?,
            None => false,
        };
        // What the transaction itself has written comes last, in no order.
        if matches!(access, Access::Ranges(ranges) if ranges.ordered) && !written {
            sink.gather.in_order(wish);
        }
        let enough = sink.gather.enough();
        let mut scan = self.scan(table, select.filter.as_ref(), access, needed, enough, context)?;
        while let Some(Step { rows: results, count, held: _held }) =
            scan.steps.next().await.map_err(|failure| failure.error)?
        {
            for result in results.iter().take(count) {
                let result = result.map_err(|failure| failure.error.clone())?;
                let Some(row) = rows::row(table, &scan.columns, result)? else { continue };
                let written = !scan.written.is_empty()
                    && scan.written.contains(&rows::key(table, &scan.columns, result)?);
                if !written {
                    sink.take(&row).await?;
                }
            }
            if sink.gather.is_full() {
                return Ok(());
            }
            // Rows that are judged here take time that others want, too.
            tokio::task::consume_budget().await;
        }
        let own: Vec<Vec<u8>> = scan.written.into_iter().collect();
        for keys in own.chunks(KEYS_AT_ONCE) {
            for (_, row) in self.read(table, keys, needed, LockMode::None).await? {
                sink.take(&row).await?;
            }
        }
        Ok(())
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
