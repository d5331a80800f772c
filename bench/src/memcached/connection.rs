//! One connection: requests go out by the pipeline, and the next ones when all are answered.

use std::{cell::RefCell, ops::ControlFlow, rc::Rc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use twofold_proto::time::Time;
use twofold_runtime::Clock;

use crate::{
    keys::Keys,
    measure::{Tally, Window},
};

use super::protocol::{Answers, Piece, put_get, put_meta_get, put_set};

/// Bytes that are read at once at most.
const READ_BYTES: usize = 16 << 10;

/// What a connection asks for.
#[derive(Clone, Debug)]
pub enum Asks {
    /// Sets each of these keys once.
    Fill(std::ops::Range<u64>),
    /// Sets keys that are drawn.
    Set(Keys),
    /// Gets keys that are drawn, so many in one command.
    Get { keys: Keys, per_command: usize },
}

/// What the connections of a thread do.
#[derive(Debug)]
pub struct Common {
    /// When.
    pub window: Window,
    /// Whether by the meta commands.
    pub meta: bool,
    /// Commands in a pipeline.
    pub pipeline: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// What follows the key of a set.
    pub set_rest: Vec<u8>,
    /// What happened.
    pub tally: RefCell<Tally>,
    /// When the last answer came.
    pub finished: std::cell::Cell<Time>,
}

/// What is under way on a connection.
#[derive(Default, Debug)]
struct Pipeline {
    /// The keys of all commands, in order.
    keys: Vec<u64>,
    /// Where the keys of each command end.
    ends: Vec<usize>,
    /// Keys and commands that are answered.
    keys_done: usize,
    commands_done: usize,
    sent: Time,
}

impl Pipeline {
    /// Fills in the next commands, and appends their bytes.
    fn fill(&mut self, asks: &mut Asks, common: &Common, out: &mut Vec<u8>) {
        (self.keys_done, self.commands_done) = (0, 0);
        self.keys.clear();
        self.ends.clear();
        for _ in 0..common.pipeline {
            let start = self.keys.len();
            match asks {
                Asks::Fill(left) => self.keys.extend(left.next()),
                Asks::Set(keys) => self.keys.push(keys.next()),
                Asks::Get { keys, per_command } => self.keys.extend((0..*per_command).map(|_| keys.next())),
            }
            let keys = &self.keys[start..];
            if keys.is_empty() {
                break;
            }
            match asks {
                Asks::Get { .. } if common.meta => put_meta_get(keys[0], out),
                Asks::Get { .. } => put_get(keys, out),
                Asks::Fill(_) | Asks::Set(_) => put_set(common.meta, keys[0], &common.set_rest, out),
            }
            self.ends.push(self.keys.len());
        }
    }

    fn is_done(&self) -> bool {
        self.commands_done == self.ends.len()
    }

    /// Takes in a piece of an answer that came at this time.
    fn take(&mut self, now: Time, piece: Piece, common: &Common) -> ControlFlow<()> {
        let mut tally = common.tally.borrow_mut();
        let Some(&end) = self.ends.get(self.commands_done) else {
            tally.fail("an answer too many");
            return ControlFlow::Break(());
        };
        let counts = common.window.counts(now);
        let done = |tally: &mut Tally| {
            if counts {
                tally.done += 1;
                tally.latencies.add(now.0.saturating_sub(self.sent.0));
            }
        };
        match piece {
            Piece::Value { key, bytes, last } => {
                // Items come in the order of the keys; those that are missing are passed over.
                let asked = self.keys[self.keys_done..end].iter().position(|asked| Some(*asked) == key);
                match asked {
                    Some(missing) if bytes == common.value_size => {
                        (0..missing).for_each(|_| tally.fail("no such item"));
                        self.keys_done += missing + 1;
                        done(&mut tally);
                    }
                    Some(_) => tally.fail("an item of a wrong size"),
                    None => tally.fail("an item that was not asked for"),
                }
                if !last {
                    return ControlFlow::Continue(());
                }
            }
            Piece::End => (self.keys_done..end).for_each(|_| tally.fail("no such item")),
            Piece::Stored => done(&mut tally),
            Piece::Other(line) => (self.keys_done..end).for_each(|_| tally.fail(line.clone())),
        }
        self.keys_done = end;
        self.commands_done += 1;
        if self.is_done() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Runs a connection until its window ends, or there is nothing more to ask for.
pub async fn run(mut stream: TcpStream, mut asks: Asks, common: Rc<Common>) {
    if let Err(error) = exchange(&mut stream, &mut asks, &common).await {
        common.tally.borrow_mut().fail(format!("connection: {error}"));
    }
}

async fn exchange(stream: &mut TcpStream, asks: &mut Asks, common: &Common) -> Result<(), String> {
    let (mut answers, mut pipeline) = (Answers::default(), Pipeline::default());
    let (mut request, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
    let mut kept = 0;
    loop {
        pipeline.sent = Clock.now();
        if pipeline.sent >= common.window.end {
            return Ok(());
        }
        request.clear();
        pipeline.fill(asks, common, &mut request);
        if pipeline.is_done() {
            return Ok(());
        }
        stream.write_all(&request).await.map_err(|error| error.to_string())?;
        while !pipeline.is_done() {
            let read = stream.read(&mut buffer[kept..]).await.map_err(|error| error.to_string())?;
            if read == 0 {
                return Err("closed by the server".into());
            }
            let now = Clock.now();
            let used = answers.read(&buffer[..kept + read], |piece| pipeline.take(now, piece, common))?;
            buffer.copy_within(used..kept + read, 0);
            kept = kept + read - used;
            common.finished.set(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common() -> Common {
        Common {
            window: Window::unbounded(Time(0)),
            meta: false,
            pipeline: 2,
            value_size: 3,
            set_rest: Vec::new(),
            tally: RefCell::default(),
            finished: Default::default(),
        }
    }

    fn failed(common: &Common) -> Vec<(String, u64)> {
        common.tally.borrow().failed.iter().map(|(why, count)| (why.clone(), *count)).collect()
    }

    #[test]
    fn items_are_matched_with_what_was_asked_for() {
        let common = common();
        let keys = Keys::new(
            crate::keys::Distribution::Sequential,
            100,
            0.9,
            0,
            twofold_proto::random::Random::new(1),
        );
        let mut pipeline = Pipeline::default();
        let mut out = Vec::new();
        pipeline.fill(&mut Asks::Get { keys, per_command: 3 }, &common, &mut out);
        assert_eq!((&pipeline.keys[..], &pipeline.ends[..]), (&[0, 1, 2, 3, 4, 5][..], &[3, 6][..]));
        let value = |key, bytes| Piece::Value { key, bytes, last: false };
        let mut take = |piece| pipeline.take(Time(9), piece, &common).is_break();
        assert!(!take(value(Some(1), 3)), "0 is missing");
        assert!(!take(value(Some(2), 3)));
        assert!(!take(Piece::End));
        assert!(!take(value(Some(2), 3)), "not of this command");
        assert!(!take(value(Some(3), 4)), "of a wrong size");
        assert!(take(Piece::Other("SERVER_ERROR".into())));
        assert_eq!(common.tally.borrow().done, 2);
        assert_eq!(
            failed(&common),
            [
                ("SERVER_ERROR".into(), 3),
                ("an item of a wrong size".into(), 1),
                ("an item that was not asked for".into(), 1),
                ("no such item".into(), 1)
            ]
        );
        assert!(pipeline.is_done());
    }

    #[test]
    fn a_fill_ends_with_its_keys() {
        let common = common();
        let (mut pipeline, mut asks) = (Pipeline::default(), Asks::Fill(5..8));
        let mut rounds = Vec::new();
        loop {
            pipeline.fill(&mut asks, &common, &mut Vec::new());
            if pipeline.is_done() {
                break;
            }
            rounds.push(pipeline.keys.clone());
            let answers = pipeline.keys.len();
            for _ in 0..answers {
                let _ = pipeline.take(Time(0), Piece::Stored, &common);
            }
        }
        assert_eq!(rounds, [vec![5, 6], vec![7]]);
        assert_eq!((common.tally.borrow().done, failed(&common)), (3, vec![]));
    }
}
