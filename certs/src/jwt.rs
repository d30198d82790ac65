//! JSON Web Tokens (RFC 7519): whether one was signed by a key of its issuer, and whether it is meant for us, now.
//!
//! Pure: keys and time are given, nothing is fetched, nothing is kept. What a token says about its own keys (`jku`, `x5u`, `jwk`,
//! `x5c`) is never looked at (RFC 8725 section 3.10).
//!
//! In the order of a check: [`jws::Jws::parse`] (form), [`keyset::KeySet::verify`] (signature), [`claims::Claims::check`] (contents).

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN};

pub mod jws;

pub mod key;
pub mod keyset;

pub mod claims;

pub mod error;
mod json;
#[cfg(test)]
mod tests;

/// The SHA-256 of a token, to know it again by without keeping it.
#[must_use]
pub fn digest(token: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let digest = aws_lc_rs::digest::digest(&SHA256, token);
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}
