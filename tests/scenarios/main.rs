//! The mesh as a whole: one module a feature.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a scenario that cannot go on has failed"
)]
#![expect(
    clippy::large_futures,
    reason = "a scenario is one future, and there is one of it"
)]

mod authn;
mod authz;
mod balance;
mod concurrency;
mod discovery;
mod dns;
mod drain;
mod fault;
mod h2spec;
mod headers;
mod hostile;
mod http;
mod idle;
mod interop_grpc;
mod interop_websocket;
mod jaeger;
mod limits;
mod live;
mod mtls;
mod ports;
mod prometheus;
mod rate_limit;
mod reasons;
mod redirect;
mod resilience;
mod retry;
mod rotation;
mod routes;
mod software;
mod tcp;
mod trace_context;
mod upgrade;

/// The proxy, which Cargo builds before these tests.
const PROXY: &str = env!("CARGO_BIN_EXE_weft-test-proxy");
