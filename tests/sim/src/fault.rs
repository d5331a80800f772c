//! What goes wrong: never more than the cluster is built to survive.
//!
//! A data node is killed only if what it holds is on another one that is `up`, whole, and has been so for a while, and
//! which is then left in peace for as long as it takes to make a view without the first. Anything else may happen at
//! any time: a process that stands still or is cut off has lost nothing. For the same reason nobody else dies between
//! the moment at which a node dies with its disk and the view without it: its buddies have what it had, but that view is
//! what says so.

use std::collections::{BTreeMap, BTreeSet};

use twofold_mgmnode::node::ManagementNode;
use twofold_proto::{
    ids::{Incarnation, NodeId},
    random::Random,
    time::{Duration, Time},
    view::View,
};

use crate::{
    scenario::{Profile, WALL_CLOCK_STEP_MAX, WALL_CLOCK_STEPS_MAX},
    world::{
        World,
        process::{Kind, Process, State, Trigger},
    },
};

/// How long a node has to have been well before it counts as a refuge.
const WELL_FOR: Duration = Duration::from_millis(1800);
/// How long after its start a node may be new in the cluster.
const NEW_FOR: Duration = Duration::from_secs(3);
/// How long a refuge is left in peace.
const PEACE: Duration = Duration::from_millis(2500);

/// What makes the faults of a run.
#[derive(Debug)]
pub struct Faults {
    random: Random,
    profile: Profile,
    /// How many have happened, by name.
    pub happened: BTreeMap<&'static str, u64>,
    /// How often there was to be one.
    pub tried: u64,
    /// Until when a host is to be left in peace.
    peace: BTreeMap<usize, Time>,
    /// When a host was last unwell, maybe in the future.
    unwell: BTreeMap<usize, Time>,
    /// Lives whose disk was damaged.
    damaged: BTreeSet<(NodeId, Incarnation)>,
    /// Above all, whoever has just copied is left alone with it.
    leave_alone: bool,
    /// All are to die as soon as nobody is in the view any more whose disk was damaged.
    all_to_die: bool,
    clocks_set: u64,
    /// When members of a group all died at once, for the first time since the users learned of a restart.
    pub lost_at: Option<Time>,
    /// How often that was.
    pub losses: u64,
    /// The cluster was asked to end as a whole, in order, and is not back.
    pub stopped: bool,
}

/// The newest view that any management node or data node knows.
pub fn newest_view(world: &World) -> View {
    let registers = world.processes().iter().filter_map(Process::management_machine);
    let of_register = registers.map(|node| node.register().view().clone());
    let nodes = world.processes().iter().filter_map(Process::node_machine);
    let all = of_register.chain(nodes.map(|node| (**node.view()).clone()));
    all.max_by_key(|view| view.number).unwrap_or_default()
}

/// Whether all data nodes run, are `up`, and know it.
pub fn are_all_up(world: &World) -> bool {
    let view = newest_view(world);
    world.places(Kind::Data).into_iter().map(|place| &world.processes()[place]).all(|process| {
        process.state == State::Running
            && view.is_up(process.node)
            && view.contains(process.node, process.incarnation)
            && process.node_machine().is_some_and(|node| node.view().number == view.number)
            && process.worker_machines().all(|worker| worker.view().number == view.number)
    })
}

/// How often members of a group all die at once, in a run: after each there are some outcomes that nobody ever learns.
const LOSSES_MAX: u64 = 4;

impl Faults {
    /// Faults of this profile.
    pub fn new(random: Random, profile: Profile, leave_alone: bool) -> Faults {
        Faults {
            random,
            profile,
            happened: BTreeMap::new(),
            tried: 0,
            peace: BTreeMap::new(),
            unwell: BTreeMap::new(),
            damaged: BTreeSet::new(),
            leave_alone,
            all_to_die: false,
            clocks_set: 0,
            lost_at: None,
            losses: 0,
            stopped: false,
        }
    }

    /// How many have happened.
    pub fn count(&self) -> u64 {
        self.happened.values().sum()
    }

    /// Makes one, if one is possible now.
    pub fn strike(&mut self, world: &mut World) {
        self.tried += 1;
        if self.stopped {
            return;
        }
        let choice = self.random.below(100);
        let name = match self.profile {
            Profile::Calm => None,
            Profile::Loss if self.all_to_die => self.lose_the_rest(world),
            // Others die when whoever was killed is back, most often.
            Profile::Loss if self.leave_alone && choice < 90 => self
                .lose_sources(world)
                .or_else(|| are_all_up(world).then(|| self.kill_data(world)).flatten()),
            Profile::Loss if choice < 52 && self.losses == LOSSES_MAX => self.kill_data(world),
            Profile::Loss if choice < 52 && self.may_be_the_last(world) => None,
            // Most often the cluster has come back from the last one.
            Profile::Loss if !self.random.one_in(8) && !are_all_up(world) => None,
            Profile::Loss => match choice {
                0..20 => self.lose_group(world),
                20..30 => self.stop_all(world),
                30..45 => self.lose_all(world),
                45..52 => self.lose_power(world),
                52..64 => self.kill_data(world),
                64..66 => self.damage_disk(world),
                66..68 => self.lose_sources(world),
                68..72 => self.break_disk(world),
                72..80 => self.kill_joining(world),
                80..86 => self.kill_client(world),
                86..92 => self.kill_management(world),
                _ => self.cut(world),
            },
            Profile::Deaths => match choice {
                0..48 => self.kill_data(world),
                48..54 => self.damage_disk(world),
                54..60 => self.break_disk(world),
                60..72 => self.kill_joining(world),
                72..82 => self.kill_client(world),
                82..92 => self.stop_data(world),
                _ => self.cut(world),
            },
            Profile::Pauses => match choice {
                0..75 => self.pause_data(world),
                75..85 => self.pause_other(world),
                85..95 => self.kill_data(world),
                _ => self.set_clock(world),
            },
            Profile::Network => match choice {
                0..35 => self.split(world),
                35..55 => self.isolate(world),
                55..75 => self.cut(world),
                75..90 => self.slow(world),
                _ => self.kill_data(world),
            },
            Profile::Slow => match choice {
                0..90 => self.slow(world),
                _ => self.cut(world),
            },
            Profile::Management => match choice {
                0..35 => self.kill_management(world),
                35..50 => self.pause_other(world),
                50..60 => self.isolate(world),
                60..85 => self.kill_data(world),
                _ => self.stop_data(world),
            },
            Profile::Everything => match choice {
                0..19 => self.kill_data(world),
                19..22 => self.damage_disk(world),
                22..25 => self.break_disk(world),
                25..31 => self.kill_joining(world),
                31..36 => self.kill_client(world),
                36..40 => self.stop_data(world),
                40..55 => self.pause_data(world),
                55..60 => self.pause_other(world),
                60..70 => self.split(world),
                70..76 => self.isolate(world),
                76..84 => self.cut(world),
                84..90 => self.slow(world),
                90..97 => self.kill_management(world),
                _ => self.set_clock(world),
            },
        };
        if let Some(name) = name {
            *self.happened.entry(name).or_default() += 1;
        }
    }

    fn is_in_peace(&self, world: &World, host: usize) -> bool {
        self.peace.get(&host).is_some_and(|until| *until > world.now())
    }

    fn disturb(&mut self, host: usize, until: Time) {
        let unwell = self.unwell.entry(host).or_default();
        *unwell = (*unwell).max(until);
    }

    /// Whether the node has what its group holds, and keeps it. If the other one is `up`, this one must have been well
    /// for so long that no view without it is on its way; else there is no such view.
    fn is_refuge(&self, world: &World, place: usize, view: &View, other_is_up: bool) -> bool {
        let process = &world.processes()[place];
        let unwell = self.unwell.get(&place).copied().unwrap_or_default();
        // What befell a former life is that life's.
        let well_for =
            |span| world.now() > unwell && (unwell < process.since || world.now().since(unwell) >= span);
        process.state == State::Running
            && !world.is_to_end(place)
            && view.is_up(process.node)
            && view.contains(process.node, process.incarnation)
            && well_for(if other_is_up { WELL_FOR } else { Duration::ZERO })
    }

    fn place_of(world: &World, node: NodeId) -> usize {
        let is = |process: &Process| process.node == node && process.kind == Kind::Data;
        world.processes().iter().position(is).expect("the config's nodes have processes")
    }

    /// Whether the node may be lost; if so its buddies that hold what it holds are left in peace.
    fn may_lose(&mut self, world: &World, place: usize) -> bool {
        let view = newest_view(world);
        let process = &world.processes()[place];
        if process.state == State::Down || world.is_armed(place) || self.is_in_peace(world, place) {
            return false;
        }
        let is_up = view.is_up(process.node) && view.contains(process.node, process.incarnation);
        let config = world.config().clone();
        let buddies = config.buddies(process.node).map(|node| Faults::place_of(world, node));
        let refuges: Vec<usize> =
            buddies.filter(|&buddy| self.is_refuge(world, buddy, &view, is_up)).collect();
        for &refuge in &refuges {
            self.peace.insert(refuge, world.now() + PEACE);
        }
        !refuges.is_empty()
    }

    fn pick_data(&mut self, world: &World) -> usize {
        *self.random.pick(&world.places(Kind::Data))
    }

    fn trigger(&mut self) -> Option<Trigger> {
        const TRIGGERS: [Trigger; 8] = [
            Trigger::Write,
            Trigger::WriteSet,
            Trigger::Takeover,
            Trigger::Doubt,
            Trigger::Planted,
            Trigger::Copy,
            Trigger::View,
            Trigger::Replicated,
        ];
        match self.random.below(4) {
            0 => None,
            1 => Some(Trigger::Write),
            _ => Some(*self.random.pick(&TRIGGERS)),
        }
    }

    fn kill_data(&mut self, world: &mut World) -> Option<&'static str> {
        let place = self.pick_data(world);
        if !self.may_lose(world, place) {
            return None;
        }
        self.kill(world, place)
    }

    fn kill(&mut self, world: &mut World, place: usize) -> Option<&'static str> {
        let host = self.random.one_in(3);
        self.disturb(place, world.now());
        match self.trigger() {
            None => world.kill(place, host),
            Some(trigger) => world.arm(place, trigger, host),
        }
        Some(if host { "host dies" } else { "data node dies" })
    }

    /// Whether a life whose disk was damaged is in the newest view yet.
    fn may_be_the_last(&self, world: &World) -> bool {
        let view = newest_view(world);
        self.damaged.iter().any(|&(node, incarnation)| view.contains(node, incarnation))
    }

    /// A node dies, and a byte of what it has on disk changes before it comes back.
    fn damage_disk(&mut self, world: &mut World) -> Option<&'static str> {
        let place = self.pick_data(world);
        if !self.may_lose(world, place) {
            return None;
        }
        let host = self.random.one_in(3);
        self.damage(world, place, host);
        Some("data node dies and its disk is damaged")
    }

    fn damage(&mut self, world: &mut World, place: usize, host: bool) {
        self.disturb(place, world.now());
        let process = &world.processes()[place];
        self.damaged.insert((process.node, process.incarnation));
        world.kill(place, host);
        world.damage(place);
    }

    /// The disks of all from whom a node has just copied are damaged, and then all die: what was durable it has to have on its
    /// own.
    fn lose_sources(&mut self, world: &mut World) -> Option<&'static str> {
        if self.losses == LOSSES_MAX || self.may_be_the_last(world) {
            return None;
        }
        let view = newest_view(world);
        let config = world.config().clone();
        let is_new = |&place: &usize| {
            let process = &world.processes()[place];
            let has_copied = view.member(process.node).is_some_and(|member| member.restored.is_none());
            has_copied
                && world.now().since(process.since) < NEW_FOR
                && self.is_refuge(world, place, &view, true)
        };
        let newest = world.places(Kind::Data).into_iter().rfind(is_new)?;
        let sources: Vec<usize> = config
            .buddies(world.processes()[newest].node)
            .map(|node| Faults::place_of(world, node))
            .filter(|&place| {
                world.processes()[place].state == State::Running && !self.is_in_peace(world, place)
            })
            .collect();
        sources.iter().for_each(|&place| self.damage(world, place, false));
        self.peace.insert(newest, world.now() + PEACE);
        self.all_to_die = true;
        Some("all but the newest of a group die and their disks are damaged")
    }

    fn lose_the_rest(&mut self, world: &mut World) -> Option<&'static str> {
        if self.may_be_the_last(world) {
            return None;
        }
        self.all_to_die = false;
        self.lose_power(world)
    }

    /// Nothing more can be written to a node's disk for a while.
    fn break_disk(&mut self, world: &mut World) -> Option<&'static str> {
        let place = self.pick_data(world);
        if !self.may_lose(world, place) {
            return None;
        }
        let span = Duration::from_millis(self.random.between(50, 2000));
        self.disturb(place, world.now() + span);
        let full = self.random.one_in(2);
        world.break_disk(place, full, span);
        Some(if full { "disk is full" } else { "disk is broken" })
    }

    /// A node that is on its way into the cluster.
    fn kill_joining(&mut self, world: &mut World) -> Option<&'static str> {
        let view = newest_view(world);
        let is_joining = |&place: &usize| {
            let process = &world.processes()[place];
            process.state == State::Running && !view.is_up(process.node)
        };
        let joining: Vec<usize> = world.places(Kind::Data).into_iter().filter(is_joining).collect();
        if joining.is_empty() {
            return self.kill_data(world);
        }
        let place = *self.random.pick(&joining);
        if !self.may_lose(world, place) {
            return None;
        }
        self.kill(world, place).map(|_| "joining node dies")
    }

    fn stop_data(&mut self, world: &mut World) -> Option<&'static str> {
        let place = self.pick_data(world);
        if !self.may_lose(world, place) {
            return None;
        }
        self.disturb(place, world.now());
        world.stop(place);
        Some("data node is stopped")
    }

    fn kill_client(&mut self, world: &mut World) -> Option<&'static str> {
        let place = *self.random.pick(&world.places(Kind::Client));
        if world.processes()[place].state == State::Down {
            return None;
        }
        let host = self.random.one_in(3);
        if self.random.one_in(2) {
            world.kill(place, host)
        } else {
            world.arm(place, Trigger::Write, host)
        }
        Some("client dies")
    }

    fn kill_management(&mut self, world: &mut World) -> Option<&'static str> {
        let places = world.places(Kind::Management);
        let leads = |&&place: &&usize| {
            world.processes()[place].management_machine().is_some_and(|node| node.is_leading())
        };
        let leader = places.iter().find(leads).copied();
        // One directory may be lost while the others are whole.
        let all_vote = places
            .iter()
            .all(|&place| world.processes()[place].management_machine().is_some_and(ManagementNode::votes));
        if all_vote && !world.register_is_lost() && self.random.one_in(8) {
            world.lose_register();
            return Some("management loses its register");
        }
        if places.len() > 1 && all_vote && self.random.one_in(4) {
            world.lose_disk(*self.random.pick(&places));
            return Some("management loses its directory");
        }
        let host = self.random.one_in(4);
        match self.random.below(6) {
            0 => places.iter().for_each(|&place| world.kill(place, host)),
            1..4 => {
                let place = leader?;
                if self.random.one_in(2) {
                    world.kill(place, host);
                } else {
                    world.arm(place, Trigger::Write, host);
                }
            }
            _ => world.kill(*self.random.pick(&places), host),
        }
        Some("management dies")
    }

    /// Spans around those at which something changes: heartbeats, leases, failures.
    fn span(&mut self, world: &World) -> Duration {
        let config = world.config();
        let around = |random: &mut Random, span: Duration| {
            let nanos = span.as_nanos() as u64;
            Duration::from_nanos(random.between(nanos * 9 / 10, nanos * 12 / 10))
        };
        let random = &mut self.random;
        match random.below(6) {
            0 => Duration::from_micros(random.between(100, 20_000)),
            1 | 2 => around(random, config.lease()),
            3 | 4 => around(random, config.failure()),
            _ => Duration::from_millis(random.between(600, 3000)),
        }
    }

    fn pause_data(&mut self, world: &mut World) -> Option<&'static str> {
        let place = self.pick_data(world);
        if self.is_in_peace(world, place) || world.processes()[place].state != State::Running {
            return None;
        }
        let span = self.span(world);
        self.disturb(place, world.now() + span + Duration::from_millis(100));
        if self.random.one_in(3) {
            world.pause_in_turn(place, span)
        } else {
            world.pause(place, span)
        }
        Some("data node stands still")
    }

    fn pause_other(&mut self, world: &mut World) -> Option<&'static str> {
        let kind = *self.random.pick(&[Kind::Management, Kind::Client]);
        let place = *self.random.pick(&world.places(kind));
        let span = self.span(world);
        world.pause(place, span);
        Some("client or management stands still")
    }

    /// The hosts that may be disturbed, of all kinds.
    fn disturbable(&self, world: &World) -> Vec<usize> {
        let hosts = (0..world.processes().len())
            .filter(|&place| !matches!(world.processes()[place].kind, Kind::Angel(_)));
        hosts.filter(|&host| !self.is_in_peace(world, host)).collect()
    }

    fn block(&mut self, world: &mut World, directions: BTreeSet<(usize, usize)>, span: Duration) {
        for &(from, to) in &directions {
            world.network.block(from, to);
            for host in [from, to] {
                self.disturb(host, world.now() + span + Duration::from_millis(300));
            }
        }
        world.trace.say(world.now(), || format!("nothing gets through {directions:?} for {span:?}"));
        if span > Duration::from_secs(5) {
            // By then the ends have given their connections up.
            for &(from, to) in &directions {
                for end in world.network.between(from, to) {
                    world.cut_after(Duration::from_millis(self.random.between(5000, 6000)), end);
                }
            }
        }
        world.unblock_after(span, directions);
    }

    fn long_span(&mut self, world: &World) -> Duration {
        if self.random.one_in(12) {
            return Duration::from_millis(self.random.between(5500, 8000));
        }
        self.span(world)
    }

    fn isolate(&mut self, world: &mut World) -> Option<&'static str> {
        let hosts = self.disturbable(world);
        let host = *self.random.pick(&hosts);
        let others = hosts.into_iter().filter(|&other| other != host);
        let directions = others.flat_map(|other| [(host, other), (other, host)]).collect();
        let span = self.long_span(world);
        self.block(world, directions, span);
        Some("host is cut off")
    }

    /// Two sides, or some pairs; in both directions, or in one.
    fn split(&mut self, world: &mut World) -> Option<&'static str> {
        let mut hosts = self.disturbable(world);
        if hosts.len() < 2 {
            return None;
        }
        self.random.shuffle(&mut hosts);
        let one_way = self.random.one_in(3);
        let mut directions = BTreeSet::new();
        if self.random.one_in(2) {
            let (one, other) = hosts.split_at(self.random.between(1, hosts.len() as u64 - 1) as usize);
            directions.extend(one.iter().flat_map(|&a| other.iter().map(move |&b| (a, b))));
        } else {
            for _ in 0..self.random.between(1, 4) {
                let (a, b) = (*self.random.pick(&hosts), *self.random.pick(&hosts));
                if a != b {
                    directions.insert((a, b));
                }
            }
        }
        if !one_way {
            directions.extend(directions.clone().into_iter().map(|(a, b)| (b, a)));
        }
        let span = self.long_span(world);
        self.block(world, directions, span);
        Some("network is split")
    }

    fn slow(&mut self, world: &mut World) -> Option<&'static str> {
        let hosts = self.disturbable(world);
        let factor = *self.random.pick(&[10, 100, 1000]);
        let span = self.span(world);
        let mut directions = BTreeSet::new();
        let host = *self.random.pick(&hosts);
        let both = self.random.one_in(2);
        for other in hosts.into_iter().filter(|&other| other != host) {
            if self.random.one_in(2) {
                directions.insert((host, other));
                if both {
                    directions.insert((other, host));
                }
            }
        }
        for &(from, to) in &directions {
            world.network.slow_down(from, to, factor);
            for host in [from, to] {
                self.disturb(host, world.now() + span + Duration::from_millis(500));
            }
        }
        world.unblock_after(span, directions);
        Some("network is slow")
    }

    fn cut(&mut self, world: &mut World) -> Option<&'static str> {
        let ends = world.network.all();
        if ends.is_empty() {
            return None;
        }
        for _ in 0..self.random.between(1, 12) {
            let end = *self.random.pick(&ends);
            world.cut(end);
        }
        Some("connections are cut")
    }

    fn set_clock(&mut self, world: &mut World) -> Option<&'static str> {
        if self.clocks_set == WALL_CLOCK_STEPS_MAX {
            return None;
        }
        self.clocks_set += 1;
        let place = self.pick_data(world);
        let by = Duration::from_millis(self.random.below(WALL_CLOCK_STEP_MAX));
        world.set_wall_clock(place, self.random.one_in(2), by);
        Some("wall clock is set")
    }

    /// Every member of a group dies at about the same time.
    fn lose_group(&mut self, world: &mut World) -> Option<&'static str> {
        let config = world.config().clone();
        let group = twofold_proto::ids::GroupId(self.random.below(config.groups() as u64) as u16);
        let places = config.group_nodes(group).map(|node| Faults::place_of(world, node));
        self.lose(world, &places.collect::<Vec<_>>());
        Some("node group dies")
    }

    /// All data nodes die at about the same time.
    fn lose_all(&mut self, world: &mut World) -> Option<&'static str> {
        let places = world.places(Kind::Data);
        self.lose(world, &places);
        Some("all data nodes die")
    }

    /// All hosts die at the same time.
    fn lose_power(&mut self, world: &mut World) -> Option<&'static str> {
        self.note_loss(world);
        for kind in [Kind::Data, Kind::Management, Kind::Client] {
            world.places(kind).into_iter().for_each(|place| world.kill(place, true));
        }
        Some("power is lost")
    }

    /// All data nodes are asked to end at about the same time, while all is well: nothing may be lost, and nobody has to copy.
    fn stop_all(&mut self, world: &mut World) -> Option<&'static str> {
        let places = world.places(Kind::Data);
        let management = world.places(Kind::Management);
        let is_well = |&place: &usize| {
            world.processes()[place].state == State::Running
                && !world.is_to_end(place)
                && self.unwell.get(&place).is_none_or(|until| *until < world.now())
        };
        let leads = |&place: &usize| {
            world.processes()[place].management_machine().is_some_and(ManagementNode::is_leading)
        };
        if !are_all_up(world)
            || !places.iter().chain(&management).all(is_well)
            || !management.iter().any(leads)
        {
            return None;
        }
        self.stopped = true;
        self.losses += 1;
        places.into_iter().for_each(|place| world.stop(place));
        Some("cluster is stopped")
    }

    fn note_loss(&mut self, world: &World) {
        self.lost_at.get_or_insert(world.now());
        self.losses += 1;
    }

    fn lose(&mut self, world: &mut World, places: &[usize]) {
        self.note_loss(world);
        let host = self.random.one_in(2);
        let trigger = self.trigger();
        for &place in places {
            self.disturb(place, world.now());
            match trigger {
                Some(trigger)
                    if world.processes()[place].state == State::Running && self.random.one_in(2) =>
                {
                    world.arm(place, trigger, host);
                }
                _ => world.kill(place, host),
            }
        }
    }
}
