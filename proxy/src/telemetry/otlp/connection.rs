//! One HTTP connection to a collector: plain or TLS, HTTP/2 for gRPC and HTTP/1 for the rest.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::config::otel::{ClientFiles, OtlpExport, OtlpProtocol};

/// An open connection; dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    _driver: AbortOnDropHandle<()>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// The whole of a collector's answer that matters.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    trailers: HeaderMap,
}

impl Answer {
    /// From the trailers, or from the head of an answer that is nothing else.
    pub(super) fn grpc_status(&self) -> Option<i32> {
        let value = self
            .trailers
            .get("grpc-status")
            .or_else(|| self.headers.get("grpc-status"))?;
        value.to_str().ok()?.parse().ok()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("{path} cannot be used: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the answer cannot be read: {0}")]
    Body(String),
}

impl Connection {
    pub(super) async fn open(config: &OtlpExport) -> Result<Self, ConnectionError> {
        let host = config.endpoint.host().unwrap_or_default();
        let tls = config.endpoint.scheme_str() == Some("https");
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let io = TcpStream::connect((address, port(config, tls))).await;
        let io = io.map_err(ConnectionError::Connect)?;
        if !tls {
            return Self::over(io, config.protocol).await;
        }
        let name = ServerName::try_from(address.to_owned());
        let name = name.map_err(|error| ConnectionError::Connect(io::Error::other(error)))?;
        let connector = TlsConnector::from(tls_config(config)?);
        let io = connector
            .connect(name, io)
            .await
            .map_err(ConnectionError::Connect)?;
        Self::over(io, config.protocol).await
    }

    async fn over(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        protocol: OtlpProtocol,
    ) -> Result<Self, ConnectionError> {
        let io = TokioIo::new(io);
        let (sender, driver) = match protocol {
            OtlpProtocol::Grpc => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                (Sender::Http2(sender), drive(connection))
            }
            OtlpProtocol::HttpProtobuf => {
                let (sender, connection) = http1::handshake(io).await?;
                (Sender::Http1(sender), drive(connection))
            }
        };
        Ok(Self {
            sender,
            _driver: driver,
        })
    }

    /// Whether another request may be sent.
    pub(super) fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Sends one request and reads its answer to the end, up to [`MAX_ANSWER`].
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, ConnectionError> {
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(in_origin_form(request)).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| ConnectionError::Body(error.to_string()))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            trailers,
        })
    }
}

/// Moves the bytes until the connection is dropped.
#[expect(
    clippy::disallowed_methods,
    reason = "ends with the connection that holds it"
)]
fn drive<E>(
    connection: impl Future<Output = Result<(), E>> + Send + 'static,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async {
        // Whoever sends on it learns of its end.
        let _ended = connection.await;
    }))
}

/// HTTP/1 has the path in its request line and the authority in Host.
fn in_origin_form(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let uri = request.uri();
    let host = uri
        .authority()
        .and_then(|authority| authority.as_str().parse().ok());
    let path = uri.path_and_query().cloned();
    if let (Some(host), Some(path)) = (host, path) {
        request.headers_mut().insert(http::header::HOST, host);
        *request.uri_mut() = Uri::from(path);
    }
    request
}

fn port(config: &OtlpExport, tls: bool) -> u16 {
    let default = if tls { 443 } else { 80 };
    config.endpoint.port_u16().unwrap_or(default)
}

/// Reads the files anew for each connection, as they may have been exchanged.
fn tls_config(config: &OtlpExport) -> Result<Arc<ClientConfig>, ConnectionError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&config.certificate)? {
        let added = roots.add(certificate);
        added.map_err(|error| unusable(&config.certificate, &error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unusable(&config.certificate, &error))?;
    let builder = builder.with_root_certificates(roots);
    let mut tls = match &config.client {
        None => builder.with_no_client_auth(),
        Some(ClientFiles { certificate, key }) => {
            let own = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
            let tls = builder.with_client_auth_cert(certificates(certificate)?, own);
            tls.map_err(|error| unusable(certificate, &error))?
        }
    };
    if config.protocol == OtlpProtocol::Grpc {
        tls.alpn_protocols = vec![b"h2".to_vec()];
    }
    Ok(Arc::new(tls))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectionError> {
    let file = CertificateDer::pem_file_iter(path).map_err(|error| unusable(path, &error))?;
    let all: Result<Vec<_>, _> = file.collect();
    all.map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &impl std::fmt::Display) -> ConnectionError {
    ConnectionError::File {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// An answer says little; a page of HTML from a wrong server says more than we need.
const MAX_ANSWER: usize = 64 * 1024;
