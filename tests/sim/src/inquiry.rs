//! Questions for outcomes, asked with the tokens of commits that were answered, or reported as pending: by the client
//! that made them, at once, while an earlier commit of its session is open, and late; by others; when its session has
//! ended, a moment ago and so long ago that it is forgotten. All that is told has to agree.

use std::collections::{BTreeMap, VecDeque};

use twofold_apinode::request::{Answer, Failure, Request, TransactionToken};
use twofold_proto::{
    ids::{Incarnation, TransactionId},
    message::{Outcome, Status, TransactionState},
    placement::PartitionMap,
    random::Random,
    time::{Duration, Time},
};

use crate::{
    checkers::{
        Verdict,
        answers::{self, Told},
    },
    fault::newest_view,
    world::World,
};

/// Tokens of its requests have these bits, beside their number.
pub const REQUESTS: u64 = (u64::MAX - 1) << 32;

/// The newest commits, which are asked about more than others.
const NEWEST: usize = 8;

/// A commit that may be asked about.
#[derive(Clone, Copy, Debug)]
struct Commit {
    token: TransactionToken,
    /// The place of its client.
    client: usize,
}

/// A question without an answer.
#[derive(Debug)]
struct Asked {
    /// The place of the client that was asked.
    client: usize,
    session: Incarnation,
    token: TransactionToken,
    /// What is rare about it.
    marks: Vec<&'static str>,
    /// Whether it is put again until it is answered.
    insists: bool,
}

/// Who asks, and what was told.
#[derive(Debug)]
pub struct Inquiry {
    random: Random,
    commits: Vec<Commit>,
    /// Sessions that have ended, and when.
    ended: BTreeMap<Incarnation, Time>,
    asked: BTreeMap<u64, Asked>,
    /// Questions that are to be put again.
    again: VecDeque<TransactionToken>,
    number: u64,
    told: Vec<Told>,
    /// Rare paths, and how often each was taken.
    pub marks: BTreeMap<String, u64>,
}

impl Inquiry {
    /// Nobody has committed anything.
    pub fn new(random: Random) -> Inquiry {
        Inquiry {
            random,
            commits: Vec::new(),
            ended: BTreeMap::new(),
            asked: BTreeMap::new(),
            again: VecDeque::new(),
            number: 0,
            told: Vec::new(),
            marks: BTreeMap::new(),
        }
    }

    /// The cluster has begun anew: what was committed is gone.
    pub fn begin_anew(&mut self) {
        self.commits.clear();
        self.asked.clear();
        self.again.clear();
        self.told.clear();
    }

    /// A user of this client is answered; whether that names a commit that can be asked about.
    pub fn heard(&mut self, client: usize, session: Incarnation, answer: &Answer, at: Time) -> bool {
        let before = self.commits.len();
        match answer {
            Answer::Statement { state: TransactionState::Committed, epoch, token: Some(token), .. } => {
                self.commits.push(Commit { token: *token, client });
                self.note(token.transaction, session, at, Outcome::Committed(*epoch));
            }
            Answer::Failed(failure) => self.failed(client, failure),
            Answer::Operations(results) => {
                results.iter().filter_map(Result::err).for_each(|failure| self.failed(client, failure));
            }
            _ => {}
        }
        self.commits.len() > before
    }

    fn failed(&mut self, client: usize, failure: &Failure) {
        self.commits.extend(failure.token.map(|token| Commit { token, client }));
    }

    /// Somebody was told an outcome.
    pub fn note(&mut self, transaction: TransactionId, to: Incarnation, at: Time, outcome: Outcome) {
        self.told.push(Told { transaction, to, at, outcome });
    }

    /// A client has died. What it was asked will not be answered.
    pub fn died(&mut self, client: usize, session: Incarnation, at: Time) {
        self.ended.insert(session, at);
        let lost = self.asked.extract_if(.., |_, asked| asked.client == client);
        self.again.extend(lost.filter(|(_, asked)| asked.insists).map(|(_, asked)| asked.token));
    }

    /// Asks about the commit that its client has just heard of.
    pub fn ask_at_once(&mut self, world: &mut World) {
        let Commit { token, client } = *self.commits.last().expect("one was just heard of");
        self.submit(world, client, token, false);
    }

    /// Asks one of these clients about some commit. Who insists asks again until there is an answer.
    pub fn ask(&mut self, world: &mut World, clients: &[usize], insists: bool) {
        if self.commits.is_empty() || clients.is_empty() {
            return;
        }
        let newest = if self.random.one_in(3) { self.commits.len().saturating_sub(NEWEST) } else { 0 };
        let Commit { token, client } = *self.random.pick(&self.commits[newest..]);
        let own = clients.contains(&client) && self.random.one_in(2);
        let asked = if own { client } else { *self.random.pick(clients) };
        self.submit(world, asked, token, insists);
    }

    /// Puts those questions again that somebody insists on.
    pub fn ask_again(&mut self, world: &mut World, clients: &[usize]) {
        if clients.is_empty() {
            return;
        }
        for token in std::mem::take(&mut self.again) {
            let client = *self.random.pick(clients);
            self.submit(world, client, token, true);
        }
    }

    fn submit(&mut self, world: &mut World, client: usize, token: TransactionToken, insists: bool) {
        self.number += 1;
        let session = world.processes()[client].incarnation;
        let marks = self.marks_of(world, client, &token);
        self.asked.insert(self.number, Asked { client, session, token, marks, insists });
        world.submit(client, REQUESTS | self.number, Request::Status(token));
    }

    fn marks_of(&self, world: &World, client: usize, token: &TransactionToken) -> Vec<&'static str> {
        let process = &world.processes()[client];
        let session = token.transaction.session;
        let mut marks = Vec::new();
        if session == process.incarnation {
            marks.push("an outcome was asked for by its own session");
            let mark = process.client_machine().map_or(0, |client| client.mark());
            if token.commit_number > mark {
                marks.push("an outcome above its session's mark was asked for");
            }
        } else {
            marks.push("an outcome was asked for by another session");
        }
        if let Some(&ended) = self.ended.get(&session) {
            marks.push(match world.now().since(ended) {
                past if past > Duration::from_secs(60) => {
                    "an outcome was asked for 60 s after its session's end"
                }
                past if past > Duration::from_secs(10) => {
                    "an outcome was asked for 10 s after its session's end"
                }
                _ => "an outcome was asked for after its session's end",
            });
        }
        let map = PartitionMap::new(world.config(), &newest_view(world));
        let coordinator = token.coordinator.endpoint;
        if map.replicas(token.partition).iter().all(|replica| replica.endpoint != coordinator) {
            marks.push("an outcome was asked for of a partition that its TC has no replica of");
        }
        marks
    }

    /// The answer to the request of this number. Whether it has to be asked again.
    pub fn answered(&mut self, request: u64, answer: &Answer, at: Time) -> bool {
        let Some(asked) = self.asked.remove(&(request & !REQUESTS)) else { return false };
        match answer {
            Answer::Status(Status::Decided(outcome)) => {
                self.note(asked.token.transaction, asked.session, at, *outcome);
            }
            Answer::Status(Status::Finished) => {
                *self.marks.entry("a question was answered as finished".into()).or_default() += 1;
            }
            Answer::Status(Status::Pending) | Answer::Failed(_) => {
                self.again.extend(asked.insists.then_some(asked.token));
                return asked.insists;
            }
            other => panic!("{other:?} answers no question"),
        }
        for mark in asked.marks {
            *self.marks.entry(mark.into()).or_default() += 1;
        }
        false
    }

    /// Whether nobody waits for an answer.
    pub fn is_settled(&self) -> bool {
        self.asked.is_empty() && self.again.is_empty()
    }

    /// Judges what was told.
    pub fn judge(&self) -> Verdict {
        answers::check(&self.told)
    }
}
