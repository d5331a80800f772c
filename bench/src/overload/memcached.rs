//! Connections of memcached's clients.

use std::{cell::RefCell, collections::VecDeque, io, net::SocketAddr, ops::ControlFlow, rc::Rc};

use tokio::{io::Interest, net::TcpStream, sync::Notify, task::spawn_local};
use twofold_proto::time::Time;

use crate::memcached::protocol::{Answers, Piece};

use super::{Answered, Common, Connection, Make, WORDS};

/// Bytes that are read at once at most.
const READ_BYTES: usize = 64 << 10;

struct Client {
    stream: TcpStream,
    common: Rc<Common>,
    state: RefCell<State>,
    /// There is something to write, and it has to be waited for.
    full: Notify,
}

#[derive(Default)]
struct State {
    /// What is yet to be written.
    out: Vec<u8>,
    /// Messages that are not answered, and how many of their commands are left.
    unanswered: VecDeque<(Answered, usize)>,
}

/// Connects so many clients.
pub async fn connect(server: SocketAddr, count: usize) -> Result<Vec<Make>, String> {
    let mut made: Vec<Make> = Vec::with_capacity(count);
    for _ in 0..count {
        let named = |error: io::Error| format!("{server}: {error}");
        let stream = TcpStream::connect(server).await.map_err(named)?;
        stream.set_nodelay(true).map_err(named)?;
        made.push(Box::new(move |common| {
            let (state, full) = (RefCell::default(), Notify::new());
            let client = Rc::new(Client { stream, common, state, full });
            spawn_local(read(client.clone()));
            client
        }));
    }
    Ok(made)
}

impl Connection for Client {
    fn unanswered(&self) -> usize {
        self.state.borrow().unanswered.len()
    }

    fn send(self: Rc<Client>, due: Time) {
        let keys = self.common.draw();
        self.common.sent();
        let mut state = self.state.borrow_mut();
        for key in &keys {
            WORDS.put_get(&[*key], &mut state.out);
        }
        state.unanswered.push_back((Answered { due, ..Answered::default() }, keys.len()));
        if state.write(&self.stream) {
            self.full.notify_one();
        }
    }
}

impl State {
    /// Writes what the system takes; whether something is left. Who reads finds out whether the connection is broken.
    fn write(&mut self, stream: &TcpStream) -> bool {
        if let Ok(written) = stream.try_write(&self.out) {
            self.out.drain(..written);
        }
        !self.out.is_empty()
    }

    /// Takes in a piece of an answer. Returns what became of a message that is answered by it.
    fn take(&mut self, piece: Piece, common: &Common) -> Option<Answered> {
        let (answered, left) = self.unanswered.front_mut()?;
        match piece {
            Piece::Other(line) => {
                common.note_refusal(&line);
                answered.refused += 1;
            }
            Piece::End => answered.done += 1,
            _ => return None,
        }
        *left -= 1;
        if *left > 0 { None } else { self.unanswered.pop_front().map(|(answered, _)| answered) }
    }
}

async fn read(client: Rc<Client>) {
    let (mut answers, mut buffer, mut rest) = (Answers::new(WORDS), vec![0; READ_BYTES], Vec::new());
    loop {
        let interest = match client.state.borrow().out.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        tokio::select! {
            _ = client.stream.ready(interest) => {}
            () = client.full.notified() => continue,
        }
        client.state.borrow_mut().write(&client.stream);
        let read = match client.stream.try_read(&mut buffer) {
            Ok(bytes @ 1..) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            // What is not answered stays so, and counts as neither.
            _ => return client.common.note_refusal("the connection was closed"),
        };
        rest.extend_from_slice(&buffer[..read]);
        let mut whole = Vec::new();
        let take = |piece| {
            whole.extend(client.state.borrow_mut().take(piece, &client.common));
            ControlFlow::Continue(())
        };
        let Ok(used) = answers.read(&rest, take) else {
            return client.common.note_refusal("an answer that is none of this protocol's");
        };
        rest.drain(..used);
        for answered in whole {
            if let Some(due) = client.common.answered(answered) {
                client.clone().send(due);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use twofold_proto::random::Random;

    use super::*;
    use crate::{
        keys::{Distribution, Keys},
        measure::Window,
    };

    #[test]
    fn answers_are_of_messages_in_their_order() {
        let common = Common {
            window: Window::unbounded(Time(0)),
            operations: 2,
            closed: false,
            keys: RefCell::new(Keys::new(Distribution::Sequential, 9, 0.9, 0, Random::new(1))),
            counts: RefCell::default(),
            open: Cell::new(0),
        };
        let message = |due| (Answered { due: Time(due), ..Answered::default() }, 2);
        let mut state = State { unanswered: VecDeque::from([message(1), message(2)]), ..State::default() };
        let mut take = |piece| state.take(piece, &common);
        assert_eq!(take(Piece::Value { key: Some(1), bytes: 3, last: false }), None);
        assert_eq!(take(Piece::End), None);
        assert_eq!(
            take(Piece::Other("SERVER_ERROR".into())),
            Some(Answered { due: Time(1), done: 1, refused: 1 })
        );
        assert_eq!(take(Piece::End), None);
        assert_eq!(take(Piece::End), Some(Answered { due: Time(2), done: 2, refused: 0 }));
        assert_eq!(take(Piece::End), None, "nothing was asked");
        assert_eq!(common.counts.borrow().why.as_deref(), Some("SERVER_ERROR"));
    }
}
