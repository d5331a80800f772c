//! The health service: serving is who can reach all of the cluster.

use tokio::sync::watch;
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};
use twofold_grpc::v1::twofold_server::TwofoldServer;

/// Says whenever it changes whether the cluster can be served, by the service's name and for the server as a whole.
pub(super) async fn report(reporter: HealthReporter, mut serving: watch::Receiver<bool>) {
    loop {
        let status = match *serving.borrow_and_update() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for name in ["", TwofoldServer::<super::Twofold>::NAME] {
            reporter.set_service_status(name, status).await;
        }
        if serving.changed().await.is_err() {
            return;
        }
    }
}
