//! The outcome of a transaction is never unknown.
//!
//! Participants keep outcomes until everybody has them, and «not found» is turned into a binding refusal before it is
//! answered; so once the faults are over, an API node can always find out and tell its client, and what it tells can
//! never change. Only a client that died itself is never told; and nobody need know what was open when the whole cluster died.

use super::{Verdict, Violation};
use crate::history::{History, Outcome};

/// Checks a run that ended with the cluster healed and every client given the time to ask.
pub fn check(history: &History) -> Verdict {
    if let Some((id, first, then)) = history.contradictions().first() {
        return Err(Violation::new("contradiction", format!("{id:?} was told {first:?}, then {then:?}")));
    }
    let told = |outcome| matches!(outcome, Outcome::Committed { .. } | Outcome::Aborted);
    let left = |t: &&crate::history::Transaction| {
        !told(t.outcome()) && !t.forgotten && history.died(t.id.session).is_none()
    };
    match history.transactions().iter().find(left) {
        None => Ok(()),
        Some(t) => {
            let state = if t.answer.is_some() { "has been told «unknown»" } else { "is still open" };
            let explanation = format!("{:?}, begun at {:?}, {state}: {:?}", t.id, t.invoked, t.operations);
            Err(Violation::new("unknown outcome", explanation))
        }
    }
}

#[cfg(test)]
mod tests {
    use twofold_proto::{
        ids::{Incarnation, TransactionId},
        time::Time,
    };

    use super::*;
    use crate::history::Isolation;

    fn history(answers: &[Option<Outcome>]) -> History {
        let mut history = History::default();
        for (number, answer) in (1..).zip(answers) {
            let id = TransactionId { session: Incarnation(number), number };
            let x = history.begin(id, Isolation::ReadCommitted, Time(number));
            if let Some(outcome) = answer {
                history.answer(x, Time(100), *outcome);
            }
        }
        history
    }

    const COMMITTED: Outcome = Outcome::Committed { epoch: None };

    fn anomaly(history: &History) -> &'static str {
        check(history).unwrap_err().anomaly
    }

    #[test]
    fn known_outcomes_pass_and_open_or_unknown_ones_do_not() {
        assert_eq!(check(&history(&[Some(COMMITTED), Some(Outcome::Aborted)])), Ok(()));
        assert_eq!(anomaly(&history(&[Some(COMMITTED), None])), "unknown outcome");
        assert_eq!(anomaly(&history(&[Some(Outcome::Unknown)])), "unknown outcome");
    }

    #[test]
    fn a_dead_client_need_not_be_told() {
        let mut history = history(&[Some(COMMITTED), None, Some(Outcome::Unknown)]);
        history.client_died(Incarnation(2), Time(50));
        assert!(check(&history).unwrap_err().explanation.starts_with("x3.3"));
        history.client_died(Incarnation(3), Time(50));
        assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn what_was_told_must_not_change() {
        let mut history = History::default();
        let id = TransactionId { session: Incarnation(1), number: 1 };
        let x = history.begin(id, Isolation::ReadCommitted, Time(1));
        history.answer(x, Time(2), COMMITTED);
        history.answer(x, Time(3), Outcome::Aborted);
        assert_eq!(anomaly(&history), "contradiction");
    }
}
