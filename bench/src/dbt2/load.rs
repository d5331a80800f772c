//! Fills the tables: parts side by side, each in statements of many rows.

use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Instant};

use indicatif::ProgressBar;
use tokio::task::spawn_local;
use twofold_proto::random::Random;

use super::{
    driver::{Database, Session},
    now_micros,
    population::{Part, Population, Row, parts},
    random::Constants,
    schema::{Definition, Sizes},
    transactions::{Fault, FaultClass},
};
use crate::report;

/// Rows of a statement.
const ROWS: usize = 200;
/// Attempts at a statement; those that fail for a moment wait longer each time.
const ATTEMPTS: u32 = 8;

/// What a database was loaded with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// How many rows there are.
    pub sizes: Sizes,
    /// The constant of last names.
    pub last: u64,
    /// Runs since.
    pub runs: u64,
}

impl Loaded {
    /// Asks a database.
    ///
    /// # Errors
    /// If it was not loaded, or not to the end.
    pub async fn of(session: &mut impl Session) -> Result<Loaded, Fault> {
        let notes: BTreeMap<String, i64> = session.notes().await?.into_iter().collect();
        let note = |name: &str| {
            let value = notes.get(name).and_then(|&value| u64::try_from(value).ok());
            value.ok_or_else(|| {
                super::sql::failed("the tables are not loaded to the end; run `dbt2 load` first")
            })
        };
        let sizes = Sizes { warehouses: note("warehouses")?, scale: note("scale")? };
        Ok(Loaded { sizes, last: note("c_last")?, runs: note("runs")? })
    }
}

/// Creates the tables and fills them, by so many connections; how many rows there are.
///
/// # Errors
/// What the database has said.
pub async fn load<D: Database>(database: &D, sizes: Sizes, seed: u64, loaders: usize) -> Result<u64, Fault> {
    database.create_tables().await?;
    let constants = Constants::of_load(&mut Random::new(seed));
    let population = Population { sizes, seed, constants, now: now_micros() };
    let shared = Rc::new(Shared {
        parts: parts(sizes),
        next: Cell::new(0),
        rows: Cell::new(0),
        begun: Instant::now(),
        bar: report::progress_bar("load".into(), sizes.rows()),
    });
    let mut tasks = Vec::new();
    for _ in 0..loaders {
        let mut session = database.connect().await?;
        let shared = shared.clone();
        tasks.push(spawn_local(async move {
            while let Some(part) = shared.take() {
                fill(&mut session, &population, part, &shared).await?;
            }
            Ok::<(), Fault>(())
        }));
    }
    let mut first = Ok(());
    for task in tasks {
        let result = task.await.unwrap_or_else(|error| Err(super::sql::failed(error.to_string())));
        if first.is_ok() {
            first = result;
        }
        if first.is_err() {
            shared.next.set(shared.parts.len());
        }
    }
    shared.bar.finish_and_clear();
    first?;
    let mut session = database.connect().await?;
    let notes =
        [("warehouses", sizes.warehouses), ("scale", sizes.scale), ("c_last", constants.last), ("runs", 0)];
    for (name, value) in notes {
        session.note(name, value as i64).await?;
    }
    Ok(shared.rows.get())
}

/// What those who load have in common.
struct Shared {
    parts: Vec<Part>,
    next: Cell<usize>,
    rows: Cell<u64>,
    begun: Instant,
    bar: ProgressBar,
}

impl Shared {
    fn take(&self) -> Option<Part> {
        let place = self.next.get();
        self.next.set(place + 1);
        self.parts.get(place).copied()
    }

    fn done(&self, rows: usize) {
        self.rows.set(self.rows.get() + rows as u64);
        self.bar.set_position(self.rows.get());
        let rate = self.rows.get() as f64 / self.begun.elapsed().as_secs_f64().max(1e-3);
        self.bar.set_message(format!("{rate:.0} rows/s"));
    }
}

async fn fill(
    session: &mut impl Session,
    population: &Population,
    part: Part,
    shared: &Shared,
) -> Result<(), Fault> {
    // A part is a few MB at most.
    let mut tables: Vec<(&'static Definition, Vec<Row>)> = Vec::new();
    population.rows(part, &mut |table, row| match tables.iter_mut().find(|(of, _)| of.name == table.name) {
        Some((_, rows)) => rows.push(row),
        None => tables.push((table, vec![row])),
    });
    for (table, rows) in tables {
        for rows in rows.chunks(ROWS) {
            insert(session, table, rows).await?;
            shared.done(rows.len());
        }
    }
    Ok(())
}

/// Inserts, again where that fails for a moment.
async fn insert(session: &mut impl Session, table: &'static Definition, rows: &[Row]) -> Result<(), Fault> {
    for attempt in 1..ATTEMPTS {
        match session.insert(table, rows).await {
            Err(fault) if fault.class == FaultClass::Retry => {
                tokio::time::sleep(std::time::Duration::from_millis(10 << attempt)).await;
            }
            result => return result,
        }
    }
    session.insert(table, rows).await
}
