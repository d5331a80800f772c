use proptest::prelude::*;
use twofold_proto::{
    ids::{Incarnation, TransactionId},
    random::Random,
};

use super::*;
use crate::{
    checkers::generate::{Script, Shape, changed, key, run, saw, wrote, wrote_if},
    history::Outcome,
};

const COMMITTED: Outcome = Outcome::Committed { epoch: None };

fn anomaly(script: &Script) -> &'static str {
    check(&script.history).unwrap_err().anomaly
}

#[test]
fn overlapping_operations_may_take_effect_in_any_order() {
    let mut script = Script::default();
    script.x(1, 0, 10, [wrote(1, 1)]);
    script.x(2, 20, 50, [wrote(1, 2)]);
    script.x(3, 21, 30, [saw(1, Some(2))]);
    script.x(4, 20, 50, [wrote(1, 3)]);
    script.x(3, 31, 40, [saw(1, Some(3))]);
    script.x(3, 51, 60, [saw(1, Some(3))]);
    assert_eq!(check(&script.history), Ok(()));
    script.x(3, 61, 70, [saw(1, Some(2))]);
    assert_eq!(anomaly(&script), "not linearizable");
}

#[test]
fn a_stale_read_is_told_in_words() {
    let mut script = Script::default();
    script.x(1, 0, 1_000_000, [wrote(1, 1)]).x(1, 2_000_000, 3_000_000, [wrote(1, 2)]);
    script.x(2, 4_000_000, 5_000_000, [saw(1, Some(1))]);
    assert_eq!(
        check(&script.history).unwrap_err().to_string(),
        "not linearizable: t1/1: x2.1, from 4.000000ms to 5.000000ms, saw 1 of x1.1; but all before allows only: \
         a value that nobody read (pending then: nothing else)"
    );
}

#[test]
fn reads_of_what_never_was_are_named() {
    let mut script = Script::default();
    script.x(1, 0, 1, [saw(1, Some(9))]);
    assert_eq!(anomaly(&script), "phantom value");
    let mut script = Script::default();
    script.transaction(1, 0, Some((1, Outcome::Aborted)), [wrote(1, 9)]).x(2, 2, 3, [saw(1, Some(9))]);
    assert_eq!(anomaly(&script), "aborted read");
    let mut script = Script::default();
    script.x(2, 2, 3, [saw(1, Some(9))]).x(1, 5, 6, [wrote(1, 9)]);
    assert_eq!(anomaly(&script), "read of the future");
    let mut script = Script::default();
    script.x(2, 2, 3, [wrote(1, 9)]).x(1, 5, 6, [wrote(1, 9)]);
    assert_eq!(anomaly(&script), "value written twice by the workload");
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never_but_once() {
    let unknown = |script: &mut Script| {
        script.x(1, 0, 10, [wrote(1, 1)]);
        script.transaction(2, 20, Some((25, Outcome::Unknown)), [wrote(1, 2)]);
        script.x(3, 30, 31, [saw(1, Some(1))]);
    };
    let mut script = Script::default();
    unknown(&mut script);
    assert_eq!(check(&script.history), Ok(()));
    script.x(3, 40, 41, [saw(1, Some(2))]);
    assert_eq!(check(&script.history), Ok(()));
    script.x(3, 50, 51, [saw(1, Some(1))]);
    assert_eq!(anomaly(&script), "not linearizable");
}

#[test]
fn conditional_writes_must_have_had_their_results() {
    let history = |last: Operation| {
        let mut script = Script::default();
        script.x(1, 0, 1, [wrote_if(1, Condition::Absent, Some(1), true)]);
        script.x(1, 2, 3, [wrote_if(1, Condition::Absent, Some(2), false)]);
        script.x(1, 4, 5, [wrote_if(1, Condition::Is(1), Some(3), true)]);
        script.x(1, 6, 7, [wrote_if(1, Condition::Is(1), Some(4), false)]);
        script.x(1, 8, 9, [wrote_if(1, Condition::Present, None, true)]);
        script.x(1, 10, 11, [wrote_if(1, Condition::Present, None, false)]);
        script.x(1, 12, 13, [last]);
        check(&script.history).map_err(|violation| violation.anomaly)
    };
    assert_eq!(history(saw(1, None)), Ok(()));
    assert_eq!(history(wrote_if(1, Condition::Absent, Some(9), true)), Ok(()));
    assert_eq!(history(wrote_if(1, Condition::Absent, Some(9), false)), Err("not linearizable"));
    assert_eq!(history(wrote_if(1, Condition::Present, Some(9), true)), Err("not linearizable"));
    assert_eq!(history(wrote_if(1, Condition::Is(3), Some(9), true)), Err("not linearizable"));
    assert_eq!(history(wrote(1, 9)), Ok(()));
}

#[test]
fn two_winners_of_one_compare_and_set_are_found() {
    let mut script = Script::default();
    script.x(1, 0, 1, [wrote(1, 1)]);
    script.x(2, 2, 9, [wrote_if(1, Condition::Is(1), Some(2), true)]);
    script.x(3, 2, 9, [wrote_if(1, Condition::Is(1), Some(3), true)]);
    assert_eq!(anomaly(&script), "not linearizable");
}

#[test]
fn only_what_is_locked_must_be_of_one_instant() {
    for (isolation, locking, good) in [
        (Isolation::ReadCommitted, false, true),
        (Isolation::ReadCommitted, true, false),
        (Isolation::Serializable, false, false),
    ] {
        let mut script = Script { isolation: Some(isolation), ..Script::default() };
        let read = |content| if locking { saw(1, content).locking() } else { saw(1, content) };
        script.x(1, 0, 9, [read(None), read(Some(1))]).x(2, 1, 8, [wrote(1, 1)]);
        assert_eq!(check(&script.history).is_ok(), good, "{isolation:?} {locking}");
    }
}

#[test]
fn a_transaction_sees_its_own_write_at_any_isolation() {
    for (seen, good) in [(1, true), (2, false)] {
        let mut script = Script { isolation: Some(Isolation::ReadCommitted), ..Script::default() };
        script.x(1, 0, 9, [wrote(1, 1), saw(1, Some(seen))]).x(2, 0, 9, [wrote(1, 2)]);
        assert_eq!(check(&script.history).is_ok(), good, "{seen}");
    }
}

#[test]
fn a_write_that_nobody_saw_still_comes_somewhere() {
    let mut script = Script::default();
    script.x(1, 0, 1, [wrote(1, 1)]).x(2, 2, 10, [wrote(1, 5)]).x(3, 2, 10, [saw(1, Some(1)), wrote(1, 2)]);
    assert_eq!(check(&script.history), Ok(()));
    // Neither before the third, which saw 1, nor after it.
    script.x(1, 20, 21, [saw(1, Some(2))]);
    assert_eq!(anomaly(&script), "not linearizable");
}

#[test]
fn statements_that_were_undone_do_nothing() {
    let mut script = Script::default();
    script.x(1, 0, 1, [wrote(1, 1)]).x(1, 2, 3, [wrote_if(1, Condition::Always, Some(2), false)]);
    script.x(1, 4, 5, [saw(1, Some(1))]);
    assert_eq!(check(&script.history), Ok(()));
}

#[test]
fn many_unknown_writes_do_not_explode() {
    let mut script = Script::default();
    script.x(1, 0, 1, [wrote(1, 1)]);
    for n in 0..60 {
        script.transaction(100 + n, 2, None, [wrote(1, 100 + n)]);
        script.transaction(200 + n, 2, None, [wrote_if(1, Condition::Present, None, true)]);
    }
    for n in 0..40 {
        script.x(1, 10 + 10 * n, 12 + 10 * n, [wrote(1, 1000 + n)]);
        script.x(1, 14 + 10 * n, 15 + 10 * n, [saw(1, Some(if n % 3 == 0 { 100 + n } else { 1000 + n }))]);
    }
    assert_eq!(check(&script.history), Ok(()));
    script.x(1, 900, 901, [saw(1, Some(1000))]);
    assert_eq!(anomaly(&script), "not linearizable");
}

#[test]
fn too_many_clients_on_a_key_are_refused() {
    let mut script = Script::default();
    for n in 0..200 {
        script.x(n, 0, 10, [wrote_if(1, Condition::Present, Some(n), false)]);
    }
    assert_eq!(anomaly(&script), UNDECIDED);
}

#[test]
fn a_long_history_of_eight_clients_is_decided() {
    let shape = Shape { clients: 8, keys: 20, transactions: 5_000, failures: 100, ..Shape::registers(1) };
    let history = run(1, &shape).history;
    assert_eq!(check(&history), Ok(()));
    let stale = with_stale_read(&history, &mut Random::new(1)).unwrap();
    assert!(check(&stale).is_err());
}

/// The history with one read made to see a value that had surely been overwritten: there are three writes of the
/// key, one after the other, and then the read, which sees the first.
fn with_stale_read(history: &History, random: &mut Random) -> Option<History> {
    let transactions = history.transactions();
    let writes = |t: &Transaction, key: Key| {
        let value = t.operations.iter().find_map(|o| match o.action {
            Action::Write { condition: Condition::Always, value, .. } if o.key == key => value,
            _ => None,
        });
        value.filter(|_| t.is_committed())
    };
    let mut readers: Vec<usize> = (0..transactions.len())
        .filter(|&n| transactions[n].is_committed() && transactions[n].operations.len() == 1)
        .filter(|&n| matches!(transactions[n].operations[0].action, Action::Read { .. }))
        .collect();
    random.shuffle(&mut readers);
    readers.into_iter().find_map(|reader| {
        let (by, key) = (&transactions[reader], transactions[reader].operations[0].key);
        let second = transactions.iter().rfind(|t| t.precedes(by) && writes(t, key).is_some())?;
        let (_, value) = transactions
            .iter()
            .filter(|t| t.precedes(second))
            .find_map(|t| writes(t, key).map(|value| (t, value)))?;
        Some(changed(history, |n, operation| {
            if n == reader {
                operation.saw(Some(value), Default::default());
            }
        }))
    })
}

/// Whether some order of all explains all, by trying each: the definition itself.
fn explained(history: &History) -> bool {
    fn search(left: &[&Transaction], state: Option<Value>) -> bool {
        let surely = |t: &&&Transaction| t.is_committed();
        if left.iter().filter(surely).count() == 0 {
            return true;
        }
        (0..left.len()).any(|n| {
            if left.iter().filter(surely).any(|other| other.precedes(left[n])) {
                return false;
            }
            let next = left[n].operations.iter().try_fold(state, |state, operation| effect(operation, state));
            let rest: Vec<_> = left.iter().copied().filter(|t| t.id != left[n].id).collect();
            next.is_some_and(|next| search(&rest, next))
        })
    }
    fn effect(operation: &Operation, state: Option<Value>) -> Option<Option<Value>> {
        match &operation.action {
            Action::Read { seen: Some(seen), .. } => (seen.content == state).then_some(state),
            &Action::Write { condition, value, applied } => {
                let holds = match condition {
                    Condition::Always => true,
                    Condition::Present => state.is_some(),
                    Condition::Absent => state.is_none(),
                    Condition::Is(value) => state == Some(value),
                };
                (applied != Some(!holds)).then_some(if holds { value } else { state })
            }
            _ => Some(state),
        }
    }
    let left: Vec<&Transaction> = history.transactions().iter().filter(|t| !t.is_aborted()).collect();
    search(&left, None)
}

/// A few operations with results out of the blue, on one key.
fn arbitrary(random: &mut Random) -> History {
    let count = random.between(2, 7);
    let kinds = if random.one_in(2) { 8 } else { 5 };
    let mut history = History::default();
    for n in 1..=count {
        let from = random.below(12);
        let id = TransactionId { session: Incarnation(n), number: 1 };
        let x = history.begin(id, Isolation::Serializable, Time(from));
        let any_value = |random: &mut Random| random.between(1, count);
        for place in 0..random.between(1, 2) {
            let value = n + place * 100;
            let operation = match random.below(kinds) {
                0..3 => saw(1, (!random.one_in(3)).then(|| any_value(random))),
                3..5 => wrote(1, value),
                5 => wrote_if(1, Condition::Present, None, random.one_in(2)),
                6 => wrote_if(1, Condition::Absent, Some(value), random.one_in(2)),
                _ if random.one_in(3) => Operation::write_if(key(1), Condition::Present, Some(value)),
                _ => wrote_if(1, Condition::Is(any_value(random)), Some(value), random.one_in(2)),
            };
            history.push(x, operation);
        }
        let outcome = match random.below(6) {
            0 => Outcome::Unknown,
            1 => Outcome::Aborted,
            _ => COMMITTED,
        };
        history.answer(x, Time(from + random.below(8)), outcome);
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn real_executions_are_accepted(seed: u64, operations in 1u64..4, committed: bool, conditions: bool) {
        let isolation = if committed { Isolation::ReadCommitted } else { Isolation::Serializable };
        let shape = Shape { isolation, conditions, ..Shape::registers(operations) };
        prop_assert_eq!(check(&run(seed, &shape).history), Ok(()));
    }

    #[test]
    fn a_stale_read_is_found(seed: u64) {
        let shape = Shape { conditions: false, ..Shape::registers(1) };
        let history = run(seed, &shape).history;
        let stale = with_stale_read(&history, &mut Random::new(seed)).expect("reads follow writes");
        prop_assert!(check(&stale).is_err());
    }

    #[test]
    fn it_agrees_with_the_definition(seed: u64) {
        let mut random = Random::new(seed);
        for _ in 0..50 {
            let history = arbitrary(&mut random);
            prop_assert_eq!(check(&history).is_ok(), explained(&history), "{:#?}", history);
        }
    }
}

#[test]
fn arbitrary_histories_are_of_both_kinds() {
    let mut random = Random::new(1);
    let good = (0..1000).filter(|_| explained(&arbitrary(&mut random))).count();
    assert!((100..900).contains(&good), "{good}");
}
