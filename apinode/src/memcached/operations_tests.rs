use std::sync::Arc;

use twofold_proto::{schema::Schema, wire::Reader};

use super::*;
use crate::memcached::item;

fn items() -> Items {
    Items::new(Arc::new(Schema::new(item::table()).unwrap())).unwrap()
}

/// What `build` writes for the key `k`.
fn built(items: &Items, build: impl FnOnce(&mut Builder, Row<'_>)) -> Vec<u8> {
    let mut builder = Builder::default();
    let mut encoded = Vec::new();
    let (hash, key) = items.row_key(b"k", &mut encoded).unwrap();
    build(&mut builder, Row { items, hash, key });
    assert_eq!(builder.operations.count, 1);
    builder.operations.bytes
}

fn store(verb: Verb, only: Conditions) -> Vec<u8> {
    let items = items();
    let expiry = Some(ClusterTime(9));
    let item = Item { flags: 5, expiry, value: b"v", mark: Mark::default() };
    built(&items, |builder, row| builder.store(row, verb, item, only, Told::Nothing).unwrap())
}

fn parsed(bytes: &[u8]) -> OperationRef<'_> {
    let mut reader = Reader::new(bytes, "operation");
    let operation = OperationRef::parse(&mut reader).unwrap();
    assert!(reader.is_empty());
    operation
}

fn assignments<'a>(operation: &OperationRef<'a>) -> Vec<Assignment<'a>> {
    let assignments = operation.parse_body().unwrap().assignments.unwrap();
    assignments.iter().map(Result::unwrap).collect()
}

fn set(column: u16, value: ValueRef<'_>) -> Assignment<'_> {
    Assignment { column, change: Change::Set(value) }
}

#[test]
fn a_set_puts_a_whole_row() {
    let bytes = store(Verb::Set, Conditions::default());
    let operation = parsed(&bytes);
    assert_eq!((operation.kind, operation.key), (OperationKind::Write, &b"k"[..]));
    assert_eq!(operation.hash, KeyHash::of(b"k"));
    let body = operation.parse_body().unwrap();
    assert_eq!((body.expiry, body.assignments), (Some(ClusterTime(9)), None));
    // The mark is NULL, which takes a byte.
    assert_eq!(body.row, Some(&[4, 5, 0, 0, 0, 1, b'v', 0][..]));
}

#[test]
fn a_replace_leaves_no_mark_and_a_cas_has_a_condition() {
    let bytes = store(Verb::Replace, Conditions::default());
    let changes = [set(1, ValueRef::UInt(5)), set(2, ValueRef::from(&b"v"[..])), set(3, ValueRef::Null)];
    assert_eq!(assignments(&parsed(&bytes)), changes);
    assert!(parsed(&bytes).parse_body().unwrap().conditions.is_empty());
    let bytes = store(Verb::Replace, Conditions::unique(7));
    assert_eq!(assignments(&parsed(&bytes)), changes);
    assert!(!parsed(&bytes).parse_body().unwrap().conditions.is_empty());
}

#[test]
fn an_append_leaves_the_flags() {
    let bytes = store(Verb::Append, Conditions::default());
    let append = Assignment { column: 2, change: Change::Append(ValueRef::from(&b"v"[..])) };
    assert_eq!(assignments(&parsed(&bytes)), [append, set(3, ValueRef::Null)]);
}

#[test]
fn a_get_asks_for_what_it_tells_and_no_more() {
    let items = items();
    let asked = |told: Told| {
        let bytes = built(&items, |builder, row| builder.get(row, told));
        let body = parsed(&bytes).parse_body().unwrap();
        (body.before.columns().collect::<Vec<u16>>(), body.version)
    };
    assert_eq!(asked(Told::Item), (vec![1, 2], false));
    assert_eq!(asked(Told::Before { value: true }), (vec![1, 3, 2], true));
    assert_eq!(asked(Told::Before { value: false }), (vec![1, 3], true));
}
