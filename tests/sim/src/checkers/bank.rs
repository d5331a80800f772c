//! Transfers move money and make none.
//!
//! A transfer writes two rows, usually of two partitions, so a transaction that took effect by half, twice, or on one
//! replica only changes the sum of all accounts; and an audit that is not serializable sees a sum that never was.

use std::collections::BTreeMap;

use twofold_proto::{ids::TransactionId, time::Time};

use super::{Verdict, Violation};
use crate::history::Key;

/// The accounts of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bank {
    /// What each account held before the first transfer.
    pub opening: BTreeMap<Key, i64>,
    /// Whether transfers may overdraw an account.
    pub overdraft: bool,
}

/// What one committed transaction saw, reading all accounts under locks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Audit {
    /// The transaction.
    pub by: TransactionId,
    /// When it was answered.
    pub at: Time,
    /// What it read; `None` if there was no row.
    pub balances: Vec<(Key, Option<i64>)>,
}

impl Bank {
    /// Checks all audits, the last of which should be one of the final state.
    pub fn check(&self, audits: &[Audit]) -> Verdict {
        audits.iter().try_for_each(|audit| self.check_audit(audit))
    }

    fn check_audit(&self, audit: &Audit) -> Verdict {
        let who = format!("{:?}, answered at {:?},", audit.by, audit.at);
        let mut seen = BTreeMap::new();
        for &(account, balance) in &audit.balances {
            if !self.opening.contains_key(&account) {
                return Err(Violation::new(
                    "phantom account",
                    format!("{who} saw {account:?}, which is none"),
                ));
            }
            let Some(balance) = balance else {
                return Err(Violation::new("missing account", format!("{who} did not find {account:?}")));
            };
            if seen.insert(account, balance).is_some() {
                return Err(Violation::new("double account", format!("{who} saw {account:?} twice")));
            }
            if balance < 0 && !self.overdraft {
                return Err(Violation::new("overdraft", format!("{who} saw {balance} in {account:?}")));
            }
        }
        if let Some(account) = self.opening.keys().find(|account| !seen.contains_key(account)) {
            return Err(Violation::new("missing account", format!("{who} did not see {account:?}")));
        }
        let sum = |balances: &BTreeMap<Key, i64>| balances.values().map(|&b| i128::from(b)).sum::<i128>();
        let (total, found) = (sum(&self.opening), sum(&seen));
        if total != found {
            let explanation = format!("{who} saw {found} in all instead of {total}: {seen:?}");
            return Err(Violation::new("wrong total", explanation));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use twofold_proto::{
        ids::{Incarnation, TableId},
        random::Random,
    };

    use super::*;

    fn account(row: u64) -> Key {
        Key { table: TableId(1), row }
    }

    fn bank(overdraft: bool) -> Bank {
        Bank { opening: (0..4).map(|row| (account(row), 100)).collect(), overdraft }
    }

    fn audit(balances: &[Option<i64>]) -> Audit {
        let balances = (0..).zip(balances).map(|(row, &balance)| (account(row), balance)).collect();
        Audit { by: TransactionId { session: Incarnation(1), number: 1 }, at: Time(1), balances }
    }

    fn anomaly(bank: &Bank, balances: &[Option<i64>]) -> &'static str {
        bank.check(&[audit(&[Some(100); 4]), audit(balances)]).unwrap_err().anomaly
    }

    #[test]
    fn sums_that_hold_pass() {
        assert_eq!(bank(false).check(&[audit(&[Some(0), Some(250), Some(50), Some(100)])]), Ok(()));
        assert_eq!(bank(true).check(&[audit(&[Some(-50), Some(250), Some(100), Some(100)])]), Ok(()));
    }

    #[test]
    fn every_fault_is_named() {
        let bank = bank(false);
        assert_eq!(anomaly(&bank, &[Some(100), Some(100), Some(100), Some(99)]), "wrong total");
        assert_eq!(anomaly(&bank, &[Some(-1), Some(201), Some(100), Some(100)]), "overdraft");
        assert_eq!(anomaly(&bank, &[Some(200), None, Some(100), Some(100)]), "missing account");
        assert_eq!(anomaly(&bank, &[Some(200), Some(100), Some(100)]), "missing account");
        assert_eq!(anomaly(&bank, &[Some(100), Some(100), Some(100), Some(50), Some(50)]), "phantom account");
        let mut twice = audit(&[Some(100); 4]);
        twice.balances[3].0 = account(2);
        assert_eq!(bank.check(&[twice]).unwrap_err().anomaly, "double account");
    }

    proptest! {
        #[test]
        fn transfers_pass_and_half_transfers_do_not(seed: u64, count in 1usize..50, half in 0usize..50) {
            let bank = bank(true);
            let (mut random, mut balances, mut audits) = (Random::new(seed), [100i64; 4], Vec::new());
            for n in 0..count {
                let (from, to) = (random.below(4) as usize, random.below(4) as usize);
                let amount = random.between(1, 50) as i64;
                balances[from] -= amount;
                if n != half {
                    balances[to] += amount;
                }
                audits.push(audit(&balances.map(Some)));
            }
            prop_assert_eq!(bank.check(&audits).is_err(), half < count);
        }
    }
}
