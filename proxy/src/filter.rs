//! What may happen to a request before it is sent, in the order in which it happens.

pub(crate) mod authn;
pub(crate) mod authz;
pub(crate) mod claims;
pub(crate) mod concurrency;
pub(crate) mod explain;
pub(crate) mod fault;
pub(crate) mod headers;
pub(crate) mod limits;
pub(crate) mod matches;
pub(crate) mod rate_limit;
pub(crate) mod trace;

use std::sync::Arc;

use http::{Request, Response};
use weft_policy::Policy;
use weft_policy::fault::Fault;
use weft_policy::headers::HeaderEdits;
use weft_policy::rate_limit::RateKey;

use self::authn::Authn;
use self::authn::keys::KeyStore;
use self::authz::{AllowedBy, Authz};
use self::concurrency::{Concurrency, Gate, Permit};
use self::explain::Explain;
use self::limits::Connections;
use self::rate_limit::{Quota, RateLimits};
use crate::cx::Cx;
use crate::http::body::Body;
use crate::http::headers::{CLIENT_ID, XFCC, strip_outside};
use crate::policy::Active;
use crate::policy::ports::Declared;
use crate::reject::Reject;

/// The filters that one policy asks for on what comes in, ready to run. A filter that is not asked for is `None`.
pub(crate) struct Inbound {
    authn: Option<Authn>,
    /// What a token says is looked at by a filter after it.
    reads_claims: bool,
    authz: Option<Authz>,
    rate_limits: Option<RateLimits>,
    fault: Vec<Fault>,
    concurrency: Option<Concurrency>,
    max_body: Option<u64>,
    headers: Option<Arc<HeaderEdits>>,
}

/// What the filters keep over a change of policy.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) keys: KeyStore,
    rate_limits: rate_limit::Kept,
    pub(crate) gate: Arc<Gate>,
    pub(crate) connections: Connections,
}

/// What a request holds on to until its answer is complete, and what it does to the answer, be it the app's or a refusal.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// The rule of `allow` that let it pass.
    pub(crate) allowed_by: AllowedBy,
    /// Where it stands with the rate limit that decided.
    quota: Option<Quota>,
    /// Its place among the requests in flight.
    permit: Option<Permit>,
    /// Edits of the answer.
    headers: Option<Arc<HeaderEdits>>,
    /// Its caller is told what decides.
    pub(crate) explain: Option<Box<Explain>>,
}

impl Inbound {
    /// `None` where `policy` asks for nothing: then nothing is run.
    pub(crate) fn new(policy: &Policy, kept: &Kept) -> Option<Self> {
        let policy = &policy.inbound;
        let filters = Self {
            authn: Authn::new(&policy.jwt, &kept.keys),
            reads_claims: reads_claims(policy),
            authz: Authz::new(policy),
            rate_limits: RateLimits::new(&policy.rate_limit, &kept.rate_limits),
            fault: policy.fault.clone(),
            concurrency: Concurrency::new(policy.concurrency, &kept.gate),
            max_body: policy.limits.body,
            headers: (!policy.headers.is_empty()).then(|| Arc::new(policy.headers.clone())),
        };
        filters.does_something().then_some(filters)
    }

    fn does_something(&self) -> bool {
        let Self {
            authn,
            reads_claims: _,
            authz,
            rate_limits,
            fault,
            concurrency,
            max_body,
            headers,
        } = self;
        authn.is_some()
            || authz.is_some()
            || rate_limits.is_some()
            || !fault.is_empty()
            || concurrency.is_some()
            || max_body.is_some()
            || headers.is_some()
    }

    /// Whether bytes that nobody reads may pass. Where a token is required they could hide a request without one, so they pass only
    /// on a port that is declared not to speak HTTP.
    pub(crate) fn opaque(&self, cx: &Cx, declared: Option<Declared>) -> Result<(), Reject> {
        let needs_token = self.authn.as_ref().is_some_and(Authn::is_required);
        if needs_token && !matches!(declared, Some(Declared::Opaque | Declared::OwnTls)) {
            return Err(Reject::JwtMissing);
        }
        let Some(authz) = &self.authz else {
            return Ok(());
        };
        authz.connection(cx).map(|_allowed_by| ())
    }

    /// How many requests may be in flight now; 0 without a limit.
    pub(crate) fn concurrency_limit(&self) -> u32 {
        self.concurrency.as_ref().map_or(0, Concurrency::limit)
    }

    /// One line a filter. What passes leaves its traces in `passed`, which also sees the answer to what is refused.
    async fn run(
        &self,
        cx: &Cx,
        request: &mut Request<Body>,
        passed: &mut Passed,
    ) -> Result<(), Reject> {
        passed.headers.clone_from(&self.headers);
        if let Some(authn) = &self.authn {
            let claims = authn.run(&cx.worker.tokens, request).await?;
            if let Some(claims) = claims.filter(|_| self.reads_claims) {
                request.extensions_mut().insert(claims);
            }
        }
        if let Some(authz) = &self.authz {
            passed.allowed_by = authz.request(cx, request)?;
        }
        if let Some(limits) = &self.rate_limits {
            limits.pass(cx, request, passed)?;
        }
        if let Some(max) = self.max_body {
            limits::body(max, request)?;
        }
        fault::inject(cx, &self.fault, request).await?;
        if let Some(concurrency) = &self.concurrency {
            passed.permit = Some(concurrency.enter(cx, request)?);
        }
        if let Some(edits) = &self.headers {
            headers::edit(&edits.request, request.headers_mut());
        }
        Ok(())
    }
}

impl Passed {
    /// What passing adds to the answer.
    pub(crate) fn answer(&mut self, response: &mut Response<Body>, reject: Option<Reject>) {
        if reject.is_none()
            && let Some(permit) = &mut self.permit
        {
            permit.answered();
        }
        let headers = response.headers_mut();
        if let Some(quota) = &self.quota {
            quota.announce(headers);
        }
        if reject == Some(Reject::Overloaded) {
            concurrency::retry_after(headers);
        }
        if let Some(edits) = &self.headers {
            headers::edit(&edits.response, headers);
        }
    }
}

/// Whether a rule or a limit asks for what a token says.
fn reads_claims(policy: &weft_policy::Inbound) -> bool {
    let mut rules = policy.allow.iter().flatten().chain(&policy.deny);
    let mut keys = policy.rate_limit.iter().flat_map(|limit| &limit.per);
    rules.any(|rule| !rule.claims.is_empty()) || keys.any(|key| matches!(key, RateKey::Claim(_)))
}

/// Filters of requests for our app.
///
/// # Errors
/// The request must not reach the app.
pub(crate) async fn inbound(
    cx: &Cx,
    policy: &Arc<Active>,
    request: &mut Request<Body>,
    passed: &mut Passed,
) -> Result<(), Reject> {
    passed.explain = Explain::asked(cx, policy, request.headers());
    let map = request.headers_mut();
    // Never from outside: what the app reads here is what this proxy has verified, or nothing.
    strip_outside(map);
    if let Some(caller) = &cx.caller {
        map.insert(XFCC, caller.xfcc.clone());
        map.insert(CLIENT_ID, caller.client_id.clone());
    }
    match &policy.inbound {
        None => Ok(()),
        Some(filters) => Box::pin(filters.run(cx, request, passed)).await,
    }
}

/// Filters of requests from our app.
///
/// # Errors
/// The request must not leave.
pub(crate) fn outbound(
    cx: &Cx,
    policy: &Arc<Active>,
    request: &mut Request<Body>,
    passed: &mut Passed,
) -> Result<(), Reject> {
    passed.explain = Explain::asked(cx, policy, request.headers());
    let map = request.headers_mut();
    strip_outside(map);
    Ok(())
}
