//! Serves the streams of one HTTP/2 connection, each in a task of its own.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, Connection, SendResponse};
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method, Request, Response, Version};
use tokio::time::{Instant, sleep_until, timeout};

use super::batch::{Batch, gather};
use super::body::{Incoming, Pump};
use super::meter::Meter;
use crate::drain::Lifetime;
use crate::http::Limits;
use crate::http::body::{Body, Source};
use crate::http::h1::server::Service;
use crate::http::headers::single_host;
use crate::http::interim::Interim;
use crate::http::malformed::Malformed;
use crate::http::path;
use crate::io::Io;
use crate::reject::{Caller, Reject};
use crate::tasks::Tasks;

/// Serves until the client leaves, misbehaves or has been told to go elsewhere and done so.
///
/// # Errors
/// What h2 says of the connection; it has been closed.
pub(crate) async fn serve<S: Service + 'static>(
    io: Io,
    limits: Limits,
    lifetime: &Lifetime,
    service: Rc<S>,
    tasks: &Tasks,
) -> Result<(), h2::Error> {
    let (io, writer) = gather(io, Some(Meter::new()));
    writer
        .drive(serve_streams(io, limits, lifetime, service, tasks))
        .await
}

async fn serve_streams<S: Service + 'static>(
    io: Batch,
    limits: Limits,
    lifetime: &Lifetime,
    service: Rc<S>,
    tasks: &Tasks,
) -> Result<(), h2::Error> {
    let handshake = builder(&limits).handshake::<_, Bytes>(io);
    let Ok(connection) = timeout(limits.header_timeout, handshake).await else {
        return Ok(());
    };
    let mut server = Server {
        connection: connection?,
        served: false,
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
                    let service = Rc::clone(&service);
                    tasks.spawn_local(stream_task(request, respond, service, limits.header_count));
                    idle.as_mut().reset(Instant::now() + limits.idle_timeout);
                }
            },
            () = &mut idle => {
                if !server.connection.has_streams() {
                    server.connection.graceful_shutdown();
                }
                idle.as_mut().reset(Instant::now() + limits.idle_timeout);
            }
        }
    }
}

struct Server {
    connection: Connection<Batch, Bytes>,
    served: bool,
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
        .max_send_buffer_size(STREAM_WINDOW as usize);
    builder
}

/// One request: the service runs until it answers or the client resets the stream.
async fn stream_task<S: Service>(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    service: Rc<S>,
    header_count: usize,
) {
    let respond = Rc::new(RefCell::new(respond));
    let grpc = crate::http::grpc::is_grpc(request.headers());
    let head_only = *request.method() == Method::HEAD;
    let response = match accept(request, header_count) {
        Err(malformed) => {
            let caller = if grpc { Caller::Grpc } else { Caller::Http };
            service.refuse(Reject::Malformed(malformed), caller)
        }
        Ok(request) => {
            // On the heap: a task is moved more than once before it runs, and this is most of it.
            let mut call = Box::pin(service.call(request, Interim::Http2(Rc::clone(&respond))));
            let answer = poll_fn(|cx| {
                if respond.borrow_mut().poll_reset(cx).is_ready() {
                    return std::task::Poll::Ready(None);
                }
                call.as_mut().poll(cx).map(Some)
            });
            match answer.await {
                Some(response) => response,
                None => return,
            }
        }
    };
    answer(response, &respond, head_only, grpc).await;
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

async fn answer(
    response: Response<Body>,
    respond: &RefCell<SendResponse<Bytes>>,
    head_only: bool,
    grpc: bool,
) {
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
    let Ok(stream) = sent else {
        return;
    };
    if ends {
        // Lets the exchange see its end.
        let mut body = body;
        let _ended = poll_fn(|cx| body.poll_frame(cx)).await;
        return;
    }
    // What stopped it is in the exchange and on the stream already.
    let _outcome = Pump::new(stream, body).run().await;
}

/// Bytes one stream may be ahead of its reader.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes one connection may be ahead of its readers.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams that were reset and are still remembered.
const MAX_RESET_STREAMS: usize = 50;
