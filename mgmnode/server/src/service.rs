//! The management interface over gRPC.

use tonic::{Code, Request, Response, Status, metadata::MetadataValue};
use twofold_grpc::management::{self as grpc, management_server::Management};
use twofold_mgmnode::{
    config,
    node::{AdminCommand, AdminReply},
    register::SystemRestart,
    status::{self, NodeKind, NodeState, NodeStatus},
};
use twofold_proto::{
    config::ClusterConfig,
    error::{Error, ErrorCode},
    ids::NodeId,
};

use crate::owner::Administration;

/// Answers by asking the machine.
#[derive(Debug)]
pub struct Service {
    config: ClusterConfig,
    administration: Administration,
}

fn code(error: ErrorCode) -> Code {
    match error {
        ErrorCode::NoLeader | ErrorCode::Stopping => Code::Unavailable,
        ErrorCode::LastOfGroup | ErrorCode::NotRunning | ErrorCode::RegisterLost | ErrorCode::NotRebuilt => {
            Code::FailedPrecondition
        }
        ErrorCode::OutcomePending => Code::Aborted,
        ErrorCode::NoSuchNode => Code::NotFound,
        ErrorCode::NotSupported => Code::Unimplemented,
        _ => Code::Internal,
    }
}

fn refusal(error: &Error) -> Status {
    let mut refusal = Status::new(code(error.code), error.to_string());
    let value = MetadataValue::try_from(error.code.to_string()).expect("a code is ASCII");
    refusal.metadata_mut().insert("twofold-code", value);
    refusal
}

impl Service {
    /// For the cluster of this config.
    pub fn new(config: ClusterConfig, administration: Administration) -> Service {
        Service { config, administration }
    }

    async fn ask(&self, command: AdminCommand) -> Result<AdminReply, Status> {
        let stopping = || refusal(&Error::new(ErrorCode::Stopping, "this management node is stopping"));
        self.administration.ask(command).await.ok_or_else(stopping)
    }

    async fn status(&self) -> Result<status::Status, Status> {
        match self.ask(AdminCommand::Status).await? {
            AdminReply::Status(status) => Ok(*status),
            other => Err(Status::internal(format!("asked for the status, the machine said {other:?}"))),
        }
    }

    fn address(&self, node: NodeId) -> Option<String> {
        let node = self.config.management_nodes.iter().find(|other| other.id == node)?;
        Some(node.address.to_string())
    }

    async fn stop(&self, node: &str, restart: bool, force: bool) -> Result<(), Status> {
        let node = status::find(&self.config, node).map_err(|error| refusal(&error))?;
        self.tell(AdminCommand::Stop { node, restart, force }).await
    }

    /// Has something done; a refusal tells where the leader is.
    async fn tell(&self, command: AdminCommand) -> Result<(), Status> {
        match self.ask(command).await? {
            AdminReply::Done => Ok(()),
            AdminReply::Refused(error) => {
                let mut refusal = refusal(&error);
                let leader =
                    if error.code == ErrorCode::NoLeader { self.status().await?.leader } else { None };
                let address = leader.and_then(|leader| self.address(leader));
                if let Some(address) = address.and_then(|address| MetadataValue::try_from(address).ok()) {
                    refusal.metadata_mut().insert("twofold-leader", address);
                }
                Err(refusal)
            }
            other => Err(Status::internal(format!("told to do something, the machine said {other:?}"))),
        }
    }
}

fn system_restart(restart: SystemRestart) -> grpc::SystemRestart {
    let text = restart.to_string();
    let SystemRestart { at_ms, restart, epoch } = restart;
    let epoch = epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
    grpc::SystemRestart { at_ms, restart: restart.into(), epoch, text }
}

fn node(node: NodeStatus) -> grpc::Node {
    let kind = match node.kind {
        NodeKind::Management => grpc::NodeKind::Management,
        NodeKind::Data => grpc::NodeKind::Data,
        NodeKind::Api => grpc::NodeKind::Api,
    };
    let state = match node.state {
        NodeState::Up => grpc::NodeState::Up,
        NodeState::Follower => grpc::NodeState::Follower,
        NodeState::Ready => grpc::NodeState::Ready,
        NodeState::Syncing => grpc::NodeState::Syncing,
        NodeState::Starting => grpc::NodeState::Starting,
        NodeState::Silent => grpc::NodeState::Silent,
        NodeState::Down => grpc::NodeState::Down,
    };
    grpc::Node {
        id: node.id.0.into(),
        name: node.name,
        kind: kind.into(),
        state: state.into(),
        group: node.group.map(|group| group.0.into()),
        host: node.address.host,
        port: node.address.port.into(),
        workers: node.workers.into(),
        age_ms: node.age.map(|age| age.as_millis() as u64),
        incarnation: node.incarnation.0,
        leaving: node.leaving,
    }
}

#[tonic::async_trait]
impl Management for Service {
    async fn show(&self, _: Request<grpc::ShowRequest>) -> Result<Response<grpc::ShowResponse>, Status> {
        let status = self.status().await?;
        Ok(Response::new(grpc::ShowResponse {
            cluster: status.cluster,
            node: status.node.0.into(),
            leader: status.leader.map_or(0, |leader| leader.0.into()),
            leader_address: status.leader.and_then(|leader| self.address(leader)).unwrap_or_default(),
            term: status.term,
            view: status.view.0,
            restart: status.restart.into(),
            catalog: status.catalog,
            tables: status.tables as u32,
            replicas: status.replicas.into(),
            trouble: status.trouble.unwrap_or_default(),
            system_restart: status.system_restart.map(system_restart),
            version: env!("CARGO_PKG_VERSION").into(),
            nodes: status.nodes.into_iter().map(node).collect(),
        }))
    }

    async fn stop_node(
        &self,
        request: Request<grpc::StopNodeRequest>,
    ) -> Result<Response<grpc::StopNodeResponse>, Status> {
        let request = request.into_inner();
        self.stop(&request.node, false, request.force).await?;
        Ok(Response::new(grpc::StopNodeResponse {}))
    }

    async fn restart_node(
        &self,
        request: Request<grpc::RestartNodeRequest>,
    ) -> Result<Response<grpc::RestartNodeResponse>, Status> {
        let request = request.into_inner();
        self.stop(&request.node, true, request.force).await?;
        Ok(Response::new(grpc::RestartNodeResponse {}))
    }

    async fn rebuild_register(
        &self,
        request: Request<grpc::RebuildRegisterRequest>,
    ) -> Result<Response<grpc::RebuildRegisterResponse>, Status> {
        let without = request.into_inner().without;
        let found = without.iter().map(|node| status::find(&self.config, node)).collect();
        let without = Result::<Vec<NodeId>, Error>::map_err(found, |error| refusal(&error))?;
        self.tell(AdminCommand::Rebuild { without }).await?;
        Ok(Response::new(grpc::RebuildRegisterResponse {}))
    }

    async fn get_config(
        &self,
        _: Request<grpc::GetConfigRequest>,
    ) -> Result<Response<grpc::GetConfigResponse>, Status> {
        Ok(Response::new(grpc::GetConfigResponse { toml: config::write(&self.config) }))
    }
}
