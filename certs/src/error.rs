//! What can be wrong with certificates, keys and roots that we are given to use ourselves.
//!
//! What is wrong with the certificate of a peer is [`crate::verify::VerifyError`].

use crate::svid::SvidError;

/// Why a certificate, a key or a bundle of roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// Not PEM, or PEM with a broken block.
    #[error("broken PEM")]
    Pem(#[source] pem::PemError),
    /// PEM without any block of the kind that is needed.
    #[error("no {what} in the PEM")]
    Missing {
        /// What was looked for.
        what: &'static str,
    },
    /// A certificate that cannot be parsed or cannot be a root.
    #[error("certificate {position} cannot be a root: {reason}")]
    Root {
        /// Place in the PEM, beginning at 1.
        position: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A leaf that is no X.509-SVID.
    #[error("the certificate is no workload identity")]
    Svid(#[source] SvidError),
    /// A private key of an unknown kind, or of another certificate.
    #[error("the private key cannot be used with the certificate")]
    Key(#[source] rustls::Error),
    /// A key or request that could not be made or read.
    #[error("cannot make a key or a certificate")]
    Generate(#[from] rcgen::Error),
    /// A TLS configuration that the library refuses.
    #[error("TLS configuration")]
    Tls(#[source] rustls::Error),
}
