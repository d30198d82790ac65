//! `retry`: what is tried again, how often, at what price.

use std::time::Duration;

use http::Method;

use crate::rate_limit::Rate;
use crate::status::{GrpcCode, StatusSet};
use crate::units::Share;

/// How callers repeat what failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// All tries, the first one included: 1 is no retry.
    pub attempts: u32,
    /// What is tried again.
    pub on: Vec<RetryOn>,
    /// Methods that are tried again though they may have been processed; `None`: those that RFC 9110 section 9.2.2 calls idempotent.
    pub methods: Option<Vec<Method>>,
    /// Mean first pause and longest one; doubles each time, with full jitter.
    pub backoff: Backoff,
    /// How long one try may take, beside `timeout.try`; the sooner one.
    pub try_timeout: Option<Duration>,
    /// Retries as a share of requests.
    pub budget: Budget,
    /// Bytes of a request body that are kept to be sent again.
    pub max_body: u64,
}

/// Pauses between tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first pause.
    pub base: Duration,
    /// Upper bound of any.
    pub max: Duration,
}

/// How many retries a service may be asked for: a share of its requests, and a rate that is always there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Of requests.
    pub share: Share,
    /// Without regard to requests.
    pub min_rate: Rate,
}

/// A failure that is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// `connect`: no connection.
    Connect,
    /// `refused-stream`: the endpoint has said that it did not process it.
    RefusedStream,
    /// `reset`: the connection ended before a byte of the answer.
    Reset,
    /// `timeout`: a try took too long.
    Timeout,
    /// `5xx`, `503`, `500-504`, `gateway-error` (502, 503, 504).
    Status(StatusSet),
    /// `unavailable` and its like.
    Grpc(GrpcCode),
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: vec![RetryOn::Connect, RetryOn::RefusedStream, RetryOn::Reset],
            methods: None,
            backoff: Backoff {
                base: Duration::from_millis(25),
                max: Duration::from_millis(250),
            },
            try_timeout: None,
            budget: Budget {
                share: Share::FIFTH,
                min_rate: Rate::TEN_A_SECOND,
            },
            max_body: 64 * 1024,
        }
    }
}
