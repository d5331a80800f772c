//! One seed, from the start of its processes to the verdict.
//!
//! 1. All processes start; a client creates the tables.
//! 2. Clients work, things go wrong, until there has been enough of both.
//! 3. Everything is healed. Within a bound all nodes have to be `up`, all outcomes known, and nothing under way.
//! 4. All rows are read, replicas are compared, and each workload judges what its users saw.

mod contents;

use std::collections::BTreeMap;

use twofold_apinode::request::{Answer, Request};
use twofold_proto::{
    error::ErrorCode,
    ids::{PartitionId, TransactionId},
    message::{CatalogChange, Status},
    random::Random,
    schema::Index,
    time::{Duration, Time},
};

use crate::{
    checkers::{self, Violation},
    fault::{Faults, are_all_up, newest_view},
    history::SystemRestart,
    inquiry::{self, Inquiry},
    scenario::{FAULTS_MIN, Scenario, TRANSACTIONS_MIN},
    workload::{Context, Step, WINDOW, Workload},
    world::{
        Output, World,
        process::{Kind, Process, State},
        trace::Sink,
    },
};

/// How long anything may take that is not disturbed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the work of one round may take, and for how long of it there are faults: while management nodes never come to
/// rest there is no new view, and some work has to wait for one.
const WORK_MAX: Duration = Duration::from_secs(90);
const FAULTS_MAX: Duration = Duration::from_secs(60);
/// How often the primaries are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(7);

/// How often somebody asks what became of a commit, on average, and how soon again if that could not be said.
const ASK_EVERY: Duration = Duration::from_millis(8);
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// How many commits are asked about when all is quiet.
const QUESTIONS: usize = 60;

/// Tokens of requests that are no user's.
const OWN: u64 = u64::MAX << 32;

/// What a run was.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Of all that happened.
    pub digest: u64,
    /// Inputs of machines.
    pub steps: u64,
    /// Transactions committed.
    pub transactions: u64,
    /// Faults.
    pub faults: u64,
    /// How long it took in true time.
    pub took: Duration,
    /// Rare paths, and how often each was taken.
    pub marks: BTreeMap<String, u64>,
}

struct User {
    workload: usize,
    /// Its number in the workload.
    number: usize,
    /// The place of its client.
    client: usize,
    /// The place of the client that it has asked last.
    asked: usize,
    /// The transaction that it has asked about.
    question: Option<TransactionId>,
    /// Counts its requests and its sleeps: answers and wakes of another number are old.
    serial: u32,
    busy: bool,
}

struct Run<'a> {
    scenario: &'a Scenario,
    world: World,
    random: Random,
    workloads: Vec<Box<dyn Workload>>,
    users: Vec<User>,
    faults: Faults,
    fault_due: Option<u64>,
    /// The restart number that users know of.
    restart: u16,
    /// When the cluster died for the last time.
    crashed: Time,
    /// When the work began.
    begun: Time,
    ending: bool,
    number: u64,
    /// The answer to the request that is no user's.
    answer: Option<(u64, Answer)>,
    own_requests: u64,
    next_look: Time,
    transactions: u64,
    inquiry: Inquiry,
    client_marks: BTreeMap<String, u64>,
}

/// Names of wakes that are no user's.
const FAULT: u64 = u64::MAX;
const QUESTION: u64 = u64::MAX - 1;

/// Runs a scenario.
///
/// # Errors
/// What was violated.
///
/// # Panics
/// Panics where a machine finds its own invariants broken, or the cluster does not come to rest.
pub fn run(scenario: &Scenario, sink: Option<Sink>) -> Result<Report, Violation> {
    let mut random = Random::new(scenario.seed ^ 0x5eed);
    let mut world =
        World::new(scenario.config.clone(), &scenario.workers, random.fork(), scenario.mutation, sink);
    world.redo_is_slow = scenario.leave_alone;
    let mut run = Run {
        scenario,
        world,
        faults: Faults::new(random.fork(), scenario.profile, scenario.leave_alone),
        inquiry: Inquiry::new(random.fork()),
        random,
        workloads: Vec::new(),
        users: Vec::new(),
        fault_due: None,
        restart: 0,
        crashed: Time(0),
        begun: Time(0),
        ending: false,
        number: 0,
        answer: None,
        own_requests: 0,
        next_look: Time(0),
        transactions: 0,
        client_marks: BTreeMap::new(),
    };
    run.start();
    let mix = scenario.mix.clone();
    run.round(&mix)?;
    run.finish()?;
    Ok(run.report())
}

impl Run<'_> {
    /// All processes start at about the same time, and the tables are made.
    fn start(&mut self) {
        for place in 0..self.world.processes().len() {
            let late = match self.random.below(10) {
                0 => self.random.between(100, 3000),
                _ => self.random.between(0, 200),
            };
            self.world.start_after(place, Duration::from_millis(late));
        }
        let client = self.world.places(Kind::Client)[0];
        self.until("the cluster starts", PATIENCE, |run| {
            run.client_is_ready(client, &[]) && !newest_view(&run.world).members.is_empty()
        });
        let mix = self.scenario.mix.clone();
        let tables = mix.iter().flat_map(|&(mix, _)| self.scenario.workload(mix, 0).tables());
        for table in tables.collect::<Vec<_>>() {
            let name = table.name.clone();
            let answer = self.ask(client, Request::Change(CatalogChange::CreateTable(table)));
            assert!(matches!(answer, Answer::Catalog(_)), "table {name} is not made: {answer:?}");
        }
    }

    fn client_is_ready(&self, place: usize, tables: &[String]) -> bool {
        let process = &self.world.processes()[place];
        process.state == State::Running
            && process.client_machine().is_some_and(|client| {
                client.is_ready() && tables.iter().all(|name| client.catalog().table(name).is_some())
            })
    }

    /// Asks for something that is no user's, and waits for the answer. Without faults only.
    fn ask(&mut self, client: usize, request: Request) -> Answer {
        self.own_requests += 1;
        let token = OWN | self.own_requests;
        self.answer = None;
        self.world.submit(client, token, request);
        self.until("an answer", PATIENCE, |run| run.answer.as_ref().is_some_and(|(of, _)| *of == token));
        self.answer.take().expect("just seen").1
    }

    /// Goes on until something is so.
    fn until(&mut self, what: &str, patience: Duration, condition: impl Fn(&Run<'_>) -> bool) {
        let deadline = self.world.now() + patience;
        let mut check_at = self.world.now();
        loop {
            if self.world.now() >= check_at {
                if condition(self) {
                    return;
                }
                check_at = self.world.now() + Duration::from_millis(1);
            }
            if self.world.now() >= deadline {
                self.describe_busy();
                panic!("no progress: {what}, in {patience:?}. {}", self.situation());
            }
            self.advance(check_at);
        }
    }

    fn advance(&mut self, until: Time) {
        let mut outputs = Vec::new();
        self.world.advance(until, &mut outputs);
        self.note_restart();
        // A user of a client that died with its answer has not seen it.
        let died = |of: usize| move |output: &Output| matches!(output, Output::Died { process, .. } if *process == of);
        let unseen = |output: &Output| matches!(output, Output::Answer { process, .. } if outputs.iter().any(died(*process)));
        let seen = outputs.iter().map(|output| !unseen(output)).collect::<Vec<_>>();
        for (output, _) in outputs.into_iter().zip(seen).filter(|(_, seen)| *seen) {
            self.on_output(output);
        }
        if self.world.now() >= self.next_look {
            self.next_look = self.world.now() + LOOK_EVERY;
            self.world.check_primaries();
        }
    }

    /// The cluster has come back from a system restart: users begin anew with what is there now.
    fn note_restart(&mut self) {
        let nodes = self.world.processes().iter().filter_map(Process::node_machine);
        let restart = nodes.map(|node| node.view().restart).max().unwrap_or_default();
        if restart <= self.restart {
            return;
        }
        let view = newest_view(&self.world);
        let first = std::mem::replace(&mut self.restart, view.restart) == 0;
        if first {
            return;
        }
        let now = self.world.now();
        let cut = view.cuts.last().map(|cut| cut.epoch).unwrap_or_default();
        // Two losses may make one restart, and one loss two.
        let mut crashed = self.faults.lost_at.take().unwrap_or(self.crashed);
        self.crashed = crashed;
        if std::mem::take(&mut self.faults.stopped) {
            let up = view.up_members().count();
            assert_eq!(
                up,
                self.scenario.workers.len(),
                "after a stop of the cluster each node has all: {view:?}"
            );
            // Nothing may be lost, however late it was answered.
            crashed = now + WINDOW * 2;
        }
        let restart = SystemRestart { crashed, back: now, number: view.restart, cut };
        self.world.trace.say(now, || format!("users learn of {restart:?}"));
        self.inquiry.begin_anew();
        for workload in &mut self.workloads {
            workload.restarted(restart);
        }
        for place in 0..self.users.len() {
            self.users[place].busy = false;
            self.sleep(place, Duration::from_millis(1));
        }
    }

    fn on_output(&mut self, output: Output) {
        match output {
            Output::Answer { process, token, answer } => {
                if token & OWN == OWN {
                    self.answer = Some((token, answer));
                    return;
                }
                if token & OWN == inquiry::REQUESTS {
                    if self.inquiry.answered(token, &answer, self.world.now()) {
                        self.world.wake_me(self.world.now() + ASK_AGAIN, QUESTION);
                    }
                    return;
                }
                let (place, serial) = ((token >> 32) as usize, token as u32);
                let user = &mut self.users[place];
                if user.serial != serial || !user.busy || user.asked != process {
                    return;
                }
                user.busy = false;
                self.hear(place, &answer);
                let step = self
                    .with_user(place, |workload, number, context| workload.answered(number, answer, context));
                self.go_on(place, step);
            }
            Output::Died { process, session } => {
                self.inquiry.died(process, session, self.world.now());
                for place in 0..self.users.len() {
                    if self.users[place].client == process {
                        self.with_user(place, |workload, number, context| workload.died(number, context));
                        self.users[place].busy = false;
                        self.sleep(place, Duration::from_millis(1));
                    } else if self.users[place].busy
                        && self.users[place].asked == process
                        && self.world.processes()[self.users[place].client].state != State::Down
                    {
                        // No answer comes to a question for an outcome: it is put again.
                        self.users[place].busy = false;
                        let answer = Answer::Status(Status::Pending);
                        let step = self.with_user(place, |workload, number, context| {
                            workload.answered(number, answer, context)
                        });
                        self.go_on(place, step);
                    }
                }
            }
            Output::Wake(FAULT) => self.strike(),
            Output::Wake(QUESTION) => self.inquire(),
            Output::Wake(name) => {
                let (place, serial) = ((name >> 32) as usize, name as u32);
                let user = self.users.get(place);
                if user.is_some_and(|user| user.serial == serial && !user.busy) {
                    self.wake(place);
                }
            }
        }
    }

    /// Somebody is told how a commit ended: the user who made it, or one who asks.
    fn hear(&mut self, place: usize, answer: &Answer) {
        let User { asked, question, .. } = self.users[place];
        let (session, now) = (self.world.processes()[asked].incarnation, self.world.now());
        match (question, answer) {
            (Some(transaction), Answer::Status(Status::Decided(outcome))) => {
                self.inquiry.note(transaction, session, now, *outcome);
            }
            _ => {
                if self.inquiry.heard(asked, session, answer, now) && self.random.one_in(8) {
                    self.inquiry.ask_at_once(&mut self.world);
                }
            }
        }
    }

    /// Somebody asks about some commit.
    fn inquire(&mut self) {
        let clients = self.ready_clients();
        self.inquiry.ask_again(&mut self.world, &clients);
        if !self.ending {
            self.inquiry.ask(&mut self.world, &clients, false);
            self.plan_question();
        }
    }

    fn plan_question(&mut self) {
        let micros = self.random.below(2 * ASK_EVERY.as_micros() as u64);
        self.world.wake_me(self.world.now() + Duration::from_micros(micros), QUESTION);
    }

    fn ready_clients(&self) -> Vec<usize> {
        let places = self.world.places(Kind::Client).into_iter();
        places.filter(|&place| self.client_is_ready(place, &[])).collect()
    }

    fn tables(&self) -> Vec<String> {
        self.workloads.iter().flat_map(|workload| workload.tables()).map(|table| table.name).collect()
    }

    fn wake(&mut self, place: usize) {
        if !self.client_is_ready(self.users[place].client, &self.tables()) {
            return self.sleep(place, Duration::from_millis(10));
        }
        let step = self.with_user(place, |workload, number, context| workload.next(number, context));
        self.go_on(place, step);
    }

    fn with_user<R>(
        &mut self,
        place: usize,
        act: impl FnOnce(&mut dyn Workload, usize, &mut Context<'_>) -> R,
    ) -> R {
        let user = &self.users[place];
        let process = &self.world.processes()[user.client];
        let nothing = Default::default();
        let catalog = process.client_machine().map_or(&nothing, |client| client.catalog());
        let mut context = Context {
            now: self.world.now(),
            ending: self.ending,
            random: &mut self.random,
            session: process.incarnation,
            catalog,
            number: &mut self.number,
        };
        act(&mut *self.workloads[user.workload], user.number, &mut context)
    }

    fn go_on(&mut self, place: usize, step: Step) {
        let user = &mut self.users[place];
        user.serial = user.serial.wrapping_add(1);
        let (own, token) = (user.client, (place as u64) << 32 | u64::from(user.serial));
        // Any client may be asked for an outcome.
        let client = match step {
            Step::Ask(Request::Status(_)) if self.random.one_in(3) => {
                let clients = self.world.places(Kind::Client);
                Some(*self.random.pick(&clients))
                    .filter(|&other| self.client_is_ready(other, &[]))
                    .unwrap_or(own)
            }
            _ => own,
        };
        let user = &mut self.users[place];
        user.asked = client;
        user.question = match &step {
            Step::Ask(Request::Status(token)) => Some(token.transaction),
            _ => None,
        };
        match step {
            Step::Ask(request) => {
                user.busy = true;
                self.world.submit(client, token, request);
            }
            Step::Operate(operation) => {
                user.busy = true;
                self.world.operate(client, token, operation);
            }
            Step::Rest => {
                let micros = match self.random.below(10) {
                    0 if !self.ending => self.random.below(self.scenario.rest.as_micros() as u64),
                    _ => self.random.between(1, 3_000),
                };
                self.sleep(place, Duration::from_micros(micros));
            }
        }
    }

    fn sleep(&mut self, place: usize, span: Duration) {
        let user = &mut self.users[place];
        user.serial = user.serial.wrapping_add(1);
        let name = (place as u64) << 32 | u64::from(user.serial);
        self.world.wake_me(self.world.now() + span, name);
    }

    /// Users of these workloads begin.
    fn employ(&mut self, mix: &[(crate::scenario::Mix, usize)]) {
        self.ending = false;
        self.workloads.clear();
        self.users.clear();
        let clients = self.world.places(Kind::Client);
        for &(mix, count) in mix {
            let workload = self.workloads.len();
            self.workloads.push(self.scenario.workload(mix, count));
            for number in 0..count {
                let client = clients[self.users.len() % clients.len()];
                // No token or wake of an earlier round is one of this.
                let serial = self.random.next_u64() as u32;
                let (asked, question) = (client, None);
                self.users.push(User { workload, number, client, asked, question, serial, busy: false });
            }
        }
        for place in 0..self.users.len() {
            let micros = self.random.below(20_000);
            self.sleep(place, Duration::from_micros(micros));
        }
    }

    fn finished(&self) -> u64 {
        self.workloads.iter().map(|workload| workload.finished()).sum()
    }

    /// Work and faults until there was enough of both.
    fn round(&mut self, mix: &[(crate::scenario::Mix, usize)]) -> Result<(), Violation> {
        self.employ(mix);
        self.begun = self.world.now();
        if self.scenario.faults > 0 {
            self.plan_fault();
        }
        self.plan_question();
        let wanted = self.scenario.faults;
        self.until("the work of a round", WORK_MAX, |run| {
            let (happened, tried) = (run.faults.count(), run.faults.tried);
            // Where few can happen there have to be some.
            let enough = happened >= wanted || (happened >= wanted.min(FAULTS_MIN) && tried > 4 * wanted);
            run.finished() >= TRANSACTIONS_MIN && enough
        });
        self.transactions += self.finished();
        self.fault_due = None;
        Ok(())
    }

    fn plan_fault(&mut self) {
        let mean = self.scenario.fault_every.as_micros() as u64;
        // Now and then hard upon the one before.
        let micros =
            if self.random.one_in(5) { self.random.below(20_000) } else { self.random.below(2 * mean) };
        self.fault_due = Some(FAULT);
        self.world.wake_me(self.world.now() + Duration::from_micros(micros), FAULT);
    }

    fn strike(&mut self) {
        if self.fault_due.is_none() || self.ending {
            return;
        }
        if self.world.now().since(self.begun) < FAULTS_MAX {
            self.faults.strike(&mut self.world);
        } else {
            self.faults.tried += 1;
        }
        // Nobody sleeps while something happens.
        for place in 0..self.users.len() {
            if !self.users[place].busy {
                let micros = self.random.between(1, 3_000);
                self.sleep(place, Duration::from_micros(micros));
            }
        }
        self.plan_fault();
    }

    /// Heals everything, and waits until all is quiet and known.
    fn settle(&mut self) {
        self.fault_due = None;
        self.ending = true;
        self.world.heal();
        self.until("everything heals", PATIENCE, |run| run.is_settled());
        assert!(
            self.restart == 1 || self.faults.losses > 0,
            "the cluster restarted though no node group was killed"
        );
    }

    /// Asks about commits of sessions that are there and of some that have ended, now and so long ago that the cluster has
    /// forgotten them. All get an answer.
    fn ask_late(&mut self) {
        self.ask_all();
        if !self.random.one_in(3) {
            return;
        }
        for place in self.world.places(Kind::Client) {
            if !self.random.one_in(3) {
                self.end_client(place);
            }
        }
        self.until("clients come back", PATIENCE, |run| run.is_settled());
        self.ask_all();
        let millis = match self.random.below(6) {
            0 => self.random.between(60_000, 62_000),
            _ => self.random.between(10_000, 16_000),
        };
        self.pass(Duration::from_millis(millis));
        self.ask_all();
    }

    fn ask_all(&mut self) {
        let clients = self.ready_clients();
        for _ in 0..QUESTIONS {
            self.inquiry.ask(&mut self.world, &clients, true);
        }
        self.until("an answer to every question", PATIENCE, |run| run.inquiry.is_settled());
    }

    /// A client ends: in order, when it has told all workers so, or not.
    fn end_client(&mut self, place: usize) {
        if self.random.one_in(2) {
            self.world.stop(place);
            self.pass(Duration::from_millis(50));
        }
        let host = self.random.one_in(3);
        self.world.kill(place, host);
    }

    /// Nothing but time passes.
    fn pass(&mut self, span: Duration) {
        let end = self.world.now() + span;
        while self.world.now() < end {
            self.advance(end);
        }
    }

    fn is_settled(&self) -> bool {
        let settled = |user: &User| !user.busy && self.workloads[user.workload].is_settled(user.number);
        self.users.iter().all(settled)
            && are_all_up(&self.world)
            && self.is_idle()
            && self.inquiry.is_settled()
            && self.client_is_ready(self.world.places(Kind::Client)[0], &self.tables())
            && self.are_indexes_built()
    }

    /// Whether all clients know that all indexes are built.
    fn are_indexes_built(&self) -> bool {
        let clients = self.world.processes().iter().filter_map(Process::client_machine);
        let mut indexes =
            clients.flat_map(|client| &client.catalog().tables).flat_map(|table| &table.indexes);
        indexes.all(Index::is_public)
    }

    fn is_idle(&self) -> bool {
        let processes = self.world.processes();
        processes.iter().flat_map(Process::worker_machines).all(|worker| worker.is_idle())
            && processes.iter().filter_map(Process::client_machine).all(|client| client.is_idle())
            && processes.iter().all(|process| process.state == State::Running)
    }

    /// Settles, reads everything, compares and judges.
    fn finish(&mut self) -> Result<(), Violation> {
        self.settle();
        self.ask_late();
        // Expired rows are freed at any time.
        self.until("all is quiet", PATIENCE, |run| run.is_settled());
        self.inquiry.judge()?;
        checkers::replicas::check(&self.replicas())?;
        self.check_indexes();
        let rows = self.read_all();
        let now = self.world.now();
        for workload in &mut self.workloads {
            workload.judge(&rows, now)?;
        }
        Ok(())
    }

    /// Writes all that busy workers hold to the trace.
    fn describe_busy(&mut self) {
        let now = self.world.now();
        let workers = self.world.processes().iter().flat_map(Process::worker_machines);
        let busy: Vec<String> =
            workers.filter(|worker| !worker.is_idle()).map(|worker| format!("busy: {worker:?}")).collect();
        busy.into_iter().for_each(|text| self.world.trace.say(now, || text));
    }

    /// Where things stand, for people.
    fn situation(&self) -> String {
        let view = newest_view(&self.world);
        let mut text = format!("At {:?} the view is {view:?}", self.world.now());
        for process in self.world.processes() {
            if matches!(process.kind, Kind::Angel(_)) {
                continue;
            }
            text += &format!("\n  {:?} life {} is {:?}", process.node, process.life, process.state);
            if let Some(node) = process.node_machine() {
                let view = node.view().number;
                text += &format!(", {:?} in view {view}, lease {:?}", node.state(), node.lease());
            }
            for worker in process.worker_machines() {
                let partitions = self.scenario.config.partitions;
                let serves = (0..partitions).filter(|&n| worker.serves(PartitionId(n))).count();
                let idle = if worker.is_idle() { "idle" } else { "busy" };
                text += &format!(", worker in view {} serves {serves}, {idle}", worker.view().number);
            }
            if let Some(node) = process.management_machine() {
                text += &format!(", leader {:?}", node.leader());
            }
            if let Some(client) = process.client_machine() {
                text += &format!(", view {}, {} calls", client.view().number, client.in_flight());
            }
        }
        for (place, user) in self.users.iter().enumerate() {
            let settled = self.workloads[user.workload].is_settled(user.number);
            if user.busy || !settled {
                text += &format!("\n  user {place} is busy: {}, settled: {settled}", user.busy);
            }
        }
        text + &format!("\n  {} transactions, faults {:?}", self.finished(), self.faults.happened)
    }

    fn report(mut self) -> Report {
        let totals = self.world.totals();
        let counted = [
            ("locks were taken from a younger transaction", totals.wounds),
            ("an operation waited for a lock", totals.lock_waits),
            ("a lock was waited for in vain", totals.lock_timeouts),
            ("a request was given up at its worker", totals.cancelled),
            ("a row was copied to a joining node", totals.rows_copied),
            ("a row was kept by a joining node", totals.rows_kept),
            ("a row was removed from a joining node", totals.strays),
            ("a partition of a joining node had a hole", totals.holes),
            ("a partition was taken over", totals.takeovers),
            ("a transaction was in doubt", totals.in_doubt),
            ("a refusal was planted", totals.planted),
            ("a request came to a worker that did not serve", totals.not_serving),
            ("an expired row was purged", totals.purged),
            ("an index was built", totals.index_builds),
            ("a scan was answered", totals.scans),
            (
                "an acknowledgement met another partition's write set of its number in its slot",
                totals.strayed,
            ),
        ];
        let mut marks = std::mem::take(&mut self.client_marks);
        marks.append(&mut self.inquiry.marks);
        for client in self.world.processes().iter().filter_map(Process::client_machine) {
            let counters = client.counters();
            let retried = |code: ErrorCode| client.retried().get(&code).copied().unwrap_or(0);
            for (name, count) in [
                ("an outcome was asked for", counters.asked),
                ("a TC had nothing of a transaction that it was asked about", counters.disowned),
                ("an outcome was reported as pending", counters.pending),
                ("an outcome was learned late", counters.learned),
                ("a read was sent again", counters.resent),
                ("a link was given up by a worker", counters.links_renewed),
                ("a transaction was tried again after a deadlock", retried(ErrorCode::Deadlock)),
                (
                    "a transaction was tried again after its primary changed",
                    retried(ErrorCode::PrimaryChanged),
                ),
            ] {
                *marks.entry(name.to_string()).or_default() += count;
            }
        }
        let named = self.world.marks.iter().map(|(name, count)| (name.to_string(), *count));
        let faults = self.faults.happened.iter().map(|(name, count)| (name.to_string(), *count));
        marks.extend(counted.map(|(name, count)| (name.to_string(), count)));
        marks.extend(named.chain(faults));
        Report {
            digest: self.world.trace.digest.value(),
            steps: self.world.trace.steps,
            transactions: self.transactions,
            faults: self.faults.count(),
            took: self.world.now().since(Time(0)),
            marks,
        }
    }
}
