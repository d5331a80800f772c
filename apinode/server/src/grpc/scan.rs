//! Scans: partition after partition, some at a time, no faster than the client reads.

use std::{collections::VecDeque, sync::Arc};

use tokio::{
    sync::mpsc,
    time::{Duration, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use twofold_apinode::request::{Answer, Request, Results};
use twofold_grpc::v1 as pb;
use twofold_proto::{
    error::{Error, ErrorCode},
    ids::PartitionId,
    operation::{BodyRef, Projection},
    schema::Schema,
};

use super::{
    convert::{columns, conditions},
    results::scanned,
    status::{error_status, status},
    unexpected,
    unwritten::{Item, Unwritten},
};
use crate::handle::{Handle, Pending};

/// Partitions that are asked for rows at a time.
const AHEAD: usize = 8;
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
    handle: Handle,
    schema: Arc<Schema>,
    partitions: u16,
    columns: Vec<u16>,
    program: Vec<u8>,
    /// Rows that may yet be returned.
    left: u64,
    batch: u32,
}

impl Scan {
    pub(super) fn new(handle: &Handle, request: &pb::ScanRequest) -> Result<Scan, Error> {
        let tables = handle.tables().newest();
        let schema = tables.table(&request.table)?.clone();
        let columns = columns(&schema, request.columns.as_ref())?;
        let filter = conditions(&schema, &request.filter)?;
        let list: Vec<u8> = columns.iter().flat_map(|index| index.to_le_bytes()).collect();
        let before = Projection::Columns(&list);
        let mut program = Vec::new();
        BodyRef { conditions: filter.filter(), before, ..BodyRef::default() }.encode(&mut program);
        let left = if request.limit == 0 { u64::MAX } else { request.limit };
        let batch = request.batch_rows;
        Ok(Scan {
            handle: handle.clone(),
            schema,
            partitions: tables.partitions,
            columns,
            program,
            left,
            batch,
        })
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
        let mut partitions = 0..self.partitions;
        let mut ahead: VecDeque<(PartitionId, Pending)> = VecDeque::new();
        loop {
            while ahead.len() < AHEAD
                && let Some(partition) = partitions.next().map(PartitionId)
            {
                ahead.push_back((partition, self.ask(partition, 0).await));
            }
            let Some((partition, pending)) = ahead.pop_front() else { return Ok(()) };
            let (cursor, rows, held) = match pending.delivery().await {
                (Answer::Scan { cursor, rows }, held) => (cursor, rows, held),
                (Answer::Failed(failure), _) => return Err(status(&failure)),
                (other, _) => return Err(status(&unexpected(&other))),
            };
            if let Some(cursor) = cursor {
                ahead.push_back((partition, self.ask(partition, cursor).await));
            }
            if rows.is_empty() {
                if sender.is_closed() {
                    return Ok(());
                }
                continue;
            }
            let more = self.left > rows.len() as u64;
            if sender.send((Ok(self.response(&rows)?), held)).await.is_err() || !more {
                return Ok(());
            }
        }
    }

    async fn ask(&self, partition: PartitionId, cursor: u64) -> Pending {
        let rows = match u32::try_from(self.left) {
            Ok(left) if self.batch == 0 => left,
            Ok(left) => left.min(self.batch),
            Err(_) => self.batch,
        };
        let step = Request::ScanStep {
            table: self.schema.id,
            schema_version: self.schema.version,
            partition,
            cursor,
            rows,
            program: self.program.clone(),
            deadline: None,
        };
        self.handle.begin(step).await
    }

    fn response(&mut self, results: &Results) -> Result<pb::ScanResponse, Status> {
        let mut rows = scanned(self.columns.len(), results).map_err(error_status)?;
        rows.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= rows.len() as u64;
        Ok(pb::ScanResponse { columns: Vec::new(), rows })
    }
}
