//! DBT2 through the native client: each thread of terminals has a client of its own, which asks the data nodes themselves.

use std::{rc::Rc, time::Duration};

use tokio::task::spawn_local;
use twofold_client::{
    Cluster, Error, ErrorClass, ErrorCode, Isolation, Table, Transaction as Open, TransactionOutcome, Value,
};

use super::{
    driver::{Database, Numbers, Session, Target},
    population::Row,
    schema::{Definition, TABLES},
    transactions::{Done, Fault, FaultClass, Transaction},
};

/// Attempts to learn what became of a commit whose answer was lost, and the rest between them.
const ASKED_MAX: u32 = 100;
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// A cluster, and the database in which the tables are.
#[derive(Clone, Debug)]
pub struct Native {
    /// Its management nodes.
    pub management: Vec<String>,
    /// How long to wait for it.
    pub patience: Duration,
    /// As SQL would name it.
    pub database: String,
    /// What it is, in a line.
    pub told: String,
}

impl Target for Native {
    type Database = NativeDatabase;

    fn told(&self) -> String {
        self.told.clone()
    }

    async fn open(&self, _: u16) -> Result<NativeDatabase, Fault> {
        let builder = Cluster::builder(self.management.clone()).patience(self.patience);
        let cluster = builder.connect_here().await.map_err(fault)?;
        Ok(NativeDatabase { cluster, database: self.database.clone() })
    }
}

/// A thread's client.
#[derive(Debug)]
pub struct NativeDatabase {
    cluster: Cluster,
    database: String,
}

impl NativeDatabase {
    fn name(&self, table: &Definition) -> String {
        format!("{}.{}", self.database, table.name)
    }
}

impl Database for NativeDatabase {
    type Session = NativeSession;

    async fn create_tables(&self) -> Result<(), Fault> {
        for table in TABLES {
            match self.cluster.drop_table(&self.name(table)).await {
                Err(error) if error.code() != ErrorCode::NoSuchTable => return Err(fault(error)),
                _ => {}
            }
            self.cluster.create_table(table.new_table(self.name(table))).await.map_err(fault)?;
        }
        Ok(())
    }

    async fn connect(&self) -> Result<NativeSession, Fault> {
        let table = |table: &&Definition| self.cluster.table(&self.name(table)).map_err(fault);
        let tables: Vec<Table> = TABLES.iter().map(table).collect::<Result<_, _>>()?;
        let [loaded, item, warehouse, district, customer, history, orders, new_order, order_line, stock] =
            <[Table; 10]>::try_from(tables).expect("there are ten tables");
        let tables = Tables {
            loaded,
            item,
            warehouse,
            district,
            customer,
            history,
            orders,
            new_order,
            order_line,
            stock,
        };
        Ok(NativeSession { cluster: self.cluster.clone(), tables: Rc::new(tables), failed: None })
    }
}

/// The tables, in the order of [`TABLES`].
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say all")]
pub(super) struct Tables {
    pub loaded: Table,
    pub item: Table,
    pub warehouse: Table,
    pub district: Table,
    pub customer: Table,
    pub history: Table,
    pub orders: Table,
    pub new_order: Table,
    pub order_line: Table,
    pub stock: Table,
}

/// What a terminal has.
#[derive(Debug)]
pub struct NativeSession {
    pub(super) cluster: Cluster,
    pub(super) tables: Rc<Tables>,
    /// What the last attempt has failed with: the next one begins with its age.
    failed: Option<Error>,
}

/// Something that is not as the benchmark has left it.
pub(super) fn wrong(text: impl Into<String>) -> Error {
    twofold_proto::error::Error::new(ErrorCode::Internal, text).into()
}

/// A number of a row.
pub(super) fn number(row: Option<&twofold_client::Row>, column: &str) -> Result<i64, Error> {
    let value = row.and_then(|row| row.get(column)).and_then(Value::as_integer);
    value
        .map(|number| number as i64)
        .ok_or_else(|| wrong(format!("there is no row with a number `{column}`")))
}

/// A text of a row.
pub(super) fn text(row: Option<&twofold_client::Row>, column: &str) -> Result<String, Error> {
    match row.and_then(|row| row.get(column)) {
        Some(Value::Text(text)) => Ok(text.to_string()),
        _ => Err(wrong(format!("there is no row with a text `{column}`"))),
    }
}

fn fault(error: Error) -> Fault {
    let class = match error.class() {
        ErrorClass::Temporary => FaultClass::Retry,
        ErrorClass::Unknown => FaultClass::Unknown,
        _ => FaultClass::Failed,
    };
    let text = error.to_string();
    let name = text.split(':').next().unwrap_or_default().into();
    Fault { class, name, text }
}

impl NativeSession {
    /// Begins a transaction, or what was begun before again.
    pub(super) fn begin(&mut self) -> Open {
        match self.failed.take() {
            Some(error) => self.cluster.begin_again(Isolation::ReadCommitted, &error),
            None => self.cluster.begin(Isolation::ReadCommitted),
        }
    }

    fn table(&self, table: &Definition) -> &Table {
        let tables = &self.tables;
        let all = [
            &tables.loaded,
            &tables.item,
            &tables.warehouse,
            &tables.district,
            &tables.customer,
            &tables.history,
            &tables.orders,
            &tables.new_order,
            &tables.order_line,
            &tables.stock,
        ];
        let place = TABLES.iter().position(|of| of.name == table.name);
        all[place.expect("it is one of ours")]
    }

    /// Learns what became of a commit whose answer was lost.
    async fn settle(&self, error: Error) -> Result<Done, Error> {
        let Some(token) = error.token() else { return Err(error) };
        for _ in 0..ASKED_MAX {
            match self.cluster.status(&token).await {
                Ok(TransactionOutcome::Committed) => return Ok(Done::Committed),
                Ok(TransactionOutcome::Aborted) => {
                    let code = ErrorCode::NotServing;
                    return Err(twofold_proto::error::Error::new(code, "the commit was not applied").into());
                }
                Ok(TransactionOutcome::Forgotten) => return Err(error),
                Ok(TransactionOutcome::Pending) | Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
        Err(error)
    }
}

impl Session for NativeSession {
    async fn insert(&mut self, table: &'static Definition, rows: &[Row]) -> Result<(), Fault> {
        // Written, not inserted: a batch that was done in part may be done again.
        let row = |row: &Row| {
            let names = table.columns.iter().map(|(name, _)| *name);
            self.table(table).write(names.zip(row.iter().map(Value::borrowed)))
        };
        let outcomes = self.cluster.batch(rows.iter().map(row)).await.map_err(fault)?;
        outcomes.into_iter().try_for_each(|outcome| outcome.map(drop)).map_err(fault)
    }

    async fn note(&mut self, name: &str, value: i64) -> Result<(), Fault> {
        let row = [("name", name.into()), ("value", value.into())];
        self.cluster.run(self.tables.loaded.write(row)).await.map_err(fault)?;
        Ok(())
    }

    async fn notes(&mut self) -> Result<Vec<(String, i64)>, Fault> {
        let mut rows = self.cluster.scan(&self.tables.loaded).rows().map_err(fault)?;
        let mut notes = Vec::new();
        while let Some(row) = rows.next().await.map_err(fault)? {
            let note = text(Some(&row), "name").and_then(|name| Ok((name, number(Some(&row), "value")?)));
            notes.push(note.map_err(fault)?);
        }
        Ok(notes)
    }

    async fn run(&mut self, transaction: &Transaction) -> Result<Done, Fault> {
        let result = match transaction {
            Transaction::NewOrder(order) => self.new_order(order).await,
            Transaction::Payment(payment) => self.payment(payment).await,
            Transaction::OrderStatus(status) => self.order_status(status).await,
            Transaction::Delivery(delivery) => self.delivery(delivery).await,
            Transaction::StockLevel(level) => self.stock_level(level).await,
        };
        let result = match result {
            Err(error) if error.class() == ErrorClass::Unknown => self.settle(error).await,
            result => result,
        };
        result.map_err(|error| {
            self.failed = error.is_temporary().then(|| error.clone());
            fault(error)
        })
    }

    async fn scan(
        &mut self,
        table: &'static Definition,
        columns: &[&str],
        each: &mut dyn FnMut(&Numbers),
    ) -> Result<(), Fault> {
        let scan = self.cluster.scan(self.table(table)).columns(columns.iter().copied());
        let mut rows = scan.rows().map_err(fault)?;
        while let Some(row) = rows.next().await.map_err(fault)? {
            let number = |value: Value| value.as_integer().map(|number| number as i64);
            each(&row.into_values().into_iter().map(number).collect());
        }
        Ok(())
    }
}

/// Runs futures side by side; their results, in their order.
pub(super) async fn together<T: 'static>(
    futures: Vec<impl Future<Output = Result<T, Error>> + 'static>,
) -> Result<Vec<T>, Error> {
    let tasks: Vec<_> = futures.into_iter().map(spawn_local).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.map_err(|error| wrong(error.to_string()))??);
    }
    Ok(results)
}
