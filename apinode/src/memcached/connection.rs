//! One client's connection.
//!
//! Commands that are there together run together, as one batch of independent operations, as long as none of them
//! touches a key that another one writes. So the commands on a key take effect in their order, and answers come in
//! theirs. One batch is under way at a time, and nothing is read meanwhile.

use twofold_proto::{error::Error, time::ClusterTime};

use super::{
    answer::{Answers, Entry, Outcome},
    batch::{Batch, Taken},
    command::{Command, Parser},
    counters::Counters,
    item::{Keyspace, expiry},
    meta_answer::{Held, Memo, MetaEntry, Then, first_phase},
};
use crate::request::{Operations, Results};

/// A buffer that was larger than this is given back once it is empty.
const BUFFER_KEPT: usize = 64 << 10;

/// What a connection wants next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// More input. All output is there, and is to be sent before reading.
    Read,
    /// Run these, each on its own, and tell the results with [`Connection::executed`].
    Execute(Operations),
    /// Delete all items at this time, or now if that is past, instead of when it was last said. Tell that it is done, or
    /// will be, with [`Connection::said`].
    FlushAll {
        /// When.
        at: ClusterTime,
    },
    /// Tell figures of this kind with [`Connection::stats`], or what is wrong with the kind with [`Connection::said`].
    Stats {
        /// The kind; empty: general ones.
        kind: Vec<u8>,
    },
    /// The end, once all output is sent.
    Close,
}

/// What the last step asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waiting {
    Nothing,
    Results,
    Server { noreply: bool },
}

/// Why a batch takes no more.
enum Filled<'a> {
    NeedsInput,
    HasToRun,
    Before(Command<'a>),
}

/// A client's connection. Its driver calls [`Connection::step`] again and again, and does what that says.
#[derive(Debug)]
pub struct Connection {
    input: Vec<u8>,
    /// So much of the input is read.
    read: usize,
    parser: Parser,
    batch: Batch,
    answers: Answers,
    waiting: Waiting,
    closing: bool,
    /// When the last step was made.
    now: ClusterTime,
}

impl Default for Connection {
    fn default() -> Connection {
        Connection::new()
    }
}

impl Connection {
    /// A connection on which nothing has been said.
    pub fn new() -> Connection {
        Connection {
            input: Vec::new(),
            read: 0,
            parser: Parser::default(),
            batch: Batch::new(),
            answers: Answers::default(),
            waiting: Waiting::Nothing,
            closing: false,
            now: ClusterTime(0),
        }
    }

    /// A connection on which something has been said and answered. What is there of one that [`Connection::is_at_rest`]
    /// will do as well.
    pub fn at_rest() -> Connection {
        Connection { parser: Parser::between_commands(), ..Connection::new() }
    }

    /// Whether nothing of it is left but its memory: all that was said is answered, and the answers are sent.
    pub fn is_at_rest(&self) -> bool {
        self.read == self.input.len()
            && self.answers.out.is_empty()
            && self.parser == Parser::between_commands()
            && !self.closing
            && self.waiting == Waiting::Nothing
            && self.batch.is_at_rest()
    }

    /// Where input goes, behind what is there. It never holds more than one value and one line, and what was last put
    /// there.
    ///
    /// # Panics
    /// Panics if something is under way: input is asked for by [`Step::Read`].
    pub fn input(&mut self) -> &mut Vec<u8> {
        assert_eq!(self.waiting, Waiting::Nothing, "input while something is under way");
        self.input.drain(..self.read);
        self.read = 0;
        if self.input.is_empty() && self.input.capacity() > BUFFER_KEPT {
            self.input = Vec::new();
        }
        &mut self.input
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        self.answers.ready()
    }

    /// So much of the output was sent.
    pub fn sent(&mut self, bytes: usize) {
        self.answers.sent(bytes);
        if self.answers.out.is_empty() && self.answers.out.capacity() > BUFFER_KEPT {
            self.answers.out = Vec::new();
        }
    }

    /// What was counted since the last call; bytes are for the driver to count.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.answers.counters)
    }

    /// What is to be done next. `items` are the tables, or why there is none.
    ///
    /// # Panics
    /// Panics if what the last step asked for has not been told.
    pub fn step(&mut self, now: ClusterTime, items: Result<&Keyspace, &Error>) -> Step {
        assert_eq!(self.waiting, Waiting::Nothing, "stepped while something is under way");
        if self.closing {
            return Step::Close;
        }
        let items = match items {
            Ok(items) => items,
            Err(error) => {
                self.answers.server_error(error);
                self.closing = true;
                return Step::Close;
            }
        };
        self.now = now;
        self.resume(items);
        if self.batch.builder.operations.count > 0 {
            self.waiting = Waiting::Results;
            return Step::Execute(std::mem::take(&mut self.batch.builder.operations));
        }
        loop {
            let Connection { input, read, parser, batch, .. } = self;
            let filled = fill(input, read, parser, batch, now, items);
            if self.batch.builder.operations.count > 0 {
                self.waiting = Waiting::Results;
                return Step::Execute(std::mem::take(&mut self.batch.builder.operations));
            }
            for entry in self.batch.entries.drain(..) {
                self.answers.plain(&entry);
            }
            self.batch.is_over();
            match filled {
                Filled::NeedsInput => return Step::Read,
                Filled::HasToRun => {}
                Filled::Before(Command::Stats(kind)) => {
                    self.waiting = Waiting::Server { noreply: false };
                    return Step::Stats { kind: kind.to_vec() };
                }
                Filled::Before(Command::FlushAll { delay, noreply }) => {
                    self.waiting = Waiting::Server { noreply };
                    self.answers.counters.cmd_flush += 1;
                    return Step::FlushAll { at: expiry(delay.max(0), now) };
                }
                Filled::Before(Command::Close(text)) => {
                    self.answers.say(text);
                    self.closing = true;
                    return Step::Close;
                }
                Filled::Before(command) => panic!("{command:?} is one for a batch"),
            }
        }
    }

    /// The results of what [`Step::Execute`] asked for.
    ///
    /// # Panics
    /// Panics if nothing was asked for, or the results are fewer.
    pub fn executed(&mut self, results: &Results) {
        assert_eq!(self.waiting, Waiting::Results, "results of nothing");
        self.waiting = Waiting::Nothing;
        let mut outcomes = results.iter();
        let mut next = || outcomes.next().expect("every operation has a result");
        if !self.answers.held.is_empty() {
            self.executed_held(&mut next);
        }
        let mut entries = std::mem::take(&mut self.batch.entries);
        for entry in &entries {
            match entry {
                Entry::Meta(entry) => self.executed_meta(*entry, next()),
                entry if entry.has_operation() => self.answers.result(entry, next(), &self.input),
                entry => self.answers.plain(entry),
            }
        }
        entries.clear();
        self.batch.entries = entries;
        self.batch.ran(results.bytes());
    }

    fn executed_meta(&mut self, entry: MetaEntry, outcome: Outcome<'_>) {
        let (start, memo) = (self.answers.out.len(), Memo::default());
        let then = self.answers.meta(&entry, &memo, outcome, &self.input, self.now);
        let place = start..self.answers.out.len();
        let mut held = Held { entry, memo, place, runs: false };
        if held.goes_on(then, &self.input) {
            self.answers.held.push(held);
        }
    }

    /// Asks for the next operations of commands that were not answered yet.
    fn resume(&mut self, items: &Keyspace) {
        let mut place = 0;
        while let Some(held) = self.answers.held.get_mut(place) {
            match self.batch.resume(held, &self.input, self.now, items) {
                Ok(()) => place += 1,
                Err(text) => {
                    let held = self.answers.held.remove(place);
                    let from = self.answers.out.len();
                    self.answers.say(&text);
                    self.answers.replace(held.place, from, place);
                }
            }
        }
    }

    fn executed_held<'r>(&mut self, next: &mut impl FnMut() -> Outcome<'r>) {
        let mut place = 0;
        while place < self.answers.held.len() {
            if !self.answers.held[place].runs {
                place += 1;
                continue;
            }
            let mut held = self.answers.held.remove(place);
            held.runs = false;
            let from = self.answers.out.len();
            let then = self.answers.meta(&held.entry, &held.memo, next(), &self.input, self.now);
            if !matches!(then, Then::Stands) {
                held.place = self.answers.replace(held.place, from, place);
            }
            if held.goes_on(then, &self.input) {
                self.answers.held.insert(place, held);
                place += 1;
            }
        }
    }

    /// What the server has to say to what the last step asked for.
    ///
    /// # Panics
    /// Panics if nothing was asked for.
    pub fn said(&mut self, said: Result<&str, &Error>) {
        let Waiting::Server { noreply } = self.waiting else { panic!("an answer to {:?}", self.waiting) };
        self.waiting = Waiting::Nothing;
        match said {
            _ if noreply => {}
            Ok(text) => self.answers.say(text),
            Err(error) => self.answers.server_error(error),
        }
    }

    /// The figures that [`Step::Stats`] asked for.
    ///
    /// # Panics
    /// Panics if nothing was asked for.
    pub fn stats<N: AsRef<str>, V: std::fmt::Display>(&mut self, figures: impl IntoIterator<Item = (N, V)>) {
        for (name, value) in figures {
            self.answers.say(&format!("STAT {} {value}", name.as_ref()));
        }
        self.said(Ok("END"));
    }
}

impl Held {
    /// Whether there is more to do.
    fn goes_on(&mut self, then: Then, input: &[u8]) -> bool {
        (self.entry.phase, self.memo) = match then {
            Then::Done | Then::Stands => return false,
            Then::Next(phase, memo) => (phase, memo),
            Then::Again => (first_phase(self.entry.verb, &self.entry.meta(input)), Memo::default()),
        };
        true
    }
}

/// Reads commands into the batch as long as they may run together.
fn fill<'a>(
    input: &'a [u8],
    read: &mut usize,
    parser: &mut Parser,
    batch: &mut Batch,
    now: ClusterTime,
    items: &Keyspace,
) -> Filled<'a> {
    loop {
        if !batch.continue_get(input, items) || batch.is_full() {
            return Filled::HasToRun;
        }
        let before = parser.clone();
        let mut rest = &input[*read..];
        let command = parser.next(&mut rest);
        let after = input.len() - rest.len();
        let Some(command) = command else {
            *read = after;
            return Filled::NeedsInput;
        };
        match batch.take(command, input, now, items) {
            Taken::Yes => {}
            Taken::NeverInBatch if batch.entries.is_empty() => {
                *read = after;
                return Filled::Before(command);
            }
            // It is read again when the batch has run.
            Taken::No | Taken::NeverInBatch => {
                *parser = before;
                return Filled::HasToRun;
            }
        }
        *read = after;
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
