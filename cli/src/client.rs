//! One HTTP/1.1 call on a connection of its own: what the shop's apps and the demo's visitor need, and no more.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no connection to {to}")]
    Connect {
        to: SocketAddr,
        source: std::io::Error,
    },
    #[error("no answer from {to}")]
    Exchange {
        to: SocketAddr,
        source: hyper::Error,
    },
    #[error("no whole answer from {to}: {source}")]
    Body {
        to: SocketAddr,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("no answer from {to} within {DEADLINE:?}")]
    Deadline { to: SocketAddr },
    #[error("this is no request")]
    Request(#[from] http::Error),
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Asks for `path` at `to`, which may be a proxy, of the service named `host`.
///
/// # Errors
/// [`CallError`], also when the answer is not complete within [`DEADLINE`] (5 s).
pub(crate) async fn get(
    to: SocketAddr,
    host: &str,
    path: &str,
    headers: &HeaderMap,
) -> Result<Answer, CallError> {
    send(to, request(host, path, headers)?).await
}

/// Sends any request to `to`.
///
/// # Errors
/// As [`get`].
pub(crate) async fn send(
    to: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<Answer, CallError> {
    tokio::time::timeout(DEADLINE, exchange(to, request))
        .await
        .unwrap_or(Err(CallError::Deadline { to }))
}

fn request(
    host: &str,
    path: &str,
    headers: &HeaderMap,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::get(path)
        .header(header::HOST, host)
        .body(Full::default())?;
    let copied = headers
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    request.headers_mut().extend(copied);
    Ok(request)
}

async fn exchange(to: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer, CallError> {
    let stream = TcpStream::connect(to)
        .await
        .map_err(|source| CallError::Connect { to, source })?;
    let failed = |source| CallError::Exchange { to, source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let answer = async {
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(failed)?
            .into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
        let body = body.map_err(|source| CallError::Body { to, source })?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    };
    // The answer is complete before the connection is; what the connection ends with is then of no interest.
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = connection => match ended {
            Ok(()) => answer.await,
            Err(source) => Err(failed(source)),
        },
    }
}

/// How long a call may take in all.
const DEADLINE: Duration = Duration::from_secs(5);

/// More than any app of the shop answers.
const MAX_BODY_BYTES: usize = 1 << 20;
