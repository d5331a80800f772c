//! Drivers with real sockets: what links promise holds whatever becomes of the connections.

mod toy;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread::JoinHandle,
    time::Duration,
};

use toy::{CLUSTER, Effect, Input, Tell, Toy};
use twofold_proto::{
    ids::{Endpoint, Incarnation, NodeId, WorkerId},
    link::{Hello, HelloReply, MAGIC, PROTOCOL_VERSION},
    random::Random,
};
use twofold_runtime::{
    Directory, Driver, Listener, Mailbox, handshake::Failure, listener, metrics::DriverMetrics, send_once, thread,
};

const WORKER: WorkerId = WorkerId(0);
/// Nothing here takes a fraction of it, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

fn endpoint(node: u16) -> Endpoint {
    Endpoint::new(NodeId(node), WORKER)
}

/// A toy in a thread of its own, with a port.
struct Node {
    mailbox: Mailbox<Input<'static>>,
    effects: Receiver<Effect>,
    address: SocketAddr,
    directory: Directory,
    metrics: DriverMetrics,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Node {
    fn start(node: u16, configure: impl FnOnce(&mut Toy) + Send + 'static) -> Node {
        let (mailbox, directory, metrics) = (Mailbox::new(), Directory::new(), DriverMetrics::default());
        let (tell, effects) = channel();
        let (ready, address) = channel();
        let parts = (mailbox.clone(), directory.clone(), metrics.clone());
        let thread = thread::spawn(&format!("toy{node}"), move || async move {
            let (mailbox, directory, metrics) = parts;
            let listener = listener::bind("127.0.0.1:0").await.unwrap();
            ready.send(listener.local_addr().unwrap()).unwrap();
            let port = tokio::spawn(Listener::new([(WORKER, mailbox.door())]).serve(listener));
            let mut toy = Toy::new(node, WORKER, CLUSTER);
            configure(&mut toy);
            // A test that has seen enough does not listen any more.
            let owner = Tell(move |effect| drop(tell.send(effect)));
            Driver::new(toy, owner, mailbox, directory, metrics).run().await;
            port.abort();
        });
        Node { mailbox, effects, address: address.unwrap().recv_timeout(PATIENCE).unwrap(), directory, metrics, thread: thread.unwrap() }
    }

    fn input(&self, input: Input<'static>) {
        assert!(self.mailbox.send(input).is_ok(), "the machine has ended");
    }

    fn request(&self, to: Endpoint, number: u64, padding: usize) {
        self.input(Input::Request { to, number, padding });
    }

    fn next(&self) -> Effect {
        self.effects.recv_timeout(PATIENCE).expect("an effect is due")
    }

    fn stop(self) {
        self.mailbox.stop();
        self.thread.join().unwrap().unwrap();
    }
}
