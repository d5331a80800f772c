//! Copying partitions to a joining node: it pulls them, a few at a time, each from its primary.

use std::collections::BTreeSet;

use twofold_proto::{
    ids::{PartitionId, Version},
    limits::MESSAGE_BYTES_MAX,
    links::LinkId,
    message::{CopyBeginOrd, CopyRow, Kind, Life, put_control},
    view::MemberState,
    wire::{Malformed, Reader, Writer},
};

use twofold_storage::store::CopyCursor;

use super::{Said, Worker, outcome::OUTCOMES_IN_MESSAGE, partition::Parked};

/// Partitions that are pulled at once.
const PULLED_AT_ONCE: usize = 4;
/// Bytes of rows in one message.
const CHUNK_BYTES: usize = 64 << 10;
/// Unacknowledged bytes on the link past which copying pauses.
const WINDOW_BYTES: usize = 1 << 20;

/// A partition on its way to a joining node.
#[derive(Debug)]
pub(super) struct CopyOut {
    pub link: LinkId,
    pub partition: PartitionId,
    /// What is before is copied.
    cursor: CopyCursor,
}

/// What a joining node has asked for and not got whole.
#[derive(Debug, Default)]
pub(super) struct CopyIn {
    pulling: BTreeSet<PartitionId>,
}

impl CopyIn {
    pub fn is_idle(&self) -> bool {
        self.pulling.is_empty()
    }
}

impl Worker {
    /// A joining node wants a partition (`CopyReq`).
    pub(super) fn on_copy_req(&mut self, link: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let partition = partition_of(&mut Reader::new(body, "CopyReq"), self.partitions.len())?;
        let own = self.own;
        let state = self.partition(partition);
        if state.serving {
            self.begin_copy(link, partition);
        } else if state.primary == Some(own) {
            state.handover.parked.push(Parked::Copy(link));
        }
        // Else a view that it has yet to learn of names another primary, which it will ask.
        Ok(())
    }

    pub(super) fn begin_copy(&mut self, link: LinkId, partition: PartitionId) {
        let outcomes = self.outcomes.kept(partition);
        let state = &self.partitions[usize::from(partition.0)];
        let Some(out) = self.links.get_mut(link) else { return };
        let (number, forgotten) = (state.number, self.outcomes.forgotten());
        let mut marks = self.outcomes.marks();
        let mut left = &outcomes[..];
        loop {
            let (outcomes, later) = left.split_at(left.len().min(OUTCOMES_IN_MESSAGE));
            let (outcomes, marks) = (outcomes.to_vec(), std::mem::take(&mut marks));
            let begin = CopyBeginOrd { partition, number, outcomes, marks, forgotten };
            out.send(Kind::CopyBeginOrd as u8, 0, |out| put_control(out, &begin));
            left = later;
            if left.is_empty() {
                break;
            }
        }
        for &slot in &state.open {
            let write_set = self.write_sets.get(slot).expect("open");
            out.send(Kind::WriteSetReq as u8, 0, |out| write_set.encode(out));
        }
        self.copies.push(CopyOut { link, partition, cursor: CopyCursor::default() });
        self.continue_copies(link);
    }

    /// Sends more of what is copied over the link, as long as its peer keeps up.
    pub(super) fn continue_copies(&mut self, link: LinkId) {
        while let Some(place) = self.copies.iter().position(|copy| copy.link == link) {
            let Some(out) = self.links.get_mut(link) else { return };
            let copy = &mut self.copies[place];
            // Within a tag it goes on at once: the tag's rows may have changed when it comes back.
            if out.kept_bytes() > WINDOW_BYTES && copy.cursor.skip == 0 {
                return;
            }
            let partition = copy.partition;
            let (store, mut next) = (&self.store, None);
            let mut rows = 0;
            out.send(Kind::CopyRowsOrd as u8, 0, |out| {
                out.put_u16(partition.0);
                let (limit, limit_of_tag) = (out.len() + CHUNK_BYTES, out.len() + MESSAGE_BYTES_MAX / 2);
                (next, rows) = store.copy_out(partition, copy.cursor, limit, limit_of_tag, out);
            });
            out.want_acknowledgement();
            self.counters.rows_copied += rows;
            match next {
                Some(cursor) => copy.cursor = cursor,
                None => {
                    out.send(Kind::CopyEndOrd as u8, 0, |out| out.put_u16(partition.0));
                    self.copies.remove(place);
                }
            }
        }
    }

    /// Syncing: what this node has of the partition may lack the end of the old primary's stream.
    pub(super) fn drop_copy(&mut self, partition: PartitionId) {
        #[cfg(feature = "mutations")]
        if self.mutated(crate::mutation::Mutation::KeepStaleCopy) {
            return;
        }
        let state = &mut self.partitions[usize::from(partition.0)];
        state.handover.copied_from = None;
        for slot in std::mem::take(&mut state.open) {
            self.write_sets.remove(slot);
        }
        self.store.drop_partition(partition);
        self.log_dropped(partition);
        self.copy_in.pulling.remove(&partition);
    }

    /// Asks for more partitions, or reports that all are there.
    pub(super) fn continue_copy_in(&mut self) {
        if self.state != Some(MemberState::Syncing) || !self.redo.loaded {
            return;
        }
        let mut left = false;
        for number in 0..self.map.partitions() {
            let partition = PartitionId(number);
            if !self.is_replica(partition) {
                continue;
            }
            let state = &self.partitions[usize::from(number)];
            let Some(primary) = state.primary else { continue };
            if state.handover.copied_from.is_some() {
                continue;
            }
            left = true;
            if self.copy_in.pulling.len() >= PULLED_AT_ONCE {
                return;
            }
            if !self.copy_in.pulling.contains(&partition)
                && let Some(link) = self.data_links.get(&primary).and_then(|&link| self.links.get_mut(link))
            {
                link.send(Kind::CopyReq as u8, 0, |out| out.put_u16(number));
                self.copy_in.pulling.insert(partition);
            }
        }
        if !left {
            self.all_copied();
        }
    }

    /// The primary begins to send a partition (`CopyBeginOrd`).
    pub(super) fn on_copy_begin(&mut self, said: Said, begin: CopyBeginOrd) {
        if self.is_word_of_primary(begin.partition, said) {
            let state = self.partition(begin.partition);
            state.number = state.number.max(begin.number);
            self.outcomes.forget_to(begin.forgotten);
            for (session, mark) in begin.marks {
                self.outcomes.learn_mark(session, mark, self.now);
            }
            for outcome in &begin.outcomes {
                self.outcomes.learn(begin.partition, outcome);
            }
        }
    }

    /// Rows of a partition (`CopyRowsOrd`).
    pub(super) fn on_copy_rows(&mut self, said: Said, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "CopyRowsOrd");
        let partition = partition_of(&mut reader, self.partitions.len())?;
        if !self.is_word_of_primary(partition, said) {
            return Ok(());
        }
        let rows = reader.rest();
        while !reader.is_empty() {
            let row = CopyRow::parse(&mut reader)?;
            let version = Version { epoch: row.epoch, number: u64::from(row.number) };
            if !self.is_dropped(row.table) {
                self.store.apply(partition, version, &row.image());
            }
            // What an earlier copy had here goes faster than this one comes.
            self.store.free_doomed(2);
        }
        self.log_rows(partition, rows);
        Ok(())
    }

    /// The partition is whole (`CopyEndOrd`).
    pub(super) fn on_copy_end(&mut self, said: Said, body: &[u8]) -> Result<(), Malformed> {
        let partition = partition_of(&mut Reader::new(body, "CopyEndOrd"), self.partitions.len())?;
        if !self.is_word_of_primary(partition, said) || !self.copy_in.pulling.remove(&partition) {
            return Ok(());
        }
        let incarnation =
            self.view.member(said.sender.node).map(|member| member.incarnation).unwrap_or_default();
        self.partition(partition).handover.copied_from = Some(Life { node: said.sender.node, incarnation });
        self.continue_copy_in();
        Ok(())
    }
}

fn partition_of(reader: &mut Reader<'_>, partitions: usize) -> Result<PartitionId, Malformed> {
    let partition = PartitionId(reader.u16()?);
    if usize::from(partition.0) < partitions { Ok(partition) } else { Err(Malformed("partition")) }
}
