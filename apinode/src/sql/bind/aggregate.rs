//! Aggregates.

use crate::sql::{expression::Expr, types::SqlType, value::Datum};

/// What an aggregate makes of the values of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AggregateKind {
    /// How many there are.
    Count,
    /// Their sum.
    Sum,
    /// Their mean.
    Avg,
    /// The least.
    Min,
    /// The largest.
    Max,
}

impl AggregateKind {
    /// By its name, in small letters.
    pub fn from_name(name: &str) -> Option<AggregateKind> {
        use AggregateKind::*;
        [Count, Sum, Avg, Min, Max].into_iter().find(|kind| kind.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            AggregateKind::Count => "count",
            AggregateKind::Sum => "sum",
            AggregateKind::Avg => "avg",
            AggregateKind::Min => "min",
            AggregateKind::Max => "max",
        }
    }
}

/// An aggregate of a statement.
#[derive(Clone, PartialEq, Debug)]
pub struct Aggregate {
    /// What it does.
    pub kind: AggregateKind,
    /// Of what; NULL does not count. `None`: of rows.
    pub argument: Option<Expr>,
    /// Equal values count once.
    pub distinct: bool,
}

impl Aggregate {
    /// The type of its value.
    pub fn sql_type(&self, parameters: &[Datum]) -> SqlType {
        let of = self.argument.as_ref().map_or(SqlType::Null, |argument| argument.sql_type(parameters));
        let exact = match of {
            SqlType::Decimal { precision, scale } => Some((precision, scale)),
            other => other.integer_range().map(|(_, most)| (most.ilog10() as u8 + 1, 0)),
        };
        match (self.kind, exact) {
            (AggregateKind::Count, _) => SqlType::BIGINT,
            (AggregateKind::Min | AggregateKind::Max, _) => of,
            (AggregateKind::Sum, Some((precision, scale))) => {
                SqlType::Decimal { precision: (precision + 22).min(65), scale }
            }
            (AggregateKind::Avg, Some((precision, scale))) => {
                let scale = crate::sql::decimal::quotient_scale(scale);
                SqlType::Decimal { precision: (precision + 4).min(65), scale }
            }
            (AggregateKind::Sum | AggregateKind::Avg, None) => SqlType::Double,
        }
    }
}
