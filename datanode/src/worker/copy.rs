//! Copying partitions to a joining node: it pulls them, a few at a time, each from its primary.

use std::collections::{BTreeMap, BTreeSet};

use twofold_proto::{
    ids::{Endpoint, Epoch, PartitionId, TableId, Version, ViewNumber},
    limits::MESSAGE_BYTES_MAX,
    links::LinkId,
    message::{CopyBeginOrd, CopyRow, Image, Kind, Life, put_control},
    view::MemberState,
    wire::{Malformed, Reader, Writer, put_block_with},
};

use twofold_storage::store::{CopyCursor, Stray, fingerprint};

use super::{
    Said, Worker,
    outcome::OUTCOMES_IN_MESSAGE,
    partition::{Parked, Part},
};

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
    /// Older rows the other has.
    since: Epoch,
    /// What is before is copied.
    cursor: CopyCursor,
}

/// What a joining node has asked for and not got whole.
#[derive(Debug, Default)]
pub(super) struct CopyIn {
    pulling: BTreeMap<PartitionId, Pull>,
    /// Partitions that hold rows which did not come from their primary's stream: some may be gone there.
    mixed: BTreeSet<PartitionId>,
    /// Partitions that lack rows which they were taken to have: all their rows are asked for.
    holed: BTreeSet<PartitionId>,
    /// Primaries that have sent all their copies and wait for this worker, and under which view they said so.
    included: BTreeMap<Endpoint, ViewNumber>,
}

/// How far the copy of a partition is.
#[derive(Debug)]
struct Pull {
    /// Whether it may hold rows that its primary has not.
    mixed: bool,
    /// What its primary has before this is known, and is all that is here.
    from: CopyCursor,
    /// Fingerprints of rows that its primary has, behind that.
    told: BTreeSet<u64>,
}

impl CopyIn {
    pub fn is_idle(&self) -> bool {
        self.pulling.is_empty()
    }
}

impl Worker {
    /// A joining node wants a partition (`CopyReq`).
    pub(super) fn on_copy_req(&mut self, link: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "CopyReq");
        let partition = partition_of(&mut reader, self.partitions.len())?;
        let since = Epoch(reader.u64()?);
        let own = self.own;
        let state = self.partition(partition);
        if state.serving {
            self.begin_copy(link, partition, since);
        } else if state.primary == Some(own) {
            state.handover.parked.push(Parked::Copy(link, since));
        }
        // Else a view that it has yet to learn of names another primary, which it will ask.
        Ok(())
    }

    pub(super) fn begin_copy(&mut self, link: LinkId, partition: PartitionId, since: Epoch) {
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
        self.copies.push(CopyOut { link, partition, since, cursor: CopyCursor::default() });
        for (other, part) in &mut self.partition(partition).replicas {
            if *other == link {
                *part = (*part).max(Part::Gets);
            }
        }
        self.continue_copies(link);
    }

    /// Tells a joining node that it has been sent all copies that it needs from this worker, if so, and waits for it from
    /// here on.
    fn include(&mut self, link: LinkId) {
        if self.copies.iter().any(|copy| copy.link == link) {
            return;
        }
        let own = Some(self.own);
        let led = || self.partitions.iter().filter(|partition| partition.primary == own);
        let mut parts = led().flat_map(|partition| &partition.replicas).filter(|(other, _)| *other == link);
        if !parts.all(|(_, part)| *part > Part::None) {
            return;
        }
        for partition in self.partitions.iter_mut().filter(|partition| partition.primary == own) {
            for (_, part) in partition.replicas.iter_mut().filter(|(other, _)| *other == link) {
                *part = (*part).max(Part::Included);
            }
        }
        if let Some(link) = self.links.get_mut(link) {
            link.send(Kind::IncludeOrd as u8, 0, |_| ());
        }
    }

    /// Under a new view: the joining nodes want to hear it again.
    pub(super) fn include_joining(&mut self) {
        for link in self.joining().collect::<Vec<_>>() {
            self.include(link);
        }
    }

    /// Links to nodes that are joining.
    pub(super) fn joining(&self) -> impl Iterator<Item = LinkId> + '_ {
        let links = self.data_links.iter();
        let joins = |node| self.view.member(node).is_some_and(|member| member.state == MemberState::Syncing);
        links.filter(move |(endpoint, _)| joins(endpoint.node)).map(|(_, link)| *link)
    }

    /// Sends more of what is copied over the link, as long as its peer keeps up.
    pub(super) fn continue_copies(&mut self, link: LinkId) {
        while let Some(place) = self.copies.iter().position(|copy| copy.link == link) {
            let Some(out) = self.links.get_mut(link) else { return };
            let copy = &mut self.copies[place];
            // Within a tag it goes on at once: the tag's rows may have changed when it comes back.
            if out.kept_bytes() > WINDOW_BYTES && copy.cursor.skip == 0 {
                return out.want_acknowledgement();
            }
            let partition = copy.partition;
            let (store, mut kept) = (&self.store, Vec::new());
            let limits = (CHUNK_BYTES, MESSAGE_BYTES_MAX / 2);
            let (mut next, mut copied) = (None, 0);
            out.send(Kind::CopyRowsOrd as u8, 0, |out| {
                out.put_u16(partition.0);
                (next, copied) = put_block_with(out, |out| {
                    store.copy_out(partition, copy.cursor, copy.since, limits, out, &mut kept)
                });
                let to = next.unwrap_or(CopyCursor::END);
                out.put_u32(to.table.0);
                out.put_u64(to.tag);
                kept.iter().for_each(|fingerprint| out.put_u64(*fingerprint));
            });
            out.want_acknowledgement();
            self.counters.rows_copied += copied;
            self.counters.rows_kept += kept.len() as u64;
            match next {
                Some(cursor) => copy.cursor = cursor,
                None => {
                    out.send(Kind::CopyEndOrd as u8, 0, |out| out.put_u16(partition.0));
                    self.copies.remove(place);
                    self.include(link);
                }
            }
        }
    }

    /// Syncing: what this node has of the partition may lack the end of the old primary's stream. It is compared with
    /// what the new one has.
    pub(super) fn renew_copy(&mut self, partition: PartitionId) {
        let state = &mut self.partitions[usize::from(partition.0)];
        state.handover.copied_from = None;
        for slot in std::mem::take(&mut state.open) {
            self.write_sets.remove(slot);
        }
        self.copy_in.pulling.remove(&partition);
        if !self.store.is_empty(partition) {
            self.copy_in.mixed.insert(partition);
        }
    }

    /// Asks for more partitions, or reports that all are there.
    pub(super) fn continue_copy_in(&mut self) {
        if self.state != Some(MemberState::Syncing) || !self.redo.loaded {
            return;
        }
        let (mut left, mut primaries) = (false, BTreeSet::new());
        for number in 0..self.map.partitions() {
            let partition = PartitionId(number);
            if !self.is_replica(partition) {
                continue;
            }
            let state = &self.partitions[usize::from(number)];
            let Some(primary) = state.primary else { continue };
            primaries.insert(primary);
            if state.handover.copied_from.is_some() {
                continue;
            }
            left = true;
            if self.copy_in.pulling.len() >= PULLED_AT_ONCE {
                return;
            }
            if !self.copy_in.pulling.contains_key(&partition)
                && let Some(link) = self.data_links.get(&primary).and_then(|&link| self.links.get_mut(link))
            {
                let restored = self.redo.restored;
                let since = if self.copy_in.holed.contains(&partition) { Epoch(0) } else { restored };
                link.send(Kind::CopyReq as u8, 0, |out| {
                    out.put_u16(number);
                    out.put_u64(since.0);
                });
                let mixed = restored > Epoch(0) || self.copy_in.mixed.contains(&partition);
                let pull = Pull { mixed, from: CopyCursor::default(), told: BTreeSet::new() };
                self.copy_in.pulling.insert(partition, pull);
            }
        }
        let view = Some(&self.view.number);
        if !left && primaries.iter().all(|primary| self.copy_in.included.get(primary) == view) {
            self.all_copied();
        }
    }

    /// A primary has sent all its copies, and waits for this worker from here on (`IncludeOrd`).
    pub(super) fn on_include(&mut self, said: Said) {
        self.copy_in.included.insert(said.sender, said.under);
        self.continue_copy_in();
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
        let rows = reader.block()?;
        let to = CopyCursor { table: TableId(reader.u32()?), tag: reader.u64()?, skip: 0 };
        let Some(mut pull) = self.copy_in.pulling.remove(&partition) else { return Ok(()) };
        while !reader.is_empty() {
            pull.told.insert(reader.u64()?);
        }
        let mut copied = Reader::new(rows, "CopyRowsOrd");
        while !copied.is_empty() {
            let row = CopyRow::parse(&mut copied)?;
            let version = Version { epoch: row.epoch, number: u64::from(row.number) };
            if !self.is_dropped(row.table) {
                self.store.apply(partition, version, &row.image());
                if pull.mixed {
                    pull.told.insert(fingerprint(row.table, row.key, version));
                }
            }
        }
        self.log_rows(partition, rows);
        if pull.mixed {
            self.remove_strays(partition, &mut pull, to);
        }
        self.copy_in.pulling.insert(partition, pull);
        Ok(())
    }

    /// All rows before this are told. What else is here is gone at the primary; it was deleted while this node was away.
    fn remove_strays(&mut self, partition: PartitionId, pull: &mut Pull, to: CopyCursor) {
        let from = std::mem::replace(&mut pull.from, to);
        let strays = self.store.strays(partition, from, to, &mut pull.told);
        #[cfg(feature = "mutations")]
        let strays = match self.mutated(crate::mutation::Mutation::KeepStrays) {
            true => Vec::new(),
            false => strays,
        };
        self.counters.strays += strays.len() as u64;
        for stray in strays {
            // Newer than the row, and not newer than what deleted it.
            let version = Version { epoch: stray.version.epoch, number: stray.version.number + 1 };
            let Stray { table, tag, key, .. } = &stray;
            let image = Image { table: *table, schema_version: 0, tag: *tag, key, row: None };
            self.store.apply(partition, version, &image);
            self.log_image(partition, version, &image);
        }
    }

    /// The partition is whole (`CopyEndOrd`).
    pub(super) fn on_copy_end(&mut self, said: Said, body: &[u8]) -> Result<(), Malformed> {
        let partition = partition_of(&mut Reader::new(body, "CopyEndOrd"), self.partitions.len())?;
        if !self.is_word_of_primary(partition, said) {
            return Ok(());
        }
        let Some(pull) = self.copy_in.pulling.remove(&partition) else { return Ok(()) };
        if !pull.told.is_empty() {
            self.counters.holes += 1;
            self.copy_in.holed.insert(partition);
            self.continue_copy_in();
            return Ok(());
        }
        self.copy_in.mixed.remove(&partition);
        self.copy_in.holed.remove(&partition);
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
