//! What a message costs between the drivers of two threads, over loopback: `cargo run --release --example messages`.

#[path = "../tests/drivers/toy.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod toy;

use std::{cell::Cell, rc::Rc, sync::mpsc, time::Instant};

use tokio::{sync::Notify, task::spawn_local};
use toy::{CLUSTER, Effect, Input, Tell, Toy};
use twofold_proto::ids::{Endpoint, NodeId, WorkerId};
use twofold_runtime::{
    Directory, Driver, Listener, Local, Mailbox, listener, metrics::DriverMetrics, thread,
};

const WORKER: WorkerId = WorkerId(0);
/// Bytes of a request besides its number; an answer is a number.
const PADDING: usize = 24;

/// What is out, and who waits for it to come back.
#[derive(Default)]
struct Batch {
    out: Cell<u64>,
    back: Notify,
}

fn main() {
    let (sender, address) = mpsc::channel();
    let answerer = Mailbox::new();
    let mailbox = answerer.clone();
    let server = thread::spawn("answerer", move || async move {
        let port = listener::bind("127.0.0.1:0").await.expect("loopback has a port");
        sender.send(port.local_addr().expect("it is bound")).expect("main waits");
        tokio::spawn(Listener::new([(WORKER, mailbox.door())]).serve(port));
        let toy = Toy::new(2, WORKER, CLUSTER);
        Driver::new(toy, Tell(drop), mailbox, Directory::new(), DriverMetrics::default()).run().await;
    })
    .expect("there is room for a thread");
    let address = address.recv().expect("the server binds").to_string();
    thread::runtime().expect("there is room for a runtime").block_on(ask(address));
    answerer.stop();
    server.join().expect("no panic").expect("a runtime");
}

async fn ask(address: String) {
    let directory = Directory::new();
    directory.set(NodeId(2), address);
    let batch = Rc::new(Batch::default());
    let owner = {
        let batch = batch.clone();
        Tell(move |effect| match effect {
            Effect::Answered(_) | Effect::Connected => {
                batch.out.set(batch.out.get() - 1);
                if batch.out.get() == 0 {
                    batch.back.notify_one();
                }
            }
            _ => (),
        })
    };
    let metrics = DriverMetrics::default();
    let driver = Driver::new(Toy::new(1, WORKER, CLUSTER), owner, Mailbox::new(), directory, metrics.clone());
    let local = driver.local();
    spawn_local(driver.run());
    let to = Endpoint::new(NodeId(2), WORKER);
    batch.out.set(1);
    local.step(Input::Connect(to));
    batch.back.notified().await;
    println!(
        "{:>6} {:>12} {:>14} {:>16} {:>12}",
        "batch", "messages/s", "µs per batch", "CPU ns/message", "writes"
    );
    for size in [1, 16, 64, 256, 1024, 4096] {
        let rounds = (2_000_000 / size).min(40_000);
        round_trips(&local, &batch, to, size, rounds / 10).await;
        let (writes, cpu, began) = (metrics.writes.get(), cpu_seconds(), Instant::now());
        round_trips(&local, &batch, to, size, rounds).await;
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        // A request and an answer.
        let messages = (2 * size * rounds) as f64;
        println!(
            "{size:>6} {:>12.0} {:>14.1} {:>16.0} {:>12}",
            messages / seconds,
            seconds / rounds as f64 * 1e6,
            cpu / messages * 1e9,
            metrics.writes.get() - writes,
        );
    }
}

async fn round_trips<F: FnMut(Effect)>(
    local: &Local<Toy, Tell<F>>,
    batch: &Batch,
    to: Endpoint,
    size: u64,
    rounds: u64,
) {
    for _ in 0..rounds {
        batch.out.set(size);
        for number in 0..size {
            local.step(Input::Request { to, number, padding: PADDING });
        }
        batch.back.notified().await;
    }
}

/// CPU time of this process, user and system.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
