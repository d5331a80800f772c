//! What became of a transaction whose answer is lost: the TC is asked while its node is in the view, after that the
//! primary of a partition that the transaction wrote. The answer is the truth, so what was aborted is tried again.

use twofold_proto::{
    error::{Error, ErrorCode},
    links::LinkId,
    message::{Kind, Outcome, Status, StatusConf, StatusReq, TransactionState, put_control},
    time::Duration,
    wire::Malformed,
};

use crate::request::{Answer, Results, TransactionToken};

use super::{
    Client,
    calls::{Call, Owner, Stage, Work},
    operations::plain_result,
};

/// How soon a question is put again that could not be answered.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// How soon somebody to ask is looked for again, if no view comes before.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Client {
    /// A frontend's question.
    pub(super) fn submit_question(&mut self, token: u64, question: TransactionToken) {
        let learned = self.learned.get(&question.transaction).map(|&outcome| Status::Decided(outcome));
        if let Some(status) = learned.filter(|_| !question.durable) {
            return self.answer(token, Answer::Status(status));
        }
        let deadline = self.deadline(None);
        let opened = self.partitions().and_then(|partitions| {
            if question.partition.0 >= partitions {
                let text = format!("a transaction in partition {} of {partitions}", question.partition);
                return Err(Error::new(ErrorCode::Malformed, text));
            }
            self.open_call(Work::Question, Owner::Request(token), deadline, question.partition, |_| ())
        });
        match opened {
            Ok(slot) => {
                self.calls.get_mut(slot).token = question;
                match learned {
                    Some(status) => self.answer_question(slot, status),
                    None => self.launch(slot),
                }
            }
            Err(error) => self.answer_error(token, error),
        }
    }

    /// Asks what became of the call's transaction.
    pub(super) fn ask(&mut self, slot: u32) {
        let &Call { token, disowned, .. } = self.calls.get(slot);
        let TransactionToken { transaction, commit_number, coordinator, partition, epoch, .. } = token;
        let id = if !disowned && self.view.contains(coordinator.endpoint.node, coordinator.incarnation) {
            self.links.to(coordinator.endpoint, coordinator.incarnation).unwrap_or(LinkId::NONE)
        } else {
            self.route(partition)
        };
        if transaction.session == self.setup.incarnation {
            self.tell_mark(id);
        }
        let Some(link) = self.links.get_mut(id) else {
            return self.set_stage(slot, Stage::AskLater(self.now + LOOK_EVERY));
        };
        let question =
            StatusReq { request: slot, transaction, commit_number, coordinator, partition, epoch, disowned };
        link.send(Kind::StatusReq as u8, 0, |out| put_control(out, &question));
        self.counters.asked += 1;
        self.set_stage(slot, Stage::Asking(id));
    }

    /// The answer (`StatusConf`).
    pub(super) fn on_status_conf(&mut self, link: LinkId, conf: &StatusConf) -> Result<(), Malformed> {
        let slot = conf.request;
        let call = self.calls.answered(slot, Stage::Asking(link))?;
        if conf.status == Status::Disowned {
            self.counters.disowned += 1;
            self.calls.get_mut(slot).disowned = true;
            self.ask(slot);
            return Ok(());
        }
        if call.work == Work::Question {
            self.on_frontends_status(slot, conf.status);
            return Ok(());
        }
        match conf.status {
            Status::Pending | Status::AskElsewhere | Status::Disowned => {
                self.set_stage(slot, Stage::AskLater(self.now + ASK_EVERY))
            }
            Status::Decided(Outcome::Aborted) => {
                let node = call.token.coordinator.endpoint.node;
                let text = format!("the transaction was aborted when node {node} left");
                self.refused(
                    slot,
                    Error::new(ErrorCode::PrimaryChanged, text),
                    None,
                    TransactionState::Aborted,
                );
            }
            Status::Decided(outcome @ Outcome::Committed(epoch)) => {
                if call.owner == Owner::Nobody {
                    self.learn(slot, outcome);
                    self.release(slot);
                } else {
                    self.found_committed(slot, epoch);
                }
            }
            // The cluster took this session for ended and has forgotten; nobody will ever know.
            Status::Finished => {
                let text = "the outcome was forgotten while this client had no connection to the cluster";
                let error = Error::new(ErrorCode::OutcomePending, text);
                self.conclude_failed(slot, error, None, TransactionState::Aborted);
            }
        }
        Ok(())
    }

    fn on_frontends_status(&mut self, slot: u32, status: Status) {
        if status == Status::AskElsewhere {
            return self.set_stage(slot, Stage::AskLater(self.now + ASK_EVERY));
        }
        let learned = self.learned.get(&self.calls.get(slot).token.transaction).copied();
        self.answer_question(slot, learned.map_or(status, Status::Decided));
    }

    /// Answers a frontend's question, or has it wait for the disks.
    fn answer_question(&mut self, slot: u32, status: Status) {
        match status {
            Status::Decided(Outcome::Committed(epoch)) if self.calls.get(slot).token.durable => {
                self.hold(slot, epoch, Results::new(0));
            }
            _ => {
                self.tell_question(slot, status);
                self.release(slot);
            }
        }
    }

    /// Tells whoever asked; from then on nobody owns the call.
    pub(super) fn tell_question(&mut self, slot: u32, status: Status) {
        let owner = std::mem::replace(&mut self.calls.get_mut(slot).owner, Owner::Nobody);
        if let Owner::Request(token) = owner {
            self.answer(token, Answer::Status(status));
        }
    }

    /// A commit is found to have succeeded; its results are lost.
    fn found_committed(&mut self, slot: u32, epoch: twofold_proto::ids::Epoch) {
        match self.calls.get(slot).work {
            Work::Write(kind) => {
                self.tell_write(slot, epoch, &plain_result(kind)).expect("a plain result is well-formed");
            }
            Work::Statement(_) => {
                let results = self.plain_results(slot, epoch);
                self.tell_statement(slot, TransactionState::Committed, epoch, results);
            }
            work => panic!("{work:?} commits nothing"),
        }
    }
}
