use super::*;
use crate::sql::{decimal::Decimal, error::codes};

const OLD: Answers = Answers { capabilities: 0, status: 2, warnings: 1 };
const NEW: Answers = Answers { capabilities: capability::DEPRECATE_EOF, status: 2, warnings: 1 };

/// Without the headers of packets.
fn payloads(put: impl FnOnce(&mut Packets)) -> Vec<Vec<u8>> {
    let mut packets = Packets::new(1 << 20);
    put(&mut packets);
    let mut reader = Packets::new(1 << 20);
    reader.input().extend_from_slice(packets.output());
    std::iter::from_fn(|| reader.take().unwrap()).collect()
}

fn column(sql_type: SqlType) -> ResultColumn {
    ResultColumn::computed("c", sql_type)
}

#[test]
fn golden_endings() {
    let done = Done { affected: 300, insert_id: 7, info: "hi".into() };
    assert_eq!(payloads(|out| OLD.put_ok(out, &done)), [b"\0\xfc\x2c\x01\x07\x02\0\x01\0\x02hi"]);
    let none = Done::default();
    assert_eq!(payloads(|out| NEW.with_more(true).put_ok(out, &none)), [b"\0\0\0\x0a\0\x01\0"]);
    assert_eq!(payloads(|out| OLD.put_end(out)), [b"\xfe\x01\0\x02\0"]);
    assert_eq!(payloads(|out| NEW.put_end(out)), [b"\xfe\0\0\x02\0\x01\0"]);
    let error = SqlError::new(codes::SYNTAX, "no");
    assert_eq!(payloads(|out| put_error(out, &error)), [b"\xff\x28\x04#42000no"]);
    let long = SqlError::new(codes::SYNTAX, "ä".repeat(1000));
    assert_eq!(payloads(|out| put_error(out, &long))[0].len(), 9 + 500);
}

#[test]
fn golden_columns() {
    let origin = Origin {
        database: "d".into(),
        table: "t".into(),
        column: "id".into(),
        in_key: true,
        auto_increment: false,
    };
    let sql_type = SqlType::Integer { bytes: 4, unsigned: true };
    let id = ResultColumn { origin: Some(origin), alias: "a".into(), nullable: false, ..column(sql_type) };
    let definition = b"\x03def\x01d\x01a\x01t\x01c\x02id\x0c\x3f\0\x0a\0\0\0\x03\xa3\x80\0\0\0".to_vec();
    let found = payloads(|out| NEW.put_columns(out, std::slice::from_ref(&id)));
    assert_eq!(found, [vec![1], definition.clone()]);
    let found = payloads(|out| OLD.put_columns(out, &[id]));
    assert_eq!(found, [vec![1], definition, b"\xfe\x01\0\x02\0".to_vec()]);
    let text = payloads(|out| NEW.put_columns(out, &[column(SqlType::Varchar(10))]));
    assert_eq!(text[1], b"\x03def\0\0\0\x01c\0\x0c\x35\x01\x28\0\0\0\xfd\0\0\0\0\0");
}

#[test]
fn golden_rows() {
    let columns = [
        column(SqlType::BIGINT),
        column(SqlType::Varchar(5)),
        column(SqlType::Decimal { precision: 5, scale: 2 }),
        column(SqlType::Double),
        column(SqlType::DateTime(0)),
        column(SqlType::Bool),
        column(SqlType::Date),
    ];
    let row = [
        Datum::Int(-2),
        Datum::Null,
        Datum::Decimal(Decimal { digits: 15, scale: 1 }),
        Datum::Double(0.5),
        Datum::DateTime(3_723_000_000),
        Datum::Int(1),
        Datum::Date(0),
    ];
    let text = payloads(|out| put_text_row(out, &columns, &row));
    assert_eq!(text, [b"\x02-2\xfb\x041.50\x030.5\x131970-01-01 01:02:03\x011\x0a1970-01-01".to_vec()]);
    let binary = payloads(|out| put_binary_row(out, &columns, &row));
    let mut expected = b"\0\x08\0\xfe\xff\xff\xff\xff\xff\xff\xff\x041.50\0\0\0\0\0\0\xe0\x3f".to_vec();
    expected.extend_from_slice(b"\x07\xb2\x07\x01\x01\x01\x02\x03\x01\x04\xb2\x07\x01\x01");
    assert_eq!(binary, [expected]);
}

#[test]
fn a_prepared_statement_tells_its_placeholders_and_columns() {
    let found = payloads(|out| OLD.put_prepared(out, 5, 2, &[column(SqlType::BIGINT)]));
    assert_eq!(found[0], b"\0\x05\0\0\0\x01\0\x02\0\0\x01\0");
    assert_eq!(found.len(), 1 + 2 + 1 + 1 + 1, "two placeholders, a column, and an EOF behind either");
    assert_eq!(payloads(|out| NEW.put_prepared(out, 5, 2, &[column(SqlType::BIGINT)])).len(), 4);
    assert_eq!(payloads(|out| OLD.put_prepared(out, 5, 0, &[])).len(), 1);
}
