//! Statement → what the cluster is asked, as text.

use twofold_proto::{
    filter::{Condition, Filter, FilterBuilder},
    key::key_text,
    operation::Change,
    unique::entry_text,
};

use super::*;
use crate::sql::{
    bind::{BoundTable, Statement, tests::bind},
    expression::{Context, Expr},
    value::Datum,
};

fn conditions(filter: Filter<'_>) -> String {
    let texts = filter.conditions().map(|condition| match condition.unwrap() {
        Condition::Column { column, comparison, value } => {
            format!("#{column} {comparison:?} {}", value.excerpt())
        }
        Condition::IsNull(column) => format!("#{column} is null"),
        Condition::IsNotNull(column) => format!("#{column} is not null"),
        Condition::All(list) => format!("all({})", conditions(list)),
        Condition::Any(list) => format!("any({})", conditions(list)),
        other => format!("{other:?}"),
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn changes(table: &BoundTable, assignments: &[(usize, Option<Expr>)], context: &Context<'_>) -> String {
    match interpreted(table, assignments, None, context) {
        Ok(Some(changes)) => changes
            .iter()
            .map(|(column, change)| match change {
                Change::Set(value) => format!("#{column} := {}", value.excerpt()),
                Change::Add(value) => format!("#{column} += {}", value.excerpt()),
                other => format!("{other:?}"),
            })
            .collect::<Vec<_>>()
            .join(", "),
        Ok(None) => "needs the row".into(),
        Err(error) => error.number().to_string(),
    }
}

fn entries(table: &BoundTable, found: &Unique) -> String {
    let index = &table.schema.indexes[found.index];
    let texts = found.entries.iter().map(|entry| entry_text(&table.schema, index, entry));
    format!("{} {}", index.name, texts.collect::<Vec<_>>().join(" "))
}

fn index_ranges(table: &BoundTable, found: &Ranges) -> String {
    let ranges = found.ranges.iter().map(|range| {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{}..{}", hex(&range.from), range.to.as_deref().map(hex).unwrap_or_default())
    });
    let order = match (found.ordered, found.descending) {
        (false, _) => "",
        (true, false) => " ascending",
        (true, true) => " descending",
    };
    let pruned = if found.hash.is_some() { " in one partition" } else { "" };
    let name = &table.schema.indexes[found.index].name;
    format!("{name}{order}{pruned} [{}]", ranges.collect::<Vec<_>>().join(" "))
}

/// How rows are found | which conditions go to the data nodes, and how much of all that is | the changes.
fn plan(query: &str, parameters: &[Datum]) -> String {
    let context = Context::new(parameters);
    let bound = bind(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    let (table, filter, changed) = match &bound {
        Statement::Select(select) => (select.from.only_table().unwrap(), &select.filter, String::new()),
        Statement::Delete(delete) => (&delete.table, &delete.filter, String::new()),
        Statement::Update(update) => {
            (&update.table, &update.filter, changes(&update.table, &update.assignments, &context))
        }
        other => panic!("{other:?}"),
    };
    let wish = match &bound {
        Statement::Select(select) => Wish::of(select),
        _ => Wish::default(),
    };
    let found = match access(table, filter.as_ref(), &wish, &context).unwrap() {
        Access::Scan => "scan".into(),
        Access::Ranges(ranges) => index_ranges(table, &ranges),
        Access::Unique(found) => entries(table, &found),
        Access::Keys(keys) => {
            keys.iter().map(|key| key_text(&table.schema, key)).collect::<Vec<_>>().join(" ")
        }
    };
    let mut builder = FilterBuilder::new();
    let pushed = push(table, filter.as_ref(), &context, &mut builder).unwrap();
    format!("{found} | {} {pushed:?} | {changed}", conditions(builder.filter()))
}

#[test]
fn golden_plans() {
    let cases = [
        ("SELECT * FROM t", "scan |  All | "),
        ("SELECT * FROM t WHERE a = 1 AND b = 'x'", "(1, \"x\") | #0 Equal 1, #1 Equal \"x\" All | "),
        (
            "SELECT * FROM t WHERE a IN (1, 2, 1) AND 'x' = b AND c > 5",
            "(1, \"x\") (2, \"x\") | any(#0 Equal 1, #0 Equal 2, #0 Equal 1), #1 Equal \"x\", #2 Greater 5 All | ",
        ),
        ("SELECT * FROM t WHERE a = 1", "PRIMARY [80000001..80000002] | #0 Equal 1 All | "),
        ("SELECT * FROM t WHERE a = 1 OR b = 'x'", "scan | any(all(#0 Equal 1), all(#1 Equal \"x\")) All | "),
        ("SELECT * FROM t WHERE a = 1 OR f + 1 = 2", "scan |  Nothing | "),
        ("SELECT * FROM t WHERE c > 1 AND f + 1 = 2", "scan | #2 Greater 1 Part | "),
        (
            "SELECT * FROM t WHERE c BETWEEN 1 AND 3",
            "scan | all(#2 GreaterOrEqual 1, #2 LessOrEqual 3) All | ",
        ),
        ("SELECT * FROM t WHERE p = 1.5 AND p IS NOT NULL", "scan | #3 Equal 150, #3 is not null All | "),
        ("SELECT * FROM t WHERE p = 1.555", "scan | #3 Equal NULL All | "),
        ("SELECT * FROM t WHERE p > 1.555", "scan |  Nothing | "),
        ("SELECT * FROM t WHERE f = 1", "scan | #4 Equal 1 All | "),
        ("SELECT * FROM t WHERE 5 > c", "scan | #2 Less 5 All | "),
        ("SELECT * FROM t WHERE c = NULL", "scan | #2 Equal NULL All | "),
        ("SELECT * FROM t WHERE NOT (c = 1)", "scan |  Nothing | "),
        ("SELECT * FROM t WHERE at > '1970-01-02'", "scan | #5 Greater 86400000000 All | "),
        // Nothing is equal to it, so there is no key.
        ("SELECT * FROM t WHERE a = 1.5 AND b = 'x'", " | #0 Equal NULL, #1 Equal \"x\" All | "),
        (
            "SELECT * FROM t WHERE a = 99999999999 AND b = 'x'",
            " | #0 Equal 99999999999, #1 Equal \"x\" All | ",
        ),
        // Many texts are equal to a number, and each compares with a warning.
        ("SELECT * FROM t WHERE a = 1 AND b = 5", "PRIMARY [80000001..80000002] | #0 Equal 1 Part | "),
        ("SELECT * FROM t WHERE a = '1' AND b = 'x'", "(1, \"x\") | #1 Equal \"x\" Part | "),
        ("DELETE FROM t WHERE a = 1 AND b = 'x'", "(1, \"x\") | #0 Equal 1, #1 Equal \"x\" All | "),
        (
            "UPDATE t SET c = c + 1, p = 2 WHERE a = 1 AND b = 'x'",
            "(1, \"x\") | #0 Equal 1, #1 Equal \"x\" All | #2 += 1, #3 := 200",
        ),
        ("UPDATE t SET c = 5 - 7 WHERE c = 1", "scan | #2 Equal 1 All | #2 := -2"),
        ("UPDATE t SET c = c - 2", "scan |  All | #2 += -2"),
        ("UPDATE t SET c = c * 2", "scan |  All | needs the row"),
        ("UPDATE t SET c = n", "scan |  All | needs the row"),
        // They hold less than what they are kept as.
        ("UPDATE t SET p = p + 1", "scan |  All | needs the row"),
        ("UPDATE t SET n = n + 1", "scan |  All | needs the row"),
        ("UPDATE t SET c = 'x'", "scan |  All | 1366"),
    ];
    for (query, expected) in cases {
        assert_eq!(plan(query, &[]), expected, "{query}");
    }
}

/// `u` has indexes `PRIMARY` (id), `ab` (a, b) and `f`; of these, a and f may be NULL.
#[test]
fn golden_plans_by_index() {
    let cases = [
        ("SELECT * FROM u WHERE a = 1", "ab [0180000001..0180000002]"),
        ("SELECT * FROM u WHERE a = 1 AND b > 2", "ab [018000000180000003..0180000002]"),
        ("SELECT * FROM u WHERE a = 1 AND b <= 2 AND b > -1", "ab [018000000180..018000000180000003]"),
        ("SELECT * FROM u WHERE a IN (2, 1, 2)", "ab [0180000001..0180000002 0180000002..0180000003]"),
        ("SELECT * FROM u WHERE a IS NULL AND b = 1", "ab [0080000001..0080000002]"),
        // NULL is not less than anything.
        ("SELECT * FROM u WHERE a < 1", "ab [01..0180000001]"),
        ("SELECT * FROM u WHERE a BETWEEN 1 AND 2 AND b = 5", "ab [0180000001..0180000003]"),
        ("SELECT * FROM u WHERE id > 5", "PRIMARY [8000000500..]"),
        // Nothing is equal to it; a bound that the column cannot hold is left to the filter.
        ("SELECT * FROM u WHERE a = 1.5", "ab []"),
        ("SELECT * FROM u WHERE a > 9999999999", "scan"),
        ("SELECT * FROM u WHERE f > 0.1", "scan"),
        ("SELECT * FROM u WHERE f > 0.5", "f [01bf000001..02]"),
        // By an index that says more of the rows, rather than by one that gives the order.
        (
            "SELECT * FROM u WHERE a = 1 AND b = 2 ORDER BY id",
            "ab ascending [018000000180000002..018000000180000003]",
        ),
        ("SELECT * FROM u WHERE a = 1 ORDER BY b DESC", "ab descending [0180000001..0180000002]"),
        ("SELECT * FROM u WHERE a = 1 ORDER BY a, b DESC, id DESC", "ab descending [0180000001..0180000002]"),
        ("SELECT * FROM u WHERE a = 1 ORDER BY b DESC, id", "ab [0180000001..0180000002]"),
        ("SELECT * FROM u WHERE a = 1 ORDER BY f", "ab [0180000001..0180000002]"),
        (
            "SELECT * FROM u WHERE a IN (1, 2) ORDER BY a",
            "ab ascending [0180000001..0180000002 0180000002..0180000003]",
        ),
        (
            "SELECT * FROM u WHERE a IN (1, 2) ORDER BY b",
            "ab [0180000001..0180000002 0180000002..0180000003]",
        ),
        ("SELECT * FROM u ORDER BY id LIMIT 1", "PRIMARY ascending [..]"),
        ("SELECT * FROM u ORDER BY a DESC, b DESC", "ab descending [..]"),
        ("SELECT * FROM u ORDER BY b", "scan"),
        ("SELECT MIN(a) FROM u", "ab ascending [01..]"),
        ("SELECT MAX(b) FROM u WHERE a = 1", "ab descending [0180000001..0180000002]"),
        ("SELECT MAX(a), MIN(a) FROM u", "scan"),
        ("SELECT MIN(id) FROM u GROUP BY a", "scan"),
        ("SELECT * FROM q WHERE a IN (2, 1, NULL)", "a (1) (2)"),
        ("SELECT * FROM q WHERE a = 1 AND id = 2", "(2)"),
        ("SELECT * FROM q WHERE c = 'x' AND b = 1", "bc (1, \"x\")"),
        ("SELECT * FROM q WHERE b = 1", "bc [80000001..80000002]"),
        ("SELECT * FROM q WHERE a IS NULL", "a [00..01]"),
        ("SELECT * FROM w WHERE b = 1", "PRIMARY in one partition [..]"),
        ("SELECT * FROM w WHERE b = 1 AND a > 2", "PRIMARY in one partition [80000003..]"),
        ("SELECT * FROM w WHERE b IN (1, 2)", "scan"),
        ("DELETE FROM u WHERE a = 1", "ab [0180000001..0180000002]"),
        ("UPDATE u SET b = 1 WHERE id < 3", "PRIMARY [..80000003]"),
    ];
    for (query, expected) in cases {
        let plan = plan(query, &[]);
        assert_eq!(plan.split(" | ").next(), Some(expected), "{query}: {plan}");
    }
}

/// The steps of a join: which source, how its rows are found, what data nodes judge | what ties it to rows so far | what is looked
/// at here.
fn joined(query: &str) -> Vec<String> {
    let bound = bind(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    let Statement::Select(select) = bound else { panic!("{query}") };
    let context = Context::default();
    let plan = JoinPlan::new(&select, &context).unwrap();
    let list = |list: &[Expr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let step = |step: &Step| match step {
        Step::Left { .. } => "left".into(),
        Step::LeftEnd { .. } => "end".into(),
        Step::Apply(index) => format!("apply {index}"),
        Step::Filter(conditions) => format!("filter {}", list(conditions)),
        Step::Source(step) => {
            let source = &select.from.sources[step.source];
            let way = match (source.table(), step.by) {
                (None, _) => "made".into(),
                (_, Some(By::Key)) => "by key".into(),
                (Some(table), Some(By::Index(index))) => format!("by {}", table.schema.indexes[index].name),
                (Some(table), None) => {
                    match access(table, step.own.as_ref(), &Wish::default(), &context).unwrap() {
                        Access::Scan => "scan".into(),
                        Access::Ranges(ranges) => index_ranges(table, &ranges),
                        Access::Unique(found) => entries(table, &found),
                        Access::Keys(keys) => format!("{} keys", keys.len()),
                    }
                }
            };
            let own = step.own.as_ref().map(|own| format!(" {own}")).unwrap_or_default();
            let equal: Vec<String> =
                step.equal.iter().map(|(inner, outer)| format!("{inner}={outer}")).collect();
            format!("{} {way}{own} | {} | {}", source.alias, equal.join(" "), list(&step.on))
        }
    };
    plan.steps.iter().map(step).collect()
}

#[test]
fn joins_are_ordered_by_what_is_known() {
    // t: a b(key) c p f at n at 0..7; u: id a b f.
    let cases: [(&str, &[&str]); 12] = [
        (
            "SELECT u.id FROM u JOIN t ON t.a = u.id AND t.b = 'x'",
            &["t scan Equal(#1, 'x') |  | Equal(#5, 'x')", "u by key | #0=#4 | Equal(#4, #0)"],
        ),
        (
            "SELECT u.id FROM t, u WHERE u.id = 3 AND t.c = u.a",
            &["u 1 keys Equal(#0, 3) |  | Equal(#7, 3)", "t scan | #2=#8 | Equal(#2, #8)"],
        ),
        (
            "SELECT x.id FROM u x JOIN u y ON y.a = x.id WHERE x.id > 5",
            &[
                "x PRIMARY [8000000500..] Greater(#0, 5) |  | Greater(#0, 5)",
                "y by ab | #1=#0 | Equal(#5, #0)",
            ],
        ),
        (
            "SELECT x.id FROM u x JOIN u y ON y.id = x.a",
            &["x scan |  | ", "y by key | #0=#1 | Equal(#4, #1)"],
        ),
        ("SELECT 1 FROM u x, u y", &["x scan |  | ", "y scan |  | "]),
        ("SELECT 1 FROM u x JOIN u y ON x.f = y.f", &["x scan |  | ", "y scan |  | Equal(#3, #7)"]),
        (
            "SELECT 1 FROM u x LEFT JOIN u y ON y.id = x.a AND y.b = 2 AND x.b = 3 WHERE y.f IS NULL",
            &[
                "x scan |  | ",
                "left",
                "y by key Equal(#2, 2) | #0=#1 | Equal(#4, #1) Equal(#6, 2) Equal(#2, 3)",
                "end",
                "filter IsNull(#7)",
            ],
        ),
        (
            "SELECT 1 FROM u x RIGHT JOIN u y ON y.id = x.id",
            &["y scan |  | ", "left", "x by key | #0=#4 | Equal(#4, #0)", "end"],
        ),
        (
            "SELECT 1 FROM u x LEFT JOIN (u y JOIN u z ON z.id = y.a) ON y.id = x.a",
            &[
                "x scan |  | ",
                "left",
                "y by key | #0=#1 | Equal(#4, #1)",
                "z by key | #0=#5 | Equal(#8, #5)",
                "end",
            ],
        ),
        (
            "SELECT 1 FROM u x JOIN (SELECT MAX(a) AS m FROM t) d ON x.id = d.m",
            &["d made |  | ", "x by key | #0=#4 | Equal(#0, #4)"],
        ),
        (
            "SELECT id FROM u WHERE EXISTS (SELECT 1 FROM t WHERE t.a = u.b) AND id > 5",
            &["u PRIMARY [8000000500..] Greater(#0, 5) |  | Greater(#0, 5)", "apply 0", "filter #4"],
        ),
        (
            "SELECT x.id FROM u x JOIN u y USING (a, b)",
            &["x scan |  | ", "y by ab | #1=#1 #2=#2 | Equal(#1, #5) Equal(#2, #6)"],
        ),
    ];
    for (query, expected) in cases {
        assert_eq!(joined(query), expected, "{query}");
    }
}

#[test]
fn rows_so_far_are_looked_up_together() {
    let Ok(Statement::Select(select)) = bind("SELECT y.b FROM u x JOIN u y ON y.id = x.a WHERE x.b = 1")
    else {
        panic!()
    };
    let context = Context::default();
    let plan = JoinPlan::new(&select, &context).unwrap();
    let Some(Step::Source(step)) = plan.steps.last() else { panic!() };
    let row = |a: Datum| {
        let mut row = vec![Datum::Null; plan.width];
        row[1] = a;
        row
    };
    let source = &select.from.sources[step.source];
    let rows = [row(Datum::Int(7)), row(Datum::Null), row(Datum::Int(5)), row(Datum::Int(7))];
    let found = join::lookup(source, source.table().unwrap(), step, &rows, &context).unwrap();
    let Access::Keys(keys) = found else { panic!("{found:?}") };
    assert_eq!(keys, [[0x80, 0, 0, 5], [0x80, 0, 0, 7]], "each once");
    let none = join::lookup(source, source.table().unwrap(), step, &[row(Datum::Null)], &context).unwrap();
    assert_eq!(none, Access::Keys(Vec::new()), "NULL is equal to nothing");
}

#[test]
fn placeholders_decide_when_they_have_values() {
    let query = "SELECT * FROM t WHERE a = ? AND b = ?";
    let text = |text: &str| Datum::Text(text.into());
    assert_eq!(plan(query, &[Datum::Int(1), text("x")]), "(1, \"x\") | #0 Equal 1, #1 Equal \"x\" All | ");
    assert_eq!(plan(query, &[Datum::Null, text("x")]), " | #0 Equal NULL, #1 Equal \"x\" All | ");
    assert_eq!(plan(query, &[text("1"), Datum::Int(3)]), "PRIMARY [80000001..80000002] |  Nothing | ");
}

#[test]
fn deep_conditions_stay_within_what_data_nodes_bear() {
    let deep = (0..12).fold("c = 1".to_owned(), |inner, level| match level % 2 {
        0 => format!("({inner}) AND n = 2 OR c = 3"),
        _ => format!("({inner}) OR n = 2"),
    });
    let planned = plan(&format!("SELECT * FROM t WHERE {deep}"), &[]);
    let depth = planned.matches("any(").count();
    assert!(depth < twofold_proto::filter::FILTER_DEPTH_MAX, "{planned}");
}
