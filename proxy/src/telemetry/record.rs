//! What the data path tells telemetry: plain facts of a connection, a destination and a finished request.
//!
//! Filled by the data path as it goes, read once at the end by `telemetry.rs`. Nothing here is counted or sent.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use tokio::time::Instant;
use weft_policy::spiffe::SpiffeId;

use super::tries::Try;
use crate::discovery::endpoint::Workload;
use crate::discovery::service::ServiceName;

/// Relative to the pod: from others to our app, or from our app to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

/// Facts of one downstream connection, made once.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionFacts {
    pub(crate) direction: Direction,
    pub(crate) client: SocketAddr,
    /// The verified caller of an inbound connection.
    pub(crate) peer: Option<SpiffeId>,
    /// Mutual TLS on the downstream side.
    pub(crate) secure: bool,
}

/// Where a request or connection went.
#[derive(Clone, Debug)]
pub(crate) struct DestinationFacts {
    pub(crate) service: Arc<ServiceName>,
    pub(crate) endpoint: Option<SocketAddr>,
    /// The verified identity of the endpoint of an outbound request.
    pub(crate) peer: Option<SpiffeId>,
    /// What runs there, where discovery has told.
    pub(crate) workload: Option<Arc<Workload>>,
    /// Mutual TLS on the upstream side.
    pub(crate) secure: bool,
}

/// The route of a request, in the operator's words.
#[derive(Clone, Debug)]
pub(crate) struct RouteFacts {
    /// `routes[2]`.
    pub(crate) name: Arc<str>,
    /// The path pattern that matched.
    pub(crate) template: Option<Arc<str>>,
}

/// One request, from its head to the last byte of its answer.
#[derive(Clone, Debug)]
pub(crate) struct RequestRecord {
    pub(crate) connection: Rc<ConnectionFacts>,
    /// `None` when it was refused before it had one.
    pub(crate) destination: Option<DestinationFacts>,
    pub(crate) trace: TraceContext,
    pub(crate) method: Method,
    /// Path and query, with the authority where the request had it there.
    pub(crate) uri: Uri,
    pub(crate) host: Option<HeaderValue>,
    pub(crate) user_agent: Option<HeaderValue>,
    pub(crate) version: Version,
    pub(crate) grpc: bool,
    pub(crate) start: Instant,
    /// The same moment by the clock on the wall.
    pub(crate) started: SystemTime,
    pub(crate) status: Option<StatusCode>,
    pub(crate) grpc_status: Option<u16>,
    /// Why this proxy answered itself: a label of `reject.rs`.
    pub(crate) reject: Option<&'static str>,
    /// The route it took, where its service has any.
    pub(crate) route: Option<RouteFacts>,
    pub(crate) attempts: u32,
    /// Where there was more than one, and the trace is sampled.
    pub(crate) tries: Vec<Try>,
    /// It begins a trace while others are served: our app does not hand them on.
    pub(crate) breaks_trace: bool,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// Of a gRPC call.
    pub(crate) request_messages: u64,
    pub(crate) response_messages: u64,
    pub(crate) waits: Waits,
    /// From `start` to the head of the answer.
    pub(crate) first_byte: Option<Duration>,
    pub(crate) upgraded: bool,
    pub(crate) end: End,
}

/// Where a request waited inside this proxy; `None` where it did not have to, which costs no look at the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    /// In the filters: for keys, for a place, for a fault's delay.
    pub(crate) queue: Option<Duration>,
    /// For connections: dialled, or to become free; over all attempts.
    pub(crate) connect: Option<Duration>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Complete,
    /// The caller went away before the answer was complete.
    DownstreamGone,
    /// The answer broke off.
    UpstreamFailed,
    /// This proxy answered itself.
    Rejected,
}

impl RequestRecord {
    /// Whether it is an error for operators: here, at the app, or between the two.
    pub(super) fn has_failed(&self) -> bool {
        self.reject.is_some()
            || self.end == End::UpstreamFailed
            || self.status.is_some_and(|status| status.is_server_error())
            || self
                .grpc_status
                .is_some_and(super::entry::is_server_failure)
    }
}

/// One opaque connection, from the first byte to the last.
#[derive(Clone, Debug)]
pub(crate) struct TcpRecord {
    pub(crate) connection: Rc<ConnectionFacts>,
    pub(crate) destination: Option<DestinationFacts>,
    pub(crate) start: Instant,
    /// The same moment by the clock on the wall.
    pub(crate) started: SystemTime,
    /// Bytes from downstream to upstream.
    pub(crate) sent: u64,
    /// Bytes from upstream to downstream.
    pub(crate) received: u64,
    pub(crate) trace: TraceContext,
    /// A short fixed word: what broke it.
    pub(crate) error: Option<&'static str>,
}

/// The place of a request in its trace (W3C Trace Context); `span_id` is our own span and the parent of the next hop's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace_id: [u8; 16],
    pub(crate) span_id: [u8; 8],
    /// `None` at the root of a trace.
    pub(crate) parent_id: Option<[u8; 8]>,
    pub(crate) sampled: bool,
}

impl TraceContext {
    /// A span beside this one, with the same parent.
    pub(crate) fn sibling(&self) -> Self {
        Self {
            span_id: fastrand::u64(1..).to_be_bytes(),
            ..*self
        }
    }
}
