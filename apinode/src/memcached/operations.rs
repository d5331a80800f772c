//! Commands on items → operations on their rows.

use twofold_proto::{
    filter::{Comparison, FilterBuilder},
    ids::Version,
    operation::{
        Assignment, Assignments, BodyRef, Change, LockMode, OperationKind, OperationRef, Projection,
    },
    placement::KeyHash,
    row::encode_body_with,
    schema::ColumnType,
    time::ClusterTime,
    value::ValueRef,
};

use super::{
    command::Verb,
    item::Items,
    mark::{MARK_MAX, Mark, has_unique},
};
use crate::request::Operations;

/// A row that an operation is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub items: &'a Items,
    pub hash: KeyHash,
    /// Encoded.
    pub key: &'a [u8],
}

/// What is stored under a key.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Item<'a> {
    /// What the client keeps beside the value.
    pub flags: u32,
    /// When it expires; 0: never. Nothing: as before.
    pub expiry: Option<ClusterTime>,
    pub value: &'a [u8],
    pub mark: Mark,
}

/// What an item has to be for an operation to be done.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Conditions {
    pub unique: Option<u64>,
    pub version: Option<Version>,
}

/// What an operation tells of its row.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Told {
    #[default]
    Nothing,
    /// Flags and value.
    Item,
    /// Flags, mark, maybe the value; version and expiry. As they were.
    Before { value: bool },
    /// The value as it has become.
    NewValue,
    /// Flags, mark and value as they have become; version and expiry as they were.
    After,
}

/// Writes operations on items, one after the other.
#[derive(Debug, Default)]
pub(super) struct Builder {
    /// What was written.
    pub operations: Operations,
    // Kept for their capacity.
    row: Vec<u8>,
    body: Vec<u8>,
}

impl Builder {
    /// Reads an item.
    pub fn get(&mut self, row: Row<'_>, told: Told) {
        self.put(OperationKind::Read, row, BodyRef::default(), told);
    }

    /// Gives an item another expiry.
    pub fn touch(&mut self, row: Row<'_>, expiry: ClusterTime, told: Told) {
        self.put(OperationKind::Update, row, BodyRef { expiry: Some(expiry), ..BodyRef::default() }, told);
    }

    /// Marks an item.
    pub fn mark(&mut self, row: Row<'_>, mark: Mark, expiry: Option<ClusterTime>, only: Conditions) {
        self.update(row, expiry, only, Told::Nothing, |assignments| {
            assign_mark(row.items, mark, assignments)
        });
    }

    /// Changes an item by these assignments.
    fn update(
        &mut self,
        row: Row<'_>,
        expiry: Option<ClusterTime>,
        only: Conditions,
        told: Told,
        assign: impl FnOnce(&mut Vec<u8>),
    ) {
        let conditions = only.filter(row.items);
        let mut assignments = std::mem::take(&mut self.row);
        assignments.clear();
        assign(&mut assignments);
        let body = BodyRef {
            conditions: conditions.filter(),
            expiry,
            assignments: Some(Assignments(&assignments)),
            ..BodyRef::default()
        };
        self.put(OperationKind::Update, row, body, told);
        self.row = assignments;
    }

    /// Deletes an item.
    pub fn delete(&mut self, row: Row<'_>, only: Conditions) {
        let conditions = only.filter(row.items);
        let body = BodyRef { conditions: conditions.filter(), ..BodyRef::default() };
        self.put(OperationKind::Delete, row, body, Told::Nothing);
    }

    /// Counts an item's value up or down.
    ///
    /// # Errors
    /// That this is no value to count.
    pub fn count(
        &mut self,
        row: Row<'_>,
        (delta, down): (u64, bool),
        expiry: Option<ClusterTime>,
        mark: Mark,
        only: Conditions,
        told: Told,
    ) -> Result<(), Box<str>> {
        let (column, column_type) = row.items.single()?;
        let change = match (column_type, down) {
            (ColumnType::Text { .. } | ColumnType::Binary { .. }, false) => Change::Increment(delta),
            (ColumnType::Text { .. } | ColumnType::Binary { .. }, true) => Change::Decrement(delta),
            (_, false) => Change::Add(ValueRef::UInt(delta)),
            (_, true) => Change::Add(ValueRef::Int(0i64.checked_sub_unsigned(delta).unwrap_or(i64::MIN))),
        };
        self.update(row, expiry, only, told, |assignments| {
            Assignment { column, change }.encode(assignments);
            assign_mark(row.items, mark, assignments);
        });
        Ok(())
    }

    /// Stores an item. [`Verb::Cas`] is a [`Verb::Replace`] on a condition, here.
    ///
    /// # Errors
    /// That the table does not take this item.
    pub fn store(
        &mut self,
        row: Row<'_>,
        verb: Verb,
        item: Item<'_>,
        only: Conditions,
        told: Told,
    ) -> Result<(), Box<str>> {
        let appends = matches!(verb, Verb::Append | Verb::Prepend);
        if appends {
            row.items.single()?;
        }
        row.items.check(item.value, if appends { 0 } else { item.flags })?;
        let conditions = only.filter(row.items);
        let (mut new, mut assignments) = (std::mem::take(&mut self.row), Vec::new());
        new.clear();
        let mut body = BodyRef { conditions: conditions.filter(), expiry: item.expiry, ..BodyRef::default() };
        let kind = match verb {
            Verb::Set | Verb::Add => {
                item.encode_row(row.items, &mut new);
                body.row = Some(&new);
                if verb == Verb::Set && row.items.has_other_columns() {
                    item.encode_assignments(row.items, verb, &mut assignments);
                    body.assignments = Some(Assignments(&assignments));
                }
                if verb == Verb::Set { OperationKind::Write } else { OperationKind::Insert }
            }
            Verb::Replace | Verb::Cas(_) | Verb::Append | Verb::Prepend => {
                item.encode_assignments(row.items, verb, &mut new);
                body.assignments = Some(Assignments(&new));
                OperationKind::Update
            }
        };
        self.put(kind, row, body, told);
        self.row = new;
        Ok(())
    }

    #[inline]
    fn put(&mut self, kind: OperationKind, row: Row<'_>, body: BodyRef<'_>, told: Told) {
        let Row { items, hash, key } = row;
        let (before, after, version) = match told {
            Told::Nothing => (Projection::None, Projection::None, false),
            Told::Item => (Projection::Columns(items.columns(false, true)), Projection::None, false),
            Told::Before { value } => {
                (Projection::Columns(items.columns(true, value)), Projection::None, true)
            }
            Told::NewValue => (Projection::None, Projection::Columns(items.value_columns()), false),
            Told::After => (Projection::None, Projection::Columns(items.columns(true, true)), true),
        };
        self.body.clear();
        BodyRef { before, after, version, ..body }.encode(&mut self.body);
        let operation = OperationRef {
            kind,
            lock: if kind == OperationKind::Read { LockMode::None } else { LockMode::Exclusive },
            table: items.schema().id,
            schema_version: items.schema().version,
            hash,
            key,
            body: &self.body,
        };
        operation.encode(&mut self.operations.bytes);
        self.operations.count += 1;
    }
}

impl Conditions {
    /// That the item has this «cas unique».
    pub fn unique(unique: u64) -> Conditions {
        Conditions { unique: Some(unique), ..Conditions::default() }
    }

    fn filter(self, items: &Items) -> FilterBuilder {
        let mut conditions = FilterBuilder::new();
        if let Some(unique) = self.unique {
            has_unique(&mut conditions, items.mark, unique);
        }
        if let Some(version) = self.version {
            conditions.version(Comparison::Equal, version);
        }
        conditions
    }
}

impl Item<'_> {
    fn encode_row(&self, items: &Items, out: &mut Vec<u8>) {
        let mut buffer = [0; MARK_MAX];
        let mark = self.mark.value(&mut buffer);
        let value_of = |column: u16| {
            Ok(match column {
                _ if Some(column) == items.flags => ValueRef::UInt(self.flags.into()),
                _ if Some(column) == items.mark => mark.borrowed(),
                other => match items.column_value(other, self.value) {
                    Some(value) => value,
                    None => items.schema().columns[usize::from(other)].default_value(),
                },
            })
        };
        encode_body_with(items.schema(), value_of, out)
            .expect("an item fits the table that was checked for it");
    }

    fn encode_assignments(&self, items: &Items, verb: Verb, out: &mut Vec<u8>) {
        let changes = |value| match verb {
            Verb::Append => Change::Append(value),
            Verb::Prepend => Change::Prepend(value),
            _ => Change::Set(value),
        };
        if let Some(column) = items.flags.filter(|_| !matches!(verb, Verb::Append | Verb::Prepend)) {
            let change = Change::Set(ValueRef::UInt(self.flags.into()));
            Assignment { column, change }.encode(out);
        }
        for &column in &items.values {
            if let Some(value) = items.column_value(column, self.value) {
                Assignment { column, change: changes(value) }.encode(out);
            }
        }
        assign_mark(items, self.mark, out);
    }
}

fn assign_mark(items: &Items, mark: Mark, out: &mut Vec<u8>) {
    if let Some(column) = items.mark {
        let mut buffer = [0; MARK_MAX];
        Assignment { column, change: Change::Set(mark.value(&mut buffer)) }.encode(out);
    }
}

#[cfg(test)]
#[path = "operations_tests.rs"]
mod tests;
