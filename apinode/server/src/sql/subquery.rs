//! Subqueries: those whose answer is known before a query runs, and those that are asked for its rows.

use std::rc::Rc;

use twofold_apinode::sql::{
    bind::{Answer, Apply, Given, Subquery},
    error::{SqlError, codes},
    expression::{Context, GivenValue, Set, set::Sorted},
    gather,
    value::Datum,
};

use super::{Stop, join::Joining, run::Runner};

impl Runner {
    /// What is given to a query; `outer` are the values of the row around it, in their order.
    pub(super) async fn given(
        &mut self,
        given: &[Given],
        outer: Vec<Datum>,
        context: &Context<'_>,
    ) -> Result<Vec<GivenValue>, Stop> {
        let mut outer = outer.into_iter();
        let mut values = Vec::with_capacity(given.len());
        for given in given {
            let value = match given {
                Given::Outer(_) => GivenValue::Value(outer.next().unwrap_or(Datum::Null)),
                Given::Subquery(subquery) => {
                    // It may ask for what is given to this query before it.
                    let inner = context.within(values.clone());
                    let outer = outer_values(subquery, &[], &inner)?;
                    let answer = self.answer(subquery, outer, &inner).await;
                    context.warnings.borrow_mut().append(inner.warnings.take());
                    answer?
                }
            };
            values.push(value);
        }
        Ok(values)
    }

    /// The answer of a subquery with these values of the row around it.
    async fn answer(
        &mut self,
        subquery: &Subquery,
        outer: Vec<Datum>,
        context: &Context<'_>,
    ) -> Result<GivenValue, Stop> {
        let mut rows = self.selected(&subquery.select, outer, context).await?;
        Ok(match subquery.answer {
            Answer::Exists => GivenValue::Value((!rows.is_empty()).into()),
            Answer::Set => GivenValue::Set(Rc::new(Set::new(rows.into_iter().flatten()))),
            Answer::Value if rows.len() > 1 => {
                return Err(SqlError::new(codes::SEVERAL_ROWS, "Subquery returns more than 1 row").into());
            }
            Answer::Value => {
                let value = rows.pop().and_then(|mut row| row.pop());
                GivenValue::Value(value.unwrap_or(Datum::Null))
            }
        })
    }

    /// Answers a subquery for each of these rows.
    pub(super) async fn apply(
        &mut self,
        joining: &mut Joining<'_>,
        index: usize,
        rows: &mut [Vec<Datum>],
    ) -> Result<(), Stop> {
        let apply = &joining.select.applied[index];
        let column = joining.select.from.width() + index;
        for row in rows {
            let inputs: Vec<Datum> =
                apply.inputs().map(|input| input.evaluate(row, joining.context)).collect::<Result<_, _>>()?;
            let key = (index, inputs.iter().cloned().map(Sorted).collect::<Vec<_>>());
            if let Some(known) = joining.answers.get(&key) {
                row[column] = known.clone();
                continue;
            }
            let answer = self.answer_for(apply, row, joining.context).await?;
            row[column] = answer.clone();
            let bytes = inputs.iter().chain([&answer]).map(Datum::bytes).sum::<usize>();
            // What is too much is asked again.
            if joining.bytes + bytes <= gather::KEPT_MAX {
                joining.bytes += bytes;
                joining.answers.insert(key, answer);
            }
        }
        Ok(())
    }

    /// The answer of a subquery for a row.
    pub(super) async fn answer_for(
        &mut self,
        apply: &Apply,
        row: &[Datum],
        context: &Context<'_>,
    ) -> Result<Datum, Stop> {
        let outer = outer_values(&apply.subquery, row, context)?;
        Ok(match (self.answer(&apply.subquery, outer, context).await?, &apply.quantified) {
            (GivenValue::Value(value), _) => value,
            (GivenValue::Set(set), Some(quantified)) => {
                set.compare(&quantified.of.evaluate(row, context)?, quantified, context)?
            }
            (GivenValue::Set(_), None) => Datum::Null,
        })
    }
}

/// What a subquery asks for of the row around it.
fn outer_values(subquery: &Subquery, row: &[Datum], context: &Context<'_>) -> Result<Vec<Datum>, SqlError> {
    let values = subquery.select.given.iter().filter_map(|given| match given {
        Given::Outer(expr) => Some(expr.evaluate(row, context)),
        Given::Subquery(_) => None,
    });
    values.collect()
}
