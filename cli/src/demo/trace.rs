//! What is known of one trace: the spans the proxies exported and how each call looked to the app that got it.

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use tokio::time::Instant;

use crate::app::Seen;

/// Which side of a proxy a span tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Inbound,
    Outbound,
    /// Of a request that was sent more than once, above its attempts.
    Whole,
}

/// One span, as far as the demo shows it. Identifiers are hexadecimal.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) side: Side,
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    pub(crate) name: String,
    /// Since 1970.
    pub(crate) start: Duration,
    pub(crate) end: Duration,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Span {
    pub(crate) fn took(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }

    /// Returns the first of `names` that the span has as an attribute.
    pub(crate) fn attribute(&self, names: &[&str]) -> Option<&str> {
        let found = names.iter().find_map(|name| self.attributes.get(*name));
        found.map(String::as_str)
    }
}

/// The spans and calls of one trace.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub(crate) id: String,
    pub(crate) spans: Vec<Span>,
    pub(crate) seen: Vec<Seen>,
    /// When the last of it came in.
    pub(crate) touched: Instant,
    pub(crate) shown: bool,
}

impl Trace {
    pub(crate) fn new(id: String, now: Instant) -> Self {
        Self {
            id,
            spans: Vec::new(),
            seen: Vec::new(),
            touched: now,
            shown: false,
        }
    }

    /// Returns the spans in the order a call passes them: each before its children, siblings by time.
    pub(crate) fn in_order(&self) -> Vec<&Span> {
        let known = |id: &str| self.spans.iter().any(|span| span.id == id);
        let is_root = |span: &&Span| span.parent.as_deref().is_none_or(|parent| !known(parent));
        let mut ordered: Vec<&Span> = Vec::new();
        let mut waiting: Vec<&Span> = self.spans.iter().filter(is_root).collect();
        latest_first(&mut waiting);
        while let Some(span) = waiting.pop() {
            // A span that comes twice, or is its own ancestor, is shown once.
            if ordered.iter().any(|shown| shown.id == span.id) {
                continue;
            }
            ordered.push(span);
            let is_child = |child: &&Span| child.parent.as_ref() == Some(&span.id);
            let mut children: Vec<&Span> = self.spans.iter().filter(is_child).collect();
            latest_first(&mut children);
            waiting.extend(children);
        }
        ordered
    }

    /// Returns how the call of an inbound `span` looked to the app behind it; the app saw the span's id as its parent.
    pub(crate) fn seen_in(&self, span: &Span) -> Option<&Seen> {
        let parent_of =
            |seen: &Seen| Some(seen.traceparent.as_deref()?.split('-').nth(2)? == span.id);
        self.seen.iter().find(|seen| parent_of(seen) == Some(true))
    }
}

/// Reads the spans of an export, each with the id of its trace.
pub(crate) fn exported(request: &ExportTraceServiceRequest) -> Vec<(String, Span)> {
    let mut spans = Vec::new();
    for resource_spans in &request.resource_spans {
        let service = service_name(resource_spans.resource.as_ref());
        let scopes = resource_spans.scope_spans.iter();
        let read = |span: &otlp::Span| (hex(&span.trace_id), read_span(&service, span));
        spans.extend(scopes.flat_map(|scope| &scope.spans).map(read));
    }
    spans
}

fn read_span(service: &str, span: &otlp::Span) -> Span {
    let side = match span.kind() {
        otlp::span::SpanKind::Client => Side::Outbound,
        otlp::span::SpanKind::Internal => Side::Whole,
        _ => Side::Inbound,
    };
    let attributes = span.attributes.iter();
    Span {
        service: service.to_owned(),
        side,
        id: hex(&span.span_id),
        parent: Some(hex(&span.parent_span_id)).filter(|id| !id.is_empty()),
        name: span.name.clone(),
        start: Duration::from_nanos(span.start_time_unix_nano),
        end: Duration::from_nanos(span.end_time_unix_nano),
        attributes: attributes.filter_map(attribute).collect(),
    }
}

fn service_name(resource: Option<&Resource>) -> String {
    let attributes = resource.map_or(&[][..], |resource| &resource.attributes);
    let named = attributes
        .iter()
        .filter_map(attribute)
        .find(|(key, _)| key == "service.name");
    named.map_or_else(|| "unknown".to_owned(), |(_, name)| name)
}

fn attribute(pair: &KeyValue) -> Option<(String, String)> {
    let AnyValue { value } = pair.value.as_ref()?;
    let text = match value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(yes) => yes.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        _ => return None,
    };
    Some((pair.key.clone(), text))
}

fn latest_first(spans: &mut [&Span]) {
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A span from `start` to `end`, in microseconds.
    pub(crate) fn span(place: (&str, Side), id: &str, parent: &str, time: (u64, u64)) -> Span {
        Span {
            service: place.0.to_owned(),
            side: place.1,
            id: id.to_owned(),
            parent: Some(parent.to_owned()).filter(|parent| !parent.is_empty()),
            name: "GET".to_owned(),
            start: Duration::from_micros(time.0),
            end: Duration::from_micros(time.1),
            attributes: BTreeMap::new(),
        }
    }

    pub(crate) fn trace(spans: Vec<Span>) -> Trace {
        let mut trace = Trace::new(
            "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
            Instant::now(),
        );
        trace.spans = spans;
        trace
    }

    fn order(spans: Vec<Span>) -> Vec<String> {
        trace(spans)
            .in_order()
            .iter()
            .map(|span| span.id.clone())
            .collect()
    }

    #[tokio::test]
    async fn spans_come_before_their_children_and_siblings_by_time() {
        let place = ("web", Side::Inbound);
        type Made<'a> = &'a [(&'a str, &'a str, u64)];
        let rows: &[(&str, Made<'_>, &[&str])] = &[
            (
                "a chain, exported backwards",
                &[("c", "b", 3), ("b", "a", 2), ("a", "", 1)],
                &["a", "b", "c"],
            ),
            (
                "two children",
                &[("z", "a", 2), ("y", "a", 3), ("a", "", 1)],
                &["a", "z", "y"],
            ),
            (
                "a root whose parent is elsewhere",
                &[("b", "a", 2), ("a", "visitor", 1)],
                &["a", "b"],
            ),
            (
                "a span that came twice",
                &[("a", "", 1), ("a", "", 1)],
                &["a"],
            ),
            ("its own parent", &[("a", "a", 1)], &[]),
        ];
        for (name, spans, want) in rows {
            let made = spans
                .iter()
                .map(|(id, parent, start)| span(place, id, parent, (*start, 9)));
            assert_eq!(order(made.collect()), *want, "{name}");
        }
    }

    #[tokio::test]
    async fn a_call_belongs_to_the_span_whose_id_the_app_saw() {
        let mut trace = trace(vec![span(
            ("web", Side::Inbound),
            "00f067aa0ba902b7",
            "",
            (0, 1),
        )]);
        trace.seen.push(Seen {
            app: "web".to_owned(),
            call: "GET /".to_owned(),
            protocol: "HTTP/1.1".to_owned(),
            client_cert: None,
            traceparent: Some(format!("00-{}-00f067aa0ba902b7-01", trace.id)),
        });
        assert!(trace.seen_in(&trace.spans[0]).is_some());
        let other = span(("web", Side::Inbound), "0000000000000001", "", (0, 1));
        assert!(trace.seen_in(&other).is_none());
    }
}
