//! One client's connection.
//!
//! Commands that are there together run together, as one batch of independent operations, as long as none of them
//! touches a key that another one writes. So the commands on a key take effect in their order, and answers come in
//! theirs. One batch is under way at a time, and nothing is read meanwhile.

use twofold_proto::{error::Error, time::ClusterTime};

use super::{
    answer::Answers,
    batch::{Batch, Taken},
    command::{Command, Parser},
    counters::Counters,
    item::{Items, expiry},
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
        }
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
        &self.answers.out
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

    /// What is to be done next. `items` is the table, or why there is none.
    ///
    /// # Panics
    /// Panics if what the last step asked for has not been told.
    pub fn step(&mut self, now: ClusterTime, items: Result<&Items, &Error>) -> Step {
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
        for entry in self.batch.entries.drain(..) {
            if entry.has_operation() {
                let outcome = outcomes.next().expect("every operation has a result");
                self.answers.result(&entry, outcome, &self.input);
            } else {
                self.answers.plain(&entry);
            }
        }
        self.batch.ran(results.bytes());
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

/// Reads commands into the batch as long as they may run together.
fn fill<'a>(
    input: &'a [u8],
    read: &mut usize,
    parser: &mut Parser,
    batch: &mut Batch,
    now: ClusterTime,
    items: &Items,
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
