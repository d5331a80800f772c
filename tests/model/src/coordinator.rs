//! What the TC does.

use crate::{
    Model,
    config::{Member, Mutation, Partition, Party},
    state::{Coordinator, Frame, Message, Record, Role, State, Stranger},
};

impl Model {
    /// The request arrives. Its operations are done at once, if all participants have a primary that listens: that and the
    /// TC tell each other of views.
    pub(crate) fn arrive(&self, state: &mut State) {
        let primaries = |state: &State| {
            let view = *state.view(self.coordinator);
            [0, 1].map(|partition| self.primary(&view, partition))
        };
        let newest = primaries(state).map(|party| state.view_number(party)).into_iter().max().unwrap_or(0);
        if self.has_coordinator(&state.views[usize::from(newest)]) {
            self.adopt(state, self.coordinator, newest);
        }
        let (primaries, number) = (primaries(state), state.view_number(self.coordinator));
        for party in primaries {
            if self.member(state.view(self.coordinator), party) != Member::Out {
                self.adopt(state, party, number);
            }
        }
        let listens = |&party: &Party| {
            let worker = state.at(party);
            worker.role == Role::Primary
                && worker.record == Record::None
                && self.has_coordinator(state.view(party))
                && !state.is_fenced(self, party)
        };
        if state.coordinator == Coordinator::Refusing || !primaries.iter().all(listens) {
            return self.abort(state);
        }
        state.coordinator = Coordinator::Executing;
        for party in primaries {
            state.at_mut(party).record = Record::Operations;
        }
    }

    /// Another session asks the TC, which has nothing of the transaction.
    pub(crate) fn disown(&self, state: &mut State) {
        state.stranger = Some(Stranger::Disowned);
        if state.coordinator == Coordinator::Coming && !self.breaks(Mutation::AcceptDisowned) {
            state.coordinator = Coordinator::Refusing;
        }
    }

    /// Sends Prepare or the decision to a participant's primary.
    fn to_participant(&self, state: &mut State, partition: Partition, message: Message) {
        let primary = self.primary(state.view(self.coordinator), partition);
        self.send(state, self.coordinator, primary, message);
    }

    /// Asks all participants to prepare.
    pub(crate) fn prepare(&self, state: &mut State) {
        state.coordinator = Coordinator::Preparing(0);
        for partition in [0, 1] {
            if matches!(state.coordinator, Coordinator::Preparing(_)) {
                self.to_participant(state, partition, Message::PrepareReq);
            }
        }
    }

    pub(crate) fn prepare_conf(&self, state: &mut State, frame: Frame, partition: Partition) {
        let primary = self.primary(state.view(self.coordinator), partition);
        let current = primary == frame.from && frame.view >= state.confirmed_since[usize::from(partition)];
        if !current && !self.breaks(Mutation::CountDeposedConfirmation) {
            return;
        }
        let Coordinator::Preparing(confirmed) = state.coordinator else { return };
        let confirmed = confirmed | 1 << partition;
        state.coordinator = Coordinator::Preparing(confirmed);
        if confirmed == 3 || self.breaks(Mutation::CommitOnFirstConfirmation) {
            self.tell(state, true, 0);
        }
    }

    pub(crate) fn prepare_ref(&self, state: &mut State, partition: Partition) {
        if matches!(state.coordinator, Coordinator::Preparing(_)) {
            self.tell(state, false, 1 << partition);
        }
    }

    pub(crate) fn decide_conf(&self, state: &mut State, partition: Partition) {
        if let Coordinator::Decided(commit, confirmed) = state.coordinator {
            let confirmed = confirmed | 1 << partition;
            state.coordinator =
                if confirmed == 3 { Coordinator::Done } else { Coordinator::Decided(commit, confirmed) };
        }
    }

    /// Decides, and tells the client and the participants but for those who know, a bit each.
    pub(crate) fn tell(&self, state: &mut State, commit: bool, know: u8) {
        state.said = Some(commit);
        state.seen[usize::from(!commit)] = true;
        state.coordinator = Coordinator::Decided(commit, know);
        for partition in (0..2).filter(|partition| know & 1 << partition == 0) {
            self.to_participant(state, partition, Message::DecideReq(commit));
        }
    }

    /// Gives up a transaction of which nothing was prepared.
    pub(crate) fn abort(&self, state: &mut State) {
        state.said = Some(false);
        state.seen[1] = true;
        state.coordinator = Coordinator::Done;
    }

    /// The TC adopts a view in which the primaries of these participants changed, or may have.
    pub(crate) fn coordinator_adopts(&self, state: &mut State, changed: [bool; 2]) {
        for partition in [0, 1] {
            if !changed[usize::from(partition)] {
                continue;
            }
            state.confirmed_since[usize::from(partition)] = state.view_number(self.coordinator);
            match state.coordinator {
                Coordinator::Executing => self.abort(state),
                Coordinator::Preparing(confirmed) => {
                    if !self.breaks(Mutation::CountDeposedConfirmation) {
                        state.coordinator = Coordinator::Preparing(confirmed & !(1 << partition));
                    }
                    self.to_participant(state, partition, Message::PrepareReq);
                }
                Coordinator::Decided(commit, confirmed) if confirmed & 1 << partition == 0 => {
                    self.to_participant(state, partition, Message::DecideReq(commit));
                }
                Coordinator::Coming
                | Coordinator::Refusing
                | Coordinator::Decided(..)
                | Coordinator::Done => {}
            }
        }
    }
}
