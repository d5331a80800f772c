//! `twofold table`, `get`, `set`, `delete` and `scan`: tables and rows, over gRPC.

mod rows;
mod tables;
mod values;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use twofold_grpc::v1::{DescribeTableRequest, TableDefinition, twofold_client::TwofoldClient};
use twofold_proto::config::{Address, GRPC_PORT};

use crate::{
    client::Failure,
    connect::{Channel, Peer},
};

type Client = TwofoldClient<Channel>;

/// Rows may be large, and a scan's answer holds many.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// An API node answers sooner than that, if need be that it could not do it in time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where API nodes are.
#[derive(Args, Clone, Debug)]
pub struct Api {
    /// API nodes, their gRPC ports: HOST or HOST:PORT, separated by commas; the first that answers is asked
    #[arg(
        long,
        global = true,
        env = "TWOFOLD_API",
        default_value = "127.0.0.1:50051",
        value_name = "HOST:PORT,…"
    )]
    #[arg(value_delimiter = ',', value_parser = address)]
    api: Vec<Address>,
}

fn address(text: &str) -> Result<Address, String> {
    Address::parse(text, GRPC_PORT)
}

/// What is done with tables.
#[derive(Args, Debug)]
pub struct Table {
    #[command(flatten)]
    api: Api,
    #[command(subcommand)]
    command: TableCommand,
}

#[derive(Subcommand, Debug)]
enum TableCommand {
    /// Lists the tables
    List,
    /// Shows the columns of a table
    Show {
        /// Its name
        table: String,
    },
    /// Creates a table
    #[command(
        after_help = "Example: twofold table create fruit name:text:30 price:int32 note:text:200:null --key name"
    )]
    Create {
        /// Its name
        table: String,
        /// Its columns: bool, int8 to int64, uint8 to uint64, float32, float64, date, datetime, timestamp,
        /// text:LENGTH, binary:LENGTH; with `:null` at the end where a value may be missing
        #[arg(required = true, value_name = "NAME:TYPE[:LENGTH][:null]")]
        columns: Vec<String>,
        /// The primary key's columns
        #[arg(long, required = true, value_delimiter = ',', value_name = "COLUMN,…")]
        key: Vec<String>,
        /// That there is one of that name already is no error
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Drops a table with all its rows
    Drop {
        /// Its name
        table: String,
        /// That there is none is no error
        #[arg(long)]
        if_exists: bool,
    },
}

/// Prints a row. Ends with code 3 if there is none
#[derive(Args, Debug)]
pub struct Get {
    #[command(flatten)]
    api: Api,
    /// The table's name
    table: String,
    /// The primary key's values, in its order
    #[arg(required = true)]
    key: Vec<String>,
}

/// Puts a row, whether there is one of its key or not
#[derive(Args, Debug)]
pub struct Set {
    #[command(flatten)]
    api: Api,
    /// The table's name
    table: String,
    /// Its columns; those not named take their default
    #[arg(required = true, value_name = "COLUMN=VALUE")]
    columns: Vec<String>,
}

/// Deletes a row. Ends with code 3 if there is none
#[derive(Args, Debug)]
pub struct Delete {
    #[command(flatten)]
    api: Api,
    /// The table's name
    table: String,
    /// The primary key's values, in its order
    #[arg(required = true)]
    key: Vec<String>,
}

/// Prints the rows of a table, in no order
#[derive(Args, Debug)]
pub struct Scan {
    #[command(flatten)]
    api: Api,
    /// The table's name
    table: String,
    /// At most so many rows
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: u64,
}

/// Exit code where there is no such row.
const EXIT_NO_ROW: u8 = 3;

fn found(found: bool) -> ExitCode {
    if found {
        return ExitCode::SUCCESS;
    }
    eprintln!("there is no such row");
    ExitCode::from(EXIT_NO_ROW)
}

impl Api {
    async fn connect(&self) -> Result<Client, Failure> {
        let channel = Channel::open(Peer::Api, &self.api, PATIENCE).await?;
        Ok(Client::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }
}

async fn describe(client: &mut Client, name: &str) -> Result<TableDefinition, Failure> {
    let answer = client.describe_table(DescribeTableRequest { name: name.into() }).await?;
    let table = answer.into_inner().table;
    table.ok_or_else(|| Failure(format!("the answer about table {name} is empty")))
}

impl Table {
    /// Does it.
    ///
    /// # Errors
    /// If it cannot be done.
    pub async fn run(self) -> Result<ExitCode, Failure> {
        let mut client = self.api.connect().await?;
        match self.command {
            TableCommand::List => tables::list(&mut client).await,
            TableCommand::Show { table } => tables::show(&mut client, &table).await,
            TableCommand::Create { table, columns, key, if_not_exists } => {
                tables::create(&mut client, table, &columns, key, if_not_exists).await
            }
            TableCommand::Drop { table, if_exists } => tables::drop(&mut client, table, if_exists).await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

impl Get {
    /// Does it.
    ///
    /// # Errors
    /// If it cannot be done.
    pub async fn run(self) -> Result<ExitCode, Failure> {
        rows::get(&mut self.api.connect().await?, &self.table, &self.key).await.map(found)
    }
}

impl Set {
    /// Does it.
    ///
    /// # Errors
    /// If it cannot be done.
    pub async fn run(self) -> Result<ExitCode, Failure> {
        rows::set(&mut self.api.connect().await?, &self.table, &self.columns)
            .await
            .map(|()| ExitCode::SUCCESS)
    }
}

impl Delete {
    /// Does it.
    ///
    /// # Errors
    /// If it cannot be done.
    pub async fn run(self) -> Result<ExitCode, Failure> {
        rows::delete(&mut self.api.connect().await?, &self.table, &self.key).await.map(found)
    }
}

impl Scan {
    /// Does it.
    ///
    /// # Errors
    /// If it cannot be done.
    pub async fn run(self) -> Result<ExitCode, Failure> {
        rows::scan(&mut self.api.connect().await?, self.table, self.limit).await.map(|()| ExitCode::SUCCESS)
    }
}
