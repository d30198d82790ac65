//! The attempt loop: one request, one or more attempts, one answer.
//!
//! Nothing is sent twice unless that is safe: the method is, or nothing has processed the first attempt. What has not been
//! processed is known here from `http/failure` and, between proxies, from a header that only a mesh peer may set. What policy
//! wants tried again is in `cause`, how much of it there may be in `budget`.

pub(crate) mod budget;
mod cause;
pub(crate) mod exhausted;
pub(crate) mod replay;

use http::{HeaderValue, Request, Response, StatusCode, request};
use tokio::time::{Duration, Instant, sleep};
use weft_policy::retry::Retry;

use crate::cx::Worker;
use crate::deadline::{self, Deadline, sooner};
use crate::http::body::Body;
use crate::http::failure::Processed;
use crate::http::headers::{EXHAUSTED, REJECT};
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
    /// When it must have answered; the head says so.
    pub(crate) until: Option<Deadline>,
}

/// Whether an endpoint may hand a request back unread, after some of its body was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returns {
    Possible,
    Never,
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
    Answer {
        answer: Response<Body>,
        endpoint: Option<u64>,
    },
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
            Self::Answer { answer, .. } | Self::HandedBack { answer, .. } => Some(answer.status()),
            Self::Failed(_) | Self::Final(_) => None,
        }
    }

    /// A fixed word: why there is no answer of the app's.
    pub(crate) fn failure(&self) -> Option<&'static str> {
        match self {
            Self::Answer { .. } => None,
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
    (policy, deadline, returns): (&CallPolicy, Option<Deadline>, Returns),
    attempts: &mut u32,
    attempt: impl AsyncFn(Attempt<'_>) -> Outcome,
) -> Result<Response<Body>, Reject> {
    let rule = &policy.calls.retry;
    policy.budget.deposit();
    let (mut head, body) = request.into_parts();
    let mut once = Some(body);
    let spare = (returns == Returns::Possible).then(|| worker.spare.clone());
    let keep = |body| Kept::new(body, rule.max_body, spare);
    let kept = once.take_if(|body| !body.is_end()).map(keep);
    let mut again = Again::default();
    loop {
        *attempts += 1;
        let until = until(deadline, policy.try_limit)?;
        if let Some(until) = until {
            deadline::tell(&mut head.headers, until.left(Instant::now()));
        }
        let outcome = attempt(Attempt {
            head: &head,
            body: kept.as_ref().map_or_else(Body::empty, Kept::attempt),
            fresh: again.fresh,
            avoid: &again.avoid,
            until,
        })
        .await;
        let left = *attempts < MAX_ATTEMPTS.max(rule.attempts);
        let more = left && kept.as_ref().is_none_or(Kept::is_whole);
        let small = kept.as_ref().is_none_or(Kept::is_small);
        let step = match outcome {
            Outcome::Final(reject) => return Err(reject),
            Outcome::Answer { answer, endpoint } => {
                let Some(cause) = cause::of_answer(&answer, &head, rule) else {
                    return Ok(answer);
                };
                if !more || !small || !again.may_count(policy) {
                    return Ok(exhausted(answer));
                }
                again.avoid.extend(endpoint);
                Step::Counted(cause)
            }
            Outcome::HandedBack { answer, endpoint } => {
                let may = more && !again.avoid.contains(&endpoint);
                // Whoever has too much to do is not asked for more than the budget has.
                if !may || (is_overloaded(&answer) && !again.may_count(policy)) {
                    return Ok(answer);
                }
                again.avoid.push(endpoint);
                Step::Free("handed_back")
            }
            Outcome::Failed(failed) => match again.after(&failed, &head, policy, (more, small)) {
                Some(step) => step,
                None => return Err(failed.reject),
            },
        };
        worker.telemetry.metrics().retried(step.reason());
        if let Step::Counted(_) = step {
            again.pause(rule, deadline).await?;
        }
    }
}

/// When this attempt must have answered, and what is said if it has not.
///
/// # Errors
/// That time has come.
fn until(
    deadline: Option<Deadline>,
    try_limit: Option<Duration>,
) -> Result<Option<Deadline>, Reject> {
    if deadline.is_none() && try_limit.is_none() {
        return Ok(None);
    }
    let now = Instant::now();
    match deadline {
        Some(deadline) if deadline.at <= now => Err(deadline.whose),
        deadline => {
            let own = try_limit.map(|limit| Deadline::after(now, limit, Reject::TryTimeout));
            Ok(sooner(deadline, own))
        }
    }
}

/// How the next attempt comes about.
#[derive(Clone, Copy)]
enum Step {
    /// Nothing has processed the last one.
    Free(&'static str),
    /// It counts as a retry: by the policy's number and budget, and after a pause.
    Counted(&'static str),
}

impl Step {
    fn reason(self) -> &'static str {
        match self {
            Self::Free(reason) | Self::Counted(reason) => reason,
        }
    }
}

/// What is known from the attempts so far.
#[derive(Default)]
struct Again {
    fresh: bool,
    /// Endpoints that have failed.
    avoid: Vec<u64>,
    /// Retries that count.
    counted: u32,
}

impl Again {
    /// The next attempt after `failed`, if there is to be one: `more` says that there may be, `small` that it may be for any cause.
    fn after(
        &mut self,
        failed: &Failed,
        head: &request::Parts,
        policy: &CallPolicy,
        (more, small): (bool, bool),
    ) -> Option<Step> {
        let rule = &policy.calls.retry;
        if !more || !cause::of_failure(failed, head, rule) {
            return None;
        }
        if failed.reused && !self.fresh {
            // The connection was stale, the endpoint need not be: the same one, on a new connection.
            self.fresh = true;
            return Some(Step::Free("stale_connection"));
        }
        let label = failed.reject.label();
        let known = failed.endpoint.is_some_and(|id| self.avoid.contains(&id));
        self.avoid.extend(failed.endpoint);
        match failed.processed {
            Processed::No if rule.attempts == 1 => None,
            // On to an endpoint that was not asked yet, past those that are dead in a rolling restart.
            Processed::No if !known => Some(Step::Free(label)),
            Processed::No | Processed::Maybe => {
                (small && self.may_count(policy)).then_some(Step::Counted(label))
            }
        }
    }

    /// Whether one more retry is within number and budget; it is taken if it is.
    fn may_count(&mut self, policy: &CallPolicy) -> bool {
        let rule = &policy.calls.retry;
        let may = self.counted + 1 < rule.attempts
            && policy.budget.withdraw(&rule.budget, Instant::now());
        self.counted += u32::from(may);
        may
    }

    /// Waits as full jitter says: anything from nothing to twice as long each time (AWS, "Exponential Backoff And Jitter").
    async fn pause(&self, rule: &Retry, deadline: Option<Deadline>) -> Result<(), Reject> {
        let doubled = 1_u32
            .checked_shl(self.counted.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let most = rule
            .backoff
            .base
            .saturating_mul(doubled)
            .min(rule.backoff.max);
        let pause = most.mul_f64(fastrand::f64());
        match deadline {
            // It would end in nothing, so say so at once.
            Some(deadline) if deadline.left(Instant::now()) <= pause => Err(deadline.whose),
            _ => {
                sleep(pause).await;
                Ok(())
            }
        }
    }
}

/// Marks an answer that no hop above is to try again for: it would multiply what was tried here.
fn exhausted(mut answer: Response<Body>) -> Response<Body> {
    let headers = answer.headers_mut();
    headers.insert(EXHAUSTED, HeaderValue::from_static("1"));
    answer
}

fn is_overloaded(answer: &Response<Body>) -> bool {
    let label = answer.headers().get(REJECT);
    label.is_some_and(|label| *label == Reject::Overloaded.label())
}

/// Tries of what has not been processed: enough to walk past the dead endpoints of a rolling restart.
const MAX_ATTEMPTS: u32 = 6;
