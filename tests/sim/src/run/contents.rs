//! What the cluster holds once all is quiet, and whether it agrees with itself.

use std::collections::BTreeMap;

use twofold_apinode::request::{Answer, RangeStep, Request};
use twofold_proto::{
    ids::PartitionId,
    index::EntryRange,
    operation::{ResultRef, ReturnedRow},
    placement::PartitionMap,
    row::{RowRef, encode_row},
    schema::{Index, Schema},
    unique::{encode_entry_key, entries_table},
    value::Value,
    wire::Reader,
};

use super::Run;
use crate::{
    checkers::replicas::{Replicas, RowSummary},
    fault::newest_view,
    workload::{Rows, rows},
    world::{
        process::{Kind, Process},
        trace::Digest,
    },
};

impl Run<'_> {
    /// All rows, as a client reads them.
    pub(super) fn read_all(&mut self) -> Rows {
        let client = self.world.places(Kind::Client)[0];
        let catalog = self.world.processes()[client].client_machine().map(|client| client.catalog().clone());
        let mut all = Rows::new();
        for table in &catalog.expect("clients run in the end").tables {
            let schema = Schema::new(table.clone()).expect("the register checks tables");
            let mut found = self.read_table(client, &schema);
            for index in &table.indexes {
                let by_index = self.read_index(client, &schema, index);
                // Rows may expire meanwhile.
                let after = self.read_table(client, &schema);
                let extra = by_index.iter().find(|(row, read)| found.get(row) != Some(read));
                let missing = after.iter().find(|(row, read)| by_index.get(row) != Some(read));
                assert_eq!((extra, missing), (None, None), "index {} of {}", index.name, table.name);
                found = after;
            }
            for index in &table.indexes {
                self.check_entries(client, &schema, index);
            }
            all.insert(table.name.clone(), found);
        }
        all
    }

    fn read_table(&mut self, client: usize, schema: &Schema) -> BTreeMap<u64, rows::Row> {
        let mut found = BTreeMap::new();
        for partition in 0..self.scenario.config.partitions {
            self.read_partition(client, schema, PartitionId(partition), &mut found);
        }
        found
    }

    /// A unique index has the entries of all rows, and no others; no two rows have the same.
    fn check_entries(&mut self, client: usize, schema: &Schema, index: &Index) {
        let Some(entries) = entries_table(index) else { return };
        let entries = Schema::new(entries).expect("tables of entries make sense");
        let found = self.read_bodies(client, &entries);
        let mut expected = BTreeMap::new();
        for (key, body) in self.read_bodies(client, schema) {
            let row = RowRef::new(schema, schema.version, &key, &body).expect("rows are whole");
            let values = index.columns.iter().map(|&column| row.get(column).expect("rows are whole"));
            let mut entry = Vec::new();
            if encode_entry_key(schema, index, values, &mut entry).expect("rows fit") {
                let (_, body) =
                    encode_row(&entries, &[entry.clone().into(), key.clone().into()]).expect("it fits");
                let other = expected.insert(entry, body);
                assert_eq!(other, None, "two rows have the entry of {key:?} in {}", index.name);
            }
        }
        assert_eq!(found, expected, "unique index {} of {}", index.name, schema.table().name);
    }

    /// Keys and bodies of all rows.
    fn read_bodies(&mut self, client: usize, schema: &Schema) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut found = BTreeMap::new();
        for partition in 0..self.scenario.config.partitions {
            self.scan(client, schema, PartitionId(partition), |bytes| {
                let result =
                    ResultRef::parse(&mut Reader::new(bytes, "row")).expect("workers answer results");
                let Some(ReturnedRow::Whole { body, .. }) = result.before else { panic!("{result:?}") };
                found.insert(result.head.key.expect("rows have keys").to_vec(), body.to_vec());
            });
        }
        found
    }

    fn read_partition(
        &mut self,
        client: usize,
        schema: &Schema,
        partition: PartitionId,
        found: &mut BTreeMap<u64, rows::Row>,
    ) {
        self.scan(client, schema, partition, |bytes| {
            let read = rows::result(schema, bytes);
            let (row, value): (u64, Value) = read.row.zip(read.before).expect("rows have keys and columns");
            let twice = found.insert(row, rows::Row { value, version: read.version });
            assert!(twice.is_none(), "row {row} of {} is in two partitions", schema.table().name);
        });
    }

    /// Gives every row of a partition's primary replica to `each`, encoded.
    fn scan(&mut self, client: usize, schema: &Schema, partition: PartitionId, mut each: impl FnMut(&[u8])) {
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            let request = Request::ScanStep {
                table: schema.table().id,
                schema_version: schema.table().version,
                partition,
                cursor: from,
                rows: 0,
                program: rows::whole(),
                deadline: None,
            };
            let answer = self.ask(client, request);
            let Answer::Scan { cursor: next, rows } = answer else { panic!("{partition:?}: {answer:?}") };
            rows.iter().for_each(|bytes| each(bytes.expect("rows are whole")));
            cursor = next;
        }
    }

    /// All rows of a table, by index.
    fn read_index(&mut self, client: usize, schema: &Schema, index: &Index) -> BTreeMap<u64, rows::Row> {
        let mut found = BTreeMap::new();
        let mut rest = Some(EntryRange::default());
        while let Some(range) = rest {
            let step = RangeStep {
                table: schema.table().id,
                schema_version: schema.table().version,
                index: index.id,
                partition: None,
                range,
                descending: false,
                rows: 0,
                program: rows::whole(),
                deadline: None,
            };
            let answer = self.ask(client, Request::RangeStep(step));
            let Answer::Range { rest: left, rows } = answer else { panic!("{index:?}: {answer:?}") };
            for bytes in rows.iter() {
                let read = rows::result(schema, bytes.expect("rows are whole"));
                let (row, value) = read.row.zip(read.before).expect("rows have keys and columns");
                let twice = found.insert(row, rows::Row { value, version: read.version });
                assert!(twice.is_none(), "row {row} is twice in index {}", index.name);
            }
            rest = left;
        }
        found
    }

    /// Every replica's indexes have the rows that the replica has.
    pub(super) fn check_indexes(&self) {
        self.world
            .processes()
            .iter()
            .flat_map(Process::worker_machines)
            .for_each(|worker| worker.store().check_indexes());
    }

    /// The rows of every replica.
    pub(super) fn replicas(&self) -> Replicas {
        let view = newest_view(&self.world);
        let map = PartitionMap::new(self.world.config(), &view);
        let mut replicas = Replicas::new();
        for partition in (0..map.partitions()).map(PartitionId) {
            for replica in map.replicas(partition) {
                let node = replica.endpoint.node;
                let is = |process: &&Process| process.node == node && process.kind == Kind::Data;
                let process = self.world.processes().iter().find(is).expect("members have processes");
                let worker = process.worker_machines().nth(replica.endpoint.worker.0.into());
                let contents = worker.expect("placed on a worker that runs").store().contents(partition);
                let summary = |row: twofold_storage::store::RowContent| {
                    let mut hash = Digest::default();
                    hash.add_bytes(&row.body);
                    RowSummary {
                        table: row.table,
                        key: row.key,
                        version: row.version,
                        expiry: Some(row.expiry).filter(|expiry| expiry.0 > 0),
                        hash: hash.value(),
                    }
                };
                let rows = contents.into_iter().map(summary).collect();
                replicas.entry(partition).or_default().insert(node, rows);
            }
        }
        replicas
    }
}
