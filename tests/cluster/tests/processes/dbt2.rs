//! DBT2: both drivers on the same tables, a node that dies in mid-run, and what `check` sees.

use std::{fs, path::Path, process::Command};

use serde_json::Value as Json;
use twofold_client::{Cluster as Client, Operation, Row, Table, Value};
use twofold_cluster_tests::{Cluster, binary, run};

/// The smallest tables on which the transactions still meet all kinds of rows.
const SCALE: &str = "100";

/// Runs `twofold-bench dbt2`; its exit code and what it says.
fn dbt2(cluster: &Cluster, driver: &str, words: &[&str]) -> (Option<i32>, String) {
    let (task, rest) = words.split_first().expect("a subcommand");
    let output = run(Command::new(binary("twofold-bench"))
        .args(["dbt2", task, "--driver", driver, "--mgm", &cluster.management()])
        .args(["--server", &format!("127.0.0.1:{}", cluster.port("api1", "sql_port"))])
        .args(rest));
    let [said, errors] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code(), said + &errors)
}

fn done(cluster: &Cluster, driver: &str, words: &[&str]) -> String {
    let (code, said) = dbt2(cluster, driver, words);
    assert_eq!(code, Some(0), "{driver} {words:?}: {said}");
    said
}

fn load(cluster: &Cluster, driver: &str, warehouses: &str) {
    done(cluster, driver, &["load", "--warehouses", warehouses, "--scale", SCALE]);
}

fn committed(report: &Path) -> Vec<u64> {
    let report: Json = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let sum = |counts: &Json| counts.as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum();
    report["timeline"]["committed"].as_array().unwrap().iter().map(sum).collect()
}

#[test]
fn dbt2_goes_on_when_a_data_node_dies_and_all_conditions_hold() {
    let cluster = Cluster::start(&[]);
    let kill = |node: &str| {
        format!("1.5:{} cluster --dir {} kill {node}", binary("twofold").display(), cluster.dir().display())
    };
    // What one driver has loaded and run on the other one finds as its own.
    for (loader, driver, node) in [("native", "sql", "data1"), ("sql", "native", "data2")] {
        load(&cluster, loader, "2");
        assert!(!done(&cluster, driver, &["check"]).contains("not looked at"));
        let (json, html) = (cluster.file(&format!("{driver}.json")), cluster.file(&format!("{driver}.html")));
        let former = cluster.pid(node);
        let at = kill(node);
        let times =
            ["--warm-up", "0.5", "--measure", "5", "--cool-down", "0.5", "--terminals", "4", "--at", &at];
        let files = ["--json", json.to_str().unwrap(), "--html", html.to_str().unwrap()];
        let said = done(&cluster, driver, &[&["run"], &times[..], &files[..]].concat());
        assert!(said.contains("NOTPM"), "{said}");
        cluster.wait_for_new_life(node, former);
        let committed = committed(&json);
        // Before it died, and in the last two seconds.
        assert!(committed[..15].iter().sum::<u64>() > 0, "{committed:?}");
        assert!(committed[committed.len() - 20..].iter().sum::<u64>() > 0, "{committed:?}");
        let html = fs::read_to_string(html).unwrap();
        assert!(html.contains(&format!("kill {node}")) && html.ends_with("</html>\n"));
        for checker in ["sql", "native"] {
            let said = done(&cluster, checker, &["check"]);
            assert_eq!(said.matches("  holds: ").count(), 11, "{said}");
        }
    }
}

/// A change of one row, and what takes it back.
struct Corruption {
    condition: usize,
    change: Vec<Operation>,
    undo: Vec<Operation>,
}

fn corrupt(
    condition: usize,
    change: impl Into<Vec<Operation>>,
    undo: impl Into<Vec<Operation>>,
) -> Corruption {
    Corruption { condition, change: change.into(), undo: undo.into() }
}

fn insert(table: &Table, row: &Row, changed: &[(&str, Value)]) -> Operation {
    table.insert(row.iter().map(|(name, value)| {
        let other = changed.iter().find(|(of, _)| *of == name).map(|(_, value)| value);
        (name, other.unwrap_or(value).borrowed())
    }))
}

/// Conditions hang together by their sums, so for some of them the one row is one too many, or one that is missing.
async fn corruptions(client: &Client) -> Vec<Corruption> {
    let table = |name: &str| client.table(&format!("dbt2.{name}")).unwrap();
    let read = async |table: &Table, key: &[i64]| {
        client.run(table.read(key.iter().copied())).await.unwrap().row.expect("the row is there")
    };
    let (district, customer, history) = (table("district"), table("customer"), table("history"));
    let (orders, new_order, line) = (table("orders"), table("new_order"), table("order_line"));
    let third = read(&district, &[1, 3]).await;
    let delivered = read(&orders, &[1, 1, 5]).await;
    let a_line = read(&line, &[1, 1, 5, 1]).await;
    let payment = read(&history, &[1, 1]).await;
    let number = |number: i64| Value::Int(number);
    let none = [("o_id", number(0)), ("o_ol_cnt", number(0))];
    let waits = [&none[..], &[("o_carrier_id", Value::Null)]].concat();
    let next = |by: i64| district.update([1, 3]).add("d_next_o_id", by);
    let new = [("no_w_id", 1.into()), ("no_d_id", 1.into()), ("no_o_id", 0.into())];
    let nowhere = insert(&line, &a_line, &[("ol_o_id", number(99_999))]);
    let elsewhere = insert(&line, &a_line, &[("ol_o_id", number(1)), ("ol_number", number(99))]);
    let dated = |value: &Value| line.update([1, 1, 5, 1]).set("ol_delivery_d", value.borrowed());
    let no_district = [("h_id", number(0)), ("h_d_id", number(11)), ("h_c_id", number(0))];
    let of = |column: &'static str, value: i64| history.update([1, 1]).set(column, value);
    let paid = |by: i64| customer.update([1, 1, 1]).add("c_ytd_payment", by);
    vec![
        corrupt(1, [district.delete([1, 3])], [insert(&district, &third, &[])]),
        corrupt(2, [next(1)], [next(-1)]),
        corrupt(3, [new_order.insert(new)], [new_order.delete([1, 1, 0])]),
        corrupt(4, [nowhere], [line.delete([1, 1, 99_999, 1])]),
        corrupt(5, [insert(&orders, &delivered, &waits)], [orders.delete([1, 1, 0])]),
        corrupt(
            6,
            [line.delete([1, 1, 5, 1]), elsewhere],
            [line.delete([1, 1, 1, 99]), insert(&line, &a_line, &[])],
        ),
        corrupt(7, [dated(&Value::Null)], [dated(&a_line["ol_delivery_d"])]),
        corrupt(8, [insert(&history, &payment, &no_district)], [history.delete([1, 0])]),
        corrupt(9, [of("h_d_id", 2)], [of("h_d_id", 1)]),
        corrupt(10, [of("h_c_id", 2)], [of("h_c_id", 1)]),
        corrupt(11, [insert(&orders, &delivered, &none)], [orders.delete([1, 1, 0])]),
        corrupt(12, [paid(-1)], [paid(1)]),
    ]
}

#[test]
fn a_row_that_is_wrong_violates_exactly_its_condition() {
    let cluster = Cluster::start(&[]);
    load(&cluster, "native", "1");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let management = cluster.management();
        let client = Client::connect(management.split(',')).await.unwrap();
        let loaded = client.table("dbt2.loaded").unwrap();
        for Corruption { condition, change, undo } in corruptions(&client).await {
            // Condition 11 is about tables on which nothing was run.
            let runs = i64::from(condition != 11);
            client.run(loaded.update(["runs"]).set("value", runs)).await.unwrap();
            client.transaction(change).await.unwrap();
            for driver in ["native", "sql"] {
                let (code, said) = dbt2(&cluster, driver, &["check"]);
                assert_eq!(code, Some(3), "{condition}: {said}");
                assert_eq!(said.matches("DOES NOT HOLD").count(), 1, "{condition}: {said}");
                assert!(said.contains(&format!("{condition:>2}  DOES NOT HOLD")), "{condition}: {said}");
            }
            client.transaction(undo).await.unwrap();
        }
        client.close().await;
    });
    done(&cluster, "sql", &["check"]);
}
