use proptest::prelude::*;

use super::*;
use crate::{
    ids::TableId,
    schema::{Column, Table, tests::fitting_value},
};

const TEXT: ColumnType = ColumnType::Text { max_chars: 12 };
const BINARY: ColumnType = ColumnType::Binary { max_bytes: 12 };

/// Any small table: some of its columns are nullable, some were added in later versions.
pub(crate) fn any_schema() -> impl Strategy<Value = Schema> {
    use ColumnType::*;
    let keys = proptest::sample::select(vec![Bool, I8, I32, U64, TEXT, BINARY]);
    let others = proptest::sample::select(vec![Bool, I16, U32, I64, F32, F64, Date, Timestamp, TEXT, BINARY]);
    let other = (others, any::<bool>(), 0u32..2).prop_flat_map(|(column_type, nullable, step)| {
        let default = fitting_value(column_type);
        (Just(column_type), Just(nullable), Just(step), default)
    });
    (proptest::collection::vec(keys, 1..4), proptest::collection::vec(other, 0..14), any::<bool>()).prop_map(
        |(keys, others, backwards)| {
            let mut columns = Vec::new();
            let mut since = 1;
            for (i, key) in keys.iter().enumerate() {
                columns.push(Column::new(format!("k{i}"), *key));
            }
            for (i, (column_type, nullable, step, default)) in others.into_iter().enumerate() {
                since += step;
                let column = Column { nullable, since, ..Column::new(format!("c{i}"), column_type) };
                columns.push(column.with_default(default));
            }
            let mut primary_key: Vec<u16> = (0..keys.len() as u16).collect();
            if backwards {
                primary_key.reverse();
            }
            let distribution_key = vec![primary_key[0]];
            let (id, name) = (TableId(1), "t".to_owned());
            Schema::new(Table {
                id,
                name,
                version: since,
                columns,
                primary_key,
                distribution_key,
                indexes: vec![],
            })
            .unwrap()
        },
    )
}

/// Values for a column.
pub(crate) fn column_value(column: &Column) -> BoxedStrategy<Value> {
    let value = fitting_value(column.column_type);
    if column.nullable { prop_oneof![3 => value, 1 => Just(Value::Null)].boxed() } else { value }
}

/// A table and rows of it.
pub(crate) fn schema_and_rows(rows: usize) -> impl Strategy<Value = (Schema, Vec<Vec<Value>>)> {
    any_schema().prop_flat_map(move |schema| {
        let row: Vec<_> = schema.columns.iter().map(column_value).collect();
        (Just(schema), proptest::collection::vec(row, rows))
    })
}

/// The table as it was in an earlier version.
fn earlier(schema: &Schema, version: u32) -> Schema {
    let mut table = schema.table().clone();
    table.version = version;
    table.columns.retain(|column| column.since <= version);
    Schema::new(table).unwrap()
}

proptest! {
    #[test]
    fn rows_round_trip((schema, rows) in schema_and_rows(1)) {
        let (key, body) = encode_row(&schema, &rows[0]).unwrap();
        prop_assert_eq!(check_row(&schema, &key, &body), Ok(()));
        let row = RowRef::new(&schema, schema.version, &key, &body).unwrap();
        prop_assert_eq!(&row.values().unwrap(), &rows[0]);
        prop_assert!(row.get(schema.columns.len() as u16).is_err());
        for cut in 0..body.len() {
            prop_assert!(check_row(&schema, &key, &body[..cut]).is_err());
        }
    }

    #[test]
    fn old_rows_read_with_defaults((schema, rows) in schema_and_rows(1), version in any::<proptest::sample::Index>()) {
        let version = version.index(schema.version as usize) as u32 + 1;
        let old = earlier(&schema, version);
        let (key, body) = encode_row(&old, &rows[0][..old.columns.len()]).unwrap();
        let row = RowRef::new(&schema, version, &key, &body).unwrap();
        let mut expected = rows[0][..old.columns.len()].to_vec();
        expected.extend(schema.columns[old.columns.len()..].iter().map(|c| c.default_value().into_owned()));
        prop_assert_eq!(&row.values().unwrap(), &expected);
        let mut upgraded = Vec::new();
        RowEditor::new(&row, &mut upgraded).unwrap();
        prop_assert_eq!(upgraded, encode_row(&schema, &expected).unwrap().1);
    }

    #[test]
    fn editing_equals_encoding((schema, rows) in schema_and_rows(2), order: Vec<u16>) {
        let (key, body) = encode_row(&schema, &rows[0]).unwrap();
        let row = RowRef::new(&schema, schema.version, &key, &body).unwrap();
        let (mut values, mut edited) = (rows[0].clone(), Vec::new());
        let mut editor = RowEditor::new(&row, &mut edited).unwrap();
        for column in order {
            let column = column % schema.columns.len() as u16;
            let value = &rows[1][usize::from(column)];
            if schema.primary_key.contains(&column) {
                prop_assert!(editor.set(column, value.borrowed()).is_err());
            } else {
                editor.set(column, value.borrowed()).unwrap();
                values[usize::from(column)] = value.clone();
            }
            prop_assert_eq!(&editor.row().values().unwrap(), &values);
        }
        prop_assert_eq!(edited, encode_row(&schema, &values).unwrap().1);
    }

    #[test]
    fn hostile_rows_are_refused_or_canonical(
        (schema, rows) in schema_and_rows(1), at: proptest::sample::Index, byte: u8, noise: Vec<u8>,
    ) {
        let (key, mut body) = encode_row(&schema, &rows[0]).unwrap();
        if !body.is_empty() {
            let at = at.index(body.len());
            body[at] = byte;
        }
        for (key, body) in [(&key, &body), (&key, &noise), (&noise, &body)] {
            let row = RowRef::new(&schema, schema.version, key, body);
            let values = row.and_then(|row| row.values());
            if check_row(&schema, key, body).is_ok() {
                let (key_again, body_again) = encode_row(&schema, &values.unwrap()).unwrap();
                prop_assert_eq!((&key_again, &body_again), (key, body));
            }
        }
    }
}

fn example() -> Schema {
    let columns = vec![
        Column::new("k", ColumnType::U16),
        Column::new("a", ColumnType::I32),
        Column::new("b", TEXT).nullable(),
        Column::new("c", ColumnType::Bool).nullable(),
        Column::new("d", BINARY),
    ];
    let (primary_key, distribution_key) = (vec![0], vec![0]);
    let table = Table {
        id: TableId(1),
        name: "t".into(),
        version: 1,
        columns,
        primary_key,
        distribution_key,
        indexes: vec![],
    };
    Schema::new(table).unwrap()
}

fn text(text: &str) -> Value {
    Value::from(text.to_owned())
}

#[test]
fn golden_rows() {
    let schema = example();
    let values = [Value::Int(258), Value::Int(-2), Value::Null, Value::Bool(true), Value::from(vec![7, 8])];
    let (key, body) = encode_row(&schema, &values).unwrap();
    assert_eq!(key, [1, 2]);
    assert_eq!(body, [0b0010, 0xfe, 0xff, 0xff, 0xff, 1, 0, 2, 7, 8]);
}

#[test]
fn faults_name_their_column() {
    let schema = example();
    let code =
        |body: &[u8]| check_row(&schema, &[1, 2], body).map_err(|refusal| (refusal.code, refusal.column));
    assert_eq!(code(&[0b0010, 0, 0, 0, 0, 1, 0, 0]), Ok(()));
    assert_eq!(code(&[0b0011, 0, 0, 0, 0, 1, 0, 0]), Err((ResultCode::NullValue, Some(1))));
    assert_eq!(code(&[0b0010, 0, 0, 0, 0, 2, 0, 0]), Err((ResultCode::Malformed, Some(3))));
    assert_eq!(code(&[0b0100, 0, 0, 0, 0, 1, 0, 0]), Err((ResultCode::Malformed, Some(3))));
    assert_eq!(code(&[0b0010, 0, 0, 0, 0, 1, 1, b'x', 0]), Err((ResultCode::Malformed, Some(2))));
    assert_eq!(code(&[0b0000, 0, 0, 0, 0, 1, 1, 0xff, 0]), Err((ResultCode::Malformed, Some(2))));
    assert_eq!(code(&[0b0000, 0, 0, 0, 0, 1, 0x80, 0, 0]), Err((ResultCode::Malformed, Some(2))));
    assert_eq!(code(&[0b1_0010, 0, 0, 0, 0, 1, 0, 0]), Err((ResultCode::Malformed, None)));
    assert_eq!(code(&[0b0010, 0, 0, 0, 0, 1, 0, 0, 0]), Err((ResultCode::Malformed, None)));
    let mut long = vec![0, 0, 0, 0, 0, 1, 0, 13];
    long.extend([1; 13]);
    assert_eq!(code(&long), Err((ResultCode::ValueTooLong, Some(4))));
    let values = [Value::Int(1), Value::Int(1), text("ok"), Value::Int(1), Value::from(vec![])];
    let refusal = encode_row(&schema, &values).unwrap_err();
    assert_eq!(refusal, Refusal { code: ResultCode::WrongType, column: Some(3) });
}

#[test]
fn rows_are_bounded() {
    let mut table = example().table().clone();
    table.columns[4].column_type = ColumnType::Binary { max_bytes: u32::MAX };
    let schema = Schema::new(table).unwrap();
    let row = |bytes: usize| {
        encode_row(
            &schema,
            &[Value::Int(1), Value::Int(1), Value::Null, Value::Null, Value::from(vec![0; bytes])],
        )
    };
    // Beside the bytes: 2 of key, 1 of bitmap, 5 fixed, 1 and 3 of lengths.
    let (key, body) = row(ROW_BYTES_MAX - 12).unwrap();
    assert_eq!(check_row(&schema, &key, &body), Ok(()));
    assert_eq!(row(ROW_BYTES_MAX - 11).unwrap_err().code, ResultCode::RowTooBig);
    let mut edited = Vec::new();
    let row = RowRef::new(&schema, 1, &key, &body).unwrap();
    let mut editor = RowEditor::new(&row, &mut edited).unwrap();
    assert_eq!(editor.set(2, text("x")), Err(Refusal { code: ResultCode::RowTooBig, column: Some(2) }));
}
