//! The certificate authority of a mesh: who asks is authenticated, and a leaf is signed for that identity alone.
//!
//! An [`issuer::Issuer`] signs, a [`store::Store`] keeps what it is made from, a [`token::Authenticator`] says who asks. A crate of its own, so
//! that a proxy links nothing of an orchestrator.

pub mod account;
pub mod app;
pub mod config;
pub mod csr;
pub mod issuer;
pub mod server;
pub mod store;
pub mod token;

mod bundle;
mod keep;
mod metrics;
mod nodes;
mod secret;
