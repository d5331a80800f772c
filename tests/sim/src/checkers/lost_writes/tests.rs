use proptest::prelude::*;
use twofold_proto::{ids::Epoch, random::Random};

use super::*;
use crate::{
    checkers::generate::{Run, Script, Shape, append, key, run, saw, wrote, wrote_if},
    history::{Isolation, Operation, Outcome},
};

const ABORTED: Outcome = Outcome::Aborted;

fn version(epoch: u64) -> Version {
    Version { epoch: Epoch(epoch), number: 1 }
}

fn value(value: Value) -> FinalRows {
    [(key(1), FinalRow { content: FinalContent::Value(value), version: version(0) })].into()
}

fn list(elements: &[Value]) -> FinalRows {
    [(key(1), FinalRow { content: FinalContent::List(elements.to_vec()), version: version(0) })].into()
}

fn anomaly(script: &Script, rows: &FinalRows) -> Option<&'static str> {
    check(&script.history, rows).err().map(|violation| violation.anomaly)
}

/// 1, acknowledged; then 2 and 3 at once, acknowledged; then 4, unknown.
fn writes() -> Script {
    let mut script = Script::default();
    script.x(1, 0, 1, [wrote(1, 1)]).x(1, 10, 20, [wrote(1, 2)]).x(2, 11, 19, [wrote(1, 3)]);
    script.transaction(3, 30, None, [wrote(1, 4)]);
    script.transaction(4, 30, Some((40, ABORTED)), [wrote(1, 5)]);
    script
}

#[test]
fn the_last_acknowledged_or_an_unknown_write_is_left() {
    for (last, expected) in [
        (1, Some("lost write")),
        (2, None),
        (3, None),
        (4, None),
        (5, Some("resurrected write")),
        (6, Some("phantom value")),
    ] {
        assert_eq!(anomaly(&writes(), &value(last)), expected, "{last}");
    }
    assert_eq!(anomaly(&writes(), &FinalRows::new()), Some("lost write"));
    assert_eq!(anomaly(&writes(), &list(&[1])), Some("wrong content"));
    assert_eq!(anomaly(&Script::default(), &value(1)), Some("phantom row"));
    assert_eq!(
        check(&writes().history, &value(1)).unwrap_err().explanation,
        "t1/1 holds 1 of x1.1, but 2 of x1.2 was acknowledged after it"
    );
}

#[test]
fn an_unknown_write_that_was_read_can_be_lost() {
    let mut script = writes();
    script.x(5, 50, 60, [saw(1, Some(4))]).x(5, 70, 80, [wrote(1, 7)]);
    assert_eq!(anomaly(&script, &value(7)), None);
    assert_eq!(anomaly(&script, &value(4)), Some("lost write"));
}

#[test]
fn deleted_rows_stay_away_and_others_do_not_go() {
    let mut script = Script::default();
    let delete = |applied| wrote_if(1, Condition::Present, None, applied);
    script.x(1, 0, 1, [wrote(1, 1)]).x(1, 2, 3, [delete(true)]).x(1, 4, 5, [delete(false)]);
    assert_eq!(anomaly(&script, &FinalRows::new()), None);
    assert_eq!(anomaly(&script, &value(1)), Some("resurrected row"));
    script.x(1, 6, 7, [wrote_if(1, Condition::Absent, Some(2), true)]);
    assert_eq!(anomaly(&script, &value(2)), None);
    assert_eq!(anomaly(&script, &FinalRows::new()), Some("lost write"));
    // Nobody knows whether, or when, this takes place.
    script.transaction(2, 8, None, [Operation::delete(key(1))]);
    assert_eq!(anomaly(&script, &FinalRows::new()), None);
}

#[test]
fn of_one_transaction_the_last_write_is_left() {
    let mut script = Script::default();
    script.x(1, 0, 1, [wrote(1, 1), wrote(1, 2)]);
    assert_eq!(anomaly(&script, &value(2)), None);
    assert_eq!(anomaly(&script, &value(1)), Some("lost write"));
    let mut script = Script::default();
    script.x(1, 0, 1, [wrote(1, 1), Operation::write_if(key(1), Condition::Is(9), Some(2))]);
    assert_eq!(anomaly(&script, &value(1)), None);
}

#[test]
fn epochs_tell_which_of_two_is_newer() {
    let committed = |epoch| Some((9, Outcome::Committed { epoch: Some(Epoch(epoch)) }));
    let mut script = Script::default();
    script.transaction(1, 0, committed(4), [wrote(1, 1)]).transaction(2, 0, committed(5), [wrote(1, 2)]);
    let row = |value, epoch| {
        FinalRows::from([(key(1), FinalRow { content: FinalContent::Value(value), version: version(epoch) })])
    };
    assert_eq!(anomaly(&script, &row(2, 5)), None);
    assert_eq!(anomaly(&script, &row(2, 6)), Some("wrong version"));
    assert_eq!(anomaly(&script, &row(1, 4)), Some("lost write"));
    let mut read = Operation::read(key(1));
    read.saw(Some(2), Version { epoch: Epoch(5), number: 2 });
    script.x(3, 20, 21, [read]);
    assert_eq!(anomaly(&script, &row(2, 5)), Some("version ran back"));
}

#[test]
fn lists_hold_each_acknowledged_append_once_and_in_order() {
    let mut script = Script::default();
    script.x(1, 0, 1, [append(1, 1)]).x(1, 10, 20, [append(1, 2)]).x(2, 11, 19, [append(1, 3)]);
    script.transaction(3, 30, None, [append(1, 4)]);
    script.transaction(4, 30, Some((40, ABORTED)), [append(1, 5)]);
    for (elements, expected) in [
        (&[1, 2, 3][..], None),
        (&[1, 3, 4, 2], Some("appends out of order")),
        (&[1, 3, 2, 4], None),
        (&[2, 1, 3], Some("appends out of order")),
        (&[1, 2], Some("lost write")),
        (&[], Some("lost write")),
        (&[1, 2, 3, 3], Some("double element")),
        (&[1, 2, 3, 5], Some("resurrected write")),
        (&[1, 2, 3, 6], Some("phantom element")),
    ] {
        assert_eq!(anomaly(&script, &list(elements)), expected, "{elements:?}");
    }
    assert_eq!(anomaly(&script, &FinalRows::new()), Some("lost write"));
    assert_eq!(anomaly(&script, &value(1)), Some("wrong content"));
}

/// Sets some row back to what an acknowledged write left that another, acknowledged one surely followed.
fn set_back(run: &mut Run, random: &mut Random) -> bool {
    let (registers, _) = gather(&run.history);
    let mut pairs = Vec::new();
    for (&key, register) in &registers {
        for old in register.writes.iter().filter(|write| write.value.is_some()) {
            if register.writes.iter().any(|new| new.acknowledged && old.done < new.by.invoked) {
                let version = Version { epoch: old.by.epoch().unwrap_or_default(), number: u64::MAX };
                pairs.extend(old.value.map(|value| (key, value, version)));
            }
        }
    }
    random.shuffle(&mut pairs);
    let Some(&(key, value, version)) = pairs.first() else { return false };
    run.rows.insert(key, FinalRow { content: FinalContent::Value(value), version });
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn real_executions_are_accepted(seed: u64, committed: bool) {
        let isolation = if committed { Isolation::ReadCommitted } else { Isolation::Serializable };
        for shape in [Shape::registers(3), Shape::lists()] {
            let run = run(seed, &Shape { isolation, ..shape });
            prop_assert_eq!(check(&run.history, &run.rows), Ok(()));
        }
    }

    #[test]
    fn a_write_set_back_is_found(seed: u64) {
        let mut run = run(seed, &Shape::registers(2));
        prop_assert!(set_back(&mut run, &mut Random::new(seed)));
        prop_assert!(check(&run.history, &run.rows).is_err());
    }

    #[test]
    fn a_lost_or_swapped_append_is_found(seed: u64, swap: bool) {
        let mut run = run(seed, &Shape { clients: 2, failures: 0, ..Shape::lists() });
        let mut random = Random::new(seed);
        let keys: Vec<Key> = run.rows.keys().copied().collect();
        let row = run.rows.get_mut(random.pick(&keys)).expect("it is one of the keys");
        let FinalContent::List(list) = &mut row.content else { panic!("{row:?}") };
        let place = random.below(list.len() as u64) as usize;
        if swap {
            let last = list.len() - 1;
            prop_assume!(last > 4);
            list.swap(0, last);
        } else {
            list.remove(place);
        }
        prop_assert!(check(&run.history, &run.rows).is_err());
    }
}
