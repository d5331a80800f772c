//! An id that was handed out is never handed out again, and is not forgotten.
//!
//! Ids come from counters in rows, cached in batches by API nodes, and from inserts into unique keys. A counter that
//! is rolled back to an old value, or two nodes that both believe to own a batch, hand out an id twice.

use std::collections::{BTreeMap, BTreeSet};

use twofold_proto::ids::TransactionId;

use super::{Verdict, Violation};
use crate::history::Outcome;

/// An id that a transaction got and, if it committed, stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handout {
    /// The id.
    pub id: u64,
    /// Who got it.
    pub by: TransactionId,
    /// What became of the transaction.
    pub outcome: Outcome,
}

/// Checks what was handed out against the ids that are stored in the end.
///
/// An id given to a transaction that aborted may be given again. So may one whose outcome nobody learned, as its client
/// died: its counter may have been rolled back with it.
pub fn check(handouts: &[Handout], stored: &BTreeSet<u64>) -> Verdict {
    let mut owners: BTreeMap<u64, &Handout> = BTreeMap::new();
    for handout in handouts.iter().filter(|handout| matches!(handout.outcome, Outcome::Committed { .. })) {
        if let Some(first) = owners.insert(handout.id, handout) {
            let explanation = format!("{handout:?} was given before: {first:?}");
            return Err(Violation::new("double id", explanation));
        }
    }
    if let Some(lost) = owners.values().find(|handout| !stored.contains(&handout.id)) {
        let explanation = format!("{} of {:?}, which committed, is not stored", lost.id, lost.by);
        return Err(Violation::new("lost id", explanation));
    }
    for handout in handouts.iter().filter(|handout| handout.outcome == Outcome::Unknown) {
        owners.entry(handout.id).or_insert(handout);
    }
    if let Some(id) = stored.iter().find(|id| !owners.contains_key(id)) {
        let refused = handouts.iter().find(|handout| handout.id == *id);
        return Err(match refused {
            Some(handout) => {
                Violation::new("resurrected id", format!("{id} is stored, but {:?} aborted", handout.by))
            }
            None => Violation::new("phantom id", format!("{id} is stored, but nobody got it")),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use twofold_proto::{ids::Incarnation, random::Random};

    use super::*;

    const COMMITTED: Outcome = Outcome::Committed { epoch: None };

    fn handout(id: u64, outcome: Outcome) -> Handout {
        Handout { id, by: TransactionId { session: Incarnation(1), number: id }, outcome }
    }

    fn anomaly(handouts: &[Handout], stored: &[u64]) -> &'static str {
        check(handouts, &stored.iter().copied().collect()).unwrap_err().anomaly
    }

    #[test]
    fn every_fault_is_named() {
        let good = [handout(1, COMMITTED), handout(2, Outcome::Aborted), handout(3, Outcome::Unknown)];
        assert_eq!(check(&good, &[1].into()), Ok(()));
        assert_eq!(check(&good, &[1, 3].into()), Ok(()));
        assert_eq!(anomaly(&good, &[3]), "lost id");
        assert_eq!(anomaly(&good, &[1, 2]), "resurrected id");
        assert_eq!(anomaly(&good, &[1, 9]), "phantom id");
        assert_eq!(anomaly(&[good[0], handout(1, COMMITTED)], &[1]), "double id");
        assert_eq!(check(&[good[0], handout(1, Outcome::Unknown)], &[1].into()), Ok(()));
        assert_eq!(check(&[good[1], handout(2, COMMITTED)], &[2].into()), Ok(()));
    }

    proptest! {
        #[test]
        fn a_counter_passes_until_it_runs_back(seed: u64, count in 2u64..60, back in 1u64..60) {
            let mut random = Random::new(seed);
            let outcome = |random: &mut Random| match random.below(4) {
                0 => Outcome::Aborted,
                1 => Outcome::Unknown,
                _ => COMMITTED,
            };
            let mut handouts: Vec<Handout> = (1..count).map(|id| handout(id, outcome(&mut random))).collect();
            let stored = handouts.iter().filter(|h| h.outcome == COMMITTED).map(|h| h.id).collect();
            prop_assert_eq!(check(&handouts, &stored), Ok(()));
            let again = back % count;
            handouts.push(handout(again, COMMITTED));
            let was_kept = again != 0 && handouts[again as usize - 1].outcome == COMMITTED;
            let stored = handouts.iter().filter(|h| h.outcome == COMMITTED).map(|h| h.id).collect();
            prop_assert_eq!(check(&handouts, &stored).is_err(), was_kept);
        }
    }
}
