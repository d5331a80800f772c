//! The parent process: starts the node, tells the management nodes when it ends, and starts it again.

use std::{
    env, fs::File, os::unix::process::CommandExt, process::Command, sync::Arc, thread, time::Duration,
};

use twofold_datanode::disk::INITIAL;
use twofold_proto::{
    config::ClusterConfig,
    ids::{Endpoint, Incarnation, NodeId, WorkerId},
    link::{Hello, PROTOCOL_VERSION},
    message::{GoneOrd, Kind, Life, put_control},
};
use twofold_runtime::{angel, bootstrap, clock, send_once};

use crate::{Failure, arguments::Arguments, directory};

/// How long one management node is told.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until the node ends on purpose; returns the exit code.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let _lock = directory::lock(&arguments.dir, "angel.lock")?;
    if arguments.initial {
        // It lasts until the node has been let in, however often it is started until then, and not for longer.
        File::create(arguments.dir.join(INITIAL))?.sync_all()?;
    }
    let config = Arc::new(bootstrap::learn_config(&arguments.mgm));
    arguments.section(&config)?;
    // Not looked up again: what is started anew is what then is at this path, so a new binary takes effect.
    let program = env::current_exe()?;
    let node = NodeId(arguments.id);
    let command = |incarnation: Incarnation| {
        let mut command = Command::new(&program);
        command.args(env::args_os().skip(1)).arg("--incarnation").arg(incarnation.to_string());
        // Out of reach of the terminal's signals: the angel passes them on, once.
        command.process_group(0);
        command
    };
    Ok(angel::watch(command, move |incarnation| tell(&config, Life { node, incarnation }))?)
}

/// Tells all management nodes that this life has ended.
fn tell(config: &ClusterConfig, life: Life) {
    let mut body = Vec::new();
    put_control(&mut body, &GoneOrd { life });
    thread::scope(|scope| {
        for management in &config.management_nodes {
            let hello = Hello {
                version: PROTOCOL_VERSION,
                cluster: config.name.clone(),
                from: Endpoint::new(life.node, WorkerId::ASIDE),
                incarnation: clock::incarnation(),
                to: Endpoint::node(management.id),
                to_incarnation: Incarnation(0),
                received: 0,
            };
            let address = management.address.to_string();
            let body = &body;
            scope.spawn(move || {
                let told = send_once(&address, &hello, Kind::GoneOrd as u8, body, TELL_TIMEOUT);
                if let Err(error) = told {
                    tracing::warn!("management node {} was not told of the end: {error}", management.id);
                }
            });
        }
    });
}
