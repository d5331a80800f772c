//! Scans, as streams of responses.

use std::sync::Arc;

use tokio::{
    sync::mpsc,
    time::{Duration, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use twofold_client::{
    handle::Handle,
    scan::{Step, Steps},
};
use twofold_grpc::v1 as pb;
use twofold_proto::{
    error::{Error, ErrorCode},
    schema::Schema,
};

use super::{
    convert::{columns, conditions},
    results::scanned,
    status::{error_status, status},
    unwritten::{Item, Unwritten},
};

/// Responses that wait for the client to read them.
const RESPONSES: usize = 2;

/// Runs a scan, for no longer than this.
async fn within(
    limit: Option<Duration>,
    scan: impl Future<Output = Result<(), Status>>,
) -> Result<(), Status> {
    let Some(limit) = limit else { return scan.await };
    timeout(limit, scan).await.unwrap_or_else(|_| {
        Err(error_status(Error::new(ErrorCode::Timeout, "the scan was not through at its deadline")))
    })
}

/// A scan that has been checked.
pub(super) struct Scan {
    schema: Arc<Schema>,
    columns: Vec<u16>,
    steps: Steps,
}

impl Scan {
    pub(super) fn new(handle: &Handle, request: &pb::ScanRequest) -> Result<Scan, Error> {
        let tables = handle.tables().newest();
        let schema = tables.table(&request.table)?.clone();
        let columns = columns(&schema, request.columns.as_ref())?;
        let filter = conditions(&schema, &request.filter)?;
        let steps = Steps::new(handle, &schema, &columns, &filter, request.limit, request.batch_rows);
        Ok(Scan { schema, columns, steps })
    }

    /// Runs it until it is through, nobody reads it, or its time is up.
    pub(super) fn run(self, limit: Option<Duration>) -> Unwritten<pb::ScanResponse> {
        let (sender, receiver) = mpsc::channel(RESPONSES);
        tokio::spawn(async move {
            let names =
                self.columns.iter().map(|&index| self.schema.columns[usize::from(index)].name.clone());
            let head = pb::ScanResponse { columns: names.collect(), rows: Vec::new() };
            if sender.send((Ok(head), None)).await.is_ok()
                && let Err(status) = within(limit, self.rows(&sender)).await
            {
                // Nobody may be there to hear it.
                let _ = sender.send((Err(status), None)).await;
            }
        });
        Unwritten::new(ReceiverStream::new(receiver))
    }

    async fn rows(mut self, sender: &mpsc::Sender<Item<pb::ScanResponse>>) -> Result<(), Status> {
        while let Some(Step { rows, count, held }) =
            self.steps.next().await.map_err(|failure| status(&failure))?
        {
            if sender.is_closed() {
                break;
            }
            if rows.is_empty() {
                continue;
            }
            let mut rows = scanned(self.columns.len(), &rows).map_err(error_status)?;
            rows.truncate(count);
            let response = pb::ScanResponse { columns: Vec::new(), rows };
            if sender.send((Ok(response), held)).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
