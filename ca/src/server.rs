//! The certificate API as a server: who asks is authenticated, what is asked is checked, and a leaf is signed.
//!
//! Nothing of a request but its public key reaches the certificate. How connections are accepted is in `listener`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls_pki_types::ServerName;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tracing::{debug, info, warn};
use weft_api::istio_ca::istio_certificate_service_server::IstioCertificateService;
use weft_api::istio_ca::{IstioCertificateRequest, IstioCertificateResponse};
use weft_policy::spiffe::SpiffeId;

use crate::account::Account;
use crate::csr::{CsrError, checked_key};
use crate::issuer::{Issuer, IssuerError, Subject};
use crate::metrics::Metrics;
use crate::nodes::{NodeError, Nodes};
use crate::token::{Authenticator, Caller, TokenError};

pub(crate) mod listener;
pub(crate) mod serving;

/// What an answer is made from; shared by all connections.
pub(crate) struct Authority {
    pub(crate) issuer: ArcSwap<Issuer>,
    pub(crate) authenticator: Authenticator,
    pub(crate) nodes: Nodes,
    pub(crate) serving_names: BTreeMap<Account, Vec<ServerName<'static>>>,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) metrics: Metrics,
    /// Counts the issuers that there were.
    pub(crate) changed: watch::Sender<u64>,
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
pub(crate) struct CertificateService {
    pub(crate) authority: Arc<Authority>,
    /// Who is at the other end of the connection.
    pub(crate) peer: IpAddr,
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let answer =
            tokio::time::timeout(TIME_LIMIT, self.authority.create(&request, self.peer)).await;
        let answer = answer.unwrap_or(Err(Refusal::TooSlow));
        self.authority
            .metrics
            .request(answer.as_ref().map_or_else(Refusal::label, |_| "issued"));
        answer.map(Response::new).map_err(Refusal::into_status)
    }
}

impl Authority {
    async fn create(
        &self,
        request: &Request<IstioCertificateRequest>,
        peer: IpAddr,
    ) -> Result<IstioCertificateResponse, Refusal> {
        let token = bearer(request).ok_or(Refusal::NoToken)?;
        let caller = self.authenticator.authenticate(token, peer).await?;
        let message = request.get_ref();
        let id = match impersonated(message, &caller.id)? {
            Some(asked) => self.checked_impersonation(&caller, asked).await?,
            None => caller.id,
        };
        let lifetime = self.lifetimes.choose(message.validity_duration)?;
        let key = checked_key(&message.csr, &id)?;
        let issuer = self.issuer.load();
        let names = Account::of(&id).and_then(|account| self.serving_names.get(&account));
        let names = names.map(Vec::as_slice).unwrap_or_default();
        let subject = Subject { id: &id, names };
        let leaf = issuer.sign_named(&subject, &key, lifetime, SystemTime::now())?;
        info!(%id, ?lifetime, "leaf issued");
        Ok(IstioCertificateResponse {
            cert_chain: issuer.response(&leaf),
        })
    }
}

impl Authority {
    /// Signs with `issuer` from now on.
    pub(crate) fn sign_with(&self, issuer: Issuer) {
        self.metrics.issuer(&issuer);
        self.issuer.store(Arc::new(issuer));
        self.changed.send_modify(|count| *count += 1);
    }

    async fn checked_impersonation(
        &self,
        caller: &Caller,
        asked: SpiffeId,
    ) -> Result<SpiffeId, Refusal> {
        match self.nodes.check(caller, &asked).await {
            Ok(()) => Ok(asked),
            Err(source) => Err(Refusal::Impersonation {
                id: caller.id.clone(),
                asked,
                source,
            }),
        }
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
    #[error("{id} must not be {asked}")]
    Impersonation {
        id: SpiffeId,
        asked: SpiffeId,
        source: NodeError,
    },
    #[error("{asked} is asked for, which is no identity")]
    NoIdentity { asked: String },
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
            Self::Token(TokenError::Unreviewed(_)) => "no_review",
            Self::Token(_) => "bad_token",
            Self::Impersonation { source, .. } if source.is_unknown() => "no_review",
            Self::Impersonation { .. } | Self::NoIdentity { .. } => "impersonation",
            Self::Lifetime { .. } => "bad_lifetime",
            Self::Csr(_) => "bad_request",
            Self::Issuer(_) => "issuer_failed",
            Self::TooSlow => "too_slow",
        }
    }

    /// Istio's codes, which its clients retry or give up by. Why a caller is not authenticated is for our log only.
    fn into_status(self) -> Status {
        match &self {
            // Anybody can say these as often as they like.
            Self::NoToken | Self::Token(TokenError::Implausible(_)) => {
                debug!(reason = self.label(), error = %self, cause = ?std::error::Error::source(&self), "no leaf issued");
            }
            _ => {
                warn!(reason = self.label(), error = %self, cause = ?std::error::Error::source(&self), "no leaf issued");
            }
        }
        match self {
            Self::Token(TokenError::Keys(_) | TokenError::Unreviewed(_)) | Self::TooSlow => {
                Status::unavailable("callers cannot be authenticated at the moment")
            }
            Self::Impersonation { source, .. } if source.is_unknown() => {
                Status::unavailable("callers cannot be authenticated at the moment")
            }
            Self::NoToken
            | Self::Token(_)
            | Self::Impersonation { .. }
            | Self::NoIdentity { .. } => Status::unauthenticated("request authenticate failure"),
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

/// The identity that the caller wants to be given, if that is another than its own.
fn impersonated(
    message: &IstioCertificateRequest,
    id: &SpiffeId,
) -> Result<Option<SpiffeId>, Refusal> {
    let fields = message.metadata.as_ref().map(|metadata| &metadata.fields);
    let Some(asked) = fields.and_then(|fields| fields.get("ImpersonatedIdentity")) else {
        return Ok(None);
    };
    let parsed = match &asked.kind {
        Some(prost_types::value::Kind::StringValue(asked)) => SpiffeId::parse(asked).ok(),
        _ => None,
    };
    match parsed {
        Some(asked) => Ok((asked != *id).then_some(asked)),
        None => Err(Refusal::NoIdentity {
            asked: format!("{:?}", asked.kind),
        }),
    }
}

const TIME_LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
