//! What the scenarios are built from: real programs, real sockets, network namespaces of their own.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test support that cannot go on ends the test"
)]

pub mod app;
pub mod authority;
pub mod ca;
pub mod client;
pub mod discovery;
pub mod eventually;
pub mod http2_app;
pub mod jaeger;
pub mod mesh;
pub mod mesh_client;
pub mod metrics;
pub mod netns;
pub mod pair;
pub mod process;
pub mod recorder;
pub mod scratch;
pub mod sidecar;
pub mod skip;
pub mod tools;
