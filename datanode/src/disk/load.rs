//! Loading: checkpoints, then redo, given to all workers as it stands there.

use std::{collections::VecDeque, sync::Arc};

use twofold_proto::ids::{Epoch, WorkerId};
use twofold_storage::disk::{frame::Frames, manifest::Branch, redo::Position};

use super::{
    Answer, Disk, Effect, FromDisk, Horizon, INITIAL, Lane, MANIFEST, Purpose, Request, Stage, Word,
    open::Chain, part_name, segment_name,
};

/// Records that the workers have yet to take in, past which nothing more is read.
const AHEAD_BYTES: usize = 32 << 20;

/// A file to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Part(u64),
    /// A segment; frames that begin from here on are needed.
    Segment(u64),
}

/// How far loading is.
#[derive(Debug)]
pub(super) struct Load {
    horizon: Arc<Horizon>,
    left: VecDeque<Source>,
    /// Where redo ends: what is behind was not written whole.
    end: Position,
    chain: Chain,
    /// Bytes of each block that was given out, and how many workers have not taken it in.
    given: VecDeque<(usize, u16)>,
    /// Blocks that each worker has taken in.
    taken: Vec<u64>,
    /// Blocks that all have taken in.
    done: u64,
}

impl Load {
    fn ahead(&self) -> usize {
        self.given.iter().map(|(bytes, _)| bytes).sum()
    }

    /// A worker has taken in its next block.
    fn taken(&mut self, worker: WorkerId) {
        let taken = &mut self.taken[usize::from(worker.0)];
        let block = &mut self.given[(*taken - self.done) as usize];
        *taken += 1;
        block.1 -= 1;
        while self.given.front().is_some_and(|(_, waiting)| *waiting == 0) {
            self.given.pop_front();
            self.done += 1;
        }
    }
}

impl Disk {
    /// The node says what is to be loaded.
    pub(super) fn restore(&mut self, horizon: Option<Horizon>, effects: &mut Vec<Effect>) {
        let Stage::Found(open) = &mut self.stage else { panic!("restore {horizon:?} in {:?}", self.stage) };
        let open = std::mem::take(open);
        let (end, segment) = open.end();
        self.checkpoints.next_part = open.next_part();
        let Some(horizon) = horizon else {
            // The manifest first: without it nothing of the rest counts. What says so itself goes last.
            let mut files: Vec<String> = open.files().to_vec();
            files.sort_by_key(|name| (name == INITIAL, name != MANIFEST));
            for file in files {
                self.request(Lane::Background, Purpose::Remove, Request::Remove(file), effects);
            }
            let begin = Position::new(segment, 0);
            self.manifest.redo = begin;
            self.log.begin(begin, segment);
            self.make_segment(effects);
            return self.run(Epoch::default(), effects);
        };
        self.manifest = open.manifest().expect("something was found").clone();
        self.manifest.branches.push(Branch { at: Position::new(segment, 0), limit: horizon.limit });
        let begin = self.manifest.redo.segment();
        let checkpoints = self.manifest.checkpoints.iter();
        let parts = checkpoints.flat_map(|checkpoint| checkpoint.parts.0..checkpoint.parts.1);
        let is_needed = |number: &u64| (begin..=end.segment()).contains(number);
        let (needed, others): (Vec<u64>, Vec<u64>) = open.segments.iter().copied().partition(is_needed);
        let left = parts.map(Source::Part).chain(needed.iter().copied().map(Source::Segment)).collect();
        self.log.begin(end, segment);
        self.log.segments = needed.into_iter().collect();
        // Lives that come to nothing make segments, too: where the disk is full these must not stay.
        let unneeded: Vec<String> = open
            .files()
            .iter()
            .filter_map(|name| Some((name, super::number_of(name, "part-")?)))
            .filter(|(_, number)| {
                let mut parts = self.manifest.checkpoints.iter().map(|checkpoint| checkpoint.parts);
                !parts.any(|(first, end)| (first..end).contains(number))
            })
            .map(|(name, _)| name.clone())
            .chain(others.into_iter().map(segment_name))
            .collect();
        for file in unneeded {
            self.request(Lane::Background, Purpose::Remove, Request::Remove(file), effects);
        }
        self.stage = Stage::Loading(Load {
            horizon: Arc::new(horizon),
            left,
            end,
            chain: Chain::default(),
            given: VecDeque::new(),
            taken: vec![0; usize::from(self.settings.workers)],
            done: 0,
        });
        self.make_segment(effects);
        self.load_on(effects);
    }

    /// Reads the next file, unless the workers have enough to do.
    fn load_on(&mut self, effects: &mut Vec<Effect>) {
        let Stage::Loading(load) = &mut self.stage else { return };
        if self.log_lane.contains(&Purpose::Load) || load.ahead() > AHEAD_BYTES {
            return;
        }
        match load.left.front() {
            Some(source) => {
                let name = match source {
                    Source::Part(number) => part_name(*number),
                    Source::Segment(number) => segment_name(*number),
                };
                self.request(Lane::Log, Purpose::Load, Request::Read(name), effects);
            }
            None if load.given.is_empty() => {
                let limit = load.horizon.limit;
                self.run(limit, effects);
            }
            None => {}
        }
    }

    /// A file was read: gives its records to the workers.
    pub(super) fn on_read(&mut self, answer: Answer, effects: &mut Vec<Effect>) {
        let Stage::Loading(load) = &mut self.stage else { panic!("{answer:?} in {:?}", self.stage) };
        let Answer::Bytes(bytes) = answer else { panic!("{answer:?} for a read") };
        let source = load.left.pop_front().expect("it was asked for");
        let (number, is_part) = match source {
            Source::Part(number) => (number, true),
            Source::Segment(number) => (number, false),
        };
        let mut frames = Frames::new(&bytes, number);
        let mut blocks = Vec::new();
        while is_part || Position::new(number, frames.offset) < load.end {
            let Ok((_, header, payload)) = frames.read_next() else { break };
            let end = Position::new(number, frames.offset);
            match if is_part { Ok(true) } else { load.chain.take(&header, end) } {
                Ok(true) => {
                    // The frames of a checkpoint name the place from which on it may lack something.
                    let place = if is_part { header.flushed } else { end };
                    blocks.push((Arc::<[u8]>::from(payload), self.manifest.limit(place)));
                }
                Ok(false) => {}
                Err(fault) => return self.fail(fault, effects),
            }
        }
        let whole = if is_part {
            bytes.len() == frames.offset
        } else {
            number < load.end.segment() || frames.offset == load.end.offset()
        };
        let whole_horizon = load.horizon.clone();
        for (block, _) in &blocks {
            load.given.push_back((block.len(), self.settings.workers));
        }
        for (block, limit) in blocks {
            let horizon = match limit.filter(|limit| *limit < whole_horizon.limit) {
                Some(limit) => Arc::new(Horizon { limit, view: whole_horizon.view.clone() }),
                None => whole_horizon.clone(),
            };
            self.tell_workers(&FromDisk::Load(block, horizon), effects);
        }
        if !whole {
            let name = if is_part { part_name(number) } else { segment_name(number) };
            return self.fail(format!("{name} is damaged at byte {}", frames.offset), effects);
        }
        self.load_on(effects);
    }

    pub(super) fn on_loaded(&mut self, worker: WorkerId, effects: &mut Vec<Effect>) {
        let Stage::Loading(load) = &mut self.stage else { panic!("{worker} has loaded in {:?}", self.stage) };
        load.taken(worker);
        self.load_on(effects);
    }

    /// From here on redo is written.
    fn run(&mut self, loaded: Epoch, effects: &mut Vec<Effect>) {
        self.stage = Stage::Running;
        self.tell_workers(&FromDisk::LoadEnd(loaded), effects);
        effects.push(Effect::Node(Word::Restored));
    }
}
