//! Discovery: watches a cluster and tells proxies, on demand, where services are and what policy they have.
//!
//! Sees no traffic and holds no keys but those of its own certificate.

pub mod app;
pub mod config;
