//! What became of a transaction is told one way, whoever asks, whenever and whomever.
//!
//! An outcome is decided once. Who asks after it was forgotten hears «finished», which says nothing and so contradicts
//! nothing. Epochs count: one that commits in two epochs would be in two cuts.

use std::collections::BTreeMap;

use twofold_proto::{
    ids::{Incarnation, TransactionId},
    message::Outcome,
    time::Time,
};

use super::{Verdict, Violation};

/// What somebody was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// Of this transaction.
    pub transaction: TransactionId,
    /// The session that was told.
    pub to: Incarnation,
    /// When.
    pub at: Time,
    /// What.
    pub outcome: Outcome,
}

/// Checks all that was told, in the order of time.
pub fn check(told: &[Told]) -> Verdict {
    let mut first: BTreeMap<TransactionId, &Told> = BTreeMap::new();
    for then in told {
        let before = *first.entry(then.transaction).or_insert(then);
        if before.outcome != then.outcome {
            let Told { transaction, to, at, outcome } = before;
            let explanation = format!(
                "{transaction:?}: {to:?} was told {outcome:?} at {at:?}, then {:?} was told {:?} at {:?}",
                then.to, then.outcome, then.at
            );
            return Err(Violation::new("contradiction", explanation));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use twofold_proto::ids::Epoch;

    use super::*;

    fn told(number: u64, at: u64, outcome: Outcome) -> Told {
        let transaction = TransactionId { session: Incarnation(1), number };
        Told { transaction, to: Incarnation(at), at: Time(at), outcome }
    }

    #[test]
    fn an_outcome_is_told_one_way() {
        let (committed, later) = (Outcome::Committed(Epoch(5)), Outcome::Committed(Epoch(6)));
        let fine = [told(1, 1, committed), told(2, 2, Outcome::Aborted), told(1, 3, committed)];
        assert_eq!(check(&fine), Ok(()));
        for other in [Outcome::Aborted, later] {
            let [first, second, third] = fine;
            let violation = check(&[first, second, third, told(1, 4, other)]).unwrap_err();
            assert_eq!(violation.anomaly, "contradiction");
            assert!(violation.explanation.starts_with("x1.1"), "{violation}");
        }
    }
}
