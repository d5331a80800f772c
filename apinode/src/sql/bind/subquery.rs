//! Subqueries, and what they know of the queries around them.
//!
//! What does not change from row to row of a query is *given* to it before it runs: values of the query around it, and what
//! its subqueries answer that ask for nothing of its rows. So conditions on it are conditions on constants. A subquery that does
//! ask for something of the rows is *applied* to them: its answer is a column more.

use std::cell::{Cell, RefCell};

use sqlparser::ast;

use super::{Binder, expr::Names, select::Select};
use crate::sql::{
    error::{SqlError, codes},
    expression::{Binary, Expr},
    types::SqlType,
    value::Datum,
};

/// What a subquery answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The value of its one row; NULL without one.
    Value,
    /// Whether it has rows.
    Exists,
    /// Its values, for IN, ANY and ALL.
    Set,
}

/// A query in another one.
#[derive(Clone, PartialEq, Debug)]
pub struct Subquery {
    /// What it selects.
    pub select: Select,
    /// What it answers.
    pub answer: Answer,
}

/// What is known before a query runs.
#[derive(Clone, PartialEq, Debug)]
pub enum Given {
    /// A value of the row of the query around it.
    Outer(Expr),
    /// The answer of a subquery.
    Subquery(Box<Subquery>),
}

/// How a value is compared with a set.
#[derive(Clone, PartialEq, Debug)]
pub struct Quantified {
    /// The value.
    pub of: Expr,
    /// How.
    pub operator: Binary,
    /// With all, not with any.
    pub all: bool,
}

/// A subquery whose answer is a column of the query around it.
#[derive(Clone, PartialEq, Debug)]
pub struct Apply {
    /// It.
    pub subquery: Subquery,
    /// What is made of a set.
    pub quantified: Option<Quantified>,
}

impl Apply {
    /// The expressions of the row that it needs.
    pub fn inputs(&self) -> impl Iterator<Item = &Expr> {
        let outer = self.subquery.select.given.iter().filter_map(|given| match given {
            Given::Outer(expr) => Some(expr),
            Given::Subquery(_) => None,
        });
        outer.chain(self.quantified.as_ref().map(|quantified| &quantified.of))
    }
}

/// What a query has of subqueries while it is bound.
#[derive(Default)]
pub(super) struct Frame<'n> {
    /// What names mean around it.
    pub parent: Option<&'n Names<'n>>,
    pub given: RefCell<Vec<Given>>,
    pub applied: RefCell<Vec<Apply>>,
    /// How many columns its sources have, when that is known.
    pub width: Cell<Option<usize>>,
}

impl Frame<'_> {
    /// The place of what is given.
    pub fn give(&self, given: Given) -> usize {
        let mut all = self.given.borrow_mut();
        let known = all.iter().position(|known| *known == given);
        known.unwrap_or_else(|| {
            all.push(given);
            all.len() - 1
        })
    }
}

impl Binder<'_> {
    /// A subquery in an expression.
    pub(super) fn subquery(
        &self,
        query: &ast::Query,
        names: &Names<'_>,
        answer: Answer,
        quantified: Option<Quantified>,
    ) -> Result<Expr, SqlError> {
        let Some(frame) = names.frame else { return Err(SqlError::not_supported("a subquery here")) };
        let mut select = self.query(query, false, Some(names))?;
        if answer != Answer::Exists && select.output.len() != 1 {
            return Err(SqlError::new(codes::OPERAND_COLUMNS, "Operand should contain 1 column(s)"));
        }
        let enough = match answer {
            Answer::Set if select.limit.is_some() => {
                return Err(SqlError::not_supported("LIMIT & IN/ALL/ANY/SOME subquery"));
            }
            Answer::Set => None,
            Answer::Exists => Some(1),
            Answer::Value => Some(2),
        };
        if let (Some(enough), None) = (enough, &select.limit) {
            select.limit = Some(super::constant(&Datum::Int(enough)));
        }
        let sql_type = match answer {
            Answer::Value => select.columns(&[])[0].sql_type,
            _ => SqlType::Integer { bytes: 4, unsigned: false },
        };
        let is_fixed = |given: &Given| !matches!(given, Given::Outer(expr) if !expr.is_constant());
        let fixed = select.given.iter().all(is_fixed);
        let subquery = Subquery { select, answer };
        if fixed {
            let place = frame.give(Given::Subquery(Box::new(subquery)));
            return Ok(match quantified {
                Some(quantified) => Expr::Among(Box::new(quantified), place),
                None => Expr::Given(place, sql_type),
            });
        }
        let Some(width) = frame.width.get() else {
            return Err(SqlError::not_supported("a correlated subquery in ON"));
        };
        let mut applied = frame.applied.borrow_mut();
        applied.push(Apply { subquery, quantified });
        Ok(Expr::Column(width + applied.len() - 1, sql_type))
    }

    /// IN, ANY and ALL of a subquery.
    pub(super) fn quantified(
        &self,
        of: &ast::Expr,
        operator: Binary,
        all: bool,
        query: &ast::Query,
        names: &Names<'_>,
    ) -> Result<Expr, SqlError> {
        if matches!(of, ast::Expr::Tuple(_)) {
            return Err(SqlError::not_supported("row values"));
        }
        let quantified = Quantified { of: self.expr(of, names)?, operator, all };
        self.subquery(query, names, Answer::Set, Some(quantified))
    }
}
