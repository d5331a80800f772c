//! The real process: started, asked, killed, started again.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tonic::{Code, transport::Channel};
use twofold_grpc::management::{
    GetConfigRequest, NodeState, ShowRequest, ShowResponse, StopNodeRequest,
    management_client::ManagementClient,
};
use twofold_ports::ReservedPort;

/// A process that ends with the test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port for each of `count` nodes, and one for its web console.
fn reserve(count: usize) -> Vec<[ReservedPort; 2]> {
    (0..count).map(|_| [ReservedPort::new(), ReservedPort::new()]).collect()
}

/// Writes a config of management nodes with these ports.
fn write_config(folder: &Path, ports: &[[ReservedPort; 2]]) {
    let mut text = String::from("[cluster]\nname = \"test\"\n");
    for (id, [port, web_port]) in (1..).zip(ports) {
        text += &format!("[[mgm]]\nid = {id}\nport = {}\nweb_port = {}\n", port.number(), web_port.number());
    }
    for id in [11, 12] {
        text += &format!("[[data]]\nid = {id}\nhost = \"127.0.0.1\"\n");
    }
    std::fs::write(folder.join("twofold.toml"), text).unwrap();
}

fn command(folder: &Path, id: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twofold-mgmnode"));
    command.arg("--config").arg(folder.join("twofold.toml"));
    command.arg("--id").arg(id.to_string()).arg("--dir").arg(folder.join(format!("mgm{id}")));
    command
}

fn start(folder: &Path, id: u16) -> Node {
    Node(command(folder, id).stderr(Stdio::null()).spawn().unwrap())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn client(port: u16) -> Option<ManagementClient<Channel>> {
    ManagementClient::connect(format!("http://127.0.0.1:{port}")).await.ok()
}

/// Asks until the answer is as expected.
async fn until(port: u16, what: &str, is_so: impl Fn(&ShowResponse) -> bool) -> ShowResponse {
    let begin = Instant::now();
    loop {
        if let Some(mut client) = client(port).await
            && let Ok(shown) = client.show(ShowRequest {}).await
            && is_so(shown.get_ref())
        {
            return shown.into_inner();
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "for a minute not: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_node_that_is_killed_goes_on_in_a_later_term() {
    let folder = tempfile::tempdir().unwrap();
    let ports = reserve(1);
    write_config(folder.path(), &ports);
    block_on(async {
        let first = start(folder.path(), 1);
        let shown = until(ports[0][0].number(), "it leads", |shown| shown.leader == 1).await;
        assert_eq!((&*shown.cluster, shown.view, shown.nodes.len()), ("test", 0, 4));
        assert_eq!(shown.nodes[0].state(), NodeState::Up);
        let mut client = client(ports[0][0].number()).await.unwrap();
        // Who has just been elected may not know yet what the register says.
        let begin = Instant::now();
        let refused = loop {
            let request = StopNodeRequest { node: "data1".into(), force: false };
            let refused = client.stop_node(request).await.unwrap_err();
            if refused.code() != Code::Unavailable {
                break refused;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "for a minute: {refused}");
        };
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(refused.metadata().get("twofold-code").unwrap(), "TF-5007");
        let config = client.get_config(GetConfigRequest {}).await.unwrap().into_inner();
        assert!(
            config.toml.contains("name = \"test\"") && config.toml.contains("lease_ms = 250"),
            "{}",
            config.toml
        );
        drop(first);
        let _second = start(folder.path(), 1);
        let again = until(ports[0][0].number(), "it leads again", |shown| shown.leader == 1).await;
        assert!(again.term > shown.term, "{} after {}", again.term, shown.term);
    });
}

#[test]
fn three_nodes_lead_each_other_over_real_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let ports = reserve(3);
    write_config(folder.path(), &ports);
    let port = |id: u32| ports[id as usize - 1][0].number();
    block_on(async {
        let mut nodes: Vec<Option<Node>> = (1..=3).map(|id| Some(start(folder.path(), id))).collect();
        let up = |shown: &ShowResponse| {
            shown.leader == shown.node && shown.nodes[..3].iter().all(|node| node.state() != NodeState::Down)
        };
        let leader = until(port(1), "a leader is known", |shown| shown.leader != 0).await.leader;
        until(port(leader), "all are connected", up).await;
        let follower = leader % 3 + 1;
        let mut client = client(port(follower)).await.unwrap();
        let refused =
            client.stop_node(StopNodeRequest { node: "12".into(), force: false }).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        let address = format!("127.0.0.1:{}", port(leader));
        assert_eq!(refused.metadata().get("twofold-leader").unwrap(), &*address);
        nodes[leader as usize - 1] = None;
        let other =
            until(port(follower), "another leads", |shown| shown.leader != 0 && shown.leader != leader).await;
        nodes[leader as usize - 1] = Some(start(folder.path(), leader as u16));
        until(port(leader), "the old one follows", |shown| shown.leader != 0 && shown.leader != shown.node)
            .await;
        assert!(other.term > 0);
    });
}

#[test]
fn what_cannot_work_is_said_and_not_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let ports = reserve(1);
    write_config(folder.path(), &ports);
    let run = |id: u16| {
        let output = command(folder.path(), id).arg("--log-format").arg("json").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(2);
    assert_eq!(code, Some(78));
    assert!(text.contains("has no [[mgm]] with id = 2; it has 1"), "{text}");
    std::fs::write(folder.path().join("twofold.toml"), "[cluster]\nreplicsa = 2\n").unwrap();
    let (code, text) = run(1);
    assert_eq!(code, Some(78));
    assert!(
        text.contains("twofold.toml:2: unknown key `replicsa` in [cluster]; did you mean `replicas`?"),
        "{text}"
    );
}

#[test]
fn it_ends_well_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let ports = reserve(1);
    write_config(folder.path(), &ports);
    let mut node = start(folder.path(), 1);
    block_on(until(ports[0][0].number(), "it leads", |shown| shown.leader == 1));
    let pid = node.0.id().to_string();
    assert!(Command::new("kill").arg("-TERM").arg(&pid).status().unwrap().success());
    assert_eq!(node.0.wait().unwrap().code(), Some(0));
}
