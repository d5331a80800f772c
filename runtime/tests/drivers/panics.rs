//! The flight recorder, seen from outside.

use std::{env, process::Command, time::Duration};

use twofold_proto::{
    ids::{Endpoint, Incarnation, NodeId, WorkerId},
    link::{Hello, PROTOCOL_VERSION},
};
use twofold_runtime::{
    Directory, Driver, Listener, Mailbox, listener, metrics::DriverMetrics, recorder, send_once, thread,
};

use crate::toy::{CLUSTER, Tell, Toy};

/// Set in the process that is to panic.
const PANIC: &str = "TWOFOLD_TEST_PANIC";

#[test]
fn a_panic_tells_the_last_inputs_of_its_thread() {
    if env::var_os(PANIC).is_some() {
        return panic_at_a_frame();
    }
    let name = "panics::a_panic_tells_the_last_inputs_of_its_thread";
    let output = Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(PANIC, "1")
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let (_, inputs) = stderr
        .split_once("last inputs of thread toy, oldest first:\n")
        .unwrap_or_else(|| panic!("nothing was recorded: {stderr}"));
    let inputs: Vec<_> =
        inputs.lines().filter_map(|line| line.split_once("ms ")).map(|(_, input)| input).collect();
    assert_eq!(inputs[0], "hello from n0w0");
    assert_eq!(
        inputs.iter().find(|input| input.starts_with("frame")),
        Some(&"frame 1 from n0w0, 43 bytes, first message of kind 1, acknowledges 0")
    );
}

fn panic_at_a_frame() {
    recorder::install();
    let (sender, address) = std::sync::mpsc::channel();
    let worker = WorkerId(0);
    let thread = thread::spawn("toy", move || async move {
        let mailbox = Mailbox::new();
        let port = listener::bind("127.0.0.1:0").await.unwrap();
        sender.send(port.local_addr().unwrap().to_string()).unwrap();
        tokio::spawn(Listener::new([(worker, mailbox.door())]).serve(port));
        let toy = Toy::new(2, worker, CLUSTER);
        Driver::new(toy, Tell(drop), mailbox, Directory::new(), DriverMetrics::default()).run().await;
    })
    .unwrap();
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: CLUSTER.into(),
        from: Endpoint::new(NodeId(0), worker),
        incarnation: Incarnation(1),
        to: Endpoint::new(NodeId(2), worker),
        to_incarnation: Incarnation(0),
        received: 0,
    };
    // Shorter than a toy expects.
    let result = send_once(&address.recv().unwrap(), &hello, 1, &[1, 2, 3], Duration::from_secs(60));
    assert!(result.is_err(), "it was acknowledged");
    assert!(thread.join().is_err(), "it did not panic");
}
