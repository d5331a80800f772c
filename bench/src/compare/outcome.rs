//! How a comparison went: ratios of rounds, which rounds count, and the table at the end.

use serde::Serialize;

use crate::report::{PhaseResult, median};

use super::works::{Quantity, Work};

/// A round in which the other server falls below its reference by more than that does not count: the machine was busy,
/// or it was not run as it can be.
const VOID_BELOW: f64 = 0.7;

/// The same work, one after the other.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Round {
    /// Twofold's.
    pub ours: PhaseResult,
    /// The other's.
    pub theirs: PhaseResult,
}

/// All rounds of a work.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Outcome {
    /// What was done.
    pub work: &'static str,
    /// With whom it was compared.
    pub versus: &'static str,
    /// What the ratio has to reach.
    pub target: f64,
    /// Ours by theirs: median, least and most of the rounds that count; of all, if none does.
    pub ratio: [f64; 3],
    /// Ours and theirs: operations a second, or microseconds.
    pub medians: [f64; 2],
    /// CPU time of an operation in microseconds, servers and client: ours and theirs.
    pub cpu_us: [[f64; 2]; 2],
    /// Rounds that count.
    pub valid: usize,
    /// What else is wrong.
    pub remarks: Vec<String>,
    /// Whether the target is reached.
    pub reached: bool,
    /// All rounds.
    pub rounds: Vec<Round>,
}

fn quantity(work: &Work, result: &PhaseResult) -> f64 {
    match work.quantity {
        Quantity::PerSecond => result.per_second,
        Quantity::Median => result.latency_us.p50,
    }
}

/// Whether the other server was as fast as it is known to be.
fn counts(work: &Work, round: &Round) -> bool {
    let (theirs, Some(reference)) = (quantity(work, &round.theirs), work.reference) else { return true };
    match work.quantity {
        Quantity::PerSecond => theirs >= reference * VOID_BELOW,
        Quantity::Median => theirs <= reference / VOID_BELOW,
    }
}

fn cpu(results: &[&PhaseResult]) -> [f64; 2] {
    let of = |value: &dyn Fn(&PhaseResult) -> f64| {
        median(results.iter().map(|result| value(result))).unwrap_or_default()
    };
    [
        of(&|result| result.cpu_us_per_operation.servers.unwrap_or_default()),
        of(&|result| result.cpu_us_per_operation.client),
    ]
}

impl Outcome {
    /// Of these rounds.
    ///
    /// # Panics
    /// Panics if there was none.
    pub fn new(work: &Work, rounds: Vec<Round>) -> Outcome {
        let valid: Vec<&Round> = rounds.iter().filter(|round| counts(work, round)).collect();
        let used: Vec<&Round> = if valid.is_empty() { rounds.iter().collect() } else { valid.clone() };
        let ratios: Vec<f64> = used
            .iter()
            .map(|round| quantity(work, &round.ours) / quantity(work, &round.theirs).max(1e-9))
            .collect();
        let middle = median(ratios.iter().copied()).expect("there was a round");
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let ours: Vec<&PhaseResult> = used.iter().map(|round| &round.ours).collect();
        let theirs: Vec<&PhaseResult> = used.iter().map(|round| &round.theirs).collect();
        let of = |results: &[&PhaseResult]| {
            median(results.iter().map(|result| quantity(work, result))).unwrap_or_default()
        };
        let cpu_us = [cpu(&ours), cpu(&theirs)];
        let mut remarks = Vec::new();
        let in_all = cpu_us[0].iter().sum::<f64>();
        let cheap = work.cpu_most.is_none_or(|most| in_all <= most);
        if let Some(most) = work.cpu_most {
            remarks.push(format!("CPU in all {in_all:.2} µs of {most} that it may take"));
        }
        for (side, results) in [("Twofold", &ours), (work.versus, &theirs)] {
            for (why, count) in results.iter().flat_map(|result| &result.failed) {
                remarks.push(format!("{side}: {count} operations failed: {why}"));
            }
        }
        let failed =
            used.iter().any(|round| !round.ours.failed.is_empty() || !round.theirs.failed.is_empty());
        let fast = match work.quantity {
            Quantity::PerSecond => middle >= work.target,
            Quantity::Median => middle <= work.target,
        };
        Outcome {
            work: work.name,
            versus: work.versus,
            target: work.target,
            ratio: [middle, least, most],
            medians: [of(&ours), of(&theirs)],
            cpu_us,
            valid: valid.len(),
            remarks,
            reached: fast && cheap && !failed && !valid.is_empty(),
            rounds,
        }
    }

    fn verdict(&self, work: &Work) -> String {
        let [middle, ..] = self.ratio;
        let share = match work.quantity {
            Quantity::PerSecond => middle / self.target,
            Quantity::Median => self.target / middle,
        };
        let verdict = if self.reached {
            "reached".into()
        } else if share >= 1.0 {
            "fast enough".into()
        } else {
            format!("missed by {:.0} %", (1.0 - share) * 100.0)
        };
        match (self.valid, self.rounds.len()) {
            (0, _) => format!("VOID: {verdict}"),
            (valid, all) if valid < all => format!("{verdict}; {} of {all} rounds void", all - valid),
            _ => verdict,
        }
    }

    /// A line of the table, and one for each remark.
    pub fn lines(&self, work: &Work) -> Vec<String> {
        let (sign, digits) = match work.quantity {
            Quantity::PerSecond => ('≥', 0),
            Quantity::Median => ('≤', 1),
        };
        let [[our_servers, our_client], [their_servers, their_client]] = self.cpu_us;
        let [middle, least, most] = self.ratio;
        let target = format!("{sign} {} × {}", self.target, self.versus);
        let line = format!(
            "{:<27} {target:<38} {:>6} {:>15} {:>11} {:>11}  {:>13} {:>13}  {}",
            self.work,
            format!("{middle:.2}"),
            format!("({least:.2}–{most:.2})"),
            format!("{:.digits$}", self.medians[0]),
            format!("{:.digits$}", self.medians[1]),
            format!("{our_servers:.2} + {our_client:.2}"),
            format!("{their_servers:.2} + {their_client:.2}"),
            self.verdict(work)
        );
        std::iter::once(line).chain(self.remarks.iter().map(|remark| format!("    {remark}"))).collect()
    }
}

/// The heading of the table.
pub fn heading() -> String {
    format!(
        "{:<27} {:<38} {:>6} {:>15} {:>11} {:>11}  {:>13} {:>13}  {}",
        "work", "target", "ratio", "(least–most)", "Twofold", "other", "CPU Twofold", "CPU other", "verdict"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{compare::works::WORKS, cpu::Usage, measure::Tally, report::LatencyResult};

    fn result(per_second: f64, p50: f64, cpu: f64) -> PhaseResult {
        let usage = Usage { own: 0.0, servers: BTreeMap::new() };
        let mut result = PhaseResult::new("get", 1, 1.0, Tally::default(), &usage);
        result.per_second = per_second;
        result.latency_us = LatencyResult { p50, ..LatencyResult::default() };
        result.cpu_us_per_operation.servers = Some(cpu);
        result
    }

    fn round(ours: f64, theirs: f64) -> Round {
        Round { ours: result(ours, ours, 0.5), theirs: result(theirs, theirs, 0.5) }
    }

    fn work(quantity: Quantity, target: f64, reference: f64) -> Work {
        Work { quantity, target, reference: Some(reference), cpu_most: None, versus: "other", ..WORKS[0] }
    }

    #[test]
    fn rounds_on_a_busy_machine_do_not_count() {
        let work = work(Quantity::PerSecond, 2.0, 100.0);
        let outcome = Outcome::new(&work, vec![round(210.0, 100.0), round(60.0, 69.0), round(140.0, 70.0)]);
        assert_eq!((outcome.valid, outcome.ratio, outcome.reached), (2, [2.05, 2.0, 2.1], true));
        assert_eq!(outcome.verdict(&work), "reached; 1 of 3 rounds void");
        let void = Outcome::new(&work, vec![round(210.0, 60.0)]);
        assert_eq!((void.valid, void.ratio[0], void.reached), (0, 3.5, false));
        assert_eq!(void.verdict(&work), "VOID: fast enough");
        let unbounded = Work { reference: None, ..work };
        assert!(Outcome::new(&unbounded, vec![round(2.0, 1.0)]).reached);
    }

    #[test]
    fn latency_is_better_when_it_is_less() {
        let work = work(Quantity::Median, 1.25, 70.0);
        let outcome = Outcome::new(&work, vec![round(100.0, 80.0), round(1.0, 101.0), round(200.0, 80.0)]);
        assert_eq!((outcome.valid, outcome.ratio, outcome.reached), (2, [1.875, 1.25, 2.5], false));
        assert_eq!(outcome.verdict(&work), "missed by 33 %; 1 of 3 rounds void");
    }

    #[test]
    fn too_much_cpu_time_or_a_failure_misses_a_target() {
        let work = Work { cpu_most: Some(0.4), ..work(Quantity::PerSecond, 1.0, 1.0) };
        let outcome = Outcome::new(&work, vec![round(2.0, 1.0)]);
        assert_eq!((outcome.reached, outcome.verdict(&work).as_str()), (false, "fast enough"));
        assert_eq!(outcome.remarks, ["CPU in all 0.50 µs of 0.4 that it may take"]);
        let mut failed = round(2.0, 1.0);
        failed.theirs.failed.insert("no such item".into(), 3);
        let outcome = Outcome::new(&Work { cpu_most: None, ..work }, vec![failed]);
        assert!(!outcome.reached);
        assert_eq!(outcome.remarks, ["other: 3 operations failed: no such item"]);
        assert!(outcome.lines(&work)[0].contains("≥ 1 × other"), "{:?}", outcome.lines(&work));
    }
}
