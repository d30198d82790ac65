//! The Weft data plane.
//!
//! Modules are listed in the order in which a byte meets them; suppliers of state and what watches follow.

pub mod config;
mod tasks;

mod admin;
mod backoff;
mod balance;
mod discovery;
mod filter {
    // The other filters are declared with the data path.
    pub(crate) mod trace;
}
mod identity;
pub mod redirect;
mod telemetry;
