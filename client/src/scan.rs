//! Scans: partition after partition, some at a time, or range after range of an ordered index; no faster than they are read.

use std::{
    collections::VecDeque,
    ops::{Bound, Range},
    sync::Arc,
    time::Duration,
    vec,
};

use twofold_apinode::request::{Answer, Failure, RangeStep, Request, Results};
use twofold_proto::{
    error::{self, ErrorCode},
    filter::{FILTER_DEPTH_MAX, FilterBuilder},
    ids::{IndexId, PartitionId},
    index::EntryRange,
    operation::{BodyRef, Projection, ResultRef},
    schema::Schema,
    value::{Value, ValueRef},
    wire::Reader,
};

use crate::{
    assemble::{columns, distribution_key},
    cluster::Cluster,
    error::Error,
    handle::{Handle, Held, Pending},
    operation::{Condition, Table, owned},
    row::Row,
};

/// Partitions that are asked for rows at a time.
const AHEAD: usize = 8;

/// What a scan by index goes through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ranges {
    /// The index.
    pub index: IndexId,
    /// Ranges of it, none of which overlap, in its order.
    pub ranges: Vec<EntryRange>,
    /// The last row of the last range comes first.
    pub descending: bool,
    /// Only rows of this partition.
    pub partition: Option<PartitionId>,
}

/// The steps of a scan: each is some rows of one partition, in no order, or the next ones of an index.
#[derive(Debug)]
pub struct Steps {
    handle: Handle,
    schema: Arc<Schema>,
    program: Vec<u8>,
    /// Rows that may yet be returned.
    left: u64,
    batch: u32,
    /// Of each step.
    deadline: Option<Duration>,
    partitions: Range<u16>,
    ahead: VecDeque<(PartitionId, Pending)>,
    /// Of a scan by index: what is left.
    ranges: Option<Ranges>,
}

/// Rows that a scan has found.
#[derive(Debug)]
pub struct Step {
    /// A result for each row, with the columns that were asked for.
    pub rows: Results,
    /// How many of them count: the others are beyond the limit.
    pub count: usize,
    /// To be kept until the rows are used.
    pub held: Option<Held>,
}

impl Steps {
    /// A scan that returns these columns of at most `limit` rows for which the filter holds, at most `batch` of them in a
    /// step. 0 is no limit.
    pub fn new(
        handle: &Handle,
        schema: &Arc<Schema>,
        columns: &[u16],
        filter: &FilterBuilder,
        limit: u64,
        batch: u32,
    ) -> Steps {
        let list: Vec<u8> = columns.iter().flat_map(|index| index.to_le_bytes()).collect();
        let mut program = Vec::new();
        let before = Projection::Columns(&list);
        BodyRef { conditions: filter.filter(), before, ..BodyRef::default() }.encode(&mut program);
        Steps {
            handle: handle.clone(),
            schema: schema.clone(),
            program,
            left: if limit == 0 { u64::MAX } else { limit },
            batch,
            deadline: None,
            partitions: 0..handle.tables().newest().partitions,
            ahead: VecDeque::new(),
            ranges: None,
        }
    }

    /// The same of the rows in ranges of an index, in its order.
    #[must_use]
    pub fn by_index(self, ranges: Ranges) -> Steps {
        Steps { ranges: Some(ranges), ..self }
    }

    /// The next step, which may have no rows; `None`: there are no more. Where this is dropped while it waits, rows are
    /// lost.
    ///
    /// # Errors
    /// What a partition's node has said.
    pub async fn next(&mut self) -> Result<Option<Step>, Failure> {
        if self.left == 0 {
            return Ok(None);
        }
        if let Some(ranges) = self.ranges.take() {
            return self.next_of(ranges).await;
        }
        while self.ahead.len() < AHEAD
            && let Some(partition) = self.partitions.next().map(PartitionId)
        {
            let pending = self.ask(partition, 0).await;
            self.ahead.push_back((partition, pending));
        }
        let Some((partition, pending)) = self.ahead.pop_front() else { return Ok(None) };
        match pending.delivery().await {
            (Answer::Scan { cursor, rows }, held) => {
                if let Some(cursor) = cursor {
                    let pending = self.ask(partition, cursor).await;
                    self.ahead.push_back((partition, pending));
                }
                // Steps that are under way together do not know of each other's rows.
                let count = self.left.min(rows.len() as u64);
                self.left -= count;
                Ok(Some(Step { rows, count: count as usize, held }))
            }
            (Answer::Failed(failure), _) => Err(failure),
            (other, _) => {
                let text = format!("a scan was answered with {other:?}");
                Err(error::Error::new(ErrorCode::Internal, text).into())
            }
        }
    }

    /// The next step of a scan by index.
    async fn next_of(&mut self, mut ranges: Ranges) -> Result<Option<Step>, Failure> {
        let next = if ranges.descending { ranges.ranges.last_mut() } else { ranges.ranges.first_mut() };
        let Some(range) = next else {
            self.ranges = Some(ranges);
            return Ok(None);
        };
        let step = RangeStep {
            table: self.schema.id,
            schema_version: self.schema.version,
            index: ranges.index,
            partition: ranges.partition,
            range: range.clone(),
            descending: ranges.descending,
            rows: self.rows(),
            program: self.program.clone(),
            deadline: self.deadline,
        };
        let (answer, held) = self.handle.begin(Request::RangeStep(step)).await.delivery().await;
        let (rest, rows) = match answer {
            Answer::Range { rest, rows } => (rest, rows),
            Answer::Failed(failure) => return Err(failure),
            other => {
                let text = format!("a scan by index was answered with {other:?}");
                return Err(error::Error::new(ErrorCode::Internal, text).into());
            }
        };
        match rest {
            Some(rest) => *range = rest,
            None if ranges.descending => drop(ranges.ranges.pop()),
            None => drop(ranges.ranges.remove(0)),
        }
        self.ranges = Some(ranges);
        let count = self.left.min(rows.len() as u64);
        self.left -= count;
        Ok(Some(Step { rows, count: count as usize, held }))
    }

    /// How many rows to ask for.
    fn rows(&self) -> u32 {
        match u32::try_from(self.left) {
            Ok(left) if self.batch == 0 => left,
            Ok(left) => left.min(self.batch),
            Err(_) => self.batch,
        }
    }

    async fn ask(&self, partition: PartitionId, cursor: u64) -> Pending {
        let rows = self.rows();
        let step = Request::ScanStep {
            table: self.schema.id,
            schema_version: self.schema.version,
            partition,
            cursor,
            rows,
            program: self.program.clone(),
            deadline: self.deadline,
        };
        self.handle.begin(step).await
    }
}

/// What a scan by index is to go through, by names and values.
#[derive(Clone, Debug)]
struct ByIndex {
    name: String,
    equal: Vec<Value>,
    lower: Bound<Value>,
    upper: Bound<Value>,
    descending: bool,
}

impl ByIndex {
    fn ranges(&self, schema: &Schema, partitions: u16) -> Result<Ranges, Error> {
        let found = schema.indexes.iter().find(|index| index.name.eq_ignore_ascii_case(&self.name));
        let missing = || {
            let text = format!("table `{}` has no index `{}`", schema.name, self.name);
            Error::new(ErrorCode::BadColumn, text)
        };
        let index = found.ok_or_else(missing)?;
        let equal: Vec<ValueRef<'_>> = self.equal.iter().map(Value::borrowed).collect();
        let range = EntryRange::new(schema, index, &equal, self.lower.as_ref(), self.upper.as_ref())
            .map_err(|refusal| Error::from(refusal.error(schema, None)))?;
        // Where the values fix the columns that place rows, one partition has them all.
        let fixed = |column: &u16| {
            let mut columns = index.columns.iter().chain(&schema.primary_key);
            equal.get(columns.position(|of| of == column)?).cloned()
        };
        let placing: Option<Vec<ValueRef<'_>>> = schema.distribution_key.iter().map(fixed).collect();
        let hash = placing.map(|values| distribution_key(schema, &values)).transpose()?;
        Ok(Ranges {
            index: index.id,
            ranges: vec![range],
            descending: self.descending,
            partition: hash.map(|hash| hash.partition(partitions)),
        })
    }
}

/// A scan of a table's committed rows, before it runs.
#[derive(Clone, Debug)]
#[must_use = "a scan does nothing until it is run"]
pub struct Scan {
    cluster: Cluster,
    table: Table,
    columns: Vec<String>,
    conditions: Vec<Condition>,
    limit: u64,
    by_index: Option<ByIndex>,
}

impl Scan {
    pub(crate) fn new(cluster: Cluster, table: &Table) -> Scan {
        let (columns, conditions) = (Vec::new(), Vec::new());
        Scan { cluster, table: table.clone(), columns, conditions, limit: 0, by_index: None }
    }

    /// Goes through an ordered index, in its order: through the rows whose first columns there, and then the primary key's,
    /// have these values, in all of them without any. Where they fix the columns that place rows, one worker is asked.
    pub fn by_index<'v>(self, name: &str, equal: impl IntoIterator<Item = impl Into<ValueRef<'v>>>) -> Scan {
        let equal = equal.into_iter().map(|value| value.into().into_owned()).collect();
        let (lower, upper) = (Bound::Unbounded, Bound::Unbounded);
        let by_index = ByIndex { name: name.into(), equal, lower, upper, descending: false };
        Scan { by_index: Some(by_index), ..self }
    }

    /// Of a scan by index: the next column is not less than this.
    pub fn from<'v>(mut self, value: impl Into<ValueRef<'v>>) -> Scan {
        if let Some(by_index) = &mut self.by_index {
            by_index.lower = Bound::Included(value.into().into_owned());
        }
        self
    }

    /// Of a scan by index: the next column is less than this.
    pub fn before<'v>(mut self, value: impl Into<ValueRef<'v>>) -> Scan {
        if let Some(by_index) = &mut self.by_index {
            by_index.upper = Bound::Excluded(value.into().into_owned());
        }
        self
    }

    /// Of a scan by index: the last row comes first.
    pub fn descending(mut self) -> Scan {
        if let Some(by_index) = &mut self.by_index {
            by_index.descending = true;
        }
        self
    }

    /// Returns these columns; all, if there are none.
    pub fn columns<'n>(self, names: impl IntoIterator<Item = &'n str>) -> Scan {
        Scan { columns: owned(names), ..self }
    }

    /// Only rows for which this holds, too. It is looked at where the rows are.
    pub fn when(mut self, condition: Condition) -> Scan {
        self.conditions.push(condition);
        self
    }

    /// At most so many rows.
    pub fn limit(self, rows: u64) -> Scan {
        Scan { limit: rows, ..self }
    }

    /// Runs it. The cluster's deadline is that of each step, not of the scan.
    ///
    /// # Errors
    /// If it names columns or values that the table does not have.
    pub fn rows(self) -> Result<Rows, Error> {
        let schema = &self.table.0;
        let columns = columns(schema, &self.columns)?;
        let mut filter = FilterBuilder::new();
        for condition in &self.conditions {
            condition.build(schema, &mut filter, FILTER_DEPTH_MAX)?;
        }
        let handle = self.cluster.handle();
        let mut steps = Steps::new(handle, schema, &columns, &filter, self.limit, 0);
        if let Some(by_index) = &self.by_index {
            steps = steps.by_index(by_index.ranges(schema, handle.tables().newest().partitions)?);
        }
        steps.deadline = self.cluster.options().deadline;
        Ok(Rows {
            steps,
            schema: schema.clone(),
            columns: columns.into(),
            ready: Vec::new().into_iter(),
            held: None,
        })
    }
}

/// The rows of a scan: by index in its order, else in none. One that is there throughout comes exactly once. Some are fetched ahead; where nobody
/// asks for more, no more are.
#[derive(Debug)]
pub struct Rows {
    steps: Steps,
    schema: Arc<Schema>,
    columns: Arc<[u16]>,
    ready: vec::IntoIter<Row>,
    /// For the rows that are ready.
    held: Option<Held>,
}

impl Rows {
    /// The next row; `None`: there are no more. Where this is dropped while it waits, rows are lost.
    ///
    /// # Errors
    /// What a data node has said; the scan is over then.
    pub async fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            if let Some(row) = self.ready.next() {
                return Ok(Some(row));
            }
            self.held = None;
            let Some(Step { rows, count, held }) = self.steps.next().await? else { return Ok(None) };
            self.held = held;
            let row = |result: Result<&[u8], &Failure>| {
                let bytes = result.map_err(|failure| failure.error.clone())?;
                let result = ResultRef::parse(&mut Reader::new(bytes, "scanned row"))?;
                let nothing = || error::Error::new(ErrorCode::Internal, "a scanned row is empty");
                Row::new(&self.schema, &self.columns, &result.before.ok_or_else(nothing)?)
            };
            let ready: Vec<Row> = rows.iter().take(count).map(row).collect::<Result<_, _>>()?;
            self.ready = ready.into_iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::NewTable;
    use twofold_proto::schema::{Column, ColumnType};

    /// Orders, placed by their shop; by customer.
    fn orders() -> Schema {
        let column = |name| Column::new(name, ColumnType::I32);
        let table =
            NewTable::new("orders").column(column("shop")).column(column("id")).column(column("customer"));
        let table = table.primary_key(["shop", "id"]).distribution_key(["shop"]).index("by_key", []);
        Schema::new(table.index("by_customer", ["customer"]).checked().unwrap()).unwrap()
    }

    fn by_index(name: &str, equal: &[i32]) -> ByIndex {
        let equal = equal.iter().map(|&value| value.into()).collect();
        ByIndex {
            name: name.into(),
            equal,
            lower: Bound::Unbounded,
            upper: Bound::Unbounded,
            descending: false,
        }
    }

    #[test]
    fn an_index_is_gone_through_where_its_rows_can_be() {
        let schema = orders();
        let ranges = |by_index: &ByIndex| by_index.ranges(&schema, 100).unwrap();
        // All shops; those of one, which is first in the key; and last in what the other index has been fixed to.
        assert_eq!(ranges(&by_index("BY_KEY", &[])).partition, None);
        let of_shop = ranges(&by_index("by_key", &[7]));
        assert!(of_shop.partition.is_some());
        assert_eq!(ranges(&by_index("by_customer", &[1])).partition, None);
        assert_eq!(ranges(&by_index("by_customer", &[1, 7])).partition, of_shop.partition);
        let upper = Bound::Excluded(Value::Int(5));
        let below =
            ranges(&ByIndex { lower: Bound::Included(Value::Int(3)), upper, ..by_index("by_key", &[7]) });
        assert_ne!(below.ranges, of_shop.ranges);
        assert_eq!(below.partition, of_shop.partition);
    }

    #[test]
    fn what_is_wrong_with_an_index_is_named() {
        let wrong = |by_index: ByIndex| by_index.ranges(&orders(), 100).unwrap_err().to_string();
        assert!(wrong(by_index("by_name", &[])).contains("no index `by_name`"));
        assert!(!wrong(by_index("by_key", &[1, 2, 3])).is_empty());
        let missing = NewTable::new("t").column(Column::new("id", ColumnType::I32)).primary_key(["id"]);
        let error = missing.index("i", ["x"]).checked().unwrap_err().to_string();
        assert!(error.contains("index `i`: there is no column `x`"), "{error}");
    }
}
