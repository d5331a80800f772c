use proptest::prelude::*;
use twofold_proto::{
    filter::{Comparison, FilterBuilder},
    ids::{Epoch, TableId},
    operation::{Columns, Operation, ResultRef},
    row::encode_row,
    schema::{Column, ColumnType, Table},
    value::Value,
    wire::Reader,
};

use super::*;

const NOW: ClusterTime = ClusterTime(1000);

fn table() -> Table {
    Table {
        id: TableId(3),
        name: "items".into(),
        version: 2,
        columns: vec![
            Column::new("k", ColumnType::U32),
            Column::new("n", ColumnType::I16),
            Column::new("text", ColumnType::Text { max_chars: 12 }).nullable(),
            Column::new("bytes", ColumnType::Binary { max_bytes: 24 }),
            Column::new("ratio", ColumnType::F64).nullable(),
            Column { since: 2, ..Column::new("u", ColumnType::U64).with_default(Value::UInt(9)) },
        ],
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
    }
}

fn text(text: &str) -> Value {
    Value::from(text.to_owned())
}

fn binary(bytes: &[u8]) -> Value {
    Value::from(bytes.to_vec())
}

fn values() -> Vec<Value> {
    vec![Value::UInt(1), Value::Int(5), Value::Null, binary(b"10"), Value::Float(0.5), Value::UInt(7)]
}

/// A row that owns its bytes.
#[derive(Clone)]
struct Row {
    schema_version: u32,
    key: Vec<u8>,
    body: Vec<u8>,
    expiry: u64,
}

const VERSION: Version = Version { epoch: Epoch(4), number: 2 };

/// A table, a row of it or none, and what an operation makes of it.
struct Bench {
    schema: Schema,
    row: Option<Row>,
}

/// What came of an operation.
#[derive(PartialEq, Debug)]
struct Outcome {
    action: Result<Action, Refusal>,
    new: Option<Vec<Value>>,
    result: Vec<u8>,
}

impl Outcome {
    fn result(&self) -> ResultRef<'_> {
        let mut reader = Reader::new(&self.result, "result");
        let result = ResultRef::parse(&mut reader).unwrap();
        reader.finish().unwrap();
        result
    }

    fn code(&self) -> (ResultCode, Option<u16>) {
        let refusal = self.action.unwrap_err();
        let head = self.result().head;
        assert_eq!((head.code, head.column), (refusal.code, refusal.column));
        (refusal.code, refusal.column)
    }

    fn new_value(&self, column: usize) -> Value {
        assert!(matches!(self.action, Ok(Action::Put { .. })), "{self:?}");
        self.new.as_ref().unwrap()[column].clone()
    }
}

impl Bench {
    fn with(values: &[Value]) -> Bench {
        let schema = Schema::new(table()).unwrap();
        let (key, body) = encode_row(&schema, values).unwrap();
        Bench { schema, row: Some(Row { schema_version: 2, key, body, expiry: 0 }) }
    }

    fn empty() -> Bench {
        Bench { schema: Schema::new(table()).unwrap(), row: None }
    }

    fn operation(&self, kind: OperationKind) -> Operation {
        let mut operation = Operation::new(kind, &self.schema, vec![0, 0, 0, 1]).unwrap();
        if matches!(kind, OperationKind::Insert | OperationKind::Write) {
            operation.row = Some(encode_row(&self.schema, &values()).unwrap().1);
        }
        operation
    }

    fn run(&self, operation: &Operation) -> Outcome {
        self.run_bytes(&operation.to_bytes())
    }

    fn run_bytes(&self, bytes: &[u8]) -> Outcome {
        let operation = OperationRef::parse(&mut Reader::new(bytes, "operation")).unwrap();
        let current = self.row.as_ref().map(|row| CurrentRow {
            row: RowRef::new(&self.schema, row.schema_version, &row.key, &row.body).unwrap(),
            schema_version: row.schema_version,
            version: VERSION,
            expiry: ClusterTime(row.expiry),
        });
        let (mut body, mut result) = (vec![0xee], vec![]);
        let action = evaluate(&self.schema, &operation, current.as_ref(), NOW, &mut body, &mut result);
        let put = matches!(action, Ok(Action::Put { .. }));
        let new = put.then(|| {
            check_row(&self.schema, operation.key, &body).unwrap();
            RowRef::new(&self.schema, self.schema.version, operation.key, &body).unwrap().values().unwrap()
        });
        Outcome { action, new, result }
    }

    /// An Update of one column.
    fn change(&self, column: u16, change: Change<'_>) -> Outcome {
        let mut update = self.operation(OperationKind::Update);
        update.assign(column, change);
        self.run(&update)
    }
}

const NEVER: ClusterTime = ClusterTime(0);

#[test]
fn what_has_to_be_there() {
    use OperationKind::*;
    let (full, empty) = (Bench::with(&values()), Bench::empty());
    let action =
        |bench: &Bench, kind| bench.run(&bench.operation(kind)).action.map_err(|refusal| refusal.code);
    let put = Ok(Action::Put { expiry: NEVER });
    let kinds = [Read, Insert, Update, Write, Delete];
    let missing = Err(ResultCode::NotFound);
    assert_eq!(
        kinds.map(|kind| action(&full, kind)),
        [Ok(Action::Nothing), Err(ResultCode::AlreadyExists), put, put, Ok(Action::Delete)]
    );
    assert_eq!(kinds.map(|kind| action(&empty, kind)), [missing, put, missing, put, missing]);
    let mut expired = Bench::with(&values());
    expired.row.as_mut().unwrap().expiry = NOW.0;
    assert_eq!(kinds.map(|kind| action(&expired, kind)), [missing, put, missing, put, missing]);
    expired.row.as_mut().unwrap().expiry = NOW.0 + 1;
    assert_eq!(action(&expired, Read), Ok(Action::Nothing));
}

#[test]
fn a_result_says_no_more_than_asked() {
    let full = Bench::with(&values());
    let update = full.change(1, Change::Add(Value::Int(1)));
    assert_eq!(update.result.len(), 2);
    assert!(update.result().head.existed && update.result().head.changed);
    assert!(!full.change(1, Change::Add(Value::Int(0))).result().head.changed);
    let insert = Bench::empty().run(&full.operation(OperationKind::Insert));
    assert!(!insert.result().head.existed && insert.result().head.changed);
}

#[test]
fn reads_return_what_they_ask_for() {
    let mut full = Bench::with(&values());
    full.row.as_mut().unwrap().expiry = 5000;
    let mut read = full.operation(OperationKind::Read);
    read.before = Columns::List(vec![1, 0]);
    let outcome = full.run(&read);
    let result = outcome.result();
    assert_eq!((result.head.version, result.head.expiry), (None, NEVER));
    let returned: Vec<_> = result.before.unwrap().values().map(Result::unwrap).collect();
    assert_eq!(returned, [Value::Int(5), Value::UInt(1)]);
    read.before = Columns::All;
    read.version = true;
    let outcome = full.run(&read);
    let result = outcome.result();
    assert_eq!((result.head.version, result.head.expiry), (Some(VERSION), ClusterTime(5000)));
    let body = &full.row.as_ref().unwrap().body[..];
    assert_eq!(result.before, Some(ReturnedRow::Whole { schema_version: 2, body }));
    read.before = Columns::List(vec![1, 6]);
    assert_eq!(full.run(&read).code(), (ResultCode::Malformed, Some(6)));
}

#[test]
fn writes_return_before_and_after() {
    let full = Bench::with(&values());
    let mut update = full.operation(OperationKind::Update);
    update.assign(1, Change::Add(Value::Int(2)));
    update.before = Columns::List(vec![1]);
    update.after = Columns::List(vec![1]);
    let outcome = full.run(&update);
    let value = |row: Option<ReturnedRow<'_>>| row.unwrap().values().next().unwrap().unwrap().into_owned();
    assert_eq!(value(outcome.result().before), Value::Int(5));
    assert_eq!(value(outcome.result().after), Value::Int(7));
    let mut insert = full.operation(OperationKind::Insert);
    insert.before = Columns::List(vec![3]);
    insert.version = true;
    let outcome = full.run(&insert);
    assert_eq!(outcome.code(), (ResultCode::AlreadyExists, None));
    assert_eq!(outcome.result().head.version, Some(VERSION));
    assert_eq!(value(outcome.result().before), binary(b"10"));
}

#[test]
fn expiry_is_set_or_stays() {
    let mut full = Bench::with(&values());
    full.row.as_mut().unwrap().expiry = 5000;
    let mut touch = full.operation(OperationKind::Update);
    assert_eq!(full.run(&touch).action, Ok(Action::Put { expiry: ClusterTime(5000) }));
    touch.expiry = Some(ClusterTime(0));
    let touched = full.run(&touch);
    assert_eq!((touched.action, touched.result().head.changed), (Ok(Action::Put { expiry: NEVER }), true));
    let mut write = full.operation(OperationKind::Write);
    assert_eq!(full.run(&write).action, Ok(Action::Put { expiry: NEVER }));
    write.expiry = Some(ClusterTime(7000));
    assert_eq!(full.run(&write).action, Ok(Action::Put { expiry: ClusterTime(7000) }));
}

#[test]
fn a_write_may_change_what_is_there() {
    let mut changed = values();
    changed[1] = Value::Int(50);
    let full = Bench::with(&changed);
    let mut write = full.operation(OperationKind::Write);
    assert_eq!(full.run(&write).new_value(1), Value::Int(5));
    write.assign(1, Change::Add(Value::Int(1)));
    assert_eq!(full.run(&write).new_value(1), Value::Int(51));
    assert_eq!(Bench::empty().run(&write).new_value(1), Value::Int(5));
}

#[test]
fn numbers_are_added_in_range() {
    let full = Bench::with(&values());
    let add = |column: u16, number: Value| full.change(column, Change::Add(number));
    assert_eq!(add(1, Value::Int(-6)).new_value(1), Value::Int(-1));
    assert_eq!(add(1, Value::UInt(32_762)).new_value(1), Value::Int(32_767));
    assert_eq!(add(1, Value::UInt(32_763)).code(), (ResultCode::OutOfRange, Some(1)));
    assert_eq!(add(5, Value::Int(-8)).code(), (ResultCode::OutOfRange, Some(5)));
    assert_eq!(add(5, Value::UInt(u64::MAX - 7)).new_value(5), Value::UInt(u64::MAX));
    assert_eq!(add(5, Value::UInt(u64::MAX - 6)).code(), (ResultCode::OutOfRange, Some(5)));
    assert_eq!(add(4, Value::Int(1)).new_value(4), Value::Float(1.5));
    assert_eq!(add(4, Value::Null).new_value(4), Value::Null);
    assert_eq!(add(1, Value::Null).code(), (ResultCode::NullValue, Some(1)));
    assert_eq!(add(1, Value::Float(1.0)).code(), (ResultCode::WrongType, Some(1)));
    assert_eq!(add(3, Value::Int(1)).code(), (ResultCode::WrongType, Some(3)));
    assert_eq!(add(2, Value::Int(1)).new_value(2), Value::Null);
    let mut most = values();
    most[4] = Value::Float(f64::MAX);
    let sum = Bench::with(&most).change(4, Change::Add(Value::Float(f64::MAX)));
    assert_eq!(sum.code(), (ResultCode::OutOfRange, Some(4)));
}

#[test]
fn bytes_are_joined() {
    let mut row = values();
    row[2] = text("b");
    let full = Bench::with(&row);
    assert_eq!(full.change(2, Change::Append(text("\u{e4}"))).new_value(2), text("b\u{e4}"));
    assert_eq!(full.change(2, Change::Prepend(text("a"))).new_value(2), text("ab"));
    assert_eq!(full.change(3, Change::Append(binary(&[0]))).new_value(3), binary(b"10\0"));
    assert_eq!(full.change(3, Change::Prepend(text("x"))).new_value(3), binary(b"x10"));
    assert_eq!(full.change(2, Change::Append(binary(b"c"))).code(), (ResultCode::WrongType, Some(2)));
    assert_eq!(full.change(1, Change::Append(text("1"))).code(), (ResultCode::WrongType, Some(1)));
    assert_eq!(
        full.change(2, Change::Append(text("123456789012"))).code(),
        (ResultCode::ValueTooLong, Some(2))
    );
    assert_eq!(full.change(2, Change::Append(Value::Null)).new_value(2), Value::Null);
    assert_eq!(Bench::with(&values()).change(2, Change::Append(text("c"))).new_value(2), Value::Null);
}

#[test]
fn digits_are_counted_as_memcached_does() {
    let count = |now: &str, change: Change<'static>| {
        let mut row = values();
        row[3] = binary(now.as_bytes());
        let outcome = Bench::with(&row).change(3, change);
        match outcome.action {
            Ok(_) => String::from_utf8(outcome.new_value(3).as_bytes().unwrap().to_vec()).unwrap(),
            Err(_) => format!("{:?}", outcome.code().0),
        }
    };
    let (increment, decrement) = (Change::Increment, Change::Decrement);
    assert_eq!(count("99", increment(1)), "100");
    assert_eq!(count("10", decrement(1)), "9 ");
    assert_eq!(count("9 ", increment(1)), "10");
    assert_eq!(count("5", decrement(6)), "0");
    assert_eq!(count("18446744073709551615", increment(1)), format!("{:<20}", 0));
    assert_eq!(count("18446744073709551615", increment(u64::MAX)), "18446744073709551614");
    assert_eq!(count(" +7 x", increment(1)), "8    ");
    for bad in ["", " ", "x", "7x", "-1", "+", "18446744073709551616", "1.5"] {
        assert_eq!(count(bad, increment(1)), "NotANumber", "{bad:?}");
    }
    let full = Bench::with(&values());
    assert_eq!(full.change(1, increment(1)).code(), (ResultCode::WrongType, Some(1)));
    let mut row = values();
    row[2] = text("41");
    assert_eq!(Bench::with(&row).change(2, increment(1)).new_value(2), text("42"));
}

#[test]
fn assignments_are_refused_by_column() {
    let full = Bench::with(&values());
    let set = |column: u16, value: Value| full.change(column, Change::Set(value));
    assert_eq!(set(0, Value::UInt(1)).code(), (ResultCode::Malformed, Some(0)));
    assert_eq!(set(6, Value::UInt(1)).code(), (ResultCode::Malformed, Some(6)));
    assert_eq!(set(1, Value::Null).code(), (ResultCode::NullValue, Some(1)));
    assert_eq!(set(1, Value::Int(40_000)).code(), (ResultCode::OutOfRange, Some(1)));
    assert_eq!(set(2, Value::Int(1)).code(), (ResultCode::WrongType, Some(2)));
    assert_eq!(set(3, binary(&[0; 25])).code(), (ResultCode::ValueTooLong, Some(3)));
    let mut insert = full.operation(OperationKind::Insert);
    insert.row.as_mut().unwrap().push(0);
    assert_eq!(Bench::empty().run(&insert).code(), (ResultCode::Malformed, None));
    insert.schema_version = 1;
    assert_eq!(Bench::empty().run(&insert).code(), (ResultCode::SchemaChanged, None));
}

#[test]
fn an_old_row_takes_the_new_layout() {
    let mut old = table();
    (old.version, old.columns) = (1, old.columns[..5].to_vec());
    let (key, body) = encode_row(&Schema::new(old).unwrap(), &values()[..5]).unwrap();
    let row = Some(Row { schema_version: 1, key, body, expiry: 0 });
    let bench = Bench { schema: Schema::new(table()).unwrap(), row };
    let outcome = bench.change(1, Change::Add(Value::Int(0)));
    assert_eq!((outcome.new_value(5), outcome.new_value(4)), (Value::UInt(9), Value::Float(0.5)));
    let mut read = bench.operation(OperationKind::Read);
    read.before = Columns::All;
    let outcome = bench.run(&read);
    assert!(matches!(outcome.result().before, Some(ReturnedRow::Whole { schema_version: 1, .. })));
}

#[test]
fn conditions() {
    let (full, empty) = (Bench::with(&values()), Bench::empty());
    let holds = |bench: &Bench, build: &dyn Fn(&mut FilterBuilder) -> &mut FilterBuilder| {
        let mut write = bench.operation(OperationKind::Write);
        build(&mut write.conditions);
        let outcome = bench.run(&write);
        match outcome.action {
            Ok(_) => Ok(true),
            Err(_) if outcome.code().0 == ResultCode::ConditionFalse => Ok(false),
            Err(refusal) => Err(refusal),
        }
    };
    let both = |build: &dyn Fn(&mut FilterBuilder) -> &mut FilterBuilder| {
        (holds(&full, build), holds(&empty, build))
    };
    let compare = |column, comparison, value: Value| both(&|c| c.compare(column, comparison, &value));
    let (yes, no) = (Ok(true), Ok(false));
    assert_eq!(compare(1, Comparison::Equal, Value::UInt(5)), (yes, no));
    assert_eq!(compare(1, Comparison::Less, Value::Float(5.5)), (yes, no));
    assert_eq!(compare(1, Comparison::NotEqual, Value::Int(5)), (no, no));
    assert_eq!(compare(0, Comparison::GreaterOrEqual, Value::Int(1)), (yes, no));
    assert_eq!(compare(2, Comparison::NotEqual, text("x")), (no, no));
    assert_eq!(compare(1, Comparison::Equal, Value::Null), (no, no));
    let wrong = Err(Refusal { code: ResultCode::WrongType, column: Some(1) });
    assert_eq!(compare(1, Comparison::Equal, text("5")), (wrong, no));
    assert_eq!(both(&|c| c.is_null(2)), (yes, no));
    assert_eq!(both(&|c| c.is_not_null(2)), (no, no));
    assert_eq!(both(&|c| c.is_not_null(1)), (yes, no));
    assert_eq!(both(&|c| c.exists()), (yes, no));
    assert_eq!(both(&|c| c.absent()), (no, yes));
    assert_eq!(both(&|c| c.exists().absent()), (no, no));
    assert_eq!(both(&|c| c.any(|c| c.exists().absent())), (yes, yes));
    assert_eq!(both(&|c| c.any(|c| c)), (no, no));
    assert_eq!(both(&|c| c.all(|c| c)), (yes, yes));
    assert_eq!(both(&|c| c.version(Comparison::Equal, VERSION)), (yes, no));
    let later = Version { epoch: Epoch(5), number: 0 };
    assert_eq!(both(&|c| c.version(Comparison::Less, later)), (yes, no));
    assert_eq!(both(&|c| c.version(Comparison::Equal, later)), (no, no));
    let malformed = Err(Refusal { code: ResultCode::Malformed, column: Some(77) });
    assert_eq!(holds(&full, &|c| c.is_null(77)), malformed);
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| {
        let mut list = FilterBuilder::new();
        for _ in 0..depth {
            let inner = std::mem::take(&mut list);
            list.all(|list| inner.filter().conditions().fold(list, |list, c| list.condition(&c.unwrap())));
        }
        holds(&list.filter(), None)
    };
    assert_eq!(nested(FILTER_DEPTH_MAX), Ok(true));
    assert_eq!(nested(FILTER_DEPTH_MAX + 1), Err(ResultCode::Malformed.into()));
}

#[test]
fn scanned_rows_have_their_key() {
    let full = Bench::with(&values());
    let row = full.row.as_ref().unwrap();
    let row_ref = RowRef::new(&full.schema, 2, &row.key, &row.body).unwrap();
    let current = CurrentRow { row: row_ref, schema_version: 2, version: VERSION, expiry: NEVER };
    let mut out = Vec::new();
    append_scanned(&current, &BodyRef { before: Projection::All, ..BodyRef::default() }, &mut out).unwrap();
    let result = ResultRef::parse(&mut Reader::new(&out, "result")).unwrap();
    assert_eq!((result.head.key, result.head.version), (Some(&row.key[..]), None));
    assert_eq!(result.before, Some(ReturnedRow::Whole { schema_version: 2, body: &row.body }));
    let mut out = vec![1];
    let unknown = BodyRef { before: Projection::Columns(&[9, 0]), ..BodyRef::default() };
    append_scanned(&current, &unknown, &mut out).unwrap_err();
    assert_eq!(out, [1]);
}

#[test]
fn rows_stay_below_the_limit() {
    let mut large = table();
    large.columns[3].column_type = ColumnType::Binary { max_bytes: u32::MAX };
    let schema = Schema::new(large).unwrap();
    let mut row = values();
    row[3] = Value::from(vec![b'x'; ROW_BYTES_MAX - 40]);
    let (key, body) = encode_row(&schema, &row).unwrap();
    let bench = Bench { schema, row: Some(Row { schema_version: 2, key, body, expiry: 0 }) };
    assert!(bench.change(3, Change::Append(binary(b"y"))).action.is_ok());
    let outcome = bench.change(3, Change::Append(binary(&[b'y'; 60])));
    assert_eq!(outcome.code(), (ResultCode::RowTooBig, Some(3)));
}

proptest! {
    /// Whatever the bytes, there is one well-formed result, which says what evaluate returned; and a row that is put
    /// is a row of the table.
    #[test]
    fn hostile_operations_are_answered(
        kind in 0usize..5, noise in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        there: bool,
    ) {
        use OperationKind::*;
        let bench = if there { Bench::with(&values()) } else { Bench::empty() };
        let kind = [Read, Insert, Update, Write, Delete][kind];
        let mut operation = bench.operation(kind);
        operation.version = true;
        operation.before = Columns::List(vec![1, 2]);
        if kind != Insert {
            operation.conditions.compare(1, Comparison::Less, &Value::Int(6)).any(|any| any.is_null(2).absent());
        }
        if matches!(kind, Update | Write) {
            operation.assign(1, Change::Add(Value::Int(3))).assign(3, Change::Append(binary(b"xyz")));
            operation.after = Columns::All;
        }
        let mut bytes = operation.to_bytes();
        // Behind the header and the key, so that there still is an operation to evaluate.
        let body = 36..bytes.len();
        prop_assume!(!body.is_empty());
        for (at, byte) in noise {
            bytes[body.start + at.index(body.len())] = byte;
        }
        let outcome = bench.run_bytes(&bytes);
        let expected = outcome.action.map_or_else(|refusal| refusal.code, |_| ResultCode::Ok);
        prop_assert_eq!(outcome.result().head.code, expected);
        prop_assert_eq!(outcome.result().head.existed, there);
    }

    #[test]
    fn updates_equal_their_model(
        start in -300i16..300, steps in proptest::collection::vec((0u8..4, -20_000i64..20_000), 1..6),
    ) {
        let mut row = values();
        row[1] = Value::Int(start.into());
        let bench = Bench::with(&row);
        let mut update = bench.operation(OperationKind::Update);
        let (mut number, mut bytes, mut fits) = (i64::from(start), b"10".to_vec(), true);
        for (what, operand) in steps {
            match what {
                0 => {
                    update.assign(1, Change::Add(Value::Int(operand)));
                    number += operand;
                }
                1 => {
                    update.assign(1, Change::Set(Value::Int(operand)));
                    number = operand;
                }
                2 => {
                    update.assign(3, Change::Append(binary(&operand.to_le_bytes())));
                    bytes.extend(operand.to_le_bytes());
                }
                _ => {
                    update.assign(3, Change::Prepend(binary(&operand.to_le_bytes())));
                    bytes.splice(0..0, operand.to_le_bytes());
                }
            }
            fits &= i16::try_from(number).is_ok() && bytes.len() <= 24;
        }
        let outcome = bench.run(&update);
        prop_assert_eq!(outcome.action.is_ok(), fits);
        if fits {
            prop_assert_eq!((outcome.new_value(1), outcome.new_value(3)), (Value::Int(number), Value::from(bytes)));
        }
    }
}
