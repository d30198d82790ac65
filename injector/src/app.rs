//! Wiring of the injector: what is watched, kept and served.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cluster::{Cluster, SILENCE};
use crate::config::Config;
use crate::metrics::{self, Metrics};
use crate::own::{Own, Source};
use crate::server::Server;
use crate::webhook;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If a socket cannot be bound, or nothing says where the API server is.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
        let ended = {
            let stop = stop.clone();
            async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stop.cancel();
            }
        };
        let listeners = [bind(config.listen)?, bind(config.metrics_listen)?];
        let cluster = kube::Config::infer().await.context("find the API server")?;
        let served = Box::pin(serve(config, cluster, listeners, stop.clone()));
        let (served, ()) = tokio::join!(served, ended);
        served
    })
}

/// Answers the API server of `cluster` on the first listener, with metrics on the second, until `stop`.
///
/// # Errors
/// If the address of the API server or of the CA cannot be used.
pub async fn serve(
    config: Config,
    mut cluster: kube::Config,
    [listener, metrics_listener]: [TcpListener; 2],
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // A watch that is silent for longer is not there any more.
    cluster.read_timeout = Some(SILENCE);
    let client = Client::try_from(cluster).context("use the API server's address")?;
    let metrics = Metrics::new()?;
    let (own, source) = (Own::default(), Source::of(&config)?);
    let (known, watches) = Cluster::watched(client.clone(), &config, metrics.clone());
    let server = Server::new(
        own.clone(),
        known.clone(),
        config.settings,
        metrics.clone(),
        stop.clone(),
    );
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let metrics_listener = tokio::net::TcpListener::from_std(metrics_listener)?;
    info!(listen = %listener.local_addr()?, "injector starts");
    let ready = {
        let own = own.clone();
        Arc::new(move || own.is_ready() && known.is_ready())
    };
    let bundle = config
        .webhook
        .map(|name| webhook::keep(client, name, own.roots(), metrics.clone()));
    let bundle = async {
        match bundle {
            Some(keep) => keep.await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(
        server.run(listener),
        metrics::serve(metrics_listener, metrics.clone(), ready, stop.clone()),
        stop.run_until_cancelled(own.keep(source, metrics)),
        stop.run_until_cancelled(watches.run()),
        stop.run_until_cancelled(bundle),
    );
    Ok(())
}

/// Binds; all addresses of both families become those of IPv4 where there is no IPv6.
fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let unspecified = address.is_ipv6() && address.ip().is_unspecified();
    let listener = match TcpListener::bind(address) {
        Err(_) if unspecified => TcpListener::bind(("0.0.0.0", address.port())),
        bound => bound,
    };
    let listener = listener.with_context(|| format!("bind {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
