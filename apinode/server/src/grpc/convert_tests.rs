use twofold_proto::{
    ids::TableId,
    message::Catalog,
    operation::{Assignment, OperationRef},
    placement::KeyHash,
    schema::{Column, Table},
    wire::Reader,
};

use super::*;
use pb::{operation::Kind, value::Kind as ValueKind};

const NOW: ClusterTime = ClusterTime(1000);

fn tables() -> Tables {
    let column = |name: &str, column_type| Column::new(name, column_type);
    let table = Table {
        id: TableId(7),
        name: "t".into(),
        version: 1,
        columns: vec![
            column("id", ColumnType::U32),
            column("name", ColumnType::Text { max_chars: 5 }).nullable(),
            column("n", ColumnType::I16),
            column("d", ColumnType::I64).with_default(ValueRef::Int(9)),
        ],
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
    };
    Tables::new(&Catalog { version: 1, tables: vec![table], next_table: 8 }, 4).unwrap()
}

fn int(value: i64) -> pb::Value {
    pb::Value { kind: Some(ValueKind::IntValue(value)) }
}

fn text(value: &str) -> pb::Value {
    pb::Value { kind: Some(ValueKind::TextValue(value.into())) }
}

fn named(values: &[(&str, pb::Value)]) -> Named {
    values.iter().map(|(name, value)| (name.to_string(), value.clone())).collect()
}

fn on(table: &str, kind: Kind) -> pb::Operation {
    pb::Operation { table: table.into(), kind: Some(kind) }
}

fn convert_one(kind: Kind) -> Result<Assembled, Failure> {
    operations(&tables(), NOW, &[on("t", kind)])
}

fn fault(kind: Kind) -> String {
    let failure = convert_one(kind).unwrap_err();
    assert_eq!(failure.operation, Some(0));
    format!("{}: {}", failure.error.code, failure.error.text)
}

fn insert(values: &[(&str, pb::Value)]) -> Kind {
    Kind::Insert(pb::Insert { row: named(values), ..Default::default() })
}

fn update(assignments: pb::Assignments) -> Kind {
    Kind::Update(pb::Update { key: vec![int(1)], assignments: Some(assignments), ..Default::default() })
}

#[test]
fn an_insert_is_a_whole_row() {
    let converted = convert_one(Kind::Insert(pb::Insert {
        row: named(&[("ID", int(1)), ("n", int(-2))]),
        expiry: Some(pb::insert::Expiry::ExpireInMs(50)),
        return_new: Some(pb::Columns { names: vec!["n".into(), "id".into()] }),
    }))
    .unwrap();
    let mut reader = Reader::new(&converted.operations.bytes, "operation");
    let operation = OperationRef::parse(&mut reader).unwrap();
    assert!(reader.is_empty());
    assert_eq!(
        (operation.kind, operation.table, operation.schema_version),
        (OperationKind::Insert, TableId(7), 1)
    );
    assert_eq!(operation.key, [0, 0, 0, 1]);
    assert_eq!(operation.hash, KeyHash::of(&[0, 0, 0, 1]));
    let body = operation.parse_body().unwrap();
    assert_eq!(body.expiry, Some(ClusterTime(1050)));
    assert_eq!(body.after.columns().collect::<Vec<_>>(), [2, 0]);
    // name is NULL, n is -2, d its default.
    assert_eq!(body.row.unwrap(), [1, 0xfe, 0xff, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((converted.operations.count, converted.locks), (1, false));
    assert_eq!(converted.shapes[0].after, [2, 0]);
}

#[test]
fn an_update_has_its_assignments_and_conditions() {
    let condition = pb::condition::Kind::Any(pb::condition::List {
        conditions: vec![
            pb::Condition { kind: Some(pb::condition::Kind::IsNull("name".into())) },
            pb::Condition {
                kind: Some(pb::condition::Kind::Compare(pb::condition::Compare {
                    column: "n".into(),
                    comparator: pb::Comparator::Less.into(),
                    value: Some(int(3)),
                })),
            },
        ],
    });
    let converted = convert_one(Kind::Update(pb::Update {
        key: vec![int(1)],
        assignments: Some(pb::Assignments {
            set: named(&[("n", int(4))]),
            add: named(&[("d", int(-1))]),
            append: named(&[("name", text("x"))]),
            ..Default::default()
        }),
        conditions: vec![pb::Condition { kind: Some(condition) }],
        ..Default::default()
    }))
    .unwrap();
    let mut reader = Reader::new(&converted.operations.bytes, "operation");
    let body = OperationRef::parse(&mut reader).unwrap().parse_body().unwrap();
    let assignments: Vec<_> = body.assignments.unwrap().iter().map(Result::unwrap).collect();
    let assign = |column, change| Assignment { column, change };
    let expected = [
        assign(2, Change::Set(ValueRef::Int(4))),
        assign(3, Change::Add(ValueRef::Int(-1))),
        assign(1, Change::Append(ValueRef::from("x"))),
    ];
    assert_eq!(assignments, expected);
    let mut filter = FilterBuilder::new();
    filter.any(|any| any.is_null(1).compare(2, Comparison::Less, &ValueRef::Int(3)));
    assert_eq!(body.conditions, filter.filter());
}

#[test]
fn reads_lock_and_choose() {
    let read = |lock: pb::Lock| pb::Read {
        key: vec![int(1)],
        lock: lock.into(),
        version: true,
        ..Default::default()
    };
    let converted = convert_one(Kind::Read(read(pb::Lock::Exclusive))).unwrap();
    let operation = OperationRef::parse(&mut Reader::new(&converted.operations.bytes, "operation")).unwrap();
    assert_eq!((operation.lock, converted.locks), (LockMode::Exclusive, true));
    assert!(operation.parse_body().unwrap().version);
    assert_eq!(converted.shapes[0].before, [0, 1, 2, 3]);
    assert!(!convert_one(Kind::Read(read(pb::Lock::None))).unwrap().locks);
}

#[test]
fn what_is_wrong_is_named() {
    let row = |more: &[(&str, pb::Value)]| insert(&[&[("id", int(1)), ("n", int(1))], more].concat());
    let set =
        |name: &str, value| update(pb::Assignments { set: named(&[(name, value)]), ..Default::default() });
    let key = |key: Vec<pb::Value>| Kind::Delete(pb::Delete { key, ..Default::default() });
    let columns = |names: &[&str]| {
        let names = names.iter().map(|name| name.to_string()).collect();
        Kind::Read(pb::Read { key: vec![int(1)], columns: Some(pb::Columns { names }), ..Default::default() })
    };
    let condition = |kind| {
        let conditions = vec![pb::Condition { kind }];
        Kind::Read(pb::Read { key: vec![int(1)], conditions, ..Default::default() })
    };
    let cases = [
        (row(&[("x", int(1))]), "TF-1007: table `t` has no column `x`"),
        (row(&[("N", int(1))]), "TF-1007: column `n` of table `t` is named twice"),
        (insert(&[("n", int(1))]), "TF-1008: a row of table `t` needs a value for column `id`"),
        (insert(&[("id", int(1))]), "TF-1008: a row of table `t` needs a value for column `n`"),
        (
            row(&[("name", text("too long"))]),
            "TF-1008: table `t`, column `name`: the value is longer than the column, which takes text of at most 5 \
             characters; \"too long\", 8 characters, was given",
        ),
        (
            row(&[("d", text("x"))]),
            "TF-1008: table `t`, column `d`: the value has another type than the column, which takes whole numbers from -9223372036854775808 to 9223372036854775807; \"x\", 1 character, was given",
        ),
        (row(&[("d", pb::Value::default())]), "TF-1008: a value is not set; say null_value for NULL"),
        (
            insert(&[("id", int(-1)), ("n", int(1))]),
            "TF-1008: table `t`, column `id`: the number does not fit the column, which takes whole numbers from 0 to 4294967295; -1 was given",
        ),
        (key(vec![]), "TF-1008: the primary key of table `t` has 1 column, not 0"),
        (
            key(vec![text("x")]),
            "TF-1008: table `t`, column `id`: the value has another type than the column, which takes whole numbers from 0 to 4294967295; \"x\", 1 character, was given",
        ),
        (set("id", int(1)), "TF-1007: column `id` of table `t` is in the primary key, which stays"),
        (
            set("n", pb::Value { kind: Some(ValueKind::NullValue(true)) }),
            "TF-1008: table `t`, column `n`: the column does not allow NULL",
        ),
        (
            update(pb::Assignments {
                set: named(&[("n", int(1))]),
                add: named(&[("N", int(1))]),
                ..Default::default()
            }),
            "TF-1007: column `n` of table `t` is named twice",
        ),
        (columns(&["n", "q"]), "TF-1007: table `t` has no column `q`"),
        (columns(&["n", "n"]), "TF-1007: column `n` of table `t` is named twice"),
        (condition(None), "TF-1001: a condition is empty"),
        (condition(Some(pb::condition::Kind::IsNull("q".into()))), "TF-1007: table `t` has no column `q`"),
        (
            condition(Some(pb::condition::Kind::Compare(pb::condition::Compare {
                column: "n".into(),
                comparator: pb::Comparator::Equal.into(),
                value: Some(text("x")),
            }))),
            "TF-1008: table `t`, column `n`: the value has another type than the column, which takes whole numbers from -32768 to 32767; \"x\", 1 character, was given",
        ),
        (
            condition(Some(pb::condition::Kind::Version(pb::condition::VersionIs::default()))),
            "TF-1001: a condition does not say how to compare",
        ),
        (
            Kind::Read(pb::Read { key: vec![int(1)], lock: 9, ..Default::default() }),
            "TF-1001: there is no lock 9",
        ),
    ];
    for (kind, expected) in cases {
        assert_eq!(fault(kind), expected);
    }
    let missing = operations(&tables(), NOW, &[on("u", insert(&[])), on("t", insert(&[]))]).unwrap_err();
    assert_eq!(missing.error.text, "there is no table `u`");
    let empty = operations(&tables(), NOW, &[pb::Operation { table: "t".into(), kind: None }]).unwrap_err();
    assert_eq!(empty.error.text, "an operation does not say what to do");
}

#[test]
fn requests_are_bounded() {
    let many = vec![on("t", Kind::Delete(pb::Delete { key: vec![int(1)], ..Default::default() })); 16_385];
    let failure = operations(&tables(), NOW, &many).unwrap_err();
    assert_eq!(failure.error.text, "a request has 16385 operations; the most is 16384");
    assert!(operations(&tables(), NOW, &many[1..]).is_ok());
    // Bytes, in one operation and in all.
    let list = vec![pb::Condition { kind: Some(pb::condition::Kind::IsNull("n".into())) }; 1_000_000];
    let delete = pb::Delete { key: vec![int(1)], conditions: list, ..Default::default() };
    assert!(fault(Kind::Delete(delete)).starts_with("TF-1004: an operation on table `t` has more than"));
    let list = vec![pb::Condition { kind: Some(pb::condition::Kind::IsNull("n".into())) }; 600_000];
    let delete =
        on("t", Kind::Delete(pb::Delete { key: vec![int(1)], conditions: list, ..Default::default() }));
    let failure = operations(&tables(), NOW, &vec![delete; 10]).unwrap_err();
    assert_eq!((failure.error.code, failure.operation), (ErrorCode::TooLarge, Some(9)));
}

#[test]
fn conditions_are_not_endlessly_deep() {
    let mut kind = pb::condition::Kind::Exists(true);
    for _ in 0..17 {
        let conditions = vec![pb::Condition { kind: Some(kind) }];
        kind = pb::condition::Kind::All(pb::condition::List { conditions });
    }
    let read = pb::Read {
        key: vec![int(1)],
        conditions: vec![pb::Condition { kind: Some(kind) }],
        ..Default::default()
    };
    assert_eq!(fault(Kind::Read(read)), "TF-1001: conditions are nested deeper than 16");
}

#[test]
fn options_are_checked() {
    let read = |options: pb::Options, call| options_of(&options, call);
    fn options_of(given: &pb::Options, call: Option<Duration>) -> Result<(Options, Isolation), String> {
        options(&tables(), Some(given), call).map_err(|error| format!("{}: {}", error.code, error.text))
    }
    let disk = pb::Options { durability: pb::Durability::Disk.into(), ..Default::default() };
    assert_eq!(read(disk, None).unwrap().0.durability, Durability::Disk);
    let hint = pb::Hint { table: "t".into(), distribution_key: vec![int(1)] };
    let given = pb::Options { deadline_ms: 100, isolation: 1, hint: Some(hint), ..Default::default() };
    let (options, isolation) = read(given, Some(Duration::from_millis(30))).unwrap();
    assert_eq!(options.deadline, Some(Duration::from_millis(30)));
    assert_eq!(options.hint, Some(KeyHash::of(&[0, 0, 0, 1])));
    assert_eq!(isolation, Isolation::Serializable);
    let hint = pb::Hint { table: "t".into(), distribution_key: vec![] };
    let given = pb::Options { hint: Some(hint), ..Default::default() };
    assert_eq!(read(given, None), Err("TF-1008: the distribution key of table `t` has 1 column".into()));
    assert_eq!(read(pb::Options::default(), None), Ok((Options::default(), Isolation::ReadCommitted)));
}
