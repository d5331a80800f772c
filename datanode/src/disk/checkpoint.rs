//! Checkpoints: one worker after the other writes its rows, in small steps.
//!
//! They keep pace with redo: a worker's turn ends before redo has grown by its share of half of what it may take. So whatever
//! the load, redo is cut off in time, and no more is written than that needs.

use std::collections::VecDeque;

use twofold_proto::ids::{Epoch, WorkerId};
use twofold_storage::disk::{
    frame::{FrameHeader, frame_bytes, put_frame},
    manifest::Checkpoint,
    redo::Position,
};

use super::{Disk, Effect, FromDisk, Lane, Purpose, Request, part_name};

/// Bytes that a worker is given to write at a time.
const BUDGET_BYTES: usize = 256 << 10;
/// Bytes of rows that are on their way to the disk, past which a worker gets no more to write.
const WINDOW_BYTES: usize = 64 << 20;

/// A checkpoint that is being written.
#[derive(Debug)]
struct Writing {
    worker: WorkerId,
    /// What the worker logs from here on may not be in it; `None`: it was told to begin and has not.
    begin: Option<Position>,
    first_part: u64,
    /// What goes into the part that is being filled.
    part: Vec<u8>,
    /// What the worker's rows take, and a bit more.
    bytes: u64,
    /// What the worker was given to write, what it has sent, and what it should have been given by now.
    given: u64,
    sent: u64,
    due: u64,
    /// Reflects nothing of a later epoch; known when all rows are there.
    newest: Option<Epoch>,
    /// Parts that are being written.
    unwritten: usize,
}

/// The checkpoints.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    writing: Option<Writing>,
    /// Whole, but what they reflect is not durable yet.
    waiting: VecDeque<Checkpoint>,
    /// Whose turn is next.
    next_worker: u16,
    pub(super) next_part: u64,
    /// Bytes of redo that a copy took, until each worker has had its turn.
    pub(super) granted: u64,
    /// Redo written since the last turn went on.
    grown: u64,
}

impl Checkpoints {
    /// Redo has grown.
    pub(super) fn grew(&mut self, bytes: u64) {
        self.grown += bytes;
    }

    /// The checkpoint of this worker, whose turn it is.
    fn writing_of(&mut self, worker: WorkerId) -> &mut Writing {
        let writing = self.writing.as_mut().filter(|writing| writing.worker == worker);
        writing.expect("it was told to begin")
    }
}

impl Disk {
    /// Whether all that this life has to hold is on disk, so that checkpoints of it can be relied on.
    pub(super) fn is_whole(&self) -> bool {
        self.manifest.life == self.settings.life
    }

    pub(super) fn begin_checkpoint(&mut self, worker: WorkerId, bytes: u64) {
        let begin = self.log.end();
        let writing = self.checkpoints.writing_of(worker);
        (writing.begin, writing.bytes) = (Some(begin), bytes);
    }

    /// Rows came; they go into parts, and those to disk.
    pub(super) fn checkpoint_rows(&mut self, worker: WorkerId, records: Vec<u8>, effects: &mut Vec<Effect>) {
        let writing = self.checkpoints.writing_of(worker);
        let position = writing.begin.expect("it has begun");
        writing.sent += records.len() as u64;
        if writing.part.len() + frame_bytes(records.len()) > self.settings.segment_bytes {
            self.write_part(effects);
        }
        let (life, workers) = (self.settings.life, self.settings.workers);
        let header = FrameHeader {
            file: self.checkpoints.next_part,
            life,
            flushed: position,
            previous: position,
            worker,
            workers,
        };
        let writing = self.checkpoints.writing.as_mut().expect("just seen");
        put_frame(&header, &records, &mut writing.part);
    }

    fn write_part(&mut self, effects: &mut Vec<Effect>) {
        let writing = self.checkpoints.writing.as_mut().expect("it is being written");
        let bytes = std::mem::take(&mut writing.part);
        writing.unwritten += 1;
        let name = part_name(self.checkpoints.next_part);
        self.checkpoints.next_part += 1;
        self.request(Lane::Background, Purpose::Part, Request::Replace(name, bytes), effects);
    }

    pub(super) fn end_checkpoint(&mut self, worker: WorkerId, newest: Epoch, effects: &mut Vec<Effect>) {
        let writing = self.checkpoints.writing_of(worker);
        writing.newest = Some(newest);
        if !writing.part.is_empty() {
            self.write_part(effects);
        }
        self.finish_checkpoint();
    }

    pub(super) fn on_part_written(&mut self) {
        self.checkpoints.writing.as_mut().expect("it is being written").unwritten -= 1;
        self.finish_checkpoint();
    }

    /// Whole and on disk: from now on it waits for what it reflects to be durable.
    fn finish_checkpoint(&mut self) {
        let next = self.checkpoints.next_part;
        let done = |writing: &mut Writing| writing.newest.is_some() && writing.unwritten == 0;
        let Some(writing) = self.checkpoints.writing.take_if(done) else { return };
        let Writing { worker, begin, first_part, newest, .. } = writing;
        self.checkpoints.waiting.push_back(Checkpoint {
            life: self.settings.life,
            worker,
            parts: (first_part, next),
            begin: begin.expect("it has begun"),
            newest: newest.expect("it is whole"),
        });
    }

    /// Makes checkpoints valid, gives the worker more to do, and begins the next one when it is time.
    pub(super) fn continue_checkpoints(&mut self, effects: &mut Vec<Effect>) {
        while let Some(checkpoint) =
            self.checkpoints.waiting.pop_front_if(|checkpoint| checkpoint.newest <= self.durable)
        {
            self.make_valid(checkpoint);
        }
        let congested = self.is_congested();
        if let Some(writing) = &mut self.checkpoints.writing {
            // Something in any case, so that it ends. When writes are refused redo does not grow any more.
            let share = self.settings.redo_bytes / 2 / u64::from(self.settings.workers);
            let grown = std::mem::take(&mut self.checkpoints.grown);
            writing.due +=
                (u128::from(grown) * u128::from(writing.bytes) / u128::from(share.max(1))) as u64 + 1;
            let unwritten = writing.part.len() + writing.unwritten * self.settings.segment_bytes;
            if writing.begin.is_some()
                && writing.newest.is_none()
                && (writing.due > writing.given || (congested && writing.sent >= writing.given))
                && unwritten < WINDOW_BYTES
            {
                writing.given += BUDGET_BYTES as u64;
                effects.push(Effect::Worker(writing.worker, FromDisk::Budget(BUDGET_BYTES)));
            }
        } else if self.is_whole() && self.checkpoints.waiting.is_empty() && self.is_checkpoint_due() {
            let worker = WorkerId(self.checkpoints.next_worker);
            self.checkpoints.next_worker = (worker.0 + 1) % self.settings.workers;
            self.checkpoints.writing = Some(Writing {
                worker,
                begin: None,
                first_part: self.checkpoints.next_part,
                part: Vec::new(),
                bytes: 0,
                given: 0,
                sent: 0,
                due: 0,
                newest: None,
                unwritten: 0,
            });
            effects.push(Effect::Worker(worker, FromDisk::Checkpoint));
        }
    }

    /// Redo has grown by its share of what it may take since the worker's turn came last.
    fn is_checkpoint_due(&self) -> bool {
        self.redo_bytes() > self.settings.redo_bytes / 4
    }

    /// The checkpoint takes the place of the worker's former one; those of former lives go when all workers have one.
    fn make_valid(&mut self, checkpoint: Checkpoint) {
        let life = self.settings.life;
        let checkpoints = &mut self.manifest.checkpoints;
        let before = checkpoints.clone();
        checkpoints.retain(|other| other.life != life || other.worker != checkpoint.worker);
        checkpoints.push(checkpoint);
        if checkpoints.iter().filter(|checkpoint| checkpoint.life == life).count()
            == usize::from(self.settings.workers)
        {
            checkpoints.retain(|checkpoint| checkpoint.life == life);
            let begin = checkpoints.iter().map(|checkpoint| checkpoint.begin).min();
            let begin = begin.expect("one of each worker");
            self.manifest.redo = begin;
            self.manifest.branches.retain(|branch| branch.at > begin);
            self.checkpoints.granted = 0;
        }
        let after = self.manifest.checkpoints.clone();
        self.manifest_changed = true;
        let gone = before.iter().filter(|checkpoint| !after.contains(checkpoint));
        self.unneeded.extend(gone.flat_map(|gone| gone.parts.0..gone.parts.1).map(part_name));
    }
}
