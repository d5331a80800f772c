//! Load from several processes: each other process is this program with the same arguments, and has its share of the
//! threads. It is told of a phase in a line of JSON on its standard input, and tells the outcome in one on its standard
//! output. All go by the system's clock, so that their windows are one.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::Sender,
    thread,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use twofold_proto::time::Time;

use crate::{
    Failure,
    measure::{Tally, TallyRecord, Window},
};

use super::{definers::Outcome, rows::Phase};

/// A phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    /// What is done.
    pub phase: Phase,
    /// The catalog that has the table.
    pub catalog: u64,
    /// Of the keys.
    pub seed: u64,
    /// The window: start, from, until, end.
    window: [u64; 4],
}

impl Order {
    /// A phase with this window.
    pub fn new(phase: Phase, catalog: u64, seed: u64, window: Window) -> Order {
        let window = [window.start, window.from, window.until, window.end].map(|time| time.0);
        Order { phase, catalog, seed, window }
    }

    /// Its window.
    pub fn window(&self) -> Window {
        let [start, from, until, end] = self.window.map(Time);
        Window { start, from, until, end }
    }
}

/// What a share did in a phase.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    finished: u64,
    tally: TallyRecord,
}

/// Another process with a share of the load. It ends with its standard input.
#[derive(Debug)]
pub struct Share {
    child: Child,
    input: Option<ChildStdin>,
}

impl Share {
    /// Starts the process with this share. Its outcomes are sent to `outcomes`.
    ///
    /// # Errors
    /// If the system has no process for it.
    pub fn start(number: u16, outcomes: Sender<Outcome>) -> Result<Share, Failure> {
        let failed = |error: io::Error| format!("the process with share {number} of the load: {error}");
        let mut child = Command::new(env::current_exe().map_err(failed)?)
            .args(env::args_os().skip(1))
            .args(["--share", &number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        thread::spawn(move || {
            let lines = BufReader::new(output.into_iter().next()?);
            for line in lines.lines() {
                let Done { finished, tally } = read(&line.ok()?).ok()?;
                // If nobody waits for it, the program ends.
                outcomes.send(Outcome { tally: Tally::from(tally), finished: Time(finished) }).ok()?;
            }
            Some(())
        });
        Ok(Share { child, input })
    }

    /// The number of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it of a phase.
    ///
    /// # Errors
    /// If it has ended.
    pub fn tell(&mut self, order: &Order) -> Result<(), Failure> {
        let told = self.input.as_mut().map(|input| write(input, order));
        match told {
            Some(Ok(())) => Ok(()),
            _ => Err(format!("process {} with a share of the load has ended", self.pid()).into()),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.input = None;
        // How it ended matters to nobody any more.
        let _ = self.child.wait();
    }
}

/// In such a process: does what it is told to, until nobody can tell it anything.
///
/// # Errors
/// What `run` says, or if it is told nonsense.
pub fn serve(mut run: impl FnMut(Order) -> Result<Outcome, Failure>) -> Result<(), Failure> {
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("standard input: {error}"))?;
        let Outcome { tally, finished } = run(read(&line)?)?;
        let done = Done { finished: finished.0, tally: tally.into() };
        write(&mut io::stdout().lock(), &done).map_err(|error| format!("standard output: {error}"))?;
    }
    Ok(())
}

fn read<T: DeserializeOwned>(line: &str) -> Result<T, Failure> {
    serde_json::from_str(line).map_err(|error| format!("a line of a share of the load: {error}").into())
}

fn write(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}
