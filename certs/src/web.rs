//! TLS towards servers that are known by DNS name: an authority, a publisher of keys. And towards clients that know us by one.
//!
//! Not for traffic of the mesh, where names prove nothing.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::bundle::certificates_from_pem;
use crate::crypto::provider;
use crate::error::CertError;

/// Makes a configuration that accepts servers under the PEM `roots` which show the name that is dialled, or `also`.
///
/// # Errors
/// If there are no roots, or `also` is no name.
pub fn client_config(
    roots: &str,
    also: Option<&str>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, CertError> {
    let store = root_store(roots)?;
    let also = also
        .map(|name| ServerName::try_from(name.to_owned()))
        .transpose();
    let also = also.or(Err(CertError::Missing {
        what: "DNS name in the second name",
    }))?;
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build();
    let inner = inner.map_err(|error| CertError::Tls(rustls::Error::General(error.to_string())))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(CertError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(EitherName { inner, also }))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// Makes a configuration for servers that are none of ours, such as issuers of tokens: TLS 1.2 and 1.3, and the PEM `roots` that
/// browsers have. Roots that we cannot read are left out, as such files have some.
///
/// # Errors
/// If there are no roots.
pub fn outside_config(roots: &str) -> Result<ClientConfig, CertError> {
    let store = root_store(roots)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(CertError::Tls)?;
    Ok(config.with_root_certificates(store).with_no_client_auth())
}

/// Makes a configuration for clients that are none of ours and show no certificate, such as an API server: TLS 1.2 and 1.3.
///
/// # Errors
/// If the TLS library refuses it.
pub fn server_config(
    key: Arc<CertifiedKey>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, CertError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(CertError::Tls)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Reads a chain (leaf first) and its private key from PEM; whose it is does not matter here.
///
/// # Errors
/// If one is missing or broken, or the key is of another certificate.
pub fn key_from_pem(chain: &str, key: &str) -> Result<CertifiedKey, CertError> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).or(Err(CertError::Missing {
        what: "usable private key",
    }))?;
    CertifiedKey::from_der(certificates_from_pem(chain)?, key, &provider()).map_err(CertError::Key)
}

fn root_store(roots: &str) -> Result<RootCertStore, CertError> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates_from_pem(roots)?);
    match added {
        0 => Err(CertError::Missing {
            what: "usable root",
        }),
        _ => Ok(store),
    }
}

/// The usual verification, once more with another name if the first did not fit.
#[derive(Debug)]
struct EitherName {
    inner: Arc<WebPkiServerVerifier>,
    also: Option<ServerName<'static>>,
}

impl ServerCertVerifier for EitherName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |name: &ServerName<'_>| {
            self.inner
                .verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        match (verify(server_name), &self.also) {
            (
                Err(rustls::Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                )),
                Some(also),
            ) => verify(also),
            (verified, _) => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
