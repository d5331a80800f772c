//! Clocks of hosts: each has its own zero and its own speed.

use twofold_proto::{
    limits::CLOCK_DRIFT_PER_MILLE,
    random::Random,
    time::{Duration, Time},
};

/// Millionths by which a clock may be fast or slow.
const DRIFT_MAX: u64 = CLOCK_DRIFT_PER_MILLE as u64 * 1000;

/// The clocks of one host.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The true time at which `local` was shown.
    since: Time,
    local: u64,
    /// Nanoseconds shown in a true millisecond.
    speed: u64,
    /// Milliseconds since 1970 at true time 0.
    wall: u64,
}

impl Clock {
    /// A clock that runs as well or badly as is allowed; now and then exactly so.
    pub fn new(random: &mut Random, now: Time) -> Clock {
        let speed = match random.below(6) {
            0 => 1_000_000 - DRIFT_MAX,
            1 => 1_000_000 + DRIFT_MAX,
            _ => random.between(1_000_000 - DRIFT_MAX, 1_000_000 + DRIFT_MAX),
        };
        let local = random.between(0, 3_600_000_000_000);
        let wall = 1_700_000_000_000 + random.below(400);
        Clock { since: now, local, speed, wall }
    }

    /// What the host's CLOCK_BOOTTIME shows.
    pub fn local(&self, now: Time) -> Time {
        let passed = u128::from(now.0 - self.since.0) * u128::from(self.speed) / 1_000_000;
        Time(self.local + passed as u64)
    }

    /// The first true time at which the host's clock shows this, or now.
    pub fn when(&self, local: Time, now: Time) -> Time {
        if local <= self.local(now) {
            return now;
        }
        let left = u128::from(local.0 - self.local);
        let passed = (left * 1_000_000).div_ceil(u128::from(self.speed));
        Time(self.since.0.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    /// The host's wall clock, in milliseconds since 1970.
    pub fn wall(&self, now: Time) -> u64 {
        self.wall + now.0 / 1_000_000
    }

    /// Microseconds since 1970 at the host's own time 0, as transactions are stamped.
    pub fn wall_at_zero(&self, now: Time) -> u64 {
        (self.wall(now) * 1000).saturating_sub(self.local(now).0 / 1000)
    }

    /// Someone sets the wall clock.
    pub fn set_wall(&mut self, back: bool, by: Duration) {
        let millis = by.as_millis() as u64;
        self.wall = if back { self.wall - millis } else { self.wall + millis };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_a_time_when_it_is_said_to() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let now = Time(random.below(1 << 40));
            let clock = Clock::new(&mut random, now);
            let later = Time(now.0 + random.below(1 << 40));
            let shown = Time(clock.local(later).0 + random.below(1 << 30));
            let when = clock.when(shown, later);
            assert!(clock.local(when) >= shown, "seed {seed}");
            assert!(when == later || clock.local(Time(when.0 - 1)) < shown, "seed {seed}");
        }
    }
}
