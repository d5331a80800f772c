//! Which key is next.

use clap::ValueEnum;
use twofold_proto::random::Random;

/// How the keys of operations are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Distribution {
    /// All alike
    Uniform,
    /// Few keys often (Zipf's law)
    Zipf,
    /// One after the other
    Sequential,
}

/// Draws keys below a bound.
#[derive(Clone, Debug)]
pub enum Keys {
    /// All alike.
    Uniform { keys: u64, random: Random },
    /// By Zipf's law: key 0 is the most frequent. Placement by hash spreads the frequent ones over the cluster.
    Zipf { zipf: Zipf, random: Random },
    /// One after the other, round and round.
    Sequential { keys: u64, next: u64 },
}

impl Keys {
    /// Keys below `keys`; a sequence begins with `first`.
    ///
    /// # Panics
    /// Panics if there are no keys.
    pub fn new(distribution: Distribution, keys: u64, exponent: f64, first: u64, random: Random) -> Keys {
        assert!(keys > 0, "no keys to draw");
        match distribution {
            Distribution::Uniform => Keys::Uniform { keys, random },
            Distribution::Zipf => Keys::Zipf { zipf: Zipf::new(keys, exponent), random },
            Distribution::Sequential => Keys::Sequential { keys, next: first % keys },
        }
    }

    /// The next key.
    #[inline]
    pub fn next(&mut self) -> u64 {
        match self {
            Keys::Uniform { keys, random } => random.below(*keys),
            Keys::Zipf { zipf, random } => zipf.rank(random.unit()),
            Keys::Sequential { keys, next } => {
                let key = *next;
                *next = if key + 1 == *keys { 0 } else { key + 1 };
                key
            }
        }
    }
}

/// Ranks by Zipf's law, as in Gray et al., «Quickly generating billion-record synthetic databases», SIGMOD 1994; YCSB
/// draws so, too.
#[derive(Clone, Debug)]
pub struct Zipf {
    keys: u64,
    exponent: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    /// Ranks below `keys`; the exponent is above 0 and below 1.
    fn new(keys: u64, exponent: f64) -> Zipf {
        assert!(exponent > 0.0 && exponent < 1.0, "an exponent of {exponent}");
        let zeta = |n: u64| (1..=n).map(|rank| (rank as f64).powf(-exponent)).sum::<f64>();
        let (of_two, of_all) = (zeta(2.min(keys)), zeta(keys));
        let share = (2.0 / keys as f64).powf(1.0 - exponent);
        let eta = if keys > 2 { (1.0 - share) / (1.0 - of_two / of_all) } else { 1.0 };
        Zipf { keys, exponent, zeta: of_all, alpha: 1.0 / (1.0 - exponent), eta }
    }

    /// The rank at this place of `[0, 1)`.
    fn rank(&self, unit: f64) -> u64 {
        let scaled = unit * self.zeta;
        if scaled < 1.0 || self.keys == 1 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(self.exponent) {
            return 1;
        }
        let rank = self.keys as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.keys - 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(distribution: Distribution, keys: u64, draws: usize) -> Vec<u32> {
        let mut drawn = Keys::new(distribution, keys, 0.99, 3, Random::new(1));
        let mut counts = vec![0; keys as usize];
        (0..draws).for_each(|_| counts[drawn.next() as usize] += 1);
        counts
    }

    #[test]
    fn uniform_keys_are_all_alike() {
        let counts = counts(Distribution::Uniform, 100, 100_000);
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }

    #[test]
    fn a_sequence_goes_round() {
        let mut keys = Keys::new(Distribution::Sequential, 5, 0.99, 8, Random::new(1));
        assert_eq!((0..7).map(|_| keys.next()).collect::<Vec<_>>(), [3, 4, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn zipf_follows_its_law() {
        let (keys, draws) = (1000, 1_000_000);
        let counts = counts(Distribution::Zipf, keys, draws);
        let zeta: f64 = (1..=keys).map(|rank| (rank as f64).powf(-0.99)).sum();
        // The first two ranks are exact, the rest an approximation.
        for (rank, tolerance) in [(1, 0.02), (2, 0.02), (10, 0.25), (100, 0.25)] {
            let expected = draws as f64 * f64::from(rank).powf(-0.99) / zeta;
            let drawn = f64::from(counts[rank as usize - 1]);
            assert!((drawn / expected - 1.0).abs() < tolerance, "rank {rank}: {drawn}, not {expected}");
        }
    }

    proptest! {
        #[test]
        fn ranks_are_below_the_bound(keys in 1u64..2000, exponent in 0.01f64..0.999, units: Vec<u32>) {
            let zipf = Zipf::new(keys, exponent);
            for unit in units {
                prop_assert!(zipf.rank(f64::from(unit) / 4_294_967_296.0) < keys);
            }
        }
    }
}
