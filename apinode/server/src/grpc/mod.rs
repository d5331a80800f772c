//! The gRPC interface.

pub mod convert;
mod health;
mod results;
mod scan;
mod session;
pub mod status;
mod unwritten;

use prost::bytes::Bytes;
use tokio::{
    spawn,
    time::{Duration, sleep},
};
use tonic::{
    Request, Response, Status, Streaming,
    metadata::MetadataMap,
    service::{Routes, RoutesBuilder},
};
use twofold_apinode::request::{
    Answer, Begin, End, Failure, Isolation, Options, Request as Ask, Statement, TransactionToken,
};
use twofold_grpc::v1::{self as pb, twofold_server};
use twofold_proto::{
    error::{Error, ErrorCode},
    limits::MESSAGE_BYTES_MAX,
    message::{CatalogChange, Outcome, Status as TransactionStatus, TransactionState},
};

use status::{error_status, status};
use twofold_client::assemble::Assembled;
use twofold_client::handle::{Handle, Held};
use unwritten::{Counted, Unwritten};

/// How often, and how long apart, a request is made anew because the table has changed meanwhile.
const STALE_TRIES: u32 = 5;
const STALE_WAIT: Duration = Duration::from_millis(20);

/// What is kept of a call's deadline, or a quarter of it: a client that has given a call up hears no answer.
const RETURN_TIME: Duration = Duration::from_millis(50);

type Reply<T> = Result<Response<T>, Status>;
/// A response, and what is held until it is written.
type Executed = (pb::ExecuteResponse, Option<Held>);

/// The service of one thread.
#[derive(Clone, Debug)]
pub struct Twofold {
    handle: Handle,
}

/// All services of one thread: Twofold's, reflection, health.
///
/// # Errors
/// If the descriptors are damaged, which a build cannot bring about.
pub async fn services(handle: Handle) -> Result<Routes, tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    spawn(health::report(health, handle.serving().subscribe()));
    let service = twofold_server::TwofoldServer::new(Twofold { handle: handle.clone() })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(usize::MAX);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(twofold_grpc::DESCRIPTORS)
    };
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(Counted::new(service, handle))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes())
}

/// How long a call may take here: the deadline that it came with, less what its answer needs to be in time.
fn call_deadline(metadata: &MetadataMap) -> Option<Duration> {
    let whole = timeout(metadata)?;
    Some(whole - RETURN_TIME.min(whole / 4))
}

/// The deadline that the call itself came with.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn state(state: TransactionState) -> pb::State {
    match state {
        TransactionState::Open => pb::State::Open,
        TransactionState::Committed => pb::State::Committed,
        TransactionState::Aborted => pb::State::Aborted,
    }
}

fn token_bytes(token: Option<TransactionToken>) -> Bytes {
    token.map(|token| Bytes::from(token.encode())).unwrap_or_default()
}

fn unexpected(answer: &Answer) -> Failure {
    Error::new(ErrorCode::Internal, format!("the client answered {answer:?}")).into()
}

impl Twofold {
    async fn try_execute(
        &self,
        request: &pb::ExecuteRequest,
        call: Option<Duration>,
    ) -> Result<Executed, Failure> {
        let tables = self.handle.tables().newest();
        let (options, isolation) = convert::options(&tables, request.options.as_ref(), call)?;
        if request.operations.is_empty() {
            return Err(Error::new(ErrorCode::Malformed, "the request has no operations").into());
        }
        let converted = convert::operations(&tables, Handle::now(), &request.operations)?;
        match pb::Mode::try_from(request.mode) {
            Ok(pb::Mode::Transaction) => self.transaction(converted, options, isolation).await,
            Ok(pb::Mode::Independent) => self.independent(converted, options).await,
            Err(_) => {
                Err(Error::new(ErrorCode::Malformed, format!("there is no mode {}", request.mode)).into())
            }
        }
    }

    async fn transaction(
        &self,
        converted: Assembled,
        options: Options,
        isolation: Isolation,
    ) -> Result<Executed, Failure> {
        let transaction = self.handle.new_transaction();
        let statement = Statement {
            handle: transaction.handle(),
            begin: Some(Begin { isolation, timestamp: None }),
            number: 1,
            undo: false,
            operations: converted.operations,
            end: End::Commit,
            options,
        };
        // A client that is gone drops this future, and so gives the transaction up.
        let delivery = self.handle.begin(Ask::Statement(statement)).await.delivery().await;
        transaction.ended();
        match delivery {
            (Answer::Statement { epoch, token, results, .. }, held) => {
                let results = results::each(&converted.shapes, &results);
                Ok((pb::ExecuteResponse { results, epoch: epoch.0, token: token_bytes(token) }, held))
            }
            (Answer::Failed(failure), _) => Err(failure),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn independent(&self, converted: Assembled, options: Options) -> Result<Executed, Failure> {
        if converted.locks {
            let text = "a read that stands alone takes no lock; run it in a TRANSACTION";
            return Err(Error::new(ErrorCode::Malformed, text).into());
        }
        let (results, held) = self.handle.execute(converted.operations, options).await;
        let results = results::each(&converted.shapes, &results);
        Ok((pb::ExecuteResponse { results, ..Default::default() }, held))
    }

    async fn change(&self, change: CatalogChange, allowed: Option<ErrorCode>) -> Result<(), Status> {
        match self.handle.submit(Ask::Change(change)).await {
            Answer::Catalog(version) => {
                self.handle.tables().wait_for(version).await;
                Ok(())
            }
            Answer::Failed(failure) if Some(failure.error.code) == allowed => Ok(()),
            Answer::Failed(failure) => Err(status(&failure)),
            other => Err(status(&unexpected(&other))),
        }
    }
}

/// Whether something was made for a version of a table that is not the newest.
fn is_stale(response: &Result<Executed, Failure>) -> bool {
    let stale = ErrorCode::StaleSchema.to_string();
    match response {
        Err(failure) => failure.error.code == ErrorCode::StaleSchema,
        // Independent operations are made anew together: only if none of them was done.
        Ok((response, _)) => {
            !response.results.is_empty()
                && response
                    .results
                    .iter()
                    .all(|result| result.error.as_ref().is_some_and(|error| error.code == stale))
        }
    }
}

#[tonic::async_trait]
impl twofold_server::Twofold for Twofold {
    async fn execute(&self, request: Request<pb::ExecuteRequest>) -> Reply<pb::ExecuteResponse> {
        let call = call_deadline(request.metadata());
        let request = request.into_inner();
        let mut tries = 1;
        loop {
            let response = self.try_execute(&request, call).await;
            if tries == STALE_TRIES || !is_stale(&response) {
                let executed = response.map_err(|failure| status(&failure))?;
                return Ok(unwritten::response(executed.0, executed.1));
            }
            tries += 1;
            sleep(STALE_WAIT).await;
        }
    }

    type SessionStream = Unwritten<pb::SessionResponse>;

    async fn session(&self, request: Request<Streaming<pb::SessionRequest>>) -> Reply<Self::SessionStream> {
        let call = call_deadline(request.metadata());
        Ok(Response::new(session::open(self.handle.clone(), request.into_inner(), call)))
    }

    type ScanStream = Unwritten<pb::ScanResponse>;

    async fn scan(&self, request: Request<pb::ScanRequest>) -> Reply<Self::ScanStream> {
        let call = call_deadline(request.metadata());
        let scan = scan::Scan::new(&self.handle, request.get_ref()).map_err(error_status)?;
        Ok(Response::new(scan.run(call)))
    }

    async fn create_table(&self, request: Request<pb::CreateTableRequest>) -> Reply<pb::CreateTableResponse> {
        let request = request.into_inner();
        let table = results::table(&request.table.unwrap_or_default()).map_err(error_status)?;
        let allowed = request.if_not_exists.then_some(ErrorCode::TableExists);
        self.change(CatalogChange::CreateTable(table), allowed).await?;
        Ok(Response::new(pb::CreateTableResponse {}))
    }

    async fn drop_table(&self, request: Request<pb::DropTableRequest>) -> Reply<pb::DropTableResponse> {
        let request = request.into_inner();
        let allowed = request.if_exists.then_some(ErrorCode::NoSuchTable);
        self.change(CatalogChange::DropTable(request.name), allowed).await?;
        Ok(Response::new(pb::DropTableResponse {}))
    }

    async fn list_tables(&self, _: Request<pb::ListTablesRequest>) -> Reply<pb::ListTablesResponse> {
        let tables = self.handle.tables().newest();
        Ok(Response::new(pb::ListTablesResponse { names: tables.names().map(String::from).collect() }))
    }

    async fn describe_table(
        &self,
        request: Request<pb::DescribeTableRequest>,
    ) -> Reply<pb::DescribeTableResponse> {
        let tables = self.handle.tables().newest();
        let schema = tables.table(&request.get_ref().name).map_err(error_status)?;
        let table = Some(results::definition(schema));
        Ok(Response::new(pb::DescribeTableResponse { table, version: schema.version }))
    }

    async fn transaction_status(
        &self,
        request: Request<pb::TransactionStatusRequest>,
    ) -> Reply<pb::TransactionStatusResponse> {
        let token = TransactionToken::decode(&request.get_ref().token).map_err(error_status)?;
        let (state, epoch) = match self.handle.submit(Ask::Status(token)).await {
            Answer::Status(TransactionStatus::Decided(Outcome::Committed(epoch))) => {
                (pb::State::Committed, epoch.0)
            }
            Answer::Status(TransactionStatus::Decided(Outcome::Aborted)) => (pb::State::Aborted, 0),
            Answer::Status(TransactionStatus::Pending) => (pb::State::Pending, 0),
            Answer::Status(TransactionStatus::Finished) => (pb::State::Finished, 0),
            Answer::Failed(failure) => return Err(status(&failure)),
            other => return Err(status(&unexpected(&other))),
        };
        Ok(Response::new(pb::TransactionStatusResponse { state: state.into(), epoch }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_of_calls_are_read() {
        let read = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            timeout(&metadata)
        };
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("150m"), Some(Duration::from_millis(150)));
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        assert_eq!((read("5"), read("x"), read("")), (None, None, None));
        assert_eq!(timeout(&MetadataMap::new()), None);
        let mut metadata = MetadataMap::new();
        for (given, kept) in [("2S", 1950), ("100m", 75)] {
            metadata.insert("grpc-timeout", given.parse().unwrap());
            assert_eq!(call_deadline(&metadata), Some(Duration::from_millis(kept)));
        }
    }
}
