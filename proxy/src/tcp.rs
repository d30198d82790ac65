//! Opaque forwarding: both directions, half-close, byte counts, idle time-out.
//!
//! The last stage of a connection that is not HTTP, and of one that stopped being it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::{Duration, Instant, Sleep, sleep_until};

use crate::io::{self, Io};

/// One end of a tunnel: its stream and what was read of it already.
#[derive(Debug)]
pub(crate) struct End {
    io: Io,
    input: BytesMut,
}

impl End {
    pub(crate) fn new(io: Io, input: BytesMut) -> Self {
        Self { io, input }
    }
}

/// What passed, and how it ended.
#[derive(Debug)]
pub(crate) struct Copied {
    /// Bytes from downstream to upstream.
    pub(crate) sent: u64,
    /// Bytes from upstream to downstream.
    pub(crate) received: u64,
    /// Why it did not end by both sides closing.
    pub(crate) error: Option<std::io::Error>,
}

/// Copies between `downstream` and `upstream` until both have closed, one fails, or nothing moves for `idle`.
///
/// A half-close (FIN) of one side is passed on, and the other direction goes on (RFC 9293 section 3.6). A failure of one
/// side is a reset of both: the end of these bytes is known only by the end of the connection.
pub(crate) async fn forward(downstream: End, upstream: End, idle: Duration) -> Copied {
    let (mut down, mut up) = (downstream.io, upstream.io);
    let mut there = Pipe::new(downstream.input);
    let mut back = Pipe::new(upstream.input);
    let mut timer = Box::pin(sleep_until(Instant::now() + idle));
    let mut moved = 0;
    let result = poll_fn(|cx| {
        let ends = [
            there.poll(cx, &mut down, &mut up)?,
            back.poll(cx, &mut up, &mut down)?,
        ];
        if ends.iter().all(Poll::is_ready) {
            return Poll::Ready(Ok(()));
        }
        poll_idle(cx, &mut timer, idle, there.count + back.count, &mut moved)
    })
    .await;
    if result.is_err() {
        io::reset(&down);
        io::reset(&up);
    }
    Copied {
        sent: there.count,
        received: back.count,
        error: result.err(),
    }
}

fn poll_idle(
    cx: &mut Context<'_>,
    timer: &mut Pin<Box<Sleep>>,
    idle: Duration,
    now_moved: u64,
    moved: &mut u64,
) -> Poll<std::io::Result<()>> {
    if now_moved != *moved {
        *moved = now_moved;
        timer.as_mut().reset(Instant::now() + idle);
    }
    ready!(timer.as_mut().poll(cx));
    Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()))
}

/// One direction.
struct Pipe {
    buffer: BytesMut,
    count: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reader has ended; what is buffered still goes out, then FIN.
    Closing,
    Closed,
}

impl Pipe {
    fn new(buffer: BytesMut) -> Self {
        Self {
            buffer,
            count: 0,
            state: State::Open,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
    ) -> std::io::Result<Poll<()>> {
        match self.poll_copy(cx, from, to) {
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
    ) -> Poll<std::io::Result<()>> {
        loop {
            if self.state == State::Closed {
                return Poll::Ready(Ok(()));
            }
            while self.buffer.has_remaining() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer))?;
                if count == 0 {
                    return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
                }
                self.count += count as u64;
                self.buffer.advance(count);
            }
            if self.state == State::Closing {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.state = State::Closed;
                continue;
            }
            if self.poll_read(cx, from, to)?.is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
    ) -> std::io::Result<Poll<()>> {
        self.buffer.reserve(BUFFER);
        match tokio_util::io::poll_read_buf(Pin::new(from), cx, &mut self.buffer) {
            Poll::Ready(Ok(0)) => self.state = State::Closing,
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => {
                // Nothing to do until more comes: what is written must not wait in the TLS layer, nor memory with us.
                self.buffer = BytesMut::new();
                if let Poll::Ready(Err(error)) = Pin::new(to).poll_flush(cx) {
                    return Err(error);
                }
                return Ok(Poll::Pending);
            }
        }
        Ok(Poll::Ready(()))
    }
}

const BUFFER: usize = 16 * 1024;
