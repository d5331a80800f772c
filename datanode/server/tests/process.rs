//! The program as people and the cluster see it: one data node under its angel, and a management node that lets it in.

use std::{
    fs,
    io::Read,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use twofold_ports::ReservedPort;
use twofold_proto::{
    config::{Address, ClusterConfig, DataNodeConfig, ManagementNodeConfig},
    ids::{Endpoint, Epoch, Incarnation, NodeId, ViewNumber, WorkerId},
    link::{HelloReply, Messages, Received},
    links::{LinkEffect, LinkInput, Linked, Links},
    machine::Machine,
    message::{Catalog, GoneOrd, Kind, Life, ReportOrd, control},
    time::Time,
    view::{Member, MemberState, View},
};
use twofold_runtime::{
    Directory, Driver, EXIT_DO_NOT_RESTART, EXIT_PORT_TAKEN, Listener, Mailbox, Metrics, Owner, listener,
};

const PATIENCE: Duration = Duration::from_secs(60);
const ID: NodeId = NodeId(11);

/// What the management node sees.
#[derive(Clone, PartialEq, Debug)]
enum Seen {
    /// A life reports for the first time.
    Joins(Life),
    /// It has adopted the view in which it is `up`.
    Up(Life),
    /// Its goodbye, or its angel's word.
    Gone(Life),
}

/// Lets every life in, and out.
struct Management {
    links: Links,
    config: ClusterConfig,
    view: View,
    adopted: ViewNumber,
}

#[derive(PartialEq, Debug)]
enum Effect {
    Link(LinkEffect),
    Seen(Seen),
}

impl Management {
    fn publish(&mut self, members: Vec<Member>) {
        self.view =
            View { number: ViewNumber(self.view.number.0 + 1), restart: 1, members, ..View::default() };
        for id in self.links.ids().collect::<Vec<_>>() {
            let link = self.links.get_mut(id).expect("its own link");
            link.send_control(Kind::ViewOrd, &self.view);
        }
    }

    fn on_report(&mut self, report: &ReportOrd, effects: &mut Vec<Effect>) {
        let Life { node, incarnation } = report.life;
        let is_in = self.view.contains(node, incarnation);
        if report.leaving {
            if is_in {
                self.publish(Vec::new());
            }
        } else if !is_in {
            effects.push(Effect::Seen(Seen::Joins(report.life)));
            self.publish(vec![Member {
                node,
                incarnation,
                state: MemberState::Up,
                workers: report.workers,
                restored: None,
            }]);
        } else if report.view == self.view.number && self.adopted != report.view {
            self.adopted = report.view;
            effects.push(Effect::Seen(Seen::Up(report.life)));
        }
    }
}

impl Machine for Management {
    type Input<'a> = LinkInput<'a>;
    type Effect = Effect;

    fn step(&mut self, _: Time, input: LinkInput<'_>, effects: &mut Vec<Effect>) {
        match input {
            LinkInput::Hello { connection, hello } => {
                assert_eq!(self.links.objection(&hello), None, "{hello:?}");
                let known = self.links.to(hello.from, hello.incarnation);
                let id = known.unwrap_or_else(|| self.links.add(hello.from, hello.incarnation));
                let reply = self.links.accept(id, &hello);
                assert!(matches!(reply, HelloReply::Accepted { .. }), "{hello:?} {reply:?}");
                effects.push(Effect::Link(LinkEffect::Answer { connection, link: Some(id), reply }));
                let link = self.links.get_mut(id).expect("just added");
                link.send_control(Kind::ConfigOrd, &self.config);
                link.send_control(Kind::ViewOrd, &self.view);
                link.send_control(Kind::CatalogOrd, &Catalog::default());
            }
            LinkInput::Frame { link, header, payload } => {
                if self.links.receive(link, &header) == Ok(Received::New) {
                    for message in Messages::new(payload) {
                        let message = message.expect("nodes speak well");
                        match Kind::from_number(message.kind).expect("nodes speak well") {
                            Kind::ReportOrd => {
                                self.on_report(&control(message.body).expect("a report"), effects);
                            }
                            Kind::GoneOrd => {
                                let gone: GoneOrd = control(message.body).expect("a goodbye");
                                effects.push(Effect::Seen(Seen::Gone(gone.life)));
                            }
                            _ => {}
                        }
                    }
                }
                self.links.get_mut(link).expect("its own link").processed(&header);
            }
            LinkInput::Disconnected { link } => {
                self.links.get_mut(link).expect("its own link").disconnected();
            }
            LinkInput::Connected { .. } | LinkInput::Refused { .. } => panic!("it connects to nobody"),
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        None
    }

    fn check(&self) {}
}

impl Linked for Management {
    fn link_input(input: LinkInput<'_>) -> LinkInput<'_> {
        input
    }

    fn link_effect(effect: Effect) -> Result<LinkEffect, Effect> {
        match effect {
            Effect::Link(effect) => Ok(effect),
            other => Err(other),
        }
    }

    fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    fn end_turn(&mut self, _: Time, _: &mut Vec<Effect>) {
        self.links.seal(Epoch(0), false);
    }
}

struct Watcher(Sender<Seen>);

impl Owner<Management> for Watcher {
    type Message = ();

    fn input((): ()) -> LinkInput<'static> {
        unreachable!("nobody sends it messages")
    }

    fn timer() -> LinkInput<'static> {
        unreachable!("it wants no timer")
    }

    fn effect(&mut self, effect: Effect) {
        if let Effect::Seen(seen) = effect {
            // The test may be over.
            let _ = self.0.send(seen);
        }
    }
}

fn local(port: &ReservedPort) -> Address {
    Address { host: "127.0.0.1".into(), port: port.number() }
}

/// A cluster of one management node and one data node, at these ports.
fn config([management, data]: &[ReservedPort; 2]) -> ClusterConfig {
    ClusterConfig {
        name: "test".into(),
        replicas: 1,
        partitions: 16,
        data_memory: 64 << 20,
        redo_bytes: 64 << 20,
        flush_ms: 100,
        heartbeat_ms: 50,
        lease_ms: 250,
        failure_ms: 500,
        epoch_ms: 20,
        lock_wait_timeout_ms: 1000,
        idle_transaction_ms: 1000,
        management_nodes: vec![ManagementNodeConfig {
            id: NodeId(1),
            address: local(management),
            web_port: 1188,
        }],
        data_nodes: vec![DataNodeConfig { id: ID, address: local(data), workers: 2 }],
        memcached: vec![],
        api_nodes: Vec::new(),
    }
}

/// Starts the management node in a thread that ends with the test.
fn manage(config: ClusterConfig) -> Receiver<Seen> {
    let (sender, seen) = channel();
    let address = config.management_nodes[0].address.clone();
    thread::spawn(move || {
        twofold_runtime::thread::runtime().unwrap().block_on(async move {
            let links = Links::new(Endpoint::node(NodeId(1)), Incarnation(1), "test");
            let machine = Management { links, config, view: View::default(), adopted: ViewNumber(0) };
            let mailbox = Mailbox::new();
            let port = listener::bind(&format!("{}:{}", address.host, address.port)).await.unwrap();
            let doors = [(WorkerId::NODE, mailbox.door())];
            tokio::task::spawn_local(Listener::new(doors).serve(port));
            let metrics = Metrics::new().driver("management");
            Driver::new(machine, Watcher(sender), mailbox, Directory::new(), metrics).run().await;
        });
    });
    seen
}

/// The program, killed when the test ends.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    fn start(ports: &[ReservedPort; 2], directory: &TempDir) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_twofold-datanode"));
        command.arg("--mgm").arg(ports[0].address().to_string()).arg("--dir").arg(directory.path());
        Program(command.args(["--id", "11"]).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn signal(pid: u32, name: &str) {
        let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().unwrap();
        assert!(status.success(), "kill -{name} {pid}");
    }

    /// The process of the node itself.
    fn child(&self) -> u32 {
        let pid = self.0.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().expect("the angel has a child").parse().unwrap()
    }

    /// Waits for the end; the exit code, and what was logged.
    fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.0.wait().unwrap().code(), log)
    }
}

fn next(seen: &Receiver<Seen>) -> Seen {
    seen.recv_timeout(PATIENCE).expect("something happens")
}

fn joins(seen: &Receiver<Seen>) -> Life {
    let Seen::Joins(life) = next(seen) else { panic!("a life joins first") };
    assert_eq!((life.node, next(seen)), (ID, Seen::Up(life)));
    life
}

#[test]
fn a_node_joins_is_started_again_when_killed_and_leaves_when_asked() {
    let ports = [ReservedPort::new(), ReservedPort::new()];
    let directory = TempDir::new().unwrap();
    let seen = manage(config(&ports));
    let program = Program::start(&ports, &directory);
    let first = joins(&seen);
    Program::signal(program.child(), "KILL");
    assert_eq!(next(&seen), Seen::Gone(first));
    let second = joins(&seen);
    assert_ne!(first, second);
    Program::signal(program.0.id(), "TERM");
    // The node's own goodbye, and its angel's.
    assert_eq!([next(&seen), next(&seen)], [Seen::Gone(second), Seen::Gone(second)]);
    let (code, log) = program.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn two_nodes_do_not_share_a_directory() {
    let ports = [ReservedPort::new(), ReservedPort::new()];
    let directory = TempDir::new().unwrap();
    let seen = manage(config(&ports));
    let _first = Program::start(&ports, &directory);
    joins(&seen);
    let (code, log) = Program::start(&ports, &directory).end();
    assert_eq!(code, Some(i32::from(EXIT_DO_NOT_RESTART)), "{log}");
    assert!(log.contains("another data node runs in --dir"), "{log}");
}

#[test]
fn a_port_in_use_is_named() {
    let ports = [ReservedPort::new(), ReservedPort::new()];
    let directory = TempDir::new().unwrap();
    let _taken = TcpListener::bind(ports[1].address()).unwrap();
    let _seen = manage(config(&ports));
    let (code, log) = Program::start(&ports, &directory).end();
    assert_eq!(code, Some(i32::from(EXIT_PORT_TAKEN)), "{log}");
    assert!(log.contains(&format!("cannot listen on {}", ports[1].address())), "{log}");
}

#[test]
fn an_id_that_is_no_data_node_is_named() {
    let ports = [ReservedPort::new(), ReservedPort::new()];
    let directory = TempDir::new().unwrap();
    let _seen = manage(config(&ports));
    let mut command = Command::new(env!("CARGO_BIN_EXE_twofold-datanode"));
    command.arg("--mgm").arg(ports[0].address().to_string()).arg("--dir").arg(directory.path());
    let output = command.args(["--id", "12"]).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(EXIT_DO_NOT_RESTART)), "{log}");
    assert!(log.contains("node 12 is no data node of cluster «test»; its data nodes are 11"), "{log}");
}
