//! Node after node is killed under load, in any order and while others come back: no acknowledged write is lost, none is
//! applied twice.

use std::{
    env,
    thread::sleep,
    time::{Duration, Instant},
};

use twofold_cluster_tests::{Cluster, Journal, Load, eventually};
use twofold_proto::random::Random;

/// How many kills there are, unless `TWOFOLD_KILLS` says another number.
const KILLS: u32 = 50;
const DATA: [&str; 2] = ["data1", "data2"];
const MANAGEMENT: [&str; 3] = ["mgm1", "mgm2", "mgm3"];

/// `kill -9` of a node's process, which its angel starts again.
fn kill(cluster: &Cluster, node: &str) -> Option<u64> {
    let former = cluster.pid(node);
    cluster.done(&["kill", node]);
    former
}

fn wait_for_process(cluster: &Cluster, node: &str, former: Option<u64>) {
    eventually(|| {
        let pid = cluster.pid(node);
        (pid.is_none() || pid == former).then(|| format!("{node} has not been started again"))
    });
}

/// One fault, and the time until all serve again; how many kills it was.
fn fault(cluster: &Cluster, random: &mut Random) -> u32 {
    let (node, manager) = (*random.pick(&DATA), *random.pick(&MANAGEMENT));
    let moment = Duration::from_millis(random.below(600));
    let kills = match random.below(6) {
        0 | 1 => {
            let former = kill(cluster, node);
            wait_for_process(cluster, node, former);
            1
        }
        // Again while it comes back.
        2 => {
            for _ in 0..2 {
                let former = kill(cluster, node);
                wait_for_process(cluster, node, former);
                sleep(moment);
            }
            2
        }
        // With its angel: nobody tells of its end.
        3 => {
            cluster.done(&["kill", node, "--host"]);
            sleep(moment);
            cluster.done(&["restart", node]);
            1
        }
        // While one of those who decide is away, too.
        4 => {
            cluster.done(&["kill", manager]);
            let former = kill(cluster, node);
            wait_for_process(cluster, node, former);
            cluster.done(&["restart", manager]);
            2
        }
        _ => {
            cluster.done(&["kill", manager]);
            sleep(moment);
            cluster.done(&["restart", manager]);
            1
        }
    };
    cluster.wait();
    kills
}

#[test]
fn kill_after_kill() {
    let total = match env::var("TWOFOLD_KILLS") {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("TWOFOLD_KILLS={text}: {error}")),
        Err(_) => KILLS,
    };
    let mut random = Random::new(u64::from(total));
    let cluster = Cluster::start(&["--mgm-nodes", "3"]);
    let began = Instant::now();
    let (mut kills, mut round, mut failed) = (0, 0, 0);
    while kills < total {
        round += 1;
        let load = Load { seconds: 20, keys: 100, pause: 0.01 };
        let mut journal = Journal::with_load(&cluster, &format!("round{round}"), load);
        while kills < total && !journal.has_ended() {
            kills += fault(&cluster, &mut random);
        }
        failed += journal.finish(&cluster).failed();
        eprintln!("{kills} kills in {:.0?}, {failed} calls failed", began.elapsed());
    }
}
