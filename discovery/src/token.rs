//! Who shows a service-account token instead of a certificate: the API server is asked (TokenReview).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tracing::warn;
use weft_policy::spiffe::{SpiffeId, TrustDomain};

/// Asks the API server, and remembers its answers for a moment.
pub struct Tokens {
    client: Client,
    trust_domain: TrustDomain,
    audience: String,
    asking: Semaphore,
    known: Mutex<HashMap<u64, (Instant, SpiffeId)>>,
    hasher: std::hash::RandomState,
}

impl Tokens {
    /// Takes tokens that are meant for `audience`.
    #[must_use]
    pub fn new(client: Client, trust_domain: TrustDomain, audience: &str) -> Arc<Self> {
        Arc::new(Self {
            client,
            trust_domain,
            audience: audience.to_owned(),
            asking: Semaphore::new(MAX_ASKED),
            known: Mutex::default(),
            hasher: std::hash::RandomState::new(),
        })
    }

    pub(crate) async fn identity(&self, token: &str) -> Result<SpiffeId, Status> {
        let digest = std::hash::BuildHasher::hash_one(&self.hasher, token);
        let remembered = self.known.lock().get(&digest).cloned();
        if let Some((at, id)) = remembered
            && at.elapsed() < REMEMBER
        {
            return Ok(id);
        }
        let status = timeout(TIME_LIMIT, self.review(token)).await;
        let status = status
            .unwrap_or_else(|_slow| Err(Status::unavailable("tokens cannot be reviewed now")))?;
        let id = self
            .read(&status)
            .ok_or_else(|| Status::unauthenticated("request authenticate failure"))?;
        let mut known = self.known.lock();
        known.retain(|_, (at, _)| at.elapsed() < REMEMBER);
        if known.len() < MAX_KNOWN {
            known.insert(digest, (Instant::now(), id.clone()));
        }
        Ok(id)
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, Status> {
        let closed = |_| Status::unavailable("discovery ends");
        let _turn = self.asking.acquire().await.map_err(closed)?;
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![self.audience.clone()]),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| {
            warn!(%error, "token not reviewed");
            Status::unavailable("tokens cannot be reviewed now")
        })?;
        Ok(answer.status.unwrap_or_default())
    }

    /// "A client of the TokenReview API that sets the spec.audiences field should validate that a compatible audience identifier is
    /// returned in the status.audiences field" (authentication.k8s.io/v1).
    fn read(&self, status: &TokenReviewStatus) -> Option<SpiffeId> {
        let meant = status
            .audiences
            .iter()
            .flatten()
            .any(|audience| *audience == self.audience);
        let user = status.user.as_ref()?.username.as_deref()?;
        let names = user.strip_prefix("system:serviceaccount:")?;
        let (namespace, account) = names.split_once(':')?;
        let good = status.authenticated == Some(true) && meant;
        good.then(|| SpiffeId::workload(&self.trust_domain, namespace, account).ok())
            .flatten()
    }
}

const MAX_ASKED: usize = 32;
const MAX_KNOWN: usize = 10_000;
const REMEMBER: Duration = Duration::from_secs(60);
const TIME_LIMIT: Duration = Duration::from_secs(10);
