//! The protobuf that Weft speaks, each file written by us with the fields we use.
//!
//! Messages, clients and servers only; what they mean is decided by the crates that use them.

/// Istio's certificate API, `istio.v1.auth.IstioCertificateService`.
#[expect(
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::missing_errors_doc,
    reason = "generated from proto/istio/v1/auth/ca.proto, which has the docs"
)]
pub mod istio_ca {
    tonic::include_proto!("istio.v1.auth");
}

/// Delta ADS, `envoy.service.discovery.v3.AggregatedDiscoveryService`.
#[expect(
    unused_qualifications,
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::missing_errors_doc,
    reason = "generated from proto/envoy/service/discovery/v3/ads.proto, which has the docs"
)]
pub mod ads {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// Services and workloads, `istio.workload.Address`.
#[expect(
    missing_docs,
    clippy::large_enum_variant,
    reason = "generated from proto/istio/workload/workload.proto, which has the docs"
)]
pub mod workload {
    tonic::include_proto!("istio.workload");
}

/// Policy layers, `weft.v1`.
#[expect(
    missing_docs,
    reason = "generated from proto/weft/v1/policy.proto, which has the docs"
)]
pub mod weft {
    tonic::include_proto!("weft.v1");
}

/// Type of [`workload::Address`].
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// Type of [`weft::RoutePolicy`].
pub const ROUTE_POLICY: &str = "type.googleapis.com/weft.v1.RoutePolicy";
/// Type of [`weft::InboundPolicy`].
pub const INBOUND_POLICY: &str = "type.googleapis.com/weft.v1.InboundPolicy";
