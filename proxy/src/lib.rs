//! The Weft data plane.
//!
//! Modules are listed in the order in which a byte meets them; suppliers of state and what watches them follow.
//!
//! A request from the app: `listener` -> `orig_dst` -> `detect` -> `outbound` -> `http` -> `filter` -> `retry` { `balance`
//! -> `pool` -> `connect` -> `tls` }. At the other proxy: `listener` -> `orig_dst` -> `detect` -> `inbound` -> `tls` -> `http`
//! -> `filter` -> `retry` { `pool` -> `connect` } -> the app.

pub mod app;
pub mod config;
mod control;
mod drain;
mod egress;
pub mod hooks;
mod log;
pub mod shutdown;
mod tasks;

mod balance;
mod connect;
mod cx;
mod deadline;
mod detect;
mod exchange;
mod filter;
mod forward;
mod http;
mod inbound;
mod io;
mod listener;
mod orig_dst;
mod outbound;
mod pool;
mod reject;
mod retry;
mod rewind;
mod rotation;
mod route;
mod tcp;
mod tls;

mod admin;
mod backoff;
mod discovery;
mod identity;
mod policy;
pub mod redirect;
mod telemetry;
mod watch;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
