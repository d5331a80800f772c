//! A row used as a register is linearizable: each operation takes effect at once, at one instant between the moment
//! it was sent and the moment it was answered, and every read sees what the last write before it left.
//!
//! That is what an operation on a single row promises at any isolation level, and what a stale primary, a lost
//! acknowledged write or a write applied twice breaks. Keys are independent of each other (linearizability is local),
//! so each is checked alone. A transaction of several operations counts as one *step* of each key that it touches:
//! by its locks it holds a row from its first locking operation to its end; committed reads before that are steps
//! of their own. What aborted must have no effect; what is unknown or open may take effect at any time after it was
//! sent, or never.
//!
//! The search is Wing and Gong's, with Lowe's memory of configurations (*Testing for linearizability*, 2017): walk
//! through the history, and wherever a step must have taken effect, keep every configuration (value of the
//! register, pending steps that have taken effect) that explains all so far. Three rules keep them few:
//!
//! - what cannot change the register takes effect as soon as its result fits, for waiting gains nothing;
//! - of two configurations that differ only in which unknown steps they used, the one that used less is enough;
//! - of several pending unknown steps that do the same, one is tried.
//!
//! So it ends quickly on invalid histories too. Where hundreds of clients write one key at once it gives up, and says
//! so, as [`UNDECIDED`].

use std::collections::{BTreeMap, BTreeSet};

use twofold_proto::time::Time;

use super::{Verdict, Violation};
use crate::history::{Action, Condition, History, Isolation, Key, Operation, Transaction, Value};

/// The anomaly's name when the search gave up: the workload put too much on one key at once.
pub const UNDECIDED: &str = "undecided";

/// Configurations tried per key before the search gives up: some seconds, and less than 100 MB.
const CONFIGURATIONS_MAX: usize = 500_000;

/// Steps of one key that can be pending at once: the bits of [`Bits`].
const PENDING_MAX: usize = Bits::BITS as usize;

/// A set of pending steps, by slot.
type Bits = u128;

/// What a register can hold: values nobody can tell apart are one, so that steps that do the same look the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    Absent,
    /// A value that nobody saw or compared with.
    Unobserved,
    Value(Value),
}

/// One operation of a step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Move {
    See(State),
    Change { condition: Test, to: State, applied: Option<bool> },
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Test {
    Always,
    Present,
    Absent,
    Is(State),
}

impl Move {
    /// The state after it; `None` if it cannot have had its result in this state.
    fn apply(self, state: State) -> Option<State> {
        match self {
            Move::See(seen) => (seen == state).then_some(state),
            Move::Change { condition, to, applied } => {
                let holds = match condition {
                    Test::Always => true,
                    Test::Present => state != State::Absent,
                    Test::Absent => state == State::Absent,
                    Test::Is(value) => state == value,
                };
                match applied {
                    Some(applied) if applied != holds => None,
                    _ => Some(if holds { to } else { state }),
                }
            }
        }
    }

    fn is_pure(self) -> bool {
        matches!(self, Move::See(_) | Move::Change { applied: Some(false), .. })
    }
}

/// What takes effect at once on one key.
struct Step<'a> {
    by: &'a Transaction,
    moves: Vec<Move>,
    /// Its transaction's outcome is unknown.
    optional: bool,
    pure: bool,
}

impl Step<'_> {
    fn apply(&self, state: State) -> Option<State> {
        self.moves.iter().try_fold(state, |state, step| step.apply(state))
    }

    /// Whether it always takes effect, and leaves a value that nobody ever saw.
    fn is_blind(&self) -> bool {
        matches!(self.moves[..], [Move::Change { condition: Test::Always, to: State::Unobserved, .. }])
    }
}

/// Checks every register of the history.
pub fn check(history: &History) -> Verdict {
    let mut keys: BTreeMap<Key, Vec<&Transaction>> = BTreeMap::new();
    for transaction in history.transactions() {
        let touched: BTreeSet<Key> = registers(transaction).map(|operation| operation.key).collect();
        for key in touched {
            keys.entry(key).or_default().push(transaction);
        }
    }
    keys.iter().try_for_each(|(&key, transactions)| check_key(key, transactions))
}

fn registers(transaction: &Transaction) -> impl Iterator<Item = &Operation> {
    let is_register = |o: &&Operation| matches!(o.action, Action::Read { .. } | Action::Write { .. });
    transaction.operations.iter().filter(is_register)
}

fn check_key(key: Key, transactions: &[&Transaction]) -> Verdict {
    let facts = Facts::gather(key, transactions)?;
    let steps: Vec<Step> = transactions.iter().flat_map(|t| steps_of(t, key, &facts)).collect();
    let needed = |step: &Step| {
        // Without conditions nobody can tell whether a write happened that nobody saw.
        !(step.optional && (step.pure || step.is_blind() && !facts.conditions))
    };
    let steps: Vec<Step> = steps.into_iter().filter(needed).collect();

    const SENT: u8 = 0; // Before answers of the same instant: they overlap.
    const ANSWERED: u8 = 1;
    let mut events: Vec<(Time, u8, usize)> = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        events.push((step.by.invoked, SENT, n));
        if !step.optional {
            events.push((step.by.completed(), ANSWERED, n));
        }
    }
    events.sort_unstable();
    let mut search = Search::new(key, &steps, &facts);
    events.iter().try_for_each(|&(_, event, step)| match event {
        SENT => search.sent(step),
        _ => search.answered(step),
    })
}

/// What must be known of all of a key's transactions before its steps can be told.
struct Facts<'a> {
    /// Who wrote each value.
    writers: BTreeMap<Value, &'a Transaction>,
    /// Values that were seen, or compared with.
    observed: BTreeSet<Value>,
    /// Whether any write has a condition, so that its result tells of the state without naming a value.
    conditions: bool,
}

impl<'a> Facts<'a> {
    fn gather(key: Key, transactions: &[&'a Transaction]) -> Result<Facts<'a>, Violation> {
        let mut facts = Facts { writers: BTreeMap::new(), observed: BTreeSet::new(), conditions: false };
        for &transaction in transactions {
            for operation in registers(transaction).filter(|operation| operation.key == key) {
                facts.note(key, transaction, &operation.action)?;
            }
        }
        for transaction in transactions.iter().filter(|transaction| transaction.is_committed()) {
            for operation in registers(transaction).filter(|operation| operation.key == key) {
                if let Action::Read { seen: Some(seen), .. } = &operation.action
                    && let Some(value) = seen.content
                {
                    facts.check_origin(key, transaction, value)?;
                }
            }
        }
        Ok(facts)
    }

    fn note(&mut self, key: Key, transaction: &'a Transaction, action: &Action) -> Verdict {
        match action {
            Action::Read { seen: Some(seen), .. } if !transaction.is_aborted() => {
                self.observed.extend(seen.content);
            }
            Action::Write { condition, value, .. } => {
                if !transaction.is_aborted() {
                    self.conditions |= *condition != Condition::Always;
                    if let Condition::Is(value) = condition {
                        self.observed.insert(*value);
                    }
                }
                if let Some(value) = value
                    && let Some(other) = self.writers.insert(*value, transaction)
                {
                    let explanation =
                        format!("{value} to {key:?}, by {:?} and {:?}", other.id, transaction.id);
                    return Err(Violation::new("value written twice by the workload", explanation));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn check_origin(&self, key: Key, reader: &Transaction, value: Value) -> Verdict {
        let read = format!("{:?} read {value} in {key:?}", reader.id);
        match self.writers.get(&value) {
            None => Err(Violation::new("phantom value", format!("{read}, which nobody wrote"))),
            Some(writer) if writer.is_aborted() => Err(Violation::new(
                "aborted read",
                format!("{read}, which {:?} wrote, which aborted", writer.id),
            )),
            Some(writer) if reader.precedes(writer) => Err(Violation::new(
                "read of the future",
                format!(
                    "{read} by {:?}, but {:?} wrote it from {:?} on",
                    reader.completed(),
                    writer.id,
                    writer.invoked
                ),
            )),
            Some(_) => Ok(()),
        }
    }

    fn state(&self, value: Option<Value>) -> State {
        match value {
            None => State::Absent,
            Some(value) if self.observed.contains(&value) => State::Value(value),
            Some(_) => State::Unobserved,
        }
    }

    fn step(&self, action: &Action) -> Option<Move> {
        match action {
            Action::Read { seen, .. } => seen.as_ref().map(|seen| Move::See(self.state(seen.content))),
            // Undone by an error or a savepoint.
            Action::Write { condition: Condition::Always, applied: Some(false), .. } => None,
            Action::Write { condition, value, applied } => {
                let condition = match condition {
                    Condition::Always => Test::Always,
                    Condition::Present => Test::Present,
                    Condition::Absent => Test::Absent,
                    Condition::Is(value) => Test::Is(self.state(Some(*value))),
                };
                Some(Move::Change { condition, to: self.state(*value), applied: *applied })
            }
            Action::ReadList { .. } | Action::Append { .. } => None,
        }
    }

    fn describe(&self, state: State) -> String {
        match state {
            State::Absent => "no row".into(),
            State::Unobserved => "a value that nobody read".into(),
            State::Value(value) => match self.writers.get(&value) {
                Some(writer) => format!("{value} of {:?}", writer.id),
                None => value.to_string(),
            },
        }
    }
}

/// The steps of one transaction on one key: one from the first operation that locks it, and one for each read before.
fn steps_of<'a>(by: &'a Transaction, key: Key, facts: &Facts) -> Vec<Step<'a>> {
    if by.is_aborted() {
        return Vec::new();
    }
    let mut steps: Vec<Vec<Move>> = Vec::new();
    let mut locked = by.isolation == Isolation::Serializable;
    let mut under_lock = Vec::new();
    for operation in registers(by).filter(|operation| operation.key == key) {
        locked |= operation.changes() || matches!(operation.action, Action::Read { locking: true, .. });
        match facts.step(&operation.action) {
            Some(step) if locked => under_lock.push(step),
            Some(step) => steps.push(vec![step]),
            None => {}
        }
    }
    steps.push(under_lock);
    let optional = !by.is_committed();
    let step = |moves: Vec<Move>| Step { by, optional, pure: moves.iter().all(|m| m.is_pure()), moves };
    steps.into_iter().filter(|moves| !moves.is_empty()).map(step).collect()
}

/// One way to explain all so far.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration {
    state: State,
    /// The pending steps that have taken effect.
    done: Bits,
}

/// Configurations, without those that used more unknown steps than another that is otherwise the same.
#[derive(Default)]
struct Configurations(BTreeMap<(State, Bits), Vec<Bits>>);

impl Configurations {
    /// Adds it; false if one that is as good is there.
    fn insert(&mut self, it: Configuration, optional: Bits) -> bool {
        let used = it.done & optional;
        let alike = self.0.entry((it.state, it.done & !optional)).or_default();
        if alike.iter().any(|&less| less & !used == 0) {
            return false;
        }
        alike.retain(|&more| used & !more != 0);
        alike.push(used);
        true
    }

    fn iter(&self) -> impl Iterator<Item = Configuration> {
        let with = |(&(state, done), used): (&(State, Bits), &Vec<Bits>)| {
            used.iter().map(|used| Configuration { state, done: done | used }).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(with)
    }
}

struct Search<'a> {
    key: Key,
    steps: &'a [Step<'a>],
    facts: &'a Facts<'a>,
    /// The step in each slot.
    slots: Vec<Option<usize>>,
    pending: Bits,
    optional: Bits,
    pure: Bits,
    /// Pending steps that may as well have taken effect just before any write.
    blind: Bits,
    configurations: Configurations,
    tried: usize,
}

impl<'a> Search<'a> {
    fn new(key: Key, steps: &'a [Step<'a>], facts: &'a Facts<'a>) -> Search<'a> {
        let mut configurations = Configurations::default();
        configurations.insert(Configuration { state: State::Absent, done: 0 }, 0);
        let (slots, pending, optional, pure, blind) = (Vec::new(), 0, 0, 0, 0);
        Search { key, steps, facts, slots, pending, optional, pure, blind, configurations, tried: 0 }
    }

    fn sent(&mut self, step: usize) -> Verdict {
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.slots.len() < PENDING_MAX => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => return Err(self.undecided(format!("{PENDING_MAX} operations pending at once"))),
        };
        let bit: Bits = 1 << slot;
        self.slots[slot] = Some(step);
        self.pending |= bit;
        let it = &self.steps[step];
        if it.optional {
            self.optional |= bit;
        } else if it.pure {
            self.pure |= bit;
        } else if it.is_blind() && !self.facts.conditions {
            self.blind |= bit;
        }
        Ok(())
    }

    /// The step must have taken effect: keeps the configurations in which it has, or can now.
    fn answered(&mut self, step: usize) -> Verdict {
        let slot = self.slots.iter().position(|&s| s == Some(step)).expect("an answered step was sent");
        let bit: Bits = 1 << slot;
        let (mut kept, mut known, mut open) =
            (Configurations::default(), Configurations::default(), Vec::new());
        for it in self.configurations.iter() {
            let it = self.settle(it);
            if known.insert(it, self.optional) {
                open.push(it);
            }
        }
        while let Some(it) = open.pop() {
            if it.done & bit != 0 {
                kept.insert(Configuration { done: it.done & !bit, ..it }, self.optional);
                continue;
            }
            self.tried += 1;
            if self.tried > CONFIGURATIONS_MAX {
                return Err(self.undecided(format!("more than {CONFIGURATIONS_MAX} orders tried")));
            }
            for next in self.successors(it) {
                if known.insert(next, self.optional) {
                    open.push(next);
                }
            }
        }
        if kept.0.is_empty() {
            return Err(self.unexplained(step, &known));
        }
        self.configurations = kept;
        self.slots[slot] = None;
        for set in [&mut self.pending, &mut self.optional, &mut self.pure, &mut self.blind] {
            *set &= !bit;
        }
        Ok(())
    }

    /// What can follow by one more pending step.
    fn successors(&self, it: Configuration) -> Vec<Configuration> {
        let mut next = Vec::new();
        let mut tried: BTreeSet<&[Move]> = BTreeSet::new();
        for slot in members(self.pending & !it.done) {
            let bit: Bits = 1 << slot;
            let step = self.step(slot);
            if self.optional & bit != 0 && !tried.insert(&step.moves) {
                continue;
            }
            if let Some(state) = step.apply(it.state) {
                let overwrites = matches!(step.moves[..], [Move::Change { condition: Test::Always, .. }]);
                let blind = if overwrites { self.blind } else { 0 };
                next.push(self.settle(Configuration { state, done: it.done | bit | blind }));
            }
        }
        next
    }

    /// Lets what cannot change the register take effect wherever its result fits.
    fn settle(&self, mut it: Configuration) -> Configuration {
        for slot in members(self.pure & !it.done) {
            if self.step(slot).apply(it.state).is_some() {
                it.done |= 1 << slot;
            }
        }
        it
    }

    fn step(&self, slot: usize) -> &Step<'a> {
        &self.steps[self.slots[slot].expect("a pending slot holds a step")]
    }

    fn undecided(&self, why: String) -> Violation {
        Violation::new(UNDECIDED, format!("{:?}: {why}; put fewer clients on a key", self.key))
    }

    fn unexplained(&self, step: usize, known: &Configurations) -> Violation {
        let it = &self.steps[step];
        let states: BTreeSet<State> = known.iter().map(|configuration| configuration.state).collect();
        let states: Vec<String> = states.into_iter().map(|state| self.facts.describe(state)).collect();
        let others = self.slots.iter().flatten().filter(|&&other| other != step);
        let others: Vec<String> = others.map(|&other| format!("{:?}", self.steps[other].by.id)).collect();
        let did: Vec<String> = it.moves.iter().map(|step| self.describe(*step)).collect();
        let explanation = format!(
            "{:?}: {:?}, from {:?} to {:?}, {}; but all before allows only: {} (pending then: {})",
            self.key,
            it.by.id,
            it.by.invoked,
            it.by.completed(),
            did.join(", then "),
            states.join(", or "),
            if others.is_empty() { "nothing else".into() } else { others.join(", ") },
        );
        Violation::new("not linearizable", explanation)
    }

    fn describe(&self, step: Move) -> String {
        match step {
            Move::See(state) => format!("saw {}", self.facts.describe(state)),
            Move::Change { condition, to, applied } => {
                let verb = match applied {
                    Some(false) => "did not write",
                    Some(true) | None => "wrote",
                };
                let condition = match condition {
                    Test::Always => String::new(),
                    Test::Present => " if present".into(),
                    Test::Absent => " if absent".into(),
                    Test::Is(state) => format!(" over {}", self.facts.describe(state)),
                };
                format!("{verb} {}{condition}", self.facts.describe(to))
            }
        }
    }
}

fn members(mut bits: Bits) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let slot = bits.trailing_zeros() as usize;
        (bits != 0).then(|| {
            bits &= bits - 1;
            slot
        })
    })
}

#[cfg(test)]
mod tests;
