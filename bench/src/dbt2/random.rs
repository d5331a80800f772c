//! What TPC-C draws: clauses 2.1.6 (NURand), 4.3.2 (texts, last names).

use twofold_proto::random::Random;

const SYLLABLES: [&str; 10] =
    ["BAR", "OUGHT", "ABLE", "PRI", "PRES", "ESE", "ANTI", "CALLY", "ATION", "EING"];
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const DIGITS: &[u8] = b"0123456789";
const ORIGINAL: &str = "ORIGINAL";

/// `NURand(255)` of last names, `NURand(1023)` of customers, `NURand(8191)` of items.
const A_LAST: u64 = 255;
const A_CUSTOMER: u64 = 1023;
const A_ITEM: u64 = 8191;

/// The constants C of NURand: drawn once for a load, and once for a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Constants {
    /// Of last names.
    pub last: u64,
    customer: u64,
    item: u64,
}

impl Constants {
    /// For a load.
    pub fn of_load(random: &mut Random) -> Constants {
        let last = random.between(0, A_LAST);
        Constants { last, customer: random.between(0, A_CUSTOMER), item: random.between(0, A_ITEM) }
    }

    /// For a run on what was loaded with this constant of last names. Clause 2.1.6.1 says how far they are apart.
    pub fn of_run(random: &mut Random, load: u64) -> Constants {
        let fits = |last: u64| {
            let apart = last.abs_diff(load);
            (65..=119).contains(&apart) && apart != 96 && apart != 112
        };
        loop {
            let constants = Constants::of_load(random);
            if fits(constants.last) {
                return constants;
            }
        }
    }

    /// The number of a last name below `names`.
    pub fn name(&self, random: &mut Random, names: u64) -> u64 {
        nurand(random, A_LAST, self.last, 0, names - 1)
    }

    /// The number of a customer of a district that has so many.
    pub fn customer(&self, random: &mut Random, customers: u64) -> u64 {
        nurand(random, A_CUSTOMER, self.customer, 1, customers)
    }

    /// The number of an item, of so many.
    pub fn item(&self, random: &mut Random, items: u64) -> u64 {
        nurand(random, A_ITEM, self.item, 1, items)
    }
}

fn nurand(random: &mut Random, a: u64, c: u64, low: u64, high: u64) -> u64 {
    let drawn = random.between(0, a) | random.between(low, high);
    (drawn + c) % (high - low + 1) + low
}

/// The last name of this number, below 1,000: a syllable for each digit.
pub fn last_name(number: u64) -> String {
    [number / 100, number / 10 % 10, number % 10].map(|digit| SYLLABLES[digit as usize]).concat()
}

fn drawn(random: &mut Random, of: &[u8], low: u64, high: u64) -> String {
    (0..random.between(low, high)).map(|_| char::from(*random.pick(of))).collect()
}

/// Letters and digits, so many.
pub fn text(random: &mut Random, low: u64, high: u64) -> String {
    drawn(random, LETTERS, low, high)
}

/// So many digits.
pub fn digits(random: &mut Random, count: u64) -> String {
    drawn(random, DIGITS, count, count)
}

/// The data of an item or its stock: 26 to 50 characters; of one in ten there is `ORIGINAL` somewhere in it.
pub fn data(random: &mut Random) -> String {
    let mut data = text(random, 26, 50);
    if random.one_in(10) {
        let at = random.below((data.len() - ORIGINAL.len()) as u64 + 1) as usize;
        data.replace_range(at..at + ORIGINAL.len(), ORIGINAL);
    }
    data
}

/// True in so many of 100 cases.
pub fn percent(random: &mut Random, share: u64) -> bool {
    random.below(100) < share
}

/// Negative exponential of this mean, at most ten times the mean (clause 5.2.5.4).
pub fn exponential(random: &mut Random, mean: f64) -> f64 {
    (-(1.0 - random.unit()).ln() * mean).min(10.0 * mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_names_have_three_syllables() {
        assert_eq!(last_name(0), "BARBARBAR");
        assert_eq!(last_name(371), "PRICALLYOUGHT");
        assert_eq!(last_name(999), "EINGEINGEING");
    }

    #[test]
    fn nurand_is_in_its_range_and_not_uniform() {
        let mut random = Random::new(1);
        let constants = Constants::of_load(&mut random);
        let mut counts = vec![0u32; 3001];
        for _ in 0..300_000 {
            counts[constants.customer(&mut random, 3000) as usize] += 1;
        }
        assert_eq!(counts[0], 0);
        // Uniform would be 100 each.
        let often = counts.iter().filter(|&&count| count > 200).count();
        let rarely = counts[1..].iter().filter(|&&count| count < 50).count();
        assert!(often > 100 && rarely > 100, "{often} {rarely}");
        (0..10_000).for_each(|_| assert!((1..=333).contains(&constants.item(&mut random, 333))));
        (0..10_000).for_each(|_| assert!(constants.name(&mut random, 3) < 3));
    }

    #[test]
    fn constants_of_a_run_are_as_far_from_those_of_the_load_as_the_specification_says() {
        let mut random = Random::new(2);
        for load in 0..=255 {
            let apart = Constants::of_run(&mut random, load).last.abs_diff(load);
            assert!((65..=119).contains(&apart) && apart != 96 && apart != 112, "{load} {apart}");
        }
    }

    #[test]
    fn texts_are_as_long_as_they_are_to_be() {
        let mut random = Random::new(3);
        let many: Vec<String> = (0..2000).map(|_| data(&mut random)).collect();
        assert!(many.iter().all(|data| (26..=50).contains(&data.len())));
        let original = many.iter().filter(|data| data.contains(ORIGINAL)).count();
        assert!((120..300).contains(&original), "{original}");
        assert_eq!(digits(&mut random, 16).len(), 16);
        let mean = (0..20_000).map(|_| exponential(&mut random, 12.0)).sum::<f64>() / 20_000.0;
        assert!((11.0..13.0).contains(&mean), "{mean}");
    }
}
