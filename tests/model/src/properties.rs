//! What must hold in every state.

use stateright::Property;

use crate::{
    Model,
    config::{Member, Party},
    state::{Coordinator, Record, Role, State, Stranger},
};

/// All of them.
pub fn all() -> Vec<Property<Model>> {
    vec![
        // A client is told the truth, whoever tells it, and no two participants decide differently.
        Property::always("one outcome", |_: &Model, state: &State| state.seen != [true; 2]),
        Property::always("no contradiction", |_: &Model, state: &State| !state.contradiction),
        Property::always("a commit is on every replica that is up", committed_is_there),
        Property::always("prepared is binding", prepared_binds),
        Property::always("a refusal is binding", refusal_binds),
        Property::always("one primary serves", one_primary),
        // There are no loops, so what can't stop anywhere before gets to the end.
        Property::always("no end with the outcome open", progress),
        Property::sometimes("a commit is told", |_: &Model, state: &State| state.client.knows == Some(true)),
        Property::sometimes("an abort is told", |_: &Model, state: &State| state.client.knows == Some(false)),
        Property::sometimes("a takeover commits", |_: &Model, state: &State| {
            state.seen[0] && state.said.is_none()
        }),
        Property::sometimes(
            "a stranger is told of an abort that nobody decided",
            |_: &Model, state: &State| {
                state.stranger == Some(Stranger::Answered) && state.coordinator == Coordinator::Refusing
            },
        ),
        Property::sometimes(
            "a stranger is told of a commit that the TC has forgotten",
            |_: &Model, state: &State| {
                state.stranger == Some(Stranger::Answered)
                    && state.coordinator == Coordinator::Done
                    && state.seen[0]
            },
        ),
        Property::sometimes("a client learns the outcome from a participant", |_: &Model, state: &State| {
            state.client.knows.is_some() && state.said.is_none()
        }),
    ]
}

fn committed_is_there(model: &Model, state: &State) -> bool {
    !state.seen[0]
        || up(model, state).all(|party| model.partition(party).is_none() || state.at(party).record.has_rows())
}

fn prepared_binds(model: &Model, state: &State) -> bool {
    up(model, state).all(|party| {
        let promised = model.partition(party).is_some_and(|partition| state.promised[usize::from(partition)]);
        !promised || !matches!(state.at(party).record, Record::None | Record::Operations | Record::Refused)
    })
}

fn refusal_binds(model: &Model, state: &State) -> bool {
    up(model, state).all(|party| {
        let refused = model.partition(party).is_some_and(|partition| state.refused[usize::from(partition)]);
        !refused || !state.at(party).record.has_rows()
    })
}

fn one_primary(model: &Model, state: &State) -> bool {
    (0..2).all(|partition| model.replicas(partition).filter(|&party| state.serves(model, party)).count() <= 1)
}

fn progress(model: &Model, state: &State) -> bool {
    let mut actions = Vec::new();
    model.all_actions(state, &mut actions);
    if actions.iter().any(|&action| model.is_due(state, action)) {
        return true;
    }
    let open = |party: Party| {
        let worker = state.at(party);
        worker.record == Record::Prepared || worker.role == Role::Reconciling
    };
    let coordinator_is_open =
        matches!(state.coordinator, Coordinator::Preparing(_) | Coordinator::Decided(..))
            && !state.is_deposed(model, model.coordinator);
    state.client.knows.is_some()
        && state.stranger != Some(Stranger::Disowned)
        && !coordinator_is_open
        && !members(model, state).any(open)
}

/// The workers that the newest view counts.
fn members<'a>(model: &'a Model, state: &'a State) -> impl Iterator<Item = Party> + 'a {
    (0..model.client()).filter(|&party| model.member(state.newest(), party) >= Member::Ready)
}

/// The workers that are `up` in the newest view.
fn up<'a>(model: &'a Model, state: &'a State) -> impl Iterator<Item = Party> + 'a {
    (0..model.client()).filter(|&party| model.member(state.newest(), party) == Member::Up)
}
