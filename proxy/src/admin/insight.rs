//! What `weft top`, `tap`, `edges`, `trace` and `dashboard` ask: who calls whom, the last requests, and the spans of a trace.
//!
//! Asking for requests keeps them for a while from then on; see [`Recent::watch`].

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::Sources;
use crate::telemetry::access_log;
use crate::telemetry::entry::Entry;
use crate::telemetry::metrics::edges::bounds_ms;
use crate::telemetry::otlp::span::{self, Kind, Span};
use crate::telemetry::recent::Numbered;

/// `/edges`.
pub(super) fn edges(sources: &Sources) -> Value {
    let mut answer = own(sources);
    let families = sources.telemetry.metrics().families();
    answer.insert("bounds_ms".to_owned(), json!(bounds_ms()));
    answer.insert("edges".to_owned(), families.edges().into());
    answer.into()
}

/// `/requests?since=NUMBER`: what has ended since then, oldest first.
pub(super) fn requests(sources: &Sources, query: Option<&str>) -> Value {
    let recent = sources.telemetry.recent();
    recent.watch();
    let since = query.and_then(|query| query.strip_prefix("since="));
    let (entries, next) = recent.since(since.and_then(|text| text.parse().ok()).unwrap_or(0));
    let made = sources.telemetry.live().made();
    let shown = |one: &Numbered| {
        let mut fields: Map<String, Value> = access_log::fields(&one.entry, &made.mask)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        fields.insert("number".to_owned(), one.number.into());
        fields
    };
    let mut answer = own(sources);
    answer.insert("next".to_owned(), next.into());
    answer.insert("requests".to_owned(), entries.iter().map(shown).collect());
    answer.into()
}

/// `/trace/ID`: the spans of a trace that are among the last requests.
pub(super) fn trace(sources: &Sources, id: &str) -> Value {
    let made = sources.telemetry.live().made();
    let (entries, _next) = sources.telemetry.recent().since(0);
    let mut spans = Vec::new();
    for one in entries.iter().filter(|one| is_of(&one.entry, id)) {
        span::each(&one.entry, &made, |span| spans.push(shown(span)));
    }
    let mut answer = own(sources);
    answer.insert("spans".to_owned(), spans.into());
    answer.into()
}

fn is_of(entry: &Entry, id: &str) -> bool {
    format!("{:032x}", u128::from_be_bytes(entry.trace_id())) == id
}

/// Who answers.
fn own(sources: &Sources) -> Map<String, Value> {
    let config = &sources.config;
    let pairs = [
        ("workload", json!(config.workload)),
        ("namespace", json!(config.namespace)),
        ("pod", json!(config.pod_name)),
        ("identity", json!(config.spiffe_id.as_str())),
    ];
    let own = pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    own.collect()
}

fn shown(span: &Span<'_>) -> Value {
    let attributes: BTreeMap<&str, String> = span
        .attributes
        .0
        .iter()
        .map(|(name, value)| (*name, value.to_string()))
        .collect();
    let hex = |id: [u8; 8]| format!("{:016x}", u64::from_be_bytes(id));
    let events = span
        .events
        .iter()
        .map(|event| json!({ "name": event.name, "at": nanos(event.at) }));
    json!({
        "span_id": hex(span.trace.span_id),
        "parent_id": span.trace.parent_id.map(hex),
        "kind": match span.kind {
            Kind::Server => "server",
            Kind::Client => "client",
            Kind::Internal => "internal",
        },
        "name": span.name,
        "start": nanos(span.start),
        "end": nanos(span.end),
        "failed": span.error.is_some(),
        "attributes": attributes,
        "events": events.collect::<Vec<_>>(),
    })
}

/// Since 1970.
fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
