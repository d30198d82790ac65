//! Reads from the outcome of an attempt what it says of the endpoint: the breaker opens by it.
//!
//! As Envoy's outlier detection: a connection that fails, a reset, a time-out, any 5xx, and the gRPC codes that say the
//! server failed. What a mesh proxy refused because its app has enough to do is no failure.

use http::{HeaderMap, Response, Version};
use weft_policy::breaker::Breaker;

use super::breaker::Verdict;
use crate::http::body::Body;
use crate::http::grpc;
use crate::http::headers::{EXHAUSTED, REJECT};
use crate::reject::Reject;
use crate::retry::Outcome;

/// What `outcome` says of the endpoint.
pub(crate) fn of(outcome: &Outcome, rule: &Breaker) -> Verdict {
    match outcome {
        // A hop below is at fault. Whoever writes a breaker wants to be kept from such answers too; by itself none opens.
        Outcome::Answer { answer, .. } => match of_answer(answer) {
            Verdict::Bad if !rule.lone && answer.headers().contains_key(EXHAUSTED) => {
                Verdict::Neither
            }
            verdict => verdict,
        },
        Outcome::HandedBack { .. } => Verdict::Neither,
        Outcome::Failed(failed) if failed.reused => Verdict::Neither,
        Outcome::Failed(failed) => of_reject(failed.reject),
        Outcome::Final(reject) => of_reject(*reject),
    }
}

fn of_answer(answer: &Response<Body>) -> Verdict {
    let headers = answer.headers();
    let grpc = answer.version() == Version::HTTP_2;
    match answer.status().is_server_error() || (grpc && grpc_failed(headers)) {
        false => Verdict::Good,
        true if is_shed(headers) => Verdict::Neither,
        true => Verdict::Bad,
    }
}

/// UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS in an answer that has no more than its head.
fn grpc_failed(headers: &HeaderMap) -> bool {
    grpc::status(headers).is_some_and(|status| matches!(status, 2 | 4 | 13 | 14 | 15))
}

fn is_shed(headers: &HeaderMap) -> bool {
    let label = headers.get(REJECT).map(|label| label.as_bytes());
    label.is_some_and(|label| SHED.contains(&label))
}

fn of_reject(reject: Reject) -> Verdict {
    match reject {
        // Ours, or the caller's own.
        Reject::NoIdentity | Reject::PoolFull | Reject::RequestBody | Reject::Loop => {
            Verdict::Neither
        }
        Reject::NoEndpoint | Reject::BreakerOpen | Reject::Deadline => Verdict::Neither,
        _ => Verdict::Bad,
    }
}

/// Reasons of a mesh proxy whose app is well, but busy, or was asked for too much.
const SHED: [&[u8]; 4] = [b"overloaded", b"rate_limited", b"pool_full", b"deadline"];
