//! What an attempt's outcome says: of the request, and of the endpoint that had it.
//!
//! Comes after `forward`. Marks of the endpoint's proxy count only where its identity was verified.

use http::{HeaderMap, Response};
use tokio::time::{Duration, Instant};
use tracing::debug;

use crate::balance::{self, Picked};
use crate::deadline::Deadline;
use crate::forward::{self, Sent};
use crate::http::body::Body;
use crate::http::failure::Processed;
use crate::http::headers;
use crate::reject::Reject;
use crate::retry::{Failed, Outcome};

/// Reads from an attempt's outcome what it says of the endpoint.
pub(super) fn judge(sent: Sent, picked: Option<&Picked>, until: Option<Deadline>) -> Outcome {
    let endpoint = picked.map(|picked| picked.id);
    match sent {
        Sent::NotConnected(error) => {
            debug!(%error, "attempt has no connection");
            if let Some(picked) = picked {
                picked.take_out(Instant::now(), UNREACHABLE_FOR);
            }
            failed(error.reject(), endpoint)
        }
        Sent::Failed(failed) => Outcome::Failed(blamed(failed, picked)),
        Sent::Answer(answer) => match picked.filter(|picked| picked.identity.is_some()) {
            None => Outcome::Answer { answer, endpoint },
            Some(picked) => read_marks(answer, picked, until),
        },
    }
}

/// What is said of a try that took too long. Whether there is another one is for `retry` to say.
pub(super) fn late(whose: Reject, picked: Option<&Picked>) -> Outcome {
    match whose {
        Reject::TryTimeout => Outcome::Failed(blamed(lost(whose), picked)),
        whose => Outcome::Final(whose),
    }
}

/// Marks count only from an endpoint whose identity was verified.
fn read_marks(answer: Response<Body>, picked: &Picked, until: Option<Deadline>) -> Outcome {
    let endpoint = Some(picked.id);
    if !headers::has_any(answer.headers(), &headers::OF_THE_MESH) {
        return Outcome::Answer { answer, endpoint };
    }
    let now = Instant::now();
    if answer.headers().contains_key(headers::DRAINING) {
        picked.take_out(now, DRAINING_FOR);
    }
    if answer.headers().contains_key(headers::UNPROCESSED) {
        picked.take_out(now, UNREACHABLE_FOR);
        return Outcome::HandedBack {
            answer,
            endpoint: picked.id,
        };
    }
    if let Some(until) = until.filter(|until| until.was_ours(answer.headers())) {
        return late(until.whose, Some(picked));
    }
    match broken_off(answer.headers()) {
        Some(reject) => Outcome::Failed(blamed(lost(reject), Some(picked))),
        None => Outcome::Answer { answer, endpoint },
    }
}

/// What the endpoint's proxy says of an app that did not answer is as if we had seen it ourselves.
fn broken_off(headers: &HeaderMap) -> Option<Reject> {
    let label = headers.get(headers::REJECT)?;
    [Reject::UpstreamReset, Reject::UpstreamClosed]
        .into_iter()
        .find(|reject| *label == reject.label())
}

fn lost(reject: Reject) -> Failed {
    Failed {
        reject,
        processed: Processed::Maybe,
        reused: false,
        endpoint: None,
    }
}

/// Notes a failure with the endpoint. A stale connection and a caller's own failure say nothing of it.
fn blamed(failed: Failed, picked: Option<&Picked>) -> Failed {
    if let Some(picked) = picked
        && !failed.reused
        && failed.reject != Reject::RequestBody
    {
        picked.observe(picked.elapsed(), balance::Outcome::Failed);
    }
    Failed {
        endpoint: picked.map(|picked| picked.id),
        ..failed
    }
}

pub(super) fn failed(reject: Reject, endpoint: Option<u64>) -> Outcome {
    Outcome::Failed(Failed {
        reject,
        processed: forward::UNSENT,
        reused: false,
        endpoint,
    })
}

pub(super) fn strip_marks(map: &mut HeaderMap, meshed: bool) {
    if meshed {
        headers::remove_all(map, &headers::MARKS);
    } else {
        headers::strip_mesh(map);
    }
}

/// How long an endpoint that could not be reached is passed over.
pub(super) const UNREACHABLE_FOR: Duration = Duration::from_secs(2);

/// How long one that drains is passed over: longer than any drain, and discovery will have removed it.
const DRAINING_FOR: Duration = Duration::from_secs(60);
