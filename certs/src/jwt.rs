//! JSON Web Tokens (RFC 7519): whether one was signed by a key of its issuer, and whether it is meant for us, now.
//!
//! Pure: keys and time are given, nothing is fetched, nothing is kept. What a token says about its own keys (`jku`, `x5u`, `jwk`,
//! `x5c`) is never looked at (RFC 8725 section 3.10).
//!
//! In the order of a check: [`jws::Jws::parse`] (form), [`keyset::KeySet::verify`] (signature), [`claims::Claims::check`] (contents).

pub mod jws;

pub mod key;
pub mod keyset;

pub mod claims;

pub mod error;
mod json;
#[cfg(test)]
mod tests;
