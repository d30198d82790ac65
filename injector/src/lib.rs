//! The injector: puts the proxy into pods, and refuses what is wrong with their annotations.
//!
//! Sees no traffic, reads no Secret, writes no file. In the order in which an admission travels: `server` takes it, `review` reads it,
//! `pod` decides and adds what `sidecar` makes, with `probes` turned to the proxy and `ports` looked at, `patch` tells the API server the
//! difference. Beside it: `around` knows what lies under a pod's own policy, `cluster` watches that, `own` and `webhook` keep the
//! certificate and what the API server trusts. What `review` and all under it do is pure, and `manifest` does it to files.

pub mod app;
pub mod config;
pub mod settings;

mod cluster;
mod metrics;
mod own;
mod server;
mod webhook;

pub mod manifest;
pub mod review;
pub mod workload;

pub mod around;
pub mod patch;
pub mod pod;
mod ports;
mod probes;
pub mod problems;
mod security;
mod sidecar;
