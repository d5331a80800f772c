//! How the nodes are: as a management node sees them, and as clients do.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};
use twofold_grpc::{
    management::{ShowRequest, ShowResponse, management_client::ManagementClient},
    v1::{ListTablesRequest, twofold_client::TwofoldClient},
};
use twofold_proto::config::{Address, ApiNodeConfig, ClusterConfig};

/// A node that does not answer within this is paused, overloaded or gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// A channel to a node's gRPC port.
async fn channel(host: &str, port: u16) -> Option<Channel> {
    let uri = format!("http://{}", Address { host: host.into(), port });
    Endpoint::from_shared(uri).ok()?.connect_timeout(PATIENCE).timeout(PATIENCE).connect().await.ok()
}

async fn ask(address: &Address) -> Option<ShowResponse> {
    let mut client = ManagementClient::new(channel(&address.host, address.port).await?);
    timeout(PATIENCE, client.show(ShowRequest {})).await.ok()?.ok().map(tonic::Response::into_inner)
}

/// What the leader of the management nodes says, or who knows it, or who answers at all; none if nobody does.
pub async fn show(config: &ClusterConfig) -> Option<ShowResponse> {
    let mut best: Option<ShowResponse> = None;
    for node in &config.management_nodes {
        let Some(answer) = ask(&node.address).await else { continue };
        if answer.leader == answer.node {
            return Some(answer);
        }
        if best.as_ref().is_none_or(|best| best.leader == 0) {
            best = Some(answer);
        }
    }
    best
}

/// Whether an API node serves each of its protocols, down to the data nodes.
pub async fn serves(node: &ApiNodeConfig) -> bool {
    let Some(channel) = channel(&node.host, node.grpc_port).await else { return false };
    let listed = timeout(PATIENCE, TwofoldClient::new(channel).list_tables(ListTablesRequest {})).await;
    matches!(listed, Ok(Ok(_))) && matches!(timeout(PATIENCE, get(node)).await, Ok(Ok(true)))
}

/// Whether the memcached port answers for a key that is hardly there.
async fn get(node: &ApiNodeConfig) -> io::Result<bool> {
    let mut stream = TcpStream::connect((node.host.as_str(), node.memcached_port)).await?;
    stream.write_all(b"get twofold:is-it-there\r\n").await?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await?;
    Ok(&answer == b"END\r\n")
}
