//! What payments write into the history.

use std::sync::atomic::{AtomicI64, Ordering};

use super::now_micros;

/// The number of the next payment: 0, before there was one.
static NEXT: AtomicI64 = AtomicI64::new(0);
/// Numbers for each microsecond: more payments than that no process makes.
const PER_MICROSECOND: i64 = 1000;

/// A number that no other payment has. They go on from the time at which a process made its first one, so they differ between
/// processes, too, and are above those of the load.
pub fn number() -> i64 {
    let first = now_micros() * PER_MICROSECOND;
    // Only the first one changes it.
    let _ = NEXT.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The names of warehouse and district (clause 2.5.2.2).
pub fn data(warehouse: &str, district: &str) -> String {
    format!("{warehouse}    {district}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ() {
        let (first, second) = (number(), number());
        assert!(first > 1_000_000_000_000 && second > first);
        assert_eq!(data("here", "there"), "here    there");
    }
}
