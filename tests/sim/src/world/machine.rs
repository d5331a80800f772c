//! The machines of all processes behind one face.

use twofold_apinode::{
    client::{self, Client},
    request::{Answer, Durability, Request, Results},
};
use twofold_datanode::{
    disk::{self, Answer as FileAnswer, Disk, Fault, Lane, Request as FileRequest, ToDisk},
    local::{FromWorker, ToWorker},
    node::{self, Node},
    worker::{self, Worker},
};
use twofold_mgmnode::{
    log::LogWrite,
    node::{self as management, AdminCommand, AdminReply, ManagementNode},
};
use twofold_proto::{
    ids::WorkerId,
    links::{LinkEffect, LinkInput, Linked, Links},
    machine::Machine,
    operation::OperationRef,
    time::Time,
    wire::Reader,
};

use super::angel::Angel;

/// A machine.
#[derive(Debug)]
pub enum Actor {
    /// Of a data node: membership.
    Node(Box<Node>),
    /// Of a data node: one of its threads.
    Worker(Box<Worker>),
    /// A management node's.
    Management(Box<ManagementNode>),
    /// A client's.
    Client(Box<Client>),
    /// Of a data node's angel, while it has something to tell.
    Angel(Box<Angel>),
    /// Of a data node: redo and checkpoints. It has no links.
    Disk(Box<Disk>, Box<Links>),
}

/// What comes to a machine other than over links.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    /// To a worker from its node.
    ToWorker(ToWorker),
    /// To a node from its worker.
    FromWorker(FromWorker),
    /// To a disk from its node or a worker.
    ToDisk(ToDisk),
    /// To a node from its disk.
    FromDisk(disk::Word),
    /// To a disk: the oldest request of a lane was carried out.
    File(Lane, Result<FileAnswer, Fault>),
    /// To a node: the wall clock.
    WallClock(u64),
    /// To a node or a client: end in order.
    Stop,
    /// To a management node: this write is on disk.
    Persisted(u64),
    /// To a management node, from the operator.
    Administrate(AdminCommand),
    /// To a client.
    Submit(u64, Box<Request>),
    /// To a client: nobody waits for the transaction of this handle any more.
    Abandon(u64),
    /// To a client: one encoded operation.
    Operation(u64, Vec<u8>),
}

/// What happens to a machine.
#[derive(Debug)]
pub enum Input<'a> {
    /// To a link.
    Link(LinkInput<'a>),
    /// Else.
    Message(Message),
    /// Its time has come.
    Timer,
}

/// What a machine wants.
#[derive(Debug)]
pub enum Effect {
    /// Of its links.
    Link(LinkEffect),
    /// Of a node: tell a worker.
    ToWorker(WorkerId, ToWorker),
    /// Of a worker: tell the node.
    FromWorker(FromWorker),
    /// Of a node or a worker: tell the disk.
    ToDisk(ToDisk),
    /// Of a disk: tell the node.
    FromDisk(disk::Word),
    /// Of a disk.
    File(Lane, FileRequest),
    /// Of a node: end the process.
    Exit {
        /// Whether to start it again.
        restart: bool,
        /// Why.
        reason: String,
    },
    /// Of a management node: write, then say so.
    Persist(u64, LogWrite),
    /// Of a management node: to the operator.
    Administered(AdminReply),
    /// Of a client.
    Answer(u64, Answer),
    /// For people.
    Note(String),
}

impl Actor {
    /// Steps it.
    pub fn step(&mut self, now: Time, input: Input<'_>, effects: &mut Vec<Effect>) {
        match self {
            Actor::Node(machine) => {
                let mut wanted = Vec::new();
                let input = match input {
                    Input::Link(input) => node::Input::Link(input),
                    Input::Timer => node::Input::Timer,
                    Input::Message(Message::FromWorker(word)) => node::Input::Worker(word),
                    Input::Message(Message::FromDisk(word)) => node::Input::Disk(word),
                    Input::Message(Message::WallClock(millis)) => node::Input::WallClock(millis),
                    Input::Message(Message::Stop) => node::Input::Stop { graceful: true },
                    Input::Message(other) => panic!("{other:?} is not for a node"),
                };
                machine.step(now, input, &mut wanted);
                effects.extend(wanted.into_iter().map(of_node));
            }
            Actor::Worker(machine) => {
                let mut wanted = Vec::new();
                let input = match input {
                    Input::Link(input) => worker::Input::Link(input),
                    Input::Timer => worker::Input::Timer,
                    Input::Message(Message::ToWorker(word)) => worker::Input::Node(word),
                    Input::Message(other) => panic!("{other:?} is not for a worker"),
                };
                machine.step(now, input, &mut wanted);
                effects.extend(wanted.into_iter().map(of_worker));
            }
            Actor::Management(machine) => {
                let mut wanted = Vec::new();
                let input = match input {
                    Input::Link(input) => management::Input::Link(input),
                    Input::Timer => management::Input::Timer,
                    Input::Message(Message::Persisted(id)) => management::Input::Persisted { id },
                    Input::Message(Message::Administrate(command)) => {
                        management::Input::Admin { request: 0, command }
                    }
                    Input::Message(other) => panic!("{other:?} is not for a management node"),
                };
                machine.step(now, input, &mut wanted);
                effects.extend(wanted.into_iter().map(of_management));
            }
            Actor::Client(machine) => {
                let mut wanted = Vec::new();
                step_client(machine, now, input, &mut wanted);
                wanted.into_iter().for_each(|effect| of_client(effect, effects));
            }
            Actor::Disk(machine, _) => {
                let mut wanted = Vec::new();
                let input = match input {
                    Input::Timer => disk::Input::Timer,
                    Input::Message(Message::ToDisk(message)) => disk::Input::Local(message),
                    Input::Message(Message::File(lane, result)) => disk::Input::Io(lane, result),
                    other => panic!("{other:?} is not for a disk"),
                };
                machine.step(now, input, &mut wanted);
                effects.extend(wanted.into_iter().map(of_disk));
            }
            Actor::Angel(machine) => {
                let mut wanted = Vec::new();
                let input = match input {
                    Input::Link(input) => Some(input),
                    Input::Timer => None,
                    Input::Message(other) => panic!("{other:?} is not for an angel"),
                };
                machine.step(now, input, &mut wanted);
                effects.extend(wanted.into_iter().map(Effect::Link));
            }
        }
    }

    /// Ends its turn.
    pub fn end_turn(&mut self, now: Time, effects: &mut Vec<Effect>) {
        match self {
            Actor::Node(machine) => {
                let mut wanted = Vec::new();
                machine.end_turn(now, &mut wanted);
                effects.extend(wanted.into_iter().map(of_node));
            }
            Actor::Worker(machine) => {
                let mut wanted = Vec::new();
                machine.end_turn(now, &mut wanted);
                effects.extend(wanted.into_iter().map(of_worker));
            }
            Actor::Management(machine) => {
                let mut wanted = Vec::new();
                machine.end_turn(now, &mut wanted);
                effects.extend(wanted.into_iter().map(of_management));
            }
            Actor::Client(machine) => {
                let mut wanted = Vec::new();
                machine.end_turn(now, &mut wanted);
                wanted.into_iter().for_each(|effect| of_client(effect, effects));
            }
            Actor::Angel(machine) => machine.end_turn(now, &mut Vec::new()),
            Actor::Disk(..) => {}
        }
    }

    /// When it wants to be stepped, by its own clock.
    pub fn next_timeout(&self) -> Option<Time> {
        match self {
            Actor::Node(machine) => machine.next_timeout(),
            Actor::Worker(machine) => machine.next_timeout(),
            Actor::Management(machine) => machine.next_timeout(),
            Actor::Client(machine) => machine.next_timeout(),
            Actor::Angel(machine) => machine.next_timeout(),
            Actor::Disk(machine, _) => machine.next_timeout(),
        }
    }

    /// Panics if it is broken.
    pub fn check(&self) {
        match self {
            Actor::Node(machine) => machine.check(),
            Actor::Worker(machine) => machine.check(),
            Actor::Management(machine) => machine.check(),
            Actor::Client(machine) => machine.check(),
            Actor::Angel(machine) => machine.check(),
            Actor::Disk(machine, _) => machine.check(),
        }
    }

    /// Its links.
    pub fn links(&mut self) -> &mut Links {
        match self {
            Actor::Node(machine) => machine.links(),
            Actor::Worker(machine) => machine.links(),
            Actor::Management(machine) => machine.links(),
            Actor::Client(machine) => machine.links(),
            Actor::Angel(machine) => machine.links(),
            Actor::Disk(_, links) => links,
        }
    }
}

fn of_node(effect: node::Effect) -> Effect {
    match effect {
        node::Effect::Link(effect) => Effect::Link(effect),
        node::Effect::Worker { worker, message } => Effect::ToWorker(worker, message),
        node::Effect::Exit { restart, reason, .. } => Effect::Exit { restart, reason },
        node::Effect::Event(event) => Effect::Note(event.to_string()),
        node::Effect::Disk(message) => Effect::ToDisk(message),
    }
}

fn of_worker(effect: worker::Effect) -> Effect {
    match effect {
        worker::Effect::Link(effect) => Effect::Link(effect),
        worker::Effect::Node(word) => Effect::FromWorker(word),
        worker::Effect::Disk(message) => Effect::ToDisk(message),
    }
}

fn of_disk(effect: disk::Effect) -> Effect {
    match effect {
        disk::Effect::Io(lane, request) => Effect::File(lane, request),
        disk::Effect::Worker(worker, message) => Effect::ToWorker(worker, ToWorker::Disk(message)),
        disk::Effect::Node(word) => Effect::FromDisk(word),
    }
}

fn of_management(effect: management::Effect) -> Effect {
    match effect {
        management::Effect::Link(effect) => Effect::Link(effect),
        management::Effect::Persist { id, write } => Effect::Persist(id, write),
        management::Effect::Notice(notice) => Effect::Note(notice.to_string()),
        management::Effect::Admin { reply, .. } => Effect::Administered(reply),
    }
}

fn step_client(machine: &mut Client, now: Time, input: Input<'_>, wanted: &mut Vec<client::Effect>) {
    let bytes;
    let input = match input {
        Input::Link(input) => client::Input::Link(input),
        Input::Timer => client::Input::Timer,
        Input::Message(Message::Submit(token, request)) => client::Input::Submit { token, request: *request },
        Input::Message(Message::Operation(token, encoded)) => {
            bytes = encoded;
            let operation = OperationRef::parse(&mut Reader::new(&bytes, "operation"));
            {
                let operation = operation.expect("workloads encode operations");
                client::Input::Operation { token, durability: Durability::Memory, operation }
            }
        }
        Input::Message(Message::Abandon(handle)) => client::Input::Abandon { handle },
        Input::Message(Message::Stop) => client::Input::Stop,
        Input::Message(other) => panic!("{other:?} is not for a client"),
    };
    machine.step(now, input, wanted);
}

fn of_client(effect: client::Effect, effects: &mut Vec<Effect>) {
    match effect {
        client::Effect::Link(effect) => effects.push(Effect::Link(effect)),
        client::Effect::Answer { token, answer } => effects.push(Effect::Answer(token, answer)),
        client::Effect::Replies(replies) => {
            for (token, result) in replies.iter() {
                let mut results = Results::new(1);
                match result {
                    Ok(bytes) => results.set(0, bytes),
                    Err(failure) => results.fail(0, failure.clone()),
                }
                effects.push(Effect::Answer(token, Answer::Operations(results)));
            }
        }
        client::Effect::Config(_)
        | client::Effect::Catalog(_)
        | client::Effect::Serves(_)
        | client::Effect::Ended => {}
    }
}
