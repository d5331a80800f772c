//! What the machines of one data node tell each other: its [`crate::node::Node`] and its workers. In order between
//! each two, like everything else.

use std::sync::Arc;

use twofold_proto::{
    ids::{Epoch, ViewNumber, WorkerId},
    message::{Catalog, Life},
    time::{ClusterTime, Time},
    view::View,
};

use crate::disk::FromDisk;

/// From the node to a worker.
#[derive(Clone, PartialEq, Debug)]
pub enum ToWorker {
    /// The node has adopted this view.
    View(Arc<View>),
    /// The node has adopted this catalog.
    Catalog(Arc<Catalog>),
    /// The node may serve as primary before this time.
    Lease(Time),
    /// A life that some view has dropped holds no lease any more.
    Fenced(Life),
    /// The president's word: the epoch, the newest complete one, cluster time. Comes every `epoch_ms`, so it is the
    /// workers' tick too; and in between while commits wait for the disks.
    Epoch {
        /// The epoch.
        epoch: Epoch,
        /// The newest complete one.
        complete: Epoch,
        /// The newest that is on the disks of all nodes that count.
        durable: Epoch,
        /// Commits up to this one wait for the disks.
        wanted: Epoch,
        /// Whether some disk cannot keep up.
        congested: bool,
        /// Cluster time.
        time: ClusterTime,
    },
    /// Answer with [`Word::Alive`]: the watchdog's question.
    AreYouThere(u64),
    /// The disk says something.
    Disk(FromDisk),
}

/// From a worker to the node.
#[derive(Clone, PartialEq, Debug)]
pub struct FromWorker {
    /// Which worker.
    pub worker: WorkerId,
    /// What it says.
    pub word: Word,
}

/// What a worker tells its node.
#[derive(Clone, PartialEq, Debug)]
pub enum Word {
    /// It has adopted this view.
    View(Arc<View>),
    /// It has adopted this version of the catalog.
    Catalog(u64),
    /// How far it is with building indexes.
    Indexes {
        /// The newest version of the catalog whose indexes it has all built.
        built: u64,
        /// Whether it lacks the memory to go on.
        full: bool,
    },
    /// Syncing: under this view all its partitions are copied from their primaries, and on disk.
    Copied(ViewNumber, Epoch),
    /// All that it has to hold of epochs up to this one is on disk.
    Durable(Epoch),
    /// Commits up to this epoch wait for the disks.
    Wanted(Epoch),
    /// Up: it counts this `ready` buddy, which has all that the worker had sent it before it did.
    Counts(ViewNumber, Life),
    /// Under this view it is done with all epochs up to this one.
    Done(ViewNumber, Epoch),
    /// It has missed so many views before this one that it cannot go on: this life must end.
    Lost(ViewNumber),
    /// The watchdog's answer.
    Alive(u64),
}
