use proptest::prelude::*;

use super::*;

/// A table whose key is all of its columns; they place rows, or those that are named do.
pub(crate) fn key_table(types: &[ColumnType], distribution_key: Option<Vec<u16>>) -> Schema {
    let columns = types.iter().enumerate().map(|(i, &column_type)| Column::new(format!("k{i}"), column_type));
    let primary_key: Vec<u16> = (0..types.len() as u16).collect();
    let distribution_key = distribution_key.unwrap_or_else(|| primary_key.clone());
    let columns = columns.collect();
    let (id, name, indexes) = (TableId(1), "t".into(), Vec::new());
    let table = Table { id, name, version: 1, columns, primary_key, distribution_key, indexes };
    Schema::new(table).unwrap()
}

/// Values that a column of this type holds, no NULL.
pub(crate) fn fitting_value(column_type: ColumnType) -> BoxedStrategy<Value> {
    let byte = || prop_oneof![Just(0u8), Just(255u8), any::<u8>()];
    let bits = column_type.width().unwrap_or(8) as u32 * 8;
    match column_type.family() {
        Family::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Family::Int => any::<i64>().prop_map(move |v| Value::Int(v >> (64 - bits))).boxed(),
        Family::UInt => any::<u64>().prop_map(move |v| Value::UInt(v >> (64 - bits))).boxed(),
        Family::F32 => any::<i32>().prop_map(|v| Value::Float(f64::from(v as f32 / 8.0))).boxed(),
        Family::F64 => any::<i64>().prop_map(|v| Value::Float(v as f64 / 1024.0)).boxed(),
        Family::Text => "[\\x00ab\u{e4}\u{1f980}]{0,12}".prop_map(Value::from).boxed(),
        Family::Binary => proptest::collection::vec(byte(), 0..12).prop_map(Value::from).boxed(),
    }
}

fn table() -> Table {
    Table {
        id: TableId(7),
        name: "stock".into(),
        version: 3,
        columns: vec![
            Column::new("w", ColumnType::I32),
            Column::new("i", ColumnType::U32),
            Column::new("name", ColumnType::Text { max_chars: 20 }).nullable(),
            Column { since: 3, ..Column::new("count", ColumnType::I16).with_default(Value::Int(5)) },
        ],
        primary_key: vec![0, 1],
        distribution_key: vec![0],
        indexes: Vec::new(),
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Table), words: &str) {
    let mut table = table();
    change(&mut table);
    let error = table.check().expect_err("the table is refused").to_string();
    assert!(error.contains(words), "«{error}» does not say «{words}»");
}

#[test]
fn a_good_table_passes() {
    let schema = Schema::new(table()).unwrap();
    assert_eq!(schema.column_index("NAME"), Some(2));
    assert_eq!(schema.distribution, Distribution::Prefix(4));
    assert!(schema.groups_rows());
    let travelled = bincode::serde::encode_to_vec(schema.table(), bincode::config::standard()).unwrap();
    let (arrived, _) = bincode::serde::decode_from_slice(&travelled, bincode::config::standard()).unwrap();
    assert_eq!(schema.table, arrived);
}

#[test]
fn bad_tables_are_refused_in_words() {
    refused(|t| t.name.clear(), "a name has 1 to 255 bytes");
    refused(|t| t.version = 0, "schema versions are 1 to 65535, not 0");
    refused(|t| t.version = 70_000, "not 70000");
    refused(|t| t.columns.clear(), "1 to 1024 columns, not 0");
    refused(|t| t.columns[2].name = "W".into(), "two columns `W`");
    refused(|t| t.columns[2].name = "n".repeat(256), "a name has 1 to 255 bytes, not 256");
    refused(|t| t.columns[3].since = 4, "`count` is of schema version 4");
    refused(|t| t.columns[2].since = 0, "`name` is of schema version 0");
    refused(|t| t.columns[3].default = None, "needs a default");
    refused(|t| t.columns[3].default = Some(Value::Int(40_000)), "does not fit");
    refused(|t| t.columns[3].default = Some(Value::UInt(4)), "has to be given as Int(4)");
    refused(|t| t.columns[3].default = Some(Value::Null), "does not allow NULL");
    refused(|t| t.primary_key.clear(), "no primary key");
    refused(|t| t.primary_key = vec![0, 9], "names column 9 of 4");
    refused(|t| t.primary_key = vec![0, 0], "`w` is named twice");
    refused(|t| t.primary_key = vec![0, 2], "`name` is nullable");
    refused(|t| t.primary_key = vec![0, 3], "`count` was added later");
    refused(|t| t.columns[1].column_type = ColumnType::F64, "`i` is a float");
    refused(|t| t.columns[1].column_type = ColumnType::Binary { max_bytes: 4000 }, "4004 bytes long");
    refused(|t| t.indexes.push(Index::new("", vec![2])), "index ``: a name has 1 to 255 bytes");
    refused(|t| t.indexes.push(Index::new("x", vec![4])), "index `x`: it names column 4 of 4");
    refused(|t| t.indexes.push(Index::new("x", vec![2, 2])), "column `name` is named twice");
    refused(
        |t| t.indexes.extend([Index::new("x", vec![2]), Index::new("X", vec![])]),
        "another one of this name",
    );
    refused(|t| t.indexes = (0..65).map(|n| Index::new(format!("x{n}"), vec![])).collect(), "65 indexes");
    let long = |t: &mut Table| {
        t.columns[2].column_type = ColumnType::Binary { max_bytes: 3069 };
        t.indexes.push(Index::new("x", vec![0, 2]));
    };
    refused(long, "may be 3073 bytes long");
    let wide = |t: &mut Table| {
        t.columns[2].column_type = ColumnType::Text { max_chars: 769 };
        t.indexes.push(Index::new("x", vec![2]));
    };
    refused(wide, "may be 3076 bytes long");
    refused(|t| t.distribution_key.clear(), "no distribution key");
    refused(|t| t.distribution_key = vec![2], "names column 2 out of place");
    refused(|t| t.distribution_key = vec![1, 0], "names column 0 out of place");
    refused(
        |t| t.columns.extend((0..1021).map(|i| Column::new(format!("c{i}"), ColumnType::I8))),
        "columns, not 1025",
    );
}

#[test]
fn layouts_follow_versions() {
    let schema = Schema::new(table()).unwrap();
    assert_eq!(schema.layout(0), None);
    assert_eq!(schema.layout(4), None);
    assert_eq!(schema.layout(1), schema.layout(2));
    let (old, new) = (schema.layout(2).unwrap(), schema.layout(3).unwrap());
    assert_eq!((old.bitmap, old.variable_start, old.places.len()), (1, 1, 3));
    assert_eq!((new.bitmap, new.variable_start, new.places.len()), (1, 3, 4));
    assert_eq!(new.places[3], Place::Fixed { bit: 1, offset: 1, width: 2 });
}

#[test]
fn fitting() {
    let fit = |column_type: ColumnType, value: Value| column_type.fit(value);
    assert_eq!(fit(ColumnType::I8, Value::UInt(127)), Ok(Value::Int(127)));
    assert_eq!(fit(ColumnType::I8, Value::UInt(128)), Err(ResultCode::OutOfRange));
    assert_eq!(fit(ColumnType::U64, Value::Int(-1)), Err(ResultCode::OutOfRange));
    assert_eq!(fit(ColumnType::I64, Value::UInt(u64::MAX)), Err(ResultCode::OutOfRange));
    assert_eq!(fit(ColumnType::F32, Value::Float(1e39)), Err(ResultCode::OutOfRange));
    assert_eq!(fit(ColumnType::F32, Value::Float(0.1)), Ok(Value::Float(f64::from(0.1f32))));
    assert_eq!(fit(ColumnType::F64, Value::Int(3)), Ok(Value::Float(3.0)));
    assert_eq!(fit(ColumnType::F64, Value::Float(f64::NAN)), Err(ResultCode::OutOfRange));
    let text = |text: &str| Value::from(text.to_owned());
    let two = ColumnType::Text { max_chars: 2 };
    assert_eq!(fit(two, text("\u{e4}\u{1f980}")), Ok(text("\u{e4}\u{1f980}")));
    assert_eq!(fit(two, text("\u{e4}\u{1f980}x")), Err(ResultCode::ValueTooLong));
    assert_eq!(fit(two, Value::from(vec![1])), Err(ResultCode::WrongType));
    assert_eq!(fit(ColumnType::Binary { max_bytes: 2 }, text("\u{e4}")), Ok(Value::from(vec![0xc3, 0xa4])));
    assert_eq!(fit(ColumnType::Binary { max_bytes: 1 }, text("\u{e4}")), Err(ResultCode::ValueTooLong));
    assert_eq!(fit(ColumnType::Bool, Value::Int(1)), Err(ResultCode::WrongType));
}

proptest! {
    #[test]
    fn fixed_values_survive_a_row(
        (column_type, value) in proptest::sample::select(vec![
            ColumnType::Bool, ColumnType::I8, ColumnType::I16, ColumnType::I32, ColumnType::I64, ColumnType::U8,
            ColumnType::U16, ColumnType::U32, ColumnType::U64, ColumnType::F32, ColumnType::F64, ColumnType::Date,
            ColumnType::DateTime, ColumnType::Timestamp,
        ]).prop_flat_map(|column_type| (Just(column_type), fitting_value(column_type)))
    ) {
        let mut bytes = [0xee; 8];
        let width = column_type.width().unwrap();
        column_type.write_fixed(&value, &mut bytes[..width]);
        prop_assert_eq!(column_type.read_fixed(&bytes[..width]), Ok(value));
    }
}
