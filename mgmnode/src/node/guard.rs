//! What a leader does when data nodes know more than its register: nothing.
//!
//! Views and catalogs reach data nodes only after they were agreed on, and a leader knows all that was. So a report that
//! names a later view or catalog shows that the register was lost: its directory is empty or an old copy, or a majority
//! of the directories are. Views and ids of tables that it gave out now would be others than those that are in use.

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::ViewNumber,
    message::{Life, ReportOrd},
    time::{Duration, Time},
};

use super::{Effect, ManagementNode};
use crate::notice::Notice;

/// After this it is the register that is behind. Before it this node may be one that leads no more and does not know
/// yet; Raft tells it sooner.
pub(super) const CERTAIN: Duration = Duration::from_secs(2);

/// Since when the register has been known to be behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Behind {
    since: Time,
    told: bool,
}

/// The newest view and catalog that it tells of: adopted, or on disk.
fn known(report: &ReportOrd) -> (ViewNumber, u64) {
    let disk = report.restorable.unwrap_or_default();
    (report.view.max(disk.view), report.catalog.max(disk.catalog))
}

impl ManagementNode {
    /// As leader: the report that names the newest view, if one names a later view or catalog than the register has.
    fn ahead(&self) -> Option<&ReportOrd> {
        self.leading?;
        let (view, catalog) = (self.register.view().number, self.register.catalog().version);
        let reports = self.reporters.iter().filter(|(life, _)| !self.gone.contains_key(life));
        reports
            .map(|(_, reporter)| &reporter.report)
            .filter(|report| known(report).0 > view || known(report).1 > catalog)
            .max_by_key(|report| known(report))
    }

    /// Whether this node leads and may not decide.
    pub(super) fn is_behind(&self) -> bool {
        self.ahead().is_some()
    }

    /// Says so in the log, once it is certain.
    pub(super) fn note_behind(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if !self.is_behind() {
            self.behind = None;
            return;
        }
        let behind = self.behind.get_or_insert(Behind { since: now, told: false });
        if now.since(behind.since) >= CERTAIN && !std::mem::replace(&mut behind.told, true) {
            let error = self.loss(now).expect("it is certain");
            effects.push(Effect::Notice(Notice::RegisterLost(error.to_string())));
        }
    }

    /// What people are told when the register is certain to be behind.
    pub(super) fn loss(&self, now: Time) -> Option<Error> {
        let report = self.ahead()?;
        let certain = self.behind.is_some_and(|behind| now.since(behind.since) >= CERTAIN);
        certain.then(|| {
            let (view, catalog) = known(report);
            let text = format!(
                "the management nodes have lost their register: node {} knows view {view} and catalog {catalog}, the \
                 register ends with view {} and catalog {}; the data nodes serve on, no view and no table can change",
                report.life.node,
                self.register.view().number,
                self.register.catalog().version
            );
            Error::new(ErrorCode::RegisterLost, text)
        })
    }

    /// Why this leader cannot take a change now: the register is behind; or there is no view, or a member that is `up`
    /// has not reported yet, so it might be.
    pub(super) fn objection_to_change(&self, now: Time) -> Option<Error> {
        if let Some(error) = self.loss(now) {
            return Some(error);
        }
        let not_yet = |text: String| Some(Error::new(ErrorCode::NoLeader, text));
        if let Some(report) = self.ahead() {
            return not_yet(format!(
                "node {} knows a view or catalog that this leader lacks",
                report.life.node
            ));
        }
        let view = self.register.view();
        if view.members.is_empty() {
            return not_yet("the data nodes have not formed a view yet".into());
        }
        let up = view.up_members();
        let mut lives = up.map(|member| Life { node: member.node, incarnation: member.incarnation });
        let silent = lives.find(|life| !self.reporters.contains_key(life))?;
        not_yet(format!("node {} has not reported to this leader yet", silent.node))
    }
}
