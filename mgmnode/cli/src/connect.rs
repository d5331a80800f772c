//! Channels to nodes whose failures say where, why, and what to look at.

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind},
    task::{Context, Poll},
    time::Duration,
};

use tonic::{
    TimeoutExpired,
    body::Body,
    codegen::{BoxFuture, Service, http},
    transport::{self, Endpoint},
};
use twofold_proto::config::{Address, GRPC_PORT, MANAGEMENT_PORT};

use crate::client::Failure;

/// What a node should be that is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A management node.
    Management,
    /// An API node.
    Api,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Management => "management node",
            Peer::Api => "API node",
        }
    }

    fn article(self) -> &'static str {
        match self {
            Peer::Management => "a",
            Peer::Api => "an",
        }
    }

    /// What to look at when none answers.
    fn hint(self) -> String {
        match self {
            Peer::Management => format!(
                "management nodes listen at port {MANAGEMENT_PORT} unless the config says otherwise; --mgm or TWOFOLD_MGM \
                 says where they are"
            ),
            Peer::Api => format!(
                "API nodes listen for this at port {GRPC_PORT} unless the config says otherwise (grpc_port); --api or \
                 TWOFOLD_API says where they are"
            ),
        }
    }
}

/// Why a call was not answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unanswered {
    peer: Peer,
    address: Address,
    why: String,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unanswered { peer, address, why } = self;
        write!(f, "no {} answers at {address}: {why}\n{}", peer.name(), peer.hint())
    }
}

impl Error for Unanswered {}

/// What went wrong, in words. tonic's own text says no more than «transport error».
fn words(error: &(dyn Error + 'static), patience: Duration) -> String {
    let mut deepest = error;
    let mut system: Option<&io::Error> = None;
    let mut late = false;
    loop {
        system = deepest.downcast_ref().or(system);
        late |= deepest.is::<TimeoutExpired>();
        match deepest.source() {
            Some(source) => deepest = source,
            None => break,
        }
    }
    let seconds = patience.as_secs();
    match system.map(io::Error::kind) {
        _ if late => format!("it has not answered for {seconds} s"),
        Some(ErrorKind::ConnectionRefused) => "nothing listens there (connection refused)".into(),
        Some(ErrorKind::TimedOut) => format!("nobody has answered for {seconds} s"),
        Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => {
            "that host cannot be reached from here".into()
        }
        Some(
            ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected,
        ) => "it hung up; it may not speak gRPC".into(),
        Some(_) if deepest.to_string().contains("lookup") => {
            format!("no host of that name is known ({deepest})")
        }
        _ => format!("what listens there does not speak gRPC ({deepest})"),
    }
}

/// A connection to a node.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: transport::Channel,
    peer: Peer,
    address: Address,
    patience: Duration,
}

impl Channel {
    /// Connects to the first of some addresses where something listens. A call has to be answered within `patience`; an
    /// answer in parts may last longer.
    ///
    /// # Errors
    /// If nothing listens at any.
    pub async fn open(peer: Peer, addresses: &[Address], patience: Duration) -> Result<Channel, Failure> {
        let mut failures = Vec::new();
        for address in addresses {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            let connected = match endpoint {
                Ok(endpoint) => endpoint.connect_timeout(patience).timeout(patience).connect().await,
                Err(error) => Err(error),
            };
            match connected {
                Ok(inner) => return Ok(Channel { inner, peer, address: address.clone(), patience }),
                Err(error) => {
                    let why = words(&error, patience);
                    failures.push(format!("no {} answers at {address}: {why}", peer.name()));
                }
            }
        }
        failures.push(peer.hint());
        Err(Failure(failures.join("\n")))
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = Unanswered;
    type Future = BoxFuture<http::Response<Body>, Unanswered>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Unanswered>> {
        let (peer, address, patience) = (self.peer, self.address.clone(), self.patience);
        let unanswered = |error| Unanswered { peer, address, why: words(&error, patience) };
        self.inner.poll_ready(context).map_err(unanswered)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (peer, address, patience) = (self.peer, self.address.clone(), self.patience);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let unanswered = |why| Unanswered { peer, address, why };
            match answer.await {
                Ok(answer) if is_no_such_method(&answer) => {
                    let (article, name) = (peer.article(), peer.name());
                    Err(unanswered(format!("what listens there speaks gRPC, but is not {article} {name}")))
                }
                Ok(answer) => Ok(answer),
                Err(error) => Err(unanswered(words(&error, patience))),
            }
        })
    }
}

/// Whether the server has no such method: what our nodes do not support they say in words.
fn is_no_such_method(answer: &http::Response<Body>) -> bool {
    let headers = answer.headers();
    headers.get("grpc-status").is_some_and(|status| status == "12") && headers.get("grpc-message").is_none()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use tonic::codegen::http::header::HeaderValue;

    use super::*;

    #[derive(Debug)]
    struct Wrapped(io::Error);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("transport error")
        }
    }

    impl Error for Wrapped {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn causes_are_told_in_words() {
        let said = |error: &(dyn Error + 'static)| words(error, Duration::from_secs(10));
        let refused = io::Error::from(ErrorKind::ConnectionRefused);
        assert_eq!(said(&refused), "nothing listens there (connection refused)");
        let wrapped = Wrapped(io::Error::from(ErrorKind::ConnectionReset));
        assert!(said(&wrapped).starts_with("it hung up"), "{}", said(&wrapped));
        let lookup = io::Error::other("failed to lookup address information: Name or service not known");
        assert!(said(&lookup).starts_with("no host of that name is known"), "{}", said(&lookup));
        assert!(said(&fmt::Error).starts_with("what listens there does not speak gRPC"));
    }

    #[test]
    fn a_method_that_is_not_there_is_told_from_what_is_not_supported() {
        let mut answer = http::Response::new(Body::empty());
        assert!(!is_no_such_method(&answer));
        answer.headers_mut().insert("grpc-status", HeaderValue::from_static("12"));
        assert!(is_no_such_method(&answer));
        answer.headers_mut().insert("grpc-message", HeaderValue::from_static("TF-1014"));
        assert!(!is_no_such_method(&answer));
    }

    #[tokio::test]
    async fn all_addresses_are_tried_and_named() {
        let nobody = |host: &str| Address { host: host.into(), port: 1 };
        let refused =
            Channel::open(Peer::Api, &[nobody("127.0.0.1"), nobody("::1")], Duration::from_secs(1)).await;
        let Failure(text) = refused.unwrap_err();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "no API node answers at 127.0.0.1:1: nothing listens there (connection refused)"
        );
        assert!(lines[1].starts_with("no API node answers at [::1]:1: "), "{text}");
        assert!(lines[2].contains("50051") && lines[2].contains("TWOFOLD_API") && lines.len() == 3, "{text}");
    }

    #[tokio::test]
    async fn what_speaks_another_protocol_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // It answers whoever comes, until the tests end: the client may try again.
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                // The client may have gone.
                let _ = stream
                    .write_all(b"ERROR\r\nERROR\r\n")
                    .and_then(|()| stream.read_to_end(&mut Vec::new()));
            }
        });
        let address = Address { host: "127.0.0.1".into(), port };
        let channel = Channel::open(Peer::Management, &[address], Duration::from_secs(10)).await.unwrap();
        let mut client = twofold_grpc::management::management_client::ManagementClient::new(channel);
        let refused = client.show(twofold_grpc::management::ShowRequest {}).await.unwrap_err();
        let text = refused.message();
        assert!(text.starts_with(&format!("no management node answers at 127.0.0.1:{port}: ")), "{text}");
        assert!(text.contains("gRPC") && text.contains("TWOFOLD_MGM"), "{text}");
    }
}
