//! The ends of HTTP on a connection: a tunnel, a refusal, a close after which the last answer still arrives.

use std::future::poll_fn;
use std::task::{Poll, ready};

use bytes::Buf;
use http::{Method, Version};
use tokio::time::Duration;

use super::super::decode::Decoded;
use super::super::encode::{After, Asked};
use super::{Next, ServeError, Server, Service};
use crate::http::body::Body;
use crate::http::malformed::Malformed;
use crate::http::upgrade;
use crate::reject::{Caller, Reject};

impl Server<'_> {
    /// Writes the head that ends HTTP on this connection (RFC 9110 sections 7.8 and 9.3.6).
    pub(super) async fn switch(
        &mut self,
        head: &http::response::Parts,
        upgraded: Box<upgrade::Upgraded>,
        method: &Method,
    ) -> Result<Next, ServeError> {
        // What came before the answer was sent to HTTP, not to the new protocol; a reader that took it for the latter
        // could be made to see a request that nobody judged.
        let early = poll_fn(|cx| {
            let conn = &mut *self.conn.borrow_mut();
            let _now = conn.poll_gone(cx)?;
            Poll::Ready(Ok::<_, std::io::Error>(conn.input.has_remaining()))
        })
        .await?;
        if early && *method != Method::CONNECT {
            return Err(ServeError::Malformed(Malformed::BytesBeforeUpgrade));
        }
        {
            let out = &mut self.conn.borrow_mut().output;
            let asked = Asked {
                method,
                version: Version::HTTP_11,
                after: After::KeepAlive,
            };
            upgrade::put_head(out, head, asked);
        }
        poll_fn(|cx| self.conn.borrow_mut().poll_flush(cx)).await?;
        Ok(Next::Tunnel(upgraded))
    }

    /// Tells the sender what was wrong, where it may still listen, and closes.
    pub(super) async fn refuse(
        &mut self,
        error: ServeError,
        service: &impl Service,
    ) -> Result<(), ServeError> {
        let response = match &error {
            ServeError::Malformed(malformed) => {
                service.refuse(Reject::Malformed(*malformed), Caller::Http)
            }
            ServeError::HeaderTimeout => service.refuse(Reject::HeaderTimeout, Caller::Http),
            ServeError::Io(_)
            | ServeError::CutHeader
            | ServeError::Idle
            | ServeError::Answer(_) => return Err(error),
        };
        let (head, mut body) = response.into_parts();
        let asked = Asked {
            method: &Method::GET,
            version: Version::HTTP_11,
            after: After::Close,
        };
        self.answer(&head, &mut body, asked).await?;
        self.close().await?;
        Err(error)
    }

    /// Whether another request may follow this answer, as far as is known when its head is written. Where it streams,
    /// its sender may still read the request. A client that still waits to be told to continue may send the content or
    /// not (RFC 9110 section 10.1.1), so that what it sends next could not be told apart.
    pub(super) fn can_go_on(&self, answer: &Body) -> bool {
        let whole = self.conn.borrow().decoder.is_done();
        whole || !(answer.is_own() || self.conn.borrow().owes_continue)
    }

    /// Drops what has come of content that nobody reads any more; tells whether that was all of it.
    fn drop_buffered(&self) -> Result<bool, Malformed> {
        let conn = &mut *self.conn.borrow_mut();
        while let Decoded::Frame(_) = conn.decoder.decode(&mut conn.input)? {}
        Ok(conn.decoder.is_done())
    }

    /// Reads and drops the rest of a request that was answered before it had come whole, where that is cheaper than
    /// another connection; tells whether the next request can follow.
    pub(super) async fn drop_rest(&mut self) -> bool {
        if self.conn.borrow().decoder.is_done() {
            return true;
        }
        let rest = poll_fn(|cx| {
            let mut dropped = 0;
            loop {
                match self.drop_buffered() {
                    Ok(false) => {}
                    done => return Poll::Ready(done.is_ok()),
                }
                let conn = &mut *self.conn.borrow_mut();
                let left = conn.decoder.remaining().unwrap_or_default();
                if conn.eof || left > LINGER_BYTES as u64 || dropped > LINGER_BYTES {
                    return Poll::Ready(false);
                }
                let Ok(count) = ready!(conn.poll_fill(cx)) else {
                    return Poll::Ready(false);
                };
                dropped += count;
            }
        });
        tokio::time::timeout(LINGER, rest).await.unwrap_or(false)
    }

    /// Ends the connection so that the last answer arrives: first our end, then what the other side still sends is read
    /// and dropped for a while (RFC 9112 section 9.6, "lingering" close).
    pub(super) async fn close(&mut self) -> Result<(), ServeError> {
        let linger = poll_fn(|cx| {
            let conn = &mut *self.conn.borrow_mut();
            ready!(conn.poll_shutdown(cx))?;
            let mut dropped = 0;
            while !conn.eof && dropped < LINGER_BYTES {
                conn.input.clear();
                dropped += ready!(conn.poll_fill(cx))?;
            }
            Poll::Ready(Ok::<_, std::io::Error>(()))
        });
        // Whether the other side has heard it is no longer our business.
        let _ended = tokio::time::timeout(LINGER, linger).await;
        Ok(())
    }
}

const LINGER: Duration = Duration::from_secs(2);

const LINGER_BYTES: usize = 256 * 1024;
