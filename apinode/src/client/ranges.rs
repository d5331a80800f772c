//! Steps of scans by index: each worker gives the next rows of its own, and what is certain to come next of all is the answer.
//!
//! The workers are those that are primaries under one view; each partition is some worker's, and no two's. If the view changes before
//! all have answered, the step begins anew under the next one. Nothing is kept from step to step: what was answered is in the
//! index's order, so its last entry says where to go on, whoever is asked then.

use std::collections::BTreeMap;

use twofold_proto::{
    error::{Error, ErrorClass, ErrorCode},
    ids::{PartitionId, ViewNumber},
    index::EntryRange,
    links::LinkId,
    message::{RangeConf, RangeReq},
    time::Time,
    wire::{Malformed, Reader},
};

use super::{
    Client,
    calls::{Owner, Stage, Work},
};
use crate::request::{Answer, Failure, RangeStep, Results};

/// What a worker has answered.
#[derive(Debug)]
struct Piece {
    rest: Option<EntryRange>,
    /// Its rows as they came: entry and result, each with its length.
    rows: Vec<u8>,
}

/// A step under way.
#[derive(Debug)]
struct Range {
    token: u64,
    step: RangeStep,
    deadline: Time,
    /// The view whose workers are asked.
    view: ViewNumber,
    /// Workers that have not answered.
    left: usize,
    pieces: Vec<Piece>,
    failure: Option<Failure>,
}

/// Steps under way, by number.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    open: BTreeMap<u32, Range>,
    next: u32,
    /// Of the rows that wait for other workers' answers.
    bytes: usize,
}

impl Ranges {
    /// Bytes of rows that wait for other workers' answers.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Every answer that a step waits for has a call.
    pub fn check(&self, owners: impl Iterator<Item = Owner>) {
        let mut left: BTreeMap<u32, usize> =
            self.open.iter().map(|(&number, range)| (number, range.left)).collect();
        for owner in owners {
            if let Owner::Piece(number) = owner {
                let left = left.get_mut(&number).unwrap_or_else(|| panic!("step {number} has ended"));
                *left = left.checked_sub(1).unwrap_or_else(|| panic!("step {number} waits for fewer"));
            }
        }
        assert!(left.values().all(|&left| left == 0), "answers without a call, by step: {left:?}");
        let bytes: usize =
            self.open.values().flat_map(|range| &range.pieces).map(|piece| piece.rows.len()).sum();
        assert_eq!(self.bytes, bytes, "bytes of rows of steps");
    }
}

impl Client {
    pub(super) fn submit_range(&mut self, token: u64, step: RangeStep) {
        let checked = self.check_scan(step.partition.unwrap_or_default(), &step.program);
        let fits = || match step.range.fits() {
            true => Ok(()),
            false => Err(Error::new(ErrorCode::Malformed, "the bounds of a range are longer than any entry")),
        };
        if let Err(error) = checked.and_then(|()| fits()) {
            return self.answer_error(token, error);
        }
        let number = self.ranges.next;
        self.ranges.next = number.wrapping_add(1);
        let deadline = self.deadline(step.deadline);
        let (view, pieces, failure) = (self.view.number, Vec::new(), None);
        self.ranges.open.insert(number, Range { token, step, deadline, view, left: 0, pieces, failure });
        self.begin_range(number);
    }

    /// Asks all workers that have to be asked.
    fn begin_range(&mut self, number: u32) {
        let range = self.ranges.open.get_mut(&number).expect("it is under way");
        let to: Vec<PartitionId> = match range.step.partition {
            Some(partition) => vec![partition],
            None => self.spread.clone(),
        };
        (range.view, range.left, range.failure) = (self.view.number, to.len(), None);
        let view = range.step.partition.is_none().then_some(range.view);
        let RangeStep { table, schema_version, index, descending, rows, .. } = range.step;
        let work = Work::Range { table, schema_version, index, view };
        let deadline = range.deadline;
        let (range, program) = (range.step.range.clone(), range.step.program.clone());
        for partition in to {
            let (range, program) = (range.clone(), &program[..]);
            let message = RangeReq {
                request: 0,
                table,
                schema_version,
                index,
                partition,
                view,
                range,
                descending,
                rows,
                program,
            };
            let opened = self.open_call(work, Owner::Piece(number), deadline, partition, |body| {
                message.encode_unnumbered(body);
            });
            match opened {
                Ok(slot) => self.launch(slot),
                Err(error) => self.piece_failed(number, error.into()),
            }
        }
    }

    /// Rows of one worker (`RangeConf`).
    pub(super) fn on_range_conf(&mut self, link: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(body, "RangeConf");
        let conf = RangeConf::parse(&mut reader)?;
        let rows = reader.rest();
        for _ in 0..2 * u64::from(conf.rows) {
            reader.block()?;
        }
        reader.finish()?;
        let call = self.calls.answered(conf.request, Stage::Sent(link))?;
        if !matches!(call.work, Work::Range { .. }) {
            return Err(Malformed("RangeConf: not for a scan by index"));
        }
        let room = self.room_for_results(rows.len());
        let owner = std::mem::replace(&mut self.calls.get_mut(conf.request).owner, Owner::Nobody);
        self.release(conf.request);
        let Owner::Piece(number) = owner else { return Ok(()) };
        if let Err(error) = room {
            self.piece_failed(number, error.into());
            return Ok(());
        }
        self.ranges.bytes += rows.len();
        let range = self.ranges.open.get_mut(&number).expect("a step stays until its last answer");
        range.pieces.push(Piece { rest: conf.rest, rows: rows.to_vec() });
        self.piece_done(number);
        Ok(())
    }

    /// A worker has not answered, and will not.
    pub(super) fn piece_failed(&mut self, number: u32, failure: Failure) {
        let range = self.ranges.open.get_mut(&number).expect("a step stays until its last answer");
        range.failure.get_or_insert(failure);
        self.piece_done(number);
    }

    fn piece_done(&mut self, number: u32) {
        let range = self.ranges.open.get_mut(&number).expect("a step stays until its last answer");
        range.left -= 1;
        if range.left > 0 {
            return;
        }
        if let Some(failure) = &range.failure {
            let moved = range.step.partition.is_none() && range.view != self.view.number;
            let again = moved && failure.error.code.class() == ErrorClass::Temporary;
            if again && self.now < range.deadline && !self.stopping {
                let pieces = std::mem::take(&mut range.pieces);
                self.ranges.bytes -= pieces.iter().map(|piece| piece.rows.len()).sum::<usize>();
                self.counters.resent += 1;
                return self.begin_range(number);
            }
        }
        let range = self.ranges.open.remove(&number).expect("just seen");
        self.ranges.bytes -= range.pieces.iter().map(|piece| piece.rows.len()).sum::<usize>();
        let answer = match range.failure {
            Some(failure) => Answer::Failed(failure),
            None => merge(&range.step, &range.pieces),
        };
        self.answer(range.token, answer);
    }
}

/// The rows that certainly come next.
fn merge(step: &RangeStep, pieces: &[Piece]) -> Answer {
    // No worker has told of entries beyond what it has left.
    let rests = || pieces.iter().filter_map(|piece| piece.rest.as_ref());
    let (from, to) = match step.descending {
        false => (None, rests().map(|rest| &rest.from).min()),
        true => (rests().filter_map(|rest| rest.to.as_ref()).max(), None),
    };
    let certain =
        |entry: &[u8]| from.is_none_or(|from| entry >= &from[..]) && to.is_none_or(|to| entry < &to[..]);
    let mut rows: Vec<(&[u8], &[u8])> = Vec::new();
    for piece in pieces {
        let mut reader = Reader::new(&piece.rows, "rows");
        while let (Ok(entry), Ok(row)) = (reader.block(), reader.block()) {
            if !certain(entry) {
                break;
            }
            rows.push((entry, row));
        }
    }
    // Each worker's are in order: the sort only merges.
    rows.sort_by(|(a, _), (b, _)| if step.descending { b.cmp(a) } else { a.cmp(b) });
    let beyond = step.rows != 0 && rows.len() > step.rows as usize;
    let rest = if beyond {
        rows.truncate(step.rows as usize);
        rows.last().map(|(entry, _)| step.range.after(entry, step.descending))
    } else {
        let EntryRange { from: first, to: last } = &step.range;
        match (from, to) {
            (None, None) => None,
            (from, to) => {
                Some(EntryRange { from: to.unwrap_or(first).clone(), to: from.or(last.as_ref()).cloned() })
            }
        }
    };
    let mut results = Results::new(0);
    rows.iter().for_each(|(_, row)| results.push(row));
    Answer::Range { rest, rows: results }
}
