use std::collections::{BTreeMap, VecDeque};

use twofold_proto::{
    ids::{PartitionId, TableId, Version},
    message::{CopyRow, Image},
    random::Random,
    time::ClusterTime,
    view::Cut,
    wire::Writer,
};
use twofold_storage::disk::redo::{Record, put_complete, put_image, put_rows, records};

use super::{simulated::Files, *};

const NODE: NodeId = NodeId(11);
const PARTITIONS: u16 = 4;

/// The rows of a store: version and value by key. Deletions have no row.
type Rows = BTreeMap<u8, (Version, u64)>;

/// What became of a key.
#[derive(Clone, Copy, Debug)]
struct Change {
    version: Version,
    key: u8,
    value: Option<u64>,
}

fn apply(rows: &mut Rows, Change { version, key, value }: Change) {
    if rows.get(&key).is_some_and(|(newer, _)| *newer >= version) {
        return;
    }
    match value {
        Some(value) => _ = rows.insert(key, (version, value)),
        None => _ = rows.remove(&key),
    }
}

fn partition(key: u8) -> PartitionId {
    PartitionId(u16::from(key) % PARTITIONS)
}

fn image<'a>(key: &'a [u8], body: Option<&'a [u8]>) -> Image<'a> {
    Image { table: TableId(1), schema_version: 1, tag: 0, key, row: body.map(|body| (ClusterTime(0), body)) }
}

/// A worker: the keys of its partitions, and what it has on its way to disk.
#[derive(Debug, Default)]
struct TestWorker {
    appended: u64,
    flushed: u64,
    /// Complete epochs, and how many bytes have to be flushed for them.
    complete: VecDeque<(u64, Epoch)>,
    durable: Epoch,
    /// The next key of its checkpoint.
    checkpoint: Option<u8>,
}

/// A node with a disk, and a store of which the workers have a share each.
struct Tested {
    settings: Settings,
    /// The last life that had loaded all.
    whole: Incarnation,
    disk: Disk,
    files: Files,
    lanes: BTreeMap<Lane, VecDeque<Request>>,
    words: Vec<Word>,
    to_workers: VecDeque<(WorkerId, FromDisk)>,
    workers: Vec<TestWorker>,
    random: Random,
    now: Time,
    rows: Rows,
    history: Vec<Change>,
    cuts: Vec<(u16, Epoch)>,
    epoch: Epoch,
    complete: Epoch,
    durable: Epoch,
    number: u64,
    checkpoints: u64,
}

impl Tested {
    fn new(seed: u64) -> Tested {
        let settings = Settings {
            cluster: "test".into(),
            node: NODE,
            life: Incarnation(1),
            workers: 2,
            segment_bytes: 8 << 10,
            redo_bytes: 96 << 10,
            flush: Duration::from_millis(100),
        };
        Tested {
            disk: Disk::new(settings.clone()),
            whole: settings.life,
            settings,
            files: Files::default(),
            lanes: BTreeMap::new(),
            words: Vec::new(),
            to_workers: VecDeque::new(),
            workers: Vec::new(),
            random: Random::new(seed),
            now: Time(0),
            rows: Rows::new(),
            history: Vec::new(),
            cuts: Vec::new(),
            epoch: Epoch::new(1, 1),
            complete: Epoch::default(),
            durable: Epoch::default(),
            number: 0,
            checkpoints: 0,
        }
    }

    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.now = self.now + Duration::from_millis(1);
        self.disk.step(self.now, input, &mut effects);
        self.disk.check();
        for effect in effects {
            match effect {
                Effect::Io(lane, request) => self.lanes.entry(lane).or_default().push_back(request),
                Effect::Worker(worker, message) => self.to_workers.push_back((worker, message)),
                Effect::Node(word) => self.words.push(word),
            }
        }
    }

    fn tell(&mut self, message: ToDisk) {
        self.step(Input::Local(message));
    }

    /// Carries out the oldest request of some lane; false: there is none.
    fn io(&mut self) -> bool {
        let busy: Vec<Lane> =
            self.lanes.iter().filter(|(_, queue)| !queue.is_empty()).map(|(lane, _)| *lane).collect();
        if busy.is_empty() {
            return false;
        }
        let lane = *self.random.pick(&busy);
        let request = self.lanes.get_mut(&lane).and_then(VecDeque::pop_front).expect("it is busy");
        let result = self.files.carry_out(&request);
        self.step(Input::Io(lane, result));
        true
    }

    fn io_all(&mut self) {
        while self.io() || self.serve() {}
    }

    /// A new life looks what is there.
    fn start(&mut self, workers: u16) -> Word {
        self.settings.life = Incarnation(self.settings.life.0 + 1);
        self.settings.workers = workers;
        self.disk = Disk::new(self.settings.clone());
        (self.lanes, self.to_workers) = Default::default();
        self.workers = (0..workers).map(|_| TestWorker::default()).collect();
        self.words.clear();
        self.step(Input::Timer);
        self.io_all();
        self.words.pop().expect("it says what it found")
    }

    /// It loads what there is up to the horizon, and then writes.
    fn restore(&mut self, horizon: Option<Horizon>) {
        self.rows.clear();
        self.tell(ToDisk::Restore(horizon));
        self.io_all();
        assert_eq!(self.words, [Word::Restored]);
        self.tell(remember());
        self.io_all();
        self.whole = self.settings.life;
    }

    /// It begins to, and the power goes.
    fn restore_in_part(&mut self, horizon: Option<Horizon>) {
        self.rows.clear();
        self.tell(ToDisk::Restore(horizon));
        let mut remembers = false;
        for _ in 0..self.random.below(60) {
            _ = self.io() || self.serve();
            if !remembers && self.words == [Word::Restored] && self.random.one_in(4) {
                remembers = true;
                self.tell(remember());
            }
        }
        self.lose_power();
    }

    /// A worker does what the disk has told it.
    fn serve(&mut self) -> bool {
        let Some((worker, message)) = self.to_workers.pop_front() else { return false };
        match message {
            FromDisk::Load(block, horizon) => {
                if worker == WorkerId(0) {
                    self.load(&block, &horizon);
                }
                self.tell(ToDisk::Loaded(worker));
            }
            FromDisk::LoadEnd(_) => {}
            FromDisk::Flushed(bytes) => {
                let state = &mut self.workers[usize::from(worker.0)];
                state.flushed = bytes;
                while let Some((_, epoch)) = state.complete.pop_front_if(|(needed, _)| *needed <= bytes) {
                    state.durable = epoch;
                }
                let durable = self.workers.iter().map(|worker| worker.durable).min().unwrap();
                if durable > self.durable {
                    self.durable = durable;
                    self.tell(ToDisk::Durable(durable));
                }
            }
            FromDisk::Checkpoint => {
                self.workers[usize::from(worker.0)].checkpoint = Some(0);
                self.tell(ToDisk::Begin(worker, self.rows.len() as u64 * 50));
            }
            FromDisk::Budget(bytes) => self.continue_checkpoint(worker, bytes),
        }
        true
    }

    fn load(&mut self, block: &[u8], horizon: &Horizon) {
        for record in records(block) {
            match record.unwrap() {
                Record::Image(_, version, image) if horizon.keeps(version.epoch) => {
                    let value = image.row.map(|(_, body)| u64::from_le_bytes(body[..8].try_into().unwrap()));
                    apply(&mut self.rows, Change { version, key: image.key[0], value });
                }
                Record::Rows(rows) => {
                    for row in rows.rows().map(Result::unwrap) {
                        assert!(horizon.keeps(row.epoch), "{row:?} of a checkpoint, beyond {horizon:?}");
                        let version = Version { epoch: row.epoch, number: row.number.into() };
                        let value = Some(u64::from_le_bytes(row.body[..8].try_into().unwrap()));
                        apply(&mut self.rows, Change { version, key: row.key[0], value });
                    }
                }
                Record::Image(..) | Record::Complete(_) => {}
                other @ Record::Commit(_) => panic!("nobody wrote {other:?}"),
            }
        }
    }

    fn worker_of(&self, key: u8) -> WorkerId {
        WorkerId(partition(key).0 % self.settings.workers)
    }

    fn append(&mut self, worker: WorkerId, records: Vec<u8>) {
        self.workers[usize::from(worker.0)].appended += records.len() as u64;
        let urgent = self.random.one_in(8);
        self.tell(ToDisk::Append { worker, records, urgent });
    }

    /// Some key changes, in the newest epoch or one that is not complete yet.
    fn change(&mut self) {
        self.number += 1;
        let epoch = Epoch(self.random.between(self.complete.next().0.max(self.epoch.0 - 1), self.epoch.0));
        let (key, number) = (self.random.below(40) as u8, self.number);
        // Versions of a key only grow.
        let epoch = self.rows.get(&key).map_or(epoch, |(version, _)| epoch.max(version.epoch));
        let last = self.history.iter().rev().find(|change| change.key == key);
        let epoch = last.map_or(epoch, |change| epoch.max(change.version.epoch));
        let version = Version { epoch, number };
        let value = (!self.random.one_in(3)).then_some(number);
        let change = Change { version, key, value };
        apply(&mut self.rows, change);
        self.history.push(change);
        let body = [&number.to_le_bytes()[..], &vec![7; self.random.below(200) as usize]].concat();
        let mut out = Vec::new();
        put_image(partition(key), version, &image(&[key], value.map(|_| &body[..])), &mut out);
        self.append(self.worker_of(key), out);
    }

    /// The newest epoch but one is complete, and a new one begins.
    fn end_epoch(&mut self) {
        if self.epoch.previous().counter() > 0 && self.epoch.previous() > self.complete {
            self.complete = self.epoch.previous();
            for place in 0..self.settings.workers {
                let mut out = Vec::new();
                put_complete(self.complete, &mut out);
                self.append(WorkerId(place), out);
                let worker = &mut self.workers[usize::from(place)];
                worker.complete.push_back((worker.appended, self.complete));
            }
        }
        self.epoch = self.epoch.next();
    }

    fn continue_checkpoint(&mut self, worker: WorkerId, budget: usize) {
        let Some(from) = self.workers[usize::from(worker.0)].checkpoint else { return };
        let own = |key: &u8| self.worker_of(*key) == worker;
        let next: Vec<u8> =
            self.rows.range(from..).map(|(key, _)| *key).filter(own).take(budget / 400).collect();
        for key in &next {
            let (version, value) = self.rows[key];
            let body = [&value.to_le_bytes()[..], &[9; 300]].concat();
            let (mut rows, mut out) = (Vec::new(), Vec::new());
            let (epoch, number) = (version.epoch, version.number as u32);
            let (table, expiry, key) = (TableId(1), ClusterTime(0), &[*key][..]);
            CopyRow { table, schema_version: 1, tag: 0, epoch, number, expiry, key, body: &body }
                .encode(&mut rows);
            put_rows(partition(key[0]), &mut out, |out| out.put(&rows));
            self.tell(ToDisk::Rows(worker, out));
        }
        self.workers[usize::from(worker.0)].checkpoint = next.last().map(|key| key + 1);
        if next.len() < budget / 400 {
            self.checkpoints += 1;
            self.tell(ToDisk::End(worker, self.epoch));
        }
    }

    /// What stood in the store when this epoch was complete.
    fn rows_at(&self, epoch: Epoch) -> Rows {
        let mut rows = Rows::new();
        self.history
            .iter()
            .filter(|change| change.version.epoch <= epoch)
            .for_each(|change| apply(&mut rows, *change));
        rows
    }

    fn lose_power(&mut self) {
        let under_way: Vec<Request> =
            self.lanes.values().filter_map(|queue| queue.front().cloned()).collect();
        self.files.lose_power(&under_way, &mut self.random);
    }

    /// All nodes went down, and come back with what is on disk, perhaps after they went down again while they loaded.
    fn restart(&mut self) {
        let cut = loop {
            let workers = self.random.between(1, 3) as u16;
            let word = self.start(workers);
            let Word::Found(found) = word else { panic!("{word:?}") };
            let cut = found.map_or(Epoch::default(), |found| {
                assert!(found.life >= self.whole && found.life < self.settings.life);
                found.complete
            });
            assert!(cut >= self.durable, "{cut} is there, and {} was durable", self.durable);
            assert!(cut <= self.complete, "{cut} is there, and {} was complete", self.complete);
            (self.complete, self.durable) = (cut, cut);
            let limit = Horizon { limit: cut, view: with_cuts(&self.cuts) };
            let horizon = (cut > Epoch::default()).then_some(limit);
            if self.random.one_in(2) {
                self.restore(horizon);
                break cut;
            }
            self.restore_in_part(horizon);
        };
        assert_eq!(self.rows, self.rows_at(cut), "at {cut}");
        self.history.retain(|change| change.version.epoch <= cut);
        let restart = self.epoch.restart() + 1;
        self.cuts.push((restart, cut));
        self.epoch = Epoch::new(restart, 1);
    }
}

fn remember() -> ToDisk {
    ToDisk::Remember { view: Arc::default(), catalog: Arc::default() }
}

/// Changes, epochs, checkpoints, and the power goes now and then.
fn run(seed: u64, steps: u32) -> Tested {
    let mut tested = Tested::new(seed);
    assert_eq!(tested.start(2), Word::Found(None));
    tested.restore(None);
    for _ in 0..steps {
        match tested.random.below(1000) {
            0..300 => tested.change(),
            300..340 => tested.end_epoch(),
            340..680 => _ = tested.io(),
            680..990 => _ = tested.serve(),
            990..998 => tested.step(Input::Timer),
            _ => {
                tested.lose_power();
                tested.restart();
            }
        }
    }
    tested
}

#[test]
fn whenever_the_power_goes_all_that_was_durable_is_there() {
    let mut checkpoints = 0;
    for seed in 0..60 {
        checkpoints += run(seed, 6000).checkpoints;
    }
    assert!(checkpoints > 100, "{checkpoints} checkpoints were whole");
}

#[test]
fn redo_is_cut_off_whatever_the_load() {
    let mut tested = Tested::new(1);
    tested.start(2);
    tested.restore(None);
    let mut most = 0;
    for _ in 0..2000 {
        (0..10).for_each(|_| tested.change());
        tested.end_epoch();
        tested.step(Input::Timer);
        tested.io_all();
        most = most.max(tested.files.used());
        assert!(!tested.words.contains(&Word::Congested(true)));
    }
    let rows: u64 = tested.rows.len() as u64 * 400;
    let segments = 4 * tested.settings.segment_bytes as u64;
    assert!(most as u64 <= 2 * rows + tested.settings.redo_bytes + segments, "{most} bytes for {rows}");
    assert!(tested.checkpoints > 50);
}

/// A node with some segments of redo and checkpoints, that went down.
fn written(seed: u64) -> Tested {
    let mut tested = Tested::new(seed);
    tested.start(2);
    tested.restore(None);
    for _ in 0..100 {
        (0..10).for_each(|_| tested.change());
        tested.end_epoch();
        tested.step(Input::Timer);
        tested.io_all();
    }
    tested.now = tested.now + Duration::from_secs(1);
    tested.step(Input::Timer);
    tested.io_all();
    assert!(tested.durable > Epoch::default());
    tested
}

#[test]
fn damage_is_named_and_nothing_of_it_is_used() {
    let (mut seen, mut unnoticed) = (0, 0);
    for seed in 0..200 {
        let mut tested = written(3);
        let names: Vec<String> = tested.files.names().into_iter().collect();
        let mut random = Random::new(seed);
        let name = random.pick(&names).clone();
        let at = random.below(8 << 10) as usize;
        tested.files.damage(&name, at);
        let cut = tested.durable;
        match tested.start(2) {
            Word::Damaged(text) => {
                seen += 1;
                assert!(text.contains("redo-") || text.contains(&name), "{name} at {at}: {text}");
                tested.restore(None);
                assert!(tested.rows.is_empty());
            }
            // Behind the end of what is written, or in what is padding; or the very last frames, that nothing else knows of.
            Word::Found(Some(found)) => {
                unnoticed += 1;
                let expected = tested.rows_at(found.complete);
                tested.rows.clear();
                tested.tell(ToDisk::Restore(Some(Horizon { limit: found.complete, view: Arc::default() })));
                tested.io_all();
                match tested.words.pop() {
                    Some(Word::Restored) => assert_eq!(tested.rows, expected, "{name} at {at}"),
                    Some(Word::Failed(text)) => assert!(text.contains(&name), "{name} at {at}: {text}"),
                    other => panic!("{other:?}"),
                }
                // No more than the last flush goes unnoticed.
                let complete = found.complete;
                assert!(
                    complete <= cut && complete.counter() + 2 >= cut.counter(),
                    "{complete} {cut}: {name} at {at}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(seen > 20 && unnoticed > 20, "{seen} {unnoticed}");
}

/// Of the first frame of all no other says where it begins.
#[test]
fn damage_to_the_beginning_of_redo_is_named() {
    let mut tested = Tested::new(6);
    tested.start(2);
    tested.restore(None);
    for _ in 0..10 {
        tested.change();
        tested.end_epoch();
        tested.now = tested.now + Duration::from_secs(1);
        tested.step(Input::Timer);
        tested.io_all();
    }
    assert!(tested.durable > Epoch::default());
    let first = tested.files.names().into_iter().find(|name| name.starts_with("redo-")).unwrap();
    tested.files.damage(&first, 50);
    let word = tested.start(2);
    assert!(matches!(&word, Word::Damaged(text) if text.contains(&format!("{first} at byte 0"))), "{word:?}");
}

#[test]
fn the_data_of_another_node_is_not_taken() {
    let mut tested = written(4);
    tested.settings.node = NodeId(12);
    let word = tested.start(2);
    let Word::Damaged(text) = word else { panic!("{word:?}") };
    assert!(text.contains("node 11") && text.contains("not of node 12"), "{text}");
}

#[test]
fn without_room_it_says_so_and_writes_nothing_more() {
    let mut tested = written(5);
    tested.files.limit(Some(tested.files.used() + (8 << 10)));
    for _ in 0..1000 {
        tested.change();
        tested.end_epoch();
        tested.step(Input::Timer);
        tested.io_all();
    }
    let failed = |word: &&Word| matches!(word, Word::Failed(text) if text.contains("full"));
    assert_eq!(tested.words.iter().filter(failed).count(), 1);
    let durable = tested.durable;
    tested.files.limit(None);
    let word = tested.start(2);
    assert!(matches!(&word, Word::Found(Some(found)) if found.complete >= durable), "{word:?}");
}

#[test]
fn a_horizon_leaves_out_what_restarts_went_back_behind() {
    let view = with_cuts(&[(2, Epoch::new(1, 70)), (3, Epoch::new(2, 10))]);
    let horizon = Horizon { limit: Epoch::new(3, 50), view };
    let kept = |restart, counter| horizon.keeps(Epoch::new(restart, counter));
    assert!(kept(1, 70) && !kept(1, 71));
    assert!(kept(2, 10) && !kept(2, 11));
    assert!(kept(3, 50) && !kept(3, 51));
}

fn with_cuts(cuts: &[(u16, Epoch)]) -> Arc<View> {
    let cuts = cuts.iter().map(|&(restart, epoch)| Cut { restart, epoch }).collect();
    Arc::new(View { cuts, ..View::default() })
}
