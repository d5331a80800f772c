//! Checks a configuration to its end, and prints the number of states, and a trace for each property that fails.
//!
//!     cargo run -p twofold-model --example check -- CONFIGURATION [MUTATION [PROPERTY]]
//!
//! Without arguments it lists the names. A mutation of `-` is none. With PROPERTY it goes on until that one fails.

#![expect(clippy::disallowed_methods, reason = "a tool, not a machine: arguments are how it is used")]

use twofold_model::{
    check::check,
    config::{Config, Mutation},
};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let mutation = arguments.next().unwrap_or("-".into());
    let property: Option<&'static str> = arguments.next().map(|name| &*name.leak());
    let (impatient, questioned) = (name.starts_with("impatient-"), name.starts_with("questioned-"));
    let base = name.trim_start_matches("impatient-").trim_start_matches("questioned-");
    let config = Config::all().into_iter().find(|config| config.name == base);
    let known = Mutation::ALL.into_iter().find(|known| format!("{known:?}") == mutation);
    let (Some(config), true) = (config, known.is_some() || mutation == "-") else {
        let names: Vec<_> = Config::all().iter().map(|config| config.name).collect();
        println!(
            "CONFIGURATION [MUTATION [PROPERTY]]\nconfigurations, also with impatient- or questioned- before: {names:?}"
        );
        println!("mutations: {:?}", Mutation::ALL);
        return;
    };
    let config = Config { impatient, questioned, mutation: known, ..config };
    let report = check(config, property);
    println!("{name} {mutation}: {} states; reached: {:?}", report.states, report.reached);
    for (property, path) in report.failures {
        println!("\nfails: {property}");
        for (state, action) in path.into_vec() {
            let workers: Vec<_> =
                state.workers.iter().map(|worker| (worker.view, worker.record, worker.role)).collect();
            println!("  TC {:?}, said {:?}, workers {workers:?}", state.coordinator, state.said);
            println!(
                "{}",
                action.map_or(format!("on the links: {:?}", state.links), |action| format!("{action:?}"))
            );
        }
    }
}
