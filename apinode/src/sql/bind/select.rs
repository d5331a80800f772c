//! SELECT.

use std::cell::RefCell;

use sqlparser::ast;
use twofold_proto::operation::LockMode;

use super::{
    Aggregate, Binder, BoundTable,
    expr::{AGGREGATES, Names},
    refuse,
};
use crate::sql::{
    error::{SqlError, codes},
    expression::Expr,
    value::Datum,
    wire::result::{Origin, ResultColumn},
};

/// The lock that the rows of a SELECT are read with.
pub type Lock = LockMode;

/// A value that a SELECT gives for each row.
#[derive(Clone, PartialEq, Debug)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// What it is, of a row of the source: of the table, or of groups.
    pub expr: Expr,
    /// The column of the table that it is, if it is one.
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
    /// The table; without one there is one row, without columns.
    pub table: Option<BoundTable>,
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
        let (Some(table), Some(index)) = (&self.table, output.column) else { return computed };
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
    /// `named`: it is the statement itself, whose text names what has no name.
    pub(super) fn query(&self, query: &ast::Query, named: bool) -> Result<Select, SqlError> {
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
        let select = match &**body {
            ast::SetExpr::Select(select) => select,
            ast::SetExpr::SetOperation { op, .. } => return Err(SqlError::not_supported(op)),
            ast::SetExpr::Query(_) => return Err(SqlError::not_supported("queries in parentheses")),
            ast::SetExpr::Values(_) => return Err(SqlError::not_supported("VALUES as a query")),
            _ => return Err(SqlError::not_supported("such a query")),
        };
        let mut bound = self.select(select, order_by.as_ref(), named)?;
        (bound.limit, bound.offset) = match limit_clause {
            None => (None, None),
            Some(ast::LimitClause::LimitOffset { limit, offset, limit_by }) => {
                refuse([(!limit_by.is_empty(), "LIMIT BY")])?;
                let offset = offset.as_ref().map(|offset| &offset.value);
                (self.count(limit.as_ref())?, self.count(offset)?)
            }
            Some(ast::LimitClause::OffsetCommaLimit { offset, limit }) => {
                (self.count(Some(limit))?, self.count(Some(offset))?)
            }
        };
        for lock in locks {
            refuse([
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
        match self.expr(count, &Names::of(None, "limit clause"))? {
            bound @ (Expr::Parameter(_) | Expr::Constant(Datum::Int(0..) | Datum::UInt(_), _)) => {
                Ok(Some(bound))
            }
            _ => Err(SqlError::new(
                codes::SYNTAX,
                format!("You have an error in your SQL syntax: LIMIT {count}"),
            )),
        }
    }

    fn select(
        &self,
        select: &ast::Select,
        order_by: Option<&ast::OrderBy>,
        named: bool,
    ) -> Result<Select, SqlError> {
        check_clauses(select)?;
        let distinct = match &select.distinct {
            None | Some(ast::Distinct::All) => false,
            Some(ast::Distinct::Distinct) => true,
            Some(ast::Distinct::On(_)) => return Err(SqlError::not_supported("DISTINCT ON")),
        };
        let table = self.from(&select.from)?;
        let table = table.as_ref();
        let filter = match &select.selection {
            Some(filter) => Some(self.expr(filter, &Names::of(table, "where clause"))?),
            None => None,
        };
        let aggregates = RefCell::new(Vec::new());
        let mut output = self.output(select, table, &aggregates, named)?;
        let aliases: Vec<(String, Expr)> =
            output.iter().map(|output| (output.name.clone(), output.expr.clone())).collect();
        let names =
            |clause| Names { aggregates: Some(&aggregates), aliases: &aliases, ..Names::of(table, clause) };
        let keys = self.group_keys(&select.group_by, table, &output)?;
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
                output.expr = regroup(expr, &keys, table)?;
            }
            for order in &mut order {
                order.expr = regroup(std::mem::replace(&mut order.expr, Expr::NULL), &keys, table)?;
            }
            let having = having.take().map(|having| regroup(having, &keys, table)).transpose()?;
            Some(Group { keys, aggregates, having })
        };
        let filter = match (filter, having) {
            (Some(filter), Some(having)) => Some(Expr::All(vec![filter, having])),
            (filter, having) => filter.or(having),
        };
        if distinct && order.iter().any(|order| !output.iter().any(|output| output.expr == order.expr)) {
            return Err(SqlError::not_supported("ORDER BY of what SELECT DISTINCT does not give"));
        }
        let (limit, offset, lock) = (None, None, LockMode::None);
        Ok(Select { table: table.cloned(), filter, group, output, distinct, order, limit, offset, lock })
    }

    /// The one table of a statement.
    pub(super) fn from(&self, from: &[ast::TableWithJoins]) -> Result<Option<BoundTable>, SqlError> {
        let relation = match from {
            [] => return Ok(None),
            [ast::TableWithJoins { relation, joins }] if joins.is_empty() => relation,
            _ => return Err(SqlError::not_supported("joins")),
        };
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
        } = relation
        else {
            return Err(SqlError::not_supported("derived tables"));
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
        self.table(name, alias.as_ref()).map(Some)
    }

    fn output(
        &self,
        select: &ast::Select,
        table: Option<&BoundTable>,
        aggregates: &RefCell<Vec<Aggregate>>,
        named: bool,
    ) -> Result<Vec<Output>, SqlError> {
        let names = Names { aggregates: Some(aggregates), ..Names::of(table, "field list") };
        let mut output = Vec::new();
        for (index, item) in select.projection.iter().enumerate() {
            let (expr, alias) = match item {
                ast::SelectItem::UnnamedExpr(expr) => (expr, None),
                ast::SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias.value.clone())),
                ast::SelectItem::Wildcard(_) => {
                    output.extend(all_columns(table, None)?);
                    continue;
                }
                ast::SelectItem::QualifiedWildcard(
                    ast::SelectItemQualifiedWildcardKind::ObjectName(name),
                    _,
                ) => {
                    output.extend(all_columns(table, Some(&super::identifiers(name)?))?);
                    continue;
                }
                _ => return Err(SqlError::not_supported(item)),
            };
            let bound = self.expr(expr, &names)?;
            let column = match &bound {
                Expr::Column(index, _) if *index < AGGREGATES => Some(*index),
                _ => None,
            };
            let own = |table: &BoundTable, column: usize| table.schema.columns[column].name.clone();
            let text = || self.parsed.items.get(index).filter(|_| named).cloned();
            let literal = match (&bound, expr) {
                (Expr::Constant(Datum::Text(text), _), ast::Expr::Value(_)) => Some(text.clone()),
                _ => None,
            };
            let name = alias
                .or_else(|| Some(own(table?, column?)))
                .or(literal)
                .or_else(text)
                .unwrap_or_else(|| expr.to_string());
            output.push(Output { name, expr: bound, column });
        }
        Ok(output)
    }

    fn group_keys(
        &self,
        group_by: &ast::GroupByExpr,
        table: Option<&BoundTable>,
        output: &[Output],
    ) -> Result<Vec<Expr>, SqlError> {
        let ast::GroupByExpr::Expressions(list, modifiers) = group_by else {
            return Err(SqlError::not_supported("GROUP BY ALL"));
        };
        refuse([(!modifiers.is_empty(), "WITH ROLLUP")])?;
        let names = Names::of(table, "group statement");
        let key = |expr: &ast::Expr| {
            if let Some(index) = position(expr, output.len(), "group statement")? {
                return Ok(output[index].expr.clone());
            }
            let bound = self.expr(expr, &names);
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

fn all_columns(table: Option<&BoundTable>, of: Option<&[&str]>) -> Result<Vec<Output>, SqlError> {
    let table = table.filter(|table| match of {
        None => true,
        Some([alias]) => *alias == table.alias,
        Some([database, alias]) => *database == table.name.database && *alias == table.alias,
        Some(_) => false,
    });
    let Some(table) = table else {
        return Err(match of {
            None => SqlError::new(codes::NO_TABLES_USED, "No tables used"),
            Some(of) => SqlError::new(codes::NO_TABLE_TO_DROP, format!("Unknown table '{}'", of.join("."))),
        });
    };
    let column = |(index, column): (usize, &twofold_proto::schema::Column)| Output {
        name: column.name.clone(),
        expr: Expr::Column(index, table.sql_type(index)),
        column: Some(index),
    };
    Ok(table.schema.columns.iter().enumerate().map(column).collect())
}

fn uses_aggregate(expr: &Expr) -> bool {
    let mut uses = false;
    expr.each_column(&mut |column| uses |= column >= AGGREGATES);
    uses
}

/// The same of a row of groups.
fn regroup(expr: Expr, keys: &[Expr], table: Option<&BoundTable>) -> Result<Expr, SqlError> {
    if let Some(index) = keys.iter().position(|key| *key == expr) {
        return Ok(Expr::Column(index, expr.sql_type(&[])));
    }
    match expr {
        Expr::Column(index, sql_type) if index >= AGGREGATES => {
            Ok(Expr::Column(keys.len() + index - AGGREGATES, sql_type))
        }
        Expr::Column(index, _) => {
            let name = table.map_or("", |table| &table.schema.columns[index].name);
            let text = format!("'{name}' isn't in GROUP BY");
            Err(SqlError::new(codes::NOT_GROUPED, text))
        }
        other => other.map_children(&mut |child| regroup(child, keys, table)),
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
