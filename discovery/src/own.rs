//! Who we are: the present certificate and the configuration that follows from it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use tracing::{info, warn};
use weft_certs::authority::Authority;
use weft_certs::error::CertError;
use weft_certs::identity::Identity;
use weft_certs::leaf::renewal_delay;
use weft_policy::spiffe::SpiffeId;

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

    /// Gets one from an authority and keeps it fresh, for ever.
    pub(crate) async fn renew(self, authority: Authority, id: SpiffeId) {
        let mut delay = FIRST_RETRY;
        loop {
            let identity = Box::pin(authority.request(&id)).await;
            let set = identity.map_err(anyhow::Error::from).and_then(|identity| {
                self.set(&identity)?;
                Ok(identity)
            });
            match set {
                Ok(identity) => {
                    delay = FIRST_RETRY;
                    let wait = renewal_delay(&identity.leaf, SystemTime::now(), fastrand::f64());
                    info!(%id, ?wait, "identity");
                    tokio::time::sleep(wait).await;
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), retry = ?delay, "no new identity");
                    tokio::time::sleep(delay.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
                    delay = (delay * 2).min(LONGEST_RETRY);
                }
            }
        }
    }
}

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(15);
