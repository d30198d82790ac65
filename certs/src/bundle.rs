//! The roots we trust, by trust domain.
//!
//! A root counts for its own domain only. Several roots of one domain overlap while one is exchanged for another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use weft_policy::spiffe::TrustDomain;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::crypto::provider;
use crate::error::CertError;
use crate::leaf::Leaf;
use crate::svid::system_time;

/// The roots of each trust domain that we know; a domain that is not in here is not trusted at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustBundles {
    domains: BTreeMap<TrustDomain, Arc<Bundle>>,
}

impl TrustBundles {
    /// Trusts one domain.
    #[must_use]
    pub fn of(domain: TrustDomain, bundle: Bundle) -> Self {
        Self {
            domains: BTreeMap::from([(domain, Arc::new(bundle))]),
        }
    }

    /// Adds or replaces the roots of a domain.
    pub fn insert(&mut self, domain: TrustDomain, bundle: Bundle) {
        self.domains.insert(domain, Arc::new(bundle));
    }

    /// Returns the roots of a domain.
    #[must_use]
    pub fn bundle(&self, domain: &TrustDomain) -> Option<&Bundle> {
        self.domains.get(domain).map(AsRef::as_ref)
    }

    /// Returns each domain with its roots, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &Bundle)> {
        self.domains
            .iter()
            .map(|(domain, bundle)| (domain, bundle.as_ref()))
    }
}

/// The roots of one trust domain, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Bundle {
    /// Reads one or several certificates of authorities from PEM; one that is there twice counts once.
    ///
    /// # Errors
    /// If there is none, or one of them cannot be a root.
    pub fn from_pem(text: &str) -> Result<Self, CertError> {
        Self::new(certificates_from_pem(text)?)
    }

    /// Takes certificates of authorities; one that is there twice counts once.
    ///
    /// # Errors
    /// If there is none, or one of them cannot be a root.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, CertError> {
        let mut bundle = Self {
            roots: Vec::new(),
            anchors: Vec::new(),
        };
        for (index, root) in certificates.into_iter().enumerate() {
            if bundle.roots.contains(&root) {
                continue;
            }
            let broken = |reason: String| CertError::Root {
                position: index + 1,
                reason,
            };
            check_authority(&root).map_err(broken)?;
            let anchor = webpki::anchor_from_trusted_cert(&root)
                .map_err(|error| broken(error.to_string()))?
                .to_owned();
            bundle.anchors.push(anchor);
            bundle.roots.push(root);
        }
        match bundle.roots.is_empty() {
            true => Err(CertError::Missing {
                what: "certificate",
            }),
            false => Ok(bundle),
        }
    }

    /// Returns the roots in the order in which they were given.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Returns the roots as one PEM text.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.roots
            .iter()
            .map(|root| certificate_to_pem(root))
            .collect()
    }

    /// Returns when the first of the roots ends.
    #[must_use]
    pub fn first_expiry(&self) -> Option<SystemTime> {
        self.roots.iter().filter_map(not_after).min()
    }

    /// Tells whether `leaf` chains to one of the roots, whatever the time is.
    #[must_use]
    pub fn vouches_for(&self, leaf: &Leaf) -> bool {
        self.root_of(leaf).is_some()
    }

    /// Returns that one of the roots which `leaf` chains to, whatever the time is.
    #[must_use]
    pub fn root_of(&self, leaf: &Leaf) -> Option<&CertificateDer<'static>> {
        let (end_entity, intermediates) = leaf.chain().split_first()?;
        let end = leaf
            .not_after()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let end = UnixTime::since_unix_epoch(end);
        self.verify(end_entity, intermediates, end, KeyUsage::server_auth())
            .ok()
    }

    /// Verifies a chain as RFC 5280 section 6 says, and returns the root at its end.
    ///
    /// # Errors
    /// Why it does not chain to one of the roots.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<&CertificateDer<'static>, webpki::Error> {
        let leaf = EndEntityCert::try_from(leaf)?;
        let algorithms = provider().signature_verification_algorithms.all;
        let path = leaf.verify_for_usage(
            algorithms,
            &self.anchors,
            intermediates,
            now,
            usage,
            None,
            None,
        )?;
        let position = self
            .anchors
            .iter()
            .position(|anchor| anchor == path.anchor());
        position
            .and_then(|position| self.roots.get(position))
            .ok_or(webpki::Error::UnknownIssuer)
    }
}

/// Reads all certificates of a PEM text; other blocks are skipped.
///
/// # Errors
/// If it is broken, or there is none.
pub fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let blocks = pem::parse_many(text).map_err(CertError::Pem)?;
    let certificates: Vec<_> = blocks
        .into_iter()
        .filter(|block| block.tag() == CERTIFICATE)
        .map(|block| CertificateDer::from(block.into_contents()))
        .collect();
    match certificates.is_empty() {
        true => Err(CertError::Missing {
            what: "certificate",
        }),
        false => Ok(certificates),
    }
}

/// Writes one certificate as PEM, with `\n` after each line.
#[must_use]
pub fn certificate_to_pem(certificate: &CertificateDer<'_>) -> String {
    let block = pem::Pem::new(CERTIFICATE, certificate.as_ref());
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&block, config)
}

/// Returns the SHA-256 of a certificate in hexadecimal, as `openssl x509 -fingerprint -sha256` has it but for the colons.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = crate::jwt::digest(certificate);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns when a certificate ends, if it can be parsed.
#[must_use]
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(system_time(certificate.validity().not_after.timestamp()))
}

fn check_authority(certificate: &CertificateDer<'_>) -> Result<(), String> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("it cannot be parsed ({error})"))?;
    match certificate.is_ca() {
        true => Ok(()),
        false => Err("it is not that of an authority (cA is not set)".to_owned()),
    }
}

const CERTIFICATE: &str = "CERTIFICATE";
