//! `information_schema`: what the catalog has, as rows.

use std::{iter, sync::Arc};

use twofold_proto::schema::Schema;

use super::{
    bind::{PRIMARY, TableName, describe},
    types::{Declared, SqlType},
    value::Datum,
};

/// The database's name.
pub const DATABASE: &str = "information_schema";

const TEXT: SqlType = SqlType::Varchar(64);
const LONG: SqlType = SqlType::Varchar(512);
const NUMBER: SqlType = SqlType::UNSIGNED;

/// The catalog as it is now.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Names of databases.
    pub databases: Vec<String>,
    /// Tables.
    pub tables: Vec<(TableName, Arc<Schema>)>,
}

/// A table of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// Databases.
    Schemata,
    /// Tables.
    Tables,
    /// Columns of tables.
    Columns,
    /// Columns of keys.
    Statistics,
    /// Columns of keys that are constraints.
    KeyColumnUsage,
    /// Keys that are constraints.
    TableConstraints,
    /// Storage engines.
    Engines,
    /// Character sets.
    CharacterSets,
    /// Collations.
    Collations,
    /// Foreign keys: there are none.
    ReferentialConstraints,
    /// CHECKs: there are none.
    CheckConstraints,
    /// Views: there are none.
    Views,
    /// Triggers: there are none.
    Triggers,
    /// Procedures: there are none.
    Routines,
    /// Events: there are none.
    Events,
}

const ALL: [(&str, View); 15] = [
    ("SCHEMATA", View::Schemata),
    ("TABLES", View::Tables),
    ("COLUMNS", View::Columns),
    ("STATISTICS", View::Statistics),
    ("KEY_COLUMN_USAGE", View::KeyColumnUsage),
    ("TABLE_CONSTRAINTS", View::TableConstraints),
    ("ENGINES", View::Engines),
    ("CHARACTER_SETS", View::CharacterSets),
    ("COLLATIONS", View::Collations),
    ("REFERENTIAL_CONSTRAINTS", View::ReferentialConstraints),
    ("CHECK_CONSTRAINTS", View::CheckConstraints),
    ("VIEWS", View::Views),
    ("TRIGGERS", View::Triggers),
    ("ROUTINES", View::Routines),
    ("EVENTS", View::Events),
];

impl View {
    /// By its name.
    pub fn from_name(name: &str) -> Option<View> {
        ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, view)| *view)
    }

    /// All names, ascending.
    pub fn names() -> Vec<&'static str> {
        let mut names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names
    }

    /// Names and types of its columns.
    pub fn columns(self) -> Vec<(String, SqlType)> {
        let (text, numbers) = self.column_names();
        let column = |name: &str| {
            let sql_type = match name {
                name if numbers.split(' ').any(|number| number == name) => NUMBER,
                "COLUMN_DEFAULT"
                | "COLUMN_TYPE"
                | "GENERATION_EXPRESSION"
                | "VIEW_DEFINITION"
                | "ROUTINE_DEFINITION"
                | "ACTION_STATEMENT"
                | "CHECK_CLAUSE" => LONG,
                _ => TEXT,
            };
            (name.to_owned(), sql_type)
        };
        text.split(' ').map(column).collect()
    }

    /// Its columns, and those of them that are numbers.
    fn column_names(self) -> (&'static str, &'static str) {
        match self {
            View::Schemata => (
                "CATALOG_NAME SCHEMA_NAME DEFAULT_CHARACTER_SET_NAME DEFAULT_COLLATION_NAME SQL_PATH \
                 DEFAULT_ENCRYPTION",
                "",
            ),
            View::Tables => (
                "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME TABLE_TYPE ENGINE VERSION ROW_FORMAT TABLE_ROWS \
                 AVG_ROW_LENGTH DATA_LENGTH MAX_DATA_LENGTH INDEX_LENGTH DATA_FREE AUTO_INCREMENT CREATE_TIME \
                 UPDATE_TIME CHECK_TIME TABLE_COLLATION CHECKSUM CREATE_OPTIONS TABLE_COMMENT",
                "VERSION TABLE_ROWS AVG_ROW_LENGTH DATA_LENGTH MAX_DATA_LENGTH INDEX_LENGTH DATA_FREE \
                 AUTO_INCREMENT CHECKSUM",
            ),
            View::Columns => (
                "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME COLUMN_NAME ORDINAL_POSITION COLUMN_DEFAULT IS_NULLABLE \
                 DATA_TYPE CHARACTER_MAXIMUM_LENGTH CHARACTER_OCTET_LENGTH NUMERIC_PRECISION NUMERIC_SCALE \
                 DATETIME_PRECISION CHARACTER_SET_NAME COLLATION_NAME COLUMN_TYPE COLUMN_KEY EXTRA PRIVILEGES \
                 COLUMN_COMMENT GENERATION_EXPRESSION SRS_ID",
                "ORDINAL_POSITION CHARACTER_MAXIMUM_LENGTH CHARACTER_OCTET_LENGTH NUMERIC_PRECISION \
                 NUMERIC_SCALE DATETIME_PRECISION SRS_ID",
            ),
            View::Statistics => (
                "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME NON_UNIQUE INDEX_SCHEMA INDEX_NAME SEQ_IN_INDEX COLUMN_NAME \
                 COLLATION CARDINALITY SUB_PART PACKED NULLABLE INDEX_TYPE COMMENT INDEX_COMMENT IS_VISIBLE \
                 EXPRESSION",
                "NON_UNIQUE SEQ_IN_INDEX CARDINALITY SUB_PART",
            ),
            View::KeyColumnUsage => (
                "CONSTRAINT_CATALOG CONSTRAINT_SCHEMA CONSTRAINT_NAME TABLE_CATALOG TABLE_SCHEMA TABLE_NAME \
                 COLUMN_NAME ORDINAL_POSITION POSITION_IN_UNIQUE_CONSTRAINT REFERENCED_TABLE_SCHEMA \
                 REFERENCED_TABLE_NAME REFERENCED_COLUMN_NAME",
                "ORDINAL_POSITION POSITION_IN_UNIQUE_CONSTRAINT",
            ),
            View::TableConstraints => (
                "CONSTRAINT_CATALOG CONSTRAINT_SCHEMA CONSTRAINT_NAME TABLE_SCHEMA TABLE_NAME CONSTRAINT_TYPE \
                 ENFORCED",
                "",
            ),
            View::Engines => ("ENGINE SUPPORT COMMENT TRANSACTIONS XA SAVEPOINTS", ""),
            View::CharacterSets => ("CHARACTER_SET_NAME DEFAULT_COLLATE_NAME DESCRIPTION MAXLEN", "MAXLEN"),
            View::Collations => (
                "COLLATION_NAME CHARACTER_SET_NAME ID IS_DEFAULT IS_COMPILED SORTLEN PAD_ATTRIBUTE",
                "ID SORTLEN",
            ),
            View::ReferentialConstraints => (
                "CONSTRAINT_CATALOG CONSTRAINT_SCHEMA CONSTRAINT_NAME UNIQUE_CONSTRAINT_CATALOG \
                 UNIQUE_CONSTRAINT_SCHEMA UNIQUE_CONSTRAINT_NAME MATCH_OPTION UPDATE_RULE DELETE_RULE TABLE_NAME \
                 REFERENCED_TABLE_NAME",
                "",
            ),
            View::CheckConstraints => {
                ("CONSTRAINT_CATALOG CONSTRAINT_SCHEMA CONSTRAINT_NAME CHECK_CLAUSE", "")
            }
            View::Views => (
                "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME VIEW_DEFINITION CHECK_OPTION IS_UPDATABLE DEFINER \
                 SECURITY_TYPE CHARACTER_SET_CLIENT COLLATION_CONNECTION",
                "",
            ),
            View::Triggers => (
                "TRIGGER_CATALOG TRIGGER_SCHEMA TRIGGER_NAME EVENT_MANIPULATION EVENT_OBJECT_CATALOG \
                 EVENT_OBJECT_SCHEMA EVENT_OBJECT_TABLE ACTION_ORDER ACTION_CONDITION ACTION_STATEMENT \
                 ACTION_ORIENTATION ACTION_TIMING SQL_MODE DEFINER",
                "ACTION_ORDER",
            ),
            View::Routines => (
                "SPECIFIC_NAME ROUTINE_CATALOG ROUTINE_SCHEMA ROUTINE_NAME ROUTINE_TYPE DATA_TYPE \
                 ROUTINE_DEFINITION SQL_MODE ROUTINE_COMMENT DEFINER",
                "",
            ),
            View::Events => ("EVENT_CATALOG EVENT_SCHEMA EVENT_NAME DEFINER TIME_ZONE EVENT_TYPE STATUS", ""),
        }
    }

    /// Its rows.
    pub fn rows(self, catalog: &Catalog) -> Vec<Vec<Datum>> {
        let of_tables = |rows: fn(&TableName, &Schema) -> Vec<Vec<Datum>>| {
            catalog.tables.iter().flat_map(|(name, schema)| rows(name, schema)).collect()
        };
        match self {
            View::Schemata => catalog.databases.iter().map(|name| schemata_row(name)).collect(),
            View::Tables => {
                let own = View::names().into_iter().map(own_table_row);
                own.chain(catalog.tables.iter().map(|(name, schema)| table_row(name, schema))).collect()
            }
            View::Columns => of_tables(column_rows),
            View::Statistics => of_tables(statistics_rows),
            View::KeyColumnUsage => of_tables(usage_rows),
            View::TableConstraints => of_tables(constraint_rows),
            View::Engines => {
                let row =
                    ["twofold", "DEFAULT", "Rows in memory, replicated and partitioned", "YES", "NO", "YES"];
                vec![row.map(Datum::from).to_vec()]
            }
            View::CharacterSets => {
                let row = |name: &str, collation: &str, what: &str, most: u64| {
                    vec![name.into(), collation.into(), what.into(), Datum::UInt(most)]
                };
                vec![
                    row("binary", "binary", "Bytes", 1),
                    row("utf8mb4", "utf8mb4_0900_bin", "UTF-8 Unicode", 4),
                ]
            }
            View::Collations => {
                let row = |name: &str, charset: &str, id: u64| {
                    let numbers = (Datum::UInt(id), Datum::UInt(1));
                    vec![
                        name.into(),
                        charset.into(),
                        numbers.0,
                        "Yes".into(),
                        "Yes".into(),
                        numbers.1,
                        "NO PAD".into(),
                    ]
                };
                vec![row("binary", "binary", 63), row("utf8mb4_0900_bin", "utf8mb4", 309)]
            }
            View::ReferentialConstraints
            | View::CheckConstraints
            | View::Views
            | View::Triggers
            | View::Routines
            | View::Events => Vec::new(),
        }
    }
}

fn number(value: Option<u64>) -> Datum {
    value.map_or(Datum::Null, Datum::UInt)
}

fn schemata_row(name: &str) -> Vec<Datum> {
    ["def", name, "utf8mb4", "utf8mb4_0900_bin"]
        .map(Datum::from)
        .into_iter()
        .chain([Datum::Null, "NO".into()])
        .collect()
}

fn own_table_row(name: &str) -> Vec<Datum> {
    let mut row: Vec<Datum> = ["def", DATABASE, name, "SYSTEM VIEW"].map(Datum::from).to_vec();
    row.extend(iter::repeat_n(Datum::Null, 16));
    row.push("".into());
    row
}

fn table_row(name: &TableName, schema: &Schema) -> Vec<Datum> {
    let begin = ["def", &name.database, &name.table, "BASE TABLE", "twofold"].map(Datum::from);
    let mut row: Vec<Datum> = begin.to_vec();
    row.push(Datum::UInt(schema.version.into()));
    row.push("Dynamic".into());
    // Sizes are not known here, and neither are times.
    row.extend(iter::repeat_n(Datum::Null, 10));
    row.extend(["utf8mb4_0900_bin".into(), Datum::Null, "".into(), "".into()]);
    row
}

fn column_rows(name: &TableName, schema: &Schema) -> Vec<Vec<Datum>> {
    let described = describe(schema).into_iter().zip(&schema.columns).enumerate();
    let row = |(place, (described, column)): (usize, (Vec<Datum>, &twofold_proto::schema::Column))| {
        let sql_type = Declared::of_column(column).sql_type;
        let words = sql_type.to_string();
        let data_type = words.split(['(', ' ']).next().unwrap_or_default();
        let chars = (sql_type.is_text() || sql_type.is_binary()).then(|| match sql_type {
            SqlType::Text(bytes) | SqlType::Blob(bytes) => u64::from(bytes),
            SqlType::Char(many) | SqlType::Varchar(many) => many.into(),
            SqlType::Binary(many) | SqlType::Varbinary(many) => many.into(),
            _ => 0,
        });
        let octets = match sql_type {
            SqlType::Char(chars) | SqlType::Varchar(chars) => Some(u64::from(chars) * 4),
            _ => chars,
        };
        let (precision, scale) = match sql_type {
            SqlType::Decimal { precision, scale } => (Some(precision.into()), Some(scale.into())),
            SqlType::Float => (Some(12), None),
            SqlType::Double => (Some(22), None),
            other => (other.integer_range().map(|(_, most)| u64::from(most.ilog10()) + 1), Some(0)),
        };
        let time = matches!(sql_type, SqlType::DateTime(_) | SqlType::Timestamp(_));
        let text = sql_type.is_text();
        let [_, column_type, nullable, key, default, extra] = &described[..] else { return Vec::new() };
        vec![
            "def".into(),
            name.database.as_str().into(),
            name.table.as_str().into(),
            column.name.as_str().into(),
            Datum::UInt(place as u64 + 1),
            default.clone(),
            nullable.clone(),
            data_type.into(),
            number(chars),
            number(octets),
            number(precision),
            number(scale.filter(|_| precision.is_some())),
            number(time.then(|| sql_type.decimals().into())),
            if text { "utf8mb4".into() } else { Datum::Null },
            if text { "utf8mb4_0900_bin".into() } else { Datum::Null },
            column_type.clone(),
            key.clone(),
            extra.clone(),
            "select,insert,update,references".into(),
            "".into(),
            "".into(),
            Datum::Null,
        ]
    };
    described.map(row).collect()
}

/// The keys of a table: name, columns, whether it is unique, kind.
pub fn keys(schema: &Schema) -> Vec<(&str, &[u16], bool, &'static str)> {
    let ordered = schema.indexes.iter().any(|index| index.columns.is_empty());
    let primary = (PRIMARY, &schema.primary_key[..], true, if ordered { "BTREE" } else { "HASH" });
    let others = schema.indexes.iter().filter(|index| index.is_public() && !index.columns.is_empty());
    let others = others.map(|index| (index.name.as_str(), &index.columns[..], index.is_unique(), "BTREE"));
    iter::once(primary).chain(others).collect()
}

fn statistics_rows(name: &TableName, schema: &Schema) -> Vec<Vec<Datum>> {
    let rows = keys(schema).into_iter().flat_map(|(key, columns, unique, kind)| {
        columns.iter().enumerate().map(move |(place, &column)| {
            let column = &schema.columns[usize::from(column)];
            vec![
                "def".into(),
                name.database.as_str().into(),
                name.table.as_str().into(),
                Datum::UInt((!unique).into()),
                name.database.as_str().into(),
                key.into(),
                Datum::UInt(place as u64 + 1),
                column.name.as_str().into(),
                "A".into(),
                Datum::Null,
                Datum::Null,
                Datum::Null,
                if column.nullable { "YES" } else { "" }.into(),
                kind.into(),
                "".into(),
                "".into(),
                "YES".into(),
                Datum::Null,
            ]
        })
    });
    rows.collect()
}

fn usage_rows(name: &TableName, schema: &Schema) -> Vec<Vec<Datum>> {
    let rows = keys(schema).into_iter().filter(|(_, _, unique, _)| *unique).flat_map(|(key, columns, ..)| {
        columns.iter().enumerate().map(move |(place, &column)| {
            let (database, table) = (name.database.as_str(), name.table.as_str());
            let column = schema.columns[usize::from(column)].name.as_str();
            let mut row = ["def", database, key, "def", database, table, column].map(Datum::from).to_vec();
            row.push(Datum::UInt(place as u64 + 1));
            row.extend(iter::repeat_n(Datum::Null, 4));
            row
        })
    });
    rows.collect()
}

fn constraint_rows(name: &TableName, schema: &Schema) -> Vec<Vec<Datum>> {
    let (database, table) = (name.database.as_str(), name.table.as_str());
    let rows = keys(schema).into_iter().filter(|(_, _, unique, _)| *unique).map(|(key, ..)| {
        let kind = if key == PRIMARY { "PRIMARY KEY" } else { "UNIQUE" };
        ["def", database, key, database, table, kind, "YES"].map(Datum::from).to_vec()
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::bind::tests::table;

    #[test]
    fn rows_have_the_columns() {
        let name = TableName { database: "d".into(), table: "t".into() };
        let catalog = Catalog { databases: vec!["d".into()], tables: vec![(name, table())] };
        for (name, view) in ALL {
            let width = view.columns().len();
            assert!(view.rows(&catalog).iter().all(|row| row.len() == width), "{name}");
            assert_eq!(View::from_name(&name.to_lowercase()), Some(view));
        }
        let text = |view: View, column: &str| {
            let place = view.columns().iter().position(|(name, _)| name == column).unwrap();
            let rows = view.rows(&catalog);
            rows.iter().map(|row| row[place].render(TEXT)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(View::Columns, "COLUMN_NAME"), "a b c p f at n");
        assert_eq!(text(View::Columns, "DATA_TYPE"), "int varchar bigint decimal double datetime mediumint");
        assert_eq!(text(View::Columns, "CHARACTER_OCTET_LENGTH"), "NULL 40 NULL NULL NULL NULL NULL");
        assert_eq!(text(View::KeyColumnUsage, "COLUMN_NAME"), "a b");
        assert_eq!(text(View::Statistics, "INDEX_NAME"), "PRIMARY PRIMARY");
    }
}
