//! What was acknowledged is there in the end, and what was refused is not.
//!
//! The final state of each key must have been left by a write that committed, or whose outcome is unknown, and that no
//! acknowledged write must have followed: in real time, by its epoch (versions of a key only grow), or because a
//! list's appends say so. This is weaker than [`registers`](super::registers) and
//! [`serializability`](super::serializability), but holds for every workload, whatever it read, and names the write
//! that was lost, or came back from the dead at a takeover or a restart.

use std::collections::BTreeMap;

use twofold_proto::{ids::Version, time::Time};

use super::{Verdict, Violation};
use crate::history::{
    Action, Condition, FinalContent, FinalRow, FinalRows, History, Key, Transaction, Value,
};

/// A write that a transaction left in a register; `None` for a delete.
struct Write<'a> {
    by: &'a Transaction,
    value: Option<Value>,
    /// It surely took place.
    acknowledged: bool,
    /// The latest time by which it did: an unknown one that was read did before the reader was answered.
    done: Time,
}

impl Write<'_> {
    /// Whether this write surely was overwritten by the other, which was acknowledged.
    fn is_followed_by(&self, later: &Write) -> bool {
        let by_epoch = self.by.epoch().zip(later.by.epoch()).is_some_and(|(a, b)| a < b);
        later.acknowledged && (self.done < later.by.invoked || by_epoch)
    }

    fn describe(&self) -> String {
        match self.value {
            Some(value) => format!("{value} of {:?}", self.by.id),
            None => format!("the delete of {:?}", self.by.id),
        }
    }
}

/// All that was done to one register.
#[derive(Default)]
struct Register<'a> {
    /// The last write of each transaction that may have committed.
    writes: Vec<Write<'a>>,
    /// Who wrote a value that must not be left: the transaction aborted, or overwrote it itself.
    never: BTreeMap<Value, &'a Transaction>,
}

/// All that was done to one list.
#[derive(Default)]
struct List<'a> {
    appends: BTreeMap<Value, &'a Transaction>,
}

/// Checks the final state, read when all is quiet, against what clients were told.
pub fn check(history: &History, rows: &FinalRows) -> Verdict {
    let (registers, lists) = gather(history);
    check_versions(history, rows)?;
    for (&key, register) in &registers {
        match rows.get(&key) {
            None => register.check_absent(key)?,
            Some(FinalRow { content: FinalContent::Value(value), version }) => {
                register.check_value(key, *value, *version)?;
            }
            Some(row) => {
                return Err(Violation::new("wrong content", format!("{key:?}, a register, holds {row:?}")));
            }
        }
    }
    for (&key, list) in &lists {
        match rows.get(&key) {
            None => list.check(key, &[])?,
            Some(FinalRow { content: FinalContent::List(elements), .. }) => list.check(key, elements)?,
            Some(row) => {
                return Err(Violation::new("wrong content", format!("{key:?}, a list, holds {row:?}")));
            }
        }
    }
    match rows.keys().find(|key| !registers.contains_key(key) && !lists.contains_key(key)) {
        Some(key) => Err(Violation::new("phantom row", format!("{key:?} is there, but nobody wrote it"))),
        None => Ok(()),
    }
}

/// The final version of a row must not be older than one that was seen.
fn check_versions(history: &History, rows: &FinalRows) -> Verdict {
    for transaction in history.transactions().iter().filter(|t| t.is_committed()) {
        for operation in &transaction.operations {
            let (Some(row), Some(seen)) = (rows.get(&operation.key), operation.version_seen()) else {
                continue;
            };
            if seen > row.version {
                let (key, id) = (operation.key, transaction.id);
                let explanation = format!("{key:?} is at {:?}, but {id:?} saw it at {seen:?}", row.version);
                return Err(Violation::new("version ran back", explanation));
            }
        }
    }
    Ok(())
}

fn gather(history: &History) -> (BTreeMap<Key, Register<'_>>, BTreeMap<Key, List<'_>>) {
    let (mut registers, mut lists) = (BTreeMap::<Key, Register>::new(), BTreeMap::<Key, List>::new());
    let seen = first_seen(history);
    for by in history.transactions() {
        let mut last: BTreeMap<Key, Write> = BTreeMap::new();
        for operation in &by.operations {
            let key = operation.key;
            match operation.action {
                Action::Append { value } => {
                    lists.entry(key).or_default().appends.insert(value, by);
                }
                Action::Write { condition, value, applied } if operation.changes() => {
                    let register = registers.entry(key).or_default();
                    if by.is_aborted() {
                        register.never.extend(value.map(|value| (value, by)));
                        continue;
                    }
                    let certain = applied == Some(true) || condition == Condition::Always;
                    let done = value.and_then(|value| seen.get(&(key, value)));
                    let write = Write {
                        by,
                        value,
                        acknowledged: by.is_committed() && certain,
                        done: by.completed().min(done.copied().unwrap_or(Time(u64::MAX))),
                    };
                    let before = last.insert(key, write);
                    match before {
                        Some(before) if certain => {
                            register.never.extend(before.value.map(|value| (value, by)))
                        }
                        // What it overwrote is left, if it was not applied.
                        Some(before) => register.writes.push(Write { acknowledged: false, ..before }),
                        None => {}
                    }
                }
                _ => {}
            }
        }
        for (key, write) in last {
            registers.entry(key).or_default().writes.push(write);
        }
    }
    (registers, lists)
}

/// When each value had surely been committed, because another transaction that committed had read it.
fn first_seen(history: &History) -> BTreeMap<(Key, Value), Time> {
    let mut first = BTreeMap::new();
    for transaction in history.transactions().iter().filter(|t| t.is_committed()) {
        for operation in &transaction.operations {
            if let Action::Read { seen: Some(seen), .. } = &operation.action
                && let Some(value) = seen.content
            {
                let at = first.entry((operation.key, value)).or_insert(Time(u64::MAX));
                *at = transaction.completed().min(*at);
            }
        }
    }
    first
}

impl Register<'_> {
    fn check_value(&self, key: Key, value: Value, version: Version) -> Verdict {
        let Some(last) = self.writes.iter().find(|write| write.value == Some(value)) else {
            let holds = format!("{key:?} holds {value}");
            return Err(match self.never.get(&value) {
                Some(by) if by.is_aborted() => {
                    Violation::new("resurrected write", format!("{holds} of {:?}, which aborted", by.id))
                }
                Some(by) => {
                    Violation::new("lost write", format!("{holds}, which {:?} overwrote itself", by.id))
                }
                None => Violation::new("phantom value", format!("{holds}, which nobody wrote")),
            });
        };
        if let Some(epoch) = last.by.epoch()
            && epoch != version.epoch
        {
            let explanation = format!(
                "{key:?} holds {}, committed in epoch {epoch}, at version {version:?}",
                last.describe()
            );
            return Err(Violation::new("wrong version", explanation));
        }
        match self.writes.iter().find(|later| last.is_followed_by(later)) {
            None => Ok(()),
            Some(later) => {
                let anomaly = if later.value.is_none() { "resurrected row" } else { "lost write" };
                let (last, later) = (last.describe(), later.describe());
                Err(Violation::new(
                    anomaly,
                    format!("{key:?} holds {last}, but {later} was acknowledged after it"),
                ))
            }
        }
    }

    fn check_absent(&self, key: Key) -> Verdict {
        let Some(acknowledged) = self.writes.iter().find(|write| write.acknowledged && write.value.is_some())
        else {
            return Ok(());
        };
        let mut deletes = self.writes.iter().filter(|write| write.value.is_none()).peekable();
        let overwritten = |delete: &Write| {
            self.writes.iter().find(|later| later.value.is_some() && delete.is_followed_by(later))
        };
        if deletes.peek().is_none() {
            let explanation = format!("{key:?} is gone, but {} was acknowledged", acknowledged.describe());
            return Err(Violation::new("lost write", explanation));
        }
        let mut lost = None;
        for delete in deletes {
            match overwritten(delete) {
                None => return Ok(()),
                Some(later) => lost = Some((delete, later)),
            }
        }
        let (delete, later) = lost.expect("there is a delete, and each is followed");
        let explanation =
            format!("{key:?} is gone, but {} was acknowledged after {}", later.describe(), delete.describe());
        Err(Violation::new("lost write", explanation))
    }
}

impl List<'_> {
    fn check(&self, key: Key, elements: &[Value]) -> Verdict {
        let mut left = self.appends.clone();
        for value in elements {
            let has = || format!("{key:?} holds {elements:?}");
            match (left.remove(value), self.appends.get(value)) {
                (Some(by), _) if by.is_aborted() => {
                    let explanation = format!("{}, but {:?}, which appended {value}, aborted", has(), by.id);
                    return Err(Violation::new("resurrected write", explanation));
                }
                (Some(_), _) => {}
                (None, Some(_)) => {
                    return Err(Violation::new(
                        "double element",
                        format!("{}: {value} is there twice", has()),
                    ));
                }
                (None, None) => {
                    let explanation = format!("{}, but nobody appended {value}", has());
                    return Err(Violation::new("phantom element", explanation));
                }
            }
        }
        if let Some((value, by)) = left.iter().find(|(_, by)| by.is_committed()) {
            let explanation =
                format!("{key:?} holds {elements:?} without {value} of {:?}, which committed", by.id);
            return Err(Violation::new("lost write", explanation));
        }
        self.check_order(key, elements)
    }

    /// No element may come before one whose transaction had been answered when its own began.
    fn check_order(&self, key: Key, elements: &[Value]) -> Verdict {
        let mut earliest: Option<(Value, &Transaction)> = None;
        for &value in elements.iter().rev() {
            let by = self.appends[&value];
            if let Some((later, other)) = earliest
                && other.precedes(by)
            {
                let (a, b) = (by.id, other.id);
                let explanation = format!(
                    "{key:?} holds {value} of {a:?} before {later} of {b:?}, which was answered before {a:?} began"
                );
                return Err(Violation::new("appends out of order", explanation));
            }
            if earliest.is_none_or(|(_, other)| by.completed() < other.completed()) {
                earliest = Some((value, by));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
