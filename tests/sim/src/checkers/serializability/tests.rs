use proptest::prelude::*;
use twofold_proto::{
    ids::{Incarnation, TransactionId, Version},
    random::Random,
};

use super::*;
use crate::{
    checkers::generate::{Script, Shape, append, changed, execute, key, run, saw_list},
    history::{Action, FinalRows, Handle, Operation, Outcome, Transaction},
};

const COMMITTED: Outcome = Outcome::Committed { epoch: None };
const SERIALIZABLE: Options = Options { isolation: Isolation::Serializable, strict: false };
const STRICT: Options = Options { isolation: Isolation::Serializable, strict: true };
const READ_COMMITTED: Options = Options { isolation: Isolation::ReadCommitted, strict: false };

/// Committed transactions of these operations, all at once.
fn concurrent(transactions: &[&[Operation]]) -> History {
    let mut script = Script { isolation: Some(Isolation::ReadCommitted), ..Script::default() };
    for (session, operations) in (1..).zip(transactions) {
        script.x(session, 0, 10, operations.to_vec());
    }
    script.history
}

fn anomaly(history: &History, options: Options) -> Option<&'static str> {
    check(history, options).err().map(|violation| violation.anomaly)
}

#[test]
fn a_serial_history_passes() {
    let mut script = Script::default();
    script.x(1, 0, 1, [append(1, 1), append(2, 2)]).x(2, 2, 3, [saw_list(1, &[1]), append(1, 3)]);
    script.x(1, 4, 5, [saw_list(1, &[1, 3]), append(1, 4), saw_list(1, &[1, 3, 4]), saw_list(2, &[2])]);
    assert_eq!(check(&script.history, STRICT), Ok(()));
}

#[test]
fn what_a_transaction_appends_to_what_it_read_need_not_be_read() {
    let mut script = Script::default();
    script.x(1, 0, 1, [saw_list(1, &[]), append(1, 1)]).x(2, 2, 3, [saw_list(1, &[1]), append(1, 2)]);
    assert_eq!(check(&script.history, STRICT), Ok(()));
    script.x(3, 2, 3, [saw_list(1, &[1]), append(1, 3)]);
    assert_eq!(anomaly(&script.history, SERIALIZABLE), Some("G2"));
}

#[test]
fn g0_interleaved_writes() {
    let history = concurrent(&[
        &[append(1, 1), append(2, 1)],
        &[append(1, 2), append(2, 2)],
        &[saw_list(1, &[1, 2]), saw_list(2, &[2, 1])],
    ]);
    assert_eq!(
        check(&history, READ_COMMITTED).unwrap_err().to_string(),
        "G0: x1.1 appended to t1/1 before x2.1 appended 2 (ww); x2.1 appended to t1/2 before x1.1 appended 1 (ww)"
    );
}

#[test]
fn g1a_aborted_read() {
    let mut script = Script::default();
    script.transaction(1, 0, Some((5, Outcome::Aborted)), [append(1, 1)]).x(2, 0, 5, [saw_list(1, &[1])]);
    assert_eq!(anomaly(&script.history, READ_COMMITTED), Some("G1a"));
    let mut script = Script::default();
    script.transaction(1, 0, Some((5, Outcome::Unknown)), [append(1, 1)]).x(2, 0, 5, [saw_list(1, &[1])]);
    assert_eq!(anomaly(&script.history, READ_COMMITTED), None);
}

#[test]
fn g1b_intermediate_read() {
    let writer = [append(1, 1), append(1, 2)];
    assert_eq!(anomaly(&concurrent(&[&writer, &[saw_list(1, &[1])]]), READ_COMMITTED), Some("G1b"));
    assert_eq!(anomaly(&concurrent(&[&writer, &[saw_list(1, &[1, 2])]]), READ_COMMITTED), None);
    let own = [append(1, 9), saw_list(1, &[1, 9])];
    assert_eq!(anomaly(&concurrent(&[&writer, &own]), READ_COMMITTED), Some("G1b"));
}

#[test]
fn g1c_each_saw_the_other() {
    let history = concurrent(&[&[append(1, 1), saw_list(2, &[2])], &[append(2, 2), saw_list(1, &[1])]]);
    assert_eq!(
        check(&history, READ_COMMITTED).unwrap_err().to_string(),
        "G1c: x1.1 appended 1 to t1/1, which x2.1 read (wr); x2.1 appended 2 to t1/2, which x1.1 read (wr)"
    );
}

#[test]
fn g_single_read_skew() {
    let history = concurrent(&[&[append(1, 1), append(2, 2)], &[saw_list(1, &[]), saw_list(2, &[2])]]);
    assert_eq!(
        check(&history, SERIALIZABLE).unwrap_err().to_string(),
        "G-single: x2.1 read t1/1 without what x1.1 appended (rw); \
         x1.1 appended 2 to t1/2, which x2.1 read (wr)"
    );
    assert_eq!(anomaly(&history, READ_COMMITTED), None);
}

#[test]
fn g_single_lost_update() {
    // Both saw the empty list, one of the appends came first.
    let history = concurrent(&[
        &[saw_list(1, &[]), append(1, 1)],
        &[saw_list(1, &[]), append(1, 2)],
        &[saw_list(1, &[1, 2])],
    ]);
    assert_eq!(anomaly(&history, SERIALIZABLE), Some("G-single"));
    assert_eq!(anomaly(&history, READ_COMMITTED), None);
}

#[test]
fn g2_write_skew() {
    let history = concurrent(&[&[saw_list(1, &[]), append(2, 2)], &[saw_list(2, &[]), append(1, 1)]]);
    assert_eq!(anomaly(&history, SERIALIZABLE), Some("G2"));
    assert_eq!(anomaly(&history, READ_COMMITTED), None);
}

#[test]
fn real_time_counts_only_if_asked_for() {
    let mut script = Script::default();
    script.x(1, 0, 1, [append(1, 1)]).x(2, 5, 6, [saw_list(1, &[])]);
    assert_eq!(anomaly(&script.history, SERIALIZABLE), None);
    assert_eq!(
        check(&script.history, STRICT).unwrap_err().to_string(),
        "G-single-realtime: x2.1 read t1/1 without what x1.1 appended (rw); \
         x1.1 was answered before x2.1 began (real time)"
    );
    let mut script = Script::default();
    script.x(1, 0, 1, [append(1, 1)]).x(2, 5, 6, [append(1, 2)]).x(3, 0, 9, [saw_list(1, &[2, 1])]);
    assert_eq!(anomaly(&script.history, STRICT), Some("G0-realtime"));
    let mut script = Script::default();
    script.x(1, 0, 1, [saw_list(1, &[2])]).x(2, 5, 6, [append(1, 2)]);
    assert_eq!(anomaly(&script.history, STRICT), Some("G1c-realtime"));
    let mut script = Script::default();
    script.x(1, 0, 9, [saw_list(1, &[]), append(2, 2)]).x(2, 0, 3, [append(1, 1)]);
    script.x(3, 5, 9, [saw_list(2, &[]), saw_list(3, &[])]);
    assert_eq!(anomaly(&script.history, STRICT), Some("G2-realtime"));
}

#[test]
fn contradictions_are_found_before_any_cycle() {
    let read = |content: &[Value]| saw_list(1, content);
    let appends = [append(1, 1)];
    assert_eq!(anomaly(&concurrent(&[&[read(&[7])]]), READ_COMMITTED), Some("phantom element"));
    assert_eq!(anomaly(&concurrent(&[&appends, &[read(&[1, 1])]]), READ_COMMITTED), Some("double element"));
    let two = [append(1, 2)];
    let history = concurrent(&[&appends, &two, &[read(&[1, 2])], &[read(&[2])]]);
    assert_eq!(anomaly(&history, READ_COMMITTED), Some("incompatible order"));
    let again = concurrent(&[&appends, &appends]);
    assert_eq!(anomaly(&again, READ_COMMITTED), Some("value appended twice by the workload"));
}

#[test]
fn a_transaction_sees_its_own_appends_and_no_change_under_its_lock() {
    let other = [append(1, 1)];
    for (operations, expected) in [
        (vec![append(1, 2), saw_list(1, &[2])], None),
        (vec![append(1, 2), saw_list(1, &[1, 2])], None),
        (vec![append(1, 2), saw_list(1, &[])], Some("internal")),
        (vec![append(1, 2), saw_list(1, &[2, 1])], Some("internal")),
        (vec![saw_list(1, &[2]), append(1, 2)], Some("internal")),
        (vec![append(1, 2), saw_list(1, &[2]), saw_list(1, &[1, 2])], Some("incompatible order")),
        (vec![saw_list(1, &[]), saw_list(1, &[1])], None),
        (vec![saw_list(1, &[]).locking(), saw_list(1, &[1])], Some("internal")),
    ] {
        let found = anomaly(&concurrent(&[&other, &operations]), READ_COMMITTED);
        assert_eq!(found, expected, "{operations:?}");
    }
}

#[test]
fn a_long_history_of_eight_clients_is_decided() {
    let shape = Shape { clients: 8, keys: 20, transactions: 2_000, failures: 100, ..Shape::lists() };
    let history = run(1, &shape).history;
    assert_eq!(check(&history, STRICT), Ok(()));
    let swapped = with_swapped_appends(&history, &mut Random::new(1)).unwrap();
    assert!(check(&swapped, STRICT).is_err());
}

fn lists_read(transaction: &Transaction) -> impl Iterator<Item = (Key, &Vec<Value>)> {
    transaction.operations.iter().filter_map(|operation| match &operation.action {
        Action::ReadList { seen: Some(seen), .. } => Some((operation.key, &seen.content)),
        _ => None,
    })
}

/// The history with two neighbouring elements swapped wherever both were read, of which the writer of the first had
/// been answered when that of the second began.
fn with_swapped_appends(history: &History, random: &mut Random) -> Option<History> {
    let writer = |key, value| {
        let action = Action::Append { value };
        let operation = Operation { key, action };
        history.transactions().iter().find(|t| t.operations.contains(&operation))
    };
    let end = history.transactions().last()?;
    let mut pairs: Vec<(Key, Value, Value)> = lists_read(end)
        .flat_map(|(key, list)| list.windows(2).map(move |pair| (key, pair[0], pair[1])))
        .filter(|&(key, a, b)| writer(key, a).zip(writer(key, b)).is_some_and(|(a, b)| a.precedes(b)))
        .collect();
    random.shuffle(&mut pairs);
    let &(key, a, b) = pairs.first()?;
    Some(changed(history, |_, operation| {
        if let Action::ReadList { seen: Some(seen), .. } = &mut operation.action
            && operation.key == key
            && let Some(place) = seen.content.windows(2).position(|pair| pair == [a, b])
        {
            seen.content.swap(place, place + 1);
        }
    }))
}

/// The history with one element missing from every read, as if the append had been lost; the appender was answered
/// before the last read.
fn with_lost_append(history: &History, random: &mut Random) -> Option<History> {
    let mut appends: Vec<(Key, Value)> = Vec::new();
    for transaction in history.transactions().iter().filter(|t| t.is_committed()) {
        for operation in &transaction.operations {
            if let Action::Append { value } = operation.action {
                appends.push((operation.key, value));
            }
        }
    }
    random.shuffle(&mut appends);
    let &(key, lost) = appends.first()?;
    Some(changed(history, |_, operation| {
        if let Action::ReadList { seen: Some(seen), .. } = &mut operation.action
            && operation.key == key
        {
            seen.content.retain(|&value| value != lost);
        }
    }))
}

/// A few transactions whose operations interleave at random on a database without any isolation; all lists are read
/// in the end.
fn unisolated(random: &mut Random) -> History {
    let (count, keys) = (random.between(2, 4), random.between(1, 3));
    let mut history = History::default();
    let mut rows = FinalRows::new();
    let mut value = 0;
    let mut open: Vec<(Handle, u64)> = Vec::new();
    let (mut begun, mut now) = (0, 0);
    while begun < count || !open.is_empty() {
        now += 1;
        if begun < count && (open.is_empty() || random.one_in(2)) {
            begun += 1;
            let id = TransactionId { session: Incarnation(begun), number: 1 };
            let handle = history.begin(id, Isolation::ReadCommitted, Time(now));
            open.push((handle, random.between(1, 3)));
            continue;
        }
        let n = random.below(open.len() as u64) as usize;
        let (handle, left) = open[n];
        if left == 0 {
            history.answer(handle, Time(now), COMMITTED);
            open.remove(n);
            continue;
        }
        open[n].1 -= 1;
        value += 1;
        let key = key(random.below(keys));
        let operation =
            if random.one_in(2) { Operation::append(key, value) } else { Operation::read_list(key) };
        let place = history.push(handle, operation);
        execute(&mut rows, &mut history.transaction(handle).operations[place], Version::default());
    }
    let id = TransactionId { session: Incarnation(99), number: 1 };
    let end = history.begin(id, Isolation::ReadCommitted, Time(now + 1));
    for row in 0..keys {
        let place = history.push(end, Operation::read_list(key(row)));
        execute(&mut rows, &mut history.transaction(end).operations[place], Version::default());
    }
    history.answer(end, Time(now + 2), COMMITTED);
    history
}

/// Whether some serial order gives what was read, by trying each: the definition itself.
fn explained(history: &History, strict: bool) -> bool {
    fn search(left: &[&Transaction], rows: &FinalRows, strict: bool) -> bool {
        if left.is_empty() {
            return true;
        }
        (0..left.len()).any(|n| {
            if strict && left.iter().any(|other| other.precedes(left[n])) {
                return false;
            }
            let mut rows = rows.clone();
            let same = left[n].operations.iter().all(|operation| {
                let mut again = operation.clone();
                execute(&mut rows, &mut again, Version::default());
                again == *operation
            });
            let rest: Vec<_> = left.iter().copied().filter(|t| t.id != left[n].id).collect();
            same && search(&rest, &rows, strict)
        })
    }
    search(&history.transactions().iter().collect::<Vec<_>>(), &FinalRows::new(), strict)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn real_executions_are_accepted(seed: u64, strict: bool) {
        let history = run(seed, &Shape::lists()).history;
        prop_assert_eq!(check(&history, Options { strict, ..SERIALIZABLE }), Ok(()));
        let shape = Shape { isolation: Isolation::ReadCommitted, ..Shape::lists() };
        let history = run(seed, &shape).history;
        prop_assert_eq!(check(&history, Options { strict, ..READ_COMMITTED }), Ok(()));
    }

    #[test]
    fn swapped_appends_are_found(seed: u64) {
        let history = run(seed, &Shape::lists()).history;
        let swapped = with_swapped_appends(&history, &mut Random::new(seed)).expect("appends follow each other");
        prop_assert!(check(&swapped, STRICT).is_err());
    }

    #[test]
    fn lost_appends_are_found(seed: u64) {
        let history = run(seed, &Shape::lists()).history;
        let lost = with_lost_append(&history, &mut Random::new(seed)).expect("there are appends");
        prop_assert!(check(&lost, STRICT).is_err());
    }

    #[test]
    fn it_agrees_with_the_definition(seed: u64) {
        let mut random = Random::new(seed);
        for _ in 0..20 {
            let history = unisolated(&mut random);
            prop_assert_eq!(check(&history, SERIALIZABLE).is_ok(), explained(&history, false), "{:#?}", history);
            prop_assert_eq!(check(&history, STRICT).is_ok(), explained(&history, true), "{:#?}", history);
        }
    }
}

#[test]
fn unisolated_histories_are_of_all_kinds() {
    let mut random = Random::new(1);
    let found: std::collections::BTreeSet<_> =
        (0..3000).map(|_| anomaly(&unisolated(&mut random), SERIALIZABLE)).collect();
    let kinds = [None, Some("G0"), Some("G1b"), Some("G1c"), Some("G-single"), Some("G2"), Some("internal")];
    for kind in kinds {
        assert!(found.contains(&kind), "{kind:?} is not in {found:?}");
    }
}
