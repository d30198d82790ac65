//! The labels of Istio's standard metrics, in Istio's order; Kiali and the stock dashboards group by them.

use weft_policy::spiffe::SpiffeId;

use super::istio::{Hop, RequestSeries, Service, TcpSeries};
use crate::discovery::endpoint::Workload;
use crate::telemetry::record::Direction;

/// This workload, as Istio's labels name it.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) workload: String,
    pub(crate) namespace: String,
    /// Our identity.
    pub(crate) principal: SpiffeId,
    pub(crate) version: Option<String>,
}

/// Names and values.
pub(super) type Labels<'a> = Vec<(&'static str, std::borrow::Cow<'a, str>)>;

/// Names and help of the metrics of requests.
pub(super) const REQUESTS: [(&str, &str); 4] = [
    ("istio_requests_total", "Requests that have ended."),
    (
        "istio_request_duration_milliseconds",
        "Time from the head of a request to the last byte of its answer.",
    ),
    ("istio_request_bytes", "Size of request bodies."),
    ("istio_response_bytes", "Size of response bodies."),
];

/// Names and help of the metrics of gRPC calls.
pub(super) const MESSAGES: [(&str, &str); 2] = [
    (
        "istio_request_messages_total",
        "Messages that callers sent in gRPC calls.",
    ),
    (
        "istio_response_messages_total",
        "Messages that callers got in gRPC calls.",
    ),
];

/// Names and help of the metrics of opaque connections.
pub(super) const TCP: [(&str, &str); 4] = [
    (
        "istio_tcp_connections_opened_total",
        "Opaque connections that were opened.",
    ),
    (
        "istio_tcp_connections_closed_total",
        "Opaque connections that have ended.",
    ),
    (
        "istio_tcp_sent_bytes_total",
        "Bytes sent to the caller over opaque connections that have ended.",
    ),
    (
        "istio_tcp_received_bytes_total",
        "Bytes received from the caller over opaque connections that have ended.",
    ),
];

/// One side of a hop.
struct Side<'a> {
    workload: &'a str,
    app: &'a str,
    namespace: &'a str,
    principal: &'a str,
    version: &'a str,
    revision: &'a str,
}

impl<'a> Side<'a> {
    fn own(own: &'a Own, secure: bool) -> Self {
        Self {
            workload: &own.workload,
            app: &own.workload,
            namespace: &own.namespace,
            principal: if secure {
                own.principal.as_str()
            } else {
                UNKNOWN
            },
            version: own.version.as_deref().unwrap_or(UNKNOWN),
            revision: own.version.as_deref().unwrap_or(NO_VERSION),
        }
    }

    /// Where nobody has told of the workload, the service account stands for it.
    fn peer(peer: Option<&'a SpiffeId>, workload: Option<&'a Workload>) -> Self {
        let principal = peer.map_or(UNKNOWN, SpiffeId::as_str);
        let Some(workload) = workload else {
            let account = peer.and_then(SpiffeId::service_account).unwrap_or(UNKNOWN);
            return Self {
                workload: account,
                app: account,
                namespace: peer.and_then(SpiffeId::namespace).unwrap_or(UNKNOWN),
                principal,
                version: UNKNOWN,
                revision: UNKNOWN,
            };
        };
        let revision = &*workload.revision;
        Self {
            workload: &workload.name,
            app: &workload.app,
            namespace: &workload.namespace,
            principal,
            version: if revision == NO_VERSION {
                UNKNOWN
            } else {
                revision
            },
            revision,
        }
    }
}

/// The labels of requests.
pub(super) fn of_request<'a>(own: &'a Own, series: &'a RequestSeries) -> Labels<'a> {
    let protocol = if series.grpc { "grpc" } else { "http" };
    let grpc_status = series
        .grpc_status
        .map(|code| code.to_string())
        .unwrap_or_default();
    let mut labels = of_hop(own, &series.hop, protocol);
    labels.push(("response_code", series.code.to_string().into()));
    labels.push(("grpc_response_status", grpc_status.into()));
    labels.push(("response_flags", series.flags.into()));
    labels.push(("connection_security_policy", security(&series.hop).into()));
    labels
}

/// The labels of opaque connections.
pub(super) fn of_tcp<'a>(own: &'a Own, series: &'a TcpSeries) -> Labels<'a> {
    let mut labels = of_hop(own, &series.hop, "tcp");
    labels.push(("response_flags", series.flags.into()));
    labels.push(("connection_security_policy", security(&series.hop).into()));
    labels
}

#[rustfmt::skip]
fn of_hop<'a>(own: &'a Own, hop: &'a Hop, protocol: &'static str) -> Labels<'a> {
    let (ours, theirs) = (Side::own(own, hop.secure), Side::peer(hop.peer.as_ref(), hop.workload.as_deref()));
    let (reporter, source, destination) = match hop.direction {
        Direction::Inbound => ("destination", theirs, ours),
        Direction::Outbound => ("source", ours, theirs),
    };
    let (host, name, namespace) = match &hop.service {
        Service::Named(service) => (&*service.host, &*service.name, &*service.namespace),
        Service::Unknown => (UNKNOWN, UNKNOWN, UNKNOWN),
        Service::Overflow => (OVERFLOW, OVERFLOW, OVERFLOW),
    };
    vec![
        ("reporter", reporter.into()),
        ("source_workload", source.workload.into()),
        ("source_canonical_service", source.app.into()),
        ("source_canonical_revision", source.revision.into()),
        ("source_workload_namespace", source.namespace.into()),
        ("source_principal", source.principal.into()),
        ("source_app", source.app.into()),
        ("source_version", source.version.into()),
        ("source_cluster", UNKNOWN.into()),
        ("destination_workload", destination.workload.into()),
        ("destination_workload_namespace", destination.namespace.into()),
        ("destination_principal", destination.principal.into()),
        ("destination_app", destination.app.into()),
        ("destination_version", destination.version.into()),
        ("destination_service", host.into()),
        ("destination_canonical_service", destination.app.into()),
        ("destination_canonical_revision", destination.revision.into()),
        ("destination_service_name", name.into()),
        ("destination_service_namespace", namespace.into()),
        ("destination_cluster", UNKNOWN.into()),
        ("request_protocol", protocol.into()),
    ]
}

fn security(hop: &Hop) -> &'static str {
    if hop.secure { "mutual_tls" } else { "none" }
}

/// Istio's revision of what has no version.
const NO_VERSION: &str = "latest";
const UNKNOWN: &str = "unknown";
const OVERFLOW: &str = "overflow";
