//! The certificate that the authority itself shows: signed by its own issuer, for its DNS names and addresses.
//!
//! Made anew at half of its life and whenever the issuer changes; connections that are open keep the old one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::ServerName;
use weft_certs::crypto::provider;
use weft_certs::error::CertError;

use crate::issuer::{Issuer, IssuerError};

/// The present certificate, looked up by each handshake.
#[derive(Debug)]
pub(crate) struct Serving {
    names: Vec<ServerName<'static>>,
    current: ArcSwap<CertifiedKey>,
}

impl Serving {
    pub(crate) fn new(
        names: Vec<ServerName<'static>>,
        issuer: &Issuer,
    ) -> Result<Arc<Self>, IssuerError> {
        let current = ArcSwap::from_pointee(make(&names, issuer)?);
        Ok(Arc::new(Self { names, current }))
    }

    pub(crate) fn renew(&self, issuer: &Issuer) -> Result<(), IssuerError> {
        self.current.store(Arc::new(make(&self.names, issuer)?));
        Ok(())
    }

    /// TLS 1.3 with `h2`; callers show tokens and no certificates.
    pub(crate) fn config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, CertError> {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(CertError::Tls)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A proxy calls twice a day, so nothing is gained by sessions.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn make(names: &[ServerName<'static>], issuer: &Issuer) -> Result<CertifiedKey, IssuerError> {
    let (chain, key) = issuer.issue_server(names, LIFETIME, SystemTime::now())?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| IssuerError::Material(CertError::Key(error)))
}

/// How long the certificate is shown at most.
pub(crate) const RENEWAL: Duration = Duration::from_secs(12 * 60 * 60);
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
