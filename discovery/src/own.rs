//! Who we are: the present certificate and the configuration that follows from it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use tracing::{info, warn};
use weft_certs::authority::Authority;
use weft_certs::error::CertError;
use weft_certs::identity::Identity;
use weft_certs::renewal::{Renewal, Renewed, SPREAD};
use weft_policy::spiffe::SpiffeId;

use crate::metrics::Metrics;

/// The present certificate; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Own(Arc<ArcSwapOption<ServerConfig>>);

impl Own {
    /// Shows `identity` from now on.
    ///
    /// # Errors
    /// If the TLS library refuses it.
    pub fn set(&self, identity: &Identity) -> Result<(), CertError> {
        self.0.store(Some(identity.api_config(&[b"h2"])?));
        Ok(())
    }

    pub(crate) fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.0.load_full()
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load().is_some()
    }

    /// Gets one from an authority and keeps it fresh, for ever; `metrics` tell whom it trusts.
    pub(crate) async fn renew(self, authority: Authority, id: SpiffeId, metrics: Metrics) {
        let mut renewal = Renewal::new(authority, id.clone(), SPREAD);
        loop {
            let renewed = Box::pin(renewal.next()).await.map(Renewed::into_identity);
            match renewed {
                Ok(identity) => {
                    info!(%id, roots = ?identity.root_fingerprints(), "identity");
                    metrics.identity(&identity);
                    if let Err(error) = self.set(&identity) {
                        warn!(%error, "the identity cannot be used");
                    }
                }
                Err(failed) => {
                    let error = anyhow::Error::from(failed);
                    warn!(error = format!("{error:#}"), "no new identity");
                }
            }
        }
    }
}
