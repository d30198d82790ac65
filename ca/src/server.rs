//! The certificate API as a server: who asks is authenticated, what is asked is checked, and a leaf is signed.
//!
//! Nothing of a request but its public key reaches the certificate. How connections are accepted is in `listener`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tonic::{Request, Response, Status};
use tracing::{info, warn};
use weft_api::istio_ca::istio_certificate_service_server::IstioCertificateService;
use weft_api::istio_ca::{IstioCertificateRequest, IstioCertificateResponse};
use weft_policy::spiffe::SpiffeId;

use crate::csr::{CsrError, checked_key};
use crate::issuer::{Issuer, IssuerError};
use crate::metrics::Metrics;
use crate::token::{Authenticator, TokenError};

pub(crate) mod listener;
pub(crate) mod serving;

/// What an answer is made from; shared by all connections.
pub(crate) struct Authority {
    pub(crate) issuer: ArcSwap<Issuer>,
    pub(crate) authenticator: Authenticator,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) metrics: Metrics,
}

/// How long leafs live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// When a request names none.
    pub default: Duration,
    /// More than this is refused.
    pub max: Duration,
}

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct CertificateService(pub(crate) Arc<Authority>);

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let answer = tokio::time::timeout(TIME_LIMIT, self.0.create(&request)).await;
        let answer = answer.unwrap_or(Err(Refusal::TooSlow));
        self.0
            .metrics
            .request(answer.as_ref().map_or_else(Refusal::label, |_| "issued"));
        answer.map(Response::new).map_err(Refusal::into_status)
    }
}

impl Authority {
    async fn create(
        &self,
        request: &Request<IstioCertificateRequest>,
    ) -> Result<IstioCertificateResponse, Refusal> {
        let token = bearer(request).ok_or(Refusal::NoToken)?;
        let id = self.authenticator.authenticate(token).await?;
        let message = request.get_ref();
        check_impersonation(message, &id)?;
        let lifetime = self.lifetimes.choose(message.validity_duration)?;
        let key = checked_key(&message.csr, &id)?;
        let issuer = self.issuer.load();
        let leaf = issuer.sign(&id, &key, lifetime, SystemTime::now())?;
        info!(%id, ?lifetime, "leaf issued");
        Ok(IstioCertificateResponse {
            cert_chain: issuer.response(&leaf),
        })
    }
}

impl Lifetimes {
    /// Not positive is the default; too long is an error and not cut, so that nobody relies on a lifetime they do not have.
    fn choose(&self, seconds: i64) -> Result<Duration, Refusal> {
        match u64::try_from(seconds).map(Duration::from_secs) {
            Err(_) | Ok(Duration::ZERO) => Ok(self.default),
            Ok(asked) if asked <= self.max => Ok(asked),
            Ok(asked) => Err(Refusal::Lifetime {
                asked,
                max: self.max,
            }),
        }
    }
}

/// Why a request gets no leaf.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no bearer token")]
    NoToken,
    #[error("token refused")]
    Token(#[from] TokenError),
    #[error("{id} asks to be {asked}")]
    Impersonation { id: SpiffeId, asked: String },
    #[error("a lifetime of {asked:?} is more than {max:?}")]
    Lifetime { asked: Duration, max: Duration },
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error("cannot sign")]
    Issuer(#[from] IssuerError),
    #[error("no answer within {TIME_LIMIT:?}")]
    TooSlow,
}

impl Refusal {
    fn label(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Token(TokenError::Keys(_)) => "no_keys",
            Self::Token(_) => "bad_token",
            Self::Impersonation { .. } => "impersonation",
            Self::Lifetime { .. } => "bad_lifetime",
            Self::Csr(_) => "bad_request",
            Self::Issuer(_) => "issuer_failed",
            Self::TooSlow => "too_slow",
        }
    }

    /// Istio's codes, which its clients retry or give up by. Why a caller is not authenticated is for our log only.
    fn into_status(self) -> Status {
        warn!(reason = self.label(), error = %self, cause = ?std::error::Error::source(&self), "no leaf issued");
        match self {
            Self::Token(TokenError::Keys(_)) | Self::TooSlow => {
                Status::unavailable("callers cannot be authenticated at the moment")
            }
            Self::NoToken | Self::Token(_) | Self::Impersonation { .. } => {
                Status::unauthenticated("request authenticate failure")
            }
            refusal @ (Self::Lifetime { .. } | Self::Csr(_)) => {
                Status::invalid_argument(refusal.to_string())
            }
            Self::Issuer(_) => Status::internal("the certificate cannot be signed"),
        }
    }
}

/// The token of `authorization: Bearer <token>`; the scheme in any case (RFC 9110 section 11.1), exactly one such header.
fn bearer<T>(request: &Request<T>) -> Option<&str> {
    let mut values = request.metadata().get_all("authorization").iter();
    let (value, None) = (values.next()?.to_str().ok()?, values.next()) else {
        return None;
    };
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A node's proxy may ask for its pods' leafs in Istio; nobody may here, but everybody may name himself.
fn check_impersonation(message: &IstioCertificateRequest, id: &SpiffeId) -> Result<(), Refusal> {
    let fields = message.metadata.as_ref().map(|metadata| &metadata.fields);
    let Some(asked) = fields.and_then(|fields| fields.get("ImpersonatedIdentity")) else {
        return Ok(());
    };
    match &asked.kind {
        Some(prost_types::value::Kind::StringValue(asked)) if asked == id.as_str() => Ok(()),
        other => Err(Refusal::Impersonation {
            id: id.clone(),
            asked: format!("{other:?}"),
        }),
    }
}

const TIME_LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
