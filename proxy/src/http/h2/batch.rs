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

use super::meter::Meter;
use crate::io::Io;

/// The end that h2 holds: a flush only asks for one.
pub(super) struct Batch(Rc<RefCell<Gathered>>);

/// The end that writes, with the task that drives the connection.
pub(super) struct Writer(Rc<RefCell<Gathered>>);

struct Gathered {
    io: Io,
    pending: BytesMut,
    /// Something was taken that has not left: it is in `pending`, or in the TLS layer behind it.
    unsent: bool,
    /// The turn that was waited for has come.
    waited: bool,
    meter: Option<Meter>,
    failed: Option<io::ErrorKind>,
}

/// Splits `io` into the end for h2 and the end that writes; `meter` watches what comes in.
pub(super) fn gather(io: Io, meter: Option<Meter>) -> (Batch, Writer) {
    let gathered = Gathered {
        io,
        pending: BytesMut::new(),
        unsent: false,
        waited: false,
        meter,
        failed: None,
    };
    let gathered = Rc::new(RefCell::new(gathered));
    (Batch(Rc::clone(&gathered)), Writer(gathered))
}

impl Writer {
    /// Drives `connection`, and writes what it gathered a turn later.
    pub(super) async fn drive<T>(self, connection: impl Future<Output = T>) -> T {
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
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        if let Some(meter) = &mut this.meter {
            meter.see(buf.filled().get(before..).unwrap_or_default())?;
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

/// More than this is written before more is taken.
const MAX: usize = 64 * 1024;
/// A larger buffer is given back when it is empty.
const KEEP: usize = 16 * 1024;
