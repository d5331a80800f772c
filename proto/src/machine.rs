//! The step contract.

use crate::{figure::Figure, time::Time};

/// What every state machine of a node implements.
///
/// A machine decides and does nothing else: it has no sockets, files, clocks, threads, locks, async or global
/// randomness. A *driver* (the runtime, or the simulator) gives it inputs and carries out its effects. The driver
/// must
///
/// - step a machine from one thread at a time, with a `now` that never runs back and that was sampled after the
///   input had been received,
/// - carry out the effects of one step in their order, and before those of any later step,
/// - step it with its timer input once `next_timeout` has passed; a step early or late is allowed.
pub trait Machine {
    /// What happens to it. Borrows from the driver's buffers, so that frames are read in place.
    type Input<'a>;

    /// What it wants done: closed and comparable, with no channels or closures in it.
    type Effect: std::fmt::Debug + PartialEq;

    /// Handles one input to completion. Never blocks; appends to `effects`, which the driver reuses.
    fn step(&mut self, now: Time, input: Self::Input<'_>, effects: &mut Vec<Self::Effect>);

    /// When it wants to be stepped with a timer, if nothing else happens before.
    fn next_timeout(&self) -> Option<Time>;

    /// Tells its figures, if it has any. Called about once a second, so it may take some microseconds.
    fn figures(&self, _tell: &mut dyn FnMut(Figure)) {}

    /// Panics where an invariant is broken. The simulator calls it after every step.
    fn check(&self);
}
