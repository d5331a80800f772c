//! `twofold-recovery`: how long it takes until all nodes serve again, by the amount of data.

use std::{
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use twofold_cluster_tests::{Cluster, Output, Plot, binary, eventually, median_and_worst, run};

/// Starts a cluster for each amount of data, has its data nodes end, and says how long it took until all served again.
///
/// Rows have a key of 8 bytes and 100 bytes more. The time runs from the command that ends the node.
#[derive(Parser)]
#[command(name = "twofold-recovery", version)]
struct Arguments {
    /// Amounts of rows
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 1_000_000])]
    rows: Vec<u64>,
    /// What happens; all of it, if none is said
    #[arg(long, value_enum)]
    case: Vec<Case>,
    /// How often each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Case {
    /// A data node is killed; it loads what it has on disk, and nothing was written meanwhile
    Node,
    /// The same while rows are updated without a pause
    Load,
    /// A data node is stopped and starts with an empty disk
    Initial,
    /// All data nodes are killed
    System,
}

/// What a row takes at most, with its share of what is not rows.
const ROW_BYTES: u64 = 256;
const MEMORY_LEAST: u64 = 256 << 20;
/// Load before the fault.
const STEADY: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if cfg!(debug_assertions) {
        println!("this is a development build: its figures mean nothing");
    }
    let cases = match arguments.case.is_empty() {
        true => Case::value_variants().to_vec(),
        false => arguments.case.clone(),
    };
    let mut lines: Vec<(String, Vec<(f64, f64)>)> =
        cases.iter().map(|case| (said(*case), Vec::new())).collect();
    let mut results = Vec::new();
    for &rows in &arguments.rows {
        let cluster = filled(rows);
        for (case, (name, points)) in cases.iter().zip(&mut lines) {
            let seconds: Vec<f64> =
                (0..arguments.rounds).map(|number| round(&cluster, *case, number, rows)).collect();
            let (median, worst) = median_and_worst(seconds.iter().copied());
            println!("{rows} rows, {name}: median {median:.1} s, worst {worst:.1} s");
            points.push((rows as f64, median));
            results.push(json!({ "rows": rows, "case": name, "seconds": seconds }));
        }
    }
    let plot = Plot {
        title: "Until all nodes serve again, medians",
        x: "rows of 108 bytes",
        y: "seconds",
        lines: &lines,
    };
    match arguments.output.write(&Value::Array(results), &plot) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn said(case: Case) -> String {
    let text = match case {
        Case::Node => "a node killed",
        Case::Load => "a node killed, under updates",
        Case::Initial => "a node with an empty disk",
        Case::System => "all nodes killed",
    };
    text.into()
}

/// A cluster with so many rows.
fn filled(rows: u64) -> Cluster {
    let cluster = Cluster::start(&[]);
    let memory = (rows * ROW_BYTES).max(MEMORY_LEAST) >> 20;
    cluster.reconfigure(|config| {
        config.replace("[cluster]", &format!("[cluster]\ndata_memory = \"{memory}MiB\""))
    });
    let filled = run(&mut lookup(&cluster, rows, &["--phases", "insert", "--in-flight", "1600"]));
    assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
    cluster
}

fn lookup(cluster: &Cluster, rows: u64, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("twofold-bench"));
    command.args(["lookup", "--mgm", &cluster.management(), "--rows", &rows.to_string()]).args(arguments);
    command
}

/// Updates, until it is dropped.
struct Updates(Child);

impl Updates {
    fn start(cluster: &Cluster, rows: u64) -> Updates {
        let arguments = ["--phases", "update", "--in-flight", "512", "--warm-up", "0", "--measure", "600"];
        let child = lookup(cluster, rows, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        std::thread::sleep(STEADY);
        Updates(child.expect("the load starts"))
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds until all serve again.
fn round(cluster: &Cluster, case: Case, number: u32, rows: u64) -> f64 {
    let node = ["data1", "data2"][number as usize % 2];
    let load = (case == Case::Load).then(|| Updates::start(cluster, rows));
    let former = ["data1", "data2"].map(|name| (name, cluster.pid(name)));
    let ends = |name: &str| case == Case::System || name == node;
    let begin = Instant::now();
    match case {
        Case::Node | Case::Load => cluster.done(&["kill", node]),
        Case::Initial => cluster.done(&["restart", node, "--initial"]),
        Case::System => former.iter().for_each(|(name, _)| cluster.done(&["kill", name])),
    }
    eventually(|| {
        let is_former = |(name, pid): &(&str, Option<u64>)| ends(name) && cluster.pid(name) == *pid;
        former.iter().find(|one| is_former(one)).map(|(name, _)| format!("{name} has not been started again"))
    });
    cluster.wait();
    let seconds = begin.elapsed().as_secs_f64();
    if let Some(mut load) = load {
        assert!(
            load.0.try_wait().expect("a child can be waited for").is_none(),
            "the load has ended before the node was back"
        );
    }
    println!("{rows} rows, {}, {node}: {seconds:.1} s", said(case));
    seconds
}
