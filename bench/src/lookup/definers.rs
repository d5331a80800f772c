//! The workload of a thread: definers, each with a batch of operations under way.
//!
//! A definer draws the keys of a batch, hands the operations over, waits for all answers, and begins anew. What goes
//! to one worker is gathered by the client, which sends one frame a turn to each: NDB's executors.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::Sender,
    },
};

use twofold_apinode::request::{Durability, Failure};
use twofold_client::embed::{Turn, Workload};
use twofold_proto::{error::ErrorCode, operation::OperationRef, time::Time};

use crate::{
    keys::Keys,
    measure::{Tally, Window},
};

use super::rows::Operations;

/// A token is the definer above so many bits, and the key in them.
const KEY_BITS: u32 = 44;
/// Keys are below this.
pub const KEYS_MAX: u64 = 1 << KEY_BITS;
/// Definers of a thread.
pub const DEFINERS_MAX: usize = 1 << 20;

const _: () = assert!(DEFINERS_MAX as u64 <= 1 << (64 - KEY_BITS));

/// Which keys a phase uses.
#[derive(Clone, Debug)]
pub enum Draw {
    /// Each of these once.
    Pass(Range<u64>),
    /// As drawn, until time is up.
    Drawn(Keys),
}

/// One phase, for one thread.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is done.
    pub operations: Operations,
    /// When it counts as done.
    pub durability: Durability,
    /// With which keys.
    pub draw: Draw,
    /// When.
    pub window: Window,
    /// How many definers the thread has.
    pub definers: usize,
    /// Operations that a definer has under way at most.
    pub batch: u32,
    /// Operations that are handed over in one turn at most.
    pub turn_limit: u32,
}

/// What a thread did in a phase.
#[derive(Debug)]
pub struct Outcome {
    /// What happened.
    pub tally: Tally,
    /// When the last answer came.
    pub finished: Time,
}

#[derive(Clone, Copy, Debug)]
struct Definer {
    /// When it defined its batch.
    defined: Time,
    /// Operations of its batch that are not handed over, and that are not answered.
    to_submit: u32,
    unanswered: u32,
}

#[derive(Debug)]
struct Work {
    plan: Plan,
    definers: Vec<Definer>,
    /// Those with operations to hand over.
    ready: VecDeque<u32>,
    unanswered: u32,
    finished: Time,
    tally: Tally,
    /// What the client had tried again before.
    retried_before: Option<BTreeMap<ErrorCode, u64>>,
}

/// The workload. Told a plan, it sends its outcome.
#[derive(Debug)]
pub struct Definers {
    work: Option<Work>,
    outcomes: Sender<Outcome>,
    /// Answers of this phase so far, for a progress bar.
    progress: Arc<AtomicU64>,
    answered: u64,
}

impl Definers {
    /// Without a plan yet.
    pub fn new(outcomes: Sender<Outcome>, progress: Arc<AtomicU64>) -> Definers {
        Definers { work: None, outcomes, progress, answered: 0 }
    }

    fn finish(&mut self, retried: &BTreeMap<ErrorCode, u64>) {
        let Some(mut work) = self.work.take() else { return };
        let before = work.retried_before.unwrap_or_default();
        for (&code, &count) in retried {
            let before = before.get(&code).copied().unwrap_or(0);
            if count > before {
                work.tally.retried.insert(name(code), count - before);
            }
        }
        // If nobody waits for it, the process ends.
        let _ = self.outcomes.send(Outcome { tally: work.tally, finished: work.finished });
    }
}

/// The code and its name.
fn name(code: ErrorCode) -> String {
    format!("{code} {code:?}")
}

impl Plan {
    /// How many operations the next batch has.
    fn next_batch(&self, now: Time) -> u32 {
        match &self.draw {
            Draw::Pass(left) => u32::try_from(left.end - left.start).unwrap_or(u32::MAX).min(self.batch),
            Draw::Drawn(_) if now < self.window.end => self.batch,
            Draw::Drawn(_) => 0,
        }
    }

    /// Whether no definer begins anew.
    fn is_over(&self, now: Time) -> bool {
        self.next_batch(now) == 0
    }
}

impl Draw {
    #[inline]
    fn next(&mut self) -> Option<u64> {
        match self {
            Draw::Pass(left) => left.next(),
            Draw::Drawn(keys) => Some(keys.next()),
        }
    }
}

impl Work {
    /// Hands over what the ready definers define.
    fn submit(&mut self, now: Time, submit: &mut impl FnMut(u64, OperationRef<'_>)) {
        let mut allowed = self.plan.turn_limit;
        while allowed > 0
            && let Some(&number) = self.ready.front()
        {
            let definer = &mut self.definers[number as usize];
            if definer.to_submit == 0 {
                definer.to_submit = self.plan.next_batch(now);
                definer.defined = now;
            }
            let count = definer.to_submit.min(allowed);
            let mut submitted = 0;
            while submitted < count
                && let Some(key) = self.plan.draw.next()
            {
                submit(u64::from(number) << KEY_BITS | key, self.plan.operations.on(key));
                submitted += 1;
            }
            definer.unanswered += submitted;
            definer.to_submit = if submitted < count { 0 } else { definer.to_submit - submitted };
            self.unanswered += submitted;
            allowed -= submitted;
            if definer.to_submit == 0 {
                self.ready.pop_front();
            }
        }
    }
}

impl Workload for Definers {
    type Message = Plan;

    fn message(&mut self, _: Time, plan: Plan) {
        assert!(self.work.is_none(), "a phase is under way: {:?}", self.work);
        let definer = Definer { defined: Time(0), to_submit: 0, unanswered: 0 };
        self.answered = 0;
        self.progress.store(0, Ordering::Relaxed);
        self.work = Some(Work {
            definers: vec![definer; plan.definers],
            ready: (0..plan.definers as u32).collect(),
            unanswered: 0,
            finished: plan.window.start,
            tally: Tally::default(),
            retried_before: None,
            plan,
        });
    }

    #[inline]
    fn reply(&mut self, now: Time, token: u64, result: Result<&[u8], &Failure>) {
        let work = self.work.as_mut().unwrap_or_else(|| panic!("answer {token:#x} came after the phase"));
        let (number, key) = ((token >> KEY_BITS) as u32, token & (KEYS_MAX - 1));
        let done = match result {
            Ok(result) => work.plan.operations.check(key, result),
            Err(failure) => Err(name(failure.error.code)),
        };
        let definer = &mut work.definers[number as usize];
        match done {
            Ok(()) if work.plan.window.counts(now) => {
                work.tally.done += 1;
                work.tally.latencies.add(now.0.saturating_sub(definer.defined.0));
            }
            Ok(()) => {}
            Err(why) => work.tally.fail(why),
        }
        definer.unanswered -= 1;
        work.unanswered -= 1;
        self.answered += 1;
        if definer.unanswered == 0 && definer.to_submit == 0 {
            work.ready.push_back(number);
        }
        work.finished = now;
    }

    fn turn(&mut self, now: Time, retried: &BTreeMap<ErrorCode, u64>) -> Turn {
        let Some(work) = &mut self.work else { return Turn::Wait };
        work.retried_before.get_or_insert_with(|| retried.clone());
        self.progress.store(self.answered, Ordering::Relaxed);
        if now < work.plan.window.start || work.ready.is_empty() {
            return Turn::Wait;
        }
        if !work.plan.is_over(now) {
            return Turn::Submit;
        }
        work.ready.retain(|&number| work.definers[number as usize].to_submit > 0);
        if work.ready.is_empty() && work.unanswered == 0 {
            self.finish(retried);
            return Turn::Wait;
        }
        if work.ready.is_empty() { Turn::Wait } else { Turn::Submit }
    }

    fn durability(&self) -> Durability {
        self.work.as_ref().map_or(Durability::Memory, |work| work.plan.durability)
    }

    fn submit(&mut self, now: Time, submit: &mut impl FnMut(u64, OperationRef<'_>)) {
        if let Some(work) = &mut self.work {
            work.submit(now, submit);
        }
    }

    fn due(&self) -> Option<Time> {
        let work = self.work.as_ref()?;
        (!work.ready.is_empty()).then_some(work.plan.window.start)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use twofold_proto::{
        error::Error,
        result::{ResultCode, ResultHead},
        schema::Schema,
        time::Duration,
    };

    use super::*;
    use crate::{
        keys::Distribution,
        lookup::rows::{Phase, table},
    };

    struct Bench {
        definers: Definers,
        outcomes: Receiver<Outcome>,
        now: Time,
    }

    fn ok() -> Vec<u8> {
        let mut bytes = Vec::new();
        ResultHead { existed: true, ..ResultHead::new(ResultCode::Ok) }.encode(&mut bytes);
        bytes
    }

    impl Bench {
        fn new(plan: Plan) -> Bench {
            let (sender, outcomes) = channel();
            let mut definers = Definers::new(sender, Arc::default());
            definers.message(Time(0), plan);
            Bench { definers, outcomes, now: Time(0) }
        }

        /// A turn; returns the tokens that were submitted.
        fn turn(&mut self) -> Vec<u64> {
            let mut tokens = Vec::new();
            if self.definers.turn(self.now, &BTreeMap::new()) == Turn::Submit {
                self.definers.submit(self.now, &mut |token, operation| {
                    assert_eq!(operation.key, (token & (KEYS_MAX - 1)).to_be_bytes());
                    tokens.push(token);
                });
            }
            tokens
        }

        fn answer(&mut self, tokens: &[u64]) {
            for &token in tokens {
                self.definers.reply(self.now, token, Ok(&ok()));
            }
        }
    }

    fn plan(draw: Draw, window: Window) -> Plan {
        let schema = Schema::new(table("t", 2)).unwrap();
        let operations = Operations::new(Phase::Delete, &schema, 0);
        Plan {
            operations,
            durability: Durability::Memory,
            draw,
            window,
            definers: 2,
            batch: 3,
            turn_limit: u32::MAX,
        }
    }

    fn token(definer: u64, key: u64) -> u64 {
        definer << KEY_BITS | key
    }

    #[test]
    fn a_pass_uses_each_key_once_and_waits_for_batches() {
        let mut bench = Bench::new(plan(Draw::Pass(10..18), Window::unbounded(Time(5))));
        assert_eq!((bench.turn(), bench.definers.due()), (vec![], Some(Time(5))), "it begins at its start");
        bench.now = Time(5);
        let first = [10, 11, 12].map(|key| token(0, key));
        let second = [13, 14, 15].map(|key| token(1, key));
        assert_eq!(bench.turn(), [first, second].concat());
        assert_eq!(bench.definers.due(), None);
        bench.answer(&first[..2]);
        assert!(bench.turn().is_empty(), "one of its batch is not answered");
        bench.now = Time(1005);
        bench.answer(&first[2..]);
        let last = [16, 17].map(|key| token(0, key));
        assert_eq!(bench.turn(), last);
        bench.answer(&second);
        assert!(bench.turn().is_empty());
        assert!(bench.outcomes.try_recv().is_err(), "two are not answered");
        bench.now = Time(2005);
        bench.answer(&last);
        assert!(bench.turn().is_empty());
        let mut outcome = bench.outcomes.try_recv().unwrap();
        assert_eq!((outcome.tally.done, outcome.finished), (8, Time(2005)));
        // Latency is from the definition of the batch on.
        assert_eq!(outcome.tally.latencies.histogram().max().div_ceil(1000), 2);
    }

    #[test]
    fn a_timed_phase_counts_its_window_and_ends() {
        let millis = Duration::from_millis;
        let window = Window::timed(Time(0), millis(10), millis(10), millis(10));
        let keys = Keys::new(Distribution::Sequential, 100, 0.9, 0, twofold_proto::random::Random::new(1));
        let mut bench = Bench::new(plan(Draw::Drawn(keys), window));
        for at in [0, 9, 10, 19, 20, 29] {
            bench.now = Time::from_millis(at);
            let tokens = bench.turn();
            assert_eq!(tokens.len(), 6, "at {at}");
            bench.answer(&tokens);
        }
        bench.now = Time::from_millis(30);
        assert!(bench.turn().is_empty());
        assert_eq!(bench.outcomes.try_recv().unwrap().tally.done, 12);
        bench.definers.message(bench.now, plan(Draw::Pass(0..0), Window::unbounded(bench.now)));
        assert!(bench.turn().is_empty());
        assert_eq!(bench.outcomes.try_recv().unwrap().tally.done, 0);
    }

    #[test]
    fn a_turn_hands_over_no_more_than_its_limit() {
        let limited = Plan { turn_limit: 2, ..plan(Draw::Pass(0..6), Window::unbounded(Time(0))) };
        let mut bench = Bench::new(limited);
        let tokens = bench.turn();
        assert_eq!(tokens, [token(0, 0), token(0, 1)]);
        assert_eq!(bench.definers.due(), Some(Time(0)), "more is ready");
        // What is answered meanwhile does not begin the batch anew.
        bench.answer(&tokens);
        assert_eq!(bench.turn(), [token(0, 2), token(1, 3)]);
        assert_eq!(bench.turn(), [token(1, 4), token(1, 5)]);
        bench.answer(&[token(0, 2), token(1, 3), token(1, 4), token(1, 5)]);
        assert!(bench.turn().is_empty());
        assert_eq!(bench.outcomes.try_recv().unwrap().tally.done, 6);
    }

    #[test]
    fn failures_are_told_by_their_code() {
        let mut bench = Bench::new(plan(Draw::Pass(0..2), Window::unbounded(Time(0))));
        let tokens = bench.turn();
        let failure = Failure::from(Error::new(ErrorCode::TableFull, "no memory"));
        bench.definers.reply(bench.now, tokens[0], Err(&failure));
        let mut missing = Vec::new();
        ResultHead::new(ResultCode::NotFound).encode(&mut missing);
        bench.definers.reply(bench.now, tokens[1], Ok(&missing));
        bench.turn();
        let tally = bench.outcomes.try_recv().unwrap().tally;
        assert_eq!(tally.done, 0);
        let failed: Vec<_> = tally.failed.iter().map(|(why, count)| (why.as_str(), *count)).collect();
        assert_eq!(failed, [("TF-4001 TableFull", 1), ("there is no such row", 1)]);
    }
}
