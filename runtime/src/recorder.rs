//! The flight recorder: each thread's last inputs, written to stderr when it panics.

use std::{cell::Cell, fmt, io::Write, panic, thread};

use twofold_proto::{ids::Endpoint, link::FrameHeader, time::Time};

/// Inputs that a thread remembers.
const INPUTS: usize = 256;

/// What a machine was stepped with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input {
    Nothing,
    Frame { peer: Endpoint, number: u64, acknowledged: u64, bytes: u32, first_kind: u8 },
    Hello { peer: Endpoint },
    Connected { peer: Endpoint },
    Refused { peer: Endpoint },
    Disconnected { peer: Endpoint },
    Message,
    Local,
    Timer,
    EndTurn,
}

impl Input {
    /// The summary of a frame.
    #[inline]
    pub fn frame(peer: Endpoint, header: &FrameHeader, payload: &[u8]) -> Input {
        Input::Frame {
            peer,
            number: header.number,
            acknowledged: header.acknowledged,
            bytes: header.length as u32,
            // A message is its length, and then its kind.
            first_kind: payload.get(4).copied().unwrap_or(0),
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Input::Nothing => f.write_str("nothing"),
            Input::Frame { peer, number: 0, acknowledged, .. } => {
                write!(f, "acknowledgement from {peer:?} up to {acknowledged}")
            }
            Input::Frame { peer, number, acknowledged, bytes, first_kind } => write!(
                f,
                "frame {number} from {peer:?}, {bytes} bytes, first message of kind {first_kind}, \
                 acknowledges {acknowledged}"
            ),
            Input::Hello { peer } => write!(f, "hello from {peer:?}"),
            Input::Connected { peer } => write!(f, "connected to {peer:?}"),
            Input::Refused { peer } => write!(f, "refused by {peer:?}"),
            Input::Disconnected { peer } => write!(f, "disconnected from {peer:?}"),
            Input::Message => f.write_str("message from another thread"),
            Input::Local => f.write_str("input of this thread"),
            Input::Timer => f.write_str("timer"),
            Input::EndTurn => f.write_str("end of turn"),
        }
    }
}

struct Ring {
    inputs: [Cell<(Time, Input)>; INPUTS],
    next: Cell<usize>,
}

thread_local! {
    static RING: Ring =
        const { Ring { inputs: [const { Cell::new((Time(0), Input::Nothing)) }; INPUTS], next: Cell::new(0) } };
}

/// Remembers what this thread's machine is about to be stepped with.
#[inline]
pub(crate) fn record(now: Time, input: Input) {
    RING.with(|ring| {
        let next = ring.next.get();
        ring.inputs[next % INPUTS].set((now, input));
        ring.next.set(next.wrapping_add(1));
    });
}

/// The last inputs of this thread, oldest first, a line each.
pub fn last_inputs() -> String {
    let mut lines = String::new();
    // A thread that is being torn down has nothing to tell any more.
    let _ = RING.try_with(|ring| {
        let next = ring.next.get();
        for age in (1..=INPUTS.min(next)).rev() {
            let (time, input) = ring.inputs[(next - age) % INPUTS].get();
            lines.push_str(&format!("{time:?} {input}\n"));
        }
    });
    lines
}

/// Has every panic write the last inputs of its thread to stderr, after the usual message. To be called once, first
/// thing in `main`; it works where a panic aborts, too.
pub fn install() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        usual(info);
        let inputs = last_inputs();
        if !inputs.is_empty() {
            let thread = thread::current();
            let name = thread.name().unwrap_or("without a name");
            // There is nowhere else to tell that stderr is gone.
            let _ = write!(std::io::stderr().lock(), "last inputs of thread {name}, oldest first:\n{inputs}");
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_inputs_come_out_oldest_first() {
        thread::spawn(|| {
            assert_eq!(last_inputs(), "");
            for i in 0..INPUTS as u64 + 3 {
                record(Time(i), Input::Timer);
            }
            record(Time(2_000_000), Input::Hello { peer: Endpoint::default() });
            let lines = last_inputs();
            assert_eq!(lines.lines().count(), INPUTS);
            assert_eq!(lines.lines().next(), Some("0.000004ms timer"));
            assert_eq!(lines.lines().last(), Some("2.000000ms hello from n0w0"));
        })
        .join()
        .unwrap();
    }
}
