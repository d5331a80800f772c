//! DBT2: TPC-C's schema, sizes and transactions, without its rules about prices and terminals.
//!
//! | module | what it does |
//! |---|---|
//! | `schema`, `random`, `population` | tables; what TPC-C draws; the rows of a load |
//! | `transactions` | what terminals enter, and how it is mixed |
//! | `driver` | what a driver does |
//! | `sql`, `sql_transactions` | that by SQL, at any server of MySQL's protocol |
//! | `native`, `native_transactions` | that by the native client |
//! | `load`, `run`, `check` | the subcommands |
//! | `counts`, `report`, `page` | what happened; text and JSON; HTML |
//! | `history` | numbers of payments |

mod check;
mod counts;
mod driver;
mod history;
mod load;
mod native;
mod native_transactions;
mod page;
mod population;
mod random;
mod report;
mod run;
mod schema;
mod sql;
mod sql_transactions;
mod transactions;

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use twofold_client::find::Found;
use twofold_proto::config::Address;
use twofold_runtime::{clock, thread};

use crate::{
    Failure, Verdict,
    cpu::Processes,
    lookup::seconds,
    report::{progress_bar, write_json},
};

use check::Check;
use driver::{Database, Target};
use load::Loaded;
use native::Native;
use report::Report;
use run::{Event, Plan};
use schema::{SCALE_MAX, Sizes};
use sql::Server;
use transactions::Fault;

const SQL_PORT: u16 = 3306;
/// How long to wait for a cluster.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Microseconds since 1970, by the wall clock.
fn now_micros() -> i64 {
    clock::wall_clock_ms() as i64 * 1000
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        Failure(fault.text)
    }
}

/// TPC-C's tables and transactions as DBT2 runs them. The result is New-Order transactions per minute (NOTPM).
///
/// `load` fills the tables, `run` puts the load on, `check` reads all rows and says whether the twelve consistency
/// conditions hold. By SQL it does so at any server that speaks MySQL's protocol: Twofold, MariaDB, MySQL.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Creates the tables anew, and fills them
    Load(LoadArguments),
    /// Runs the transactions
    Run(RunArguments),
    /// Reads all rows, and says which of the twelve conditions hold; nothing else may write meanwhile
    Check(TargetArguments),
}

/// The way to the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Driver {
    /// SQL by MySQL's protocol
    Sql,
    /// The native client of a Twofold cluster: no API node between
    Native,
}

#[derive(Args, Clone, Debug)]
struct TargetArguments {
    /// The way to the database
    #[arg(long, env = "TWOFOLD_BENCH_DRIVER", value_enum, default_value_t = Driver::Sql)]
    driver: Driver,

    /// The SQL server
    #[arg(long, env = "TWOFOLD_BENCH_SQL", value_name = "HOST:PORT", default_value = "127.0.0.1:3306")]
    #[arg(value_parser = |text: &str| Address::parse(text, SQL_PORT))]
    server: Address,

    /// With the native driver: management nodes, any of them: HOST or HOST:PORT, separated by commas
    #[arg(long, env = "TWOFOLD_MGM", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:1186", value_parser = Address::of_management)]
    mgm: Vec<String>,

    /// Its user
    #[arg(long, env = "TWOFOLD_BENCH_USER", default_value = "root")]
    user: String,

    /// A file with the user's password in its first line [default: none]
    #[arg(long, env = "TWOFOLD_BENCH_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// The database in which the tables are
    #[arg(long, env = "TWOFOLD_BENCH_DATABASE", default_value = "dbt2", value_parser = database_name)]
    database: String,
}

#[derive(Args, Clone, Debug)]
struct LoadArguments {
    #[command(flatten)]
    target: TargetArguments,

    /// Warehouses: 100 MB each, and more by the database
    #[arg(long, env = "TWOFOLD_BENCH_WAREHOUSES", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000))]
    warehouses: u64,

    /// Divides the numbers of items, and of customers and orders of a district: for tries, not for results
    #[arg(long, env = "TWOFOLD_BENCH_SCALE", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=SCALE_MAX))]
    scale: u64,

    /// Connections that load side by side
    #[arg(long, env = "TWOFOLD_BENCH_LOADERS", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    loaders: u16,

    /// Draws the same rows for the same number [default: random]
    #[arg(long, env = "TWOFOLD_BENCH_SEED")]
    seed: Option<u64>,
}

#[derive(Args, Clone, Debug)]
struct RunArguments {
    #[command(flatten)]
    target: TargetArguments,

    /// Terminals; each has a warehouse, by turns [default: 2 for each warehouse; 10 with --think]
    #[arg(long, env = "TWOFOLD_BENCH_TERMINALS", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    terminals: Option<u64>,

    /// Threads that they share
    #[arg(long, env = "TWOFOLD_BENCH_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,

    /// Type and think as TPC-C's users do, so a terminal does two or three transactions a minute
    #[arg(long, env = "TWOFOLD_BENCH_THINK")]
    think: bool,

    /// Seconds of load before it counts
    #[arg(long, env = "TWOFOLD_BENCH_WARM_UP", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    warm_up: Duration,

    /// Seconds that count
    #[arg(long, env = "TWOFOLD_BENCH_MEASURE", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    measure: Duration,

    /// Seconds of load after that
    #[arg(long, env = "TWOFOLD_BENCH_COOL_DOWN", value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    cool_down: Duration,

    /// Runs a command of the shell so many seconds after the start, and marks it in the plots; may be said several times:
    /// --at '10:scripts/cluster kill data1'
    #[arg(long, value_name = "SECONDS:COMMAND", value_parser = event)]
    at: Vec<Event>,

    /// Draws the same transactions for the same number [default: random]
    #[arg(long, env = "TWOFOLD_BENCH_SEED")]
    seed: Option<u64>,

    /// Processes whose CPU time is the servers' [default: those on this machine that listen at the ports that are known]
    #[arg(long, env = "TWOFOLD_BENCH_SERVER_PIDS", value_name = "PID", value_delimiter = ',')]
    server_pids: Vec<u32>,

    /// Write the results to this file, as JSON
    #[arg(long, env = "TWOFOLD_BENCH_JSON", value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the results to this file, as a page with plots
    #[arg(long, env = "TWOFOLD_BENCH_HTML", value_name = "FILE")]
    html: Option<PathBuf>,
}

fn database_name(text: &str) -> Result<String, String> {
    let fits = |char: char| char.is_ascii_alphanumeric() || char == '_';
    match !text.is_empty() && text.len() <= 60 && text.chars().all(fits) {
        true => Ok(text.into()),
        false => Err("up to 60 letters, digits and _".into()),
    }
}

fn event(text: &str) -> Result<Event, String> {
    let wrong = || "SECONDS:COMMAND, like 10:scripts/cluster kill data1".to_string();
    let (at, command) = text.split_once(':').ok_or_else(wrong)?;
    let at = seconds(at).map_err(|_| wrong())?.as_secs_f64();
    match command.trim() {
        "" => Err(wrong()),
        command => Ok(Event { at, command: command.into() }),
    }
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    match &arguments.command {
        Command::Load(load) => with_target(&load.target, Task::Load(load)),
        Command::Run(run) => with_target(&run.target, Task::Run(run)),
        Command::Check(target) => with_target(target, Task::Check),
    }
}

/// What is to be done, whatever the driver.
enum Task<'a> {
    Load(&'a LoadArguments),
    Run(&'a RunArguments),
    Check,
}

/// Waits for a future of this thread.
fn wait<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = thread::runtime().map_err(|error| error.to_string())?;
    Ok(runtime.block_on(future))
}

fn with_target(arguments: &TargetArguments, task: Task<'_>) -> Result<Verdict, Failure> {
    match arguments.driver {
        Driver::Sql => {
            let password = match &arguments.password_file {
                None => None,
                Some(path) => {
                    let text = fs::read_to_string(path)
                        .map_err(|error| format!("--password-file {}: {error}", path.display()))?;
                    text.lines().next().map(String::from)
                }
            };
            let found = Server::find(&arguments.server, &arguments.user, password, &arguments.database);
            let server = wait(found)?
                .map_err(|fault| format!("{}: {fault}; see --server and --user", arguments.server))?;
            perform(&server, "SQL", std::slice::from_ref(&arguments.server), task)
        }
        Driver::Native => {
            let found = Found::find_blocking(&arguments.mgm, CONNECT_TIME)
                .map_err(|error| format!("{}; is the cluster up? see --mgm", error.text))?;
            let (nodes, replicas) = (found.config.data_nodes.len(), found.config.replicas);
            let target = Native {
                management: arguments.mgm.clone(),
                patience: CONNECT_TIME,
                database: arguments.database.clone(),
                told: format!(
                    "Twofold {}, {nodes} data nodes, {replicas} replicas",
                    env!("CARGO_PKG_VERSION")
                ),
            };
            let servers: Vec<Address> = found.servers().cloned().collect();
            perform(&target, "native", &servers, task)
        }
    }
}

fn perform<T: Target>(
    target: &T,
    driver: &str,
    servers: &[Address],
    task: Task<'_>,
) -> Result<Verdict, Failure> {
    match task {
        Task::Load(arguments) => wait(load(target, arguments))?,
        Task::Run(arguments) => measure(target, driver, servers, arguments),
        Task::Check => wait(check(target))?,
    }
}

async fn load<T: Target>(target: &T, arguments: &LoadArguments) -> Result<Verdict, Failure> {
    let sizes = Sizes { warehouses: arguments.warehouses, scale: arguments.scale };
    let seed = arguments.seed.unwrap_or_else(clock::random_seed);
    let begun = std::time::Instant::now();
    let database = target.open(0).await?;
    let rows = load::load(&database, sizes, seed, usize::from(arguments.loaders)).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let warehouses = twofold_proto::error::counted(sizes.warehouses as usize, "warehouse");
    println!(
        "loaded {warehouses}, {rows} rows in {seconds:.1} s: {:.0} rows/s (seed {seed})",
        rows as f64 / seconds
    );
    Ok(Verdict::Fine)
}

fn measure<T: Target>(
    target: &T,
    driver: &str,
    servers: &[Address],
    arguments: &RunArguments,
) -> Result<Verdict, Failure> {
    let loaded = wait(async {
        let mut session = target.open(0).await?.connect().await?;
        let loaded = Loaded::of(&mut session).await?;
        driver::Session::note(&mut session, "runs", loaded.runs as i64 + 1).await?;
        Ok::<Loaded, Fault>(loaded)
    })??;
    let per_warehouse = if arguments.think { 10 } else { 2 };
    let mut events = arguments.at.clone();
    events.sort_by(|one, other| one.at.total_cmp(&other.at));
    let terminals = arguments.terminals.unwrap_or(per_warehouse * loaded.sizes.warehouses);
    let plan = Plan {
        terminals,
        threads: arguments.threads.min(u16::try_from(terminals).unwrap_or(u16::MAX)),
        think: arguments.think,
        times: [arguments.warm_up, arguments.measure, arguments.cool_down],
        seed: arguments.seed.unwrap_or_else(clock::random_seed),
        events,
    };
    let processes = Processes::find(&arguments.server_pids, servers.iter())?;
    let ran = run::run(target, loaded, &plan, &processes)?;
    let usage = processes.between(&ran.samples[0], &ran.samples[1]);
    let report = Report::new(driver, target.told(), loaded.sizes, &plan, ran, &usage);
    print!("{}", report.text());
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    if let Some(path) = &arguments.html {
        fs::write(path, page::page(&report)?)
            .map_err(|error| format!("--html {}: {error}", path.display()))?;
    }
    Ok(Verdict::Fine)
}

async fn check<T: Target>(target: &T) -> Result<Verdict, Failure> {
    let mut session = target.open(0).await?.connect().await?;
    let loaded = Loaded::of(&mut session).await?;
    let bar = progress_bar("check".into(), check::READ.len() as u64);
    let read = Check::read(&mut session, |table| {
        bar.set_message(table);
        bar.inc(1);
    });
    let check = read.await?;
    bar.finish_and_clear();
    let verdicts = check.verdicts(loaded.sizes, loaded.runs == 0);
    for verdict in &verdicts {
        let word = match (verdict.applies, verdict.holds()) {
            (false, _) => "not looked at: there was a run",
            (true, true) => "holds",
            (true, false) => "DOES NOT HOLD",
        };
        println!("{:>2}  {word}: {}", verdict.number, verdict.condition);
        for line in &verdict.told {
            println!("      {line}");
        }
        let more = verdict.violations - verdict.told.len() as u64;
        if more > 0 {
            println!("      and {more} more");
        }
    }
    match verdicts.iter().all(check::Verdict::holds) {
        true => Ok(Verdict::Fine),
        false => Ok(Verdict::CheckFailed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_meanwhile_is_read() {
        assert_eq!(event("2.5:echo a:b"), Ok(Event { at: 2.5, command: "echo a:b".into() }));
        for wrong in ["echo", "x:echo", "3:", "-1:echo"] {
            assert!(event(wrong).is_err(), "{wrong}");
        }
        assert!(
            database_name("dbt2_x").is_ok() && database_name("a`b").is_err() && database_name("").is_err()
        );
    }
}
