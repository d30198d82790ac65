//! Server side of mesh TLS: reads the ClientHello without answering it, so that an app's own TLS can still pass untouched.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello};
use tokio::io::AsyncReadExt;
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsAcceptor;
use weft_certs::error::CertError;
use weft_certs::identity::Identity;

use super::Speaks;
use crate::rewind::Rewind;

/// What a ClientHello says, and the stream with the ClientHello still in it.
#[derive(Debug)]
pub(crate) struct Hello {
    pub(crate) io: Rewind,
    /// `None`: TLS of the app's own.
    pub(crate) speaks: Option<Speaks>,
    pub(crate) server_name: Option<String>,
}

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcceptError {
    #[error("no whole ClientHello within {0:?}")]
    Timeout(Duration),
    #[error("not a ClientHello")]
    NotHello(#[source] rustls::Error),
    #[error("connection failed inside the handshake")]
    Io(#[source] io::Error),
}

impl AcceptError {
    /// Metric label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::NotHello(_) => "not_tls",
            Self::Io(error) => weft_certs::verify::handshake_failure_reason(error),
        }
    }
}

/// Reads a whole ClientHello (RFC 8446 section 4.1.2).
///
/// # Errors
/// It does not come within `limit`, or is none.
pub(crate) async fn hello(io: Rewind, limit: Duration) -> Result<Hello, AcceptError> {
    timeout(limit, read_hello(io))
        .await
        .map_err(|_elapsed| AcceptError::Timeout(limit))?
}

async fn read_hello(io: Rewind) -> Result<Hello, AcceptError> {
    let (prefix, mut io) = io.into_parts();
    let mut buffer = BytesMut::from(prefix);
    loop {
        if let Some(Said {
            speaks,
            server_name,
        }) = parse(&buffer)?
        {
            return Ok(Hello {
                io: Rewind::new(buffer.freeze(), io),
                speaks,
                server_name,
            });
        }
        if io.read_buf(&mut buffer).await.map_err(AcceptError::Io)? == 0 {
            return Err(AcceptError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// `None`: more bytes are needed. rustls bounds how many.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Said>, AcceptError> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).map_err(AcceptError::Io)?;
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(Some(read(&accepted.client_hello()))),
            Ok(None) => {}
            Err((error, _alert)) => return Err(AcceptError::NotHello(error)),
        }
    }
    Ok(None)
}

/// What a ClientHello says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    speaks: Option<Speaks>,
    pub(crate) server_name: Option<String>,
}

fn read(hello: &ClientHello<'_>) -> Said {
    Said {
        speaks: hello.alpn().and_then(Speaks::of_offer),
        server_name: hello.server_name().map(str::to_owned),
    }
}

/// Does the handshake that `hello` began.
///
/// # Errors
/// The peer is not who the trust bundle lets in, or does not speak TLS 1.3.
pub(crate) async fn accept(
    io: Rewind,
    config: Arc<ServerConfig>,
    limit: Duration,
) -> Result<tokio_rustls::server::TlsStream<Rewind>, AcceptError> {
    let handshake = timeout(limit, TlsAcceptor::from(config).accept(io)).await;
    handshake
        .map_err(|_elapsed| AcceptError::Timeout(limit))?
        .map_err(AcceptError::Io)
}

/// Server configurations, kept for as long as the identity they were made from: their session caches end with it, so that
/// no session outlives the bundle or the leaf it was made under.
#[derive(Default)]
pub(crate) struct AcceptConfigs {
    made: RefCell<Vec<Made>>,
}

/// A configuration, for what, and of which identity.
struct Made {
    speaks: Speaks,
    identity: Arc<Identity>,
    config: Arc<ServerConfig>,
}

impl AcceptConfigs {
    /// The configuration for connections that carry `speaks`.
    ///
    /// # Errors
    /// The identity's key cannot sign.
    pub(crate) fn config(
        &self,
        identity: &Arc<Identity>,
        speaks: Speaks,
    ) -> Result<Arc<ServerConfig>, CertError> {
        let mut made = self.made.borrow_mut();
        made.retain(|one| Arc::ptr_eq(&one.identity, identity));
        if let Some(one) = made.iter().find(|one| one.speaks == speaks) {
            return Ok(Arc::clone(&one.config));
        }
        let config = identity.server_config(speaks.accept())?;
        let (identity, kept) = (Arc::clone(identity), Arc::clone(&config));
        made.push(Made {
            speaks,
            identity,
            config: kept,
        });
        Ok(config)
    }
}

/// The port that an SNI of Istio's form names: `outbound_.<port>_.<subset>_.<fqdn>`.
pub(crate) fn port_of(server_name: &str) -> Option<u16> {
    server_name
        .strip_prefix("outbound_.")?
        .split_once("_.")?
        .0
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_name_names_the_port() {
        let rows = [
            (
                "outbound_.8080_._.orders.shop.svc.cluster.local",
                Some(8080),
            ),
            ("outbound_.80_.v1_.orders", Some(80)),
            ("orders.shop", None),
            ("outbound_.x_._.orders", None),
            ("outbound_.99999_._.orders", None),
        ];
        for (name, want) in rows {
            assert_eq!(port_of(name), want, "{name}");
        }
    }

    #[test]
    fn garbage_is_not_a_client_hello() {
        assert!(parse(b"\x16\x03\x01\x00\x05hello").is_err());
        assert!(matches!(parse(b"\x16\x03"), Ok(None)));
    }
}
