//! SELECT.

use std::cell::RefCell;

use sqlparser::ast;
use twofold_proto::operation::LockMode;

use super::{
    Aggregate, Binder,
    expr::{AGGREGATES, Names},
    from::{From, Made, Rows, Source, What},
    refuse,
    subquery::{Apply, Frame, Given},
};
use crate::sql::{
    error::{SqlError, codes},
    expression::Expr,
    value::Datum,
    wire::result::{Origin, ResultColumn},
};

/// Columns that a query gives, as in MySQL.
const OUTPUT_MAX: usize = 4096;

/// The lock that the rows of a SELECT are read with.
pub type Lock = LockMode;

/// A value that a SELECT gives for each row.
#[derive(Clone, PartialEq, Debug)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// What it is, of a row of the source: a joined one, or one of groups.
    pub expr: Expr,
    /// The column of joined rows that it is, if it is one.
    pub column: Option<usize>,
}

/// A key by which rows are sorted.
#[derive(Clone, PartialEq, Debug)]
pub struct Order {
    /// What it is, of a row of the source.
    pub expr: Expr,
    /// The largest first.
    pub descending: bool,
}

/// How rows are grouped. A row of the groups is the keys' values, then the aggregates'.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// Rows that are equal in these are one group; without any there is one group, be there rows or not.
    pub keys: Vec<Expr>,
    /// What is made of a group.
    pub aggregates: Vec<Aggregate>,
    /// Only groups for which this holds.
    pub having: Option<Expr>,
}

/// A SELECT.
#[derive(Clone, PartialEq, Debug)]
pub struct Select {
    /// Where its rows come from.
    pub from: From,
    /// What is known before it runs.
    pub given: Vec<Given>,
    /// Subqueries of each row. Their answers are columns behind those of `from`.
    pub applied: Vec<Apply>,
    /// Only rows for which this holds.
    pub filter: Option<Expr>,
    /// How they are grouped.
    pub group: Option<Group>,
    /// What is given of each.
    pub output: Vec<Output>,
    /// Equal ones once.
    pub distinct: bool,
    /// In which order.
    pub order: Vec<Order>,
    /// How many at most.
    pub limit: Option<Expr>,
    /// After how many others.
    pub offset: Option<Expr>,
    /// The lock on the rows.
    pub lock: Lock,
}

impl Select {
    /// The columns of its result.
    pub fn columns(&self, parameters: &[Datum]) -> Vec<ResultColumn> {
        self.output.iter().map(|output| self.column(output, parameters)).collect()
    }

    fn column(&self, output: &Output, parameters: &[Datum]) -> ResultColumn {
        let sql_type = match &output.expr {
            // Types of aggregates may depend on placeholders.
            Expr::Column(index, sql_type) => match &self.group {
                Some(group) if *index >= group.keys.len() => {
                    let aggregate = group.aggregates.get(index - group.keys.len());
                    aggregate.map_or(*sql_type, |aggregate| aggregate.sql_type(parameters))
                }
                _ => *sql_type,
            },
            other => other.sql_type(parameters),
        };
        let computed = ResultColumn::computed(&output.name, sql_type);
        let Some((source, index)) = output.column.and_then(|column| self.from.source_of(column)) else {
            return computed;
        };
        let Some(table) = source.table() else {
            return ResultColumn { alias: source.alias.clone(), ..computed };
        };
        let column = &table.schema.columns[index];
        ResultColumn {
            origin: Some(Origin {
                database: table.name.database.clone(),
                table: table.name.table.clone(),
                column: column.name.clone(),
                in_key: table.schema.primary_key.contains(&(index as u16)),
                auto_increment: table.columns[index].auto_increment,
            }),
            alias: table.alias.clone(),
            nullable: column.nullable,
            ..computed
        }
    }
}

impl Binder<'_> {
    /// `named`: it is the statement itself, whose text names what has no name. `parent`: what names mean around it.
    pub(super) fn query(
        &self,
        query: &ast::Query,
        named: bool,
        parent: Option<&Names<'_>>,
    ) -> Result<Select, SqlError> {
        let ast::Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        refuse([
            (with.is_some(), "WITH"),
            (fetch.is_some(), "FETCH"),
            (for_clause.is_some(), "FOR in queries"),
            (settings.is_some(), "SETTINGS"),
            (format_clause.is_some(), "FORMAT"),
            (!pipe_operators.is_empty(), "pipes"),
        ])?;
        let mut bound = match &**body {
            ast::SetExpr::Select(select) => self.select(select, order_by.as_ref(), named, parent)?,
            ast::SetExpr::SetOperation { op: ast::SetOperator::Union, .. } => {
                self.union(body, order_by.as_ref(), named, parent)?
            }
            ast::SetExpr::Query(inner) => match (order_by, limit_clause) {
                (None, None) => self.query(inner, named, parent)?,
                _ => self.union(body, order_by.as_ref(), named, parent)?,
            },
            ast::SetExpr::SetOperation { op, .. } => return Err(SqlError::not_supported(op)),
            ast::SetExpr::Values(_) => return Err(SqlError::not_supported("VALUES as a query")),
            _ => return Err(SqlError::not_supported("such a query")),
        };
        (bound.limit, bound.offset) = match limit_clause {
            None => (bound.limit, bound.offset),
            Some(ast::LimitClause::LimitOffset { limit, offset, limit_by }) => {
                refuse([(!limit_by.is_empty(), "LIMIT BY")])?;
                let offset = offset.as_ref().map(|offset| &offset.value);
                (self.count(limit.as_ref())?, self.count(offset)?)
            }
            Some(ast::LimitClause::OffsetCommaLimit { offset, limit }) => {
                (self.count(Some(limit))?, self.count(Some(offset))?)
            }
        };
        let is_made = |source: &Source| matches!(&source.rows, Rows::Made(Made { what: What::Parts(_), .. }));
        for lock in locks {
            refuse([
                (bound.from.sources.iter().any(is_made), "locking reads of a UNION or a derived table"),
                (lock.of.is_some(), "OF in locking reads"),
                (lock.nonblock == Some(ast::NonBlock::Nowait), "NOWAIT"),
                (lock.nonblock == Some(ast::NonBlock::SkipLocked), "SKIP LOCKED"),
            ])?;
            bound.lock = match lock.lock_type {
                ast::LockType::Share => LockMode::Shared.max(bound.lock),
                ast::LockType::Update => LockMode::Exclusive,
            };
        }
        Ok(bound)
    }

    /// A number of rows.
    pub(super) fn count(&self, count: Option<&ast::Expr>) -> Result<Option<Expr>, SqlError> {
        let Some(count) = count else { return Ok(None) };
        match self.expr(count, &Names::none("limit clause"))? {
            bound @ (Expr::Parameter(_) | Expr::Constant(Datum::Int(0..) | Datum::UInt(_), _)) => {
                Ok(Some(bound))
            }
            _ => Err(SqlError::new(
                codes::SYNTAX,
                format!("You have an error in your SQL syntax: LIMIT {count}"),
            )),
        }
    }

    pub(super) fn select(
        &self,
        select: &ast::Select,
        order_by: Option<&ast::OrderBy>,
        named: bool,
        parent: Option<&Names<'_>>,
    ) -> Result<Select, SqlError> {
        check_clauses(select)?;
        let distinct = match &select.distinct {
            None | Some(ast::Distinct::All) => false,
            Some(ast::Distinct::Distinct) => true,
            Some(ast::Distinct::On(_)) => return Err(SqlError::not_supported("DISTINCT ON")),
        };
        let frame = Frame { parent, ..Frame::default() };
        let within = |clause| Names { frame: Some(&frame), ..Names::none(clause) };
        let (from, mut conditions) = self.from(&select.from, &within("from clause"))?;
        frame.width.set(Some(from.width()));
        let of = |clause| Names { frame: Some(&frame), ..Names::of(&from, clause) };
        if let Some(filter) = &select.selection {
            conditions.extend_from_slice(self.expr(filter, &of("where clause"))?.conjuncts());
        }
        let aggregates = RefCell::new(Vec::new());
        let mut output = self.output(select, &from, &frame, &aggregates, named)?;
        let aliases: Vec<(String, Expr)> =
            output.iter().map(|output| (output.name.clone(), output.expr.clone())).collect();
        let names = |clause| Names { aggregates: Some(&aggregates), aliases: &aliases, ..of(clause) };
        let keys = self.group_keys(&select.group_by, &of("group statement"), &output)?;
        let mut having = match &select.having {
            Some(having) => Some(self.expr(having, &names("having clause"))?),
            None => None,
        };
        let mut order = self.order(order_by, &names("order clause"), &output)?;
        let aggregates = aggregates.take();
        let group = if keys.is_empty() && aggregates.is_empty() {
            // Without groups it is a filter of rows, that may use the names of what is selected.
            None
        } else {
            for output in &mut output {
                let expr = std::mem::replace(&mut output.expr, Expr::NULL);
                output.expr = regroup(expr, &keys, &from)?;
            }
            for order in &mut order {
                order.expr = regroup(std::mem::replace(&mut order.expr, Expr::NULL), &keys, &from)?;
            }
            let having = having.take().map(|having| regroup(having, &keys, &from)).transpose()?;
            Some(Group { keys, aggregates, having })
        };
        conditions.extend(having.iter().flat_map(Expr::conjuncts).cloned());
        let filter = match conditions.len() {
            0 | 1 => conditions.pop(),
            _ => Some(Expr::All(conditions)),
        };
        if distinct && order.iter().any(|order| !output.iter().any(|output| output.expr == order.expr)) {
            return Err(SqlError::not_supported("ORDER BY of what SELECT DISTINCT does not give"));
        }
        let (given, applied) = (frame.given.take(), frame.applied.take());
        let (limit, offset, lock) = (None, None, LockMode::None);
        Ok(Select { from, given, applied, filter, group, output, distinct, order, limit, offset, lock })
    }

    fn output(
        &self,
        select: &ast::Select,
        from: &From,
        frame: &Frame<'_>,
        aggregates: &RefCell<Vec<Aggregate>>,
        named: bool,
    ) -> Result<Vec<Output>, SqlError> {
        let names =
            Names { aggregates: Some(aggregates), frame: Some(frame), ..Names::of(from, "field list") };
        let mut output = Vec::new();
        for (index, item) in select.projection.iter().enumerate() {
            check_width(output.len() + 1)?;
            let (expr, alias) = match item {
                ast::SelectItem::UnnamedExpr(expr) => (expr, None),
                ast::SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias.value.clone())),
                ast::SelectItem::Wildcard(_) => {
                    output.extend(all_columns(from, None)?);
                    continue;
                }
                ast::SelectItem::QualifiedWildcard(
                    ast::SelectItemQualifiedWildcardKind::ObjectName(name),
                    _,
                ) => {
                    output.extend(all_columns(from, Some(&super::identifiers(name)?))?);
                    continue;
                }
                _ => return Err(SqlError::not_supported(item)),
            };
            let bound = self.expr(expr, &names)?;
            let column = match &bound {
                Expr::Column(index, _) if *index < from.width() => Some(*index),
                _ => None,
            };
            let own = |column: usize| from.source_of(column).map(|(source, at)| source.name(at).to_owned());
            let text = || self.parsed.items.get(index).filter(|_| named).cloned();
            let literal = match (&bound, expr) {
                (Expr::Constant(Datum::Text(text), _), ast::Expr::Value(_)) => Some(text.clone()),
                _ => None,
            };
            let name = alias
                .or_else(|| column.and_then(own))
                .or(literal)
                .or_else(text)
                .unwrap_or_else(|| expr.to_string());
            output.push(Output { name, expr: bound, column });
        }
        check_width(output.len())?;
        Ok(output)
    }

    fn group_keys(
        &self,
        group_by: &ast::GroupByExpr,
        names: &Names<'_>,
        output: &[Output],
    ) -> Result<Vec<Expr>, SqlError> {
        let ast::GroupByExpr::Expressions(list, modifiers) = group_by else {
            return Err(SqlError::not_supported("GROUP BY ALL"));
        };
        refuse([(!modifiers.is_empty(), "WITH ROLLUP")])?;
        let key = |expr: &ast::Expr| {
            if let Some(index) = position(expr, output.len(), "group statement")? {
                return Ok(output[index].expr.clone());
            }
            let bound = self.expr(expr, names);
            match (expr, &bound) {
                (ast::Expr::Identifier(ident), Err(_)) => {
                    let named = output.iter().find(|output| output.name.eq_ignore_ascii_case(&ident.value));
                    named.map_or(bound, |output| Ok(output.expr.clone()))
                }
                _ => bound,
            }
        };
        let keys: Vec<Expr> = list.iter().map(key).collect::<Result<_, SqlError>>()?;
        if keys.iter().any(uses_aggregate) {
            return Err(SqlError::new(codes::MISPLACED_AGGREGATE, "Invalid use of group function"));
        }
        Ok(keys)
    }

    /// The keys of ORDER BY.
    pub(super) fn order(
        &self,
        order_by: Option<&ast::OrderBy>,
        names: &Names<'_>,
        output: &[Output],
    ) -> Result<Vec<Order>, SqlError> {
        let list = match order_by {
            None => return Ok(Vec::new()),
            Some(ast::OrderBy { kind: ast::OrderByKind::Expressions(list), interpolate: None }) => list,
            Some(_) => return Err(SqlError::not_supported("such an ORDER BY")),
        };
        self.order_list(list, names, output)
    }

    /// The keys of ORDER BY.
    pub(super) fn order_list(
        &self,
        list: &[ast::OrderByExpr],
        names: &Names<'_>,
        output: &[Output],
    ) -> Result<Vec<Order>, SqlError> {
        let key = |order: &ast::OrderByExpr| {
            refuse([
                (order.options.nulls_first.is_some(), "NULLS FIRST"),
                (order.with_fill.is_some(), "WITH FILL"),
            ])?;
            let descending = match &order.options.sort {
                None | Some(ast::OrderBySort::Asc) => false,
                Some(ast::OrderBySort::Desc) => true,
                Some(_) => return Err(SqlError::not_supported("ORDER BY USING")),
            };
            let expr = match position(&order.expr, output.len(), names.clause)? {
                Some(index) => output[index].expr.clone(),
                None => self.expr(&order.expr, names)?,
            };
            Ok(Order { expr, descending })
        };
        list.iter().map(key).collect()
    }
}

/// What is selected at this place, if a number says so.
fn position(expr: &ast::Expr, count: usize, clause: &str) -> Result<Option<usize>, SqlError> {
    let ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::Number(text, _), .. }) = expr else {
        return Ok(None);
    };
    match text.parse::<usize>() {
        Ok(place) if count == 0 || (1..=count).contains(&place) => {
            Ok(place.checked_sub(1).filter(|_| count > 0))
        }
        _ => Err(SqlError::new(codes::UNKNOWN_COLUMN, format!("Unknown column '{text}' in '{clause}'"))),
    }
}

fn check_width(columns: usize) -> Result<(), SqlError> {
    if columns <= OUTPUT_MAX {
        return Ok(());
    }
    let text = format!("Too many columns; a query has at most {OUTPUT_MAX}");
    Err(SqlError::new(codes::TOO_MANY_COLUMNS, text))
}

fn all_columns(from: &From, of: Option<&[&str]>) -> Result<Vec<Output>, SqlError> {
    let meant = |source: &&Source| of.is_some_and(|of| source.is_meant(of));
    let columns: Vec<usize> = match of {
        None => from.star.clone(),
        Some(_) => from.sources.iter().find(meant).map(|source| source.range().collect()).unwrap_or_default(),
    };
    let output = |column: usize| {
        let (source, at) = from.source_of(column)?;
        let expr = Expr::Column(column, source.sql_type(at));
        Some(Output { name: source.name(at).to_owned(), expr, column: Some(column) })
    };
    let output: Vec<Output> = columns.into_iter().filter_map(output).collect();
    match (output.is_empty(), of) {
        (false, _) => Ok(output),
        (true, None) => Err(SqlError::new(codes::NO_TABLES_USED, "No tables used")),
        (true, Some(of)) => {
            Err(SqlError::new(codes::NO_TABLE_TO_DROP, format!("Unknown table '{}'", of.join("."))))
        }
    }
}

fn uses_aggregate(expr: &Expr) -> bool {
    let mut uses = false;
    expr.each_column(&mut |column| uses |= column >= AGGREGATES);
    uses
}

/// The same of a row of groups.
fn regroup(expr: Expr, keys: &[Expr], from: &From) -> Result<Expr, SqlError> {
    if let Some(index) = keys.iter().position(|key| *key == expr) {
        return Ok(Expr::Column(index, expr.sql_type(&[])));
    }
    match expr {
        Expr::Column(index, sql_type) if index >= AGGREGATES => {
            Ok(Expr::Column(keys.len() + index - AGGREGATES, sql_type))
        }
        Expr::Column(index, _) => {
            let Some((source, at)) = from.source_of(index) else {
                return Err(SqlError::not_supported("a correlated subquery of groups"));
            };
            let text = format!("'{}' isn't in GROUP BY", source.name(at));
            Err(SqlError::new(codes::NOT_GROUPED, text))
        }
        other => other.map_children(&mut |child| regroup(child, keys, from)),
    }
}

/// Refuses what other dialects have, and MySQL's that is not supported.
fn check_clauses(select: &ast::Select) -> Result<(), SqlError> {
    let ast::Select {
        select_token: _,
        optimizer_hints: _,
        distinct: _,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection: _,
        exclude,
        into,
        from: _,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        group_by: _,
        cluster_by,
        distribute_by,
        sort_by,
        having: _,
        named_window,
        qualify,
        window_before_qualify: _,
        value_table_mode,
        flavor,
    } = select;
    let modifiers = select_modifiers.as_ref().map(ToString::to_string).unwrap_or_default();
    if !modifiers.trim().is_empty() {
        return Err(SqlError::not_supported(modifiers.trim()));
    }
    refuse([
        (into.is_some(), "SELECT INTO"),
        (!named_window.is_empty(), "window functions"),
        (top.is_some() || exclude.is_some() || prewhere.is_some() || qualify.is_some(), "such a SELECT"),
        (!lateral_views.is_empty() || !connect_by.is_empty() || value_table_mode.is_some(), "such a SELECT"),
        (!cluster_by.is_empty() || !distribute_by.is_empty() || !sort_by.is_empty(), "such a SELECT"),
        (*flavor != ast::SelectFlavor::Standard, "such a SELECT"),
    ])
}
