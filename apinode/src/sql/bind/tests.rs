use super::{index::IndexChange, *};
use crate::sql::parse::{parse, text};

/// A table `t` of the database `d`.
pub(crate) fn table() -> Arc<Schema> {
    table_of(
        "CREATE TABLE d.t (a INT, b VARCHAR(10), c BIGINT NOT NULL DEFAULT 7, p DECIMAL(8,2), f DOUBLE, \
                at DATETIME(3), n MEDIUMINT UNSIGNED, PRIMARY KEY (a, b))",
    )
}

/// A table `u` with indexes.
fn indexed() -> Arc<Schema> {
    table_of(
        "CREATE TABLE d.u (id INT, a INT, b INT NOT NULL, f FLOAT, PRIMARY KEY (id), KEY ab (a, b), KEY (f))",
    )
}

/// A table `w` whose rows are placed by the second column of their key.
fn placed() -> Arc<Schema> {
    table_of("CREATE TABLE d.w (a INT, b INT, PRIMARY KEY (a, b)) PARTITION BY KEY (b)")
}

/// A table `q` with unique indexes.
fn unique() -> Arc<Schema> {
    table_of(
        "CREATE TABLE d.q (id INT PRIMARY KEY, a INT UNIQUE, b INT NOT NULL, c VARCHAR(9), KEY k (b), UNIQUE bc (b, c))",
    )
}

fn table_of(text: &str) -> Arc<Schema> {
    let Ok(Statement::Define(define)) = bind_in(text, &|_| None) else { panic!("{text}") };
    let Define::CreateTable { table, .. } = *define else { panic!("{text}") };
    let id = twofold_proto::ids::TableId(5);
    Arc::new(Schema::new(twofold_proto::schema::Table { id, ..table }).unwrap())
}

fn bind_in(query: &str, tables: &dyn Fn(&str) -> Option<Arc<Schema>>) -> Result<Statement, SqlError> {
    let statements = text::split(query.as_bytes())?;
    let parsed = parse(&statements[0])?;
    let mut session = Session::new(1);
    session.database = Some("d".into());
    Binder::new(tables, &session, 0, &parsed).bind()
}

/// Binds a statement, with the table.
pub(crate) fn bind(query: &str) -> Result<Statement, SqlError> {
    bind_in(query, &|name| match name {
        "d.t" => Some(table()),
        "d.u" => Some(indexed()),
        "d.w" => Some(placed()),
        "d.q" => Some(unique()),
        _ => None,
    })
}

fn number(query: &str) -> u16 {
    bind(query).map(|bound| panic!("{query}: {bound:?}")).unwrap_err().number()
}

fn refused(query: &str) -> String {
    let error = bind(query).map(|bound| panic!("{query}: {bound:?}")).unwrap_err();
    if error.number() != 1235 {
        return error.to_string();
    }
    error.text.split_once("support '").unwrap().1.trim_end_matches('\'').to_owned()
}

#[test]
fn what_is_not_supported_is_named() {
    let cases = [
        ("SELECT * FROM t STRAIGHT_JOIN t AS u", "STRAIGHT_JOIN"),
        ("SELECT * FROM t FULL JOIN t AS u ON t.a = u.a", "such a join"),
        ("SELECT * FROM t, LATERAL (SELECT 1) x", "LATERAL"),
        ("SELECT 1 INTERSECT SELECT 2", "INTERSECT"),
        ("SELECT a FROM t WHERE a IN (SELECT 1 LIMIT 1)", "LIMIT & IN/ALL/ANY/SOME subquery"),
        ("SELECT a FROM t WHERE (a, c) IN (SELECT 1, 2)", "row values"),
        (
            "SELECT * FROM t JOIN t x ON EXISTS (SELECT 1 FROM u WHERE u.id = x.a)",
            "a correlated subquery in ON",
        ),
        ("SELECT a, (SELECT b FROM u WHERE u.id = c) FROM t GROUP BY a", "a correlated subquery of groups"),
        ("SELECT a FROM t WHERE a = (SELECT SUM(t.a) FROM u)", "aggregates of an outer query"),
        (
            "SELECT a FROM t WHERE EXISTS (SELECT a UNION SELECT 1)",
            "a UNION that depends on the query around it",
        ),
        ("SELECT RANK() OVER (ORDER BY a) FROM t", "window functions"),
        ("SELECT 1 INTO x", "SELECT INTO"),
        ("SELECT a FROM t GROUP BY a WITH ROLLUP", "WITH ROLLUP"),
        ("SELECT a FROM (SELECT a FROM t) AS d FOR UPDATE", "locking reads of a UNION or a derived table"),
        ("SELECT a FROM t UNION SELECT a FROM t FOR SHARE", "locking reads of a UNION or a derived table"),
        ("SELECT a FROM t FOR UPDATE SKIP LOCKED", "SKIP LOCKED"),
        ("SELECT SQL_CALC_FOUND_ROWS a FROM t", "SQL_CALC_FOUND_ROWS"),
        ("SELECT a FROM t USE INDEX (x)", "index hints"),
        ("SELECT DATE_ADD(at, INTERVAL 1 DAY) FROM t", "function DATE_ADD"),
        ("SELECT b REGEXP 'x' FROM t", "REGEXP"),
        ("SELECT @x", "user variables"),
        ("SELECT (1, 2) = (1, 2)", "row values"),
        ("SELECT 'a' || 'b'", "operator ||"),
        ("SELECT b COLLATE utf8mb4_general_ci FROM t", "COLLATE utf8mb4_general_ci"),
        ("SELECT GROUP_CONCAT(a) FROM t", "function GROUP_CONCAT"),
        ("INSERT INTO t VALUES (1) RETURNING a", "RETURNING"),
        ("INSERT LOW_PRIORITY INTO t VALUES (1)", "LOW_PRIORITY, DELAYED and HIGH_PRIORITY"),
        ("UPDATE t SET a = 2", "changing a column of the primary key"),
        ("DELETE t FROM t", "DELETE of several tables"),
        ("CREATE TABLE x (a INT)", "tables without a primary key"),
        ("CREATE TABLE x (a INT PRIMARY KEY, b INT, KEY (b) USING HASH)", "options of an index"),
        ("CREATE TABLE x (a INT PRIMARY KEY, b TEXT, KEY (b(10)))", "a key that is not of whole columns"),
        ("CREATE TABLE x (a INT PRIMARY KEY, b INT REFERENCES t (a))", "FOREIGN KEY"),
        ("CREATE TABLE x (a INT PRIMARY KEY, b TIME)", "type TIME"),
        ("CREATE TABLE x (a INT PRIMARY KEY, b ENUM('a'))", "type ENUM('a')"),
        ("CREATE TABLE x (a INT PRIMARY KEY, b DECIMAL(30,2))", "DECIMAL of more than 18 digits"),
        ("CREATE TABLE x (a INT PRIMARY KEY) COLLATE=utf8mb4_general_ci", "collation utf8mb4_general_ci"),
        ("CREATE TABLE x (a INT PRIMARY KEY) MAX_ROWS=3", "MAX_ROWS of a table"),
        ("CREATE TEMPORARY TABLE x (a INT PRIMARY KEY)", "TEMPORARY tables"),
        ("CREATE TABLE x AS SELECT 1", "CREATE TABLE … SELECT"),
        ("CREATE TABLE x (a DOUBLE PRIMARY KEY)", "double in a primary key"),
        ("ALTER TABLE t ADD COLUMN x INT", "ALTER TABLE … ADD COLUMN x INT"),
        ("ALTER TABLE u DROP PRIMARY KEY", "ALTER TABLE … DROP PRIMARY KEY"),
        ("DROP INDEX `PRIMARY` ON u", "DROP PRIMARY KEY"),
        ("CREATE UNIQUE INDEX i ON t (c)", "UNIQUE for a table that is there"),
        ("ALTER TABLE t ADD UNIQUE (c)", "UNIQUE for a table that is there"),
        ("CREATE INDEX i ON t (c DESC)", "descending keys"),
        ("CREATE INDEX i USING HASH ON t (c)", "indexes that are no BTREE"),
        ("CREATE VIEW v AS SELECT 1", "CREATE VIEW"),
        ("SET GLOBAL sql_mode = ''", "SET GLOBAL"),
        ("SET @x = 1", "user variables"),
        ("SHOW PROCESSLIST", "SHOW PROCESSLIST"),
    ];
    let wrong: Vec<_> = cases.into_iter().filter(|(query, name)| refused(query) != *name).collect();
    assert!(
        wrong.is_empty(),
        "{:#?}",
        wrong.iter().map(|(query, _)| (query, refused(query))).collect::<Vec<_>>()
    );
}

#[test]
fn what_is_wrong_has_its_number() {
    let cases = [
        ("SELECT x FROM t", 1054),
        ("SELECT u.a FROM t", 1054),
        ("SELECT a FROM t WHERE x = 1", 1054),
        ("SELECT * FROM nothing", 1146),
        ("SELECT *", 1096),
        ("SELECT a, COUNT(*) FROM t", 1055),
        ("SELECT a FROM t WHERE COUNT(*) = 1", 1111),
        ("SELECT a FROM t ORDER BY 2", 1054),
        ("SELECT a FROM t, u", 1052),
        ("SELECT x.a FROM t, u x, t x", 1066),
        ("SELECT * FROM t JOIN u USING (c)", 1054),
        ("SELECT * FROM t JOIN u ON z.a = 1", 1054),
        ("SELECT * FROM t JOIN u ON t.a = x.id JOIN u x ON 1", 1054),
        ("SELECT x.* FROM t", 1051),
        ("SELECT * FROM (SELECT 1)", 1248),
        ("SELECT * FROM (SELECT 1 AS a, 2 AS a) x", 1060),
        ("SELECT * FROM (SELECT t.a) x, t", 1054),
        ("SELECT * FROM (SELECT 1) x (a, b)", 1353),
        ("SELECT 1 UNION SELECT 1, 2", 1222),
        ("SELECT a FROM t UNION SELECT 1 ORDER BY c", 1054),
        ("SELECT (SELECT 1, 2)", 1241),
        ("SELECT a FROM t WHERE a IN (SELECT id, a FROM u)", 1241),
        ("SELECT a FROM t WHERE a = (SELECT x FROM u)", 1054),
        ("UPDATE t SET c = (SELECT MAX(c) FROM t)", 1093),
        ("DELETE FROM t WHERE a IN (SELECT a FROM t x)", 1093),
        ("DELETE FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a IN (SELECT x.a FROM t x))", 1093),
        ("UPDATE t SET c = (SELECT COUNT(*) FROM (SELECT a FROM t) d WHERE d.a < t.a)", 1093),
        ("SELECT a FROM t LIMIT -1", 1064),
        ("SELECT a FROM t LIMIT 1+1", 1064),
        ("INSERT INTO t (a) VALUES (1, 2)", 1136),
        ("INSERT INTO t (a, A) VALUES (1, 2)", 1110),
        ("INSERT INTO t (x) VALUES (1)", 1054),
        ("CREATE TABLE x (a INT, A INT, PRIMARY KEY (a))", 1060),
        ("CREATE TABLE x (a INT PRIMARY KEY, PRIMARY KEY (a))", 1068),
        ("CREATE TABLE x (a INT, PRIMARY KEY (b))", 1072),
        ("CREATE TABLE x (a INT PRIMARY KEY, b INT DEFAULT 'x')", 1067),
        ("CREATE TABLE x (a INT PRIMARY KEY, b INT NOT NULL DEFAULT NULL)", 1067),
        ("CREATE TABLE x (a INT PRIMARY KEY, b INT AUTO_INCREMENT)", 1075),
        ("CREATE TABLE x (a TEXT PRIMARY KEY)", 1170),
        ("CREATE TABLE x (a VARCHAR(3073) PRIMARY KEY)", 1071),
        ("CREATE TABLE x (a INT PRIMARY KEY, b CHAR(300))", 1074),
        ("CREATE TABLE x (a INT PRIMARY KEY, b DATETIME(7))", 1426),
        ("CREATE TABLE mysql.x (a INT PRIMARY KEY)", 1044),
        ("DROP DATABASE mysql", 1044),
    ];
    for (query, expected) in cases {
        assert_eq!(number(query), expected, "{query}");
    }
    let columns =
        |from: u32| (from..from + 4000).map(|name| format!("1 AS c{name}")).collect::<Vec<_>>().join(",");
    assert_eq!(number(&format!("SELECT {}, {}", columns(0), columns(4000))), 1117);
    // What a derived table has read before the first change is a copy.
    assert!(matches!(
        bind("UPDATE t SET c = (SELECT COUNT(*) FROM (SELECT a FROM t) d)"),
        Ok(Statement::Update(_))
    ));
}

#[test]
fn a_table_shows_how_it_was_made() {
    let shown = show_create("t", &table());
    let expected = "CREATE TABLE `t` (\n  `a` int NOT NULL,\n  `b` varchar(10) NOT NULL,\n  `c` bigint NOT NULL DEFAULT '7',\n  \
                    `p` decimal(8,2) DEFAULT NULL,\n  `f` double DEFAULT NULL,\n  `at` datetime(3) DEFAULT NULL,\n  \
                    `n` mediumint unsigned DEFAULT NULL,\n  PRIMARY KEY (`a`,`b`)\n\
                    ) ENGINE=twofold DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin";
    assert_eq!(shown, expected);
    // What is shown makes the same table.
    let Ok(Statement::Define(again)) = bind(&shown) else { panic!("{shown}") };
    let Define::CreateTable { table: again, .. } = *again else { panic!("{shown}") };
    assert_eq!((&again.columns, &again.primary_key), (&table().columns, &table().primary_key));
}

#[test]
fn unique_keys_are_shown() {
    let shown = show_create("q", &unique());
    let keys = "  UNIQUE KEY `a` (`a`),\n  UNIQUE KEY `bc` (`b`,`c`),\n  KEY `k` (`b`)\n";
    assert!(shown.contains(keys), "{shown}");
    let keys: Vec<String> = describe(&unique()).iter().map(|row| row[3].render(SqlType::Text(9))).collect();
    assert_eq!(keys, ["PRI", "UNI", "MUL", ""]);
}

#[test]
fn rows_are_placed_by_columns_of_the_primary_key() {
    let shown = show_create("w", &placed());
    assert!(shown.ends_with("\nPARTITION BY KEY (`b`)"), "{shown}");
    let made = |by: &str| {
        let text = format!("CREATE TABLE x (a INT, b INT, c INT, PRIMARY KEY (a, b)) PARTITION BY KEY {by}");
        bind(&text).map(|bound| match bound {
            Statement::Define(define) => match *define {
                Define::CreateTable { table, .. } => table.distribution_key,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        })
    };
    let error = |by: &str| made(by).unwrap_err().number();
    assert_eq!((made("()"), made("(b, A)"), made("(b)")), (Ok(vec![0, 1]), Ok(vec![0, 1]), Ok(vec![1])));
    assert_eq!((error("(c)"), error("(x)"), error("(a, a)")), (1503, 1072, 1060));
    assert_eq!(refused("CREATE TABLE x (a INT PRIMARY KEY) PARTITION BY RANGE (a)"), "PARTITION BY RANGE");
}

#[test]
fn names_map_to_the_catalog_and_back() {
    for (catalog, shown) in [("d.t", "d.t"), ("t", "twofold.t"), ("a.b.c", "a.b.c")] {
        let name = TableName::from_catalog(catalog);
        assert_eq!((name.catalog().as_str(), name.to_string().as_str()), (catalog, shown));
    }
}

#[test]
fn columns_of_a_result_tell_where_they_are_from() {
    let Ok(Statement::Select(select)) = bind("SELECT x.a, c AS d, a+1, COUNT(*) FROM t x GROUP BY a, c")
    else {
        panic!()
    };
    let columns = select.columns(&[]);
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["a", "d", "a+1", "COUNT(*)"]);
    let origin = columns[0].origin.as_ref().unwrap();
    assert_eq!((origin.database.as_str(), origin.table.as_str(), origin.in_key), ("d", "t", true));
    assert_eq!((columns[0].alias.as_str(), columns[2].origin.is_none()), ("x", true));
}

/// The sizes that `text` lets through must not overflow the stack here either.
#[test]
fn long_chains_fit_the_stack() {
    let chains = [
        format!("SELECT 1{}", " OR a = 1".repeat(1000)),
        format!("SELECT 1{}", "+1".repeat(255)),
        format!("SELECT a FROM t WHERE a = 1{}", " OR a = 1 AND b = 'x'".repeat(500)),
        format!("SELECT {}1{}", "(1 + ".repeat(14), ")".repeat(14)),
        format!("SELECT 1{}", " BETWEEN 1 AND 1".repeat(60)),
    ];
    for text in chains {
        // Bound, or refused; not ended.
        let _ = bind(&text);
    }
}

#[test]
fn indexes_are_checked_against_the_table_as_it_becomes() {
    let changes = |query: &str| match bind(query).unwrap() {
        Statement::Define(define) => match *define {
            Define::ChangeIndexes { name, changes } => {
                let change = |change| match change {
                    IndexChange::Create(index) => format!("+{}{:?}", index.name, index.columns),
                    IndexChange::Drop(name) => format!("-{name}"),
                };
                format!("{name}: {}", changes.into_iter().map(change).collect::<Vec<_>>().join(" "))
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    assert_eq!(changes("CREATE INDEX i ON t (c, A)"), "d.t: +i[2, 0]");
    assert_eq!(changes("CREATE INDEX i USING BTREE ON d.t (c) ALGORITHM=INPLACE LOCK=NONE"), "d.t: +i[2]");
    assert_eq!(
        changes("ALTER TABLE t ADD INDEX (c), ADD KEY (c), ADD KEY x (c)"),
        "d.t: +c[2] +c_2[2] +x[2]"
    );
    assert_eq!(changes("ALTER TABLE t ADD INDEX x (c), DROP KEY X, ADD KEY x (a)"), "d.t: +x[2] -x +x[0]");
    for (query, expected) in [
        ("CREATE INDEX i ON nothing (c)", 1146),
        ("CREATE INDEX i ON t (nothing)", 1072),
        ("CREATE INDEX i ON t (c, c)", 1060),
        ("CREATE INDEX `PRIMARY` ON t (c)", 1280),
        ("ALTER TABLE t ADD INDEX x (c), ADD INDEX X (a)", 1061),
        ("DROP INDEX x ON t", 1091),
        ("ALTER TABLE t DROP INDEX x", 1091),
        ("CREATE INDEX i ON mysql.databases (name)", 1044),
    ] {
        assert_eq!(number(query), expected, "{query}");
    }
}
