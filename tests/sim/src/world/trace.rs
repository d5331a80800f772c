//! What happened, as a hash by which two runs are compared, and as text for people.

use std::fmt;

use twofold_proto::time::Time;

/// Folds everything that happens into one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest(u64);

impl Digest {
    /// Adds a number.
    #[inline]
    pub fn add(&mut self, value: u64) {
        // FxHash: fast, and good enough to tell runs apart.
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Adds bytes.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.add(u64::from_le_bytes(*word)));
        rest.iter().for_each(|&byte| self.add(byte.into()));
    }

    /// The number.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// Where text goes.
pub type Sink = Box<dyn FnMut(&str)>;

/// The trace of a run.
#[derive(Default)]
pub struct Trace {
    /// Of all that happened.
    pub digest: Digest,
    /// Inputs of machines so far.
    pub steps: u64,
    sink: Option<Sink>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace of {} steps", self.steps)
    }
}

impl Trace {
    /// Sends text there.
    pub fn to(sink: Option<Sink>) -> Trace {
        Trace { digest: Digest::default(), steps: 0, sink }
    }

    /// Whether somebody reads the text.
    pub fn is_read(&self) -> bool {
        self.sink.is_some()
    }

    /// A line of text, if somebody reads it.
    pub fn say(&mut self, now: Time, line: impl FnOnce() -> String) {
        if let Some(sink) = &mut self.sink {
            sink(&format!("{now:?} {}", line()));
        }
    }
}
