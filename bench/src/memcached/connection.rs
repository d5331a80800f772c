//! One connection: requests go out by the pipeline, and the next ones when all are answered.

use std::{
    cell::RefCell,
    future::poll_fn,
    ops::ControlFlow,
    pin::Pin,
    rc::Rc,
    task::{Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use twofold_proto::time::Time;
use twofold_runtime::Clock;

use crate::{
    keys::Keys,
    measure::{Tally, Window},
};

use super::protocol::{Answers, Piece, Protocol};

/// Bytes that are read at once at most.
pub const READ_BYTES: usize = 64 << 10;

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
    /// In which words.
    pub protocol: Protocol,
    /// Commands in a pipeline.
    pub pipeline: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// What follows the key of a set.
    pub set_rest: Vec<u8>,
    /// Where all of them read, so that many connections take little memory.
    pub buffer: RefCell<Vec<u8>>,
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
                Asks::Get { .. } => common.protocol.put_get(keys, out),
                Asks::Fill(_) | Asks::Set(_) => common.protocol.put_set(keys[0], &common.set_rest, out),
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
            Piece::Next { .. } | Piece::Missing => {
                match piece {
                    Piece::Next { bytes } if bytes == common.value_size => done(&mut tally),
                    Piece::Missing => tally.fail("no such item"),
                    _ => tally.fail("an item of a wrong size"),
                }
                self.keys_done += 1;
                if self.keys_done < end {
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
    let (mut answers, mut pipeline) = (Answers::new(common.protocol), Pipeline::default());
    // What is sent, and what has come and is no whole line yet.
    let (mut request, mut rest) = (Vec::new(), Vec::new());
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
            let take_in = |bytes: &[u8]| {
                let now = Clock.now();
                common.finished.set(now);
                let take = |piece| pipeline.take(now, piece, common);
                if rest.is_empty() {
                    let used = answers.read(bytes, take)?;
                    rest.extend_from_slice(&bytes[used..]);
                } else {
                    rest.extend_from_slice(bytes);
                    let used = answers.read(&rest, take)?;
                    rest.drain(..used);
                }
                Ok(())
            };
            read(stream, common, take_in).await?;
        }
    }
}

/// Waits for bytes, and has them taken in.
async fn read(
    stream: &mut TcpStream,
    common: &Common,
    mut take_in: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let read = poll_fn(|context| {
        let mut buffer = common.buffer.borrow_mut();
        let mut buffer = ReadBuf::new(&mut buffer);
        let result = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
        Poll::Ready(match (result, buffer.filled()) {
            (Err(error), _) => Err(error.to_string()),
            (Ok(()), []) => Err("closed by the server".into()),
            (Ok(()), bytes) => take_in(bytes),
        })
    });
    read.await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common() -> Common {
        Common {
            window: Window::unbounded(Time(0)),
            protocol: Protocol::Classic,
            pipeline: 2,
            value_size: 3,
            set_rest: Vec::new(),
            buffer: RefCell::default(),
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
    fn items_without_keys_are_those_asked_for_in_their_order() {
        let common = common();
        let mut pipeline = Pipeline { keys: vec![4, 5, 6, 7], ends: vec![3, 4], ..Pipeline::default() };
        let mut take = |piece| pipeline.take(Time(9), piece, &common).is_break();
        assert!(!take(Piece::Next { bytes: 3 }));
        assert!(!take(Piece::Missing));
        assert!(!take(Piece::Next { bytes: 4 }));
        assert!(take(Piece::Next { bytes: 3 }), "the last of the second command");
        assert_eq!(common.tally.borrow().done, 2);
        assert_eq!(failed(&common), [("an item of a wrong size".into(), 1), ("no such item".into(), 1)]);
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
