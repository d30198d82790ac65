//! Reads from a failed attempt, or from an answer, whether policy has it tried again and whether that is safe.

use http::{HeaderName, Method, Response, request};
use weft_policy::retry::{Retry, RetryOn};

use super::Failed;
use crate::http::body::Body;
use crate::http::failure::Processed;
use crate::http::grpc;
use crate::http::headers::EXHAUSTED;
use crate::reject::Reject;

/// Whether another attempt may follow `failed`, as far as it is about the failure: what was not processed may go elsewhere,
/// the rest as policy says.
pub(super) fn of_failure(failed: &Failed, head: &request::Parts, rule: &Retry) -> bool {
    match (failed.processed, failed.reject) {
        // The next attempt would say the same, or there is nobody else.
        (
            _,
            Reject::AppGone
            | Reject::Loop
            | Reject::NoIdentity
            | Reject::NoEndpoint
            | Reject::BreakerOpen
            | Reject::RequestBody
            | Reject::UpstreamMalformed,
        ) => false,
        (Processed::No, _) => true,
        (Processed::Maybe, reject) => {
            let cause = match reject {
                Reject::TryTimeout => RetryOn::Timeout,
                _ => RetryOn::Reset,
            };
            rule.on.contains(&cause) && is_safe(head, rule)
        }
    }
}

/// Why `answer` is not good enough; `None` if it is, or if a hop below has tried all that may be tried.
pub(super) fn of_answer(
    answer: &Response<Body>,
    head: &request::Parts,
    rule: &Retry,
) -> Option<&'static str> {
    if !asks_for_answers(rule) {
        return None;
    }
    let headers = answer.headers();
    let is_meant = |on: &RetryOn| match on {
        RetryOn::Status(set) => set.contains(answer.status().as_u16()),
        // The code is known before the body only where there is none.
        RetryOn::Grpc(code) => grpc::status(headers) == Some(u16::from(code.0)),
        RetryOn::Connect | RetryOn::RefusedStream | RetryOn::Reset | RetryOn::Timeout => false,
    };
    let cause = rule.on.iter().find(|on| is_meant(on))?;
    if headers.contains_key(EXHAUSTED) || !is_safe(head, rule) {
        return None;
    }
    Some(match cause {
        RetryOn::Grpc(_) => "grpc_status",
        _ => "status",
    })
}

/// Whether any answer is a reason for `rule`.
fn asks_for_answers(rule: &Retry) -> bool {
    let is_answer = |on: &RetryOn| matches!(on, RetryOn::Status(_) | RetryOn::Grpc(_));
    rule.attempts > 1 && rule.on.iter().any(is_answer)
}

/// Whether a request that may have been processed may be sent again: by its method, or by its caller's word.
fn is_safe(head: &request::Parts, rule: &Retry) -> bool {
    let by_method = match &rule.methods {
        Some(methods) => methods.contains(&head.method),
        None => is_idempotent(&head.method),
    };
    by_method || head.headers.contains_key(IDEMPOTENCY_KEY)
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
