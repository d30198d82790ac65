//! Our own certificate with its key, and when to renew it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use weft_policy::spiffe::SpiffeId;

use crate::bundle::certificates_from_pem;
use crate::crypto::provider;
use crate::error::CertError;
use crate::svid::Svid;

/// A workload's certificate, what it needs to chain to a root, and its private key.
#[derive(Debug)]
pub struct Leaf {
    svid: Svid,
    key: Arc<CertifiedKey>,
}

impl Leaf {
    /// Reads a chain (leaf first) and its private key (PKCS#8, SEC1 or PKCS#1) from PEM.
    ///
    /// # Errors
    /// If one is missing or broken, the leaf is no workload identity, or the key is of another certificate.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, CertError> {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).or(Err(CertError::Missing {
            what: "usable private key",
        }))?;
        Self::new(certificates_from_pem(chain)?, key)
    }

    /// Takes a chain (leaf first) and its private key.
    ///
    /// # Errors
    /// If the leaf is no workload identity, or the key is of another certificate.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertError> {
        let leaf = chain.first().ok_or(CertError::Missing {
            what: "certificate",
        })?;
        let svid = Svid::read(leaf).map_err(CertError::Svid)?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(CertError::Key)?;
        Ok(Self {
            svid,
            key: Arc::new(key),
        })
    }

    /// Returns the identity that the leaf proves.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.svid.id
    }

    /// Returns the chain as it is sent, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// Returns the begin of the leaf's validity.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.svid.not_before
    }

    /// Returns the end of the leaf's validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.svid.not_after
    }

    /// Tells whether `now` lies within the leaf's validity.
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before() <= now && now <= self.not_after()
    }

    /// Returns the chain with its private key, to be shown to somebody.
    #[must_use]
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }

    pub(crate) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.key)))
    }
}

/// Returns how long to wait before a leaf that was received at `now` is renewed: half of what is left of it, less up to a tenth of that.
///
/// `jitter` is a random number from 0.0 to 1.0. What is left is measured when the leaf comes, so that the wait can be kept by a clock that
/// does not jump. A leaf which has ended when it comes shows a wrong clock, not an old leaf: it is renewed after a twentieth of
/// its lifetime. Never less than [`MIN_RENEWAL_DELAY`].
#[must_use]
pub fn renewal_delay(leaf: &Leaf, now: SystemTime, jitter: f64) -> Duration {
    let remaining = leaf.not_after().duration_since(now).unwrap_or_default();
    let lifetime = leaf
        .not_after()
        .duration_since(leaf.not_before())
        .unwrap_or_default();
    let delay = match remaining {
        Duration::ZERO => lifetime / 20,
        remaining => remaining.min(lifetime) / 2,
    };
    delay
        .mul_f64(1.0 - 0.1 * jitter.clamp(0.0, 1.0))
        .max(MIN_RENEWAL_DELAY)
}

/// The shortest time between two renewals, so that no clock can make us spin.
pub const MIN_RENEWAL_DELAY: Duration = Duration::from_secs(1);
