//! Puts the load on: terminals, each of which does one transaction after the other.

use std::{
    cell::RefCell,
    process::{Command, Stdio},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
};

use tokio::{task::spawn_local, time::sleep};
use twofold_proto::{
    random::Random,
    time::{Duration, Time},
};
use twofold_runtime::{Clock, thread};

use super::{
    counts::Counts,
    driver::{Database, Session, Target},
    load::Loaded,
    random::{Constants, exponential},
    transactions::{Fault, FaultClass, Terminal},
};
use crate::{
    Failure,
    cpu::{Processes, Sample},
    measure::Window,
    report::{self, PROGRESS_EVERY},
};

/// Until the first transaction, after all are connected.
const HEAD_START: Duration = Duration::from_millis(50);
/// How long transactions may take after the end.
const LATE_MAX: Duration = Duration::from_secs(15);
/// Between two attempts: at most so long at first, then twice as long each time, until the last.
const REST_MIN: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_millis(64);
/// Points of the timeline, at most.
const POINTS_MAX: u128 = 240;
/// How long a point of the timeline may be, in milliseconds.
const INTERVALS: [u64; 8] = [100, 200, 500, 1000, 2000, 5000, 10_000, 60_000];

/// Something that is done in the course of a run, and marked in its plots.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// After the run's start, in seconds.
    pub at: f64,
    /// A command of the shell.
    pub command: String,
}

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Terminals.
    pub terminals: u64,
    /// Threads that they share.
    pub threads: u16,
    /// Whether users type and think.
    pub think: bool,
    /// Before, while and after it counts.
    pub times: [Duration; 3],
    /// Fixes what is entered.
    pub seed: u64,
    /// In their order.
    pub events: Vec<Event>,
}

/// What a run has brought.
pub struct Ran {
    /// What happened.
    pub counts: Counts,
    /// How long a point of the timeline is.
    pub interval: Duration,
    /// When the time that counts began and ended.
    pub samples: [Sample; 2],
}

/// How long a point of the timeline is, for so long a run.
fn interval(all: Duration) -> Duration {
    let fits = |&&millis: &&u64| all.as_nanos() / Duration::from_millis(millis).as_nanos() <= POINTS_MAX;
    Duration::from_millis(*INTERVALS.iter().find(fits).unwrap_or(&INTERVALS[INTERVALS.len() - 1]))
}

/// What all terminals know.
#[derive(Clone)]
struct Common {
    plan: Plan,
    loaded: Loaded,
    constants: Constants,
    window: Window,
    interval: Duration,
    committed: Arc<AtomicU64>,
}

/// What a thread tells: that its terminals are connected, what they have counted.
enum Told {
    Connected(Sender<Window>),
    Done(Box<Counts>),
    Failed(Fault),
}

/// Runs the plan.
///
/// # Errors
/// If terminals cannot be connected.
pub fn run<T: Target>(
    target: &T,
    loaded: Loaded,
    plan: &Plan,
    processes: &Processes,
) -> Result<Ran, Failure> {
    let [warm_up, measure, cool_down] = plan.times;
    let interval = interval(warm_up + measure + cool_down);
    let mut random = Random::new(plan.seed);
    let constants = Constants::of_run(&mut random, loaded.last);
    let never = Window::unbounded(Time(0));
    let committed = Arc::new(AtomicU64::new(0));
    let common = Common { plan: plan.clone(), loaded, constants, window: never, interval, committed };
    let (tell, told) = channel();
    for number in 0..plan.threads {
        let (target, common, tell) = (target.clone(), common.clone(), tell.clone());
        let name = format!("terminals{number}");
        let run = move || async move {
            let result = terminals(&target, number, common, &tell).await;
            // Who listens waits for all threads.
            let _ = tell.send(result.map_or_else(Told::Failed, |counts| Told::Done(Box::new(counts))));
        };
        thread::spawn(&name, run).map_err(|error| format!("thread {name}: {error}"))?;
    }
    let mut starts = Vec::new();
    for _ in 0..plan.threads {
        match told.recv() {
            Ok(Told::Connected(start)) => starts.push(start),
            Ok(Told::Failed(fault)) => return Err(fault.text.into()),
            Ok(Told::Done(_)) | Err(_) => return Err("a thread has ended before it began".into()),
        }
    }
    let window = Window::timed(Clock.now() + HEAD_START, warm_up, measure, cool_down);
    for start in starts {
        // One that has ended says why.
        let _ = start.send(window);
    }
    watch(&common, window, &told, processes)
}

/// Waits for the end, with a progress bar; does what is to be done meanwhile.
fn watch(
    common: &Common,
    window: Window,
    told: &Receiver<Told>,
    processes: &Processes,
) -> Result<Ran, Failure> {
    let length = window.end.since(window.start).as_millis() as u64;
    let bar = report::progress_bar("run".into(), length);
    let mut counts = Counts::new(window, common.interval);
    let (mut before, mut after): (Option<Sample>, Option<Sample>) = (None, None);
    let mut events = common.plan.events.iter().peekable();
    let mut waiting = common.plan.threads;
    let mut shells = Vec::new();
    while waiting > 0 {
        let now = Clock.now();
        if before.is_none() && now >= window.from {
            before = Some(processes.sample());
        }
        if after.is_none() && now >= window.until {
            after = Some(processes.sample());
        }
        let elapsed = now.since(window.start).as_secs_f64();
        while let Some(event) = events.next_if(|event| event.at <= elapsed) {
            // It runs beside the load; what it says is its own.
            match Command::new("sh").args(["-c", &event.command]).stdin(Stdio::null()).spawn() {
                Ok(shell) => shells.push(shell),
                Err(error) => bar.println(format!("--at {}: {error}", event.command)),
            }
        }
        match told.recv_timeout(PROGRESS_EVERY.min(Duration::from_millis(100))) {
            Ok(Told::Done(of_thread)) => {
                waiting -= 1;
                counts.merge(*of_thread);
            }
            Ok(Told::Failed(fault)) => return Err(fault.text.into()),
            Ok(Told::Connected(_)) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("the terminals' threads have ended".into()),
        }
        bar.set_position((elapsed * 1000.0) as u64);
        let rate = common.committed.load(Ordering::Relaxed) as f64 / elapsed.max(1e-3);
        bar.set_message(format!("{rate:.0} transactions/s"));
    }
    bar.finish_and_clear();
    // One that has not ended by now goes on by itself.
    shells.iter_mut().for_each(|shell| drop(shell.try_wait()));
    let last = processes.sample();
    let samples = [before.unwrap_or_else(|| last.clone()), after.unwrap_or(last)];
    Ok(Ran { counts, interval: common.interval, samples })
}

/// All terminals of a thread.
async fn terminals<T: Target>(
    target: &T,
    thread: u16,
    mut common: Common,
    tell: &Sender<Told>,
) -> Result<Counts, Fault> {
    let database = target.open(thread).await?;
    let numbers = (0..common.plan.terminals)
        .filter(|number| number % u64::from(common.plan.threads) == u64::from(thread));
    let mut sessions = Vec::new();
    for number in numbers {
        sessions.push((number, database.connect().await?));
    }
    let (start, window) = channel();
    // Who listens waits for all threads.
    let _ = tell.send(Told::Connected(start));
    common.window = window.recv().map_err(|_| super::sql::failed("there is no start"))?;
    let counts = Rc::new(RefCell::new(Counts::new(common.window, common.interval)));
    let mut tasks = Vec::new();
    for (number, session) in sessions {
        let mut random = Random::new(common.plan.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let terminal = Terminal::new(number, common.loaded.sizes, common.constants, random.fork());
        tasks.push(spawn_local(sit(session, terminal, common.clone(), counts.clone())));
    }
    for task in tasks {
        task.await.map_err(|error| super::sql::failed(error.to_string()))?;
    }
    Ok(counts.borrow().clone())
}

/// What a user does until the end.
async fn sit(mut session: impl Session, mut terminal: Terminal, common: Common, counts: Rc<RefCell<Counts>>) {
    let window = common.window;
    sleep(window.start.since(Clock.now())).await;
    if common.plan.think {
        // Not all at once.
        let rest = terminal.random().unit() * 20.0;
        pause(rest, window.end).await;
    }
    while Clock.now() < window.end {
        let transaction = terminal.next();
        let kind = transaction.kind();
        if common.plan.think {
            pause(kind.keying(), window.end).await;
        }
        let begun = Clock.now();
        let mut rest = REST_MIN;
        loop {
            let result = session.run(&transaction).await;
            let now = Clock.now();
            match result {
                Ok(done) => {
                    common.committed.fetch_add(1, Ordering::Relaxed);
                    counts.borrow_mut().done(kind, done, begun, now);
                    break;
                }
                Err(fault) => {
                    let again = fault.class == FaultClass::Retry && now < window.end + LATE_MAX;
                    let failed = fault.class == FaultClass::Failed;
                    counts.borrow_mut().fault(kind, fault, again);
                    if !again {
                        // What always fails shall not fail as fast as it can.
                        if failed {
                            sleep(REST_MAX).await;
                        }
                        break;
                    }
                    sleep(rest.mul_f64(terminal.random().unit())).await;
                    rest = (rest * 2).min(REST_MAX);
                }
            }
        }
        if common.plan.think {
            let thought = exponential(terminal.random(), kind.thinking());
            pause(thought, window.end).await;
        }
    }
}

/// Does nothing for so many seconds, but not beyond the end.
async fn pause(seconds: f64, end: Time) {
    sleep(Duration::from_secs_f64(seconds).min(end.since(Clock.now()))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timelines_have_enough_points_and_not_too_many() {
        let of = |seconds| interval(Duration::from_secs(seconds)).as_millis();
        assert_eq!(
            [of(2), of(30), of(90), of(240), of(7200), of(1_000_000)],
            [100, 200, 500, 1000, 60_000, 60_000]
        );
    }
}
