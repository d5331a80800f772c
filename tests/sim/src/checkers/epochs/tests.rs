use std::time::Duration;

use proptest::prelude::*;
use twofold_proto::{
    ids::{Incarnation, TransactionId, Version},
    random::Random,
    time::Time,
};

use super::*;
use crate::{
    checkers::generate::{Script, Shape, append, key, run, wrote, wrote_if},
    history::{FinalContent, FinalRow, Handle, Isolation, Outcome},
};

fn version(epoch: u64) -> Version {
    Version { epoch: Epoch(epoch), number: 1 }
}

fn saw(row: u64, value: Value, epoch: u64) -> Operation {
    let mut operation = Operation::read(key(row));
    operation.saw(Some(value), version(epoch));
    operation
}

fn saw_list(row: u64, list: &[Value], epoch: u64) -> Operation {
    let mut operation = Operation::read_list(key(row));
    operation.saw_list(list.to_vec(), version(epoch));
    operation
}

/// Transactions (session, from, to, epoch, operation).
fn history(transactions: &[(u64, u64, u64, u64, Operation)]) -> History {
    let mut script = Script::default();
    for (session, from, to, epoch, operation) in transactions {
        let outcome = Outcome::Committed { epoch: Some(Epoch(*epoch)) };
        script.transaction(*session, *from, Some((*to, outcome)), [operation.clone()]);
    }
    script.history
}

fn anomaly(transactions: &[(u64, u64, u64, u64, Operation)]) -> Option<&'static str> {
    check(&history(transactions)).err().map(|violation| violation.anomaly)
}

#[test]
fn reads_come_from_no_later_epoch() {
    let reads = |epoch, seen| anomaly(&[(1, 0, 9, 4, wrote(1, 1)), (2, 0, 9, epoch, saw(1, 1, seen))]);
    assert_eq!(reads(4, 4), None);
    assert_eq!(reads(5, 4), None);
    assert_eq!(reads(3, 4), Some("read from a later epoch"));
    assert_eq!(reads(5, 5), Some("wrong version"));
    let lists =
        |epoch, seen| anomaly(&[(1, 0, 9, 4, append(1, 1)), (2, 0, 9, epoch, saw_list(1, &[1], seen))]);
    assert_eq!(lists(4, 4), None);
    assert_eq!(lists(3, 4), Some("read from a later epoch"));
    assert_eq!(lists(4, 3), Some("wrong version"));
}

#[test]
fn what_was_overwritten_is_in_no_later_epoch() {
    let swap = |epoch| wrote_over(1, 0, epoch, wrote_if(1, Condition::Is(1), Some(2), true));
    fn wrote_over(from: u64, answered: u64, epoch: u64, second: Operation) -> Option<&'static str> {
        let until = if answered > 0 { answered } else { 9 };
        anomaly(&[(1, 0, until, 4, wrote(1, 1)), (2, from, 9, epoch, second)])
    }
    assert_eq!(swap(4), None);
    assert_eq!(swap(3), Some("cut not closed"));
    // Blindly: only if one was answered before the other began.
    assert_eq!(wrote_over(1, 0, 3, wrote(1, 2)), None);
    assert_eq!(wrote_over(6, 5, 3, wrote(1, 2)), Some("cut not closed"));
    assert_eq!(wrote_over(6, 5, 3, wrote_if(1, Condition::Present, Some(2), false)), None);
    let lists = |second| {
        let read = saw_list(1, &[1, 2], second);
        anomaly(&[(1, 0, 9, 4, append(1, 1)), (2, 0, 9, second, append(1, 2)), (3, 0, 9, 7, read)])
    };
    assert_eq!(lists(4), None);
    assert_eq!(lists(3), Some("cut not closed"));
}

#[test]
fn an_unknown_append_in_between_hides_nothing() {
    let committed = |epoch| Some((9, Outcome::Committed { epoch: Some(Epoch(epoch)) }));
    let mut script = Script::default();
    script.transaction(1, 0, committed(4), [append(1, 1)]).transaction(2, 0, None, [append(1, 2)]);
    script.transaction(3, 0, committed(3), [append(1, 3)]);
    script.transaction(4, 0, committed(7), [saw_list(1, &[1, 2, 3], 3)]);
    assert_eq!(check(&script.history).unwrap_err().anomaly, "cut not closed");
}

#[test]
fn the_version_of_an_own_pending_write_says_nothing() {
    let mut script = Script::default();
    let outcome = Outcome::Committed { epoch: Some(Epoch(4)) };
    script.transaction(
        1,
        0,
        Some((9, outcome)),
        [wrote(1, 1), saw(1, 1, 99), append(2, 2), saw_list(2, &[2], 99)],
    );
    assert_eq!(check(&script.history), Ok(()));
}

#[test]
fn a_session_goes_on_in_the_same_epoch_or_a_later_one() {
    let session = |second| anomaly(&[(1, 0, 1, 4, wrote(1, 1)), (1, 2, 3, second, wrote(2, 2))]);
    assert_eq!(session(4), None);
    assert_eq!(session(3), Some("cut not closed"));
    assert_eq!(
        check(&history(&[(1, 0, 1, 4, wrote(1, 1)), (1, 2, 3, 3, wrote(2, 2))])).unwrap_err().explanation,
        "x1.2 came, in one session, after the answer of x1.1: epoch 0.3 holds it without epoch 0.4"
    );
}

const RESTART: SystemRestart = SystemRestart {
    crashed: Time::from_millis(1000),
    back: Time::from_millis(1500),
    number: 2,
    cut: Epoch::new(1, 10),
};

fn restart(epoch: Epoch, answered: u64, durable: bool, operation: Operation) -> Option<&'static str> {
    let mut history = History::default();
    let id = TransactionId { session: Incarnation(1), number: 1 };
    let x: Handle = history.begin(id, Isolation::ReadCommitted, Time(0));
    history.push(x, operation);
    history.transaction(x).durable = durable;
    history.answer(x, Time::from_millis(answered), Outcome::Committed { epoch: Some(epoch) });
    check_restart(&history, &RESTART, Duration::from_millis(120)).err().map(|violation| violation.anomaly)
}

#[test]
fn a_restart_loses_only_what_it_may() {
    let (kept, lost, new) = (Epoch::new(1, 10), Epoch::new(1, 11), Epoch::new(2, 12));
    assert_eq!(restart(kept, 100, true, wrote(1, 1)), None);
    assert_eq!(restart(lost, 950, false, wrote(1, 1)), None);
    assert_eq!(restart(lost, 1001, false, wrote(1, 1)), None);
    assert_eq!(restart(lost, 950, true, wrote(1, 1)), Some("lost durable commit"));
    assert_eq!(restart(lost, 850, false, wrote(1, 1)), Some("lost beyond the window"));
    assert_eq!(restart(lost, 850, false, saw(1, 1, 4)), None);
    assert_eq!(restart(new, 2000, true, wrote(1, 1)), None);
}

#[test]
fn a_restart_restores_nothing_past_its_cut() {
    let rows = |epoch| {
        let version = Version { epoch, number: 1 };
        FinalRows::from([(key(1), FinalRow { content: FinalContent::Value(1), version })])
    };
    assert_eq!(check_discarded(&rows(Epoch::new(1, 10)), &[RESTART]), Ok(()));
    assert_eq!(check_discarded(&rows(Epoch::new(2, 11)), &[RESTART]), Ok(()));
    let violation = check_discarded(&rows(Epoch::new(1, 11)), &[RESTART]).unwrap_err();
    assert_eq!(
        violation.to_string(),
        "restored past the cut: t1/1 is at version e1.11#1, after the cut 1.10"
    );
}

/// The history with a transaction stamped earlier than one that it read from, overwrote, or followed; the whole
/// history is kept otherwise.
fn with_early_stamp(history: &History, random: &mut Random) -> History {
    let latest = |before: &Transaction| {
        let earlier = history.transactions().iter().filter(|t| t.id.session == before.id.session);
        earlier.filter(|t| t.precedes(before)).filter_map(Transaction::epoch).max()
    };
    let stamped: Vec<usize> = (0..history.transactions().len())
        .filter(|&n| history.transactions()[n].epoch().is_some())
        .filter(|&n| latest(&history.transactions()[n]).is_some_and(|epoch| epoch > Epoch(1)))
        .collect();
    let victim = *random.pick(&stamped);
    let mut copy = History::default();
    for (n, transaction) in history.transactions().iter().enumerate() {
        let handle = copy.begin(transaction.id, transaction.isolation, transaction.invoked);
        *copy.transaction(handle) = transaction.clone();
        if n == victim {
            let before = latest(transaction).map(Epoch::previous);
            copy.transaction(handle).answer =
                Some((transaction.completed(), Outcome::Committed { epoch: before }));
        }
    }
    copy
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn real_executions_are_accepted_and_early_stamps_found(seed: u64, committed: bool) {
        let isolation = if committed { Isolation::ReadCommitted } else { Isolation::Serializable };
        for shape in [Shape::registers(3), Shape::lists()] {
            let history = run(seed, &Shape { isolation, ..shape }).history;
            prop_assert_eq!(check(&history), Ok(()));
            prop_assert!(check(&with_early_stamp(&history, &mut Random::new(seed))).is_err());
        }
    }
}
