//! Names of the things a cluster is made of.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// A process of the cluster, as the config names it: 1–255 in practice. 0 is an unlisted client.
    NodeId(u16), "n"
);
id!(
    /// A thread of a process: for a data node one of its workers, for an API node one of its threads.
    WorkerId(u16), "w"
);
id!(
    /// One of the slices of the key space; the unit of placement and of moving.
    PartitionId(u16), "p"
);
id!(
    /// The data nodes that hold the same partitions, numbered from 0 in the config's order.
    GroupId(u16), "g"
);
id!(
    /// A table, numbered by the catalog; never reused.
    TableId(u32), "t"
);
id!(
    /// An ordered index, numbered by the catalog as tables are; never reused.
    IndexId(u32), "x"
);
id!(
    /// One life of a process: chosen at its start, never reused, 0 for «any». Only equality means anything.
    Incarnation(u64), "i"
);
/// The number of a view: 16 bits of generation, which a rebuild of the register raises, 48 bits of counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ViewNumber(pub u64);

impl ViewNumber {
    /// How often the register had been rebuilt.
    pub const fn generation(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The number of the view that follows this one.
    pub const fn next(self) -> ViewNumber {
        ViewNumber(self.0 + 1)
    }

    /// The first number of the next generation; none past 65,535 rebuilds.
    pub fn next_generation(self) -> Option<ViewNumber> {
        let generation = self.generation().checked_add(1)?;
        Some(ViewNumber(u64::from(generation) << 48 | 1))
    }
}

impl fmt::Debug for ViewNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{self}")
    }
}

impl fmt::Display for ViewNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counter = self.0 & ((1 << 48) - 1);
        match self.generation() {
            0 => write!(f, "{counter}"),
            generation => write!(f, "{generation}.{counter}"),
        }
    }
}

impl WorkerId {
    /// The machine of a node that is no worker: membership on a data node, the register on a management node.
    pub const NODE: WorkerId = WorkerId(u16::MAX);
    /// A process that has no machine: a data node's angel, or one that only asks for the config.
    pub const ASIDE: WorkerId = WorkerId(u16::MAX - 1);
}

/// A numbered, cluster-wide consistent cut of commits: 16 bits of restart number, 48 bits of counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch with this restart number and counter.
    pub const fn new(restart: u16, counter: u64) -> Epoch {
        assert!(counter < 1 << 48, "an epoch's counter has 48 bits");
        Epoch((restart as u64) << 48 | counter)
    }

    /// How many system restarts the cluster had seen.
    pub const fn restart(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The number within the restart.
    pub const fn counter(self) -> u64 {
        self.0 & ((1 << 48) - 1)
    }

    /// The epoch after this one.
    pub const fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }

    /// The epoch before this one.
    pub const fn previous(self) -> Epoch {
        Epoch(self.0.saturating_sub(1))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{}", self.restart(), self.counter())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.restart(), self.counter())
    }
}

/// One thread of one process: where a link begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Endpoint {
    /// The process.
    pub node: NodeId,
    /// Its thread.
    pub worker: WorkerId,
}

impl Endpoint {
    /// The endpoint of a node's worker.
    pub const fn new(node: NodeId, worker: WorkerId) -> Endpoint {
        Endpoint { node, worker }
    }

    /// The endpoint of a node's machine that is no worker.
    pub const fn node(node: NodeId) -> Endpoint {
        Endpoint { node, worker: WorkerId::NODE }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.worker {
            WorkerId::NODE => write!(f, "{:?}", self.node),
            worker => write!(f, "{:?}{:?}", self.node, worker),
        }
    }
}

/// For people: `node 1`, `node 11 worker 0`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.worker {
            WorkerId::NODE => write!(f, "node {}", self.node),
            WorkerId::ASIDE if self.node == NodeId(0) => f.write_str("a process that asks for the config"),
            WorkerId::ASIDE => write!(f, "the angel of node {}", self.node),
            worker => write!(f, "node {} worker {worker}", self.node),
        }
    }
}

/// A transaction: the client session that began it (the incarnation of the client's thread) and its number there.
///
/// Also breaks ties of age in wound-wait.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TransactionId {
    /// The client session.
    pub session: Incarnation,
    /// Counted by the session from 1.
    pub number: u64,
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x{:x}.{}", self.session.0, self.number)
    }
}

/// The version of a row: the epoch of its last commit and the number of that commit's write set in its partition.
/// Versions of a key only grow, across deletion and reinsertion too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version {
    /// The epoch of the commit.
    pub epoch: Epoch,
    /// The write set's number in its partition.
    pub number: u64,
}

impl Version {
    /// A number below 2^63 that changes with the version: what memcached's clients get as «cas unique».
    pub const fn token(self) -> u64 {
        (self.epoch.counter() << 20 | self.number & 0xf_ffff) & (u64::MAX >> 1)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.epoch, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_order_by_restart_first() {
        assert!(Epoch::new(1, 900) < Epoch::new(2, 1));
        assert_eq!(Epoch::new(3, 7).next(), Epoch::new(3, 8));
        assert_eq!((Epoch::new(3, 7).restart(), Epoch::new(3, 7).counter()), (3, 7));
    }
}
