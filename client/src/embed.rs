//! For programs that are nothing but a client, such as a benchmark: threads with a client each, and a workload that feeds
//! on its answers.
//!
//! The workload lives inside the machine, not in tasks beside it: answers that come in one turn are counted, what is
//! asked next is encoded, and it leaves in the same turn's frames, without a wake-up and without a queue between.

use std::{
    collections::BTreeMap,
    io, mem,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use twofold_apinode::{
    client::{self, Client},
    request::{Answer, Durability, Failure, Request},
};
use twofold_proto::{
    config::ClusterConfig,
    error::{Error, ErrorCode},
    ids::{Endpoint, NodeId, WorkerId},
    links::{LinkEffect, LinkInput, Linked, Links},
    machine::Machine,
    message::Catalog,
    operation::OperationRef,
    time::Time,
};
use twofold_runtime::{Directory, Driver, Mailbox, Metrics, Owner};

use crate::find::{Found, publish, setup};

/// What a program does in a thread.
pub trait Workload {
    /// What the main thread tells it.
    type Message: Send + 'static;

    /// The main thread says something.
    fn message(&mut self, now: Time, message: Self::Message);

    /// An operation was answered.
    fn reply(&mut self, now: Time, token: u64, result: Result<&[u8], &Failure>);

    /// The answers of this turn are in: submits what comes next, each under a token of its own choice. `retried`: what was
    /// tried again so far, by error.
    fn turn(&mut self, now: Time, retried: &BTreeMap<ErrorCode, u64>) -> Turn;

    /// Submits, after [`Turn::Submit`].
    fn submit(&mut self, now: Time, submit: &mut impl FnMut(u64, OperationRef<'_>));

    /// When what it submits counts as done.
    fn durability(&self) -> Durability {
        Durability::Memory
    }

    /// When it wants a turn, whatever else happens.
    fn due(&self) -> Option<Time>;
}

/// Whether a workload has something to submit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It waits.
    Wait,
    /// It has.
    Submit,
}

/// What the main thread says to a thread with a client.
#[derive(Debug)]
pub enum Say<M> {
    /// To its workload.
    Workload(M),
    /// Run a request, and send the answer.
    Request(Request, Sender<Answer>),
    /// Send the catalog once the cluster is known and the catalog has this version.
    Await(u64, Sender<Arc<Catalog>>),
    /// End the session.
    Stop,
}

/// What happens to the machine.
#[derive(Debug)]
pub enum Input<'a, M> {
    /// To one of its links.
    Link(LinkInput<'a>),
    /// The main thread says something.
    Say(Say<M>),
    /// The time it asked for has come.
    Timer,
}

/// What the machine wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// About its links.
    Link(LinkEffect),
    /// The nodes listen where this config says.
    Config(Arc<ClusterConfig>),
}

/// The machine. See the module.
#[derive(Debug)]
pub struct Load<W> {
    client: Client,
    workload: W,
    /// Of the client; reused.
    effects: Vec<client::Effect>,
    requests: Vec<(u64, Sender<Answer>)>,
    next_request: u64,
    awaited: Vec<(u64, Sender<Arc<Catalog>>)>,
}

impl<W: Workload> Load<W> {
    /// A client with this workload in it.
    pub fn new(client: Client, workload: W) -> Load<W> {
        Load {
            client,
            workload,
            effects: Vec::new(),
            requests: Vec::new(),
            next_request: 0,
            awaited: Vec::new(),
        }
    }

    /// Sorts what the client wants done.
    fn settle(&mut self, now: Time, effects: &mut Vec<Effect>) {
        for effect in self.effects.drain(..) {
            match effect {
                client::Effect::Link(effect) => effects.push(Effect::Link(effect)),
                client::Effect::Config(config) => effects.push(Effect::Config(config)),
                client::Effect::Replies(replies) => {
                    for (token, result) in replies.iter() {
                        self.workload.reply(now, token, result);
                    }
                }
                client::Effect::Answer { token, answer } => {
                    let place = self.requests.iter().position(|(request, _)| *request == token);
                    let place =
                        place.unwrap_or_else(|| panic!("request {token} is answered twice: {answer:?}"));
                    // Who does not wait for it any more needs no answer.
                    let _ = self.requests.swap_remove(place).1.send(answer);
                }
                client::Effect::Catalog(_) | client::Effect::Serves(_) | client::Effect::Ended => {}
            }
        }
        if !self.awaited.is_empty() && self.client.is_ready() {
            let catalog = self.client.catalog();
            for (_, sender) in self.awaited.extract_if(.., |(version, _)| *version <= catalog.version) {
                let _ = sender.send(catalog.clone());
            }
        }
    }
}

impl<W: Workload> Machine for Load<W> {
    type Input<'a> = Input<'a, W::Message>;
    type Effect = Effect;

    fn step(&mut self, now: Time, input: Self::Input<'_>, effects: &mut Vec<Effect>) {
        let input = match input {
            Input::Link(input) => client::Input::Link(input),
            Input::Timer => client::Input::Timer,
            Input::Say(Say::Workload(message)) => return self.workload.message(now, message),
            Input::Say(Say::Stop) => client::Input::Stop,
            Input::Say(Say::Request(request, sender)) => {
                let token = self.next_request;
                self.next_request += 1;
                self.requests.push((token, sender));
                client::Input::Submit { token, request }
            }
            Input::Say(Say::Await(version, sender)) => {
                self.awaited.push((version, sender));
                return self.settle(now, effects);
            }
        };
        self.client.step(now, input, &mut self.effects);
        self.settle(now, effects);
    }

    fn next_timeout(&self) -> Option<Time> {
        [self.client.next_timeout(), self.workload.due()].into_iter().flatten().min()
    }

    fn check(&self) {
        self.client.check();
    }
}

impl<W: Workload> Linked for Load<W> {
    fn link_input(input: LinkInput<'_>) -> Self::Input<'_> {
        Input::Link(input)
    }

    fn link_effect(effect: Effect) -> Result<LinkEffect, Effect> {
        match effect {
            Effect::Link(effect) => Ok(effect),
            other => Err(other),
        }
    }

    fn links(&mut self) -> &mut Links {
        self.client.links()
    }

    fn end_turn(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if self.workload.turn(now, self.client.retried()) == Turn::Submit {
            let Load { client, workload, effects: of_client, .. } = self;
            let durability = workload.durability();
            workload.submit(now, &mut |token, operation| {
                client.step(now, client::Input::Operation { token, durability, operation }, of_client);
            });
        }
        let mut of_client = mem::take(&mut self.effects);
        self.client.end_turn(now, &mut of_client);
        self.effects = of_client;
        self.settle(now, effects);
    }
}

/// Starts a thread with a client and the workload that `make` makes in it. `number` is the thread's own among those of this
/// process, `patience` how long it may take to know the cluster.
///
/// # Errors
/// If the system has no thread for it.
pub fn start<W: Workload + 'static>(
    found: &Found,
    number: u16,
    patience: Duration,
    make: impl FnOnce() -> W + Send + 'static,
) -> io::Result<Thread<W::Message>> {
    let mailbox = Mailbox::new();
    let setup = setup(Endpoint::new(NodeId(0), WorkerId(number)), &found.config);
    let name = format!("client{number}");
    let (directory, metrics, own) = (found.directory.clone(), Metrics::new().driver(&name), mailbox.clone());
    let run = move || {
        let owner = DirectoryOwner { directory: directory.clone() };
        let machine = Load::new(Client::new(setup), make());
        Driver::<_, DirectoryOwner>::new(machine, owner, own, directory, metrics).run()
    };
    let ended = twofold_runtime::thread::spawn(&name, run)?;
    Ok(Thread { mailbox, patience, ended: Some(ended) })
}

/// A thread with a client. Dropping it ends the client's session, and waits until the thread has ended.
#[derive(Debug)]
pub struct Thread<M> {
    mailbox: Mailbox<Say<M>>,
    patience: Duration,
    ended: Option<JoinHandle<io::Result<()>>>,
}

impl<M> Drop for Thread<M> {
    fn drop(&mut self) {
        // A thread that has panicked has said so.
        let _ = self.mailbox.send(Say::Stop);
        self.mailbox.stop();
        let _ = self.ended.take().map(JoinHandle::join);
    }
}

impl<M> Thread<M> {
    /// Tells the workload something.
    ///
    /// # Panics
    /// If the thread has panicked; as all that is asked of it.
    pub fn tell(&self, message: M) {
        self.say(Say::Workload(message));
    }

    fn say(&self, say: Say<M>) {
        if self.mailbox.send(say).is_err() {
            panic!("the thread of a client has ended");
        }
    }

    /// Waits until the client knows the cluster, and this version of its catalog.
    ///
    /// # Errors
    /// [`ErrorCode::NotServing`] if that takes too long.
    pub fn catalog(&self, version: u64) -> Result<Arc<Catalog>, Error> {
        let (sender, receiver) = channel();
        self.say(Say::Await(version, sender));
        receive(&receiver, self.patience, "view or catalog")
    }

    /// Runs a request beside the workload, and waits for its answer.
    ///
    /// # Errors
    /// [`ErrorCode::NotServing`] if there is none for `patience`.
    pub fn request(&self, request: Request, patience: Duration) -> Result<Answer, Error> {
        let (sender, receiver) = channel();
        self.say(Say::Request(request, sender));
        receive(&receiver, patience, "answer")
    }
}

fn receive<T>(receiver: &Receiver<T>, patience: Duration, what: &str) -> Result<T, Error> {
    receiver.recv_timeout(patience).map_err(|error| match error {
        RecvTimeoutError::Timeout => {
            let text = format!("the cluster has given no {what} for {} s", patience.as_secs_f64());
            Error::new(ErrorCode::NotServing, text)
        }
        RecvTimeoutError::Disconnected => panic!("the thread of a client has ended"),
    })
}

struct DirectoryOwner {
    directory: Directory,
}

impl<W: Workload> Owner<Load<W>> for DirectoryOwner {
    type Message = Say<W::Message>;

    fn input(message: Self::Message) -> Input<'static, W::Message> {
        Input::Say(message)
    }

    fn timer() -> Input<'static, W::Message> {
        Input::Timer
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Config(config) => publish(&config, &self.directory),
            Effect::Link(effect) => unreachable!("the driver carries out {effect:?}"),
        }
    }
}
