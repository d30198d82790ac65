//! The ends of HTTP on a connection: a tunnel, a refusal, a close after which the last answer still arrives.

use std::future::poll_fn;
use std::task::{Poll, ready};

use bytes::Buf;
use http::{Method, Version};
use tokio::time::Duration;

use super::super::encode::{After, Asked};
use super::{Next, ServeError, Server, Service};
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
