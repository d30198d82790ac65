//! Serves the streams of one HTTP/2 connection, each in a task of its own.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method, Request, Response, Version};
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::batch::{Batch, Watched, gather};
use super::body::{Arrival, Incoming, Pump, PumpError};
use super::meter::{Flood, Meter};
use super::{CONNECTION_WINDOW, SMALL_FRAMES, STREAM_WINDOW};
use crate::drain::Lifetime;
use crate::http::Limits;
use crate::http::body::{Body, Source};
use crate::http::h1::parse::check_case;
use crate::http::h1::server::Service;
use crate::http::headers::single_host;
use crate::http::interim::Interim;
use crate::http::malformed::Malformed;
use crate::http::path;
use crate::http::timer::Timer;
use crate::io::Io;
use crate::reject::{Caller, Reject};
use crate::tasks::Tasks;

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("connection failed")]
    Http2(#[from] h2::Error),
    #[error(transparent)]
    Flood(#[from] Flood),
    #[error("client reads nothing of what is sent")]
    Idle,
}

impl ServeError {
    /// Why we closed it, as a label; `None` where the other side did, or nobody is to blame.
    pub(crate) fn blame(&self) -> Option<&'static str> {
        let error = match self {
            Self::Http2(error) => error,
            Self::Flood(_) => return Some("flood"),
            Self::Idle => return Some("idle"),
        };
        match error.reason().filter(|_| is_ours(error))? {
            Reason::NO_ERROR => None,
            Reason::ENHANCE_YOUR_CALM => Some("flood"),
            _ => Some("http2_protocol"),
        }
    }
}

/// Whether it was this side that ended the connection.
fn is_ours(error: &h2::Error) -> bool {
    error.is_go_away() && !error.is_remote()
}

/// Serves until the client leaves, misbehaves or has been told to go elsewhere and done so.
///
/// # Errors
/// Why the connection was given up; it has been closed.
pub(crate) async fn serve<S: Service + 'static>(
    io: Io,
    limits: Limits,
    lifetime: &Lifetime,
    service: Rc<S>,
    tasks: &Tasks,
) -> Result<(), ServeError> {
    let (io, writer) = gather(io, Meter::of_client(Instant::now()));
    let watched = writer.watched();
    let streams = serve_streams((io, watched), limits, lifetime, service, tasks);
    let served = writer.drive(streams).await;
    let told = match &served {
        Err(ServeError::Flood(_)) => true,
        Err(ServeError::Http2(error)) => is_ours(error),
        Err(ServeError::Idle) | Ok(()) => false,
    };
    if told {
        Box::pin(writer.linger()).await;
    }
    served
}

async fn serve_streams<S: Service + 'static>(
    (io, watched): (Batch, Watched),
    limits: Limits,
    lifetime: &Lifetime,
    service: Rc<S>,
    tasks: &Tasks,
) -> Result<(), ServeError> {
    let handshake = builder(&limits).handshake::<_, Bytes>(io);
    let Ok(connection) = timeout(limits.header_timeout, handshake).await else {
        return Ok(());
    };
    let mut server = Server {
        connection: connection?,
        served: false,
        active: false,
        quiet: false,
        waiting_after: None,
    };
    let mut over = pin!(lifetime.over());
    let mut goodbye = false;
    let mut idle = pin!(sleep_until(Instant::now() + limits.idle_timeout));
    loop {
        // A connection made while we drain gets its first request served before it is told.
        let tell = !goodbye && server.served;
        tokio::select! {
            biased;
            () = &mut over, if tell => {
                goodbye = true;
                server.connection.graceful_shutdown();
            }
            stream = server.connection.accept() => match stream {
                None => return Ok(()),
                Some(stream) => {
                    let (request, respond) = stream?;
                    server.served = true;
                    (server.active, server.quiet) = (true, false);
                    let service = Rc::clone(&service);
                    tasks.spawn_local(stream_task(request, respond, service, limits));
                    idle.as_mut().reset(Instant::now() + limits.idle_timeout);
                }
            },
            () = watched.flooded() => {
                Box::pin(server.calm()).await;
                return Err(Flood.into());
            }
            () = &mut idle => {
                let again = server.rest(&watched, limits)?;
                let Some(again) = again else { return Ok(()) };
                idle.as_mut().reset(Instant::now() + again);
            }
        }
    }
}

struct Server {
    connection: Connection<Batch, Bytes>,
    served: bool,
    /// It had a stream since the last look.
    active: bool,
    /// It has been told to go for want of requests.
    quiet: bool,
    /// What had left when something was last seen to wait.
    waiting_after: Option<u64>,
}

impl Server {
    /// Looks after a connection on which no request came for a while; says when to look again, or that it is over.
    ///
    /// # Errors
    /// Its client has read nothing since the last look.
    fn rest(&mut self, watched: &Watched, limits: Limits) -> Result<Option<Duration>, ServeError> {
        let before = std::mem::replace(&mut self.waiting_after, watched.waiting_after());
        if self.waiting_after.is_some() && self.waiting_after == before {
            return Err(ServeError::Idle);
        }
        let had = std::mem::replace(&mut self.active, self.connection.has_streams());
        if had || self.active {
            return Ok(Some(limits.idle_timeout));
        }
        if self.quiet {
            return Ok(None);
        }
        self.quiet = true;
        self.connection.graceful_shutdown();
        // An answer to the goodbye is not waited for as long as a request.
        Ok(Some(limits.header_timeout.min(limits.idle_timeout)))
    }

    /// Tells a client that floods us, if it still listens (RFC 9113 section 7, `ENHANCE_YOUR_CALM`).
    async fn calm(&mut self) {
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let closed = poll_fn(|cx| self.connection.poll_closed(cx));
        let _told = timeout(GOODBYE, closed).await;
    }
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .data_frame_budget(SMALL_FRAMES)
        .max_send_buffer_size(STREAM_WINDOW as usize);
    builder
}

/// One request: the service runs until it answers or the client resets the stream.
async fn stream_task<S: Service>(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    service: Rc<S>,
    limits: Limits,
) {
    let respond = Rc::new(RefCell::new(respond));
    let grpc = crate::http::grpc::is_grpc(request.headers());
    let head_only = *request.method() == Method::HEAD;
    let caller = if grpc { Caller::Grpc } else { Caller::Http };
    let mut arrival = None;
    let response = match accept(request, limits.header_count) {
        Err(malformed) => service.refuse(Reject::Malformed(malformed), caller),
        Ok(mut request) => {
            arrival = request.body_mut().arrival();
            // On the heap: a task is moved more than once before it runs, and this is most of it.
            let call = Box::pin(service.call(request, Interim::Http2(Rc::clone(&respond))));
            let limit = limits.idle_timeout;
            match wait(call, &respond, arrival.as_deref(), limit).await {
                Waited::Answer(response) => response,
                Waited::Stalled(reject) => service.refuse(reject, caller),
                Waited::Gone => return,
            }
        }
    };
    let pump = answer(response, &respond, head_only, grpc).await;
    let Some(pump) = pump else { return };
    // What else stopped it is in the exchange and on the stream already.
    let written = pump.run_within(limits.idle_timeout, arrival.as_deref());
    if let Err(PumpError::Idle) = written.await {
        service.stalled();
    }
}

/// What came of waiting for an answer.
enum Waited {
    Answer(Response<Body>),
    /// The request's body got no further.
    Stalled(Reject),
    /// The client wants none any more.
    Gone,
}

/// Waits for the service while the request's body comes in: how long an answer takes is for policy to limit, a body that
/// stands still keeps its place for `limit`.
async fn wait(
    mut call: Pin<Box<impl Future<Output = Response<Body>>>>,
    respond: &RefCell<SendResponse<Bytes>>,
    arrival: Option<&Arrival>,
    limit: Duration,
) -> Waited {
    let (mut timer, mut last) = (Timer::new(limit), 0);
    poll_fn(|cx| {
        if respond.borrow_mut().poll_reset(cx).is_ready() {
            return Poll::Ready(Waited::Gone);
        }
        if let Poll::Ready(response) = call.as_mut().poll(cx) {
            return Poll::Ready(Waited::Answer(response));
        }
        let Some(arrival) = arrival.filter(|arrival| !arrival.is_over()) else {
            return Poll::Pending;
        };
        if std::mem::replace(&mut last, arrival.bytes()) != last {
            timer.set(limit);
        }
        ready!(timer.poll(cx));
        Poll::Ready(Waited::Stalled(match arrival.is_wanted() {
            true => Reject::BodyTimeout,
            false => Reject::BodyUnread,
        }))
    })
    .await
}

/// Checks what h2 leaves to us and turns it into the request that everybody else sees.
fn accept(request: Request<RecvStream>, header_count: usize) -> Result<Request<Body>, Malformed> {
    let (mut parts, stream) = request.into_parts();
    if parts.headers.len() > header_count {
        return Err(Malformed::TooManyHeaders);
    }
    if parts.method == Method::CONNECT {
        return Err(Malformed::Target);
    }
    check_case(parts.method.as_str())?;
    // RFC 9113 section 8.3.1: ":authority ... MUST NOT include the deprecated userinfo", and Host, if there, must agree.
    let authority = parts
        .uri
        .authority()
        .map(|authority| authority.as_str().to_owned());
    let host = single_host(&parts.headers)?.cloned();
    match (authority, host) {
        (Some(authority), _) if authority.contains('@') => return Err(Malformed::HostInvalid),
        (Some(authority), Some(host)) if host.as_bytes() != authority.as_bytes() => {
            return Err(Malformed::HostSeveral);
        }
        (Some(authority), _) => {
            let value = HeaderValue::from_maybe_shared(Bytes::from(authority));
            parts
                .headers
                .insert(HOST, value.map_err(|_unprintable| Malformed::HostInvalid)?);
            single_host(&parts.headers)?;
        }
        (None, Some(_)) => {}
        (None, None) => return Err(Malformed::HostMissing),
    }
    let path = parts.uri.path();
    let asterisk = parts.method == Method::OPTIONS && path == "*";
    if !asterisk && !path.starts_with('/') {
        return Err(Malformed::Target);
    }
    parts.uri = path::normalise(parts.uri)?;
    parts.version = Version::HTTP_2;
    let announced = announced(&mut parts.headers)?;
    let body = if stream.is_end_stream() {
        Body::empty()
    } else {
        Source::Http2(Incoming::new(stream, announced)).into()
    };
    Ok(Request::from_parts(parts, body))
}

/// h2 has checked the value against the DATA frames; what is left is to keep one of several equal ones.
fn announced(headers: &mut http::HeaderMap) -> Result<Option<u64>, Malformed> {
    let Some(value) = headers.get(CONTENT_LENGTH).cloned() else {
        return Ok(None);
    };
    let number = value
        .to_str()
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
        .ok_or(Malformed::ContentLength)?;
    headers.insert(CONTENT_LENGTH, value);
    Ok(Some(number))
}

/// Sends the head; what is to follow it is left to the pump.
async fn answer(
    response: Response<Body>,
    respond: &RefCell<SendResponse<Bytes>>,
    head_only: bool,
    grpc: bool,
) -> Option<Pump> {
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_2;
    if !head_only
        && !grpc
        && body.length() == Some(0)
        && !parts.headers.contains_key(CONTENT_LENGTH)
    {
        let bodiless = crate::http::h1::parse::is_bodiless(parts.status);
        if !bodiless {
            parts
                .headers
                .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    }
    let ends = head_only || body.is_end();
    let sent = respond
        .borrow_mut()
        .send_response(Response::from_parts(parts, ()), ends);
    let stream = sent.ok()?;
    if ends {
        // Lets the exchange see its end.
        let mut body = body;
        let _ended = poll_fn(|cx| body.poll_frame(cx)).await;
        return None;
    }
    Some(Pump::new(stream, body))
}

/// Streams that were reset and are still remembered.
const MAX_RESET_STREAMS: usize = 50;
/// How long a client that is sent away has to read why.
const GOODBYE: Duration = Duration::from_secs(1);
