//! The manifest: whose data this is, which checkpoints are valid, and what its owner knew of the cluster.
//!
//! A small file, replaced as a whole whenever something of that changes. A checkpoint gets into it once the newest epoch in it is
//! durable; so whatever epoch the cluster restarts at, nothing in a checkpoint is too new.

use serde::{Deserialize, Serialize};
use twofold_proto::{
    ids::{Epoch, Incarnation, NodeId, WorkerId},
    message::{Catalog, control, put_control},
    view::View,
    wire::{Malformed, Reader, Writer},
};

use super::{FORMAT, redo::Position};

/// The manifest.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Manifest {
    /// The cluster's name.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
    /// The valid checkpoints.
    pub checkpoints: Vec<Checkpoint>,
    /// Where redo is needed from on: what has no record there stands in the checkpoints.
    pub redo: Position,
    /// Where lives began that did not load all that stood there, in order.
    pub branches: Vec<Branch>,
    /// The life that adopted `view` and `catalog`.
    pub life: Incarnation,
    /// The newest view that it has adopted.
    pub view: View,
    /// The newest catalog that it has adopted.
    pub catalog: Catalog,
}

/// A life that began with the state of an epoch, whatever was written after it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Branch {
    /// Where its redo begins.
    pub at: Position,
    /// Of what stands before, nothing later than this counts.
    pub limit: Epoch,
}

/// A checkpoint: the rows of one worker.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Checkpoint {
    /// The life that wrote it.
    pub life: Incarnation,
    /// Its worker.
    pub worker: WorkerId,
    /// The numbers of its parts' files, from the first to before the second.
    pub parts: (u64, u64),
    /// What its worker has logged before, the rows reflect; what it has logged since, they may.
    pub begin: Position,
    /// They reflect nothing of a later epoch.
    pub newest: Epoch,
}

impl Manifest {
    /// Up to which epoch counts what stands in the log before this place.
    pub fn limit(&self, end: Position) -> Option<Epoch> {
        self.branches.iter().filter(|branch| end <= branch.at).map(|branch| branch.limit).min()
    }

    /// The file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.put_u16(FORMAT);
        put_control(&mut out, self);
        let checksum = crc32fast::hash(&out[4..]);
        out[..4].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it is damaged, or of another format.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, Malformed> {
        let mut reader = Reader::new(bytes, "manifest");
        if reader.u32()? != crc32fast::hash(reader.rest()) {
            return Err(Malformed("manifest: its checksum is wrong"));
        }
        if reader.u16()? != FORMAT {
            return Err(Malformed("manifest: it is of another format"));
        }
        control(reader.rest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(worker: u16, begin: u64) -> Checkpoint {
        let (life, worker) = (Incarnation(1), WorkerId(worker));
        Checkpoint { life, worker, parts: (3, 5), begin: Position(begin), newest: Epoch(9) }
    }

    #[test]
    fn it_is_read_as_it_was_written_or_not_at_all() {
        let manifest = Manifest {
            cluster: "test".into(),
            node: NodeId(11),
            checkpoints: vec![checkpoint(0, 700), checkpoint(1, 300)],
            redo: Position(300),
            branches: vec![Branch { at: Position(400), limit: Epoch(5) }],
            life: Incarnation(7),
            view: View::default(),
            catalog: Catalog::default(),
        };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Manifest::decode(&damaged).is_err(), "byte {at}");
            assert!(Manifest::decode(&bytes[..at]).is_err(), "{at} bytes");
        }
    }
}
