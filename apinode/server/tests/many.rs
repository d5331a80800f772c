//! Many connections: which thread has them, and whose turn it is.

mod common;

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc};

use common::Fake;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
};
use twofold_apinode_server::memcached::Server;
use twofold_client::admission::Admission;

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Says this and hears one line.
async fn ask(stream: &mut TcpStream, said: &str) -> String {
    stream.write_all(said.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\n") {
        heard.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(heard).unwrap()
}

fn run(test: impl Future<Output = ()>) {
    twofold_runtime::thread::runtime().unwrap().block_on(test);
}

#[test]
fn connections_go_to_the_thread_that_has_fewest() {
    run(async {
        let (listener, address) = listen().await;
        let (other, _) = listen().await;
        let server = Server::new(address.port(), 2, 10);
        // Each thread has a cluster of its own here, which shows whose a connection is.
        spawn_local(server.clone().serve(0, listener, Fake::new().start()));
        spawn_local(server.serve(1, other, Fake::new().start()));
        let mut connections = Vec::new();
        for number in 0..6 {
            let mut stream = connect(address).await;
            let heard = ask(&mut stream, "incr a 1\r\n").await;
            // The first of each thread finds nothing.
            let expected = if number < 2 { "NOT_FOUND\r\n".into() } else { format!("{}\r\n", number / 2) };
            assert_eq!(heard, expected, "connection {number}");
            if number < 2 {
                assert_eq!(ask(&mut stream, "set a 0 0 1\r\n0\r\n").await, "STORED\r\n");
            }
            connections.push(stream);
        }
        assert_eq!(ask(&mut connections[5], "incr a 1\r\n").await, "3\r\n");
        assert_eq!(ask(&mut connections[4], "incr a 1\r\n").await, "3\r\n");
    });
}

#[test]
fn connections_that_wait_for_their_clients_take_no_room() {
    run(async {
        let (listener, address) = listen().await;
        let handle = Fake::new().start().with_admission(Admission::default());
        spawn_local(Server::new(address.port(), 1, 10).serve(0, listener, handle.clone()));
        let mut connections = Vec::new();
        for said in ["get a\r\n", "version\r\n", "set b 0 0 1\r\nx\r\nversion\r\n", "set a 0"] {
            let mut stream = connect(address).await;
            assert_eq!(ask(&mut stream, "get a\r\n").await, "END\r\n");
            stream.write_all(said.as_bytes()).await.unwrap();
            connections.push(stream);
        }
        ask(&mut connect(address).await, "version\r\n").await;
        // All that there is.
        assert!(handle.admit(usize::MAX).await.is_ok());
    });
}

/// How many bytes of answers one connection gets that says this without end, while another one is answered once; on
/// average. Servers and clients share one thread, so it counts turns, not time.
fn answered_meanwhile(said: &'static str) -> u64 {
    const ASKED: u64 = 50;
    let answered = Rc::new(Cell::new(0));
    let count = answered.clone();
    run(async move {
        let (listener, address) = listen().await;
        spawn_local(Server::new(address.port(), 1, 10).serve(0, listener, Fake::new().start()));
        let mut other = connect(address).await;
        assert_eq!(ask(&mut other, "set a 0 0 1\r\nx\r\n").await, "STORED\r\n");
        let (mut reader, mut writer) = connect(address).await.into_split();
        let endless = Arc::new(said.repeat(10_000));
        spawn_local(async move { while writer.write_all(endless.as_bytes()).await.is_ok() {} });
        let so_far = count.clone();
        spawn_local(async move {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(bytes @ 1..) = reader.read(&mut buffer).await {
                so_far.set(so_far.get() + bytes as u64);
            }
        });
        while count.get() == 0 {
            tokio::task::yield_now().await;
        }
        let before = count.get();
        for _ in 0..ASKED {
            assert_eq!(ask(&mut other, "touch a 0\r\n").await, "TOUCHED\r\n");
        }
        count.set((count.get() - before) / ASKED);
    });
    answered.get()
}

#[test]
fn who_sends_without_end_does_not_starve_others() {
    // A turn answers what one reading brings, or one batch; another connection takes some turns.
    let versions = answered_meanwhile("version\r\n");
    assert!(versions > 0 && versions < 2 << 20, "{versions} bytes of versions");
    let gets = answered_meanwhile("get a\r\n");
    assert!(gets > 0 && gets < 1 << 20, "{gets} bytes of items");
}
