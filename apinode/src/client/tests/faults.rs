//! A client in a small cluster where everything goes wrong: workers refuse, hesitate, lose connections, give the client
//! up, leave the view (and may still finish what they have). What the client says must be true.

use std::collections::VecDeque;

use twofold_proto::{
    error::ErrorClass,
    message::{
        BEGIN, COMMIT, Outcome, ROLLBACK, Status, StatusConf, TransactionConf, TransactionRef,
        TransactionState,
    },
};

use super::*;
use crate::request::{Begin, End, Isolation, Statement};

/// What a frontend was told of one transaction.
#[derive(Debug)]
enum Said {
    Committed,
    NotApplied,
    Pending(crate::request::TransactionToken),
}

/// An answer that a worker holds back.
struct Held {
    node: u16,
    link: LinkId,
    kind: Kind,
    body: Vec<u8>,
}

struct World {
    net: Net,
    random: Random,
    /// What has arrived at each node and was not processed.
    queues: BTreeMap<u16, VecDeque<(Kind, Vec<u8>)>>,
    /// What waits at each node for a lock.
    waiting: BTreeMap<u16, BTreeMap<TransactionId, (Kind, Vec<u8>)>>,
    /// Transactions open at each node, with the keys that they wrote.
    open: BTreeMap<u16, BTreeMap<TransactionId, Vec<u64>>>,
    /// As all replicas know it.
    decided: BTreeMap<TransactionId, Outcome>,
    /// How often each key was written.
    applied: BTreeMap<u64, u32>,
    held: Vec<Held>,
    next_life: u64,
    next_key: u64,
    said: BTreeMap<u64, Said>,
    calm: bool,
    mark: u64,
    /// What was given up while it waited.
    cancelled: u64,
}

const REFUSALS: [ErrorCode; 5] = [
    ErrorCode::NotServing,
    ErrorCode::Deadlock,
    ErrorCode::Overloaded,
    ErrorCode::PrimaryChanged,
    ErrorCode::BadValue,
];

/// Keys of requests under way have this bit if they commit in a second statement.
const INTERACTIVE: u64 = 1 << 32;

fn keys(reader: &mut Reader<'_>, count: u16) -> Vec<u64> {
    let mut keys = Vec::new();
    for _ in 0..count {
        let operation = OperationRef::parse(reader).unwrap();
        if operation.writes() {
            keys.push(u64::from_le_bytes(operation.key.try_into().unwrap()));
        }
    }
    keys
}

/// How a request for a transaction is refused, and the transaction.
fn transaction(kind: Kind, body: &[u8]) -> ((Kind, u32), TransactionId) {
    let reader = &mut Reader::new(body, "test");
    let (kind, request, number) = match kind {
        Kind::WriteReq => {
            let write = IndependentWrite::parse(reader).unwrap();
            (Kind::OperationRef, write.request, write.number)
        }
        _ => {
            let statement = TransactionReq::parse(reader).unwrap();
            (Kind::TransactionRef, statement.request, statement.number)
        }
    };
    ((kind, request), TransactionId { session: SESSION, number })
}

impl World {
    fn new(seed: u64) -> World {
        let mut net = Net::new(Setup { seed, ..setup() });
        net.make_ready(1);
        World {
            net,
            random: Random::new(seed),
            queues: BTreeMap::new(),
            waiting: BTreeMap::new(),
            open: BTreeMap::new(),
            decided: BTreeMap::new(),
            applied: BTreeMap::new(),
            held: Vec::new(),
            next_life: 2,
            next_key: 1,
            said: BTreeMap::new(),
            calm: false,
            mark: 0,
            cancelled: 0,
        }
    }

    /// Moves what the client has sent to the nodes' queues.
    fn collect(&mut self) {
        self.net.turn();
        for far in self.net.far.values_mut().filter(|far| far.to.node.0 > 2) {
            self.queues.entry(far.to.node.0).or_default().extend(far.inbox.drain(..));
        }
    }

    fn link(&self, node: u16) -> Option<LinkId> {
        self.net.far.iter().find(|(_, far)| far.to == worker(node)).map(|(&link, _)| link)
    }

    /// A node answers, unless it has nobody to answer any more; maybe not now.
    fn reply(&mut self, node: u16, silent: bool, kind: Kind, body: Vec<u8>) {
        let Some(link) = self.link(node).filter(|_| !silent) else { return };
        let held = Held { node, link, kind, body };
        if !self.calm && self.random.one_in(6) {
            return self.held.push(held);
        }
        self.deliver(held);
    }

    fn deliver(&mut self, held: Held) {
        // What was held for a link that is gone is gone with it.
        if self.link(held.node) == Some(held.link) {
            self.net.tell(worker(held.node), held.kind, |out| out.put(&held.body));
        }
    }

    fn commit(&mut self, id: TransactionId, keys: &[u64]) -> Epoch {
        let epoch = self.net.epoch;
        let before = self.decided.insert(id, Outcome::Committed(epoch));
        assert_eq!(before, None, "{id:?} is decided twice");
        for key in keys {
            *self.applied.entry(*key).or_default() += 1;
        }
        epoch
    }

    /// Why a node refuses, if it does.
    fn trouble(&mut self, id: TransactionId) -> Option<ErrorCode> {
        if self.decided.get(&id) == Some(&Outcome::Aborted) {
            return Some(ErrorCode::PrimaryChanged);
        }
        (!self.calm && self.random.one_in(3)).then(|| *self.random.pick(&REFUSALS))
    }

    /// A node processes the next message in its queue. `silent`: its answers reach nobody.
    fn process(&mut self, node: u16, silent: bool) {
        if (self.calm || self.random.one_in(8))
            && let Some((_, (kind, body))) = self.waiting.entry(node).or_default().pop_first()
        {
            return self.run(node, silent, kind, &body);
        }
        let Some((kind, body)) = self.queues.entry(node).or_default().pop_front() else { return };
        let mut reader = Reader::new(&body, "test");
        match kind {
            Kind::WriteReq | Kind::TransactionReq if !self.calm && self.random.one_in(4) => {
                self.waiting.entry(node).or_default().insert(transaction(kind, &body).1, (kind, body));
            }
            Kind::WriteReq | Kind::TransactionReq => self.run(node, silent, kind, &body),
            Kind::CancelOrd => {
                let id = TransactionId { session: SESSION, number: reader.u64().unwrap() };
                if let Some((kind, body)) = self.waiting.entry(node).or_default().remove(&id) {
                    self.cancelled += 1;
                    self.refuse(node, silent, id, transaction(kind, &body).0, ErrorCode::Timeout);
                }
            }
            Kind::ReadReq => {
                let request = reader.u32().unwrap();
                let mut out = Vec::new();
                out.put_u32(request);
                self.reply(node, silent, Kind::OperationConf, out);
            }
            Kind::StatusReq => self.question(node, silent, &control(&body).unwrap()),
            Kind::MarkOrd => self.mark = self.mark.max(reader.u64().unwrap()),
            Kind::ViewOrd => {}
            other => panic!("{other:?}"),
        }
    }

    fn run(&mut self, node: u16, silent: bool, kind: Kind, body: &[u8]) {
        let mut reader = Reader::new(body, "test");
        match kind {
            Kind::WriteReq => self.write(node, silent, &mut reader),
            _ => self.transaction(node, silent, &mut reader),
        }
    }

    /// A node refuses what has waited.
    fn refuse(
        &mut self,
        node: u16,
        silent: bool,
        id: TransactionId,
        (kind, request): (Kind, u32),
        code: ErrorCode,
    ) {
        let (error, mut out) = (Error::new(code, "so"), Vec::new());
        self.open.entry(node).or_default().remove(&id);
        match kind {
            Kind::OperationRef => put_operation_ref(&mut out, request, &error),
            _ => {
                let state = TransactionState::Aborted;
                put_control(&mut out, &TransactionRef { request, state, operation: None, error });
            }
        }
        self.reply(node, silent, kind, out);
    }

    fn write(&mut self, node: u16, silent: bool, reader: &mut Reader<'_>) {
        let request = IndependentWrite::parse(reader).unwrap();
        let id = TransactionId { session: SESSION, number: request.number };
        assert!(request.commit_number > self.mark);
        if let Some(code) = self.trouble(id) {
            return self.refuse(node, silent, id, (Kind::OperationRef, request.request), code);
        }
        let mut out = Vec::new();
        let keys = keys(reader, 1);
        let epoch = self.commit(id, &keys);
        out.put_u32(request.request);
        out.put_u64(epoch.0);
        out.put(&[0, 0]);
        self.reply(node, silent, Kind::WriteConf, out);
    }

    fn transaction(&mut self, node: u16, silent: bool, reader: &mut Reader<'_>) {
        let request = TransactionReq::parse(reader).unwrap();
        let id = TransactionId { session: SESSION, number: request.number };
        let open = self.open.entry(node).or_default();
        if request.has(BEGIN) {
            assert_eq!(open.insert(id, Vec::new()), None);
        }
        let known = open.get_mut(&id).map(|known| known.extend(keys(reader, request.operations))).is_some();
        let trouble = if known { self.trouble(id) } else { Some(ErrorCode::NoSuchTransaction) };
        let (state, epoch) = if request.has(ROLLBACK) {
            (TransactionState::Aborted, Epoch(0))
        } else if let Some(code) = trouble {
            return self.refuse(node, silent, id, (Kind::TransactionRef, request.request), code);
        } else if request.has(COMMIT) {
            let keys = self.open.entry(node).or_default().remove(&id).unwrap();
            (TransactionState::Committed, self.commit(id, &keys))
        } else {
            (TransactionState::Open, Epoch(0))
        };
        if request.has(ROLLBACK) {
            self.open.entry(node).or_default().remove(&id);
        }
        let mut out = Vec::new();
        TransactionConf { request: request.request, state, epoch, results: request.operations }
            .encode(&mut out);
        (0..request.operations).for_each(|_| out.put_block(&[0, 0]));
        self.reply(node, silent, Kind::TransactionConf, out);
    }

    fn question(&mut self, node: u16, silent: bool, question: &StatusReq) {
        assert!(question.commit_number > self.mark, "it has said that it has this answer: {question:?}");
        let coordinator = question.coordinator;
        let alive = self.net.view.contains(coordinator.endpoint.node, coordinator.incarnation);
        let elsewhere = alive && coordinator.endpoint != worker(node);
        let status = match self.decided.get(&question.transaction) {
            Some(&outcome) => Status::Decided(outcome),
            None if elsewhere => Status::AskElsewhere,
            None if !self.calm && self.random.one_in(2) => Status::Pending,
            // Here the TC, or a primary who plants a refusal.
            None => {
                self.decided.insert(question.transaction, Outcome::Aborted);
                Status::Decided(Outcome::Aborted)
            }
        };
        let mut out = Vec::new();
        put_control(&mut out, &StatusConf { request: question.request, status });
        self.reply(node, silent, Kind::StatusConf, out);
    }

    /// A node loses what it has not processed; of that it may still do something, and tell nobody.
    fn lose_queue(&mut self, node: u16) {
        self.collect();
        let length = self.queues.entry(node).or_default().len() as u64;
        for _ in 0..self.random.between(0, length) {
            self.process(node, true);
        }
        self.queues.entry(node).or_default().clear();
        self.waiting.remove(&node);
        self.open.remove(&node);
    }

    fn nodes(&self) -> Vec<u16> {
        self.net.view.members.iter().map(|member| member.node.0).collect()
    }

    fn give_up(&mut self, node: u16) {
        self.lose_queue(node);
        let link = self.link(node).unwrap();
        self.net.disconnect(link);
        let reason = "given up".to_string();
        self.net.step(Input::Link(LinkInput::Refused { link, temporary: false, reason }));
    }

    fn rejoin(&mut self) {
        let Some(node) = [11, 12].into_iter().find(|node| !self.nodes().contains(node)) else { return };
        let incarnation = life(node, self.next_life);
        self.next_life += 1;
        self.net.lives.insert(NodeId(node), incarnation);
        let mut members = self.net.view.members.clone();
        members.push(member(node, incarnation, 1));
        members.sort_by_key(|member| member.node);
        self.net.see_view(members);
    }

    fn submit(&mut self) {
        let key = self.next_key;
        self.next_key += 1;
        let bytes = key.to_le_bytes();
        let at = |partition| operation(OperationKind::Write, partition, &bytes);
        let partition = self.random.below(PARTITIONS.into()) as u16;
        let deadline = Some(Duration::from_millis(self.random.between(5, 3000)));
        let options = Options { deadline, ..Options::default() };
        match self.random.below(4) {
            0 => self.net.operate(key, at(partition)),
            1 => {
                let operations = operations(&[at(partition)]);
                self.net.submit(key, Request::Independent { operations, options });
            }
            2 => {
                let reading = OperationRef {
                    lock: LockMode::None,
                    ..operation(OperationKind::Read, 7 - partition, &bytes)
                };
                let operations = operations(&[reading, at(partition)]);
                let isolation = Isolation::ReadCommitted;
                self.net.submit(key, Request::Transaction { operations, isolation, options });
            }
            _ => {
                let begin = Some(Begin::default());
                let operations = operations(&[at(partition)]);
                let statement =
                    Statement { handle: key, begin, number: 1, operations, options, ..Statement::default() };
                self.net.submit(key | INTERACTIVE, Request::Statement(statement));
            }
        }
    }

    /// Looks at what the client has answered; goes on with transactions that are open.
    fn hear(&mut self) {
        for effect in std::mem::take(&mut self.net.effects) {
            match effect {
                Effect::Replies(replies) => {
                    for (key, result) in replies.iter() {
                        self.say(key, result.map(|_| ()).map_err(Clone::clone));
                    }
                }
                Effect::Answer { token, answer: Answer::Operations(results) } => {
                    self.say(token, results.get(0).map(|_| ()).map_err(Clone::clone));
                }
                Effect::Answer { token, answer: Answer::Failed(failure) } => {
                    self.say(token & !INTERACTIVE, Err(failure))
                }
                Effect::Answer { token, answer: Answer::Statement { state, .. } } => match state {
                    TransactionState::Open => {
                        let handle = token & !INTERACTIVE;
                        let statement =
                            Statement { handle, number: 2, end: End::Commit, ..Statement::default() };
                        self.net.submit(handle, Request::Statement(statement));
                    }
                    state => {
                        assert_eq!(state, TransactionState::Committed);
                        self.say(token, Ok(()));
                    }
                },
                other => panic!("{other:?}"),
            }
        }
    }

    fn say(&mut self, key: u64, result: Result<(), Failure>) {
        let said = match result {
            Ok(()) => Said::Committed,
            Err(failure) => match failure.error.code.class() {
                ErrorClass::Unknown => Said::Pending(failure.token.expect("it says what to ask with")),
                _ => Said::NotApplied,
            },
        };
        let before = self.said.insert(key, said);
        assert!(before.is_none(), "{key} is answered twice: {before:?}");
    }

    fn act(&mut self) {
        let nodes = self.nodes();
        let node = *self.random.pick(&nodes);
        match self.random.below(60) {
            0..=19 => self.submit(),
            20..=44 => {
                self.collect();
                self.process(node, false);
            }
            45..=50 => self.net.pass(1),
            51 => {
                let millis = *self.random.pick(&[20, 100, 1000, 6000]);
                self.net.pass(millis);
            }
            52 | 53 if !self.held.is_empty() => {
                let index = self.random.below(self.held.len() as u64) as usize;
                let held = self.held.remove(index);
                self.deliver(held);
            }
            54 if nodes.len() > 1 => {
                self.lose_queue(node);
                self.net.drop_node(node);
            }
            55 => self.rejoin(),
            56 => self.give_up(node),
            57 => {
                let link = self.link(node).unwrap();
                self.net.disconnect(link);
            }
            58 if self.random.one_in(2) => {
                let handle = self.random.between(self.next_key.saturating_sub(20), self.next_key);
                self.net.step(Input::Abandon { handle });
            }
            58 => {
                let link = self.link(node).unwrap();
                if !self.net.client.links.get(link).unwrap().is_connected() {
                    self.net.connect(link);
                }
            }
            59 => self.net.epoch = self.net.epoch.next(),
            _ => {}
        }
        self.hear();
    }

    /// All faults end: everything must be answered.
    fn calm_down(&mut self) {
        self.calm = true;
        self.rejoin();
        for node in self.nodes() {
            let link = self.link(node).unwrap();
            if !self.net.client.links.get(link).unwrap().is_connected() {
                self.net.connect(link);
            }
        }
        for _ in 0..1000 {
            for held in std::mem::take(&mut self.held) {
                self.deliver(held);
            }
            self.collect();
            for node in self.nodes() {
                let is_busy = |world: &World| {
                    world.queues.get(&node).is_some_and(|queue| !queue.is_empty())
                        || world.waiting.get(&node).is_some_and(|waiting| !waiting.is_empty())
                };
                while is_busy(self) {
                    self.process(node, false);
                }
            }
            self.net.pass(1);
            self.hear();
        }
        assert!(self.net.client.is_idle(), "{:?}", self.net.client.calls);
        assert_eq!(self.net.client.session.open(), 0);
    }

    fn judge(&mut self) {
        assert_eq!(self.said.len() as u64, self.next_key - 1);
        for (key, said) in std::mem::take(&mut self.said) {
            let applied = self.applied.get(&key).copied().unwrap_or(0);
            let committed = match said {
                Said::Committed => true,
                Said::NotApplied => false,
                Said::Pending(token) => {
                    self.net.submit(key, Request::Status(token));
                    let Answer::Status(Status::Decided(outcome)) = self.net.answer() else {
                        panic!("{token:?}")
                    };
                    matches!(outcome, Outcome::Committed(_))
                }
            };
            assert_eq!(applied, u32::from(committed), "{key} was said to be {said:?}");
        }
    }
}

#[test]
fn what_it_says_is_true_whatever_goes_wrong() {
    let (mut total, mut cancelled) = (Counters::default(), 0);
    for seed in 0..300 {
        let mut world = World::new(seed);
        for _ in 0..600 {
            world.act();
        }
        world.calm_down();
        world.judge();
        let counters = world.net.client.counters();
        total.submitted += counters.submitted;
        total.asked += counters.asked;
        total.pending += counters.pending;
        total.learned += counters.learned;
        total.links_renewed += counters.links_renewed;
        cancelled += world.cancelled;
    }
    // The rare paths were taken.
    let rare = [total.asked, total.pending, total.learned, total.links_renewed];
    assert!(
        cancelled > 300 && total.submitted > 50_000 && rare.iter().all(|&n| n > 1_000),
        "{total:?}, {cancelled}"
    );
}
