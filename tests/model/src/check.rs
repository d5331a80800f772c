//! Runs the model checker.

use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _, Path};

use crate::{Action, Model, config::Config, state::State};

/// What became of a check.
#[derive(Debug)]
pub struct Report {
    /// How many different states were seen: all there are, if it ran to its end.
    pub states: usize,
    /// The properties that do not hold, each with a trace that is about as short as can be.
    pub failures: Vec<(&'static str, Path<State, Action>)>,
    /// What was seen to happen, of what should.
    pub reached: Vec<&'static str>,
}

/// Looks at the states, breadth first and on two threads, until this property fails, or any if none is named, or
/// to the end.
pub fn check(config: Config, until: Option<&'static str>) -> Report {
    let model = Model(config);
    let finish =
        until.map_or(HasDiscoveries::AnyFailures, |property| HasDiscoveries::AnyOf([property].into()));
    let checker = model.clone().checker().threads(2).finish_when(finish).spawn_bfs().join();
    let (mut failures, mut reached) = (Vec::new(), Vec::new());
    for property in model.properties() {
        match (&property.expectation, checker.discovery(property.name)) {
            (_, None) => {}
            (Expectation::Sometimes, Some(_)) => reached.push(property.name),
            (_, Some(path)) => failures.push((property.name, path)),
        }
    }
    Report { states: checker.unique_state_count(), failures, reached }
}
