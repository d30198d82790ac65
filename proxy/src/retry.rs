//! The attempt loop: one request, one or more attempts, one answer.
//!
//! Nothing is sent twice unless that is safe: the method is, or nothing has processed the first attempt. What has not been
//! processed is known here from `http/failure` and, between proxies, from a header that only a mesh peer may set.

pub(crate) mod budget;
pub(crate) mod replay;

use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, request};
use tokio::time::Instant;

use crate::cx::Worker;
use crate::http::body::Body;
use crate::http::failure::Processed;
use crate::policy::calls::CallPolicy;
use crate::reject::Reject;
use replay::Kept;

/// One attempt to be made.
pub(crate) struct Attempt<'a> {
    pub(crate) head: &'a request::Parts,
    pub(crate) body: Body,
    /// A kept connection has failed: use a new one.
    pub(crate) fresh: bool,
    /// Endpoints that have failed.
    pub(crate) avoid: &'a [u64],
}

/// How an attempt failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) reject: Reject,
    pub(crate) processed: Processed,
    /// On a connection that had served before.
    pub(crate) reused: bool,
    pub(crate) endpoint: Option<u64>,
}

/// What an attempt brought.
pub(crate) enum Outcome {
    Answer(Response<Body>),
    /// A mesh peer has handed the request back unprocessed, with this answer for want of a better one.
    HandedBack {
        answer: Response<Body>,
        endpoint: u64,
    },
    Failed(Failed),
    /// Whether it is tried again is for the caller's proxy to say, which knows other endpoints.
    Final(Reject),
}

impl Outcome {
    /// Of the answer, if there is one.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Answer(answer) | Self::HandedBack { answer, .. } => Some(answer.status()),
            Self::Failed(_) | Self::Final(_) => None,
        }
    }

    /// A fixed word: why there is no answer of the app's.
    pub(crate) fn failure(&self) -> Option<&'static str> {
        match self {
            Self::Answer(_) => None,
            Self::HandedBack { .. } => Some("handed_back"),
            Self::Failed(failed) => Some(failed.reject.label()),
            Self::Final(reject) => Some(reject.label()),
        }
    }
}

/// Makes attempts until one answers or no further one is allowed. The number made goes into `attempts`.
///
/// # Errors
/// The reason of the last attempt.
pub(crate) async fn run(
    request: Request<Body>,
    worker: &Worker,
    policy: &CallPolicy,
    attempts: &mut u32,
    attempt: impl AsyncFn(Attempt<'_>) -> Outcome,
) -> Result<Response<Body>, Reject> {
    let budget = &policy.budget;
    budget.deposit();
    let (head, body) = request.into_parts();
    let mut once = Some(body);
    let kept = once.take_if(|body| !body.is_end()).map(Kept::new);
    let mut avoid: Vec<u64> = Vec::new();
    let mut fresh = false;
    let mut counted = 0;
    loop {
        *attempts += 1;
        let body = kept.as_ref().map_or_else(Body::empty, Kept::attempt);
        let outcome = attempt(Attempt {
            head: &head,
            body,
            fresh,
            avoid: &avoid,
        })
        .await;
        let whole = kept.as_ref().is_none_or(Kept::is_whole) && *attempts < MAX_ATTEMPTS;
        match outcome {
            Outcome::Answer(answer) => return Ok(answer),
            Outcome::Final(reject) => return Err(reject),
            Outcome::HandedBack { answer, endpoint } => {
                if !whole || avoid.contains(&endpoint) {
                    return Ok(answer);
                }
                avoid.push(endpoint);
                worker.telemetry.metrics().retried("handed_back");
            }
            Outcome::Failed(failed) => {
                if !whole || !may_repeat(&failed, &head.method, &head.headers) {
                    return Err(failed.reject);
                }
                if failed.reused && !fresh {
                    // The connection was stale, the endpoint need not be: the same one, on a new connection.
                    fresh = true;
                    worker.telemetry.metrics().retried("stale_connection");
                    continue;
                }
                counted += u32::from(failed.processed == Processed::Maybe);
                if counted >= DEFAULT_ATTEMPTS || (counted > 0 && !budget.withdraw(Instant::now()))
                {
                    return Err(failed.reject);
                }
                worker.telemetry.metrics().retried(failed.reject.label());
                avoid.extend(failed.endpoint);
            }
        }
    }
}

fn may_repeat(failed: &Failed, method: &Method, headers: &HeaderMap) -> bool {
    match (failed.processed, failed.reject) {
        // The next attempt would say the same.
        (
            _,
            Reject::AppGone
            | Reject::Loop
            | Reject::NoIdentity
            | Reject::NoEndpoint
            | Reject::RequestBody
            | Reject::UpstreamMalformed,
        ) => false,
        (Processed::No, _) => true,
        (Processed::Maybe, _) => is_idempotent(method) || headers.contains_key(IDEMPOTENCY_KEY),
    }
}

/// RFC 9110 section 9.2.2: "PUT, DELETE, and safe request methods are idempotent".
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// The caller's word that sending twice has the effect of sending once (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Tries of what may have been processed, the first one included.
const DEFAULT_ATTEMPTS: u32 = 2;
/// Tries of what has not been processed: enough to walk past the dead endpoints of a rolling restart.
const MAX_ATTEMPTS: u32 = 6;
