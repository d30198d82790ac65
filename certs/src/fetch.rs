//! One small GET, for a key set or what says where one is.
//!
//! No redirects, no proxies, no content coding; bounded in time and size. Whoever can change an answer can sign tokens, so `http` is
//! spoken to loopback and private addresses only (RFC 1918, RFC 4193), where a cluster is.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::CertError;
use crate::web;

/// Gets a text; an `https` server must show a certificate for its name under the roots in the PEM file `roots`.
///
/// # Errors
/// Whatever keeps the text from being got whole, in 5 s and at most 256 KiB.
pub async fn fetch(url: &Uri, roots: &Path) -> Result<String, FetchError> {
    let fetched = tokio::time::timeout(TIME_LIMIT, connect_and_get(url, roots));
    fetched.await.unwrap_or(Err(FetchError::Timeout))
}

async fn connect_and_get(url: &Uri, roots: &Path) -> Result<String, FetchError> {
    let host = url.host().ok_or(FetchError::Url)?.trim_matches(['[', ']']);
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port))
        .await
        .map_err(FetchError::Connect)?;
    if !secure {
        let address = tcp.peer_addr().map_err(FetchError::Connect)?.ip();
        return match is_near(address) {
            true => get(tcp, url).await,
            false => Err(FetchError::Plaintext(address)),
        };
    }
    let name = ServerName::try_from(host.to_owned()).or(Err(FetchError::Url))?;
    let roots = std::fs::read_to_string(roots).map_err(FetchError::Roots)?;
    let config = web::outside_config(&roots).map_err(FetchError::Tls)?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    get(tls.await.map_err(FetchError::Connect)?, url).await
}

/// Loopback or private. Not link-local, where clouds keep their secrets.
fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
    }
}

async fn get(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &Uri,
) -> Result<String, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let host = url.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .or(Err(FetchError::Url))?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await;
        let body = body.map_err(FetchError::Body)?.to_bytes();
        String::from_utf8(body.into()).or(Err(FetchError::Text))
    };
    // The connection ends with the exchange, which owns its only sender; what it fails with, the exchange fails with too.
    let (fetched, _) = tokio::join!(exchange, connection);
    fetched
}

/// Why a text was not got.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A URL without host, or with one that is no name.
    #[error("the URL cannot be used")]
    Url,
    /// Roots that cannot be read.
    #[error("cannot read the roots for the server")]
    Roots(#[source] io::Error),
    /// Roots that are none.
    #[error("cannot use the roots for the server")]
    Tls(#[source] CertError),
    /// No connection, or no trust in who is there.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// A key set must not come in plain text from far away.
    #[error("{0} is not a private address: use https")]
    Plaintext(IpAddr),
    /// Broken HTTP.
    #[error("the server does not speak HTTP")]
    Http(#[from] hyper::Error),
    /// Another status than 200.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// A body that broke off or is too large.
    #[error("the answer broke off or is larger than {MAX_BYTES} bytes")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Not UTF-8.
    #[error("the answer is not text")]
    Text,
    /// Too slow.
    #[error("no answer within {TIME_LIMIT:?}")]
    Timeout,
}

const MAX_BYTES: usize = 256 * 1024;
const TIME_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_near() {
        let rows = [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("172.31.0.1", true),
            ("192.168.0.1", true),
            ("169.254.169.254", false),
            ("::1", true),
            ("fd00::1", true),
            ("::ffff:10.0.0.1", true),
            ("172.32.0.1", false),
            ("1.1.1.1", false),
            ("::ffff:1.1.1.1", false),
            ("2001:db8::1", false),
        ];
        for (address, near) in rows {
            assert_eq!(is_near(address.parse().unwrap()), near, "{address}");
        }
    }
}
