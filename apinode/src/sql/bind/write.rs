//! INSERT, REPLACE, UPDATE, DELETE.

use sqlparser::ast;

use super::{
    Apply, Binder, BoundTable, From, Given, Order, Select, Statement, expr::Names, refuse, subquery::Frame,
};
use crate::sql::{
    error::{SqlError, codes},
    expression::Expr,
};

/// What comes of a row whose key is there already.
#[derive(Clone, PartialEq, Debug)]
pub enum Conflict {
    /// The statement fails.
    Fail,
    /// IGNORE: the row that is there stays, with a warning.
    Ignore,
    /// REPLACE: the row that is there goes.
    Replace,
    /// ON DUPLICATE KEY UPDATE: columns of the row that is there change. Expressions are of it, followed by the new row.
    Update(Vec<(usize, Option<Expr>)>),
}

/// Where new rows come from.
#[derive(Clone, PartialEq, Debug)]
pub enum NewRows {
    /// They are written down; `None` is the column's default.
    Rows(Vec<Vec<Option<Expr>>>),
    /// They are selected.
    Select(Box<Select>),
}

/// INSERT and REPLACE.
#[derive(Clone, PartialEq, Debug)]
pub struct Insert {
    /// The table.
    pub table: BoundTable,
    /// The columns that have values.
    pub columns: Vec<usize>,
    /// Their values.
    pub source: NewRows,
    /// What if a row is there.
    pub conflict: Conflict,
    /// What is known before it runs.
    pub given: Vec<Given>,
}

/// UPDATE.
#[derive(Clone, PartialEq, Debug)]
pub struct Update {
    /// The table.
    pub table: BoundTable,
    /// What columns become, one after the other; `None` is the column's default.
    pub assignments: Vec<(usize, Option<Expr>)>,
    /// What is known before it runs.
    pub given: Vec<Given>,
    /// Subqueries of each row. Their answers are columns behind the table's.
    pub applied: Vec<Apply>,
    /// Only rows for which this holds.
    pub filter: Option<Expr>,
    /// Which first.
    pub order: Vec<Order>,
    /// How many at most.
    pub limit: Option<Expr>,
}

/// DELETE.
#[derive(Clone, PartialEq, Debug)]
pub struct Delete {
    /// The table.
    pub table: BoundTable,
    /// What is known before it runs.
    pub given: Vec<Given>,
    /// Subqueries of each row. Their answers are columns behind the table's.
    pub applied: Vec<Apply>,
    /// Only rows for which this holds.
    pub filter: Option<Expr>,
    /// Which first.
    pub order: Vec<Order>,
    /// How many at most.
    pub limit: Option<Expr>,
}

impl Binder<'_> {
    pub(super) fn insert(&self, insert: &ast::Insert) -> Result<Statement, SqlError> {
        let ast::Insert {
            insert_token: _,
            optimizer_hints: _,
            or,
            ignore,
            into: _,
            table,
            table_alias,
            columns,
            overwrite,
            source,
            assignments,
            partitioned,
            after_columns,
            has_table_keyword,
            on,
            returning,
            output,
            replace_into,
            priority,
            insert_alias,
            settings,
            format_clause,
            multi_table_insert_type,
            multi_table_into_clauses,
            multi_table_when_clauses,
            multi_table_else_clause,
        } = insert;
        refuse([
            (partitioned.is_some(), "PARTITION"),
            (returning.is_some(), "RETURNING"),
            (priority.is_some(), "LOW_PRIORITY, DELAYED and HIGH_PRIORITY"),
            (insert_alias.is_some() || table_alias.is_some(), "aliases in INSERT"),
            (or.is_some() || *overwrite || output.is_some() || *has_table_keyword, "such an INSERT"),
            (!after_columns.is_empty() || settings.is_some() || format_clause.is_some(), "such an INSERT"),
            (multi_table_insert_type.is_some() || !multi_table_into_clauses.is_empty(), "such an INSERT"),
            (!multi_table_when_clauses.is_empty() || multi_table_else_clause.is_some(), "such an INSERT"),
        ])?;
        let ast::TableObject::TableName(name) = table else {
            return Err(SqlError::not_supported("such an INSERT"));
        };
        let table = self.table_of(self.table_name(name)?, None)?;
        let frame = Frame::default();
        let from = From::of_table(table.clone());
        let names = Names { frame: Some(&frame), ..Names::of(&from, "field list") };
        let (columns, source) = if assignments.is_empty() {
            let named: Result<Vec<usize>, SqlError> =
                columns.iter().map(|name| column(&names, name)).collect();
            let all = || (0..table.columns.len()).collect();
            let named = if columns.is_empty() { all() } else { named? };
            let source = source.as_ref().ok_or_else(|| SqlError::not_supported("INSERT without VALUES"))?;
            (named, self.source(source, &names)?)
        } else {
            let set = self.assignments(assignments, &names)?;
            let (columns, values) = set.into_iter().unzip();
            (columns, NewRows::Rows(vec![values]))
        };
        for (index, column) in columns.iter().enumerate() {
            if columns[..index].contains(column) {
                let name = &table.schema.columns[*column].name;
                return Err(SqlError::new(codes::COLUMN_TWICE, format!("Column '{name}' specified twice")));
            }
        }
        let count =
            |row: usize, found: usize, nothing_said: bool| match found == columns.len() || nothing_said {
                true => Ok(()),
                false => Err(SqlError::new(
                    codes::VALUE_COUNT,
                    format!("Column count doesn't match value count at row {row}"),
                )),
            };
        match &source {
            NewRows::Rows(rows) => {
                let empty = insert.columns.is_empty();
                rows.iter()
                    .enumerate()
                    .try_for_each(|(index, row)| count(index + 1, row.len(), empty && row.is_empty()))?;
            }
            NewRows::Select(select) => count(1, select.output.len(), false)?,
        }
        let conflict = match on {
            _ if *replace_into => Conflict::Replace,
            None if *ignore => Conflict::Ignore,
            None => Conflict::Fail,
            Some(_) if *ignore => return Err(SqlError::not_supported("IGNORE with ON DUPLICATE KEY UPDATE")),
            Some(ast::OnInsert::DuplicateKeyUpdate(list)) => {
                let names = Names { new_row: true, frame: None, ..names };
                let changes = self.assignments(list, &names)?;
                refuse_key_changes(&table, &changes)?;
                Conflict::Update(changes)
            }
            Some(_) => return Err(SqlError::not_supported("ON CONFLICT")),
        };
        let given = frame.given.take();
        Ok(Statement::Insert(Box::new(Insert { columns, source, conflict, given, table })))
    }

    fn source(&self, query: &ast::Query, names: &Names<'_>) -> Result<NewRows, SqlError> {
        let ast::SetExpr::Values(values) = &*query.body else {
            return self.query(query, false, None).map(|select| NewRows::Select(Box::new(select)));
        };
        let rest = query.with.is_some() || query.order_by.is_some() || query.limit_clause.is_some();
        refuse([(rest, "such VALUES"), (values.explicit_row, "VALUES ROW")])?;
        let row = |row: &ast::Parens<Vec<ast::Expr>>| {
            row.content
                .iter()
                .map(|expr| self.or_default(expr, &Names { frame: names.frame, ..Names::none(names.clause) }))
                .collect()
        };
        Ok(NewRows::Rows(values.rows.iter().map(row).collect::<Result<_, SqlError>>()?))
    }

    /// An expression; `None` for DEFAULT.
    fn or_default(&self, expr: &ast::Expr, names: &Names<'_>) -> Result<Option<Expr>, SqlError> {
        match expr {
            ast::Expr::Identifier(ident)
                if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default") =>
            {
                Ok(None)
            }
            other => self.expr(other, names).map(Some),
        }
    }

    fn assignments(
        &self,
        assignments: &[ast::Assignment],
        names: &Names<'_>,
    ) -> Result<Vec<(usize, Option<Expr>)>, SqlError> {
        let assignment = |assignment: &ast::Assignment| match &assignment.target {
            ast::AssignmentTarget::ColumnName(name) => {
                Ok((column(names, name)?, self.or_default(&assignment.value, names)?))
            }
            ast::AssignmentTarget::Tuple(_) => Err(SqlError::not_supported("row values")),
        };
        assignments.iter().map(assignment).collect()
    }

    pub(super) fn update(&self, update: &ast::Update) -> Result<Statement, SqlError> {
        let ast::Update {
            update_token: _,
            optimizer_hints: _,
            table,
            assignments,
            from,
            selection,
            returning,
            output,
            or,
            order_by,
            limit,
        } = update;
        refuse([
            (returning.is_some(), "RETURNING"),
            (from.is_some() || output.is_some() || or.is_some(), "such an UPDATE"),
        ])?;
        let table = self.written(std::slice::from_ref(table))?;
        let (from, frame) = (From::of_table(table.clone()), Frame::default());
        frame.width.set(Some(from.width()));
        let names = Names { frame: Some(&frame), ..Names::of(&from, "field list") };
        let assignments = self.assignments(assignments, &names)?;
        refuse_key_changes(&table, &assignments)?;
        let (filter, order, limit) = self.which(&names, selection.as_ref(), order_by, limit.as_ref())?;
        let (given, applied) = (frame.given.take(), frame.applied.take());
        refuse_reading(&table, &given, &applied)?;
        Ok(Statement::Update(Box::new(Update { assignments, given, applied, filter, order, limit, table })))
    }

    pub(super) fn delete(&self, delete: &ast::Delete) -> Result<Statement, SqlError> {
        let ast::Delete {
            delete_token: _,
            optimizer_hints: _,
            tables,
            from,
            using,
            selection,
            returning,
            output,
            order_by,
            limit,
        } = delete;
        refuse([
            (!tables.is_empty() || using.is_some(), "DELETE of several tables"),
            (returning.is_some(), "RETURNING"),
            (output.is_some(), "such a DELETE"),
        ])?;
        let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = from;
        let table = self.written(from)?;
        let (from, frame) = (From::of_table(table.clone()), Frame::default());
        frame.width.set(Some(from.width()));
        let names = Names { frame: Some(&frame), ..Names::of(&from, "field list") };
        let (filter, order, limit) = self.which(&names, selection.as_ref(), order_by, limit.as_ref())?;
        let (given, applied) = (frame.given.take(), frame.applied.take());
        refuse_reading(&table, &given, &applied)?;
        Ok(Statement::Delete(Box::new(Delete { given, applied, filter, order, limit, table })))
    }

    fn written(&self, from: &[ast::TableWithJoins]) -> Result<BoundTable, SqlError> {
        let [ast::TableWithJoins { relation, joins }] = from else {
            return Err(SqlError::not_supported("changing several tables"));
        };
        refuse([(!joins.is_empty(), "changing several tables")])?;
        match self.named(relation)? {
            Some((name, alias)) => self.table_of(name, alias),
            None => Err(SqlError::new(codes::NO_TABLES_USED, "No tables used")),
        }
    }

    /// Which rows are meant.
    fn which(
        &self,
        names: &Names<'_>,
        selection: Option<&ast::Expr>,
        order_by: &[ast::OrderByExpr],
        limit: Option<&ast::Expr>,
    ) -> Result<Meant, SqlError> {
        let names = |clause| Names { clause, ..*names };
        let filter = selection.map(|filter| self.expr(filter, &names("where clause"))).transpose()?;
        let order = self.order_list(order_by, &names("order clause"), &[])?;
        Ok((filter, order, self.count(limit)?))
    }
}

/// A filter, an order, a number.
type Meant = (Option<Expr>, Vec<Order>, Option<Expr>);

fn column(names: &Names<'_>, name: &ast::ObjectName) -> Result<usize, SqlError> {
    match super::identifiers(name)?.as_slice() {
        [qualifier @ .., name] => names.column(qualifier, name),
        [] => Err(SqlError::not_supported("a name without parts")),
    }
}

/// What a statement changes its subqueries must not read: which of it they would see is not said.
fn refuse_reading(table: &BoundTable, given: &[Given], applied: &[Apply]) -> Result<(), SqlError> {
    let given = given.iter().filter_map(|given| match given {
        Given::Subquery(subquery) => Some(&**subquery),
        Given::Outer(_) => None,
    });
    let mut given = given.map(|subquery| subquery.select.reads(table, false));
    let mut applied = applied.iter().map(|apply| apply.subquery.select.reads(table, true));
    if given.any(|reads| reads) || applied.any(|reads| reads) {
        let text = format!("You can't specify target table '{}' for update in FROM clause", table.alias);
        return Err(SqlError::new(codes::CHANGED_TABLE, text));
    }
    Ok(())
}

/// A row with another key is another row, in another place.
fn refuse_key_changes(table: &BoundTable, assignments: &[(usize, Option<Expr>)]) -> Result<(), SqlError> {
    let in_key = |column: usize| table.schema.primary_key.contains(&(column as u16));
    match assignments.iter().find(|(column, _)| in_key(*column)) {
        Some(_) => Err(SqlError::not_supported("changing a column of the primary key")),
        None => Ok(()),
    }
}
