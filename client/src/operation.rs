//! Operations, put together by names.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use twofold_proto::{
    error::{self, ErrorCode},
    filter::{Comparison, FILTER_DEPTH_MAX, FilterBuilder},
    ids::Version,
    operation::{Change, LockMode, OperationKind},
    schema::{self, Column, Schema},
    time::ClusterTime,
    value::{Value, ValueRef},
};

use crate::assemble::{self, Assembly, column, compare};
use OperationKind::{Delete, Insert, Read, Update, Write};

/// A table, as it was when [`Cluster::table`](crate::Cluster::table) was asked for it.
#[derive(Clone, Debug)]
pub struct Table(pub(crate) Arc<Schema>);

impl Table {
    /// Its name, columns and keys.
    pub fn definition(&self) -> &schema::Table {
        self.0.table()
    }

    /// Reads a row. A row that is not there is no error. The key has the primary key's columns, in its order.
    pub fn read<'v>(&self, key: impl IntoIterator<Item = impl Into<ValueRef<'v>>>) -> Operation {
        self.of_key(OperationKind::Read, key).then(|assembly| assembly.before(&[]))
    }

    /// Inserts a row: an error if there is one. Columns that are not named take their default.
    pub fn insert<'v>(&self, row: impl IntoIterator<Item = (&'v str, ValueRef<'v>)>) -> Operation {
        self.of_row(OperationKind::Insert, row)
    }

    /// Puts a row, whether there is one or not. With assignments, a row that is there is not replaced, but changed so.
    pub fn write<'v>(&self, row: impl IntoIterator<Item = (&'v str, ValueRef<'v>)>) -> Operation {
        self.of_row(OperationKind::Write, row)
    }

    /// Changes a row, by [`Operation::set`] and the like: an error if there is none.
    pub fn update<'v>(&self, key: impl IntoIterator<Item = impl Into<ValueRef<'v>>>) -> Operation {
        self.of_key(OperationKind::Update, key)
    }

    /// Deletes a row: an error if there is none.
    pub fn delete<'v>(&self, key: impl IntoIterator<Item = impl Into<ValueRef<'v>>>) -> Operation {
        self.of_key(OperationKind::Delete, key)
    }

    fn of_key<'v>(
        &self,
        kind: OperationKind,
        key: impl IntoIterator<Item = impl Into<ValueRef<'v>>>,
    ) -> Operation {
        let values: Vec<ValueRef<'v>> = key.into_iter().map(Into::into).collect();
        Operation(assemble::key(&self.0, &values).and_then(|key| Assembly::new(kind, &self.0, key)))
    }

    fn of_row<'v>(
        &self,
        kind: OperationKind,
        row: impl IntoIterator<Item = (&'v str, ValueRef<'v>)>,
    ) -> Operation {
        Operation(Assembly::of_row(kind, &self.0, row.into_iter().map(Ok)))
    }
}

/// A table to be created.
///
/// ```
/// use twofold_client::{Column, ColumnType, NewTable};
///
/// let fruit = NewTable::new("fruit")
///     .column(Column::new("name", ColumnType::Text { max_chars: 30 }))
///     .column(Column::new("price", ColumnType::I32).nullable())
///     .primary_key(["name"]);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a table is created by `Cluster::create_table`"]
pub struct NewTable {
    name: String,
    columns: Vec<Column>,
    primary_key: Vec<String>,
    distribution_key: Vec<String>,
    indexes: Vec<(String, Vec<String>, bool)>,
}

impl NewTable {
    /// One of this name, without columns.
    pub fn new(name: impl Into<String>) -> NewTable {
        NewTable {
            name: name.into(),
            columns: Vec::new(),
            primary_key: Vec::new(),
            distribution_key: Vec::new(),
            indexes: Vec::new(),
        }
    }

    /// With another column.
    pub fn column(mut self, column: Column) -> NewTable {
        self.columns.push(column);
        self
    }

    /// The primary key's columns, in its order.
    pub fn primary_key<'n>(self, names: impl IntoIterator<Item = &'n str>) -> NewTable {
        NewTable { primary_key: owned(names), ..self }
    }

    /// Columns of the primary key, in its order: rows equal in them are stored together. Without them it is all of it.
    pub fn distribution_key<'n>(self, names: impl IntoIterator<Item = &'n str>) -> NewTable {
        NewTable { distribution_key: owned(names), ..self }
    }

    /// With an ordered index of this name over these columns, which [`Scan::by_index`](crate::Scan::by_index) goes through: of
    /// none where the primary key itself is to be ordered. The primary key's columns follow on those that are named.
    pub fn index<'n>(
        mut self,
        name: impl Into<String>,
        columns: impl IntoIterator<Item = &'n str>,
    ) -> NewTable {
        self.indexes.push((name.into(), owned(columns), false));
        self
    }

    /// Likewise with a unique one: a write that would give two rows the same values in these columns, none of them NULL, fails with
    /// [`ErrorCode::DuplicateEntry`]. Rows of such a table cannot expire.
    pub fn unique<'n>(
        mut self,
        name: impl Into<String>,
        columns: impl IntoIterator<Item = &'n str>,
    ) -> NewTable {
        self.indexes.push((name.into(), owned(columns), true));
        self
    }

    pub(crate) fn checked(self) -> Result<schema::Table, error::Error> {
        let mut table = assemble::table(self.name, self.columns, &self.primary_key, &self.distribution_key)?;
        let bad = |text: String| error::Error::new(ErrorCode::BadTable, text);
        for (name, columns, unique) in self.indexes {
            let place = |key: &String| {
                let found = table.columns.iter().position(|column| column.name.eq_ignore_ascii_case(key));
                let missing =
                    || bad(format!("table `{}`: index `{name}`: there is no column `{key}`", table.name));
                found.map(|place| place as u16).ok_or_else(missing)
            };
            let columns = columns.iter().map(place).collect::<Result<Vec<u16>, _>>()?;
            let index = if unique { schema::Index::unique } else { schema::Index::new };
            table.indexes.push(index(name, columns));
        }
        table.check().map_err(|invalid| bad(invalid.0))?;
        Ok(table)
    }
}

/// The lock that a read takes, until its transaction ends. Writes always lock.
pub type Lock = LockMode;

/// One operation on one row. What is wrong with it is said when it is run.
#[derive(Clone, Debug)]
#[must_use = "an operation does nothing until it is run"]
pub struct Operation(pub(crate) Result<Assembly, error::Error>);

impl Operation {
    /// A part that operations of these kinds alone have.
    fn part(
        self,
        kinds: &[OperationKind],
        part: &str,
        change: impl FnOnce(&mut Assembly) -> Result<(), error::Error>,
    ) -> Operation {
        self.then(|assembly| match kinds.contains(&assembly.shape.kind) {
            true => change(assembly),
            false => {
                let text = format!("an operation of kind {:?} has no {part}", assembly.shape.kind);
                Err(error::Error::new(ErrorCode::Malformed, text))
            }
        })
    }

    fn assign(self, column: &str, change: Change<'_>) -> Operation {
        self.part(&[Update, Write], "assignments", |assembly| assembly.assign(column, change))
    }

    fn then(mut self, change: impl FnOnce(&mut Assembly) -> Result<(), error::Error>) -> Operation {
        if let Ok(assembly) = &mut self.0
            && let Err(error) = change(assembly)
        {
            self.0 = Err(error);
        }
        self
    }

    /// Of a read: returns these columns; all, if there are none.
    pub fn columns<'n>(self, names: impl IntoIterator<Item = &'n str>) -> Operation {
        self.returning_old(names)
    }

    /// Returns these columns of the row as it was; all, if there are none.
    pub fn returning_old<'n>(self, names: impl IntoIterator<Item = &'n str>) -> Operation {
        self.part(&[Read, Update, Write, Delete], "row as it was", |assembly| assembly.before(&owned(names)))
    }

    /// Returns these columns of the row as it becomes; all, if there are none.
    pub fn returning_new<'n>(self, names: impl IntoIterator<Item = &'n str>) -> Operation {
        self.part(&[Insert, Update, Write], "row as it becomes", |assembly| assembly.after(&owned(names)))
    }

    /// Returns version and expiry of the row as it was.
    pub fn returning_version(self) -> Operation {
        self.part(&[Read, Update, Write, Delete], "version of the row as it was", |assembly| {
            assembly.operation.version = true;
            Ok(())
        })
    }

    /// Of a read in a transaction: locks the row.
    pub fn lock(self, lock: Lock) -> Operation {
        self.part(&[Read], "choice of locks", |assembly| {
            assembly.operation.lock = lock;
            Ok(())
        })
    }

    /// Only if this holds, too; else it is [`ErrorCode::ConditionFalse`].
    pub fn when(self, condition: Condition) -> Operation {
        self.part(&[Read, Update, Write, Delete], "conditions", |assembly| {
            let mut all = assembly.operation.conditions.clone();
            condition.build(&assembly.shape.schema, &mut all, FILTER_DEPTH_MAX)?;
            assembly.conditions(all);
            Ok(())
        })
    }

    /// The column takes this value.
    pub fn set<'v>(self, column: &str, value: impl Into<ValueRef<'v>>) -> Operation {
        self.assign(column, Change::Set(value.into()))
    }

    /// This number, which may be negative, is added to the column.
    pub fn add<'v>(self, column: &str, value: impl Into<ValueRef<'v>>) -> Operation {
        self.assign(column, Change::Add(value.into()))
    }

    /// This text, or these bytes, are added at the column's end.
    pub fn append<'v>(self, column: &str, value: impl Into<ValueRef<'v>>) -> Operation {
        self.assign(column, Change::Append(value.into()))
    }

    /// This text, or these bytes, are added at the column's front.
    pub fn prepend<'v>(self, column: &str, value: impl Into<ValueRef<'v>>) -> Operation {
        self.assign(column, Change::Prepend(value.into()))
    }

    /// Of a write: the row disappears in this time from now on, by the clock of this machine.
    pub fn expire_in(self, time: Duration) -> Operation {
        self.expire_at(SystemTime::now() + time)
    }

    /// Of a write: when the row disappears, by the cluster's clock.
    pub fn expire_at(self, at: SystemTime) -> Operation {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.part(&[Insert, Update, Write], "expiry", |assembly| {
            assembly.operation.expiry =
                Some(ClusterTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)));
            Ok(())
        })
    }
}

pub(crate) fn owned<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
    names.into_iter().map(String::from).collect()
}

/// A condition on a row. Comparisons with NULL do not hold.
#[derive(Clone, PartialEq, Debug)]
pub struct Condition(Kind);

#[derive(Clone, PartialEq, Debug)]
enum Kind {
    Compare(String, Comparison, Value),
    IsNull(String),
    IsNotNull(String),
    Exists(bool),
    Version(Comparison, Version),
    All(Vec<Condition>),
    Any(Vec<Condition>),
}

impl Condition {
    /// The column compares so with the value.
    pub fn compare<'v>(column: &str, comparison: Comparison, value: impl Into<ValueRef<'v>>) -> Condition {
        Condition(Kind::Compare(column.into(), comparison, value.into().into_owned()))
    }

    /// The column is NULL.
    pub fn is_null(column: &str) -> Condition {
        Condition(Kind::IsNull(column.into()))
    }

    /// The column is not NULL.
    pub fn is_not_null(column: &str) -> Condition {
        Condition(Kind::IsNotNull(column.into()))
    }

    /// There is a row, or there is none.
    pub fn exists(exists: bool) -> Condition {
        Condition(Kind::Exists(exists))
    }

    /// The row's version compares so.
    pub fn version(comparison: Comparison, version: Version) -> Condition {
        Condition(Kind::Version(comparison, version))
    }

    /// All of these hold.
    pub fn all(conditions: impl IntoIterator<Item = Condition>) -> Condition {
        Condition(Kind::All(conditions.into_iter().collect()))
    }

    /// One of these holds at least.
    pub fn any(conditions: impl IntoIterator<Item = Condition>) -> Condition {
        Condition(Kind::Any(conditions.into_iter().collect()))
    }

    pub(crate) fn build(
        &self,
        schema: &Schema,
        filter: &mut FilterBuilder,
        depth: usize,
    ) -> Result<(), error::Error> {
        let inner = |list: &[Condition]| {
            let text = || format!("conditions are nested deeper than {FILTER_DEPTH_MAX}");
            let depth =
                depth.checked_sub(1).ok_or_else(|| error::Error::new(ErrorCode::Malformed, text()))?;
            let mut inner = FilterBuilder::new();
            list.iter().try_for_each(|condition| condition.build(schema, &mut inner, depth))?;
            Ok::<_, error::Error>(inner)
        };
        match &self.0 {
            Kind::Compare(name, comparison, value) => compare(filter, schema, name, *comparison, value)?,
            Kind::IsNull(name) => drop(filter.is_null(column(schema, name)?)),
            Kind::IsNotNull(name) => drop(filter.is_not_null(column(schema, name)?)),
            Kind::Exists(true) => drop(filter.exists()),
            Kind::Exists(false) => drop(filter.absent()),
            Kind::Version(comparison, version) => drop(filter.version(*comparison, *version)),
            Kind::All(list) => {
                let inner = inner(list)?;
                filter.all(|all| {
                    *all = inner;
                    all
                });
            }
            Kind::Any(list) => {
                let inner = inner(list)?;
                filter.any(|any| {
                    *any = inner;
                    any
                });
            }
        }
        Ok(())
    }
}
