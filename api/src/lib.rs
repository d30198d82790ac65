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
