//! Wiring of the authority: what is loaded, bound, served and watched.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use weft_policy::spiffe::TrustDomain;

use crate::config::Config;
use crate::issuer::Issuer;
use crate::metrics::{self, Metrics};
use crate::server::serving::{RENEWAL, Serving};
use crate::server::{Authority, CertificateService, listener};
use crate::store::{Material, Store, StoreError, publish};
use crate::token::jwks::Keys;
use crate::token::{Authenticator, JwtAuthenticator};

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

/// Loads the issuer, binds the sockets and serves on a thread of its own.
///
/// # Errors
/// If the issuer or the key file cannot be used, or a socket cannot be bound.
pub fn start(config: Config) -> anyhow::Result<Bound> {
    let parts = Parts::load(&config)?;
    parts.keys().read_file().context("read WEFT_CA_JWKS")?;
    let listener = bind(config.listen).context("bind the certificate API")?;
    let metrics = bind(config.metrics_listen).context("bind metrics")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let stop = CancellationToken::new();
    let (ca, metrics_address) = (listener.local_addr()?, metrics.local_addr()?);
    info!(%ca, metrics = %metrics_address, trust_domain = %config.trust_domain, "serving");
    let child = stop.clone();
    let thread = std::thread::Builder::new()
        .name("weft-ca".to_owned())
        .spawn(move || {
            if let Err(error) =
                runtime.block_on(serve(parts, config.reload, [listener, metrics], child))
            {
                error!(error = format!("{error:#}"), "authority ended");
            }
        })?;
    Ok(Bound {
        ca,
        metrics: metrics_address,
        stop,
        thread: Some(thread),
    })
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

/// What is served, and what it was made from.
struct Parts {
    authority: Arc<Authority>,
    serving: Arc<Serving>,
    files: Files,
}

/// The issuer's files, looked at for changes.
struct Files {
    store: Store,
    domain: TrustDomain,
    /// Where `ca.crt` is written for others.
    publish: Option<std::path::PathBuf>,
    material: Material,
    /// What was there at the last look, if that was something new.
    seen: Option<Material>,
}

impl Parts {
    fn load(config: &Config) -> anyhow::Result<Self> {
        let store = match (&config.issuer_dir, &config.dir) {
            (Some(dir), _) => Store::Given(dir.clone()),
            (None, Some(dir)) => Store::Own(dir.clone()),
            (None, None) => anyhow::bail!("no directory for the issuer"),
        };
        let domain = config.trust_domain.clone();
        let material = store.read(&domain)?;
        let issuer = store.issuer(&material, &domain)?;
        let publish = config.dir.clone();
        let files = Files {
            store,
            domain,
            publish,
            material,
            seen: None,
        };
        files.publish(&issuer)?;
        let serving = Serving::new(config.names.clone(), &issuer)
            .context("make the authority's own certificate")?;
        let metrics = Metrics::new()?;
        metrics.issuer(&issuer);
        let authenticator = Authenticator::Jwt(JwtAuthenticator {
            trust_domain: config.trust_domain.clone(),
            issuer: config.token_issuer.clone(),
            audiences: config.audiences.iter().cloned().collect(),
            keys: Keys::new(config.keys.clone()),
        });
        let issuer = ArcSwap::from_pointee(issuer);
        let lifetimes = config.lifetimes;
        let authority = Arc::new(Authority {
            issuer,
            authenticator,
            lifetimes,
            metrics,
        });
        Ok(Self {
            authority,
            serving,
            files,
        })
    }

    fn keys(&self) -> &Keys {
        let Authenticator::Jwt(jwt) = &self.authority.authenticator;
        &jwt.keys
    }
}

impl Files {
    fn publish(&self, issuer: &Issuer) -> Result<(), StoreError> {
        self.publish
            .as_deref()
            .map_or(Ok(()), |dir: &Path| publish(dir, issuer))
    }

    /// Returns the issuer anew if its files have changed and were the same in two looks: they may be written bit by bit.
    fn changed(&mut self) -> Result<Option<Issuer>, StoreError> {
        let material = self.store.read(&self.domain)?;
        if material == self.material {
            self.seen = None;
            return Ok(None);
        }
        if self.seen.as_ref() != Some(&material) {
            self.seen = Some(material);
            return Ok(None);
        }
        let issuer = self.store.issuer(&material, &self.domain)?;
        self.publish(&issuer)?;
        self.material = material;
        Ok(Some(issuer))
    }
}

async fn serve(
    parts: Parts,
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
    let service = CertificateService(Arc::clone(&parts.authority));
    let counted = parts.authority.metrics.clone();
    let api = listener::serve(listener, tls, service, stop.clone());
    let watch = stop.run_until_cancelled(watch(parts, reload));
    tokio::join!(api, metrics::serve(metrics, counted, stop.clone()), watch);
    Ok(())
}

/// Looks at the files and the age of our certificate until it is dropped.
async fn watch(mut parts: Parts, reload: Duration) {
    let mut renewed = Instant::now();
    let mut warned: Option<Instant> = None;
    loop {
        let authority = &parts.authority;
        match parts.files.changed() {
            Ok(Some(issuer)) => {
                info!(roots = issuer.bundle().roots().len(), "issuer changed");
                authority.metrics.issuer(&issuer);
                authority.issuer.store(Arc::new(issuer));
                renewed = renew(&parts).unwrap_or(renewed);
            }
            Ok(None) if renewed.elapsed() >= RENEWAL => renewed = renew(&parts).unwrap_or(renewed),
            Ok(None) => {}
            Err(error) => {
                authority.metrics.reload_failed("issuer");
                warn!(%error, cause = ?std::error::Error::source(&error), "issuer kept as it was");
            }
        }
        if let Err(error) = parts.keys().refresh_if_due().await {
            parts.authority.metrics.reload_failed("keys");
            warn!(%error, cause = ?std::error::Error::source(&error), "keys kept as they were");
        }
        if warned.is_none_or(|warned| warned.elapsed() >= REMINDER) {
            warned = warn_of_expiry(&parts.authority.issuer.load()).then(Instant::now);
        }
        tokio::time::sleep(reload).await;
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
