//! Wiring of discovery: what is watched, kept and served.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;
use weft_certs::authority::Authority;
use weft_policy::spiffe::SpiffeId;

use crate::board::Shared;
use crate::config::Config;
use crate::keep::Keeper;
use crate::metrics::{self, Metrics};
use crate::model::{Model, Names};
use crate::own::Own;
use crate::serve::Server;
use crate::token::Tokens;
use crate::watch::{KINDS, SILENCE, Watches};
use crate::writer::Writer;

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
        let listeners = [config.listen, config.metrics_listen].map(bind);
        let [listener, metrics] = listeners;
        let cluster = kube::Config::infer().await;
        let cluster = cluster.context("find the API server")?;
        let served = serve(config, cluster, [listener?, metrics?], stop.clone());
        let (served, ()) = tokio::join!(served, ended);
        served
    })
}

/// Watches `cluster`, keeps what follows from it and serves that on the first listener, with metrics on the second, until `stop`.
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
    let (shared, own) = (Shared::default(), Own::default());
    let tasks = TaskTracker::new();
    let (news, told) = mpsc::channel(NEWS);
    let watches = Watches {
        client: client.clone(),
        system: config.system_namespace.clone(),
        news,
        metrics: metrics.clone(),
    };
    watches.start(&tasks);
    drop(watches);
    let (words, said) = mpsc::channel(WORDS);
    let writer = Writer::new(client.clone());
    let keeper = Keeper {
        model: Model::new(Names {
            cluster_domain: config.cluster_domain.clone(),
            trust_domain: config.trust_domain.clone(),
        }),
        shared: shared.clone(),
        metrics: metrics.clone(),
        missing: KINDS.into_iter().collect(),
        words,
    };
    let (authority, id) = identity(&config)?;
    let server = Server {
        shared: shared.clone(),
        own: own.clone(),
        tokens: Some(Tokens::new(
            client,
            config.trust_domain.clone(),
            &config.audience,
        )),
        metrics: metrics.clone(),
        stop: stop.clone(),
    };
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let metrics_listener = tokio::net::TcpListener::from_std(metrics_listener)?;
    info!(listen = %listener.local_addr()?, "discovery starts");
    let ready = {
        let own = own.clone();
        Arc::new(move || shared.is_ready() && own.is_ready())
    };
    tokio::join!(
        server.run(listener),
        metrics::serve(metrics_listener, metrics.clone(), ready, stop.clone()),
        stop.run_until_cancelled(own.renew(authority, id, metrics)),
        stop.run_until_cancelled(keeper.run(told)),
        stop.run_until_cancelled(writer.run(said)),
    );
    Ok(())
}

fn identity(config: &Config) -> anyhow::Result<(Authority, SpiffeId)> {
    let id = SpiffeId::workload(
        &config.trust_domain,
        &config.system_namespace,
        &config.service_account,
    )?;
    let authority = Authority {
        address: config.ca_address.parse().context("read WEFT_CA_ADDRESS")?,
        roots: config.ca_root.clone(),
        name: config.ca_name.clone(),
        token_file: config.token_file.clone(),
        lifetime: config.cert_ttl,
    };
    Ok((authority, id))
}

/// Binds; all addresses of both families become those of IPv4 where there is no IPv6.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let unspecified = address.is_ipv6() && address.ip().is_unspecified();
    let listener = match TcpListener::bind(address) {
        Err(_) if unspecified => TcpListener::bind(("0.0.0.0", address.port()))?,
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Changes that wait to be taken in; watches wait beyond it.
const NEWS: usize = 4096;
/// What waits to be written.
const WORDS: usize = 4096;
