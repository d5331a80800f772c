//! The numbers that a session gives to its transactions and commits, and up to which commit it has the answers.

use std::collections::VecDeque;

use twofold_proto::limits::SESSION_UNCONFIRMED_MAX;

/// Numbers of one session.
#[derive(Debug, Default)]
pub(super) struct Session {
    transactions: u64,
    /// The commit number up to which all answers are there.
    mark: u64,
    /// Of the commits above the mark, in order: whether the answer is there. The first is not.
    answered: VecDeque<bool>,
    open: usize,
}

impl Session {
    /// A number for another transaction, from 1.
    pub fn next_transaction(&mut self) -> u64 {
        self.transactions += 1;
        self.transactions
    }

    /// Whether too many commits above the mark are known to the cluster already.
    pub fn is_full(&self) -> bool {
        self.answered.len() as u64 >= SESSION_UNCONFIRMED_MAX
    }

    /// A number for another commit, from 1.
    ///
    /// # Panics
    /// Panics if the session is full.
    pub fn next_commit(&mut self) -> u64 {
        assert!(!self.is_full(), "{} commits above mark {}", self.answered.len(), self.mark);
        self.answered.push_back(false);
        self.open += 1;
        self.mark + self.answered.len() as u64
    }

    /// The answer of this commit is there, or never matters any more. Returns whether the mark has moved.
    ///
    /// # Panics
    /// Panics if it was there before, or the number was never given.
    pub fn answered(&mut self, commit_number: u64) -> bool {
        let place =
            commit_number.checked_sub(self.mark + 1).and_then(|index| self.answered.get_mut(index as usize));
        match place {
            Some(answered) if !*answered => *answered = true,
            _ => panic!("commit {commit_number} is answered twice or unknown; the mark is {}", self.mark),
        }
        self.open -= 1;
        let before = self.mark;
        while self.answered.front() == Some(&true) {
            self.answered.pop_front();
            self.mark += 1;
        }
        self.mark > before
    }

    /// The commit number up to which all answers are there.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// How many commits have no answer.
    pub fn open(&self) -> usize {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_waits_for_the_oldest_answer() {
        let mut session = Session::default();
        assert_eq!([session.next_commit(), session.next_commit(), session.next_commit()], [1, 2, 3]);
        assert!(!session.answered(2));
        assert_eq!((session.mark(), session.open()), (0, 2));
        assert!(session.answered(1));
        assert_eq!((session.mark(), session.open()), (2, 1));
        assert_eq!(session.next_commit(), 4);
        assert!(!session.answered(4));
        assert!(session.answered(3));
        assert_eq!((session.mark(), session.open()), (4, 0));
    }

    #[test]
    #[should_panic(expected = "answered twice")]
    fn an_answer_counts_once() {
        let mut session = Session::default();
        session.next_commit();
        session.answered(1);
        session.answered(1);
    }

    #[test]
    fn unconfirmed_commits_are_bounded() {
        let mut session = Session::default();
        for _ in 0..SESSION_UNCONFIRMED_MAX {
            session.next_commit();
        }
        assert!(session.is_full());
        session.answered(2);
        assert!(session.is_full());
        session.answered(1);
        assert!(!session.is_full());
        assert_eq!(session.next_commit(), SESSION_UNCONFIRMED_MAX + 1);
    }
}
