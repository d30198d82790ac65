//! The mesh as a whole: one module a feature.

#![expect(
    clippy::unwrap_used,
    reason = "a scenario that cannot go on has failed"
)]

mod http;
mod mtls;
mod redirect;
