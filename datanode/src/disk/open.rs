//! Opening: what stands on disk, and how far it is whole.

use std::collections::BTreeMap;

use twofold_proto::ids::{Epoch, Incarnation, WorkerId};
use twofold_storage::disk::{
    frame::{FrameHeader, Frames, NoFrame},
    manifest::Manifest,
    redo::{Position, Record, records},
};

use super::{
    Answer, Disk, Effect, Found, INITIAL, Lane, MANIFEST, Purpose, Request, Stage, Word, number_of,
    part_name, segment_name,
};

/// What a life's workers have written.
#[derive(Debug, Default)]
struct Life {
    workers: u16,
    /// The last complete epoch that each has written.
    complete: BTreeMap<WorkerId, Epoch>,
}

/// Redo as one chain of frames, each of which says where the one before ends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chain {
    /// Where the first segment begins that is needed.
    begin: Position,
    /// Where the last frame ends.
    end: Option<Position>,
    /// What the newest frame knew to be on disk.
    flushed: Position,
}

impl Chain {
    /// Whether a frame that ends there is the next one. If not it is what is left of a flush that was interrupted.
    ///
    /// # Errors
    /// If what is missing before it had been flushed.
    pub(super) fn take(&mut self, header: &FrameHeader, end: Position) -> Result<bool, String> {
        let is_next = self.end.is_none_or(|last| last == header.previous);
        if is_next {
            self.end = Some(end);
        }
        self.flushed = self.flushed.max(header.flushed);
        self.whole()?;
        Ok(is_next)
    }

    /// Whether all that had been flushed is there.
    fn whole(&self) -> Result<(), String> {
        let end = self.end.unwrap_or(self.begin);
        match self.flushed > end {
            true => Err(format!(
                "redo is damaged from {} to {}: what was written there cannot be read",
                place(end),
                place(self.flushed)
            )),
            false => Ok(()),
        }
    }
}

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Open {
    begun: bool,
    /// All files that are ours, until the next life needs none of them.
    files: Vec<String>,
    manifest: Option<Manifest>,
    /// Segments yet to be looked through, the last one first; and parts of checkpoints.
    left: Vec<u64>,
    parts: Vec<u64>,
    /// Segments yet to be flushed: a process that was killed may have written what is read here and not flushed it.
    unflushed: Vec<u64>,
    /// All that were there.
    pub(super) segments: Vec<u64>,
    lives: BTreeMap<Incarnation, Life>,
    chain: Chain,
    /// Where redo is needed from on.
    begin: Position,
    /// Whether nothing of it is to be restored.
    initial: bool,
    /// Why what is here is of no use.
    fault: Option<String>,
}

impl Open {
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    pub(super) fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// All that is here, to be removed.
    pub(super) fn files(&self) -> &[String] {
        &self.files
    }

    /// Where redo ends, and the number of a segment that was never there: what a life writes stands behind its branch, and
    /// so behind that of each life before, even where a power cut took all segments that this one had made.
    pub(super) fn end(&self) -> (Position, u64) {
        let branches = self.manifest.iter().flat_map(|manifest| &manifest.branches);
        let made = self.segments.iter().map(|last| last + 1);
        let next = branches.map(|branch| branch.at.segment()).chain(made).max();
        (self.chain.end.unwrap_or_default(), next.unwrap_or(0))
    }

    /// A number that no part had.
    pub(super) fn next_part(&self) -> u64 {
        let parts = self.files.iter().filter_map(|name| number_of(name, "part-"));
        parts.max().map_or(0, |last| last + 1)
    }

    /// The last epoch that all workers of the manifest's life have written to its end, or with which it began.
    fn complete(&self, manifest: &Manifest) -> Option<Epoch> {
        let whole = |life: &Life| {
            let epochs = (0..life.workers).map(|worker| life.complete.get(&WorkerId(worker)).copied());
            epochs.collect::<Option<Vec<Epoch>>>()?.into_iter().min()
        };
        let logged = self.lives.get(&manifest.life).and_then(whole);
        let begun = manifest.branches.last().map(|branch| branch.limit);
        // Redo from before the checkpoints is gone, but what they reflect was complete.
        let own = manifest.checkpoints.iter().filter(|checkpoint| checkpoint.life == manifest.life);
        logged.max(begun).max(own.map(|checkpoint| checkpoint.newest).max())
    }

    fn found(&self) -> Option<Found> {
        let manifest = self.manifest.as_ref()?;
        let complete = self.complete(manifest)?;
        let (view, catalog) = (manifest.view.clone(), manifest.catalog.clone());
        Some(Found { life: manifest.life, complete, view, catalog })
    }

    /// Looks through a part of a checkpoint.
    fn check_part(&self, number: u64, bytes: &[u8]) -> Result<(), String> {
        let mut frames = Frames::new(bytes, number);
        while frames.read_next().is_ok() {}
        match frames.offset == bytes.len() {
            true => Ok(()),
            false => Err(format!("{} is damaged at byte {}", part_name(number), frames.offset)),
        }
    }

    /// Looks through a segment.
    fn scan(&mut self, number: u64, bytes: &[u8]) -> Result<(), String> {
        let mut frames = Frames::new(bytes, number);
        let end = loop {
            match frames.read_next() {
                Ok((at, header, payload)) => {
                    let at = Position::new(number, at);
                    if !self.chain.take(&header, Position::new(number, frames.offset))? {
                        continue;
                    }
                    let life = self.lives.entry(header.life).or_default();
                    life.workers = header.workers;
                    for record in records(payload) {
                        let record = record.map_err(|error| format!("{}: {error}", place(at)))?;
                        if let Record::Complete(epoch) = record {
                            life.complete.insert(header.worker, epoch);
                        }
                    }
                }
                Err(end) => break end,
            }
        };
        match end {
            NoFrame::Format(format) => Err(format!(
                "{}: format {format} is another program version's",
                place(Position::new(number, frames.offset))
            )),
            NoFrame::End | NoFrame::Broken => {
                let flushed = frames.flushed_behind().unwrap_or_default();
                self.chain.flushed = self.chain.flushed.max(flushed);
                self.chain.whole()
            }
        }
    }
}

fn place(at: Position) -> String {
    format!("{} at byte {}", segment_name(at.segment()), at.offset())
}

impl Disk {
    /// Begins to look what is there.
    pub(super) fn open(&mut self, effects: &mut Vec<Effect>) {
        if let Stage::Opening(open) = &mut self.stage
            && !open.begun
        {
            open.begun = true;
            self.request(Lane::Background, Purpose::Open, Request::List, effects);
        }
    }

    pub(super) fn on_opened(&mut self, answer: Answer, effects: &mut Vec<Effect>) {
        let Stage::Opening(open) = &mut self.stage else { panic!("{answer:?} in {:?}", self.stage) };
        match answer {
            Answer::Files(files) => {
                let ours = |name: &String| {
                    name == MANIFEST
                        || name == INITIAL
                        || number_of(name, "redo-").is_some()
                        || number_of(name, "part-").is_some()
                };
                open.files = files.into_iter().map(|(name, _)| name).filter(ours).collect();
                let mut segments: Vec<u64> =
                    open.files.iter().filter_map(|name| number_of(name, "redo-")).collect();
                segments.sort_unstable();
                open.left = segments.iter().rev().copied().collect();
                open.segments = segments;
                open.initial = open.files.iter().any(|name| name == INITIAL);
                if !open.initial && open.files.iter().any(|name| name == MANIFEST) {
                    return self.request(
                        Lane::Background,
                        Purpose::Open,
                        Request::Read(MANIFEST.into()),
                        effects,
                    );
                }
                // Without one nothing here was ever whole.
                open.left.clear();
            }
            Answer::Bytes(bytes) if open.manifest.is_none() => match Manifest::decode(&bytes) {
                Ok(manifest) => self.on_manifest(manifest),
                Err(error) => self.unusable(format!("{MANIFEST}: {error}")),
            },
            Answer::Bytes(bytes) => {
                let looked = match open.left.pop() {
                    Some(number) => open.scan(number, &bytes),
                    None => {
                        let number = open.parts.pop().expect("it was asked for");
                        open.check_part(number, &bytes)
                    }
                };
                if let Err(fault) = looked {
                    self.unusable(fault);
                }
            }
            Answer::Done => {}
        }
        self.look_on(effects);
    }

    fn on_manifest(&mut self, manifest: Manifest) {
        let (cluster, node) = (&self.settings.cluster, self.settings.node);
        if manifest.cluster != *cluster || manifest.node != node {
            return self.unusable(format!(
                "{MANIFEST}: this is the data of node {} of cluster «{}», not of node {node} of «{cluster}»",
                manifest.node, manifest.cluster
            ));
        }
        let Stage::Opening(open) = &mut self.stage else { return };
        let parts = manifest.checkpoints.iter().flat_map(|checkpoint| checkpoint.parts.0..checkpoint.parts.1);
        open.parts = parts.collect();
        let missing = open.parts.iter().map(|part| part_name(*part)).find(|name| !open.files.contains(name));
        open.left.retain(|segment| *segment >= manifest.redo.segment());
        open.chain.begin = Position::new(manifest.redo.segment(), 0);
        open.unflushed = open.left.clone();
        // The log had reached the place from which on it is needed.
        open.begin = manifest.redo;
        open.manifest = Some(manifest);
        if let Some(name) = missing {
            self.unusable(format!("{name}: the file is missing"));
        }
    }

    /// Nothing of what is here can be relied on.
    fn unusable(&mut self, fault: String) {
        let Stage::Opening(open) = &mut self.stage else { return };
        open.left.clear();
        open.parts.clear();
        open.fault = Some(fault);
    }

    /// Reads the next segment, or says what was found.
    fn look_on(&mut self, effects: &mut Vec<Effect>) {
        let Stage::Opening(open) = &mut self.stage else { return };
        let segment = open.left.last().map(|number| segment_name(*number));
        if let Some(name) = segment.or_else(|| open.parts.last().map(|number| part_name(*number))) {
            return self.request(Lane::Background, Purpose::Open, Request::Read(name), effects);
        }
        if open.fault.is_none()
            && let Some(number) = open.unflushed.pop()
        {
            let request = Request::Sync(segment_name(number));
            return self.request(Lane::Background, Purpose::Open, request, effects);
        }
        let mut open = std::mem::take(open);
        if open.fault.is_none() {
            open.chain.flushed = open.chain.flushed.max(open.begin);
            open.fault = open.chain.whole().err();
        }
        let word = match &open.fault {
            Some(fault) => Word::Damaged(fault.clone()),
            None if open.initial => Word::Initial,
            None => Word::Found(open.found()),
        };
        effects.push(Effect::Node(word));
        self.stage = Stage::Found(open);
    }
}
