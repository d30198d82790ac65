//! The keys of one issuer (RFC 7517 section 5), and the verification of a token with them.

use serde_json::Value;
use weft_policy::jwt::Algorithm;

use super::error::{JwtError, KeySetError};
use super::json;
use super::jws::Jws;
use super::key::Key;

/// The keys of one issuer; never empty.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// Parses a JWK set. "Implementations SHOULD ignore JWKs within a JWK Set that use "kty" values that are not understood by them, that are
    /// missing required members, or for which values are out of the supported ranges" (RFC 7517 section 5); secrets are ignored too.
    ///
    /// # Errors
    /// Not a JWK set, or none that signs tokens is left.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        let set = json::object(text.as_bytes())?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.into_iter().flatten().filter_map(Value::as_object);
        let keys: Vec<Key> = keys.filter_map(Key::of_jwk).take(MAX_KEYS).collect();
        match keys.is_empty() {
            true => Err(KeySetError::NoneUsable),
            false => Ok(Self { keys }),
        }
    }

    /// The one key of an issuer with which a secret is shared.
    ///
    /// # Errors
    /// The secret is empty.
    pub fn of_secret(secret: &[u8]) -> Result<Self, KeySetError> {
        match secret {
            [] => Err(KeySetError::NoSecret),
            _ => Ok(Self {
                keys: vec![Key::secret(secret)],
            }),
        }
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The keys that a token naming `kid` may be signed with: those of that name, or all if it names none. The key of a secret has no
    /// name of its own and goes by any.
    pub fn named(&self, kid: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| match kid {
            None => true,
            Some(kid) => key.kid() == Some(kid) || key.algorithms().contains(&Algorithm::Hs256),
        })
    }

    /// Whether one of these keys has signed `token`.
    ///
    /// # Errors
    /// [`JwtError::Key`] when no key is named so, which newer keys may mend; [`JwtError::Algorithm`] when those that are do not go with the
    /// token's algorithm; [`JwtError::Signature`].
    pub fn verify(&self, token: &Jws<'_>) -> Result<(), JwtError> {
        let mut refused = JwtError::Key;
        for key in self.named(token.header.kid.as_deref()) {
            if !key.algorithms().contains(&token.header.algorithm) {
                if refused == JwtError::Key {
                    refused = JwtError::Algorithm;
                }
            } else if token.is_signed_by(key) {
                return Ok(());
            } else {
                refused = JwtError::Signature;
            }
        }
        Err(refused)
    }
}

/// Keys of a set that are looked at; issuers publish two or three.
const MAX_KEYS: usize = 32;
