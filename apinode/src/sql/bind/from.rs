//! FROM: tables, and how they are joined.

use std::ops::Range;

use sqlparser::ast;

use super::{Binder, BoundTable, TableName, expr::Names, refuse, select::Select};
use crate::sql::{
    error::{SqlError, codes},
    expression::{Binary, Expr},
    information::{DATABASE, View},
    types::SqlType,
};

/// Sources of a FROM.
const SOURCES_MAX: usize = 61;

/// A SELECT of a UNION.
#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    /// What it selects.
    pub select: Select,
    /// UNION ALL: its rows are added to those before it. Otherwise equal ones of all so far count once.
    pub all: bool,
}

/// Rows that are made here.
#[derive(Clone, PartialEq, Debug)]
pub struct Made {
    /// Names and types of its columns.
    pub columns: Vec<(String, SqlType)>,
    /// Where its rows come from.
    pub what: What,
}

/// Where rows come from that are made here.
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// A derived table or a UNION.
    Parts(Vec<Part>),
    /// What `information_schema` tells.
    View(View),
}

/// What a source's rows are.
#[derive(Clone, PartialEq, Debug)]
pub enum Rows {
    /// A table's.
    Table(BoundTable),
    /// Made here.
    Made(Made),
}

/// A table of a FROM, or what stands for one.
#[derive(Clone, PartialEq, Debug)]
pub struct Source {
    /// The name that it has in the statement.
    pub alias: String,
    /// Where its columns begin in a joined row.
    pub offset: usize,
    /// Its rows.
    pub rows: Rows,
}

impl Source {
    /// How many columns it has.
    pub fn width(&self) -> usize {
        match &self.rows {
            Rows::Table(table) => table.columns.len(),
            Rows::Made(made) => made.columns.len(),
        }
    }

    /// The places of its columns in a joined row.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.width()
    }

    /// The name of a column.
    pub fn name(&self, column: usize) -> &str {
        match &self.rows {
            Rows::Table(table) => &table.schema.columns[column].name,
            Rows::Made(made) => &made.columns[column].0,
        }
    }

    /// The type of a column.
    pub fn sql_type(&self, column: usize) -> SqlType {
        match &self.rows {
            Rows::Table(table) => table.sql_type(column),
            Rows::Made(made) => made.columns[column].1,
        }
    }

    /// The table, if it is one.
    pub fn table(&self) -> Option<&BoundTable> {
        match &self.rows {
            Rows::Table(table) => Some(table),
            Rows::Made(_) => None,
        }
    }

    fn database(&self) -> &str {
        self.table().map_or("", |table| &table.name.database)
    }

    /// Whether these words before a column's name mean this source.
    pub(super) fn is_meant(&self, qualifier: &[&str]) -> bool {
        match qualifier {
            [] => true,
            [alias] => *alias == self.alias,
            [database, alias] => *database == self.database() && *alias == self.alias,
            _ => false,
        }
    }
}

/// A part of a join.
#[derive(Clone, PartialEq, Debug)]
pub enum Item {
    /// The rows of a source, each with each.
    Source(usize),
    /// LEFT JOIN: rows of these for which the conditions hold; where there is none, one of NULLs.
    Left {
        /// What is joined to what stands before.
        items: Vec<Item>,
        /// Of ON, and of inner joins among the items.
        on: Vec<Expr>,
    },
}

impl Item {
    /// Calls with all sources within.
    pub fn each_source(&self, call: &mut dyn FnMut(usize)) {
        match self {
            Item::Source(source) => call(*source),
            Item::Left { items, .. } => items.iter().for_each(|item| item.each_source(call)),
        }
    }
}

/// Sources and how they are joined. A joined row has the columns of all sources, in the order in which they are written.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct From {
    /// The sources. Without any there is one row, without columns.
    pub sources: Vec<Source>,
    /// How they are joined; conditions of inner joins are the filter's.
    pub items: Vec<Item>,
    /// The columns that `*` means, and names alone.
    pub star: Vec<usize>,
}

impl From {
    /// One table.
    pub fn of_table(table: BoundTable) -> From {
        let alias = table.alias.clone();
        From::of_source(Source { alias, offset: 0, rows: Rows::Table(table) })
    }

    /// One source.
    pub fn of_source(source: Source) -> From {
        From { star: source.range().collect(), sources: vec![source], items: vec![Item::Source(0)] }
    }

    /// How many columns a joined row has.
    pub fn width(&self) -> usize {
        self.sources.last().map_or(0, |source| source.range().end)
    }

    /// The source of a column of joined rows, and its place there.
    pub fn source_of(&self, column: usize) -> Option<(&Source, usize)> {
        let source = self.sources.iter().find(|source| source.range().contains(&column))?;
        Some((source, column - source.offset))
    }

    /// The one table, if there is nothing else.
    pub fn only_table(&self) -> Option<&BoundTable> {
        match &self.sources[..] {
            [source] => source.table(),
            _ => None,
        }
    }
}

/// What a name alone may mean.
pub(super) fn column_of(
    sources: &[Source],
    star: &[usize],
    qualifier: &[&str],
    name: &str,
    clause: &str,
) -> Result<Option<(usize, SqlType)>, SqlError> {
    let places = |source: &Source| {
        let named = (0..source.width()).filter(|&column| source.name(column).eq_ignore_ascii_case(name));
        named.map(|column| (source.offset + column, source.sql_type(column))).collect::<Vec<_>>()
    };
    let meant = sources.iter().filter(|source| source.is_meant(qualifier));
    let mut found: Vec<(usize, SqlType)> = meant.flat_map(places).collect();
    if qualifier.is_empty() {
        // Of columns that were made one only one counts.
        found.retain(|(column, _)| star.contains(column));
    }
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => {
            let full = qualifier.iter().chain([&name]).copied().collect::<Vec<_>>().join(".");
            Err(SqlError::new(codes::AMBIGUOUS_COLUMN, format!("Column '{full}' in '{clause}' is ambiguous")))
        }
    }
}

/// A part of a FROM while it is bound.
#[derive(Default)]
struct Joined {
    items: Vec<Item>,
    /// That have to hold, beside those of the items.
    conditions: Vec<Expr>,
    /// The columns that `*` means.
    star: Vec<usize>,
    /// The sources.
    sources: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inner,
    Left,
    Right,
}

impl Binder<'_> {
    /// FROM, and the conditions of its inner joins.
    pub(super) fn from(
        &self,
        list: &[ast::TableWithJoins],
        names: &Names<'_>,
    ) -> Result<(From, Vec<Expr>), SqlError> {
        let mut sources = Vec::new();
        let mut all = Joined::default();
        for part in list {
            let joined = self.joined(&mut sources, part, names)?;
            all.items.extend(joined.items);
            all.conditions.extend(joined.conditions);
            all.star.extend(joined.star);
        }
        Ok((From { sources, items: all.items, star: all.star }, all.conditions))
    }

    fn joined(
        &self,
        sources: &mut Vec<Source>,
        part: &ast::TableWithJoins,
        names: &Names<'_>,
    ) -> Result<Joined, SqlError> {
        let mut left = self.factor(sources, &part.relation, names)?;
        for join in &part.joins {
            use ast::JoinOperator as Operator;
            let (kind, constraint) = match &join.join_operator {
                Operator::Join(on) | Operator::Inner(on) | Operator::CrossJoin(on) => (Kind::Inner, on),
                Operator::Left(on) | Operator::LeftOuter(on) => (Kind::Left, on),
                Operator::Right(on) | Operator::RightOuter(on) => (Kind::Right, on),
                Operator::StraightJoin(_) => return Err(SqlError::not_supported("STRAIGHT_JOIN")),
                _ => return Err(SqlError::not_supported("such a join")),
            };
            refuse([(join.global, "GLOBAL joins")])?;
            let right = self.factor(sources, &join.relation, names)?;
            left = self.join(sources, left, right, kind, constraint, names)?;
        }
        Ok(left)
    }

    fn factor(
        &self,
        sources: &mut Vec<Source>,
        factor: &ast::TableFactor,
        names: &Names<'_>,
    ) -> Result<Joined, SqlError> {
        let (alias, rows) = match factor {
            ast::TableFactor::NestedJoin { table_with_joins, alias: None } => {
                return self.joined(sources, table_with_joins, names);
            }
            ast::TableFactor::Derived { lateral, subquery, alias, sample: None } => {
                refuse([(*lateral, "LATERAL")])?;
                let none =
                    || SqlError::new(codes::NO_DERIVED_ALIAS, "Every derived table must have its own alias");
                let alias = alias.as_ref().ok_or_else(none)?;
                let mut made = self.made(subquery)?;
                if !alias.columns.is_empty() {
                    if alias.columns.len() != made.columns.len() {
                        let text = "In definition of view, derived table or common table expression, SELECT list and column \
                                    names list have different column counts";
                        return Err(SqlError::new(codes::NAME_COUNT, text));
                    }
                    for (column, named) in made.columns.iter_mut().zip(&alias.columns) {
                        column.0 = named.name.value.clone();
                    }
                }
                for (index, (name, _)) in made.columns.iter().enumerate() {
                    if made.columns[..index].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                        let text = format!("Duplicate column name '{name}'");
                        return Err(SqlError::new(codes::DUPLICATE_COLUMN, text));
                    }
                }
                (alias.name.value.clone(), Rows::Made(made))
            }
            other => match self.named(other)? {
                Some((name, alias)) => {
                    let shown = alias.clone().unwrap_or_else(|| name.table.clone());
                    let rows = match self.view(&name)? {
                        Some(view) => Rows::Made(Made { columns: view.columns(), what: What::View(view) }),
                        None => Rows::Table(self.table_of(name, alias)?),
                    };
                    (shown, rows)
                }
                None => {
                    return Ok(Joined { sources: sources.len()..sources.len(), ..Joined::default() });
                }
            },
        };
        let offset = sources.last().map_or(0, |source| source.range().end);
        let source = Source { alias, offset, rows };
        if sources.iter().any(|other| other.alias == source.alias && other.database() == source.database()) {
            let text = format!("Not unique table/alias: '{}'", source.alias);
            return Err(SqlError::new(codes::SAME_ALIAS, text));
        }
        if sources.len() == SOURCES_MAX {
            let text = format!("Too many tables; Twofold can only use {SOURCES_MAX} tables in a join");
            return Err(SqlError::new(codes::TOO_MANY_TABLES, text));
        }
        if source.range().end > usize::from(u16::MAX) {
            let text = format!("Too many columns; joined rows have at most {}", u16::MAX);
            return Err(SqlError::new(codes::TOO_MANY_COLUMNS, text));
        }
        let (place, star) = (sources.len(), source.range().collect());
        sources.push(source);
        Ok(Joined {
            items: vec![Item::Source(place)],
            conditions: Vec::new(),
            star,
            sources: place..place + 1,
        })
    }

    /// The name and the alias of a table; `None` for DUAL.
    pub(super) fn named(
        &self,
        factor: &ast::TableFactor,
    ) -> Result<Option<(TableName, Option<String>)>, SqlError> {
        let ast::TableFactor::Table {
            name,
            alias,
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } = factor
        else {
            return Err(SqlError::not_supported("such a table"));
        };
        refuse([
            (args.is_some(), "functions as tables"),
            (!with_hints.is_empty() || !index_hints.is_empty(), "index hints"),
            (version.is_some(), "versions of tables"),
            (*with_ordinality, "WITH ORDINALITY"),
            (!partitions.is_empty(), "PARTITION"),
            (json_path.is_some() || sample.is_some(), "such a table"),
        ])?;
        if name.to_string().eq_ignore_ascii_case("dual") {
            return Ok(None);
        }
        let alias = match alias {
            None => None,
            Some(alias) if alias.columns.is_empty() => Some(alias.name.value.clone()),
            Some(_) => return Err(SqlError::not_supported("names for the columns of a table")),
        };
        Ok(Some((self.table_name(name)?, alias)))
    }

    /// The table of `information_schema` that this is.
    fn view(&self, name: &TableName) -> Result<Option<View>, SqlError> {
        if !name.database.eq_ignore_ascii_case(DATABASE) {
            return Ok(None);
        }
        let unknown =
            || SqlError::new(codes::UNKNOWN_TABLE, format!("Unknown table '{}' in {DATABASE}", name.table));
        View::from_name(&name.table).map(Some).ok_or_else(unknown)
    }

    fn join(
        &self,
        sources: &[Source],
        left: Joined,
        right: Joined,
        kind: Kind,
        constraint: &ast::JoinConstraint,
        names: &Names<'_>,
    ) -> Result<Joined, SqlError> {
        let all = left.sources.start..right.sources.end;
        let mut star = [&left.star[..], &right.star].concat();
        if kind == Kind::Right && !matches!(constraint, ast::JoinConstraint::On(_)) {
            star.rotate_left(left.star.len());
        }
        let mut on = Vec::new();
        match constraint {
            ast::JoinConstraint::On(condition) => {
                let names =
                    Names { sources: &sources[all.clone()], star: &star, clause: "on clause", ..*names };
                on.extend_from_slice(self.expr(condition, &names)?.conjuncts());
            }
            ast::JoinConstraint::None if kind == Kind::Inner => {}
            ast::JoinConstraint::None => {
                let text = "You have an error in your SQL syntax: an outer join without a condition";
                return Err(SqlError::new(codes::SYNTAX, text));
            }
            ast::JoinConstraint::Using(_) | ast::JoinConstraint::Natural => {
                let common = common_columns(sources, &left, &right, constraint)?;
                let mut kept = Vec::with_capacity(common.len());
                for ((left, left_type), (right, right_type)) in common {
                    on.push(Expr::binary(
                        Binary::Equal,
                        Expr::Column(left, left_type),
                        Expr::Column(right, right_type),
                    ));
                    // The one that is never a NULL of the join's.
                    kept.push(if kind == Kind::Right { right } else { left });
                    star.retain(|column| *column != left && *column != right);
                }
                star.splice(..0, kept);
            }
        }
        let (outer, inner) = match kind {
            Kind::Inner => {
                let items = [left.items, right.items].concat();
                let conditions = [left.conditions, right.conditions, on].concat();
                return Ok(Joined { items, conditions, star, sources: all });
            }
            Kind::Left => (left, right),
            Kind::Right => (right, left),
        };
        let mut items = outer.items;
        items.push(Item::Left { items: inner.items, on: [inner.conditions, on].concat() });
        Ok(Joined { items, conditions: outer.conditions, star, sources: all })
    }
}

type Common = ((usize, SqlType), (usize, SqlType));

/// The columns that USING names, or that both sides have.
fn common_columns(
    sources: &[Source],
    left: &Joined,
    right: &Joined,
    constraint: &ast::JoinConstraint,
) -> Result<Vec<Common>, SqlError> {
    const CLAUSE: &str = "from clause";
    let of =
        |side: &Joined, name: &str| column_of(&sources[side.sources.clone()], &side.star, &[], name, CLAUSE);
    let wanted: Vec<String> = match constraint {
        ast::JoinConstraint::Using(names) => {
            let one = |name: &ast::ObjectName| super::identifier(name);
            names.iter().map(one).collect::<Result<_, SqlError>>()?
        }
        _ => {
            let name = |column: &usize| {
                let source = sources.iter().find(|source| source.range().contains(column))?;
                Some(source.name(column - source.offset).to_owned())
            };
            let mut names = Vec::new();
            for name in left.star.iter().filter_map(name) {
                if of(right, &name)?.is_some() {
                    names.push(name);
                }
            }
            names
        }
    };
    let unknown =
        |name: &str| SqlError::new(codes::UNKNOWN_COLUMN, format!("Unknown column '{name}' in '{CLAUSE}'"));
    let mut common: Vec<Common> = Vec::with_capacity(wanted.len());
    for name in &wanted {
        let found =
            (of(left, name)?.ok_or_else(|| unknown(name))?, of(right, name)?.ok_or_else(|| unknown(name))?);
        if !common.contains(&found) {
            common.push(found);
        }
    }
    // In the order of the table on the left.
    common.sort_by_key(|((column, _), _)| left.star.iter().position(|other| other == column));
    Ok(common)
}
