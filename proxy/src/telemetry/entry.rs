//! A record that may leave its worker thread: what the access log and the spans are made from.
//!
//! Made only for what is logged or traced. Cloning is counting references, except for the boxed rest.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::mask::Mask;
use super::record::{
    ConnectionFacts, DestinationFacts, End, RequestRecord, RouteFacts, TcpRecord, TraceContext,
    Waits,
};
use super::tries::Try;

/// One request or opaque connection that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(super) connection: ConnectionFacts,
    pub(super) destination: Option<DestinationFacts>,
    pub(super) trace: TraceContext,
    pub(super) start: Instant,
    /// The same moment by the clock on the wall.
    pub(super) started: SystemTime,
    pub(super) duration: Duration,
    pub(super) what: What,
}

/// What has ended.
#[derive(Clone, Debug)]
pub(super) enum What {
    Request(Box<Request>),
    Tcp(Tcp),
}

/// The rest of a [`RequestRecord`].
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: Option<HeaderValue>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) version: Version,
    pub(super) grpc: bool,
    pub(super) status: Option<StatusCode>,
    pub(super) grpc_status: Option<u16>,
    pub(super) reject: Option<&'static str>,
    pub(super) route: Option<RouteFacts>,
    pub(super) attempts: u32,
    pub(super) tries: Vec<Try>,
    pub(super) breaks_trace: bool,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) waits: Waits,
    pub(super) first_byte: Option<Duration>,
    pub(super) upgraded: bool,
    pub(super) end: End,
}

/// The rest of a [`TcpRecord`].
#[derive(Clone, Debug)]
pub(super) struct Tcp {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) error: Option<&'static str>,
}

impl Entry {
    /// Of its trace.
    pub(crate) fn trace_id(&self) -> [u8; 16] {
        self.trace.trace_id
    }

    pub(super) fn of_request(record: &RequestRecord) -> Self {
        Self {
            connection: ConnectionFacts::clone(&record.connection),
            destination: record.destination.clone(),
            trace: record.trace,
            start: record.start,
            started: record.started,
            duration: record.start.elapsed(),
            what: What::Request(Box::new(Request {
                method: record.method.clone(),
                uri: record.uri.clone(),
                host: record.host.clone(),
                user_agent: record.user_agent.clone(),
                version: record.version,
                grpc: record.grpc,
                status: record.status,
                grpc_status: record.grpc_status,
                reject: record.reject,
                route: record.route.clone(),
                attempts: record.attempts,
                tries: record.tries.clone(),
                breaks_trace: record.breaks_trace,
                request_bytes: record.request_bytes,
                response_bytes: record.response_bytes,
                waits: record.waits,
                first_byte: record.first_byte,
                upgraded: record.upgraded,
                end: record.end,
            })),
        }
    }

    pub(super) fn of_tcp(record: &TcpRecord) -> Self {
        Self {
            connection: ConnectionFacts::clone(&record.connection),
            destination: record.destination.clone(),
            trace: record.trace,
            start: record.start,
            started: record.started,
            duration: record.start.elapsed(),
            what: What::Tcp(Tcp {
                sent: record.sent,
                received: record.received,
                error: record.error,
            }),
        }
    }
}

impl Request {
    /// `example.com:8080`, from the target or from Host; never a user name.
    pub(super) fn authority(&self) -> Option<Cow<'_, str>> {
        let text = match self.uri.authority() {
            Some(authority) => authority.as_str().into(),
            None => String::from_utf8_lossy(self.host.as_ref()?.as_bytes()),
        };
        let host = match text.rsplit_once('@') {
            Some((_, host)) => host.to_owned().into(),
            None => text,
        };
        Some(shortened(host))
    }

    /// The path without its query: queries carry secrets.
    pub(super) fn path(&self) -> Cow<'_, str> {
        shortened(self.uri.path().into())
    }

    /// The query, with secrets masked.
    pub(super) fn query(&self, mask: &Mask) -> Option<String> {
        let query = self.uri.query().filter(|query| !query.is_empty())?;
        Some(shortened(mask.query(query).into()).into_owned())
    }

    pub(super) fn user_agent(&self, mask: &Mask) -> Option<Cow<'_, str>> {
        let text = String::from_utf8_lossy(self.user_agent.as_ref()?.as_bytes());
        Some(mask.header("user-agent", shortened(text)))
    }

    /// `1.0`, `1.1` or `2`.
    pub(super) fn protocol_version(&self) -> &'static str {
        match self.version {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        }
    }
}

/// Whether a gRPC code says that the server failed, rather than the call (OpenTelemetry, semantic conventions for gRPC).
pub(super) fn is_server_failure(grpc_status: u16) -> bool {
    const FAILURES: [u16; 6] = [2, 4, 12, 13, 14, 15];
    FAILURES.contains(&grpc_status)
}

/// Text that a client chose, cut where it serves nobody any more.
fn shortened(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= MAX_TEXT {
        return text;
    }
    let end = text.floor_char_boundary(MAX_TEXT);
    text.get(..end).unwrap_or_default().to_owned().into()
}

const MAX_TEXT: usize = 1024;
