//! Discovery: watches a cluster and tells proxies, on demand, where services are and what policy they have.
//!
//! Sees no traffic and holds no keys but that of its own certificate. In the order in which a change travels: `watch` reads the API server's
//! objects as `cluster`'s few fields, `model` makes resources of them, `board` keeps each once, and `serve` tells each `subscriber` what
//! is new to it.

pub mod app;
pub mod config;

pub mod token;
mod watch;
mod writer;

pub mod board;
pub mod cluster;
pub mod metrics;
pub mod model;
pub mod own;
pub mod serve;
pub mod subscriber;
