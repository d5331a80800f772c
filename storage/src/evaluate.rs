//! What an operation makes of a row. Pure: the row as it is goes in; what to do, the new body and the answer come out.
//!
//! In this order: an expired row is no row; whether there has to be one, or none; the conditions; the new row; the
//! answer. Conditions of a Read, Update or Delete are looked at only where there is a row, those of a Write always.

use twofold_proto::{
    filter::{Condition, FILTER_DEPTH_MAX, Filter},
    ids::Version,
    limits::ROW_BYTES_MAX,
    operation::{
        Assignment, Assignments, BodyRef, Change, OperationKind, OperationRef, Projection, Refusal,
        ResultCode, ResultHead, ReturnedRow,
    },
    row::{RowEditor, RowRef, check_row},
    schema::Schema,
    time::ClusterTime,
    value::ValueRef,
    wire::Malformed,
};

use crate::arena::{StoredRow, compare_versions};

/// A row as an operation finds it.
#[derive(Clone, Copy, Debug)]
pub struct CurrentRow<'a> {
    /// The row.
    pub row: RowRef<'a>,
    /// The version of the schema that it is laid out by.
    pub schema_version: u32,
    /// Its version.
    pub version: Version,
    /// When it expires; 0: never.
    pub expiry: ClusterTime,
}

impl<'a> CurrentRow<'a> {
    /// A row of an arena.
    ///
    /// # Panics
    /// Panics if the stored row is none of the table's.
    pub fn stored(schema: &'a Schema, stored: StoredRow<'a>) -> CurrentRow<'a> {
        let (schema_version, version, expiry) = (stored.schema_version(), stored.version(), stored.expiry());
        let row = RowRef::new(schema, schema_version, stored.key(), stored.body());
        let row = row.unwrap_or_else(|error| panic!("table {}: {error} in {stored:?}", schema.name));
        CurrentRow { row, schema_version, version, expiry }
    }

    /// Whether it is there at this time.
    pub fn is_live(&self, now: ClusterTime) -> bool {
        self.expiry.0 == 0 || self.expiry > now
    }
}

/// What to do with the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Put the key with the new body, laid out by the newest version of the schema.
    Put {
        /// When it expires; 0: never.
        expiry: ClusterTime,
    },
    /// Delete it.
    Delete,
}

/// Evaluates an operation on the row that has its key, if there is one.
///
/// The new body of a [`Action::Put`] is left in `new_body`. In any case one result ([`ResultHead`] and its rows) is
/// appended to `result`. It has the version and expiry, and the row as it was, where they were asked for and there
/// was a row, also with [`ResultCode::AlreadyExists`] and [`ResultCode::ConditionFalse`].
///
/// # Errors
/// Why the operation is refused, which `result` says too.
pub fn evaluate(
    schema: &Schema,
    operation: &OperationRef<'_>,
    current: Option<&CurrentRow<'_>>,
    now: ClusterTime,
    new_body: &mut Vec<u8>,
    result: &mut Vec<u8>,
) -> Result<Action, Refusal> {
    let start = result.len();
    let current = current.filter(|current| current.is_live(now));
    let evaluated = evaluate_live(schema, operation, current, new_body, result);
    if let Err(refusal) = evaluated {
        let with_row = [ResultCode::AlreadyExists, ResultCode::ConditionFalse].contains(&refusal.code);
        let body = operation.parse_body().ok().filter(|_| with_row);
        let answered = body.map(|body| {
            let answer = Answer { code: refusal.code, body: &body, current, after: None, changed: false };
            answer.append(result)
        });
        if !matches!(answered, Some(Ok(()))) {
            result.truncate(start);
            let head = ResultHead::new(refusal.code);
            ResultHead { existed: current.is_some(), column: refusal.column, ..head }.encode(result);
        }
    }
    evaluated
}

fn evaluate_live(
    schema: &Schema,
    operation: &OperationRef<'_>,
    current: Option<&CurrentRow<'_>>,
    new_body: &mut Vec<u8>,
    result: &mut Vec<u8>,
) -> Result<Action, Refusal> {
    if operation.schema_version != schema.version || operation.table != schema.id {
        return Err(ResultCode::SchemaChanged.into());
    }
    let body = operation.parse_body()?;
    match (operation.kind, current) {
        (OperationKind::Read | OperationKind::Update | OperationKind::Delete, None) => {
            return Err(ResultCode::NotFound.into());
        }
        (OperationKind::Insert, Some(_)) => return Err(ResultCode::AlreadyExists.into()),
        _ => {}
    }
    if !holds(&body.conditions, current)? {
        return Err(ResultCode::ConditionFalse.into());
    }
    let action = match operation.kind {
        OperationKind::Read => Action::Nothing,
        OperationKind::Delete => Action::Delete,
        OperationKind::Insert | OperationKind::Update | OperationKind::Write => {
            let kept = build(schema, operation.key, &body, current, new_body)?;
            Action::Put { expiry: body.expiry.unwrap_or(kept) }
        }
    };
    let after = match action {
        Action::Put { .. } => Some(RowRef::new(schema, schema.version, operation.key, new_body)?),
        _ => None,
    };
    let changed = match action {
        Action::Nothing => false,
        Action::Delete => true,
        Action::Put { expiry } => current.is_none_or(|current| {
            current.schema_version != schema.version
                || current.expiry != expiry
                || current.row.body() != &new_body[..]
        }),
    };
    Answer { code: ResultCode::Ok, body: &body, current, after, changed }.append(result)?;
    Ok(action)
}

/// Builds the row that an Insert, Update or Write leaves, and gives the expiry that it has if the operation says
/// nothing about it.
fn build(
    schema: &Schema,
    key: &[u8],
    body: &BodyRef<'_>,
    current: Option<&CurrentRow<'_>>,
    new_body: &mut Vec<u8>,
) -> Result<ClusterTime, Refusal> {
    // An Update has no row; a Write has both and keeps to the assignments where there is a row to change.
    if let Some(current) = current.filter(|_| body.row.is_none() || body.assignments.is_some()) {
        let mut editor = RowEditor::new(&current.row, new_body)?;
        assign(&mut editor, &body.assignments.unwrap_or_default())?;
        if key.len() + new_body.len() > ROW_BYTES_MAX {
            return Err(ResultCode::RowTooBig.into());
        }
        return Ok(current.expiry);
    }
    let row = body.row.ok_or(Malformed("body of an operation: no row"))?;
    check_row(schema, key, row)?;
    new_body.clear();
    new_body.extend_from_slice(row);
    Ok(ClusterTime(0))
}

/// What goes into a result.
struct Answer<'a> {
    code: ResultCode,
    body: &'a BodyRef<'a>,
    current: Option<&'a CurrentRow<'a>>,
    after: Option<RowRef<'a>>,
    changed: bool,
}

impl Answer<'_> {
    fn append(&self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let asked = self.current.filter(|_| self.body.version);
        let before = self.current.filter(|_| self.body.before != Projection::None);
        let after = self.after.filter(|_| self.body.after != Projection::None);
        ResultHead {
            existed: self.current.is_some(),
            changed: self.changed,
            version: asked.map(|current| current.version),
            expiry: asked.map_or(ClusterTime(0), |current| current.expiry),
            before: before.is_some(),
            after: after.is_some(),
            ..ResultHead::new(self.code)
        }
        .encode(out);
        if let Some(current) = before {
            append_row(&current.row, current.schema_version, &self.body.before, out)?;
        }
        if let Some(row) = after {
            append_row(&row, row.schema().version, &self.body.after, out)?;
        }
        Ok(())
    }
}

/// Appends a row, or what is asked for of it, as [`ReturnedRow::parse`] reads it.
///
/// # Errors
/// If the projection names a column that there is not.
///
/// # Panics
/// Panics if nothing is asked for.
pub fn append_row(
    row: &RowRef<'_>,
    schema_version: u32,
    projection: &Projection<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    match projection {
        Projection::None => panic!("no row is to be returned"),
        Projection::All => {
            ReturnedRow::encode_whole(schema_version, row.body(), out);
            Ok(())
        }
        Projection::Columns(_) => ReturnedRow::encode_values(out, |out| {
            let start = out.len();
            for column in projection.columns() {
                // Named again and again, a column could fill any memory.
                if out.len() - start > 2 * ROW_BYTES_MAX {
                    return Err(ResultCode::RowTooBig.into());
                }
                let value = row.get(column).map_err(|_| Refusal::of_column(column)(ResultCode::Malformed))?;
                value.encode(out);
            }
            Ok(())
        }),
    }
}

/// Appends the result of a scanned row: its key, and what the scan's body asks for.
///
/// # Errors
/// As [`append_row`]. `out` is then as it was.
pub fn append_scanned(
    current: &CurrentRow<'_>,
    body: &BodyRef<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let start = out.len();
    ResultHead {
        existed: true,
        version: body.version.then_some(current.version),
        expiry: if body.version { current.expiry } else { ClusterTime(0) },
        key: (body.before == Projection::All).then_some(current.row.key()),
        before: body.before != Projection::None,
        ..ResultHead::new(ResultCode::Ok)
    }
    .encode(out);
    if body.before != Projection::None {
        let appended = append_row(&current.row, current.schema_version, &body.before, out);
        return appended.inspect_err(|_| out.truncate(start));
    }
    Ok(())
}

/// Whether all conditions of a list hold for the row, or for there being none.
///
/// # Errors
/// If the list is malformed, or compares a column with a value of another type.
pub fn holds(filter: &Filter<'_>, current: Option<&CurrentRow<'_>>) -> Result<bool, Refusal> {
    all_hold(filter, current, FILTER_DEPTH_MAX)
}

fn all_hold(filter: &Filter<'_>, current: Option<&CurrentRow<'_>>, depth: usize) -> Result<bool, Refusal> {
    for condition in filter.conditions() {
        if !condition_holds(&condition?, current, depth)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn condition_holds(
    condition: &Condition<'_>,
    current: Option<&CurrentRow<'_>>,
    depth: usize,
) -> Result<bool, Refusal> {
    let get = |column: u16| {
        let value = current.map_or(Ok(ValueRef::Null), |current| current.row.get(column));
        value.map_err(|_| Refusal::of_column(column)(ResultCode::Malformed))
    };
    let deeper = || depth.checked_sub(1).ok_or(Refusal::from(Malformed("conditions: nested too deep")));
    Ok(match condition {
        Condition::Column { column, comparison, value } => {
            let order = get(*column)?.compare(value).map_err(Refusal::of_column(*column))?;
            order.is_some_and(|order| comparison.holds(order))
        }
        Condition::IsNull(column) => current.is_some() && get(*column)?.is_null(),
        Condition::IsNotNull(column) => !get(*column)?.is_null(),
        Condition::Exists => current.is_some(),
        Condition::Absent => current.is_none(),
        Condition::Version { comparison, version } => {
            current.is_some_and(|current| comparison.holds(compare_versions(current.version, *version)))
        }
        Condition::Token(token) => current.is_some_and(|current| current.version.token() == *token),
        Condition::All(list) => all_hold(list, current, deeper()?)?,
        Condition::Any(list) => {
            let depth = deeper()?;
            for condition in list.conditions() {
                if condition_holds(&condition?, current, depth)? {
                    return Ok(true);
                }
            }
            false
        }
    })
}

/// Carries the assignments out, one after the other: each sees what those before it did.
fn assign(editor: &mut RowEditor<'_>, assignments: &Assignments<'_>) -> Result<(), Refusal> {
    for assignment in assignments.iter() {
        let Assignment { column, change } = assignment?;
        let refuse = Refusal::of_column(column);
        if let Change::Set(value) = change {
            editor.set(column, value)?;
            continue;
        }
        let row = editor.row();
        let now = row.get(column).map_err(|_| refuse(ResultCode::Malformed))?;
        let value = match change {
            _ if now.is_null() => ValueRef::Null,
            Change::Set(_) => unreachable!("dealt with above"),
            Change::Add(number) => add(&now, &number).map_err(refuse)?,
            Change::Append(bytes) => join(&now, &now, &bytes).map_err(refuse)?,
            Change::Prepend(bytes) => join(&now, &bytes, &now).map_err(refuse)?,
            Change::Increment(number) => {
                count(&now, |counter| counter.wrapping_add(number)).map_err(refuse)?
            }
            Change::Decrement(number) => {
                count(&now, |counter| counter.saturating_sub(number)).map_err(refuse)?
            }
        };
        let value = value.into_owned();
        editor.set(column, value)?;
    }
    Ok(())
}

/// The sum: NULL if `number` is, a float if one of them is, else an integer, which its column may yet refuse.
fn add(now: &ValueRef<'_>, number: &ValueRef<'_>) -> Result<ValueRef<'static>, ResultCode> {
    let as_float = |value: &ValueRef<'_>| match *value {
        ValueRef::Float(value) => Ok(value),
        ref value => value.as_integer().map(|value| value as f64).ok_or(ResultCode::WrongType),
    };
    match (now.as_integer(), number.as_integer()) {
        _ if number.is_null() => Ok(ValueRef::Null),
        (Some(a), Some(b)) => match a + b {
            sum if (0..=i128::from(u64::MAX)).contains(&sum) => Ok(ValueRef::UInt(sum as u64)),
            sum => i64::try_from(sum).map(ValueRef::Int).map_err(|_| ResultCode::OutOfRange),
        },
        // An integer column takes integers alone.
        (Some(_), None) => Err(ResultCode::WrongType),
        _ => Ok(ValueRef::Float(as_float(now)? + as_float(number)?)),
    }
}

/// The bytes of both, of the type of `now`, the column's value; NULL if one is.
fn join(
    now: &ValueRef<'_>,
    first: &ValueRef<'_>,
    second: &ValueRef<'_>,
) -> Result<ValueRef<'static>, ResultCode> {
    if first.is_null() || second.is_null() {
        return Ok(ValueRef::Null);
    }
    match (now, first, second) {
        (ValueRef::Text(_), ValueRef::Text(first), ValueRef::Text(second)) => {
            Ok(ValueRef::from([first.as_ref(), second.as_ref()].concat()))
        }
        (ValueRef::Binary(_), first, second) => {
            let first = first.as_bytes().ok_or(ResultCode::WrongType)?;
            let second = second.as_bytes().ok_or(ResultCode::WrongType)?;
            Ok(ValueRef::from([first, second].concat()))
        }
        _ => Err(ResultCode::WrongType),
    }
}

/// Counts in ASCII digits as memcached 1.6 does (`do_add_delta` in memcached.c): white space before the number and
/// anything after white space behind it is passed over; a number that gets shorter is padded with spaces to the old length.
fn count(now: &ValueRef<'_>, step: impl FnOnce(u64) -> u64) -> Result<ValueRef<'static>, ResultCode> {
    let bytes = now.as_bytes().ok_or(ResultCode::WrongType)?;
    // C's isspace, which knows the vertical tab too.
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let number = &bytes[bytes.iter().take_while(|byte| is_space(byte)).count()..];
    let number = number.split(is_space).next().unwrap_or_default();
    let number = number.strip_prefix(b"+").unwrap_or(number);
    if number.is_empty() || !number.iter().all(u8::is_ascii_digit) {
        return Err(ResultCode::NotANumber);
    }
    let digits = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    let counter = number.iter().try_fold(0u64, digits).ok_or(ResultCode::NotANumber)?;
    let text = format!("{:<width$}", step(counter), width = bytes.len());
    Ok(match now {
        ValueRef::Text(_) => ValueRef::from(text),
        _ => ValueRef::from(text.into_bytes()),
    })
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
