//! The one stream type of the data path: plain TCP, or mesh TLS in either role.
//!
//! An enum, not a trait object: there are three kinds and there will not be a fourth without a look at each `match` here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};
use tracing::debug;

use crate::rewind::Rewind;

/// A connection's bytes, whatever carries them.
#[derive(Debug)]
pub(crate) enum Io {
    /// Plaintext.
    Tcp(Rewind),
    /// Mesh TLS that we accepted.
    Accepted(Box<Rewind<server::TlsStream<Rewind>>>),
    /// Mesh TLS that we opened.
    Connected(Box<client::TlsStream<Rewind>>),
}

impl Io {
    /// The socket underneath, for its options and errors.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Tcp(io) => io.socket(),
            Self::Accepted(io) => io.get_ref().get_ref().0.socket(),
            Self::Connected(io) => io.get_ref().0.socket(),
        }
    }

    /// Makes what was just read of a connection that we accepted be read again.
    pub(crate) fn again(&mut self, bytes: Bytes) {
        match self {
            Self::Tcp(io) => io.again(bytes),
            Self::Accepted(io) => io.again(bytes),
            // Nobody looks ahead there.
            Self::Connected(_) => debug_assert!(bytes.is_empty(), "bytes of a server are lost"),
        }
    }

    /// Whether TLS protects it.
    pub(crate) fn secure(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }

    /// The protocol that ALPN agreed on, if any.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Tcp(_) => None,
            Self::Accepted(io) => io.get_ref().get_ref().1.alpn_protocol(),
            Self::Connected(io) => io.get_ref().1.alpn_protocol(),
        }
    }
}

/// Makes the connection end with RST when it is dropped: whoever takes the end of the connection for the end of the data
/// must not take a failure for an orderly end.
pub(crate) fn reset(io: &Io) {
    let linger = socket2::SockRef::from(io.socket()).set_linger(Some(std::time::Duration::ZERO));
    if let Err(error) = linger {
        debug!(%error, "connection cannot be reset");
    }
}

/// Calls the same method of whichever stream it is.
macro_rules! each {
    ($io:expr, $stream:ident => $call:expr) => {
        match $io.get_mut() {
            Io::Tcp($stream) => $call,
            Io::Accepted($stream) => $call,
            Io::Connected($stream) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(io) => io.is_write_vectored(),
            Self::Accepted(io) => io.is_write_vectored(),
            Self::Connected(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
