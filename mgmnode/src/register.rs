//! The replicated state: config, views, catalog. Commands are applied in the log's order and give the same everywhere.

use std::fmt;

use serde::{Deserialize, Serialize};
use twofold_proto::{
    config::ClusterConfig,
    error::{Error, ErrorCode},
    ids::{Epoch, Incarnation, IndexId, NodeId, TableId, ViewNumber},
    limits::{MESSAGE_BYTES_MAX, TABLES_MAX},
    message::{Catalog, CatalogChange, control, put_control},
    schema::{Index, IndexState, Table},
    view::View,
    wire::Malformed,
};

use crate::membership::Membership;

/// Bytes of the catalog as it travels: the whole of it has to fit a message, and a snapshot.
pub const CATALOG_BYTES_MAX: usize = 16 << 20;
/// Bytes of one command: some of them have to fit a message between management nodes.
pub const COMMAND_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(CATALOG_BYTES_MAX + COMMAND_BYTES_MAX < MESSAGE_BYTES_MAX);

/// Who proposed a change, so that it finds its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The management node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Counted by that life.
    pub number: u64,
}

/// An entry of the log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// This is the config from now on; void if it cannot follow the one before.
    Config(Box<ClusterConfig>),
    /// The next view; void if the predecessor is not the newest.
    View {
        /// The view that it was made from.
        predecessor: ViewNumber,
        /// The view.
        view: View,
    },
    /// A change of the catalog.
    Catalog {
        /// Who wants the result.
        origin: Origin,
        /// The change.
        change: CatalogChange,
    },
    /// The first view after a system restart. Void as [`Command::View`] is.
    Restart {
        /// The view that it was made from.
        predecessor: ViewNumber,
        /// The view.
        view: View,
        /// When, in milliseconds since 1970 by the clock of the management leader; 0 if it did not know.
        at_ms: u64,
    },
    /// The register goes on from what the data nodes know of it. Void as [`Command::View`] is.
    Rebuild {
        /// The newest view that this register had.
        predecessor: ViewNumber,
        /// The view to go on from, of the next generation.
        view: View,
        /// The catalog to go on from.
        catalog: Catalog,
    },
}

/// That all data nodes of a group had ended, and what the cluster went back to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SystemRestart {
    /// When, in milliseconds since 1970 by the clock of the management leader; 0 if it did not know.
    pub at_ms: u64,
    /// The restart number of the views since.
    pub restart: u16,
    /// The last epoch that counts of those before. `None`: the cluster began without rows.
    pub epoch: Option<Epoch>,
}

impl Command {
    /// The entry's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_control(&mut bytes, self);
        bytes
    }
}

/// What came of a command.
#[derive(Clone, PartialEq, Debug)]
pub enum Applied {
    /// The config: taken, or why not.
    Config(Result<(), String>),
    /// Whether the view was taken.
    View(bool),
    /// Whether the register goes on from what the data nodes know.
    Rebuilt(bool),
    /// The catalog's version with the change, or why there is none.
    Catalog(Origin, Result<u64, Error>),
}

/// The state that the commands make.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Register {
    config: Option<ClusterConfig>,
    membership: Membership,
    catalog: Catalog,
    /// The last one; it stays true until the next.
    system_restart: Option<SystemRestart>,
}

impl SystemRestart {
    /// The last one that a view tells of; the first view of all is none.
    fn told_by(view: &View, at_ms: u64) -> Option<SystemRestart> {
        let cut = view.cuts.last().filter(|cut| cut.restart > 1)?;
        let epoch = Some(cut.epoch).filter(|&epoch| epoch > Epoch::default());
        Some(SystemRestart { at_ms, restart: cut.restart, epoch })
    }
}

impl fmt::Display for SystemRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "restart {}: the cluster ", self.restart)?;
        match self.epoch {
            Some(epoch) => write!(
                f,
                "went back to epoch {epoch}, the last that every node group had on disk; what was committed later is undone"
            ),
            None => f.write_str("began with its tables and without rows"),
        }
    }
}

impl Register {
    /// The config; none before the first leader has proposed its own.
    pub fn config(&self) -> Option<&ClusterConfig> {
        self.config.as_ref()
    }

    /// The views.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The newest view.
    pub fn view(&self) -> &View {
        self.membership.view()
    }

    /// The schemas.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The last system restart, if there was one.
    pub fn system_restart(&self) -> Option<&SystemRestart> {
        self.system_restart.as_ref()
    }

    /// All of it, for a snapshot.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_control(&mut bytes, self);
        bytes
    }

    /// Reads a snapshot.
    pub fn decode(bytes: &[u8]) -> Result<Register, Malformed> {
        control(bytes)
    }

    /// Applies a command.
    pub fn apply(&mut self, command: Command) -> Applied {
        match command {
            Command::Config(config) => Applied::Config(self.apply_config(*config)),
            Command::View { predecessor, view } => Applied::View(self.apply_view(predecessor, view)),
            Command::Restart { predecessor, view, at_ms } => {
                let restart = SystemRestart::told_by(&view, at_ms);
                let taken = self.apply_view(predecessor, view);
                if taken {
                    self.system_restart = restart;
                }
                Applied::View(taken)
            }
            Command::Rebuild { predecessor, view, catalog } => {
                Applied::Rebuilt(self.rebuild(predecessor, view, catalog))
            }
            Command::Catalog { origin, change } => {
                let result = match change {
                    CatalogChange::CreateTable(table) => self.create(table),
                    CatalogChange::DropTable(name) => self.drop(&name),
                    CatalogChange::CreateIndex { table, index } => self.create_index(&table, index),
                    CatalogChange::DropIndex { table, index } => self.drop_index(&table, &index),
                    CatalogChange::EndBuild { index, built } => self.end_build(index, built),
                };
                Applied::Catalog(origin, result)
            }
        }
    }

    fn rebuild(&mut self, predecessor: ViewNumber, view: View, catalog: Catalog) -> bool {
        let Some(config) = self.config.as_ref().filter(|_| predecessor == self.view().number) else {
            return false;
        };
        self.system_restart = SystemRestart::told_by(&view, 0);
        (self.membership, self.catalog) = (Membership::rebuilt(config, &view), catalog);
        true
    }

    fn apply_view(&mut self, predecessor: ViewNumber, view: View) -> bool {
        let config = self.config.as_ref();
        config.is_some_and(|config| self.membership.apply(config, predecessor, view))
    }

    /// Why `config` cannot follow the present one, if so.
    pub fn objection(&self, config: &ClusterConfig) -> Option<String> {
        let present = self.config.as_ref()?;
        let fixed = |what: &str| {
            Some(format!("{what} cannot be changed once there is data; start with empty directories"))
        };
        if config.name != present.name {
            return Some(format!(
                "the cluster's name is «{}»; it cannot become «{}»",
                present.name, config.name
            ));
        }
        let ids = |config: &ClusterConfig| {
            let management: Vec<NodeId> = config.management_nodes.iter().map(|node| node.id).collect();
            let data: Vec<NodeId> = config.data_nodes.iter().map(|node| node.id).collect();
            (management, data)
        };
        let ((management, data), (present_management, present_data)) = (ids(config), ids(present));
        if management != present_management {
            return fixed("the ids of the management nodes");
        }
        if self.view().number == ViewNumber(0) {
            return None;
        }
        if data != present_data {
            return fixed("the ids of the data nodes");
        }
        if (config.replicas, config.partitions) != (present.replicas, present.partitions) {
            return fixed("the number of replicas");
        }
        None
    }

    fn apply_config(&mut self, config: ClusterConfig) -> Result<(), String> {
        match self.objection(&config) {
            Some(objection) => Err(objection),
            None => {
                self.config = Some(config);
                Ok(())
            }
        }
    }

    fn create(&mut self, table: Table) -> Result<u64, Error> {
        let id = TableId(self.catalog.next_table.max(1));
        let mut table = Table { id, version: 1, ..table };
        let next = table.indexes.iter_mut().fold(id.0 + 1, number_index);
        check(&table)?;
        if self.catalog.table(&table.name).is_some() {
            return Err(Error::new(
                ErrorCode::TableExists,
                format!("table `{}` is there already", table.name),
            ));
        }
        if self.catalog.tables.len() >= TABLES_MAX {
            return Err(Error::new(
                ErrorCode::TooMany,
                format!("there are {TABLES_MAX} tables, as many as can be"),
            ));
        }
        let name = table.name.clone();
        // Ids ascend, so the newest is the last.
        self.catalog.tables.push(table);
        self.check_size(&format!("table `{name}`")).inspect_err(|_| drop(self.catalog.tables.pop()))?;
        self.catalog.next_table = next;
        Ok(self.changed())
    }

    /// Whether the catalog may have what was put into it.
    fn check_size(&self, what: &str) -> Result<(), Error> {
        let mut bytes = Vec::new();
        put_control(&mut bytes, &self.catalog);
        if bytes.len() <= CATALOG_BYTES_MAX {
            return Ok(());
        }
        let text =
            format!("with {what} the catalog has {} bytes; {CATALOG_BYTES_MAX} are allowed", bytes.len());
        Err(Error::new(ErrorCode::TooMany, text))
    }

    fn changed(&mut self) -> u64 {
        self.catalog.version += 1;
        self.catalog.version
    }

    fn place(&self, name: &str) -> Result<usize, Error> {
        let place = self.catalog.tables.iter().position(|table| table.name == name);
        place.ok_or_else(|| Error::new(ErrorCode::NoSuchTable, format!("there is no table `{name}`")))
    }

    fn create_index(&mut self, table: &str, index: Index) -> Result<u64, Error> {
        let place = self.place(table)?;
        let mut changed = self.catalog.tables[place].clone();
        if changed.index_named(&index.name).is_some() {
            let text = format!("table `{table}` has an index `{}` already", index.name);
            return Err(Error::new(ErrorCode::IndexExists, text));
        }
        if index.is_unique() {
            let text = format!("index `{}`: a unique index comes with its table", index.name);
            return Err(Error::new(ErrorCode::NotSupported, text));
        }
        let id = IndexId(self.catalog.next_table);
        let what = format!("index `{}`", index.name);
        let state = IndexState::Building { since: self.catalog.version + 1 };
        changed.indexes.push(Index { id, state, ..index });
        check(&changed)?;
        let before = std::mem::replace(&mut self.catalog.tables[place], changed);
        self.check_size(&what).inspect_err(|_| self.catalog.tables[place] = before)?;
        self.catalog.next_table = id.0 + 1;
        Ok(self.changed())
    }

    fn drop_index(&mut self, table: &str, name: &str) -> Result<u64, Error> {
        let place = self.place(table)?;
        let changed = &mut self.catalog.tables[place];
        let Some(found) = changed.index_named(name) else {
            return Err(Error::new(ErrorCode::NoSuchIndex, format!("table `{table}` has no index `{name}`")));
        };
        changed.indexes.remove(found);
        Ok(self.changed())
    }

    fn end_build(&mut self, id: IndexId, built: bool) -> Result<u64, Error> {
        let is_meant = |index: &Index| index.id == id && !index.is_public();
        let tables = &mut self.catalog.tables;
        let Some(table) = tables.iter_mut().find(|table| table.indexes.iter().any(is_meant)) else {
            return Err(Error::new(ErrorCode::NoSuchIndex, format!("no index number {id} is being built")));
        };
        if built {
            table
                .indexes
                .iter_mut()
                .filter(|index| is_meant(index))
                .for_each(|index| index.state = IndexState::Public);
        } else {
            table.indexes.retain(|index| !is_meant(index));
        }
        Ok(self.changed())
    }

    fn drop(&mut self, name: &str) -> Result<u64, Error> {
        let place = self.place(name)?;
        self.catalog.tables.remove(place);
        Ok(self.changed())
    }
}

/// Numbers an index, and the table of its entries, from this number on; the next one.
fn number_index(number: u32, index: &mut Index) -> u32 {
    index.id = IndexId(number);
    match &mut index.entries {
        Some(entries) => {
            *entries = TableId(number + 1);
            number + 2
        }
        None => number + 1,
    }
}

fn check(table: &Table) -> Result<(), Error> {
    table.check().map_err(|invalid| Error::new(ErrorCode::BadTable, invalid.to_string()))
}

#[cfg(test)]
mod tests {
    use twofold_proto::schema::{Column, ColumnType, Index};

    use super::*;
    use crate::testing::{config, table, view};

    fn origin(number: u64) -> Origin {
        Origin { node: NodeId(1), incarnation: Incarnation(7), number }
    }

    fn change(register: &mut Register, change: CatalogChange) -> Result<u64, Error> {
        match register.apply(Command::Catalog { origin: origin(3), change }) {
            Applied::Catalog(to, result) => {
                assert_eq!(to, origin(3));
                result
            }
            other => panic!("{other:?}"),
        }
    }

    fn refusal(result: Result<u64, Error>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn tables_and_indexes_get_ids_that_are_never_reused() {
        let mut register = Register::default();
        let create =
            |name: &str| CatalogChange::CreateTable(Table { id: TableId(99), version: 9, ..table(name) });
        assert_eq!(change(&mut register, create("a")), Ok(1));
        assert_eq!(change(&mut register, create("b")), Ok(2));
        assert_eq!(change(&mut register, CatalogChange::DropTable("b".into())), Ok(3));
        assert_eq!(change(&mut register, create("b")), Ok(4));
        let indexed =
            Table { indexes: vec![Index::new("x", vec![]), Index::new("y", vec![0])], ..table("c") };
        change(&mut register, CatalogChange::CreateTable(indexed)).unwrap();
        change(&mut register, create("d")).unwrap();
        let ids: Vec<u32> =
            register.catalog().table("c").unwrap().indexes.iter().map(|index| index.id.0).collect();
        assert_eq!(ids, [5, 6]);
        let tables: Vec<(u32, u32, &str)> =
            register.catalog().tables.iter().map(|table| (table.id.0, table.version, &*table.name)).collect();
        assert_eq!(tables, [(1, 1, "a"), (3, 1, "b"), (4, 1, "c"), (7, 1, "d")]);
    }

    #[test]
    fn impossible_changes_are_refused_and_change_nothing() {
        let mut register = Register::default();
        let mut bad = table("bad");
        bad.primary_key.clear();
        assert_eq!(
            refusal(change(&mut register, CatalogChange::CreateTable(bad))),
            "TF-1010: table `bad`: it has no primary key; name at least one column; correct the definition"
        );
        assert_eq!(
            refusal(change(&mut register, CatalogChange::DropTable("x".into()))),
            "TF-1002: there is no table `x`; create the table, or correct its name"
        );
        change(&mut register, CatalogChange::CreateTable(table("x"))).unwrap();
        let before = register.clone();
        assert_eq!(
            refusal(change(&mut register, CatalogChange::CreateTable(table("x")))),
            "TF-1009: table `x` is there already; use another name, or drop the table first"
        );
        assert_eq!(register, before);
    }

    #[test]
    fn indexes_come_and_go_and_leave_the_version_of_the_table() {
        let mut register = Register::default();
        change(&mut register, CatalogChange::CreateTable(table("t"))).unwrap();
        let create = |name: &str, columns: Vec<u16>| CatalogChange::CreateIndex {
            table: "t".into(),
            index: Index { id: IndexId(77), ..Index::new(name, columns) },
        };
        assert_eq!(change(&mut register, create("x", vec![0])), Ok(2));
        assert_eq!(change(&mut register, create("y", vec![])), Ok(3));
        let indexes = |register: &Register| {
            let table = register.catalog().table("t").unwrap();
            assert_eq!(table.version, 1);
            table.indexes.iter().map(|index| (index.id.0, index.state)).collect::<Vec<_>>()
        };
        let building = |since| IndexState::Building { since };
        assert_eq!(indexes(&register), [(2, building(2)), (3, building(3))]);
        let end = |index, built| CatalogChange::EndBuild { index: IndexId(index), built };
        assert_eq!(change(&mut register, end(2, true)), Ok(4));
        assert_eq!(indexes(&register), [(2, IndexState::Public), (3, building(3))]);
        assert_eq!(change(&mut register, end(3, false)), Ok(5));
        let before = register.clone();
        for (refused, text) in [
            (
                create("X", vec![0]),
                "TF-1015: table `t` has an index `X` already; use another name, or drop the index first",
            ),
            (create("z", vec![9]), "TF-1010: table `t`: index `z`: it names column 9 of "),
            (end(2, false), "TF-1016: no index number 2 is being built"),
            (end(3, true), "TF-1016: no index number 3 is being built"),
            (
                CatalogChange::DropIndex { table: "t".into(), index: "y".into() },
                "TF-1016: table `t` has no index `y`; correct the index's name",
            ),
            (
                CatalogChange::DropIndex { table: "u".into(), index: "y".into() },
                "TF-1002: there is no table `u`",
            ),
        ] {
            let refusal = refusal(change(&mut register, refused));
            assert!(refusal.starts_with(text), "{refusal}");
        }
        assert_eq!(register, before);
        let drop = CatalogChange::DropIndex { table: "t".into(), index: "X".into() };
        assert_eq!(change(&mut register, drop), Ok(6));
        assert_eq!(indexes(&register), []);
        // Ids are never given again.
        change(&mut register, create("x", vec![0])).unwrap();
        assert_eq!(indexes(&register), [(4, building(7))]);
    }

    #[test]
    fn the_catalog_stays_below_its_bound() {
        let mut register = Register::default();
        let large = |name: String| {
            let mut large = table(&name);
            let columns = (0..900).map(|n| Column::new(format!("{n:0>250}"), ColumnType::I64));
            large.columns.extend(columns);
            CatalogChange::CreateTable(large)
        };
        let mut count = 0;
        let refused = loop {
            match change(&mut register, large(format!("t{count}"))) {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.code, ErrorCode::TooMany);
        assert!(count > 60 && register.catalog().tables.len() == count, "{count}");
        assert!(register.encode().len() <= CATALOG_BYTES_MAX + 4096);
    }

    #[test]
    fn a_config_may_change_timing_but_not_placement() {
        let mut register = Register::default();
        let first = config(2, &[11, 12]);
        let apply = |register: &mut Register, config: &ClusterConfig| match register
            .apply(Command::Config(Box::new(config.clone())))
        {
            Applied::Config(result) => result,
            other => panic!("{other:?}"),
        };
        assert_eq!(apply(&mut register, &first), Ok(()));
        // Before there is data, all but the name and the management nodes may change.
        assert_eq!(apply(&mut register, &config(2, &[11, 12, 13, 14])), Ok(()));
        assert_eq!(apply(&mut register, &first), Ok(()));
        let first_view = view("1 r1: 11a=up 12a=up");
        let command = Command::View { predecessor: ViewNumber(0), view: first_view };
        assert_eq!(register.apply(command), Applied::View(true));
        let slower = ClusterConfig { failure_ms: 900, ..first.clone() };
        assert_eq!(apply(&mut register, &slower), Ok(()));
        assert_eq!(register.config(), Some(&slower));
        for (config, what) in [
            (config(2, &[11, 13]), "the ids of the data nodes"),
            (config(1, &[11, 12]), "the number of replicas"),
            (ClusterConfig { name: "b".into(), ..first.clone() }, "the cluster's name is «local»"),
        ] {
            let refusal = apply(&mut register, &config).unwrap_err();
            assert!(refusal.starts_with(what), "{refusal}");
        }
        assert_eq!(register.config(), Some(&slower));
    }

    #[test]
    fn a_snapshot_is_all_there_is() {
        let mut register = Register::default();
        register.apply(Command::Config(Box::new(config(2, &[11, 12]))));
        register.apply(Command::View { predecessor: ViewNumber(0), view: view("1 r1: 11a=up 12a=up") });
        register.apply(Command::View { predecessor: ViewNumber(1), view: view("2 r1: 11a=up") });
        change(&mut register, CatalogChange::CreateTable(table("x"))).unwrap();
        register.apply(Command::View { predecessor: ViewNumber(2), view: view("3 r1: -") });
        let members = view("0 r0: 11b=up").members;
        let restarted = register.view().restarted(Epoch::new(1, 7), members);
        let restart = |at_ms| Command::Restart { predecessor: ViewNumber(3), view: restarted.clone(), at_ms };
        assert_eq!(register.apply(restart(5)), Applied::View(true));
        assert_eq!(register.apply(restart(6)), Applied::View(false));
        let expected = SystemRestart { at_ms: 5, restart: 2, epoch: Some(Epoch::new(1, 7)) };
        assert_eq!(register.system_restart(), Some(&expected), "a void entry restarts nothing");
        assert_eq!(Register::decode(&register.encode()), Ok(register));
        assert!(Register::decode(b"nonsense").is_err());
    }

    #[test]
    fn no_view_comes_before_the_config() {
        let mut register = Register::default();
        let command = Command::View { predecessor: ViewNumber(0), view: view("1 r1: 11a=up") };
        assert_eq!(register.apply(command), Applied::View(false));
    }
}
