//! What a node has to say to people.

use std::fmt;

use twofold_proto::{
    ids::{Endpoint, NodeId, ViewNumber, WorkerId},
    message::Life,
    view::MemberState,
};

/// Something that belongs in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A view is adopted.
    Adopted {
        /// Its number.
        view: ViewNumber,
        /// How many members it has.
        members: usize,
        /// What this node is in it.
        state: Option<MemberState>,
    },
    /// A life is fenced that a view dropped.
    Fenced(Life),
    /// The lease is gained, after there was none.
    Serves,
    /// The lease is taken back.
    StopsServing,
    /// A peer sent what makes no sense; the connection is closed.
    Malformed {
        /// Who.
        peer: Endpoint,
        /// What was being read.
        what: &'static str,
    },
    /// The management nodes publish another config than the one that this process started with.
    ConfigDiffers,
    /// A worker does not answer; the node falls silent.
    Hangs {
        /// Which.
        worker: WorkerId,
    },
    /// This life has reported for a while, and is in no view.
    Waits {
        /// The newest view that it knows.
        view: ViewNumber,
        /// Who is `up` there in its group: they have the rows that it needs.
        up: Vec<NodeId>,
    },
    /// What stands on disk is of no use.
    Damaged(String),
    /// Nothing can be written.
    DiskFailed(String),
    /// The node waits for a view without it.
    Leaves {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Adopted { view, members, state } => {
                write!(f, "view {} with {members} members; this node is ", view)?;
                match state {
                    Some(MemberState::Syncing) => write!(f, "syncing"),
                    Some(MemberState::Ready) => write!(f, "ready"),
                    Some(MemberState::Up) => write!(f, "up"),
                    None => write!(f, "not in it"),
                }
            }
            Event::Fenced(life) => {
                write!(f, "node {} can serve no more: its former life is fenced", life.node)
            }
            Event::Serves => write!(f, "this node serves"),
            Event::StopsServing => write!(f, "this node serves no more"),
            Event::Malformed { peer, what } => {
                write!(f, "{peer} sent a malformed {what}: connection closed")
            }
            Event::ConfigDiffers => {
                write!(f, "the config has changed: restart this node, and it takes effect here")
            }
            Event::Hangs { worker } => {
                write!(f, "worker {worker} does not answer: this node sends no heartbeats")
            }
            Event::Waits { view, up } if up.is_empty() => {
                write!(f, "this node waits for the other data nodes: there is no view after view {view} yet")
            }
            Event::Waits { view, up } => {
                let nodes: Vec<String> = up.iter().map(NodeId::to_string).collect();
                write!(
                    f,
                    "this node waits to be let in: in view {view} it is node {} that has the rows of its group; start it if \
                     it does not run; `twofold show` says more",
                    nodes.join(" and node ")
                )
            }
            Event::Damaged(text) => {
                write!(f, "{text}; nothing of what is on disk is used, and all is copied from the buddies")
            }
            Event::DiskFailed(text) => write!(f, "nothing can be written to disk: {text}"),
            Event::Leaves { reason } => write!(f, "this node leaves: {reason}"),
        }
    }
}
