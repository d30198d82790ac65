//! A stream that gives back the bytes `detect` read from it.
//!
//! Comes after `detect`, which must look before it knows who reads next; hides from everyone behind it that it looked.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A stream whose first bytes have been read already and are read again.
#[derive(Debug)]
pub(crate) struct Rewind<S = TcpStream> {
    prefix: Bytes,
    io: S,
}

impl<S> Rewind<S> {
    /// Puts `prefix` in front of what `io` still has to give.
    pub(crate) fn new(prefix: Bytes, io: S) -> Self {
        Self { prefix, io }
    }

    /// What is read again, and the stream.
    pub(crate) fn into_parts(self) -> (Bytes, S) {
        (self.prefix, self.io)
    }

    /// The stream itself, for its options.
    pub(crate) fn get_ref(&self) -> &S {
        &self.io
    }

    /// Puts `bytes`, which were read last, in front again.
    pub(crate) fn again(&mut self, bytes: Bytes) {
        self.prefix = if self.prefix.is_empty() {
            bytes
        } else {
            [bytes, std::mem::take(&mut self.prefix)].concat().into()
        };
    }
}

impl Rewind {
    /// The socket itself, for its options.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.io
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix.split_to(count));
        if !self.prefix.has_remaining() {
            // Lets go of the allocation that the prefix is a view of.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // TLS writes its records so, as a rule a single one, which the kernel takes faster by send than by writev.
        if let [one] = bufs {
            return Pin::new(&mut self.io).poll_write(cx, one);
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
