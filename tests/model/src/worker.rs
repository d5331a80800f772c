//! What a worker does as a replica, as a primary and as a participant.

use crate::{
    Model,
    config::{Member, Mutation, Party, View},
    state::{Frame, Message, Peer, Record, Role, State},
};

impl Model {
    /// Sends a message; a worker's message to itself is a function call.
    pub(crate) fn send(&self, state: &mut State, from: Party, to: Party, message: Message) {
        // What a node sends to those who have dropped it is not read.
        let unread =
            self.member(state.view(to), from) == Member::Out && !self.breaks(Mutation::AcknowledgeDropped);
        if self.member(state.view(from), to) == Member::Out || unread {
            return;
        }
        let mut view = state.view_number(from);
        if self.breaks(Mutation::AcknowledgeWithoutView) && matches!(message, Message::Acknowledge(_)) {
            view = 0;
        }
        let frame = Frame { from, to, view, message };
        if from == to { self.handle(state, frame) } else { state.push(frame) }
    }

    /// Handles a frame whose view has been adopted and whose sender is in it.
    pub(crate) fn handle(&self, state: &mut State, frame: Frame) {
        let Frame { from, to, view, message } = frame;
        let is_primary = state.workers.get(usize::from(to)).is_some_and(|worker| worker.role != Role::Backup);
        match message {
            Message::PrepareConf(partition) => self.prepare_conf(state, frame, partition),
            Message::PrepareRef(partition) => self.prepare_ref(state, partition),
            Message::DecideConf(partition) => self.decide_conf(state, partition),
            Message::StatusConf(commit) => self.learn(state, commit),
            Message::Stream(record, number) => {
                if self.takes_stream(state, frame) {
                    self.take_record(state, to, record);
                }
                self.send(state, to, from, Message::Acknowledge(number));
            }
            Message::Copy(record, number) => {
                if self.takes_stream(state, frame) {
                    state.at_mut(to).record = record;
                    state.at_mut(to).copied = true;
                }
                self.send(state, to, from, Message::Acknowledge(number));
            }
            Message::Acknowledge(number) => {
                self.acknowledged(state, to, from, number);
                self.resume(state, to);
            }
            // The sender's view is older and so is its idea of the primary: it sends anew when it learns better.
            _ if !is_primary => {}
            Message::PrepareReq => {
                state.at_mut(to).prepare = true;
                self.resume(state, to);
            }
            Message::DecideReq(commit) => {
                state.at_mut(to).decide = Some(commit);
                self.resume(state, to);
            }
            Message::CopyReq => {
                self.peer(state, to, from).copy = true;
                self.resume(state, to);
            }
            Message::ReplicaState(record) => {
                if view >= state.at(to).since && state.at(to).role == Role::Reconciling {
                    self.peer(state, to, from).heard = Some(record);
                    self.resume(state, to);
                }
            }
            Message::OutcomeReq => {
                state.at_mut(to).asked_by = Some(from);
                self.resume(state, to);
            }
            Message::StatusReq => {
                state.at_mut(to).client_asks = true;
                self.resume(state, to);
            }
            Message::OutcomeConf(known) => self.outcome_conf(state, to, known),
        }
    }

    fn peer<'a>(&self, state: &'a mut State, primary: Party, replica: Party) -> &'a mut Peer {
        &mut state.at_mut(primary).peers[self.rank(replica)]
    }

    /// Frames up to this number count as acknowledged. What is left is numbered from 1 again, so that states that
    /// differ in their past alone are the same.
    fn acknowledged(&self, state: &mut State, primary: Party, replica: Party, number: u8) {
        let peer = self.peer(state, primary, replica);
        peer.sent -= number;
        peer.need = peer.need.saturating_sub(number);
        for frame in &mut state.links {
            match &mut frame.message {
                Message::Stream(_, other) | Message::Copy(_, other)
                    if (frame.from, frame.to) == (primary, replica) =>
                {
                    *other -= number;
                }
                Message::Acknowledge(other) if (frame.from, frame.to) == (replica, primary) => {
                    *other -= number
                }
                _ => {}
            }
        }
    }

    /// Whether a replica believes this frame of its partition's stream: it comes from the primary, and was sent
    /// under a view since which that has not changed.
    fn takes_stream(&self, state: &State, frame: Frame) -> bool {
        if self.breaks(Mutation::AcceptFromDeposed) {
            return true;
        }
        let partition = self.partition(frame.to).expect("a replica");
        self.primary(state.view(frame.to), partition) == frame.from && frame.view >= state.at(frame.to).since
    }

    fn take_record(&self, state: &mut State, replica: Party, record: Record) {
        let counted = self.member(state.view(replica), replica) >= Member::Ready;
        let own = state.at(replica).record;
        if own.is_decided() || matches!(own, Record::Forgotten(_)) {
            state.contradiction |= record.is_decided() && own.is_decided() && record != own;
            return;
        }
        // A decision holds no rows.
        state.contradiction |= counted && record == Record::Committed && own != Record::Prepared;
        state.at_mut(replica).record = record;
    }

    /// Sends a record to every other replica in the view, `syncing` ones too.
    fn stream(&self, state: &mut State, primary: Party, record: Record) {
        let partition = self.partition(primary).expect("a primary");
        for replica in self.replicas(partition).filter(|&replica| replica != primary) {
            self.stream_to(state, primary, replica, record);
        }
    }

    fn stream_to(&self, state: &mut State, primary: Party, replica: Party, record: Record) {
        if self.member(state.view(primary), replica) == Member::Out {
            return;
        }
        let peer = self.peer(state, primary, replica);
        peer.sent += 1;
        peer.need = peer.sent;
        let number = peer.sent;
        self.send(state, primary, replica, Message::Stream(record, number));
    }

    /// Whether all replicas that the primary's view counts have acknowledged its newest record.
    pub(crate) fn is_confirmed(&self, state: &State, primary: Party) -> bool {
        let partition = self.partition(primary).expect("a primary");
        let mut others = self.replicas(partition).filter(|&replica| replica != primary);
        others.all(|replica| {
            let peer = state.at(primary).peers[self.rank(replica)];
            self.member(state.view(primary), replica) < Member::Ready || peer.need == 0
        })
    }

    /// A party adopts all views up to this one, one after the other.
    pub(crate) fn adopt(&self, state: &mut State, party: Party, newest: u8) {
        if self.breaks(Mutation::SkipViews) {
            self.adopt_next(state, party, newest);
        }
        for number in state.view_number(party) + 1..=newest {
            self.adopt_next(state, party, number);
        }
    }

    fn adopt_next(&self, state: &mut State, party: Party, number: u8) {
        let (old, new) = (*state.view(party), state.views[usize::from(number)]);
        if !self.breaks(Mutation::AcknowledgeDropped) {
            state.links.retain(|frame| frame.to != party || self.member(&new, frame.from) != Member::Out);
        }
        let changed = [0, 1].map(|partition| self.primary(&old, partition) != self.primary(&new, partition));
        if party == self.client() {
            state.client.view = number;
            if state.client.asked.is_some_and(|partition| changed[usize::from(partition)]) {
                state.client.asked = None;
            }
            return;
        }
        state.at_mut(party).view = number;
        self.replica_adopts(state, party, &old, changed);
        if party == self.coordinator {
            self.coordinator_adopts(state, changed);
        }
    }

    fn replica_adopts(&self, state: &mut State, party: Party, old: &View, changed: [bool; 2]) {
        let Some(partition) = self.partition(party) else { return };
        let (new, number) = (*state.view(party), state.view_number(party));
        let (was, is) = (self.primary(old, partition), self.primary(&new, partition));
        if changed[usize::from(1 - partition)] {
            state.at_mut(party).asked = None;
        }
        if was == party && is != party {
            self.depose(state, party);
        }
        if was != is {
            state.at_mut(party).since = number;
        }
        if is != party {
            return self.backup_adopts(state, party, is, was != is, self.member(old, party));
        }
        let worker = state.at_mut(party);
        if !self.has_coordinator(&new) {
            (worker.prepare, worker.decide) = (false, None);
            if worker.record == Record::Operations {
                worker.record = Record::None;
            }
        }
        if was != party {
            worker.role = Role::Reconciling;
            for peer in &mut worker.peers {
                (peer.heard, peer.need, peer.copy) = (None, 0, false);
            }
        }
        self.resume(state, party);
    }

    /// A former primary that is still there keeps what is prepared, as an open write set.
    fn depose(&self, state: &mut State, party: Party) {
        let worker = state.at_mut(party);
        worker.role = Role::Backup;
        if worker.record == Record::Operations {
            worker.record = Record::None;
        }
        (worker.prepare, worker.decide) = (false, None);
        (worker.asked_by, worker.client_asks, worker.asked) = (None, false, None);
        worker.other_prepared = false;
        for peer in &mut worker.peers {
            (peer.heard, peer.copy) = (None, false);
        }
    }

    fn backup_adopts(&self, state: &mut State, party: Party, primary: Party, changed: bool, before: Member) {
        if self.member(state.view(party), party) == Member::Syncing {
            if changed || before != Member::Syncing {
                state.at_mut(party).record = Record::None;
                state.at_mut(party).copied = false;
                self.send(state, party, primary, Message::CopyReq);
            }
        } else if changed {
            let record = state.at(party).record;
            self.send(state, party, primary, Message::ReplicaState(record));
        }
    }

    /// What a new primary still waits for: a replica's state, or the fence of who left.
    pub(crate) fn waits_for_states(&self, state: &State, primary: Party) -> bool {
        let partition = self.partition(primary).expect("a primary");
        let mut others = self.replicas(partition).filter(|&replica| replica != primary);
        !self.breaks(Mutation::ServeBeforeReplicaStates)
            && others.any(|replica| {
                self.member(state.view(primary), replica) >= Member::Ready
                    && state.at(primary).peers[self.rank(replica)].heard.is_none()
            })
    }

    /// The replicas that left and are not fenced.
    pub(crate) fn waits_for_fence<'a>(
        &'a self,
        state: &'a State,
        primary: Party,
    ) -> impl Iterator<Item = Party> + 'a {
        let partition = self.partition(primary).expect("a primary");
        self.replicas(partition).filter(move |&replica| {
            self.member(state.view(primary), replica) == Member::Out && !state.is_fenced(self, replica)
        })
    }

    /// Answers the states that were heard: the primary's own is the truth.
    fn reconcile(&self, state: &mut State, primary: Party) {
        let partition = self.partition(primary).expect("a primary");
        let heard: Vec<(Party, Record)> = self
            .replicas(partition)
            .filter(|&replica| replica != primary)
            .filter_map(|replica| Some((replica, self.peer(state, primary, replica).heard.take()?)))
            .collect();
        let lacks = state.at(primary).record == Record::None;
        if lacks && heard.iter().any(|(_, record)| record.is_open()) {
            if self.breaks(Mutation::OmitDrop) {
                return;
            }
            state.at_mut(primary).record = Record::Refused;
        }
        let own = state.at(primary).record;
        for (replica, record) in heard {
            let send = match own {
                Record::Prepared | Record::Refused => !record.is_decided() && record != own,
                _ => own.is_decided() && record.is_open(),
            };
            if send {
                self.stream_to(state, primary, replica, own);
            }
        }
    }

    /// A primary does what it can do by now.
    pub(crate) fn resume(&self, state: &mut State, primary: Party) {
        if state.at(primary).role == Role::Reconciling {
            if self.breaks(Mutation::RefuseWhileReconciling) {
                self.answer_prepare(state, primary, false);
            }
            if self.breaks(Mutation::CopyBeforeServing) {
                self.copy(state, primary);
            }
            let fenced =
                self.breaks(Mutation::SkipFence) || self.waits_for_fence(state, primary).next().is_none();
            if !fenced || self.waits_for_states(state, primary) {
                return;
            }
            state.at_mut(primary).role = Role::Primary;
            self.reconcile(state, primary);
        }
        if state.at(primary).role != Role::Primary {
            return;
        }
        if let Some(commit) = state.at(primary).decide {
            self.decide(state, primary, commit);
        }
        self.copy(state, primary);
        let worker = state.at_mut(primary);
        if worker.prepare && worker.record == Record::Operations {
            worker.record = Record::Prepared;
            self.stream(state, primary, Record::Prepared);
        }
        match state.at(primary).record {
            Record::Prepared => self.resume_prepared(state, primary),
            Record::None | Record::Operations | Record::Refused | Record::Forgotten(_) => {
                self.resume_refused(state, primary);
            }
            Record::Committed | Record::Aborted => self.resume_decided(state, primary),
        }
    }

    fn copy(&self, state: &mut State, primary: Party) {
        let partition = self.partition(primary).expect("a primary");
        for replica in self.replicas(partition).filter(|&replica| replica != primary) {
            if !std::mem::take(&mut self.peer(state, primary, replica).copy) {
                continue;
            }
            let record = match state.at(primary).record {
                Record::Operations => Record::None,
                record if self.breaks(Mutation::CopyWithoutOutcomes) => match record {
                    Record::Committed => Record::Forgotten(true),
                    Record::Refused | Record::Aborted => Record::Forgotten(false),
                    record => record,
                },
                record => record,
            };
            let peer = self.peer(state, primary, replica);
            peer.sent += 1;
            peer.need = peer.sent;
            let number = peer.sent;
            self.send(state, primary, replica, Message::Copy(record, number));
        }
    }

    fn answer_prepare(&self, state: &mut State, primary: Party, confirm: bool) {
        if !std::mem::take(&mut state.at_mut(primary).prepare) {
            return;
        }
        let partition = self.partition(primary).expect("a primary");
        if !state.at(primary).record.is_decided() {
            let promises = if confirm { &mut state.promised } else { &mut state.refused };
            promises[usize::from(partition)] = true;
        }
        let message = if confirm { Message::PrepareConf(partition) } else { Message::PrepareRef(partition) };
        self.send(state, primary, self.coordinator, message);
    }

    /// Answers the other participant.
    fn answer_other(&self, state: &mut State, primary: Party, known: Record) {
        let Some(other) = state.at_mut(primary).asked_by.take() else { return };
        let partition = usize::from(self.partition(primary).expect("a primary"));
        match known {
            Record::Prepared => state.promised[partition] = true,
            Record::Refused => state.refused[partition] = true,
            _ => {}
        }
        self.send(state, primary, other, Message::OutcomeConf(known));
    }

    fn answer_client(&self, state: &mut State, primary: Party, commit: bool) {
        if std::mem::take(&mut state.at_mut(primary).client_asks) {
            state.seen[usize::from(!commit)] = true;
            self.send(state, primary, self.client(), Message::StatusConf(commit));
        }
    }

    fn resume_prepared(&self, state: &mut State, primary: Party) {
        let confirmed = self.breaks(Mutation::ConfirmWithoutBuddy) || self.is_confirmed(state, primary);
        if confirmed {
            self.answer_prepare(state, primary, true);
            self.answer_other(state, primary, Record::Prepared);
        }
        if self.has_coordinator(state.view(primary)) {
            return;
        }
        let other = state.at(primary).other_prepared || self.breaks(Mutation::DecideAlone);
        if other && (confirmed || self.breaks(Mutation::DecideUnconfirmed)) {
            self.decide(state, primary, true);
            return self.resume_decided(state, primary);
        }
        let partition = self.partition(primary).expect("a primary");
        let ask = self.primary(state.view(primary), 1 - partition);
        if !other && state.at(primary).asked.is_none() {
            state.at_mut(primary).asked = Some(ask);
            self.send(state, primary, ask, Message::OutcomeReq);
        }
    }

    /// Nothing is prepared here: whoever asks is refused, and the refusal binds.
    fn resume_refused(&self, state: &mut State, primary: Party) {
        if matches!(state.at(primary).record, Record::Forgotten(_)) {
            self.confirm_decision(state, primary);
            // The session's mark is past it: «finished», which nobody has to hear.
            if state.client.knows.is_some() {
                let worker = state.at_mut(primary);
                (worker.asked_by, worker.client_asks) = (None, false);
            }
        }
        let worker = state.at(primary);
        let asked = worker.asked_by.is_some() || worker.client_asks;
        if asked && worker.record != Record::Refused && !self.breaks(Mutation::NotFoundIsAborted) {
            state.at_mut(primary).record = Record::Refused;
            self.stream(state, primary, Record::Refused);
        }
        let binds = match state.at(primary).record {
            Record::Refused => {
                self.is_confirmed(state, primary) || self.breaks(Mutation::RefuseBeforeDropAcknowledged)
            }
            Record::Operations => false,
            _ => true,
        };
        if binds {
            self.answer_prepare(state, primary, false);
        }
        if binds || self.breaks(Mutation::NotFoundIsAborted) {
            self.answer_other(state, primary, Record::Refused);
            self.answer_client(state, primary, false);
        }
    }

    fn resume_decided(&self, state: &mut State, primary: Party) {
        let commit = state.at(primary).record == Record::Committed;
        self.answer_prepare(state, primary, commit);
        self.answer_other(state, primary, Record::decision(commit));
        self.answer_client(state, primary, commit);
        self.confirm_decision(state, primary);
    }

    fn confirm_decision(&self, state: &mut State, primary: Party) {
        if state.at(primary).decide.is_some() && self.is_confirmed(state, primary) {
            state.at_mut(primary).decide = None;
            let partition = self.partition(primary).expect("a primary");
            self.send(state, primary, self.coordinator, Message::DecideConf(partition));
        }
    }

    fn decide(&self, state: &mut State, primary: Party, commit: bool) {
        let own = state.at(primary).record;
        let decision = Record::decision(commit);
        // It may have been asked twice, and be done with it.
        if own == decision || own == Record::Forgotten(commit) {
            return;
        }
        if own.is_decided() || (commit && own != Record::Prepared) {
            state.contradiction = true;
            return;
        }
        let worker = state.at_mut(primary);
        worker.record = decision;
        (worker.asked, worker.other_prepared) = (None, false);
        state.seen[usize::from(!commit)] = true;
        self.stream(state, primary, decision);
    }

    fn outcome_conf(&self, state: &mut State, primary: Party, known: Record) {
        if state.at(primary).record == Record::Prepared && !self.has_coordinator(state.view(primary)) {
            match known {
                Record::Prepared => state.at_mut(primary).other_prepared = true,
                known => self.decide(state, primary, known == Record::Committed),
            }
        }
        self.resume(state, primary);
    }
}
