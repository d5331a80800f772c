//! The data node's disk: one redo log for all workers, their checkpoints, and the loading of both.
//!
//! A machine like the others: what is to be read and written are effects, and what came of it are inputs. There are two
//! *lanes*; in each, requests are carried out one after the other, in order. Redo goes through one of them, so nothing else holds up a flush;
//! what is not urgent through the other.
//!
//! A life of the machine:
//!
//! 1. `open` reads the manifest and looks through redo: where it ends, up to which complete epoch its workers had
//!    written it, and whether it is whole. The node is told ([`Word::Found`]).
//! 2. The node says what of it to load ([`ToDisk::Restore`]): all up to some epoch, or nothing. `load` gives records to all workers, each of which
//!    takes those of its partitions, so that their number may be another than before.
//! 3. From then on `log` writes what workers append, and flushes it, one flush for all; `checkpoint` takes one worker
//!    after the other through its rows.
//!
//! Files are never longer than [`Settings::segment_bytes`], so each is read as a whole.

mod checkpoint;
mod load;
mod log;
mod open;
#[cfg(any(test, feature = "mutations"))]
pub mod simulated;

use std::{collections::VecDeque, sync::Arc};

use twofold_proto::{
    ids::{Epoch, Incarnation, NodeId, WorkerId},
    machine::Machine,
    message::Catalog,
    time::{Duration, Time},
    view::View,
};
use twofold_storage::disk::{manifest::Manifest, redo::Position};

use self::{checkpoint::Checkpoints, load::Load, log::Log, open::Open};

/// The manifest's file.
const MANIFEST: &str = "manifest";
/// A file by which people say that nothing of what stands here is to be restored. It goes with the rest.
pub const INITIAL: &str = "initial";

fn segment_name(number: u64) -> String {
    format!("redo-{number:010}")
}

fn part_name(number: u64) -> String {
    format!("part-{number:010}")
}

/// The number in a file's name, if it is of this kind.
fn number_of(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.parse().ok()
}

/// In which order requests are carried out: those of one lane one after the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// Redo.
    Log,
    /// All else.
    Background,
}

/// Something to do with the files of the node's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Name and length of all files: [`Answer::Files`].
    List,
    /// All of a file: [`Answer::Bytes`].
    Read(String),
    /// Makes a file of so many zeros, in place of any of that name, and flushes it and its directory.
    Create(String, usize),
    /// Writes bytes from an offset on.
    Write(String, usize, Vec<u8>),
    /// Flushes what was written to a file (fdatasync(2)).
    Sync(String),
    /// Makes these bytes the file, all or nothing, and flushes that.
    Replace(String, Vec<u8>),
    /// Removes a file; it may be missing.
    Remove(String),
}

/// What a request brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is done.
    Done,
    /// The files.
    Files(Vec<(String, u64)>),
    /// What stands in the file.
    Bytes(Vec<u8>),
}

/// A request that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Whether there was no room on the disk.
    pub full: bool,
    /// What failed, at which file, and why.
    pub text: String,
}

/// Which records may be restored.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Horizon {
    /// None of a later epoch.
    pub limit: Epoch,
    /// The view under which they are. What it says that system restarts went back behind never was.
    pub view: Arc<View>,
}

impl Horizon {
    /// The same with one epoch more: a deliberate fault.
    #[cfg(feature = "mutations")]
    pub fn past(&self) -> Horizon {
        let mut view = (*self.view).clone();
        if let Some(cut) = view.cuts.last_mut() {
            cut.epoch = cut.epoch.next();
        }
        Horizon { limit: self.limit.next(), view: Arc::new(view) }
    }

    /// Whether what was committed in this epoch stays.
    pub fn keeps(&self, epoch: Epoch) -> bool {
        epoch <= self.limit && self.view.keeps(epoch)
    }
}

/// From the node and its workers to the disk.
#[derive(Clone, PartialEq, Debug)]
pub enum ToDisk {
    /// The node, once it was told what was found: what of it is to be loaded. `None`: all of it goes.
    Restore(Option<Horizon>),
    /// The node has adopted these, and what stands on disk is this life's: all that it has to hold was loaded or copied, and is
    /// flushed. To be answered with [`Word::Remembered`].
    Remember {
        /// The view.
        view: Arc<View>,
        /// The catalog.
        catalog: Arc<Catalog>,
    },
    /// The node: epochs up to this one are on the disks of all nodes that count.
    Durable(Epoch),
    /// A worker: records for redo.
    Append {
        /// Which worker.
        worker: WorkerId,
        /// Its records.
        records: Vec<u8>,
        /// Whether somebody waits for them to be flushed.
        urgent: bool,
    },
    /// A worker has taken in [`FromDisk::Load`].
    Loaded(WorkerId),
    /// A worker begins its checkpoint; it has appended all that it has logged. Its rows take about so many bytes.
    Begin(WorkerId, u64),
    /// Rows of its checkpoint, as records.
    Rows(WorkerId, Vec<u8>),
    /// The checkpoint is whole, and reflects nothing of a later epoch.
    End(WorkerId, Epoch),
}

/// From the disk to a worker.
#[derive(Clone, PartialEq, Debug)]
pub enum FromDisk {
    /// Records to take in, those of its partitions that the horizon keeps. To be answered with [`ToDisk::Loaded`].
    Load(Arc<[u8]>, Arc<Horizon>),
    /// That was all: what was committed up to this epoch, and nothing later.
    LoadEnd(Epoch),
    /// So many bytes of its records are on disk, of all that it has appended.
    Flushed(u64),
    /// It is to begin a checkpoint.
    Checkpoint,
    /// It may send so many bytes more of its checkpoint's rows.
    Budget(usize),
}

/// What was found on disk.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    /// The life that wrote it last.
    pub life: Incarnation,
    /// The last epoch of which all stands there.
    pub complete: Epoch,
    /// The newest view that it had adopted.
    pub view: View,
    /// The newest catalog.
    pub catalog: Catalog,
}

/// From the disk to the node.
#[derive(Clone, PartialEq, Debug)]
pub enum Word {
    /// What can be restored; `None`: nothing.
    Found(Option<Found>),
    /// People have said that nothing of what stands on disk is to be restored.
    Initial,
    /// What stands on disk is of no use: where it is damaged, or whose it is. It goes when the node restores nothing.
    Damaged(String),
    /// All is loaded, or removed: redo is written from now on.
    Restored,
    /// The manifest is on disk, and says whose it is.
    Remembered(Incarnation),
    /// Whether redo takes about as much room as it may, or grows faster than it can be written.
    Congested(bool),
    /// Nothing more can be written.
    Failed(String),
}

/// What happens to a disk.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// Somebody says something.
    Local(ToDisk),
    /// The oldest request of a lane was carried out.
    Io(Lane, Result<Answer, Fault>),
    /// [`Machine::next_timeout`] has passed.
    Timer,
}

/// What a disk wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// A request, behind those of its lane.
    Io(Lane, Request),
    /// Tell a worker.
    Worker(WorkerId, FromDisk),
    /// Tell the node.
    Node(Word),
}

/// What a disk is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster's name.
    pub cluster: String,
    /// The node's id.
    pub node: NodeId,
    /// This life.
    pub life: Incarnation,
    /// How many workers run.
    pub workers: u16,
    /// Bytes of a segment of redo, and of a checkpoint's part at most.
    pub segment_bytes: usize,
    /// Bytes that redo takes before writes are refused.
    pub redo_bytes: u64,
    /// How long what is appended waits for its flush at most.
    pub flush: Duration,
}

/// What a request is for; the answers of a lane come in the order of its requests.
#[derive(Clone, PartialEq, Debug)]
enum Purpose {
    Open,
    Load,
    /// A step of a flush; true: the last one.
    Flush(bool),
    Segment(u64),
    Part,
    /// Of this life; then these files go.
    Manifest(Incarnation, Vec<String>),
    Remove,
}

#[derive(Debug)]
enum Stage {
    Opening(Open),
    /// The node has been told, and has yet to say what is to be loaded.
    Found(Open),
    Loading(Load),
    Running,
    /// Something could not be written. Nothing is from then on.
    Failed,
}

/// The machine. Its first step is a timer's.
#[derive(Debug)]
pub struct Disk {
    settings: Settings,
    stage: Stage,
    manifest: Manifest,
    /// Whether the manifest has changed since it was last written.
    manifest_changed: bool,
    /// Files that the manifest, as it is now, does without.
    unneeded: Vec<String>,
    log: Log,
    checkpoints: Checkpoints,
    durable: Epoch,
    congested: bool,
    log_lane: VecDeque<Purpose>,
    background: VecDeque<Purpose>,
}

impl Disk {
    /// A disk of a process that starts.
    ///
    /// # Panics
    /// Panics if a segment cannot hold the longest frame.
    pub fn new(settings: Settings) -> Disk {
        let manifest = Manifest {
            cluster: settings.cluster.clone(),
            node: settings.node,
            checkpoints: Vec::new(),
            redo: Position::default(),
            branches: Vec::new(),
            // Nobody's: what is here is not whole.
            life: Incarnation::default(),
            view: View::default(),
            catalog: Catalog::default(),
        };
        Disk {
            stage: Stage::Opening(Open::default()),
            manifest,
            manifest_changed: false,
            unneeded: Vec::new(),
            log: Log::new(settings.workers),
            checkpoints: Checkpoints::default(),
            durable: Epoch::default(),
            congested: false,
            log_lane: VecDeque::new(),
            background: VecDeque::new(),
            settings,
        }
    }

    fn request(&mut self, lane: Lane, purpose: Purpose, request: Request, effects: &mut Vec<Effect>) {
        match lane {
            Lane::Log => self.log_lane.push_back(purpose),
            Lane::Background => self.background.push_back(purpose),
        }
        effects.push(Effect::Io(lane, request));
    }

    fn on_io(&mut self, now: Time, lane: Lane, result: Result<Answer, Fault>, effects: &mut Vec<Effect>) {
        let purposes = match lane {
            Lane::Log => &mut self.log_lane,
            Lane::Background => &mut self.background,
        };
        let purpose = purposes.pop_front().expect("answers come to requests alone");
        if matches!(self.stage, Stage::Failed) {
            return;
        }
        let answer = match result {
            Ok(answer) => answer,
            Err(fault) => return self.fail(fault.text, effects),
        };
        match purpose {
            Purpose::Open => self.on_opened(answer, effects),
            Purpose::Load => self.on_read(answer, effects),
            Purpose::Flush(last) if last => self.on_flushed(effects),
            Purpose::Segment(number) => self.log.spare.push_back(number),
            Purpose::Part => self.on_part_written(),
            Purpose::Manifest(life, unneeded) => {
                effects.push(Effect::Node(Word::Remembered(life)));
                for file in unneeded {
                    self.request(Lane::Background, Purpose::Remove, Request::Remove(file), effects);
                }
            }
            Purpose::Flush(_) | Purpose::Remove => {}
        }
        self.go_on(now, effects);
    }

    /// Nothing is written from here on: what was, stays as it is.
    fn fail(&mut self, text: String, effects: &mut Vec<Effect>) {
        self.stage = Stage::Failed;
        effects.push(Effect::Node(Word::Failed(text)));
    }

    /// Does what can be done now.
    fn go_on(&mut self, now: Time, effects: &mut Vec<Effect>) {
        match self.stage {
            Stage::Running => {}
            // A node that joins gets writes while it loads.
            Stage::Loading(_) => return self.write_log(now, effects),
            _ => return,
        }
        self.write_log(now, effects);
        self.continue_checkpoints(effects);
        self.write_manifest(effects);
        let congested = self.is_congested();
        if congested != self.congested {
            self.congested = congested;
            effects.push(Effect::Node(Word::Congested(congested)));
        }
    }

    /// Writes the manifest if it has changed; what it makes superfluous goes once it is on disk.
    fn write_manifest(&mut self, effects: &mut Vec<Effect>) {
        if std::mem::take(&mut self.manifest_changed) {
            let request = Request::Replace(MANIFEST.into(), self.manifest.encode());
            let mut unneeded = std::mem::take(&mut self.unneeded);
            unneeded.extend(self.take_unneeded());
            let purpose = Purpose::Manifest(self.manifest.life, unneeded);
            self.request(Lane::Background, purpose, request, effects);
        }
    }

    fn on_local(&mut self, now: Time, message: ToDisk, effects: &mut Vec<Effect>) {
        if matches!(self.stage, Stage::Failed) {
            return;
        }
        match message {
            ToDisk::Restore(horizon) => self.restore(horizon, effects),
            ToDisk::Remember { view, catalog } => {
                (self.manifest.view, self.manifest.catalog) = ((*view).clone(), (*catalog).clone());
                if self.manifest.life != self.settings.life {
                    self.manifest.life = self.settings.life;
                    self.checkpoints.granted = self.redo_bytes();
                }
                self.manifest_changed = true;
            }
            ToDisk::Durable(epoch) => self.durable = self.durable.max(epoch),
            ToDisk::Append { worker, records, urgent } => self.append(now, worker, records, urgent),
            ToDisk::Loaded(worker) => self.on_loaded(worker, effects),
            ToDisk::Begin(worker, bytes) => self.begin_checkpoint(worker, bytes),
            ToDisk::Rows(worker, records) => self.checkpoint_rows(worker, records, effects),
            ToDisk::End(worker, newest) => self.end_checkpoint(worker, newest, effects),
        }
        self.go_on(now, effects);
    }

    fn tell_workers(&self, message: &FromDisk, effects: &mut Vec<Effect>) {
        let workers = (0..self.settings.workers).map(WorkerId);
        effects.extend(workers.map(|worker| Effect::Worker(worker, message.clone())));
    }
}

impl Machine for Disk {
    type Input<'a> = Input;
    type Effect = Effect;

    fn step(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Local(message) => self.on_local(now, message, effects),
            Input::Io(lane, result) => self.on_io(now, lane, result, effects),
            Input::Timer => {
                self.open(effects);
                self.go_on(now, effects);
            }
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        match &self.stage {
            Stage::Opening(open) if !open.has_begun() => Some(Time(0)),
            Stage::Running => self.log.due(),
            _ => None,
        }
    }

    fn check(&self) {
        self.log.check(self.settings.segment_bytes);
        let (begin, end) = (self.manifest.redo, self.log.end());
        assert!(
            !matches!(self.stage, Stage::Running) || begin <= end,
            "redo begins at {begin:?} and ends at {end:?}"
        );
    }
}

#[cfg(test)]
mod tests;
