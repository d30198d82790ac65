//! A span of an entry, by the stable semantic conventions for HTTP and those for RPC (OpenTelemetry).
//!
//! Inbound is SERVER, outbound is CLIENT. A request that was sent more than once is INTERNAL, and each of its attempts CLIENT
//! below it. Attributes of our own begin with `weft.`. Queries are left out.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use opentelemetry::trace::{
    Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::telemetry::entry::{Entry, Request, Tcp, What, is_server_failure};
use crate::telemetry::live::Made;
use crate::telemetry::mask::Mask;
use crate::telemetry::record::{Direction, End};
use crate::telemetry::tries::Try;

/// Appends the spans: one, and one more for each attempt of several. What policy adds is in each.
pub(crate) fn push(spans: &mut Vec<SpanData>, entry: &Entry, made: &Made) {
    let mut own = of(entry, 1, &made.mask);
    own.attributes.extend_from_slice(&made.attributes);
    if let What::Request(request) = &entry.what
        && !request.tries.is_empty()
    {
        own.span_kind = SpanKind::Internal;
        own.events.events = retries(entry, request);
        for number in 0..request.tries.len() {
            let mut span = attempt(entry, request, number, &made.mask);
            span.attributes.extend_from_slice(&made.attributes);
            spans.push(span);
        }
    }
    spans.push(own);
}

/// The span of one attempt: as if it had been a request by itself.
fn attempt(entry: &Entry, request: &Request, number: usize, mask: &Mask) -> SpanData {
    let mut entry = entry.clone();
    let mut request = request.clone();
    let tries = std::mem::take(&mut request.tries);
    let last = number + 1 == tries.len();
    if let Some(own) = tries.into_iter().nth(number) {
        let since = own.start.saturating_duration_since(entry.start);
        entry.started += since;
        entry.trace.parent_id = Some(entry.trace.span_id);
        entry.trace.span_id = own.span_id;
        entry.duration = match last {
            true => entry.duration.saturating_sub(since),
            false => own.duration,
        };
        if let Some(destination) = &mut entry.destination {
            destination.endpoint = own.endpoint;
            destination.peer = own.peer;
        }
        if !last {
            request.status = own.status;
            request.reject = own.failed;
            request.grpc_status = None;
            request.end = End::Complete;
        }
    }
    request.attempts = 1;
    entry.what = What::Request(Box::new(request));
    of(&entry, number + 1, mask)
}

/// An event for each attempt that was followed by another.
fn retries(entry: &Entry, request: &Request) -> Vec<Event> {
    let failed = request
        .tries
        .split_last()
        .map_or(&[][..], |(_, failed)| failed);
    let event = |(number, one): (usize, &Try)| {
        let at = one.start.saturating_duration_since(entry.start) + one.duration;
        let status = one.status.map(|status| status.as_str().to_owned());
        let reason = one.failed.map(str::to_owned).or(status);
        Event::new(
            "weft.retry",
            entry.started + at,
            vec![
                KeyValue::new("weft.attempt", counted(number + 1)),
                KeyValue::new("weft.reason", reason.unwrap_or_default()),
            ],
            0,
        )
    };
    failed.iter().enumerate().map(event).collect()
}

fn counted(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Makes the span of an entry; `attempt` is which of its attempts it tells of, counted from 1.
pub(super) fn of(entry: &Entry, attempt: usize, mask: &Mask) -> SpanData {
    let trace = &entry.trace;
    let flags = TraceFlags::default().with_sampled(trace.sampled);
    let trace_id = TraceId::from_bytes(trace.trace_id);
    let span_id = SpanId::from_bytes(trace.span_id);
    let described = match &entry.what {
        What::Request(request) => of_request(entry, request, attempt, mask),
        What::Tcp(tcp) => of_tcp(entry, tcp),
    };
    SpanData {
        span_context: SpanContext::new(trace_id, span_id, flags, false, TraceState::NONE),
        parent_span_id: trace.parent_id.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: trace.parent_id.is_some(),
        span_kind: match entry.connection.direction {
            Direction::Inbound => SpanKind::Server,
            Direction::Outbound => SpanKind::Client,
        },
        name: described.name,
        start_time: entry.started,
        end_time: entry.started + entry.duration,
        attributes: described.attributes.0,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: described.status,
        instrumentation_scope: InstrumentationScope::builder("weft-proxy")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

struct Described {
    name: Cow<'static, str>,
    attributes: Attributes,
    status: Status,
}

#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(name, value));
    }

    fn set_some(&mut self, name: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }
}

fn of_request(entry: &Entry, request: &Request, attempt: usize, mask: &Mask) -> Described {
    let direction = entry.connection.direction;
    let mut attributes = Attributes::default();
    let method = known_method(&request.method);
    attributes.set("http.request.method", method.unwrap_or("_OTHER"));
    if method.is_none() {
        attributes.set("http.request.method_original", request.method.to_string());
    }
    let path = request.path();
    attributes.set("url.scheme", "http");
    attributes.set("url.path", path.clone());
    attributes.set_some("url.query", request.query(mask));
    let authority = request.authority();
    if let (Direction::Outbound, Some(authority)) = (direction, &authority) {
        attributes.set("url.full", format!("http://{authority}{path}"));
    }
    attributes.set("network.protocol.version", request.protocol_version());
    attributes.set_some(
        "http.response.status_code",
        request.status.map(|status| i64::from(status.as_u16())),
    );
    attributes.set_some("user_agent.original", request.user_agent(mask));
    let resent = counted(attempt - 1).max(i64::from(request.attempts) - 1);
    if resent > 0 {
        attributes.set("http.request.resend_count", resent);
    }
    server(&mut attributes, entry, authority.as_deref());
    let rpc = request
        .grpc
        .then(|| path.trim_start_matches('/').to_owned());
    if let Some(method) = &rpc {
        attributes.set("rpc.system.name", "grpc");
        attributes.set("rpc.method", method.clone());
        attributes.set_some("rpc.status_code", request.grpc_status.map(grpc_code));
    }
    if let Some(route) = &request.route {
        attributes.set("weft.route", Arc::clone(&route.name));
        attributes.set_some("http.route", route.template.clone());
    }
    let route = request
        .route
        .as_ref()
        .and_then(|route| route.template.as_deref());
    if direction == Direction::Outbound && request.tries.is_empty() {
        attributes.set("weft.attempt", counted(attempt));
    }
    attributes.set("weft.attempts", i64::from(request.attempts));
    attributes.set_some("weft.reject", request.reject);
    if request.upgraded {
        attributes.set("network.protocol.name", "websocket");
    }
    if request.breaks_trace {
        attributes.set("weft.trace.broken", true);
    }
    let error = error_of(direction, request);
    attributes.set_some("error.type", error.clone());
    Described {
        name: match (rpc, route) {
            (Some(method), _) => method.into(),
            (None, Some(route)) => format!("{} {route}", method.unwrap_or("HTTP")).into(),
            (None, None) => method.unwrap_or("HTTP").into(),
        },
        attributes,
        status: status(error, request.reject),
    }
}

fn of_tcp(entry: &Entry, tcp: &Tcp) -> Described {
    let mut attributes = Attributes::default();
    attributes.set("network.transport", "tcp");
    server(&mut attributes, entry, None);
    attributes.set("weft.sent_bytes", saturated(tcp.sent));
    attributes.set("weft.received_bytes", saturated(tcp.received));
    attributes.set_some("error.type", tcp.error);
    let status = status(tcp.error.map(Cow::Borrowed), tcp.error);
    Described {
        name: "TCP".into(),
        attributes,
        status,
    }
}

/// Who was called, over what, and who is at the other end.
fn server(attributes: &mut Attributes, entry: &Entry, authority: Option<&str>) {
    let destination = entry.destination.as_ref();
    let (peer, peer_address) = match entry.connection.direction {
        Direction::Inbound => {
            attributes.set("client.address", entry.connection.client.ip().to_string());
            (
                entry.connection.peer.as_ref(),
                Some(entry.connection.client),
            )
        }
        Direction::Outbound => (
            destination.and_then(|destination| destination.peer.as_ref()),
            destination.and_then(|destination| destination.endpoint),
        ),
    };
    match (destination, authority) {
        (Some(destination), _) => {
            attributes.set("server.address", destination.service.host.to_string());
            attributes.set("server.port", i64::from(destination.service.port));
        }
        (None, Some(authority)) => attributes.set("server.address", authority.to_owned()),
        (None, None) => {}
    }
    attributes.set_some(
        "network.peer.address",
        peer_address.map(|address| address.ip().to_string()),
    );
    attributes.set_some(
        "network.peer.port",
        peer_address.as_ref().map(SocketAddr::port).map(i64::from),
    );
    attributes.set_some("weft.peer.identity", peer.map(ToString::to_string));
}

/// Methods that are no error to name in full (RFC 9110, and PATCH of RFC 5789); a client may invent others.
fn known_method(method: &Method) -> Option<&'static str> {
    const KNOWN: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    KNOWN.into_iter().find(|known| *known == method.as_str())
}

/// "For HTTP status codes in the 4xx range span status MUST be left unset in case of SpanKind.SERVER ... and SHOULD be set to
/// Error in case of SpanKind.CLIENT"; 5xx is an error for both (semantic conventions for HTTP spans, status).
fn error_of(direction: Direction, request: &Request) -> Option<Cow<'static, str>> {
    if let Some(reject) = request.reject {
        return Some(reject.into());
    }
    if request.end == End::UpstreamFailed {
        return Some("answer_broke_off".into());
    }
    let failed_call = |code: &u16| match direction {
        Direction::Inbound => is_server_failure(*code),
        Direction::Outbound => *code != 0,
    };
    if let Some(code) = request.grpc_status.filter(failed_call) {
        return Some(grpc_code(code).into());
    }
    let failed = request.status.filter(|status| match direction {
        Direction::Inbound => status.is_server_error(),
        Direction::Outbound => status.is_server_error() || status.is_client_error(),
    });
    failed.map(|status| status.as_str().to_owned().into())
}

fn status(error: Option<Cow<'static, str>>, why: Option<&'static str>) -> Status {
    match error {
        // A status code or gRPC code says it all; only our own reasons need words.
        Some(_) => Status::Error {
            description: why.unwrap_or_default().into(),
        },
        None => Status::Unset,
    }
}

/// The name of a gRPC code (gRPC, `statuscodes.md`).
fn grpc_code(code: u16) -> String {
    let name = CODES.get(usize::from(code));
    name.map_or_else(|| code.to_string(), |name| (*name).to_owned())
}

fn saturated(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
