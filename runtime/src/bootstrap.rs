//! What a process needs before it has a machine: the config, which the management nodes have.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use twofold_proto::{
    config::ClusterConfig,
    ids::{Endpoint, Incarnation, NodeId, WorkerId},
    link::{Hello, PROTOCOL_VERSION},
    message::{Kind, control},
};

use crate::{clock::incarnation, handshake::receive_once};

/// Whom a process that knows nothing says it is: an unlisted client, apart from those that have machines.
const STRANGER: Endpoint = Endpoint::new(NodeId(0), WorkerId::ASIDE);
/// How long one management node is asked.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Wait until all are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// So many rounds without a config are worth a line in the log; then twice as many, and so on.
const ROUNDS_LOGGED: u32 = 25;

/// Asks the management nodes at these addresses (host:port) in turn, until one of them gives the config. Blocks;
/// while no management node has one there is nothing else to do.
pub fn learn_config(addresses: &[String]) -> ClusterConfig {
    for round in 0u32.. {
        let failures = match ask_all(addresses) {
            Ok(config) => return config,
            Err(failures) => failures,
        };
        if round == 0 {
            tracing::info!("no management node has given the config yet: {failures}");
        } else if round % ROUNDS_LOGGED == 0 && (round / ROUNDS_LOGGED).is_power_of_two() {
            tracing::warn!("still no management node has given the config: {failures}");
        }
        thread::sleep(ASK_AGAIN);
    }
    unreachable!("rounds do not end")
}

/// Asks them so for as long as `patience`, once at least. Blocks.
///
/// # Errors
/// Why the last round of questions was in vain.
pub fn try_learn_config(addresses: &[String], patience: Duration) -> Result<ClusterConfig, String> {
    let end = Instant::now() + patience;
    loop {
        let failures = match ask_all(addresses) {
            Ok(config) => return Ok(config),
            Err(failures) => failures,
        };
        if Instant::now() + ASK_AGAIN >= end {
            return Err(failures);
        }
        thread::sleep(ASK_AGAIN);
    }
}

fn ask_all(addresses: &[String]) -> Result<ClusterConfig, String> {
    let mut failures = Vec::new();
    for address in addresses {
        match ask(address) {
            Ok(config) => return Ok(config),
            Err(failure) => failures.push(failure),
        }
    }
    Err(failures.join("; "))
}

fn ask(address: &str) -> Result<ClusterConfig, String> {
    let named = |error: &dyn fmt::Display| {
        let text = error.to_string();
        if text.contains(address) { text } else { format!("{address}: {text}") }
    };
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: String::new(),
        from: STRANGER,
        incarnation: incarnation(),
        to: Endpoint::node(NodeId(0)),
        to_incarnation: Incarnation(0),
        received: 0,
    };
    let body =
        receive_once(address, &hello, Kind::ConfigOrd as u8, ASK_TIMEOUT).map_err(|error| named(&error))?;
    control(&body).map_err(|error| named(&error))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use twofold_ports::ReservedPort;
    use twofold_proto::{
        ids::Epoch,
        link::{HelloReply, Link, MAGIC},
        links::Links,
        message::put_control,
    };

    use super::*;

    fn config() -> ClusterConfig {
        ClusterConfig {
            name: "local".into(),
            replicas: 1,
            partitions: 8,
            data_memory: 1 << 20,
            redo_bytes: 64 << 20,
            flush_ms: 100,
            heartbeat_ms: 50,
            lease_ms: 250,
            failure_ms: 500,
            epoch_ms: 20,
            lock_wait_timeout_ms: 1000,
            idle_transaction_ms: 1000,
            management_nodes: Vec::new(),
            data_nodes: Vec::new(),
            memcached: vec![],
            api_nodes: Vec::new(),
        }
    }

    /// Serves one connection as a management node would.
    fn serve(listener: &TcpListener) {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; MAGIC.len() + 4];
        stream.read_exact(&mut head).unwrap();
        let (magic, length) = head.split_at(MAGIC.len());
        assert_eq!(magic, MAGIC);
        let mut body = vec![0; u32::from_le_bytes(length.try_into().unwrap()) as usize];
        stream.read_exact(&mut body).unwrap();
        let hello = Hello::decode(&body).unwrap();
        let links = Links::new(Endpoint::node(NodeId(1)), Incarnation(5), "local");
        assert_eq!(links.objection(&hello), None);
        let mut link = Link::new(hello.from, hello.incarnation);
        link.connected(hello.incarnation, 0).unwrap();
        // Something else comes first, in a frame of its own.
        link.send(Kind::ViewOrd as u8, 0, |out| out.push(7));
        link.seal(Epoch(0), true);
        link.send(Kind::ConfigOrd as u8, 0, |out| put_control(out, &config()));
        link.seal(Epoch(0), true);
        stream
            .write_all(&HelloReply::Accepted { incarnation: Incarnation(5), received: 0 }.encode())
            .unwrap();
        stream.write_all(&link.unwritten().flatten().copied().collect::<Vec<u8>>()).unwrap();
        // Until the other end hangs up.
        let _ = stream.read(&mut [0]);
    }

    #[test]
    fn the_first_that_has_the_config_gives_it() {
        let nobody = ReservedPort::new();
        let unused = nobody.address();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || serve(&listener));
        assert_eq!(learn_config(&[unused.to_string(), address.to_string()]), config());
        server.join().unwrap();
        let late = try_learn_config(&[unused.to_string()], Duration::ZERO).unwrap_err();
        assert!(late.starts_with(&unused.to_string()), "{late}");
        let refused = ask(&unused.to_string()).unwrap_err();
        assert!(refused.starts_with(&unused.to_string()), "{refused}");
    }
}
