//! Wiring of discovery: what is watched, kept and served.

use anyhow::Context;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client};
use tracing::info;

use crate::config::Config;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If the API server cannot be reached.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::try_default()
            .await
            .context("find the API server")?;
        let namespaces: Api<Namespace> = Api::all(client);
        let namespaces = namespaces.list(&ListParams::default().limit(1)).await;
        info!(listen = %config.listen, namespaces = namespaces.context("ask the API server")?.items.len(), "started");
        Ok(())
    })
}
