//! One management node's part in Raft: `raft::RawNode`, stepped like a machine.
//!
//! Raft's rule is that answers and votes leave only after what they promise is on disk. So each [`LogWrite`] has a
//! number, and what waits for it is kept until [`Replica::persisted`]. A leader's own messages need not wait (Raft
//! thesis, 10.2.1).

use std::collections::VecDeque;

use raft::{
    Config, RawNode, SnapshotStatus, StateRole,
    eraftpb::{ConfState, EntryType, HardState, Message, MessageType},
};
use serde::{Deserialize, Serialize};
use twofold_proto::{
    error::{Error, ErrorCode},
    ids::NodeId,
    time::Duration,
    wire::{Malformed, Reader, Writer},
};

use crate::log::{Log, LogWrite, Position, Stored, encode};

/// How often Raft's clock ticks; a leader sends heartbeats at each.
pub const TICK: Duration = Duration::from_millis(50);
/// Ticks without a leader until the first node stands for election. The next one waits [`ELECTION_TICKS_APART`]
/// longer, and so on: all different and fixed, so there is no randomness, and hardly ever a split vote.
const ELECTION_TICKS: usize = 6;
const ELECTION_TICKS_APART: usize = 2;
/// A snapshot takes the place of the entries whenever so many were applied.
pub const SNAPSHOT_EVERY: u64 = 256;
const MESSAGE_ENTRIES_BYTES: u64 = 1 << 20;
const UNCOMMITTED_BYTES: u64 = 32 << 20;
const MESSAGES_IN_FLIGHT: usize = 64;

/// What comes out of a [`Replica`].
#[derive(Default, Debug)]
pub struct Output {
    /// To other management nodes.
    pub messages: Vec<Message>,
    /// To be written in this order; [`Replica::persisted`] is called with the number once it is safe.
    pub writes: Vec<(u64, LogWrite)>,
    /// To be applied in this order.
    pub committed: Vec<Committed>,
}

/// What is agreed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Committed {
    /// The state so far, in place of what is known.
    Snapshot(Vec<u8>),
    /// A command.
    Command {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Whether it was in the log when this life began, so that it is no news.
        replayed: bool,
    },
}

/// What a voter is bound by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// Whether it has all that it ever promised. If not it says what it knows of that.
    pub voter: bool,
    /// The newest term in which it may have voted or acknowledged something.
    pub term: u64,
    /// Up to where it may have acknowledged entries.
    pub last: Position,
    /// Which log it keeps; 0 if none yet.
    pub log: u64,
}

/// What waits for a write.
#[derive(Debug)]
struct Waiting {
    write: u64,
    /// Raft's name for it.
    ready: Option<u64>,
    messages: Vec<Message>,
}

/// One of the voters.
pub struct Replica {
    /// There is nothing on disk, and nobody has said yet whether there was.
    blank: bool,
    node: RawNode<Log>,
    waiting: VecDeque<Waiting>,
    last_write: u64,
    /// Index and term of the newest entry handed out in [`Output::committed`].
    applied: (u64, u64),
    /// The index of the newest entry that this node had, or may have had, when it started.
    history: u64,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Replica {{ term {}, {:?}, applied {:?} }}",
            self.term(),
            self.node.raft.state,
            self.applied
        )
    }
}

impl Replica {
    /// Goes on with what is stored; also gives the state of the stored snapshot, if there is one.
    ///
    /// # Errors
    /// If what is stored cannot be used.
    pub fn new(id: NodeId, voters: &[NodeId], stored: &Stored) -> Result<(Replica, Option<Vec<u8>>), Error> {
        let place = voters.iter().position(|&voter| voter == id);
        let place = place.unwrap_or_else(|| panic!("{id:?} is not among the voters {voters:?}"));
        let states =
            ConfState::from((voters.iter().map(|voter| voter.0.into()).collect::<Vec<u64>>(), Vec::new()));
        let log = Log::new(states, stored).map_err(|fault| {
            Error::new(ErrorCode::Internal, format!("the register of node {id} on disk: {fault}"))
        })?;
        let blank = voters.len() > 1 && *stored == Stored::default();
        let data = log.snapshot_data().map(<[u8]>::to_vec);
        let election_tick = ELECTION_TICKS + place * ELECTION_TICKS_APART;
        let snapshot = (log.snapshot_index(), raft::Storage::term(&log, log.snapshot_index()).unwrap_or(0));
        let config = Config {
            id: id.0.into(),
            election_tick: ELECTION_TICKS,
            min_election_tick: election_tick,
            max_election_tick: election_tick + 1,
            heartbeat_tick: 1,
            applied: snapshot.0,
            max_size_per_msg: MESSAGE_ENTRIES_BYTES,
            max_inflight_msgs: MESSAGES_IN_FLIGHT,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES,
            ..Config::default()
        };
        let history = log.last_position().1.max(log.join_point().unwrap_or_default().1);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let internal = |error: raft::Error| Error::new(ErrorCode::Internal, format!("raft: {error}"));
        let mut node = RawNode::new(&config, log, &logger).map_err(internal)?;
        if voters.len() == 1 {
            // Nobody else could.
            node.campaign().map_err(internal)?;
        }
        Ok((
            Replica { blank, node, waiting: VecDeque::new(), last_write: 0, applied: snapshot, history },
            data,
        ))
    }

    /// The present term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The leader, as far as is known.
    pub fn leader(&self) -> Option<NodeId> {
        let id = self.node.raft.leader_id;
        (id != 0).then_some(NodeId(id as u16))
    }

    /// Whether this node is leader and has applied all that earlier leaders have committed.
    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.applied.1 == self.term()
    }

    /// Whether all is handed out that was in the log when this life began.
    pub fn knows_history(&self) -> bool {
        !self.blank && self.applied.0 >= self.history
    }

    /// Lets Raft's clock go on by one tick.
    pub fn tick(&mut self) {
        // Who may not vote does not stand for election.
        if self.standing().voter {
            self.node.tick();
        }
    }

    /// Whether it has nothing and waits for [`Replica::begin`].
    pub fn is_blank(&self) -> bool {
        self.blank
    }

    /// What it is bound by.
    pub fn standing(&self) -> Standing {
        let log = self.node.store();
        let last = log.last_position().max(log.join_point().unwrap_or_default());
        let voter = !self.blank && log.join_point().is_none();
        Standing { voter, term: self.term(), last, log: log.id() }
    }

    /// It has lost its disk, and all it can have promised is within this. So it votes in later terms only, and not before
    /// its log has reached as far; till then it follows who leads in such a term, or leads since then.
    pub fn begin(&mut self, promised: Standing) {
        assert!(self.blank, "{self:?} has begun");
        self.blank = false;
        if promised.term > 0 {
            // As if it had voted for itself.
            let state = HardState { term: promised.term, vote: self.node.raft.id, ..HardState::default() };
            self.node.raft.load_state(&state);
        }
        self.history = promised.last.1;
        self.node.mut_store().set_id(promised.log);
        self.node.mut_store().set_join_point(promised.last);
    }

    /// As leader: that voter has nothing any more of what it had acknowledged.
    pub fn forget_progress(&mut self, voter: NodeId) {
        let is_leader = self.node.raft.state == StateRole::Leader;
        if let Some(progress) = self.node.raft.mut_prs().get_mut(voter.0.into()).filter(|_| is_leader) {
            progress.become_probe();
            (progress.matched, progress.next_idx) = (0, 1);
        }
    }

    /// Whether a message may be taken in: what asks for no vote, if there is none to give.
    fn is_admitted(&self, message: &Message) -> bool {
        let Standing { voter, .. } = self.standing();
        let follows = match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgSnapshot => true,
            // One from before its sender knew that this log was lost tells of entries that are not there.
            MessageType::MsgHeartbeat => message.commit <= self.node.raft.raft_log.last_index(),
            _ => false,
        };
        voter || (!self.blank && follows)
    }

    /// Takes in a message from another voter. Raft itself sorts out what is old.
    pub fn receive(&mut self, message: Message) {
        // What Raft does not take (from a past configuration, or a proposal without a leader) is as if it was lost.
        if self.is_admitted(&message) {
            let _ = self.node.step(message);
        }
    }

    /// A message to this voter, maybe a snapshot, was lost.
    pub fn lost(&mut self, to: NodeId) {
        self.node.report_unreachable(to.0.into());
        self.node.report_snapshot(to.0.into(), SnapshotStatus::Failure);
    }

    /// Proposes a command; false if this node does not lead, or too much is under way.
    pub fn propose(&mut self, command: Vec<u8>) -> bool {
        self.leads() && self.node.propose(Vec::new(), command).is_ok()
    }

    /// The writes up to this one are on disk.
    pub fn persisted(&mut self, write: u64, output: &mut Output) {
        while self.waiting.front().is_some_and(|waiting| waiting.write <= write) {
            let Some(Waiting { ready, messages, .. }) = self.waiting.pop_front() else { break };
            if let Some(number) = ready {
                self.node.on_persist_ready(number);
            }
            output.messages.extend(messages);
        }
        self.advance_applied();
    }

    /// Raft counts as applied only what is on disk; a snapshot is handed out before.
    fn advance_applied(&mut self) {
        let log = &self.node.raft.raft_log;
        let index = self.applied.0.min(log.persisted).min(log.committed);
        if index > log.applied() {
            self.node.advance_apply_to(index);
        }
    }

    /// Takes out what there is to do.
    pub fn pump(&mut self, output: &mut Output) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            output.messages.extend(ready.take_messages());
            let snapshot = ready.snapshot().clone();
            if !snapshot.is_empty() {
                self.applied = (snapshot.get_metadata().index, snapshot.get_metadata().term);
                output.committed.push(Committed::Snapshot(snapshot.get_data().to_vec()));
            }
            for entry in ready.take_committed_entries() {
                self.applied = (entry.index, entry.term);
                if entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty() {
                    let replayed = entry.index <= self.history;
                    output.committed.push(Committed::Command { bytes: entry.data.to_vec(), replayed });
                }
            }
            let (number, must_sync) = (ready.number(), ready.must_sync());
            let messages = ready.take_persisted_messages();
            let write = self.node.mut_store().update(ready.hs(), &snapshot, ready.entries().clone());
            // A mere advance of the commit index need not be stored: a leader tells it again.
            if must_sync {
                self.last_write += 1;
                output.writes.push((self.last_write, write));
            }
            self.node.advance_append_async(ready);
            self.advance_applied();
            if must_sync || !self.waiting.is_empty() {
                self.waiting.push_back(Waiting { write: self.last_write, ready: Some(number), messages });
            } else {
                self.node.on_persist_ready(number);
                output.messages.extend(messages);
            }
        }
    }

    /// Puts `state()`, the state with all that was handed out applied, in the place of old entries, if there are many.
    pub fn compact(&mut self, state: impl FnOnce() -> Vec<u8>, output: &mut Output) {
        let (index, _) = self.applied;
        if index < self.node.store().snapshot_index() + SNAPSHOT_EVERY {
            return;
        }
        let write = self.node.mut_store().compact(index, state());
        self.last_write += 1;
        output.writes.push((self.last_write, write));
        self.waiting.push_back(Waiting { write: self.last_write, ready: None, messages: Vec::new() });
    }

    /// Panics if the log and what waits for it do not fit together.
    pub fn check(&self) {
        let writes = self.waiting.iter().map(|waiting| waiting.write);
        assert!(
            writes.clone().is_sorted() && writes.max().unwrap_or(0) <= self.last_write,
            "{:?}",
            self.waiting
        );
        assert!(self.applied.0 >= self.node.store().snapshot_index(), "{self:?}");
    }
}

/// A message as it travels between management nodes, after the name of the log that it is about.
pub fn encode_message(log: u64, message: &Message, out: &mut Vec<u8>) {
    out.put_u64(log);
    out.extend(encode(message));
}

/// Reads one.
///
/// # Errors
/// If it is none.
pub fn decode_message(bytes: &[u8]) -> Result<(u64, Message), Malformed> {
    let mut reader = Reader::new(bytes, "raft message");
    let log = reader.u64()?;
    let message = protobuf::Message::parse_from_bytes(reader.rest());
    Ok((log, message.map_err(|_| Malformed("raft message"))?))
}
