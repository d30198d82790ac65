//! Istio's standard metrics: what a request or connection counts under, and what is counted.
//!
//! What we call, discovery tells of: its workload. Who calls us is known by the verified identity only, so the service account stands for
//! the workload's name; what is not known says `unknown`. Label values are made when metrics are read, not when a request ends.

use std::hash::RandomState;
use std::sync::Arc;

use parking_lot::Mutex;
use weft_policy::spiffe::SpiffeId;

use super::cell::{Cell, Histogram, HistogramTotal, Key, Sum, hash_of};
use super::open::Exemplar;
use crate::discovery::endpoint::Workload;
use crate::discovery::service::ServiceName;
use crate::telemetry::record::{
    ConnectionFacts, DestinationFacts, Direction, End, RequestRecord, TcpRecord,
};

/// Who talks to whom, borrowed from a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct HopKey<'a> {
    direction: Direction,
    secure: bool,
    /// The verified caller inbound, the verified endpoint outbound.
    peer: Option<&'a SpiffeId>,
    /// What is called, outbound.
    workload: Option<&'a Arc<Workload>>,
    service: Option<&'a Arc<ServiceName>>,
}

/// Who talks to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Hop {
    pub(super) direction: Direction,
    pub(super) secure: bool,
    pub(super) peer: Option<SpiffeId>,
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) service: Service,
}

/// What was called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Service {
    /// Refused before it was known.
    Unknown,
    Named(Arc<ServiceName>),
    /// One of too many.
    Overflow,
}

impl<'a> HopKey<'a> {
    fn of(connection: &'a ConnectionFacts, destination: Option<&'a DestinationFacts>) -> Self {
        let service = destination.map(|destination| &destination.service);
        let (direction, upstream) = (connection.direction, destination);
        let (secure, peer) = match direction {
            Direction::Inbound => (connection.secure, connection.peer.as_ref()),
            Direction::Outbound => (
                upstream.is_some_and(|upstream| upstream.secure),
                upstream.and_then(|upstream| upstream.peer.as_ref()),
            ),
        };
        Self {
            direction,
            secure,
            peer,
            workload: destination.and_then(|destination| destination.workload.as_ref()),
            service,
        }
    }

    fn is(&self, hop: &Hop) -> bool {
        let service = match (self.service, &hop.service) {
            (Some(own), Service::Named(other)) => is_same(own, other),
            (None, Service::Unknown) => true,
            (_, Service::Unknown | Service::Named(_) | Service::Overflow) => false,
        };
        service
            && self.direction == hop.direction
            && self.secure == hop.secure
            && self.peer == hop.peer.as_ref()
            && is_same_workload(self.workload, hop.workload.as_ref())
    }

    fn to_owned_hop(self) -> Hop {
        let service = self
            .service
            .map_or(Service::Unknown, |name| Service::Named(without_port(name)));
        Hop {
            direction: self.direction,
            secure: self.secure,
            peer: self.peer.cloned(),
            workload: self.workload.cloned(),
            service,
        }
    }

    fn overflow(self) -> Hop {
        Hop {
            direction: self.direction,
            secure: self.secure,
            peer: None,
            workload: None,
            service: Service::Overflow,
        }
    }

    /// Enough to tell series apart, not all of it.
    fn hash_parts(&self) -> impl std::hash::Hash + 'a {
        let service = self.service.map(|name| &*name.host);
        (self.direction, self.peer.map(SpiffeId::as_str), service)
    }
}

/// Whether two services have the same labels: the port is none of them.
fn is_same(left: &ServiceName, right: &ServiceName) -> bool {
    left.host == right.host && left.name == right.name && left.namespace == right.namespace
}

/// Mostly it is the very same; endpoints of one workload may each have their own copy.
fn is_same_workload(left: Option<&Arc<Workload>>, right: Option<&Arc<Workload>>) -> bool {
    match (left, right) {
        (Some(left), Some(right)) => Arc::ptr_eq(left, right) || left == right,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The name of a series, made once for it.
fn without_port(name: &ServiceName) -> Arc<ServiceName> {
    let (host, name, namespace) = (&name.host, &name.name, &name.namespace);
    Arc::new(ServiceName {
        name: Arc::clone(name),
        namespace: Arc::clone(namespace),
        host: Arc::clone(host),
        port: 0,
    })
}

/// A label set of requests, borrowed from a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestKey<'a> {
    hop: HopKey<'a>,
    grpc: bool,
    /// 0 without an answer.
    code: u16,
    grpc_status: Option<u16>,
    flags: &'static str,
}

/// A label set of requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RequestSeries {
    pub(super) hop: Hop,
    pub(super) grpc: bool,
    pub(super) code: u16,
    pub(super) grpc_status: Option<u16>,
    pub(super) flags: &'static str,
}

impl<'a> RequestKey<'a> {
    pub(super) fn of(record: &'a RequestRecord) -> Self {
        Self {
            hop: HopKey::of(&record.connection, record.destination.as_ref()),
            grpc: record.grpc,
            code: record.status.map_or(0, |status| status.as_u16()),
            // Codes beyond 16 are an app's invention, and would be a series each.
            grpc_status: record.grpc_status.map(|code| code.min(MAX_GRPC_CODE + 1)),
            flags: response_flags(record.reject, record.end),
        }
    }
}

impl Key for RequestKey<'_> {
    type Owned = RequestSeries;

    fn quick_hash(&self, state: &RandomState) -> u64 {
        hash_of(state, (self.hop.hash_parts(), self.code, self.grpc_status))
    }

    fn is(&self, series: &RequestSeries) -> bool {
        self.hop.is(&series.hop)
            && (self.grpc, self.code, self.grpc_status)
                == (series.grpc, series.code, series.grpc_status)
            && self.flags == series.flags
    }

    fn to_owned_key(&self) -> RequestSeries {
        let Self {
            hop,
            grpc,
            code,
            grpc_status,
            flags,
        } = *self;
        RequestSeries {
            hop: hop.to_owned_hop(),
            grpc,
            code,
            grpc_status,
            flags,
        }
    }

    fn overflow(&self) -> RequestSeries {
        RequestSeries {
            hop: self.hop.overflow(),
            grpc: false,
            code: 0,
            grpc_status: None,
            flags: NO_FLAGS,
        }
    }
}

/// What is counted of requests.
#[derive(Debug, Default)]
pub(super) struct RequestCells {
    count: Cell,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    request_messages: Cell,
    response_messages: Cell,
    /// The last sampled request; only such a one takes the lock.
    exemplar: Mutex<Option<Exemplar>>,
}

impl RequestCells {
    pub(super) fn count(&self, record: &RequestRecord) {
        self.count.add(1);
        let elapsed = record.start.elapsed().as_micros();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.duration.observe(elapsed);
        if record.trace.sampled {
            *self.exemplar.lock() = Some(Exemplar {
                trace_id: record.trace.trace_id,
                value: elapsed,
                at: record.started,
            });
        }
        self.request_bytes
            .observe(record.request_bytes.saturating_mul(1000));
        self.response_bytes
            .observe(record.response_bytes.saturating_mul(1000));
        if record.grpc {
            self.request_messages.add(record.request_messages);
            self.response_messages.add(record.response_messages);
        }
    }
}

/// [`RequestCells`] summed over workers.
#[derive(Debug, Default)]
pub(super) struct RequestTotals {
    pub(super) count: u64,
    pub(super) duration: HistogramTotal,
    pub(super) request_bytes: HistogramTotal,
    pub(super) response_bytes: HistogramTotal,
    /// Of gRPC calls.
    pub(super) request_messages: u64,
    pub(super) response_messages: u64,
    /// The newest.
    pub(super) exemplar: Option<Exemplar>,
}

impl Sum for RequestCells {
    type Total = RequestTotals;

    fn add_to(&self, total: &mut RequestTotals) {
        self.count.add_to(&mut total.count);
        self.duration.add_to(&mut total.duration);
        self.request_bytes.add_to(&mut total.request_bytes);
        self.response_bytes.add_to(&mut total.response_bytes);
        self.request_messages.add_to(&mut total.request_messages);
        self.response_messages.add_to(&mut total.response_messages);
        let exemplar = *self.exemplar.lock();
        let newest = total.exemplar.into_iter().chain(exemplar);
        total.exemplar = newest.max_by_key(|exemplar| exemplar.at);
    }
}

/// A label set of opaque connections, borrowed from a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpKey<'a> {
    hop: HopKey<'a>,
    flags: &'static str,
}

/// A label set of opaque connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TcpSeries {
    pub(super) hop: Hop,
    pub(super) flags: &'static str,
}

impl<'a> TcpKey<'a> {
    /// Of one that has just been opened.
    pub(super) fn opened(
        connection: &'a ConnectionFacts,
        destination: Option<&'a DestinationFacts>,
    ) -> Self {
        Self {
            hop: HopKey::of(connection, destination),
            flags: NO_FLAGS,
        }
    }

    /// Of one that has ended.
    pub(super) fn closed(record: &'a TcpRecord) -> Self {
        Self {
            hop: HopKey::of(&record.connection, record.destination.as_ref()),
            flags: record.error.map_or(NO_FLAGS, flags_of),
        }
    }
}

impl Key for TcpKey<'_> {
    type Owned = TcpSeries;

    fn quick_hash(&self, state: &RandomState) -> u64 {
        hash_of(state, self.hop.hash_parts())
    }

    fn is(&self, series: &TcpSeries) -> bool {
        self.hop.is(&series.hop) && self.flags == series.flags
    }

    fn to_owned_key(&self) -> TcpSeries {
        TcpSeries {
            hop: self.hop.to_owned_hop(),
            flags: self.flags,
        }
    }

    fn overflow(&self) -> TcpSeries {
        TcpSeries {
            hop: self.hop.overflow(),
            flags: NO_FLAGS,
        }
    }
}

/// What is counted of opaque connections.
#[derive(Debug, Default)]
pub(super) struct TcpCells {
    opened: Cell,
    closed: Cell,
    sent: Cell,
    received: Cell,
}

impl TcpCells {
    pub(super) fn opened(&self) {
        self.opened.add(1);
    }

    pub(super) fn closed(&self, record: &TcpRecord) {
        self.closed.add(1);
        // Istio's "sent" is what the caller got: "total bytes sent during response".
        self.sent.add(record.received);
        self.received.add(record.sent);
    }
}

/// [`TcpCells`] summed over workers.
#[derive(Debug, Default)]
pub(super) struct TcpTotals {
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Sum for TcpCells {
    type Total = TcpTotals;

    fn add_to(&self, total: &mut TcpTotals) {
        self.opened.add_to(&mut total.opened);
        self.closed.add_to(&mut total.closed);
        self.sent.add_to(&mut total.sent);
        self.received.add_to(&mut total.received);
    }
}

/// Envoy's flag for how a request ended (Envoy, "Response flags"); dashboards know these.
pub(crate) fn response_flags(reject: Option<&'static str>, end: End) -> &'static str {
    match (reject, end) {
        (Some(reason), _) => flags_of(reason),
        (None, End::DownstreamGone) => "DC",
        (None, End::UpstreamFailed) => "UC",
        (None, End::Complete | End::Rejected) => NO_FLAGS,
    }
}

/// Envoy's flag for a label of `reject.rs`, or for a word about a broken TCP connection.
fn flags_of(reason: &'static str) -> &'static str {
    match reason {
        "unknown_service"
        | "unknown_destination"
        | "no_app"
        | "loop"
        | "egress_denied"
        | "discovery_away"
        | "original_destination"
        | "not_http" => "NR",
        "no_endpoint" | "breaker_open" => "UH",
        "connect" | "connect_timeout" | "app_gone" | "handshake" | "wrong_identity"
        | "no_identity" => "UF",
        "pool_full" | "overloaded" | "connection_limit" => "UO",
        "timeout_request" | "timeout_try" | "deadline" => "UT",
        "rate_limited" => "RL",
        "fault_abort" => "FI",
        "upstream_reset" | "reset" | "upstream_cancelled" => "UR",
        "upstream_closed" => "UC",
        "upstream_malformed" => "UPE",
        "request_body" => "DC",
        "idle" | "header_timeout" | "body_timeout" => "SI",
        "plaintext" => "UAEX",
        _ if ["jwt_", "authz_"].iter().any(|of| reason.starts_with(of)) => "UAEX",
        // What is left is a fault in the caller's message.
        _ => "DPE",
    }
}

/// Words about a TCP connection that was served, and broke.
pub(super) fn is_no_reject(error: &str) -> bool {
    matches!(error, "idle" | "reset")
}

/// No flag is written so.
pub(super) const NO_FLAGS: &str = "-";

/// UNAUTHENTICATED; larger codes do not exist (gRPC, `statuscodes.md`).
const MAX_GRPC_CODE: u16 = 16;
