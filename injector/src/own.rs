//! Our own certificate: what the API server sees, and the roots by which it knows us. Replaced while we run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tracing::{info, warn};
use weft_certs::authority::Authority;
use weft_certs::identity::Identity;
use weft_certs::renewal::{Renewal, SPREAD};
use weft_certs::web;
use weft_policy::spiffe::SpiffeId;

use crate::config::{Certificate, Config};
use crate::metrics::Metrics;

/// The present certificate; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    shown: Arc<ArcSwapOption<ServerConfig>>,
    roots: watch::Sender<Option<Roots>>,
}

/// PEM of the authorities that the API server must trust to know us.
pub(crate) type Roots = Arc<str>;

impl Default for Own {
    fn default() -> Self {
        Self {
            shown: Arc::default(),
            roots: watch::channel(None).0,
        }
    }
}

impl Own {
    pub(crate) fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.shown.load_full()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.shown.load().is_some()
    }

    /// Tells of roots that change.
    pub(crate) fn roots(&self) -> watch::Receiver<Option<Roots>> {
        self.roots.subscribe()
    }

    fn set(&self, key: Arc<CertifiedKey>, roots: String) -> anyhow::Result<()> {
        let config = web::server_config(key, &[b"h2", b"http/1.1"]);
        self.shown
            .store(Some(config.context("use the certificate")?));
        self.roots.send_replace(Some(roots.into()));
        Ok(())
    }

    /// Gets a certificate and keeps it fresh, for ever; `metrics` tell whom it trusts.
    pub(crate) async fn keep(self, source: Source, metrics: Metrics) {
        match source {
            Source::Directory(directory) => self.watch(&directory).await,
            Source::Authority(authority, id) => self.renew(*authority, id, metrics).await,
        }
    }

    async fn renew(&self, authority: Authority, id: SpiffeId, metrics: Metrics) {
        let mut renewal = Renewal::new(authority, id.clone(), SPREAD);
        loop {
            let renewed = Box::pin(renewal.next()).await.map_err(anyhow::Error::from);
            let shown = renewed.and_then(|renewed| {
                let identity = renewed.into_identity();
                self.show(&identity)?;
                metrics.identity(&identity);
                Ok(identity.root_fingerprints())
            });
            match shown {
                Ok(roots) => info!(%id, ?roots, "certificate"),
                Err(error) => warn!(error = format!("{error:#}"), "no new certificate"),
            }
        }
    }

    fn show(&self, identity: &Identity) -> anyhow::Result<()> {
        let bundle = identity.trust.bundle(&identity.leaf.id().trust_domain());
        let roots = bundle.context("find our own roots")?.to_pem();
        self.set(identity.leaf.certified_key(), roots)
    }

    async fn watch(&self, directory: &Path) {
        let mut seen = None;
        loop {
            let read = Files::read(directory);
            match read {
                Ok(files) if seen.as_ref() == Some(&files) => {}
                Ok(files) => {
                    match files
                        .key()
                        .and_then(|key| self.set(key, files.roots.clone()))
                    {
                        Ok(()) => info!(directory = %directory.display(), "certificate"),
                        Err(error) => warn!(
                            error = format!("{error:#}"),
                            "the certificate cannot be used"
                        ),
                    }
                    seen = Some(files);
                }
                Err(error) => warn!(
                    error = format!("{error:#}"),
                    "the certificate cannot be read"
                ),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Where the certificate comes from.
#[derive(Debug)]
pub(crate) enum Source {
    Directory(PathBuf),
    Authority(Box<Authority>, SpiffeId),
}

impl Source {
    /// # Errors
    /// If an address or a name is none.
    pub(crate) fn of(config: &Config) -> anyhow::Result<Self> {
        let (address, root, name, token_file, lifetime, account) = match config.certificate.clone()
        {
            Certificate::Directory(directory) => return Ok(Self::Directory(directory)),
            Certificate::Authority {
                address,
                root,
                name,
                token_file,
                lifetime,
                service_account,
            } => (address, root, name, token_file, lifetime, service_account),
        };
        let id = SpiffeId::workload(
            &config.settings.trust_domain,
            &config.system_namespace,
            &account,
        )?;
        let authority = Authority {
            address: address.parse().context("read WEFT_CA_ADDRESS")?,
            roots: root,
            name,
            token_file,
            lifetime,
        };
        Ok(Self::Authority(Box::new(authority), id))
    }
}

/// A directory as cert-manager's Secret is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    chain: String,
    key: String,
    roots: String,
}

impl Files {
    fn read(directory: &Path) -> anyhow::Result<Self> {
        let text = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        Ok(Self {
            chain: text("tls.crt")?,
            key: text("tls.key")?,
            roots: text("ca.crt")?,
        })
    }

    fn key(&self) -> anyhow::Result<Arc<CertifiedKey>> {
        Ok(Arc::new(web::key_from_pem(&self.chain, &self.key)?))
    }
}

const LOOK_AGAIN: Duration = Duration::from_secs(5);
