//! UNION, and derived tables: rows that are made before they are selected from.

use sqlparser::ast;

use super::{
    Binder, BoundTable, Given, Output,
    expr::Names,
    from::{From, Made, Part, Rows, Source, What},
    select::Select,
};
use crate::sql::{
    error::{SqlError, codes},
    expression::{Expr, common_type},
    types::SqlType,
};

impl Select {
    /// Whether it, or what it selects from, reads this table itself. What a derived table has read is a copy, unless it is
    /// made `anew` for each row around it.
    pub(super) fn reads(&self, table: &BoundTable, anew: bool) -> bool {
        let given = self.given.iter().filter_map(|given| match given {
            Given::Subquery(subquery) => Some(&**subquery),
            Given::Outer(_) => None,
        });
        let mut within = given.chain(self.applied.iter().map(|apply| &apply.subquery));
        let reads = |source: &Source| match &source.rows {
            Rows::Table(read) => read.name == table.name,
            Rows::Made(Made { what: What::Parts(parts), .. }) => {
                anew && parts.iter().any(|part| part.select.reads(table, anew))
            }
            Rows::Made(_) => false,
        };
        self.from.sources.iter().any(reads) || within.any(|subquery| subquery.select.reads(table, anew))
    }
}

impl Binder<'_> {
    /// The rows of a derived table.
    pub(super) fn made(&self, query: &ast::Query) -> Result<Made, SqlError> {
        let select = self.query(query, false, None)?;
        Ok(made_of(vec![Part { select, all: true }]))
    }

    /// A UNION, or a query in parentheses: selects from what its parts give.
    pub(super) fn union(
        &self,
        body: &ast::SetExpr,
        order_by: Option<&ast::OrderBy>,
        named: bool,
        parent: Option<&Names<'_>>,
    ) -> Result<Select, SqlError> {
        let mut parts = Vec::new();
        self.parts(body, true, named, parent, &mut parts)?;
        if parts.iter().any(|part| part.select.output.len() != parts[0].select.output.len()) {
            let text = "The used SELECT statements have a different number of columns";
            return Err(SqlError::new(codes::UNION_COLUMNS, text));
        }
        if parts.iter().any(|part| part.select.given.iter().any(|given| matches!(given, Given::Outer(_)))) {
            return Err(SqlError::not_supported("a UNION that depends on the query around it"));
        }
        let lock = parts[0].select.lock;
        let made = made_of(parts);
        let from = From::of_source(Source { alias: String::new(), offset: 0, rows: Rows::Made(made) });
        let output: Vec<Output> = from.sources[0]
            .range()
            .map(|column| Output {
                name: from.sources[0].name(column).to_owned(),
                expr: Expr::Column(column, from.sources[0].sql_type(column)),
                column: Some(column),
            })
            .collect();
        let order = self.order(order_by, &Names::of(&from, "order clause"), &output)?;
        Ok(Select {
            from,
            given: Vec::new(),
            applied: Vec::new(),
            filter: None,
            group: None,
            output,
            distinct: false,
            order,
            limit: None,
            offset: None,
            lock,
        })
    }

    fn parts(
        &self,
        body: &ast::SetExpr,
        all: bool,
        named: bool,
        parent: Option<&Names<'_>>,
        parts: &mut Vec<Part>,
    ) -> Result<(), SqlError> {
        let select = match body {
            ast::SetExpr::SetOperation { op: ast::SetOperator::Union, set_quantifier, left, right } => {
                use ast::SetQuantifier as Quantifier;
                self.parts(left, all, named, parent, parts)?;
                let all = match set_quantifier {
                    Quantifier::All => true,
                    Quantifier::None | Quantifier::Distinct => false,
                    _ => return Err(SqlError::not_supported("UNION BY NAME")),
                };
                if matches!(**right, ast::SetExpr::SetOperation { .. }) {
                    return Err(SqlError::not_supported("a UNION in a UNION"));
                }
                return self.parts(right, all, false, parent, parts);
            }
            ast::SetExpr::Select(select) => self.select(select, None, named, parent)?,
            ast::SetExpr::Query(query) => self.query(query, named, parent)?,
            ast::SetExpr::SetOperation { op, .. } => return Err(SqlError::not_supported(op)),
            _ => return Err(SqlError::not_supported("such a query")),
        };
        parts.push(Part { select, all });
        Ok(())
    }
}

/// Names are the first part's; types are those that the values of all can have.
fn made_of(parts: Vec<Part>) -> Made {
    let types = |part: &Part| -> Vec<SqlType> {
        part.select.columns(&[]).iter().map(|column| column.sql_type).collect()
    };
    let both =
        |a: Vec<SqlType>, b: Vec<SqlType>| a.into_iter().zip(b).map(|(a, b)| common_type(a, b)).collect();
    let types = parts.iter().map(types).reduce(both).unwrap_or_default();
    let names = parts.first().map(|part| &part.select.output[..]).unwrap_or_default();
    let columns = names.iter().zip(types).map(|(output, sql_type)| (output.name.clone(), sql_type)).collect();
    Made { columns, what: What::Parts(parts) }
}
