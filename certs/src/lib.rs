//! Who is who in the mesh: identities in certificates, what they are trusted by, and the authority that signs them.
//!
//! Every leaf is an X.509-SVID (SPIFFE) signed by an [`ca::Issuer`] or by another authority with the same API. A proxy holds one
//! [`identity::Identity`] at a time, a leaf and the roots of each trust domain it knows, and makes its TLS configurations from it.
//! Nothing here sees the traffic of a pod.

pub mod app;
pub mod authority;
pub mod bundle;
pub mod ca;
pub mod config;
pub mod csr;
pub mod error;
pub mod fetch;
pub mod identity;
pub mod jwt;
pub mod leaf;
pub mod server;
pub mod svid;
pub mod token;
pub mod verify;
pub mod web;

mod crypto;
mod metrics;
