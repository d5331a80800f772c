//! Scenarios: from a seed, a cluster, what its clients do, and what goes wrong.

use twofold_datanode::mutation::Mutation;
use twofold_proto::{
    config::{Address, ApiNodeConfig, ClusterConfig, DataNodeConfig, ManagementNodeConfig},
    ids::NodeId,
    random::Random,
    time::Duration,
};

use crate::{
    history::Isolation,
    workload::{
        Workload, bank::Banking, expiry::Expiry, ids::Ids, lists::Lists, registers::Registers, scans::Scans,
        uniques::Uniques,
    },
};

/// Transactions that are committed before a run may end.
pub const TRANSACTIONS_MIN: u64 = 1000;
/// Faults that happen before a run with faults may end.
pub const FAULTS_MIN: u64 = 5;

/// Which faults there are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Profile {
    /// None.
    Calm,
    /// Processes and hosts die.
    Deaths,
    /// Processes stand still.
    Pauses,
    /// The network breaks.
    Network,
    /// The network is slow, here or there.
    Slow,
    /// Management nodes die, stand still and are cut off, and data nodes die.
    Management,
    /// All of it.
    Everything,
    /// All members of a node group die at once, or all data nodes, or all hosts: the cluster restarts from what is on disk.
    Loss,
}

/// What a workload does; how many users it has is beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mix {
    /// [`Registers`] on so many rows.
    Registers(u64),
    /// [`Lists`], SERIALIZABLE.
    Lists(u64),
    /// [`Lists`], READ COMMITTED.
    ListsReadCommitted(u64),
    /// [`Banking`] on so many accounts.
    Bank(u64),
    /// [`Ids`].
    Ids,
    /// [`Scans`] of so many rows that stay.
    Scans(u64),
    /// [`Expiry`].
    Expiry,
    /// [`Uniques`].
    Uniques,
}

/// A scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where it comes from.
    pub seed: u64,
    /// The deliberate fault in all workers.
    pub mutation: Option<Mutation>,
    /// The cluster.
    pub config: ClusterConfig,
    /// The workers of each data node.
    pub workers: Vec<u16>,
    /// Workloads, and their users.
    pub mix: Vec<(Mix, usize)>,
    /// Whether clients often have no patience.
    pub impatient: bool,
    /// Which faults.
    pub profile: Profile,
    /// How many faults.
    pub faults: u64,
    /// The mean time between faults.
    pub fault_every: Duration,
    /// For how long a user rests at most.
    pub rest: Duration,
    /// Whether faults above all leave whoever has just copied alone with it, where all may be lost, and redo is written slowly.
    pub leave_alone: bool,
}

impl Scenario {
    /// The scenario of this seed.
    pub fn generate(seed: u64) -> Scenario {
        let mut random = Random::new(seed);
        let profile = match random.below(32) {
            0..2 => Profile::Calm,
            2..9 => Profile::Deaths,
            9..14 => Profile::Pauses,
            14..19 => Profile::Network,
            19..22 => Profile::Management,
            22..28 => Profile::Everything,
            _ => Profile::Loss,
        };
        Scenario::with(seed, profile, &mut random)
    }

    /// The scenario of this seed with faults of this profile.
    pub fn of(seed: u64, profile: Profile) -> Scenario {
        let mut random = Random::new(seed);
        // As much as is drawn where the profile is.
        random.next_u64();
        Scenario::with(seed, profile, &mut random)
    }

    /// The scenario of this seed in which a deliberate fault is most likely to show.
    pub fn for_mutation(seed: u64, mutation: Mutation) -> Scenario {
        let mut random = Random::new(seed);
        let profile = match mutation {
            Mutation::IgnoreLease | Mutation::SkipFence => *random.pick(&[Profile::Pauses, Profile::Network]),
            Mutation::ConfirmBySlotAlone => Profile::Slow,
            Mutation::DurableBeforeFlush
            | Mutation::RestorePastCut
            | Mutation::CheckpointTooNew
            | Mutation::AnswerBeforeDurable
            | Mutation::UpBeforeDurable => Profile::Loss,
            Mutation::NotFoundMeansAborted => *random.pick(&[Profile::Network, Profile::Pauses]),
            _ => *random.pick(&[Profile::Deaths, Profile::Everything, Profile::Pauses]),
        };
        let mut scenario = Scenario::with(seed, profile, &mut random);
        scenario.impatient |= mutation == Mutation::NotFoundMeansAborted;
        if matches!(
            mutation,
            Mutation::ScanUnderAnyView | Mutation::SkipIndexAtUpdate | Mutation::AskUnbuiltIndex
        ) {
            scenario.mix = vec![(Mix::Scans(30), 12)];
        }
        if mutation == Mutation::ForgetOldEntries {
            scenario.mix = vec![(Mix::Uniques, 12)];
        }
        if mutation == Mutation::ConfirmBySlotAlone {
            scenario.crowd(&mut random);
        }
        if matches!(mutation, Mutation::CheckpointTooNew | Mutation::UpBeforeDurable) {
            scenario.lag();
        }
        if mutation == Mutation::UpBeforeDurable {
            (scenario.leave_alone, scenario.fault_every) = (true, Duration::from_millis(50));
        }
        scenario.mutation = Some(mutation);
        // A primary has to be cut off, be replaced, and go on for as long as its buddy should have waited.
        scenario.faults += if mutation == Mutation::SkipFence { 60 } else { 6 };
        scenario
    }

    /// Much is committed that is not on disk yet, in little redo, so that checkpoints follow each other; and the next fault comes
    /// soon.
    fn lag(&mut self) {
        (self.config.flush_ms, self.config.redo_bytes) = (800, 2 << 20);
        (self.rest, self.fault_every) = (Duration::from_millis(20), Duration::from_millis(150));
        // Of so many writes of few registers, some of them unknown, nobody can tell in which order they were.
        self.mix.retain(|(mix, _)| !matches!(mix, Mix::Registers(_)));
        if self.mix.is_empty() {
            self.mix.push((Mix::Bank(8), 8));
        }
        self.mix.iter_mut().for_each(|(_, users)| *users = 8);
    }

    /// Two groups of one worker a node, with so many rows and partitions that the write sets of each are few, and have like
    /// numbers; many users, who take locks from each other, so that transactions are aborted as soon as they are prepared;
    /// and a network that is slow here or there, so that acknowledgements come after that.
    fn crowd(&mut self, random: &mut Random) {
        let nodes = 2 * u16::from(self.config.replicas.clamp(2, 3));
        let (management, clients) = (self.config.management_nodes.len(), self.config.api_nodes.len());
        self.config = config(
            (nodes / 2) as u8,
            nodes,
            management as u16,
            clients as u16,
            random.between(200, 400) as u16,
        );
        self.workers = vec![1; nodes.into()];
        self.mix = vec![(Mix::Bank(200), 16), (Mix::Lists(100), 16), (Mix::ListsReadCommitted(100), 16)];
        (self.faults, self.fault_every) = (40, Duration::from_millis(150));
        self.rest = Duration::from_millis(20);
    }

    fn with(seed: u64, profile: Profile, random: &mut Random) -> Scenario {
        let (replicas, groups) = match random.below(16) {
            0 => (1, random.between(1, 2)),
            1..9 => (2, random.between(1, 3)),
            9..14 => (3, random.between(1, 2)),
            _ => (4, 1),
        };
        let nodes = (replicas * groups) as usize;
        let most = (16 / nodes as u64).clamp(1, 4);
        let same = random.between(1, most) as u16;
        let differ = random.one_in(4);
        let workers =
            (0..nodes).map(|_| if differ { random.between(1, most) as u16 } else { same }).collect();
        let management = if random.one_in(4) { 1 } else { 3 };
        let clients = random.between(1, 3) as u16;
        let partitions = match random.below(3) {
            0 => random.between(8, 12),
            1 => random.between(8, 64),
            _ => random.between(12, 24),
        };
        let mut config = config(replicas as u8, nodes as u16, management, clients, partitions as u16);
        config.epoch_ms = *random.pick(&[5, 20, 20, 20, 50]);
        // With few, checkpoints follow each other.
        config.redo_bytes = *random.pick(&[64 << 20, 3 << 20, 2 << 20, 2 << 20]);
        config.flush_ms = *random.pick(&[100, 100, 100, 10, 500]);
        config.lock_wait_timeout_ms = *random.pick(&[150, 1000, 5000]);
        config.idle_transaction_ms = *random.pick(&[100, 1000, 5000]);
        let mut scenario = Scenario {
            seed,
            mutation: None,
            config,
            workers,
            mix: mix(profile, random),
            impatient: random.one_in(3),
            profile,
            faults: if profile == Profile::Calm { 0 } else { random.between(FAULTS_MIN + 1, 14) },
            fault_every: Duration::from_millis(*random.pick(&[150, 400, 900])),
            rest: Duration::from_millis(*random.pick(&[40, 150, 400])),
            leave_alone: false,
        };
        if profile == Profile::Loss && random.one_in(4) {
            scenario.lag();
        }
        scenario
    }

    /// A workload of the mix.
    pub fn workload(&self, mix: Mix, users: usize) -> Box<dyn Workload> {
        match mix {
            Mix::Registers(rows) => {
                Box::new(Registers::new(users, rows, self.impatient, self.profile == Profile::Loss))
            }
            Mix::Lists(lists) => Box::new(Lists::new(users, lists, Isolation::Serializable, self.impatient)),
            Mix::ListsReadCommitted(lists) => {
                Box::new(Lists::new(users, lists, Isolation::ReadCommitted, self.impatient))
            }
            Mix::Bank(accounts) => Box::new(Banking::new(users, accounts, self.impatient)),
            Mix::Ids => Box::new(Ids::new(users)),
            Mix::Scans(stable) => Box::new(Scans::new(users, stable, self.config.partitions)),
            Mix::Uniques => Box::new(Uniques::new(users)),
            Mix::Expiry => Box::new(Expiry::new(users, CLOCKS_AHEAD)),
        }
    }
}

/// Milliseconds by which some host's wall clock, and so cluster time, may be ahead: what [`crate::world::clock`] gives,
/// what faults add, and what a president measures in between.
pub const CLOCKS_AHEAD: u64 = 400 + WALL_CLOCK_STEP_MAX * WALL_CLOCK_STEPS_MAX + 500;
/// Milliseconds by which a fault sets a wall clock.
pub const WALL_CLOCK_STEP_MAX: u64 = 300;
/// How often wall clocks are set in a run.
pub const WALL_CLOCK_STEPS_MAX: u64 = 2;

fn mix(profile: Profile, random: &mut Random) -> Vec<(Mix, usize)> {
    let mut all = vec![
        Mix::Registers(random.between(2, 12)),
        Mix::Lists(random.between(3, 16)),
        Mix::ListsReadCommitted(random.between(3, 16)),
        Mix::Bank(random.between(3, 16)),
        Mix::Ids,
        Mix::Scans(random.between(8, 30)),
        Mix::Expiry,
        Mix::Uniques,
    ];
    if profile == Profile::Loss {
        // Of lone writes nobody is told the epoch: too many are then not known to have survived.
        all.retain(|mix| !matches!(mix, Mix::Scans(_)));
    }
    random.shuffle(&mut all);
    let count = random.between(1, 4) as usize;
    all[..count].iter().map(|&mix| (mix, random.between(2, 6) as usize)).collect()
}

fn config(replicas: u8, nodes: u16, management: u16, clients: u16, partitions: u16) -> ClusterConfig {
    let address = || Address { host: "host".into(), port: 1 };
    let ids = |first: u16, count: u16| (0..count).map(move |n| NodeId(first + n));
    ClusterConfig {
        name: "sim".into(),
        replicas,
        partitions,
        data_memory: 64 << 20,
        redo_bytes: 64 << 20,
        flush_ms: 100,
        heartbeat_ms: 50,
        lease_ms: 250,
        failure_ms: 500,
        epoch_ms: 20,
        lock_wait_timeout_ms: 1000,
        idle_transaction_ms: 5000,
        management_nodes: ids(1, management)
            .map(|id| ManagementNodeConfig { id, address: address(), web_port: 1 })
            .collect(),
        data_nodes: ids(11, nodes).map(|id| DataNodeConfig { id, address: address(), workers: 0 }).collect(),
        memcached: vec![],
        api_nodes: ids(31, clients)
            .map(|id| ApiNodeConfig {
                id,
                host: "host".into(),
                grpc_port: 1,
                memcached_port: 1,
                sql_port: 1,
                metrics_port: 1,
                threads: 1,
            })
            .collect(),
    }
}
