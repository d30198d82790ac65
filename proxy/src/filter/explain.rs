//! `x-weft-explain: 1`: the answer says what decided, to a caller whom `explain` of the policy names.
//!
//! Each proxy on the way adds a line of its own: the called app's proxy if its policy names the caller, the calling app's proxy if
//! its policy says `explain` at all, for its app may know how its own calls are made. Where `explain` is not written nothing is looked at.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use crate::cx::Cx;
use crate::filter::authz::AllowedBy;
use crate::http::headers::EXPLAIN;
use crate::policy::Active;
use crate::telemetry::record::{Direction, RequestRecord};

/// Somebody who may know has asked.
pub(crate) struct Explain(Arc<Active>);

impl std::fmt::Debug for Explain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Explain")
    }
}

impl Explain {
    /// `None` unless it is asked for by somebody who may know.
    pub(crate) fn asked(cx: &Cx, policy: &Arc<Active>, headers: &HeaderMap) -> Option<Box<Self>> {
        let may_know = &policy.policy.inbound.explain;
        if may_know.is_empty() || headers.get(&EXPLAIN).is_none_or(|value| value != "1") {
            return None;
        }
        let may = match (cx.facts.direction, &cx.facts.peer) {
            (Direction::Outbound, _) => true,
            (Direction::Inbound, Some(caller)) => may_know.iter().any(|one| one.matches(caller)),
            (Direction::Inbound, None) => false,
        };
        may.then(|| Box::new(Self(Arc::clone(policy))))
    }

    /// Adds this proxy's line to the answer: `outbound; policy=3; service=orders:80; attempts=2; passed`.
    pub(crate) fn tell(
        &self,
        record: &RequestRecord,
        allowed_by: AllowedBy,
        answer: &mut HeaderMap,
    ) {
        if let Ok(line) = HeaderValue::try_from(self.line(record, allowed_by)) {
            answer.append(EXPLAIN, line);
        }
    }

    fn line(&self, record: &RequestRecord, allowed_by: AllowedBy) -> String {
        let mut line = format!(
            "{}; policy={}",
            side(record.connection.direction),
            self.0.version
        );
        let mut say = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a string does not fail.
            let _infallible = write!(line, "; {name}={value}");
        };
        if let Some(destination) = &record.destination {
            let service = &destination.service;
            say(
                "service",
                &format_args!("{}:{}", service.host, service.port),
            );
            if let Some(endpoint) = destination.endpoint {
                say("endpoint", &endpoint);
            }
        }
        if let Some(route) = &record.route {
            say("route", &route.name);
        }
        if record.attempts > 0 {
            say("attempts", &record.attempts);
        }
        let decided = match (record.reject, allowed_by) {
            (Some(label), _) => {
                say("refused", &label);
                key_of(label)
            }
            (None, Some(rule)) => {
                say("rule", &format_args!("allow[{rule}]"));
                Some("allow")
            }
            (None, None) => record.route.is_some().then_some("routes"),
        };
        if let Some((layer, object)) = decided.and_then(|key| self.0.said_by(key)) {
            say("by", &format_args!("{layer} {object}"));
        }
        line
    }
}

fn side(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

/// The key of the policy that refuses for the reason `label`.
fn key_of(label: &str) -> Option<&'static str> {
    let keys = [
        ("authz_denied", "deny"),
        ("authz_", "allow"),
        ("jwt_", "jwt"),
        ("rate_limited", "rate-limit"),
        ("overloaded", "concurrency"),
        ("body_too_large", "limits"),
        ("fault_abort", "fault"),
        ("plaintext", "mtls"),
        ("egress_", "egress"),
        ("breaker_", "breaker"),
        ("timeout_", "timeout"),
        ("connect_timeout", "timeout"),
        ("retry_", "retry"),
        ("pool_", "pool"),
    ];
    let found = keys.iter().find(|(prefix, _)| label.starts_with(prefix));
    found.map(|(_, key)| *key)
}
