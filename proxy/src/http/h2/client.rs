//! Sends requests over a shared HTTP/2 connection.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::Reason;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version, request};
use tokio::time::{Duration, Instant, timeout};
use tracing::debug;

use super::batch::{Batch, Watched, gather};
use super::body::{InFlight, Incoming, Pump, PumpError};
use super::meter::Meter;
use super::{CONNECTION_WINDOW, SMALL_FRAMES, STREAM_WINDOW};
use crate::http::Limits;
use crate::http::body::{Body, Source};
use crate::http::failure::{Failure, Processed, SendError};
use crate::http::interim::Interim;
use crate::http::malformed::{MAX_INTERIM, Malformed};
use crate::io::Io;
use crate::tasks::{AbortOnDrop, Tasks};

/// One connection that many requests share.
#[derive(Clone)]
pub(crate) struct Client {
    sender: SendRequest<Bytes>,
    in_flight: Rc<Cell<usize>>,
    closed: Rc<Cell<bool>>,
    served: Rc<Cell<u64>>,
}

impl Client {
    /// Opens the HTTP/2 connection on `io` and drives it in a task until it ends.
    ///
    /// # Errors
    /// The preface could not be sent.
    pub(crate) async fn connect(io: Io, limits: Limits, tasks: &Tasks) -> Result<Self, h2::Error> {
        let (io, writer) = gather(io, Meter::of_server(Instant::now()));
        let watched = writer.watched();
        let (sender, connection) = builder(&limits).handshake(io).await?;
        let closed = Rc::new(Cell::new(false));
        let mark = Rc::clone(&closed);
        tasks.spawn_local(async move {
            // Each stream learns of a failure by itself.
            let _outcome = writer.drive(keep_alive(connection, &watched)).await;
            mark.set(true);
        });
        Ok(Self {
            sender,
            in_flight: Rc::default(),
            closed,
            served: Rc::default(),
        })
    }

    /// Whether it may be given more requests.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.get()
    }

    /// Whether the other side would have to queue another stream.
    pub(crate) fn is_full(&self) -> bool {
        self.in_flight.get() >= self.sender.current_max_send_streams()
    }

    /// Requests without a complete answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Sends a request and waits for the head of the final answer.
    ///
    /// # Errors
    /// No answer came; whether the stream was processed is in the failure.
    pub(crate) async fn send(
        &self,
        head: &request::Parts,
        body: Body,
        interim: &Interim,
        tasks: &Tasks,
    ) -> Result<Response<Body>, Failure> {
        let in_flight = InFlight::new(&self.in_flight);
        let reused = self.served.replace(self.served.get() + 1) > 0;
        let fail = |error: h2::Error| Failure {
            reused,
            ..self.failure(error)
        };
        let mut sender = self.sender.clone();
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(fail)?;
        let request = to_h2(head).ok_or_else(|| Failure::maybe(SendError::Closed))?;
        let ends = body.is_end();
        let (mut answer, stream) = sender.send_request(request, ends).map_err(fail)?;
        let mut upload = (!ends).then(|| Pump::new(stream, body));
        let response =
            head_of(&mut answer, &mut upload, interim)
                .await
                .map_err(|error| match error {
                    Short::Stream(error) => fail(error),
                    Short::Interim => Failure {
                        reused,
                        ..Failure::maybe(SendError::Malformed(Malformed::Interim))
                    },
                    Short::Body(error) => Failure {
                        reused,
                        ..Failure::maybe(SendError::Request(error))
                    },
                })?;
        let upload = upload.map(|pump| {
            AbortOnDrop::new(tasks.spawn_local(async move {
                let _outcome = pump.run().await;
            }))
        });
        let (parts, stream) = response.into_parts();
        let announced = parts
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Incoming::new(stream, announced).holding(upload, in_flight);
        Ok(Response::from_parts(parts, Source::Http2(body).into()))
    }

    fn failure(&self, error: h2::Error) -> Failure {
        if error.is_go_away() || error.is_io() {
            self.closed.set(true);
        }
        // RFC 9113 section 8.7: REFUSED_STREAM, and streams above the last one that GOAWAY names, have not been processed.
        let refused = error.reason() == Some(Reason::REFUSED_STREAM);
        let beyond = error.is_go_away() && error.is_remote();
        let processed = if refused || beyond {
            Processed::No
        } else {
            Processed::Maybe
        };
        Failure {
            processed,
            reused: false,
            error: SendError::Stream(error),
        }
    }
}

enum Short {
    Stream(h2::Error),
    /// Too many of them.
    Interim,
    Body(crate::http::body::BodyError),
}

/// Waits for the final head while the body is sent. What the service said already comes before a body that failed.
async fn head_of(
    answer: &mut ResponseFuture,
    upload: &mut Option<Pump>,
    interim: &Interim,
) -> Result<Response<h2::RecvStream>, Short> {
    let mut interims = 0;
    poll_fn(|cx| {
        if let Some(pump) = upload
            && let Poll::Ready(sent) = pump.poll(cx)
        {
            *upload = None;
            if let Err(PumpError::Body(error)) = sent {
                return Poll::Ready(Err(Short::Body(error)));
            }
        }
        while let Poll::Ready(Some(Ok(early))) = answer.poll_informational(cx) {
            interims += 1;
            if interims > MAX_INTERIM {
                return Poll::Ready(Err(Short::Interim));
            }
            let (parts, ()) = early.into_parts();
            interim.forward(parts.status, parts.headers);
        }
        std::pin::Pin::new(&mut *answer)
            .poll(cx)
            .map_err(Short::Stream)
    })
    .await
}

/// The head as HTTP/2 wants it: authority in the URI, no Host (RFC 9113 section 8.3.1).
fn to_h2(head: &request::Parts) -> Option<Request<()>> {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = head.headers.clone();
    let host = request.headers_mut().remove(HOST);
    let authority = match (head.uri.authority(), host) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => {
            Authority::from_maybe_shared(Bytes::copy_from_slice(host.as_bytes())).ok()?
        }
        (None, None) => return None,
    };
    let path = head
        .uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(head.uri.scheme().cloned().unwrap_or(Scheme::HTTP));
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    Some(request)
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(INITIAL_STREAMS)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(SMALL_FRAMES)
        .max_send_buffer_size(STREAM_WINDOW as usize);
    builder
}

/// Drives the connection; asks now and then whether the other side is still there, because a host that vanished says
/// nothing (RFC 9113 section 6.7).
async fn keep_alive(
    mut connection: h2::client::Connection<Batch, Bytes>,
    watched: &Watched,
) -> Result<(), h2::Error> {
    let Some(mut pings) = connection.ping_pong() else {
        return connection.await;
    };
    let mut watch = std::pin::pin!(async move {
        loop {
            tokio::time::sleep(PING_INTERVAL).await;
            if !matches!(
                timeout(PING_TIMEOUT, pings.ping(h2::Ping::opaque())).await,
                Ok(Ok(_))
            ) {
                return;
            }
        }
    });
    tokio::select! {
        biased;
        outcome = &mut connection => outcome,
        () = watched.flooded() => {
            debug!("a server floods its HTTP/2 connection, which is closed");
            Ok(())
        }
        () = &mut watch => Ok(()),
    }
}

const INITIAL_STREAMS: usize = 100;
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
