//! Changes of the catalog: management nodes are asked one after the other until one leads.

use twofold_proto::{
    error::{Error, ErrorCode},
    links::LinkId,
    message::{CatalogChange, CatalogConf, CatalogReq, Kind},
    schema::Table,
    time::{Duration, Time},
};

use crate::request::Answer;

use super::{Client, NEVER, cluster::Peer};

/// All data nodes have to learn of a change.
const DEADLINE: Duration = Duration::from_secs(30);
/// How soon another management node is asked.
const RETRY_EVERY: Duration = Duration::from_millis(100);
/// Changes under way at once.
const CHANGES_MAX: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// A management node has it.
    Sent(LinkId),
    /// To be sent at this time.
    Waiting(Time),
    /// Done; this version of the catalog has yet to come.
    Known(u64),
}

/// A change under way.
#[derive(Debug)]
pub(super) struct Change {
    token: u64,
    change: CatalogChange,
    stage: Stage,
    deadline: Time,
    /// A request for it went away with its link: it may have been done.
    lost: bool,
    error: Option<Error>,
}

impl Change {
    /// When something is to be done about it.
    pub fn due(&self) -> Time {
        match self.stage {
            Stage::Waiting(at) => at.min(self.deadline),
            _ => self.deadline,
        }
    }
}

/// Whether the two are the same but for what the catalog fills in.
fn same_table(one: &Table, other: &Table) -> bool {
    let blank = |table: &Table| {
        let mut blank = Table { id: Default::default(), version: 0, ..table.clone() };
        for index in &mut blank.indexes {
            index.id = Default::default();
            index.entries = index.entries.map(|_| Default::default());
        }
        blank
    };
    blank(one) == blank(other)
}

impl Client {
    pub(super) fn submit_change(&mut self, token: u64, change: CatalogChange) {
        if self.changes.len() >= CHANGES_MAX {
            let text = format!("{CHANGES_MAX} changes of the catalog are under way");
            return self.answer_error(token, Error::new(ErrorCode::Overloaded, text));
        }
        let number = self.next_change;
        self.next_change = number.wrapping_add(1);
        let (stage, deadline) = (Stage::Waiting(self.now), self.now + DEADLINE);
        let change = Change { token, change, stage, deadline, lost: false, error: None };
        let replaced = self.changes.insert(number, change);
        assert!(replaced.is_none(), "change {number} is still under way after 2^32 others");
        self.send_change(number, None);
    }

    /// Sends it to the first connected management node after `last`, round and round.
    fn send_change(&mut self, number: u32, last: Option<LinkId>) {
        let is_management = |id: &LinkId| matches!(self.peers[id], Peer::Management);
        let is_connected = |id: &LinkId| self.links.get(*id).is_some_and(|link| link.is_connected());
        let ids = || self.peers.keys().filter(|id| is_management(id) && is_connected(id)).copied();
        let next = ids().find(|id| last.is_some_and(|last| *id > last)).or_else(|| ids().next());
        let change = self.changes.get_mut(&number).expect("it is under way");
        let Some(id) = next else {
            change.stage = Stage::Waiting(self.now + RETRY_EVERY);
            return;
        };
        change.stage = Stage::Sent(id);
        let request = CatalogReq { request: number, change: change.change.clone() };
        self.links.get_mut(id).expect("just seen").send_control(Kind::CatalogReq, &request);
    }

    /// A management node has answered (`CatalogConf`).
    pub(super) fn on_catalog_conf(&mut self, link: LinkId, conf: CatalogConf) {
        // The answer to what was asked again elsewhere is not waited for.
        let Some(change) = self.changes.get_mut(&conf.request) else { return };
        if change.stage != Stage::Sent(link) {
            return;
        }
        let result = match conf.result {
            Err(error) if error.code == ErrorCode::NoLeader => {
                change.error = Some(error);
                change.stage = Stage::Waiting(self.now + RETRY_EVERY);
                return self.prefer_another(conf.request, link);
            }
            Err(error) if change.lost && was_done(&self.catalog, &change.change, error.code) => {
                Ok(self.catalog.version)
            }
            result => result,
        };
        match result {
            Ok(version) => {
                change.stage = Stage::Known(version);
                self.changes_known();
            }
            Err(error) => self.end_change(conf.request, Err(error)),
        }
    }

    /// The one that was asked does not lead: the next is tried at once, all of them again only after a while.
    fn prefer_another(&mut self, number: u32, asked: LinkId) {
        let is_management = |(id, peer): (&LinkId, &Peer)| matches!(peer, Peer::Management).then_some(*id);
        let more = self
            .peers
            .iter()
            .filter_map(is_management)
            .any(|id| id > asked && self.links.get(id).is_some_and(|link| link.is_connected()));
        if more {
            self.send_change(number, Some(asked));
        }
    }

    /// A management node was started anew: what it was asked is asked again.
    pub(super) fn changes_lost(&mut self, link: LinkId) {
        for change in self.changes.values_mut() {
            if change.stage == Stage::Sent(link) {
                change.lost = true;
                change.stage = Stage::Waiting(self.now);
            }
        }
    }

    /// A catalog has come: answers the changes that are in it.
    pub(super) fn changes_known(&mut self) {
        let version = self.catalog.version;
        let known = |change: &Change| matches!(change.stage, Stage::Known(needed) if needed <= version);
        let done: Vec<u32> =
            self.changes.iter().filter(|(_, change)| known(change)).map(|(&n, _)| n).collect();
        for number in done {
            self.end_change(number, Ok(version));
        }
    }

    fn end_change(&mut self, number: u32, result: Result<u64, Error>) {
        let change = self.changes.remove(&number).expect("it is under way");
        match result {
            Ok(version) => self.answer(change.token, Answer::Catalog(version)),
            Err(error) => self.answer_error(change.token, error),
        }
    }

    pub(super) fn tick_changes(&mut self) {
        let due: Vec<u32> =
            self.changes.iter().filter(|(_, c)| c.due() <= self.now).map(|(&n, _)| n).collect();
        for number in due {
            let change = self.changes.get_mut(&number).expect("listed");
            if change.deadline > self.now {
                self.send_change(number, None);
                continue;
            }
            let unsent = matches!(change.stage, Stage::Waiting(_)) && !change.lost;
            let error = change.error.take().filter(|_| unsent).unwrap_or_else(|| {
                let code = if unsent { ErrorCode::NoLeader } else { ErrorCode::OutcomePending };
                Error::new(code, "the management nodes have not answered whether the catalog was changed")
            });
            self.end_change(number, Err(error));
        }
        debug_assert!(self.changes.values().all(|change| change.due() > self.now && change.due() < NEVER));
    }
}

/// Whether an error only says that a request that was lost had been done.
fn was_done(catalog: &twofold_proto::message::Catalog, change: &CatalogChange, code: ErrorCode) -> bool {
    match change {
        CatalogChange::CreateTable(table) => {
            code == ErrorCode::TableExists
                && catalog.table(&table.name).is_some_and(|found| same_table(found, table))
        }
        CatalogChange::DropTable(name) => code == ErrorCode::NoSuchTable && catalog.table(name).is_none(),
        CatalogChange::CreateIndex { table, index } => {
            let found =
                catalog.table(table).and_then(|table| Some(&table.indexes[table.index_named(&index.name)?]));
            code == ErrorCode::IndexExists && found.is_some_and(|found| found.columns == index.columns)
        }
        CatalogChange::DropIndex { table, index } => {
            let found = catalog.table(table).and_then(|table| table.index_named(index));
            code == ErrorCode::NoSuchIndex && found.is_none()
        }
        CatalogChange::EndBuild { .. } => false,
    }
}
