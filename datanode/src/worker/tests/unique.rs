//! Writes to a table with a unique index.

use twofold_proto::{
    error::Error,
    ids::{IndexId, PartitionId, TableId},
    schema::Index,
};

use super::*;

fn schema() -> Schema {
    let index = Index { id: IndexId(4), entries: Some(TableId(5)), ..Index::unique("by mail", vec![1]) };
    Schema::new(Table {
        id: TableId(3),
        name: "users".into(),
        version: 1,
        columns: vec![
            Column::new("id", ColumnType::U64),
            Column::new("mail", ColumnType::I64).nullable(),
            Column::new("n", ColumnType::I64),
        ],
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: vec![index],
    })
    .unwrap()
}

fn row(kind: OperationKind, id: u64, mail: ValueRef<'_>) -> Operation {
    let (key, body) = encode_row(&schema(), &[ValueRef::UInt(id), mail, ValueRef::Int(0)]).unwrap();
    let mut operation = Operation::new(kind, &schema(), key).unwrap();
    operation.row = Some(body);
    operation
}

fn insert(id: u64, mail: i64) -> Operation {
    row(OperationKind::Insert, id, ValueRef::Int(mail))
}

impl Cluster {
    fn with_users() -> Cluster {
        let mut cluster = Cluster::new(2);
        let mut catalog = Catalog { version: 2, next_table: 6, ..catalog() };
        catalog.tables.push(schema().table().clone());
        let catalog = Arc::new(catalog);
        for node in 0..2 {
            cluster.tell(node, ToWorker::Catalog(catalog.clone()));
        }
        cluster
    }

    /// Writes a row alone; what the client hears.
    fn alone(&mut self, request: u32, operation: &Operation) -> Heard {
        let node = self.write(request, operation);
        self.settle();
        self.hear(node).pop().expect("it is answered")
    }

    /// How many rows and entries there are.
    fn counts(&self) -> (usize, usize) {
        let rows = |table: TableId| {
            let contents = |number| self.nodes[0].worker.store.contents(PartitionId(number));
            (0..4).flat_map(contents).filter(|row| row.table == table).count()
        };
        (rows(TableId(3)), rows(TableId(5)))
    }
}

fn error(heard: &Heard) -> Error {
    assert_eq!(heard.0, Kind::OperationRef);
    operation_ref(&heard.1).unwrap().1
}

#[test]
fn a_second_row_with_the_same_value_is_refused() {
    let mut cluster = Cluster::with_users();
    assert_eq!(cluster.alone(1, &insert(1, 7)).0, Kind::WriteConf);
    let refused = error(&cluster.alone(2, &insert(2, 7)));
    let text = "table `users`, unique index `by mail`: another row has (7) already";
    assert_eq!((refused.code, &*refused.text), (ErrorCode::DuplicateEntry, text));
    // What an independent write refuses by itself is said as ever.
    let (kind, body) = cluster.alone(3, &insert(1, 9));
    let result = ResultRef::parse(&mut Reader::new(&body[4..], "test")).unwrap();
    assert_eq!((kind, result.head.code), (Kind::OperationConf, ResultCode::AlreadyExists));
    for id in [3, 4] {
        assert_eq!(
            cluster.alone(id, &row(OperationKind::Insert, id.into(), ValueRef::Null)).0,
            Kind::WriteConf
        );
    }
    cluster.epoch(2);
    cluster.settle();
    assert_eq!(cluster.counts(), (3, 1));
    assert!(cluster.nodes.iter().all(|node| node.worker.is_idle() && node.worker.locks.is_empty()));
}

#[test]
fn values_go_from_row_to_row() {
    let mut cluster = Cluster::with_users();
    for id in [1, 2] {
        cluster.alone(id, &insert(id.into(), id.into()));
    }
    let change = |id: u64, mail: i64| {
        let mut update = row(OperationKind::Update, id, ValueRef::Null);
        update.row = None;
        update.assign(1, Change::Set(ValueRef::Int(mail)));
        update
    };
    // Both at once, and one row twice.
    cluster.transaction(0, request(5, BEGIN | COMMIT), &[change(1, 9), change(2, 1), change(1, 2)]);
    cluster.settle();
    assert_eq!(cluster.hear(0)[0].0, Kind::TransactionConf);
    for (number, mail, taken) in [(11, 1, true), (12, 2, true), (13, 9, false)] {
        let heard = cluster.alone(number, &insert(number.into(), mail));
        assert_eq!(heard.0 == Kind::OperationRef, taken, "{mail}");
    }
}

#[test]
fn rows_that_would_expire_are_refused() {
    let mut cluster = Cluster::with_users();
    let mut expiring = insert(1, 7);
    expiring.expiry = Some(ClusterTime(1 << 50));
    assert_eq!(error(&cluster.alone(1, &expiring)).code, ErrorCode::NotSupported);
    assert_eq!(cluster.counts(), (0, 0));
}
