//! An identity from an authority that speaks Istio's certificate API: weft-ca, istiod, cert-manager's istio-csr.
//!
//! One connection a request, as there are two requests a day. Token and roots are read each time, so that both can be replaced at any time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use weft_api::istio_ca::IstioCertificateRequest;
use weft_api::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use weft_policy::spiffe::SpiffeId;

use crate::bundle::{Bundle, TrustBundles};
use crate::csr::Request;
use crate::error::CertError;
use crate::identity::Identity;
use crate::leaf::Leaf;
use crate::web;

/// How to ask an authority.
#[derive(Clone, Debug)]
pub struct Authority {
    /// `https://host:port`.
    pub address: Uri,
    /// PEM file with the roots of its TLS certificate.
    pub roots: PathBuf,
    /// A name it may show beside the host of the address.
    pub name: Option<String>,
    /// Holds the token that proves who we are.
    pub token_file: PathBuf,
    /// The lifetime to ask for; rounded up to whole seconds, at least one, as istio-csr takes none for nothing.
    pub lifetime: Duration,
}

impl Authority {
    /// Makes a key and gets a leaf for it.
    ///
    /// # Errors
    /// Says at which step it failed; nothing is kept of a failed request.
    pub async fn request(&self, id: &SpiffeId) -> Result<Identity, RequestError> {
        Ok(self.issue(id).await?.0)
    }

    /// The same, and what it was made from, to be kept where only its owner can read.
    ///
    /// # Errors
    /// As [`Authority::request`].
    pub async fn issue(&self, id: &SpiffeId) -> Result<(Identity, Material), RequestError> {
        let request = Request::new(id).map_err(RequestError::Key)?;
        let token = read_token(&self.token_file)?;
        let chain = tokio::time::timeout(TIME_LIMIT, self.call(request.pem(), token)).await;
        let chain = chain.unwrap_or(Err(RequestError::Timeout))?;
        let key = request.key_pem();
        let identity = identity(id, request, &chain)?;
        let (roots, chain) = chain.split_last().ok_or(RequestError::ShortAnswer)?;
        let material = Material {
            chain: chain.concat(),
            key,
            roots: roots.clone(),
        };
        Ok((identity, material))
    }

    async fn call(
        &self,
        csr: &str,
        token: MetadataValue<Ascii>,
    ) -> Result<Vec<String>, RequestError> {
        let channel = self.channel().await?;
        let mut client =
            IstioCertificateServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let seconds = self.lifetime.as_secs_f64().ceil().max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float is cut at the limits of i64"
        )]
        let validity_duration = seconds as i64;
        let mut request = tonic::Request::new(IstioCertificateRequest {
            csr: csr.to_owned(),
            validity_duration,
            metadata: None,
        });
        request.metadata_mut().insert("authorization", token);
        let answer = client.create_certificate(request).await;
        Ok(answer
            .map_err(|status| RequestError::Refused(Box::new(status)))?
            .into_inner()
            .cert_chain)
    }

    async fn channel(&self) -> Result<Channel, RequestError> {
        let host = self.address.host().ok_or(RequestError::Address)?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = self.address.port_u16().unwrap_or(443);
        let name = ServerName::try_from(host.clone()).or(Err(RequestError::Address))?;
        let roots = read(&self.roots)?;
        let tls = web::client_config(&roots, self.name.as_deref(), &[b"h2"]).map_err(|source| {
            RequestError::Roots {
                path: self.roots.clone(),
                source,
            }
        })?;
        let tls = TlsConnector::from(Arc::new(tls));
        let stream = connect(tls, host, port, name)
            .await
            .map_err(RequestError::Connect)?;
        // The one connection that the channel ever has.
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take().ok_or(io::ErrorKind::ConnectionReset);
            async move { stream.map_err(io::Error::from) }
        });
        let endpoint = Endpoint::from(self.address.clone()).timeout(TIME_LIMIT);
        let channel = endpoint.connect_with_connector(connector).await;
        channel.map_err(|error| RequestError::Connect(io::Error::other(error)))
    }
}

/// A leaf, its key and roots as PEM. Never shown: it has a private key in it.
#[derive(Deserialize, Serialize)]
pub struct Material {
    chain: String,
    key: String,
    roots: String,
}

impl Material {
    /// Reads what [`Material::json`] has written.
    ///
    /// # Errors
    /// If it is something else.
    pub fn from_json(text: &str) -> Result<Self, CertError> {
        serde_json::from_str(text).or(Err(CertError::Missing {
            what: "leaf, key and roots",
        }))
    }

    /// Writes it for a file that only its owner can read.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Makes the identity of it.
    ///
    /// # Errors
    /// If a part is broken, or the leaf does not chain to the roots.
    pub fn identity(&self) -> Result<Identity, CertError> {
        let leaf = Leaf::from_pem(&self.chain, &self.key)?;
        let bundle = Bundle::from_pem(&self.roots)?;
        if !bundle.vouches_for(&leaf) {
            return Err(CertError::Missing {
                what: "root that the leaf chains to",
            });
        }
        let trust = TrustBundles::of(leaf.id().trust_domain(), bundle);
        Identity::new(Arc::new(leaf), Arc::new(trust))
    }
}

async fn connect(
    tls: TlsConnector,
    host: String,
    port: u16,
    name: ServerName<'static>,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    tls.connect(name, tcp).await
}

/// Takes an answer apart: "leaf first, root last", the last element with all roots.
fn identity(id: &SpiffeId, request: Request, chain: &[String]) -> Result<Identity, RequestError> {
    let (roots, chain) = chain.split_last().ok_or(RequestError::ShortAnswer)?;
    if chain.is_empty() {
        return Err(RequestError::ShortAnswer);
    }
    let leaf = request.into_leaf(chain).map_err(RequestError::Answer)?;
    if leaf.id() != id {
        return Err(RequestError::WrongIdentity {
            got: leaf.id().clone(),
            want: id.clone(),
        });
    }
    let bundle = Bundle::from_pem(roots).map_err(RequestError::Answer)?;
    if !bundle.vouches_for(&leaf) {
        return Err(RequestError::OtherRoots);
    }
    let trust = TrustBundles::of(id.trust_domain(), bundle);
    Identity::new(Arc::new(leaf), Arc::new(trust)).map_err(RequestError::Answer)
}

fn read_token(path: &Path) -> Result<MetadataValue<Ascii>, RequestError> {
    let token = read(path)?;
    let value = format!("Bearer {}", token.trim());
    match MetadataValue::try_from(value) {
        Ok(mut value) if !token.trim().is_empty() => {
            value.set_sensitive(true);
            Ok(value)
        }
        _ => Err(RequestError::Token {
            path: path.to_owned(),
        }),
    }
}

fn read(path: &Path) -> Result<String, RequestError> {
    let text = std::fs::read_to_string(path);
    text.map_err(|source| RequestError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Why an authority gave no identity.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No randomness.
    #[error("cannot make a key")]
    Key(#[source] CertError),
    /// A file is missing.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An empty token file.
    #[error("{path} holds no token")]
    Token {
        /// Which file.
        path: PathBuf,
    },
    /// No roots in their file.
    #[error("{path} holds no roots for the authority's certificate")]
    Roots {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: CertError,
    },
    /// No host in the address.
    #[error("the authority's address has no usable host")]
    Address,
    /// Nobody there, or nobody to trust.
    #[error("cannot connect to the authority")]
    Connect(#[source] io::Error),
    /// Too slow.
    #[error("no answer of the authority within {TIME_LIMIT:?}")]
    Timeout,
    /// Who we are or what we ask is not accepted.
    #[error("the authority refused")]
    Refused(#[source] Box<tonic::Status>),
    /// Less than a leaf and roots.
    #[error("the authority's answer is not a leaf and roots")]
    ShortAnswer,
    /// A leaf or roots that are none.
    #[error("the authority's answer cannot be used")]
    Answer(#[source] CertError),
    /// A leaf of somebody else.
    #[error("the authority made us {got}, we are {want}")]
    WrongIdentity {
        /// Whose leaf it is.
        got: SpiffeId,
        /// Who we are.
        want: SpiffeId,
    },
    /// A leaf of other roots.
    #[error("the authority's leaf does not chain to its roots")]
    OtherRoots,
}

const TIME_LIMIT: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
