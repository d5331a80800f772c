//! Many seeds, on all cores.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it drives simulations, and is none: threads, and where they panicked"
)]

use std::{
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::{Mutex, MutexGuard, Once, PoisonError},
    thread::{self, ThreadId},
};

use twofold_datanode::mutation::Mutation;

use crate::{
    run::{Report, run},
    scenario::Scenario,
    world::trace::Sink,
};

/// The threads that simulate, and where each has panicked.
static PLACES: Mutex<Vec<(ThreadId, String)>> = Mutex::new(Vec::new());

fn places() -> MutexGuard<'static, Vec<(ThreadId, String)>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Panics of simulations are told with their seed; others as ever.
fn catch_places() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let own = thread::current().id();
            let mut simulates = false;
            for (_, of) in places().iter_mut().filter(|(thread, _)| *thread == own) {
                (*of, simulates) = (place.clone(), true);
            }
            if !simulates {
                others(panic);
            }
        }));
    });
}

/// Runs a scenario. The error is what was violated, or what a machine or the run panicked with.
///
/// # Errors
/// Why it failed, and the command that shows it again.
pub fn try_run(scenario: &Scenario, sink: Option<Sink>) -> Result<Report, String> {
    catch_places();
    let own = thread::current().id();
    places().push((own, String::new()));
    let result = catch_unwind(AssertUnwindSafe(|| run(scenario, sink)));
    let place =
        places().extract_if(.., |(thread, _)| *thread == own).map(|(_, place)| place).collect::<String>();
    let problem = match result {
        Ok(Ok(report)) => return Ok(report),
        Ok(Err(violation)) => violation.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            format!("{place}: {text}")
        }
    };
    let (seed, profile) = (scenario.seed, scenario.profile);
    let with = match scenario.mutation {
        Some(mutation) => format!(" --mutation {mutation:?}"),
        None if Scenario::generate(seed).profile != profile => format!(" --profile {profile:?}"),
        None => String::new(),
    };
    Err(format!("seed {seed}: {problem}\n  cargo run -p twofold-sim -- --seed {seed}{with} --trace"))
}

/// Runs scenarios on so many threads, in order, and hands over each result as it comes, until that returns `false`.
pub fn run_many(
    threads: usize,
    scenarios: impl Iterator<Item = Scenario> + Send,
    each: impl FnMut(&Scenario, Result<Report, String>) -> bool + Send,
) {
    let scenarios = Mutex::new(scenarios.fuse());
    let each = Mutex::new((each, true));
    let next = || {
        let goes_on = each.lock().unwrap_or_else(PoisonError::into_inner).1;
        goes_on.then(|| scenarios.lock().unwrap_or_else(PoisonError::into_inner).next()).flatten()
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(scenario) = next() {
                    let result = try_run(&scenario, None);
                    let mut each = each.lock().unwrap_or_else(PoisonError::into_inner);
                    each.1 &= (each.0)(&scenario, result);
                }
            });
        }
    });
}

/// The first of these seeds with which the checkers find the deliberate fault, and what they say.
pub fn find(mutation: Mutation, threads: usize, seeds: RangeInclusive<u64>) -> Option<(u64, String)> {
    let mut found: Option<(u64, String)> = None;
    run_many(threads, seeds.map(|seed| Scenario::for_mutation(seed, mutation)), |scenario, result| {
        if let Err(problem) = result
            && found.as_ref().is_none_or(|(seed, _)| scenario.seed < *seed)
        {
            found = Some((scenario.seed, problem));
        }
        found.is_none()
    });
    found
}
