//! Checks a configuration to its end, and prints the number of states, and a trace if a property fails.
//!
//!     cargo run -p twofold-model --example check [CONFIGURATION [MUTATION]]
//!
//! Without arguments it lists the names.

#![expect(clippy::disallowed_methods, reason = "a tool, not a machine: arguments are how it is used")]

use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model as _};
use twofold_model::{
    Model,
    config::{Config, Mutation},
};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let mutation = arguments.next().unwrap_or_default();
    let base = name.strip_prefix("impatient-").unwrap_or(&name);
    let Some(config) = Config::all().into_iter().find(|config| config.name == base) else {
        for config in Config::all() {
            println!("{0}, impatient-{0}", config.name);
        }
        println!("mutations: {:?}", Mutation::ALL);
        return;
    };
    let config = Config {
        impatient: name != base,
        mutation: Mutation::ALL.into_iter().find(|&known| format!("{known:?}") == mutation),
        ..config
    };
    println!("{name}, mutation {:?}", config.mutation);
    let checker = Model(config).checker().threads(2).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.timeout(Duration::from_secs(3600)).spawn_bfs();
    let checker =
        checker.join_and_report(&mut stateright::report::WriteReporter::new(&mut std::io::stdout()));
    for (property, path) in checker.discoveries() {
        println!("\nFAILED: {property}");
        for (state, action) in path.into_vec() {
            let views: Vec<u8> = state.workers.iter().map(|worker| worker.view).collect();
            let records: Vec<_> = state.workers.iter().map(|worker| (worker.record, worker.role)).collect();
            println!("  views {views:?}, {records:?}, TC {:?}, said {:?}", state.coordinator, state.said);
            println!("{}", action.map_or(format!("{:?}", state.links), |action| format!("{action:?}")));
        }
    }
}
