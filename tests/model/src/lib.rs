//! A model of commit, takeover and the change of views, for a model checker.
//!
//! One transaction with two participants, its client, its TC, all replicas, the register of views, and every
//! interleaving of them: see docs/model.md for what is abstracted and what was found.

pub mod check;
pub mod config;
mod coordinator;
mod properties;
mod register;
pub mod state;
mod worker;

use std::ops::Deref;

use stateright::Property;

use crate::{
    config::{Config, Member, Mutation, Partition, Party, View},
    state::{Client, Coordinator, Frame, Message, Record, Role, State, Stranger},
};

/// The model of one configuration.
#[derive(Clone, Debug)]
pub struct Model(pub Config);

impl Deref for Model {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.0
    }
}

/// What may happen next.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Action {
    /// The register gets its next view.
    View(View),
    /// A party learns of a view from the management nodes.
    Adopt(Party, u8),
    /// The first frame of a link arrives. Its receiver may refuse what it may refuse.
    Deliver {
        /// Sender.
        from: Party,
        /// Receiver.
        to: Party,
        /// Whether operations that are asked to prepare are found wounded or lost.
        refuse: bool,
    },
    /// The lease of a worker that a new primary waits for has run out, as that can tell.
    Fence(Party),
    /// The TC sends Prepare; its own participant may refuse.
    Prepare {
        /// Whether it does.
        refuse: bool,
    },
    /// The TC gives the transaction up before Prepare.
    Abort,
    /// The transaction comes to the TC.
    Arrive,
    /// Another session asks the TC, which has nothing of the transaction, or no more.
    Disown,
    /// That session asks this primary.
    Inquire(Party),
    /// The TC's answer reaches the client.
    Hear,
    /// The client, which knows this view by now, asks the primary of a participant.
    Ask(u8, Partition),
    /// A replica forgets the outcome.
    Forget(Party),
}

impl Model {
    /// Whether it has to happen at last, once failures have ended. What a worker does that the newest view is
    /// without need not, nor does a next view.
    fn is_due(&self, state: &State, action: Action) -> bool {
        match action {
            Action::View(_) | Action::Forget(_) | Action::Disown => false,
            Action::Adopt(party, _) => !state.is_deposed(self, party),
            Action::Deliver { from, to, .. } => !state.is_deposed(self, from) && !state.is_deposed(self, to),
            Action::Arrive | Action::Prepare { .. } | Action::Abort | Action::Hear => {
                !state.is_deposed(self, self.coordinator)
            }
            Action::Fence(_) | Action::Ask(..) | Action::Inquire(_) => true,
        }
    }

    fn all_actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.next_views(state).into_iter().map(Action::View));
        for party in 0..self.client() {
            let next = state.view_number(party) + 1;
            let last = if self.breaks(Mutation::SkipViews) { state.views.len() as u8 - 1 } else { next };
            let numbers = (next..=last).filter(|&number| usize::from(number) < state.views.len());
            let numbers = numbers.filter(|&number| self.lives_in(state, party, number));
            actions.extend(numbers.map(|number| Action::Adopt(party, number)));
        }
        let mut last = None;
        for frame in &state.links {
            if last.replace((frame.from, frame.to)) != Some((frame.from, frame.to)) {
                self.deliveries(state, *frame, actions);
            }
        }
        for party in 0..self.client() {
            self.worker_actions(state, party, actions);
        }
        self.coordinator_actions(state, actions);
        self.client_actions(state, actions);
        self.stranger_actions(state, actions);
    }

    /// Whether a party goes on under this view. A worker that is dropped never learns of it: what it does not do any
    /// more it may as well do after all else.
    fn lives_in(&self, state: &State, party: Party, number: u8) -> bool {
        self.member(&state.views[usize::from(number)], party) != Member::Out
    }

    fn deliveries(&self, state: &State, frame: Frame, actions: &mut Vec<Action>) {
        let Frame { from, to, view, .. } = frame;
        if !self.lives_in(state, to, view) {
            return;
        }
        let asked = frame.message == Message::PrepareReq && state.at(to).record == Record::Operations;
        if !(asked && state.is_fenced(self, to)) {
            actions.push(Action::Deliver { from, to, refuse: false });
        }
        if asked {
            actions.push(Action::Deliver { from, to, refuse: true });
        }
    }

    fn worker_actions(&self, state: &State, party: Party, actions: &mut Vec<Action>) {
        let worker = state.at(party);
        if worker.role == Role::Reconciling && self.waits_for_states(state, party) {
            return;
        }
        if worker.role == Role::Reconciling {
            let left = self.waits_for_fence(state, party);
            actions
                .extend(left.map(Action::Fence).filter(|fence| !actions.contains(fence)).collect::<Vec<_>>());
        }
        // The session's mark comes after what it has asked on the same link.
        let asked = worker.client_asks
            || state.links.iter().any(|frame| (frame.from, frame.to) == (self.client(), party));
        let forgets = !asked
            && !state.is_deposed(self, party)
            && (worker.record.is_decided() || worker.record == Record::Refused);
        if forgets
            && (state.client.knows.is_some() || self.breaks(Mutation::ForgetBeforeMark))
            && (self.is_complete(state) || self.breaks(Mutation::ForgetBeforeComplete))
        {
            actions.push(Action::Forget(party));
        }
    }

    fn coordinator_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let comes = matches!(state.coordinator, Coordinator::Coming | Coordinator::Refusing);
        if comes {
            actions.push(Action::Arrive);
        }
        if state.stranger == Some(Stranger::Curious) && (comes || state.coordinator == Coordinator::Done) {
            actions.push(Action::Disown);
        }
        if state.coordinator == Coordinator::Executing {
            let own = state.at(self.coordinator).record == Record::Operations;
            if !(own && state.is_fenced(self, self.coordinator)) {
                actions.push(Action::Prepare { refuse: false });
            }
            if own {
                actions.push(Action::Prepare { refuse: true });
            }
            actions.push(Action::Abort);
        }
        if self.breaks(Mutation::AbortAfterPrepare) && matches!(state.coordinator, Coordinator::Preparing(_))
        {
            actions.push(Action::Abort);
        }
    }

    /// What another session may ask that the TC has sent on. A primary answers at once, but while something is open.
    fn stranger_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.stranger == Some(Stranger::Disowned) {
            let decided = |party| match state.at(party).record {
                Record::Prepared => false,
                Record::Refused => self.is_confirmed(state, party),
                _ => true,
            };
            let answers = |&party: &Party| state.serves(self, party) && decided(party);
            actions.extend((0..self.client()).filter(answers).map(Action::Inquire));
        }
    }

    fn client_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.client.knows.is_some() {
            return;
        }
        let view = |number: u8| &state.views[usize::from(number)];
        if state.said.is_some() && self.has_coordinator(view(state.client.view)) {
            actions.push(Action::Hear);
        }
        // When it learns of a view is of no account before it asks.
        for number in state.client.view..state.views.len() as u8 {
            let (old, new) = (view(state.client.view), view(number));
            let ask =
                state.client.asked.is_none_or(|asked| self.primary(old, asked) != self.primary(new, asked));
            if ask && (self.impatient || !self.has_coordinator(view(number))) {
                actions.extend([Action::Ask(number, 0), Action::Ask(number, 1)]);
            }
        }
    }

    /// The client knows the outcome, and minds nothing more.
    fn learn(&self, state: &mut State, commit: bool) {
        state.client = Client { view: 0, asked: None, knows: Some(commit) };
        state.links.retain(|frame| frame.to != self.client());
    }

    /// Whether the epoch of the transaction's Prepare is complete: all members are under the newest view, and none
    /// has anything open. That is stable, so it does not matter when each has reported it.
    fn is_complete(&self, state: &State) -> bool {
        let newest = state.views.len() - 1;
        let members = || (0..self.client()).filter(|&party| !state.is_deposed(self, party));
        (state.coordinator == Coordinator::Done || state.is_deposed(self, self.coordinator))
            && members().all(|party| usize::from(state.view_number(party)) == newest)
            && (0..2).all(|partition| {
                let primary = self.primary(state.newest(), partition);
                let worker = state.at(primary);
                worker.role == Role::Primary
                    && worker.record != Record::Prepared
                    && self.is_confirmed(state, primary)
            })
    }

    fn take(&self, state: &mut State, action: Action) {
        match action {
            Action::View(view) => state.views.push(view),
            Action::Adopt(party, number) => self.adopt(state, party, number),
            Action::Deliver { from, to, refuse } => self.deliver(state, from, to, refuse),
            Action::Fence(party) => {
                state.fenced |= 1 << self.node(party).expect("a worker has a node");
                for party in 0..self.client() {
                    if state.at(party).role == Role::Reconciling {
                        self.resume(state, party);
                    }
                }
            }
            Action::Prepare { refuse } => {
                if refuse {
                    state.at_mut(self.coordinator).record = Record::None;
                }
                self.prepare(state);
            }
            Action::Abort if state.coordinator == Coordinator::Executing => self.abort(state),
            Action::Abort => self.tell(state, false, 0),
            Action::Arrive => self.arrive(state),
            Action::Disown => self.disown(state),
            Action::Inquire(party) => {
                state.stranger = Some(Stranger::Answered);
                match state.at(party).record {
                    // «Finished».
                    Record::Forgotten(_) => {}
                    // Who lacks it plants nothing: the TC does not take it any more.
                    record => state.seen[usize::from(record != Record::Committed)] = true,
                }
            }
            Action::Hear => self.learn(state, state.said.expect("an answer to hear")),
            Action::Ask(number, partition) => {
                self.adopt(state, self.client(), number);
                let primary = self.primary(&state.views[usize::from(number)], partition);
                state.client.asked = Some(partition);
                self.send(state, self.client(), primary, Message::StatusReq);
            }
            Action::Forget(party) => {
                let record = &mut state.at_mut(party).record;
                *record = Record::Forgotten(*record == Record::Committed);
            }
        }
    }

    fn deliver(&self, state: &mut State, from: Party, to: Party, refuse: bool) {
        let frame = state.pop(from, to).expect("a frame to deliver");
        if frame.view > state.view_number(to) {
            self.adopt(state, to, frame.view);
        }
        if self.member(state.view(to), from) == Member::Out {
            if let (true, Message::Stream(_, number)) =
                (self.breaks(Mutation::AcknowledgeDropped), frame.message)
            {
                let view = state.view_number(from);
                state.push(Frame { from: to, to: from, view, message: Message::Acknowledge(number) });
            }
            return;
        }
        if refuse && state.at(to).record == Record::Operations {
            state.at_mut(to).record = Record::None;
        }
        self.handle(state, frame);
    }
}

impl stateright::Model for Model {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.all_actions(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, action);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Model>> {
        properties::all()
    }
}
