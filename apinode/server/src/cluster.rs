//! What an API node waits for before it opens its ports.

use std::time::Duration;

use tokio::time;
use twofold_apinode::{
    memcached::item,
    request::{Answer, Request},
};
use twofold_client::handle::Handle;
use twofold_proto::{
    error::{Error, ErrorCode},
    message::CatalogChange,
};

/// Wait before a table is tried to be created again.
const CREATE_WAIT: Duration = Duration::from_millis(200);

/// Waits until the cluster serves, and makes the table of memcached's items if it is missing.
pub async fn prepare(handle: &Handle) {
    loop {
        let known = handle.tables().newest();
        if known.is_known() && known.table(item::TABLE).is_ok() {
            return;
        }
        if known.is_known() {
            match handle.submit(Request::Change(CatalogChange::CreateTable(item::table()))).await {
                Answer::Catalog(version) => {
                    handle.tables().wait_for(version).await;
                    continue;
                }
                // Another API node was faster.
                Answer::Failed(failure) if failure.error.code == ErrorCode::TableExists => {}
                Answer::Failed(failure) => {
                    tracing::warn!("cannot make table `{}` yet: {}", item::TABLE, failure.error)
                }
                other => {
                    let error =
                        Error::new(ErrorCode::Internal, format!("CreateTable was answered with {other:?}"));
                    tracing::error!("{error}");
                }
            }
        }
        time::sleep(CREATE_WAIT).await;
    }
}
