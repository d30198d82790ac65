//! A span of an entry, by the stable semantic conventions for HTTP and those for RPC (OpenTelemetry).
//!
//! Inbound is SERVER, outbound is CLIENT. A request that was sent more than once is INTERNAL, and each of its attempts CLIENT
//! below it. Attributes of our own begin with `weft.`. A span borrows from its entry: it lives until it is written.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::SystemTime;

use http::Method;

use crate::telemetry::entry::{Entry, Request, Tcp, What, is_server_failure};
use crate::telemetry::live::Made;
use crate::telemetry::mask::Mask;
use crate::telemetry::record::{Direction, End, TraceContext};
use crate::telemetry::tries::Try;

/// One span, ready to be written.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    pub(crate) trace: TraceContext,
    pub(crate) kind: Kind,
    pub(crate) name: Cow<'a, str>,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) attributes: Attributes<'a>,
    pub(crate) events: Vec<Event>,
    /// Why it failed, where a status code does not say it; `None` where it did not fail.
    pub(crate) error: Option<&'static str>,
}

/// Which side of a call it tells of; the numbers are OTLP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Text(Cow<'a, str>),
    Number(i64),
    Flag(bool),
}

/// Something that happened meanwhile.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: &'static str,
    pub(crate) at: SystemTime,
    pub(crate) attributes: Vec<(&'static str, Value<'static>)>,
}

/// Names and values, each name once.
#[derive(Debug)]
pub(crate) struct Attributes<'a>(pub(crate) Vec<(&'a str, Value<'a>)>);

impl std::fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// Makes the spans and gives each to `write`: one, and one more for each attempt of several. What policy adds is in each.
pub(crate) fn each(entry: &Entry, made: &Made, mut write: impl FnMut(&Span<'_>)) {
    let mut own = of(entry, 1, &made.mask);
    own.attributes.add(&made.attributes);
    if let What::Request(request) = &entry.what
        && !request.tries.is_empty()
    {
        own.kind = Kind::Internal;
        own.events = retries(entry, request);
        for number in 0..request.tries.len() {
            let attempt = attempt(entry, request, number);
            let mut span = of(&attempt, number + 1, &made.mask);
            span.attributes.add(&made.attributes);
            write(&span);
        }
    }
    write(&own);
}

/// One attempt, as if it had been a request by itself.
fn attempt(entry: &Entry, request: &Request, number: usize) -> Entry {
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
    entry
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
        Event {
            name: "weft.retry",
            at: entry.started + at,
            attributes: vec![
                ("weft.attempt", Value::Number(counted(number + 1))),
                (
                    "weft.reason",
                    Value::Text(reason.unwrap_or_default().into()),
                ),
            ],
        }
    };
    failed.iter().enumerate().map(event).collect()
}

fn counted(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Makes the span of an entry; `attempt` is which of its attempts it tells of, counted from 1.
pub(super) fn of<'a>(entry: &'a Entry, attempt: usize, mask: &Mask) -> Span<'a> {
    let described = match &entry.what {
        What::Request(request) => of_request(entry, request, attempt, mask),
        What::Tcp(tcp) => of_tcp(entry, tcp),
    };
    Span {
        trace: entry.trace,
        kind: match entry.connection.direction {
            Direction::Inbound => Kind::Server,
            Direction::Outbound => Kind::Client,
        },
        name: described.name,
        start: entry.started,
        end: entry.started + entry.duration,
        attributes: described.attributes,
        events: Vec::new(),
        error: described.error,
    }
}

struct Described<'a> {
    name: Cow<'a, str>,
    attributes: Attributes<'a>,
    error: Option<&'static str>,
}

impl<'a> Attributes<'a> {
    /// Room for all that a request has.
    fn new() -> Self {
        Self(Vec::with_capacity(24))
    }

    fn add(&mut self, more: &'a [(String, String)]) {
        let pairs = more.iter();
        self.0
            .extend(pairs.map(|(name, value)| (&**name, Value::Text(value.as_str().into()))));
    }

    fn text(&mut self, name: &'static str, value: impl Into<Cow<'a, str>>) {
        self.0.push((name, Value::Text(value.into())));
    }

    fn some_text(&mut self, name: &'static str, value: Option<impl Into<Cow<'a, str>>>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn number(&mut self, name: &'static str, value: impl Into<i64>) {
        self.0.push((name, Value::Number(value.into())));
    }

    fn flag(&mut self, name: &'static str) {
        self.0.push((name, Value::Flag(true)));
    }
}

fn of_request<'a>(
    entry: &'a Entry,
    request: &'a Request,
    attempt: usize,
    mask: &Mask,
) -> Described<'a> {
    let direction = entry.connection.direction;
    let mut attributes = Attributes::new();
    let method = known_method(&request.method);
    attributes.text("http.request.method", method.unwrap_or("_OTHER"));
    if method.is_none() {
        attributes.text("http.request.method_original", request.method.as_str());
    }
    let path = request.path();
    attributes.text("url.scheme", "http");
    attributes.text("url.path", path.clone());
    attributes.some_text("url.query", request.query(mask));
    let authority = request.authority();
    if let (Direction::Outbound, Some(authority)) = (direction, &authority) {
        attributes.text("url.full", ["http://", authority, &path].concat());
    }
    attributes.text("network.protocol.version", request.protocol_version());
    if let Some(status) = request.status {
        attributes.number("http.response.status_code", status.as_u16());
    }
    attributes.some_text("user_agent.original", request.user_agent(mask));
    let resent = counted(attempt - 1).max(i64::from(request.attempts) - 1);
    if resent > 0 {
        attributes.number("http.request.resend_count", resent);
    }
    server(&mut attributes, entry, authority);
    let error = error_of(direction, request);
    let rpc = request.grpc.then(|| without_slash(path));
    if let Some(method) = &rpc {
        attributes.text("rpc.system.name", "grpc");
        attributes.text("rpc.method", method.clone());
        attributes.some_text("rpc.status_code", request.grpc_status.map(grpc_code));
    }
    let route = of_route(&mut attributes, request);
    of_weft(&mut attributes, entry, request, attempt);
    let failed = error
        .is_some()
        .then_some(request.reject.unwrap_or_default());
    attributes.some_text("error.type", error);
    Described {
        name: match (rpc, route) {
            (Some(method), _) => method,
            (None, Some(route)) => [method.unwrap_or("HTTP"), " ", route].concat().into(),
            (None, None) => method.unwrap_or("HTTP").into(),
        },
        attributes,
        error: failed,
    }
}

fn without_slash(path: Cow<'_, str>) -> Cow<'_, str> {
    match path {
        Cow::Borrowed(path) => path.trim_start_matches('/').into(),
        Cow::Owned(path) => path.trim_start_matches('/').to_owned().into(),
    }
}

/// The template of the route's path.
fn of_route<'a>(attributes: &mut Attributes<'a>, request: &'a Request) -> Option<&'a str> {
    let route = request.route.as_ref()?;
    let template = route.template.as_deref();
    attributes.text("weft.route", &*route.name);
    attributes.some_text("http.route", template);
    template
}

fn of_weft<'a>(
    attributes: &mut Attributes<'a>,
    entry: &Entry,
    request: &'a Request,
    attempt: usize,
) {
    if entry.connection.direction == Direction::Outbound && request.tries.is_empty() {
        attributes.number("weft.attempt", counted(attempt));
    }
    attributes.number("weft.attempts", request.attempts);
    attributes.some_text("weft.reject", request.reject);
    if request.upgraded {
        attributes.text("network.protocol.name", "websocket");
    }
    if request.breaks_trace {
        attributes.flag("weft.trace.broken");
    }
}

fn of_tcp<'a>(entry: &'a Entry, tcp: &Tcp) -> Described<'a> {
    let mut attributes = Attributes::new();
    attributes.text("network.transport", "tcp");
    server(&mut attributes, entry, None);
    attributes.number("weft.sent_bytes", saturated(tcp.sent));
    attributes.number("weft.received_bytes", saturated(tcp.received));
    attributes.some_text("error.type", tcp.error);
    Described {
        name: "TCP".into(),
        attributes,
        error: tcp.error,
    }
}

/// Who was called, over what, and who is at the other end.
fn server<'a>(attributes: &mut Attributes<'a>, entry: &'a Entry, authority: Option<Cow<'a, str>>) {
    let destination = entry.destination.as_ref();
    let inbound = entry.connection.direction == Direction::Inbound;
    let (peer, address) = match inbound {
        true => (
            entry.connection.peer.as_ref(),
            Some(entry.connection.client),
        ),
        false => (
            destination.and_then(|destination| destination.peer.as_ref()),
            destination.and_then(|destination| destination.endpoint),
        ),
    };
    let ip = address.map(|address| address.ip().to_string());
    if inbound {
        attributes.some_text("client.address", ip.clone());
    }
    match (destination, authority) {
        (Some(destination), _) => {
            attributes.text("server.address", &*destination.service.host);
            attributes.number("server.port", destination.service.port);
        }
        (None, Some(authority)) => attributes.text("server.address", authority),
        (None, None) => {}
    }
    attributes.some_text("network.peer.address", ip);
    if let Some(port) = address.as_ref().map(SocketAddr::port) {
        attributes.number("network.peer.port", port);
    }
    attributes.some_text("weft.peer.identity", peer.map(|peer| peer.as_str()));
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
        return Some(grpc_code(code));
    }
    let failed = request.status.filter(|status| match direction {
        Direction::Inbound => status.is_server_error(),
        Direction::Outbound => status.is_server_error() || status.is_client_error(),
    });
    failed.map(|status| status.as_str().to_owned().into())
}

/// The name of a gRPC code (gRPC, `statuscodes.md`).
fn grpc_code(code: u16) -> Cow<'static, str> {
    let name = CODES.get(usize::from(code));
    name.map_or_else(|| code.to_string().into(), |name| (*name).into())
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
