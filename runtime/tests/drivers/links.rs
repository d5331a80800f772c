//! What links promise holds whatever becomes of the connections.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread::JoinHandle,
    time::Duration,
};

use twofold_ports::ReservedPort;
use twofold_proto::{
    ids::{Endpoint, Incarnation, NodeId, WorkerId},
    link::{Hello, HelloReply, MAGIC, PROTOCOL_VERSION},
    random::Random,
};
use twofold_runtime::{
    Directory, Driver, Listener, Mailbox, handshake::Failure, listener, metrics::DriverMetrics, send_once,
    thread,
};

use crate::toy::{CLUSTER, Effect, Input, Tell, Toy};

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
        let address = address.recv_timeout(PATIENCE).unwrap();
        Node { mailbox, effects, address, directory, metrics, thread: thread.unwrap() }
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

/// Connects the first to the second, by way of this address.
fn connect(from: &Node, to: u16, address: SocketAddr) {
    from.directory.set(NodeId(to), address.to_string());
    from.input(Input::Connect(endpoint(to)));
}

/// Passes connections on to `target`, and cuts each after some bytes, in the middle of whatever they are.
fn cutting_proxy(target: SocketAddr, seed: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut random = Random::new(seed);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let Ok(server) = TcpStream::connect(target) else { continue };
            // Some do not even survive the handshake.
            let most = if random.one_in(4) { 200 } else { 2 << 20 };
            for (mut from, mut to) in
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
            {
                let mut left = random.between(1, most) as usize;
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 << 10];
                    while left > 0 {
                        let most = left.min(buffer.len());
                        let Ok(n @ 1..) = from.read(&mut buffer[..most]) else { break };
                        left -= n;
                        if to.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    // Both directions end, however much of the other is under way. They may have ended already.
                    let _ = from.shutdown(std::net::Shutdown::Both);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    address
}

#[test]
fn messages_arrive_once_and_in_order_over_connections_that_are_cut() {
    const REQUESTS: u64 = 3000;
    let (a, b) = (Node::start(1, |_| ()), Node::start(2, |_| ()));
    connect(&a, 2, cutting_proxy(b.address, 7));
    let mut random = Random::new(8);
    let (mut sent, mut answered) = (0, 0);
    while answered < REQUESTS {
        // A window, as a client has one, so that cuts find messages in every state.
        while sent < REQUESTS && sent < answered + 100 {
            // Small ones that share frames, and some larger than any read.
            let padding = if random.one_in(100) { random.below(600 << 10) } else { random.below(2000) };
            a.request(endpoint(2), sent, padding as usize);
            sent += 1;
        }
        match a.next() {
            Effect::Answered(number) => {
                assert_eq!(number, answered);
                answered += 1;
            }
            other => assert_eq!(other, Effect::Connected),
        }
    }
    for number in 0..REQUESTS {
        assert_eq!(b.next(), Effect::Requested(number));
    }
    // The proxy lets 1 MiB pass on average, and some 12 MB were sent.
    let cuts = a.metrics.disconnects.get();
    assert!(cuts >= 4, "{cuts} cuts");
    assert_eq!((a.metrics.malformed.get(), b.metrics.malformed.get()), (0, 0));
    a.stop();
    b.stop();
}

/// Accepts one connection and answers its hello.
fn accept_by_hand(listener: &TcpListener, reply: &HelloReply) -> (TcpStream, Hello) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).unwrap();
    assert_eq!(magic, MAGIC);
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut body).unwrap();
    stream.write_all(&reply.encode()).unwrap();
    (stream, Hello::decode(&body).unwrap())
}

#[test]
fn a_peer_that_does_not_read_costs_what_its_link_keeps_and_no_more() {
    const REQUESTS: usize = 64;
    const PADDING: usize = 1 << 20;
    let a = Node::start(1, |_| ());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    connect(&a, 2, listener.local_addr().unwrap());
    let (mut stream, hello) =
        accept_by_hand(&listener, &HelloReply::Accepted { incarnation: Incarnation(5), received: 0 });
    assert_eq!((hello.from, hello.to, hello.received), (endpoint(1), endpoint(2), 0));
    assert_eq!(a.next(), Effect::Connected);
    for number in 0..REQUESTS {
        a.request(endpoint(2), number as u64, PADDING);
    }
    // Whether a peer reads or not, the machine goes on.
    a.input(Input::Alarm(Duration::from_millis(1100)));
    assert_eq!(a.next(), Effect::Rang);
    a.input(Input::Alarm(Duration::ZERO));
    assert_eq!(a.next(), Effect::Rang);
    let kept = a.metrics.kept_bytes.get() as usize;
    assert!((REQUESTS * PADDING..REQUESTS * (PADDING + 100)).contains(&kept), "{kept} bytes kept");
    assert!(a.metrics.bytes_out.get() < (REQUESTS * PADDING) as u64, "the socket took everything");
    // When it reads again, all of it comes.
    let mut left = REQUESTS * (PADDING + 8);
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "{left} bytes are missing");
        left = left.saturating_sub(n);
    }
    a.stop();
}

#[test]
fn a_refusal_is_heard_by_the_machine() {
    let (a, b) = (Node::start(1, |_| ()), Node::start(2, |_| ()));
    a.directory.set(NodeId(2), b.address.to_string());
    a.directory.set(NodeId(3), b.address.to_string());
    let reason = |node: &Node| match node.next() {
        Effect::Refused(reason) => reason,
        other => panic!("{other:?}"),
    };
    a.input(Input::Connect(endpoint(3)));
    assert_eq!(reason(&a), "this is n2w0, not n3w0");
    let nobody = Endpoint::new(NodeId(2), WorkerId(9));
    a.input(Input::Connect(nobody));
    assert_eq!(reason(&a), "there is no n2w9 here");
    assert_eq!(b.metrics.refusals.get(), 1);
    a.stop();
    b.stop();
}

#[test]
fn connecting_goes_on_until_someone_listens() {
    let (a, b) = (Node::start(1, |_| ()), Node::start(2, |_| ()));
    a.input(Input::Connect(endpoint(2)));
    a.request(endpoint(2), 1, 0);
    // First nobody is known, then nobody is there.
    a.input(Input::Alarm(Duration::from_millis(30)));
    assert_eq!(a.next(), Effect::Rang);
    let nobody = ReservedPort::new();
    a.directory.set(NodeId(2), nobody.address().to_string());
    a.input(Input::Alarm(Duration::from_millis(30)));
    assert_eq!(a.next(), Effect::Rang);
    assert_eq!(a.metrics.connects.get(), 0);
    a.directory.set(NodeId(2), b.address.to_string());
    assert_eq!([a.next(), a.next()], [Effect::Connected, Effect::Answered(1)]);
    a.stop();
    b.stop();
}

#[test]
fn what_is_no_frame_ends_the_connection_and_not_the_link() {
    let a = Node::start(1, |_| ());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    connect(&a, 2, listener.local_addr().unwrap());
    let accepted = HelloReply::Accepted { incarnation: Incarnation(5), received: 0 };
    for nonsense in [&[0xff; 32][..], &[33, 0, 0, 0, 7, 7, 7, 7].repeat(4)] {
        let (mut stream, _) = accept_by_hand(&listener, &accepted);
        assert_eq!(a.next(), Effect::Connected);
        stream.write_all(nonsense).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is closed");
    }
    let malformed = a.metrics.malformed.clone();
    a.stop();
    assert_eq!(malformed.get(), 2);
}

#[test]
fn another_protocol_shares_the_port() {
    let (sender, address) = channel();
    let server = thread::spawn("server", move || async move {
        let mailbox: Mailbox<Input<'static>> = Mailbox::new();
        let mut listener = Listener::new([(WORKER, mailbox.door())]);
        let mut others = listener.others();
        let socket = listener::bind("127.0.0.1:0").await.unwrap();
        sender.send(socket.local_addr().unwrap()).unwrap();
        tokio::spawn(listener.serve(socket));
        let stream = std::future::poll_fn(|context| {
            futures_core::Stream::poll_next(std::pin::Pin::new(&mut others), context)
        });
        let stream = stream.await.unwrap().unwrap();
        twofold_runtime::Metrics::new().serve_client(stream).await.unwrap();
    })
    .unwrap();
    let mut client = TcpStream::connect(address.recv_timeout(PATIENCE).unwrap()).unwrap();
    client.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    server.join().unwrap().unwrap();
}

#[test]
fn one_message_can_be_delivered_without_a_machine() {
    let b = Node::start(2, |_| ());
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: CLUSTER.into(),
        from: endpoint(0),
        incarnation: Incarnation(77),
        to: endpoint(2),
        to_incarnation: Incarnation(0),
        received: 0,
    };
    let address = b.address.to_string();
    assert_eq!(send_once(&address, &hello, 1, &42u64.to_le_bytes(), PATIENCE), Ok(()));
    assert_eq!(b.effects.try_recv(), Ok(Effect::Requested(42)), "it was processed before this returned");
    let stranger = Hello { cluster: "strangers".into(), ..hello };
    let Err(Failure::Refused { temporary: false, reason }) = send_once(&address, &stranger, 1, &[], PATIENCE)
    else {
        panic!("a stranger was let in");
    };
    assert!(reason.contains("«strangers»"), "{reason}");
    b.stop();
}

#[test]
fn what_is_sent_before_a_stop_arrives() {
    let (a, b) = (Node::start(1, |_| ()), Node::start(2, |toy| toy.answers = false));
    connect(&a, 2, b.address);
    assert_eq!(a.next(), Effect::Connected);
    for number in 0..32 {
        a.request(endpoint(2), number, 1 << 20);
    }
    a.stop();
    for number in 0..32 {
        assert_eq!(b.next(), Effect::Requested(number));
    }
    b.stop();
}
