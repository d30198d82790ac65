//! What a proxy is and whom it trusts at one moment, and the TLS configurations that follow from it.
//!
//! An identity is never changed, only replaced: by a renewed leaf or by other roots. Sessions belong to it, so that nothing which was
//! verified under old roots can be resumed under new ones.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use weft_policy::spiffe::SpiffeId;

use crate::bundle::{Bundle, TrustBundles, fingerprint};
use crate::crypto::provider;
use crate::error::CertError;
use crate::leaf::Leaf;
use crate::verify::Verifier;

/// A leaf and the roots that go with it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Our certificate.
    pub leaf: Arc<Leaf>,
    /// Whom we trust.
    pub trust: Arc<TrustBundles>,
    /// Seals the sessions of all server configurations of this identity; its key is known to no other one.
    tickets: Arc<dyn ProducesTickets>,
}

impl Identity {
    /// Joins a leaf with roots.
    ///
    /// # Errors
    /// If no key for session tickets can be made.
    pub fn new(leaf: Arc<Leaf>, trust: Arc<TrustBundles>) -> Result<Self, CertError> {
        let tickets = Ticketer::new().map_err(CertError::Tls)?;
        Ok(Self {
            leaf,
            trust,
            tickets,
        })
    }

    /// Returns the SHA-256 of each root that is trusted for our own trust domain, in hexadecimal.
    #[must_use]
    pub fn root_fingerprints(&self) -> Vec<String> {
        let bundle = self.trust.bundle(&self.leaf.id().trust_domain());
        let roots = bundle.into_iter().flat_map(Bundle::roots);
        roots.map(fingerprint).collect()
    }

    /// Returns the SHA-256 of the root that our leaf chains to, in hexadecimal.
    #[must_use]
    pub fn issuer_fingerprint(&self) -> Option<String> {
        let bundle = self.trust.bundle(&self.leaf.id().trust_domain())?;
        bundle.root_of(&self.leaf).map(fingerprint)
    }

    /// Makes the server side of mesh TLS: version 1.3, a client certificate required, `alpn` in order of preference.
    ///
    /// An empty `alpn` negotiates none. Workers may each make their own: a session begun at one resumes at another.
    ///
    /// # Errors
    /// If the TLS library refuses the configuration.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, CertError> {
        self.server(Verifier::of_clients(Arc::clone(&self.trust)), alpn)
    }

    /// The same, but a client may also show no certificate, to prove with each request who it is.
    ///
    /// # Errors
    /// If the TLS library refuses the configuration.
    pub fn api_config(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, CertError> {
        let trust = Arc::clone(&self.trust);
        self.server(Verifier::of_clients_or_nobody(trust), alpn)
    }

    fn server(&self, clients: Verifier, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, CertError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(CertError::Tls)?
            .with_client_cert_verifier(Arc::new(clients))
            .with_cert_resolver(self.leaf.resolver());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.ticketer = Arc::clone(&self.tickets);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A client that resumes gets a new ticket with each connection, so one is enough.
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }

    /// Makes the client side of mesh TLS: version 1.3, our leaf shown, exactly `expected` accepted.
    ///
    /// Each configuration keeps its own few sessions. A ticket is good at the one proxy that made it, so make one configuration
    /// an endpoint and keep it.
    ///
    /// # Errors
    /// If the TLS library refuses the configuration.
    pub fn client_config(
        &self,
        expected: &SpiffeId,
        alpn: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, CertError> {
        let verifier = Verifier::of_server(Arc::clone(&self.trust), expected.clone());
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(CertError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.leaf.resolver());
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Arc::new(config))
    }
}

/// Sessions that a client configuration keeps; rustls counts up to 8 tickets a server name.
const SESSIONS: usize = 16;
