//! Epochs are consistent cuts: {epochs ≤ n} is closed, for every n, under «read from», «overwrote» and what one client
//! did after another thing.
//!
//! A cluster that lost everything but its disks comes back at the end of an epoch. Whatever is there then must have
//! been possible: if a transaction survives, so must all that it read from and all that it overwrote, which is so for
//! every n just if no transaction has a smaller epoch than one it depends on. Checking each run's epochs finds a
//! wrong stamp without a crash at exactly that moment; [`check_restart`] checks what a restart did lose.

use std::collections::BTreeMap;

use twofold_proto::{ids::Epoch, time::Duration};

use super::{Verdict, Violation, lists};
use crate::history::{
    Action, Condition, FinalRows, History, Key, Operation, SystemRestart, Transaction, Value,
};

/// Checks the epochs of all that was answered with one.
pub fn check(history: &History) -> Verdict {
    let writers = writers(history);
    for transaction in history.transactions() {
        if let Some(epoch) = transaction.epoch() {
            check_dependencies(transaction, epoch, &writers)?;
        }
    }
    check_lists(history)?;
    check_real_time(history)
}

type Writers<'a> = BTreeMap<(Key, Value), &'a Transaction>;

fn writers(history: &History) -> Writers<'_> {
    let mut writers = Writers::new();
    for transaction in history.transactions() {
        for operation in &transaction.operations {
            match operation.action {
                Action::Write { value: Some(value), .. } | Action::Append { value } => {
                    writers.insert((operation.key, value), transaction);
                }
                _ => {}
            }
        }
    }
    writers
}

fn check_dependencies(by: &Transaction, epoch: Epoch, writers: &Writers) -> Verdict {
    let mut own: Vec<Key> = Vec::new();
    for operation in &by.operations {
        let key = operation.key;
        // Of its own pending write a transaction sees no commit.
        if let Some(version) = operation.version_seen().filter(|_| !own.contains(&key)) {
            if version.epoch > epoch {
                let explanation = format!(
                    "{:?} committed in epoch {epoch}, but read {key:?} at version {version:?}",
                    by.id
                );
                return Err(Violation::new("read from a later epoch", explanation));
            }
            let writer = last_seen(operation).and_then(|value| writers.get(&(key, value)));
            if let Some((writer, wrote)) =
                writer.and_then(|writer| writer.epoch().map(|epoch| (writer, epoch)))
                && wrote != version.epoch
            {
                let (a, b) = (by.id, writer.id);
                let explanation = format!(
                    "{a:?} read {key:?} of {b:?}, committed in epoch {wrote}, at version {version:?}"
                );
                return Err(Violation::new("wrong version", explanation));
            }
        }
        if let Action::Write { condition: Condition::Is(value), applied: Some(true), .. } = operation.action
            && let Some(writer) = writers.get(&(key, value))
        {
            check_order(writer, by, &format!("overwrote {value} in {key:?}"))?;
        }
        if operation.changes() {
            own.push(key);
        }
    }
    Ok(())
}

/// The value that names the writer of the version seen.
fn last_seen(operation: &Operation) -> Option<Value> {
    match &operation.action {
        Action::Read { seen: Some(seen), .. } => seen.content,
        Action::ReadList { seen: Some(seen), .. } => seen.content.last().copied(),
        _ => None,
    }
}

/// The later one depends on the earlier one, for the reason given.
fn check_order(earlier: &Transaction, later: &Transaction, why: &str) -> Verdict {
    match earlier.epoch().zip(later.epoch()) {
        Some((a, b)) if a > b => {
            let (earlier, later) = (earlier.id, later.id);
            let explanation = format!("{later:?} {why} of {earlier:?}: epoch {b} holds it without epoch {a}");
            Err(Violation::new("cut not closed", explanation))
        }
        _ => Ok(()),
    }
}

fn check_lists(history: &History) -> Verdict {
    let lists = lists::infer(history)?;
    for (&key, order) in &lists.orders {
        let writer = |value: Value| &lists.transactions[lists.origins[&(key, value)].by];
        // Of unknown transactions no epoch is known, but what is before them must not be later than what is after.
        let mut latest: Option<&Transaction> = None;
        for &value in order {
            let later = writer(value);
            if let Some(earlier) = latest {
                check_order(earlier, later, &format!("appended {value} in {key:?} to what was"))?;
            }
            latest = if later.epoch().is_some() { Some(later) } else { latest };
        }
    }
    Ok(())
}

/// Who writes a key after another was answered overwrites it; what a client does next it does knowing.
fn check_real_time(history: &History) -> Verdict {
    let (mut keys, mut sessions) = (BTreeMap::<Key, Vec<&Transaction>>::new(), BTreeMap::<_, Vec<_>>::new());
    for transaction in history.transactions().iter().filter(|t| t.epoch().is_some()) {
        sessions.entry(transaction.id.session).or_default().push(transaction);
        for operation in transaction.operations.iter().filter(|operation| surely_changes(operation)) {
            keys.entry(operation.key).or_default().push(transaction);
        }
    }
    for (key, group) in keys {
        if let Some((earlier, later)) = inversion(group) {
            check_order(earlier, later, &format!("overwrote {key:?} after the answer"))?;
        }
    }
    for (_, group) in sessions {
        if let Some((earlier, later)) = inversion(group) {
            check_order(earlier, later, "came, in one session, after the answer")?;
        }
    }
    Ok(())
}

fn surely_changes(operation: &Operation) -> bool {
    match operation.action {
        Action::Write { condition, applied, .. } => match applied {
            Some(applied) => applied,
            None => condition == Condition::Always,
        },
        _ => operation.changes(),
    }
}

/// Two of the transactions of which the first was answered before the second began, yet has the larger epoch.
fn inversion(group: Vec<&Transaction>) -> Option<(&Transaction, &Transaction)> {
    let (mut begun, mut answered) = (group.clone(), group);
    begun.sort_by_key(|transaction| transaction.invoked);
    answered.sort_by_key(|transaction| transaction.completed());
    let mut answered = answered.into_iter().peekable();
    let mut latest: Option<&Transaction> = None;
    for later in begun {
        while let Some(earlier) = answered.next_if(|earlier| earlier.precedes(later)) {
            if latest.is_none_or(|latest| latest.epoch() < earlier.epoch()) {
                latest = Some(earlier);
            }
        }
        if let Some(earlier) = latest
            && earlier.epoch() > later.epoch()
        {
            return Some((earlier, later));
        }
    }
    None
}

/// Checks what a restart of the whole cluster lost: nothing that was to be on disk, and nothing that had been
/// acknowledged for longer than the window when the cluster died.
pub fn check_restart(history: &History, restart: &SystemRestart, window: Duration) -> Verdict {
    for transaction in history.transactions() {
        let Some(epoch) = transaction.epoch().filter(|&epoch| restart.lost(epoch)) else { continue };
        if !transaction.changes() {
            continue;
        }
        // An answer that was under way when the cluster died may arrive later: no age at all.
        let age = restart.crashed.since(transaction.completed());
        let lost = format!(
            "{:?}, answered {age:?} before the crash, was committed in epoch {epoch}, but the cut is {}",
            transaction.id, restart.cut
        );
        if transaction.durable {
            return Err(Violation::new("lost durable commit", lost));
        }
        if age > window {
            return Err(Violation::new(
                "lost beyond the window",
                format!("{lost}; at most {window:?} may be lost"),
            ));
        }
    }
    Ok(())
}

/// Checks that nothing is left in the end of an epoch that a restart lost.
pub fn check_discarded(rows: &FinalRows, restarts: &[SystemRestart]) -> Verdict {
    for (key, row) in rows {
        if let Some(restart) = restarts.iter().find(|restart| restart.lost(row.version.epoch)) {
            let explanation =
                format!("{key:?} is at version {:?}, after the cut {}", row.version, restart.cut);
            return Err(Violation::new("restored past the cut", explanation));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
