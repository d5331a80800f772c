use proptest::prelude::*;

use super::*;
use crate::{
    filter::tests::any_filter,
    schema::{ColumnType, tests::key_table},
    value::{Value, tests::any_value},
};

fn any_change() -> impl Strategy<Value = Change<'static>> {
    prop_oneof![
        any_value().prop_map(Change::Set),
        any_value().prop_map(Change::Add),
        any_value().prop_map(Change::Append),
        any_value().prop_map(Change::Prepend),
        any::<u64>().prop_map(Change::Increment),
        any::<u64>().prop_map(Change::Decrement),
    ]
}

fn any_columns() -> impl Strategy<Value = Columns> {
    prop_oneof![
        Just(Columns::None),
        Just(Columns::All),
        proptest::collection::vec(any::<u16>(), 0..5).prop_map(Columns::List),
    ]
}

/// Any operation that its kind allows.
fn any_operation() -> impl Strategy<Value = (Operation, Vec<Assignment<'static>>)> {
    let body = (any_filter(), any::<Option<u64>>(), any_columns(), any_columns(), any::<bool>());
    let assignments = proptest::collection::vec((any::<u16>(), any_change()), 0..4);
    (1u8..=5, 0u8..3, any::<u32>(), body, any::<Vec<u8>>(), assignments).prop_map(
        |(kind, lock, key, (conditions, expiry, before, after, version), row, assignments)| {
            let schema = key_table(&[ColumnType::U32], None);
            let kind = OperationKind::from_wire(kind).unwrap();
            let mut operation = Operation::new(kind, &schema, key.to_be_bytes().to_vec()).unwrap();
            if kind == OperationKind::Read {
                operation.lock = [LockMode::None, LockMode::Shared, LockMode::Exclusive][usize::from(lock)];
            }
            let may = |part: u8| kind.parts() & part != 0;
            if may(CONDITIONS) {
                operation.conditions = conditions;
            }
            operation.expiry = expiry.map(ClusterTime).filter(|_| may(EXPIRY));
            operation.before = before;
            operation.after = if may(AFTER) { after } else { Columns::None };
            operation.version = version;
            operation.row = may(ROW).then_some(row);
            let assignments: Vec<_> = assignments
                .into_iter()
                .filter(|_| may(ASSIGNMENTS))
                .map(|(column, change)| Assignment { column, change })
                .collect();
            for assignment in &assignments {
                operation.assign(assignment.column, assignment.change.clone());
            }
            (operation, assignments)
        },
    )
}

fn owned(projection: Projection<'_>) -> Columns {
    match projection {
        Projection::None => Columns::None,
        Projection::All => Columns::All,
        Projection::Columns(_) => Columns::List(projection.columns().collect()),
    }
}

proptest! {
    #[test]
    fn operations_survive_the_wire((operation, assignments) in any_operation()) {
        let mut bytes = operation.to_bytes();
        let length = bytes.len();
        bytes.push(0xee);
        let mut reader = Reader::new(&bytes, "operation");
        let parsed = OperationRef::parse(&mut reader).unwrap();
        prop_assert_eq!(reader.rest(), [0xee]);
        prop_assert_eq!((parsed.kind, parsed.lock), (operation.kind, operation.lock));
        prop_assert_eq!((parsed.table, parsed.schema_version), (operation.table, operation.schema_version));
        prop_assert_eq!((parsed.hash, parsed.key), (KeyHash::of(&operation.key), &operation.key[..]));
        let body = parsed.parse_body().unwrap();
        prop_assert_eq!(body.conditions, operation.conditions.filter());
        prop_assert_eq!((body.expiry, body.version), (operation.expiry, operation.version));
        prop_assert_eq!((owned(body.before), owned(body.after)), (operation.before, operation.after));
        prop_assert_eq!(body.row, operation.row.as_deref());
        let read: Result<Vec<_>, _> = body.assignments.unwrap_or_default().iter().collect();
        prop_assert_eq!(read, Ok(assignments));
        for cut in 0..length {
            prop_assert!(OperationRef::parse(&mut Reader::new(&bytes[..cut], "operation")).is_err());
        }
        for cut in 1..parsed.body.len() {
            prop_assert!(BodyRef::parse(parsed.kind, &parsed.body[..cut]).is_err());
        }
    }

    #[test]
    fn hostile_bytes_never_panic(kind in 1u8..=5, mut bytes: Vec<u8>, (operation, _) in any_operation(),
                                 at: proptest::sample::Index, byte: u8) {
        let kind = OperationKind::from_wire(kind).unwrap();
        let mut changed = operation.to_bytes();
        let at = at.index(changed.len());
        changed[at] = byte;
        bytes.splice(0..0, changed.iter().copied());
        for bytes in [&bytes[..], &bytes[OPERATION_HEADER..], &changed] {
            let parsed = OperationRef::parse(&mut Reader::new(bytes, "operation"));
            let bodies = [BodyRef::parse(kind, bytes), parsed.and_then(|operation| operation.parse_body())];
            for body in bodies.into_iter().flatten() {
                prop_assert!(body.conditions.conditions().count() <= bytes.len());
                prop_assert!(body.assignments.unwrap_or_default().iter().count() <= bytes.len());
                prop_assert!(body.before.columns().count() + body.after.columns().count() <= bytes.len());
            }
        }
    }
}

#[test]
fn golden_operation() {
    let schema = key_table(&[ColumnType::U16], None);
    let mut update = Operation::new(OperationKind::Update, &schema, vec![1, 2]).unwrap();
    update.expiry = Some(ClusterTime(9));
    update.after = Columns::List(vec![3]);
    update.assign(3, Change::Add(Value::Int(-1)));
    let mut expected = vec![3, 2, 2, 0, 1, 0, 0, 0, 1, 0, 0, 0];
    expected.extend(KeyHash::of(&[1, 2]).0);
    expected.extend([29, 0, 0, 0, 1, 2]);
    expected.extend([2 | 8 | 64, 9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 3, 0]);
    expected.extend([12, 0, 0, 0, 2, 3, 0, 3, 255, 255, 255, 255, 255, 255, 255, 255]);
    assert_eq!(update.to_bytes(), expected);
}

#[test]
fn a_read_of_nothing_has_no_body() {
    let schema = key_table(&[ColumnType::U16], None);
    let read = Operation::new(OperationKind::Read, &schema, vec![1, 2]).unwrap();
    assert_eq!(read.to_bytes().len(), OPERATION_HEADER + 2);
}

#[test]
fn parts_belong_to_kinds() {
    assert_eq!(
        BodyRef::parse(OperationKind::Read, &[EXPIRY, 0, 0, 0, 0, 0, 0, 0, 0]),
        Err(Malformed("body of an operation: a part that its kind does not have"))
    );
    assert_eq!(BodyRef::parse(OperationKind::Insert, &[]), Err(Malformed("body of an operation: no row")));
    assert!(BodyRef::parse(OperationKind::Delete, &[VERSION]).unwrap().version);
    assert!(BodyRef::parse(OperationKind::Delete, &[VERSION, 0]).is_err());
    let mut write =
        Operation::new(OperationKind::Write, &key_table(&[ColumnType::U16], None), vec![1, 2]).unwrap();
    write.row = Some(vec![]);
    let mut bytes = write.to_bytes();
    bytes[1] = 4;
    let parsed = OperationRef::parse(&mut Reader::new(&bytes, "operation"));
    assert_eq!(parsed, Err(Malformed("operation: unknown flags")));
}
