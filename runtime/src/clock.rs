//! The clock of the machines, and what a process takes from the system's randomness.

use std::time::SystemTime;

use rustix::{
    rand::{GetRandomFlags, getrandom},
    time::{ClockId, clock_gettime},
};
use twofold_proto::{ids::Incarnation, time::Time};

/// CLOCK_BOOTTIME: monotone, and counting while the host is suspended, so that a lease never outlives a nap.
#[derive(Clone, Copy, Default, Debug)]
pub struct Clock;

impl Clock {
    /// The time now.
    #[inline]
    pub fn now(self) -> Time {
        let time = clock_gettime(ClockId::Boottime);
        // Both are positive on this clock.
        Time(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

/// Milliseconds since 1970, by the system's wall clock: for people, and for what outlives a process.
pub fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// 64 bits from the system, to seed a machine's generator.
///
/// # Panics
/// Panics if the system has no randomness, which no supported kernel does once it has booted.
pub fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    let filled = getrandom(&mut bytes[..], GetRandomFlags::empty());
    assert_eq!(filled, Ok(bytes.len()), "getrandom");
    u64::from_le_bytes(bytes)
}

/// A name for this life of a process: random, never 0.
pub fn incarnation() -> Incarnation {
    loop {
        let seed = random_seed();
        if seed != 0 {
            return Incarnation(seed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_run_back_and_lives_differ() {
        let first = Clock.now();
        assert!(first > Time(0) && Clock.now() >= first);
        assert_ne!(incarnation(), incarnation());
    }
}
