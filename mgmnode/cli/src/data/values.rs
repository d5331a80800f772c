//! Values and columns as people type and read them.

use twofold_grpc::v1::{ColumnDefinition, ColumnType, TableDefinition, Value, value::Kind};

use crate::client::Failure;

const TYPES: [(&str, ColumnType); 16] = [
    ("bool", ColumnType::Bool),
    ("int8", ColumnType::Int8),
    ("int16", ColumnType::Int16),
    ("int32", ColumnType::Int32),
    ("int64", ColumnType::Int64),
    ("uint8", ColumnType::Uint8),
    ("uint16", ColumnType::Uint16),
    ("uint32", ColumnType::Uint32),
    ("uint64", ColumnType::Uint64),
    ("float32", ColumnType::Float32),
    ("float64", ColumnType::Float64),
    ("date", ColumnType::Date),
    ("datetime", ColumnType::Datetime),
    ("timestamp", ColumnType::Timestamp),
    ("text", ColumnType::Text),
    ("binary", ColumnType::Binary),
];

fn has_length(kind: ColumnType) -> bool {
    matches!(kind, ColumnType::Text | ColumnType::Binary)
}

/// A column's type with its length.
pub fn type_name(column: &ColumnDefinition) -> String {
    let kind = column.r#type();
    let name = TYPES.iter().find(|(_, other)| *other == kind).map_or("unknown", |(name, _)| name);
    match has_length(kind) {
        true => format!("{name}:{}", column.max_length),
        false => name.into(),
    }
}

/// A column from `name:type[:length][:null]`.
pub fn column(text: &str) -> Result<ColumnDefinition, Failure> {
    let wrong = |what: String| Failure(format!("column «{text}»: {what}"));
    let mut parts: Vec<&str> = text.split(':').collect();
    let nullable = parts.len() > 2 && parts.last() == Some(&"null");
    if nullable {
        parts.pop();
    }
    let (name, kind, length) = match parts[..] {
        [name, kind] => (name, kind, None),
        [name, kind, length] => (name, kind, Some(length)),
        _ => return Err(wrong("write NAME:TYPE[:LENGTH][:null], as in price:int32".into())),
    };
    let Some((_, kind)) = TYPES.iter().find(|(known, _)| *known == kind.to_ascii_lowercase()) else {
        let known: Vec<&str> = TYPES.iter().map(|(known, _)| *known).collect();
        return Err(wrong(format!("there is no type «{kind}»; there are {}", known.join(", "))));
    };
    let max_length = match (has_length(*kind), length) {
        (true, Some(length)) => {
            length.parse().map_err(|_| wrong(format!("«{length}» is no length; write a number")))?
        }
        (true, None) => return Err(wrong("its type needs a length, as in name:text:30".into())),
        (false, Some(_)) => return Err(wrong("its type has no length".into())),
        (false, None) => 0,
    };
    Ok(ColumnDefinition {
        name: name.into(),
        r#type: (*kind).into(),
        max_length,
        nullable,
        default_value: None,
    })
}

/// The value of a column from what was typed. The server says what does not fit into the column.
pub fn value(table: &TableDefinition, column: &str, text: &str) -> Result<Value, Failure> {
    let wrong = |what: &str| Failure(format!("column {column}: «{text}» is no {what}"));
    let Some(definition) = table.columns.iter().find(|definition| definition.name == column) else {
        let names: Vec<&str> = table.columns.iter().map(|definition| definition.name.as_str()).collect();
        return Err(Failure(format!(
            "table {} has no column {column}; it has {}",
            table.name,
            names.join(", ")
        )));
    };
    if definition.nullable && text == "NULL" {
        return Ok(Value { kind: Some(Kind::NullValue(true)) });
    }
    let kind = match definition.r#type() {
        ColumnType::Bool => Kind::BoolValue(text.parse().map_err(|_| wrong("true or false"))?),
        ColumnType::Uint8 | ColumnType::Uint16 | ColumnType::Uint32 | ColumnType::Uint64 => {
            Kind::UintValue(text.parse().map_err(|_| wrong("whole number from 0 on"))?)
        }
        ColumnType::Float32 | ColumnType::Float64 => {
            Kind::FloatValue(text.parse().map_err(|_| wrong("number"))?)
        }
        ColumnType::Text => Kind::TextValue(text.into()),
        ColumnType::Binary => Kind::BytesValue(text.as_bytes().to_vec().into()),
        // Days and microseconds are numbers too.
        _ => Kind::IntValue(text.parse().map_err(|_| wrong("whole number"))?),
    };
    Ok(Value { kind: Some(kind) })
}

/// A value as people read it.
pub fn shown(value: &Value) -> String {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => "NULL".into(),
        Some(Kind::BoolValue(value)) => value.to_string(),
        Some(Kind::IntValue(value)) => value.to_string(),
        Some(Kind::UintValue(value)) => value.to_string(),
        Some(Kind::FloatValue(value)) => value.to_string(),
        Some(Kind::TextValue(text)) => text.clone(),
        Some(Kind::BytesValue(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => bytes.escape_ascii().to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T>(result: Result<T, Failure>) -> String {
        match result {
            Err(Failure(text)) => text,
            Ok(_) => panic!("it should have been refused"),
        }
    }

    fn table() -> TableDefinition {
        let columns =
            ["id:uint64", "name:text:20:null", "data:binary:8", "rate:float64", "on:bool", "day:date"];
        TableDefinition {
            name: "t".into(),
            columns: columns.iter().map(|text| column(text).unwrap()).collect(),
            ..TableDefinition::default()
        }
    }

    #[test]
    fn columns_are_read_as_they_are_shown() {
        let table = table();
        let types: Vec<String> = table.columns.iter().map(type_name).collect();
        assert_eq!(types, ["uint64", "text:20", "binary:8", "float64", "bool", "date"]);
        let nullable: Vec<bool> = table.columns.iter().map(|column| column.nullable).collect();
        assert_eq!(nullable, [false, true, false, false, false, false]);
    }

    #[test]
    fn columns_that_mean_nothing_are_refused_in_words() {
        for (text, what) in [
            ("id", "write NAME:TYPE"),
            ("id:int:4:5", "write NAME:TYPE"),
            ("id:int", "there is no type «int»; there are bool, int8"),
            ("name:text", "its type needs a length"),
            ("name:text:null", "its type needs a length"),
            ("name:text:x", "«x» is no length"),
            ("id:int32:4", "its type has no length"),
        ] {
            let said = refused(column(text));
            assert!(said.starts_with(&format!("column «{text}»: {what}")), "{said}");
        }
    }

    #[test]
    fn values_are_shown_as_they_were_typed() {
        let table = table();
        for (column, text) in [
            ("id", "18446744073709551615"),
            ("name", "Blåbær"),
            ("name", "NULL"),
            ("data", "abc"),
            ("rate", "0.5"),
            ("on", "true"),
            ("day", "-3"),
        ] {
            assert_eq!(shown(&value(&table, column, text).unwrap()), text);
        }
        assert_eq!(value(&table, "name", "NULL").unwrap().kind, Some(Kind::NullValue(true)));
        assert_eq!(shown(&Value { kind: Some(Kind::BytesValue(vec![0xff, b'a'].into())) }), "\\xffa");
    }

    #[test]
    fn values_that_do_not_fit_are_refused_in_words() {
        let table = table();
        assert_eq!(refused(value(&table, "id", "-1")), "column id: «-1» is no whole number from 0 on");
        assert_eq!(refused(value(&table, "on", "yes")), "column on: «yes» is no true or false");
        assert_eq!(
            refused(value(&table, "idd", "1")),
            "table t has no column idd; it has id, name, data, rate, on, day"
        );
    }
}
