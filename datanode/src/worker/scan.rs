//! Steps of scans, by partition or by a range of an ordered index.

use twofold_proto::{
    error::{Error, ErrorCode},
    ids::{PartitionId, TableId},
    limits::SCAN_BATCH_BYTES,
    links::LinkId,
    message::{Kind, RangeConf, RangeReq, ScanConf, ScanReq},
    operation::Refusal,
    wire::{Malformed, Writer},
};
use twofold_storage::store::{RangeStep, ScanLimit, ScanStep};

use super::{Worker, client::Observer};

/// Rows that a step of a scan looks at, so that a filter that lets nothing through does not hold the worker up.
const SCAN_VISITED_MAX: u32 = 4096;

/// Where a step of so many rows at most stops; 0: where the answer is full.
fn limit(rows: u32) -> ScanLimit {
    let rows = if rows == 0 { u32::MAX } else { rows };
    ScanLimit { rows, bytes: SCAN_BATCH_BYTES, visited: SCAN_VISITED_MAX }
}

fn in_program(refusal: &Refusal) -> Error {
    Error::new(ErrorCode::BadValue, format!("{refusal} in the scan's filter or projection"))
}

impl Worker {
    /// A step of a scan. It waits for the write sets that are open now and may be committed already.
    pub(super) fn on_scan(&mut self, client: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let scan = ScanReq::parse(body)?;
        let (request, partition) = (scan.request, scan.partition);
        if let Err(error) = self.check_serving(partition).and_then(|()| self.check_load(client)) {
            self.refuse_operation(client, request, &error);
            return Ok(());
        }
        let uncertain = self.uncertain_in(partition);
        if uncertain.is_empty() {
            return self.scan_now(client, body);
        }
        self.observe_all(client, Kind::ScanReq, body, uncertain);
        Ok(())
    }

    /// The open write sets of a partition that may be committed already.
    fn uncertain_in(&self, partition: PartitionId) -> Vec<u32> {
        let open = self.partitions[usize::from(partition.0)].open.iter().copied();
        open.filter(|&slot| self.may_be_committed(slot)).collect()
    }

    /// Handles a request when these write sets are decided.
    fn observe_all(&mut self, client: LinkId, kind: Kind, body: &[u8], write_sets: Vec<u32>) {
        let ticket =
            self.observe(Observer::Request { client, kind, body: body.to_vec(), left: write_sets.len() });
        for slot in write_sets {
            self.write_sets.get_mut(slot).expect("open").interest().observers.push(ticket);
        }
    }

    pub(super) fn scan_now(&mut self, client: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let scan = ScanReq::parse(body)?;
        let checked = self
            .check_serving(scan.partition)
            .and_then(|()| self.check_load(client))
            .and_then(|()| self.schema(scan.table, scan.schema_version));
        let schema = match checked {
            Ok(schema) => schema,
            Err(error) => {
                self.refuse_operation(client, scan.request, &error);
                return Ok(());
            }
        };
        self.counters.scans += 1;
        let limit = limit(scan.rows);
        let (store, time) = (&self.store, self.time);
        let Some(link) = self.links.get_mut(client) else { return Ok(()) };
        let mut rows = std::mem::take(&mut self.scratch);
        rows.clear();
        let step = ScanStep { partition: scan.partition, cursor: scan.cursor, program: scan.program, limit };
        match store.scan(&schema, &step, time, &mut rows) {
            Ok((cursor, count)) => {
                self.counters.scanned_rows += u64::from(count);
                let conf = ScanConf { request: scan.request, cursor, rows: count };
                link.send(Kind::ScanConf as u8, 0, |out| {
                    conf.encode(out);
                    out.put(&rows);
                });
            }
            Err(refusal) => {
                self.refuse_operation(client, scan.request, &in_program(&refusal));
            }
        }
        self.scratch = rows;
        Ok(())
    }

    /// A step of a scan by index. It waits as a step of a scan of a partition does.
    pub(super) fn on_range(&mut self, client: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let range = RangeReq::parse(body)?;
        if let Err(error) = self.check_range(&range).and_then(|()| self.check_load(client)) {
            self.refuse_operation(client, range.request, &error);
            return Ok(());
        }
        let uncertain = match range.view {
            Some(_) => self.uncertain_of(range.table),
            None => self.uncertain_in(range.partition),
        };
        if uncertain.is_empty() {
            return self.range_now(client, body);
        }
        self.observe_all(client, Kind::RangeReq, body, uncertain);
        Ok(())
    }

    /// Whether all that a step by index is about is served here, or why not.
    fn check_range(&mut self, range: &RangeReq<'_>) -> Result<(), Error> {
        self.check_serving(range.partition)?;
        let Some(view) = range.view else { return Ok(()) };
        #[cfg(feature = "mutations")]
        if self.mutated(crate::mutation::Mutation::ScanUnderAnyView) {
            return Ok(());
        }
        if view != self.view.number {
            let text = format!("node {} is in view {}, not {view}", self.own.node, self.view.number);
            return Err(Error::new(ErrorCode::PrimaryChanged, text));
        }
        if !self.serves_all() {
            let text = format!("node {} is taking partitions over", self.own.node);
            return Err(Error::new(ErrorCode::NotServing, text));
        }
        Ok(())
    }

    /// Whether it serves each partition of which it is the primary.
    fn serves_all(&mut self) -> bool {
        let (own, partitions) = (Some(self.own), &self.partitions);
        *self.all_served.get_or_insert_with(|| {
            partitions.iter().all(|partition| partition.serving || partition.primary != own)
        })
    }

    /// The open write sets of all partitions served here that may be committed already and have rows of this table.
    fn uncertain_of(&self, table: TableId) -> Vec<u32> {
        let open = self.write_sets.iter().filter(|(slot, write_set)| {
            self.partitions[usize::from(write_set.header.partition.0)].serving
                && self.may_be_committed(*slot)
                && write_set.images().any(|image| image.table == table)
        });
        open.map(|(slot, _)| slot).collect()
    }

    pub(super) fn range_now(&mut self, client: LinkId, body: &[u8]) -> Result<(), Malformed> {
        let range = RangeReq::parse(body)?;
        if let Err(error) = self.range_rows(client, &range) {
            self.refuse_operation(client, range.request, &error);
        }
        Ok(())
    }

    fn range_rows(&mut self, client: LinkId, range: &RangeReq<'_>) -> Result<(), Error> {
        self.check_range(range)?;
        self.check_load(client)?;
        let schema = self.schema(range.table, range.schema_version)?;
        self.counters.scans += 1;
        let step = RangeStep {
            index: range.index,
            range: &range.range,
            descending: range.descending,
            program: range.program,
            limit: limit(range.rows),
        };
        let serves = |partition: PartitionId| match range.view {
            Some(_) => self.partitions[usize::from(partition.0)].serving,
            None => partition == range.partition,
        };
        let mut rows = std::mem::take(&mut self.scratch);
        rows.clear();
        let scanned = self.store.scan_range(&schema, &step, serves, self.time, &mut rows);
        let answered = match scanned {
            Ok((rest, count)) => {
                self.counters.scanned_rows += u64::from(count);
                if let Some(link) = self.links.get_mut(client) {
                    let conf = RangeConf { request: range.request, rest, rows: count };
                    link.send(Kind::RangeConf as u8, 0, |out| {
                        conf.encode(out);
                        out.put(&rows);
                    });
                }
                Ok(())
            }
            Err(Some(refusal)) => Err(in_program(&refusal)),
            Err(None) => Err(match schema.index(range.index) {
                Some(index) => {
                    let text = format!("index {} of table {} is being built", index.name, schema.name);
                    Error::new(ErrorCode::NotServing, text)
                }
                None => {
                    let text = format!("table {} has no index number {} here", schema.name, range.index);
                    Error::new(ErrorCode::StaleSchema, text)
                }
            }),
        };
        self.scratch = rows;
        answered
    }
}
