//! Drivers with real sockets.

mod links;
mod panics;
mod toy;
mod turns;
