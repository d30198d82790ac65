//! Who is who in the mesh: identities in certificates, and what they are trusted by.
//!
//! Every leaf is an X.509-SVID (SPIFFE) signed by an authority with Istio's certificate API: `weft-ca`, which is a crate of its own, or
//! another. A proxy holds one [`identity::Identity`] at a time, a leaf and the roots of each trust domain it knows, and makes its TLS
//! configurations from it. Nothing here sees the traffic of a pod, and nothing here signs.

pub mod authority;
pub mod bundle;
pub mod crypto;
pub mod csr;
pub mod env;
pub mod error;
pub mod fetch;
pub mod identity;
pub mod jwt;
pub mod leaf;
pub mod renewal;
pub mod roots;
pub mod svid;
pub mod verify;
pub mod web;
