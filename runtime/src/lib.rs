//! Turns effects into IO, and what happens into inputs. It decides nothing, and never looks at a message's kind; but for
//! [`bootstrap`], which asks for the config before there is a machine.
//!
//! A process is some threads, each with a current-thread tokio runtime ([`thread::spawn`]) and a machine that a
//! [`Driver`] drives, and one [`Listener`], which hands each connection to the thread that it asks for. Threads
//! talk by [`Mailbox`]es. The rest is what every process needs: a [`clock`], [`signals`], [`logging`],
//! [`metrics`], a flight [`recorder`], and the [`angel`] that starts a data node anew.
//!
//! A driver works in *turns*: it reads what every ready connection has, steps its machine with each frame in place,
//! with the mailbox and the timer, ends the turn, and writes once to each link that was touched. So there is no
//! waiting when idle, and batches form by themselves under load.

pub mod angel;
pub mod bootstrap;
pub mod clock;
mod connection;
pub mod descriptors;
mod dial;
pub mod driver;
pub mod handshake;
pub mod listener;
pub mod logging;
pub mod mailbox;
pub mod metrics;
mod network;
mod queue;
pub mod recorder;
pub mod signals;
pub mod thread;

pub use angel::{EXIT_DO_NOT_RESTART, EXIT_PORT_TAKEN, EXIT_RESTART};
pub use clock::Clock;
pub use dial::Directory;
pub use driver::{Driver, Local, Owner};
pub use handshake::{receive_once, send_once};
pub use listener::Listener;
pub use mailbox::Mailbox;
pub use metrics::Metrics;
