//! `retry`: what is tried again, how often, at what price.

use std::time::Duration;

use http::Method;

use crate::matcher;
use crate::rate_limit::Rate;
use crate::read::{At, not_one_of};
use crate::status::{GrpcCode, StatusSet};
use crate::units::{self, Share};

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

impl Retry {
    /// Reads what is written over `base`.
    pub(crate) fn read(at: &At<'_>, base: &Self) -> Self {
        let fields = at.fields_or(
            "attempts",
            &[
                "attempts",
                "on",
                "methods",
                "backoff",
                "try-timeout",
                "budget",
                "max-body",
            ],
        );
        let read = fields
            .get("on")
            .map(|at| at.some(MAX_CAUSES, RetryOn::parse));
        let methods = fields.get("methods").map(|at| matcher::methods(&at));
        let try_timeout = fields.get("try-timeout").map(|at| units::duration(&at));
        let max_body = fields
            .get("max-body")
            .and_then(|at| units::size(&at, 0..=16 << 20));
        Self {
            attempts: fields
                .get("attempts")
                .and_then(|at| at.number(1, 10))
                .unwrap_or(base.attempts),
            on: read.unwrap_or_else(|| base.on.clone()),
            methods: methods.or_else(|| base.methods.clone()),
            backoff: fields
                .get("backoff")
                .map_or(base.backoff, |at| Backoff::read(&at, base.backoff)),
            try_timeout: try_timeout.unwrap_or(base.try_timeout),
            budget: fields
                .get("budget")
                .map_or(base.budget, |at| Budget::read(&at, base.budget)),
            max_body: max_body.unwrap_or(base.max_body),
        }
    }
}

impl Backoff {
    fn read(at: &At<'_>, base: Self) -> Self {
        let fields = at.fields_or("base", &["base", "max"]);
        let first = fields.get("base").and_then(|at| units::duration(&at));
        let max = fields.get("max").and_then(|at| units::duration(&at));
        Self {
            base: first.unwrap_or(base.base),
            // As by default: ten times the first.
            max: max.or(first.map(|first| first * 10)).unwrap_or(base.max),
        }
    }
}

impl Budget {
    fn read(at: &At<'_>, base: Self) -> Self {
        let fields = at.fields_or("share", &["share", "min-rate"]);
        let share = fields
            .get("share")
            .and_then(|at| at.parse(units::parse_share));
        let min_rate = fields.get("min-rate").and_then(|at| at.parse(Rate::parse));
        Self {
            share: share.unwrap_or(base.share),
            min_rate: min_rate.unwrap_or(base.min_rate),
        }
    }
}

impl RetryOn {
    fn parse(text: &str) -> Result<Self, String> {
        let words = [
            "connect",
            "refused-stream",
            "reset",
            "timeout",
            "gateway-error",
            "5xx",
        ];
        match text {
            "connect" => Ok(Self::Connect),
            "refused-stream" => Ok(Self::RefusedStream),
            "reset" => Ok(Self::Reset),
            "timeout" => Ok(Self::Timeout),
            "gateway-error" => StatusSet::parse(text).map(Self::Status),
            _ if text.starts_with(|c: char| c.is_ascii_digit()) => {
                StatusSet::parse(text).map(Self::Status)
            }
            _ => {
                let known = words.into_iter().chain(GrpcCode::NAMES);
                let code = GrpcCode::parse(text).map(Self::Grpc);
                code.ok().ok_or_else(|| not_one_of(text, known))
            }
        }
    }
}

const MAX_CAUSES: usize = 32;
