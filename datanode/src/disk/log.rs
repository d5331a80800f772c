//! Writing redo: what workers append goes into frames, and frames into segments.

use std::collections::{BTreeSet, VecDeque};

use twofold_proto::{ids::WorkerId, time::Time};
use twofold_storage::disk::{
    frame::{ALIGNMENT, FrameHeader, frame_bytes, put_end_mark, put_frame},
    redo::Position,
};

use super::{Disk, Effect, FromDisk, Lane, Purpose, Request, segment_name};

/// Bytes appended that are written without waiting longer.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes appended and not yet on disk, past which writes are refused.
const QUEUED_BYTES_MAX: usize = 64 << 20;
/// Segments that are made ahead.
const SPARE_SEGMENTS: usize = 2;

/// Redo as it is written.
#[derive(Debug)]
pub(super) struct Log {
    /// Where the next frame goes, if it fits, and that segment has been made.
    next: Position,
    is_open: bool,
    /// Whether what waits has to wait for a new segment.
    stalled: bool,
    /// Where the last frame ends.
    previous: Position,
    /// Up to where all is on disk.
    flushed: Position,
    /// The segments that hold something that is needed, and those that are made.
    pub(super) segments: BTreeSet<u64>,
    /// Segments that are made and empty.
    pub(super) spare: VecDeque<u64>,
    /// The number of the next segment that is made.
    next_segment: u64,
    queue: VecDeque<(WorkerId, Vec<u8>)>,
    queued: usize,
    /// Since when something waits.
    due: Option<Time>,
    urgent: bool,
    /// The flush under way: up to where, and how many bytes of each worker's are flushed by then.
    flushing: Option<(Position, Vec<u64>)>,
    /// Bytes that each worker has appended and that are written or being written; and those that are flushed.
    written: Vec<u64>,
    told: Vec<u64>,
}

impl Log {
    pub(super) fn new(workers: u16) -> Log {
        let none = vec![0; usize::from(workers)];
        Log {
            next: Position::default(),
            is_open: false,
            stalled: false,
            previous: Position::default(),
            flushed: Position::default(),
            segments: BTreeSet::new(),
            spare: VecDeque::new(),
            next_segment: 0,
            queue: VecDeque::new(),
            queued: 0,
            due: None,
            urgent: false,
            flushing: None,
            written: none.clone(),
            told: none,
        }
    }

    /// Goes on behind `end`, in new segments.
    pub(super) fn begin(&mut self, end: Position, segment: u64) {
        (self.previous, self.flushed) = (end, end);
        self.next_segment = segment;
        self.next = Position::new(segment, 0);
    }

    /// Where the next frame goes at the earliest.
    pub(super) fn end(&self) -> Position {
        self.next
    }

    /// When what waits is to be flushed.
    pub(super) fn due(&self) -> Option<Time> {
        if self.flushing.is_some() || self.stalled { None } else { self.due }
    }

    pub(super) fn check(&self, segment_bytes: usize) {
        assert!(self.next.offset() <= segment_bytes, "{:?} in segments of {segment_bytes}", self.next);
        assert!(self.flushed <= self.previous, "{:?} is flushed of {:?}", self.flushed, self.previous);
        assert_eq!(self.queued, self.queue.iter().map(|(_, records)| records.len()).sum::<usize>());
    }
}

impl Disk {
    pub(super) fn append(&mut self, now: Time, worker: WorkerId, records: Vec<u8>, urgent: bool) {
        let fits = frame_bytes(records.len()) + ALIGNMENT <= self.settings.segment_bytes;
        assert!(fits, "{} bytes of records in segments of {}", records.len(), self.settings.segment_bytes);
        let log = &mut self.log;
        log.urgent |= urgent;
        log.queued += records.len();
        log.queue.push_back((worker, records));
        let due = now + self.settings.flush;
        log.due.get_or_insert(due);
    }

    /// Writes and flushes what waits, if it is time and no flush is under way.
    pub(super) fn write_log(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.log.stalled = false;
        let log = &self.log;
        let is_time = log.urgent || log.queued >= WRITE_BYTES || log.due.is_some_and(|due| now >= due);
        if log.queue.is_empty() || log.flushing.is_some() || !is_time {
            return;
        }
        let mut files = Vec::new();
        while !self.log.queue.is_empty() {
            let Some(file) = self.current_segment() else { break };
            let (offset, bytes) = self.fill(file);
            if !bytes.is_empty() {
                files.push(segment_name(file));
                let request = Request::Write(segment_name(file), offset, bytes);
                self.request(Lane::Log, Purpose::Flush(false), request, effects);
            }
        }
        let Some(last) = files.pop() else {
            self.log.stalled = true;
            return self.make_segment(effects);
        };
        for file in files {
            self.request(Lane::Log, Purpose::Flush(false), Request::Sync(file), effects);
        }
        self.request(Lane::Log, Purpose::Flush(true), Request::Sync(last), effects);
        let log = &mut self.log;
        log.flushing = Some((log.previous, log.written.clone()));
        log.urgent &= !log.queue.is_empty();
        log.due = if log.queue.is_empty() { None } else { Some(now) };
        self.make_segment(effects);
    }

    /// The segment that the first of the queue goes to; `None`: it has yet to be made.
    fn current_segment(&mut self) -> Option<u64> {
        let log = &mut self.log;
        let (_, records) = log.queue.front().expect("something waits");
        let has_room =
            log.next.offset() + frame_bytes(records.len()) + ALIGNMENT <= self.settings.segment_bytes;
        if log.is_open && has_room {
            return Some(log.next.segment());
        }
        let segment = log.spare.pop_front()?;
        (log.next, log.is_open) = (Position::new(segment, 0), true);
        Some(segment)
    }

    /// Frames of what waits, as many as fit into the segment, and where they go.
    fn fill(&mut self, file: u64) -> (usize, Vec<u8>) {
        let (log, settings) = (&mut self.log, &self.settings);
        let start = log.next.offset();
        let waiting: usize = log.queue.iter().map(|(_, records)| frame_bytes(records.len())).sum();
        let mut bytes = Vec::with_capacity(waiting.min(settings.segment_bytes - start) + ALIGNMENT);
        while let Some((_, records)) = log.queue.front()
            && start + bytes.len() + frame_bytes(records.len()) + ALIGNMENT <= settings.segment_bytes
        {
            let (worker, records) = log.queue.pop_front().expect("just seen");
            let header = FrameHeader {
                file,
                life: settings.life,
                flushed: log.flushed,
                previous: log.previous,
                worker,
                workers: settings.workers,
            };
            put_frame(&header, &records, &mut bytes);
            log.previous = Position::new(file, start + bytes.len());
            log.queued -= records.len();
            log.written[usize::from(worker.0)] += records.len() as u64;
            self.checkpoints.grew(records.len() as u64);
        }
        log.next = Position::new(file, start + bytes.len());
        put_end_mark(&mut bytes);
        (start, bytes)
    }

    pub(super) fn on_flushed(&mut self, effects: &mut Vec<Effect>) {
        let log = &mut self.log;
        let (position, bytes) = log.flushing.take().expect("a flush is under way");
        log.flushed = position;
        for (worker, flushed) in (0..).map(WorkerId).zip(&bytes) {
            let told = &mut log.told[usize::from(worker.0)];
            if told != flushed {
                *told = *flushed;
                effects.push(Effect::Worker(worker, FromDisk::Flushed(*flushed)));
            }
        }
    }

    /// Has some segments ahead.
    pub(super) fn make_segment(&mut self, effects: &mut Vec<Effect>) {
        let under_way = |purpose: &&super::Purpose| matches!(purpose, Purpose::Segment(_));
        let ahead = self.log.spare.len() + self.background.iter().filter(under_way).count();
        for _ in ahead..SPARE_SEGMENTS {
            let number = self.log.next_segment;
            self.log.next_segment += 1;
            self.log.segments.insert(number);
            let request = Request::Create(segment_name(number), self.settings.segment_bytes);
            self.request(Lane::Background, Purpose::Segment(number), request, effects);
        }
    }

    /// Bytes of redo that a restart would need now.
    pub(super) fn redo_bytes(&self) -> u64 {
        let (first, next) = (self.manifest.redo.segment(), self.log.next);
        (next.segment().saturating_sub(first)) * self.settings.segment_bytes as u64 + next.offset() as u64
    }

    /// A node that is not whole has nobody's writes to refuse: what it copies takes as much redo as it takes.
    pub(super) fn is_congested(&self) -> bool {
        let redo_bytes_max = self.settings.redo_bytes / 10 * 9 + self.checkpoints.granted;
        self.log.queued > QUEUED_BYTES_MAX || (self.is_whole() && self.redo_bytes() > redo_bytes_max)
    }

    /// Segments that the manifest makes superfluous: their files' names.
    pub(super) fn take_unneeded(&mut self) -> Vec<String> {
        let unneeded: Vec<u64> = self.log.segments.range(..self.manifest.redo.segment()).copied().collect();
        self.log.segments.retain(|number| !unneeded.contains(number));
        unneeded.into_iter().map(segment_name).collect()
    }
}
