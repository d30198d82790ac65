//! The body that is being read from an HTTP/1 connection.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, StatusCode};

use super::conn::Shared;
use super::decode::Decoded;
use super::encode;
use crate::http::body::{BodyError, Frame};
use crate::tasks::AbortOnDrop;

/// Who takes a client connection back when its answer has been read whole.
pub(crate) trait Home {
    /// The connection may carry another request.
    fn take_back(self: Rc<Self>, conn: Shared);
}

/// A message body on its way in.
pub(crate) struct Incoming {
    conn: Shared,
    home: Option<Rc<dyn Home>>,
    /// The rest of the request, which ends with its answer.
    upload: Option<AbortOnDrop>,
}

impl Incoming {
    /// A request's body: the server loop keeps the connection.
    pub(super) fn of_request(conn: Shared) -> Self {
        Self {
            conn,
            home: None,
            upload: None,
        }
    }

    /// An answer's body; `home` takes the connection back after it, where there is one.
    pub(super) fn of_answer(
        conn: Shared,
        home: Option<Rc<dyn Home>>,
        upload: Option<AbortOnDrop>,
    ) -> Self {
        Self { conn, home, upload }
    }

    /// The bytes still to come, where that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.conn.borrow().decoder.remaining()
    }

    /// The next piece; `None` after the last.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = ready!(self.poll_decoded(cx));
        if !matches!(frame, Some(Err(_))) && self.conn.borrow().decoder.is_done() {
            self.go_home();
        }
        Poll::Ready(frame)
    }

    fn poll_decoded(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut conn = self.conn.borrow_mut();
        let conn = &mut *conn;
        if conn.owes_continue && !conn.decoder.is_done() {
            // RFC 9110 section 10.1.1: the sender waits for this before it sends the content we now want.
            conn.owes_continue = false;
            encode::interim(&mut conn.output, StatusCode::CONTINUE, &HeaderMap::new());
            let _sent = conn.poll_flush(cx);
        }
        loop {
            match conn.decoder.decode(&mut conn.input) {
                Ok(Decoded::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Err(malformed) => return Poll::Ready(Some(Err(BodyError::Malformed(malformed)))),
                Ok(Decoded::More) if conn.eof && conn.decoder.ends_with_connection() => {
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) if conn.eof => return Poll::Ready(Some(Err(BodyError::Cut))),
                Ok(Decoded::More) => {
                    if let Err(error) = ready!(conn.poll_fill(cx)) {
                        return Poll::Ready(Some(Err(BodyError::Io(error))));
                    }
                }
            }
        }
    }

    fn go_home(&mut self) {
        self.upload = None;
        if let Some(home) = self.home.take()
            && self.conn.borrow().sent_all
        {
            home.take_back(Rc::clone(&self.conn));
        }
    }
}
