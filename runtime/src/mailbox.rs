//! How other threads of the process reach a machine.

use std::{net::TcpStream, sync::Arc};

use twofold_proto::link::Hello;

use crate::queue::Queue;

/// Deliveries that wait for a machine at most. Senders answer what the machine asked for, or speak of rare events,
/// so no more than this can be meant.
const DELIVERIES_MAX: usize = 1 << 20;

/// What is left for a driver.
#[derive(Debug)]
pub(crate) enum Delivery<T> {
    /// From another thread.
    Message(T),
    /// A connection that has said this.
    Connection(TcpStream, Hello),
    /// Write what is there, and end.
    Stop,
}

/// Where other threads leave messages for one machine.
#[derive(Debug)]
pub struct Mailbox<T>(Arc<Queue<Delivery<T>>>);

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Mailbox<T> {
        Mailbox(self.0.clone())
    }
}

impl<T> Default for Mailbox<T> {
    fn default() -> Mailbox<T> {
        Mailbox(Arc::new(Queue::new(DELIVERIES_MAX)))
    }
}

impl<T> Mailbox<T> {
    /// An empty one, to be given to a [`crate::Driver`] and to those who send.
    pub fn new() -> Mailbox<T> {
        Mailbox::default()
    }

    /// Leaves a message; never waits.
    ///
    /// # Errors
    /// Gives the message back if the machine has ended, or is a million messages behind.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.0.push(Delivery::Message(message)).map_err(|delivery| match delivery {
            Delivery::Message(message) => message,
            other => unreachable!("a message was pushed, not {}", other.name()),
        })
    }

    /// Asks the driver to end, once it has written what its links hold, or tried for a second.
    pub fn stop(&self) {
        // A driver that is gone has stopped.
        let _ = self.0.push(Delivery::Stop);
    }

    pub(crate) fn queue(&self) -> &Queue<Delivery<T>> {
        &self.0
    }
}

impl<T: Send + 'static> Mailbox<T> {
    /// What a [`crate::Listener`] needs to hand connections to the machine.
    pub fn door(&self) -> Door {
        let queue = self.0.clone();
        Door(Box::new(move |socket, hello| {
            queue.push(Delivery::Connection(socket, hello)).map_err(|delivery| match delivery {
                Delivery::Connection(socket, _) => socket,
                other => unreachable!("a connection was pushed, not {}", other.name()),
            })
        }))
    }
}

impl<T> Delivery<T> {
    fn name(&self) -> &'static str {
        match self {
            Delivery::Message(_) => "a message",
            Delivery::Connection(..) => "a connection",
            Delivery::Stop => "a request to stop",
        }
    }
}

type Enter = dyn Fn(TcpStream, Hello) -> Result<(), TcpStream> + Send + Sync;

/// The way for connections to a machine; see [`Mailbox::door`].
pub struct Door(Box<Enter>);

impl Door {
    /// Hands a connection over; gives it back if the machine has ended.
    pub(crate) fn enter(&self, socket: TcpStream, hello: Hello) -> Result<(), TcpStream> {
        (self.0)(socket, hello)
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}
