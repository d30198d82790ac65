//! One HTTP/1 connection's buffers, shared by whoever reads a body and whoever writes one.
//!
//! Everything is a `poll_` method, so that the `RefCell` around it is never borrowed across an await.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::decode::Decoder;
use crate::io::Io;
use crate::pool::Open;

/// A connection that a body and a server or client loop hold together.
pub(crate) type Shared = Rc<RefCell<Conn>>;

/// Buffers and state of one HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct Conn {
    io: Io,
    /// Counts reads, so that who waits sees whether something comes.
    pub(super) received: u64,
    /// Bytes read and not yet taken.
    pub(crate) input: BytesMut,
    /// Bytes to be written.
    pub(crate) output: BytesMut,
    /// Where in the incoming message we are.
    pub(crate) decoder: Decoder,
    /// How much of `input` is known to hold no end of the header.
    pub(super) scanned: usize,
    /// The other side has said that it sends no more.
    pub(crate) eof: bool,
    /// A `100 Continue` is owed before the body is read.
    pub(super) owes_continue: bool,
    /// The outgoing message is complete.
    pub(super) sent_all: bool,
    /// What of the outgoing message the socket has taken.
    pub(super) sent: Sent,
    /// Requests that it has carried to their end.
    pub(crate) served: u64,
    /// When the identities that protect it expire.
    pub(crate) expires: Option<Instant>,
    /// Its place in the pool's count.
    pub(crate) open: Option<Open>,
}

/// How a message left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    pub(super) writes: u32,
    pub(super) bytes: usize,
}

impl Conn {
    /// Wraps `io`; `input` is what was read of it already.
    pub(crate) fn new(io: Io, input: BytesMut) -> Self {
        Self {
            io,
            received: 0,
            input,
            output: BytesMut::new(),
            decoder: Decoder::done(),
            scanned: 0,
            eof: false,
            owes_continue: false,
            sent_all: true,
            sent: Sent::default(),
            served: 0,
            expires: None,
            open: None,
        }
    }

    /// The stream, the unread bytes and the place in the pool's count, for a tunnel.
    pub(crate) fn into_parts(self) -> (Io, BytesMut, Option<Open>) {
        (self.io, self.input, self.open)
    }

    pub(crate) fn io(&self) -> &Io {
        &self.io
    }

    /// Reads once. Zero means that the other side has ended.
    ///
    /// The first read after silence goes through the stack, so that a connection without a message holds no buffer.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.is_empty() {
            let count = ready!(self.poll_first(cx))?;
            self.received += 1;
            return Poll::Ready(Ok(count));
        }
        if self.input.capacity() - self.input.len() < MIN_SPACE {
            self.input.reserve(READ_SIZE);
        }
        let count = ready!(poll_read_buf(&mut self.io, cx, &mut self.input))?;
        self.eof |= count == 0;
        self.received += 1;
        Poll::Ready(Ok(count))
    }

    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [std::mem::MaybeUninit::<u8>::uninit(); FIRST_READ];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.eof = true;
        } else {
            self.input = BytesMut::with_capacity(if bytes.len() == FIRST_READ {
                READ_SIZE
            } else {
                bytes.len()
            });
            self.input.extend_from_slice(bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Reads ahead a little while an answer is being made, only to learn early that the other side is gone.
    ///
    /// # Errors
    /// The connection was reset.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.eof && self.input.len() < READ_AHEAD {
            ready!(self.poll_fill(cx))?;
        }
        Poll::Pending
    }

    /// Writes all of `output` and flushes it.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.output.has_remaining() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(count);
            self.sent.writes = self.sent.writes.saturating_add(1);
            self.sent.bytes = self.sent.bytes.saturating_add(count);
        }
        if self.output.capacity() > KEEP_OUTPUT {
            self.output = BytesMut::new();
        } else {
            self.output.clear();
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Says goodbye: TLS `close_notify`, then FIN.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Lets go of an empty input buffer between messages.
    pub(crate) fn release_input(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.scanned = 0;
    }
}

fn poll_read_buf(
    io: &mut Io,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    tokio_util::io::poll_read_buf(Pin::new(io), cx, buffer)
}

/// Room for a usual request head, on the stack.
const FIRST_READ: usize = 2048;
const READ_SIZE: usize = 16 * 1024;
const MIN_SPACE: usize = 1024;
/// Pipelined bytes we take before their turn.
const READ_AHEAD: usize = 4096;
/// An output buffer larger than this is given back when it is empty.
const KEEP_OUTPUT: usize = 8 * 1024;
/// Output beyond this waits for the socket: a slow reader must not make us buffer.
pub(super) const MAX_OUTPUT: usize = 64 * 1024;
