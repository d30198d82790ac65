//! Serves requests from one HTTP/1 connection, one after the other.
//!
//! One task: head in, service, answer out; the request's body is read by whoever forwards it, through the shared
//! connection. Refuses what `parse` refuses with an answer and a close.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::Buf;
use http::{Request, Response, Version};

use super::body::Incoming;
use super::conn::{Conn, Shared};
use super::decode::{Decoder, Framing};
use super::encode::{After, Asked};
use super::parse::{self, RequestHead};
use crate::drain::Lifetime;
use crate::http::Limits;
use crate::http::body::{Body, BodyError, Source};
use crate::http::interim::Interim;
use crate::http::malformed::Malformed;
use crate::http::timer::Timer;
use crate::http::upgrade;
use crate::reject::{Caller, Reject};

mod answer;
mod end;

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("connection failed")]
    Io(#[from] std::io::Error),
    #[error("request refused: {0}")]
    Malformed(Malformed),
    #[error("no whole request header in time")]
    HeaderTimeout,
    #[error("connection ended inside a request header")]
    CutHeader,
    #[error("no progress in time")]
    Idle,
    #[error("answer failed half-way")]
    Answer(#[source] BodyError),
}

/// What to do with the connection's requests.
pub(crate) trait Service {
    /// Answers one request; failures are answers too.
    async fn call(&self, request: Request<Body>, interim: Interim) -> Response<Body>;
    /// The answer to a request that could not be read whole; counts it.
    fn refuse(&self, reject: Reject, caller: Caller) -> Response<Body>;
    /// Counts an answer that was given up half-way, because nothing of it moved for too long.
    fn stalled(&self);
}

/// Serves until either side ends; runs the tunnel if a request turns into one.
///
/// # Errors
/// Why the connection ended other than between two messages; it has been closed.
pub(crate) async fn serve(
    conn: Conn,
    limits: Limits,
    lifetime: &Lifetime,
    service: &impl Service,
) -> Result<(), ServeError> {
    let mut server = Server {
        conn: Shared::new(conn.into()),
        limits,
        lifetime,
        timer: Timer::new(limits.idle_timeout),
    };
    // Registered once for the connection: its task is woken when it is over, and looks between two messages.
    let mut over = pin!(lifetime.over());
    poll_fn(|cx| Poll::Ready(over.as_mut().poll(cx).is_ready())).await;
    loop {
        let head = match server.head().await {
            Ok(Some(head)) => head,
            Ok(None) => return server.close().await,
            Err(error) => return server.refuse(error, service).await,
        };
        match server.exchange(head, service).await? {
            Next::Message => server.conn.borrow_mut().release_input(),
            Next::Close => return server.close().await,
            Next::Tunnel(upgraded) => {
                let conn = Rc::try_unwrap(server.conn)
                    .map_err(|_shared| ServeError::CutHeader)?
                    .into_inner();
                upgrade::run(conn, *upgraded, limits.idle_timeout).await;
                return Ok(());
            }
        }
    }
}

enum Next {
    Message,
    Close,
    Tunnel(Box<upgrade::Upgraded>),
}

struct Server<'a> {
    conn: Shared,
    limits: Limits,
    lifetime: &'a Lifetime,
    timer: Timer,
}

impl Server<'_> {
    /// Reads the next head; `None` when the connection has ended, or should.
    async fn head(&mut self) -> Result<Option<RequestHead>, ServeError> {
        let Self {
            conn,
            limits,
            lifetime,
            timer,
        } = self;
        let mut began = !conn.borrow().input.is_empty();
        timer.set(if began {
            limits.header_timeout
        } else {
            limits.idle_timeout
        });
        poll_fn(|cx| {
            let conn = &mut *conn.borrow_mut();
            loop {
                if let Some(head) = take_head(conn, limits)? {
                    return Poll::Ready(Ok(Some(head)));
                }
                match (conn.eof, conn.input.is_empty()) {
                    (true, true) => return Poll::Ready(Ok(None)),
                    (true, false) => return Poll::Ready(Err(ServeError::CutHeader)),
                    (false, _) => {}
                }
                match conn.poll_fill(cx)? {
                    Poll::Ready(_) if !began => {
                        began = true;
                        timer.set(limits.header_timeout);
                    }
                    Poll::Ready(_) => {}
                    Poll::Pending if timer.poll(cx).is_ready() => {
                        return Poll::Ready(if began {
                            Err(ServeError::HeaderTimeout)
                        } else {
                            Ok(None)
                        });
                    }
                    Poll::Pending if !began && lifetime.is_over() => {
                        return Poll::Ready(Ok(None));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Answers one request.
    async fn exchange(
        &mut self,
        head: RequestHead,
        service: &impl Service,
    ) -> Result<Next, ServeError> {
        let RequestHead {
            request,
            framing,
            keep_alive,
            expects_continue,
        } = head;
        let (method, version) = (request.method().clone(), request.version());
        let body = self.begin(framing, expects_continue);
        let request = request.map(|()| body);
        // RFC 9110 section 15.2: "a server MUST NOT send a 1xx response to an HTTP/1.0 client".
        let interim = if version == Version::HTTP_10 {
            Interim::None
        } else {
            Interim::Http1(Rc::clone(&self.conn))
        };
        // On the heap: a connection without a request should not have its room.
        let call = Box::pin(service.call(request, interim));
        let answer = self.wait(call).await?;
        let response = answer.unwrap_or_else(|| service.refuse(Reject::BodyTimeout, Caller::Http));
        let after = if keep_alive && self.can_go_on(response.body()) && !self.lifetime.is_over() {
            After::KeepAlive
        } else {
            After::Close
        };
        let (head, mut body) = response.into_parts();
        if let Some(upgraded) = body.take_upgraded() {
            return self.switch(&head, upgraded, &method).await;
        }
        let asked = Asked {
            method: &method,
            version,
            after,
        };
        let after = self.answer(&head, &mut body, asked).await?;
        Ok(if after == After::KeepAlive && self.drop_rest().await {
            Next::Message
        } else {
            Next::Close
        })
    }

    fn begin(&mut self, framing: Framing, expects_continue: bool) -> Body {
        let mut conn = self.conn.borrow_mut();
        conn.decoder = Decoder::new(framing, self.limits);
        conn.owes_continue = expects_continue;
        if conn.decoder.is_done() {
            return Body::empty();
        }
        Source::Http1(Incoming::of_request(Rc::clone(&self.conn))).into()
    }

    /// Waits for the service, sends what it says meanwhile, and notices when nobody waits for the answer any more.
    ///
    /// `None` when the request's body has stopped coming.
    async fn wait(
        &mut self,
        answer: impl Future<Output = Response<Body>>,
    ) -> Result<Option<Response<Body>>, ServeError> {
        let (mut answer, limit) = (pin!(answer), self.limits.idle_timeout);
        let mut received = None;
        poll_fn(|cx| {
            if let Poll::Ready(response) = answer.as_mut().poll(cx) {
                return Poll::Ready(Ok(Some(response)));
            }
            let conn = &mut *self.conn.borrow_mut();
            if conn.output.has_remaining() {
                let _pending = conn.poll_flush(cx)?;
            }
            if conn.decoder.is_done() {
                let _pending = conn.poll_gone(cx)?;
                // A mesh peer never half-closes a request; an app's client may.
                if conn.eof && conn.io().secure() {
                    return Poll::Ready(Err(ServeError::CutHeader));
                }
            } else {
                if received.replace(conn.received) != Some(conn.received) {
                    self.timer.set(limit);
                }
                ready!(self.timer.poll(cx));
                return Poll::Ready(Ok(None));
            }
            Poll::Pending
        })
        .await
    }
}

fn take_head(conn: &mut Conn, limits: &Limits) -> Result<Option<RequestHead>, ServeError> {
    if conn.scanned == 0 && conn.input.starts_with(b"\r\n") {
        conn.input.advance(2);
    }
    let end = parse::head_end(&conn.input, &mut conn.scanned).map_err(ServeError::Malformed)?;
    let length = end.unwrap_or(conn.input.len());
    if length > limits.header_bytes {
        let whole_line = conn
            .input
            .get(..limits.header_bytes)
            .is_some_and(|bytes| bytes.contains(&b'\n'));
        let reason = if whole_line {
            Malformed::HeaderTooLarge
        } else {
            Malformed::TargetTooLong
        };
        return Err(ServeError::Malformed(reason));
    }
    let Some(end) = end else { return Ok(None) };
    conn.scanned = 0;
    parse::request(&mut conn.input, end, limits)
        .map(Some)
        .map_err(ServeError::Malformed)
}
