use proptest::prelude::*;

use super::*;

fn schema(table: Table) -> Arc<Schema> {
    Arc::new(Schema::new(table).unwrap())
}

/// A table of users: a number for a key; name, city and age, and what items have nothing to do with.
fn users() -> Table {
    Table {
        id: TableId(7),
        name: "users".into(),
        version: 1,
        columns: vec![
            Column::new("id", ColumnType::U64),
            Column::new("name", ColumnType::Text { max_chars: 20 }),
            Column::new("city", ColumnType::Text { max_chars: 20 }).nullable(),
            Column::new("age", ColumnType::U8),
            Column::new("flags", ColumnType::U32).with_default(ValueRef::UInt(0)),
            Column::new("since", ColumnType::Date).nullable(),
        ],
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
    }
}

fn mapping() -> MemcachedPrefix {
    MemcachedPrefix {
        prefix: "user:".into(),
        table: "users".into(),
        key: "id".into(),
        values: vec!["name".into(), "city".into(), "age".into()],
        flags: None,
    }
}

fn mapped() -> Items {
    Items::mapped(schema(users()), &mapping()).unwrap()
}

#[test]
fn exptime_has_three_forms() {
    let now = ClusterTime(1_700_000_000_000);
    assert_eq!(expiry(0, now), ClusterTime(0));
    assert_eq!(expiry(-1, now), ClusterTime(1));
    assert_eq!(expiry(i64::MIN, now), ClusterTime(1));
    assert_eq!(expiry(1, now), ClusterTime(1_700_000_001_000));
    assert_eq!(expiry(2_592_000, now), ClusterTime(1_702_592_000_000));
    assert_eq!(expiry(2_592_001, now), ClusterTime(2_592_001_000));
    assert_eq!(expiry(i64::MAX, now), ClusterTime(u64::MAX));
}

#[test]
fn a_table_that_cannot_hold_items_is_refused_in_words() {
    let refused = |change: fn(&mut Table)| {
        let mut table = table();
        change(&mut table);
        Items::new(schema(table)).unwrap_err().text
    };
    assert_eq!(refused(|t| t.columns[1].name = "f".into()), "table `memcached` has no column `flags`");
    assert_eq!(
        refused(|t| t.columns[2].column_type = ColumnType::Binary { max_bytes: 9 }),
        "table `memcached` needs `value` to be binary, of 1 MiB or more"
    );
    assert_eq!(
        refused(|t| t.columns[3].column_type = ColumnType::Binary { max_bytes: 9 }),
        "table `memcached` needs `mark` to be binary, of 10 bytes or more, and nullable"
    );
    assert_eq!(
        refused(|t| t.columns[1].column_type = ColumnType::U16),
        "table `memcached` needs `flags` to be an unsigned integer of 32 bits"
    );
    assert_eq!(
        refused(|t| t.columns.push(Column::new("more", ColumnType::Bool))),
        "table `memcached` needs a default for column `more`"
    );
    let mut without_mark = table();
    without_mark.columns.pop();
    assert_eq!(Items::new(schema(without_mark)).unwrap().mark, None);
}

#[test]
fn a_mapped_table_that_does_not_fit_is_refused_in_words() {
    let refused = |change: fn(&mut Table, &mut MemcachedPrefix)| {
        let (mut table, mut mapping) = (users(), mapping());
        change(&mut table, &mut mapping);
        Items::mapped(schema(table), &mapping).unwrap_err().text
    };
    assert_eq!(refused(|_, m| m.values[1] = "town".into()), "table `users` has no column `town`");
    assert_eq!(
        refused(|t, _| t.primary_key.push(3)),
        "table `users` needs `id` to be its primary key, alone"
    );
    assert_eq!(
        refused(|_, m| m.key = "age".into()),
        "table `users` needs `age` to be its primary key, alone"
    );
    assert_eq!(
        refused(|_, m| m.values = vec!["since".into()]),
        "table `users` needs `since` to be a number, a truth value, text or binary"
    );
    assert_eq!(
        refused(|_, m| m.flags = Some("age".into())),
        "table `users` needs `age` to be an unsigned integer of 32 bits"
    );
    assert_eq!(
        refused(|_, m| m.values = vec!["name".into()]),
        "table `users` needs a default for column `age`"
    );
}

#[test]
fn a_value_that_does_not_fit_its_columns_is_refused_in_words() {
    let items = mapped();
    let check = |value: &str, flags| items.check(value.as_bytes(), flags).map_err(String::from);
    assert_eq!(check("Ada|London|36", 0), Ok(()));
    assert_eq!(check("Ada||36", 0), Ok(()));
    let refused = |value, flags| check(value, flags).unwrap_err();
    assert_eq!(
        refused("Ada|36", 0),
        "SERVER_ERROR a value of table `users` has 3 parts with | between them, not 2"
    );
    assert_eq!(refused("Ada|London|36", 5), "SERVER_ERROR table `users` keeps no flags; say 0");
    for (value, what) in [
        (
            "Ada|London|x",
            "`age`, «x»: the value has another type than the column, which takes whole numbers from 0 to 255",
        ),
        (
            "Ada|London|256",
            "`age`, «256»: the number does not fit the column, which takes whole numbers from 0 to 255",
        ),
        (
            "Ada|London|",
            "`age`, «»: the value has another type than the column, which takes whole numbers from 0 to 255",
        ),
        (
            "123456789012345678901||1",
            "`name`, «123456789012345678901»: the value is longer than the column, which takes text of at most 20 characters",
        ),
    ] {
        assert_eq!(refused(value, 0), format!("CLIENT_ERROR table `users`, column {what}"));
    }
    assert!(items.check(b"\xff|b|1", 0).is_err(), "no UTF-8");
    let mut encoded = Vec::new();
    assert_eq!(items.row_key(b"user:258", &mut encoded).unwrap().1, 258u64.to_be_bytes());
    let key = |key: &'static [u8]| items.row_key(key, &mut Vec::new()).map(|_| ()).unwrap_err();
    assert_eq!(
        &*key(b"user:a\nb"),
        "CLIENT_ERROR table `users`, column `id`, «a b»: the value has another type than the column, which takes whole numbers from 0 to 18446744073709551615"
    );
}

#[test]
fn the_longest_prefix_counts_and_what_is_wrong_is_told_to_its_keys_alone() {
    let (own, users) = (schema(table()), schema(users()));
    let find = |name: &str| match name {
        TABLE => Ok(&own),
        "users" => Ok(&users),
        other => Err(Error::new(ErrorCode::NoSuchTable, format!("there is no table `{other}`"))),
    };
    let longer = MemcachedPrefix { prefix: "user:x:".into(), table: "none".into(), ..mapping() };
    let keyspace = Keyspace::new(&[mapping(), longer], find).unwrap();
    assert_eq!(keyspace.items(b"user:7").unwrap().schema.name, "users");
    assert_eq!(keyspace.items(b"user").unwrap().schema.name, "memcached");
    assert_eq!(
        keyspace.items(b"user:x:7").unwrap_err(),
        "SERVER_ERROR keys `user:x:*`: TF-1002: there is no table `none`; create the table, or correct its name"
    );
    assert!(Keyspace::new(&[], |_| find("none")).is_err());
}

proptest! {
    /// What a value's columns hold is read as that value, if it is written as it would be read.
    #[test]
    fn values_of_many_columns_are_read_as_they_were_written(name in "[a-zé]{0,20}", city in "[a-z]{0,20}", age: u8) {
        let (items, value) = (mapped(), format!("{name}|{city}|{age}"));
        prop_assert_eq!(items.check(value.as_bytes(), 0), Ok(()));
        let columns = items.values.iter().map(|&index| Ok(items.column_value(index, value.as_bytes()).unwrap()));
        let mut joined = Vec::new();
        prop_assert_eq!(&*join(columns, &mut joined).unwrap(), value.as_bytes());
    }
}
