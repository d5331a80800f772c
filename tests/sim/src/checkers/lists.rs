//! What can be inferred from lists: the order of each key's versions, and who read which of them.
//!
//! A list that is only appended to shows its own history: who reads `[4, 9]` has seen the version that the writer of
//! 9 made over that of the writer of 4 (Kingsbury and Alvaro, *Elle*, 2020). So all reads of a key must be prefixes
//! of the longest, and that is the order of its versions. What committed and is not in the longest came after it.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::history::{Action, History, Isolation, Key, Outcome, Seen, Transaction, Value};

/// An append: by which transaction (its place in the history), and as which of its appends to the key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub by: usize,
    pub nth: usize,
}

/// A read, without what the reader itself had appended before.
pub(super) struct ExternalRead {
    pub by: usize,
    pub key: Key,
    /// How many elements it saw: a place in the key's order.
    pub length: usize,
}

/// What was inferred.
pub(super) struct Lists<'a> {
    pub transactions: &'a [Transaction],
    /// Whether each transaction took effect: the client was told so, or a committed one read what it wrote.
    pub committed: Vec<bool>,
    /// Each key's elements, in the order of their versions.
    pub orders: BTreeMap<Key, Vec<Value>>,
    /// Where each element comes from.
    pub origins: BTreeMap<(Key, Value), Origin>,
    /// All reads by committed transactions.
    pub reads: Vec<ExternalRead>,
    /// Who committed an append that nobody read.
    pub unread: BTreeMap<Key, BTreeSet<usize>>,
}

/// The reads of a transaction that were answered.
fn reads(transaction: &Transaction) -> impl Iterator<Item = (Key, &Seen<Vec<Value>>)> {
    transaction.operations.iter().filter_map(|operation| match &operation.action {
        Action::ReadList { seen, .. } => seen.as_ref().map(|seen| (operation.key, seen)),
        _ => None,
    })
}

/// All that a transaction ever appends to a key.
fn appended(transaction: &Transaction, key: Key) -> impl Iterator<Item = Value> {
    transaction.operations.iter().filter_map(move |operation| match operation.action {
        Action::Append { value } if operation.key == key => Some(value),
        _ => None,
    })
}

/// Infers the order of versions.
///
/// # Errors
/// G1a, G1b, and all that contradicts itself before any cycle is looked for: elements that nobody appended, doubled
/// ones, reads of one key that are no prefixes of each other, a transaction that does not see its own appends.
pub(super) fn infer(history: &History) -> Result<Lists<'_>, Violation> {
    let transactions = history.transactions();
    let (origins, counts) = origins(transactions)?;
    let committed = committed(transactions, &origins);
    let mut unread = origins.clone();
    let mut lists = Lists {
        transactions,
        committed,
        orders: BTreeMap::new(),
        origins,
        reads: Vec::new(),
        unread: BTreeMap::new(),
    };
    let all: Vec<usize> = (0..transactions.len()).filter(|&n| lists.committed[n]).collect();
    lists.order(&all)?;
    for &by in &all {
        lists.walk(by, &counts)?;
    }
    for (&key, order) in &lists.orders {
        for &value in order {
            unread.remove(&(key, value));
        }
    }
    for ((key, _), origin) in unread {
        if lists.committed[origin.by] {
            lists.unread.entry(key).or_default().insert(origin.by);
        }
    }
    Ok(lists)
}

type Origins = BTreeMap<(Key, Value), Origin>;
type Counts = BTreeMap<(usize, Key), usize>;

fn origins(transactions: &[Transaction]) -> Result<(Origins, Counts), Violation> {
    let (mut origins, mut counts) = (Origins::new(), Counts::new());
    for (by, transaction) in transactions.iter().enumerate() {
        for operation in &transaction.operations {
            let Action::Append { value } = operation.action else { continue };
            let count = counts.entry((by, operation.key)).or_default();
            let origin = Origin { by, nth: *count };
            *count += 1;
            if let Some(other) = origins.insert((operation.key, value), origin) {
                let (a, b) = (transactions[other.by].id, transaction.id);
                let explanation = format!("{value} to {:?}, by {a:?} and {b:?}", operation.key);
                return Err(Violation::new("value appended twice by the workload", explanation));
            }
        }
    }
    Ok((origins, counts))
}

/// Which transactions took effect: what committed ones read did, whatever its client was told.
fn committed(transactions: &[Transaction], origins: &Origins) -> Vec<bool> {
    let mut committed: Vec<bool> = transactions.iter().map(Transaction::is_committed).collect();
    let mut unknown: BTreeMap<Key, BTreeMap<Value, usize>> = BTreeMap::new();
    for (&(key, value), origin) in origins {
        if transactions[origin.by].outcome() == Outcome::Unknown {
            unknown.entry(key).or_default().insert(value, origin.by);
        }
    }
    let mut open: Vec<usize> = (0..committed.len()).filter(|&n| committed[n]).collect();
    while let Some(reader) = open.pop() {
        for (key, seen) in reads(&transactions[reader]) {
            let Some(unknown) = unknown.get(&key) else { continue };
            for &writer in seen.content.iter().filter_map(|value| unknown.get(value)) {
                if !std::mem::replace(&mut committed[writer], true) {
                    open.push(writer);
                }
            }
        }
    }
    committed
}

impl Lists<'_> {
    fn describe(&self, by: usize, key: Key, content: &[Value]) -> String {
        format!("{:?} read {content:?} in {key:?}", self.transactions[by].id)
    }

    fn check_elements(&self, by: usize, key: Key, content: &[Value]) -> Result<(), Violation> {
        let mut elements = BTreeSet::new();
        for &value in content {
            let read = || self.describe(by, key, content);
            let Some(origin) = self.origins.get(&(key, value)) else {
                return Err(Violation::new(
                    "phantom element",
                    format!("{}, but nobody appended {value}", read()),
                ));
            };
            let writer = &self.transactions[origin.by];
            if writer.is_aborted() {
                let explanation = format!("{}, but {:?}, which appended {value}, aborted", read(), writer.id);
                return Err(Violation::new("G1a", explanation));
            }
            if !elements.insert(value) {
                return Err(Violation::new("double element", format!("{}: {value} is there twice", read())));
            }
        }
        Ok(())
    }

    /// Goes through a transaction's operations: what it reads must agree with what it did itself.
    fn walk(&mut self, by: usize, counts: &Counts) -> Result<(), Violation> {
        let transaction = &self.transactions[by];
        let serializable = transaction.isolation == Isolation::Serializable;
        // Per key: what it appended so far; what it found there since it holds a lock.
        let mut own: BTreeMap<Key, Vec<Value>> = BTreeMap::new();
        let mut locked: BTreeSet<Key> = BTreeSet::new();
        let mut found: BTreeMap<Key, &[Value]> = BTreeMap::new();
        for operation in &transaction.operations {
            let key = operation.key;
            match &operation.action {
                Action::Append { value } => {
                    own.entry(key).or_default().push(*value);
                    locked.insert(key);
                }
                Action::ReadList { locking, seen: Some(seen) } => {
                    let own = own.entry(key).or_default();
                    let length = seen.content.len().saturating_sub(own.len());
                    let (others, mine) = seen.content.split_at(length);
                    if mine != own || appended(transaction, key).any(|value| others.contains(&value)) {
                        let read = self.describe(by, key, &seen.content);
                        let explanation = format!("{read}, having appended {own:?} itself");
                        return Err(Violation::new("internal", explanation));
                    }
                    if serializable || *locking {
                        locked.insert(key);
                    }
                    if locked.contains(&key) {
                        let before = *found.entry(key).or_insert(others);
                        if before != others {
                            let read = self.describe(by, key, &seen.content);
                            let explanation = format!("{read}, having found {before:?} there under its lock");
                            return Err(Violation::new("internal", explanation));
                        }
                    }
                    if let Some(last) = others.last() {
                        self.check_final(by, key, &seen.content, *last, counts)?;
                    }
                    self.reads.push(ExternalRead { by, key, length });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The last element that others appended must be the last that its writer appended.
    fn check_final(
        &self,
        by: usize,
        key: Key,
        content: &[Value],
        last: Value,
        counts: &Counts,
    ) -> Result<(), Violation> {
        let origin = self.origins[&(key, last)];
        if origin.nth + 1 == counts[&(origin.by, key)] {
            return Ok(());
        }
        let (read, writer) = (self.describe(by, key, content), self.transactions[origin.by].id);
        Err(Violation::new(
            "G1b",
            format!("{read}, but {writer:?}, which appended {last}, appended more to it"),
        ))
    }

    /// The order of each key: its longest read, of which all others must be prefixes.
    fn order(&mut self, committed: &[usize]) -> Result<(), Violation> {
        let mut longest: BTreeMap<Key, (usize, &[Value])> = BTreeMap::new();
        let all =
            || committed.iter().flat_map(|&by| reads(&self.transactions[by]).map(move |read| (by, read)));
        for (by, (key, seen)) in all() {
            let best = longest.entry(key).or_insert((by, &seen.content));
            if seen.content.len() > best.1.len() {
                *best = (by, &seen.content);
            }
        }
        for (&key, &(by, order)) in &longest {
            self.check_elements(by, key, order)?;
        }
        for (by, (key, seen)) in all() {
            let (other, order) = longest[&key];
            if !order.starts_with(&seen.content) {
                self.check_elements(by, key, &seen.content)?;
                let (a, b) = (self.describe(by, key, &seen.content), self.describe(other, key, order));
                return Err(Violation::new("incompatible order", format!("{a}, but {b}")));
            }
        }
        self.orders = longest.into_iter().map(|(key, (_, order))| (key, order.to_vec())).collect();
        Ok(())
    }
}
