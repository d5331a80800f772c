//! When all is quiet, the replicas of a partition are equal, row by row.
//!
//! Every replica applies the same write sets in the same order, so whatever happened (takeover, copy, redo,
//! checkpoint, discarded epochs), none may hold a row, a version or an expiry that another does not. Clients read
//! from primaries alone, so a replica that is wrong shows only when it is promoted, or here.

use std::{cmp::Ordering, collections::BTreeMap, fmt};

use twofold_proto::{
    ids::{NodeId, PartitionId, TableId, Version},
    time::ClusterTime,
};

use super::{Verdict, Violation};

/// One row of a replica, with its data as a hash.
#[derive(Clone, PartialEq, Eq)]
pub struct RowSummary {
    /// Its table.
    pub table: TableId,
    /// Its primary key, encoded.
    pub key: Vec<u8>,
    /// Its version.
    pub version: Version,
    /// When it expires, if it does.
    pub expiry: Option<ClusterTime>,
    /// A hash of its data.
    pub hash: u64,
}

impl fmt::Debug for RowSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{} {:?}", self.table, self.key.escape_ascii(), self.version)?;
        if let Some(expiry) = self.expiry {
            write!(f, " expiring at {}", expiry.0)?;
        }
        write!(f, " hash {:016x}", self.hash)
    }
}

/// The rows of each replica of each partition, in the order of (table, key).
pub type Replicas = BTreeMap<PartitionId, BTreeMap<NodeId, Vec<RowSummary>>>;

/// Compares each partition's replicas with the one on the lowest node, and names the first row that differs.
pub fn check(replicas: &Replicas) -> Verdict {
    for (&partition, nodes) in replicas {
        for (node, rows) in nodes {
            check_sorted(partition, *node, rows)?;
        }
        let mut nodes = nodes.iter();
        if let Some(first) = nodes.next() {
            nodes.try_for_each(|other| compare(partition, first, other))?;
        }
    }
    Ok(())
}

fn place(row: &RowSummary) -> (TableId, &[u8]) {
    (row.table, &row.key)
}

fn check_sorted(partition: PartitionId, node: NodeId, rows: &[RowSummary]) -> Verdict {
    match rows.windows(2).find(|pair| place(&pair[0]) >= place(&pair[1])) {
        None => Ok(()),
        Some(pair) => Err(Violation::new(
            "replica out of order",
            format!("{partition:?} on {node:?} has {:?} before {:?}", pair[0], pair[1]),
        )),
    }
}

fn compare(
    partition: PartitionId,
    a: (&NodeId, &Vec<RowSummary>),
    b: (&NodeId, &Vec<RowSummary>),
) -> Verdict {
    let missing = |row: &RowSummary, on: &NodeId, not_on: &NodeId| {
        let explanation = format!("{partition:?}: {row:?} is on {on:?} and not on {not_on:?}");
        Err(Violation::new("row on one replica only", explanation))
    };
    let (mut rows_a, mut rows_b) = (a.1.iter(), b.1.iter());
    loop {
        match (rows_a.next(), rows_b.next()) {
            (None, None) => return Ok(()),
            (Some(row), None) => return missing(row, a.0, b.0),
            (None, Some(row)) => return missing(row, b.0, a.0),
            (Some(x), Some(y)) => match place(x).cmp(&place(y)) {
                Ordering::Less => return missing(x, a.0, b.0),
                Ordering::Greater => return missing(y, b.0, a.0),
                Ordering::Equal if x != y => {
                    let explanation = format!("{partition:?}: {x:?} on {:?}, {y:?} on {:?}", a.0, b.0);
                    return Err(Violation::new("replicas differ", explanation));
                }
                Ordering::Equal => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use twofold_proto::{ids::Epoch, random::Random};

    use super::*;

    fn row(table: u32, key: &str, number: u64) -> RowSummary {
        let version = Version { epoch: Epoch::new(1, 4), number };
        RowSummary { table: TableId(table), key: key.into(), version, expiry: None, hash: 0xab }
    }

    fn replicas(a: Vec<RowSummary>, b: Vec<RowSummary>) -> Replicas {
        [(PartitionId(7), [(NodeId(11), a), (NodeId(12), b)].into())].into()
    }

    fn violation(a: Vec<RowSummary>, b: Vec<RowSummary>) -> String {
        check(&replicas(a, b)).unwrap_err().to_string()
    }

    #[test]
    fn the_first_difference_is_told() {
        let rows = || vec![row(1, "a", 1), row(1, "b", 2), row(2, "a", 3)];
        assert_eq!(check(&replicas(rows(), rows())), Ok(()));
        assert_eq!(
            violation(rows(), vec![row(1, "a", 1), row(2, "a", 3)]),
            "row on one replica only: p7: t1/b e1.4#2 hash 00000000000000ab is on n11 and not on n12"
        );
        assert_eq!(
            violation(rows()[..2].to_vec(), rows()),
            "row on one replica only: p7: t2/a e1.4#3 hash 00000000000000ab is on n12 and not on n11"
        );
        let mut other = rows();
        other[1].expiry = Some(ClusterTime(5));
        assert_eq!(
            violation(rows(), other),
            "replicas differ: p7: t1/b e1.4#2 hash 00000000000000ab on n11, \
             t1/b e1.4#2 expiring at 5 hash 00000000000000ab on n12"
        );
    }

    #[test]
    fn unsorted_rows_are_refused() {
        let (a, b) = (row(1, "a", 1), row(1, "b", 1));
        let verdict = check(&replicas(vec![a.clone()], vec![b, a.clone()]));
        assert_eq!(verdict.unwrap_err().anomaly, "replica out of order");
        assert_eq!(
            check(&replicas(vec![a.clone()], vec![a.clone(), a])).unwrap_err().anomaly,
            "replica out of order"
        );
    }

    proptest! {
        #[test]
        fn any_one_change_is_found(seed: u64, rows in 1u64..40, nodes in 2u16..4) {
            let mut random = Random::new(seed);
            let same: Vec<_> = (0..rows).map(|n| row(1, &format!("{n:04}"), random.next_u64())).collect();
            let mut all: Replicas = [(PartitionId(1), (0..nodes).map(|n| (NodeId(n), same.clone())).collect())].into();
            prop_assert_eq!(check(&all), Ok(()));
            let node = NodeId(random.below(u64::from(nodes)) as u16);
            let victim = all.get_mut(&PartitionId(1)).and_then(|replicas| replicas.get_mut(&node)).unwrap();
            let place = random.below(rows) as usize;
            match random.below(4) {
                0 => drop(victim.remove(place)),
                1 => victim[place].hash ^= 1,
                2 => victim[place].version.number ^= 1,
                _ => victim[place].expiry = Some(ClusterTime(1)),
            }
            prop_assert!(check(&all).is_err());
        }
    }
}
