//! What both paths do once they know whom to send to: one attempt over a pooled connection, or opaque bytes over one of
//! their own.

use std::cell::Cell;
use std::rc::Rc;
use std::time::SystemTime;

use bytes::BytesMut;
use h2::Reason;
use http::header::{CONNECTION, UPGRADE};
use http::{Response, StatusCode, Version};
use tokio::time::{Duration, Instant, timeout};
use tracing::debug;

use crate::connect::ConnectError;
use crate::cx::{Cx, Worker};
use crate::detect::{self, Protocol};
use crate::http::body::{Body, BodyError};
use crate::http::failure::{Failure, Processed, SendError};
use crate::http::grpc;
use crate::http::h1::server::ServeError;
use crate::http::h2::server as http2;
use crate::http::headers::remove_hop_by_hop;
use crate::http::interim::Interim;
use crate::http::upgrade;
use crate::io::{self, Io};
use crate::pool::Lane;
use crate::reject::Reject;
use crate::retry::{Attempt, Failed};
use crate::tcp;
use crate::telemetry::record::{DestinationFacts, Direction, TcpRecord};
use crate::telemetry::waits::timed;
use crate::tls::Speaks;

/// What became of an attempt.
pub(crate) enum Sent {
    Answer(Response<Body>),
    /// There was no connection to send it on.
    NotConnected(ConnectError),
    Failed(Failed),
}

/// Sends one attempt in the protocol it came in; how long it waited for a connection is added to `waited`.
pub(crate) async fn send(
    lane: &Rc<Lane>,
    attempt: Attempt<'_>,
    interim: &Interim,
    worker: &Worker,
    waited: &Cell<Option<Duration>>,
) -> Sent {
    let (head, body, fresh) = (attempt.head, attempt.body, attempt.fresh);
    // Only gRPC has deadlines, and only there is the clock worth a look.
    let start = (head.version == Version::HTTP_2).then(Instant::now);
    let answer = if head.version == Version::HTTP_2 {
        match timed(lane.http2(fresh), waited).await {
            Ok(client) => client.send(head, body, interim, &worker.tasks).await,
            Err(error) => return Sent::NotConnected(error),
        }
    } else {
        match timed(lane.http1(fresh), waited).await {
            Ok(client) => client.send(head, body, interim).await,
            Err(error) => return Sent::NotConnected(error),
        }
    };
    match answer {
        Ok(response) => Sent::Answer(response),
        Err(failure) => {
            debug!(error = %failure.error, processed = ?failure.processed, "attempt failed");
            if let SendError::Malformed(malformed) = failure.error {
                worker.telemetry.metrics().malformed(malformed.label());
            }
            let expired = start
                .zip(grpc::timeout(&head.headers))
                .is_some_and(|(start, limit)| start.elapsed() >= limit);
            Sent::Failed(failed(&failure, expired))
        }
    }
}

/// gRPC's mapping of HTTP/2 errors (PROTOCOL-HTTP2, Errors) has CANCEL as CANCELLED; a server also sends it when the deadline
/// that the caller gave has passed.
fn failed(failure: &Failure, expired: bool) -> Failed {
    let reject = match &failure.error {
        SendError::Stream(error) if error.is_remote() && error.reason() == Some(Reason::CANCEL) => {
            if expired {
                Reject::Deadline
            } else {
                Reject::UpstreamCancelled
            }
        }
        SendError::Io(_) | SendError::Stream(_) => Reject::UpstreamReset,
        SendError::Closed => Reject::UpstreamClosed,
        SendError::Malformed(_) => Reject::UpstreamMalformed,
        SendError::Request(BodyError::TooLarge) => Reject::BodyTooLarge,
        SendError::Request(_) => Reject::RequestBody,
    };
    let Failure {
        processed, reused, ..
    } = *failure;
    Failed {
        reject,
        processed,
        reused,
        endpoint: None,
    }
}

/// Removes what belongs to the connection the answer came on; an upgrade that was asked for stays.
pub(crate) fn clean_answer(response: &mut Response<Body>, switches: bool) {
    let switched = switches && response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response
        .headers()
        .get(UPGRADE)
        .cloned()
        .filter(|_| switched);
    let headers = response.headers_mut();
    if headers.contains_key(CONNECTION) || response.version() != Version::HTTP_2 {
        remove_hop_by_hop(response.headers_mut());
    }
    if let Some(protocol) = protocol {
        upgrade::put(response.headers_mut(), protocol);
    }
}

/// What is known of the bytes of an opaque connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Early {
    /// They are not HTTP.
    Opaque,
    /// None has come yet.
    Unknown,
}

/// Forwards opaque bytes over a connection of their own until both are silent for `idle`, and records it. What comes with the connection is held as long.
///
/// Gives the connection back if nothing was known of it and its client turns out to speak HTTP.
pub(crate) async fn tcp<G>(
    cx: &Cx,
    mut io: Io,
    (early, idle): (Early, Duration),
    destination: DestinationFacts,
    upstream: impl Future<Output = Result<(Io, G), ConnectError>>,
) -> Option<(Io, Speaks)> {
    let mut record = record(cx, destination);
    let telemetry = &cx.worker.telemetry;
    let begun = || telemetry.begin_tcp(&cx.facts, record.destination.as_ref());
    match upstream.await {
        Ok((mut upstream, _held)) => match first(cx, &mut io, &mut upstream, early).await {
            Ok((Some(speaks), _)) => return Some((io, speaks)),
            Ok((None, heard)) => {
                begun();
                let down = tcp::End::new(io, BytesMut::new());
                let up = tcp::End::new(upstream, heard);
                let copied = tcp::forward(down, up, idle).await;
                (record.sent, record.received) = (copied.sent, copied.received);
                record.error = copied.error.as_ref().map(broken);
            }
            Err(error) => {
                begun();
                record.error = Some(broken(&error));
                io::reset(&io);
                io::reset(&upstream);
            }
        },
        Err(error) => {
            begun();
            debug!(%error, "opaque connection has nowhere to go");
            record.error = Some(error.reject().label());
            io::reset(&io);
        }
    }
    telemetry.finish_tcp(&record);
    None
}

/// Closes a connection of opaque bytes that policy does not let pass, and records it.
pub(crate) fn refuse_tcp(cx: &Cx, io: &Io, destination: DestinationFacts, reject: Reject) {
    let mut record = record(cx, destination);
    record.error = Some(reject.label());
    let telemetry = &cx.worker.telemetry;
    telemetry.begin_tcp(&cx.facts, record.destination.as_ref());
    telemetry.finish_tcp(&record);
    io::reset(io);
}

fn record(cx: &Cx, destination: DestinationFacts) -> TcpRecord {
    TcpRecord {
        connection: Rc::clone(&cx.facts),
        destination: Some(destination),
        trace: cx.worker.sampler.begin(),
        start: Instant::now(),
        started: SystemTime::now(),
        sent: 0,
        received: 0,
        error: None,
    }
}

/// Waits for the first word where nothing is known: HTTP that the client speaks, or what the server has said.
async fn first(
    cx: &Cx,
    io: &mut Io,
    upstream: &mut Io,
    early: Early,
) -> std::io::Result<(Option<Speaks>, BytesMut)> {
    if early == Early::Opaque {
        return Ok((None, BytesMut::new()));
    }
    let settings = &cx.worker.settings;
    let first = detect::first_word(io, upstream, settings.detect_timeout);
    let (protocol, heard) = timeout(cx.limits.idle_timeout, first).await??;
    Ok((http_of(protocol), heard))
}

fn broken(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::TimedOut {
        "idle"
    } else {
        "reset"
    }
}

pub(crate) fn http_of(protocol: Protocol) -> Option<Speaks> {
    match protocol {
        Protocol::Http1 => Some(Speaks::Http1),
        Protocol::Http2 => Some(Speaks::Http2),
        Protocol::Tls | Protocol::Opaque | Protocol::Silent => None,
    }
}

/// Tells how an HTTP/1 connection ended, where it did not end between two messages.
pub(crate) fn log_end(direction: Direction, cx: &Cx, error: Option<ServeError>) {
    if let Some(error) = error {
        debug!(?direction, client = %cx.facts.client, %error, "HTTP/1 connection ended early");
        if matches!(error, ServeError::Idle) {
            cx.worker.telemetry.metrics().refused(direction, "idle");
        }
    }
}

/// Counts why we ended an HTTP/2 connection, and tells of it.
pub(crate) fn log_http2_end(
    direction: Direction,
    worker: &Worker,
    error: Option<http2::ServeError>,
) {
    if let Some(error) = error {
        debug!(?direction, %error, "HTTP/2 connection failed");
        if let Some(reason) = error.blame() {
            worker.telemetry.metrics().refused(direction, reason);
        }
    }
}

/// Nothing of a request that could not be sent has been processed.
pub(crate) const UNSENT: Processed = Processed::No;
