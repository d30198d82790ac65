//! Discovery: watches a cluster and tells proxies, on demand, where services are and what policy they have.
//!
//! Sees no traffic and holds no keys but that of its own certificate. In the order in which a change travels: `watch` reads the API server's
//! objects as `cluster`'s few fields, `keep` gives them to `model`, which makes resources of them, `board` keeps each once, and `serve` tells each `subscriber` what
//! is new to it.

pub mod app;
pub mod config;

mod watch;

pub mod board;
pub mod cluster;
pub mod keep;
pub mod metrics;
pub mod model;
pub mod own;
pub mod serve;
pub mod subscriber;
pub mod token;
pub mod writer;
