//! The Weft data plane.
//!
//! Modules are listed in the order in which a byte meets them; suppliers of state and what watches follow.

pub mod app;
pub mod config;
mod shutdown;
mod tasks;

mod admin;
mod backoff;
mod balance;
mod discovery;
mod filter;
mod identity;
pub mod redirect;
mod telemetry;
