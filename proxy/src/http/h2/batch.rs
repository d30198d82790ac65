//! A stream that writes once a turn of the task queue, not once a frame.
//!
//! Answers of many streams become ready in the same turn, and h2 flushes after each DATA frame. What it writes is gathered
//! here, and leaves when the tasks that are ready have run: in one TLS record and one system call.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Duration, Instant, timeout};

use super::meter::Meter;
use crate::io::Io;

/// The end that h2 holds: a flush only asks for one.
pub(super) struct Batch(Rc<RefCell<Gathered>>);

/// The end that writes, with the task that drives the connection.
pub(super) struct Writer(Rc<RefCell<Gathered>>);

/// Tells the task that drives the connection what h2 does not see.
pub(super) struct Watched(Rc<RefCell<Gathered>>);

struct Gathered {
    io: Io,
    pending: BytesMut,
    /// Something was taken that has not left: it is in `pending`, or in the TLS layer behind it.
    unsent: bool,
    /// The turn that was waited for has come.
    waited: bool,
    meter: Meter,
    /// The meter has seen too much: nothing more is read for h2.
    flooded: bool,
    /// Bytes that have left.
    written: u64,
    failed: Option<io::ErrorKind>,
}

/// Splits `io` into the end for h2 and the end that writes; `meter` watches what comes in.
pub(super) fn gather(io: Io, meter: Meter) -> (Batch, Writer) {
    let gathered = Gathered {
        io,
        pending: BytesMut::new(),
        unsent: false,
        waited: false,
        meter,
        flooded: false,
        written: 0,
        failed: None,
    };
    let gathered = Rc::new(RefCell::new(gathered));
    (Batch(Rc::clone(&gathered)), Writer(gathered))
}

impl Watched {
    /// Waits until too many frames have come that carry nothing. Nobody is woken for it: it is to be asked after the connection
    /// was driven, in the same turn.
    pub(super) async fn flooded(&self) {
        std::future::poll_fn(|_cx| match self.0.borrow().flooded {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    /// Bytes that have left, if others wait to; `None` where nothing does.
    pub(super) fn waiting_after(&self) -> Option<u64> {
        let this = self.0.borrow();
        this.unsent.then_some(this.written)
    }
}

impl Writer {
    /// A further look at the same connection.
    pub(super) fn watched(&self) -> Watched {
        Watched(Rc::clone(&self.0))
    }

    /// Reads and drops what still comes, for a while, so that our last word arrives: a socket that is closed with bytes
    /// unread is reset, and takes it back.
    pub(super) async fn linger(self) {
        let linger = std::future::poll_fn(|cx| {
            let io = &mut self.0.borrow_mut().io;
            let (mut bytes, mut dropped) = ([0; 4096], 0);
            while dropped < LINGER_BYTES {
                let mut buf = ReadBuf::new(&mut bytes);
                match ready!(Pin::new(&mut *io).poll_read(cx, &mut buf)) {
                    Ok(()) if !buf.filled().is_empty() => dropped += buf.filled().len(),
                    Ok(()) | Err(_) => break,
                }
            }
            Poll::Ready(())
        });
        // Whether the other side has heard it is no longer our business.
        let _ended = timeout(LINGER, linger).await;
    }

    /// Drives `connection`, and writes what it gathered a turn later.
    pub(super) async fn drive<T>(&self, connection: impl Future<Output = T>) -> T {
        let mut connection = pin!(connection);
        std::future::poll_fn(|cx| {
            let driven = connection.as_mut().poll(cx);
            if driven.is_pending() {
                self.0.borrow_mut().poll_turn(cx);
            }
            driven
        })
        .await
    }
}

impl Gathered {
    fn poll_turn(&mut self, cx: &mut Context<'_>) {
        if !self.unsent {
            return;
        }
        if !self.waited {
            self.waited = true;
            return cx.waker().wake_by_ref();
        }
        match self.poll_drain(cx) {
            Poll::Ready(Ok(())) => self.waited = false,
            // h2 learns of it when it reads or writes next.
            Poll::Ready(Err(error)) => {
                self.failed = Some(error.kind());
                self.pending.clear();
                self.unsent = false;
                cx.waker().wake_by_ref();
            }
            Poll::Pending => {}
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.pending.has_remaining() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.pending))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(count);
            self.written += count as u64;
        }
        if self.pending.capacity() > KEEP {
            self.pending = BytesMut::new();
        } else {
            self.pending.clear();
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unsent = false;
        Poll::Ready(Ok(()))
    }

    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl AsyncRead for Batch {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self.0.borrow_mut();
        this.check()?;
        if this.flooded {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        if this.meter.see(new, Instant::now).is_err() {
            // Whoever drives the connection looks after each turn, and says goodbye.
            this.flooded = true;
            buf.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Batch {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self.0.borrow_mut();
        this.check()?;
        if this.pending.len() >= MAX {
            ready!(this.poll_drain(cx))?;
        }
        this.meter.sent(buf);
        this.pending.extend_from_slice(buf);
        this.unsent = true;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self.0.borrow_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

/// How long, and how much, is read of a connection after our last word.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;
/// More than this is written before more is taken.
const MAX: usize = 64 * 1024;
/// A larger buffer is given back when it is empty.
const KEEP: usize = 16 * 1024;
