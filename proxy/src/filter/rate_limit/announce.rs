//! What an answer says of a limit: `RateLimit`, `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10) and, where it
//! refuses, `Retry-After` (RFC 9110 section 10.2.3) and gRPC's `grpc-retry-pushback-ms` (gRFC A6).

use std::fmt::Write;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue};
use weft_policy::rate_limit::{Rate, RateKey, RateLimit};

use super::gcra::{Gcra, Left, Wait, seconds};
use crate::http::grpc;

/// What is known of a limit's words when the policy is loaded.
pub(super) struct Words {
    /// `"100/min per client-ip"`, quoted.
    name: Box<str>,
    policy: HeaderValue,
}

/// Where a request stands with the limit that decided.
#[derive(Clone, Debug)]
pub(crate) struct Quota {
    /// The limit's place in `rate-limit`.
    pub(crate) index: usize,
    /// So many may follow at once.
    pub(super) requests: u64,
    policy: HeaderValue,
    state: HeaderValue,
    wait: Option<Wait>,
}

impl Words {
    pub(super) fn new(rule: &RateLimit, gcra: Gcra) -> Self {
        let name = name(rule);
        let policy = format!(
            "{name};q={};w={}",
            rule.burst,
            seconds(gcra.window()).max(1)
        );
        Self {
            policy: value(&policy),
            name: name.into(),
        }
    }

    pub(super) fn passed(&self, index: usize, left: Left) -> Quota {
        self.quota(index, left.requests, seconds(left.full_in), None)
    }

    pub(super) fn refused(&self, index: usize, wait: Wait) -> Quota {
        self.quota(index, 0, wait.seconds(), Some(wait))
    }

    fn quota(&self, index: usize, requests: u64, seconds: u64, wait: Option<Wait>) -> Quota {
        // Written by hand and in one piece, for each request has one.
        let digits = digits(requests) + digits(seconds);
        let mut state = Vec::with_capacity(self.name.len() + ";r=;t=".len() + digits);
        state.extend_from_slice(self.name.as_bytes());
        state.extend_from_slice(b";r=");
        decimal(&mut state, requests);
        state.extend_from_slice(b";t=");
        decimal(&mut state, seconds);
        Quota {
            index,
            requests,
            policy: self.policy.clone(),
            state: HeaderValue::from_maybe_shared(Bytes::from(state))
                .unwrap_or(HeaderValue::from_static("")),
            wait,
        }
    }
}

impl Quota {
    /// Says it in an answer's head. The app's own words on the same, if there are any, stay beside it: they are lists.
    pub(crate) fn announce(&self, headers: &mut HeaderMap) {
        headers.append(RATE_LIMIT_POLICY, self.policy.clone());
        headers.append(RATE_LIMIT, self.state.clone());
        if let Some(wait) = self.wait {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.seconds()));
            grpc::push_back(headers, wait.millis());
        }
    }
}

/// `"100/min per client-ip, path"`, a string of structured fields (RFC 9651 section 3.3.3).
fn name(rule: &RateLimit) -> String {
    let mut name = format!("\"{}", rate(rule.rate));
    for (place, key) in rule.per.iter().enumerate() {
        name.push_str(if place == 0 { " per " } else { ", " });
        // Writing into a String does not fail.
        let _written = match key {
            RateKey::ClientIp => write!(name, "client-ip"),
            RateKey::Identity => write!(name, "identity"),
            RateKey::Header(header) => write!(name, "header:{header}"),
            RateKey::Claim(_) => write!(name, "claim"),
            RateKey::Path => write!(name, "path"),
        };
    }
    name.push('"');
    name
}

fn rate(rate: Rate) -> String {
    match rate.per.as_secs() {
        1 => format!("{}/s", rate.count),
        60 => format!("{}/min", rate.count),
        3600 => format!("{}/h", rate.count),
        seconds => format!("{}/{seconds}s", rate.count),
    }
}

fn decimal(out: &mut Vec<u8>, value: u64) {
    let begun = out.len();
    let mut rest = value;
    loop {
        out.push(b'0' + u8::try_from(rest % 10).unwrap_or_default());
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(begun..) {
        digits.reverse();
    }
}

fn digits(value: u64) -> usize {
    let log = value.checked_ilog10().unwrap_or(0);
    usize::try_from(log).unwrap_or(0) + 1
}

/// Digits, names of headers and fixed words only.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
