//! Drivers with real sockets.

mod links;
mod toy;
mod turns;
