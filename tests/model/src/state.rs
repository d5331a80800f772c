//! The state of the whole: the register, all workers, the client, and what is on the links.

use crate::config::{Config, Member, Partition, Party, REPLICAS, View};

/// What a replica has of the transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Record {
    /// Nothing.
    #[default]
    None,
    /// Operations and locks, not prepared: at a primary only.
    Operations,
    /// An open write set.
    Prepared,
    /// A planted refusal, or the order to drop the write set, which is the same.
    Refused,
    /// The decision.
    Committed,
    /// The decision.
    Aborted,
    /// The outcome is forgotten; the rows are as it left them. Whether it was committed.
    Forgotten(bool),
}

impl Record {
    /// A write set without a decision.
    pub fn is_open(self) -> bool {
        matches!(self, Record::Prepared | Record::Refused)
    }

    /// The decision, as far as it is remembered.
    pub fn is_decided(self) -> bool {
        matches!(self, Record::Committed | Record::Aborted)
    }

    /// Whether the rows are there, pending or current.
    pub fn has_rows(self) -> bool {
        matches!(self, Record::Prepared | Record::Committed | Record::Forgotten(true))
    }

    /// The decision as a record.
    pub fn decision(commit: bool) -> Record {
        if commit { Record::Committed } else { Record::Aborted }
    }
}

/// What a worker is for its partition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Role {
    /// Not the primary under its view.
    #[default]
    Backup,
    /// The primary, not serving yet.
    Reconciling,
    /// The primary; it serves while it has its lease.
    Primary,
}

/// What a primary knows of another replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Peer {
    /// How many frames of the partition's stream it has not acknowledged. They are numbered from 1.
    pub sent: u8,
    /// Which of them holds the newest record; 0 if it has that.
    pub need: u8,
    /// Its record, as it reported to the new primary.
    pub heard: Option<Record>,
    /// It waits for a copy.
    pub copy: bool,
}

/// A worker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct WorkerState {
    /// The newest view that it has adopted.
    pub view: u8,
    /// What its replica has.
    pub record: Record,
    /// What it is for its partition.
    pub role: Role,
    /// The view under which its partition's primary changed last.
    pub since: u8,
    /// Syncing: it has its copy.
    pub copied: bool,
    /// The other replicas, by rank.
    pub peers: [Peer; REPLICAS],
    /// The TC waits for the answer to Prepare.
    pub prepare: bool,
    /// The TC waits for the answer to this decision.
    pub decide: Option<bool>,
    /// Who waits to hear what it knows: the other participant in doubt.
    pub asked_by: Option<Party>,
    /// The client waits to hear what it knows.
    pub client_asks: bool,
    /// In doubt: who was asked.
    pub asked: Option<Party>,
    /// In doubt: the other participant is prepared.
    pub other_prepared: bool,
}

/// The transaction at its TC.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Coordinator {
    /// It has yet to come, whole: operations and commit in one request.
    Coming,
    /// The same; another session was told that the TC has nothing of it, so it is refused when it comes.
    Refusing,
    /// The operations are done and the client has asked for the commit.
    Executing,
    /// Prepare was sent. Who has confirmed, a bit each.
    Preparing(u8),
    /// Commit or abort, and who has confirmed that.
    Decided(bool, u8),
    /// Forgotten.
    Done,
}

/// The client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    /// The newest view that it knows.
    pub view: u8,
    /// The partition whose primary it has asked.
    pub asked: Option<Partition>,
    /// The outcome.
    pub knows: Option<bool>,
}

/// Another session, which asks what became of the transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stranger {
    /// It may ask the TC.
    Curious,
    /// The TC had nothing of the transaction: it asks the primary of a participant.
    Disowned,
    /// It was answered.
    Answered,
}

/// A message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// TC to primary.
    PrepareReq,
    /// Primary to TC.
    PrepareConf(Partition),
    /// Primary to TC.
    PrepareRef(Partition),
    /// TC to primary: commit or abort.
    DecideReq(bool),
    /// Primary to TC.
    DecideConf(Partition),
    /// Primary to replica, with its number: a write set, a planted refusal or a drop, a decision.
    Stream(Record, u8),
    /// Primary to syncing replica, with its number.
    Copy(Record, u8),
    /// Syncing replica to primary.
    CopyReq,
    /// The link's acknowledgement of a frame.
    Acknowledge(u8),
    /// Replica to new primary.
    ReplicaState(Record),
    /// Primary in doubt to the primary of the other participant.
    OutcomeReq,
    /// The answer: prepared, committed or aborted.
    OutcomeConf(Record),
    /// Client to primary.
    StatusReq,
    /// The answer.
    StatusConf(bool),
}

/// A message on a link. Frames of a link are in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Frame {
    /// Sender.
    pub from: Party,
    /// Receiver.
    pub to: Party,
    /// The sender's view.
    pub view: u8,
    /// What it says.
    pub message: Message,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The register.
    pub views: Vec<View>,
    /// By [`Config::workers`].
    pub workers: Vec<WorkerState>,
    /// The transaction at its TC.
    pub coordinator: Coordinator,
    /// For each participant, the view from which on its primary's confirmations count.
    pub confirmed_since: [u8; 2],
    /// The client.
    pub client: Client,
    /// Another session, if there is one.
    pub stranger: Option<Stranger>,
    /// By sender and receiver, then in order.
    pub links: Vec<Frame>,
    /// Nodes that have no lease any more, a bit each.
    pub fenced: u8,
    /// What the TC has told the client, or would have.
    pub said: Option<bool>,
    /// Someone decided so, or told the client so: [committed, aborted].
    pub seen: [bool; 2],
    /// The TC, the other participant or the client were told that this participant is prepared.
    pub promised: [bool; 2],
    /// They were told that it will never be.
    pub refused: [bool; 2],
    /// A worker met what can't be.
    pub contradiction: bool,
}

impl State {
    /// The transaction's operations are done, or have yet to come; nothing is prepared.
    pub fn first(config: &Config) -> State {
        let worker = |party| {
            let mut worker = WorkerState::default();
            if config
                .partition(party)
                .is_some_and(|partition| config.primary(&config.first, partition) == party)
            {
                worker.role = Role::Primary;
                worker.record = if config.questioned { Record::None } else { Record::Operations };
            }
            worker
        };
        let mut state = State {
            views: vec![config.first],
            workers: (0..config.client()).map(worker).collect(),
            coordinator: if config.questioned { Coordinator::Coming } else { Coordinator::Executing },
            confirmed_since: [0; 2],
            client: Client { view: 0, asked: None, knows: None },
            stranger: config.questioned.then_some(Stranger::Curious),
            links: Vec::new(),
            fenced: 0,
            said: None,
            seen: [false; 2],
            promised: [false; 2],
            refused: [false; 2],
            contradiction: false,
        };
        for party in 0..config.client() {
            if config.member(&config.first, party) == Member::Syncing {
                let partition = config.partition(party).expect("only replicas start as syncing");
                let to = config.primary(&config.first, partition);
                state.push(Frame { from: party, to, view: 0, message: Message::CopyReq });
            }
        }
        state
    }

    /// A worker.
    pub fn at(&self, party: Party) -> &WorkerState {
        &self.workers[usize::from(party)]
    }

    /// A worker.
    pub fn at_mut(&mut self, party: Party) -> &mut WorkerState {
        &mut self.workers[usize::from(party)]
    }

    /// The number of the view that a party has adopted.
    pub fn view_number(&self, party: Party) -> u8 {
        self.workers.get(usize::from(party)).map_or(self.client.view, |worker| worker.view)
    }

    /// The view that a party has adopted.
    pub fn view(&self, party: Party) -> &View {
        &self.views[usize::from(self.view_number(party))]
    }

    /// The newest view of the register.
    pub fn newest(&self) -> &View {
        self.views.last().expect("there is a first view")
    }

    /// Whether a worker runs although the newest view is without its node.
    pub fn is_deposed(&self, config: &Config, party: Party) -> bool {
        config.member(self.newest(), party) == Member::Out
    }

    /// Whether a worker answers reads of its partition.
    pub fn serves(&self, config: &Config, party: Party) -> bool {
        let worker = self.at(party);
        worker.role == Role::Primary && !self.is_fenced(config, party)
    }

    /// Whether a worker's node has no lease.
    pub fn is_fenced(&self, config: &Config, party: Party) -> bool {
        config.node(party).is_some_and(|node| self.fenced & 1 << node != 0)
    }

    /// Puts a frame at the end of its link.
    pub fn push(&mut self, frame: Frame) {
        let at = self.links.partition_point(|other| (other.from, other.to) <= (frame.from, frame.to));
        self.links.insert(at, frame);
    }

    /// Takes the first frame of a link.
    pub fn pop(&mut self, from: Party, to: Party) -> Option<Frame> {
        let at = self.links.iter().position(|frame| (frame.from, frame.to) == (from, to))?;
        Some(self.links.remove(at))
    }
}
