//! A rolling restart: one data node after the other hands over what it serves and starts anew, with whatever program is
//! there by then, while the others serve.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use twofold_grpc::management::{Node, NodeState, RestartNodeRequest, ShowResponse};
use twofold_proto::config::Address;

use crate::{
    CALL_TIMEOUT,
    client::{Client, Failure},
    show::{data_nodes, states},
};

/// How often it is looked whether a node is back.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The data nodes that are not up, with their states; empty: all are.
fn missing(shown: &ShowResponse) -> String {
    states(data_nodes(shown).filter(|node| node.state() != NodeState::Up))
}

/// Restarts all data nodes, each once the one before is up; `patience`: for each.
pub async fn restart(management: &[Address], patience: Duration) -> Result<(), Failure> {
    let shown = show(management).await?;
    let missing = missing(&shown);
    if !missing.is_empty() {
        return Err(Failure(format!(
            "{missing}: the others cannot do without another node; wait until all data nodes are up, see `twofold show`"
        )));
    }
    let names: Vec<String> = data_nodes(&shown).map(|node| node.name.clone()).collect();
    for (place, name) in names.iter().enumerate() {
        let began = Instant::now();
        println!("{name} starts anew ({} of {})", place + 1, names.len());
        if let Err(Failure(text)) = restart_one(management, name, patience).await {
            let rest = names[place + 1..].join(", ");
            let rest = if rest.is_empty() { String::new() } else { format!("; not restarted: {rest}") };
            return Err(Failure(format!("{text}{rest}")));
        }
        println!("{name} is up again after {:.1} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn show(management: &[Address]) -> Result<ShowResponse, Failure> {
    Client::connect(management, CALL_TIMEOUT).await?.show().await
}

async fn restart_one(management: &[Address], name: &str, patience: Duration) -> Result<(), Failure> {
    let until = Instant::now() + patience;
    let before = show(management).await?;
    let former = data_nodes(&before).find(|node| node.name == name).map(|node| node.incarnation);
    let request = RestartNodeRequest { node: name.into(), force: false };
    Client::connect(management, CALL_TIMEOUT).await?.restart(request).await?;
    let mut told = String::new();
    loop {
        sleep(LOOK_EVERY).await;
        // Whoever leads the management nodes may change meanwhile.
        let seen = show(management).await;
        let state = match &seen {
            Ok(shown) => {
                let is_new = |node: &Node| node.name == name && Some(node.incarnation) != former;
                match missing(shown) {
                    missing if missing.is_empty() && data_nodes(shown).any(is_new) => return Ok(()),
                    missing if missing.is_empty() => format!("{name} goes on as it was"),
                    missing => missing,
                }
            }
            Err(Failure(text)) => text.clone(),
        };
        if state != told {
            println!("  {state}");
            told.clone_from(&state);
        }
        if Instant::now() >= until {
            return Err(Failure(format!(
                "{state}, {} s after {name} was asked to start anew",
                patience.as_secs()
            )));
        }
    }
}
