//! Indexes: those that a table is made with, and those that come and go later.

use sqlparser::ast::{self, AlterTableOperation};
use twofold_proto::{
    limits::KEY_BYTES_MAX,
    schema::{Column, Index, Table},
};

use super::{
    Binder, BoundTable,
    define::{Define, PRIMARY, check_name, find_column},
    identifier, refuse,
};
use crate::sql::{
    error::{SqlError, codes},
    types::SqlType,
};

/// What comes with a table alone.
const UNIQUE_LATER: &str = "UNIQUE for a table that is there";

/// A change of a table's indexes.
#[derive(Clone, PartialEq, Debug)]
pub enum IndexChange {
    /// Makes one.
    Create(Index),
    /// Removes the one of this name.
    Drop(String),
}

impl Binder<'_> {
    pub(super) fn create_index(&self, create: &ast::CreateIndex) -> Result<Define, SqlError> {
        let plain = ast::CreateIndex {
            using: create.using.clone(),
            unique: create.unique,
            index_options: create.index_options.clone(),
            alter_options: create.alter_options.clone(),
            include: vec![],
            with: vec![],
            nulls_distinct: None,
            predicate: None,
            concurrently: false,
            r#async: false,
            ..create.clone()
        };
        refuse([
            (create.if_not_exists, "IF NOT EXISTS of an index"),
            (plain != *create, "such a CREATE INDEX"),
            (create.unique, UNIQUE_LATER),
        ])?;
        check_options(create.using.as_ref(), &create.index_options)?;
        create.alter_options.iter().try_for_each(check_online)?;
        let name = create.name.as_ref().map(identifier).transpose()?;
        let table = self.table_of(self.changed(&create.table_name)?, None)?;
        let index = new_index(&table.schema, name.as_ref(), &create.columns)?;
        Ok(altered(table, vec![IndexChange::Create(index)]))
    }

    pub(super) fn drop_index(
        &self,
        names: &[ast::ObjectName],
        table: &ast::ObjectName,
    ) -> Result<Define, SqlError> {
        let [name] = names else { return Err(SqlError::not_supported("such a DROP INDEX")) };
        let table = self.table_of(self.changed(table)?, None)?;
        let change = dropped(&table.schema, &identifier(name)?)?;
        Ok(altered(table, vec![change]))
    }

    pub(super) fn alter_table(&self, alter: &ast::AlterTable) -> Result<Define, SqlError> {
        refuse([(
            alter.if_exists || alter.only || alter.location.is_some() || alter.on_cluster.is_some(),
            "such an ALTER TABLE",
        )])?;
        let table = self.table_of(self.changed(&alter.name)?, None)?;
        // As the table will be after each change, so that the next one is checked against that.
        let mut after = table.schema.table().clone();
        let mut changes = Vec::new();
        for operation in &alter.operations {
            let change = match operation {
                AlterTableOperation::AddConstraint {
                    constraint: ast::TableConstraint::Index(index),
                    not_valid: false,
                } => {
                    check_options(index.index_type.as_ref(), &index.index_options)?;
                    let name = index.name.as_ref().map(|name| name.value.clone());
                    IndexChange::Create(new_index(&after, name.as_ref(), &index.columns)?)
                }
                AlterTableOperation::AddConstraint {
                    constraint: ast::TableConstraint::Unique(_), ..
                } => return Err(SqlError::not_supported(UNIQUE_LATER)),
                AlterTableOperation::DropIndex { name } => dropped(&after, &name.value)?,
                AlterTableOperation::Algorithm { .. } | AlterTableOperation::Lock { .. } => {
                    check_online(operation)?;
                    continue;
                }
                other => return Err(SqlError::not_supported(format_args!("ALTER TABLE … {other}"))),
            };
            match &change {
                IndexChange::Create(index) => after.indexes.push(index.clone()),
                IndexChange::Drop(name) => after.indexes.retain(|index| index.name != *name),
            }
            changes.push(change);
        }
        Ok(altered(table, changes))
    }
}

fn altered(table: BoundTable, changes: Vec<IndexChange>) -> Define {
    Define::ChangeIndexes { name: table.name, changes }
}

/// What MySQL lets people say of how a table is changed: indexes are built while writes go on, whatever is said.
fn check_online(option: &AlterTableOperation) -> Result<(), SqlError> {
    match option {
        AlterTableOperation::Lock { .. } | AlterTableOperation::Algorithm { .. } => Ok(()),
        other => Err(SqlError::not_supported(other)),
    }
}

/// Refuses indexes of other kinds, and options.
pub(super) fn check_options(
    kind: Option<&ast::IndexType>,
    options: &[ast::IndexOption],
) -> Result<(), SqlError> {
    let is_tree = |kind: &ast::IndexType| *kind == ast::IndexType::BTree;
    let known = |option: &ast::IndexOption| matches!(option, ast::IndexOption::Using(kind) if is_tree(kind));
    refuse([
        (!kind.is_none_or(is_tree), "indexes that are no BTREE"),
        (!options.iter().all(known), "options of an index"),
    ])
}

/// An index that this table does not have yet.
fn new_index(table: &Table, name: Option<&String>, columns: &[ast::IndexColumn]) -> Result<Index, SqlError> {
    let columns = names_of(columns)?;
    let key = key_of(&table.columns, &columns)?;
    let name = index_name(name, &columns[0], &table.indexes)?;
    let mut changed = table.clone();
    changed.indexes.push(Index::new(name.clone(), key.clone()));
    changed.check().map_err(|invalid| SqlError::new(codes::UNKNOWN_ERROR, invalid.0))?;
    Ok(Index::new(name, key))
}

fn dropped(table: &Table, name: &str) -> Result<IndexChange, SqlError> {
    match table.index_named(name).map(|place| &table.indexes[place]) {
        Some(index) if index.columns.is_empty() => Err(SqlError::not_supported("DROP PRIMARY KEY")),
        Some(index) => Ok(IndexChange::Drop(index.name.clone())),
        None => Err(cannot_drop(name)),
    }
}

/// There is no such index.
pub fn cannot_drop(name: &str) -> SqlError {
    SqlError::new(codes::CANNOT_DROP_KEY, format!("Can't DROP '{name}'; check that column/key exists"))
}

/// There is such an index already.
pub fn duplicate_name(name: &str) -> SqlError {
    SqlError::new(codes::DUPLICATE_KEY_NAME, format!("Duplicate key name '{name}'"))
}

/// The names of an index's columns.
pub(super) fn names_of(columns: &[ast::IndexColumn]) -> Result<Vec<String>, SqlError> {
    let name = |column: &ast::IndexColumn| {
        let ast::Expr::Identifier(ident) = &column.column.expr else {
            return Err(SqlError::not_supported("a key that is not of whole columns"));
        };
        refuse([(column.column.options.sort == Some(ast::OrderBySort::Desc), "descending keys")])?;
        Ok(ident.value.clone())
    };
    columns.iter().map(name).collect()
}

/// The places of a key's columns.
pub(super) fn key_of(columns: &[Column], names: &[String]) -> Result<Vec<u16>, SqlError> {
    let mut key: Vec<u16> = Vec::new();
    let mut bytes = 0;
    for name in names {
        let Some(index) = find_column(columns, name) else {
            let text = format!("Key column '{name}' doesn't exist in table");
            return Err(SqlError::new(codes::NO_KEY_COLUMN, text));
        };
        if key.contains(&(index as u16)) {
            return Err(SqlError::new(codes::DUPLICATE_COLUMN, format!("Duplicate column name '{name}'")));
        }
        let column = &columns[index];
        if SqlType::of_column(column).is_long() {
            let text = format!("BLOB/TEXT column '{name}' used in key specification without a key length");
            return Err(SqlError::new(codes::BLOB_KEY, text));
        }
        // As MySQL counts them in utf8mb4, of any key.
        bytes += column.column_type.index_bytes_max();
        key.push(index as u16);
    }
    if bytes > KEY_BYTES_MAX {
        let text = format!("Specified key was too long; max key length is {KEY_BYTES_MAX} bytes");
        return Err(SqlError::new(codes::KEY_TOO_LONG, text));
    }
    Ok(key)
}

/// An index's name. One without a name has that of its first column, and a number if that is taken.
pub(super) fn index_name(name: Option<&String>, first: &str, indexes: &[Index]) -> Result<String, SqlError> {
    let taken = |name: &str| indexes.iter().any(|index| index.name.to_lowercase() == name.to_lowercase());
    let name = match name {
        Some(name) if name.eq_ignore_ascii_case(PRIMARY) => {
            return Err(SqlError::new(codes::WRONG_KEY_NAME, format!("Incorrect index name '{name}'")));
        }
        Some(name) if taken(name) => return Err(duplicate_name(name)),
        Some(name) => name.clone(),
        None => {
            let numbered = (2..).map(|number| format!("{first}_{number}"));
            let names = std::iter::once(first.to_owned()).chain(numbered);
            { names }.find(|name| !taken(name)).expect("numbers do not end")
        }
    };
    check_name(&name)?;
    Ok(name)
}
