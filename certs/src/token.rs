//! Who is asking for a leaf: the holder of a service-account token.
//!
//! The one seam for kinds of proof. A JWT is checked here against published keys: signature, issuer, audience, time, and then the
//! claims that Kubernetes writes for a service account. The identity follows from these claims alone.

use std::collections::HashSet;

use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde::Deserialize;
use weft_policy::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

mod fetch;
pub mod jwks;
pub mod mint;

use crate::token::jwks::{Key, KeyError, Keys};

/// A way to find out who is asking.
pub enum Authenticator {
    /// By JWT and published keys.
    Jwt(JwtAuthenticator),
}

impl Authenticator {
    /// Returns the identity of whoever holds `token`.
    ///
    /// # Errors
    /// If the token proves nothing, or its proof cannot be checked now.
    pub async fn authenticate(&self, token: &str) -> Result<SpiffeId, TokenError> {
        match self {
            Self::Jwt(authenticator) => authenticator.authenticate(token).await,
        }
    }
}

/// Checks service-account tokens without asking anybody.
pub struct JwtAuthenticator {
    /// Of the identities it returns.
    pub trust_domain: TrustDomain,
    /// The `iss` that a token must have.
    pub issuer: String,
    /// A token must be meant for one of these.
    pub audiences: HashSet<String>,
    /// What it must be signed with.
    pub keys: Keys,
}

impl JwtAuthenticator {
    async fn authenticate(&self, token: &str) -> Result<SpiffeId, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let header = decode_header(token).map_err(TokenError::Invalid)?;
        // "If any of the listed extension Header Parameters are not understood ... the JWS is invalid" (RFC 7515 section 4.1.11).
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let keys = self.keys.candidates(header.kid.as_deref()).await?;
        let claims = self.verify(token, &header, &keys)?;
        let (namespace, account) = claims.service_account()?;
        SpiffeId::workload(&self.trust_domain, namespace, account).map_err(TokenError::Names)
    }

    fn verify(&self, token: &str, header: &Header, keys: &[Key]) -> Result<Claims, TokenError> {
        let mut refused = TokenError::UnknownKey;
        for key in keys {
            // The key says which algorithms it is for; what the token says only chooses among these.
            if !key.algorithms.contains(&header.alg) {
                continue;
            }
            match decode(token, &key.decoding, &self.validation(header.alg)) {
                Ok(token) => return Ok(token.claims),
                Err(error) => refused = TokenError::Invalid(error),
            }
        }
        Err(refused)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.iss = Some(HashSet::from([self.issuer.clone()]));
        validation.aud = Some(self.audiences.clone());
        validation
    }
}

/// Why a token does not tell who is asking.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No keys were ever got, so nothing can be said of the token.
    #[error("no keys to check tokens with")]
    Keys(#[from] KeyError),
    /// Larger than any service-account token.
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// A header that demands something we do not know.
    #[error("the token has critical header parameters")]
    Critical,
    /// Signed by nobody we know, or with an algorithm that the key is not for.
    #[error("the token is signed with an unknown key or algorithm")]
    UnknownKey,
    /// A bad signature, another issuer or audience, or out of its time.
    #[error("the token is not valid")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// Valid, but of a person or a node.
    #[error("the token is not that of a service account")]
    NotServiceAccount,
    /// Names that make no identity.
    #[error("the token's names make no identity")]
    Names(#[source] SpiffeIdError),
}

/// What we read of a token: <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/>.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<KubernetesClaims>,
}

#[derive(Debug, Deserialize)]
struct KubernetesClaims {
    namespace: String,
    serviceaccount: ServiceAccountClaim,
}

#[derive(Debug, Deserialize)]
struct ServiceAccountClaim {
    name: String,
}

impl Claims {
    /// Namespace and name from `sub`, `system:serviceaccount:<namespace>:<name>`, with which the other claims must agree.
    fn service_account(&self) -> Result<(&str, &str), TokenError> {
        let names = self.sub.strip_prefix("system:serviceaccount:");
        let names = names.and_then(|names| names.split_once(':'));
        let (namespace, account) = names.ok_or(TokenError::NotServiceAccount)?;
        let agrees = self.kubernetes.as_ref().is_none_or(|claims| {
            claims.namespace == namespace && claims.serviceaccount.name == account
        });
        match agrees {
            true => Ok((namespace, account)),
            false => Err(TokenError::NotServiceAccount),
        }
    }
}

const MAX_TOKEN_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests;
