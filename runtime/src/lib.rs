//! Turns effects into IO.
