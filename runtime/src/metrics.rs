//! Figures of a process, in the text format of Prometheus (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use twofold_proto::{
    figure::{Figure, FigureKind},
    machine::Machine,
};

use crate::listener::Others;

/// Clients that are served at once; more wait.
const CLIENTS_MAX: usize = 16;
/// How long a client may stay connected.
const CLIENT_TIME_MAX: time::Duration = time::Duration::from_secs(30);
const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type ByThread<T> = Family<Vec<(&'static str, String)>, T>;

/// All figures of a process.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    drivers: Drivers,
    machines: Machines,
}

/// Where clients of the metrics come from.
#[derive(Debug)]
pub enum Clients {
    /// A port of their own.
    Port(TcpListener),
    /// A port of links: those that speak another protocol.
    Others(Others),
}

impl From<TcpListener> for Clients {
    fn from(port: TcpListener) -> Clients {
        Clients::Port(port)
    }
}

impl From<Others> for Clients {
    fn from(others: Others) -> Clients {
        Clients::Others(others)
    }
}

impl Clients {
    async fn next(&mut self) -> io::Result<TcpStream> {
        match self {
            Clients::Port(port) => port.accept().await.map(|(stream, _)| stream),
            Clients::Others(others) => others.next().await,
        }
    }
}

/// What the machines have told last, by thread.
#[derive(Clone, Default, Debug)]
struct Machines(Arc<Mutex<BTreeMap<String, Vec<Figure>>>>);

impl Collector for Machines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A name is described once, with the figures of all threads below it.
        let mut names: BTreeMap<(&str, &str), Vec<(&str, &Figure)>> = BTreeMap::new();
        for (thread, figures) in &*threads {
            for figure in figures {
                names.entry((figure.group, figure.name)).or_default().push((thread, figure));
            }
        }
        for ((group, name), figures) in names {
            let (_, first) = figures[0];
            let kind = match first.kind {
                FigureKind::Counter => MetricType::Counter,
                FigureKind::Gauge => MetricType::Gauge,
            };
            let name = format!("{group}_{name}");
            let mut described = encoder.encode_descriptor(&name, first.help, None, kind)?;
            if let [("", figure)] = figures[..] {
                encode_value(figure, described)?;
                continue;
            }
            for (thread, figure) in figures {
                encode_value(figure, described.encode_family(&vec![("thread", thread)])?)?;
            }
        }
        Ok(())
    }
}

fn encode_value(figure: &Figure, encoder: MetricEncoder<'_>) -> fmt::Result {
    match figure.kind {
        FigureKind::Counter => ConstCounter::new(figure.value).encode(encoder),
        FigureKind::Gauge => ConstGauge::new(i64::try_from(figure.value).unwrap_or(i64::MAX)).encode(encoder),
    }
}

/// Figures that are asked for when they are read, of the process as a whole.
struct Asked<F>(F);

impl<F> fmt::Debug for Asked<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}

impl<F: Fn(&mut dyn FnMut(Figure)) + Send + Sync + 'static> Collector for Asked<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let machines = Machines::default();
        let mut figures = Vec::new();
        self.0(&mut |figure| figures.push(figure));
        machines.tell("", figures);
        machines.encode(encoder)
    }
}

impl Machines {
    fn tell(&self, thread: &str, figures: Vec<Figure>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(thread.into(), figures);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// With the figures of drivers and their machines only.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("twofold");
        let (drivers, machines) = (Drivers::default(), Machines::default());
        drivers.register(&mut registry);
        registry.register_collector(Box::new(machines.clone()));
        Metrics { registry: Arc::new(Mutex::new(registry)), drivers, machines }
    }

    /// Adds figures of the process as a whole, which are asked for whenever somebody wants to see them.
    pub fn ask(&self, figures: impl Fn(&mut dyn FnMut(Figure)) + Send + Sync + 'static) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register_collector(Box::new(Asked(figures)));
    }

    /// The figures of the driver of this thread.
    pub fn driver(&self, thread: &str) -> DriverMetrics {
        DriverMetrics { thread: thread.into(), machines: self.machines.clone(), ..self.drivers.of(thread) }
    }

    /// All figures as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("a String takes any text");
        text
    }

    /// Answers `GET /metrics` over HTTP/1.1, until it is dropped.
    pub async fn serve(self, clients: impl Into<Clients>) {
        let mut clients = clients.into();
        let permits = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let stream = match clients.next().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!("metrics: cannot accept a connection: {error}");
                    time::sleep(time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let metrics = self.clone();
            tokio::spawn(async move {
                if let Ok(Err(error)) = time::timeout(CLIENT_TIME_MAX, metrics.serve_client(stream)).await {
                    tracing::debug!("metrics: {error}");
                }
                drop(permit);
            });
        }
    }

    /// Answers the requests of one client.
    ///
    /// # Errors
    /// If the connection breaks, or speaks no HTTP.
    pub async fn serve_client(&self, stream: TcpStream) -> io::Result<()> {
        let service = service_fn(async |request| Ok::<_, Infallible>(self.answer(&request)));
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new());
        server.serve_connection(TokioIo::new(stream), service).await.map_err(io::Error::other)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, header, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => {
                (StatusCode::OK, (CONTENT_TYPE, CONTENT), self.text())
            }
            (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, (ALLOW, "GET, HEAD"), String::new()),
            _ => (StatusCode::NOT_FOUND, (CONTENT_TYPE, "text/plain"), "there is /metrics here\n".into()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(header.0, hyper::header::HeaderValue::from_static(header.1));
        response
    }
}

macro_rules! driver_counters {
    ($($(#[doc = $help:literal])+ $name:ident;)*) => {
        /// What a driver counts in a turn.
        #[derive(Clone, Copy, Default, Debug)]
        pub(crate) struct Tally {
            $(pub $name: u64,)*
        }

        #[derive(Clone, Default)]
        struct Drivers {
            $($name: ByThread<Counter>,)*
            connections: ByThread<Gauge>,
            kept_bytes: ByThread<Gauge>,
            mailbox: ByThread<Gauge>,
        }

        /// The figures of one driver. The default is of nobody's concern.
        #[derive(Clone, Default, Debug)]
        pub struct DriverMetrics {
            $($(#[doc = $help])+ pub $name: Counter,)*
            /// Connections that are up; looked at once a second.
            pub connections: Gauge,
            /// Bytes that links keep until they are acknowledged; looked at once a second.
            pub kept_bytes: Gauge,
            /// Messages that wait in the mailbox; looked at once a second.
            pub mailbox: Gauge,
            thread: String,
            machines: Machines,
        }

        impl Drivers {
            fn register(&self, registry: &mut Registry) {
                $(registry.register(concat!("driver_", stringify!($name)), [$($help),+].concat().trim(), self.$name.clone());)*
                registry.register("driver_connections", "Connections that are up", self.connections.clone());
                registry.register("driver_kept_bytes", "Bytes kept until acknowledged", self.kept_bytes.clone());
                registry.register("driver_mailbox", "Messages that wait in the mailbox", self.mailbox.clone());
            }

            fn of(&self, thread: &str) -> DriverMetrics {
                let label = vec![("thread", thread.to_string())];
                DriverMetrics {
                    $($name: self.$name.get_or_create(&label).clone(),)*
                    connections: self.connections.get_or_create(&label).clone(),
                    kept_bytes: self.kept_bytes.get_or_create(&label).clone(),
                    mailbox: self.mailbox.get_or_create(&label).clone(),
                    ..DriverMetrics::default()
                }
            }
        }

        impl DriverMetrics {
            /// What the machine says of itself.
            pub(crate) fn tell(&self, machine: &impl Machine) {
                let mut figures = Vec::new();
                machine.figures(&mut |figure| figures.push(figure));
                self.machines.tell(&self.thread, figures);
            }

            pub(crate) fn add(&self, tally: &Tally) {
                $(if tally.$name > 0 {
                    self.$name.inc_by(tally.$name);
                })*
            }
        }
    };
}

driver_counters! {
    /// Turns
    turns;
    /// Frames read
    frames_in;
    /// Bytes read
    bytes_in;
    /// System calls that read
    reads;
    /// Bytes written
    bytes_out;
    /// System calls that write
    writes;
    /// Inputs from other threads
    messages;
    /// Connections made, either way
    connects;
    /// Connections lost
    disconnects;
    /// Handshakes refused, either way
    refusals;
    /// Connections closed because what they brought was no frame
    malformed;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use twofold_proto::time::Time;

    use super::*;

    /// A machine that does nothing and tells one number.
    struct Teller(u64);

    impl Machine for Teller {
        type Input<'a> = ();
        type Effect = ();

        fn step(&mut self, _: Time, (): (), _: &mut Vec<()>) {}

        fn next_timeout(&self) -> Option<Time> {
            None
        }

        fn figures(&self, tell: &mut dyn FnMut(Figure)) {
            let kind = FigureKind::Counter;
            tell(Figure { kind, ..Figure::gauge("teller", "said", "What was said", self.0) });
        }

        fn check(&self) {}
    }

    #[tokio::test]
    async fn what_was_counted_is_served() {
        let metrics = Metrics::new();
        metrics.driver("w1").tell(&Teller(4));
        metrics.driver("w1").tell(&Teller(5));
        metrics.driver("w2").tell(&Teller(6));
        metrics.ask(|tell| tell(Figure::gauge("process", "threads", "Threads", 2)));
        metrics.driver("w1").add(&Tally { frames_in: 3, ..Tally::default() });
        metrics.driver("w1").add(&Tally { frames_in: 4, ..Tally::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(metrics.serve(listener));
        let get = async |path: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = get("/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("twofold_driver_frames_in_total{thread=\"w1\"} 7\n"), "{answer}");
        assert!(answer.contains("# HELP twofold_driver_frames_in Frames read.\n"), "{answer}");
        let told = "# HELP twofold_teller_said What was said\n# TYPE twofold_teller_said counter\n\
                    twofold_teller_said_total{thread=\"w1\"} 5\ntwofold_teller_said_total{thread=\"w2\"} 6\n";
        assert!(answer.contains(told), "{answer}");
        assert!(
            answer.contains("# TYPE twofold_process_threads gauge\ntwofold_process_threads 2"),
            "{answer}"
        );
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        assert!(get("/").await.starts_with("HTTP/1.1 404"));
        server.abort();
    }
}
