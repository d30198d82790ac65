//! Supplies the proxy's identity, and keeps it fresh: a leaf and roots from an authority or from files.
//!
//! One task on the control thread gets it and publishes snapshots; the data path takes the present one for each new connection and never
//! waits. Whatever goes wrong, the last good identity stays until a better one comes: a peer decides whether it still counts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weft_certs::authority::Authority;
use weft_certs::identity::Identity;
use weft_certs::renewal::{Renewal, Renewed, SPREAD};
use weft_policy::spiffe::SpiffeId;

use crate::config::Config;
use crate::watch::Watch;

pub(crate) mod files;
mod kept;

use crate::identity::files::{Files, FilesError};
use crate::identity::kept::Kept;

/// Where an identity comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// From nowhere: this proxy is in no mesh.
    None,
    /// From `tls.crt`, `tls.key` and `ca.crt` in a directory that somebody else fills.
    Files(PathBuf),
    /// From an authority that signs our requests.
    Authority(Authority),
}

impl Source {
    /// Reads the source from the configuration, which has one at most.
    ///
    /// # Errors
    /// If the authority's address is no URL.
    pub(crate) fn of(config: &Config) -> Result<Self, http::uri::InvalidUri> {
        Ok(match (&config.ca_address, &config.identity_dir) {
            (Some(address), _) => Self::Authority(Authority {
                address: address.parse()?,
                roots: config.ca_root.clone(),
                name: config.ca_name.clone(),
                token_file: config.token_file.clone(),
                lifetime: config.cert_ttl,
            }),
            (None, Some(dir)) => Self::Files(dir.clone()),
            (None, None) => Self::None,
        })
    }
}

/// The identity as it is now; a clone sees the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identities {
    current: Arc<ArcSwapOption<Identity>>,
    /// Counts publications; without a supplier there are none.
    changes: Option<watch::Receiver<u64>>,
    renewals: Arc<AtomicU64>,
    failures: Arc<AtomicU64>,
}

impl Identities {
    /// Makes the handle and the supplier behind it, which must be run. `id` is what an authority is asked for.
    ///
    /// # Errors
    /// If the source is files and they make no identity: what is wrong at the start is told at the start.
    pub(crate) fn new(source: Source, id: SpiffeId) -> Result<(Self, Supply), FilesError> {
        let (published, changes) = watch::channel(0);
        let identities = Self {
            changes: Some(changes),
            ..Self::default()
        };
        let shared = identities.clone();
        let mut supply = Supply {
            source,
            id,
            identities: shared,
            published,
            known: None,
            kept: None,
            spread: SPREAD,
        };
        if let Source::Files(dir) = &supply.source {
            let files = files::read(dir)?;
            supply.publish(files.identity()?);
            supply.known = Some(files);
        }
        Ok((identities, supply))
    }

    /// Returns the identity, if there is one yet.
    pub(crate) fn current(&self) -> Option<Arc<Identity>> {
        self.current.load_full()
    }

    /// Waits until there is another identity than at the last call; the first call returns with the first one.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn changed(&mut self) {
        let changed = match &mut self.changes {
            Some(changes) => changes.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            // The supplier has ended, so there will be no other.
            std::future::pending::<()>().await;
        }
    }

    /// Returns how many leafs there were.
    pub(crate) fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// Returns how many times getting an identity has failed.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// Gets identities and publishes them.
pub(crate) struct Supply {
    source: Source,
    id: SpiffeId,
    identities: Identities,
    published: watch::Sender<u64>,
    /// The files that the present identity was made from.
    known: Option<Files>,
    /// Where the present identity is kept for a restart.
    kept: Option<Kept>,
    /// Over how long renewals are spread that a change of the roots file asks for.
    spread: Duration,
}

impl Supply {
    /// Keeps what an authority gives in `dir`, and begins with what is there.
    pub(crate) fn keeping(mut self, dir: Option<&Path>) -> Self {
        let from_authority = matches!(self.source, Source::Authority(_));
        self.kept = dir.filter(|_| from_authority).map(Kept::new);
        if let Some(identity) = self.kept.as_ref().and_then(|kept| kept.read(&self.id)) {
            self.publish(identity);
        }
        self
    }

    /// Spreads over `spread` what a change of the roots file asks for.
    pub(crate) fn spreading(mut self, spread: Duration) -> Self {
        self.spread = spread;
        self
    }

    /// Runs until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let known = self.known.take();
        let supply = async {
            match &self.source {
                Source::None => info!("no source of identity, plaintext only"),
                Source::Files(dir) => self.follow_files(dir, known).await,
                Source::Authority(authority) => self.renew(authority).await,
            }
        };
        stop.run_until_cancelled(supply).await;
    }

    async fn renew(&self, authority: &Authority) {
        let begin = self.identities.current();
        let renewal = Renewal::new(authority.clone(), self.id.clone(), self.spread);
        let mut renewal = renewal.holding(begin.as_deref());
        loop {
            match Box::pin(renewal.next()).await {
                Ok(Renewed::Leaf { identity, material }) => {
                    if let Some(kept) = &self.kept {
                        kept.write(&material);
                    }
                    self.publish(identity);
                }
                Ok(Renewed::Roots(identity)) => {
                    info!(roots = ?identity.root_fingerprints(), "roots");
                    self.show(identity);
                }
                Err(failed) => self.failed(&failed.source, failed.retry),
            }
        }
    }

    async fn follow_files(&self, dir: &Path, mut known: Option<Files>) {
        let mut watch = Watch::new(&dir.join(files::CERTIFICATE));
        loop {
            match files::read(dir) {
                Ok(files) if known.as_ref() == Some(&files) => {}
                Ok(files) => match files.identity() {
                    Ok(identity) => {
                        self.publish(identity);
                        known = Some(files);
                    }
                    Err(error) => self.failed(&error, Duration::ZERO),
                },
                Err(error) => self.failed(&error, Duration::ZERO),
            }
            watch.changed().await;
        }
    }

    fn publish(&self, identity: Identity) {
        let leaf = &identity.leaf;
        let left = leaf
            .not_after()
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        info!(id = %leaf.id(), ?left, "identity");
        if !leaf.is_valid_at(SystemTime::now()) {
            warn!(id = %leaf.id(), "the identity is not valid now, check the clocks");
        }
        self.identities.renewals.fetch_add(1, Ordering::Relaxed);
        self.show(identity);
    }

    fn show(&self, identity: Identity) {
        self.identities.current.store(Some(Arc::new(identity)));
        self.published.send_modify(|count| *count += 1);
    }

    fn failed(&self, error: &dyn std::error::Error, retry: Duration) {
        self.identities.failures.fetch_add(1, Ordering::Relaxed);
        let kept = self.identities.current().is_some();
        warn!(error = chain(error), kept, ?retry, "no new identity");
    }
}

/// Writes an error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
