//! Calls to the management nodes.

use std::time::Duration;

use tonic::{Code, Response, Status};
use twofold_grpc::management::{
    GetConfigRequest, GetConfigResponse, RebuildRegisterRequest, RestartNodeRequest, ShowRequest,
    ShowResponse, StopNodeRequest, management_client::ManagementClient,
};
use twofold_proto::config::{Address, MANAGEMENT_PORT};

use crate::connect::{Channel, Peer};

/// Why a command failed, in words.
#[derive(Debug)]
pub struct Failure(pub String);

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure(status.message().to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure(error.to_string())
    }
}

/// A connection to one of the management nodes.
pub struct Client {
    channel: ManagementClient<Channel>,
    timeout: Duration,
}

async fn connect(addresses: &[Address], timeout: Duration) -> Result<ManagementClient<Channel>, Failure> {
    Ok(ManagementClient::new(Channel::open(Peer::Management, addresses, timeout).await?))
}

/// Connects to the leader, as a management node tells its address.
async fn connect_leader(address: &str, timeout: Duration) -> Result<ManagementClient<Channel>, Failure> {
    let address = Address::parse(address, MANAGEMENT_PORT).map_err(Failure)?;
    connect(&[address], timeout).await
}

impl Client {
    /// Connects to the first of some addresses that answers.
    pub async fn connect(addresses: &[Address], timeout: Duration) -> Result<Client, Failure> {
        Ok(Client { channel: connect(addresses, timeout).await?, timeout })
    }

    /// What the leader says; if it cannot be asked, what this management node says.
    pub async fn show(&mut self) -> Result<ShowResponse, Failure> {
        let shown = self.channel.show(ShowRequest {}).await?.into_inner();
        if shown.leader == 0 || shown.leader == shown.node {
            return Ok(shown);
        }
        let Ok(mut leader) = connect_leader(&shown.leader_address, self.timeout).await else {
            return Ok(shown);
        };
        Ok(leader.show(ShowRequest {}).await.map_or(shown, |answer| answer.into_inner()))
    }

    /// The config that it runs with.
    pub async fn config(&mut self, request: GetConfigRequest) -> Result<GetConfigResponse, Failure> {
        Ok(self.channel.get_config(request).await?.into_inner())
    }

    /// If a follower refused, goes to the leader that it names.
    async fn follow(&mut self, status: Status) -> Result<(), Failure> {
        let leader = status.metadata().get("twofold-leader").and_then(|address| address.to_str().ok());
        match leader {
            Some(address) if status.code() == Code::Unavailable => {
                self.channel = connect_leader(address, self.timeout).await?;
                Ok(())
            }
            _ => Err(status.into()),
        }
    }

    /// Asks this management node, and the leader that it names if it is none.
    async fn at_leader<T>(
        &mut self,
        ask: impl AsyncFn(&mut ManagementClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<(), Failure> {
        if let Err(status) = ask(&mut self.channel).await {
            self.follow(status).await?;
            ask(&mut self.channel).await?;
        }
        Ok(())
    }

    /// Has the leader stop a node.
    pub async fn stop(&mut self, request: StopNodeRequest) -> Result<(), Failure> {
        self.at_leader(async |node| node.stop_node(request.clone()).await).await
    }

    /// Has the leader rebuild the register from what the data nodes know.
    pub async fn rebuild(&mut self, request: RebuildRegisterRequest) -> Result<(), Failure> {
        self.at_leader(async |node| node.rebuild_register(request.clone()).await).await
    }

    /// Has the leader start a node anew.
    pub async fn restart(&mut self, request: RestartNodeRequest) -> Result<(), Failure> {
        self.at_leader(async |node| node.restart_node(request.clone()).await).await
    }
}
