//! Writes an answer as fast as the reader reads, and no faster.
//!
//! Comes after the service has answered. A body that breaks off must not look like one that has ended.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use tokio::time::Duration;

use super::super::conn::{Conn, MAX_OUTPUT, Shared};
use super::super::encode::{self, After, Asked, Coding};
use super::{ServeError, Server};
use crate::http::body::{Body, BodyError, Frame};

impl Server<'_> {
    /// Writes the answer, as fast as the reader reads and no faster.
    pub(super) async fn answer(
        &mut self,
        head: &http::response::Parts,
        body: &mut Body,
        asked: Asked<'_>,
    ) -> Result<After, ServeError> {
        let (coding, after) =
            encode::response(&mut self.conn.borrow_mut().output, head, body, asked);
        let mut writer = Writer {
            coding,
            ended: coding == Coding::None && body.is_end(),
            failed: None,
        };
        let limit = self.limits.idle_timeout;
        self.timer.set(limit);
        poll_fn(|cx| self.poll_answer(cx, &mut writer, body, limit)).await?;
        Ok(after)
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut Writer,
        body: &mut Body,
        limit: Duration,
    ) -> Poll<Result<(), ServeError>> {
        loop {
            let waiting = writer.poll_fill(cx, &self.conn, body);
            let conn = &mut *self.conn.borrow_mut();
            let before = conn.output.len();
            let flushed = conn.poll_flush(cx)?;
            if before != conn.output.len() {
                self.timer.set(limit);
            }
            if flushed.is_ready() && writer.ended {
                return Poll::Ready(writer.outcome(conn));
            }
            if flushed.is_pending() || waiting {
                if conn.decoder.is_done() {
                    let _pending = conn.poll_gone(cx)?;
                    if conn.eof && conn.io().secure() {
                        return Poll::Ready(Err(ServeError::CutHeader));
                    }
                }
                ready!(self.timer.poll(cx));
                return Poll::Ready(Err(ServeError::Idle));
            }
        }
    }
}

/// The state of an answer being written.
struct Writer {
    coding: Coding,
    /// Nothing more will be encoded.
    ended: bool,
    /// The body broke off; what came before it is still written.
    failed: Option<BodyError>,
}

impl Writer {
    /// Encodes what the body has ready; tells whether it waits for the body.
    fn poll_fill(&mut self, cx: &mut Context<'_>, conn: &Shared, body: &mut Body) -> bool {
        while !self.ended && conn.borrow().output.len() < MAX_OUTPUT {
            let Poll::Ready(frame) = body.poll_frame(cx) else {
                return true;
            };
            let out = &mut conn.borrow_mut().output;
            match frame {
                Some(Ok(frame)) => {
                    self.ended =
                        matches!(frame, Frame::Trailers(_)) && self.coding == Coding::Chunked;
                    encode::frame(out, frame, self.coding);
                }
                Some(Err(error)) => {
                    self.ended = true;
                    self.failed = Some(error);
                }
                None => {
                    self.ended = true;
                    encode::end(out, self.coding);
                }
            }
        }
        false
    }

    /// How the answer ended. Where its end is that of the connection, one that broke off must not end in an orderly way.
    fn outcome(&mut self, conn: &Conn) -> Result<(), ServeError> {
        let Some(error) = self.failed.take() else {
            return Ok(());
        };
        if self.coding == Coding::UntilClose {
            crate::io::reset(conn.io());
        }
        Err(ServeError::Answer(error))
    }
}
