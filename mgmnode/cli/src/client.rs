//! Calls to the management nodes.

use std::time::Duration;

use tonic::{Code, Status, transport::Channel, transport::Endpoint};
use twofold_grpc::management::{
    GetConfigRequest, GetConfigResponse, RestartNodeRequest, ShowRequest, ShowResponse, StopNodeRequest,
    management_client::ManagementClient,
};

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

async fn connect(address: &str, timeout: Duration) -> Result<ManagementClient<Channel>, Failure> {
    let failed = |error: &dyn std::error::Error| {
        let mut text = format!("cannot reach a management node at {address}: {error}");
        let mut source = error.source();
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        Failure(text)
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| failed(&error))?;
    let endpoint = endpoint.connect_timeout(timeout).timeout(timeout);
    Ok(ManagementClient::new(endpoint.connect().await.map_err(|error| failed(&error))?))
}

impl Client {
    /// Connects to the first of some addresses that answers.
    pub async fn connect(addresses: &str, timeout: Duration) -> Result<Client, Failure> {
        let mut failures = Vec::new();
        for address in addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            match connect(address, timeout).await {
                Ok(channel) => return Ok(Client { channel, timeout }),
                Err(Failure(text)) => failures.push(text),
            }
        }
        if failures.is_empty() {
            failures.push("--mgm names no address; give one as host:port".into());
        }
        Err(Failure(failures.join("\n")))
    }

    /// What the leader says; if it cannot be asked, what this management node says.
    pub async fn show(&mut self) -> Result<ShowResponse, Failure> {
        let shown = self.channel.show(ShowRequest {}).await?.into_inner();
        if shown.leader == 0 || shown.leader == shown.node {
            return Ok(shown);
        }
        let Ok(mut leader) = connect(&shown.leader_address, self.timeout).await else { return Ok(shown) };
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
                self.channel = connect(address, self.timeout).await?;
                Ok(())
            }
            _ => Err(status.into()),
        }
    }

    /// Has the leader stop a node.
    pub async fn stop(&mut self, request: StopNodeRequest) -> Result<(), Failure> {
        if let Err(status) = self.channel.stop_node(request.clone()).await {
            self.follow(status).await?;
            self.channel.stop_node(request).await?;
        }
        Ok(())
    }

    /// Has the leader start a node anew.
    pub async fn restart(&mut self, request: RestartNodeRequest) -> Result<(), Failure> {
        if let Err(status) = self.channel.restart_node(request.clone()).await {
            self.follow(status).await?;
            self.channel.restart_node(request).await?;
        }
        Ok(())
    }
}
