//! Sends one request over an HTTP/1 connection and reads the head of its answer.
//!
//! Body and answer travel at the same time; when the answer comes first, the rest of the body goes on in a task that ends
//! with the answer. What a dead connection says about the request is worked out here, because only here is it known which
//! bytes left and which came.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::header::{EXPECT, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, request};
use socket2::SockRef;
use tokio::time::{Duration, Sleep, sleep};

use super::body::{Home, Incoming};
use super::conn::{Conn, MAX_OUTPUT, Sent, Shared};
use super::decode::{Decoder, Framing};
use super::encode::{self, Coding};
use super::parse::{self, ResponseHead};
use crate::http::Limits;
use crate::http::body::{Body, Frame, Source};
use crate::http::failure::{Failure, Processed, SendError};
use crate::http::headers;
use crate::http::interim::Interim;
use crate::http::malformed::{MAX_INTERIM, Malformed};
use crate::http::upgrade::{self, Upgraded};
use crate::tasks::{AbortOnDrop, Tasks};

/// One connection, ready for one request.
pub(crate) struct Client {
    pub(crate) conn: Shared,
    /// Whether it has carried a request before.
    pub(crate) reused: bool,
    /// Who takes it back.
    pub(crate) home: Option<Rc<dyn Home>>,
    pub(crate) limits: Limits,
    pub(crate) tasks: Tasks,
}

impl Client {
    /// Sends a request and waits for the head of the final answer.
    ///
    /// # Errors
    /// No answer came; the connection is not used again.
    pub(crate) async fn send(
        self,
        head: &request::Parts,
        body: Body,
        interim: &Interim,
    ) -> Result<Response<Body>, Failure> {
        let mut call = Call::new(&self, head, body, interim);
        let mut answer = poll_fn(|cx| call.poll(cx)).await;
        if let Err(failure) = &mut answer {
            call.settle(failure).await;
        }
        // The call's hold on the connection ends here: a connection that switches protocols has one owner.
        let Call { conn, upload, .. } = call;
        drop(conn);
        match answer {
            Ok(answer) => Ok(self.answer(answer, upload)),
            Err(failure) => Err(Failure {
                reused: self.reused,
                ..failure
            }),
        }
    }

    fn answer(self, answer: ResponseHead, upload: Upload) -> Response<Body> {
        let ResponseHead {
            response,
            framing,
            keep_alive,
        } = answer;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS
            || (upload.connect && response.status().is_success());
        if switched {
            drop(upload);
            let Ok(conn) = Rc::try_unwrap(self.conn) else {
                return response.map(|()| Body::empty());
            };
            let upgraded = Upgraded::new(conn.into_inner());
            return response.map(|()| Source::Upgraded(Box::new(upgraded)).into());
        }
        let home = self.home.filter(|_| keep_alive);
        let rest =
            (!upload.done).then(|| AbortOnDrop::new(self.tasks.spawn_local(upload.finish())));
        if framing == Framing::None || framing == Framing::Length(0) {
            if let (Some(home), None) = (home, &rest) {
                home.take_back(self.conn);
            }
            return response.map(|()| Body::empty());
        }
        response.map(|()| Source::Http1(Incoming::of_answer(self.conn, home, rest)).into())
    }
}

/// One request being sent and answered.
struct Call<'a> {
    conn: Shared,
    method: &'a Method,
    interim: &'a Interim,
    limits: Limits,
    upload: Upload,
    /// The protocols that the request offers to switch to.
    offered: Option<&'a HeaderValue>,
    write_error: Option<io::Error>,
    answered: bool,
    /// Interim answers so far.
    interims: u32,
}

impl<'a> Call<'a> {
    fn new(client: &Client, head: &'a request::Parts, body: Body, interim: &'a Interim) -> Self {
        let conn = Rc::clone(&client.conn);
        let coding = encode::request(&mut conn.borrow_mut().output, head, &body);
        conn.borrow_mut().sent_all = false;
        conn.borrow_mut().sent = Sent::default();
        let hold = Hold::of(&head.headers).filter(|_| coding != Coding::None);
        let connect = head.method == Method::CONNECT;
        let ended = coding == Coding::None && body.is_end();
        let upload = Upload {
            conn: Rc::clone(&conn),
            body,
            coding,
            ended,
            done: false,
            passed: 0,
            hold,
            connect,
        };
        Self {
            conn,
            method: &head.method,
            interim,
            limits: client.limits,
            upload,
            offered: head.headers.get(UPGRADE),
            write_error: None,
            answered: false,
            interims: 0,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Failure>> {
        if !self.upload.done && self.write_error.is_none() {
            match self.upload.poll(cx) {
                Poll::Ready(Err(SendError::Io(error))) => self.write_error = Some(error),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::maybe(error))),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        // Also after a failed write: a server may answer and close without reading the whole request.
        self.poll_head(cx)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Failure>> {
        loop {
            match self.take_head() {
                Err(malformed) => {
                    return Poll::Ready(Err(Failure::maybe(SendError::Malformed(malformed))));
                }
                Ok(Some(head)) if self.is_final(&head.response) => {
                    return Poll::Ready(Ok(head));
                }
                // RFC 9110 section 7.8: a switch that nobody asked for, or to what nobody offered. Passed on it would end HTTP for the caller alone.
                Ok(Some(head)) if head.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    let error = SendError::Malformed(Malformed::StatusLine);
                    return Poll::Ready(Err(Failure::maybe(error)));
                }
                Ok(Some(_)) if self.interims >= MAX_INTERIM => {
                    let error = SendError::Malformed(Malformed::Interim);
                    return Poll::Ready(Err(Failure::maybe(error)));
                }
                Ok(Some(head)) => {
                    self.interims += 1;
                    self.upload.hold = None;
                    cx.waker().wake_by_ref();
                    self.interim
                        .forward(head.response.status(), head.response.into_parts().0.headers);
                    continue;
                }
                Ok(None) => {}
            }
            let mut conn = self.conn.borrow_mut();
            let read = if conn.eof {
                Ok(0)
            } else {
                ready!(conn.poll_fill(cx))
            };
            match read {
                Ok(0) => {
                    let failure = closed(&conn, self.write_error.take(), self.answered);
                    return Poll::Ready(Err(failure));
                }
                Ok(_) => self.answered = true,
                Err(error) => {
                    let failure = broken(
                        &conn,
                        self.write_error.take().unwrap_or(error),
                        self.answered,
                    );
                    return Poll::Ready(Err(failure));
                }
            }
        }
    }

    /// An app that closes with our request unread says FIN first and the reset that tells of it a moment later.
    async fn settle(&self, failure: &mut Failure) {
        let riddle =
            failure.processed == Processed::Maybe && matches!(failure.error, SendError::Closed);
        if riddle && !self.answered {
            sleep(RESET_COMES_WITHIN).await;
            if took_nothing(&self.conn.borrow()) {
                failure.processed = Processed::No;
            }
        }
    }

    fn is_final(&self, head: &Response<()>) -> bool {
        let switches = || {
            self.upload.connect
                || self
                    .offered
                    .is_some_and(|offered| upgrade::is_among(head.headers(), offered))
        };
        !head.status().is_informational()
            || (head.status() == StatusCode::SWITCHING_PROTOCOLS && switches())
    }

    fn take_head(&mut self) -> Result<Option<ResponseHead>, Malformed> {
        let conn = &mut *self.conn.borrow_mut();
        let end = parse::head_end(&conn.input, &mut conn.scanned)?;
        if end.unwrap_or(conn.input.len()) > self.limits.header_bytes {
            return Err(Malformed::HeaderTooLarge);
        }
        let Some(end) = end else { return Ok(None) };
        conn.scanned = 0;
        let head = parse::response(&mut conn.input, end, self.method, &self.limits)?;
        conn.decoder = Decoder::new(head.framing, self.limits);
        Ok(Some(head))
    }
}

/// The connection ended in an orderly way before the answer.
///
/// Three cases can be told apart, and only the last is a riddle:
/// TLS said `close_notify`: a mesh proxy answers whatever it has taken, so it took nothing. The socket's error is EPIPE:
/// the app had closed before our bytes came (CLOSE_WAIT, then RST), so it never read them, if they came as one. No error: it read
/// and left.
fn closed(conn: &Conn, write_error: Option<io::Error>, answered: bool) -> Failure {
    if conn.io().secure() {
        let error = write_error.map_or(SendError::Closed, SendError::Io);
        return failure(error, true, answered);
    }
    match write_error {
        Some(error) => broken(conn, error, answered),
        None => failure(SendError::Closed, took_nothing(conn), answered),
    }
}

fn broken(conn: &Conn, error: io::Error, answered: bool) -> Failure {
    let unread = match error.kind() {
        io::ErrorKind::BrokenPipe => left_as_one(conn),
        _ => took_nothing(conn),
    };
    failure(SendError::Io(error), unread, answered)
}

fn failure(error: SendError, unread: bool, answered: bool) -> Failure {
    let processed = if unread && !answered {
        Processed::No
    } else {
        Processed::Maybe
    };
    Failure {
        processed,
        reused: false,
        error,
    }
}

/// Asks the kernel who closed first. Linux: `tcp_reset` sets EPIPE in CLOSE_WAIT and ECONNRESET otherwise.
fn took_nothing(conn: &Conn) -> bool {
    let error = conn.io().socket().take_error().ok().flatten();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) && left_as_one(conn)
}

/// Whether all that was sent was one segment at most. Of several the app may have read the first, and acted on it, before it closed and
/// the next one was refused.
fn left_as_one(conn: &Conn) -> bool {
    let Sent { writes, bytes } = conn.sent;
    let segment = SockRef::from(conn.io().socket()).tcp_mss().unwrap_or(0);
    writes <= 1 && bytes <= segment as usize
}

/// The request on its way out.
struct Upload {
    conn: Shared,
    body: Body,
    coding: Coding,
    /// The last byte has been encoded.
    ended: bool,
    /// The last byte has been written.
    done: bool,
    /// Bytes that were taken from the body.
    passed: usize,
    hold: Option<Hold>,
    connect: bool,
}

/// A body that waits for `100 Continue`.
struct Hold {
    /// Bytes that need not wait.
    free: usize,
    /// Counted from when it waits (RFC 9110 section 10.1.1: "SHOULD NOT wait for an indefinite period").
    timer: Option<Pin<Box<Sleep>>>,
}

impl Hold {
    fn of(headers: &HeaderMap) -> Option<Self> {
        if !headers.contains_key(EXPECT) {
            return None;
        }
        let free = match headers.contains_key(headers::HELD) {
            true => FREE_BYTES,
            false => 0,
        };
        Some(Self { free, timer: None })
    }

    /// Ready when `passed` bytes are not too many, or have waited for long enough.
    fn poll(&mut self, cx: &mut Context<'_>, passed: usize) -> Poll<()> {
        if passed < self.free {
            return Poll::Ready(());
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(CONTINUE_TIMEOUT)));
        timer.as_mut().poll(cx)
    }
}

impl Upload {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            let waiting = self.fill(cx)?;
            ready!(self.conn.borrow_mut().poll_flush(cx)).map_err(SendError::Io)?;
            if self.ended {
                self.done = true;
                self.conn.borrow_mut().sent_all = true;
                return Poll::Ready(Ok(()));
            }
            if waiting {
                return Poll::Pending;
            }
        }
    }

    fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, SendError> {
        while !self.ended && self.conn.borrow().output.len() < MAX_OUTPUT {
            let passed = self.passed;
            if let Some(hold) = &mut self.hold
                && hold.poll(cx, passed).is_pending()
            {
                return Ok(true);
            }
            let Poll::Ready(frame) = self.body.poll_frame(cx) else {
                return Ok(true);
            };
            let out = &mut self.conn.borrow_mut().output;
            match frame {
                Some(Ok(frame)) => {
                    if let Frame::Data(data) = &frame {
                        self.passed += data.len();
                    }
                    self.ended =
                        matches!(frame, Frame::Trailers(_)) && self.coding == Coding::Chunked;
                    encode::frame(out, frame, self.coding);
                }
                Some(Err(error)) => return Err(SendError::Request(error)),
                None => {
                    self.ended = true;
                    encode::end(out, self.coding);
                }
            }
        }
        Ok(false)
    }

    /// Sends what is left while the answer is already on its way back.
    async fn finish(mut self) {
        self.hold = None;
        // The answer decides what becomes of the exchange; a request that cannot be finished only ends the connection.
        let _outcome = poll_fn(|cx| self.poll(cx)).await;
    }
}

/// What of a body is sent before its endpoint has said anything: all of most bodies.
const FREE_BYTES: usize = 32 * 1024;
/// A FIN and the reset that follows it leave one call of the app's; the rest is for the scheduler.
const RESET_COMES_WITHIN: Duration = Duration::from_millis(5);
/// Envoy and curl wait this long for `100 Continue` too.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
