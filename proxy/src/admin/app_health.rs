//! Asks the app what the kubelet would ask it: the injector turned its probes to the readiness listener, and says in `WEFT_APP_PROBES` what
//! they were.
//!
//! The app is dialled as the inbound leg dials it, so that redirection leaves the connection alone and no policy is asked: the kubelet has no
//! identity to show.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_policy::probe::{AppProbe, Question};

use crate::connect;

mod grpc;

/// What is told to the kubelet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

/// Why the app is not found well.
#[derive(Debug, thiserror::Error)]
enum Unwell {
    #[error("the app at {app} takes no connection: {source}")]
    Refused { app: SocketAddr, source: io::Error },
    #[error("the app at {app} gives no answer: {source}")]
    Broken { app: SocketAddr, source: Failure },
    #[error("the app answers {0}")]
    Status(StatusCode),
    #[error("the app says {0}")]
    Says(String),
    #[error("no answer of the app within {0:?}")]
    Slow(Duration),
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Unwell {
    fn status(&self) -> StatusCode {
        match self {
            Self::Refused { .. } | Self::Broken { .. } | Self::Says(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Status(status) => *status,
            Self::Slow(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// Asks the app on `ip`, in the name of `agent`.
pub(super) async fn ask(probe: &AppProbe, ip: IpAddr, agent: Option<&HeaderValue>) -> Told {
    // The kubelet waits no longer than this, and should hear why.
    let limit = Duration::from_secs(probe.timeout_seconds.into()).mul_f64(0.9);
    let asked = timeout(limit, Box::pin(answer(&probe.ask, ip, agent))).await;
    match asked.unwrap_or(Err(Unwell::Slow(limit))) {
        Ok(()) => Told {
            status: StatusCode::OK,
            text: "ok\n".to_owned(),
        },
        Err(unwell) => Told {
            status: unwell.status(),
            text: format!("{unwell}\n"),
        },
    }
}

async fn answer(
    question: &Question,
    ip: IpAddr,
    agent: Option<&HeaderValue>,
) -> Result<(), Unwell> {
    let (Question::Http { port, .. } | Question::Tcp { port } | Question::Grpc { port, .. }) =
        question;
    let app = SocketAddr::new(ip.to_canonical(), *port);
    let io = connect::to_app(app).await;
    let io = io.map_err(|source| Unwell::Refused { app, source })?;
    let broken = |source: Failure| Unwell::Broken { app, source };
    match question {
        Question::Tcp { .. } => Ok(()),
        Question::Grpc { service, .. } => {
            let says = grpc::check(io, app, service).await.map_err(broken)?;
            says.map_or(Ok(()), |says| Err(Unwell::Says(says)))
        }
        Question::Http {
            path, tls, headers, ..
        } => {
            let request =
                request(app, path, headers, agent).map_err(|error| broken(error.into()))?;
            let status = match tls {
                true => get(encrypted(io, app).await.map_err(broken)?, request).await,
                false => get(io, request).await,
            };
            match status.map_err(broken)? {
                // "Any code greater than or equal to 200 and less than 400 indicates success" (Kubernetes, HTTP probes).
                status if (200..400).contains(&status.as_u16()) => Ok(()),
                status => Err(Unwell::Status(status)),
            }
        }
    }
}

fn request(
    app: SocketAddr,
    path: &str,
    headers: &[(String, String)],
    agent: Option<&HeaderValue>,
) -> http::Result<Request<Empty<Bytes>>> {
    let mut request = Request::get(path).header(CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let mut request = request.body(Empty::new())?;
    let ours = [
        (HOST, HeaderValue::try_from(app.to_string()).ok()),
        (ACCEPT, Some(HeaderValue::from_static("*/*"))),
        (USER_AGENT, agent.cloned()),
    ];
    for (name, value) in ours {
        if let (false, Some(value)) = (request.headers().contains_key(&name), value) {
            request.headers_mut().insert(name, value);
        }
    }
    Ok(request)
}

async fn get<T>(io: T, request: Request<Empty<Bytes>>) -> Result<StatusCode, Failure>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(sender.send_request(request));
    tokio::select! {
        biased;
        answer = answer.as_mut() => Ok(answer?.status()),
        ended = connection.as_mut() => {
            ended?;
            Ok(answer.await?.status())
        }
    }
}

/// "The kubelet skips certificate verification" (Kubernetes, HTTP probes).
async fn encrypted(
    io: tokio::net::TcpStream,
    app: SocketAddr,
) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, Failure> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let name = ServerName::from(app.ip());
    Ok(TlsConnector::from(Arc::new(config))
        .connect(name, io)
        .await?)
}

/// Takes any certificate: nothing secret is sent, and what is asked is whether anybody is there.
struct Anybody;

impl fmt::Debug for Anybody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Anybody")
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests;
