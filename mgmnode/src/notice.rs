//! What a management node says in its log.

use std::fmt;

use twofold_proto::{
    error::counted,
    ids::{NodeId, ViewNumber},
    message::Life,
    view::{MemberState, View},
};

use crate::register::SystemRestart;

/// An event that people want to know of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Another leader is known, or none.
    Leader {
        /// The term.
        term: u64,
        /// Who leads.
        leader: Option<NodeId>,
    },
    /// A view was agreed on; what changed.
    View {
        /// The one before.
        before: View,
        /// The new one.
        view: View,
    },
    /// What was on disk when this node started has been read: the newest view, and how many tables there are.
    Recalled {
        /// The view.
        view: View,
        /// The tables.
        tables: usize,
    },
    /// All data nodes of a group had ended; what the cluster went back to.
    Restarted(SystemRestart),
    /// A group does not serve, and waits for a node; which, and what to do.
    GroupStopped(String),
    /// The config of the file was not taken.
    ConfigRefused(String),
    /// Data nodes know more than the register: nothing is decided; what happened, and what to do.
    RegisterLost(String),
    /// The config is now that of this node's file.
    ConfigTaken,
    /// This node has found its directory empty, and takes no part before all others have said what they have.
    EmptyDirectory {
        /// Who has not, or has lost something itself.
        awaited: Vec<NodeId>,
    },
    /// This node's directory is empty, and the other management nodes keep several logs.
    SeveralLogs,
    /// Another management node keeps another log than this one.
    OtherLog {
        /// Which node.
        node: NodeId,
    },
    /// The register was rebuilt from what the data nodes know.
    Rebuilt {
        /// Its view.
        view: ViewNumber,
        /// How many tables it has.
        tables: usize,
    },
    /// They have; it takes part once it has what it may have acknowledged before.
    CatchesUp,
    /// A life of a data node has ended.
    Gone(Life),
    /// A node was told to stop or to start anew.
    Told {
        /// Which life.
        life: Life,
        /// Why.
        reason: String,
    },
    /// A peer spoke nonsense and was cut off.
    Nonsense {
        /// Who.
        node: NodeId,
        /// What.
        what: String,
    },
}

impl Notice {
    /// Whether somebody should look at it.
    pub fn is_warning(&self) -> bool {
        match self {
            Notice::Leader { leader, .. } => leader.is_none(),
            Notice::View { before, view } => view.members.len() < before.members.len(),
            Notice::ConfigRefused(_)
            | Notice::RegisterLost(_)
            | Notice::Restarted(_)
            | Notice::GroupStopped(_)
            | Notice::EmptyDirectory { .. }
            | Notice::SeveralLogs
            | Notice::OtherLog { .. }
            | Notice::Rebuilt { .. }
            | Notice::CatchesUp
            | Notice::Told { .. }
            | Notice::Nonsense { .. }
            | Notice::Gone(_) => true,
            Notice::ConfigTaken | Notice::Recalled { .. } => false,
        }
    }
}

fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Syncing => "syncing",
        MemberState::Ready => "ready",
        MemberState::Up => "up",
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Leader { term, leader: Some(leader) } => {
                write!(f, "node {leader} leads the management nodes in term {term}")
            }
            Notice::Leader { term, leader: None } => {
                write!(f, "no leader of the management nodes is known in term {term}")
            }
            Notice::View { before, view } => view_change(f, before, view),
            Notice::Recalled { view, tables } => {
                write!(f, "the register was read: view {}, restart {}", view.number, view.restart)?;
                for member in &view.members {
                    write!(f, ", node {} is {}", member.node, state_name(member.state))?;
                }
                write!(f, ", {}", counted(*tables, "table"))
            }
            Notice::Restarted(restart) => restart.fmt(f),
            Notice::GroupStopped(what) => f.write_str(what),
            Notice::ConfigRefused(reason) => write!(f, "the config file is not taken: {reason}"),
            Notice::RegisterLost(reason) => f.write_str(reason),
            Notice::EmptyDirectory { awaited } => {
                let nodes: Vec<String> = awaited.iter().map(NodeId::to_string).collect();
                write!(
                    f,
                    "the directory of this node is empty: it takes no part before all other management nodes have said \
                     what they know; it waits for {}",
                    nodes.join(", ")
                )
            }
            Notice::SeveralLogs => f.write_str(
                "the directory of this node is empty, and the other management nodes do not keep the same register: one of \
                 them has a directory from before the register was lost; empty that one, or put this node's back",
            ),
            Notice::OtherLog { node } => write!(
                f,
                "management node {node} does not keep the same register as this one: one of the two has a directory from \
                 before the register was lost. Stop the one that has no leader, empty its directory, and start it again"
            ),
            Notice::Rebuilt { view, tables } => write!(
                f,
                "the register was rebuilt from what the data nodes know: view {view}, {}",
                counted(*tables, "table")
            ),
            Notice::CatchesUp => f.write_str(
                "the directory of this node was empty: it takes part again once it has the register as it is now",
            ),
            Notice::ConfigTaken => f.write_str("the config is now that of the file"),
            Notice::Gone(life) => write!(f, "node {} has ended", life.node),
            Notice::Told { life, reason } => write!(f, "node {} is told to stop: {reason}", life.node),
            Notice::Nonsense { node, what } => write!(f, "node {node} is cut off: {what}"),
        }
    }
}

fn view_change(f: &mut fmt::Formatter<'_>, before: &View, view: &View) -> fmt::Result {
    write!(f, "view {}", view.number)?;
    if view.members.is_empty() {
        return f.write_str(
            " has no members: all data nodes of a group have ended, and the cluster restarts from what its nodes have on disk",
        );
    }
    for member in &before.members {
        if !view.contains(member.node, member.incarnation) {
            write!(f, ", node {} is dropped", member.node)?;
        }
    }
    for member in &view.members {
        if before.state(member.node, member.incarnation) != Some(member.state) {
            write!(f, ", node {} is {}", member.node, state_name(member.state))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::view;
    use twofold_proto::ids::Epoch;

    #[test]
    fn a_view_is_told_by_what_changed() {
        let said = |before: &str, after: &str| Notice::View { before: view(before), view: view(after) };
        let notice = said("5 r1: 11a=up 12a=up 13a=ready", "6 r1: 12a=up 13a=syncing 11b=syncing");
        assert_eq!(notice.to_string(), "view 6, node 11 is dropped, node 13 is syncing, node 11 is syncing");
        assert!(!notice.is_warning());
        let notice = said("5 r1: 11a=up 12a=up", "6 r1: -");
        assert!(notice.to_string().starts_with("view 6 has no members: all") && notice.is_warning());
        let told = |epoch| Notice::Restarted(SystemRestart { at_ms: 1, restart: 3, epoch }).to_string();
        let text = told(Some(Epoch::new(2, 70)));
        assert!(text.starts_with("restart 3: the cluster went back to epoch 2.70, the last that"), "{text}");
        assert_eq!(told(None), "restart 3: the cluster began with its tables and without rows");
    }
}
