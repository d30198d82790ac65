//! Service-account tokens where no Kubernetes makes them: on a laptop and in tests.
//!
//! The claims are those of a projected Kubernetes token. Whoever holds the key is everybody, so it never leaves its process.

use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Serialize;
use weft_certs::error::CertError;

/// Signs tokens with one key.
pub struct TokenIssuer {
    issuer: String,
    kid: String,
    key: EncodingKey,
}

impl TokenIssuer {
    /// Makes a new ECDSA P-256 key; `issuer` becomes the tokens' `iss`.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate(issuer: &str) -> Result<Self, CertError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let kid = format!("{:016x}", fastrand::u64(..));
        Ok(Self {
            issuer: issuer.to_owned(),
            kid,
            key: EncodingKey::from_ec_der(key.serialized_der()),
        })
    }

    /// Returns the public half as key set (RFC 7517 section 5).
    ///
    /// # Errors
    /// If the key cannot be written.
    pub fn key_set(&self) -> Result<String, MintError> {
        let mut key = Jwk::from_encoding_key(&self.key, Algorithm::ES256)?;
        key.common.key_id = Some(self.kid.clone());
        Ok(serde_json::to_string(&JwkSet { keys: vec![key] })?)
    }

    /// Signs a token of a service account for `audience`, valid from `now` on.
    ///
    /// # Errors
    /// If the key does not sign.
    pub fn token(
        &self,
        (namespace, account): (&str, &str),
        audience: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<String, MintError> {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.sign(&Claims {
            iss: &self.issuer,
            aud: [audience],
            sub: format!("system:serviceaccount:{namespace}:{account}"),
            nbf: now.as_secs(),
            exp: (now + lifetime).as_secs(),
            kubernetes: Kubernetes {
                namespace,
                serviceaccount: Account { name: account },
            },
        })
    }

    /// Signs whatever claims, for tests of what must be refused.
    ///
    /// # Errors
    /// If the claims are no JSON object or the key does not sign.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, MintError> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.clone());
        Ok(encode(&header, claims, &self.key)?)
    }
}

/// Signs the JSON `claims` with a shared secret, by HS256.
///
/// # Errors
/// If `claims` are no JSON.
pub fn sign_with_secret(claims: &str, secret: &[u8]) -> Result<String, MintError> {
    let claims: serde_json::Value = serde_json::from_str(claims)?;
    let key = EncodingKey::from_secret(secret);
    Ok(encode(&Header::new(Algorithm::HS256), &claims, &key)?)
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: [&'a str; 1],
    sub: String,
    nbf: u64,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes<'a>,
}

#[derive(Serialize)]
struct Kubernetes<'a> {
    namespace: &'a str,
    serviceaccount: Account<'a>,
}

#[derive(Serialize)]
struct Account<'a> {
    name: &'a str,
}

/// Why a token or a key cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The key does not sign.
    #[error("the key cannot be used")]
    Key(#[from] jsonwebtoken::errors::Error),
    /// No JSON.
    #[error("cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}
