//! Decimals: exact numbers with so many digits behind the point.

use std::{cmp::Ordering, fmt};

/// Digits that a number may have: those that 128 bits hold.
pub const DIGITS_MAX: u8 = 38;
/// Digits behind the point.
pub const SCALE_MAX: u8 = 30;
/// Digits that a division adds behind the point (`div_precision_increment`).
const DIVISION_DIGITS: u8 = 4;

/// `digits` × 10^−`scale`.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    /// All digits.
    pub digits: i128,
    /// How many of them stand behind the point.
    pub scale: u8,
}

fn power(exponent: u8) -> Option<i128> {
    10i128.checked_pow(exponent.into())
}

/// Half is rounded away from zero.
fn divide_rounded(dividend: i128, divisor: i128) -> Option<i128> {
    let (quotient, rest) = (dividend.checked_div(divisor)?, dividend.checked_rem(divisor)?);
    let up = rest.unsigned_abs() >= divisor.unsigned_abs() - rest.unsigned_abs();
    let away = if (dividend < 0) == (divisor < 0) { 1 } else { -1 };
    Some(if up { quotient + away } else { quotient })
}

impl Decimal {
    /// A whole number.
    pub fn integer(value: i128) -> Decimal {
        Decimal { digits: value, scale: 0 }
    }

    /// Reads `-12.50`; `None` for anything else, or too many digits.
    pub fn parse(text: &str) -> Option<Decimal> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.len() > usize::from(SCALE_MAX) {
            return None;
        }
        let mut digits = 0i128;
        for byte in whole.bytes().chain(fraction.bytes()) {
            let digit = byte.is_ascii_digit().then(|| i128::from(byte - b'0'))?;
            digits = digits.checked_mul(10)?.checked_add(digit)?;
        }
        Some(Decimal { digits: if negative { -digits } else { digits }, scale: fraction.len() as u8 })
    }

    /// The nearest one of this scale; `None` if it has too many digits.
    pub fn rescale(self, scale: u8) -> Option<Decimal> {
        let digits = match scale.checked_sub(self.scale) {
            Some(more) => self.digits.checked_mul(power(more)?)?,
            None => divide_rounded(self.digits, power(self.scale - scale)?)?,
        };
        Some(Decimal { digits, scale })
    }

    /// Without what stands behind so many digits behind the point.
    pub fn truncate(self, scale: u8) -> Option<Decimal> {
        match self.scale.checked_sub(scale) {
            Some(less) => Some(Decimal { digits: self.digits / power(less)?, scale }),
            None => self.rescale(scale),
        }
    }

    fn aligned(self, other: Decimal) -> Option<(i128, i128, u8)> {
        let scale = self.scale.max(other.scale);
        Some((self.rescale(scale)?.digits, other.rescale(scale)?.digits, scale))
    }

    /// The sum.
    pub fn plus(self, other: Decimal) -> Option<Decimal> {
        let (a, b, scale) = self.aligned(other)?;
        Some(Decimal { digits: a.checked_add(b)?, scale })
    }

    /// The difference.
    pub fn subtract(self, other: Decimal) -> Option<Decimal> {
        self.plus(other.negate()?)
    }

    /// The product.
    pub fn multiply(self, other: Decimal) -> Option<Decimal> {
        let product =
            Decimal { digits: self.digits.checked_mul(other.digits)?, scale: self.scale + other.scale };
        product.rescale(product.scale.min(SCALE_MAX))
    }

    /// The quotient, with more digits than it is shown with ([`quotient_scale`]): those that MySQL computes, which keeps nine in
    /// a word. `None` if it has too many. The divisor is not 0.
    pub fn divide(self, other: Decimal) -> Option<Decimal> {
        let words = |digits: u8| digits.next_multiple_of(9);
        let spare = words(self.scale) - self.scale + words(other.scale) - other.scale;
        let more = DIVISION_DIGITS.saturating_sub(spare);
        let scale = words(words(self.scale) + words(other.scale) + more).min(SCALE_MAX);
        // digits × 10^(scale + other.scale − self.scale) ÷ other.digits
        let quotient = |scale: u8| {
            let shift = (scale + other.scale).checked_sub(self.scale)?;
            let shifted = self.digits.checked_mul(power(shift)?)?;
            Some(Decimal { digits: shifted.checked_div(other.digits)?, scale })
        };
        quotient(scale).or_else(|| quotient(quotient_scale(self.scale)))
    }

    /// What is left of a division without a fraction. The divisor is not 0.
    pub fn remainder(self, other: Decimal) -> Option<Decimal> {
        let (a, b, scale) = self.aligned(other)?;
        Some(Decimal { digits: a.checked_rem(b)?, scale })
    }

    /// The same with the other sign.
    pub fn negate(self) -> Option<Decimal> {
        Some(Decimal { digits: self.digits.checked_neg()?, scale: self.scale })
    }

    /// The whole number before the point.
    pub fn whole(self) -> i128 {
        power(self.scale).map_or(0, |unit| self.digits / unit)
    }

    /// The nearest whole number.
    pub fn rounded(self) -> i128 {
        self.rescale(0).map_or(0, |rounded| rounded.digits)
    }

    /// The nearest float.
    pub fn to_f64(self) -> f64 {
        // Reading the text rounds once, a division would round twice.
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    /// How they compare as numbers.
    pub fn compare(self, other: Decimal) -> Ordering {
        match self.aligned(other) {
            Some((a, b, _)) => a.cmp(&b),
            None => self.to_f64().total_cmp(&other.to_f64()),
        }
    }

    /// How many digits stand before the point, and behind it.
    pub fn shape(self) -> (u8, u8) {
        let whole = self.whole().unsigned_abs();
        (whole.checked_ilog10().map_or(0, |log| log as u8 + 1), self.scale)
    }
}

/// Digits behind the point of a quotient.
pub fn quotient_scale(dividend: u8) -> u8 {
    (dividend + DIVISION_DIGITS).min(SCALE_MAX)
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Decimal) -> bool {
        self.compare(*other).is_eq()
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.digits < 0 { "-" } else { "" };
        let (digits, scale) = (self.digits.unsigned_abs(), usize::from(self.scale));
        if scale == 0 {
            return write!(f, "{sign}{digits}");
        }
        let text = format!("{digits:0width$}", width = scale + 1);
        let (whole, fraction) = text.split_at(text.len() - scale);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn golden_arithmetic() {
        let show = |value: Option<Decimal>| value.map(|value| value.to_string()).unwrap_or_default();
        assert_eq!(show(decimal("1.5").plus(decimal("-0.25"))), "1.25");
        assert_eq!(show(decimal("1.50").multiply(decimal("-2.5"))), "-3.750");
        assert_eq!(show(decimal("2").divide(decimal("3"))), "0.666666666");
        assert_eq!(show(decimal("-1.00").divide(decimal("8"))), "-0.125000000");
        assert_eq!(show(decimal("-7.5").remainder(decimal("2"))), "-1.5");
        assert_eq!(
            [decimal("2.5").rounded(), decimal("-2.5").rounded(), decimal("-2.4").rounded()],
            [3, -3, -2]
        );
        assert_eq!((decimal("-2.5").whole(), decimal("120.5").shape()), (-2, (3, 1)));
        assert_eq!(show(decimal("1.999").truncate(2)), "1.99");
        assert_eq!(decimal("0.1").to_f64(), 0.1);
        assert_eq!(decimal("1.0"), decimal("1"));
        assert!(["", ".", "1.2.3", "1e5", "-", " 1"].iter().all(|text| Decimal::parse(text).is_none()));
        assert!(Decimal::integer(i128::MAX).plus(Decimal::integer(1)).is_none());
        assert!(Decimal::integer(i128::MAX).multiply(Decimal::integer(2)).is_none());
    }

    proptest! {
        #[test]
        fn texts_survive(digits: i64, scale in 0u8..=SCALE_MAX) {
            let value = Decimal { digits: digits.into(), scale };
            let read = Decimal::parse(&value.to_string()).unwrap();
            prop_assert_eq!((read.digits, read.scale), (value.digits, value.scale));
        }

        #[test]
        fn it_compares_as_its_difference(a: i64, b: i64, s in 0u8..9, t in 0u8..9) {
            let (a, b) = (Decimal { digits: a.into(), scale: s }, Decimal { digits: b.into(), scale: t });
            prop_assert_eq!(a.compare(b), a.subtract(b).unwrap().digits.cmp(&0));
        }

        #[test]
        fn nothing_overflows_unseen(a: i128, b: i128, s in 0u8..=SCALE_MAX, t in 0u8..=SCALE_MAX) {
            let (a, b) = (Decimal { digits: a, scale: s }, Decimal { digits: b, scale: t });
            let _ = (a.plus(b), a.multiply(b), a.compare(b), a.rescale(t), a.truncate(t), a.whole());
            if b.digits != 0 {
                let _ = (a.divide(b), a.remainder(b));
            }
        }
    }
}
