//! Who is asking for a leaf: the holder of a service-account token.
//!
//! The one seam for kinds of proof. A JWT is checked here against published keys: signature, issuer, audience, time, and then the
//! claims that Kubernetes writes for a service account; or the API server is asked ([`review`]). The identity follows from that alone.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use weft_certs::jwt::claims::{Claims as AllClaims, Expect};
use weft_certs::jwt::error::JwtError;
use weft_certs::jwt::jws::Jws;
use weft_policy::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

pub mod jwks;
pub mod mint;
pub mod review;

use crate::token::jwks::{KeyError, Keys};
use crate::token::review::{Reviewer, Unreviewed};

/// A way to find out who is asking.
#[expect(clippy::large_enum_variant, reason = "an authority has one of it")]
pub enum Authenticator {
    /// By JWT and published keys.
    Jwt(JwtAuthenticator),
    /// By asking the API server.
    Review(Reviewer),
}

/// Whoever holds a good token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who that is.
    pub id: SpiffeId,
    /// The pod that the token was made for, where the proof tells it.
    pub pod: Option<PodRef>,
}

/// A pod, and not a later one of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its name, in the namespace of the caller's identity.
    pub name: String,
    /// Never given twice.
    pub uid: String,
    /// Where it runs, if the token says so.
    pub node: Option<String>,
}

impl Authenticator {
    /// Returns who holds `token`, which came from `peer`.
    ///
    /// # Errors
    /// If the token proves nothing, or its proof cannot be checked now.
    pub async fn authenticate(&self, token: &str, peer: IpAddr) -> Result<Caller, TokenError> {
        match self {
            Self::Jwt(authenticator) => {
                let id = authenticator.authenticate(token).await?;
                Ok(Caller { id, pod: None })
            }
            Self::Review(reviewer) => reviewer.authenticate(token, peer).await,
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
    pub audiences: Vec<String>,
    /// What it must be signed with.
    pub keys: Keys,
}

impl JwtAuthenticator {
    async fn authenticate(&self, token: &str) -> Result<SpiffeId, TokenError> {
        let jws = Jws::parse(token)?;
        let keys = self.keys.for_token(jws.header.kid.as_deref()).await?;
        keys.verify(&jws)?;
        let claims = AllClaims::of(jws.payload())?;
        let expect = Expect {
            issuer: &self.issuer,
            audiences: &self.audiences,
            skew: CLOCK_SKEW,
        };
        claims.check(&expect, SystemTime::now())?;
        let claims = Claims::deserialize(claims.all()).map_err(TokenError::Claims)?;
        let (namespace, account) = claims.service_account()?;
        SpiffeId::workload(&self.trust_domain, namespace, account).map_err(TokenError::Names)
    }
}

/// Why a token does not tell who is asking.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No keys were ever got, so nothing can be said of the token.
    #[error("no keys to check tokens with")]
    Keys(#[from] KeyError),
    /// The API server did not say, so nothing can be said of the token.
    #[error("the token was not reviewed")]
    Unreviewed(#[from] Unreviewed),
    /// By what it says of itself; nobody was asked.
    #[error("the token cannot be that of a pod for this authority")]
    Implausible(#[source] JwtError),
    /// The API server says so; why, it tells us or nobody.
    #[error("the API server refuses the token: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// Of an API server, but for others.
    #[error("the token is meant for {audiences:?}")]
    Audience {
        /// For whom.
        audiences: Vec<String>,
    },
    /// Of a service account, but of none of its pods: it would outlive them.
    #[error("the token is not bound to a pod")]
    Unbound,
    /// Not signed by a key we know, of another issuer or audience, or out of its time.
    #[error("the token is not valid")]
    Invalid(#[from] JwtError),
    /// Without the claims of a service account.
    #[error("the token has not the claims of a service account")]
    Claims(#[source] serde_json::Error),
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

const CLOCK_SKEW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
