//! Keys with a prefix of the config: rows of another table.

mod common;

use common::conversation::Conversation;
use twofold_apinode::request::{Answer, Request};
use twofold_proto::{
    config::MemcachedPrefix,
    ids::TableId,
    message::CatalogChange,
    schema::{Column, ColumnType, Table},
    value::ValueRef,
};

fn prefix(prefix: &str, table: &str, key: &str, values: &str, flags: Option<&str>) -> MemcachedPrefix {
    MemcachedPrefix {
        prefix: prefix.into(),
        table: table.into(),
        key: key.into(),
        values: values.split('|').map(String::from).collect(),
        flags: flags.map(String::from),
    }
}

fn create(conversation: &mut Conversation, name: &str, columns: Vec<Column>) {
    let table = Table {
        id: TableId(0),
        name: name.into(),
        version: 1,
        columns,
        primary_key: vec![0],
        distribution_key: vec![0],
        indexes: Vec::new(),
    };
    assert!(matches!(
        conversation.fake.answer(Request::Change(CatalogChange::CreateTable(table))),
        Answer::Catalog(_)
    ));
}

fn conversation() -> Conversation {
    let mut conversation = Conversation::new(vec![
        prefix("user:", "users", "id", "name|city|age", None),
        prefix("hits:", "counters", "name", "hits", Some("flags")),
        prefix("note:", "notes", "key", "note", None),
        prefix("none:", "missing", "id", "value", None),
        prefix("bad:", "users", "id", "nickname", None),
    ]);
    let text = |max_chars| ColumnType::Text { max_chars };
    let users = vec![
        Column::new("id", ColumnType::I32),
        Column::new("name", text(20)),
        Column::new("city", text(20)).nullable(),
        Column::new("age", ColumnType::U8).with_default(ValueRef::UInt(0)),
        Column::new("visits", ColumnType::U64).with_default(ValueRef::UInt(7)),
    ];
    create(&mut conversation, "users", users);
    let counters = vec![
        Column::new("name", text(20)),
        Column::new("hits", ColumnType::I16),
        Column::new("flags", ColumnType::U32),
    ];
    create(&mut conversation, "counters", counters);
    create(&mut conversation, "notes", vec![Column::new("key", text(20)), Column::new("note", text(30))]);
    conversation
}

#[track_caller]
fn check(conversation: &mut Conversation, table: &[(&str, &str)]) {
    for (said, heard) in table {
        let answer = conversation.say(said.as_bytes());
        assert_eq!(String::from_utf8(answer).unwrap(), *heard, "to {said:?}");
    }
}

#[test]
fn items_are_rows_of_the_table_that_the_prefix_says() {
    check(
        &mut conversation(),
        &[
            ("get user:1 user:2\r\n", "END\r\n"),
            ("set user:1 0 0 13\r\nAda|London|36\r\n", "STORED\r\n"),
            (
                "get user:1 user:01 1\r\n",
                "VALUE user:1 0 13\r\nAda|London|36\r\nVALUE user:01 0 13\r\nAda|London|36\r\nEND\r\n",
            ),
            (
                "add user:1 0 0 3\r\na|b\r\n",
                "SERVER_ERROR a value of table `users` has 3 parts with | between them, not 2\r\n",
            ),
            ("add user:1 0 0 5\r\na|b|1\r\n", "NOT_STORED\r\n"),
            ("replace user:1 0 0 7\r\nAda||37\r\n", "STORED\r\n"),
            ("mg user:1 v s k t f\r\n", "VA 7 s7 kuser:1 t-1 f0\r\nAda||37\r\n"),
            ("ms user:2 8 T100\r\nBob|X|40\r\nmg user:2 v t\r\n", "HD\r\nVA 8 t100\r\nBob|X|40\r\n"),
            ("delete user:1\r\nmd user:1\r\nget user:1\r\n", "DELETED\r\nNF\r\nEND\r\n"),
            ("touch user:2 -1\r\nget user:2\r\n", "TOUCHED\r\nEND\r\n"),
            // Others are where they always are.
            ("set user 0 0 1\r\nx\r\nget user\r\n", "STORED\r\nVALUE user 0 1\r\nx\r\nEND\r\n"),
        ],
    );
}

#[test]
fn the_columns_that_are_no_part_of_the_value_stay() {
    let mut conversation = conversation();
    check(
        &mut conversation,
        &[("set user:1 0 0 5\r\nA|B|1\r\nset user:1 0 0 5\r\nC|D|2\r\n", "STORED\r\nSTORED\r\n")],
    );
    let rows = conversation.fake.rows("users");
    assert_eq!(
        rows,
        [vec![
            ValueRef::Int(1),
            ValueRef::from("C"),
            ValueRef::from("D"),
            ValueRef::UInt(2),
            ValueRef::UInt(7)
        ]]
    );
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    check(
        &mut conversation(),
        &[
            (
                "set none:1 0 0 1\r\nx\r\nset none:1 0 0 1 noreply\r\nx\r\n",
                "SERVER_ERROR keys `none:*`: TF-1002: there is no table `missing`; create the table, or correct its name\r\n",
            ),
            (
                "get a none:1 user:1\r\nmg none:1\r\n",
                "SERVER_ERROR keys `none:*`: TF-1002: there is no table `missing`; create the table, or correct its name\r\n\
                 SERVER_ERROR keys `none:*`: TF-1002: there is no table `missing`; create the table, or correct its name\r\n",
            ),
            (
                "delete bad:1\r\n",
                "SERVER_ERROR keys `bad:*`: TF-1010: table `users` has no column `nickname`; correct the definition\r\n",
            ),
            (
                "get user:x\r\n",
                "CLIENT_ERROR table `users`, column `id`, «x»: the value has another type than the column, which takes whole numbers from -2147483648 to 2147483647\r\n",
            ),
            (
                "get user:2147483648\r\n",
                "CLIENT_ERROR table `users`, column `id`, «2147483648»: the number does not fit the column, which takes whole numbers from -2147483648 to 2147483647\r\n",
            ),
            ("set user:1 5 0 5\r\na|b|1\r\n", "SERVER_ERROR table `users` keeps no flags; say 0\r\n"),
            (
                "set user:1 0 0 5\r\na|b|x\r\n",
                "CLIENT_ERROR table `users`, column `age`, «x»: the value has another type than the column, which takes whole numbers from 0 to 255\r\n",
            ),
            (
                "append user:1 0 0 1\r\nx\r\nincr user:1 1\r\nma user:1\r\n",
                "SERVER_ERROR a value of table `users` has 3 parts: nothing can be added to it\r\n\
                 SERVER_ERROR a value of table `users` has 3 parts: nothing can be added to it\r\n\
                 SERVER_ERROR a value of table `users` has 3 parts: nothing can be added to it\r\n",
            ),
            (
                "mg user:1 N0\r\n",
                "SERVER_ERROR table `users` has no marks, which N and R of mg, I and E need\r\n",
            ),
            ("get user:1\r\n", "END\r\n"),
        ],
    );
}

#[test]
fn a_column_may_be_counted_or_added_to() {
    check(
        &mut conversation(),
        &[
            ("incr hits:a 1\r\n", "NOT_FOUND\r\n"),
            ("set hits:a 9 0 2\r\n41\r\nincr hits:a 1\r\ndecr hits:a 50\r\n", "STORED\r\n42\r\n-8\r\n"),
            ("get hits:a\r\n", "VALUE hits:a 9 2\r\n-8\r\nEND\r\n"),
            ("incr hits:a 40000\r\n", "SERVER_ERROR the number does not fit the column\r\n"),
            ("ma hits:b N0 J7\r\nma hits:b v D3\r\n", "HD\r\nVA 2\r\n10\r\n"),
            (
                "set note:k 0 0 3\r\nabc\r\nappend note:k 0 0 1\r\nd\r\nprepend note:k 0 0 1\r\nz\r\n",
                "STORED\r\nSTORED\r\nSTORED\r\n",
            ),
            ("get note:k\r\n", "VALUE note:k 0 5\r\nzabcd\r\nEND\r\n"),
            ("set note:n 0 0 2\r\n18\r\nincr note:n 5\r\n", "STORED\r\n23\r\n"),
        ],
    );
}

#[test]
fn a_unique_is_the_rows_version() {
    let mut conversation = conversation();
    let heard = conversation
        .say(b"set user:1 0 0 5\r\na|b|1\r\ngets user:1\r\nmg user:1 c\r\nms user:2 5 c\r\nx|y|2\r\n");
    let heard = String::from_utf8(heard).unwrap();
    let unique =
        |line: usize| heard.lines().nth(line).unwrap().rsplit([' ', 'c']).next().unwrap().to_string();
    assert_eq!(unique(1), unique(4));
    let said = format!("cas user:1 0 0 5 {}\r\nc|d|3\r\nms user:2 5 C{}\r\nv|w|4\r\n", unique(1), unique(5));
    check(&mut conversation, &[(&*said, "STORED\r\nHD\r\n"), (&*said, "EXISTS\r\nEX\r\n")]);
}

#[test]
fn a_table_may_come_later() {
    let mut conversation = conversation();
    let missing = "SERVER_ERROR keys `none:*`: TF-1002: there is no table `missing`; create the table, or correct its name\r\n";
    check(&mut conversation, &[("get none:1\r\n", missing)]);
    let binary = ColumnType::Binary { max_bytes: 5 };
    create(&mut conversation, "missing", vec![Column::new("id", binary), Column::new("value", binary)]);
    check(
        &mut conversation,
        &[("set none:1 0 0 2\r\n|x\r\nget none:1\r\n", "STORED\r\nVALUE none:1 0 2\r\n|x\r\nEND\r\n")],
    );
}
