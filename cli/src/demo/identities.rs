//! Who the demo's apps are: what Kubernetes would give each pod, a service-account token, and what the CA checks it
//! with, a key set.
//!
//! Made anew for each run; the signing key is never written anywhere.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::app::AppName;

/// Signs the tokens of one run.
pub(crate) struct TokenIssuer {
    key: EncodingKey,
}

impl TokenIssuer {
    /// Makes a new ECDSA P-256 key.
    ///
    /// # Errors
    /// The cryptography library gave no key.
    pub(crate) fn generate() -> anyhow::Result<Self> {
        let pair = rcgen::KeyPair::generate().context("make the key that signs tokens")?;
        Ok(Self {
            key: EncodingKey::from_ec_der(pair.serialized_der()),
        })
    }

    /// Returns the public half as a JSON Web Key Set (RFC 7517 section 5).
    ///
    /// # Errors
    /// The key cannot be written as a JWK.
    pub(crate) fn key_set(&self) -> anyhow::Result<String> {
        let mut key =
            Jwk::from_encoding_key(&self.key, Algorithm::ES256).context("write the JWK")?;
        key.common.key_id = Some(KEY_ID.to_owned());
        let set = JwkSet { keys: vec![key] };
        serde_json::to_string_pretty(&set).context("write the key set")
    }

    /// Signs the token a pod of `app`'s service account would have, valid for a day from `now`.
    ///
    /// The claims are those of a projected Kubernetes token.
    ///
    /// # Errors
    /// The key does not sign, or the clock is before 1970.
    pub(crate) fn token(&self, app: AppName, now: SystemTime) -> anyhow::Result<String> {
        let now = now.duration_since(UNIX_EPOCH).context("read the clock")?;
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(KEY_ID.to_owned());
        jsonwebtoken::encode(&header, &Claims::of(app, now), &self.key).context("sign a token")
    }
}

/// Returns the identity the mesh gives `app`.
pub(crate) fn identity(app: AppName) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{}", app.as_str())
}

#[derive(Serialize)]
struct Claims {
    iss: &'static str,
    aud: [&'static str; 1],
    sub: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Serialize)]
struct Kubernetes {
    namespace: &'static str,
    serviceaccount: ServiceAccount,
    pod: Pod,
}

#[derive(Serialize)]
struct ServiceAccount {
    name: &'static str,
    uid: String,
}

#[derive(Serialize)]
struct Pod {
    name: String,
    uid: String,
}

impl Claims {
    fn of(app: AppName, now: Duration) -> Self {
        let name = app.as_str();
        let now = now.as_secs();
        Self {
            iss: ISSUER,
            aud: [AUDIENCE],
            sub: format!("system:serviceaccount:{NAMESPACE}:{name}"),
            iat: now,
            nbf: now,
            exp: now + LIFETIME.as_secs(),
            kubernetes: Kubernetes {
                namespace: NAMESPACE,
                serviceaccount: ServiceAccount {
                    name,
                    uid: format!("demo-account-{name}"),
                },
                pod: Pod {
                    name: format!("{name}-0"),
                    uid: format!("demo-pod-{name}"),
                },
            },
        }
    }
}

/// The namespace all apps of the shop are in.
pub(crate) const NAMESPACE: &str = "shop";
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";
pub(crate) const ISSUER: &str = "https://tokens.weft.demo";
pub(crate) const AUDIENCE: &str = "istio-ca";
const KEY_ID: &str = "demo";
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation, decode};

    #[test]
    fn a_token_verifies_against_the_key_set_and_names_the_account() {
        let issuer = TokenIssuer::generate().unwrap();
        let set: JwkSet = serde_json::from_str(&issuer.key_set().unwrap()).unwrap();
        let key = DecodingKey::from_jwk(set.find(KEY_ID).unwrap()).unwrap();
        let token = issuer.token(AppName::Web, SystemTime::now()).unwrap();
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&[AUDIENCE]);
        rules.set_issuer(&[ISSUER]);
        let claims = decode::<serde_json::Value>(&token, &key, &rules)
            .unwrap()
            .claims;
        assert_eq!(claims["sub"], "system:serviceaccount:shop:web");
        assert_eq!(claims["kubernetes.io"]["namespace"], "shop");
        assert_eq!(claims["kubernetes.io"]["serviceaccount"]["name"], "web");
    }

    #[test]
    fn a_key_of_another_run_does_not_verify() {
        let (ours, theirs) = (
            TokenIssuer::generate().unwrap(),
            TokenIssuer::generate().unwrap(),
        );
        assert_ne!(ours.key_set().unwrap(), theirs.key_set().unwrap());
    }
}
