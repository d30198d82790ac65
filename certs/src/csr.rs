//! Certificate requests: how a workload asks for a leaf. What an authority takes from one is the authority's matter.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use weft_policy::spiffe::SpiffeId;

use crate::bundle::certificates_from_pem;
use crate::error::CertError;
use crate::leaf::Leaf;

/// A new key and the request for a leaf of it.
pub struct Request {
    key: KeyPair,
    pem: String,
}

impl Request {
    /// Makes an ECDSA P-256 key and a request with `id` as its only name and an empty subject: cert-manager's istio-csr refuses any more.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new(id: &SpiffeId) -> Result<Self, CertError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        let pem = params.serialize_request(&key)?.pem()?;
        Ok(Self { key, pem })
    }

    /// Returns the request as PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns the key as PEM (PKCS#8), for files that only its owner can read.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Joins the key with the chain that came for it, PEM elements with the leaf first.
    ///
    /// # Errors
    /// If the chain is broken, its leaf is no workload identity or is of another key.
    pub fn into_leaf(self, chain: &[String]) -> Result<Leaf, CertError> {
        let mut certificates = Vec::new();
        for element in chain {
            certificates.extend(certificates_from_pem(element)?);
        }
        Leaf::new(certificates, private_key(&self.key))
    }
}

/// Returns a key in the form that TLS takes.
#[must_use]
pub fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}
