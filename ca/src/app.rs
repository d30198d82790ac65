//! Wiring of the authority: what is loaded, bound, served and watched.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::parts::Parts;
use crate::config::Config;
use crate::issuer::Issuer;
use crate::metrics;
use crate::secret::SILENCE;
use crate::server::listener;
use crate::server::serving::RENEWAL;

mod parts;

/// A running authority; dropping it stops it.
pub struct Bound {
    /// Where the certificate API is served.
    pub ca: SocketAddr,
    /// Where metrics are served.
    pub metrics: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Bound {
    /// Accepts no more and lets what runs end.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// If its thread has panicked.
    pub fn wait(mut self) -> anyhow::Result<()> {
        let joined = self.thread.take().map_or(Ok(()), JoinHandle::join);
        joined.map_err(|_panic| anyhow::anyhow!("the authority's thread panicked"))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Loads the issuer, binds the sockets and serves on a thread of its own; the API server is the one that the environment names.
///
/// # Errors
/// If the issuer or the key file cannot be used, or a socket cannot be bound.
pub fn start(config: Config) -> anyhow::Result<Bound> {
    start_in(config, None)
}

/// The same in a cluster that is given.
///
/// # Errors
/// As [`start`].
pub fn start_in(config: Config, cluster: Option<kube::Config>) -> anyhow::Result<Bound> {
    let stop = CancellationToken::new();
    let child = stop.clone();
    let (begun, told) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("weft-ca".to_owned())
        .spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => runtime,
                Err(error) => return drop(begun.send(Err(error.into()))),
            };
            let (parts, listeners) = match runtime.block_on(load(&config, cluster)) {
                Ok(loaded) => loaded,
                Err(error) => return drop(begun.send(Err(error))),
            };
            let addresses = listeners.each_ref().map(TcpListener::local_addr);
            drop(begun.send(Ok(addresses)));
            if let Err(error) = runtime.block_on(serve(parts, config.reload, listeners, child)) {
                error!(error = format!("{error:#}"), "authority ended");
            }
        })?;
    let [ca, metrics] = told.recv().context("the authority's thread has ended")??;
    let (ca, metrics) = (ca?, metrics?);
    info!(%ca, %metrics, "serving");
    Ok(Bound {
        ca,
        metrics,
        stop,
        thread: Some(thread),
    })
}

async fn load(
    config: &Config,
    cluster: Option<kube::Config>,
) -> anyhow::Result<(Parts, [TcpListener; 2])> {
    let client = client(config, cluster).await?;
    let parts = Parts::load(config, client).await?;
    let listener = bind(config.listen).context("bind the certificate API")?;
    let metrics = bind(config.metrics_listen).context("bind metrics")?;
    Ok((parts, [listener, metrics]))
}

/// A client of the API server, if one is needed.
async fn client(config: &Config, cluster: Option<kube::Config>) -> anyhow::Result<Option<Client>> {
    if !config.needs_cluster() {
        return Ok(None);
    }
    let mut cluster = match cluster {
        Some(cluster) => cluster,
        None => kube::Config::infer().await.context("find the API server")?,
    };
    // A watch that is silent for longer is not there any more.
    cluster.read_timeout = Some(SILENCE);
    let client = Client::try_from(cluster).context("use the API server's address")?;
    Ok(Some(client))
}

/// Runs until SIGTERM or SIGINT, then until open requests have ended or a second signal comes.
///
/// # Errors
/// As [`start`].
pub fn run(config: Config) -> anyhow::Result<()> {
    let bound = start(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
        for _ in 0..2 {
            tokio::select! {
                _ = terminate.recv() => bound.shutdown(),
                _ = interrupt.recv() => bound.shutdown(),
                () = ended(&bound) => break,
            }
        }
        Ok(())
    })
}

async fn ended(bound: &Bound) {
    while bound
        .thread
        .as_ref()
        .is_some_and(|thread| !thread.is_finished())
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn serve(
    mut parts: Parts,
    reload: Duration,
    [listener, metrics]: [TcpListener; 2],
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let metrics = tokio::net::TcpListener::from_std(metrics)?;
    let tls = parts
        .serving
        .config()
        .context("make the TLS configuration")?;
    let authority = Arc::clone(&parts.authority);
    let counted = parts.authority.metrics.clone();
    let api = listener::serve(listener, tls, authority, stop.clone());
    let bundle = parts.bundle.take();
    let changed = parts.authority.changed.subscribe();
    let published = async {
        if let Some(bundle) = bundle {
            Box::pin(bundle.run(changed)).await;
        }
    };
    let watch = stop.run_until_cancelled(watch(parts, reload));
    tokio::join!(
        api,
        metrics::serve(metrics, counted, stop.clone()),
        watch,
        stop.run_until_cancelled(published),
    );
    Ok(())
}

/// Looks at what the issuer is made from and at the age of our certificate until it is dropped.
async fn watch(mut parts: Parts, reload: Duration) {
    let mut renewed = Instant::now();
    let mut warned: Option<Instant> = None;
    loop {
        let changed = parts.keeper.changed().await;
        match changed {
            Ok(Some(issuer)) => {
                info!(roots = issuer.bundle().roots().len(), "issuer changed");
                parts.authority.sign_with(issuer);
                renewed = renew(&parts).unwrap_or(renewed);
            }
            Ok(None) if renewed.elapsed() >= RENEWAL => renewed = renew(&parts).unwrap_or(renewed),
            Ok(None) => {}
            Err(error) => {
                parts.authority.metrics.reload_failed("issuer");
                warn!(%error, cause = ?std::error::Error::source(&error), "issuer kept as it was");
            }
        }
        if let Some(keys) = parts.keys()
            && let Err(error) = keys.refresh_if_due().await
        {
            parts.authority.metrics.reload_failed("keys");
            warn!(%error, cause = ?std::error::Error::source(&error), "keys kept as they were");
        }
        if warned.is_none_or(|warned| warned.elapsed() >= REMINDER) {
            warned = warn_of_expiry(&parts.authority.issuer.load()).then(Instant::now);
        }
        parts.keeper.wait(reload).await;
    }
}

fn renew(parts: &Parts) -> Option<Instant> {
    match parts.serving.renew(&parts.authority.issuer.load()) {
        Ok(()) => Some(Instant::now()),
        Err(error) => {
            warn!(%error, "the authority's own certificate is kept as it was");
            None
        }
    }
}

/// Tells of an issuer or root that ends within 30 days.
fn warn_of_expiry(issuer: &Issuer) -> bool {
    let soon = SystemTime::now() + EXPIRY_NOTICE;
    let ends = [
        Some(("issuer", issuer.not_after())),
        issuer.bundle().first_expiry().map(|at| ("root", at)),
    ];
    let mut told = false;
    for (what, at) in ends.into_iter().flatten().filter(|(_, at)| *at < soon) {
        let left = at.duration_since(SystemTime::now()).unwrap_or_default();
        warn!(what, ?left, "ends soon, exchange it");
        told = true;
    }
    told
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

const REMINDER: Duration = Duration::from_secs(60 * 60);
const EXPIRY_NOTICE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
