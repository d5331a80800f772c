//! Durability `disk`: a commit is answered once its epoch is durable. The client waits for that, not the TC: who answers may
//! change, and an outcome that had to be asked for waits like any other. So does an answer to a user who asks what became of
//! such a commit.
//!
//! While something waits, a worker of the president's node is asked for the newest epoch of all (`DurableReq`); it tells of each
//! that becomes durable until that one is (`DurableConf`). Any worker's answer is true for good. The president hurries for
//! those that it hears of, which is all that asking elsewhere would cost.

use std::collections::BTreeMap;

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{Endpoint, Epoch, WorkerId},
    links::LinkId,
    message::{Kind, Outcome, Status, TransactionState},
    time::{Duration, Time},
    wire::{Malformed, Reader, Writer},
};

use crate::request::{Durability, Results};

use super::{
    Client, NEVER,
    calls::{Owner, Stage, Work},
};

/// How soon somebody to ask is looked for again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Commits whose epoch is not known to be durable.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Their results, by epoch and call.
    results: BTreeMap<(Epoch, u32), Results>,
    bytes: usize,
    /// The newest epoch that is known to be durable.
    durable: Epoch,
    /// Whom it asked last, and for which epoch.
    asked: Option<(LinkId, Epoch)>,
    look_at: Option<Time>,
}

impl Held {
    /// Bytes of the results.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When somebody is to be asked.
    pub fn due(&self) -> Time {
        self.look_at.unwrap_or(NEVER)
    }
}

/// What became of an epoch.
enum Fate {
    Durable,
    NotYet,
    /// A system restart went back behind it.
    Undone,
    /// That many system restarts have been since that nobody knows.
    Forgotten,
}

impl Client {
    /// The call is committed; its answer waits.
    pub(super) fn hold(&mut self, slot: u32, epoch: Epoch, results: Results) {
        self.set_stage(slot, Stage::Held(epoch));
        self.held.bytes += results.bytes();
        self.held.results.insert((epoch, slot), results);
        self.release_durable();
        self.ask_durable();
    }

    fn fate(&self, epoch: Epoch) -> Fate {
        if epoch.restart() >= self.view.restart {
            return if epoch <= self.held.durable { Fate::Durable } else { Fate::NotYet };
        }
        match self.view.keeps(epoch) {
            _ if !self.view.knows_cuts_since(epoch) => Fate::Forgotten,
            // What a restart goes back to is durable.
            true => Fate::Durable,
            false => Fate::Undone,
        }
    }

    /// Answers what is durable by now, or will never be.
    pub(super) fn release_durable(&mut self) {
        while let Some((&(epoch, slot), _)) = self.held.results.first_key_value() {
            let fate = self.fate(epoch);
            if matches!(fate, Fate::NotYet) {
                return;
            }
            let results = self.held.results.remove(&(epoch, slot)).expect("just seen");
            self.held.bytes -= results.bytes();
            let call = self.calls.get_mut(slot);
            // It waits for nothing any more.
            call.durability = Durability::Memory;
            if call.owner == Owner::Nobody {
                match fate {
                    Fate::Durable => self.learn(slot, Outcome::Committed(epoch)),
                    Fate::Undone => self.learn(slot, Outcome::Aborted),
                    Fate::NotYet | Fate::Forgotten => {}
                }
                self.release(slot);
            } else if call.work == Work::Question {
                self.tell_question(
                    slot,
                    match fate {
                        Fate::Durable => Status::Decided(Outcome::Committed(epoch)),
                        Fate::Undone => Status::Decided(Outcome::Aborted),
                        Fate::NotYet | Fate::Forgotten => Status::Finished,
                    },
                );
                self.release(slot);
            } else if matches!(fate, Fate::Durable) {
                self.tell_held(slot, epoch, results);
            } else {
                let (code, text) = match fate {
                    Fate::Undone => {
                        (ErrorCode::PrimaryChanged, "was not on disk when the whole cluster failed")
                    }
                    _ => (ErrorCode::OutcomePending, "was forgotten while this client had no connection"),
                };
                let error = Error::new(code, format!("epoch {epoch} {text}"));
                self.conclude_failed(slot, error, None, TransactionState::Aborted);
            }
        }
    }

    fn tell_held(&mut self, slot: u32, epoch: Epoch, results: Results) {
        match self.calls.get(slot).work {
            Work::Write(_) => {
                let result = results.get(0).expect("a committed write has a result");
                self.tell_write(slot, epoch, result).expect("it was read when it came");
            }
            Work::Statement(_) => self.tell_statement(slot, TransactionState::Committed, epoch, results),
            work => panic!("{work:?} commits nothing"),
        }
    }

    /// The newest epoch that is durable (`DurableConf`).
    pub(super) fn on_durable_conf(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "DurableConf");
        let durable = Epoch(reader.u64()?);
        reader.finish()?;
        self.held.durable = self.held.durable.max(durable);
        self.release_durable();
        self.ask_durable();
        Ok(())
    }

    /// Asks for what waits, where that was not asked for yet.
    pub(super) fn ask_durable(&mut self) {
        let Some((&(epoch, _), _)) = self.held.results.last_key_value() else {
            self.held.look_at = None;
            return;
        };
        self.held.look_at = Some(self.now + LOOK_EVERY);
        let president = self.view.president().and_then(|node| self.view.member(node));
        let link = president.and_then(|president| {
            self.links.to(Endpoint::new(president.node, WorkerId(0)), president.incarnation)
        });
        let Some(id) = link.filter(|&id| self.held.asked != Some((id, epoch))) else { return };
        let link = self.links.get_mut(id).expect("just found");
        link.send(Kind::DurableReq as u8, 0, |out| out.put_u64(epoch.0));
        self.held.asked = Some((id, epoch));
    }

    pub(super) fn check_held(&self) {
        let bytes: usize = self.held.results.values().map(Results::bytes).sum();
        assert_eq!(self.held.bytes, bytes, "bytes of results that wait for the disks");
        for &(epoch, slot) in self.held.results.keys() {
            assert_eq!(self.calls.get(slot).stage, Stage::Held(epoch), "call {slot}");
        }
        let held = self.calls.iter().filter(|(_, call)| matches!(call.stage, Stage::Held(_))).count();
        assert_eq!(held, self.held.results.len(), "calls that wait for the disks");
    }
}
